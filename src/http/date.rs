//! The Date of an answer (RFC 9110 §5.6.7 and §6.6.1).

use std::fmt;

/// A moment as an HTTP date, from the wall clock that the caller has. Without one an answer has no Date, as
/// §6.6.1 demands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Date {
    unix_s: u64,
}

impl Date {
    /// `unix_s` seconds after 1970-01-01 00:00:00 UTC.
    pub const fn from_unix_s(unix_s: u64) -> Self {
        Self { unix_s }
    }
}

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `IMF-fixdate`, "the preferred format".
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.unix_s / 86_400, self.unix_s % 86_400);
        let weekday = WEEKDAYS[usize::try_from(days % 7).unwrap_or(0)];
        // Years begin in March here, so that a leap day is the last day of one: 146,097 days are 400 years.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = MONTHS[usize::try_from((march_month + 2) % 12).unwrap_or(0)];
        let year = era * 400 + year_of_era + u64::from(march_month >= 10);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (unix_s, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"), // the example of §5.6.7
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(Date::from_unix_s(unix_s).to_string(), expected);
        }
    }
}
