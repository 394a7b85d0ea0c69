//! A gateway's life by an administrator's hand: marked, founded, switched, unmarked, restarted.

use std::net::SocketAddr;
use std::time::Duration;

use postern_tests::servers::Mirror;
use postern_tests::{Hosts, holds_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Elections take half a second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(30);
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// Several times an election's timeout: what would happen by itself has happened by then.
const A_WHILE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn marking_disturbs_nothing_the_first_one_restarted_founds_and_the_others_join_without() {
    let mut hosts = Hosts::central("").await;
    for name in ["alpha", "beta", "gamma"] {
        hosts.enrol(name).await;
    }
    let pids: Vec<_> = ["alpha", "beta", "gamma"].map(|name| hosts.pid(name)).into();

    hosts.mark("alpha", true).await;
    hosts.mark("beta", true).await;
    holds_for(A_WHILE, async || {
        let gateway = hosts.gateway().await;
        assert_eq!((gateway.state.as_str(), gateway.active, gateway.group_epoch), ("idle", None, 0));
        assert_eq!(hosts.servers_that_are("restart_required").await, ["alpha", "beta"]);
        assert_eq!(hosts.servers_that_are("connected").await, ["alpha", "beta", "gamma"]);
    })
    .await;

    hosts.restart("beta").await;
    hosts.until_active("beta").await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    assert_eq!(hosts.gateway().await.group_epoch, 1);
    assert_eq!(hosts.servers_that_are("configured").await, ["alpha", "beta"]);
    assert!(hosts.servers_that_are("restart_required").await.is_empty());

    let before = hosts.gateway().await;
    hosts.mark("gamma", true).await;
    hosts.until_group_is(&["alpha", "beta", "gamma"]).await;
    assert_eq!(hosts.servers_that_are("configured").await, ["alpha", "beta", "gamma"]);
    assert_eq!(hosts.gateway().await, before);
    assert_eq!(pids, ["alpha", "beta", "gamma"].map(|name| hosts.pid(name)));
}

#[tokio::test]
async fn a_planned_switch_drains_the_old_active_and_leaves_no_gap() {
    let mirror = Mirror::start().await;
    let (hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let (mut held, visit) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    assert_eq!(visit.dialled_by(&hosts.pids()), Some(hosts.pid("alpha")));

    hosts.posternctl(&["gateway", "switch", "--to", "beta"]);
    let switched = hosts.until_active("beta").await;

    let last = switched.last_switch.unwrap();
    assert_eq!((last.from.as_deref(), last.to.as_str(), last.gap_ms), (Some("alpha"), "beta", 0));
    let (mut new, new_visit) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    assert_eq!(new_visit.dialled_by(&hosts.pids()), Some(hosts.pid("beta")));
    // What was in flight stays with the old one, both ways, until its client ends it.
    for _ in 0..20 {
        echo(&mut held, 256 << 10).await;
        echo(&mut new, 16 << 10).await;
    }
    assert_eq!(visit.dialled_by(&hosts.pids()), Some(hosts.pid("alpha")));
    held.shutdown().await.unwrap();
    assert_eq!(held.read(&mut [0; 1]).await.unwrap(), 0, "the end is a clean one");

    hosts.until_role("alpha", "standby").await;
    echo(&mut new, 16 << 10).await;
    // And back, which alpha can only do as a standby that is whole.
    hosts.posternctl(&["gateway", "switch"]);
    hosts.until_active("alpha").await;
    echo(&mut new, 16 << 10).await;
}

#[tokio::test]
async fn an_active_that_is_unmarked_hands_over_first_and_then_leaves() {
    let mirror = Mirror::start().await;
    let (hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let (mut held, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();

    hosts.mark("alpha", false).await;
    let gateway = hosts.until_active("beta").await;

    assert_eq!(gateway.last_switch.map(|last| last.gap_ms), Some(0));
    echo(&mut held, 64 << 10).await;
    let (_new, visit) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    assert_eq!(visit.dialled_by(&hosts.pids()), Some(hosts.pid("beta")));
    drop(held);
    hosts.until_group_is(&["beta"]).await;
    hosts.until_role("alpha", "unseated").await;
    assert_eq!(hosts.servers_that_are("connected").await, ["alpha", "beta"]);

    // It may come back, without a restart, as somebody new.
    hosts.mark("alpha", true).await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
}

#[tokio::test]
async fn unmarking_the_last_one_dissolves_the_group_without_an_alert_and_a_restart_founds_the_next() {
    let mirror = Mirror::start().await;
    let (hosts, listen) = up(&["alpha", "beta"], &mirror).await;

    hosts.mark("alpha", false).await;
    hosts.mark("beta", false).await;
    hosts.until("the gateway is idle", |gateway| gateway.state == "idle" && gateway.active.is_none()).await;
    for name in ["alpha", "beta"] {
        hosts.until_role(name, "unseated").await;
    }
    let events = hosts.api().get("/events").await.to_string();
    assert!(!events.contains("event_raised") && !events.contains("gateway_down"), "{events}");

    hosts.mark("beta", true).await;
    assert_eq!(hosts.servers_that_are("restart_required").await, ["beta"]);
    hosts.restart("beta").await;
    let again = hosts.until_active("beta").await;
    assert_eq!(again.group_epoch, 2);
    assert!(mirror.look_into(listen, SOON).await.is_some());
}

#[tokio::test]
async fn a_group_dissolves_only_when_every_stream_has_ended_also_those_of_the_active_before() {
    let mirror = Mirror::start().await;
    let (hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let (mut through_alpha, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();
    hosts.mark("alpha", false).await;
    hosts.until_active("beta").await;
    let (mut through_beta, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();

    hosts.mark("beta", false).await;
    holds_for(A_WHILE, async || {
        echo(&mut through_alpha, 1 << 10).await;
        echo(&mut through_beta, 1 << 10).await;
    })
    .await;
    drop(through_beta);
    holds_for(A_WHILE, async || echo(&mut through_alpha, 1 << 10).await).await;
    assert_ne!(hosts.gateway().await.state, "idle");

    drop(through_alpha);
    hosts.until("the gateway is idle", |gateway| gateway.state == "idle").await;
}

#[tokio::test]
async fn a_standby_restarted_from_central_switches_nothing() {
    let mirror = Mirror::start().await;
    let (hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let (before, pid, first_boot) = (hosts.gateway().await, hosts.pid("beta"), hosts.boot("beta").unwrap());
    let (mut held, _) = mirror.look_into(listen, LOOK_WITHIN).await.unwrap();

    hosts.posternctl(&["process-servers", "restart", "beta"]);
    wait_until("beta is back", SOON, async || {
        echo(&mut held, 1 << 10).await;
        assert_eq!(hosts.gateway().await, before);
        let back = hosts.boot("beta").is_some_and(|boot| boot != first_boot);
        (back && hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    holds_for(A_WHILE, async || {
        echo(&mut held, 1 << 10).await;
        assert_eq!(hosts.gateway().await, before);
    })
    .await;
    assert_eq!(hosts.pid("beta"), pid, "it is the same process");
}

#[tokio::test]
async fn an_active_restarted_from_central_leaves_the_gateway_up() {
    let mirror = Mirror::start().await;
    let (hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let (before, pid, first_boot) = (hosts.gateway().await, hosts.pid("alpha"), hosts.boot("alpha").unwrap());

    hosts.restart("alpha").await;
    wait_until("alpha is back in a new boot", SOON, async || {
        let back = hosts.boot("alpha").is_some_and(|boot| boot != first_boot);
        (back && hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    let after = hosts
        .until("the gateway is up in a new epoch", |gateway| {
            gateway.state == "up" && gateway.epoch > before.epoch
        })
        .await;
    assert_eq!(hosts.pid("alpha"), pid, "it is the same process");
    let active = after.active.unwrap();
    let (_new, visit) = mirror.look_into(listen, SOON).await.unwrap();
    assert_eq!(visit.dialled_by(&hosts.pids()), Some(hosts.pid(&active)));
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
}

/// A gateway with one destination; and where that listens.
async fn up(names: &[&str], mirror: &Mirror) -> (Hosts, SocketAddr) {
    let hosts = Hosts::up(names, "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    (hosts, listen)
}

/// Sends `count` bytes to the mirror and gets them back as they were.
async fn echo(stream: &mut TcpStream, count: usize) {
    let sent: Vec<u8> = (0..count).map(|at| (at % 251) as u8).collect();
    let mut back = vec![0; count];
    let (mut read, mut write) = stream.split();
    let both = async { tokio::try_join!(write.write_all(&sent), read.read_exact(&mut back)) };
    let both = timeout(SOON, both).await.unwrap_or_else(|_| panic!("no echo came within {SOON:?}"));
    both.unwrap_or_else(|error| panic!("the stream broke: {error}"));
    assert!(back == sent, "the echo came back altered");
}
