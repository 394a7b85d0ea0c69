//! `/events`: what happened, as a list that can be followed by number, or as a stream.

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{AppState, follow, input::Query, paging::Page, problem::Problem, rights::Caller};
use crate::events::Events;

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

/// Oldest first either way, so that the last one's `seq` is the next `after`. A stream begins with the same events.
pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Query(range): Query<Range>,
) -> Result<Response, Problem> {
    let limit = range.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::field("limit", format!("must be 1 to {LIMIT_MAX}")));
    }
    let events = Events::new(state.store.clone(), &caller.environment);
    if follow::wants_stream(&headers) {
        let after = match follow::last_seen(&headers)?.or(range.after) {
            Some(after) => after,
            None => events.newest(limit).await?.first().map_or(0, |first| first.seq.saturating_sub(1)),
        };
        return state.following.stream(events, state.store.changes(), after);
    }
    let page = match range.after {
        Some(after) => events.list(after, limit).await?,
        None => events.newest(limit).await?,
    };
    let more = range.after.is_some() && page.len() == limit;
    let next = page.last().filter(|_| more).map(|last| last.seq.to_string());
    Ok(Page::behind("/events", page, next.as_deref(), limit).into_response())
}
