//! Parts of active uploads. A part's entries belong to its `seq` until a complete takes them.

use super::Store;
use super::blob::FinishedBlob;
use super::blob::blob_in_tx;
use super::blob::blobs_refuse_in_tx;
use super::blob::blobs_take_in_tx;
use super::bucket::bucket_count_in_tx;
use super::bucket::bucket_in_tx;
use super::codec;
use super::entry::slices_put_in_tx;
use super::entry::slices_release_in_tx;
use super::error::StoreError;
use super::ledger::Turn;
use super::queue::Lane;
use super::sql::Sql;
use super::upload::active_in_tx;
use super::version::whole_blobs;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::PART_NUMBER_MAX;
use crate::model::BucketId;
use crate::model::Checksum;
use crate::model::CondemnReason;
use crate::model::ObjectKey;
use crate::model::UploadId;

#[derive(Clone, Debug)]
pub struct CommitPart {
    pub upload: UploadId,
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub number: u32,
    pub md5: [u8; 16],
    pub checksums: Vec<Checksum>,
    pub blobs: Vec<FinishedBlob>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    pub number: u32,
    /// Changes when the part is written again.
    pub seq: u64,
    pub size: u64,
    pub md5: [u8; 16],
    pub modified: Timestamp,
    pub checksums: Vec<Checksum>,
}

impl Store {
    /// Puts the part in place of the one before. When it is refused (`NoSuchUpload`,
    /// `BucketQuota`) its blobs are given up in the same transaction.
    pub async fn part_commit(&self, part: CommitPart) -> Result<PartInfo, StoreError> {
        let now = self.shared().clock.now();
        self.write(Lane::Request, Need::Durable, move |tx| {
            let mut turn = Turn::begin(tx, now);
            let result = match admit_in_tx(**tx, &part) {
                Ok(old) => Ok(commit_in_tx(tx, &mut turn, &part, old)?),
                Err(refusal) if refusal.is_refusal() => {
                    blobs_refuse_in_tx(tx, &mut turn, &part.blobs)?;
                    Err(refusal)
                }
                Err(err) => return Err(err),
            };
            turn.end(tx)?;
            Ok(result)
        })
        .await?
    }

    /// Parts with a number greater than `after`, ascending, at most `max`; and whether there are
    /// more. `NoSuchUpload` unless the upload is active.
    pub async fn parts_list(
        &self,
        upload: UploadId,
        after: u32,
        max: usize,
    ) -> Result<(Vec<PartInfo>, bool), StoreError> {
        self.read(move |sql| {
            let active = sql.one(
                "SELECT 1 FROM uploads WHERE id = ?1 AND result IS NULL",
                [upload.0],
                |_| Ok(()),
            )?;
            active.ok_or(StoreError::NoSuchUpload)?;
            let max = max.min(PART_NUMBER_MAX as usize);
            let mut parts = parts_in_tx(sql, upload, after, max + 1)?;
            let is_more = parts.len() > max;
            parts.truncate(max);
            Ok((parts, is_more))
        })
        .await
    }
}

/// What an upload may not have, and the part that is displaced.
fn admit_in_tx(sql: Sql<'_>, part: &CommitPart) -> Result<Option<PartInfo>, StoreError> {
    active_in_tx(sql, part.upload, part.bucket, &part.key)?;
    let bucket = bucket_in_tx(sql, part.bucket)?;
    let old = part_in_tx(sql, part.upload, part.number)?;
    if bucket.quota.is_some() {
        let mut size = 0;
        for blob in &part.blobs {
            size += blob_in_tx(sql, blob.blob)?.map_or(0, |row| row.size);
        }
        bucket.admit(size, old.as_ref().map_or(0, |old| old.size))?;
    }
    Ok(old)
}

fn commit_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    part: &CommitPart,
    old: Option<PartInfo>,
) -> Result<PartInfo, StoreError> {
    let sizes = blobs_take_in_tx(tx, turn, &part.blobs, None)?;
    slices_put_in_tx(**tx, turn.seq, &whole_blobs(&part.blobs, &sizes, part.number))?;
    let new = NewPart {
        upload: part.upload,
        bucket: part.bucket,
        number: part.number,
        size: sizes.iter().sum(),
        md5: part.md5,
        checksums: &part.checksums,
    };
    part_put_in_tx(tx, turn, &new, old)
}

/// A part whose entries are in place under the turn's number.
pub(super) struct NewPart<'a> {
    pub(super) upload: UploadId,
    pub(super) bucket: BucketId,
    pub(super) number: u32,
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
    pub(super) checksums: &'a [Checksum],
}

pub(super) fn part_put_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    new: &NewPart<'_>,
    old: Option<PartInfo>,
) -> Result<PartInfo, StoreError> {
    let (mut freed, mut modified) = (0, turn.now);
    if let Some(old) = old {
        slices_release_in_tx(tx, turn, old.seq, CondemnReason::Overwritten)?;
        freed = old.size;
        modified = modified.max(old.modified);
    }
    tx.run(
        "INSERT INTO parts (upload, number, seq, size, md5, modified, checksums)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (upload, number) DO UPDATE SET seq = excluded.seq, size = excluded.size,
             md5 = excluded.md5, modified = excluded.modified, checksums = excluded.checksums",
        (
            new.upload.0,
            new.number,
            turn.seq,
            new.size,
            new.md5,
            modified.0,
            codec::checksums(new.checksums),
        ),
    )?;
    bucket_count_in_tx(**tx, new.bucket, 0, new.size as i64 - freed as i64, 0)?;
    Ok(PartInfo {
        number: new.number,
        seq: turn.seq,
        size: new.size,
        md5: new.md5,
        modified,
        checksums: new.checksums.to_vec(),
    })
}

pub(super) fn part_in_tx(
    sql: Sql<'_>,
    upload: UploadId,
    number: u32,
) -> Result<Option<PartInfo>, StoreError> {
    let mut parts = parts_in_tx(sql, upload, number.saturating_sub(1), 1)?;
    Ok(parts.pop().filter(|part| part.number == number))
}

pub(super) const PARTS: &str = "SELECT number, seq, size, md5, modified, checksums FROM parts
     WHERE upload = ?1 AND number > ?2 ORDER BY number LIMIT ?3";

pub(super) fn parts_in_tx(
    sql: Sql<'_>,
    upload: UploadId,
    after: u32,
    max: usize,
) -> Result<Vec<PartInfo>, StoreError> {
    let rows: Vec<(PartInfo, Vec<u8>)> = sql.all(PARTS, (upload.0, after, max), |row| {
        let info = PartInfo {
            number: row.get(0)?,
            seq: row.get(1)?,
            size: row.get(2)?,
            md5: row.get(3)?,
            modified: Timestamp(row.get(4)?),
            checksums: Vec::new(),
        };
        Ok((info, row.get(5)?))
    })?;
    rows.into_iter()
        .map(|(info, bytes)| Ok(PartInfo { checksums: codec::checksums_read(&bytes)?, ..info }))
        .collect()
}
