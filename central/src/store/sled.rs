//! The store of a single central: sled, made durable by the crate `durable`.
//!
//! One tree, one key `OWNER 0 COLLECTION 0 KEY` per record (names hold no NUL, so no key can be read two
//! ways), values CRC ‖ JSON. A commit is one atomic batch that also raises the revision; it is announced and
//! readable only after fdatasync. A guard file remembers the newest revision, because sled opens a damaged
//! file silently with a shorter past.

use std::{io, path::Path, sync::Arc};

use async_trait::async_trait;
use durable::{Durable, Guard, GuardError, record, sled};
use proto::EnvironmentName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{RwLock, oneshot, watch};

use super::{Action, Dumped, Key, Owner, Record, Revision, SCAN_MAX, Store, StoreError, Transaction};

const TREE: &str = "central";
/// Without a NUL, so it lies in no collection.
const REVISION_KEY: &[u8] = b"revision";

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// Acknowledged commits are missing: the fence could fall back, used tokens would be valid again.
    #[error(
        "the store in {path} has lost acknowledged changes: it is at revision {found}, its guard file says \
         {guarded}. Restore the data directory from a backup; central does not start on half a memory"
    )]
    Lost { path: String, found: Revision, guarded: Revision },
    #[error("the store in {path} is damaged: {reason}. Restore the data directory from a backup")]
    Damaged { path: String, reason: String },
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("the store could not be read: {0}")]
    Io(#[from] io::Error),
}

/// Records in one tree of a [`Durable`] database, which other rooms may share.
pub struct SledStore(Arc<Shared>);

struct Shared {
    disk: Durable,
    tree: sled::Tree,
    guard: Arc<Guard<Revision>>,
    /// Held for writing from a commit's first look to its fdatasync: nobody reads what a power cut could
    /// still take back, and nobody writes on top of it.
    revision: RwLock<Revision>,
    announce: watch::Sender<Revision>,
}

/// A record as it lies on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: Revision,
    value: Value,
}

impl SledStore {
    /// The store in `disk`, guarded by the file `guard`. Blocks: reads every record once.
    ///
    /// # Errors
    /// [`OpenStoreError`] says whether something is missing, damaged or unreadable.
    pub fn open(disk: &Durable, guard: &Path) -> Result<Self, OpenStoreError> {
        let path = disk.path().display().to_string();
        let damaged = |error: record::RecordError| OpenStoreError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        };
        let tree = disk.tree(TREE)?;
        let mut found = 0;
        for entry in &tree {
            let (key, bytes) = entry.map_err(io::Error::from)?;
            if key == REVISION_KEY {
                found = record::decode(&key, &bytes).map_err(damaged)?;
            } else {
                record::decode::<Stored>(&key, &bytes).map_err(damaged)?;
            }
        }
        let (guard, guarded) = Guard::<Revision>::open(guard)?;
        let guarded = guarded.unwrap_or_default();
        if found < guarded {
            return Err(OpenStoreError::Lost { path, found, guarded });
        }
        Ok(Self(Arc::new(Shared {
            disk: disk.clone(),
            tree,
            guard: Arc::new(guard),
            revision: RwLock::new(found),
            announce: watch::Sender::new(found),
        })))
    }
}

#[async_trait]
impl Store for SledStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let _durable = self.0.revision.read().await;
        self.0.usable()?;
        let stored = self.0.read(&encode(key))?;
        Ok(stored.map(|Stored { version, value }| Record { key: key.key.clone(), version, value }))
    }

    async fn scan(
        &self,
        owner: &Owner,
        collection: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let _durable = self.0.revision.read().await;
        self.0.usable()?;
        let prefix = prefix(owner, collection);
        let mut behind = prefix.clone();
        behind.extend_from_slice(after.unwrap_or_default().as_bytes());
        let mut records = Vec::new();
        // No key is empty, so the bare prefix itself is never a record.
        for entry in self.0.tree.range((std::ops::Bound::Excluded(behind), std::ops::Bound::Unbounded)) {
            let (key, bytes) = entry.map_err(failed)?;
            let Some(name) = key.strip_prefix(prefix.as_slice()) else { break };
            if records.len() >= limit.min(SCAN_MAX) {
                break;
            }
            let Stored { version, value } = record::decode(&key, &bytes).map_err(failed)?;
            let key = String::from_utf8(name.to_vec()).map_err(failed)?;
            records.push(Record { key, version, value });
        }
        Ok(records)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        transaction.check()?;
        // In a task of its own: a caller who goes away must not leave a batch that is applied but neither
        // durable nor announced.
        let shared = self.0.clone();
        tokio::spawn(async move { shared.commit(&transaction).await }).await.map_err(failed)?
    }

    async fn dump(&self) -> Result<(Revision, Vec<Dumped>), StoreError> {
        // Held to the end: what is read is what one commit left.
        let revision = self.0.revision.read().await;
        self.0.usable()?;
        let mut records = Vec::new();
        for entry in &self.0.tree {
            let (key, bytes) = entry.map_err(failed)?;
            if key == REVISION_KEY {
                continue;
            }
            let Stored { version, value } = record::decode(&key, &bytes).map_err(failed)?;
            let (owner, collection, key) = decode(&key).ok_or_else(|| failed("a key cannot be read"))?;
            records.push(Dumped { owner, collection, key, version, value });
        }
        Ok((*revision, records))
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.0.announce.subscribe()
    }
}

