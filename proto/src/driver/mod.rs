//! Carries a [`Mux`] over websockets with tokio; the only part of `proto` that knows it (with [`crate::link`]).
//!
//! ```text
//!   TunnelStream ─┐ lock, take or put bytes, wake the lane
//!   TunnelStream ─┼──► Mutex<Mux + wakers + joined sockets> ◄──► lane: Tunnel::run(websocket) ◄──► peer
//!   socket ───────┘ ready: rings the lane, which reads and writes the socket itself (relay)
//! ```
//!
//! One owner per tunnel: the task that runs the lane. A hand-off costs a wake-up, and wake-ups are a fifth of what a
//! tunnel costs, so bytes pass from a socket to the websocket and back in one turn of that task.
//! A [`Tunnel`] outlives its websockets: when one ends, its streams wait for the next, or for [`Tunnel::abort`].
//! A tunnel of several websockets at a time is several of these side by side, held together by [`Lanes`].
//!
//! Silence (DESIGN, rule 2): an agent lets bytes out of the tunnel only while central answered a ping that was
//! sent less than `dead_after` ago, on a clock that counts sleep. The moment the ping was *sent* counts: an answer
//! that waited in a socket while this process was stopped proves nothing about now.

mod blocks;
mod clock;
mod lane;
mod lanes;
mod lease;
mod pace;
mod queue;
mod ready;
mod relay;
mod stream;
mod turns;
mod under_way;
mod websocket;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use self::blocks::Blocks;
use self::ready::Ready;
use self::relay::Socket;
use self::turns::Turns;

pub use self::clock::{BootClock, SystemBootClock, TokioClock};
pub use self::lane::{LaneEnd, ProtocolError, websocket_config};
pub use self::lanes::{Lane, Lanes};
pub use self::lease::Lease;
pub use self::queue::{prepare_stream_socket, prepare_tunnel_socket};
pub use self::relay::{RelayEnd, RelayEnded, relay};
pub use self::stream::{Incoming, IncomingStream, TunnelStream, reset_of};
pub use self::websocket::{Role, WebSocket, WebSocketEnd};
pub use crate::mux::{
    Limits, Meter, Open, OpenError, Reset, ResetCode, ResumeError, Side, StreamId, Transport,
};

use crate::mux::{Mux, MuxEvent, StreamsById};

/// How a tunnel behaves.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    pub side: Side,
    pub limits: Limits,
    /// How often the peer is asked whether it is there.
    pub ping_interval: Duration,
    /// Silence of this length is death.
    pub dead_after: Duration,
    /// Measures silence.
    pub clock: Arc<dyn BootClock>,
}

impl TunnelConfig {
    /// May bytes leave the tunnel towards a destination?
    fn may_write(&self, lease: &Lease) -> bool {
        match self.side {
            Side::Central => true,
            Side::Agent => lease.is_fresh(self.clock.now(), self.dead_after),
        }
    }

    /// The defaults: ping every 5 s, dead after 15 s, the machine's clock.
    pub fn new(side: Side) -> TunnelConfig {
        TunnelConfig {
            side,
            limits: Limits::default(),
            ping_interval: Duration::from_secs(5),
            dead_after: Duration::from_secs(15),
            clock: Arc::new(SystemBootClock),
        }
    }
}

/// One end of a tunnel: the session, which outlives a websocket. Clones are the same tunnel; dropping the last one
/// aborts it.
#[derive(Clone, Debug)]
pub struct Tunnel {
    shared: Arc<Shared>,
    _last: Arc<AbortWhenDropped>,
}

#[derive(Debug)]
struct AbortWhenDropped(Arc<Shared>);

impl Drop for AbortWhenDropped {
    fn drop(&mut self) {
        self.0.abort(Reset::new(ResetCode::TUNNEL_LOST, "the tunnel was given up"));
    }
}

/// What a tunnel looks like right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelStats {
    /// Streams that exist.
    pub streams: usize,
    /// Bytes of streams received and sent, over all websockets of this tunnel; repeated ones count once when
    /// received and each time when sent.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// How long ago anything was heard from the peer; `None` before the first websocket.
    pub silent_for: Option<Duration>,
    /// The last measured round trip.
    pub round_trip: Option<Duration>,
    /// Is a websocket attached?
    pub attached: bool,
}

