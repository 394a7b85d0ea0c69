//! An admitted tunnel session: it outlives one websocket, and ends for good in one of few ways.

use std::time::Instant;

use proto::{AgentId, BootId, Epoch, Name, NodeId, SessionId, control::LiveTunnel, driver::Tunnel};
use tokio_util::sync::CancellationToken;

use super::guests::Guests;

/// One epoch's tunnel.
pub struct Session {
    pub tunnel: Tunnel,
    pub agent: AgentId,
    pub name: Name,
    pub node: NodeId,
    pub epoch: Epoch,
    pub boot: BootId,
    pub id: SessionId,
    pub guests: Guests,
    pub lane: Lane,
}

/// The websocket under a session.
pub enum Lane {
    Up(LaneHandle),
    /// Lost; streams wait until then for the same active to come back.
    Lost {
        until: Instant,
    },
}

/// How the keeper ends a websocket, and knows that it has ended.
#[derive(Debug, Clone, Default)]
pub struct LaneHandle {
    /// Tells this websocket from the session's next one.
    pub id: u64,
    pub stop: CancellationToken,
    pub ended: CancellationToken,
}

impl Session {
    /// What agents are told of it while its websocket lives.
    pub fn live(&self) -> Option<LiveTunnel> {
        match self.lane {
            Lane::Up(_) => Some(LiveTunnel { node: self.node, epoch: self.epoch, boot: self.boot }),
            Lane::Lost { .. } => None,
        }
    }

    /// Ends the websocket but keeps the streams for a resume.
    pub fn stop_lane(&self) {
        if let Lane::Up(lane) = &self.lane {
            lane.stop.cancel();
        }
    }
}
