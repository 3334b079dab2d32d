//! Putting an object: *register*, *write*, *commit*.

use std::sync::Arc;

use super::Engine;
use super::EngineError;
use super::Held;
use super::request::PutObject;
use super::request::Stored;
use super::write::Written;
use crate::base::limits::PUT_SIZE_MAX;
use crate::model::Bucket;
use crate::model::ChecksumType;
use crate::model::Etag;
use crate::store::CommitVersion;

impl Engine {
    /// Stores the body as the current version of the key. On `Ok` it survives the loss of power and
    /// of any `min_replicas - 1` backends; on an error that is not [`EngineError::Store`] nothing
    /// has changed.
    pub async fn put_object(self: &Arc<Self>, put: PutObject) -> Result<Stored, EngineError> {
        if put.body.size > PUT_SIZE_MAX {
            return Err(EngineError::TooLarge { size: put.body.size, max: PUT_SIZE_MAX });
        }
        let bucket = self.bucket(&put.bucket)?;
        let engine = Arc::clone(self);
        detached(async move { engine.put_into(&bucket, put).await }).await
    }

    /// [`Engine::put_object`] in the task that it runs in.
    pub(super) async fn put_into(
        self: &Arc<Self>,
        bucket: &Bucket,
        put: PutObject,
    ) -> Result<Stored, EngineError> {
        self.quota_admits(bucket, &put.key, None, put.body.to_come()).await?;
        let written = self.write_body(bucket, &put.key, 0, put.body).await?;
        let Written { size, hash, blobs, late } = written;
        let etag = Etag::of_body(hash.md5.expect("the MD5 of a body is always computed"));
        let commit = CommitVersion {
            bucket: bucket.id,
            key: put.key,
            conditions: put.conditions,
            create_only: put.create_only,
            meta: put.meta,
            etag,
            checksums: hash.checksums.clone(),
            checksum_type: ChecksumType::FullObject,
            blobs: blobs.clone(),
        };
        match self.store.version_commit(commit).await {
            Ok(committed) => {
                late.join(self);
                Ok(Stored {
                    etag,
                    size,
                    checksums: hash.checksums,
                    checksum_type: ChecksumType::FullObject,
                    modified: committed.modified,
                })
            }
            Err(err) => {
                self.after_failed_commit(&err, blobs, late);
                Err(err.into())
            }
        }
    }
}

/// Runs a write to its end even when nobody waits for it any more.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    // The permit of the request goes with its work, not with its client.
    let held = Held::current();
    let work = async move {
        let result = work.await;
        drop(held);
        result
    };
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            // It costs this request, as a panic in the request itself would.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(EngineError::Busy),
        },
    }
}
