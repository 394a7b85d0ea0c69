//! `/streams`: who uses the gateway now, who did lately, and how to end one. Metadata only.

use axum::{
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    AppState,
    input::{Json, Query},
    paging::{Order, Page, Range},
    problem::Problem,
    process_servers::NoFields,
    rights::Caller,
};
use crate::listener::ledger::{ClosedStream, OpenStream, StreamKey};

pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<OpenStream>, Problem> {
    let read = |text: &str| text.parse::<StreamKey>().ok();
    let after = match range.after() {
        Some(text) => Some(read(text).ok_or_else(|| Problem::field("after", "is no cursor of this list"))?),
        None => None,
    };
    // One more than asked for says whether there is a next page.
    let open = state.data_plane.streams(&caller.environment, after, range.limit()? + 1);
    range.page("/streams", open, Order::Rising, |stream| stream.id, read)
}

/// The last that ended, newest first.
pub(super) async fn closed(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<ClosedStream>, Problem> {
    let closed = state.data_plane.closed_streams(&caller.environment);
    range.page("/streams/closed", closed, Order::Falling, |stream| stream.number, |text| text.parse().ok())
}

/// Both ends see a reset.
pub(super) async fn end(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Json(NoFields {}): Json<NoFields>,
) -> Result<StatusCode, Problem> {
    let key: StreamKey = id.parse().map_err(|_| gone(&id))?;
    if !state.data_plane.end_stream(&caller.environment, key) {
        return Err(gone(&id));
    }
    state.note(&caller, "stream_ended", format!("Stream {key} was ended")).await;
    Ok(StatusCode::NO_CONTENT)
}

fn gone(id: &str) -> Problem {
    let id: String = id.chars().take(64).collect();
    Problem::not_found(
        "stream_not_found",
        format!("no open stream has the id {id:?}: it may have ended by itself"),
    )
}
