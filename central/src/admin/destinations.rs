//! `/destinations`: named places reachable through the gateway. Listeners follow the store's changes
//! by themselves; here the records are changed, and a real stream is opened to try one.

use std::{net::IpAddr, time::Duration};

use axum::{Json as Answer, extract::State, http::StatusCode};
use proto::Name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;

use super::{
    AppState,
    data_plane::Listening,
    input::{self, Json, Named, Query},
    paging::{Page, Range},
    problem::Problem,
    rights::Caller,
    version::{IfMatch, Version, Versioned},
};
use crate::{
    destination::{Destination, DestinationError, Destinations, Direction, Spec, Transport},
    trace::{self, Asker, TestRecords, TestReport, TestSummary},
};

/// How long an answer waits for the listener to follow a change, so that it can say where clients
/// connect. A listener opens within milliseconds or fails.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// A destination, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(bound = "T: ToSchema")]
pub(super) struct DestinationAnswer<T = TestReport> {
    #[serde(flatten)]
    record: Destination,
    /// Why its listener is not open though it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The newest test; `null`: never tested as it is now.
    last_test: Option<T>,
}

/// `listen` is where clients connect now; only while nothing is open, where they would.
fn answer<T>(
    state: &AppState,
    caller: &Caller,
    mut record: Destination,
    last_test: Option<T>,
) -> DestinationAnswer<T> {
    let problem = match state.data_plane.listening(&caller.environment, &record.name) {
        Listening::At(address) => {
            record.listen = Some(address);
            None
        }
        Listening::Failed(why) => Some(why),
        Listening::Closed => None,
    };
    DestinationAnswer { record, problem, last_test }
}

/// The same, once the listener has followed.
async fn settled_answer(
    state: &AppState,
    caller: &Caller,
    record: Destination,
    last_test: Option<TestReport>,
) -> DestinationAnswer {
    let listens = record.enabled
        && record.direction == Direction::ToSite
        && record.url.scheme().transport() == Transport::Tcp;
    if listens {
        let settled = state.data_plane.settled(&caller.environment, &record.name);
        if timeout(SETTLE_TIMEOUT, settled).await.is_err() {
            warn!(name = %record.name, "A listener has not followed a change yet");
        }
    }
    answer(state, caller, record, last_test)
}

pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<DestinationAnswer<TestSummary>>, Problem> {
    // One more than asked for says whether there is a next page.
    let (after, limit) = (range.after(), range.limit()? + 1);
    let records = state.destinations(&caller).page(after, limit).await?;
    let page = range.by_name("/destinations", records, |record| record.name.to_string())?;
    // Fewer than the destinations, so those of this page are among as many behind the same cursor.
    let mut tests = state.destination_tests(&caller).summaries(after, limit).await?;
    Ok(page.map(|record| {
        let last_test = tests.remove(&record.name);
        answer(&state, &caller, record, last_test)
    }))
}

pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
) -> Result<Versioned<DestinationAnswer>, Problem> {
    let record = find(&state, &caller, &name).await?;
    let last_test = state.destination_tests(&caller).find(&name).await?;
    Ok(Version::of(&record).on(answer(&state, &caller, record, last_test)))
}

pub(super) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(spec): Json<Spec>,
) -> Result<(StatusCode, Versioned<DestinationAnswer>), Problem> {
    not_ourselves(&state, &spec)?;
    let record = state.destinations(&caller).create(spec).await?;
    let text = format!("Destination {} was added: {}", record.name, record.url);
    state.note(&caller, "destination_added", text).await;
    let version = Version::of(&record);
    Ok((StatusCode::CREATED, version.on(settled_answer(&state, &caller, record, None).await)))
}

