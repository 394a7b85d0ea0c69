//! Candidates differ in nothing but their place, so states that differ only in that are one.

use super::{Claim, Election, MEMBERS, Member, Records, Role, Seen, State, WITNESS};

impl Election {
    /// Puts one state in the place of all that are like it. A path to a bug keeps the places, for its reader.
    pub(super) fn alike(&self, state: &mut State) {
        if self.mutant.is_some() {
            return;
        }
        let last = if self.with_witness { WITNESS } else { MEMBERS };
        let orders: &[[usize; MEMBERS]] = match last {
            WITNESS => &[[1, 0, 2]],
            _ => &[[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]],
        };
        if let Some(least) = orders.iter().map(|order| state.reordered(order)).min()
            && least < *state
        {
            *state = least;
        }
    }
}

impl State {
    /// The same with the members in other places: `order` says where each comes from.
    fn reordered(&self, order: &[usize; MEMBERS]) -> Self {
        let to = |from: usize| order.iter().position(|o| *o == from).unwrap_or(from);
        let claim = |claim: &Claim| Claim { by: to(claim.by), ..*claim };
        let records = |records: &Records| Records {
            term: records.term,
            vote: records.vote.map(to),
            log: records.log.iter().map(claim).collect(),
        };
        let members = order.map(|from| {
            let member = &self.members[from];
            let role = match &member.role {
                Role::Follower => Role::Follower,
                Role::Candidate { votes } => {
                    Role::Candidate { votes: votes.iter().map(|v| to(*v)).collect() }
                }
                Role::Leader { copies } => Role::Leader { copies: order.map(|from| copies[from]) },
            };
            Member { disk: records(&member.disk), memory: records(&member.memory), role, ..*member }
        });
        let seen = Seen {
            votes: order.map(|from| (self.seen.votes[from].0, to(self.seen.votes[from].1))),
            voted_twice: self.seen.voted_twice,
            leaders: self.seen.leaders.iter().map(|(term, who)| (*term, to(*who))).collect(),
            committed: self.seen.committed.iter().map(claim).collect(),
            contradicted: self.seen.contradicted,
        };
        Self { members, crashes: self.crashes, seen }
    }
}
