//! What is told: an outage's down and up, and the other occasions an endpoint may ask for.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::incident::{Context, Incident, IncidentId, Transition, Tried};

/// The kinds of alert. Every endpoint hears of down and up; of the others, those that it names in `also`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Down,
    Up,
    /// Another candidate carries the load now.
    Failover,
    /// It works, but the next loss is an outage.
    ToleranceLost,
    CertificateExpiring,
    CandidateSilent,
    DestinationUnreachable,
    /// Alerts themselves do not arrive. Never told to the endpoint it is about.
    DeliveriesFailing,
}

/// One alert, as it is kept in the outbox and rendered for each endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub kind: Kind,
    /// A down and its up carry the same incident; each alert of another kind has its own.
    pub incident: Incident,
    /// One sentence, this alert's own.
    pub summary: String,
    /// When it was decided.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// More that is known, by name, for whoever writes templates: `from`, `to`, `certificate`, `expires_at` …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// A rehearsal: it says so, and belongs to no outage.
    #[serde(default)]
    pub test: bool,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Down,
        Self::Up,
        Self::Failover,
        Self::ToleranceLost,
        Self::CertificateExpiring,
        Self::CandidateSilent,
        Self::DestinationUnreachable,
        Self::DeliveriesFailing,
    ];

    /// Its name in configurations: `tolerance_lost`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
            Self::Failover => "failover",
            Self::ToleranceLost => "tolerance_lost",
            Self::CertificateExpiring => "certificate_expiring",
            Self::CandidateSilent => "candidate_silent",
            Self::DestinationUnreachable => "destination_unreachable",
            Self::DeliveriesFailing => "deliveries_failing",
        }
    }

    /// The event type that receivers filter by. A promise to them: never renamed.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::Down => "secure_gateway.down",
            Self::Up => "secure_gateway.up",
            Self::Failover => "secure_gateway.failover",
            Self::ToleranceLost => "secure_gateway.degraded",
            Self::CertificateExpiring => "certificate.expiring",
            Self::CandidateSilent => "candidate.silent",
            Self::DestinationUnreachable => "destination.unreachable",
            Self::DeliveriesFailing => "alerts.deliveries_failing",
        }
    }

    /// A headline.
    pub fn title(self) -> &'static str {
        match self {
            Self::Down => "Secure Gateway down",
            Self::Up => "Secure Gateway up again",
            Self::Failover => "Secure Gateway failed over",
            Self::ToleranceLost => "One more loss and the Secure Gateway is down",
            Self::CertificateExpiring => "Certificate expiring",
            Self::CandidateSilent => "Candidate silent",
            Self::DestinationUnreachable => "Destination unreachable",
            Self::DeliveriesFailing => "Alerts are not delivered",
        }
    }

    /// `critical`, `warning` or `info`: words that PagerDuty, Alertmanager and people share.
    pub fn severity(self) -> &'static str {
        match self {
            Self::Down => "critical",
            Self::ToleranceLost
            | Self::CertificateExpiring
            | Self::CandidateSilent
            | Self::DestinationUnreachable
            | Self::DeliveriesFailing => "warning",
            Self::Up | Self::Failover => "info",
        }
    }

    /// Whether it belongs to an outage; then every endpoint hears of it, in order.
    pub(crate) fn is_transition(self) -> bool {
        matches!(self, Self::Down | Self::Up)
    }
}

impl Alert {
    /// The alert for what a [`Policy`](crate::Policy) decided at `at`.
    pub fn of(transition: Transition, at: OffsetDateTime) -> Self {
        match transition {
            Transition::Down(incident) => {
                let summary = incident.context.summary.clone();
                Self::new(Kind::Down, incident, summary, at)
            }
            Transition::Up(incident) => {
                let lasted = readable(at - incident.opened_at);
                let summary = format!("It works again, after {lasted}. It was: {}", incident.context.summary);
                Self::new(Kind::Up, incident, summary, at)
            }
        }
    }

    /// An alert of a kind that has no outage, with an incident of its own.
    pub fn about(kind: Kind, id: IncidentId, context: Context, at: OffsetDateTime) -> Self {
        let summary = context.summary.clone();
        Self::new(kind, Incident::new(id, at, context), summary, at)
    }

