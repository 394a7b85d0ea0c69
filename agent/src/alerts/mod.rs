//! Tells people inside the network that central is out of reach, when central itself cannot.
//!
//! ```text
//!   app ── heard or not ──► Alerting ──► Outage: when       neighbours ◄──► the same room of other agents
//!   central ── the key ──►     │  └────► Book: what is told, on disk
//!                              └───────► Courier ──► webhook, mail
//! ```
//!
//! Central and this agent tell of one outage under one key, which central gave away beforehand, so a receiver takes
//! both for the same incident. Nothing here decides or delays anything of the gateway.

mod book;
mod outage;
mod rehearse;
mod settings;
mod undone;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use alerting::{
    Context, Delivery, Incident, IncidentId, Tried,
    incident::Transition,
    outbox::{self, Attempt, Effect},
};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use crate::identity::Identity;

pub use outage::Stance;
pub use rehearse::command as rehearse;
pub use settings::{Settings, SettingsError};

use book::Book;
use outage::{Neighbours, Outage, Step};
use undone::Undone;

/// The longest sleep while something waits: clocks may be set.
const LOOK: Duration = Duration::from_secs(60);
/// How soon a disk that took nothing is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How central is heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// On the control websocket or in the tunnel.
    pub heard: bool,
    /// Why not, as far as it is known.
    pub why: Option<String>,
    /// The key of the next outage, once central has said it.
    pub key: Option<String>,
}

/// A neighbour and what it said, for the alert.
#[derive(Debug, Clone)]
pub struct Neighbour {
    pub name: String,
    /// `None`: it did not answer.
    pub hears_central: Option<bool>,
    /// It tells of this outage, or will before this agent does.
    pub tells: bool,
}

/// Asks the other candidates of the group.
#[async_trait::async_trait]
pub trait AskNeighbours: Send + Sync {
    /// `None` when this agent has no seat. Ends within a few seconds.
    async fn ask(&self) -> Option<Vec<Neighbour>>;
    /// What this agent answers when it is asked.
    fn set_stance(&self, stance: Stance);
}

/// The room at work.
pub struct Alerting {
    settings: Settings,
    identity: watch::Receiver<Arc<Identity>>,
    reach: watch::Receiver<Reach>,
    neighbours: Arc<dyn AskNeighbours>,
    book: Book,
    outage: Outage,
    asking: JoinSet<Option<Vec<Neighbour>>>,
    attempts: JoinSet<(Delivery, Attempt)>,
    undone: Undone,
}

impl Alerting {
    /// Continues where the last run of this agent stopped telling.
    ///
    /// # Errors
    /// When what it kept cannot be read.
    pub fn open(
        settings: Settings,
        path: PathBuf,
        identity: watch::Receiver<Arc<Identity>>,
        reach: watch::Receiver<Reach>,
        neighbours: Arc<dyn AskNeighbours>,
    ) -> io::Result<Self> {
        let mut book = Book::open(path)?;
        // Without it each waits for its lease to end: no reason for an agent not to start.
        if let Err(error) = book.release(OffsetDateTime::now_utc()) {
            tracing::warn!(%error, "Alerts that were on their way wait a minute: their state cannot be written down");
        }
        let outage = Outage::new(settings.after, book.told().is_some(), Instant::now());
        let (asking, attempts) = (JoinSet::new(), JoinSet::new());
        Ok(Self {
            settings,
            identity,
            reach,
            neighbours,
            book,
            outage,
            asking,
            attempts,
            undone: Undone::default(),
        })
    }

    /// Runs until it is dropped. An attempt that is under way then is made again at the next start, under the same
    /// id.
    pub async fn run(mut self) {
        self.reach.mark_changed();
        let (mut tried, mut said) = (Vec::new(), None);
        loop {
            while let Some(step) = self.outage.poll_step() {
                match step {
                    Step::Ask => self.ask(),
                    Step::Down { .. } | Step::Up => self.undone.push(step, tried.clone()),
                }
            }
            self.tell();
            self.neighbours.set_stance(self.outage.stance(Instant::now()));
            let look = self.send_what_is_due();
            let due = self.outage.poll_timeout();
            tokio::select! {
                changed = self.reach.changed() => match changed {
                    Ok(()) => self.reached(),
                    Err(_) => return,
                },
                Some(asked) = self.asking.join_next() => {
                    let answers = asked.unwrap_or(None);
                    tried = self.tried(answers.as_deref().unwrap_or_default());
                    let answer = answers.as_deref().map(sum);
                    if std::mem::replace(&mut said, answer) != answer {
                        explain_silence(answer);
                    }
                    self.outage.handle_neighbours(answer, Instant::now());
                }
                Some(ended) = self.attempts.join_next() => match ended {
                    Ok((begun, attempt)) => self.finish(begun, attempt),
                    // Its lease runs out, and it is tried again.
                    Err(error) => tracing::error!(%error, "An attempt to send an alert panicked"),
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.outage.handle_timeout(Instant::now());
                }
                () = tokio::time::sleep(look) => {}
            }
        }
    }

    fn reached(&mut self) {
        let reach = self.reach.borrow_and_update().clone();
        self.outage.handle_heard(reach.heard, Instant::now());
        if let Some(key) = reach.key
            && let Err(error) = self.book.set_key(&key)
        {
            tracing::warn!(%error, "The key of the next outage could not be kept; alerts of it stand alone");
        }
    }

    fn ask(&mut self) {
        let neighbours = self.neighbours.clone();
        let _: AbortHandle = self.asking.spawn(async move { neighbours.ask().await });
    }

