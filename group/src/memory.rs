//! What members have acknowledged to this node while it leads, and who has forgotten it.
//!
//! A follower never gives up entries that it acknowledged to a leader as long as it follows that leader. One that asks
//! for them again was put back to an earlier day: its vote counted for what it no longer has. openraft takes that for a
//! bug of its own and gives up (`allow_log_reversion` would let it count such a follower again); here the follower is
//! left alone and named, so that it gets another node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::raft::AppendEntriesResponse;
use proto::NodeId;
use tokio::sync::watch;

use crate::types::{Id, TypeConfig, Vote};

/// Shared by all ways to all members, and by each core that follows another. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Inner>);

#[derive(Default)]
struct Inner {
    acknowledged: Mutex<BTreeMap<NodeId, Acknowledged>>,
    forgetful: watch::Sender<BTreeSet<NodeId>>,
}

/// The highest index that a member has, by its own word under this leadership.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Acknowledged {
    vote: Vote,
    index: u64,
}

impl Memory {
    /// Takes note of an answer to entries `after` up to `last`, sent under `vote`. `false`: the member has forgotten what
    /// it acknowledged.
    pub(crate) fn heard(
        &self,
        from: NodeId,
        vote: Vote,
        after: Option<Id>,
        last: Option<Id>,
        answer: &AppendEntriesResponse<TypeConfig>,
    ) -> bool {
        let index = |id: Option<Id>| id.map(|id| id.index());
        let mut acknowledged = self.lock();
        let known = acknowledged.get(&from).filter(|known| known.vote == vote).map(|known| known.index);
        let has = match answer {
            AppendEntriesResponse::Success => index(last).max(index(after)),
            AppendEntriesResponse::PartialSuccess(upto) => index(*upto),
            AppendEntriesResponse::Conflict if known.is_some() && index(after) <= known => {
                drop(acknowledged);
                self.0.forgetful.send_if_modified(|forgetful| forgetful.insert(from));
                return false;
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => None,
        };
        if let Some(index) = has.max(known) {
            acknowledged.insert(from, Acknowledged { vote, index });
        }
        true
    }

    /// Members that have forgotten something since this node was started.
    pub(crate) fn forgetful(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.0.forgetful.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Acknowledged>> {
        // Whole after any panic: each change is one insertion.
        self.0.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use AppendEntriesResponse::{Conflict, PartialSuccess, Success};

    use super::*;

    #[test]
    fn who_asks_again_for_what_it_acknowledged_is_forgetful_and_who_never_had_it_is_not() {
        let memory = Memory::default();
        let (one, two, vote) = (NodeId(1), NodeId(2), Vote::new_committed(3, 9));
        assert!(memory.heard(one, vote, id(4), None, &Conflict), "it was never asked before");
        assert!(memory.heard(one, vote, id(4), id(7), &Success));
        assert!(memory.heard(one, vote, id(8), None, &Conflict), "it has 7");
        assert!(!memory.heard(one, vote, id(7), None, &Conflict));
        assert!(memory.heard(two, vote, id(4), id(7), &PartialSuccess(id(5))));
        assert!(memory.heard(two, vote, id(6), None, &Conflict));
        assert_eq!(*memory.forgetful().borrow(), [one].into());
        assert!(!memory.heard(two, vote, id(5), None, &Conflict));
    }

    #[test]
    fn under_another_leadership_entries_may_be_gone_and_an_answer_to_a_heartbeat_takes_nothing_back() {
        let memory = Memory::default();
        let node = NodeId(1);
        assert!(memory.heard(node, Vote::new_committed(3, 9), id(4), id(7), &Success));
        assert!(memory.heard(node, Vote::new_committed(5, 9), id(6), None, &Conflict));
        assert!(memory.heard(node, Vote::new_committed(5, 9), id(5), id(6), &Success));
        assert!(memory.heard(node, Vote::new_committed(5, 9), id(2), None, &Success));
        assert!(!memory.heard(node, Vote::new_committed(5, 9), id(6), None, &Conflict));
    }

    fn id(index: u64) -> Option<Id> {
        Some(Id::new_term_index(2, index))
    }
}
