//! A figure: what was measured, in which unit, and how the samples lie.
//!
//! Percentiles are nearest-rank: each is a sample that was really seen, never an interpolation.

use serde::Serialize;

/// One measured quantity, ready to print.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    measurement: &'static str,
    name: String,
    unit: Unit,
    pub(crate) n: usize,
    pub(crate) median: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Between the first and the third quartile: half of all samples lie within it.
    pub(crate) spread: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) targets: Vec<Target>,
    /// In the order they were taken, so that a drift shows.
    samples: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "µs")]
    Microseconds,
    #[serde(rename = "MiB")]
    Mebibytes,
    /// 10³ bytes.
    #[serde(rename = "kB")]
    Kilobytes,
    #[serde(rename = "1/s")]
    PerSecond,
    /// 10⁶ bytes a second.
    #[serde(rename = "MB/s")]
    MegabytesPerSecond,
    /// 10⁹ bytes a second.
    #[serde(rename = "GB/s")]
    GigabytesPerSecond,
    /// CPU seconds, user and system, for each 10⁹ bytes carried.
    #[serde(rename = "CPU s/GB")]
    CpuSecondsPerGigabyte,
    /// Milliseconds of a processor in each second.
    #[serde(rename = "CPU ms/s")]
    CpuMillisecondsPerSecond,
    /// Of the limit measured in the same round.
    #[serde(rename = "×")]
    Ratio,
}

impl Unit {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Microseconds => "µs",
            Self::Mebibytes => "MiB",
            Self::Kilobytes => "kB",
            Self::PerSecond => "1/s",
            Self::MegabytesPerSecond => "MB/s",
            Self::GigabytesPerSecond => "GB/s",
            Self::CpuSecondsPerGigabyte => "CPU s/GB",
            Self::CpuMillisecondsPerSecond => "CPU ms/s",
            Self::Ratio => "×",
        }
    }
}

/// What the project wants a figure to be. A missed one is shown; it fails nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) of: Statistic,
    #[serde(flatten)]
    pub(crate) bound: Bound,
    pub(crate) met: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Statistic {
    Median,
    P95,
    P99,
    Max,
}

impl Figure {
    /// # Panics
    /// Without a sample there is no figure.
    pub(crate) fn of(
        measurement: &'static str,
        name: impl Into<String>,
        unit: Unit,
        samples: Vec<f64>,
    ) -> Self {
        let name = name.into();
        assert!(!samples.is_empty(), "{measurement}: nothing was measured for {name}");
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            measurement,
            name,
            unit,
            n: samples.len(),
            median: percentile(&sorted, 50),
            p95: percentile(&sorted, 95),
            p99: percentile(&sorted, 99),
            min: percentile(&sorted, 0),
            max: percentile(&sorted, 100),
            spread: percentile(&sorted, 75) - percentile(&sorted, 25),
            targets: Vec::new(),
            samples,
        }
    }

    /// The same figure with a target beside it.
    pub(crate) fn wanted(self, of: Statistic, at_most: f64) -> Self {
        self.bounded(of, Bound::AtMost(at_most))
    }

    /// The same for a median of which more is better.
    pub(crate) fn wanted_at_least(self, at_least: f64) -> Self {
        self.bounded(Statistic::Median, Bound::AtLeast(at_least))
    }

    fn bounded(mut self, of: Statistic, bound: Bound) -> Self {
        let seen = match of {
            Statistic::Median => self.median,
            Statistic::P95 => self.p95,
            Statistic::P99 => self.p99,
            Statistic::Max => self.max,
        };
        let met = match bound {
            Bound::AtMost(most) => seen <= most,
            Bound::AtLeast(least) => seen >= least,
        };
        self.targets.push(Target { of, bound, met });
        self
    }

    /// Measurement and name, as one word.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.measurement, self.name)
    }

    pub(crate) fn unit(&self) -> Unit {
        self.unit
    }
}

/// The smallest sample that at least `percent` of all samples do not exceed.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_seen() {
        let figure = of(&[4.0, 1.0, 3.0, 2.0]);

        assert_eq!((figure.min, figure.median, figure.p99, figure.max), (1.0, 2.0, 4.0, 4.0));
        assert_eq!(figure.spread, 2.0);
    }

    #[test]
    fn the_ninety_ninth_percentile_of_two_hundred_leaves_two_out() {
        let samples: Vec<f64> = (1..=200).map(f64::from).collect();

        assert_eq!(of(&samples).p99, 198.0);
    }

    #[test]
    fn a_single_sample_is_all_of_its_statistics() {
        let figure = of(&[7.0]);

        assert_eq!((figure.median, figure.p99, figure.spread), (7.0, 7.0, 0.0));
    }

    #[test]
    fn a_target_is_met_up_to_its_limit() {
        let figure = of(&[5.0]).wanted(Statistic::Median, 5.0).wanted(Statistic::P99, 4.9);

        assert_eq!(figure.targets.iter().map(|target| target.met).collect::<Vec<_>>(), [true, false]);
    }

    fn of(samples: &[f64]) -> Figure {
        Figure::of("test", "figure", Unit::Milliseconds, samples.to_vec())
    }
}
