//! Looking objects up: everything that a read needs in a few indexed queries.

use rusqlite::Row;

use super::Store;
use super::blob::stem_whole;
use super::codec;
use super::entry::slices_in_tx;
use super::error::StoreError;
use super::part::PartInfo;
use super::placement::placement_read;
use super::replica::Replica;
use super::replica::all_replicas_in_tx;
use super::replica::form_of;
use super::replica::state_of;
use super::sql::Sql;
use super::ticket::Ticket;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::BucketId;
use crate::model::Etag;
use crate::model::ObjectKey;
use crate::model::Placement;
use crate::model::PlacementId;
use crate::model::VersionMeta;
use crate::model::VersionSeq;
use crate::model::WriteId;
use crate::model::path::path;

/// What HEAD and conditions need: no entries, no replicas.
#[derive(Clone, Debug)]
pub struct Head {
    pub seq: VersionSeq,
    pub meta: VersionMeta,
    pub tag_count: usize,
    /// Parts of a multipart object; 0 for one written at once.
    pub part_count: u32,
}

/// All that a read needs. Cleanup deletes nothing that this names while it lives.
#[derive(Debug)]
pub struct Found {
    pub head: Head,
    pub entries: Vec<Entry>,
    pub ticket: Ticket,
}

#[derive(Clone, Debug)]
pub struct Entry {
    /// Part number; 0 in an object written at once.
    pub part: u32,
    pub blob: BlobId,
    /// Where in the blob the entry begins.
    pub offset: u64,
    pub length: u64,
    pub blob_size: u64,
    /// Not known yet of what was imported.
    pub hash: Option<[u8; 32]>,
    /// In any state, intents included.
    pub replicas: Vec<Replica>,
}

/// What a copy of a blob must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobFacts {
    pub size: u64,
    /// Not known yet of what was imported.
    pub hash: Option<[u8; 32]>,
    pub placement: PlacementId,
    /// What the placement wishes.
    pub wish: Placement,
    /// Good replicas that it misses to that.
    pub missing: u64,
    pub stem: String,
}

impl Store {
    /// `Superseded` when the blob is gone, or when no commit has taken it yet.
    pub async fn blob(&self, blob: BlobId) -> Result<BlobFacts, StoreError> {
        self.read(move |sql| facts_in_tx(sql, blob)).await
    }

    /// The same, and where its replicas lie.
    pub async fn blob_whole(&self, blob: BlobId) -> Result<(BlobFacts, Vec<Replica>), StoreError> {
        self.blob_whole_with(blob, |whole| whole).await
    }

    /// Like `blob_whole`, and runs `then` on the reader thread as `object_find_with` does.
    pub async fn blob_whole_with<R, F>(&self, blob: BlobId, then: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce((BlobFacts, Vec<Replica>)) -> R + Send + 'static,
    {
        let find =
            move |sql: Sql<'_>| Ok((facts_in_tx(sql, blob)?, all_replicas_in_tx(sql, blob)?));
        self.read_then(find, then).await
    }

    /// To be taken before a look-up whose paths will be read.
    pub fn ticket(&self) -> Ticket {
        self.shared().tickets.take()
    }

    pub async fn object_head(&self, bucket: BucketId, key: ObjectKey) -> Result<Head, StoreError> {
        self.read(move |sql| head_in_tx(sql, bucket, &key)).await
    }

    pub async fn object_find(&self, bucket: BucketId, key: ObjectKey) -> Result<Found, StoreError> {
        self.object_find_with(bucket, key, |found| found).await
    }

    /// Like `object_find`, and runs `then` on the reader thread with what was found: the short
    /// path reads and checks a small local replica there. No lock or transaction is held then.
    pub async fn object_find_with<R, F>(
        &self,
        bucket: BucketId,
        key: ObjectKey,
        then: F,
    ) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(Found) -> R + Send + 'static,
    {
        let ticket = self.ticket();
        let find = move |sql: Sql<'_>| {
            let head = head_in_tx(sql, bucket, &key)?;
            let entries =
                if head.meta.size == 0 { Vec::new() } else { entries_in_tx(sql, head.seq)? };
            Ok(Found { head, entries, ticket })
        };
        self.read_then(find, then).await
    }

