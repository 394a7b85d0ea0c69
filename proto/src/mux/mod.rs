//! Many streams in one tunnel, as a machine: frames in, events out, and back.
//!
//! ```text
//!   open, write, finish, reset, read          handle_frame ◄── peer
//!             │                                    │
//!             ▼                                    ▼
//!      ┌─ streams: unsent │ unread ─┬─ credit ─┬─ events ──► owner
//!      └────────────┬───────────────┴──────────┘
//!                   ▼ schedule: control, then streams in turn
//!             poll_transmit ──► numbered, kept until acknowledged ──► peer
//! ```
//!
//! Invariants, whatever the peer sends: memory is bounded by [`Limits`]; no stream gets a byte twice, out of order
//! or not at all, over any number of cuts; a stream that broke never looks finished.
//!
//! Absent on purpose: sockets, clocks, tasks, dice. Time arrives as `now`.

mod budget;
mod by_id;
mod chunks;
mod error;
mod flow;
mod limits;
mod meter;
mod own;
mod receive;
mod resume;
mod schedule;
mod stream;
mod transmit;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

#[cfg(feature = "driver")]
pub(crate) use self::budget::Budget as RateBudget;
#[cfg(feature = "driver")]
pub(crate) use self::by_id::ById as StreamsById;
pub use self::error::MuxError;
pub use self::flow::{OPEN_CREDIT_BYTES, TUNNEL_CREDIT_BYTES};
pub use self::limits::Limits;
pub use self::meter::Meter;
pub use self::resume::ResumeError;
use crate::frame::{Body, Frame};
pub use crate::frame::{Open, Reset, ResetCode, StreamId, Transport};

use self::budget::Budget;
use self::by_id::ById;
use self::flow::{Receiving, RecentRoundTrips, Sending};
use self::resume::{Inbox, Outbox};
use self::schedule::Schedule;
use self::stream::{Fin, LITTLE_BYTES, LITTLE_WAIT, Opening, Stream};

/// Which end of the tunnel this is. Decides who gives odd stream numbers, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Central,
    Agent,
}

impl Side {
    fn opens(self, stream: StreamId) -> bool {
        (stream.0 % 2 == 1) == (self == Side::Central)
    }
}

/// What its owner should know. Each kind waits at most once per stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MuxEvent {
    /// The peer opened a stream: [`Mux::accept`] or [`Mux::reset`] it.
    Incoming(StreamId),
    /// The peer accepted our stream.
    Opened(StreamId),
    /// There are bytes, or the end, to read.
    Readable(StreamId),
    /// A writer that found no room finds some now.
    Writable(StreamId),
    /// The stream broke; reading and writing say why.
    Broken(StreamId),
    /// The peer takes no new streams.
    GoAway(Reset),
    /// A ping was answered, and with it all older ones.
    Pong { nonce: u64, round_trip: Duration },
}

/// What [`Mux::read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    Bytes(Bytes),
    /// Nothing yet; [`MuxEvent::Readable`] follows.
    Nothing,
    /// The peer finished this direction.
    End,
}

/// How far an end's numbered frames have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last one that went out.
    pub sent: u64,
    /// The last one that the peer has acknowledged.
    pub acknowledged: u64,
    /// All that it has acknowledged so far.
    pub acknowledged_bytes: u64,
    /// What it has not.
    pub under_way_bytes: usize,
}

/// Why a stream cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the first bytes are {len}, at most {OPEN_CREDIT_BYTES} may go with the opening")]
    FirstBytesTooLong { len: usize },
    #[error("the tunnel has {0} streams already, which is its limit")]
    TooManyStreams(usize),
    #[error("the tunnel has used up its stream numbers")]
    StreamsExhausted,
    #[error("the peer takes no new streams: {0}")]
    GoingAway(Reset),
    #[error("the tunnel is over: {0}")]
    Over(Reset),
}

/// Why a stream cannot be written to or read from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("the stream was reset")]
    Reset(#[from] Reset),
    #[error("the stream's sending direction was finished already")]
    Finished,
    #[error("there is no stream {0}")]
    Unknown(StreamId),
}

/// One end of a tunnel. A value: the model in `tests/model` copies it to try every way it can go on.
#[derive(Clone, Debug)]
pub struct Mux {
    side: Side,
    limits: Limits,
    /// The largest DATA payload at the moment.
    frame_bytes: usize,
    /// What may be unacknowledged at the moment.
    under_way_bytes: usize,
    link: Link,
    /// Boxed, because a map's empty places cost as much as its full ones.
    streams: ById<Box<Stream>>,
    /// The last stream each end opened; numbers only grow.
    last_ours: Option<StreamId>,
    last_theirs: Option<StreamId>,
    schedule: Schedule,
    events: VecDeque<MuxEvent>,

