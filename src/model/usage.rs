//! What a provider counts: requests by class and bytes, a month or a day at a time, and the limits
//! that an owner sets to them.
//!
//! # Why nothing here is a bare number
//!
//! A bill has four kinds of numbers that all look alike. They are recorded by verbs of their own
//! (`Meter` in `backend`), kept in named fields, and compared with the limit of the same name.

use std::fmt;
use std::ops::AddAssign;

use crate::base::Timestamp;

/// Whose work a call is. Clients come first: work has a share of an allowance and pauses sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    Client,
    Work,
}

/// A class of requests with one allowance and one price. Which request is in which class is a
/// property of the provider. The order is that of stored counts: a new one goes to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    A,
    B,
    C,
    /// Counted, and neither limited nor paid for.
    Free,
}

impl Class {
    pub const ALL: [Class; 4] = [Class::A, Class::B, Class::C, Class::Free];

    pub fn name(self) -> &'static str {
        match self {
            Class::A => "a",
            Class::B => "b",
            Class::C => "c",
            Class::Free => "free",
        }
    }
}

/// What Larder asked of a backend, however many requests that took. The order is that of stored
/// counts: a new one goes to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Write,
    Read,
    Stat,
    Delete,
    List,
    /// A look at the marker.
    Look,
}

impl Operation {
    pub const ALL: [Operation; 6] = [
        Operation::Write,
        Operation::Read,
        Operation::Stat,
        Operation::Delete,
        Operation::List,
        Operation::Look,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::Write => "write",
            Operation::Read => "read",
            Operation::Stat => "stat",
            Operation::Delete => "delete",
            Operation::List => "list",
            Operation::Look => "look",
        }
    }
}

/// Counts, of one backend in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Requests really sent, failed ones too, by class.
    pub calls: [u64; Class::ALL.len()],
    /// Bytes that the backend gave us.
    pub egress: u64,
    /// Bytes that we gave it.
    pub ingress: u64,
    pub operations: [u64; Operation::ALL.len()],
}

/// All counts of a period, and those among them that were background work's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub all: Amounts,
    pub work: Amounts,
}

impl Amounts {
    /// Requests of all classes that can be limited together.
    pub fn requests(&self) -> u64 {
        let free = self.calls[Class::Free as usize];
        self.calls.iter().fold(0, |sum: u64, &calls| sum.saturating_add(calls)) - free
    }

    /// Field by field.
    pub fn zip(&self, other: &Amounts, with: impl Fn(u64, u64) -> u64) -> Amounts {
        Amounts {
            calls: std::array::from_fn(|i| with(self.calls[i], other.calls[i])),
            egress: with(self.egress, other.egress),
            ingress: with(self.ingress, other.ingress),
            operations: std::array::from_fn(|i| with(self.operations[i], other.operations[i])),
        }
    }
}

impl Tally {
    /// Field by field.
    pub fn zip(&self, other: &Tally, with: impl Fn(u64, u64) -> u64) -> Tally {
        Tally { all: self.all.zip(&other.all, &with), work: self.work.zip(&other.work, &with) }
    }

    /// The larger of both in each field.
    pub fn most(&self, other: &Tally) -> Tally {
        self.zip(other, u64::max)
    }
}

impl AddAssign<&Tally> for Tally {
    fn add_assign(&mut self, other: &Tally) {
        *self = self.zip(other, u64::saturating_add);
    }
}

/// A calendar month in UTC, or a day that begins when the provider says.
///
/// Kept as the number `yyyymm` or `yyyymmdd`, so the two never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub u32);

/// When a provider's day begins: minutes after midnight in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayBegins(pub u16);

/// What may be used in one period. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Of all classes together but [`Class::Free`].
    pub requests: Option<u64>,
    /// By class; that of [`Class::Free`] is never set.
    pub calls: [Option<u64>; Class::ALL.len()],
    pub egress: Option<u64>,
    pub ingress: Option<u64>,
}

/// What the owner lets a backend, or all backends of one account, use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub month: Allowance,
    pub day: Allowance,
    /// Of each allowance, what background work may use: 0 to 1.
    pub background_share: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        let (month, day) = (Allowance::default(), Allowance::default());
        Limits { month, day, background_share: Limits::BACKGROUND_SHARE }
    }
}

impl Limits {
    pub const BACKGROUND_SHARE: f64 = 0.5;

    /// The part of a limit that background work may use.
    pub fn share_of(&self, limit: u64) -> u64 {
        ((limit as f64 * self.background_share) as u64).min(limit)
    }

    /// Whether anything is limited.
    pub fn is_set(&self) -> bool {
        [self.month, self.day].iter().any(|allowance| *allowance != Allowance::default())
    }
}

impl Period {
    pub fn month(at: Timestamp) -> Period {
        let (year, month, _) = civil(at.seconds().div_euclid(DAY));
        Period(year * 100 + month)
    }

