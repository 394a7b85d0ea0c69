//! Central: its real fence and proxy-processor, and what the keeper does around them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use central::gateway::{
    fence::{Admission, AppliedClaim, Circumstances, Fence},
    proxy_processor::{ProxyProcessor, Verdict},
};
use proto::{
    AgentId, BootId, Epoch, NodeId, SessionId,
    control::{GatewayReport, LiveTunnel},
    hello::{Refusal, RefusalCode, Seat, TunnelHello},
};
use time::OffsetDateTime;

use super::agent::BEGIN;
use crate::mutant::Mutant;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(240);
const DEAD_AFTER: Duration = Duration::from_secs(15);
const TODAY: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const DRAIN_TIMEOUT: time::Duration = time::Duration::minutes(5);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Central {
    /// The fence on disk, and as central reads it.
    pub(super) disk: Option<Fence>,
    pub(super) memory: Option<Fence>,
    /// Hellos that wait for their judgement, or for its writing.
    pub(super) knocks: Vec<Knock>,
    pub(super) processor: ProxyProcessor,
    clock: Duration,
    pub(super) tunnels: Vec<Held>,
    /// What the witness has applied.
    pub(super) claim: Option<AppliedClaim>,
    told: Option<GatewayReport>,
    lanes: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Knock {
    pub(super) agent: usize,
    pub(super) session: SessionId,
    /// The fence and the claim by which it was judged; the write is made only if that fence still stands.
    pub(super) judged: Option<(Option<Fence>, Option<AppliedClaim>)>,
}

/// A session central holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) agent: AgentId,
    pub(super) node: NodeId,
    pub(super) epoch: Epoch,
    pub(super) boot: BootId,
    pub(super) session: SessionId,
    /// Its websocket, unless that was lost.
    pub(super) lane: Option<u8>,
    pub(super) place: Place,
    /// Listeners open streams in it.
    pub(super) opens: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Active,
    Draining,
    /// Nobody's any more: only a bug leaves a tunnel here.
    Forgotten,
}

/// How a knock was answered.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Admitted { lane: u8 },
    Refused(Refusal),
}

impl Central {
    /// Has just started, and finds `disk`. Waits for whoever was active, else for `first`.
    pub(super) fn started(
        disk: Option<Fence>,
        claim: Option<AppliedClaim>,
        lanes: u8,
        first: NodeId,
    ) -> Self {
        let mut processor = ProxyProcessor::new(CONNECT_TIMEOUT);
        let last = disk.map_or(first, |fence| fence.node);
        processor.handle_restored(last, DEAD_AFTER, *BEGIN);
        Self {
            disk,
            memory: disk,
            knocks: Vec::new(),
            processor,
            clock: Duration::ZERO,
            tunnels: Vec::new(),
            claim,
            told: None,
            lanes,
        }
    }

    fn now(&self) -> Instant {
        *BEGIN + self.clock
    }

    /// For histories, in which all clocks are one.
    pub(super) fn set_clock(&mut self, now: Duration) {
        self.clock = now;
    }

    pub(super) fn active(&self) -> Option<&Held> {
        self.tunnels.iter().find(|held| held.place == Place::Active)
    }

    pub(super) fn draining(&self) -> Option<&Held> {
        self.tunnels.iter().find(|held| held.place == Place::Draining)
    }

    fn active_mut(&mut self) -> Option<&mut Held> {
        self.tunnels.iter_mut().find(|held| held.place == Place::Active)
    }

    pub(super) fn report(&self, answers: Option<u64>) -> GatewayReport {
        let live = self.active().filter(|held| held.lane.is_some());
        GatewayReport {
            answers,
            tunnel: live.map(|held| LiveTunnel { node: held.node, epoch: held.epoch, boot: held.boot }),
            order: self.processor.order(),
            fence: self.memory.map(|fence| fence.epoch),
        }
    }

