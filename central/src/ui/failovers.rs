//! `/failovers`: every change of the active as a lane, attempts against their time, with its reason and cost.

use askama::Template;
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::{
    frame::{Frame, Section},
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone, clock, count, span},
};

/// Lanes shown.
const SHOWN: usize = 50;
/// How wide an attempt is drawn that took all of its time.
const LANE: u64 = 400;

#[derive(Template)]
#[template(path = "failovers.html")]
struct FailoversPage {
    frame: Frame,
    rows: Vec<Row>,
}

struct Row {
    id: u64,
    started: Moment,
    kind: Badge,
    way: String,
    reason: String,
    gap: String,
    cut: String,
    epoch: Option<String>,
    attempts: Vec<AttemptRow>,
    alerts: String,
    timeline: Vec<Line>,
}

struct AttemptRow {
    candidate: String,
    /// Of [`LANE`].
    width: u64,
    class: &'static str,
    words: String,
}

struct Line {
    /// Since the beginning: `+412 ms`.
    after: String,
    at: Moment,
    text: String,
    code: String,
}

/// One of `GET /failovers`
#[derive(Deserialize)]
struct Failover {
    id: u64,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
    planned: bool,
    from: Option<String>,
    to: Option<String>,
    reason: String,
    gap_ms: Option<u64>,
    epoch: Option<String>,
    streams_cut: Option<usize>,
    attempts: Vec<Attempt>,
    alerts: Vec<Told>,
    timeline: Vec<Happened>,
}

#[derive(Deserialize)]
struct Attempt {
    candidate: String,
    ms: Option<u64>,
    limit_ms: u64,
    outcome: String,
}

#[derive(Deserialize)]
struct Told {
    kind: String,
}

#[derive(Deserialize)]
struct Happened {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    code: String,
    text: String,
}

pub(super) async fn show(mut visitor: Visitor) -> Shown {
    let (frame, _) = Frame::new(&mut visitor, Section::Failovers, "Failovers").await?;
    let mut failovers: Vec<Failover> = visitor.api.get("/failovers").await?;
    failovers.truncate(SHOWN);
    let now = OffsetDateTime::now_utc();
    Ok(reply::page(&FailoversPage { rows: failovers.into_iter().map(|one| row(one, now)).collect(), frame }))
}

fn row(one: Failover, now: OffsetDateTime) -> Row {
    let kind = match (&one.ended_at, one.planned, &one.to) {
        (None, _, _) => Badge::new(Tone::Busy, "under way"),
        (Some(_), true, Some(_)) => Badge::new(Tone::Calm, "planned"),
        (Some(_), true, None) => Badge::new(Tone::Busy, "planned, did not come about"),
        // Nobody carried before, so nothing failed.
        (Some(_), false, Some(_)) if one.from.is_none() => Badge::new(Tone::Calm, "first active"),
        (Some(_), false, Some(_)) => Badge::new(Tone::Busy, "not planned"),
        (Some(_), false, None) => Badge::new(Tone::Bad, "ended without a tunnel"),
    };
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "nobody".to_owned());
    Row {
        kind,
        way: format!("{} → {}", name(&one.from), name(&one.to)),
        started: Moment::new(one.started_at, now),
        reason: one.reason,
        gap: match (one.gap_ms, one.ended_at) {
            (Some(0), _) => "no gap".to_owned(),
            (Some(ms), _) if ms < 10_000 => format!("{ms} ms"),
            (Some(ms), _) => span(Duration::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX))),
            (None, Some(_)) => "no new tunnel".to_owned(),
            (None, None) => format!("{} so far", span(now - one.started_at)),
        },
        cut: match one.streams_cut {
            Some(0) => "no stream was cut".to_owned(),
            Some(cut) => format!("{} cut", count(cut, "stream", "streams")),
            None => "streams not counted".to_owned(),
        },
        epoch: one.epoch,
        attempts: one.attempts.iter().map(|attempt| attempt_row(attempt, &one.started_at, now)).collect(),
        alerts: match one.alerts.as_slice() {
            [] => "nobody was told".to_owned(),
            told => {
                format!("told: {}", told.iter().map(|told| told.kind.as_str()).collect::<Vec<_>>().join(", "))
            }
        },
        timeline: one
            .timeline
            .into_iter()
            .map(|line| Line {
                after: after(line.at - one.started_at),
                at: Moment::new(line.at, now),
                text: line.text,
                code: line.code,
            })
            .collect(),
        id: one.id,
    }
}

fn attempt_row(attempt: &Attempt, started: &OffsetDateTime, now: OffsetDateTime) -> AttemptRow {
    let so_far = u64::try_from((now - *started).whole_milliseconds()).unwrap_or(0);
    let took = attempt.ms.unwrap_or_else(|| so_far.min(attempt.limit_ms));
    let (class, word) = match attempt.outcome.as_str() {
        "took_over" => ("good", "took over"),
        "under_way" => ("busy", "under way"),
        "not_connected" => ("bad", "was not connected"),
        _ => ("bad", "its time was up"),
    };
    let said = |ms: u64| Duration::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX));
    let took_words = if took < 10_000 { format!("{took} ms") } else { clock(said(took)) };
    AttemptRow {
        candidate: attempt.candidate.clone(),
        // A takeover of half a second still has to be seen on a lane of four minutes.
        width: (took.saturating_mul(LANE) / attempt.limit_ms.max(1)).clamp(4, LANE),
        class,
        words: format!("{word} after {took_words} of {}", clock(said(attempt.limit_ms))),
    }
}

fn after(since: Duration) -> String {
    let ms = since.whole_milliseconds();
    if ms < 10_000 { format!("+{} ms", ms.max(0)) } else { format!("+{}", span(since)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_takeover_is_still_seen_on_its_lane() {
        let now = OffsetDateTime::now_utc();
        let attempt = |ms, outcome: &str| Attempt {
            candidate: "gw-b".to_owned(),
            ms,
            limit_ms: 240_000,
            outcome: outcome.to_owned(),
        };
        let quick = attempt_row(&attempt(Some(412), "took_over"), &now, now);
        assert_eq!((quick.width, quick.words.as_str()), (4, "took over after 412 ms of 4:00"));
        let slow = attempt_row(&attempt(Some(240_000), "time_is_up"), &now, now);
        assert_eq!((slow.width, slow.words.as_str()), (LANE, "its time was up after 4:00 of 4:00"));
    }
}
