//! Who is told of an outage by the real programs: once each, in order, whatever dies meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use postern_tests::servers::{Mirror, Receiver, Webhook};
use postern_tests::{Central, Hosts, Site, wait_until};
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};

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

/// The four minutes, shortened.
const TIME: Duration = Duration::from_secs(3);
/// Continues the table `[tunnel]`.
const THREE: &str = r#"
[gateway]
connect_timeout = "3s"
[alerts]
allow_destinations = ["127.0.0.0/8"]
"#;
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

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

#[tokio::test]
async fn with_three_candidates_the_down_comes_after_the_third_has_had_its_time_and_the_up_with_the_first_back()
 {
    let receiver = Receiver::start().await;
    let mirror = Mirror::start().await;
    let central = Central::start_with(&["default"], THREE).await;
    let site = Site::start_in(central, &["alpha", "beta", "gamma"], mirror.addr(), &[]).await;
    let hanging = Receiver::start().await;
    hanging.hang();
    let endpoints = json!([
        {"name": "dead", "url": hanging.url()},
        {"name": "healthy", "url": receiver.url(), "secret": KEY},
    ]);
    site.api().put("/alerts", json!({"endpoints": endpoints, "hold_down": "0s"})).await;
    let active = site.api().gateway().await.active.expect("a gateway that is up has an active");

    // Every candidate stays connected to central, and none can bring up a tunnel.
    site.links().for_each(|link| link.refuse_new(true));
    let lost = Instant::now();
    site.link(&active).connections().last().expect("the tunnel is its newest connection").cut();
    let down = until_heard(&receiver, 1).await.remove(0);

    assert_eq!(down.kind(), "secure_gateway.down");
    // With two of the three given up it was not down yet.
    let after = down.at - lost;
    assert!(after >= 3 * TIME && after < 3 * TIME + TIME, "told {after:?} after the loss");
    let tried = down.body["data"]["tried"].as_array().expect("who was tried");
    let names: BTreeSet<_> = tried.iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!((tried.len(), names), (3, BTreeSet::from(["alpha", "beta", "gamma"])), "{tried:?}");
    assert_eq!(tried[0]["name"], active, "the lost tunnel's own candidate is waited for first");
    let time_was_up = |one: &Value| one["outcome"].as_str().is_some_and(|why| why.contains("its time is up"));
    assert!(tried.iter().all(time_was_up), "{tried:?}");
    let link = down.body["data"]["link"].as_str().unwrap_or_default();
    let page = format!("{}/failovers#fo-", site.api().base());
    assert!(link.starts_with(&page), "whoever reads it can click to the outage's page: {}", down.body);

    site.link("gamma").refuse_new(false);
    let up = until_heard(&receiver, 2).await.remove(1);
    assert_eq!((up.kind(), up.incident()), ("secure_gateway.up", down.incident()));
    assert_eq!(site.api().gateway().await.active.as_deref(), Some("gamma"));
    for webhook in receiver.heard() {
        assert!(webhook.is_signed_with(KEY).await);
    }
    assert_eq!(receiver.heard().len(), 2, "one down, one up");
    assert!(!hanging.heard().is_empty(), "the one that hangs was called too, and delayed nobody");
}

#[tokio::test]
async fn no_alert_and_no_destination_leads_back_to_central() {
    let hosts = Hosts::central(SETTINGS).await;
    let admin = hosts.api().base();
    let back = json!({"endpoints": [{"name": "back", "url": format!("{admin}/api/v1/users")}]});
    let refused = hosts.api().refusal(Method::PUT, "/alerts", back).await.to_string();
    assert!(refused.contains("own listeners"), "loopback is allowed here, and yet: {refused}");
    let circle = json!({"name": "circle", "url": format!("tcp://{}", hosts.tunnel())});
    let refused = hosts.api().refusal(Method::POST, "/destinations", circle).await.to_string();
    assert!(refused.contains("own listeners"), "{refused}");
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
