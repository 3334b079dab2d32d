//! Headers, query values and XML fields, to and from the product's vocabulary.
//!
//! `s3s` parses most of a request, but not as S3 does: it has no lists of ETags, one form of
//! date, and it decodes metadata. What matters is therefore read from the headers as they came.

pub(crate) mod checksums;
pub(crate) mod conditions;
pub(crate) mod dates;
pub(crate) mod lifecycle;
pub(crate) mod meta;
pub(crate) mod paging;
pub(crate) mod ranges;
pub(crate) mod source;
pub(crate) mod tags;

use http::HeaderMap;

use crate::s3::error::Refusal;

/// The value of a header: `None` when it is absent or empty, an error when it is not UTF-8.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Refusal> {
    let Some(value) = headers.get(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Refusal::InvalidArgument(format!("The header {name} is not UTF-8").into())),
    }
}
