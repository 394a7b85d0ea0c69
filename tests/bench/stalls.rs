//! What well-behaved streams notice of a nuisance: a destination that never reads, connects that nobody answers, a flood
//! of single bytes, streams opened and reset, an agent whose disk is slow.
//!
//! Well-behaved are clients that ask at a pace of their own and could be served alone with room to spare: what they get
//! beside the nuisance, as a ratio of what they got right before it, is the figure. A stream that takes all it can is shown
//! too, without a target: on a machine whose cores are all busy, whatever the nuisance costs is taken from somebody.
//!
//! How much that is shows the TLS relay, which has a connection for each stream and can keep none of them back: where a
//! nuisance is made of bytes or connections, well-behaved clients of the relay meet it too, right after.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use postern_tests::{Folder, Hosts, allow_files, needs, wait_until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::ask::Asker;
use crate::bulk::{Destination, pour};
use crate::figure::{Figure, Statistic, Unit, percentile};
use crate::nuisance::{CHURNERS, Clients, DRIBBLERS, Kind};
use crate::relay::{Between, TwoHops};

const NAME: &str = "stalls";
/// How long each look takes.
const LONG: Duration = Duration::from_secs(3);
/// Together some 16 MB/s each way.
const CLIENTS: usize = 10;
const QUESTION_BYTES: usize = 16 * 1024;
const PACE: Duration = Duration::from_millis(10);
const SOON: Duration = Duration::from_secs(60);

const DEAF_STREAMS: usize = 100;
/// Connects that nobody answers, where nothing else is said.
pub(crate) const CONNECTS: usize = 10_000;

/// What is measured of each nuisance: how much of the offered load is served, its p99, and a greedy stream's speed, all
/// as ratios.
pub(crate) async fn measure(rounds: usize, connects: usize, only: &str) -> Vec<Figure> {
    assert!(allow_files(connects + 500), "{connects} connects need more files: raise the limit (ulimit -Hn)");
    let stage = Stage::set(connects).await;
    let nuisances: Vec<_> =
        Nuisance::ALL.into_iter().filter(|one| one.title(connects).contains(only)).collect();
    let mut samples = vec![Vec::new(); nuisances.len()];
    for round in 1..=rounds {
        for (nuisance, samples) in nuisances.iter().zip(&mut samples) {
            let alone = look(stage.bulk).await;
            let going = stage.begin(*nuisance).await;
            let beside = look(stage.bulk).await;
            drop(going);
            stage.until_quiet().await;
            let sample = Sample { ours: Beside::of(&alone, &beside), relay: stage.relayed(*nuisance).await };
            let told = |who: &str, beside: &Beside| {
                eprintln!(
                    "stalls {round}/{rounds}: {}, {who}: {:.3} of what was asked alone, p99 {:.0} µs ({:.2} ×), a greedy stream {:.2}",
                    nuisance.title(connects),
                    beside.served,
                    beside.p99_us,
                    beside.p99,
                    beside.greedy
                );
            };
            told("gateway", &sample.ours);
            if let Some(relay) = &sample.relay {
                told("TLS relay", relay);
            }
            samples.push(sample);
        }
    }
    let mut figures = Vec::new();
    for (nuisance, samples) in nuisances.iter().zip(samples) {
        let title = nuisance.title(connects);
        let figure = |what: &str, unit, of: fn(&Sample) -> f64| {
            Figure::of(NAME, format!("{title}, {what}"), unit, samples.iter().map(of).collect())
        };
        figures.push(figure("throughput kept", Unit::Ratio, |s| s.ours.served).wanted_at_least(0.95));
        figures.push(figure("p99 to alone", Unit::Ratio, |s| s.ours.p99).wanted(Statistic::Median, 2.0));
        figures.push(figure("p99", Unit::Microseconds, |s| s.ours.p99_us));
        figures.push(figure("greedy stream to alone", Unit::Ratio, |s| s.ours.greedy));
        let relayed: Vec<_> =
            samples.iter().filter_map(|sample| Some((sample.ours, sample.relay?))).collect();
        if relayed.is_empty() {
            continue;
        }
        let figure = |what: &str, of: fn(&(Beside, Beside)) -> f64| {
            let values = relayed.iter().map(of).collect();
            Figure::of(NAME, format!("{title}, {what}"), Unit::Ratio, values)
        };
        figures.push(figure("throughput kept, TLS relay", |(_, relay)| relay.served));
        figures.push(figure("p99 to alone, TLS relay", |(_, relay)| relay.p99));
        figures.push(figure("p99, gateway to TLS relay", |(ours, relay)| ours.p99_us / relay.p99_us));
    }
    figures
}

#[derive(Clone, Copy)]
struct Sample {
    ours: Beside,
    relay: Option<Beside>,
}

/// What a nuisance left of what there was alone.
#[derive(Clone, Copy)]
struct Beside {
    served: f64,
    p99: f64,
    p99_us: f64,
    greedy: f64,
}

