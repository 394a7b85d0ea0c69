//! The bytes of a tunnel: one frame in, the same frame out.
//!
//! ```text
//!  0       1       2               4                               8                              16
//!  ┌───────┬───────┬───────────────┬───────────────────────────────┬───────────────────────────────┬─────────
//!  │ type  │ flags │ payload_len   │ stream                        │ seq                           │ payload…
//!  └───────┴───────┴───────────────┴───────────────────────────────┴───────────────────────────────┴─────────
//! ```
//!
//! All integers are big-endian. One binary websocket message carries one or more whole frames. Frames that
//! change a stream are numbered 1, 2, 3… per direction and tunnel, so that a new websocket can continue where
//! the old one stopped; PING, PONG and ACK belong to one websocket and carry the number 0.
//!
//! Everything is checked here that needs no memory of earlier frames: lengths, flags, texts, whether a number
//! and a stream must or must not be present. What needs memory (order, credit, parity) is [`crate::mux`]'s.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::TraceId;

/// Bytes of every frame's header.
pub const HEADER_BYTES: usize = 16;
/// The largest payload: with the header and the websocket's own it stays below 64 KiB, above which nothing is
/// gained under TLS.
pub const PAYLOAD_MAX_BYTES: usize = 63 * 1024;
/// The longest text a RESET or GOAWAY may carry.
pub const REASON_MAX_BYTES: usize = 512;
/// The longest destination name, and the longest host, in an OPEN.
pub const NAME_MAX_BYTES: usize = 255;

mod codec;
#[cfg(test)]
mod tests;

/// One stream inside a tunnel. Central opens the odd ones, the agent the even ones; 0 is the tunnel itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

impl StreamId {
    /// Not a stream: the tunnel as a whole.
    pub const TUNNEL: StreamId = StreamId(0);
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A frame as it crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number, or 0 for PING, PONG and ACK.
    pub seq: u64,
    /// The stream it concerns, or [`StreamId::TUNNEL`].
    pub stream: StreamId,
    /// What it says.
    pub body: Body,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A new stream: where to, how much its opener is ready to receive, and the first bytes.
    Open { open: Arc<Open>, limit: u64, first: Bytes },
    /// The destination answered; so much may be sent to it in all, first bytes included.
    Opened { limit: u64 },
    /// Bytes of a stream; with `fin` the last ones in this direction.
    Data { bytes: Bytes, fin: bool },
    /// So much may be sent in all, on a stream or (stream 0) in the whole tunnel. Never shrinks.
    Window { limit: u64 },
    /// The stream broke. It ends in a reset at the other end too, never in a clean end.
    Reset(Reset),
    /// The sender takes no new streams; those that exist go on.
    GoAway(Reset),
    /// Are you there?
    Ping { nonce: u64 },
    /// I am: the answer to this ping and to every older one.
    Pong { nonce: u64 },
    /// Every numbered frame up to this one has arrived.
    Ack { through: u64 },
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A byte pipe.
    Tcp,
    /// Datagrams, each with its length before it. Reserved.
    Udp,
}

/// Where a stream should lead. Built only by [`Open::new`], so its texts are known to be short and printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    transport: Transport,
    destination: Box<str>,
    host: Box<str>,
    port: u16,
    trace: [u8; 16],
}

