//! `/users` and their sessions: nobody makes, changes or removes a user above their own role.

use std::net::IpAddr;

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
};
use proto::{EnvironmentName, Name};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    AppState,
    input::{Json, Named, Query},
    paging::{Page, Range},
    problem::Problem,
    rights::{Caller, Role},
    version::{IfMatch, Version, Versioned},
};
use crate::people::{
    Account, NewUser, Password, People, PeopleError, Session, SessionView, User, UserChange,
};

/// A user, without anything that helps to become that user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserAnswer {
    #[schema(value_type = String)]
    name: Name,
    #[schema(value_type = String)]
    role: Role,
    disabled: bool,
    /// Without one nobody signs in as this user, but by a one-time link or through the identity provider.
    has_password: bool,
    #[schema(inline)]
    sign_in: SignInBy,
    /// Who it is at the identity provider; `null` for whom central has by itself.
    #[schema(inline)]
    account: Option<AccountAnswer>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    last_sign_in: Option<OffsetDateTime>,
    sessions: usize,
    /// What `If-Match` takes, so that a list can be edited from.
    version: String,
}

/// Who says that it is really this user: central, by a password (or a one-time link), or the identity provider, which also
/// gives the role, anew at each sign-in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SignInBy {
    Password,
    Provider,
}

impl SignInBy {
    pub(super) fn of(user: &User) -> Self {
        if user.account.is_some() { Self::Provider } else { Self::Password }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct AccountAnswer {
    issuer: String,
    subject: String,
}

impl UserAnswer {
    async fn of(
        state: &AppState,
        environment: &EnvironmentName,
        user: User,
        all: &[SessionView],
    ) -> Result<Self, Problem> {
        Ok(Self {
            version: version(&user).to_string(),
            role: user.role,
            disabled: user.disabled,
            has_password: user.has_password(),
            sign_in: SignInBy::of(&user),
            account: user.account.map(|Account { issuer, subject }| AccountAnswer { issuer, subject }),
            created_at: user.created_at,
            last_sign_in: state.people.last_sign_in(environment, &user.name).await?,
            sessions: all.iter().filter(|view| view.session.user == user.name).count(),
            name: user.name,
        })
    }
}

pub(super) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<UserAnswer>, Problem> {
    let environment = &caller.environment;
    let sessions = state.people.sessions(environment, OffsetDateTime::now_utc()).await?;
    let users = state.people.users(environment).await?;
    let Page { items, next } = range.by_name("/users", users, |user| user.name.to_string())?;
    let mut answers = Vec::with_capacity(items.len());
    for user in items {
        answers.push(UserAnswer::of(&state, environment, user, &sessions).await?);
    }
    Ok(Page { items: answers, next })
}

pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
) -> Result<Versioned<UserAnswer>, Problem> {
    let user = find(&state, &caller, &name).await?;
    versioned(&state, &caller, user).await
}

/// The body of `POST /users`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewUser)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUserRequest {
    #[schema(value_type = String)]
    name: Name,
    #[schema(value_type = String)]
    role: Role,
    #[schema(value_type = String)]
    password: Password,
}

pub(super) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewUserRequest>,
) -> Result<(StatusCode, Answer<UserAnswer>), Problem> {
    let NewUserRequest { name, role, password } = new;
    let new = NewUser { name, role, password: Some(password) };
    let now = OffsetDateTime::now_utc();
    let user = state.people_for(&caller).create_user(&caller.environment, new, caller.role, now).await?;
    state.note(&caller, "user_made", format!("User {} was made, {}", user.name, user.role)).await;
    Ok((StatusCode::CREATED, answer(&state, &caller, user).await?))
}

/// The body of `PATCH /users/{name}`. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UserChange)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    #[serde(default)]
    disabled: Option<bool>,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    password: Option<Password>,
}

pub(super) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
    if_match: IfMatch,
    Json(change): Json<Change>,
) -> Result<Versioned<UserAnswer>, Problem> {
    let own = caller.who.session().is_some_and(|session| session.user == name);
    if own && change.password.is_some() {
        // Whoever finds a browser unlocked must not be able to keep what it is signed in to.
        return Err(Problem::field(
            "password",
            "your own is changed with PUT /session/password, which asks for the present one",
        ));
    }
    let Change { role, disabled, password } = change;
    let change = UserChange { role, disabled, password };
    let now = OffsetDateTime::now_utc();
    let before = state.people.user(&caller.environment, &name).await?;
    let before = before.ok_or_else(|| PeopleError::Unknown(name.clone()))?;
    if_match.permits(&version(&before.value))?;
    let user = state
        .people_for(&caller)
        .change_user(&caller.environment, &name, change, caller.role, Some(before.version), now)
        .await?
        .value;
    let state_now = if user.disabled { ", disabled" } else { "" };
    state
        .note(&caller, "user_changed", format!("User {} was changed: {}{state_now}", user.name, user.role))
        .await;
    versioned(&state, &caller, user).await
}

pub(super) async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
) -> Result<StatusCode, Problem> {
    state
        .people_for(&caller)
        .remove_user(&caller.environment, &name, caller.role, OffsetDateTime::now_utc())
        .await?;
    state.note(&caller, "user_removed", format!("User {name} was removed")).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Where somebody is signed in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UserSession)]
pub(super) struct SessionAnswer {
    id: String,
    #[schema(value_type = String)]
    user: Name,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    last_seen: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
    #[schema(value_type = Option<String>)]
    from: Option<IpAddr>,
    user_agent: Option<String>,
    /// It is the one that asks.
    current: bool,
}

