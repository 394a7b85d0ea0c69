//! Tells people, once each, that something they depend on went down and that it came back.
//!
//! ```text
//!              Transition              Delivery, stored            Attempt
//!   Policy ───────────────► outbox::plan ─────────► outbox::due ───────────► Courier ──► webhook, mail
//!   when                    whom                    when again                 ▲
//!                             ▲                        ▲  Delivery::finish     │
//!   PUT /alerts ──► Alerts ───┘ recipients             └───────────────────────┘ endpoint: templates, keys, TLS
//! ```
//!
//! [`Policy`] decides what is told and when; an [`Incident`] is what an alert is about; [`Alerts`] is the checked
//! configuration; the [`outbox`] is plain data that the caller stores; a [`Courier`] brings one delivery to its
//! endpoint, once. The crate stands alone: it sees an outage as an id and plain words, and knows nothing of agents,
//! tunnels or the store that keeps what it decides.

pub mod address;
pub mod alert;
pub mod alerts;
pub mod config;
mod courier;
mod endpoint;
pub mod incident;
mod mail;
pub mod outbox;
mod policy;
pub mod presets;
#[cfg(test)]
mod receiver;
pub mod request;
pub mod secret;
mod sign;
pub mod template;
mod tls;
mod webhook;

pub use address::AddressRules;
pub use alert::{Alert, Kind};
pub use alerts::{Alerts, Problem, Problems};
pub use config::Document;
pub use courier::Courier;
pub use endpoint::Endpoint;
pub use incident::{Context, Incident, IncidentId, Transition, Tried};
pub use outbox::{Delivery, DeliveryId};
pub use policy::{EVENT_NAME, Event, Policy, Snapshot};
pub use secret::Secret;
