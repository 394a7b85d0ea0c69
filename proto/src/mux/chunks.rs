//! Bytes in order, waiting for someone to take them.
//!
//! Large pieces are kept as they came (no copy). Small ones are copied together: a piece shares its memory with
//! the whole message it arrived in, and a peer that sends one byte per message must not make us keep the rest.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Pieces below this are copied. What a piece arrived in has at most 160 KiB (two messages of the largest kind), so
/// memory held is at most ten times the bytes queued, whatever a peer does.
const COPY_BELOW_BYTES: usize = 16 * 1024;
/// A copied piece that has grown to this is closed, so that one frame can take it whole.
const COPIED_MAX_BYTES: usize = 48 * 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct Chunks {
    whole: VecDeque<Bytes>,
    copied: BytesMut,
    len: usize,
}

impl Chunks {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW_BYTES {
            self.push_slice(&bytes);
            return;
        }
        self.close_copied();
        self.len += bytes.len();
        self.whole.push_back(bytes);
    }

    pub(super) fn push_slice(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
        self.len += bytes.len();
        if self.copied.len() >= COPIED_MAX_BYTES {
            self.close_copied();
        }
    }

    /// The next piece, at most `max` bytes of it; empty when there is nothing.
    pub(super) fn pop(&mut self, max: usize) -> Bytes {
        let piece = match self.whole.front_mut() {
            Some(first) if first.len() > max => first.split_to(max),
            Some(_) => self.whole.pop_front().unwrap_or_default(),
            None if self.copied.len() > max => self.copied.split_to(max).freeze(),
            None => std::mem::take(&mut self.copied).freeze(),
        };
        self.len -= piece.len();
        if self.len == 0 {
            *self = Chunks::default(); // idle streams own no buffer
        }
        piece
    }

    pub(super) fn clear(&mut self) {
        *self = Chunks::default();
    }

    fn close_copied(&mut self) {
        if !self.copied.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.copied).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in_whatever_their_sizes() {
        let mut chunks = Chunks::default();
        let mut expected = Vec::new();
        for (i, len) in [1, 5, 20_000, 3, 70_000, 2, 2].into_iter().enumerate() {
            let piece = vec![i as u8; len];
            expected.extend_from_slice(&piece);
            chunks.push(Bytes::from(piece));
        }
        assert_eq!(chunks.len(), expected.len());

        let mut got = Vec::new();
        while !chunks.is_empty() {
            got.extend_from_slice(&chunks.pop(9_000));
        }
        assert_eq!(got, expected);
    }

    #[test]
    fn many_single_bytes_become_one_piece() {
        let mut chunks = Chunks::default();
        for byte in 0..200 {
            chunks.push(Bytes::from(vec![byte]));
        }
        assert_eq!(chunks.pop(1_000).len(), 200);
    }
}
