//! What a request is about, and whether it is anything that this server does.
//!
//! s3s chooses the operation by a few query parameters and falls back to the plain one (PutObject,
//! ListObjects, ...) when it knows none of them. Here a request whose query means more than
//! s3s will see is refused, so that nothing falls into an operation that it did not name.

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use s3s::path::ParseS3PathError;
use s3s::path::S3Path;

use crate::s3::guard::query::Query;
use crate::s3::guard::query::decode;
use crate::s3::guard::refusal::Refusal;

const COPY_SOURCE: &str = "x-amz-copy-source";

/// The kind of thing that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Root,
    Bucket,
    Object,
}

/// The path as s3s will read it: every byte of a key is kept.
pub(crate) fn path(raw: &str, vhost_bucket: Option<&str>) -> Result<S3Path, Refusal> {
    let decoded = decode(raw).ok_or_else(Refusal::bad_uri)?;
    if decoded.contains('\0') {
        return Err(Refusal::bad_uri());
    }
    s3s::path::parse_virtual_hosted_style(vhost_bucket, &decoded).map_err(|err| match err {
        ParseS3PathError::InvalidPath => Refusal::bad_uri(),
        ParseS3PathError::InvalidBucketName => {
            Refusal::bad("InvalidBucketName", "The specified bucket is not valid.")
        }
        ParseS3PathError::KeyTooLong => Refusal::bad("KeyTooLongError", "Your key is too long."),
    })
}

pub(crate) fn kind(path: &S3Path) -> Kind {
    match path {
        S3Path::Root => Kind::Root,
        S3Path::Bucket { .. } => Kind::Bucket,
        S3Path::Object { .. } => Kind::Object,
    }
}

/// Every parameter that selects an operation in S3, whether or not s3s knows it.
const SUBRESOURCES: [&str; 42] = [
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "append",
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
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "select-type",
    "session",
    "tagging",
    "torrent",
    "updateObjectEncryption",
    "uploads",
    "versioning",
    "versions",
    "website",
    "rename",
];

const SETTINGS: &[&str] = &[
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "tagging",
    "versioning",
    "website",
];
const READ_ONLY: &[&str] =
    &["location", "metadataTable", "policyStatus", "session", "uploads", "versions"];
const DELETABLE: &[&str] = &[
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "metadataTable",
    "metrics",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "tagging",
    "website",
];

/// Whether s3s sends `name` to an operation of its own.
pub(crate) fn is_routed(method: &Method, kind: Kind, name: &str) -> bool {
    let lists: &[&[&str]] = match (method.as_str(), kind) {
        ("GET", Kind::Bucket) => &[SETTINGS, READ_ONLY],
        ("GET", Kind::Object) => {
            &[&["acl", "attributes", "legal-hold", "retention", "tagging", "torrent"]]
        }
        ("PUT", Kind::Bucket) => &[SETTINGS],
        ("PUT", Kind::Object) => &[&["acl", "legal-hold", "retention", "tagging"]],
        ("POST", Kind::Bucket) => &[&["delete", "metadataTable"]],
        ("POST", Kind::Object) => &[&["restore", "uploads"]],
        ("DELETE", Kind::Bucket) => &[DELETABLE],
        ("DELETE", Kind::Object) => &[&["tagging"]],
        _ => &[],
    };
    lists.iter().any(|list| list.contains(&name))
}

/// Parameters that change nothing in what a request does: those of signatures, notes of clients,
/// and what users add for their logs.
fn is_harmless(name: &str) -> bool {
    name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-"))
}

/// Parameters of a writing request that belong to an operation of its path.
fn is_argument(method: &Method, kind: Kind, subresource: Option<&str>, name: &str) -> bool {
    match (method.as_str(), kind, subresource) {
        ("PUT" | "DELETE", Kind::Bucket, Some(_)) => name == "id",
        ("PUT", Kind::Object, None) => matches!(name, "partNumber" | "uploadId"),
        ("POST", Kind::Object, None) => name == "uploadId",
        ("DELETE", Kind::Object, None) => matches!(name, "uploadId" | "versionId"),
        ("PUT" | "DELETE", Kind::Object, Some("tagging")) => name == "versionId",
        ("PUT", Kind::Object, Some(_)) => name == "versionId",
        _ => false,
    }
}

