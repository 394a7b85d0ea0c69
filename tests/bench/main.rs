//! The bench: measures the gateway as it was built, from outside, through real processes.
//!
//! ```text
//!   cargo build --release --workspace --bins
//!   cargo run --release -p postern-tests --bin bench -- all --json figures.json
//! ```
//!
//! One file a measurement, each a function from rounds to figures; a new one is a line in [`What`]
//! and a file. Figures go to stdout as one JSON document and to stderr as a table. A missed target
//! is shown and fails nothing: how fast is a question, not a test. A broken gateway panics.
#![expect(clippy::expect_used, reason = "the bench stands on the tests' stage and fails as they do")]

mod alerts;
mod ask;
mod bare;
mod bulk;
mod crowd;
mod environments;
mod failover;
mod fair;
mod figure;
mod idle;
mod latency;
mod line;
mod machine;
mod nuisance;
mod pages;
mod peer;
mod relay;
mod report;
mod stage;
mod stalls;
mod stock;
mod throughput;
mod usage;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::figure::Figure;
use crate::report::Report;
use crate::stage::Beside;

/// `bench all` when nothing is said.
#[derive(Parser)]
#[command(name = "bench", about = "Measures Postern's own programs, found beside this one; builds nothing")]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How often each measurement is repeated [default: failover 50, alerts and pages 20, crowd, fair and environments 1, others 3]
    #[arg(long, global = true)]
    rounds: Option<NonZeroUsize>,
    /// Leave the programs out: measure the tunnel with nothing around it, and the limits
    #[arg(long, global = true)]
    bare: bool,
    /// Measure encrypted peers too, those that are installed: stunnel, haproxy, ssh -R, rathole
    #[arg(long, global = true)]
    peers: bool,
    /// Measure a second gateway, whose tunnel has so many lanes, in throughput, latency and fair
    #[arg(long, global = true, value_name = "LANES", value_parser = clap::value_parser!(u8).range(2..=8))]
    lanes: Option<u8>,
    /// Only what has this in its name, of throughput, latency and stalls: "1 stream down", "beside"
    #[arg(long, global = true, default_value = "", hide_default_value = true, value_name = "TEXT")]
    only: String,
    /// Write the JSON document to this file too
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Measure(What),
    /// One process of the relays to compare with
    #[command(hide = true)]
    RelayHop(relay::HopArgs),
    /// Clients that are a nuisance
    #[command(hide = true)]
    Nuisance(nuisance::NuisanceArgs),
}

#[derive(Subcommand, Clone, Copy)]
enum What {
    /// From kill -9 of the active to the first byte over a new connection
    Failover,
    /// From the decision to tell people to a receiver that has heard
    Alerts,
    /// Memory of an idle central, active and standby
    Idle,
    /// Bulk speed and CPU cost, beside two-hop relays with TLS and without
    Throughput {
        /// What each transfer carries, all its streams together
        #[arg(long, default_value_t = throughput::TOTAL_MIB)]
        mebibytes: u64,
    },
    /// Small requests: alone, in a crowd, beside bulk, and with a connection each
    Latency,
    /// Memory of a stream that nobody uses
    Crowd {
        /// How many are open
        #[arg(long, default_value_t = CROWDS[0])]
        streams: usize,
    },
    /// Every page and list of the administration with a large stock of records, and central's memory
    Pages {
        /// How much there is; Process Servers, destinations and events in the ratio 1 : 2 : 100
        #[arg(long, default_value_t = pages::PROCESS_SERVERS)]
        process_servers: usize,
    },
    /// Thousands of busy streams, and some that nobody reads
    Fair {
        /// How many are busy
        #[arg(long, default_value_t = fair::STREAMS)]
        streams: usize,
        /// For how long
        #[arg(long, default_value_t = fair::SECONDS)]
        seconds: u64,
    },
    /// What well-behaved streams notice of a nuisance: a destination that never reads, connects that nobody answers, ...
    Stalls {
        /// How many connects that nobody answers
        #[arg(long, default_value_t = stalls::CONNECTS)]
        connects: usize,
    },
    /// What an Environment costs central and its agent, and whether all of them cost as much as each
    Environments {
        /// How many there are in the end
        #[arg(long, default_value_t = environments::ENVIRONMENTS)]
        environments: usize,
    },
    /// Longer, slower and lossy lines between central and agent, beside the TLS relay. Takes root
    Line,
    /// Everything above but the Environments, which take minutes, and the lines
    All,
}

