//! Headers that ask for something this server does not do.
//!
//! s3s hands most of them on as optional fields of an input, where they would be easy to
//! overlook; a setting that is silently not made is worse than a refusal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

use crate::model::ChecksumAlgorithm;
use crate::s3::body_error::CHECKSUM_PREFIX;
use crate::s3::guard::query::Query;
use crate::s3::guard::refusal::Refusal;
use crate::s3::guard::signing::PRESIGNED;
use crate::s3::guard::signing::single;

const META_PREFIX: &str = "x-amz-meta-";
/// Headers with one of these beginnings set something that is not there.
const UNSUPPORTED_PREFIXES: [&str; 9] = [
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-object-lock-",
    "x-amz-grant-",
    "x-amz-fwd-",
    "x-amz-request-route",
    "x-amz-request-token",
    "x-amz-rename-",
    // Conditions that would be overlooked.
    "x-amz-if-match-",
];
const UNSUPPORTED: [&str; 2] = ["x-amz-write-offset-bytes", "x-amz-bypass-governance-retention"];
/// May come more than once: lists.
const LISTS: [&str; 3] =
    ["x-amz-trailer", "x-amz-object-attributes", "x-amz-optional-object-attributes"];

/// Refuses headers that set something unsupported, or come twice, or are no text.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    for name in headers.keys().map(HeaderName::as_str) {
        let amz = name.starts_with("x-amz-") && !name.starts_with(META_PREFIX);
        if !amz && !["host", "content-md5", "content-type", "range"].contains(&name) {
            continue;
        }
        if LISTS.contains(&name) {
            continue;
        }
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Refusal::invalid_argument(name, "The header is given more than once."));
        };
        if amz {
            let value = value.to_str().map_err(|_| {
                Refusal::invalid_argument(name, "The header has characters that it cannot have.")
            })?;
            check_one(name, value)?;
        }
    }
    Ok(())
}

