//! The one table of who may call what. The router is made from it, so there is no other way in.

use axum::{
    Router,
    handler::Handler,
    http::{Method, StatusCode},
    middleware::{from_fn, from_fn_with_state},
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    API, AppState, alerts, api_tokens,
    audit::{self, Noted},
    authenticate::{self, Gate},
    backup, destinations, drills, enrollment_tokens, events, failovers, gateway, health, measure, meta,
    metrics, openapi,
    problem::Problem,
    process_servers, raft, repeat, request,
    rights::{
        Needs,
        Role::{self, Administrator, CloudAdministrator, Operator, Viewer},
    },
    same_origin, settings, sign_in, streams, traffic, users,
};
use crate::ui;

/// One line of the table.
pub struct Route {
    pub method: Method,
    /// With parameters in braces.
    pub path: String,
    pub needs: Needs,
    handler: MethodRouter<AppState>,
}

/// Every route of the admin address.
pub fn table() -> Vec<Route> {
    vec![
        open("/livez", health::live),
        open("/readyz", health::ready),
        open("/api/v1/meta", meta::show),
        open("/sign-in/once/{secret}", sign_in::once),
        open_get("/setup", sign_in::set_up_needed),
        open_post("/setup", sign_in::begin_set_up),
        open_post("/session", sign_in::begin),
        get("/session", Viewer, sign_in::show),
        delete("/session", Viewer, sign_in::end),
        put("/session/password", Viewer, sign_in::change_password),
        get("/sessions", Viewer, users::own_sessions),
        delete("/sessions/{id}", Viewer, users::end_own_session),
        get("/audit", Administrator, audit::list),
        get("/audit/head", Administrator, audit::head),
        get("/audit/export", Administrator, audit::export),
        get("/users", Administrator, users::list),
        post("/users", Administrator, users::create),
        get("/users/{name}", Administrator, users::show),
        patch("/users/{name}", Administrator, users::change),
        delete("/users/{name}", Administrator, users::remove),
        get("/users/{name}/sessions", Administrator, users::sessions),
        delete("/users/{name}/sessions", Administrator, users::end_sessions),
        delete("/users/{name}/sessions/{id}", Administrator, users::end_session),
        open("/api/v1/openapi.json", openapi::show),
        at("/metrics", Viewer, metrics::show),
        get("/gateway", Viewer, gateway::show),
        post("/gateway/switch", Operator, gateway::switch),
        get("/gateway/drain", Viewer, gateway::drains),
        post("/gateway/drain/end", Operator, gateway::end_drain),
        post("/gateway/drill", Operator, drills::begin),
        get("/gateway/drills", Viewer, drills::list),
        get("/process-servers", Viewer, process_servers::list),
        get("/process-servers/{name}", Viewer, process_servers::show),
        patch("/process-servers/{name}", CloudAdministrator, process_servers::change),
        delete("/process-servers/{name}", CloudAdministrator, process_servers::remove),
        post("/process-servers/{name}/restart", Operator, process_servers::restart),
        post("/process-servers/{name}/approve", CloudAdministrator, process_servers::approve),
        get("/destinations", Viewer, destinations::list),
        post("/destinations", Administrator, destinations::create),
        get("/destinations/{name}", Viewer, destinations::show),
        patch("/destinations/{name}", Administrator, destinations::change),
        delete("/destinations/{name}", Administrator, destinations::remove),
        post("/destinations/{name}/test", Operator, destinations::test),
        get("/enrollment-tokens", CloudAdministrator, enrollment_tokens::list),
        post("/enrollment-tokens", CloudAdministrator, enrollment_tokens::create),
        get("/alerts", Viewer, alerts::show),
        put("/alerts", CloudAdministrator, alerts::change),
        post("/alerts/preview", CloudAdministrator, alerts::preview),
        post("/alerts/test", CloudAdministrator, alerts::test),
        get("/alerts/deliveries", Viewer, alerts::deliveries),
        post("/alerts/deliveries/{id}/send-again", CloudAdministrator, alerts::send_again),
        get("/alerts/maintenance", Viewer, alerts::maintenance),
        put("/alerts/maintenance", CloudAdministrator, alerts::begin_maintenance),
        delete("/alerts/maintenance", CloudAdministrator, alerts::end_maintenance),
        get("/events", Viewer, events::list),
        get("/traffic", Viewer, traffic::show),
        get("/settings", Administrator, settings::show),
        get("/streams", Viewer, streams::list),
        get("/streams/closed", Viewer, streams::closed),
        post("/streams/{id}/end", Operator, streams::end),
        get("/failovers", Viewer, failovers::list),
        get("/failovers/{id}", Viewer, failovers::show),
        get("/raft", Viewer, raft::show),
        post("/raft/recover", CloudAdministrator, raft::recover),
        get("/api-tokens", Administrator, api_tokens::list),
        post("/api-tokens", Administrator, api_tokens::create),
        delete("/api-tokens/{id}", Administrator, api_tokens::revoke),
    ]
}

