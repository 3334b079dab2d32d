//! The S3 service: guard, s3s, and what every response carries.
//!
//! # Invariants
//!
//! - No request reaches s3s but through the guard, and s3s always has a source of secrets: it
//!   never serves everyone.
//! - A request keeps the settings that it began with.
//! - A panic costs the request that it happens in and nothing else.
//! - What a request holds is given back with its last work: with its body, with the task of its
//!   write; at once when it is refused.

use std::net::Ipv4Addr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body::Body as _;
use s3s::config::S3Config;
use s3s::config::StaticConfigProvider;
use s3s::service::S3ServiceBuilder;
use tokio::sync::Semaphore;

use crate::base::Clock;
use crate::base::limits;
use crate::engine::Cause;
use crate::engine::Engine;
use crate::engine::Held;
use crate::s3::access::Access;
use crate::s3::auth::Auth;
use crate::s3::auth::Keys;
use crate::s3::door::Door;
use crate::s3::door::Intent;
use crate::s3::door::Peer;
use crate::s3::door::SOON;
use crate::s3::door::slow_down;
use crate::s3::finish::Finish;
use crate::s3::guard;
use crate::s3::guard::Admitted;
use crate::s3::guard::body::BODY_IDLE_MAX;
use crate::s3::guard::body::Claims;
use crate::s3::guard::body::GuardBody;
use crate::s3::guard::body::Shared;
use crate::s3::guard::query;
use crate::s3::guard::refusal::Refusal;
use crate::s3::host::Hosts;
use crate::s3::ops::Larder;
use crate::s3::post;
use crate::s3::rate::RateSettings;
use crate::s3::reply::ReplyBody;
use crate::s3::request_id;
use crate::s3::request_id::RequestId;
use crate::s3::request_id::RequestIds;

/// Forms at a time: s3s holds the file of each in memory.
const FORMS_MAX: usize = 4;
/// Refused requests at a time whose bodies are read all the same; others may miss why.
const DRAINS_MAX: usize = 256;
/// Bytes that a form may have besides its file.
const FORM_OVERHEAD_MAX: u64 = 128 * 1024;

/// What the owner chooses of the S3 side.
#[derive(Clone, Debug, PartialEq)]
pub struct S3Settings {
    /// The only region that signatures may name.
    pub region: String,
    /// Buckets are also reached as `<bucket>.<domain>`.
    pub domain: Option<String>,
    /// Bytes of a file that comes in a browser's form; it is held in memory.
    pub post_form_max: u64,
    pub rate: RateSettings,
}

/// The service of one listener. Cloning it shares it.
#[derive(Clone)]
pub struct S3Service {
    inner: Arc<Inner>,
}

struct Inner {
    generation: ArcSwap<Generation>,
    /// Makes the s3s service for new settings.
    make: Box<dyn Fn(&S3Settings) -> s3s::service::S3Service + Send + Sync>,
    keys: Arc<dyn Keys>,
    clock: Clock,
    ids: RequestIds,
    door: Arc<Door>,
    forms: Semaphore,
    drains: Semaphore,
}

/// The settings, and the service that was made for them.
struct Generation {
    settings: S3Settings,
    s3s: s3s::service::S3Service,
}

impl S3Service {
    pub fn new(engine: Arc<Engine>, settings: S3Settings) -> S3Service {
        let clock = engine.clock.clone();
        let keys = Arc::clone(&engine) as Arc<dyn Keys>;
        let larder = {
            let engine = Arc::clone(&engine);
            move |settings: &S3Settings| Larder::new(Arc::clone(&engine), settings.region.clone())
        };
        let (admission, refusals) = (Arc::clone(&engine.admission), Arc::clone(&engine.refusals));
        let door = Door::new(admission, refusals, engine.budget.clone(), &settings.rate);
        S3Service::assemble(larder, keys, door, clock, settings)
    }

    /// Requests that begin from now on see `settings`.
    pub fn reload(&self, settings: S3Settings) {
        self.inner.door.reload(&settings.rate);
        let s3s = (self.inner.make)(&settings);
        self.inner.generation.store(Arc::new(Generation { settings, s3s }));
    }

