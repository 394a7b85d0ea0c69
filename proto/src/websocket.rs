//! The framing of RFC 6455, exactly, in as few touches of each byte as a tunnel needs.
//!
//! ```text
//!   bytes ──► Decoder ──► Text │ Binary │ Ping │ Pong │ Close        Outgoing ──► bytes, with header and mask in place
//! ```
//!
//! The opening handshake is not here: a library does it. What is strict: reserved bits and opcodes, masking as the
//! role demands, shortest lengths, fragments in order with control frames between them, control frames of at most
//! 125 bytes and never in parts, close codes that may be sent, text and close reasons in UTF-8, a bound for every
//! message. No extension is ever negotiated, so reserved bits stay zero.
//!
//! Absent on purpose: sockets, clocks, answers. Who answers a ping or a close is the owner's business.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use self::decode::Decoder;
pub use self::encode::{HEADER_MAX_BYTES, Outgoing};

/// Which end this is. A client masks what it sends, a server never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    Close(Close),
}

/// Why the peer closes. Without a code it did not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: Option<u16>,
    pub reason: String,
}

/// The longest payload of a control frame.
pub const CONTROL_MAX_BYTES: usize = 125;
/// What a close frame leaves for the reason.
pub const CLOSE_REASON_MAX_BYTES: usize = CONTROL_MAX_BYTES - 2;

/// Bytes that are no websocket, or more of one than is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    #[error("reserved bits are set and no extension was agreed")]
    ReservedBits,
    #[error("no frame has the opcode {0:#x}")]
    Opcode(u8),
    #[error("a client must mask its frames")]
    NotMasked,
    #[error("a server must not mask its frames")]
    Masked,
    #[error("a length was not written in its shortest form")]
    LongLength,
    #[error("a message has more than {max} bytes")]
    TooLong { max: usize },
    #[error("a control frame came in parts, or with more than {CONTROL_MAX_BYTES} bytes")]
    BadControl,
    #[error("a message began before the last one was whole")]
    Interrupted,
    #[error("a message goes on that never began")]
    NothingToContinue,
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("a close frame is malformed")]
    BadClose,
}

impl WebSocketError {
    /// The close code that says it to the peer.
    pub fn close_code(&self) -> u16 {
        match self {
            WebSocketError::TooLong { .. } => 1009,
            WebSocketError::NotUtf8 => 1007,
            _ => 1002,
        }
    }
}

/// The opcodes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASK: u8 = 0x80;
/// Lengths up to here stand in the second byte itself…
const LENGTH_INLINE_MAX: usize = 125;
/// …with this one they follow in two bytes…
const LENGTH_IN_TWO: u8 = 126;
/// …and with this one in eight.
const LENGTH_IN_EIGHT: u8 = 127;

/// Applies a mask, or takes it off.
fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (eights, rest) = bytes.as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}
