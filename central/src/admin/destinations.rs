//! `/destinations`: named places reachable through the gateway. Listeners follow the store's changes
//! by themselves; here the records are changed, and a real stream is opened to try one.

use std::time::Duration;

use axum::{Json as Answer, extract::State, http::StatusCode};
use proto::Name;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{
    AppState,
    data_plane::{Listening, OpenFailure},
    input::{self, Json, Named},
    problem::Problem,
    process_servers::NoFields,
    rights::Caller,
};
use crate::destination::{Destination, DestinationError, Destinations, Direction, Spec, Transport};

/// How long a test waits for the destination. Longer than an agent's own dial, so that the reason is
/// the agent's.
pub(super) const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an answer waits for the listener to follow a change, so that it can say where clients
/// connect. A listener opens within milliseconds or fails.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// A destination, as the API shows it.
#[derive(Debug, Serialize)]
pub(super) struct DestinationAnswer {
    #[serde(flatten)]
    record: Destination,
    /// Why its listener is not open though it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `listen` is where clients connect now; only while nothing is open, where they would.
fn answer(state: &AppState, caller: &Caller, mut record: Destination) -> DestinationAnswer {
    let problem = match state.data_plane.listening(&caller.environment, &record.name) {
        Listening::At(address) => {
            record.listen = Some(address);
            None
        }
        Listening::Failed(why) => Some(why),
        Listening::Closed => None,
    };
    DestinationAnswer { record, problem }
}

/// The same, once the listener has followed.
async fn settled_answer(state: &AppState, caller: &Caller, record: Destination) -> DestinationAnswer {
    let listens = record.enabled
        && record.direction == Direction::ToSite
        && record.url.scheme().transport() == Transport::Tcp;
    if listens {
        let settled = state.data_plane.settled(&caller.environment, &record.name);
        if timeout(SETTLE_TIMEOUT, settled).await.is_err() {
            warn!(name = %record.name, "A listener has not followed a change yet");
        }
    }
    answer(state, caller, record)
}

pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<Vec<DestinationAnswer>>, Problem> {
    let records = state.destinations(&caller).list().await?;
    Ok(Answer(records.into_iter().map(|record| answer(&state, &caller, record)).collect()))
}

pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
) -> Result<Answer<DestinationAnswer>, Problem> {
    let record = find(&state, &caller, &name).await?;
    Ok(Answer(answer(&state, &caller, record)))
}

pub(super) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(spec): Json<Spec>,
) -> Result<(StatusCode, Answer<DestinationAnswer>), Problem> {
    let record = state.destinations(&caller).create(spec).await?;
    let text = format!("Destination {} was added: {}", record.name, record.url);
    state.note(&caller, "destination_added", text).await;
    Ok((StatusCode::CREATED, Answer(settled_answer(&state, &caller, record).await)))
}

/// A JSON merge patch (RFC 7396): what is left out stays, `null` goes back to the default.
pub(super) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    Json(patch): Json<Map<String, Value>>,
) -> Result<Answer<DestinationAnswer>, Problem> {
    if patch.get("name").is_some_and(|new| new != name.as_str()) {
        return Err(Problem::field("name", "a destination keeps its name: add another one and remove this"));
    }
    let patched = |before: &Destination| -> Result<Spec, Problem> {
        // A record is made of strings, numbers and maps: it serialises. If not, the spec is refused below.
        let mut merged = serde_json::to_value(before).unwrap_or_default();
        merge(&mut merged, Value::Object(patch));
        input::from_value(merged)
    };
    let record = state.destinations(&caller).change(&name, patched).await?;
    state.note(&caller, "destination_changed", format!("Destination {name} was changed")).await;
    Ok(Answer(settled_answer(&state, &caller, record).await))
}

pub(super) async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
) -> Result<StatusCode, Problem> {
    state.destinations(&caller).remove(&name).await?;
    state.note(&caller, "destination_removed", format!("Destination {name} was removed")).await;
    Ok(StatusCode::NO_CONTENT)
}

/// What came of a test: an answer, whether or not the destination was reached.
#[derive(Debug, Serialize)]
pub(super) struct Tested {
    reached: bool,
    /// From the request until the destination had accepted, or until it was given up.
    ms: u64,
    /// The Process Server whose tunnel was used.
    via: Option<Name>,
    reason: Option<String>,
}

pub(super) async fn test(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    Json(NoFields {}): Json<NoFields>,
) -> Result<Answer<Tested>, Problem> {
    find(&state, &caller, &name).await?;
    let started = Instant::now();
    let opening = timeout(TEST_TIMEOUT, state.data_plane.open(&caller.environment, &name)).await;
    let ms = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let not_reached =
        |via, reason| Tested { reached: false, ms: ms(started.elapsed()), via, reason: Some(reason) };
    Ok(Answer(match opening {
        Ok(Ok(opened)) => Tested { reached: true, ms: ms(opened.took), via: Some(opened.via), reason: None },
        Ok(Err(failure)) => {
            let reason = failure.to_string();
            let via = match failure {
                OpenFailure::NoTunnel | OpenFailure::Central(_) => None,
                OpenFailure::Refused { via, .. } | OpenFailure::TunnelLost { via } => Some(via),
            };
            not_reached(via, reason)
        }
        Err(_) => not_reached(None, format!("nobody answered within {TEST_TIMEOUT:?}")),
    }))
}

async fn find(state: &AppState, caller: &Caller, name: &Name) -> Result<Destination, Problem> {
    let found = state.destinations(caller).find(name).await?;
    found.ok_or_else(|| DestinationError::Unknown(name.clone()).into())
}

/// RFC 7396, word for word.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (field, value) in patch {
        if value.is_null() {
            target.remove(&field);
        } else {
            merge(target.entry(field).or_insert(Value::Null), value);
        }
    }
}

impl AppState {
    fn destinations(&self, caller: &Caller) -> Destinations {
        Destinations::new(self.store.clone(), &caller.environment)
    }
}

impl From<DestinationError> for Problem {
    fn from(error: DestinationError) -> Self {
        let text = error.to_string();
        match error {
            DestinationError::Unknown(_) => Self::not_found("destination_not_found", text),
            DestinationError::Exists(_) => Self::conflict("destination_exists", text),
            DestinationError::ListenTaken { .. } => Self::conflict("listen_taken", text),
            DestinationError::Transport { .. } => Self::field("type", text),
            DestinationError::Streams(_) => Self::field("limits.streams", text),
            DestinationError::Clients(_) => Self::field("acl.clients", text),
            DestinationError::TooMany => Self::conflict("too_many_destinations", text),
            DestinationError::Changed(_) => Self::conflict("conflict", text),
            DestinationError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let mut target = json!({"a": 1, "limits": {"streams": 7, "other": 1}, "listen": "x"});
        merge(&mut target, json!({"limits": {"streams": 8}, "listen": null, "acl": {"clients": []}}));
        assert_eq!(target, json!({"a": 1, "limits": {"streams": 8, "other": 1}, "acl": {"clients": []}}));
    }
}
