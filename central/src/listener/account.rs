//! What became of a client, told hop by hop: which rule sent it away, where, and where its time went. Pure.
//!
//! Told only when somebody asks, from the few facts that the [ledger](super::ledger) keeps. The hops are those of a
//! [test](crate::trace), so that a refusal and a test of the same destination read alike.

use std::{net::SocketAddr, time::Duration};

use proto::{
    Name, TraceId,
    driver::{Reset, ResetCode},
    trace::{Hop, Step},
};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    entrance::Refusal,
    ledger::{Carried, Closed, Ending, StreamKey, ms},
    park::NotOpened,
};
use crate::trace::StepShape;

/// A stream that has ended, or never came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClosedStream {
    /// Counts what ended since central started.
    pub number: u64,
    #[schema(value_type = Option<String>)]
    pub id: Option<StreamKey>,
    /// The same in the logs of central and of the agent.
    #[schema(value_type = String)]
    pub trace_id: TraceId,
    #[schema(value_type = String)]
    pub destination: Name,
    #[schema(value_type = String)]
    pub client: SocketAddr,
    #[schema(value_type = Option<String>)]
    pub via: Option<Name>,
    /// When the client came.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
    pub duration_ms: u64,
    pub bytes_to_site: u64,
    pub bytes_to_client: u64,
    pub outcome: Outcome,
    pub reason: String,
    /// What decided it, where something can be changed about that: `acl.clients of db`, `gateway.park_timeout` …
    pub rule: Option<String>,
    /// How long it waited for a tunnel.
    pub parked_ms: u64,
    /// From the opening until the destination had accepted; nothing if it never did.
    pub dial_ms: Option<u64>,
    /// From the opening until the destination's first byte.
    pub first_byte_ms: Option<u64>,
    /// Its way, as far as it came.
    #[schema(value_type = Vec<StepShape>)]
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = StreamOutcome)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Both ends had said all.
    Finished,
    /// It was reset.
    Broken,
    /// The client got no stream.
    Refused,
}

/// Where something went wrong, what decided it, and what to do.
struct Fault {
    hop: Hop,
    rule: Option<String>,
    action: &'static str,
}

impl ClosedStream {
    pub(super) fn of(closed: Closed) -> Self {
        let steps = steps(&closed);
        let fault = fault(&closed);
        let Closed { number, arrival, ended_at, lasted, parked, carried, ending } = closed;
        let outcome = match &ending {
            Ending::Finished => Outcome::Finished,
            Ending::Refused(_) => Outcome::Refused,
            Ending::Ended | Ending::Dropped | Ending::ClientBroke(_) | Ending::Broke(_) => Outcome::Broken,
        };
        let carried = carried.as_ref();
        Self {
            number,
            id: carried.map(|carried| carried.key),
            trace_id: arrival.trace_id,
            destination: arrival.destination,
            client: arrival.client,
            via: carried.map(|carried| carried.via.clone()),
            since: arrival.since,
            ended_at,
            duration_ms: ms(lasted),
            bytes_to_site: carried.map_or(0, |carried| carried.bytes_to_site),
            bytes_to_client: carried.map_or(0, |carried| carried.bytes_to_client),
            outcome,
            reason: ending.to_string(),
            rule: fault.and_then(|fault| fault.rule),
            parked_ms: ms(parked),
            dial_ms: carried.and_then(|carried| carried.dial).map(ms),
            first_byte_ms: carried.and_then(|carried| carried.first_byte).map(ms),
            steps,
        }
    }
}

/// The hops in their order: those passed, the one that failed, and nothing of those behind it.
fn steps(closed: &Closed) -> Vec<Step> {
    let fault = fault(closed);
    let mut steps = Vec::new();
    for hop in [Hop::Listener, Hop::Tunnel, Hop::AllowList, Hop::Connect, Hop::Greeting] {
        let (took, passed) = passed(hop, closed);
        match &fault {
            Some(fault) if fault.hop == hop => {
                steps.push(Step::fail(hop, took.map(ms), closed.ending.to_string(), fault.action));
                return steps;
            }
            _ => match passed {
                Some(text) => steps.push(Step::pass(hop, took.map(ms), text)),
                // Nobody told, but what went wrong behind it is proof enough.
                None if fault.as_ref().is_some_and(|fault| fault.hop > hop) => {
                    steps.push(Step::pass(hop, None, "it came past here"));
                }
                None => {
                    steps.push(Step::skip(hop, format!("it ended before: {}", closed.ending)));
                    return steps;
                }
            },
        }
    }
    steps
}

