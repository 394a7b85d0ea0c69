//! The one table of pages and forms. The router is made from it, so a test that walks it knows every form there is.

use axum::{
    handler::Handler,
    http::Method,
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    alerts, assets, audit, destinations, drills, enrol, events, failovers, live, oidc, overview, people,
    process_server, process_servers, settings, sign_in, streams,
};
use crate::{admin::AppState, oidc::settings::CALLBACK};

/// One line of the table: a page that is read, or a form that is sent.
pub struct Page {
    pub method: Method,
    /// With parameters in braces.
    pub path: &'static str,
    pub(super) handler: MethodRouter<AppState>,
}

/// Every page and form.
pub fn table() -> Vec<Page> {
    vec![
        page("/", overview::show),
        page("/sign-in", sign_in::show),
        form("/sign-in", sign_in::enter),
        page("/sign-in/oidc", oidc::begin),
        page(CALLBACK, oidc::finish),
        form("/sign-out", sign_in::leave),
        page("/setup/{secret}", sign_in::show_set_up),
        form("/setup/{secret}", sign_in::set_up),
        page("/process-servers", process_servers::show),
        page("/process-servers/{name}", process_server::show),
        form("/process-servers/{name}/candidate", process_servers::mark),
        form("/process-servers/{name}/restart", process_servers::restart),
        form("/process-servers/{name}/approve", process_servers::approve),
        form("/process-servers/{name}/remove", process_servers::remove),
        form("/gateway/switch", process_servers::switch),
        page("/enrol", enrol::show),
        form("/enrol", enrol::create),
        page("/enrol/{id}", enrol::follow),
        page("/destinations", destinations::show),
        form("/destinations", destinations::create),
        page("/destinations/new", destinations::add),
        page("/destinations/{name}", destinations::detail),
        page("/destinations/{name}/edit", destinations::edit),
        form("/destinations/{name}/edit", destinations::change),
        form("/destinations/{name}/enabled", destinations::enable),
        form("/destinations/{name}/test", destinations::test),
        form("/destinations/{name}/remove", destinations::remove),
        page("/alerts", alerts::show),
        page("/alerts/endpoint", alerts::edit),
        form("/alerts/endpoint", alerts::save),
        form("/alerts/test", alerts::test),
        form("/alerts/preview", alerts::preview),
        form("/alerts/switch", alerts::switch),
        form("/alerts/remove", alerts::remove),
        form("/alerts/hold-down", alerts::hold_down),
        form("/alerts/send-again", alerts::send_again),
        form("/alerts/maintenance", alerts::begin_maintenance),
        form("/alerts/maintenance/end", alerts::end_maintenance),
        page("/streams", streams::show),
        form("/streams/{id}/end", streams::end),
        page("/failovers", failovers::show),
        page("/drills", drills::show),
        form("/drills", drills::begin),
        form("/drills/end-drain", drills::end_drain),
        form("/drills/recover", drills::recover),
        page("/events", events::show),
        page("/audit", audit::show),
        page("/people", people::show),
        form("/people/users", people::add_user),
        form("/people/users/{name}", people::change_user),
        form("/people/users/{name}/remove", people::remove_user),
        form("/people/tokens", people::add_token),
        form("/people/tokens/{id}/revoke", people::revoke_token),
        page("/settings", settings::show),
        form("/settings/password", settings::password),
        form("/settings/sessions/{id}/end", settings::end_session),
        page("/live", live::follow),
        page("/assets/{name}", assets::serve),
    ]
}

fn page<H: Handler<T, AppState>, T: 'static>(path: &'static str, handler: H) -> Page {
    Page { method: Method::GET, path, handler: on(MethodFilter::GET, handler) }
}

fn form<H: Handler<T, AppState>, T: 'static>(path: &'static str, handler: H) -> Page {
    Page { method: Method::POST, path, handler: on(MethodFilter::POST, handler) }
}
