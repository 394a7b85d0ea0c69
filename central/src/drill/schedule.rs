//! When drills run by themselves: `daily HH:MM`, `weekly DAY HH:MM` or `monthly DATE HH:MM`, UTC.

use std::{fmt, str::FromStr};

use time::{Duration, OffsetDateTime, Time, Weekday};

/// A moment that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    every: Every,
    at: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Every {
    Day,
    Week(Weekday),
    /// From 1 to 28, which every month has.
    Month(u8),
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no schedule: \"daily 03:00\", \"weekly Sun 03:00\" or \"monthly 1 03:00\" (a date from 1 to 28), in UTC; \
     \"off\" for none"
)]
pub struct ScheduleError(String);

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

impl Schedule {
    /// The first moment after `now`.
    pub fn after(&self, now: OffsetDateTime) -> OffsetDateTime {
        let mut day = now.to_offset(time::UtcOffset::UTC).replace_time(self.at);
        // Within a month and a day, whatever it is.
        for _ in 0..32 {
            if day > now && self.is_on(day) {
                break;
            }
            day += Duration::DAY;
        }
        day
    }

    fn is_on(&self, day: OffsetDateTime) -> bool {
        match self.every {
            Every::Day => true,
            Every::Week(weekday) => day.weekday() == weekday,
            Every::Month(date) => day.day() == date,
        }
    }

    /// What a setting says: a schedule, or `off`.
    ///
    /// # Errors
    /// For any other text, with the right spelling.
    pub fn setting(text: &str) -> Result<Option<Self>, ScheduleError> {
        if text == "off" { Ok(None) } else { text.parse().map(Some) }
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let wrong = || ScheduleError(text.chars().take(100).collect());
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (every, at) = match words[..] {
            ["daily", at] => (Every::Day, at),
            ["weekly", day, at] => {
                let named = DAYS.iter().find(|(name, _)| name.eq_ignore_ascii_case(day));
                (Every::Week(named.ok_or_else(wrong)?.1), at)
            }
            ["monthly", date, at] => {
                let date = date.parse().ok().filter(|date| (1..=28).contains(date));
                (Every::Month(date.ok_or_else(wrong)?), at)
            }
            _ => return Err(wrong()),
        };
        let two_digits = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u8>().ok()).flatten()
        };
        let at = at
            .split_once(':')
            .and_then(|(hour, minute)| Time::from_hms(two_digits(hour)?, two_digits(minute)?, 0).ok());
        Ok(Self { every, at: at.ok_or_else(wrong)? })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.every {
            Every::Day => f.write_str("daily")?,
            Every::Week(weekday) => {
                let name = DAYS.iter().find(|(_, day)| *day == weekday).map_or("", |(name, _)| name);
                write!(f, "weekly {name}")?;
            }
            Every::Month(date) => write!(f, "monthly {date}")?,
        }
        write!(f, " {:02}:{:02}", self.at.hour(), self.at.minute())
    }
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    #[test]
    fn each_kind_comes_back_at_its_time() {
        // 2026-11-21 is a Saturday.
        for (schedule, now, next) in [
            ("daily 03:00", "2026-11-21T02:59:59Z", "2026-11-21T03:00:00Z"),
            ("daily 03:00", "2026-11-21T03:00:00Z", "2026-11-22T03:00:00Z"),
            ("weekly Sun 03:00", "2026-11-21T12:00:00Z", "2026-11-22T03:00:00Z"),
            ("weekly Sun 03:00", "2026-11-22T03:00:00Z", "2026-11-29T03:00:00Z"),
            ("weekly sat 23:59", "2026-11-21T12:00:00Z", "2026-11-21T23:59:00Z"),
            ("monthly 1 00:00", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("monthly 28 06:30", "2027-02-27T06:30:00Z", "2027-02-28T06:30:00Z"),
            ("daily 03:00", "2026-11-21T04:30:00+02:00", "2026-11-21T03:00:00Z"),
        ] {
            let at = |text| OffsetDateTime::parse(text, &Rfc3339).unwrap();
            assert_eq!(
                schedule.parse::<Schedule>().unwrap().after(at(now)),
                at(next),
                "{schedule} after {now}"
            );
        }
    }

    #[test]
    fn a_schedule_is_shown_as_it_is_written() {
        for text in ["daily 03:00", "weekly Sun 03:05", "monthly 28 23:59"] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
        }
        assert_eq!(Schedule::setting("off").unwrap(), None);
    }

    #[test]
    fn anything_else_is_refused_with_the_right_spelling() {
        for text in [
            "",
            "daily",
            "daily 3:00",
            "daily 03:60",
            "daily 24:00",
            "daily +3:00",
            "weekly 03:00",
            "weekly Someday 03:00",
            "monthly 29 03:00",
            "monthly 0 03:00",
            "hourly",
            "daily 03:00 UTC",
        ] {
            let error = Schedule::setting(text).unwrap_err();
            assert!(error.to_string().contains("weekly Sun 03:00"), "{text}: {error}");
        }
    }
}
