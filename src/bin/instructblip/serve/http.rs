//! Connections: few enough, none that stands still for long, and an end that lets answers be finished.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

/// Connections at once; more wait to be taken.
const MOST_CONNECTIONS: usize = 1024;

/// Time for the head of a request, waiting for the next one on a connection included.
const HEAD_TIME: Duration = Duration::from_secs(20);

/// Time in which a client must take some of what is sent. Systems tell of room only once much of a buffer is free.
const WRITE_TIME: Duration = Duration::from_secs(120);

/// Bytes of a request's head.
const MOST_HEAD: usize = 64 * 1024;

/// Time until the next try where the system gives no connection: it has too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Time to tell clients that their answers are cancelled.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Answers requests until `stop`, then lets those that are under way end, as long as `drain`. True if all did; otherwise the
/// rest is told by `cancel` to end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
    drain: Duration,
    cancel: impl FnOnce(),
) -> bool {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MOST_HEAD);
    // Whether that was told already.
    let mut failing = false;
    tokio::pin!(stop);
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("no connection can be taken now: {error}");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        failing = false;
        // Pieces of an answer are small, and none should wait for the next.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME));
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
        tokio::spawn(async move {
            // What a client does wrong here ends its connection, and is nobody else's concern.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let all = graceful.shutdown();
    tokio::pin!(all);
    let ended = tokio::time::timeout(drain, &mut all).await.is_ok();
    if !ended {
        cancel();
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
    }
    ended
}
