//! Brings up the tunnel of one epoch and keeps it up, and serves the streams in it.
//!
//! ```text
//!   connect ─► hello ─► admitted ─► lane runs ─► lost ─┐
//!      ▲                    └ refused ─► told          │ the same session resumes while it may
//!      └───────────────────────────────────────────────┘
//! ```
//!
//! The session's streams outlive a websocket for `tunnel.resume_window`; nothing is written to a
//! destination while the tunnel is silent (see [`proto::driver`]).

use std::{sync::Arc, time::Duration};

use proto::{
    Backoff, BootId, Epoch, NodeId, SessionId,
    driver::{
        self, BootClock, IncomingStream, LaneEnd, Role, Side, SystemBootClock, Tunnel, TunnelConfig,
        WebSocket,
    },
    hello::{
        LinkSettings, Refusal, RefusalCode, Resume, TUNNEL_PATH, TUNNEL_SUBPROTOCOL, TunnelAdmission,
        TunnelHello, Versions,
    },
    link::{self, LinkEnd},
    mux::ResetCode,
};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{
    central::{OpenError, open},
    dialer::Dialer,
    identity::Identity,
};
use program::explain;

/// A tunnel's websocket.
type Socket = WebSocket<TlsStream<TcpStream>>;

/// The ceiling of the first wait. Short: while the tunnel is away, connections are parked.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long central has to answer the hello: it waits 1 s for its witness and 2 s for an old lane.
const ADMISSION_LIMIT: Duration = Duration::from_secs(10);
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A lane that lasted this long, or carried this much, was a success: the next attempt is quick again. Something
/// between that cuts every websocket early must cost its streams moments and not the longest wait each time.
const STABLE_AFTER: Duration = Duration::from_millis(250);
const STABLE_BYTES: u64 = 64 * 1024;

/// What becomes of the tunnel, in order.
#[derive(Debug, Clone)]
pub enum TunnelEvent {
    Up {
        epoch: Epoch,
    },
    Lost {
        epoch: Epoch,
        why: String,
    },
    Refused {
        epoch: Epoch,
        refusal: Refusal,
    },
    /// A draining tunnel has ended.
    Drained {
        epoch: Epoch,
    },
}

/// Under which claim the tunnel is opened.
#[derive(Debug, Clone, Copy)]
pub struct Claimed {
    pub node: NodeId,
    pub epoch: Epoch,
    pub boot: BootId,
}

/// What a tunnel needs of the agent.
#[derive(Clone)]
pub struct Surroundings {
    pub identity: watch::Receiver<Arc<Identity>>,
    pub dialer: Arc<Dialer>,
    pub events: mpsc::Sender<TunnelEvent>,
}

/// A tunnel being kept up. Dropping it ends the tunnel: every stream is reset.
pub struct KeptTunnel {
    close: CancellationToken,
    drain: CancellationToken,
    /// Central can be reached again: no need to wait.
    retry: Arc<Notify>,
    stats: watch::Receiver<Option<Tunnel>>,
    task: JoinSet<()>,
}

impl KeptTunnel {
    /// Starts bringing up the tunnel of this claim.
    pub fn start(claimed: Claimed, surroundings: Surroundings, settings: LinkSettings) -> Self {
        let (close, drain) = (CancellationToken::new(), CancellationToken::new());
        let (session, stats) = watch::channel(None);
        let retry = Arc::new(Notify::new());
        let mut task = JoinSet::new();
        let keeper = Keeper {
            claimed,
            surroundings,
            settings,
            session_id: SessionId::random(),
            session: None,
            shown: session,
            drain: drain.clone(),
            retry: retry.clone(),
        };
        task.spawn(keeper.run(close.clone()));
        Self { close, drain, retry, stats, task }
    }

    /// Central was heard elsewhere: if the tunnel waits for its next attempt, it waits no longer.
    pub fn try_now(&self) {
        self.retry.notify_waiters();
    }

    /// No new session under this epoch. Central ends the tunnel: it alone knows when the successor
    /// has come and the last stream is gone; until then this tunnel serves.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Resets every stream and closes the websocket. Returns within two seconds.
    pub async fn close(mut self) {
        if let Some(tunnel) = self.tunnel() {
            tunnel.abort(ResetCode::TUNNEL_LOST, "this agent is no longer the active gateway");
        }
        self.close.cancel();
        // What is not closed by then is dropped, which closes it less politely.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.task.join_next()).await;
    }

