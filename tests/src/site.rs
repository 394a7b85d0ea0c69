//! A gateway set up host by host, as an operator does it: central by its own config file, agents
//! enrolled with tokens, and a [`Link`] between each agent and central.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::{Api, Central, Host, Link, Process, port, wait_until};

const START_WITHIN: Duration = Duration::from_secs(30);
const UP_WITHIN: Duration = Duration::from_secs(60);

/// Central, its agents, and the links between them.
pub struct Site {
    agents: Vec<SiteAgent>,
    listener: SocketAddr,
    central: Central,
}

struct SiteAgent {
    process: Process,
    /// Carries everything between this agent and central.
    link: Link,
    host: Host,
}

impl Site {
    /// A gateway of the agents `names`, up, with `destination` as its one destination.
    pub async fn start(names: &[&str], destination: SocketAddr) -> Self {
        Self::start_allowing(names, destination, &[]).await
    }

    /// The same; the agents' hosts allow further places, pairs of host and port.
    pub async fn start_allowing(names: &[&str], destination: SocketAddr, further: &[(&str, u16)]) -> Self {
        Self::start_in(Central::start().await, names, destination, further).await
    }

    /// The same in a central that was started before.
    pub async fn start_in(
        central: Central,
        names: &[&str],
        destination: SocketAddr,
        further: &[(&str, u16)],
    ) -> Self {
        let ip = destination.ip().to_string();
        let allowed: Vec<_> = [(ip.as_str(), destination.port())].iter().chain(further).copied().collect();

        let mut agents = Vec::new();
        for name in names {
            let link = Link::to(central.tunnel()).await;
            let host = Host::enrolled(name, &allowed, &central, link.addr()).await;
            agents.push(SiteAgent { process: host.start(), link, host });
        }
        for agent in &agents {
            central.until_connected(agent.host.name(), START_WITHIN).await;
            let path = format!("/process-servers/{}", agent.host.name());
            central.api().patch(&path, json!({"candidate": true})).await;
        }
        // The first candidate restarted founds the group; the others join without.
        let first = &mut agents[0];
        first.process.stop();
        first.process = first.host.start();

        let listener = port::free();
        let site = Self { agents, listener, central };
        site.add_destination("target", &format!("tcp://{destination}"), listener).await;
        wait_until("the Secure Gateway is up and every candidate is configured", UP_WITHIN, async || {
            let all = site.api().process_servers().await;
            let configured = all.iter().filter(|one| one.configured).count();
            (site.api().gateway().await.state == "up" && configured == names.len()).then_some(())
        })
        .await;
        site
    }

    /// Adds a destination that listens at `listener`.
    pub async fn add_destination(&self, name: &str, url: &str, listener: SocketAddr) {
        let body = json!({ "name": name, "url": url, "listen": listener.to_string() });
        self.api().post("/destinations", body).await;
    }

    pub fn central(&self) -> &Central {
        &self.central
    }

    /// The REST API, with every right.
    pub fn api(&self) -> &Api {
        self.central.api()
    }

    /// Where the destination is reached on the cloud side.
    pub fn listen(&self) -> SocketAddr {
        self.listener
    }

    /// The host of the agent `name`.
    pub fn host(&self, name: &str) -> &Host {
        &self.agent(name).host
    }

    /// The link that carries everything between the agent `name` and central.
    pub fn link(&self, name: &str) -> &Link {
        &self.agent(name).link
    }

    /// The last lines that the agent `name` printed.
    pub fn log_tail(&self, name: &str) -> String {
        self.agent(name).process.log_tail()
    }

    /// Every agent's link.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.agents.iter().map(|agent| &agent.link)
    }

    fn agent(&self, name: &str) -> &SiteAgent {
        let agent = self.agents.iter().find(|agent| agent.host.name() == name);
        agent.unwrap_or_else(|| panic!("the site has no agent {name}"))
    }
}
