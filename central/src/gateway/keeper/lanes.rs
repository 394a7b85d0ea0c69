//! At the door for further lanes: only beside a tunnel that is admitted, never instead of one.

use std::time::Instant;

use proto::hello::{LaneHello, Refusal, RefusalCode};
use time::OffsetDateTime;

use super::{Keeper, admit::Answer};
use crate::{
    enrolment::AgentIdentity,
    gateway::{fence::Holder, keeper::Admitted, lanes::Knocking},
};

impl Keeper {
    /// Decided in the one task that also admits and supersedes tunnels: between the fence's word and the lane's place
    /// nothing else is decided.
    pub(super) async fn admit_lane(&mut self, peer: &AgentIdentity, hello: &LaneHello) -> Answer {
        let answer = self.lane_beside(peer, hello).await;
        match &answer {
            Ok(_) => {
                tracing::info!(environment = %self.environment.name, agent = %peer.name, epoch = %hello.tunnel.epoch, lane = hello.lane, "Admitted a further lane")
            }
            Err(refusal) => {
                tracing::info!(environment = %self.environment.name, agent = %peer.name, epoch = %hello.tunnel.epoch, lane = hello.lane, %refusal, "Refused a further lane");
            }
        }
        answer
    }

    async fn lane_beside(&mut self, peer: &AgentIdentity, hello: &LaneHello) -> Answer {
        let at = self.circumstances(peer.agent, None, OffsetDateTime::now_utc());
        let holder = match self.rooms.fences.beside(&hello.tunnel, &at).await {
            Ok(judged) => judged?,
            Err(error) => {
                tracing::error!(environment = %self.environment.name, %error, "The fence could not be read");
                let message = "central could not read its fence".into();
                return Err(Refusal { code: RefusalCode::Internal, message });
            }
        };
        let (handle, config) = (self.new_lane(), self.tunnel_config());
        let numbers = self.environment.settings.further_lanes();
        let session = match holder {
            Holder::Active => self.session.as_mut(),
            Holder::Predecessor => self.draining.as_mut().map(|(session, _)| session),
        };
        let Some(session) = session else {
            let message = "the tunnel's first lane is not up: it comes first".into();
            return Err(Refusal { code: RefusalCode::Busy, message });
        };
        let who = Knocking { agent: peer.agent, holder };
        let entering = session.enter(who, hello, numbers, handle.clone(), config)?;
        if entering.was_missing {
            let text = format!("Lane {} of the tunnel of {} is back", hello.lane, peer.name);
            self.note_of(&peer.name, "lane_back", text);
        }
        Ok(Admitted {
            tunnel: entering.tunnel,
            incoming: entering.incoming,
            lane: handle,
            continues: entering.continues,
        })
    }

    /// A websocket has ended that may be a further lane's.
    pub(super) fn further_ended(&mut self, websocket: u64, over: bool, now: Instant) {
        let until = now + self.settings.resume_window;
        if let Some(session) = &mut self.session
            && session.further_ended(websocket, over, until)
        {
            return;
        }
        if let Some((session, drained)) = &mut self.draining {
            session.further_ended(websocket, over, until.min(*drained));
        }
    }

    /// Gives up the lanes that did not come back in time.
    pub(super) fn expire_further(&mut self, now: Instant) {
        if let Some(session) = &mut self.session {
            let (gone, name) = (session.expire_further(now), session.name.clone());
            for lane in gone {
                let text = format!(
                    "Lane {lane} of the tunnel of {name} did not come back within tunnel.resume_window: its streams have \
                     ended, those of the other lanes go on. The log of {name} says why it cannot connect again"
                );
                self.note_of(&name, "lane_lost", text);
            }
        }
        if let Some((session, _)) = &mut self.draining {
            // Nobody begins lanes there any more; its end is told.
            drop(session.expire_further(now));
        }
    }

    /// When the next lane has to be back.
    pub(super) fn further_expiry(&self) -> Option<Instant> {
        let draining = self.draining.iter().map(|(session, _)| session);
        self.session.iter().chain(draining).filter_map(|session| session.further.next_expiry()).min()
    }
}
