//! The direct way between agents of one network: Raft calls over mutual TLS 1.3.
//!
//! ```text
//!   PeerNet::call ──► Link (one kept connection per peer) ══TLS══► PeerListener ──► PeerHandler
//! ```
//!
//! A pair of agents has up to two connections, one for each direction of calling. When one that
//! was in use breaks, [`PeerNet::closed`] says so at once: a hint for elections, not a proof of death.

mod call;
mod listen;
mod verify;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use proto::{AgentId, Fingerprint, Name, NodeId, control::RosterEntry};
use serde_json::value::RawValue;
use tokio::{
    net::TcpListener,
    sync::{broadcast, oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::call::{Link, Outgoing};
pub use self::listen::{PeerListener, own_addresses};
use crate::identity::Identity;

/// Peers this agent calls at the same time; a group is far smaller.
const LINKS_MAX: usize = 64;
/// Hints kept for a slow listener; a lost one costs an election timeout, nothing more.
const CLOSED_HINTS: usize = 64;

/// Who may be talked to: the group as this agent knows it, already narrowed to approved keys.
pub type RosterWatch = watch::Receiver<Arc<Vec<RosterEntry>>>;

/// Answers the calls of peers.
#[async_trait]
pub trait PeerHandler: Send + Sync + 'static {
    /// One call from an authenticated peer. `from_node` is a seat the roster gives to `from`.
    ///
    /// Dropped when the caller's time is up or its connection ends.
    async fn handle(
        &self,
        from: AgentId,
        group: u64,
        from_node: NodeId,
        to: NodeId,
        body: Box<RawValue>,
    ) -> Result<Box<RawValue>, String>;
}

/// Calls peers. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct PeerNet {
    shared: Arc<Shared>,
}

struct Shared {
    local_addr: SocketAddr,
    identity: watch::Receiver<Arc<Identity>>,
    roster: RosterWatch,
    links: Mutex<HashMap<Fingerprint, Link>>,
    closed: broadcast::Sender<AgentId>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Why a call brought no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerCallError {
    #[error("peer {peer} did not answer within {ttl:?}")]
    TimedOut { peer: Name, ttl: Duration },
    #[error("peer {peer} cannot be reached: {problem}")]
    Unreachable { peer: Name, problem: Arc<str> },
    #[error("the connection with peer {peer} closed before it answered")]
    Closed { peer: Name },
    #[error("too many calls to peer {peer} are waiting")]
    Busy { peer: Name },
    /// The peer answered, and its answer was no.
    #[error("peer {peer} refused: {problem}")]
    Refused { peer: Name, problem: String },
}

impl PeerNet {
    /// Binds the address peers connect to. Nothing is accepted until the listener runs.
    ///
    /// Loopback addresses of peers are called only when `bind` is on loopback itself: no roster
    /// can make a real agent knock at its own host's services.
    pub async fn listen(
        bind: SocketAddr,
        identity: watch::Receiver<Arc<Identity>>,
        roster: RosterWatch,
    ) -> io::Result<(Self, PeerListener)> {
        let listener = TcpListener::bind(bind).await?;
        let shared = Arc::new(Shared {
            local_addr: listener.local_addr()?,
            identity,
            roster,
            links: Mutex::default(),
            closed: broadcast::channel(CLOSED_HINTS).0,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        Ok((Self { shared: shared.clone() }, PeerListener::new(listener, shared)))
    }

    /// The address bound, with the port the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// Agents whose connection in use just broke.
    pub fn closed(&self) -> broadcast::Receiver<AgentId> {
        self.shared.closed.subscribe()
    }

    /// Calls a peer's node and waits for its answer, at most `ttl`.
    ///
    /// The first call to a peer connects; a failed connection makes calls fail at once until the
    /// next attempt, at most about a second later. Cancel-safe: the peer may still act on the call.
    pub async fn call(
        &self,
        entry: &RosterEntry,
        group: u64,
        from: NodeId,
        body: Box<RawValue>,
        ttl: Duration,
    ) -> Result<Box<RawValue>, PeerCallError> {
        let (answer, answered) = oneshot::channel();
        let peer = || entry.name.clone();
        let call = Outgoing { group, from, to: entry.node, body, ttl, answer };
        self.link(entry)?.send(call).map_err(|_| PeerCallError::Busy { peer: peer() })?;
        match tokio::time::timeout(ttl, answered).await {
            Err(_) => Err(PeerCallError::TimedOut { peer: peer(), ttl }),
            Ok(Err(_)) => Err(PeerCallError::Closed { peer: peer() }),
            Ok(Ok(result)) => result,
        }
    }

    /// The connection to this peer's key, made at the first call.
    fn link(&self, entry: &RosterEntry) -> Result<Link, PeerCallError> {
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, link| link.is_alive());
        if let Some(link) = links.get(&entry.fingerprint) {
            link.update(entry);
            return Ok(link.clone());
        }
        if links.len() >= LINKS_MAX {
            return Err(PeerCallError::Busy { peer: entry.name.clone() });
        }
        let link = Link::start(entry.clone(), self.shared.clone());
        links.insert(entry.fingerprint, link.clone());
        Ok(link)
    }
}

impl Shared {
    /// Tells of a connection that broke on its own.
    fn hint_closed(&self, agent: AgentId) {
        // Without a subscriber nobody wants to know.
        let _ = self.closed.send(agent);
    }

    fn is_in_roster(&self, agent: AgentId, fingerprint: Fingerprint) -> bool {
        self.roster.borrow().iter().any(|entry| entry.agent == agent && entry.fingerprint == fingerprint)
    }
}