    /// What every agent is to be told, if it is news; and whom the witness is to hand the lead to.
    pub(super) fn settle(&mut self, configured: BTreeSet<NodeId>) -> (Option<GatewayReport>, Option<NodeId>) {
        self.processor.handle_configured(configured, self.now());
        let mut nudged = None;
        while let Some(verdict) = self.processor.poll_verdict() {
            if let Verdict::Nudge { node } = verdict {
                nudged = Some(node);
            }
        }
        let report = self.report(None);
        let news = self.told.as_ref() != Some(&report);
        self.told = Some(report.clone());
        (news.then_some(report), nudged)
    }

    pub(super) fn timed_out(&mut self) -> Option<()> {
        let due = self.processor.poll_timeout()?.saturating_duration_since(*BEGIN);
        self.clock = self.clock.max(due);
        self.processor.handle_timeout(self.now());
        Some(())
    }

    pub(super) fn switch(&mut self, to: NodeId) {
        self.processor.handle_switch(to, self.now());
    }

    pub(super) fn founded(&mut self, by: NodeId) {
        self.tunnels.clear();
        self.knocks.clear();
        self.claim = None;
        self.end_drain();
        self.processor.handle_founded(by, self.now());
    }

    /// Judges a hello and answers it, in one go but for the disk: as `Fences::admit` and `Keeper::admit` do.
    pub(super) fn admit(
        &mut self,
        agent: AgentId,
        seat: Seat,
        hello: &TunnelHello,
        mutant: Option<Mutant>,
    ) -> Answer {
        let at = self.circumstances(agent, seat, hello);
        let planned = at.drain_until.is_some();
        match judge(self.memory.as_ref(), hello, &at, mutant) {
            Admission::New { mut fence, .. } => {
                let drains = planned || mutant == Some(Mutant::DrainNotRecorded);
                if mutant == Some(Mutant::DrainNotRecorded) {
                    fence.predecessor = None;
                }
                self.write(fence, mutant);
                self.supersede(drains, mutant);
                Answer::Admitted { lane: self.begin(agent, hello) }
            }
            Admission::Same => Answer::Admitted { lane: self.go_on(agent, hello) },
            Admission::Predecessor { .. } => self.go_on_draining(hello, mutant),
            Admission::Refused(refusal) => Answer::Refused(refusal),
        }
    }

    /// What central knows beside the fence and the hello.
    pub(super) fn circumstances(&self, agent: AgentId, seat: Seat, hello: &TunnelHello) -> Circumstances {
        let order = self.processor.order();
        let planned = self.active().is_some_and(|held| held.lane.is_some())
            && order.is_some_and(|order| order.planned && order.node == hello.node);
        let wall = TODAY + self.clock;
        Circumstances {
            agent,
            seat: Some(seat),
            claim: self.claim,
            drain_until: planned.then_some(wall + DRAIN_TIMEOUT),
            now: wall,
        }
    }

    pub(super) fn write(&mut self, fence: Fence, mutant: Option<Mutant>) {
        self.memory = Some(fence);
        if mutant != Some(Mutant::AdmittedBeforeDurable) {
            self.disk = self.memory;
        }
    }

    fn supersede(&mut self, drains: bool, mutant: Option<Mutant>) {
        let left = mutant == Some(Mutant::OldTunnelLeftOpen);
        let Some(mut old) = self.active().copied() else { return };
        self.tunnels.retain(|held| held.place != Place::Active);
        if left {
            old.place = Place::Forgotten;
            self.tunnels.push(old);
        } else if drains && old.lane.is_some() {
            self.tunnels.retain(|held| held.place != Place::Draining);
            (old.place, old.opens) = (Place::Draining, false);
            self.tunnels.push(old);
        }
    }

    fn begin(&mut self, agent: AgentId, hello: &TunnelHello) -> u8 {
        self.tunnels.retain(|held| held.place != Place::Active);
        let lane = self.new_lane();
        let (node, epoch, boot, session) = (hello.node, hello.epoch, hello.boot, hello.session);
        let held =
            Held { agent, node, epoch, boot, session, lane: Some(lane), place: Place::Active, opens: true };
        self.tunnels.push(held);
        self.processor.handle_tunnel_up(node);
        lane
    }

