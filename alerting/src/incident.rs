//! What an alert is about: one outage, from the first moment it counts as one until it is over.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names one outage in its down alert, in its up alert and in the receiver's own system, which pairs the two by it.
/// The caller makes it, unique for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(String);

/// One outage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub id: IncidentId,
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
    pub tried: Vec<Attempt>,
}

/// One thing that was tried, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub name: String,
    pub outcome: String,
}

/// What goes out to the endpoints. Both halves carry the same incident, as it was when the down was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alert {
    Down(Incident),
    Up(Incident),
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
