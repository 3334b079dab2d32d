//! What S3 clients are told: codes, statuses and messages.
//!
//! The only file that knows S3's error codes. The engine speaks of meanings; [`engine`] turns each
//! into S3's answer, and a [`Refusal`] is what this layer refuses by itself. What went wrong
//! inside is logged here with its causes and never shown to a client.

use std::borrow::Cow;
use std::time::Instant;

use http::HeaderMap;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use s3s::S3Error;
use s3s::S3ErrorCode;

use crate::base::Seldom;
use crate::base::chain;
use crate::base::limits::TAGS_MAX;
use crate::engine::BodyError;
use crate::engine::EngineError;
use crate::s3::convert::dates;

/// Seconds after which a client may try again what could not be served now.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");
/// The same where something must be deleted first, or the owner give more room.
const RETRY_AFTER_FULL: HeaderValue = HeaderValue::from_static("60");
/// The same where a limit of a day or a month is in the way: its owner may raise it at any time.
const RETRY_AFTER_SPENT: HeaderValue = HeaderValue::from_static("900");

/// While backends are away or full every client tries again and again: one line a while is enough.
static UNAVAILABLE: Seldom = Seldom::new();
static NO_ROOM: Seldom = Seldom::new();

/// A code of S3 with its status and a sentence for people.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: &'static str,
    status: StatusCode,
    message: Cow<'static, str>,
}

fn answer(code: &'static str, status: u16, message: impl Into<Cow<'static, str>>) -> Answer {
    let status = StatusCode::from_u16(status).expect("the statuses below are HTTP's");
    Answer { code, status, message: message.into() }
}

impl From<Answer> for S3Error {
    fn from(answer: Answer) -> S3Error {
        let code = S3ErrorCode::from_bytes(answer.code.as_bytes()).expect("codes are UTF-8");
        let mut error = S3Error::with_message(code, answer.message);
        error.set_status_code(answer.status);
        error
    }
}

/// What the protocol layer refuses without asking the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    AccessDenied,
    InvalidArgument(Cow<'static, str>),
    InvalidRequest(Cow<'static, str>),
    /// An operation, header or sub-resource that Larder does not have.
    NotImplemented(Cow<'static, str>),
    MalformedXml,
    MissingContentLength,
    /// Content-MD5 is no MD5.
    InvalidDigest,
    InvalidTag(Cow<'static, str>),
    TooManyTags,
    InvalidStorageClass,
    MetadataTooLarge,
    KeyTooLong,
    NoSuchVersion,
    NoSuchUpload,
    InvalidBucketName(String),
    IllegalLocation(String),
    /// A setting that is not there is read.
    NoSetting(Setting),
}

/// Bucket settings whose absence S3 reports as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Policy,
    Cors,
    Lifecycle,
    Encryption,
    ObjectLock,
    Tagging,
    Website,
    PublicAccessBlock,
    OwnershipControls,
    Replication,
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> S3Error {
        refused(refusal).into()
    }
}

fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::AccessDenied => answer("AccessDenied", 403, "Access Denied"),
        Refusal::InvalidArgument(why) => answer("InvalidArgument", 400, why),
        Refusal::InvalidRequest(why) => answer("InvalidRequest", 400, why),
        Refusal::NotImplemented(what) => {
            answer("NotImplemented", 501, format!("{what} is not implemented"))
        }
        Refusal::MalformedXml => answer(
            "MalformedXML",
            400,
            "The XML you provided was not well-formed or did not validate against our published \
             schema",
        ),
        Refusal::MissingContentLength => {
            answer("MissingContentLength", 411, "You must provide the Content-Length HTTP header.")
        }
        Refusal::InvalidDigest => {
            answer("InvalidDigest", 400, "The Content-MD5 you specified is not valid.")
        }
        Refusal::TooManyTags => {
            answer("BadRequest", 400, format!("Object tags cannot be greater than {TAGS_MAX}"))
        }
        Refusal::InvalidTag(why) => answer("InvalidTag", 400, why),
        Refusal::InvalidStorageClass => {
            answer("InvalidStorageClass", 400, "The storage class you specified is not valid")
        }
        Refusal::MetadataTooLarge => answer(
            "MetadataTooLarge",
            400,
            "Your metadata headers exceed the maximum allowed metadata size",
        ),
        Refusal::KeyTooLong => answer("KeyTooLongError", 400, "Your key is too long"),
        Refusal::NoSuchVersion => {
            answer("NoSuchVersion", 404, "The specified version does not exist.")
        }
        Refusal::NoSuchUpload => no_such_upload(),
        Refusal::InvalidBucketName(why) => {
            answer("InvalidBucketName", 400, format!("The specified bucket is not valid: {why}"))
        }
        Refusal::IllegalLocation(location) => answer(
            "IllegalLocationConstraintException",
            400,
            format!(
                "The {location} location constraint is incompatible for the region specific \
                 endpoint this request was sent to."
            ),
        ),
        Refusal::NoSetting(setting) => no_setting(setting),
    }
}

