//! "The leader's socket was closed": a failover without waiting for the election timeout.
//!
//! ```text
//!   told ──► silent for 2.5 heartbeats ──► give up the lease ──► pre-vote, every 20 ms: candidates in
//!               │ heard                                   turn, then the witness, until one leads
//!               └──► nothing happens
//! ```
//!
//! A voter refuses its vote while the leader's lease runs: up to the longest election timeout after
//! the last heartbeat. One that was told the leader is gone *and* hears nothing gives the lease
//! up. That is what openraft itself does on a voter whose leader announces a transfer to another
//! node, and it is asked for in these words. Leases only keep elections rare; what makes them safe
//! (one vote a term, the newest log wins) is not touched, and nothing here reads by lease.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{ServerState, async_runtime::watch::WatchReceiver, raft::TransferLeaderRequest};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    group::RETRY,
    members::Member,
    timings::Timings,
    types::{Metrics, Raft, Vote},
};

/// One hint being followed. Dropping it only ends the haste.
pub(crate) struct Hint {
    pub(crate) raft: Raft,
    pub(crate) member: Member,
    pub(crate) timings: Timings,
    /// When a leader was last heard.
    pub(crate) heard: watch::Receiver<Instant>,
    pub(crate) following: Following,
}

/// Clears its flag when the hint has been followed to its end, or was dropped.
pub(crate) struct Following(pub(crate) Arc<AtomicBool>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Hint {
    pub(crate) async fn follow(self) {
        let gone = self.metrics().vote;
        let silence = self.timings.heartbeat * 5 / 2;
        let until = Instant::now() + 2 * self.timings.election_max;
        let mut stood_at: Option<Instant> = None;
        while Instant::now() < until {
            let now = self.metrics();
            // A committed vote is a leader that a quorum elected.
            let led_by_other = now.vote != gone && now.vote.is_committed();
            if now.running_state.is_err() || now.state == ServerState::Leader || led_by_other {
                break;
            }
            let silent_for = self.heard.borrow().elapsed();
            if silent_for >= silence {
                if now.vote == gone {
                    self.give_up_lease(gone).await;
                }
                let my_turn = silence + self.turn(&now, gone);
                // A round under way is left alone: another one would only supersede it.
                let standing = now.state == ServerState::Candidate
                    && stood_at.is_some_and(|at| at.elapsed() < self.timings.election_min);
                if votes(&now) && silent_for >= my_turn && !standing {
                    stood_at = Some(Instant::now());
                    if self.raft.trigger().elect(true).await.is_err() {
                        break;
                    }
                }
            }
            sleep(RETRY).await;
        }
        drop(self.following);
    }

    async fn give_up_lease(&self, gone: Vote) {
        let leader = gone.leader_id().voted_for;
        let announced = TransferLeaderRequest::new(gone, leader, None);
        // A refusal means that the vote has changed, which the next round sees.
        let _ = self.raft.handle_transfer_leader(announced).await;
    }

    /// How long after the silence this node stands: candidates one after the other, lest two split
    /// the votes of a third; the witness where none of them could, having the newest entry alone.
    fn turn(&self, now: &Metrics, gone: Vote) -> Duration {
        match self.member {
            Member::Agent => self.timings.heartbeat * place(now, gone),
            Member::Witness => self.timings.election_min,
        }
    }

    fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }
}

fn votes(now: &Metrics) -> bool {
    now.membership_config.voter_ids().any(|voter| voter == now.id)
}

/// This node's place among the voting candidates that are left.
fn place(now: &Metrics, gone: Vote) -> u32 {
    let agent = |node: &u64| now.membership_config.get_node(node).is_some_and(|site| site.peer().is_some());
    let before_me = now
        .membership_config
        .voter_ids()
        .filter(|node| *node < now.id && *node != gone.leader_id().voted_for && agent(node))
        .count();
    u32::try_from(before_me).unwrap_or(u32::MAX)
}
