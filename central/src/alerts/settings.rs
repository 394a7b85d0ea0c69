//! What an administrator sets: who is told, how, and when nobody is.

use std::time::Duration;

use alerting::{
    Alerts, Problems,
    config::{Document, HoldDown, Stored},
    outbox::Recipient,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction, Versioned};

const SETTINGS: Collection<Record> = Collection::new("alert_settings");
/// An Environment has one Secure Gateway.
const KEY: &str = "gateway";

/// As the store has it.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    alerts: Stored,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maintenance: Option<Maintenance>,
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
    ) -> Result<Self, SettingsError> {
        let (settings, damage) = Self::read_for_replacing(store, owner, hold_down).await?;
        damage.map_or(Ok(settings), |damage| Err(SettingsError::Damaged(damage)))
    }

    /// The same for whoever writes others in their place: of those that cannot be used nobody is left, and
    /// what is wrong with them stands beside.
    pub(super) async fn read_for_replacing(
        store: &SharedStore,
        owner: &Owner,
        hold_down: Duration,
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
        let (alerts, damage) = match Alerts::from_stored(alerts) {
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
    pub(super) async fn write(&self, store: &SharedStore, owner: &Owner) -> Result<(), SettingsError> {
        let record = Record { alerts: self.alerts.stored(), maintenance: self.maintenance.clone() };
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

/// Settings as they are stored, secrets hidden: for the audit.
pub fn settings_shown(stored: &serde_json::Value) -> serde_json::Value {
    let Ok(Record { alerts, maintenance }) = serde_json::from_value(stored.clone()) else {
        return "settings that this version of central cannot read".into();
    };
    let told =
        Alerts::from_stored(alerts).ok().and_then(|alerts| serde_json::to_value(alerts.document()).ok());
    serde_json::json!({ "alerts": told, "maintenance": maintenance })
}

impl From<StoreError> for SettingsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(_) => Self::Changed,
            other => Self::Store(other),
        }
    }
}
