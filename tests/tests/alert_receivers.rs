//! What `alerting` sends, taken by programs that others wrote: Prometheus' Alertmanager, and Postfix.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::{fs, time::Duration};

use alerting::{
    AddressRules, Alert, Alerts, Courier, Delivery, IncidentId, Kind,
    outbox::{self, Outcome},
};
use postern_tests::servers::{Alertmanager, Postfix};
use serde_json::json;
use time::OffsetDateTime;

const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn alertmanager_takes_a_down_for_firing_until_its_up() {
    let alertmanager = Alertmanager::start().await;
    let alerts = checked(json!({"name": "a", "preset": "alertmanager", "url": alertmanager.url()}));

    assert_eq!(attempt(&alerts, Kind::Down).await, 200);
    let firing = alertmanager.firing().await;
    assert_eq!(firing.len(), 1, "{firing:?}");
    assert_eq!(firing[0]["labels"]["alertname"], "SecureGatewayDown");
    assert_eq!(firing[0]["labels"]["environment"], "acme ü");
    assert_eq!(firing[0]["status"]["state"], "active");

    assert_eq!(attempt(&alerts, Kind::Up).await, 200);
    let firing = alertmanager.firing().await;
    assert!(firing.is_empty(), "{firing:?}");
}

#[tokio::test]
async fn a_mail_server_delivers_a_down_and_its_up_as_one_conversation() {
    let postfix = Postfix::start().await;
    let (user, password) = postfix.credentials();
    let alerts = checked(json!({
        "name": "a", "url": format!("smtp://{}", postfix.addr()), "ca": fs::read_to_string(postfix.ca()).unwrap(),
        "smtp_credentials": format!("{user}:{password}"),
        "from": "postern@example.test", "to": ["inbox@example.test"],
        "down": {"subject": "it is {{ event.kind }}"}, "up": {"subject": "it is {{ event.kind }}"}
    }));
    let mut mails = Vec::new();
    for (kind, subject) in [(Kind::Down, "it is down"), (Kind::Up, "it is up")] {
        assert_eq!(attempt(&alerts, kind).await, 250);
        mails.push(fs::read_to_string(postfix.delivered(subject, DELIVERED_WITHIN).await).unwrap());
    }
    let header = |mail: &str, name: &str| {
        let found = mail.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        found.unwrap_or_else(|| panic!("no {name} in {mail}"))
    };
    assert_eq!(header(&mails[1], "In-Reply-To: "), header(&mails[0], "Message-ID: "));
}

fn checked(endpoint: serde_json::Value) -> Alerts {
    let document =
        serde_json::from_value(json!({"endpoints": [endpoint]})).expect("it has the form of a document");
    let checked = Alerts::check(document, &Alerts::default(), &anywhere());
    checked.unwrap_or_else(|problems| panic!("{problems}"))
}

/// The status that the receiver answered with.
async fn attempt(alerts: &Alerts, kind: Kind) -> u16 {
    let now = OffsetDateTime::now_utc();
    let alert = Alert::sample(kind, IncidentId::new("ä-1"), "acme ü", now);
    let delivery: Delivery = outbox::plan(&alert, alerts.recipients(), |_| true, now).remove(0);
    let attempt = Courier::new(anywhere()).attempt(&alerts.endpoints()[0], &delivery.id, &alert, now).await;
    match attempt.outcome {
        Outcome::Answered { status, .. } => status,
        Outcome::Failed { why } => panic!("{why}"),
    }
}

fn anywhere() -> AddressRules {
    AddressRules::new(|_| true)
}
