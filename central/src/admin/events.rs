//! `/events`: what happened, as a list that can be followed by number, or as a stream.

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};

use super::{AppState, follow, input::Query, paging::Numbers, problem::Problem, rights::Caller};
use crate::events::Events;

/// Oldest first either way, so that the last one's `seq` is the next `after`. A stream begins with the same events.
pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Query(range): Query<Numbers>,
) -> Result<Response, Problem> {
    let limit = range.limit()?;
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
    Ok(range.page("/events", page, |event| event.seq).into_response())
}