impl Open {
    /// `destination` is the destination's name (empty for a host the client chose itself), `host` a host name
    /// or an address (empty where the name alone decides). `trace` ties the logs of both ends together; zeroes
    /// mean none.
    ///
    /// # Errors
    /// A text longer than [`NAME_MAX_BYTES`], or one with blanks or control characters.
    pub fn new(
        transport: Transport,
        destination: &str,
        host: &str,
        port: u16,
        trace: [u8; 16],
    ) -> Result<Open, BadText> {
        check_name("destination name", destination)?;
        check_name("host", host)?;
        Ok(Open { transport, destination: destination.into(), host: host.into(), port, trace })
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    pub fn destination(&self) -> &str {
        &self.destination
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn trace(&self) -> TraceId {
        TraceId::from_bytes(self.trace)
    }
}

/// A text in a frame that may end up in a log line or a header, and must not be able to break either.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    #[error("the {what} has {len} bytes, {max} are allowed")]
    TooLong { what: &'static str, len: usize, max: usize },
    #[error("the {what} has a blank or a control character at byte {at}")]
    Unprintable { what: &'static str, at: usize },
    #[error("the {what} is not UTF-8")]
    NotUtf8 { what: &'static str },
}

/// Why a stream was reset, or why no new ones are taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Reset {
    pub code: ResetCode,
    reason: Box<str>,
}

impl Reset {
    /// Shortens `reason` to [`REASON_MAX_BYTES`] and turns control characters into blanks.
    pub fn new(code: ResetCode, reason: &str) -> Reset {
        let mut text = String::with_capacity(reason.len().min(REASON_MAX_BYTES));
        for c in reason.chars() {
            let c = if c.is_control() { ' ' } else { c };
            if text.len() + c.len_utf8() > REASON_MAX_BYTES {
                break;
            }
            text.push(c);
        }
        Reset { code, reason: text.into() }
    }

    /// One sentence for a human.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// The machine's half of a [`Reset`]. Unknown codes are kept as they are: a newer peer may know more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResetCode(pub u16);

impl ResetCode {
    /// Whoever owned the stream let go of it before it was finished.
    pub const CANCELLED: ResetCode = ResetCode(1);
    /// The socket behind the stream was reset.
    pub const CONNECTION_RESET: ResetCode = ResetCode(2);
    /// The site's allow-list does not have this destination.
    pub const NOT_ALLOWED: ResetCode = ResetCode(3);
    /// Nobody knows a destination of this name.
    pub const UNKNOWN_DESTINATION: ResetCode = ResetCode(4);
    /// The destination refused, or could not be reached.
    pub const UNREACHABLE: ResetCode = ResetCode(5);
    /// The destination did not answer in time.
    pub const TIMED_OUT: ResetCode = ResetCode(6);
    /// More streams, or more new ones a second, than this end takes.
    pub const TOO_MANY_STREAMS: ResetCode = ResetCode(7);
    /// This end takes no new streams any more.
    pub const GOING_AWAY: ResetCode = ResetCode(8);
    /// The tunnel is over.
    pub const TUNNEL_LOST: ResetCode = ResetCode(9);
    /// The peer broke the protocol.
    pub const PROTOCOL: ResetCode = ResetCode(10);
    /// A fault of this end's own.
    pub const INTERNAL: ResetCode = ResetCode(11);
}

impl fmt::Display for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            ResetCode::CANCELLED => "cancelled",
            ResetCode::CONNECTION_RESET => "connection reset",
            ResetCode::NOT_ALLOWED => "not allowed",
            ResetCode::UNKNOWN_DESTINATION => "unknown destination",
            ResetCode::UNREACHABLE => "unreachable",
            ResetCode::TIMED_OUT => "timed out",
            ResetCode::TOO_MANY_STREAMS => "too many streams",
            ResetCode::GOING_AWAY => "going away",
            ResetCode::TUNNEL_LOST => "tunnel lost",
            ResetCode::PROTOCOL => "protocol broken",
            ResetCode::INTERNAL => "internal fault",
            ResetCode(other) => return write!(f, "code {other}"),
        };
        f.write_str(name)
    }
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame was cut off: it needs {needed} bytes, the message has {have} left")]
    Truncated { needed: usize, have: usize },
    #[error("no frame has the type {0}")]
    UnknownType(u8),
    #[error("a {kind} frame has the flags {flags:#04x}, which mean nothing")]
    UnknownFlags { kind: &'static str, flags: u8 },
    #[error("a {kind} frame announces {len} bytes of payload, {PAYLOAD_MAX_BYTES} are allowed")]
    TooLong { kind: &'static str, len: usize },
    #[error("a {kind} frame has {len} bytes of payload, which is not what it takes")]
    WrongLength { kind: &'static str, len: usize },
    #[error("a {kind} frame has the number {seq}")]
    WrongNumbering { kind: &'static str, seq: u64 },
    #[error("a {kind} frame names stream {stream}")]
    WrongStream { kind: &'static str, stream: StreamId },
    #[error("an OPEN frame names the transport {0}, which does not exist")]
    UnknownTransport(u8),
    #[error("a {kind} frame is malformed")]
    Text { kind: &'static str, source: BadText },
}

impl Body {
    /// Bytes of the stream itself that the frame carries; what credit counts.
    pub fn stream_bytes(&self) -> usize {
        match self {
            Body::Open { first, .. } => first.len(),
            Body::Data { bytes, .. } => bytes.len(),
            Body::Opened { .. }
            | Body::Window { .. }
            | Body::Reset(_)
            | Body::GoAway(_)
            | Body::Ping { .. }
            | Body::Pong { .. }
            | Body::Ack { .. } => 0,
        }
    }

    /// The frame's name, as documentation and errors spell it.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Numbered frames change a stream or the tunnel, and are sent again after a cut.
    pub fn is_numbered(&self) -> bool {
        self.kind().is_numbered()
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), BadText> {
    if name.len() > NAME_MAX_BYTES {
        return Err(BadText::TooLong { what, len: name.len(), max: NAME_MAX_BYTES });
    }
    match name.find(|c: char| c.is_control() || c.is_whitespace()) {
        Some(at) => Err(BadText::Unprintable { what, at }),
        None => Ok(()),
    }
}

fn check_reason(reason: &str) -> Result<&str, BadText> {
    let what = "reason";
    if reason.len() > REASON_MAX_BYTES {
        return Err(BadText::TooLong { what, len: reason.len(), max: REASON_MAX_BYTES });
    }
    match reason.find(char::is_control) {
        Some(at) => Err(BadText::Unprintable { what, at }),
        None => Ok(reason),
    }
}
