//! Reads what a caller sent, bounded and strict: an unknown field is refused by its name, so that
//! a typo never looks like success.

use std::time::Duration;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{StatusCode, header, request::Parts},
};
use proto::Name;
use serde::de::DeserializeOwned;
use serde_json::{Value, error::Category};
use tokio::time::timeout;

use super::problem::Problem;

/// The largest body, in bytes. The largest thing anyone sends are the settings of alerts, with templates
/// and certificates in them; the store takes as much.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long a body may take to arrive.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body. No body at all is `{}`: `POST …/restart` needs none.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
        let body = timeout(BODY_TIMEOUT, to_bytes(request.into_body(), BODY_BYTES_MAX)).await;
        let bytes = match body {
            Ok(Ok(bytes)) => bytes,
            // Too large and broken off half-way look alike here; the second one hears no answer anyway.
            Ok(Err(_)) => {
                return Err(Problem::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "body_too_large",
                    format!("the body must arrive whole and have at most {BODY_BYTES_MAX} bytes"),
                ));
            }
            Err(_) => {
                return Err(Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "body_too_slow",
                    format!("the body did not arrive within {BODY_TIMEOUT:?}"),
                ));
            }
        };
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !is_json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not_json",
                "the body must be JSON, with the header 'Content-Type: application/json'",
            ));
        }
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(wrong)?;
    match reader.end() {
        Ok(()) => Ok(value),
        Err(error) => {
            Err(Problem::bad_request("invalid_json", format!("the body goes on after its JSON: {error}")))
        }
    }
}

/// Reads a value that was put together here, as strictly as a body.
pub(super) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(wrong)
}

fn wrong(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let field = error.path().to_string();
    let inner = error.into_inner();
    // "." is the document itself: it is no JSON, or lacks a field, and the text says which.
    match (inner.classify(), field.as_str()) {
        (Category::Data, ".") => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", inner.to_string())
        }
        (Category::Data, _) => Problem::field(field, inner.to_string()),
        _ => Problem::bad_request("invalid_json", format!("the body is no JSON: {inner}")),
    }
}

/// The query string.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Problem::bad_request("invalid_query", rejection.body_text())),
        }
    }
}

/// The one name in a path.
pub(super) struct Named(pub(super) Name);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong = |why: String| Problem::bad_request("invalid_name", why);
        let Path(text): Path<String> =
            Path::from_request_parts(parts, state).await.map_err(|rejection| wrong(rejection.body_text()))?;
        text.parse().map(Self).map_err(|error: proto::ids::NameError| wrong(error.to_string()))
    }
}

/// Reads a duration such as `"15m"`: the unit is part of it.
pub(super) fn ttl<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = <Option<String> as serde::Deserialize>::deserialize(reader)? else { return Ok(None) };
    match humantime::parse_duration(&text) {
        Ok(duration) => Ok(Some(duration)),
        Err(error) => {
            Err(serde::de::Error::custom(format!("{text:?} is no duration ({error}); write it like \"15m\"")))
        }
    }
}
