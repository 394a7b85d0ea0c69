//! Against real receivers: good ones, bad ones and liars.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::{
    Alert, Alerts, Courier, DeliveryId, IncidentId, Kind,
    outbox::Attempt,
    receiver::{Authority, Manner, Receiver},
};

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 03:00 UTC);

#[tokio::test]
async fn an_alert_arrives_as_it_was_written_and_signed() {
    let mut receiver = Receiver::plain(Manner::status(204)).await;
    let url = format!("http://{}/hook", receiver.address);
    let attempt = send(json!({
        "name": "a", "url": url, "method": "PUT", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "headers": {"X-Team": "night", "Authorization": "Bearer {{ secret('token') }}"},
        "secrets": {"token": "canary"},
        "down": {"body": {"text": "{{ event.summary }}"}, "headers": {"X-Kind": "{{ event.kind }}"}}
    }))
    .await;
    assert!(matches!(attempt.outcome, Outcome::Answered { status: 204, .. }), "{attempt:?}");
    assert_eq!(attempt.remote, Some(receiver.address.to_string()));
    assert!(
        attempt.request.contains("Bearer ***") && !attempt.request.contains("canary"),
        "{}",
        attempt.request
    );

    let heard = receiver.heard().await;
    assert!(heard.head.starts_with("PUT /hook HTTP/1.1\r\n"), "{}", heard.head);
    assert_eq!(heard.header("authorization"), Some("Bearer canary"));
    assert_eq!(heard.header("x-team"), Some("night"));
    assert_eq!(heard.header("x-kind"), Some("down"));
    assert_eq!(heard.header("content-type"), Some("application/json"));
    assert_eq!(heard.header("webhook-id"), Some(id().as_str()));
    assert_eq!(heard.header("webhook-timestamp"), Some("1795230000"));
    assert!(heard.header("webhook-signature").unwrap().starts_with("v1,"));
    let body: Value = serde_json::from_slice(&heard.body).unwrap();
    assert_eq!(body, json!({"text": "This is a test: nothing has happened"}));
}

#[tokio::test]
async fn every_answer_is_taken_for_what_it_is() {
    for (manner, expected) in [
        (Manner::status(200), 200),
        (Manner::status(404), 404),
        (Manner::status(410), 410),
        (Manner::status(500), 500),
        (Manner::answer(400, "", &"why ".repeat(100)), 400),
    ] {
        let receiver = Receiver::plain(manner).await;
        let attempt = send(at(&receiver)).await;
        assert!(
            matches!(attempt.outcome, Outcome::Answered { status, .. } if status == expected),
            "{attempt:?}"
        );
    }
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_is_heard_in_seconds_and_as_a_date() {
    for (header, expected) in [
        ("Retry-After: 120\r\n", Some(120)),
        ("Retry-After: Sat, 21 Nov 2026 03:05:00 GMT\r\n", Some(300)),
        ("Retry-After: Sat, 21 Nov 2026 02:00:00 GMT\r\n", None),
        ("Retry-After: soon\r\n", None),
        ("Retry-After: -1\r\n", None),
        ("", None),
    ] {
        let receiver = Receiver::plain(Manner::answer(429, header, "")).await;
        let attempt = send(at(&receiver)).await;
        assert!(
            matches!(attempt.outcome, Outcome::Answered { retry_after_s, .. } if retry_after_s == expected),
            "{header}: {attempt:?}"
        );
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Receiver::plain(Manner::status(200)).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: http://{}/\r\n", target.address);
        let receiver = Receiver::plain(Manner::answer(status, &location, "")).await;
        let attempt = send(at(&receiver)).await;
        assert!(
            matches!(attempt.outcome, Outcome::Answered { status: given, .. } if given == status),
            "{attempt:?}"
        );
        assert!(attempt.outcome.to_string().contains("redirects are not followed"));
    }
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn no_answer_is_a_failure_with_a_reason_and_without_the_address() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = send(json!({"name": "a", "url": format!("http://{gone}/token-canary")})).await;
    let hung_up = send(at(&Receiver::plain(Manner::HangsUp).await)).await;
    let odd = send(at(&Receiver::plain(Manner::Answers("HTTP/0.9 what\r\n\r\n".into())).await)).await;
    for attempt in [refused, hung_up, odd] {
        let Outcome::Failed { why } = attempt.outcome else { panic!("{attempt:?}") };
        assert!(why.len() > 20 && !why.contains("canary"), "{why}");
    }
}

#[tokio::test]
async fn a_silent_receiver_is_given_up_in_time() {
    let mut receiver = Receiver::plain(Manner::FallsSilent(String::new())).await;
    let attempt = tokio::spawn(send(at(&receiver)));
    receiver.heard().await;
    // It has the request and says nothing: from here only time can pass.
    tokio::time::pause();
    let attempt = attempt.await.unwrap();
    assert!(
        matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("did not answer within 13s")),
        "{attempt:?}"
    );
}

#[tokio::test]
async fn an_answer_that_never_ends_counts_by_its_status() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"] {
        let receiver = Receiver::plain(Manner::NeverEnds(head.into())).await;
        let attempt = send(at(&receiver)).await;
        let Outcome::Answered { status: 200, excerpt, .. } = attempt.outcome else { panic!("{attempt:?}") };
        assert_eq!(excerpt.len(), ANSWER_MAX_BYTES);
    }
    let mut silent =
        Receiver::plain(Manner::FallsSilent("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nthank".into()))
            .await;
    let attempt = tokio::spawn(send(at(&silent)));
    silent.heard().await;
    let attempt = attempt.await.unwrap();
    assert!(
        matches!(&attempt.outcome, Outcome::Answered { status: 200, excerpt, .. } if excerpt == "thank"),
        "{attempt:?}"
    );
}

