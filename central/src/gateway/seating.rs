//! Decides who holds a seat in the gateway group: founding, joining, losing, leaving.
//!
//! ```text
//!   marked + restarted, no group ──► Found          unmarked, seated: active ──► HandOver
//!   marked, group ─────────────────► Seat                             last ────► Dissolve
//!   its Raft state is gone ────────► Reseat                           else ────► Unseat
//!   … and no voter is left ────────► Found, under a higher generation
//! ```
//!
//! A function of what is recorded and who is connected; the keeper carries out one step at a time
//! and asks again.

use std::collections::BTreeSet;

use proto::{AgentId, NodeId, hello::Seat};

use crate::process_server::group::{GroupRecord, SEATS_MAX};

/// What matters of one Process Server.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub agent: AgentId,
    pub candidate: bool,
    pub connected: bool,
    /// It runs in another boot than when it was marked.
    pub restarted: bool,
    /// The seat whose Raft state it holds, as it said itself or as it was granted since.
    pub holds: Option<Seat>,
}

/// Who carries streams at present. Neither may lose its seat while it does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carrying {
    pub active: Option<AgentId>,
    pub draining: Option<AgentId>,
}

/// What the group's membership says, as the witness has applied it.
#[derive(Debug, Clone, Default)]
pub struct Voters {
    pub agents: BTreeSet<NodeId>,
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Grant a new generation to this agent.
    Found {
        agent: AgentId,
    },
    Seat {
        agent: AgentId,
    },
    /// Another node for an agent that lost the state of this seat.
    Reseat {
        agent: AgentId,
        lost: Seat,
    },
    Unseat {
        agent: AgentId,
    },
    /// Unmarked, and active: another candidate must take over before the seat can go.
    HandOver {
        agent: AgentId,
    },
    /// The last candidate was unmarked.
    Dissolve,
}

/// The next step, or `None` when everything is as it should be or must wait for somebody.
///
/// `carrying` says who holds or drains a tunnel. `voters` is `None` while the witness of the group is
/// not running, and then no loss is judged.
pub fn next_step(
    record: &GroupRecord,
    servers: &[Facts],
    carrying: Carrying,
    voters: Option<&Voters>,
) -> Option<Step> {
    let Some(group) = &record.group else {
        let founder = servers.iter().find(|s| s.candidate && s.connected && s.restarted)?;
        return Some(Step::Found { agent: founder.agent });
    };
    let facts = |agent: AgentId| servers.iter().find(|s| s.agent == agent);
    let wanted = |agent: AgentId| facts(agent).is_some_and(|s| s.candidate);

    if group.seats.iter().all(|seated| !wanted(seated.agent))
        && !servers.iter().any(|s| s.candidate && s.connected)
    {
        return Some(Step::Dissolve);
    }
    for server in servers.iter().filter(|s| s.candidate && s.connected) {
        let Some(seat) = record.seat_of(server.agent) else {
            if group.seats.len() >= SEATS_MAX {
                continue; // until somebody is unmarked
            }
            return Some(Step::Seat { agent: server.agent });
        };
        if server.holds == Some(seat) {
            continue;
        }
        let Some(voters) = voters else { continue };
        let somebody_can_vote = group
            .seats
            .iter()
            .any(|seated| seated.agent != server.agent && voters.agents.contains(&seated.node));
        return Some(match somebody_can_vote {
            true => Step::Reseat { agent: server.agent, lost: seat },
            false => Step::Found { agent: server.agent },
        });
    }
    if let Some(founder) = orphaned(record, servers, voters) {
        return Some(Step::Found { agent: founder });
    }
    let leaving = || group.seats.iter().map(|seated| seated.agent).filter(|agent| !wanted(*agent));
    let carries = |agent: &AgentId| [carrying.active, carrying.draining].contains(&Some(*agent));
    match leaving().find(|agent| !carries(agent)) {
        Some(agent) => Some(Step::Unseat { agent }),
        None => leaving().find(|agent| carrying.active == Some(*agent)).map(|agent| Step::HandOver { agent }),
    }
}

