//! Borrowed files: whether they still are what was imported, and what taking them over means.
//!
//! # Invariants
//!
//! - A file is taken over only as it was listed a moment ago: one that its owner changed since it
//!   was imported is not what its row speaks of, and nothing is deleted for that row's sake.
//! - What a bucket gave up is deleted only while its length and its time are both known to be the
//!   same: where a service tells no times it stays.
//! - Which files are doubted is kept in memory alone. A survey finds the same, only later.

use std::sync::Arc;
use std::sync::PoisonError;

use tokio::sync::Notify;

use super::Store;
use super::error::StoreError;
use super::import::CONDEMNED;
use super::queue::Lane;
use super::reconcile::backend_number_in_tx;
use super::replica::ReplicaRow;
use super::replica::replica_in_tx;
use super::survey::ListedFile;
use super::survey::differ;
use super::survey::stamp;
use super::writer::Need;
use super::writer::Tx;
use crate::base::Timestamp;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::WriteId;

/// A borrowed file that was found to have other bytes, or none that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubted {
    pub write: WriteId,
    pub backend: BackendId,
    pub path: String,
}

impl Store {
    /// Makes these files, as they were just listed, Larder's own, to be deleted like all else: how
    /// many replicas that were, and those that their owner changed and that stay his. What buckets
    /// gave up of them before is deleted now.
    pub async fn files_take_over(
        &self,
        backend: BackendId,
        files: Vec<ListedFile>,
    ) -> Result<(u64, Vec<(WriteId, ListedFile)>), StoreError> {
        let now = self.shared().clock.now();
        let (mut taken, mut changed) = (0, Vec::new());
        for some in files.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            let (these, others) = self
                .write(Lane::Work, Need::Durable, move |tx| {
                    let no = backend_number_in_tx(**tx, backend)?;
                    let (mut taken, mut changed) = (0, Vec::new());
                    for file in &some {
                        match take_over_in_tx(tx, no, file, now)? {
                            TakenOver::Replica => taken += 1,
                            TakenOver::Changed(write) => changed.push((write, file.clone())),
                            TakenOver::Other => {}
                        }
                    }
                    Ok((taken, changed))
                })
                .await?;
            taken += these;
            changed.extend::<Vec<_>>(others);
        }
        Ok((taken, changed))
    }

    /// Whether a file that was imported is what it was then, as far as its length and time tell.
    pub async fn file_is_unchanged(
        &self,
        write: WriteId,
        size: u64,
        modified: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        self.read(move |sql| {
            let row = replica_in_tx(sql, write)?;
            Ok(row.is_some_and(|row| is_unchanged(&row, size, modified)))
        })
        .await
    }

    /// Woken when a borrowed file is doubted, or the fleet has changed.
    pub fn files_doubted(&self) -> Arc<Notify> {
        Arc::clone(&self.shared().wanted.doubts)
    }

    /// Takes some files that were doubted since this was last asked, at most `max`.
    pub async fn doubted_take(&self, max: usize) -> Result<Vec<Doubted>, StoreError> {
        let mut writes = Vec::new();
        {
            let mut doubted =
                self.shared().wanted.doubted.lock().unwrap_or_else(PoisonError::into_inner);
            while writes.len() < max
                && let Some(write) = doubted.pop_first()
            {
                writes.push(write);
            }
        }
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.read(move |sql| {
            let mut found = Vec::with_capacity(writes.len());
            for write in writes {
                found.extend(sql.one(DOUBTED, [write.0], |row| {
                    let (backend, path) = (BackendId(row.get(0)?), row.get(1)?);
                    Ok(Doubted { write, backend, path })
                })?);
            }
            Ok(found)
        })
        .await
    }
}

const DOUBTED: &str = "SELECT k.id, r.own FROM replicas r JOIN backends k ON k.no = r.backend
     WHERE r.write = ?1 AND r.borrowed IS NOT NULL";

pub(super) const BORROWED: &str = "SELECT write FROM replicas
     WHERE own IS NOT NULL AND backend = ?1 AND own = ?2 AND borrowed IS NOT NULL";

enum TakenOver {
    Replica,
    Changed(WriteId),
    /// It is no borrowed replica, or one that is not good now.
    Other,
}

fn take_over_in_tx(
    tx: &mut Tx<'_>,
    no: u64,
    file: &ListedFile,
    now: Timestamp,
) -> Result<TakenOver, StoreError> {
    let write = tx.one(BORROWED, (no, &file.path), |row| Ok(WriteId(row.get(0)?)))?;
    if let Some(write) = write {
        let Some(row) = replica_in_tx(**tx, write)? else { return Ok(TakenOver::Other) };
        if !is_unchanged(&row, file.size, file.modified) {
            return Ok(TakenOver::Changed(write));
        }
        if !row.state.is_readable() {
            return Ok(TakenOver::Other);
        }
        tx.run("UPDATE replicas SET borrowed = NULL WHERE write = ?1", [write.0])?;
        return Ok(TakenOver::Replica);
    }
    let kept: Option<(u64, bool, u64, i64)> = tx.one(CONDEMNED, (no, &file.path), |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    let listed = stamp(file.modified);
    let is_same =
        |size: u64, was: i64| size == file.size && was != 0 && listed != 0 && !differ(was, listed);
    if let Some((id, true, size, was)) = kept
        && is_same(size, was)
    {
        tx.run("UPDATE condemned SET kept = 0, due = ?2 WHERE id = ?1", (id, now.0))?;
        tx.marks.condemned = true;
    }
    Ok(TakenOver::Other)
}

/// Whether a file of this length and time is what the row speaks of.
pub(super) fn is_unchanged(row: &ReplicaRow, size: u64, modified: Option<Timestamp>) -> bool {
    row.size == size && !differ(row.stamp.unwrap_or(0), stamp(modified))
}
