//! Small requests: alone, in a crowd, beside bulk, and a new connection for each.

use std::time::Duration;

use crate::ask::{Asked, ask, visit};
use crate::bulk::pour;
use crate::figure::{Figure, Statistic, Unit};
use crate::stage::{Beside, Best, Stage, Way};

const NAME: &str = "latency";
/// What one sample takes of a way's time.
const LONG: Duration = Duration::from_millis(1500);

const BULK_STREAMS: usize = 4;
const VISITORS: usize = 8;

#[derive(Clone, Copy)]
enum Kind {
    /// So many connections, so many bytes a question.
    Asking(usize, usize),
    /// One connection asking 128 bytes while others receive all they can.
    BesideBulk,
    /// A connection for each question.
    Visiting,
}

const KINDS: [Kind; 6] = [
    Kind::Asking(1, 128),
    Kind::Asking(1, 4096),
    Kind::Asking(64, 128),
    Kind::Asking(64, 4096),
    Kind::BesideBulk,
    Kind::Visiting,
];

struct Sample {
    asked: Asked,
    /// Beside it, and without it.
    bulk: Option<(f64, f64)>,
}

/// p50, p99 and rate of every way, and the gateway's as ratios of the TLS relay's.
pub(crate) async fn measure(rounds: usize, beside: Beside, only: &str) -> Vec<Figure> {
    let stage = Stage::set(beside).await;
    let kinds = KINDS.into_iter().filter(|kind| kind.title().contains(only));
    let mut all: Vec<_> =
        kinds.map(|kind| (kind, stage.ways.iter().map(|_| Vec::new()).collect::<Vec<_>>())).collect();
    for round in 1..=rounds {
        for (kind, samples) in &mut all {
            let mut told = String::new();
            for (way, samples) in stage.ways.iter().zip(samples) {
                let sample = kind.sample(way).await;
                let Asked { p50_us, p99_us, per_second } = sample.asked;
                told += &format!(", {} {p50_us:.0} / {p99_us:.0} µs, {per_second:.0}/s", way.name);
                samples.push(sample);
            }
            eprintln!("latency {round}/{rounds}: {}{told}", kind.title());
        }
    }
    all.into_iter().flat_map(|(kind, samples)| kind.figures(&stage, &samples)).collect()
}

impl Kind {
    fn title(self) -> String {
        match self {
            Self::Asking(1, bytes) => format!("{bytes} B, 1 connection"),
            Self::Asking(clients, bytes) => format!("{bytes} B, {clients} connections"),
            Self::BesideBulk => format!("128 B beside {BULK_STREAMS} bulk streams"),
            Self::Visiting => format!("a new connection each, {VISITORS} clients"),
        }
    }

    async fn sample(self, way: &Way) -> Sample {
        let rate = |bytes: u64| bytes as f64 / LONG.as_secs_f64() / 1e9;
        match self {
            Self::Asking(clients, bytes) => {
                Sample { asked: ask(way.addr, clients, bytes, LONG).await, bulk: None }
            }
            Self::Visiting => Sample { asked: visit(way.addr, VISITORS, 128, LONG).await, bulk: None },
            Self::BesideBulk => {
                let alone = pour(way.addr, BULK_STREAMS, LONG).await;
                let bulk = tokio::spawn(pour(way.addr, BULK_STREAMS, LONG));
                let asked = ask(way.addr, 1, 128, LONG).await;
                let beside = bulk.await.expect("bulk does not panic");
                Sample { asked, bulk: Some((rate(beside), rate(alone))) }
            }
        }
    }

    fn figures(self, stage: &Stage, samples: &[Vec<Sample>]) -> Vec<Figure> {
        let title = self.title();
        let mut figures = Vec::new();
        for (way, samples) in stage.ways.iter().zip(samples) {
            let all = |of: fn(&Asked) -> f64| samples.iter().map(|sample| of(&sample.asked)).collect();
            let name = |what: &str| format!("{title}, {what}, {}", way.name);
            let ours = way.name == stage.ways[0].name;
            let mut p50 = Figure::of(NAME, name("p50"), Unit::Microseconds, all(|asked| asked.p50_us));
            let mut p99 = Figure::of(NAME, name("p99"), Unit::Microseconds, all(|asked| asked.p99_us));
            match self {
                Self::BesideBulk if ours => {
                    p50 = p50.wanted(Statistic::Median, 1_000.0);
                    p99 = p99.wanted(Statistic::Median, 3_000.0);
                }
                Self::Visiting if ours => p99 = p99.wanted(Statistic::Median, 3_000.0),
                Self::Asking(..) | Self::BesideBulk | Self::Visiting => {}
            }
            figures.extend([p50, p99]);
            figures.push(Figure::of(NAME, name("rate"), Unit::PerSecond, all(|asked| asked.per_second)));
            if matches!(self, Self::BesideBulk) {
                let bulk = || samples.iter().filter_map(|sample| sample.bulk);
                let beside = bulk().map(|(beside, _)| beside).collect();
                figures.push(Figure::of(NAME, name("bulk"), Unit::GigabytesPerSecond, beside));
                let kept = bulk().map(|(beside, alone)| beside / alone).collect();
                let kept = Figure::of(NAME, name("bulk kept"), Unit::Ratio, kept);
                figures.push(if ours { kept.wanted_at_least(0.9) } else { kept });
            }
        }
        figures.extend(self.beside_peers(stage, samples));
        for (what, of) in [("p50", (|a: &Asked| a.p50_us) as fn(&Asked) -> f64), ("rate", |a| a.per_second)] {
            let ratios =
                samples[0].iter().zip(&samples[1]).map(|(ours, limit)| of(&ours.asked) / of(&limit.asked));
            figures.push(Figure::of(
                NAME,
                format!("{title}, {what}, gateway to TLS relay"),
                Unit::Ratio,
                ratios.collect(),
            ));
        }
        figures
    }

    /// What is wanted of us beside the best peer of each round.
    fn beside_peers(self, stage: &Stage, samples: &[Vec<Sample>]) -> Vec<Figure> {
        let figure = |what: &str, of: fn(&Asked) -> f64, best: Best| {
            let ratios = stage.to_best_peer(samples, |sample| of(&sample.asked), best);
            let title = format!("{}, {what}, gateway to the best peer", self.title());
            (!ratios.is_empty()).then(|| Figure::of(NAME, title, Unit::Ratio, ratios))
        };
        let p50 = || figure("p50", |asked| asked.p50_us, Best::Least);
        let p99 = || figure("p99", |asked| asked.p99_us, Best::Least);
        let rate = || figure("rate", |asked| asked.per_second, Best::Most);
        let no_more = |figure: Figure| figure.wanted(Statistic::Median, 1.0);
        let wanted = match self {
            Self::Asking(1, _) => [p50().map(no_more), None],
            Self::Asking(..) => [rate().map(|rate| rate.wanted_at_least(1.0)), p99().map(no_more)],
            Self::BesideBulk => [p50(), p99()],
            Self::Visiting => [rate().map(|rate| rate.wanted_at_least(3.0)), p99()],
        };
        wanted.into_iter().flatten().collect()
    }
}
