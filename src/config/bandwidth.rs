//! `[backend.bandwidth]`: how fast bytes may flow, by the hour.

use super::finding::Findings;
use super::profile::MINUTES_A_DAY;
use super::profile::minutes;
use super::reader::Spot;
use crate::backend::Bandwidth;
use crate::backend::Hours;
use crate::base::ByteSize;

/// With less, a blob of some size would never arrive within any patience.
pub(crate) const RATE_MIN: u64 = 64 << 10;
/// Entries of one direction.
const ENTRIES_MAX: usize = 48;
const FORMS: &str = "\"22:00-06:00 10 MiB/s\", or \"2 MiB/s\" for the whole day";

type RawEntries = Option<Spot<Vec<Spot<String>>>>;

pub(crate) struct RawBandwidth {
    pub(crate) up: RawEntries,
    pub(crate) down: RawEntries,
}

pub(crate) fn check(raw: &RawBandwidth, found: &mut Findings) -> Bandwidth {
    Bandwidth { up: timetable(&raw.up, "up", found), down: timetable(&raw.down, "down", found) }
}

fn timetable(raw: &RawEntries, key: &str, found: &mut Findings) -> Vec<Hours> {
    let Some(entries) = raw else { return Vec::new() };
    if entries.value.len() > ENTRIES_MAX {
        let count = entries.value.len();
        found.wrong(entries.at, format!("`{key}` has {count} entries, {ENTRIES_MAX} at most"));
        return Vec::new();
    }
    let mut taken = [false; MINUTES_A_DAY as usize];
    let mut timetable = Vec::new();
    for entry in &entries.value {
        let hours = match read(&entry.value) {
            Ok(hours) => hours,
            Err(why) => {
                found.wrong_hint(entry.at, format!("`{}`: {why}", entry.value), FORMS);
                continue;
            }
        };
        if hours.rate < RATE_MIN {
            let (rate, least) = (ByteSize(hours.rate), ByteSize(RATE_MIN));
            found.wrong(entry.at, format!("`{key}` is {rate}/s, it can be {least}/s or more"));
        }
        let overlaps = minutes_of(&hours).filter(|&minute| taken[minute]).count();
        let never_holds = overlaps == minutes_of(&hours).count();
        // One for the whole day after others is meant for the rest of it.
        if never_holds || (overlaps > 0 && hours.from != hours.to) {
            let hint = match never_holds {
                true => "the first entry that holds counts, so this one never does",
                false => "the first entry that holds counts",
            };
            let text = format!("`{}` overlaps an entry before it", entry.value);
            found.doubtful(entry.at, text, hint);
        }
        minutes_of(&hours).for_each(|minute| taken[minute] = true);
        timetable.push(hours);
    }
    timetable
}

/// The minutes of a day in which an entry holds.
fn minutes_of(hours: &Hours) -> impl Iterator<Item = usize> {
    let (from, day) = (usize::from(hours.from), usize::from(MINUTES_A_DAY));
    let length = (usize::from(hours.to) + day - from) % day;
    let length = if length == 0 { day } else { length };
    (from..from + length).map(move |minute| minute % day)
}

fn read(text: &str) -> Result<Hours, String> {
    let (times, rate) = match text.trim().split_once(' ') {
        Some((times, rate)) if times.contains(':') => (Some(times), rate),
        _ => (None, text),
    };
    let rate = read_rate(rate)?;
    let Some(times) = times else { return Ok(Hours { from: 0, to: 0, rate }) };
    let (from, to) = read_times(times)?;
    Ok(Hours { from, to, rate })
}

/// `HH:MM-HH:MM`, in minutes after midnight.
pub(crate) fn read_times(times: &str) -> Result<(u16, u16), String> {
    let (from, to) = times.split_once('-').ok_or("two times stand with a `-` between them")?;
    let wrong = |time: &str| format!("`{time}` is no time of day");
    let from = minutes(from).ok_or_else(|| wrong(from))?;
    let to = match to {
        "24:00" => 0,
        to => minutes(to).ok_or_else(|| wrong(to))?,
    };
    Ok((from, to))
}

/// A size a second.
pub(crate) fn read_rate(rate: &str) -> Result<u64, String> {
    let size = rate.trim().strip_suffix("/s").ok_or("a rate ends in `/s`")?;
    Ok(size.parse::<ByteSize>()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_in_both_forms() {
        let hours = |from, to, rate| Ok(Hours { from, to, rate });
        assert_eq!(read("2 MiB/s"), hours(0, 0, 2 << 20));
        assert_eq!(read(" 100KB/s "), hours(0, 0, 100_000));
        assert_eq!(read("08:00-18:30 1 MiB/s"), hours(480, 1110, 1 << 20));
        assert_eq!(read("22:00-06:00 64 KiB/s"), hours(1320, 360, RATE_MIN));
        assert_eq!(read("22:00-24:00 64 KiB/s"), hours(1320, 0, RATE_MIN));
        for wrong in [
            "",
            "fast",
            "2 MiB",
            "08:00 2 MiB/s",
            "08:00-25:00 2 MiB/s",
            "24:00-08:00 2 MiB/s",
            "5/s",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_entry_holds_over_midnight() {
        let count = |from, to| minutes_of(&Hours { from, to, rate: 1 }).count();
        assert_eq!((count(0, 0), count(1320, 360), count(60, 61)), (1440, 480, 1));
        let night = minutes_of(&Hours { from: 1439, to: 1, rate: 1 });
        assert_eq!(night.collect::<Vec<_>>(), [1439, 0]);
    }
}
