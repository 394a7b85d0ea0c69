//! Bulk through the gateway beside bulk through the limits, and what each costs in CPU.
//!
//! All ways are measured in the same round, one right after the other, because on a shared machine
//! wall-clock figures move by a third while their ratio hardly does.

use crate::bulk::{Direction, transfer};
use crate::figure::{Figure, Statistic, Unit};
use crate::stage::{Beside, Best, Stage, Way};
use crate::usage::cpu_seconds;

const NAME: &str = "throughput";
/// For each shape, all its streams together, where nothing else is said.
pub(crate) const TOTAL_MIB: u64 = 1 << 10;

const STREAMS: [usize; 3] = [1, 10, 100];
const CPU_WANTED: f64 = 1.10;

/// Speed and CPU cost of every way, and the gateway's as ratios of the TLS relay's.
pub(crate) async fn measure(rounds: usize, beside: Beside, total_mib: u64, only: &str) -> Vec<Figure> {
    let stage = Stage::set(beside).await;
    let mut shapes: Vec<_> = STREAMS
        .into_iter()
        .flat_map(|streams| {
            [Direction::Down, Direction::Up].map(|direction| Shape::new(streams, direction, stage.ways.len()))
        })
        .filter(|shape| shape.title().contains(only))
        .collect();
    for round in 1..=rounds {
        for shape in &mut shapes {
            for (way, samples) in stage.ways.iter().zip(&mut shape.samples) {
                samples.push(carry(way, shape.streams, shape.direction, total_mib << 20).await);
            }
            eprintln!("throughput {round}/{rounds}: {}", shape.last(&stage));
        }
    }
    shapes.into_iter().flat_map(|shape| shape.figures(&stage)).collect()
}

#[derive(Clone, Copy)]
struct Sample {
    gigabytes_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
}

async fn carry(way: &Way, streams: usize, direction: Direction, total_bytes: u64) -> Sample {
    let bytes_per_stream = total_bytes / streams as u64;
    let gigabytes = (bytes_per_stream * streams as u64) as f64 / 1e9;
    let cpu_before = cpu_seconds(&way.pids);
    let took = transfer(way.addr, direction, streams, bytes_per_stream).await;
    Sample {
        gigabytes_per_second: gigabytes / took.as_secs_f64(),
        cpu_seconds_per_gigabyte: (cpu_seconds(&way.pids) - cpu_before) / gigabytes,
    }
}

/// So many streams in one direction, and what was seen of them: for each way a sample a round.
struct Shape {
    streams: usize,
    direction: Direction,
    samples: Vec<Vec<Sample>>,
}

impl Shape {
    fn new(streams: usize, direction: Direction, ways: usize) -> Self {
        Self { streams, direction, samples: vec![Vec::new(); ways] }
    }

    fn title(&self) -> String {
        let plural = if self.streams == 1 { "" } else { "s" };
        format!("{} stream{plural} {}", self.streams, self.direction.name())
    }

    fn last(&self, stage: &Stage) -> String {
        let each = stage.ways.iter().zip(&self.samples).filter_map(|(way, samples)| {
            let Sample { gigabytes_per_second: speed, cpu_seconds_per_gigabyte: cost } = samples.last()?;
            Some(format!(", {} {speed:.2} GB/s at {cost:.2} CPU s/GB", way.name))
        });
        self.title() + &each.collect::<String>()
    }

    fn figures(self, stage: &Stage) -> Vec<Figure> {
        let title = self.title();
        let all = |of: fn(&Sample) -> f64, way: usize| self.samples[way].iter().map(of).collect::<Vec<_>>();
        let ratios = |of: fn(&Sample) -> f64| {
            all(of, 0).into_iter().zip(all(of, 1)).map(|(ours, limit)| ours / limit).collect::<Vec<_>>()
        };
        let speed = |sample: &Sample| sample.gigabytes_per_second;
        let cost = |sample: &Sample| sample.cpu_seconds_per_gigabyte;
        let speed_wanted = if self.streams == 1 { 0.95 } else { 0.90 };
        let mut figures = vec![
            Figure::of(NAME, format!("{title}, speed, gateway to TLS relay"), Unit::Ratio, ratios(speed))
                .wanted_at_least(speed_wanted),
            Figure::of(NAME, format!("{title}, CPU, gateway to TLS relay"), Unit::Ratio, ratios(cost))
                .wanted(Statistic::Median, CPU_WANTED),
        ];
        let to_peer = stage.to_best_peer(&self.samples, speed, Best::Most);
        if !to_peer.is_empty() {
            let title = format!("{title}, speed, gateway to the fastest peer");
            figures.push(Figure::of(NAME, title, Unit::Ratio, to_peer).wanted_at_least(1.0));
        }
        for (number, way) in stage.ways.iter().enumerate() {
            let name = || format!("{title}, {}", way.name);
            figures.push(Figure::of(NAME, name(), Unit::GigabytesPerSecond, all(speed, number)));
            figures.push(Figure::of(NAME, name(), Unit::CpuSecondsPerGigabyte, all(cost, number)));
        }
        figures
    }
}
