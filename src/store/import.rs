//! Import: files that were on a backend before Larder become objects where they lie.
//!
//! An imported object is a version with one blob whose only replica is the file, at the path that
//! it came with. Nobody has read it yet, so the blob has no hash, and the version an ETag in the
//! form of a multipart object's, which no client takes for an MD5.
//!
//! The file is *borrowed*: its owner may change or remove it at any time, and Larder never deletes
//! it. When its owner changed it, it is a new version of the object, as if he had put it.
//!
//! # Invariants
//!
//! - A path is imported once, and never one that a bucket gave up or deleted; unless its owner
//!   changed the file since.
//! - An import overwrites no object.
//! - The row of a changed file goes without its path's being condemned, for that is the new one's.

use super::Store;
use super::blob::blob_count_in_tx;
use super::blob::stem_short;
use super::borrowed::is_unchanged;
use super::bucket::bucket_in_tx;
use super::codec;
use super::entry::Slice;
use super::entry::slices_put_in_tx;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Turn;
use super::queue::Lane;
use super::reconcile::backend_number_in_tx;
use super::reconcile::kept_forget_in_tx;
use super::reconcile::standing_in_tx;
use super::replica::ReplicaRow;
use super::replica::replica_in_tx;
use super::sql::Sql;
use super::survey::ListedFile;
use super::survey::differ;
use super::survey::stamp;
use super::version::Current;
use super::version::NewVersion;
use super::version::current_in_tx;
use super::version::version_put_in_tx;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::BLOB_SIZE_MAX;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::BucketId;
use crate::model::BucketName;
use crate::model::ChecksumType;
use crate::model::Etag;
use crate::model::Headers;
use crate::model::ObjectKey;
use crate::model::ReplicaState;
use crate::model::Tags;
use crate::model::UserMetadata;
use crate::model::WriteId;
use crate::model::path;

/// An imported object is one part.
const PART: u32 = 1;

/// A file, and what it says as an object. It has at least one byte; one with more than
/// [`BLOB_SIZE_MAX`] is not imported.
#[derive(Clone, Debug)]
pub struct FileObject {
    pub file: ListedFile,
    pub etag: Etag,
    pub headers: Headers,
}

/// A file that is to become an object.
#[derive(Clone, Debug)]
pub struct NewImport {
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub object: FileObject,
}

/// What became, or would become, of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    Imported,
    /// It is a replica already.
    Known,
    /// Its bucket gave it up before.
    Suppressed,
    /// The key has an object.
    Conflict,
    /// The bucket's quota has no room for it.
    Quota,
    /// It is larger than a blob may be.
    TooLarge,
}

impl Store {
    /// Imports files of a backend, in bounded transactions: what became of each. What they hold
    /// counts against the backend's quota and may exceed it: the bytes are there.
    pub async fn files_import(
        &self,
        backend: BackendId,
        imports: Vec<NewImport>,
    ) -> Result<Vec<Import>, StoreError> {
        let now = self.shared().clock.now();
        let mut became = Vec::with_capacity(imports.len());
        for some in imports.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            let part = self
                .write(Lane::Work, Need::Durable, move |tx| {
                    let no = backend_number_in_tx(**tx, backend)?;
                    some.iter().map(|import| import_in_tx(tx, no, import, now)).collect()
                })
                .await?;
            became.extend::<Vec<Import>>(part);
        }
        Ok(became)
    }

    /// What would become of them, one by one.
    pub async fn files_import_dry(
        &self,
        backend: BackendId,
        imports: Vec<NewImport>,
    ) -> Result<Vec<Import>, StoreError> {
        self.read(move |sql| {
            let no = backend_number_in_tx(sql, backend)?;
            imports.iter().map(|import| Ok(verdict_in_tx(sql, no, import)?.0)).collect()
        })
        .await
    }

    /// Borrowed files that their owner changed: each becomes a new version of its object, or is
    /// let go of when its object has other bytes by now. How many rows were still as they were.
    pub async fn files_changed(
        &self,
        files: Vec<(WriteId, FileObject)>,
    ) -> Result<u64, StoreError> {
        let now = self.shared().clock.now();
        let mut changed = 0;
        for some in files.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            changed += self
                .write(Lane::Work, Need::Durable, move |tx| {
                    let mut changed = 0;
                    for (write, object) in &some {
                        changed += u64::from(change_in_tx(tx, *write, object, now)?);
                    }
                    Ok(changed)
                })
                .await?;
        }
        Ok(changed)
    }
}

