//! The listener and its connections.
//!
//! hyper knows one timeout for the head of a request and for the rest between two of them; here
//! a client that is silent may keep its connection for long, one that has begun a request may
//! not. So bytes and requests are counted beside hyper, and a connection that rests, or hangs, is
//! retired or dropped from outside.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;
use http::header;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto::Builder;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::s3::server::S3Service;

/// Connections at a time; more wait in the system's backlog.
pub const CONNECTIONS_MAX: usize = 4096;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// After a failed accept, for instance without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// From the first byte of a request's head to its last.
    pub(crate) head: Duration,
    /// Without any request.
    pub(crate) idle: Duration,
    /// While the client takes nothing of a response.
    pub(crate) blocked: Duration,
    /// How often one looks.
    pub(crate) look: Duration,
}

impl Patience {
    pub(crate) const USUAL: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        blocked: Duration::from_secs(120),
        look: Duration::from_secs(5),
    };
}

/// Serves until `shutdown`; then no connection is taken, requests in flight have `grace` to end,
/// which is asked for only then, and what is left is dropped.
pub async fn serve(
    listener: TcpListener,
    service: S3Service,
    shutdown: CancellationToken,
    grace: impl FnOnce() -> Duration,
) {
    serve_with(listener, service, shutdown, grace, Patience::USUAL).await;
}

pub(crate) async fn serve_with(
    listener: TcpListener,
    service: S3Service,
    shutdown: CancellationToken,
    grace: impl FnOnce() -> Duration,
    patience: Patience,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    let end = CancellationToken::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&room).acquire_owned() => permit,
        };
        let permit = permit.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(err) => {
                tracing::warn!(%err, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = Connection {
            service: service.clone(),
            shutdown: shutdown.clone(),
            end: end.clone(),
            patience,
        };
        tasks.spawn(async move {
            connection.run(stream).await;
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(grace(), tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "requests in flight are cut off");
        end.cancel();
        tasks.wait().await;
    }
}

struct Connection {
    service: S3Service,
    shutdown: CancellationToken,
    /// No more patience at all.
    end: CancellationToken,
    patience: Patience,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Small answers must not wait for a delayed acknowledgement.
        if let Err(err) = stream.set_nodelay(true) {
            tracing::debug!(%err, "TCP_NODELAY cannot be set");
        }
        let pulse = Arc::new(Pulse::new());
        let io = TokioIo::new(Watched { stream, pulse: Arc::clone(&pulse) });
        let service = self.service;
        let beat = Arc::clone(&pulse);
        let service = hyper::service::service_fn(move |request| {
            let busy = beat.begin();
            let service = service.clone();
            async move {
                let is_asked = asks_to_continue(&request);
                let is_empty = http_body::Body::is_end_stream(request.body());
                let mut response = service.handle(request).await;
                if is_asked && (is_empty || !response.status().is_success()) {
                    close_after(&mut response);
                }
                Ok::<_, std::convert::Infallible>(
                    response.map(|body| Counted { body, _busy: busy }),
                )
            }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.patience.idle)
            .keep_alive(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .keep_alive_interval(self.patience.idle)
            .keep_alive_timeout(self.patience.head);
        let connection = builder.serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        let mut look = tokio::time::interval(self.patience.look);
        let mut retired = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(err) = result {
                        tracing::debug!(err = %err, "a connection ended with an error");
                    }
                    return;
                }
                () = self.end.cancelled() => return,
                () = self.shutdown.cancelled(), if !retired => {
                    retired = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = look.tick() => match pulse.verdict(&self.patience) {
                    Verdict::Keep => {}
                    Verdict::Drop => return,
                    Verdict::Retire if retired => return,
                    Verdict::Retire => {
                        retired = true;
                        connection.as_mut().graceful_shutdown();
                    }
                },
            }
        }
    }
}

fn asks_to_continue<B>(request: &http::Request<B>) -> bool {
    request.version() == http::Version::HTTP_11 && request.headers().contains_key(header::EXPECT)
}

/// An answer that stands in the place of "100 Continue" is the connection's last. botocore takes
/// whatever follows it on the same connection for something else, and waits until it gives up.
fn close_after<B>(response: &mut http::Response<B>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Retire,
    Drop,
}

/// What a connection is doing. Moments are milliseconds since it began, plus one; 0 is never.
#[derive(Debug)]
struct Pulse {
    began: Instant,
    in_flight: AtomicUsize,
    /// Since when there has been no request in flight.
    idle_since: AtomicU64,
    /// When the first byte of a head came that is not whole yet.
    head_since: AtomicU64,
    /// Since when the client takes no bytes.
    blocked_since: AtomicU64,
    /// HTTP/2 frames are no heads of requests.
    is_http2: AtomicBool,
    has_read: AtomicBool,
}

impl Pulse {
    fn new() -> Pulse {
        Pulse {
            began: Instant::now(),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
            has_read: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        1 + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// A request's head is whole.
    fn begin(self: &Arc<Self>) -> Busy {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.head_since.store(0, Ordering::Release);
        Busy(Arc::clone(self))
    }

    fn read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if !self.has_read.swap(true, Ordering::AcqRel) {
            self.is_http2.store(bytes.starts_with(b"PRI"), Ordering::Release);
        }
        if self.in_flight.load(Ordering::Acquire) == 0 {
            begin(&self.head_since, self.now());
        }
    }

    fn wrote(&self, is_pending: bool) {
        if is_pending {
            begin(&self.blocked_since, self.now());
        } else {
            self.blocked_since.store(0, Ordering::Release);
        }
    }

    fn verdict(&self, patience: &Patience) -> Verdict {
        let now = self.now();
        let lasted = |since: &AtomicU64, most: Duration| {
            let since = since.load(Ordering::Acquire);
            since != 0 && u128::from(now.saturating_sub(since)) >= most.as_millis()
        };
        if lasted(&self.blocked_since, patience.blocked) {
            return Verdict::Drop;
        }
        if self.in_flight.load(Ordering::Acquire) > 0 {
            return Verdict::Keep;
        }
        if !self.is_http2.load(Ordering::Acquire) && lasted(&self.head_since, patience.head) {
            return Verdict::Drop;
        }
        if lasted(&self.idle_since, patience.idle) { Verdict::Retire } else { Verdict::Keep }
    }
}

/// Notes a moment, unless an earlier one is noted.
fn begin(since: &AtomicU64, now: u64) {
    let earlier = since.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    // One that is noted already is the one to keep.
    let _ = earlier;
}

/// One request in flight, from its head to the end of its response.
struct Busy(Arc<Pulse>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Release);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A response's body that ends its request when it goes.
struct Counted<B> {
    body: B,
    _busy: Busy,
}

impl<B: http_body::Body + Unpin> http_body::Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A stream that reports what passes.
struct Watched {
    stream: TcpStream,
    pulse: Arc<Pulse>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if poll.is_ready() {
            self.pulse.read(&buf.filled()[before..]);
        }
        poll
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.pulse.wrote(poll.is_pending());
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.pulse.wrote(poll.is_pending());
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
