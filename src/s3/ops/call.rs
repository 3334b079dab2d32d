//! What a handler needs of its request beside the typed input.
//!
//! # Why the query is looked at again
//!
//! `s3s` routes by the sub-resources that it knows and takes any other for the plain operation: a
//! PUT of `?encryption` would store an object, a DELETE of `?versioning` delete a bucket. A request
//! that writes is therefore refused when its query has a name that its operation does not know, and
//! one that reads when the name is that of a sub-resource.
//!
//! In a presigned URL headers may stand in the query: SDKs put metadata and ACLs there. They are
//! signed with it, so they are taken as if they had been sent as headers.

use futures_util::StreamExt;
use http::Extensions;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use percent_encoding::percent_decode_str;
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

/// Headers that ask for something that Larder does not do. Ignoring them would be a lie.
const UNSUPPORTED_HEADERS: [&str; 17] = [
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-context",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-write-offset-bytes",
];
/// Canned ACLs that say what is so anyway.
const ACCEPTED_ACLS: [&str; 2] = ["private", "bucket-owner-full-control"];
/// Sub-resources of S3 that a plain read must not be taken for.
const SUBRESOURCES: [&str; 33] = [
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metadataConfiguration",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "session",
    "tagging",
    "torrent",
    "uploads",
    "website",
];

/// Query parameters of a presigned URL that are the signature's own.
const SIGNATURE_PARAMETERS: [&str; 8] = [
    "x-amz-algorithm",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
];

/// The request without its input.
pub(super) struct Call {
    pub(super) headers: HeaderMap,
    pub(super) granted: Granted,
    uri: Uri,
    extensions: Extensions,
    trailers: Option<TrailingHeaders>,
}

impl Call {
    /// Takes a request apart. Refuses one that nobody has authorised, and one for another owner.
    pub(super) fn open<T>(mut req: S3Request<T>) -> S3Result<(T, Call)> {
        let Some(granted) = req.extensions.remove::<Granted>() else {
            return Err(Refusal::AccessDenied.into());
        };
        add_signed_parameters(&req.uri, &mut req.headers);
        for name in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
            if convert::text(&req.headers, name)?.is_some_and(|owner| owner != OWNER) {
                return Err(Refusal::AccessDenied.into());
            }
        }
        let call = Call {
            headers: req.headers,
            granted,
            uri: req.uri,
            extensions: req.extensions,
            trailers: req.trailing_headers,
        };
        Ok((req.input, call))
    }

    /// The value of a header: `None` when it is absent or empty.
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, Refusal> {
        convert::text(&self.headers, name)
    }

    /// For what writes: refuses queries with names other than `known` and S3's common ones, and
    /// headers that ask for what there is not.
    pub(super) fn writes(&self, known: &[&str]) -> Result<(), Refusal> {
        if let Some(name) = query_names(&self.uri).find(|name| !is_known(name, known)) {
            return Err(Refusal::NotImplemented(format!("The sub-resource {name}").into()));
        }
        refuse_unsupported(&self.headers)
    }

    /// For what reads: refuses queries that name a sub-resource other than `known`.
    pub(super) fn reads(&self, known: &[&str]) -> Result<(), Refusal> {
        let foreign = |name: &&str| SUBRESOURCES.contains(name) && !known.contains(name);
        match query_names(&self.uri).find(foreign) {
            Some(name) => Err(Refusal::NotImplemented(format!("The sub-resource {name}").into())),
            None => Ok(()),
        }
    }

    pub(super) fn may(&self, bucket: &str, key: &ObjectKey, action: Action) -> bool {
        BucketName::new(bucket)
            .is_ok_and(|bucket| self.granted.key.grants.allow_key(&bucket, key, action))
    }

    /// The answer to a failed read of `key`: who may not list does not learn that it is missing.
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
        // `s3s` finds copies by their header alone.
        if self.headers.contains_key("x-amz-copy-source") {
            return Err(Refusal::NotImplemented("A copy source in the query".into()));
        }
        let facts = self.extensions.get::<BodyFacts>();
        let announced = checksums::announced(texts, md5, &self.headers, facts)?;
        let size = size_of(facts, content_length, blob.as_ref())?;
        Ok(body_of(size, blob, announced, self.trailers.take()))
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
    engine::Body { size, stream, expected: announced.expected, trailer, draws: true }
}

/// The key of a request.
pub(super) fn key(text: String) -> Result<ObjectKey, Refusal> {
    ObjectKey::new(text).map_err(|_| Refusal::KeyTooLong)
}

/// There are no versions but the current one, which is called `null`.
pub(super) fn current_only(version: Option<&str>) -> Result<(), Refusal> {
    match version {
        None | Some("" | "null") => Ok(()),
        Some(_) => Err(Refusal::NoSuchVersion),
    }
}

/// A canned ACL that would change something is refused.
pub(super) fn check_acl(acl: Option<&str>) -> Result<(), Refusal> {
    match acl {
        Some(acl) if !ACCEPTED_ACLS.contains(&acl) => {
            Err(Refusal::NotImplemented(format!("The canned ACL {acl}").into()))
        }
        _ => Ok(()),
    }
}

