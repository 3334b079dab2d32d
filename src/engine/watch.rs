//! How the fleet changes, noticed while it serves: what is absent for long, what can be used again.
//!
//! It is looked at every few seconds together with the other upkeep, in memory alone while all is
//! well; the store is read and written only when a backend goes or comes.
//!
//! # Invariants
//!
//! - A backend is marked away only after it was out of reach for `absent_after`, which is counted
//!   over restarts, and never while it looks as if our own line were down.
//! - Whatever might let a blob be placed that could not be before changes the fleet's number.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;

use super::Engine;
use super::EngineError;
use crate::backend::Backend;
use crate::backend::BreakerState;
use crate::backend::Fitness;
use crate::backend::Fleet;
use crate::base::Seldom;
use crate::base::Timestamp;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::Duty;
use crate::model::Operation;
use crate::plan::absence;
use crate::plan::absence::Verdict;
use crate::store::BackendRow;

/// How often room that became free counts as a change, and in what steps.
const ROOM_EVERY: Duration = Duration::from_secs(60);
const ROOM_STEP: u64 = 16 << 20;
/// What is beyond this is room for any blob.
const ROOM_ENOUGH: u64 = 8 << 30;

/// The number of the fleet's latest change, and what it was seen like.
#[derive(Debug)]
pub(crate) struct Watch {
    change: AtomicU64,
    /// Blobs wait for a change, so room that becomes free is one.
    parks: AtomicBool,
    seen: Mutex<Seen>,
    /// Woken by each change, beside those who make up for missing replicas and surplus.
    changed: [Arc<Notify>; 1],
    /// Woken when lifecycle rules have changed, or what they are for has grown older at once.
    rules: Arc<Notify>,
    own_line: Seldom,
    /// Replicas that cannot leave their backends, by the reason, as the last walk found.
    stuck: Mutex<Stuck>,
    /// How often in a row a blob could not be copied.
    failed: Mutex<HashMap<BlobId, u32>>,
}

/// Replicas that cannot leave their backend, by the reason.
pub(crate) type Stuck = BTreeMap<BackendId, BTreeMap<&'static str, u64>>;

/// Blobs whose failures are remembered; with more, all begin anew.
const FAILED_MAX: usize = 100_000;

#[derive(Debug, Default)]
struct Seen {
    backends: BTreeMap<BackendId, Look>,
    room: BTreeMap<BackendId, u64>,
    room_at: Timestamp,
    /// The store says of no backend that it is out of reach or away.
    is_well: bool,
}

/// A backend at a glance. That it is full is no part of it: a service that says so is tried again
/// after a short while, and would change the fleet each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    may_be_written: bool,
    is_out: bool,
}

/// Who is woken when the fleet has changed, beside those whom the store wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetListener {
    PendingReaper,
}

impl Watch {
    /// `first` is above all numbers of earlier runs.
    pub(super) fn new(first: u64) -> Watch {
        Watch {
            change: AtomicU64::new(first),
            // An earlier run may have left some.
            parks: AtomicBool::new(true),
            seen: Mutex::default(),
            changed: Default::default(),
            rules: Arc::default(),
            own_line: Seldom::new(),
            stuck: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    pub(crate) fn change(&self) -> u64 {
        self.change.load(Ordering::Acquire)
    }

    pub(crate) fn parks(&self, parks: bool) {
        self.parks.store(parks, Ordering::Release);
    }

    pub(crate) fn sticks(&self, stuck: Stuck) {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
    }

    pub(crate) fn stuck(&self, backend: BackendId) -> BTreeMap<String, u64> {
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        let of = stuck.get(&backend).into_iter().flatten();
        of.map(|(why, number)| ((*why).to_owned(), *number)).collect()
    }

    /// A copy of a blob failed: how often in a row it had before.
    pub(crate) fn fails(&self, blob: BlobId) -> u32 {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= FAILED_MAX {
            failed.clear();
        }
        let times = failed.entry(blob).or_default();
        *times += 1;
        *times - 1
    }

    pub(crate) fn succeeds(&self, blob: BlobId) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Woken when the fleet has changed.
    pub fn fleet_changed(&self, listener: FleetListener) -> Arc<Notify> {
        Arc::clone(&self.watch.changed[listener as usize])
    }

    /// Woken when lifecycle rules have changed, or older objects have come.
    pub fn rules_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.watch.rules)
    }

    /// Something about the fleet is not as it was: what could not be placed may be now.
    pub(crate) fn fleet_changes(&self) {
        self.watch.change.fetch_add(1, Ordering::AcqRel);
        self.store.replicas_wanted().notify_one();
        self.store.surplus_found().notify_one();
        self.store.leaving_found().notify_one();
        self.store.cleanup_wanted().notify_one();
        self.store.files_doubted().notify_one();
        self.watch.changed.iter().for_each(|listener| listener.notify_one());
    }

