//! The programs under test, as their `main` runs them, and the folders they find.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use agent::{
    app::{Outcome, Stop},
    data_dir::DataDir,
    identity::enroll::{self, Enrolment},
};
use alerting::Alerts;
use central::{
    admin::AppState, alerts::Book, app::Running, config::Config, destination::Destinations,
    process_server::ProcessServers,
};
use proto::{EnvironmentName, Name};
use time::OffsetDateTime;
use tokio::sync::oneshot;

use crate::{
    kernel::{HostId, Kind, Rules},
    world::{World, seconds},
};

pub(crate) const CENTRAL: HostId = 0;
pub(crate) const AGENTS: [HostId; 3] = [1, 2, 3];
pub(crate) const SITE: HostId = 4;
pub(crate) const CLOUD: HostId = 5;

/// Every host of every history.
pub(crate) const HOSTS: [(&str, Ipv4Addr, Kind); 6] = [
    ("central", Ipv4Addr::new(10, 77, 0, 1), Kind::Central),
    ("agent-1", Ipv4Addr::new(10, 77, 1, 1), Kind::Agent),
    ("agent-2", Ipv4Addr::new(10, 77, 1, 2), Kind::Agent),
    ("agent-3", Ipv4Addr::new(10, 77, 1, 3), Kind::Agent),
    ("site", Ipv4Addr::new(10, 77, 2, 1), Kind::Site),
    ("cloud", Ipv4Addr::new(10, 77, 3, 1), Kind::Cloud),
];
/// Where clients find the destination `echo` at central.
pub(crate) const ECHO_AT_CENTRAL: u16 = 9000;
/// Where it is at the site.
pub(crate) const ECHO_AT_SITE: u16 = 7000;
/// Where alerts go, in the cloud.
pub(crate) const ON_CALL_PORT: u16 = 8080;
const TUNNEL_PORT: u16 = 8443;

/// The one Environment.
pub(crate) fn environment() -> EnvironmentName {
    Config::default().environments[0].clone()
}

pub(crate) fn name_of(agent: HostId) -> Name {
    #[expect(clippy::expect_used, reason = "the names above are names")]
    HOSTS[agent].0.parse().expect("a name")
}

/// How a program went.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// As it was asked to.
    Stopped,
    /// It wants to be started again at once.
    Restart,
    /// With these words on its last line.
    Failed(String),
}

/// Central while it runs; what it leaves when it ends.
#[derive(Clone, Default)]
pub(crate) struct CentralHandle {
    pub(crate) state: Arc<Mutex<Option<AppState>>>,
    pub(crate) stop: tokio_util::sync::CancellationToken,
    pub(crate) ended: Arc<Mutex<Option<Ended>>>,
}

#[derive(Clone, Default)]
pub(crate) struct AgentHandle {
    pub(crate) stop: Stop,
    pub(crate) ended: Arc<Mutex<Option<Ended>>>,
}

pub(crate) fn put<T>(place: &Mutex<Option<T>>, value: T) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

pub(crate) fn taken<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn central_config(data_dir: &Path, lanes: u8) -> Config {
    let ip = HOSTS[CENTRAL].1;
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let mut config = Config { data_dir: data_dir.to_owned(), ..Config::default() };
    config.admin.listen = any(7443);
    config.tunnel.listen = any(TUNNEL_PORT);
    config.tunnel.names = vec![ip.to_string()];
    config.tunnel.lanes = lanes;
    config.listeners.bind = Ipv4Addr::UNSPECIFIED.into();
    #[expect(clippy::expect_used, reason = "a constant")]
    config.alerts.allow_destinations.push("10.77.3.1/32".parse().expect("a network"));
    config
}

/// `postern-central serve`.
pub(crate) async fn central(data_dir: PathBuf, lanes: u8, handle: CentralHandle) {
    let app = match central::app::App::build(central_config(&data_dir, lanes)).await {
        Ok(app) => app,
        Err(error) => return put(&handle.ended, Ended::Failed(program::explain(&error))),
    };
    put(&handle.state, app.state().clone());
    let mut running: Running = app.spawn();
    let ended = tokio::select! {
        () = handle.stop.cancelled() => Ended::Stopped,
        part = running.ended() => Ended::Failed(format!("{part} ended although it never should")),
    };
    drop(taken(&handle.state));
    running.stop().await;
    put(&handle.ended, ended);
}

/// `postern-agent run`.
pub(crate) async fn agent(data_dir: PathBuf, handle: AgentHandle) {
    let ended = match agent_runs(&data_dir, handle.stop.clone()).await {
        Ok(Outcome::Stopped) => Ended::Stopped,
        Ok(Outcome::Restart) => Ended::Restart,
        Err(error) => Ended::Failed(program::explain(&*error)),
    };
    put(&handle.ended, ended);
}

async fn agent_runs(data_dir: &Path, stop: Stop) -> Result<Outcome, Box<dyn std::error::Error>> {
    let config = agent::config::Config::load(data_dir, None)?;
    let data_dir = Arc::new(DataDir::open(data_dir)?);
    let app = agent::app::App::build(config, data_dir).await?;
    Ok(app.run(stop).await?)
}