    /// Parts of a multipart object that is current, with their checksums; none of one that was
    /// written at once.
    pub async fn object_parts(
        &self,
        bucket: BucketId,
        key: ObjectKey,
    ) -> Result<Vec<PartInfo>, StoreError> {
        self.read(move |sql| {
            let found: Option<(u64, i64, Option<Vec<u8>>)> = sql.one(
                "SELECT seq, modified, pieces FROM versions
                 WHERE current = 1 AND bucket = ?1 AND key = ?2 AND marker = 0",
                (bucket.0, key.as_bytes()),
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?;
            let (seq, modified, pieces) = found.ok_or(StoreError::NoSuchKey)?;
            let Some(pieces) = pieces else { return Ok(Vec::new()) };
            let mut slices = slices_in_tx(sql, seq)?.into_iter().peekable();
            let mut parts = Vec::new();
            for piece in codec::pieces_read(&pieces)? {
                let mut size = 0;
                while let Some(slice) = slices.next_if(|slice| slice.part == piece.number) {
                    size += slice.length;
                }
                parts.push(PartInfo {
                    number: piece.number,
                    seq,
                    size,
                    md5: piece.md5,
                    modified: Timestamp(modified),
                    checksums: piece.checksums,
                });
            }
            Ok(parts)
        })
        .await
    }
}

fn facts_in_tx(sql: Sql<'_>, blob: BlobId) -> Result<BlobFacts, StoreError> {
    let found = sql.one(
        "SELECT b.size, nullif(b.hash, x''), b.placement, b.stem, v.key, p.replicas, p.min_replicas,
             p.routing, p.require_distinct, max(b.deficit, 0)
         FROM blobs b CROSS JOIN placements p ON p.id = b.placement
         LEFT JOIN versions v ON v.seq = b.born
         WHERE b.id = ?1 AND b.refs > 0",
        [blob.0],
        |row| {
            let born = row.get_ref(4)?.as_blob_or_null()?;
            let (wish, labels) = placement_read(row, 5)?;
            let facts = BlobFacts {
                size: row.get(0)?,
                hash: row.get(1)?,
                placement: PlacementId(row.get(2)?),
                wish,
                missing: row.get(9)?,
                stem: stem_whole(row.get_ref(3)?.as_str()?, born),
            };
            Ok((facts, labels))
        },
    )?;
    let (mut facts, labels) = found.ok_or(StoreError::Superseded)?;
    facts.wish.require_distinct = codec::labels_read(&labels)?;
    Ok(facts)
}

pub(super) const HEAD: &str = "SELECT seq, size, md5, parts, modified, tags, info FROM versions
     WHERE current = 1 AND bucket = ?1 AND key = ?2 AND marker = 0";

fn head_in_tx(sql: Sql<'_>, bucket: BucketId, key: &ObjectKey) -> Result<Head, StoreError> {
    let found = sql.one(HEAD, (bucket.0, key.as_bytes()), |row| Ok(head_read(row)))?;
    found.ok_or(StoreError::NoSuchKey)?
}

fn head_read(row: &Row<'_>) -> Result<Head, StoreError> {
    let info = codec::info_read(row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?)?;
    let etag = Etag { md5: row.get(2)?, parts: row.get(3)? };
    Ok(Head {
        seq: VersionSeq(row.get(0)?),
        meta: VersionMeta {
            size: row.get(1)?,
            etag,
            modified: Timestamp(row.get(4)?),
            headers: info.headers,
            user: info.user,
            checksums: info.checksums,
            checksum_type: info.checksum_type,
        },
        tag_count: row.get(5)?,
        part_count: etag.parts.unwrap_or(0),
    })
}

/// One row for each replica of each entry, in the order of the body.
pub(super) const ENTRIES: &str = "SELECT e.ordinal, e.part, e.blob, e.offset, e.length, b.size,
         nullif(b.hash, x''), b.stem, r.write, k.id, r.state, r.form, r.own, v.key,
         r.borrowed IS NOT NULL
     FROM entries e CROSS JOIN blobs b ON b.id = e.blob
     LEFT JOIN replicas r ON r.blob = e.blob LEFT JOIN backends k ON k.no = r.backend
     LEFT JOIN versions v ON v.seq = b.born
     WHERE e.owner = ?1 ORDER BY e.ordinal";

fn entries_in_tx(sql: Sql<'_>, owner: VersionSeq) -> Result<Vec<Entry>, StoreError> {
    let mut statement = sql.0.prepare_cached(ENTRIES)?;
    let mut rows = statement.query([owner.0])?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut last = None;
    while let Some(row) = rows.next()? {
        let ordinal: u64 = row.get(0)?;
        if last != Some(ordinal) {
            last = Some(ordinal);
            entries.push(Entry {
                part: row.get(1)?,
                blob: BlobId(row.get(2)?),
                offset: row.get(3)?,
                length: row.get(4)?,
                blob_size: row.get(5)?,
                hash: row.get(6)?,
                replicas: Vec::new(),
            });
        }
        let replica = replica_read(row)?;
        if let (Some(entry), Some(replica)) = (entries.last_mut(), replica) {
            entry.replicas.push(replica);
        }
    }
    Ok(entries)
}

fn replica_read(row: &Row<'_>) -> rusqlite::Result<Option<Replica>> {
    let Some(write) = row.get::<_, Option<u64>>(8)?.map(WriteId) else { return Ok(None) };
    let form = form_of(row.get(11)?, row.get(12)?);
    let stem = stem_whole(row.get_ref(7)?.as_str()?, row.get_ref(13)?.as_blob_or_null()?);
    Ok(Some(Replica {
        write,
        backend: BackendId(row.get(9)?),
        path: path(&form, &stem, write),
        state: state_of(row.get(10)?),
        is_borrowed: row.get(14)?,
    }))
}