impl Tunnel {
    /// A tunnel without a websocket yet, and the streams that the peer will open in it.
    pub fn new(config: TunnelConfig) -> (Tunnel, Incoming) {
        let mut mux = Mux::new(config.side, config.limits);
        mux.detach();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mux,
                lane: LaneState::default(),
                streams: StreamsById::default(),
                due: VecDeque::new(),
                sources: Turns::default(),
                held_up: Vec::new(),
                blocks: Blocks::default(),
                wakes: Vec::new(),
                incoming: VecDeque::new(),
                incoming_waker: None,
                ping_waiters: Vec::new(),
                lease: Lease::default(),
                heard_at: None,
                bytes_in: 0,
                bytes_out: 0,
            }),
            ready: Arc::default(),
            config,
        });
        let last = Arc::new(AbortWhenDropped(Arc::clone(&shared)));
        (Tunnel { shared: Arc::clone(&shared), _last: last }, Incoming::new(shared))
    }

    /// Drives one websocket until it ends. The tunnel's first websocket needs nothing before; every later one
    /// needs [`Tunnel::reattach`]. A second `run` ends the first with [`LaneEnd::Stopped`].
    ///
    /// Cancel-safe: dropping it detaches the websocket, streams keep waiting.
    pub async fn run<S>(&self, websocket: WebSocket<S>) -> LaneEnd
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        lane::run(&self.shared, websocket).await
    }

    /// Ends the websocket there is, if any, so that [`Tunnel::received_through`] stands still. Streams keep waiting.
    pub fn detach(&self) {
        self.shared.with(State::detach);
    }

    /// How far the peer's frames have come; the peer's [`Tunnel::reattach`] wants it. Exact only while detached.
    pub fn received_through(&self) -> u64 {
        self.shared.with(|state| state.mux.received_through())
    }

    /// Prepares the tunnel for its next websocket: the peer says that it received everything up to `peer_received`.
    ///
    /// # Errors
    /// If that cannot be true, or the tunnel still has a websocket, or is over.
    pub fn reattach(&self, peer_received: u64) -> Result<(), ResumeError> {
        self.shared.with(|state| {
            state.mux.reattach(peer_received)?;
            state.lane.prepared = true;
            Ok(())
        })
    }

    /// Opens a stream without waiting for the peer: what is written goes out behind the OPEN. Works while there is
    /// no websocket, too.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, open: Open, first: Bytes) -> Result<TunnelStream, OpenError> {
        self.shared.with(|state| {
            let id = state.mux.open(open, first)?;
            state.streams.insert(id, Slot::default());
            Ok(TunnelStream::new(Arc::clone(&self.shared), id))
        })
    }

    /// Asks the peer for a sign of life: the round trip, or `None` if none came within `limit`.
    pub async fn ping(&self, limit: Duration) -> Option<Duration> {
        let answered = self.shared.with(|state| {
            if !state.lane.attached {
                return None;
            }
            let (answer, answered) = oneshot::channel();
            let nonce = state.ping(tokio_now(), self.shared.config.clock.now());
            state.ping_waiters.retain(|(_, waiting)| !waiting.is_closed());
            state.ping_waiters.push((nonce, answer));
            Some(answered)
        })?;
        tokio::time::timeout(limit, answered).await.ok()?.ok()
    }

    /// Takes no new streams from now on, and tells the peer; those that exist go on.
    pub fn go_away(&self, code: ResetCode, reason: &str) {
        self.shared.with(|state| state.mux.go_away(Reset::new(code, reason)));
    }

    /// Ends the websocket with a close frame. Streams keep waiting for the next one.
    pub fn close(&self, code: u16, reason: &str) {
        self.shared.with(|state| state.close_lane(code, reason));
    }

    /// The tunnel is over: every stream is reset, at this end at once and at the other when its websocket closes.
    /// Nothing that was in the tunnel reaches anyone any more.
    pub fn abort(&self, code: ResetCode, reason: &str) {
        self.shared.abort(Reset::new(code, reason));
    }

    /// Was it aborted?
    pub fn is_over(&self) -> bool {
        self.shared.with(|state| state.mux.over().is_some())
    }

    /// May bytes leave the tunnel towards a destination? Always true for central.
    pub fn may_write(&self) -> bool {
        self.shared.with(|state| state.may_write(&self.shared.config))
    }

    /// Breaks one stream at once, both directions: its socket is reset at this end and at the other. False if there
    /// is no such stream any more.
    pub fn reset_stream(&self, id: StreamId, code: ResetCode, reason: &str) -> bool {
        self.shared.with(|state| {
            let there = state.mux.stream_bytes(id).is_some();
            state.mux.reset(id, Reset::new(code, reason));
            there
        })
    }

    /// Bytes that came and went on one stream so far; `None` once it is gone.
    pub fn stream_bytes(&self, id: StreamId) -> Option<(u64, u64)> {
        self.shared.with(|state| state.mux.stream_bytes(id))
    }

    /// The times of a stream that this end opened; empty ones once it is gone.
    pub fn meter(&self, id: StreamId) -> Meter {
        self.shared.with(|state| state.mux.meter(id)).unwrap_or_default()
    }

    pub fn stats(&self) -> TunnelStats {
        let now = self.shared.config.clock.now();
        self.shared.with(|state| TunnelStats {
            streams: state.mux.stream_count(),
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
            silent_for: state.heard_at.map(|at| now.saturating_sub(at)),
            round_trip: state.mux.round_trip(),
            attached: state.lane.attached,
        })
    }
}

