//! How a running agent is put together: what there is one of, who hears whom, and which parts run beside the loop.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use proto::{
    AgentId, BootId,
    control::{AgentMessage, CentralMessage, RaftReply},
    hello::{AgentHello, SystemInformation, Versions},
    trace::FEATURE_PROBE,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{App, AppError, Inputs, SETTINGS};
use crate::{
    alerts::Alerting,
    cluster::{self, AskPeers, Cluster},
    config::Config,
    control::{Control, ControlEvent, keep_connected},
    data_dir::DataDir,
    dialer::Dialer,
    identity::{Identity, renew},
    peer::{ClosedPeers, PeerHandler, PeerNet},
    probing::Probing,
    role::RoleMachine,
    status,
    tunnel::Surroundings,
};

/// Events of one kind that may wait for the loop. Central's messages are a few a second.
const EVENTS_MAX: usize = 256;
/// Calls of peers and of central that may be served at once.
const SERVED_MAX: usize = 64;

impl App {
    /// Opens everything; connects to nothing yet.
    pub async fn build(mut config: Config, data_dir: Arc<DataDir>) -> Result<Self, AppError> {
        let boot = BootId::random();
        let identity = Identity::load(&data_dir)?.through(config.proxy.take());
        let (identity, identity_seen) = watch::channel(Arc::new(identity));
        let dialer = Arc::new(Dialer::open(&config)?);
        config.traces.or_environment();
        let exporter = traces::Exporter::open(&config.traces, service(&identity_seen.borrow()))?;
        let (traces, exporter) = exporter.unzip();
        let traces = traces.unwrap_or_default();
        let (cluster_tx, cluster_rx) = mpsc::channel(EVENTS_MAX);
        let (tunnel_tx, tunnel_rx) = mpsc::channel(EVENTS_MAX);
        let (control_tx, control_rx) = mpsc::channel(EVENTS_MAX);
        let control = Control::default();
        let shared = Arc::new(cluster::Shared::default());

        let mut parts = JoinSet::new();
        let handler = Arc::new(ServePeers { shared: shared.clone() });
        let peers = PeerNet::listen(&config.peers, identity_seen.clone(), shared.entries(), handler).await?;
        dialer.protect(peers.local_addr().port());
        let peer_addrs = peers.advertised();
        let cluster = Cluster::open(
            data_dir.path(),
            identity_seen.clone(),
            control.clone(),
            peers.clone(),
            shared.clone(),
            config.peers.approved.clone(),
            cluster_tx,
        )
        .await?;

        let (hello_seat, seat_seen) = watch::channel(cluster.kept());
        let hello = move || AgentHello {
            versions: Versions::OURS,
            software: env!("CARGO_PKG_VERSION").into(),
            boot,
            seat: seat_seen.borrow().map(|kept| kept.seat),
            written: seat_seen.borrow().map(|kept| kept.written),
            peer_addrs: peer_addrs.clone(),
            unix_ms: unix_ms(),
            system: system_information(),
            features: vec![FEATURE_PROBE.to_owned()],
        };
        let snapshot = status::Snapshot::starting(&identity_seen.borrow(), boot, &dialer);
        let (shown, seen) = watch::channel(snapshot);
        let status_server = status::serve(&config, seen, traces.clone())?;

        let (inner_tx, inner_rx) = mpsc::channel(EVENTS_MAX);
        let link = keep_connected(control.clone(), identity_seen.clone(), hello, inner_tx);
        parts.spawn(async move {
            link.await;
            "keeps the control connection"
        });
        parts.spawn(hear_central(inner_rx, control_tx, shared.clone(), control.clone(), dialer.clone()));
        parts.spawn(watch_peers(peers.closed(), shared.clone()));
        let reach = watch::Sender::default();
        if let Some(settings) = config.alerts {
            let path = data_dir.join("alerts.state");
            let neighbours = Arc::new(AskPeers { peers: peers.clone(), shared: shared.clone() });
            let alerting =
                Alerting::open(settings, path.clone(), identity_seen.clone(), reach.subscribe(), neighbours)
                    .map_err(|source| AppError::Alerts { path, source })?;
            parts.spawn(async move {
                alerting.run().await;
                "tells of central's absence"
            });
        }
        let renewing = renew::keep_renewed(data_dir.clone(), identity);
        parts.spawn(async move {
            renewing.await;
            "renews the certificate"
        });
        parts.spawn(async move {
            status_server.await;
            "answers the status socket"
        });

        let (mut exporting, close_exporter) = (JoinSet::new(), CancellationToken::new());
        if let Some(exporter) = exporter {
            exporting.spawn(exporter.run(close_exporter.clone()));
        }

        Ok(Self {
            boot,
            role: RoleMachine::new(boot, SETTINGS.give_way_after(), Instant::now()),
            control,
            cluster,
            peers,
            shared,
            surroundings: Surroundings { identity: identity_seen, dialer, events: tunnel_tx, traces },
            settings: SETTINGS,
            control_up: false,
            central_heard_at: Instant::now(),
            tunnel_up: false,
            tunnel: None,
            draining: None,
            leaving: None,
            reported: None,
            last_error: None,
            shown,
            reach,
            inputs: Inputs { control: control_rx, cluster: cluster_rx, tunnel: tunnel_rx },
            claimed: mpsc::channel(4),
            hello_seat,
            parts,
            exporter: exporting,
            close_exporter,
            hand_overs: JoinSet::new(),
            errands: JoinSet::new(),
        })
    }
}

