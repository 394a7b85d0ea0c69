//! Who is told by the agents themselves when it is central that is away.

use std::time::Duration;

use postern_tests::servers::{Receiver, Webhook};
use postern_tests::{Hosts, wait_until};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
/// Continues the table that the stage's configuration ends with.
const SETTINGS: &str = r#"
ping_interval = "1s"
dead_after = "3s"
[gateway]
connect_timeout = "1s"
[alerts]
allow_destinations = ["127.0.0.0/8"]
"#;

#[tokio::test]
async fn while_central_is_away_one_agent_tells_it_under_the_key_that_central_would_use() {
    let (inside, outside) = (Receiver::start().await, Receiver::start().await);
    let mut hosts = Hosts::up(&["alpha", "beta"], SETTINGS).await;
    for name in ["alpha", "beta"] {
        tell(&mut hosts, name, &inside);
    }
    hosts.until_active("alpha").await;
    hosts.until_connected("beta").await;
    let endpoints = json!([{"name": "outside", "url": outside.url()}]);
    hosts.api().put("/alerts", json!({"endpoints": endpoints, "hold_down": "0s"})).await;

    hosts.kill_central();
    let down = until_heard(&inside, 1).await.remove(0);
    assert_eq!(down.kind(), "secure_gateway.down");
    let tried = down.body["data"]["tried"].as_array().map_or(0, Vec::len);
    assert_eq!(tried, 2, "the other candidate was asked: {}", down.body);

    hosts.kill("alpha");
    hosts.kill("beta");
    hosts.start_central().await;
    let central = until_heard(&outside, 1).await.remove(0);
    assert!(!key(&down).is_empty(), "{}", down.body);
    assert_eq!(key(&central), key(&down), "one outage, one incident");

    hosts.start("alpha");
    hosts.start("beta");
    let told = until_heard(&inside, 2).await;
    assert_eq!([told[1].kind(), told[1].incident()], ["secure_gateway.up", down.incident()]);
    assert_eq!(until_heard(&outside, 2).await[1].kind(), "secure_gateway.up");
    assert_eq!(inside.heard().len(), 2, "the other agent had nothing to tell");
}

#[tokio::test]
async fn an_agent_that_alone_lost_its_way_leaves_it_to_central_to_tell() {
    let inside = Receiver::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta"], SETTINGS).await;
    tell(&mut hosts, "beta", &inside);
    hosts.until_connected("beta").await;
    hosts.lose_central("beta");
    // It has asked alpha, which hears central, and asks again.
    wait_until("beta has waited its time and asked", SOON, async || {
        let log = hosts.log("beta");
        log.contains("another candidate hears central").then_some(())
    })
    .await;
    assert!(inside.heard().is_empty());
}

// The receiver answers while this test waits for a program.
#[tokio::test(flavor = "multi_thread")]
async fn receivers_can_be_tried_from_the_host_and_say_what_they_answered() {
    let inside = Receiver::start().await;
    let mut hosts = Hosts::central(SETTINGS).await;
    hosts.enrol("alpha").await;
    tell(&mut hosts, "alpha", &inside);
    let shown = hosts.postern_agent("alpha", &["alerts", "test"]);
    assert!(shown.contains("taken") && shown.contains("inside"), "{shown}");
    let heard = inside.heard();
    assert_eq!((heard.len(), &heard[0].body["data"]["test"]), (1, &json!(true)));
}

/// Restarts an agent with this receiver set in its own file.
fn tell(hosts: &mut Hosts, name: &str, receiver: &Receiver) {
    hosts.stop(name);
    let endpoints = json!({"endpoints": [{"name": "inside", "url": receiver.url()}]});
    hosts.write_private(name, "alerts.json", &endpoints.to_string());
    hosts.configure(name, "[alerts]\nendpoints = \"alerts.json\"\nafter = \"2s\"\n");
    hosts.start(name);
}

async fn until_heard(receiver: &Receiver, many: usize) -> Vec<Webhook> {
    wait_until(&format!("{many} webhooks arrive"), SOON, async || {
        let heard = receiver.heard();
        (heard.len() >= many).then_some(heard)
    })
    .await
}

fn key(webhook: &Webhook) -> &str {
    webhook.body["data"]["incident"]["dedup_key"].as_str().unwrap_or_default()
}
