//! Everything of one Environment at one moment, and what each action makes of it.

use std::collections::BTreeSet;

use agent::role::Claim;
use central::gateway::fence::AppliedClaim;
use proto::{
    AgentId, BootId, Epoch, NodeId, SessionId,
    control::GatewayReport,
    hello::{RefusalCode, Seat, TunnelHello},
};

use super::{
    Action, Bounds, Forged, Gateway,
    agent::{Agent, Control, Kept, Lane, Life, Proposal, Wish},
    central::{Answer, Central, Knock},
    heal,
};
use crate::mutant::Mutant;

/// The first claim's index. Any will do; later groups begin with a lower one, as theirs are shorter.
const FIRST_INDEX: u64 = 9;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) agents: Vec<Agent>,
    pub(super) central: Central,
    pub(super) group: Group,
    pub(super) left: Bounds,
    pub(super) seen: Seen,
}

/// What of Raft is seen here: claims in one order, and at most one leader that can commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) generation: u64,
    /// Each agent's node, as central's record has it.
    pub(super) nodes: Vec<NodeId>,
    last_node: u64,
    pub(super) leader: Option<usize>,
    pub(super) newest: Option<Claim>,
    /// Older ones: what they were matters to rules alone.
    pub(super) committed: BTreeSet<(Epoch, NodeId, BootId)>,
}

/// What nobody in the world knows, and the rules ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    /// The highest epoch whose admission was answered.
    pub(super) highest: Option<Epoch>,
    pub(super) holders: BTreeSet<(Epoch, AgentId, BootId, SessionId)>,
    pub(super) unclaimed: bool,
    pub(super) newest_refused: bool,
}

impl World {
    /// The first agent is active and its tunnel is up; everybody knows.
    pub(super) fn with_first_active(model: &Gateway) -> Self {
        let nodes: Vec<NodeId> = (0..model.candidates).map(|n| NodeId(n as u64 + 2)).collect();
        let seat = |who: usize| Seat { group: 1, node: nodes[who] };
        let agents = (0..model.candidates).map(|who| Agent::booted(who, 1, seat(who))).collect();
        let mut world = Self {
            agents,
            central: Central::started(None, None, 0, nodes[0]),
            group: Group {
                generation: 1,
                last_node: nodes.len() as u64 + 1,
                nodes,
                leader: Some(0),
                newest: None,
                committed: BTreeSet::new(),
            },
            left: Bounds { claims: 1, ..Bounds::default() },
            seen: Seen::default(),
        };
        let sound = Gateway { mutant: None, ..*model };
        heal::settle(&mut world, &sound);
        world.left = Bounds { claims: model.bounds.claims - 1, ..model.bounds };
        world
    }

