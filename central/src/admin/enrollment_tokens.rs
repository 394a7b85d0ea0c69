//! `/enrollment-tokens`: one-time tokens that let a new agent in.

use std::time::Duration;

use axum::{Json as Answer, extract::State, http::StatusCode};
use proto::Name;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    AppState,
    input::{Json, Query, ttl},
    paging::{self, Page, Range},
    problem::Problem,
    rights::Caller,
};
use crate::enrolment::{
    OneTimeToken, TokenError,
    token::{TTL_DEFAULT, Used},
};

/// The body of `POST /enrollment-tokens`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewEnrollmentToken)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// The only name it may be used for; it then also replaces the Process Server of that name.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
    #[serde(default, deserialize_with = "ttl")]
    #[schema(value_type = Option<String>)]
    ttl: Option<Duration>,
}

/// All an agent's host needs; the only answer that holds the token.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedEnrollmentToken)]
pub(super) struct Created {
    token: String,
    id: String,
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
    /// What the agent is to pin: central's CA, PEM.
    ca_pem: String,
    /// Where agents find central, as far as the configuration says.
    central: Option<String>,
}

pub(super) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> Result<(StatusCode, Answer<Created>), Problem> {
    let now = OffsetDateTime::now_utc();
    let ttl = new.ttl.unwrap_or(TTL_DEFAULT);
    let enrolment = state.enrolment.through(state.store_for(&caller));
    let (text, token) = enrolment.create_token(&caller.environment, new.name, ttl, now).await?;
    let whom = token.name.as_ref().map_or_else(|| "any free name".to_owned(), Name::to_string);
    let made = format!("Enrolment token {} was made for {whom}", token.id);
    state.note(&caller, "enrollment_token_made", made).await;
    let created = Created {
        token: text.reveal().to_owned(),
        id: token.id,
        name: token.name,
        expires_at: token.expires_at,
        ca_pem: state.enrolment.ca().trusted_pem(),
        central: state.tunnel_url.as_deref().map(str::to_owned),
    };
    Ok((StatusCode::CREATED, Answer(created)))
}

/// A token without its secret: whether it waits, and who came with it.
#[derive(Debug, Serialize)]
pub(super) struct TokenAnswer {
    id: String,
    name: Option<Name>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
    used: Option<Used>,
}

/// The tokens of the last day, oldest first.
pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<TokenAnswer>, Problem> {
    let tokens = state.enrolment.tokens(&caller.environment).await?;
    let page =
        range.by_name("/enrollment-tokens", tokens, |token| paging::at(token.created_at, &token.id))?;
    Ok(page.map(|token| {
        let OneTimeToken { id, name, created_at, expires_at, used, .. } = token;
        TokenAnswer { id, name, created_at, expires_at, used }
    }))
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Ttl => Self::field("ttl", error.to_string()),
            TokenError::TooMany => Self::conflict("too_many_enrollment_tokens", error.to_string()),
            TokenError::Store(error) => error.into(),
        }
    }
}
