//! What happened each time the gateway's tunnel was lost or moved: kept durably, bounded, for people who ask later.
//!
//! ```text
//!   keeper ──► Chronicle (pure: the incident under way, and the one before) ──► Failovers (store)
//! ```

mod chronicle;

use proto::{EnvironmentName, Name};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use chronicle::Chronicle;
use utoipa::ToSchema;

use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction};

/// How many an Environment keeps.
pub const FAILOVERS_MAX: u64 = 200;
/// The most moments of one; what comes then is left out of it, and stands among the events.
pub const MOMENTS_MAX: usize = 100;
/// The most attempts of one: several rounds of the largest group.
pub const ATTEMPTS_MAX: usize = 64;

/// By number.
const FAILOVERS: Collection<Failover> = Collection::new("failovers");

/// From the loss of a tunnel, or the order to move it, until one carries again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failover {
    /// Numbers without holes; larger is later.
    pub id: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Nothing while it lasts.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// It was ordered: nothing in flight is lost.
    pub planned: bool,
    #[schema(value_type = Option<String>)]
    pub from: Option<Name>,
    /// Who carries it since; the same as `from` where that one came back.
    #[schema(value_type = Option<String>)]
    pub to: Option<Name>,
    pub reason: String,
    /// How long no admitted tunnel lived, milliseconds.
    pub gap_ms: Option<u64>,
    /// The epoch that ended it.
    pub epoch: Option<String>,
    /// Streams that could not be carried over and were reset.
    pub streams_cut: u64,
    pub attempts: Vec<Attempt>,
    pub alerts: Vec<AlertMoment>,
    pub timeline: Vec<Moment>,
}

/// One candidate's turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = FailoverAttempt)]
pub struct Attempt {
    #[schema(value_type = String)]
    pub candidate: Name,
    #[serde(with = "time::serde::rfc3339")]
    pub began_at: OffsetDateTime,
    /// How long it lasted; nothing while it lasts.
    pub ms: Option<u64>,
    /// What it has: `gateway.connect_timeout`.
    pub limit_ms: u64,
    pub outcome: AttemptOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    UnderWay,
    TookOver,
    /// Another one was quicker, or an administrator named another one.
    Overtaken,
    TimeIsUp,
    NotConnected,
}

/// An alert that was decided to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertMoment {
    pub kind: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// Something that happened meanwhile; it also stands among the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = FailoverMoment)]
pub struct Moment {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub code: String,
    pub text: String,
}

/// The failovers of one Environment. Cheap to clone.
#[derive(Clone)]
pub struct Failovers {
    store: SharedStore,
    owner: Owner,
}

impl Failovers {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into() }
    }

    /// Writes one, over what was written of it before; the one that is too old makes room.
    pub async fn put(&self, failover: &Failover) -> Result<(), StoreError> {
        let put = FAILOVERS.put(&self.owner, &key(failover.id), Precondition::Any, failover)?;
        let mut transaction = Transaction::from(put);
        if let Some(old) = failover.id.checked_sub(FAILOVERS_MAX) {
            transaction = transaction.with(FAILOVERS.delete(&self.owner, &key(old), Precondition::Any));
        }
        self.store.commit(transaction).await.map(drop)
    }

    pub async fn find(&self, id: u64) -> Result<Option<Failover>, StoreError> {
        let record = FAILOVERS.get(&*self.store, &self.owner, &key(id)).await?;
        Ok(record.map(|record| record.value))
    }

    /// All that are kept, newest first.
    pub async fn all(&self) -> Result<Vec<Failover>, StoreError> {
        let records = FAILOVERS.all(&*self.store, &self.owner).await?;
        Ok(records.into_iter().rev().map(|record| record.value).collect())
    }

    /// The newest, if there ever was one.
    pub async fn newest(&self) -> Result<Option<Failover>, StoreError> {
        Ok(self.all().await?.into_iter().next())
    }
}

/// Twenty digits hold every `u64`, so that the keys' order is the numbers' order.
fn key(id: u64) -> String {
    format!("{id:020}")
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn the_oldest_make_room_and_the_newest_stands_first() {
        let failovers = Failovers::new(Arc::new(MemoryStore::default()), &"default".parse().unwrap());
        let mut chronicle = Chronicle::new(None, Duration::from_secs(240));
        for _ in 0..FAILOVERS_MAX + 5 {
            chronicle.began(None, "lost", false, OffsetDateTime::UNIX_EPOCH);
            chronicle.given_up(OffsetDateTime::UNIX_EPOCH);
            for changed in chronicle.changed() {
                failovers.put(&changed).await.unwrap();
            }
        }
        let all = failovers.all().await.unwrap();
        assert_eq!((all.len() as u64, all[0].id), (FAILOVERS_MAX, FAILOVERS_MAX + 5));
        assert_eq!(failovers.find(1).await.unwrap(), None);
    }
}
