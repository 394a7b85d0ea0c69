//! A slow way to central, with the real programs: the group slows down, and costs nobody his tunnel.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postern_tests::{Central, Host, Process, wait_until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_group_whose_way_to_central_becomes_slow_adapts_keeps_its_tunnel_and_still_fails_over() {
    let central = Central::start().await;
    let way = SlowWay::to(central.tunnel()).await;
    let mut agents: Vec<(Host, Process)> = Vec::new();
    for name in ["alpha", "beta"] {
        let host = Host::enrolled(name, &[], &central, way.addr).await;
        let process = host.start();
        central.until_connected(name, SOON).await;
        central.api().patch(&format!("/process-servers/{name}"), json!({"candidate": true})).await;
        agents.push((host, process));
    }
    // The first candidate restarted founds the group; the other joins without.
    let (host, process) = &mut agents[0];
    process.stop();
    *process = host.start();
    wait_until("the gateway is up and bears a loss", SOON, async || {
        let gateway = central.api().get("/gateway").await;
        (gateway["state"] == "up" && gateway["can_lose"] == 1).then_some(())
    })
    .await;
    let before = central.api().gateway().await;
    let active = before.active.clone().expect("a gateway that is up has an active");

    // Slower than a call of the fast set may take, and the witness is at the far end.
    way.delay(Duration::from_millis(60));
    let raft = wait_until("the group has other timings", SOON, async || {
        let raft = central.api().get("/raft").await;
        (raft["timings"]["heartbeat_ms"] == 400).then_some(raft)
    })
    .await;
    assert!(raft["worst_round_trip_ms"].as_f64() >= Some(100.0), "{raft}");
    assert_eq!(central.api().gateway().await, before, "neither the active nor its epoch has changed");

    agents.retain(|(host, _)| host.name() != active);
    wait_until("the other candidate is active", SOON, async || {
        let now = central.api().gateway().await;
        (now.state == "up" && now.active != Some(active.clone()) && now.epoch > before.epoch).then_some(())
    })
    .await;
}

/// Carries every connection to one target, each byte a while later, as a long line does.
struct SlowWay {
    addr: SocketAddr,
    delay_ms: Arc<AtomicU64>,
}

impl SlowWay {
    async fn to(target: SocketAddr) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port can be listened on");
        let addr = listener.local_addr().expect("a listener has an address");
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = delay_ms.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = TcpStream::connect(target).await else { continue };
                let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
                tokio::spawn(carry(from_read, to_write, delay.clone()));
                tokio::spawn(carry(to_read, from_write, delay.clone()));
            }
        });
        Self { addr, delay_ms }
    }

    /// How long each direction takes from now on.
    fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_ms: Arc<AtomicU64>) {
    let (line, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let sending = async move {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(bytes) = from.read(&mut piece).await
            && bytes > 0
        {
            let at = Instant::now() + Duration::from_millis(delay_ms.load(Ordering::Relaxed));
            if line.send((at, piece[..bytes].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let receiving = async move {
        while let Some((at, piece)) = arriving.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // Whoever reads at the far end sees the end, now that all has arrived.
        let _ = to.shutdown().await;
    };
    tokio::join!(sending, receiving);
}
