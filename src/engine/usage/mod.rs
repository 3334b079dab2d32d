//! What each backend has used, held against its limits: for those who ask.
//!
//! From the bottom up: `books` keeps the meters' counts in the store, `warnings` says when a limit
//! comes near, and here they are put together with limits, forecast and prices.

mod books;
#[cfg(test)]
mod tests;
mod warnings;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use super::EngineError;
use crate::backend::BackendSettings;
use crate::backend::Counted;
use crate::backend::Fleet;
use crate::backend::Prices;
use crate::base::Timestamp;
use crate::model::Allowance;
use crate::model::BackendId;
use crate::model::Class;
use crate::model::DayBegins;
use crate::model::Limits;
use crate::model::Period;
use crate::model::Tally;
use crate::plan::forecast;
use crate::plan::forecast::Position;
use crate::plan::forecast::Progress;
use crate::store::BackendRow;

pub(crate) use self::books::Books;
pub use crate::plan::forecast::Money;

/// Bytes that prices are for.
const GB: f64 = 1e9;
/// Requests that prices are for.
const THOUSAND: f64 = 1e3;

/// One backend's use, this month and today.
#[derive(Clone, Debug)]
pub struct BackendUsage {
    pub id: BackendId,
    pub name: String,
    pub account: Option<String>,
    /// Its name; empty when it has none.
    pub profile: String,
    /// Of the account.
    pub limits: Limits,
    pub month: PeriodUsage,
    pub day: PeriodUsage,
    /// Bytes of all kinds that it holds: used, reserved and orphan.
    pub stored: u64,
    pub quota: Option<u64>,
    /// This month's, of this backend alone; `None` when no price is known. What a provider gives
    /// away for nothing is not taken off.
    pub money: Option<Money>,
}

/// What was used in one period.
#[derive(Clone, Debug)]
pub struct PeriodUsage {
    pub period: Period,
    pub begins: Timestamp,
    /// The first moment after it.
    pub ends: Timestamp,
    /// Of this backend.
    pub tally: Tally,
    /// Of all backends of the account.
    pub shared: Tally,
    /// One for everything that can be limited, in the order of [`Counted::ALL`].
    pub lines: Vec<Line>,
}

/// One thing that can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub what: Counted,
    /// By all backends of the account.
    pub used: u64,
    /// What of it was other than clients' requests.
    pub work: u64,
    pub limit: Option<u64>,
    /// At the end of the period, if it goes on like this.
    pub expected: u64,
    /// When the limit is reached, if it goes on like this; now, if it is. `None`: not in this
    /// period.
    pub reached: Option<Timestamp>,
}

impl Line {
    fn of(what: Counted, tally: &Tally, allowance: &Allowance, at: &Progress) -> Line {
        let (used, limit) = (what.of(&tally.all), what.limit(allowance));
        let reached = limit.and_then(|limit| at.reached(used, limit));
        let work = what.of(&tally.work);
        Line { what, used, work, limit, expected: at.expected(used), reached }
    }
}

impl PeriodUsage {
    fn of(at: Span, tally: Tally, shared: Tally, allowance: &Allowance) -> PeriodUsage {
        let lines = Counted::ALL.map(|what| Line::of(what, &shared, allowance, &at.progress));
        let Progress { begins, ends, .. } = at.progress;
        PeriodUsage { period: at.period, begins, ends, tally, shared, lines: lines.to_vec() }
    }
}

/// A period, as it is now.
#[derive(Clone, Copy)]
struct Span {
    period: Period,
    progress: Progress,
}

impl Span {
    /// The month and the day of `now`.
    fn now(now: Timestamp, day_begins: DayBegins) -> [Span; 2] {
        [Period::month(now), Period::day(now, day_begins)].map(|period| {
            let (begins, ends) = (period.begins(day_begins), period.ends(day_begins));
            Span { period, progress: Progress { begins, ends, now } }
        })
    }
}

/// Under what conditions a backend is used.
#[derive(Clone, Debug, Default, PartialEq)]
struct Terms {
    account: Option<String>,
    profile: String,
    limits: Limits,
    day_begins: DayBegins,
    prices: Prices,
}

impl Terms {
    fn of(settings: &BackendSettings) -> Terms {
        Terms {
            account: settings.account.clone(),
            profile: settings.profile.name.clone(),
            limits: settings.limits,
            day_begins: settings.profile.day_begins,
            prices: settings.profile.prices,
        }
    }
}

/// For each of these the numbers of those with which it shares its limits, itself among them.
fn companies(accounts: &[Option<&str>]) -> Vec<Vec<usize>> {
    let mut shared: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, account) in accounts.iter().enumerate() {
        account.iter().for_each(|word| shared.entry(word).or_default().push(at));
    }
    let of = |(at, account): (usize, &Option<&str>)| match account {
        Some(word) => shared.get(word).cloned().unwrap_or_default(),
        None => vec![at],
    };
    accounts.iter().enumerate().map(of).collect()
}