    outbox: Outbox,
    inbox: Inbox,
    sending: Sending,
    receiving: Receiving,
    tunnel_window_due: bool,
    /// What all streams' grants add up to.
    granted: u64,
    /// What all streams hold unsent.
    unsent: usize,

    going_away: GoingAway,
    pings: Pings,
    budgets: Budgets,
}

/// Whether there is a websocket, or ever will be again.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    Attached,
    Detached,
    Over(Reset),
}

#[derive(Clone, Debug, Default)]
struct GoingAway {
    /// The peer said so.
    peer: Option<Reset>,
    /// We say so: the frame that still has to go out, and that new streams are refused.
    unsent: Option<Reset>,
    ours: Option<Reset>,
}

#[derive(Clone, Debug, Default)]
struct Pings {
    last_nonce: u64,
    /// A ping wants to go out, not before the time given.
    due: Option<(u64, Instant)>,
    ready: Option<u64>,
    /// Asked and not answered: when [`Mux::ping`] was called.
    open: VecDeque<(u64, Instant)>,
    pong_owed: Option<u64>,
    last_sent_at: Option<Instant>,
    round_trip: Option<Duration>,
    recent: RecentRoundTrips,
}

#[derive(Clone, Debug)]
struct Budgets {
    opens: Budget,
    refusals: Budget,
    pings: Budget,
    idle: Budget,
}

/// Our own pings keep this distance, well inside what the peer's budget allows.
const PING_SPACING: Duration = Duration::from_millis(25);
/// Pings remembered until answered; older ones are answered by newer pongs anyway.
const OPEN_PINGS_MAX: usize = 16;

impl Mux {
    /// A tunnel that has a websocket and has sent nothing yet.
    pub fn new(side: Side, limits: Limits) -> Mux {
        let limits = limits.checked();
        Mux {
            side,
            frame_bytes: limits.frame_bytes,
            under_way_bytes: limits.unacknowledged_bytes,
            link: Link::Attached,
            streams: ById::default(),
            last_ours: None,
            last_theirs: None,
            schedule: Schedule::default(),
            events: VecDeque::new(),
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            sending: Sending::new(TUNNEL_CREDIT_BYTES),
            receiving: Receiving::new(limits.tunnel_window_bytes, limits.tunnel_window_bytes),
            tunnel_window_due: limits.tunnel_window_bytes > TUNNEL_CREDIT_BYTES,
            granted: 0,
            unsent: 0,
            going_away: GoingAway::default(),
            pings: Pings::default(),
            budgets: Budgets {
                opens: Budget::new(limits.opens_per_second, limits.opens_per_second),
                refusals: Budget::new(limits.opens_per_second, limits.opens_per_second),
                pings: Budget::new(PINGS_PER_SECOND, PINGS_PER_SECOND),
                idle: Budget::new(IDLE_FRAMES_PER_SECOND, IDLE_FRAMES_PER_SECOND),
            },
            limits,
        }
    }

    /// From now on DATA frames have so many bytes at most, within what [`Limits`] allow.
    pub fn set_frame_bytes(&mut self, bytes: usize) {
        self.frame_bytes = bytes.clamp(1, self.limits.frame_bytes);
    }

    /// From now on no more than so many bytes should be unacknowledged, within what [`Limits`] allow; a little more may,
    /// so that what is small need not wait.
    pub fn set_under_way_bytes(&mut self, bytes: usize) {
        self.under_way_bytes = bytes.clamp(1, self.limits.unacknowledged_bytes);
    }

    // ---- the tunnel as a whole; what its owner does with streams is in `own` ----

    /// Refuses new streams from now on, from either end, and tells the peer. Those that exist go on.
    pub fn go_away(&mut self, reset: Reset) {
        if self.going_away.ours.is_none() {
            self.going_away.ours = Some(reset.clone());
            self.going_away.unsent = Some(reset);
        }
    }

    /// Asks whether the peer is there; [`MuxEvent::Pong`] with the returned nonce, or a higher one, is the answer.
    /// A ping that has not gone out yet serves for all who ask.
    pub fn ping(&mut self, now: Instant) -> u64 {
        if let Some(nonce) = self.pings.ready.or(self.pings.due.map(|(nonce, _)| nonce)) {
            return nonce;
        }
        self.pings.last_nonce += 1;
        let nonce = self.pings.last_nonce;
        match self.pings.last_sent_at.map(|sent| sent + PING_SPACING).filter(|at| *at > now) {
            Some(at) => self.pings.due = Some((nonce, at)),
            None => self.make_ping_ready(nonce, now),
        }
        nonce
    }

