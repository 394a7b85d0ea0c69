//! Lines that are longer, slower or worse than loopback between central and agent: what one stream reaches, what small
//! requests wait beside bulk, how fast connections come.
//!
//! Two hosts in namespaces of their own, joined by the project's link emulator. Clients, central and the outer hop of
//! the relay are in the cloud; agent, inner hop and destination at the site.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

use emulator::path::Impairment;
use postern_tests::{Hosts, Place, wait_until};
use tokio::net::TcpListener;

use crate::ask::{ask, visit};
use crate::bulk::{Destination, Direction, pour, transfer};
use crate::figure::{Figure, Statistic, Unit};
use crate::relay::{Apart, Between, TwoHops};
use crate::stage::{Beside, Way};

const NAME: &str = "line";
const CLOUD: &str = "cloud";
const SITE: &str = "site";
const TUNNEL_PORT: u16 = 8443;
const PEERS_PORT: u16 = 7431;
/// What one sample of a rate takes.
const LONG: Duration = Duration::from_secs(5);
const VISITORS: usize = 16;
const BULK_STREAMS: usize = 4;
/// Where lines lose packets the gateway is measured also with so many lanes, each beside the others in every round.
const LANES: [(u16, &str); 3] = [(2, "gateway, 2 lanes"), (4, "gateway, 4 lanes"), (8, "gateway, 8 lanes")];
/// Over each way before the first round, so that congestion control has seen the line.
const WARM_UP_BYTES: u64 = 8 << 20;

/// The two hosts. This process is in the cloud from the moment they are made.
pub(crate) struct Network(emulator::Network);

impl Network {
    /// # Panics
    /// Without root's rights, iproute2 or /dev/net/tun.
    pub(crate) fn make() -> Self {
        postern_tests::needs::root("two hosts of their own");
        let network = emulator::Network::new(&[CLOUD, SITE], 1).expect("root may make hosts");
        network.enter(CLOUD).expect("root may enter them");
        Self(network)
    }

    fn address(&self, host: &str) -> Ipv4Addr {
        self.0.address(host).expect("it was made")
    }

    /// From now on the line does this, and carries packets of so many bytes.
    fn becomes(&self, line: Line) {
        self.0.impair_both(CLOUD, SITE, &line.does()).expect("both were made");
        for host in [CLOUD, SITE] {
            let namespace = self.0.namespace(host).expect("it was made");
            let packet = line.packet_bytes().to_string();
            let mut ip = Command::new("ip");
            ip.args(["netns", "exec", namespace, "ip", "link", "set", "wan", "mtu", &packet]);
            assert!(
                ip.status().is_ok_and(|status| status.success()),
                "packets could not have {packet} bytes"
            );
        }
    }

