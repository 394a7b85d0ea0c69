//! The calling end: one kept connection per peer, many calls on it at once.
//!
//! ```text
//!   Idle ──call──► connecting ──► conversing ──lost──► Idle
//!                      └─ failed ─► resting (calls fail at once) ─► Idle
//! ```

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proto::{
    Backoff, Name, NodeId,
    control::{RaftCall, RosterEntry},
};
use rustls::pki_types::ServerName;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::debug;

use super::{PeerCallError, Shared, verify, wire};
use crate::{
    dialer::{
        address::{special_ranges, unwrapped},
        dial::{TcpConnector, fail_fast, race},
    },
    identity::tls,
};
use program::explain;

/// Resolving, connecting and the handshake. Peers are neighbours; a longer wait only delays the
/// relay through central that the caller falls back to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which nothing was heard for this long, although something was asked, is dead.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How long one message may take to leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that is no longer in the roster is forgotten after this long without a call.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Calls waiting for the connection or the socket.
const QUEUE_MAX: usize = 256;
/// Calls waiting for an answer.
const PENDING_MAX: usize = 256;
/// Addresses of one peer that are tried.
const ADDRESSES_MAX: usize = 16;

/// One call on its way.
pub(super) struct Outgoing {
    pub(super) group: u64,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) body: Box<RawValue>,
    pub(super) ttl: Duration,
    pub(super) answer: oneshot::Sender<Result<Box<RawValue>, PeerCallError>>,
}

/// A handle on the task that keeps the connection to one peer.
#[derive(Clone)]
pub(super) struct Link {
    /// `None` asks for a connection and nothing else.
    queue: mpsc::Sender<Option<Outgoing>>,
    entry: Arc<watch::Sender<RosterEntry>>,
    connected: Arc<AtomicBool>,
}

impl Link {
    /// Starts the task; it ends with the agent, or when the peer left and nobody calls it.
    pub(super) fn start(entry: RosterEntry, shared: Arc<Shared>) -> Self {
        let (queue, calls) = mpsc::channel(QUEUE_MAX);
        let (entry, peer) = watch::channel(entry);
        let connected = Arc::<AtomicBool>::default();
        let stop = shared.stop.clone();
        let keeper = Keeper { calls, peer, connected: connected.clone(), shared: shared.clone() };
        // Dropping the keeper at a stop is safe: callers see their answer's channel close.
        shared.tasks.spawn(async move {
            stop.run_until_cancelled(keeper.run()).await;
        });
        Self { queue, entry: Arc::new(entry), connected }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.queue.is_closed()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// The peer may have moved to another address.
    pub(super) fn update(&self, entry: &RosterEntry) {
        self.entry.send_if_modified(|known| {
            let changed = known != entry;
            if changed {
                known.clone_from(entry);
            }
            changed
        });
    }

    pub(super) fn send(&self, call: Option<Outgoing>) -> Result<(), QueueFull> {
        self.queue.try_send(call).map_err(|_| QueueFull)
    }
}

/// More calls wait for this peer than make sense.
pub(super) struct QueueFull;

struct Keeper {
    calls: mpsc::Receiver<Option<Outgoing>>,
    peer: watch::Receiver<RosterEntry>,
    connected: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        while let Some(first) = self.next_call().await {
            let peer = self.peer.borrow().clone();
            let problem = match self.connect(&peer).await {
                Ok(stream) => {
                    self.connected.store(true, Ordering::Relaxed);
                    let (heard, ended) = self.converse(stream, first, &peer).await;
                    self.connected.store(false, Ordering::Relaxed);
                    debug!(peer = %peer.name, ended, "Connection to peer ended");
                    if heard {
                        backoff.reset();
                        self.shared.hint_closed(peer.agent);
                        continue;
                    }
                    // Refused after the handshake, as TLS 1.3 servers do, or dead at once.
                    ended
                }
                Err(error) => {
                    let problem = explain(&error);
                    if let Some(first) = first {
                        first.fail(&peer.name, &problem);
                    }
                    problem
                }
            };
            self.rest(backoff.next(rand::random()), &peer.name, &problem).await;
        }
    }

