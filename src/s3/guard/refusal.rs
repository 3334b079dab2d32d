//! A request refused before s3s sees it, in S3's own words.

use std::borrow::Cow;

use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;

use crate::s3::body_error::BodyFault;
use crate::s3::request_id::escape;

/// Why a request is refused, as the client will read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: Cow<'static, str>,
    /// Further elements of the error.
    pub(crate) extra: Vec<(&'static str, String)>,
    /// Seconds.
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Refusal {
        Refusal { status, code, message: message.into(), extra: Vec::new(), retry_after: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Refusal {
        self.extra.push((name, value.into()));
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Refusal {
        self.retry_after = Some(seconds);
        self
    }

    /// A 400.
    pub(crate) fn bad(code: &'static str, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn invalid_argument(
        name: impl Into<String>,
        message: impl Into<Cow<'static, str>>,
    ) -> Refusal {
        Refusal::bad("InvalidArgument", message).with("ArgumentName", name)
    }

    pub(crate) fn invalid_request(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::bad("InvalidRequest", message)
    }

    pub(crate) fn denied(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, "AccessDenied", message)
    }

    /// Something that S3 has and this server has not: `what` is a header, query or field.
    pub(crate) fn not_implemented(what: &str) -> Refusal {
        let message = format!("{what} implies functionality that is not implemented");
        Refusal::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    pub(crate) fn bad_uri() -> Refusal {
        Refusal::bad("InvalidURI", "Couldn't parse the specified URI.")
    }

    pub(crate) fn missing_length() -> Refusal {
        Refusal::new(
            StatusCode::LENGTH_REQUIRED,
            "MissingContentLength",
            "You must provide the Content-Length HTTP header.",
        )
    }

    /// For a document whose body failed before anyone read it.
    pub(crate) fn of_fault(fault: BodyFault) -> Refusal {
        match fault {
            BodyFault::Stalled => Refusal::bad(
                "RequestTimeout",
                "Your socket connection to the server was not read from or written to within \
                 the timeout period. Idle connections will be closed.",
            ),
            BodyFault::Hash => Refusal::bad(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            ),
            BodyFault::Digest => Refusal::bad(
                "BadDigest",
                "The Content-MD5 you specified did not match what we received.",
            ),
            BodyFault::TrailerSyntax | BodyFault::TrailerNames | BodyFault::TrailerTooLarge => {
                Refusal::bad(
                    "MalformedTrailerError",
                    "The request contained trailing data that was not well-formed.",
                )
            }
            BodyFault::ChunkHeader | BodyFault::ChunkEnd | BodyFault::ChunkTooLarge => {
                Refusal::invalid_request("The body is not well-formed aws-chunked.")
            }
            BodyFault::Broken | BodyFault::TooShort | BodyFault::TooLong => Refusal::bad(
                "IncompleteBody",
                "You did not provide the number of bytes specified by the Content-Length HTTP \
                 header",
            ),
        }
    }

    pub(crate) fn sigv2() -> Refusal {
        Refusal::invalid_request(
            "The authorization mechanism you have provided is not supported. \
             Please use AWS4-HMAC-SHA256.",
        )
    }

    /// The response, still without `Resource` and `RequestId`.
    pub(crate) fn response(&self) -> Response<s3s::Body> {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>");
        let own = [("Code", self.code), ("Message", &self.message)];
        let extra = self.extra.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in own.into_iter().chain(extra) {
            xml.push_str(&format!("<{name}>{}</{name}>", escape(value)));
        }
        xml.push_str("</Error>");
        let mut response = Response::new(s3s::Body::from(xml));
        *response.status_mut() = self.status;
        let kind = HeaderValue::from_static("application/xml");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