/// What the handles and the lane share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ready: Arc<Ready>,
    config: TunnelConfig,
}

#[derive(Debug)]
struct State {
    mux: Mux,
    lane: LaneState,
    streams: StreamsById<Slot>,
    /// Joined streams that may have something for their sockets; each at most once.
    due: VecDeque<StreamId>,
    /// Joined streams whose sockets may have something for the tunnel; each at most once.
    sources: Turns,
    /// Joined streams whose sockets are not read for want of room; each at most once.
    held_up: Vec<StreamId>,
    blocks: Blocks,
    /// Whom to wake when the lock is free again.
    wakes: Vec<Waker>,
    incoming: VecDeque<StreamId>,
    incoming_waker: Option<Waker>,
    ping_waiters: Vec<(u64, oneshot::Sender<Duration>)>,
    lease: Lease,
    /// On the boot clock: when the last message of any kind came.
    heard_at: Option<Duration>,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Debug, Default)]
struct LaneState {
    /// Counts websockets, so that an old lane finds out that it was replaced.
    generation: u64,
    attached: bool,
    /// `reattach` succeeded (or none is needed) and the next `run` may start.
    prepared: bool,
    started: bool,
    waker: Option<Waker>,
    /// The lane sleeps and wants to hear of work.
    resting: bool,
    /// Its websocket takes nothing more at the moment.
    flushing: bool,
    /// Somebody else made work while the lane was awake.
    poked: bool,
    close: Option<(u16, String)>,
}

/// What the driver knows of one stream: who waits for what, or the socket that the lane serves.
#[derive(Debug, Default)]
struct Slot {
    read: Option<Waker>,
    write: Option<Waker>,
    opened: Option<Waker>,
    broken: Option<Waker>,
    socket: Option<Box<Socket>>,
}

impl Slot {
    fn all(&mut self) -> impl Iterator<Item = Waker> {
        [self.read.take(), self.write.take(), self.opened.take(), self.broken.take()].into_iter().flatten()
    }
}

impl Shared {
    /// Does something under the lock, then wakes whom it concerns, without the lock.
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        self.locked(|state| {
            let result = act(state);
            state.collect_events();
            if state.has_work() {
                state.rouse_lane();
            }
            result
        })
    }

    /// The same for the lane itself, which is awake and looks for what there is to do before it rests.
    fn with_from_lane<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        self.locked(|state| {
            let result = act(state);
            state.collect_events();
            result
        })
    }

    fn locked<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let (result, wakes) = {
            // A panic elsewhere must not take the tunnel along: the mux holds no half-made state across calls.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = act(&mut state);
            (result, std::mem::take(&mut state.wakes))
        };
        wakes.into_iter().for_each(Waker::wake);
        result
    }

    fn abort(&self, reset: Reset) {
        self.with(|state| {
            let reason = reset.to_string();
            state.mux.abort(reset);
            state.ping_waiters.clear();
            state.close_lane(CLOSE_OVER, &reason);
            if let Some(waker) = state.incoming_waker.take() {
                waker.wake();
            }
        });
    }
}

