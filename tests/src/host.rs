//! One host at the site, with its Platform Agent's folder and settings.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::process::{Launch, run};
use crate::{Attempt, Central, Folder, Process, Stop, port, program};

/// A host with an agent, enrolled or not, running or not.
pub struct Host {
    name: String,
    config: PathBuf,
    peers: SocketAddr,
    folder: Folder,
}

impl Host {
    /// A host whose agent may reach `allowed`, pairs of host and port, and nothing else.
    pub fn new(name: &str, allowed: &[(&str, u16)]) -> Self {
        Self::in_folder(Folder::new("host"), name, allowed)
    }

    /// The same, enrolled; its agent will dial central at `central_at`.
    pub async fn enrolled(
        name: &str,
        allowed: &[(&str, u16)],
        central: &Central,
        central_at: SocketAddr,
    ) -> Self {
        let host = Self::new(name, allowed);
        let token = central.enrolment_token(json!({ "name": name })).await;
        // Not `run`: the way to central may be a Link that this thread has to carry.
        let attempt = Attempt::at(host.enroll(central_at, &token, central.ca_cert())).await;
        assert_eq!(attempt.code, Some(0), "{name} could not enrol: {attempt:?}");
        host
    }

    /// A host whose disk is a copy of this one's, taken now, with an address of its own.
    pub fn cloned(&self) -> Self {
        let folder = Folder::new("clone");
        run(Command::new("cp").arg("-a").arg(self.data_dir()).arg(folder.join("data")), None);
        Self::in_folder(folder, &self.name, &[])
    }

    fn in_folder(folder: Folder, name: &str, allowed: &[(&str, u16)]) -> Self {
        let peers = port::free();
        let config = folder.write("agent.toml", agent_toml(allowed, peers));
        Self { name: name.to_owned(), config, peers, folder }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the other agents reach this one.
    pub fn peers(&self) -> SocketAddr {
        self.peers
    }

    /// Its settings' file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// `postern-agent enroll`, under this host's name; `central_at` is `HOST:PORT`.
    pub fn enroll(&self, central_at: impl Display, token_file: &Path, ca_cert: &Path) -> Command {
        self.enroll_as(&self.name, central_at, token_file, ca_cert)
    }

    /// `postern-agent enroll` under another name.
    pub fn enroll_as(
        &self,
        name: &str,
        central_at: impl Display,
        token_file: &Path,
        ca_cert: &Path,
    ) -> Command {
        let mut command = Command::new(program("postern-agent"));
        command.args(["enroll", "--central", &format!("https://{central_at}"), "--name", name]);
        command.arg("--token-file").arg(token_file).arg("--ca-cert").arg(ca_cert);
        command.arg("--data-dir").arg(self.data_dir());
        command
    }

    /// Adds whole sections to its settings, for its next start.
    pub fn set(&self, sections: &str) {
        let text = std::fs::read_to_string(&self.config).expect("the host's own file can be read");
        std::fs::write(&self.config, format!("{text}\n{sections}")).expect("and written");
    }

    /// `postern-agent run`.
    pub fn run_command(&self) -> Command {
        let mut command = Command::new(program("postern-agent"));
        command.arg("run").arg("--data-dir").arg(self.data_dir()).arg("--config").arg(&self.config);
        command
    }

    /// Starts the agent.
    pub fn start(&self) -> Process {
        self.start_as(self.run_command())
    }

    /// Starts the agent by another command than [`Host::run_command`].
    pub fn start_as(&self, command: Command) -> Process {
        let log = self.folder.join("agent.log");
        Process::spawn(Launch { name: &self.name, command, log, stop: Stop::Term, user: None })
    }
}

/// An agent reaches nothing until its own host's file says what.
fn agent_toml(allowed: &[(&str, u16)], peers: SocketAddr) -> String {
    let mut text = String::new();
    for (host, port) in allowed {
        // Writing into a String cannot fail.
        let _ = write!(text, "[[allow]]\nhost = \"{host}\"\nports = {port}\n\n");
    }
    text + &format!("[dial]\ntimeout = \"3s\"\n\n[peers]\nlisten = \"{peers}\"\nadvertise = [\"{peers}\"]\n")
}
