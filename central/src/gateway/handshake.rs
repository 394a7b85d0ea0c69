//! The doors for agents: three websocket endpoints on the tunnel listener, over mutual TLS.
//!
//! Who an agent is comes from its certificate; the hello is checked here for everything that
//! needs no decision (version, clock, clone, claim), and the keeper decides the rest. A check
//! leaves a type behind: a tunnel runs only with the keeper's [`Admitted`].

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use proto::{
    EnvironmentName,
    control::{AgentMessage, CentralMessage, RaftReply},
    driver::{self, LaneEnd, WebSocket},
    hello::{
        AgentHello, CLOCK_SKEW_MAX, CONTROL_PATH, CONTROL_SUBPROTOCOL, ControlAdmission, LANE_PATH,
        LANE_SUBPROTOCOL, LaneHello, Refusal, RefusalCode, Resume, TUNNEL_PATH, TUNNEL_SUBPROTOCOL,
        TunnelAdmission, TunnelHello, Versions, WIRE_VERSION, Welcome,
    },
    link::{self, LinkEnd},
};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use super::{
    environment::Environment,
    keeper::{Admitted, Event},
    registry::AgentLink,
    websocket::{Connection, upgrade},
};
use crate::enrolment::{AgentIdentity, Enrolment};

/// How long an agent may take from the websocket handshake to its hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How long another boot of an agent has to prove that it lives.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How long the witness is given to apply the claim a tunnel comes with.
const CLAIM_LIMIT: Duration = Duration::from_secs(1);
/// How long the websocket before is given to end when a session continues.
const LANE_LIMIT: Duration = Duration::from_secs(2);
/// How many Raft RPCs of one agent may be under way through central.
const RELAYED_MAX: usize = 64;

/// Control's websocket: few messages, and a library's.
type ControlSocket = WebSocketStream<Connection>;
/// A tunnel's: all the bytes, and our own.
type TunnelSocket = WebSocket<Connection>;

/// Whoever opened the TLS connection. Put into each request by the listener.
#[derive(Debug, Clone)]
pub struct Caller {
    pub identity: Option<AgentIdentity>,
    pub remote: SocketAddr,
}

/// What the endpoints need. Cheap to clone.
#[derive(Clone)]
pub struct Doors {
    pub environments: Arc<BTreeMap<EnvironmentName, Arc<Environment>>>,
    pub enrolment: Enrolment,
}

/// The endpoints.
pub fn routes(doors: Doors) -> Router {
    Router::new()
        .route(CONTROL_PATH, get(control))
        .route(TUNNEL_PATH, get(tunnel))
        .route(LANE_PATH, get(lane))
        .with_state(doors)
}

async fn control(
    State(doors): State<Doors>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    match find(&doors, &caller).await {
        Ok((environment, identity)) => upgrade(request, CONTROL_SUBPROTOCOL, async move |connection| {
            let config = Some(link::websocket_config());
            let socket = WebSocketStream::from_raw_socket(connection, Role::Server, config).await;
            control_session(environment, identity, caller.remote, socket).await;
        }),
        Err(refusal) => refusal,
    }
}

async fn tunnel(
    State(doors): State<Doors>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    match find(&doors, &caller).await {
        Ok((environment, identity)) => upgrade(request, TUNNEL_SUBPROTOCOL, move |connection| {
            tunnel_session(environment, identity, WebSocket::new(connection, driver::Role::Server))
        }),
        Err(refusal) => refusal,
    }
}

async fn lane(
    State(doors): State<Doors>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    match find(&doors, &caller).await {
        Ok((environment, identity)) => upgrade(request, LANE_SUBPROTOCOL, move |connection| {
            lane_session(environment, identity, WebSocket::new(connection, driver::Role::Server))
        }),
        Err(refusal) => refusal,
    }
}

