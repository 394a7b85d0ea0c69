//! An agent was away for longer than its certificate lived: it asks to come back with its old key, waits for an
//! administrator's word, and then has its place again. That it was away when central's certificate authority was
//! replaced makes no difference.

use std::fs;
use std::time::Duration;

use postern_tests::{Hosts, wait_until};
use serde_json::Value;

/// It asks every 10 to 30 seconds.
const ASKED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn it_waits_for_an_approval_and_then_votes_and_carries_as_before() {
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    let node = hosts.node_of("beta").await;
    hosts.stop("beta");
    hosts.expire_certificate("beta");

    hosts.start("beta");

    let asks = wait_until("beta asks to come back", ASKED_WITHIN, async || {
        let beta = hosts.api().get("/process-servers/beta").await;
        beta.get("returning").cloned()
    })
    .await;
    assert_eq!((&asks["from"], &asks["approved_until"]), (&Value::from("127.0.0.1"), &Value::Null), "{asks}");
    let listed = hosts.posternctl(&["process-servers", "list"]);
    assert!(listed.contains("certificate expired, asks to return"), "{listed}");
    assert_eq!(hosts.servers_that_are("connected").await, ["alpha"], "nobody is let in by himself");
    let events = hosts.api().get("/events").await.to_string();
    assert!(events.contains("posternctl process-servers approve beta"), "{events}");

    hosts.posternctl(&["process-servers", "approve", "beta"]);

    wait_until("beta is connected", ASKED_WITHIN, async || {
        (hosts.servers_that_are("connected").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    assert_eq!(hosts.node_of("beta").await, node, "its records are whole, so its seat is the same");
    wait_until("both are configured", ASKED_WITHIN, async || {
        (hosts.servers_that_are("configured").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    hosts.kill("alpha");
    hosts.until_active("beta").await;
}

#[tokio::test]
async fn one_that_was_removed_meanwhile_cannot_even_ask() {
    let mut hosts = Hosts::central("").await;
    hosts.enrol("alpha").await;
    hosts.stop("alpha");
    hosts.expire_certificate("alpha");
    hosts.api().delete("/process-servers/alpha").await;

    hosts.start("alpha");

    let log = hosts.data_dir("alpha.log");
    wait_until("alpha was told that it is not known", ASKED_WITHIN, async || {
        fs::read_to_string(&log).ok().filter(|log| log.contains("it was removed; enrol again"))
    })
    .await;
    assert_eq!(hosts.api().get("/process-servers").await, Value::Array(Vec::new()));
}

#[tokio::test]
async fn one_that_was_away_when_the_authority_was_replaced_is_let_in_and_takes_over() {
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    hosts.stop("beta");

    rotate(&hosts).await;
    hosts.start("beta");

    hosts.until_connected("beta").await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    hosts.kill("alpha");
    hosts.until_active("beta").await;
    // Enrolled under the new authority, it gets on with those that know only the old.
    hosts.start("alpha");
    hosts.enrol("gamma").await;
    hosts.mark("gamma", true).await;
    hosts.until_group_is(&["alpha", "beta", "gamma"]).await;
    hosts.kill("beta");
    hosts
        .until("another is active", |shown| {
            shown.state == "up" && shown.active.as_deref().is_some_and(|name| name != "beta")
        })
        .await;
}

#[tokio::test]
async fn one_whose_certificate_and_authority_are_both_gone_comes_back_with_an_approval() {
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    hosts.stop("beta");
    hosts.expire_certificate("beta");
    rotate(&hosts).await;

    hosts.start("beta");

    wait_until("beta asks to come back", ASKED_WITHIN, async || {
        hosts.api().get("/process-servers/beta").await.get("returning").cloned()
    })
    .await;
    hosts.posternctl(&["process-servers", "approve", "beta"]);
    wait_until("beta is connected", ASKED_WITHIN, async || {
        (hosts.servers_that_are("connected").await == ["alpha", "beta"]).then_some(())
    })
    .await;
    hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    let trusted = |name: &str| fs::read_to_string(hosts.data_dir(name).join("identity/ca.pem")).unwrap();
    assert_eq!(trusted("beta"), fs::read_to_string(hosts.data_dir("central").join("ca.pem")).unwrap());
    assert_ne!(trusted("alpha"), trusted("beta"), "alpha's next renewal is hours away");
    hosts.kill("alpha");
    hosts.until_active("beta").await;
}

/// Replaces the authority while central runs, and waits until it has noticed.
async fn rotate(hosts: &Hosts) {
    let before = hosts.postern_central(&["ca", "status"]);
    let after = hosts.postern_central(&["ca", "rotate"]);
    assert_ne!(before, after);
    let again = hosts.postern_central(&["ca", "status"]);
    assert_eq!(after, again);
    wait_until("central has noticed", ASKED_WITHIN, async || {
        let events = hosts.api().get("/events").await.to_string();
        events.contains("ca_rotated").then_some(())
    })
    .await;
}
