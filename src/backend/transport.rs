//! HTTP below OpenDAL: every request that is really sent passes here, below all retries.
//!
//! # What is counted
//!
//! - A **call** when it is known that the request went out: as its body is first asked for by the
//!   connection, or as its answer comes. A request without a body that is given up before that
//!   counts too, for it cannot be told whether it went; one whose connection was never made does
//!   not. A redirection is followed here and not in the client below, so each hop is a call.
//! - **Ingress** as the connection takes the bytes of a request's body, **egress** as those of an
//!   answer's body are read, so a transfer that breaks off counts for what moved. What a connection
//!   had taken and not sent yet (see below) is counted, what it had received and nobody read is not.
//!
//! For whom it is counted is asked when a request begins ([`purpose::current`]): the client's own
//! tasks poll the bodies later. Limits are not enforced here; whoever calls was admitted before.
//!
//! # Timeouts on progress
//!
//! A request fails when nothing moved for too long, never because it takes long: `connect` until
//! the connection stands, `stall` from one chunk of a body to the next, `first_byte` from the end
//! of the request to the head of the answer. A request without a body does not show when its
//! connection stands, so its answer has the time of both. Waiting for bandwidth is no silence.
//!
//! Bytes go out in chunks of [`CHUNK_MAX`], and that a chunk is taken shows that those before it
//! move. It shows it late: the connection and the kernel's socket buffer hold up to [`HIDDEN_MAX`]
//! of a body. So a peer that stopped is noticed when these are full, and after the last chunk the
//! answer is given the time that they take on the slowest line that is counted with. The kernel
//! lets go of about a third of its buffer at a time, so on such a line a `stall` below half a
//! minute takes slowness for silence.
//!
//! # What a transport owes OpenDAL
//!
//! Redirections are followed (requests with a body are not sent twice: their answer goes to the
//! service as it is), credentials do not go along to another origin, the announced length of a body
//! is held against what came unless it is encoded, failures on the way are temporary, and no error
//! holds a query, which may have a signature in it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::Once;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::header;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use opendal::Buffer;
use opendal::Error;
use opendal::ErrorKind;
use opendal::HttpBody;
use opendal::HttpTransport;
use opendal::raw::Operation;
use opendal::raw::ServiceOperation;
use opendal::raw::parse_content_encoding;
use opendal::raw::parse_content_length;
use reqwest::Url;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::Sleep;

use super::Bandwidth;
use super::Meter;
use super::Profile;
use super::Timeouts;
use super::error::{Failure, Fault};
use super::progress;
use super::progress::Progress;
use super::purpose;
use super::throttle::CHUNK_MAX;
use super::throttle::Direction;
use super::throttle::Throttle;
use super::throttle::Ticket;
use super::throttle::time_of;
use crate::base::Clock;
use crate::model::Class;
use crate::model::DayBegins;
use crate::model::Purpose;

/// Idle connections that are kept to one host.
const IDLE_CONNECTIONS_MAX: usize = 32;
const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(60);
/// As many as browsers follow.
const REDIRECTS_MAX: usize = 10;
/// Bytes of a body that were taken and may not have left the machine: 0.4 MiB in hyper's buffer
/// and Linux's usual largest send buffer (`tcp_wmem`, 4 MiB).
const HIDDEN_MAX: u64 = 4_608 << 10;
/// What does not go along to another origin.
const CREDENTIALS: [&str; 5] =
    ["authorization", "proxy-authorization", "cookie", "cookie2", "www-authenticate"];

/// The way to one backend.
pub(crate) struct Transport {
    client: reqwest::Client,
    timeouts: Timeouts,
    profile: Profile,
    meter: Arc<Meter>,
    throttle: Arc<Throttle>,
}

/// HTTP clients by their connect timeout: a client has only one, and all backends that agree on
/// it share connections.
static CLIENTS: LazyLock<Mutex<Vec<(Duration, reqwest::Client)>>> = LazyLock::new(Mutex::default);

