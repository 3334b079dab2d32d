//! What a handler needs of its request beside the typed input.
//!
//! What a query or a header asks for that this server has not was refused by the guard, and what a
//! presigned URL says in place of headers was made headers there.

use futures_util::StreamExt;
use http::Extensions;
use http::HeaderMap;
use http::header;
use s3s::S3Error;
use s3s::S3Request;
use s3s::S3Result;
use s3s::TrailingHeaders;
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream;

use super::OWNER;
use crate::engine;
use crate::engine::EngineError;
use crate::model::Action;
use crate::model::BucketName;
use crate::model::ObjectKey;
use crate::s3::access::Granted;
use crate::s3::body_error::body_error;
use crate::s3::convert;
use crate::s3::convert::checksums;
use crate::s3::convert::checksums::Announced;
use crate::s3::convert::checksums::Texts;
use crate::s3::error;
use crate::s3::error::Refusal;
use crate::s3::guard::BodyFacts;
use crate::s3::guard::aside::Aside;

/// The request without its input.
pub(super) struct Call {
    pub(super) headers: HeaderMap,
    pub(super) granted: Granted,
    extensions: Extensions,
    trailers: Option<TrailingHeaders>,
}

impl Call {
    /// Takes a request apart. Refuses one that nobody has authorised, and one for another owner.
    pub(super) fn open<T>(mut req: S3Request<T>) -> S3Result<(T, Call)> {
        let Some(granted) = req.extensions.remove::<Granted>() else {
            return Err(Refusal::AccessDenied.into());
        };
        if let Some(aside) = req.extensions.remove::<Aside>() {
            aside.give_back(&mut req.headers);
        }
        for name in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
            if convert::text(&req.headers, name)?.is_some_and(|owner| owner != OWNER) {
                return Err(Refusal::AccessDenied.into());
            }
        }
        let call = Call {
            headers: req.headers,
            granted,
            extensions: req.extensions,
            trailers: req.trailing_headers,
        };
        Ok((req.input, call))
    }

    /// The value of a header: `None` when it is absent or empty.
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, Refusal> {
        convert::text(&self.headers, name)
    }

    pub(super) fn may(&self, bucket: &str, key: &ObjectKey, action: Action) -> bool {
        BucketName::new(bucket)
            .is_ok_and(|bucket| self.granted.key.grants.allow_key(&bucket, key, action))
    }

    /// The answer to a failed read of `key`, or to a condition on it that does not hold: who may
    /// not list does not learn that it is missing.
    pub(super) fn unreadable(&self, bucket: &str, key: &ObjectKey, err: EngineError) -> S3Error {
        match err {
            EngineError::NoSuchKey if !self.may(bucket, key, Action::List) => {
                Refusal::AccessDenied.into()
            }
            err => error::engine(err),
        }
    }

    /// The body with all that was said of it.
    pub(super) fn body(
        &mut self,
        blob: Option<StreamingBlob>,
        content_length: Option<i64>,
        texts: Texts,
        md5: Option<&str>,
    ) -> Result<engine::Body, Refusal> {
        let facts = self.extensions.get::<BodyFacts>();
        let announced = checksums::announced(texts, md5, &self.headers, facts)?;
        let size = size_of(facts, content_length, blob.as_ref())?;
        let body = body_of(size, blob, announced, self.trailers.take());
        Ok(engine::Body { waits: self.headers.contains_key(header::EXPECT), ..body })
    }
}

/// The body of a POST form: no header of the request speaks of it.
pub(super) fn form_body(
    blob: Option<StreamingBlob>,
    texts: Texts,
    md5: Option<&str>,
) -> Result<engine::Body, Refusal> {
    let announced = checksums::announced(texts, md5, &HeaderMap::new(), None)?;
    let size = size_of(None, None, blob.as_ref())?;
    Ok(body_of(size, blob, announced, None))
}

