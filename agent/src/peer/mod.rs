//! The direct way between agents of one network: Raft calls over mutual TLS 1.3.
//!
//! ```text
//!   PeerNet::call ──► Link (one kept connection per peer) ══TLS══► accept ──► PeerHandler
//! ```
//!
//! A pair of agents has up to two connections, one for each direction of calling. When one that
//! was in use breaks, [`PeerNet::closed`] says so at once: a hint for elections, not a proof of death.

mod call;
mod listen;
mod verify;
pub mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use proto::{AgentId, Fingerprint, Name, NodeId, control::RosterEntry};
use serde_json::value::RawValue;
use tokio::{
    net::TcpListener,
    sync::{
        broadcast::{self, error::RecvError},
        oneshot, watch,
    },
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::call::{Link, Outgoing};
pub use self::listen::own_addresses;
use crate::{config::Peers, identity::Identity};

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

/// Calls peers and is called by them. Cheap to clone; all clones share the connections, and
/// dropping the last one closes them.
#[derive(Clone)]
pub struct PeerNet {
    shared: Arc<Shared>,
    advertise: Arc<[String]>,
    _stop: Arc<DropGuard>,
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

/// Agents whose connection in use just broke; see [`PeerNet::closed`].
pub struct ClosedPeers(broadcast::Receiver<AgentId>);

impl ClosedPeers {
    /// The next one; `None` when the [`PeerNet`] is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<AgentId> {
        loop {
            match self.0.recv().await {
                Ok(agent) => return Some(agent),
                // Hints, not records: whoever fell behind goes on with the newer ones.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// Why peers cannot be listened for.
#[derive(Debug, thiserror::Error)]
#[error("the peers' address {addr} cannot be bound; set another as peers.listen in agent.toml")]
pub struct ListenError {
    addr: SocketAddr,
    source: io::Error,
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

impl PeerCallError {
    /// Whether the peer may still be working on the call.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

impl PeerNet {
    /// Binds the address peers connect to and begins to answer them.
    ///
    /// Loopback addresses of peers are called only when ours is on loopback itself: no roster can
    /// make a real agent knock at its own host's services.
    pub async fn listen(
        peers: &Peers,
        identity: watch::Receiver<Arc<Identity>>,
        roster: RosterWatch,
        handler: Arc<dyn PeerHandler>,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError { addr: peers.listen, source };
        let listener = TcpListener::bind(peers.listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let advertise =
            if peers.advertise.is_empty() { own_addresses(local_addr) } else { peers.advertise.clone() };
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            local_addr,
            identity,
            roster,
            links: Mutex::default(),
            closed: broadcast::channel(CLOSED_HINTS).0,
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        shared.tasks.spawn(listen::accept(listener, shared.clone(), handler));
        Ok(Self { shared, advertise: advertise.into(), _stop: Arc::new(stop.drop_guard()) })
    }

    /// The address bound, with the port the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// Where peers are told to connect, `HOST:PORT`, best first.
    pub fn advertised(&self) -> Vec<String> {
        self.advertise.to_vec()
    }

    /// Tells of peers whose connection in use breaks from now on.
    pub fn closed(&self) -> ClosedPeers {
        ClosedPeers(self.shared.closed.subscribe())
    }

    /// Whether a call to this peer would find a connection.
    pub fn is_connected(&self, entry: &RosterEntry) -> bool {
        self.links().get(&entry.fingerprint).is_some_and(Link::is_connected)
    }

    /// Asks for a connection to this peer without waiting for it.
    pub fn connect(&self, entry: &RosterEntry) {
        // A full queue is on its way to connecting anyway.
        if let Ok(link) = self.link(entry) {
            let _ = link.send(None);
        }
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
        body: &RawValue,
        ttl: Duration,
    ) -> Result<Box<RawValue>, PeerCallError> {
        let (answer, answered) = oneshot::channel();
        let peer = || entry.name.clone();
        let call = Outgoing { group, from, to: entry.node, body: body.to_owned(), ttl, answer };
        self.link(entry)?.send(Some(call)).map_err(|_| PeerCallError::Busy { peer: peer() })?;
        match tokio::time::timeout(ttl, answered).await {
            Err(_) => Err(PeerCallError::TimedOut { peer: peer(), ttl }),
            Ok(Err(_)) => Err(PeerCallError::Closed { peer: peer() }),
            Ok(Ok(result)) => result,
        }
    }

    /// Closes every connection and waits until their tasks have ended.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// The connection to this peer's key, made at the first call.
    fn link(&self, entry: &RosterEntry) -> Result<Link, PeerCallError> {
        let mut links = self.links();
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

    fn links(&self) -> MutexGuard<'_, HashMap<Fingerprint, Link>> {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner)
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
