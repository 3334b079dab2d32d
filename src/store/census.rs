//! All that the store says of bytes, at one moment: for a simulation, which holds it against what
//! really lies on the backends.

use super::Store;
use super::codec;
use super::error::StoreError;
use super::placement::placement_read;
use super::replica::EVERY_ONE;
use super::replica::ReplicaRow;
use super::sql::Sql;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Placement;
use crate::model::ReplicaState;
use crate::model::WriteId;

/// Everything at one moment.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) replicas: Vec<CensusReplica>,
    pub(crate) condemned: Vec<CensusPath>,
    pub(crate) blobs: Vec<CensusBlob>,
    /// Every current object.
    pub(crate) objects: Vec<CensusObject>,
}

#[derive(Debug)]
pub(crate) struct CensusReplica {
    pub(crate) write: WriteId,
    pub(crate) blob: BlobId,
    pub(crate) backend: BackendId,
    pub(crate) path: String,
    pub(crate) state: ReplicaState,
}

/// A condemned path.
#[derive(Debug)]
pub(crate) struct CensusPath {
    pub(crate) backend: BackendId,
    pub(crate) path: String,
}

#[derive(Debug)]
pub(crate) struct CensusBlob {
    pub(crate) id: BlobId,
    pub(crate) size: u64,
    pub(crate) hash: Vec<u8>,
    /// Something refers to it.
    pub(crate) is_committed: bool,
    pub(crate) wish: Placement,
}

#[derive(Debug)]
pub(crate) struct CensusObject {
    pub(crate) bucket: String,
    pub(crate) key: String,
    /// Slices of blobs: offset and length.
    pub(crate) entries: Vec<(BlobId, u64, u64)>,
}

impl Store {
    pub(crate) async fn census(&self) -> Result<Census, StoreError> {
        self.read(|sql| {
            let objects = objects_in_tx(sql)?;
            let (replicas, condemned) = paths_in_tx(sql)?;
            Ok(Census { replicas, condemned, blobs: blobs_in_tx(sql)?, objects })
        })
        .await
    }
}

fn paths_in_tx(sql: Sql<'_>) -> Result<(Vec<CensusReplica>, Vec<CensusPath>), StoreError> {
    let backends: Vec<(u64, u64)> =
        sql.all("SELECT no, id FROM backends", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let id_of = |no: u64| {
        let found = backends.iter().find(|(known, _)| *known == no);
        BackendId(found.map_or(0, |(_, id)| *id))
    };
    let rows = sql.all(EVERY_ONE, [], ReplicaRow::read)?;
    let replicas = rows.into_iter().map(|row| CensusReplica {
        write: row.write,
        blob: row.blob,
        backend: id_of(row.backend),
        path: row.path(),
        state: row.state,
    });
    let condemned = sql.all("SELECT backend, path FROM condemned", [], |row| {
        Ok(CensusPath { backend: id_of(row.get(0)?), path: row.get(1)? })
    })?;
    Ok((replicas.collect(), condemned))
}

fn blobs_in_tx(sql: Sql<'_>) -> Result<Vec<CensusBlob>, StoreError> {
    let rows = sql.all(
        "SELECT b.id, b.size, b.hash, b.refs > 0, p.replicas, p.min_replicas, p.routing,
             p.require_distinct
         FROM blobs b JOIN placements p ON p.id = b.placement ORDER BY b.id",
        [],
        |row| {
            let (wish, labels) = placement_read(row, 4)?;
            let (id, size) = (BlobId(row.get(0)?), row.get(1)?);
            let (hash, is_committed) = (row.get(2)?, row.get(3)?);
            Ok((CensusBlob { id, size, hash, is_committed, wish }, labels))
        },
    )?;
    let labelled = |(mut blob, labels): (CensusBlob, Vec<u8>)| {
        blob.wish.require_distinct = codec::labels_read(&labels)?;
        Ok(blob)
    };
    rows.into_iter().map(labelled).collect()
}

fn objects_in_tx(sql: Sql<'_>) -> Result<Vec<CensusObject>, StoreError> {
    let rows: Vec<(u64, String, Vec<u8>)> = sql.all(
        "SELECT v.seq, b.name, v.key FROM versions v JOIN buckets b ON b.id = v.bucket
         WHERE v.current = 1 AND v.marker = 0 ORDER BY v.seq",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let object = |(seq, bucket, key): (u64, String, Vec<u8>)| {
        let entries = sql.all(
            "SELECT blob, offset, length FROM entries WHERE owner = ?1 ORDER BY ordinal",
            [seq],
            |row| Ok((BlobId(row.get(0)?), row.get(1)?, row.get(2)?)),
        )?;
        let key = String::from_utf8(key).map_err(|_| StoreError::broken("a key is no text"))?;
        Ok(CensusObject { bucket, key, entries })
    };
    rows.into_iter().map(object).collect()
}
