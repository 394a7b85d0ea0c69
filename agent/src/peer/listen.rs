//! The called end: accepts peers, proves who they are, hands their calls on.
//!
//! Everything before the handshake's end costs little and ends soon; a stranger in the network can
//! hold a bounded number of sockets for a few seconds, and nothing else.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::{
    AgentId, Fingerprint,
    control::{RaftCall, RaftReply},
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{PeerHandler, Shared, verify, wire};
use crate::{
    dialer::{dial::fail_fast, own_address::local_address_towards},
    identity::{Identity, certificate::AgentCertificate, tls},
};
use program::explain;

/// From the accepted socket to the proven peer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Sockets that have not proven who they are, and how many of them one address may hold.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKES_PER_ADDRESS_MAX: usize = 32;
/// Calls of one peer that are worked on at once; more wait in its socket.
const CALLS_MAX: usize = 64;
/// No caller waits longer than this, whatever it says.
const TTL_MAX: Duration = Duration::from_secs(60);
/// How long one answer may take to leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// Unacknowledged answers end a connection after this long.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);

/// Accepts peers until the stop. Accept errors are logged and waited out.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, handler: Arc<dyn PeerHandler>) {
    let stop = shared.stop.clone();
    let door = Arc::new(Door {
        shared,
        handler,
        tls: Mutex::default(),
        knocking: Mutex::default(),
        seated: Mutex::default(),
    });
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    // Dropped at the stop, and every connection with it.
    let mut guests = JoinSet::new();
    let mut serial = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = guests.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, from)) => {
                    // With all places taken the stranger is let go, not queued.
                    let Ok(permit) = handshakes.clone().try_acquire_owned() else { continue };
                    let Some(knock) = Knock::at(&door, from.ip()) else { continue };
                    serial += 1;
                    guests.spawn(door.clone().serve(socket, from, permit, knock, serial));
                }
                Err(error) => {
                    // Out of descriptors, most likely: turning in circles would not help.
                    warn!(%error, "Cannot accept peers at the moment");
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
    guests.shutdown().await;
}

/// What every accepted connection needs.
struct Door {
    shared: Arc<Shared>,
    handler: Arc<dyn PeerHandler>,
    /// Built once for each identity.
    tls: Mutex<Option<(Arc<Identity>, Arc<ServerConfig>)>>,
    /// Unproven sockets by address.
    knocking: Mutex<HashMap<IpAddr, usize>>,
    /// The newest connection of each peer; a newer one proves that the older is dead.
    seated: Mutex<HashMap<AgentId, (u64, CancellationToken)>>,
}

/// Why a conversation ended.
enum End {
    /// By the peer, the network or a mistake: worth a hint.
    Broken(String),
    /// By us: the peer left the roster, or came back on a newer connection.
    Dismissed,
}

