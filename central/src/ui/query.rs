//! What stands behind the `?` of a page's address: people edit addresses too, and are told what is wrong with one.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
    response::Response,
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};

use super::reply;

/// The query string, read.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let why = std::error::Error::source(&rejection)
                    .map_or_else(|| rejection.body_text(), ToString::to_string);
                let text = format!("The address of the page has a field that cannot be read. {why}.");
                Err(reply::bare(StatusCode::BAD_REQUEST, "No such page", &text))
            }
        }
    }
}

/// A field that is left empty or says one of `words`.
pub(super) fn one_of<'de, D: Deserializer<'de>>(
    deserializer: D,
    words: &'static [&'static str],
) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() || words.contains(&text.as_str()) {
        return Ok(text);
    }
    let shown: String = text.chars().take(40).collect();
    Err(D::Error::custom(format!("{shown:?} is none of {}", words.join(", "))))
}
