//! Refusals of the operator's surface: a code for programs, a sentence and a hint for people.

use http::StatusCode;
use serde::Deserialize;
use serde::Serialize;

use crate::base::chain;
use crate::engine::EngineError;
use crate::engine::WishRefused;

/// The hint for whatever the configuration file says.
const DECLARED: &str = "change it in the configuration file; a running server notices by itself";

/// What goes over the wire as `{"error": {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Of the response; not in its body.
    #[serde(skip)]
    pub status: u16,
    /// A word that programs may rely on.
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> ApiError {
        let (code, message) = (code.to_owned(), message.into());
        ApiError { status: status.as_u16(), code, message, hint: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> ApiError {
        ApiError { hint: Some(hint.into()), ..self }
    }

    /// Says first what it was about.
    pub(crate) fn about(self, what: &str, name: &str) -> ApiError {
        ApiError { message: format!("{what} {name}: {}", self.message), ..self }
    }
}

impl From<EngineError> for ApiError {
    fn from(err: EngineError) -> ApiError {
        let (status, code) = match &err {
            EngineError::NoSuchBucket => (StatusCode::NOT_FOUND, "no_such_bucket"),
            EngineError::NoSuchKey => (StatusCode::NOT_FOUND, "no_such_object"),
            EngineError::NoSuchAccessKey => (StatusCode::NOT_FOUND, "no_such_key"),
            EngineError::NoSuchBackend => (StatusCode::NOT_FOUND, "no_such_backend"),
            EngineError::BucketExists => (StatusCode::CONFLICT, "bucket_exists"),
            EngineError::BucketNotEmpty => (StatusCode::CONFLICT, "bucket_not_empty"),
            EngineError::Declared => (StatusCode::CONFLICT, "declared"),
            EngineError::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            EngineError::Busy | EngineError::Unavailable(_) | EngineError::Store(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        match err {
            EngineError::Declared => {
                ApiError::new(status, code, "the configuration declares it").hint(DECLARED)
            }
            EngineError::BucketNotEmpty => {
                ApiError::new(status, code, err.to_string()).hint("delete those first")
            }
            err => ApiError::new(status, code, chain(&err)),
        }
    }
}

impl From<WishRefused> for ApiError {
    fn from(err: WishRefused) -> ApiError {
        match err {
            WishRefused::Impossible(why) => ApiError::invalid(why),
            WishRefused::Engine(err) => err.into(),
        }
    }
}
