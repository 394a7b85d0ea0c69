//! `postern-agent alerts test`: a rehearsed alert to each receiver, from this host, and what it answered.

use std::{path::Path, process::ExitCode};

use alerting::{Alert, DeliveryId, IncidentId, Kind, outbox::Outcome};
use time::OffsetDateTime;

use super::Settings;
use crate::{config::Config, identity::Identity};
use program::explain;

/// Sends one down, or one up, marked as a test, to every endpoint. Nothing is kept and nothing tried again.
///
/// The exit code is 0 when each was taken, 1 when one was not.
pub async fn command(config: Config, data_dir: &Path, up: bool) -> ExitCode {
    let Some(settings) = config.alerts else {
        eprintln!(
            "postern-agent: no receivers are set: name their file as 'endpoints' under [alerts] in agent.toml"
        );
        return ExitCode::FAILURE;
    };
    let environment = match Identity::read(data_dir) {
        Ok(identity) => identity.environment.to_string(),
        Err(error) => {
            eprintln!("postern-agent: {}", explain(&error));
            return ExitCode::FAILURE;
        }
    };
    let lines = rehearse(&settings, &environment, if up { Kind::Up } else { Kind::Down }).await;
    let all_taken = lines.iter().all(|(taken, _)| *taken);
    for (taken, line) in lines {
        println!("{} {line}", if taken { "taken    " } else { "NOT TAKEN" });
    }
    if all_taken { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn rehearse(settings: &Settings, environment: &str, kind: Kind) -> Vec<(bool, String)> {
    let mut lines = Vec::new();
    for endpoint in settings.alerts.endpoints() {
        let now = OffsetDateTime::now_utc();
        let incident = IncidentId::new(proto::SessionId::random().to_string());
        let alert = Alert::sample(kind, incident.clone(), environment, now);
        let id = DeliveryId::of(&incident, kind, endpoint.name());
        let attempt = settings.courier.attempt(endpoint, &id, &alert, now).await;
        let taken = matches!(attempt.outcome, Outcome::Answered { status: 200..=299, .. });
        lines.push((taken, format!("{} ({} ms): {}", endpoint.name(), attempt.took_ms, attempt.outcome)));
    }
    lines
}
