//! Condemned paths: bytes that nobody may use any more and that are still to be deleted.
//!
//! # Invariants
//!
//! - The id of a condemned path is the write id of the replica that it was; no replica has it.
//! - `seq` is the commit that condemned it: it may be deleted once every reader's ticket is at
//!   least that (see `ticket`).
//! - `due` is null once it is parked, after [`ATTEMPTS_MAX`] failures.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::Store;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Turn;
use super::queue::Lane;
use super::replica::ReplicaRow;
use super::sql::Sql;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::doubling;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::CondemnReason;
use crate::model::ReplicaState;

const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(24 * 3600);
const ATTEMPTS_MAX: u32 = 10;
/// When a path whose write had an unknown outcome is deleted a second time.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// Characters of a failure's text that are kept.
const ERROR_MAX: usize = 500;

/// A stored path that waits for its bytes to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    pub id: u64,
    pub backend: BackendId,
    pub path: String,
    pub size: u64,
    pub reason: CondemnReason,
    pub attempts: u32,
}

impl Store {
    /// Due on `backend`, and condemned before the oldest ticket out; oldest first.
    pub async fn condemned_due(
        &self,
        backend: BackendId,
        max: usize,
    ) -> Result<Vec<Condemned>, StoreError> {
        let now = self.shared().clock.now();
        let bound = self.shared().tickets.bound();
        self.read(move |sql| {
            let rows = sql.all(DUE, (backend.0, now.0, bound, max), |row| {
                let reason: usize = row.get(3)?;
                Ok((
                    Condemned {
                        id: row.get(0)?,
                        backend,
                        path: row.get(1)?,
                        size: row.get(2)?,
                        reason: CondemnReason::Debris,
                        attempts: row.get(4)?,
                    },
                    reason,
                ))
            })?;
            rows.into_iter()
                .map(|(row, code)| {
                    let reason = CondemnReason::ALL.into_iter().find(|r| *r as usize == code);
                    let reason = reason.ok_or_else(|| {
                        StoreError::broken("a path is condemned for no known reason")
                    })?;
                    Ok(Condemned { reason, ..row })
                })
                .collect::<Result<Vec<_>, StoreError>>()
        })
        .await
    }

    /// Their bytes are gone: rows that are due are forgotten (or kept for the second delete an hour
    /// later), orphan bytes fall. May be said twice.
    pub async fn condemned_deleted(&self, ids: Vec<u64>) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        for some in ids.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            self.free(Lane::Work, Need::Durable, move |tx| {
                let mut turn = Turn::begin(tx, now);
                for &id in &some {
                    forget_in_tx(tx, &mut turn, id)?;
                }
                turn.end(tx)
            })
            .await?;
        }
        Ok(())
    }

    /// Not deleted: tried again after `min(1 min · 2^attempts, 24 h)`; parked after ten failures.
    pub async fn condemned_failed(&self, id: u64, why: String) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Work, Need::Durable, move |tx| {
            let attempts: Option<u32> =
                tx.one("SELECT attempts FROM condemned WHERE id = ?1", [id], |row| row.get(0))?;
            let Some(attempts) = attempts else { return Ok(()) };
            let pause = doubling(RETRY_FIRST, attempts, RETRY_MAX);
            let attempts = attempts.saturating_add(1);
            let due = (attempts < ATTEMPTS_MAX).then(|| now.plus(pause).0);
            let why: String = why.chars().take(ERROR_MAX).collect();
            tx.run(
                "UPDATE condemned SET attempts = ?2, due = ?3, error = ?4 WHERE id = ?1",
                (id, attempts, due, why),
            )?;
            Ok(())
        })
        .await
    }

    /// What waits after a failure becomes due now, of some ids above `after`: the last of these, or
    /// `None` when there was none.
    pub async fn condemned_hasten(&self, after: u64) -> Result<Option<u64>, StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Work, Need::Recorded, move |tx| {
            let ids: Vec<u64> = tx.all(FAILED, (after, WORK_ROWS_MAX), |row| row.get(0))?;
            for id in &ids {
                tx.run("UPDATE condemned SET due = min(due, ?2) WHERE id = ?1", (id, now.0))?;
            }
            Ok(ids.last().copied())
        })
        .await
    }

    /// When the next condemned path on `backend` is due. Those that a reader may still read are
    /// left out: [`Store::cleanup_wanted`] tells when such a reader has gone.
    pub async fn condemned_next(
        &self,
        backend: BackendId,
    ) -> Result<Option<Timestamp>, StoreError> {
        let bound = self.shared().tickets.bound_to_wait();
        self.read(move |sql| {
            Ok(sql.one(NEXT, (backend.0, bound), |row| row.get(0))?.map(Timestamp))
        })
        .await
    }

    /// Woken when something was condemned.
    pub fn cleanup_wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.shared().tickets.cleanup)
    }
}

