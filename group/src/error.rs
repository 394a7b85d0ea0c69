//! Why the group refused, in words that do not speak Raft.

use std::time::Duration;

use proto::NodeId;

use crate::storage::StorageError;

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its records cannot be used; [`StorageError::needs_new_seat`] tells what to do.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The timings contradict each other.
    #[error("the Raft timings are not usable: {0}")]
    Timings(String),
    /// Raft did not come up.
    #[error("Raft could not be started: {0}")]
    Raft(String),
}

/// Why the group's Raft did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The node has been shut down, or its storage failed.
    #[error("this node's Raft has stopped: {0}")]
    Stopped(String),
    /// This node was a member once and was taken out: only a new seat can help.
    #[error("this node was taken out of its group; it needs a new seat")]
    NotMember,
}

/// Why there is no new claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("the witness never claims")]
    Witness,
    /// Only a leader claims; `leader` is who leads as far as this node knows.
    #[error("this node does not lead the group (leader: {leader:?})")]
    NotLeader { leader: Option<NodeId> },
    /// The group refused: this node is not a voting candidate at the claim's place in the log.
    #[error("the group refused the claim: this node is not one of its voting candidates")]
    Refused,
    /// The claim may have been committed or may still be: watch [`claims`](crate::Group::claims).
    #[error("the claim was not confirmed within {0:?}")]
    Unconfirmed(Duration),
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// Why leadership stayed, or went elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this node does not lead the group (leader: {leader:?})")]
    NotLeader { leader: Option<NodeId> },
    #[error("node {0} has no vote in the group")]
    NotVoter(NodeId),
    /// Not heard from lately; nothing was tried.
    #[error("node {0} is not in reach")]
    OutOfReach(NodeId),
    /// Reached, but too far behind to lead at once; nothing was tried.
    #[error("node {node} lags behind by {entries} entries")]
    Lagging { node: NodeId, entries: u64 },
    /// It did not take over; `leader` leads now, if anybody does.
    #[error("node {to} did not take over within {limit:?} (leader now: {leader:?})")]
    TimedOut { to: NodeId, limit: Duration, leader: Option<NodeId> },
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// Why a step towards the roster failed. All of these may pass: reconcile again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    #[error("this node does not lead the group (leader: {leader:?})")]
    NotLeader { leader: Option<NodeId> },
    /// The roster is another group's.
    #[error("the roster is for group {roster}, this is group {ours}")]
    OtherGroup { roster: u64, ours: u64 },
    /// Another change came first, or one is still under way.
    #[error("the membership is changing: {0}")]
    Changing(String),
    /// The change was not confirmed; it may still take effect.
    #[error("the membership change was not confirmed within {0:?}")]
    Unconfirmed(Duration),
    #[error(transparent)]
    Group(#[from] GroupError),
}
