//! What a service answers to the deletion of many files at once, read before OpenDAL reads it.
//!
//! # Why OpenDAL's own reading is not believed
//!
//! - In S3's list of errors it looks each file up by key *and* version: an empty `VersionId`, which
//!   some servers write, hides the error. Any other text with a good status has no error in it.
//! - The parts of Google's and Azure's answers are matched to the files by their order, which is
//!   not promised, and a part without a status counts as good. So the wrong file may be taken for
//!   the one that failed.
//!
//! # Invariant
//!
//! Only an answer that says of every file that it is gone gets through. Any other that was given is
//! [`Declined`], and what it says of single files is not used: each is then deleted by itself.

use std::error::Error as _;

use http::StatusCode;
use opendal::Buffer;
use opendal::Error;
use opendal::ErrorKind;
use opendal::HttpBody;
use opendal::HttpTransport;
use opendal::HttpTransporter;
use opendal::raw::ServiceOperation;

/// The services whose answers are understood here.
pub(crate) const SERVICES: &[&str] = &["azblob", "gcs", "s3"];

/// The service answered, and did not do all of it.
#[derive(Debug, thiserror::Error)]
#[error("not all was deleted at once")]
struct Declined;

/// Whether an error of a deletion says that each file is to be deleted by itself.
pub(crate) fn is_declined(err: &Error) -> bool {
    let mut cause = err.source();
    while let Some(err) = cause {
        if err.is::<Declined>() {
            return true;
        }
        cause = err.source();
    }
    false
}

/// A transport that examines those answers; all others pass as they are.
pub(crate) struct Examined(pub(crate) HttpTransporter);

impl HttpTransport for Examined {
    async fn fetch(
        &self,
        request: http::Request<Buffer>,
    ) -> opendal::Result<http::Response<HttpBody>> {
        let name = request.extensions().get::<ServiceOperation>().map(|operation| operation.0);
        let is_whole: fn(&str, &str) -> bool = match name {
            Some("DeleteObjects") => is_clean_list,
            Some("BatchDeleteObjects" | "BatchDeleteBlobs") => are_good_parts,
            _ => return self.0.fetch(request).await,
        };
        let asked = request.body().to_bytes();
        let (parts, mut body) = self.0.fetch(request).await?.into_parts();
        let told = body.to_buffer().await?;
        let has_done = |told: &Buffer| {
            let (asked, told) = (String::from_utf8_lossy(&asked), told.to_bytes());
            is_whole(&asked, &String::from_utf8_lossy(&told))
        };
        let status = parts.status;
        if declines(status) || (status.is_success() && !has_done(&told)) {
            let why = format!("a deletion of many files was answered with {status}");
            return Err(Error::new(ErrorKind::Unexpected, why).set_source(Declined));
        }
        let length = told.len() as u64;
        let body = HttpBody::new(futures_util::stream::iter([Ok(told)]), Some(length));
        Ok(http::Response::from_parts(parts, body))
    }
}

/// Whether the request itself is what the service does not take. Credentials and what passes by
/// itself are judged as for any other request.
fn declines(status: StatusCode) -> bool {
    // 499 is Cloudflare's word for a connection that broke.
    let passes = matches!(status.as_u16(), 401 | 408 | 429 | 499);
    (status.is_client_error() && !passes) || status == StatusCode::NOT_IMPLEMENTED
}

/// S3's answer: the whole list, and no error in it. In it a `>` of a key has an escape.
fn is_clean_list(_: &str, told: &str) -> bool {
    let end = told.trim_end();
    let is_all = end.ends_with("DeleteResult>") || end.ends_with("/>");
    told.contains("DeleteResult") && is_all && !told.contains("Error>")
}

/// The answers of Google and Azure: one good part for each that was asked for.
fn are_good_parts(asked: &str, told: &str) -> bool {
    let wanted = asked.lines().filter(|line| line.starts_with("DELETE ")).count();
    let mut statuses = told.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 "));
    let answers = statuses.clone().count();
    let is_good = |status: &str| {
        let code = status.split(' ').next().and_then(|code| code.parse::<u16>().ok());
        code.is_some_and(|code| (200..300).contains(&code) || code == 404)
    };
    answers == wanted && statuses.all(is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_clean_when_it_is_whole_and_speaks_of_no_error() {
        let clean = |told: &str| is_clean_list("", told);
        assert!(clean("<?xml version=\"1.0\"?>\n<DeleteResult xmlns=\"http://s3\"/>\n"));
        assert!(clean("<DeleteResult></DeleteResult>"));
        assert!(clean("<DeleteResult><Deleted><Key>Error&gt;</Key></Deleted></DeleteResult>"));
        let error = "<Error><Key>a</Key><Code>AccessDenied</Code><VersionId></VersionId></Error>";
        assert!(!clean(&format!("<DeleteResult>{error}</DeleteResult>")));
        assert!(!clean("<DeleteResult><s:Error></s:Error></DeleteResult>"));
        assert!(!clean("<Error><Code>InternalError</Code></Error>"));
        for other in ["", "<html>sign in here</html>", "<DeleteResult><Deleted><Key>a</Key>"] {
            assert!(!clean(other), "{other}");
        }
    }

    #[test]
    fn parts_are_good_when_there_is_a_good_one_for_each() {
        let asked = "--x\r\nContent-ID: 0\r\n\r\nDELETE /o/a HTTP/1.1\r\n\r\n\
                     --x\r\nContent-ID: 1\r\n\r\nDELETE /o/b HTTP/1.1\r\n\r\n--x--\r\n";
        let told = |statuses: &[&str]| {
            let part = |status: &&str| format!("--y\r\n\r\nHTTP/1.1 {status}\r\nA: b\r\n\r\n");
            statuses.iter().map(part).collect::<String>()
        };
        assert!(are_good_parts(asked, &told(&["204 No Content", "404 Not Found"])));
        assert!(are_good_parts(asked, &told(&["202", "202 Accepted"])));
        for bad in ["503 Slow Down", "403 Forbidden", "300 Or", "", "x"] {
            assert!(!are_good_parts(asked, &told(&["204 No Content", bad])), "{bad}");
        }
        assert!(!are_good_parts(asked, &told(&["204 No Content"])));
        assert!(!are_good_parts(asked, &told(&["204"; 3])));
    }

    #[test]
    fn what_passes_by_itself_is_not_declined() {
        let declines = |status: u16| declines(StatusCode::from_u16(status).unwrap());
        assert!([400, 403, 404, 405, 413, 501].into_iter().all(declines));
        assert!(![200, 202, 401, 408, 429, 499, 500, 502, 503, 504].into_iter().any(declines));
        let declined = Error::new(ErrorKind::Unexpected, "no").set_source(Declined);
        assert!(is_declined(&declined));
        assert!(!is_declined(&Error::new(ErrorKind::Unexpected, "no")));
    }
}
