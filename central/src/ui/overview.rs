//! `/`: one sentence of state, the drawing, what may fail, what is wrong and what was last.

use askama::Template;
use time::OffsetDateTime;

use super::{
    answers::{Destination, Event, Gateway, ProcessServer, Raft, State},
    events::EventRow,
    frame::{Frame, Section, is_degraded},
    problems::{self, Problem},
    reply,
    sparkline::{Lately, Traffic},
    topology::Topology,
    visitor::{Shown, Visitor},
    words::{Moment, clock, count, list},
};

/// Events shown; the rest is on their own page.
const EVENTS_SHOWN: usize = 6;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    sentence: String,
    /// What the state rests on, and how old that is.
    evidence: String,
    drawing: Topology,
    losses: Losses,
    switch: Option<SwitchShown>,
    draining: Vec<String>,
    streams: String,
    /// Where the tunnel is more than one websocket.
    lanes: Option<String>,
    lately: Lately,
    epoch: Option<String>,
    raised: Option<String>,
    problems: Vec<Problem>,
    steps: Vec<Step>,
    steps_left: usize,
    events: Vec<EventRow>,
    looked: Moment,
}

/// How much the group can still bear.
struct Losses {
    figure: String,
    sentence: String,
}

struct SwitchShown {
    way: String,
    reason: String,
    gap: String,
}

/// A line of the first run's checklist.
struct Step {
    done: bool,
    text: String,
    href: &'static str,
    link: &'static str,
}

pub(super) async fn show(mut visitor: Visitor) -> Shown {
    let (frame, gateway) = Frame::new(&mut visitor, Section::Overview, "Overview").await?;
    let servers: Vec<ProcessServer> = visitor.api.all("/process-servers").await?;
    let destinations: Vec<Destination> = visitor.api.all("/destinations").await?;
    let mut events: Vec<Event> = visitor.api.get(&format!("/events?limit={EVENTS_SHOWN}")).await?;
    let raft: Option<Raft> = visitor.api.get("/raft").await?;
    let traffic: Traffic = visitor.api.get("/traffic").await?;
    let alerts: serde_json::Value = visitor.api.get("/alerts").await?;
    let told =
        alerts.pointer("/endpoints").and_then(|list| list.as_array()).is_some_and(|list| !list.is_empty());
    events.reverse();
    let now = OffsetDateTime::now_utc();
    let steps = checklist(&gateway, &servers, &destinations, told);
    Ok(reply::page(&Overview {
        sentence: sentence(&gateway, &servers, now),
        evidence: evidence(&gateway, &servers, now),
        drawing: Topology::new(&gateway),
        losses: losses(&gateway, raft.as_ref()),
        switch: gateway.last_switch.as_ref().map(|switch| SwitchShown {
            way: match &switch.from {
                Some(from) => format!("{from} → {}", switch.to),
                None => format!("to {}", switch.to),
            },
            reason: switch.reason.clone(),
            gap: match switch.gap_ms {
                0 => "without a gap".to_owned(),
                gap => format!("{gap} ms without a tunnel"),
            },
        }),
        draining: gateway.draining.iter().map(|old| draining(old, now)).collect(),
        streams: count(gateway.streams, "stream", "streams"),
        lanes: (gateway.lanes > 1).then(|| format!("on {} lanes", gateway.lanes)),
        lately: traffic.drawn(),
        epoch: (gateway.epoch > 0).then(|| format!("{}.{}", gateway.group_epoch, gateway.epoch)),
        raised: gateway.event.raised.then(|| gateway.event.name.clone()),
        problems: problems::find(&gateway, &servers, &destinations, now),
        steps_left: steps.iter().filter(|step| !step.done).count(),
        steps,
        events: events.into_iter().map(|event| EventRow::new(event, now)).collect(),
        looked: Moment::new(now, now),
        frame,
    }))
}

fn sentence(gateway: &Gateway, servers: &[ProcessServer], now: OffsetDateTime) -> String {
    match gateway.state {
        State::Up => {
            let active = gateway.active.as_deref().unwrap_or("a candidate");
            let standby: Vec<_> = gateway
                .candidates
                .iter()
                .filter(|candidate| candidate.configured && !candidate.active)
                .map(|candidate| candidate.name.as_str())
                .collect();
            match standby.as_slice() {
                [] => format!("{active} carries the Secure Gateway. Nobody stands by."),
                [one] => format!("{active} carries the Secure Gateway, {one} stands by."),
                few if few.len() <= 3 => {
                    format!("{active} carries the Secure Gateway, {} stand by.", list(few))
                }
                many => format!("{active} carries the Secure Gateway, {} others stand by.", many.len()),
            }
        }
        State::Connecting => match &gateway.attempt {
            Some(attempt) => format!(
                "Waiting for {}: {} left, then the next candidate is tried.",
                attempt.candidate,
                clock(attempt.until - now)
            ),
            None => "Waiting for a candidate to bring up a secure connection.".to_owned(),
        },
        State::Down => {
            "No configured candidate could bring up a secure connection. Central keeps trying.".to_owned()
        }
        State::Idle if servers.is_empty() => "No agent is enrolled yet.".to_owned(),
        State::Idle if servers.iter().all(|server| !server.candidate) => {
            "No Process Server is marked as Secure Gateway Candidate yet.".to_owned()
        }
        State::Idle => "A candidate is marked and waits for the restart of its agent.".to_owned(),
    }
}