/// How long a hop took, and what was seen there if it was passed.
fn passed(hop: Hop, closed: &Closed) -> (Option<Duration>, Option<String>) {
    let Closed { arrival, parked, carried, .. } = closed;
    match (hop, carried) {
        (Hop::Listener, _) => (None, Some(format!("{} came in", arrival.client.ip().to_canonical()))),
        (Hop::Tunnel, None) => (Some(*parked), None),
        (Hop::Tunnel, Some(Carried { via, .. })) => {
            (Some(*parked), Some(format!("{via} carries the tunnel")))
        }
        (Hop::AllowList, Some(Carried { dial: Some(_), .. })) => {
            (None, Some("this site allows the destination".to_owned()))
        }
        (Hop::Connect, Some(Carried { dial: Some(dial), via, .. })) => {
            let text = format!("it accepted, as {via} saw it; the look-up of its name is part of the time");
            (Some(*dial), Some(text))
        }
        (Hop::Connect, Some(Carried { dial: None, .. })) => {
            (Some(closed.lasted.saturating_sub(*parked)), None)
        }
        (Hop::Greeting, Some(Carried { dial: Some(dial), first_byte: Some(first), .. })) => {
            (Some(first.saturating_sub(*dial)), Some("its first byte came".to_owned()))
        }
        (_, _) => (None, None),
    }
}

/// What went wrong; nothing where both ends had said all, or one that may has ended it.
fn fault(closed: &Closed) -> Option<Fault> {
    let destination = &closed.arrival.destination;
    let connected = closed.carried.as_ref().is_some_and(|carried| carried.dial.is_some());
    let via = closed.carried.as_ref().map(|carried| &carried.via);
    match &closed.ending {
        Ending::Refused(refusal) => refused(refusal, destination),
        // What breaks later is no question of a rule or a hop: the reason says all that is known.
        Ending::Broke(reset) if !connected => Some(unconnected(reset, via)),
        Ending::Broke(_) | Ending::Finished | Ending::Ended | Ending::Dropped | Ending::ClientBroke(_) => {
            None
        }
    }
}

fn refused(refusal: &Refusal, destination: &Name) -> Option<Fault> {
    let fault = |hop, rule: String, action| Some(Fault { hop, rule: Some(rule), action });
    match refusal {
        Refusal::NotPermitted => fault(
            Hop::Listener,
            format!("acl.clients of {destination}"),
            "add the client's network to acl.clients of the destination, if it may come in",
        ),
        Refusal::TooMany(_) => fault(
            Hop::Listener,
            format!("limits.streams of {destination}"),
            "find out who holds so many (posternctl streams list), or raise limits.streams",
        ),
        Refusal::NoRoom(_) => fault(
            Hop::Listener,
            "the file descriptors of central's process".to_owned(),
            "raise LimitNOFILE of central's service",
        ),
        Refusal::Closed => Some(Fault {
            hop: Hop::Listener,
            rule: None,
            action: "see whether the destination is enabled, and central's own log",
        }),
        Refusal::LotFull(_) => fault(
            Hop::Tunnel,
            "the places for clients that wait for a tunnel".to_owned(),
            "bring the gateway up: posternctl status says what is missing",
        ),
        Refusal::Left => Some(Fault {
            hop: Hop::Tunnel,
            rule: None,
            action: "let the application wait longer for its connection, and see why no tunnel was up",
        }),
        Refusal::NotOpened(NotOpened::NoTunnel(_)) => fault(
            Hop::Tunnel,
            "gateway.park_timeout".to_owned(),
            "bring the gateway up: posternctl status says what is missing",
        ),
        Refusal::NotOpened(NotOpened::Full { .. }) => fault(
            Hop::Tunnel,
            "the streams that one tunnel takes".to_owned(),
            "find out who holds so many: posternctl streams list",
        ),
        Refusal::NotOpened(NotOpened::Refused { via, reset }) => Some(unconnected(reset, Some(via))),
    }
}

