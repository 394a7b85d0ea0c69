//! Central and agents' hosts, set up one step at a time: for scenarios about the steps themselves
//! (marking, founding, leaving, losing one's state), where [`Site`](crate::Site) would do too much at once.

mod expire;
mod look;
mod place;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::process::{Launch, run, signal};
use crate::{Api, Folder, Process, SmallDisk, Stop, port, program, wait_until};

pub use look::{Member, Shown, Switch};
pub use place::Place;

const START_WITHIN: Duration = Duration::from_secs(30);
/// Elections take half a second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Central's folder, beside its agents'.
const CENTRAL: &str = "central";

/// A destination may be anywhere on this machine.
const ALLOW_TOML: &str = "[[allow]]\nhost = \"127.0.0.0/8\"\nports = \"*\"\n\n";
const PEERS_TOML: &str = "[peers]\nlisten = \"127.0.0.1:0\"\n";

/// Central by `postern-central serve`, and any number of agents that were enrolled.
pub struct Hosts {
    api: Api,
    admin: SocketAddr,
    tunnel: SocketAddr,
    /// The running agents.
    agents: BTreeMap<String, Process>,
    central: Option<Process>,
    /// What an agent, or central, is started through from its next start on: a command that becomes the program.
    through: BTreeMap<String, Vec<String>>,
    /// Agents on hosts of their own; the others are on this one.
    places: BTreeMap<String, Place>,
    /// By whose state lies on them; after the processes, which must have let go of them.
    disks: BTreeMap<String, SmallDisk>,
    // Last, so that it outlives the processes that write into it.
    folder: Folder,
}

impl Hosts {
    /// Central alone, with `settings` appended to its configuration.
    pub async fn central(settings: &str) -> Self {
        Self::start_on(Folder::new("hosts"), BTreeMap::new(), loopback(), settings).await
    }

    /// Central alone, listening for agents at `tunnel`, which they will dial from these places.
    pub async fn central_across(tunnel: SocketAddr, places: BTreeMap<String, Place>, settings: &str) -> Self {
        let hosts = Self::start_on(Folder::new("hosts"), BTreeMap::new(), tunnel, settings).await;
        Self { places, ..hosts }
    }

    /// The same, with central's state on a [`SmallDisk`].
    pub async fn central_on_a_small_disk(settings: &str) -> Self {
        let folder = Folder::new("hosts");
        let disk = SmallDisk::over(&folder.make(CENTRAL));
        Self::start_on(folder, BTreeMap::from([(CENTRAL.to_owned(), disk)]), loopback(), settings).await
    }

    async fn start_on(
        folder: Folder,
        disks: BTreeMap<String, SmallDisk>,
        tunnel: SocketAddr,
        settings: &str,
    ) -> Self {
        let admin = port::free();
        let config = format!(
            "data_dir = \"{}\"\n\n[admin]\nlisten = \"{admin}\"\n\
             public_url = \"https://{admin}\"\n\n[tunnel]\nlisten = \"{tunnel}\"\n\
             public_url = \"https://{tunnel}\"\n\n{settings}",
            folder.join("central").display(),
        );
        folder.write("central.toml", config);
        let central = start_central(&folder, &[]);
        let token = folder.join("central/admin.token");
        let token = wait_until("central has written its first token", START_WITHIN, async || {
            let token = fs::read_to_string(&token).ok()?;
            (!token.trim().is_empty()).then(|| token.trim().to_owned())
        })
        .await;
        until_listening(admin).await;
        let api = Api::new(&format!("https://{admin}"), &folder.join("central/ca.pem"), &token);
        let (agents, places, through) = Default::default();
        Self { api, admin, tunnel, agents, central: Some(central), through, places, disks, folder }
    }

    /// A gateway of these agents, up, each of them voting, and the first one active.
    pub async fn up(names: &[&str], settings: &str) -> Self {
        let mut hosts = Self::central(settings).await;
        hosts.form(names).await;
        hosts
    }

