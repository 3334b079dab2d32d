//! Buckets, and the view of them that is held in memory.
//!
//! # Invariant
//!
//! `objects`, `bytes` and `uploads` of a bucket count its current objects, the bytes of those and
//! of the parts of active uploads, and the active uploads.

use std::sync::Arc;

use super::Store;
use super::error::StoreError;
use super::part::part_in_tx;
use super::placement::placement_in_tx;
use super::placement::placement_read;
use super::queue::Lane;
use super::sql::Sql;
use super::version::current_in_tx;
use super::writer::Need;
use crate::base::Timestamp;
use crate::model::Bucket;
use crate::model::BucketId;
use crate::model::BucketName;
use crate::model::Lifecycle;
use crate::model::ObjectKey;
use crate::model::Placement;
use crate::model::PlacementId;
use crate::model::UploadId;

#[derive(Clone, Debug)]
pub struct DeclaredBucket {
    pub name: BucketName,
    pub placement: Placement,
    pub max_uploads: u32,
    pub quota: Option<u64>,
    /// Empty: the file says nothing of rules, and others may.
    pub lifecycle: Lifecycle,
    /// Files that are found below its name on a backend become its objects.
    pub imports: bool,
}

/// What a bucket holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketUsage {
    pub objects: u64,
    /// Bytes of current objects and of parts.
    pub bytes: u64,
    /// Active uploads.
    pub uploads: u64,
}

impl Store {
    pub fn bucket(&self, name: &str) -> Option<Arc<Bucket>> {
        self.shared().buckets.load().get(name).cloned()
    }

    /// In the order of names.
    pub fn buckets(&self) -> Vec<Arc<Bucket>> {
        self.shared().buckets.load().values().cloned().collect()
    }

    /// `BucketNotEmpty` while it has objects or active uploads.
    pub async fn bucket_delete(&self, name: &BucketName) -> Result<(), StoreError> {
        let name = name.clone();
        self.free(Lane::Request, Need::Durable, move |tx| {
            let (id, is_declared) =
                bucket_id_in_tx(**tx, &name)?.ok_or(StoreError::NoSuchBucket)?;
            if is_declared {
                return Err(StoreError::Declared);
            }
            if !is_empty_in_tx(**tx, id)? {
                return Err(StoreError::BucketNotEmpty);
            }
            tx.run("DELETE FROM buckets WHERE id = ?1", [id.0])?;
            tx.marks.buckets = true;
            // What its maker was given for it goes along.
            tx.marks.keys = true;
            Ok(())
        })
        .await
    }

    /// `BucketQuota` when a commit of `size` bytes at `key`, or as this part of an upload, would be
    /// refused for it now.
    pub async fn bucket_admits(
        &self,
        bucket: BucketId,
        key: ObjectKey,
        part: Option<(UploadId, u32)>,
        size: u64,
    ) -> Result<(), StoreError> {
        self.read(move |sql| {
            let row = bucket_in_tx(sql, bucket)?;
            let freed = match part {
                Some((upload, number)) => part_in_tx(sql, upload, number)?.map(|part| part.size),
                None => current_in_tx(sql, bucket, &key)?.map(|current| current.size),
            };
            row.admit(size, freed.unwrap_or(0))
        })
        .await
    }

    pub async fn bucket_usage(&self, bucket: BucketId) -> Result<BucketUsage, StoreError> {
        self.read(move |sql| {
            sql.one("SELECT objects, bytes, uploads FROM buckets WHERE id = ?1", [bucket.0], |r| {
                Ok(BucketUsage { objects: r.get(0)?, bytes: r.get(1)?, uploads: r.get(2)? })
            })?
            .ok_or(StoreError::NoSuchBucket)
        })
        .await
    }
}

/// What a transaction needs of the bucket that it writes into.
#[derive(Clone, Copy, Debug)]
pub(super) struct BucketRow {
    pub(super) placement: PlacementId,
    pub(super) min_replicas: usize,
    pub(super) quota: Option<u64>,
    pub(super) bytes: u64,
    pub(super) max_uploads: u64,
    pub(super) uploads: u64,
}

impl BucketRow {
    /// `BucketQuota` when `added` bytes do not fit beside the rest once `freed` are gone.
    pub(super) fn admit(&self, added: u64, freed: u64) -> Result<(), StoreError> {
        let after = self.bytes.saturating_sub(freed).saturating_add(added);
        match self.quota {
            // What makes it smaller is taken also above a quota that was lowered.
            Some(quota) if after > quota && added > freed => Err(StoreError::BucketQuota),
            _ => Ok(()),
        }
    }
}