    fn go_on(&mut self, agent: AgentId, hello: &TunnelHello) -> u8 {
        let lane = self.new_lane();
        let goes_on = |held: &&mut Held| held.session == hello.session && hello.resume.is_some();
        let Some(held) = self.active_mut().filter(goes_on) else { return self.begin(agent, hello) };
        (held.lane, held.opens) = (Some(lane), true);
        self.processor.handle_tunnel_up(hello.node);
        lane
    }

    fn go_on_draining(&mut self, hello: &TunnelHello, mutant: Option<Mutant>) -> Answer {
        let goes_on = |held: &Held| held.session == hello.session && hello.resume.is_some();
        if !self.draining().is_some_and(goes_on) {
            return Answer::Refused(Refusal { code: RefusalCode::StaleEpoch, message: String::new() });
        }
        let lane = self.new_lane();
        for held in self.tunnels.iter_mut().filter(|held| held.place == Place::Draining) {
            (held.lane, held.opens) = (Some(lane), mutant == Some(Mutant::DrainTakesStreams));
        }
        Answer::Admitted { lane }
    }

    /// A websocket of this session is gone, or counts as lost.
    pub(super) fn lane_lost(&mut self, session: SessionId) {
        let now = self.now();
        let Some(held) = self.tunnels.iter_mut().find(|held| held.session == session) else { return };
        (held.lane, held.opens) = (None, false);
        if held.place == Place::Active {
            self.processor.handle_tunnel_lost(now);
        }
    }

    /// The predecessor is done, or its time is.
    pub(super) fn end_drain(&mut self) {
        self.tunnels.retain(|held| held.place != Place::Draining);
        for fence in self.memory.iter_mut().chain(&mut self.disk) {
            fence.predecessor = None;
        }
    }

    fn new_lane(&mut self) -> u8 {
        self.lanes += 1;
        self.lanes
    }

    pub(super) fn lanes(&self) -> u8 {
        self.lanes
    }
}

/// [`Fence::admit`], or what a bug would make of it: the same function, told less than the truth.
pub(super) fn judge(
    current: Option<&Fence>,
    hello: &TunnelHello,
    at: &Circumstances,
    mutant: Option<Mutant>,
) -> Admission {
    let (mut hello, mut at, mut current) = (hello.clone(), *at, current.copied());
    let truth = (hello.epoch, current);
    match (mutant, &mut current) {
        (Some(Mutant::GenerationIgnored), current) => {
            hello.epoch.group = 0;
            at.seat = at.seat.map(|seat| Seat { group: 0, ..seat });
            if let Some(fence) = current {
                fence.epoch.group = 0;
            }
            if let Some(claim) = &mut at.claim {
                claim.epoch.group = 0;
            }
        }
        (Some(Mutant::StaleEpochAdmitted), Some(fence)) if hello.epoch < fence.epoch => {
            return Admission::Same;
        }
        (Some(Mutant::OtherBootAdmitted), Some(fence)) if hello.epoch == fence.epoch => {
            hello.boot = fence.boot;
        }
        (Some(Mutant::OtherSessionAdmitted), Some(fence)) if hello.epoch == fence.epoch => {
            hello.session = fence.session;
        }
        (Some(Mutant::InventedClaimAdmitted), _) => {
            at.claim = Some(AppliedClaim { epoch: hello.epoch, node: hello.node, boot: hello.boot });
        }
        _ => {}
    }
    let mut admission = Fence::admit(current.as_ref(), &hello, &at);
    if let Admission::New { fence, .. } = &mut admission {
        fence.epoch = truth.0;
        if let (Some(old), Some(before)) = (&mut fence.predecessor, truth.1)
            && old.epoch.claim == before.epoch.claim
        {
            old.epoch = before.epoch;
        }
    }
    admission
}
