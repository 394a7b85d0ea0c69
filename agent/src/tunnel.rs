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
//!
//! What this drives is the tunnel's first lane, which stands for the tunnel. Where central wants more of them, a session
//! has further ones beside it ([`lane`]), each kept up by itself; they end with the session.

mod lane;
mod serve;
mod traced;

use std::{sync::Arc, time::Duration};

use proto::{
    Backoff, BootId, Epoch, NodeId, SessionId,
    driver::{self, BootClock, LaneEnd, Lanes, Role, Side, SystemBootClock, Tunnel, TunnelConfig, WebSocket},
    hello::{
        LinkSettings, Refusal, RefusalCode, Resume, TUNNEL_PATH, TUNNEL_SUBPROTOCOL, TunnelAdmission,
        TunnelHello, Versions,
    },
    link::{self, LinkEnd},
    mux::ResetCode,
};
use serde::Serialize;
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use traces::Traces;

use self::{lane::FurtherLane, serve::serve_all};
use crate::{
    central::{OpenError, Opened, open},
    dialer::Dialer,
    identity::{Identity, segments::Line},
};
use program::explain;

/// A lane's websocket.
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
        /// How long nothing had been heard when it was given up. `None`: an attempt failed, nothing was heard at all.
        silent_for: Option<Duration>,
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
    pub traces: Traces,
}

/// A tunnel being kept up. Dropping it ends the tunnel: every stream is reset.
pub struct KeptTunnel {
    close: CancellationToken,
    drain: CancellationToken,
    /// Central can be reached again: no need to wait.
    retry: Arc<Notify>,
    stats: watch::Receiver<Option<Lanes>>,
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
    pub fn tunnel(&self) -> Option<Lanes> {
        self.stats.borrow().clone()
    }
}

struct Keeper {
    claimed: Claimed,
    surroundings: Surroundings,
    settings: LinkSettings,
    session_id: SessionId,
    session: Option<Session>,
    shown: watch::Sender<Option<Lanes>>,
    drain: CancellationToken,
    retry: Arc<Notify>,
}