pub(super) fn bucket_in_tx(sql: Sql<'_>, id: BucketId) -> Result<BucketRow, StoreError> {
    sql.one(
        "SELECT b.placement, p.min_replicas, b.quota, b.bytes, b.max_uploads, b.uploads
         FROM buckets b JOIN placements p ON p.id = b.placement WHERE b.id = ?1",
        [id.0],
        |row| {
            Ok(BucketRow {
                placement: PlacementId(row.get(0)?),
                min_replicas: row.get(1)?,
                quota: row.get(2)?,
                bytes: row.get(3)?,
                max_uploads: row.get(4)?,
                uploads: row.get(5)?,
            })
        },
    )?
    .ok_or(StoreError::NoSuchBucket)
}

/// Keeps the counters of a bucket.
pub(super) fn bucket_count_in_tx(
    sql: Sql<'_>,
    id: BucketId,
    objects: i64,
    bytes: i64,
    uploads: i64,
) -> Result<(), StoreError> {
    if (objects, bytes, uploads) != (0, 0, 0) {
        sql.run(
            "UPDATE buckets SET objects = objects + ?2, bytes = bytes + ?3,
                 uploads = uploads + ?4
             WHERE id = ?1",
            (id.0, objects, bytes, uploads),
        )?;
    }
    Ok(())
}

/// Id and whether it is declared.
pub(super) fn bucket_id_in_tx(
    sql: Sql<'_>,
    name: &BucketName,
) -> Result<Option<(BucketId, bool)>, StoreError> {
    sql.one("SELECT id, declared FROM buckets WHERE name = ?1", [name.as_str()], |row| {
        Ok((BucketId(row.get(0)?), row.get(1)?))
    })
}

pub(super) fn bucket_wishes_in_tx(
    sql: Sql<'_>,
    id: BucketId,
    wishes: &DeclaredBucket,
    is_declared: bool,
) -> Result<(), StoreError> {
    let placement = placement_in_tx(sql, &wishes.placement)?;
    sql.run(
        "UPDATE buckets SET placement = ?2, max_uploads = ?3, quota = ?4, declared = ?5,
             follows = 0, imports = ?6
         WHERE id = ?1",
        (id.0, placement.0, wishes.max_uploads, wishes.quota, is_declared, wishes.imports),
    )?;
    Ok(())
}

fn is_empty_in_tx(sql: Sql<'_>, id: BucketId) -> Result<bool, StoreError> {
    let found = [
        "SELECT 1 FROM versions WHERE bucket = ?1 AND current = 1 LIMIT 1",
        "SELECT 1 FROM versions WHERE bucket = ?1 AND current = 0 LIMIT 1",
        "SELECT 1 FROM uploads WHERE bucket = ?1 AND result IS NULL LIMIT 1",
    ];
    for query in found {
        if sql.one(query, [id.0], |_| Ok(()))?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn buckets_in_tx(sql: Sql<'_>) -> Result<Vec<Bucket>, StoreError> {
    let rows = sql.all(
        "SELECT b.id, b.name, b.created, b.placement, b.max_uploads, b.quota, b.declared,
             p.replicas, p.min_replicas, p.routing, p.require_distinct, b.imports
         FROM buckets b JOIN placements p ON p.id = b.placement",
        [],
        |row| {
            let (placement, labels) = placement_read(row, 7)?;
            Ok((
                row.get::<_, u64>(0)?,
                row.get::<_, String>(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
                row.get(11)?,
                placement,
                labels,
            ))
        },
    )?;
    rows.into_iter()
        .map(
            |(
                id,
                name,
                created,
                placement_id,
                max_uploads,
                quota,
                declared,
                imports,
                placement,
                labels,
            )| {
                let mut placement = placement;
                placement.require_distinct = super::codec::labels_read(&labels)?;
                Ok(Bucket {
                    id: BucketId(id),
                    name: BucketName::new(&name)
                        .map_err(|_| StoreError::broken("a bucket has an impossible name"))?,
                    created: Timestamp(created),
                    placement_id: PlacementId(placement_id),
                    placement,
                    max_uploads,
                    quota,
                    imports,
                    declared,
                })
            },
        )
        .collect()
}