    /// The websocket is gone. Streams stay; nothing is transmitted until [`Mux::reattach`].
    pub fn detach(&mut self) {
        if self.link == Link::Attached {
            self.link = Link::Detached;
            self.pings.due = None;
            self.pings.ready = None;
            self.pings.open.clear();
            self.pings.pong_owed = None;
        }
    }

    /// The last numbered frame that arrived; what the other end's [`Mux::reattach`] wants to know. Stands still
    /// only while detached.
    pub fn received_through(&self) -> u64 {
        self.inbox.received()
    }

    /// A new websocket, and how far the peer says it had come. Everything after that is sent again, first.
    ///
    /// # Errors
    /// If the peer's word cannot be true; the tunnel cannot be resumed then.
    pub fn reattach(&mut self, peer_received: u64) -> Result<(), ResumeError> {
        match &self.link {
            Link::Attached => return Err(ResumeError::StillAttached),
            Link::Over(reset) => return Err(ResumeError::Over(reset.clone())),
            Link::Detached => {}
        }
        let Mux { outbox, streams, events, .. } = self;
        outbox.restart(peer_received, |frame| arrived(streams, events, frame))?;
        self.inbox.told();
        self.link = Link::Attached;
        Ok(())
    }

    /// The tunnel is over: every stream breaks, and what nobody read is dropped, so that nothing that was in the
    /// tunnel reaches anyone any more.
    pub fn abort(&mut self, reset: Reset) {
        if self.over().is_some() {
            return;
        }
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.break_stream(id, reset.clone(), Unread::Dropped);
        }
        self.link = Link::Over(reset);
        self.schedule.clear();
        self.outbox.give_up();
    }

    /// Was it aborted? Then, why.
    pub fn over(&self) -> Option<&Reset> {
        match &self.link {
            Link::Over(reset) => Some(reset),
            Link::Attached | Link::Detached => None,
        }
    }

    // ---- what to do next ----

    /// The next thing its owner should know.
    pub fn poll_event(&mut self) -> Option<MuxEvent> {
        let event = self.events.pop_front()?;
        if let MuxEvent::Writable(id) = event
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.told.writable = false;
        }
        Some(event)
    }

    /// When [`Mux::handle_timeout`] wants to be called, if nothing happens before.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.link != Link::Attached {
            return None;
        }
        self.time_dribbling(now);
        let dribbling = self.schedule.dribbling.front().and_then(|(_, until)| *until);
        let ping = self.pings.due.map(|(_, at)| at);
        [self.inbox.timeout(), ping, dribbling].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.inbox.handle_timeout(now);
        if let Some((nonce, at)) = self.pings.due
            && at <= now
        {
            self.pings.due = None;
            self.make_ping_ready(nonce, now);
        }
        self.let_dribble(now);
    }

    /// Who began to wait since this was asked last, waits from now on.
    fn time_dribbling(&mut self, now: Instant) {
        for (_, until) in self.schedule.dribbling.iter_mut().rev().take_while(|(_, until)| until.is_none()) {
            *until = Some(now + LITTLE_WAIT);
        }
    }

    /// Streams that were to gather what they say may say it now.
    fn let_dribble(&mut self, now: Instant) {
        self.time_dribbling(now);
        while let Some((id, _)) =
            self.schedule.dribbling.pop_front_if(|(_, until)| until.is_some_and(|until| until <= now))
        {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued.dribbling = false;
            stream.out.waited = stream.dribbles();
            self.tell_writable(id);
        }
    }

    // ---- what it looks like from outside ----

    /// Might [`Mux::poll_transmit`] have something? It may still say no, for want of credit.
    pub fn has_output(&self) -> bool {
        let schedule = &self.schedule;
        self.link == Link::Attached
            && (self.pings.pong_owed.is_some()
                || self.pings.ready.is_some()
                || self.inbox.is_ack_due()
                || self.outbox.is_repeating()
                || self.tunnel_window_due
                || self.going_away.unsent.is_some()
                || !schedule.resets.is_empty()
                || !schedule.control.is_empty()
                || !schedule.opens.is_empty()
                || !schedule.data.is_empty())
    }

    /// How far the frames of this end have come.
    pub fn progress(&self) -> Progress {
        Progress {
            sent: self.outbox.sent(),
            acknowledged: self.outbox.acked(),
            acknowledged_bytes: self.outbox.acked_bytes(),
            under_way_bytes: self.outbox.kept_bytes(),
        }
    }

    /// Is as much unacknowledged as [`Mux::set_under_way_bytes`] said? Then it does no good to write much.
    pub fn is_far_ahead(&self) -> bool {
        self.outbox.kept_bytes() >= self.under_way_bytes
    }

    /// Why a stream broke, if it did.
    pub fn broken(&self, id: StreamId) -> Option<&Reset> {
        self.streams.get(&id)?.broken.as_ref()
    }

    /// Bytes that came and went on a stream so far; `None` once it is gone.
    pub fn stream_bytes(&self, id: StreamId) -> Option<(u64, u64)> {
        let stream = self.streams.get(&id)?;
        Some((stream.inn.flow.received(), stream.out.flow.sent))
    }

    /// The times of a stream we opened; `None` once it is gone.
    pub fn meter(&self, id: StreamId) -> Option<Meter> {
        self.streams.get(&id)?.meter.clone()
    }

    /// Streams that exist, broken ones that nobody let go of included.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// The last measured round trip.
    pub fn round_trip(&self) -> Option<Duration> {
        self.pings.round_trip
    }

    /// Bytes held: unread, unsent, and sent but not acknowledged.
    pub fn held_bytes(&self) -> usize {
        let unread: usize = self.streams.values().map(|stream| stream.inn.unread.len()).sum();
        unread + self.unsent + self.outbox.kept_bytes()
    }

    // ---- helpers ----

    fn make_ping_ready(&mut self, nonce: u64, now: Instant) {
        self.pings.ready = Some(nonce);
        self.pings.last_sent_at = Some(now);
        if self.pings.open.len() >= OPEN_PINGS_MAX {
            self.pings.open.pop_front();
        }
        self.pings.open.push_back((nonce, now));
    }

    fn first_grant(&self) -> u64 {
        flow::first_grant(
            self.limits.stream_window_bytes,
            self.limits.tunnel_window_bytes,
            self.streams.len(),
        )
    }

    fn consume_from_tunnel(&mut self, bytes: u64) {
        self.receiving.consume(bytes);
        if self.receiving.refill_tunnel(self.limits.tunnel_window_bytes).is_some() {
            self.tunnel_window_due = true;
        }
    }

    fn queue_control(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued.control
        {
            stream.queued.control = true;
            self.schedule.control.push_back(id);
        }
    }

    fn queue_data(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued.data
            && stream.may_send()
            && stream.has_to_send()
        {
            stream.queued.data = true;
            self.schedule.data.push_back(id);
        }
    }

    fn tell_readable(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.told.readable
        {
            stream.told.readable = true;
            self.events.push_back(MuxEvent::Readable(id));
        }
    }

    fn tell_writable(&mut self, id: StreamId) {
        if self.streams.get_mut(&id).is_some_and(|stream| stream.unblock()) {
            self.events.push_back(MuxEvent::Writable(id));
        }
    }

    /// Marks a stream as broken and frees what it holds.
    fn break_stream(&mut self, id: StreamId, reset: Reset, unread: Unread) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.broken.is_none() {
            stream.broken = Some(reset);
            self.events.push_back(MuxEvent::Broken(id));
        }
        self.unsent -= stream.out.unsent.len();
        stream.out.unsent.clear();
        stream.out.fin = Fin::Sent;
        let before = stream.inn.flow.outstanding();
        stream.inn.flow.finish();
        let mut dropped = 0;
        if unread == Unread::Dropped {
            dropped = stream.inn.unread.len() as u64;
            stream.inn.flow.consume(dropped);
            stream.inn.unread.clear();
        }
        self.granted = self.granted - before + stream.inn.flow.outstanding();
        let released = stream.released;
        self.consume_from_tunnel(dropped);
        if released {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.granted -= stream.inn.flow.outstanding();
            self.unsent -= stream.out.unsent.len();
            self.consume_from_tunnel(stream.inn.unread.len() as u64);
        }
    }
}

/// A frame of ours has come to the peer: a writer that waited for that need not wait longer.
fn arrived(streams: &mut ById<Box<Stream>>, events: &mut VecDeque<MuxEvent>, frame: &Frame) {
    let Body::Data { bytes, .. } = &frame.body else { return };
    if bytes.len() >= LITTLE_BYTES {
        return;
    }
    let Some(stream) = streams.get_mut(&frame.stream) else { return };
    let dribbled = stream.dribbles();
    stream.out.little = stream.out.little.saturating_sub(1);
    if dribbled && !stream.dribbles() && stream.unblock() {
        events.push_back(MuxEvent::Writable(frame.stream));
    }
}

/// What becomes of bytes that arrived before a stream broke.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unread {
    Kept,
    Dropped,
}

/// Heartbeats come every few seconds; a peer that sends more than this wants us to work for nothing.
const PINGS_PER_SECOND: u32 = 50;
/// Frames that change nothing: limits and acknowledgements said twice, empty DATA, pongs nobody waits for.
const IDLE_FRAMES_PER_SECOND: u32 = 1000;
