//! What the log comes to: the newest claims, and the membership.
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
    types::{Command, CommittedLeader, Id, Meta, Outcome, StoredNodes, TypeConfig},
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
}

impl State {
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
    index: Arc<watch::Sender<u64>>,
}

impl Applied {
    fn new(state: State) -> Self {
        let newest = watch::Sender::new(state.claims.back().copied());
        let index = watch::Sender::new(index_of(state.applied));
        Self { state: Arc::new(Mutex::new(state)), newest: Arc::new(newest), index: Arc::new(index) }
    }

    pub(crate) fn newest(&self) -> watch::Receiver<Option<Claim>> {
        self.newest.subscribe()
    }

    pub(crate) fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    pub(crate) fn claim_at(&self, index: u64) -> Option<Claim> {
        self.lock().claims.iter().rev().find(|claim| claim.epoch.claim == index).copied()
    }

    fn replace(&self, state: State) {
        *self.lock() = state;
        self.announce();
    }

    /// The claim first: whoever sees an index applied finds its claim.
    fn announce(&self) {
        let (newest, index) = {
            let state = self.lock();
            (state.claims.back().copied(), index_of(state.applied))
        };
        self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
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
        Ok(Self { generation, shelf, applied: Applied::new(state) })
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
            let outcome = {
                let mut state = self.applied.lock();
                let outcome = match entry.payload {
                    EntryPayload::Blank => Outcome::Nothing,
                    EntryPayload::Normal(Command::Claim { node, boot }) => {
                        let epoch = Epoch { group: self.generation, claim: entry.log_id.index() };
                        state.apply_claim(epoch, node, boot)
                    }
                    EntryPayload::Membership(membership) => {
                        state.membership = StoredNodes::new(Some(entry.log_id), membership);
                        Outcome::Nothing
                    }
                };
                state.applied = Some(entry.log_id);
                outcome
            };
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

/// Durable before it returns: the log in front of a snapshot is purged on the strength of it.
async fn store(shelf: &Shelf, state: &State) -> io::Result<()> {
    shelf.write(SNAPSHOT_KEY, &Stored { state: state.clone() })?;
    shelf.sync().await
}

fn snapshot_of(state: State) -> Snapshot<CommittedLeader, u64, Site, State> {
    let meta = Meta { last_log_id: state.applied, last_membership: state.membership.clone() };
    Snapshot { meta, snapshot: state }
}
