//! Compact forms of what the database need not look into: headers, metadata, checksums.
//!
//! Each form begins with a version byte. Numbers are LEB128, texts and bytes carry their length.
//! A form once written is read for ever: a change makes a new version byte.

use super::error::StoreError;
use super::upload::CompletedUpload;
use super::version::Committed;
use super::version::NewMeta;
use crate::base::Timestamp;
use crate::model::Checksum;
use crate::model::ChecksumAlgorithm;
use crate::model::ChecksumType;
use crate::model::Etag;
use crate::model::Expire;
use crate::model::Headers;
use crate::model::Lifecycle;
use crate::model::Rule;
use crate::model::RuleWish;
use crate::model::Tags;
use crate::model::UserMetadata;
use crate::model::VersionSeq;

const VERSION: u8 = 1;

/// Content types that take one byte, numbered from 1. Only ever appended to.
const COMMON_TYPES: &[&str] = &[
    "application/octet-stream",
    "binary/octet-stream",
    "text/plain",
    "text/html",
    "text/css",
    "text/csv",
    "text/javascript",
    "text/markdown",
    "application/javascript",
    "application/json",
    "application/xml",
    "application/pdf",
    "application/zip",
    "application/gzip",
    "application/x-tar",
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/svg+xml",
    "audio/mpeg",
    "video/mp4",
    "text/plain; charset=utf-8",
    "application/x-www-form-urlencoded",
];

type Read<T> = Result<T, StoreError>;

// ---------------------------------------------------------------- forms

/// Checksums first, so that a listing need not read further than the storage class.
pub(super) fn info(
    checksums: &[Checksum],
    checksum_type: ChecksumType,
    headers: &Headers,
    user: &UserMetadata,
) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    out.checksums(checksums, checksum_type);
    out.headers(headers);
    if !user.pairs().is_empty() {
        out.pairs(user.pairs());
    }
    out.0
}

pub(super) struct Info {
    pub(super) checksums: Vec<Checksum>,
    pub(super) checksum_type: ChecksumType,
    pub(super) headers: Headers,
    pub(super) user: UserMetadata,
}

pub(super) fn info_read(bytes: &[u8]) -> Read<Info> {
    let mut input = In::new(bytes)?;
    let (checksums, checksum_type) = input.checksums()?;
    let headers = input.headers()?;
    let pairs = if input.0.is_empty() { Vec::new() } else { input.pairs()? };
    let user = UserMetadata::new(pairs).map_err(|_| broken())?;
    Ok(Info { checksums, checksum_type, headers, user })
}

/// What a listing shows of [`info`].
pub(super) struct Listed {
    pub(super) algorithms: Vec<ChecksumAlgorithm>,
    pub(super) checksum_type: ChecksumType,
    pub(super) storage_class: Option<String>,
}

pub(super) fn info_listed(bytes: &[u8]) -> Read<Listed> {
    let mut input = In::new(bytes)?;
    let (checksums, checksum_type) = input.checksums()?;
    let algorithms = checksums.iter().map(Checksum::algorithm).collect();
    let storage_class = input.storage_class()?;
    Ok(Listed { algorithms, checksum_type, storage_class })
}

pub(super) fn checksums(checksums: &[Checksum]) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    out.checksums(checksums, ChecksumType::FullObject);
    out.0
}

pub(super) fn checksums_read(bytes: &[u8]) -> Read<Vec<Checksum>> {
    Ok(In::new(bytes)?.checksums()?.0)
}

/// What a finished multipart object remembers of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) number: u32,
    pub(super) md5: [u8; 16],
    pub(super) checksums: Vec<Checksum>,
}

pub(super) fn pieces(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    for piece in pieces {
        out.number(u64::from(piece.number));
        out.0.extend_from_slice(&piece.md5);
        out.checksums(&piece.checksums, ChecksumType::FullObject);
    }
    out.0
}