async fn find(doors: &Doors, caller: &Caller) -> Result<(Arc<Environment>, AgentIdentity), Response> {
    let Some(identity) = caller.identity.clone() else {
        let text = "an agent's certificate is required here: enrol first (postern-agent enroll)\n";
        return Err((StatusCode::UNAUTHORIZED, text).into_response());
    };
    let Some(environment) = doors.environments.get(&identity.environment) else {
        let text = format!("no Environment is named {} here\n", identity.environment);
        return Err((StatusCode::FORBIDDEN, text).into_response());
    };
    // A certificate of a removed Process Server, or of a key that was replaced, opens nothing.
    match doors.enrolment.admit(&identity, OffsetDateTime::now_utc()).await {
        Ok(_record) => Ok((environment.clone(), identity)),
        Err(error) => {
            tracing::warn!(agent = %identity.name, remote = %caller.remote, %error, "Refused an agent");
            Err((StatusCode::FORBIDDEN, format!("{error}\n")).into_response())
        }
    }
}

async fn control_session(
    environment: Arc<Environment>,
    identity: AgentIdentity,
    remote: SocketAddr,
    mut socket: ControlSocket,
) {
    let hello: AgentHello = match link::hear(&mut socket, HELLO_LIMIT).await {
        Ok(hello) => hello,
        Err(LinkEnd::Malformed(why)) => return refuse_control(socket, malformed(&why)).await,
        Err(end) => return tracing::debug!(agent = %identity.name, %end, "No hello came"),
    };
    if let Err(refusal) = judge(&environment, &identity, &hello).await {
        tracing::warn!(environment = %environment.name, agent = %identity.name, %remote, %refusal, "Refused a control connection");
        return refuse_control(socket, refusal).await;
    }
    let welcome = ControlAdmission::Welcome(Welcome {
        version: WIRE_VERSION,
        software: env!("CARGO_PKG_VERSION").into(),
        environment: environment.name.clone(),
        name: identity.name.clone(),
        settings: environment.settings,
    });
    if link::say(&mut socket, &welcome).await.is_err() {
        return;
    }
    let (outbound, mut queue) = mpsc::channel(link::OUTBOUND_MESSAGES_MAX);
    let id = environment.connection_id();
    let link = Arc::new(AgentLink::new(id, identity, hello, remote, outbound));
    if environment.keeper.send(Event::Connected(link.clone())).await.is_err() {
        return;
    }
    let relaying = Arc::new(Semaphore::new(RELAYED_MAX));
    let settings = environment.settings;
    let end = tokio::select! {
        end = link::drive(
            socket,
            &mut queue,
            |message| receive(&environment, &link, &relaying, message),
            settings.ping_interval(),
            settings.dead_after(),
        ) => end.to_string(),
        () = link.closed.cancelled() => "closed by central".to_owned(),
    };
    tracing::info!(environment = %environment.name, agent = %link.name, %end, "A control connection ended");
    link.closed.cancel();
    link.fail_calls();
    // Only fails when the keeper is gone, and then nobody keeps a register.
    let _ = environment.keeper.send(Event::Disconnected(link)).await;
}

/// Everything about a control hello that needs no decision of the keeper.
async fn judge(
    environment: &Environment,
    identity: &AgentIdentity,
    hello: &AgentHello,
) -> Result<(), Refusal> {
    speaks(hello.versions, &hello.software)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let skew = now.abs_diff(Duration::from_millis(hello.unix_ms));
    if skew > CLOCK_SKEW_MAX {
        return Err(Refusal {
            code: RefusalCode::Clock,
            message: format!(
                "the clock of {} differs from central's by {} s, at most {} s are allowed: set the host's clock (NTP)",
                identity.name,
                skew.as_secs(),
                CLOCK_SKEW_MAX.as_secs()
            ),
        });
    }
    if let Some(other) = environment.registry.link(identity.agent)
        && other.boot != hello.boot
        && other.is_present(PROBE_LIMIT).await
    {
        return Err(Refusal {
            code: RefusalCode::Cloned,
            message: format!(
                "{} is connected already, from {}: this is a copy of its data directory; enrol this host as a Process Server of its own",
                identity.name, other.remote
            ),
        });
    }
    Ok(())
}