#[tokio::test]
async fn a_receiver_that_repeats_a_secret_does_not_get_it_into_the_log() {
    let receiver = Receiver::plain(Manner::Echoes).await;
    let mut given = at(&receiver);
    given["headers"] = json!({"Authorization": "Bearer canary-1", "X-Secret": "{{ secret('token') }}"});
    given["secrets"] = json!({"token": "canary-2"});
    let attempt = send(given).await;
    assert!(!format!("{attempt:?}").contains("canary"), "{attempt:?}");
    assert!(
        matches!(&attempt.outcome, Outcome::Answered { excerpt, .. } if excerpt.contains("***")),
        "{attempt:?}"
    );
}

#[tokio::test]
async fn tls_is_verified_against_the_given_authority_alone() {
    let (ours, others) = (Authority::new(), Authority::new());
    let receiver = Receiver::with_tls(Manner::status(200), ours.server()).await;
    let url = format!("https://{}/", receiver.address);
    let good = send(json!({"name": "a", "url": url, "ca": ours.ca})).await;
    assert!(matches!(good.outcome, Outcome::Answered { status: 200, .. }), "{good:?}");
    for ca in [json!(others.ca), Value::Null] {
        let bad = send(json!({"name": "a", "url": url, "ca": ca})).await;
        assert!(matches!(&bad.outcome, Outcome::Failed { why } if why.contains("certificate")), "{bad:?}");
    }
    let plain = Receiver::plain(Manner::status(200)).await;
    let broken =
        send(json!({"name": "a", "url": format!("https://{}/", plain.address), "ca": ours.ca})).await;
    assert!(matches!(broken.outcome, Outcome::Failed { .. }), "{broken:?}");
}

#[tokio::test]
async fn a_receiver_that_asks_who_calls_is_shown_the_client_certificate() {
    let authority = Authority::new();
    let receiver = Receiver::with_tls(Manner::status(200), authority.server_for_clients()).await;
    let mut given = json!({"name": "a", "url": format!("https://{}/", receiver.address), "ca": authority.ca});
    let nobody = send(given.clone()).await;
    assert!(matches!(nobody.outcome, Outcome::Failed { .. }), "{nobody:?}");
    given["client_certificate"] = json!(authority.client_certificate);
    given["client_key"] = json!(authority.client_key);
    let known = send(given).await;
    assert!(matches!(known.outcome, Outcome::Answered { status: 200, .. }), "{known:?}");
}

#[tokio::test]
async fn a_proxy_is_asked_for_the_receiver_by_name_and_sees_no_secret() {
    let authority = Authority::new();
    let mut receiver = Receiver::with_tls(Manner::status(200), authority.server()).await;
    let mut proxy = Receiver::plain(Manner::Tunnels(receiver.address)).await;
    let attempt = send(json!({
        "name": "a", "url": "https://receiver.test/canary", "ca": authority.ca,
        "proxy": format!("http://{}", proxy.address), "proxy_credentials": "user:password"
    }))
    .await;
    assert!(matches!(attempt.outcome, Outcome::Answered { status: 200, .. }), "{attempt:?}");
    let asked = proxy.heard().await;
    assert!(asked.head.starts_with("CONNECT receiver.test:443 "), "{}", asked.head);
    assert_eq!(asked.header("proxy-authorization"), Some("Basic dXNlcjpwYXNzd29yZA=="));
    assert!(!asked.head.contains("canary"));
    assert!(receiver.heard().await.head.starts_with("POST /canary "));
}

#[tokio::test]
async fn no_spelling_of_loopback_reaches_a_receiver_there_and_neither_does_a_proxy() {
    let receiver = Receiver::plain(Manner::status(200)).await;
    let port = receiver.address.port();
    let nothing_allowed = Courier::new(AddressRules::new(|_| false));
    let hosts = [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "0",
    ];
    for host in hosts {
        for scheme in ["http", "https"] {
            let given = json!({"name": "a", "url": format!("{scheme}://{host}:{port}/")});
            let attempt = attempt(&nothing_allowed, given).await;
            assert!(
                matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("allow_destinations")),
                "{attempt:?}"
            );
        }
        let given =
            json!({"name": "a", "url": "https://93.184.216.34/", "proxy": format!("http://{host}:{port}")});
        let attempt = attempt(&nothing_allowed, given).await;
        assert!(matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("proxy")), "{attempt:?}");
    }
    assert_eq!(receiver.connections(), 0);
}

fn at(receiver: &Receiver) -> Value {
    json!({"name": "a", "url": format!("http://{}/", receiver.address)})
}

fn id() -> DeliveryId {
    DeliveryId::of(&IncidentId::new("test"), Kind::Down, "a")
}

async fn send(given: Value) -> Attempt {
    let loopback = AddressRules::new(|address| address == IpAddr::from([127, 0, 0, 1]));
    attempt(&Courier::new(loopback), given).await
}

/// One attempt with an endpoint that was saved under an operator who allowed everything.
async fn attempt(courier: &Courier, given: Value) -> Attempt {
    let document = serde_json::from_value(json!({"endpoints": [given]})).unwrap();
    let alerts = Alerts::check(document, &Alerts::default(), &AddressRules::new(|_| true)).unwrap();
    let alert = Alert::sample(Kind::Down, IncidentId::new("test"), "acme", NOW);
    courier.attempt(&alerts.endpoints()[0], &id(), &alert, NOW).await
}
