//! Decides what is still to be told to whom, and when it is tried again.
//!
//! ```text
//!            begin                    2xx
//!  Waiting ────────► Sending ──────────────────► Delivered
//!     ▲  ▲              │  │ 410, or 48 h old
//!     │  └── no 2xx ────┘  └───────────────────► GivenUp
//!     │                                             │
//!     └──────────────── send_again ─────────────────┘
//! ```
//!
//! Everything here is plain data and pure functions. The owner stores what [`plan`] returns in the transaction
//! that decides the alert, replaces one record by the next with a compare-and-set, and calls
//! [`due`] after each change and when [`next_due`] says so. An id is made from what it is about, so two owners
//! that plan the same alert write the same record.
//!
//! Promise: at least once on the wire, under one id; exactly one delivery per alert and endpoint. A crash after
//! the answer and before it was stored sends the same id again, which is what the id is for.
//! Absent on purpose: stores, sockets, clocks (time arrives as `now`), dice (chance arrives as `dice`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ring::digest;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    alert::{Alert, Kind, cut},
    incident::IncidentId,
};

#[cfg(test)]
mod crashes;
mod schedule;
#[cfg(test)]
mod tests;

pub use schedule::{AGE_MAX, retry_delay};

/// Names one delivery for ever, over all its attempts and to the receiver as well (`webhook-id`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeliveryId(String);

/// One alert on its way to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub id: DeliveryId,
    /// The endpoint's name. Rendering takes the endpoint as it is at each attempt, so a mistake in its template
    /// can be mended while alerts wait.
    pub endpoint: String,
    pub alert: Alert,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub state: State,
    /// How many attempts there were since it was created or [sent again](Delivery::send_again).
    pub tries: u32,
    /// The first attempt and the latest ones, [`ATTEMPTS_KEPT`] at most.
    pub attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// `since` is when it began to wait: a clock that is now before it was set back.
    Waiting {
        #[serde(with = "time::serde::rfc3339")]
        since: OffsetDateTime,
        #[serde(with = "time::serde::rfc3339")]
        next_at: OffsetDateTime,
    },
    /// Owner `by` has it in hand; if it is silent at `until`, it has died.
    Sending {
        by: String,
        #[serde(with = "time::serde::rfc3339")]
        since: OffsetDateTime,
        #[serde(with = "time::serde::rfc3339")]
        until: OffsetDateTime,
    },
    Delivered {
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
    },
    GivenUp {
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        why: String,
    },
}

/// One attempt, as it is listed. Secrets are hidden in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub took_ms: u64,
    /// What was sent, cut to a bounded excerpt: request line, headers, body.
    pub request: String,
    /// The address that was called, as far as it came to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The receiver answered; whether it took the alert, its status says. A mail server's 250 counts as 200.
    Answered {
        status: u16,
        /// The beginning of the answer's body.
        excerpt: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u64>,
    },
    /// No answer: it could not be rendered, was refused an address, was not reached, or was silent.
    Failed { why: String },
}

/// What the owner has to do beside storing the delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The receiver said 410, Gone: switch the endpoint off, say so, and [`give_up`](Delivery::give_up) what else
    /// waits for it.
    DisableEndpoint { endpoint: String, why: String },
    /// It has failed for a while: time for an alert of the kind [`Kind::DeliveriesFailing`] to the others.
    Failing { endpoint: String, why: String },
    /// It was given up.
    GivenUp { endpoint: String, why: String },
}

/// More than any owner needs between [`begin`](Delivery::begin) and [`finish`](Delivery::finish): the attempt's own
/// deadline and a slow disk.
pub const LEASE: Duration = Duration::from_secs(60);

/// How many attempts a delivery remembers.
pub const ATTEMPTS_KEPT: usize = 20;

/// After the fifth attempt, six and a half minutes in: shorter troubles mend themselves.
const FAILING_AFTER: u32 = 5;

const EXCERPT_MAX_BYTES: usize = 2048;

/// Someone who may hear of an alert.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    pub endpoint: &'a str,
    /// What it wants beside down and up.
    pub also: &'a BTreeSet<Kind>,
}

/// The deliveries of `alert`, to be stored in the transaction that decided it.
///
/// An up goes to those that were sent the down: `told` answers whether a delivery of that id is stored. An endpoint
/// that was configured since has nothing that an up could end.
pub fn plan<'a>(
    alert: &Alert,
    recipients: impl IntoIterator<Item = Recipient<'a>>,
    told: impl Fn(&DeliveryId) -> bool,
    now: OffsetDateTime,
) -> Vec<Delivery> {
    let alert = alert.clone().bounded();
    let wants = |to: &Recipient<'_>| match alert.kind {
        Kind::Down => true,
        Kind::Up => told(&DeliveryId::of(&alert.incident.id, Kind::Down, to.endpoint)),
        Kind::DeliveriesFailing => {
            to.also.contains(&alert.kind)
                && alert.details.get("endpoint").is_none_or(|failing| failing != to.endpoint)
        }
        other => to.also.contains(&other),
    };
    recipients.into_iter().filter(wants).map(|to| Delivery::new(to.endpoint, alert.clone(), now)).collect()
}

