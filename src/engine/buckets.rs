//! Buckets and keys: names upstairs, transactions of the store.

use std::sync::Arc;

use super::Engine;
use super::EngineError;
use crate::model::AccessKey;
use crate::model::Bucket;
use crate::model::BucketName;

impl Engine {
    /// The access key of this id, as it is now: a changed secret takes effect at once.
    pub fn key(&self, id: &str) -> Option<AccessKey> {
        self.store.keys().get(id).cloned()
    }

    pub fn bucket(&self, name: &str) -> Result<Arc<Bucket>, EngineError> {
        self.store.bucket(name).ok_or(EngineError::NoSuchBucket)
    }

    /// In the order of names.
    pub fn buckets(&self) -> Vec<Arc<Bucket>> {
        self.store.buckets()
    }

    /// Makes a bucket with the default wishes.
    pub async fn create_bucket(&self, name: BucketName) -> Result<Arc<Bucket>, EngineError> {
        Ok(self.store.bucket_create(name).await?)
    }

    /// Refused while the bucket has objects or uploads, or while the configuration declares it.
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), EngineError> {
        Ok(self.store.bucket_delete(name).await?)
    }
}
