//! Where central keeps what must survive it: small JSON records, each with a version.
//!
//! ```text
//!   rooms ──► Collection<T> ──► dyn Store ──► sled (one node) │ memory (tests)
//!             typed records     JSON, versions, all or nothing
//! ```
//!
//! A record is addressed by (owner, collection, key). Versions come from one counter per store, so a
//! record that was deleted and created again never repeats one: whoever holds an old version loses.
//! [`contract`] is the one suite every implementation must pass.

mod collection;
#[cfg(test)]
pub mod contract;
pub mod measured;
pub mod memory;
pub mod sled;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use proto::EnvironmentName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

pub use collection::{Collection, Versioned};

/// Counts commits. Also the version of every record the commit wrote.
pub type Revision = u64;

/// The largest record, in bytes of JSON. A store of small things stays quick to scan and to copy.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// The most writes in one transaction.
pub const WRITES_MAX: usize = 128;
/// The most records one scan returns, whatever was asked for: the API's largest page, and the record that says that
/// there is another.
pub const SCAN_MAX: usize = 1001;

/// A store shared by all rooms.
pub type SharedStore = Arc<dyn Store>;

/// To whom a record belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Central itself: what must be found before an Environment is known, such as token hashes.
    Central,
    Environment(EnvironmentName),
}

impl From<&EnvironmentName> for Owner {
    fn from(environment: &EnvironmentName) -> Self {
        Self::Environment(environment.clone())
    }
}

/// Where a record is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub owner: Owner,
    pub collection: &'static str,
    pub key: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Central => write!(f, "{}/{}", self.collection, self.key),
            Owner::Environment(name) => write!(f, "{name}/{}/{}", self.collection, self.key),
        }
    }
}

/// A record as the store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub key: String,
    pub version: Revision,
    pub value: Value,
}

/// A record of any collection, as it is carried from one store to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dumped {
    /// An Environment; `None` for central itself.
    pub owner: Option<EnvironmentName>,
    pub collection: String,
    pub key: String,
    pub version: Revision,
    pub value: Value,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// No such record exists.
    Absent,
    /// The record exists in exactly this version.
    Version(Revision),
    /// No matter.
    Any,
}

impl Precondition {
    /// Whether a record in version `current`, or none, satisfies this.
    pub fn holds(self, current: Option<Revision>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::Version(expected) => current == Some(expected),
            Self::Any => true,
        }
    }
}

/// One write of a transaction.
#[derive(Debug, Clone)]
pub struct Write {
    pub key: Key,
    pub precondition: Precondition,
    pub action: Action,
}

/// What a write does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Put(Value),
    /// Deleting what is not there is no error unless the precondition says so.
    Delete,
    /// Writes nothing: the transaction merely depends on the precondition.
    Check,
}

/// Writes that happen all together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Transaction(Vec<Write>);

impl Transaction {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a write. Each key at most once: the second one is refused by [`Store::commit`].
    #[must_use]
    pub fn with(mut self, write: Write) -> Self {
        self.0.push(write);
        self
    }

    pub fn writes(&self) -> &[Write] {
        &self.0
    }

    /// Whether the transaction is within the store's bounds. Implementations call it first.
    ///
    /// # Errors
    /// [`StoreError::Refused`] names the key and the bound.
    pub fn check(&self) -> Result<(), StoreError> {
        let refuse = |key: &Key, why: String| Err(StoreError::Refused { key: key.clone(), why });
        let mut seen = std::collections::BTreeSet::new();
        for write in &self.0 {
            if self.0.len() > WRITES_MAX {
                return refuse(&write.key, format!("a transaction has at most {WRITES_MAX} writes"));
            }
            if write.key.key.is_empty() || write.key.key.len() > KEY_BYTES_MAX {
                return refuse(&write.key, format!("a key has 1 to {KEY_BYTES_MAX} bytes"));
            }
            if !seen.insert(&write.key) {
                return refuse(&write.key, "the transaction writes it twice".into());
            }
            if let Action::Put(value) = &write.action {
                let bytes = value.to_string().len();
                if bytes > VALUE_BYTES_MAX {
                    return refuse(
                        &write.key,
                        format!("it has {bytes} bytes, the limit is {VALUE_BYTES_MAX}"),
                    );
                }
            }
        }
        Ok(())
    }
}

impl From<Write> for Transaction {
    fn from(write: Write) -> Self {
        Self(vec![write])
    }
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written. Read again and decide anew.
    #[error("{0} was changed by someone else in the meantime: read it again")]
    Conflict(Key),
    #[error("{key} cannot be stored: {why}")]
    Refused { key: Key, why: String },
    /// The record is there but this build cannot read it. Nothing is overwritten.
    #[error("{key} in the store cannot be read by this version of central: {source}")]
    Unreadable { key: Key, source: serde_json::Error },
    /// The disk or database failed; what was asked may or may not have happened. The store stays
    /// failed until central is restarted: after a failed fsync the kernel may have dropped the data.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// A durable, versioned set of JSON records.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The record at `key`, if any. Sees only durable writes.
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError>;

    /// Records of one collection in the order of their keys' bytes, beginning behind `after`; at most
    /// `limit` and never more than [`SCAN_MAX`].
    async fn scan(
        &self,
        owner: &Owner,
        collection: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// Does all writes or none. When this returns `Ok` they survive a power cut.
    ///
    /// Dropping the future does not undo: the transaction may still be carried out.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] names the first key whose precondition did not hold.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError>;

    /// Every record there is, as of one moment: the newest revision, and no commit in between. Commits wait for it,
    /// and all of it is in memory: for backups, not for daily work.
    async fn dump(&self) -> Result<(Revision, Vec<Dumped>), StoreError>;

    /// The newest revision; changes with every commit. Revisions may be skipped by a slow reader, so
    /// whoever follows it reads what it cares for again.
    fn changes(&self) -> watch::Receiver<Revision>;
}
