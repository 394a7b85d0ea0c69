//! Signing in and out, and the first administrator: for the API's handlers and for the UI's forms alike.

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use proto::{EnvironmentName, Name};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use tracing::info;
use utoipa::ToSchema;

use super::{
    AppState,
    client::{Client, cookie, no_cookie},
    input::Json,
    problem::Problem,
    rights::{Caller, Role, Who},
    users::SignInBy,
};
use crate::people::{self, Password, PeopleError, Secret};

/// What somebody types to sign in: a JSON body, or a form's fields.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// May be left out while central serves one only.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub environment: Option<EnvironmentName>,
    pub name: String,
    #[schema(value_type = String)]
    pub password: Password,
}

/// What the first administrator types.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetUp {
    /// The last part of the set-up link.
    pub secret: String,
    pub name: String,
    #[schema(value_type = String)]
    pub password: Password,
}

/// Somebody is signed in from now on, once the cookie has arrived.
#[derive(Debug)]
pub struct SignedIn(people::SignedIn);

impl From<people::SignedIn> for SignedIn {
    fn from(signed_in: people::SignedIn) -> Self {
        Self(signed_in)
    }
}

impl SignedIn {
    pub fn name(&self) -> &Name {
        &self.0.session.user
    }

    pub fn role(&self) -> Role {
        self.0.role
    }

    pub fn environment(&self) -> &EnvironmentName {
        &self.0.session.environment
    }

    /// Public; says nothing about the secret.
    pub fn session_id(&self) -> &str {
        &self.0.session.id
    }

    pub fn expires_at(&self) -> OffsetDateTime {
        self.0.session.expires_at
    }

    /// For `Set-Cookie`.
    pub fn cookie(&self) -> HeaderValue {
        cookie(&self.0.secret, self.0.session.expires_at - self.0.session.created_at)
    }

    /// Sets the cookie and leads to `next`, if that is a path of ours; else to the first page.
    pub fn redirect(&self, next: Option<&str>) -> Response {
        let next = next.and_then(own_path).unwrap_or(HeaderValue::from_static("/"));
        (StatusCode::SEE_OTHER, [(header::LOCATION, next), (header::SET_COOKIE, self.cookie())])
            .into_response()
    }
}

/// Signs in. A session that the browser brings ends: its secret may be known to whoever prepared that browser.
///
/// # Errors
/// 401 `wrong_credentials`, 422 for the Environment, 429 `too_many_attempts`, 503 `busy`.
pub async fn sign_in(state: &AppState, client: &Client, given: Credentials) -> Result<SignedIn, Problem> {
    let environment = match given.environment {
        Some(environment) => environment,
        None => state.only_environment()?,
    };
    let now = OffsetDateTime::now_utc();
    // Only a name that somebody has is noted: in the wrong field people type passwords too.
    if let (Some(trail), Ok(name)) = (&client.trail, given.name.trim().parse::<Name>())
        && let Some(user) = state.people.user(&environment, &name).await?
    {
        let who = json!({ "kind": "nobody", "name": user.value.name });
        trail.by(&environment, who, format!("claims/{}", user.key));
    }
    let signed_in =
        state.people.sign_in(&environment, &given.name, &given.password, &client.browser, now).await?;
    note_user(client, &signed_in);
    end_old_session(state, client, now).await?;
    info!(user = %signed_in.session.user, session = signed_in.session.id, from = ?client.browser.from, "Signed in");
    Ok(SignedIn(signed_in))
}

/// Makes the first user, by the link that central printed, and signs in.
///
/// # Errors
/// 410 `setup_link_gone`, 422 for `name` or `password`.
pub async fn set_up(state: &AppState, client: &Client, given: SetUp) -> Result<SignedIn, Problem> {
    let secret = Secret::read(&given.secret).ok_or(PeopleError::LinkGone)?;
    let name: Name = given
        .name
        .trim()
        .parse()
        .map_err(|error: proto::ids::NameError| Problem::field("name", error.to_string()))?;
    let now = OffsetDateTime::now_utc();
    let people = match &client.trail {
        Some(trail) => {
            if let Some(environment) = state.people.set_up_link(&secret, now).await? {
                trail.by(&environment, json!({ "kind": "setup_link" }), "setup_link".into());
            }
            state.people.through(trail.store())
        }
        None => state.people.clone(),
    };
    let signed_in = people.set_up(&secret, name, given.password, &client.browser, now).await?;
    info!(user = %signed_in.session.user, from = ?client.browser.from, "The first Cloud Administrator was made");
    Ok(SignedIn(signed_in))
}

