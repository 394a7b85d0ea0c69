//! The names and numbers that identify things on both ends of the wire.
//!
//! A value of one of these types has been checked: whoever holds a [`Name`] need not ask again
//! whether it is empty, huge, or full of control characters.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: a DNS label, so that host names fit and paths stay short.
pub const NAME_BYTES_MAX: usize = 63;

/// A checked name of a Process Server, destination or Environment: 1 to 63 ASCII letters,
/// digits, `-`, `_` or `.`, beginning with a letter or digit.
///
/// Compared as written; names differing only in case are different names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// The Environment a thing belongs to. Taken from a certificate or token, never from a frame.
pub type EnvironmentName = Name;

/// Why a string is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name must not be empty")]
    Empty,
    #[error("a name has at most {NAME_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    #[error(
        "{0:?} is not allowed in a name: use letters, digits, '-', '_' and '.', beginning with a letter or digit"
    )]
    Character(char),
}

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        let first = text.chars().next().ok_or(NameError::Empty)?;
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Character(first));
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
            Some(odd) => Err(NameError::Character(odd)),
            None => Ok(Self(text.into())),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node of a gateway group's Raft. Given out by central, one counter per Environment, never
/// reused: an empty node under an old id could form a quorum of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a string is none of our hexadecimal ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct HexError {
    expected: usize,
}

/// Declares an opaque id of `N` bytes, written as lower-case hexadecimal everywhere.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $bytes]);

        impl $name {
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                let wrong = HexError { expected: 2 * $bytes };
                if text.len() != 2 * $bytes || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(wrong);
                }
                let mut bytes = [0; $bytes];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong.clone())?;
                }
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = HexError;

            fn try_from(text: String) -> Result<Self, HexError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

hex_id! {
    /// One enrolled agent. Given out at enrolment, written into its certificate.
    AgentId, 16
}
hex_id! {
    /// One run of an agent process. Random, drawn at start; two processes never share one.
    BootId, 16
}
hex_id! {
    /// One tunnel session: what a resumed websocket continues. Random, drawn by the agent.
    SessionId, 16
}
hex_id! {
    /// The streams of one lane beside a tunnel's first: what a resumed lane continues. Random, drawn by the agent.
    LaneId, 16
}
hex_id! {
    /// SHA-256 of a certificate's SubjectPublicKeyInfo: how peers know each other's keys.
    Fingerprint, 32
}

hex_id! {
    /// One client's way from the listener to the destination: in the ledger, in OPEN, in the logs of both ends. As W3C's
    /// trace context has it.
    TraceId, 16
}

impl AgentId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl LaneId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl BootId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl SessionId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl TraceId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_host_may_be_called() {
        assert!("gw-01.example_x".parse::<Name>().is_ok());
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        assert_eq!("-x".parse::<Name>(), Err(NameError::Character('-')));
        assert_eq!("a/b".parse::<Name>(), Err(NameError::Character('/')));
        assert_eq!("ä".parse::<Name>(), Err(NameError::Character('ä')));
        assert_eq!("x".repeat(64).parse::<Name>(), Err(NameError::TooLong(64)));
    }

    #[test]
    fn an_id_reads_back_what_it_printed() {
        let id = BootId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("00".parse::<BootId>().is_err());
        assert!("é0000000000000000000000000000000".parse::<BootId>().is_err());
    }
}
