//! Giving up replicas that are good: surplus ones, those that leave, those that were moved.
//!
//! # Invariants
//!
//! - A good replica goes only in a transaction that sees those that stay: they are the ones that
//!   the caller has just looked at on their backends, and all of them are still good.
//! - What stays is never less than the placement wishes, and never nothing.
//! - What is only borrowed is given up where its backend is emptied, and nowhere else; the file
//!   stays its owner's.

use super::Store;
use super::blob::blob_count_in_tx;
use super::blob::blob_in_tx;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Turn;
use super::queue::Lane;
use super::replica::ReplicaRow;
use super::replica::good_in_tx;
use super::replica::replica_condemn_in_tx;
use super::replica::replica_in_tx;
use super::sql::Sql;
use super::writer::Need;
use crate::model::CondemnReason;
use crate::model::ReplicaState;
use crate::model::WriteId;

/// A good replica that is to go, and those that were seen on their backends a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveUp {
    pub write: WriteId,
    pub reason: CondemnReason,
    pub stay: Vec<WriteId>,
}

impl Store {
    /// Condemns a replica. `Changed` when not all of `stay` are good replicas of its blob now, or
    /// they are fewer than the blob should have; `Superseded` when it is gone or not good.
    pub async fn replica_give_up(&self, give_up: GiveUp) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Work, Need::Durable, move |tx| {
            let row = going_in_tx(**tx, give_up.write)?;
            if row.is_borrowed && row.state != ReplicaState::Leaving {
                return Err(StoreError::Changed);
            }
            let blob = blob_in_tx(**tx, row.blob)?.ok_or(StoreError::Superseded)?;
            let staying = good_among_in_tx(**tx, &row, &give_up.stay)?;
            if staying < blob.wished.max(1) || staying != give_up.stay.len() as i64 {
                return Err(StoreError::Changed);
            }
            let mut turn = Turn::begin(tx, now);
            if row.is_borrowed {
                // Its backend is left: the file stays, and need not be remembered there.
                turn.forget(row.backend, row.size, Column::Used, 1);
                tx.run("DELETE FROM replicas WHERE write = ?1", [row.write.0])?;
            } else {
                replica_condemn_in_tx(tx, &mut turn, &row, give_up.reason, false)?;
            }
            blob_count_in_tx(tx, &mut turn, row.blob)?;
            turn.end(tx)
        })
        .await
    }

    /// The intent `new`, whose bytes are durable and were looked at, takes the place of the replica
    /// `old` of the same blob. `Changed` when `old` is not to be given up any more, `Superseded`
    /// when the intent or its blob is gone; then the intent is the caller's to give up.
    pub async fn replica_swap(
        &self,
        new: WriteId,
        old: WriteId,
        reason: CondemnReason,
    ) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Work, Need::Durable, move |tx| {
            let intent = replica_in_tx(**tx, new)?.ok_or(StoreError::Superseded)?;
            if intent.state == ReplicaState::Good {
                // It was said before.
                return Ok(());
            }
            if intent.state != ReplicaState::Writing || !intent.is_committed {
                return Err(StoreError::Superseded);
            }
            let gone = |_| StoreError::Changed;
            let row = going_in_tx(**tx, old).map_err(gone)?;
            if row.is_borrowed || row.blob != intent.blob {
                return Err(StoreError::Changed);
            }
            let mut turn = Turn::begin(tx, now);
            good_in_tx(tx, &mut turn, &intent)?;
            if replica_in_tx(**tx, new)?.is_none_or(|row| row.state != ReplicaState::Good) {
                return Err(StoreError::Changed);
            }
            replica_condemn_in_tx(tx, &mut turn, &row, reason, false)?;
            blob_count_in_tx(tx, &mut turn, row.blob)?;
            turn.end(tx)
        })
        .await
    }
}

/// The replica that is to go, while it is one that may.
fn going_in_tx(sql: Sql<'_>, write: WriteId) -> Result<ReplicaRow, StoreError> {
    let row = replica_in_tx(sql, write)?.ok_or(StoreError::Superseded)?;
    match row.state {
        ReplicaState::Good | ReplicaState::Leaving if row.is_committed => Ok(row),
        _ => Err(StoreError::Superseded),
    }
}

/// How many of `stay` are good replicas of the blob of `row` on backends in use, other than itself.
fn good_among_in_tx(sql: Sql<'_>, row: &ReplicaRow, stay: &[WriteId]) -> Result<i64, StoreError> {
    let mut good = 0;
    for write in stay.iter().filter(|write| **write != row.write) {
        let found = sql.one(
            "SELECT 1 FROM replicas r CROSS JOIN backends k ON k.no = r.backend
             WHERE r.write = ?1 AND r.blob = ?2 AND r.state = 1 AND k.state = 0",
            (write.0, row.blob.0),
            |_| Ok(()),
        )?;
        good += i64::from(found.is_some());
    }
    Ok(good)
}
