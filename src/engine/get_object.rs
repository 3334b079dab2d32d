//! GET and HEAD: conditions, ranges, parts, and the choice between the short way and the stream.
//!
//! Conditions come before ranges ("RFC 9110: HTTP semantics", section 13.2.2). HEAD never touches
//! a backend. A GET answers only when its first bytes are there and verified, so that an object
//! whose replicas cannot be read now is an error and not a body that breaks off.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use super::Engine;
use super::EngineError;
use super::GetOptions;
use super::Got;
use super::Head;
use super::IfRange;
use super::PartInfo;
use super::RangeWish;
use super::read;
use super::read::Live;
use super::read::Means;
use super::read::Segment;
use super::read::Short;
use crate::model::BucketId;
use crate::model::ObjectKey;
use crate::model::condition::ReadVerdict;
use crate::store::Found;
use crate::store::Ticket;

/// How often the parts of an object are looked up again because it was replaced meanwhile.
const PARTS_TRIES: usize = 8;

/// What of an object is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// First byte and length, when it is not simply the whole.
    range: Option<(u64, u64)>,
    part: Option<PartInfo>,
}

/// What the look-up of a GET brought.
struct Looked {
    head: Head,
    wanted: Wanted,
    bytes: Bytes,
}

enum Bytes {
    Here(Short),
    ToRead(VecDeque<Segment>, Ticket),
}

impl Engine {
    pub async fn get_object(
        &self,
        bucket: &str,
        key: ObjectKey,
        options: GetOptions,
    ) -> Result<Got, EngineError> {
        let bucket = self.bucket(bucket)?.id;
        let (live, means) = self.reading();
        if options.part.is_none() {
            let (fleet, budget) = (Arc::clone(&live.fleet), means.budget.clone());
            let look = move |found: Found| {
                let wanted = wanted(&found.head, &options, &[])?;
                Ok(look(found, wanted, |segments| read::read_here(&fleet, &budget, segments)))
            };
            let looked: Result<Looked, EngineError> =
                self.store.object_find_with(bucket, key, look).await?;
            return looked?.deliver(live, means).await;
        }
        for _ in 0..PARTS_TRIES {
            let (head, parts) = self.head_and_parts(bucket, key.clone()).await?;
            let found = self.store.object_find(bucket, key.clone()).await?;
            if found.head.seq == head.seq {
                let wanted = wanted(&found.head, &options, &parts)?;
                return look(found, wanted, |_| None).deliver(live, means).await;
            }
        }
        Err(EngineError::Busy)
    }

    pub async fn head_object(
        &self,
        bucket: &str,
        key: ObjectKey,
        options: GetOptions,
    ) -> Result<Got, EngineError> {
        let (head, parts) = if options.part.is_some() {
            self.object_parts(bucket, key).await?
        } else {
            (self.store.object_head(self.bucket(bucket)?.id, key).await?, Vec::new())
        };
        let Wanted { range, part } = wanted(&head, &options, &parts)?;
        Ok(Got { head, range, part, body: stream::empty().boxed() })
    }

    /// The object with its parts (none for one written at once), both of the same version.
    pub async fn object_parts(
        &self,
        bucket: &str,
        key: ObjectKey,
    ) -> Result<(Head, Vec<PartInfo>), EngineError> {
        let bucket = self.bucket(bucket)?.id;
        for _ in 0..PARTS_TRIES {
            let (before, parts) = self.head_and_parts(bucket, key.clone()).await?;
            if before.part_count == 0 {
                return Ok((before, parts));
            }
            let after = self.store.object_head(bucket, key.clone()).await?;
            if after.seq == before.seq {
                return Ok((after, parts));
            }
        }
        Err(EngineError::Busy)
    }

    /// The head, then the parts: of one version only if that is current afterwards still, for
    /// one that was displaced never is again.
    async fn head_and_parts(
        &self,
        bucket: BucketId,
        key: ObjectKey,
    ) -> Result<(Head, Vec<PartInfo>), EngineError> {
        let head = self.store.object_head(bucket, key.clone()).await?;
        let parts = match head.part_count {
            0 => Vec::new(),
            _ => self.store.object_parts(bucket, key).await?,
        };
        Ok((head, parts))
    }
}

/// Runs on a reader thread of the store.
fn look(
    found: Found,
    wanted: Wanted,
    here: impl FnOnce(&VecDeque<Segment>) -> Option<Short>,
) -> Looked {
    let Found { head, entries, ticket } = found;
    let (offset, length) = wanted.range.unwrap_or((0, head.meta.size));
    let segments = read::segments(entries, offset, length);
    let bytes = match here(&segments) {
        Some(short) => Bytes::Here(short),
        None => Bytes::ToRead(segments, ticket),
    };
    Looked { head, wanted, bytes }
}