pub(super) fn pieces_read(bytes: &[u8]) -> Read<Vec<Piece>> {
    let mut input = In::new(bytes)?;
    let mut pieces = Vec::new();
    while !input.0.is_empty() {
        pieces.push(Piece {
            number: input.small()?,
            md5: input.array()?,
            checksums: input.checksums()?.0,
        });
    }
    Ok(pieces)
}

/// What an upload carries from its creation to its object.
pub(super) fn upload_info(
    meta: &NewMeta,
    checksum: Option<(ChecksumAlgorithm, ChecksumType)>,
) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    match checksum {
        Some((algorithm, kind)) => {
            out.0.extend_from_slice(&[1 + algorithm_code(algorithm), type_code(kind)]);
        }
        None => out.0.push(0),
    }
    out.headers(&meta.headers);
    out.pairs(meta.user.pairs());
    out.pairs(meta.tags.pairs());
    out.0
}

pub(super) fn upload_info_read(
    bytes: &[u8],
) -> Read<(NewMeta, Option<(ChecksumAlgorithm, ChecksumType)>)> {
    let mut input = In::new(bytes)?;
    let checksum = match input.byte()? {
        0 => None,
        code => Some((algorithm(code - 1)?, checksum_type(input.byte()?)?)),
    };
    let headers = input.headers()?;
    let user = UserMetadata::new(input.pairs()?).map_err(|_| broken())?;
    let tags = Tags::new(input.pairs()?).map_err(|_| broken())?;
    Ok((NewMeta { headers, user, tags }, checksum))
}

pub(super) fn result(done: &CompletedUpload) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    out.0.extend_from_slice(&done.etag.md5);
    out.number(done.etag.parts.map_or(0, |parts| u64::from(parts) + 1));
    out.number(done.size);
    out.checksums(&done.checksums, done.checksum_type);
    out.number(done.committed.seq.0);
    out.0.extend_from_slice(&done.committed.modified.0.to_le_bytes());
    out.0
}

pub(super) fn result_read(bytes: &[u8]) -> Read<CompletedUpload> {
    let mut input = In::new(bytes)?;
    let md5 = input.array()?;
    let parts = input.small()?.checked_sub(1);
    let size = input.number()?;
    let (checksums, checksum_type) = input.checksums()?;
    let seq = VersionSeq(input.number()?);
    let modified = Timestamp(i64::from_le_bytes(input.array()?));
    let committed = Committed { seq, modified };
    Ok(CompletedUpload { etag: Etag { md5, parts }, size, checksums, checksum_type, committed })
}

/// All rules of one bucket.
pub(super) fn lifecycle(lifecycle: &Lifecycle) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    for rule in lifecycle.rules() {
        let rule = rule.says();
        out.text(&rule.id);
        out.0.push(u8::from(rule.is_enabled));
        out.text(&rule.prefix);
        out.pairs(rule.tags.pairs());
        out.perhaps(rule.larger_than);
        out.perhaps(rule.smaller_than);
        match rule.expire {
            None => out.0.push(0),
            Some(Expire::After(days)) => {
                out.0.push(1);
                out.number(days.into());
            }
            Some(Expire::On(date)) => {
                out.0.push(2);
                out.0.extend_from_slice(&date.0.to_le_bytes());
            }
        }
        out.perhaps(rule.abort_after.map(u64::from));
    }
    out.0
}

pub(super) fn lifecycle_read(bytes: &[u8]) -> Read<Lifecycle> {
    let mut input = In::new(bytes)?;
    let mut rules = Vec::new();
    while !input.0.is_empty() {
        let wish = RuleWish {
            id: input.text()?,
            is_enabled: input.byte()? != 0,
            prefix: input.text()?,
            tags: Tags::new(input.pairs()?).map_err(|_| broken())?,
            larger_than: input.perhaps()?,
            smaller_than: input.perhaps()?,
            expire: match input.byte()? {
                0 => None,
                1 => Some(Expire::After(input.small()?)),
                2 => Some(Expire::On(Timestamp(i64::from_le_bytes(input.array()?)))),
                _ => return Err(broken()),
            },
            abort_after: match input.perhaps()? {
                None => None,
                Some(days) => Some(u32::try_from(days).map_err(|_| broken())?),
            },
        };
        rules.push(Rule::new(wish).map_err(|_| broken())?);
    }
    Lifecycle::new(rules).map_err(|_| broken())
}

