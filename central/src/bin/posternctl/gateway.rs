//! `posternctl gateway …`, and the lines on the gateway that `status` begins with.

use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use crate::{
    args::Gateway as Command,
    client::{Client, read},
    drills,
    failure::Failure,
    history,
    screen::{Screen, ago, or_dash},
};

/// The Secure Gateway, as far as tables show it.
#[derive(Debug, Deserialize)]
pub(crate) struct Gateway {
    pub(crate) state: String,
    pub(crate) active: Option<String>,
    epoch: u64,
    group_epoch: u64,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    attempt: Option<Attempt>,
    event: Event,
    last_switch: Option<LastSwitch>,
    pub(crate) can_lose: Option<u64>,
    #[serde(default)]
    streams: u64,
    #[serde(default)]
    lanes: u64,
    #[serde(default)]
    draining: Vec<Draining>,
}

#[derive(Debug, Deserialize)]
struct Draining {
    process_server: String,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    streams: u64,
}

/// An old active, and who holds it open.
#[derive(Debug, Deserialize)]
struct Drain {
    process_server: String,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    streams: Vec<Stream>,
}

#[derive(Debug, Deserialize)]
struct Stream {
    destination: String,
    client: String,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Attempt {
    candidate: String,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
}

#[derive(Debug, Deserialize)]
struct Event {
    name: String,
    raised: bool,
}

#[derive(Debug, Deserialize)]
struct LastSwitch {
    from: Option<String>,
    to: String,
    reason: String,
    gap_ms: u64,
}

pub(crate) async fn run(command: Command, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    match command {
        Command::Show => {
            let answer = client.get("gateway").await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            lines(&read(&answer)?, screen)
        }
        Command::History => history::list(client, screen).await,
        Command::Drain => {
            let answer = client.get("gateway/drain").await?;
            if screen.is_json() {
                return Ok(screen.json(&answer)?);
            }
            drains(&read::<Vec<Drain>>(&answer)?, screen)
        }
        Command::Drill { to, no_wait } => drills::begin(to, no_wait, client, screen).await,
        Command::Drills => drills::list(client, screen).await,
        Command::EndDrain => {
            client.post("gateway/drain/end", json!({})).await?;
            screen.talk("Ended: its clients see a reset, and its agent is a standby, or gone");
            Ok(())
        }
        Command::Switch { to } => {
            let answer = client.post("gateway/switch", json!({ "to": to })).await?;
            let to = to.map_or_else(|| "the next configured candidate".to_owned(), |name| name.to_string());
            screen.talk(&format!(
                "Switch to {to} ordered: it connects first, then the old active drains. Watch it: posternctl status"
            ));
            if screen.is_json() { Ok(screen.json(&answer)?) } else { Ok(()) }
        }
    }
}

fn drains(drains: &[Drain], screen: &mut Screen) -> Result<(), Failure> {
    if drains.is_empty() {
        screen.talk("Nothing drains: the active carries every stream");
    }
    let now = OffsetDateTime::now_utc();
    for drain in drains {
        let lines = [
            ("Draining", drain.process_server.clone()),
            ("Streams", drain.streams.len().to_string()),
            ("Ends within", left(drain.until, now)),
        ];
        screen.properties(&lines)?;
        let rows = drain.streams.iter().map(|stream| {
            [
                stream.destination.clone(),
                stream.client.clone(),
                ago(stream.since, now),
                stream.bytes.to_string(),
            ]
        });
        screen.rows(["Destination", "Client", "Since", "Bytes"], rows, "Its last stream has just ended")?;
    }
    Ok(())
}

fn left(until: OffsetDateTime, now: OffsetDateTime) -> String {
    let left = (until - now).whole_seconds().max(0).unsigned_abs();
    humantime::format_duration(std::time::Duration::from_secs(left)).to_string()
}

/// What a person wants to know first.
pub(crate) fn lines(gateway: &Gateway, screen: &mut Screen) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let admitted = gateway.group_epoch > 0;
    let epoch = admitted.then(|| format!("{}.{}", gateway.group_epoch, gateway.epoch));
    let mut lines = vec![
        ("Secure Gateway", format!("{}, since {}", gateway.state, ago(gateway.since, now))),
        ("Active", or_dash(gateway.active.as_ref())),
        ("Epoch", or_dash(epoch)),
        ("Streams", streams(gateway)),
        ("Can lose", gateway.can_lose.map_or_else(|| "-".into(), losses)),
        (
            "Event",
            format!("{} {}", gateway.event.name, if gateway.event.raised { "RAISED" } else { "not raised" }),
        ),
    ];
    if let Some(attempt) = &gateway.attempt {
        let left = left(attempt.until, now);
        lines.push(("Waiting for", format!("{}, another {left}", attempt.candidate)));
    }
    for old in &gateway.draining {
        let left = left(old.until, now);
        lines.push(("Draining", format!("{}, {} streams, at most {left}", old.process_server, old.streams)));
    }
    if let Some(last) = &gateway.last_switch {
        let from = or_dash(last.from.as_ref());
        lines.push((
            "Last switch",
            format!("{from} -> {}, {}, {} ms without a tunnel", last.to, last.reason, last.gap_ms),
        ));
    }
    Ok(screen.properties(&lines)?)
}

fn streams(gateway: &Gateway) -> String {
    match gateway.lanes {
        0 | 1 => gateway.streams.to_string(),
        lanes => format!("{} on {lanes} lanes", gateway.streams),
    }
}

/// How many losses the group can bear, in words.
pub(crate) fn losses(can_lose: u64) -> String {
    match can_lose {
        0 => "no further member; the active then stays, but cannot change".to_owned(),
        1 => "one more member".to_owned(),
        many => format!("{many} more members"),
    }
}
