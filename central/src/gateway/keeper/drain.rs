//! Planned departures: who takes over from an agent that was asked to end, who still holds an old
//! active open, and central's own end.

use std::time::{Duration, Instant};

use proto::{
    AgentId,
    control::CentralMessage,
    driver::{CLOSE_OVER, LaneEnd},
    mux::ResetCode,
};
use time::OffsetDateTime;

use super::{Keeper, Lane, Session};
use crate::gateway::{CommandError, registry::AgentLink, view::DrainView};

/// How long agents have to hear that central stops.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Why a drain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainEnd {
    /// The last stream ended by itself.
    Done,
    TimeIsUp,
    /// Its websocket was lost and did not come back.
    Lost,
    /// Its agent ended it.
    Left,
    /// An administrator did not want to wait.
    Ordered,
    /// Its group is gone, or its Process Server.
    Gone,
}

impl Keeper {
    /// An agent was asked to end. It is no candidate any more; if it carries the tunnel, the next one is
    /// ordered to take over, and new streams go there as soon as it has.
    pub(super) fn leaving(&mut self, link: &AgentLink, now: Instant) {
        if self.departing.insert(link.agent) {
            self.note_of(&link.name, "agent_leaving", format!("{} was asked to end", link.name));
        }
        self.relieve(link, now);
    }

    /// Answers one that is leaving: who was ordered to take over.
    fn relieve(&mut self, link: &AgentLink, now: Instant) {
        let active = self.session.as_ref().filter(|s| s.live().is_some() && s.agent == link.agent);
        let successor = match active.map(|session| session.node) {
            // It drains already, or carries nothing.
            None if self.draining.as_ref().is_some_and(|(drains, _)| drains.agent == link.agent) => {
                self.fence.map(|fence| fence.node)
            }
            None => None,
            Some(node) => {
                let ordered = self.processor.order().map(|order| order.node).filter(|to| *to != node);
                let next = ordered.or_else(|| self.another_than(Some(node), &self.configured()));
                if let Some(next) = next.filter(|_| ordered.is_none()) {
                    self.processor.handle_switch(next, now);
                }
                next
            }
        };
        link.tell(CentralMessage::Relief { successor });
    }

    /// A switch did not come about: whoever waits for it to leave is told of the next one, or to go.
    pub(super) fn relieve_departing(&mut self, now: Instant) {
        let active = self.session.as_ref().map(|session| session.agent);
        if let Some(link) = active
            .filter(|agent| self.departing.contains(agent))
            .and_then(|agent| self.environment.registry.link(agent))
        {
            self.relieve(&link, now);
        }
    }

    /// Whether this agent is on its way out and must not be chosen.
    pub(super) fn is_departing(&self, agent: AgentId) -> bool {
        self.departing.contains(&agent)
    }

    /// Looks whether the predecessor is done, or its time is.
    pub(super) async fn look_at_drain(&mut self, now: Instant) {
        let Some((session, until)) = &self.draining else { return };
        let end = match session.lane {
            _ if session.tunnel.stats().streams == 0 => DrainEnd::Done,
            _ if !self.servers.contains_key(&session.agent) => DrainEnd::Gone,
            _ if *until <= now => DrainEnd::TimeIsUp,
            Lane::Lost { until } if until <= now => DrainEnd::Lost,
            Lane::Lost { .. } | Lane::Up(_) => return,
        };
        self.end_drain(end).await;
    }

    /// The predecessor may not come back.
    pub(super) async fn end_drain(&mut self, why: DrainEnd) {
        let Some((session, _)) = self.draining.take() else { return };
        let streams = session.tunnel.stats().streams;
        self.chronicle.cut(streams);
        // The agent is told by the websocket's close, which ends the websocket too.
        session.tunnel.abort(ResetCode::GOING_AWAY, "the gateway has moved");
        if let Err(error) = self.rooms.fences.end_drain(session.epoch).await {
            tracing::warn!(epoch = %session.epoch, %error, "The end of a drain could not be recorded; it ends with its time");
        }
        let name = &session.name;
        let text = match why {
            DrainEnd::Done => format!("{name} has handed over all its streams"),
            DrainEnd::TimeIsUp => {
                format!("{streams} streams of {name} were ended: gateway.drain_timeout has passed")
            }
            DrainEnd::Lost => {
                format!("{streams} streams of {name} were ended: its tunnel was lost while it drained")
            }
            DrainEnd::Left => format!("{streams} streams of {name} were ended: its agent was stopped"),
            DrainEnd::Ordered => {
                format!("{streams} streams of {name} were ended: an administrator did not want to wait")
            }
            DrainEnd::Gone => {
                format!("{streams} streams of {name} were ended: it has no place in the gateway any more")
            }
        };
        self.note_of(&session.name, "drained", text);
    }

    /// A websocket has ended. Where its agent said that nothing can continue it, its streams are reset now
    /// and not after the resume window.
    pub(super) async fn lane_gone(&mut self, lane: u64, end: &LaneEnd, now: Instant) {
        let over = matches!(end, LaneEnd::Closed { code: CLOSE_OVER, .. });
        let active = self.lane_is(lane);
        let drains = self.draining.as_ref().is_some_and(|(session, _)| session.lane.is(lane));
        if over && !active && !drains {
            return self.further_ended(lane, over, now);
        }
        self.lane_ended(lane, &end.to_string(), now);
        if over && active {
            self.end_session("its agent ended it");
        } else if over && drains {
            self.end_drain(DrainEnd::Left).await;
        }
    }

    /// Ends the drain there is, its streams with it.
    pub(super) async fn order_end_of_drain(&mut self) -> Result<(), CommandError> {
        if self.draining.is_none() {
            return Err(CommandError::NothingDrains);
        }
        self.end_drain(DrainEnd::Ordered).await;
        Ok(())
    }

    /// Whoever drains, and who still holds it open.
    pub(super) fn drains(&self) -> Vec<DrainView> {
        let view = |(session, until): &(Session, Instant)| DrainView {
            process_server: session.name.clone(),
            epoch: session.epoch,
            until: OffsetDateTime::now_utc() + until.saturating_duration_since(Instant::now()),
            streams: session.guests.list(),
        };
        self.draining.iter().map(view).collect()
    }

    /// Process Servers that were removed carry nothing any more.
    pub(super) async fn end_removed(&mut self) {
        if self.session.as_ref().is_some_and(|session| !self.servers.contains_key(&session.agent)) {
            self.lane_lost(Instant::now(), "its Process Server was removed");
            self.end_session("its Process Server was removed");
        }
        self.look_at_drain(Instant::now()).await;
    }

    /// Central ends: every stream is reset, and agents hear that it is planned.
    pub(super) async fn say_goodbye(&mut self) {
        self.environment.tunnel.send_replace(None);
        for session in self.session.iter().chain(self.draining.iter().map(|(session, _)| session)) {
            session.tunnel.abort(ResetCode::GOING_AWAY, "central is stopping");
        }
        let links = self.environment.registry.links();
        for link in &links {
            link.finish(CentralMessage::Stopping {});
        }
        let heard = async {
            for link in &links {
                link.closed.cancelled().await;
            }
        };
        // Whoever does not take it in time sees the socket close.
        let _ = tokio::time::timeout(GOODBYE_LIMIT, heard).await;
        links.iter().for_each(|link| link.closed.cancel());
    }
}
