//! `ETag` and `If-Match`: two people who edit the same thing get a conflict, not a lost edit.
//!
//! A version is a digest of what can be edited: it changes with every edit and with nothing else.

use std::fmt;

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::problem::Problem;

/// How much of the digest is told, in bytes: enough that no two edits meet by chance.
const DIGEST_BYTES: usize = 12;

/// The version of what can be edited, as in `ETag: "…"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version(String);

impl Version {
    /// Of the editable part.
    pub(super) fn of(editable: &impl Serialize) -> Self {
        // Records serialise; if not, no two versions differ and nobody is refused.
        let text = serde_json::to_vec(editable).unwrap_or_default();
        let digest = Sha256::digest(text);
        let hex: String = digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("\"{hex}\""))
    }

    /// Puts it on an answer.
    pub(super) fn on<T: Serialize>(self, answer: T) -> Versioned<T> {
        Versioned { version: self, answer }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An answer with its `ETag`.
#[derive(Debug)]
pub(super) struct Versioned<T> {
    version: Version,
    pub(super) answer: T,
}

impl<T: Serialize> IntoResponse for Versioned<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.answer).into_response();
        if let Ok(version) = HeaderValue::from_str(&self.version.0) {
            response.headers_mut().insert(header::ETAG, version);
        }
        response
    }
}

/// The versions a caller is ready to change; without `If-Match`, any.
#[derive(Debug, Clone, Default)]
pub(super) struct IfMatch(Option<Vec<String>>);

impl IfMatch {
    /// # Errors
    /// 412 when `current` is none of them.
    pub(super) fn permits(&self, current: &Version) -> Result<(), Problem> {
        let Some(wanted) = &self.0 else { return Ok(()) };
        if wanted.iter().any(|one| one == "*" || *one == current.0) {
            return Ok(());
        }
        let yours = wanted.join(", ");
        Err(Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "changed_meanwhile",
            format!(
                "somebody else changed this since you read it: yours is version {yours}, it is {} now; \
                 read it again, then decide",
                current.0
            ),
        ))
    }

    fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(header::IF_MATCH).iter().peekable();
        if given.peek().is_none() {
            return Self(None);
        }
        let tags = given.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        Self(Some(tags.map(|tag| tag.trim().to_owned()).take(16).collect()))
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_changes_with_what_it_is_of() {
        assert_eq!(Version::of(&"a"), Version::of(&"a"));
        assert_ne!(Version::of(&"a"), Version::of(&"b"));
    }

    #[test]
    fn only_a_named_version_or_any_may_be_changed() {
        let current = Version::of(&"a");
        let given = |text: &str| {
            let headers = HeaderMap::from_iter([(header::IF_MATCH, text.parse().unwrap())]);
            IfMatch::of(&headers).permits(&current)
        };
        assert!(IfMatch::of(&HeaderMap::new()).permits(&current).is_ok());
        assert!(given("*").is_ok());
        assert!(given(&format!("\"x\", {}", current.0)).is_ok());
        assert_eq!(given("\"x\"").unwrap_err().status(), StatusCode::PRECONDITION_FAILED);
        assert!(given("nonsense").is_err());
    }
}