/// The rule for one `x-amz-*` header, or a field of a form with such a name.
pub(crate) fn check_one(name: &str, value: &str) -> Result<(), Refusal> {
    let supported = match name {
        "x-amz-acl" => ["private", "bucket-owner-full-control"].contains(&value),
        "x-amz-object-ownership" => value == "BucketOwnerEnforced",
        "x-amz-bucket-object-lock-enabled" => value.eq_ignore_ascii_case("false"),
        _ => {
            !UNSUPPORTED.contains(&name)
                && !UNSUPPORTED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        }
    };
    if !supported {
        return Err(Refusal::not_implemented(&format!("the header {name}")));
    }
    if let Some(kind) = name.strip_prefix(CHECKSUM_PREFIX)
        && !["mode", "algorithm", "type"].contains(&kind)
        && ChecksumAlgorithm::from_name(kind).is_none()
    {
        return Err(Refusal::not_implemented(&format!("the header {name}")));
    }
    let algorithm = ["x-amz-sdk-checksum-algorithm", "x-amz-checksum-algorithm"].contains(&name);
    if algorithm && ChecksumAlgorithm::from_name(value).is_none() {
        return Err(Refusal::invalid_request(
            "Checksum algorithm provided is unsupported. Please try again with any of the valid \
             types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        ));
    }
    Ok(())
}

/// `Content-MD5`, decoded.
pub(crate) fn content_md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, Refusal> {
    let Some(text) = single(headers, "content-md5")? else { return Ok(None) };
    let md5 = STANDARD.decode(text).ok().and_then(|md5| md5.try_into().ok());
    match md5 {
        Some(md5) => Ok(Some(md5)),
        None => Err(Refusal::bad("InvalidDigest", "The Content-MD5 you specified is not valid.")),
    }
}

/// The trailers that `x-amz-trailer` promises, in lower case; only checksums can be.
pub(crate) fn promised(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    let mut promised = Vec::new();
    for value in headers.get_all("x-amz-trailer") {
        for name in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            let name = name.to_ascii_lowercase();
            let kind = name.strip_prefix(CHECKSUM_PREFIX);
            if kind.and_then(ChecksumAlgorithm::from_name).is_none() {
                return Err(Refusal::invalid_request(
                    "The value specified in the x-amz-trailer header is not supported",
                ));
            }
            if !promised.contains(&name) {
                promised.push(name);
            }
        }
    }
    Ok(promised)
}

fn is_algorithm(name: &str) -> bool {
    ChecksumAlgorithm::from_name(name).is_some()
}

/// The header lines that a presigned URL carries in its query, put where s3s looks for them.
///
/// Some signers move `x-amz-*` headers into the query. A checksum there is that of an empty
/// body, computed before there was one, and says nothing.
pub(crate) fn unfold(headers: &mut HeaderMap, query: &Query) -> Result<(), Refusal> {
    for (name, value) in query.pairs() {
        let lower = name.to_ascii_lowercase();
        if !lower.starts_with("x-amz-")
            || PRESIGNED.contains(&name.as_str())
            || lower.strip_prefix(CHECKSUM_PREFIX).is_some_and(is_algorithm)
            || ["x-amz-security-token", "x-amz-content-sha256", "x-amz-sdk-checksum-algorithm"]
                .contains(&lower.as_str())
        {
            continue;
        }
        let wrong = || Refusal::invalid_argument(name, "This cannot be a header.");
        let header = HeaderName::from_bytes(lower.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong())?;
        if headers.contains_key(&header) {
            return Err(Refusal::invalid_argument(name, "It is in the query and a header."));
        }
        headers.insert(header, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(name: &str, value: &str) -> &'static str {
        check_one(name, value).map_or_else(|refusal| refusal.code, |()| "ok")
    }

    #[test]
    fn what_would_be_overlooked_is_refused() {
        for (name, value, expected) in [
            ("x-amz-acl", "private", "ok"),
            ("x-amz-acl", "bucket-owner-full-control", "ok"),
            ("x-amz-acl", "public-read", "NotImplemented"),
            ("x-amz-grant-read", "id=x", "NotImplemented"),
            ("x-amz-server-side-encryption", "AES256", "NotImplemented"),
            ("x-amz-server-side-encryption-customer-key", "x", "NotImplemented"),
            ("x-amz-object-lock-mode", "GOVERNANCE", "NotImplemented"),
            ("x-amz-bucket-object-lock-enabled", "true", "NotImplemented"),
            ("x-amz-bucket-object-lock-enabled", "false", "ok"),
            ("x-amz-write-offset-bytes", "5", "NotImplemented"),
            ("x-amz-if-match-size", "5", "NotImplemented"),
            ("x-amz-website-redirect-location", "/x", "ok"),
            ("x-amz-storage-class", "GLACIER", "ok"),
            ("x-amz-tagging", "a=b", "ok"),
            ("x-amz-checksum-crc64nvme", "x", "ok"),
            ("x-amz-checksum-mode", "ENABLED", "ok"),
            ("x-amz-checksum-xxhash64", "x", "NotImplemented"),
            ("x-amz-sdk-checksum-algorithm", "MD9", "InvalidRequest"),
            ("x-amz-sdk-checksum-algorithm", "CRC32C", "ok"),
        ] {
            assert_eq!(verdict(name, value), expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_header_comes_once() {
        let mut headers = HeaderMap::new();
        headers.append("x-amz-meta-a", HeaderValue::from_static("1"));
        headers.append("x-amz-meta-a", HeaderValue::from_static("2"));
        headers.append("x-amz-trailer", HeaderValue::from_static("x-amz-checksum-crc32"));
        assert!(check(&headers).is_ok());
        headers.append("x-amz-acl", HeaderValue::from_static("private"));
        headers.append("x-amz-acl", HeaderValue::from_static("public-read"));
        assert_eq!(check(&headers).unwrap_err().code, "InvalidArgument");
    }

    #[test]
    fn a_query_gives_its_headers_back() {
        let query = "X-Amz-Date=1&x-amz-meta-a=b&X-Amz-Acl=private&x-amz-checksum-crc32=AAAAAA==\
                     &x-amz-checksum-mode=ENABLED";
        let query = Query::parse(Some(query)).unwrap();
        let mut headers = HeaderMap::new();
        unfold(&mut headers, &query).unwrap();
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-amz-meta-a"], "b");
        assert_eq!(headers["x-amz-checksum-mode"], "ENABLED");
        assert!(unfold(&mut headers, &query).is_err());
    }

    #[test]
    fn trailers_are_checksums() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-amz-trailer",
            HeaderValue::from_static("X-Amz-Checksum-Crc32c, x-amz-checksum-sha1"),
        );
        let promised_now = promised(&headers).unwrap();
        assert_eq!(promised_now, ["x-amz-checksum-crc32c", "x-amz-checksum-sha1"]);
        headers.insert("x-amz-trailer", HeaderValue::from_static("x-amz-meta-late"));
        assert_eq!(promised(&headers).unwrap_err().code, "InvalidRequest");
    }
}