fn client(connect: Duration) -> Result<reqwest::Client, Failure> {
    static CRYPTO: Once = Once::new();
    // An error says that somebody installed one before, which is as good.
    CRYPTO.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, client)) = clients.iter().find(|(timeout, _)| *timeout == connect) {
        return Ok(client.clone());
    }
    let builder = reqwest::Client::builder()
        .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_CONNECTION_TIME)
        .tcp_nodelay(true);
    // By default a peer that takes nothing for half a minute would lose its connection.
    #[cfg(target_os = "linux")]
    let builder = builder.tcp_user_timeout(None);
    let client = builder.build().map_err(|err| Failure::because(Fault::Refused, err))?;
    clients.push((connect, client.clone()));
    Ok(client)
}

impl Transport {
    pub(crate) fn new(
        timeouts: Timeouts,
        profile: Profile,
        meter: Arc<Meter>,
        throttle: Arc<Throttle>,
    ) -> Result<Transport, Failure> {
        let client = client(timeouts.connect)?;
        Ok(Transport { client, timeouts, profile, meter, throttle })
    }

    /// For requests that belong to no backend: what OpenDAL sends outside of an operator, to load
    /// credentials. They are bounded like all others, and counted where nobody looks.
    pub(crate) fn of_nobody(timeouts: Timeouts) -> Result<Transport, Failure> {
        let meter = Meter::new(Clock::system(), DayBegins::default());
        Transport::new(timeouts, Profile::default(), meter, Throttle::open())
    }

    /// The class of a request, by the most exact of its names.
    fn class(&self, extensions: &http::Extensions, method: &Method) -> Class {
        let service = extensions.get::<ServiceOperation>().map(|operation| operation.0);
        let operation = || extensions.get::<Operation>().map(|operation| operation.into_static());
        self.profile.class(service.or_else(operation).unwrap_or(method.as_str()))
    }

    /// Sends one request and waits for the head of its answer.
    async fn send(
        &self,
        hop: &Hop,
        body: Buffer,
        caller: &Caller,
    ) -> opendal::Result<reqwest::Response> {
        let count = Arc::new(Count {
            meter: Arc::clone(&self.meter),
            purpose: caller.purpose,
            class: caller.class,
            counted: AtomicBool::new(false),
        });
        let pulse = Arc::new(Pulse::new());
        let mut request = self.client.request(hop.method.clone(), hop.url.clone());
        request = request.headers(hop.headers.clone()).version(hop.version);
        let mut given_up = GivenUp(body.is_empty().then_some(&*count));
        if !body.is_empty() {
            request = request.body(reqwest::Body::wrap(Upload {
                hidden: HIDDEN_MAX.min(body.len() as u64),
                body,
                piece: Bytes::new(),
                turn: Turn::new(&self.throttle, Direction::Up, caller),
                count: Arc::clone(&count),
                pulse: Arc::clone(&pulse),
            }));
        }
        let sent = tokio::select! {
            biased;
            sent = request.send() => sent,
            why = pulse.silence(&self.timeouts) => return Err(hop.failed(why).set_temporary()),
        };
        if sent.as_ref().is_err_and(reqwest::Error::is_connect) {
            given_up.0 = None;
        }
        match sent {
            Ok(answer) => {
                count.sent();
                Ok(answer)
            }
            Err(err) => Err(hop
                .failed("send http request")
                .with_temporary(!err.is_builder())
                .set_source(err.without_url())),
        }
    }

