//! Copies that only add references: no byte moves.

use super::Store;
use super::bucket::bucket_in_tx;
use super::codec;
use super::entry::Slice;
use super::entry::shareable_in_tx;
use super::entry::slices_in_tx;
use super::entry::slices_put_in_tx;
use super::entry::slices_retain_in_tx;
use super::error::StoreError;
use super::ledger::Turn;
use super::part::NewPart;
use super::part::PartInfo;
use super::part::part_in_tx;
use super::part::part_put_in_tx;
use super::queue::Lane;
use super::sql::Sql;
use super::tags::tags_in_tx;
use super::upload::active_in_tx;
use super::version::Committed;
use super::version::Current;
use super::version::NewVersion;
use super::version::current_in_tx;
use super::version::version_put_in_tx;
use super::version::writable;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BucketId;
use crate::model::Checksum;
use crate::model::ChecksumType;
use crate::model::Etag;
use crate::model::Headers;
use crate::model::ObjectKey;
use crate::model::Tags;
use crate::model::UploadId;
use crate::model::UserMetadata;
use crate::model::VersionSeq;
use crate::model::WriteConditions;

/// A copy that only adds references. Source and destination have the same placement.
#[derive(Clone, Debug)]
pub struct CopyVersion {
    pub source_bucket: BucketId,
    pub source_key: ObjectKey,
    /// Fails with `Changed` when another version is current by now.
    pub source_seq: VersionSeq,
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    pub create_only: bool,
    /// `None`: as at the source.
    pub headers: Option<(Headers, UserMetadata)>,
    pub tags: Option<Tags>,
    /// `None`: as at the source. One without a number of parts makes an object that was written
    /// at once.
    pub etag: Option<Etag>,
    pub checksums: Option<(Vec<Checksum>, ChecksumType)>,
    /// Backends whose good replicas count.
    pub present: Vec<BackendId>,
}

/// Like [`CopyVersion`], into a part, of a range of the source's bytes.
#[derive(Clone, Debug)]
pub struct CopyPart {
    pub upload: UploadId,
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub number: u32,
    pub source_bucket: BucketId,
    pub source_key: ObjectKey,
    pub source_seq: VersionSeq,
    pub offset: u64,
    pub length: u64,
    pub md5: [u8; 16],
    pub checksums: Vec<Checksum>,
    pub present: Vec<BackendId>,
}

impl Store {
    /// Also onto itself. Nothing changes on an error. `OtherPlacement`: the bytes have to be
    /// streamed; `TooFewReplicas`: below the destination's `min_replicas`.
    pub async fn version_copy(&self, copy: CopyVersion) -> Result<Committed, StoreError> {
        let now = self.shared().clock.now();
        self.write(Lane::Request, Need::Durable, move |tx| copy_in_tx(tx, &copy, now)).await
    }

    /// As [`Store::version_copy`]. `Changed` also when the source has no such range.
    pub async fn part_copy(&self, part: CopyPart) -> Result<PartInfo, StoreError> {
        let now = self.shared().clock.now();
        self.write(Lane::Request, Need::Durable, move |tx| part_copy_in_tx(tx, &part, now)).await
    }
}

fn source_in_tx(
    sql: Sql<'_>,
    bucket: BucketId,
    key: &ObjectKey,
    seq: VersionSeq,
) -> Result<Current, StoreError> {
    let source = current_in_tx(sql, bucket, key)?;
    source.filter(|source| source.seq == seq.0).ok_or(StoreError::Changed)
}

