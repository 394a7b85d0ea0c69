//! What dev does once central answers, in order, and only through what a user has: the REST API and `postern-agent`.

use std::{
    collections::BTreeMap, convert::Infallible, future::pending, net::SocketAddr, path::Path, time::Duration,
};

use program::explain;
use proto::Name;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{
    DevError,
    agents::Agents,
    announce::{self, Announcement, Proof},
    api::{Api, ApiError},
    args::{DevArgs, NewDestination},
    folder::Folder,
    page::{self, Page},
};
use crate::{
    destination::{DestinationUrl, Direction},
    gateway::view::GatewayState,
};

/// From the start of the agents until traffic may flow. Usually three seconds.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// For a listener to be opened once its destination is there. Usually at once.
const LISTENING_WITHIN: Duration = Duration::from_secs(10);
/// The API has nothing to wait on yet, so it is asked again and again.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For the built-in page to come through the gateway.
const PROOF_WITHIN: Duration = Duration::from_secs(20);

/// Who and what takes part.
pub(super) struct Cast<'a> {
    pub(super) api: &'a Api,
    pub(super) ca_cert: &'a Path,
    pub(super) token_file: &'a Path,
    /// Opens the UI, once.
    pub(super) sign_in_url: &'a str,
    pub(super) folder: &'a Folder,
    /// Where agents dial central.
    pub(super) tunnel_listen: SocketAddr,
}

/// `GET /gateway`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Gateway {
    state: GatewayState,
    active: Option<Name>,
}

/// One of `GET /process-servers`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct ProcessServer {
    name: Name,
    candidate: bool,
    configured: bool,
    restart_required: bool,
    connected: bool,
}

/// One of `GET /destinations`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Destination {
    name: Name,
    url: DestinationUrl,
    direction: Direction,
    enabled: bool,
    listen: Option<SocketAddr>,
    problem: Option<String>,
}

/// Plays until it is dropped.
pub(super) async fn play(
    args: &DevArgs,
    cast: &Cast<'_>,
    agents: &mut Agents,
) -> Result<Infallible, DevError> {
    start_agents(args.agents, cast, agents).await?;
    let active = until_up(cast.api, agents).await?;

    let known: Vec<Destination> = cast.api.get("/destinations").await?;
    let page = match needs_page(args, &known) {
        true => Some(Page::bind().await.map_err(DevError::Page)?),
        false => None,
    };
    let mut wanted = args.destinations.clone();
    if let Some(page) = &page {
        let url = format!("http://{}", page.address().map_err(DevError::Page)?);
        // Both are of our own making; if they were no name and no URL, the user would read why.
        let destination = format!("{}={url}", page::NAME).parse().map_err(DevError::Proof)?;
        wanted.push(destination);
    }
    create_destinations(cast.api, &known, &wanted).await?;
    let destinations = until_listening(cast.api).await?;

    let serving = async {
        match page {
            Some(page) => page.serve().await.map_err(DevError::Page).map(|()| "the built-in web page"),
            None => pending().await,
        }
    };
    let rest = async {
        let proof = match destinations.iter().find(|one| one.name.as_str() == page::NAME) {
            Some(page) if wanted.iter().any(|one| one.name == page.name) => Some(prove(page.listen).await?),
            Some(_) | None => None,
        };
        announce::announce(&announcement(args, cast, agents, &active, &destinations, proof));
        pending::<Result<&'static str, DevError>>().await
    };
    tokio::select! {
        ended = serving => Err(DevError::Ended(ended?)),
        ended = rest => Err(DevError::Ended(ended?)),
    }
}

/// The page is for those who named no destination, neither now nor earlier in this folder.
fn needs_page(args: &DevArgs, known: &[Destination]) -> bool {
    args.destinations.is_empty() && known.iter().all(|one| one.name.as_str() == page::NAME)
}

/// Enrols those that are not, starts all, marks all, and restarts the first if the group is not founded yet.
async fn start_agents(count: u8, cast: &Cast<'_>, agents: &mut Agents) -> Result<(), DevError> {
    let api = cast.api;
    for number in 1..=count {
        // "agent-" and a number is a name; were it not, the user would read why.
        let name: Name =
            format!("agent-{number}").parse().map_err(|error| DevError::Proof(format!("{error}")))?;
        if !agents.is_enrolled(&name) {
            let made = api.post("/enrollment-tokens", json!({ "name": name })).await?;
            let token = made.get("token").and_then(serde_json::Value::as_str).unwrap_or_default();
            agents.enroll(&name, cast.tunnel_listen, cast.ca_cert, token).await?;
        }
        agents.start(&name)?;
    }
    until(api, agents, "the agents to connect", |_, servers| servers.iter().all(|server| server.connected))
        .await?;
    for server in ours(api, agents).await? {
        if !server.candidate {
            api.patch(&format!("/process-servers/{}", server.name), json!({ "candidate": true })).await?;
        }
    }
    // Only the founder needs it; in a folder that resumes the group is there.
    if let Some(first) = ours(api, agents).await?.first().filter(|first| first.restart_required) {
        api.post(&format!("/process-servers/{}/restart", first.name), json!({})).await?;
    }
    Ok(())
}

/// Waits until one agent is active and all others could take over; says who is active.
async fn until_up(api: &Api, agents: &Agents) -> Result<Name, DevError> {
    until(api, agents, "the gateway to be up and all candidates configured", |gateway, servers| {
        gateway.state == GatewayState::Up
            && gateway.active.is_some()
            && servers.iter().all(|server| server.configured && server.connected)
    })
    .await?
    .active
    .ok_or(DevError::Ended("the gateway"))
}

