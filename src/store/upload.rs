//! Multipart uploads, from their creation to complete or abort.
//!
//! A completed upload keeps its row and its answer for a while, so that a client which did not
//! hear the answer may ask again.

use std::time::Duration;

use rusqlite::Row;

use super::Store;
use super::bucket::bucket_count_in_tx;
use super::bucket::bucket_in_tx;
use super::codec;
use super::entry::shareable_in_tx;
use super::entry::slices_in_tx;
use super::entry::slices_release_in_tx;
use super::error::StoreError;
use super::ledger::Turn;
use super::part::PartInfo;
use super::part::parts_in_tx;
use super::queue::Lane;
use super::sql::Sql;
use super::version::Committed;
use super::version::NewMeta;
use super::version::NewVersion;
use super::version::current_in_tx;
use super::version::version_put_in_tx;
use super::version::writable;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::PART_NUMBER_MAX;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::BucketId;
use crate::model::Checksum;
use crate::model::ChecksumAlgorithm;
use crate::model::ChecksumType;
use crate::model::CondemnReason;
use crate::model::Etag;
use crate::model::ObjectKey;
use crate::model::PlacementId;
use crate::model::UploadId;
use crate::model::WriteConditions;

/// How long a repeated Complete gets its answer.
const COMPLETED_KEPT: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug)]
pub struct NewUpload {
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub meta: NewMeta,
    pub checksum: Option<(ChecksumAlgorithm, ChecksumType)>,
    /// Access key id of the initiator.
    pub initiator: String,
}

#[derive(Clone, Debug)]
pub struct Upload {
    pub id: UploadId,
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub created: Timestamp,
    pub meta: NewMeta,
    pub checksum: Option<(ChecksumAlgorithm, ChecksumType)>,
    pub placement: PlacementId,
    pub initiator: String,
    /// Set when it was completed already: a repeated Complete gets the same answer.
    pub completed: Option<CompletedUpload>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedUpload {
    pub etag: Etag,
    pub size: u64,
    pub checksums: Vec<Checksum>,
    pub checksum_type: ChecksumType,
    pub committed: Committed,
}

#[derive(Clone, Debug)]
pub struct CompleteUpload {
    pub upload: UploadId,
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    pub create_only: bool,
    /// Number and `seq` of each part, ascending; `Changed` when one is another by now. Parts not
    /// named are condemned (aborted).
    pub parts: Vec<(u32, u64)>,
    pub etag: Etag,
    pub checksums: Vec<Checksum>,
    pub checksum_type: ChecksumType,
    /// Backends whose good replicas count towards `min_replicas`.
    pub present: Vec<BackendId>,
}

impl Store {
    pub async fn upload_create(&self, upload: NewUpload) -> Result<Upload, StoreError> {
        let now = self.shared().clock.now();
        self.write(Lane::Request, Need::Durable, move |tx| {
            let bucket = bucket_in_tx(**tx, upload.bucket)?;
            if bucket.max_uploads > 0 && bucket.uploads >= bucket.max_uploads {
                return Err(StoreError::TooManyUploads);
            }
            let id = UploadId(tx.ids.next());
            tx.run(
                "INSERT INTO uploads (id, bucket, key, created, placement, initiator, info)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    id.0,
                    upload.bucket.0,
                    upload.key.as_bytes(),
                    now.0,
                    bucket.placement.0,
                    &upload.initiator,
                    codec::upload_info(&upload.meta, upload.checksum),
                ),
            )?;
            bucket_count_in_tx(**tx, upload.bucket, 0, 0, 1)?;
            Ok(Upload {
                id,
                bucket: upload.bucket,
                key: upload.key,
                created: now,
                meta: upload.meta,
                checksum: upload.checksum,
                placement: bucket.placement,
                initiator: upload.initiator,
                completed: None,
            })
        })
        .await
    }

    /// `NoSuchUpload` also when bucket or key are not the upload's own.
    pub async fn upload_find(
        &self,
        upload: UploadId,
        bucket: BucketId,
        key: ObjectKey,
    ) -> Result<Upload, StoreError> {
        self.read(move |sql| upload_in_tx(sql, upload, bucket, &key)).await
    }

    /// Makes the named parts one object. On an error nothing changes. On an upload that was
    /// completed already it answers as it did then.
    pub async fn upload_complete(&self, complete: CompleteUpload) -> Result<Committed, StoreError> {
        let now = self.shared().clock.now();
        self.write(Lane::Request, Need::Durable, move |tx| complete_in_tx(tx, &complete, now)).await
    }