/// A JSON merge patch (RFC 7396): what is left out stays, `null` goes back to the default.
pub(super) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    if_match: IfMatch,
    Json(patch): Json<Map<String, Value>>,
) -> Result<Versioned<DestinationAnswer>, Problem> {
    if patch.get("name").is_some_and(|new| new != name.as_str()) {
        return Err(Problem::field("name", "a destination keeps its name: add another one and remove this"));
    }
    let patched = |before: &Destination| -> Result<Spec, Problem> {
        // A record is made of strings, numbers and maps: it serialises. If not, the spec is refused below.
        let mut merged = serde_json::to_value(before).unwrap_or_default();
        merge(&mut merged, Value::Object(patch));
        input::from_value(merged)
    };
    let mut moved = false;
    let patched = |before: &Destination| {
        if_match.permits(&Version::of(before))?;
        let spec = patched(before)?;
        not_ourselves(&state, &spec)?;
        moved = spec.url != before.url || spec.kind.is_some_and(|kind| kind != before.kind);
        Ok::<_, Problem>(spec)
    };
    let record = state.destinations(&caller).change(&name, patched).await?;
    let tests = state.destination_tests(&caller);
    if moved {
        // What was seen was another place.
        tests.forget(&name).await?;
    }
    let last_test = tests.find(&name).await?;
    state.note(&caller, "destination_changed", format!("Destination {name} was changed")).await;
    Ok(Version::of(&record).on(settled_answer(&state, &caller, record, last_test).await))
}

/// A stream to one of central's own listeners would go round in a circle, or reach its doors from inside.
fn not_ourselves(state: &AppState, spec: &Spec) -> Result<(), Problem> {
    if state.own_listeners.are_seen_at(spec.url.host(), spec.url.port()) {
        let why =
            format!("{} is one of central's own listeners: a destination lies behind the gateway", spec.url);
        return Err(Problem::field("url", why));
    }
    Ok(())
}

pub(super) async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    if_match.permits(&Version::of(&find(&state, &caller, &name).await?))?;
    state.destinations(&caller).remove(&name).await?;
    state.destination_tests(&caller).forget(&name).await?;
    state.note(&caller, "destination_removed", format!("Destination {name} was removed")).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The body of `POST /destinations/{name}/test`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = DestinationTestRequest)]
#[serde(deny_unknown_fields)]
pub(super) struct TestRequest {
    /// The client whose way is tested: judges the destination's access list for it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    client: Option<IpAddr>,
}

/// Tries every hop, through the active and from every candidate. An answer, whether or not it was reached.
pub(super) async fn test(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    Json(TestRequest { client }): Json<TestRequest>,
) -> Result<Answer<TestReport>, Problem> {
    let destination = find(&state, &caller, &name).await?;
    let gateway = state.gateway(&caller)?;
    let records = state.destination_tests(&caller);
    let before = records.find(&name).await?;
    let asker = Asker { by: caller.who.to_string(), client };
    let view = gateway.view();
    let report = trace::test(&state.data_plane, &caller.environment, &destination, &view, asker).await;
    // The answer stands, whether or not it can be kept.
    if let Err(error) = records.put(&report).await {
        warn!(%name, %error, "A test of a destination could not be kept");
    }
    if report.is_unreachable()
        && !before.is_some_and(|before| before.is_unreachable())
        && let Err(error) = gateway.tell_unreachable(name.clone(), report.summary.clone()).await
    {
        warn!(%name, %error, "Nobody could be told of a destination that is not reached");
    }
    Ok(Answer(report))
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
        Destinations::new(self.store_for(caller), &caller.environment)
    }

    fn destination_tests(&self, caller: &Caller) -> TestRecords {
        TestRecords::new(self.store.clone(), &caller.environment)
    }
}

impl From<DestinationError> for Problem {
    fn from(error: DestinationError) -> Self {
        let text = error.to_string();
        match error {
            DestinationError::Unknown(_) => Self::not_found("destination_not_found", text),
            DestinationError::Exists(_) => Self::conflict("destination_exists", text).at("name"),
            DestinationError::ListenTaken { .. } => Self::conflict("listen_taken", text).at("listen"),
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
