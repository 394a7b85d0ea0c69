//! `/drills`: what an administrator does to a gateway on purpose: rehearse a failover, end what still drains, and bring
//! back a group that lost its quorum.

use askama::Template;
use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{
    answers::{Gateway, Raft},
    client::Refused,
    form::{Filled, Form},
    frame::{Frame, Section},
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone, bytes, count},
};
use crate::admin::Role::{CloudAdministrator, Operator};

/// Drills shown, the newest first.
const SHOWN: usize = 20;

#[derive(Template)]
#[template(path = "drills.html")]
struct DrillsPage {
    frame: Frame,
    draining: Vec<DrainRow>,
    drills: Vec<DrillRow>,
    /// Whether anybody is active, whom a drill could switch away from.
    active: bool,
    /// Whom a drill may go to.
    others: Vec<String>,
    may_operate: String,
    recovery: Option<Recovery>,
    drill: Filled,
    recover: Filled,
    trouble: Vec<String>,
}

/// An old active that finishes its streams.
struct DrainRow {
    name: String,
    until: Moment,
    streams: Vec<StreamRow>,
}

struct StreamRow {
    destination: String,
    client: String,
    since: Moment,
    bytes: String,
}

struct DrillRow {
    id: u64,
    outcome: Badge,
    way: String,
    began: Moment,
    by: String,
    /// What it cost, in one line.
    cost: String,
    failures: Vec<String>,
    destinations: Vec<TriedRow>,
}

struct TriedRow {
    name: String,
    verdict: Badge,
    words: String,
}

/// What can be done about a group that may be without a quorum.
struct Recovery {
    may: String,
    /// Why it is no time for it; empty where it may be.
    needless: String,
    /// Whom central's own member heard of as the leader. Where that one only learns it may be long gone: whether the
    /// group can still decide is the API's to say.
    heard_of: String,
    survivors: Vec<String>,
    lost: Vec<String>,
}

/// One of `GET /gateway/drain`
#[derive(Deserialize)]
struct Drain {
    process_server: String,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    streams: Vec<Held>,
}

#[derive(Deserialize)]
struct Held {
    destination: String,
    client: String,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    bytes: u64,
}

