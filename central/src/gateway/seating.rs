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

use crate::process_server::group::GroupRecord;

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
/// `active` is the agent that holds or drains a tunnel. `voters` is `None` while the witness of
/// the group is not running, and then no loss is judged.
pub fn next_step(
    record: &GroupRecord,
    servers: &[Facts],
    active: Option<AgentId>,
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
    let leaving = group.seats.iter().find(|seated| !wanted(seated.agent))?;
    Some(match active == Some(leaving.agent) {
        true => Step::HandOver { agent: leaving.agent },
        false => Step::Unseat { agent: leaving.agent },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_server::group::{Group, Seated};

    #[test]
    fn marking_alone_founds_nothing_and_the_first_restarted_does() {
        let none = GroupRecord::default();
        let mut servers = [marked(1), marked(2)];
        assert_eq!(next_step(&none, &servers, None, None), None);
        servers[1].restarted = true;
        assert_eq!(next_step(&none, &servers, None, None), Some(Step::Found { agent: agent(2) }));
    }

    #[test]
    fn others_join_without_a_restart() {
        let record = seated([1]);
        let servers = [sitting(&record, 1), marked(2)];
        assert_eq!(next_step(&record, &servers, None, voters([1])), Some(Step::Seat { agent: agent(2) }));
    }

    #[test]
    fn one_that_is_away_waits_for_its_return() {
        let record = seated([1]);
        let away = Facts { connected: false, ..marked(2) };
        assert_eq!(next_step(&record, &[sitting(&record, 1), away], None, voters([1])), None);
    }

    #[test]
    fn a_wiped_agent_sits_anew_while_another_voter_lives() {
        let record = seated([1, 2]);
        let servers = [sitting(&record, 1), marked(2)];
        let lost = record.seat_of(agent(2)).unwrap();
        assert_eq!(
            next_step(&record, &servers, None, voters([1, 2])),
            Some(Step::Reseat { agent: agent(2), lost })
        );
    }

    #[test]
    fn when_the_only_voter_lost_its_state_the_group_is_founded_anew() {
        let record = seated([1, 2]);
        let servers = [marked(1), sitting(&record, 2)];
        assert_eq!(next_step(&record, &servers, None, voters([1])), Some(Step::Found { agent: agent(1) }));
        assert_eq!(
            next_step(&record, &servers, None, None),
            None,
            "nobody is judged before the witness runs"
        );
    }

    #[test]
    fn unmarking_the_active_hands_over_before_the_seat_goes() {
        let record = seated([1, 2]);
        let servers = [Facts { candidate: false, ..sitting(&record, 1) }, sitting(&record, 2)];
        let step = |active| next_step(&record, &servers, Some(agent(active)), voters([1, 2]));
        assert_eq!(step(1), Some(Step::HandOver { agent: agent(1) }));
        assert_eq!(step(2), Some(Step::Unseat { agent: agent(1) }));
    }

    #[test]
    fn unmarking_the_last_one_dissolves_the_group() {
        let record = seated([1]);
        let servers = [Facts { candidate: false, ..sitting(&record, 1) }];
        assert_eq!(next_step(&record, &servers, Some(agent(1)), voters([1])), Some(Step::Dissolve));
    }

    #[test]
    fn the_seat_of_a_removed_process_server_goes() {
        let record = seated([1, 2]);
        let servers = [sitting(&record, 1)];
        assert_eq!(
            next_step(&record, &servers, None, voters([1, 2])),
            Some(Step::Unseat { agent: agent(2) })
        );
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
        let group = Group { witness: NodeId(99), founder: agent(agents[0]), seats };
        GroupRecord { generation: 1, last_node: 99, roster_revision: 1, group: Some(group) }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the shape the function under test takes")]
    fn voters<const N: usize>(nodes: [u64; N]) -> Option<&'static Voters> {
        let agents = nodes.into_iter().map(NodeId).collect();
        Some(Box::leak(Box::new(Voters { agents })))
    }
}
