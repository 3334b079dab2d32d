//! Replicas: where the bytes of a blob lie, or are about to.
//!
//! An intent is a replica in the state *writing*. A blob has at most one living replica (writing,
//! good or leaving) on a backend; a missing or damaged one may stand beside it until it is
//! condemned.

use rusqlite::Row;

use super::Store;
use super::blob::blob_count_in_tx;
use super::blob::blob_in_tx;
use super::blob::stem_whole;
use super::condemned::condemn_in_tx;
use super::error::StoreError;
use super::ledger::Column;
use super::ledger::Ledger;
use super::ledger::LedgerRow;
use super::ledger::Turn;
use super::queue::Lane;
use super::repair::blob_look_again_in_tx;
use super::sql::Sql;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::ReplicaState;
use crate::model::WriteId;
use crate::model::path::PathForm;
use crate::model::path::path;

/// Where one replica shall go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub backend: BackendId,
    pub form: PathForm,
}

/// Chooses the backends of one blob of `size` bytes: a pure decision on the ledger as the
/// transaction sees it, earlier blobs of the same call included, given the backends that have the
/// blob already. `None`: there is no room.
pub type Choose = Box<dyn FnMut(&[LedgerRow], u64, &Holders) -> Option<Vec<Target>> + Send>;

/// The backends that have a living replica of a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// In any living state: none of these can take another.
    pub living: Vec<BackendId>,
    /// Good or on its way: labels and devices of a further one must differ from these.
    pub counting: Vec<BackendId>,
}

/// When one more replica is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyWhen {
    /// Whatever the blob has.
    Always,
    /// While good ones and those that this run is writing are fewer than wished.
    Short,
}

/// The promise to write one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub write: WriteId,
    pub backend: BackendId,
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedWrite {
    pub write: WriteId,
    /// Whether bytes may still appear: the path is then deleted a second time an hour later.
    pub unknown: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub write: WriteId,
    pub backend: BackendId,
    pub path: String,
    pub state: ReplicaState,
    /// It was imported and is its owner's: it is never deleted.
    pub is_borrowed: bool,
}

impl Store {
    /// One more intent for a blob, committed or not. `NoRoom` when `choose` gives none; it gives
    /// one. `Superseded` when the blob is gone, `Enough` when it has all that `when` asks for.
    pub async fn replica_register(
        &self,
        blob: BlobId,
        when: CopyWhen,
        mut choose: Choose,
    ) -> Result<Intent, StoreError> {
        let first = self.shared().first_id;
        // Only work asks for no more than what is missing.
        let lane = if when == CopyWhen::Short { Lane::Work } else { Lane::Request };
        self.write(lane, Need::Recorded, move |tx| {
            let row = blob_in_tx(**tx, blob)?.ok_or(StoreError::Superseded)?;
            let (holders, coming) = holders_in_tx(**tx, blob, first)?;
            if when == CopyWhen::Short && coming >= row.wished {
                return Err(StoreError::Enough);
            }
            let mut ledger = Ledger::read_in_tx(**tx)?;
            let no_room = StoreError::NoRoom { size: row.size };
            let Some(targets) = choose(&ledger.rows, row.size, &holders) else {
                return Err(no_room);
            };
            let Some(target) = targets.into_iter().find(|t| !holders.living.contains(&t.backend))
            else {
                return Err(no_room);
            };
            let intent = intent_in_tx(tx, &mut ledger, blob, (row.size, &row.stem), target)?;
            ledger.write_in_tx(**tx)?;
            Ok(intent)
        })
        .await
    }

