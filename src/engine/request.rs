//! What the verbs are asked, and what they answer.

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::error::BodyError;
use super::error::EngineError;
use crate::base::Timestamp;
use crate::base::limits::SHORT_BODY_MAX;
use crate::model::*;
use crate::store::Head;
use crate::store::NewMeta;
use crate::store::PartInfo;

/// A body as it comes in. The engine reads exactly `size` bytes; more or fewer store nothing.
pub struct Body {
    pub size: u64,
    pub stream: BoxStream<'static, Result<Bytes, BodyError>>,
    /// What the client says of the body in advance.
    pub expected: Expected,
    /// What the client says after the body (trailers), asked for when the stream has ended.
    pub trailer: Option<Trailer>,
    /// Whether the bytes draw on the budget of the process as they arrive. A copy's do not: whoever
    /// reads them for it has drawn for them, and would wait for itself.
    pub draws: bool,
    /// The client sends nothing before it is asked to: what can be refused is refused before.
    pub waits: bool,
}

impl Body {
    /// Its size, unless it is so short that it costs less than a look before it is read.
    pub(super) fn to_come(&self) -> Option<u64> {
        (self.waits || self.size > SHORT_BODY_MAX).then_some(self.size)
    }
}

pub type Trailer = Box<dyn FnOnce() -> Result<Vec<Checksum>, BodyError> + Send>;

#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub md5: Option<[u8; 16]>,
    /// `x-amz-content-sha256` of a signed body.
    pub sha256: Option<[u8; 32]>,
    pub checksums: Vec<Checksum>,
    /// Algorithms to compute and keep, those of `checksums` and of announced trailers included.
    pub algorithms: Vec<ChecksumAlgorithm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeWish {
    /// `bytes=a-b`, inclusive.
    Between(u64, u64),
    /// `bytes=a-`
    From(u64),
    /// `bytes=-n`
    Last(u64),
}

#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    pub conditions: ReadConditions,
    pub range: Option<RangeWish>,
    /// If-Range: the range counts only if the ETag (without quotes) or the date (seconds) is the object's.
    pub if_range: Option<IfRange>,
    /// `partNumber`; excludes `range`.
    pub part: Option<u32>,
    /// Fail with [`EngineError::ConditionFailed`] when another version is current.
    pub version: Option<VersionSeq>,
}

#[derive(Clone, Debug)]
pub enum IfRange {
    Etag(String),
    Date(i64),
}

/// What GET and HEAD answer.
pub struct Got {
    pub head: Head,
    /// `Some` for 206: first byte and length.
    pub range: Option<(u64, u64)>,
    /// The checksums of the part, when a part was asked for.
    pub part: Option<PartInfo>,
    /// Empty for HEAD. Every piece was verified before it is given out.
    pub body: BoxStream<'static, Result<Bytes, EngineError>>,
}

pub struct PutObject {
    pub bucket: String,
    pub key: ObjectKey,
    pub meta: NewMeta,
    pub conditions: WriteConditions,
    pub create_only: bool,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub struct Stored {
    pub etag: Etag,
    pub size: u64,
    pub checksums: Vec<Checksum>,
    pub checksum_type: ChecksumType,
    pub modified: Timestamp,
}

pub struct UploadPart {
    pub bucket: String,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: u32,
    pub body: Body,
}

pub struct CopyObject {
    pub source_bucket: String,
    pub source_key: ObjectKey,
    pub source_conditions: ReadConditions,
    pub bucket: String,
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    pub create_only: bool,
    /// `None` for the directive COPY.
    pub headers: Option<(Headers, UserMetadata)>,
    pub tags: Option<Tags>,
    pub algorithm: Option<ChecksumAlgorithm>,
}

pub struct UploadPartCopy {
    pub source_bucket: String,
    pub source_key: ObjectKey,
    pub source_conditions: ReadConditions,
    /// First and last byte; must lie within the source.
    pub range: Option<(u64, u64)>,
    pub bucket: String,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: u32,
}

pub struct CreateUpload {
    pub bucket: String,
    pub key: ObjectKey,
    pub meta: NewMeta,
    pub checksum: Option<(ChecksumAlgorithm, ChecksumType)>,
    pub initiator: String,
}

pub struct CompletePart {
    pub number: u32,
    /// Without quotes.
    pub etag: String,
    pub checksums: Vec<Checksum>,
}

pub struct CompleteUploadRequest {
    pub bucket: String,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub parts: Vec<CompletePart>,
    pub conditions: WriteConditions,
    pub create_only: bool,
    /// The whole object's checksum or size, when the client sends one.
    pub checksums: Vec<Checksum>,
    pub checksum_type: Option<ChecksumType>,
    pub size: Option<u64>,
}
