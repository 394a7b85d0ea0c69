//! Typed records over [`Store`]: no other room parses the store's JSON.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Action, Key, Owner, Precondition, Record, Revision, SCAN_MAX, Store, StoreError, Transaction, Write,
};

/// How often [`Collection::update`] tries again when others write the same record. Each conflict means
/// somebody else got on, so this many in a row is a fault and no contention.
const UPDATE_ATTEMPTS_MAX: usize = 64;

/// A named set of records of one type, in each owner.
pub struct Collection<T> {
    name: &'static str,
    record: PhantomData<fn() -> T>,
}

/// A record and the version it was read in.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    pub key: String,
    pub version: Revision,
    pub value: T,
}

impl<T> Versioned<T> {
    /// Holds while nobody else has written the record.
    pub fn unchanged(&self) -> Precondition {
        Precondition::Version(self.version)
    }
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    pub const fn new(name: &'static str) -> Self {
        Self { name, record: PhantomData }
    }

    /// As its keys name it.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Where the record `key` of `owner` is.
    pub fn key(&self, owner: &Owner, key: &str) -> Key {
        Key { owner: owner.clone(), collection: self.name, key: key.into() }
    }

    pub async fn get(
        &self,
        store: &dyn Store,
        owner: &Owner,
        key: &str,
    ) -> Result<Option<Versioned<T>>, StoreError> {
        let record = store.get(&self.key(owner, key)).await?;
        record.map(|record| self.read(owner, record)).transpose()
    }

    /// Up to `limit` records behind `after`, in the order of their keys.
    pub async fn page(
        &self,
        store: &dyn Store,
        owner: &Owner,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Versioned<T>>, StoreError> {
        let records = store.scan(owner, self.name, after, limit).await?;
        records.into_iter().map(|record| self.read(owner, record)).collect()
    }

    /// Every record, in the order of the keys. Only for collections an administrator bounds.
    pub async fn all(&self, store: &dyn Store, owner: &Owner) -> Result<Vec<Versioned<T>>, StoreError> {
        let mut all: Vec<Versioned<T>> = Vec::new();
        loop {
            let after = all.last().map(|last| last.key.clone());
            let page = self.page(store, owner, after.as_deref(), SCAN_MAX).await?;
            let last_page = page.len() < SCAN_MAX;
            all.extend(page);
            if last_page {
                return Ok(all);
            }
        }
    }

    /// A write of `value`, to be committed alone or with others.
    pub fn put(
        &self,
        owner: &Owner,
        key: &str,
        precondition: Precondition,
        value: &T,
    ) -> Result<Write, StoreError> {
        let key = self.key(owner, key);
        match serde_json::to_value(value) {
            Ok(value) => Ok(Write { key, precondition, action: Action::Put(value) }),
            Err(source) => Err(StoreError::Refused { key, why: source.to_string() }),
        }
    }

    pub fn delete(&self, owner: &Owner, key: &str, precondition: Precondition) -> Write {
        Write { key: self.key(owner, key), precondition, action: Action::Delete }
    }

    /// Makes a transaction depend on a record without writing it.
    pub fn check(&self, owner: &Owner, key: &str, precondition: Precondition) -> Write {
        Write { key: self.key(owner, key), precondition, action: Action::Check }
    }

    /// Reads, lets `change` decide, writes if the record is still the one read, else starts over.
    ///
    /// `change` sees the record or its absence; `Ok(None)` leaves everything as it is. Returns what is
    /// stored afterwards.
    ///
    /// # Errors
    /// Those of `change`, and the store's.
    pub async fn update<E: From<StoreError>>(
        &self,
        store: &dyn Store,
        owner: &Owner,
        key: &str,
        mut change: impl FnMut(Option<&T>) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        for _ in 0..UPDATE_ATTEMPTS_MAX {
            let before = self.get(store, owner, key).await?;
            let Some(after) = change(before.as_ref().map(|before| &before.value))? else {
                return Ok(before.map(|before| before.value));
            };
            let precondition = before.as_ref().map_or(Precondition::Absent, Versioned::unchanged);
            match store.commit(Transaction::from(self.put(owner, key, precondition, &after)?)).await {
                Ok(_) => return Ok(Some(after)),
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict(self.key(owner, key)).into())
    }

    fn read(&self, owner: &Owner, record: Record) -> Result<Versioned<T>, StoreError> {
        match serde_json::from_value(record.value) {
            Ok(value) => Ok(Versioned { key: record.key, version: record.version, value }),
            Err(source) => Err(StoreError::Unreadable { key: self.key(owner, &record.key), source }),
        }
    }
}