/// One of `GET /gateway/drills`
#[derive(Deserialize)]
struct Drill {
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

#[derive(Deserialize)]
struct Leg {
    gap_ms: u64,
    longest_open_ms: u64,
}

#[derive(Deserialize)]
struct Tried {
    name: String,
    before_ms: Option<u64>,
    through_ms: Option<u64>,
    reason: Option<String>,
}

pub(super) async fn show(mut visitor: Visitor) -> Shown {
    page(&mut visitor, Filled::default(), Filled::default()).await
}

async fn page(visitor: &mut Visitor, drill: Filled, recover: Filled) -> Shown {
    let (frame, gateway) = Frame::new(visitor, Section::Drills, "Drills and recovery").await?;
    let draining: Vec<Drain> = visitor.api.get("/gateway/drain").await?;
    let mut drills: Vec<Drill> = visitor.api.get("/gateway/drills").await?;
    let raft: Option<Raft> = visitor.api.get("/raft").await?;
    drills.truncate(SHOWN);
    let now = OffsetDateTime::now_utc();
    let refused = drill.refusal().or(recover.refusal());
    let status = refused.map_or(StatusCode::OK, |refused| refused.status);
    let mut trouble = drill.trouble(&["to"]);
    trouble.extend(recover.trouble(&["on", "lost"]));
    let page = DrillsPage {
        draining: draining.into_iter().map(|one| drain_row(one, now)).collect(),
        drills: drills.into_iter().map(|one| drill_row(one, now)).collect(),
        active: gateway.active.is_some(),
        others: gateway
            .candidates
            .iter()
            .filter(|candidate| candidate.configured && !candidate.active)
            .map(|candidate| candidate.name.clone())
            .collect(),
        may_operate: visitor.lacks(Operator),
        recovery: raft.map(|raft| recovery(visitor, &raft, &gateway)),
        drill,
        recover,
        trouble,
        frame,
    };
    Ok(reply::page_with(status, &page))
}

fn drain_row(one: Drain, now: OffsetDateTime) -> DrainRow {
    let stream = |held: Held| StreamRow {
        destination: held.destination,
        client: held.client,
        since: Moment::new(held.since, now),
        bytes: bytes(held.bytes),
    };
    DrainRow {
        name: one.process_server,
        until: Moment::new(one.until, now),
        streams: one.streams.into_iter().map(stream).collect(),
    }
}

fn drill_row(one: Drill, now: OffsetDateTime) -> DrillRow {
    let outcome = match one.outcome.as_str() {
        "passed" => Badge::new(Tone::Good, "passed"),
        "failed" => Badge::new(Tone::Bad, "failed"),
        "under_way" => Badge::new(Tone::Busy, "under way"),
        _ => Badge::new(Tone::Calm, "interrupted"),
    };
    let through = one.destinations.iter().filter(|tried| tried.through_ms.is_some()).count();
    let most = |of: fn(&Leg) -> u64| one.legs.iter().map(of).max();
    let cost = match (most(|leg| leg.gap_ms), most(|leg| leg.longest_open_ms)) {
        (Some(gap), Some(waited)) => format!(
            "{through} of {} reached through {}; {gap} ms without a tunnel; a new connection waited {waited} ms at most",
            count(one.destinations.len(), "destination", "destinations"),
            one.away
        ),
        (_, _) => "It has not switched yet.".to_owned(),
    };
    DrillRow {
        id: one.id,
        outcome,
        way: format!("{} → {} → {}", one.home, one.away, one.home),
        began: Moment::new(one.began_at, now),
        by: one.by,
        cost,
        failures: one.failures,
        destinations: one.destinations.into_iter().map(tried_row).collect(),
    }
}

fn tried_row(one: Tried) -> TriedRow {
    let (verdict, words) = match (one.through_ms, one.before_ms) {
        (Some(through), Some(before)) => {
            (Badge::new(Tone::Good, "PASS"), format!("{through} ms, {before} ms before the switch"))
        }
        (Some(through), None) => {
            (Badge::new(Tone::Good, "PASS"), format!("{through} ms; not reached before"))
        }
        (None, None) => (
            Badge::new(Tone::Calm, "SKIP"),
            format!("not reached before the drill either: {}", one.reason.unwrap_or_default()),
        ),
        (None, Some(_)) => (Badge::new(Tone::Bad, "FAIL"), one.reason.unwrap_or_default()),
    };
    TriedRow { name: one.name, verdict, words }
}

fn recovery(visitor: &Visitor, raft: &Raft, gateway: &Gateway) -> Recovery {
    let members = raft.members.iter().filter(|member| !member.witness);
    let (survivors, lost): (Vec<_>, Vec<_>) = members.partition(|member| member.connected);
    let names = |members: Vec<&super::answers::Member>| {
        members.into_iter().filter_map(|member| member.name.clone()).collect::<Vec<_>>()
    };
    let needless = match lost.is_empty() {
        true => "Every member of the group is connected: there is nothing to recover.",
        false if gateway.candidates.is_empty() => "There is no candidate to recover it on.",
        false => "",
    };
    let leader = raft.members.iter().find(|member| Some(member.node) == raft.leader);
    let heard_of = leader.and_then(|leader| leader.name.clone()).unwrap_or_default();
    Recovery {
        may: visitor.lacks(CloudAdministrator),
        needless: needless.to_owned(),
        heard_of,
        survivors: names(survivors),
        lost: names(lost),
    }
}

pub(super) async fn begin(mut visitor: Visitor, form: Form) -> Shown {
    let asked = match form.filled("to") {
        Some(to) => json!({ "to": to }),
        None => json!({}),
    };
    match visitor.api.send(Method::POST, "/gateway/drill", asked).await {
        Ok(_) => Ok(reply::done("/drills", "The drill has begun: there, test everything, and back.")),
        Err(refused) => page(&mut visitor, Filled::refused(form, refused), Filled::default()).await,
    }
}

pub(super) async fn end_drain(visitor: Visitor) -> Shown {
    Ok(match visitor.api.send(Method::POST, "/gateway/drain/end", json!({})).await {
        Ok(_) => reply::done("/drills", "What drained was ended; its streams were told with a reset."),
        Err(refused) => reply::not_done("/drills", &refused),
    })
}

pub(super) async fn recover(mut visitor: Visitor, form: Form) -> Shown {
    let lost: Vec<&str> = form.text("lost").split([',', '\n', ' ']).filter(|name| !name.is_empty()).collect();
    let mut asked = json!({ "on": form.text("on").trim(), "lost": lost });
    if form.ticked("accept_risk") {
        asked["accept_risk"] = json!("lose-connection");
    }
    match visitor.api.send(Method::POST, "/raft/recover", asked).await {
        Ok(_) => {
            let said = format!("The group was founded anew on {}.", form.text("on").trim());
            Ok(reply::done("/drills", said))
        }
        Err(refused) => recovery_refused(&mut visitor, form, refused).await,
    }
}

async fn recovery_refused(visitor: &mut Visitor, form: Form, refused: Refused) -> Shown {
    page(visitor, Filled::default(), Filled::refused(form, refused)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_is_told_by_what_it_cost() {
        let drill = json!({
            "id": 3, "outcome": "passed", "failures": [], "began_at": "2026-11-21T14:02:00Z", "ended_at": null,
            "by": "schedule", "home": "gw-a", "away": "gw-b",
            "legs": [{"gap_ms": 0, "longest_open_ms": 12}, {"gap_ms": 3, "longest_open_ms": 9}],
            "destinations": [
                {"name": "db", "before_ms": 4, "through_ms": 5, "reason": null},
                {"name": "mail", "before_ms": null, "through_ms": null, "reason": "refused"},
                {"name": "web", "before_ms": 3, "through_ms": null, "reason": "not allowed"},
            ],
        });
        let row = drill_row(serde_json::from_value(drill).unwrap(), OffsetDateTime::now_utc());
        assert_eq!(
            row.cost,
            "1 of 3 destinations reached through gw-b; 3 ms without a tunnel; a new connection waited 12 ms at most"
        );
        let verdicts: Vec<_> = row.destinations.iter().map(|tried| tried.verdict.word.as_str()).collect();
        assert_eq!(verdicts, ["PASS", "SKIP", "FAIL"]);
    }
}
