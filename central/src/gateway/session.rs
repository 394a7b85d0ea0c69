//! An admitted tunnel session: it outlives one websocket, and ends for good in one of few ways.
//!
//! Its first lane stands for it: while that lives the tunnel lives, and what is known of the tunnel elsewhere is known of
//! that. Further lanes only add to it; see [`lanes`](super::lanes).

use std::time::Instant;

use proto::{AgentId, BootId, Epoch, Name, NodeId, SessionId, control::LiveTunnel, driver::Lanes};
use tokio_util::sync::CancellationToken;

use super::{guests::Guests, lanes::Further};

/// One epoch's tunnel.
pub struct Session {
    /// All of them: what ends this ends every lane.
    pub tunnel: Lanes,
    pub agent: AgentId,
    pub name: Name,
    pub node: NodeId,
    pub epoch: Epoch,
    pub boot: BootId,
    pub id: SessionId,
    pub guests: Guests,
    /// The first.
    pub lane: Lane,
    pub further: Further,
}

/// The websocket of a lane.
#[derive(Debug)]
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

impl Lane {
    /// Another websocket takes over. The one before ends; whoever goes on waits for that, if there is one.
    pub fn hand_over(&mut self, to: LaneHandle) -> Option<CancellationToken> {
        match std::mem::replace(self, Lane::Up(to)) {
            Lane::Up(before) => {
                before.stop.cancel();
                Some(before.ended)
            }
            Lane::Lost { .. } => None,
        }
    }

    pub fn is(&self, id: u64) -> bool {
        matches!(self, Lane::Up(held) if held.id == id)
    }

    /// Ends the websocket.
    pub fn stop(&self) {
        if let Lane::Up(lane) = self {
            lane.stop.cancel();
        }
    }
}

impl Session {
    /// What agents are told of it while its websocket lives.
    pub fn live(&self) -> Option<LiveTunnel> {
        match self.lane {
            Lane::Up(_) => Some(LiveTunnel { node: self.node, epoch: self.epoch, boot: self.boot }),
            Lane::Lost { .. } => None,
        }
    }

    /// Ends every websocket at once.
    pub fn stop_lanes(&self) {
        self.lane.stop();
        self.further.stop();
    }
}
