//! What an alert is about: one outage, from the first moment it counts as one until it is over.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Names one outage for ever. The caller makes it, unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(String);

/// One outage, or one occasion of another kind that people are told about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub id: IncidentId,
    /// By this the receiver's own system pairs the up alert with the down alert. Unique for each outage, unless two
    /// ends tell of the same one: an up alert that arrives late closes whatever is open under its key. At most 255
    /// bytes, which is what PagerDuty takes.
    pub key: String,
    /// When it began, by the caller's wall clock.
    #[serde(with = "time::serde::rfc3339")]
    pub opened_at: OffsetDateTime,
    pub context: Context,
}

/// What whoever reads the alert at night wants to know first, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Whose outage it is.
    pub environment: String,
    /// One sentence: what happened.
    pub summary: String,
    /// Everything that was tried before it counted as an outage, in the order it was tried.
    pub tried: Vec<Tried>,
    /// Where to look on: the administrator's page of it, an http(s) address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// One thing that was tried, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    pub name: String,
    pub outcome: String,
}

/// What the policy decided to tell. Both halves carry the same incident, as it was when the down was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    Down(Incident),
    Up(Incident),
}

impl Incident {
    /// An incident whose receivers know it by its own id.
    pub fn new(id: IncidentId, opened_at: OffsetDateTime, context: Context) -> Self {
        Self { key: id.0.clone(), id, opened_at, context }
    }
}

impl IncidentId {
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
