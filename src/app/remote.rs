//! The other end of the socket: asking the server that runs on a data directory.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::header::CONTENT_TYPE;
use http::header::HOST;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::admin;
use crate::admin::ApiError;
use crate::admin::LongEvent;
use crate::admin::Operation;

/// A server that is starting is waited for, so it may take this long to begin its answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Between two pieces of an answer.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer, or of one line of it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("the server's socket cannot be used")]
    Socket(#[source] io::Error),
    #[error("the server did not answer: {0}")]
    NoAnswer(&'static str),
    #[error("the server went away in the middle of its answer")]
    BrokenOff(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("what the server answered cannot be understood; is it another version?")]
    Answer(#[source] serde_json::Error),
    /// It understood, and does not do it.
    #[error(transparent)]
    Refused(ApiError),
}

/// A connection to a server, for one request.
#[derive(Debug)]
pub struct Remote(UnixStream);

#[derive(Deserialize)]
struct Refusal {
    error: ApiError,
}

impl Remote {
    /// `None` when no server listens in `data_dir`.
    pub async fn connect(data_dir: &Path) -> Result<Option<Remote>, RemoteError> {
        let stream = admin::connect(data_dir).await.map_err(RemoteError::Socket)?;
        Ok(stream.map(Remote))
    }

    pub async fn run(self, operation: &Operation) -> Result<Value, RemoteError> {
        let response = self.send(operation).await?;
        let status = response.status();
        let body = collect(response.into_body()).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(RemoteError::Answer);
        }
        Err(refusal(&body))
    }

    /// Carries out an operation that takes long, telling `progress` of how far it is.
    pub async fn run_long(
        self,
        operation: &Operation,
        mut progress: impl FnMut(Value),
    ) -> Result<Value, RemoteError> {
        let response = self.send(operation).await?;
        let is_good = response.status().is_success();
        let mut body = response.into_body();
        if !is_good {
            return Err(refusal(&collect(body).await?));
        }
        let mut rest = Vec::new();
        while let Some(piece) = next(&mut body).await? {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match serde_json::from_slice(&line).map_err(RemoteError::Answer)? {
                    LongEvent::Result(result) => return Ok(result),
                    LongEvent::Error(err) => return Err(RemoteError::Refused(err)),
                    LongEvent::Progress(far) => progress(far),
                }
            }
            if rest.len() > ANSWER_BYTES_MAX {
                return Err(too_long());
            }
        }
        Err(RemoteError::BrokenOff("it ended without a result".into()))
    }

    async fn send(self, operation: &Operation) -> Result<Response<Incoming>, RemoteError> {
        let broken = |err: hyper::Error| RemoteError::BrokenOff(Box::new(err));
        let sent = operation.sent();
        let body = sent.body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder()
            .method(sent.method)
            .uri(sent.path)
            .header(HOST, "larder")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("the parts of the request are legal");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.0)).await.map_err(broken)?;
        // It ends with the answer, or when nobody waits for that any more.
        tokio::spawn(connection);
        match tokio::time::timeout(ANSWER_MAX, sender.send_request(request)).await {
            Ok(answered) => answered.map_err(broken),
            Err(_) => Err(RemoteError::NoAnswer("it took too long")),
        }
    }
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, RemoteError> {
    loop {
        let Ok(frame) = tokio::time::timeout(STALL_MAX, body.frame()).await else {
            return Err(RemoteError::NoAnswer("it stopped in the middle"));
        };
        match frame.transpose().map_err(|err| RemoteError::BrokenOff(Box::new(err)))? {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, RemoteError> {
    let mut whole = Vec::new();
    while let Some(piece) = next(&mut body).await? {
        whole.extend_from_slice(&piece);
        if whole.len() > ANSWER_BYTES_MAX {
            return Err(too_long());
        }
    }
    Ok(whole)
}

fn too_long() -> RemoteError {
    RemoteError::BrokenOff("it is longer than any answer should be".into())
}

fn refusal(body: &[u8]) -> RemoteError {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => RemoteError::Refused(refusal.error),
        Err(err) => RemoteError::Answer(err),
    }
}