fn refuse_unsupported(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = |name: &&&str| headers.get(**name).is_some_and(|value| !value.is_empty());
    if let Some(name) = UNSUPPORTED_HEADERS.iter().find(given) {
        return Err(Refusal::NotImplemented(format!("The header {name}").into()));
    }
    check_acl(convert::text(headers, "x-amz-acl")?)
}

fn query_names(uri: &Uri) -> impl Iterator<Item = &str> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
}

/// Adds what a presigned URL says in place of headers. What is a header already stays.
fn add_signed_parameters(uri: &Uri, headers: &mut HeaderMap) {
    if !query_names(uri).any(|name| name.eq_ignore_ascii_case("x-amz-signature")) {
        return;
    }
    for pair in uri.query().unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = name.to_ascii_lowercase();
        if !name.starts_with("x-amz-") || SIGNATURE_PARAMETERS.contains(&name.as_str()) {
            continue;
        }
        let value: Vec<u8> = percent_decode_str(value).collect();
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        else {
            continue;
        };
        headers.entry(name).or_insert(value);
    }
}

/// Names that begin with `x-` are signatures, SDKs' notes and what users add for their logs.
fn is_known(name: &str, known: &[&str]) -> bool {
    let custom = name.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case("x-"));
    custom || known.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AccessKey;
    use crate::model::Grants;

    fn call(query: &'static str, headers: &[(&'static str, &'static str)]) -> Call {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let key = AccessKey {
            id: "id".into(),
            secret: "secret".into(),
            grants: Grants::default(),
            declared: false,
        };
        Call {
            headers: headers.collect(),
            granted: Granted { key, create_only: false },
            uri: format!("/bucket/key?{query}").parse().unwrap(),
            extensions: Extensions::new(),
            trailers: None,
        }
    }

    fn is_refused(result: Result<(), Refusal>) -> bool {
        matches!(result, Err(Refusal::NotImplemented(_)))
    }

    #[test]
    fn no_sub_resource_is_taken_for_the_plain_operation() {
        for query in ["encryption", "versioning=", "partNumber=1", "foo=bar", "renameObject"] {
            assert!(is_refused(call(query, &[]).writes(&[])), "{query}");
        }
        for query in ["", "x-id=PutObject", "X-Amz-Signature=1&X-Amz-Expires=5", "x-mine=1"] {
            assert_eq!(call(query, &[]).writes(&[]), Ok(()), "{query}");
        }
        assert_eq!(call("versionId=null", &[]).writes(&["versionId"]), Ok(()));
        assert!(is_refused(call("encryption", &[]).reads(&[])));
        assert_eq!(call("prefix=a&foo=bar&max-keys=1", &[]).reads(&[]), Ok(()));
        assert_eq!(call("uploads", &[]).reads(&["uploads"]), Ok(()));
    }

    #[test]
    fn headers_that_ask_for_more_than_there_is_are_refused() {
        for name in UNSUPPORTED_HEADERS {
            assert!(is_refused(call("", &[(name, "x")]).writes(&[])), "{name}");
            assert_eq!(call("", &[(name, "")]).writes(&[]), Ok(()), "{name}");
        }
        for acl in ["public-read", "public-read-write", "authenticated-read", "log-delivery-write"]
        {
            assert!(is_refused(call("", &[("x-amz-acl", acl)]).writes(&[])), "{acl}");
        }
        for acl in ACCEPTED_ACLS {
            assert_eq!(call("", &[("x-amz-acl", acl)]).writes(&[]), Ok(()), "{acl}");
        }
    }

    #[test]
    fn a_presigned_url_says_what_headers_say() {
        let uri: Uri = "/b/k?X-Amz-Signature=1&X-Amz-Date=2&x-amz-meta-a=%C3%A9&x-amz-acl=private\
                        &x-amz-meta-b=query&partNumber=1"
            .parse()
            .unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-meta-b", HeaderValue::from_static("header"));
        add_signed_parameters(&uri, &mut headers);
        assert_eq!(headers["x-amz-meta-a"].as_bytes(), "é".as_bytes());
        assert_eq!(headers["x-amz-meta-b"], "header");
        assert_eq!(headers["x-amz-acl"], "private");
        assert_eq!(headers.len(), 3);
        let unsigned: Uri = "/b/k?x-amz-acl=public-read".parse().unwrap();
        let mut headers = HeaderMap::new();
        add_signed_parameters(&unsigned, &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_copy_source_in_the_query_does_not_make_a_put_of_nothing() {
        let mut call = call("", &[("x-amz-copy-source", "b/k")]);
        let refused = call.body(None, Some(0), Texts::default(), None);
        assert!(matches!(refused, Err(Refusal::NotImplemented(_))));
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
        let call = call("", &[]);
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
            uri: Uri::from_static("/"),
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
