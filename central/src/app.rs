//! Central, put together: the store, an Environment's rooms each, two doors and the listeners.
//!
//! [`App::build`] opens and binds everything and spawns nothing; [`App::spawn`] sets it going.

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use alerting::{AddressRules, Courier};
use axum::http::Extensions;
use durable::Durable;
use proto::EnvironmentName;
use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use traces::Service;

use crate::{
    admin::{
        self, ApiTokens, AppState, EnrolmentState, Role, follow::Following, measure::Measures,
        metrics::History, settings::Installation,
    },
    alerts::{Book, Dispatcher, Nudge, Pages, Tally},
    audit::Audit,
    config::{Config, MetricsAccess},
    destination::{DestinationUrl, Destinations},
    door::{self, Bounds},
    drill::{Driller, Drills, Stage},
    enrolment::{
        AgentIdentity, Enrolment,
        ca::{Ca, upkeep},
        secret_file,
    },
    events::Events,
    failovers::Failovers,
    gateway::{
        Gateway, Gateways,
        environment::Environment,
        fence::Fences,
        handshake::{Caller, Doors, routes},
        keeper::{self, Event, Keeper, Rooms},
    },
    listener::{self, Listeners, forwarder::Door},
    oidc::Provider,
    operator::OperatorToken,
    own_listeners::OwnListeners,
    people::{People, PeopleError, Secret},
    process_server::{ProcessServers, group::Groups, records::Records},
    records,
    series::Lately,
    store::{
        SharedStore, StoreError,
        measured::{Measured, StoreTimings},
        sled::SledStore,
    },
    tls,
    traffic::Traffic,
    vault::{Vault, VaultError},
};