fn size_of(
    facts: Option<&BodyFacts>,
    content_length: Option<i64>,
    blob: Option<&StreamingBlob>,
) -> Result<u64, Refusal> {
    if let Some(decoded) = facts.and_then(|facts| facts.decoded_length) {
        return Ok(decoded);
    }
    if let Some(length) = content_length {
        let wrong = |_| Refusal::InvalidArgument("Content-Length is negative".into());
        return u64::try_from(length).map_err(wrong);
    }
    let known = blob.map_or(Some(0), |blob| blob.remaining_length().exact());
    known.map(|length| length as u64).ok_or(Refusal::MissingContentLength)
}

fn body_of(
    size: u64,
    blob: Option<StreamingBlob>,
    announced: Announced,
    trailers: Option<TrailingHeaders>,
) -> engine::Body {
    let stream = match blob {
        Some(blob) => blob.map(|piece| piece.map_err(|err| body_error(&*err))).boxed(),
        None => futures_util::stream::empty().boxed(),
    };
    let trailer = checksums::trailer(announced.trailers, trailers);
    engine::Body { size, stream, expected: announced.expected, trailer, draws: true, waits: false }
}

/// The key of a request.
pub(super) fn key(text: String) -> Result<ObjectKey, Refusal> {
    ObjectKey::new(text).map_err(|_| Refusal::KeyTooLong)
}

/// There are no versions but the current one, which is called `null`. Of a query the guard has seen
/// to it.
pub(super) fn current_only(version: Option<&str>) -> Result<(), Refusal> {
    match version {
        None | Some("" | "null") => Ok(()),
        Some(_) => Err(Refusal::NoSuchVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AccessKey;
    use crate::model::Grants;

    fn call() -> Call {
        let key = AccessKey {
            id: "id".into(),
            secret: "secret".into(),
            grants: Grants::default(),
            declared: false,
        };
        Call {
            headers: HeaderMap::new(),
            granted: Granted { key, create_only: false },
            extensions: Extensions::new(),
            trailers: None,
        }
    }

    #[test]
    fn a_body_needs_a_length() {
        let unknown = || {
            let stream = futures_util::stream::empty::<Result<bytes::Bytes, std::io::Error>>();
            Some(StreamingBlob::wrap(stream))
        };
        let size = |facts: Option<&BodyFacts>, length| size_of(facts, length, unknown().as_ref());
        assert_eq!(size(None, None), Err(Refusal::MissingContentLength));
        assert_eq!(size(None, Some(5)), Ok(5));
        assert!(size(None, Some(-5)).is_err());
        let facts = BodyFacts { decoded_length: Some(3), ..BodyFacts::default() };
        assert_eq!(size(Some(&facts), Some(99)), Ok(3));
        assert_eq!(size_of(None, None, None), Ok(0));
    }

    #[test]
    fn only_the_current_version_can_be_named() {
        assert_eq!(current_only(None), Ok(()));
        assert_eq!(current_only(Some("null")), Ok(()));
        assert_eq!(current_only(Some("1")), Err(Refusal::NoSuchVersion));
    }

    #[test]
    fn who_may_not_list_does_not_learn_what_is_missing() {
        let call = call();
        let key = ObjectKey::new("key").unwrap();
        let error = call.unreadable("bucket", &key, EngineError::NoSuchKey);
        assert_eq!(error.code().as_str(), "AccessDenied");
        let error = call.unreadable("bucket", &key, EngineError::Busy);
        assert_eq!(error.code().as_str(), "SlowDown");
    }

    #[test]
    fn an_unauthorised_request_is_refused() {
        let req = S3Request {
            input: (),
            method: http::Method::GET,
            uri: http::Uri::from_static("/"),
            headers: HeaderMap::new(),
            extensions: Extensions::new(),
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        };
        let refused = Call::open(req).map(|_| ()).unwrap_err();
        assert_eq!(refused.code().as_str(), "AccessDenied");
    }
}
