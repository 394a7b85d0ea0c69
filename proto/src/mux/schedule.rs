//! Whose turn it is.
//!
//! Control goes before data, because a grant or a reset that waits behind bulk data stalls or leaks somebody
//! else's stream. Among streams with data each sends one frame, then goes to the back. A frame is at most
//! `frame_bytes`, so no stream gets more than that ahead of another.

use std::collections::VecDeque;
use std::time::Instant;

use crate::frame::{Reset, StreamId};

/// Streams that have something to send. Each queue holds a stream at most once (the stream remembers), so their
/// length is bounded by the number of streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule {
    /// New streams, in the order of their numbers: the peer insists on it.
    pub(super) opens: VecDeque<StreamId>,
    /// Streams that owe the peer an OPENED or a WINDOW.
    pub(super) control: VecDeque<StreamId>,
    /// Streams with bytes, or an end, to send.
    pub(super) data: VecDeque<StreamId>,
    /// Resets, kept here because their streams may be gone already.
    pub(super) resets: VecDeque<(StreamId, Reset)>,
    /// Streams whose writers wait because the whole tunnel holds too much unsent.
    pub(super) starved: VecDeque<StreamId>,
    /// Streams whose writers wait because much that is small is under way, and until when at most: in order, and only
    /// the last ones without a time. One that is gone stands here until its time has come.
    pub(super) dribbling: VecDeque<(StreamId, Option<Instant>)>,
}

impl Schedule {
    pub(super) fn clear(&mut self) {
        *self = Schedule::default();
    }
}
