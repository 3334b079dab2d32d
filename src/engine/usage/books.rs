//! The meters' counts, kept in the store.
//!
//! Counts live in memory and are written as totals: along with commits, at most once a second (the
//! store's writer asks [`Books`]), and by a loop when no commit comes. The loop is rung when
//! something was recorded and nothing waited to be written yet. An idle larder rings nothing and
//! writes nothing.
//!
//! # What a crash costs
//!
//! What was counted and not written yet: of backends with limits the last [`LIMITED`], and
//! [`NEAR`] once four fifths of any of them are used; of backends without limits, which may be local
//! disks that should sleep, the last [`UNLIMITED`]. Less while commits come.
//!
//! # Invariants
//!
//! - A failure to write costs nothing: the counts stay, and are tried again.
//! - What the store knows is looked up before anything is written, and before a backend is used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Terms;
use super::warnings::Warnings;
use crate::backend::Backend;
use crate::backend::Fleet;
use crate::backend::Meter;
use crate::base::chain;
use crate::engine::Engine;
use crate::engine::EngineError;
use crate::model::BackendId;
use crate::model::Limits;
use crate::store::UsageRow;
use crate::store::UsageSource;

/// How long counts of a backend wait that has limits, that is near one, and that has none.
const LIMITED: Duration = Duration::from_secs(5);
const NEAR: Duration = Duration::from_secs(1);
const UNLIMITED: Duration = Duration::from_secs(600);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The meters of the fleet, for the store's writer and the loop.
#[derive(Default)]
pub(crate) struct Books {
    meters: ArcSwap<Vec<(BackendId, Arc<Meter>)>>,
    bell: Arc<Notify>,
    /// By name, as configured.
    pub(super) terms: ArcSwap<BTreeMap<String, Terms>>,
}

impl Books {
    /// From now on these are the fleet's meters.
    pub(crate) fn watch(&self, fleet: &Fleet) {
        let meters = fleet.all().iter().map(|backend| (backend.id(), Arc::clone(backend.meter())));
        self.meters.store(Arc::new(meters.collect()));
        fleet.all().iter().for_each(|backend| backend.meter().ring(&self.bell));
        // Limits may be others now.
        self.bell.notify_one();
    }
}

impl UsageSource for Books {
    fn unwritten(&self) -> Vec<UsageRow> {
        let meters = self.meters.load();
        let of = |(backend, meter): &(BackendId, Arc<Meter>)| {
            let backend = *backend;
            let rows = meter.unwritten().into_iter();
            rows.map(move |(period, tally)| UsageRow { backend, period, tally })
        };
        meters.iter().flat_map(of).collect()
    }

    fn written(&self, rows: &[UsageRow]) {
        for (backend, meter) in self.meters.load().iter() {
            let own = rows.iter().filter(|row| row.backend == *backend);
            let own: Vec<_> = own.map(|row| (row.period, row.tally)).collect();
            if !own.is_empty() {
                meter.written(&own);
            }
        }
    }
}

/// What the loop remembers from one turn to the next.
#[derive(Default)]
pub(super) struct Turns {
    pub(super) warnings: Warnings,
    is_failing: bool,
}

impl Engine {
    /// Looks up what the store knows of the periods that these meters count in now. To be done
    /// before a backend is used: limits hold only what is known.
    pub async fn usage_learn(&self, backends: &[Arc<Backend>]) -> Result<(), EngineError> {
        let unknown = backends.iter().flat_map(|backend| {
            backend.meter().unknown().into_iter().map(|period| (backend.id(), period))
        });
        let unknown: Vec<_> = unknown.collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let found = self.store.usage_load(unknown.clone()).await?;
        for (backend, period) in unknown {
            let row = found.iter().find(|row| (row.backend, row.period) == (backend, period));
            let tally = row.map(|row| row.tally).unwrap_or_default();
            let of = backends.iter().filter(|one| one.id() == backend);
            of.for_each(|one| one.meter().know(period, &tally));
        }
        Ok(())
    }

