//! `/operator/backup`: everything, for the operator of the machine and nobody else. Beside the API, whose callers belong
//! to one Environment each.

use std::path::PathBuf;

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use time::OffsetDateTime;

use super::{AppState, problem::Problem};
use crate::{
    backup::Content,
    events::{Events, NewEvent, Severity},
};

/// Where the files of a backup are.
#[derive(Debug, Clone, Default)]
pub struct Files {
    pub data_dir: PathBuf,
    pub secrets_key: PathBuf,
}

/// The content of a backup, in clear: whoever asks seals it.
pub(super) async fn take(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !state.operator.is(shown) {
        return Err(Problem::unauthenticated());
    }
    let Files { data_dir, secrets_key } = &state.files;
    let content = Content::of(&*state.store, data_dir, secrets_key).await?;
    for (environment, _) in state.gateways.iter() {
        let text = "The operator has taken a backup of central".to_owned();
        let event =
            NewEvent { code: "backup_taken", severity: Severity::Info, text, sender: "operator".to_owned() };
        let events = Events::new(state.store.clone(), environment);
        if let Err(error) = events.append(event, OffsetDateTime::now_utc()).await {
            tracing::warn!(%environment, %error, "That a backup was taken could not be noted as an event");
        }
    }
    let lines = content.map(|line| line.map(Bytes::from));
    let mut answer = Body::from_stream(stream::iter(lines)).into_response();
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}
