//! Dates of HTTP: three forms are read ("RFC 9110 section 5.6.7"), the first is written.

use s3s::dto;
use time::Date;
use time::Month;
use time::OffsetDateTime;
use time::Time;
use time::format_description::FormatItem;
use time::macros::format_description;

use crate::base::Timestamp;

const HTTP: &[FormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// Two-digit years from here on belong to the last century.
const TWO_DIGIT_PIVOT: i32 = 70;

/// Whole seconds since 1970 of a date in any of the three forms.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let words: Vec<&str> =
        text.split([' ', ',', '-']).filter(|word| !word.is_empty()).take(7).collect();
    let (day, month, year, clock) = match words[..] {
        [_, day, month, year, clock, "GMT"] => (day, month, year, clock),
        [_, month, day, clock, year] => (day, month, year, clock),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)?;
    let month = Month::try_from(u8::try_from(month + 1).ok()?).ok()?;
    let year = match (year.len(), number::<i32>(year)?) {
        (4, year) => year,
        (2, year) if year >= TWO_DIGIT_PIVOT => 1900 + year,
        (2, year) => 2000 + year,
        _ => return None,
    };
    let mut clock = clock.splitn(3, ':').map(number::<u8>);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let date = Date::from_calendar_date(year, month, number(day)?).ok()?;
    // A leap second is the one before it.
    let time = Time::from_hms(hour, minute, if second == 60 { 59 } else { second }).ok()?;
    Some(date.with_time(time).assume_utc().unix_timestamp())
}

fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// As HTTP headers write it.
pub(crate) fn http(at: Timestamp) -> String {
    moment(at).format(HTTP).unwrap_or_default()
}

/// For `s3s`. Whole seconds, as S3's own: a listing and a HEAD show the same time.
pub(crate) fn dto(at: Timestamp) -> dto::Timestamp {
    moment(at).into()
}

fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_http_are_one_moment() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse("Thursday, 01-Jan-26 00:00:00 GMT"), Some(1_767_225_600));
        assert_eq!(parse("Sat, 31 Dec 2016 23:59:60 GMT"), Some(1_483_228_799));
    }

    #[test]
    fn what_is_no_date_is_not_guessed() {
        for text in [
            "",
            "1994-11-06T08:49:37Z",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 994 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn dates_are_written_as_they_are_read() {
        let at = Timestamp(784_111_777_999_999);
        assert_eq!(http(at), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse(&http(at)), Some(at.seconds()));
    }
}
