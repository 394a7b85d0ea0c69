//! What is kept of an Environment's alerts: settings, the policy's state, the outbox.

use std::{collections::BTreeSet, time::Duration};

use alerting::{Alert, Delivery, DeliveryId, Kind, Snapshot, outbox};
use proto::EnvironmentName;
use time::OffsetDateTime;

use super::settings::{self, Settings, SettingsError};
use crate::{
    events::{CLEARED_PER_APPEND, Events, NewEvent},
    store::{
        Collection, Owner, Precondition, Revision, SharedStore, StoreError, Transaction, Versioned,
        WRITES_MAX, Write,
    },
    vault::Vault,
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
    vault: Vault,
}

impl Book {
    /// `hold_down` holds until an administrator sets another; secrets are sealed by `vault`.
    pub fn new(store: SharedStore, environment: &EnvironmentName, hold_down: Duration, vault: Vault) -> Self {
        let events = Events::new(store.clone(), environment);
        Self { events, owner: environment.into(), store, hold_down, vault }
    }

    /// The operator's, from central's own configuration.
    pub fn hold_down(&self) -> Duration {
        self.hold_down
    }

    /// What an administrator set.
    pub async fn settings(&self) -> Result<Settings, SettingsError> {
        Settings::read(&self.store, &self.owner, self.hold_down, &self.vault).await
    }

    /// The same for whoever sets others: also when those that are stored cannot be used any more.
    pub async fn settings_for_replacing(&self) -> Result<Settings, StoreError> {
        let (hold_down, vault) = (self.hold_down, &self.vault);
        let (settings, _) = Settings::read_for_replacing(&self.store, &self.owner, hold_down, vault).await?;
        Ok(settings)
    }

    /// Writes settings in the place of those they were read from.
    pub async fn set(&self, settings: &Settings) -> Result<(), SettingsError> {
        settings.write(&self.store, &self.owner, &self.vault).await
    }

    /// Seals secrets that an earlier version of central stored in clear; says how many they were.
    pub async fn seal_secrets_in_clear(&self) -> Result<usize, StoreError> {
        settings::seal_secrets_in_clear(&self.store, &self.owner, &self.vault).await
    }

