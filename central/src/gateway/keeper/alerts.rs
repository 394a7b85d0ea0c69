//! Telling people: the policy's decisions, and the other occasions somebody may ask to hear of.
//!
//! Nothing is sent here. What was decided is written in one transaction, and stays pending until the store
//! has taken it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use alerting::{Alert, Context, Incident, IncidentId, Kind, Snapshot, Tried};
use proto::{AgentId, control::CentralMessage};
use time::OffsetDateTime;

use super::Keeper;
use crate::{
    alerts::{ALERTS_AT_ONCE, EVENTS_AT_ONCE},
    gateway::view::GatewayState,
    store::{Precondition, StoreError},
};

/// How soon a store that did not take an alert is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a candidate may be away, for an update of its host, before that is told.
const SILENCE: Duration = Duration::from_secs(5 * 60);
/// How often certificates are looked at.
const CERTIFICATES_LOOK: Duration = Duration::from_secs(3600);
/// Events that wait for a store that takes none; the oldest make room.
const EVENTS_WAITING_MAX: usize = 1000;
/// The same for alerts: an outage and its end for each of its last fifty, or what else there is to say.
const ALERTS_WAITING_MAX: usize = 100;

/// The events of the policy.
const RAISED: &str = "event_raised";
const CLEARED: &str = "event_cleared";

/// What the keeper remembers for it.
#[derive(Default)]
pub(super) struct Telling {
    pending: Vec<Alert>,
    /// Under which the next outage is told; agents know it too.
    incident_key: String,
    /// An outage ended that may have been told under it.
    key_is_spent: bool,
    /// The policy's state as the store has it.
    stored: Option<Stored>,
    /// Holds while nobody else has told.
    unchanged: Option<Precondition>,
    retry_at: Option<Instant>,
    /// When maintenance ends.
    speaks_at: Option<Instant>,
    /// Who was tried in the outage that may be coming, and how it went.
    tried: Vec<Tried>,
    /// Whether the group could bear a loss when it was last looked at with a tunnel up.
    could_bear: Option<bool>,
    /// Candidates without a control websocket: since when, and whether that was told.
    silent: BTreeMap<AgentId, (Instant, bool)>,
    /// Connected agents: the certificate each was told of as expiring.
    expiring: BTreeMap<AgentId, OffsetDateTime>,
}

/// Which state, and of which outage: a snapshot's times differ each time it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    Up,
    Unheard(IncidentId),
    Raised(IncidentId),
    Told(IncidentId),
}

impl Stored {
    fn of(snapshot: &Snapshot) -> Self {
        match snapshot {
            Snapshot::Up => Self::Up,
            Snapshot::Unheard { incident, .. } => Self::Unheard(incident.id.clone()),
            Snapshot::Raised { incident, .. } => Self::Raised(incident.id.clone()),
            Snapshot::Told { incident } => Self::Told(incident.id.clone()),
        }
    }
}

impl Keeper {
    /// Continues where the last run of central stopped telling.
    pub(super) async fn restore_alerts(&mut self, now: Instant) -> Result<(), StoreError> {
        self.telling.incident_key = self.rooms.alerts.incident_key().await?;
        self.restore_policy(now).await?;
        if self.record.group.is_none() {
            // The last candidate was unmarked, and central ended before that was told.
            self.policy.handle_up(now);
        }
        self.read_alerts(now).await;
        Ok(())
    }

    async fn restore_policy(&mut self, now: Instant) -> Result<(), StoreError> {
        let (snapshot, unchanged) = self.rooms.alerts.policy().await?;
        self.telling.stored = Some(Stored::of(&snapshot));
        self.telling.unchanged = Some(unchanged);
        self.policy = alerting::Policy::restore(snapshot, self.settings.hold_down, now, SystemTime::now());
        Ok(())
    }

    /// Another owner of this Environment, a second node of central, has told meanwhile: what it wrote stands, and
    /// what was decided here of the same outage is told by nobody.
    async fn follow_another_owner(&mut self, now: Instant) -> Result<(), StoreError> {
        self.restore_policy(now).await?;
        self.telling.pending.retain(|alert| !matches!(alert.kind, Kind::Down | Kind::Up));
        self.pending_events.retain(|event| event.code != RAISED && event.code != CLEARED);
        self.read_alerts(now).await;
        match self.processor.state() {
            GatewayState::Idle | GatewayState::Up => self.policy.handle_up(now),
            GatewayState::Down => self.outage(now),
            GatewayState::Connecting => {}
        }
        Ok(())
    }

    /// Whether anybody is to be told, and after how long, was set anew.
    pub(super) async fn read_alerts(&mut self, now: Instant) {
        let settings = match self.rooms.alerts.settings().await {
            Ok(settings) => settings,
            Err(error) => {
                tracing::error!(environment = %self.environment.name, %error, "The alerts' settings cannot be read; those before hold");
                return;
            }
        };
        let wall = OffsetDateTime::now_utc();
        self.telling.speaks_at = settings
            .maintenance
            .as_ref()
            .filter(|_| settings.is_silent(wall))
            .map(|maintenance| now + Duration::try_from(maintenance.until - wall).unwrap_or_default());
        self.policy.set_hold_down(settings.hold_down());
        let anybody = settings.recipients().next().is_some();
        self.policy.set_endpoints_configured(anybody && self.telling.speaks_at.is_none());
    }

