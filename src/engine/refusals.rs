//! How often work was turned away, by cause: what an operator looks at before he raises a limit.
//!
//! Counts are of this run of the process and never fall.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::Engine;

/// Why a request, a connection or a transfer was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Admission: by lot, before the budget was full.
    Shed,
    /// Admission: the budget, or the queue before it, was full.
    Full,
    /// The client's address sent more than it may.
    AddressRate,
    /// The access key sent more than it may.
    KeyRate,
    /// Too many requests whose signature is not known yet.
    SignatureBudget,
    /// The address holds too many connections.
    Connection,
    /// A body came, or was taken, too slowly.
    Slow,
    /// A queue further inside was full.
    Busy,
    /// 507: no backend has room.
    NoRoom,
    /// 429: nothing may be read any more in this month or day.
    Allowance,
    /// 503: the store or all backends fail.
    Unavailable,
}

impl Cause {
    pub const ALL: [Cause; 11] = [
        Cause::Shed,
        Cause::Full,
        Cause::AddressRate,
        Cause::KeyRate,
        Cause::SignatureBudget,
        Cause::Connection,
        Cause::Slow,
        Cause::Busy,
        Cause::NoRoom,
        Cause::Allowance,
        Cause::Unavailable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Cause::Shed => "shed",
            Cause::Full => "full",
            Cause::AddressRate => "address_rate",
            Cause::KeyRate => "key_rate",
            Cause::SignatureBudget => "signature_budget",
            Cause::Connection => "connection",
            Cause::Slow => "slow",
            Cause::Busy => "busy",
            Cause::NoRoom => "no_room",
            Cause::Allowance => "allowance",
            Cause::Unavailable => "unavailable",
        }
    }
}

/// The counts.
#[derive(Debug, Default)]
pub struct Refusals {
    causes: [AtomicU64; Cause::ALL.len()],
    workers: Mutex<BTreeMap<&'static str, u64>>,
}

impl Refusals {
    pub fn count(&self, cause: Cause) {
        self.causes[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A step of this worker was not admitted.
    pub fn count_worker(&self, name: &'static str) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        *workers.entry(name).or_default() += 1;
    }

    /// Every cause, also those that never happened, and then `worker:<name>` for each worker that
    /// was refused.
    pub fn all(&self) -> Vec<(String, u64)> {
        let count = |cause: Cause| self.causes[cause as usize].load(Ordering::Relaxed);
        let causes = Cause::ALL.map(|cause| (cause.name().to_owned(), count(cause)));
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = workers.iter().map(|(name, count)| (format!("worker:{name}"), *count));
        causes.into_iter().chain(workers).collect()
    }
}

impl Engine {
    /// How often what was turned away since the process began; see [`Refusals::all`].
    pub fn refusals(&self) -> Vec<(String, u64)> {
        self.refusals.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_count_and_workers_have_theirs_by_name() {
        let refusals = Refusals::default();
        for (n, cause) in Cause::ALL.into_iter().enumerate() {
            (0..n).for_each(|_| refusals.count(cause));
        }
        refusals.count_worker("scrubber");
        refusals.count_worker("cleanup");
        refusals.count_worker("cleanup");
        let mut wanted: Vec<(String, u64)> =
            Cause::ALL.iter().enumerate().map(|(n, c)| (c.name().to_owned(), n as u64)).collect();
        wanted.push(("worker:cleanup".to_owned(), 2));
        wanted.push(("worker:scrubber".to_owned(), 1));
        assert_eq!(refusals.all(), wanted);
    }
}
