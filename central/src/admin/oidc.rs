//! Signing in through the identity provider, for the two pages that lead there and back. What it comes to is a session
//! like any other, a line in the audit log, and an Operator Message where it made or changed a user.

use axum::http::StatusCode;
use proto::EnvironmentName;
use serde_json::json;
use time::OffsetDateTime;
use tracing::{info, warn};

use super::{
    AppState,
    client::Client,
    problem::Problem,
    sign_in::{SignedIn, end_old_session},
};
use crate::{
    audit::Trail,
    events::{Events, NewEvent, Severity},
    oidc::{Answer, Begun, Pending, Person, Provider, Refusal},
    people::{Arrival, Secret},
};

/// What it is called in the audit log.
const ACTION: &str = "sign-in.oidc";

/// Begins: takes one attempt of the address, and says where the browser goes now.
///
/// # Errors
/// 429 `too_many_attempts`, 503 where the provider cannot be asked.
pub async fn begin(
    state: &AppState,
    provider: &Provider,
    client: &Client,
    next: &str,
    brought: Option<Secret>,
) -> Result<Begun, Problem> {
    state.people.may_try(&client.browser)?;
    Ok(provider.begin(next, brought, OffsetDateTime::now_utc()).await?)
}

/// What a sign-in came to, and where it was to lead.
#[derive(Debug)]
pub struct Finished {
    /// Nothing where nobody knows what was begun.
    pub next: Option<String>,
    pub result: Result<SignedIn, Problem>,
}

/// Finishes. A session that the browser brings ends, as at every sign-in.
pub async fn finish(
    state: &AppState,
    provider: &Provider,
    client: &Client,
    answer: &Answer,
    brought: Option<&Secret>,
) -> Finished {
    let request_id = format!("{:016x}", rand::random::<u64>());
    let environment = provider.environment();
    let from = client.browser.from;
    let trail = state.audit.begin(environment.clone(), ACTION.into(), None, from, request_id.clone());
    let now = OffsetDateTime::now_utc();
    let (next, result) = match provider.take(&answer.state, brought, now) {
        Ok(pending) => {
            let result = enter(state, provider, client, answer, &pending, &trail).await;
            (Some(pending.next().to_owned()), result)
        }
        Err(refusal) => (None, Err(refusal.into())),
    };
    match &result {
        Ok(_) => trail.end(StatusCode::SEE_OTHER.as_u16(), None).await,
        Err(problem) => {
            let (code, detail) = (problem.code(), problem.detail());
            info!(request_id, code, detail, ?from, "A sign-in through the identity provider was refused");
            trail.end(problem.status().as_u16(), Some(code)).await;
        }
    }
    Finished { next, result }
}

async fn enter(
    state: &AppState,
    provider: &Provider,
    client: &Client,
    answer: &Answer,
    pending: &Pending,
    trail: &Trail,
) -> Result<SignedIn, Problem> {
    let now = OffsetDateTime::now_utc();
    let Person { name, role, account } = provider.person(pending, answer, now).await?;
    let environment = provider.environment();
    // Who came, by the provider's word; what became of it says the record's outcome.
    let who =
        json!({ "kind": "provider", "name": name, "issuer": account.issuer, "subject": account.subject });
    trail.by(environment, who, format!("provider/{}", account.subject));
    let people = state.people.through(trail.store());
    let entered = people.sign_in_provided(environment, &name, role, &account, &client.browser, now).await?;
    let (signed_in, arrival) = (SignedIn::from(entered.0), entered.1);
    tell(state, environment, &signed_in, arrival, now).await;
    end_old_session(state, client, now).await?;
    info!(
        user = %signed_in.name(), session = signed_in.session_id(), from = ?client.browser.from,
        "Signed in through the identity provider"
    );
    Ok(signed_in)
}

/// An Operator Message where a user was made or changed. It is done already, so a store that cannot take it does not
/// turn it into a failure.
async fn tell(
    state: &AppState,
    environment: &EnvironmentName,
    signed_in: &SignedIn,
    arrival: Arrival,
    now: OffsetDateTime,
) {
    let (name, role) = (signed_in.name(), signed_in.role());
    let (code, text) = match arrival {
        Arrival::Made => ("user_made", format!("User {name} was made by the identity provider, {role}")),
        Arrival::Changed { before } => (
            "user_changed",
            format!("User {name} was changed by the identity provider: {role}, was {before}"),
        ),
        Arrival::AsBefore => return,
    };
    let event = NewEvent { code, severity: Severity::Info, text, sender: "administration".to_owned() };
    if let Err(error) = Events::new(state.store.clone(), environment).append(event, now).await {
        warn!(%error, code, "What the identity provider did to a user could not be noted as an event");
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        let forbidden = |code| Self::new(StatusCode::FORBIDDEN, code, text.clone());
        match refusal {
            Refusal::Unknown => Self::bad_request("sign_in_unknown", text),
            Refusal::OtherBrowser => Self::bad_request("sign_in_of_another_browser", text),
            Refusal::Denied(_) => forbidden("provider_refused"),
            Refusal::Unreachable(_) => Self::unavailable("provider_unreachable", text),
            Refusal::TooOften(wait) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", text).retry_after(wait)
            }
            Refusal::Answer(_) => forbidden("provider_answer_invalid"),
            Refusal::Token(_) => forbidden("id_token_invalid"),
            Refusal::NoRole { .. } => forbidden("no_role"),
            Refusal::NoName { .. } => forbidden("no_name"),
        }
    }
}
