//! Raft's RPCs as JSON bodies, carried by whoever implements [`Transport`].
//!
//! The room decides what an RPC looks like and who may send it; it opens no connection.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use openraft::{
    RPCTypes, RaftNetworkFactory, RaftNetworkV2, Snapshot,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use proto::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{sync::watch, time::Instant};

use crate::{
    members::{Peer, Site},
    memory::Memory,
    sound::{self, Unsound},
    state::State,
    take_lead,
    types::{CommittedLeader, Meta, Raft, TypeConfig, Vote},
};

/// Carries a call to another node of the group and its answer back.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Delivers `body` to `to` and returns what its [`Group::serve`](crate::Group::serve) said.
    ///
    /// `peer` is None for the witness. The call is worthless after `ttl` and may be given up then;
    /// the future is dropped when nobody waits any more. Calls to one node may run side by side.
    async fn call(
        &self,
        to: NodeId,
        peer: Option<&Peer>,
        body: Box<RawValue>,
        ttl: Duration,
    ) -> Result<Box<RawValue>, CallError>;
}

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no way to the node at present; trying at once again is useless.
    #[error("not reachable: {0}")]
    Unreachable(String),
    /// No answer within the call's time.
    #[error("no answer in time")]
    TimedOut,
}

/// Why a call was not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The body is none of ours.
    #[error("node {from} sent a call that is not understood")]
    Malformed { from: NodeId, source: serde_json::Error },
    /// The body speaks for another node than the one it came from.
    #[error("node {from} sent a call in the name of node {claims}")]
    Impostor { from: NodeId, claims: NodeId },
    /// No member in its right mind says this.
    #[error("node {from} sent a call that makes no sense: {why}")]
    Unsound { from: NodeId, why: Unsound },
    /// This node's Raft has ended.
    #[error("this node's Raft has stopped")]
    Stopped,
    /// The answer could not be encoded.
    #[error("an answer could not be encoded")]
    Encode(#[source] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Call {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    /// "I was ordered to take the lead: would you follow?" See `take_lead`.
    Muster(VoteRequest<TypeConfig>),
    Snapshot {
        vote: Vote,
        meta: Meta,
        state: State,
    },
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// "Are you there?" Measures the path, and moves nothing.
    Ping,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Snapshot(SnapshotResponse<TypeConfig>),
    Transfer(TransferLeaderResponse<TypeConfig>),
    /// The worst path of the answering node's own, where it knows any.
    Pong {
        worst_ms: Option<u64>,
    },
}

impl Answer {
    /// Whether the answer is a follower's to its leader.
    fn follows(&self) -> bool {
        match self {
            Self::Append(answer) => !matches!(answer, AppendEntriesResponse::HigherVote(_)),
            Self::Snapshot(_) => true,
            Self::Vote(_) | Self::Transfer(_) | Self::Pong { .. } => false,
        }
    }
}

impl Call {
    /// The node in whose name the call speaks, if it speaks in anybody's.
    fn speaker(&self) -> Option<u64> {
        let speaker = match self {
            Self::Append(call) => call.vote.leader_id().voted_for,
            Self::Vote(call) | Self::PreVote(call) | Self::Muster(call) => call.vote.leader_id().voted_for,
            Self::Snapshot { vote, .. } => vote.leader_id().voted_for,
            Self::Transfer(call) => call.from_leader().leader_id().voted_for,
            Self::Ping => return None,
        };
        Some(speaker)
    }

    /// Whether it makes sense in itself.
    fn is_sound(&self) -> Result<(), Unsound> {
        match self {
            Self::Append(call) => sound::append(call),
            Self::Vote(call) | Self::PreVote(call) | Self::Muster(call) => {
                sound::candidate(&call.vote, call.last_log_id.as_ref())
            }
            Self::Snapshot { vote, meta, state } => sound::snapshot(vote, meta, state),
            Self::Transfer(call) => sound::transfer(call.from_leader(), call.last_log_id()),
            Self::Ping => Ok(()),
        }
    }
}

/// Answers one call of `from`, whose identity the transport has proved.
///
/// `heard` learns when the caller spoke as a leader that this node follows; `worst` is what this
/// node knows of its own paths.
pub(crate) async fn serve(
    raft: &Raft,
    from: NodeId,
    body: &RawValue,
    heard: &watch::Sender<Instant>,
    worst: Option<Duration>,
) -> Result<Box<RawValue>, ServeError> {
    let call: Call =
        serde_json::from_str(body.get()).map_err(|source| ServeError::Malformed { from, source })?;
    if let Some(claims) = call.speaker().map(NodeId).filter(|claims| *claims != from) {
        return Err(ServeError::Impostor { from, claims });
    }
    call.is_sound().map_err(|why| ServeError::Unsound { from, why })?;
    // All of these fail only when Raft itself has stopped.
    let answer = match call {
        Call::Append(call) => raft.append_entries(call).await.map(Answer::Append).ok(),
        Call::Vote(call) => raft.vote(call).await.map(Answer::Vote).ok(),
        Call::PreVote(call) => raft.pre_vote(call).await.map(Answer::Vote).ok(),
        Call::Muster(call) => take_lead::answer(raft, call).await.map(Answer::Vote).ok(),
        Call::Snapshot { vote, meta, state } => {
            let snapshot = Snapshot { meta, snapshot: state };
            raft.install_full_snapshot(vote, snapshot).await.map(Answer::Snapshot).ok()
        }
        Call::Transfer(call) => raft.handle_transfer_leader(call).await.map(Answer::Transfer).ok(),
        Call::Ping => Some(Answer::Pong { worst_ms: worst.map(whole_ms) }),
    };
    let answer = answer.ok_or(ServeError::Stopped)?;
    if answer.follows() {
        heard.send_replace(Instant::now());
    }
    serde_json::value::to_raw_value(&answer).map_err(ServeError::Encode)
}

