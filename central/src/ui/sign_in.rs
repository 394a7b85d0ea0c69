//! `/sign-in`: the one page that anybody may see.

use askama::Template;
use axum::{
    extract::{Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{assets::Links, form::Form, reply, visitor::TOKEN_COOKIE};
use crate::admin::AppState;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    links: Links,
    next: String,
    wrong: String,
}

#[derive(Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

pub(super) async fn show(Query(Next { next }): Query<Next>) -> Response {
    reply::page(&SignIn { links: Links::new(), next: own_path(&next).to_owned(), wrong: String::new() })
}

pub(super) async fn enter(State(app): State<AppState>, form: Form) -> Response {
    let token = form.text("token").trim();
    let next = own_path(form.text("next"));
    let wrong = match app.api_tokens.verify(token).await {
        Ok(Some(_)) => {
            let cookie = format!("{TOKEN_COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Lax");
            let mut response = Redirect::to(next).into_response();
            if let Ok(value) = HeaderValue::from_str(&cookie) {
                response.headers_mut().append(header::SET_COOKIE, value);
            }
            return response;
        }
        Ok(None) => "This is no valid API token: it may have expired or been revoked",
        Err(_) => "Central cannot read its store at the moment; its log has the cause",
    };
    let page = SignIn { links: Links::new(), next: next.to_owned(), wrong: wrong.to_owned() };
    reply::page_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
}

pub(super) async fn leave() -> Response {
    let cookie = format!("{TOKEN_COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
    let mut response = Redirect::to("/sign-in").into_response();
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

/// A place of our own to go on to, whatever the link that led here says.
fn own_path(next: &str) -> &str {
    let ours = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains('\\')
        && next.bytes().all(|byte| byte.is_ascii_graphic());
    if ours { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_elsewhere_after_signing_in() {
        assert_eq!(own_path("/process-servers?q=a"), "/process-servers?q=a");
        for odd in ["https://evil", "//evil", "/\\evil", "", "evil", "/a\r\nSet-Cookie: x"] {
            assert_eq!(own_path(odd), "/", "{odd:?}");
        }
    }
}
