//! Whose socket is read next.
//!
//! Sockets that give little go before those that give much: a small request waits for the piece under way, not for a
//! piece of every bulk stream. Within each kind sockets take turns, and after [`LITTLE_IN_A_ROW`] of the first comes one
//! of the second: all of them together are less than its piece, so that any number of small ones takes less than half.

use std::collections::VecDeque;

use crate::mux::StreamId;

/// What a small request or answer has at most.
pub(super) const LITTLE_BYTES: usize = 4 * 1024;
/// So many sockets that give little are read before one of the others.
const LITTLE_IN_A_ROW: u32 = 8;

/// Joined streams whose sockets may have something for the tunnel. Their owner sees to it that each is in here once at
/// most.
#[derive(Debug, Default)]
pub(super) struct Turns {
    little: VecDeque<StreamId>,
    bulk: VecDeque<StreamId>,
    in_a_row: u32,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.little.is_empty() && self.bulk.is_empty()
    }

    /// Puts a stream at the end of its row.
    pub(super) fn push(&mut self, id: StreamId, bulk: bool) {
        if bulk { self.bulk.push_back(id) } else { self.little.push_back(id) }
    }

    /// Whose turn it is. `bulk_may`: or only those that give little.
    pub(super) fn pop(&mut self, bulk_may: bool) -> Option<StreamId> {
        if !bulk_may {
            return self.little.pop_front();
        }
        if self.in_a_row < LITTLE_IN_A_ROW
            && let Some(id) = self.little.pop_front()
        {
            self.in_a_row += 1;
            return Some(id);
        }
        self.in_a_row = 0;
        self.bulk.pop_front().or_else(|| self.little.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_goes_before_bulk() {
        let mut turns = Turns::default();
        turns.push(StreamId(1), true);
        turns.push(StreamId(3), true);
        turns.push(StreamId(5), false);
        assert_eq!(all(&mut turns), [5, 1, 3]);
        assert!(turns.is_empty());
    }

    #[test]
    fn a_crowd_of_little_ones_leaves_bulk_its_turns() {
        let mut turns = Turns::default();
        turns.push(StreamId(1), true);
        turns.push(StreamId(3), true);
        for id in 0..30 {
            turns.push(StreamId(101 + id * 2), false);
        }
        let order = all(&mut turns);
        let at = |id| order.iter().position(|other| *other == id);
        assert_eq!((at(1), at(3)), (Some(8), Some(17)));
    }

    #[test]
    fn while_the_line_has_enough_only_little_goes() {
        let mut turns = Turns::default();
        turns.push(StreamId(1), true);
        turns.push(StreamId(3), false);
        assert_eq!([turns.pop(false), turns.pop(false)], [Some(StreamId(3)), None]);
        assert_eq!(turns.pop(true), Some(StreamId(1)));
    }

    fn all(turns: &mut Turns) -> Vec<u32> {
        std::iter::from_fn(|| turns.pop(true)).map(|id| id.0).collect()
    }
}
