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

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of every frame's header.
pub const HEADER_BYTES: usize = 16;
/// The largest payload: with the header and the websocket's own it stays below 64 KiB, above which nothing is
/// gained under TLS.
pub const PAYLOAD_MAX_BYTES: usize = 63 * 1024;
/// The longest text a RESET or GOAWAY may carry.
pub const REASON_MAX_BYTES: usize = 512;
/// The longest destination name, and the longest host, in an OPEN.
pub const NAME_MAX_BYTES: usize = 255;

#[cfg(test)]
mod tests;

const FIN: u8 = 1;

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

    pub fn trace(&self) -> [u8; 16] {
        self.trace
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

impl Frame {
    /// Takes the next frame from the front of a message. Its bytes stay shared with the message.
    ///
    /// # Errors
    /// Whatever is not exactly one well-formed frame; `message` is then in no useful state.
    pub fn decode(message: &mut Bytes) -> Result<Frame, FrameError> {
        if message.len() < HEADER_BYTES {
            return Err(FrameError::Truncated { needed: HEADER_BYTES, have: message.len() });
        }
        let kind = Kind::from_byte(message.get_u8())?;
        let flags = message.get_u8();
        let len = usize::from(message.get_u16());
        let stream = StreamId(message.get_u32());
        let seq = message.get_u64();
        let name = kind.name();

        if flags & !kind.flags() != 0 {
            return Err(FrameError::UnknownFlags { kind: name, flags });
        }
        if len > PAYLOAD_MAX_BYTES {
            return Err(FrameError::TooLong { kind: name, len });
        }
        if (seq == 0) == kind.is_numbered() {
            return Err(FrameError::WrongNumbering { kind: name, seq });
        }
        let concerns = kind.concerns();
        if !concerns.allows(stream) {
            return Err(FrameError::WrongStream { kind: name, stream });
        }
        if message.len() < len {
            return Err(FrameError::Truncated { needed: len, have: message.len() });
        }
        let payload = message.split_to(len);
        let body = kind.body(payload, flags)?;
        Ok(Frame { seq, stream, body })
    }

    /// Appends the frame to a message.
    pub fn encode(&self, out: &mut BytesMut) {
        let len = self.body.payload_len();
        debug_assert!(len <= PAYLOAD_MAX_BYTES, "the mux cuts frames, and cuts them small enough");
        out.reserve(HEADER_BYTES + len);
        out.put_u8(self.body.kind() as u8);
        out.put_u8(if matches!(self.body, Body::Data { fin: true, .. }) { FIN } else { 0 });
        #[expect(clippy::cast_possible_truncation, reason = "at most PAYLOAD_MAX_BYTES, asserted above")]
        out.put_u16(len as u16);
        out.put_u32(self.stream.0);
        out.put_u64(self.seq);
        match &self.body {
            Body::Open { open, limit, first } => {
                out.put_u8(match open.transport {
                    Transport::Tcp => 1,
                    Transport::Udp => 2,
                });
                out.put_u64(*limit);
                out.put_slice(&open.trace);
                out.put_u16(open.port);
                put_name(out, &open.destination);
                put_name(out, &open.host);
                out.put_slice(first);
            }
            Body::Data { bytes, .. } => out.put_slice(bytes),
            Body::Opened { limit } | Body::Window { limit } => out.put_u64(*limit),
            Body::Reset(reset) | Body::GoAway(reset) => {
                out.put_u16(reset.code.0);
                out.put_slice(reset.reason.as_bytes());
            }
            Body::Ping { nonce } | Body::Pong { nonce } => out.put_u64(*nonce),
            Body::Ack { through } => out.put_u64(*through),
        }
    }

    /// Bytes the frame takes in a message.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.body.payload_len()
    }
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

    fn payload_len(&self) -> usize {
        match self {
            Body::Open { open, first, .. } => {
                OPEN_FIXED_BYTES + open.destination.len() + open.host.len() + first.len()
            }
            Body::Data { bytes, .. } => bytes.len(),
            Body::Reset(reset) | Body::GoAway(reset) => 2 + reset.reason.len(),
            Body::Opened { .. }
            | Body::Window { .. }
            | Body::Ping { .. }
            | Body::Pong { .. }
            | Body::Ack { .. } => 8,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Body::Open { .. } => Kind::Open,
            Body::Opened { .. } => Kind::Opened,
            Body::Data { .. } => Kind::Data,
            Body::Window { .. } => Kind::Window,
            Body::Reset(_) => Kind::Reset,
            Body::GoAway(_) => Kind::GoAway,
            Body::Ping { .. } => Kind::Ping,
            Body::Pong { .. } => Kind::Pong,
            Body::Ack { .. } => Kind::Ack,
        }
    }
}

