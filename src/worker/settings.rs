//! What the owner may choose about the workers.

use std::time::Duration;

use super::table::DAY;
use super::table::Name;
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

/// Between two times of day, in minutes after local midnight: over midnight when `to` is not after
/// `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: u16,
    pub to: u16,
}

impl Window {
    /// Minutes of a day.
    const DAY: u16 = 24 * 60;

    /// Whether it is open at a minute of the day.
    pub fn holds(&self, minute: u16) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => self.from <= minute || minute < self.to,
        }
    }

    /// Minutes until it opens; 0 while it is open.
    pub fn opens_in(&self, minute: u16) -> u16 {
        match self.holds(minute) {
            true => 0,
            false => (self.from + Window::DAY - minute) % Window::DAY,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_over_midnight_and_says_when_it_opens() {
        let (day, night) = (Window { from: 480, to: 1080 }, Window { from: 1320, to: 360 });
        let held = [0, 359, 360, 479, 480, 1079, 1080, 1319, 1320, 1439];
        let when = |window: Window| held.map(|minute| window.holds(minute));
        assert_eq!(when(day), [false, false, false, false, true, true, false, false, false, false]);
        assert_eq!(when(night), [true, true, false, false, false, false, false, false, true, true]);
        assert_eq!([day.opens_in(0), day.opens_in(480), day.opens_in(1081)], [480, 0, 839]);
        assert_eq!([night.opens_in(360), night.opens_in(1319), night.opens_in(5)], [960, 1, 0]);
    }
}
