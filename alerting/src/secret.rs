//! What must never be shown: signing keys, tokens, passwords.
//!
//! A [`Secret`] goes in and is used, and neither `Debug` nor `Serialize` gives it out again: both write [`HIDDEN`].
//! The one way out is [`reveal`](Secret::reveal), so whoever looks for leaks has one word to search for.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What stands for a secret wherever one is shown. Given back in a changed configuration it means "as before".
pub const HIDDEN: &str = "***";

/// A write-only string.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the wire and for the store that keeps it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it says "as before" instead of a secret.
    pub(crate) fn is_hidden(&self) -> bool {
        self.0 == HIDDEN
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

/// `text` with every occurrence of a secret hidden: for what is kept and shown of a request.
pub(crate) fn hide<'a>(text: &str, secrets: impl IntoIterator<Item = &'a Secret>) -> String {
    let mut hidden = text.to_owned();
    for secret in secrets {
        // A secret of a letter or two would only blacken the text, and protects nothing.
        if secret.0.len() >= SHORTEST_HIDDEN {
            hidden = hidden.replace(&secret.0, HIDDEN);
        }
    }
    hidden
}

const SHORTEST_HIDDEN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_nothing() {
        let secret = Secret::new("canary-7");
        assert_eq!(format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()), "*** \"***\"");
        assert_eq!(hide("Bearer canary-7!", [&secret]), "Bearer ***!");
    }
}