    /// The policy's state as it was last told, and what has to hold for replacing it: that nobody else did.
    pub async fn policy(&self) -> Result<(Snapshot, Precondition), StoreError> {
        let stored = POLICY.get(&*self.store, &self.owner, KEY).await?;
        Ok(stored.map_or((Snapshot::Up, Precondition::Absent), |stored| {
            (stored.value, Precondition::Version(stored.version))
        }))
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
    /// again. At most [`ALERTS_AT_ONCE`] and [`EVENTS_AT_ONCE`]. Returns what has to hold the next time.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where `unchanged` does not hold: another owner has told meanwhile. Nothing was
    /// written; read [`policy`](Self::policy) again and decide from there.
    pub async fn tell(
        &self,
        events: Vec<NewEvent>,
        (policy, unchanged): (&Snapshot, Precondition),
        alerts: &[Alert],
        at: OffsetDateTime,
    ) -> Result<Precondition, StoreError> {
        let mut writes = vec![POLICY.put(&self.owner, KEY, unchanged, policy)?];
        self.put_planned(alerts, at, &mut writes).await?;
        let (_, written) = self.events.append_with(events, at, writes).await?;
        Ok(Precondition::Version(written))
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
        let stored = self.stored_among(alerts, &settings).await?;
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

    /// Which of the deliveries that these alerts may take, or that they end, are stored. Asked for one by one:
    /// thousands may lie there after a long silence of a receiver.
    async fn stored_among(
        &self,
        alerts: &[Alert],
        settings: &Settings,
    ) -> Result<BTreeSet<DeliveryId>, StoreError> {
        let mut stored = BTreeSet::new();
        for alert in alerts {
            let ended = (alert.kind == Kind::Up).then_some(Kind::Down);
            for kind in ended.into_iter().chain([alert.kind]) {
                for to in settings.recipients() {
                    let id = DeliveryId::of(&alert.incident.id, kind, to.endpoint);
                    if DELIVERIES.get(&*self.store, &self.owner, id.as_str()).await?.is_some() {
                        stored.insert(id);
                    }
                }
            }
        }
        Ok(stored)
    }

    /// Every delivery that is kept.
    pub async fn deliveries(&self) -> Result<Vec<Versioned<Delivery>>, StoreError> {
        DELIVERIES.all(&*self.store, &self.owner).await
    }

    /// One of them.
    pub async fn delivery(&self, id: &DeliveryId) -> Result<Option<Versioned<Delivery>>, StoreError> {
        DELIVERIES.get(&*self.store, &self.owner, id.as_str()).await
    }

    /// Puts `next` in the place of a delivery that nobody changed meanwhile; returns its version.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where somebody did.
    pub async fn replace(&self, read: &Versioned<Delivery>, next: &Delivery) -> Result<Revision, StoreError> {
        let put = DELIVERIES.put(&self.owner, &read.key, read.unchanged(), next)?;
        self.store.commit(Transaction::from(put)).await
    }

    /// Everything that waits is tried at once: an endpoint was mended.
    pub async fn hasten(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        for read in self.deliveries().await? {
            let hastened = read.value.hasten(now);
            if hastened != read.value {
                match self.replace(&read, &hastened).await {
                    // It is being sent: soon enough.
                    Ok(_) | Err(StoreError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Forgets the oldest of those that are over, and gives up the oldest of those that wait, so that
    /// neither grows without end. Says whether it did anything.
    pub async fn clear(&self, all: &[Versioned<Delivery>], now: OffsetDateTime) -> Result<bool, StoreError> {
        let (mut open, mut over): (Vec<_>, Vec<_>) = all.iter().partition(|d| d.value.is_open());
        if over.len() <= KEPT_MAX && open.len() <= OPEN_MAX {
            return Ok(false);
        }
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
            self.replace(old, &given_up).await?;
        }
        Ok(true)
    }

    /// Notes something about alerts themselves.
    pub(super) async fn note(&self, event: NewEvent) {
        let code = event.code;
        if let Err(error) = self.events.append(event, OffsetDateTime::now_utc()).await {
            tracing::error!(%error, code, "An event could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Instant, SystemTime},
    };

    use alerting::{AddressRules, Alerts, Context, Incident, IncidentId, Policy};
    use serde_json::json;

    use super::*;
    use crate::{events::Severity, store::memory::MemoryStore};

    const S: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn of_two_owners_that_see_one_outage_one_tells_its_beginning_and_one_its_end() {
        let store: SharedStore = Arc::new(MemoryStore::default());
        set_endpoint(&book(&store)).await;
        let (mut first, mut second) = (Owning::of(&store).await, Owning::of(&store).await);

        first.sees_down("seen-by-first");
        second.sees_down("seen-by-second");
        assert!(first.tells().await, "nobody was before it");
        assert!(!second.tells().await, "the incident is taken");
        second.follow().await;
        assert_eq!(second.policy.incident().map(|incident| incident.id.as_str()), Some("seen-by-first"));
        assert!(second.tells().await, "and has nothing to add");

        // The tunnel comes back to the second, and the first hears of it.
        second.sees_up();
        first.sees_up();
        assert!(second.tells().await);
        assert!(!first.tells().await);
        first.follow().await;
        assert!(first.tells().await);

        let told: Vec<_> =
            book(&store).deliveries().await.unwrap().into_iter().map(|read| read.value).collect();
        let mut told: Vec<_> = told.iter().map(|d| (d.alert.kind, d.alert.incident.id.as_str())).collect();
        told.sort();
        assert_eq!(told, [(Kind::Down, "seen-by-first"), (Kind::Up, "seen-by-first")]);
        let events = first.book.events.list(0, 100).await.unwrap();
        let codes: Vec<_> = events.iter().map(|event| event.code.as_str()).collect();
        assert_eq!(codes, ["raised", "cleared"], "what was not told left no event either");
    }

    #[tokio::test]
    async fn an_owner_that_was_killed_after_telling_continues_and_tells_nothing_twice() {
        let store: SharedStore = Arc::new(MemoryStore::default());
        set_endpoint(&book(&store)).await;
        let mut owner = Owning::of(&store).await;
        owner.sees_down("outage");
        assert!(owner.tells().await);
        let mut next = Owning::of(&store).await;
        next.sees_down("the same, seen anew");
        assert!(next.tells().await);
        assert_eq!(book(&store).deliveries().await.unwrap().len(), 1);
    }

    /// As a Keeper owns an Environment's policy.
    struct Owning {
        book: Book,
        policy: Policy,
        unchanged: Precondition,
        now: Instant,
    }

    impl Owning {
        async fn of(store: &SharedStore) -> Self {
            let mut owning = Self {
                book: book(store),
                policy: Policy::new(Duration::ZERO),
                unchanged: Precondition::Absent,
                now: Instant::now(),
            };
            owning.follow().await;
            owning
        }

        async fn follow(&mut self) {
            let (snapshot, unchanged) = self.book.policy().await.unwrap();
            self.policy = Policy::restore(snapshot, Duration::ZERO, self.now, SystemTime::now());
            self.policy.set_endpoints_configured(true);
            self.unchanged = unchanged;
        }

        fn sees_down(&mut self, id: &str) {
            let incident = Incident::new(IncidentId::new(id), OffsetDateTime::UNIX_EPOCH, Context::default());
            self.policy.handle_down(self.now, incident);
            self.now += S;
        }

        fn sees_up(&mut self) {
            self.policy.handle_up(self.now);
            self.now += S;
        }

        /// Whether it was the one who told.
        async fn tells(&mut self) -> bool {
            let event = |event| NewEvent {
                code: if matches!(event, alerting::Event::Raised(_)) { "raised" } else { "cleared" },
                severity: Severity::Info,
                text: String::new(),
                sender: "gateway".into(),
            };
            let events = std::iter::from_fn(|| self.policy.poll_event()).map(event).collect();
            let at = OffsetDateTime::UNIX_EPOCH;
            let alerts: Vec<_> =
                std::iter::from_fn(|| self.policy.poll_transmit()).map(|told| Alert::of(told, at)).collect();
            let snapshot = self.policy.snapshot(self.now, SystemTime::now());
            match self.book.tell(events, (&snapshot, self.unchanged), &alerts, at).await {
                Ok(unchanged) => {
                    self.unchanged = unchanged;
                    true
                }
                Err(StoreError::Conflict(_)) => false,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn set_endpoint(book: &Book) {
        let document = json!({"endpoints": [{"name": "hook", "url": "https://hook.example"}]});
        let rules = AddressRules::new(|_| true);
        let alerts =
            Alerts::check(serde_json::from_value(document).unwrap(), &Alerts::default(), &rules).unwrap();
        let settings = book.settings().await.unwrap().telling(alerts);
        book.set(&settings).await.unwrap();
    }

    fn book(store: &SharedStore) -> Book {
        Book::new(store.clone(), &"default".parse().unwrap(), Duration::ZERO, Vault::with_key(&[7; 32]))
    }
}
