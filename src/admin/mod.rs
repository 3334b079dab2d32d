//! The operator's surface: for now, health.
//!
//! It has a listener of its own, so that nothing of ours shadows a bucket. `GET /health/live`
//! answers 200 while the process runs; `GET /health/ready` answers 200 while requests are served,
//! and 503 before the first and from the beginning of the shutdown.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at once; one more waits in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is closed after this, whatever it does.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// Whether requests are served. Cloned into whoever knows.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Serves until `stop`; connections in flight are dropped then.
pub async fn serve(listener: TcpListener, ready: Ready, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (ready, stop) = (ready.clone(), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request| answer(request, ready.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // An operator's connection that fails is its own affair.
            let _ =
                stop.run_until_cancelled(tokio::time::timeout(CONNECTION_MAX, connection)).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    ready: Ready,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, text) = match request.uri().path() {
        "/health/live" | "/health/ready" if !is_read => {
            (StatusCode::METHOD_NOT_ALLOWED, r#"{"error":"only GET"}"#)
        }
        "/health/live" => (StatusCode::OK, r#"{"status":"live"}"#),
        "/health/ready" if ready.get() => (StatusCode::OK, r#"{"status":"ready"}"#),
        "/health/ready" => (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"not ready"}"#),
        _ => (StatusCode::NOT_FOUND, r#"{"error":"no such page"}"#),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}