    /// The intent's bytes are durable and verified: it becomes a good replica of a blob that was
    /// committed before. Repeating it changes nothing.
    pub async fn replica_commit(&self, write: WriteId) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Request, Need::Durable, move |tx| {
            let row = replica_in_tx(**tx, write)?.ok_or(StoreError::Superseded)?;
            match row.state {
                ReplicaState::Writing => (),
                ReplicaState::Good | ReplicaState::Leaving | ReplicaState::Away => return Ok(()),
                _ => return Err(StoreError::Superseded),
            }
            if !row.is_committed {
                return Err(StoreError::broken("the blob of this replica is not committed yet"));
            }
            let mut turn = Turn::begin(tx, now);
            good_in_tx(tx, &mut turn, &row)?;
            blob_count_in_tx(tx, &mut turn, row.blob)?;
            turn.end(tx)
        })
        .await
    }

    /// The intent is given up after its writer stopped: its path is condemned.
    pub async fn replica_abandon(&self, write: FailedWrite) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.free(Lane::Request, Need::Durable, move |tx| {
            let found = replica_in_tx(**tx, write.write)?;
            let Some(row) = found.filter(|row| row.state == ReplicaState::Writing) else {
                return Ok(());
            };
            let mut turn = Turn::begin(tx, now);
            intent_condemn_in_tx(tx, &mut turn, &row, write.unknown)?;
            turn.end(tx)
        })
        .await
    }

    /// A good replica was found missing or damaged, or one of those is good after all.
    /// `Superseded` when there is no such replica, or it is an intent; `Changed` when the blob
    /// has got another living replica on that backend.
    pub async fn replica_mark(
        &self,
        write: WriteId,
        state: ReplicaState,
    ) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        self.write(Lane::Request, Need::Durable, move |tx| {
            let row = replica_in_tx(**tx, write)?.ok_or(StoreError::Superseded)?;
            let mut turn = Turn::begin(tx, now);
            mark_in_tx(tx, &mut turn, &row, state)?;
            turn.end(tx)
        })
        .await
    }

    /// The replicas of a blob now, for a read whose known ones all failed, and for repair.
    pub async fn blob_replicas(&self, blob: BlobId) -> Result<Vec<Replica>, StoreError> {
        self.read(move |sql| all_replicas_in_tx(sql, blob)).await
    }
}

pub(super) fn all_replicas_in_tx(sql: Sql<'_>, blob: BlobId) -> Result<Vec<Replica>, StoreError> {
    let rows: Vec<(ReplicaRow, u64)> = sql.all(
        "SELECT r.write, r.blob, r.backend, r.state, r.form, r.own,
             coalesce(r.bytes, b.size), b.stem, b.refs > 0, v.key,
             r.borrowed, k.id
         FROM replicas r CROSS JOIN blobs b ON b.id = r.blob
         CROSS JOIN backends k ON k.no = r.backend
         LEFT JOIN versions v ON v.seq = b.born
         WHERE r.blob = ?1",
        [blob.0],
        |row| Ok((ReplicaRow::read(row)?, row.get(11)?)),
    )?;
    let replica = |(row, backend): (ReplicaRow, u64)| Replica {
        write: row.write,
        backend: BackendId(backend),
        path: row.path(),
        state: row.state,
        is_borrowed: row.is_borrowed,
    };
    Ok(rows.into_iter().map(replica).collect())
}

/// The backends that have a living replica, and how many replicas are good or being written by
/// this run, whose first id is `first`: what an earlier run left will not become good by itself.
fn holders_in_tx(sql: Sql<'_>, blob: BlobId, first: u64) -> Result<(Holders, i64), StoreError> {
    let rows: Vec<(BackendId, u8, u64)> = sql.all(
        "SELECT b.id, r.state, r.write FROM replicas r CROSS JOIN backends b ON b.no = r.backend
         WHERE r.blob = ?1 AND r.dead = 0",
        [blob.0],
        |row| Ok((BackendId(row.get(0)?), row.get(1)?, row.get(2)?)),
    )?;
    let mut holders = Holders::default();
    let mut coming = 0;
    for (backend, state, write) in rows {
        holders.living.push(backend);
        match state_of(state) {
            ReplicaState::Good => coming += 1,
            ReplicaState::Writing if write >= first => coming += 1,
            ReplicaState::Writing => (),
            _ => continue,
        }
        holders.counting.push(backend);
    }
    Ok((holders, coming))
}

/// Gives a replica that is no intent another state and counts its blob anew. Where it fails it has
/// changed nothing: `Superseded` for an intent, `Changed` when the replica would live again and its
/// backend has another living one of the blob.
///
/// A borrowed replica is never damaged: its owner may have changed it. It is unreadable, which does
/// not count either, until it was looked at.
pub(super) fn mark_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    row: &ReplicaRow,
    state: ReplicaState,
) -> Result<(), StoreError> {
    if row.state == ReplicaState::Writing || state == ReplicaState::Writing {
        return Err(StoreError::Superseded);
    }
    let is_doubted =
        row.is_borrowed && matches!(state, ReplicaState::Damaged | ReplicaState::Unreadable);
    let state = if is_doubted { ReplicaState::Unreadable } else { state };
    let dead = if is_living(state) { 0 } else { row.write.0 };
    let other: Option<u64> = tx.one(
        "SELECT write FROM replicas
         WHERE blob = ?1 AND backend = ?2 AND dead = 0 AND write <> ?3",
        (row.blob.0, row.backend, row.write.0),
        |row| row.get(0),
    )?;
    if dead == 0 && other.is_some() {
        return Err(StoreError::Changed);
    }
    tx.marks.doubted.extend(is_doubted.then_some(row.write));
    // Since when it cannot be read is remembered from the first time on.
    let since = (state == ReplicaState::Unreadable && row.state != state).then_some(turn.now.0);
    tx.run(
        "UPDATE replicas SET state = ?2, dead = ?3, checked = coalesce(?4, checked)
         WHERE write = ?1",
        (row.write.0, state_code(state), dead, since),
    )?;
    blob_count_in_tx(tx, turn, row.blob)
}