fn no_such_upload() -> Answer {
    answer(
        "NoSuchUpload",
        404,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may \
         have been aborted or completed.",
    )
}

fn parts_out_of_order() -> Answer {
    let why = "The list of parts was not in ascending order. Parts must be ordered by part number.";
    answer("InvalidPartOrder", 400, why)
}

fn no_setting(setting: Setting) -> Answer {
    match setting {
        Setting::Policy => answer("NoSuchBucketPolicy", 404, "The bucket policy does not exist"),
        Setting::Cors => {
            answer("NoSuchCORSConfiguration", 404, "The CORS configuration does not exist")
        }
        Setting::Lifecycle => answer(
            "NoSuchLifecycleConfiguration",
            404,
            "The lifecycle configuration does not exist",
        ),
        Setting::Encryption => answer(
            "ServerSideEncryptionConfigurationNotFoundError",
            404,
            "The server side encryption configuration was not found",
        ),
        Setting::ObjectLock => answer(
            "ObjectLockConfigurationNotFoundError",
            404,
            "Object Lock configuration does not exist for this bucket",
        ),
        Setting::Tagging => answer("NoSuchTagSet", 404, "The TagSet does not exist"),
        Setting::Website => answer(
            "NoSuchWebsiteConfiguration",
            404,
            "The specified bucket does not have a website configuration",
        ),
        Setting::PublicAccessBlock => answer(
            "NoSuchPublicAccessBlockConfiguration",
            404,
            "The public access block configuration was not found",
        ),
        Setting::OwnershipControls => answer(
            "OwnershipControlsNotFoundError",
            404,
            "The bucket ownership controls were not found",
        ),
        Setting::Replication => answer(
            "ReplicationConfigurationNotFoundError",
            404,
            "The replication configuration was not found",
        ),
    }
}

/// S3's answer to what the engine says, with the headers that go with it. Causes that concern the
/// operator are logged.
pub(crate) fn engine(err: EngineError) -> S3Error {
    log_causes(&err);
    let answer = answer_to(&err);
    let headers = headers_of(&err, answer.status);
    let mut error = S3Error::from(answer);
    if let Some(headers) = headers {
        error.set_headers(headers);
    }
    error
}

/// The body of an answer breaks off: its status is out already, so the log is all that remains.
pub(crate) fn body_cut(err: &EngineError) {
    tracing::error!(error = chain(err), "an object's body was cut short");
}

fn answer_to(err: &EngineError) -> Answer {
    match err {
        EngineError::NoSuchBucket => {
            answer("NoSuchBucket", 404, "The specified bucket does not exist")
        }
        EngineError::BucketExists => {
            answer("BucketAlreadyExists", 409, "The requested bucket name is not available.")
        }
        EngineError::BucketNotEmpty => {
            answer("BucketNotEmpty", 409, "The bucket you tried to delete is not empty")
        }
        EngineError::Declared => {
            answer("InvalidBucketState", 409, "The configuration declares this bucket.")
        }
        EngineError::NoSuchKey => answer("NoSuchKey", 404, "The specified key does not exist."),
        EngineError::NoSuchUpload => no_such_upload(),
        // Only the operator names backends.
        EngineError::NoSuchBackend => answer("InvalidRequest", 400, "There is no such backend."),
        EngineError::NoSuchAccessKey => answer("InvalidAccessKeyId", 403, "There is no such key."),
        EngineError::ConditionFailed | EngineError::SourceConditionFailed => answer(
            "PreconditionFailed",
            412,
            "At least one of the pre-conditions you specified did not hold",
        ),
        EngineError::Exists => answer("AccessDenied", 403, "Access Denied"),
        EngineError::NotModified { .. } => answer("NotModified", 304, "Not Modified"),
        EngineError::RangeNotSatisfiable { .. } => {
            answer("InvalidRange", 416, "The requested range is not satisfiable")
        }
        EngineError::NoSuchPart => {
            answer("InvalidPartNumber", 416, "The requested partnumber is not satisfiable")
        }
        EngineError::TooLarge { .. } => spelled_out(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed size",
            err,
        ),
        EngineError::InvalidPart { .. } => {
            spelled_out("InvalidPart", "One or more of the specified parts could not be found", err)
        }
        EngineError::InvalidPartOrder => parts_out_of_order(),
        EngineError::PartTooSmall { .. } => spelled_out(
            "EntityTooSmall",
            "Your proposed upload is smaller than the minimum allowed size",
            err,
        ),
        EngineError::BadDigest(what) => answer(
            "BadDigest",
            400,
            format!("The {what} you specified did not match what we received."),
        ),
        EngineError::Body(body) => answer_to_body(body),
        EngineError::Invalid(why) => answer("InvalidRequest", 400, *why),
        EngineError::BucketQuota => {
            answer("QuotaExceeded", 403, "The bucket's quota does not allow this")
        }
        EngineError::TooManyUploads => answer("SlowDown", 503, "Too many uploads are active."),
        EngineError::NoRoom { .. } => {
            answer("InsufficientStorage", 507, "There is not enough room to store this")
        }
        EngineError::Spent => {
            answer("SlowDown", 429, "A limit of the storage behind this object is reached.")
        }
        EngineError::Busy => answer("SlowDown", 503, "Please reduce your request rate."),
        EngineError::Unavailable(_) | EngineError::Store(_) => {
            answer("ServiceUnavailable", 503, "Service is unable to handle request.")
        }
    }
}

