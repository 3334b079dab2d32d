//! How fast the bytes of a backend are read again, and what follows from what was read.
//!
//! # Pace
//!
//! A pass goes over all that a backend holds and ends in a set time. A step does its even share of
//! what is left, and at least a batch: a small backend is read in a few steps and then has rest,
//! which is what a disk that sleeps wants. One that fell behind, because the machine was off or its
//! allowance was spent, catches up at a bounded pace, and ends its pass late.
//!
//! # Unreadable is not damaged
//!
//! A replica that cannot be read may be whole; so it is not given up, but it does not count either.
//! It is believed to be beyond rescue only when it has stayed so for a day ([`UNREADABLE_MAX`])
//! while its backend served others. Where nothing else can be read, it is the backend that fails.

use std::time::Duration;

use crate::base::Timestamp;

/// How long a replica may be unreadable before it is treated like a damaged one.
pub const UNREADABLE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How many times its even share a step may do when its pass has fallen behind.
const CATCH_UP_MAX: u64 = 2;

/// How far a pass over one backend has come; in replicas, or in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    pub total: u64,
    pub done: u64,
    pub began: Timestamp,
    /// How long it may take.
    pub length: Duration,
}

impl Pass {
    /// How much a step does now, when steps are `interval` apart; 0 when the pass is over.
    pub fn step(&self, interval: Duration, batch: u64, now: Timestamp) -> u64 {
        let rest = self.total.saturating_sub(self.done);
        let left = self.began.plus(self.length).since(now);
        let most = part(self.total, interval, self.length).saturating_mul(CATCH_UP_MAX);
        part(rest, interval, left).min(most).max(batch).min(rest)
    }

    /// When the next pass begins: never before the length of this one is over.
    pub fn next(&self) -> Timestamp {
        self.began.plus(self.length)
    }
}

/// What of `amount` falls on `span` when all of it shall be done within `whole`, rounded up.
fn part(amount: u64, span: Duration, whole: Duration) -> u64 {
    let (span, whole) = (span.as_micros(), whole.as_micros());
    if span >= whole {
        return amount;
    }
    let amount = u128::from(amount) * span;
    u64::try_from(amount.div_ceil(whole)).unwrap_or(u64::MAX)
}

/// Between two times of the owner's day, in minutes after local midnight: over midnight when `to` is
/// not after `from`.
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

    /// When it opens, while it is closed; `minute` is that of the owner's day at `now`.
    pub fn opens(&self, minute: u16, now: Timestamp) -> Option<Timestamp> {
        if self.holds(minute) {
            return None;
        }
        let minutes = (self.from + Window::DAY - minute) % Window::DAY;
        // Time zones differ by whole minutes.
        let begun = now.seconds() - now.seconds().rem_euclid(60);
        Some(Timestamp((begun + 60 * i64::from(minutes)) * 1_000_000))
    }
}

/// How long to rest after `bytes` were read in `took`, so that no more than `rate` bytes a second
/// are read; a rate of 0 is none.
pub fn rest_after(bytes: u64, took: Duration, rate: u64) -> Duration {
    let Some(micros) = (u128::from(bytes) * 1_000_000).checked_div(u128::from(rate)) else {
        return Duration::ZERO;
    };
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).saturating_sub(took)
}

/// What came of reading one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All of it, and its hash is right.
    Whole,
    WrongBytes,
    WrongLength,
    /// The backend, whose marker was seen, says that it is not there.
    Missing,
    /// The backend answered, and did not give the bytes.
    Unreadable {
        /// It gave others' bytes meanwhile.
        serves_others: bool,
    },
    /// The backend is absent, resting or out of allowance: nothing was asked.
    NotAsked,
}

/// What the store shall be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is good, and its bytes were compared now.
    Verified,
    Damaged,
    Missing,
    /// It cannot be read, from now on.
    Unreadable,
    /// It stays unreadable, since when it was.
    StillUnreadable,
    /// It has been unreadable for so long that it is treated like a damaged one.
    GivenUp,
    Nothing,
}