/// What an intent became when its bytes were there.
pub(super) struct Settled {
    pub(super) backend: u64,
    /// It is good, as on a backend in use, and not leaving or away.
    pub(super) counts: bool,
}

/// Makes an intent of `blob` a replica; `None` when there is no such intent.
pub(super) fn settled_state_in_tx(
    tx: &mut Tx<'_>,
    write: WriteId,
    blob: BlobId,
) -> Result<Option<Settled>, StoreError> {
    let settled = tx.one(
        "UPDATE replicas SET state =
             (SELECT CASE b.state WHEN 0 THEN 1 WHEN 2 THEN 5 ELSE 4 END FROM backends b
                 WHERE b.no = backend)
         WHERE write = ?1 AND blob = ?2 AND state = 0
         RETURNING backend, state",
        (write.0, blob.0),
        |row| Ok((row.get(0)?, state_of(row.get(1)?))),
    )?;
    let Some((backend, state)) = settled else { return Ok(None) };
    tx.marks.leaving |= state == ReplicaState::Leaving;
    Ok(Some(Settled { backend, counts: state == ReplicaState::Good }))
}

/// The bytes of the intent `row` are there.
pub(super) fn good_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    row: &ReplicaRow,
) -> Result<(), StoreError> {
    let settled = settled_state_in_tx(tx, row.write, row.blob)?;
    let settled = settled.ok_or(StoreError::Superseded)?;
    turn.shift(settled.backend, row.size, Column::Reserved, Column::Used);
    Ok(())
}

/// Condemns a replica and takes its row away.
pub(super) fn replica_condemn_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    row: &ReplicaRow,
    reason: CondemnReason,
    is_again: bool,
) -> Result<(), StoreError> {
    condemn_in_tx(tx, turn, row, reason, is_again)?;
    tx.run("DELETE FROM replicas WHERE write = ?1", [row.write.0])?;
    Ok(())
}

/// A replica with what its path and its place in the ledger need.
#[derive(Clone, Debug)]
pub(super) struct ReplicaRow {
    pub(super) write: WriteId,
    pub(super) blob: BlobId,
    /// The number that stands for the backend in the tables.
    pub(super) backend: u64,
    pub(super) state: ReplicaState,
    form: PathForm,
    pub(super) size: u64,
    stem: String,
    pub(super) is_committed: bool,
    pub(super) is_borrowed: bool,
    /// Set on what was imported: what `borrowed` is, or 0 once it is Larder's own.
    pub(super) stamp: Option<i64>,
}

/// The columns that [`ReplicaRow::read`] reads, to be completed with a condition.
macro_rules! select_replicas {
    ($condition:literal) => {
        concat!(
            "SELECT r.write, r.blob, r.backend, r.state, r.form, r.own,
                 coalesce(r.bytes, b.size), b.stem, b.refs > 0, v.key, r.borrowed
             FROM replicas r CROSS JOIN blobs b ON b.id = r.blob
             LEFT JOIN versions v ON v.seq = b.born WHERE ",
            $condition
        )
    };
}

#[cfg(test)]
pub(super) const EVERY_ONE: &str = select_replicas!("1 ORDER BY r.write");

pub(super) const WRITING_BETWEEN: &str =
    select_replicas!("r.state = 0 AND r.write >= ?1 AND r.write < ?2 ORDER BY r.write LIMIT ?3");

impl ReplicaRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<ReplicaRow> {
        let (form, borrowed) = (form_of(row.get(4)?, row.get(5)?), row.get::<_, Option<i64>>(10)?);
        let is_imported = matches!(form, PathForm::Own(_));
        Ok(ReplicaRow {
            write: WriteId(row.get(0)?),
            blob: BlobId(row.get(1)?),
            backend: row.get(2)?,
            state: state_of(row.get(3)?),
            form,
            size: row.get(6)?,
            stem: stem_whole(row.get_ref(7)?.as_str()?, row.get_ref(9)?.as_blob_or_null()?),
            is_committed: row.get(8)?,
            is_borrowed: borrowed.is_some(),
            stamp: is_imported.then_some(borrowed.unwrap_or(0)),
        })
    }

    pub(super) fn path(&self) -> String {
        path(&self.form, &self.stem, self.write)
    }
}