/// Those of `deliveries` that are to be attempted now, in the order they were created. Per endpoint one at a time,
/// and an up only when its down is over; so a slow receiver delays nobody but itself. What waits for a receiver that
/// took another delivery meanwhile waits no longer: it is back.
pub fn due<'a>(
    deliveries: impl IntoIterator<Item = &'a Delivery> + Clone,
    now: OffsetDateTime,
) -> Vec<&'a Delivery> {
    let all = Overview::of(deliveries.clone());
    let mut busy: BTreeSet<&str> =
        deliveries.clone().into_iter().filter(|d| d.is_held(now)).map(|d| d.endpoint.as_str()).collect();
    let is_ready = |d: &&Delivery| d.is_ready(now) || all.is_back(d);
    let mut ready: Vec<&Delivery> =
        deliveries.into_iter().filter(is_ready).filter(|d| !all.has_open_down(d)).collect();
    // What an outage does comes before everything else that may have piled up.
    ready.sort_by_key(|d| (!d.alert.kind.is_transition(), d.created_at, d.alert.kind));
    ready.retain(|d| busy.insert(&d.endpoint));
    ready
}

/// When [`due`] has to be asked again, unless something changes before. What waits behind another delivery, for its
/// endpoint or for its down, is waked by that one's end.
pub fn next_due<'a>(deliveries: impl IntoIterator<Item = &'a Delivery> + Clone) -> Option<OffsetDateTime> {
    let all = Overview::of(deliveries.clone());
    let is_sending = |d: &&Delivery| matches!(d.state, State::Sending { .. });
    let sending = deliveries.clone().into_iter().filter(is_sending);
    let busy: BTreeSet<&str> = sending.map(|d| d.endpoint.as_str()).collect();
    let open = deliveries.into_iter().filter(|d| !all.has_open_down(d));
    open.filter_map(|d| match &d.state {
        State::Waiting { next_at, .. } => (!busy.contains(d.endpoint.as_str())).then_some(*next_at),
        State::Sending { until, .. } => Some(*until),
        State::Delivered { .. } | State::GivenUp { .. } => None,
    })
    .min()
}

/// What one delivery has to know of the others. Thousands may wait, so they are looked through once.
struct Overview<'a> {
    /// By endpoint: when it last took something.
    took_at: BTreeMap<&'a str, OffsetDateTime>,
    /// Endpoint and incident of each down that is not over.
    open_downs: BTreeSet<(&'a str, &'a IncidentId)>,
}

impl<'a> Overview<'a> {
    fn of(deliveries: impl IntoIterator<Item = &'a Delivery>) -> Self {
        let (mut took_at, mut open_downs) = (BTreeMap::new(), BTreeSet::new());
        for delivery in deliveries {
            let endpoint = delivery.endpoint.as_str();
            if let State::Delivered { at } = delivery.state {
                let latest = took_at.entry(endpoint).or_insert(at);
                *latest = at.max(*latest);
            }
            if delivery.alert.kind == Kind::Down && delivery.is_open() {
                open_downs.insert((endpoint, &delivery.alert.incident.id));
            }
        }
        Self { took_at, open_downs }
    }

    /// Whether the receiver took another delivery since this one began to wait. One that asked for time gets its
    /// time.
    fn is_back(&self, waiting: &Delivery) -> bool {
        let State::Waiting { since, .. } = waiting.state else { return false };
        let asked_for_time =
            waiting.attempts.last().is_some_and(|attempt| attempt.outcome.retry_after().is_some());
        !asked_for_time && self.took_at.get(waiting.endpoint.as_str()).is_some_and(|at| *at > since)
    }

    fn has_open_down(&self, up: &Delivery) -> bool {
        up.alert.kind == Kind::Up && self.open_downs.contains(&(up.endpoint.as_str(), &up.alert.incident.id))
    }
}

impl Delivery {
    fn new(endpoint: &str, alert: Alert, now: OffsetDateTime) -> Self {
        Self {
            id: DeliveryId::of(&alert.incident.id, alert.kind, endpoint),
            endpoint: endpoint.to_owned(),
            alert,
            created_at: now,
            state: State::Waiting { since: now, next_at: now },
            tries: 0,
            attempts: Vec::new(),
        }
    }

    /// Takes it in hand for one attempt, [`LEASE`] long; when that is to happen, [`due`] says. `None` when it is over,
    /// or in other hands.
    #[must_use]
    pub fn begin(&self, by: &str, now: OffsetDateTime) -> Option<Self> {
        let state = State::Sending { by: by.to_owned(), since: now, until: now + LEASE };
        (self.is_open() && !self.is_held(now)).then(|| Self { state, ..self.clone() })
    }

