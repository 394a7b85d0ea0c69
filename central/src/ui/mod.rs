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
mod oidc;
mod overview;
mod people;
mod problems;
mod process_server;
mod process_servers;
mod query;
mod reply;
mod routes;
mod settings;
mod sign_in;
mod sparkline;
mod streams;
mod topology;
mod visitor;
mod words;

use axum::{Extension, Router, middleware::from_fn};

use crate::admin::AppState;
use client::InProcess;
pub use routes::{Page, table};

/// The pages, to be merged with `api`, whose routes they call.
pub fn router(app: AppState, api: Router) -> Router {
    let mut router = Router::new();
    for Page { path, handler, .. } in table() {
        router = router.route(path, handler);
    }
    router.layer(Extension(InProcess(api))).layer(from_fn(dress::around)).with_state(app)
}
