//! What backends have used, as totals of a month or a day, kept over restarts.
//!
//! Totals never fall: of two values of one row the larger stays. So it does no harm to write the
//! same twice, in any order, and an unknown outcome is answered by writing again.
//!
//! # Along with commits
//!
//! Counts change with every request, so they are no writes of their own where others are made: once
//! in a while the writer asks a [`UsageSource`] what has changed and adds it to a batch that is
//! synced anyway. When no commit comes, whoever keeps the counts calls [`Store::usage_write`].
//!
//! # Invariants
//!
//! - A source hears that something is written only after the commit that wrote it.
//! - Counts that cannot be written take nothing else back with them.
//! - What a backend used goes with it, unless another of its account stays: then that one has it.
//! - Of each backend the newest [`MONTHS_KEPT`] months and [`DAYS_KEPT`] days that have counts are
//!   kept. It is no matter of the clock: one that was wrong for a moment loses nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use super::Store;
use super::ballast::Room;
use super::connection::held;
use super::error::StoreError;
use super::queue::Lane;
use super::sql::Sql;
use super::writer::Fate;
use super::writer::Need;
use super::writer::Operation;
use super::writer::Ran;
use super::writer::Tx;
use crate::model::Amounts;
use crate::model::BackendId;
use crate::model::Period;
use crate::model::Tally;
use crate::model::usage::FIRST_DAY;

pub(super) const MONTHS_KEPT: usize = 13;
pub(super) const DAYS_KEPT: usize = 62;
/// The least time between two batches that take counts along.
const ALONG: Duration = Duration::from_secs(1);

/// The totals of one backend in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageRow {
    pub backend: BackendId,
    pub period: Period,
    pub tally: Tally,
}

/// Who counts.
pub trait UsageSource: Send + Sync {
    /// What the store does not have yet. Called by the writer's thread: it must not block.
    fn unwritten(&self) -> Vec<UsageRow>;
    /// The store has these now.
    fn written(&self, rows: &[UsageRow]);
}

impl Store {
    /// From now on what `source` has is written along with commits.
    pub fn usage_source(&self, source: Arc<dyn UsageSource>) {
        held(&self.shared().usage.state).source = Some(source);
    }

    /// Writes these totals, durably. Those of backends that are not there are left out.
    pub async fn usage_write(&self, rows: Vec<UsageRow>) -> Result<(), StoreError> {
        self.free(Lane::Work, Need::Durable, move |tx| usage_write_in_tx(**tx, &rows)).await
    }

