//! Central's admin room with a store behind it and a small gateway task that answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use alerting::{AddressRules, Courier};
use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use central::{
    admin::{
        self, ApiTokens, AppState, DataPlane, Role,
        data_plane::{Carriage, Listening, OpenFailure, TrafficView, TriedOut},
        follow::Following,
        measure::Measures,
        settings::Installation,
    },
    audit::Audit,
    config::Config,
    destination::Destination,
    enrolment::{Ca, Enrolment},
    gateway::{
        Command, CommandError, DrainView, Gateway, GatewayView, Gateways,
        guests::StreamView,
        probing::NotAsked,
        view::{CandidateView, ConnectedView, DrainingView, GatewayState},
    },
    listener::ledger::{ClosedStream, OpenStream, StreamKey},
    operator::OperatorToken,
    own_listeners::OwnListeners,
    people::{People, SessionLimits},
    process_server::{PROCESS_SERVERS, ProcessServer, ProcessServers},
    series::Lately,
    store::{
        Action, Key, Owner, Precondition, SharedStore, Transaction, Write, measured::StoreTimings,
        memory::MemoryStore, sled::SledStore,
    },
    vault::Vault,
};
use durable::Durable;
use proto::{
    AgentId, BootId, EnvironmentName, Epoch, Fingerprint, Name,
    hello::SystemInformation,
    trace::{Ask, Hop, Step},
};
use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// When everything on the stage happened.
pub(crate) const THEN: OffsetDateTime =
    OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::seconds(1_767_323_045));

pub(crate) struct Stage {
    pub(crate) state: AppState,
    router: Router,
    view: watch::Sender<Arc<GatewayView>>,
    /// The orders the gateway was given, in words.
    pub(crate) orders: Arc<Mutex<Vec<String>>>,
    pub(crate) data_plane: Arc<ScriptedDataPlane>,
    /// Central stops.
    pub(crate) stop: CancellationToken,
    /// Goes with the stage.
    _folder: TempDir,
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Stage {
    /// On the store of a real central.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = Durable::open(folder.path().join("store")).unwrap();
        let store = SledStore::open(&disk, &folder.path().join("guard")).unwrap();
        Self::with(Arc::new(store), folder)
    }

    /// For a paused clock, which does not wait for a disk.
    pub(crate) fn in_memory() -> Self {
        Self::with(Arc::new(MemoryStore::default()), tempfile::tempdir().unwrap())
    }

    fn with(store: SharedStore, folder: TempDir) -> Self {
        let view = watch::Sender::new(Arc::new(GatewayView { since: THEN, ..GatewayView::idle() }));
        let ca = Ca::open(folder.path(), &[], OffsetDateTime::now_utc()).unwrap();
        let (commands, inbox) = mpsc::channel(8);
        let orders = Arc::default();
        let servers = ProcessServers::new(store.clone(), &environment());
        tokio::spawn(gateway_task(inbox, servers, view.clone(), Arc::clone(&orders)));
        let gateway = Gateway::new(commands, view.subscribe());
        let data_plane = Arc::new(ScriptedDataPlane::default());
        let rules = AddressRules::new(|address| address.is_loopback());
        let people = People::new(store.clone(), SessionLimits::default());
        let stop = CancellationToken::new();
        let state = AppState {
            store: store.clone(),
            gateways: Gateways::new(BTreeMap::from([(environment(), gateway)])),
            data_plane: data_plane.clone(),
            api_tokens: ApiTokens::new(store.clone(), people.last_use().clone()),
            people,
            oidc: None,
            audit: Audit::new(store.clone()),
            enrolment: Enrolment::new(store, Arc::new(ca)),
            alert_rules: rules.clone(),
            alert_courier: Courier::new(rules),
            vault: Vault::with_key(&[7; 32]),
            own_listeners: OwnListeners::default(),
            operator: OperatorToken::unwritten(),
            files: admin::Files::default(),
            alert_nudges: Arc::default(),
            alert_tallies: Arc::default(),
            history: admin::metrics::History::default(),
            drills: Arc::default(),
            alert_hold_down: Duration::from_secs(10),
            tunnel_url: Some("https://central.example:8444".into()),
            following: Following::new(stop.clone()),
            measures: Measures::default(),
            storage: StoreTimings::of("test"),
            traces: traces::Traces::default(),
            lately: Lately::of_each([environment()]),
            installation: Arc::new(Installation {
                settings: Config::default().settings(),
                started_at: THEN,
                store_path: folder.path().join("store"),
            }),
            metrics_open: false,
            ip_forwarder_urls: Arc::new(BTreeMap::from([(
                environment(),
                "socks5://central.example:1080".to_owned(),
            )])),
        };
        let router = admin::router(state.clone());
        Self { state, router, view, orders, data_plane, stop, _folder: folder }
    }