pub(super) fn replica_in_tx(
    sql: Sql<'_>,
    write: WriteId,
) -> Result<Option<ReplicaRow>, StoreError> {
    sql.one(select_replicas!("r.write = ?1"), [write.0], ReplicaRow::read)
}

pub(super) fn replicas_in_tx(sql: Sql<'_>, blob: BlobId) -> Result<Vec<ReplicaRow>, StoreError> {
    sql.all(select_replicas!("r.blob = ?1"), [blob.0], ReplicaRow::read)
}

/// Records an intent. The caller writes the ledger.
pub(super) fn intent_in_tx(
    tx: &Tx<'_>,
    ledger: &mut Ledger,
    blob: BlobId,
    (size, stem): (u64, &str),
    target: Target,
) -> Result<Intent, StoreError> {
    let no = ledger.reserve(target.backend, size).ok_or(StoreError::NoRoom { size })?;
    let write = WriteId(tx.ids.next());
    let (form, own) = form_code(&target.form);
    tx.run(
        "INSERT INTO replicas (write, blob, backend, dead, state, form, own)
         VALUES (?1, ?2, ?3, 0, 0, ?4, ?5)",
        (write.0, blob.0, no, form, own),
    )?;
    Ok(Intent { write, backend: target.backend, path: path(&target.form, stem, write) })
}

/// Condemns one intent and keeps its blob.
pub(super) fn intent_condemn_in_tx(
    tx: &mut Tx<'_>,
    turn: &mut Turn,
    row: &ReplicaRow,
    is_again: bool,
) -> Result<(), StoreError> {
    replica_condemn_in_tx(tx, turn, row, CondemnReason::Abandoned, is_again)?;
    intent_gone_in_tx(tx, turn.now, row)
}

/// After the row of an intent was taken away. A blob that is committed may have found no target only
/// because of that intent, and no change of the fleet tells that it is gone. One that is not is
/// marked if that was its last: only the mark tells a later run that it is to be dropped.
pub(super) fn intent_gone_in_tx(
    tx: &mut Tx<'_>,
    now: Timestamp,
    row: &ReplicaRow,
) -> Result<(), StoreError> {
    if row.is_committed {
        tx.marks.short |= blob_look_again_in_tx(**tx, row.blob, now)?;
        return Ok(());
    }
    tx.run(
        "UPDATE blobs SET due = -1
         WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM replicas WHERE blob = ?1)",
        [row.blob.0],
    )?;
    Ok(())
}

fn is_living(state: ReplicaState) -> bool {
    match state {
        ReplicaState::Missing | ReplicaState::Damaged => false,
        ReplicaState::Writing
        | ReplicaState::Good
        | ReplicaState::Leaving
        | ReplicaState::Away
        | ReplicaState::Unreadable => true,
    }
}

pub(super) fn state_code(state: ReplicaState) -> u8 {
    match state {
        ReplicaState::Writing => 0,
        ReplicaState::Good => 1,
        ReplicaState::Missing => 2,
        ReplicaState::Damaged => 3,
        ReplicaState::Leaving => 4,
        ReplicaState::Away => 5,
        ReplicaState::Unreadable => 6,
    }
}

/// The table's own check allows no other code; one that cannot be is not read from.
pub(super) fn state_of(code: u8) -> ReplicaState {
    match code {
        0 => ReplicaState::Writing,
        1 => ReplicaState::Good,
        2 => ReplicaState::Missing,
        4 => ReplicaState::Leaving,
        5 => ReplicaState::Away,
        6 => ReplicaState::Unreadable,
        _ => ReplicaState::Damaged,
    }
}

fn form_code(form: &PathForm) -> (u8, Option<&str>) {
    match form {
        PathForm::Opaque => (0, None),
        PathForm::Readable => (1, None),
        PathForm::Own(own) => (2, Some(own)),
    }
}

pub(super) fn form_of(code: u8, own: Option<String>) -> PathForm {
    match (code, own) {
        (_, Some(own)) => PathForm::Own(own),
        (1, None) => PathForm::Readable,
        (_, None) => PathForm::Opaque,
    }
}
