//! `posternctl alerts …`: who is told of an outage, tries of it, and what was told.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use serde::Deserialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    args::{Alerts as Command, Maintenance},
    client::{Client, read},
    failure::Failure,
    screen::{Screen, moment, or_dash},
};

/// The largest file of settings; central takes as much.
const FILE_BYTES_MAX: u64 = 256 * 1024;

#[derive(Deserialize)]
struct Settings {
    endpoints: Vec<Endpoint>,
    hold_down: String,
}

#[derive(Deserialize)]
struct Endpoint {
    name: String,
    url: Option<String>,
    preset: Option<String>,
    #[serde(default)]
    also: Vec<String>,
    enabled: bool,
    disabled_because: Option<String>,
}

#[derive(Deserialize)]
struct Tested {
    endpoint: String,
    kind: String,
    delivered: bool,
    attempt: Attempt,
}

#[derive(Deserialize)]
struct Delivery {
    id: String,
    endpoint: String,
    alert: Alert,
    #[serde(deserialize_with = "moment")]
    created_at: String,
    state: State,
    tries: u32,
    attempts: Vec<Attempt>,
}

#[derive(Deserialize)]
struct Alert {
    kind: String,
}

#[derive(Deserialize)]
struct State {
    state: String,
    next_at: Option<String>,
    why: Option<String>,
}

#[derive(Deserialize)]
struct Attempt {
    took_ms: u64,
    outcome: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    status: Option<u16>,
    why: Option<String>,
}

impl Attempt {
    fn in_words(&self) -> String {
        let Outcome { status, why } = &self.outcome;
        let outcome = status.map(|status| format!("answered {status}")).or_else(|| why.clone());
        format!("{} after {} ms", or_dash(outcome), self.took_ms)
    }
}

pub(crate) async fn run(command: Command, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    match command {
        Command::Show => {
            let answer = client.get("alerts").await?;
            if screen.is_json() { Ok(screen.json(&answer)?) } else { show(&read(&answer)?, screen) }
        }
        Command::Set { file } => {
            let answer = client.put("alerts", settings_in(&file)?).await?;
            screen.talk("The alerts are set. Try them before it matters: posternctl alerts test");
            if screen.is_json() { Ok(screen.json(&answer)?) } else { show(&read(&answer)?, screen) }
        }
        Command::Test { endpoint, up } => {
            let kind = if up { "up" } else { "down" };
            let answer = client.post("alerts/test", json!({ "endpoint": endpoint, "kind": kind })).await?;
            let tested: Vec<Tested> = read(&answer)?;
            let failed = tested.iter().filter(|tested| !tested.delivered).count();
            if screen.is_json() {
                screen.json(&answer)?;
            } else {
                let rows = tested.iter().map(|tested| {
                    let result = if tested.delivered { "PASS" } else { "FAIL" };
                    [tested.endpoint.clone(), tested.kind.clone(), result.into(), tested.attempt.in_words()]
                });
                screen.rows(["ENDPOINT", "ALERT", "RESULT", "THE RECEIVER"], rows, "Nobody was told.")?;
            }
            match failed {
                0 => Ok(()),
                failed => {
                    Err(Failure::Failed(format!("{failed} of {} receivers did not take it", tested.len())))
                }
            }
        }
        Command::Deliveries { limit } => {
            let answer = client.get(&format!("alerts/deliveries?limit={limit}")).await?;
            if screen.is_json() { Ok(screen.json(&answer)?) } else { deliveries(read(&answer)?, screen) }
        }
        Command::SendAgain { id } => {
            let answer = client.post(&format!("alerts/deliveries/{id}/send-again"), json!({})).await?;
            screen.talk(&format!("{id} is sent again. See what becomes of it: posternctl alerts deliveries"));
            if screen.is_json() { Ok(screen.json(&answer)?) } else { Ok(()) }
        }
        Command::Maintenance(command) => maintenance(command, client, screen).await,
    }
}

async fn maintenance(command: Maintenance, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let answer = match command {
        Maintenance::Begin { lasting, reason } => {
            let until = OffsetDateTime::now_utc() + lasting;
            let until = until.format(&Rfc3339).map_err(|error| Failure::Failed(error.to_string()))?;
            let body = json!({ "until": until, "reason": reason });
            client.put("alerts/maintenance", body).await?
        }
        Maintenance::End => client.delete("alerts/maintenance").await?,
        Maintenance::Show => client.get("alerts/maintenance").await?,
    };
    if screen.is_json() {
        return Ok(screen.json(&answer)?);
    }
    Ok(screen.line(&match answer.get("until").and_then(Value::as_str) {
        Some(until) => format!("Nobody is told of outages until {until}."),
        None => "Alerts are told as they come.".to_owned(),
    })?)
}

fn show(settings: &Settings, screen: &mut Screen) -> Result<(), Failure> {
    let rows = settings.endpoints.iter().map(|endpoint| {
        let off = || endpoint.disabled_because.as_ref().map_or("off".to_owned(), |why| format!("off: {why}"));
        [
            endpoint.name.clone(),
            or_dash(endpoint.preset.clone()),
            or_dash(endpoint.url.clone()),
            if endpoint.also.is_empty() { "-".to_owned() } else { endpoint.also.join(", ") },
            if endpoint.enabled { "on".to_owned() } else { off() },
        ]
    });
    screen.rows(
        ["ENDPOINT", "PRESET", "URL", "ALSO TOLD", "STATE"],
        rows,
        "Nobody is told of outages: posternctl alerts set --file FILE",
    )?;
    screen.talk(&format!("An outage is told once it has lasted {}.", settings.hold_down));
    Ok(())
}

fn deliveries(deliveries: Vec<Delivery>, screen: &mut Screen) -> Result<(), Failure> {
    let rows = deliveries.into_iter().map(|delivery| {
        let last = delivery.attempts.last().map(Attempt::in_words);
        let state = match (delivery.state.state.as_str(), &delivery.state.next_at, &delivery.state.why) {
            ("waiting", Some(next), _) => format!("waiting until {next}"),
            (state, _, Some(why)) => format!("{}: {why}", state.replace('_', " ")),
            (state, ..) => state.replace('_', " "),
        };
        [
            delivery.created_at,
            delivery.alert.kind,
            delivery.endpoint,
            state,
            delivery.tries.to_string(),
            or_dash(last),
            delivery.id,
        ]
    });
    Ok(screen.rows(
        ["CREATED", "ALERT", "ENDPOINT", "STATE", "TRIES", "LAST", "ID"],
        rows,
        "Nobody was told of anything yet.",
    )?)
}

/// The settings in a file, or `-`: standard input. They hold secrets, so they are no argument.
fn settings_in(file: &Path) -> Result<Value, Failure> {
    let wrong = |why: String| Failure::Usage(format!("{}: {why}", file.display()));
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    match read {
        Err(error) => Err(wrong(error.to_string())),
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => Err(wrong("larger than 256 KiB".to_owned())),
        Ok(_) => serde_json::from_str(&text).map_err(|error| wrong(format!("this is no JSON: {error}"))),
    }
}
