//! A model of the hub, fetched by a process of its own: it can be ended at any moment, and goes on the next time where
//! it was. It tells what it does in JSON, a line each, and waits after its plan until somebody agrees.

use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};

use instructblip::hub::{Event, Hub};
use serde::{Deserialize, Serialize};

use super::words::words;

/// The argument that makes the program fetch a model, in front of its name.
pub const ARGUMENT: &str = "--pull";

/// The line that lets a pull go on after its plan.
const AGREED: &str = "go on";

/// News of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// Another process fetches the same model.
    Waiting,
    /// The plan, to which somebody has to agree unless everything is there.
    Plan {
        /// The licence that the repository states.
        licence: Option<String>,
        /// The model that an adapter is for.
        base: Option<String>,
        /// Number of files.
        files: usize,
        /// Bytes of all files.
        bytes: u64,
        /// Bytes of them that are there.
        present_bytes: u64,
        /// The folder that they come into.
        folder: String,
    },
    /// Bytes that are there, of all.
    Bytes(u64, u64),
    /// A connection failed and is tried again: what happened.
    Retry(String),
    /// The model is there.
    Done,
    /// It cannot be had, and why.
    Failed(String),
}

/// Fetches a model and tells its news on standard output, in the process that is for it.
pub fn serve(repo: &str) {
    let tell = |news: &News| {
        let line = serde_json::to_string(news).unwrap_or_default();
        let mut out = std::io::stdout().lock();
        // Whoever is gone wants nothing any more.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            std::process::exit(1);
        }
    };
    let mut hear = |event: Event<'_>| {
        let mut goes_on = true;
        match event {
            Event::Waiting => tell(&News::Waiting),
            Event::Plan(plan) => {
                tell(&News::Plan {
                    licence: plan.licence.clone(),
                    base: plan.base.clone(),
                    files: plan.files,
                    bytes: plan.bytes,
                    present_bytes: plan.present_bytes,
                    folder: plan.folder.display().to_string(),
                });
                goes_on = plan.present_bytes == plan.bytes || has_agreed();
            }
            Event::Bytes { done, total } => tell(&News::Bytes(done, total)),
            Event::Retry { file, problem, .. } => tell(&News::Retry(format!("{file}: {problem}; trying again"))),
            _ => {}
        }
        if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match Hub::from_env().and_then(|hub| hub.pull(repo, None, &mut hear)) {
        Ok(_) => tell(&News::Done),
        Err(error) => tell(&News::Failed(words(&error))),
    }
}

/// Waits for the line that agrees.
fn has_agreed() -> bool {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).is_ok() && line.trim() == AGREED
}

/// A pull in a process of its own. Dropping it ends the process.
#[derive(Debug)]
pub struct Pull {
    /// The repository.
    pub repo: String,
    child: Child,
}

impl Pull {
    /// Begins to fetch a model; `hear` is told the news on a thread of its own.
    ///
    /// # Errors
    /// A description of why there is no process, for people.
    pub fn begin(repo: &str, hear: impl Fn(News) + Send + 'static) -> Result<Pull, String> {
        let begin = || -> std::io::Result<Child> {
            let program = std::env::current_exe()?;
            let (input, output) = (Stdio::piped(), Stdio::piped());
            Command::new(program).args([ARGUMENT, repo]).stdin(input).stdout(output).stderr(Stdio::null()).spawn()
        };
        let mut child = begin().map_err(|e| format!("fetching {repo} cannot begin ({e})"))?;
        let news = child.stdout.take();
        let name = repo.to_string();
        let listen = move || {
            let mut has_ended = false;
            for line in news.into_iter().flat_map(|news| BufReader::new(news).lines().map_while(Result::ok)) {
                let Ok(news) = serde_json::from_str(&line) else { continue };
                has_ended = matches!(news, News::Done | News::Failed(_));
                hear(news);
            }
            if !has_ended {
                hear(News::Failed(format!("fetching {name} was ended; it goes on where it was")));
            }
        };
        std::thread::spawn(listen);
        Ok(Pull { repo: repo.into(), child })
    }

    /// Agrees to the plan.
    pub fn agree(&mut self) {
        if let Some(input) = &mut self.child.stdin {
            // A process that is gone is told of by its listener.
            let _ = writeln!(input, "{AGREED}").and_then(|()| input.flush());
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_lines() {
        let plan = News::Plan {
            licence: Some("mit".into()),
            base: None,
            files: 3,
            bytes: 10,
            present_bytes: 0,
            folder: "/cache".into(),
        };
        for news in [plan, News::Bytes(1, 2), News::Done, News::Waiting, News::Failed("no".into())] {
            let line = serde_json::to_string(&news).expect("JSON");
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<News>(&line).expect("the same"), news);
        }
    }
}