impl State {
    fn may_write(&self, config: &TunnelConfig) -> bool {
        config.may_write(&self.lease)
    }

    fn ping(&mut self, now: Instant, boot_now: Duration) -> u64 {
        let nonce = self.mux.ping(now);
        self.lease.asked(nonce, boot_now);
        nonce
    }

    fn close_lane(&mut self, code: u16, reason: &str) {
        if self.lane.attached {
            self.lane.close.get_or_insert((code, reason.to_owned()));
        }
    }

    fn detach(&mut self) {
        self.mux.detach();
        self.lane.generation += 1;
        self.lane.attached = false;
        self.lane.prepared = false;
        self.lane.close = None;
        self.ping_waiters.clear();
        self.lease.forget_questions();
        self.wakes.extend(self.lane.waker.take());
        self.hand_back();
    }

    /// Turns events into wake-ups, or into work for the lane.
    fn collect_events(&mut self) {
        while let Some(event) = self.mux.poll_event() {
            match event {
                MuxEvent::Incoming(id) => {
                    self.streams.insert(id, Slot::default());
                    self.incoming.push_back(id);
                    self.wakes.extend(self.incoming_waker.take());
                }
                MuxEvent::Opened(id) => self.wake(id, |slot| slot.opened.take()),
                MuxEvent::Readable(id) => {
                    if !self.make_due(id) {
                        self.wake(id, |slot| slot.read.take());
                    }
                }
                MuxEvent::Writable(id) => {
                    if !self.make_due(id) {
                        self.wake(id, |slot| slot.write.take());
                    }
                }
                MuxEvent::Broken(id) => {
                    self.make_due(id);
                    if let Some(slot) = self.streams.get_mut(&id) {
                        self.wakes.extend(slot.all());
                    }
                }
                MuxEvent::GoAway(reset) => tracing::info!(%reset, "The peer takes no new streams"),
                MuxEvent::Pong { nonce, round_trip } => {
                    if self.lease.answered(nonce) {
                        // Readers may have stalled for want of it.
                        self.wakes.extend(self.streams.values_mut().filter_map(|slot| slot.read.take()));
                        self.take_over();
                    }
                    let (answered, waiting) = std::mem::take(&mut self.ping_waiters)
                        .into_iter()
                        .partition(|(asked, _)| *asked <= nonce);
                    self.ping_waiters = waiting;
                    for (_, answer) in Vec::from_iter::<Vec<_>>(answered) {
                        let _ = answer.send(round_trip); // whoever asked may have given up
                    }
                }
            }
        }
    }

    /// Is there something that the lane could do?
    fn has_work(&self) -> bool {
        let can_fetch = !self.sources.is_empty() && !self.mux.is_far_ahead();
        let can_send = !self.lane.flushing && (can_fetch || self.mux.has_output());
        can_send || !self.due.is_empty() || self.lane.close.is_some()
    }

    fn rouse_lane(&mut self) {
        if self.lane.resting {
            self.lane.resting = false;
            self.wakes.extend(self.lane.waker.take());
        } else {
            self.lane.poked = true;
        }
    }

    /// The lane found nothing more to do. False if somebody made work meanwhile.
    fn rest(&mut self, flushing: bool) -> bool {
        self.lane.flushing = flushing;
        self.lane.resting = !self.lane.poked;
        self.lane.resting
    }

    fn wake(&mut self, id: StreamId, which: impl FnOnce(&mut Slot) -> Option<Waker>) {
        self.wakes.extend(self.streams.get_mut(&id).and_then(which));
    }
}

/// Remembers whom to wake, without cloning when it is the same task.
fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// Registers and waits.
fn wait<T>(slot: &mut Option<Waker>, cx: &Context<'_>) -> Poll<T> {
    remember(slot, cx);
    Poll::Pending
}

/// Tokio's clock, which tests can pause.
fn tokio_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The websocket's close code with which an aborted tunnel ends: no other websocket can continue it. One of the codes
/// that RFC 6455 leaves to applications, so that nobody between the two ends says it by chance.
pub const CLOSE_OVER: u16 = 4001;
