//! Whether streams do each other harm: thousands that are busy at once, and some that nobody reads.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ask::ask;
use crate::bulk::request;
use crate::figure::{Figure, Statistic, Unit};
use crate::stage::{Beside, Stage};
use crate::usage::memory;

const NAME: &str = "fair";
/// Busy streams, where nothing else is said, and how long they are watched.
pub(crate) const STREAMS: usize = 2_000;
pub(crate) const SECONDS: u64 = 10;
const UNREAD: usize = 20;
/// From the first unread byte to the look at /proc: everything that fills up is full by then.
const QUIET: Duration = Duration::from_secs(2);
const RECEIVE_BUFFER_BYTES: u32 = 64 * 1024;
const ASKING: Duration = Duration::from_millis(1500);

/// The slowest of many busy streams beside their mean, and what streams that nobody reads cost.
pub(crate) async fn measure(rounds: usize, beside: Beside, streams: usize, seconds: u64) -> Vec<Figure> {
    // Clients and destination are this process.
    let allowed = postern_tests::allow_files(streams * 2 + 200);
    assert!(
        allowed,
        "{streams} streams need more files than this process may have: raise the limit (ulimit -Hn)"
    );
    let stage = Stage::set(beside).await;
    let mut samples = vec![Vec::new(); stage.ways.len()];
    for round in 1..=rounds {
        let mut told = String::new();
        for (way, samples) in stage.ways.iter().zip(&mut samples) {
            // Before the crowd, which leaves memory behind that could be used again.
            let [grown_mib, harm] = unread(way.addr, &way.pids).await;
            let each = busy(way.addr, streams, Duration::from_secs(seconds)).await;
            let mean = each.iter().sum::<u64>() as f64 / streams as f64;
            let slowest = each.iter().min().copied().unwrap_or(0) as f64 / mean;
            told += &format!(
                ", {} slowest {slowest:.2} of the mean, {grown_mib:.1} MiB for {UNREAD} unread, questions then take {harm:.2}",
                way.name
            );
            samples.push([slowest, grown_mib, harm]);
        }
        eprintln!("fair {round}/{rounds}: {streams} busy streams{told}");
    }
    let mut figures = Vec::new();
    for (way, samples) in stage.ways.iter().zip(&samples) {
        let ours = way.name == stage.ways[0].name;
        let figure = |title: String, unit, of: usize| {
            let values = samples.iter().map(|sample| sample[of]).collect();
            Figure::of(NAME, format!("{title}, {}", way.name), unit, values)
        };
        let slowest = figure(format!("{streams} busy streams, slowest to mean"), Unit::Ratio, 0);
        figures.push(if ours { slowest.wanted_at_least(0.8) } else { slowest });
        let grown = figure(format!("{UNREAD} unread streams, memory"), Unit::Mebibytes, 1);
        figures.push(if ours { grown.wanted(Statistic::Median, 32.0) } else { grown });
        figures.push(figure(format!("{UNREAD} unread streams, p50 of others to before"), Unit::Ratio, 2));
    }
    figures
}

/// So many streams receive all they can; how much each got in the time that began when all had begun.
async fn busy(addr: SocketAddr, streams: usize, long: Duration) -> Vec<u64> {
    let all_began = Arc::new(Barrier::new(streams));
    let mut running = JoinSet::new();
    for _ in 0..streams {
        let all_began = all_began.clone();
        running.spawn(async move {
            let mut stream = endless(addr).await?;
            let mut piece = vec![0; RECEIVE_BUFFER_BYTES as usize];
            stream.read_exact(&mut piece[..1]).await?;
            all_began.wait().await;
            let until = Instant::now() + long;
            let mut received = 0;
            while let Ok(count) = tokio::time::timeout_at(until, stream.read(&mut piece)).await {
                received += count? as u64;
            }
            io::Result::Ok(received)
        });
    }
    let each = running.join_all().await;
    each.into_iter().map(|got| got.unwrap_or_else(|error| panic!("a busy stream broke: {error}"))).collect()
}

/// How much memory both ends together take for streams that nobody reads, in MiB, and by how much a small request then
/// takes longer.
async fn unread(addr: SocketAddr, pids: &[u32]) -> [f64; 2] {
    let held_mib = || pids.iter().map(|&pid| memory(pid).rss_mib).sum::<f64>();
    let alone = ask(addr, 1, 128, ASKING).await;
    let before = held_mib();
    let mut held = Vec::new();
    for _ in 0..UNREAD {
        held.push(endless(addr).await.expect("there is a way to the destination"));
    }
    // The quiet itself is what is measured.
    tokio::time::sleep(QUIET).await;
    let grown = held_mib() - before;
    let beside = ask(addr, 1, 128, ASKING).await;
    drop(held);
    [grown, beside.p50_us / alone.p50_us]
}

/// A connection over which bytes come for as long as they are taken. The kernel holds little of it, the same for each:
/// otherwise it would decide who is slow.
async fn endless(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    let mut stream = socket.connect(addr).await?;
    stream.write_all(&request(b'd', u64::MAX)).await?;
    Ok(stream)
}