/// What central says, past the loop where it need not decide: Raft calls take the short way, as a decision must not delay
/// a heartbeat.
async fn hear_central(
    mut heard: mpsc::Receiver<ControlEvent>,
    decides: mpsc::Sender<ControlEvent>,
    shared: Arc<cluster::Shared>,
    control: Control,
    dialer: Arc<Dialer>,
) -> &'static str {
    let mut probing = Probing::new(dialer, control.clone());
    let mut serving = JoinSet::new();
    while let Some(event) = heard.recv().await {
        match event {
            ControlEvent::Message(CentralMessage::RaftCall(call)) => {
                while serving.try_join_next().is_some() {}
                if serving.len() < SERVED_MAX {
                    let (served, relay) = (shared.clone(), control.clone());
                    serving.spawn(async move {
                        let result = served.serve(call.group, call.from, call.to, &call.body).await;
                        relay.tell(AgentMessage::RaftReply(RaftReply { id: call.id, result }));
                    });
                }
            }
            ControlEvent::Message(CentralMessage::ProbeDestination(ask)) => probing.begin(ask),
            other => {
                if decides.send(other).await.is_err() {
                    break;
                }
            }
        }
    }
    "hears central"
}

/// A leader whose connection was closed is not waited for.
async fn watch_peers(mut closed: ClosedPeers, shared: Arc<cluster::Shared>) -> &'static str {
    while let Some(agent) = closed.recv().await {
        let entry = shared.entries().borrow().iter().find(|entry| entry.agent == agent).map(|e| e.node);
        if let (Some(node), Some(group)) = (entry, shared.group())
            && group.leadership().borrow().leader == Some(node)
        {
            group.leader_gone();
        }
    }
    "watches its peers"
}

/// Who speaks in its spans.
fn service(identity: &Identity) -> traces::Service {
    let attributes = vec![
        ("service.instance.id", identity.agent.to_string()),
        ("postern.process_server", identity.name.to_string()),
        ("postern.environment", identity.environment.to_string()),
    ];
    traces::Service { name: "postern-agent", version: env!("CARGO_PKG_VERSION"), attributes }
}

/// Serves what peers send on their direct connections.
struct ServePeers {
    shared: Arc<cluster::Shared>,
}

#[async_trait::async_trait]
impl PeerHandler for ServePeers {
    async fn handle(
        &self,
        _from: AgentId,
        group: u64,
        from_node: proto::NodeId,
        to: proto::NodeId,
        body: Box<serde_json::value::RawValue>,
    ) -> Result<Box<serde_json::value::RawValue>, String> {
        self.shared.serve(group, from_node, to, &body).await
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn system_information() -> SystemInformation {
    SystemInformation {
        os: std::env::consts::OS.into(),
        arch: std::env::consts::ARCH.into(),
        hostname: crate::identity::enroll::host_name(),
        pid: std::process::id(),
    }
}
