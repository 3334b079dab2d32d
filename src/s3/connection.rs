//! The listener and its connections.
//!
//! hyper knows one timeout for the head of a request and for the rest between two of them; here
//! a client that is silent may keep its connection for long, one that has begun a request may
//! not. So bytes and requests are counted beside hyper, and a connection that rests, or hangs, is
//! retired or dropped from outside.
//!
//! # What one connection may hold
//!
//! Over HTTP/1 [`BUFFER_MAX`] of what it sent and as much of what it is sent, besides the piece of a
//! body that is on its way (the budget of bodies counts that); over HTTP/2 [`WINDOW`] of what
//! it sent, for all its streams together. An idle connection holds 8 KiB or less.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
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

use crate::engine::Cause;
use crate::s3::credit::Credit;
use crate::s3::crowd::Crowd;
use crate::s3::crowd::Place;
use crate::s3::door::Peer;
use crate::s3::rate::Client;
use crate::s3::reply::Reply;
use crate::s3::server::S3Service;

/// Connections at a time; more wait in the system's backlog. Half as many as the process may have
/// open files, where that is less: the rest is for the objects that they ask for.
pub const CONNECTIONS_MAX: usize = 4096;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Bytes that HTTP/1 reads ahead, and that wait to be written; a head must fit in it.
const BUFFER_MAX: usize = 64 << 10;
/// Bytes that an HTTP/2 client may send before we have taken them.
const WINDOW: u32 = 256 << 10;
/// How long a client may take for one piece of a body while others wait for memory.
const SCARCE_MAX: Duration = Duration::from_secs(10);
/// After a failed accept, for instance without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// From the first byte of a request's head to its last.
    pub(crate) head: Duration,
    /// Without any request; where connections are scarce `head` is enough.
    pub(crate) idle: Duration,
    /// While the client takes nothing of a response; see [`Credit`] for one that takes little.
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
    let most = connections_max();
    let room = Arc::new(Semaphore::new(most));
    let crowd = Crowd::new(most);
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
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(err) => {
                tracing::warn!(%err, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let is_proxy = service.door().is_proxy(peer);
        let Some(place) = crowd.enter(Client::of(peer), is_proxy) else {
            // Best effort: the client may not have sent a word yet.
            let _ = stream.try_write(&service.turn_away());
            continue;
        };
        let connection = Connection {
            service: service.clone(),
            peer,
            place,
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

/// Connections that the process has descriptors for.
fn connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
    CONNECTIONS_MAX.min(half).max(1)
}

struct Connection {
    service: S3Service,
    peer: IpAddr,
    place: Place,
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
        let pulse = Arc::new(Pulse::new(self.patience.blocked));
        let io = TokioIo::new(Watched { stream, pulse: Arc::clone(&pulse) });
        let (service, peer, blocked) = (self.service.clone(), self.peer, self.patience.blocked);
        let beat = Arc::clone(&pulse);
        let service = hyper::service::service_fn(move |mut request| {
            let busy = beat.begin();
            let service = service.clone();
            request.extensions_mut().insert(Peer(peer));
            async move {
                let is_asked = asks_to_continue(&request);
                let is_empty = http_body::Body::is_end_stream(request.body());
                let mut response = service.handle(request, blocked).await;
                busy.0.watch(response.body().watch());
                response.body().keep(busy);
                if is_asked && (is_empty || !response.status().is_success()) {
                    close_after(&mut response);
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let builder = protocols(&self.patience);
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
                _ = look.tick() => match self.look(&pulse) {
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

impl Connection {
    fn look(&self, pulse: &Pulse) -> Verdict {
        let refusals = &self.service.door().refusals;
        let is_scarce = self.service.door().is_memory_scarce();
        if pulse.is_stuck() {
            return Verdict::Drop;
        }
        let cut = pulse.cut_slow(if is_scarce { SCARCE_MAX } else { Duration::MAX });
        (0..cut).for_each(|_| refusals.count(Cause::Slow));
        if cut > 0 && !pulse.is_http2.load(Ordering::Acquire) {
            // Its only response will not be whole.
            return Verdict::Drop;
        }
        let mut patience = self.patience;
        if self.place.is_crowded() {
            patience.idle = patience.idle.min(patience.head);
        }
        pulse.verdict(&patience)
    }
}

/// HTTP/1 and HTTP/2 within their limits.
fn protocols(patience: &Patience) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.idle)
        .max_buf_size(BUFFER_MAX)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_send_buf_size(BUFFER_MAX)
        .keep_alive_interval(patience.idle)
        .keep_alive_timeout(patience.head);
    builder
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
    /// How long the client may take for the bytes that it is sent.
    credit: Mutex<Credit>,
    /// Responses that may be on their way.
    replies: Mutex<Vec<Weak<Reply>>>,
}

impl Pulse {
    fn new(blocked: Duration) -> Pulse {
        Pulse {
            began: Instant::now(),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
            has_read: AtomicBool::new(false),
            credit: Mutex::new(Credit::new(blocked, blocked)),
            replies: Mutex::default(),
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

    fn wrote(&self, poll: &Poll<io::Result<usize>>) {
        let Poll::Ready(result) = poll else {
            return begin(&self.blocked_since, self.now());
        };
        let since = self.blocked_since.swap(0, Ordering::AcqRel);
        let mut credit = lock(&self.credit);
        if since != 0 {
            credit.spend(Duration::from_millis(self.now().saturating_sub(since)));
        }
        credit.earn(*result.as_ref().unwrap_or(&0));
    }

    fn watch(&self, reply: Weak<Reply>) {
        let mut replies = lock(&self.replies);
        replies.retain(|reply| reply.strong_count() > 0);
        replies.push(reply);
    }

    /// Takes responses back from a client that does not take them; how many.
    fn cut_slow(&self, most: Duration) -> usize {
        self.replies().iter().filter(|reply| reply.cut_if_slow(most)).count()
    }

    /// Whether a response that was taken back is there still: its bytes wait in an HTTP/2 stream
    /// that the client does not open, and there is no other way to be rid of them.
    fn is_stuck(&self) -> bool {
        self.replies().iter().any(|reply| reply.was_cut())
    }

    fn replies(&self) -> Vec<Arc<Reply>> {
        lock(&self.replies).iter().filter_map(Weak::upgrade).collect()
    }

    fn verdict(&self, patience: &Patience) -> Verdict {
        let now = self.now();
        let lasted = |since: &AtomicU64, most: Duration| {
            let since = since.load(Ordering::Acquire);
            since != 0 && u128::from(now.saturating_sub(since)) >= most.as_millis()
        };
        if lasted(&self.blocked_since, lock(&self.credit).left()) {
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

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a moment, unless an earlier one is noted.
fn begin(since: &AtomicU64, now: u64) {
    let earlier = since.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    // One that is noted already is the one to keep.
    let _ = earlier;
}

/// One request in flight, from its head to the last byte of its response.
pub(crate) struct Busy(Arc<Pulse>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Release);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
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
        self.pulse.wrote(&poll);
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.pulse.wrote(&poll);
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