impl Looked {
    async fn deliver(self, live: Live, means: Means) -> Result<Got, EngineError> {
        let Looked { head, wanted: Wanted { range, part }, bytes } = self;
        let body = match bytes {
            Bytes::Here(short) => short.into_body(),
            Bytes::ToRead(segments, ticket) => read::open(live, means, segments, ticket).await?,
        };
        Ok(Got { head, range, part, body })
    }
}

/// Decides by conditions, range and part what of the object is wanted.
fn wanted(head: &Head, options: &GetOptions, parts: &[PartInfo]) -> Result<Wanted, EngineError> {
    let (etag, modified, size) = (head.meta.etag, head.meta.modified, head.meta.size);
    if options.version.is_some_and(|version| version != head.seq) {
        return Err(EngineError::ConditionFailed);
    }
    match options.conditions.verdict(&etag, modified) {
        ReadVerdict::Proceed => {}
        ReadVerdict::NotModified => return Err(EngineError::NotModified { etag, modified }),
        ReadVerdict::Failed => return Err(EngineError::ConditionFailed),
    }
    if let Some(number) = options.part {
        return part_wanted(head, number, parts);
    }
    let range_counts = match &options.if_range {
        None => true,
        Some(IfRange::Etag(text)) => *text == etag.to_string(),
        Some(IfRange::Date(seconds)) => *seconds == modified.seconds(),
    };
    let range = match options.range.filter(|_| range_counts) {
        Some(wish) => satisfy(wish, size)?,
        None => None,
    };
    Ok(Wanted { range, part: None })
}

/// First byte and length; `None` for a range that means nothing and is passed over.
fn satisfy(wish: RangeWish, size: u64) -> Result<Option<(u64, u64)>, EngineError> {
    match wish {
        RangeWish::Between(first, last) if last < first => Ok(None),
        RangeWish::Between(first, last) if first < size => {
            Ok(Some((first, last.min(size - 1) - first + 1)))
        }
        RangeWish::From(first) if first < size => Ok(Some((first, size - first))),
        RangeWish::Last(length) if length > 0 && size > 0 => {
            let length = length.min(size);
            Ok(Some((size - length, length)))
        }
        _ => Err(EngineError::RangeNotSatisfiable { size }),
    }
}

