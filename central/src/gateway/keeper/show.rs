//! Showing: the report to agents, the view for people, the events for later.

use std::{sync::Arc, time::Instant};

use proto::{
    Name,
    control::{CentralMessage, GatewayReport},
};
use time::OffsetDateTime;

use super::{Keeper, Session};
use crate::events::{NewEvent, Severity};
use crate::gateway::view::{
    AttemptView, CandidateView, ClaimView, ConnectedView, DrainingView, GatewayState, GatewayView,
    OpenStreams, RaftView, SeatView,
};

/// Who speaks when it is about no single Process Server.
const SENDER: &str = "gateway";

impl Keeper {
    pub(super) fn report(&self) -> GatewayReport {
        GatewayReport {
            answers: None,
            tunnel: self.session.as_ref().and_then(|session| session.live()),
            order: self.processor.order(),
            fence: self.fence.map(|fence| fence.epoch),
        }
    }

    /// Reports to every agent when something changed since the last time.
    pub(super) fn tell_report(&mut self) {
        let report = self.report();
        if self.told.as_ref() == Some(&report) {
            return;
        }
        for link in self.environment.registry.links() {
            link.tell(CentralMessage::Gateway(report.clone()));
        }
        self.told = Some(report);
    }

    /// Remembers something for the event log, in the words people will read.
    pub(super) fn note(&mut self, code: &'static str, text: String) {
        let sender = SENDER.to_owned();
        self.remember(NewEvent { code, severity: severity(code), text, sender });
    }

    /// The same, with the Process Server it is about as the sender.
    pub(super) fn note_of(&mut self, server: &Name, code: &'static str, text: String) {
        self.remember(NewEvent { code, severity: severity(code), text, sender: server.to_string() });
    }

    fn remember(&mut self, event: NewEvent) {
        tracing::info!(environment = %self.environment.name, code = event.code, "{}", event.text);
        self.chronicle.happened(event.code, &event.text, OffsetDateTime::now_utc());
        self.pending_events.push_back(event);
    }

    pub(super) fn show(&mut self) {
        let state = self.processor.state();
        if self.view.borrow().state != state {
            self.state_since = OffsetDateTime::now_utc();
        }
        let view = self.build_view(state);
        self.view.send_replace(Arc::new(view));
    }

    fn build_view(&mut self, state: GatewayState) -> GatewayView {
        let configured = self.configured();
        let live = self.session.as_ref().filter(|session| session.live().is_some());
        let group_exists = self.record.group.is_some();
        let mut candidates: Vec<_> = self
            .servers
            .values()
            .filter(|server| server.candidate)
            .map(|server| {
                let node = self.record.seat_of(server.agent).map(|seat| seat.node);
                CandidateView {
                    name: server.name.clone(),
                    agent: server.agent,
                    node,
                    connected: self.environment.registry.link(server.agent).is_some(),
                    configured: node.is_some_and(|node| configured.contains(&node)),
                    active: live.is_some_and(|session| session.agent == server.agent),
                    restart_required: server.restart_required(group_exists),
                }
            })
            .collect();
        // Agents' ids are random, and people compare one look with the last.
        candidates.sort_by(|one, other| one.name.cmp(&other.name));
        let connected = self.environment.registry.links().into_iter().map(|link| {
            let view = ConnectedView {
                boot: link.boot,
                since: link.since,
                last_heard: link.last_heard(),
                software: link.hello.software.clone(),
                system: link.hello.system.clone(),
                remote: link.remote,
                certificate_until: link.certificate.not_after,
                report: link.report(),
            };
            (link.agent, view)
        });
        let raft = self.raft_view();
        GatewayView {
            state,
            since: self.state_since,
            active: live.map(|session| session.name.clone()),
            fence: self.fence.map(|fence| fence.epoch),
            candidates,
            attempt: self.processor.attempt().and_then(|(node, until)| {
                let candidate = self.name_of(node)?;
                let left = until.saturating_duration_since(Instant::now());
                Some(AttemptView { candidate, until: OffsetDateTime::now_utc() + left })
            }),
            event_raised: self.policy.is_raised(),
            last_switch: self.last_switch.clone(),
            connected: connected.collect(),
            can_lose: self.losses_bearable(),
            raft,
            streams: OpenStreams::of(live.map(|session| &session.tunnel)),
            draining: self.draining.iter().map(draining_view).collect(),
        }
    }

    /// How many more losses of a voter the group can bear.
    pub(super) fn losses_bearable(&self) -> Option<usize> {
        self.environment.witness().map(|witness| witness.group.members().borrow().losses_bearable())
    }

    fn raft_view(&self) -> Option<RaftView> {
        let witness = self.environment.witness()?;
        let members = witness.group.members().borrow().clone();
        let claim = *witness.group.claims().borrow();
        let group = self.record.group.as_ref()?;
        let status = witness.group.status();
        Some(RaftView {
            generation: witness.seat.group,
            witness: witness.seat.node,
            leader: witness.group.leadership().borrow().leader,
            voters: members.voters.iter().copied().collect(),
            learners: members.learners.iter().copied().collect(),
            term: status.term,
            last_applied: members.last_applied,
            last_claim: claim.map(|c| ClaimView { epoch: c.epoch, node: c.node, boot: c.boot }),
            timings: status.timings,
            worst_round_trip: status.worst_round_trip,
            seats: group
                .seats
                .iter()
                .filter_map(|seated| {
                    let name = self.servers.get(&seated.agent)?.name.clone();
                    Some(SeatView {
                        name,
                        seat: proto::hello::Seat { group: witness.seat.group, node: seated.node },
                    })
                })
                .collect(),
        })
    }
}

fn draining_view((session, until): &(Session, Instant)) -> DrainingView {
    DrainingView {
        process_server: session.name.clone(),
        until: OffsetDateTime::now_utc() + until.saturating_duration_since(Instant::now()),
        streams: session.tunnel.stats().streams,
    }
}

fn severity(code: &str) -> Severity {
    match code {
        "group_recovered" | "witness_renewed" | "witness_waits" | "witness_stopped" => Severity::Warning,
        "gateway_down" | "event_raised" => Severity::Error,
        "tunnel_lost"
        | "lane_lost"
        | "candidate_given_up"
        | "switch_failed"
        | "agent_disconnected"
        | "agent_put_back"
        | "candidate_silent"
        | "certificate_expiring"
        | "tolerance_lost"
        | "destination_unreachable" => Severity::Warning,
        _ => Severity::Info,
    }
}