    /// Looks at the fleet. While nothing is out of reach, nothing is asked of store or backends.
    pub(super) async fn watch_fleet(&self) -> Result<(), EngineError> {
        let fleet = self.fleet.load_full();
        let looks: BTreeMap<BackendId, Look> =
            fleet.all().iter().map(|backend| (backend.id(), look(backend))).collect();
        let (is_new, is_well) = {
            let mut seen = self.watch.seen();
            // The first look counts as well: what was absent at the start may have come since.
            let is_new = seen.backends != looks;
            seen.backends.clone_from(&looks);
            (is_new, seen.is_well)
        };
        let now = self.clock.now();
        let parks = self.watch.parks.load(Ordering::Acquire);
        let is_out = looks.values().any(|look| look.is_out);
        if is_out || !is_well || parks {
            let rows = self.store.backends().await?;
            self.absences(&fleet, &rows, now).await?;
            if parks && self.is_roomier(&fleet, &rows, now) {
                self.fleet_changes();
            }
        }
        if is_new {
            self.fleet_changes();
        }
        Ok(())
    }

    /// Remembers since when backends are out of reach, and marks those that are for too long.
    async fn absences(
        &self,
        fleet: &Fleet,
        rows: &[BackendRow],
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let mut seen = Vec::new();
        let mut is_well = true;
        for row in rows {
            let Some(backend) = fleet.get(row.id) else { continue };
            let is_out = look(backend).is_out;
            let out_since = is_out.then(|| row.absent_since.unwrap_or(now));
            if out_since != row.absent_since {
                self.store.backend_absent(row.id, out_since).await?;
            }
            is_well &= out_since.is_none() && row.duty != Duty::Away;
            seen.push(absence::Seen {
                backend: row.id,
                is_local: backend.device().is_some() || backend.settings().service == "fs",
                out_since,
                absent_after: backend.settings().absent_after,
                is_marked: row.duty == Duty::Away,
            });
        }
        for (id, verdict) in absence::judge(&seen, now) {
            self.absence(fleet, rows, (id, verdict), now).await?;
        }
        self.watch.seen().is_well = is_well;
        Ok(())
    }

    async fn absence(
        &self,
        fleet: &Fleet,
        rows: &[BackendRow],
        (id, verdict): (BackendId, Verdict),
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let name = fleet.get(id).map(|backend| Arc::clone(backend.name())).unwrap_or_default();
        let duty = rows.iter().find(|row| row.id == id).map(|row| row.duty);
        match verdict {
            Verdict::Keep => {}
            Verdict::OwnLine => {
                if self.watch.own_line.turn(std::time::Instant::now()).is_some() {
                    tracing::warn!(
                        "most remote backends broke together: that is taken for this machine's \
                         own line, and their replicas go on counting"
                    );
                }
                self.store.backend_absent(id, Some(now)).await?;
            }
            // One that is being emptied goes on being emptied.
            Verdict::MarkAway if duty == Some(Duty::InUse) => {
                if self.store.backend_duty(id, Duty::Away).await? {
                    tracing::warn!(backend = %name, "absent for so long that its replicas do not \
                        count any more; they are made elsewhere");
                    self.fleet_changes();
                }
            }
            Verdict::Back if duty == Some(Duty::Away) => {
                if self.store.backend_duty(id, Duty::InUse).await? {
                    tracing::info!(backend = %name, "back: its replicas count again");
                    self.fleet_changes();
                }
            }
            Verdict::MarkAway | Verdict::Back => {}
        }
        Ok(())
    }

    /// Whether some backend has room that it had not when this was last asked.
    fn is_roomier(&self, fleet: &Fleet, rows: &[BackendRow], now: Timestamp) -> bool {
        let mut seen = self.watch.seen();
        if now.since(seen.room_at) < ROOM_EVERY {
            return false;
        }
        seen.room_at = now;
        let room = rows.iter().map(|row| {
            let by_disk = fleet.get(row.id).and_then(|backend| backend.room());
            let free = [row.free(), by_disk].into_iter().flatten().min().unwrap_or(u64::MAX);
            (row.id, free.min(ROOM_ENOUGH) / ROOM_STEP)
        });
        let room: BTreeMap<BackendId, u64> = room.collect();
        let more = |(id, free): (&BackendId, &u64)| seen.room.get(id).is_some_and(|was| free > was);
        let is_roomier = room.iter().any(more);
        seen.room = room;
        is_roomier
    }
}

fn look(backend: &Backend) -> Look {
    let is_closed = backend.breaker_view().state == BreakerState::Closed;
    Look {
        may_be_written: backend.fitness(Operation::Write, 0) > Fitness::Spent,
        is_out: !backend.is_present() || !is_closed,
    }
}