    /// Condemns all parts. `NoSuchUpload` unless it is active.
    pub async fn upload_abort(
        &self,
        upload: UploadId,
        bucket: BucketId,
        key: ObjectKey,
    ) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Request, Need::Durable, move |tx| {
            active_in_tx(**tx, upload, bucket, &key)?;
            let all = PART_NUMBER_MAX as usize;
            abort_in_tx(tx, (upload, bucket), all, now).map(|_| ())
        })
        .await
    }

    /// Forgets completed uploads whose time is over, a bounded number of them; whether there may
    /// be more.
    pub async fn uploads_prune(&self) -> Result<bool, StoreError> {
        let now = self.shared().clock.now();
        let none =
            self.read(move |sql| Ok(sql.one(PRUNABLE, (now.0, 1), |_| Ok(()))?.is_none())).await?;
        if none {
            return Ok(false);
        }
        self.free(Lane::Work, Need::Recorded, move |tx| {
            let ids: Vec<u64> = tx.all(PRUNABLE, (now.0, WORK_ROWS_MAX), |row| row.get(0))?;
            for id in &ids {
                tx.run("DELETE FROM uploads WHERE id = ?1", [id])?;
            }
            Ok(ids.len() == WORK_ROWS_MAX)
        })
        .await
    }
}

pub(super) const PRUNABLE: &str =
    "SELECT id FROM uploads WHERE due IS NOT NULL AND due <= ?1 ORDER BY due LIMIT ?2";

/// An upload as its row says it, with the encoded columns still to be read.
pub(super) struct UploadRow {
    upload: Upload,
    info: Vec<u8>,
    result: Option<Vec<u8>>,
}

impl UploadRow {
    /// Reads `id, bucket, key, created, placement, initiator, info, result`.
    pub(super) fn read(row: &Row<'_>, key: ObjectKey) -> rusqlite::Result<UploadRow> {
        let upload = Upload {
            id: UploadId(row.get(0)?),
            bucket: BucketId(row.get(1)?),
            key,
            created: Timestamp(row.get(3)?),
            meta: NewMeta::default(),
            checksum: None,
            placement: PlacementId(row.get(4)?),
            initiator: row.get(5)?,
            completed: None,
        };
        Ok(UploadRow { upload, info: row.get(6)?, result: row.get(7)? })
    }

    pub(super) fn whole(self) -> Result<Upload, StoreError> {
        let (meta, checksum) = codec::upload_info_read(&self.info)?;
        let completed = self.result.as_deref().map(codec::result_read).transpose()?;
        Ok(Upload { meta, checksum, completed, ..self.upload })
    }
}

fn upload_in_tx(
    sql: Sql<'_>,
    upload: UploadId,
    bucket: BucketId,
    key: &ObjectKey,
) -> Result<Upload, StoreError> {
    let row = sql.one(
        "SELECT id, bucket, key, created, placement, initiator, info, result FROM uploads
         WHERE id = ?1 AND bucket = ?2 AND key = ?3",
        (upload.0, bucket.0, key.as_bytes()),
        |row| UploadRow::read(row, key.clone()),
    )?;
    row.ok_or(StoreError::NoSuchUpload)?.whole()
}

/// The upload, if it can still take parts.
pub(super) fn active_in_tx(
    sql: Sql<'_>,
    upload: UploadId,
    bucket: BucketId,
    key: &ObjectKey,
) -> Result<Upload, StoreError> {
    let upload = upload_in_tx(sql, upload, bucket, key)?;
    if upload.completed.is_some() { Err(StoreError::NoSuchUpload) } else { Ok(upload) }
}

/// Takes the first parts of an active upload away, at most `max`, and the upload with its last one;
/// whether it is gone.
pub(super) fn abort_in_tx(
    tx: &mut Tx<'_>,
    (upload, bucket): (UploadId, BucketId),
    max: usize,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut turn = Turn::begin(tx, now);
    let (mut freed, mut last) = (0, 0);
    for part in parts_in_tx(**tx, upload, 0, max)? {
        slices_release_in_tx(tx, &mut turn, part.seq, CondemnReason::Aborted)?;
        freed += part.size;
        last = part.number;
    }
    tx.run("DELETE FROM parts WHERE upload = ?1 AND number <= ?2", (upload.0, last))?;
    let is_gone = parts_in_tx(**tx, upload, last, 1)?.is_empty();
    if is_gone {
        tx.run("DELETE FROM uploads WHERE id = ?1", [upload.0])?;
    }
    bucket_count_in_tx(**tx, bucket, 0, -(freed as i64), -i64::from(is_gone))?;
    turn.end(tx)?;
    Ok(is_gone)
}

