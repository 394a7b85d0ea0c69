//! Sessions: who is signed in, from where, since when and for how long.
//!
//! A session ends when it was idle, when it is old, when its user changes role or password, or when somebody ends
//! it. Its secret is new at every sign-in, so nobody is led into a session that was prepared for him.

use std::{net::IpAddr, time::Duration};

use proto::{EnvironmentName, Name};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{last_use::LastUse, secret::Secret};
use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction, Versioned, Write};

/// By the secret's hash, under central itself: a session is looked up before its Environment is known.
pub(super) const SESSIONS: Collection<Session> = Collection::new("sessions");

/// The most sessions of one user: beyond it the oldest ends.
pub const SESSIONS_PER_USER_MAX: usize = 16;
/// The longest description of a browser that is kept, in bytes.
const USER_AGENT_BYTES_MAX: usize = 256;
/// How many ended sessions one look clears away, two writes each.
const CLEARED_AT_ONCE: usize = 50;

/// How long a session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Without a request.
    pub idle: Duration,
    /// At most.
    pub lifetime: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30 * 60), lifetime: Duration::from_secs(12 * 3600) }
    }
}

/// A session as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// For people and the audit; says nothing about the secret.
    pub id: String,
    pub environment: EnvironmentName,
    pub user: Name,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    pub from: Option<IpAddr>,
    pub user_agent: Option<String>,
}

/// Where somebody signs in from.
#[derive(Debug, Clone, Default)]
pub struct Browser {
    pub from: Option<IpAddr>,
    pub user_agent: Option<String>,
}

/// A session and when it was last used.
#[derive(Debug, Clone)]
pub struct SessionView {
    pub session: Session,
    pub last_seen: OffsetDateTime,
}

/// All sessions of this central. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sessions {
    store: SharedStore,
    last_use: LastUse,
    limits: SessionLimits,
}

impl Sessions {
    pub(super) fn new(store: SharedStore, last_use: LastUse, limits: SessionLimits) -> Self {
        Self { store, last_use, limits }
    }

    pub(super) fn through(&self, store: SharedStore) -> Self {
        Self { store, ..self.clone() }
    }

    pub(super) fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// A session to be written: the secret, the record, and the writes that begin it and end the user's oldest
    /// ones where there are too many.
    pub(super) async fn begin(
        &self,
        environment: &EnvironmentName,
        user: &Name,
        browser: &Browser,
        now: OffsetDateTime,
    ) -> Result<(Secret, Session, Vec<Write>), StoreError> {
        let secret = Secret::random();
        let session = Session {
            id: format!("{:016x}", rand::random::<u64>()),
            environment: environment.clone(),
            user: user.clone(),
            created_at: now,
            expires_at: now + self.limits.lifetime,
            from: browser.from,
            user_agent: browser.user_agent.clone().map(cut),
        };
        let mut theirs = self.records_of(environment, user).await?;
        theirs.sort_by_key(|record| record.value.created_at);
        let surplus = (theirs.len() + 1).saturating_sub(SESSIONS_PER_USER_MAX);
        let mut writes: Vec<_> = theirs.iter().take(surplus).flat_map(|record| self.ending(record)).collect();
        writes.push(SESSIONS.put(&Owner::Central, &secret.key(), Precondition::Absent, &session)?);
        Ok((secret, session, writes))
    }

    /// The session this secret belongs to, if it lives; that is a use of it.
    pub(super) async fn find(
        &self,
        secret: &Secret,
        now: OffsetDateTime,
    ) -> Result<Option<Session>, StoreError> {
        let Some(record) = SESSIONS.get(&*self.store, &Owner::Central, &secret.key()).await? else {
            return Ok(None);
        };
        if !self.lives(&record, now).await? {
            return Ok(None);
        }
        self.last_use.note(&use_key(&record.key), now);
        Ok(Some(record.value))
    }

    /// The living sessions of an Environment, newest first.
    pub(super) async fn list(
        &self,
        environment: &EnvironmentName,
        now: OffsetDateTime,
    ) -> Result<Vec<SessionView>, StoreError> {
        let mut views = Vec::new();
        for record in SESSIONS.all(&*self.store, &Owner::Central).await? {
            if record.value.environment == *environment && self.lives(&record, now).await? {
                let last_seen = self.last_seen(&record).await?;
                views.push(SessionView { session: record.value, last_seen });
            }
        }
        views.sort_by_key(|view| std::cmp::Reverse(view.session.created_at));
        Ok(views)
    }

    /// Ends the sessions of `user` that `which` names; says how many.
    pub(super) async fn end(
        &self,
        environment: &EnvironmentName,
        user: &Name,
        which: impl Fn(&Session) -> bool,
    ) -> Result<usize, StoreError> {
        let mut ending = self.records_of(environment, user).await?;
        ending.retain(|record| which(&record.value));
        // A user has few; this many at once are within what one transaction takes.
        ending.truncate(CLEARED_AT_ONCE);
        self.end_all(&ending).await?;
        Ok(ending.len())
    }