fn copy_in_tx(
    tx: &mut Tx<'_>,
    copy: &CopyVersion,
    now: Timestamp,
) -> Result<Committed, StoreError> {
    let bucket = bucket_in_tx(**tx, copy.bucket)?;
    let displaced = current_in_tx(**tx, copy.bucket, &copy.key)?;
    writable(&copy.conditions, copy.create_only, displaced.as_ref())?;
    let source = source_in_tx(**tx, copy.source_bucket, &copy.source_key, copy.source_seq)?;
    bucket.admit(source.size, displaced.map_or(0, |displaced| displaced.size))?;
    let mut slices = slices_in_tx(**tx, source.seq)?;
    let least = (copy.present.as_slice(), bucket.min_replicas);
    shareable_in_tx(**tx, source.seq, &slices, Some(bucket.placement), least)?;
    let (info, pieces) = source_info_in_tx(**tx, source.seq)?;
    let (info, tags) = (codec::info_read(&info)?, &copy.tags);
    let tags = match tags {
        Some(tags) => tags.clone(),
        None => tags_in_tx(**tx, source.seq)?,
    };
    let (headers, user) = copy.headers.clone().unwrap_or((info.headers, info.user));
    let (sums, kind) = copy.checksums.clone().unwrap_or((info.checksums, info.checksum_type));
    let etag = copy.etag.unwrap_or(source.etag);
    if etag.parts.is_none() {
        slices.iter_mut().for_each(|slice| slice.part = 0);
    }
    let mut turn = Turn::begin(tx, now);
    // Before the displaced version lets go of the same blobs.
    slices_retain_in_tx(tx, &slices)?;
    slices_put_in_tx(**tx, turn.seq, &slices)?;
    let new = NewVersion {
        bucket: copy.bucket,
        key: &copy.key,
        size: source.size,
        etag,
        modified: turn.now,
        info: &codec::info(&sums, kind, &headers, &user),
        tags: &tags,
        pieces: pieces.as_deref().filter(|_| etag.parts.is_some()),
    };
    let committed = version_put_in_tx(tx, &mut turn, &new, displaced)?;
    turn.end(tx)?;
    Ok(committed)
}

type InfoAndPieces = (Vec<u8>, Option<Vec<u8>>);

fn source_info_in_tx(sql: Sql<'_>, seq: u64) -> Result<InfoAndPieces, StoreError> {
    sql.one("SELECT info, pieces FROM versions WHERE seq = ?1", [seq], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?
    .ok_or(StoreError::Changed)
}

fn part_copy_in_tx(
    tx: &mut Tx<'_>,
    copy: &CopyPart,
    now: Timestamp,
) -> Result<PartInfo, StoreError> {
    let bucket = bucket_in_tx(**tx, copy.bucket)?;
    let upload = active_in_tx(**tx, copy.upload, copy.bucket, &copy.key)?;
    let source = source_in_tx(**tx, copy.source_bucket, &copy.source_key, copy.source_seq)?;
    let slices = cut(&slices_in_tx(**tx, source.seq)?, copy.number, copy.offset, copy.length);
    let slices = slices.ok_or(StoreError::Changed)?;
    let old = part_in_tx(**tx, copy.upload, copy.number)?;
    bucket.admit(copy.length, old.as_ref().map_or(0, |old| old.size))?;
    let least = (copy.present.as_slice(), bucket.min_replicas);
    shareable_in_tx(**tx, source.seq, &slices, Some(upload.placement), least)?;
    let mut turn = Turn::begin(tx, now);
    slices_retain_in_tx(tx, &slices)?;
    slices_put_in_tx(**tx, turn.seq, &slices)?;
    let new = NewPart {
        upload: copy.upload,
        bucket: copy.bucket,
        number: copy.number,
        size: copy.length,
        md5: copy.md5,
        checksums: &copy.checksums,
    };
    let info = part_put_in_tx(tx, &mut turn, &new, old)?;
    turn.end(tx)?;
    Ok(info)
}

/// The slices that hold `length` bytes from `offset` on; `None` when there are fewer.
fn cut(slices: &[Slice], part: u32, offset: u64, length: u64) -> Option<Vec<Slice>> {
    let end = offset.checked_add(length)?;
    let mut at = 0;
    let mut taken = Vec::new();
    for slice in slices {
        let from = offset.max(at);
        let to = end.min(at + slice.length);
        if from < to {
            let offset = slice.offset + (from - at);
            taken.push(Slice { part, blob: slice.blob, offset, length: to - from });
        }
        at += slice.length;
    }
    (at >= end).then_some(taken)
}