    /// Makes a gateway of these agents, none of them enrolled yet: up, each of them voting, and the
    /// first one active.
    pub async fn form(&mut self, names: &[&str]) {
        for name in names {
            self.enrol(name).await;
            self.mark(name, true).await;
        }
        self.restart(names[0]).await;
        self.until_active(names[0]).await;
        let witness = names.len().is_multiple_of(2).then_some("witness");
        self.until_group_is(&names.iter().copied().chain(witness).collect::<Vec<_>>()).await;
    }

    /// The REST API, with every right.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Where administrators come in.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where agents come in: central's public address.
    pub fn tunnel(&self) -> SocketAddr {
        self.tunnel
    }

    /// The state of the agent `name`, which is not enrolled yet, will lie on a [`SmallDisk`].
    pub fn give_small_disk(&mut self, name: &str) {
        self.disks.insert(name.to_owned(), SmallDisk::over(&self.folder.make(name)));
    }

    /// The disk of an agent that was given one.
    pub fn disk(&self, name: &str) -> &SmallDisk {
        self.disks.get(name).unwrap_or_else(|| panic!("{name} has no small disk"))
    }

    /// Central's, where it has one.
    pub fn central_disk(&self) -> &SmallDisk {
        self.disk(CENTRAL)
    }

    /// Enrols an agent with a token made for this name, and starts it. Returns once central hears it.
    pub async fn enrol(&mut self, name: &str) {
        let answer = self.api.post("/enrollment-tokens", json!({"name": name})).await;
        let token = answer["token"].as_str().unwrap_or_else(|| panic!("a token is missing in {answer}"));
        let token_file = self.folder.write_private(&format!("{name}.token"), token);
        let settings = match self.places.get(name) {
            Some(place) => place.agent_toml(),
            None => format!("{ALLOW_TOML}{PEERS_TOML}"),
        };
        self.folder.write(&format!("{name}.toml"), settings);
        let mut enroll = self.agent_command(name);
        enroll.args(["enroll", "--central", &format!("https://{}", self.tunnel), "--name", name]);
        enroll.arg("--token-file").arg(token_file).arg("--ca-cert").arg(self.folder.join("central/ca.pem"));
        enroll.arg("--data-dir").arg(self.data_dir(name));
        run(&enroll, None);
        self.start(name);
        self.until_connected(name).await;
    }

    /// Starts an enrolled agent that does not run.
    pub fn start(&mut self, name: &str) {
        let mut command = through(self.starts_through(name), self.agent_command(name));
        command.arg("run").arg("--data-dir").arg(self.data_dir(name));
        command.arg("--config").arg(self.folder.join(&format!("{name}.toml")));
        let log = self.folder.join(&format!("{name}.log"));
        let process = Process::spawn(Launch { name, command, log, stop: Stop::Term, user: None });
        let before = self.agents.insert(name.to_owned(), process);
        assert!(before.is_none(), "{name} runs already");
    }

    /// From its next start on an agent, or `central`, is started through `command`, which becomes the program:
    /// `prlimit`, `faketime`.
    pub fn start_through<S: ToString>(&mut self, name: &str, command: &[S]) {
        self.through.insert(name.to_owned(), command.iter().map(S::to_string).collect());
    }

    /// Empties the allow-list of an agent, as its site may, and starts it again.
    pub async fn forbid_everything(&mut self, name: &str) {
        self.stop(name);
        self.folder.write(&format!("{name}.toml"), PEERS_TOML);
        self.start(name);
        self.until_connected(name).await;
    }

    fn starts_through(&self, name: &str) -> &[String] {
        self.through.get(name).map_or(&[], Vec::as_slice)
    }

    /// The agent's program, on its host.
    fn agent_command(&self, name: &str) -> Command {
        match self.places.get(name) {
            Some(place) => place.command(&program("postern-agent")),
            None => Command::new(program("postern-agent")),
        }
    }

    /// Stops an agent as its operator would.
    pub fn stop(&mut self, name: &str) {
        self.take(name).stop();
    }