    /// The next call; `None` when this peer left the roster and nobody has called it for long.
    async fn next_call(&mut self) -> Option<Option<Outgoing>> {
        loop {
            match timeout(FORGET_AFTER, self.calls.recv()).await {
                Ok(call) => return call,
                Err(_) => {
                    let (agent, fingerprint) = {
                        let peer = self.peer.borrow();
                        (peer.agent, peer.fingerprint)
                    };
                    if !self.shared.is_in_roster(agent, fingerprint) {
                        return None;
                    }
                }
            }
        }
    }

    /// Fails every call for a while.
    async fn rest(&mut self, wait: Duration, peer: &Name, problem: &str) {
        let end = sleep(wait);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                call = self.calls.recv() => match call {
                    Some(Some(call)) => call.fail(peer, problem),
                    Some(None) => {}
                    None => return,
                }
            }
        }
    }

    async fn connect(&self, peer: &RosterEntry) -> io::Result<TlsStream<TcpStream>> {
        let (agent, fingerprint) = (peer.agent, peer.fingerprint);
        let identity = self.shared.identity.borrow().clone();
        let expected = Arc::new(move |a, f| (a, f) == (agent, fingerprint));
        let config = Arc::new(verify::client_config(&identity, expected).map_err(io::Error::other)?);
        let attempt = async {
            let addrs = self.addresses(peer).await?;
            let (socket, addr) = race(&addrs, &TcpConnector::default()).await?;
            fail_fast(&socket, SILENCE_MAX)?;
            let stream = TlsConnector::from(config)
                .connect(ServerName::from(addr.ip()), socket)
                .await
                .map_err(tls::in_words)?;
            if stream.get_ref().1.alpn_protocol() != Some(verify::ALPN) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it does not speak the peer protocol",
                ));
            }
            Ok(stream)
        };
        timeout(CONNECT_TIMEOUT, attempt)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")))
    }

    /// Where to knock. The roster comes from outside: what no neighbour can have is left out.
    async fn addresses(&self, peer: &RosterEntry) -> io::Result<Vec<SocketAddr>> {
        let on_loopback = self.shared.local_addr.ip().is_loopback();
        let mut addrs = Vec::new();
        let mut problem = None;
        for text in peer.peer_addrs.iter().take(ADDRESSES_MAX) {
            match tokio::net::lookup_host(text).await {
                Ok(found) => addrs.extend(found.filter(|addr| {
                    let ip = unwrapped(addr.ip());
                    special_ranges(ip).next().is_none() || (on_loopback && ip.is_loopback())
                })),
                Err(error) => problem = Some(error),
            }
        }
        addrs.truncate(ADDRESSES_MAX);
        if addrs.is_empty() {
            return Err(problem.unwrap_or_else(|| {
                io::Error::new(io::ErrorKind::AddrNotAvailable, "no usable address of it is known")
            }));
        }
        Ok(addrs)
    }

    /// Carries calls until the connection ends; says whether the peer ever answered, and the end's reason.
    async fn converse(
        &mut self,
        stream: TlsStream<TcpStream>,
        first: Option<Outgoing>,
        peer: &RosterEntry,
    ) -> (bool, String) {
        let (from_peer, to_peer) = tokio::io::split(stream);
        let waiting = Waiting::default();
        // Each of these owns its half for good, so none is dropped between two of its steps.
        let ended = tokio::select! {
            error = hear(from_peer, &waiting, &peer.name) => error,
            error = say(to_peer, first, &mut self.calls, &waiting) => error,
            error = watch_silence(&waiting) => error,
        };
        let waiting = waiting.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        (waiting.heard, ended)
    }
}

