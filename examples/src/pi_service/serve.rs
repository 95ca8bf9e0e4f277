//! Connections: accepted, answered, and ended when the server ends.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use super::PiService;

/// How long a client may take over the head of a request, and an idle connection stays open.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests in flight may take to finish once the server is to stop.
const GRACE: Duration = Duration::from_secs(5);
/// A pause when the process is out of file descriptors: accepting at once again would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `listener` until `stop` completes; then lets requests in flight finish, for five seconds at most.
///
/// It needs a tokio runtime with I/O and timers.
pub async fn serve(listener: TcpListener, service: PiService, stop: impl Future<Output = ()>) {
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let places = Arc::clone(&service.shared.connections);
        let accept = async {
            // The semaphore lives as long as the service, and nobody closes it.
            let place = places.acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _client)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // The address that the client reached: the listener's may be a wildcard. It fails when the client is gone.
        let Ok(server) = stream.local_addr() else { continue };
        // Small answers leave at once; should that not be possible, they leave a little later.
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        let answer = service_fn(move |request| {
            let service = service.clone();
            async move { Ok::<_, Infallible>(service.respond(&request, server).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off or sends nonsense ends its own connection and nothing else.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    // What takes longer is cut off when the runtime ends.
    let _ = tokio::time::timeout(GRACE, connections.shutdown()).await;
}
