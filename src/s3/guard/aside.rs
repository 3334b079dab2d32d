//! Headers that S3 takes as they come and s3s refuses.
//!
//! s3s parses conditions, ranges and dates before an operation sees them, and answers 400 where
//! S3 passes over a malformed one, reads a form that s3s does not know, or keeps the text as it
//! stands. Such headers are put aside here; the operations, which read headers themselves, get
//! them back with [`Aside::give_back`].
//!
//! # Why requests are signed anew
//!
//! s3s computes the signature over the headers that it is given, so one that is signed cannot just
//! be taken away. The signature is therefore verified here, over the request as it came, and only
//! if it holds another one over what is left takes its place, made with the same secret; s3s
//! verifies that one as any other. What cannot be signed anew is left as it is, and s3s refuses
//! it: a signature that does not hold, a presigned URL, and a body in signed chunks, whose
//! signatures go on from that of the head.
//!
//! # Invariants
//!
//! - A header under the signature leaves the request only after the signature was verified.
//! - Nothing is added to a request but a signature that covers less than the one that held.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;
use http::header::AUTHORIZATION;
use http::request::Parts;
use percent_encoding::AsciiSet;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::utf8_percent_encode;
use ring::hmac;
use s3s::dto;
use sha2::Digest;
use sha2::Sha256;

use crate::s3::auth::Keys;
use crate::s3::chunked::Framing;
use crate::s3::guard::query::Query;
use crate::s3::guard::query::decode;
use crate::s3::guard::signing;
use crate::s3::guard::signing::Authorization;
use crate::s3::guard::signing::Mechanism;
use crate::s3::guard::signing::Payload;
use crate::s3::guard::signing::Scope;
use crate::s3::host;

const DATES: [HeaderName; 5] = [
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::EXPIRES,
    HeaderName::from_static("x-amz-copy-source-if-modified-since"),
    HeaderName::from_static("x-amz-copy-source-if-unmodified-since"),
];
const ETAGS: [HeaderName; 4] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    HeaderName::from_static("x-amz-copy-source-if-match"),
    HeaderName::from_static("x-amz-copy-source-if-none-match"),
];
/// What SigV4 leaves as it is in a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// And in a path.
const PLAIN_PATH: &AsciiSet = &PLAIN.remove(b'/');

/// The headers that s3s did not see: an extension of their request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside(HeaderMap);

impl Aside {
    pub(crate) fn give_back(self, headers: &mut HeaderMap) {
        headers.extend(self.0);
    }
}

/// Puts aside what s3s would refuse and S3 would not.
pub(crate) fn put_aside(
    parts: &mut Parts,
    query: &Query,
    mechanism: Mechanism,
    payload: Payload,
    keys: &dyn Keys,
) {
    let mut unfit = unfit(&parts.headers);
    if unfit.is_empty() {
        return;
    }
    let authorization = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let authorization = authorization.and_then(|value| Authorization::parse(value).ok());
    let names = match mechanism {
        Mechanism::Header => authorization.map(|authorization| authorization.signed),
        Mechanism::Presigned => query.get("X-Amz-SignedHeaders"),
    };
    let names: Vec<&str> = names.unwrap_or_default().split(';').collect();
    let signed = unfit.iter().any(|name| names.contains(&name.as_str()));
    let again = match authorization.filter(|_| signed) {
        Some(authorization) => {
            sign_anew(parts, query, payload, (&authorization, &names), keys, &unfit)
        }
        None => None,
    };
    if signed && again.is_none() {
        unfit.retain(|name| !names.contains(&name.as_str()));
    }
    if let Some(again) = again {
        parts.headers.insert(AUTHORIZATION, again);
    }
    let mut aside = Aside::default();
    for name in unfit {
        if let header::Entry::Occupied(found) = parts.headers.entry(name) {
            let (name, values) = found.remove_entry_mult();
            for value in values {
                aside.0.append(name.clone(), value);
            }
        }
    }
    parts.extensions.insert(aside);
}

/// The headers that s3s would refuse, as its own parsers say.
fn unfit(headers: &HeaderMap) -> Vec<HeaderName> {
    let is_fit = |name: &HeaderName, parses: &dyn Fn(&HeaderValue) -> bool| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.is_empty() || parses(value),
            (None, _) => true,
            (Some(_), Some(_)) => false,
        }
    };
    let http_date = dto::TimestampFormat::HttpDate;
    let date = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| dto::Timestamp::parse(http_date, text).is_ok())
    };
    let etag =
        |value: &HeaderValue| dto::ETagCondition::parse_http_header(value.as_bytes()).is_ok();
    let range =
        |value: &HeaderValue| value.to_str().is_ok_and(|text| dto::Range::parse(text).is_ok());
    let dates = DATES.into_iter().filter(|name| !is_fit(name, &date));
    let etags = ETAGS.into_iter().filter(|name| !is_fit(name, &etag));
    let ranges = [header::RANGE].into_iter().filter(|name| !is_fit(name, &range));
    dates.chain(etags).chain(ranges).collect()
}

