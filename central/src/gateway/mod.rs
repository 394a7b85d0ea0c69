//! The gateway: one Environment's Secure Gateway connection, from hello to stream.
//!
//! Everything outside this room holds a [`Gateway`]: it reads snapshots and sends commands; the
//! room's own task, one per Environment, decides.

pub mod environment;
pub mod fence;
pub mod guests;
pub mod handshake;
pub mod keeper;
pub mod lanes;
pub mod probing;
pub mod proxy_processor;
pub mod registry;
pub mod seating;
pub mod session;
pub mod view;
pub mod websocket;
pub mod witness;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proto::{EnvironmentName, Name};
use tokio::sync::{mpsc, oneshot, watch};

pub use view::{DrainView, GatewayView};

/// What an administrator may ask of a gateway.
#[derive(Debug)]
pub enum Command {
    /// Planned switch to `to`, or to the next configured candidate.
    Switch { to: Option<Name>, reply: oneshot::Sender<Result<(), CommandError>> },
    /// List the old actives that drain, with whoever holds them open.
    Drains { reply: oneshot::Sender<Result<Vec<DrainView>, CommandError>> },
    /// End what still drains, its streams with it.
    EndDrain { reply: oneshot::Sender<Result<(), CommandError>> },
    /// Restart the agent of this Process Server.
    Restart { name: Name, reply: oneshot::Sender<Result<(), CommandError>> },
    /// A test has shown that nobody reaches this destination any more: tell it.
    Unreachable { destination: Name, summary: String, reply: oneshot::Sender<Result<(), CommandError>> },
    /// Found the group anew on one agent, because its quorum is gone for good.
    Recover { recovery: Recovery, reply: oneshot::Sender<Result<u64, CommandError>> },
    /// Tell people of something that works, but may not work when it is needed.
    TellDegraded { summary: String, reply: oneshot::Sender<Result<(), CommandError>> },
    /// Process Servers were marked, unmarked or removed in the store, or alerts set: read them again.
    Reload { reply: oneshot::Sender<Result<(), CommandError>> },
}

/// What an administrator typed to have a group without a quorum founded anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The surviving candidate.
    pub on: Name,
    /// The members that are said to be lost: exactly those that are away.
    pub lost: BTreeSet<Name>,
    /// Whether a tunnel that still lives may be cut.
    pub lose_connection: bool,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("no Process Server is named {0}")]
    Unknown(Name),
    #[error("{0} is not connected to central, so it cannot be told: start postern-agent on that host")]
    NotConnected(Name),
    #[error("{0} is not a configured candidate: mark it as candidate and wait until it has joined the group")]
    NotConfigured(Name),
    #[error("{0} is already the active gateway")]
    AlreadyActive(Name),
    #[error(
        "{0} still drains after the last switch: wait until its streams have ended, at most gateway.drain_timeout, \
         or see who holds it open (posternctl gateway drain) and end them (posternctl gateway end-drain)"
    )]
    Draining(Name),
    #[error("no old active drains: there is nothing to end")]
    NothingDrains,
    #[error("there is no other configured candidate to switch to")]
    NoOther,
    #[error("there is no gateway group to recover: mark a candidate and restart it, that founds one")]
    NoGroup,
    #[error("{0} is not marked as Secure Gateway Candidate: recovery needs one that is")]
    NotMarked(Name),
    #[error("the gateway group still has its quorum, {0} leads it: there is nothing to recover")]
    QuorumLives(String),
    #[error(
        "nobody leads the gateway group, but a quorum may still come together by itself: try again in {} s",
        .0.as_secs() + 1
    )]
    TooEarly(Duration),
    #[error("{0} is connected to central, so it is not lost: it joins the new group by itself")]
    NotLost(Name),
    #[error("{} away and must be confirmed as lost by name: recovery takes their seats", list(.0))]
    Unconfirmed(Vec<Name>),
    #[error(
        "the tunnel of {active} lives and carries {streams} streams, which recovery ends: confirm with \
         accept_risk \"lose-connection\" (posternctl: --accept-risk=lose-connection)"
    )]
    WouldCut { active: Name, streams: usize },
    #[error(
        "{0} did not answer central within 1 s: look at postern-agent status on its host, then try again"
    )]
    NoAnswer(Name),
    #[error("the gateway group changed meanwhile: look at posternctl raft status, then decide")]
    Changed,
    #[error("central is stopping")]
    Stopping,
    #[error("central could not read or write its store: {0}")]
    Store(String),
}

fn list(names: &[Name]) -> String {
    let all: Vec<&str> = names.iter().map(Name::as_str).collect();
    format!("{} {}", all.join(", "), if all.len() == 1 { "is" } else { "are" })
}

/// A handle on one Environment's gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<GatewayView>>,
}

impl Gateway {
    pub fn new(commands: mpsc::Sender<Command>, view: watch::Receiver<Arc<GatewayView>>) -> Self {
        Self { commands, view }
    }

    /// The newest snapshot.
    pub fn view(&self) -> Arc<GatewayView> {
        self.view.borrow().clone()
    }

    /// Follows the snapshots.
    pub fn watch(&self) -> watch::Receiver<Arc<GatewayView>> {
        self.view.clone()
    }

    /// Orders a planned switch. Returns when the order stands, not when it is carried out.
    pub async fn switch(&self, to: Option<Name>) -> Result<(), CommandError> {
        self.command(|reply| Command::Switch { to, reply }).await
    }

    /// Who drains, and who still holds them open.
    pub async fn drains(&self) -> Result<Vec<DrainView>, CommandError> {
        self.command(|reply| Command::Drains { reply }).await
    }

    /// Ends the streams of whoever drains.
    pub async fn end_drain(&self) -> Result<(), CommandError> {
        self.command(|reply| Command::EndDrain { reply }).await
    }

    /// Tells an agent to restart. Returns when it was told.
    pub async fn restart(&self, name: Name) -> Result<(), CommandError> {
        self.command(|reply| Command::Restart { name, reply }).await
    }

    /// Tells whoever wants to hear of it that nobody reaches a destination any more.
    pub async fn tell_unreachable(&self, destination: Name, summary: String) -> Result<(), CommandError> {
        self.command(|reply| Command::Unreachable { destination, summary, reply }).await
    }

    /// Has the group founded anew on `recovery.on` under a higher generation, which is answered. What is
    /// left of the old group learns that it was superseded and joins again.
    pub async fn recover(&self, recovery: Recovery) -> Result<u64, CommandError> {
        self.command(|reply| Command::Recover { recovery, reply }).await
    }

    /// Tells whoever wants alerts of a lost tolerance that the next failover may fail, as `summary` says.
    pub async fn tell_degraded(&self, summary: String) -> Result<(), CommandError> {
        self.command(|reply| Command::TellDegraded { summary, reply }).await
    }

    /// To be called after Process Servers or the settings of alerts changed in the store.
    pub async fn reload(&self) -> Result<(), CommandError> {
        self.command(|reply| Command::Reload { reply }).await
    }

    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> Command,
    ) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| CommandError::Stopping)?;
        answer.await.map_err(|_| CommandError::Stopping)?
    }
}

/// All gateways of this central, by Environment.
#[derive(Clone, Default)]
pub struct Gateways(Arc<BTreeMap<EnvironmentName, Gateway>>);

impl Gateways {
    pub fn new(gateways: BTreeMap<EnvironmentName, Gateway>) -> Self {
        Self(Arc::new(gateways))
    }

    pub fn of(&self, environment: &EnvironmentName) -> Option<&Gateway> {
        self.0.get(environment)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&EnvironmentName, &Gateway)> {
        self.0.iter()
    }
}
