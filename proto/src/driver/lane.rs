//! One websocket of a tunnel, from its first frame to its end.
//!
//! Every time it wakes up it first asks how long the peer has been silent, on a clock that counts sleep: after a
//! pause, what waits in the socket must not count as a sign of life. Then it sends, reads and serves the joined
//! sockets in turn. Reading never waits for sending, and one turn moves a bounded amount of bytes.
//!
//! A socket is read only while the websocket takes what it gives: what waits, waits where nothing was promised about
//! its order yet, and control and small streams pass it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::pace::Pace;
use super::under_way::UnderWay;
use super::{Shared, WebSocket, WebSocketEnd, remember, tokio_now};
use crate::frame::{Frame, HEADER_BYTES, PAYLOAD_MAX_BYTES};
use crate::mux::{MuxError, RateBudget, Reset, ResetCode, StreamId};
use crate::websocket::{Message, WebSocketError};

/// Why a websocket ended. The tunnel may go on with another, except after `Protocol`.
#[derive(Debug)]
pub enum LaneEnd {
    /// The peer closed it, and said why.
    Closed { code: u16, reason: String },
    /// The connection broke.
    Io(io::Error),
    /// The peer was silent for longer than `dead_after`.
    Dead { silent_for: Duration },
    /// The peer broke the protocol; the tunnel was aborted.
    Protocol(ProtocolError),
    /// This end closed, detached or aborted it.
    Stopped,
    /// There is a websocket already, or [`super::Tunnel::reattach`] was not called, or the tunnel is over.
    Unprepared,
}

impl std::fmt::Display for LaneEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LaneEnd::Closed { code, reason } if reason.is_empty() => write!(f, "the peer closed it ({code})"),
            LaneEnd::Closed { code, reason } => write!(f, "the peer closed it: {reason} ({code})"),
            LaneEnd::Io(error) => write!(f, "the connection broke: {error}"),
            LaneEnd::Dead { silent_for } => write!(f, "the peer was silent for {silent_for:.1?}"),
            LaneEnd::Protocol(error) => write!(f, "{}", error.in_full()),
            LaneEnd::Stopped => write!(f, "it was stopped at this end"),
            LaneEnd::Unprepared => write!(f, "the tunnel was not prepared for another websocket"),
        }
    }
}

/// How a peer can break the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Mux(#[from] MuxError),
    #[error("the peer sent a text message; a tunnel carries binary ones")]
    Text,
    #[error("the peer sent more websocket pings than {per_second} a second")]
    PingFlood { per_second: u32 },
    #[error("the peer broke the websocket protocol")]
    WebSocket(#[source] WebSocketError),
}

impl ProtocolError {
    /// The close code that says it to the peer.
    fn close_code(&self) -> u16 {
        match self {
            ProtocolError::WebSocket(error) => error.close_code(),
            ProtocolError::Mux(_) | ProtocolError::Text | ProtocolError::PingFlood { .. } => 1002,
        }
    }

    /// With what is behind it: both ends show this to people, and one line is all they get.
    fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let words = cause.to_string();
            // Some libraries repeat their source themselves.
            if !text.ends_with(&words) {
                text = format!("{text}: {words}");
            }
            source = cause.source();
        }
        text
    }
}

/// What the library that does the opening handshake of a tunnel's websocket should be told: bounded messages, small
/// buffers. Behind the handshake the bytes are ours ([`WebSocket`]).
pub fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_MAX_BYTES * 2)
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES))
}

/// Frames share a message until it has this many bytes; one more may follow.
const COALESCE_BYTES: usize = 16 * 1024;
/// An acknowledgement that goes along with other frames: its header and a number.
const ACK_BYTES: usize = HEADER_BYTES + 8;
/// The longest message this end sends or takes.
pub(super) const MESSAGE_MAX_BYTES: usize = COALESCE_BYTES + HEADER_BYTES + PAYLOAD_MAX_BYTES;
/// A TLS record's worth; rustls hands out no more at once.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// What one turn may move before others get theirs: whole cooperative budgets cost tens of milliseconds of latency.
const TURN_BYTES: usize = 256 * 1024;
/// A new websocket begins with a few pings close together: windows follow the shortest round trip, and a single one may
/// have found a busy processor instead of the line.
const EARLY_PINGS: u32 = 4;
const EARLY_PING_INTERVAL: Duration = Duration::from_millis(50);
/// How long a close frame may take to be answered.
const CLOSING: Duration = Duration::from_secs(2);
const WEBSOCKET_PINGS_PER_SECOND: u32 = 50;
/// What a close says that comes without a code.
const CLOSE_NO_CODE: u16 = 1005;

