//! What an Environment costs: one central with more and more of them, each with an agent, a tunnel and ten streams.
//!
//! At each step there are two looks: while nobody asks anything, and while each stream asks a question a second.
//! Everything is on one machine, so the agents' work is measured beside central's.

use std::net::SocketAddr;
use std::time::Duration;

use postern_tests::{Attempt, Central, Host, Process, allow_files, port, wait_until};
use serde_json::json;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::ask::Asker;
use crate::bulk::Destination;
use crate::figure::{Figure, Statistic, Unit};
use crate::usage::{cpu_seconds, memory};

const NAME: &str = "environments";
/// Where nothing else is said.
pub(crate) const ENVIRONMENTS: usize = 200;
const STREAMS_EACH: usize = 10;
const QUESTION_BYTES: usize = 128;
/// Gateways being set up at a time: each starts three processes.
const AT_ONCE: usize = 4;
const AGENT: &str = "agent";
const UP_WITHIN: Duration = Duration::from_secs(120);
/// From the last gateway's setting up to the first look.
const QUIET: Duration = Duration::from_secs(5);
/// How long one look at the processors takes.
const LOOK: Duration = Duration::from_secs(10);
/// The second half of all Environments may cost so much of what the first half does.
const LINEAR: f64 = 1.25;

/// One Environment's gateway. Dropped, its agent ends.
struct Gateway {
    askers: Vec<Asker>,
    process: Process,
    _host: Host,
}

/// What was seen with so many Environments.
struct Look {
    environments: usize,
    central_mib: f64,
    agent_mib: f64,
    /// CPU milliseconds a second, quiet and asking; the agents' all together.
    central_cpu: [f64; 2],
    agents_cpu: [f64; 2],
}

/// Memory and CPU of central at an eighth, a quarter, a half and all of so many Environments, and what one of them costs.
pub(crate) async fn measure(rounds: usize, environments: usize) -> Vec<Figure> {
    let files = allow_files(environments * (STREAMS_EACH * 2 + 4) + 200);
    assert!(files, "{environments} Environments need more files than this process may have (ulimit -Hn)");
    let mut all: Vec<Vec<Look>> = Vec::new();
    for round in 1..=rounds {
        // Setting up a gateway stays on this thread; what is measured does not.
        let looks = LocalSet::new().run_until(one(round, rounds, environments)).await;
        all.push(looks);
    }
    figures(&all)
}