impl Outgoing {
    fn fail(self, peer: &Name, problem: &str) {
        let unreachable = PeerCallError::Unreachable { peer: peer.clone(), problem: problem.into() };
        // The caller may have stopped waiting.
        let _ = self.answer.send(Err(unreachable));
    }
}

/// The calls on the wire of one connection.
#[derive(Default)]
struct Waiting(Mutex<Unanswered>);

#[derive(Default)]
struct Unanswered {
    answers: HashMap<u64, oneshot::Sender<Result<Box<RawValue>, PeerCallError>>>,
    /// When silence becomes suspicious; `None` while nothing was asked since the last answer.
    hear_by: Option<Instant>,
    heard: bool,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Unanswered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn hear(mut from: impl AsyncRead + Unpin, waiting: &Waiting, peer: &Name) -> String {
    loop {
        let reply = match wire::read(&mut from).await {
            Ok(Some(wire::Message::Reply(reply))) => reply,
            Ok(Some(wire::Message::Call(_))) => {
                return "it called on a connection made for answers".to_owned();
            }
            Ok(None) => return "it closed the connection".to_owned(),
            Err(error) => return error.to_string(),
        };
        let mut waiting = waiting.lock();
        waiting.heard = true;
        waiting.hear_by = None;
        // A caller that stopped waiting leaves no entry or a closed channel; both are fine.
        if let Some(answer) = waiting.answers.remove(&reply.id) {
            let refused = |problem| PeerCallError::Refused { peer: peer.clone(), problem };
            let _ = answer.send(reply.result.map_err(refused));
        }
    }
}

async fn say(
    mut to: impl AsyncWrite + Unpin,
    first: Option<Outgoing>,
    calls: &mut mpsc::Receiver<Option<Outgoing>>,
    waiting: &Waiting,
) -> String {
    let mut next = Some(first);
    let mut id = 0;
    while let Some(call) = next {
        // A caller that stopped waiting while we connected wants nothing sent any more.
        if let Some(call) = call.filter(|call| !call.answer.is_closed()) {
            id += 1;
            if let ControlFlow::Break(ended) = say_one(&mut to, id, call, waiting).await {
                return ended;
            }
        }
        next = calls.recv().await;
    }
    "no more calls".to_owned()
}

async fn say_one(
    to: &mut (impl AsyncWrite + Unpin),
    id: u64,
    call: Outgoing,
    waiting: &Waiting,
) -> ControlFlow<String> {
    let Outgoing { group, from, to: node, body, ttl, answer } = call;
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let bytes = match wire::encode(&wire::Message::Call(RaftCall { id, group, from, to: node, ttl_ms, body }))
    {
        Ok(bytes) => bytes,
        // Dropping the answer's channel tells the caller; the connection is none the worse.
        Err(error) => {
            debug!(%error, "Call not sent");
            return ControlFlow::Continue(());
        }
    };
    {
        let mut waiting = waiting.lock();
        if waiting.answers.len() >= PENDING_MAX {
            waiting.answers.retain(|_, answer| !answer.is_closed());
        }
        if waiting.answers.len() >= PENDING_MAX {
            return ControlFlow::Continue(());
        }
        waiting.answers.insert(id, answer);
        // The peer may think for as long as the caller allows.
        let by = Instant::now() + SILENCE_MAX.max(ttl.saturating_add(Duration::from_secs(1)));
        waiting.hear_by.get_or_insert(by);
    }
    match timeout(WRITE_TIMEOUT, wire::write(to, &bytes)).await {
        Ok(Ok(())) => ControlFlow::Continue(()),
        Ok(Err(error)) => ControlFlow::Break(error.to_string()),
        Err(_) => ControlFlow::Break("it takes no more data".to_owned()),
    }
}

async fn watch_silence(waiting: &Waiting) -> String {
    loop {
        let hear_by = waiting.lock().hear_by;
        match hear_by {
            Some(by) if by <= Instant::now() => return "it does not answer".to_owned(),
            Some(by) => sleep_until(by).await,
            None => sleep(SILENCE_MAX).await,
        }
    }
}