    /// An answer whose body is read with the eyes of OpenDAL.
    fn answer(
        &self,
        hop: Hop,
        answer: reqwest::Response,
        caller: &Caller,
    ) -> opendal::Result<http::Response<HttpBody>> {
        let (mut parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        let is_encoded = parse_content_encoding(&parts.headers)?.is_some();
        let length = match hop.method == Method::HEAD || is_encoded {
            true => None,
            false => parse_content_length(&parts.headers)?,
        };
        parts.extensions = http::Extensions::new();
        if let Ok(uri) = hop.address().parse::<http::Uri>() {
            parts.extensions.insert(uri);
        }
        let download = Download {
            body,
            rest: Bytes::new(),
            turn: Turn::new(&self.throttle, Direction::Down, caller),
            meter: Arc::clone(&self.meter),
            stall: self.timeouts.stall,
            silence: None,
            hop,
        };
        Ok(http::Response::from_parts(parts, HttpBody::new(download, length)))
    }
}

impl HttpTransport for Transport {
    async fn fetch(
        &self,
        request: http::Request<Buffer>,
    ) -> opendal::Result<http::Response<HttpBody>> {
        let (parts, body) = request.into_parts();
        let caller = Caller {
            purpose: purpose::current(),
            progress: progress::current(),
            class: self.class(&parts.extensions, &parts.method),
        };
        let mut hop = Hop::first(parts)?;
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(&hop, body.clone(), &caller).await?;
            match hop.onward(&answer).filter(|_| body.is_empty()) {
                Some(next) => hop = next,
                None => return self.answer(hop, answer, &caller),
            }
        }
        Err(hop.failed("too many redirections"))
    }
}

/// For whom a request is, asked when it begins.
struct Caller {
    purpose: Purpose,
    progress: Option<Arc<Progress>>,
    class: Class,
}

/// A request as it is sent to one address.
struct Hop {
    method: Method,
    url: Url,
    headers: HeaderMap,
    version: http::Version,
}

impl Hop {
    fn first(parts: http::request::Parts) -> opendal::Result<Hop> {
        let url = Url::parse(&parts.uri.to_string()).map_err(|err| {
            Error::new(ErrorKind::Unexpected, "the address of a request is none").set_source(err)
        })?;
        Ok(Hop { method: parts.method, url, headers: parts.headers, version: parts.version })
    }

    /// The request that `answer` asks for instead; `None`: it is the answer.
    fn onward(&self, answer: &reqwest::Response) -> Option<Hop> {
        let status = answer.status();
        let method = match (status, &self.method) {
            (StatusCode::SEE_OTHER, method) if *method != Method::HEAD => Method::GET,
            (StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND, &Method::POST) => Method::GET,
            (
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT,
                method,
            ) => method.clone(),
            _ => return None,
        };
        let location = answer.headers().get(header::LOCATION)?.to_str().ok()?;
        let url = self.url.join(location).ok()?;
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let mut headers = self.headers.clone();
        if url.origin() != self.url.origin() {
            CREDENTIALS.iter().for_each(|name| drop(headers.remove(*name)));
        }
        if method != self.method {
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::CONTENT_TYPE);
        }
        Some(Hop { method, url, headers, version: self.version })
    }

    /// Where it goes, without what may be secret.
    fn address(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        // Only an address that has no place for them keeps them out.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        url.into()
    }

    fn failed(&self, why: &'static str) -> Error {
        Error::new(ErrorKind::Unexpected, why)
            .with_operation("transport")
            .with_context("url", self.address())
    }
}

/// One request, to be counted once.
struct Count {
    meter: Arc<Meter>,
    purpose: Purpose,
    class: Class,
    counted: AtomicBool,
}

impl Count {
    fn sent(&self) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            self.meter.call(self.purpose, self.class);
        }
    }
}

/// A request without a body shows nothing while it is sent, so one that is given up counts.
struct GivenUp<'a>(Option<&'a Count>);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.sent();
        }
    }
}

/// What is heard of a request until its answer comes.
struct Pulse(watch::Sender<(Step, Instant)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing yet. A request without a body shows no more.
    Opening,
    /// The connection took a chunk.
    Sending,
    /// The next chunk has no bandwidth yet.
    Throttled,
    /// All was taken, of which this much may still be on its way to the network.
    Sent { hidden: u64 },
}

impl Pulse {
    fn new() -> Pulse {
        Pulse(watch::Sender::new((Step::Opening, Instant::now())))
    }

    fn beat(&self, step: Step) {
        self.0.send_if_modified(|(known, since)| {
            *since = Instant::now();
            // Whoever waits looks again at the end of its patience; only another step changes that.
            std::mem::replace(known, step) != step
        });
    }

