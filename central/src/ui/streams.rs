//! `/streams`: who is in the tunnel now, and who was lately.

use askama::Template;
use axum::extract::Path;
use axum::http::Method;
use serde::Deserialize;
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{
    answers::Step,
    frame::{Frame, Section},
    hops::StepShown,
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone, bytes, span},
};
use crate::admin::Role::Operator;

/// Open streams shown; the oldest come first, which are those one looks for.
const SHOWN: usize = 200;

#[derive(Template)]
#[template(path = "streams.html")]
struct StreamsPage {
    frame: Frame,
    open: Vec<OpenRow>,
    more: usize,
    closed: Vec<ClosedRow>,
    may_end: String,
}

struct OpenRow {
    id: String,
    destination: String,
    client: String,
    via: String,
    since: Moment,
    to_site: String,
    to_client: String,
    idle: String,
    draining: bool,
}

struct ClosedRow {
    number: u64,
    trace_id: String,
    /// What sent it away, where something did.
    rule: Option<String>,
    steps: Vec<StepShown>,
    destination: String,
    client: String,
    ended: Moment,
    lasted: String,
    bytes: String,
    outcome: Badge,
    reason: String,
    /// Where its time went before the first byte.
    split: String,
}

/// One of `GET /streams`
#[derive(Deserialize)]
struct Open {
    id: String,
    destination: String,
    client: String,
    via: String,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    bytes_to_site: u64,
    bytes_to_client: u64,
    idle_ms: u64,
    draining: bool,
}

/// One of `GET /streams/closed`
#[derive(Deserialize)]
struct Closed {
    destination: String,
    client: String,
    via: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    ended_at: OffsetDateTime,
    duration_ms: u64,
    bytes_to_site: u64,
    bytes_to_client: u64,
    outcome: String,
    reason: String,
    parked_ms: u64,
    dial_ms: Option<u64>,
    first_byte_ms: Option<u64>,
    number: u64,
    trace_id: String,
    rule: Option<String>,
    steps: Vec<Step>,
}

pub(super) async fn show(mut visitor: Visitor) -> Shown {
    let (frame, _) = Frame::new(&mut visitor, Section::Streams, "Live streams").await?;
    let mut open: Vec<Open> = visitor.api.all("/streams").await?;
    let closed: Vec<Closed> = visitor.api.get(&format!("/streams/closed?limit={SHOWN}")).await?;
    let now = OffsetDateTime::now_utc();
    let more = open.len().saturating_sub(SHOWN);
    open.truncate(SHOWN);
    Ok(reply::page(&StreamsPage {
        open: open.into_iter().map(|stream| open_row(stream, now)).collect(),
        more,
        closed: closed.into_iter().map(|stream| closed_row(stream, now)).collect(),
        may_end: visitor.lacks(Operator),
        frame,
    }))
}

fn open_row(stream: Open, now: OffsetDateTime) -> OpenRow {
    OpenRow {
        since: Moment::new(stream.since, now),
        to_site: bytes(stream.bytes_to_site),
        to_client: bytes(stream.bytes_to_client),
        idle: match stream.idle_ms {
            ..2000 => "flowing".to_owned(),
            idle => format!("silent for {}", length(idle)),
        },
        id: stream.id,
        destination: stream.destination,
        client: stream.client,
        via: stream.via,
        draining: stream.draining,
    }
}

fn closed_row(stream: Closed, now: OffsetDateTime) -> ClosedRow {
    let outcome = match stream.outcome.as_str() {
        "finished" => Badge::new(Tone::Good, "finished"),
        "refused" => Badge::new(Tone::Bad, "refused"),
        _ => Badge::new(Tone::Busy, "broken off"),
    };
    let mut split = vec![format!("parked {} ms", stream.parked_ms)];
    split.extend(stream.dial_ms.map(|ms| format!("dialled {ms} ms")));
    split.extend(stream.first_byte_ms.map(|ms| format!("first byte {ms} ms")));
    split.extend(stream.via.map(|via| format!("via {via}")));
    ClosedRow {
        number: stream.number,
        trace_id: stream.trace_id,
        rule: stream.rule,
        steps: stream.steps.iter().map(StepShown::from).collect(),
        ended: Moment::new(stream.ended_at, now),
        lasted: length(stream.duration_ms),
        bytes: format!("{} in, {} out", bytes(stream.bytes_to_site), bytes(stream.bytes_to_client)),
        split: split.join(", "),
        destination: stream.destination,
        client: stream.client,
        reason: stream.reason,
        outcome,
    }
}

/// Milliseconds as people say them.
fn length(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms} ms");
    }
    span(Duration::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX)))
}

pub(super) async fn end(visitor: Visitor, Path(id): Path<String>) -> Shown {
    let path =
        format!("/streams/{}/end", url::form_urlencoded::byte_serialize(id.as_bytes()).collect::<String>());
    Ok(match visitor.api.send(Method::POST, &path, json!({})).await {
        Ok(_) => reply::done("/streams", "The stream was ended; both of its ends were told with a reset."),
        Err(refused) => reply::not_done("/streams", &refused),
    })
}