fn complete_in_tx(
    tx: &mut Tx<'_>,
    complete: &CompleteUpload,
    now: Timestamp,
) -> Result<Committed, StoreError> {
    let (id, key) = (complete.upload, &complete.key);
    let upload = upload_in_tx(**tx, id, complete.bucket, key)?;
    if let Some(done) = upload.completed {
        return Ok(done.committed);
    }
    let bucket = bucket_in_tx(**tx, complete.bucket)?;
    let displaced = current_in_tx(**tx, complete.bucket, key)?;
    writable(&complete.conditions, complete.create_only, displaced.as_ref())?;
    let (named, unnamed) = parts_named_in_tx(**tx, complete)?;
    let least = (complete.present.as_slice(), bucket.min_replicas);
    parts_durable_in_tx(**tx, &named, least)?;
    let mut turn = Turn::begin(tx, now);
    parts_adopt_in_tx(**tx, &named, turn.seq)?;
    for part in &unnamed {
        slices_release_in_tx(tx, &mut turn, part.seq, CondemnReason::Aborted)?;
    }
    tx.run("DELETE FROM parts WHERE upload = ?1", [id.0])?;
    // From here on the parts' bytes are the object's.
    let freed: u64 = named.iter().chain(&unnamed).map(|part| part.size).sum();
    bucket_count_in_tx(**tx, complete.bucket, 0, -(freed as i64), -1)?;
    let pieces: Vec<codec::Piece> = named
        .iter()
        .map(|p| codec::Piece { number: p.number, md5: p.md5, checksums: p.checksums.clone() })
        .collect();
    let (sums, kind) = (&complete.checksums, complete.checksum_type);
    let new = NewVersion {
        bucket: complete.bucket,
        key,
        size: named.iter().map(|part| part.size).sum(),
        etag: complete.etag,
        modified: turn.now,
        info: &codec::info(sums, kind, &upload.meta.headers, &upload.meta.user),
        tags: &upload.meta.tags,
        pieces: Some(&codec::pieces(&pieces)),
    };
    let committed = version_put_in_tx(tx, &mut turn, &new, displaced)?;
    let done = CompletedUpload {
        etag: complete.etag,
        size: new.size,
        checksums: sums.clone(),
        checksum_type: kind,
        committed,
    };
    tx.run(
        "UPDATE uploads SET result = ?2, due = ?3 WHERE id = ?1",
        (id.0, codec::result(&done), now.plus(COMPLETED_KEPT).0),
    )?;
    turn.end(tx)?;
    Ok(committed)
}

/// The parts that the object gets, in its order, and those that it does not.
fn parts_named_in_tx(
    sql: Sql<'_>,
    complete: &CompleteUpload,
) -> Result<(Vec<PartInfo>, Vec<PartInfo>), StoreError> {
    let all = parts_in_tx(sql, complete.upload, 0, PART_NUMBER_MAX as usize)?;
    let (named, unnamed): (Vec<_>, Vec<_>) = all.into_iter().partition(|part| {
        complete.parts.binary_search_by_key(&part.number, |(number, _)| *number).is_ok()
    });
    let is_same = named.len() == complete.parts.len()
        && !named.is_empty()
        && named.iter().zip(&complete.parts).all(|(p, want)| (p.number, p.seq) == *want);
    if is_same { Ok((named, unnamed)) } else { Err(StoreError::Changed) }
}

fn parts_durable_in_tx(
    sql: Sql<'_>,
    parts: &[PartInfo],
    least: (&[BackendId], usize),
) -> Result<(), StoreError> {
    let mut poor: Vec<BlobId> = Vec::new();
    for part in parts {
        let slices = slices_in_tx(sql, part.seq)?;
        match shareable_in_tx(sql, part.seq, &slices, None, least) {
            Err(StoreError::TooFewReplicas(blobs)) => poor.extend(blobs),
            result => result?,
        }
    }
    poor.sort();
    poor.dedup();
    if poor.is_empty() { Ok(()) } else { Err(StoreError::TooFewReplicas(poor)) }
}

/// Gives the parts' entries to the version `seq`, in the order of the parts.
fn parts_adopt_in_tx(sql: Sql<'_>, parts: &[PartInfo], seq: u64) -> Result<(), StoreError> {
    let mut ordinal = 0;
    for part in parts {
        ordinal += sql.run(
            "UPDATE entries SET owner = ?2, ordinal = ordinal + ?3, part = ?4 WHERE owner = ?1",
            (part.seq, seq, ordinal, part.number),
        )?;
    }
    Ok(())
}
