//! How backends stand: in use, draining, away, removed; and their replicas accordingly.
//!
//! A replica that is neither an intent nor wrong is *good* on a backend in use, *leaving* on one
//! that is being emptied, *away* on one that is absent for long. Changing a backend's duty is one
//! small transaction, which also records in `jobs` that its replicas are still to follow; they do
//! so in paced batches, behind a cursor that outlives a crash.
//!
//! # Invariants
//!
//! - While no job is recorded, every replica of a backend stands as its duty says.
//! - A replica that becomes good after the change stands right from the start, so one walk over
//!   the write ids meets all that are to be changed.

use std::collections::BTreeSet;

use super::Store;
use super::blob::blob_count_in_tx;
use super::error::StoreError;
use super::ledger::Turn;
use super::queue::Lane;
use super::sql::Sql;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Duty;
use crate::model::WriteId;

/// Before a backend's number, the name of the job that lets its replicas follow its duty.
const JOB: &str = "standing:";

/// A backend whose replicas still follow a change of its duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Following {
    pub backend: BackendId,
    pub duty: Duty,
}

impl Store {
    /// Gives a backend another duty; whether it had another. Its replicas follow with
    /// [`Store::standing_follow`]. One that is away and is told to drain drains.
    pub async fn backend_duty(&self, backend: BackendId, duty: Duty) -> Result<bool, StoreError> {
        self.free(Lane::Request, Need::Durable, move |tx| {
            Ok(duty_change_in_tx(tx, backend, duty)?.1)
        })
        .await
    }

    /// Remembers when a backend began to be emptied, and how many bytes it held then.
    pub async fn drain_begin(&self, backend: BackendId, bytes: u64) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Request, Need::Recorded, move |tx| {
            tx.run(
                "INSERT INTO jobs (name, state, due)
                 SELECT 'drain:' || no, ?2, ?3 FROM backends WHERE id = ?1
                 ON CONFLICT (name) DO UPDATE SET state = excluded.state, due = excluded.due",
                (backend.0, bytes.to_be_bytes(), now.0),
            )?;
            Ok(())
        })
        .await
    }

    /// When a backend began to be emptied, and what it held then.
    pub async fn drain_began(
        &self,
        backend: BackendId,
    ) -> Result<Option<(Timestamp, u64)>, StoreError> {
        self.read(move |sql| {
            sql.one(
                "SELECT j.due, j.state FROM backends b JOIN jobs j ON j.name = 'drain:' || b.no
                 WHERE b.id = ?1",
                [backend.0],
                |row| {
                    let bytes: Vec<u8> = row.get(1)?;
                    Ok((Timestamp(row.get(0)?), cursor_read(Some(&bytes)).0))
                },
            )
        })
        .await
    }

    /// Forgets that a backend is, or was, being emptied.
    pub async fn drain_end(&self, backend: BackendId) -> Result<(), StoreError> {
        self.free(Lane::Request, Need::Recorded, move |tx| {
            tx.run(
                "DELETE FROM jobs WHERE name =
                     (SELECT 'drain:' || no FROM backends WHERE id = ?1)",
                [backend.0],
            )?;
            Ok(())
        })
        .await
    }

    /// Remembers since when a backend cannot be used; `None`: it can.
    pub async fn backend_absent(
        &self,
        backend: BackendId,
        since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.free(Lane::Work, Need::Recorded, move |tx| {
            tx.run(
                "UPDATE backends SET absent_since = ?2 WHERE id = ?1",
                (backend.0, since.map(|since| since.0)),
            )?;
            Ok(())
        })
        .await
    }

    /// Backends whose replicas do not all stand as its duty says yet.
    pub async fn standings_following(&self) -> Result<Vec<Following>, StoreError> {
        self.read(|sql| {
            sql.all(
                "SELECT b.id, b.state FROM jobs j JOIN backends b ON j.name = 'standing:' || b.no
                 ORDER BY b.no",
                [],
                |row| Ok(Following { backend: BackendId(row.get(0)?), duty: duty_of(row.get(1)?) }),
            )
        })
        .await
    }

    /// Lets a bounded number of a backend's replicas follow its duty: how many, and whether that
    /// was the last of them.
    pub async fn standing_follow(&self, backend: BackendId) -> Result<(u64, bool), StoreError> {
        let found = self.read(move |sql| batch_in_tx(sql, backend)).await?;
        let Some(batch) = found else { return Ok((0, true)) };
        let now = self.shared().clock.now();
        self.free(Lane::Work, Need::Durable, move |tx| follow_in_tx(tx, &batch, now)).await
    }
}