/// What becomes of a file, and the kept row that goes for it.
fn verdict_in_tx(
    sql: Sql<'_>,
    no: u64,
    import: &NewImport,
) -> Result<(Import, Option<u64>), StoreError> {
    let file = &import.object.file;
    let bucket = bucket_in_tx(sql, import.bucket)?;
    if sql.one(OWN, (no, &file.path), |_| Ok(()))?.is_some() {
        return Ok((Import::Known, None));
    }
    let condemned: Option<(u64, bool, u64, i64)> = sql.one(CONDEMNED, (no, &file.path), |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    let kept = match condemned {
        None => None,
        Some((id, true, size, was)) if size != file.size || differ(was, stamp(file.modified)) => {
            Some(id)
        }
        Some(_) => return Ok((Import::Suppressed, None)),
    };
    if file.size > BLOB_SIZE_MAX {
        return Ok((Import::TooLarge, None));
    }
    if current_in_tx(sql, import.bucket, &import.key)?.is_some() {
        return Ok((Import::Conflict, None));
    }
    match bucket.admit(file.size, 0) {
        Ok(()) => Ok((Import::Imported, kept)),
        Err(_) => Ok((Import::Quota, None)),
    }
}

pub(super) const OWN: &str =
    "SELECT 1 FROM replicas WHERE own IS NOT NULL AND backend = ?1 AND own = ?2";

pub(super) const CONDEMNED: &str = "SELECT id, kept, size, stamp FROM condemned
     WHERE stamp IS NOT NULL AND backend = ?1 AND path = ?2";

fn import_in_tx(
    tx: &mut Tx<'_>,
    no: u64,
    import: &NewImport,
    now: Timestamp,
) -> Result<Import, StoreError> {
    let (verdict, kept) = verdict_in_tx(**tx, no, import)?;
    if verdict != Import::Imported {
        return Ok(verdict);
    }
    let mut turn = Turn::begin(tx, now);
    if let Some(kept) = kept {
        kept_forget_in_tx(tx, &mut turn, kept)?;
    }
    object_put_in_tx(tx, &mut turn, no, import, None)?;
    turn.end(tx)?;
    Ok(verdict)
}

/// Makes the file the current version of its key.
fn object_put_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    no: u64,
    import: &NewImport,
    displaced: Option<Current>,
) -> Result<(), StoreError> {
    let (object, key) = (&import.object, &import.key);
    let file = &object.file;
    let (blob, seq) = (BlobId(tx.ids.next()), turn.seq);
    let (bucket, placement) = bucket_in_force_in_tx(**tx, import.bucket)?;
    let stem = path::stem(&bucket, key, 0, 0);
    let short = stem_short(&stem, key);
    tx.run(
        "INSERT INTO blobs (id, size, refs, placement, deficit, hash, born, stem)
         VALUES (?1, ?2, 1, ?3, 0, x'', ?4, ?5)",
        (blob.0, file.size, placement, seq, short.as_ref().unwrap_or(&stem)),
    )?;
    tx.run(
        "INSERT INTO replicas (write, blob, backend, dead, state, form, own, borrowed)
         VALUES (?1, ?2, ?3, 0, ?4, 2, ?5, ?6)",
        (tx.ids.next(), blob.0, no, standing_in_tx(**tx, no)?, &file.path, stamp(file.modified)),
    )?;
    turn.find(no, file.size, Column::Used);
    tx.marks.unread = true;
    let slice = Slice { part: PART, blob, offset: 0, length: file.size };
    slices_put_in_tx(**tx, seq, &[slice])?;
    let piece = codec::Piece { number: PART, md5: object.etag.md5, checksums: Vec::new() };
    let new = NewVersion {
        bucket: import.bucket,
        key,
        size: file.size,
        etag: object.etag,
        // A file's time may be one that is yet to come.
        modified: file.modified.map_or(turn.now, |modified| modified.min(turn.now)),
        info: &codec::info(
            &[],
            ChecksumType::FullObject,
            &object.headers,
            &UserMetadata::default(),
        ),
        tags: &Tags::default(),
        pieces: Some(&codec::pieces(&[piece])),
    };
    version_put_in_tx(tx, turn, &new, displaced)?;
    blob_count_in_tx(tx, turn, blob)
}

