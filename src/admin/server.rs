//! Listening: the socket, and the TCP listener for health.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Ready;
use super::desk::Desk;
use super::router::Router;
use super::socket::Socket;

/// Connections at once, each listener; one more waits in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 << 10;
/// A TCP connection is closed after this, whatever it does. One on the socket is not: it may wait
/// for work that takes long.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// How long answers in flight may take once the listener stops.
const LINGER: Duration = Duration::from_secs(1);
/// A pause after the system gave no connection: it has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves health until `stop`.
pub async fn serve(listener: TcpListener, ready: Ready, stop: CancellationToken) {
    let router = Router { ready, desk: None };
    listen(listener, router, Some(CONNECTION_MAX), stop).await;
}

/// Serves the operator's verbs and health until `stop`.
pub async fn serve_socket(
    socket: Arc<Socket>,
    ready: Ready,
    desk: Arc<Desk>,
    stop: CancellationToken,
) {
    let router = Router { ready, desk: Some(desk) };
    listen(socket, router, None, stop).await;
}

/// Where connections come from.
trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for Arc<Socket> {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

async fn listen(
    listener: impl Listener,
    router: Router,
    most: Option<Duration>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let place = place.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.next() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(connection(stream, router, most, stop, place));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    connections.close();
    connections.wait().await;
}

async fn connection<S>(
    stream: S,
    router: Router,
    most: Option<Duration>,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| router.clone().answer(request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = async {
        match most {
            Some(most) => tokio::time::sleep(most).await,
            None => std::future::pending().await,
        }
    };
    // An operator's connection that fails is its own affair.
    tokio::select! {
        _ = connection.as_mut() => (),
        () = ended => (),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LINGER, connection).await;
        }
    }
}