async fn one(round: usize, rounds: usize, environments: usize) -> Vec<Look> {
    let names: Vec<String> = (1..=environments).map(|number| format!("customer-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let destination = Destination::start().await;
    let central = Central::start_with(&names, "").await;
    let mut gateways = Vec::new();
    let mut looks = Vec::new();
    let mut steps = [8, 4, 2, 1].map(|part| environments.div_ceil(part)).to_vec();
    steps.dedup();
    for step in steps {
        let mut coming = JoinSet::new();
        for (number, name) in names.iter().enumerate().take(step).skip(gateways.len()) {
            let seen = if number == 0 { central.clone() } else { central.as_seen_in(name) };
            coming.spawn_local(gateway(seen, destination.addr()));
            if coming.len() >= AT_ONCE {
                gateways.push(came(&mut coming).await);
            }
        }
        while !coming.is_empty() {
            gateways.push(came(&mut coming).await);
        }
        let look = look(&central, &mut gateways).await;
        eprintln!(
            "environments {round}/{rounds}: {step}: central {:.1} MiB, {:.0} and {:.0} CPU ms/s; an agent {:.1} MiB, all of them {:.0} and {:.0} CPU ms/s",
            look.central_mib,
            look.central_cpu[0],
            look.central_cpu[1],
            look.agent_mib,
            look.agents_cpu[0],
            look.agents_cpu[1],
        );
        looks.push(look);
    }
    looks
}

async fn came(coming: &mut JoinSet<Gateway>) -> Gateway {
    coming.join_next().await.expect("somebody is coming").expect("a gateway comes up")
}

/// Enrols an agent, makes it the Secure Gateway, and opens its streams.
async fn gateway(central: Central, target: SocketAddr) -> Gateway {
    let allowed = [("127.0.0.1", target.port())];
    let host = Host::new(AGENT, &allowed);
    let token = central.enrolment_token(json!({"name": AGENT})).await;
    let attempt = Attempt::at(host.enroll(central.tunnel(), &token, central.ca_cert())).await;
    assert_eq!(attempt.code, Some(0), "an agent could not enrol: {attempt:?}");
    let mut process = host.start();
    central.until_connected(AGENT, UP_WITHIN).await;
    central.api().patch(&format!("/process-servers/{AGENT}"), json!({"candidate": true})).await;
    process.stop();
    let process = host.start();
    let listen = port::free();
    let destination = json!({"name": "bulk", "url": format!("tcp://{target}"), "listen": listen.to_string()});
    central.api().post("/destinations", destination).await;
    wait_until("the Secure Gateway is up", UP_WITHIN, async || {
        (central.api().gateway().await.state == "up").then_some(())
    })
    .await;
    let mut askers = Vec::new();
    for _ in 0..STREAMS_EACH {
        let mut asker = Asker::connect(listen, QUESTION_BYTES).await.expect("there is a way");
        asker.ask().await.expect("the destination answers");
        askers.push(asker);
    }
    Gateway { askers, process, _host: host }
}

async fn look(central: &Central, gateways: &mut [Gateway]) -> Look {
    let environments = gateways.len();
    let agents: Vec<u32> = gateways.iter().map(|gateway| gateway.process.pid()).collect();
    let pids = [central.pid()];
    let used = || [cpu_seconds(&pids), cpu_seconds(&agents)];
    // The quiet itself is what is measured.
    tokio::time::sleep(QUIET).await;
    let (began, before) = (Instant::now(), used());
    tokio::time::sleep(LOOK).await;
    let quiet = per_second(before, used(), began.elapsed());
    let central_mib = memory(central.pid()).rss_mib;
    let agent_mib = agents.iter().map(|&pid| memory(pid).rss_mib).sum::<f64>() / environments as f64;

    let (began, before) = (Instant::now(), used());
    speak(gateways, LOOK).await;
    let asking = per_second(before, used(), began.elapsed());
    Look {
        environments,
        central_mib,
        agent_mib,
        central_cpu: [quiet[0], asking[0]],
        agents_cpu: [quiet[1], asking[1]],
    }
}

fn per_second(before: [f64; 2], after: [f64; 2], elapsed: Duration) -> [f64; 2] {
    [0, 1].map(|of| (after[of] - before[of]) * 1e3 / elapsed.as_secs_f64())
}

/// Each stream asks a question a second, for so long.
async fn speak(gateways: &mut [Gateway], long: Duration) {
    let until = Instant::now() + long;
    let mut speaking = JoinSet::new();
    for (of, gateway) in gateways.iter_mut().enumerate() {
        for (number, mut asker) in std::mem::take(&mut gateway.askers).into_iter().enumerate() {
            speaking.spawn(async move {
                // Not all in the same moment.
                let begin = Duration::from_millis(((of * STREAMS_EACH + number) * 37 % 1000) as u64);
                tokio::time::sleep(begin).await;
                let mut seconds = interval(Duration::from_secs(1));
                seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while Instant::now() < until {
                    seconds.tick().await;
                    asker.ask().await.expect("the destination answers");
                }
                (of, asker)
            });
        }
    }
    for (of, asker) in speaking.join_all().await {
        gateways[of].askers.push(asker);
    }
}

fn figures(rounds: &[Vec<Look>]) -> Vec<Figure> {
    type Of = fn(&Look) -> f64;
    let quantities: [(&str, Unit, Of); 6] = [
        ("central, memory", Unit::Mebibytes, |look| look.central_mib),
        ("central, CPU while quiet", Unit::CpuMillisecondsPerSecond, |look| look.central_cpu[0]),
        ("central, CPU at a question a second and stream", Unit::CpuMillisecondsPerSecond, |look| {
            look.central_cpu[1]
        }),
        ("an agent, memory", Unit::Mebibytes, |look| look.agent_mib),
        ("an agent, CPU while quiet", Unit::CpuMillisecondsPerSecond, |look| {
            look.agents_cpu[0] / look.environments as f64
        }),
        ("an agent, CPU at a question a second and stream", Unit::CpuMillisecondsPerSecond, |look| {
            look.agents_cpu[1] / look.environments as f64
        }),
    ];
    let mut figures = Vec::new();
    for (what, unit, of) in quantities {
        for step in 0..rounds[0].len() {
            let values = rounds.iter().map(|looks| of(&looks[step])).collect();
            let environments = rounds[0][step].environments;
            figures.push(Figure::of(NAME, format!("{environments} Environments: {what}"), unit, values));
        }
        if !what.starts_with("central") {
            continue;
        }
        let slope = |looks: &[Look], from: usize, to: usize| {
            let more = (looks[to].environments - looks[from].environments) as f64;
            (of(&looks[to]) - of(&looks[from])) / more
        };
        let last = rounds[0].len() - 1;
        if last >= 1 {
            let each = rounds.iter().map(|looks| slope(looks, 0, last)).collect();
            figures.push(Figure::of(NAME, format!("each Environment: {what}"), unit, each));
        }
        if last >= 2 {
            let ratios =
                rounds.iter().map(|looks| slope(looks, last - 1, last) / slope(looks, 0, last - 1)).collect();
            let ratio = Figure::of(NAME, format!("second half to first: {what}"), Unit::Ratio, ratios);
            figures.push(ratio.wanted(Statistic::Median, LINEAR));
        }
    }
    figures
}
