//! `posternctl process-servers …`

use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::{
    args::{ProcessServers, Switch},
    client::{Client, read},
    failure::Failure,
    screen::{Screen, ago, or_dash, yes},
};

/// A Process Server, as far as tables show it.
#[derive(Debug, Deserialize)]
pub(crate) struct ProcessServer {
    pub(crate) name: String,
    pub(crate) candidate: bool,
    pub(crate) configured: bool,
    pub(crate) restart_required: bool,
    pub(crate) connected: bool,
    pub(crate) active: bool,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) last_seen: Option<OffsetDateTime>,
    pub(crate) version: Option<String>,
    pub(crate) os: Option<String>,
    #[serde(default)]
    pub(crate) returning: Option<Returning>,
    #[serde(default)]
    pub(crate) system_information: Map<String, Value>,
}

/// Asks to come back with a certificate that has expired.
#[derive(Debug, Deserialize)]
pub(crate) struct Returning {
    #[serde(with = "time::serde::rfc3339")]
    expired_at: OffsetDateTime,
    from: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    approved_until: Option<OffsetDateTime>,
}

pub(crate) async fn run(
    command: ProcessServers,
    client: &Client,
    screen: &mut Screen,
) -> Result<(), Failure> {
    match command {
        ProcessServers::List => {
            let answer = client.get("process-servers").await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            table(&read::<Vec<ProcessServer>>(&answer)?, screen)
        }
        ProcessServers::Show { name } => {
            let answer = client.get(&format!("process-servers/{name}")).await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            details(&read(&answer)?, screen)
        }
        ProcessServers::Candidate { name, allowed } => {
            let candidate = allowed == Switch::On;
            let answer =
                client.patch(&format!("process-servers/{name}"), json!({ "candidate": candidate })).await?;
            let server: ProcessServer = read(&answer)?;
            screen.talk(&match (candidate, server.restart_required) {
                (true, true) => format!(
                    "{name} is a Secure Gateway Candidate. Restart required: posternctl process-servers restart {name}"
                ),
                (true, false) => format!("{name} is a Secure Gateway Candidate."),
                (false, _) => format!("{name} is no longer a Secure Gateway Candidate."),
            });
            if screen.is_json() { Ok(screen.json(&answer)?) } else { Ok(()) }
        }
        ProcessServers::Restart { name } => {
            client.post(&format!("process-servers/{name}/restart"), json!({})).await?;
            screen.talk(&format!(
                "{name} was told to restart. Watch it: posternctl process-servers show {name}"
            ));
            Ok(())
        }
        ProcessServers::Approve { name } => {
            let answer = client.post(&format!("process-servers/{name}/approve"), json!({})).await?;
            screen.talk(&format!(
                "{name} may come back: it asks again within a minute. Watch it: posternctl process-servers show {name}"
            ));
            if screen.is_json() { Ok(screen.json(&answer)?) } else { Ok(()) }
        }
        ProcessServers::Remove { name } => {
            client.delete(&format!("process-servers/{name}")).await?;
            screen.talk(&format!("{name} was removed; its agent has to enrol again to come back."));
            Ok(())
        }
    }
}

/// The overview of Process Servers.
pub(crate) fn table(servers: &[ProcessServer], screen: &mut Screen) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    Ok(screen.rows(
        ["NAME", "CANDIDATE", "CONFIGURED", "CONNECTED", "GATEWAY", "LAST SEEN", "VERSION", "OS"],
        servers.iter().map(|server| {
            [
                server.name.clone(),
                yes(server.candidate) + if server.restart_required { " (restart required)" } else { "" },
                yes(server.configured),
                yes(server.connected)
                    + if server.returning.is_some() { " (certificate expired, asks to return)" } else { "" },
                if server.active { "active" } else { "-" }.into(),
                or_dash(server.last_seen.map(|seen| ago(seen, now))),
                or_dash(server.version.as_ref()),
                or_dash(server.os.as_ref()),
            ]
        }),
        "No Process Server yet. Let one in: posternctl enrollment create",
    )?)
}

fn details(server: &ProcessServer, screen: &mut Screen) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let mut lines = vec![
        ("Name", server.name.clone()),
        ("Secure Gateway Candidate", yes(server.candidate)),
        ("Configured", yes(server.configured)),
        ("Restart required", yes(server.restart_required)),
        ("Connected", yes(server.connected)),
        ("Active", yes(server.active)),
        ("Last seen", or_dash(server.last_seen.map(|seen| ago(seen, now)))),
        ("Version", or_dash(server.version.as_ref())),
        ("OS", or_dash(server.os.as_ref())),
    ];
    if let Some(returning) = &server.returning {
        let from = returning.from.as_deref().unwrap_or("an unknown address");
        let expired = ago(returning.expired_at, now);
        lines.push((
            "Returning",
            match returning.approved_until {
                Some(_) => format!("approved; its certificate expired {expired}, it asked from {from}"),
                None => format!(
                    "certificate expired {expired}, asks from {from}: posternctl process-servers approve {}",
                    server.name
                ),
            },
        ));
    }
    for (name, value) in &server.system_information {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        lines.push((name, text));
    }
    Ok(screen.properties(&lines)?)
}