/// The limits of an account may stand at any of its backends.
fn common(limits: impl Iterator<Item = Limits>) -> Limits {
    limits.reduce(|found, next| if found.is_set() { found } else { next }).unwrap_or_default()
}

impl Engine {
    /// What the configuration says of backends, for those that are not in the fleet because no
    /// server runs.
    pub fn usage_as_configured(&self, backends: &[BackendSettings]) {
        let terms = backends.iter().map(|settings| (settings.name.clone(), Terms::of(settings)));
        self.books.terms.store(Arc::new(terms.collect()));
    }

    /// What every backend that the store knows has used this month and today.
    pub async fn usage(&self) -> Result<Vec<BackendUsage>, EngineError> {
        let now = self.clock.now();
        let rows = self.store.backends().await?;
        let fleet = self.fleet.load_full();
        let terms: Vec<Terms> = rows.iter().map(|row| self.terms(&fleet, row)).collect();
        let spans: Vec<[Span; 2]> =
            terms.iter().map(|terms| Span::now(now, terms.day_begins)).collect();
        let tallies = self.tallies(&fleet, &rows, &spans).await?;
        let accounts: Vec<Option<&str>> =
            terms.iter().map(|terms| terms.account.as_deref()).collect();
        let companies = companies(&accounts);
        let usage = rows.into_iter().enumerate().map(|(at, row)| {
            let company = &companies[at];
            let limits = common(company.iter().map(|&one| terms[one].limits));
            let of = |number: usize, allowance: &Allowance| {
                let mut shared = Tally::default();
                company.iter().for_each(|&one| shared += &tallies[one][number]);
                PeriodUsage::of(spans[at][number], tallies[at][number], shared, allowance)
            };
            let stored = row.held();
            let month = spans[at][0].progress;
            BackendUsage {
                month: of(0, &limits.month),
                day: of(1, &limits.day),
                money: money(&tallies[at][0], stored, &terms[at].prices, &month),
                account: terms[at].account.clone(),
                profile: terms[at].profile.clone(),
                id: row.id,
                name: row.name,
                limits,
                stored,
                quota: row.quota,
            }
        });
        Ok(usage.collect())
    }

    fn terms(&self, fleet: &Fleet, row: &BackendRow) -> Terms {
        match fleet.get(row.id) {
            Some(backend) => Terms::of(backend.settings()),
            None => self.books.terms.load().get(&row.name).cloned().unwrap_or_default(),
        }
    }

    /// Month and day of each: the meters' counts, and the store's where there is no meter.
    async fn tallies(
        &self,
        fleet: &Fleet,
        rows: &[BackendRow],
        spans: &[[Span; 2]],
    ) -> Result<Vec<[Tally; 2]>, EngineError> {
        self.usage_learn(fleet.all()).await?;
        let wanted = rows.iter().zip(spans).filter(|(row, _)| fleet.get(row.id).is_none());
        let wanted = wanted.flat_map(|(row, spans)| spans.map(|span| (row.id, span.period)));
        let stored = self.store.usage_load(wanted.collect()).await?;
        let tally = |row: &BackendRow, span: Span| match fleet.get(row.id) {
            Some(backend) => backend.meter().tally(span.period),
            None => {
                let is_it = |found: &&crate::store::UsageRow| {
                    (found.backend, found.period) == (row.id, span.period)
                };
                stored.iter().find(is_it).map(|found| found.tally).unwrap_or_default()
            }
        };
        Ok(rows.iter().zip(spans).map(|(row, spans)| spans.map(|span| tally(row, span))).collect())
    }
}

fn money(tally: &Tally, stored: u64, prices: &Prices, month: &Progress) -> Option<Money> {
    let flow = |used: u64, unit: f64, price: Option<f64>| Position {
        used: used as f64 / unit,
        expected: month.expected(used) as f64 / unit,
        price,
    };
    // What is kept now is taken to have been kept from the beginning.
    let kept = stored as f64 / GB;
    let kept =
        Position { used: kept * month.share(), expected: kept, price: prices.stored_gb_month };
    let calls = Class::ALL.map(|class| {
        flow(tally.all.calls[class as usize], THOUSAND, prices.thousand_calls[class as usize])
    });
    let bytes = [
        flow(tally.all.egress, GB, prices.egress_gb),
        flow(tally.all.ingress, GB, prices.ingress_gb),
    ];
    forecast::money(&[&calls[..], &bytes, &[kept]].concat())
}
