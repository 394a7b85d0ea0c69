//! What a gateway bears: wiped agents, the only voter lost, central killed, one host after another gone.

use std::net::SocketAddr;
use std::time::Duration;

use postern_tests::servers::Mirror;
use postern_tests::{Hosts, holds_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);
/// What would happen by itself has happened by then: `agent.give_way_after`, and an election.
const A_WHILE: Duration = Duration::from_secs(12);
/// A candidate silent for a minute may lose its vote.
const DEMOTED_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test]
async fn an_agent_that_lost_the_groups_records_comes_back_under_a_new_node() {
    let mirror = Mirror::start().await;
    let (mut hosts, _) = up(&["alpha", "beta"], &mirror).await;
    let (before, old) = (hosts.gateway().await, hosts.node_of("beta").await);

    hosts.stop("beta");
    hosts.wipe_raft("beta");
    hosts.start("beta");

    until_seated_anew(&hosts, "beta", old).await;
    until_configured(&hosts, &["alpha", "beta"]).await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    let as_before = async || (hosts.gateway().await == before).then_some(());
    wait_until("the gateway is as it was", SOON, as_before).await;
    // Healthy means: it can carry.
    hosts.kill("alpha");
    hosts.until_active("beta").await;
}

#[tokio::test]
async fn an_agent_whose_machine_is_put_back_to_an_earlier_day_never_votes_under_its_old_node() {
    let mirror = Mirror::start().await;
    let (mut hosts, _) = up(&["alpha", "beta"], &mirror).await;
    let old = hosts.node_of("beta").await;
    hosts.stop("beta");
    hosts.back_up("beta");
    hosts.start("beta");
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    // It votes, and forgets that it did.
    hosts.kill("alpha");
    hosts.until_active("beta").await;
    hosts.start("alpha");
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    hosts.stop("beta");
    hosts.until_active("alpha").await;

    hosts.put_back("beta");
    hosts.start("beta");

    until_seated_anew(&hosts, "beta", old).await;
    until_configured(&hosts, &["alpha", "beta"]).await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    let events = hosts.api().get("/events?limit=100").await;
    assert!(events.to_string().contains("beta's Raft records are from an earlier time"), "{events}");
    hosts.kill("alpha");
    hosts.until_active("beta").await;
}

#[tokio::test]
async fn a_host_set_up_anew_under_its_name_takes_its_place_again() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let old = hosts.node_of("alpha").await;

    hosts.stop("alpha");
    hosts.wipe("alpha");
    hosts.until_active("beta").await;
    hosts.enrol("alpha").await;
    assert_eq!(hosts.servers_that_are("candidate").await, ["alpha", "beta"], "the mark belongs to the name");

    until_seated_anew(&hosts, "alpha", old).await;
    until_configured(&hosts, &["alpha", "beta"]).await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    hosts.kill("beta");
    hosts.until_active("alpha").await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
}

#[tokio::test]
async fn the_only_agent_killed_and_started_again_serves_the_same_destination_in_a_higher_epoch() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha"], &mirror).await;
    let before = hosts.gateway().await;

    hosts.kill("alpha");
    hosts.until("the loss is noticed", |gateway| gateway.active.is_none()).await;
    hosts.start("alpha");

    let after = hosts.until_active("alpha").await;
    assert_eq!(after.group_epoch, before.group_epoch);
    assert!(after.epoch > before.epoch, "{after:?} after {before:?}");
    assert!(mirror.look_into(listen, SOON).await.is_some());
}

#[tokio::test]
async fn the_only_voter_wiped_founds_the_group_anew_under_a_higher_generation() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha"], &mirror).await;
    let before = hosts.gateway().await;

    hosts.kill("alpha");
    hosts.wipe_raft("alpha");
    hosts.start("alpha");

    let after = hosts
        .until("the gateway is up in another group", |gateway| {
            gateway.state == "up" && gateway.group_epoch > before.group_epoch
        })
        .await;
    assert_eq!(after.active.as_deref(), Some("alpha"));
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.until_group_is(&["alpha"]).await;
}

