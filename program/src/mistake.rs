//! A mistake in a configuration file, told so that it can be mended without a manual:
//! `agent.toml:3:1: unknown field 'lisen' …; did you mean 'listen'?`

use std::{
    fmt,
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

impl Mistake {
    /// What the TOML reader found, with a suggestion where a word looks misspelt.
    pub fn in_toml(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map_or(0, |span| span.start);
        let mut message = error.message().replace('`', "'").replace('\n', "; ");
        // What people call it.
        message = message.replace("expected a sequence", r#"expected a list, as in ["one", "two"]"#);
        if let Some(likely) = likely_word(&message) {
            message = format!("{message}; did you mean '{likely}'?");
        }
        Self::at(path, text, offset, &message)
    }

    /// A mistake at this byte of the text.
    pub fn at(path: &Path, text: &str, offset: usize, message: &str) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.to_owned(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.message)
    }
}

impl std::error::Error for Mistake {}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_letters_and_not_bytes() {
        let mistake = Mistake::at(Path::new("f"), "ä = 1\nöö = 2", "ä = 1\nöö".len(), "odd");
        assert_eq!(mistake.to_string(), "f:2:3: odd");
    }

    #[test]
    fn a_list_is_called_a_list() {
        #[derive(Debug, serde::Deserialize)]
        struct File {
            #[serde(rename = "all")]
            _all: Vec<String>,
        }
        let text = "all = \"a\"";
        let mistake = Mistake::in_toml(Path::new("f"), text, &toml::from_str::<File>(text).unwrap_err());
        let told = mistake.to_string();
        assert!(
            told.starts_with("f:1:7: ") && told.ends_with(r#"expected a list, as in ["one", "two"]"#),
            "{told}"
        );
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        assert_eq!(likely_word("unknown field 'lisen', expected one of 'log', 'listen'"), Some("listen"));
        assert_eq!(likely_word("unknown field 'moon', expected one of 'log', 'listen'"), None);
        assert_eq!(distance("conect_timeout", "connect_timeout"), 1);
    }
}
