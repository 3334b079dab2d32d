//! What blobs miss and what they have too much of: the work of replicating, thinning and draining.
//!
//! Each look is a range of a partial index that holds nothing but work, so that a store in which
//! there is nothing to do answers at once, however large it is.
//!
//! # Why a blob without a target waits for a change and not for a time
//!
//! What no backend can take today none can take in five minutes either, unless the fleet changed.
//! Such a blob waits for the number of the fleet's next change; the others are not held up by it,
//! and a fleet in which nothing changes is not asked again and again.

use std::sync::Arc;

use tokio::sync::Notify;

use super::Store;
use super::error::StoreError;
use super::queue::Lane;
use super::sql::Sql;
use super::writer::Need;
use crate::base::Timestamp;
use crate::base::limits::REPLICAS_MAX;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::WriteId;

/// From here on a blob's due time is the number of a change: no clock comes so far.
pub(super) const PARKED: i64 = 1 << 62;
/// Counts of waiting work go up to this; beyond, it is only said that there is more.
pub const BACKLOG_MAX: u64 = 10_000;

/// A blob that work is looked for, and when it was due as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    pub blob: BlobId,
    due: Option<i64>,
}

impl Short {
    /// The number of the fleet's change that found no target for it, while it has none.
    pub fn waits_for(&self) -> Option<u64> {
        self.due.filter(|due| *due >= PARKED).map(|due| (due - PARKED) as u64)
    }
}

/// When the replicator looks at a blob again that it could not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookAgain {
    At(Timestamp),
    /// After the fleet's change of this number, which found no target. If the blob has changed
    /// since it was found, it is due at once: what was in the way may be what is gone.
    After(u64),
}

impl LookAgain {
    fn code(self) -> i64 {
        match self {
            LookAgain::At(time) => time.0.clamp(0, PARKED - 1),
            LookAgain::After(change) => PARKED + (change as i64).clamp(0, PARKED - 1),
        }
    }
}

/// A replica that is to leave its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub write: WriteId,
    pub short: Short,
}

impl Store {
    /// Blobs that miss replicas and are due, the most endangered first: fewest good replicas, then
    /// those that wait longest. `change` is the number of the fleet's latest change.
    pub async fn blobs_short(&self, change: u64, max: usize) -> Result<Vec<Short>, StoreError> {
        let now = self.shared().clock.now();
        self.read(move |sql| {
            let mut found = Vec::new();
            for good in 0..REPLICAS_MAX {
                for (from, to) in [(0, now.0), (PARKED, LookAgain::After(change).code() - 1)] {
                    let left = max - found.len();
                    let some = (good, from, to, left);
                    found.extend(sql.all(SHORT, some, |row| {
                        Ok(Short { blob: BlobId(row.get(0)?), due: row.get(1)? })
                    })?);
                }
                if found.len() == max {
                    break;
                }
            }
            Ok(found)
        })
        .await
    }

