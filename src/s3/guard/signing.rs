//! The form of a request's signature: everything about it but the signature itself.
//!
//! s3s computes and compares the signature. What is decided here is what 0.14.1 leaves open:
//! which mechanisms are taken, how old and how long-lived a request may be, which region it names,
//! and which headers the signature must cover.

use http::HeaderMap;
use http::StatusCode;
use http::header::AUTHORIZATION;
use ring::hmac;

use crate::base::Timestamp;
use crate::base::limits;
use crate::s3::chunked::Framing;
use crate::s3::guard::query::Query;
use crate::s3::guard::refusal::Refusal;

pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
pub(crate) const CONTENT_SHA256: &str = "x-amz-content-sha256";
/// The parameters that make a presigned URL.
pub(crate) const PRESIGNED: [&str; 6] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
];

/// How a request is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mechanism {
    Header,
    Presigned,
}

/// What the client says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Unsigned,
    Sha256([u8; 32]),
    Chunked(Framing),
}

/// What a signature is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) now: Timestamp,
    pub(crate) region: &'a str,
}

/// `<key>/<day>/<region>/<service>/aws4_request`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope<'a> {
    pub(crate) key: &'a str,
    pub(crate) day: &'a str,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

impl<'a> Scope<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Scope<'a>> {
        let mut parts = text.split('/');
        let mut next = || parts.next();
        let (key, day, region, service) = (next()?, next()?, next()?, next()?);
        if next()? != "aws4_request" || next().is_some() || key.is_empty() {
            return None;
        }
        Some(Scope { key, day, region, service })
    }

    /// "Amazon S3 API reference: calculating a signature".
    pub(crate) fn signing_key(&self, secret: &str) -> hmac::Key {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let start = key(format!("AWS4{secret}").as_bytes());
        [self.day, self.region, self.service, "aws4_request"]
            .iter()
            .fold(start, |so_far, part| key(hmac::sign(&so_far, part.as_bytes()).as_ref()))
    }

    /// What is wrong with the scope of a request of that `date`, and the region to tell.
    pub(crate) fn fault(&self, date: &str, region: &str) -> Option<String> {
        if self.region != region {
            Some(format!("the region '{}' is wrong; expecting '{region}'", self.region))
        } else if self.service != "s3" {
            Some(format!("incorrect service '{}'; this endpoint belongs to 's3'", self.service))
        } else if Some(self.day) != date.get(..8) {
            Some(format!("the day '{}' is not that of the request's date", self.day))
        } else {
            None
        }
    }
}

/// The moment that `YYYYMMDDTHHMMSSZ` names.
pub(crate) fn amz_date(text: &str) -> Option<Timestamp> {
    let digits = |at: std::ops::Range<usize>| -> Option<u16> {
        let part = text.get(at)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let small = |at| digits(at).and_then(|number| u8::try_from(number).ok());
    if text.len() != 16 || text.get(8..9) != Some("T") || text.get(15..) != Some("Z") {
        return None;
    }
    let month = time::Month::try_from(small(4..6)?).ok()?;
    let date = time::Date::from_calendar_date(digits(0..4)?.into(), month, small(6..8)?).ok()?;
    let moment = date.with_hms(small(9..11)?, small(11..13)?, small(13..15)?).ok()?;
    Some(Timestamp(moment.assume_utc().unix_timestamp().checked_mul(1_000_000)?))
}

/// Which mechanism signs the request, all about it but the signature having been checked.
/// `None` for a request that nobody signs.
pub(crate) fn check(
    headers: &HeaderMap,
    query: &Query,
    expected: Expected<'_>,
) -> Result<Option<Mechanism>, Refusal> {
    if query.has("Signature") || query.has("AWSAccessKeyId") {
        return Err(Refusal::sigv2());
    }
    let mut authorizations = headers.get_all(AUTHORIZATION).iter();
    let authorization = authorizations.next();
    if authorizations.next().is_some() {
        return Err(Refusal::invalid_argument("Authorization", "Only one auth mechanism allowed"));
    }
    let presigned = PRESIGNED.iter().any(|name| query.has(name));
    match (authorization, presigned) {
        (None, false) => Ok(None),
        (Some(_), true) => {
            Err(Refusal::invalid_argument("Authorization", "Only one auth mechanism allowed"))
        }
        (Some(value), false) => {
            let value = value.to_str().map_err(|_| malformed("it is no text"))?;
            check_header(value, headers, expected)?;
            Ok(Some(Mechanism::Header))
        }
        (None, true) => {
            check_presigned(headers, query, expected)?;
            Ok(Some(Mechanism::Presigned))
        }
    }
}

/// The header that signs a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authorization<'a> {
    pub(crate) credential: &'a str,
    /// Names with semicolons between.
    pub(crate) signed: &'a str,
    pub(crate) signature: &'a str,
}