/// Gives a backend a duty: its number, and whether it had another.
pub(super) fn duty_change_in_tx(
    tx: &mut Tx<'_>,
    backend: BackendId,
    duty: Duty,
) -> Result<(u64, bool), StoreError> {
    let found: Option<(u64, u8)> =
        tx.one("SELECT no, state FROM backends WHERE id = ?1", [backend.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (no, state) = found.ok_or(StoreError::NoSuchBackend)?;
    if duty_of(state) == duty {
        return Ok((no, false));
    }
    tx.run("UPDATE backends SET state = ?2 WHERE no = ?1", (no, duty_code(duty)))?;
    tx.run(
        "INSERT INTO jobs (name, state) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET state = excluded.state",
        (job(no), cursor(WriteId(0))),
    )?;
    tx.run("DELETE FROM jobs WHERE name = 'remove:' || ?1", [no])?;
    tx.marks.short = true;
    tx.marks.leaving = true;
    Ok((no, true))
}

/// The codes of `state` that a replica has which is neither an intent nor wrong.
const SETTLED: &str = "(1, 4, 5)";

/// Replicas that are to follow, as they were found.
struct Batch {
    no: u64,
    duty: Duty,
    /// The job's cursor.
    after: WriteId,
    writes: Vec<WriteId>,
}

/// The next replicas that do not stand as the duty says. It walks over others in between, which
/// a reader may, and the writer should not.
fn batch_in_tx(sql: Sql<'_>, backend: BackendId) -> Result<Option<Batch>, StoreError> {
    let found: Option<(u64, u8)> =
        sql.one("SELECT no, state FROM backends WHERE id = ?1", [backend.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let Some((no, state)) = found else { return Ok(None) };
    let after: Option<Option<Vec<u8>>> =
        sql.one("SELECT state FROM jobs WHERE name = ?1", [job(no)], |row| row.get(0))?;
    let Some(after) = after else { return Ok(None) };
    let duty = duty_of(state);
    let query = format!(
        "SELECT write FROM replicas WHERE write > ?1 AND backend = ?2 AND state IN {SETTLED}
             AND state <> ?3 ORDER BY write LIMIT ?4"
    );
    let after = cursor_read(after.as_deref());
    let writes = sql
        .all(&query, (after.0, no, stands(duty), WORK_ROWS_MAX), |row| Ok(WriteId(row.get(0)?)))?;
    Ok(Some(Batch { no, duty, after, writes }))
}

fn follow_in_tx(tx: &mut Tx<'_>, batch: &Batch, now: Timestamp) -> Result<(u64, bool), StoreError> {
    let &Batch { no, duty, after, .. } = batch;
    let found: Option<(u8, Vec<u8>)> = tx.one(
        "SELECT b.state, j.state FROM backends b JOIN jobs j ON j.name = ?2 WHERE b.no = ?1",
        (no, job(no)),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let Some((state, at)) = found else { return Ok((0, true)) };
    if duty_of(state) != duty || cursor_read(Some(&at)) != after {
        // It has another duty by now, or had one, and its walk began anew.
        return Ok((0, false));
    }
    let Some(last) = batch.writes.last() else {
        tx.run("DELETE FROM jobs WHERE name = ?1", [job(no)])?;
        return Ok((0, true));
    };
    let mut blobs = BTreeSet::new();
    let change = format!(
        "UPDATE replicas SET state = ?2 WHERE write = ?1 AND state IN {SETTLED} RETURNING blob"
    );
    for write in &batch.writes {
        blobs.extend(tx.one(&change, (write.0, stands(duty)), |row| Ok(BlobId(row.get(0)?)))?);
    }
    let mut turn = Turn::begin(tx, now);
    for blob in blobs {
        blob_count_in_tx(tx, &mut turn, blob)?;
    }
    tx.run("UPDATE jobs SET state = ?2 WHERE name = ?1", (job(no), cursor(*last)))?;
    turn.end(tx)?;
    Ok((batch.writes.len() as u64, false))
}

fn job(no: u64) -> String {
    format!("{JOB}{no}")
}

fn cursor(write: WriteId) -> [u8; 8] {
    write.0.to_be_bytes()
}

fn cursor_read(bytes: Option<&[u8]>) -> WriteId {
    WriteId(bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// The code of a replica that is neither an intent nor wrong, on a backend of this duty.
pub(super) fn stands(duty: Duty) -> u8 {
    match duty {
        Duty::InUse => 1,
        Duty::Draining | Duty::Removed => 4,
        Duty::Away => 5,
    }
}

fn duty_code(duty: Duty) -> u8 {
    match duty {
        Duty::InUse => 0,
        Duty::Draining => 1,
        Duty::Away => 2,
        Duty::Removed => 3,
    }
}

/// The table's own check allows no other code.
pub(super) fn duty_of(code: u8) -> Duty {
    match code {
        1 => Duty::Draining,
        2 => Duty::Away,
        3 => Duty::Removed,
        _ => Duty::InUse,
    }
}
