//! Who is told of an outage by the real programs: once each, in order, whatever dies meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use postern_tests::servers::{Receiver, Webhook};
use postern_tests::{Hosts, wait_until};
use rand::{Rng, SeedableRng, rngs::StdRng};
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
async fn an_outage_is_told_to_every_endpoint_and_its_end_to_those_who_heard_of_it() {
    let (healthy, dead, late) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let mut hosts = Hosts::up(&["alpha"], SETTINGS).await;
    dead.answer(410);
    tell(&hosts, &[("healthy", &healthy), ("dead", &dead)]).await;

    hosts.kill("alpha");
    let gateway = hosts.until("the gateway is down", |gateway| gateway.state == "down").await;
    assert_eq!(gateway.active, None);
    assert_eq!(until_heard(&healthy, 1).await[0].kind(), "secure_gateway.down");
    until_heard(&dead, 1).await;
    wait_until("the endpoint that is gone was switched off", SOON, async || {
        let alerts = hosts.api().get("/alerts").await;
        (alerts["endpoints"][1]["enabled"] == false).then_some(())
    })
    .await;
    tell(&hosts, &[("healthy", &healthy), ("late", &late)]).await;
    hosts.start("alpha");
    hosts.until_active("alpha").await;

    let heard = until_heard(&healthy, 2).await;
    assert_eq!(heard[1].kind(), "secure_gateway.up");
    assert_eq!(heard[1].incident(), heard[0].incident());
    assert_ne!(heard[1].id, heard[0].id);
    let raised = &hosts.api().get("/gateway").await["event"]["raised"];
    assert_eq!(raised, false);
    assert_eq!(late.heard().len(), 0, "it heard of no down, so it hears of no up");
    assert_eq!(dead.heard().len(), 1, "it wanted no more");
}

#[tokio::test]
async fn a_receiver_that_fails_is_asked_again_under_the_same_id_and_hears_down_before_up() {
    let receiver = Receiver::start().await;
    let mut hosts = Hosts::up(&["alpha"], SETTINGS).await;
    tell(&hosts, &[("only", &receiver)]).await;
    receiver.answer(503);
    hosts.kill("alpha");
    until_heard(&receiver, 1).await;
    hosts.start("alpha");
    hosts.until_active("alpha").await;
    receiver.answer(204);

    let taken = wait_until("both arrive", SOON, async || {
        let taken: Vec<_> = receiver.heard().into_iter().filter(|webhook| webhook.status == 204).collect();
        (taken.len() == 2).then_some(taken)
    })
    .await;
    assert_eq!([taken[0].kind(), taken[1].kind()], ["secure_gateway.down", "secure_gateway.up"]);
    assert_eq!(taken[0].id, receiver.heard()[0].id);
}

/// `ALERT_OUTAGES` sets how many; `ALERT_SEED` repeats a run.
#[tokio::test]
async fn outages_are_told_once_each_and_in_order_though_central_is_killed_at_any_moment() {
    let outages: usize = setting("ALERT_OUTAGES").unwrap_or(3);
    let seed: u64 = setting("ALERT_SEED").unwrap_or_else(rand::random);
    println!("ALERT_SEED={seed} ALERT_OUTAGES={outages}");
    let mut dice = StdRng::seed_from_u64(seed);
    let receiver = Receiver::start().await;
    let mut hosts = Hosts::up(&["alpha"], SETTINGS).await;
    tell(&hosts, &[("only", &receiver)]).await;

    for outage in 1..=outages {
        hosts.kill("alpha");
        kill_central_at_some_moment(&mut hosts, &mut dice).await;
        until_told(&receiver, "secure_gateway.down", outage).await;
        hosts.start("alpha");
        kill_central_at_some_moment(&mut hosts, &mut dice).await;
        hosts.until_active("alpha").await;
        until_told(&receiver, "secure_gateway.up", outage).await;
    }

    let heard = receiver.heard();
    let ids: BTreeSet<_> = heard.iter().map(|webhook| &webhook.id).collect();
    println!("{} webhooks for {} alerts: the others repeated an id", heard.len(), ids.len());
    assert_eq!(ids.len(), outages * 2);
    let mut of_incident: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for webhook in heard.iter().filter(|webhook| seen.insert(&webhook.id)) {
        of_incident.entry(webhook.incident()).or_default().push(webhook.kind());
    }
    assert_eq!(of_incident.len(), outages);
    for told in of_incident.values() {
        assert_eq!(told, &["secure_gateway.down", "secure_gateway.up"]);
    }
}

async fn kill_central_at_some_moment(hosts: &mut Hosts, dice: &mut StdRng) {
    // Across noticing, giving up, writing and sending: all of it lies within the first two seconds.
    tokio::time::sleep(Duration::from_millis(dice.random_range(0..2000))).await;
    hosts.kill_central();
    hosts.start_central().await;
}

/// Sets these endpoints, and that nothing is held down.
async fn tell(hosts: &Hosts, endpoints: &[(&str, &Receiver)]) {
    let endpoints: Vec<_> =
        endpoints.iter().map(|(name, receiver)| json!({"name": name, "url": receiver.url()})).collect();
    hosts.api().put("/alerts", json!({"endpoints": endpoints, "hold_down": "0s"})).await;
}

async fn until_heard(receiver: &Receiver, many: usize) -> Vec<Webhook> {
    wait_until(&format!("{many} webhooks arrive"), SOON, async || {
        let heard = receiver.heard();
        (heard.len() >= many).then_some(heard)
    })
    .await
}

async fn until_told(receiver: &Receiver, kind: &str, many: usize) {
    wait_until(&format!("{many} alerts of {kind} arrive"), SOON, async || {
        let heard = receiver.heard();
        let ids: BTreeSet<_> = heard.iter().filter(|one| one.kind() == kind).map(|one| &one.id).collect();
        (ids.len() == many).then_some(())
    })
    .await;
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}
