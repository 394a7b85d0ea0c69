//! `posternctl explain` of one connection: how far it came, what decided that, and where its time went.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    args::Explain,
    client::{Client, read},
    failure::Failure,
    history,
    screen::{Screen, or_dash, plain},
};

/// A connection that has ended, as far as the story goes.
#[derive(Debug, Deserialize)]
struct Closed {
    trace_id: String,
    destination: String,
    client: String,
    via: Option<String>,
    since: String,
    outcome: String,
    reason: String,
    rule: Option<String>,
    duration_ms: u64,
    bytes_to_site: u64,
    bytes_to_client: u64,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    hop: String,
    verdict: String,
    ms: Option<u64>,
    detail: String,
    action: Option<String>,
}

/// A failover by its number or the newest; else the newest connection that is meant.
pub(crate) async fn explain(wanted: Explain, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let by_name = wanted.destination.is_some() || wanted.client.is_some();
    match wanted.what.as_deref().map(str::parse::<u64>) {
        None if !by_name => return history::explain(None, client, screen).await,
        Some(Ok(number)) => return history::explain(Some(number), client, screen).await,
        None | Some(Err(_)) => {}
    }
    let ended = client.get("streams/closed").await?;
    if let Some(found) = newest(&ended, &wanted) {
        if screen.is_json() {
            return Ok(screen.json(found)?);
        }
        let closed: Closed = read(found)?;
        for line in story(&closed) {
            screen.line(&plain(&line))?;
        }
        let rows = closed.steps.iter().map(|step| {
            let hop = step.hop.replace('_', "-");
            [step.verdict.to_uppercase(), hop, or_dash(step.ms), step.detail.clone()]
        });
        screen.rows(["RESULT", "HOP", "MS", "DETAILS"], rows, "")?;
        for action in closed.steps.iter().filter_map(|step| step.action.as_ref()) {
            screen.talk(&format!("Next: {action}"));
        }
        return Ok(());
    }
    let open = client.get("streams").await?;
    let Some(found) = newest(&open, &wanted) else {
        return Err(Failure::Failed(
            "no such connection is open, or among the last that ended: see posternctl streams closed".into(),
        ));
    };
    if screen.is_json() {
        return Ok(screen.json(found)?);
    }
    let word = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    let ms = |name: &str| found[name].as_u64().unwrap_or_default();
    screen.line(&plain(&format!(
        "The connection of {} to {} is open through {} since {}, and was last heard {} ms ago ({} bytes to the site, {} back). Trace id: {}",
        word("client"),
        word("destination"),
        word("via"),
        word("since"),
        ms("idle_ms"),
        ms("bytes_to_site"),
        ms("bytes_to_client"),
        word("trace_id"),
    )))?;
    Ok(())
}

/// The first that is meant: lists of what ended begin with the newest.
fn newest<'a>(all: &'a Value, wanted: &Explain) -> Option<&'a Value> {
    let is = |one: &Value, field: &str, text: &str| one[field].as_str() == Some(text);
    all.as_array()?.iter().find(|one| {
        let named =
            wanted.what.as_deref().is_none_or(|what| is(one, "id", what) || is(one, "trace_id", what));
        let there = wanted.destination.as_ref().is_none_or(|name| is(one, "destination", name.as_str()));
        let from = wanted.client.as_deref().is_none_or(|client| {
            let whole = one["client"].as_str().unwrap_or_default();
            let host = whole.rsplit_once(':').map_or(whole, |(host, _)| host).trim_matches(['[', ']']);
            client == whole || client.trim_matches(['[', ']']) == host
        });
        named && there && from
    })
}

fn story(closed: &Closed) -> Vec<String> {
    let via = closed.via.as_ref().map_or_else(String::new, |via| format!(" through {via}"));
    let mut lines = vec![format!(
        "The connection of {} to {}{via}, {}: {}.",
        closed.client, closed.destination, closed.since, closed.outcome
    )];
    lines.push(format!("Why: {}", closed.reason));
    if let Some(rule) = &closed.rule {
        lines.push(format!("Decided by: {rule}"));
    }
    lines.push(format!("Where its {} ms went: {}", closed.duration_ms, spent(closed)));
    lines.push(format!(
        "Carried: {} bytes to the site, {} back",
        closed.bytes_to_site, closed.bytes_to_client
    ));
    lines.push(format!("Trace id, in the logs of central and of the agent: {}", closed.trace_id));
    lines
}

/// What was spent before the first byte, the largest part first, and the rest.
fn spent(closed: &Closed) -> String {
    let mut parts: Vec<(u64, String)> = closed
        .steps
        .iter()
        .filter_map(|step| Some((step.ms.filter(|ms| *ms > 0)?, step.hop.replace('_', "-"))))
        .collect();
    let before: u64 = parts.iter().map(|(ms, _)| ms).sum();
    parts.sort_by_key(|(ms, _)| std::cmp::Reverse(*ms));
    let mut words: Vec<String> = parts.into_iter().map(|(ms, hop)| format!("{ms} {hop}")).collect();
    match closed.duration_ms.checked_sub(before).filter(|rest| *rest > 0) {
        Some(rest) => words.push(format!("{rest} in use")),
        None if words.is_empty() => words.push("none that was worth measuring".to_owned()),
        None => {}
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refused_connection_names_its_rule_and_where_its_time_went() {
        let story = story(&read(&refused("192.0.2.7:5000")).unwrap());
        assert!(story[0].ends_with(": refused."), "{story:?}");
        assert_eq!(story[2], "Decided by: gateway.park_timeout");
        assert_eq!(story[3], "Where its 30012 ms went: 30000 tunnel, 12 in use");
    }

    #[test]
    fn the_newest_that_is_meant_is_found_by_id_trace_destination_or_client() {
        let all = json!([refused("192.0.2.7:5000"), refused("[2001:db8::1]:6000")]);
        let wanted = |what: Option<&str>, client: Option<&str>| Explain {
            what: what.map(str::to_owned),
            destination: Some("db".parse().unwrap()),
            client: client.map(str::to_owned),
        };
        let found = |wanted: Explain| newest(&all, &wanted).map(|one| one["client"].clone());
        assert_eq!(found(wanted(None, None)), Some(json!("192.0.2.7:5000")));
        assert_eq!(found(wanted(None, Some("2001:db8::1"))), Some(json!("[2001:db8::1]:6000")));
        assert_eq!(found(wanted(None, Some("[2001:db8::1]:6000"))), Some(json!("[2001:db8::1]:6000")));
        assert_eq!(found(wanted(Some("00ff"), None)), Some(json!("192.0.2.7:5000")));
        assert_eq!(found(wanted(Some("2.17.1"), None)), None);
    }

    fn refused(client: &str) -> Value {
        json!({
            "id": null, "trace_id": "00ff", "destination": "db", "client": client, "via": null,
            "since": "2026-11-21T14:02:00Z", "outcome": "refused", "reason": "no tunnel came up within 30s",
            "rule": "gateway.park_timeout", "duration_ms": 30_012, "bytes_to_site": 0, "bytes_to_client": 0,
            "steps": [
                {"hop": "listener", "verdict": "pass", "ms": null, "detail": "", "action": null},
                {"hop": "tunnel", "verdict": "fail", "ms": 30_000, "detail": "", "action": "bring it up"},
            ],
        })
    }
}
