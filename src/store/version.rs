//! Versions: writing and deleting objects.
//!
//! A version exists from the moment its commit returns. Conditions, the bucket's existence and
//! its quota are decided inside the transaction; a refused commit is a transaction too, in which
//! the intents become condemned.
//!
//! # Invariants
//!
//! - `seq` is the order of commits. `modified` never goes below that of the displaced version.
//! - `size` is the sum of the entries' lengths.
//! - A key has at most one current version. Displaced ones go in the same transaction.

use super::Store;
use super::blob::FinishedBlob;
use super::blob::blobs_refuse_in_tx;
use super::blob::blobs_take_in_tx;
use super::bucket::bucket_count_in_tx;
use super::bucket::bucket_in_tx;
use super::codec;
use super::entry::Slice;
use super::entry::slices_put_in_tx;
use super::entry::slices_release_in_tx;
use super::error::StoreError;
use super::ledger::Turn;
use super::queue::Lane;
use super::sql::Sql;
use super::tags::tags_drop_in_tx;
use super::tags::tags_put_in_tx;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::model::BucketId;
use crate::model::Checksum;
use crate::model::ChecksumType;
use crate::model::CondemnReason;
use crate::model::Etag;
use crate::model::Headers;
use crate::model::ObjectKey;
use crate::model::Tags;
use crate::model::UserMetadata;
use crate::model::VersionSeq;
use crate::model::WriteConditions;
use crate::model::condition::WriteVerdict;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMeta {
    pub headers: Headers,
    pub user: UserMetadata,
    pub tags: Tags,
}

#[derive(Clone, Debug)]
pub struct CommitVersion {
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    /// Fail with `Exists` when the key has an object: the writer may only create.
    pub create_only: bool,
    pub meta: NewMeta,
    pub etag: Etag,
    pub checksums: Vec<Checksum>,
    pub checksum_type: ChecksumType,
    /// In the order of the body; every blob is one whole entry.
    pub blobs: Vec<FinishedBlob>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub seq: VersionSeq,
    pub modified: Timestamp,
}

impl Store {
    /// Makes the version current and lets go of the one before. When it is refused
    /// (`NoSuchBucket`, `Exists`, `ConditionFailed`, `NoSuchKey`, `BucketQuota`) its blobs are
    /// given up in the same transaction; after any other error they are as they were.
    pub async fn version_commit(&self, commit: CommitVersion) -> Result<Committed, StoreError> {
        let now = self.shared().clock.now();
        self.write(Lane::Request, Need::Durable, move |tx| {
            let mut turn = Turn::begin(tx, now);
            let result = match admit_in_tx(**tx, &commit) {
                Ok(displaced) => Ok(commit_in_tx(tx, &mut turn, &commit, displaced)?),
                Err(refusal) if refusal.is_refusal() => {
                    blobs_refuse_in_tx(tx, &mut turn, &commit.blobs)?;
                    Err(refusal)
                }
                Err(err) => return Err(err),
            };
            turn.end(tx)?;
            Ok(result)
        })
        .await?
    }

    /// True when there was an object.
    pub async fn object_delete(
        &self,
        bucket: BucketId,
        key: ObjectKey,
        conditions: WriteConditions,
    ) -> Result<bool, StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Request, Need::Durable, move |tx| {
            bucket_in_tx(**tx, bucket)?;
            let mut turn = Turn::begin(tx, now);
            let was_there = delete_in_tx(tx, &mut turn, bucket, &key, &conditions)?;
            turn.end(tx)?;
            Ok(was_there)
        })
        .await
    }

    /// One transaction; the answer has one result for each key, in order.
    pub async fn objects_delete(
        &self,
        bucket: BucketId,
        keys: Vec<(ObjectKey, WriteConditions)>,
    ) -> Result<Vec<Result<bool, StoreError>>, StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Request, Need::Durable, move |tx| {
            bucket_in_tx(**tx, bucket)?;
            let mut turn = Turn::begin(tx, now);
            let mut results = Vec::with_capacity(keys.len());
            for (key, conditions) in &keys {
                match delete_in_tx(tx, &mut turn, bucket, key, conditions) {
                    Err(err) if !err.is_refusal() => return Err(err),
                    result => results.push(result),
                }
            }
            turn.end(tx)?;
            Ok(results)
        })
        .await
    }
}

/// The current version of a key, as a transaction sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) seq: u64,
    pub(super) size: u64,
    pub(super) etag: Etag,
    pub(super) modified: Timestamp,
    pub(super) tag_count: usize,
}

pub(super) fn current_in_tx(
    sql: Sql<'_>,
    bucket: BucketId,
    key: &ObjectKey,
) -> Result<Option<Current>, StoreError> {
    sql.one(
        "SELECT seq, size, md5, parts, modified, tags FROM versions
         WHERE current = 1 AND bucket = ?1 AND key = ?2",
        (bucket.0, key.as_bytes()),
        |row| {
            Ok(Current {
                seq: row.get(0)?,
                size: row.get(1)?,
                etag: Etag { md5: row.get(2)?, parts: row.get(3)? },
                modified: Timestamp(row.get(4)?),
                tag_count: row.get(5)?,
            })
        },
    )
}