impl Beside {
    fn of(alone: &Look, beside: &Look) -> Self {
        Self {
            served: beside.served / alone.served,
            p99: beside.p99_us / alone.p99_us,
            p99_us: beside.p99_us,
            greedy: beside.greedy / alone.greedy,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nuisance {
    NeverReads,
    NobodyAnswers,
    SingleBytes,
    OpenedAndReset,
    SlowDisk,
}

impl Nuisance {
    const ALL: [Self; 5] =
        [Self::NeverReads, Self::NobodyAnswers, Self::SingleBytes, Self::OpenedAndReset, Self::SlowDisk];

    fn title(self, connects: usize) -> String {
        match self {
            Self::NeverReads => format!("{DEAF_STREAMS} streams to a destination that never reads"),
            Self::NobodyAnswers => format!("{connects} connects that nobody answers"),
            Self::SingleBytes => format!("{DRIBBLERS} streams of single bytes"),
            Self::OpenedAndReset => format!("streams opened and reset by {CHURNERS} clients"),
            Self::SlowDisk => "each fdatasync of the active takes 500 ms".to_owned(),
        }
    }
}

impl Nuisance {
    /// The clients it is made of, where it is made of nothing else.
    fn of_clients(self) -> Option<Kind> {
        match self {
            Self::SingleBytes => Some(Kind::Dribble),
            Self::OpenedAndReset => Some(Kind::Churn),
            Self::NeverReads | Self::NobodyAnswers | Self::SlowDisk => None,
        }
    }
}

/// What well-behaved clients got in one look.
struct Look {
    /// Of what they would have asked at their pace.
    served: f64,
    p99_us: f64,
    greedy: f64,
}

struct Stage {
    hosts: Hosts,
    bulk: SocketAddr,
    deaf: SocketAddr,
    silent: SocketAddr,
    disk: SlowDisk,
    connects: usize,
    relay: TwoHops,
    // They end with the stage.
    _destination: Destination,
    _never_read: JoinSet<()>,
    _never_answers: (TcpListener, Vec<std::net::TcpStream>),
}

impl Stage {
    async fn set(connects: usize) -> Self {
        let destination = Destination::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let deaf_at = listener.local_addr().expect("a listener has an address");
        let mut never_read = JoinSet::new();
        never_read.spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        // A queue of one that nobody takes from: the kernel drops every further SYN.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a loopback port");
        let silent = socket.listen(1).expect("a loopback port can be listened on");
        let silent_at = silent.local_addr().expect("a listener has an address");
        let fills =
            (0..2).map(|_| std::net::TcpStream::connect(silent_at).expect("a place in the queue")).collect();

        let disk = SlowDisk::make();
        let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
        hosts.start_through("alpha", &disk.through());
        hosts.stop("alpha");
        hosts.until_active("beta").await;
        hosts.start("alpha");
        wait_until("alpha is back", SOON, async || {
            (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
        })
        .await;
        hosts.posternctl(&["gateway", "switch", "--to", "alpha"]);
        hosts.until_active("alpha").await;
        let bulk = hosts.destination("bulk", destination.addr()).await;
        let deaf = hosts.destination("deaf", deaf_at).await;
        let silent_listen = hosts.destination("silent", silent_at).await;
        hosts.api().patch("/destinations/silent", json!({ "limits": { "streams": connects } })).await;
        let stage = Self {
            hosts,
            bulk,
            deaf,
            silent: silent_listen,
            disk,
            connects,
            relay: TwoHops::to(destination.addr(), Between::Tls),
            _destination: destination,
            _never_read: never_read,
            _never_answers: (silent, fills),
        };
        // The first look warms everything up.
        look(stage.bulk).await;
        look(stage.relay.addr()).await;
        stage
    }

    /// The same nuisance to the relay's clients, if it is one that a relay can meet.
    async fn relayed(&self, nuisance: Nuisance) -> Option<Beside> {
        let relay = self.relay.addr();
        let kind = nuisance.of_clients()?;
        let alone = look(relay).await;
        let going = Clients::start(kind, relay);
        let beside = look(relay).await;
        drop(going);
        Some(Beside::of(&alone, &beside))
    }

    /// Goes on until the answer is dropped.
    async fn begin(&self, nuisance: Nuisance) -> Going {
        let (mut going, mut clients) = (JoinSet::new(), None);
        match nuisance {
            Nuisance::NeverReads => {
                for _ in 0..DEAF_STREAMS {
                    let deaf = self.deaf;
                    going.spawn(async move {
                        let mut stream = TcpStream::connect(deaf).await.expect("central accepts");
                        // Dropped, it is reset: what nobody reads would otherwise be kept for as long as nobody reads.
                        stream.set_zero_linger().expect("a socket takes its option");
                        while stream.write_all(&[7; 16 * 1024]).await.is_ok() {}
                    });
                }
                self.until_streams(DEAF_STREAMS).await;
            }
            Nuisance::NobodyAnswers => {
                for _ in 0..self.connects {
                    let silent = self.silent;
                    going.spawn(async move {
                        // Again and again: each attempt ends when the agent gives up.
                        while let Ok(mut stream) = TcpStream::connect(silent).await {
                            let _ = stream.read(&mut [0; 1]).await;
                        }
                    });
                }
                // The agent gives up as many as come new.
                self.until_streams(self.connects / 2).await;
            }
            Nuisance::SingleBytes | Nuisance::OpenedAndReset => {
                clients = nuisance.of_clients().map(|kind| Clients::start(kind, self.bulk));
                if nuisance == Nuisance::SingleBytes {
                    self.until_streams(DRIBBLERS).await;
                }
            }
            Nuisance::SlowDisk => {
                self.disk.slow(true);
                let api = self.hosts.api().clone();
                going.spawn(async move {
                    // Each is written into the log by the active, before anybody hears of it.
                    for on in [false, true].into_iter().cycle() {
                        api.patch("/process-servers/beta", json!({ "candidate": on })).await;
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                });
            }
        }
        Going {
            _tasks: going,
            _clients: clients,
            disk: (nuisance == Nuisance::SlowDisk).then(|| self.disk.clone()),
        }
    }

    async fn streams(&self) -> usize {
        let gateway = self.hosts.api().get("/gateway").await;
        gateway["streams"].as_u64().and_then(|streams| usize::try_from(streams).ok()).unwrap_or(0)
    }

    async fn until_streams(&self, many: usize) {
        wait_until("the nuisance is there", SOON, async || (self.streams().await >= many).then_some(()))
            .await;
    }

    /// Nothing of the nuisance is left, and both candidates are there.
    async fn until_quiet(&self) {
        self.hosts.mark("beta", true).await;
        wait_until("quiet", SOON, async || {
            let configured = self.hosts.servers_that_are("configured").await == ["alpha", "beta"];
            (configured && self.streams().await == 0).then_some(())
        })
        .await;
        let active = self.hosts.gateway().await.active;
        assert_eq!(active.as_deref(), Some("alpha"), "no nuisance costs the active its role");
    }
}

/// A nuisance. Dropped, it ends.
struct Going {
    _tasks: JoinSet<()>,
    _clients: Option<Clients>,
    disk: Option<SlowDisk>,
}

impl Drop for Going {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            disk.slow(false);
        }
    }
}

async fn look(at: SocketAddr) -> Look {
    let greedy = pour(at, 1, LONG / 2).await as f64;
    let (took, asked) = paced(at).await;
    let mut sorted: Vec<f64> = took.iter().map(|took| took.as_secs_f64() * 1e6).collect();
    sorted.sort_by(f64::total_cmp);
    Look { served: took.len() as f64 / asked as f64, p99_us: percentile(&sorted, 99), greedy }
}

/// [`CLIENTS`] ask at their pace, an unanswered question delaying the next. How long answers took, and how many questions
/// there would have been without any delay.
async fn paced(addr: SocketAddr) -> (Vec<Duration>, usize) {
    let mut running = JoinSet::new();
    for client in 0..CLIENTS {
        running.spawn(async move {
            let mut asker =
                Asker::connect(addr, QUESTION_BYTES).await.expect("there is a way to the destination");
            asker.ask().await.expect("the destination answers");
            let mut took = Vec::new();
            // Not all at the same moment.
            tokio::time::sleep(PACE * client as u32 / CLIENTS as u32).await;
            let began = Instant::now();
            let mut ticks = tokio::time::interval(PACE);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while began.elapsed() < LONG {
                ticks.tick().await;
                took.push(asker.ask().await.unwrap_or_else(|error| panic!("a question broke: {error}")));
            }
            took
        });
    }
    let asked = CLIENTS * (LONG.as_millis() / PACE.as_millis()) as usize;
    (running.join_all().await.concat(), asked)
}

/// A disk whose every sync takes half a second longer while it is told so: a library that stands before libc's.
#[derive(Clone)]
struct SlowDisk {
    library: PathBuf,
    told: PathBuf,
    _folder: std::sync::Arc<Folder>,
}

impl SlowDisk {
    fn make() -> Self {
        let folder = Folder::new("slow-disk");
        let told = folder.join("slow");
        let source = folder.write(
            "slow.c",
            "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
             int fdatasync(int fd) {\n  static int (*real)(int);\n\
             \x20 if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, \"fdatasync\");\n\
             \x20 if (access(getenv(\"SLOW_DISK\"), F_OK) == 0) usleep(500000);\n  return real(fd);\n}\n",
        );
        let library = folder.join("slow.so");
        let made = Command::new(needs::command("cc", "gcc"))
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .arg("-ldl")
            .status()
            .expect("cc can be started");
        assert!(made.success(), "the slow disk could not be compiled: {made}");
        Self { library, told, _folder: std::sync::Arc::new(folder) }
    }

    fn through(&self) -> [String; 3] {
        let Self { library, told, .. } = self;
        ["env".into(), format!("LD_PRELOAD={}", library.display()), format!("SLOW_DISK={}", told.display())]
    }

    fn slow(&self, slow: bool) {
        let done = match slow {
            true => std::fs::write(&self.told, "").map(drop),
            false => std::fs::remove_file(&self.told),
        };
        done.expect("the file that tells it is ours");
    }
}
