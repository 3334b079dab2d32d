//! Time, passed in.
//!
//! The program asks a [`Clock`] that it was given, never the system, so that a test can steer
//! time. Points in time are whole microseconds since 1970 in UTC, as the store keeps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment `span` later, or the last one that can be written.
    pub fn plus(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The moment `span` earlier, or the first one that can be written.
    pub fn minus(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since 1970, rounded down: the resolution that HTTP dates have.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Steered(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock. It may jump, also backwards; nothing in Larder orders by it.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands still at `micros` until its owner moves it.
    pub fn steered(micros: Arc<AtomicI64>) -> Clock {
        Clock(Source::Steered(micros))
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
            Source::Steered(micros) => Timestamp(micros.load(Ordering::Acquire)),
        }
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock(system)",
            Source::Steered(_) => "Clock(steered)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Timestamp(i64::MAX).plus(Duration::from_secs(1)), Timestamp(i64::MAX));
        assert_eq!(Timestamp(i64::MIN).minus(Duration::MAX), Timestamp(i64::MIN));
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(-1).seconds(), -1);
    }

    #[test]
    fn a_steered_clock_moves_only_when_it_is_moved() {
        let hand = Arc::new(AtomicI64::new(7));
        let clock = Clock::steered(Arc::clone(&hand));
        assert_eq!(clock.now(), Timestamp(7));
        hand.store(11, Ordering::Release);
        assert_eq!(clock.now(), Timestamp(11));
    }
}