    /// The session, once central has admitted one.
    pub fn tunnel(&self) -> Option<Tunnel> {
        self.stats.borrow().clone()
    }
}

struct Keeper {
    claimed: Claimed,
    surroundings: Surroundings,
    settings: LinkSettings,
    session_id: SessionId,
    session: Option<Session>,
    shown: watch::Sender<Option<Tunnel>>,
    drain: CancellationToken,
    retry: Arc<Notify>,
}

/// The streams of one session and when the websocket under them was lost, on a clock that counts
/// sleep.
struct Session {
    tunnel: Tunnel,
    lost_at: Option<Duration>,
    _streams: JoinSet<()>,
}

/// Why an attempt brought no lane.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("central did not admit the tunnel: {0}")]
    Hello(LinkEnd),
    #[error(transparent)]
    Refused(Refusal),
    #[error("central continues the session from a place that cannot be: {0}")]
    Resume(driver::ResumeError),
}

impl Keeper {
    async fn run(mut self, close: CancellationToken) {
        let epoch = self.claimed.epoch;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let left = self.session_left();
            let attempt = tokio::select! {
                attempt = self.attempt() => attempt,
                // An attempt may hang for long; whoever waits for these streams must not.
                () = pause(left) => {
                    self.expire_session();
                    continue;
                }
                () = close.cancelled() => return,
            };
            let event = match attempt {
                Ok((tunnel, socket)) => {
                    self.tell(TunnelEvent::Up { epoch }).await;
                    let (began, before) = (tokio::time::Instant::now(), carried_bytes(&tunnel));
                    let end = self.run_lane(&tunnel, socket, &close).await;
                    let Some(end) = end else { return };
                    if began.elapsed() >= STABLE_AFTER || carried_bytes(&tunnel) - before >= STABLE_BYTES {
                        backoff.reset();
                    }
                    tunnel.detach();
                    if tunnel.is_over() || matches!(end, LaneEnd::Closed { code: driver::CLOSE_OVER, .. }) {
                        // Whoever waits for these streams learns it now, not after the resume window.
                        self.give_up_session("the session was ended");
                    } else if let Some(session) = &mut self.session {
                        session.lost_at = Some(SystemBootClock.now());
                    }
                    TunnelEvent::Lost { epoch, why: end.to_string() }
                }
                Err(Failed::Refused(refusal)) => {
                    if ends_session(refusal.code) {
                        // Its destinations learn it now, not after the resume window.
                        self.give_up_session("central will not continue the session");
                    }
                    TunnelEvent::Refused { epoch, refusal }
                }
                Err(error) => TunnelEvent::Lost { epoch, why: explain(&error) },
            };
            tracing::warn!(%epoch, ?event, "The tunnel is not up");
            self.tell(event).await;
            self.expire_session();
            if self.drain.is_cancelled()
                && self.session.as_ref().is_none_or(|s| s.tunnel.stats().streams == 0)
            {
                return self.tell(TunnelEvent::Drained { epoch }).await;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next(rand::random())) => {}
                () = pause(self.session_left()) => self.expire_session(),
                () = self.retry.notified() => backoff.reset(),
                () = close.cancelled() => return,
            }
        }
    }

    /// `None` when the tunnel was closed from inside.
    async fn run_lane(&self, tunnel: &Tunnel, socket: Socket, close: &CancellationToken) -> Option<LaneEnd> {
        let lane = tunnel.run(socket);
        tokio::pin!(lane);
        tokio::select! {
            end = &mut lane => Some(end),
            () = close.cancelled() => {
                tunnel.close(1001, "this agent is no longer the active gateway");
                // The lane flushes resets and the close, within a limit, and ends.
                let _ = tokio::time::timeout(Duration::from_secs(1), &mut lane).await;
                None
            }
        }
    }

    async fn attempt(&mut self) -> Result<(Tunnel, Socket), Failed> {
        let identity = self.surroundings.identity.borrow().clone();
        let socket = open(&identity, TUNNEL_PATH, TUNNEL_SUBPROTOCOL, driver::websocket_config()).await?;
        // Nothing is lost with the library's buffer: central says nothing before it has heard our hello.
        let mut socket = WebSocket::new(socket.into_inner(), Role::Client);
        let hello = TunnelHello {
            versions: Versions::OURS,
            node: self.claimed.node,
            epoch: self.claimed.epoch,
            boot: self.claimed.boot,
            session: self.session_id,
            resume: self.session.as_ref().map(|s| Resume { received_through: s.tunnel.received_through() }),
        };
        let admission = link::greet(&mut socket, &hello, ADMISSION_LIMIT).await.map_err(Failed::Hello)?;
        let (settings, resume) = match admission {
            TunnelAdmission::Admitted { settings, resume, .. } => (settings, resume),
            TunnelAdmission::Refused(refusal) => return Err(Failed::Refused(refusal)),
        };
        self.settings = settings;
        match (resume, &mut self.session) {
            (Some(resume), Some(session)) => {
                if let Err(error) = session.tunnel.reattach(resume.received_through) {
                    self.give_up_session("central continued from a place that cannot be");
                    return Err(Failed::Resume(error));
                }
                session.lost_at = None;
                Ok((session.tunnel.clone(), socket))
            }
            (_, _) => {
                self.give_up_session("central began the session anew");
                let tunnel = self.begin_session();
                Ok((tunnel, socket))
            }
        }
    }

    fn begin_session(&mut self) -> Tunnel {
        let (tunnel, mut incoming) = Tunnel::new(TunnelConfig {
            ping_interval: self.settings.ping_interval(),
            dead_after: self.settings.dead_after(),
            ..TunnelConfig::new(Side::Agent)
        });
        let dialer = self.surroundings.dialer.clone();
        let mut streams = JoinSet::new();
        // Ends with the session: an aborted tunnel has no more incoming streams.
        streams.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                tokio::select! {
                    stream = incoming.next() => match stream {
                        Some(stream) => drop(serving.spawn(serve(stream, dialer.clone()))),
                        None => break,
                    },
                    Some(_finished) = serving.join_next() => {}
                }
            }
        });
        self.shown.send_replace(Some(tunnel.clone()));
        self.session = Some(Session { tunnel: tunnel.clone(), lost_at: None, _streams: streams });
        tunnel
    }

    fn give_up_session(&mut self, why: &str) {
        if let Some(session) = self.session.take() {
            session.tunnel.abort(ResetCode::TUNNEL_LOST, why);
            self.shown.send_replace(None);
        }
    }

    /// Central keeps a session's streams for the resume window and no longer; nor do we.
    fn expire_session(&mut self) {
        if self.session_left() == Some(Duration::ZERO) {
            self.give_up_session("the resume window has passed");
        }
    }

    /// How long a session that has lost its websocket may still wait for another.
    fn session_left(&self) -> Option<Duration> {
        let lost_at = self.session.as_ref()?.lost_at?;
        let lost_for = SystemBootClock.now().saturating_sub(lost_at);
        Some(self.settings.resume_window().saturating_sub(lost_for))
    }

    async fn tell(&self, event: TunnelEvent) {
        // Only fails when the agent is stopping, and then nobody minds.
        let _ = self.surroundings.events.send(event).await;
    }
}