    /// These are about to take the place of the fleet's backends: what was counted and promised
    /// there goes on with them. What one used that goes stays with its account, as in the store.
    pub fn usage_hand_on(&self, backends: &[Arc<Backend>]) {
        let fleet = self.fleet.load();
        for backend in backends {
            if let Some(before) = fleet.get(backend.id()) {
                before.meter().hand_on(backend.meter());
            }
        }
        // After those, so that an heir knows what it had itself.
        let stays = |gone: &Backend| backends.iter().any(|one| one.id() == gone.id());
        for gone in fleet.all().iter().filter(|gone| !stays(gone)) {
            let account = &gone.settings().account;
            let is_heir = |one: &&Arc<Backend>| one.settings().account == *account;
            if let Some(heir) = backends.iter().find(is_heir).filter(|_| account.is_some()) {
                gone.meter().leave_to(heir.meter());
            }
        }
    }

    /// Writes all that is not written yet.
    pub async fn usage_flush(&self) -> Result<(), EngineError> {
        self.usage_learn(self.fleet.load_full().all()).await?;
        let rows = self.books.unwritten();
        if !rows.is_empty() {
            self.store.usage_write(rows.clone()).await?;
            self.books.written(&rows);
        }
        Ok(())
    }

    /// Writes what is used as it becomes due and warns of limits, until `stop`; then once more.
    pub async fn usage_loop(self: Arc<Self>, stop: CancellationToken) {
        let mut turns = Turns::default();
        let mut rest = Some(Duration::ZERO);
        loop {
            let rested = async {
                match rest {
                    Some(rest) => tokio::time::sleep(rest).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.books.bell.notified() => (),
                () = rested => (),
            }
            rest = self.usage_turn(&mut turns).await;
        }
        if let Err(err) = self.usage_flush().await {
            tracing::warn!(error = chain(&err), "what was used lately could not be written");
        }
    }

    /// What is due now; how long nothing will be.
    pub(super) async fn usage_turn(&self, turns: &mut Turns) -> Option<Duration> {
        let fleet = self.fleet.load_full();
        let mut done = self.usage_learn(fleet.all()).await;
        let near = turns.warnings.look_at_limits(&fleet, self.clock.now());
        let mut due = self.usage_due(&fleet, &near);
        if done.is_ok() && due.is_some_and(|due| due <= Instant::now()) {
            done = self.usage_flush().await;
            due = self.usage_due(&fleet, &near);
        }
        if let Err(err) = &done
            && !turns.is_failing
        {
            tracing::warn!(error = chain(err), "what was used cannot be written now, but is kept");
        }
        turns.is_failing = done.is_err();
        let quota = turns.warnings.look_at_quotas(self).await;
        let write = match done {
            Ok(()) => due.map(|due| due.saturating_duration_since(Instant::now())),
            Err(_) => Some(RETRY),
        };
        // A limit may come near within a moment.
        let is_limited = |backend: &&Arc<Backend>| near.contains_key(&backend.id());
        let is_used = |backend: &Arc<Backend>| backend.meter().unwritten_since().is_some();
        let limits = fleet.all().iter().filter(is_limited).any(is_used).then_some(NEAR);
        [write, limits, quota].into_iter().flatten().min()
    }

    /// When the first of what is not written has to be.
    fn usage_due(&self, fleet: &Fleet, near: &BTreeMap<BackendId, bool>) -> Option<Instant> {
        let due = |backend: &Arc<Backend>| {
            let pace = match near.get(&backend.id()) {
                Some(true) => NEAR,
                Some(false) => LIMITED,
                None => UNLIMITED,
            };
            Some(backend.meter().unwritten_since()? + pace)
        };
        fleet.all().iter().filter_map(due).min()
    }
}

/// The fleet by accounts: the limits that hold and the backends that share them.
pub(super) fn accounts(fleet: &Fleet) -> Vec<(Limits, Vec<&Arc<Backend>>)> {
    let all = fleet.all();
    let words: Vec<Option<&str>> =
        all.iter().map(|backend| backend.settings().account.as_deref()).collect();
    let companies = super::companies(&words).into_iter().enumerate();
    // Once each, at its first backend.
    let each = companies.filter(|(at, company)| company.first() == Some(at));
    each.map(|(_, company)| {
        let limits = company.iter().map(|&at| all[at].settings().limits);
        (super::common(limits), company.iter().map(|&at| &all[at]).collect())
    })
    .collect()
}