    /// A candidate was given up: whoever reads the alert wants to know who was tried.
    pub(super) fn tried(&mut self, name: String, outcome: String) {
        // More than one round of the largest group says nothing new.
        if self.telling.tried.len() < crate::process_server::group::SEATS_MAX {
            self.telling.tried.push(Tried { name, outcome });
        }
    }

    /// Nothing is left to try.
    pub(super) fn outage(&mut self, now: Instant) {
        let environment = self.environment.name.to_string();
        let candidates = self.telling.tried.len();
        let summary = match candidates {
            0 => "The Secure Gateway is down: no candidate is connected to central".to_owned(),
            1 => "The Secure Gateway is down: its only candidate has no secure connection".to_owned(),
            many => format!("The Secure Gateway is down: none of {many} candidates has a secure connection"),
        };
        let link = self.settings.pages.failover(self.chronicle.id());
        let context = Context { environment, summary, tried: self.telling.tried.clone(), link };
        let id = IncidentId::new(proto::SessionId::random().to_string());
        let incident = Incident::new(id, OffsetDateTime::now_utc(), context);
        let key = self.telling.incident_key.clone();
        self.policy.handle_down(now, Incident { key, ..incident });
    }

    /// A secure connection is operational.
    pub(super) fn outage_over(&mut self, now: Instant) {
        self.telling.tried.clear();
        self.telling.key_is_spent = true;
        self.policy.handle_up(now);
    }

    /// Gives the next outage a key of its own, once the last one is over. What cannot be written now is tried
    /// again with the next change; until then two outages share a key, and each still has its down and up.
    pub(super) async fn renew_incident_key(&mut self) {
        if !self.telling.key_is_spent {
            return;
        }
        match self.rooms.alerts.renew_incident_key().await {
            Ok(key) => {
                self.telling.key_is_spent = false;
                self.telling.incident_key = key;
                for link in self.environment.registry.links() {
                    link.tell(self.incident_key());
                }
            }
            Err(error) => {
                tracing::warn!(environment = %self.environment.name, %error, "The next outage has no key of its own yet");
            }
        }
    }

    /// What agents are told of it.
    pub(super) fn incident_key(&self) -> CentralMessage {
        CentralMessage::IncidentKey { key: self.telling.incident_key.clone() }
    }

