//! `/events`: what happened, as a list that can be followed by number.

use axum::{Json as Answer, extract::State};
use serde::Deserialize;

use super::{AppState, input::Query, problem::Problem, rights::Caller};
use crate::events::{Event, Events};

/// The most events in one answer.
const LIMIT_MAX: usize = 1000;
/// Events in an answer where no limit is given.
const LIMIT_DEFAULT: usize = 100;

/// `?after=SEQ&limit=N`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    /// Only events with a larger number; without it, the newest.
    #[serde(default)]
    after: Option<u64>,
    #[serde(default)]
    limit: Option<usize>,
}

/// Oldest first either way, so that the last one's `seq` is the next `after`.
pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Answer<Vec<Event>>, Problem> {
    let limit = range.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::field("limit", format!("must be 1 to {LIMIT_MAX}")));
    }
    let events = Events::new(state.store.clone(), &caller.environment);
    Ok(Answer(match range.after {
        Some(after) => events.list(after, limit).await?,
        None => events.newest(limit).await?,
    }))
}
