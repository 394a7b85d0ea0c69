//! Who belongs to the group, as the replicated membership has it.

use std::collections::{BTreeMap, BTreeSet};

use proto::{AgentId, Fingerprint, Name, NodeId, control::RosterEntry};
use serde::{Deserialize, Serialize};

/// Which part a node plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// A candidate's node: may lead and claim.
    Agent,
    /// Central's node: votes and stores, leads only to hand over, never claims.
    Witness,
}

/// An agent as its peers know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub node: NodeId,
    pub agent: AgentId,
    pub name: Name,
    /// The key it proves on a direct connection.
    pub fingerprint: Fingerprint,
    /// `HOST:PORT`, best first.
    pub addrs: Vec<String>,
}

impl From<&RosterEntry> for Peer {
    fn from(entry: &RosterEntry) -> Self {
        Self {
            node: entry.node,
            agent: entry.agent,
            name: entry.name.clone(),
            fingerprint: entry.fingerprint,
            addrs: entry.peer_addrs.clone(),
        }
    }
}

/// What the membership stores about a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Site {
    #[default]
    Witness,
    Agent(Peer),
}

impl Site {
    pub(crate) fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Witness => None,
            Self::Agent(peer) => Some(peer),
        }
    }
}

/// The membership in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Every node that votes, the witness included where it does.
    pub voters: BTreeSet<NodeId>,
    /// The sets of which each must give a majority: one, or two while voters are being replaced.
    pub quorums: Vec<BTreeSet<NodeId>>,
    pub learners: BTreeSet<NodeId>,
    /// The agents among them.
    pub peers: BTreeMap<NodeId, Peer>,
    /// The log index that this node has applied.
    pub last_applied: u64,
}

impl Members {
    /// Whether every quorum counts this node's vote. While voters are being replaced, a newcomer is
    /// not settled: should the old voters be lost now, it could not win an election.
    pub fn is_settled_voter(&self, node: NodeId) -> bool {
        !self.quorums.is_empty() && self.quorums.iter().all(|voters| voters.contains(&node))
    }

    /// How many voters can be lost before the active can no longer change.
    pub fn losses_bearable(&self) -> usize {
        self.quorums.iter().map(|voters| voters.len().saturating_sub(1) / 2).min().unwrap_or(0)
    }
}
