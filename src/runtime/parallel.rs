//! Work on several threads, watched from the one that waits for it.

use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The most threads: drivers gain little from more, and each holds a compiler's memory.
const MAX_THREADS: usize = 8;

/// The time between two looks of the waiting thread while nothing ends.
const TICK: Duration = Duration::from_millis(100);

/// The state of the work while it is under way.
pub(super) struct UnderWay {
    /// Items done.
    pub done: usize,
    /// The item begun first of those that are not done, and when that was.
    pub oldest: Option<(usize, Instant)>,
}

/// Does `work` on every item, each thread taking the first that nobody has, and gives the results in the items' order.
/// After a failure no more are begun: `None` is the result of those behind, and never of one in front of a failure.
/// `watch` is called on the calling thread whenever something begins or ends, and ten times a second; nor are more begun
/// after it breaks off.
pub(super) fn each<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
    mut watch: impl FnMut(&UnderWay) -> ControlFlow<()>,
) -> Vec<Option<Result<R, E>>> {
    let mut results: Vec<Option<Result<R, E>>> = items.iter().map(|_| None).collect();
    let mut begun: Vec<Option<Instant>> = vec![None; items.len()];
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS).min(items.len());
    let next = AtomicUsize::new(0);
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (tell, next, work) = (tell.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    // Nobody stops listening before every thread is done.
                    let _ = tell.send((index, None));
                    let result = work(item);
                    if result.is_err() {
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    let _ = tell.send((index, Some(result)));
                }
            });
        }
        drop(tell);
        loop {
            match told.recv_timeout(TICK) {
                Ok((index, None)) => begun[index] = Some(Instant::now()),
                Ok((index, result)) => results[index] = result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let open = begun.iter().zip(&results).enumerate().filter(|(_, (_, result))| result.is_none());
            let oldest = open.filter_map(|(index, (begun, _))| begun.map(|at| (index, at))).min_by_key(|&(_, at)| at);
            if watch(&UnderWay { done: results.iter().flatten().count(), oldest }).is_break() {
                next.store(items.len(), Ordering::Relaxed);
            }
        }
    });
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..50).collect();
        let mut most = 0;
        let results = each(
            &items,
            |&i| Ok::<u64, ()>(i * i),
            |now| {
                most = most.max(now.done);
                ControlFlow::Continue(())
            },
        );
        assert_eq!(results, items.iter().map(|&i| Some(Ok(i * i))).collect::<Vec<_>>());
        assert_eq!(most, 50);
        assert!(each(&[], |&i: &u64| Ok::<u64, ()>(i), |_| panic!("there is nothing to watch")).is_empty());
    }

    /// The second fails first in time: what is in front of it has a result all the same.
    #[test]
    fn the_first_failure_in_order_is_always_known() {
        let items = [0, 1, 2, 3];
        let fails = |&i: &i32| match i {
            1 => {
                std::thread::sleep(Duration::from_millis(20));
                Err(i)
            }
            2 => Err(i),
            _ => Ok(()),
        };
        for _ in 0..20 {
            let first = each(&items, fails, |_| ControlFlow::Continue(())).into_iter().flatten().find_map(Result::err);
            assert_eq!(first, Some(1));
        }
    }

    #[test]
    fn nothing_is_begun_after_the_watch_has_broken_off() {
        let items = [10; 100];
        let work = |&ms: &u64| {
            std::thread::sleep(Duration::from_millis(ms));
            Ok::<(), ()>(())
        };
        let results = each(&items, work, |now| match now.done {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        });
        let done = results.iter().flatten().count();
        assert!((1..50).contains(&done), "{done} of 100");
    }

    #[test]
    fn what_takes_long_is_seen() {
        let items = [1, 350, 2];
        let mut longest = (0, Duration::ZERO);
        let work = |&ms: &u64| {
            std::thread::sleep(Duration::from_millis(ms));
            Ok::<(), ()>(())
        };
        each(&items, work, |now| {
            if let Some((index, at)) = now.oldest.filter(|(_, at)| at.elapsed() > longest.1) {
                longest = (index, at.elapsed());
            }
            ControlFlow::Continue(())
        });
        assert!(longest.0 == 1 && longest.1 > Duration::from_millis(150), "{longest:?}");
    }
}
