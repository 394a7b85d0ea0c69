//! `posternctl gateway drill` and `drills`: failover drills and their reports.

use std::time::Duration;

use proto::Name;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    client::{Client, read},
    failure::Failure,
    screen::{Screen, ago, or_dash},
};

/// How often a drill under way is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Deserialize)]
struct Begun {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct Report {
    id: u64,
    outcome: String,
    failures: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    began_at: OffsetDateTime,
    by: String,
    home: String,
    away: String,
    legs: Vec<Leg>,
    destinations: Vec<Tried>,
}

#[derive(Debug, Deserialize)]
struct Leg {
    from: String,
    to: String,
    took_ms: u64,
    gap_ms: u64,
    longest_open_ms: u64,
    opened: u64,
    failed_to_open: u64,
    streams: u64,
}

#[derive(Debug, Deserialize)]
struct Tried {
    name: String,
    before_ms: Option<u64>,
    through_ms: Option<u64>,
    reason: Option<String>,
}

/// Orders a drill and, unless `no_wait`, stays until its report is there. One that failed is a failure.
pub(crate) async fn begin(
    to: Option<Name>,
    no_wait: bool,
    client: &Client,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let answer = client.post("gateway/drill", json!({ "to": to })).await?;
    let Begun { id } = read(&answer)?;
    if no_wait {
        screen.talk(&format!("Drill {id} has begun. Its report: posternctl gateway drills"));
        return if screen.is_json() { Ok(screen.json(&answer)?) } else { Ok(()) };
    }
    screen.talk(&format!(
        "Drill {id} has begun: it switches, tries every destination, waits until the old active has drained, and \
         switches back. Interrupting this command does not stop it"
    ));
    let (shown, report) = loop {
        let all = client.get("gateway/drills").await?;
        let shown = all.as_array().into_iter().flatten().find(|report| report["id"] == json!(id)).cloned();
        let shown = shown.unwrap_or(Value::Null);
        let report: Report = read(&shown)?;
        if report.outcome != "under_way" {
            break (shown, report);
        }
        tokio::time::sleep(LOOK).await;
    };
    if screen.is_json() {
        screen.json(&shown)?;
    } else {
        details(&report, screen)?;
    }
    match report.outcome.as_str() {
        "passed" => Ok(()),
        _ => Err(Failure::Failed(format!("drill {id} {}: {}", report.outcome, report.failures.join("; ")))),
    }
}

pub(crate) async fn list(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let answer = client.get("gateway/drills").await?;
    if screen.is_json() {
        return Ok(screen.json(&answer)?);
    }
    let now = OffsetDateTime::now_utc();
    let reports: Vec<Report> = read(&answer)?;
    Ok(screen.rows(
        ["DRILL", "WHEN", "BY", "THROUGH", "OUTCOME", "GAP MS", "LONGEST OPEN MS", "WHY"],
        reports.iter().map(|report| {
            let worst = |of: fn(&Leg) -> u64| or_dash(report.legs.iter().map(of).max());
            [
                report.id.to_string(),
                ago(report.began_at, now),
                report.by.clone(),
                report.away.clone(),
                report.outcome.clone(),
                worst(|leg| leg.gap_ms),
                worst(|leg| leg.longest_open_ms),
                report.failures.join("; "),
            ]
        }),
        "No drill yet: posternctl gateway drill",
    )?)
}

fn details(report: &Report, screen: &mut Screen) -> Result<(), Failure> {
    let lines = [
        ("Drill", format!("{}, {}", report.id, report.outcome)),
        ("Through", format!("{} -> {} -> {}", report.home, report.away, report.home)),
    ];
    screen.properties(&lines)?;
    for leg in &report.legs {
        screen.line(&format!(
            "{} -> {}: {} ms, {} ms without a tunnel; of {} new connections {} failed, the longest waited {} ms; \
             {} streams finished on the old active",
            leg.from,
            leg.to,
            leg.took_ms,
            leg.gap_ms,
            leg.opened + leg.failed_to_open,
            leg.failed_to_open,
            leg.longest_open_ms,
            leg.streams,
        ))?;
    }
    let ms = |took: Option<u64>| or_dash(took.map(|ms| format!("{ms} ms")));
    let rows = report.destinations.iter().map(|tried| {
        [tried.name.clone(), ms(tried.before_ms), ms(tried.through_ms), or_dash(tried.reason.as_ref())]
    });
    Ok(screen.rows(
        ["DESTINATION", "BEFORE", "THROUGH THE OTHER", "REASON"],
        rows,
        "No destination is enabled.",
    )?)
}
