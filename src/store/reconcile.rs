//! What follows from a survey: replicas that are gone, damaged or back, debris, and paths that need
//! not be remembered any more.
//!
//! # Invariants
//!
//! - Each row is looked at again in the transaction that changes it: a finding is older than it.
//! - Nothing becomes good here. A replica that is back is read by the scrubber before it counts;
//!   only one whose blob has no hash, which nothing could be compared with, is taken at its word.
//! - Debris is deleted no sooner than [`DEBRIS_KEPT`] after it was found: a store that was brought
//!   back from a copy does not know all its own files yet.

use std::time::Duration;

use super::Store;
use super::blob::blob_count_in_tx;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Turn;
use super::queue::Lane;
use super::replica::ReplicaRow;
use super::replica::mark_in_tx;
use super::replica::replica_in_tx;
use super::replica::state_code;
use super::sql::Sql;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::CondemnReason;
use crate::model::ReplicaState;
use crate::model::WriteId;

/// How long a file of Larder's form that no row knows stays where it is.
const DEBRIS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Before a backend's number, the name of the job that says when it was last surveyed.
const JOB: &str = "reconcile:";

/// What a survey, and a second look, found of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    Missing,
    Damaged,
    /// A file of its length is there again.
    Back,
}

/// A file of Larder's own form that no row knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debris {
    pub write: WriteId,
    pub path: String,
    pub size: u64,
}

impl Store {
    /// Records findings, in bounded transactions: how many still held.
    pub async fn replicas_reconcile(
        &self,
        findings: Vec<(WriteId, Reconciled)>,
    ) -> Result<u64, StoreError> {
        let now = self.shared().clock.now();
        let mut held = 0;
        for some in findings.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            held += self
                .write(Lane::Work, Need::Durable, move |tx| {
                    let mut turn = Turn::begin(tx, now);
                    let mut held = 0;
                    for (write, what) in some {
                        held += u64::from(reconcile_in_tx(tx, &mut turn, write, what)?);
                    }
                    turn.end(tx)?;
                    Ok(held)
                })
                .await?;
        }
        Ok(held)
    }

    /// Condemns debris, to be deleted after a while; how much of it was that still.
    pub async fn debris_condemn(
        &self,
        backend: BackendId,
        debris: Vec<Debris>,
    ) -> Result<u64, StoreError> {
        let now = self.shared().clock.now();
        let mut condemned = 0;
        for some in debris.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            condemned += self
                .write(Lane::Work, Need::Durable, move |tx| {
                    let no = backend_number_in_tx(**tx, backend)?;
                    let mut turn = Turn::begin(tx, now);
                    let mut condemned = 0;
                    for debris in &some {
                        condemned += debris_condemn_in_tx(tx, &mut turn, no, debris)?;
                    }
                    turn.end(tx)?;
                    Ok(condemned)
                })
                .await?;
        }
        Ok(condemned)
    }

    /// Forgets kept paths whose files their owner took away.
    pub async fn kept_forget(&self, ids: Vec<u64>) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        for some in ids.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            self.free(Lane::Work, Need::Durable, move |tx| {
                let mut turn = Turn::begin(tx, now);
                for id in &some {
                    kept_forget_in_tx(tx, &mut turn, *id)?;
                }
                turn.end(tx)
            })
            .await?;
        }
        Ok(())
    }

    /// When each backend was last surveyed to its end.
    pub async fn surveys_done(&self) -> Result<Vec<(BackendId, Timestamp)>, StoreError> {
        self.read(|sql| {
            sql.all(
                "SELECT b.id, j.due FROM backends b JOIN jobs j ON j.name = 'reconcile:' || b.no",
                [],
                |row| Ok((BackendId(row.get(0)?), Timestamp(row.get(1)?))),
            )
        })
        .await
    }

    /// Remembers that a backend was surveyed to its end.
    pub async fn survey_done(&self, backend: BackendId) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Work, Need::Recorded, move |tx| {
            let no = backend_number_in_tx(**tx, backend)?;
            tx.run(
                "INSERT INTO jobs (name, due) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET due = excluded.due",
                (format!("{JOB}{no}"), now.0),
            )?;
            Ok(())
        })
        .await
    }
}