/// Sorted label names of a placement.
pub(super) fn labels(labels: &[String]) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    labels.iter().for_each(|label| out.text(label));
    out.0
}

pub(super) fn labels_read(bytes: &[u8]) -> Read<Vec<String>> {
    let mut input = In::new(bytes)?;
    let mut labels = Vec::new();
    while !input.0.is_empty() {
        labels.push(input.text()?);
    }
    Ok(labels)
}

pub(super) fn hashes(hashes: &[[u8; 32]]) -> Option<Vec<u8>> {
    (!hashes.is_empty()).then(|| hashes.as_flattened().to_vec())
}

pub(super) fn hashes_read(bytes: &[u8]) -> Read<Vec<[u8; 32]>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() { Ok(hashes.to_vec()) } else { Err(broken()) }
}

pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Read<[u8; N]> {
    bytes.try_into().map_err(|_| broken())
}

// ---------------------------------------------------------------- codes

fn algorithm_code(algorithm: ChecksumAlgorithm) -> u8 {
    match algorithm {
        ChecksumAlgorithm::Crc32 => 0,
        ChecksumAlgorithm::Crc32c => 1,
        ChecksumAlgorithm::Crc64Nvme => 2,
        ChecksumAlgorithm::Sha1 => 3,
        ChecksumAlgorithm::Sha256 => 4,
    }
}

fn algorithm(code: u8) -> Read<ChecksumAlgorithm> {
    ChecksumAlgorithm::ALL.into_iter().find(|a| algorithm_code(*a) == code).ok_or_else(broken)
}

fn type_code(kind: ChecksumType) -> u8 {
    match kind {
        ChecksumType::FullObject => 0,
        ChecksumType::Composite => 1,
    }
}

fn checksum_type(code: u8) -> Read<ChecksumType> {
    match code {
        0 => Ok(ChecksumType::FullObject),
        1 => Ok(ChecksumType::Composite),
        _ => Err(broken()),
    }
}

fn broken() -> StoreError {
    StoreError::broken("a row of the metadata database is malformed")
}

// ---------------------------------------------------------------- bytes

struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// A byte says whether there is one.
    fn perhaps(&mut self, number: Option<u64>) {
        self.0.push(u8::from(number.is_some()));
        if let Some(number) = number {
            self.number(number);
        }
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn pairs(&mut self, pairs: &[(String, String)]) {
        self.number(pairs.len() as u64);
        for (name, value) in pairs {
            self.text(name);
            self.text(value);
        }
    }

    /// One byte holds the kind and the count.
    fn checksums(&mut self, checksums: &[Checksum], kind: ChecksumType) {
        self.0.push(type_code(kind) | (checksums.len() as u8) << 1);
        for checksum in checksums {
            self.0.push(algorithm_code(checksum.algorithm()));
            self.0.extend_from_slice(checksum.value());
        }
    }

    /// A byte with a bit for each header that is there, the storage class in the lowest.
    fn headers(&mut self, headers: &Headers) {
        let texts = header_texts(headers);
        let content_type = headers.content_type.as_deref();
        let bits = texts
            .iter()
            .enumerate()
            .fold(0, |bits, (i, text)| bits | u8::from(text.is_some()) << i);
        self.0.push(bits | u8::from(content_type.is_some()) << texts.len());
        texts.into_iter().flatten().for_each(|text| self.text(text));
        if let Some(text) = content_type {
            match COMMON_TYPES.iter().position(|common| *common == text) {
                Some(at) => self.0.push(at as u8 + 1),
                None => {
                    self.0.push(0);
                    self.text(text);
                }
            }
        }
    }
}

const STORAGE_CLASS_BIT: u8 = 1;
const CONTENT_TYPE_BIT: u8 = 1 << 7;