impl Shared {
    async fn commit(&self, transaction: &Transaction) -> Result<Revision, StoreError> {
        let mut newest = self.revision.write().await;
        self.usable()?;
        let mut batch = sled::Batch::default();
        let revision = *newest + 1;
        for write in transaction.writes() {
            let key = encode(&write.key);
            if !write.precondition.holds(self.read(&key)?.map(|stored| stored.version)) {
                return Err(StoreError::Conflict(write.key.clone()));
            }
            match &write.action {
                Action::Put(value) => {
                    let stored = Stored { version: revision, value: value.clone() };
                    let bytes = record::encode(&key, &stored).map_err(failed)?;
                    batch.insert(key, bytes);
                }
                Action::Delete => batch.remove(key),
                Action::Check => {}
            }
        }
        batch.insert(REVISION_KEY, record::encode(REVISION_KEY, &revision).map_err(failed)?);
        self.tree.apply_batch(batch).map_err(failed)?;
        let (tell, told) = oneshot::channel();
        self.disk.sync_guarded(&self.guard, revision, move |result| {
            // Nobody listens only if this task is gone, and then nobody is told "done" either.
            let _ = tell.send(result);
        });
        told.await.map_err(failed)?.map_err(failed)?;
        *newest = revision;
        self.announce.send_replace(revision);
        Ok(revision)
    }

    fn read(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let bytes = self.tree.get(key).map_err(failed)?;
        bytes.map(|bytes| record::decode(key, &bytes).map_err(failed)).transpose()
    }

    /// After the first disk error nothing is true any more: what lies in memory may never reach the disk.
    fn usable(&self) -> Result<(), StoreError> {
        self.disk.failed().borrow().as_ref().map_or(Ok(()), |failure| Err(failed(failure)))
    }
}

fn prefix(owner: &Owner, collection: &str) -> Vec<u8> {
    let owner = match owner {
        // No Environment has an empty name.
        Owner::Central => "",
        Owner::Environment(name) => name.as_str(),
    };
    [owner.as_bytes(), &[0], collection.as_bytes(), &[0]].concat()
}

fn encode(key: &Key) -> Vec<u8> {
    let mut bytes = prefix(&key.owner, key.collection);
    bytes.extend_from_slice(key.key.as_bytes());
    bytes
}

/// The parts of a key.
fn decode(bytes: &[u8]) -> Option<(Option<EnvironmentName>, String, String)> {
    let mut parts = std::str::from_utf8(bytes).ok()?.splitn(3, '\0');
    let (owner, collection, key) = (parts.next()?, parts.next()?, parts.next()?);
    let owner = if owner.is_empty() { None } else { Some(owner.parse().ok()?) };
    Some((owner, collection.to_owned(), key.to_owned()))
}

/// A store that is being made of a backup: written record by record, and opened by nobody before
/// [`finish`](Self::finish).
pub struct Restoring {
    disk: Durable,
    tree: sled::Tree,
    newest: Revision,
}

impl Restoring {
    /// In a new database.
    pub fn begin(disk: &Durable) -> Result<Self, OpenStoreError> {
        Ok(Self { disk: disk.clone(), tree: disk.tree(TREE)?, newest: 0 })
    }

    /// The store had come so far.
    pub fn at_least(&mut self, revision: Revision) {
        self.newest = self.newest.max(revision);
    }

