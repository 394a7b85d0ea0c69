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
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // Where a word is expected and a list comes, serde speaks of syntax, though the body is JSON.
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
        wrong(error, is_json)
    })?;
    match reader.end() {
        Ok(()) => Ok(value),
        Err(error) => {
            Err(Problem::bad_request("invalid_json", format!("the body goes on after its JSON: {error}")))
        }
    }
}

/// Reads a value that was put together here, as strictly as a body.
pub(super) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| wrong(error, true))
}

fn wrong(error: serde_path_to_error::Error<serde_json::Error>, is_json: bool) -> Problem {
    let path = error.path().to_string();
    let inner = error.into_inner();
    let why = match (inner.classify(), is_json) {
        (Category::Data, _) => without_position(inner.to_string()),
        (_, true) => "must be one word of those that are known, or fields in braces".to_owned(),
        (_, false) => {
            return Problem::bad_request("invalid_json", format!("the body is no JSON: {inner}"));
        }
    };
    match (path.as_str(), named_in(&why)) {
        // "." is the document itself.
        (".", None) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", why),
        (".", Some(field)) => Problem::field(field.to_owned(), why),
        // What is missing has no place of its own, what is unknown has.
        (path, Some(field)) if why.starts_with("missing") => Problem::field(format!("{path}.{field}"), why),
        (path, _) => Problem::field(path, why),
    }
}

/// The field says where; a line and a column of a body that a program wrote say nothing.
fn without_position(mut why: String) -> String {
    if let Some(at) = why.rfind(" at line ") {
        why.truncate(at);
    }
    why
}

/// The field that a refusal is about, where serde names it in its sentence and not by its place: ``missing field `x` ``.
fn named_in(why: &str) -> Option<&str> {
    let rest = why.strip_prefix("missing field `").or_else(|| why.strip_prefix("unknown field `"))?;
    rest.split_once('`').map(|(field, _)| field)
}

/// The query string.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let why = std::error::Error::source(&rejection)
                    .map_or_else(|| rejection.body_text(), ToString::to_string);
                let problem = Problem::bad_request("invalid_query", why.clone());
                // `limit: invalid digit …`, or a sentence that names the field.
                let field = named_in(&why).or_else(|| why.split_once(": ").map(|(field, _)| field));
                Err(match field {
                    Some(field) => problem.at(field),
                    None => problem,
                })
            }
        }
    }
}

/// The one name in a path.
pub(super) struct Named(pub(super) Name);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong = |why: String| Problem::bad_request("invalid_name", why).at("name");
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
