//! The web UI on the admin address: pages rendered here, for people at a browser.
//!
//! ```text
//!   browser ──► dress (headers, same site) ──► visitor (who is it) ──► one file a page ──► template
//!                                                                          │
//!                                             REST API, same process ◄─────┘ client
//! ```
//!
//! A page is a client of the REST API like `posternctl`: it asks [`client::Api`] with its reader's own
//! session. So there is one set of rules and one set of refusals, and nothing a page can do that the API
//! cannot. This room decides only how things are shown: words, order, what comes next.
//!
//! Every action is a form that works without JavaScript. The one script, `assets/app.js`, keeps pages
//! current: when [`live`] says that something changed it asks for the page again and takes over the parts
//! marked `data-live`.

mod alert_form;
mod alerts;
mod answers;
mod assets;
mod audit;
mod client;
mod connection_strings;
mod destination_form;
mod destinations;
mod dress;
mod drills;
mod effective;
mod enrol;
mod events;
mod failovers;
mod form;
mod frame;
mod hops;
mod icon;
mod live;
mod overview;
mod people;
mod problems;
mod process_server;
mod process_servers;
mod reply;
mod settings;
mod sign_in;
mod sparkline;
mod streams;
mod topology;
mod visitor;
mod words;

use axum::{
    Extension, Router,
    middleware::from_fn,
    routing::{get, post},
};

use crate::admin::AppState;
use client::InProcess;

/// The pages, to be merged with `api`, whose routes they call.
pub fn router(app: AppState, api: Router) -> Router {
    Router::new()
        .route("/", get(overview::show))
        .route("/sign-in", get(sign_in::show).post(sign_in::enter))
        .route("/sign-out", post(sign_in::leave))
        .route("/process-servers", get(process_servers::show))
        .route("/process-servers/{name}", get(process_server::show))
        .route("/process-servers/{name}/candidate", post(process_servers::mark))
        .route("/process-servers/{name}/restart", post(process_servers::restart))
        .route("/process-servers/{name}/approve", post(process_servers::approve))
        .route("/process-servers/{name}/remove", post(process_servers::remove))
        .route("/gateway/switch", post(process_servers::switch))
        .route("/enrol", get(enrol::show).post(enrol::create))
        .route("/enrol/{id}", get(enrol::follow))
        .route("/destinations", get(destinations::show).post(destinations::create))
        .route("/destinations/new", get(destinations::add))
        .route("/destinations/{name}", get(destinations::detail))
        .route("/destinations/{name}/edit", get(destinations::edit).post(destinations::change))
        .route("/destinations/{name}/enabled", post(destinations::enable))
        .route("/destinations/{name}/test", post(destinations::test))
        .route("/destinations/{name}/remove", post(destinations::remove))
        .route("/alerts", get(alerts::show))
        .route("/alerts/endpoint", get(alerts::edit).post(alerts::save))
        .route("/alerts/test", post(alerts::test))
        .route("/alerts/preview", post(alerts::preview))
        .route("/alerts/switch", post(alerts::switch))
        .route("/alerts/remove", post(alerts::remove))
        .route("/alerts/hold-down", post(alerts::hold_down))
        .route("/alerts/send-again", post(alerts::send_again))
        .route("/alerts/maintenance", post(alerts::begin_maintenance))
        .route("/alerts/maintenance/end", post(alerts::end_maintenance))
        .route("/streams", get(streams::show))
        .route("/streams/{id}/end", post(streams::end))
        .route("/failovers", get(failovers::show))
        .route("/drills", get(drills::show).post(drills::begin))
        .route("/drills/end-drain", post(drills::end_drain))
        .route("/drills/recover", post(drills::recover))
        .route("/events", get(events::show))
        .route("/audit", get(audit::show))
        .route("/people", get(people::show))
        .route("/people/users", post(people::add_user))
        .route("/people/users/{name}", post(people::change_user))
        .route("/people/users/{name}/remove", post(people::remove_user))
        .route("/people/tokens", post(people::add_token))
        .route("/people/tokens/{id}/revoke", post(people::revoke_token))
        .route("/settings", get(settings::show))
        .route("/settings/password", post(settings::password))
        .route("/settings/sessions/{id}/end", post(settings::end_session))
        .route("/setup/{secret}", get(sign_in::show_set_up).post(sign_in::set_up))
        .route("/live", get(live::follow))
        .route("/assets/{name}", get(assets::serve))
        .layer(Extension(InProcess(api)))
        .layer(from_fn(dress::around))
        .with_state(app)
}