    pub(crate) fn assemble<S: s3s::S3>(
        s3: impl Fn(&S3Settings) -> S + Send + Sync + 'static,
        keys: Arc<dyn Keys>,
        door: Door,
        clock: Clock,
        settings: S3Settings,
    ) -> S3Service {
        let door = Arc::new(door);
        let (secrets, admits) = (Arc::clone(&keys), Arc::clone(&door));
        let make = move |settings: &S3Settings| {
            let mut builder = S3ServiceBuilder::new(s3(settings));
            let config = Arc::new(s3s_config(settings));
            builder.set_config(Arc::new(StaticConfigProvider::new(config)));
            builder.set_auth(Auth { keys: Arc::clone(&secrets) });
            builder.set_access(Access { keys: Arc::clone(&secrets), door: Arc::clone(&admits) });
            builder.set_host(Hosts { domain: settings.domain.clone() });
            builder.build()
        };
        let s3s = make(&settings);
        S3Service {
            inner: Arc::new(Inner {
                generation: ArcSwap::from_pointee(Generation { settings, s3s }),
                make: Box::new(make),
                keys,
                clock,
                ids: RequestIds::new(),
                door,
                forms: Semaphore::new(FORMS_MAX),
                drains: Semaphore::new(DRAINS_MAX),
            }),
        }
    }

    /// What lets requests in.
    pub(crate) fn door(&self) -> &Door {
        &self.inner.door
    }

    /// Answers one request. A client that takes nothing of the answer for `patience` loses it.
    pub(crate) async fn handle<B>(
        &self,
        request: Request<B>,
        patience: Duration,
    ) -> Response<ReplyBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
    {
        let id = self.inner.ids.next();
        let method = request.method().clone();
        let path = request.uri().path();
        let resource = query::decode(path).unwrap_or_else(|| path.to_owned());
        // A client that waits to be asked for its body has not sent it.
        let sends = !request.headers().contains_key(header::EXPECT);
        let request = request.map(Shared::new);
        let rest = request.body().clone();
        let held = Held::default();
        let answer = held.clone().scope(self.answer(request, &id));
        let answer = AssertUnwindSafe(answer).catch_unwind().await;
        let mut response = answer.unwrap_or_else(|_| {
            tracing::error!(request = id.0, %method, "a request panicked");
            internal_error().response()
        });
        let mut held = Some(held);
        if response.status().is_client_error() || response.status().is_server_error() {
            self.count(&response, held.take().is_some_and(|held| held.is_admitted()));
            if sends && let Ok(_turn) = self.inner.drains.try_acquire() {
                rest.drain().await;
            }
        }
        request_id::complete(&mut response, &method, &resource, &id);
        response.map(|body| ReplyBody::new(body, held, patience))
    }

    /// Counts what was turned away after its admission; what was not admitted is counted already.
    fn count(&self, error: &Response<s3s::Body>, is_admitted: bool) {
        let cause = match error.status() {
            _ if !is_admitted => None,
            StatusCode::INSUFFICIENT_STORAGE => Some(Cause::NoRoom),
            StatusCode::TOO_MANY_REQUESTS => Some(Cause::Allowance),
            StatusCode::SERVICE_UNAVAILABLE if request_id::is_error(error, "SlowDown") => {
                Some(Cause::Busy)
            }
            StatusCode::SERVICE_UNAVAILABLE => Some(Cause::Unavailable),
            StatusCode::BAD_REQUEST if request_id::is_error(error, "RequestTimeout") => {
                Some(Cause::Slow)
            }
            _ => None,
        };
        if let Some(cause) = cause {
            self.inner.door.refusals.count(cause);
        }
    }

    /// What an address with too many connections is told, as bytes: nothing of it was read.
    pub(crate) fn turn_away(&self) -> Vec<u8> {
        let id = self.inner.ids.next();
        self.inner.door.refusals.count(Cause::Connection);
        let mut response = slow_down(SOON).response();
        request_id::complete(&mut response, &Method::GET, "/", &id);
        let body = response.body().bytes().unwrap_or_default();
        let mut text = format!(
            "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in response.headers() {
            text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
        }
        text.push_str("\r\n");
        [text.as_bytes(), &body].concat()
    }