/// Makes openraft's clients.
pub(crate) struct Network {
    pub(crate) me: NodeId,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) memory: Memory,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, site: &Site) -> Link {
        let (transport, memory) = (self.transport.clone(), self.memory.clone());
        Link { me: self.me.0, to: target, site: site.clone(), transport, memory }
    }
}

/// The way to one node.
pub(crate) struct Link {
    me: u64,
    to: u64,
    site: Site,
    transport: Arc<dyn Transport>,
    memory: Memory,
}

impl Link {
    async fn call(
        &self,
        action: RPCTypes,
        call: &Call,
        ttl: Duration,
    ) -> Result<Answer, RPCError<TypeConfig>> {
        let body = serde_json::value::to_raw_value(call)
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        let call = self.transport.call(NodeId(self.to), self.site.peer(), body, ttl);
        // The deadline is ours: openraft stalls a follower's stream behind a call that never ends.
        let answer = match tokio::time::timeout(ttl, call).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(CallError::Unreachable(why))) => {
                return Err(RPCError::Unreachable(Unreachable::from_string(why)));
            }
            Ok(Err(CallError::TimedOut)) | Err(_) => {
                let (id, target) = (self.me, self.to);
                return Err(RPCError::Timeout(Timeout { action, id, target, timeout: ttl }));
            }
        };
        serde_json::from_str(answer.get()).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

/// Asks one voter whether it would follow `candidate`; a voter that does not answer would not.
pub(crate) async fn muster(
    transport: &dyn Transport,
    to: NodeId,
    peer: Option<&Peer>,
    candidate: VoteRequest<TypeConfig>,
    ttl: Duration,
) -> bool {
    let Ok(body) = serde_json::value::to_raw_value(&Call::Muster(candidate)) else { return false };
    let answer = match tokio::time::timeout(ttl, transport.call(to, peer, body, ttl)).await {
        Ok(Ok(answer)) => serde_json::from_str(answer.get()),
        Ok(Err(_)) | Err(_) => return false,
    };
    matches!(answer, Ok(Answer::Vote(VoteResponse { vote_granted: true, .. })))
}

/// Whether a member answers within `limit`, and then the worst path it has itself.
pub(crate) async fn ping(
    transport: &dyn Transport,
    to: NodeId,
    peer: Option<&Peer>,
    limit: Duration,
) -> Option<Option<Duration>> {
    let body = serde_json::value::to_raw_value(&Call::Ping).ok()?;
    let answer = tokio::time::timeout(limit, transport.call(to, peer, body, limit)).await.ok()?.ok()?;
    match serde_json::from_str(answer.get()).ok()? {
        Answer::Pong { worst_ms } => Some(worst_ms.map(Duration::from_millis)),
        Answer::Append(_) | Answer::Vote(_) | Answer::Snapshot(_) | Answer::Transfer(_) => None,
    }
}

/// Rounded up: a path is never shown faster than it is.
fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// The other end answered another question than the one it was asked.
fn confused() -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string("the answer does not belong to the call"))
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = State;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (vote, after, last) = (rpc.vote, rpc.prev_log_id, rpc.entries.last().map(|entry| entry.log_id));
        match self.call(RPCTypes::AppendEntries, &Call::Append(rpc), option.soft_ttl()).await? {
            Answer::Append(answer) => match self.memory.heard(NodeId(self.to), vote, after, last, &answer) {
                true => Ok(answer),
                false => Err(RPCError::Unreachable(Unreachable::from_string(format!(
                    "node {} has forgotten entries that it had acknowledged: its records were put back to an earlier day",
                    self.to
                )))),
            },
            _ => Err(confused()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(RPCTypes::Vote, &Call::Vote(rpc), option.soft_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(confused()),
        }
    }

    /// The trait's own version grants every pre-vote, which would switch Pre-Vote off.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(RPCTypes::Vote, &Call::PreVote(rpc), option.soft_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(confused()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeader, u64, Site, State>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let call = Call::Snapshot { vote, meta: snapshot.meta, state: snapshot.snapshot };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.call(RPCTypes::InstallSnapshot, &call, option.soft_ttl()) => match answer? {
                Answer::Snapshot(answer) => Ok(answer),
                _ => Err(confused().into()),
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(RPCTypes::TransferLeader, &Call::Transfer(rpc), option.soft_ttl()).await? {
            Answer::Transfer(answer) => Ok(answer),
            _ => Err(confused()),
        }
    }
}
