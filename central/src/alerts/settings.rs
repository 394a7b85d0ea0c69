//! What an administrator sets: who is told, how, and when nobody is.
//!
//! Secrets lie beside the rest, each sealed for its own place: `default/alert_settings/gateway/pager/secret/0`.

use std::{collections::BTreeMap, time::Duration};

use alerting::{
    Alerts, Problem, Problems,
    config::{Document, HoldDown, Stored},
    outbox::Recipient,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::{
    store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction, Versioned},
    vault::Vault,
};

const SETTINGS: Collection<Record> = Collection::new("alert_settings");
/// An Environment has one Secure Gateway.
const KEY: &str = "gateway";

/// As the store has it.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    alerts: Told,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maintenance: Option<Maintenance>,
}

/// Who is told, as the store has it.
#[derive(Clone, Serialize, Deserialize)]
struct Told {
    /// Without its secrets.
    document: Document,
    /// They, each by its place in the document.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sealed: BTreeMap<String, String>,
    /// The same in clear, as earlier versions wrote them; the first start seals them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secrets: BTreeMap<String, String>,
}

/// Silence on purpose. What began meanwhile and still lasts afterwards is told then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Maintenance {
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// For whoever wonders why nobody was told.
    pub reason: String,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Settings {
    pub alerts: Alerts,
    pub maintenance: Option<Maintenance>,
    /// Where nobody has set any: the operator's.
    hold_down: Option<HoldDown>,
    unchanged: Precondition,
}

/// Why settings cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "the alerts that are stored cannot be used: {0}; set them again (PUT /alerts, posternctl alerts set)"
    )]
    Damaged(Problems),
    #[error("somebody else changed the alerts meanwhile: look at them and try again")]
    Changed,
    #[error(transparent)]
    Store(StoreError),
}

impl Settings {
    /// Reads them; without any, nobody is told, and `hold_down` is the operator's.
    pub(super) async fn read(
        store: &SharedStore,
        owner: &Owner,
        hold_down: Duration,
        vault: &Vault,
    ) -> Result<Self, SettingsError> {
        let (settings, damage) = Self::read_for_replacing(store, owner, hold_down, vault).await?;
        damage.map_or(Ok(settings), |damage| Err(SettingsError::Damaged(damage)))
    }

    /// The same for whoever writes others in their place: of those that cannot be used nobody is left, and
    /// what is wrong with them stands beside.
    pub(super) async fn read_for_replacing(
        store: &SharedStore,
        owner: &Owner,
        hold_down: Duration,
        vault: &Vault,
    ) -> Result<(Self, Option<Problems>), StoreError> {
        let Some(stored) = SETTINGS.get(&**store, owner, KEY).await? else {
            let none = Self {
                alerts: Alerts::default(),
                maintenance: None,
                hold_down: HoldDown::new(hold_down),
                unchanged: Precondition::Absent,
            };
            return Ok((none, None));
        };
        let unchanged = stored.unchanged();
        let Versioned { value: Record { alerts, maintenance }, .. } = stored;
        let opened = alerts.open(owner, vault).and_then(Alerts::from_stored);
        let (alerts, damage) = match opened {
            Ok(alerts) => (alerts, None),
            Err(damage) => (Alerts::default(), Some(damage)),
        };
        Ok((Self { alerts, maintenance, hold_down: None, unchanged }, damage))
    }

    /// The same with others told, or otherwise.
    pub fn telling(self, alerts: Alerts) -> Self {
        Self { alerts, hold_down: None, ..self }
    }

    /// Writes them in the place of those they were read from.
    pub(super) async fn write(
        &self,
        store: &SharedStore,
        owner: &Owner,
        vault: &Vault,
    ) -> Result<(), SettingsError> {
        let Stored { document, secrets } = self.alerts.stored();
        let told = Told { document, secrets, sealed: BTreeMap::new() }.sealed(owner, vault);
        let record = Record { alerts: told, maintenance: self.maintenance.clone() };
        let put = SETTINGS.put(owner, KEY, self.unchanged, &record)?;
        store.commit(Transaction::from(put)).await?;
        Ok(())
    }

    /// Whether maintenance keeps everybody in silence at that moment.
    pub fn is_silent(&self, at: OffsetDateTime) -> bool {
        self.maintenance.as_ref().is_some_and(|maintenance| at < maintenance.until)
    }

    /// How long an outage lasts before it is told.
    pub fn hold_down(&self) -> Duration {
        self.hold_down.map_or_else(|| self.alerts.hold_down(), HoldDown::duration)
    }

    /// What is shown: secrets hidden.
    pub fn document(&self) -> Document {
        let mut document = self.alerts.document().clone();
        document.hold_down = self.hold_down.unwrap_or(document.hold_down);
        document
    }

    /// Those who are told.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient<'_>> {
        self.alerts.recipients()
    }
}

impl Told {
    /// With every secret sealed.
    fn sealed(mut self, owner: &Owner, vault: &Vault) -> Self {
        for (at, secret) in std::mem::take(&mut self.secrets) {
            let sealed = vault.seal(&place(owner, &at), &secret);
            self.sealed.insert(at, sealed);
        }
        self
    }

    /// With every secret in clear.
    fn open(self, owner: &Owner, vault: &Vault) -> Result<Stored, Problems> {
        let Self { document, sealed, mut secrets } = self;
        let mut problems = Vec::new();
        for (at, text) in sealed {
            match vault.open_sealed(&place(owner, &at), &text) {
                Ok(secret) => drop(secrets.insert(at, secret)),
                Err(why) => {
                    let why = format!("the secret {at} cannot be opened: {why}");
                    problems.push(Problem { endpoint: None, field: "secrets".into(), why });
                }
            }
        }
        if problems.is_empty() { Ok(Stored { document, secrets }) } else { Err(Problems(problems)) }
    }
}