pub(super) const DUE: &str = "SELECT id, path, size, reason, attempts FROM condemned
     WHERE backend = (SELECT no FROM backends WHERE id = ?1) AND due <= ?2 AND seq <= ?3
     ORDER BY due, seq LIMIT ?4";

pub(super) const NEXT: &str = "SELECT due FROM condemned
     WHERE backend = (SELECT no FROM backends WHERE id = ?1) AND due IS NOT NULL AND seq <= ?2
     ORDER BY due, seq LIMIT 1";

/// Those to which nothing happened wait for a reason of their own, and may be many: the table
/// itself, which holds them too, is in the same order.
pub(super) const FAILED: &str = "SELECT id FROM condemned INDEXED BY condemned_failed
     WHERE due IS NOT NULL AND error IS NOT NULL AND id > ?1 ORDER BY id LIMIT ?2";

/// Turns a replica into a condemned path. Its own row is the caller's to delete. `is_again`: its
/// bytes may still appear after the first delete. What is only borrowed is kept, and remembered.
pub(super) fn condemn_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    replica: &ReplicaRow,
    reason: CondemnReason,
    is_again: bool,
) -> Result<(), StoreError> {
    let from = match replica.state {
        ReplicaState::Writing => Column::Reserved,
        _ => Column::Used,
    };
    if replica.state == ReplicaState::Missing
        && (replica.is_borrowed || is_removed_in_tx(**tx, replica.backend)?)
    {
        // Its owner took it away: there is nothing to keep, or nobody who could delete it.
        turn.forget(replica.backend, replica.size, from, 1);
        return Ok(());
    }
    tx.run(
        "INSERT INTO condemned (id, backend, path, size, reason, seq, due, again, kept, stamp)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            replica.write.0,
            replica.backend,
            replica.path(),
            replica.size,
            reason as u8,
            turn.seq,
            (!replica.is_borrowed).then_some(turn.now.0),
            is_again && !replica.is_borrowed,
            replica.is_borrowed,
            replica.stamp,
        ),
    )?;
    turn.shift(replica.backend, replica.size, from, Column::Orphan);
    tx.marks.condemned = true;
    Ok(())
}

fn is_removed_in_tx(sql: Sql<'_>, backend: u64) -> Result<bool, StoreError> {
    let found =
        sql.one("SELECT 1 FROM backends WHERE no = ?1 AND state = 3", [backend], |_| Ok(()))?;
    Ok(found.is_some())
}

fn forget_in_tx(tx: &Tx<'_>, turn: &mut Turn, id: u64) -> Result<(), StoreError> {
    // One that is not due was forgotten before by somebody else, and waits for its second delete.
    let found: Option<(u64, u64, bool)> = tx.one(
        "SELECT backend, size, again FROM condemned WHERE id = ?1 AND due <= ?2",
        (id, turn.now.0),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let Some((backend, size, is_again)) = found else { return Ok(()) };
    if is_again {
        tx.run(
            "UPDATE condemned SET size = 0, again = 0, attempts = 0, error = NULL, due = ?2
             WHERE id = ?1",
            (id, turn.now.plus(AGAIN_AFTER).0),
        )?;
        turn.forget(backend, size, Column::Orphan, 0);
    } else {
        tx.run("DELETE FROM condemned WHERE id = ?1", [id])?;
        turn.forget(backend, size, Column::Orphan, 1);
    }
    Ok(())
}
