//! Sends an Environment's deliveries when they are due, one attempt at a time to each endpoint.
//!
//! ```text
//!   due ──► begin (compare-and-set) ──► attempt, in a task of its own ──► finish (compare-and-set) ──► effects
//!    ▲                                                                          │
//!    └───── the earliest next attempt, or a nudge ◄─────────────────────────────┘
//! ```

use std::{sync::Arc, time::Duration};

use alerting::{
    Alert, Context, Courier, Delivery, IncidentId, Kind,
    outbox::{self, Attempt, Effect},
};
use proto::EnvironmentName;
use time::OffsetDateTime;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    book::Book,
    settings::{Settings, SettingsError},
};
use crate::{
    events::{NewEvent, Severity},
    store::{StoreError, Versioned},
};

/// How soon a store that could not be read is read again.
const STORE_RETRY: Duration = Duration::from_secs(5);
/// The longest it sleeps: clocks may be set.
const LOOK: Duration = Duration::from_secs(60);
/// Who speaks in events.
const SENDER: &str = "alerts";

/// Wakes a dispatcher: something may be due. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    pub fn ring(&self) {
        self.0.notify_one();
    }
}

/// Sees to it that what is due is sent. One per Environment.
pub struct Dispatcher {
    environment: EnvironmentName,
    book: Book,
    courier: Courier,
    nudge: Nudge,
    /// Unique to this run of central: what another had in hand is taken over.
    me: String,
    attempts: JoinSet<(Delivery, Attempt)>,
}

impl Dispatcher {
    pub fn new(environment: EnvironmentName, book: Book, courier: Courier, nudge: Nudge) -> Self {
        let me = proto::SessionId::random().to_string();
        Self { environment, book, courier, nudge, me, attempts: JoinSet::new() }
    }