    /// `None` when the action changes nothing here.
    pub(super) fn act(&mut self, action: Action, model: &Gateway) -> Option<()> {
        match action {
            Action::Elect(who) => {
                self.left.elections = self.left.elections.saturating_sub(1);
                self.lead(who);
            }
            Action::Learn(who) => {
                let leadership = self.leadership(who);
                let wishes = self.agents[who].learned(leadership);
                self.fulfil(who, &wishes);
            }
            Action::Propose(who) => self.propose(who)?,
            Action::GiveUpProposal(who) => {
                self.agents[who].proposal = Proposal::Lingering;
                let wishes = self.agents[who].claim_failed();
                self.fulfil(who, &wishes);
            }
            Action::Apply(who) => {
                let newest = self.group.newest?;
                let wishes = self.agents[who].applied(newest);
                self.fulfil(who, &wishes);
            }
            Action::WitnessApplies => {
                let newest = self.group.newest?;
                self.central.claim = Some(applied(newest));
                self.central.processor.handle_claim(newest.node);
                self.settle();
            }
            Action::Question(who) => self.question(who)?,
            Action::Report(who) => {
                let report = self.agents[who].reports.pop_front()?;
                let wishes = self.agents[who].reported(report);
                self.fulfil(who, &wishes);
            }
            Action::Timeout(who) => {
                self.left.timeouts = self.left.timeouts.saturating_sub(1);
                let wishes = self.agents[who].timed_out()?;
                self.fulfil(who, &wishes);
            }
            Action::CentralTimeout => {
                self.left.timeouts = self.left.timeouts.saturating_sub(1);
                self.central.timed_out()?;
                self.settle();
            }
            Action::Connect(who) => {
                let wishes = self.agents[who].welcomed();
                let report = self.central.report(None);
                self.agents[who].reports = [report].into();
                self.fulfil(who, &wishes);
                self.settle();
            }
            Action::LoseControl(who) => {
                let wishes = self.agents[who].lost_control();
                self.fulfil(who, &wishes);
            }
            Action::TakeSeat(who) => {
                let seat = self.seat(who);
                let wishes = self.agents[who].took_seat(seat);
                self.fulfil(who, &wishes);
            }
            Action::Knock { agent, draining } => self.knock(agent, draining)?,
            Action::Judge(agent) => {
                let read = (self.central.memory, self.central.claim);
                let knock = self.central.knocks.iter_mut().find(|knock| knock.agent == agent)?;
                knock.judged = Some(read);
            }
            Action::Admit(agent) => self.admit(agent, model.mutant)?,
            Action::Flush => self.central.disk = self.central.memory,
            Action::CutByAgent { agent, draining } => {
                self.left.cuts -= 1;
                self.agent_loses_lane(agent, draining)?;
            }
            Action::CutByCentral(held) => {
                self.left.cuts -= 1;
                self.central_loses_lane(held);
            }
            Action::NoticedByCentral(held) => self.central_loses_lane(held),
            Action::NoticedByAgent { agent, draining } => self.agent_loses_lane(agent, draining)?,
            Action::Drained(who) => {
                let wishes = self.agents[who].drained()?;
                self.fulfil(who, &wishes);
            }
            Action::DrainEnds => {
                self.central.end_drain();
                self.settle();
            }
            Action::ResumeWindowEnds => {
                self.central.tunnels.retain(|held| held.lane.is_some() || held.place != super::Place::Active);
            }
            Action::SessionGivenUp { agent, draining } => {
                self.left.cuts -= 1;
                self.kept(agent, draining)?.begun = false;
            }
            Action::Switch(who) => {
                self.left.switches -= 1;
                self.central.switch(self.group.nodes[who]);
                self.settle();
            }
            Action::Die(who) => {
                self.left.deaths -= 1;
                self.agents[who].life = Life::Dead;
                self.forget(who);
            }
            Action::Restart(who) => {
                self.agents[who] = self.agents[who].restarted();
                self.group.leader.take_if(|leader| *leader == who);
            }
            Action::Pause(who) => {
                self.left.pauses = self.left.pauses.saturating_sub(1);
                self.agents[who].life = Life::Paused;
            }
            Action::Wake(who) => self.agents[who].life = Life::Running,
            Action::RestartCentral => self.restart_central(model.mutant),
            Action::FoundAnew(who) => self.found_anew(who),
            Action::Impostor { of, forged } => self.impostor(of, forged, model.mutant)?,
        }
        Some(())
    }

    fn lead(&mut self, who: usize) {
        self.group.leader = Some(who);
        let leadership = self.leadership(who);
        let wishes = self.agents[who].learned(leadership);
        self.fulfil(who, &wishes);
    }

    /// What a role machine asked for beyond its own agent.
    fn fulfil(&mut self, who: usize, wishes: &[Wish]) {
        for wish in wishes {
            // Whoever asked another may only believe that it leads; so may whoever asks to lead.
            let asked = match wish {
                Wish::AskForLead { leader } => self.group.nodes.iter().position(|n| n == leader),
                Wish::Transfer(_) | Wish::GiveWay => Some(who),
            };
            let Some(leads) = asked.filter(|asked| self.group.leader == Some(*asked)) else { continue };
            let to = match wish {
                // A leader that hears central has its orders from there.
                Wish::AskForLead { .. } => (!self.agents[leads].hears_central()).then_some(who),
                Wish::Transfer(node) => self.group.nodes.iter().position(|n| n == node),
                Wish::GiveWay => (0..self.agents.len())
                    .find(|other| *other != who && self.agents[*other].control == Control::Up),
            };
            if let Some(to) =
                to.filter(|to| self.agents[*to].runs() && self.agents[*to].seat == self.seat(*to))
            {
                self.lead(to);
            }
        }
    }

