//! What can go wrong in the store, named by what the caller should do about it.

use std::fmt;

use rusqlite::ErrorCode;

use crate::model::BlobId;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Named by what the caller should do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no such bucket")]
    NoSuchBucket,
    #[error("a bucket of this name exists")]
    BucketExists,
    #[error("the bucket still has objects or uploads")]
    BucketNotEmpty,
    #[error("the configuration declares it; change it there")]
    Declared,
    #[error("there is no such object")]
    NoSuchKey,
    #[error("there is no such access key")]
    NoSuchAccessKey,
    #[error("there is no such upload")]
    NoSuchUpload,
    /// If-Match or If-None-Match did not hold.
    #[error("a condition did not hold")]
    ConditionFailed,
    /// `create_only` and the key has an object.
    #[error("the key has an object already")]
    Exists,
    /// Source of a copy or a part changed since it was looked at: look again.
    #[error("it changed meanwhile")]
    Changed,
    /// The source's blobs belong to another placement than the destination's: stream the bytes.
    #[error("the source has another placement")]
    OtherPlacement,
    /// These blobs have too few good replicas on present backends: replicate them first.
    #[error("too few good replicas")]
    TooFewReplicas(Vec<BlobId>),
    /// `choose` found no backends for a blob of this size.
    #[error("no backend has room")]
    NoRoom { size: u64 },
    #[error("the bucket's quota is reached")]
    BucketQuota,
    #[error("the bucket has as many uploads as it may have")]
    TooManyUploads,
    /// The declaration leaves out this backend, which still has replicas or condemned paths.
    #[error(
        "backend {0} is not declared and still has replicas or condemned paths: declare it again, \
         and let `larder backend drain {0}` and `larder backend remove {0}` go before"
    )]
    BackendInUse(String),
    /// The replica's row is gone or its blob is: whoever wrote it need do nothing more.
    #[error("superseded")]
    Superseded,
    /// The blob has, or is getting, as many good replicas as it should.
    #[error("there are enough replicas")]
    Enough,
    /// The replicas of a backend are the only good ones of this many blobs.
    #[error("{0} blobs have no other good replica")]
    SoleReplicas(u64),
    #[error("there is no such backend")]
    NoSuchBackend,
    /// The queue of the writer is full.
    #[error("the metadata store is busy")]
    Busy,
    /// Nothing can be written now (disk full, I/O error); reads go on. Retry later.
    #[error("the metadata store cannot write")]
    Unavailable(#[source] Option<Cause>),
    /// It may have happened or not. Nothing may be deleted for it.
    #[error("it is not known whether the change was made")]
    OutcomeUnknown,
    /// open(): the database, the directory or the lock.
    #[error("{0}")]
    Open(String),
    #[error("the metadata store failed")]
    Sqlite(#[source] Cause),
}

impl StoreError {
    /// Whether a request was refused, as against errors that are the store's own. A commit that is
    /// refused gives up its blobs in its own transaction.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            StoreError::NoSuchBucket
                | StoreError::NoSuchUpload
                | StoreError::Exists
                | StoreError::ConditionFailed
                | StoreError::NoSuchKey
                | StoreError::BucketQuota
        )
    }

    /// A row says something that no row of ours says, or an operation did what it never should.
    pub(super) fn broken(what: &str) -> StoreError {
        StoreError::Sqlite(Box::new(Broken(what.to_owned())))
    }
}

#[derive(Debug)]
struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

impl From<rusqlite::Error> for StoreError {
    fn from(err: rusqlite::Error) -> StoreError {
        match err.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseBusy
                | ErrorCode::FileLockingProtocolFailed,
            ) => StoreError::Unavailable(Some(Box::new(err))),
            _ => StoreError::Sqlite(Box::new(err)),
        }
    }
}
