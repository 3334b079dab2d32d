//! Condemned paths as the operator sees them: those that were given up after too many failures
//! (parked), tried again or forgotten when he says so.
//!
//! # Invariant
//!
//! What was only borrowed is `kept`: it is never deleted, and none of these touch it.

use rusqlite::Params;

use super::Store;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Turn;
use super::queue::Lane;
use super::sql::Sql;
use super::writer::Need;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::CondemnReason;
use crate::model::WriteId;

/// A condemned path whose bytes are still there, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub id: WriteId,
    pub backend: BackendId,
    pub path: String,
    pub size: u64,
    pub reason: CondemnReason,
    /// When it is tried next; `None`: it is parked.
    pub due: Option<Timestamp>,
    pub attempts: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

impl Store {
    /// Parked paths with ids above `after`, at most `max`, in the order of ids.
    pub async fn condemned_parked(
        &self,
        after: WriteId,
        max: usize,
    ) -> Result<Vec<Leftover>, StoreError> {
        self.read(move |sql| leftovers_in_tx(sql, PARKED, (after.0, max))).await
    }

    /// Like [`Store::condemned_parked`], with those that cleanup has still to do.
    pub async fn condemned_all(
        &self,
        after: WriteId,
        max: usize,
    ) -> Result<Vec<Leftover>, StoreError> {
        self.read(move |sql| leftovers_in_tx(sql, ALL, (after.0, max))).await
    }

    /// Those of `ids` that are parked are tried again, as if they had never failed: how many.
    pub async fn condemned_retry(&self, ids: Vec<WriteId>) -> Result<usize, StoreError> {
        let now = self.shared().clock.now();
        let mut count = 0;
        for some in ids.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            count += self
                .free(Lane::Work, Need::Durable, move |tx| {
                    let mut count = 0;
                    for id in &some {
                        count += tx.run(
                            "UPDATE condemned SET due = ?2, attempts = 0, error = NULL
                             WHERE id = ?1 AND due IS NULL AND kept = 0",
                            (id.0, now.0),
                        )?;
                    }
                    tx.marks.condemned |= count > 0;
                    Ok(count)
                })
                .await?;
        }
        Ok(count)
    }

    /// Those of `ids` that are parked are forgotten, and their bytes are not deleted: how many.
    /// Orphan bytes fall in the same transaction.
    pub async fn condemned_forget(&self, ids: Vec<WriteId>) -> Result<usize, StoreError> {
        let now = self.shared().clock.now();
        let mut count = 0;
        for some in ids.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            count += self
                .free(Lane::Work, Need::Durable, move |tx| {
                    let mut turn = Turn::begin(tx, now);
                    let mut count = 0;
                    for id in &some {
                        let forgotten: Option<(u64, u64)> = tx.one(
                            "DELETE FROM condemned WHERE id = ?1 AND due IS NULL AND kept = 0
                             RETURNING backend, size",
                            [id.0],
                            |row| Ok((row.get(0)?, row.get(1)?)),
                        )?;
                        if let Some((backend, size)) = forgotten {
                            turn.forget(backend, size, Column::Orphan, 1);
                            count += 1;
                        }
                    }
                    turn.end(tx)?;
                    Ok(count)
                })
                .await?;
        }
        Ok(count)
    }
}

macro_rules! select_leftovers {
    ($condition:literal) => {
        concat!(
            "SELECT c.id, b.id, c.path, c.size, c.reason, c.due, c.attempts, c.error
             FROM condemned c CROSS JOIN backends b ON b.no = c.backend
             WHERE c.id > ?1 AND ",
            $condition,
            " ORDER BY c.id LIMIT ?2"
        )
    };
}

pub(super) const PARKED: &str = select_leftovers!("c.due IS NULL AND c.kept = 0");
pub(super) const ALL: &str = select_leftovers!("c.kept = 0");

fn leftovers_in_tx<P: Params>(
    sql: Sql<'_>,
    query: &str,
    params: P,
) -> Result<Vec<Leftover>, StoreError> {
    sql.all(query, params, |row| {
        let code: usize = row.get(4)?;
        // No other code is ever written.
        let reason = CondemnReason::ALL.get(code).copied().unwrap_or(CondemnReason::Debris);
        Ok(Leftover {
            id: WriteId(row.get(0)?),
            backend: BackendId(row.get(1)?),
            path: row.get(2)?,
            size: row.get(3)?,
            reason,
            due: row.get::<_, Option<i64>>(5)?.map(Timestamp),
            attempts: row.get(6)?,
            error: row.get(7)?,
        })
    })
}
