//! Every worker by its name, with its tick and the rest of its defaults, and the workers that
//! there are.
//!
//! The names are the same in code, lock files, configuration, command line, metrics and logs.
//!
//! # Why a tick is not a clock
//!
//! A worker is woken by what makes work and by the time at which work is due. Its tick only bounds
//! how long work that waits may be left lying; with none it sleeps.

use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use super::cleanup::Cleanup;
use super::drain::Drain;
use super::lifecycle::Lifecycle;
use super::over_replication::OverReplication;
use super::pending_reaper::PendingReaper;
use super::rebalancer::Rebalancer;
use super::reconciler::Reconciler;
use super::replicator::Replicator;
use super::scrubber::Scrubber;
use super::settings::Settings;
use crate::engine::Engine;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    Cleanup,
    PendingReaper,
    Replicator,
    OverReplication,
    Rebalancer,
    Reconciler,
    Scrubber,
    Lifecycle,
    Drain,
}

impl Name {
    pub const ALL: [Name; 9] = [
        Name::Cleanup,
        Name::PendingReaper,
        Name::Replicator,
        Name::OverReplication,
        Name::Rebalancer,
        Name::Reconciler,
        Name::Scrubber,
        Name::Lifecycle,
        Name::Drain,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Name::Cleanup => "cleanup",
            Name::PendingReaper => "pending_reaper",
            Name::Replicator => "replicator",
            Name::OverReplication => "over_replication",
            Name::Rebalancer => "rebalancer",
            Name::Reconciler => "reconciler",
            Name::Scrubber => "scrubber",
            Name::Lifecycle => "lifecycle",
            Name::Drain => "drain",
        }
    }

    /// The worker of this name; `-` is as good as `_`.
    pub fn from_text(text: &str) -> Option<Name> {
        let text = text.replace('-', "_");
        Name::ALL.into_iter().find(|name| name.as_str() == text)
    }

    /// What it does with, where the owner says nothing else. All but the rebalancer, which moves
    /// what lies well where it is, are on.
    pub const fn defaults(self) -> Settings {
        let (interval, batch, concurrency) = match self {
            Name::Cleanup => (MINUTE, 50, 10),
            Name::PendingReaper => (MINUTE, 50, 4),
            Name::Replicator => (MINUTE.saturating_mul(5), 50, 5),
            Name::OverReplication => (MINUTE.saturating_mul(5), 50, 5),
            Name::Rebalancer => (HOUR.saturating_mul(6), 100, 5),
            Name::Reconciler => (DAY, 1000, 1),
            Name::Scrubber => (HOUR.saturating_mul(6), 100, 2),
            Name::Lifecycle => (HOUR, 100, 1),
            Name::Drain => (MINUTE, 100, 5),
        };
        let enabled = !matches!(self, Name::Rebalancer);
        Settings { enabled, interval, batch, concurrency }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Makes a worker: at the start, after it panicked, and for each manual run. A worker keeps nothing
/// that is not in the store, so a new one goes on where the old one was.
pub type Factory = Arc<dyn Fn() -> Box<dyn Worker> + Send + Sync>;

/// The workers that there are. One that is not here cannot be run, whatever its settings.
pub(crate) fn factories(engine: &Arc<Engine>) -> Vec<(Name, Factory)> {
    fn made<W: Worker + 'static>(engine: &Arc<Engine>, make: fn(Arc<Engine>) -> W) -> Factory {
        let engine = Arc::clone(engine);
        Arc::new(move || Box::new(make(Arc::clone(&engine))))
    }
    vec![
        (Name::Cleanup, made(engine, Cleanup::new)),
        (Name::PendingReaper, made(engine, PendingReaper::new)),
        (Name::Replicator, made(engine, Replicator::new)),
        (Name::OverReplication, made(engine, OverReplication::new)),
        (Name::Rebalancer, made(engine, Rebalancer::new)),
        (Name::Reconciler, made(engine, Reconciler::new)),
        (Name::Scrubber, made(engine, Scrubber::new)),
        (Name::Lifecycle, made(engine, Lifecycle::new)),
        (Name::Drain, made(engine, Drain::new)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_in_both_spellings() {
        for name in Name::ALL {
            assert_eq!(Name::from_text(name.as_str()), Some(name));
            assert_eq!(Name::from_text(&name.as_str().replace('_', "-")), Some(name));
            assert_eq!(Name::ALL[name as usize], name, "settings are found by it");
        }
        assert_eq!(Name::from_text("Cleanup"), None);
        assert_eq!(Name::from_text(""), None);
    }

    #[test]
    fn all_are_on_but_the_rebalancer() {
        let off: Vec<Name> = Name::ALL.into_iter().filter(|n| !n.defaults().enabled).collect();
        assert_eq!(off, [Name::Rebalancer]);
    }
}