    /// Asks an agent to end, as `systemctl stop` does, and does not wait for it.
    pub fn terminate(&self, name: &str) {
        signal(self.pid(name), Signal::TERM);
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        kill(self.take(name));
    }

    /// `kill -9` of central.
    pub fn kill_central(&mut self) {
        kill(self.central.take().expect("central runs"));
    }

    /// Stops central as its operator would.
    pub fn stop_central(&mut self) {
        self.central.take().expect("central runs").stop();
    }

    /// Has an agent ended by itself? Answers with how, and with what it said last.
    pub fn ended(&mut self, name: &str) -> Option<(ExitStatus, String)> {
        let mut process = self.take(name);
        match process.ended() {
            Some(ended) => Some((ended, process.log_tail())),
            None => {
                self.agents.insert(name.to_owned(), process);
                None
            }
        }
    }

    /// Has central ended by itself? Answers with how, and with what it said last.
    pub fn central_ended(&mut self) -> Option<(ExitStatus, String)> {
        let mut central = self.central.take().expect("central runs");
        match central.ended() {
            Some(ended) => Some((ended, central.log_tail())),
            None => {
                self.central = Some(central);
                None
            }
        }
    }

    /// Starts central again on what it left behind.
    pub async fn start_central(&mut self) {
        self.central = Some(start_central(&self.folder, self.starts_through(CENTRAL)));
        until_listening(self.admin).await;
    }

    /// Central's process id.
    pub fn central_pid(&self) -> u32 {
        self.central.as_ref().expect("central runs").pid()
    }

    /// An agent's process id.
    pub fn pid(&self, name: &str) -> u32 {
        self.agents.get(name).unwrap_or_else(|| panic!("{name} does not run")).pid()
    }

    /// The process ids of all agents that run.
    pub fn pids(&self) -> Vec<u32> {
        self.agents.values().map(Process::pid).collect()
    }

    /// Where an agent keeps its state.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Appends to the configuration of an agent that does not run.
    pub fn configure(&self, name: &str, settings: &str) {
        self.folder.write(&format!("{name}.toml"), format!("{ALLOW_TOML}{PEERS_TOML}\n{settings}"));
    }

    /// Writes a file into an agent's folder that only its owner may read.
    pub fn write_private(&self, name: &str, file: &str, content: &str) {
        self.folder.write_private(&format!("{name}/{file}"), content);
    }