/// A reset before the destination had accepted.
fn unconnected(reset: &Reset, via: Option<&Name>) -> Fault {
    let on = via.map_or_else(|| "the agent's host".to_owned(), Name::to_string);
    let (hop, rule, action) = match reset.code {
        ResetCode::NOT_ALLOWED | ResetCode::UNKNOWN_DESTINATION => (
            Hop::AllowList,
            Some(format!("the allow-list on {on}")),
            "allow it in the allow-list on that host, if the site agrees",
        ),
        ResetCode::TIMED_OUT => (
            Hop::Connect,
            Some(format!("dial_timeout of the agent on {on}")),
            "check that the service runs, and the firewalls between it and the agent's host",
        ),
        ResetCode::TOO_MANY_STREAMS => (
            Hop::Connect,
            Some(format!("what the agent on {on} takes at a time")),
            "find out who holds so many (posternctl streams list), or raise LimitNOFILE of the agent's service",
        ),
        ResetCode::TUNNEL_LOST | ResetCode::GOING_AWAY => {
            (Hop::Tunnel, None, "see what became of the tunnel: posternctl explain")
        }
        _ => (
            Hop::Connect,
            None,
            "check that the service runs, and the firewalls between it and the agent's host",
        ),
    };
    Fault { hop, rule, action }
}

#[cfg(test)]
mod tests {
    use proto::{Epoch, driver::StreamId, trace::Verdict};

    use super::{super::ledger::Arrival, *};
    use crate::listener::stage::destination;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_stream_that_said_all_shows_where_its_time_went() {
        let told = told(Some((Some(40 * MS), Some(55 * MS))), Ending::Finished);
        assert_eq!(verdicts(&told), [Verdict::Pass; 5]);
        let took: Vec<_> = told.steps.iter().map(|step| step.ms).collect();
        assert_eq!(took, [None, Some(5), None, Some(40), Some(15)]);
        assert_eq!((told.outcome, told.rule), (Outcome::Finished, None));
    }

    #[test]
    fn a_refusal_at_the_door_names_the_rule_and_no_hop_behind_it() {
        let told = told(None, Ending::Refused(Refusal::NotPermitted));
        assert_eq!(verdicts(&told), [Verdict::Fail]);
        assert_eq!((told.steps[0].hop, told.rule.as_deref()), (Hop::Listener, Some("acl.clients of db")));
    }

    #[test]
    fn one_that_waited_in_vain_shows_for_how_long_and_for_what() {
        let told = told(None, Ending::Refused(Refusal::NotOpened(NotOpened::NoTunnel(5 * MS))));
        assert_eq!(verdicts(&told), [Verdict::Pass, Verdict::Fail]);
        assert_eq!((told.steps[1].ms, told.rule.as_deref()), (Some(5), Some("gateway.park_timeout")));
    }

    #[test]
    fn what_the_site_forbids_and_what_does_not_answer_are_two_hops() {
        let reset = |code| Ending::Broke(Reset::new(code, "no"));
        let forbidden = told(Some((None, None)), reset(ResetCode::NOT_ALLOWED));
        assert_eq!(forbidden.steps.last().unwrap().hop, Hop::AllowList);
        assert_eq!(forbidden.rule.as_deref(), Some("the allow-list on gw-a"));
        let silent = told(Some((None, None)), reset(ResetCode::TIMED_OUT));
        let last = silent.steps.last().unwrap();
        // All of its time but the waiting went there.
        assert_eq!((last.hop, last.verdict, last.ms), (Hop::Connect, Verdict::Fail, Some(95)));
    }

    #[test]
    fn what_breaks_once_it_is_connected_is_no_rules_fault() {
        let broken = Ending::Broke(Reset::new(ResetCode::CONNECTION_RESET, "the destination reset it"));
        let told = told(Some((Some(MS), None)), broken);
        assert_eq!(verdicts(&told)[..4], [Verdict::Pass; 4]);
        assert_eq!((told.outcome, told.rule, told.steps[4].verdict), (Outcome::Broken, None, Verdict::Skip));
    }

    fn verdicts(told: &ClosedStream) -> Vec<Verdict> {
        told.steps.iter().map(|step| step.verdict).collect()
    }

    /// A client that waited 5 ms and lasted 100, and when its stream was accepted and answered, if it got one.
    fn told(carried: Option<(Option<Duration>, Option<Duration>)>, ending: Ending) -> ClosedStream {
        let carried = carried.map(|(dial, first_byte)| Carried {
            key: StreamKey { epoch: Epoch { group: 1, claim: 2 }, lane: 0, stream: StreamId(3) },
            via: "gw-a".parse().unwrap(),
            dial,
            first_byte,
            bytes_to_site: 1,
            bytes_to_client: 2,
        });
        ClosedStream::of(Closed {
            number: 1,
            arrival: Arrival::now(&destination("db", "tcp://db:1"), "192.0.2.1:5000".parse().unwrap()),
            ended_at: OffsetDateTime::UNIX_EPOCH,
            lasted: 100 * MS,
            parked: 5 * MS,
            carried,
            ending,
        })
    }
}
