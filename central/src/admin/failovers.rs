//! `/failovers`: what happened each time the tunnel was lost or moved, newest first.

use axum::{
    Json as Answer,
    extract::{Path, State},
};

use super::{
    AppState,
    input::Query,
    paging::{Order, Page, Range},
    problem::Problem,
    rights::Caller,
};
use crate::failovers::{Failover, Failovers};

pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<Failover>, Problem> {
    let all = state.failovers(&caller).all().await?;
    range.page("/failovers", all, Order::Falling, |failover| failover.id, |text| text.parse().ok())
}

pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Answer<Failover>, Problem> {
    let found = match id.parse() {
        Ok(id) => state.failovers(&caller).find(id).await?,
        Err(_) => None,
    };
    let none =
        || Problem::not_found("failover_not_found", "no failover has this number, or it is too long ago");
    found.map(Answer).ok_or_else(none)
}

impl AppState {
    fn failovers(&self, caller: &Caller) -> Failovers {
        Failovers::new(self.store.clone(), &caller.environment)
    }
}
