//! `/people`: who may sign in, and which programs may call the API.

use askama::Template;
use axum::{
    extract::Path,
    http::{Method, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    client::{self, Refused},
    form::{Filled, Form},
    frame::{Frame, Section},
    process_servers::name,
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone},
};
use crate::admin::Role;

/// Roles as the API writes them, and what each adds, for people.
const ROLES: [(&str, &str, &str); 4] = [
    ("viewer", "Viewer", "reads"),
    ("operator", "Operator", "also restarts, switches and tests"),
    ("administrator", "Administrator", "also changes destinations, users and tokens"),
    ("cloud_administrator", "Cloud Administrator", "also marks candidates, enrols agents and sets alerts"),
];

/// How long a token may be valid.
const TTLS: [(&str, &str); 4] =
    [("30d", "30 days"), ("90d", "90 days"), ("365d", "a year"), ("", "until it is revoked")];

#[derive(Template)]
#[template(path = "people.html")]
struct PeoplePage {
    frame: Frame,
    users: Vec<UserRow>,
    /// Whether somebody came through an identity provider.
    provided: bool,
    tokens: Vec<TokenRow>,
    user: Filled,
    token: Filled,
    trouble: Vec<String>,
    /// Shown this once.
    secret: Option<String>,
    roles: [(&'static str, &'static str, &'static str); 4],
    may: String,
}

struct UserRow {
    name: String,
    role: String,
    /// The host of the identity provider that says who this is.
    through: Option<String>,
    state: Badge,
    disabled: bool,
    created: Moment,
    last: Option<Moment>,
    sessions: usize,
    me: bool,
    version: String,
    /// What somebody chose here who was too late: the role, and why it was not taken.
    typed: Option<(String, String)>,
}

impl UserRow {
    /// The role that stands in its form.
    fn chosen(&self, role: &str, words: &str) -> bool {
        self.typed.as_ref().map_or(self.role == words, |(typed, _)| typed == role)
    }
}

struct TokenRow {
    id: String,
    name: String,
    role: String,
    created: Moment,
    expires: Option<Moment>,
    used: Option<Moment>,
    by: Option<String>,
}

/// One of `GET /users`
#[derive(Deserialize)]
struct User {
    name: String,
    role: String,
    disabled: bool,
    account: Option<Account>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    last_sign_in: Option<OffsetDateTime>,
    sessions: usize,
    version: String,
}

/// Who a user is at the identity provider.
#[derive(Deserialize)]
struct Account {
    issuer: String,
}

impl Account {
    /// What people know the provider by.
    fn host(&self) -> String {
        let url = self.issuer.parse::<url::Url>().ok();
        url.as_ref().and_then(url::Url::host_str).unwrap_or(&self.issuer).to_owned()
    }
}

/// One of `GET /api-tokens`
#[derive(Deserialize)]
struct Token {
    id: String,
    name: Option<String>,
    role: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    last_used: Option<OffsetDateTime>,
    #[serde(default)]
    created_by: Option<String>,
}

/// What the page shows beside the lists.
#[derive(Default)]
struct Extra {
    /// A change of a user that was refused.
    changed: Option<Changed>,
    user: Filled,
    token: Filled,
    secret: Option<String>,
}

struct Changed {
    name: String,
    role: String,
    refused: Refused,
}

pub(super) async fn show(mut visitor: Visitor) -> Shown {
    page(&mut visitor, Extra::default()).await
}

async fn page(visitor: &mut Visitor, extra: Extra) -> Shown {
    let (frame, _) = Frame::new(visitor, Section::People, "Users and tokens").await?;
    let may = visitor.lacks(Role::Administrator);
    let (mut users, mut tokens) = (Vec::new(), Vec::new());
    if may.is_empty() {
        users = visitor.api.all::<User>("/users").await?;
        tokens = visitor.api.all::<Token>("/api-tokens").await?;
    }
    let now = OffsetDateTime::now_utc();
    let changed = extra.changed.as_ref().map(|changed| &changed.refused);
    let refused = extra.user.refusal().or(extra.token.refusal()).or(changed);
    let status = refused.map_or(StatusCode::OK, |refused| refused.status);
    let mut trouble = extra.user.trouble(&["name", "role", "password"]);
    trouble.extend(extra.token.trouble(&["name", "role", "ttl"]));
    let me = visitor.name.clone();
    let mut rows: Vec<_> = users.into_iter().map(|user| user_row(user, &me, now)).collect();
    if let Some(Changed { name, role, refused }) = extra.changed {
        let why = if refused.is_lost_update() {
            "Somebody else changed this user meanwhile: beside the name stands what is true now, here what you \
             chose. Change it again if it should be so."
                .to_owned()
        } else {
            reply::told(&refused)
        };
        trouble.push(format!("{name} was not changed. {why}"));
        if let Some(row) = rows.iter_mut().find(|row| row.name == name) {
            row.typed = Some((role, why));
        }
    }
    let page = PeoplePage {
        provided: rows.iter().any(|row| row.through.is_some()),
        users: rows,
        tokens: tokens.into_iter().map(|token| token_row(token, now)).collect(),
        user: extra.user,
        token: extra.token,
        secret: extra.secret,
        roles: ROLES,
        trouble,
        frame,
        may,
    };
    Ok(reply::page_with(status, &page))
}

fn role_words(role: &str) -> String {
    ROLES.iter().find(|(name, ..)| *name == role).map_or(role, |(_, words, _)| words).to_owned()
}

fn user_row(user: User, me: &str, now: OffsetDateTime) -> UserRow {
    UserRow {
        me: user.name == me,
        role: role_words(&user.role),
        through: user.account.as_ref().map(Account::host),
        state: if user.disabled {
            Badge::new(Tone::Calm, "disabled")
        } else {
            Badge::new(Tone::Good, "may sign in")
        },
        disabled: user.disabled,
        created: Moment::new(user.created_at, now),
        last: user.last_sign_in.map(|at| Moment::new(at, now)),
        sessions: user.sessions,
        version: user.version,
        typed: None,
        name: user.name,
    }
}

fn token_row(token: Token, now: OffsetDateTime) -> TokenRow {
    TokenRow {
        name: token.name.unwrap_or_else(|| "without a name".to_owned()),
        role: role_words(&token.role),
        created: Moment::new(token.created_at, now),
        expires: token.expires_at.map(|at| Moment::new(at, now)),
        used: token.last_used.map(|at| Moment::new(at, now)),
        by: token.created_by,
        id: token.id,
    }
}

pub(super) async fn add_user(mut visitor: Visitor, form: Form) -> Shown {
    let asked = json!({"name": form.text("name").trim(), "role": form.text("role"), "password": form.text("password")});
    match visitor.api.send(Method::POST, "/users", asked).await {
        Ok(_) => Ok(reply::done("/people", format!("{} may sign in now.", form.text("name").trim()))),
        Err(refused) => {
            // Typed again, so that it stands in no page.
            let mut form = form;
            form.set("password", "");
            page(&mut visitor, Extra { user: Filled::refused(form, refused), ..Extra::default() }).await
        }
    }
}

pub(super) async fn change_user(mut visitor: Visitor, Path(text): Path<String>, form: Form) -> Shown {
    let name = name(&text)?;
    let mut change = serde_json::Map::new();
    // Two forms come here: one with the role, one with the lock.
    let disabled = form.ticked("disabled").then(|| form.either("disabled", "yes", "no")).transpose();
    if !form.ticked("disabled") {
        change.insert("role".to_owned(), json!(form.text("role")));
    }
    let path = format!("/users/{name}");
    let done = match disabled {
        Ok(disabled) => {
            change.extend(disabled.map(|disabled| ("disabled".to_owned(), json!(disabled))));
            visitor.api.change(Method::PATCH, &path, Value::Object(change), form.text("version")).await
        }
        Err(refused) => Err(refused),
    };
    match done {
        Ok(_) => Ok(reply::done("/people", format!("{name} was changed; their sessions have ended."))),
        Err(refused) => {
            let role = form.text("role").to_owned();
            let changed = Some(Changed { name: name.to_string(), role, refused });
            page(&mut visitor, Extra { changed, ..Extra::default() }).await
        }
    }
}

pub(super) async fn remove_user(visitor: Visitor, Path(text): Path<String>) -> Shown {
    let name = name(&text)?;
    Ok(match visitor.api.send(Method::DELETE, &format!("/users/{name}"), json!({})).await {
        Ok(_) => reply::done("/people", format!("{name} was removed.")),
        Err(refused) => reply::not_done("/people", &refused),
    })
}

pub(super) async fn add_token(mut visitor: Visitor, form: Form) -> Shown {
    let asked = json!({"name": form.filled("name"), "role": form.text("role"), "ttl": form.filled("ttl")});
    match visitor.api.send(Method::POST, "/api-tokens", asked).await {
        Ok(answered) => {
            #[derive(Deserialize)]
            struct Made {
                token: String,
            }
            let made: Made = client::read(answered.body)?;
            page(&mut visitor, Extra { secret: Some(made.token), ..Extra::default() }).await
        }
        Err(refused) => {
            page(&mut visitor, Extra { token: Filled::refused(form, refused), ..Extra::default() }).await
        }
    }
}

pub(super) async fn revoke_token(visitor: Visitor, Path(text): Path<String>) -> Shown {
    let id = name(&text)?;
    Ok(match visitor.api.send(Method::DELETE, &format!("/api-tokens/{id}"), json!({})).await {
        Ok(_) => reply::done("/people", "The token is refused from now on."),
        Err(refused) => reply::not_done("/people", &refused),
    })
}