/// Disks as an administrator has left them: central with its CA, a destination, three agents enrolled and none
/// marked. Made once per process, in a world of its own; histories begin with copies.
pub(crate) fn template() -> &'static Path {
    static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    TEMPLATE
        .get_or_init(|| {
            let made = std::thread::spawn(founding).join();
            #[expect(clippy::expect_used, reason = "without it there is nothing to test")]
            made.expect("the template of all histories")
        })
        .path()
}

/// In memory where the machine has such a place: histories write a lot and keep nothing.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    #[expect(clippy::expect_used, reason = "without a folder there is no history")]
    made.expect("a folder for the hosts' disks")
}

#[expect(clippy::expect_used, reason = "a test's set-up")]
fn founding() -> tempfile::TempDir {
    let template = scratch();
    let root = scratch();
    let rules = Rules { dead_after: seconds(15) };
    let mut world = World::new(&HOSTS, seconds(1), rules, root.path(), None, 0, None).expect("a world");
    let handle = CentralHandle::default();
    world.boot(CENTRAL, central(world.folder(CENTRAL), 1, handle.clone()));
    let is_up = |handle: &CentralHandle| handle.state.lock().expect("a lock").clone();
    assert!(world.run_until(seconds(30), |_| is_up(&handle).is_some()), "central is up");
    let state = is_up(&handle).expect("just seen");

    for agent in AGENTS {
        let (tell, mut told) = oneshot::channel();
        let (enrolment, name) = (state.enrolment.clone(), name_of(agent));
        world.spawn(CENTRAL, async move {
            let now = OffsetDateTime::now_utc();
            let ttl = Duration::from_secs(600);
            let token = enrolment.create_token(&environment(), Some(name), ttl, now).await;
            let _ = tell.send(token.expect("a token").0.reveal().to_owned());
        });
        let mut token = None;
        world.run_until(seconds(60), |_| {
            token = told.try_recv().ok();
            token.is_some()
        });
        let folder = world.folder(agent);
        let ip = HOSTS[agent].1;
        let settings = format!(
            "[[allow]]\nhost = \"{}\"\nports = {ECHO_AT_SITE}\n[peers]\nadvertise = [\"{ip}:7431\"]\n",
            HOSTS[SITE].1,
        );
        crate::people::write_private(&folder.join("agent.toml"), settings.as_bytes()).expect("a file");
        let enrolment = Enrolment {
            central: format!("https://{}:{TUNNEL_PORT}", HOSTS[CENTRAL].1).parse().expect("a URL"),
            proxy: None,
            token: token.expect("a token").into(),
            ca_file: world.folder(CENTRAL).join("ca.pem"),
            name: Some(name_of(agent)),
            replace: false,
        };
        let (tell, mut told) = oneshot::channel();
        world.boot(agent, async move {
            let done = enroll::command(enrolment, &folder, None).await;
            let _ = tell.send(done.map(drop).map_err(|error| program::explain(&error)));
        });
        let mut done = None;
        world.run_until(seconds(60), |_| {
            done = told.try_recv().ok();
            done.is_some()
        });
        done.expect("an answer").expect("enrolled");
    }
    let (tell, mut told) = oneshot::channel();
    world.spawn(CENTRAL, async move {
        let spec = serde_json::json!({
            "name": "echo",
            "url": format!("tcp://{}:{ECHO_AT_SITE}", HOSTS[SITE].1),
            "listen": format!("0.0.0.0:{ECHO_AT_CENTRAL}"),
        });
        let spec = serde_json::from_value(spec).expect("a destination");
        let made = Destinations::new(state.store.clone(), &environment()).create(spec).await;
        let book =
            Book::new(state.store.clone(), &environment(), Duration::from_secs(3), state.vault.clone());
        let settings = book.settings().await.expect("settings");
        let url = format!("http://{}:{ON_CALL_PORT}/", HOSTS[CLOUD].1);
        let document = serde_json::json!({"endpoints": [{"name": "on-call", "url": url}], "hold_down": "3s"});
        let document = serde_json::from_value(document).expect("a document");
        let alerts = Alerts::check(document, &settings.alerts, &state.alert_rules).expect("alerts");
        book.set(&settings.telling(alerts)).await.expect("alerts set");
        let _ = tell.send(made.map(drop));
    });
    assert!(
        world.run_until(seconds(90), |_| told.try_recv().is_ok_and(|made| made.is_ok())),
        "a destination"
    );

    handle.stop.cancel();
    world.spawn(CENTRAL, async {});
    world.run_until(seconds(120), |_| taken(&handle.ended).is_some());
    for host in [CENTRAL].into_iter().chain(AGENTS) {
        world.kill(host);
        let to = template.path().join(&world.hosts[host].name);
        crate::world::copy_folder(&world.folder(host), &to).expect("room for a copy");
    }
    template
}

/// Allows these agents to become the Secure Gateway.
pub(crate) async fn mark(state: AppState, agents: Vec<HostId>) {
    let servers = ProcessServers::new(state.store.clone(), &environment());
    for agent in agents {
        if let Err(error) = servers.mark(&name_of(agent), true).await {
            tracing::error!(%error, agent, "Could not be marked");
        }
    }
    if let Some(gateway) = state.gateways.of(&environment()) {
        let _ = gateway.reload().await;
    }
}
