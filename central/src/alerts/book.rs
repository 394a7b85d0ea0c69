//! What is kept of an Environment's alerts: settings, the policy's state, the outbox.

use std::{collections::BTreeSet, time::Duration};

use alerting::{Alert, Delivery, DeliveryId, Kind, Snapshot, outbox};
use proto::EnvironmentName;
use time::OffsetDateTime;

use super::settings::{Settings, SettingsError};
use crate::{
    events::{CLEARED_PER_APPEND, Events, NewEvent},
    store::{
        Collection, Owner, Precondition, SharedStore, StoreError, Transaction, Versioned, WRITES_MAX, Write,
    },
};

const POLICY: Collection<Snapshot> = Collection::new("alert_policy");
const INCIDENT_KEYS: Collection<String> = Collection::new("alert_incident_keys");
const DELIVERIES: Collection<Delivery> = Collection::new("alert_deliveries");
/// An Environment has one Secure Gateway.
const KEY: &str = "gateway";

/// How many deliveries that are over are kept to be looked at.
const KEPT_MAX: usize = 500;
/// How many may wait: an outage a minute for the 48 hours after which each is given up anyway, and more.
const OPEN_MAX: usize = 5000;
/// Alerts and events that [`Book::tell`] takes at once.
pub const ALERTS_AT_ONCE: usize = 4;
pub const EVENTS_AT_ONCE: usize = 32;
/// A transaction with both, an event log that is full, its head and the policy must fit into the store's
/// bound: one that does not would be refused for ever.
const _: () = assert!(
    ALERTS_AT_ONCE * alerting::alerts::ENDPOINTS_MAX + EVENTS_AT_ONCE + CLEARED_PER_APPEND as usize + 2
        <= WRITES_MAX
);
/// How many are cleared away in one transaction.
const CLEARED_AT_ONCE: usize = 100;

/// The alerts of one Environment. Cheap to clone.
#[derive(Clone)]
pub struct Book {
    store: SharedStore,
    owner: Owner,
    events: Events,
    hold_down: Duration,
}

impl Book {
    /// `hold_down` holds until an administrator sets another.
    pub fn new(store: SharedStore, environment: &EnvironmentName, hold_down: Duration) -> Self {
        Self { events: Events::new(store.clone(), environment), owner: environment.into(), store, hold_down }
    }

    /// The operator's, from central's own configuration.
    pub fn hold_down(&self) -> Duration {
        self.hold_down
    }

    /// What an administrator set.
    pub async fn settings(&self) -> Result<Settings, SettingsError> {
        Settings::read(&self.store, &self.owner, self.hold_down).await
    }

    /// The same for whoever sets others: also when those that are stored cannot be used any more.
    pub async fn settings_for_replacing(&self) -> Result<Settings, StoreError> {
        let (settings, _) = Settings::read_for_replacing(&self.store, &self.owner, self.hold_down).await?;
        Ok(settings)
    }

    /// Writes settings in the place of those they were read from.
    pub async fn set(&self, settings: &Settings) -> Result<(), SettingsError> {
        settings.write(&self.store, &self.owner).await
    }

    /// The policy's state as it was last told.
    pub async fn policy(&self) -> Result<Snapshot, StoreError> {
        let stored = POLICY.get(&*self.store, &self.owner, KEY).await?;
        Ok(stored.map_or(Snapshot::Up, |stored| stored.value))
    }

    /// The key under which the next outage is told, here and by the agents; it outlives central, because an
    /// outage that both tell of may be central's own.
    pub async fn incident_key(&self) -> Result<String, StoreError> {
        match INCIDENT_KEYS.get(&*self.store, &self.owner, KEY).await? {
            Some(stored) => Ok(stored.value),
            None => self.renew_incident_key().await,
        }
    }

    /// Another key, because an outage that may have been told under the last one is over.
    pub async fn renew_incident_key(&self) -> Result<String, StoreError> {
        let key = format!("postern-{}", proto::SessionId::random());
        let put = INCIDENT_KEYS.put(&self.owner, KEY, Precondition::Any, &key)?;
        self.store.commit(Transaction::from(put)).await?;
        Ok(key)
    }

    /// Writes what the policy decided: the events, its state afterwards, and a delivery for each alert and
    /// endpoint. All of it or nothing; what was written before, because an answer got lost, is not written
    /// again. At most [`ALERTS_AT_ONCE`] and [`EVENTS_AT_ONCE`].
    pub async fn tell(
        &self,
        events: Vec<NewEvent>,
        policy: &Snapshot,
        alerts: &[Alert],
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let mut writes = vec![POLICY.put(&self.owner, KEY, Precondition::Any, policy)?];
        self.put_planned(alerts, at, &mut writes).await?;
        self.events.append_with(events, at, writes).await?;
        Ok(())
    }

