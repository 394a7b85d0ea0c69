//! How much is handed to the line at once.
//!
//! What was handed over, nobody can pass any more: a small request waits for all of it. On a fast line a large piece is
//! gone in no time and saves work; on a slow one it should be what the line carries in about a millisecond.

use std::time::{Duration, Instant};

/// How often the line's speed is looked at. Shorter, and a process that had to wait for the processor would look like a
/// slow line; small pieces would then cost it even more of the processor.
const SPAN: Duration = Duration::from_millis(100);
/// What a piece may take of the line's time.
const PIECE_MS: u128 = 1;
/// Smaller pieces would cost more in headers than they save in time.
const PIECE_MIN_BYTES: usize = 8 * 1024;

/// What a line took lately, and what it is given at once.
#[derive(Debug)]
pub(super) struct Pace {
    max: usize,
    piece: usize,
    since: Instant,
    bytes: usize,
    was_full: bool,
}

impl Pace {
    /// Pieces of `max` bytes, until the line shows that it is slow.
    pub(super) fn new(max: usize, now: Instant) -> Pace {
        Pace { max, piece: max, since: now, bytes: 0, was_full: false }
    }

    /// The line took so much, and whether it is full now.
    pub(super) fn sent(&mut self, bytes: usize, full: bool, now: Instant) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.was_full |= full;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < SPAN {
            return;
        }
        // Only a line that was full shows what it can carry; one that is not takes whatever comes.
        self.piece = match self.was_full {
            true => {
                let carried = self.bytes as u128 * PIECE_MS * 1000 / elapsed.as_micros().max(1);
                usize::try_from(carried).unwrap_or(self.max).clamp(PIECE_MIN_BYTES.min(self.max), self.max)
            }
            false => self.max,
        };
        (self.since, self.bytes, self.was_full) = (now, 0, full);
    }

    /// What to hand over at once.
    pub(super) fn piece_bytes(&self) -> usize {
        self.piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64 * 1024;

    #[test]
    fn a_line_that_is_never_full_gets_large_pieces() {
        let start = Instant::now();
        let mut pace = Pace::new(MAX, start);
        pace.sent(1000, false, start + SPAN * 2);
        assert_eq!(pace.piece_bytes(), MAX);
    }

    #[test]
    fn a_slow_line_gets_what_it_carries_in_a_millisecond_and_a_fast_one_all_it_can_have() {
        let start = Instant::now();
        let mut pace = Pace::new(MAX, start);
        pace.sent(2_500_000, true, start + SPAN);
        assert_eq!(pace.piece_bytes(), 25_000, "25 MB a second");
        pace.sent(100, true, start + SPAN * 2);
        assert_eq!(pace.piece_bytes(), PIECE_MIN_BYTES, "a crawl");
        pace.sent(80_000_000, true, start + SPAN * 3);
        assert_eq!(pace.piece_bytes(), MAX, "800 MB a second");
    }

    #[test]
    fn a_line_that_is_free_again_is_no_longer_slow() {
        let start = Instant::now();
        let mut pace = Pace::new(MAX, start);
        pace.sent(2_500_000, true, start + SPAN);
        pace.sent(100, false, start + SPAN * 2);
        pace.sent(100, false, start + SPAN * 3);
        assert_eq!(pace.piece_bytes(), MAX);
    }
}