/// Agents shake hands in milliseconds; whoever stalls makes room for them.
const AGENT_BOUNDS: Bounds = Bounds { handshakes: 512, connections: 8192 };
/// Commands of administrators that may wait for a gateway.
const COMMANDS_MAX: usize = 64;
/// How long everything may take to end in order.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Why central could not start. Nothing was left running.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the data directory {path} cannot be used")]
    DataDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Disk(#[from] durable::OpenError),
    #[error(transparent)]
    Store(#[from] crate::store::sled::OpenStoreError),
    #[error("the store cannot be read")]
    Read(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Ca(#[from] crate::enrolment::ca::CaError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Traces(#[from] traces::OpenError),
    #[error(transparent)]
    Oidc(#[from] crate::oidc::OpenError),
    #[error("{what} cannot listen on {address}; change {setting} or stop what uses it")]
    Listen { what: &'static str, setting: &'static str, address: SocketAddr, source: io::Error },
    #[error("the first administrator's token cannot be made: {0}")]
    FirstToken(String),
    #[error("the link for the first administrator cannot be made")]
    SetUp(#[from] PeopleError),
    #[error("{path} cannot be written")]
    SetUpFile { path: PathBuf, source: io::Error },
}

/// Where central listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub admin: SocketAddr,
    pub tunnel: SocketAddr,
}

/// Central, ready to go.
pub struct App {
    addresses: Addresses,
    admin: TcpListener,
    tunnel: TcpListener,
    admin_tls: Arc<rustls::ServerConfig>,
    agent_tls: Arc<rustls::ServerConfig>,
    admin_router: axum::Router,
    agent_router: axum::Router,
    keepers: Vec<(Keeper, mpsc::Receiver<Event>, mpsc::Receiver<crate::gateway::Command>)>,
    dispatchers: Vec<Dispatcher>,
    drillers: Vec<Driller>,
    environments: Arc<BTreeMap<EnvironmentName, Arc<Environment>>>,
    listeners: Arc<Listeners>,
    ca: Arc<Ca>,
    disk: Arc<Durable>,
    state: AppState,
    /// Everything ends when it is cancelled.
    closing: CancellationToken,
    exporter: Option<traces::Exporter>,
    data_dir: PathBuf,
    public_host: Option<String>,
    public_url: Option<DestinationUrl>,
}

/// Central, going.
pub struct Running {
    parts: JoinSet<&'static str>,
    keepers: JoinSet<&'static str>,
    /// Ends last, when nothing is left to be told.
    exporter: JoinSet<&'static str>,
    close_exporter: CancellationToken,
    environments: Arc<BTreeMap<EnvironmentName, Arc<Environment>>>,
    cancel: CancellationToken,
    /// The listeners end first: whoever connects to a central that ends is refused, not parked.
    close_listeners: CancellationToken,
}

impl App {
    /// Opens the store, starts every Environment's witness and binds the doors.
    pub async fn build(mut config: Config) -> Result<Self, BuildError> {
        config.traces.or_environment();
        let service =
            Service { name: "postern-central", version: env!("CARGO_PKG_VERSION"), attributes: Vec::new() };
        let (traces, exporter) = traces::Exporter::open(&config.traces, service)?.unzip();
        let traces = traces.unwrap_or_default();
        let data_dir = config.data_dir.clone();
        let in_data_dir = |source| BuildError::DataDir { path: data_dir.clone(), source };
        secret_file::create_folder(&data_dir).map_err(in_data_dir)?;
        let guards = data_dir.join("guards");
        secret_file::create_folder(&guards).map_err(in_data_dir)?;
        let disk = Durable::open(data_dir.join("db"))?;
        let storage = StoreTimings::of("sled");
        let store = Arc::new(SledStore::open(&disk, &guards.join("store.guard"))?);
        let store: SharedStore = Measured::new(store, storage.clone());
        let vault = Vault::open(&store, &data_dir, config.secrets_key_file.as_deref()).await?;
        let ca = Arc::new(Ca::open(&data_dir, &config.tunnel.names, OffsetDateTime::now_utc())?);
        let enrolment = Enrolment::new(store.clone(), ca.clone());

        // Bound before anything is decided: a port in use must not cost an election.
        let admin = bind(config.admin.listen, "the admin API", "admin.listen").await?;
        let tunnel = bind(config.tunnel.listen, "the tunnel endpoint", "tunnel.listen").await?;
        let doors = front_doors(&config).await?;
        let addresses = Addresses { admin: address_of(&admin)?, tunnel: address_of(&tunnel)? };

        let disk = Arc::new(disk);
        let mut environments = BTreeMap::new();
        let mut gateways = BTreeMap::new();
        let mut keepers = Vec::new();
        let mut nudges = BTreeMap::new();
        let pages = Pages::new(config.admin.public_url.as_ref());
        let book =
            |name: &EnvironmentName| Book::new(store.clone(), name, config.alerts.hold_down, vault.clone());
        for name in &config.environments {
            let (environment, inbox) = Environment::new(name.clone(), config.link_settings());
            let nudge = Nudge::default();
            let sealed = book(name).seal_secrets_in_clear().await?;
            if sealed > 0 {
                tracing::info!(environment = %name, sealed, "Secrets of alerts that lay in clear in the store are sealed now");
            }
            let rooms = Rooms {
                servers: ProcessServers::new(store.clone(), name),
                groups: Groups::new(store.clone(), name),
                fences: Fences::new(store.clone(), name),
                alerts: book(name),
                failovers: Failovers::new(store.clone(), name),
                records: Records::open(store.clone(), name).await?,
                nudge: nudge.clone(),
                disk: disk.clone(),
            };
            let settings = keeper::Settings {
                connect_timeout: config.gateway.connect_timeout,
                drain_timeout: config.gateway.drain_timeout,
                resume_window: config.tunnel.resume_window,
                dead_after: config.tunnel.dead_after,
                hold_down: config.alerts.hold_down,
                timings: group::Timings::default(),
                guards: guards.clone(),
                pages: pages.clone(),
            };
            nudges.insert(name.clone(), nudge);
            let (keeper, view) = Keeper::open(environment.clone(), settings, rooms).await?;
            let (commands, orders) = mpsc::channel(COMMANDS_MAX);
            gateways.insert(name.clone(), Gateway::new(commands, view));
            keepers.push((keeper, inbox, orders));
            environments.insert(name.clone(), environment);
        }
        let gateways = Gateways::new(gateways);
        let environments = Arc::new(environments);
        let tunnels =
            environments.iter().map(|(name, environment)| (name.clone(), environment.tunnel.subscribe()));
        let settings =
            listener::Settings { park_timeout: config.gateway.park_timeout, bind: config.listeners.bind };
        let front = doors.iter().map(|door| Ok((door.environment.clone(), address_of(&door.listener)?)));
        let front = front.collect::<Result<BTreeMap<_, _>, BuildError>>()?;
        let listeners = Arc::new(Listeners::new(&store, tunnels, settings, &traces).behind(doors));

        let public = [&config.admin.public_url, &config.tunnel.public_url].into_iter().flatten();
        let own_doors = [addresses.admin, addresses.tunnel].into_iter().chain(front.values().copied());
        let own_listeners = OwnListeners::new(own_doors, public, listeners.clone());
        let allowed = config.alerts.allow_destinations.clone();
        let own = own_listeners.clone();
        let rules = AddressRules::new(move |address| allowed.iter().any(|cidr| cidr.contains(address)))
            .refusing(move |host, address| own.are_at(host, address));
        let courier = Courier::new(rules.clone());
        let tallies: BTreeMap<EnvironmentName, Tally> =
            nudges.keys().map(|name| (name.clone(), Tally::default())).collect();
        let dispatcher = |((name, nudge), tally): ((&EnvironmentName, &Nudge), &Tally)| {
            let (nudge, pages, tally) = (nudge.clone(), pages.clone(), tally.clone());
            Dispatcher::new(name.clone(), book(name), courier.clone(), nudge, pages, tally)
        };
        // Of the same names, in the same order.
        let dispatchers = nudges.iter().zip(tallies.values()).map(dispatcher).collect();

        let traffic = Arc::new(Traffic { listeners: listeners.clone(), environments: environments.clone() });
        let mut drillers = Vec::new();
        let mut conductors = BTreeMap::new();
        for (name, gateway) in gateways.iter() {
            let stage = Stage {
                environment: name.clone(),
                gateway: gateway.clone(),
                data_plane: traffic.clone(),
                destinations: Destinations::new(store.clone(), name),
                drills: Drills::new(store.clone(), name),
                events: Events::new(store.clone(), name),
                drain_timeout: config.gateway.drain_timeout,
            };
            let (driller, conductor) = Driller::new(stage, config.gateway.drill);
            drillers.push(driller);
            conductors.insert(name.clone(), conductor);
        }
        let closing = CancellationToken::new();
        let public_url = config
            .tunnel
            .public_url
            .as_ref()
            .map_or_else(|| format!("https://{}", addresses.tunnel), ToString::to_string);
        let people = People::new(store.clone(), config.admin.sessions);
        let state = AppState {
            store: store.clone(),
            gateways: gateways.clone(),
            data_plane: traffic,
            api_tokens: ApiTokens::new(store.clone(), people.last_use().clone()),
            people,
            oidc: config.oidc.as_ref().map(Provider::open).transpose()?,
            audit: Audit::new(store),
            enrolment: enrolment.clone(),
            alert_rules: rules,
            alert_courier: courier,
            vault,
            own_listeners,
            operator: OperatorToken::write(&data_dir).map_err(in_data_dir)?,
            files: admin::Files {
                data_dir: data_dir.clone(),
                secrets_key: Vault::key_file(&data_dir, config.secrets_key_file.as_deref()),
            },
            alert_nudges: Arc::new(nudges),
            alert_tallies: Arc::new(tallies),
            history: History::default(),
            drills: Arc::new(conductors),
            alert_hold_down: config.alerts.hold_down,
            tunnel_url: Some(public_url.into()),
            following: Following::new(closing.clone()),
            measures: Measures::default(),
            storage,
            traces,
            lately: Lately::of_each(config.environments.iter().cloned()),
            installation: Arc::new(Installation {
                settings: config.settings(),
                started_at: OffsetDateTime::now_utc(),
                store_path: data_dir.join("db"),
            }),
            metrics_open: config.admin.metrics == MetricsAccess::Open,
            ip_forwarder_urls: Arc::new(forwarder_urls(&config, &front)),
        };
        let audit = state.audit.clone();
        let agent_router = routes(Doors { environments: environments.clone(), enrolment: enrolment.clone() })
            .merge(admin::enrolment_routes(EnrolmentState { enrolment, audit, gateways }));
        let app = Self {
            addresses,
            admin,
            tunnel,
            admin_tls: Arc::new(tls::admin_facing(&ca)?),
            agent_tls: Arc::new(tls::agent_facing(&ca)?),
            admin_router: admin::router(state.clone()),
            agent_router,
            keepers,
            dispatchers,
            drillers,
            environments,
            listeners,
            ca,
            disk,
            state,
            closing,
            exporter,
            data_dir,
            public_host: config.tunnel.names.first().cloned(),
            public_url: config.admin.public_url,
        };
        app.first_tokens(&config.environments).await?;
        Ok(app)
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What the admin API works on; `dev` makes its own token with it.
    pub fn state(&self) -> &AppState {
        &self.state
    }

    pub fn listeners(&self) -> &Arc<Listeners> {
        &self.listeners
    }

    /// The certificate of the authority that everybody who connects must trust.
    pub fn ca_certificate(&self) -> &std::path::Path {
        self.ca.trusted_path()
    }

    /// Where the first administrator of the first Environment finds a token.
    pub fn admin_token_file(&self) -> PathBuf {
        self.data_dir.join("admin.token")
    }

    /// On its first start nobody could sign in to an Environment: one token with every right in it lies
    /// in the data directory, readable by central's own user alone.
    async fn first_tokens(&self, environments: &[EnvironmentName]) -> Result<(), BuildError> {
        let failed = |error: &dyn std::fmt::Display| BuildError::FirstToken(error.to_string());
        let tokens = &self.state.api_tokens;
        for (number, environment) in environments.iter().enumerate() {
            let file = match number {
                0 => self.admin_token_file(),
                _ => self.data_dir.join(format!("admin.{environment}.token")),
            };
            if file.exists() || !tokens.list(environment).await?.is_empty() {
                continue;
            }
            let made = tokens.create(environment, Role::CloudAdministrator, None, None, None).await;
            let (text, _) = made.map_err(|error| failed(&error))?;
            secret_file::write(&file, format!("{}\n", text.reveal()).as_bytes())
                .map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// While nobody can sign in to an Environment: a link each that makes its first Cloud Administrator, in the
    /// log and in the data directory. Those of an earlier start work no more.
    pub async fn offer_set_up(&self) -> Result<(), BuildError> {
        let names = self.environments.keys();
        let links = self.state.people.first_run(names, OffsetDateTime::now_utc()).await?;
        let path = self.data_dir.join("setup.url");
        let failed = |source| BuildError::SetUpFile { path: path.clone(), source };
        if links.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let mut text = String::new();
        for (environment, secret) in links {
            let url = self.page(&format!("/setup/{}", secret.reveal()));
            tracing::info!(%environment, %url, "Nobody can sign in yet: open this link to make the first Cloud Administrator");
            text.push_str(&format!("{url}\n"));
        }
        secret_file::write(&path, text.as_bytes()).map_err(failed)
    }

    /// The path of a link that signs in to the first Environment as the Cloud Administrator `name`, once, within
    /// minutes: for [`crate::dev`] alone.
    pub async fn sign_in_path(&self, name: &proto::Name) -> Result<String, PeopleError> {
        let people = &self.state.people;
        let now = OffsetDateTime::now_utc();
        people.first_run([], now).await?;
        let environment = self.environments.keys().next();
        let environment = environment.ok_or_else(|| PeopleError::Unknown(name.clone()))?;
        let secret: Secret = people.sign_in_link(environment, name, now).await?;
        Ok(format!("/sign-in/once/{}", secret.reveal()))
    }

    /// A page's URL as browsers write it; without a setting as somebody on this machine would, or with the host
    /// that agents dial.
    fn page(&self, path: &str) -> String {
        if let Some(url) = &self.public_url {
            return format!("{url}{path}");
        }
        let admin = self.addresses.admin;
        match &self.public_host {
            Some(host) if admin.ip().is_unspecified() => format!("https://{host}:{}{path}", admin.port()),
            _ if admin.ip().is_unspecified() => format!("https://localhost:{}{path}", admin.port()),
            _ => format!("https://{admin}{path}"),
        }
    }

    /// Sets everything going.
    pub fn spawn(self) -> Running {
        let cancel = self.closing;
        let (mut parts, mut keepers) = (JoinSet::new(), JoinSet::new());
        for (keeper, inbox, commands) in self.keepers {
            keepers.spawn(async move {
                keeper.run(inbox, commands).await;
                "the keeper of an Environment"
            });
        }
        for dispatcher in self.dispatchers {
            let stop = cancel.clone();
            parts.spawn(async move {
                dispatcher.run(stop).await;
                "the dispatcher of an Environment's alerts"
            });
        }
        for driller in self.drillers {
            let stop = cancel.clone();
            parts.spawn(async move {
                driller.run(stop).await;
                "the drills of an Environment"
            });
        }
        let stop = cancel.clone();
        let (admin, admin_tls, admin_router) = (self.admin, self.admin_tls, self.admin_router);
        parts.spawn(async move {
            report(admin::serve(admin, admin_tls, admin_router, stop).await);
            "the admin API"
        });
        let stop = cancel.clone();
        let (tunnel, agent_tls, agent_router) = (self.tunnel, self.agent_tls, self.agent_router);
        parts.spawn(async move {
            report(
                door::serve(tunnel, agent_tls, agent_router, AGENT_BOUNDS, Arc::new(introduce), stop).await,
            );
            "the tunnel endpoint"
        });
        let close_listeners = cancel.child_token();
        let stop = close_listeners.clone();
        let listeners = self.listeners;
        parts.spawn(async move {
            listeners.run(stop).await;
            "the listeners"
        });
        let (stop, ca, store) = (cancel.clone(), self.ca, self.state.store.clone());
        let told: Vec<_> = self.environments.keys().map(|name| Events::new(store.clone(), name)).collect();
        parts.spawn(async move {
            upkeep::keep(&ca, &told, &stop).await;
            "the upkeep of the certificate authority"
        });
        let (stop, disk) = (cancel.clone(), self.disk);
        let tunnels = self.environments.values().map(|environment| environment.tunnel.subscribe()).collect();
        parts.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = records::until_useless(&disk, tunnels) => {}
            }
            "the keeping of central's records"
        });
        let (stop, lately, data_plane) = (cancel.clone(), self.state.lately, self.state.data_plane);
        parts.spawn(async move {
            lately.run(data_plane, stop).await;
            "the counting of traffic"
        });
        let (stop, people) = (cancel.clone(), self.state.people);
        parts.spawn(async move {
            people.keep(stop).await;
            "the keeping of sessions"
        });
        let (mut exporter, close_exporter) = (JoinSet::new(), CancellationToken::new());
        if let Some(one) = self.exporter {
            let stop = close_exporter.clone();
            exporter.spawn(async move {
                one.run(stop).await;
                "the export of traces"
            });
        }
        let environments = self.environments;
        Running { parts, keepers, exporter, close_exporter, environments, cancel, close_listeners }
    }
}

impl Running {
    /// Waits until a part ends that may never end, and names it. Cancel-safe.
    pub async fn ended(&mut self) -> &'static str {
        let ended = tokio::select! {
            Some(ended) = self.parts.join_next() => ended,
            Some(ended) = self.keepers.join_next() => ended,
            Some(ended) = self.exporter.join_next() => ended,
            else => return "everything",
        };
        ended.unwrap_or("a part that panicked")
    }

    /// Ends in order: listeners accept nobody, keepers let go of agents and streams, doors close, requests
    /// finish.
    pub async fn stop(mut self) {
        self.close_listeners.cancel();
        for environment in self.environments.values() {
            // A keeper that is gone has nothing left to end.
            let _ = environment.keeper.send(Event::Stop).await;
        }
        let keepers = async { while self.keepers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_LIMIT, keepers).await;
        self.cancel.cancel();
        let parts = async { while self.parts.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, parts).await.is_err() {
            tracing::warn!("Some parts did not end in time and were dropped");
        }
        self.close_exporter.cancel();
        // Bounded by itself: seconds.
        while self.exporter.join_next().await.is_some() {}
    }
}

/// Puts into each request whom the connection's certificate names.
fn introduce(connection: &rustls::ServerConnection, remote: SocketAddr, known: &mut Extensions) {
    let certificate = connection.peer_certificates().and_then(|chain| chain.first());
    let identity = certificate.and_then(|certificate| match AgentIdentity::read(certificate) {
        Ok(identity) => Some(identity),
        Err(error) => {
            tracing::warn!(%remote, %error, "A client certificate of our own CA is no agent's");
            None
        }
    });
    known.insert(identity.clone());
    known.insert(Caller { identity, remote });
}

async fn bind(
    address: SocketAddr,
    what: &'static str,
    setting: &'static str,
) -> Result<TcpListener, BuildError> {
    TcpListener::bind(address).await.map_err(|source| BuildError::Listen { what, setting, address, source })
}

/// One front door for each Environment, where the operator wants any.
async fn front_doors(config: &Config) -> Result<Vec<Door>, BuildError> {
    let Some(mut address) = config.listeners.forwarder else { return Ok(Vec::new()) };
    let mut doors = Vec::new();
    for environment in &config.environments {
        let listener = bind(address, "the front door", "listeners.forwarder").await?;
        doors.push(Door { environment: environment.clone(), listener });
        if address.port() != 0 {
            address.set_port(address.port().saturating_add(1));
        }
    }
    Ok(doors)
}

/// As applications are told: a door on every address is reached under the name that central has for others.
fn forwarder_urls(
    config: &Config,
    front: &BTreeMap<EnvironmentName, SocketAddr>,
) -> BTreeMap<EnvironmentName, String> {
    let named = config.admin.public_url.as_ref().or(config.tunnel.public_url.as_ref());
    let named = named.map(DestinationUrl::host).or(config.tunnel.names.first().map(String::as_str));
    let url = |address: &SocketAddr| match named.filter(|_| address.ip().is_unspecified()) {
        Some(name) if name.contains(':') => format!("socks5://[{name}]:{}", address.port()),
        Some(name) => format!("socks5://{name}:{}", address.port()),
        None => format!("socks5://{address}"),
    };
    front.iter().map(|(environment, address)| (environment.clone(), url(address))).collect()
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, BuildError> {
    listener.local_addr().map_err(|source| BuildError::Listen {
        what: "a listener",
        setting: "its address",
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        source,
    })
}

fn report(ended: io::Result<()>) {
    if let Err(error) = ended {
        tracing::error!(%error, "A door failed");
    }
}
