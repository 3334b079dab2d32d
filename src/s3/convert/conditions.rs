//! Conditional headers: lists of ETags, `*`, dates and If-Range.

use http::HeaderMap;
use http::header;
use s3s::dto::ETag;
use s3s::dto::ETagCondition;

use crate::engine::IfRange;
use crate::model::EtagMatch;
use crate::model::ReadConditions;
use crate::model::WriteConditions;
use crate::s3::convert::dates;

/// Whether a weak ETag can match: yes for If-None-Match, no for If-Match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// The conditions of GET and HEAD. A date that is none is ignored, as RFC 9110 wants it.
pub(crate) fn read(headers: &HeaderMap) -> ReadConditions {
    ReadConditions {
        if_match: etags(headers, header::IF_MATCH.as_str(), Comparison::Strong),
        if_none_match: etags(headers, header::IF_NONE_MATCH.as_str(), Comparison::Weak),
        if_modified_since: date(headers, header::IF_MODIFIED_SINCE.as_str()),
        if_unmodified_since: date(headers, header::IF_UNMODIFIED_SINCE.as_str()),
    }
}

/// The conditions on the source of a copy.
pub(crate) fn copy_source(headers: &HeaderMap) -> ReadConditions {
    ReadConditions {
        if_match: etags(headers, "x-amz-copy-source-if-match", Comparison::Strong),
        if_none_match: etags(headers, "x-amz-copy-source-if-none-match", Comparison::Weak),
        if_modified_since: date(headers, "x-amz-copy-source-if-modified-since"),
        if_unmodified_since: date(headers, "x-amz-copy-source-if-unmodified-since"),
    }
}

/// The conditions of PUT, complete, copy and DELETE.
pub(crate) fn write(headers: &HeaderMap) -> WriteConditions {
    WriteConditions {
        if_match: etags(headers, header::IF_MATCH.as_str(), Comparison::Strong),
        if_none_match: etags(headers, header::IF_NONE_MATCH.as_str(), Comparison::Weak),
    }
}

/// The conditions of a POST form, whose fields `s3s` has parsed.
pub(crate) fn write_of_form(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> WriteConditions {
    let one = |condition: &ETagCondition| match condition {
        ETagCondition::Any => EtagMatch::Any,
        ETagCondition::ETag(etag) => EtagMatch::OneOf(vec![etag.value().to_owned()]),
    };
    WriteConditions { if_match: if_match.map(one), if_none_match: if_none_match.map(one) }
}

/// The condition of one object in DeleteObjects.
pub(crate) fn write_of_etag(etag: Option<&ETag>) -> WriteConditions {
    let if_match = etag.map(|etag| match etag.value() {
        "*" => EtagMatch::Any,
        text => EtagMatch::OneOf(vec![text.to_owned()]),
    });
    WriteConditions { if_match, if_none_match: None }
}

/// If-Range. A weak ETag or a value that is neither ETag nor date never matches.
pub(crate) fn if_range(headers: &HeaderMap) -> Option<IfRange> {
    let text = headers.get(header::IF_RANGE)?.to_str().unwrap_or_default().trim();
    if let Some(date) = dates::parse(text) {
        return Some(IfRange::Date(date));
    }
    let mut etags = Vec::new();
    read_list(text, Comparison::Strong, &mut etags);
    Some(IfRange::Etag(etags.into_iter().next().unwrap_or_default()))
}

fn date(headers: &HeaderMap, name: &str) -> Option<i64> {
    dates::parse(headers.get(name)?.to_str().ok()?.trim())
}

fn etags(headers: &HeaderMap, name: &str, comparison: Comparison) -> Option<EtagMatch> {
    let mut found = Vec::new();
    let mut given = false;
    for value in headers.get_all(name) {
        let text = String::from_utf8_lossy(value.as_bytes());
        match text.trim() {
            "" => continue,
            "*" => return Some(EtagMatch::Any),
            text => read_list(text, comparison, &mut found),
        }
        given = true;
    }
    given.then_some(EtagMatch::OneOf(found))
}

/// Adds the ETags of a list. One without quotes is taken as it is: many clients send it so.
fn read_list(text: &str, comparison: Comparison, found: &mut Vec<String>) {
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (weak, tag) = match rest.strip_prefix("W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        let (tag, after) = match tag.strip_prefix('"') {
            Some(tag) => tag.split_once('"').unwrap_or((tag, "")),
            None => tag.split_once(',').unwrap_or((tag, "")),
        };
        if !weak || comparison == Comparison::Weak {
            found.push(tag.trim().to_owned());
        }
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    fn one_of(etags: &[&str]) -> Option<EtagMatch> {
        Some(EtagMatch::OneOf(etags.iter().map(|etag| (*etag).to_owned()).collect()))
    }

    #[test]
    fn etags_come_alone_in_lists_and_without_quotes() {
        let check = |value: &str, if_match, if_none_match| {
            let found = write(&headers(&[("if-match", value), ("if-none-match", value)]));
            assert_eq!(found.if_match, if_match, "{value}");
            assert_eq!(found.if_none_match, if_none_match, "{value}");
        };
        check("*", Some(EtagMatch::Any), Some(EtagMatch::Any));
        check("\"a\"", one_of(&["a"]), one_of(&["a"]));
        check("a-2", one_of(&["a-2"]), one_of(&["a-2"]));
        check("\"a\", \"b,c\" ,d", one_of(&["a", "b,c", "d"]), one_of(&["a", "b,c", "d"]));
        check("W/\"a\", \"b\"", one_of(&["b"]), one_of(&["a", "b"]));
        check("W/\"a\"", one_of(&[]), one_of(&["a"]));
        check("\"a", one_of(&["a"]), one_of(&["a"]));
        check("", None, None);
        check(" , ", one_of(&[]), one_of(&[]));
    }

    #[test]
    fn several_headers_are_one_list() {
        let mut map = headers(&[("if-match", "\"a\"")]);
        map.append("if-match", HeaderValue::from_static("\"b\""));
        assert_eq!(write(&map).if_match, one_of(&["a", "b"]));
    }

    #[test]
    fn conditions_of_reads_and_of_copy_sources_are_apart() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let map = headers(&[
            ("if-modified-since", date),
            ("if-unmodified-since", "yesterday"),
            ("x-amz-copy-source-if-none-match", "\"s\""),
            ("x-amz-copy-source-if-unmodified-since", date),
        ]);
        let found = read(&map);
        assert_eq!(found.if_modified_since, Some(784_111_777));
        assert_eq!(found.if_unmodified_since, None);
        assert_eq!(found.if_none_match, None);
        let found = copy_source(&map);
        assert_eq!(found.if_none_match, one_of(&["s"]));
        assert_eq!(found.if_unmodified_since, Some(784_111_777));
    }

    #[test]
    fn if_range_is_an_etag_or_a_date() {
        let check = |value: &str| if_range(&headers(&[("if-range", value)]));
        assert!(matches!(check("\"a\""), Some(IfRange::Etag(etag)) if etag == "a"));
        assert!(matches!(check("W/\"a\""), Some(IfRange::Etag(etag)) if etag.is_empty()));
        let date = check("Sun Nov  6 08:49:37 1994");
        assert!(matches!(date, Some(IfRange::Date(784_111_777))));
        assert!(if_range(&HeaderMap::new()).is_none());
    }
}
