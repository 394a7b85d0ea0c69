//! `posternctl tokens …`

use serde::Deserialize;
use serde_json::{Map, json};

use crate::{
    args::Tokens,
    client::{Client, read},
    failure::Failure,
    screen::{Screen, maybe_moment, moment, or_dash},
    secret_file::NewFile,
};

/// An API token without its secret.
#[derive(Deserialize)]
struct ApiToken {
    id: String,
    name: Option<String>,
    role: String,
    #[serde(deserialize_with = "moment")]
    created_at: String,
    #[serde(default, deserialize_with = "maybe_moment")]
    expires_at: Option<String>,
    created_by: Option<String>,
    #[serde(default, deserialize_with = "maybe_moment")]
    last_used: Option<String>,
}

/// A fresh token: the only time its secret is seen.
#[derive(Deserialize)]
struct NewToken {
    id: String,
    token: String,
    role: String,
    #[serde(default, deserialize_with = "maybe_moment")]
    expires_at: Option<String>,
}

pub(crate) async fn run(command: Tokens, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    match command {
        Tokens::List => {
            let answer = client.get("api-tokens").await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            let tokens: Vec<ApiToken> = read(&answer)?;
            Ok(screen.rows(
                ["ID", "NAME", "ROLE", "CREATED", "BY", "EXPIRES", "LAST USED"],
                tokens.into_iter().map(|token| {
                    let ApiToken { id, name, role, created_at, expires_at, created_by, last_used } = token;
                    let [name, by, expires, used] = [name, created_by, expires_at, last_used].map(or_dash);
                    [id, name, role, created_at, by, expires, used]
                }),
                "No API token.",
            )?)
        }
        Tokens::Create { role, name, ttl, out } => {
            let out = out.as_deref().map(NewFile::create).transpose()?;
            let mut body = Map::new();
            body.insert("role".into(), json!(role.as_str()));
            if let Some(name) = &name {
                body.insert("name".into(), json!(name));
            }
            if let Some(ttl) = &ttl {
                body.insert("ttl".into(), json!(ttl));
            }
            let answer = match client.post("api-tokens", body.into()).await {
                Ok(answer) => answer,
                Err(failure) => {
                    if let Some(out) = out {
                        out.discard();
                    }
                    return Err(failure);
                }
            };
            let made: NewToken = read(&answer)?;
            match out {
                Some(out) => out.write(&made.token)?,
                None if screen.is_json() => screen.json(&answer)?,
                None => screen.line(&made.token)?,
            }
            let until = made.expires_at.unwrap_or_else(|| "it is revoked".to_owned());
            screen.talk(&format!(
                "Token {} with the role {}, valid until {until}. It is not shown again.",
                made.id, made.role
            ));
            Ok(())
        }
        Tokens::Revoke { id } => {
            client.delete(&format!("api-tokens/{id}")).await?;
            screen.talk(&format!("Token {id} is revoked."));
            Ok(())
        }
    }
}
