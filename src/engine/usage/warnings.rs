//! Telling the owner, once for each crossing, that a limit or a quota comes near.
//!
//! Limits are looked at in the meters at every turn of the loop. Quotas are the ledger's, which
//! costs a query: that is asked a while after something was recorded, and again until it stands
//! still, so the last commit is seen as well.
//!
//! # Invariant
//!
//! - With no traffic there is no turn, and nothing is looked at.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::Line;
use super::Span;
use super::books::accounts;
use crate::backend::Counted;
use crate::backend::Fleet;
use crate::base::ByteSize;
use crate::base::Timestamp;
use crate::base::chain;
use crate::engine::Engine;
use crate::model::BackendId;
use crate::model::Period;
use crate::model::Tally;

/// Of a hundred, from where on an owner wants to know, and counts are written sooner.
const TIGHT: u64 = 80;
const FULL: u64 = 100;
/// A quota is warned of again after this much was free again.
const EASED: u64 = 75;
/// The least time between two looks at the ledger.
const QUOTA_LOOK: Duration = Duration::from_secs(60);

/// What was said already.
#[derive(Default)]
pub(super) struct Warnings {
    /// Of each account, named by its first backend, how far it had come.
    limits: BTreeMap<(BackendId, Period, Counted), u64>,
    quotas: BTreeSet<BackendId>,
    looked: Option<Instant>,
    /// The ledger as it was then: bytes of each backend.
    ledger: Vec<(BackendId, u64)>,
}

impl Warnings {
    /// Of each backend that has limits whether it is near one.
    pub(super) fn look_at_limits(
        &mut self,
        fleet: &Fleet,
        now: Timestamp,
    ) -> BTreeMap<BackendId, bool> {
        let mut near = BTreeMap::new();
        let mut said = BTreeMap::new();
        for (limits, members) in accounts(fleet) {
            let Some(first) = members.first().filter(|_| limits.is_set()) else { continue };
            let mut is_near = false;
            let spans = Span::now(now, first.meter().day_begins());
            for (span, allowance) in spans.into_iter().zip([limits.month, limits.day]) {
                let mut shared = Tally::default();
                members.iter().for_each(|one| shared += &one.meter().tally(span.period));
                for what in Counted::ALL {
                    let line = Line::of(what, &shared, &allowance, &span.progress);
                    let Some(level) = line.limit.map(|limit| level(line.used, limit)) else {
                        continue;
                    };
                    is_near |= level >= TIGHT;
                    let key = (first.id(), span.period, what);
                    if level > self.limits.get(&key).copied().unwrap_or(0) {
                        let names: Vec<&str> = members.iter().map(|one| &**one.name()).collect();
                        say(&names.join(", "), span.period, &line, level);
                    }
                    said.insert(key, level);
                }
            }
            near.extend(members.iter().map(|one| (one.id(), is_near)));
        }
        // What is over, and what is not limited any more, goes.
        self.limits = said;
        near
    }

    /// When to look again; `None`: when something was recorded.
    pub(super) async fn look_at_quotas(&mut self, engine: &Engine) -> Option<Duration> {
        let fleet = engine.fleet.load();
        if fleet.all().iter().all(|backend| backend.settings().quota.is_none()) {
            return None;
        }
        let since = self.looked.get_or_insert_with(Instant::now).elapsed();
        if since < QUOTA_LOOK {
            return Some(QUOTA_LOOK - since);
        }
        self.looked = Some(Instant::now());
        drop(fleet);
        let rows = match engine.store.backends().await {
            Ok(rows) => rows,
            Err(err) => {
                tracing::warn!(error = chain(&err), "the ledger cannot be looked at now");
                return Some(QUOTA_LOOK);
            }
        };
        for row in &rows {
            let (held, quota) = (row.held(), row.quota.unwrap_or(u64::MAX));
            if part(held, quota) < EASED {
                self.quotas.remove(&row.id);
            }
            if part(held, quota) >= TIGHT && self.quotas.insert(row.id) {
                let (used, quota) = (ByteSize(held), ByteSize(quota));
                tracing::warn!(
                    backend = row.name,
                    %used,
                    %quota,
                    "the backend's quota is used to four fifths or more"
                );
            }
        }
        let ledger = rows.iter().map(|row| (row.id, row.held())).collect();
        let stands_still = self.ledger == ledger;
        self.ledger = ledger;
        (!stands_still).then_some(QUOTA_LOOK)
    }
}

/// Percent, rounded down.
fn part(used: u64, limit: u64) -> u64 {
    let percent = u128::from(used) * 100 / u128::from(limit.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// 0, [`TIGHT`] or [`FULL`].
fn level(used: u64, limit: u64) -> u64 {
    [FULL, TIGHT].into_iter().find(|level| part(used, limit) >= *level).unwrap_or(0)
}

fn say(backend: &str, period: Period, line: &Line, level: u64) {
    let used = line.what.say(line.used);
    let limit = line.limit.map(|limit| line.what.say(limit)).unwrap_or_default();
    if level >= FULL {
        tracing::warn!(
            backend,
            used,
            limit,
            "a limit {period} is reached: what it counts is refused until the period ends"
        );
        return;
    }
    let forecast = match line.reached {
        Some(reached) => format!("reached {}", Period::day(reached, Default::default())),
        None => "not reached".to_owned(),
    };
    tracing::warn!(
        backend,
        used,
        limit,
        forecast,
        "a limit {period} is used to four fifths or more"
    );
}
