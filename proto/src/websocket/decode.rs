//! Bytes to messages.

use bytes::{Buf, Bytes, BytesMut};

use super::*;

/// Takes messages from the front of what arrived.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The peer's frames must be masked.
    masked: bool,
    message_max_bytes: usize,
    /// The beginning of a message that comes in parts.
    begun: Option<(Opcode, BytesMut)>,
    /// Bytes that must have arrived before another look makes sense.
    needed: usize,
    closed: bool,
}

struct Header {
    fin: bool,
    opcode: Opcode,
    key: Option<[u8; 4]>,
    header_len: usize,
    payload_len: usize,
}

impl Decoder {
    /// For the end with this role. A message may have `message_max_bytes` in all its parts together.
    pub fn new(role: Role, message_max_bytes: usize) -> Decoder {
        Decoder { masked: role == Role::Server, message_max_bytes, begun: None, needed: 0, closed: false }
    }

    /// How many bytes the next message needs in all, as far as is known: room for so many is well made.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// The next message, if the whole of it, or of its last part, has arrived. Its bytes stay shared with `input`.
    /// After a close nothing more comes.
    ///
    /// # Errors
    /// Whatever breaks RFC 6455 or the bound; `input` is then of no further use.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Message>, WebSocketError> {
        while !self.closed {
            let Some(header) = self.header(input)? else { return Ok(None) };
            self.needed = header.header_len + header.payload_len;
            if input.len() < self.needed {
                return Ok(None);
            }
            self.needed = 0;
            input.advance(header.header_len);
            let mut payload = input.split_to(header.payload_len);
            if let Some(key) = header.key {
                mask(&mut payload, key);
            }
            if let Some(message) = self.take(&header, payload)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The header at the front, checked before any of its payload is waited for.
    fn header(&mut self, input: &[u8]) -> Result<Option<Header>, WebSocketError> {
        let [first, second, ..] = *input else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(WebSocketError::ReservedBits);
        }
        let fin = first & FIN != 0;
        let opcode = Opcode::from_bits(first & 0x0F)?;
        let masked = second & MASK != 0;
        if masked != self.masked {
            return Err(if masked { WebSocketError::Masked } else { WebSocketError::NotMasked });
        }
        let short = second & !MASK;
        if opcode.is_control() && (!fin || usize::from(short) > CONTROL_MAX_BYTES) {
            return Err(WebSocketError::BadControl);
        }
        match (opcode, &self.begun) {
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(WebSocketError::Interrupted),
            (Opcode::Continuation, None) => return Err(WebSocketError::NothingToContinue),
            _ => {}
        }
        let mut rest = &input[2..];
        let payload_len = match short {
            LENGTH_IN_TWO => match rest.try_get_u16() {
                Ok(len) => u64::from(len),
                Err(_) => return Ok(None),
            },
            LENGTH_IN_EIGHT => match rest.try_get_u64() {
                Ok(len) => len,
                Err(_) => return Ok(None),
            },
            short => u64::from(short),
        };
        let shortest = match short {
            LENGTH_IN_TWO => payload_len > LENGTH_INLINE_MAX as u64,
            LENGTH_IN_EIGHT => payload_len > u64::from(u16::MAX),
            _ => true,
        };
        if !shortest {
            return Err(WebSocketError::LongLength);
        }
        let before = match (&self.begun, opcode.is_control()) {
            (Some((_, begun)), false) => begun.len(),
            _ => 0,
        };
        let max = self.message_max_bytes;
        let payload_len = usize::try_from(payload_len).unwrap_or(usize::MAX);
        if payload_len > max.saturating_sub(before) && !opcode.is_control() {
            return Err(WebSocketError::TooLong { max });
        }
        let key = match masked {
            true => match rest.first_chunk::<4>() {
                Some(key) => {
                    rest = &rest[4..];
                    Some(*key)
                }
                None => return Ok(None),
            },
            false => None,
        };
        let header_len = input.len() - rest.len();
        Ok(Some(Header { fin, opcode, key, header_len, payload_len }))
    }

    fn take(&mut self, header: &Header, payload: BytesMut) -> Result<Option<Message>, WebSocketError> {
        match header.opcode {
            Opcode::Ping => Ok(Some(Message::Ping(payload.freeze()))),
            Opcode::Pong => Ok(Some(Message::Pong)),
            Opcode::Close => {
                self.closed = true;
                Ok(Some(Message::Close(close(payload.freeze())?)))
            }
            opcode @ (Opcode::Text | Opcode::Binary) if header.fin => whole(opcode, payload).map(Some),
            opcode @ (Opcode::Text | Opcode::Binary) => {
                // A copy: a part must not keep the whole buffer it arrived in.
                self.begun = Some((opcode, BytesMut::from(&payload[..])));
                Ok(None)
            }
            Opcode::Continuation => {
                let Some((opcode, mut begun)) = self.begun.take() else {
                    return Err(WebSocketError::NothingToContinue);
                };
                begun.extend_from_slice(&payload);
                if header.fin {
                    return whole(opcode, begun).map(Some);
                }
                self.begun = Some((opcode, begun));
                Ok(None)
            }
        }
    }
}

fn whole(opcode: Opcode, payload: BytesMut) -> Result<Message, WebSocketError> {
    if opcode == Opcode::Binary {
        return Ok(Message::Binary(payload.freeze()));
    }
    let text = std::str::from_utf8(&payload).map_err(|_| WebSocketError::NotUtf8)?;
    Ok(Message::Text(text.to_owned()))
}

fn close(mut payload: Bytes) -> Result<Close, WebSocketError> {
    if payload.is_empty() {
        return Ok(Close { code: None, reason: String::new() });
    }
    let code = payload.try_get_u16().map_err(|_| WebSocketError::BadClose)?;
    if !may_be_sent(code) {
        return Err(WebSocketError::BadClose);
    }
    let reason = std::str::from_utf8(&payload).map_err(|_| WebSocketError::NotUtf8)?;
    Ok(Close { code: Some(code), reason: reason.to_owned() })
}

/// Codes that may stand in a frame (section 7.4); the others are what programs tell each other locally.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

impl Opcode {
    fn from_bits(bits: u8) -> Result<Opcode, WebSocketError> {
        Ok(match bits {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xA => Opcode::Pong,
            other => return Err(WebSocketError::Opcode(other)),
        })
    }

    fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}
