//! Taking a backend out: what only it has, and the end of its rows.
//!
//! A removal is a duty of the backend and a job in the store, so it outlives a crash; who carries it
//! out walks over the backend's replicas and says of each what was seen of the others.
//!
//! # Invariants
//!
//! - A replica of a removed backend goes only while one of those that were just looked at on
//!   backends in use is still good.
//! - What only that backend had stays as a row that says *missing*, and only where its owner has
//!   said so: nothing claims to be there that is not, and nothing that was acknowledged is
//!   forgotten. Its object answers 503 until its owner deletes it, or the backend comes back.
//! - A backend that was removed may be left out of the configuration when it has no other rows.

use std::collections::BTreeSet;

use super::Store;
use super::blob::blob_count_in_tx;
use super::condemned::condemn_in_tx;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Turn;
use super::queue::Lane;
use super::replica::ReplicaRow;
use super::replica::intent_gone_in_tx;
use super::replica::replica_in_tx;
use super::sql::Sql;
use super::standing::duty_change_in_tx;
use super::standing::duty_of;
use super::writer::Need;
use super::writer::Tx;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::Duty;
use crate::model::ReplicaState;
use crate::model::WriteId;

/// What a backend holds, as far as its removal is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Replicas of committed blobs, in any state but *missing*.
    pub replicas: u64,
    pub bytes: u64,
    /// Of those, the ones whose blobs have no good replica where it counts.
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

/// A backend that is being removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    pub backend: BackendId,
    pub leave: Leave,
    /// What only it has becomes missing; otherwise it stays, and the removal does not end.
    pub even_sole: bool,
}

/// What was seen of the other replicas of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Others {
    /// These good ones were looked at a moment ago.
    Seen(Vec<WriteId>),
    /// There is none.
    None,
}

