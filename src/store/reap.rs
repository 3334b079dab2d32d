//! Dead intents: promises of an earlier run, whose writers are gone.
//!
//! # Invariant
//!
//! What this run's writers are at work on is never among them: their ids are above the first id
//! of the run.

use super::Store;
use super::blob::DROPPED_BETWEEN;
use super::blob::settle_dropped_in_tx;
use super::codec;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Turn;
use super::queue::Lane;
use super::replica::ReplicaRow;
use super::replica::WRITING_BETWEEN;
use super::replica::intent_gone_in_tx;
use super::replica::replica_in_tx;
use super::writer::Need;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::ReplicaState;
use crate::model::WriteId;

/// A promise that nobody keeps any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadIntent {
    pub write: WriteId,
    pub blob: BlobId,
    pub backend: BackendId,
    pub path: String,
    pub size: u64,
    /// The hash of its blob, when that is committed.
    pub committed: Option<[u8; 32]>,
}

impl Store {
    /// Intents of earlier runs after `after`, oldest first.
    pub async fn intents_dead(
        &self,
        after: WriteId,
        max: usize,
    ) -> Result<Vec<DeadIntent>, StoreError> {
        let first = self.shared().first_id;
        self.read(move |sql| {
            let rows = sql.all(WRITING_BETWEEN, (after.0 + 1, first, max), ReplicaRow::read)?;
            let facts = |row: ReplicaRow| {
                let facts: Option<(u64, Vec<u8>)> = sql.one(
                    "SELECT k.id, b.hash FROM blobs b CROSS JOIN backends k ON k.no = ?2
                     WHERE b.id = ?1",
                    (row.blob.0, row.backend),
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )?;
                let (backend, hash) = facts
                    .ok_or_else(|| StoreError::broken("an intent has no blob or no backend"))?;
                // Nobody knows yet what the bytes of an imported blob should be.
                let is_known = row.is_committed && !hash.is_empty();
                Ok(DeadIntent {
                    write: row.write,
                    blob: row.blob,
                    backend: BackendId(backend),
                    path: row.path(),
                    size: row.size,
                    committed: is_known.then(|| codec::fixed(&hash)).transpose()?,
                })
            };
            rows.into_iter().map(facts).collect()
        })
        .await
    }

    /// The backend says that nothing is at the intent's path: its bytes are counted no more. The
    /// path is deleted an hour later all the same, in case the service was still busy with it.
    pub async fn intent_drop(&self, write: WriteId) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Work, Need::Durable, move |tx| {
            let found = replica_in_tx(**tx, write)?;
            let row = found.filter(|row| row.state == ReplicaState::Writing);
            let row = row.ok_or(StoreError::Superseded)?;
            let mut turn = Turn::begin(tx, now);
            tx.run(
                "INSERT INTO condemned (id, backend, path, size, reason, seq, due, again)
                 VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, 0)",
                (
                    row.write.0,
                    row.backend,
                    row.path(),
                    CondemnReason::Abandoned as u8,
                    turn.seq,
                    now.plus(super::condemned::AGAIN_AFTER).0,
                ),
            )?;
            tx.run("DELETE FROM replicas WHERE write = ?1", [row.write.0])?;
            intent_gone_in_tx(tx, now, &row)?;
            turn.forget(row.backend, row.size, Column::Reserved, 0);
            tx.marks.condemned = true;
            turn.end(tx)
        })
        .await
    }

    /// Takes away blobs of earlier runs that were never committed and have no intent left.
    pub async fn blobs_settle_dropped(&self) -> Result<(), StoreError> {
        let first = self.shared().first_id;
        loop {
            let none = self.read(move |sql| {
                Ok(sql.one(DROPPED_BETWEEN, (0, first, 1), |_| Ok(()))?.is_none())
            });
            if none.await? {
                return Ok(());
            }
            let now = self.shared().clock.now();
            self.free(Lane::Work, Need::Recorded, move |tx| settle_dropped_in_tx(tx, first, now))
                .await?;
        }
    }
}
