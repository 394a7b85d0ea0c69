//! `posternctl events [--follow]`

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    args::Events,
    client::{Client, read},
    failure::Failure,
    screen::{Screen, moment, plain},
};

/// How soon a follower comes back whose stream ended: central ends each after a while, and when it stops.
const COME_BACK: Duration = Duration::from_secs(1);

/// An event, as far as lines show it.
#[derive(Deserialize)]
struct Event {
    seq: u64,
    #[serde(deserialize_with = "moment")]
    at: String,
    severity: String,
    code: String,
    text: String,
    sender: String,
}

pub(crate) async fn run(options: Events, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    if options.follow {
        return tokio::select! {
            ended = follow(&options, client, screen) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let answer = client.get(&query(options.after, options.limit)).await?;
    if screen.is_json() {
        return Ok(screen.json(&answer)?);
    }
    let events: Vec<Event> = read(&answer)?;
    if events.is_empty() {
        screen.talk("No events.");
    }
    let values = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    for (event, value) in events.iter().zip(values) {
        print(event, value, screen)?;
    }
    Ok(())
}

/// Never ends by itself: a central that is away for a moment is waited for, once it was there.
async fn follow(options: &Events, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let mut after = options.after;
    let mut been_there = false;
    loop {
        match client.follow(&query(after, options.limit)).await {
            Ok(mut stream) => {
                been_there = true;
                while let Some(value) = stream.next().await? {
                    let event: Event = read(&value)?;
                    print(&event, &value, screen)?;
                    after = Some(event.seq);
                }
                // From nothing it goes on with the first event to come.
                after = after.or(Some(0));
            }
            Err(Failure::NoAnswer(why)) if been_there => screen.talk(&format!("{why}; trying again")),
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(COME_BACK).await;
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
