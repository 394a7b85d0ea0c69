//! Prometheus' Alertmanager, with one receiver that tells nobody.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::START_WITHIN;
use crate::{Folder, Process, Stop, needs, port, process::Launch};

const CONFIG: &str = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n";
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A running Alertmanager.
pub struct Alertmanager {
    addr: SocketAddr,
    _process: Process,
    // Last, so that it outlives the server that writes into it.
    _folder: Folder,
}

impl Alertmanager {
    /// Starts Alertmanager.
    pub async fn start() -> Self {
        let program = needs::command("prometheus-alertmanager", "prometheus-alertmanager");
        // It is asked without TLS; the client wants a provider all the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = Folder::new("alertmanager");
        let addr = port::free();
        let mut command = Command::new(program);
        command.arg("--config.file").arg(folder.write("config.yml", CONFIG));
        command.arg("--storage.path").arg(folder.make("data"));
        command.args(["--web.listen-address", &addr.to_string()]);
        // Alone: it would look for others of its kind in the network.
        command.args(["--cluster.listen-address", ""]);
        let log = folder.join("log");
        let mut process =
            Process::spawn(Launch { name: "alertmanager", command, log, stop: Stop::Term, user: None });
        process.until_ready(START_WITHIN, async || alerts(addr).await.is_ok()).await;
        Self { addr, _process: process, _folder: folder }
    }

    /// Where it takes alerts.
    pub fn url(&self) -> String {
        format!("http://{}/api/v2/alerts", self.addr)
    }

    /// The alerts that it takes for firing.
    pub async fn firing(&self) -> Vec<Value> {
        alerts(self.addr).await.expect("it is running")
    }
}

async fn alerts(addr: SocketAddr) -> reqwest::Result<Vec<Value>> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?;
    client.get(format!("http://{addr}/api/v2/alerts")).send().await?.error_for_status()?.json().await
}
