//! Tells people, once each, that something they depend on went down and that it came back.
//!
//! [`Policy`] decides what is told and when; an [`Incident`] is what an alert is about. The crate stands alone: it
//! sees an outage as an id and plain words, and knows nothing of agents, tunnels or the store that keeps its
//! snapshot.

pub mod alert;
pub mod config;
pub mod incident;
pub mod outbox;
mod policy;
pub mod presets;
pub mod secret;

pub use alert::{Alert, Kind};
pub use incident::{Context, Incident, IncidentId, Transition, Tried};
pub use outbox::{Delivery, DeliveryId};
pub use policy::{EVENT_NAME, Event, Policy, Snapshot};
pub use secret::Secret;
