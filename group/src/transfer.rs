//! Gives the lead to another node, and gets unstuck where that node does not take it.
//!
//! openraft's transfer is fire-and-forget and sticky: the old leader stops heartbeats and refuses
//! writes until *somebody else* is elected. So the target is checked first, and if it fails all the
//! same, the lead goes to another voter, which is free to give it back.

use std::time::Duration;

use openraft::ServerState;
use proto::NodeId;
use tokio::time::{Instant, timeout_at};

use crate::{
    error::{GroupError, TransferError},
    group::Group,
    plan::{Contact, LAG_MAX, View},
    reconcile::view_of,
};

impl Group {
    /// Gives the lead to `to` and waits up to `limit` until it leads; up to the longest election
    /// timeout where the group's paths are so slow that this is longer.
    ///
    /// On [`TransferError::TimedOut`] the lead was offered to another voter instead; the error
    /// says who leads by then. Dropping the future leaves the transfer under way.
    pub async fn transfer(&self, to: NodeId, limit: Duration) -> Result<(), TransferError> {
        let metrics = self.metrics();
        let leader = metrics.current_leader.map(NodeId);
        if metrics.state != ServerState::Leader {
            return Err(TransferError::NotLeader { leader });
        }
        let me = self.seat().node;
        if to == me {
            return Ok(());
        }
        let view = view_of(&metrics, self.led_since());
        if !view.voters.contains(&to) {
            return Err(TransferError::NotVoter(to));
        }
        let election_max = self.timings().election_max;
        let contact = view.contacts.get(&to).copied();
        let Some(contact) = contact.filter(|contact| in_reach(contact, election_max)) else {
            return Err(TransferError::OutOfReach(to));
        };
        if contact.lag > LAG_MAX {
            return Err(TransferError::Lagging { node: to, entries: contact.lag });
        }
        self.offer(to).await?;
        let limit = limit.max(election_max);
        let deadline = Instant::now() + limit;
        if self.until_led_by(deadline, |leader| leader == to).await {
            return Ok(());
        }
        // Somebody else may have been elected meanwhile; otherwise this leader is stuck.
        let next_limit = 2 * election_max;
        for other in ways_out(&view, to, election_max) {
            if self.led_by_other() {
                break;
            }
            tracing::warn!(%to, %other, "The lead was not taken over; offering it to another voter");
            self.offer(other).await?;
            self.until_led_by(Instant::now() + next_limit, |leader| leader != me).await;
        }
        let leader = self.metrics().current_leader.map(NodeId);
        if leader == Some(to) {
            return Ok(());
        }
        Err(TransferError::TimedOut { to, limit, leader })
    }

    async fn offer(&self, to: NodeId) -> Result<(), GroupError> {
        let offered = self.raft().trigger().transfer_leader(to.0).await;
        offered.map_err(|fatal| GroupError::Stopped(fatal.to_string()))
    }

    fn led_by_other(&self) -> bool {
        self.metrics().state != ServerState::Leader
    }

    async fn until_led_by(&self, deadline: Instant, is_it: impl Fn(NodeId) -> bool) -> bool {
        let mut leadership = self.leadership();
        let led = leadership.wait_for(|now| now.leader.is_some_and(&is_it));
        matches!(timeout_at(deadline, led).await, Ok(Ok(_)))
    }
}

fn in_reach(contact: &Contact, election_max: Duration) -> bool {
    contact.answered && contact.silent_for <= election_max
}

/// Other voters that answer, the most up-to-date first.
fn ways_out(view: &View, to: NodeId, election_max: Duration) -> Vec<NodeId> {
    let mut able: Vec<(u64, NodeId)> = view
        .contacts
        .iter()
        .filter(|(node, contact)| {
            **node != to && view.voters.contains(node) && in_reach(contact, election_max)
        })
        .map(|(node, contact)| (contact.lag, *node))
        .collect();
    able.sort_unstable();
    able.into_iter().map(|(_, node)| node).collect()
}
