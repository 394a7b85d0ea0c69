//! What the agent is doing, told to whoever stands at the host: `postern-agent status`.
//!
//! ```text
//!   app ──► watch<Snapshot> ──► serve, on DATA_DIR/agent.sock ──► command ──► text or JSON
//! ```
//!
//! One question, one answer, no commands: nothing can be changed through this door, and only the
//! agent's own user may open it.

mod door;
mod http;
mod text;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use proto::{
    AgentId, BootId, EnvironmentName, Epoch, Fingerprint, Name, NodeId,
    control::{AgentReport, RoleName},
    driver::TunnelStats,
    hello::Seat,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use traces::Traces;
use tracing::warn;

use crate::{config::Config, dialer::Dialer, identity::Identity};

/// Askers served at once; more wait in the socket's queue.
const ASKERS_MAX: usize = 8;
/// How long an asker may take to read its answer, and the client to get it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything `postern-agent status` shows. Times are RFC 3339, UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub name: Name,
    pub environment: EnvironmentName,
    pub agent: AgentId,
    /// Of this agent's key, as `peers.approved` wants it.
    pub fingerprint: Fingerprint,
    pub version: String,
    pub pid: u32,
    pub boot: BootId,
    pub started: String,
    pub role: RoleName,
    pub seat: Option<Seat>,
    pub leader: Option<NodeId>,
    /// The epoch under which this agent is, or drains as, the active.
    pub epoch: Option<Epoch>,
    /// How this agent's node of the group runs; `None` without a seat.
    pub raft: Option<RaftShown>,
    pub tunnel: TunnelShown,
    pub central: CentralShown,
    pub certificate: CertificateShown,
    pub allow_list: AllowListShown,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RaftShown {
    /// The timings in force.
    pub timings: group::Timings,
    /// Of any member's path, as far as it is known: what the timings are chosen by.
    pub worst_round_trip_ms: Option<f64>,
}

impl From<group::Status> for RaftShown {
    fn from(status: group::Status) -> Self {
        Self {
            timings: status.timings,
            worst_round_trip_ms: status.worst_round_trip.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TunnelShown {
    pub up: bool,
    pub streams: usize,
    /// Its websockets that are up.
    #[serde(default)]
    pub lanes: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub round_trip_ms: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CentralShown {
    pub url: String,
    /// Through which it is reached; `None`: directly.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Whether the control connection stands.
    pub connected: bool,
    /// Since when it is so.
    pub since: String,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateShown {
    pub expires: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllowListShown {
    pub entries: usize,
    /// `None` when the list stands in the configuration file.
    pub path: Option<PathBuf>,
}

impl Snapshot {
    /// An agent that has just started.
    pub fn starting(identity: &Identity, boot: BootId, dialer: &Dialer) -> Self {
        let now = rfc3339(SystemTime::now());
        Self {
            name: identity.name.clone(),
            environment: identity.environment.clone(),
            agent: identity.agent,
            fingerprint: identity.fingerprint,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            boot,
            started: now.clone(),
            role: RoleName::Unseated,
            seat: None,
            leader: None,
            epoch: None,
            raft: None,
            tunnel: TunnelShown::default(),
            central: CentralShown {
                url: identity.central.to_string(),
                proxy: identity.proxy.as_ref().map(ToString::to_string),
                connected: false,
                since: now,
                last_error: None,
            },
            certificate: CertificateShown { expires: rfc3339(identity.not_after) },
            allow_list: AllowListShown { entries: dialer.allow_list().len(), path: dialer.allow_list_path() },
        }
    }

    /// Takes over what changed.
    pub fn update(
        &mut self,
        report: &AgentReport,
        active: Option<Epoch>,
        control_up: bool,
        tunnel_up: bool,
        tunnel: Option<&TunnelStats>,
        lanes: usize,
    ) {
        self.role = report.role;
        self.seat = report.seat;
        self.leader = report.leader;
        self.epoch = active;
        if self.central.connected != control_up {
            self.central.since = rfc3339(SystemTime::now());
        }
        self.central.connected = control_up;
        self.central.last_error.clone_from(&report.last_error);
        self.tunnel = TunnelShown {
            up: tunnel_up,
            streams: tunnel.map_or(0, |t| t.streams),
            lanes,
            bytes_in: tunnel.map_or(0, |t| t.bytes_in),
            bytes_out: tunnel.map_or(0, |t| t.bytes_out),
            round_trip_ms: tunnel.and_then(|t| t.round_trip).map(|rtt| rtt.as_secs_f64() * 1_000.0),
        };
    }

    /// Takes over a renewed certificate and the allow-list as its file stands now.
    pub fn refresh(&mut self, identity: &Identity, dialer: &Dialer) {
        self.certificate.expires = rfc3339(identity.not_after);
        self.allow_list.entries = dialer.allow_list().len();
    }
}

/// Why the status cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the status socket {path} cannot be opened; its whole path may have about 100 characters")]
    Socket { path: PathBuf, source: io::Error },
    #[error("the status port {address} cannot be opened; change status.listen or stop what uses it")]
    Port { address: std::net::SocketAddr, source: io::Error },
}

/// Opens the door. The future answers askers and never ends; dropping it at any point is safe.
pub fn serve(
    config: &Config,
    seen: watch::Receiver<Snapshot>,
    traces: Traces,
) -> Result<impl Future<Output = ()> + Send + use<>, ServeError> {
    let path = config.status_socket();
    let listener = door::Listener::open(&path).map_err(|source| ServeError::Socket { path, source })?;
    let port = config.status_listen.map(|address| http::open(address, seen.clone(), traces)).transpose()?;
    Ok(async move {
        match port {
            Some(port) => drop(tokio::join!(answer_askers(listener, seen), port)),
            None => answer_askers(listener, seen).await,
        }
    })
}

async fn answer_askers(listener: door::Listener, seen: watch::Receiver<Snapshot>) {
    let places = Arc::new(Semaphore::new(ASKERS_MAX));
    let mut answers = JoinSet::new();
    loop {
        while answers.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(asker) => {
                let seen = seen.clone();
                answers.spawn(async move {
                    // Whoever hung up or dawdles gets nothing; that is not our worry.
                    let _ = timeout(ANSWER_TIMEOUT, answer(asker, seen)).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "Cannot answer on the status socket at the moment");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn answer(asker: door::Asker, seen: watch::Receiver<Snapshot>) -> io::Result<()> {
    let mut asker = asker.admitted().await?;
    let answer = serde_json::to_vec(&*seen.borrow())?;
    asker.write_all(&answer).await?;
    asker.shutdown().await
}

/// How `postern-agent status` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Text,
    Json,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("no agent is running in {data_dir}; start it with 'postern-agent run --data-dir {data_dir}'")]
    NotRunning { data_dir: PathBuf },
    #[error("the agent in {data_dir} cannot be asked")]
    Ask { data_dir: PathBuf, source: io::Error },
    #[error("the agent in {data_dir} did not answer within {ANSWER_TIMEOUT:?}; it hangs or is stopped")]
    NoAnswer { data_dir: PathBuf },
    #[error("the answer of the agent in {data_dir} was not understood; is it of another version?")]
    Answer { data_dir: PathBuf, source: serde_json::Error },
}

impl StatusError {
    /// 3: nobody answered; 1: something else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } | Self::NoAnswer { .. } => 3,
            Self::Ask { .. } | Self::Answer { .. } => 1,
        }
    }
}

/// Asks the agent that runs in this folder.
pub async fn ask(data_dir: &Path) -> Result<Snapshot, StatusError> {
    let data_dir = data_dir.to_owned();
    let path = data_dir.join(SOCKET_NAME);
    match timeout(ANSWER_TIMEOUT, door::ask(&path)).await {
        Err(_) => Err(StatusError::NoAnswer { data_dir }),
        // A socket file outlives a killed agent; nobody listens on it.
        Ok(Err(error))
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
        {
            Err(StatusError::NotRunning { data_dir })
        }
        Ok(Err(source)) => Err(StatusError::Ask { data_dir, source }),
        Ok(Ok(answer)) => {
            serde_json::from_slice(&answer).map_err(|source| StatusError::Answer { data_dir, source })
        }
    }
}

/// `postern-agent status`: what to print.
pub async fn command(data_dir: &Path, output: Output) -> Result<String, StatusError> {
    let snapshot = ask(data_dir).await?;
    match output {
        Output::Text => Ok(text::render(&snapshot)),
        Output::Json => serde_json::to_string_pretty(&snapshot)
            .map_err(|source| StatusError::Answer { data_dir: data_dir.to_owned(), source }),
    }
}

/// The socket's name in the data directory; on Windows, of the file that says where to ask.
pub const SOCKET_NAME: &str = "agent.sock";

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::identity::test_ca::TestCa;

    #[tokio::test]
    async fn a_running_agent_tells_what_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::load(folder.path(), None).unwrap();
        let mut shown = snapshot(&config);
        let report = AgentReport {
            role: RoleName::Active,
            seat: Some(Seat { group: 2, node: NodeId(3) }),
            written: Some(41),
            forgetful: Vec::new(),
            leader: Some(NodeId(3)),
            leads: Some(true),
            last_error: None,
        };
        shown.update(&report, Some(Epoch { group: 2, claim: 17 }), true, true, None, 0);
        shown.raft = Some(RaftShown { timings: group::Timings::default(), worst_round_trip_ms: Some(12.34) });
        let (_tell, seen) = watch::channel(shown.clone());
        let serving = tokio::spawn(serve(&config, seen, Traces::default()).unwrap());

        assert_eq!(ask(folder.path()).await.unwrap(), shown);
        let text = command(folder.path(), Output::Text).await.unwrap();
        for words in [
            "gw in environment acme",
            "active",
            "epoch 2.17",
            "connected to https://localhost:443",
            "heartbeat 100 ms, election 300-600 ms, slowest path 12.3 ms",
        ] {
            assert!(text.contains(words), "{words:?} is not in:\n{text}");
        }
        serving.abort();
    }

    #[tokio::test]
    async fn without_an_agent_the_exit_code_is_three() {
        let folder = tempfile::tempdir().unwrap();
        let error = command(folder.path(), Output::Json).await.unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("postern-agent run"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_left_by_a_killed_agent_is_no_running_agent_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::load(folder.path(), None).unwrap();
        drop(door::Listener::open(&config.status_socket()).unwrap());
        assert_eq!(ask(folder.path()).await.unwrap_err().exit_code(), 3);

        let (_tell, seen) = watch::channel(snapshot(&config));
        let serving = tokio::spawn(serve(&config, seen, Traces::default()).unwrap());
        ask(folder.path()).await.unwrap();
        serving.abort();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_socket_is_for_this_user_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET_NAME);
        let _listener = door::Listener::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    pub(super) fn config(folder: &Path) -> Config {
        Config::load(folder, None).unwrap()
    }

    pub(super) fn snapshot(config: &Config) -> Snapshot {
        let identity = TestCa::new("acme").identity(AgentId::random());
        Snapshot::starting(&identity, BootId::random(), &Dialer::open(config).unwrap())
    }
}
