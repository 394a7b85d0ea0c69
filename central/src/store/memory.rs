//! A store that forgets: for tests under a paused clock, where no disk may be waited for.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::watch;

use super::{Action, Dumped, Key, Owner, Record, Revision, SCAN_MAX, Store, StoreError, Transaction};

/// Keeps everything in memory; passes the same contract as the durable stores, durability aside.
pub struct MemoryStore {
    records: Mutex<BTreeMap<Key, (Revision, Value)>>,
    revision: watch::Sender<Revision>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { records: Mutex::default(), revision: watch::Sender::new(0) }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        // A panic elsewhere cannot leave the map half-written: commits check first, then write.
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(records.get(key).map(|(version, value)| Record {
            key: key.key.clone(),
            version: *version,
            value: value.clone(),
        }))
    }

    async fn scan(
        &self,
        owner: &Owner,
        collection: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = Key { owner: owner.clone(), collection, key: after.unwrap_or_default().into() };
        Ok(records
            .range((Bound::Excluded(behind), Bound::Unbounded))
            .take_while(|(key, _)| key.owner == *owner && key.collection == collection)
            .take(limit.min(SCAN_MAX))
            .map(|(key, (version, value))| Record {
                key: key.key.clone(),
                version: *version,
                value: value.clone(),
            })
            .collect())
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        transaction.check()?;
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        for write in transaction.writes() {
            if !write.precondition.holds(records.get(&write.key).map(|(version, _)| *version)) {
                return Err(StoreError::Conflict(write.key.clone()));
            }
        }
        let revision = *self.revision.borrow() + 1;
        for write in transaction.writes() {
            match &write.action {
                Action::Put(value) => {
                    records.insert(write.key.clone(), (revision, value.clone()));
                }
                Action::Delete => {
                    records.remove(&write.key);
                }
                Action::Check => {}
            }
        }
        self.revision.send_replace(revision);
        Ok(revision)
    }

    async fn dump(&self) -> Result<(Revision, Vec<Dumped>), StoreError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let dumped = records.iter().map(|(key, (version, value))| Dumped {
            owner: match &key.owner {
                Owner::Central => None,
                Owner::Environment(name) => Some(name.clone()),
            },
            collection: key.collection.to_owned(),
            key: key.key.clone(),
            version: *version,
            value: value.clone(),
        });
        Ok((*self.revision.borrow(), dumped.collect()))
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_memory_store_keeps_the_contract() {
        super::super::contract::check(std::sync::Arc::new(MemoryStore::default())).await;
    }
}
