//! When a session or a token was last used: noted in memory at once, written a minute later.
//!
//! A request must not wait for a disk because somebody wants to know when it was. What a crash forgets is the last
//! minute; a session then ends a minute early.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction, Write};

/// By `session/HASH` or `token/ID`.
const LAST_USES: Collection<LastUsed> = Collection::new("last_used");
/// Uses written in one transaction.
const WRITTEN_AT_ONCE: usize = 100;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct LastUsed {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

/// The newest use of everything. Cheap to clone. Bounded by what exists: only what was verified is noted.
#[derive(Clone)]
pub struct LastUse {
    store: SharedStore,
    noted: Arc<Mutex<Noted>>,
}

#[derive(Default)]
struct Noted {
    at: BTreeMap<String, OffsetDateTime>,
    unwritten: BTreeSet<String>,
}

impl LastUse {
    pub fn new(store: SharedStore) -> Self {
        Self { store, noted: Arc::default() }
    }

    /// It is being used. Touches memory only.
    pub fn note(&self, what: &str, now: OffsetDateTime) {
        let mut noted = self.noted();
        noted.at.insert(what.to_owned(), now);
        noted.unwritten.insert(what.to_owned());
    }

    /// When it was last used, to the moment while central runs, to the minute over a restart.
    pub async fn of(&self, what: &str) -> Result<Option<OffsetDateTime>, StoreError> {
        if let Some(at) = self.noted().at.get(what) {
            return Ok(Some(*at));
        }
        let written = LAST_USES.get(&*self.store, &Owner::Central, what).await?;
        Ok(written.map(|written| written.value.at))
    }

    /// The write to be committed with the end of `what`; call [`Self::forget`] behind it.
    pub fn deletion(&self, what: &str) -> Write {
        LAST_USES.delete(&Owner::Central, what, Precondition::Any)
    }

    pub fn forget(&self, what: &str) {
        let mut noted = self.noted();
        noted.at.remove(what);
        noted.unwritten.remove(what);
    }

    /// Writes what is new. What cannot be written stays new.
    pub async fn write(&self) -> Result<(), StoreError> {
        loop {
            let some: Vec<_> = {
                let noted = self.noted();
                let unwritten = noted.unwritten.iter().take(WRITTEN_AT_ONCE);
                unwritten.filter_map(|what| Some((what.clone(), *noted.at.get(what)?))).collect()
            };
            if some.is_empty() {
                return Ok(());
            }
            let mut transaction = Transaction::new();
            for (what, at) in &some {
                let used = LastUsed { at: *at };
                transaction =
                    transaction.with(LAST_USES.put(&Owner::Central, what, Precondition::Any, &used)?);
            }
            self.store.commit(transaction).await?;
            let mut noted = self.noted();
            for (what, at) in &some {
                // Used again meanwhile, it is new again.
                if noted.at.get(what).is_none_or(|newest| newest == at) {
                    noted.unwritten.remove(what);
                }
            }
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        // Nobody panics with the lock held, and a moment more or less does no harm.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn a_use_is_known_at_once_and_survives_once_it_is_written() {
        let store: SharedStore = Arc::new(MemoryStore::default());
        let before = LastUse::new(store.clone());
        before.note("token/1", at(5));
        assert_eq!(before.of("token/1").await.unwrap(), Some(at(5)));
        assert_eq!(LastUse::new(store.clone()).of("token/1").await.unwrap(), None);
        before.write().await.unwrap();
        assert_eq!(LastUse::new(store).of("token/1").await.unwrap(), Some(at(5)));
    }

    #[tokio::test]
    async fn any_number_is_written_and_nothing_twice() {
        let store: SharedStore = Arc::new(MemoryStore::default());
        let last_use = LastUse::new(store.clone());
        for n in 0..250 {
            last_use.note(&format!("token/{n}"), at(n));
        }
        last_use.write().await.unwrap();
        let revision = *store.changes().borrow();
        last_use.write().await.unwrap();
        assert_eq!(*store.changes().borrow(), revision);
        assert_eq!(LastUse::new(store).of("token/249").await.unwrap(), Some(at(249)));
    }

    #[tokio::test]
    async fn what_has_ended_is_forgotten_everywhere() {
        let store: SharedStore = Arc::new(MemoryStore::default());
        let last_use = LastUse::new(store.clone());
        last_use.note("token/1", at(5));
        last_use.write().await.unwrap();
        store.commit(last_use.deletion("token/1").into()).await.unwrap();
        last_use.forget("token/1");
        assert_eq!(last_use.of("token/1").await.unwrap(), None);
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
    }
}