    /// Returns when nothing was heard for too long.
    async fn silence(&self, timeouts: &Timeouts) -> &'static str {
        let mut heard = self.0.subscribe();
        loop {
            let (step, since) = *heard.borrow_and_update();
            let (patience, why) = match step {
                Step::Opening => (timeouts.connect + timeouts.first_byte, "no answer came"),
                Step::Sending => (timeouts.stall, "the peer stopped to take the request"),
                Step::Throttled => {
                    let _ = heard.changed().await;
                    continue;
                }
                Step::Sent { hidden } => {
                    let flushed = time_of(hidden, Bandwidth::RATE_MIN);
                    (timeouts.first_byte + flushed, "no answer came to a request")
                }
            };
            let deadline = since + patience;
            if deadline <= Instant::now() {
                return why;
            }
            let _ = tokio::time::timeout_at(deadline, heard.changed()).await;
        }
    }
}

/// The body of a request on its way into a connection.
struct Upload {
    body: Buffer,
    /// The part of the body that is cut into chunks.
    piece: Bytes,
    hidden: u64,
    turn: Turn,
    count: Arc<Count>,
    pulse: Arc<Pulse>,
}

impl Upload {
    fn left(&self) -> usize {
        self.piece.len() + self.body.len()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        this.count.sent();
        while this.piece.is_empty() {
            match this.body.next() {
                Some(piece) => this.piece = piece,
                None => return Poll::Ready(None),
            }
        }
        let ready = this.piece.len().min(CHUNK_MAX);
        let Poll::Ready(length) = this.turn.poll(ready, cx) else {
            this.pulse.beat(Step::Throttled);
            return Poll::Pending;
        };
        let chunk = this.piece.split_to(length);
        this.count.meter.ingress(this.turn.purpose, length as u64);
        if let Some(progress) = &this.turn.progress {
            progress.beat();
        }
        this.pulse.beat(match this.left() {
            0 => Step::Sent { hidden: this.hidden },
            _ => Step::Sending,
        });
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left() as u64)
    }
}

/// The bytes of one body, one chunk after another, at the backend's pace.
struct Turn {
    throttle: Arc<Throttle>,
    direction: Direction,
    purpose: Purpose,
    progress: Option<Arc<Progress>>,
    ticket: Option<Ticket>,
}

impl Turn {
    fn new(throttle: &Arc<Throttle>, direction: Direction, caller: &Caller) -> Turn {
        Turn {
            throttle: Arc::clone(throttle),
            direction,
            purpose: caller.purpose,
            progress: caller.progress.clone(),
            ticket: None,
        }
    }

    /// How many of `ready` bytes may go, as soon as they may.
    fn poll(&mut self, ready: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let ticket = self.ticket.get_or_insert_with(|| {
            let chunk = self.throttle.chunk(self.direction, ready);
            self.throttle.ticket(self.direction, self.purpose, self.progress.clone(), chunk)
        });
        let length = ticket.bytes();
        ready!(Pin::new(ticket).poll(cx));
        self.ticket = None;
        Poll::Ready(length)
    }
}

/// The body of an answer on its way out of a connection.
struct Download {
    body: reqwest::Body,
    /// What came and has no bandwidth yet.
    rest: Bytes,
    turn: Turn,
    meter: Arc<Meter>,
    stall: Duration,
    /// Runs while the next bytes are waited for.
    silence: Option<Pin<Box<Sleep>>>,
    hop: Hop,
}

impl Stream for Download {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                let stall = this.stall;
                let silence =
                    this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
                ready!(silence.as_mut().poll(cx));
                let failed = this.hop.failed("the peer stopped in the middle of an answer");
                return Poll::Ready(Some(Err(failed.set_temporary())));
            };
            this.silence = None;
            match frame {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                Some(Err(err)) => {
                    let failed = this.hop.failed("read data from http response");
                    let failed = failed.set_temporary().set_source(err.without_url());
                    return Poll::Ready(Some(Err(failed)));
                }
            }
            this.meter.egress(this.turn.purpose, this.rest.len() as u64);
        }
        let length = ready!(this.turn.poll(this.rest.len(), cx));
        Poll::Ready(Some(Ok(Buffer::from(this.rest.split_to(length)))))
    }
}
