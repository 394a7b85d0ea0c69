//! `/gateway`: the Secure Gateway's state, and the planned switch.

use axum::{Json as Answer, extract::State, http::StatusCode};
use proto::Name;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{AppState, input::Json, problem::Problem, process_servers::NoFields, rights::Caller};
use crate::gateway::{
    CommandError, DrainView, GatewayView,
    view::{AttemptView, CandidateView, DrainingView, GatewayState, SwitchView},
};

/// The event that is raised while no candidate can bring up a secure connection.
const EVENT: &str = "System_Secure_Gateway";

/// The answer of `GET /gateway`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GatewayAnswer {
    state: GatewayState,
    #[schema(value_type = Option<String>)]
    active: Option<Name>,
    /// The claim within `group_epoch`: together the highest epoch ever admitted. Both are 0 before the
    /// first, and only grow.
    epoch: u64,
    group_epoch: u64,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    candidates: Vec<CandidateView>,
    attempt: Option<AttemptView>,
    event: EventAnswer,
    last_switch: Option<SwitchView>,
    /// How many more voting members the group can lose and still change its active.
    can_lose: Option<usize>,
    streams: usize,
    /// Websockets of the tunnel that are up; `tunnel.lanes` says how many there should be.
    lanes: usize,
    /// Old actives that finish their streams; `/gateway/drain` names who holds them open.
    draining: Vec<DrainingView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GatewayEvent)]
struct EventAnswer {
    name: &'static str,
    raised: bool,
}

impl From<&GatewayView> for GatewayAnswer {
    fn from(view: &GatewayView) -> Self {
        Self {
            state: view.state,
            active: view.active.clone(),
            epoch: view.fence.map_or(0, |epoch| epoch.claim),
            group_epoch: view.fence.map_or(0, |epoch| epoch.group),
            since: view.since,
            candidates: view.candidates.clone(),
            attempt: view.attempt.clone(),
            event: EventAnswer { name: EVENT, raised: view.event_raised },
            last_switch: view.last_switch.clone(),
            can_lose: view.can_lose,
            streams: view.streams.count(),
            lanes: view.streams.lanes(),
            draining: view.draining.clone(),
        }
    }
}

pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<GatewayAnswer>, Problem> {
    let view = state.gateway(&caller)?.view();
    Ok(Answer(GatewayAnswer::from(&*view)))
}

/// Who still holds an old active open.
pub(super) async fn drains(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<Vec<DrainView>>, Problem> {
    Ok(Answer(state.gateway(&caller)?.drains().await?))
}

/// Ends them.
pub(super) async fn end_drain(
    State(state): State<AppState>,
    caller: Caller,
    Json(NoFields {}): Json<NoFields>,
) -> Result<StatusCode, Problem> {
    state.gateway(&caller)?.end_drain().await?;
    state.note(&caller, "drain_ended", "What drained was ended, its streams with it".to_owned()).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The body of `POST /gateway/switch`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchRequest {
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    to: Option<Name>,
}

/// Where a Process Server that was named is what stands in the way, the field it was named in.
pub(super) fn about_target(error: CommandError, field: &str) -> Problem {
    let named = matches!(
        error,
        CommandError::Unknown(_)
            | CommandError::NotConnected(_)
            | CommandError::NotConfigured(_)
            | CommandError::NotMarked(_)
            | CommandError::AlreadyActive(_)
            | CommandError::NoAnswer(_)
    );
    let problem = Problem::from(error);
    if named { problem.at(field) } else { problem }
}

/// Accepted, not done: the answer is the state at the time the order stands.
pub(super) async fn switch(
    State(state): State<AppState>,
    caller: Caller,
    Json(request): Json<SwitchRequest>,
) -> Result<(StatusCode, Answer<GatewayAnswer>), Problem> {
    let gateway = state.gateway(&caller)?;
    gateway.switch(request.to.clone()).await.map_err(|error| about_target(error, "to"))?;
    let to = request.to.map_or_else(|| "the next configured candidate".to_owned(), |name| name.to_string());
    state.note(&caller, "switch_ordered", format!("A planned switch to {to} was ordered")).await;
    let view = gateway.view();
    Ok((StatusCode::ACCEPTED, Answer(GatewayAnswer::from(&*view))))
}
