//! `/process-servers`: the records of the agents, with what the gateway room hears of each now.

use std::net::SocketAddr;

use axum::{Json as Answer, extract::State, http::StatusCode};
use proto::{Fingerprint, Name, control::RoleName};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    AppState,
    input::{Json, Named, Query},
    paging::{Page, Range},
    problem::Problem,
    rights::Caller,
    version::{IfMatch, Version, Versioned},
};
use crate::{
    gateway::{GatewayView, view::ConnectedView},
    process_server::{ProcessServer, ProcessServers, Returning, group::Groups},
};

/// One Process Server, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProcessServerAnswer {
    #[schema(value_type = String)]
    name: Name,
    candidate: bool,
    configured: bool,
    restart_required: bool,
    connected: bool,
    active: bool,
    /// Present while it asks to come back with an expired certificate, or was allowed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    returning: Option<Returning>,
    #[serde(with = "time::serde::rfc3339::option")]
    last_seen: Option<OffsetDateTime>,
    /// The agent's software version; `null` until it was first heard.
    version: Option<String>,
    os: Option<String>,
    system_information: SystemInformation,
    /// Its control websocket, while there is one.
    link: Option<LinkAnswer>,
    #[serde(with = "time::serde::rfc3339")]
    enrolled_at: OffsetDateTime,
    /// The key of its newest certificate.
    #[schema(value_type = String)]
    fingerprint: Fingerprint,
}

/// A connected agent, and what it says of itself: where that differs from `active`, one end errs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessServerLink)]
struct LinkAnswer {
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    #[schema(value_type = String)]
    remote: SocketAddr,
    #[schema(value_type = Option<String>)]
    reported_role: Option<RoleName>,
    /// Why its last attempt to bring up a tunnel failed.
    last_error: Option<String>,
    /// When the certificate that it connected with ends, unless it is renewed.
    #[serde(with = "time::serde::rfc3339")]
    certificate_expires_at: OffsetDateTime,
}

impl From<&ConnectedView> for LinkAnswer {
    fn from(connected: &ConnectedView) -> Self {
        let report = connected.report.as_ref();
        Self {
            since: connected.since,
            remote: connected.remote,
            reported_role: report.map(|report| report.role),
            last_error: report.and_then(|report| report.last_error.clone()),
            certificate_expires_at: connected.certificate_until,
        }
    }
}

/// What the host is, and on the active where its Environment's forwarding front door is.
#[derive(Debug, Serialize, ToSchema)]
struct SystemInformation {
    os: String,
    arch: String,
    hostname: String,
    pid: u32,
    #[serde(rename = "IPForwarderURL", skip_serializing_if = "Option::is_none")]
    ip_forwarder_url: Option<String>,
}

pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<ProcessServerAnswer>, Problem> {
    // One more than asked for says whether there is a next page.
    let servers = state.process_servers(&caller).page(range.after(), range.limit()? + 1).await?;
    let looking = Looking::new(&state, &caller).await?;
    let page = range.by_name("/process-servers", servers, |server| server.name.to_string())?;
    Ok(page.map(|server| looking.at(server)))
}

pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
) -> Result<Versioned<ProcessServerAnswer>, Problem> {
    let server = state.process_servers(&caller).find(&name).await?.ok_or_else(|| unknown(&name))?;
    Ok(version(&server).on(Looking::new(&state, &caller).await?.at(server)))
}

/// The body of `PATCH /process-servers/{name}`. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ProcessServerChange)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    #[serde(default)]
    candidate: Option<bool>,
}

pub(super) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    if_match: IfMatch,
    Json(change): Json<Change>,
) -> Result<Versioned<ProcessServerAnswer>, Problem> {
    let servers = state.process_servers(&caller);
    let before = servers.find(&name).await?.ok_or_else(|| unknown(&name))?;
    if_match.permits(&version(&before))?;
    let server = match change.candidate {
        Some(candidate) => {
            let server = servers.mark(&name, candidate).await?;
            // The record is the truth: if the room cannot be told now it reads it when it can.
            state.gateway(&caller)?.reload().await?;
            let (code, done) =
                if candidate { ("candidate_marked", "marked") } else { ("candidate_unmarked", "unmarked") };
            state.note(&caller, code, format!("{name} was {done} as Secure Gateway Candidate")).await;
            server
        }
        None => before,
    };
    Ok(version(&server).on(Looking::new(&state, &caller).await?.at(server)))
}

