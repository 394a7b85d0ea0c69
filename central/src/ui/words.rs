//! How times, ages, sizes and states are said: the same way on every page.

use time::{Duration, OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// How a state feels; the style sheet gives it a colour, beside its icon and its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    /// Under way, or to be looked at by morning.
    Busy,
    Bad,
    /// Nothing to say against it, and nothing for it.
    Calm,
}

impl Tone {
    /// As the style sheet calls it.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Bad => "bad",
            Self::Calm => "calm",
        }
    }

    pub(super) fn icon(self) -> &'static str {
        match self {
            Self::Good => "check",
            Self::Busy => "alert",
            Self::Bad => "cross",
            Self::Calm => "dot",
        }
    }
}

/// One word of state: never colour alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Badge {
    pub(super) tone: Tone,
    pub(super) word: String,
}

impl Badge {
    pub(super) fn new(tone: Tone, word: impl Into<String>) -> Self {
        Self { tone, word: word.into() }
    }
}

/// A moment, as a page shows it: how long ago, and exactly when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// For programs, and for the script that keeps ages current.
    pub(super) iso: String,
    /// `2026-11-21 16:48:01 UTC`
    pub(super) exact: String,
    /// `16:48:01`
    pub(super) clock: String,
    /// `3 min ago`, `in 2 min`
    pub(super) ago: String,
}

impl Moment {
    pub(super) fn new(at: OffsetDateTime, now: OffsetDateTime) -> Self {
        let at = at.to_offset(UtcOffset::UTC);
        let clock = format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second());
        Self {
            // A UTC time of our days always has this form.
            iso: at.format(&Rfc3339).unwrap_or_default(),
            exact: format!("{} {clock} UTC", at.date()),
            clock,
            ago: ago(now - at),
        }
    }
}

/// How long ago something was, or how soon it will be.
fn ago(age: Duration) -> String {
    if age.abs() < Duration::seconds(5) {
        "just now".to_owned()
    } else if age.is_negative() {
        format!("in {}", span(age.abs()))
    } else {
        format!("{} ago", span(age))
    }
}

/// A length of time in its largest unit.
pub(super) fn span(length: Duration) -> String {
    let seconds = length.whole_seconds();
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `3:59`: what is left of the four minutes.
pub(super) fn clock(left: Duration) -> String {
    let seconds = left.whole_seconds().max(0);
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// How a certificate stands that is valid until `end`: one that has less than `soon` left should have been renewed.
pub(super) fn validity(end: OffsetDateTime, now: OffsetDateTime, soon: Duration) -> Badge {
    match end - now {
        left if !left.is_positive() => Badge::new(Tone::Bad, "expired"),
        left if left < soon => Badge::new(Tone::Busy, "expires soon"),
        _ => Badge::new(Tone::Good, "valid"),
    }
}

/// `1.4 MB`, in powers of ten as disks and networks count.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    // A rounded figure for people.
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let mut amount = count as f64;
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    if unit == 0 || amount >= 10.0 {
        format!("{amount:.0} {}", UNITS[unit])
    } else {
        format!("{amount:.1} {}", UNITS[unit])
    }
}

/// `1 stream`, `2 streams`
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `a`, `a and b`, `a, b and c`
pub(super) fn list<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first = first.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
            format!("{first} and {}", last.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_in_their_largest_unit() {
        let said = |seconds| ago(Duration::seconds(seconds));
        assert_eq!([said(2), said(59), said(125)], ["just now", "59 s ago", "2 min ago"]);
        assert_eq!([said(7200), said(3 * 86_400), said(-180)], ["2 h ago", "3 days ago", "in 3 min"]);
    }

    #[test]
    fn a_certificate_is_valid_then_late_then_expired() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let said = |left| validity(now + Duration::seconds(left), now, Duration::seconds(10)).word;
        assert_eq!([said(10), said(9), said(1)], ["valid", "expires soon", "expires soon"]);
        assert_eq!([said(0), said(-1)], ["expired", "expired"], "as the handshake judges it");
    }

    #[test]
    fn sizes_have_two_digits_and_a_unit() {
        assert_eq!(
            [bytes(0), bytes(999), bytes(1500), bytes(12_345_678)],
            ["0 B", "999 B", "1.5 kB", "12 MB"]
        );
    }

    #[test]
    fn what_is_left_of_four_minutes_never_runs_below_zero() {
        assert_eq!([clock(Duration::seconds(239)), clock(Duration::seconds(-3))], ["3:59", "0:00"]);
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!([list(&["a"]), list(&["a", "b", "c"])], ["a", "a, b and c"]);
    }
}
