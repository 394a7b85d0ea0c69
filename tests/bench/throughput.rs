//! Bulk through the gateway beside bulk through the limit, and what each costs in CPU.
//!
//! Both paths are measured in the same round, one right after the other, because on a shared machine
//! wall-clock figures move by a third while their ratio hardly does.

use postern_tests::Dev;

use crate::bulk::{Destination, Direction, transfer};
use crate::figure::{Figure, Unit};
use crate::relay::TwoHops;
use crate::usage::cpu_seconds;

const NAME: &str = "throughput";
/// For each shape, all its streams together.
const TOTAL_BYTES: u64 = 1 << 30;
/// Before the first round, through each path: caches, windows and allocators settle.
const WARM_UP_BYTES: u64 = 64 << 20;

const SHAPES: [(usize, Direction); 4] =
    [(1, Direction::Down), (1, Direction::Up), (10, Direction::Down), (10, Direction::Up)];

/// Speed and CPU cost of the gateway and of the relay, and the gateway's speed as a ratio.
pub(crate) async fn measure(rounds: usize) -> Vec<Figure> {
    let destination = Destination::start().await;
    let dev = Dev::start(&[("bulk", &format!("tcp://{}", destination.addr()))]).await;
    dev.until_all_configured().await;
    let relay = TwoHops::to(destination.addr()).await;
    let active = dev.api().gateway().await.active.expect("a gateway whose candidates are configured has one");
    // The standby's CPU is left out: it carries nothing.
    let gateway = Path { addr: dev.listen("bulk"), pids: [dev.central_pid(), dev.agent(&active).pid] };
    let limit = Path { addr: relay.addr(), pids: relay.pids() };
    for path in [&gateway, &limit] {
        transfer(path.addr, Direction::Down, 1, WARM_UP_BYTES).await;
        transfer(path.addr, Direction::Up, 1, WARM_UP_BYTES).await;
    }

    let mut shapes = SHAPES.map(|(streams, direction)| Shape::new(streams, direction));
    for round in 1..=rounds {
        for shape in &mut shapes {
            shape.gateway.push(gateway.carry(shape.streams, shape.direction).await);
            shape.limit.push(limit.carry(shape.streams, shape.direction).await);
            eprintln!("throughput {round}/{rounds}: {}", shape.last());
        }
    }
    shapes.into_iter().flat_map(Shape::figures).collect()
}

/// A way to the destination and the two processes that make it.
struct Path {
    addr: std::net::SocketAddr,
    pids: [u32; 2],
}

#[derive(Clone, Copy)]
struct Sample {
    gigabytes_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
}

impl Path {
    async fn carry(&self, streams: usize, direction: Direction) -> Sample {
        let bytes_per_stream = TOTAL_BYTES / streams as u64;
        let gigabytes = (bytes_per_stream * streams as u64) as f64 / 1e9;
        let cpu_before = cpu_seconds(&self.pids);
        let took = transfer(self.addr, direction, streams, bytes_per_stream).await;
        Sample {
            gigabytes_per_second: gigabytes / took.as_secs_f64(),
            cpu_seconds_per_gigabyte: (cpu_seconds(&self.pids) - cpu_before) / gigabytes,
        }
    }
}

/// So many streams in one direction, and what was seen of them, a sample a round.
struct Shape {
    streams: usize,
    direction: Direction,
    gateway: Vec<Sample>,
    limit: Vec<Sample>,
}

impl Shape {
    fn new(streams: usize, direction: Direction) -> Self {
        Self { streams, direction, gateway: Vec::new(), limit: Vec::new() }
    }

    fn title(&self) -> String {
        let plural = if self.streams == 1 { "" } else { "s" };
        format!("{} stream{plural} {}", self.streams, self.direction.name())
    }

    fn last(&self) -> String {
        let speed = |samples: &[Sample]| samples.last().map_or(f64::NAN, |last| last.gigabytes_per_second);
        format!(
            "{}, gateway {:.2} GB/s, relay {:.2} GB/s",
            self.title(),
            speed(&self.gateway),
            speed(&self.limit)
        )
    }

    fn figures(self) -> Vec<Figure> {
        let title = self.title();
        let ratios = self.gateway.iter().zip(&self.limit);
        let ratios = ratios.map(|(ours, limit)| ours.gigabytes_per_second / limit.gigabytes_per_second);
        let speed = |samples: &[Sample]| samples.iter().map(|one| one.gigabytes_per_second).collect();
        let cost = |samples: &[Sample]| samples.iter().map(|one| one.cpu_seconds_per_gigabyte).collect();
        vec![
            Figure::of(NAME, format!("{title}, gateway"), Unit::GigabytesPerSecond, speed(&self.gateway)),
            Figure::of(NAME, format!("{title}, plain relay"), Unit::GigabytesPerSecond, speed(&self.limit)),
            Figure::of(NAME, format!("{title}, gateway to relay"), Unit::Ratio, ratios.collect()),
            Figure::of(NAME, format!("{title}, gateway"), Unit::CpuSecondsPerGigabyte, cost(&self.gateway)),
            Figure::of(NAME, format!("{title}, plain relay"), Unit::CpuSecondsPerGigabyte, cost(&self.limit)),
        ]
    }
}
