//! `/traffic`: what was carried lately, step by step.

use axum::{Json as Answer, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, rights::Caller};
use crate::series::{Point, STEP};

/// The last hour, as far as central ran.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Traffic {
    /// How long one point stands for, seconds.
    step_s: u64,
    /// Oldest first.
    points: Vec<Point>,
}

pub(super) async fn show(State(state): State<AppState>, caller: Caller) -> Answer<Traffic> {
    Answer(Traffic { step_s: STEP.as_secs(), points: state.lately.points(&caller.environment) })
}
