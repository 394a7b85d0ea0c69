//! `/livez` and `/readyz`: for supervisors and load balancers.

use std::time::Duration;

use axum::extract::State;
use tokio::time::timeout;

use super::{AppState, problem::Problem};
use crate::{process_server::PROCESS_SERVERS, store::Owner};

/// A store that takes longer for one read is not ready to serve.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The process runs and answers. Never a word on quorum, store or agents: restarting central would
/// not mend those.
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// Central can do its work: its store answers. The gateway's own state is no part of it, for a
/// central without an agent is ready for the first one.
pub(super) async fn ready(State(state): State<AppState>) -> Result<&'static str, Problem> {
    let read = PROCESS_SERVERS.page(&*state.store, &Owner::Central, None, 1);
    match timeout(STORE_TIMEOUT, read).await {
        Ok(Ok(_)) => Ok("ready\n"),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Problem::unavailable(
            "store_slow",
            format!("the store did not answer within {STORE_TIMEOUT:?}"),
        )),
    }
}
