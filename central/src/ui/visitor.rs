//! Who reads a page: found out before any page is made.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    client::Api,
    reply::{Failure, SAID_COOKIE, Said},
};
use crate::admin::Role;

/// The longest way back that is remembered while somebody signs in.
pub(super) const NEXT_BYTES_MAX: usize = 500;

/// A reader with a session. Pages take it as an argument.
pub(super) struct Visitor {
    pub(super) api: Api,
    pub(super) role: Role,
    pub(super) environment: String,
    /// What to call them.
    pub(super) name: String,
    /// A person, with sessions; else a program's token.
    pub(super) is_user: bool,
    /// Somebody whose password is central's, and not an identity provider's.
    pub(super) has_password: bool,
    /// What was just done, by the page before this one.
    pub(super) said: Option<Said>,
}

/// The answer of `GET /session`.
#[derive(Deserialize)]
struct Session {
    user: Option<String>,
    sign_in: Option<String>,
    token: Option<Token>,
    role: Role,
    environment: String,
}

#[derive(Deserialize)]
struct Token {
    id: String,
    name: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let api = Api::from_request_parts(parts, state).await?;
        let session: Session = match api.get("/session").await {
            Ok(session) => session,
            Err(refused) if refused.status == StatusCode::UNAUTHORIZED => {
                return Err(to_sign_in(&parts.method, &parts.uri));
            }
            Err(refused) => return Err(Failure::from(refused).into_response()),
        };
        let token = |token: Token| format!("token {}", token.name.unwrap_or(token.id));
        Ok(Self {
            api,
            role: session.role,
            environment: session.environment,
            is_user: session.user.is_some(),
            has_password: session.sign_in.as_deref() == Some("password"),
            name: session.user.or(session.token.map(token)).unwrap_or_default(),
            said: cookie(&parts.headers, SAID_COOKIE).and_then(Said::read),
        })
    }
}

/// The way to the sign-in page, and back from there to where somebody wanted to be.
fn to_sign_in(method: &Method, uri: &Uri) -> Response {
    let next = if *method == Method::GET { uri.path_and_query() } else { None };
    let next = next.map(|next| next.as_str()).filter(|next| next.len() <= NEXT_BYTES_MAX && *next != "/");
    match next {
        Some(next) => {
            let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
            Redirect::to(&format!("/sign-in?next={next}")).into_response()
        }
        None => Redirect::to("/sign-in").into_response(),
    }
}

impl Visitor {
    /// Why this reader may not do what needs `role`; empty where they may. Shown beside what is disabled;
    /// the API refuses all the same.
    pub(super) fn lacks(&self, role: Role) -> String {
        if self.role >= role {
            return String::new();
        }
        format!("This needs the role {role}; you have {}", self.role)
    }
}

/// A page, or why there is none.
pub(super) type Shown = Result<Response, Failure>;

/// The value of a cookie, where it was sent.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; b=2"));
        headers.append(header::COOKIE, HeaderValue::from_static("c=3"));
        assert_eq!(
            [cookie(&headers, "b"), cookie(&headers, "c"), cookie(&headers, "d")],
            [Some("2"), Some("3"), None]
        );
    }
}
