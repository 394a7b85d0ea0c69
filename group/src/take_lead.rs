//! Taking the lead over a leader that does not obey, as central ordered.
//!
//! ```text
//!   ordered ──► ask every voter, leader included ──► a quorum would follow ──► elected over the lease
//!                     └ behind, or not a quorum ──► nothing happens
//! ```
//!
//! A leader that hears its peers keeps its lease, and voters refuse everybody else: right as long
//! as the leader does its duty, and wrong when its role is stuck, or it cannot hear the order. Then
//! the ordered node stands as if the leader had announced a transfer to it, which voters grant
//! whatever their leases say. Pre-Vote honours leases, so the question it answers (would I win?)
//! is asked here in words of our own: nobody's term is raised, and no leader deposed, by a node that
//! lags or is cut off. What makes elections safe (one vote a term, the newest log wins) is not touched.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use openraft::{
    ServerState,
    async_runtime::watch::WatchReceiver,
    errors::Fatal,
    raft::{TransferLeaderRequest, VoteRequest, VoteResponse},
};
use proto::NodeId;

use crate::{
    network::{self, Transport},
    types::{Metrics, Raft, TypeConfig, Vote},
};

/// One ordered attempt. Dropping it before it ends leaves everything as it was.
pub(crate) struct Candidacy {
    pub(crate) raft: Raft,
    pub(crate) me: NodeId,
    pub(crate) transport: Arc<dyn Transport>,
    /// How long a voter has to answer.
    pub(crate) answer_limit: Duration,
}

impl Candidacy {
    pub(crate) async fn stand(self) {
        let now = self.raft.metrics().borrow_watched().clone();
        let votes = now.membership_config.voter_ids().any(|voter| voter == now.id);
        if now.state == ServerState::Leader || !votes {
            return;
        }
        let Ok(last_log_id) = self.raft.with_raft_state(|state| state.log_ids.last().copied()).await else {
            return; // Raft has stopped, which `leadership` says
        };
        let next = Vote::new(now.vote.leader_id().term + 1, self.me.0);
        let would_follow = self.muster(&now, &VoteRequest::new(next, last_log_id)).await;
        if !is_quorum(&now, &would_follow) {
            tracing::warn!(?would_follow, "Ordered to take the lead, but no quorum would follow");
            return;
        }
        tracing::info!(?would_follow, leader = ?now.current_leader, "Taking the lead as ordered");
        // In the present leader's name. It counts only while its vote is still the newest here.
        let announced = TransferLeaderRequest::new(now.vote, self.me.0, last_log_id);
        let _ = self.raft.handle_transfer_leader(announced).await;
    }

    /// Every voter that would grant its vote, this node included.
    async fn muster(&self, now: &Metrics, candidate: &VoteRequest<TypeConfig>) -> BTreeSet<u64> {
        let others = now.membership_config.voter_ids().filter(|voter| *voter != self.me.0);
        let mut answers: FuturesUnordered<_> = others
            .map(|voter| async move {
                let peer = now.membership_config.get_node(&voter).and_then(|site| site.peer());
                let (to, limit) = (NodeId(voter), self.answer_limit);
                let granted = network::muster(&*self.transport, to, peer, candidate.clone(), limit).await;
                (voter, granted)
            })
            .collect();
        let mut would_follow = BTreeSet::from([self.me.0]);
        while let Some((voter, granted)) = answers.next().await {
            if granted {
                would_follow.insert(voter);
            }
            // Whoever has not answered by then is not waited for.
            if is_quorum(now, &would_follow) {
                break;
            }
        }
        would_follow
    }
}

/// Whether this node would give `candidate` its vote, but for the leader's lease.
pub(crate) async fn answer(
    raft: &Raft,
    candidate: VoteRequest<TypeConfig>,
) -> Result<VoteResponse<TypeConfig>, Fatal<TypeConfig>> {
    raft.with_raft_state(move |state| {
        let (vote, last_log_id) = (*state.vote_ref(), state.log_ids.last().copied());
        let granted = candidate.last_log_id >= last_log_id && candidate.vote > vote;
        VoteResponse::new(vote, last_log_id, granted)
    })
    .await
}

fn is_quorum(now: &Metrics, would_follow: &BTreeSet<u64>) -> bool {
    let mut halves = now.membership_config.membership().get_joint_config().iter();
    halves.all(|voters| 2 * voters.intersection(would_follow).count() > voters.len())
}