    /// Clears away what has ended by itself.
    pub(super) async fn clear(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        let mut ended = Vec::new();
        for record in SESSIONS.all(&*self.store, &Owner::Central).await? {
            if ended.len() < CLEARED_AT_ONCE && !self.lives(&record, now).await? {
                ended.push(record);
            }
        }
        self.end_all(&ended).await
    }

    async fn end_all(&self, ending: &[Versioned<Session>]) -> Result<(), StoreError> {
        if ending.is_empty() {
            return Ok(());
        }
        let writes = ending.iter().flat_map(|record| self.ending(record));
        self.store.commit(writes.fold(Transaction::new(), Transaction::with)).await?;
        for record in ending {
            self.last_use.forget(&use_key(&record.key));
        }
        Ok(())
    }

    async fn records_of(
        &self,
        environment: &EnvironmentName,
        user: &Name,
    ) -> Result<Vec<Versioned<Session>>, StoreError> {
        let mut records = SESSIONS.all(&*self.store, &Owner::Central).await?;
        records.retain(|record| record.value.environment == *environment && record.value.user == *user);
        Ok(records)
    }

    async fn lives(&self, record: &Versioned<Session>, now: OffsetDateTime) -> Result<bool, StoreError> {
        Ok(now < record.value.expires_at && now < self.last_seen(record).await? + self.limits.idle)
    }

    async fn last_seen(&self, record: &Versioned<Session>) -> Result<OffsetDateTime, StoreError> {
        let used = self.last_use.of(&use_key(&record.key)).await?;
        Ok(used.map_or(record.value.created_at, |used| used.max(record.value.created_at)))
    }

    fn ending(&self, record: &Versioned<Session>) -> [Write; 2] {
        let delete = SESSIONS.delete(&Owner::Central, &record.key, Precondition::Any);
        [delete, self.last_use.deletion(&use_key(&record.key))]
    }
}

fn use_key(session: &str) -> String {
    format!("session/{session}")
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(USER_AGENT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;

    const MINUTE: time::Duration = time::Duration::MINUTE;

    #[tokio::test]
    async fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let sessions = sessions();
        let idle = begin(&sessions, then()).await;
        assert!(sessions.find(&idle, then() + 29 * MINUTE).await.unwrap().is_some());
        assert!(sessions.find(&idle, then() + 58 * MINUTE).await.unwrap().is_some(), "that was a use");
        assert!(sessions.find(&idle, then() + 89 * MINUTE).await.unwrap().is_none());
        let busy = begin(&sessions, then()).await;
        for use_number in 0..48 {
            assert!(sessions.find(&busy, then() + use_number * 15 * MINUTE).await.unwrap().is_some());
        }
        assert!(sessions.find(&busy, then() + 12 * 60 * MINUTE).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_ended_by_itself_is_cleared_away() {
        let sessions = sessions();
        for _ in 0..3 {
            begin(&sessions, then()).await;
        }
        let living = begin(&sessions, then() + 40 * MINUTE).await;
        sessions.clear(then() + 41 * MINUTE).await.unwrap();
        assert_eq!(SESSIONS.all(&*sessions.store, &Owner::Central).await.unwrap().len(), 1);
        assert!(sessions.find(&living, then() + 41 * MINUTE).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_makes_room() {
        let sessions = sessions();
        let mut secrets = Vec::new();
        for n in 0..=i32::try_from(SESSIONS_PER_USER_MAX).unwrap() {
            secrets.push(begin(&sessions, then() + n * time::Duration::SECOND).await);
        }
        let mut living = Vec::new();
        for secret in &secrets {
            living.push(sessions.find(secret, then() + MINUTE).await.unwrap().is_some());
        }
        assert_eq!(living.iter().filter(|lives| **lives).count(), SESSIONS_PER_USER_MAX);
        assert!(!living[0]);
    }

    async fn begin(sessions: &Sessions, now: OffsetDateTime) -> Secret {
        let (environment, user) = ("default".parse().unwrap(), "anna".parse().unwrap());
        let begun = sessions.begin(&environment, &user, &Browser::default(), now).await.unwrap();
        let (secret, _, writes) = begun;
        sessions.store.commit(writes.into_iter().fold(Transaction::new(), Transaction::with)).await.unwrap();
        secret
    }

    fn sessions() -> Sessions {
        let store: SharedStore = Arc::new(MemoryStore::default());
        Sessions::new(store.clone(), LastUse::new(store), SessionLimits::default())
    }

    fn then() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)
    }
}
