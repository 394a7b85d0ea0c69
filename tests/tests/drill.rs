//! The failover drill: there and back under clients that never notice, a report that says how it went, and
//! refusals where a drill would cost redundancy.

use std::time::Duration;

use postern_tests::servers::Mirror;
use postern_tests::{Hosts, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

// The destination is this process: it must go on while posternctl is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_goes_through_the_standby_and_back_tries_every_destination_and_keeps_its_report() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    // Nobody listens there; that is not the drill's fault.
    hosts.destination("nobody", postern_tests::port::free()).await;
    assert!(mirror.look_into(listen, SOON).await.is_some());

    let said = hosts.posternctl(&["gateway", "drill"]);

    assert!(said.contains("alpha -> beta -> alpha"), "{said}");
    assert_eq!(hosts.gateway().await.active.as_deref(), Some("alpha"), "it is home again");
    let reports = hosts.api().get("/gateway/drills").await;
    let report = &reports[0];
    assert_eq!((&report["outcome"], &report["failures"]), (&json!("passed"), &json!([])), "{report}");
    assert_eq!((&report["home"], &report["away"]), (&json!("alpha"), &json!("beta")));
    let legs = report["legs"].as_array().unwrap();
    for leg in legs {
        println!("drill {} -> {}: {leg}", leg["from"], leg["to"]);
        assert_eq!((&leg["gap_ms"], &leg["failed_to_open"]), (&json!(0), &json!(0)), "{leg}");
        assert!(leg["opened"].as_u64() > Some(0), "{leg}");
    }
    assert_eq!(legs.len(), 2);
    let tried = |name: &str| {
        let all = report["destinations"].as_array().unwrap();
        all.iter().find(|tried| tried["name"] == name).cloned().unwrap()
    };
    assert!(tried("mirror")["through_ms"].is_u64(), "{report}");
    assert!(tried("nobody")["through_ms"].is_null() && tried("nobody")["reason"].is_string(), "{report}");
    let events = hosts.api().get("/events").await.to_string();
    assert!(events.contains("drill_ordered") && events.contains("drill_passed"), "{events}");

    // The report outlives central, and numbers never come back.
    hosts.stop_central();
    hosts.start_central().await;
    hosts.until_active("alpha").await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    assert_eq!(hosts.api().get("/gateway/drills").await, reports);

    hosts.kill("beta");
    hosts.until("beta's loss is noticed", |gateway| gateway.can_lose.is_some()).await;
    wait_until("beta is no longer configured", SOON, async || {
        (hosts.servers_that_are("configured").await == ["alpha"]).then_some(())
    })
    .await;
    let refused = hosts.posternctl_command(&["gateway", "drill"]).output().unwrap();
    let refusal = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{refusal}");
    assert!(refusal.contains("no other configured candidate"), "{refusal}");
    assert_eq!(hosts.api().get("/gateway/drills").await.as_array().map(Vec::len), Some(1));
}

// The destination is this process: it must go on while posternctl is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_whose_standby_cannot_reach_a_destination_fails_says_which_and_comes_home() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    assert!(mirror.look_into(listen, SOON).await.is_some());
    // What drills are for: the standby's own list was never told of the destination.
    hosts.forbid_everything("beta").await;
    wait_until("beta is configured again", SOON, async || {
        (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;

    let output = hosts.posternctl_command(&["gateway", "drill", "-o", "json"]).output().unwrap();

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(report["outcome"], "failed");
    let why = report["failures"].to_string();
    assert!(why.contains("mirror was reached through alpha and is not through beta"), "{why}");
    assert_eq!(hosts.gateway().await.active.as_deref(), Some("alpha"), "it is home again");
    let events = hosts.api().get("/events").await.to_string();
    assert!(events.contains("drill_failed"), "{events}");
}