    /// An occasion that has no outage.
    pub(super) fn tell_of(&mut self, kind: Kind, summary: String, details: &[(&str, String)]) {
        let detail = |name: &str| details.iter().find(|(given, _)| *given == name).map(|(_, value)| value);
        let server = detail("candidate").or(detail("process_server")).and_then(|name| name.parse().ok());
        let pages = &self.settings.pages;
        let link = match (kind, server) {
            (Kind::Failover, _) => pages.failover(self.chronicle.id()),
            (_, Some(server)) => pages.process_server(&server),
            (_, None) => pages.of(kind, detail("destination").map(String::as_str)),
        };
        let environment = self.environment.name.to_string();
        let context = Context { environment, summary, tried: Vec::new(), link };
        let id = IncidentId::new(proto::SessionId::random().to_string());
        let mut alert = Alert::about(kind, id, context, OffsetDateTime::now_utc());
        alert.details.extend(details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.chronicle.alerted(kind.name(), OffsetDateTime::now_utc());
        self.telling.pending.push(alert);
    }

    /// Tells when the next loss would be one too many. Only while it works: an outage says more.
    pub(super) fn watch_tolerance(&mut self) {
        let Some(losses) = self.losses_bearable() else { return };
        if self.processor.state() != GatewayState::Up {
            return;
        }
        let bears = losses > 0;
        // A group of one never could.
        if self.telling.could_bear.replace(bears) == Some(true) && !bears {
            let summary =
                "The Secure Gateway works, but the next loss of a host stops it from moving".to_owned();
            self.note("tolerance_lost", summary.clone());
            self.tell_of(Kind::ToleranceLost, summary, &[]);
        }
    }

    /// Tells of a candidate that has been away for a while: it cannot take over.
    pub(super) fn watch_silence(&mut self, now: Instant) {
        let away: Vec<_> = self
            .servers
            .values()
            .filter(|server| server.candidate && self.environment.registry.link(server.agent).is_none())
            .map(|server| (server.agent, server.name.clone()))
            .collect();
        self.telling.silent.retain(|agent, _| away.iter().any(|(silent, _)| silent == agent));
        for (agent, name) in away {
            let (since, told) = self.telling.silent.entry(agent).or_insert((now, false));
            if now.saturating_duration_since(*since) < SILENCE || std::mem::replace(told, true) {
                continue;
            }
            let summary =
                format!("The candidate {name} has been silent for {} minutes", SILENCE.as_secs() / 60);
            self.note_of(&name, "candidate_silent", summary.clone());
            self.tell_of(Kind::CandidateSilent, summary, &[("candidate", name.to_string())]);
        }
    }

    /// Tells of a connected agent whose certificate is not renewed: when it expires, the agent is locked out.
    pub(super) fn watch_certificates(&mut self, wall: OffsetDateTime) {
        let links = self.environment.registry.links();
        self.telling.expiring.retain(|agent, _| links.iter().any(|link| link.agent == *agent));
        for link in links.iter().filter(|link| link.certificate.expiring_from() <= wall) {
            let expires = link.certificate.not_after;
            if self.telling.expiring.insert(link.agent, expires) == Some(expires) {
                continue;
            }
            let at = expires.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
            let summary = format!(
                "The certificate of {} expires at {at} and has not been renewed: look at the agent's log on its host",
                link.name
            );
            self.note_of(&link.name, "certificate_expiring", summary.clone());
            let details = [("process_server", link.name.to_string()), ("expires_at", at)];
            self.tell_of(Kind::CertificateExpiring, summary, &details);
        }
    }

    /// Takes over what the policy decided, and writes what happened and what is to be told of it: all of it
    /// or nothing.
    pub(super) async fn write_down(&mut self, now: Instant) {
        while let Some(event) = self.policy.poll_event() {
            match event {
                alerting::Event::Raised(_) => {
                    self.note(RAISED, format!("{} was raised", alerting::EVENT_NAME));
                }
                alerting::Event::Cleared(_) => {
                    self.note(CLEARED, format!("{} was cleared", alerting::EVENT_NAME));
                }
            }
        }
        let wall = OffsetDateTime::now_utc();
        while let Some(transition) = self.policy.poll_transmit() {
            let alert = Alert::of(transition, wall);
            self.chronicle.alerted(alert.kind.name(), wall);
            self.telling.pending.push(alert);
        }
        // With the policy's state go the outages that it has decided; what else there is may follow.
        self.telling.pending.sort_by_key(|alert| !matches!(alert.kind, Kind::Down | Kind::Up));
        let snapshot = self.policy.snapshot(now, SystemTime::now());
        let state = Stored::of(&snapshot);
        loop {
            let told = self.telling.pending.is_empty() && self.telling.stored.as_ref() == Some(&state);
            if told && self.pending_events.is_empty() {
                self.telling.retry_at = None;
                return;
            }
            let events: Vec<_> = self.pending_events.iter().take(EVENTS_AT_ONCE).cloned().collect();
            let taken = events.len();
            let alerts: Vec<_> = self.telling.pending.iter().take(ALERTS_AT_ONCE).cloned().collect();
            let unchanged = self.telling.unchanged.unwrap_or(Precondition::Absent);
            let written = match self.rooms.alerts.tell(events, (&snapshot, unchanged), &alerts, wall).await {
                Err(StoreError::Conflict(_)) => match self.follow_another_owner(now).await {
                    Ok(()) => {
                        self.telling.retry_at = Some(now);
                        return;
                    }
                    Err(error) => Err(error),
                },
                written => written.map(|unchanged| self.telling.unchanged = Some(unchanged)),
            };
            if let Err(error) = written {
                tracing::error!(environment = %self.environment.name, %error, "What happened could not be recorded, and whom it concerns is not told yet");
                let surplus = self.pending_events.len().saturating_sub(EVENTS_WAITING_MAX);
                self.pending_events.drain(..surplus);
                let surplus = self.telling.pending.len().saturating_sub(ALERTS_WAITING_MAX);
                // Outages stand first, so the newest of the rest go.
                self.telling.pending.truncate(ALERTS_WAITING_MAX);
                if surplus > 0 {
                    tracing::error!(environment = %self.environment.name, surplus, "Alerts were dropped: the store takes none");
                }
                self.telling.retry_at = Some(now + RETRY);
                return;
            }
            self.pending_events.drain(..taken);
            if !alerts.is_empty() {
                self.telling.pending.drain(..alerts.len());
                self.rooms.nudge.ring();
            }
            self.telling.stored = Some(state.clone());
        }
    }

    /// When there is something to do here.
    pub(super) fn telling_timeout(&self) -> Option<Instant> {
        let silent =
            self.telling.silent.values().filter(|(_, told)| !told).map(|(since, _)| *since + SILENCE);
        let wall = OffsetDateTime::now_utc();
        let links = self.environment.registry.links();
        let untold = links
            .iter()
            .filter(|link| self.telling.expiring.get(&link.agent) != Some(&link.certificate.not_after));
        let expiring = untold.map(|link| {
            // Clocks may be set: it looks again within the hour.
            let wait = Duration::try_from(link.certificate.expiring_from() - wall).unwrap_or_default();
            Instant::now() + wait.min(CERTIFICATES_LOOK)
        });
        silent.chain(expiring).chain(self.telling.retry_at).chain(self.telling.speaks_at).min()
    }

    /// The end of maintenance.
    pub(super) async fn look_after_telling(&mut self, now: Instant) {
        if self.telling.speaks_at.is_some_and(|at| at <= now) {
            self.read_alerts(now).await;
        }
    }
}
