//! API tokens: who may call the REST API, in which Environment, with which role.
//!
//! A token reads `postern_api_ID_SECRET`. The store holds the secret's SHA-256 under the id, so a
//! copied store lets nobody in; 256 random bits need no slow hash.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::{EnvironmentName, Name};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use super::rights::{Caller, Role, Who};
use crate::{
    people::LastUse,
    store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction},
};

/// By id, under central itself: a token is looked up before its Environment is known.
const API_TOKENS: Collection<TokenRecord> = Collection::new("api_tokens");

/// What every token begins with, so that secret scanners find one that leaked.
const PREFIX: &str = "postern_api_";
/// The most tokens one Environment keeps. Whoever needs more has lost sight of them.
pub const TOKENS_MAX: usize = 1000;
/// The longest a token may be valid, where an end is given.
pub const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A token as the store knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub id: String,
    pub environment: EnvironmentName,
    /// What it is for.
    pub name: Option<Name>,
    pub role: Role,
    secret_sha256: [u8; 32],
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Who asked for it.
    #[serde(default)]
    pub created_by: Option<String>,
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
    #[error("there are already {TOKENS_MAX} API tokens: revoke some first")]
    TooMany,
    #[error("a token is valid for at most {}", humantime::format_duration(TTL_MAX))]
    TooLong,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All API tokens of this central. Cheap to clone.
#[derive(Clone)]
pub struct ApiTokens {
    store: SharedStore,
    last_use: LastUse,
}

impl ApiTokens {
    pub fn new(store: SharedStore, last_use: LastUse) -> Self {
        Self { store, last_use }
    }

    /// The same tokens, their changes by way of `store`.
    #[must_use]
    pub fn through(&self, store: SharedStore) -> Self {
        Self { store, ..self.clone() }
    }

    /// When a token was last used, to the minute.
    pub async fn last_used(&self, token: &TokenRecord) -> Result<Option<OffsetDateTime>, StoreError> {
        self.last_use.of(&use_key(&token.id)).await
    }

    /// Makes a token, valid for `ttl` or until it is revoked.
    pub async fn create(
        &self,
        environment: &EnvironmentName,
        role: Role,
        name: Option<Name>,
        ttl: Option<Duration>,
        created_by: Option<String>,
    ) -> Result<(TokenText, TokenRecord), TokenError> {
        if ttl.is_some_and(|ttl| ttl > TTL_MAX) {
            return Err(TokenError::TooLong);
        }
        // Two callers at once may pass it by one: a bound against forgetting, not a fence.
        if self.list(environment).await?.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let created_at = OffsetDateTime::now_utc();
        let record = TokenRecord {
            id: format!("{:016x}", rand::random::<u64>()),
            environment: environment.clone(),
            name,
            role,
            secret_sha256: hash(&secret),
            created_at,
            expires_at: ttl.map(|ttl| created_at + ttl),
            created_by,
        };
        let write = API_TOKENS.put(&Owner::Central, &record.id, Precondition::Absent, &record)?;
        self.store.commit(write.into()).await?;
        Ok((TokenText(format!("{PREFIX}{}_{secret}", record.id)), record))
    }

