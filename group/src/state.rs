//! What the log comes to: the newest claims, the membership, the timings.
//!
//! The state lives in memory. It is rebuilt from the durable snapshot and the committed entries
//! after it; a claim is therefore never lost, only seen again a moment later.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, RaftSnapshotBuilder, Snapshot,
    storage::{EntryResponder, RaftStateMachine},
};
use proto::{BootId, Epoch, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    members::Site,
    shelf::Shelf,
    timings::Timings,
    types::{Command, CommittedLeader, Id, Meta, Nodes, Outcome, Payload, StoredNodes, TypeConfig},
};

/// How many claims are remembered: central asks for the newest, or for one just superseded.
const CLAIMS_KEPT: usize = 64;

const SNAPSHOT_KEY: &[u8] = b"snapshot";

/// A committed and applied claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub epoch: Epoch,
    pub node: NodeId,
    pub boot: BootId,
}

/// Everything that applying the log has led to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    applied: Option<Id>,
    membership: StoredNodes,
    /// Oldest first.
    claims: VecDeque<Claim>,
    /// None where the log never said: the group runs with the set that it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

impl State {
    fn apply(&mut self, generation: u64, id: Id, payload: Payload) -> Outcome {
        // A core that was just exchanged may finish what its successor applies as well.
        if self.applied.is_some_and(|applied| applied.index() >= id.index()) {
            return Outcome::Nothing;
        }
        let outcome = match payload {
            EntryPayload::Blank => Outcome::Nothing,
            EntryPayload::Normal(Command::Claim { node, boot }) => {
                self.apply_claim(Epoch { group: generation, claim: id.index() }, node, boot)
            }
            EntryPayload::Normal(Command::Timings(timings)) if timings.is_sound() => {
                self.timings = Some(timings);
                Outcome::Taken
            }
            EntryPayload::Normal(Command::Timings(_)) => Outcome::Refused,
            EntryPayload::Membership(membership) => {
                self.membership = StoredNodes::new(Some(id), membership);
                Outcome::Nothing
            }
        };
        self.applied = Some(id);
        outcome
    }

    /// Whether this is what a snapshot with `meta` holds.
    pub(crate) fn is_of(&self, meta: &Meta) -> bool {
        let mut positions = self.claims.iter().map(|claim| claim.epoch.claim);
        self.applied == meta.last_log_id
            && self.membership == meta.last_membership
            && self.claims.len() <= CLAIMS_KEPT
            && positions.clone().is_sorted()
            && positions.next_back().is_none_or(|newest| newest <= index_of(self.applied))
            && self.timings.is_none_or(|timings| timings.is_sound())
    }

    fn apply_claim(&mut self, epoch: Epoch, node: u64, boot: BootId) -> Outcome {
        // Judged by the membership at this point of the log, so every node judges alike. The
        // witness carries no traffic, and a node voted out must not come back by an old entry.
        let site = self.membership.get_node(&node);
        let may_claim =
            matches!(site, Some(Site::Agent(_))) && self.membership.voter_ids().any(|v| v == node);
        if !may_claim {
            return Outcome::Refused;
        }
        if self.claims.len() == CLAIMS_KEPT {
            self.claims.pop_front();
        }
        self.claims.push_back(Claim { epoch, node: NodeId(node), boot });
        Outcome::Claimed
    }
}

/// Readers' view of the state; clones share it.
#[derive(Clone)]
pub(crate) struct Applied {
    state: Arc<Mutex<State>>,
    newest: Arc<watch::Sender<Option<Claim>>>,
    timings: Arc<watch::Sender<Option<Timings>>>,
    index: Arc<watch::Sender<u64>>,
}

impl Applied {
    fn new(state: State) -> Self {
        let newest = Arc::new(watch::Sender::new(state.claims.back().copied()));
        let timings = Arc::new(watch::Sender::new(state.timings));
        let index = Arc::new(watch::Sender::new(index_of(state.applied)));
        Self { state: Arc::new(Mutex::new(state)), newest, timings, index }
    }

    pub(crate) fn newest(&self) -> watch::Receiver<Option<Claim>> {
        self.newest.subscribe()
    }

