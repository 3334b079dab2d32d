//! The guard in front of s3s: refuses what s3s 0.14.1 lets through and must not.
//!
//! It sees a request's head before anything else does and decides without waiting and without
//! reading a byte of the body, so that a client which waits for `100 Continue` is refused before
//! it sends one. Signatures are computed and compared by s3s; here it is made sure that they
//! cover what they must. What s3s refuses and S3 does not is put [`aside`]. Bodies then pass through [`body::GuardBody`].
//!
//! # Invariants
//!
//! - What the guard reads of a request it reads as s3s will: path, query and headers that
//!   the two could take differently are refused.
//! - A request that is let through is signed (a form carries its signature in its fields, which
//!   `post` checks), its mechanism is SigV4, and every `x-amz-*` header is under the signature.

pub(crate) mod aside;
pub(crate) mod body;
pub(crate) mod headers;
pub(crate) mod query;
pub(crate) mod refusal;
pub(crate) mod route;
pub(crate) mod signing;

use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::header;
use http::request::Parts;
use s3s::path::S3Path;

use crate::base::Clock;
use crate::base::limits;
use crate::s3::auth::Keys;
pub(crate) use crate::s3::body_error::BodyFacts;
use crate::s3::chunked::Chunks;
use crate::s3::door::Document;
use crate::s3::host;
use crate::s3::server::S3Settings;

use query::Query;
use refusal::Refusal;
use route::Kind;
use signing::Expected;
use signing::Mechanism;
use signing::Payload;

const DECODED_LENGTH: &str = "x-amz-decoded-content-length";

/// How the body of an admitted request is to be read.
#[derive(Debug)]
pub(crate) enum Admitted {
    Plain,
    /// Not an object but a short document, which s3s collects. It reports every fault of the
    /// stream as its own, so faults must be remembered.
    Document {
        length: Option<u64>,
        sha256: Option<[u8; 32]>,
        md5: Option<[u8; 16]>,
    },
    Chunked(Chunks),
    /// A browser's form to this bucket, still to be authenticated by its fields.
    Form {
        bucket: String,
    },
}

/// Looks at the head of a request; puts [`BodyFacts`] into its extensions.
pub(crate) fn admit(
    parts: &mut Parts,
    settings: &S3Settings,
    clock: &Clock,
    keys: &dyn Keys,
) -> Result<Admitted, Refusal> {
    if parts.method == Method::OPTIONS {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "AccessForbidden",
            "CORSResponse: CORS is not enabled for this bucket.",
        ));
    }
    headers::check(&parts.headers)?;
    let query = Query::parse(parts.uri.query())?;
    let host = host::of(parts).ok_or_else(|| Refusal::invalid_request("Missing Host header."))?;
    let bucket = host::bucket(settings.domain.as_deref(), &host);
    let path = route::path(parts.uri.path(), bucket.as_deref())?;
    let expected = Expected { now: clock.now(), region: &settings.region };
    let mechanism = signing::check(&parts.headers, &query, expected)?;
    if is_form(parts) {
        return admit_form(parts, &path, &query, mechanism);
    }
    let mechanism = mechanism.ok_or_else(|| Refusal::denied("Access Denied"))?;
    if mechanism == Mechanism::Presigned {
        headers::unfold(&mut parts.headers, &query)?;
        headers::check(&parts.headers)?;
    }
    let payload = signing::payload(&parts.headers, mechanism)?;
    aside::put_aside(parts, &query, mechanism, payload, keys);
    let kind = route::kind(&path);
    route::check(&parts.method, kind, &query, &parts.headers)?;
    let (facts, chunks) = body_facts(&parts.headers, payload)?;
    let admitted = match chunks {
        Some(chunks) => Admitted::Chunked(chunks),
        None if writes_body(parts, kind, &query) => Admitted::Plain,
        None => Admitted::Document {
            length: facts.decoded_length,
            sha256: facts.payload_sha256,
            md5: headers::content_md5(&parts.headers)?,
        },
    };
    if writes_body(parts, kind, &query) {
        headers::content_md5(&parts.headers)?;
        check_length(&facts)?;
    } else if facts.decoded_length.is_some_and(|length| length > limits::XML_BODY_MAX as u64) {
        let message = "Your request was too large.";
        return Err(Refusal::bad("MaxMessageLengthExceeded", message)
            .with("MaxMessageLengthBytes", limits::XML_BODY_MAX.to_string()));
    }
    if let Some(length) = facts.decoded_length.filter(|_| !writes_body(parts, kind, &query)) {
        parts.extensions.insert(Document(length));
    }
    parts.extensions.insert(facts);
    Ok(admitted)
}

