//! What the administration asks of the rooms that carry traffic. They implement it; this room
//! knows nothing of tunnels and sockets.

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use proto::{EnvironmentName, Name};

/// The gateway's and the listeners' answers to an administrator.
#[async_trait]
pub trait DataPlane: Send + Sync + 'static {
    /// Opens a real stream to the destination through the active tunnel and closes it again. The
    /// caller sets the deadline by dropping the future.
    ///
    /// # Errors
    /// Why no stream came to be, with the agent's own reason where it has spoken.
    async fn open(&self, environment: &EnvironmentName, destination: &Name) -> Result<Opened, OpenFailure>;

    /// Waits until the listener of an enabled destination is open or has failed; for ever if it never
    /// is one of them. Cancel-safe.
    async fn settled(&self, environment: &EnvironmentName, destination: &Name);

    /// What the destination's listener does at this moment.
    fn listening(&self, environment: &EnvironmentName, destination: &Name) -> Listening;
}

/// A stream came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The Process Server whose tunnel carried it.
    pub via: Name,
    /// From the request until the destination had accepted.
    pub took: Duration,
}

/// No stream came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    #[error("no tunnel is up, so nothing behind it can be reached")]
    NoTunnel,
    /// The agent tried, or would not; `reason` is its own sentence.
    #[error("{reason}")]
    Refused { via: Name, reason: String },
    /// The tunnel was lost while the stream was being opened.
    #[error("the tunnel through {via} was lost meanwhile")]
    TunnelLost { via: Name },
    /// Central could not even ask.
    #[error("{0}")]
    Central(String),
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
