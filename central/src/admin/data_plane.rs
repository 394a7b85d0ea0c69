//! What the administration asks of the rooms that carry traffic. They implement it; this room
//! knows nothing of tunnels and sockets.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use proto::{
    AgentId, EnvironmentName, Name,
    trace::{Ask, Hop, Step},
};

use crate::{
    destination::Destination,
    gateway::probing::NotAsked,
    listener::ledger::{ClosedStream, OpenStream, StreamKey},
    spread::Spread,
};

/// The gateway's and the listeners' answers to an administrator.
#[async_trait]
pub trait DataPlane: Send + Sync + 'static {
    /// Opens a real stream to the destination through the active tunnel, says its first words and closes
    /// it again. The caller sets the deadline by dropping the future.
    ///
    /// # Errors
    /// Why no stream came to be, with the agent's own reason where it has spoken.
    async fn try_out(
        &self,
        environment: &EnvironmentName,
        destination: &Destination,
    ) -> Result<TriedOut, OpenFailure>;

    /// Lets an agent try a destination from its own host.
    ///
    /// # Errors
    /// Why there is no answer.
    async fn ask(
        &self,
        environment: &EnvironmentName,
        agent: AgentId,
        ask: Ask,
    ) -> Result<Vec<Step>, NotAsked>;

    /// Waits until the listener of an enabled destination is open or has failed; for ever if it never
    /// is one of them. Cancel-safe.
    async fn settled(&self, environment: &EnvironmentName, destination: &Name);

    /// Up to `limit` open streams behind `after`.
    fn streams(
        &self,
        environment: &EnvironmentName,
        after: Option<StreamKey>,
        limit: usize,
    ) -> Vec<OpenStream>;

    /// The last streams that ended, newest first.
    fn closed_streams(&self, environment: &EnvironmentName) -> Vec<ClosedStream>;

    /// Ends a stream, both its ends reset. `false`: there is none.
    fn end_stream(&self, environment: &EnvironmentName, stream: StreamKey) -> bool;

    /// What is carried, in numbers.
    fn traffic(&self, environment: &EnvironmentName) -> TrafficView;

    /// The same by the type of the destinations, `postgresql` and the like. Looks at every open stream.
    fn carried(&self, environment: &EnvironmentName) -> BTreeMap<&'static str, Carriage>;

    /// What the destination's listener does at this moment.
    fn listening(&self, environment: &EnvironmentName, destination: &Name) -> Listening;
}

/// What an Environment's gateway carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrafficView {
    /// Streams now.
    pub open: usize,
    /// Clients that wait for a tunnel now.
    pub parked: usize,
    /// Streams since central started.
    pub opened: u64,
    /// Clients that got none since then.
    pub refused: u64,
    /// By the tunnel there is now; a new one begins at 0.
    pub bytes_to_site: u64,
    pub bytes_to_cloud: u64,
    pub round_trip: Option<Duration>,
    /// Of the tunnel there is now: its websockets.
    pub lanes: usize,
    pub times: StreamTimes,
}

/// What destinations of one type carry, and have carried since central started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carriage {
    /// Streams now.
    pub open: usize,
    pub opened: u64,
    /// Clients that got no stream.
    pub refused: u64,
    /// Of streams that are open and of those that have ended. Never fall.
    pub bytes_to_site: u64,
    pub bytes_to_cloud: u64,
}

/// Where the time of clients went since central started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTimes {
    /// Waiting for a tunnel.
    pub parked: Spread,
    /// From the opening until the destination had accepted.
    pub dialled: Spread,
    /// From the opening until the destination's first byte.
    pub first_byte: Spread,
    /// From the arrival to the end.
    pub lasted: Spread,
}

/// From a round trip within a site to a destination that hardly answers, milliseconds.
const OPENING_MS: &[u64] = &[5, 20, 50, 100, 250, 1_000, 5_000, 30_000];
/// From a request to a connection pool's oldest, milliseconds.
const LASTED_MS: &[u64] = &[100, 1_000, 10_000, 60_000, 600_000, 3_600_000, 86_400_000];

impl Default for StreamTimes {
    fn default() -> Self {
        let opening = || Spread::between(OPENING_MS);
        Self {
            parked: opening(),
            dialled: opening(),
            first_byte: opening(),
            lasted: Spread::between(LASTED_MS),
        }
    }
}

/// A stream came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriedOut {
    /// The Process Server whose tunnel carried it.
    pub via: Name,
    /// From the request until the destination had accepted, milliseconds.
    pub ms: u64,
    /// TLS and greeting, said through the stream.
    pub words: [Step; 2],
}

/// No stream came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    #[error("no tunnel is up, so nothing behind it can be reached")]
    NoTunnel,
    /// The agent tried, or would not; `reason` is its own sentence.
    #[error("{reason}")]
    Refused {
        via: Name,
        /// Where, as far as the refusal says.
        at: Hop,
        reason: String,
    },
    /// The tunnel was lost while the stream was being opened.
    #[error("the tunnel through {via} was lost meanwhile")]
    TunnelLost { via: Name },
    /// Central could not even ask, or nobody answered.
    #[error("{0}")]
    Central(String),
}

impl OpenFailure {
    /// The Process Server that was tried.
    pub fn via(&self) -> Option<&Name> {
        match self {
            Self::Refused { via, .. } | Self::TunnelLost { via } => Some(via),
            Self::NoTunnel | Self::Central(_) => None,
        }
    }
}

/// The state of a destination's listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    /// It is disabled, or the change has not been followed yet.
    Closed,
    /// Clients may connect here.
    At(SocketAddr),
    /// It cannot be opened, with the operating system's reason: "address in use".
    Failed(String),
}