impl Door {
    async fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        from: SocketAddr,
        permit: OwnedSemaphorePermit,
        knock: Knock,
        serial: u64,
    ) {
        let proven = timeout(HANDSHAKE_TIMEOUT, self.prove(socket)).await;
        drop((permit, knock));
        let (stream, peer) = match proven {
            Ok(Ok(proven)) => proven,
            Ok(Err(error)) => {
                debug!(%from, problem = explain(&error), "Peer refused");
                return;
            }
            Err(_) => return,
        };
        let replaced = CancellationToken::new();
        if let Some((_, older)) = self.seats().insert(peer.agent, (serial, replaced.clone())) {
            older.cancel();
        }
        let end = tokio::select! {
            () = replaced.cancelled() => End::Dismissed,
            () = self.left_roster(peer.agent, peer.fingerprint) => End::Dismissed,
            ended = self.converse(stream, peer.agent) => End::Broken(ended),
        };
        {
            let mut seats = self.seats();
            if seats.get(&peer.agent).is_some_and(|(newest, _)| *newest == serial) {
                seats.remove(&peer.agent);
            }
        }
        match end {
            End::Broken(ended) => {
                debug!(agent = %peer.agent, %from, ended, "Connection from peer ended");
                self.shared.hint_closed(peer.agent);
            }
            End::Dismissed => debug!(agent = %peer.agent, %from, "Connection from peer dismissed"),
        }
    }

    async fn prove(&self, socket: TcpStream) -> io::Result<(TlsStream<TcpStream>, AgentCertificate)> {
        socket.set_nodelay(true)?;
        fail_fast(&socket, UNACKNOWLEDGED_MAX)?;
        let config = self.tls().map_err(io::Error::other)?;
        let stream = TlsAcceptor::from(config).accept(socket).await.map_err(tls::in_words)?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(verify::ALPN) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak the peer protocol"));
        }
        // Verified in the handshake; read again to learn who it is.
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let peer = certificate.map(AgentCertificate::read);
        match peer {
            Some(Ok(peer)) => Ok((stream, peer)),
            Some(Err(problem)) => Err(io::Error::other(problem)),
            None => Err(io::Error::other("it showed no certificate")),
        }
    }

    fn tls(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let identity = self.shared.identity.borrow().clone();
        let mut built = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = built.as_ref()
            && Arc::ptr_eq(of, &identity)
        {
            return Ok(config.clone());
        }
        let shared = self.shared.clone();
        let expected = Arc::new(move |agent, fingerprint| shared.is_in_roster(agent, fingerprint));
        let config = Arc::new(verify::server_config(&identity, expected)?);
        *built = Some((identity, config.clone()));
        Ok(config)
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, HashMap<AgentId, (u64, CancellationToken)>> {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn left_roster(&self, agent: AgentId, fingerprint: Fingerprint) {
        let mut roster = self.shared.roster.clone();
        while self.shared.is_in_roster(agent, fingerprint) {
            if roster.changed().await.is_err() {
                // Nobody will change it any more: the agent is stopping.
                return std::future::pending().await;
            }
        }
    }

    /// Answers calls until the connection ends; says why it did.
    async fn converse(&self, stream: TlsStream<TcpStream>, agent: AgentId) -> String {
        let (from_peer, to_peer) = tokio::io::split(stream);
        let (answers, outbound) = mpsc::channel(CALLS_MAX);
        tokio::select! {
            ended = self.hear(from_peer, agent, answers) => ended,
            ended = say(to_peer, outbound) => ended,
        }
    }

    async fn hear(
        &self,
        mut from: impl AsyncRead + Unpin,
        agent: AgentId,
        answers: mpsc::Sender<(RaftReply, OwnedSemaphorePermit)>,
    ) -> String {
        let places = Arc::new(Semaphore::new(CALLS_MAX));
        // Dropped with the connection: work nobody waits for ends.
        let mut calls = JoinSet::new();
        loop {
            let call = match wire::read(&mut from).await {
                Ok(Some(wire::Message::Call(call))) => call,
                Ok(Some(wire::Message::Reply(_))) => return "it answered what nobody asked".to_owned(),
                Ok(None) => return "it closed the connection".to_owned(),
                Err(error) => return error.to_string(),
            };
            while calls.try_join_next().is_some() {}
            // A place is held until the answer has left: a peer that asks but does not listen
            // comes to a halt in its own socket.
            let Ok(place) = places.clone().acquire_owned().await else { return "stopping".to_owned() };
            calls.spawn(answer(
                self.shared.clone(),
                self.handler.clone(),
                agent,
                call,
                place,
                answers.clone(),
            ));
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    handler: Arc<dyn PeerHandler>,
    agent: AgentId,
    call: RaftCall,
    place: OwnedSemaphorePermit,
    answers: mpsc::Sender<(RaftReply, OwnedSemaphorePermit)>,
) {
    let RaftCall { id, group, from, to, ttl_ms, body } = call;
    let ttl = Duration::from_millis(ttl_ms).min(TTL_MAX);
    // A peer may speak for the seats it holds, never for another's.
    let holds_seat = shared.roster.borrow().iter().any(|entry| entry.agent == agent && entry.node == from);
    let result = if holds_seat {
        timeout(ttl, handler.handle(agent, group, from, to, body))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {ttl:?}")))
    } else {
        Err(format!("node {from} is not agent {agent}'s"))
    };
    // A connection that ended meanwhile needs no answer.
    let _ = answers.send((RaftReply { id, result }, place)).await;
}

async fn say(
    mut to: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<(RaftReply, OwnedSemaphorePermit)>,
) -> String {
    while let Some((reply, _place)) = answers.recv().await {
        let id = reply.id;
        let bytes = wire::encode(&wire::Message::Reply(reply)).or_else(|error| {
            wire::encode(&wire::Message::Reply(RaftReply { id, result: Err(error.to_string()) }))
        });
        let written = match bytes {
            Ok(bytes) => timeout(WRITE_TIMEOUT, wire::write(&mut to, &bytes)).await,
            Err(error) => return error.to_string(),
        };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "it takes no answers".to_owned(),
        }
    }
    "stopping".to_owned()
}

/// One unproven socket of an address, counted while it lasts.
struct Knock {
    door: Arc<Door>,
    from: IpAddr,
}

impl Knock {
    /// `None` when this address holds too many already.
    fn at(door: &Arc<Door>, from: IpAddr) -> Option<Self> {
        let mut knocking = door.knocking.lock().unwrap_or_else(PoisonError::into_inner);
        let count = knocking.entry(from).or_default();
        if *count >= HANDSHAKES_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Self { door: door.clone(), from })
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        let mut knocking = self.door.knocking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = knocking.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                knocking.remove(&self.from);
            }
        }
    }
}

/// Where peers may reach an agent that listens at `bound`, best first: that address, or, when it
/// listens everywhere, the addresses this host uses towards its network.
///
/// Empty when the host has no route anywhere; peers then meet through central.
pub fn own_addresses(bound: SocketAddr) -> Vec<String> {
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    // Documentation addresses stand for "somewhere else": only the routing table is asked.
    let elsewhere: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    elsewhere
        .into_iter()
        .filter(|there| bound.is_ipv6() || there.is_ipv4())
        .filter_map(local_address_towards)
        .filter(|ip| !ip.is_loopback())
        .map(|ip| SocketAddr::new(ip, bound.port()).to_string())
        .collect()
}
