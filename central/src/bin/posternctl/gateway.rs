//! `posternctl gateway …`, and the lines on the gateway that `status` begins with.

use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use crate::{
    args::Gateway as Command,
    client::{Client, read},
    failure::Failure,
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

/// What a person wants to know first.
pub(crate) fn lines(gateway: &Gateway, screen: &mut Screen) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let admitted = gateway.group_epoch > 0;
    let epoch = admitted.then(|| format!("{}.{}", gateway.group_epoch, gateway.epoch));
    let mut lines = vec![
        ("Secure Gateway", format!("{}, since {}", gateway.state, ago(gateway.since, now))),
        ("Active", or_dash(gateway.active.as_ref())),
        ("Epoch", or_dash(epoch)),
        ("Streams", gateway.streams.to_string()),
        ("Can lose", gateway.can_lose.map_or_else(|| "-".into(), losses)),
        (
            "Event",
            format!("{} {}", gateway.event.name, if gateway.event.raised { "RAISED" } else { "not raised" }),
        ),
    ];
    if let Some(attempt) = &gateway.attempt {
        let left = (attempt.until - now).whole_seconds().max(0).unsigned_abs();
        let left = humantime::format_duration(std::time::Duration::from_secs(left));
        lines.push(("Waiting for", format!("{}, another {left}", attempt.candidate)));
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

/// How many losses the group can bear, in words.
pub(crate) fn losses(can_lose: u64) -> String {
    match can_lose {
        0 => "no further member; the active then stays, but cannot change".to_owned(),
        1 => "one more member".to_owned(),
        many => format!("{many} more members"),
    }
}