/// A mistake of the client's, with what it was.
fn spelled_out(code: &'static str, text: &str, err: &EngineError) -> Answer {
    answer(code, 400, format!("{text}: {err}"))
}

fn answer_to_body(err: &BodyError) -> Answer {
    match err {
        BodyError::Broken | BodyError::TooShort | BodyError::TooLong => answer(
            "IncompleteBody",
            400,
            "You did not provide the number of bytes specified by the Content-Length HTTP header.",
        ),
        BodyError::Stalled => answer(
            "RequestTimeout",
            400,
            "Your socket connection to the server was not read from or written to within the \
             timeout period.",
        ),
        BodyError::ChunkSignature => answer(
            "SignatureDoesNotMatch",
            403,
            "The request signature we calculated does not match the signature you provided.",
        ),
        BodyError::Malformed(what) => {
            answer("InvalidRequest", 400, format!("The framing of the body is malformed: {what}"))
        }
        BodyError::Trailer => answer(
            "MalformedTrailerError",
            400,
            "The request contained trailing data that was not well-formed or did not conform to \
             our published schema.",
        ),
        BodyError::Sha256Mismatch => answer(
            "XAmzContentSHA256Mismatch",
            400,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ),
        BodyError::Source => {
            answer("ServiceUnavailable", 503, "The source of the copy cannot be read now.")
        }
    }
}

/// Headers beyond the body's type. `s3s` takes these in place of its own, so the type is in them.
fn headers_of(err: &EngineError, status: StatusCode) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    match err {
        EngineError::NotModified { etag, modified } => {
            let etag = HeaderValue::try_from(format!("\"{etag}\"")).expect("hexadecimal digits");
            headers.insert(header::ETAG, etag);
            let date = HeaderValue::try_from(dates::http(*modified)).expect("dates are ASCII");
            headers.insert(header::LAST_MODIFIED, date);
            return Some(headers);
        }
        EngineError::RangeNotSatisfiable { size } => {
            let range = HeaderValue::try_from(format!("bytes */{size}")).expect("digits");
            headers.insert(header::CONTENT_RANGE, range);
        }
        EngineError::NoRoom { .. } => {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_FULL);
        }
        EngineError::Spent => {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SPENT);
        }
        _ if status == StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        _ => return None,
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Some(headers)
}

