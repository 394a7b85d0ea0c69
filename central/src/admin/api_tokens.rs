//! `/api-tokens`: nobody makes or revokes a token that may do more than their own.

use std::time::Duration;

use axum::{Json as Answer, extract::State, http::StatusCode};
use proto::Name;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    AppState,
    input::{Json, Named, Query, ttl},
    paging::{self, Page, Range},
    problem::Problem,
    rights::{Caller, Role},
    token::{TokenError, TokenRecord},
};

/// A token without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiToken)]
pub(super) struct TokenAnswer {
    id: String,
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
    #[schema(value_type = String)]
    role: Role,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    created_by: Option<String>,
    /// To the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    last_used: Option<OffsetDateTime>,
}

impl TokenAnswer {
    fn of(token: TokenRecord, last_used: Option<OffsetDateTime>) -> Self {
        let TokenRecord { id, name, role, created_at, expires_at, created_by, .. } = token;
        Self { id, name, role, created_at, expires_at, created_by, last_used }
    }
}

/// Newest last.
pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<TokenAnswer>, Problem> {
    let tokens = state.api_tokens.list(&caller.environment).await?;
    let cursor = |token: &TokenRecord| paging::at(token.created_at, &token.id);
    let Page { items, next } = range.by_name("/api-tokens", tokens, cursor)?;
    let mut answers = Vec::with_capacity(items.len());
    for token in items {
        let last_used = state.api_tokens.last_used(&token).await?;
        answers.push(TokenAnswer::of(token, last_used));
    }
    Ok(Page { items: answers, next })
}

/// The body of `POST /api-tokens`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewApiToken)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    #[schema(value_type = String)]
    role: Role,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
    /// How long it is valid; without it, until it is revoked.
    #[serde(default, deserialize_with = "ttl")]
    #[schema(value_type = Option<String>)]
    ttl: Option<Duration>,
}

/// The only answer that holds the secret.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedApiToken)]
pub(super) struct Created {
    token: String,
    #[serde(flatten)]
    about: TokenAnswer,
}

pub(super) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> Result<(StatusCode, Answer<Created>), Problem> {
    if new.role > caller.role {
        return Err(Problem::forbidden(new.role, caller.role));
    }
    let by = Some(caller.who.to_string());
    let tokens = state.api_tokens.through(state.store_for(&caller));
    let (text, record) = tokens.create(&caller.environment, new.role, new.name, new.ttl, by).await?;
    let made = format!("API token {} with the role {} was made", record.id, record.role);
    state.note(&caller, "api_token_made", made).await;
    Ok((
        StatusCode::CREATED,
        Answer(Created { token: text.reveal().to_owned(), about: TokenAnswer::of(record, None) }),
    ))
}

pub(super) async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    Named(id): Named,
) -> Result<StatusCode, Problem> {
    let Some(token) = state.api_tokens.find(&caller.environment, id.as_str()).await? else {
        return Err(Problem::not_found("api_token_not_found", format!("no API token has the id {id}")));
    };
    if token.role > caller.role {
        return Err(Problem::forbidden(token.role, caller.role));
    }
    state.api_tokens.through(state.store_for(&caller)).revoke(&token).await?;
    state.note(&caller, "api_token_revoked", format!("API token {} was revoked", token.id)).await;
    Ok(StatusCode::NO_CONTENT)
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::TooMany => Self::conflict("too_many_api_tokens", error.to_string()),
            TokenError::TooLong => Self::field("ttl", error.to_string()),
            TokenError::Store(error) => error.into(),
        }
    }
}
