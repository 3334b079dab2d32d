//! Pages of listings: limits, continuation tokens, and keys in the encoding of URLs.
//!
//! A token is opaque: a format number, a fingerprint of the listing that it belongs to, and where
//! that listing goes on. Tokens of another bucket, prefix or delimiter are refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::AsciiSet;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::utf8_percent_encode;
use s3s::dto::EncodingType;

use crate::base::limits::PAGE_MAX;
use crate::engine::ListAfter;
use crate::model::BucketId;
use crate::s3::error::Refusal;

const TOKEN_FORMAT: u8 = 1;
const FINGERPRINT_LEN: usize = 12;
/// Format, fingerprint, kind.
const TOKEN_HEAD: usize = 1 + FINGERPRINT_LEN + 1;
const KIND_KEY: u8 = b'k';
const KIND_PREFIX: u8 = b'p';

/// What S3 leaves as it is in `encoding-type=url`.
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// How the keys of one answer are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Plain,
    Url,
}

impl Shown {
    pub(crate) fn of(encoding: Option<&EncodingType>) -> Result<Shown, Refusal> {
        match encoding.map(EncodingType::as_str) {
            None | Some("") => Ok(Shown::Plain),
            Some("url") => Ok(Shown::Url),
            Some(_) => {
                Err(Refusal::InvalidArgument("Invalid Encoding Method specified in Request".into()))
            }
        }
    }

    pub(crate) fn text(self, text: &str) -> String {
        match self {
            Shown::Plain => text.to_owned(),
            Shown::Url => utf8_percent_encode(text, KEPT).to_string(),
        }
    }

    pub(crate) fn dto(self) -> Option<EncodingType> {
        match self {
            Shown::Plain => None,
            Shown::Url => Some(EncodingType::from_static(EncodingType::URL)),
        }
    }
}

/// `max-keys` and its like: at most a page, a page when nothing is said.
pub(crate) fn limit(name: &str, wish: Option<i32>) -> Result<usize, Refusal> {
    match wish.map(usize::try_from) {
        None => Ok(PAGE_MAX),
        Some(Ok(wish)) => Ok(wish.min(PAGE_MAX)),
        Some(Err(_)) => Err(Refusal::InvalidArgument(
            format!("Argument {name} must be an integer between 0 and 2147483647").into(),
        )),
    }
}

/// The delimiter, when it is one.
pub(crate) fn delimiter(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// The token with which the listing of `prefix` and `delimiter` in `bucket` goes on after `after`.
pub(crate) fn token(
    bucket: BucketId,
    prefix: &str,
    delimiter: Option<&str>,
    after: &ListAfter,
) -> String {
    let (kind, text) = match after {
        ListAfter::Start => (KIND_KEY, ""),
        ListAfter::Key(key) => (KIND_KEY, key.as_str()),
        ListAfter::Prefix(prefix) => (KIND_PREFIX, prefix.as_str()),
    };
    let mut bytes = vec![TOKEN_FORMAT];
    bytes.extend_from_slice(&fingerprint(bucket, prefix, delimiter));
    bytes.push(kind);
    bytes.extend_from_slice(text.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Where the listing goes on; an error for a token of another listing and for what is no token.
pub(crate) fn read_token(
    token: &str,
    bucket: BucketId,
    prefix: &str,
    delimiter: Option<&str>,
) -> Result<ListAfter, Refusal> {
    let wrong = || Refusal::InvalidArgument("The continuation token provided is incorrect".into());
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
    let (head, text) = bytes.split_at_checked(TOKEN_HEAD).ok_or_else(wrong)?;
    let belongs = head[1..=FINGERPRINT_LEN] == fingerprint(bucket, prefix, delimiter);
    if head[0] != TOKEN_FORMAT || !belongs {
        return Err(wrong());
    }
    let text = String::from_utf8(text.to_vec()).map_err(|_| wrong())?;
    match head[TOKEN_HEAD - 1] {
        KIND_KEY => Ok(ListAfter::Key(text)),
        KIND_PREFIX => Ok(ListAfter::Prefix(text)),
        _ => Err(wrong()),
    }
}

fn fingerprint(bucket: BucketId, prefix: &str, delimiter: Option<&str>) -> [u8; FINGERPRINT_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bucket.0.to_le_bytes());
    hasher.update(&(prefix.len() as u64).to_le_bytes());
    hasher.update(prefix.as_bytes());
    hasher.update(delimiter.unwrap_or_default().as_bytes());
    let mut print = [0; FINGERPRINT_LEN];
    print.copy_from_slice(&hasher.finalize().as_bytes()[..FINGERPRINT_LEN]);
    print
}

/// A token that only names the last item shown: that of ListBuckets.
pub(crate) fn name_token(name: &str) -> String {
    URL_SAFE_NO_PAD.encode([&[TOKEN_FORMAT], name.as_bytes()].concat())
}

pub(crate) fn read_name_token(token: &str) -> Result<String, Refusal> {
    let wrong = || Refusal::InvalidArgument("The continuation token provided is incorrect".into());
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
    match bytes.split_first() {
        Some((&TOKEN_FORMAT, name)) => String::from_utf8(name.to_vec()).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketId = BucketId(7);

    #[test]
    fn a_token_goes_on_where_its_listing_stopped() {
        for after in [ListAfter::Key("a/b é".into()), ListAfter::Prefix("a/".into())] {
            let token = token(BUCKET, "a", Some("/"), &after);
            assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            assert_eq!(read_token(&token, BUCKET, "a", Some("/")), Ok(after));
        }
    }

    #[test]
    fn a_token_of_another_listing_and_garbage_are_refused() {
        let good = token(BUCKET, "a", Some("/"), &ListAfter::Key("ab".into()));
        assert!(read_token(&good, BucketId(8), "a", Some("/")).is_err());
        assert!(read_token(&good, BUCKET, "", Some("/")).is_err());
        assert!(read_token(&good, BUCKET, "a", None).is_err());
        assert!(read_token(&good, BUCKET, "a/", Some("")).is_err());
        let future = URL_SAFE_NO_PAD.encode([2; 20]);
        for text in ["", "a", "???", &good[..10], &future, &format!("{good}=")] {
            assert!(read_token(text, BUCKET, "a", Some("/")).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_buckets_are_tokens_too() {
        assert_eq!(read_name_token(&name_token("photos")), Ok("photos".to_owned()));
        assert!(read_name_token("").is_err());
        assert!(read_name_token("photos!").is_err());
    }

    #[test]
    fn keys_are_shown_as_the_client_wishes() {
        assert_eq!(Shown::Url.text("a b/é+%*~_-.\u{1}"), "a%20b/%C3%A9%2B%25*%7E_-.%01");
        assert_eq!(Shown::Plain.text("a b"), "a b");
        let url = EncodingType::from_static("url");
        assert_eq!(Shown::of(Some(&url)), Ok(Shown::Url));
        assert_eq!(Shown::of(None), Ok(Shown::Plain));
        assert!(Shown::of(Some(&EncodingType::from_static("base64"))).is_err());
    }

    #[test]
    fn limits_are_capped_and_never_negative() {
        assert_eq!(limit("max-keys", None), Ok(1000));
        assert_eq!(limit("max-keys", Some(0)), Ok(0));
        assert_eq!(limit("max-keys", Some(5000)), Ok(1000));
        assert!(limit("max-keys", Some(-1)).is_err());
    }
}