    /// The proposal reaches the log, or is thrown away.
    fn propose(&mut self, who: usize) -> Option<()> {
        let agent = &mut self.agents[who];
        let lingering = agent.proposal == Proposal::Lingering;
        agent.proposal = Proposal::None;
        if self.group.leader != Some(who) {
            if !lingering {
                let wishes = agent.claim_failed();
                self.fulfil(who, &wishes);
            }
            return Some(());
        }
        self.left.claims -= 1;
        let index = match self.group.newest {
            Some(newest) => newest.epoch.claim + 1,
            None => FIRST_INDEX / self.group.generation,
        };
        let epoch = Epoch { group: self.group.generation, claim: index };
        let claim = Claim { epoch, node: agent.seat.node, boot: agent.boot() };
        self.group.committed.insert((epoch, claim.node, claim.boot));
        self.group.newest = Some(claim);
        Some(())
    }

    /// "Does a tunnel live?": central pings it, and a ping unanswered counts as its loss.
    fn question(&mut self, who: usize) -> Option<()> {
        let id = self.agents[who].questions.pop_front()?;
        if self.central.active().is_some_and(|held| held.lane.is_some())
            && !self.is_up()
            && let Some(session) = self.central.active().map(|held| held.session)
        {
            self.central.lane_lost(session);
        }
        let answer = self.central.report(Some(id));
        self.tell(who, answer);
        self.settle();
        Some(())
    }

    fn knock(&mut self, agent: usize, draining: bool) -> Option<()> {
        let kept = self.kept(agent, draining)?;
        kept.lane = Lane::Asking;
        let session = kept.session;
        self.central.knocks.push(Knock { agent, session, judged: None });
        Some(())
    }

    fn admit(&mut self, agent: usize, mutant: Option<Mutant>) -> Option<()> {
        let place = self.central.knocks.iter().position(|knock| knock.agent == agent)?;
        let knock = self.central.knocks[place].clone();
        let claim = self.central.claim;
        if let Some((seen, by)) = knock.judged
            && seen != self.central.memory
        {
            if mutant != Some(Mutant::NoCompareAndSet) {
                // The write is refused: look again.
                self.central.knocks[place].judged = None;
                return Some(());
            }
            (self.central.memory, self.central.claim) = (seen, by);
        }
        self.central.knocks.remove(place);
        let asking = &mut self.agents[agent];
        let Some(kept) = asking.kept_by(knock.session).copied() else {
            self.central.claim = claim;
            return Some(());
        };
        let (hello, id) = (asking.hello(&kept), asking.id());
        let answer = self.central.admit(id, self.seat(agent), &hello, mutant);
        self.central.claim = claim;
        self.remember(id, &hello, &answer);
        let wishes = match &answer {
            Answer::Admitted { lane } => self.agents[agent].admitted(knock.session, *lane),
            Answer::Refused(refusal) => self.agents[agent].refused(&hello, refusal),
        };
        self.fulfil(agent, &wishes);
        self.settle();
        Some(())
    }

    /// For the rules.
    fn remember(&mut self, agent: AgentId, hello: &TunnelHello, answer: &Answer) {
        let newest = self.group.newest.is_some_and(|newest| {
            (newest.epoch, newest.node, newest.boot) == (hello.epoch, hello.node, hello.boot)
        });
        match answer {
            Answer::Admitted { .. } => {
                self.seen.highest = self.seen.highest.max(Some(hello.epoch));
                self.seen.holders.insert((hello.epoch, agent, hello.boot, hello.session));
                self.seen.unclaimed |= !self.group.committed.contains(&(hello.epoch, hello.node, hello.boot));
            }
            Answer::Refused(refusal) => {
                self.seen.newest_refused |= newest && refusal.code == RefusalCode::StaleEpoch;
            }
        }
    }

