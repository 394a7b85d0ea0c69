//! How far each candidate's Raft records had come, as it told itself.
//!
//! A machine or data directory that was put back from an earlier day looks whole, guard and all, and may have forgotten
//! a vote. Its records have changed fewer times than their agent told before: by that it is recognised, and gets
//! another node.
//!
//! What is told is written down behind the decisions: a failover never waits for it. So what was told in the last
//! moments before central died may be forgotten, as is what a candidate did while central did not hear it.

use std::{collections::BTreeMap, time::Duration};

use proto::{AgentId, EnvironmentName, hello::Seat};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::group::{GroupRecord, SEATS_MAX};
use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction};

const RECORDS: Collection<Told> = Collection::new("raft_records_told");
/// One for all candidates of an Environment.
const KEY: &str = "candidates";
/// How soon a write is tried again that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// At most one a seat.
type Told = BTreeMap<AgentId, Position>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    seat: Seat,
    written: u64,
}

/// What the candidates of one Environment have told.
#[derive(Debug)]
pub struct Records {
    told: watch::Sender<Told>,
}

impl Records {
    /// Reads what was told before, and begins to write down what is told from now on, until this is dropped.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: SharedStore, environment: &EnvironmentName) -> Result<Self, StoreError> {
        let owner = Owner::from(environment);
        let before = RECORDS.get(&*store, &owner, KEY).await?;
        let told = watch::Sender::new(before.map(|record| record.value).unwrap_or_default());
        tokio::spawn(write_down(store, owner, told.subscribe()));
        Ok(Self { told })
    }

    /// This agent's records have changed so many times. Nothing where it does not sit there.
    pub fn told(&self, agent: AgentId, seat: Seat, written: u64, group: &GroupRecord) {
        if group.seat_of(agent) != Some(seat) {
            return;
        }
        self.told.send_if_modified(|told| {
            let position = Position { seat, written };
            match told.get(&agent) {
                Some(before) if before.seat == seat && before.written >= written => return false,
                Some(_) | None => {}
            }
            told.insert(agent, position);
            if told.len() > SEATS_MAX {
                told.retain(|agent, position| group.seat_of(*agent) == Some(position.seat));
            }
            true
        });
    }

    /// How many changes this agent told of before, if it comes back with fewer.
    pub fn lost(&self, agent: AgentId, seat: Seat, written: u64) -> Option<u64> {
        let told = self.told.borrow();
        told.get(&agent)
            .filter(|before| before.seat == seat && before.written > written)
            .map(|before| before.written)
    }
}

/// Ends with its [`Records`], when the last that was told is written.
async fn write_down(store: SharedStore, owner: Owner, mut told: watch::Receiver<Told>) {
    while told.changed().await.is_ok() {
        let newest = told.borrow_and_update().clone();
        let put = RECORDS.put(&owner, KEY, Precondition::Any, &newest);
        let written = match put {
            Ok(put) => store.commit(Transaction::new().with(put)).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "How far the candidates' records have come could not be written down");
            tokio::time::sleep(AGAIN).await;
            told.mark_changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::NodeId;

    use super::*;
    use crate::{
        process_server::group::{Founding, Groups},
        store::memory::MemoryStore,
    };

    #[tokio::test]
    async fn who_comes_back_with_fewer_changes_than_it_told_is_recognised_also_by_the_next_central() {
        let (store, environment) = (store(), environment());
        let group = founded(&store, &environment).await;
        let seat = group.seat_of(agent()).unwrap();
        let records = Records::open(store.clone(), &environment).await.unwrap();
        assert_eq!(records.lost(agent(), seat, 0), None, "nothing was told yet");
        records.told(agent(), seat, 7, &group);
        records.told(agent(), seat, 5, &group);
        let lost = |records: &Records| [6, 7, 8].map(|written| records.lost(agent(), seat, written));
        assert_eq!(lost(&records), [Some(7), None, None]);

        loop {
            let next = Records::open(store.clone(), &environment).await.unwrap();
            if lost(&next) == [Some(7), None, None] {
                break;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn another_seat_begins_anew_and_a_seat_that_was_left_counts_for_nothing() {
        let (store, environment) = (store(), environment());
        let group = founded(&store, &environment).await;
        let seat = group.seat_of(agent()).unwrap();
        let records = Records::open(store.clone(), &environment).await.unwrap();
        records.told(agent(), seat, 7, &group);
        let groups = Groups::new(store, &environment);
        let (next, group) = groups.reseat(agent(), seat).await.unwrap();
        records.told(agent(), seat, 9, &group);
        assert_eq!(records.lost(agent(), next, 1), None);
        records.told(agent(), next, 2, &group);
        assert_eq!((records.lost(agent(), next, 1), records.lost(agent(), seat, 1)), (Some(2), None));
        assert!(next.node > NodeId(seat.node.0));
    }

    async fn founded(store: &SharedStore, environment: &EnvironmentName) -> GroupRecord {
        match Groups::new(store.clone(), environment).found(agent(), 0).await.unwrap() {
            Founding::Won(record) | Founding::Lost(record) => record,
        }
    }

    fn agent() -> AgentId {
        AgentId::from_bytes([7; 16])
    }

    fn environment() -> EnvironmentName {
        "default".parse().unwrap()
    }

    fn store() -> SharedStore {
        Arc::new(MemoryStore::default())
    }
}