    /// Puts back what an owner that is known to be dead had in hand: after a restart, one's own. Its attempt may or
    /// may not have arrived; the next one carries the same id.
    #[must_use]
    pub fn release(&self, now: OffsetDateTime) -> Self {
        match self.state {
            State::Sending { .. } => {
                Self { state: State::Waiting { since: now, next_at: now }, ..self.clone() }
            }
            State::Waiting { .. } | State::Delivered { .. } | State::GivenUp { .. } => self.clone(),
        }
    }

    /// The attempt is over. `dice` is any random number: it spreads the next attempts of many senders.
    #[must_use]
    pub fn finish(&self, mut attempt: Attempt, now: OffsetDateTime, dice: u64) -> (Self, Option<Effect>) {
        cut(&mut attempt.request, EXCERPT_MAX_BYTES);
        let outcome = &mut attempt.outcome;
        match outcome {
            Outcome::Answered { excerpt, .. } => cut(excerpt, EXCERPT_MAX_BYTES),
            Outcome::Failed { why } => cut(why, EXCERPT_MAX_BYTES),
        }
        let (endpoint, why) = (self.endpoint.clone(), outcome.to_string());
        let tries = self.tries + 1;
        let (state, effect) = match outcome {
            Outcome::Answered { status: 200..=299, .. } => (State::Delivered { at: now }, None),
            Outcome::Answered { status: 410, .. } => (
                State::GivenUp { at: now, why: why.clone() },
                Some(Effect::DisableEndpoint { endpoint, why }),
            ),
            Outcome::Answered { .. } | Outcome::Failed { .. } => {
                let next_at = now + retry_delay(tries, outcome.retry_after(), dice);
                if next_at - self.created_at > AGE_MAX {
                    (State::GivenUp { at: now, why: why.clone() }, Some(Effect::GivenUp { endpoint, why }))
                } else {
                    let failing = tries == FAILING_AFTER && self.alert.kind != Kind::DeliveriesFailing;
                    let effect = failing.then_some(Effect::Failing { endpoint, why });
                    (State::Waiting { since: now, next_at }, effect)
                }
            }
        };
        let mut next = Self { state, tries, ..self.clone() };
        if next.attempts.len() >= ATTEMPTS_KEPT {
            next.attempts.remove(1);
        }
        next.attempts.push(attempt);
        (next, effect)
    }

    /// Ends it without another attempt: its endpoint was removed or switched off. What is over stays as it is.
    #[must_use]
    pub fn give_up(&self, why: &str, now: OffsetDateTime) -> Self {
        let mut next = self.clone();
        if next.is_open() {
            next.state = State::GivenUp { at: now, why: why.to_owned() };
        }
        next
    }

    /// From the beginning, whatever became of it: at once, then after the usual delays. It keeps its id, by which a
    /// receiver that has it already knows it.
    #[must_use]
    pub fn send_again(&self, now: OffsetDateTime) -> Self {
        let state = State::Waiting { since: now, next_at: now };
        Self { state, tries: 0, created_at: now, ..self.clone() }
    }

    /// At once instead of later, because its endpoint was mended or answers again. What does not wait stays.
    #[must_use]
    pub fn hasten(&self, now: OffsetDateTime) -> Self {
        let mut next = self.clone();
        if let State::Waiting { next_at, .. } = &mut next.state {
            *next_at = now.min(*next_at);
        }
        next
    }

    /// Whether it may still arrive.
    pub fn is_open(&self) -> bool {
        match self.state {
            State::Waiting { .. } | State::Sending { .. } => true,
            State::Delivered { .. } | State::GivenUp { .. } => false,
        }
    }

    fn is_ready(&self, now: OffsetDateTime) -> bool {
        match &self.state {
            State::Waiting { since, next_at } => *next_at <= now || now < *since,
            State::Sending { .. } => !self.is_held(now),
            State::Delivered { .. } | State::GivenUp { .. } => false,
        }
    }

    fn is_held(&self, now: OffsetDateTime) -> bool {
        matches!(&self.state, State::Sending { since, until, .. } if *since <= now && now < *until)
    }
}

impl DeliveryId {
    /// The id of the delivery of one alert to one endpoint.
    pub fn of(incident: &IncidentId, kind: Kind, endpoint: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [incident.as_str(), kind.name(), endpoint] {
            // Lengths first: no two different triples give the same bytes.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let hash = context.finish();
        let hex: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("msg_{hex}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Outcome {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answered { retry_after_s, .. } => retry_after_s.map(Duration::from_secs),
            Self::Failed { .. } => None,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered { status: 410, .. } => {
                f.write_str("the receiver answered 410, Gone: it wants no more alerts")
            }
            Self::Answered { status: status @ 300..=399, .. } => {
                write!(
                    f,
                    "the receiver answered {status}; redirects are not followed: give the final address"
                )
            }
            Self::Answered { status, .. } => write!(f, "the receiver answered {status}"),
            Self::Failed { why } => f.write_str(why),
        }
    }
}