    pub fn day(at: Timestamp, begins: DayBegins) -> Period {
        let (year, month, day) = civil((at.seconds() - begins.seconds()).div_euclid(DAY));
        Period(year * 10_000 + month * 100 + day)
    }

    pub fn is_day(self) -> bool {
        self.0 >= FIRST_DAY.0
    }

    /// The first moment of it. A month begins at midnight, whatever `begins` says.
    pub fn begins(self, begins: DayBegins) -> Timestamp {
        let (year, month, day) = self.parts();
        let seconds = days(year, month, day.max(1)).saturating_mul(DAY);
        let seconds = if self.is_day() { seconds + begins.seconds() } else { seconds };
        Timestamp(seconds.saturating_mul(1_000_000))
    }

    /// The first moment after it.
    pub fn ends(self, begins: DayBegins) -> Timestamp {
        if self.is_day() {
            return Timestamp(self.begins(begins).0.saturating_add(DAY * 1_000_000));
        }
        let (year, month, _) = self.parts();
        let next = if month < 12 { (year, month + 1) } else { (year + 1, 1) };
        Period(next.0 * 100 + next.1).begins(begins)
    }

    /// Year, month and day; a month has day 0.
    fn parts(self) -> (u32, u32, u32) {
        match self.is_day() {
            true => (self.0 / 10_000, self.0 / 100 % 100, self.0 % 100),
            false => (self.0 / 100, self.0 % 100, 0),
        }
    }
}

/// "in November 2026", "on 22 November 2026".
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.parts();
        let name = MONTHS[(month.clamp(1, 12) - 1) as usize];
        match day {
            0 => write!(f, "in {name} {year}"),
            day => write!(f, "on {day} {name} {year}"),
        }
    }
}

/// Every month is below it.
pub const FIRST_DAY: Period = Period(10_000_000);

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAY: i64 = 86_400;

impl DayBegins {
    fn seconds(self) -> i64 {
        i64::from(self.0) * 60
    }
}

/// Year, month and day of a day that is counted from 1970-01-01.
///
/// Algorithm: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: i64) -> (u32, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

/// The other way round: `days_from_civil` of the same paper.
fn days(year: u32, month: u32, day: u32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = (i64::from(month) + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + i64::from(day) - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A period begins and ends where the next and the last one say.
        #[test]
        fn periods_meet_without_gap_or_overlap(seconds in 0..8_000_000_000_i64, at in 0..1440_u16) {
            let (now, begins) = (Timestamp(seconds * 1_000_000), DayBegins(at));
            for (period, of) in [
                (Period::month(now), (|at, _| Period::month(at)) as fn(Timestamp, DayBegins) -> Period),
                (Period::day(now, begins), Period::day),
            ] {
                let (first, after) = (period.begins(begins), period.ends(begins));
                prop_assert!(first <= now && now < after);
                prop_assert_eq!(of(first, begins), period);
                prop_assert_eq!(of(Timestamp(after.0 - 1), begins), period);
                let next = of(after, begins);
                prop_assert!(next > period);
                prop_assert_eq!(next.begins(begins), after);
            }
        }
    }

    #[test]
    fn months_have_their_days_and_periods_their_names() {
        let length = |month: u32| {
            let month = Period(month);
            let (begins, ends) = (month.begins(DayBegins(700)), month.ends(DayBegins(700)));
            ends.since(begins).as_secs() / 86_400
        };
        assert_eq!([202_401, 202_402, 202_502, 202_604, 210_002].map(length), [31, 29, 28, 30, 28]);
        assert_eq!(Period(202_611).to_string(), "in November 2026");
        assert_eq!(Period(20_261_102).to_string(), "on 2 November 2026");
        assert!(Period(999_912) < FIRST_DAY);
    }

    #[test]
    fn free_requests_are_not_limited_together_with_the_others() {
        let amounts = Amounts { calls: [1, 2, 4, 8], ..Amounts::default() };
        assert_eq!(amounts.requests(), 7);
    }

    #[test]
    fn a_period_is_the_civil_one() {
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        // 2024-02-29T23:59:59Z and a second later.
        assert_eq!(Period::month(at(1_709_251_199)), Period(202_402));
        assert_eq!(Period::month(at(1_709_251_200)), Period(202_403));
        let midnight = DayBegins::default();
        assert_eq!(Period::day(at(1_709_251_199), midnight), Period(20_240_229));
        assert_eq!(Period::day(at(1_709_251_200), midnight), Period(20_240_301));
        // A day that begins at 08:00 is still yesterday's at 07:59.
        let eight = DayBegins(8 * 60);
        assert_eq!(Period::day(at(1_709_251_200 + 8 * 3600 - 1), eight), Period(20_240_229));
        assert_eq!(Period::day(at(1_709_251_200 + 8 * 3600), eight), Period(20_240_301));
        assert_eq!(Period::month(at(0)), Period(197_001));
        assert!(Period(19_700_101).is_day() && !Period(197_001).is_day());
    }
}