/// As s3s decides it: such a request never reaches its ordinary signature check.
fn is_form(parts: &Parts) -> bool {
    const FORM: &[u8] = b"multipart/form-data";
    let content_type = parts.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let start = content_type.and_then(|value| value.trim_ascii().get(..FORM.len()));
    parts.method == Method::POST && start.is_some_and(|start| start.eq_ignore_ascii_case(FORM))
}

fn admit_form(
    parts: &mut Parts,
    path: &S3Path,
    query: &Query,
    mechanism: Option<Mechanism>,
) -> Result<Admitted, Refusal> {
    let S3Path::Bucket { bucket } = path else {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "A form is posted to a bucket.",
        ));
    };
    if mechanism.is_some() {
        return Err(Refusal::invalid_argument(
            "Authorization",
            "A form is authenticated by its fields alone.",
        ));
    }
    if let Some((name, _)) = query.pairs().first() {
        return Err(Refusal::not_implemented(&format!("the query parameter {name}")));
    }
    let length = content_length(&parts.headers)?.ok_or_else(Refusal::missing_length)?;
    parts.extensions.insert(BodyFacts::default());
    tracing::trace!(length, "a form begins");
    Ok(Admitted::Form { bucket: bucket.to_string() })
}

fn body_facts(
    headers: &HeaderMap,
    payload: Payload,
) -> Result<(BodyFacts, Option<Chunks>), Refusal> {
    let mut facts = BodyFacts::default();
    let declared = number(headers, DECODED_LENGTH)?;
    let sent = content_length(headers)?;
    let Payload::Chunked(framing) = payload else {
        let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes());
        if encoding.is_some_and(|value| value.starts_with(b"aws-chunked")) {
            return Err(Refusal::invalid_request(
                "Content-Encoding aws-chunked goes with a STREAMING form of x-amz-content-sha256.",
            ));
        }
        if declared.is_some() && declared != sent {
            return Err(Refusal::invalid_argument(
                DECODED_LENGTH,
                "It differs from Content-Length, and the body is not aws-chunked.",
            ));
        }
        if let Payload::Sha256(hash) = payload {
            facts.payload_sha256 = Some(hash);
        }
        facts.decoded_length = sent;
        return Ok((facts, None));
    };
    let declared = declared.ok_or_else(Refusal::missing_length)?;
    facts.decoded_length = Some(declared);
    facts.trailers = headers::promised(headers)?;
    let chunks = Chunks::new(framing, declared, facts.trailers.clone());
    Ok((facts, Some(chunks)))
}

/// Whether the body becomes an object or a part of one.
fn writes_body(parts: &Parts, kind: Kind, query: &Query) -> bool {
    let plain = !query.pairs().iter().any(|(name, _)| route::is_routed(&parts.method, kind, name));
    parts.method == Method::PUT
        && kind == Kind::Object
        && plain
        && !parts.headers.contains_key("x-amz-copy-source")
}

fn check_length(facts: &BodyFacts) -> Result<(), Refusal> {
    let length = facts.decoded_length.ok_or_else(Refusal::missing_length)?;
    if length <= limits::PUT_SIZE_MAX {
        return Ok(());
    }
    Err(Refusal::bad("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
        .with("ProposedSize", length.to_string())
        .with("MaxSizeAllowed", limits::PUT_SIZE_MAX.to_string()))
}

pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    number(headers, header::CONTENT_LENGTH.as_str())
}

fn number(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>, Refusal> {
    let Some(text) = signing::single(headers, name)? else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(Some(number)),
        _ => Err(Refusal::invalid_argument(name, "It is no number of bytes.")),
    }
}