pub(super) async fn run<S>(shared: &Shared, websocket: WebSocket<S>) -> LaneEnd
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Some(generation) = attach(shared) else { return LaneEnd::Unprepared };
    let attached = Attached { shared, generation };
    let sleep = pin!(tokio::time::sleep(Duration::ZERO));
    let mut lane = Lane {
        shared,
        generation,
        websocket,
        flushing: false,
        next_ping: Instant::now(),
        early_pings: EARLY_PINGS,
        sleep,
        rung: Vec::new(),
        pings: RateBudget::new(WEBSOCKET_PINGS_PER_SECOND, WEBSOCKET_PINGS_PER_SECOND),
        pace: Pace::new(PAYLOAD_MAX_BYTES, tokio_now()),
        unpaced: 0,
        under_way: UnderWay::new(tokio_now()),
        held_back: false,
    };
    // The turn's own bound stands in for tokio's, which would stop a lane after so many small reads of any stream.
    let ended = unconstrained(poll_fn(|cx| lane.poll(cx))).await;
    drop(attached); // streams see the end before the courtesies of closing take their time
    let Lane { websocket, .. } = lane;
    match ended {
        Ended::AtOnce(end) => end,
        Ended::Answering(end) => {
            say_goodbye(websocket, None).await;
            end
        }
        Ended::Closing { code, reason } => {
            say_goodbye(websocket, Some((code, &reason))).await;
            LaneEnd::Stopped
        }
        Ended::Broken(error) => {
            let reason = error.in_full();
            shared.abort(Reset::new(ResetCode::PROTOCOL, &reason));
            say_goodbye(websocket, Some((error.close_code(), &reason))).await;
            LaneEnd::Protocol(error)
        }
    }
}

/// What is left to do when a lane ends.
enum Ended {
    AtOnce(LaneEnd),
    /// The peer closed; its close frame wants an answer.
    Answering(LaneEnd),
    Closing {
        code: u16,
        reason: String,
    },
    Broken(ProtocolError),
}

impl From<LaneEnd> for Ended {
    fn from(end: LaneEnd) -> Ended {
        Ended::AtOnce(end)
    }
}

fn attach(shared: &Shared) -> Option<u64> {
    let now = shared.config.clock.now();
    shared.with(|state| {
        if state.lane.attached {
            return None;
        }
        if !state.lane.prepared && (state.lane.started || state.mux.reattach(0).is_err()) {
            return None;
        }
        state.lane.prepared = false;
        state.lane.started = true;
        state.lane.attached = true;
        state.lane.generation += 1;
        state.lane.resting = false;
        state.lane.flushing = false;
        state.heard_at = Some(now); // the hello that led here
        state.take_over();
        Some(state.lane.generation)
    })
}

/// Detaches the tunnel however `run` ends, cancellation included.
struct Attached<'a> {
    shared: &'a Shared,
    generation: u64,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.shared.with(|state| {
            if state.lane.generation == self.generation {
                state.detach();
                self.shared.ready.leave();
            }
        });
    }
}

struct Lane<'a, S> {
    shared: &'a Shared,
    generation: u64,
    websocket: WebSocket<S>,
    flushing: bool,
    next_ping: Instant,
    /// So many come soon after each other yet.
    early_pings: u32,
    sleep: Pin<&'a mut Sleep>,
    /// Streams whose sockets became ready, on their way into the queue.
    rung: Vec<StreamId>,
    pings: RateBudget,
    pace: Pace,
    /// Of the message that is on its way into the socket.
    unpaced: usize,
    under_way: UnderWay,
    /// Something waits because enough is under way: the line is as full as it should be.
    held_back: bool,
}