/// Refuses what s3s would take for something else.
pub(crate) fn check(
    method: &Method,
    kind: Kind,
    query: &Query,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    if ![Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE].contains(method) {
        return Err(not_allowed());
    }
    if kind == Kind::Root && method != Method::GET {
        return Err(not_allowed());
    }
    let selected = || query.pairs().iter().filter(|(name, _)| SUBRESOURCES.contains(&&**name));
    if let Some((name, _)) = selected().find(|(name, _)| !is_routed(method, kind, name)) {
        return Err(Refusal::not_implemented(&format!("the query parameter {name}")));
    }
    if let Some((other, _)) = selected().nth(1) {
        return Err(Refusal::invalid_argument(
            other,
            "The query names more than one operation on the resource.",
        ));
    }
    let subresource = selected().next().map(|(name, _)| name.as_str());
    let reads = method == Method::GET || method == Method::HEAD;
    if !reads {
        for (name, _) in query.pairs() {
            if Some(name.as_str()) != subresource
                && !is_harmless(name)
                && !is_argument(method, kind, subresource, name)
            {
                return Err(Refusal::not_implemented(&format!("the query parameter {name}")));
            }
        }
    }
    check_arguments(method, kind, subresource, query)?;
    check_version(kind, query)?;
    check_copy_source(method, kind, subresource, headers)
}

fn check_arguments(
    method: &Method,
    kind: Kind,
    subresource: Option<&str>,
    query: &Query,
) -> Result<(), Refusal> {
    if let Some(value) = query.get("list-type")
        && kind == Kind::Bucket
        && method == Method::GET
        && subresource.is_none()
        && value != "2"
    {
        return Err(Refusal::invalid_argument("list-type", "Invalid value for list-type."));
    }
    if kind != Kind::Object {
        return Ok(());
    }
    check_overrides(query)?;
    let (upload, part) = (query.has("uploadId"), query.has("partNumber"));
    if method == Method::PUT && upload != part {
        return Err(Refusal::invalid_argument(
            if upload { "partNumber" } else { "uploadId" },
            "A part is uploaded with both uploadId and partNumber.",
        ));
    }
    if method == Method::POST && subresource.is_none() && !upload {
        return Err(not_allowed());
    }
    if upload && (method == Method::HEAD || (method == Method::GET && subresource.is_some())) {
        return Err(Refusal::invalid_argument("uploadId", "There is no such use of uploadId."));
    }
    if upload && (query.has("versionId") || (method == Method::GET && part)) {
        return Err(Refusal::invalid_argument("uploadId", "There is no such use of uploadId."));
    }
    Ok(())
}

/// What is to become a header of the answer must be able to; s3s finds out when it is too late.
fn check_overrides(query: &Query) -> Result<(), Refusal> {
    let overrides = query.pairs().iter().filter(|(name, _)| name.starts_with("response-"));
    for (name, value) in overrides {
        if HeaderValue::from_str(value).is_err() {
            return Err(Refusal::invalid_argument(name, "This cannot be a header."));
        }
    }
    Ok(())
}

/// There is one version of an object, and it is `null`.
fn check_version(kind: Kind, query: &Query) -> Result<(), Refusal> {
    match query.get("versionId") {
        Some("") => {
            Err(Refusal::invalid_argument("versionId", "Version id cannot be the empty string"))
        }
        Some(id) if kind == Kind::Object && id != "null" => Err(no_such_version(id)),
        _ => Ok(()),
    }
}

