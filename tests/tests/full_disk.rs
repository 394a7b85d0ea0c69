//! A disk that is full: whoever must record something and cannot says so and stops; what needs no
//! record goes on; and once there is room again everything acknowledged is there.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::process::Command;
use std::time::Duration;

use postern_tests::servers::Mirror;
use postern_tests::{Attempt, Hosts, holds_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);
/// A segment that a database has used before, half a mebibyte, takes hundreds of changes more.
const FULL_WITHIN: Duration = Duration::from_secs(120);
/// More than fit into the blocks that central's database has taken before its disk is full.
const CHANGES_MAX: usize = 500;
/// Long beside a heartbeat: whatever stops for want of a disk has stopped by then.
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn an_active_whose_disk_is_full_stops_with_a_reason_and_comes_back_to_its_seat() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::central("").await;
    hosts.give_small_disk("alpha");
    hosts.form(&["alpha", "beta"]).await;
    hosts.enrol("gamma").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let (before, seat) = (hosts.gateway().await, hosts.node_of("alpha").await);
    let (mut held, visit) = mirror.look_into(listen, SOON).await.expect("the gateway is up");
    assert_eq!(visit.dialled_by(&hosts.pids()), Some(hosts.pid("alpha")));

    hosts.disk("alpha").fill();
    // Carrying bytes takes no record.
    holds_for(A_WHILE, async || echo(&mut held).await).await;
    assert_eq!(hosts.gateway().await, before);
    // Who is a member does: alpha, which leads, has to write it down each time.
    let mut marked = false;
    let (ended, said) = wait_until("alpha has ended", FULL_WITHIN, async || {
        marked = !marked;
        hosts.mark("gamma", marked).await;
        hosts.ended("alpha")
    })
    .await;
    hosts.mark("gamma", true).await;

    assert_eq!(ended.code(), Some(1), "{said}");
    let records = hosts.data_dir("alpha").join("raft");
    for part in ["Raft records", &records.display().to_string(), "No space left", "start the agent again"] {
        assert!(said.contains(part), "{part:?} is missing in what alpha said:\n{said}");
    }
    let end = timeout(SOON, held.read(&mut [0; 1])).await.expect("its stream does not hang");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let after =
        hosts.until("another one is active", |now| now.state == "up" && now.epoch > before.epoch).await;
    assert_ne!(after.active.as_deref(), Some("alpha"));
    wait_until("the other one serves", SOON, async || mirror.look_into(listen, SOON).await).await;

    hosts.disk("alpha").free();
    hosts.start("alpha");
    wait_until("alpha is configured again, in its seat", SOON, async || {
        let configured = hosts.servers_that_are("configured").await;
        (configured == ["alpha", "beta", "gamma"] && hosts.node_of("alpha").await == seat).then_some(())
    })
    .await;
    hosts.until_group_is(&["alpha", "beta", "gamma"]).await;
    // Healthy means: it can carry.
    hosts.posternctl(&["gateway", "switch", "--to", "alpha"]);
    let again = hosts.until_active("alpha").await;
    assert!(again.fence() > after.fence(), "{again:?} after {after:?}");
    let (mut new, _) = mirror.look_into(listen, SOON).await.expect("the gateway is up");
    echo(&mut new).await;
}

#[tokio::test]
async fn a_central_whose_disk_is_full_forwards_on_refuses_every_change_and_forgets_none_it_made() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::central_on_a_small_disk("").await;
    hosts.form(&["alpha", "beta"]).await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let before = hosts.gateway().await;
    let (mut held, _) = mirror.look_into(listen, SOON).await.expect("the gateway is up");

    hosts.central_disk().fill();
    let mut made = vec!["mirror".to_owned()];
    let refused = loop {
        assert!(made.len() < CHANGES_MAX, "central recorded everything on a disk that is full");
        let name = format!("late-{}", made.len());
        let attempt = Attempt::at(add(&hosts, &name)).await;
        if attempt.code != Some(0) {
            break attempt;
        }
        made.push(name);
    };
    refused.failed(1, &["central could not read or write its store"]);
    Attempt::at(add(&hosts, "later")).await.failed(1, &["central could not read or write its store"]);

    holds_for(A_WHILE, async || {
        echo(&mut held).await;
        let (mut new, _) = mirror.look_into(listen, SOON).await.expect("a new connection is served");
        echo(&mut new).await;
    })
    .await;

    // Without a tunnel there is nothing left that it could do: whoever restarts it, restarts it whole.
    hosts.kill("alpha");
    let (ended, said) = wait_until("central has left", SOON, async || hosts.central_ended()).await;
    assert_eq!(ended.code(), Some(1), "{said}");
    for part in ["records could not be kept", "No space left", "then restart central"] {
        assert!(said.contains(part), "{part:?} is missing in what central said:\n{said}");
    }

    hosts.central_disk().free();
    hosts.start_central().await;
    hosts.start("alpha");
    let after = hosts.until("the gateway is up again", |gateway| gateway.state == "up").await;
    assert!(after.fence() > before.fence(), "{after:?} after {before:?}");
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    assert!(mirror.look_into(listen, SOON).await.is_some(), "the destination was forgotten");
    let known = hosts.posternctl(&["destinations", "list"]);
    for name in made {
        assert!(known.contains(&name), "{name} was acknowledged and is gone:\n{known}");
    }
    assert_eq!(Attempt::at(add(&hosts, "again")).await.code, Some(0), "there is room again");
}

fn add(hosts: &Hosts, name: &str) -> Command {
    hosts.posternctl_command(&["destinations", "add", name, "tcp://127.0.0.1:9"])
}

async fn echo(stream: &mut TcpStream) {
    let mut back = [0; 4];
    stream.write_all(b"ping").await.expect("the stream lives");
    stream.read_exact(&mut back).await.expect("the stream lives");
    assert_eq!(&back, b"ping");
}
