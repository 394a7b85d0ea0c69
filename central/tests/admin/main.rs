//! The REST API and `posternctl`, against a store, a gateway that keeps its promises in a few
//! lines, and real TLS.

#![expect(clippy::unwrap_used, reason = "tests may panic: that is how they fail")]

mod alerts;
mod audit;
mod destinations;
mod enrolment;
mod events;
mod forms;
mod gateway;
mod manners;
mod nonsense;
#[cfg(feature = "oidc")]
mod oidc;
mod people;
mod posternctl;
mod process_servers;
mod rights;
mod server;
mod stage;
mod streams;
mod tokens;
