//! The lead, given away: to whoever was named, to one that hears central, or to one that asks for it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use group::Group;
use program::explain;
use proto::{NodeId, hello::Seat};
use serde_json::value::RawValue;

use super::Shared;
use crate::peer::{PeerCallError, PeerNet};

/// What a leader that does not hear central asks its peers, instead of a Raft call. The answer is
/// `true` or `false`.
pub(super) const HEARS_CENTRAL: &str = r#""hears_central""#;
/// What a candidate that central ordered to take over asks a leader that does not follow the order. The answer is
/// `true` or `false`: whether it leads now.
pub(super) const GIVE_ME_THE_LEAD: &str = r#""give_me_the_lead""#;
/// How long a peer has to say whether it hears central.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// How long a successor has to take the lead.
const TRANSFER_LIMIT: Duration = Duration::from_secs(2);

/// Gives the lead to `to`, or says in the log why not; the role machine tries again.
pub async fn transfer(group: Group, to: NodeId) {
    match group.transfer(to, TRANSFER_LIMIT).await {
        Ok(()) => tracing::info!(%to, "Gave the lead away"),
        Err(error) => tracing::warn!(%to, error = explain(&error), "The lead could not be given away"),
    }
}

/// Gives the lead to another voting candidate: one that says it hears central, or, when this agent
/// hears central itself and only wants to leave, any that can be reached.
pub async fn give_way(group: Group, peers: PeerNet, shared: Arc<Shared>) {
    let members = group.members().borrow().clone();
    let me = group.seat();
    let anybody = shared.hears_central.load(Ordering::Relaxed);
    for to in members.peers.keys().filter(|node| **node != me.node && members.voters.contains(node)) {
        if !anybody && !hears_central(&peers, &shared, me, *to).await {
            continue;
        }
        match group.transfer(*to, TRANSFER_LIMIT).await {
            Ok(()) => return tracing::info!(%to, "Gave way: another candidate leads"),
            Err(error) => {
                tracing::debug!(%to, error = explain(&error), "This candidate cannot take the lead")
            }
        }
    }
}

/// Asks `leader` for the lead: central ordered this agent to take over, and cannot reach the leader itself.
pub async fn ask_for_lead(group: Group, peers: PeerNet, shared: Arc<Shared>, leader: NodeId) {
    let me = group.seat();
    let limit = TRANSFER_LIMIT + ASK_LIMIT;
    // The witness is nobody's peer, and central's own.
    let Some(answer) = ask(&peers, &shared, me, leader, GIVE_ME_THE_LEAD, limit).await else { return };
    match answer {
        Ok(given) if given.get() == "true" => {
            tracing::info!(%leader, "The leader gave the lead to this agent")
        }
        Ok(_) => tracing::info!(%leader, "The leader hears central itself and keeps the lead"),
        Err(error) => {
            tracing::warn!(%leader, error = explain(&error), "The leader was asked for the lead in vain")
        }
    }
}

/// The answer to a peer's [`GIVE_ME_THE_LEAD`]. A leader that hears central has its orders from there.
pub(super) async fn answer_give_me_the_lead(
    group: &Group,
    to: NodeId,
    hears_central: bool,
) -> Result<bool, String> {
    if hears_central {
        return Ok(false);
    }
    group.transfer(to, TRANSFER_LIMIT).await.map_err(|error| explain(&error))?;
    tracing::info!(%to, "Gave the lead to a candidate that central ordered to take over");
    Ok(true)
}

async fn hears_central(peers: &PeerNet, shared: &Shared, me: Seat, node: NodeId) -> bool {
    let answer = ask(peers, shared, me, node, HEARS_CENTRAL, ASK_LIMIT).await;
    answer.is_some_and(|answer| answer.is_ok_and(|answer| answer.get() == "true"))
}

/// `None`: `node` is no peer.
async fn ask(
    peers: &PeerNet,
    shared: &Shared,
    me: Seat,
    node: NodeId,
    question: &str,
    limit: Duration,
) -> Option<Result<Box<RawValue>, PeerCallError>> {
    let entry = shared.node_of(|entry| entry.node == node)?;
    let question = RawValue::from_string(question.to_owned()).ok()?;
    Some(peers.call(&entry, me.group, me.node, &question, limit).await)
}
