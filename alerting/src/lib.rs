//! Tells people, once each, that something they depend on went down and that it came back.
//!
//! [`Policy`] decides what is told and when; an [`Incident`] is what an alert is about. The crate stands alone: it
//! sees an outage as an id and plain words, and knows nothing of agents, tunnels or the store that keeps its
//! snapshot. Rendering, signing and delivery are the caller's.

mod incident;
mod policy;

pub use incident::{Alert, Attempt, Context, Incident, IncidentId};
pub use policy::{EVENT_NAME, Event, Policy, Snapshot};
