//! Memory of processes that have nothing to do: central with two agents, the active, the standby.
//!
//! A round: a fresh gateway, both agents configured, 30 s in which nobody asks anything of it, then
//! one look at /proc. Its only work meanwhile is its own: heartbeats and pings.

use std::time::Duration;

use postern_tests::Dev;

use crate::figure::{Figure, Statistic, Unit};
use crate::usage::{Memory, memory};

const NAME: &str = "idle";
const QUIET: Duration = Duration::from_secs(30);

const AGENT_WANTED_MIB: f64 = 25.0;
const CENTRAL_WANTED_MIB: f64 = 40.0;

/// RSS and PSS of each of the three processes.
pub(crate) async fn measure(rounds: usize) -> Vec<Figure> {
    let mut central = Samples::of("central with 2 agents", CENTRAL_WANTED_MIB);
    let mut active = Samples::of("active agent", AGENT_WANTED_MIB);
    let mut standby = Samples::of("standby agent", AGENT_WANTED_MIB);
    for round in 1..=rounds {
        let dev = Dev::start(&[]).await;
        dev.until_all_configured().await;
        let gateway = dev.api().gateway().await;
        let name = gateway.active.expect("a gateway whose candidates are configured has an active");
        // The quiet itself is what is measured: there is no state to wait for.
        tokio::time::sleep(QUIET).await;
        central.take(memory(dev.central_pid()));
        active.take(memory(dev.agent(&name).pid));
        standby.take(memory(dev.other_than(&name).pid));
        eprintln!("idle {round}/{rounds}: {central}, {active}, {standby}");
    }
    [central, active, standby].into_iter().flat_map(Samples::figures).collect()
}

struct Samples {
    of: &'static str,
    wanted_mib: f64,
    rss_mib: Vec<f64>,
    pss_mib: Vec<f64>,
}

impl Samples {
    fn of(of: &'static str, wanted_mib: f64) -> Self {
        Self { of, wanted_mib, rss_mib: Vec::new(), pss_mib: Vec::new() }
    }

    fn take(&mut self, memory: Memory) {
        self.rss_mib.push(memory.rss_mib);
        self.pss_mib.push(memory.pss_mib);
    }

    fn figures(self) -> [Figure; 2] {
        let Self { of, wanted_mib, rss_mib, pss_mib } = self;
        [
            Figure::of(NAME, format!("{of}, RSS"), Unit::Mebibytes, rss_mib)
                .wanted(Statistic::Max, wanted_mib),
            Figure::of(NAME, format!("{of}, PSS"), Unit::Mebibytes, pss_mib),
        ]
    }
}

impl std::fmt::Display for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rss_mib.last() {
            Some(mib) => write!(f, "{} {mib:.1} MiB", self.of),
            None => write!(f, "{} not measured yet", self.of),
        }
    }
}
