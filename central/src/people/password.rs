//! What a password must be, and how one is kept: as an argon2id PHC string, never itself.
//!
//! Checking one costs 19 MiB and some tens of milliseconds on purpose. It is done beside the event loop,
//! a few at a time, and it costs as much for a name that nobody has.

use std::{fmt, sync::Arc, time::Duration};

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use serde::{Deserialize, Deserializer};
use tokio::{sync::Semaphore, time::timeout};

/// Length is what makes a password strong; other rules make people write it down.
pub const PASSWORD_CHARS_MIN: usize = 12;
/// A bound, so that nobody sends us a book to hash.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// How many are hashed at the same time: the CPU also carries the tunnels.
const AT_A_TIME: usize = 2;
/// How long a sign-in waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// A password as somebody typed it. Prints as `***`.
#[derive(Clone)]
pub struct Password(String);

/// Why a password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    #[error("a password has at least {PASSWORD_CHARS_MIN} characters; a few words in a row are a good one")]
    Short,
    #[error("a password has at most {PASSWORD_BYTES_MAX} bytes")]
    Long,
    #[error("the password must not be the name")]
    Name,
    #[error("the password must not be one character over and over")]
    Repeated,
}

/// Too many passwords wait to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many people sign in at this moment: try again in a few seconds")]
pub struct Busy;

impl Password {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether it will do for whoever is called `name`.
    pub fn check(&self, name: &str) -> Result<(), Weak> {
        if self.0.len() > PASSWORD_BYTES_MAX {
            return Err(Weak::Long);
        }
        if self.0.chars().count() < PASSWORD_CHARS_MIN {
            return Err(Weak::Short);
        }
        let mut chars = self.0.chars();
        let first = chars.next();
        if chars.all(|c| Some(c) == first) {
            return Err(Weak::Repeated);
        }
        if self.0.trim().eq_ignore_ascii_case(name) {
            return Err(Weak::Name);
        }
        Ok(())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Hashes and checks, a few at a time. Cheap to clone.
#[derive(Clone)]
pub(super) struct Passwords {
    turns: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }
}

impl Passwords {
    /// The PHC string to keep: argon2id, 19 MiB, two passes, a fresh salt.
    pub(super) async fn hash(&self, password: &Password) -> Result<String, Busy> {
        let text = password.0.clone();
        self.beside(move || hash(&text)).await
    }

    /// Whether `kept` was made of this password. Without a `kept` the answer is no, at the same price.
    pub(super) async fn matches(&self, password: &Password, kept: Option<String>) -> Result<bool, Busy> {
        // Nothing longer was ever kept, and a long one must not cost more.
        let text = if password.0.len() > PASSWORD_BYTES_MAX { String::new() } else { password.0.clone() };
        self.beside(move || match kept {
            Some(kept) => Argon2::default().verify_password(text.as_bytes(), kept.as_str()).is_ok(),
            None => hash(&text).is_empty(),
        })
        .await
    }

    async fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let turn = timeout(TURN_WITHIN, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Busy) };
        // The permit goes along: whoever gives up waiting does not free a turn that is still being used.
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|_| Busy)
    }
}

/// Never fails with our fixed parameters and salt; if it did, the empty string matches no password.
fn hash(text: &str) -> String {
    let salt: [u8; 16] = rand::random();
    Argon2::default()
        .hash_password_with_salt(text.as_bytes(), &salt)
        .map_or_else(|_| String::new(), |kept| kept.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_long_and_not_the_name() {
        let check = |text: &str| Password::new(text).check("anna.smith-of-x");
        assert_eq!(check("eleven char"), Err(Weak::Short));
        assert_eq!(check("twelve chars"), Ok(()));
        // Characters count, not bytes.
        assert_eq!(check("ääääääääää1"), Err(Weak::Short));
        assert_eq!(check("Anna.Smith-of-X "), Err(Weak::Name));
        assert_eq!(check(&"a".repeat(20)), Err(Weak::Repeated));
        assert_eq!(check(&"ab".repeat(512)), Ok(()));
        assert_eq!(check(&format!("{}x", "ab".repeat(512))), Err(Weak::Long));
    }

    #[tokio::test]
    async fn what_is_kept_is_argon2id_and_matches_its_password_alone() {
        let passwords = Passwords::default();
        let (right, wrong) = (Password::new("correct horse battery"), Password::new("correct horse batterz"));
        let kept = passwords.hash(&right).await.unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert_ne!(kept, passwords.hash(&right).await.unwrap(), "each has its own salt");
        assert!(passwords.matches(&right, Some(kept.clone())).await.unwrap());
        assert!(!passwords.matches(&wrong, Some(kept.clone())).await.unwrap());
        assert!(!passwords.matches(&right, None).await.unwrap());
        assert!(!passwords.matches(&right, Some("no PHC string".into())).await.unwrap());
    }

    #[test]
    fn a_password_does_not_print() {
        assert_eq!(format!("{:?}", Password::new("correct horse battery")), "***");
    }
}
