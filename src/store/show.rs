//! Where the bytes of an object lie, blob by blob, as the operator wants to see it.

use std::collections::BTreeSet;

use super::Store;
use super::error::StoreError;
use super::repair::PARKED;
use super::replica::state_of;
use super::sql::Sql;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::ReplicaState;
use crate::model::WriteId;

/// A blob against its placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobState {
    pub blob: BlobId,
    pub size: u64,
    /// What its placement wishes, and what it wants at least.
    pub replicas: u32,
    pub min_replicas: u32,
    pub good: u32,
    /// Negative: more than are wished.
    pub deficit: i64,
    /// When the next replica may be made, while some are missing.
    pub due: Option<Timestamp>,
    /// No backend could take one; it waits for the fleet to change.
    pub has_no_target: bool,
    pub places: Vec<BlobPlace>,
}

/// What of a replica its path does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobPlace {
    pub write: WriteId,
    pub backend: BackendId,
    pub state: ReplicaState,
    /// When its bytes were last compared with the hash, or since when they cannot be read.
    pub checked: Option<Timestamp>,
    /// It was imported, and its owner may still change it.
    pub is_borrowed: bool,
}

impl Store {
    /// How these blobs are now; those that are gone meanwhile are left out.
    pub async fn blob_states(&self, blobs: Vec<BlobId>) -> Result<Vec<BlobState>, StoreError> {
        self.read(move |sql| {
            let mut states = Vec::new();
            for blob in blobs.into_iter().collect::<BTreeSet<BlobId>>() {
                states.extend(state_in_tx(sql, blob)?);
            }
            Ok(states)
        })
        .await
    }
}

pub(super) const STATE: &str = "SELECT b.size, p.replicas, p.min_replicas, b.good, b.deficit, b.due
     FROM blobs b CROSS JOIN placements p ON p.id = b.placement WHERE b.id = ?1";

pub(super) const PLACES: &str = "SELECT r.write, k.id, r.state, r.checked, r.borrowed IS NOT NULL
     FROM replicas r CROSS JOIN backends k ON k.no = r.backend WHERE r.blob = ?1";

fn state_in_tx(sql: Sql<'_>, blob: BlobId) -> Result<Option<BlobState>, StoreError> {
    let places = sql.all(PLACES, [blob.0], |row| {
        Ok(BlobPlace {
            write: WriteId(row.get(0)?),
            backend: BackendId(row.get(1)?),
            state: state_of(row.get(2)?),
            checked: row.get::<_, Option<i64>>(3)?.map(Timestamp),
            is_borrowed: row.get(4)?,
        })
    })?;
    sql.one(STATE, [blob.0], |row| {
        let due: Option<i64> = row.get(5)?;
        Ok(BlobState {
            blob,
            size: row.get(0)?,
            replicas: row.get(1)?,
            min_replicas: row.get(2)?,
            good: row.get(3)?,
            deficit: row.get(4)?,
            due: due.filter(|due| *due < PARKED).map(Timestamp),
            has_no_target: due.is_some_and(|due| due >= PARKED),
            places,
        })
    })
}
