//! `/audit`: who did what, from where, with what came of it; each line chained to the one before.

use askama::Template;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use super::{
    frame::{Frame, Section},
    query::Query,
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone},
};

const PAGE: u64 = 100;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    rows: Vec<Row>,
    head: Option<Head>,
    older: Option<u64>,
    newest: bool,
    /// Why it cannot be shown; empty where it can.
    refused: String,
}

struct Row {
    seq: u64,
    at: Moment,
    who: String,
    from: String,
    action: String,
    target: String,
    outcome: Badge,
    before: String,
    after: String,
    request_id: String,
}

#[derive(Deserialize)]
struct Head {
    seq: u64,
    hash: String,
}

/// One of `GET /audit`
#[derive(Deserialize)]
struct Record {
    seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    who: Value,
    from: Option<String>,
    action: String,
    target: Option<String>,
    #[serde(default)]
    before: Value,
    #[serde(default)]
    after: Value,
    outcome: String,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    suppressed: u64,
    request_id: String,
}

/// `?before=SEQ`
#[derive(Deserialize)]
pub(super) struct Range {
    #[serde(default)]
    before: Option<u64>,
}

pub(super) async fn show(mut visitor: Visitor, Query(range): Query<Range>) -> Shown {
    let (frame, _) = Frame::new(&mut visitor, Section::Audit, "Audit").await?;
    let refused = visitor.lacks(crate::admin::Role::Administrator);
    let (mut records, mut head) = (Vec::new(), None);
    if refused.is_empty() {
        let path = match range.before {
            Some(before) => format!("/audit?after={}&limit={PAGE}", before.saturating_sub(PAGE + 1)),
            None => format!("/audit?limit={PAGE}"),
        };
        records = visitor.api.get::<Vec<Record>>(&path).await?;
        head = Some(visitor.api.get::<Head>("/audit/head").await?);
        if let Some(before) = range.before {
            records.retain(|record| record.seq < before);
        }
    }
    let now = OffsetDateTime::now_utc();
    let older = records.first().map(|record| record.seq).filter(|first| *first > 1);
    records.reverse();
    Ok(reply::page(&AuditPage {
        rows: records.into_iter().map(|record| row(record, now)).collect(),
        newest: range.before.is_none(),
        frame,
        head,
        older,
        refused,
    }))
}

fn row(record: Record, now: OffsetDateTime) -> Row {
    let outcome = match record.outcome.as_str() {
        "done" => Badge::new(Tone::Good, "done"),
        "refused" => Badge::new(
            Tone::Busy,
            record.code.map_or("refused".to_owned(), |code| format!("refused: {code}")),
        ),
        _ => Badge::new(Tone::Bad, record.code.map_or("failed".to_owned(), |code| format!("failed: {code}"))),
    };
    let named = |field: &str| record.who.get(field).and_then(Value::as_str).map(str::to_owned);
    let who = match record.who.get("kind").and_then(Value::as_str) {
        Some("user") => named("name").unwrap_or_default(),
        Some("token") => format!("token {}", named("name").or_else(|| named("id")).unwrap_or_default()),
        Some("provider") => {
            format!("{}, by the identity provider's word", named("name").unwrap_or_default())
        }
        _ => match named("name") {
            Some(name) => format!("nobody, as {name}"),
            None => "nobody signed in".to_owned(),
        },
    };
    let more =
        if record.suppressed > 0 { format!(" (and {} like it)", record.suppressed) } else { String::new() };
    Row {
        seq: record.seq,
        at: Moment::new(record.at, now),
        who,
        from: record.from.map_or_else(String::new, |from| format!("from {from}")),
        action: format!("{}{more}", record.action),
        target: record.target.unwrap_or_default(),
        outcome,
        before: lines(&record.before),
        after: lines(&record.after),
        request_id: record.request_id,
    }
}

/// A value of a record, to be read; empty for none.
fn lines(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    }
}
