//! How long an alert takes from the decision to a receiver that is well, through the real programs.
//!
//! A round: one agent is killed, and after the shortest `gateway.connect_timeout` nobody is left to try: the down is
//! decided. The agent is started again: the up is decided. Central says when it decided each (`alert.at` of its
//! delivery); the receiver, on the same machine and so by the same clock, when it had heard the last byte. Between the
//! two lie a write to the disk, the dispatcher, a connection and a request.

use std::time::{Duration, Instant, SystemTime};

use postern_tests::servers::{Receiver, Webhook};
use postern_tests::{Hosts, wait_until};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::figure::{Figure, Statistic, Unit};

const NAME: &str = "alerts";
const SOON: Duration = Duration::from_secs(60);
const WANTED_MS: f64 = 1000.0;
/// Continues the table that the stage's configuration ends with.
const SETTINGS: &str = r#"
[gateway]
connect_timeout = "1s"
[alerts]
allow_destinations = ["127.0.0.0/8"]
"#;

/// From the decision to the receiver, for downs and for ups.
pub(crate) async fn measure(rounds: usize) -> Vec<Figure> {
    let receiver = Receiver::start().await;
    let mut hosts = Hosts::up(&["alpha"], SETTINGS).await;
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let endpoint = json!({"name": "only", "url": receiver.url(), "secret": key});
    hosts.api().put("/alerts", json!({"endpoints": [endpoint], "hold_down": "0s"})).await;

    let (mut downs, mut ups) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        hosts.kill("alpha");
        let down = heard(&receiver, 2 * round - 1).await;
        downs.push(after_decision(&hosts, &down).await);
        hosts.start("alpha");
        let up = heard(&receiver, 2 * round).await;
        ups.push(after_decision(&hosts, &up).await);
        eprintln!("alerts, {round}/{rounds}: down {:.1} ms, up {:.1} ms", downs[round - 1], ups[round - 1]);
    }
    [("down", downs), ("up", ups)]
        .map(|(kind, taken)| {
            let title = format!("decision to the last byte at the receiver, {kind}");
            Figure::of(NAME, title, Unit::Milliseconds, taken)
                .wanted(Statistic::Median, WANTED_MS)
                .wanted(Statistic::Max, WANTED_MS)
        })
        .into()
}

async fn heard(receiver: &Receiver, many: usize) -> Webhook {
    wait_until(&format!("{many} alerts arrive"), SOON, async || receiver.heard().into_iter().nth(many - 1))
        .await
}

/// Milliseconds.
async fn after_decision(hosts: &Hosts, webhook: &Webhook) -> f64 {
    let heard_at = SystemTime::now() - (Instant::now() - webhook.at);
    let deliveries = hosts.api().get("/alerts/deliveries").await;
    let all = deliveries.as_array().expect("deliveries are a list");
    let delivery = all.iter().find(|one| one["id"] == webhook.id.as_str()).expect("what was heard is listed");
    let decided_at = delivery["alert"]["at"].as_str().expect("an alert has a time");
    let decided_at = OffsetDateTime::parse(decided_at, &Rfc3339).expect("in RFC 3339");
    (OffsetDateTime::from(heard_at) - decided_at).as_seconds_f64() * 1e3
}
