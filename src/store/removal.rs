//! Taking a backend out: what only it has, and the end of its rows.
//!
//! # Invariants
//!
//! - A replica of a removed backend goes only while its blob has a good one elsewhere. What only
//!   that backend had stays as a row that says *missing*, so that nothing claims to be there that
//!   is not, and nothing that was acknowledged is forgotten: its object answers 503 until its owner
//!   deletes it, or the backend comes back.
//! - A backend that was removed may be left out of the configuration although it has rows.

use std::collections::BTreeSet;

use super::Store;
use super::blob::blob_count_in_tx;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Turn;
use super::queue::Lane;
use super::replica::replica_in_tx;
use super::sql::Sql;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::ReplicaState;
use crate::model::WriteId;

/// What a backend holds, as far as its removal is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Replicas of committed blobs, in any state but *missing*.
    pub replicas: u64,
    pub bytes: u64,
    /// Of those, the ones whose blobs have no good replica elsewhere.
    pub sole: u64,
    pub sole_bytes: u64,
    /// Paths whose bytes are still to be deleted.
    pub condemned: u64,
}

/// How a removal deals with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They stay where they are, and nobody's.
    Bytes,
    /// They are deleted through the cleanup queue.
    Nothing,
}

impl Store {
    /// Walks over all replicas of a backend on a reader.
    pub async fn backend_holdings(&self, backend: BackendId) -> Result<Holdings, StoreError> {
        self.read(move |sql| {
            let no = number_in_tx(sql, backend)?;
            let condemned: Option<u64> =
                sql.one("SELECT count(*) FROM condemned WHERE backend = ?1", [no], |r| r.get(0))?;
            let found = sql.one(HOLDINGS, [no], |row| {
                Ok(Holdings {
                    replicas: row.get(0)?,
                    bytes: row.get(1)?,
                    sole: row.get(2)?,
                    sole_bytes: row.get(3)?,
                    condemned: 0,
                })
            })?;
            Ok(Holdings { condemned: condemned.unwrap_or(0), ..found.unwrap_or_default() })
        })
        .await
    }

    /// Lets go of a bounded number of the replicas of a backend whose duty is *removed*, after
    /// `after`: where to go on, `None` at the end.
    pub async fn backend_let_go(
        &self,
        backend: BackendId,
        after: WriteId,
        leave: Leave,
    ) -> Result<Option<WriteId>, StoreError> {
        let now = self.shared().clock.now();
        let batch: Vec<WriteId> = self
            .read(move |sql| {
                let no = number_in_tx(sql, backend)?;
                sql.all(
                    "SELECT write FROM replicas WHERE write > ?1 AND backend = ?2
                     ORDER BY write LIMIT ?3",
                    (after.0, no, WORK_ROWS_MAX),
                    |row| Ok(WriteId(row.get(0)?)),
                )
            })
            .await?;
        let last = batch.last().copied();
        self.free(Lane::Work, Need::Durable, move |tx| {
            let no = number_in_tx(**tx, backend)?;
            let_go_in_tx(tx, no, &batch, leave, now)
        })
        .await?;
        Ok(last)
    }

    /// Forgets the condemned paths of a backend that was removed: nobody will delete them.
    pub async fn backend_forget_condemned(&self, backend: BackendId) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        loop {
            let forgotten = self
                .free(Lane::Work, Need::Durable, move |tx| {
                    let no = number_in_tx(**tx, backend)?;
                    let rows: Vec<(u64, u64)> = tx.all(
                        "DELETE FROM condemned WHERE id IN
                             (SELECT id FROM condemned WHERE backend = ?1 LIMIT ?2)
                         RETURNING id, size",
                        (no, WORK_ROWS_MAX),
                        |row| Ok((row.get(0)?, row.get(1)?)),
                    )?;
                    let mut turn = Turn::begin(tx, now);
                    for (_, size) in &rows {
                        turn.forget(no, *size, Column::Orphan, 1);
                    }
                    turn.end(tx)?;
                    Ok(rows.len())
                })
                .await?;
            if forgotten < WORK_ROWS_MAX {
                return Ok(());
            }
        }
    }
}

const HOLDINGS: &str = "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(sole), 0),
         coalesce(sum(size * sole), 0)
     FROM (SELECT coalesce(r.bytes, b.size) AS size, NOT EXISTS
             (SELECT 1 FROM replicas o WHERE o.blob = r.blob AND o.state = 1
                 AND o.backend <> r.backend) AS sole
         FROM replicas r CROSS JOIN blobs b ON b.id = r.blob
         WHERE r.backend = ?1 AND r.state NOT IN (0, 2) AND b.refs > 0)";

fn number_in_tx(sql: Sql<'_>, backend: BackendId) -> Result<u64, StoreError> {
    let no = sql.one("SELECT no FROM backends WHERE id = ?1", [backend.0], |row| row.get(0))?;
    no.ok_or(StoreError::NoSuchBackend)
}

fn let_go_in_tx(
    tx: &mut Tx<'_>,
    no: u64,
    batch: &[WriteId],
    leave: Leave,
    now: Timestamp,
) -> Result<(), StoreError> {
    let state: Option<u8> =
        tx.one("SELECT state FROM backends WHERE no = ?1", [no], |row| row.get(0))?;
    if state != Some(3) {
        return Err(StoreError::Changed);
    }
    let mut turn = Turn::begin(tx, now);
    let mut blobs = BTreeSet::new();
    for write in batch {
        let Some(row) = replica_in_tx(**tx, *write)? else { continue };
        // What is only promised is nobody's loss.
        let is_intent = row.state == ReplicaState::Writing;
        if is_intent || has_good_elsewhere_in_tx(**tx, row.blob, no)? {
            let reason = CondemnReason::Drained;
            match leave {
                Leave::Nothing => {
                    super::condemned::condemn_in_tx(tx, &mut turn, &row, reason, true)?
                }
                Leave::Bytes => {
                    let from = match row.state {
                        ReplicaState::Writing => Column::Reserved,
                        _ => Column::Used,
                    };
                    turn.forget(no, row.size, from, 1);
                }
            }
            tx.run("DELETE FROM replicas WHERE write = ?1", [write.0])?;
            if is_intent {
                super::replica::intent_gone_in_tx(tx, now, &row)?;
            }
        } else {
            tx.run("UPDATE replicas SET state = 2, dead = write WHERE write = ?1", [write.0])?;
        }
        blobs.insert(row.blob);
    }
    for blob in blobs {
        blob_count_in_tx(tx, &mut turn, blob)?;
    }
    turn.end(tx)
}

fn has_good_elsewhere_in_tx(sql: Sql<'_>, blob: BlobId, no: u64) -> Result<bool, StoreError> {
    let found = sql.one(
        "SELECT 1 FROM replicas WHERE blob = ?1 AND state = 1 AND backend <> ?2 LIMIT 1",
        (blob.0, no),
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}
