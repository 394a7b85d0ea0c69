//! Few file descriptors, little memory, little of a core (F30, F31, F32): streams are refused or slowed, the tunnel and
//! the group stay. Takes root, for the control groups.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "panicking is how a test fails")]

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_tests::servers::Mirror;
use postern_tests::{Cgroup, Hosts, holds_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);
/// So few that a program has little left beside what it needs for itself.
const FEW_DESCRIPTORS: &str = "--nofile=64";
/// More clients than that.
const CLIENTS: usize = 100;
/// What an agent has (some 30 MB), its tunnel's windows and buffers, and what comes and goes.
const CAP_BYTES: u64 = 192 * 1024 * 1024;
/// Streams to a destination that never reads.
const UNREAD: u64 = 400;
/// What the kernel may hold for each of them at the agent: what it may hold unsent, the window of a receiver that does
/// not read (64 KiB by default), and a write on top of both.
const QUEUED_BYTES: u64 = 512 * 1024;
/// Longer than silence is borne by anybody.
const A_WHILE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_an_active_with_few_descriptors_refuses_streams_and_keeps_tunnel_and_group() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let fence = come_back_through(&mut hosts, &["prlimit", FEW_DESCRIPTORS]).await;

    let crowd = Crowd::at(listen).await;

    assert!(crowd.carried.len() >= 4, "some are carried: {}", crowd.carried.len());
    assert!(crowd.refused >= CLIENTS / 2, "and most are refused: {}", crowd.refused);
    assert!(
        hosts.log("alpha").contains("raise LimitNOFILE"),
        "the agent says what to do:\n{}",
        hosts.log("alpha")
    );
    let told = hosts.posternctl(&["streams", "closed"]);
    assert!(told.contains("LimitNOFILE"), "and so does central:\n{told}");
    println!(
        "figure F30 agent: of {CLIENTS} clients {} carried, {} refused, {} descriptors",
        crowd.carried.len(),
        crowd.refused,
        descriptors(hosts.pid("alpha"))
    );
    stays_active(&mut hosts, "alpha", fence).await;
    // The group can still be changed by it: peers, records and commands have what they need.
    hosts.mark("beta", false).await;
    wait_until("beta has left", SOON, async || (hosts.voting().await == ["alpha"]).then_some(())).await;
    drop(crowd);
    wait_until("there is room again", SOON, async || mirror.look_into(listen, SOON).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_a_central_with_few_descriptors_refuses_clients_and_keeps_its_agents() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    hosts.stop_central();
    hosts.start_through("central", &["prlimit", FEW_DESCRIPTORS]);
    hosts.start_central().await;
    wait_until("the agents are back", SOON, async || {
        (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    let fence = hosts.until_active("alpha").await.fence();

    let crowd = Crowd::at(listen).await;

    assert!(crowd.carried.len() >= 4, "some are carried: {}", crowd.carried.len());
    assert!(crowd.refused >= CLIENTS / 2, "and most are refused: {}", crowd.refused);
    let told = hosts.posternctl(&["streams", "closed"]);
    assert!(told.contains("LimitNOFILE"), "central says what to do:\n{told}");
    println!(
        "figure F30 central: of {CLIENTS} clients {} carried, {} refused, {} descriptors",
        crowd.carried.len(),
        crowd.refused,
        descriptors(hosts.central_pid())
    );
    // Strangers who knock at every door and say nothing take none of what is kept back either.
    let mut strangers = Vec::new();
    for at in [hosts.tunnel(), hosts.admin()].into_iter().cycle().take(CLIENTS) {
        strangers.push(TcpStream::connect(at).await.unwrap());
    }
    stays_active(&mut hosts, "alpha", fence).await;
    // And it still admits another active, which takes its records and a new tunnel.
    hosts.kill("alpha");
    hosts.until_active("beta").await;
    drop((crowd, strangers));
    wait_until("there is room again", SOON, async || mirror.look_into(listen, SOON).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_an_active_with_little_memory_slows_its_streams_and_stays_below_its_cap() {
    let (mirror, deaf) = (Mirror::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let deaf_at = hosts.destination("deaf", deaf.local_addr().unwrap()).await;
    // Accepted and never read.
    let never_read = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = deaf.accept().await {
            held.push(stream);
        }
    });
    let group = Cgroup::of_memory(CAP_BYTES);
    let fence = come_back_through(&mut hosts, &group.through()).await;
    assert!(mirror.look_into(listen, SOON).await.is_some());

    let mut pushing = JoinSet::new();
    for _ in 0..UNREAD {
        pushing.spawn(async move {
            // What all the sockets of a machine may hold together is the kernel's to bound: clients that took as much
            // as they are given would be a test of that.
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(64 * 1024).unwrap();
            let mut stream = socket.connect(deaf_at).await.unwrap();
            // Ends when the test does, or the stream: nobody ever reads.
            while stream.write_all(&[7; 16 * 1024]).await.is_ok() {}
        });
    }
    wait_until("most of them push", SOON, async || (streams(&hosts).await >= 300).then_some(())).await;
    let until = Instant::now() + A_WHILE;
    let mut looks = 0;
    while Instant::now() < until {
        assert!(mirror.look_into(listen, SOON).await.is_some(), "others go on");
        looks += 1;
    }
    let (held, peak) = (resident(hosts.pid("alpha")), group.memory_peak());
    let queued = queued_by_kernel(hosts.pid("alpha"));
    println!(
        "figure F31: cap {} MiB, {UNREAD} streams that nobody reads, {looks} others beside them; resident {} MiB, peak of the group {} MiB, and the kernel's queues hold {} MiB",
        CAP_BYTES >> 20,
        held >> 20,
        peak >> 20,
        queued >> 20,
    );
    assert!(held < CAP_BYTES, "{held} bytes under a cap of {CAP_BYTES}");
    assert!(queued < UNREAD * QUEUED_BYTES, "the kernel queues {queued} bytes for {UNREAD} streams");
    let now = hosts.gateway().await;
    assert_eq!((now.active.as_deref(), now.fence()), (Some("alpha"), fence), "it lives, and is active");
    pushing.shutdown().await;
    never_read.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_an_active_that_the_kernel_kills_for_its_memory_is_followed_as_any_dead_one() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let before = hosts.gateway().await.fence();
    // What it has by now is not counted.
    let group = Cgroup::of_memory(2 * 1024 * 1024);
    group.take_in(hosts.pid("alpha"));

    // More buffers than that, however they are bounded.
    let mut pushing = JoinSet::new();
    for _ in 0..200 {
        pushing.spawn(async move {
            let Ok(mut stream) = TcpStream::connect(listen).await else { return };
            while stream.write_all(&[7; 64 * 1024]).await.is_ok() {}
        });
    }
    let (status, _) = wait_until("the kernel has killed alpha", SOON, async || hosts.ended("alpha")).await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    let after = hosts.until_active("beta").await;
    assert!(after.fence() > before);
    pushing.shutdown().await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f32_an_active_with_a_twentieth_of_a_core_loses_its_role_cleanly_if_at_all() {
    let mirror = Mirror::start().await;
    let hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
    let before = hosts.gateway().await.fence();
    let group = Cgroup::of_cpu_percent(5);
    group.take_in(hosts.pid("alpha"));

    let (mut served, mut failed, mut claims, mut last) = (0, 0, 0, before);
    let (mut leaders, mut leader) = (0, hosts.leader().await);
    let until = Instant::now() + 3 * A_WHILE;
    while Instant::now() < until {
        match timeout(SOON, mirror.look_into(listen, SOON)).await {
            Ok(Some(_)) => served += 1,
            _ => failed += 1,
        }
        let now = hosts.gateway().await.fence();
        assert!(now >= last, "the fence fell from {last:?} to {now:?}");
        claims += usize::from(now > last);
        last = now;
        let leads = hosts.leader().await;
        leaders += usize::from(leads != leader);
        leader = leads;
    }
    println!(
        "figure F32: a minute at 5 % of a core: {claims} changes of the active, {leaders} of the leader, {served} new connections served, {failed} not"
    );
    assert!(claims <= 2, "a role is lost once, not again and again: {claims}");
    assert!(leaders <= 12, "no storm of elections: {leaders}");
    assert!(served > 0, "somebody serves");
    drop(group);
    wait_until("everybody is back", SOON, async || {
        let all = hosts.servers_that_are("configured").await == ["alpha", "beta"];
        (all && hosts.gateway().await.state == "up").then_some(())
    })
    .await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
}

/// Clients that came all at once.
struct Crowd {
    carried: Vec<TcpStream>,
    refused: usize,
}

impl Crowd {
    /// [`CLIENTS`] of them, each of whom knows what became of it.
    async fn at(listen: SocketAddr) -> Self {
        let mut crowd = Self { carried: Vec::new(), refused: 0 };
        for _ in 0..CLIENTS {
            let knock = async {
                let mut stream = TcpStream::connect(listen).await?;
                stream.write_all(b"?").await?;
                stream.read_exact(&mut [0; 1]).await?;
                Ok::<_, std::io::Error>(stream)
            };
            match timeout(SOON, knock).await.expect("a client hears yes or no") {
                Ok(stream) => crowd.carried.push(stream),
                Err(_) => crowd.refused += 1,
            }
        }
        crowd
    }
}

/// The active ends as planned, is started through `command`, and is the active again: under this fence.
async fn come_back_through<S: ToString>(hosts: &mut Hosts, command: &[S]) -> (u64, u64) {
    hosts.stop("alpha");
    hosts.until_active("beta").await;
    hosts.start_through("alpha", command);
    hosts.start("alpha");
    wait_until("alpha is back", SOON, async || {
        (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    hosts.posternctl(&["gateway", "switch", "--to", "alpha"]);
    hosts.until_active("alpha").await.fence()
}

/// The tunnel lives on under its epoch, nobody else leads, and the process runs.
async fn stays_active(hosts: &mut Hosts, name: &str, fence: (u64, u64)) {
    let leader = hosts.leader().await;
    holds_for(A_WHILE, async || {
        let now = hosts.gateway().await;
        assert_eq!((now.state.as_str(), now.active.as_deref(), now.fence()), ("up", Some(name), fence));
        assert_eq!(hosts.leader().await, leader, "nobody has to be elected");
    })
    .await;
    assert!(hosts.ended(name).is_none());
}

async fn streams(hosts: &Hosts) -> u64 {
    hosts.api().get("/gateway").await["streams"].as_u64().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Bytes that a process has handed to the kernel for its peers, and which these have not acknowledged.
fn queued_by_kernel(pid: u32) -> u64 {
    let sockets: HashSet<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|descriptor| {
            let leads_to = fs::read_link(descriptor.ok()?.path()).ok()?;
            leads_to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    // `tx_queue:rx_queue` is the fifth word of a line, the inode the tenth.
    let queue = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let own = sockets.contains(&words.get(9)?.parse().ok()?);
        own.then(|| u64::from_str_radix(words[4].split(':').next()?, 16).ok()).flatten()
    };
    table.lines().skip(1).filter_map(queue).sum()
}

/// Bytes of memory that a process has now.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
