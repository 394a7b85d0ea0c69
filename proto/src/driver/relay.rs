//! Joins a TCP socket and a stream: bytes both ways, half-close as half-close, a break as a break.
//!
//! ```text
//!   peer ──► lane ──► mux ──► socket      what the socket does not take waits here, one piece, then in the window
//!   peer ◄── lane ◄── mux ◄── socket      read only when the tunnel takes it, and as much as the stream has room for
//! ```
//!
//! While there is a websocket its lane moves the bytes itself, in its own turn: nothing is handed over, nobody else
//! is woken. Without one the relay does, so that what had arrived is still handed out and a client that leaves is
//! noticed. Both hold the tunnel's lock while they touch a socket.
//!
//! A direction that ends properly shuts down the other side's sending half and lets the opposite direction go on.
//! Anything else resets both: the peer of a broken stream must never take what it got for the whole (rule R).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::blocks::{BLOCK_BYTES, Blocks, Piece};
use super::ready::bell;
use super::stream::TunnelStream;
use super::turns::{LITTLE_BYTES, Turns};
use super::{Shared, State, remember};
use crate::frame::PAYLOAD_MAX_BYTES;
use crate::mux::{Mux, ReadOutcome, Reset, ResetCode, StreamError, StreamId};

/// What is written to one socket before others get their turn.
const TURN_BYTES: usize = 256 * 1024;

/// How a relay went.
#[derive(Debug)]
pub struct RelayEnd {
    /// Bytes from the socket into the stream.
    pub sent_bytes: u64,
    /// Bytes from the stream into the socket.
    pub received_bytes: u64,
    pub ended: RelayEnded,
}

/// Who ended it.
#[derive(Debug)]
pub enum RelayEnded {
    /// Both directions came to their proper end.
    Finished,
    /// The socket broke; the stream was reset.
    Socket(io::Error),
    /// The stream broke; the socket was reset.
    Stream(Reset),
}

/// Relays until both directions have ended or one broke. Bytes move from here on, whether or not the future is
/// polled. Dropping it breaks both.
///
/// On the agent nothing is written to the socket while the tunnel is silent; see [`super::Tunnel::may_write`].
pub fn relay(tcp: TcpStream, stream: TunnelStream) -> impl Future<Output = RelayEnd> + Send {
    let joined = Joined::new(tcp, stream);
    async move { poll_fn(|cx| joined.poll(cx)).await }
}

/// A stream whose socket is with the tunnel. Dropped before both came to their end, both are reset.
struct Joined {
    stream: TunnelStream,
}

impl Joined {
    fn new(tcp: TcpStream, stream: TunnelStream) -> Joined {
        let (id, shared) = (stream.id(), stream.shared());
        let socket = Box::new(Socket::new(tcp, bell(&shared.ready, id)));
        shared.with(|state| {
            state.streams.entry(id).or_default().socket = Some(socket);
            state.make_due(id);
        });
        Joined { stream }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let (id, shared) = (self.stream.id(), self.stream.shared());
        let socket = shared.with(|state| {
            if !state.lane.attached {
                state.carry(id, shared, Some(cx.waker()));
            }
            let slot = state.streams.get_mut(&id)?;
            let socket = slot.socket.as_mut()?;
            if socket.ended.is_none() {
                remember(&mut socket.relay, cx);
                return None;
            }
            slot.socket.take()
        });
        let Some(mut socket) = socket else { return Poll::Pending };
        let Some(ended) = socket.ended.take() else { return Poll::Pending };
        socket.finished = matches!(ended, RelayEnded::Finished);
        Poll::Ready(RelayEnd { sent_bytes: socket.sent, received_bytes: socket.received, ended })
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // Closing it may take a moment; nobody should wait for the lock meanwhile.
        let socket =
            self.stream.shared().with(|state| state.streams.get_mut(&self.stream.id())?.socket.take());
        drop(socket);
    }
}

/// A socket that a lane reads and writes. It is reset when dropped, or when the process dies, unless it came to its
/// proper end: a cancelled relay looks broken, too.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    /// Tells the lane that the socket is ready.
    bell: Waker,
    /// Waits for the end, or for the lane to go.
    relay: Option<Waker>,
    /// What came from the peer and the socket has not taken yet. At most one frame.
    rest: Bytes,
    sent: u64,
    received: u64,
    /// The socket has nothing more to say.
    said_all: bool,
    /// The socket was told that nothing more comes.
    told_all: bool,
    /// Stands in [`State::due`].
    due: bool,
    /// Stands in [`State::sources`].
    source: bool,
    /// Its last read brought more than a little.
    bulk: bool,
    /// Not read, since its stream has no room.
    held_up: bool,
    /// Stands in [`State::held_up`].
    watched: bool,
    ended: Option<RelayEnded>,
    finished: bool,
}

