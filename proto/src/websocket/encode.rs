//! Messages to bytes, in place.

use bytes::{Buf, BufMut, BytesMut};

use super::*;

/// The longest header: two bytes, eight of length, four of mask.
pub const HEADER_MAX_BYTES: usize = 14;

/// Bytes on their way out. A message is written behind the room for its header; when it is whole, header and mask go
/// where they belong, and nothing is copied.
#[derive(Debug)]
pub struct Outgoing {
    masks: bool,
    buffer: BytesMut,
    /// The message under way begins here, with the room for its header.
    message_at: Option<usize>,
}

impl Outgoing {
    /// For the end with this role.
    pub fn new(role: Role) -> Outgoing {
        Outgoing { masks: role == Role::Client, buffer: BytesMut::new(), message_at: None }
    }

    /// Where the payload of a binary message is appended. [`Outgoing::seal`] makes a frame of it.
    ///
    /// Only while nothing else waits: the room that a short header leaves must lie in front of everything.
    pub fn message(&mut self) -> &mut BytesMut {
        if self.message_at.is_none() {
            debug_assert!(self.buffer.is_empty(), "one message at a time");
            self.buffer.put_bytes(0, HEADER_MAX_BYTES);
            self.message_at = Some(HEADER_MAX_BYTES);
        }
        &mut self.buffer
    }

    /// How long the message under way is.
    pub fn message_len(&self) -> usize {
        self.message_at.map_or(0, |at| self.buffer.len() - at)
    }

    /// Ends the message under way, if there is one; an empty one is forgotten. `key` is new for every frame, and
    /// nobody can foretell it.
    pub fn seal(&mut self, key: [u8; 4]) {
        let Some(at) = self.message_at.take() else { return };
        let len = self.buffer.len() - at;
        if len == 0 {
            return self.buffer.clear();
        }
        let (header, header_len) = header(Opcode::Binary, len, self.masks.then_some(key));
        let begin = at - header_len;
        self.buffer[begin..at].copy_from_slice(&header[..header_len]);
        if self.masks {
            mask(&mut self.buffer[at..], key);
        }
        self.buffer.advance(begin);
    }

    /// Appends a text message.
    pub fn text(&mut self, text: &str, key: [u8; 4]) {
        self.frame(Opcode::Text, text.as_bytes(), key);
    }

    /// Appends the answer to a ping.
    pub fn pong(&mut self, payload: &[u8], key: [u8; 4]) {
        self.frame(Opcode::Pong, payload, key);
    }

    /// Appends a close frame; the reason is cut to what fits.
    pub fn close(&mut self, close: Option<(u16, &str)>, key: [u8; 4]) {
        let mut payload = Vec::new();
        if let Some((code, reason)) = close {
            payload.extend_from_slice(&code.to_be_bytes());
            let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_MAX_BYTES)];
            payload.extend_from_slice(reason.as_bytes());
        }
        self.frame(Opcode::Close, &payload, key);
    }

    fn frame(&mut self, opcode: Opcode, payload: &[u8], key: [u8; 4]) {
        debug_assert!(self.message_at.is_none(), "a frame cannot stand inside another");
        let (header, header_len) = header(opcode, payload.len(), self.masks.then_some(key));
        self.buffer.extend_from_slice(&header[..header_len]);
        let at = self.buffer.len();
        self.buffer.extend_from_slice(payload);
        if self.masks {
            mask(&mut self.buffer[at..], key);
        }
    }

    /// What is to be written next; empty while a message is under way.
    pub fn chunk(&self) -> &[u8] {
        if self.message_at.is_some() { &[] } else { &self.buffer }
    }

    /// So much of it was written.
    pub fn written(&mut self, len: usize) {
        self.buffer.advance(len);
        if self.buffer.is_empty() {
            // The memory serves again, unless a burst made it large.
            self.buffer.clear();
        }
    }

    /// Gives the memory back, if nothing waits in it.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

fn header(opcode: Opcode, len: usize, key: Option<[u8; 4]>) -> ([u8; HEADER_MAX_BYTES], usize) {
    let mut header = [0; HEADER_MAX_BYTES];
    let mut rest = &mut header[..];
    rest.put_u8(FIN | opcode as u8);
    let masked = if key.is_some() { MASK } else { 0 };
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short), _) if len <= LENGTH_INLINE_MAX => rest.put_u8(masked | short),
        (_, Ok(two)) => {
            rest.put_u8(masked | LENGTH_IN_TWO);
            rest.put_u16(two);
        }
        _ => {
            rest.put_u8(masked | LENGTH_IN_EIGHT);
            rest.put_u64(len as u64);
        }
    }
    if let Some(key) = key {
        rest.put_slice(&key);
    }
    let left = rest.len();
    (header, HEADER_MAX_BYTES - left)
}