#[tokio::test]
async fn the_only_host_set_up_anew_under_its_name_founds_the_group_anew() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha"], &mirror).await;
    let before = hosts.gateway().await;

    hosts.kill("alpha");
    hosts.wipe("alpha");
    hosts.enrol("alpha").await;
    hosts.restart("alpha").await;

    let after = hosts.until_active("alpha").await;
    assert!(after.group_epoch > before.group_epoch, "{after:?} after {before:?}");
    // The boot that was asked to restart may have been the active one for a moment; its streams end with it.
    wait_until("the mirror answers", SOON, async || mirror.look_into(listen, SOON).await).await;
    hosts.until_group_is(&["alpha"]).await;
}

#[tokio::test]
async fn agents_that_all_lost_the_groups_records_found_it_anew() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let before = hosts.gateway().await;

    for name in ["alpha", "beta"] {
        hosts.kill(name);
        hosts.wipe_raft(name);
    }
    for name in ["alpha", "beta"] {
        hosts.start(name);
    }

    let after = hosts
        .until("the gateway is up in another group", |gateway| {
            gateway.state == "up" && gateway.group_epoch > before.group_epoch
        })
        .await;
    assert!(after.active.is_some());
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
}

#[tokio::test]
async fn when_one_host_is_wiped_and_the_other_gone_for_good_unmarking_that_one_saves_the_gateway() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let before = hosts.gateway().await;

    hosts.kill("beta");
    hosts.kill("alpha");
    hosts.wipe_raft("alpha");
    hosts.start("alpha");
    hosts.until_connected("alpha").await;
    // As long as beta may come back, it alone knows what the group has decided.
    holds_for(A_WHILE, async || {
        let gateway = hosts.gateway().await;
        assert_eq!((gateway.active, gateway.group_epoch), (None, before.group_epoch));
    })
    .await;
    hosts.mark("beta", false).await;

    let after = hosts.until_active("alpha").await;
    assert!(after.group_epoch > before.group_epoch, "{after:?} after {before:?}");
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.until_group_is(&["alpha"]).await;
}

#[tokio::test]
async fn everything_killed_at_once_and_started_again_goes_on() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let before = hosts.gateway().await;

    hosts.kill_central();
    hosts.kill("alpha");
    hosts.kill("beta");
    hosts.start("beta");
    hosts.start("alpha");
    hosts.start_central().await;

    let after = hosts.until("the gateway is up", |gateway| gateway.state == "up").await;
    assert!(after.fence() > before.fence(), "{after:?} after {before:?}");
    assert_eq!(after.group_epoch, before.group_epoch);
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
}

#[tokio::test]
async fn central_killed_and_started_again_finds_its_agents_and_keeps_its_fence() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let before = hosts.gateway().await;

    hosts.kill_central();
    hosts.start_central().await;
    let found = hosts.gateway().await;
    assert!(found.fence() >= before.fence(), "{found:?} after {before:?}");

    let after = hosts.until("the gateway is up again", |gateway| gateway.state == "up").await;
    assert!(after.fence() >= before.fence(), "{after:?} after {before:?}");
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    holds_for(A_WHILE, async || {
        let now = hosts.gateway().await;
        assert_eq!((&now.state, &now.active, now.epoch), (&after.state, &after.active, after.epoch));
    })
    .await;
    assert_eq!(hosts.servers_that_are("configured").await, ["alpha", "beta"]);
}

#[tokio::test]
async fn central_stopped_and_started_again_finds_its_agents() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta"], &mirror).await;
    let before = hosts.gateway().await;

    hosts.stop_central();
    hosts.start_central().await;

    let after = hosts.until("the gateway is up again", |gateway| gateway.state == "up").await;
    assert!(after.fence() >= before.fence(), "{after:?} after {before:?}");
    assert!(mirror.look_into(listen, SOON).await.is_some());
    // Destinations, too, are where they were.
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
}

