//! Secrets that central gives out and looks up by their hash: 256 random bits, so that no slow hash is needed,
//! and the store's lookup compares no secret byte by byte.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// Length of the text: 32 bytes in base64.
const CHARS: usize = 43;

/// A secret's text, shown once. Prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn random() -> Self {
        let bytes: [u8; 32] = rand::random();
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What somebody brought, if it has the shape of ours.
    pub fn read(text: &str) -> Option<Self> {
        let ours = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (text.len() == CHARS && text.bytes().all(ours)).then(|| Self(text.to_owned()))
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Under which key its record is.
    pub(super) fn key(&self) -> String {
        Sha256::digest(&self.0).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_our_shape_is_looked_up() {
        let secret = Secret::random();
        assert_eq!(Secret::read(secret.reveal()), Some(secret.clone()));
        for odd in ["", "x", &"x".repeat(44), &"/".repeat(43), &"ä".repeat(21)] {
            assert_eq!(Secret::read(odd), None, "{odd}");
        }
        assert!(!secret.key().contains(secret.reveal()));
        assert_eq!(format!("{secret:?}"), "***");
    }
}
