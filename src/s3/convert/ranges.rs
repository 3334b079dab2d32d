//! Byte ranges.

use crate::engine::RangeWish;

/// The one range of a Range header. `None` for several ranges and for what is no range: S3
/// answers both with the whole object.
pub(crate) fn parse(text: &str) -> Option<RangeWish> {
    let (unit, range) = text.trim().split_once('=')?;
    if !unit.trim_end().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(RangeWish::Last(position(last)?)),
        (false, true) => Some(RangeWish::From(position(first)?)),
        (false, false) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(RangeWish::Between(first, last))
        }
    }
}

/// The range of `x-amz-copy-source-range`: both ends are wanted.
pub(crate) fn copy_source(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (u64, u64) = (exact(first)?, exact(last)?);
    (first <= last).then_some((first, last))
}

/// Content-Range of `length` bytes from `first`; `None` for no bytes, which it cannot say.
pub(crate) fn content_range(first: u64, length: u64, size: u64) -> Option<String> {
    let last = first.checked_add(length.checked_sub(1)?)?;
    Some(format!("bytes {first}-{last}/{size}"))
}

fn exact(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// A position beyond every object is as good as any other.
fn position(digits: &str) -> Option<u64> {
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    numeric.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read() {
        assert_eq!(parse("bytes=0-4"), Some(RangeWish::Between(0, 4)));
        assert_eq!(parse("Bytes= 7-7 "), Some(RangeWish::Between(7, 7)));
        assert_eq!(parse("bytes=5-"), Some(RangeWish::From(5)));
        assert_eq!(parse("bytes=-3"), Some(RangeWish::Last(3)));
        assert_eq!(parse("bytes=-0"), Some(RangeWish::Last(0)));
        let far = parse("bytes=1-99999999999999999999999");
        assert_eq!(far, Some(RangeWish::Between(1, u64::MAX)));
    }

    #[test]
    fn several_ranges_and_malformed_ones_mean_the_whole_object() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=4-3",
            "bytes=0-1,3-4",
            "bytes=a-b",
            "items=0-1",
            "bytes=+1-2",
            "bytes=1--2",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_copied_range_has_both_ends() {
        assert_eq!(copy_source("bytes=0-9"), Some((0, 9)));
        for text in ["bytes=0-", "bytes=-5", "bytes=9-0", "0-9", "bytes=0-9,11-12", "bytes=0-x"] {
            assert_eq!(copy_source(text), None, "{text}");
        }
    }

    #[test]
    fn content_range_counts_from_zero() {
        assert_eq!(content_range(2, 3, 10).as_deref(), Some("bytes 2-4/10"));
        assert_eq!(content_range(0, 0, 0), None);
    }
}
