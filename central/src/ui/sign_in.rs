//! `/sign-in` and `/setup/SECRET`: the two pages that anybody may see, and `/sign-out`.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    assets::Links,
    client::Api,
    form::{Filled, Form},
    query::Query,
    reply,
    visitor::{Shown, Visitor},
};
use crate::admin::AppState;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    links: Links,
    next: String,
    /// To choose from; empty where there is only one.
    environments: Vec<String>,
    /// Where else people may sign in, if anywhere.
    provider: Option<Elsewhere>,
    filled: Filled,
    trouble: Vec<String>,
}

/// The identity provider, as people are led to it.
struct Elsewhere {
    host: String,
    /// Which Environment its people come into, where there are several.
    environment: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    pub(super) next: String,
}

pub(super) async fn show(State(app): State<AppState>, Query(Next { next }): Query<Next>) -> Response {
    sign_in_page(&app, &next, Filled::default())
}

pub(super) fn sign_in_page(app: &AppState, next: &str, filled: Filled) -> Response {
    let environments: Vec<String> = app.gateways.iter().map(|(name, _)| name.to_string()).collect();
    let status = filled.refusal().map_or(StatusCode::OK, |refused| refused.status);
    let environments = if environments.len() > 1 { environments } else { Vec::new() };
    let shown: &[&str] =
        if environments.is_empty() { &["name", "password"] } else { &["environment", "name", "password"] };
    let provider = app.oidc.as_ref().map(|provider| Elsewhere {
        host: provider.host().to_owned(),
        environment: (!environments.is_empty()).then(|| provider.environment().to_string()),
    });
    let page = SignIn {
        links: Links::new(),
        next: own_path(next).to_owned(),
        environments,
        provider,
        trouble: filled.trouble(shown),
        filled,
    };
    reply::page_with(status, &page)
}

pub(super) async fn enter(State(app): State<AppState>, api: Api, form: Form) -> Response {
    let mut asked = json!({"name": form.text("name").trim(), "password": form.text("password")});
    if let (Value::Object(fields), Some(environment)) = (&mut asked, form.filled("environment")) {
        fields.insert("environment".to_owned(), json!(environment));
    }
    match api.send(Method::POST, "/session", asked).await {
        Ok(answered) => {
            reply::with_cookies(Redirect::to(own_path(form.text("next"))).into_response(), answered.cookies)
        }
        Err(refused) => {
            let next = form.text("next").to_owned();
            sign_in_page(&app, &next, Filled::refused(without_password(form), refused))
        }
    }
}

pub(super) async fn leave(visitor: Visitor) -> Shown {
    let answered = visitor.api.send(Method::DELETE, "/session", json!({})).await?;
    Ok(reply::with_cookies(Redirect::to("/sign-in").into_response(), answered.cookies))
}

#[derive(Template)]
#[template(path = "setup.html")]
struct SetUp {
    links: Links,
    action: String,
    filled: Filled,
    trouble: Vec<String>,
}

pub(super) async fn show_set_up(Path(secret): Path<String>) -> Response {
    set_up_page(&secret, Filled::default())
}

fn set_up_page(secret: &str, filled: Filled) -> Response {
    let secret: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let status = filled.refusal().map_or(StatusCode::OK, |refused| refused.status);
    let page = SetUp {
        links: Links::new(),
        action: format!("/setup/{secret}"),
        trouble: filled.trouble(&["name", "password"]),
        filled,
    };
    reply::page_with(status, &page)
}

pub(super) async fn set_up(api: Api, Path(secret): Path<String>, form: Form) -> Response {
    let asked =
        json!({"secret": secret, "name": form.text("name").trim(), "password": form.text("password")});
    match api.send(Method::POST, "/setup", asked).await {
        Ok(answered) => {
            let said =
                "You are the first Cloud Administrator. The list below leads to a gateway that carries.";
            reply::with_cookies(reply::done("/", said), answered.cookies)
        }
        Err(refused) => set_up_page(&secret, Filled::refused(without_password(form), refused)),
    }
}

/// Typed again, so that it stands in no page.
fn without_password(mut form: Form) -> Form {
    form.set("password", "");
    form
}

/// A place of our own to go on to, whatever the link that led here says.
pub(super) fn own_path(next: &str) -> &str {
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