    /// Writes down what is to be told, as far as the disk takes it.
    fn tell(&mut self) {
        while let Some((step, tried)) = self.undone.next() {
            let now = OffsetDateTime::now_utc();
            let transition = match (step, self.book.told()) {
                (Step::Down { since }, _) => Some(Transition::Down(self.incident(since, tried, now))),
                (Step::Up, Some(incident)) => Some(Transition::Up(incident.clone())),
                (Step::Up, None) | (Step::Ask, _) => None,
            };
            if let Some(transition) = transition {
                if let Err(error) = self.book.tell(transition, self.settings.alerts.recipients(), now) {
                    tracing::error!(%error, "Central's absence is not told yet: it cannot be written down; free space on that disk");
                    return;
                }
                tracing::warn!(?step, "Central's absence is told to those set in agent.toml");
            }
            self.undone.done();
        }
    }

    fn incident(&self, since: Instant, tried: Vec<Tried>, now: OffsetDateTime) -> Incident {
        let identity = self.identity.borrow();
        let silent = Duration::from_secs(since.elapsed().as_secs());
        let summary = format!(
            "Central at {} has been out of reach for {}, as seen by {} and every other candidate it can ask",
            identity.central.authority(),
            humantime::format_duration(silent),
            identity.name,
        );
        let context = Context { environment: identity.environment.to_string(), summary, tried, link: None };
        let id = IncidentId::new(proto::SessionId::random().to_string());
        let incident = Incident::new(id, now - silent, context);
        match self.book.key() {
            Some(key) => Incident { key: key.to_owned(), ..incident },
            None => incident,
        }
    }

    /// What every candidate says, this one first.
    fn tried(&self, neighbours: &[Neighbour]) -> Vec<Tried> {
        let why = self.reach.borrow().why.clone();
        let own = Tried {
            name: self.identity.borrow().name.to_string(),
            outcome: why.unwrap_or_else(|| "does not hear central".to_owned()),
        };
        let others = neighbours.iter().map(|neighbour| Tried {
            name: neighbour.name.clone(),
            outcome: match neighbour.hears_central {
                Some(true) => "hears central",
                Some(false) => "does not hear central either",
                None => "did not answer",
            }
            .to_owned(),
        });
        std::iter::once(own).chain(others).collect()
    }

    /// Begins what is due; returns when to look again.
    fn send_what_is_due(&mut self) -> Duration {
        let now = OffsetDateTime::now_utc();
        if !self.undone.is_empty() {
            return RETRY;
        }
        let due: Vec<Delivery> = outbox::due(self.book.deliveries(), now).into_iter().cloned().collect();
        for delivery in due {
            let endpoint = self.settings.alerts.endpoint(&delivery.endpoint);
            let next = match endpoint.filter(|endpoint| endpoint.is_enabled()) {
                None => Some(delivery.give_up("its endpoint was removed or switched off", now)),
                Some(_) => delivery.begin("agent", now),
            };
            let Some(next) = next else { continue };
            if let Err(error) = self.book.replace(next.clone()) {
                tracing::error!(%error, "An alert waits: its state cannot be written down");
                return RETRY;
            }
            if let Some(endpoint) = endpoint.filter(|_| next.is_open()).cloned() {
                let courier = self.settings.courier.clone();
                self.attempts.spawn(async move {
                    let attempt = courier.attempt(&endpoint, &next.id, &next.alert, now).await;
                    (next, attempt)
                });
            }
        }
        let next = outbox::next_due(self.book.deliveries());
        next.map_or(LOOK, |at| (at - now).try_into().unwrap_or_default())
            .clamp(Duration::from_millis(10), LOOK)
    }

    fn finish(&mut self, begun: Delivery, attempt: Attempt) {
        let now = OffsetDateTime::now_utc();
        let (kind, endpoint, outcome) =
            (begun.alert.kind.name(), begun.endpoint.clone(), attempt.outcome.to_string());
        let (next, effect) = begun.finish(attempt, now, rand::random());
        if next.is_open() {
            tracing::warn!(kind, endpoint, outcome, "An alert was not taken; it will be tried again");
        } else {
            tracing::info!(kind, endpoint, outcome, "An alert is done with");
        }
        if let Err(error) = self.book.replace(next) {
            tracing::error!(%error, "The end of an attempt could not be written down: the alert will be sent again");
        }
        match effect {
            None | Some(Effect::Failing { .. } | Effect::GivenUp { .. }) => {}
            Some(Effect::DisableEndpoint { endpoint, why }) => {
                tracing::error!(
                    endpoint,
                    why,
                    "The receiver is gone; it is told nothing more until this agent restarts"
                );
                self.settings.alerts = self.settings.alerts.disable(&endpoint, &why);
            }
        }
    }
}

/// Whoever wonders why nobody was told finds it in the log.
fn explain_silence(answer: Option<Neighbours>) {
    let why = match answer {
        None => "this agent has no seat in the gateway group",
        Some(Neighbours { hear_central: true, .. }) => {
            "another candidate hears central, which tells of this one"
        }
        Some(Neighbours { tell: true, .. }) => "another candidate tells it",
        Some(_) => return,
    };
    tracing::info!(why, "Central is out of reach, and this agent tells nobody");
}

fn sum(neighbours: &[Neighbour]) -> Neighbours {
    Neighbours {
        hear_central: neighbours.iter().any(|neighbour| neighbour.hears_central == Some(true)),
        tell: neighbours.iter().any(|neighbour| neighbour.tells),
    }
}
