//! `posternctl status`: the state, who could carry it, and the next step.

use serde_json::Value;

use crate::{
    advice::advice,
    client::{Client, read},
    failure::Failure,
    gateway,
    process_servers::{self, ProcessServer},
    screen::Screen,
};

/// How often a watcher looks.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Its JSON is the gateway's, with the Process Servers beside it.
pub(crate) async fn run(watch: bool, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    if !watch {
        let (gateway, servers) = look(client).await?;
        return show(gateway, servers, screen);
    }
    tokio::select! {
        ended = keep_showing(client, screen) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Prints what changed and nothing twice, so that its output can be kept.
async fn keep_showing(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let mut shown = None;
    loop {
        let (gateway, mut servers) = look(client).await?;
        let seen = (gateway.clone(), without_times(servers.clone()));
        if shown.as_ref() != Some(&seen) {
            shown = Some(seen);
            show(gateway, servers.take(), screen)?;
            if !screen.is_json() {
                screen.line("")?;
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// When an agent was last heard changes all the time and is no news.
fn without_times(mut servers: Value) -> Value {
    for server in servers.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        server.remove("last_seen");
    }
    servers
}

async fn look(client: &Client) -> Result<(Value, Value), Failure> {
    Ok((client.get("gateway").await?, client.get("process-servers").await?))
}

fn show(mut gateway: Value, servers: Value, screen: &mut Screen) -> Result<(), Failure> {
    if screen.is_json() {
        if let Value::Object(gateway) = &mut gateway {
            gateway.insert("process_servers".to_owned(), servers);
        }
        return Ok(screen.json(&gateway)?);
    }
    let gateway: gateway::Gateway = read(&gateway)?;
    let servers: Vec<ProcessServer> = read(&servers)?;
    gateway::lines(&gateway, screen)?;
    screen.line("")?;
    process_servers::table(&servers, screen)?;
    for step in advice(&gateway, &servers) {
        screen.talk(&step);
    }
    Ok(())
}
