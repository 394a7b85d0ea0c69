//! Keeps the control websocket: presence, Raft relay, commands.
//!
//! It never gives up: full jitter up to [`RETRY_MAX`], fresh DNS and every address each time.
//! What a lost link means for the role is decided elsewhere; this room only says up or down.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::{
    Backoff,
    control::{AgentMessage, CentralMessage, RaftCall, RaftReply},
    hello::{AgentHello, CONTROL_PATH, CONTROL_SUBPROTOCOL, ControlAdmission, Refusal, Welcome},
    link::{self, Calls, LinkEnd},
};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};

use crate::{
    central::{OpenError, open},
    identity::Identity,
};
use program::explain;

/// The first ceiling of the wait between attempts.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The last one.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// After a planned stop central is back soon: the ceiling of every wait, for so long. The restart of a
/// service takes seconds, the upgrade of a host minutes.
const PLANNED_RETRY: Duration = Duration::from_millis(400);
const PLANNED_FOR: Duration = Duration::from_secs(300);
/// How long central has to answer the hello. It may be probing another boot of this agent.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);
/// A link that lasted this long was a success: the next attempt is quick again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The way to central for everyone in this process. Clones are the same link.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    outbound: Mutex<Option<mpsc::Sender<AgentMessage>>>,
    calls: Calls,
}

/// What becomes of the link, in order.
#[derive(Debug)]
pub enum ControlEvent {
    Up(Welcome),
    Message(CentralMessage),
    /// `silent_for`: how long nothing had been heard when the link was given up; `None` for an attempt that failed.
    Down {
        why: String,
        silent_for: Option<Duration>,
    },
}

/// Why one link ended, or did not come about.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Refused(Refusal),
    #[error("the control connection ended: {0}")]
    Link(LinkEnd),
    #[error("the agent's certificate was renewed")]
    Renewed,
    #[error("central stops as planned")]
    Planned,
}

impl Control {
    /// Queues a message; `false` when there is no link to put it on.
    pub fn tell(&self, message: AgentMessage) -> bool {
        let outbound = self.0.outbound.lock().unwrap_or_else(PoisonError::into_inner);
        outbound.as_ref().is_some_and(|outbound| outbound.try_send(message).is_ok())
    }

    /// Carries one Raft RPC to central, or through it. `Err(None)` is a time-out.
    pub async fn call(&self, mut call: RaftCall) -> Result<Box<RawValue>, Option<String>> {
        let limit = Duration::from_millis(call.ttl_ms);
        let pending = self.0.calls.begin().ok_or_else(|| Some("too many calls are unanswered".to_owned()))?;
        call.id = pending.id;
        if !self.tell(AgentMessage::RaftCall(call)) {
            return Err(Some("there is no control connection to central".into()));
        }
        pending.wait(limit).await
    }

    fn set(&self, outbound: Option<mpsc::Sender<AgentMessage>>) {
        *self.0.outbound.lock().unwrap_or_else(PoisonError::into_inner) = outbound;
        self.0.calls.fail_all();
    }

    fn answered(&self, reply: RaftReply) {
        self.0.calls.answer(reply);
    }
}

