//! What a stream costs that nobody uses: memory of central and the active agent while thousands are
//! open, less what they held before.

use std::net::SocketAddr;
use std::time::Duration;

use postern_tests::{Dev, allow_files};
use serde_json::json;
use tokio::task::JoinSet;

use crate::ask::Asker;
use crate::bulk::Destination;
use crate::figure::{Figure, Statistic, Unit};
use crate::relay::{Between, TwoHops};
use crate::usage::memory;

const NAME: &str = "crowd";
/// From the last answer to the look at /proc: acknowledgements and probes are through by then.
const QUIET: Duration = Duration::from_secs(2);
const WANTED_KB: f64 = 6.0;
/// Connecting at a time: more would only wait in the listener's queue.
const AT_ONCE: usize = 64;
/// Connections to one destination: the ports of one loopback address go no further.
const PER_DESTINATION: usize = 20_000;

/// kB a stream, both ends and each.
pub(crate) async fn measure(rounds: usize, streams: usize, bare: bool) -> Vec<Figure> {
    // Clients and destination are this process; the two ends need half as many each.
    if !allow_files(streams * 2 + 100) {
        eprintln!(
            "crowd: left out, {streams} streams need more files than a process may have here (ulimit -Hn)"
        );
        return Vec::new();
    }
    let mut samples: [Vec<f64>; 3] = Default::default();
    for round in 1..=rounds {
        let took = one(streams, bare).await;
        for (samples, kb) in samples.iter_mut().zip(took) {
            samples.push(kb);
        }
        eprintln!(
            "crowd {round}/{rounds}: {:.1} kB a stream, central {:.1}, agent {:.1}",
            took[0], took[1], took[2]
        );
    }
    let [both, central, agent] = samples;
    let title = |of: &str| format!("an idle stream of {streams}, {of}");
    vec![
        Figure::of(NAME, title("both ends"), Unit::Kilobytes, both).wanted(Statistic::Median, WANTED_KB),
        Figure::of(NAME, title("central"), Unit::Kilobytes, central),
        Figure::of(NAME, title("agent"), Unit::Kilobytes, agent),
    ]
}

async fn one(streams: usize, bare: bool) -> [f64; 3] {
    let stage = set(streams, bare).await;
    let pids = stage.pids;
    // One goes ahead, so that what the first stream of all allocates is not counted.
    let mut asker = Asker::connect(stage.doors[0], 1).await.expect("there is a way");
    asker.ask().await.expect("the destination answers");
    let before = pids.map(|pid| memory(pid).rss_mib);

    let mut held = vec![asker];
    let mut coming = JoinSet::new();
    for number in 0..streams {
        let addr = stage.doors[number / PER_DESTINATION];
        coming.spawn(async move {
            let mut asker = Asker::connect(addr, 1).await?;
            asker.ask().await?;
            std::io::Result::Ok(asker)
        });
        if coming.len() >= AT_ONCE {
            held.push(answered(&mut coming).await);
        }
    }
    while !coming.is_empty() {
        held.push(answered(&mut coming).await);
    }
    // The quiet itself is what is measured.
    tokio::time::sleep(QUIET).await;
    let after = pids.map(|pid| memory(pid).rss_mib);
    let kb = |end: usize| (after[end] - before[end]) * 1048.576 / streams as f64;
    for asker in &mut held {
        asker.ask().await.expect("a stream that was idle still works");
    }
    [kb(0) + kb(1), kb(0), kb(1)]
}

/// Destinations, the way to each, and the two processes between.
struct Stage {
    doors: Vec<SocketAddr>,
    pids: [u32; 2],
    _running: (Vec<Destination>, Option<Dev>, Option<TwoHops>),
}

async fn set(streams: usize, bare: bool) -> Stage {
    if bare {
        assert!(streams < PER_DESTINATION, "the tunnel alone has one destination");
        let destination = Destination::start().await;
        let hops = TwoHops::to(destination.addr(), Between::Tunnel);
        return Stage {
            doors: vec![hops.addr()],
            pids: hops.pids(),
            _running: (vec![destination], None, Some(hops)),
        };
    }
    let mut destinations = Vec::new();
    let mut urls = Vec::new();
    for number in 0..streams.div_ceil(PER_DESTINATION) {
        let destination = Destination::start().await;
        urls.push((format!("crowd-{number}"), format!("tcp://{}", destination.addr())));
        destinations.push(destination);
    }
    let named: Vec<_> = urls.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();
    let dev = Dev::start(&named).await;
    dev.until_all_configured().await;
    for (name, _) in &urls {
        let limits = json!({ "limits": { "streams": PER_DESTINATION } });
        dev.api().patch(&format!("/destinations/{name}"), limits).await;
    }
    let active = dev.api().gateway().await.active.expect("a gateway whose candidates are configured has one");
    let pids = [dev.central_pid(), dev.agent(&active).pid];
    let doors = urls.iter().map(|(name, _)| dev.listen(name)).collect();
    Stage { doors, pids, _running: (destinations, Some(dev), None) }
}

async fn answered(coming: &mut JoinSet<std::io::Result<Asker>>) -> Asker {
    let came = coming.join_next().await.expect("somebody is coming");
    came.expect("a client does not panic").unwrap_or_else(|error| panic!("a stream did not open: {error}"))
}