/// Where a secret belongs: no other opens there.
fn place(owner: &Owner, at: &str) -> String {
    format!("{}/{at}", SETTINGS.key(owner, KEY))
}

/// Seals what an earlier version stored in clear; says how many secrets that were. Others' changes meanwhile stand.
pub(super) async fn seal_secrets_in_clear(
    store: &SharedStore,
    owner: &Owner,
    vault: &Vault,
) -> Result<usize, StoreError> {
    let mut many = 0;
    SETTINGS
        .update(&**store, owner, KEY, |before| {
            let in_clear = before.filter(|before| !before.alerts.secrets.is_empty());
            many = in_clear.map_or(0, |before| before.alerts.secrets.len());
            let sealed = |before: &Record| Record {
                alerts: before.alerts.clone().sealed(owner, vault),
                maintenance: before.maintenance.clone(),
            };
            Ok::<_, StoreError>(in_clear.map(sealed))
        })
        .await?;
    Ok(many)
}

/// Settings as they are stored, secrets hidden: for the audit.
pub fn settings_shown(stored: &serde_json::Value) -> serde_json::Value {
    let Ok(Record { alerts, maintenance }) = serde_json::from_value(stored.clone()) else {
        return "settings that this version of central cannot read".into();
    };
    serde_json::json!({ "alerts": alerts.document, "maintenance": maintenance })
}

impl From<StoreError> for SettingsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(_) => Self::Changed,
            other => Self::Store(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alerting::AddressRules;
    use serde_json::{Value, json};

    use super::*;
    use crate::store::{Key, memory::MemoryStore};

    #[tokio::test]
    async fn secrets_are_sealed_in_the_store_and_come_back_with_the_same_key_alone() {
        let (store, vault) = (store(), Vault::with_key(&[7; 32]));
        read(&store, &vault).await.unwrap().telling(alerts()).write(&store, &owner(), &vault).await.unwrap();
        let stored = raw(&store).await.to_string();
        assert!(!stored.contains("canary") && stored.matches("\"v1.").count() == 2, "{stored}");
        assert!(!settings_shown(&raw(&store).await).to_string().contains("v1."), "the audit has none either");

        let again = read(&store, &vault).await.unwrap();
        assert_eq!(again.alerts.stored().secrets, alerts().stored().secrets);
        let foreign = read(&store, &Vault::with_key(&[8; 32])).await.unwrap_err().to_string();
        assert!(foreign.contains("cannot be opened") && foreign.contains("set them again"), "{foreign}");
    }

    #[tokio::test]
    async fn a_sealed_secret_that_was_moved_to_another_place_does_not_open() {
        let (store, vault) = (store(), Vault::with_key(&[7; 32]));
        read(&store, &vault).await.unwrap().telling(alerts()).write(&store, &owner(), &vault).await.unwrap();
        let mut stored = raw(&store).await;
        let sealed = &mut stored["alerts"]["sealed"];
        let password = sealed["pager/secrets/password"].clone();
        sealed["pager/headers/Authorization"] = password;
        put(&store, stored).await;
        assert!(matches!(read(&store, &vault).await, Err(SettingsError::Damaged(_))));
    }

    #[tokio::test]
    async fn what_an_earlier_version_stored_in_clear_is_read_and_sealed_at_the_start() {
        let (store, vault) = (store(), Vault::with_key(&[7; 32]));
        put(&store, json!({"alerts": serde_json::to_value(alerts().stored()).unwrap()})).await;
        let in_clear = read(&store, &vault).await.unwrap().alerts.stored().secrets;
        assert_eq!(in_clear, alerts().stored().secrets);

        assert_eq!(seal_secrets_in_clear(&store, &owner(), &vault).await.unwrap(), 2);
        let stored = raw(&store).await.to_string();
        assert!(!stored.contains("canary"), "{stored}");
        assert_eq!(read(&store, &vault).await.unwrap().alerts.stored().secrets, in_clear);
        assert_eq!(seal_secrets_in_clear(&store, &owner(), &vault).await.unwrap(), 0);
    }

    fn alerts() -> Alerts {
        let document = json!({"endpoints": [{
            "name": "pager", "url": "https://pager.example/hook", "headers": {"Authorization": "Bearer canary-1"},
            "secrets": {"password": "canary-2"}
        }]});
        let rules = AddressRules::new(|_| true);
        Alerts::check(serde_json::from_value(document).unwrap(), &Alerts::default(), &rules).unwrap()
    }

    async fn read(store: &SharedStore, vault: &Vault) -> Result<Settings, SettingsError> {
        Settings::read(store, &owner(), Duration::ZERO, vault).await
    }

    async fn raw(store: &SharedStore) -> Value {
        store.get(&key()).await.unwrap().unwrap().value
    }

    async fn put(store: &SharedStore, value: Value) {
        let write = crate::store::Write {
            key: key(),
            precondition: Precondition::Any,
            action: crate::store::Action::Put(value),
        };
        store.commit(Transaction::from(write)).await.unwrap();
    }

    fn key() -> Key {
        SETTINGS.key(&owner(), KEY)
    }

    fn owner() -> Owner {
        Owner::Environment("default".parse().unwrap())
    }

    fn store() -> SharedStore {
        Arc::new(MemoryStore::default())
    }
}
