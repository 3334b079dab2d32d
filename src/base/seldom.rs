//! A line of the log for many of a kind: clients that try again must not fill the disk with it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// The least time between two lines of a kind.
const EVERY: Duration = Duration::from_secs(60);

/// When something was said last, and how often it was not said since.
#[derive(Debug)]
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    pub const fn new() -> Seldom {
        Seldom(Mutex::new((None, 0)))
    }

    /// Whether it is to be said now: how often it was not, since it was last. `None`: not now.
    pub fn turn(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.0.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            said.1 += 1;
            return None;
        }
        said.0 = Some(now);
        Some(std::mem::take(&mut said.1))
    }
}

impl Default for Seldom {
    fn default() -> Seldom {
        Seldom::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_the_rest_are_counted() {
        let (seldom, begin) = (Seldom::new(), Instant::now());
        let turns = [0, 1, 59, 60, 61, 300].map(|at| seldom.turn(begin + Duration::from_secs(at)));
        assert_eq!(turns, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