    /// Runs until `stop`. An attempt that is under way then is made again at the next start, under the
    /// same id.
    pub async fn run(mut self, stop: CancellationToken) {
        self.take_over().await;
        loop {
            let wait = match self.send_what_is_due().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(environment = %self.environment, %error, "Alerts wait: what is to be sent cannot be read or kept");
                    STORE_RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.nudge.0.notified() => {}
                () = tokio::time::sleep(wait) => {}
                Some(ended) = self.attempts.join_next() => match ended {
                    Ok((begun, attempt)) => self.finish(begun, attempt).await,
                    // Its lease runs out, and it is tried again.
                    Err(error) => tracing::error!(%error, "An attempt to send an alert panicked"),
                },
            }
        }
    }

    /// What an earlier run of this central had in hand when it ended. It is the only one that sends.
    async fn take_over(&self) {
        let now = OffsetDateTime::now_utc();
        let Ok(deliveries) = self.book.deliveries().await else { return };
        for read in deliveries {
            let released = read.value.release(now);
            if released != read.value
                && let Err(error) = self.book.replace(&read, &released).await
            {
                tracing::warn!(delivery = %released.id, %error, "An unfinished delivery waits for its lease to end");
            }
        }
    }

    /// Begins what is due. Returns how long nothing else will be.
    async fn send_what_is_due(&mut self) -> Result<Duration, SettingsError> {
        let now = OffsetDateTime::now_utc();
        let stored = self.book.deliveries().await?;
        let deliveries: Vec<Delivery> = stored.iter().map(|stored| stored.value.clone()).collect();
        let due: Vec<Delivery> = outbox::due(&deliveries, now).into_iter().cloned().collect();
        if !due.is_empty() {
            let settings = self.book.settings().await?;
            for delivery in due {
                if let Some(read) = stored.iter().find(|stored| stored.value.id == delivery.id) {
                    self.begin(read, &settings, now).await?;
                }
            }
        }
        let stored = self.book.deliveries().await?;
        let deliveries: Vec<Delivery> = stored.iter().map(|stored| stored.value.clone()).collect();
        self.book.clear(stored, now).await?;
        let next = outbox::next_due(&deliveries).map_or(LOOK, |at| (at - now).try_into().unwrap_or_default());
        Ok(next.clamp(Duration::from_millis(10), LOOK))
    }

    async fn begin(
        &mut self,
        read: &Versioned<Delivery>,
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let endpoint =
            settings.alerts.endpoint(&read.value.endpoint).filter(|endpoint| endpoint.is_enabled());
        let Some(endpoint) = endpoint.cloned() else {
            let given_up = read.value.give_up("its endpoint was removed or switched off", now);
            return settled(self.book.replace(read, &given_up).await);
        };
        let Some(begun) = read.value.begin(&self.me, now) else { return Ok(()) };
        match self.book.replace(read, &begun).await {
            Ok(()) => {}
            Err(StoreError::Conflict(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        let courier = self.courier.clone();
        self.attempts.spawn(async move {
            let attempt = courier.attempt(&endpoint, &begun.id, &begun.alert, now).await;
            (begun, attempt)
        });
        Ok(())
    }

    async fn finish(&self, begun: Delivery, attempt: Attempt) {
        let now = OffsetDateTime::now_utc();
        let (dice, mut effect) = (rand::random(), None);
        let finished = self.book.change(&begun.id, |stored| {
            // Sent again or given up by an administrator meanwhile: that stands.
            if stored.state != begun.state {
                return None;
            }
            let (next, follows) = stored.finish(attempt.clone(), now, dice);
            effect = follows;
            Some(next)
        });
        if let Err(error) = finished.await {
            tracing::error!(environment = %self.environment, delivery = %begun.id, %error, "The end of an attempt could not be kept: the alert will be sent again");
            return;
        }
        match effect {
            None => {}
            Some(Effect::DisableEndpoint { endpoint, why }) => self.disable(&endpoint, &why).await,
            Some(Effect::Failing { endpoint, why }) => self.failing(&endpoint, &why, now).await,
            Some(Effect::GivenUp { endpoint, why }) => {
                let text = format!("The alert {} to {endpoint} was given up: {why}", begun.alert.kind.name());
                self.book.note(event("alert_given_up", text)).await;
            }
        }
    }

    /// The receiver is gone and said so: nothing more is sent until somebody switches it on again.
    async fn disable(&self, endpoint: &str, why: &str) {
        let disabled = async {
            let settings = self.book.settings().await?;
            let without = settings.alerts.disable(endpoint, why);
            self.book.set(&settings.telling(without)).await
        };
        let text = match disabled.await {
            Ok(()) => format!("The alert endpoint {endpoint} was switched off: {why}"),
            Err(error) => format!("The alert endpoint {endpoint} should be switched off ({why}): {error}"),
        };
        self.book.note(event("alert_endpoint_disabled", text)).await;
    }

    /// Whoever else can be told is told that this one cannot.
    async fn failing(&self, endpoint: &str, why: &str, at: OffsetDateTime) {
        let summary = format!("Alerts do not reach {endpoint}: {why}");
        let id = IncidentId::new(proto::SessionId::random().to_string());
        let context = Context {
            environment: self.environment.to_string(),
            summary: summary.clone(),
            ..Context::default()
        };
        let mut alert = Alert::about(Kind::DeliveriesFailing, id, context, at);
        alert.details.insert("endpoint".into(), endpoint.to_owned());
        if let Err(error) = self.book.say(vec![event("alert_failing", summary)], &[alert], at).await {
            tracing::error!(environment = %self.environment, endpoint, %error, "That alerts do not arrive could not be told");
        }
    }
}

fn event(code: &'static str, text: String) -> NewEvent {
    NewEvent { code, severity: Severity::Warning, text, sender: SENDER.to_owned() }
}

/// Somebody else was first: the next look sees what became of it.
fn settled(replaced: Result<(), StoreError>) -> Result<(), StoreError> {
    match replaced {
        Err(StoreError::Conflict(_)) => Ok(()),
        other => other,
    }
}