impl<'a> Authorization<'a> {
    pub(crate) fn parse(value: &'a str) -> Result<Authorization<'a>, Refusal> {
        if value.starts_with("AWS ") {
            return Err(Refusal::sigv2());
        }
        let (algorithm, rest) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
        if algorithm != ALGORITHM {
            let message = "Unsupported Authorization Type";
            return Err(Refusal::invalid_argument("Authorization", message));
        }
        let mut parts = rest.split(',').map(str::trim);
        let mut part = |name: &str| parts.next().and_then(|part| part.strip_prefix(name));
        let credential = part("Credential=").ok_or_else(|| malformed("missing Credential"))?;
        let signed = part("SignedHeaders=").ok_or_else(|| malformed("missing SignedHeaders"))?;
        let signature = part("Signature=").ok_or_else(|| malformed("missing Signature"))?;
        if parts.next().is_some() {
            return Err(malformed("too many components"));
        }
        Ok(Authorization { credential, signed, signature })
    }
}

fn check_header(value: &str, headers: &HeaderMap, expected: Expected<'_>) -> Result<(), Refusal> {
    let Authorization { credential, signed, .. } = Authorization::parse(value)?;
    let scope = Scope::parse(credential).ok_or_else(|| {
        malformed(
            "the Credential is mal-formed; expecting \
             \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"",
        )
    })?;
    let date = single(headers, "x-amz-date")?.ok_or_else(|| {
        Refusal::denied("AWS authentication requires a valid Date or x-amz-date header")
    })?;
    let moment = amz_date(date).ok_or_else(|| {
        Refusal::denied("AWS authentication requires a valid Date or x-amz-date header")
    })?;
    if let Some(fault) = scope.fault(date, expected.region) {
        return Err(malformed(&fault).with("Region", expected.region));
    }
    let apart = expected.now.since(moment).max(moment.since(expected.now));
    if apart > limits::CLOCK_SKEW_MAX {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        )
        .with("RequestTime", date)
        .with("MaxAllowedSkewMilliseconds", limits::CLOCK_SKEW_MAX.as_millis().to_string()));
    }
    check_signed_headers(signed, headers, Mechanism::Header)
}

fn check_presigned(
    headers: &HeaderMap,
    query: &Query,
    expected: Expected<'_>,
) -> Result<(), Refusal> {
    let need = |name: &str| {
        query.get(name).ok_or_else(|| {
            query_fault(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, \
                 X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and \
                 X-Amz-Expires parameters.",
            )
        })
    };
    for name in PRESIGNED {
        need(name)?;
    }
    if need("X-Amz-Algorithm")? != ALGORITHM {
        return Err(query_fault("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let scope = Scope::parse(need("X-Amz-Credential")?).ok_or_else(|| {
        query_fault(
            "Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; \
             expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
        )
    })?;
    let date = need("X-Amz-Date")?;
    let moment = amz_date(date).ok_or_else(|| {
        query_fault("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    })?;
    if let Some(fault) = scope.fault(date, expected.region) {
        let message = format!("Error parsing the X-Amz-Credential parameter; {fault}");
        return Err(query_fault(message).with("Region", expected.region));
    }
    let expires = expiry(need("X-Amz-Expires")?)?;
    if moment.since(expected.now) > limits::CLOCK_SKEW_MAX {
        return Err(Refusal::denied("Request is not yet valid").with("X-Amz-Date", date));
    }
    if expected.now > moment.plus(expires) {
        return Err(Refusal::denied("Request has expired")
            .with("X-Amz-Expires", expires.as_secs().to_string()));
    }
    check_signed_headers(need("X-Amz-SignedHeaders")?, headers, Mechanism::Presigned)
}

fn expiry(text: &str) -> Result<std::time::Duration, Refusal> {
    let most = limits::PRESIGNED_MAX.as_secs();
    if !text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit())
        || !text.bytes().any(|b| b.is_ascii_digit())
    {
        return Err(query_fault("X-Amz-Expires should be a number"));
    }
    if text.starts_with('-') {
        return Err(query_fault("X-Amz-Expires must be non-negative"));
    }
    match text.parse::<u64>() {
        Ok(0) => Err(query_fault("X-Amz-Expires must be greater than 0")),
        Ok(seconds) if seconds <= most => Ok(std::time::Duration::from_secs(seconds)),
        Ok(_) | Err(_) => Err(query_fault(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given \
             X-Amz-Expires must be less than 604800 seconds",
        )),
    }
}

/// `host`, `content-md5` and every `x-amz-*` header must be signed, and what is signed must be
/// there: s3s passes over names of headers that are not. A presigned URL cannot know the hash of
/// its body: there `x-amz-content-sha256` may be added, it only makes it stricter.
fn check_signed_headers(
    signed: &str,
    headers: &HeaderMap,
    mechanism: Mechanism,
) -> Result<(), Refusal> {
    let signed: Vec<&str> = signed.split(';').collect();
    // HTTP/2 has its host elsewhere.
    let there = |name: &str| name == "host" || headers.contains_key(name);
    let small = |name: &str| !name.bytes().any(|b| b.is_ascii_uppercase());
    if !signed.iter().all(|name| small(name) && there(name)) {
        return Err(signature_mismatch());
    }
    let needs = |name: &str| {
        (name.starts_with("x-amz-") || name == "content-md5")
            && (mechanism == Mechanism::Header || name != CONTENT_SHA256)
    };
    let unsigned: Vec<&str> = std::iter::once("host")
        .chain(headers.keys().map(|name| name.as_str()).filter(|name| needs(name)))
        .filter(|name| !signed.contains(name))
        .collect();
    if unsigned.is_empty() {
        return Ok(());
    }
    Err(Refusal::denied("There were headers present in the request which were not signed")
        .with("HeadersNotSigned", unsigned.join(", ")))
}

/// What the request says of its body, as far as its mechanism allows.
pub(crate) fn payload(headers: &HeaderMap, mechanism: Mechanism) -> Result<Payload, Refusal> {
    let Some(value) = single(headers, CONTENT_SHA256)? else {
        return match mechanism {
            Mechanism::Presigned => Ok(Payload::Unsigned),
            Mechanism::Header => Err(Refusal::invalid_request(
                "Missing required header for this request: x-amz-content-sha256",
            )),
        };
    };
    let framing = match value {
        UNSIGNED_PAYLOAD => return Ok(Payload::Unsigned),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Framing::UnsignedTrailer,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Framing::Signed,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Framing::SignedTrailer,
        other if other.starts_with("STREAMING-") => {
            return Err(Refusal::not_implemented("this form of x-amz-content-sha256"));
        }
        other => return sha256(other).map(Payload::Sha256),
    };
    match mechanism {
        Mechanism::Header => Ok(Payload::Chunked(framing)),
        Mechanism::Presigned => {
            Err(Refusal::not_implemented("a streaming x-amz-content-sha256 with a presigned URL"))
        }
    }
}

fn sha256(text: &str) -> Result<[u8; 32], Refusal> {
    let mut hash = [0; 32];
    let hex = |b: u8| char::from(b).to_digit(16).filter(|_| !b.is_ascii_uppercase());
    let pairs = text.as_bytes().chunks_exact(2);
    let whole = text.len() == 64
        && hash.iter_mut().zip(pairs).all(|(byte, pair)| {
            let digits = (hex(pair[0]), hex(pair[1]));
            let (Some(high), Some(low)) = digits else { return false };
            *byte = (high << 4 | low) as u8;
            true
        });
    if whole {
        return Ok(hash);
    }
    Err(Refusal::invalid_argument(
        CONTENT_SHA256,
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a STREAMING form, or a valid sha256 value.",
    ))
}

/// The value of a header that comes at most once.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(value) if values.next().is_none() => Ok(Some(value)),
        _ => Err(Refusal::invalid_argument(name, "The header is given twice or is no text.")),
    }
}

pub(crate) fn signature_mismatch() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. \
         Check your key and signing method.",
    )
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn malformed(why: &str) -> Refusal {
    let message = format!("The authorization header is malformed; {why}");
    Refusal::bad("AuthorizationHeaderMalformed", message)
}

