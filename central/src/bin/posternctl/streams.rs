//! `posternctl streams …`: who uses the gateway, and who did lately.

use serde::Deserialize;
use serde_json::json;

use crate::{
    args::Streams as Command,
    client::{Client, read},
    failure::Failure,
    screen::{Screen, moment, or_dash},
};

#[derive(Debug, Deserialize)]
struct Open {
    id: String,
    destination: String,
    client: String,
    via: String,
    age_ms: u64,
    idle_ms: u64,
    bytes_to_site: u64,
    bytes_to_client: u64,
    draining: bool,
}

#[derive(Debug, Deserialize)]
struct Closed {
    id: Option<String>,
    destination: String,
    client: String,
    #[serde(deserialize_with = "moment")]
    ended_at: String,
    outcome: String,
    parked_ms: u64,
    dial_ms: Option<u64>,
    first_byte_ms: Option<u64>,
    duration_ms: u64,
    reason: String,
}

pub(crate) async fn run(command: Command, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    match command {
        Command::List => {
            let answer = client.get("streams").await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            let rows = read::<Vec<Open>>(&answer)?.into_iter().map(|one| {
                let via = if one.draining { format!("{} (drains)", one.via) } else { one.via };
                [
                    one.id,
                    one.destination,
                    one.client,
                    via,
                    seconds(one.age_ms),
                    seconds(one.idle_ms),
                    one.bytes_to_site.to_string(),
                    one.bytes_to_client.to_string(),
                ]
            });
            let headings = ["ID", "DESTINATION", "CLIENT", "VIA", "AGE", "IDLE", "TO SITE", "TO CLIENT"];
            Ok(screen.rows(headings, rows, "Nobody uses the gateway at this moment.")?)
        }
        Command::Closed => {
            let answer = client.get("streams/closed").await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            let rows = read::<Vec<Closed>>(&answer)?.into_iter().map(|one| {
                [
                    or_dash(one.id),
                    one.destination,
                    one.client,
                    one.ended_at,
                    one.outcome,
                    one.parked_ms.to_string(),
                    or_dash(one.dial_ms),
                    or_dash(one.first_byte_ms),
                    one.duration_ms.to_string(),
                    one.reason,
                ]
            });
            let headings = [
                "ID",
                "DESTINATION",
                "CLIENT",
                "ENDED",
                "OUTCOME",
                "PARKED",
                "DIAL",
                "FIRST BYTE",
                "MS",
                "REASON",
            ];
            Ok(screen.rows(headings, rows, "No stream has ended since central started.")?)
        }
        Command::End { id } => {
            client.post(&format!("streams/{id}/end"), json!({})).await?;
            screen.talk(&format!("{id} was ended: both its ends see a reset."));
            Ok(())
        }
    }
}

fn seconds(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(ms / 1000)).to_string()
}
