//! `posternctl events [--follow]`

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    args::Events,
    client::{Client, read},
    failure::Failure,
    screen::{Screen, plain},
};

/// How often a follower asks. Nobody reads faster, and central answers this from memory of a page.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// An event, as far as lines show it.
#[derive(Deserialize)]
struct Event {
    seq: u64,
    at: String,
    severity: String,
    code: String,
    text: String,
    sender: String,
}

pub(crate) async fn run(options: Events, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let mut after = options.after;
    loop {
        let answer = client.get(&query(after, options.limit)).await?;
        let events: Vec<Event> = read(&answer)?;
        let shown = events.len();
        if screen.is_json() && !options.follow {
            return Ok(screen.json(&answer)?);
        }
        let values = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        for (event, value) in events.iter().zip(values) {
            print(event, value, screen)?;
            after = Some(event.seq);
        }
        if !options.follow {
            if shown == 0 {
                screen.talk("No events.");
            }
            return Ok(());
        }
        // Following begins with what is there; from nothing it begins at the first event to come.
        after = after.or(Some(0));
        if shown < options.limit as usize {
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }
}

/// One line an event, so that a follower's output can be piped: a table would wait for its end.
fn print(event: &Event, value: &Value, screen: &mut Screen) -> Result<(), Failure> {
    if screen.is_json() {
        return Ok(screen.json_line(value)?);
    }
    let text = plain(&event.text).replace('\n', " ");
    let Event { seq, at, severity, code, sender, .. } = event;
    Ok(screen.line(&format!("{seq:>6}  {at}  {severity:<7}  {code}  {}: {text}", plain(sender)))?)
}

fn query(after: Option<u64>, limit: u32) -> String {
    match after {
        Some(after) => format!("events?limit={limit}&after={after}"),
        None => format!("events?limit={limit}"),
    }
}
