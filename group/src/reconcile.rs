//! Brings the membership to central's roster, one step at a time.

use std::{collections::BTreeMap, time::Duration};

use openraft::{
    ChangeMembers, Instant as _, Precondition,
    errors::{ClientWriteError, RaftError},
};
use proto::{Fingerprint, NodeId, control::Roster};
use tokio::time::{Instant, timeout};

use crate::{
    error::{GroupError, ReconcileError},
    group::Group,
    members::{Peer, Site},
    plan::{Contact, Step, View, Wanted, next_step},
    types::{Metrics, TypeConfig},
};

/// How long one membership change may take; it is two commits.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);

/// What one step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconciled {
    /// The membership is as the roster wants it.
    Settled,
    /// One step was done; call again at once.
    Stepped,
    /// Some candidates are not reached or not caught up yet; call again in a while.
    Waiting,
    /// The roster does not name this leader any more: transfer the lead to this node, which then
    /// replaces it.
    HandOver(NodeId),
}

impl Group {
    /// Does the next step from the membership in force to `roster`. Only a leader can.
    ///
    /// `approved` is the site's own say: a candidate whose key it does not approve is treated as if
    /// the roster did not name it. Idempotent; dropping the future may leave a step to take
    /// effect later, which the next call sees.
    pub async fn reconcile(
        &self,
        roster: &Roster,
        approved: &(dyn Fn(&Fingerprint) -> bool + Send + Sync),
    ) -> Result<Reconciled, ReconcileError> {
        let ours = self.seat().group;
        if roster.group != ours {
            return Err(ReconcileError::OtherGroup { roster: roster.group, ours });
        }
        let wanted = Wanted {
            witness: roster.witness,
            candidates: roster
                .candidates
                .iter()
                .filter(|entry| approved(&entry.fingerprint))
                .map(|entry| (entry.node, Peer::from(entry)))
                .collect(),
        };
        let metrics = self.metrics();
        let leadership = *self.leadership().borrow();
        if !leadership.leads {
            return Err(ReconcileError::NotLeader { leader: leadership.leader });
        }
        if metrics.membership_config != metrics.committed_membership_config
            || metrics.membership_config.get_joint_config().len() != 1
        {
            return Err(ReconcileError::Changing("the last change is not committed yet".into()));
        }
        let view = view_of(&metrics, self.led_since());
        let change = match next_step(&view, &wanted) {
            Step::Settled => return Ok(Reconciled::Settled),
            Step::Wait(_) => return Ok(Reconciled::Waiting),
            Step::HandOver(node) => return Ok(Reconciled::HandOver(node)),
            Step::Add(sites) => ChangeMembers::AddNodes(raw(sites)),
            Step::Refresh(sites) => ChangeMembers::SetNodes(raw(sites)),
            Step::Vote(voters) => ChangeMembers::ReplaceAllVoters(voters.iter().map(|node| node.0).collect()),
            Step::Remove(nodes) => ChangeMembers::RemoveNodes(nodes.iter().map(|node| node.0).collect()),
        };
        tracing::info!(group = ours, %change, "Changing the group's membership");
        self.change(change, &metrics).await?;
        Ok(Reconciled::Stepped)
    }

    async fn change(&self, change: ChangeMembers<u64, Site>, seen: &Metrics) -> Result<(), ReconcileError> {
        let in_use = self.core().for_write().await;
        // Whoever changed the membership since decided on another view than ours.
        let unchanged = Precondition::<TypeConfig>::LastMembershipLogId {
            last_membership_log_id: *seen.membership_config.log_id(),
        };
        // `retain`: who loses its vote, the witness above all, stays as a learner.
        let change = in_use.raft.change_membership_if(change, true, [unchanged]);
        match timeout(CHANGE_LIMIT, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(GroupError::Stopped(fatal.to_string()).into()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(ReconcileError::NotLeader { leader: forward.leader_id.map(NodeId) })
            }
            Ok(Err(RaftError::APIError(error))) => Err(ReconcileError::Changing(error.to_string())),
            Err(_) => Err(ReconcileError::Unconfirmed(CHANGE_LIMIT)),
        }
    }
}

fn raw(sites: BTreeMap<NodeId, Site>) -> BTreeMap<u64, Site> {
    sites.into_iter().map(|(node, site)| (node.0, site)).collect()
}

/// What the leader knows, from its replication metrics.
pub(crate) fn view_of(metrics: &Metrics, led_since: Option<Instant>) -> View {
    let leading_for = led_since.map_or(Duration::ZERO, |since| since.elapsed());
    let last = metrics.last_log_index.map_or(0, |index| index + 1);
    let contact = |node: &u64| {
        let acked = metrics.heartbeat.as_ref().and_then(|nodes| nodes.get(node)?.as_ref());
        let matched = metrics.replication.as_ref().and_then(|nodes| nodes.get(node)?.as_ref());
        Contact {
            silent_for: acked.map_or(leading_for, |at| at.elapsed()),
            answered: acked.is_some(),
            lag: last.saturating_sub(matched.map_or(0, |id| id.index() + 1)),
        }
    };
    let stored = &metrics.membership_config;
    View {
        me: NodeId(metrics.id),
        voters: stored.voter_ids().map(NodeId).collect(),
        nodes: stored.nodes().map(|(node, site)| (NodeId(*node), site.clone())).collect(),
        contacts: stored
            .nodes()
            .filter(|(node, _)| **node != metrics.id)
            .map(|(node, _)| (NodeId(*node), contact(node)))
            .collect(),
    }
}
