//! From a request to an answer: health for everybody, the operator's verbs where they are let in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::ALLOW;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;

use super::Ready;
use super::desk::Desk;
use super::error::ApiError;
use super::long::LongEvent;
use super::operation::Operation;
use super::operation::ROOT;

/// Bytes of a request's body: a key with a thousand grants fits.
const BODY_MAX: usize = 1 << 20;
/// A body arrives within this.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that does not read for so long is not told how the work ended that it asked for.
const UNREAD_MAX: Duration = Duration::from_secs(60);
const JSON: &str = "application/json";
/// One JSON value a line.
const JSON_LINES: &str = "application/x-ndjson";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What one listener answers with.
#[derive(Clone)]
pub(super) struct Router {
    pub(super) ready: Ready,
    /// `None` where operators are not let in.
    pub(super) desk: Option<Arc<Desk>>,
}

impl Router {
    pub(super) async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let path = request.uri().path().to_owned();
        let answered = match path.as_str() {
            "/health/live" | "/health/ready" => self.health(request.method(), &path),
            path if path.starts_with(ROOT) => self.operate(request).await,
            _ => Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "no_such_path",
                "there is nothing at this path",
            )),
        };
        Ok(answered.unwrap_or_else(|err| refuse(&err)))
    }

    fn health(&self, method: &Method, path: &str) -> Result<Response<Body>, ApiError> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            return Err(ApiError::new(status, "method_not_allowed", "health is only asked for"));
        }
        let (status, text) = match path {
            "/health/live" => (StatusCode::OK, "live"),
            _ if self.ready.get() => (StatusCode::OK, "ready"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        };
        Ok(respond(status, &json!({ "status": text })))
    }

    async fn operate(&self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let Some(desk) = &self.desk else {
            let text = "the operator's verbs are not served here";
            return Err(ApiError::new(StatusCode::NOT_FOUND, "not_here", text)
                .hint("use the `larder` command on the machine that the server runs on"));
        };
        let (head, body) = request.into_parts();
        let body = read(body).await?;
        match Operation::read(&head.method, head.uri.path(), &body)? {
            operation if operation.is_long() => Ok(stream(Arc::clone(desk), operation)),
            operation => {
                let status = match operation {
                    Operation::BucketCreate(_) | Operation::KeyCreate(_) => StatusCode::CREATED,
                    Operation::Stop => StatusCode::ACCEPTED,
                    _ => StatusCode::OK,
                };
                let answer = desk.run(operation).await?;
                Ok(respond(status, &answer))
            }
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a body has at most {BODY_MAX} bytes"),
        )),
        Ok(Err(_)) => Err(ApiError::invalid("the body broke off")),
        Err(_) => {
            let text = "the body did not arrive in time";
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", text))
        }
    }
}

fn respond(status: StatusCode, answer: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{answer}\n"))).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

fn refuse(err: &ApiError) -> Response<Body> {
    let status = StatusCode::from_u16(err.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_server_error() {
        tracing::warn!(error = %err, "the operator's surface could not do as asked");
    }
    let mut response = respond(status, &json!({ "error": err }));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let all = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
        response.headers_mut().insert(ALLOW, all);
    }
    response
}

/// Answers at once, line by line. A client that goes away ends the work.
fn stream(desk: Arc<Desk>, operation: Operation) -> Response<Body> {
    let (lines, receiver) = mpsc::channel::<Bytes>(2);
    tokio::spawn(async move {
        tokio::select! {
            () = tell(&desk, operation, &lines) => (),
            () = lines.closed() => tracing::info!("nobody waits for what an operator asked for"),
        }
    });
    let frames = futures_util::stream::unfold(receiver, async |mut receiver| {
        let line = receiver.recv().await?;
        Some((Ok(Frame::data(line)), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON_LINES));
    response
}

async fn tell(desk: &Desk, operation: Operation, lines: &mpsc::Sender<Bytes>) {
    // A client that reads slowly hears of it less often, and the work goes on.
    let far = |far: Value| _ = lines.try_send(line(&LongEvent::Progress(far)));
    let done = desk.begin(operation).tell(far).await;
    let last = done.map_or_else(LongEvent::Error, LongEvent::Result);
    let _ = lines.send_timeout(line(&last), UNREAD_MAX).await;
}

fn line(event: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(event).expect("an event has only texts and numbers");
    text.push(b'\n');
    text.into()
}