fn log_causes(err: &EngineError) {
    match err {
        _ if err.is_told() => tracing::debug!(error = chain(err), "a request could not be served"),
        EngineError::Unavailable(_) => match UNAVAILABLE.turn(Instant::now()) {
            Some(unsaid) => {
                tracing::error!(error = chain(err), unsaid, "a request could not be served");
            }
            None => tracing::debug!(error = chain(err), "a request could not be served"),
        },
        EngineError::Store(_) => {
            tracing::error!(error = chain(err), "a request could not be served");
        }
        EngineError::NoRoom { .. } => match NO_ROOM.turn(Instant::now()) {
            Some(unsaid) => tracing::warn!(error = chain(err), unsaid, "a write found no place"),
            None => tracing::debug!(error = chain(err), "a write found no place"),
        },
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::model::Etag;

    fn shown(err: EngineError) -> (String, u16) {
        let error = engine(err);
        (error.code().as_str().to_owned(), error.status_code().unwrap().as_u16())
    }

    #[test]
    fn every_meaning_has_the_code_and_status_of_s3() {
        let etag = Etag::of_body([1; 16]);
        let rows = [
            (EngineError::NoSuchBucket, "NoSuchBucket", 404),
            (EngineError::BucketExists, "BucketAlreadyExists", 409),
            (EngineError::BucketNotEmpty, "BucketNotEmpty", 409),
            (EngineError::Declared, "InvalidBucketState", 409),
            (EngineError::NoSuchKey, "NoSuchKey", 404),
            (EngineError::NoSuchUpload, "NoSuchUpload", 404),
            (EngineError::ConditionFailed, "PreconditionFailed", 412),
            (EngineError::SourceConditionFailed, "PreconditionFailed", 412),
            (EngineError::Exists, "AccessDenied", 403),
            (EngineError::NotModified { etag, modified: Timestamp(0) }, "NotModified", 304),
            (EngineError::RangeNotSatisfiable { size: 7 }, "InvalidRange", 416),
            (EngineError::NoSuchPart, "InvalidPartNumber", 416),
            (EngineError::TooLarge { size: 2, max: 1 }, "EntityTooLarge", 400),
            (EngineError::InvalidPart { number: 3 }, "InvalidPart", 400),
            (EngineError::InvalidPartOrder, "InvalidPartOrder", 400),
            (EngineError::PartTooSmall { number: 1, size: 5 }, "EntityTooSmall", 400),
            (EngineError::BadDigest("Content-MD5"), "BadDigest", 400),
            (EngineError::Invalid("no"), "InvalidRequest", 400),
            (EngineError::BucketQuota, "QuotaExceeded", 403),
            (EngineError::TooManyUploads, "SlowDown", 503),
            (EngineError::NoRoom { size: 1 }, "InsufficientStorage", 507),
            (EngineError::Unavailable(None), "ServiceUnavailable", 503),
            (EngineError::Spent, "SlowDown", 429),
            (EngineError::Busy, "SlowDown", 503),
            (BodyError::Broken.into(), "IncompleteBody", 400),
            (BodyError::TooShort.into(), "IncompleteBody", 400),
            (BodyError::TooLong.into(), "IncompleteBody", 400),
            (BodyError::Stalled.into(), "RequestTimeout", 400),
            (BodyError::ChunkSignature.into(), "SignatureDoesNotMatch", 403),
            (BodyError::Malformed("x").into(), "InvalidRequest", 400),
            (BodyError::Trailer.into(), "MalformedTrailerError", 400),
            (BodyError::Sha256Mismatch.into(), "XAmzContentSHA256Mismatch", 400),
        ];
        for (err, code, status) in rows {
            let text = err.to_string();
            assert_eq!(shown(err), (code.to_owned(), status), "{text}");
        }
    }

    #[test]
    fn answers_carry_the_headers_that_clients_act_on() {
        let error = engine(EngineError::RangeNotSatisfiable { size: 7 });
        assert_eq!(error.headers().unwrap()[header::CONTENT_RANGE], "bytes */7");
        assert_eq!(error.headers().unwrap()[header::CONTENT_TYPE], "application/xml");
        let modified = Timestamp(784_111_777_000_000);
        let error = engine(EngineError::NotModified { etag: Etag::of_body([0; 16]), modified });
        let headers = error.headers().unwrap();
        assert_eq!(headers[header::ETAG], format!("\"{}\"", "0".repeat(32)));
        assert_eq!(headers[header::LAST_MODIFIED], "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(engine(EngineError::Busy).headers().unwrap().contains_key(header::RETRY_AFTER));
        let full = engine(EngineError::NoRoom { size: 1 });
        assert_eq!(full.headers().unwrap()[header::RETRY_AFTER], "60");
        let spent = engine(EngineError::Spent);
        assert_eq!(spent.headers().unwrap()[header::RETRY_AFTER], "900");
        assert!(engine(EngineError::NoSuchKey).headers().is_none());
    }

    #[test]
    fn refusals_have_codes_too() {
        let code = |refusal: Refusal| S3Error::from(refusal).code().as_str().to_owned();
        assert_eq!(code(Refusal::NotImplemented("x".into())), "NotImplemented");
        assert_eq!(code(Refusal::InvalidDigest), "InvalidDigest");
        assert_eq!(
            code(Refusal::NoSetting(Setting::Encryption)),
            "ServerSideEncryptionConfigurationNotFoundError"
        );
        let error = S3Error::from(Refusal::NoSetting(Setting::OwnershipControls));
        assert_eq!(error.status_code(), Some(StatusCode::NOT_FOUND));
        let error = S3Error::from(Refusal::MissingContentLength);
        assert_eq!(error.status_code(), Some(StatusCode::LENGTH_REQUIRED));
    }
}
