//! A server that stands in for a cloud: it keeps what it is given, and answers as that cloud's
//! manual says.
//!
//! Most clouds have fixed addresses, so the requests are sent here by the transport below OpenDAL,
//! with the host that they were meant for in a header. A request that the stand-in does not know
//! is remembered, and a test ends with a look at those.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::net::TcpListener;

use super::LONG;
use crate::backend::Timeouts;
use crate::backend::transport::Transport;

/// The header with the host that a request was meant for.
const MEANT_FOR: &str = "x-meant-for";

/// A request, taken apart.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) host: String,
    /// As it was sent, with its escapes.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or_default())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The query's value, empty when there is none.
    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// What `bytes` are in the range that was asked for.
    pub(crate) fn part_of(&self, bytes: &Bytes) -> Answer {
        let range = self.header("range").strip_prefix("bytes=");
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
            return Answer::bytes(200, bytes.clone());
        };
        let first: usize = first.parse().unwrap();
        let end = last.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
        if first >= bytes.len() {
            return Answer::json(416, Value::default());
        }
        let part = bytes.slice(first..end);
        let range = format!("bytes {first}-{}/{}", end - 1, bytes.len());
        Answer::bytes(206, part).with("content-range", range)
    }
}

pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Answer {
    pub(crate) fn bytes(status: u16, body: impl Into<Bytes>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn json(status: u16, value: Value) -> Answer {
        Answer::bytes(status, value.to_string()).with("content-type", "application/json".to_owned())
    }

    pub(crate) fn with(mut self, name: &'static str, value: String) -> Answer {
        self.headers.push((name, value));
        self
    }
}

/// What a cloud is to those who ask it.
pub(crate) trait Cloud: Send + 'static {
    /// `None`: it knows no such request.
    fn answer(&mut self, asked: &Asked) -> Option<Answer>;
}

/// A cloud that answers the first uploads in another way.
pub(crate) struct Failing {
    pub(crate) cloud: Box<dyn Cloud>,
    pub(crate) uploads: usize,
    pub(crate) status: u16,
    pub(crate) said: &'static str,
}

impl Cloud for Failing {
    fn answer(&mut self, asked: &Asked) -> Option<Answer> {
        let is_upload = asked.method == "PUT"
            || ["/upload", "b2_upload_file"].iter().any(|call| asked.path.contains(call));
        if !is_upload || self.uploads == 0 {
            return self.cloud.answer(asked);
        }
        self.uploads -= 1;
        Some(Answer::bytes(self.status, self.said))
    }
}

/// A running stand-in.
pub(crate) struct StandIn<C> {
    address: String,
    pub(crate) cloud: Arc<Mutex<C>>,
    strays: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl<C> Drop for StandIn<C> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<C: Cloud> StandIn<C> {
    pub(crate) async fn start(cloud: C) -> StandIn<C> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cloud = Arc::new(Mutex::new(cloud));
        let strays: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answers, unknown) = (Arc::clone(&cloud), Arc::clone(&strays));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (cloud, strays) = (Arc::clone(&answers), Arc::clone(&unknown));
                let serve = hyper::service::service_fn(move |request| {
                    let (cloud, strays) = (Arc::clone(&cloud), Arc::clone(&strays));
                    async move { Ok::<_, Infallible>(serve(&cloud, &strays, request).await) }
                });
                let io = hyper_util::rt::TokioIo::new(socket);
                let executor = hyper_util::rt::TokioExecutor::new();
                tokio::spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(executor);
                    let _ = server.serve_connection(io, serve).await;
                });
            }
        });
        StandIn { address, cloud, strays, task }
    }

    /// A transport that sends every request here.
    pub(crate) fn transport(&self) -> HttpTransporter {
        let timeouts = Timeouts { connect: LONG, first_byte: LONG, stall: LONG };
        let inner = Transport::of_nobody(timeouts);
        let inner = inner.unwrap_or_else(|_| panic!("there is no HTTP client"));
        HttpTransporter::new(Redirected { address: self.address.clone(), inner })
    }

    /// The requests that it did not know.
    pub(crate) fn strays(&self) -> Vec<String> {
        self.strays.lock().unwrap().clone()
    }
}

async fn serve<C: Cloud>(
    cloud: &Mutex<C>,
    strays: &Mutex<Vec<String>>,
    request: http::Request<hyper::body::Incoming>,
) -> http::Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let query = parts.uri.query().unwrap_or_default().split('&');
    let mut asked = Asked {
        method: parts.method.to_string(),
        host: String::new(),
        path: parts.uri.path().to_owned(),
        query: query
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    };
    asked.host = asked.header(MEANT_FOR).to_owned();
    let answer = cloud.lock().unwrap().answer(&asked).unwrap_or_else(|| {
        strays.lock().unwrap().push(format!("{} {} {}", asked.method, asked.host, parts.uri));
        Answer::json(501, Value::default())
    });
    let mut response = http::Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Full::new(answer.body)).unwrap()
}

/// Sends requests somewhere else than where they should go.
struct Redirected {
    address: String,
    inner: Transport,
}

impl HttpTransport for Redirected {
    async fn fetch(
        &self,
        mut request: http::Request<Buffer>,
    ) -> opendal::Result<http::Response<HttpBody>> {
        let meant_for = request.uri().host().unwrap_or_default().parse().unwrap();
        request.headers_mut().insert(MEANT_FOR, meant_for);
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(self.address.parse().unwrap());
        *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
        self.inner.fetch(request).await
    }
}
