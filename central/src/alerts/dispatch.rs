//! Sends an Environment's deliveries when they are due, one attempt at a time to each endpoint.
//!
//! ```text
//!   due ──► begin (compare-and-set) ──► attempt, in a task of its own ──► finish (compare-and-set) ──► effects
//!    ▲                                                                          │
//!    └───── the earliest next attempt, or a nudge ◄─────────────────────────────┘
//! ```

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use alerting::{
    Alert, Context, Courier, Delivery, DeliveryId, IncidentId, Kind,
    outbox::{self, Attempt, Effect},
};
use proto::EnvironmentName;
use time::OffsetDateTime;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    book::Book,
    pages::Pages,
    settings::{Settings, SettingsError},
    tally::Tally,
};
use crate::{
    events::{NewEvent, Severity},
    store::{StoreError, Versioned},
};

/// How soon a store that could not be read is read again.
const STORE_RETRY: Duration = Duration::from_secs(5);
/// The longest it sleeps: clocks may be set.
const LOOK: Duration = Duration::from_secs(60);
/// And the shortest: a clock's ticks are coarse.
const SHORTEST: Duration = Duration::from_millis(10);
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
    pages: Pages,
    tally: Tally,
    /// Unique to this run of central: what another had in hand is taken over.
    me: String,
    attempts: JoinSet<(Delivery, Attempt)>,
    /// All that is stored, as it was when somebody else may have changed it last. Thousands may wait for a receiver
    /// that is away: they are not read again for each attempt.
    seen: Option<Vec<Versioned<Delivery>>>,
}

impl Dispatcher {
    pub fn new(
        environment: EnvironmentName,
        book: Book,
        courier: Courier,
        nudge: Nudge,
        pages: Pages,
        tally: Tally,
    ) -> Self {
        let me = proto::SessionId::random().to_string();
        Self { environment, book, courier, nudge, pages, tally, me, attempts: JoinSet::new(), seen: None }
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
                    self.seen = None;
                    STORE_RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                // Whoever stores a delivery or changes one rings.
                () = self.nudge.0.notified() => self.seen = None,
                () = tokio::time::sleep(wait) => if wait == LOOK { self.seen = None },
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
        let mut seen = match self.seen.take() {
            Some(seen) => seen,
            None => self.book.deliveries().await?,
        };
        let due: BTreeSet<DeliveryId> = outbox::due(seen.iter().map(|read| &read.value), now)
            .into_iter()
            .map(|delivery| delivery.id.clone())
            .collect();
        let mut all_known = true;
        if !due.is_empty() {
            let settings = self.book.settings().await?;
            for read in seen.iter_mut().filter(|read| due.contains(&read.value.id)) {
                all_known &= self.begin(read, &settings, now).await?;
            }
        }
        all_known &= !self.book.clear(&seen, now).await?;
        if !all_known {
            // Somebody else was first, or much was cleared away: it is looked at again at once.
            return Ok(SHORTEST);
        }
        let next = outbox::next_due(seen.iter().map(|read| &read.value));
        let next = next.map_or(LOOK, |at| (at - now).try_into().unwrap_or_default());
        self.seen = Some(seen);
        Ok(next.clamp(SHORTEST, LOOK))
    }

    /// Begins an attempt. Returns whether `read` is now as it is stored.
    async fn begin(
        &mut self,
        read: &mut Versioned<Delivery>,
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let endpoint =
            settings.alerts.endpoint(&read.value.endpoint).filter(|endpoint| endpoint.is_enabled());
        let Some(endpoint) = endpoint.cloned() else {
            let given_up = read.value.give_up("its endpoint was removed or switched off", now);
            let put = self.put(read, given_up).await?;
            if put {
                self.tally.count(&read.value.endpoint, &read.value.state);
            }
            return Ok(put);
        };
        let Some(begun) = read.value.begin(&self.me, now) else { return Ok(true) };
        if !self.put(read, begun.clone()).await? {
            return Ok(false);
        }
        let courier = self.courier.clone();
        self.attempts.spawn(async move {
            let attempt = courier.attempt(&endpoint, &begun.id, &begun.alert, now).await;
            (begun, attempt)
        });
        Ok(true)
    }

    /// Puts `next` in the place of `read`. `false` where somebody changed it meanwhile: that stands.
    async fn put(&self, read: &mut Versioned<Delivery>, next: Delivery) -> Result<bool, StoreError> {
        match self.book.replace(read, &next).await {
            Ok(version) => {
                read.version = version;
                read.value = next;
                Ok(true)
            }
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn finish(&mut self, begun: Delivery, attempt: Attempt) {
        let now = OffsetDateTime::now_utc();
        let effect = match self.keep_end(&begun, attempt, now).await {
            Ok(effect) => effect,
            Err(error) => {
                tracing::error!(environment = %self.environment, delivery = %begun.id, %error, "The end of an attempt could not be kept: the alert will be sent again");
                self.seen = None;
                return;
            }
        };
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

    /// Stores how an attempt ended, unless it was sent again or given up by an administrator meanwhile.
    async fn keep_end(
        &mut self,
        begun: &Delivery,
        attempt: Attempt,
        now: OffsetDateTime,
    ) -> Result<Option<Effect>, StoreError> {
        let stored = self.book.delivery(&begun.id).await?;
        let Some(mut read) = stored.filter(|read| read.value.state == begun.state) else {
            self.seen = None;
            return Ok(None);
        };
        let (next, effect) = read.value.finish(attempt, now, rand::random());
        if !self.put(&mut read, next).await? {
            self.seen = None;
            return Ok(None);
        }
        self.tally.count(&read.value.endpoint, &read.value.state);
        let seen = self.seen.as_mut().and_then(|seen| seen.iter_mut().find(|seen| seen.key == read.key));
        match seen {
            Some(seen) => *seen = read,
            None => self.seen = None,
        }
        Ok(effect)
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
    async fn failing(&mut self, endpoint: &str, why: &str, at: OffsetDateTime) {
        let summary = format!("Alerts do not reach {endpoint}: {why}");
        let id = IncidentId::new(proto::SessionId::random().to_string());
        let context = Context {
            environment: self.environment.to_string(),
            summary: summary.clone(),
            link: self.pages.of(Kind::DeliveriesFailing, None),
            ..Context::default()
        };
        let mut alert = Alert::about(Kind::DeliveriesFailing, id, context, at);
        alert.details.insert("endpoint".into(), endpoint.to_owned());
        self.seen = None;
        if let Err(error) = self.book.say(vec![event("alert_failing", summary)], &[alert], at).await {
            tracing::error!(environment = %self.environment, endpoint, %error, "That alerts do not arrive could not be told");
        }
    }
}

fn event(code: &'static str, text: String) -> NewEvent {
    NewEvent { code, severity: Severity::Warning, text, sender: SENDER.to_owned() }
}