    /// The set that the log asks for.
    pub(crate) fn timings(&self) -> watch::Receiver<Option<Timings>> {
        self.timings.subscribe()
    }

    pub(crate) fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    pub(crate) fn claim_at(&self, index: u64) -> Option<Claim> {
        self.lock().claims.iter().rev().find(|claim| claim.epoch.claim == index).copied()
    }

    /// Takes a snapshot's state, unless more has been applied already: a core that was just exchanged
    /// may finish what its successor is beyond.
    fn replace(&self, state: State) {
        {
            let mut known = self.lock();
            if index_of(state.applied) < index_of(known.applied) {
                return;
            }
            *known = state;
        }
        self.announce();
    }

    /// The claim first: whoever sees an index applied finds its claim.
    fn announce(&self) {
        let (newest, timings, index) = {
            let state = self.lock();
            (state.claims.back().copied(), state.timings, index_of(state.applied))
        };
        self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
        self.timings.send_if_modified(|known| std::mem::replace(known, timings) != timings);
        self.index.send_if_modified(|known| std::mem::replace(known, index) != index);
    }

    /// A panic while locked leaves a whole state: every change below is one assignment or push.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index_of(id: Option<Id>) -> u64 {
    id.map_or(0, |id| id.index())
}

/// openraft's end of the state.
pub(crate) struct StateMachine {
    generation: u64,
    shelf: Arc<Shelf>,
    applied: Applied,
}

/// A snapshot as it is stored and sent.
#[derive(Serialize, Deserialize)]
struct Stored {
    state: State,
}

impl StateMachine {
    /// Restores what the newest snapshot on `shelf` holds.
    pub(crate) fn restore(generation: u64, shelf: Arc<Shelf>) -> io::Result<Self> {
        let stored: Option<Stored> = shelf.read(SNAPSHOT_KEY)?;
        let state = stored.map(|stored| stored.state).unwrap_or_default();
        Ok(Self::over(generation, shelf, Applied::new(state)))
    }

    /// A new core's end of a state that the node already has.
    pub(crate) fn over(generation: u64, shelf: Arc<Shelf>, applied: Applied) -> Self {
        Self { generation, shelf, applied }
    }