pub(super) fn backend_number_in_tx(sql: Sql<'_>, backend: BackendId) -> Result<u64, StoreError> {
    let no = sql.one("SELECT no FROM backends WHERE id = ?1", [backend.0], |row| row.get(0))?;
    no.ok_or(StoreError::NoSuchBackend)
}

/// The code of a replica of `backend` whose bytes are there and that counts as far as its backend
/// does.
pub(super) fn standing_in_tx(sql: Sql<'_>, backend: u64) -> Result<u8, StoreError> {
    let code = sql.one(
        "SELECT CASE state WHEN 0 THEN 1 WHEN 2 THEN 5 ELSE 4 END FROM backends WHERE no = ?1",
        [backend],
        |row| row.get(0),
    )?;
    code.ok_or(StoreError::NoSuchBackend)
}

fn reconcile_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    write: WriteId,
    what: Reconciled,
) -> Result<bool, StoreError> {
    let Some(row) = replica_in_tx(**tx, write)? else { return Ok(false) };
    let is_wrong = matches!(row.state, ReplicaState::Missing | ReplicaState::Damaged);
    if row.state == ReplicaState::Writing {
        return Ok(false);
    }
    if what == Reconciled::Damaged && row.is_borrowed && !is_wrong {
        mark_in_tx(tx, turn, &row, ReplicaState::Damaged)?;
        return Ok(true);
    }
    let (code, dead) = match what {
        Reconciled::Missing if !is_wrong => (state_code(ReplicaState::Missing), write.0),
        Reconciled::Damaged if !is_wrong => (state_code(ReplicaState::Damaged), write.0),
        Reconciled::Back if row.state == ReplicaState::Missing => match back_in_tx(**tx, &row)? {
            Some(code) => (code, 0),
            None => return Ok(false),
        },
        _ => return Ok(false),
    };
    let since = (what == Reconciled::Back).then_some(turn.now.0);
    tx.run(
        "UPDATE replicas SET state = ?2, dead = ?3, checked = coalesce(?4, checked)
         WHERE write = ?1",
        (write.0, code, dead, since),
    )?;
    tx.marks.back |= what == Reconciled::Back;
    blob_count_in_tx(tx, turn, row.blob)?;
    Ok(true)
}

/// The code that a replica gets whose file is there again; `None` while another is in its place.
fn back_in_tx(sql: Sql<'_>, row: &ReplicaRow) -> Result<Option<u8>, StoreError> {
    let found = sql.one(
        "SELECT hash = x'', EXISTS (SELECT 1 FROM replicas
             WHERE blob = b.id AND backend = ?2 AND dead = 0) FROM blobs b WHERE b.id = ?1",
        (row.blob.0, row.backend),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    match found {
        Some((_, true)) | None => Ok(None),
        Some((true, false)) => Ok(Some(standing_in_tx(sql, row.backend)?)),
        Some((false, false)) => Ok(Some(state_code(ReplicaState::Unreadable))),
    }
}

fn debris_condemn_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    no: u64,
    debris: &Debris,
) -> Result<u64, StoreError> {
    let done = tx.run(
        "INSERT INTO condemned (id, backend, path, size, reason, seq, due, again)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, 0
         WHERE NOT EXISTS (SELECT 1 FROM replicas WHERE write = ?1)
             AND NOT EXISTS (SELECT 1 FROM condemned WHERE id = ?1)
             AND NOT EXISTS (SELECT 1 FROM replicas WHERE backend = ?2 AND own = ?3)",
        (
            debris.write.0,
            no,
            &debris.path,
            debris.size,
            CondemnReason::Debris as u8,
            turn.seq,
            turn.now.plus(DEBRIS_KEPT).0,
        ),
    )?;
    if done == 1 {
        turn.find(no, debris.size, Column::Orphan);
        tx.marks.condemned = true;
    }
    Ok(done as u64)
}

/// Takes a kept path out of the queue.
pub(super) fn kept_forget_in_tx(tx: &Tx<'_>, turn: &mut Turn, id: u64) -> Result<(), StoreError> {
    let gone: Option<(u64, u64)> = tx.one(
        "DELETE FROM condemned WHERE id = ?1 AND kept = 1 RETURNING backend, size",
        [id],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if let Some((backend, size)) = gone {
        turn.forget(backend, size, Column::Orphan, 1);
    }
    Ok(())
}
