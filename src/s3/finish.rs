//! Where s3s writes an answer otherwise than S3 does, put right after the fact.

use bytes::Bytes;
use http::Method;
use http::Response;
use http::StatusCode;
use http::header;
use s3s::S3Response;

use crate::s3::guard::query::Query;

/// On an answer that names keys, an extension of it: characters that XML forbids or changes are
/// written by their numbers, as S3 does. s3s writes them as they are.
#[derive(Clone, Copy, Debug)]
struct NamesKeys;

/// An answer that names keys.
pub(crate) fn naming_keys<T>(output: T) -> S3Response<T> {
    let mut response = S3Response::new(output);
    response.extensions.insert(NamesKeys);
    response
}

/// Which answers are to be put right; decided while the request is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Nothing,
    /// A HEAD of a range or a part is a 206; s3s says 200 for every HEAD.
    Head,
    /// The ETag of GetObjectAttributes comes without its quotes.
    Attributes,
}

impl Finish {
    pub(crate) fn of(method: &Method, query: Option<&str>) -> Finish {
        let attributes = || Query::parse(query).is_ok_and(|query| query.has("attributes"));
        match *method {
            Method::HEAD => Finish::Head,
            Method::GET if query.is_some() && attributes() => Finish::Attributes,
            _ => Finish::Nothing,
        }
    }

    pub(crate) fn apply(self, response: &mut Response<s3s::Body>) {
        if response.status() != StatusCode::OK {
            return;
        }
        if response.extensions_mut().remove::<NamesKeys>().is_some() {
            set_body(response, numbered);
        }
        match self {
            Finish::Nothing => {}
            Finish::Head => {
                if response.headers().contains_key(header::CONTENT_RANGE) {
                    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                }
            }
            Finish::Attributes => {
                set_body(response, unquoted);
            }
        }
    }
}

/// Changes the body of an answer, if there is a change.
fn set_body(response: &mut Response<s3s::Body>, change: fn(&Bytes) -> Option<String>) {
    if let Some(body) = response.body().bytes().and_then(|body| change(&body)) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = s3s::Body::from(body);
    }
}

fn numbered(body: &Bytes) -> Option<String> {
    let odd = |c: char| {
        (c < ' ' && c != '\n' && c != '\t') || matches!(c, '\u{7f}' | '\u{fffe}' | '\u{ffff}')
    };
    let text = std::str::from_utf8(body).ok().filter(|text| text.contains(odd))?;
    let mut plain = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        match odd(c) {
            true => plain.push_str(&format!("&#x{:X};", u32::from(c))),
            false => plain.push(c),
        }
    }
    Some(plain)
}

fn unquoted(body: &Bytes) -> Option<String> {
    let (head, rest) = std::str::from_utf8(body).ok()?.split_once("<ETag>")?;
    let (etag, tail) = rest.split_once("</ETag>")?;
    let etag = etag.replace("&quot;", "").replace('"', "");
    Some(format!("{head}<ETag>{etag}</ETag>{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_loses_its_quotes_however_they_are_written() {
        for quoted in ["\"ab-2\"", "&quot;ab-2&quot;", "ab-2"] {
            let body = Bytes::from(format!("<a><ETag>{quoted}</ETag><b>\"</b></a>"));
            assert_eq!(unquoted(&body).unwrap(), "<a><ETag>ab-2</ETag><b>\"</b></a>");
        }
        assert_eq!(unquoted(&Bytes::from("<a/>")), None);
    }

    #[test]
    fn characters_that_xml_changes_are_written_by_number() {
        let body = Bytes::from("<Key>a\rb\u{1}\n\t\u{ffff}ü</Key>");
        assert_eq!(numbered(&body).unwrap(), "<Key>a&#xD;b&#x1;\n\t&#xFFFF;ü</Key>");
        assert_eq!(numbered(&Bytes::from("<Key>a\n</Key>")), None);
    }

    #[test]
    fn a_head_of_a_range_is_partial() {
        let answer = |method: Method, status: u16, range: bool| {
            let mut response = Response::new(s3s::Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if range {
                let value = "bytes 0-0/1".parse().unwrap();
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            Finish::of(&method, None).apply(&mut response);
            response.status().as_u16()
        };
        assert_eq!(answer(Method::HEAD, 200, true), 206);
        assert_eq!(answer(Method::HEAD, 200, false), 200);
        assert_eq!(answer(Method::HEAD, 416, true), 416);
        assert_eq!(answer(Method::GET, 200, true), 200);
        assert_eq!(Finish::of(&Method::GET, Some("%61ttributes")), Finish::Attributes);
        assert_eq!(Finish::of(&Method::GET, Some("acl")), Finish::Nothing);
    }
}
