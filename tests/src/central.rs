//! Central as an operator runs it: by its own config file, with the state in a folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::Launch;
use crate::{Api, Folder, Process, Stop, port, program, wait_until};

const START_WITHIN: Duration = Duration::from_secs(30);

/// A running `postern-central serve`.
pub struct Central {
    api: Api,
    token_file: PathBuf,
    ca_cert: PathBuf,
    admin: SocketAddr,
    tunnel: SocketAddr,
    _process: Process,
    // Last, so that it outlives the process that writes into it.
    folder: Folder,
}

impl Central {
    /// Starts it and signs in as its first administrator.
    pub async fn start() -> Self {
        let folder = Folder::new("central");
        let (admin, tunnel) = (port::free(), port::free());
        let data_dir = folder.join("data");
        let config = folder.write("central.toml", Self::config(&data_dir, admin, tunnel));
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
        let token = std::fs::read_to_string(&token_file)
            .unwrap_or_else(|error| panic!("{} could not be read: {error}", token_file.display()));
        let api = Api::new(&format!("https://{admin}"), &ca_cert, token.trim());
        Self { api, token_file, ca_cert, admin, tunnel, _process: process, folder }
    }

    /// What central's file says at least.
    pub fn config(data_dir: &Path, admin: SocketAddr, tunnel: SocketAddr) -> String {
        format!(
            "data_dir = \"{}\"\n\n[admin]\nlisten = \"{admin}\"\n\n[tunnel]\nlisten = \"{tunnel}\"\n",
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
        self.folder.write_private(&format!("{}.enrolment", field("id")), field("token"))
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
