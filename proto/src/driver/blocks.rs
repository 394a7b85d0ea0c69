//! Where sockets are read into: blocks that come back when their last byte was acknowledged.
//!
//! What is read from a socket is kept until the peer has it, so it needs memory of its own; asking the allocator for
//! 64 KiB at every read costs page faults.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::frame::PAYLOAD_MAX_BYTES;

/// A read takes what one frame carries.
pub(super) const BLOCK_BYTES: usize = PAYLOAD_MAX_BYTES;
/// Reads shorter than this are copied out of their block, which serves again at once: what is kept of a stream is then
/// never more than four times its bytes.
const COPY_BELOW_BYTES: usize = 16 * 1024;
/// Blocks that wait for their next use, 16 MiB at most and until the next heartbeat at most. As many are in use while
/// some tens of streams are busy; giving them to the allocator and asking again costs page faults.
const SPARE_MAX: usize = 256;

/// The spare blocks of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    spare: Arc<Spare>,
    current: Option<Box<[u8]>>,
}

type Spare = Mutex<Vec<Box<[u8]>>>;

/// What a read brought.
pub(super) enum Piece<'a> {
    /// A whole block's worth, to be kept as it is.
    Whole(Bytes),
    /// A little, to be copied.
    Little(&'a [u8]),
}

impl Blocks {
    /// Where to read to.
    pub(super) fn block(&mut self) -> &mut [u8] {
        self.current.get_or_insert_with(|| {
            let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
            spare.unwrap_or_else(|| vec![0; BLOCK_BYTES].into_boxed_slice())
        })
    }

    /// What was read: the first `len` bytes of [`Blocks::block`].
    pub(super) fn take(&mut self, len: usize) -> Piece<'_> {
        if len >= COPY_BELOW_BYTES
            && let Some(bytes) = self.current.take()
        {
            let block = Block { bytes, spare: Arc::clone(&self.spare) };
            return Piece::Whole(Bytes::from_owner(block).slice(..len));
        }
        Piece::Little(&self.block()[..len])
    }

    /// Gives back what a burst needed; asked now and then, this costs a busy tunnel next to nothing.
    pub(super) fn rest(&mut self) {
        self.current = None;
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }
}

/// A block on its way through the tunnel.
struct Block {
    bytes: Box<[u8]>,
    spare: Arc<Spare>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_when_its_last_byte_is_let_go() {
        let mut blocks = Blocks::default();
        blocks.block()[..3].copy_from_slice(b"abc");
        let Piece::Whole(kept) = blocks.take(COPY_BELOW_BYTES) else { panic!("it was copied") };
        assert_eq!(&kept[..3], b"abc");
        assert_eq!(&blocks.block()[..3], [0; 3], "another one while the first is kept");
        let part = kept.slice(..1);
        drop(kept);
        assert_eq!(blocks.spare.lock().unwrap().len(), 0);
        drop(part);
        assert_eq!(blocks.spare.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_little_stays_in_its_block() {
        let mut blocks = Blocks::default();
        blocks.block()[0] = 7;
        assert!(matches!(blocks.take(1), Piece::Little([7])));
        assert!(blocks.current.is_some());
    }
}
