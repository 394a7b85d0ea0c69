//! Central as an operator runs it: by its own config file, with the state in a folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Launch, signal};
use crate::{Api, Folder, Process, Stop, port, program, wait_until};

const START_WITHIN: Duration = Duration::from_secs(30);

/// A running `postern-central serve`, seen by an administrator of one of its Environments. It runs
/// until the last of its clones is gone.
#[derive(Clone)]
pub struct Central {
    api: Api,
    token_file: PathBuf,
    ca_cert: PathBuf,
    admin: SocketAddr,
    tunnel: SocketAddr,
    running: Arc<Running>,
}

struct Running {
    process: Process,
    // Last, so that it outlives the process that writes into it.
    folder: Folder,
}

impl Central {
    /// Starts it and signs in as its first administrator.
    pub async fn start() -> Self {
        Self::start_with(&["default"], "").await
    }

    /// The same with these Environments, and with `settings` appended to its file, whose last section
    /// is `[tunnel]`. Answers with the first Environment's administrator.
    pub async fn start_with(environments: &[&str], settings: &str) -> Self {
        Self::start_on(Folder::new("central"), environments, settings).await
    }

    /// The same in a folder whose `data` may hold records already.
    pub async fn start_on(folder: Folder, environments: &[&str], settings: &str) -> Self {
        Self::start_at(port::free(), folder, environments, settings).await
    }

    /// The same at an admin address that others know already; see [`port::free`].
    pub async fn start_at(admin: SocketAddr, folder: Folder, environments: &[&str], settings: &str) -> Self {
        let tunnel = port::free();
        let data_dir = folder.join("data");
        let config = Self::config(&data_dir, admin, tunnel);
        let config =
            folder.write("central.toml", format!("environments = {environments:?}\n{config}{settings}"));
        let mut command = Command::new(program("postern-central"));
        command.arg("serve").arg("--config").arg(config);
        let log = folder.join("central.log");
        let launch = Launch { name: "postern-central", command, log, stop: Stop::Term, user: None };
        let mut process = Process::spawn(launch);
        // What an operator finds after the first start.
        let (token_file, ca_cert) = (data_dir.join("admin.token"), data_dir.join("ca.pem"));
        process
            .until_ready(START_WITHIN, async || {
                token_file.exists() && ca_cert.exists() && tokio::net::TcpStream::connect(admin).await.is_ok()
            })
            .await;
        let api = sign_in(admin, &ca_cert, &token_file);
        let running = Arc::new(Running { process, folder });
        Self { api, token_file, ca_cert, admin, tunnel, running }
    }

    /// The same central, seen by the first administrator of another of its Environments.
    pub fn as_seen_in(&self, environment: &str) -> Self {
        let token_file = self.data_dir().join(format!("admin.{environment}.token"));
        let api = sign_in(self.admin, &self.ca_cert, &token_file);
        Self { api, token_file, ..self.clone() }
    }

    /// Where it keeps its state.
    pub fn data_dir(&self) -> PathBuf {
        self.running.folder.join("data")
    }

    /// The address of its API and its pages.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn pid(&self) -> u32 {
        self.running.process.pid()
    }

    /// The file of the first administrator's token.
    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// Tells it to stop, as its operator would, and does not wait.
    pub fn stop(&self) {
        signal(self.running.process.pid(), Signal::TERM);
    }

    /// The last lines it printed.
    pub fn log_tail(&self) -> String {
        self.running.process.log_tail()
    }

    /// What central's file says at least.
    pub fn config(data_dir: &Path, admin: SocketAddr, tunnel: SocketAddr) -> String {
        format!(
            "data_dir = \"{}\"\n\n[admin]\nlisten = \"{admin}\"\npublic_url = \"https://{admin}\"\n\n[tunnel]\nlisten = \"{tunnel}\"\n",
            data_dir.display(),
        )
    }

    /// The REST API, with every right.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Whom everybody who connects must trust.
    pub fn ca_cert(&self) -> &Path {
        &self.ca_cert
    }

    /// Where agents come in.
    pub fn tunnel(&self) -> SocketAddr {
        self.tunnel
    }

    /// The file of a new one-time token; `wanted` is the request for it, for instance `{"name":…}`.
    pub async fn enrolment_token(&self, wanted: Value) -> PathBuf {
        let answer = self.api.post("/enrollment-tokens", wanted).await;
        let field = |name: &str| {
            answer[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name} is missing in an enrolment token's answer"))
        };
        self.running.folder.write_private(&format!("{}.enrolment", field("id")), field("token"))
    }

    /// The administrator's command line, signed in.
    pub fn posternctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("posternctl"));
        command.args(["--server", &format!("https://{}", self.admin)]);
        command.arg("--token-file").arg(&self.token_file).arg("--ca-cert").arg(&self.ca_cert);
        command.args(arguments);
        command
    }

    /// Waits until the agent `name` has a control connection.
    pub async fn until_connected(&self, name: &str, limit: Duration) {
        wait_until(&format!("{name} is connected"), limit, async || {
            let all = self.api.process_servers().await;
            all.iter().any(|one| one.name == name && one.connected).then_some(())
        })
        .await;
    }
}

fn sign_in(admin: SocketAddr, ca_cert: &Path, token_file: &Path) -> Api {
    let token = std::fs::read_to_string(token_file)
        .unwrap_or_else(|error| panic!("{} could not be read: {error}", token_file.display()));
    Api::new(&format!("https://{admin}"), ca_cert, token.trim())
}