pub(super) async fn restart(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    Json(NoFields {}): Json<NoFields>,
) -> Result<StatusCode, Problem> {
    state.gateway(&caller)?.restart(name.clone()).await?;
    state.note(&caller, "restart_ordered", format!("{name} was told to restart")).await;
    Ok(StatusCode::ACCEPTED)
}

/// Lets one whose certificate has expired come back. Never done by itself: whoever copied its disk could ask.
pub(super) async fn approve(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    Json(NoFields {}): Json<NoFields>,
) -> Result<Answer<ProcessServerAnswer>, Problem> {
    let server = state.process_servers(&caller).approve(&name, OffsetDateTime::now_utc()).await?;
    let text = format!("{name} was allowed to come back with its expired certificate, within 24 hours");
    state.note(&caller, "return_approved", text).await;
    Ok(Answer(Looking::new(&state, &caller).await?.at(server)))
}

/// The body of a call that takes none.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NoFields {}

/// Removing the active would cut every stream without a word: it has to hand over first.
pub(super) async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    if let Some(before) = state.process_servers(&caller).find(&name).await? {
        if_match.permits(&version(&before))?;
    }
    let gateway = state.gateway(&caller)?;
    if gateway.view().active.as_ref() == Some(&name) {
        return Err(Problem::conflict(
            "active",
            format!("{name} is the active gateway: switch to another one or unmark it first, then remove it"),
        ));
    }
    state.process_servers(&caller).remove(&name).await?;
    gateway.reload().await?;
    state.note(&caller, "process_server_removed", format!("{name} was removed")).await;
    Ok(StatusCode::NO_CONTENT)
}

/// One look at the gateway, so that all records of an answer are seen at the same moment.
struct Looking<'a> {
    view: std::sync::Arc<GatewayView>,
    group_exists: bool,
    ip_forwarder_url: Option<&'a str>,
}

impl<'a> Looking<'a> {
    async fn new(state: &'a AppState, caller: &Caller) -> Result<Self, Problem> {
        let group = Groups::new(state.store.clone(), &caller.environment).record().await?;
        Ok(Self {
            view: state.gateway(caller)?.view(),
            group_exists: group.group.is_some(),
            ip_forwarder_url: state.ip_forwarder_urls.get(&caller.environment).map(String::as_str),
        })
    }

    fn at(&self, server: ProcessServer) -> ProcessServerAnswer {
        let candidate = self.view.candidates.iter().find(|candidate| candidate.agent == server.agent);
        let connected = self.view.connected.get(&server.agent);
        let active = self.view.active.as_ref() == Some(&server.name);
        let restart_required = server.restart_required(self.group_exists);
        let heard = connected.is_some() || server.last_seen.is_some();
        let (software, system) = match connected {
            Some(connected) => (connected.software.clone(), connected.system.clone()),
            None => (server.software, server.system),
        };
        ProcessServerAnswer {
            candidate: server.candidate,
            // Unmarking counts at once, though the room may still be handing over.
            configured: server.candidate && candidate.is_some_and(|candidate| candidate.configured),
            restart_required,
            connected: connected.is_some(),
            returning: server.returning,
            active,
            last_seen: connected.map(|connected| connected.last_heard).or(server.last_seen),
            version: heard.then_some(software),
            os: heard.then(|| system.os.clone()),
            system_information: SystemInformation {
                os: system.os,
                arch: system.arch,
                hostname: system.hostname,
                pid: system.pid,
                ip_forwarder_url: self.ip_forwarder_url.filter(|_| active).map(str::to_owned),
            },
            link: connected.map(LinkAnswer::from),
            enrolled_at: server.enrolled_at,
            fingerprint: server.fingerprint,
            name: server.name,
        }
    }
}

/// Of what an administrator decides about it; what its agent tells is no edit.
fn version(server: &ProcessServer) -> Version {
    Version::of(&(&server.name, server.agent, server.candidate))
}

fn unknown(name: &Name) -> Problem {
    Problem::not_found("process_server_not_found", format!("no Process Server is named {name}"))
}

impl AppState {
    fn process_servers(&self, caller: &Caller) -> ProcessServers {
        ProcessServers::new(self.store_for(caller), &caller.environment)
    }
}
