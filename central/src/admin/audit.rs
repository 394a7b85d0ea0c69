//! `/audit`, and the layer that lets no request pass unnoted that may change something.

use std::net::SocketAddr;

use axum::{
    Json as Answer,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};

use super::{
    API, AppState,
    input::Query,
    paging::{Numbers, Page},
    problem::Problem,
    request::RequestId,
    rights::{Caller, Who},
};
use crate::{
    audit::{Anchor, AuditLog, HeadView, Trail, first_line, head_line},
    store::{SharedStore, StoreError},
};

/// Records of an export that are read at once.
const EXPORTED_AT_ONCE: usize = 500;

/// What is noted of each request of a route.
#[derive(Clone)]
pub(super) struct Noted {
    pub(super) state: AppState,
    /// Its path in the table.
    pub(super) path: String,
}

/// The layer around each route that may change something, outside of [`super::authenticate`]: refusals are
/// recorded too.
pub(super) async fn note(State(noted): State<Noted>, mut request: Request, next: Next) -> Response {
    // Whose it is says authentication; what nobody proved belongs to the first Environment.
    let Some((environment, _)) = noted.state.gateways.iter().next() else { return next.run(request).await };
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let from = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let action = action(request.method(), &noted.path);
    let target = target(&noted.path, request.uri().path());
    let trail = noted.state.audit.begin(environment.clone(), action, target, from, id);
    request.extensions_mut().insert(trail.clone());
    let response = next.run(request).await;
    let code = response.extensions().get::<Problem>().map(Problem::code);
    trail.end(response.status().as_u16(), code).await;
    response
}

/// Says on the trail whose request it is.
pub(super) fn sign(trail: &Trail, caller: &Caller) {
    let (who, whom) = match &caller.who {
        Who::User(session) => (
            json!({ "kind": "user", "name": session.user, "session": session.id }),
            format!("user/{}", session.user),
        ),
        Who::Token { id, name } => {
            (json!({ "kind": "token", "id": id, "name": name }), format!("token/{id}"))
        }
    };
    trail.by(&caller.environment, who, whom);
}

/// One word for what a route does: `destinations.create`, `process-servers.restart`.
fn action(method: &Method, path: &str) -> String {
    let path = path.strip_prefix(API).unwrap_or(path).trim_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let words = parts.iter().filter(|part| !part.starts_with('{')).copied().collect::<Vec<_>>().join(".");
    // A word behind the resource says already what is done: `gateway/switch`.
    let says_what = words.contains('.') && parts.last().is_some_and(|last| !last.starts_with('{'));
    match *method {
        Method::POST if says_what => words,
        Method::POST => format!("{words}.create"),
        Method::PUT => format!("{words}.set"),
        Method::PATCH => format!("{words}.change"),
        Method::DELETE => format!("{words}.remove"),
        _ => words,
    }
}

/// What the path's first parameter is.
fn target(pattern: &str, path: &str) -> Option<String> {
    let mut parts = pattern.split('/').zip(path.split('/'));
    parts.find(|(pattern, _)| pattern.starts_with('{')).map(|(_, part)| part.to_owned())
}

/// Oldest first either way.
pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Numbers>,
) -> Result<Page<Value>, Problem> {
    let limit = range.limit()?;
    let log = state.audit.log(&caller.environment);
    let records = match range.after {
        Some(after) => log.list(after, limit).await?,
        None => log.newest(limit).await?,
    };
    Ok(range.page("/audit", records, |record| record["seq"].as_u64().unwrap_or_default()))
}

/// Where the log begins and ends.
pub(super) async fn head(State(state): State<AppState>, caller: Caller) -> Result<Answer<HeadView>, Problem> {
    Ok(Answer(state.audit.log(&caller.environment).head().await?))
}

/// The whole log as lines of JSON, as it is at this moment.
pub(super) async fn export(State(state): State<AppState>, caller: Caller) -> Result<Response, Problem> {
    let log = state.audit.log(&caller.environment);
    let head = log.head().await?;
    let first = format!("{}\n", first_line(&caller.environment, &head.anchor));
    let reading = Reading { log, at: head.anchor.clone(), until: head.seq, state: Part::First(first) };
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"postern-audit.jsonl\""),
    ];
    Ok((headers, Body::from_stream(stream::try_unfold(reading, Reading::next))).into_response())
}

/// An export under way: it reads as its reader takes it.
struct Reading {
    log: AuditLog,
    at: Anchor,
    until: u64,
    state: Part,
}

enum Part {
    First(String),
    Records,
    Ended,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        let text = match std::mem::replace(&mut self.state, Part::Records) {
            Part::Ended => return Ok(None),
            Part::First(first) => first,
            Part::Records => {
                let mut records = self.log.list(self.at.seq, EXPORTED_AT_ONCE).await?;
                records.retain(|record| record["seq"].as_u64().is_some_and(|seq| seq <= self.until));
                match records.last() {
                    Some(last) => {
                        self.at = Anchor {
                            seq: last["seq"].as_u64().unwrap_or(self.until),
                            hash: last["hash"].as_str().unwrap_or_default().to_owned(),
                        };
                        records.iter().map(|record| format!("{record}\n")).collect()
                    }
                    None => {
                        self.state = Part::Ended;
                        format!("{}\n", head_line(&self.at))
                    }
                }
            }
        };
        Ok(Some((Bytes::from(text), self)))
    }
}

impl AppState {
    /// The store for what this caller does: the change and its record are written together.
    pub(super) fn store_for(&self, caller: &Caller) -> SharedStore {
        caller.trail.as_ref().map_or_else(|| self.store.clone(), Trail::store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_reads_as_what_is_done() {
        for (method, path, expected) in [
            (Method::POST, "/api/v1/destinations", "destinations.create"),
            (Method::PATCH, "/api/v1/destinations/{name}", "destinations.change"),
            (Method::POST, "/api/v1/process-servers/{name}/restart", "process-servers.restart"),
            (Method::POST, "/api/v1/gateway/switch", "gateway.switch"),
            (Method::PUT, "/api/v1/session/password", "session.password.set"),
            (Method::DELETE, "/api/v1/users/{name}/sessions/{id}", "users.sessions.remove"),
            (Method::DELETE, "/api/v1/alerts/maintenance", "alerts.maintenance.remove"),
        ] {
            assert_eq!(action(&method, path), expected);
        }
        assert_eq!(
            target("/api/v1/users/{name}/sessions", "/api/v1/users/anna/sessions").as_deref(),
            Some("anna")
        );
        assert_eq!(target("/api/v1/users", "/api/v1/users"), None);
    }
}