impl Store {
    /// Walks over all replicas of a backend on a reader. Good replicas count on `counting` alone.
    pub async fn backend_holdings(
        &self,
        backend: BackendId,
        counting: &[BackendId],
    ) -> Result<Holdings, StoreError> {
        let counting: Vec<String> = counting.iter().map(|id| id.0.to_string()).collect();
        let query = HOLDINGS.replace("COUNTING", &counting.join(", "));
        self.read(move |sql| {
            let no = number_in_tx(sql, backend)?;
            let condemned: Option<u64> =
                sql.one("SELECT count(*) FROM condemned WHERE backend = ?1", [no], |r| r.get(0))?;
            let found = sql.one(&query, [no], |row| {
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

    /// The backend is out of use from here on, and is to be emptied of its rows. May be repeated.
    pub async fn removal_begin(&self, removal: Removal) -> Result<(), StoreError> {
        self.free(Lane::Request, Need::Durable, move |tx| {
            let no = duty_change_in_tx(tx, removal.backend, Duty::Removed)?.0;
            let code = [u8::from(removal.leave == Leave::Nothing), u8::from(removal.even_sole)];
            tx.run(
                "INSERT INTO jobs (name, state) VALUES ('remove:' || ?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET state = excluded.state",
                (no, code),
            )?;
            Ok(())
        })
        .await
    }

    /// Removals that are not at their end.
    pub async fn removals(&self) -> Result<Vec<Removal>, StoreError> {
        self.read(|sql| {
            sql.all(
                "SELECT b.id, j.state FROM backends b JOIN jobs j ON j.name = 'remove:' || b.no
                 WHERE b.state = 3 ORDER BY b.no",
                [],
                |row| {
                    let code: [u8; 2] = row.get(1)?;
                    let leave = if code[0] == 1 { Leave::Nothing } else { Leave::Bytes };
                    let backend = BackendId(row.get(0)?);
                    Ok(Removal { backend, leave, even_sole: code[1] == 1 })
                },
            )
        })
        .await
    }

    /// Replicas on `backend` that are not *missing*, with their blobs, in the order of write ids.
    pub async fn backend_replicas(
        &self,
        backend: BackendId,
        after: WriteId,
        max: usize,
    ) -> Result<Vec<(WriteId, BlobId)>, StoreError> {
        self.read(move |sql| {
            let no = number_in_tx(sql, backend)?;
            sql.all(
                "SELECT write, blob FROM replicas WHERE write > ?1 AND backend = ?2 AND state <> 2
                 ORDER BY write LIMIT ?3",
                (after.0, no, max),
                |row| Ok((WriteId(row.get(0)?), BlobId(row.get(1)?))),
            )
        })
        .await
    }

    /// Lets go of replicas of a backend that is being removed; how many stay all the same: what
    /// this run is writing, and what only it has unless the removal may lose that.
    pub async fn replicas_let_go(
        &self,
        removal: Removal,
        replicas: Vec<(WriteId, Others)>,
    ) -> Result<u64, StoreError> {
        let now = self.shared().clock.now();
        let first = self.shared().first_id;
        let mut stay = 0;
        for some in replicas.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            stay += self
                .free(Lane::Work, Need::Durable, move |tx| {
                    let mut turn = Turn::begin(tx, now);
                    let stay = let_go_in_tx(tx, &mut turn, removal, &some, first)?;
                    turn.end(tx)?;
                    Ok(stay)
                })
                .await?;
        }
        Ok(stay)
    }

    /// The removal is at its end: condemned paths that nobody will delete any more are forgotten,
    /// all of them or, where bytes are to be deleted, those that were only borrowed.
    pub async fn removal_end(&self, removal: Removal) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        let all = removal.leave == Leave::Bytes;
        loop {
            let forgotten = self
                .free(Lane::Work, Need::Durable, move |tx| {
                    let no = number_in_tx(**tx, removal.backend)?;
                    let rows: Vec<u64> = tx.all(
                        "DELETE FROM condemned WHERE id IN
                             (SELECT id FROM condemned WHERE backend = ?1 AND (?3 OR kept = 1)
                                 LIMIT ?2)
                         RETURNING size",
                        (no, WORK_ROWS_MAX, all),
                        |row| row.get(0),
                    )?;
                    let mut turn = Turn::begin(tx, now);
                    for size in &rows {
                        turn.forget(no, *size, Column::Orphan, 1);
                    }
                    turn.end(tx)?;
                    if rows.len() < WORK_ROWS_MAX {
                        let jobs =
                            "DELETE FROM jobs WHERE name IN ('remove:' || ?1, 'drain:' || ?1)";
                        tx.run(jobs, [no])?;
                    }
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
             (SELECT 1 FROM replicas o CROSS JOIN backends k ON k.no = o.backend
                 WHERE o.blob = r.blob AND o.state = 1 AND o.backend <> r.backend
                     AND k.id IN (COUNTING)) AS sole
         FROM replicas r CROSS JOIN blobs b ON b.id = r.blob
         WHERE r.backend = ?1 AND r.state NOT IN (0, 2) AND b.refs > 0)";

fn number_in_tx(sql: Sql<'_>, backend: BackendId) -> Result<u64, StoreError> {
    let no = sql.one("SELECT no FROM backends WHERE id = ?1", [backend.0], |row| row.get(0))?;
    no.ok_or(StoreError::NoSuchBackend)
}

fn let_go_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    removal: Removal,
    replicas: &[(WriteId, Others)],
    first: u64,
) -> Result<u64, StoreError> {
    let found: Option<(u64, u8)> =
        tx.one("SELECT no, state FROM backends WHERE id = ?1", [removal.backend.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (no, duty) = found.ok_or(StoreError::NoSuchBackend)?;
    if duty_of(duty) != Duty::Removed {
        // It was taken back meanwhile.
        return Err(StoreError::Changed);
    }
    let mut blobs = BTreeSet::new();
    let mut stay = 0;
    for (write, others) in replicas {
        let Some(row) = replica_in_tx(**tx, *write)?.filter(|row| row.backend == no) else {
            continue;
        };
        let is_intent = row.state == ReplicaState::Writing;
        if is_intent && write.0 >= first {
            stay += 1;
        } else if is_intent || is_covered_in_tx(**tx, &row, others)? {
            row_let_go_in_tx(tx, turn, &row, removal.leave)?;
        } else if removal.even_sole {
            tx.run("UPDATE replicas SET state = 2, dead = write WHERE write = ?1", [write.0])?;
        } else {
            stay += 1;
        }
        blobs.insert(row.blob);
    }
    for blob in blobs {
        blob_count_in_tx(tx, turn, blob)?;
    }
    Ok(stay)
}

fn row_let_go_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    row: &ReplicaRow,
    leave: Leave,
) -> Result<(), StoreError> {
    let is_intent = row.state == ReplicaState::Writing;
    if leave == Leave::Nothing && !row.is_borrowed {
        condemn_in_tx(tx, turn, row, CondemnReason::Drained, is_intent)?;
    } else {
        let from = if is_intent { Column::Reserved } else { Column::Used };
        turn.forget(row.backend, row.size, from, 1);
    }
    tx.run("DELETE FROM replicas WHERE write = ?1", [row.write.0])?;
    match is_intent {
        true => intent_gone_in_tx(tx, turn.now, row),
        false => Ok(()),
    }
}

/// Whether one of those that were looked at is still good, on a backend in use.
fn is_covered_in_tx(sql: Sql<'_>, row: &ReplicaRow, others: &Others) -> Result<bool, StoreError> {
    let Others::Seen(seen) = others else { return Ok(false) };
    for write in seen.iter().filter(|write| **write != row.write) {
        let found = sql.one(
            "SELECT 1 FROM replicas r CROSS JOIN backends k ON k.no = r.backend
             WHERE r.write = ?1 AND r.blob = ?2 AND r.state = 1 AND k.state = 0",
            (write.0, row.blob.0),
            |_| Ok(()),
        )?;
        if found.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
