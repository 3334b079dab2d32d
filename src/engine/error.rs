//! What can go wrong with a verb, named by what the caller should do about it.

use std::sync::Arc;

use crate::backend::BackendError;
use crate::base::Timestamp;
use crate::model::Etag;
use crate::store::StoreError;

/// Why a body could not be taken from the client.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the connection broke off")]
    Broken,
    #[error("nothing arrived for too long")]
    Stalled,
    #[error("the body ended before its announced length")]
    TooShort,
    #[error("the body is longer than announced")]
    TooLong,
    #[error("the signature of a chunk does not match")]
    ChunkSignature,
    #[error("the body's framing is malformed: {0}")]
    Malformed(&'static str),
    #[error("a promised trailer is missing or malformed")]
    Trailer,
    #[error("the body does not match x-amz-content-sha256")]
    Sha256Mismatch,
    /// The body is another object that could not be read to its end.
    #[error("the source of the copy cannot be read now")]
    Source,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("there is no such bucket")]
    NoSuchBucket,
    #[error("a bucket of this name exists")]
    BucketExists,
    #[error("the bucket still has objects or uploads")]
    BucketNotEmpty,
    #[error("the configuration declares it; change it there")]
    Declared,
    #[error("there is no such key")]
    NoSuchKey,
    #[error("there is no such upload")]
    NoSuchUpload,
    #[error("there is no such access key")]
    NoSuchAccessKey,
    #[error("there is no such backend in the configuration")]
    NoSuchBackend,
    #[error("a condition did not hold")]
    ConditionFailed,
    /// The key may only create, and there is an object.
    #[error("the key has an object already")]
    Exists,
    #[error("not modified")]
    NotModified { etag: Etag, modified: Timestamp },
    #[error("the range cannot be satisfied")]
    RangeNotSatisfiable { size: u64 },
    #[error("there is no such part")]
    NoSuchPart,
    #[error("the body has {size} bytes, at most {max} are taken")]
    TooLarge { size: u64, max: u64 },
    #[error("part {number} is missing, changed or not as the request says")]
    InvalidPart { number: u32 },
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    #[error("part {number} has {size} bytes and is not the last")]
    PartTooSmall { number: u32, size: u64 },
    /// Content-MD5 or a checksum does not match the body.
    #[error("the {0} of the body is not the one that was sent")]
    BadDigest(&'static str),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the copy source changed or a condition on it did not hold")]
    SourceConditionFailed,
    #[error("the request is not possible: {0}")]
    Invalid(&'static str),
    #[error("the bucket's quota is reached")]
    BucketQuota,
    #[error("the bucket has as many uploads as it may have")]
    TooManyUploads,
    /// 507
    #[error("no backend takes {size} bytes: there is no room, or a limit is reached")]
    NoRoom { size: u64 },
    /// 503: too few backends can be reached, or nothing readable is left now.
    #[error("too few backends can be reached now")]
    Unavailable(#[source] Option<Arc<BackendError>>),
    /// 429: what could be read lies only where a limit of the owner is reached.
    #[error("a limit of the backends is reached")]
    Spent,
    /// 503 SlowDown
    #[error("too much is going on")]
    Busy,
    /// 503: the store cannot write, or the outcome is not known.
    #[error("the metadata store cannot serve this now")]
    Store(#[source] Arc<StoreError>),
}

impl EngineError {
    /// The store said so itself when it began, and says when it ends: not once for each request.
    pub fn is_told(&self) -> bool {
        matches!(self, EngineError::Store(err) if matches!(**err, StoreError::Unavailable(_)))
    }
}

impl From<StoreError> for EngineError {
    fn from(err: StoreError) -> EngineError {
        match err {
            StoreError::NoSuchBucket => EngineError::NoSuchBucket,
            StoreError::BucketExists => EngineError::BucketExists,
            StoreError::BucketNotEmpty => EngineError::BucketNotEmpty,
            StoreError::Declared => EngineError::Declared,
            StoreError::NoSuchAccessKey => EngineError::NoSuchAccessKey,
            StoreError::NoSuchKey => EngineError::NoSuchKey,
            StoreError::NoSuchUpload => EngineError::NoSuchUpload,
            StoreError::ConditionFailed => EngineError::ConditionFailed,
            StoreError::Exists => EngineError::Exists,
            StoreError::NoRoom { size } => EngineError::NoRoom { size },
            StoreError::BucketQuota => EngineError::BucketQuota,
            StoreError::TooManyUploads => EngineError::TooManyUploads,
            StoreError::Busy => EngineError::Busy,
            StoreError::TooFewReplicas(_) => EngineError::Unavailable(None),
            StoreError::NoSuchBackend => EngineError::NoSuchBackend,
            err @ (StoreError::Changed
            | StoreError::Enough
            | StoreError::SoleReplicas(_)
            | StoreError::OtherPlacement
            | StoreError::BackendInUse(_)
            | StoreError::Superseded
            | StoreError::Unavailable(_)
            | StoreError::OutcomeUnknown
            | StoreError::Open(_)
            | StoreError::Sqlite(_)) => EngineError::Store(Arc::new(err)),
        }
    }
}
