//! Header lines as people write them. Those that carry credentials are write-only.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::secret::Secret;

/// Names and values; each value is a template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, HeaderText>);

/// The value of a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum HeaderText {
    Plain(String),
    /// A credential written out. One that comes from `secret("name")` is plain: the template shows nothing.
    Credential(Secret),
}

impl Headers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderText)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text))
    }

    pub(super) fn secrets_mut(&mut self) -> impl Iterator<Item = (&str, &mut Secret)> {
        self.0.iter_mut().filter_map(|(name, text)| match text {
            HeaderText::Plain(_) => None,
            HeaderText::Credential(secret) => Some((name.as_str(), secret)),
        })
    }
}

impl HeaderText {
    /// The template.
    pub(crate) fn template(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Credential(secret) => secret.reveal(),
        }
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let given = BTreeMap::<String, String>::deserialize(from)?;
        let sealed = given.into_iter().map(|(name, text)| {
            let credential = carries_credentials(&name) && !text.contains("secret(");
            let text =
                if credential { HeaderText::Credential(Secret::new(text)) } else { HeaderText::Plain(text) };
            (name, text)
        });
        Ok(Self(sealed.collect()))
    }
}

/// Whether a header of this name usually holds something that others must not read.
fn carries_credentials(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "cookie", "token", "secret", "password", "api-key", "apikey", "-key"]
        .iter()
        .any(|word| name.contains(word))
}
