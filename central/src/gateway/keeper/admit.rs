//! At the door: which tunnel is let in, and what its admission ends.

use std::time::Instant;

use proto::{
    AgentId,
    driver::{Incoming, Lanes, Tunnel, TunnelConfig},
    hello::{Refusal, RefusalCode, TunnelHello},
    mux::{ResetCode, Side},
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Keeper, SwitchView};
use crate::{
    enrolment::AgentIdentity,
    gateway::{
        environment::ActiveTunnel,
        fence::{Admission, AppliedClaim, Circumstances},
        guests::Guests,
        lanes::Further,
        session::{Lane, LaneHandle, Session},
    },
};

/// What the keeper answers a knocking tunnel.
pub(in crate::gateway) type Answer = Result<Admitted, Refusal>;

/// Proof that the durable fence admitted this websocket's epoch, a tunnel's own or a further lane's. Only the keeper makes one.
#[derive(Debug)]
pub struct Admitted {
    pub tunnel: Tunnel,
    /// The session's incoming streams, when it begins with this websocket.
    pub incoming: Option<Incoming>,
    pub lane: LaneHandle,
    /// The session continues: the websocket before must have ended first.
    pub continues: Option<Option<CancellationToken>>,
}

impl Keeper {
    pub(super) async fn admit(&mut self, peer: &AgentIdentity, hello: &TunnelHello, now: Instant) -> Answer {
        let order = self.processor.order();
        let planned = self.session.as_ref().is_some_and(|session| session.live().is_some())
            && order.is_some_and(|order| order.planned && order.node == hello.node);
        let wall = OffsetDateTime::now_utc();
        let drain_until = planned.then_some(wall + self.settings.drain_timeout);
        let at = self.circumstances(peer.agent, drain_until, wall);
        match self.rooms.fences.admit(hello, &at).await {
            Ok(Admission::New { fence, .. }) => {
                tracing::info!(environment = %self.environment.name, agent = %peer.name, epoch = %hello.epoch, planned, "Admitted a new active");
                self.fence = Some(fence);
                self.supersede(planned, now);
                Ok(self.begin_session(peer, hello, now))
            }
            Ok(Admission::Same) => Ok(self.continue_session(peer, hello, now)),
            Ok(Admission::Predecessor { .. }) => self.continue_draining(hello),
            Ok(Admission::Refused(refusal)) => {
                tracing::warn!(environment = %self.environment.name, agent = %peer.name, epoch = %hello.epoch, %refusal, "Refused a tunnel");
                Err(refusal)
            }
            // Without the fence nobody is admitted: what is up stays up, nothing new comes.
            Err(error) => {
                tracing::error!(environment = %self.environment.name, %error, "The fence could not be read or written");
                Err(Refusal {
                    code: RefusalCode::Internal,
                    message: "central could not write its fence".into(),
                })
            }
        }
    }

