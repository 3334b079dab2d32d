//! When a limit is reached at today's rate, what a period will come to, and what that costs.
//!
//! # What a rate is
//!
//! What was used so far, over the time that the period has lasted: every hour counts the same, so
//! one busy day does not make an alarm and the night does not take one back. Early in a period
//! there is little to go by, and one upload in its first minute must not be foreseen to go on for a
//! month: until a part of the period ([`EARLY`]) has passed, what was used is taken as if it had
//! taken that long. That can say too late, never too early, and rights itself within the day.

use crate::base::Timestamp;

/// The part of a period before which its rate is not believed: about thirty hours of a month, an
/// hour of a day.
const EARLY: i64 = 24;

/// How far a period has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub begins: Timestamp,
    pub ends: Timestamp,
    pub now: Timestamp,
}

impl Progress {
    /// What will have been used when the period ends, if it goes on like this.
    pub fn expected(&self, used: u64) -> u64 {
        let more = wide(used) * self.left() / self.over();
        u64::try_from(wide(used) + more).unwrap_or(u64::MAX)
    }

    /// When `limit` will have been used up, if it goes on like this; now, when it is already.
    /// `None`: not in this period.
    pub fn reached(&self, used: u64, limit: u64) -> Option<Timestamp> {
        if used >= limit {
            return Some(self.now);
        }
        let missing = wide(limit - used) * self.over();
        let after = missing.div_ceil(wide(used).max(1));
        let is_in_time = used > 0 && after < self.left();
        let after = i64::try_from(after).ok().filter(|_| is_in_time)?;
        Some(Timestamp(self.now.0.saturating_add(after)))
    }

    /// The part of the period that has passed: 0 to 1.
    pub fn share(&self) -> f64 {
        let length = self.ends.since(self.begins).as_secs_f64();
        let passed = self.now.since(self.begins).as_secs_f64();
        if length > 0.0 { (passed / length).min(1.0) } else { 1.0 }
    }

    /// Microseconds over which what was used is spread; never 0.
    fn over(&self) -> u128 {
        let length = self.ends.0.saturating_sub(self.begins.0);
        let passed = self.now.0.saturating_sub(self.begins.0);
        passed.max(length / EARLY).max(1) as u128
    }

    /// Microseconds that are left.
    fn left(&self) -> u128 {
        self.ends.0.saturating_sub(self.now.0).max(0) as u128
    }
}

fn wide(number: u64) -> u128 {
    u128::from(number)
}

/// One position of a bill, in the unit that its price is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    pub used: f64,
    pub expected: f64,
    /// `None`: not known.
    pub price: Option<f64>,
}

/// In the currency of the prices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Money {
    pub spent: f64,
    /// At the end of the month.
    pub expected: f64,
}