/// A state is only as good as what it was seen by.
fn evidence(gateway: &Gateway, servers: &[ProcessServer], now: OffsetDateTime) -> String {
    let active = servers.iter().find(|server| Some(&server.name) == gateway.active.as_ref());
    match (gateway.state, active) {
        (State::Up, Some(active)) => {
            let heard = active.last_seen.map_or_else(String::new, |seen| {
                format!(", which was last heard {}", Moment::new(seen, now).ago)
            });
            let agreed = match active.link.as_ref().and_then(|link| link.reported_role.as_deref()) {
                Some("active") => "Both ends agree",
                Some(_) => "The two ends disagree at the moment",
                None => "The agent has not reported its role yet",
            };
            format!("Seen by central on the admitted tunnel of {}{heard}. {agreed}.", active.name)
        }
        (State::Up | State::Idle | State::Connecting | State::Down, _) => {
            "Seen by central: no admitted tunnel lives.".to_owned()
        }
    }
}

fn losses(gateway: &Gateway, raft: Option<&Raft>) -> Losses {
    let Some(raft) = raft else {
        return Losses {
            figure: "no group yet".to_owned(),
            sentence: "A group is founded when the first marked candidate is restarted.".to_owned(),
        };
    };
    let voters: Vec<&str> = raft
        .members
        .iter()
        .filter(|member| member.voter)
        .map(
            |member| {
                if member.witness { "central" } else { member.name.as_deref().unwrap_or("a leaving node") }
            },
        )
        .collect();
    let bearable = gateway.can_lose.unwrap_or(0);
    let figure = format!("{bearable} of {}", voters.len());
    let members = list(&voters);
    let sentence = match (bearable, is_degraded(gateway)) {
        (0, true) => format!("Without {members} the active cannot change. What flows carries on."),
        (0, false) => format!(
            "{members} decide together. The next loss stops the active from changing; what flows carries on."
        ),
        (_, _) => {
            format!("{members} decide together; the active can still change after the loss of {bearable}.")
        }
    };
    Losses { figure, sentence }
}

fn draining(old: &super::answers::Draining, now: OffsetDateTime) -> String {
    format!(
        "{} finishes {}, until {} at the latest",
        old.process_server,
        count(old.streams, "stream", "streams"),
        Moment::new(old.until, now).clock
    )
}

fn checklist(
    gateway: &Gateway,
    servers: &[ProcessServer],
    destinations: &[Destination],
    told: bool,
) -> Vec<Step> {
    let candidates = servers.iter().filter(|server| server.candidate).count();
    let step = |done, text: &str, href, link| Step { done, text: text.to_owned(), href, link };
    vec![
        step(!servers.is_empty(), "Enrol the first agent", "/enrol", "Enrol"),
        step(candidates > 0, "Mark it as Secure Gateway Candidate", "/process-servers", "Mark"),
        step(gateway.epoch > 0, "Restart it: it becomes active", "/process-servers", "Restart"),
        step(candidates > 1, "Mark a second candidate, so that one may fail", "/enrol", "Enrol another"),
        match destinations.is_empty() {
            true => step(false, "Add the first destination and test it", "/destinations/new", "Add"),
            false => step(
                destinations.iter().any(|destination| destination.last_test.is_some()),
                "Add the first destination and test it",
                "/destinations",
                "Test",
            ),
        },
        step(told, "Say who is told of an outage, and send a test", "/alerts", "Set up alerts"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_who_carries_and_who_stands_by() {
        let now = OffsetDateTime::now_utc();
        assert_eq!(
            sentence(&Gateway::sample(), &[], now),
            "gw-a carries the Secure Gateway, gw-b stands by."
        );
    }

    #[test]
    fn the_sentence_counts_down_while_a_candidate_is_waited_for() {
        let now = OffsetDateTime::now_utc();
        let mut gateway = Gateway::sample();
        gateway.state = State::Connecting;
        gateway.attempt = Some(crate::ui::answers::Attempt {
            candidate: "gw-b".to_owned(),
            until: now + time::Duration::seconds(192),
        });
        assert!(sentence(&gateway, &[], now).starts_with("Waiting for gw-b: 3:12 left"));
    }

    #[test]
    fn a_new_central_says_what_comes_first() {
        let mut gateway = Gateway::sample();
        gateway.state = State::Idle;
        gateway.epoch = 0;
        gateway.candidates.clear();
        assert_eq!(sentence(&gateway, &[], OffsetDateTime::now_utc()), "No agent is enrolled yet.");
        assert!(checklist(&gateway, &[], &[], false).iter().all(|step| !step.done));
    }
}