    /// What a template is tried with when it is saved, and what a test sends. `id` makes each test its own.
    pub fn sample(kind: Kind, id: IncidentId, environment: &str, at: OffsetDateTime) -> Self {
        let tried = ["gw-01", "gw-02"].map(|name| Tried {
            name: name.into(),
            outcome: "no secure connection within 4m (this is a \"test\")".into(),
        });
        let context = Context {
            environment: environment.into(),
            summary: "This is a test: nothing has happened".into(),
            tried: tried.into(),
            link: Some("https://central.example/".into()),
        };
        let opened_at = at - Duration::from_secs(300);
        // A rehearsed up ends the rehearsed down before it, whatever their ids.
        let key = format!("postern-test-{environment}");
        let incident = Incident { key, ..Incident::new(id, opened_at, context) };
        let alert = match kind {
            Kind::Down => Self::of(Transition::Down(incident), at),
            Kind::Up => Self::of(Transition::Up(incident), at),
            other => Self::about(other, incident.id, incident.context, at),
        };
        Self { test: true, ..alert }
    }

    fn new(kind: Kind, incident: Incident, summary: String, at: OffsetDateTime) -> Self {
        Self { kind, incident, summary, at, details: BTreeMap::new(), test: false }
    }

    /// How long the outage has lasted, or had lasted when it ended. Zero for other kinds.
    pub fn duration(&self) -> Duration {
        (self.at - self.incident.opened_at).try_into().unwrap_or_default()
    }

    /// With every text cut to what an alert may carry: names and errors in it come from other machines.
    pub(crate) fn bounded(mut self) -> Self {
        let context = &mut self.incident.context;
        cut(&mut self.summary, TEXT_MAX_BYTES);
        cut(&mut self.incident.key, KEY_MAX_BYTES);
        cut(&mut context.environment, NAME_MAX_BYTES);
        cut(&mut context.summary, TEXT_MAX_BYTES);
        context.tried.truncate(LINES_MAX);
        for tried in &mut context.tried {
            cut(&mut tried.name, NAME_MAX_BYTES);
            cut(&mut tried.outcome, TEXT_MAX_BYTES);
        }
        while self.details.len() > LINES_MAX {
            self.details.pop_last();
        }
        self.details.values_mut().for_each(|value| cut(value, TEXT_MAX_BYTES));
        self
    }
}

const KEY_MAX_BYTES: usize = 255;
const NAME_MAX_BYTES: usize = 255;
const TEXT_MAX_BYTES: usize = 1024;
/// Nobody reads more lines than this at night.
const LINES_MAX: usize = 32;

/// Shortens `text` to at most `max` bytes, and shows that it did.
pub(crate) fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - '…'.len_utf8()));
        text.push('…');
    }
}

/// Whole seconds are enough for a person: `4m 10s`.
fn readable(lasted: time::Duration) -> String {
    let lasted: Duration = lasted.try_into().unwrap_or_default();
    humantime::format_duration(Duration::from_secs(lasted.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_up_says_how_long_it_took_and_what_it_was() {
        let opened_at = OffsetDateTime::UNIX_EPOCH;
        let context = Context { summary: "No candidate has a connection".into(), ..Context::default() };
        let incident = Incident::new(IncidentId::new("a"), opened_at, context);
        let up = Alert::of(Transition::Up(incident), opened_at + Duration::from_millis(250_900));
        assert_eq!(up.summary, "It works again, after 4m 10s. It was: No candidate has a connection");
        assert_eq!(up.duration(), Duration::from_millis(250_900));
    }

    #[test]
    fn a_rehearsed_up_ends_the_rehearsed_down() {
        let [down, up] = [(Kind::Down, "a"), (Kind::Up, "b")].map(|(kind, id)| {
            Alert::sample(kind, IncidentId::new(id), "acme", OffsetDateTime::UNIX_EPOCH).bounded()
        });
        assert_eq!(down.incident.key, up.incident.key);
        assert_ne!(down.incident.id, up.incident.id);
    }

    #[test]
    fn what_other_machines_said_is_cut_at_a_letter() {
        let mut alert = Alert::sample(Kind::Down, IncidentId::new("a"), "acme", OffsetDateTime::UNIX_EPOCH);
        alert.incident.context.tried[0].outcome = "ä".repeat(10_000);
        let alert = alert.bounded();
        let outcome = &alert.incident.context.tried[0].outcome;
        assert!(outcome.len() <= TEXT_MAX_BYTES && outcome.ends_with("ä…"), "{outcome}");
    }

    #[test]
    fn a_kind_has_one_name_in_configurations_and_in_our_code() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
