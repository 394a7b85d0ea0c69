//! Whether a group that lost a member still gets anywhere, once nothing else fails.

use super::{Election, MEMBERS, Role, State, WITNESS};
use crate::mutant::Mutant;

impl Election {
    /// Whether the group can still commit a claim once nothing fails any more and `lost`, at most, is gone.
    pub(super) fn recovers(&self, state: &State, lost: usize) -> bool {
        let mut state = state.clone();
        let alive: Vec<usize> = (0..MEMBERS).filter(|m| *m != lost).collect();
        let agent = |m: &usize| !self.with_witness || *m != WITNESS;
        // The witness only where no candidate can: its log alone is the newest.
        for first in alive.iter().filter(|m| agent(m)).chain(alive.iter().filter(|m| !agent(m))) {
            if !agent(first) && self.is(Mutant::WitnessNeverLeads) {
                continue;
            }
            let leads = |state: &mut State, who: usize| {
                let top = alive.iter().map(|m| state.members[*m].memory.term).max().unwrap_or_default();
                state.members[who].memory.term = top;
                self.stand(state, who);
                for by in alive.iter().filter(|by| **by != who) {
                    self.vote(state, *by, who);
                }
                matches!(state.members[who].role, Role::Leader { .. })
            };
            if !leads(&mut state, *first) {
                continue;
            }
            let heir =
                if agent(first) { *first } else { alive.iter().copied().find(agent).unwrap_or(*first) };
            if heir != *first {
                self.copy(&mut state, *first, heir, true);
                if !leads(&mut state, heir) {
                    continue;
                }
            }
            self.claim(&mut state, heir);
            for to in alive.iter().filter(|to| **to != heir) {
                self.copy(&mut state, heir, *to, true);
            }
            return self.commit(&mut state, heir).is_some() && !state.seen.contradicted;
        }
        false
    }
}
