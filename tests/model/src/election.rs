//! Elections and claims: three members' votes and logs, a crash, and what a crash can forget.
//!
//! ```text
//!   stand ──► votes, each on disk before it is answered ──► lead ──► claim ──► copies ──► committed
//!     ▲                                                       │
//!     └──────────── anybody, at any time ─────────────────────┘ the witness: hands over, never claims
//! ```
//!
//! Raft itself is openraft's, which cannot be driven a step at a time; this is what the rules and the storage
//! recipe ask of it, written anew. A member that is not scheduled is paused, or its messages are on their way:
//! both need no words here. Two more things are left out because they change nothing that is judged: an answer
//! that arrives late is a question that was answered late, and heartbeats only keep elections rare.

mod places;
mod recovery;

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::mutant::Mutant;

/// Two candidates and the witness, or three candidates: an odd number votes either way.
pub const MEMBERS: usize = 3;
/// Where central's own member sits while the number of candidates is even.
const WITNESS: usize = 2;
const QUORUM: usize = 2;

/// The model and its bounds.
#[derive(Debug, Clone)]
pub struct Election {
    pub with_witness: bool,
    pub mutant: Option<Mutant>,
    pub terms: u8,
    pub entries: usize,
    /// Crashes in all, of every kind.
    pub crashes: u8,
    /// Whether each state is also asked if the group recovers from it, which costs far more than the state.
    pub recovery: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    members: [Member; MEMBERS],
    crashes: u8,
    seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Member {
    disk: Records,
    memory: Records,
    role: Role,
    boot: u8,
    /// Its records are gone or too short: another node id, and no vote under this one.
    retired: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Records {
    term: u8,
    vote: Option<usize>,
    log: Vec<Claim>,
}

/// The only entries that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Claim {
    term: u8,
    by: usize,
    boot: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Role {
    Follower,
    Candidate { votes: BTreeSet<usize> },
    Leader { copies: [usize; MEMBERS] },
}

/// What no member knows, and no member may contradict.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Seen {
    /// Each member's newest vote that was answered: in which term, for whom.
    votes: [(u8, usize); MEMBERS],
    /// A member answered twice in a term, or in one before.
    voted_twice: bool,
    leaders: BTreeSet<(u8, usize)>,
    committed: Vec<Claim>,
    /// Two members took different claims for committed, or one was lost.
    contradicted: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Stand(usize),
    Vote { by: usize, to: usize },
    Claim(usize),
    Copy { from: usize, to: usize, heard: bool },
    Commit(usize),
    Sync(usize),
    Crash(usize, Crash),
}

/// What is left after a crash.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crash {
    /// Everything that was synced.
    Clean,
    /// The newest record is gone although it was synced, and the database opens all the same.
    Shortened,
    /// Nothing.
    Wiped,
}

impl Election {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn may_claim(&self, member: usize) -> bool {
        !self.with_witness || member != WITNESS || self.is(Mutant::WitnessClaims)
    }

    /// The fencing token of the claim at `index`.
    fn token(&self, index: usize, claim: Claim) -> u64 {
        match self.is(Mutant::FenceIsTerm) {
            true => u64::from(claim.term),
            false => index as u64,
        }
    }

    fn stand(&self, state: &mut State, who: usize) {
        let member = &mut state.members[who];
        member.memory.term += 1;
        member.memory.vote = Some(who);
        member.role = Role::Candidate { votes: BTreeSet::from([who]) };
        let term = member.memory.term;
        state.seen.vote(who, term, who);
        self.keep(member, Mutant::VoteBeforeSync);
    }

    /// Puts on disk what was just written, unless that is the bug.
    fn keep(&self, member: &mut Member, unless: Mutant) {
        if !self.is(unless) {
            member.disk = member.memory.clone();
        }
    }

