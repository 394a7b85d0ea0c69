//! Why somebody is not signed in, as that person reads it. No secret, no code and no token stands in it.

use std::{fmt, time::Duration};

/// Why nobody was signed in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this sign-in was finished already, or begun more than 10 minutes ago: begin again")]
    Unknown,
    #[error("this sign-in was begun in another browser: begin again in this one")]
    OtherBrowser,
    #[error("the identity provider refused: {0}")]
    Denied(Word),
    #[error("the identity provider could not be asked: {0}")]
    Unreachable(String),
    #[error("the identity provider was asked too often: try again in {}", humantime::format_duration(*.0))]
    TooOften(Duration),
    /// It answered, but not what an OpenID Connect provider answers.
    #[error("the identity provider answered what it should not: {0}")]
    Answer(String),
    /// Its ID token proves nothing.
    #[error("the identity provider's ID token is not valid: {0}")]
    Token(String),
    #[error(
        "the identity provider gives you no role here: the claim {claim} holds {found} (whoever runs central says in [oidc] roles what gives one)"
    )]
    NoRole { claim: String, found: Found },
    #[error(
        "the claim {claim} holds {found}, which is no name for a user (whoever runs central chooses the claim: [oidc] user_claim)"
    )]
    NoName { claim: String, found: Found },
}

/// A provider's own word for an error; anything that is not one is not repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(String);

impl Word {
    /// The longest that is repeated.
    const BYTES_MAX: usize = 64;

    pub fn of(text: &str) -> Self {
        let modest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let is_word = !text.is_empty() && text.len() <= Self::BYTES_MAX && text.bytes().all(modest);
        Self(if is_word { text.to_owned() } else { "an error that it does not name".to_owned() })
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stood in a claim: escaped, and not much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found(String);

impl Found {
    const ITEMS_MAX: usize = 10;
    const CHARS_MAX: usize = 200;

    pub fn of(value: Option<&serde_json::Value>) -> Self {
        let mut text = match value {
            None | Some(serde_json::Value::Null) => "nothing".to_owned(),
            Some(serde_json::Value::Array(items)) if items.is_empty() => "nothing".to_owned(),
            Some(serde_json::Value::Array(items)) => {
                let shown: Vec<String> = items.iter().take(Self::ITEMS_MAX).map(one).collect();
                let more = items.len().saturating_sub(Self::ITEMS_MAX);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("{}{more}", shown.join(", "))
            }
            Some(single) => one(single),
        };
        if let Some((end, _)) = text.char_indices().nth(Self::CHARS_MAX) {
            text.truncate(end);
            text.push('…');
        }
        Self(text)
    }
}

/// `Debug` of a text escapes what moves, hides or ends a line.
fn one(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => {
            let short: String = text.chars().take(Found::CHARS_MAX).collect();
            format!("{short:?}")
        }
        serde_json::Value::Object(_) | serde_json::Value::Array(_) => "something that is no text".to_owned(),
        plain => plain.to_string(),
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stood_in_a_claim_is_told_escaped_and_short() {
        let found = |value| Found::of(Some(&value)).to_string();
        assert_eq!(found(json!(["a", "b\n\u{202e}"])), r#""a", "b\n\u{202e}""#);
        assert_eq!(found(json!([])), "nothing");
        assert_eq!(Found::of(None).to_string(), "nothing");
        assert_eq!(found(json!({"a": 1})), "something that is no text");
        assert_eq!(found(json!(vec!["g"; 12])), format!("{} and 2 more", ["\"g\""; 10].join(", ")));
        assert_eq!(found(json!("x".repeat(10_000))).chars().count(), Found::CHARS_MAX + 1);
    }

    #[test]
    fn only_a_word_of_the_provider_is_repeated() {
        assert_eq!(Word::of("access_denied").to_string(), "access_denied");
        for odd in ["", "<script>", "call 555 now", &"x".repeat(65)] {
            assert_eq!(Word::of(odd).to_string(), "an error that it does not name");
        }
    }
}
