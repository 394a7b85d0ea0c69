//! What `alerting` sends, taken by programs that others wrote: Prometheus' Alertmanager, Postfix, and the
//! reference library of Standard Webhooks.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::{fs, time::Duration};

use alerting::{
    AddressRules, Alert, Alerts, Courier, Delivery, IncidentId, Kind,
    outbox::{self, Outcome},
};
use postern_tests::servers::{Alertmanager, Postfix, Receiver};
use serde_json::json;
use time::OffsetDateTime;

const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const FOREIGN: &str = "whsec_c3BlY2lhbGx5IG1hZGUgZm9yIGEgc3RyYW5nZXI=";

#[tokio::test]
async fn the_reference_library_verifies_what_we_sign_with_either_key_while_one_is_changed() {
    for (keys, verifying, refusing) in [
        (json!(OLD), &[OLD][..], &[NEW, FOREIGN][..]),
        (json!([NEW, OLD]), &[NEW, OLD], &[FOREIGN]),
        (json!(NEW), &[NEW], &[OLD, FOREIGN]),
    ] {
        let receiver = Receiver::start().await;
        let alerts = checked(json!({"name": "a", "url": receiver.url(), "secret": keys}));
        for kind in [Kind::Down, Kind::Up] {
            assert_eq!(attempt(&alerts, kind).await, 204);
        }
        for webhook in receiver.heard() {
            assert!(webhook.text.contains("acme ü"), "more than ASCII is signed: {}", webhook.text);
            for key in verifying {
                assert!(webhook.is_signed_with(key).await, "{keys}: refused by {key}");
            }
            for key in refusing {
                assert!(!webhook.is_signed_with(key).await, "{keys}: taken by {key}");
            }
        }
    }
}

#[tokio::test]
async fn the_reference_library_notices_a_changed_body_a_changed_id_and_an_old_one() {
    let receiver = Receiver::start().await;
    let alerts = checked(json!({"name": "a", "url": receiver.url(), "secret": OLD}));
    assert_eq!(attempt(&alerts, Kind::Down).await, 204);
    let sent = receiver.heard().remove(0);
    assert!(sent.is_signed_with(OLD).await);

    let mut changed = sent.clone();
    changed.text = changed.text.replace("down", "fine");
    assert!(!changed.is_signed_with(OLD).await);
    for (header, value) in [("webhook-id", "msg_another"), ("webhook-timestamp", "1614265330")] {
        let mut changed = sent.clone();
        changed.headers.insert(header.to_owned(), value.to_owned());
        assert!(!changed.is_signed_with(OLD).await, "{header}");
    }
}

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