    /// What an agent has logged since it was started.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(&format!("{name}.log"))).unwrap_or_default()
    }

    /// From now on this agent, and no other, dials a central that is not there.
    pub fn lose_central(&mut self, name: &str) {
        self.stop(name);
        let path = self.data_dir(name).join("identity/identity.json");
        let record = fs::read_to_string(&path).expect("an enrolled agent has an identity");
        let lost = record.replace(&self.tunnel.to_string(), &port::free().to_string());
        assert_ne!(lost, record, "the identity names central's address");
        fs::write(&path, lost).expect("the identity can be written");
        self.start(name);
    }

    /// Runs `postern-agent` on an agent's folder and with its configuration; answers with what it printed.
    ///
    /// # Panics
    /// When it ends with another exit code than 0.
    pub fn postern_agent(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program("postern-agent"));
        command.args(arguments).arg("--data-dir").arg(self.data_dir(name));
        command.arg("--config").arg(self.folder.join(&format!("{name}.toml")));
        run(&command, None)
    }

    /// Runs `postern-central` on central's host with its configuration; answers with what it printed.
    ///
    /// # Panics
    /// When it ends with another exit code than 0.
    pub fn postern_central(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program("postern-central"));
        command.args(arguments).arg("--config").arg(self.folder.join("central.toml"));
        run(&command, None)
    }

    /// Deletes the records of the gateway group of an agent that does not run.
    pub fn wipe_raft(&self, name: &str) {
        self.remove(name, "raft");
    }

    /// Keeps what an agent which does not run has on its disk, for [`Hosts::put_back`].
    pub fn back_up(&self, name: &str) {
        assert!(!self.agents.contains_key(name), "{name} still runs");
        run(Command::new("cp").arg("-a").arg(self.data_dir(name)).arg(self.backup(name)), None);
    }

    /// Puts the disk of an agent which does not run back to what was kept of it.
    pub fn put_back(&self, name: &str) {
        self.remove(name, "");
        fs::rename(self.backup(name), self.data_dir(name)).expect("it was kept");
    }

    fn backup(&self, name: &str) -> PathBuf {
        self.folder.join(&format!("{name}.backup"))
    }

    /// Deletes all that an agent which does not run had, its identity too.
    pub fn wipe(&self, name: &str) {
        self.remove(name, "");
    }

    /// Allows or forbids the Process Server to become the Secure Gateway.
    pub async fn mark(&self, name: &str, on: bool) {
        self.api.patch(&format!("/process-servers/{name}"), json!({"candidate": on})).await;
    }

    /// Has central restart the Process Server.
    pub async fn restart(&self, name: &str) {
        self.api.post(&format!("/process-servers/{name}/restart"), json!({})).await;
    }

    /// Creates a destination; answers with where it listens on the cloud side.
    pub async fn destination(&self, name: &str, target: SocketAddr) -> SocketAddr {
        let listen = port::free();
        let body = json!({
            "name": name, "type": "tcp", "url": format!("tcp://{target}"), "direction": "to_site",
            "listen": listen.to_string(), "enabled": true,
        });
        self.api.post("/destinations", body).await;
        listen
    }

    /// Runs `posternctl` as the first administrator; answers with what it printed.
    ///
    /// # Panics
    /// When it ends with another exit code than 0.
    pub fn posternctl(&self, arguments: &[&str]) -> String {
        run(&self.posternctl_command(arguments), None)
    }

    /// The same, not run yet: for what is refused.
    pub fn posternctl_command(&self, arguments: &[&str]) -> Command {
        self.posternctl_as("admin.token", arguments)
    }

    /// The same as the operator of central's machine.
    pub fn operators_posternctl(&self, arguments: &[&str]) -> Command {
        self.posternctl_as("operator.token", arguments)
    }

    fn posternctl_as(&self, token_file: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("posternctl"));
        command.args(arguments).args(["--server", &format!("https://{}", self.admin)]);
        command.arg("--token-file").arg(self.folder.join(CENTRAL).join(token_file));
        command.arg("--ca-cert").arg(self.folder.join("central/ca.pem"));
        command
    }

    /// Waits until central hears an agent on its control websocket.
    pub async fn until_connected(&self, name: &str) {
        wait_until(&format!("{name} is connected"), START_WITHIN, async || {
            let all = self.api.process_servers().await;
            all.iter().any(|one| one.name == name && one.connected).then_some(())
        })
        .await;
    }

    fn take(&mut self, name: &str) -> Process {
        self.agents.remove(name).unwrap_or_else(|| panic!("{name} does not run"))
    }

    fn remove(&self, name: &str, what: &str) {
        assert!(!self.agents.contains_key(name), "{name} still runs");
        let path = self.data_dir(name).join(what);
        fs::remove_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The same command, started through another.
fn through(by: &[String], command: Command) -> Command {
    let [first, rest @ ..] = by else { return command };
    let mut outer = Command::new(first);
    outer.args(rest).arg(command.get_program()).args(command.get_args());
    outer
}

fn start_central(folder: &Folder, by: &[String]) -> Process {
    let mut command = through(by, Command::new(program("postern-central")));
    command.arg("serve").arg("--config").arg(folder.join("central.toml"));
    let log = folder.join("central.log");
    Process::spawn(Launch { name: "postern-central", command, log, stop: Stop::Term, user: None })
}

fn loopback() -> SocketAddr {
    port::free()
}

async fn until_listening(admin: SocketAddr) {
    wait_until("central listens for administrators", START_WITHIN, async || {
        tokio::net::TcpStream::connect(admin).await.ok().map(drop)
    })
    .await;
}

fn kill(mut process: Process) {
    signal(process.pid(), Signal::KILL);
    // It only waits for the end, which has come.
    process.stop();
}
