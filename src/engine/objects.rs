//! Verbs on objects that move no bytes: delete, list, tags.

use super::Engine;
use super::EngineError;
use crate::model::ObjectKey;
use crate::model::Tags;
use crate::model::WriteConditions;
use crate::store::ListPage;
use crate::store::ListQuery;

impl Engine {
    /// Whether there was an object. Its bytes are condemned and deleted later.
    pub async fn delete_object(
        &self,
        bucket: &str,
        key: ObjectKey,
        conditions: WriteConditions,
    ) -> Result<bool, EngineError> {
        let bucket = self.bucket(bucket)?;
        Ok(self.store.object_delete(bucket.id, key, conditions).await?)
    }

    /// One transaction for all keys, one answer for each, in order.
    pub async fn delete_objects(
        &self,
        bucket: &str,
        keys: Vec<(ObjectKey, WriteConditions)>,
    ) -> Result<Vec<Result<bool, EngineError>>, EngineError> {
        let bucket = self.bucket(bucket)?;
        let results = self.store.objects_delete(bucket.id, keys).await?;
        Ok(results.into_iter().map(|result| result.map_err(EngineError::from)).collect())
    }

    pub async fn list_objects(&self, query: ListQuery) -> Result<ListPage, EngineError> {
        Ok(self.store.objects_list(query).await?)
    }

    pub async fn get_tags(&self, bucket: &str, key: ObjectKey) -> Result<Tags, EngineError> {
        let bucket = self.bucket(bucket)?;
        Ok(self.store.object_tags(bucket.id, key).await?)
    }

    /// Replaces all tags of the current version; none removes them.
    pub async fn put_tags(
        &self,
        bucket: &str,
        key: ObjectKey,
        tags: Tags,
    ) -> Result<(), EngineError> {
        let bucket = self.bucket(bucket)?;
        Ok(self.store.object_tags_set(bucket.id, key, tags).await?)
    }
}
