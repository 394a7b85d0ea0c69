//! What is possible in a world, and what holds in it.

use std::collections::BTreeSet;

use agent::role::{Leadership, Role};
use central::gateway::fence::Circumstances;
use proto::{
    NodeId,
    hello::{Seat, TunnelHello},
};

use super::{
    agent::{Agent, Control, Kept, Lane},
    world::{World, applied},
};

impl World {
    pub(super) fn witness_behind(&self) -> bool {
        self.group.newest.map(applied) != self.central.claim
    }

    pub(super) fn agent_behind(&self, who: usize) -> bool {
        let agent = &self.agents[who];
        agent.seat == self.seat(who) && self.group.newest != agent.newest_claim()
    }

    pub(super) fn misinformed(&self, who: usize) -> bool {
        let agent = &self.agents[who];
        agent.seat == self.seat(who) && agent.role.leadership() != self.leadership(who)
    }

    /// A quorum would elect it: the witness and itself, or itself and another candidate.
    pub(super) fn electable(&self, who: usize) -> bool {
        let agent = &self.agents[who];
        let voters = self.agents.iter().filter(|a| a.runs() && a.seat.group == self.group.generation).count();
        let witness = usize::from(self.agents.len().is_multiple_of(2));
        self.group.leader != Some(who)
            && agent.runs()
            && agent.seat == self.seat(who)
            && 2 * (voters + witness) > self.agents.len() + witness
    }

    pub(super) fn has_leader(&self) -> bool {
        self.group
            .leader
            .is_some_and(|who| self.agents[who].runs() && self.agents[who].seat == self.seat(who))
    }

    pub(super) fn may_switch_to(&self, who: usize) -> bool {
        let node = self.group.nodes[who];
        self.central.draining().is_none()
            && self.configured().contains(&node)
            && self.central.active().is_none_or(|held| held.node != node || held.lane.is_none())
    }

    /// The agent no longer holds the other end of this websocket.
    pub(super) fn lane_is_dead(&self, held: usize) -> bool {
        let held = &self.central.tunnels[held];
        let holds = |kept: &Kept| kept.session == held.session && held.lane.map(Lane::Up) == Some(kept.lane);
        held.lane.is_some() && !self.agents.iter().any(|agent| agent.tunnels().any(holds))
    }

    pub(super) fn closed_by_central(&self, kept: &Kept) -> bool {
        let holds = |lane: Option<u8>| lane.map(Lane::Up) == Some(kept.lane);
        !self.central.tunnels.iter().any(|held| held.session == kept.session && holds(held.lane))
    }

    pub(super) fn seat(&self, who: usize) -> Seat {
        Seat { group: self.group.generation, node: self.group.nodes[who] }
    }

    /// Central and the active's agent hold the same websocket, and both live. One that another's claim made
    /// drain serves too, until that other is admitted.
    pub(super) fn is_up(&self) -> bool {
        let Some(held) = self.central.active().filter(|held| held.opens) else { return false };
        let holds = |kept: &Kept| kept.session == held.session && held.lane.map(Lane::Up) == Some(kept.lane);
        self.agents.iter().any(|agent| agent.runs() && agent.tunnels().any(holds))
    }

    /// The hello that waits for an answer, and what central knows beside it.
    pub(super) fn knock_of(&self, who: usize) -> Option<(TunnelHello, Circumstances)> {
        let knock = self.central.knocks.iter().find(|knock| knock.agent == who)?;
        let agent = &self.agents[who];
        let kept = agent.tunnels().find(|kept| kept.session == knock.session)?;
        let hello = agent.hello(kept);
        let at = self.central.circumstances(agent.id(), self.seat(who), &hello);
        Some((hello, at))
    }

    /// Whether this agent has a websocket for a tunnel, and whether central holds its other end.
    pub(super) fn line_of(&self, who: usize) -> (bool, bool) {
        let mut up = self.agents[who].tunnels().filter(|kept| matches!(kept.lane, Lane::Up(_))).peekable();
        let attached = up.peek().is_some();
        (attached, up.any(|kept| !self.closed_by_central(kept)))
    }

    pub(super) fn epochs_admitted(&self) -> usize {
        self.seen.holders.len()
    }

    pub(super) fn actives_have_claims(&self) -> bool {
        self.agents.iter().all(|agent| match agent.role.role() {
            Role::Active { epoch } => self.group.committed.contains(&(epoch, agent.seat.node, agent.boot())),
            _ => true,
        })
    }

    pub(super) fn leadership(&self, who: usize) -> Leadership {
        let leader = self.group.leader.map(|leader| self.group.nodes[leader]);
        Leadership { leader, leads: self.group.leader == Some(who) }
    }

    pub(super) fn configured(&self) -> BTreeSet<NodeId> {
        let tunnel = self.central.active().filter(|held| held.lane.is_some()).map(|held| held.agent);
        let here = |agent: &Agent| agent.control == Control::Up || tunnel == Some(agent.id());
        let seated = self.agents.iter().zip(&self.group.nodes);
        seated.filter(|(agent, _)| here(agent)).map(|(_, node)| *node).collect()
    }
}