fn speaks(versions: Versions, software: &str) -> Result<(), Refusal> {
    if versions.agree(Versions::OURS).is_some() {
        return Ok(());
    }
    let advice =
        if versions.min > Versions::OURS.max { "upgrade central first" } else { "upgrade the agent" };
    Err(Refusal {
        code: RefusalCode::Version,
        message: format!(
            "agent {software} speaks wire versions {} to {}, central {} speaks {} to {}: {advice}",
            versions.min,
            versions.max,
            env!("CARGO_PKG_VERSION"),
            Versions::OURS.min,
            Versions::OURS.max
        ),
    })
}

fn malformed(why: &str) -> Refusal {
    Refusal { code: RefusalCode::Malformed, message: format!("the hello was not understood: {why}") }
}

async fn refuse_control(mut socket: ControlSocket, refusal: Refusal) {
    // The agent learns it or sees the socket close.
    let _ = link::say(&mut socket, &ControlAdmission::Refused(refusal)).await;
    let _ = tokio::time::timeout(HELLO_LIMIT, socket.close(None)).await;
}

async fn refuse_tunnel(mut socket: TunnelSocket, refusal: Refusal) {
    // The agent learns it or sees the socket close.
    let _ = link::say(&mut socket, &TunnelAdmission::Refused(refusal)).await;
    let _ = tokio::time::timeout(HELLO_LIMIT, socket.close(None)).await;
}

/// One message of an agent. Never blocks: what takes time goes its own way.
fn receive(
    environment: &Arc<Environment>,
    link: &Arc<AgentLink>,
    relaying: &Arc<Semaphore>,
    message: AgentMessage,
) {
    link.heard();
    let event = match message {
        AgentMessage::RaftCall(call) => {
            let Ok(permit) = relaying.clone().try_acquire_owned() else {
                let result = Err(format!("more than {RELAYED_MAX} calls are under way"));
                return link.tell(CentralMessage::RaftReply(RaftReply { id: call.id, result }));
            };
            let (environment, link) = (environment.clone(), link.clone());
            // Bounded by the permits and by each call's own time.
            tokio::spawn(async move {
                let reply = environment.relay(&link, call).await;
                link.tell(CentralMessage::RaftReply(reply));
                drop(permit);
            });
            return;
        }
        AgentMessage::RaftReply(reply) => return link.answered(reply),
        AgentMessage::Present { .. } => return link.is_here(),
        AgentMessage::DestinationProbed(answer) => return link.probed(answer),
        AgentMessage::AskGateway { id } => Event::Asked { link: link.clone(), id },
        AgentMessage::Report(report) => Event::Reported { link: link.clone(), report },
        AgentMessage::Leaving {} => Event::Leaving { link: link.clone() },
        AgentMessage::SeatLeft { seat } => Event::SeatLeft { agent: link.agent, seat },
    };
    // A keeper this far behind cannot take more: the agent comes back with its newest word.
    if environment.keeper.try_send(event).is_err() {
        link.closed.cancel();
    }
}

async fn tunnel_session(environment: Arc<Environment>, identity: AgentIdentity, mut socket: TunnelSocket) {
    let hello: TunnelHello = match link::hear(&mut socket, HELLO_LIMIT).await {
        Ok(hello) => hello,
        Err(LinkEnd::Malformed(why)) => return refuse_tunnel(socket, malformed(&why)).await,
        Err(end) => return tracing::debug!(agent = %identity.name, %end, "No hello came"),
    };
    match knock(&environment, identity, &hello).await {
        Ok(admitted) => carry(&environment, &hello, admitted, socket).await,
        Err(refusal) => refuse_tunnel(socket, refusal).await,
    }
}

async fn lane_session(environment: Arc<Environment>, identity: AgentIdentity, mut socket: TunnelSocket) {
    let hello: LaneHello = match link::hear(&mut socket, HELLO_LIMIT).await {
        Ok(hello) => hello,
        Err(LinkEnd::Malformed(why)) => return refuse_tunnel(socket, malformed(&why)).await,
        Err(end) => return tracing::debug!(agent = %identity.name, %end, "No hello came"),
    };
    match knock_beside(&environment, identity, &hello).await {
        Ok(admitted) => carry(&environment, &hello.tunnel, admitted, socket).await,
        Err(refusal) => refuse_tunnel(socket, refusal).await,
    }
}

