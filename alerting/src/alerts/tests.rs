//! What is refused, where it says so, and how secrets stay.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::*;
use crate::Kind;

#[test]
fn what_is_wrong_is_named_with_its_endpoint_and_field() {
    let long = "x".repeat(70_000);
    for (given, field, why) in [
        (json!({"name": ""}), "name", "letters"),
        (json!({"name": "a\r\nb"}), "name", "letters"),
        (json!({"url": null}), "url", "give the receiver's address"),
        (json!({"url": "ftp://example.com/"}), "url", "use"),
        (json!({"url": "https://user:pass@example.com/"}), "url", "secrets"),
        (json!({"url": "https://{{ environment }}.example.com/"}), "url", ""),
        (json!({"url": "https://example.com{{ environment }}/"}), "url", "must not depend"),
        (json!({"url": "https://127.0.0.1/"}), "url", "loopback"),
        (json!({"url": "http://93.184.216.34/"}), "url", "without TLS"),
        (json!({"up": {"url": "https://10.0.0.1/"}}), "up.url", "private"),
        (json!({"url": format!("https://example.com/{long}")}), "url", "longer"),
        (json!({"method": "TRACE"}), "method", "POST"),
        (json!({"headers": {"Host": "x"}}), "headers.Host", "set by the connection"),
        (json!({"headers": {"Content-Length": "0"}}), "headers.Content-Length", "connection"),
        (json!({"headers": {"webhook-id": "x"}}), "headers.webhook-id", "signs"),
        (json!({"headers": {"a b": "x"}}), "headers.a b", "no header name"),
        (json!({"headers": {"X-A": "1", "x-a": "2"}}), "headers.x-a", "twice"),
        (json!({"headers": {"X-A": "a\r\nX-B: c"}}), "headers.x-a", "line end"),
        (json!({"headers": {"X-A": "a\u{0}"}}), "headers.x-a", "control"),
        (json!({"headers": {"X-A": "{{ nobody }}"}}), "headers.x-a", "nobody"),
        (json!({"headers": {"X-A": long}}), "headers.X-A", "longer"),
        (json!({"up": {"headers": {"X-A": "{{ nobody }}"}}}), "up.headers.x-a", "nobody"),
        (json!({"up": {"url": "https://user@example.com/"}}), "up.url", "secrets"),
        (json!({"down": {"body": "{\"a\": {{ event.summary }"}}), "down.body", "line 1"),
        (json!({"down": {"body": "{\"a\": {{ event.summary }}"}}), "down.body", "no JSON"),
        (json!({"down": {"body": {"a": "{{ event.sumary }}"}}}), "down.body", "sumary"),
        (json!({"up": {"body": "{% set x = 1 %}"}}), "up.body", "not offered"),
        (json!({"up": {"body": long}}), "up.body", "longer"),
        (json!({"other": {"body": "{{ nobody }}"}}), "other.body", "nobody"),
        (json!({"other": {"body": "{{ details.from }}"}, "also": ["failover"]}), "other.body", "from"),
        (json!({"secret": "topsecret"}), "secret", "whsec_"),
        (json!({"secret": ["whsec_AAAA", "whsec_AAAA", "whsec_AAAA"]}), "secret", "two keys at most"),
        (json!({"secrets": {"a b": "x"}}), "secrets", "name"),
        (json!({"secrets": {"a": ""}}), "secrets.a", "1 to"),
        (json!({"secrets": {"a": "***"}}), "secrets.a", "none is stored"),
        (json!({"preset": "pagerduty", "url": null}), "down.body", "routing_key"),
        (json!({"preset": "mail"}), "url", "smtp"),
        (json!({"from": "a@b"}), "from", "smtp"),
        (json!({"ca": "nothing"}), "ca", "PEM"),
        (json!({"client_certificate": "nothing"}), "client_key", "together"),
        (json!({"proxy": "https://proxy.example/"}), "proxy", "http"),
        (
            json!({"proxy": "http://proxy.example/", "proxy_credentials": "nobody"}),
            "proxy_credentials",
            "user:password",
        ),
    ] {
        let problems =
            check(json!({"endpoints": [endpoint(given.clone())]}), &Alerts::default()).unwrap_err();
        let text = problems.to_string();
        assert!(problems.0.iter().any(|p| p.field == field && p.why.contains(why)), "{field} {why}: {text}");
        assert!(text.len() < 3000, "a refusal repeats no book: {}", text.len());
    }
}

