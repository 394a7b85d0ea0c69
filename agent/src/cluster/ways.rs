//! How a Raft call gets to another node.

use std::{sync::Weak, time::Duration};

use async_trait::async_trait;
use group::{CallError, Peer, Transport};
use proto::{NodeId, control::RaftCall, hello::Seat};
use serde_json::value::RawValue;

use super::{Shared, roster::entry};
use crate::{control::Control, peer::PeerNet};

/// The ways to other nodes: a direct connection inside the network first, else through central.
pub(super) struct Ways {
    pub(super) seat: Seat,
    pub(super) control: Control,
    pub(super) peers: PeerNet,
    /// Whose group this serves: it holds the group, and the group holds this.
    pub(super) shared: Weak<Shared>,
}

#[async_trait]
impl Transport for Ways {
    async fn call(
        &self,
        to: NodeId,
        peer: Option<&Peer>,
        body: Box<RawValue>,
        ttl: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        if let Some(peer) = peer {
            // The roster's addresses are newer than the membership's.
            let known = self.shared.upgrade().and_then(|shared| shared.node_of(|entry| entry.node == to));
            let entry = known.unwrap_or_else(|| entry(peer));
            if self.peers.is_connected(&entry) {
                let call = self.peers.call(&entry, self.seat.group, self.seat.node, &body, ttl).await;
                match call {
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.is_timeout() => return Err(CallError::TimedOut),
                    // The connection just broke: the way through central may stand.
                    Err(error) => tracing::debug!(%to, %error, "The direct way is lost"),
                }
            } else {
                self.peers.connect(&entry);
            }
        }
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let call = RaftCall { id: 0, group: self.seat.group, from: self.seat.node, to, ttl_ms, body };
        self.control
            .call(call)
            .await
            .map_err(|error| error.map_or(CallError::TimedOut, CallError::Unreachable))
    }
}