/// What a tunnel has carried so far, over all its websockets. It only grows.
fn carried_bytes(tunnel: &Tunnel) -> u64 {
    let stats = tunnel.stats();
    stats.bytes_in + stats.bytes_out
}

/// Waits so long; without a limit, for ever.
async fn pause(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// One stream: the allow-list, the dial, the relay.
async fn serve(stream: IncomingStream, dialer: Arc<Dialer>) {
    let open = stream.open().clone();
    let began = tokio::time::Instant::now();
    let trace_id = open.trace();
    // Boxed: what dialling needs would otherwise stay with the stream for as long as it is relayed.
    match Box::pin(dialer.dial(&open)).await {
        Ok(socket) => {
            let took = began.elapsed();
            tracing::debug!(%trace_id, destination = open.destination(), ?took, "A stream was connected");
            let end = driver::relay(socket, stream.accept()).await;
            tracing::debug!(%trace_id, destination = open.destination(), ?end, "A stream ended");
        }
        Err(error) => {
            let why = explain(&error);
            tracing::warn!(
                %trace_id,
                destination = open.destination(),
                host = open.host(),
                port = open.port(),
                why,
                "A stream was refused"
            );
            stream.refuse(error.code(), &why);
        }
    }
}

/// Whether no later knock can bring the session back.
fn ends_session(code: RefusalCode) -> bool {
    // An epoch that was overtaken once stays overtaken.
    matches!(code, RefusalCode::CannotResume | RefusalCode::StaleEpoch)
}