#[test]
fn names_are_unique_and_endpoints_few() {
    let twice = json!({"endpoints": [endpoint(json!({})), endpoint(json!({}))]});
    assert!(
        check(twice, &Alerts::default()).unwrap_err().to_string().contains("another endpoint has this name")
    );
    let many: Vec<_> = (0..17).map(|i| endpoint(json!({"name": i.to_string()}))).collect();
    assert!(
        check(json!({"endpoints": many}), &Alerts::default()).unwrap_err().to_string().contains("16 at most")
    );
}

#[test]
fn mail_settings_are_checked_too() {
    for (given, field) in [
        (json!({"url": "smtp://mail.example.com/inbox"}), "url"),
        (json!({"url": "smtp://mail.example.com?tls=maybe"}), "url"),
        (json!({"from": null}), "from"),
        (json!({"from": "Night Shift <a@b>"}), "from"),
        (json!({"from": "a@b\r\nBcc: c@d"}), "from"),
        (json!({"to": []}), "to"),
        (json!({"to": ["a@b", "c@d> NOTIFY=NEVER"]}), "to"),
        (json!({"url": "smtp://10.0.0.1?tls=none", "smtp_credentials": "a:b"}), "smtp_credentials"),
        (json!({"smtp_credentials": "nobody"}), "smtp_credentials"),
        (json!({"url": "smtps://127.0.0.1"}), "url"),
        (json!({"down": {"subject": "{{ nobody }}"}}), "down.subject"),
        (json!({"preset": "slack"}), "preset"),
    ] {
        let mut mail = json!({"name": "a", "url": "smtps://mail.example.com", "from": "a@b.example", "to": ["c@d.example"]});
        mail.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        let problems = check(json!({"endpoints": [mail]}), &Alerts::default()).unwrap_err();
        assert!(problems.0.iter().any(|p| p.field == field), "{field}: {problems}");
    }
}

#[test]
fn a_secret_stays_while_the_endpoint_calls_the_same_places() {
    let secrets = json!({"secret": [KEYS[0]], "secrets": {"token": "canary"}, "headers": {"Authorization": "canary-2"}});
    let before = check(json!({"endpoints": [endpoint(secrets)]}), &Alerts::default()).unwrap();
    let shown = serde_json::to_value(before.document()).unwrap();
    let same = check(shown.clone(), &before).unwrap();
    assert_eq!(same.stored().secrets, before.stored().secrets);

    let change = |path: &str, value: Value| {
        let mut changed = shown.clone();
        *changed.pointer_mut(&format!("/endpoints/0{path}")).unwrap() = value;
        check(changed, &before)
    };
    assert!(change("/url", json!("https://example.com/elsewhere")).is_ok());
    for (path, value) in [
        ("/url", json!("https://evil.example/")),
        ("/url", json!("https://example.com:8443/")),
        ("/name", json!("b")),
    ] {
        let problems = change(path, value).unwrap_err();
        assert_eq!(problems.0.len(), 3, "{problems}");
    }
    let mut with_proxy = shown.clone();
    with_proxy["endpoints"][0]["proxy"] = json!("http://proxy.example:3128");
    assert!(check(with_proxy, &before).is_err());
    let mut with_up = shown.clone();
    with_up["endpoints"][0]["up"] = json!({"url": "https://evil.example/"});
    assert!(check(with_up, &before).is_err());
}

#[test]
fn a_signing_key_is_changed_in_two_steps() {
    let old =
        check(json!({"endpoints": [endpoint(json!({"secret": KEYS[0]}))]}), &Alerts::default()).unwrap();
    let both = check(json!({"endpoints": [endpoint(json!({"secret": [KEYS[1], "***"]}))]}), &old).unwrap();
    assert_eq!(both.stored().secrets.into_values().collect::<Vec<_>>(), [KEYS[1], KEYS[0]]);
    let new = check(json!({"endpoints": [endpoint(json!({"secret": "***"}))]}), &both).unwrap();
    assert_eq!(new.stored().secrets.into_values().collect::<Vec<_>>(), [KEYS[1]]);
}