/// What the positions with a known price come to; `None` when there is none.
pub fn money(positions: &[Position]) -> Option<Money> {
    let priced = positions.iter().filter_map(|position| Some((position, position.price?)));
    priced.fold(None, |sum, (position, price)| {
        let Money { spent, expected } = sum.unwrap_or_default();
        Some(Money {
            spent: spent + position.used * price,
            expected: expected + position.expected * price,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::DayBegins;
    use crate::model::Period;

    const DAY: i64 = 86_400_000_000;

    /// A month, or a day, and a moment in it.
    fn progress() -> impl Strategy<Value = Progress> {
        let periods = vec![202_402, 202_502, 202_612, 202_611, 20_240_229, 20_261_231];
        (prop::sample::select(periods), 0.0..1.0_f64).prop_map(|(period, part)| {
            let begins = Period(period).begins(DayBegins::default());
            let ends = Period(period).ends(DayBegins::default());
            let now = Timestamp(begins.0 + ((ends.0 - begins.0) as f64 * part) as i64);
            Progress { begins, ends, now }
        })
    }

    proptest! {
        #[test]
        fn a_limit_is_reached_between_now_and_the_end_or_not_at_all(
            at in progress(), used in 0..2_000_u64, limit in 1..2_000_u64,
        ) {
            match at.reached(used, limit) {
                Some(reached) => prop_assert!(at.now <= reached && reached < at.ends),
                None => prop_assert!(used < limit),
            }
            if used == 0 {
                prop_assert_eq!((at.reached(used, limit), at.expected(used)), (None, 0));
            }
        }

        /// More use never means a later date nor a smaller sum, and both say the same.
        #[test]
        fn a_higher_rate_is_reached_sooner(
            at in progress(), used in 0..2_000_u64, more in 0..2_000_u64, limit in 1..2_000_u64,
        ) {
            let never = Timestamp(i64::MAX);
            let reached = |used| at.reached(used, limit).unwrap_or(never);
            prop_assert!(reached(used + more) <= reached(used));
            prop_assert!(at.expected(used + more) >= at.expected(used) && at.expected(used) >= used);
            if at.reached(used, limit).is_some() {
                prop_assert!(at.expected(used) >= limit);
            }
            if at.expected(used) > limit {
                prop_assert!(at.reached(used, limit).is_some());
            }
        }

        /// At a steady rate the end is foreseen rightly at any time, once it is not early any more.
        #[test]
        fn a_steady_rate_is_foreseen(at in progress(), hourly in 1..1_000_u64) {
            let hours = |to: Timestamp| to.since(at.begins).as_secs_f64() / 3600.0;
            let used = (hours(at.now) * hourly as f64) as u64;
            let truth = (hours(at.ends) * hourly as f64) as u64;
            let expected = at.expected(used);
            prop_assert!(expected <= truth + 1, "{} {}", expected, truth);
            if at.share() >= 1.0 / EARLY as f64 {
                let slack = truth / (used + 1) + 2;
                prop_assert!(expected + slack >= truth, "{} {}", expected, truth);
            }
        }
    }

    #[test]
    fn days_of_a_month_count() {
        let february = |period: u32| {
            let begins = Period(period).begins(DayBegins::default());
            let ends = Period(period).ends(DayBegins::default());
            Progress { begins, ends, now: Timestamp(begins.0 + 14 * DAY) }
        };
        // Leap years have a day more in which to use something.
        assert_eq!(february(202_402).expected(1400), 2900);
        assert_eq!(february(202_502).expected(1400), 2800);
        let at = february(202_502);
        assert_eq!(at.reached(1400, 2000), Some(Timestamp(at.begins.0 + 20 * DAY)));
        assert_eq!(
            at.reached(1400, 2800),
            None,
            "it is reached as the month ends, which is in time"
        );
        assert_eq!(at.reached(2000, 2000), Some(at.now));
    }

    #[test]
    fn a_burst_at_the_beginning_is_no_rate() {
        let begins = Period(202_611).begins(DayBegins::default());
        let ends = Period(202_611).ends(DayBegins::default());
        let at = Progress { begins, ends, now: Timestamp(begins.0 + 60_000_000) };
        let expected = at.expected(1_000_000);
        assert!((24_000_000..=25_000_000).contains(&expected), "{expected}");
        let reached = at.reached(1_000_000, 2_000_000).unwrap();
        assert_eq!(reached.since(at.now).as_secs(), 30 * 3600);
        // Nothing overflows, and time that is out of place is no trouble.
        assert_eq!(at.expected(u64::MAX), u64::MAX);
        assert!(at.reached(u64::MAX - 1, u64::MAX).is_some());
        let early = Progress { now: Timestamp(begins.0 - DAY), ..at };
        assert!(early.expected(10) >= 10 && early.share() == 0.0);
        let late = Progress { now: Timestamp(ends.0 + DAY), ..at };
        assert_eq!((late.expected(10), late.share(), late.reached(1, 2)), (10, 1.0, None));
    }

    #[test]
    fn only_what_has_a_price_is_paid_for() {
        let position = |used, expected, price| Position { used, expected, price };
        assert_eq!(money(&[]), None);
        assert_eq!(money(&[position(5.0, 9.0, None)]), None);
        let two = [position(5.0, 9.0, None), position(2.0, 4.0, Some(0.5))];
        assert_eq!(money(&two), Some(Money { spent: 1.0, expected: 2.0 }));
        let free = [position(2.0, 4.0, Some(0.0))];
        assert_eq!(money(&free), Some(Money::default()));
    }
}
