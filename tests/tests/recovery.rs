//! A gateway group without a quorum is founded anew on an agent that survived: only then, only for what is
//! typed out, under a higher generation; and who was called lost and comes back joins again by himself.
#![expect(clippy::unwrap_used, reason = "panicking is how a test fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use durable::Guard;
use postern_tests::servers::Mirror;
use postern_tests::{Hosts, wait_until};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn of_three_candidates_the_survivor_of_two_founds_the_group_anew_and_the_lost_join_it_when_they_return()
{
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta", "gamma"], &mirror).await;
    let before = hosts.gateway().await;
    let seats = nodes(&hosts).await;
    let recover_on_gamma = ["raft", "recover", "gamma", "--yes-i-lost=alpha,beta"];
    assert!(refused(&hosts, &recover_on_gamma).contains("leads it: there is nothing to recover"));

    hosts.kill("alpha");
    hosts.kill("beta");
    hosts.until("the gateway is down", |gateway| gateway.state == "down").await;
    assert!(refused(&hosts, &recover_on_gamma).contains("try again in"), "an election may be under way");
    until_nobody_may_lead(&hosts, &["raft", "recover", "gamma", "--yes-i-lost=alpha"]).await;
    let unconfirmed = refused(&hosts, &["raft", "recover", "gamma", "--yes-i-lost=alpha"]);
    assert!(unconfirmed.contains("beta is away and must be confirmed"), "{unconfirmed}");
    let absent = refused(&hosts, &["raft", "recover", "alpha", "--yes-i-lost=beta,gamma"]);
    assert!(absent.contains("alpha is not connected to central"), "{absent}");

    hosts.posternctl(&recover_on_gamma);

    let after = hosts.until_active("gamma").await;
    assert_eq!(after.group_epoch, before.group_epoch + 1);
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.until_group_is(&["gamma"]).await;

    hosts.start("alpha");
    hosts.start("beta");
    hosts.until_group_is(&["alpha", "beta", "gamma"]).await;
    let anew = nodes(&hosts).await;
    assert!(anew.iter().min() > seats.iter().max(), "no node sits twice: {anew:?} after {seats:?}");
    let now = hosts.gateway().await;
    assert_eq!((now.active.as_deref(), now.fence()), (Some("gamma"), after.fence()));
    let events = hosts.api().get("/events").await.to_string();
    assert!(events.contains("group_recovered") && events.contains("recovery_ordered"), "{events}");
    // Healthy means: the active can change. A vote counts once the voters before have agreed to it.
    until_configured(&hosts, &["alpha", "beta", "gamma"]).await;
    hosts.kill("gamma");
    hosts
        .until("another one carries", |gateway| gateway.active.as_deref().is_some_and(|a| a != "gamma"))
        .await;
}

#[tokio::test]
async fn of_two_candidates_the_survivor_founds_anew_when_central_lost_its_records_too() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let before = hosts.gateway().await;

    hosts.kill("beta");
    hosts.stop_central();
    forget_the_newest_entry(&hosts.data_dir("central").join("guards/default.guard"));
    hosts.start_central().await;
    // Without a quorum the admitted epoch stands: alpha carries on, and only the active cannot change.
    let carries_on = hosts.until_active("alpha").await;
    assert_eq!(carries_on.group_epoch, before.group_epoch);
    let (mut held, _) = mirror.look_into(listen, SOON).await.unwrap();
    until_nobody_may_lead(&hosts, &["raft", "recover", "alpha", "--yes-i-lost=beta"]).await;
    let warned = refused(&hosts, &["raft", "recover", "alpha", "--yes-i-lost=beta"]);
    assert!(warned.contains("--accept-risk=lose-connection"), "{warned}");

    hosts.posternctl(&["raft", "recover", "alpha", "--yes-i-lost=beta", "--accept-risk=lose-connection"]);

    let end = timeout(SOON, held.read(&mut [0; 1])).await.expect("the client learns that its stream ended");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let after = hosts
        .until("alpha carries in the new group", |gateway| {
            gateway.active.as_deref() == Some("alpha") && gateway.group_epoch == before.group_epoch + 1
        })
        .await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.start("beta");
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    until_configured(&hosts, &["alpha", "beta"]).await;
    assert_eq!(hosts.gateway().await.fence(), after.fence());
    hosts.kill("alpha");
    hosts.until_active("beta").await;
}

#[tokio::test]
async fn without_a_group_there_is_nothing_to_recover() {
    let hosts = Hosts::central("").await;
    let refusal = refused(&hosts, &["raft", "recover", "alpha", "--yes-i-lost="]);
    assert!(refusal.contains("there is no gateway group to recover"), "{refusal}");
}

/// A gateway with one destination; and where that listens.
async fn up(names: &[&str], mirror: &Mirror) -> (Hosts, SocketAddr) {
    let hosts = Hosts::up(names, "[gateway]\nconnect_timeout = \"5s\"\n").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    (hosts, listen)
}

/// What `posternctl` says to an order that is refused.
fn refused(hosts: &Hosts, arguments: &[&str]) -> String {
    let output = hosts.posternctl_command(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?} should be refused: {said}");
    said
}

/// Waits until an order, which is refused for another reason, is no longer refused as too early.
async fn until_nobody_may_lead(hosts: &Hosts, order: &[&str]) {
    wait_until("the group has been without a leader for long enough", SOON, async || {
        let said = refused(hosts, order);
        (!said.contains("try again in") && !said.contains("leads it")).then_some(())
    })
    .await;
}

async fn until_configured(hosts: &Hosts, names: &[&str]) {
    wait_until(&format!("{names:?} are configured"), SOON, async || {
        (hosts.servers_that_are("configured").await == names).then_some(())
    })
    .await;
}

/// The nodes of the agents that have a seat.
async fn nodes(hosts: &Hosts) -> Vec<u64> {
    hosts.members().await.iter().filter(|member| !member.witness).map(|member| member.node).collect()
}

/// Makes the guard remember one entry more than the log has, as when a disk was put back to an older state.
fn forget_the_newest_entry(guard: &Path) {
    let opened = Guard::<Value>::open(guard);
    let (guard, held) = opened.unwrap_or_else(|error| panic!("the guard cannot be opened: {error}"));
    let mut held = held.unwrap_or_else(|| panic!("the witness has no seat"));
    let index = held["last_log_id"]["index"].as_u64().unwrap_or_else(|| panic!("no index in {held}"));
    held["last_log_id"]["index"] = json!(index + 1);
    guard.write(&held).unwrap_or_else(|error| panic!("the guard cannot be written: {error}"));
}
