//! `/livez` and `/readyz`: for supervisors and load balancers.

use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;
use tokio::time::timeout;

use super::{AppState, input::Query, problem::Problem};
use crate::{process_server::PROCESS_SERVERS, store::Owner};

/// A store that takes longer for one read is not ready to serve.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// `?verbose`
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    verbose: Option<String>,
}

fn verbose(state: &AppState) -> String {
    let gateways = state.gateways.iter().map(|(name, gateway)| {
        let view = gateway.view();
        // Whether it works is no question of readiness; who is active is not for strangers.
        format!("[+] gateway of {name} decides, since {}\n", view.since)
    });
    std::iter::once("[+] store answers\n".to_owned()).chain(gateways).chain(["ready\n".to_owned()]).collect()
}

/// The process runs and answers. Never a word on quorum, store or agents: restarting central would
/// not mend those.
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// Central can do its work: its store answers. The gateway's own state is no part of it, for a
/// central without an agent is ready for the first one.
/// With `?verbose`, a line for each thing somebody may want to know; only the store decides.
pub(super) async fn ready(
    State(state): State<AppState>,
    Query(asked): Query<Asked>,
) -> Result<String, Problem> {
    let read = PROCESS_SERVERS.page(&*state.store, &Owner::Central, None, 1);
    match timeout(STORE_TIMEOUT, read).await {
        Ok(Ok(_)) if asked.verbose.is_some() => Ok(verbose(&state)),
        Ok(Ok(_)) => Ok("ready\n".to_owned()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Problem::unavailable(
            "store_slow",
            format!("the store did not answer within {STORE_TIMEOUT:?}"),
        )),
    }
}
