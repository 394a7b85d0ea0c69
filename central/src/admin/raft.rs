//! `/raft`: the gateway group's membership, as central's own member sees it; and its recovery.

use std::collections::BTreeSet;

use axum::{Json as Answer, extract::State};
use proto::{Name, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, gateway::about_target, input::Json, problem::Problem, rights::Caller};
use crate::gateway::{
    CommandError, GatewayView, Recovery,
    view::{ClaimView, RaftView},
};

/// The answer of `GET /raft`; `null` while there is no group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RaftAnswer {
    generation: u64,
    #[schema(value_type = u64)]
    witness: NodeId,
    #[schema(value_type = Option<u64>)]
    leader: Option<NodeId>,
    last_applied: u64,
    #[schema(value_type = Option<Object>)]
    last_claim: Option<ClaimView>,
    /// How many more voting members the group can lose and still change its active.
    can_lose: Option<usize>,
    /// In force; chosen by the worst round trip of any member's path.
    #[schema(value_type = Object)]
    timings: group::Timings,
    worst_round_trip_ms: Option<f64>,
    members: Vec<Member>,
}

#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = RaftMember)]
struct Member {
    #[schema(value_type = u64)]
    node: NodeId,
    name: Option<String>,
    state: MemberState,
    voter: bool,
    witness: bool,
    /// Whether central hears it; the witness is central itself.
    connected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RaftMemberState)]
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

/// The body of `POST /raft/recover`: what is lost is typed out, so that it is not done by mistake.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RecoverRequest {
    /// The surviving candidate that founds the group anew.
    #[schema(value_type = String)]
    on: Name,
    /// Exactly the members that are away.
    #[schema(value_type = Vec<String>)]
    lost: BTreeSet<Name>,
    #[serde(default)]
    accept_risk: Option<Risk>,
}

/// What recovery may cost, if it is accepted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = RecoverRisk)]
#[serde(rename_all = "kebab-case")]
enum Risk {
    /// A tunnel that lives without a quorum ends, its streams with it.
    LoseConnection,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecoverAnswer {
    /// The generation that was granted.
    generation: u64,
    #[schema(value_type = String)]
    process_server: Name,
}

pub(super) async fn recover(
    State(state): State<AppState>,
    caller: Caller,
    Json(request): Json<RecoverRequest>,
) -> Result<Answer<RecoverAnswer>, Problem> {
    let RecoverRequest { on, lost, accept_risk } = request;
    let names: Vec<&str> = lost.iter().map(Name::as_str).collect();
    let given_up = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    let lose_connection = accept_risk == Some(Risk::LoseConnection);
    let recovery = Recovery { on: on.clone(), lost, lose_connection };
    let refused = |error| match error {
        CommandError::NotLost(_) | CommandError::Unconfirmed(_) => Problem::from(error).at("lost"),
        CommandError::WouldCut { .. } => Problem::from(error).at("accept_risk"),
        error => about_target(error, "on"),
    };
    let generation = state.gateway(&caller)?.recover(recovery).await.map_err(refused)?;
    let text = format!("Recovery of the gateway group on {on} was ordered; confirmed as lost: {given_up}");
    state.note(&caller, "recovery_ordered", text).await;
    Ok(Answer(RecoverAnswer { generation, process_server: on }))
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