    /// One more record. It keeps its version, so that what people have in their hands stays what it is.
    pub fn put(&mut self, record: &Dumped) -> Result<(), OpenStoreError> {
        let owner = record.owner.as_ref().map_or("", |name| name.as_str());
        let parts = [owner, &record.collection, &record.key];
        if parts.iter().any(|part| part.contains('\0')) || record.key.is_empty() {
            let reason = format!("a record of {} has no key that can be", record.collection);
            return Err(OpenStoreError::Damaged { path: self.disk.path().display().to_string(), reason });
        }
        let key = parts.join("\0").into_bytes();
        let stored = Stored { version: record.version, value: record.value.clone() };
        let bytes = record::encode(&key, &stored).map_err(io::Error::other)?;
        self.tree.insert(key, bytes).map_err(io::Error::from)?;
        self.at_least(record.version);
        Ok(())
    }

    /// Puts it on disk with its guard. Blocks.
    pub fn finish(self, guard: &Path) -> Result<(), OpenStoreError> {
        // A backup's own moment is not taken for any commit of the restored store.
        let revision = self.newest + 1;
        let bytes = record::encode(REVISION_KEY, &revision).map_err(io::Error::other)?;
        self.tree.insert(REVISION_KEY, bytes).map_err(io::Error::from)?;
        self.disk.sync_blocking()?;
        let (guard, _) = Guard::<Revision>::open(guard)?;
        guard.write(&revision)?;
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::store::{Precondition, Write, contract};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_sled_store_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        contract::check(Arc::new(open(&folder).unwrap())).await;
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening_and_versions_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).unwrap();
        let version = store.commit(put("a", 1)).await.unwrap();
        drop(store);
        let store = open(&folder).unwrap();
        assert_eq!(store.get(&key("a")).await.unwrap().unwrap().version, version);
        assert!(store.commit(put("b", 2)).await.unwrap() > version);
    }

    #[tokio::test]
    async fn a_store_that_forgot_an_acknowledged_commit_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).unwrap();
        store.commit(put("a", 1)).await.unwrap();
        drop(store);
        let older = tempfile::tempdir().unwrap();
        copy(&folder.path().join("db"), &older.path().join("db"));
        let store = open(&folder).unwrap();
        store.commit(put("a", 2)).await.unwrap();
        drop(store);
        // An older image of the database beside the guard: what sled makes of a damaged tail.
        fs::remove_dir_all(folder.path().join("db")).unwrap();
        copy(&older.path().join("db"), &folder.path().join("db"));
        let Err(error) = open(&folder) else { panic!("opened") };
        assert!(matches!(error, OpenStoreError::Lost { found: 1, guarded: 2, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_caller_who_goes_away_leaves_a_whole_commit() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(open(&folder).unwrap());
        let mut changes = store.changes();
        let leaving = tokio::spawn({
            let store = store.clone();
            async move { store.commit(put("a", 1)).await }
        });
        // Polled once, so that the commit is on its way, and then abandoned.
        tokio::task::yield_now().await;
        leaving.abort();
        let announced = tokio::time::timeout(std::time::Duration::from_secs(10), changes.changed()).await;
        announced.expect("the commit is carried out").unwrap();
        assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, json!(1));
    }

    #[tokio::test]
    async fn after_a_disk_error_nothing_is_read_or_written() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Durable::open(folder.path().join("db")).unwrap();
        let store = SledStore::open(&disk, &folder.path().join("guard")).unwrap();
        // A value that fits no guard slot stands for a disk that refuses.
        let broken = Arc::new(Guard::<String>::open(folder.path().join("broken")).unwrap().0);
        let (tell, told) = oneshot::channel();
        disk.sync_guarded(&broken, "x".repeat(10_000), move |result| tell.send(result).unwrap());
        told.await.unwrap().unwrap_err();
        assert!(matches!(store.commit(put("a", 1)).await, Err(StoreError::Failed(_))));
        assert!(matches!(store.get(&key("a")).await, Err(StoreError::Failed(_))));
    }

    fn open(folder: &TempDir) -> Result<SledStore, OpenStoreError> {
        let disk = Durable::open(folder.path().join("db")).unwrap();
        SledStore::open(&disk, &folder.path().join("guard"))
    }

    fn key(name: &str) -> Key {
        Key { owner: Owner::Central, collection: "things", key: name.into() }
    }

    fn put(name: &str, value: u64) -> Transaction {
        let action = Action::Put(json!(value));
        Transaction::from(Write { key: key(name), precondition: Precondition::Any, action })
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
}