/// The authorization of the request without `unfit`; `None` unless the one that it has holds.
fn sign_anew(
    parts: &Parts,
    query: &Query,
    payload: Payload,
    (authorization, names): (&Authorization<'_>, &[&str]),
    keys: &dyn Keys,
    unfit: &[HeaderName],
) -> Option<HeaderValue> {
    if matches!(payload, Payload::Chunked(Framing::Signed | Framing::SignedTrailer)) {
        return None;
    }
    let scope = Scope::parse(authorization.credential)?;
    let date = signing::single(&parts.headers, "x-amz-date").ok()??;
    let key = scope.signing_key(&keys.key(scope.key)?.secret);
    let given = signing::unhex(authorization.signature)?;
    let raw = parts.uri.path();
    let path = utf8_percent_encode(&decode(raw)?, PLAIN_PATH).to_string();
    let text = |path: &str, names: &[&str]| {
        let canonical = canonical(parts, query, path, names)?;
        let hash = signing::hex(&Sha256::digest(canonical.as_bytes()));
        let Scope { day, region, service, .. } = scope;
        Some(format!("AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/aws4_request\n{hash}"))
    };
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    // Some clients sign the path as they send it; s3s takes both.
    let holds = [path.as_str(), raw].iter().any(|path| {
        text(path, &sorted).is_some_and(|text| hmac::verify(&key, text.as_bytes(), &given).is_ok())
    });
    if !holds {
        return None;
    }
    sorted.retain(|name| !unfit.iter().any(|unfit| unfit.as_str() == *name));
    let signature = signing::hex(hmac::sign(&key, text(&path, &sorted)?.as_bytes()).as_ref());
    let (credential, signed) = (authorization.credential, sorted.join(";"));
    let algorithm = signing::ALGORITHM;
    let value =
        format!("{algorithm} Credential={credential},SignedHeaders={signed},Signature={signature}");
    HeaderValue::try_from(value).ok()
}

/// The canonical request, as s3s makes it.
fn canonical(parts: &Parts, query: &Query, path: &str, names: &[&str]) -> Option<String> {
    let encode = |text: &str| utf8_percent_encode(text, PLAIN).to_string();
    let mut pairs: Vec<(String, String)> =
        query.pairs().iter().map(|(name, value)| (encode(name), encode(value))).collect();
    pairs.sort();
    let pairs: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut lines = String::new();
    for name in names {
        let values: Option<Vec<String>> =
            parts.headers.get_all(*name).iter().map(plain_value).collect();
        let value = match values? {
            values if values.is_empty() && *name == "host" => host::of(parts)?,
            values => values.join(","),
        };
        lines.push_str(&format!("{name}:{value}\n"));
    }
    let payload = signing::single(&parts.headers, signing::CONTENT_SHA256).ok()??;
    let (method, pairs, names) = (&parts.method, pairs.join("&"), names.join(";"));
    Some(format!("{method}\n{path}\n{pairs}\n{lines}\n{names}\n{payload}"))
}

/// A value with single blanks between its words.
fn plain_value(value: &HeaderValue) -> Option<String> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_s3s_reads_stays_and_what_it_refuses_goes() {
        for (name, value, fits) in [
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT", false),
            ("if-unmodified-since", "Sun Nov  6 08:49:37 1994", false),
            ("if-unmodified-since", "yesterday", false),
            ("x-amz-copy-source-if-modified-since", "yesterday", false),
            ("expires", "0", false),
            ("expires", "", true),
            ("if-match", "\"a\"", true),
            ("if-match", "*", true),
            ("if-match", "\"a\", \"b\"", true),
            ("if-none-match", "\"a", false),
            ("if-none-match", "a, b", false),
            ("range", "bytes=0-1", true),
            ("range", "bytes=0-1,3-4", false),
            ("range", "lines=1-2", false),
            ("date", "0", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(unfit(&headers).is_empty(), fits, "{name}: {value}");
        }
        let mut headers = HeaderMap::new();
        headers.append("if-match", HeaderValue::from_static("\"a\""));
        headers.append("if-match", HeaderValue::from_static("\"b\""));
        assert_eq!(unfit(&headers), [header::IF_MATCH]);
    }

    #[test]
    fn what_is_put_aside_comes_back_whole() {
        let mut aside = Aside::default();
        aside.0.append("if-match", HeaderValue::from_static("\"a\""));
        aside.0.append("if-match", HeaderValue::from_static("\"b\""));
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("h"));
        aside.give_back(&mut headers);
        assert_eq!(headers.get_all("if-match").iter().count(), 2);
        assert_eq!(headers.len(), 3);
    }
}