/// Idle streams, where nothing else is said; `all` takes each.
const CROWDS: [usize; 2] = [5_000, 50_000];

fn main() -> ExitCode {
    let args = Args::parse();
    // Before there are threads: each of them is on the host where it was started.
    let network = matches!(args.command, Some(Command::Measure(What::Line))).then(line::Network::make);
    let runtime = tokio::runtime::Runtime::new().expect("the kernel grants an epoll and a few threads");
    runtime.block_on(run(args, network.as_ref()))
}

impl What {
    async fn figures(self, rounds: Option<NonZeroUsize>, beside: Beside, only: &str) -> Vec<Figure> {
        let or = |default: usize| rounds.map_or(default, NonZeroUsize::get);
        match self {
            Self::Failover => failover::measure(or(50)).await,
            Self::Alerts => alerts::measure(or(20)).await,
            Self::Idle => idle::measure(or(3)).await,
            Self::Throughput { mebibytes } => throughput::measure(or(3), beside, mebibytes, only).await,
            Self::Latency => latency::measure(or(3), beside, only).await,
            Self::Crowd { streams } => crowd::measure(or(1), streams, beside.bare).await,
            Self::Pages { process_servers } => pages::measure(or(pages::ROUNDS), process_servers).await,
            Self::Fair { streams, seconds } => fair::measure(or(1), beside, streams, seconds).await,
            Self::Stalls { connects } => stalls::measure(or(3), connects, only).await,
            Self::Environments { environments } => environments::measure(or(1), environments).await,
            Self::Line => unreachable!("its hosts are made before the runtime, and so is it measured"),
            Self::All => {
                let mut all = failover::measure(or(50)).await;
                all.extend(alerts::measure(or(20)).await);
                all.extend(idle::measure(or(3)).await);
                all.extend(throughput::measure(or(3), beside, throughput::TOTAL_MIB, only).await);
                all.extend(latency::measure(or(3), beside, only).await);
                for streams in CROWDS {
                    all.extend(crowd::measure(or(1), streams, beside.bare).await);
                }
                all.extend(fair::measure(or(1), beside, fair::STREAMS, fair::SECONDS).await);
                all.extend(stalls::measure(or(3), stalls::CONNECTS, only).await);
                all.extend(pages::measure(or(pages::ROUNDS), pages::PROCESS_SERVERS).await);
                all
            }
        }
    }
}

async fn run(args: Args, network: Option<&line::Network>) -> ExitCode {
    let what = match args.command {
        Some(Command::RelayHop(args)) => return relay_hop(args).await,
        Some(Command::Nuisance(args)) => {
            nuisance::run(args).await;
            return ExitCode::SUCCESS;
        }
        Some(Command::Measure(what)) => what,
        None => What::All,
    };
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build: the figures show that the bench runs, and nothing else.");
    }
    let mut report = Report::begin(if args.peers { peer::absent() } else { Vec::new() });
    let beside = Beside { bare: args.bare, peers: args.peers, lanes: args.lanes };
    let figures = match network {
        Some(network) => {
            line::measure(args.rounds.map_or(3, NonZeroUsize::get), network, beside, &args.only).await
        }
        None => what.figures(args.rounds, beside, &args.only).await,
    };
    report.add(figures);
    eprint!("{}", report.table());
    let json = report.json();
    println!("{json}");
    if let Some(file) = args.json
        && let Err(error) = std::fs::write(&file, json + "\n")
    {
        eprintln!("{} could not be written: {error}; the figures stand on stdout", file.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

async fn relay_hop(args: relay::HopArgs) -> ExitCode {
    match relay::run_hop(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("a relay's hop ended: {error}");
            ExitCode::FAILURE
        }
    }
}
