//! A gateway set up host by host, as an operator does it: central by its own config file, agents
//! enrolled with tokens, and a [`Link`] between each agent and central.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::process::{Launch, run};
use crate::{Api, Folder, Link, Process, Stop, port, program, wait_until};

const START_WITHIN: Duration = Duration::from_secs(30);
const UP_WITHIN: Duration = Duration::from_secs(60);

/// Central, its agents, and the links between them.
pub struct Site {
    api: Api,
    agents: Vec<SiteAgent>,
    listener: SocketAddr,
    _central: Process,
    // Last, so that it outlives the processes that write into it.
    _folder: Folder,
}

struct SiteAgent {
    name: String,
    process: Process,
    /// Carries everything between this agent and central.
    link: Link,
}

impl Site {
    /// A gateway of the agents `names`, up, with `destination` as its one destination.
    pub async fn start(names: &[&str], destination: SocketAddr) -> Self {
        let folder = Folder::new("site");
        let addresses = Addresses { admin: port::free(), tunnel: port::free() };
        let central = start_central(&folder, &addresses);
        let (api, ca_cert) = first_administrator(&folder, &addresses).await;

        let mut agents = Vec::new();
        for name in names {
            let link = Link::to(addresses.tunnel).await;
            let process = enrol_and_start(&folder, &api, &ca_cert, name, link.addr(), destination).await;
            agents.push(SiteAgent { name: (*name).to_owned(), process, link });
        }
        for agent in &agents {
            wait_until(&format!("{} is connected", agent.name), START_WITHIN, async || {
                let all = api.process_servers().await;
                all.iter().any(|one| one.name == agent.name && one.connected).then_some(())
            })
            .await;
            api.patch(&format!("/process-servers/{}", agent.name), json!({"candidate": true})).await;
        }
        // The first candidate restarted founds the group; the others join without.
        let first = &mut agents[0];
        first.process.stop();
        first.process = run_agent(&folder, &first.name);

        let listener = port::free();
        let body = json!({
            "name": "target", "type": "tcp", "url": format!("tcp://{destination}"),
            "direction": "to_site", "listen": listener.to_string(), "enabled": true,
        });
        api.post("/destinations", body).await;
        wait_until("the Secure Gateway is up and every candidate is configured", UP_WITHIN, async || {
            let all = api.process_servers().await;
            let configured = all.iter().filter(|one| one.configured).count();
            (api.gateway().await.state == "up" && configured == names.len()).then_some(())
        })
        .await;
        Self { api, agents, listener, _central: central, _folder: folder }
    }

    /// The REST API, with every right.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Where the destination is reached on the cloud side.
    pub fn listen(&self) -> SocketAddr {
        self.listener
    }

    /// The link that carries everything between the agent `name` and central.
    pub fn link(&self, name: &str) -> &Link {
        let agent = self.agents.iter().find(|agent| agent.name == name);
        &agent.unwrap_or_else(|| panic!("the site has no agent {name}")).link
    }

    /// Every agent's link.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.agents.iter().map(|agent| &agent.link)
    }
}

struct Addresses {
    admin: SocketAddr,
    tunnel: SocketAddr,
}

fn start_central(folder: &Folder, addresses: &Addresses) -> Process {
    let config = folder.write("central.toml", central_toml(&folder.join("central"), addresses));
    let mut command = Command::new(program("postern-central"));
    command.arg("serve").arg("--config").arg(config);
    let log = folder.join("central.log");
    Process::spawn(Launch { name: "postern-central", command, log, stop: Stop::Term, user: None })
}

fn central_toml(data_dir: &Path, addresses: &Addresses) -> String {
    format!(
        "data_dir = \"{}\"\n\n[admin]\nlisten = \"{}\"\n\n[tunnel]\nlisten = \"{}\"\npublic_url = \"https://{}\"\n",
        data_dir.display(),
        addresses.admin,
        addresses.tunnel,
        addresses.tunnel,
    )
}

/// What an operator finds after central's first start: the CA's certificate and the first
/// administrator's token, in central's data folder.
async fn first_administrator(folder: &Folder, addresses: &Addresses) -> (Api, PathBuf) {
    let ca_cert = folder.join("central/ca.pem");
    let token = folder.join("central/admin.token");
    let token = wait_until("central has written its first token and its CA", START_WITHIN, async || {
        let token = std::fs::read_to_string(&token).ok()?;
        (!token.trim().is_empty() && ca_cert.exists()).then(|| token.trim().to_owned())
    })
    .await;
    wait_until("central listens for administrators", START_WITHIN, async || {
        tokio::net::TcpStream::connect(addresses.admin).await.ok().map(drop)
    })
    .await;
    (Api::new(&format!("https://{}", addresses.admin), &ca_cert, &token), ca_cert)
}

async fn enrol_and_start(
    folder: &Folder,
    api: &Api,
    ca_cert: &Path,
    name: &str,
    central: SocketAddr,
    destination: SocketAddr,
) -> Process {
    let answer = api.post("/enrollment-tokens", json!({"name": name})).await;
    let token =
        answer["token"].as_str().unwrap_or_else(|| panic!("an enrolment token is missing in {answer}"));
    let token_file = folder.write_private(&format!("{name}.token"), token);
    let mut enroll = Command::new(program("postern-agent"));
    enroll.args(["enroll", "--central", &format!("https://{central}"), "--name", name]);
    enroll.arg("--token-file").arg(token_file).arg("--ca-cert").arg(ca_cert);
    enroll.arg("--data-dir").arg(folder.join(name));
    run(&enroll, None);
    folder.write(&format!("{name}.toml"), agent_toml(destination, port::free()));
    run_agent(folder, name)
}

/// An agent reaches nothing until its own host's file says what.
fn agent_toml(destination: SocketAddr, peers: SocketAddr) -> String {
    format!(
        "[[allow]]\nhost = \"{}\"\nports = {}\n\n[peers]\nlisten = \"{peers}\"\nadvertise = [\"{peers}\"]\n",
        destination.ip(),
        destination.port(),
    )
}

fn run_agent(folder: &Folder, name: &str) -> Process {
    let mut command = Command::new(program("postern-agent"));
    command.arg("run").arg("--data-dir").arg(folder.join(name));
    command.arg("--config").arg(folder.join(&format!("{name}.toml")));
    let log = folder.join(&format!("{name}.log"));
    Process::spawn(Launch { name, command, log, stop: Stop::Term, user: None })
}