/// What one direction achieved.
enum Step {
    Moved(usize),
    Waiting,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(ended) => Poll::Ready(ended),
        }
    }

    /// One turn: everything that can be done now, up to `TURN_BYTES`.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let mut moved = 0;
        self.shared.ready.watch(cx);
        loop {
            self.check_silence()?;
            self.do_what_is_due(cx)?;
            let sent = self.send(cx)?;
            let received = self.receive(cx)?;
            match (sent, received) {
                (Step::Waiting, Step::Waiting) => {
                    let rests = self.shared.with_from_lane(|state| state.rest(self.flushing));
                    if rests && self.set_timer(cx) {
                        return Ok(());
                    }
                }
                (sent, received) => {
                    moved += sent.bytes() + received.bytes();
                    if moved >= TURN_BYTES {
                        cx.waker().wake_by_ref();
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes what has arrived, and hands it out, for half a turn: what it makes us say (credit, acknowledgements) goes
    /// out once and not after each message.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<Step, Ended> {
        let mut moved = 0;
        loop {
            let read = self.read(cx)?;
            let served = self.serve();
            if matches!((&read, &served), (Step::Waiting, Step::Waiting)) {
                return Ok(if moved > 0 { Step::Moved(moved) } else { Step::Waiting });
            }
            moved += read.bytes() + served.bytes();
            if moved >= TURN_BYTES / 2 {
                return Ok(Step::Moved(moved));
            }
        }
    }

    fn check_silence(&self) -> Result<(), Ended> {
        let now = self.shared.config.clock.now();
        let heard_at = self.shared.with_from_lane(|state| state.heard_at).unwrap_or(now);
        let silent_for = now.saturating_sub(heard_at);
        if silent_for > self.shared.config.dead_after {
            return Err(LaneEnd::Dead { silent_for }.into());
        }
        Ok(())
    }

    fn do_what_is_due(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let now = Instant::now();
        let ping = now >= self.next_ping;
        if ping {
            let interval = self.shared.config.ping_interval;
            self.next_ping =
                now + if self.early_pings > 0 { interval.min(EARLY_PING_INTERVAL) } else { interval };
            self.early_pings = self.early_pings.saturating_sub(1);
        }
        let boot_now = self.shared.config.clock.now();
        self.shared.with_from_lane(|state| {
            if state.lane.generation != self.generation {
                return Err(LaneEnd::Stopped.into());
            }
            remember(&mut state.lane.waker, cx);
            // From here on everything is looked at; what others do meanwhile is another look.
            (state.lane.resting, state.lane.flushing, state.lane.poked) = (false, false, false);
            if let Some((code, reason)) = state.lane.close.take() {
                return Err(Ended::Closing { code, reason });
            }
            state.mux.handle_timeout(now.into_std());
            if ping {
                self.websocket.rest();
                state.blocks.rest();
                state.look_after_held_up();
                state.ping(now.into_std(), boot_now);
            }
            Ok(())
        })
    }

    /// Sends one message, if there is one and the last one is through.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<Step, Ended> {
        if self.flushing && self.flush(cx)?.is_pending() {
            return Ok(Step::Waiting);
        }
        let out = self.websocket.out();
        let piece = self.pace.piece_bytes();
        let bound = self.under_way.bound_bytes();
        let (bytes, progress, was_met) = self.shared.with_from_lane(|state| {
            state.mux.set_frame_bytes(piece);
            state.mux.set_under_way_bytes(bound);
            while out.message_len() < COALESCE_BYTES.min(piece) {
                if let Some(frame) = state.mux.poll_transmit() {
                    state.bytes_out += frame.body.stream_bytes() as u64;
                    frame.encode(out.message());
                } else if state.fetch_next(piece).is_none() {
                    break;
                }
            }
            if (1..=MESSAGE_MAX_BYTES - ACK_BYTES).contains(&out.message_len())
                && let Some(ack) = state.mux.poll_ack_along()
            {
                ack.encode(out.message());
            }
            let was_met = state.mux.is_far_ahead() && !state.sources.is_empty();
            (out.message_len(), state.mux.progress(), was_met)
        });
        let now = tokio_now();
        self.under_way.sent(progress, was_met, now);
        self.held_back |= was_met;
        if bytes == 0 {
            return Ok(Step::Waiting);
        }
        out.seal(rand::random());
        self.unpaced = bytes;
        let _ = self.flush(cx)?; // pending or not, a message left the mux
        Ok(Step::Moved(bytes))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        let sent = self.websocket.poll_send(cx).map_err(LaneEnd::Io)?;
        self.flushing = sent.is_pending();
        let bytes = if self.flushing { 0 } else { std::mem::take(&mut self.unpaced) };
        let full = self.flushing || std::mem::take(&mut self.held_back);
        self.pace.sent(bytes, full, tokio_now());
        Ok(sent)
    }

    /// Hands out what arrived, and hears which sockets are ready.
    fn serve(&mut self) -> Step {
        self.shared.ready.take(&mut self.rung);
        let mut left = self.shared.with_from_lane(|state| {
            for id in self.rung.drain(..) {
                state.make_due(id);
            }
            state.due.len()
        });
        let (mut served, mut moved) = (false, 0);
        while left > 0 && moved < TURN_BYTES {
            // The lock is free between two sockets: others want to open and end streams.
            moved += self.shared.with_from_lane(|state| match state.due.pop_front() {
                Some(id) => state.carry(id, self.shared, None),
                None => 0,
            });
            served = true;
            left -= 1;
        }
        if served { Step::Moved(moved.max(1)) } else { Step::Waiting }
    }

    /// Reads one message, if there is one.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Step, Ended> {
        let message = match self.websocket.poll_message(cx) {
            Poll::Pending => return Ok(Step::Waiting),
            Poll::Ready(Ok(message)) => message,
            Poll::Ready(Err(WebSocketEnd::Io(error))) => return Err(LaneEnd::Io(error).into()),
            Poll::Ready(Err(WebSocketEnd::Peer(error))) => {
                return Err(Ended::Broken(ProtocolError::WebSocket(error)));
            }
        };
        // Again, now that the message is in hand: a pause may have fallen between the last check and here.
        self.check_silence()?;
        let mut bytes = 1;
        match message {
            Message::Binary(message) => {
                bytes += message.len();
                self.take(message).map_err(|error| Ended::Broken(error.into()))?;
            }
            Message::Text(_) => return Err(Ended::Broken(ProtocolError::Text)),
            Message::Ping(_) | Message::Pong => {
                if !self.pings.take(tokio_now()) {
                    let per_second = self.pings.per_second();
                    return Err(Ended::Broken(ProtocolError::PingFlood { per_second }));
                }
                if let Message::Ping(payload) = message {
                    self.websocket.pong(payload);
                    self.flushing = true;
                }
                self.take(Bytes::new()).map_err(|error| Ended::Broken(error.into()))?;
            }
            Message::Close(close) => {
                let code = close.code.unwrap_or(CLOSE_NO_CODE);
                return Err(Ended::Answering(LaneEnd::Closed { code, reason: close.reason }));
            }
        }
        Ok(Step::Moved(bytes))
    }

    fn take(&mut self, mut message: Bytes) -> Result<(), MuxError> {
        let now = tokio_now();
        let boot_now = self.shared.config.clock.now();
        let progress = self.shared.with_from_lane(|state| {
            if state.lane.generation != self.generation {
                return Ok::<_, MuxError>(None); // replaced meanwhile; the next turn ends it
            }
            state.heard_at = Some(boot_now);
            while !message.is_empty() {
                let frame = Frame::decode(&mut message).map_err(MuxError::Frame)?;
                state.bytes_in += frame.body.stream_bytes() as u64;
                state.mux.handle_frame(frame, now)?;
            }
            Ok(Some(state.mux.progress()))
        })?;
        if let Some(progress) = progress {
            self.under_way.heard(progress, now);
        }
        Ok(())
    }

    /// Sleeps until the next thing is due; false if it is due already.
    fn set_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        let boot_now = self.shared.config.clock.now();
        let dead_after = self.shared.config.dead_after;
        let (wanted, heard_at) =
            self.shared.with_from_lane(|state| (state.mux.poll_timeout(now.into_std()), state.heard_at));
        // A little after the deadline, so that the comparison is clear.
        let silence_left = dead_after.saturating_sub(boot_now.saturating_sub(heard_at.unwrap_or(boot_now)))
            + Duration::from_millis(1);
        let mut at = self.next_ping.min(now + silence_left);
        if let Some(wanted) = wanted {
            at = at.min(Instant::from_std(wanted));
        }
        self.sleep.as_mut().reset(at);
        self.sleep.as_mut().poll(cx).is_pending()
    }
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Step::Moved(bytes) => *bytes,
            Step::Waiting => 0,
        }
    }
}

/// Says goodbye, or answers the peer's, within a limit: whoever does not answer in time has been told at least.
async fn say_goodbye<S>(websocket: WebSocket<S>, close: Option<(u16, &str)>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _ = tokio::time::timeout(CLOSING, websocket.close(close)).await;
}