    async fn answer<B>(&self, request: Request<B>, id: &RequestId) -> Response<s3s::Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
    {
        match self.pass(request, id).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(request = id.0, code = refusal.code, "a request is refused");
                refusal.response()
            }
        }
    }

    async fn pass<B>(
        &self,
        request: Request<B>,
        id: &RequestId,
    ) -> Result<Response<s3s::Body>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
    {
        let inner = &*self.inner;
        let generation = inner.generation.load_full();
        let settings = &generation.settings;
        let (mut parts, body) = request.into_parts();
        let peer = parts.extensions.get().map_or(Ipv4Addr::UNSPECIFIED.into(), |&Peer(peer)| peer);
        inner.door.check_address(peer, &parts.headers)?;
        parts.extensions.insert(id.clone());
        let admitted = guard::admit(&mut parts, settings, &inner.clock, &*inner.keys)?;
        match admitted {
            Admitted::Plain => {
                let body = GuardBody::new(body, None, BODY_IDLE_MAX);
                generation.call(parts, body).await
            }
            Admitted::Chunked(chunks) => {
                let body = GuardBody::new(body, Some(chunks), BODY_IDLE_MAX);
                generation.call(parts, body).await
            }
            Admitted::Document { length, sha256, md5 } => {
                let ended = body.is_end_stream();
                let length = length.or(ended.then_some(0)).ok_or_else(Refusal::missing_length)?;
                let mut body = GuardBody::new(body, None, BODY_IDLE_MAX);
                body.check(Claims { length, sha256, md5 });
                generation.call(parts, body).await
            }
            Admitted::Form { bucket } => {
                check_form_length(&parts.headers, settings)?;
                let mut body = GuardBody::new(body, None, BODY_IDLE_MAX);
                let (clock, keys) = (&inner.clock, &*inner.keys);
                let rules = post::Rules { bucket: &bucket, settings, clock, keys };
                let head = inner.door.begin_form(peer, &parts.headers)?;
                let form = post::admit(&parts.headers, &mut body, rules).await?;
                drop(head);
                inner.door.check_key(&form.signer)?;
                inner.door.admit(Intent::Write, None).await?;
                parts.extensions.insert(form);
                let _room = inner.forms.try_acquire().map_err(|_| slow_down(SOON))?;
                generation.call(parts, body).await
            }
        }
    }
}

impl Generation {
    /// s3s takes a fault in a body that it collects itself for a fault of its own.
    async fn call<B>(
        &self,
        parts: http::request::Parts,
        body: GuardBody<B>,
    ) -> Result<Response<s3s::Body>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
    {
        let fault = body.fault();
        let finish = Finish::of(&parts.method, parts.uri.query());
        let body = match body.is_end_stream() {
            true => s3s::Body::empty(),
            false => s3s::Body::http_body(body),
        };
        let response = self.s3s.call(Request::from_parts(parts, body)).await;
        let mut response = response.map_err(|err| {
            tracing::error!(?err, "a response could not be made");
            internal_error()
        })?;
        finish.apply(&mut response);
        match fault.get() {
            Some(&fault) if response.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                Err(Refusal::of_fault(fault))
            }
            _ => Ok(response),
        }
    }
}

fn s3s_config(settings: &S3Settings) -> S3Config {
    let mut config = S3Config::default();
    config.xml_max_body_size = limits::XML_BODY_MAX;
    config.post_object_max_file_size = settings.post_form_max;
    // The guard holds times against the clock that it was given, and forms have rules of their own.
    config.presigned_url_max_skew_time_secs = u32::MAX;
    config
}

fn check_form_length(headers: &http::HeaderMap, settings: &S3Settings) -> Result<(), Refusal> {
    let length = guard::content_length(headers)?.unwrap_or(u64::MAX);
    if length <= settings.post_form_max.saturating_add(FORM_OVERHEAD_MAX) {
        return Ok(());
    }
    Err(Refusal::bad("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
        .with("ProposedSize", length.to_string())
        .with("MaxSizeAllowed", settings.post_form_max.to_string()))
}

fn internal_error() -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "InternalError",
        "We encountered an internal error. Please try again.",
    )
}
