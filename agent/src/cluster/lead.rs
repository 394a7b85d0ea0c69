//! The lead, given away: to whoever was named, or to one that hears central.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use group::Group;
use program::explain;
use proto::{NodeId, hello::Seat};
use serde_json::value::RawValue;

use super::Shared;
use crate::peer::PeerNet;

/// What a leader that does not hear central asks its peers, instead of a Raft call. The answer is
/// `true` or `false`.
pub(super) const HEARS_CENTRAL: &str = r#""hears_central""#;
/// How long a peer has to answer it.
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

async fn hears_central(peers: &PeerNet, shared: &Shared, me: Seat, node: NodeId) -> bool {
    let (Some(entry), Ok(question)) =
        (shared.node_of(|entry| entry.node == node), RawValue::from_string(HEARS_CENTRAL.to_owned()))
    else {
        return false;
    };
    let answer = peers.call(&entry, me.group, me.node, &question, ASK_LIMIT).await;
    answer.is_ok_and(|answer| answer.get() == "true")
}
