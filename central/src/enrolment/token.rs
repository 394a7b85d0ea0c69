//! One-time tokens: each lets one agent in, once, within minutes.
//!
//! A token reads `postern_enroll_SECRET` with 256 random bits. The store holds its SHA-256 as the record's
//! key, so a copied store lets nobody in, and looking one up compares no secret byte by byte.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::{EnvironmentName, Name};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction};

/// By hash, under central itself: the token is what tells the Environment.
pub(super) const TOKENS: Collection<OneTimeToken> = Collection::new("enrollment_tokens");

/// For backups, which leave them out: one that was redeemed since would be good again.
pub(crate) const COLLECTION: &str = TOKENS.name();

/// What every token begins with, so that secret scanners find one that leaked.
const PREFIX: &str = "postern_enroll_";
/// Length of the text behind the prefix: 32 bytes in base64.
const SECRET_CHARS: usize = 43;
/// The longest a token may wait for its agent.
pub const TTL_MAX: Duration = Duration::from_secs(15 * 60);
/// How long it waits where nothing else is said.
pub const TTL_DEFAULT: Duration = TTL_MAX;
/// How long a token that is used or expired is kept, so that its second use is told from a guess.
const KEPT_AFTER: time::Duration = time::Duration::DAY;
/// The most tokens kept at a time, all Environments together.
const TOKENS_MAX: usize = 10_000;
/// How many old tokens one new one clears away at most.
const CLEARED_PER_CREATE: usize = 32;

/// A token as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeToken {
    /// For people and the audit; says nothing about the secret.
    pub id: String,
    pub environment: EnvironmentName,
    /// The only name it may be used for; `None`: any that is free.
    pub name: Option<Name>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Set once, by the transaction that also creates the Process Server.
    pub used: Option<Used>,
}

/// Who came with a token, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    pub by: Name,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// The whole token: shown once, to whoever asked for it.
#[derive(Clone)]
pub struct TokenText(String);

impl TokenText {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(
        "an enrolment token is valid for 1 second to {}: an agent enrols at once or asks again",
        humantime::format_duration(TTL_MAX)
    )]
    Ttl,
    #[error("there are already {TOKENS_MAX} enrolment tokens: wait until some have expired")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a token for `environment`, optionally for one name only.
pub(super) async fn create(
    store: &SharedStore,
    environment: &EnvironmentName,
    name: Option<Name>,
    ttl: Duration,
    now: OffsetDateTime,
) -> Result<(TokenText, OneTimeToken), TokenError> {
    if !(Duration::from_secs(1)..=TTL_MAX).contains(&ttl) {
        return Err(TokenError::Ttl);
    }
    let secret: [u8; 32] = rand::random();
    let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let token = OneTimeToken {
        id: format!("{:016x}", rand::random::<u64>()),
        environment: environment.clone(),
        name,
        created_at: now,
        expires_at: now + ttl,
        used: None,
    };
    let kept = TOKENS.all(&**store, &Owner::Central).await?;
    if kept.len() >= TOKENS_MAX {
        return Err(TokenError::TooMany);
    }
    let old = kept.iter().filter(|record| record.value.expires_at + KEPT_AFTER < now);
    let transaction = old.take(CLEARED_PER_CREATE).fold(Transaction::new(), |transaction, record| {
        transaction.with(TOKENS.delete(&Owner::Central, &record.key, Precondition::Any))
    });
    let put = TOKENS.put(&Owner::Central, &key(&text), Precondition::Absent, &token)?;
    store.commit(transaction.with(put)).await?;
    Ok((TokenText(text), token))
}

/// The Environment's tokens that are kept, those used and expired within [`KEPT_AFTER`] too, oldest first.
pub(super) async fn list(
    store: &SharedStore,
    environment: &EnvironmentName,
) -> Result<Vec<OneTimeToken>, StoreError> {
    let kept = TOKENS.all(&**store, &Owner::Central).await?.into_iter().map(|record| record.value);
    let mut tokens: Vec<_> = kept.filter(|token| token.environment == *environment).collect();
    tokens.sort_by_key(|token| token.created_at);
    Ok(tokens)
}

/// Under which key a token's record is; `None` for a text that no token has.
pub(super) fn lookup_key(text: &str) -> Option<String> {
    let secret = text.strip_prefix(PREFIX)?;
    (secret.len() == SECRET_CHARS).then(|| key(text))
}

fn key(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{Store, memory::MemoryStore};

    #[tokio::test]
    async fn an_environment_lists_its_own_tokens_in_the_order_they_were_made() {
        let (store, environment) = world();
        let later = now() + time::Duration::SECOND;
        let (_, second) = create(&store, &environment, None, TTL_DEFAULT, later).await.unwrap();
        let (_, first) = create(&store, &environment, None, TTL_DEFAULT, now()).await.unwrap();
        create(&store, &"other".parse().unwrap(), None, TTL_DEFAULT, now()).await.unwrap();
        assert_eq!(list(&store, &environment).await.unwrap(), [first, second]);
    }

    #[tokio::test]
    async fn the_secret_is_in_no_record_and_in_no_debug_output() {
        let (store, environment) = world();
        let (text, token) = create(&store, &environment, None, TTL_DEFAULT, now()).await.unwrap();
        let secret = text.reveal().strip_prefix(PREFIX).unwrap();
        assert_eq!(secret.len(), SECRET_CHARS);
        let records = store.scan(&Owner::Central, "enrollment_tokens", None, 10).await.unwrap();
        assert!(!format!("{records:?} {token:?} {text:?}").contains(secret));
        assert_eq!(records[0].key, lookup_key(text.reveal()).unwrap());
    }

    #[tokio::test]
    async fn a_token_lives_for_minutes_at_most() {
        let (store, environment) = world();
        for ttl in [Duration::ZERO, TTL_MAX + Duration::from_secs(1)] {
            let refused = create(&store, &environment, None, ttl, now()).await;
            assert!(matches!(refused, Err(TokenError::Ttl)));
        }
    }

    #[tokio::test]
    async fn old_tokens_make_room() {
        let (store, environment) = world();
        create(&store, &environment, None, TTL_DEFAULT, now()).await.unwrap();
        let later = now() + time::Duration::days(2);
        create(&store, &environment, None, TTL_DEFAULT, later).await.unwrap();
        assert_eq!(TOKENS.all(&*store, &Owner::Central).await.unwrap().len(), 1);
    }

    #[test]
    fn a_text_of_another_shape_is_not_even_looked_up() {
        for odd in ["", "postern_enroll_", "postern_api_x", &format!("{PREFIX}{}", "x".repeat(44))] {
            assert_eq!(lookup_key(odd), None);
        }
    }

    fn world() -> (SharedStore, EnvironmentName) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        (store, "default".parse().unwrap())
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)
    }
}
