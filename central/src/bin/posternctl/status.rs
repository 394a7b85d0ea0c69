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

/// Its JSON is the gateway's, with the Process Servers beside it.
pub(crate) async fn show(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let mut gateway = client.get("gateway").await?;
    let servers = client.get("process-servers").await?;
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
