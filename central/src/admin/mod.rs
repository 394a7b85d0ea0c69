//! The administrator's side of central: the REST API and health. The pages at `/` are its clients ([`crate::ui`]).
//!
//! ```text
//!   serve (TLS, bounds) ─► request (id, deadline, problems) ─► routes (who may) ─► one file a resource
//!                                                               └ audit (who did what) ─► authenticate (token or session)
//! ```
//!
//! Every answer is decided from the store's records and the gateway room's snapshots; this room
//! keeps no state of its own.

mod about;
pub mod agents;
mod alerts;
mod api_tokens;
mod audit;
mod authenticate;
mod backup;
pub mod client;
pub mod data_plane;
mod described;
mod destinations;
mod drills;
mod enrollment_tokens;
mod events;
mod failovers;
pub mod follow;
mod gateway;
mod health;
mod input;
pub mod measure;
mod meta;
pub mod metrics;
pub mod oidc;
pub mod openapi;
mod paging;
pub mod problem;
mod process_servers;
mod raft;
mod repeat;
pub mod request;
pub mod rights;
pub mod routes;
mod same_origin;
pub mod serve;
pub mod settings;
pub mod sign_in;
mod streams;
pub mod token;
mod traffic;
mod users;
mod version;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub use agents::{EnrolmentState, enrolment_routes};
pub use authenticate::caller_of;
pub use backup::Files;
pub use data_plane::DataPlane;
pub use rights::Role;
pub use routes::router;
pub use serve::serve;
pub use token::ApiTokens;

use proto::EnvironmentName;
use time::OffsetDateTime;
use tracing::warn;

use crate::{
    alerts::{Nudge, Tally},
    audit::Audit,
    drill::Conductors,
    enrolment::Enrolment,
    events::{Events, NewEvent, Severity},
    gateway::{Gateway, Gateways},
    oidc::Provider,
    own_listeners::OwnListeners,
    people::People,
    series::Lately,
    store::{SharedStore, measured::StoreTimings},
    vault::Vault,
};
use problem::Problem;
use rights::Caller;

/// Where the API begins.
pub const API: &str = "/api/v1";

/// What the handlers need of the other rooms. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub store: SharedStore,
    pub gateways: Gateways,
    pub data_plane: Arc<dyn DataPlane>,
    pub api_tokens: ApiTokens,
    pub people: People,
    /// Who else vouches for people: the operator's word.
    pub oidc: Option<Provider>,
    pub audit: Audit,
    pub enrolment: Enrolment,
    /// Which addresses alerts may be sent to: the operator's word.
    pub alert_rules: alerting::AddressRules,
    pub alert_courier: alerting::Courier,
    /// Seals what people entrust to central.
    pub vault: Vault,
    /// Who may take all of it with him.
    pub operator: crate::operator::OperatorToken,
    /// Where central's files lie, and the vault's key: for backups.
    pub files: Files,
    /// What no destination may lead back to.
    pub own_listeners: OwnListeners,
    /// Wakes the dispatcher of an Environment.
    pub alert_nudges: Arc<BTreeMap<EnvironmentName, Nudge>>,
    /// What became of attempts to deliver alerts.
    pub alert_tallies: Arc<BTreeMap<EnvironmentName, Tally>>,
    /// What `/metrics` has counted of failovers.
    pub history: metrics::History,
    /// Where drills are ordered, by Environment.
    pub drills: Arc<Conductors>,
    /// How long an outage lasts before it is told, unless the alerts' settings say so.
    pub alert_hold_down: Duration,
    /// The places for those who follow the events.
    pub following: follow::Following,
    pub measures: measure::Measures,
    /// How long the store takes.
    pub storage: StoreTimings,
    /// What became of spans.
    pub traces: traces::Traces,
    /// What was carried in the last hour.
    pub lately: Lately,
    /// What was decided before central started.
    pub installation: Arc<settings::Installation>,
    /// Whether `/metrics` needs no token: the operator's word.
    pub metrics_open: bool,
    /// Where agents find central, `https://HOST:PORT`, for the commands that are shown to people.
    pub tunnel_url: Option<Arc<str>>,
    /// Where each Environment's forwarding front door is, shown on the active.
    pub ip_forwarder_urls: Arc<BTreeMap<EnvironmentName, String>>,
}

impl AppState {
    /// The gateway of the caller's Environment.
    fn gateway(&self, caller: &Caller) -> Result<&Gateway, Problem> {
        self.gateways.of(&caller.environment).ok_or_else(|| {
            Problem::not_found(
                "environment_not_found",
                format!("this central serves no Environment named {}", caller.environment),
            )
        })
    }

    /// Notes among the events what an administrator did. It is done already, so a store that cannot
    /// take the note does not turn it into a failure.
    async fn note(&self, caller: &Caller, code: &'static str, text: String) {
        let event = NewEvent { code, severity: Severity::Info, text, sender: "administration".to_owned() };
        let events = Events::new(self.store.clone(), &caller.environment);
        if let Err(error) = events.append(event, OffsetDateTime::now_utc()).await {
            warn!(%error, code, "An administrator's action could not be noted as an event");
        }
    }
}