    pub(crate) fn applied(&self) -> Applied {
        self.applied.clone()
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = State;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<Id>, StoredNodes)> {
        let state = self.applied.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + openraft::OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.applied.lock().apply(self.generation, entry.log_id, entry.payload);
            self.applied.announce();
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { shelf: self.shelf.clone(), state: self.applied.lock().clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, mut state: State) -> io::Result<()> {
        // What the leader says about the snapshot is what counts, not what it packed.
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        store(&self.shelf, &state).await?;
        self.applied.replace(state);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<CommittedLeader, u64, Site, State>>> {
        let stored: Option<Stored> = self.shelf.read(SNAPSHOT_KEY)?;
        Ok(stored.map(|stored| snapshot_of(stored.state)))
    }
}

/// Writes one snapshot.
pub(crate) struct SnapshotBuilder {
    shelf: Arc<Shelf>,
    state: State,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = State;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<CommittedLeader, u64, Site, State>> {
        store(&self.shelf, &self.state).await?;
        Ok(snapshot_of(self.state.clone()))
    }
}

/// The members that the snapshot names.
pub(crate) fn snapshot_members(shelf: &Shelf) -> io::Result<Option<Nodes>> {
    let stored: Option<Stored> = shelf.read(SNAPSHOT_KEY)?;
    Ok(stored.map(|stored| stored.state.membership.membership().clone()))
}

/// Durable before it returns: the log in front of a snapshot is purged on the strength of it.
async fn store(shelf: &Shelf, state: &State) -> io::Result<()> {
    shelf.write(SNAPSHOT_KEY, &Stored { state: state.clone() })?;
    shelf.sync().await
}

fn snapshot_of(state: State) -> Snapshot<CommittedLeader, u64, Site, State> {
    let meta = Meta { last_log_id: state.applied, last_membership: state.membership.clone() };
    Snapshot { meta, snapshot: state }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openraft::entry::RaftEntry;

    use super::*;
    use crate::types::Entry;

    // What lies on disks out there. A change of these lines is a change that old records or old
    // peers do not survive.
    const CLAIM: &str = r#"{"log_id":{"leader_id":2,"index":9},"payload":{"Normal":{"claim":{"node":1,"boot":"01010101010101010101010101010101"}}}}"#;
    const TIMINGS: &str = r#"{"log_id":{"leader_id":2,"index":9},"payload":{"Normal":{"timings":{"heartbeat_ms":100,"election_min_ms":300,"election_max_ms":600}}}}"#;
    const SNAPSHOT_BEFORE_TIMINGS: &str = r#"{"state":{"applied":{"leader_id":2,"index":9},"membership":{"log_id":null,"membership":{"configs":[],"nodes":{}}},"claims":[{"epoch":{"group":3,"claim":7},"node":1,"boot":"01010101010101010101010101010101"}]}}"#;
    const SNAPSHOT: &str = r#"{"state":{"applied":{"leader_id":2,"index":9},"membership":{"log_id":null,"membership":{"configs":[],"nodes":{}}},"claims":[{"epoch":{"group":3,"claim":7},"node":1,"boot":"01010101010101010101010101010101"}],"timings":{"heartbeat_ms":100,"election_min_ms":300,"election_max_ms":600}}}"#;

    #[test]
    fn entries_stay_readable() {
        let claim = Command::Claim { node: 1, boot: BootId::from_bytes([1; 16]) };
        for (line, command) in [(CLAIM, claim), (TIMINGS, Command::Timings(Timings::default()))] {
            let entry = Entry::new(Id::new_term_index(2, 9), EntryPayload::Normal(command));
            assert_eq!(serde_json::to_string(&entry).unwrap(), line);
            assert_eq!(serde_json::from_str::<Entry>(line).unwrap(), entry);
        }
    }

    #[test]
    fn snapshots_stay_readable_also_those_from_before_timings_stood_in_logs() {
        for (line, timings) in [(SNAPSHOT_BEFORE_TIMINGS, None), (SNAPSHOT, Some(Timings::default()))] {
            let stored: Stored = serde_json::from_str(line).unwrap();
            assert_eq!(stored.state.timings, timings);
            assert_eq!(stored.state.claims.len(), 1);
            assert_eq!(serde_json::to_string(&stored).unwrap(), line);
        }
    }

    #[test]
    fn an_entry_that_is_applied_again_changes_nothing() {
        let mut state = State::default();
        let (slow, fast) = (Timings::for_round_trip(Duration::from_secs(1)), Timings::default());
        assert_eq!(state.apply(1, Id::new_term_index(1, 1), timings(slow)), Outcome::Taken);
        assert_eq!(state.apply(1, Id::new_term_index(1, 2), timings(fast)), Outcome::Taken);
        assert_eq!(state.apply(1, Id::new_term_index(1, 1), timings(slow)), Outcome::Nothing);
        assert_eq!((state.timings, index_of(state.applied)), (Some(fast), 2));
    }

    #[test]
    fn an_older_snapshot_takes_nothing_back() {
        let mut state = State::default();
        state.apply(1, Id::new_term_index(1, 1), timings(Timings::default()));
        let older = state.clone();
        let slow = Timings::for_round_trip(Duration::from_secs(1));
        state.apply(1, Id::new_term_index(1, 2), timings(slow));
        let applied = Applied::new(older.clone());
        applied.replace(state.clone());
        applied.replace(older);
        assert_eq!(*applied.lock(), state);
        assert_eq!((*applied.timings().borrow(), *applied.index().borrow()), (Some(slow), 2));
    }

    #[test]
    fn timings_that_raft_could_not_run_with_are_refused() {
        let mut state = State::default();
        let unsound = Timings { heartbeat: Duration::ZERO, ..Timings::default() };
        assert_eq!(state.apply(1, Id::new_term_index(1, 1), timings(unsound)), Outcome::Refused);
        assert_eq!((state.timings, index_of(state.applied)), (None, 1));
    }

    fn timings(timings: Timings) -> Payload {
        EntryPayload::Normal(Command::Timings(timings))
    }
}
