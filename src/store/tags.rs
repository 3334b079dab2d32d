//! Tags of versions.

use super::Store;
use super::bucket::bucket_in_tx;
use super::error::StoreError;
use super::queue::Lane;
use super::sql::Sql;
use super::version::current_in_tx;
use super::writer::Need;
use crate::model::BucketId;
use crate::model::ObjectKey;
use crate::model::Tags;

impl Store {
    /// Replaces all tags; the object's ETag and time stay.
    pub async fn object_tags_set(
        &self,
        bucket: BucketId,
        key: ObjectKey,
        tags: Tags,
    ) -> Result<(), StoreError> {
        self.write(Lane::Request, Need::Durable, move |tx| {
            bucket_in_tx(**tx, bucket)?;
            let current = current_in_tx(**tx, bucket, &key)?.ok_or(StoreError::NoSuchKey)?;
            tags_drop_in_tx(**tx, current.seq)?;
            tags_put_in_tx(**tx, current.seq, &tags)?;
            tx.run(
                "UPDATE versions SET tags = ?2 WHERE seq = ?1",
                (current.seq, tags.pairs().len()),
            )?;
            Ok(())
        })
        .await
    }

    pub async fn object_tags(&self, bucket: BucketId, key: ObjectKey) -> Result<Tags, StoreError> {
        self.read(move |sql| {
            let current = current_in_tx(sql, bucket, &key)?.ok_or(StoreError::NoSuchKey)?;
            tags_in_tx(sql, current.seq)
        })
        .await
    }
}

pub(super) fn tags_in_tx(sql: Sql<'_>, version: u64) -> Result<Tags, StoreError> {
    let pairs = sql.all(
        "SELECT name, value FROM tags WHERE version = ?1 ORDER BY ordinal",
        [version],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Tags::new(pairs).map_err(|_| StoreError::broken("stored tags break their rules"))
}

pub(super) fn tags_put_in_tx(sql: Sql<'_>, version: u64, tags: &Tags) -> Result<(), StoreError> {
    for (ordinal, (name, value)) in tags.pairs().iter().enumerate() {
        sql.run(
            "INSERT INTO tags (version, ordinal, name, value) VALUES (?1, ?2, ?3, ?4)",
            (version, ordinal, name, value),
        )?;
    }
    Ok(())
}

pub(super) fn tags_drop_in_tx(sql: Sql<'_>, version: u64) -> Result<(), StoreError> {
    sql.run("DELETE FROM tags WHERE version = ?1", [version])?;
    Ok(())
}
