//! What the owner may choose about the workers.

use std::time::Duration;

use super::table::DAY;
use super::table::Name;
use crate::engine::Window;
use crate::model::Routing;

/// What every worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub enabled: bool,
    /// How long it rests at most while work waits.
    pub interval: Duration,
    /// Things of one step.
    pub batch: usize,
    /// Things at a time.
    pub concurrency: usize,
}

/// The settings of all workers. They hold from the next step.
#[derive(Clone, Debug, PartialEq)]
pub struct CrewSettings {
    each: [Settings; Name::ALL.len()],
    pub rebalancer: RebalancerSettings,
    pub scrubber: ScrubberSettings,
    pub reconciler: ReconcilerSettings,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RebalancerSettings {
    /// Toward the fullest, or toward equal shares.
    pub strategy: Routing,
    /// By how much used shares differ before it begins: 0.01 to 1.
    pub threshold: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubberSettings {
    /// In this time every replica is read once.
    pub pass: Duration,
    /// Bytes a second; `None`: as fast as it goes.
    pub rate: Option<u64>,
    /// The hours of the owner's day in which it reads; `None`: all.
    pub window: Option<Window>,
}

/// Beside `interval`, which is for services that are not metered. Metered ones are only looked at
/// when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconcilerSettings {
    /// How often local directories are looked at.
    pub local_interval: Duration,
}

impl CrewSettings {
    pub fn of(&self, name: Name) -> &Settings {
        &self.each[name as usize]
    }

    pub fn of_mut(&mut self, name: Name) -> &mut Settings {
        &mut self.each[name as usize]
    }
}

impl Default for CrewSettings {
    fn default() -> CrewSettings {
        CrewSettings {
            each: Name::ALL.map(Name::defaults),
            rebalancer: RebalancerSettings { strategy: Routing::Pack, threshold: 0.1 },
            scrubber: ScrubberSettings { pass: 30 * DAY, rate: None, window: None },
            reconciler: ReconcilerSettings { local_interval: 7 * DAY },
        }
    }
}
