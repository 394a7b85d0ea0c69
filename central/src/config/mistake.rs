//! All mistakes of one `central.toml` together: whoever mends it wants to do so once.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

use program::Mistake;

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
        self.found.push(Mistake::at(self.path, self.text, at.start, &message.to_string()));
    }

    /// What the TOML reader found, with a suggestion where a word looks misspelt.
    pub(super) fn add_toml(&mut self, error: &toml::de::Error) {
        self.found.push(Mistake::in_toml(self.path, self.text, error));
    }

    /// `Ok` when nothing was found; otherwise everything that was.
    pub(super) fn none(mut self) -> Result<(), ConfigError> {
        self.found.sort_by_key(|mistake| (mistake.line, mistake.column));
        if self.found.is_empty() { Ok(()) } else { Err(ConfigError::Mistakes(self.found)) }
    }
}
