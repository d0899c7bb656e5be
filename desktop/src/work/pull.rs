//! A model of the hub, fetched on a thread: it waits after its plan until somebody agrees, can be ended, and goes on
//! the next time where it was.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use instructblip::Error;
use instructblip::hub::{Event, Hub, Plan};

use super::words::words;

/// News of a pull.
#[derive(Clone, Debug)]
pub enum News {
    /// Another pull, of this program or another one, fetches the same model.
    Waiting,
    /// The plan, to which somebody has to agree unless everything is there.
    Plan(Box<Plan>),
    /// Bytes that are there, of all.
    Bytes(u64, u64),
    /// A connection failed and is tried again: what happened.
    Retry(String),
    /// The model is there.
    Done,
    /// It cannot be had, and why.
    Failed(String),
}

/// A pull that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Pull {
    /// The repository.
    pub repo: String,
    agree: Sender<()>,
    is_unwanted: Arc<AtomicBool>,
}

impl Pull {
    /// Begins to fetch a model; `hear` is told the news on a thread of its own.
    pub fn begin(hub: Result<Hub, Error>, repo: &str, hear: impl Fn(News) + Send + 'static) -> Pull {
        let (agree, agreed) = channel();
        let is_unwanted = Arc::new(AtomicBool::new(false));
        let (repo, name, unwanted) = (repo.to_string(), repo.to_string(), is_unwanted.clone());
        std::thread::spawn(move || {
            // Whoever let go of the pull hears no more of it: there may be another one.
            let hear = |news| {
                if !unwanted.load(Ordering::Relaxed) {
                    hear(news);
                }
            };
            let mut report = |event: Event<'_>| {
                let mut goes_on = true;
                match event {
                    Event::Waiting => hear(News::Waiting),
                    Event::Plan(plan) => {
                        hear(News::Plan(Box::new(plan.clone())));
                        // Whoever let go of the pull does not agree.
                        goes_on = plan.present_bytes == plan.bytes || agreed.recv().is_ok();
                    }
                    Event::Bytes { done, total } => hear(News::Bytes(done, total)),
                    Event::Retry { file, problem, .. } => {
                        hear(News::Retry(format!("{file}: {problem}; trying again")));
                    }
                    _ => {}
                }
                match goes_on && !unwanted.load(Ordering::Relaxed) {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            };
            match hub.and_then(|hub| hub.pull(&name, None, &mut report)) {
                Ok(_) => hear(News::Done),
                // Who ended it knows.
                Err(Error::Cancelled) => {}
                Err(error) => hear(News::Failed(words(&error))),
            }
        });
        Pull { repo, agree, is_unwanted }
    }

    /// Agrees to the plan.
    pub fn agree(&self) {
        // A pull that is over has told why.
        let _ = self.agree.send(());
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pull_that_was_let_go_of_tells_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let hub = Hub { endpoint, pause: Duration::ZERO, ..Hub::new(folder.path()) };
        let (tell, told) = channel();
        let pull = Pull::begin(Ok(hub), "someone/model", move |news| drop(tell.send(news)));
        let (asked, _) = listener.accept().expect("a request");
        drop(pull);
        drop((asked, listener));
        let news = told.recv_timeout(Duration::from_secs(60));
        assert!(
            news.is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected),
            "it told something, or goes on"
        );
    }
}
