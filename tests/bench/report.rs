//! What a run leaves behind: one JSON document for programs, one table for people.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::figure::{Bound, Figure, Statistic};
use crate::machine::{Machine, load};

/// Grows when a field changes its meaning; new fields do not count.
const FORMAT: u32 = 1;

#[derive(Serialize)]
pub(crate) struct Report {
    format: u32,
    version: &'static str,
    /// `release`, or `debug`, whose figures mean nothing.
    profile: &'static str,
    started_unix_s: u64,
    machine: Machine,
    load_before: [f64; 3],
    load_after: [f64; 3],
    /// Peers that were to be compared with and are not installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    absent: Vec<String>,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn begin(absent: Vec<String>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            started_unix_s: now.map_or(0, |since| since.as_secs()),
            machine: Machine::look(),
            load_before: load(),
            load_after: load(),
            absent,
            figures: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
        self.load_after = load();
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("figures are numbers and names")
    }

    pub(crate) fn table(&self) -> String {
        let width = self.figures.iter().map(|figure| figure.title().chars().count()).max().unwrap_or(0);
        let mut table = format!(
            "\n{} build {} on {}\nload before {:?}, after {:?}\n\n",
            self.profile,
            self.version,
            self.machine.summary(),
            self.load_before,
            self.load_after,
        );
        // Writing into a String cannot fail.
        for peer in &self.absent {
            let _ = writeln!(table, "not compared with, because it is not installed: {peer}");
        }
        let _ = writeln!(
            table,
            "{:width$}  {:>8} {:>8} {:>8} {:>8} {:>8} {:>4}  {:8}  target",
            "", "median", "p99", "min", "max", "spread", "n", "unit"
        );
        for figure in &self.figures {
            let _ = writeln!(
                table,
                "{:width$}  {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>4}  {:8}  {}",
                figure.title(),
                figure.median,
                figure.p99,
                figure.min,
                figure.max,
                figure.spread,
                figure.n,
                figure.unit().symbol(),
                targets(figure),
            );
        }
        table
    }
}

fn targets(figure: &Figure) -> String {
    let each = figure.targets.iter().map(|target| {
        let of = match target.of {
            Statistic::Median => "median",
            Statistic::P95 => "p95",
            Statistic::P99 => "p99",
            Statistic::Max => "max",
        };
        let verdict = if target.met { "met" } else { "MISSED" };
        match target.bound {
            Bound::AtMost(most) => format!("{of} ≤ {most} {verdict}"),
            Bound::AtLeast(least) => format!("{of} ≥ {least} {verdict}"),
        }
    });
    each.collect::<Vec<_>>().join(", ")
}