fn check_copy_source(
    method: &Method,
    kind: Kind,
    subresource: Option<&str>,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Some(source) = headers.get(COPY_SOURCE) else { return Ok(()) };
    if method != Method::PUT || kind != Kind::Object || subresource.is_some() {
        return Err(Refusal::invalid_argument(
            COPY_SOURCE,
            "This operation does not accept a copy source.",
        ));
    }
    let wrong = || {
        Refusal::invalid_argument(
            COPY_SOURCE,
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
        )
    };
    let source = source.to_str().map_err(|_| wrong())?;
    let (path, version) = match source.split_once('?') {
        Some((path, query)) => (path, Some(query.strip_prefix("versionId=").ok_or_else(wrong)?)),
        None => (source, None),
    };
    let path = decode(path).filter(|path| !path.contains('\0')).ok_or_else(wrong)?;
    let (_, key) = path.trim_start_matches('/').split_once('/').ok_or_else(wrong)?;
    if key.is_empty() || path.starts_with("//") || path.starts_with("arn:") {
        return Err(wrong());
    }
    match version {
        None | Some("null") => Ok(()),
        Some(id) => Err(no_such_version(id)),
    }
}

fn no_such_version(id: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "NoSuchVersion", "The specified version does not exist.")
        .with("VersionId", id)
}

fn not_allowed() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        "The specified method is not allowed against this resource.",
    )
}