/// transport, limit, trace, port, and the lengths of two names.
const OPEN_FIXED_BYTES: usize = 1 + 8 + 16 + 2 + 1 + 1;

/// The type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Open = 1,
    Opened = 2,
    Data = 3,
    Window = 4,
    Reset = 5,
    GoAway = 6,
    Ping = 16,
    Pong = 17,
    Ack = 18,
}

/// Which stream numbers make sense in a frame.
enum Concerns {
    AStream,
    TheTunnel,
    Either,
}

impl Concerns {
    fn allows(&self, stream: StreamId) -> bool {
        match self {
            Concerns::AStream => stream != StreamId::TUNNEL,
            Concerns::TheTunnel => stream == StreamId::TUNNEL,
            Concerns::Either => true,
        }
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Result<Kind, FrameError> {
        Ok(match byte {
            1 => Kind::Open,
            2 => Kind::Opened,
            3 => Kind::Data,
            4 => Kind::Window,
            5 => Kind::Reset,
            6 => Kind::GoAway,
            16 => Kind::Ping,
            17 => Kind::Pong,
            18 => Kind::Ack,
            other => return Err(FrameError::UnknownType(other)),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Open => "OPEN",
            Kind::Opened => "OPENED",
            Kind::Data => "DATA",
            Kind::Window => "WINDOW",
            Kind::Reset => "RESET",
            Kind::GoAway => "GOAWAY",
            Kind::Ping => "PING",
            Kind::Pong => "PONG",
            Kind::Ack => "ACK",
        }
    }

    fn flags(self) -> u8 {
        if self == Kind::Data { FIN } else { 0 }
    }

    fn is_numbered(self) -> bool {
        !matches!(self, Kind::Ping | Kind::Pong | Kind::Ack)
    }

    fn concerns(self) -> Concerns {
        match self {
            Kind::Open | Kind::Opened | Kind::Data | Kind::Reset => Concerns::AStream,
            Kind::Window => Concerns::Either,
            Kind::GoAway | Kind::Ping | Kind::Pong | Kind::Ack => Concerns::TheTunnel,
        }
    }

    fn body(self, mut payload: Bytes, flags: u8) -> Result<Body, FrameError> {
        let len = payload.len();
        let wrong_length = FrameError::WrongLength { kind: self.name(), len };
        let text = |source| FrameError::Text { kind: self.name(), source };
        if !matches!(self, Kind::Open | Kind::Data | Kind::Reset | Kind::GoAway) && len != 8 {
            return Err(wrong_length);
        }
        Ok(match self {
            Kind::Open => {
                if len < OPEN_FIXED_BYTES {
                    return Err(wrong_length);
                }
                let transport = match payload.get_u8() {
                    1 => Transport::Tcp,
                    2 => Transport::Udp,
                    other => return Err(FrameError::UnknownTransport(other)),
                };
                let limit = payload.get_u64();
                let mut trace = [0; 16];
                payload.copy_to_slice(&mut trace);
                let port = payload.get_u16();
                let destination = take_name(&mut payload).ok_or_else(|| wrong_length.clone())?;
                let host = take_name(&mut payload).ok_or(wrong_length)?;
                let open = Open::new(
                    transport,
                    utf8("destination name", &destination).map_err(text)?,
                    utf8("host", &host).map_err(text)?,
                    port,
                    trace,
                )
                .map_err(text)?;
                Body::Open { open: Arc::new(open), limit, first: payload }
            }
            Kind::Data => Body::Data { bytes: payload, fin: flags & FIN != 0 },
            Kind::Opened => Body::Opened { limit: payload.get_u64() },
            Kind::Window => Body::Window { limit: payload.get_u64() },
            Kind::Ping => Body::Ping { nonce: payload.get_u64() },
            Kind::Pong => Body::Pong { nonce: payload.get_u64() },
            Kind::Ack => Body::Ack { through: payload.get_u64() },
            Kind::Reset | Kind::GoAway => {
                if len < 2 {
                    return Err(wrong_length);
                }
                let code = ResetCode(payload.get_u16());
                let reason = utf8("reason", &payload).map_err(text)?;
                let reset = Reset { code, reason: check_reason(reason).map_err(text)?.into() };
                if self == Kind::Reset { Body::Reset(reset) } else { Body::GoAway(reset) }
            }
        })
    }
}

fn put_name(out: &mut BytesMut, name: &str) {
    #[expect(clippy::cast_possible_truncation, reason = "at most NAME_MAX_BYTES, checked by Open::new")]
    out.put_u8(name.len() as u8);
    out.put_slice(name.as_bytes());
}

fn take_name(payload: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(payload.try_get_u8().ok()?);
    (payload.len() >= len).then(|| payload.split_to(len))
}

fn utf8<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, BadText> {
    std::str::from_utf8(bytes).map_err(|_| BadText::NotUtf8 { what })
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
