//! The gateway: claims that are committed already, the fence, tunnels, a planned switch, and everything that can
//! be lost on the way.
//!
//! ```text
//!   lead ──► ask central ──► claim ──► committed ──► applied by agent and witness
//!                                                         │
//!   drain ◄── planned ── superseded ◄── admitted ◄── fence ◄── hello
//! ```
//!
//! The decisions are the product's own: [`agent::role::RoleMachine`] in every agent, and in central
//! [`central::gateway::fence::Fence::admit`] and
//! [`central::gateway::proxy_processor::ProxyProcessor`]. Written anew, and short, are the loops around them
//! (`agent::app`, `agent::tunnel`, central's keeper), the network, and of Raft only what [`crate::election`]
//! shows of it: claims are committed one after the other, by whoever leads.

mod agent;
mod central;
mod heal;
mod history;
mod possible;
mod world;

use std::collections::BTreeSet;

use ::central::gateway::fence::Fence;
use stateright::{Model, Property};

use self::{
    agent::{Control, Lane, Life, Proposal},
    central::Place,
};
pub use self::{history::History, world::World};
use crate::mutant::Mutant;

/// The model and how much may happen in it.
#[derive(Debug, Clone, Copy)]
pub struct Gateway {
    pub candidates: usize,
    pub mutant: Option<Mutant>,
    pub bounds: Bounds,
}

/// How often each thing may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Leaders elected without anybody handing over.
    pub elections: u8,
    /// Claims committed, the first included.
    pub claims: u8,
    /// Agents that die, and come back in another boot.
    pub deaths: u8,
    /// Agents that are stopped for a while.
    pub pauses: u8,
    /// Central's restarts.
    pub restarts: u8,
    /// Websockets lost by one end while the other still holds them.
    pub cuts: u8,
    /// Planned switches.
    pub switches: u8,
    /// Groups founded anew.
    pub foundings: u8,
    /// Timers of agents, and of central, that ring.
    pub timeouts: u8,
    /// Hellos of somebody who copied an agent's certificate, or invents a claim.
    pub impostors: u8,
    /// Two hellos are judged at once, as by two central nodes on one store.
    pub racing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    Elect(usize),
    Learn(usize),
    Propose(usize),
    GiveUpProposal(usize),
    Apply(usize),
    WitnessApplies,
    Question(usize),
    Report(usize),
    Timeout(usize),
    CentralTimeout,
    Connect(usize),
    LoseControl(usize),
    TakeSeat(usize),
    Knock { agent: usize, draining: bool },
    Judge(usize),
    Admit(usize),
    Flush,
    CutByAgent { agent: usize, draining: bool },
    CutByCentral(usize),
    NoticedByCentral(usize),
    NoticedByAgent { agent: usize, draining: bool },
    Drained(usize),
    DrainEnds,
    ResumeWindowEnds,
    SessionGivenUp { agent: usize, draining: bool },
    Switch(usize),
    Die(usize),
    Restart(usize),
    Pause(usize),
    Wake(usize),
    RestartCentral,
    FoundAnew(usize),
    Impostor { of: usize, forged: Forged },
}

/// What is false in an impostor's hello.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Forged {
    Boot,
    Session,
    /// An epoch that nobody claimed.
    Epoch,
}

