//! `posternctl enrollment create`

use serde::Deserialize;
use serde_json::{Map, json};

use crate::{
    args::Enrollment as Command,
    client::{Client, read},
    failure::Failure,
    screen::{Screen, moment},
    secret_file::NewFile,
};

/// A fresh token: the only time it is seen.
#[derive(Deserialize)]
struct EnrollmentToken {
    token: String,
    name: Option<String>,
    #[serde(deserialize_with = "moment")]
    expires_at: String,
    /// Where agents find central, as far as it knows.
    central: Option<String>,
}

pub(crate) async fn run(command: Command, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let Command::Create { name, ttl, out } = command;
    let out = out.as_deref().map(NewFile::create).transpose()?;
    let mut body = Map::new();
    if let Some(name) = &name {
        body.insert("name".into(), json!(name));
    }
    if let Some(ttl) = &ttl {
        body.insert("ttl".into(), json!(ttl));
    }
    let answer = match client.post("enrollment-tokens", body.into()).await {
        Ok(answer) => answer,
        Err(failure) => {
            if let Some(out) = out {
                out.discard();
            }
            return Err(failure);
        }
    };
    let made: EnrollmentToken = read(&answer)?;
    match out {
        Some(out) => out.write(&made.token)?,
        None if screen.is_json() => screen.json(&answer)?,
        None => screen.line(&made.token)?,
    }
    let whom = made.name.map_or_else(|| "one agent".to_owned(), |name| format!("the agent {name}"));
    let central = made.central.unwrap_or_else(|| "URL".to_owned());
    screen.talk(&format!(
        "For {whom}, once, until {}. On its host: postern-agent enroll --central {central} --token-file FILE --ca-cert FILE --data-dir DIR",
        made.expires_at
    ));
    Ok(())
}
