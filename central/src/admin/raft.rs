//! `/raft`: the gateway group's membership, as central's own member sees it.

use axum::{Json as Answer, extract::State};
use proto::NodeId;
use serde::Serialize;

use super::{AppState, problem::Problem, rights::Caller};
use crate::gateway::{
    GatewayView,
    view::{ClaimView, RaftView},
};

/// The answer of `GET /raft`; `null` while there is no group.
#[derive(Debug, Serialize)]
pub(super) struct RaftAnswer {
    generation: u64,
    witness: NodeId,
    leader: Option<NodeId>,
    last_applied: u64,
    last_claim: Option<ClaimView>,
    /// How many more voting members the group can lose and still change its active.
    can_lose: Option<usize>,
    /// In force; chosen by the worst round trip of any member's path.
    timings: group::Timings,
    worst_round_trip_ms: Option<f64>,
    members: Vec<Member>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Member {
    node: NodeId,
    name: Option<String>,
    state: MemberState,
    voter: bool,
    witness: bool,
    /// Whether central hears it; the witness is central itself.
    connected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum MemberState {
    Leader,
    Follower,
    Learner,
    /// Has a seat, and is not in the membership yet.
    Joining,
}

pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<Option<RaftAnswer>>, Problem> {
    let view = state.gateway(&caller)?.view();
    Ok(Answer(view.raft.as_ref().map(|raft| RaftAnswer {
        generation: raft.generation,
        witness: raft.witness,
        leader: raft.leader,
        last_applied: raft.last_applied,
        last_claim: raft.last_claim.clone(),
        can_lose: view.can_lose,
        timings: raft.timings,
        worst_round_trip_ms: raft.worst_round_trip.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        members: members(raft, &view),
    })))
}

/// Everyone who is in the membership or has a seat, by node id.
fn members(raft: &RaftView, view: &GatewayView) -> Vec<Member> {
    let seated = raft.seats.iter().map(|seat| seat.seat.node);
    let mut nodes: Vec<NodeId> = raft.voters.iter().chain(&raft.learners).copied().chain(seated).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
        .into_iter()
        .map(|node| {
            let witness = node == raft.witness;
            let seat = raft.seats.iter().find(|seat| seat.seat.node == node);
            let candidate = view.candidates.iter().find(|candidate| candidate.node == Some(node));
            let voter = raft.voters.contains(&node);
            Member {
                node,
                name: match seat {
                    _ if witness => Some("central (witness)".to_owned()),
                    Some(seat) => Some(seat.name.to_string()),
                    None => None,
                },
                state: if raft.leader == Some(node) {
                    MemberState::Leader
                } else if voter {
                    MemberState::Follower
                } else if raft.learners.contains(&node) {
                    MemberState::Learner
                } else {
                    MemberState::Joining
                },
                voter,
                witness,
                connected: witness || candidate.is_some_and(|candidate| candidate.connected),
            }
        })
        .collect()
}