    fn vote(&self, state: &mut State, by: usize, to: usize) -> Option<()> {
        let asking = state.members[to].memory.clone();
        if !matches!(state.members[to].role, Role::Candidate { .. }) || state.members[by].retired {
            return None;
        }
        let voter = &mut state.members[by];
        if voter.memory.term > asking.term {
            return None;
        }
        let before = voter.clone();
        if voter.memory.term < asking.term {
            voter.memory.term = asking.term;
            voter.memory.vote = None;
            voter.role = Role::Follower;
        }
        let newer = asking.newness() >= voter.memory.newness() || self.is(Mutant::ShorterLogElected);
        let granted = newer && voter.memory.vote.is_none_or(|vote| vote == to);
        if granted {
            voter.memory.vote = Some(to);
        }
        self.keep(voter, Mutant::VoteBeforeSync);
        let changed = *voter != before;
        if granted {
            state.seen.vote(by, asking.term, to);
        }
        if granted && let Role::Candidate { votes } = &mut state.members[to].role {
            votes.insert(by);
            if votes.len() >= QUORUM {
                state.members[to].role = Role::Leader { copies: [0; MEMBERS] };
                state.seen.leaders.insert((asking.term, to));
            }
            return Some(());
        }
        changed.then_some(())
    }

    fn claim(&self, state: &mut State, who: usize) {
        let member = &mut state.members[who];
        let claim = Claim { term: member.memory.term, by: who, boot: member.boot };
        member.memory.log.push(claim);
        self.keep(member, Mutant::EntryAckedBeforeSync);
    }

    /// The leader's whole log, in one call.
    fn copy(&self, state: &mut State, from: usize, to: usize, heard: bool) -> Option<()> {
        let leader = state.members[from].memory.clone();
        if !matches!(state.members[from].role, Role::Leader { .. }) {
            return None;
        }
        let follower = &mut state.members[to];
        if follower.memory.term > leader.term || follower.retired {
            return None;
        }
        let before = follower.clone();
        if follower.memory.term < leader.term {
            follower.memory.vote = None;
        }
        follower.memory.term = leader.term;
        follower.role = Role::Follower;
        // What is the same stays, also behind it: an old call must not shorten a log.
        let same = leader.log.iter().zip(&follower.memory.log).take_while(|(a, b)| a == b).count();
        if same < leader.log.len() {
            follower.memory.log = leader.log.clone();
        }
        self.keep(follower, Mutant::EntryAckedBeforeSync);
        let changed = *follower != before;
        if heard
            && let Role::Leader { copies } = &mut state.members[from].role
            && copies[to] != leader.log.len()
        {
            copies[to] = leader.log.len();
            return Some(());
        }
        changed.then_some(())
    }

    fn commit(&self, state: &mut State, who: usize) -> Option<()> {
        let member = &state.members[who];
        let Role::Leader { copies } = &member.role else { return None };
        let log = &member.memory.log;
        let upto = (1..=log.len()).rev().find(|upto| {
            let held = 1 + (0..MEMBERS).filter(|m| *m != who && copies[*m] >= *upto).count();
            let quorum = held >= QUORUM || self.is(Mutant::CommittedWithoutQuorum);
            // Only an entry of its own term: one of an earlier term could still be replaced.
            quorum && log[upto - 1].term == member.memory.term
        })?;
        let seen = &mut state.seen;
        let agreed = log.iter().zip(&seen.committed).take(upto).all(|(a, b)| a == b);
        seen.contradicted |= !agreed;
        if upto <= seen.committed.len() {
            return (!agreed).then_some(());
        }
        seen.committed = log[..upto].to_vec();
        Some(())
    }

    fn crash(&self, state: &mut State, who: usize, crash: Crash) {
        let member = &mut state.members[who];
        member.role = Role::Follower;
        member.boot += 1;
        let written = member.disk.clone();
        match crash {
            Crash::Clean => {}
            Crash::Shortened if member.disk.vote.take().is_none() => drop(member.disk.log.pop()),
            Crash::Shortened => {}
            Crash::Wiped => member.disk = Records::default(),
        }
        // The guard remembers how far the records had come; an empty folder has no guard and no old id.
        member.retired = member.disk != written
            && match crash {
                Crash::Clean => false,
                Crash::Shortened => !self.is(Mutant::NoGuard),
                Crash::Wiped => !self.is(Mutant::NodeReused),
            };
        member.memory = member.disk.clone();
    }
}

impl Seen {
    fn vote(&mut self, by: usize, term: u8, to: usize) {
        let (newest, before) = self.votes[by];
        self.voted_twice |= term < newest || (term == newest && before != to);
        self.votes[by] = (term, to);
    }
}

