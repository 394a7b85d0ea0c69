//! Who reads a page: found out before any page is made.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
};

use super::{
    client::{Api, InProcess, Refused},
    reply::{self, Failure, SAID_COOKIE, Said},
};
use crate::admin::{AppState, Role, caller_of, rights::Who};

/// The API token of somebody who signed in with it.
pub(super) const TOKEN_COOKIE: &str = "__Host-postern_token";
/// The longest way back that is remembered while somebody signs in.
const NEXT_BYTES_MAX: usize = 500;

/// A reader with a session. Pages take it as an argument.
pub(super) struct Visitor {
    pub(super) api: Api,
    pub(super) role: Role,
    pub(super) environment: String,
    /// What to call them.
    pub(super) name: String,
    /// What was just done, by the page before this one.
    pub(super) said: Option<Said>,
}

impl FromRequestParts<AppState> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Response> {
        let to_sign_in = || {
            let next = if parts.method == Method::GET { parts.uri.path_and_query() } else { None };
            let next =
                next.map(|next| next.as_str()).filter(|next| next.len() <= NEXT_BYTES_MAX && *next != "/");
            let next =
                next.map(|next| url::form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>());
            match next {
                Some(next) => Redirect::to(&format!("/sign-in?next={next}")).into_response(),
                None => Redirect::to("/sign-in").into_response(),
            }
        };
        // Who signed in as a user has a session; who signed in with a token has that.
        let token = cookie(&parts.headers, TOKEN_COOKIE);
        let caller = match caller_of(app, &parts.headers).await {
            Ok(None) => match token {
                Some(token) => app.api_tokens.verify(token).await.map_err(Into::into),
                None => Ok(None),
            },
            answered => answered,
        };
        let caller = caller.map_err(|_| {
            reply::bare(
                StatusCode::SERVICE_UNAVAILABLE,
                "Not at the moment",
                "Central could not read its store, so nobody can be let in. Its log has the cause.",
            )
        })?;
        let Some(caller) = caller else { return Err(to_sign_in()) };
        let Some(InProcess(api)) = parts.extensions.get::<InProcess>() else {
            return Err(Failure::from(Refused::ours("the page has no API to ask".to_owned())).into_response());
        };
        let mut credentials = HeaderMap::new();
        match (&caller.who, token) {
            (Who::Token { .. }, Some(token)) => {
                if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
                    credentials.insert(header::AUTHORIZATION, value);
                }
            }
            (Who::Token { .. } | Who::User(_), _) => {
                for line in parts.headers.get_all(header::COOKIE) {
                    credentials.append(header::COOKIE, line.clone());
                }
                // That the form came from here was looked at before this.
                credentials.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
            }
        }
        Ok(Self {
            api: Api::new(api.clone(), credentials),
            role: caller.role,
            environment: caller.environment.to_string(),
            name: caller.who.to_string(),
            said: cookie(&parts.headers, SAID_COOKIE).and_then(Said::read),
        })
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