    /// What the fence wants to know besides a hello.
    pub(super) fn circumstances(
        &self,
        agent: AgentId,
        drain_until: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Circumstances {
        let claim = self.environment.witness().and_then(|witness| *witness.group.claims().borrow());
        Circumstances {
            agent,
            seat: self.record.seat_of(agent),
            claim: claim.map(|claim| AppliedClaim { epoch: claim.epoch, node: claim.node, boot: claim.boot }),
            drain_until,
            now,
        }
    }

    /// A higher epoch is admitted: what the older one holds ends now, or drains after an order.
    fn supersede(&mut self, planned: bool, now: Instant) {
        let Some(old) = self.session.take() else { return };
        if planned && old.live().is_some() {
            old.tunnel.go_away(ResetCode::GOING_AWAY, "the gateway has moved to another agent");
            if let Some((older, _)) = self.draining.replace((old, now + self.settings.drain_timeout)) {
                older.tunnel.abort(ResetCode::GOING_AWAY, "the gateway has moved twice");
                older.stop_lanes();
            }
        } else {
            self.chronicle.began(
                Some(old.name.clone()),
                "another agent has become active",
                false,
                OffsetDateTime::now_utc(),
            );
            self.chronicle.cut(old.tunnel.stats().streams);
            old.tunnel.abort(ResetCode::TUNNEL_LOST, "another agent has become active");
            old.stop_lanes();
            self.lost_at.get_or_insert(now);
        }
    }

    fn begin_session(&mut self, peer: &AgentIdentity, hello: &TunnelHello, now: Instant) -> Admitted {
        let (tunnel, incoming) = Tunnel::new(self.tunnel_config());
        let lane = self.new_lane();
        self.session = Some(Session {
            tunnel: Lanes::new(tunnel.clone()),
            agent: peer.agent,
            name: peer.name.clone(),
            node: hello.node,
            epoch: hello.epoch,
            boot: hello.boot,
            id: hello.session,
            guests: Guests::default(),
            lane: Lane::Up(lane.clone()),
            further: Further::default(),
        });
        self.tunnel_up(now);
        Admitted { tunnel, incoming: Some(incoming), lane, continues: None }
    }

    fn continue_session(&mut self, peer: &AgentIdentity, hello: &TunnelHello, now: Instant) -> Admitted {
        let lane = self.new_lane();
        match &mut self.session {
            Some(session) if session.id == hello.session && hello.resume.is_some() => {
                let before = session.lane.hand_over(lane.clone());
                let tunnel = session.tunnel.first().clone();
                self.tunnel_up(now);
                Admitted { tunnel, incoming: None, lane, continues: Some(before) }
            }
            // Central was restarted, or the agent gave its streams up: the epoch stands, the streams do not.
            Some(_) | None => {
                if let Some(old) = self.session.take() {
                    self.chronicle.cut(old.tunnel.stats().streams);
                    old.tunnel.abort(ResetCode::TUNNEL_LOST, "the agent began its session anew");
                    old.stop_lanes();
                }
                self.begin_session(peer, hello, now)
            }
        }
    }

    /// A predecessor in planned drain lost its websocket and may resume; it takes no new streams.
    fn continue_draining(&mut self, hello: &TunnelHello) -> Answer {
        let lane = self.new_lane();
        match &mut self.draining {
            Some((session, _)) if session.id == hello.session && hello.resume.is_some() => {
                let before = session.lane.hand_over(lane.clone());
                let tunnel = session.tunnel.first().clone();
                Ok(Admitted { tunnel, incoming: None, lane, continues: Some(before) })
            }
            Some(_) | None => Err(Refusal {
                code: RefusalCode::StaleEpoch,
                message: format!("epoch {} has drained; a higher one is admitted", hello.epoch),
            }),
        }
    }

    pub(super) fn new_lane(&self) -> LaneHandle {
        LaneHandle { id: self.environment.connection_id(), ..LaneHandle::default() }
    }

    pub(super) fn tunnel_config(&self) -> TunnelConfig {
        TunnelConfig {
            ping_interval: self.environment.settings.ping_interval(),
            dead_after: self.environment.settings.dead_after(),
            ..TunnelConfig::new(Side::Central)
        }
    }

    fn tunnel_up(&mut self, now: Instant) {
        let Some(session) = &self.session else { return };
        let gap_ms = self.lost_at.take().map_or(0, |at| now.saturating_duration_since(at).as_millis());
        if self.last_active.as_ref() != Some(&session.name) {
            self.last_switch = Some(SwitchView {
                from: self.last_active.clone(),
                to: session.name.clone(),
                reason: self.lost_why.take().unwrap_or_else(|| "planned".into()),
                gap_ms: u64::try_from(gap_ms).unwrap_or(u64::MAX),
            });
        }
        let moved = self.last_switch.clone().filter(|_| self.last_active.as_ref() != Some(&session.name));
        self.last_active = Some(session.name.clone());
        if let Some(SwitchView { from: Some(from), to, reason, gap_ms }) = moved {
            let summary = format!("{to} is the Secure Gateway now, {gap_ms} ms after {from}: {reason}");
            let details = [
                ("from", from.to_string()),
                ("to", to.to_string()),
                ("reason", reason),
                ("gap_ms", gap_ms.to_string()),
            ];
            self.tell_of(alerting::Kind::Failover, summary, &details);
        }
        let Some(session) = &self.session else { return };
        let (name, node, epoch) = (session.name.clone(), session.node, session.epoch);
        self.announce();
        self.processor.handle_tunnel_up(node);
        self.outage_over(now);
        self.note_of(
            &name.clone(),
            "forwarding_established",
            format!("Forwarding through {name} is established (epoch {epoch}, gap {gap_ms} ms)"),
        );
        let gap_ms = u64::try_from(gap_ms).unwrap_or(u64::MAX);
        self.chronicle.ended(&name, gap_ms, epoch, OffsetDateTime::now_utc());
        // Streams flow from here on: who is told must not wait for what a slow disk has yet to write.
        self.tell_report();
        self.show();
    }

    /// Lets new streams into the tunnel that lives, unless the group is being dissolved.
    pub(super) fn announce(&self) {
        if let Some(session) = self.session.as_ref().filter(|session| session.live().is_some())
            && self.dissolve_at.is_none()
        {
            self.environment.tunnel.send_replace(Some(ActiveTunnel {
                tunnel: session.tunnel.clone(),
                guests: session.guests.clone(),
                epoch: session.epoch,
                name: session.name.clone(),
            }));
        }
    }

    pub(super) fn lane_is(&self, lane: u64) -> bool {
        self.session.as_ref().is_some_and(|session| session.lane.is(lane))
    }

    pub(super) fn lane_ended(&mut self, lane: u64, why: &str, now: Instant) {
        if self.lane_is(lane) {
            self.lane_lost(now, why);
        } else if let Some((session, until)) = &mut self.draining
            && session.lane.is(lane)
        {
            session.lane = Lane::Lost { until: (now + self.settings.resume_window).min(*until) };
        } else {
            self.further_ended(lane, false, now);
        }
    }

    /// The active's websocket is gone or counts as lost: park what comes, keep what may resume.
    pub(super) fn lane_lost(&mut self, now: Instant, why: &str) {
        let Some(session) = &mut self.session else { return };
        session.lane.stop();
        session.lane = Lane::Lost { until: now + self.settings.resume_window };
        let (name, epoch) = (session.name.clone(), session.epoch);
        self.environment.tunnel.send_replace(None);
        self.lost_at = Some(now);
        let reason = format!("the tunnel of {name} was lost: {why}");
        self.chronicle_begins(&reason, false);
        self.lost_why = Some(reason);
        self.processor.handle_tunnel_lost(now);
        self.note("tunnel_lost", format!("The tunnel of {name} (epoch {epoch}) was lost: {why}"));
    }

    /// The session is over: its streams end with RST, never with a clean FIN.
    pub(super) fn end_session(&mut self, why: &str) {
        if let Some(session) = self.session.take() {
            self.chronicle.cut(session.tunnel.stats().streams);
            // The agent is told by the websocket's close, which ends the websocket too.
            session.tunnel.abort(ResetCode::TUNNEL_LOST, why);
        }
    }
}