/// Which Environment a set-up link is for, while it works.
pub async fn set_up_open(state: &AppState, secret: &str) -> Result<Option<EnvironmentName>, Problem> {
    match Secret::read(secret) {
        Some(secret) => Ok(state.people.set_up_link(&secret, OffsetDateTime::now_utc()).await?),
        None => Ok(None),
    }
}

/// Ends the caller's session; what is returned is for `Set-Cookie`.
///
/// # Errors
/// 409 `not_a_session` for a token.
pub async fn sign_out(state: &AppState, caller: &Caller) -> Result<HeaderValue, Problem> {
    let session = caller.who.session().ok_or_else(not_a_session)?;
    let ours = |other: &people::Session| other.id == session.id;
    state.people_for(caller).end_sessions(&caller.environment, &session.user, ours).await?;
    Ok(no_cookie())
}

/// Who asks, as the API says it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionAnswer {
    kind: &'static str,
    #[schema(value_type = Option<String>)]
    user: Option<Name>,
    /// How the user signs in; `null` for a token.
    #[schema(inline)]
    sign_in: Option<SignInBy>,
    token: Option<TokenAnswer>,
    #[schema(value_type = String)]
    role: Role,
    #[schema(value_type = String)]
    environment: EnvironmentName,
    session: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    created_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    /// A session ends after so many seconds without a request.
    idle_timeout_s: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionToken)]
struct TokenAnswer {
    id: String,
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
}

impl SessionAnswer {
    fn of(
        state: &AppState,
        environment: EnvironmentName,
        role: Role,
        who: Who,
        sign_in: Option<SignInBy>,
    ) -> Self {
        let (user, token) = match &who {
            Who::User(session) => (Some(session.user.clone()), None),
            Who::Token { id, name } => (None, Some(TokenAnswer { id: id.clone(), name: name.clone() })),
        };
        let session = who.session();
        Self {
            kind: if token.is_some() { "token" } else { "user" },
            user,
            sign_in,
            token,
            role,
            environment,
            session: session.map(|session| session.id.clone()),
            created_at: session.map(|session| session.created_at),
            expires_at: session.map(|session| session.expires_at),
            idle_timeout_s: session.map(|_| state.people.session_limits().idle.as_secs()),
        }
    }

    fn begun(state: &AppState, signed_in: &SignedIn) -> Response {
        let session = signed_in.0.session.clone();
        let who = Who::User(Box::new(session.clone()));
        let by = Some(SignInBy::Password);
        let answer = Self::of(state, session.environment, signed_in.0.role, who, by);
        (StatusCode::CREATED, [(header::SET_COOKIE, signed_in.cookie())], Answer(answer)).into_response()
    }
}

/// `POST /session`
pub(super) async fn begin(
    State(state): State<AppState>,
    client: Client,
    Json(given): Json<Credentials>,
) -> Result<Response, Problem> {
    let signed_in = sign_in(&state, &client, given).await?;
    Ok(SessionAnswer::begun(&state, &signed_in))
}

/// `GET /session`
pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<SessionAnswer>, Problem> {
    let Caller { environment, role, who, .. } = caller;
    let user = match who.session() {
        Some(session) => state.people.user(&environment, &session.user).await?,
        None => None,
    };
    let by = user.map(|user| SignInBy::of(&user.value));
    Ok(Answer(SessionAnswer::of(&state, environment, role, who, by)))
}

/// `DELETE /session`
pub(super) async fn end(State(state): State<AppState>, caller: Caller) -> Result<Response, Problem> {
    let cookie = sign_out(&state, &caller).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

/// The body of `PUT /session/password`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    #[schema(value_type = String)]
    current: Password,
    #[schema(value_type = String)]
    new: Password,
}

/// `PUT /session/password`
pub(super) async fn change_password(
    State(state): State<AppState>,
    caller: Caller,
    client: Client,
    Json(given): Json<NewPassword>,
) -> Result<Response, Problem> {
    let signed_in = change_own_password(&state, &caller, &client, &given.current, &given.new).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, signed_in.cookie())]).into_response())
}

