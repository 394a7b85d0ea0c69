//! `posternctl gateway history`, and `posternctl explain` of a failover: what happened when the tunnel was lost or moved.

use serde::Deserialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    client::{Client, read},
    failure::Failure,
    screen::{Screen, ago, or_dash, plain},
};

#[derive(Debug, Deserialize)]
struct Failover {
    id: u64,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
    planned: bool,
    from: Option<String>,
    to: Option<String>,
    reason: String,
    gap_ms: Option<u64>,
    streams_cut: u64,
    attempts: Vec<Attempt>,
    alerts: Vec<Alert>,
    timeline: Vec<Moment>,
}

#[derive(Debug, Deserialize)]
struct Attempt {
    candidate: String,
    #[serde(with = "time::serde::rfc3339")]
    began_at: OffsetDateTime,
    ms: Option<u64>,
    limit_ms: u64,
    outcome: String,
}

#[derive(Debug, Deserialize)]
struct Alert {
    kind: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

#[derive(Debug, Deserialize)]
struct Moment {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    text: String,
}

/// All that central keeps, newest first.
pub(crate) async fn list(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let answer = client.get("failovers").await?;
    if screen.is_json() {
        return Ok(screen.json(&answer)?);
    }
    let now = OffsetDateTime::now_utc();
    let rows = read::<Vec<Failover>>(&answer)?.into_iter().map(|one| {
        [
            one.id.to_string(),
            ago(one.started_at, now),
            if one.planned { "planned" } else { "lost" }.to_owned(),
            or_dash(one.from.as_ref()),
            if one.ended_at.is_none() { "(lasts)".to_owned() } else { or_dash(one.to.as_ref()) },
            or_dash(one.gap_ms),
            one.streams_cut.to_string(),
            one.reason,
        ]
    });
    let headings = ["ID", "WHEN", "KIND", "FROM", "TO", "GAP MS", "CUT", "REASON"];
    Ok(screen.rows(headings, rows, "The tunnel was never lost or moved.")?)
}

/// One of them, or the newest, as a story.
pub(crate) async fn explain(id: Option<u64>, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let answer = match id {
        Some(id) => client.get(&format!("failovers/{id}")).await?,
        None => match client.get("failovers?limit=1").await? {
            Value::Array(mut all) if !all.is_empty() => all.remove(0),
            _ => {
                return Err(Failure::Failed(
                    "the tunnel was never lost or moved: there is nothing to explain".into(),
                ));
            }
        },
    };
    if screen.is_json() {
        return Ok(screen.json(&answer)?);
    }
    for line in story(&read(&answer)?) {
        screen.line(&plain(&line))?;
    }
    Ok(())
}

fn story(told: &Failover) -> Vec<String> {
    let end = match (&told.ended_at, &told.to) {
        (None, _) => "It lasts.".to_owned(),
        (Some(_), None) => "It came to nothing.".to_owned(),
        (Some(_), Some(to)) if Some(to) == told.from.as_ref() => format!("{to} came back."),
        (Some(_), Some(to)) => format!("{to} carries the tunnel since."),
    };
    let what = match (&told.from, told.planned) {
        (None, _) => "the gateway's beginning".to_owned(),
        (Some(from), true) => format!("a planned move of the tunnel of {from}"),
        (Some(from), false) => format!("a loss of the tunnel of {from}"),
    };
    let mut lines = vec![
        format!(
            "Failover {}: {what}, {}. {end}",
            told.id,
            told.started_at.format(&Rfc3339).unwrap_or_default()
        ),
        format!("Why: {}", told.reason),
    ];
    if let Some(gap) = told.gap_ms {
        lines.push(format!("Without a tunnel: {gap} ms. Streams that were reset: {}.", told.streams_cut));
    }
    for attempt in &told.attempts {
        let took = attempt
            .ms
            .map_or_else(|| "so far".to_owned(), |ms| format!("{ms} ms of {} ms", attempt.limit_ms));
        let outcome = attempt.outcome.replace('_', " ");
        lines.push(format!("  {} {}: {outcome}, {took}", after(told, attempt.began_at), attempt.candidate));
    }
    let alerts = told.alerts.iter().map(|alert| (alert.at, format!("alert: {}", alert.kind)));
    let mut moments: Vec<_> =
        told.timeline.iter().map(|one| (one.at, one.text.clone())).chain(alerts).collect();
    moments.sort_by_key(|(at, _)| *at);
    lines.extend(moments.into_iter().map(|(at, text)| format!("  {} {text}", after(told, at))));
    lines
}

/// `+   412 ms`
fn after(told: &Failover, at: OffsetDateTime) -> String {
    format!("+{:>6} ms ", (at - told.started_at).whole_milliseconds().max(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failover_is_told_from_its_beginning() {
        let told = json!({
            "id": 3, "started_at": "2026-01-02T03:04:05Z", "ended_at": "2026-01-02T03:04:05.412Z", "planned": false,
            "from": "gw-a", "to": "gw-b", "reason": "the tunnel of gw-a was lost", "gap_ms": 412, "streams_cut": 2,
            "epoch": "2.18",
            "attempts": [{"candidate": "gw-b", "began_at": "2026-01-02T03:04:05.1Z", "ms": 312, "limit_ms": 240_000, "outcome": "took_over"}],
            "alerts": [{"kind": "failover", "at": "2026-01-02T03:04:05.413Z"}],
            "timeline": [{"at": "2026-01-02T03:04:05Z", "code": "tunnel_lost", "text": "it was lost"}],
        });
        let story = story(&serde_json::from_value(told).unwrap());
        assert!(
            story[0].contains("Failover 3: a loss of the tunnel of gw-a")
                && story[0].ends_with("gw-b carries the tunnel since.")
        );
        assert_eq!(story[3], "  +   100 ms  gw-b: took over, 312 ms of 240000 ms");
        assert_eq!(story.last().unwrap(), "  +   413 ms  alert: failover");
    }
}