/// The streams of one session and when the websocket under them was lost, on a clock that counts
/// sleep.
struct Session {
    /// The first one's and those beside it: what ends this ends them all.
    lanes: Lanes,
    lost_at: Option<Duration>,
    /// Whether the first lane has a websocket; the others knock only then.
    first_up: watch::Sender<bool>,
    _streams: JoinSet<()>,
    _further: JoinSet<()>,
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
                Ok((tunnel, Knocked { socket, line })) => {
                    self.tell(TunnelEvent::Up { epoch }).await;
                    let success = Success::of(&tunnel);
                    self.first_is_up(true);
                    let end = self.run_lane(&tunnel, socket, &close).await;
                    self.first_is_up(false);
                    let Some(end) = end else { return };
                    if stood_still(&end) {
                        line.stood_still();
                    }
                    if success.came(&tunnel) {
                        backoff.reset();
                    }
                    tunnel.detach();
                    if tunnel.is_over() || matches!(end, LaneEnd::Closed { code: driver::CLOSE_OVER, .. }) {
                        // Whoever waits for these streams learns it now, not after the resume window.
                        self.give_up_session("the session was ended");
                    } else if let Some(session) = &mut self.session {
                        session.lost_at = Some(SystemBootClock.now());
                    }
                    let silent_for = match &end {
                        LaneEnd::Dead { silent_for } => *silent_for,
                        _ => Duration::ZERO,
                    };
                    TunnelEvent::Lost { epoch, why: end.to_string(), silent_for: Some(silent_for) }
                }
                Err(Failed::Refused(refusal)) => {
                    if ends_session(refusal.code) {
                        // Its destinations learn it now, not after the resume window.
                        self.give_up_session("central will not continue the session");
                    }
                    TunnelEvent::Refused { epoch, refusal }
                }
                Err(error) => TunnelEvent::Lost { epoch, why: explain(&error), silent_for: None },
            };
            tracing::warn!(%epoch, ?event, "The tunnel is not up");
            self.tell(event).await;
            self.expire_session();
            if self.drain.is_cancelled() && self.session.as_ref().is_none_or(|s| s.lanes.stats().streams == 0)
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

    async fn attempt(&mut self) -> Result<(Tunnel, Knocked), Failed> {
        let mut knocked = knock(&self.surroundings, TUNNEL_PATH, TUNNEL_SUBPROTOCOL).await?;
        let received = |session: &Session| session.lanes.first().received_through();
        let hello = TunnelHello {
            resume: self.session.as_ref().map(|s| Resume { received_through: received(s) }),
            ..self.hello()
        };
        let (settings, resume) = admitted(knocked.greet(&hello).await?)?;
        self.settings = settings;
        match (resume, &mut self.session) {
            (Some(resume), Some(session)) => {
                if let Err(error) = session.lanes.first().reattach(resume.received_through) {
                    self.give_up_session("central continued from a place that cannot be");
                    return Err(Failed::Resume(error));
                }
                session.lost_at = None;
                Ok((session.lanes.first().clone(), knocked))
            }
            (_, _) => {
                self.give_up_session("central began the session anew");
                let tunnel = self.begin_session();
                Ok((tunnel, knocked))
            }
        }
    }

    fn begin_session(&mut self) -> Tunnel {
        let (tunnel, incoming) = Tunnel::new(tunnel_config(&self.settings));
        let lanes = Lanes::new(tunnel.clone());
        let mut streams = JoinSet::new();
        streams.spawn(serve_all(incoming, self.surroundings.clone()));
        let first_up = watch::Sender::new(false);
        let mut further = JoinSet::new();
        for number in self.settings.further_lanes() {
            let lane = FurtherLane::new(
                number,
                self.hello(),
                self.settings,
                self.surroundings.clone(),
                lanes.clone(),
                first_up.subscribe(),
            );
            further.spawn(lane.run());
        }
        self.shown.send_replace(Some(lanes.clone()));
        self.session = Some(Session { lanes, lost_at: None, first_up, _streams: streams, _further: further });
        tunnel
    }

    /// What every hello of this tunnel says, but for how far its lane has come.
    fn hello(&self) -> TunnelHello {
        TunnelHello {
            versions: Versions::OURS,
            node: self.claimed.node,
            epoch: self.claimed.epoch,
            boot: self.claimed.boot,
            session: self.session_id,
            resume: None,
        }
    }

    fn first_is_up(&self, up: bool) {
        if let Some(session) = &self.session {
            session.first_up.send_replace(up);
        }
    }

    fn give_up_session(&mut self, why: &str) {
        if let Some(session) = self.session.take() {
            session.lanes.abort(ResetCode::TUNNEL_LOST, why);
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

fn tunnel_config(settings: &LinkSettings) -> TunnelConfig {
    TunnelConfig {
        ping_interval: settings.ping_interval(),
        dead_after: settings.dead_after(),
        ..TunnelConfig::new(Side::Agent)
    }
}

/// A websocket for a lane, before any hello.
struct Knocked {
    socket: Socket,
    line: Line,
}

async fn knock(
    surroundings: &Surroundings,
    path: &'static str,
    subprotocol: &'static str,
) -> Result<Knocked, OpenError> {
    let identity = surroundings.identity.borrow().clone();
    let Opened { socket, line } = open(&identity, path, subprotocol, driver::websocket_config()).await?;
    // Nothing is lost with the library's buffer: central says nothing before it has heard our hello.
    Ok(Knocked { socket: WebSocket::new(socket.into_inner(), Role::Client), line })
}

impl Knocked {
    /// What central says to a tunnel's hello, or a lane's.
    async fn greet(&mut self, hello: &(impl Serialize + Sync)) -> Result<TunnelAdmission, Failed> {
        link::greet(&mut self.socket, hello, ADMISSION_LIMIT).await.map_err(|end| {
            if matches!(end, LinkEnd::Dead { .. } | LinkEnd::Stuck) {
                self.line.stood_still();
            }
            Failed::Hello(end)
        })
    }
}

/// Whether a lane ended because nothing came through any more: the peer was silent, or acknowledged nothing.
fn stood_still(end: &LaneEnd) -> bool {
    match end {
        LaneEnd::Dead { .. } => true,
        LaneEnd::Io(error) => error.kind() == std::io::ErrorKind::TimedOut,
        _ => false,
    }
}

fn admitted(admission: TunnelAdmission) -> Result<(LinkSettings, Option<Resume>), Failed> {
    match admission {
        TunnelAdmission::Admitted { settings, resume, .. } => Ok((settings, resume)),
        TunnelAdmission::Refused(refusal) => Err(Failed::Refused(refusal)),
    }
}

/// Whether a websocket was worth opening: the next attempt is quick then.
struct Success {
    began: tokio::time::Instant,
    carried: u64,
}

impl Success {
    fn of(lane: &Tunnel) -> Self {
        Self { began: tokio::time::Instant::now(), carried: carried_bytes(lane) }
    }

    fn came(&self, lane: &Tunnel) -> bool {
        self.began.elapsed() >= STABLE_AFTER || carried_bytes(lane) - self.carried >= STABLE_BYTES
    }
}

/// What a lane has carried so far, over all its websockets. It only grows.
fn carried_bytes(lane: &Tunnel) -> u64 {
    let stats = lane.stats();
    stats.bytes_in + stats.bytes_out
}

/// Waits so long; without a limit, for ever.
async fn pause(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Whether no later knock can bring the session back.
fn ends_session(code: RefusalCode) -> bool {
    // An epoch that was overtaken once stays overtaken.
    matches!(code, RefusalCode::CannotResume | RefusalCode::StaleEpoch)
}