/// An object written at once is its own first part. A part without bytes in an object that has
/// some cannot be named as a range.
fn part_wanted(head: &Head, number: u32, parts: &[PartInfo]) -> Result<Wanted, EngineError> {
    let size = head.meta.size;
    if head.part_count == 0 {
        if number != 1 {
            return Err(EngineError::NoSuchPart);
        }
        return Ok(Wanted { range: (size > 0).then_some((0, size)), part: None });
    }
    let at = parts.iter().position(|part| part.number == number).ok_or(EngineError::NoSuchPart)?;
    let offset = parts[..at].iter().map(|part| part.size).sum();
    let part = parts[at].clone();
    let range = match part.size {
        0 if size == 0 => None,
        0 => return Err(EngineError::RangeNotSatisfiable { size }),
        length => Some((offset, length)),
    };
    Ok(Wanted { range, part: Some(part) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::model::ChecksumType;
    use crate::model::Etag;
    use crate::model::EtagMatch;
    use crate::model::Headers;
    use crate::model::ReadConditions;
    use crate::model::UserMetadata;
    use crate::model::VersionMeta;
    use crate::model::VersionSeq;

    fn head(size: u64, part_count: u32) -> Head {
        let meta = VersionMeta {
            size,
            etag: Etag { md5: [1; 16], parts: None },
            modified: Timestamp(100_500_000),
            headers: Headers::default(),
            user: UserMetadata::default(),
            checksums: Vec::new(),
            checksum_type: ChecksumType::FullObject,
        };
        Head { seq: VersionSeq(1), meta, tag_count: 0, part_count }
    }

    fn range(wish: RangeWish, size: u64) -> Result<Option<(u64, u64)>, u64> {
        let options = GetOptions { range: Some(wish), ..GetOptions::default() };
        match wanted(&head(size, 0), &options, &[]) {
            Ok(wanted) => Ok(wanted.range),
            Err(EngineError::RangeNotSatisfiable { size }) => Err(size),
            Err(err) => panic!("{err}"),
        }
    }

    #[test]
    fn ranges_in_all_three_forms() {
        use RangeWish::Between;
        use RangeWish::From;
        use RangeWish::Last;
        assert_eq!(range(Between(0, 0), 10), Ok(Some((0, 1))));
        assert_eq!(range(Between(3, 5), 10), Ok(Some((3, 3))));
        assert_eq!(range(Between(3, u64::MAX), 10), Ok(Some((3, 7))));
        assert_eq!(range(Between(9, 9), 10), Ok(Some((9, 1))));
        assert_eq!(range(Between(10, 12), 10), Err(10));
        assert_eq!(range(Between(5, 4), 10), Ok(None));
        assert_eq!(range(From(0), 10), Ok(Some((0, 10))));
        assert_eq!(range(From(9), 10), Ok(Some((9, 1))));
        assert_eq!(range(From(10), 10), Err(10));
        assert_eq!(range(Last(1), 10), Ok(Some((9, 1))));
        assert_eq!(range(Last(10), 10), Ok(Some((0, 10))));
        assert_eq!(range(Last(u64::MAX), 10), Ok(Some((0, 10))));
        assert_eq!(range(Last(0), 10), Err(10));
        for wish in [Between(0, 0), From(0), Last(0), Last(5)] {
            assert_eq!(range(wish, 0), Err(0), "{wish:?}");
        }
    }

    #[test]
    fn if_range_lets_the_range_count_or_not() {
        let etag = Etag { md5: [1; 16], parts: None }.to_string();
        let cases = [
            (IfRange::Etag(etag.clone()), true),
            (IfRange::Etag(format!("W/{etag}")), false),
            (IfRange::Date(100), true),
            (IfRange::Date(101), false),
            (IfRange::Date(99), false),
        ];
        for (if_range, counts) in cases {
            // Also a range that could not be satisfied is nothing when it does not count.
            let range = Some(RangeWish::From(10));
            let options =
                GetOptions { range, if_range: Some(if_range.clone()), ..Default::default() };
            assert_eq!(wanted(&head(10, 0), &options, &[]).is_err(), counts, "{if_range:?}");
            let (range, if_range) = (Some(RangeWish::From(9)), Some(if_range));
            let options = GetOptions { range, if_range, ..Default::default() };
            let range = wanted(&head(10, 0), &options, &[]).unwrap().range;
            assert_eq!(range, counts.then_some((9, 1)));
        }
    }

    #[test]
    fn conditions_come_first() {
        let etag = Etag { md5: [1; 16], parts: None }.to_string();
        let has = |text: &str| Some(EtagMatch::OneOf(vec![text.to_owned()]));
        let mut options = GetOptions { range: Some(RangeWish::From(10)), ..Default::default() };
        options.conditions = ReadConditions { if_match: has("other"), ..Default::default() };
        let verdict = wanted(&head(10, 0), &options, &[]);
        assert!(matches!(verdict, Err(EngineError::ConditionFailed)));
        options.conditions = ReadConditions { if_none_match: has(&etag), ..Default::default() };
        let verdict = wanted(&head(10, 0), &options, &[]);
        assert!(matches!(verdict, Err(EngineError::NotModified { .. })));
        options.conditions = ReadConditions { if_match: has(&etag), ..Default::default() };
        let verdict = wanted(&head(10, 0), &options, &[]);
        assert!(matches!(verdict, Err(EngineError::RangeNotSatisfiable { size: 10 })));
    }

    #[test]
    fn a_part_is_the_range_of_its_bytes() {
        let part = |number, size| PartInfo {
            number,
            seq: 1,
            size,
            md5: [0; 16],
            modified: Timestamp(0),
            checksums: Vec::new(),
        };
        let parts = [part(2, 6), part(5, 3), part(9, 1)];
        let options = |part| GetOptions { part: Some(part), ..Default::default() };
        let of = |number| wanted(&head(10, 3), &options(number), &parts);
        assert_eq!(of(2).unwrap().range, Some((0, 6)));
        assert_eq!(of(5).unwrap(), Wanted { range: Some((6, 3)), part: Some(part(5, 3)) });
        assert_eq!(of(9).unwrap().range, Some((9, 1)));
        for number in [0, 1, 3, 10] {
            assert!(matches!(of(number), Err(EngineError::NoSuchPart)), "{number}");
        }
        let single = |number, size| wanted(&head(size, 0), &options(number), &[]);
        assert_eq!(single(1, 7).unwrap(), Wanted { range: Some((0, 7)), part: None });
        assert_eq!(single(1, 0).unwrap(), Wanted { range: None, part: None });
        assert!(matches!(single(2, 7), Err(EngineError::NoSuchPart)));
        let empty = wanted(&head(0, 1), &options(1), &[part(1, 0)]).unwrap();
        assert_eq!(empty, Wanted { range: None, part: Some(part(1, 0)) });
    }
}
