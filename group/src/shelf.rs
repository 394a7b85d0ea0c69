//! Where one node's Raft records lie: a tree of a database with its guard, or plain memory.
//!
//! Log and state machine speak to this and know nothing of sled. The memory shelf forgets nothing
//! either as long as somebody holds it; it exists so that whole groups run under simulated time,
//! where threads and disks have no place.

use std::{
    collections::BTreeMap,
    io,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use durable::{Durable, Guard, record, sled};
use proto::hello::Seat;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use crate::types::{Id, Vote};

/// How far a node's vote and log had come when they were last made durable.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) seat: Seat,
    /// The seat was given up: its records are gone on purpose.
    pub(crate) left: bool,
    pub(crate) vote: Option<Vote>,
    pub(crate) last_log_id: Option<Id>,
}

pub(crate) enum Shelf {
    Disk { db: Arc<Durable>, tree: sled::Tree, guard: Arc<Guard<Mark>> },
    Memory(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>),
}

/// Changes that become visible together.
#[derive(Default)]
pub(crate) struct Batch {
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    pub(crate) fn write<T: Serialize>(&mut self, key: &[u8], value: &T) -> io::Result<()> {
        self.changes.push((key.to_vec(), Some(record::encode(key, value)?)));
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.changes.push((key.to_vec(), None));
    }
}

impl Shelf {
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        let bytes = match self {
            Self::Disk { tree, .. } => tree.get(key)?.map(|bytes| bytes.to_vec()),
            Self::Memory(records) => lock(records).get(key).cloned(),
        };
        bytes.map(|bytes| record::decode(key, &bytes)).transpose().map_err(io::Error::from)
    }

    /// All records whose keys lie in `keys`, in order.
    pub(crate) fn scan<T: DeserializeOwned>(&self, keys: RangeInclusive<Vec<u8>>) -> io::Result<Vec<T>> {
        match self {
            Self::Disk { tree, .. } => tree
                .range(keys)
                .map(|record| {
                    let (key, bytes) = record?;
                    Ok(record::decode(&key, &bytes)?)
                })
                .collect(),
            Self::Memory(records) => {
                lock(records).range(keys).map(|(key, bytes)| Ok(record::decode(key, bytes)?)).collect()
            }
        }
    }

    pub(crate) fn write<T: Serialize>(&self, key: &[u8], value: &T) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.write(key, value)?;
        self.apply(batch)
    }

    /// Makes the changes readable at once. They survive a power cut after the next sync.
    pub(crate) fn apply(&self, batch: Batch) -> io::Result<()> {
        match self {
            Self::Disk { tree, .. } => {
                let mut changes = sled::Batch::default();
                for (key, value) in batch.changes {
                    match value {
                        Some(value) => changes.insert(key, value),
                        None => changes.remove(key),
                    }
                }
                Ok(tree.apply_batch(changes)?)
            }
            Self::Memory(records) => {
                let mut records = lock(records);
                for (key, value) in batch.changes {
                    match value {
                        Some(value) => records.insert(key, value),
                        None => records.remove(&key),
                    };
                }
                Ok(())
            }
        }
    }

    /// Waits until everything applied so far is durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        match self {
            Self::Disk { db, .. } => db.sync().await,
            Self::Memory(_) => Ok(()),
        }
    }

    /// Puts `mark` into the guard at once, for records that are durable already. Blocks.
    pub(crate) fn note(&self, mark: Mark) -> io::Result<()> {
        match self {
            Self::Disk { guard, .. } => guard.write(&mark),
            Self::Memory(_) => Ok(()),
        }
    }

    /// How often the guard was written; 0 in memory.
    pub(crate) fn written(&self) -> u64 {
        match self {
            Self::Disk { guard, .. } => guard.written(),
            Self::Memory(_) => 0,
        }
    }

    /// Calls `done` once everything applied so far, and then `mark` in the guard, is durable.
    pub(crate) fn sync_marked(&self, mark: Mark, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        match self {
            Self::Disk { db, guard, .. } => db.sync_guarded(guard, mark, done),
            Self::Memory(_) => done(Ok(())),
        }
    }

    /// As [`Shelf::sync_marked`], waiting for it.
    pub(crate) async fn marked(&self, mark: Mark) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        self.sync_marked(mark, move |result| {
            let _ = tell.send(result);
        });
        told.await.unwrap_or_else(|_| Err(io::Error::other("the storage thread has stopped")))
    }
}

fn lock(records: &Mutex<BTreeMap<Vec<u8>, Vec<u8>>>) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}
