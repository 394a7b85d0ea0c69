//! Mistakes in a configuration file, told so that they can be mended without a manual:
//! `central.toml:3:1: unknown field 'conect_timeout' …; did you mean 'connect_timeout'?`

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// One mistake and its place. Line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub path: PathBuf,
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.message)
    }
}

/// Why there is no configuration. Nothing has been bound or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", lines(.0))]
    Mistakes(Vec<Mistake>),
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}

/// The mistakes found so far in one file, in the order they were found.
pub(super) struct Mistakes<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<Mistake>,
}

impl<'a> Mistakes<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, at: Range<usize>, message: impl fmt::Display) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.found.push(Mistake {
            path: self.path.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.to_string(),
        });
    }

    /// What the TOML reader found, with a suggestion where a word looks misspelt.
    pub(super) fn add_toml(&mut self, error: &toml::de::Error) {
        let mut message = error.message().replace('`', "'").replace('\n', "; ");
        if let Some(likely) = likely_word(&message) {
            message = format!("{message}; did you mean '{likely}'?");
        }
        self.add(error.span().unwrap_or(0..0), message);
    }

    /// `Ok` when nothing was found; otherwise everything that was.
    pub(super) fn none(mut self) -> Result<(), ConfigError> {
        self.found.sort_by_key(|mistake| (mistake.line, mistake.column));
        if self.found.is_empty() { Ok(()) } else { Err(ConfigError::Mistakes(self.found)) }
    }
}

/// Serde's "unknown … 'x', expected one of 'a', 'b'": the expected word nearest to x.
fn likely_word(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut quoted = message.split('\'').skip(1).step_by(2);
    let odd = quoted.next()?;
    quoted
        .map(|word| (distance(odd, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.chars().count() / 4)
        .min()
        .map(|(_, word)| word)
}

/// How many letters to insert, remove or change to turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, in_a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, in_b) in b.chars().enumerate() {
            let changed = diagonal + usize::from(in_a != in_b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}