/// For the test that walks every route.
#[cfg(test)]
pub(crate) fn subresources() -> &'static [&'static str] {
    &SUBRESOURCES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: &str, kind: Kind, query: &str, source: Option<&str>) -> &'static str {
        let mut headers = HeaderMap::new();
        if let Some(source) = source {
            headers.insert(COPY_SOURCE, HeaderValue::from_str(source).unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let query = Query::parse(Some(query)).unwrap();
        check(&method, kind, &query, &headers).map_or_else(|refusal| refusal.code, |()| "ok")
    }

    #[test]
    fn nothing_falls_into_an_operation_that_it_did_not_name() {
        use Kind::*;
        for (method, kind, query, expected) in [
            ("PUT", Object, "", "ok"),
            ("PUT", Object, "x-id=PutObject", "ok"),
            ("PUT", Object, "foo", "NotImplemented"),
            ("PUT", Object, "x-user=me", "ok"),
            ("PUT", Object, "encryption", "NotImplemented"),
            ("PUT", Object, "renameObject", "NotImplemented"),
            ("PUT", Object, "versioning", "NotImplemented"),
            ("PUT", Object, "partNumber=1", "InvalidArgument"),
            ("PUT", Object, "uploadId=1", "InvalidArgument"),
            ("PUT", Object, "partNumber=1&uploadId=1", "ok"),
            ("PUT", Object, "acl&tagging", "InvalidArgument"),
            ("PUT", Object, "tagging&uploadId=1", "NotImplemented"),
            ("PUT", Object, "versionId=null", "NotImplemented"),
            ("PUT", Bucket, "", "ok"),
            ("PUT", Bucket, "versioning", "ok"),
            ("PUT", Bucket, "uploads", "NotImplemented"),
            ("PUT", Bucket, "delete", "NotImplemented"),
            ("PUT", Bucket, "prefix=a", "NotImplemented"),
            ("DELETE", Object, "", "ok"),
            ("DELETE", Object, "versionId=null", "ok"),
            ("DELETE", Object, "versionId=3", "NoSuchVersion"),
            ("DELETE", Object, "versionId=", "InvalidArgument"),
            ("DELETE", Object, "retention", "NotImplemented"),
            ("DELETE", Object, "acl", "NotImplemented"),
            ("DELETE", Object, "partNumber=1", "NotImplemented"),
            ("DELETE", Object, "uploadId=1", "ok"),
            ("DELETE", Bucket, "policy", "ok"),
            ("DELETE", Bucket, "versioning", "NotImplemented"),
            ("DELETE", Bucket, "acl", "NotImplemented"),
            ("DELETE", Bucket, "uploads", "NotImplemented"),
            ("DELETE", Bucket, "foo", "NotImplemented"),
            ("GET", Object, "versionId=null&partNumber=1", "ok"),
            ("GET", Object, "uploadId=1&max-parts=5", "ok"),
            ("GET", Object, "policy", "NotImplemented"),
            ("GET", Object, "response-expires=a%0Db", "InvalidArgument"),
            ("HEAD", Object, "response-content-type=a%00", "InvalidArgument"),
            ("HEAD", Object, "response-content-type=a/%C3%A9", "ok"),
            ("GET", Object, "cache=buster", "ok"),
            ("GET", Bucket, "list-type=2&prefix=x", "ok"),
            ("GET", Bucket, "list-type=3", "InvalidArgument"),
            ("GET", Bucket, "abac", "NotImplemented"),
            ("GET", Bucket, "versions&prefix=x", "ok"),
            ("HEAD", Object, "versionId=3", "NoSuchVersion"),
            ("HEAD", Object, "acl", "NotImplemented"),
            ("HEAD", Object, "uploadId=1", "InvalidArgument"),
            ("POST", Bucket, "delete", "ok"),
            ("POST", Object, "uploads", "ok"),
            ("POST", Object, "uploadId=1", "ok"),
            ("POST", Object, "select&select-type=2", "NotImplemented"),
            ("POST", Object, "select", "NotImplemented"),
            ("POST", Object, "", "MethodNotAllowed"),
            ("POST", Object, "append&position=0", "NotImplemented"),
            ("POST", Root, "", "MethodNotAllowed"),
            ("PATCH", Object, "", "MethodNotAllowed"),
            ("TRACE", Root, "", "MethodNotAllowed"),
        ] {
            assert_eq!(verdict(method, kind, query, None), expected, "{method} {kind:?} ?{query}");
        }
    }

    #[test]
    fn a_copy_source_is_an_object_and_belongs_to_a_copy() {
        use Kind::*;
        for (method, kind, query, source, expected) in [
            ("PUT", Object, "", "/b/k", "ok"),
            ("PUT", Object, "", "bbb/k%3Fx", "ok"),
            ("PUT", Object, "", "/b/k?versionId=null", "ok"),
            ("PUT", Object, "partNumber=1&uploadId=1", "/b/k", "ok"),
            ("PUT", Object, "", "/b/k?versionId=1", "NoSuchVersion"),
            ("PUT", Object, "", "/b/k?acl", "InvalidArgument"),
            ("PUT", Object, "", "/b", "InvalidArgument"),
            ("PUT", Object, "", "/b/", "InvalidArgument"),
            ("PUT", Object, "", "/b/%zz", "InvalidArgument"),
            ("PUT", Object, "acl", "/b/k", "InvalidArgument"),
            ("PUT", Bucket, "", "/b/k", "InvalidArgument"),
            ("DELETE", Object, "", "/b/k", "InvalidArgument"),
        ] {
            let verdict = verdict(method, kind, query, Some(source));
            assert_eq!(verdict, expected, "{method} {kind:?} ?{query} {source}");
        }
    }

    #[test]
    fn keys_keep_every_byte() {
        let key = |raw: &str| match path(raw, None) {
            Ok(S3Path::Object { key, .. }) => key.into_string(),
            other => panic!("{raw}: {other:?}"),
        };
        for (raw, expected) in [
            ("/bbb/a//b", "a//b"),
            ("/bbb//a", "/a"),
            ("/bbb/./a/../b/", "./a/../b/"),
            ("/bbb/a%2Fb+c", "a/b+c"),
            ("/bbb/a%2Bb%20c", "a+b c"),
            ("/bbb/%25zz", "%zz"),
            ("/bbb/..", ".."),
            ("/bbb//", "/"),
        ] {
            assert_eq!(key(raw), expected);
        }
        let refused = |raw: &str| path(raw, None).unwrap_err().code;
        assert_eq!(refused("/bbb/%00"), "InvalidURI");
        assert_eq!(refused("/bbb/%FF"), "InvalidURI");
        assert_eq!(refused("/bbb/%zz"), "InvalidURI");
        assert_eq!(refused(&format!("/bbb/{}", "é".repeat(513))), "KeyTooLongError");
        assert_eq!(refused("/Bad_Name/k"), "InvalidBucketName");
        assert!(matches!(path("/k/x", Some("bbb")), Ok(S3Path::Object { .. })));
        assert!(matches!(path("/", Some("bbb")), Ok(S3Path::Bucket { .. })));
    }
}