/// Keeps the link up for as long as it is polled. Dropping it closes the link.
///
/// `hello` is asked for each attempt: the seat may have changed since the last one. Calls for
/// this agent's Raft arrive as messages; answers to its own are paired here.
pub async fn keep_connected(
    control: Control,
    mut identity: watch::Receiver<Arc<Identity>>,
    hello: impl Fn() -> AgentHello,
    events: mpsc::Sender<ControlEvent>,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut expected_until: Option<tokio::time::Instant> = None;
    loop {
        let started = tokio::time::Instant::now();
        let current = identity.borrow_and_update().clone();
        let lost = one_link(&control, &current, &mut identity, hello(), &events).await;
        control.set(None);
        let why = explain(&lost);
        let silent_for = match &lost {
            Lost::Link(LinkEnd::Dead { silent_for }) => Some(*silent_for),
            Lost::Link(_) | Lost::Refused(_) | Lost::Renewed | Lost::Planned => Some(Duration::ZERO),
            Lost::Open(_) => None,
        };
        if events.send(ControlEvent::Down { why: why.clone(), silent_for }).await.is_err() {
            return;
        }
        if started.elapsed() >= STABLE_AFTER || matches!(lost, Lost::Renewed) {
            backoff.reset();
        }
        match &lost {
            Lost::Planned => expected_until = Some(tokio::time::Instant::now() + PLANNED_FOR),
            // It was there in between, so this is another matter.
            Lost::Link(_) => expected_until = None,
            Lost::Open(_) | Lost::Refused(_) | Lost::Renewed => {}
        }
        let expected = expected_until.is_some_and(|until| tokio::time::Instant::now() < until);
        let wait = match expected {
            true => PLANNED_RETRY.mul_f64(rand::random()),
            false => backoff.next(rand::random()),
        };
        match (&lost, expected) {
            (Lost::Planned, _) => tracing::info!("Central stops as planned; waiting for its return"),
            (_, true) => tracing::debug!(%why, retry_in = ?wait, "Central is not back yet"),
            (_, false) => {
                tracing::warn!(%why, retry_in = ?wait, attempt = backoff.failures(), "Not connected to central");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = identity.changed() => {}
        }
    }
}

async fn one_link(
    control: &Control,
    current: &Identity,
    identity: &mut watch::Receiver<Arc<Identity>>,
    hello: AgentHello,
    events: &mpsc::Sender<ControlEvent>,
) -> Lost {
    match connect(current, &hello).await {
        Err(lost) => lost,
        Ok((socket, welcome)) => {
            let (outbound, mut queue) = mpsc::channel(link::OUTBOUND_MESSAGES_MAX);
            control.set(Some(outbound));
            let settings = welcome.settings;
            tracing::info!(central = %welcome.software, environment = %welcome.environment, "Connected to central");
            // Full or closed means that the one who decides is gone or hopelessly behind: the
            // link ends, and the next one begins with the whole picture.
            let (overrun, mut overrun_seen) =
                watch::channel(events.send(ControlEvent::Up(welcome)).await.is_err());
            let mut planned = false;
            let inbound = |message| match message {
                CentralMessage::Stopping {} => planned = true,
                CentralMessage::RaftReply(reply) => control.answered(reply),
                CentralMessage::Probe { id } => drop(control.tell(AgentMessage::Present { id })),
                message => {
                    if events.try_send(ControlEvent::Message(message)).is_err() {
                        overrun.send_replace(true);
                    }
                }
            };
            let lost = tokio::select! {
                end = link::drive(socket, &mut queue, inbound, settings.ping_interval(), settings.dead_after()) => {
                    Lost::Link(end)
                }
                _ = overrun_seen.wait_for(|overrun| *overrun) => Lost::Link(LinkEnd::Stuck),
                _ = identity.changed() => Lost::Renewed,
            };
            if planned { Lost::Planned } else { lost }
        }
    }
}

async fn connect(identity: &Identity, hello: &AgentHello) -> Result<(crate::central::Socket, Welcome), Lost> {
    let opened = open(identity, CONTROL_PATH, CONTROL_SUBPROTOCOL, link::websocket_config()).await?;
    let mut socket = opened.socket;
    match link::greet(&mut socket, hello, WELCOME_LIMIT).await {
        Ok(ControlAdmission::Welcome(welcome)) => Ok((socket, welcome)),
        Ok(ControlAdmission::Refused(refusal)) => Err(Lost::Refused(refusal)),
        Err(end) => {
            if matches!(end, LinkEnd::Dead { .. } | LinkEnd::Stuck) {
                opened.line.stood_still();
            }
            Err(Lost::Link(end))
        }
    }
}