impl Socket {
    fn new(tcp: TcpStream, bell: Waker) -> Socket {
        // From now on and not only when it breaks: should this process be killed, its kernel closes the socket, and
        // a peer must not take that for the end. Fails only on a socket that is gone already.
        let _ = tcp.set_zero_linger();
        Socket {
            tcp,
            bell,
            relay: None,
            rest: Bytes::new(),
            sent: 0,
            received: 0,
            said_all: false,
            told_all: false,
            due: false,
            source: false,
            bulk: false,
            held_up: false,
            watched: false,
            ended: None,
            finished: false,
        }
    }

    /// Tunnel to socket, as much as it takes. `Err` ends the relay.
    fn deliver(
        &mut self,
        mux: &mut Mux,
        id: StreamId,
        may_write: impl Fn() -> bool,
        cx: &mut Context<'_>,
    ) -> Result<usize, RelayEnded> {
        let mut moved = 0;
        while !self.told_all && moved < TURN_BYTES {
            if let Some(reset) = mux.over() {
                return Err(RelayEnded::Stream(reset.clone()));
            }
            // Before every single write: the process may have been stopped since the last one.
            if !may_write() {
                return Ok(moved);
            }
            if self.rest.is_empty() {
                match mux.read(id, PAYLOAD_MAX_BYTES)? {
                    ReadOutcome::Bytes(bytes) => self.rest = bytes,
                    ReadOutcome::Nothing => break,
                    ReadOutcome::End => {
                        // Never waits on a TCP socket.
                        let _ = Pin::new(&mut self.tcp).poll_shutdown(cx).map_err(RelayEnded::Socket)?;
                        self.told_all = true;
                        break;
                    }
                }
            }
            match Pin::new(&mut self.tcp).poll_write(cx, &self.rest).map_err(RelayEnded::Socket)? {
                Poll::Ready(0) => return Err(RelayEnded::Socket(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => {
                    self.rest.advance(written);
                    self.received += written as u64;
                    moved += written;
                }
                Poll::Pending => {
                    // Broken, and the socket takes nothing: there is nobody to hand the rest to.
                    return match mux.broken(id) {
                        Some(reset) => Err(RelayEnded::Stream(reset.clone())),
                        None => Ok(moved),
                    };
                }
            }
        }
        if self.rest.is_empty() {
            self.rest = Bytes::new(); // an empty rest would keep its message
        }
        // What had arrived before a break is handed over first; where that has come to its end already, this is it.
        match mux.broken(id) {
            Some(reset) if self.told_all => Err(RelayEnded::Stream(reset.clone())),
            _ => Ok(moved),
        }
    }

    /// Socket to tunnel, one read of at most `max` bytes. `Ok(None)`: not now, somebody will say when.
    fn fetch(
        &mut self,
        mux: &mut Mux,
        id: StreamId,
        blocks: &mut Blocks,
        max: usize,
        cx: &mut Context<'_>,
    ) -> Result<Option<usize>, RelayEnded> {
        if self.said_all {
            return Ok(None);
        }
        // When it breaks, the other direction still hands over what had arrived and then ends both.
        let room = mux.writable(id).unwrap_or(0);
        self.held_up = room == 0;
        if self.held_up {
            return Ok(None);
        }
        let wanted = room.min(max).min(BLOCK_BYTES);
        let mut block = ReadBuf::new(&mut blocks.block()[..wanted]);
        if Pin::new(&mut self.tcp).poll_read(cx, &mut block).map_err(RelayEnded::Socket)?.is_pending() {
            return Ok(None);
        }
        let len = block.filled().len();
        if len == 0 {
            self.said_all = true;
            mux.finish(id)?;
            return Ok(None);
        }
        self.bulk = len > LITTLE_BYTES;
        let taken = match blocks.take(len) {
            Piece::Whole(mut bytes) => mux.write_bytes(id, &mut bytes)?,
            Piece::Little(bytes) => mux.write(id, bytes)?,
        };
        debug_assert_eq!(taken, len, "there was room, and nobody else holds the lock");
        self.sent += len as u64;
        Ok(Some(len))
    }
}

impl From<StreamError> for RelayEnded {
    fn from(error: StreamError) -> RelayEnded {
        match error {
            StreamError::Reset(reset) => RelayEnded::Stream(reset),
            // Only this relay uses the stream, and it neither writes after finishing nor lets go.
            StreamError::Finished | StreamError::Unknown(_) => {
                RelayEnded::Stream(Reset::new(ResetCode::INTERNAL, &error.to_string()))
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.finished {
            // What was said last may still be on its way. Fails only on a socket that is gone already.
            let _ = socket2::SockRef::from(&self.tcp).set_linger(None);
        }
    }
}

impl State {
    /// A lane takes over every socket: what its relay knew of it, the lane finds out anew.
    pub(super) fn take_over(&mut self) {
        let joined = self.streams.iter().filter(|(_, slot)| slot.socket.is_some());
        for id in joined.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.make_due(id);
        }
    }

    /// The lane is gone: each relay looks after its own socket.
    pub(super) fn hand_back(&mut self) {
        self.due = VecDeque::new();
        self.sources = Turns::default();
        self.held_up = Vec::new();
        for socket in self.streams.values_mut().filter_map(|slot| slot.socket.as_mut()) {
            (socket.due, socket.source, socket.watched) = (false, false, false);
            self.wakes.extend(socket.relay.take());
        }
    }

    /// A joined stream has something to do. False if the stream is not joined.
    pub(super) fn make_due(&mut self, id: StreamId) -> bool {
        let Some(socket) = self.streams.get_mut(&id).and_then(|slot| slot.socket.as_mut()) else {
            return false;
        };
        if !self.lane.attached {
            self.wakes.extend(socket.relay.take());
        } else if !socket.due {
            socket.due = true;
            self.due.push_back(id);
        }
        true
    }

    /// Everything that can be done for a joined stream without a lane's help, or, with a lane, towards its socket.
    /// Answers with the bytes moved. `relay` is whom
    /// the socket should wake where there is no lane.
    pub(super) fn carry(&mut self, id: StreamId, shared: &Shared, relay: Option<&Waker>) -> usize {
        let State { mux, streams, blocks, lease, sources, due, wakes, .. } = self;
        let Some(socket) = streams.get_mut(&id).and_then(|slot| slot.socket.as_mut()) else { return 0 };
        socket.due = false;
        if socket.ended.is_some() {
            return 0;
        }
        let alone = relay.is_some();
        let waker = relay.unwrap_or(&socket.bell).clone();
        let cx = &mut Context::from_waker(&waker);
        let mut moved = 0;
        let may_write = || shared.config.may_write(lease);
        let went = socket.deliver(mux, id, may_write, cx).and_then(|delivered| {
            moved = delivered;
            if moved >= TURN_BYTES {
                // There may be more, and others have waited.
                match alone {
                    true => cx.waker().wake_by_ref(),
                    false => {
                        socket.due = true;
                        due.push_back(id);
                    }
                }
            }
            if alone {
                while let Some(fetched) = socket.fetch(mux, id, blocks, BLOCK_BYTES, cx)? {
                    moved += fetched;
                }
            } else if !socket.source && !socket.said_all {
                socket.source = true;
                sources.push(id, socket.bulk);
            }
            Ok(())
        });
        socket.settle(mux, id, went, wakes);
        if !may_write() {
            lease.miss();
        }
        moved
    }

    /// Reads the next socket that may have something for the tunnel, once, `max` bytes at most; while enough is under way,
    /// only one that gives little. `None`: there is no such socket.
    pub(super) fn fetch_next(&mut self, max: usize) -> Option<usize> {
        let State { mux, streams, blocks, sources, held_up, wakes, .. } = self;
        let id = sources.pop(!mux.is_far_ahead())?;
        let Some(socket) = streams.get_mut(&id).and_then(|slot| slot.socket.as_mut()) else { return Some(0) };
        socket.source = false;
        if socket.ended.is_some() {
            return Some(0);
        }
        let bell = socket.bell.clone();
        let mut cx = Context::from_waker(&bell);
        let fetched = socket.fetch(mux, id, blocks, max, &mut cx);
        // Back into the row, unless the socket is empty: then its bell rings when it is not.
        if matches!(fetched, Ok(Some(_))) && socket.tcp.poll_read_ready(&mut cx).is_ready() {
            socket.source = true;
            sources.push(id, socket.bulk);
        }
        if socket.held_up && !socket.watched {
            socket.watched = true;
            held_up.push(id);
        }
        let len = fetched.as_ref().ok().copied().flatten().unwrap_or(0);
        socket.settle(mux, id, fetched.map(|_| ()), wakes);
        Some(len)
    }

    /// Whether sockets that are held up have broken meanwhile: behind bytes that nobody reads, no read finds that out, and
    /// no bell rings for what is readable already.
    pub(super) fn look_after_held_up(&mut self) {
        let State { mux, streams, held_up, wakes, .. } = self;
        held_up.retain(|id| {
            let socket = streams.get_mut(id).and_then(|slot| slot.socket.as_mut());
            let Some(socket) = socket.filter(|socket| socket.ended.is_none()) else { return false };
            let broken = match socket.tcp.take_error() {
                Ok(None) => {
                    socket.watched = socket.held_up;
                    return socket.watched;
                }
                Ok(Some(error)) | Err(error) => error,
            };
            socket.settle(mux, *id, Err(RelayEnded::Socket(broken)), wakes);
            false
        });
    }
}

impl Socket {
    /// Notes an end, and tells the relay.
    fn settle(&mut self, mux: &mut Mux, id: StreamId, went: Result<(), RelayEnded>, wakes: &mut Vec<Waker>) {
        let ended = match went {
            Ok(()) if self.said_all && self.told_all => RelayEnded::Finished,
            Ok(()) => return,
            Err(ended) => ended,
        };
        if let RelayEnded::Socket(error) = &ended {
            mux.reset(id, Reset::new(ResetCode::CONNECTION_RESET, &error.to_string()));
        }
        self.ended = Some(ended);
        wakes.extend(self.relay.take());
    }
}