    /// Whom this text speaks for, if it is a valid token.
    pub async fn verify(&self, text: &str) -> Result<Option<Caller>, StoreError> {
        let Some((id, secret)) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')) else {
            return Ok(None);
        };
        if !is_id(id) {
            return Ok(None);
        }
        let record = API_TOKENS.get(&*self.store, &Owner::Central, id).await?.map(|record| record.value);
        let Some(record) = record else { return Ok(None) };
        let now = OffsetDateTime::now_utc();
        let same = bool::from(hash(secret).ct_eq(&record.secret_sha256));
        if !same || record.expires_at.is_some_and(|end| end <= now) {
            return Ok(None);
        }
        self.last_use.note(&use_key(&record.id), now);
        let who = Who::Token { id: record.id, name: record.name };
        Ok(Some(Caller { environment: record.environment, role: record.role, who, trail: None }))
    }

    /// The Environment's tokens, newest last.
    pub async fn list(&self, environment: &EnvironmentName) -> Result<Vec<TokenRecord>, StoreError> {
        let mut tokens: Vec<_> = API_TOKENS
            .all(&*self.store, &Owner::Central)
            .await?
            .into_iter()
            .map(|record| record.value)
            .filter(|token| token.environment == *environment)
            .collect();
        tokens.sort_by_key(|token| token.created_at);
        Ok(tokens)
    }

    /// One of the Environment's tokens.
    pub async fn find(
        &self,
        environment: &EnvironmentName,
        id: &str,
    ) -> Result<Option<TokenRecord>, StoreError> {
        if !is_id(id) {
            return Ok(None);
        }
        let record = API_TOKENS.get(&*self.store, &Owner::Central, id).await?;
        Ok(record.map(|record| record.value).filter(|token| token.environment == *environment))
    }

    /// Makes it invalid at once. Revoking what is gone is no error.
    pub async fn revoke(&self, token: &TokenRecord) -> Result<(), StoreError> {
        let delete = API_TOKENS.delete(&Owner::Central, &token.id, Precondition::Any);
        let used = use_key(&token.id);
        self.store.commit(Transaction::from(delete).with(self.last_use.deletion(&used))).await?;
        self.last_use.forget(&used);
        Ok(())
    }
}

fn use_key(id: &str) -> String {
    format!("token/{id}")
}

/// Only what [`ApiTokens::create`] gives out reaches the store as a key.
fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn a_token_speaks_for_its_environment_and_role() {
        let tokens = tokens();
        let (text, record) = tokens.create(&env("prod"), Role::Operator, None, None, None).await.unwrap();
        let caller = tokens.verify(text.reveal()).await.unwrap().unwrap();
        assert_eq!(tokens.last_used(&record).await.unwrap().map(|at| at >= record.created_at), Some(true));
        let who = Who::Token { id: record.id, name: None };
        assert_eq!(caller, Caller { environment: env("prod"), role: Role::Operator, who, trail: None });
    }

    #[tokio::test]
    async fn a_token_changed_in_one_character_is_none() {
        let tokens = tokens();
        let (text, _) = tokens.create(&env("prod"), Role::Viewer, None, None, None).await.unwrap();
        for at in 0..text.reveal().len() {
            let mut changed = text.reveal().to_owned();
            let other = if &changed[at..=at] == "A" { "B" } else { "A" };
            changed.replace_range(at..=at, other);
            assert_eq!(tokens.verify(&changed).await.unwrap(), None, "{changed}");
        }
        assert_eq!(tokens.verify("").await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_expired_or_revoked_token_is_none() {
        let tokens = tokens();
        let (short, _) =
            tokens.create(&env("prod"), Role::Viewer, None, Some(Duration::ZERO), None).await.unwrap();
        assert_eq!(tokens.verify(short.reveal()).await.unwrap(), None);
        let (text, record) = tokens.create(&env("prod"), Role::Viewer, None, None, None).await.unwrap();
        tokens.revoke(&record).await.unwrap();
        assert_eq!(tokens.verify(text.reveal()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_environment_sees_its_own_tokens_only() {
        let tokens = tokens();
        let (_, ours) = tokens.create(&env("prod"), Role::Viewer, None, None, None).await.unwrap();
        tokens.create(&env("test"), Role::Viewer, None, None, None).await.unwrap();
        assert_eq!(tokens.find(&env("test"), &ours.id).await.unwrap(), None);
        assert_eq!(tokens.list(&env("prod")).await.unwrap(), [ours]);
    }

    #[tokio::test]
    async fn neither_the_store_nor_a_debug_line_holds_the_secret() {
        let tokens = tokens();
        let (text, record) = tokens.create(&env("prod"), Role::Viewer, None, None, None).await.unwrap();
        let secret = text.reveal().rsplit_once(&record.id).unwrap().1.trim_start_matches('_').to_owned();
        let stored = serde_json::to_string(&record).unwrap();
        assert!(!stored.contains(&secret));
        assert!(!format!("{text:?}").contains(&secret));
    }

    fn tokens() -> ApiTokens {
        let store: SharedStore = Arc::new(MemoryStore::default());
        ApiTokens::new(store.clone(), LastUse::new(store))
    }

    fn env(name: &str) -> EnvironmentName {
        name.parse().unwrap()
    }
}