/// What follows for a replica that is known to be unreadable since `unreadable_since`, if it is.
pub fn verdict(found: Found, unreadable_since: Option<Timestamp>, now: Timestamp) -> Verdict {
    match (found, unreadable_since) {
        (Found::Whole, _) => Verdict::Verified,
        (Found::WrongBytes | Found::WrongLength, _) => Verdict::Damaged,
        (Found::Missing, _) => Verdict::Missing,
        (Found::Unreadable { serves_others: true }, None) => Verdict::Unreadable,
        (Found::Unreadable { serves_others: true }, Some(since))
            if now.since(since) >= UNREADABLE_MAX =>
        {
            Verdict::GivenUp
        }
        (Found::Unreadable { .. }, Some(_)) => Verdict::StillUnreadable,
        (Found::Unreadable { .. }, None) | (Found::NotAsked, _) => Verdict::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const BEGAN: Timestamp = Timestamp(1_000_000_000_000);

    fn pass(total: u64, done: u64) -> Pass {
        Pass { total, done, began: BEGAN, length: 30 * 24 * HOUR }
    }

    #[test]
    fn a_large_backend_is_read_evenly_and_a_small_one_in_batches() {
        assert_eq!(pass(1_200_000, 0).step(6 * HOUR, 100, BEGAN), 10_000);
        assert_eq!(pass(500, 0).step(6 * HOUR, 100, BEGAN), 100);
        assert_eq!(pass(500, 450).step(6 * HOUR, 100, BEGAN), 50);
        assert_eq!(pass(500, 500).step(6 * HOUR, 100, BEGAN), 0);
        assert_eq!(pass(121, 0).step(6 * HOUR, 0, BEGAN), 2);
        // Some were deleted in the middle of the pass.
        assert_eq!(pass(400, 450).step(6 * HOUR, 100, BEGAN), 0);
    }

    #[test]
    fn what_fell_behind_is_caught_up_at_a_bounded_pace() {
        let half = BEGAN.plus(15 * 24 * HOUR);
        assert_eq!(pass(1_200_000, 300_000).step(6 * HOUR, 100, half), 15_000);
        let late = BEGAN.plus(90 * 24 * HOUR);
        assert_eq!(pass(1_200_000, 0).step(6 * HOUR, 100, late), 20_000);
        assert_eq!(pass(1_200_000, 0).next(), BEGAN.plus(30 * 24 * HOUR));
    }

    #[test]
    fn a_rate_is_kept_by_resting() {
        let second = Duration::from_secs(1);
        assert_eq!(rest_after(10_000, second, 2_000), 4 * second);
        assert_eq!(rest_after(10_000, 9 * second, 2_000), Duration::ZERO);
        assert_eq!(rest_after(u64::MAX, second, 0), Duration::ZERO);
        assert!(rest_after(u64::MAX, second, 1) > Duration::from_secs(1 << 40));
    }

    #[test]
    fn a_window_holds_over_midnight_and_opens_with_its_minute() {
        let (day, night) = (Window { from: 480, to: 1080 }, Window { from: 1320, to: 360 });
        let held = [0, 359, 360, 479, 480, 1079, 1080, 1319, 1320, 1439];
        let when = |window: Window| held.map(|minute| window.holds(minute));
        assert_eq!(when(day), [false, false, false, false, true, true, false, false, false, false]);
        assert_eq!(when(night), [true, true, false, false, false, false, false, false, true, true]);
        let noon = 1_700_049_600;
        let at = Timestamp(noon * 1_000_000 + 30_000_000);
        let minutes = |opens: Option<Timestamp>| opens.map(|opens| (opens.seconds() - noon) / 60);
        assert_eq!(day.opens(720, at), None);
        assert_eq!(minutes(day.opens(0, at)), Some(480));
        assert_eq!(minutes(day.opens(1081, at)), Some(839));
        assert_eq!(minutes(night.opens(1319, at)), Some(1));
        assert_eq!(minutes(night.opens(360, at)), Some(960));
    }

    #[test]
    fn every_reading_has_its_verdict() {
        let now = BEGAN;
        let (fresh, recent, old) =
            (None, Some(now.minus(23 * HOUR)), Some(now.minus(UNREADABLE_MAX)));
        let unreadable = |serves_others| Found::Unreadable { serves_others };
        use Verdict::*;
        for (found, [when_fresh, when_recent, when_old]) in [
            (Found::Whole, [Verified, Verified, Verified]),
            (Found::WrongBytes, [Damaged, Damaged, Damaged]),
            (Found::WrongLength, [Damaged, Damaged, Damaged]),
            (Found::Missing, [Missing, Missing, Missing]),
            (unreadable(true), [Unreadable, StillUnreadable, GivenUp]),
            (unreadable(false), [Nothing, StillUnreadable, StillUnreadable]),
            (Found::NotAsked, [Nothing, Nothing, Nothing]),
        ] {
            assert_eq!(verdict(found, fresh, now), when_fresh, "{found:?}");
            assert_eq!(verdict(found, recent, now), when_recent, "{found:?}");
            assert_eq!(verdict(found, old, now), when_old, "{found:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pass_that_is_stepped_in_time_ends_in_time(
            total in 0_u64..100_000,
            batch in 0_u64..200,
            steps in 1_u32..200,
            odd in 0_u64..1_000,
        ) {
            let interval = HOUR;
            let length = interval * steps + Duration::from_millis(odd);
            let mut pass = Pass { total, done: 0, began: BEGAN, length };
            let mut now = BEGAN;
            while now < pass.next() {
                let step = pass.step(interval, batch, now);
                prop_assert!(step <= total - pass.done);
                prop_assert!(step > 0 || pass.done == total);
                pass.done += step;
                now = now.plus(interval);
            }
            prop_assert_eq!(pass.done, total);
        }

        /// However late it is, a step is bounded and the pass goes on.
        #[test]
        fn a_late_pass_goes_on_in_bounded_steps(
            total in 1_u64..100_000, done in 0_u64..100_000, batch in 0_u64..200, late in 0_u32..2_000,
        ) {
            let done = done.min(total - 1);
            let step = pass(total, done).step(6 * HOUR, batch, BEGAN.plus(HOUR * late));
            prop_assert!(step >= 1);
            prop_assert!(step <= batch.max(2 * total.div_ceil(120)));
        }
    }
}
