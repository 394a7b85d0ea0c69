//! The gateway as `postern-central dev` starts it: central and its agents as real processes.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;

use crate::process::{Launch, signal};
use crate::{Api, Folder, Process, Stop, program, wait_until};

/// From the start of `dev` to its line of JSON.
const UP_WITHIN: Duration = Duration::from_secs(60);
const CONFIGURED_WITHIN: Duration = Duration::from_secs(30);
const STILL_WITHIN: Duration = Duration::from_secs(5);

/// A running `postern-central dev`. Dropped, it is told to stop, and with it its agents.
pub struct Dev {
    api: Api,
    announcement: Announcement,
    agents: Vec<DevAgent>,
    restarts: u32,
    process: Process,
    // Last, so that it outlives the processes that write into it.
    folder: Folder,
}

/// One of dev's agents: a real process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DevAgent {
    pub name: String,
    pub pid: u32,
    pub data_dir: PathBuf,
}

/// What dev promises to print, and nothing else, on stdout.
#[derive(Deserialize)]
struct Announcement {
    admin_url: String,
    token: String,
    ca_cert: PathBuf,
    data_dir: PathBuf,
    central_pid: u32,
    tunnel_listen: SocketAddr,
    process_servers: Vec<DevAgent>,
    active: String,
    destinations: Vec<Listening>,
}

#[derive(Deserialize)]
struct Listening {
    name: String,
    listen: SocketAddr,
}

impl Dev {
    /// A gateway of two agents, up, with `destinations` as pairs of name and URL.
    pub async fn start(destinations: &[(&str, &str)]) -> Self {
        Self::start_with(destinations, &[]).await
    }

    /// The same with further options for `postern-central dev`.
    pub async fn start_with(destinations: &[(&str, &str)], options: &[&str]) -> Self {
        let folder = Folder::new("dev");
        let mut command = Command::new(program("postern-central"));
        command.args(["dev", "--json", "--admin-listen", "127.0.0.1:0", "--tunnel-listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(folder.join("state")).args(options);
        for (name, url) in destinations {
            command.args(["--destination", &format!("{name}={url}")]);
        }
        let log = folder.join("dev.log");
        let launch = Launch { name: "postern-central dev", command, log, stop: Stop::Term, user: None };
        let (process, announced) = Process::announcing(launch);
        let line = tokio::time::timeout(UP_WITHIN, announced)
            .await
            .unwrap_or_else(|_| panic!("postern-central dev was not up within {UP_WITHIN:?}"))
            .unwrap_or_else(|_| panic!("postern-central dev ended instead of coming up"));
        let announcement: Announcement = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("dev did not announce itself as promised ({error}): {line}"));
        Self {
            api: Api::new(&announcement.admin_url, &announcement.ca_cert, &announcement.token),
            agents: announcement.process_servers.clone(),
            announcement,
            restarts: 0,
            process,
            folder,
        }
    }

    /// The REST API, with every right.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Where browsers and programs of administrators go.
    pub fn admin_url(&self) -> &str {
        &self.announcement.admin_url
    }

    /// Where the destination `name` is reached on the cloud side.
    pub fn listen(&self, name: &str) -> SocketAddr {
        let listening = self.announcement.destinations.iter().find(|destination| destination.name == name);
        listening.unwrap_or_else(|| panic!("dev announced no destination {name}")).listen
    }

    /// Every destination's listener, by name.
    pub fn listeners(&self) -> BTreeMap<&str, SocketAddr> {
        self.announcement.destinations.iter().map(|one| (one.name.as_str(), one.listen)).collect()
    }

    pub fn tunnel_listen(&self) -> SocketAddr {
        self.announcement.tunnel_listen
    }

    pub fn central_pid(&self) -> u32 {
        self.announcement.central_pid
    }

    pub fn data_dir(&self) -> &PathBuf {
        &self.announcement.data_dir
    }

    /// Waits until every agent may take over: connected, and admitted to the group.
    pub async fn until_all_configured(&self) {
        wait_until("every candidate is configured", CONFIGURED_WITHIN, async || {
            let all = self.api.process_servers().await;
            let configured = all.iter().filter(|one| one.configured && one.connected).count();
            (configured == self.agents.len()).then_some(())
        })
        .await;
    }

    /// The one other agent of two.
    pub fn other_than(&self, name: &str) -> &DevAgent {
        let mut others = self.agents.iter().filter(|agent| agent.name != name);
        let other = others.next().unwrap_or_else(|| panic!("dev has no agent beside {name}"));
        assert!(others.next().is_none(), "dev has more than one agent beside {name}");
        other
    }

    /// The agent that was active when dev announced itself.
    pub fn first_active(&self) -> &str {
        &self.announcement.active
    }

    /// The agents as they run now.
    pub fn agents(&self) -> &[DevAgent] {
        &self.agents
    }

    /// The agent `name`.
    pub fn agent(&self, name: &str) -> &DevAgent {
        let agent = self.agents.iter().find(|agent| agent.name == name);
        agent.unwrap_or_else(|| panic!("dev has no agent {name}"))
    }

    /// The agents' process ids.
    pub fn agent_pids(&self) -> Vec<u32> {
        self.agents.iter().map(|agent| agent.pid).collect()
    }

    /// The name of the agent whose process is `pid`.
    pub fn agent_with(&self, pid: u32) -> &str {
        let agent = self.agents.iter().find(|agent| agent.pid == pid);
        &agent.unwrap_or_else(|| panic!("no agent of dev is process {pid}")).name
    }

    /// `kill -9`.
    pub fn kill(&self, name: &str) {
        signal(self.agent(name).pid, Signal::KILL);
    }

    /// SIGSTOP: the agent's sockets stay open and nothing moves. Returns once it stands still.
    pub async fn freeze(&self, name: &str) {
        let pid = self.agent(name).pid;
        signal(pid, Signal::STOP);
        wait_until(&format!("{name} stands still"), STILL_WITHIN, async || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("State:\tT").then_some(())
        })
        .await;
    }

    /// SIGCONT.
    pub fn thaw(&self, name: &str) {
        signal(self.agent(name).pid, Signal::CONT);
    }

    /// Starts a killed agent again, as its operator would: `postern-agent run --data-dir DIR`.
    /// It runs until the answer is dropped.
    pub fn restart(&mut self, name: &str) -> Process {
        let mut command = Command::new(program("postern-agent"));
        command.arg("run").arg("--data-dir").arg(&self.agent(name).data_dir);
        self.restarts += 1;
        let log = self.folder.join(&format!("agent-{name}-{}.log", self.restarts));
        let process = Process::spawn(Launch { name, command, log, stop: Stop::Term, user: None });
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.name == name) {
            agent.pid = process.pid();
        }
        process
    }

    /// Ends dev with SIGTERM, as Ctrl-C would, and waits until it is gone.
    pub fn stop(&mut self) {
        self.process.stop();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // A frozen agent would keep dev waiting for it.
        for agent in &self.agents {
            signal(agent.pid, Signal::CONT);
        }
    }
}
