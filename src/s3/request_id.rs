//! Request ids, and what every response carries of them.
//!
//! s3s writes errors without `Resource` and `RequestId` and leaves them to us: its error bodies
//! are small and whole, so they are completed here, after the fact.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::StatusCode;
use http::header;
use ring::rand::SecureRandom;
use ring::rand::SystemRandom;

pub(crate) const REQUEST_ID: &str = "x-amz-request-id";

/// The name of one request: 16 hexadecimal digits. It is a request extension too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) String);

/// Makes request ids that do not repeat within one run and hardly between runs.
#[derive(Debug)]
pub(crate) struct RequestIds {
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> RequestIds {
        let mut seed = [0; 8];
        // Without randomness the ids of two runs are alike, which confuses nobody but a reader.
        let _ = SystemRandom::new().fill(&mut seed);
        RequestIds { next: AtomicU64::new(u64::from_le_bytes(seed)) }
    }

    pub(crate) fn next(&self) -> RequestId {
        // An odd factor permutes the 64-bit numbers, so different counts have different texts.
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        RequestId(format!("{:016X}", count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// Escapes text for XML.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Gives a response its id, and completes the body of an error.
pub(crate) fn complete(
    response: &mut Response<s3s::Body>,
    method: &Method,
    resource: &str,
    id: &RequestId,
) {
    let value = HeaderValue::from_str(&id.0).expect("hexadecimal digits are a header value");
    response.headers_mut().insert(REQUEST_ID, value);
    let status = response.status();
    if let Some(seconds) = retry_after(status)
        && !response.headers().contains_key(header::RETRY_AFTER)
    {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if !status.is_client_error() && !status.is_server_error() {
        return;
    }
    if method == Method::HEAD {
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = s3s::Body::empty();
        return;
    }
    if let Some(xml) = response.body().bytes().and_then(|body| completed(&body, resource, id)) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = s3s::Body::from(xml);
    }
}

/// Seconds after which it is worth another try, where the answer is about now and not about the
/// request. Room and allowances come back more slowly than services do.
fn retry_after(status: StatusCode) -> Option<u64> {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Some(5),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => Some(60),
        _ => None,
    }
}

/// Whether a response that is not completed yet is the error with this code.
pub(crate) fn is_error(response: &Response<s3s::Body>, code: &str) -> bool {
    let body = response.body().bytes();
    let xml = body.as_deref().and_then(|body| std::str::from_utf8(body).ok());
    xml.and_then(|xml| xml.split_once("<Code>")?.1.split_once("</Code>"))
        .is_some_and(|(found, _)| found == code)
}

/// The error with what it lacks; `None` when this is no error of S3's form.
fn completed(body: &Bytes, resource: &str, id: &RequestId) -> Option<String> {
    let xml = std::str::from_utf8(body).ok()?;
    let (head, tail) = xml.rsplit_once("</Error>")?;
    let mut xml = head.to_owned();
    let code = head.split_once("<Code>")?.1.split_once("</Code>")?.0;
    if !head.contains("<Message>") {
        xml.push_str(&format!("<Message>{}</Message>", default_message(code)));
    }
    if !head.contains("<Resource>") {
        xml.push_str(&format!("<Resource>{}</Resource>", escape(resource)));
    }
    if !head.contains("<RequestId>") {
        xml.push_str(&format!("<RequestId>{}</RequestId>", id.0));
    }
    xml.push_str("</Error>");
    xml.push_str(tail);
    Some(xml)
}

/// S3's sentence for codes that s3s gives without one.
fn default_message(code: &str) -> &'static str {
    match code {
        "AccessDenied" => "Access Denied",
        "BucketNotEmpty" => "The bucket you tried to delete is not empty.",
        "IncompleteBody" => {
            "You did not provide the number of bytes specified by the Content-Length HTTP header."
        }
        "InvalidAccessKeyId" => "The AWS access key ID you provided does not exist in our records.",
        "InvalidBucketName" => "The specified bucket is not valid.",
        "InvalidURI" => "Couldn't parse the specified URI.",
        "KeyTooLongError" => "Your key is too long.",
        "MalformedXML" => "The XML you provided was not well-formed.",
        "MaxMessageLengthExceeded" => "Your request was too large.",
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "MissingContentLength" => "You must provide the Content-Length HTTP header.",
        "NoSuchBucket" => "The specified bucket does not exist.",
        "NoSuchKey" => "The specified key does not exist.",
        "NoSuchUpload" => "The specified multipart upload does not exist.",
        "NotImplemented" => {
            "A header or query you provided implies functionality that is not implemented."
        }
        "PreconditionFailed" => {
            "At least one of the preconditions that you specified did not hold."
        }
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. \
             Check your key and signing method."
        }
        _ => "The request cannot be served.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_sixteen_digits() {
        let ids = RequestIds::new();
        let all: std::collections::HashSet<_> = (0..1000).map(|_| ids.next().0).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|id| id.len() == 16));
    }

    #[test]
    fn an_error_gets_what_it_lacks_and_only_that() {
        let id = RequestId("00".into());
        let bare = Bytes::from("<?xml?><Error><Code>NoSuchKey</Code></Error>");
        assert_eq!(
            completed(&bare, "/b/<k>", &id).unwrap(),
            "<?xml?><Error><Code>NoSuchKey</Code>\
             <Message>The specified key does not exist.</Message>\
             <Resource>/b/&lt;k&gt;</Resource><RequestId>00</RequestId></Error>"
        );
        let whole = completed(&bare, "/b", &id).unwrap();
        assert_eq!(completed(&Bytes::from(whole.clone()), "/c", &id).unwrap(), whole);
        assert_eq!(completed(&Bytes::from("<Other/>"), "/", &id), None);
    }
}