    /// The same for an alert that the policy has no part in.
    pub async fn say(
        &self,
        events: Vec<NewEvent>,
        alerts: &[Alert],
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let mut writes = Vec::new();
        self.put_planned(alerts, at, &mut writes).await?;
        self.events.append_with(events, at, writes).await?;
        Ok(())
    }

    async fn put_planned(
        &self,
        alerts: &[Alert],
        at: OffsetDateTime,
        writes: &mut Vec<Write>,
    ) -> Result<(), StoreError> {
        for delivery in self.planned(alerts, at).await? {
            let key = delivery.id.as_str();
            writes.push(DELIVERIES.put(&self.owner, key, Precondition::Absent, &delivery)?);
        }
        Ok(())
    }

    /// The deliveries that these alerts take and that are not there yet.
    async fn planned(&self, alerts: &[Alert], at: OffsetDateTime) -> Result<Vec<Delivery>, StoreError> {
        if alerts.is_empty() {
            return Ok(Vec::new());
        }
        let settings = match self.settings().await {
            Ok(settings) => settings,
            Err(SettingsError::Store(error)) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "Nobody can be told: save the alerts' settings again");
                return Ok(Vec::new());
            }
        };
        let stored = self.stored_ids().await?;
        let mut planned: Vec<Delivery> = Vec::new();
        for alert in alerts {
            if settings.is_silent(at) && alert.kind != Kind::Up {
                continue;
            }
            // The down that an up ends may be of this very transaction.
            let told = |id: &DeliveryId| stored.contains(id) || planned.iter().any(|p| p.id == *id);
            let more = outbox::plan(alert, settings.recipients(), told, at);
            planned.extend(more.into_iter().filter(|delivery| !stored.contains(&delivery.id)));
        }
        Ok(planned)
    }

    async fn stored_ids(&self) -> Result<BTreeSet<DeliveryId>, StoreError> {
        let stored = DELIVERIES.all(&*self.store, &self.owner).await?;
        Ok(stored.into_iter().map(|stored| stored.value.id).collect())
    }

    /// Every delivery that is kept.
    pub async fn deliveries(&self) -> Result<Vec<Versioned<Delivery>>, StoreError> {
        DELIVERIES.all(&*self.store, &self.owner).await
    }

    /// Puts `next` in the place of a delivery that nobody changed meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where somebody did.
    pub async fn replace(&self, read: &Versioned<Delivery>, next: &Delivery) -> Result<(), StoreError> {
        let put = DELIVERIES.put(&self.owner, &read.key, read.unchanged(), next)?;
        self.store.commit(Transaction::from(put)).await?;
        Ok(())
    }

    /// Lets `change` replace a delivery; `None` leaves it, and one that is gone stays gone.
    pub async fn change(
        &self,
        id: &DeliveryId,
        mut change: impl FnMut(&Delivery) -> Option<Delivery>,
    ) -> Result<Option<Delivery>, StoreError> {
        let changed = DELIVERIES.update(&*self.store, &self.owner, id.as_str(), |before| {
            Ok::<_, StoreError>(before.and_then(&mut change))
        });
        changed.await
    }

    /// Everything that waits is tried at once: an endpoint was mended.
    pub async fn hasten(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        for read in self.deliveries().await? {
            let hastened = read.value.hasten(now);
            if hastened != read.value {
                match self.replace(&read, &hastened).await {
                    // It is being sent: soon enough.
                    Ok(()) | Err(StoreError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Forgets the oldest of those that are over, and gives up the oldest of those that wait, so that
    /// neither grows without end.
    pub async fn clear(&self, all: Vec<Versioned<Delivery>>, now: OffsetDateTime) -> Result<(), StoreError> {
        let (mut open, mut over): (Vec<_>, Vec<_>) = all.into_iter().partition(|d| d.value.is_open());
        over.sort_by_key(|delivery| std::cmp::Reverse(delivery.value.created_at));
        for some in over.split_off(over.len().min(KEPT_MAX)).chunks(CLEARED_AT_ONCE) {
            let transaction = some.iter().fold(Transaction::new(), |transaction, old| {
                transaction.with(DELIVERIES.delete(&self.owner, &old.key, old.unchanged()))
            });
            self.store.commit(transaction).await?;
        }
        open.sort_by_key(|delivery| std::cmp::Reverse(delivery.value.created_at));
        for old in open.split_off(open.len().min(OPEN_MAX)) {
            let given_up = old.value.give_up("too many alerts wait; the oldest are given up", now);
            self.replace(&old, &given_up).await?;
        }
        Ok(())
    }

    /// Notes something about alerts themselves.
    pub(super) async fn note(&self, event: NewEvent) {
        let code = event.code;
        if let Err(error) = self.events.append(event, OffsetDateTime::now_utc()).await {
            tracing::error!(%error, code, "An event could not be recorded");
        }
    }
}