    /// When the next blob that waits for a time is due.
    pub async fn blobs_short_next(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|sql| {
            let mut next = None;
            for good in 0..REPLICAS_MAX {
                let due: Option<i64> = sql.one(SHORT_NEXT, (good, PARKED), |row| row.get(0))?;
                next = [next, due].into_iter().flatten().min();
            }
            Ok(next.map(Timestamp))
        })
        .await
    }

    /// How many blobs miss replicas, and how many of those have no target now: each up to
    /// [`BACKLOG_MAX`].
    pub async fn blobs_short_count(&self) -> Result<(u64, u64), StoreError> {
        self.read(|sql| Ok((count(sql, SHORT_COUNT, 0)?, count(sql, SHORT_COUNT, PARKED)?))).await
    }

    /// Puts off blobs that could not be helped. One that misses nothing any more is left alone.
    pub async fn blobs_put_off(&self, blobs: Vec<(Short, LookAgain)>) -> Result<(), StoreError> {
        for some in blobs.chunks(WORK_ROWS_MAX) {
            let some = some.to_vec();
            self.free(Lane::Work, Need::Recorded, move |tx| {
                for (short, again) in &some {
                    tx.run(PUT_OFF, (short.blob.0, again.code(), short.due, PARKED))?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Makes all blobs due that miss replicas.
    pub async fn blobs_look_now(&self) -> Result<(), StoreError> {
        let now = self.shared().clock.now();
        loop {
            let changed = self
                .free(Lane::Work, Need::Recorded, move |tx| {
                    let mut left = WORK_ROWS_MAX;
                    for good in 0..REPLICAS_MAX {
                        left -= tx.run(LOOK_NOW, (good, now.0, left))?;
                    }
                    Ok(WORK_ROWS_MAX - left)
                })
                .await?;
            if changed < WORK_ROWS_MAX {
                return Ok(());
            }
        }
    }

    /// Blobs that have more good replicas than they should, in the order of their ids.
    pub async fn blobs_surplus(
        &self,
        after: BlobId,
        max: usize,
    ) -> Result<Vec<BlobId>, StoreError> {
        self.read(move |sql| sql.all(SURPLUS, (after.0, max), |row| Ok(BlobId(row.get(0)?)))).await
    }

    /// How many there are, up to [`BACKLOG_MAX`].
    pub async fn blobs_surplus_count(&self) -> Result<u64, StoreError> {
        self.read(|sql| count(sql, SURPLUS_COUNT, 0)).await
    }

    /// Replicas that are to leave `backend`, with their blobs, in the order of their write ids.
    pub async fn replicas_leaving(
        &self,
        backend: BackendId,
        after: WriteId,
        max: usize,
    ) -> Result<Vec<Leaving>, StoreError> {
        self.read(move |sql| {
            let no: Option<u64> =
                sql.one("SELECT no FROM backends WHERE id = ?1", [backend.0], |row| row.get(0))?;
            let no = no.ok_or(StoreError::NoSuchBackend)?;
            sql.all(LEAVING, (no, after.0, max), |row| {
                let short = Short { blob: BlobId(row.get(1)?), due: row.get(2)? };
                Ok(Leaving { write: WriteId(row.get(0)?), short })
            })
        })
        .await
    }

    /// Woken when a blob misses a replica, or a backend got another duty.
    pub fn replicas_wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.shared().wanted.short)
    }

    /// Woken when a replica is to leave its backend.
    pub fn leaving_found(&self) -> Arc<Notify> {
        Arc::clone(&self.shared().wanted.leaving)
    }

    /// Woken when a blob has more replicas than it should.
    pub fn surplus_found(&self) -> Arc<Notify> {
        Arc::clone(&self.shared().wanted.surplus)
    }
}

pub(super) const SHORT: &str =
    "SELECT id, due FROM blobs WHERE due IS NOT NULL AND good = ?1 AND due BETWEEN ?2 AND ?3
     ORDER BY due, id LIMIT ?4";

const PUT_OFF: &str = "UPDATE blobs SET due = ?2
     WHERE id = ?1 AND refs > 0 AND deficit > 0 AND (?2 < ?4 OR due IS ?3)";

pub(super) const LOOK_NOW: &str = "UPDATE blobs SET due = ?2 WHERE id IN
         (SELECT id FROM blobs WHERE due IS NOT NULL AND good = ?1 AND due > ?2 LIMIT ?3)";

pub(super) const SHORT_NEXT: &str =
    "SELECT due FROM blobs WHERE due IS NOT NULL AND good = ?1 AND due >= 0 AND due < ?2
     ORDER BY due LIMIT 1";

const SHORT_COUNT: &str =
    "SELECT count(*) FROM (SELECT 1 FROM blobs WHERE due IS NOT NULL AND due >= ?1 LIMIT ?2)";

pub(super) const SURPLUS: &str =
    "SELECT id FROM blobs WHERE deficit < 0 AND id > ?1 ORDER BY id LIMIT ?2";

const SURPLUS_COUNT: &str =
    "SELECT count(*) FROM (SELECT 1 FROM blobs WHERE deficit < 0 AND id >= ?1 LIMIT ?2)";

pub(super) const LEAVING: &str =
    "SELECT r.write, r.blob, b.due FROM replicas r CROSS JOIN blobs b ON b.id = r.blob
     WHERE r.state = 4 AND r.backend = ?1 AND r.write > ?2 ORDER BY r.write LIMIT ?3";

/// Makes a blob due that waits for a change of the fleet, or that somebody may be about to let wait
/// for one; whether there is such a blob. One that waits for a time goes on waiting.
pub(super) fn blob_look_again_in_tx(
    sql: Sql<'_>,
    blob: BlobId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let query = "UPDATE blobs SET due = min(?2, due - 1)
         WHERE id = ?1 AND (due BETWEEN 1 AND ?2 OR due >= ?3)";
    Ok(sql.run(query, (blob.0, now.0, PARKED))? > 0)
}

fn count(sql: Sql<'_>, query: &str, from: i64) -> Result<u64, StoreError> {
    Ok(sql.one(query, (from, BACKLOG_MAX), |row| row.get(0))?.unwrap_or(0))
}