impl Records {
    /// Raft's order of logs: the last entry's term, then the length.
    fn newness(&self) -> (u8, usize) {
        (self.log.last().map_or(0, |claim| claim.term), self.log.len())
    }
}

impl Model for Election {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let member = || Member {
            disk: Records::default(),
            memory: Records::default(),
            role: Role::Follower,
            boot: 1,
            retired: false,
        };
        let members = std::array::from_fn(|_| member());
        vec![State { members, crashes: 0, seen: Seen::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for who in 0..MEMBERS {
            let member = &state.members[who];
            if member.retired {
                continue;
            }
            let leads = matches!(member.role, Role::Leader { .. });
            if member.memory.term < self.terms && !leads {
                actions.push(Action::Stand(who));
            }
            if leads && self.may_claim(who) && member.memory.log.len() < self.entries {
                actions.push(Action::Claim(who));
            }
            if leads {
                actions.push(Action::Commit(who));
            }
            if member.memory != member.disk {
                actions.push(Action::Sync(who));
            }
            for other in (0..MEMBERS).filter(|other| *other != who) {
                match &member.role {
                    Role::Candidate { .. } => actions.push(Action::Vote { by: other, to: who }),
                    Role::Leader { .. } => {
                        actions.extend([true, false].map(|heard| Action::Copy {
                            from: who,
                            to: other,
                            heard,
                        }));
                    }
                    Role::Follower => {}
                }
            }
            if state.crashes < self.crashes {
                for crash in [Crash::Clean, Crash::Shortened, Crash::Wiped] {
                    actions.push(Action::Crash(who, crash));
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Stand(who) => self.stand(&mut state, who),
            Action::Vote { by, to } => self.vote(&mut state, by, to)?,
            Action::Claim(who) => self.claim(&mut state, who),
            Action::Copy { from, to, heard } => self.copy(&mut state, from, to, heard)?,
            Action::Commit(who) => self.commit(&mut state, who)?,
            Action::Sync(who) => state.members[who].disk = state.members[who].memory.clone(),
            Action::Crash(who, crash) => {
                state.crashes += 1;
                self.crash(&mut state, who, crash);
            }
        }
        self.alike(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut rules = vec![
            Property::always(ONE_VOTE, |_, state: &State| !state.seen.voted_twice),
            Property::always(ONE_LEADER, |_, state: &State| {
                let leaders = &state.seen.leaders;
                leaders.iter().map(|(term, _)| term).collect::<BTreeSet<_>>().len() == leaders.len()
            }),
            Property::always(CLAIMS_STAY, |_, state: &State| !state.seen.contradicted),
            Property::always(WITNESS_NEVER_CLAIMS, |model: &Election, state: &State| {
                !model.with_witness || state.seen.committed.iter().all(|claim| claim.by != WITNESS)
            }),
            Property::always(ONE_CLAIM_PER_TOKEN, |model: &Election, state: &State| {
                let claims = &state.seen.committed;
                let tokens = claims.iter().enumerate().map(|(index, claim)| model.token(index, *claim));
                tokens.collect::<BTreeSet<_>>().len() == claims.len()
            }),
            Property::sometimes(
                "two claims are committed in different terms",
                |_, state: &State| matches!(&state.seen.committed[..], [a, b] if a.term < b.term),
            ),
            Property::sometimes("a member leads in a boot after the first", |_, state: &State| {
                state.members.iter().any(|m| m.boot > 1 && matches!(m.role, Role::Leader { .. }))
            }),
        ];
        if self.recovery {
            rules.push(Property::always(RECOVERS, |model: &Election, state: &State| {
                let retired = (0..MEMBERS).find(|m| state.members[*m].retired);
                match retired {
                    Some(lost) => model.recovers(state, lost),
                    None => (0..MEMBERS).all(|lost| model.recovers(state, lost)),
                }
            }));
        }
        rules
    }
}

pub const ONE_VOTE: &str = "no member votes twice in a term, or in one before";
pub const ONE_LEADER: &str = "a term has one leader";
pub const CLAIMS_STAY: &str = "a committed claim stays, the same for all";
pub const WITNESS_NEVER_CLAIMS: &str = "the witness never claims";
pub const ONE_CLAIM_PER_TOKEN: &str = "a token names one claim";
pub const RECOVERS: &str = "with one member lost, the others can commit a claim";
