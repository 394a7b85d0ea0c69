//! Frames to bytes and back.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::*;

/// The one flag there is: a DATA frame is the last of its direction.
const FIN: u8 = 1;

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

    pub(super) fn kind(&self) -> Kind {
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
pub(super) enum Kind {
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

    pub(super) fn name(self) -> &'static str {
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

    pub(super) fn is_numbered(self) -> bool {
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