/// One admitted websocket, to its end.
async fn carry(
    environment: &Arc<Environment>,
    hello: &TunnelHello,
    admitted: Admitted,
    socket: TunnelSocket,
) {
    let lane = admitted.lane.clone();
    let end = run_lane(environment, hello, admitted, socket).await;
    lane.ended.cancel();
    // Only fails when the keeper is gone, and then nobody waits.
    let _ = environment.keeper.send(Event::LaneEnded { lane: lane.id, end }).await;
}

async fn knock(
    environment: &Environment,
    identity: AgentIdentity,
    hello: &TunnelHello,
) -> Result<Admitted, Refusal> {
    speaks(hello.versions, "of this tunnel")?;
    // Only a wait: the claim is on its way to the witness. The fence judges, and an epoch that it has
    // admitted before needs no witness to come back.
    if let Some(witness) = environment.witness().filter(|w| w.seat.group == hello.epoch.group) {
        witness.group.has_applied(hello.epoch.claim, CLAIM_LIMIT).await;
    }
    decided(environment, |reply| Event::Knock { peer: identity, hello: hello.clone(), reply }).await
}

/// No wait for a claim: a lane comes beside an epoch that is admitted, or not at all.
async fn knock_beside(
    environment: &Environment,
    identity: AgentIdentity,
    hello: &LaneHello,
) -> Result<Admitted, Refusal> {
    speaks(hello.tunnel.versions, "of this lane")?;
    decided(environment, |reply| Event::LaneKnock { peer: identity, hello: hello.clone(), reply }).await
}

/// Asks the keeper.
async fn decided(
    environment: &Environment,
    event: impl FnOnce(oneshot::Sender<Result<Admitted, Refusal>>) -> Event,
) -> Result<Admitted, Refusal> {
    let stopping = || Refusal { code: RefusalCode::Stopping, message: "central is stopping".into() };
    let (reply, answer) = oneshot::channel();
    environment.keeper.send(event(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

async fn run_lane(
    environment: &Arc<Environment>,
    hello: &TunnelHello,
    admitted: Admitted,
    mut socket: TunnelSocket,
) -> LaneEnd {
    let Admitted { tunnel, incoming, lane, continues } = admitted;
    let mut resume = None;
    if let Some(before) = continues {
        if let Some(ended) = before
            && tokio::time::timeout(LANE_LIMIT, ended.cancelled()).await.is_err()
        {
            tracing::warn!("The websocket before did not end in time; the session is not continued");
            return LaneEnd::Stopped;
        }
        tunnel.detach();
        let theirs = hello.resume.map_or(0, |resume| resume.received_through);
        if let Err(error) = tunnel.reattach(theirs) {
            let refusal = Refusal { code: RefusalCode::CannotResume, message: error.to_string() };
            refuse_tunnel(socket, refusal).await;
            return LaneEnd::Stopped;
        }
        resume = Some(Resume { received_through: tunnel.received_through() });
    }
    let admission =
        TunnelAdmission::Admitted { version: WIRE_VERSION, settings: environment.settings, resume };
    if let Err(end) = link::say(&mut socket, &admission).await {
        tracing::debug!(%end, "An admission could not be told");
        return LaneEnd::Stopped;
    }
    if let Some(mut incoming) = incoming {
        // Ends with the session. Streams towards the cloud have no destinations yet.
        tokio::spawn(async move {
            while let Some(stream) = incoming.next().await {
                stream.refuse(
                    proto::mux::ResetCode::UNKNOWN_DESTINATION,
                    "central has no destination of this name",
                );
            }
        });
    }
    tokio::select! {
        end = tunnel.run(socket) => end,
        () = lane.stop.cancelled() => LaneEnd::Stopped,
    }
}
