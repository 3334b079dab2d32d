//! Conditions of requests, and how they are decided.
//!
//! Precedence is S3's ("Amazon S3 API: GetObject") and RFC 9110 section 13.2.2: If-Match before
//! If-Unmodified-Since, If-None-Match before If-Modified-Since. ETags are compared by their
//! text, so that a client's own malformed one simply does not match.

use super::version::Etag;
use crate::base::Timestamp;

/// The right side of If-Match or If-None-Match: ETags without quotes, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtagMatch {
    Any,
    OneOf(Vec<String>),
}

impl EtagMatch {
    pub fn holds(&self, etag: &Etag) -> bool {
        match self {
            EtagMatch::Any => true,
            EtagMatch::OneOf(texts) => texts.contains(&etag.to_string()),
        }
    }
}

/// Conditions of GET and HEAD, and of the source of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadConditions {
    pub if_match: Option<EtagMatch>,
    pub if_none_match: Option<EtagMatch>,
    /// Whole seconds since 1970, as are all HTTP dates.
    pub if_modified_since: Option<i64>,
    pub if_unmodified_since: Option<i64>,
}

/// How a read is answered by its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadVerdict {
    Proceed,
    /// 304 on a read; a copy answers it with 412.
    NotModified,
    /// 412.
    Failed,
}

impl ReadConditions {
    pub fn verdict(&self, etag: &Etag, modified: Timestamp) -> ReadVerdict {
        let unmodified = |since: i64| modified.seconds() <= since;
        let stands = match (&self.if_match, self.if_unmodified_since) {
            (Some(wanted), _) => wanted.holds(etag),
            (None, Some(since)) => unmodified(since),
            (None, None) => true,
        };
        if !stands {
            return ReadVerdict::Failed;
        }
        let known = match (&self.if_none_match, self.if_modified_since) {
            (Some(had), _) => had.holds(etag),
            (None, Some(since)) => unmodified(since),
            (None, None) => false,
        };
        if known { ReadVerdict::NotModified } else { ReadVerdict::Proceed }
    }
}

/// Conditions of PUT, complete, copy (on its destination) and DELETE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteConditions {
    pub if_match: Option<EtagMatch>,
    pub if_none_match: Option<EtagMatch>,
}

/// How a write is answered by its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteVerdict {
    Proceed,
    /// 412.
    Failed,
    /// If-Match on a key that has no object: 404.
    Missing,
}

impl WriteConditions {
    /// `current` is the ETag of the object as the commit transaction sees it.
    pub fn verdict(&self, current: Option<&Etag>) -> WriteVerdict {
        match (&self.if_match, current) {
            (Some(_), None) => return WriteVerdict::Missing,
            (Some(wanted), Some(etag)) if !wanted.holds(etag) => return WriteVerdict::Failed,
            _ => (),
        }
        match (&self.if_none_match, current) {
            (Some(had), Some(etag)) if had.holds(etag) => WriteVerdict::Failed,
            _ => WriteVerdict::Proceed,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: Etag = Etag { md5: [0xab; 16], parts: None };
    const MODIFIED: Timestamp = Timestamp(100_500_000);

    fn same() -> Option<EtagMatch> {
        Some(EtagMatch::OneOf(vec!["x".into(), ETAG.to_string()]))
    }

    fn other() -> Option<EtagMatch> {
        Some(EtagMatch::OneOf(vec!["x".into()]))
    }

    #[test]
    fn reads_follow_the_precedence_of_s3() {
        let check = |if_match, if_none_match, if_modified_since, if_unmodified_since, verdict| {
            let conditions =
                ReadConditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
            assert_eq!(conditions.verdict(&ETAG, MODIFIED), verdict, "{conditions:?}");
        };
        check(None, None, None, None, ReadVerdict::Proceed);
        check(same(), None, None, None, ReadVerdict::Proceed);
        check(other(), None, None, None, ReadVerdict::Failed);
        check(None, same(), None, None, ReadVerdict::NotModified);
        check(None, Some(EtagMatch::Any), None, None, ReadVerdict::NotModified);
        check(None, other(), None, None, ReadVerdict::Proceed);
        // If-Match true and If-Unmodified-Since false: 200. If-None-Match false and
        // If-Modified-Since true: 304.
        check(same(), None, None, Some(99), ReadVerdict::Proceed);
        check(None, same(), Some(99), None, ReadVerdict::NotModified);
        check(None, None, Some(100), None, ReadVerdict::NotModified);
        check(None, None, Some(99), None, ReadVerdict::Proceed);
        check(None, None, None, Some(99), ReadVerdict::Failed);
        check(None, None, None, Some(100), ReadVerdict::Proceed);
        check(None, other(), Some(100), None, ReadVerdict::Proceed);
    }

    #[test]
    fn writes_are_conditional_on_what_is_there() {
        let check = |if_match, if_none_match, current, verdict| {
            let conditions = WriteConditions { if_match, if_none_match };
            assert_eq!(conditions.verdict(current), verdict, "{conditions:?}");
        };
        check(None, Some(EtagMatch::Any), None, WriteVerdict::Proceed);
        check(None, Some(EtagMatch::Any), Some(&ETAG), WriteVerdict::Failed);
        check(None, other(), Some(&ETAG), WriteVerdict::Proceed);
        check(same(), None, Some(&ETAG), WriteVerdict::Proceed);
        check(other(), None, Some(&ETAG), WriteVerdict::Failed);
        check(same(), None, None, WriteVerdict::Missing);
        check(Some(EtagMatch::Any), None, Some(&ETAG), WriteVerdict::Proceed);
    }
}
