//! How the API says no: RFC 9457, with a code for programs and a sentence for people.
//!
//! A handler returns a [`Problem`]; [`super::request`] writes its body, because only there the
//! request id is known. Inside a problem stands only what the caller may know; the rest is logged
//! where the problem is made.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::error;

use super::rights::Role;
use crate::{gateway::CommandError, process_server::ProcessServerError, store::StoreError};

/// A refusal or failure on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    /// Stable: programs compare it.
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    /// When it is worth trying again.
    retry_after: Option<Duration>,
}

/// What is wrong with one field of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub field: String,
    pub reason: String,
}

/// The body, as RFC 9457 wants it.
#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// The request itself is wrong.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// One field of the request is wrong.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        let error = FieldError { field: field.into(), reason: reason.into() };
        let detail = format!("{}: {}", error.field, error.reason);
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", detail);
        Self { errors: vec![error], ..problem }
    }

    /// Several fields are wrong; the first of them is the sentence for people.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let first = errors.first().map(|error| format!("{}: {}", error.field, error.reason));
        let detail = match errors.len() {
            0 | 1 => first.unwrap_or_default(),
            several => format!("{} (and {} more)", first.unwrap_or_default(), several - 1),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", detail) }
    }

    /// The same problem, said of the field of the request that led to it.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.errors.push(FieldError { field: field.into(), reason: self.detail.clone() });
        self
    }

    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// The request is right, but not in the state things are in.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// One sentence for every way a token can be wrong: which one it was is nobody's business.
    pub fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "sign in, or send a valid API token in the header 'Authorization: Bearer TOKEN'",
        )
    }

    /// A browser was made to send this by a page that is not ours.
    pub fn cross_site() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "cross_site",
            "with a session, changes are taken from central's own pages only; programs use an API token",
        )
    }

    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    pub fn forbidden(needed: Role, has: Role) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("this needs the role {needed}, and you have the role {has}"),
        )
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// One word for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// One sentence for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// When it is worth trying again, if that is known.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Which fields are wrong.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The answer, body included.
    pub(super) fn render(&self, request_id: &str) -> Response {
        let body = ProblemBody {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id,
            errors: &self.errors,
        };
        // Strings and numbers always serialise; if not, the status still tells the truth.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let detail = error.to_string();
        match error {
            CommandError::Unknown(_) => Self::not_found("process_server_not_found", detail),
            CommandError::NotConnected(_) => Self::conflict("process_server_not_connected", detail),
            CommandError::NotConfigured(_) => Self::conflict("not_a_configured_candidate", detail),
            CommandError::AlreadyActive(_) => Self::conflict("already_active", detail),
            CommandError::Draining(_) => Self::conflict("still_draining", detail),
            CommandError::NothingDrains => Self::conflict("nothing_drains", detail),
            CommandError::NoOther => Self::conflict("no_other_candidate", detail),
            CommandError::NoGroup => Self::conflict("no_group", detail),
            CommandError::NotMarked(_) => Self::conflict("not_a_candidate", detail),
            CommandError::QuorumLives(_) => Self::conflict("quorum_lives", detail),
            CommandError::TooEarly(_) => Self::conflict("too_early", detail),
            CommandError::NotLost(_) => Self::conflict("not_lost", detail),
            CommandError::Unconfirmed(_) => Self::conflict("loss_not_confirmed", detail),
            CommandError::WouldCut { .. } => Self::conflict("would_lose_connection", detail),
            CommandError::NoAnswer(_) => Self::conflict("no_answer", detail),
            CommandError::Changed => Self::conflict("changed", detail),
            CommandError::Stopping => Self::unavailable("stopping", detail),
            CommandError::Store(cause) => {
                error!(%cause, "A gateway command failed in the store");
                Self::store_failed()
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(_) => Self::conflict(
                "conflict",
                "somebody else changed this at the same time: read it again, then decide",
            ),
            StoreError::Refused { ref why, .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "cannot_be_stored",
                format!("cannot be stored: {why}"),
            ),
            StoreError::Unreadable { .. } | StoreError::Failed(_) => {
                error!(%error, "The store failed under an API request");
                Self::store_failed()
            }
        }
    }
}

impl From<ProcessServerError> for Problem {
    fn from(error: ProcessServerError) -> Self {
        match error {
            ProcessServerError::Unknown(_) => Self::not_found("process_server_not_found", error.to_string()),
            ProcessServerError::NotReturning(_) => Self::conflict("does_not_ask", error.to_string()),
            ProcessServerError::Store(error) => error.into(),
        }
    }
}

impl Problem {
    fn store_failed() -> Self {
        Self::unavailable(
            "store_failed",
            "central could not read or write its store; its log has the cause under this request_id",
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn a_problem_is_written_as_rfc_9457_wants_it() {
        let response = Problem::field("ttl", "must be at most 15m").render("r-1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!({
                "type": "about:blank", "title": "Unprocessable Entity", "status": 422, "code": "invalid_field",
                "detail": "ttl: must be at most 15m", "request_id": "r-1",
                "errors": [{"field": "ttl", "reason": "must be at most 15m"}],
            })
        );
    }

    #[test]
    fn a_failed_store_does_not_tell_the_caller_where_it_lives() {
        let problem = Problem::from(StoreError::Failed("/var/lib/secret: I/O error".into()));
        assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!problem.detail.contains("/var/lib"));
    }
}