pub(super) async fn sessions(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
) -> Result<Answer<Vec<SessionAnswer>>, Problem> {
    let user = find(&state, &caller, &name).await?;
    sessions_of(&state, &caller, &user.name).await
}

pub(super) async fn end_sessions(
    State(state): State<AppState>,
    caller: Caller,
    Named(name): Named,
) -> Result<StatusCode, Problem> {
    let user = within_rights(&state, &caller, &name).await?;
    state.people_for(&caller).end_sessions(&caller.environment, &user.name, |_| true).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn end_session(
    State(state): State<AppState>,
    caller: Caller,
    Path((name, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let name: Name = name.parse().map_err(|error: proto::ids::NameError| {
        Problem::bad_request("invalid_name", error.to_string()).at("name")
    })?;
    let user = within_rights(&state, &caller, &name).await?;
    end_one(&state, &caller, &user.name, &id).await
}

/// The caller's own.
pub(super) async fn own_sessions(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<Vec<SessionAnswer>>, Problem> {
    match caller.who.session() {
        Some(session) => sessions_of(&state, &caller, &session.user).await,
        None => Ok(Answer(Vec::new())),
    }
}

pub(super) async fn end_own_session(
    State(state): State<AppState>,
    caller: Caller,
    Named(id): Named,
) -> Result<StatusCode, Problem> {
    let session = caller.who.session().ok_or_else(|| no_session(id.as_str()))?;
    end_one(&state, &caller, &session.user, id.as_str()).await
}

async fn sessions_of(
    state: &AppState,
    caller: &Caller,
    user: &Name,
) -> Result<Answer<Vec<SessionAnswer>>, Problem> {
    let current = caller.who.session().map(|session| &session.id);
    let all = state.people.sessions(&caller.environment, OffsetDateTime::now_utc()).await?;
    let theirs = all.into_iter().filter(|view| view.session.user == *user);
    let answers = theirs.map(|SessionView { session, last_seen }| {
        let Session { id, user, created_at, expires_at, from, user_agent, .. } = session;
        let current = current == Some(&id);
        SessionAnswer { id, user, created_at, last_seen, expires_at, from, user_agent, current }
    });
    Ok(Answer(answers.collect()))
}

async fn end_one(state: &AppState, caller: &Caller, user: &Name, id: &str) -> Result<StatusCode, Problem> {
    let ended =
        state.people_for(caller).end_sessions(&caller.environment, user, |session| session.id == id).await?;
    if ended == 0 { Err(no_session(id)) } else { Ok(StatusCode::NO_CONTENT) }
}

async fn versioned(state: &AppState, caller: &Caller, user: User) -> Result<Versioned<UserAnswer>, Problem> {
    let version = version(&user);
    let Answer(answer) = answer(state, caller, user).await?;
    Ok(version.on(answer))
}

fn version(user: &User) -> Version {
    Version::of(&(user.role, user.disabled, user.changed_at().unix_timestamp_nanos().to_string()))
}

async fn answer(state: &AppState, caller: &Caller, user: User) -> Result<Answer<UserAnswer>, Problem> {
    let sessions = state.people.sessions(&caller.environment, OffsetDateTime::now_utc()).await?;
    Ok(Answer(UserAnswer::of(state, &caller.environment, user, &sessions).await?))
}

async fn find(state: &AppState, caller: &Caller, name: &Name) -> Result<User, Problem> {
    let user = state.people.user(&caller.environment, name).await?;
    Ok(user.ok_or_else(|| PeopleError::Unknown(name.clone()))?.value)
}

/// The user, if the caller may do something to that one.
async fn within_rights(state: &AppState, caller: &Caller, name: &Name) -> Result<User, Problem> {
    let user = find(state, caller, name).await?;
    if user.role > caller.role {
        return Err(Problem::forbidden(user.role, caller.role));
    }
    Ok(user)
}

fn no_session(id: &str) -> Problem {
    Problem::not_found("session_not_found", format!("no session has the id {id:?}, or it is over"))
}

impl AppState {
    /// The people, for what this caller does to them.
    pub(super) fn people_for(&self, caller: &Caller) -> People {
        self.people.through(self.store_for(caller))
    }
}

impl From<PeopleError> for Problem {
    fn from(error: PeopleError) -> Self {
        let text = error.to_string();
        match error {
            PeopleError::Unknown(_) => Self::not_found("user_not_found", text),
            PeopleError::Exists(_) => Self::conflict("user_exists", text).at("name"),
            PeopleError::TooMany => Self::conflict("too_many_users", text),
            PeopleError::Above { needed, has } => Self::forbidden(needed, has),
            PeopleError::LastCloudAdministrator(_) => Self::conflict("last_cloud_administrator", text),
            PeopleError::Weak(_) => Self::field("password", text),
            PeopleError::Changed(_) => Self::new(StatusCode::PRECONDITION_FAILED, "changed_meanwhile", text),
            PeopleError::WrongCredentials => Self::new(StatusCode::UNAUTHORIZED, "wrong_credentials", text),
            PeopleError::WrongPassword => Self::field("current", text),
            PeopleError::NoPassword(_) => Self::field("password", text),
            PeopleError::Local(_) | PeopleError::OtherAccount(_) => Self::conflict("name_taken", text),
            PeopleError::Disabled(_) => Self::new(StatusCode::FORBIDDEN, "user_disabled", text),
            PeopleError::TooManyAttempts(wait) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", text).retry_after(wait)
            }
            PeopleError::LinkGone => Self::new(StatusCode::GONE, "setup_link_gone", text),
            PeopleError::Busy(_) => Self::unavailable("busy", text),
            PeopleError::Store(error) => error.into(),
        }
    }
}
