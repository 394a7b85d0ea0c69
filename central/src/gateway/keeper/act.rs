//! Carrying out: seats, rosters, orders, reports. Each idempotent; the keeper asks again.

use std::time::Instant;

use proto::{
    AgentId, NodeId,
    control::{CentralMessage, Roster, RosterEntry, SeatGrant},
    hello::Seat,
};

use super::{Keeper, Leaving};
use crate::{
    gateway::{
        proxy_processor::{GaveUp, Verdict},
        registry::AgentLink,
        seating::{Carrying, Facts, Step, next_step},
        witness::Witness,
    },
    process_server::group::Founding,
};

/// More steps than this at one event means two rules disagree; the next event tries again.
const STEPS_MAX: usize = 64;

impl Keeper {
    /// Brings everything outside to what was decided. Called after every event.
    pub(super) async fn settle(&mut self, now: Instant) {
        for _ in 0..STEPS_MAX {
            let step = self.next_step();
            if step != Some(Step::Dissolve) && self.dissolve_at.take().is_some() {
                // Marked again before the end: the tunnel that was to drain takes streams once more.
                self.announce();
            }
            let Some(step) = step else { break };
            match self.take(step, now).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(environment = %self.environment.name, %error, ?step, "A seat could not be changed");
                    break;
                }
            }
        }
        self.processor.handle_configured(self.configured(), now);
        while let Some(verdict) = self.processor.poll_verdict() {
            self.carry_out(verdict, now);
        }
        self.watch_leadership(now);
        self.chronicle_waits();
        self.watch_tolerance();
        self.watch_silence(now);
        self.watch_certificates(time::OffsetDateTime::now_utc());
        self.tell_report();
        self.show();
        self.write_down(now).await;
        self.write_chronicle().await;
    }

    fn next_step(&self) -> Option<Step> {
        let servers: Vec<Facts> = self
            .servers
            .values()
            .map(|server| {
                let link = self.environment.registry.link(server.agent);
                Facts {
                    agent: server.agent,
                    candidate: server.candidate,
                    // One that is leaving first leaves the membership; then it may sit again.
                    connected: link.is_some() && !self.leaving.iter().any(|l| l.agent == server.agent),
                    restarted: self.restarted(server, link.map(|link| link.boot)),
                    holds: self.holds.get(&server.agent).copied().flatten(),
                }
            })
            .collect();
        let carrying = Carrying {
            active: self.session.as_ref().filter(|s| s.live().is_some()).map(|s| s.agent),
            draining: self.draining.as_ref().map(|(session, _)| session.agent),
        };
        next_step(&self.record, &servers, carrying, self.voters().as_ref())
    }

    /// `true` when the next step may follow at once.
    pub(super) async fn take(
        &mut self,
        step: Step,
        now: Instant,
    ) -> Result<bool, crate::process_server::group::GroupError> {
        match step {
            Step::Found { agent } => {
                let founding = self.rooms.groups.found(agent, self.record.generation).await?;
                let (won, record) = match founding {
                    Founding::Won(record) => (true, record),
                    Founding::Lost(record) => (false, record),
                };
                self.end_session("its group was founded anew");
                self.end_drain(super::drain::DrainEnd::Gone).await;
                self.leaving.clear();
                self.environment.tunnel.send_replace(None);
                self.record = record;
                self.holds.clear();
                self.start_witness().await;
                if won && let Some(seat) = self.record.seat_of(agent) {
                    self.holds.insert(agent, Some(seat));
                    let name = self.servers.get(&agent).map(|s| s.name.to_string()).unwrap_or_default();
                    self.note("group_founded", format!("{name} founded gateway group {}", seat.group));
                    self.lost_at = Some(now);
                    self.lost_why = Some("the gateway group was founded".into());
                    self.chronicle_begins("the gateway group was founded", false);
                    self.processor.handle_founded(seat.node, now);
                }
                self.seats_changed();
                Ok(true)
            }
            Step::Seat { agent } => {
                let (seat, record) = self.rooms.groups.seat(agent).await?;
                self.record = record;
                self.joined(agent, seat);
                Ok(true)
            }
            Step::Reseat { agent, lost } => {
                let (seat, record) = self.rooms.groups.reseat(agent, lost).await?;
                self.record = record;
                self.joined(agent, seat);
                Ok(true)
            }
            Step::Unseat { agent } => {
                let seat = self.record.seat_of(agent);
                self.record = self.rooms.groups.unseat(agent).await?;
                self.holds.insert(agent, None);
                if let Some(seat) = seat {
                    self.leaving.push(Leaving { agent, seat });
                    self.note("seat_left", format!("Node {} leaves the gateway group", seat.node));
                }
                self.seats_changed();
                Ok(true)
            }
            Step::HandOver { agent } => {
                let from = self.record.seat_of(agent).map(|seat| seat.node);
                if self.processor.order().is_none()
                    && self.draining.is_none()
                    && let Some(to) = self.another_than(from, &self.configured())
                {
                    self.processor.handle_switch(to, now);
                }
                Ok(false)
            }
            Step::Dissolve => {
                let deadline = *self.dissolve_at.get_or_insert_with(|| {
                    // New connections park; what flows may finish.
                    self.environment.tunnel.send_replace(None);
                    now + self.settings.drain_timeout
                });
                // Also those that the active before it still holds: nothing in flight is lost.
                let held = self.session.iter().chain(self.draining.iter().map(|(session, _)| session));
                let streams: usize = held.map(|session| session.tunnel.stats().streams).sum();
                if streams > 0 && now < deadline {
                    return Ok(false);
                }
                self.dissolve().await?;
                Ok(true)
            }
        }
    }

    async fn dissolve(&mut self) -> Result<(), crate::process_server::group::GroupError> {
        self.dissolve_at = None;
        self.leaving.clear();
        let seats: Vec<_> = self.record.group.iter().flat_map(|group| group.seats.clone()).collect();
        let generation = self.record.generation;
        self.record = self.rooms.groups.dissolve(generation).await?;
        self.end_session("the last candidate was unmarked");
        if let Some(witness) = self.environment.set_witness(None) {
            witness.group.clone().shutdown().await;
        }
        self.processor.handle_dissolved();
        self.chronicle.given_up(time::OffsetDateTime::now_utc());
        self.outage_over(Instant::now());
        (self.lost_at, self.last_active) = (None, None);
        self.seats_changed();
        for seated in seats {
            self.holds.insert(seated.agent, None);
            if let Some(link) = self.environment.registry.link(seated.agent) {
                let seat = Seat { group: generation, node: seated.node };
                link.tell(CentralMessage::Seat(SeatGrant::Leave { seat }));
            }
        }
        self.note("group_dissolved", format!("Gateway group {generation} was dissolved"));
        Ok(())
    }

    fn joined(&mut self, agent: AgentId, seat: Seat) {
        let name = self.servers.get(&agent).map(|s| s.name.to_string()).unwrap_or_default();
        self.note("seat_granted", format!("{name} joins gateway group {} as node {}", seat.group, seat.node));
        self.holds.insert(agent, Some(seat));
        self.seats_changed();
    }

    /// The seats in the record are others now: everybody goes by them from here on.
    pub(super) fn seats_changed(&mut self) {
        let group = self.record.generation;
        let seats = self.record.group.iter().flat_map(|group| &group.seats).map(|s| (s.node, s.agent));
        // Who is leaving is still a member and must be heard until the membership has followed.
        let leaving = self.leaving.iter().filter(|l| l.seat.group == group).map(|l| (l.seat.node, l.agent));
        self.environment.registry.set_seats(group, seats.chain(leaving));
        for link in self.environment.registry.links() {
            self.grant(&link);
        }
        self.tell_roster();
    }

    /// Tells an agent its seat. The founder is told to found until the witness has heard of it.
    pub(super) fn grant(&self, link: &AgentLink) {
        let Some(seat) = self.record.seat_of(link.agent) else {
            let restart_required = self
                .servers
                .get(&link.agent)
                .is_some_and(|server| server.restart_required(self.record.group.is_some()));
            return link.tell(CentralMessage::Seat(SeatGrant::None { restart_required }));
        };
        let founder = self.record.group.as_ref().is_some_and(|group| group.founder == link.agent);
        let unheard = self.voters().is_none_or(|voters| voters.agents.is_empty());
        let first =
            self.record.group.as_ref().and_then(|g| g.seats.first()).map(|s| s.node) == Some(seat.node);
        let grant = match founder && unheard && first {
            true => SeatGrant::Found { seat },
            false => SeatGrant::Join { seat },
        };
        // An agent that no longer holds its seat's state gets another seat first: node ids are never
        // used twice.
        if self.holds.get(&link.agent).copied().flatten() == Some(seat) {
            link.tell(CentralMessage::Seat(grant));
        }
    }

    pub(super) fn tell_roster(&self) {
        let Some(group) = &self.record.group else { return };
        let candidates: Vec<RosterEntry> = group
            .seats
            .iter()
            .filter_map(|seated| {
                let server = self.servers.get(&seated.agent)?;
                let link = self.environment.registry.link(seated.agent);
                Some(RosterEntry {
                    node: seated.node,
                    agent: seated.agent,
                    name: server.name.clone(),
                    fingerprint: link.as_ref().map_or(server.fingerprint, |link| link.fingerprint),
                    peer_addrs: self.addrs.get(&seated.agent).cloned().unwrap_or_default(),
                })
            })
            .collect();
        let roster = Roster {
            group: self.record.generation,
            revision: self.record.roster_revision,
            witness: group.witness,
            candidates,
        };
        let leaving = self.leaving.iter().map(|leaving| leaving.agent);
        for agent in group.seats.iter().map(|seated| seated.agent).chain(leaving) {
            if let Some(link) = self.environment.registry.link(agent) {
                link.tell(CentralMessage::Roster(roster.clone()));
            }
        }
    }

    fn carry_out(&mut self, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Order(order) => {
                let name = self.name_of(order.node).map(|name| name.to_string()).unwrap_or_default();
                if order.planned {
                    self.chronicle_begins(&format!("a planned switch to {name} was ordered"), true);
                }
                if let Some(witness) = self.environment.witness() {
                    witness.group.prefer(Some(order.node));
                }
                self.note("takeover_ordered", format!("{name} was ordered to take over"));
            }
            Verdict::OrderDone => {
                if let Some(witness) = self.environment.witness() {
                    witness.group.prefer(None);
                }
            }
            Verdict::Nudge { node } => self.nudge(node),
            Verdict::GaveUp { node, after, reason } => {
                self.chronicle_gave_up(node, reason);
                let name = self.name_of(node).map(|name| name.to_string()).unwrap_or_default();
                let why = match reason {
                    GaveUp::TimeIsUp => "its time is up",
                    GaveUp::NotConfigured => "it is no longer connected",
                };
                let how = format!("given up after {} s: {why}", after.as_secs());
                self.note("candidate_given_up", format!("{name} was {how}"));
                self.tried(name, how);
            }
            Verdict::Down => {
                self.note("gateway_down", "No configured candidate is left to try".into());
                self.outage(now);
            }
            Verdict::Up { .. } => {}
            Verdict::SwitchFailed { node } => {
                let name = self.name_of(node).map(|name| name.to_string()).unwrap_or_default();
                self.chronicle.given_up(time::OffsetDateTime::now_utc());
                self.note("switch_failed", format!("The planned switch to {name} did not come about"));
                self.relieve_departing(now);
            }
        }
    }

    /// No claim followed the order, whoever leads. Where the witness votes it takes the lead and hands
    /// it on, bringing the ordered candidate up to date on the way; where it only learns, the
    /// candidate takes the lead itself.
    fn nudge(&self, node: NodeId) {
        let seat = Seat { group: self.record.generation, node };
        let witness = self.environment.witness();
        let votes = |witness: &Witness| witness.group.members().borrow().voters.contains(&witness.seat.node);
        if let Some(witness) = witness.filter(|witness| votes(witness)) {
            tracing::warn!(environment = %self.environment.name, %node, "Nobody followed the order: the witness takes the lead");
            witness.group.prefer(Some(node));
            witness.group.take_lead();
        } else if let Some(link) = self.environment.registry.route(seat) {
            tracing::warn!(environment = %self.environment.name, %node, "Nobody followed the order: its candidate is to take the lead");
            link.tell(CentralMessage::TakeLead { seat });
        }
    }

    /// Agents whose seats were taken go once the membership has followed. Not before: one that forgot
    /// its records while it still counts as a voter could cost the others their quorum.
    pub(super) fn finish_leaving(&mut self) {
        let (gone, staying): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leaving).into_iter().partition(|leaving| !self.is_member(leaving.seat));
        self.leaving = staying;
        if gone.is_empty() {
            return;
        }
        for leaving in gone {
            if let Some(link) = self.environment.registry.link(leaving.agent) {
                link.tell(CentralMessage::Seat(SeatGrant::Leave { seat: leaving.seat }));
            }
        }
        self.seats_changed();
    }
}
