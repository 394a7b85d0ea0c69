//! Nothing grows and nothing stalls: whatever one destination or client does, others go on, and afterwards
//! memory, descriptors, threads and streams are where they were.
//!
//! Speeds are printed as `figure …`, beside the same speed without the nuisance in the same run. Asserted is what
//! does not depend on the machine: that the others' bytes all arrive, and bounds on what is held.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "panicking is how a test fails")]

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postern_tests::servers::Mirror;
use postern_tests::{Hosts, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);
/// What one measurement sends through the mirror and back.
const BULK_BYTES: usize = 16 * 1024 * 1024;
/// A stream's windows and buffers, both directions, with what allocators keep: a generous bound for hundreds.
const GROWTH_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Sockets in the middle of their end, and files that are opened now and then.
const SPARE_DESCRIPTORS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_never_reads_holds_up_only_its_own_streams() {
    let stage = Stage::up().await;
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf_at = stage.hosts.destination("deaf", deaf.local_addr().unwrap()).await;
    // Accepted and never read.
    let never_read = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = deaf.accept().await {
            held.push(stream);
        }
    });
    let (before, alone) = (stage.held(), stage.bulk().await);

    let (mut pushing, pushed) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..100 {
        let pushed = pushed.clone();
        pushing.spawn(async move {
            let mut stream = TcpStream::connect(deaf_at).await.unwrap();
            // Ends when the test does, or the stream: nobody ever reads.
            while stream.write_all(&[7; 16 * 1024]).await.is_ok() {
                pushed.fetch_add(16 * 1024, Ordering::Relaxed);
            }
        });
    }
    let mut last = u64::MAX;
    wait_until("a hundred streams are stuck: every buffer on the way is full", SOON, async || {
        let now = pushed.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
        (std::mem::replace(&mut last, now) == now && stage.streams().await >= 100).then_some(())
    })
    .await;
    let beside = stage.bulk().await;
    figure("100 streams to a destination that never reads", alone, beside);
    let stuck = stage.held();
    assert!(stuck.memory < before.memory + 4 * GROWTH_BYTES_MAX, "{stuck:?} after {before:?}");

    pushing.shutdown().await;
    never_read.abort();
    stage.until_as_before(&before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connects_that_nobody_answers_cost_nothing_but_their_wait() {
    let many = long_or(10_000, 1_000);
    let stage = Stage::up().await;
    // A queue of one that nobody takes from: the kernel drops every further SYN.
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let silent = silent.listen(1).unwrap();
    let target = silent.local_addr().unwrap();
    let _fills_it =
        [std::net::TcpStream::connect(target).unwrap(), std::net::TcpStream::connect(target).unwrap()];
    let listen = stage.hosts.destination("silent", target).await;
    stage.allow_streams("silent", many).await;
    let (before, alone) = (stage.held(), stage.bulk().await);

    let mut waiting = JoinSet::new();
    for _ in 0..many {
        waiting.spawn(async move {
            // Central accepts at once; the end comes when the agent gives up.
            let Ok(mut stream) = TcpStream::connect(listen).await else { return };
            let _ = stream.read(&mut [0; 1]).await;
        });
    }
    wait_until("most of them wait", SOON, async || (stage.streams().await >= many / 5).then_some(())).await;
    let beside = stage.bulk().await;
    figure(&format!("{many} connects that nobody answers"), alone, beside);
    let all = async { while waiting.join_next().await.is_some() {} };
    timeout(3 * SOON, all).await.expect("each of them ends");
    stage.until_as_before(&before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_single_bytes_is_carried_and_leaves_room_for_others() {
    let stage = Stage::up().await;
    let (before, alone) = (stage.held(), stage.bulk().await);
    let mut dribbling = JoinSet::new();
    for _ in 0..8 {
        let listen = stage.mirror_at;
        dribbling.spawn(async move {
            let stream = TcpStream::connect(listen).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut read, mut write) = stream.into_split();
            let reading = tokio::spawn(async move {
                let mut heard = [0; 4096];
                while read.read(&mut heard).await.is_ok_and(|length| length > 0) {}
            });
            while write.write_all(&[1]).await.is_ok() {
                tokio::task::yield_now().await;
            }
            reading.abort();
        });
    }
    wait_until("they dribble", SOON, async || (stage.streams().await >= 8).then_some(())).await;
    let beside = stage.bulk().await;
    figure("8 streams of single bytes", alone, beside);
    assert!(stage.held().memory < before.memory + GROWTH_BYTES_MAX, "{:?} after {before:?}", stage.held());
    dribbling.shutdown().await;
    stage.until_as_before(&before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_come_and_are_reset_leave_nothing_behind() {
    let many = long_or(20_000, 2_000);
    let stage = Stage::up().await;
    let (before, alone) = (stage.held(), stage.bulk().await);
    let listen = stage.mirror_at;
    let churning = tokio::spawn(async move {
        for _ in 0..many {
            let stream = TcpStream::connect(listen).await.unwrap();
            stream.set_zero_linger().unwrap();
            drop(stream);
        }
    });
    let beside = stage.bulk().await;
    figure(&format!("{many} streams opened and reset"), alone, beside);
    timeout(3 * SOON, churning).await.expect("all of them were opened").unwrap();
    stage.until_as_before(&before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_disk_takes_half_a_second_for_each_write_carries_on() {
    let stage = Stage::up().await;
    let alone = stage.bulk().await;
    let epoch = stage.hosts.gateway().await.fence();
    let slow = SlowDisk::of(stage.hosts.pid("alpha")).await;
    let beside = stage.bulk().await;
    figure("each fdatasync of the active takes 500 ms", alone, beside);
    // A change of the membership has to be written by it, and is.
    stage.hosts.mark("beta", false).await;
    wait_until("beta has left", SOON, async || (stage.hosts.voting().await == ["alpha"]).then_some(())).await;
    stage.bulk().await;
    let now = stage.hosts.gateway().await;
    assert_eq!((now.active.as_deref(), now.fence()), (Some("alpha"), epoch), "a slow disk costs no tunnel");
    drop(slow);
}

/// A gateway with an echo behind it.
struct Stage {
    hosts: Hosts,
    mirror_at: SocketAddr,
    _mirror: Mirror,
}

/// What central and the active hold.
#[derive(Debug, Clone, Copy)]
struct Held {
    memory: u64,
    descriptors: usize,
    threads: usize,
}

impl Stage {
    async fn up() -> Self {
        // Each client is a socket here and another in central; the programs inherit the limit.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
        let mirror = Mirror::start().await;
        let hosts = Hosts::up(&["alpha", "beta"], "").await;
        let mirror_at = hosts.destination("mirror", mirror.addr()).await;
        assert!(mirror.look_into(mirror_at, SOON).await.is_some());
        let stage = Self { hosts, mirror_at, _mirror: mirror };
        // What only the first stream makes, as pools and tables, is made before anything is counted.
        stage.bulk().await;
        wait_until("the first streams are gone", SOON, async || (stage.streams().await == 0).then_some(()))
            .await;
        stage
    }

    /// How long it takes to send [`BULK_BYTES`] and hear each of them back.
    async fn bulk(&self) -> Duration {
        let started = Instant::now();
        let stream = TcpStream::connect(self.mirror_at).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let writing = tokio::spawn(async move {
            let block: Vec<u8> = (0..=u8::MAX).cycle().take(64 * 1024).collect();
            for _ in 0..BULK_BYTES / block.len() {
                write.write_all(&block).await.unwrap();
            }
            write.shutdown().await.unwrap();
        });
        let reading = async {
            let (mut heard, mut block) = (0_usize, vec![0; 64 * 1024]);
            loop {
                match read.read(&mut block).await.unwrap() {
                    0 => return heard,
                    length => heard += length,
                }
            }
        };
        let heard = timeout(3 * SOON, reading).await.expect("the others' bytes go on");
        writing.await.unwrap();
        assert!(heard >= BULK_BYTES, "{heard} bytes came back");
        started.elapsed()
    }

    async fn streams(&self) -> usize {
        let gateway = self.hosts.api().get("/gateway").await;
        gateway["streams"].as_u64().map_or(0, |streams| usize::try_from(streams).unwrap())
    }

    async fn allow_streams(&self, name: &str, streams: usize) {
        let body = serde_json::json!({ "limits": { "streams": streams } });
        self.hosts.api().patch(&format!("/destinations/{name}"), body).await;
    }

    fn held(&self) -> Held {
        let both = [self.hosts.central_pid(), self.hosts.pid("alpha")];
        let sum = |field: &str| both.iter().map(|pid| status_of(*pid, field)).sum::<u64>();
        let descriptors =
            both.iter().map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()).sum();
        let threads = usize::try_from(sum("Threads")).unwrap();
        Held { memory: sum("VmRSS") * 1024, descriptors, threads }
    }

    /// Streams, descriptors, threads and memory are back.
    async fn until_as_before(&self, before: &Held) {
        let until = Instant::now() + 2 * SOON;
        loop {
            let (now, streams) = (self.held(), self.streams().await);
            if streams == 0
                && now.descriptors <= before.descriptors + SPARE_DESCRIPTORS
                && now.threads <= before.threads
                && now.memory <= before.memory + GROWTH_BYTES_MAX
            {
                break;
            }
            assert!(Instant::now() < until, "{streams} streams and {now:?} remain, after {before:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("figure held before {before:?}, afterwards {:?}", self.held());
    }
}

/// A process whose every fdatasync takes half a second longer.
struct SlowDisk(Child);

impl SlowDisk {
    async fn of(pid: u32) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=500000"]);
        strace.args(["-o", "/dev/null", "-p", &pid.to_string()]);
        let slow = Self(strace.stdin(Stdio::null()).spawn().expect("strace, which tests/setup installs"));
        wait_until("strace holds the process", SOON, async || {
            (status_of(pid, "TracerPid") > 0).then_some(())
        })
        .await;
        slow
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // One that has ended already slows nobody.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number in /proc/PID/status.
fn status_of(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{field}: {status}"))
}

fn long_or(long: usize, short: usize) -> usize {
    if std::env::var_os("STALLS_LONG").is_some() { long } else { short }
}

/// Printed, never asserted: machines differ.
fn figure(nuisance: &str, alone: Duration, beside: Duration) {
    let share = 100.0 * alone.as_secs_f64() / beside.as_secs_f64();
    println!(
        "figure {nuisance}: 16 MiB there and back {alone:.2?} alone, {beside:.2?} beside it ({share:.0} %)"
    );
}