/// Who is to found the group anew because nobody seated can ever vote: the only voter is gone for
/// good, or the founder went before anybody had heard of its group.
fn orphaned(record: &GroupRecord, servers: &[Facts], voters: Option<&Voters>) -> Option<AgentId> {
    let (group, voters) = (record.group.as_ref()?, voters?);
    let can_vote = match voters.agents.is_empty() {
        true => group.seats.iter().any(|seated| seated.agent == group.founder),
        false => group.seats.iter().any(|seated| voters.agents.contains(&seated.node)),
    };
    let founder = servers.iter().find(|s| s.candidate && s.connected && s.restarted)?;
    (!can_vote).then_some(founder.agent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_server::group::{Group, Seated};

    #[test]
    fn marking_alone_founds_nothing_and_the_first_restarted_does() {
        let none = GroupRecord::default();
        let mut servers = [marked(1), marked(2)];
        assert_eq!(next_step(&none, &servers, Carrying::default(), None), None);
        servers[1].restarted = true;
        assert_eq!(
            next_step(&none, &servers, Carrying::default(), None),
            Some(Step::Found { agent: agent(2) })
        );
    }

    #[test]
    fn others_join_without_a_restart() {
        let record = seated([1]);
        let servers = [sitting(&record, 1), marked(2)];
        assert_eq!(
            next_step(&record, &servers, Carrying::default(), voters([1])),
            Some(Step::Seat { agent: agent(2) })
        );
    }

    #[test]
    fn one_that_is_away_waits_for_its_return() {
        let record = seated([1]);
        let away = Facts { connected: false, ..marked(2) };
        assert_eq!(next_step(&record, &[sitting(&record, 1), away], Carrying::default(), voters([1])), None);
    }

    #[test]
    fn a_wiped_agent_sits_anew_while_another_voter_lives() {
        let record = seated([1, 2]);
        let servers = [sitting(&record, 1), marked(2)];
        let lost = record.seat_of(agent(2)).unwrap();
        assert_eq!(
            next_step(&record, &servers, Carrying::default(), voters([1, 2])),
            Some(Step::Reseat { agent: agent(2), lost })
        );
    }

    #[test]
    fn when_the_only_voter_lost_its_state_the_group_is_founded_anew() {
        let record = seated([1, 2]);
        let servers = [marked(1), sitting(&record, 2)];
        assert_eq!(
            next_step(&record, &servers, Carrying::default(), voters([1])),
            Some(Step::Found { agent: agent(1) })
        );
        assert_eq!(
            next_step(&record, &servers, Carrying::default(), None),
            None,
            "nobody is judged before the witness runs"
        );
    }

    #[test]
    fn unmarking_the_active_hands_over_before_the_seat_goes() {
        let record = seated([1, 2]);
        let servers = [Facts { candidate: false, ..sitting(&record, 1) }, sitting(&record, 2)];
        let step = |active| next_step(&record, &servers, active_is(active), voters([1, 2]));
        assert_eq!(step(1), Some(Step::HandOver { agent: agent(1) }));
        assert_eq!(step(2), Some(Step::Unseat { agent: agent(1) }));
    }

    #[test]
    fn unmarking_the_last_one_dissolves_the_group() {
        let record = seated([1]);
        let servers = [Facts { candidate: false, ..sitting(&record, 1) }];
        assert_eq!(next_step(&record, &servers, active_is(1), voters([1])), Some(Step::Dissolve));
    }

    #[test]
    fn the_seat_of_a_removed_process_server_goes() {
        let record = seated([1, 2]);
        let servers = [sitting(&record, 1)];
        assert_eq!(
            next_step(&record, &servers, Carrying::default(), voters([1, 2])),
            Some(Step::Unseat { agent: agent(2) })
        );
    }

    #[test]
    fn one_that_drains_keeps_its_seat_until_it_has_drained() {
        let record = seated([1, 2]);
        let servers = [Facts { candidate: false, ..sitting(&record, 1) }, sitting(&record, 2)];
        let draining = Carrying { active: Some(agent(2)), draining: Some(agent(1)) };
        assert_eq!(next_step(&record, &servers, draining, voters([1, 2])), None);
    }

    #[test]
    fn a_full_group_still_lets_others_leave() {
        let all: Vec<u8> = (1..=16).collect();
        let record = seated::<16>(all.clone().try_into().unwrap());
        let mut servers: Vec<Facts> = all.iter().map(|n| sitting(&record, *n)).collect();
        servers[3].candidate = false;
        servers.push(marked(17));
        let everybody = voters::<16>(std::array::from_fn(|n| n as u64 + 1));
        assert_eq!(
            next_step(&record, &servers, Carrying::default(), everybody),
            Some(Step::Unseat { agent: agent(4) })
        );
    }

    #[test]
    fn when_nobody_seated_can_vote_a_restarted_candidate_founds_anew() {
        // Node 1 was the only voter; it is gone, and node 2 had not been promoted yet.
        let record = seated([2]);
        let servers = [sitting(&record, 2)];
        assert_eq!(
            next_step(&record, &servers, Carrying::default(), voters([1])),
            Some(Step::Found { agent: agent(2) })
        );
    }

    fn active_is(n: u8) -> Carrying {
        Carrying { active: Some(agent(n)), draining: None }
    }

    fn agent(n: u8) -> AgentId {
        AgentId::from_bytes([n; 16])
    }

    /// A connected candidate that holds nothing and was not restarted.
    fn marked(n: u8) -> Facts {
        Facts { agent: agent(n), candidate: true, connected: true, restarted: false, holds: None }
    }

    fn sitting(record: &GroupRecord, n: u8) -> Facts {
        Facts { holds: record.seat_of(agent(n)), restarted: true, ..marked(n) }
    }

    /// A group in which agent `n` sits on node `n`.
    fn seated<const N: usize>(agents: [u8; N]) -> GroupRecord {
        let seats = agents.map(|n| Seated { agent: agent(n), node: NodeId(n.into()) }).to_vec();
        let group = Group { witness: NodeId(99), witness_before: None, founder: agent(agents[0]), seats };
        GroupRecord { generation: 1, last_node: 99, roster_revision: 1, group: Some(group) }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the shape the function under test takes")]
    fn voters<const N: usize>(nodes: [u64; N]) -> Option<&'static Voters> {
        let agents = nodes.into_iter().map(NodeId).collect();
        Some(Box::leak(Box::new(Voters { agents })))
    }
}