/// Changes the caller's own password; all sessions end but the one that begins here.
///
/// # Errors
/// 409 `not_a_session` for a token, 422 for `current` or `new`.
pub async fn change_own_password(
    state: &AppState,
    caller: &Caller,
    client: &Client,
    current: &Password,
    new: &Password,
) -> Result<SignedIn, Problem> {
    let session = caller.who.session().ok_or_else(not_a_session)?;
    let now = OffsetDateTime::now_utc();
    let changed =
        state.people_for(caller).change_own_password(session, current, new, &client.browser, now).await;
    changed.map(SignedIn).map_err(|error| match error {
        PeopleError::WrongPassword | PeopleError::NoPassword(_) => {
            Problem::field("current", error.to_string())
        }
        PeopleError::Weak(weak) => Problem::field("new", weak.to_string()),
        error => error.into(),
    })
}

/// `GET /setup`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SetUpNeeded)]
pub(super) struct SetUpAnswer {
    /// Nobody can sign in to some Environment yet.
    needed: bool,
}

pub(super) async fn set_up_needed(State(state): State<AppState>) -> Result<Answer<SetUpAnswer>, Problem> {
    let mut needed = false;
    for (environment, _) in state.gateways.iter() {
        needed |= state.people.is_empty(environment).await?;
    }
    Ok(Answer(SetUpAnswer { needed }))
}

/// `POST /setup`
pub(super) async fn begin_set_up(
    State(state): State<AppState>,
    client: Client,
    Json(given): Json<SetUp>,
) -> Result<Response, Problem> {
    let signed_in = set_up(&state, &client, given).await?;
    Ok(SessionAnswer::begun(&state, &signed_in))
}

/// `GET /sign-in/once/{secret}`: what `postern-central dev` prints. Whoever follows it is in.
pub(super) async fn once(
    State(state): State<AppState>,
    client: Client,
    Path(secret): Path<String>,
) -> Result<Response, Problem> {
    let now = OffsetDateTime::now_utc();
    let secret = Secret::read(&secret).ok_or(PeopleError::LinkGone)?;
    let signed_in = state.people.sign_in_once(&secret, &client.browser, now).await?;
    end_old_session(&state, &client, now).await?;
    Ok(SignedIn(signed_in).redirect(None))
}

/// Whoever signs in is known only once it is done.
fn note_user(client: &Client, signed_in: &people::SignedIn) {
    if let Some(trail) = &client.trail {
        let session = &signed_in.session;
        let who = json!({ "kind": "user", "name": session.user, "session": session.id });
        trail.by(&session.environment, who, format!("user/{}", session.user));
    }
}

pub(super) async fn end_old_session(
    state: &AppState,
    client: &Client,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let Some(secret) = &client.session else { return Ok(()) };
    if let Some((old, _)) = state.people.session(secret, now).await? {
        let ours = |session: &people::Session| session.id == old.id;
        state.people.end_sessions(&old.environment, &old.user, ours).await?;
    }
    Ok(())
}

/// A path on this very server: anything else would make our sign-in page a signpost to a stranger's.
fn own_path(next: &str) -> Option<HeaderValue> {
    let own = next.starts_with('/') && !next.starts_with("//") && !next.contains('\\');
    own.then(|| HeaderValue::from_str(next).ok()).flatten()
}

fn not_a_session() -> Problem {
    Problem::conflict("not_a_session", "this is a token and no session: it ends when it is revoked")
}

impl AppState {
    /// The Environment of whoever does not say which.
    fn only_environment(&self) -> Result<EnvironmentName, Problem> {
        let mut all = self.gateways.iter().map(|(environment, _)| environment);
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => {
                Err(Problem::field("environment", "this central serves several Environments: say which one"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_leads_to_ourselves_only() {
        for ours in ["/", "/destinations/db?tab=1"] {
            assert_eq!(own_path(ours).unwrap(), ours);
        }
        for theirs in ["", "//evil.example", "/\\evil.example", "https://evil.example", "evil", "/a\r\nb"] {
            assert_eq!(own_path(theirs), None, "{theirs}");
        }
    }
}
