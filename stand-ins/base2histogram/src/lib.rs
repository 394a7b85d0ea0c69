//! Stands in for the published `base2histogram` 0.2, which openraft counts batch sizes with.
//!
//! The published crate builds tables for sixteen resolutions when the first histogram is made: 26 MiB
//! that stay resident in every process, for statistics nobody here reads. An idle agent is to fit
//! into 25 MiB in all. This one has what openraft calls and nothing else, written for Postern: one
//! counter per power of two. The root `Cargo.toml` puts it in the published crate's place; remove
//! both when a release of it makes its tables on first use.

use std::{fmt, marker::PhantomData};

/// One bucket for zero and one for each bit length of a `u64`.
const BUCKETS: usize = 65;

/// Counts values by their order of magnitude: percentiles are right within a factor of two.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    slot: PhantomData<T>,
}

impl<T> Histogram<T> {
    #[expect(clippy::new_without_default, reason = "the published type has none either")]
    pub fn new() -> Self {
        Self { counts: [0; BUCKETS], slot: PhantomData }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts one value `times` times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let count = &mut self.counts[(u64::BITS - value.leading_zeros()) as usize];
        *count = count.saturating_add(times);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The usual percentiles, each the largest value of its bucket.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(1),
            p1: self.percentile(10),
            p5: self.percentile(50),
            p10: self.percentile(100),
            p50: self.percentile(500),
            p90: self.percentile(900),
            p99: self.percentile(990),
            p99_9: self.percentile(999),
        }
    }

    fn percentile(&self, permille: u128) -> u64 {
        let total = u128::from(self.total());
        let rank = (total * permille).div_ceil(1000);
        let mut seen = 0;
        for (bits, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if *count > 0 && seen >= rank {
                return u64::MAX.checked_shr(u64::BITS - bits as u32).unwrap_or(0);
            }
        }
        0
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram{}", self.percentile_stats())
    }
}

/// What [`Histogram::percentile_stats`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "[{samples} samples, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}]")
    }
}

/// Several histograms, one line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    pub fn new() -> Self {
        Self::default()
    }

    #[expect(clippy::should_implement_trait, reason = "the published method's name")]
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.0.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, stats)| writeln!(f, "{name} {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_a_factor_of_two() {
        let mut histogram = Histogram::<()>::new();
        (1..=1000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p50, stats.p99), (1000, 511, 1023));
    }

    #[test]
    fn the_smallest_and_the_largest_are_counted() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(0);
        histogram.record(u64::MAX);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.p1, stats.p99), (0, u64::MAX));
        assert_eq!(Histogram::<()>::new().percentile_stats().p50, 0);
    }
}
