//! Prints answers: tables for people, the API's own JSON for programs.
//!
//! Nothing here writes colour or moves a cursor, so NO_COLOR, TERM=dumb and pipes need no case.

use std::io::{self, Write};

use comfy_table::{Table, presets::NOTHING};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use time::OffsetDateTime;

use crate::args::Format;

/// Stdout in the chosen format.
pub(crate) struct Screen {
    format: Format,
}

impl Screen {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints an answer as central gave it, indented.
    pub(crate) fn json(&mut self, answer: &Value) -> io::Result<()> {
        self.line(&format!("{answer:#}"))
    }

    /// Prints an answer on one line: for streams of answers.
    pub(crate) fn json_line(&mut self, answer: &Value) -> io::Result<()> {
        self.line(&answer.to_string())
    }

    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// Prints rows under their headings; `none` is said on stderr if there is no row.
    pub(crate) fn rows<const N: usize>(
        &mut self,
        headings: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
        none: &str,
    ) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(headings);
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            self.talk(none);
        }
        for row in rows {
            table.add_row(row.map(|cell| plain(&cell)));
        }
        self.line(&table.trim_fmt())
    }

    /// Prints one thing, a property a line.
    pub(crate) fn properties(&mut self, properties: &[(&str, String)]) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(NOTHING);
        for (name, value) in properties {
            table.add_row([*name, &plain(value)]);
        }
        self.line(&table.trim_fmt())
    }

    /// Says something that is no data.
    #[expect(clippy::unused_self, reason = "talk goes by the screen, so that it has one door")]
    pub(crate) fn talk(&self, text: &str) {
        eprintln!("{}", plain(text));
    }
}

/// A moment as central writes it, for people: to the millisecond.
pub(crate) fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(to_the_millisecond)
}

/// The same for one that need not be there.
pub(crate) fn maybe_moment<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(to_the_millisecond))
}

fn to_the_millisecond(at: String) -> String {
    let Some((whole, fraction)) = at.split_once('.') else { return at };
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, zone) = fraction.split_at(digits);
    format!("{whole}.{}{zone}", &digits[..digits.len().min(3)])
}

/// Text from central may hold what an agent or a destination said: control characters in it
/// must not reach a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

pub(crate) fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `3m 20s ago`, to the second. A clock ahead of ours reads as `0s ago`.
pub(crate) fn ago(then: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (now - then).whole_seconds().max(0).unsigned_abs();
    format!("{} ago", humantime::format_duration(std::time::Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_said_cannot_drive_the_terminal() {
        assert_eq!(plain("refused \u{1b}[2J\u{7}"), "refused \u{fffd}[2J\u{fffd}");
    }

    #[test]
    fn a_moment_reads_to_the_millisecond() {
        let shown = |at: &str| to_the_millisecond(at.to_owned());
        assert_eq!(shown("2026-11-22T12:28:58.922152516Z"), "2026-11-22T12:28:58.922Z");
        assert_eq!(shown("2026-11-22T12:28:58.9+01:00"), "2026-11-22T12:28:58.9+01:00");
        assert_eq!(shown("2026-11-22T12:28:58Z"), "2026-11-22T12:28:58Z");
    }

    #[test]
    fn an_age_reads_in_units_people_use() {
        let then = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(ago(then, then + time::Duration::seconds(200)), "3m 20s ago");
        assert_eq!(ago(then + time::Duration::seconds(5), then), "0s ago");
    }
}