fn header_texts(headers: &Headers) -> [Option<&str>; 7] {
    [
        headers.storage_class.as_deref(),
        headers.cache_control.as_deref(),
        headers.content_disposition.as_deref(),
        headers.content_encoding.as_deref(),
        headers.content_language.as_deref(),
        headers.expires.as_deref(),
        headers.website_redirect.as_deref(),
    ]
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn new(bytes: &'a [u8]) -> Read<In<'a>> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(In(rest)),
            _ => Err(broken()),
        }
    }

    fn byte(&mut self) -> Read<u8> {
        let (&byte, rest) = self.0.split_first().ok_or_else(broken)?;
        self.0 = rest;
        Ok(byte)
    }

    fn take(&mut self, len: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        fixed(self.take(N)?)
    }

    fn number(&mut self) -> Read<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(broken())
    }

    fn perhaps(&mut self) -> Read<Option<u64>> {
        if self.byte()? == 0 { Ok(None) } else { self.number().map(Some) }
    }

    fn small(&mut self) -> Read<u32> {
        u32::try_from(self.number()?).map_err(|_| broken())
    }

    fn text(&mut self) -> Read<String> {
        let len = usize::try_from(self.number()?).map_err(|_| broken())?;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| broken())
    }

    fn pairs(&mut self) -> Read<Vec<(String, String)>> {
        let count = self.number()?;
        (0..count).map(|_| Ok((self.text()?, self.text()?))).collect()
    }

    fn checksums(&mut self) -> Read<(Vec<Checksum>, ChecksumType)> {
        let head = self.byte()?;
        let checksums = (0..head >> 1)
            .map(|_| {
                let algorithm = algorithm(self.byte()?)?;
                let value = self.take(algorithm.value_len())?;
                Checksum::new(algorithm, value).ok_or_else(broken)
            })
            .collect::<Read<_>>()?;
        Ok((checksums, checksum_type(head & 1)?))
    }

    fn storage_class(&mut self) -> Read<Option<String>> {
        let bits = self.byte()?;
        if bits & STORAGE_CLASS_BIT != 0 { self.text().map(Some) } else { Ok(None) }
    }

    fn headers(&mut self) -> Read<Headers> {
        let bits = self.byte()?;
        let mut texts: [Option<String>; 7] = Default::default();
        for (i, text) in texts.iter_mut().enumerate() {
            if bits & 1 << i != 0 {
                *text = Some(self.text()?);
            }
        }
        let content_type = if bits & CONTENT_TYPE_BIT == 0 {
            None
        } else {
            Some(match self.byte()? {
                0 => self.text()?,
                code => {
                    let text = COMMON_TYPES.get(usize::from(code) - 1).ok_or_else(broken)?;
                    (*text).to_owned()
                }
            })
        };
        let [storage, cache, disposition, encoding, language, expires, redirect] = texts;
        Ok(Headers {
            content_type,
            cache_control: cache,
            content_disposition: disposition,
            content_encoding: encoding,
            content_language: language,
            expires,
            storage_class: storage,
            website_redirect: redirect,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::limits::RULE_DAYS_MAX;
    use crate::model::lifecycle::DAY;

    fn text() -> impl Strategy<Value = Option<String>> {
        prop_oneof![
            Just(None),
            "[a-zé/;= -]{0,200}".prop_map(Some),
            prop::sample::select(COMMON_TYPES).prop_map(|t| Some(t.to_owned())),
        ]
    }

    fn headers() -> impl Strategy<Value = Headers> {
        prop::array::uniform8(text()).prop_map(|[a, b, c, d, e, f, g, h]| Headers {
            content_type: a,
            cache_control: b,
            content_disposition: c,
            content_encoding: d,
            content_language: e,
            expires: f,
            storage_class: g,
            website_redirect: h,
        })
    }

    fn sums() -> impl Strategy<Value = Vec<Checksum>> {
        let sum = (prop::sample::select(ChecksumAlgorithm::ALL.to_vec()), any::<[u8; 32]>())
            .prop_map(|(a, bytes)| Checksum::new(a, &bytes[..a.value_len()]).unwrap());
        prop::collection::vec(sum, 0..6)
    }

    fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        prop::collection::btree_map("[a-z]{1,9}", "[a-z0-9]{0,9}", 0..9)
            .prop_map(|map| map.into_iter().collect())
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let days = || 1..=RULE_DAYS_MAX;
        let expire = prop_oneof![
            days().prop_map(Expire::After),
            (-99_999..999_999_i64).prop_map(|day| Expire::On(Timestamp(day * DAY))),
        ];
        let size = prop::option::of(any::<u64>());
        (any::<bool>(), "[a-zé%]{0,9}", pairs(), size, prop::option::of(expire), days()).prop_map(
            |(is_enabled, prefix, pairs, larger_than, expire, days)| {
                let has_filter = larger_than.is_some() || !pairs.is_empty();
                let expire = expire.or(has_filter.then_some(Expire::After(days)));
                let abort_after = (!has_filter).then_some(days);
                let tags = Tags::new(pairs).unwrap();
                let smaller_than = larger_than.and_then(|least| least.checked_add(days.into()));
                let wish = RuleWish {
                    id: String::new(),
                    is_enabled,
                    prefix,
                    tags,
                    larger_than,
                    smaller_than,
                    expire,
                    abort_after,
                };
                Rule::new(wish).unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn rules_that_are_written_are_read_back(rules in prop::collection::vec(rule(), 0..4)) {
            let rules = Lifecycle::new(rules).unwrap();
            let bytes = lifecycle(&rules);
            prop_assert_eq!(lifecycle_read(&bytes)?, rules);
            for cut in 0..bytes.len() {
                let _ = lifecycle_read(&bytes[..cut]);
            }
        }

        #[test]
        fn what_is_written_is_read_back(
            headers in headers(), sums in sums(), pairs in pairs(), composite: bool, number: u32,
            parts: Option<u16>, seq: u64, modified: i64,
        ) {
            let kind =
                if composite { ChecksumType::Composite } else { ChecksumType::FullObject };
            let user = UserMetadata::new(pairs.clone()).unwrap();
            let bytes = info(&sums, kind, &headers, &user);
            let read = info_read(&bytes)?;
            prop_assert_eq!((&read.checksums, read.checksum_type), (&sums, kind));
            prop_assert_eq!((&read.headers, &read.user), (&headers, &user));
            let listed = info_listed(&bytes)?;
            prop_assert_eq!(&listed.storage_class, &headers.storage_class);
            prop_assert_eq!(listed.algorithms.len(), sums.len());
            for cut in 0..bytes.len() {
                // A form that was cut is an error or shorter, and never a panic.
                let _ = info_read(&bytes[..cut]);
            }
            let piece = Piece { number, md5: [7; 16], checksums: sums.clone() };
            let both = vec![piece.clone(), piece];
            prop_assert_eq!(pieces_read(&pieces(&both))?, both);
            let meta = NewMeta { headers, user, tags: Tags::new(pairs).unwrap() };
            let checksum = sums.first().map(|sum| (sum.algorithm(), kind));
            let (back, back_sum) = upload_info_read(&upload_info(&meta, checksum))?;
            prop_assert_eq!((&back.headers, &back.user), (&meta.headers, &meta.user));
            prop_assert_eq!((&back.tags, back_sum), (&meta.tags, checksum));
            let done = CompletedUpload {
                etag: Etag { md5: [3; 16], parts: parts.map(u32::from) },
                size: seq,
                checksums: sums,
                checksum_type: kind,
                committed: Committed { seq: VersionSeq(seq), modified: Timestamp(modified) },
            };
            prop_assert_eq!(result_read(&result(&done))?, done);
        }
    }

    #[test]
    fn an_ordinary_object_takes_a_dozen_bytes() {
        let headers =
            Headers { content_type: Some("application/octet-stream".into()), ..Headers::default() };
        let sum = Checksum::new(ChecksumAlgorithm::Crc64Nvme, [1; 8]).unwrap();
        let bytes = info(&[sum], ChecksumType::FullObject, &headers, &UserMetadata::default());
        assert!(bytes.len() <= 14, "{}", bytes.len());
    }
}