/// Looks until `holds`, gives up when an agent dies or after [`UP_WITHIN`].
async fn until(
    api: &Api,
    agents: &Agents,
    what: &str,
    holds: impl Fn(&Gateway, &[ProcessServer]) -> bool,
) -> Result<Gateway, DevError> {
    let mut seen = String::new();
    let looking = async {
        loop {
            let gateway: Gateway = api.get("/gateway").await?;
            let servers = ours(api, agents).await?;
            if servers.len() == agents.started().len() && holds(&gateway, &servers) {
                return Ok::<_, ApiError>(gateway);
            }
            seen = format!("waited for {what} and saw {gateway:?} {servers:?}");
            sleep(LOOK_EVERY).await;
        }
    };
    let mut ended = agents.ended();
    let not_up = |state: String| DevError::NotUp { within: UP_WITHIN, state, logs: agents.log_tails() };
    let looked = tokio::select! {
        looked = timeout(UP_WITHIN, looking) => looked,
        Ok(ended) = ended.wait_for(Option::is_some) => return Err(not_up(ended.clone().unwrap_or_default())),
    };
    match looked {
        Ok(gateway) => Ok(gateway?),
        Err(_) => Err(not_up(seen)),
    }
}

/// The Process Servers of this run's agents. A folder may know more.
async fn ours(api: &Api, agents: &Agents) -> Result<Vec<ProcessServer>, ApiError> {
    let all: Vec<ProcessServer> = api.get("/process-servers").await?;
    let ours = |server: &ProcessServer| agents.started().iter().any(|agent| agent.name == server.name);
    Ok(all.into_iter().filter(ours).collect())
}

/// Creates what is missing and turns what leads elsewhere. What else a folder knows stays as it is.
async fn create_destinations(
    api: &Api,
    known: &[Destination],
    wanted: &[NewDestination],
) -> Result<(), DevError> {
    let known: BTreeMap<_, _> = known.iter().map(|one| (&one.name, &one.url)).collect();
    for NewDestination { name, url } in wanted {
        match known.get(name) {
            None => api.post("/destinations", json!({ "name": name, "url": url })).await?,
            Some(there) if *there == url => continue,
            Some(_) => api.patch(&format!("/destinations/{name}"), json!({ "url": url })).await?,
        };
    }
    Ok(())
}

/// Waits until every destination that should has an open listener.
async fn until_listening(api: &Api) -> Result<Vec<Destination>, DevError> {
    let mut why = String::new();
    let mut waiting_for = String::new();
    let looking = async {
        loop {
            let all: Vec<Destination> = api.get("/destinations").await?;
            let mut listening: Vec<_> =
                all.into_iter().filter(|one| one.enabled && one.direction == Direction::ToSite).collect();
            let closed = |one: &&Destination| {
                one.problem.is_some() || one.listen.is_none_or(|listen| listen.port() == 0)
            };
            match listening.iter().find(closed) {
                None => {
                    listening.sort_by(|a, b| a.name.cmp(&b.name));
                    return Ok::<_, ApiError>(listening);
                }
                Some(closed) => {
                    waiting_for = closed.name.to_string();
                    why = closed.problem.clone().unwrap_or_else(|| "central has not opened it yet".into());
                }
            }
            sleep(LOOK_EVERY).await;
        }
    };
    match timeout(LISTENING_WITHIN, looking).await {
        Ok(listening) => Ok(listening?),
        Err(_) => Err(DevError::NotListening { name: waiting_for, why }),
    }
}

/// Fetches the built-in page as any client would: from the listener, through the tunnel, to the page.
async fn prove(listen: Option<SocketAddr>) -> Result<Proof, DevError> {
    let failed = |why: String| DevError::Proof(why);
    let listen = listen.ok_or_else(|| failed("its listener is not open".into()))?;
    let client = reqwest::Client::builder().no_proxy().timeout(PROOF_WITHIN).build();
    let client = client.map_err(|error| failed(explain(&error)))?;
    let began = Instant::now();
    let answer = client.get(format!("http://{listen}/")).send().await;
    let answer = answer.map_err(|error| failed(explain(&error)))?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| failed(explain(&error)))?;
    let took = began.elapsed();
    if !status.is_success() || !page::is_it(&body) {
        return Err(failed(format!("status {status} and {} bytes that are not the page", body.len())));
    }
    Ok(Proof { status: status.as_u16(), took })
}

fn announcement<'a>(
    args: &DevArgs,
    cast: &Cast<'a>,
    agents: &'a Agents,
    active: &'a Name,
    destinations: &'a [Destination],
    proof: Option<Proof>,
) -> Announcement<'a> {
    let listening = |one: &'a Destination| {
        one.listen.map(|listen| announce::Listening { name: &one.name, url: &one.url, listen })
    };
    Announcement {
        json: args.json,
        admin_url: cast.api.url(),
        token: cast.api.token(),
        token_file: cast.token_file,
        sign_in_url: cast.sign_in_url,
        ca_cert: cast.ca_cert,
        data_dir: cast.folder.path(),
        is_temporary: cast.folder.is_temporary(),
        tunnel_listen: cast.tunnel_listen,
        program: agents.program(),
        agents: agents.started(),
        active,
        destinations: destinations.iter().filter_map(listening).collect(),
        proof,
    }
}
