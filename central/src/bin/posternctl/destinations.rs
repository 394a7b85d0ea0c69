//! `posternctl destinations …`

use proto::Name;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::{
    args::{AddDestination, Destinations},
    client::{Client, read},
    failure::Failure,
    screen::{Screen, ago, or_dash, yes},
    trial,
};

/// A destination, as far as tables show it.
#[derive(Debug, Deserialize)]
struct Destination {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    url: String,
    direction: String,
    listen: Option<String>,
    enabled: bool,
    #[serde(default)]
    problem: Option<String>,
    last_test: Option<LastTest>,
}

#[derive(Debug, Deserialize)]
struct LastTest {
    summary: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    by: String,
}

pub(crate) async fn run(command: Destinations, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    match command {
        Destinations::List => {
            let answer = client.get("destinations").await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            table(&read::<Vec<Destination>>(&answer)?, screen)
        }
        Destinations::Show { name } => {
            let answer = client.get(&path(&name)).await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            details(&read(&answer)?, screen)
        }
        Destinations::Test { name, client: wanted } => trial::run(&name, wanted, client, screen).await,
        Destinations::Add(add) => {
            let answer = client.post("destinations", new_destination(&add)).await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            details(&read(&answer)?, screen)?;
            screen.talk(&format!(
                "Added. The agents' own allow-lists must allow it too; try it: posternctl destinations test {}",
                add.name
            ));
            Ok(())
        }
        Destinations::Enable { name } => enable(&name, true, client, screen).await,
        Destinations::Disable { name } => enable(&name, false, client, screen).await,
        Destinations::Remove { name } => {
            client.delete(&path(&name)).await?;
            screen.talk(&format!("{name} was removed."));
            Ok(())
        }
    }
}

async fn enable(name: &Name, enabled: bool, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let answer = client.patch(&path(name), json!({ "enabled": enabled })).await?;
    screen.talk(&format!("{name} is {}.", if enabled { "enabled" } else { "disabled" }));
    if screen.is_json() { Ok(screen.json(&answer)?) } else { Ok(()) }
}

fn path(name: &Name) -> String {
    format!("destinations/{name}")
}

/// Says only what was typed: what is left out is central's to decide.
fn new_destination(add: &AddDestination) -> Value {
    let mut body = Map::new();
    body.insert("name".into(), json!(add.name));
    body.insert("url".into(), json!(add.url));
    if let Some(kind) = &add.kind {
        body.insert("type".into(), json!(kind));
    }
    if let Some(listen) = &add.listen {
        body.insert("listen".into(), json!(listen));
    }
    if add.disabled {
        body.insert("enabled".into(), json!(false));
    }
    Value::Object(body)
}

fn table(destinations: &[Destination], screen: &mut Screen) -> Result<(), Failure> {
    Ok(screen.rows(
        ["NAME", "TYPE", "URL", "DIRECTION", "LISTEN", "ENABLED", "PROBLEM"],
        destinations.iter().map(|destination| {
            [
                destination.name.clone(),
                destination.kind.clone(),
                destination.url.clone(),
                destination.direction.clone(),
                or_dash(destination.listen.as_ref()),
                yes(destination.enabled),
                or_dash(destination.problem.as_ref()),
            ]
        }),
        "No destination yet. Add one: posternctl destinations add NAME tcp://HOST:PORT",
    )?)
}

fn details(destination: &Destination, screen: &mut Screen) -> Result<(), Failure> {
    Ok(screen.properties(&[
        ("Name", destination.name.clone()),
        ("Type", destination.kind.clone()),
        ("URL", destination.url.clone()),
        ("Direction", destination.direction.clone()),
        ("Listen", or_dash(destination.listen.as_ref())),
        ("Enabled", yes(destination.enabled)),
        ("Problem", or_dash(destination.problem.as_ref())),
        ("Last test", destination.last_test.as_ref().map_or_else(|| "never".to_owned(), tested)),
    ])?)
}

fn tested(test: &LastTest) -> String {
    format!("{}, by {}: {}", ago(test.at, OffsetDateTime::now_utc()), test.by, test.summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_typed_is_left_to_central() {
        let add = AddDestination {
            name: "db".parse().unwrap(),
            url: "tcp://db:5432".into(),
            kind: None,
            listen: None,
            disabled: false,
        };
        assert_eq!(new_destination(&add), json!({"name": "db", "url": "tcp://db:5432"}));
    }
}