#[tokio::test]
async fn of_three_candidates_the_last_carries_once_the_first_dead_one_has_lost_its_vote() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta", "gamma"], &mirror).await;
    assert_eq!(hosts.gateway().await.can_lose, Some(1));

    hosts.kill("alpha");
    let second = wait_until("another one carries", SOON, async || {
        hosts.gateway().await.active.filter(|active| active != "alpha")
    })
    .await;
    wait_until("the dead one's vote has gone to the witness", DEMOTED_WITHIN, async || {
        (hosts.voting().await == ["beta", "gamma", "witness"]).then_some(())
    })
    .await;
    assert_eq!(hosts.gateway().await.can_lose, Some(1));

    hosts.kill(&second);
    let last = if second == "beta" { "gamma" } else { "beta" };
    hosts.until_active(last).await;
    assert!(mirror.look_into(listen, SOON).await.is_some());

    hosts.start("alpha");
    hosts.start(&second);
    hosts.until_group_is(&["alpha", "beta", "gamma"]).await;
    assert_eq!(hosts.gateway().await.active.as_deref(), Some(last));
}

#[tokio::test]
async fn of_three_candidates_two_killed_at_once_leave_a_gateway_that_is_down_until_one_returns() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta", "gamma"], &mirror).await;

    hosts.kill("alpha");
    hosts.kill("beta");

    // One of three voters is no majority: nobody may claim.
    hosts.until("the gateway is down", |gateway| gateway.state == "down").await;
    assert_eq!(hosts.servers_that_are("configured").await, ["gamma"]);
    hosts.start("beta");
    hosts.until("two are a majority", |gateway| gateway.state == "up").await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
}

#[tokio::test]
async fn with_every_agent_dead_the_gateway_is_down_until_one_is_back() {
    let mirror = Mirror::start().await;
    let (mut hosts, listen) = up(&["alpha", "beta"], &mirror).await;

    hosts.kill("alpha");
    hosts.kill("beta");
    hosts.until("the gateway is down", |gateway| gateway.state == "down").await;

    hosts.start("beta");
    hosts.until_active("beta").await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
    hosts.start("alpha");
    wait_until("both are configured", SOON, async || {
        (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    assert_eq!(hosts.gateway().await.active.as_deref(), Some("beta"));
}

#[tokio::test]
async fn an_old_active_that_dies_while_it_drains_takes_only_its_own_streams_with_it() {
    let mirror = Mirror::start().await;
    // Continues the [tunnel] section.
    let mut hosts = Hosts::up(&["alpha", "beta"], "resume_window = \"1s\"\n").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let (mut held, visit) = mirror.look_into(listen, SOON).await.unwrap();
    assert_eq!(visit.dialled_by(&hosts.pids()), Some(hosts.pid("alpha")));
    hosts.posternctl(&["gateway", "switch", "--to", "beta"]);
    let switched = hosts.until_active("beta").await;
    let (mut new, _) = mirror.look_into(listen, SOON).await.unwrap();

    hosts.kill("alpha");

    // Well before gateway.drain_timeout, and as what it is: broken, not ended.
    let end = timeout(SOON, held.read(&mut [0; 1])).await.expect("the client learns of the loss");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    new.write_all(b"still here").await.unwrap();
    let mut back = [0; 10];
    timeout(SOON, new.read_exact(&mut back)).await.expect("the new active serves on").unwrap();
    assert_eq!(&back, b"still here");
    assert_eq!(hosts.gateway().await.epoch, switched.epoch);
}

/// A gateway with one destination; and where that listens.
async fn up(names: &[&str], mirror: &Mirror) -> (Hosts, SocketAddr) {
    let hosts = Hosts::up(names, "[gateway]\nconnect_timeout = \"5s\"\n").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    (hosts, listen)
}

/// The node that a name sits on now belongs to the group, which the names of its members do not tell.
async fn until_configured(hosts: &Hosts, names: &[&str]) {
    wait_until(&format!("{names:?} are configured"), SOON, async || {
        (hosts.servers_that_are("configured").await == names).then_some(())
    })
    .await;
}

async fn until_seated_anew(hosts: &Hosts, name: &str, before: Option<u64>) {
    wait_until(&format!("{name} sits on another node than {before:?}"), SOON, async || {
        let node = hosts.node_of(name).await;
        (node.is_some() && node != before).then_some(())
    })
    .await;
}
