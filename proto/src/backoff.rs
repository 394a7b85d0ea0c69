//! How long to wait before the next attempt.
//!
//! Full jitter: each wait is drawn evenly from zero to a ceiling that doubles per failure. A
//! thousand agents that lost central at one instant then come back spread out, not as a herd
//! (Marc Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

use std::time::Duration;

/// A sequence of waits that never ends: nobody's client gives up.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Ceilings of `first`, 2 × `first`, 4 × `first` … but never more than `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The wait after one more failure. `dice` is evenly drawn from 0.0 to 1.0 by the caller.
    pub fn next(&mut self, dice: f64) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(dice.clamp(0.0, 1.0))
    }

    /// After a success the next failure waits briefly again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How often in a row [`next`](Self::next) was asked since the last [`reset`](Self::reset).
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        let ceilings: Vec<_> = (0..9).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(ceilings, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0).as_millis(), 250);
    }

    #[test]
    fn dice_scale_the_wait_down_to_nothing() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.5), Duration::from_secs(1));
    }

    #[test]
    fn a_very_long_outage_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        assert!((0..10_000).all(|_| backoff.next(1.0) <= Duration::from_secs(30)));
    }
}