impl Model for Gateway {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::with_first_active(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let left = world.left;
        let push = &mut |enabled: bool, action: Action| {
            if enabled {
                actions.push(action);
            }
        };
        push(world.witness_behind(), Action::WitnessApplies);
        push(left.timeouts > 0 && world.central.processor.poll_timeout().is_some(), Action::CentralTimeout);
        push(world.central.disk != world.central.memory, Action::Flush);
        push(world.central.draining().is_some(), Action::DrainEnds);
        push(world.central.active().is_some_and(|held| held.lane.is_none()), Action::ResumeWindowEnds);
        push(left.restarts > 0, Action::RestartCentral);
        for held in 0..world.central.tunnels.len() {
            push(left.cuts > 0 && world.central.tunnels[held].lane.is_some(), Action::CutByCentral(held));
            push(world.lane_is_dead(held), Action::NoticedByCentral(held));
        }
        for knock in &world.central.knocks {
            push(left.racing && knock.judged.is_none(), Action::Judge(knock.agent));
            push(!left.racing || knock.judged.is_some(), Action::Admit(knock.agent));
        }
        for (who, agent) in world.agents.iter().enumerate() {
            push(agent.life == Life::Dead, Action::Restart(who));
            push(agent.life == Life::Paused, Action::Wake(who));
            push(left.deaths > 0 && agent.life != Life::Dead, Action::Die(who));
            push(left.foundings > 0 && agent.runs() && agent.control == Control::Up, Action::FoundAnew(who));
            push(left.elections > 0 && world.electable(who), Action::Elect(who));
            push(agent.control == Control::Up && !agent.questions.is_empty(), Action::Question(who));
            push(left.switches > 0 && world.may_switch_to(who), Action::Switch(who));
            if !agent.runs() {
                continue;
            }
            push(left.pauses > 0, Action::Pause(who));
            push(world.misinformed(who), Action::Learn(who));
            push(agent.proposal != Proposal::None && left.claims > 0, Action::Propose(who));
            push(agent.proposal == Proposal::Waiting, Action::GiveUpProposal(who));
            push(world.agent_behind(who), Action::Apply(who));
            push(!agent.reports.is_empty(), Action::Report(who));
            push(left.timeouts > 0 && agent.role.poll_timeout().is_some(), Action::Timeout(who));
            push(agent.control == Control::Down, Action::Connect(who));
            push(agent.control == Control::Ending && agent.reports.is_empty(), Action::LoseControl(who));
            push(agent.control == Control::Up && agent.seat != world.seat(who), Action::TakeSeat(who));
            push(
                agent.draining.is_some_and(|kept| kept.lane == Lane::Down && !kept.begun),
                Action::Drained(who),
            );
            for (draining, kept) in [(false, agent.kept), (true, agent.draining)] {
                let Some(kept) = kept else { continue };
                let up = matches!(kept.lane, Lane::Up(_));
                push(kept.lane == Lane::Down, Action::Knock { agent: who, draining });
                push(left.cuts > 0 && up, Action::CutByAgent { agent: who, draining });
                push(up && world.closed_by_central(&kept), Action::NoticedByAgent { agent: who, draining });
                let expired = left.cuts > 0 && kept.begun && kept.lane == Lane::Down;
                push(expired, Action::SessionGivenUp { agent: who, draining });
                for forged in [Forged::Boot, Forged::Session, Forged::Epoch] {
                    push(left.impostors > 0 && !draining, Action::Impostor { of: who, forged });
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        world.act(action, self)?;
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_OPENS, |_, world: &World| {
                world.central.tunnels.iter().filter(|held| held.opens).count() <= 1
            }),
            Property::always(DRAIN_OPENS_NOTHING, |_, world: &World| {
                world.central.tunnels.iter().all(|held| held.place == Place::Active || !held.opens)
            }),
            Property::always(FENCE_GROWS, |_, world: &World| {
                let epoch = |fence: Option<Fence>| fence.map(|fence| fence.epoch);
                epoch(world.central.memory) >= world.seen.highest
                    && epoch(world.central.disk) >= world.seen.highest
            }),
            Property::always(NO_BYTE_BELOW, |_, world: &World| {
                let Some(fence) = world.central.disk else { return world.central.tunnels.is_empty() };
                let drains = fence.predecessor.map(|old| old.epoch);
                let exchanging = world.central.tunnels.iter().filter(|held| held.lane.is_some());
                exchanging.map(|held| (held.epoch, held.place)).all(|(epoch, place)| match place {
                    Place::Active => epoch == fence.epoch,
                    Place::Draining | Place::Forgotten => Some(epoch) == drains,
                })
            }),
            Property::always(ONE_HOLDER, |_, world: &World| {
                let holders = &world.seen.holders;
                holders.iter().map(|holder| holder.0).collect::<BTreeSet<_>>().len() == holders.len()
            }),
            Property::always(CLAIMED, |_, world: &World| !world.seen.unclaimed),
            Property::always(NEWEST_NOT_STALE, |_, world: &World| !world.seen.newest_refused),
            Property::always(ACTIVE_CLAIMED, |_, world: &World| world.actives_have_claims()),
            Property::always(COMES_BACK, |model: &Gateway, world: &World| heal::comes_up(world, model)),
            Property::sometimes("a second epoch is admitted", |_, world: &World| {
                world.seen.holders.len() > 1
            }),
        ]
    }
}

pub const ONE_OPENS: &str = "at most one admitted tunnel may open streams";
pub const DRAIN_OPENS_NOTHING: &str = "a draining tunnel opens no streams";
pub const FENCE_GROWS: &str = "the fence only grows, and is durable before an admission is answered";
pub const NO_BYTE_BELOW: &str =
    "central exchanges nothing below the fence, but with the predecessor that the fence itself names";
pub const ONE_HOLDER: &str = "an epoch has one agent, one boot, one session";
pub const CLAIMED: &str = "an admitted epoch is a committed claim of that node and boot";
pub const NEWEST_NOT_STALE: &str = "who holds the newest claim is not refused as stale";
pub const ACTIVE_CLAIMED: &str = "an active agent has a committed claim of its boot";
pub const COMES_BACK: &str = "once nothing fails any more, a tunnel is admitted again";
