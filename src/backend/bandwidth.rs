//! How fast bytes may flow to and from one backend, by the hour.
//!
//! The hours are those of the owner's day: of the machine's time zone, summer time included.

use jiff::tz::TimeZone;

use crate::base::Timestamp;

/// A timetable for each direction; empty: as fast as it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    pub up: Vec<Hours>,
    pub down: Vec<Hours>,
}

/// A rate between two times of the owner's day; the first entry that holds counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Minutes after local midnight. From `from` to before `to`; over midnight when `to` is not
    /// after `from`, the whole day when they are equal.
    pub from: u16,
    pub to: u16,
    /// Bytes a second, at least [`Bandwidth::RATE_MIN`].
    pub rate: u64,
}

impl Bandwidth {
    /// The lowest rate. Below it requests that share it would wait longer for their turn than
    /// providers wait for the next byte.
    pub const RATE_MIN: u64 = 64 << 10;
}

impl Hours {
    /// Minutes of a day; each time is below this.
    pub const DAY: u16 = 24 * 60;

    fn holds(&self, minute: u16) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => self.from <= minute || minute < self.to || self.from == self.to,
        }
    }
}

/// The rate at a minute of the owner's day; `None`: as fast as it goes.
pub(super) fn rate(hours: &[Hours], minute: u16) -> Option<u64> {
    let entry = hours.iter().find(|hours| hours.holds(minute))?;
    Some(entry.rate.max(Bandwidth::RATE_MIN))
}

/// The minute of the owner's day at a moment.
pub fn minute_of_day(at: Timestamp) -> u16 {
    // What is beyond the calendar has midnight.
    let at = jiff::Timestamp::from_microsecond(at.0).unwrap_or_default();
    let local = at.to_zoned(TimeZone::system());
    u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn hours(from: u16, to: u16, rate: u64) -> Hours {
        Hours { from, to, rate: rate << 20 }
    }

    #[test]
    fn the_first_entry_that_holds_counts() {
        let day = [hours(8 * 60, 18 * 60 + 30, 2), hours(12 * 60, 20 * 60, 4)];
        let at = |hour: u16, minute: u16| rate(&day, hour * 60 + minute).map(|rate| rate >> 20);
        assert_eq!(at(7, 59), None);
        assert_eq!(at(8, 0), Some(2));
        assert_eq!(at(18, 29), Some(2));
        assert_eq!(at(18, 30), Some(4));
        assert_eq!(at(20, 0), None);
    }

    #[test]
    fn hours_go_over_midnight_and_round_the_day() {
        let night = [hours(22 * 60, 6 * 60, 1)];
        let holds = (0..Hours::DAY).filter(|&minute| rate(&night, minute).is_some());
        assert_eq!(holds.count(), 8 * 60);
        assert!(rate(&night, 0).is_some() && rate(&night, 6 * 60).is_none());
        let always = [hours(9 * 60, 9 * 60, 1)];
        assert!((0..Hours::DAY).all(|minute| rate(&always, minute) == Some(1 << 20)));
        assert_eq!(rate(&[Hours { rate: 1, ..always[0] }], 0), Some(Bandwidth::RATE_MIN));
    }

    #[test]
    fn a_minute_of_the_day_follows_the_clock() {
        let at = |seconds: i64| minute_of_day(Timestamp(seconds * 1_000_000));
        let noon = 1_700_000_000;
        let later = |minutes: u16| at(noon + i64::from(minutes) * 60);
        assert_eq!(later(1), (later(0) + 1) % Hours::DAY);
        assert!(minute_of_day(Timestamp(i64::MAX)) < Hours::DAY);
    }
}
