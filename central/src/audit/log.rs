//! The log in the store: bounded, numbered, chained.

use proto::EnvironmentName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chain::{Anchor, hash_of};
use crate::store::{
    Collection, Key, Owner, Precondition, Revision, SharedStore, StoreError, Transaction, Versioned,
    WRITES_MAX,
};

/// As they were written, to the last field: the hash is of all of it.
const RECORDS: Collection<Value> = Collection::new("audit");
/// One record under [`HEAD_KEY`].
const HEADS: Collection<Head> = Collection::new("audit_head");
const HEAD_KEY: &str = "head";

/// How many records an Environment keeps.
pub const RECORDS_MAX: u64 = 100_000;
/// How many old records one append clears away at most, so that it stays quick.
const CLEARED_PER_APPEND: usize = 8;
/// As in [`Collection::update`]: this many conflicts in a row are a fault.
const ATTEMPTS_MAX: usize = 64;

/// Where the log begins and ends.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Head {
    /// The last record that made room.
    anchor: Anchor,
    /// The newest record.
    newest: Anchor,
}

/// The same, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeadView {
    /// The newest record's number and hash: whoever keeps both notices when the end is cut off.
    pub seq: u64,
    pub hash: String,
    /// The first record follows this.
    pub anchor: Anchor,
}

/// The log of one Environment. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    store: SharedStore,
    owner: Owner,
    keep: u64,
}

impl AuditLog {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into(), keep: RECORDS_MAX }
    }

    /// Appends what `record` makes, a JSON object, together with `others`: all of it happens, or nothing.
    ///
    /// # Errors
    /// Also where a precondition of `others` does not hold: that is the caller's to decide anew.
    pub async fn append(&self, record: &Value, others: &Transaction) -> Result<Revision, StoreError> {
        let head_key = HEADS.key(&self.owner, HEAD_KEY);
        for _ in 0..ATTEMPTS_MAX {
            let before = HEADS.get(&*self.store, &self.owner, HEAD_KEY).await?;
            let unchanged = before.as_ref().map_or(Precondition::Absent, Versioned::unchanged);
            let mut head = before.map(|before| before.value).unwrap_or_default();
            let mut record = record.clone();
            let seq = head.newest.seq + 1;
            record["seq"] = seq.into();
            record["prev"] = head.newest.hash.clone().into();
            let hash = hash_of(&record);
            record["hash"] = hash.clone().into();
            head.newest = Anchor { seq, hash };
            let put = RECORDS.put(&self.owner, &key(seq), Precondition::Absent, &record)?;
            let mut transaction = others.clone().with(put);
            for old in self.surplus(&head, transaction.writes().len()).await? {
                transaction = transaction.with(RECORDS.delete(&self.owner, &old.key, Precondition::Any));
                head.anchor = anchor_of(&old.value);
            }
            let transaction = transaction.with(HEADS.put(&self.owner, HEAD_KEY, unchanged, &head)?);
            match self.store.commit(transaction).await {
                Ok(revision) => return Ok(revision),
                // Somebody else appended.
                Err(StoreError::Conflict(key)) if self.is_ours(&key) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict(head_key))
    }

    /// Up to `limit` records with numbers above `after`, oldest first.
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<Value>, StoreError> {
        let records = RECORDS.page(&*self.store, &self.owner, Some(&key(after)), limit).await?;
        Ok(records.into_iter().map(|record| record.value).collect())
    }

    /// The newest `limit` records, oldest first.
    pub async fn newest(&self, limit: usize) -> Result<Vec<Value>, StoreError> {
        let limit_u64 = u64::try_from(limit).unwrap_or(u64::MAX);
        let after = self.head().await?.seq.saturating_sub(limit_u64);
        self.list(after, limit).await
    }

    pub async fn head(&self) -> Result<HeadView, StoreError> {
        let head = HEADS.get(&*self.store, &self.owner, HEAD_KEY).await?;
        let Head { anchor, newest } = head.map(|head| head.value).unwrap_or_default();
        Ok(HeadView { seq: newest.seq, hash: newest.hash, anchor })
    }

    /// The oldest records, as far as there are too many, beside a transaction that has so many writes already.
    async fn surplus(&self, head: &Head, writes: usize) -> Result<Vec<Versioned<Value>>, StoreError> {
        let too_many = (head.newest.seq - head.anchor.seq).saturating_sub(self.keep);
        let room = WRITES_MAX.saturating_sub(writes + 1).min(CLEARED_PER_APPEND);
        let clear = usize::try_from(too_many).unwrap_or(usize::MAX).min(room);
        if clear == 0 {
            return Ok(Vec::new());
        }
        RECORDS.page(&*self.store, &self.owner, Some(&key(head.anchor.seq)), clear).await
    }

    fn is_ours(&self, key: &Key) -> bool {
        key.collection == HEADS.name() || key.collection == RECORDS.name()
    }
}

fn anchor_of(record: &Value) -> Anchor {
    let hash = record.get("hash").and_then(Value::as_str).unwrap_or_default();
    Anchor { seq: record.get("seq").and_then(Value::as_u64).unwrap_or_default(), hash: hash.to_owned() }
}

/// Twenty digits hold every `u64`, so that the keys' order is the numbers' order.
fn key(seq: u64) -> String {
    format!("{seq:020}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{
        super::chain::{Broken, Chain},
        *,
    };
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn what_many_append_at_once_is_one_chain() {
        let log = log(100);
        let speakers = (0..20).map(|n| {
            let log = log.clone();
            tokio::spawn(async move { log.append(&json!({"n": n}), &Transaction::new()).await.unwrap() })
        });
        for speaker in speakers.collect::<Vec<_>>() {
            speaker.await.unwrap();
        }
        assert_eq!(verify(&log).await.unwrap(), 20);
    }

    #[tokio::test]
    async fn a_log_that_made_room_still_holds_together() {
        let log = log(5);
        for n in 0..40 {
            log.append(&json!({"n": n}), &Transaction::new()).await.unwrap();
        }
        assert_eq!(log.list(0, 100).await.unwrap().len(), 5);
        let head = log.head().await.unwrap();
        assert_eq!((head.anchor.seq, head.seq), (35, 40));
        assert_eq!(verify(&log).await.unwrap(), 40);
        assert_eq!(log.newest(2).await.unwrap()[0]["n"], 38);
    }

    #[tokio::test]
    async fn a_record_and_its_change_are_written_together_or_not_at_all() {
        const NOTES: Collection<String> = Collection::new("notes");
        let log = log(100);
        let note = NOTES.put(&log.owner, "n", Precondition::Absent, &"x".to_owned()).unwrap();
        log.append(&json!({}), &note.clone().into()).await.unwrap();
        let again = log.append(&json!({}), &note.into()).await;
        assert!(matches!(again, Err(StoreError::Conflict(key)) if key.collection == "notes"));
        assert_eq!(log.head().await.unwrap().seq, 1);
    }

    async fn verify(log: &AuditLog) -> Result<u64, Broken> {
        let head = log.head().await.unwrap();
        let mut chain = Chain::behind(head.anchor);
        for record in log.list(0, 1000).await.unwrap() {
            chain.take(&record)?;
        }
        assert_eq!(*chain.head(), Anchor { seq: head.seq, hash: head.hash });
        Ok(chain.head().seq)
    }

    fn log(keep: u64) -> AuditLog {
        let environment = "default".parse().unwrap();
        AuditLog { keep, ..AuditLog::new(Arc::new(MemoryStore::default()), &environment) }
    }
}
