//! How many of something a peer may do in a second.

use std::time::Instant;

/// A bucket that refills steadily. Starts full.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    per_second: u32,
    burst: u32,
    left: u32,
    refilled_at: Option<Instant>,
}

impl Budget {
    pub(crate) fn new(per_second: u32, burst: u32) -> Budget {
        Budget { per_second, burst, left: burst, refilled_at: None }
    }

    pub(crate) fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Takes one; false when there is none left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let since = *self.refilled_at.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since).as_micros();
        let earned = elapsed * u128::from(self.per_second) / 1_000_000;
        if earned > 0 {
            self.left = u32::try_from(earned).unwrap_or(u32::MAX).saturating_add(self.left).min(self.burst);
            self.refilled_at = Some(now);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_then_only_the_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(50, 10);
        assert_eq!((0..100).filter(|_| budget.take(start)).count(), 10);
        let later = start + Duration::from_millis(100);
        assert_eq!((0..100).filter(|_| budget.take(later)).count(), 5);
    }
}