/// The admin address as a whole: the API, and the pages that are its clients.
pub fn router(state: AppState) -> Router {
    let api = api_router(state.clone());
    ui::router(state, api.clone()).merge(api)
}

fn api_router(state: AppState) -> Router {
    let mut router = Router::new();
    let repeats = repeat::Repeats::default();
    for route in table() {
        let mut gate = Gate { state: state.clone(), needs: route.needs };
        if state.metrics_open && route.path == "/metrics" {
            gate.needs = Needs::Nothing;
        }
        // Behind the authentication: a key is its caller's own.
        let handler = match (&route.method, route.needs) {
            (&Method::POST, Needs::Role(_)) => {
                route.handler.route_layer(from_fn_with_state(repeats.clone(), repeat::once))
            }
            _ => route.handler,
        };
        let mut handler = handler.route_layer(from_fn_with_state(gate, authenticate::at_gate));
        // In front of it: refusals are noted too.
        if same_origin::may_change(&route.method) {
            let noted = Noted { state: state.clone(), path: route.path.clone() };
            handler = handler.route_layer(from_fn_with_state(noted, audit::note));
        }
        router = router.route(&route.path, handler);
    }
    // In no line of the table: it is no administrator's.
    router = router.route("/operator/backup", axum::routing::post(backup::take));
    router
        .fallback(|| async { Problem::not_found("no_such_route", "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not take this method",
            )
        })
        .layer(from_fn_with_state(state.measures.clone(), measure::around))
        .layer(from_fn(request::around))
        .with_state(state)
}

fn open<H: Handler<T, AppState>, T: 'static>(path: &str, handler: H) -> Route {
    let handler = on(MethodFilter::GET, handler);
    Route { method: Method::GET, path: path.to_owned(), needs: Needs::Nothing, handler }
}

fn open_get<H: Handler<T, AppState>, T: 'static>(path: &str, handler: H) -> Route {
    api(Method::GET, path, Needs::Nothing, on(MethodFilter::GET, handler))
}

fn open_post<H: Handler<T, AppState>, T: 'static>(path: &str, handler: H) -> Route {
    api(Method::POST, path, Needs::Nothing, on(MethodFilter::POST, handler))
}

/// Beside the API, for those with a role.
fn at<H: Handler<T, AppState>, T: 'static>(path: &str, role: Role, handler: H) -> Route {
    Route { needs: Needs::Role(role), ..open(path, handler) }
}

fn get<H: Handler<T, AppState>, T: 'static>(path: &str, role: Role, handler: H) -> Route {
    api(Method::GET, path, Needs::Role(role), on(MethodFilter::GET, handler))
}

fn post<H: Handler<T, AppState>, T: 'static>(path: &str, role: Role, handler: H) -> Route {
    api(Method::POST, path, Needs::Role(role), on(MethodFilter::POST, handler))
}

fn put<H: Handler<T, AppState>, T: 'static>(path: &str, role: Role, handler: H) -> Route {
    api(Method::PUT, path, Needs::Role(role), on(MethodFilter::PUT, handler))
}

fn patch<H: Handler<T, AppState>, T: 'static>(path: &str, role: Role, handler: H) -> Route {
    api(Method::PATCH, path, Needs::Role(role), on(MethodFilter::PATCH, handler))
}

fn delete<H: Handler<T, AppState>, T: 'static>(path: &str, role: Role, handler: H) -> Route {
    api(Method::DELETE, path, Needs::Role(role), on(MethodFilter::DELETE, handler))
}

fn api(method: Method, path: &str, needs: Needs, handler: MethodRouter<AppState>) -> Route {
    Route { method, path: format!("{API}{path}"), needs, handler }
}