    /// Changes the records of a collection behind central's back.
    pub(crate) async fn damage(&self, collection: &'static str, change: impl Fn(&mut Value)) {
        let owner = Owner::from(&environment());
        for mut record in self.state.store.scan(&owner, collection, None, 10).await.unwrap() {
            change(&mut record.value);
            let key = Key { owner: owner.clone(), collection, key: record.key };
            let write = Write { key, precondition: Precondition::Any, action: Action::Put(record.value) };
            self.state.store.commit(Transaction::new().with(write)).await.unwrap();
        }
    }

    /// The same, with an identity provider that people may sign in through.
    #[cfg(feature = "oidc")]
    pub(crate) fn believing(mut self, provider: central::oidc::Provider) -> Self {
        self.state.oidc = Some(provider);
        self.router = admin::router(self.state.clone());
        self
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// A token's text.
    pub(crate) async fn token(&self, role: Role) -> String {
        self.state
            .api_tokens
            .create(&environment(), role, None, None, None)
            .await
            .unwrap()
            .0
            .reveal()
            .to_owned()
    }

    /// Asks with a fresh token of this role.
    pub(crate) async fn ask(&self, role: Role, method: Method, path: &str, body: Value) -> Reply {
        let token = self.token(role).await;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask(Role::Viewer, Method::GET, path, Value::Null).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Reply { status, headers, body }
    }

    /// Enrols an agent, as far as the store is concerned.
    pub(crate) async fn enrol(&self, text: &str) -> AgentId {
        let agent = AgentId::random();
        let server = ProcessServer::enrolled(name(text), agent, Fingerprint::from_bytes([7; 32]), THEN);
        let put =
            PROCESS_SERVERS.put(&Owner::from(&environment()), text, Precondition::Absent, &server).unwrap();
        self.state.store.commit(put.into()).await.unwrap();
        agent
    }

    /// Enrols an agent that is connected.
    pub(crate) async fn connect(&self, text: &str) -> AgentId {
        let agent = self.enrol(text).await;
        let (boot, system) = (BootId::random(), system_of(text));
        let servers = ProcessServers::new(self.state.store.clone(), &environment());
        servers.seen(&name(text), boot, "9.9.9", &system, THEN).await.unwrap();
        self.look(|view| {
            let connected = ConnectedView {
                boot,
                since: THEN,
                last_heard: THEN,
                software: "9.9.9".into(),
                system,
                remote: ([192, 0, 2, 1], 4000).into(),
                certificate_until: THEN + time::Duration::days(90),
                report: None,
            };
            view.connected.insert(agent, connected);
        });
        agent
    }

    /// Makes a connected candidate the active one.
    pub(crate) async fn activate(&self, text: &str) {
        let servers = ProcessServers::new(self.state.store.clone(), &environment());
        servers.mark(&name(text), true).await.unwrap();
        self.state.gateways.of(&environment()).unwrap().reload().await.unwrap();
        self.look(|view| {
            view.state = GatewayState::Up;
            view.active = Some(name(text));
            view.fence = Some(Epoch { group: 2, claim: 17 });
        });
    }

    /// The agent of a candidate.
    pub(crate) fn candidate(&self, text: &str) -> AgentId {
        let view = self.view.borrow();
        view.candidates.iter().find(|candidate| candidate.name.as_str() == text).unwrap().agent
    }

    /// Changes what the gateway room shows.
    pub(crate) fn look(&self, change: impl FnOnce(&mut GatewayView)) {
        self.view.send_modify(|view| change(Arc::make_mut(view)));
    }
}

/// One stream each, whatever drains.
fn drains(view: &GatewayView) -> Vec<DrainView> {
    let stream = || StreamView {
        destination: name("db"),
        client: ([192, 0, 2, 7], 5000).into(),
        since: THEN,
        bytes: 42,
    };
    let drain = |drain: &DrainingView| DrainView {
        process_server: drain.process_server.clone(),
        epoch: Epoch { group: 2, claim: 17 },
        until: drain.until,
        streams: vec![stream()],
    };
    view.draining.iter().map(drain).collect()
}

/// Keeps the promises of the gateway room, no more: known and connected or not, active or not.
async fn gateway_task(
    mut inbox: mpsc::Receiver<Command>,
    servers: ProcessServers,
    view: watch::Sender<Arc<GatewayView>>,
    orders: Arc<Mutex<Vec<String>>>,
) {
    let note = |order: String| orders.lock().unwrap().push(order);
    while let Some(command) = inbox.recv().await {
        let records = servers.list().await.unwrap();
        let find = |name: &Name| records.iter().find(|record| record.name == *name);
        match command {
            Command::Switch { to, reply } => {
                let active = view.borrow().active.clone();
                let result = match &to {
                    None => Err(CommandError::NoOther),
                    Some(name) if find(name).is_none() => Err(CommandError::Unknown(name.clone())),
                    Some(name) if active.as_ref() == Some(name) => {
                        Err(CommandError::AlreadyActive(name.clone()))
                    }
                    Some(name) => {
                        note(format!("switch to {name}"));
                        Ok(())
                    }
                };
                reply.send(result).unwrap();
            }
            Command::Unreachable { summary, reply, .. } => {
                note(format!("tell: {summary}"));
                reply.send(Ok(())).unwrap();
            }
            Command::Recover { recovery, reply } => {
                note(format!("recover on {} without {:?}", recovery.on, recovery.lost));
                reply.send(Ok(2)).unwrap();
            }
            Command::TellDegraded { summary, reply } => {
                note(format!("tell: {summary}"));
                reply.send(Ok(())).unwrap();
            }
            Command::Drains { reply } => reply.send(Ok(drains(&view.borrow()))).unwrap(),
            Command::EndDrain { reply } => {
                let drains = !view.borrow().draining.is_empty();
                if drains {
                    note("end the drain".into());
                }
                reply.send(if drains { Ok(()) } else { Err(CommandError::NothingDrains) }).unwrap();
            }
            Command::Restart { name, reply } => {
                let result = match find(&name) {
                    None => Err(CommandError::Unknown(name)),
                    Some(record) if !view.borrow().connected.contains_key(&record.agent) => {
                        Err(CommandError::NotConnected(name))
                    }
                    Some(_) => {
                        note(format!("restart {name}"));
                        Ok(())
                    }
                };
                reply.send(result).unwrap();
            }
            Command::Reload { reply } => {
                note("reload".into());
                view.send_modify(|view| {
                    let view = Arc::make_mut(view);
                    view.candidates =
                        records.iter().filter(|r| r.candidate).map(|r| candidate(r, view)).collect();
                });
                reply.send(Ok(())).unwrap();
            }
        }
    }
}

fn candidate(record: &ProcessServer, view: &GatewayView) -> CandidateView {
    let connected = view.connected.contains_key(&record.agent);
    CandidateView {
        name: record.name.clone(),
        agent: record.agent,
        node: None,
        connected,
        configured: connected,
        active: view.active.as_ref() == Some(&record.name),
        restart_required: false,
    }
}

/// Answers as the test says.
#[derive(Default)]
pub(crate) struct ScriptedDataPlane {
    /// What opening a stream comes to; nothing at all while it is `None`.
    pub(crate) opening: Mutex<Option<Result<TriedOut, OpenFailure>>>,
    /// What agents answer when they are asked.
    pub(crate) answers: Mutex<BTreeMap<AgentId, Vec<Step>>>,
    pub(crate) streams: Mutex<Vec<OpenStream>>,
}

#[async_trait]
impl DataPlane for ScriptedDataPlane {
    async fn try_out(&self, _: &EnvironmentName, _: &Destination) -> Result<TriedOut, OpenFailure> {
        let opening = self.opening.lock().unwrap().clone();
        match opening {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }

    async fn ask(&self, _: &EnvironmentName, agent: AgentId, _: Ask) -> Result<Vec<Step>, NotAsked> {
        self.answers.lock().unwrap().get(&agent).cloned().ok_or(NotAsked::NoAnswer)
    }

    fn streams(&self, _: &EnvironmentName, after: Option<StreamKey>, limit: usize) -> Vec<OpenStream> {
        let all = self.streams.lock().unwrap();
        all.iter().filter(|one| after.is_none_or(|after| one.id > after)).take(limit).cloned().collect()
    }

    fn closed_streams(&self, _: &EnvironmentName) -> Vec<ClosedStream> {
        Vec::new()
    }

    fn end_stream(&self, _: &EnvironmentName, stream: StreamKey) -> bool {
        let mut all = self.streams.lock().unwrap();
        let before = all.len();
        all.retain(|one| one.id != stream);
        all.len() < before
    }

    fn carried(&self, _: &EnvironmentName) -> BTreeMap<&'static str, Carriage> {
        let jdbc = Carriage { open: 2, opened: 7, refused: 1, bytes_to_site: 11, bytes_to_cloud: 13 };
        BTreeMap::from([("postgresql", jdbc)])
    }

    fn traffic(&self, _: &EnvironmentName) -> TrafficView {
        TrafficView { opened: 7, ..TrafficView::default() }
    }

    async fn settled(&self, _: &EnvironmentName, _: &Name) {}

    fn listening(&self, _: &EnvironmentName, _: &Name) -> Listening {
        Listening::At(([127, 0, 0, 1], 40_000).into())
    }
}

/// A stream that came to be, to something that answered.
pub(crate) fn tried_out(via: &str, ms: u64) -> TriedOut {
    let words = [Step::skip(Hop::Tls, "spoken without"), Step::pass(Hop::Greeting, Some(1), "well met")];
    TriedOut { via: name(via), ms, words }
}

fn system_of(hostname: &str) -> SystemInformation {
    SystemInformation { os: "linux".into(), arch: "x86_64".into(), hostname: hostname.into(), pid: 42 }
}

pub(crate) fn environment() -> EnvironmentName {
    name("default")
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}
