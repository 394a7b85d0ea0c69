//! What an administrator sets: who is told, how, and when nobody is.

use std::time::Duration;

use alerting::{
    Alerts,
    config::{Document, HoldDown, Stored},
    outbox::Recipient,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::book::{Book, KEY};
use crate::store::{Collection, Precondition, StoreError, Transaction, Versioned};

const SETTINGS: Collection<Record> = Collection::new("alert_settings");

/// As the store has it.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    alerts: Stored,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maintenance: Option<Maintenance>,
}

/// Silence on purpose. What began meanwhile and still lasts afterwards is told then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    #[error("the alerts that are stored cannot be used: {0}")]
    Damaged(alerting::Problems),
    #[error("somebody else changed the alerts meanwhile: look at them and try again")]
    Changed,
    #[error(transparent)]
    Store(StoreError),
}

impl Settings {
    /// Reads them; without any, nobody is told.
    pub async fn read(book: &Book) -> Result<Self, SettingsError> {
        let Some(stored) = SETTINGS.get(&*book.store, &book.owner, KEY).await? else {
            return Ok(Self {
                alerts: Alerts::default(),
                maintenance: None,
                hold_down: HoldDown::new(book.hold_down()),
                unchanged: Precondition::Absent,
            });
        };
        let unchanged = stored.unchanged();
        let Versioned { value: Record { alerts, maintenance }, .. } = stored;
        let alerts = Alerts::from_stored(alerts).map_err(SettingsError::Damaged)?;
        Ok(Self { alerts, maintenance, hold_down: None, unchanged })
    }

    /// The same with others told, or otherwise.
    pub fn telling(self, alerts: Alerts) -> Self {
        Self { alerts, hold_down: None, ..self }
    }

    /// Writes them in the place of those they were read from.
    pub async fn write(&self, book: &Book) -> Result<(), SettingsError> {
        let record = Record { alerts: self.alerts.stored(), maintenance: self.maintenance.clone() };
        let put = SETTINGS.put(&book.owner, KEY, self.unchanged, &record)?;
        book.store.commit(Transaction::from(put)).await?;
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

impl From<StoreError> for SettingsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(_) => Self::Changed,
            other => Self::Store(other),
        }
    }
}
