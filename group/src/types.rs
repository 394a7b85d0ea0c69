//! openraft's type parameters, bound once. Nothing in here leaves the crate.

use std::fmt;

use openraft::{EntryPayload, LogId, SnapshotMeta, StoredMembership, impls::leader_id_std};
use proto::BootId;
use serde::{Deserialize, Serialize};

use crate::{members::Site, state::StateMachine, timings::Timings};

openraft::declare_raft_types!(
    /// One leader per term (`leader_id_std`): the default would let several lead within a term.
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Site,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// What is written to the log. Logs outlive versions: what was written once must stay readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// "This node, in this boot, is active."
    Claim { node: u64, boot: BootId },
    /// "From here on the group runs with this set."
    Timings(Timings),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim { node, boot } => write!(f, "claim of node {node} in boot {boot}"),
            Self::Timings(timings) => write!(f, "timings: {timings}"),
        }
    }
}

/// What applying an entry came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The entry was none of ours (a blank one, a membership), or was applied before.
    Nothing,
    /// The claim holds until a newer one is applied.
    Claimed,
    /// The timings hold until newer ones are applied.
    Taken,
    /// The node that the claim names may not be active; or no Raft could run with the timings.
    Refused,
}

pub(crate) type CommittedLeader =
    <leader_id_std::LeaderId<u64, u64> as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type Id = LogId<CommittedLeader>;
pub(crate) type Vote = openraft::Vote<leader_id_std::LeaderId<u64, u64>>;
pub(crate) type Payload = EntryPayload<Command, u64, Site>;
pub(crate) type Entry = openraft::Entry<CommittedLeader, Payload>;
pub(crate) type StoredNodes = StoredMembership<CommittedLeader, u64, Site>;
pub(crate) type Nodes = openraft::Membership<u64, Site>;
pub(crate) type Meta = SnapshotMeta<CommittedLeader, u64, Site>;
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
