//! How long nobody is served after `kill -9` of the active, with two agents on one machine.
//!
//! A round: kill the active; from that moment, every 5 ms, open a NEW connection to the listener
//! until the destination's greeting and one echoed byte have come back over one. Connections may wait parked at central, or die
//! with the killed agent: the client does not care, and the clock runs until a byte is there.
//! Then the killed agent is started again, and the next round begins when both are configured: one
//! pass at once, with a standby that is a few milliseconds old, one after a quiet moment, as in life.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_tests::servers::{Mirror, Visit};
use postern_tests::{Dev, Process, wait_until};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::figure::{Figure, Statistic, Unit};

const NAME: &str = "failover";
/// Several of Raft's longest election timeouts: whoever had to hear of whom has heard.
const QUIET: Duration = Duration::from_secs(2);
const ATTEMPT_EVERY: Duration = Duration::from_millis(5);
/// A round that takes longer has found a fault, which a figure must not hide.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

const MEDIAN_WANTED_MS: f64 = 700.0;
const P99_WANTED_MS: f64 = 2000.0;

/// The gap a client sees, and the one central states in `GET /api/v1/gateway`.
pub(crate) async fn measure(rounds: usize) -> Vec<Figure> {
    let mirror = Arc::new(Mirror::start().await);
    let mut dev = Dev::start(&[("mirror", &format!("tcp://{}", mirror.addr()))]).await;
    let mut restarted = Restarted::default();
    let mut figures = Vec::new();
    for (standby, quiet) in [("settled standby", QUIET), ("standby just back", Duration::ZERO)] {
        let (mut client, mut central) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            dev.until_all_configured().await;
            tokio::time::sleep(quiet).await;
            let Gap { client_ms, central_ms } = fail_over(&mut dev, &mirror, &mut restarted).await;
            eprintln!(
                "failover, {standby}, {round}/{rounds}: {client_ms:.0} ms, central says {central_ms:.0} ms"
            );
            client.push(client_ms);
            central.push(central_ms);
        }
        let title = |what: &str| format!("{what}, {standby}");
        figures.push(
            Figure::of(NAME, title("kill to first byte of a new connection"), Unit::Milliseconds, client)
                .wanted(Statistic::Median, MEDIAN_WANTED_MS)
                .wanted(Statistic::P99, P99_WANTED_MS),
        );
        figures.push(Figure::of(NAME, title("central's own gap_ms"), Unit::Milliseconds, central));
    }
    figures
}

struct Gap {
    client_ms: f64,
    central_ms: f64,
}

/// The agents this bench started in place of killed ones; one a name, the newest.
#[derive(Default)]
struct Restarted(Vec<(String, Process)>);

impl Restarted {
    fn hold(&mut self, name: &str, process: Process) {
        self.0.retain(|(held, _)| held != name);
        self.0.push((name.into(), process));
    }
}

async fn fail_over(dev: &mut Dev, mirror: &Arc<Mirror>, restarted: &mut Restarted) -> Gap {
    let before = dev.api().gateway().await;
    let killed = before.active.expect("a gateway whose candidates are configured has an active");
    let successor = dev.other_than(&killed).clone();

    let killed_at = Instant::now();
    dev.kill(&killed);
    let served = first_served(dev, mirror).await;
    assert_eq!(
        served.visit.dialled_by(&dev.agent_pids()),
        Some(successor.pid),
        "the first byte after {killed} was killed did not come through {}",
        successor.name,
    );

    let shown = format!("central shows {} as active and {killed} as gone", successor.name);
    let central_ms = wait_until(&shown, SHOWN_WITHIN, async || {
        if dev.api().process_server(&killed).await.connected {
            return None;
        }
        let gateway = dev.api().get("/gateway").await;
        let last = &gateway["last_switch"];
        (gateway["active"] == successor.name && last["from"] == killed).then(|| {
            last["gap_ms"].as_f64().unwrap_or_else(|| panic!("the last switch states no gap_ms: {gateway}"))
        })
    })
    .await;
    let process = dev.restart(&killed);
    restarted.hold(&killed, process);
    Gap { client_ms: (served.at - killed_at).as_secs_f64() * 1e3, central_ms }
}

struct Served {
    at: Instant,
    visit: Visit,
    /// Kept open: a closed socket has no owner to look up.
    _connection: TcpStream,
}

/// Opens a connection every [`ATTEMPT_EVERY`], whatever becomes of the earlier ones, until one is
/// served. The others are closed with the set.
async fn first_served(dev: &Dev, mirror: &Arc<Mirror>) -> Served {
    let listener = dev.listen("mirror");
    let began = Instant::now();
    let mut ticks = tokio::time::interval(ATTEMPT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut attempts: JoinSet<Option<Served>> = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(attempt) = attempts.join_next() => {
                if let Some(served) = attempt.expect("an attempt does not panic") {
                    return served;
                }
            }
            _ = ticks.tick() => {
                assert!(began.elapsed() < SERVED_WITHIN, "no new connection was served within {SERVED_WITHIN:?}");
                let mirror = Arc::clone(mirror);
                attempts.spawn(async move {
                    let (connection, visit) = mirror.look_into(listener, SERVED_WITHIN).await?;
                    Some(Served { at: Instant::now(), visit, _connection: connection })
                });
            }
        }
    }
}