    /// What is known of these periods; of those of which nothing is, nothing comes back.
    pub async fn usage_load(
        &self,
        periods: Vec<(BackendId, Period)>,
    ) -> Result<Vec<UsageRow>, StoreError> {
        self.read(move |sql| {
            let mut found = Vec::new();
            for (backend, period) in periods {
                let mut tally = None;
                let rows: Vec<(u8, usize, u64)> = sql.all(USAGE, (backend.0, period.0), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
                for (kind, class, value) in rows {
                    let field = field(tally.get_or_insert_with(Tally::default), kind, class);
                    *field.ok_or_else(|| StoreError::broken("usage of an unknown kind"))? = value;
                }
                found.extend(tally.map(|tally| UsageRow { backend, period, tally }));
            }
            Ok(found)
        })
        .await
    }
}

pub(super) const USAGE: &str = "SELECT u.kind, u.class, u.value FROM backends b CROSS JOIN usage u
     WHERE b.id = ?1 AND u.backend = b.no AND u.period = ?2";

/// What a row is of: numbers that are stored.
const CALLS: u8 = 0;
const EGRESS: u8 = 1;
const INGRESS: u8 = 2;
const OPERATIONS: u8 = 3;
/// Added to the kind of what background work used.
const WORK: u8 = 4;

fn field(tally: &mut Tally, kind: u8, class: usize) -> Option<&mut u64> {
    let amounts = if kind < WORK { &mut tally.all } else { &mut tally.work };
    match (kind % WORK, class) {
        _ if kind >= 2 * WORK => None,
        (CALLS, class) => amounts.calls.get_mut(class),
        (EGRESS, 0) => Some(&mut amounts.egress),
        (INGRESS, 0) => Some(&mut amounts.ingress),
        (OPERATIONS, class) => amounts.operations.get_mut(class),
        _ => None,
    }
}

/// Kind, class and value of everything in it that is not zero.
fn fields(tally: &Tally) -> impl Iterator<Item = (u8, usize, u64)> {
    let of = |amounts: Amounts, part: u8| {
        let calls = amounts.calls.into_iter().enumerate().map(|(i, n)| (CALLS, i, n));
        let bytes = [(EGRESS, 0, amounts.egress), (INGRESS, 0, amounts.ingress)];
        let operations = amounts.operations.into_iter().enumerate();
        let all = calls.chain(bytes).chain(operations.map(|(i, n)| (OPERATIONS, i, n)));
        all.map(move |(kind, class, value)| (kind + part, class, value))
    };
    of(tally.all, 0).chain(of(tally.work, WORK)).filter(|(.., value)| *value > 0)
}

fn usage_write_in_tx(sql: Sql<'_>, rows: &[UsageRow]) -> Result<(), StoreError> {
    let mut begun = BTreeSet::new();
    for UsageRow { backend, period, tally } in rows {
        let no: Option<u64> =
            sql.one("SELECT no FROM backends WHERE id = ?1", [backend.0], |row| row.get(0))?;
        let Some(no) = no else { continue };
        let known = "SELECT 1 FROM usage WHERE backend = ?1 AND period = ?2 LIMIT 1";
        if sql.one(known, (no, period.0), |_| Ok(()))?.is_none() {
            begun.insert(no);
        }
        for (kind, class, value) in fields(tally) {
            sql.run(
                "INSERT INTO usage (backend, period, kind, class, value) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET value = excluded.value WHERE excluded.value > value",
                (no, period.0, kind, class, value.min(i64::MAX as u64)),
            )?;
        }
    }
    begun.into_iter().try_for_each(|no| prune_in_tx(sql, no))
}

/// What `gone` used is `heir`'s from now on: their account has used it.
pub(super) fn usage_inherit_in_tx(
    sql: Sql<'_>,
    gone: u64,
    heir: BackendId,
) -> Result<(), StoreError> {
    sql.run(
        "INSERT INTO usage (backend, period, kind, class, value)
         SELECT b.no, u.period, u.kind, u.class, u.value FROM backends b CROSS JOIN usage u
         WHERE b.id = ?2 AND u.backend = ?1
         ON CONFLICT DO UPDATE SET value = min(value, ?3 - excluded.value) + excluded.value",
        (gone, heir.0, i64::MAX),
    )?;
    Ok(())
}

/// Room for a period that began: the oldest go.
fn prune_in_tx(sql: Sql<'_>, backend: u64) -> Result<(), StoreError> {
    for (from, to, kept) in [(0, FIRST_DAY.0, MONTHS_KEPT), (FIRST_DAY.0, u32::MAX, DAYS_KEPT)] {
        let oldest: Option<u32> = sql.one(
            "SELECT DISTINCT period FROM usage WHERE backend = ?1 AND period >= ?2 AND period < ?3
             ORDER BY period DESC LIMIT 1 OFFSET ?4",
            (backend, from, to, kept - 1),
            |row| row.get(0),
        )?;
        if let Some(oldest) = oldest {
            sql.run(
                "DELETE FROM usage WHERE backend = ?1 AND period >= ?2 AND period < ?3",
                (backend, from, oldest),
            )?;
        }
    }
    Ok(())
}

/// Where the writer asks for counts.
#[derive(Default)]
pub(super) struct Along {
    state: Mutex<AlongState>,
}

#[derive(Default)]
struct AlongState {
    source: Option<Arc<dyn UsageSource>>,
    taken: Option<Instant>,
}

impl Along {
    /// What shall go along with `batch`: nothing when it was a short while ago, or when the batch
    /// is not going to be synced.
    pub(super) fn take(&self, batch: &[Box<dyn Operation>]) -> Option<Box<dyn Operation>> {
        if !batch.iter().any(|op| op.need() == Need::Durable) {
            return None;
        }
        let mut state = held(&self.state);
        let source = Arc::clone(state.source.as_ref()?);
        if state.taken.is_some_and(|taken| taken.elapsed() < ALONG) {
            return None;
        }
        state.taken = Some(Instant::now());
        drop(state);
        let rows = source.unwritten();
        (!rows.is_empty()).then(|| Box::new(Counts { rows, source }) as Box<dyn Operation>)
    }
}

/// Counts that go along with others' operations.
struct Counts {
    rows: Vec<UsageRow>,
    source: Arc<dyn UsageSource>,
}

impl Operation for Counts {
    fn run(&mut self, tx: &mut Tx<'_>) -> Ran {
        match usage_write_in_tx(**tx, &self.rows) {
            Ok(()) => Ran::Done,
            Err(err) => {
                tracing::warn!(error = ?err, "usage could not be written along with a commit");
                // They stay where they are, and are offered again.
                self.rows.clear();
                super::writer::failed(&err)
            }
        }
    }

    fn answer(self: Box<Self>, fate: Fate) {
        if fate == Fate::Committed {
            self.source.written(&self.rows);
        }
    }

    fn need(&self) -> Need {
        Need::Recorded
    }

    /// What a delete costs is counted on a full disk too.
    fn room(&self) -> Room {
        Room::Frees
    }
}
