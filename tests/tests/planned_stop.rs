//! Ends that were planned: an active that is stopped lets another take over first, who holds it open is listed and
//! can be ended, and central says goodbye.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use postern_tests::servers::{Mirror, Postgres};
use postern_tests::{Hosts, suite, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Elections take half a second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(30);
const LOOK_WITHIN: Duration = Duration::from_secs(10);
const SUITE_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn while_actives_are_stopped_under_load_no_connection_fails() {
    let postgres = Postgres::start().await;
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let database = hosts.destination("database", postgres.addr()).await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    postgres.prepare_pgbench(postgres.addr(), 1).await;
    let mut pgbench = postgres.pgbench(database, 4, 20);
    // A connection for each transaction: every one of them must come about.
    pgbench.arg("--connect");
    let pgbench = tokio::spawn(async move { suite::output("pgbench -C", &mut pgbench, SUITE_WITHIN).await });
    wait_until("pgbench is at work", SOON, async || (postgres.pgbench_clients().await > 0).then_some(()))
        .await;
    let looks = async {
        let mut looks = 0;
        while !pgbench.is_finished() {
            mirror.look_into(listen, LOOK_WITHIN).await.unwrap_or_else(|| panic!("look {looks} failed"));
            looks += 1;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        looks
    };
    let stops = async {
        for (stopped, next) in [("alpha", "beta"), ("beta", "alpha")] {
            hosts.terminate(stopped);
            assert!(until_ended(&mut hosts, stopped).await.success());
            let gateway = hosts.until_active(next).await;
            assert_eq!(gateway.last_switch.map(|last| last.gap_ms), Some(0));
            hosts.start(stopped);
            hosts.until_connected(stopped).await;
            hosts.until_group_is(&["alpha", "beta", "witness"]).await;
        }
    };
    let (looks, ()) = tokio::join!(looks, stops);
    let report = pgbench.await.unwrap();
    println!("{looks} looks\n{report}");
    assert!(report.contains("number of failed transactions: 0 "), "{report}");
    assert!(looks > 100, "{looks} looks are no load");
}

#[tokio::test]
async fn a_stopped_active_stays_until_its_last_stream_has_ended_and_that_can_be_ended() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let (mut first, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    let (mut second, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();

    hosts.terminate("alpha");
    hosts.until_active("beta").await;
    let (_new, visit) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    assert_eq!(visit.dialled_by(&hosts.pids()), Some(hosts.pid("beta")));
    echo(&mut first).await;
    echo(&mut second).await;

    let drains = hosts.api().get("/gateway/drain").await;
    assert_eq!(drains[0]["process_server"], "alpha", "{drains}");
    let streams = drains[0]["streams"].as_array().unwrap();
    let clients: Vec<_> = streams.iter().filter_map(|stream| stream["client"].as_str()).collect();
    let ours = [&first, &second].map(|stream| stream.local_addr().unwrap().to_string());
    assert_eq!(clients, ours);
    // Its number, what was asked, and the echo, both ways.
    assert!(streams.iter().all(|one| one["destination"] == "mirror" && one["bytes"].as_u64() > Some(10)));
    let shown = hosts.posternctl(&["gateway", "drain"]);
    assert!(ours.iter().all(|client| shown.contains(client)), "{shown}");

    first.shutdown().await.unwrap();
    assert_eq!(first.read(&mut [0]).await.unwrap(), 0, "the end is a clean one");
    echo(&mut second).await;
    assert!(hosts.ended("alpha").is_none(), "one still holds it open");

    hosts.posternctl(&["gateway", "end-drain"]);
    assert!(until_ended(&mut hosts, "alpha").await.success());
    assert!(is_reset(&mut second).await);
    assert_eq!(hosts.gateway().await.active.as_deref(), Some("beta"));
}

#[tokio::test]
async fn asked_twice_or_alone_an_active_ends_at_once() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let (mut held, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();

    hosts.terminate("alpha");
    hosts.until_active("beta").await;
    echo(&mut held).await;
    hosts.terminate("alpha");
    assert!(until_ended(&mut hosts, "alpha").await.success());
    assert!(is_reset(&mut held).await);

    let (mut held, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    hosts.terminate("beta");
    assert!(until_ended(&mut hosts, "beta").await.success(), "nobody is left to take over");
    assert!(is_reset(&mut held).await);
}

#[tokio::test]
async fn a_stopped_central_resets_its_streams_and_its_agents_are_back_soon_after_it() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let (mut held, visit) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    let epoch = hosts.gateway().await.fence();

    hosts.stop_central();
    assert!(is_reset(&mut held).await);
    wait_until("the destination's end is closed, too", SOON, async || {
        visit.dialled_by(&hosts.pids()).is_none().then_some(())
    })
    .await;

    hosts.start_central().await;
    let back = Instant::now();
    for name in ["alpha", "beta"] {
        hosts.until_connected(name).await;
    }
    let connected = back.elapsed();
    hosts.until_active("alpha").await;
    println!("agents are connected {connected:?} and the tunnel is up {:?} after central", back.elapsed());
    assert!(mirror.look_into(listen, LOOK_WITHIN).await.is_some());
    assert_eq!(hosts.gateway().await.fence(), epoch, "the same active, in the same epoch");
}

#[tokio::test]
async fn a_removed_process_server_loses_its_tunnel_too() {
    let mirror = Mirror::start().await;
    let hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let (mut held, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    hosts.posternctl(&["gateway", "switch"]);
    hosts.until_active("beta").await;
    echo(&mut held).await;

    hosts.posternctl(&["process-servers", "remove", "alpha"]);
    assert!(is_reset(&mut held).await);
    hosts.until_group_is(&["beta"]).await;
    assert!(mirror.look_into(listen, LOOK_WITHIN).await.is_some());
}

async fn until_ended(hosts: &mut Hosts, name: &str) -> ExitStatus {
    let until = Instant::now() + SOON;
    loop {
        if let Some((ended, _)) = hosts.ended(name) {
            return ended;
        }
        assert!(Instant::now() < until, "{name} did not end within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn echo(stream: &mut TcpStream) {
    let both = async {
        stream.write_all(b"still there?").await?;
        stream.read_exact(&mut [0; 12]).await
    };
    let echo = timeout(SOON, both).await.unwrap_or_else(|_| panic!("no echo came within {SOON:?}"));
    echo.unwrap_or_else(|error| panic!("the stream broke: {error}"));
}

/// Whether the stream ends by a reset: never by a clean end, which would make half an answer look whole.
async fn is_reset(stream: &mut TcpStream) -> bool {
    let end = timeout(SOON, stream.read(&mut [0])).await;
    let end = end.unwrap_or_else(|_| panic!("the stream did not end within {SOON:?}"));
    end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}