    fn destination(&self) -> Destination {
        // A socket stays on the host where it was made.
        let listener = thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.0.enter(SITE).expect("root may enter it");
                let listener = std::net::TcpListener::bind((self.address(SITE), 0));
                let listener = listener.expect("a new host has free ports");
                listener.set_nonblocking(true).expect("a listener need not block");
                listener
            });
            there.join().expect("a listener is made")
        });
        Destination::at(TcpListener::from_std(listener).expect("the runtime takes it"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// 20 ms there and back, as fast as can be.
    Long,
    /// 200 Mbit/s, 10 ms.
    Narrow,
    /// 80 ms, one packet in a hundred lost, in either direction.
    Lossy,
}

impl Line {
    fn title(self) -> &'static str {
        match self {
            Line::Long => "20 ms",
            Line::Narrow => "200 Mbit/s, 10 ms",
            Line::Lossy => "80 ms, 1 % loss",
        }
    }

    fn does(self) -> Impairment {
        let ms = Duration::from_millis;
        match self {
            Line::Long => Impairment { delay: ms(10), ..Impairment::default() },
            Line::Narrow => Impairment { delay: ms(5), rate: Some(25_000_000), ..Impairment::default() },
            Line::Lossy => Impairment { delay: ms(40), loss: 0.01, ..Impairment::default() },
        }
    }

    /// Where the line is as fast as can be, the emulator should not be what is measured: it works by the packet.
    fn packet_bytes(self) -> u32 {
        if self == Line::Long { 60_000 } else { 1500 }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    /// One stream carries so many MiB.
    One(Direction, u64),
    /// So many streams receive for as long as a sample takes.
    Bulk(usize),
    /// A question at a time beside bulk.
    BesideBulk,
    /// A question at a time, and nothing else.
    Alone,
    /// A connection for each question.
    Visiting,
}

const KINDS: [(Line, Kind); 10] = [
    (Line::Long, Kind::One(Direction::Down, 1024)),
    (Line::Long, Kind::One(Direction::Up, 1024)),
    (Line::Long, Kind::Visiting),
    (Line::Narrow, Kind::Alone),
    (Line::Narrow, Kind::Bulk(BULK_STREAMS)),
    (Line::Narrow, Kind::BesideBulk),
    (Line::Lossy, Kind::Bulk(1)),
    (Line::Lossy, Kind::Bulk(BULK_STREAMS)),
    (Line::Lossy, Kind::Bulk(2 * BULK_STREAMS)),
    (Line::Lossy, Kind::Alone),
];

/// What a sample showed; the first is what its kind is judged by.
type Seen = Vec<(&'static str, Unit, f64)>;

/// Everything over each line, for the gateway (or the tunnel alone) and the TLS relay.
pub(crate) async fn measure(rounds: usize, network: &Network, beside: Beside, only: &str) -> Vec<Figure> {
    let mut all = Vec::new();
    for line in [Line::Long, Line::Narrow, Line::Lossy] {
        let kinds = KINDS.into_iter().filter(|(of, kind)| *of == line && title(*of, *kind).contains(only));
        let kinds: Vec<_> = kinds.map(|(_, kind)| kind).collect();
        if !kinds.is_empty() {
            network.becomes(line);
            let stage = Stage::set(network, line, beside.bare).await;
            all.extend(over(line, &kinds, rounds, &stage).await);
        }
    }
    all
}

async fn over(line: Line, kinds: &[Kind], rounds: usize, stage: &Stage) -> Vec<Figure> {
    for way in &stage.ways {
        transfer(way.addr, Direction::Down, 1, WARM_UP_BYTES).await;
        transfer(way.addr, Direction::Up, 1, WARM_UP_BYTES).await;
    }
    let mut all: Vec<_> = kinds.iter().map(|kind| (*kind, vec![Vec::new(); stage.ways.len()])).collect();
    for round in 1..=rounds {
        for (kind, samples) in &mut all {
            let mut told = String::new();
            for (way, samples) in stage.ways.iter().zip(samples) {
                let sample = kind.sample(way.addr).await;
                told += &format!(", {}", way.name);
                for (what, unit, value) in &sample {
                    told += &format!(" {what} {value:.3} {}", unit.symbol());
                }
                samples.push(sample);
            }
            eprintln!("line {round}/{rounds}: {}{told}", title(line, *kind));
        }
    }
    all.into_iter().flat_map(|(kind, samples)| figures(line, kind, stage, &samples)).collect()
}

fn title(line: Line, kind: Kind) -> String {
    let what = match kind {
        Kind::One(direction, _) => format!("1 stream {}", direction.name()),
        Kind::Bulk(1) => "1 bulk stream".to_owned(),
        Kind::Bulk(streams) => format!("{streams} bulk streams"),
        Kind::BesideBulk => format!("128 B beside {BULK_STREAMS} bulk streams"),
        Kind::Alone => "128 B alone".to_owned(),
        Kind::Visiting => format!("a new connection each, {VISITORS} clients"),
    };
    format!("{}: {what}", line.title())
}

impl Kind {
    async fn sample(self, addr: SocketAddr) -> Seen {
        let speed = |bytes: u64, long: Duration| {
            ("speed", Unit::MegabytesPerSecond, bytes as f64 / long.as_secs_f64() / 1e6)
        };
        match self {
            Kind::One(direction, mebibytes) => {
                let bytes = mebibytes << 20;
                vec![speed(bytes, transfer(addr, direction, 1, bytes).await)]
            }
            Kind::Bulk(streams) => vec![speed(pour(addr, streams, LONG).await, LONG)],
            Kind::BesideBulk => {
                let bulk = tokio::spawn(pour(addr, BULK_STREAMS, LONG));
                let asked = ask(addr, 1, 128, LONG).await;
                let bulk = bulk.await.expect("bulk does not panic");
                vec![
                    ("p50", Unit::Milliseconds, asked.p50_us / 1e3),
                    ("p99", Unit::Milliseconds, asked.p99_us / 1e3),
                    speed(bulk, LONG),
                ]
            }
            Kind::Alone => {
                let asked = ask(addr, 1, 128, LONG).await;
                vec![
                    ("p50", Unit::Milliseconds, asked.p50_us / 1e3),
                    ("p99", Unit::Milliseconds, asked.p99_us / 1e3),
                ]
            }
            Kind::Visiting => {
                let asked = visit(addr, VISITORS, 128, LONG).await;
                vec![
                    ("rate", Unit::PerSecond, asked.per_second),
                    ("p50", Unit::Milliseconds, asked.p50_us / 1e3),
                ]
            }
        }
    }
}

fn figures(line: Line, kind: Kind, stage: &Stage, samples: &[Vec<Seen>]) -> Vec<Figure> {
    let title = title(line, kind);
    let mut figures = Vec::new();
    for (way, samples) in stage.ways.iter().zip(samples) {
        let ours = way.name == stage.ways[0].name;
        for (number, (what, unit, _)) in samples[0].iter().enumerate() {
            let values = samples.iter().map(|seen| seen[number].2).collect();
            let figure = Figure::of(NAME, format!("{title}, {what}, {}", way.name), *unit, values);
            figures.push(match (kind, *what) {
                (Kind::BesideBulk, "p50") if ours => figure.wanted(Statistic::Median, 20.0),
                (Kind::Visiting, "rate") if ours => figure.wanted_at_least(600.0),
                _ => figure,
            });
        }
    }
    for (way, samples_of_more) in stage.ways.iter().zip(samples).skip(2) {
        let ratios =
            samples_of_more.iter().zip(&samples[0]).map(|(more, one)| more[0].2 / one[0].2).collect();
        let what = samples[0][0][0].0;
        let ratio = Figure::of(NAME, format!("{title}, {what}, {} to one", way.name), Unit::Ratio, ratios);
        figures.push(match kind {
            Kind::Bulk(streams) if streams >= BULK_STREAMS && way.name == LANES[1].1 => {
                ratio.wanted_at_least(2.0)
            }
            _ => ratio,
        });
    }
    let ratios = samples[0].iter().zip(&samples[1]).map(|(ours, relay)| ours[0].2 / relay[0].2).collect();
    let what = samples[0][0][0].0;
    let ratio = Figure::of(NAME, format!("{title}, {what}, gateway to TLS relay"), Unit::Ratio, ratios);
    figures.push(match (line, kind) {
        (Line::Long, Kind::One(..)) => ratio.wanted_at_least(0.9),
        (Line::Narrow, Kind::Bulk(_)) => ratio.wanted_at_least(0.95),
        _ => ratio,
    });
    figures
}

/// The ways over the line to the destination at the site. Dropped, all of it ends.
struct Stage {
    /// Ours first, then the TLS relay, then ours with more lanes.
    ways: Vec<Way>,
    _relays: Vec<TwoHops>,
    _gateways: Vec<Hosts>,
    _destination: Destination,
}

impl Stage {
    async fn set(network: &Network, line: Line, bare: bool) -> Self {
        let destination = network.destination();
        let target = destination.addr();
        let apart = Apart {
            outer: network.address(CLOUD).into(),
            inner: network.address(SITE).into(),
            namespace: network.0.namespace(SITE).expect("it was made").to_owned(),
        };
        let mut ways = Vec::new();
        let mut relays = Vec::new();
        let mut gateways = Vec::new();
        if bare {
            let tunnel = TwoHops::apart(target, Between::Tunnel, Some(&apart));
            ways.push(Way {
                name: "tunnel alone",
                addr: tunnel.addr(),
                pids: tunnel.pids().to_vec(),
                peer: false,
            });
            relays.push(tunnel);
        } else {
            let (gateway, way) = gateway(network, &apart.namespace, target, 1, "gateway").await;
            gateways.push(gateway);
            ways.push(way);
        }
        let relay = TwoHops::apart(target, Between::Tls, Some(&apart));
        ways.push(Way { name: "TLS relay", addr: relay.addr(), pids: relay.pids().to_vec(), peer: false });
        relays.push(relay);
        if line == Line::Lossy && !bare {
            for (lanes, name) in LANES {
                let (gateway, way) = gateway(network, &apart.namespace, target, lanes, name).await;
                gateways.push(gateway);
                ways.push(way);
            }
        }
        Self { ways, _relays: relays, _gateways: gateways, _destination: destination }
    }
}

/// A gateway whose tunnel has so many lanes, all of them up.
async fn gateway(
    network: &Network,
    site: &str,
    target: SocketAddr,
    lanes: u16,
    name: &'static str,
) -> (Hosts, Way) {
    // Each gateway has ports of its own: they stand side by side.
    let (port, peers_port) = (TUNNEL_PORT + lanes, PEERS_PORT + lanes);
    let place = Place { peers_port, ..Place::new(site.to_owned(), network.address(SITE)) };
    let places = BTreeMap::from([(SITE.to_owned(), place)]);
    let tunnel = SocketAddr::from((network.address(CLOUD), port));
    let mut gateway = Hosts::central_across(tunnel, places, &format!("lanes = {lanes}\n")).await;
    gateway.form(&[SITE]).await;
    wait_until("every lane is up", LONG, async || {
        let up = &gateway.api().get("/gateway").await["lanes"];
        (up.as_u64() == Some(lanes.into())).then_some(())
    })
    .await;
    let addr = gateway.destination("bulk", target).await;
    let pids = vec![gateway.central_pid(), gateway.pid(SITE)];
    (gateway, Way { name, addr, pids, peer: false })
}
