//! `/sign-in/oidc` and its callback: to the identity provider, and back. Both are read, not sent: the second is where
//! another site's page leads a browser, so the cookie that binds the two is `Lax` like the session's own, and the one
//! that [`reply`] keeps a sentence in, which is `Strict`, would not come along. So a refusal is said on the spot.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};

use super::{
    client::Refused,
    form::{Filled, Form},
    query::Query,
    reply,
    sign_in::{Next, own_path, sign_in_page},
    visitor::{NEXT_BYTES_MAX, cookie},
};
use crate::{
    admin::{AppState, client::Client, oidc, problem::Problem},
    oidc::Answer,
    people::Secret,
};

/// What binds a sign-in that has begun to the browser that began it.
const COOKIE: &str = "__Host-postern_oidc";
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";
/// As long as a sign-in may take.
const SECONDS: u32 = 600;

pub(super) async fn begin(
    State(app): State<AppState>,
    client: Client,
    headers: HeaderMap,
    Query(Next { next }): Query<Next>,
) -> Response {
    let Some(provider) = &app.oidc else { return not_here() };
    let next = if next.len() <= NEXT_BYTES_MAX { own_path(&next) } else { "/" };
    match oidc::begin(&app, provider, &client, next, brought(&headers)).await {
        Ok(begun) => {
            let kept = format!("{COOKIE}={}; Max-Age={SECONDS}; {ATTRIBUTES}", begun.browser.reveal());
            with_cookie(Redirect::to(&begun.url).into_response(), &kept)
        }
        Err(problem) => refused(&app, next, &problem),
    }
}

pub(super) async fn finish(
    State(app): State<AppState>,
    client: Client,
    headers: HeaderMap,
    Query(answer): Query<Answer>,
) -> Response {
    let Some(provider) = &app.oidc else { return not_here() };
    let brought = brought(&headers);
    let finished = oidc::finish(&app, provider, &client, &answer, brought.as_ref()).await;
    let next = finished.next.as_deref().unwrap_or("/");
    match finished.result {
        Ok(signed_in) => {
            let forgotten = format!("{COOKIE}=; Max-Age=0; {ATTRIBUTES}");
            with_cookie(signed_in.redirect(Some(next)), &forgotten)
        }
        // The cookie stays: another tab may have begun with it, and by itself it opens nothing.
        Err(problem) => refused(&app, next, &problem),
    }
}

fn brought(headers: &HeaderMap) -> Option<Secret> {
    cookie(headers, COOKIE).and_then(Secret::read)
}

fn refused(app: &AppState, next: &str, problem: &Problem) -> Response {
    let filled = Filled::refused(Form::default(), Refused::by(problem));
    let mut response = sign_in_page(app, next, filled);
    if let Some(wait) = problem.wait() {
        response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
    }
    response
}

fn not_here() -> Response {
    let text = "Central believes no identity provider: people sign in with a name and a password.";
    reply::bare(StatusCode::NOT_FOUND, "Not there", text)
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    // Base64 and digits make a header; were it none, nobody could finish.
    if let Ok(mut value) = HeaderValue::from_str(cookie) {
        value.set_sensitive(true);
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}