/// Name and placement.
fn bucket_in_force_in_tx(sql: Sql<'_>, id: BucketId) -> Result<(BucketName, u64), StoreError> {
    let found: Option<(String, u64)> =
        sql.one("SELECT name, placement FROM buckets WHERE id = ?1", [id.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (name, placement) = found.ok_or(StoreError::NoSuchBucket)?;
    let name = BucketName::new(&name)
        .map_err(|_| StoreError::broken("a bucket has an impossible name"))?;
    Ok((name, placement))
}

fn change_in_tx(
    tx: &mut Tx<'_>,
    write: WriteId,
    object: &FileObject,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let file = &object.file;
    let found = replica_in_tx(**tx, write)?;
    let row = found.filter(|row| row.is_borrowed && row.path() == file.path);
    let Some(row) = row else { return Ok(false) };
    if is_unchanged(&row, file.size, file.modified) {
        return Ok(false);
    }
    let born = born_in_tx(**tx, &row)?;
    let mut turn = Turn::begin(tx, now);
    path_release_in_tx(tx, &mut turn, &row, born.as_ref())?;
    if let Some(Born { bucket, key, .. }) = born {
        let displaced = current_in_tx(**tx, bucket, &key)?;
        let import = NewImport { bucket, key, object: object.clone() };
        object_put_in_tx(tx, &mut turn, row.backend, &import, displaced)?;
    }
    blob_count_in_tx(tx, &mut turn, row.blob)?;
    turn.end(tx)?;
    Ok(true)
}

/// The object that a file was imported as, while it has the file's bytes.
struct Born {
    bucket: BucketId,
    key: ObjectKey,
    /// No other object shares them.
    is_alone: bool,
}

fn born_in_tx(sql: Sql<'_>, row: &ReplicaRow) -> Result<Option<Born>, StoreError> {
    let found: Option<(u64, Vec<u8>, bool)> = sql.one(
        "SELECT v.bucket, v.key, b.refs = 1 FROM blobs b CROSS JOIN versions v ON v.seq = b.born
         WHERE b.id = ?1 AND v.current = 1",
        [row.blob.0],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let Some((bucket, key, is_alone)) = found else { return Ok(None) };
    let key = String::from_utf8(key).ok().and_then(|key| ObjectKey::new(key).ok());
    let key = key.ok_or_else(|| StoreError::broken("a version has an impossible key"))?;
    Ok(Some(Born { bucket: BucketId(bucket), key, is_alone }))
}

/// Takes a changed file from the blob whose bytes it had. A blob that other objects share and that
/// has nothing else keeps a row that says so, at a path that is nobody's.
fn path_release_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    row: &ReplicaRow,
    born: Option<&Born>,
) -> Result<(), StoreError> {
    let others: Option<bool> = tx.one(
        "SELECT EXISTS (SELECT 1 FROM replicas WHERE blob = ?1 AND write <> ?2)",
        (row.blob.0, row.write.0),
        |row| row.get(0),
    )?;
    if others == Some(true) || born.is_some_and(|born| born.is_alone) {
        tx.run("DELETE FROM replicas WHERE write = ?1", [row.write.0])?;
        turn.forget(row.backend, row.size, Column::Used, 1);
        return Ok(());
    }
    tx.run(
        "UPDATE replicas SET form = 0, own = NULL, borrowed = NULL, state = ?2, dead = write
         WHERE write = ?1",
        (row.write.0, super::replica::state_code(ReplicaState::Missing)),
    )?;
    Ok(())
}
