//! `/gateway/drill` and `/gateway/drills`: failover drills and what came of them.

use axum::{Json as Answer, extract::State, http::StatusCode};
use proto::Name;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, gateway::about_target, input::Json, problem::Problem, rights::Caller};
use crate::drill::{DrillRefusal, Drills, Report};

/// The body of `POST /gateway/drill`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrillRequest {
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    to: Option<Name>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DrillBegun)]
pub(super) struct Begun {
    /// Of its report in `GET /gateway/drills`.
    id: u64,
}

/// Accepted, not done: a drill takes as long as its switches and what drains in between.
pub(super) async fn begin(
    State(state): State<AppState>,
    caller: Caller,
    Json(request): Json<DrillRequest>,
) -> Result<(StatusCode, Answer<Begun>), Problem> {
    let conductor = state.drills.get(&caller.environment).ok_or_else(|| {
        let text = format!("this central serves no Environment named {}", caller.environment);
        Problem::not_found("environment_not_found", text)
    })?;
    let id = conductor.begin(request.to, caller.who.to_string()).await?;
    state.note(&caller, "drill_ordered", format!("Failover drill {id} was ordered")).await;
    Ok((StatusCode::ACCEPTED, Answer(Begun { id })))
}

/// The newest first.
pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<Vec<Report>>, Problem> {
    Ok(Answer(Drills::new(state.store.clone(), &caller.environment).list().await?))
}

impl From<DrillRefusal> for Problem {
    fn from(refusal: DrillRefusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            DrillRefusal::UnderWay => Self::conflict("drill_under_way", detail),
            DrillRefusal::NotUp => Self::conflict("not_up", detail),
            DrillRefusal::NoStandby => Self::conflict("no_other_candidate", detail),
            DrillRefusal::NoTolerance => Self::conflict("no_tolerance", detail),
            DrillRefusal::Gateway(error) => about_target(error, "to"),
            DrillRefusal::Store(_) => Self::unavailable("store_failed", detail),
            DrillRefusal::Stopping => Self::unavailable("stopping", detail),
        }
    }
}
