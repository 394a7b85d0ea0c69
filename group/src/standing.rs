//! Turns Raft's metrics into what the neighbours watch: leadership and members.
//!
//! openraft's leader that lost its quorum stays `Leader` for ever. It leads here only while a
//! quorum acknowledged it within the longest election timeout: after that another may lead.

use std::{sync::Arc, time::Duration};

use durable::Failure;
use openraft::{
    Instant as _, ServerState, async_runtime::watch::WatchReceiver, type_config::alias::WatchReceiverOf,
};
use proto::NodeId;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    members::Members,
    types::{Metrics, StoredNodes, TypeConfig},
};

/// Who leads the group, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// Whom this node follows, possibly itself. May be gone: only `leads` is ever proved.
    pub leader: Option<NodeId>,
    /// This node leads, and a quorum acknowledged that within the longest election timeout.
    pub leads: bool,
    /// False once Raft has ended, by shutdown or by a storage error. It does not come back.
    pub running: bool,
}

/// Where the watcher publishes.
pub(crate) struct Publishers {
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) members: watch::Sender<Members>,
    /// Since when this node has been the leader, quorum or not.
    pub(crate) led_since: watch::Sender<Option<Instant>>,
}

/// A lead that outlives its core: what a quorum acknowledged in this term before the exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inherited {
    pub(crate) term: u64,
    pub(crate) acked: Instant,
}

impl Inherited {
    /// What a leader hands to the core that takes its place.
    pub(crate) fn from(metrics: &Metrics) -> Option<Self> {
        Some(Self { term: metrics.current_term, acked: quorum_acked(metrics)? })
    }

    fn still_mine(&self, metrics: &Metrics) -> bool {
        metrics.state == ServerState::Leader && metrics.current_term == self.term
    }
}

/// Publishes until Raft ends. Dropping it only stops publishing.
pub(crate) async fn follow(
    mut metrics: WatchReceiverOf<TypeConfig, Metrics>,
    mut failed: Option<watch::Receiver<Option<Failure>>>,
    election_max: Duration,
    to: Arc<Publishers>,
    inherited: Option<Inherited>,
) {
    // A new core has no answers yet: to it, everybody has been silent for as long as it leads.
    to.led_since.send_if_modified(|since| {
        since.as_mut().is_some_and(|since| {
            *since = Instant::now();
            true
        })
    });
    loop {
        // Cloned: a watch guard held across an await would stop Raft itself.
        let now = metrics.borrow_watched().clone();
        let storage_failed = failed.as_ref().is_some_and(|failed| failed.borrow().is_some());
        let running = now.running_state.is_ok() && !storage_failed;
        let before = inherited.filter(|before| before.still_mine(&now)).map(|before| before.acked);
        let acked = quorum_acked(&now).max(before);
        let lease_end = acked.map(|acked| acked + election_max);
        let leads = running && lease_end.is_some_and(|end| Instant::now() < end);
        let leader = now.current_leader.map(NodeId);
        publish(&to.leadership, Leadership { leader, leads, running });
        publish(&to.members, members_of(&now.membership_config, now.last_applied.map_or(0, |id| id.index())));
        let leading = now.state == ServerState::Leader;
        to.led_since.send_if_modified(|since| match (leading, since.is_some()) {
            (true, false) => since.replace(Instant::now()).is_none(),
            (false, true) => since.take().is_some(),
            (true, true) | (false, false) => false,
        });
        if !running {
            return;
        }
        let lease_ends = async {
            match lease_end.filter(|_| leads) {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let storage_fails = async {
            let Some(failed) = &mut failed else { return std::future::pending().await };
            // An error means that the database is closed, which ends nothing by itself.
            if failed.changed().await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() {
                to.leadership.send_modify(|known| *known = Leadership { leader, leads: false, running: false });
                return;
            },
            () = lease_ends => {}
            () = storage_fails => {}
        }
    }
}

/// When a quorum last acknowledged this node's leadership; now, if its own vote is a quorum.
pub(crate) fn quorum_acked(metrics: &Metrics) -> Option<Instant> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    // openraft stamps acknowledgements when followers answer; a sole voter has none to wait for.
    let mut voters = metrics.membership_config.voter_ids();
    if voters.next() == Some(metrics.id) && voters.next().is_none() {
        return Some(Instant::now());
    }
    metrics.last_quorum_acked.as_ref().and_then(|at| Instant::now().checked_sub(at.elapsed()))
}

fn members_of(stored: &StoredNodes, last_applied: u64) -> Members {
    let quorums = stored.membership().get_joint_config();
    Members {
        quorums: quorums.iter().map(|voters| voters.iter().copied().map(NodeId).collect()).collect(),
        voters: stored.voter_ids().map(NodeId).collect(),
        learners: stored.membership().learner_ids().map(NodeId).collect(),
        peers: stored.nodes().filter_map(|(id, site)| Some((NodeId(*id), site.peer()?.clone()))).collect(),
        last_applied,
    }
}

fn publish<T: PartialEq>(to: &watch::Sender<T>, value: T) {
    to.send_if_modified(|known| {
        let news = *known != value;
        if news {
            *known = value;
        }
        news
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::Membership;

    use super::*;
    use crate::members::Site;

    #[test]
    fn a_voter_is_settled_once_every_quorum_counts_it() {
        let joining = members_of(&stored(&[&[2], &[1, 2, 3]]), 7);
        assert_eq!(joining.voters, [1, 2, 3].map(NodeId).into());
        assert!(joining.is_settled_voter(NodeId(2)) && !joining.is_settled_voter(NodeId(3)));
        // The old set of one must agree too: nobody may be lost on the way.
        assert_eq!(joining.losses_bearable(), 0);

        let joined = members_of(&stored(&[&[1, 2, 3]]), 8);
        assert!(joined.voters.iter().all(|node| joined.is_settled_voter(*node)));
        assert_eq!(joined.losses_bearable(), 1);
    }

    fn stored(voters: &[&[u64]]) -> StoredNodes {
        let sites: BTreeMap<u64, Site> = (1..=3).map(|node| (node, Site::Witness)).collect();
        let voters = voters.iter().map(|half| half.iter().copied().collect()).collect();
        StoredNodes::new(None, Membership::new(voters, sites).unwrap())
    }
}
