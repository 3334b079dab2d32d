//! Byte sizes and durations as people write them.
//!
//! `500 GB` is 500·10⁹ bytes, `500 GiB` is 500·2³⁰. A bare number has no meaning and is refused
//! with both forms shown. Durations take `us`, `ms`, `s`, `min`, `h`, `d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("PB", 1_000_000_000_000_000),
    ("PiB", 1 << 50),
];

const DURATION_UNITS: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let value =
            parse(text, SIZE_UNITS, "a size with a unit, such as \"500 GB\" or \"64 MiB\"")?;
        Ok(ByteSize(value))
    }
}

/// The duration that `text` says.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let shape = "a duration with a unit, such as \"90 s\" or \"5 min\"";
    parse(text, DURATION_UNITS, shape).map(Duration::from_micros)
}

/// Reads `NUMBER UNIT`; the number may have up to three decimals.
fn parse(text: &str, units: &[(&str, u64)], shape: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not {shape}");
    let text_trimmed = text.trim();
    let split =
        text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_trimmed.len());
    let (number, unit) = text_trimmed.split_at(split);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let fits = !whole.is_empty() && decimals.len() <= 3 && !number.ends_with('.');
    let digits = format!("{whole}{decimals:0<3}");
    let thousandths: u128 = digits.parse().ok().filter(|_| fits).ok_or_else(wrong)?;
    u64::try_from(thousandths * u128::from(*factor) / 1000)
        .ok()
        .filter(|&value| value <= i64::MAX as u64)
        .ok_or_else(|| format!("`{text}` is too large"))
}

impl ByteSize {
    /// In the largest unit of which it is a whole number, so that it reads back as the same size.
    pub fn exact(self) -> String {
        let units = [
            ("TiB", 1 << 40),
            ("TB", 1_000_000_000_000),
            ("GiB", 1 << 30),
            ("GB", 1_000_000_000),
            ("MiB", 1 << 20),
            ("MB", 1_000_000),
            ("KiB", 1 << 10),
            ("kB", 1_000),
        ];
        let is_whole = |factor: &u64| self.0 != 0 && self.0.is_multiple_of(*factor);
        match units.into_iter().find(|(_, factor)| is_whole(factor)) {
            Some((unit, factor)) => format!("{} {unit}", self.0 / factor),
            None => format!("{} B", self.0),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
                .into_iter()
                .find(|&(_, factor)| self.0 >= factor)
                .unwrap_or(("B", 1));
        if self.0.is_multiple_of(factor) {
            write!(f, "{} {unit}", self.0 / factor)
        } else {
            write!(f, "{:.1} {unit}", self.0 as f64 / factor as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_say_which_thousand_they_mean() {
        for (text, bytes) in [
            ("0 B", 0),
            ("500 GB", 500_000_000_000),
            ("500 GiB", 500 << 30),
            ("1.5MiB", 3 << 19),
            (" 64 KiB ", 65536),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        for wrong in ["", "5", "GB", "5 gb", "-1 GB", "1.0000 GB", "1. GB", "9 EB", "99999999 PB"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn exact_sizes_read_back_as_they_were() {
        for bytes in [0, 1, 1024, 1501, 3 << 30, (3 << 30) + 1] {
            assert_eq!(ByteSize(bytes).exact().parse::<ByteSize>(), Ok(ByteSize(bytes)));
        }
        for text in ["10 GB", "500 GiB", "1501 B", "5 TB", "1 kB", "0 B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().exact(), text, "as its owner wrote it");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("90 s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5 h"), Ok(Duration::from_secs(5400)));
        assert!(parse_duration("90").is_err());
        assert!(parse_duration("90 m").is_err());
    }

    #[test]
    fn sizes_are_shown_in_the_largest_fitting_unit() {
        assert_eq!(ByteSize(256 << 20).to_string(), "256 MiB");
        assert_eq!(ByteSize(1500).to_string(), "1.5 KiB");
        assert_eq!(ByteSize(12).to_string(), "12 B");
    }
}
