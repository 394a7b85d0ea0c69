//! How a page or a refusal becomes an answer.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{assets::Links, client::Refused};

/// One sentence about what was just done, carried over the redirect to the page that shows it.
pub(super) const SAID_COOKIE: &str = "__Host-postern_said";
/// Longer sentences are cut: a cookie is small.
const SAID_BYTES_MAX: usize = 1000;

/// Why a page cannot be shown.
pub(super) enum Failure {
    /// The API refused what the page needs.
    Refused(Refused),
    /// There is nothing by this name.
    NotFound(String),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            // The session ended between two requests of this page.
            Self::Refused(refused) if refused.status == StatusCode::UNAUTHORIZED => {
                Redirect::to("/sign-in").into_response()
            }
            Self::Refused(refused) => {
                let title = match refused.status {
                    StatusCode::FORBIDDEN => "Not with your role",
                    StatusCode::NOT_FOUND => "Not there",
                    StatusCode::SERVICE_UNAVAILABLE => "Not at the moment",
                    _ => "That did not work",
                };
                let number = match refused.request_id.as_str() {
                    "" => String::new(),
                    id => format!(" In central's log this is request {id}."),
                };
                bare(refused.status, title, &format!("{}.{number}", sentence(&refused.detail)))
            }
            Self::NotFound(what) => bare(StatusCode::NOT_FOUND, "Not there", &what),
        }
    }
}

/// Why something was refused, whole: by its fields where it says them, as they are called.
pub(super) fn told(refused: &Refused) -> String {
    if refused.errors.is_empty() {
        return format!("{}.", sentence(&refused.detail));
    }
    let told = refused
        .errors
        .iter()
        .map(|error| format!("{}: {}.", error.field, error.reason.trim_end_matches('.')));
    told.collect::<Vec<_>>().join(" ")
}

/// Begins with a capital letter, ends without a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}", letters.as_str()).trim_end_matches('.').to_owned()
}

#[derive(Template)]
#[template(path = "refused.html")]
struct RefusedPage<'a> {
    links: Links,
    title: &'a str,
    text: &'a str,
}

/// A page with one sentence and the way back.
pub(super) fn bare(status: StatusCode, title: &str, text: &str) -> Response {
    page_with(status, &RefusedPage { links: Links::new(), title, text })
}

pub(super) fn page<T: Template>(template: &T) -> Response {
    page_with(StatusCode::OK, template)
}

pub(super) fn page_with<T: Template>(status: StatusCode, template: &T) -> Response {
    match template.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "A page could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A sentence for the next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) good: bool,
    pub(super) text: String,
}

impl Said {
    pub(super) fn read(cookie: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cookie).ok()?).ok()?;
        let (mark, text) = text.split_at_checked(1)?;
        Some(Self { good: mark == "+", text: text.to_owned() })
    }

    fn cookie(&self) -> String {
        let mut text = self.text.clone();
        text.truncate(text.floor_char_boundary(SAID_BYTES_MAX));
        let value = URL_SAFE_NO_PAD.encode(format!("{}{text}", if self.good { '+' } else { '-' }));
        format!("{SAID_COOKIE}={value}; Path=/; Max-Age=30; Secure; HttpOnly; SameSite=Strict")
    }
}

/// Ends the sentence's life: it was shown.
pub(super) fn forget_said(response: &mut Response) {
    let cookie = format!("{SAID_COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict");
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// The same answer, with what the API wants the browser to keep.
pub(super) fn with_cookies(mut response: Response, cookies: Vec<HeaderValue>) -> Response {
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Done: the browser goes on to `to`, which says so.
pub(super) fn done(to: &str, text: impl Into<String>) -> Response {
    go(to, &Said { good: true, text: text.into() })
}

/// Not done, on a page without a form to put the reason into.
pub(super) fn not_done(to: &str, refused: &Refused) -> Response {
    go(to, &Said { good: false, text: told(refused) })
}

fn go(to: &str, said: &Said) -> Response {
    let mut response = Redirect::to(to).into_response();
    if let Ok(value) = HeaderValue::from_str(&said.cookie()) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_comes_back_from_its_cookie() {
        let said = Said { good: false, text: "Ä; \"quoted\"\n".to_owned() };
        let cookie = said.cookie();
        let value = cookie.split_once('=').unwrap().1.split(';').next().unwrap();
        assert_eq!(Said::read(value), Some(said));
        assert_eq!(Said::read("!!"), None);
        assert_eq!(Said::read(""), None);
    }

    #[test]
    fn a_refusal_is_a_sentence() {
        assert_eq!(sentence("gw-a is away"), "Gw-a is away");
        assert_eq!(sentence(""), "");
    }
}