    fn impostor(&mut self, of: usize, forged: Forged, mutant: Option<Mutant>) -> Option<()> {
        let agent = &self.agents[of];
        let mut hello = agent.hello(&agent.kept?);
        match forged {
            Forged::Boot => hello.boot = BootId::from_bytes([99; 16]),
            Forged::Session => hello.session = SessionId::from_bytes([99; 16]),
            Forged::Epoch => hello.epoch.claim += 1,
        }
        hello.resume = None;
        let (id, seat) = (agent.id(), self.seat(of));
        let answer = self.central.admit(id, seat, &hello, mutant);
        let Answer::Admitted { .. } = answer else { return None };
        self.left.impostors -= 1;
        self.remember(id, &hello, &answer);
        Some(())
    }

    fn agent_loses_lane(&mut self, agent: usize, draining: bool) -> Option<()> {
        let session = self.kept(agent, draining)?.session;
        let wishes = self.agents[agent].lost_lane(session);
        self.fulfil(agent, &wishes);
        Some(())
    }

    fn central_loses_lane(&mut self, held: usize) {
        let session = self.central.tunnels[held].session;
        self.central.lane_lost(session);
        self.settle();
    }

    /// Its sockets are closed; central notices at once that it is no longer connected.
    fn forget(&mut self, who: usize) {
        let agent = &mut self.agents[who];
        (agent.kept, agent.draining, agent.proposal) = (None, None, Proposal::None);
        agent.control = Control::Down;
        agent.questions.clear();
        agent.reports.clear();
        self.central.knocks.retain(|knock| knock.agent != who);
        self.settle();
    }

    fn restart_central(&mut self, mutant: Option<Mutant>) {
        self.left.restarts -= 1;
        let disk = self.central.disk.filter(|_| mutant != Some(Mutant::FenceForgottenAtRestart));
        let (claim, lanes) = (self.central.claim, self.central.lanes());
        self.central = Central::started(disk, claim, lanes, self.group.nodes[0]);
        for agent in &mut self.agents {
            if agent.control == Control::Up {
                agent.control = Control::Ending;
            }
            agent.questions.clear();
            for kept in agent.kept.iter_mut().chain(&mut agent.draining) {
                if kept.lane == Lane::Asking {
                    kept.lane = Lane::Down;
                }
            }
        }
        self.settle();
    }

    /// Only right when the group's state is lost; everybody sits anew, under other nodes.
    fn found_anew(&mut self, founder: usize) {
        self.left.foundings -= 1;
        self.group.generation += 1;
        self.group.last_node += 1; // the witness'
        for node in &mut self.group.nodes {
            self.group.last_node += 1;
            *node = NodeId(self.group.last_node);
        }
        (self.group.leader, self.group.newest) = (None, None);
        for agent in &mut self.agents {
            for kept in agent.kept.iter_mut().chain(&mut agent.draining) {
                if kept.lane == Lane::Asking {
                    kept.lane = Lane::Down;
                }
            }
        }
        self.central.founded(self.group.nodes[founder]);
        self.settle();
    }

    /// Brings to the agents what central decided.
    fn settle(&mut self) {
        let (report, nudged) = self.central.settle(self.configured());
        if let Some(report) = report {
            for who in 0..self.agents.len() {
                self.tell(who, report.clone());
            }
        }
        let nudged = nudged.and_then(|node| self.group.nodes.iter().position(|n| *n == node));
        if let Some(who) = nudged.filter(|who| self.electable(*who)) {
            self.lead(who); // the witness elected itself, and handed over
        }
    }

    /// Queues a report. A newer one takes the place of one that nobody waits for.
    fn tell(&mut self, who: usize, report: GatewayReport) {
        let agent = &mut self.agents[who];
        if agent.control != Control::Up {
            return;
        }
        if agent.reports.back().is_some_and(|waiting| waiting.answers.is_none()) {
            agent.reports.pop_back();
        }
        agent.reports.push_back(report);
    }

    fn kept(&mut self, agent: usize, draining: bool) -> Option<&mut Kept> {
        let agent = &mut self.agents[agent];
        if draining { agent.draining.as_mut() } else { agent.kept.as_mut() }
    }
}

pub(super) fn applied(claim: Claim) -> AppliedClaim {
    AppliedClaim { epoch: claim.epoch, node: claim.node, boot: claim.boot }
}
