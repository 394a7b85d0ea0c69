//! How durations are spread: counts between bounds, for `/metrics`.

use std::time::Duration;

/// Counts by duration. A copy is a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    bounds_ms: &'static [u64],
    /// One for each bound, and one for what is longer than all.
    counts: Vec<u64>,
    sum: Duration,
}

impl Spread {
    /// `bounds_ms` rise.
    pub fn between(bounds_ms: &'static [u64]) -> Self {
        Self { bounds_ms, counts: vec![0; bounds_ms.len() + 1], sum: Duration::ZERO }
    }

    pub fn observe(&mut self, lasted: Duration) {
        let place = self.bounds_ms.partition_point(|bound| Duration::from_millis(*bound) < lasted);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(lasted);
    }

    /// Upper bounds in seconds, each with what lies between it and the one before; the last takes the rest.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds_ms.iter().map(|bound| *bound as f64 / 1_000.0).chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied()).collect()
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_up_to_the_bound_it_reaches() {
        let mut spread = Spread::between(&[10, 100]);
        for ms in [0, 10, 11, 5000] {
            spread.observe(Duration::from_millis(ms));
        }
        assert_eq!(spread.buckets(), [(0.01, 2), (0.1, 1), (f64::INFINITY, 1)]);
        assert_eq!((spread.count(), spread.sum()), (4, Duration::from_millis(5021)));
    }
}