#[test]
fn after_a_restart_it_is_as_it_was_even_if_the_operator_grew_stricter() {
    let rules = AddressRules::new(|_| true);
    let document = serde_json::from_value(
        json!({"hold_down": "1s", "endpoints": [endpoint(json!({"url": "http://10.0.0.1/", "secret": KEYS[0]}))]}),
    );
    let before = Alerts::check(document.unwrap(), &Alerts::default(), &rules).unwrap();
    let stored = serde_json::to_string(&before.stored()).unwrap();
    let after = Alerts::from_stored(serde_json::from_str(&stored).unwrap()).unwrap();
    assert_eq!(after.stored().secrets, before.stored().secrets);
    assert_eq!(after.hold_down(), Duration::from_secs(1));
    assert_eq!(after.recipients().count(), 1);
}

#[test]
fn an_endpoint_that_was_switched_off_is_told_nothing_until_it_is_saved_again() {
    let alerts = check(json!({"endpoints": [endpoint(json!({}))]}), &Alerts::default()).unwrap();
    let disabled = alerts.disable("a", "the receiver answered 410, Gone");
    assert_eq!(disabled.recipients().count(), 0);
    let mut shown = serde_json::to_value(disabled.document()).unwrap();
    assert_eq!(shown["endpoints"][0]["disabled_because"], "the receiver answered 410, Gone");
    assert_eq!(Alerts::from_stored(disabled.stored()).unwrap().recipients().count(), 0);
    let untouched = check(shown.clone(), &disabled).unwrap();
    assert!(untouched.document().endpoints[0].disabled_because.is_some());
    shown["endpoints"][0]["enabled"] = json!(true);
    let again = check(shown, &disabled).unwrap();
    assert_eq!(again.recipients().count(), 1);
    assert_eq!(again.document().endpoints[0].disabled_because, None);
}

#[test]
fn a_preview_shows_the_request_and_no_secret() {
    let given = json!({"preset": "pagerduty", "url": null, "secrets": {"routing_key": "canary"}, "headers": {"Authorization": "canary"}});
    let alerts = check(json!({"endpoints": [endpoint(given)]}), &Alerts::default()).unwrap();
    let preview = alerts.endpoints()[0].preview(Kind::Up, "acme", OffsetDateTime::UNIX_EPOCH).unwrap();
    assert!(preview.starts_with("POST https://events.pagerduty.com/v2/enqueue\n"), "{preview}");
    assert!(preview.contains(r#""event_action":"resolve""#) && !preview.contains("canary"), "{preview}");
}

#[test]
fn the_simplest_endpoint_is_a_name_and_an_address() {
    let alerts =
        check(json!({"endpoints": [{"name": "a", "url": "https://example.com/"}]}), &Alerts::default())
            .unwrap();
    assert_eq!(alerts.hold_down(), Duration::from_secs(10));
    let plain = check(
        json!({"endpoints": [endpoint(json!({"down": {"body": "It is down: {{ event.summary }}"}}))]}),
        &alerts,
    )
    .unwrap();
    let preview = plain.endpoints()[0].preview(Kind::Down, "acme", OffsetDateTime::UNIX_EPOCH).unwrap();
    assert!(
        preview.contains("text/plain")
            && preview.ends_with("It is down: This is a test: nothing has happened"),
        "{preview}"
    );
}

#[test]
fn the_example_in_the_documentation_passes_as_it_stands() {
    let text = include_str!("../../../docs/alerts.md").replace("whsec_…", KEYS[0]);
    let example = text.split("```json").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let alerts = check(serde_json::from_str(example).unwrap(), &Alerts::default());
    assert_eq!(alerts.unwrap_or_else(|problems| panic!("{problems}")).endpoints().len(), 4);
}

const KEYS: [&str; 2] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];

/// A good endpoint with some fields changed.
fn endpoint(changed: Value) -> Value {
    let mut endpoint = json!({"name": "a", "url": "https://example.com/hook"});
    endpoint.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    endpoint
}

fn check(given: Value, before: &Alerts) -> Result<Alerts, Problems> {
    Alerts::check(serde_json::from_value(given).unwrap(), before, &AddressRules::new(|_| false))
}
