//! `posternctl users …`

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    args::Users,
    client::{Client, read},
    failure::Failure,
    screen::{Screen, moment, or_dash, yes},
    secret_file,
};

#[derive(Deserialize)]
struct User {
    name: String,
    role: String,
    disabled: bool,
    has_password: bool,
    /// A central that believes no provider yet says neither.
    #[serde(default)]
    sign_in: Option<String>,
    #[serde(default)]
    account: Option<Account>,
    #[serde(deserialize_with = "moment")]
    created_at: String,
    last_sign_in: Option<String>,
    sessions: usize,
}

/// Who a user is at the identity provider.
#[derive(Deserialize)]
struct Account {
    issuer: String,
    subject: String,
}

#[derive(Deserialize)]
struct Session {
    id: String,
    #[serde(deserialize_with = "moment")]
    created_at: String,
    #[serde(deserialize_with = "moment")]
    last_seen: String,
    #[serde(deserialize_with = "moment")]
    expires_at: String,
    from: Option<String>,
    user_agent: Option<String>,
}

pub(crate) async fn run(command: Users, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    match command {
        Users::List => {
            let answer = client.get("users").await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            let users: Vec<User> = read(&answer)?;
            Ok(screen.rows(
                ["NAME", "ROLE", "SIGNS IN BY", "DISABLED", "SESSIONS", "LAST SIGN-IN"],
                users.into_iter().map(|user| {
                    let (disabled, sessions) = (yes(user.disabled), user.sessions.to_string());
                    let by = or_dash(user.sign_in);
                    [user.name, user.role, by, disabled, sessions, or_dash(user.last_sign_in)]
                }),
                "No user yet: open the set-up link that central printed, or posternctl users create.",
            )?)
        }
        Users::Show { name } => {
            let answer = client.get(&format!("users/{name}")).await?;
            show(&answer, screen)
        }
        Users::Create { name, role, password_file } => {
            let password = password(&password_file)?;
            let body = json!({ "name": name, "role": role.as_str(), "password": password });
            let answer = client.post("users", body).await?;
            screen.talk(&format!("{name} may sign in."));
            show(&answer, screen)
        }
        Users::Change { name, role, password_file, disable, enable } => {
            let mut body = Map::new();
            if let Some(role) = role {
                body.insert("role".into(), json!(role.as_str()));
            }
            if let Some(file) = &password_file {
                body.insert("password".into(), json!(password(file)?));
            }
            if disable || enable {
                body.insert("disabled".into(), json!(disable));
            }
            if body.is_empty() {
                return Err(Failure::Usage(
                    "nothing to change: give --role, --password-file, --disable or --enable".into(),
                ));
            }
            let answer = client.patch(&format!("users/{name}"), body.into()).await?;
            show(&answer, screen)
        }
        Users::Remove { name } => {
            client.delete(&format!("users/{name}")).await?;
            screen.talk(&format!("{name} is removed and signed out."));
            Ok(())
        }
        Users::Sessions { name } => {
            let answer = client.get(&format!("users/{name}/sessions")).await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            let sessions: Vec<Session> = read(&answer)?;
            Ok(screen.rows(
                ["ID", "SINCE", "LAST SEEN", "EXPIRES", "FROM", "BROWSER"],
                sessions.into_iter().map(|session| {
                    let Session { id, created_at, last_seen, expires_at, from, user_agent } = session;
                    [id, created_at, last_seen, expires_at, or_dash(from), or_dash(user_agent)]
                }),
                &format!("{name} is not signed in."),
            )?)
        }
        Users::SignOut { name, session } => {
            let path = match &session {
                Some(id) => format!("users/{name}/sessions/{id}"),
                None => format!("users/{name}/sessions"),
            };
            client.delete(&path).await?;
            screen.talk(&format!("{name} is signed out."));
            Ok(())
        }
    }
}

fn show(answer: &Value, screen: &mut Screen) -> Result<(), Failure> {
    if screen.is_json() {
        return Ok(screen.json(answer)?);
    }
    let user: User = read(answer)?;
    Ok(screen.properties(&[
        ("Name", user.name),
        ("Role", user.role),
        ("Disabled", yes(user.disabled)),
        ("Password", if user.has_password { "set" } else { "none" }.to_owned()),
        ("Signs in by", or_dash(user.sign_in)),
        (
            "Account",
            or_dash(user.account.map(|Account { issuer, subject }| format!("{subject} at {issuer}"))),
        ),
        ("Created", user.created_at),
        ("Last sign-in", or_dash(user.last_sign_in)),
        ("Sessions", user.sessions.to_string()),
    ])?)
}

fn password(file: &Path) -> Result<String, Failure> {
    secret_file::read_secret(file, "password")
}
