//! `/events`: the Operator Messages, newest first.

use askama::Template;
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    answers::{Event, Severity},
    frame::{Frame, Section},
    query::Query,
    reply,
    visitor::{Shown, Visitor},
    words::{Moment, Tone},
};

/// Messages on one page.
const PAGE: u64 = 100;

/// One message, as the overview and this page show it.
pub(super) struct EventRow {
    pub(super) seq: u64,
    pub(super) at: Moment,
    pub(super) tone: Tone,
    pub(super) severity: &'static str,
    pub(super) code: String,
    pub(super) text: String,
    pub(super) sender: String,
    /// Whether the sender is a Process Server, which has a page.
    pub(super) sender_page: Option<String>,
}

impl EventRow {
    pub(super) fn new(event: Event, now: OffsetDateTime) -> Self {
        let Event { seq, at, code, severity, text, sender } = event;
        let (tone, severity) = match severity {
            Severity::Info => (Tone::Calm, "Information"),
            Severity::Warning => (Tone::Busy, "Warning"),
            Severity::Error => (Tone::Bad, "Error"),
        };
        let ours = ["gateway", "alerts", "administration", "enrolment"].contains(&sender.as_str());
        Self {
            seq,
            at: Moment::new(at, now),
            tone,
            severity,
            code,
            text,
            sender_page: (!ours).then(|| format!("/process-servers/{sender}")),
            sender,
        }
    }
}

#[derive(Template)]
#[template(path = "events.html")]
struct Events {
    frame: Frame,
    rows: Vec<EventRow>,
    wanted: &'static str,
    older: Option<u64>,
    newest: bool,
}

/// `?before=SEQ&severity=warning`
#[derive(Deserialize)]
pub(super) struct Range {
    #[serde(default)]
    before: Option<u64>,
    #[serde(default)]
    severity: String,
}

pub(super) async fn show(mut visitor: Visitor, Query(range): Query<Range>) -> Shown {
    let (frame, _) = Frame::new(&mut visitor, Section::Events, "Operator Messages").await?;
    let path = match range.before {
        Some(before) => format!("/events?after={}&limit={PAGE}", before.saturating_sub(PAGE + 1)),
        None => format!("/events?limit={PAGE}"),
    };
    let mut events: Vec<Event> = visitor.api.get(&path).await?;
    if let Some(before) = range.before {
        events.retain(|event| event.seq < before);
    }
    let first = events.first().map(|event| event.seq);
    let wanted = match range.severity.as_str() {
        "warning" => "warning",
        "error" => "error",
        _ => "",
    };
    events.retain(|event| match wanted {
        "warning" => event.severity != Severity::Info,
        "error" => event.severity == Severity::Error,
        _ => true,
    });
    events.reverse();
    let now = OffsetDateTime::now_utc();
    Ok(reply::page(&Events {
        frame,
        rows: events.into_iter().map(|event| EventRow::new(event, now)).collect(),
        wanted,
        older: first.filter(|first| *first > 1),
        newest: range.before.is_none(),
    }))
}