/// Decides whether the key may be written now.
pub(super) fn writable(
    conditions: &WriteConditions,
    create_only: bool,
    current: Option<&Current>,
) -> Result<(), StoreError> {
    if create_only && current.is_some() {
        return Err(StoreError::Exists);
    }
    match conditions.verdict(current.map(|current| &current.etag)) {
        WriteVerdict::Proceed => Ok(()),
        WriteVerdict::Failed => Err(StoreError::ConditionFailed),
        WriteVerdict::Missing => Err(StoreError::NoSuchKey),
    }
}

/// The version that the commit displaces.
fn admit_in_tx(sql: Sql<'_>, commit: &CommitVersion) -> Result<Option<Current>, StoreError> {
    let bucket = bucket_in_tx(sql, commit.bucket)?;
    let current = current_in_tx(sql, commit.bucket, &commit.key)?;
    writable(&commit.conditions, commit.create_only, current.as_ref())?;
    if bucket.quota.is_some() {
        let mut size = 0;
        for blob in &commit.blobs {
            size += super::blob::blob_in_tx(sql, blob.blob)?.map_or(0, |row| row.size);
        }
        bucket.admit(size, current.map_or(0, |current| current.size))?;
    }
    Ok(current)
}

fn commit_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    commit: &CommitVersion,
    displaced: Option<Current>,
) -> Result<Committed, StoreError> {
    let sizes = blobs_take_in_tx(tx, turn, &commit.blobs, Some(&commit.key))?;
    let slices = whole_blobs(&commit.blobs, &sizes, 0);
    slices_put_in_tx(**tx, turn.seq, &slices)?;
    let new = NewVersion {
        bucket: commit.bucket,
        key: &commit.key,
        size: sizes.iter().sum(),
        etag: commit.etag,
        modified: turn.now,
        info: &codec::info(
            &commit.checksums,
            commit.checksum_type,
            &commit.meta.headers,
            &commit.meta.user,
        ),
        tags: &commit.meta.tags,
        pieces: None,
    };
    version_put_in_tx(tx, turn, &new, displaced)
}

/// Every blob as one entry.
pub(super) fn whole_blobs(blobs: &[FinishedBlob], sizes: &[u64], part: u32) -> Vec<Slice> {
    blobs
        .iter()
        .zip(sizes)
        .map(|(blob, &length)| Slice { part, blob: blob.blob, offset: 0, length })
        .collect()
}

/// A version whose entries are in place under the turn's number.
pub(super) struct NewVersion<'a> {
    pub(super) bucket: BucketId,
    pub(super) key: &'a ObjectKey,
    pub(super) size: u64,
    pub(super) etag: Etag,
    /// Unless that of the displaced version is later.
    pub(super) modified: Timestamp,
    pub(super) info: &'a [u8],
    pub(super) tags: &'a Tags,
    pub(super) pieces: Option<&'a [u8]>,
}

/// Displaces the current version and puts the new one in its place.
pub(super) fn version_put_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    new: &NewVersion<'_>,
    displaced: Option<Current>,
) -> Result<Committed, StoreError> {
    if let Some(displaced) = &displaced {
        version_release_in_tx(tx, turn, displaced, CondemnReason::Overwritten)?;
    }
    let modified = displaced.map_or(new.modified, |displaced| new.modified.max(displaced.modified));
    tx.run(
        "INSERT INTO versions (seq, bucket, key, current, marker, size, md5, modified, parts, tags,
             info, pieces)
         VALUES (?1, ?2, ?3, 1, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            turn.seq,
            new.bucket.0,
            new.key.as_bytes(),
            new.size,
            new.etag.md5,
            modified.0,
            new.etag.parts,
            new.tags.pairs().len(),
            new.info,
            new.pieces,
        ),
    )?;
    tags_put_in_tx(**tx, turn.seq, new.tags)?;
    let (objects, bytes) = displaced.map_or((1, 0), |displaced| (0, displaced.size as i64));
    bucket_count_in_tx(**tx, new.bucket, objects, new.size as i64 - bytes, 0)?;
    Ok(Committed { seq: VersionSeq(turn.seq), modified })
}

/// Takes a version away. The bucket's counters are the caller's.
fn version_release_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    version: &Current,
    reason: CondemnReason,
) -> Result<(), StoreError> {
    slices_release_in_tx(tx, turn, version.seq, reason)?;
    if version.tag_count > 0 {
        tags_drop_in_tx(**tx, version.seq)?;
    }
    tx.run("DELETE FROM versions WHERE seq = ?1", [version.seq])?;
    Ok(())
}

fn delete_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    bucket: BucketId,
    key: &ObjectKey,
    conditions: &WriteConditions,
) -> Result<bool, StoreError> {
    let current = current_in_tx(**tx, bucket, key)?;
    writable(conditions, false, current.as_ref())?;
    let Some(current) = current else { return Ok(false) };
    current_delete_in_tx(tx, turn, bucket, &current)?;
    Ok(true)
}

/// Takes the current version of a key away.
pub(super) fn current_delete_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    bucket: BucketId,
    current: &Current,
) -> Result<(), StoreError> {
    version_release_in_tx(tx, turn, current, CondemnReason::Deleted)?;
    bucket_count_in_tx(**tx, bucket, -1, -(current.size as i64), 0)
}