fn query_fault(message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::bad("AuthorizationQueryParametersError", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_one_form() {
        let epoch = |text| amz_date(text).map(|at| at.seconds());
        assert_eq!(epoch("19700101T000001Z"), Some(1));
        assert_eq!(epoch("20130524T000000Z"), Some(1_369_353_600));
        for wrong in [
            "",
            "20130524T000000",
            "20130524 000000Z",
            "20131324T000000Z",
            "20130532T000000Z",
            "20130524T240000Z",
            "+0130524T000000Z",
            "2013052éT00000Z",
        ] {
            assert_eq!(epoch(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_expiry_is_a_number_of_seconds_up_to_a_week() {
        assert_eq!(expiry("604800").unwrap().as_secs(), 604_800);
        assert_eq!(expiry("1").unwrap().as_secs(), 1);
        for wrong in ["", "-", "0", "-1", "604801", "99999999999999999999999", "1e3", "+5", "x"] {
            let refusal = expiry(wrong).unwrap_err();
            assert_eq!(refusal.code, "AuthorizationQueryParametersError", "{wrong}");
        }
    }

    #[test]
    fn a_scope_has_five_parts_and_belongs_here() {
        let scope = Scope::parse("AK/20260101/here/s3/aws4_request").unwrap();
        assert_eq!(scope.fault("20260101T000000Z", "here"), None);
        assert!(scope.fault("20260102T000000Z", "here").is_some());
        assert!(scope.fault("20260101T000000Z", "there").unwrap().contains("expecting 'there'"));
        let sts = Scope::parse("AK/20260101/here/sts/aws4_request").unwrap();
        assert!(sts.fault("20260101T000000Z", "here").is_some());
        for wrong in ["", "AK", "AK/1/r/s3/aws4", "AK/1/r/s3/aws4_request/", "/1/r/s3/aws4_request"]
        {
            assert_eq!(Scope::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_hash_is_sixty_four_small_digits() {
        assert_eq!(sha256(&"0f".repeat(32)).unwrap(), [15; 32]);
        for wrong in ["", &"0F".repeat(32), &"0f".repeat(31), &"0g".repeat(32)] {
            assert_eq!(sha256(wrong).unwrap_err().code, "InvalidArgument");
        }
    }
}
