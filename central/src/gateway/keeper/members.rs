//! Who belongs to the group, and who of them could take over now.

use std::collections::BTreeSet;

use proto::{NodeId, hello::Seat};

use super::Keeper;
use crate::gateway::seating::Voters;

impl Keeper {
    /// What the witness knows of the membership; `None` while it does not run, or sits on a new node
    /// and has yet to hear of the group.
    pub(super) fn voters(&self) -> Option<Voters> {
        let witness = self.environment.witness()?;
        let members = witness.group.members();
        if members.borrow().voters.is_empty() && self.record.witness_was_renewed() {
            return None;
        }
        let voters =
            members.borrow().voters.iter().copied().filter(|node| *node != witness.seat.node).collect();
        Some(Voters { agents: voters })
    }

    /// Candidates that are connected to central and admitted to the group.
    pub(super) fn configured(&self) -> BTreeSet<NodeId> {
        let Some(group) = &self.record.group else { return BTreeSet::new() };
        let members = self.environment.witness().map(|witness| witness.group.members());
        let may_be_new = !self.record.witness_was_renewed();
        let admitted = |node: &NodeId| {
            members.as_ref().is_some_and(|members| {
                let members = members.borrow();
                // Until the founder has told the witness of its group, nobody else can be in it.
                (may_be_new && members.voters.is_empty() && group.seats.first().is_some_and(|s| s.node == *node))
                    // A learner, or a voter that the old quorum does not count yet, cannot take over.
                    || members.is_settled_voter(*node)
            })
        };
        let tunnel = self.session.as_ref().filter(|s| s.live().is_some()).map(|s| s.agent);
        group
            .seats
            .iter()
            .filter(|s| self.servers.get(&s.agent).is_some_and(|server| server.candidate))
            .filter(|s| !self.is_departing(s.agent))
            .filter(|s| self.environment.registry.link(s.agent).is_some() || tunnel == Some(s.agent))
            .map(|s| s.node)
            .filter(admitted)
            .collect()
    }

    /// Whether the membership, as the witness has applied it, still names this seat. Where the witness
    /// cannot tell, it does.
    pub(super) fn is_member(&self, seat: Seat) -> bool {
        if self.record.group.is_none() || self.record.generation != seat.group {
            return false;
        }
        if self.voters().is_none() {
            return true;
        }
        self.environment.witness().is_some_and(|witness| {
            let members = witness.group.members();
            let members = members.borrow();
            members.voters.contains(&seat.node) || members.learners.contains(&seat.node)
        })
    }
}
