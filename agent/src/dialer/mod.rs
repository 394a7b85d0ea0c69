//! Reaching destinations inside the network, and nothing the site has not allowed.
//!
//! ```text
//!   OPEN ──► allow-list, as the file stands now ──► Permitted ──► race over its addresses ──► socket
//! ```

pub mod address;
pub mod allow_list;
pub mod dial;
mod list_file;
pub mod own_address;
pub mod probe;
mod rationed;
pub mod resolve;

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use program::descriptors::Budget;
use proto::frame::{Open, ResetCode, Transport};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

pub use self::rationed::Placed;
use self::{
    allow_list::{AllowList, CheckError},
    dial::{Connector, race},
    list_file::ListFile,
    rationed::{Rationed, is_no_room},
    resolve::{ResolveError, Resolver, SystemResolver},
};
use crate::config::{AllowSource, Config, ConfigError};

/// Connections being opened at once. Each holds a descriptor and, at the destination, a place in a queue; while its
/// name is looked up, descriptors that nobody counts.
const DIALS_MAX: usize = 1_000;
/// Of those, for one destination: a dead one must not take all places from the living.
const DIALS_PER_DESTINATION_MAX: usize = 128;

/// Opens connections to allowed destinations.
pub struct Dialer<R = SystemResolver, C = Rationed> {
    list: Mutex<ListFile>,
    resolver: R,
    connector: C,
    /// One destination's name look-up and connection, all its addresses together.
    limit: Duration,
    dials: Semaphore,
    by_destination: Mutex<HashMap<(String, u16), Arc<Semaphore>>>,
}

/// Why the dialer cannot start: the allow-list cannot be used.
pub type DialerError = ConfigError;

/// What was asked for, as messages name it: `destination jdbc-orders at 10.0.4.7:1521`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    destination: String,
    host: String,
    port: u16,
}

/// Why a stream got no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{wanted} is refused by this site")]
    NotAllowed { wanted: Wanted, source: CheckError },
    #[error("{wanted} has no usable name")]
    NoAddress { wanted: Wanted, source: ResolveError },
    #[error("{wanted} did not accept within {limit:?} (tried {tried:?})")]
    TimedOut { wanted: Wanted, tried: Vec<SocketAddr>, limit: Duration },
    #[error("{wanted} could not be reached (tried {tried:?})")]
    Connect { wanted: Wanted, tried: Vec<SocketAddr>, source: io::Error },
    #[error("{wanted} was not tried")]
    NoRoom { wanted: Wanted, source: io::Error },
    #[error("{wanted} could not be tried within {limit:?}: too many connections are being opened")]
    Busy { wanted: Wanted, limit: Duration },
    #[error("{wanted} wants datagrams, which this version does not carry")]
    Datagrams { wanted: Wanted },
}

impl DialError {
    /// What the other end of the tunnel is told.
    pub fn code(&self) -> ResetCode {
        match self {
            Self::NotAllowed { .. } | Self::Datagrams { .. } => ResetCode::NOT_ALLOWED,
            Self::NoAddress { source: ResolveError::TimedOut, .. } | Self::TimedOut { .. } => {
                ResetCode::TIMED_OUT
            }
            Self::NoAddress { .. } | Self::Connect { .. } => ResetCode::UNREACHABLE,
            Self::Busy { .. } | Self::NoRoom { .. } => ResetCode::TOO_MANY_STREAMS,
        }
    }
}

impl Dialer {
    /// Reads the allow-list. A missing list file allows nothing; a bad one is an error.
    pub fn open(config: &Config) -> Result<Self, DialerError> {
        let own_ports: Vec<_> =
            Some(config.peers.listen.port()).filter(|port| *port != 0).into_iter().collect();
        let list = match &config.allow {
            AllowSource::Inline(list) => ListFile::fixed(list.clone(), &own_ports),
            AllowSource::File(path) => ListFile::open(path, &own_ports)?,
        };
        let budget = Budget::of_this_process();
        let dials = (budget.streams() / 4).clamp(1, DIALS_MAX);
        Ok(Self::assemble(list, SystemResolver::default(), Rationed(budget), config.dial_timeout, dials))
    }
}

impl<R: Resolver, C: Connector> Dialer<R, C> {
    fn assemble(list: ListFile, resolver: R, connector: C, limit: Duration, dials: usize) -> Self {
        Self {
            list: Mutex::new(list),
            resolver,
            connector,
            limit,
            dials: Semaphore::new(dials),
            by_destination: Mutex::default(),
        }
    }

    /// Also keeps streams away from this port of this host: the agent itself listens there.
    pub fn protect(&self, own_port: u16) {
        self.lock_list().protect(own_port);
    }

    /// The allow-list as its file stands now.
    pub fn allow_list(&self) -> Arc<AllowList> {
        self.lock_list().current()
    }

    /// Where the allow-list stands, if it has a file of its own.
    pub fn allow_list_path(&self) -> Option<std::path::PathBuf> {
        self.lock_list().path().map(Path::to_owned)
    }

    /// Opens the connection a stream asks for. Cancel-safe: dropping it ends every attempt.
    pub async fn dial(&self, open: &Open) -> Result<C::Stream, DialError> {
        let wanted = Wanted {
            destination: open.destination().to_owned(),
            host: open.host().to_owned(),
            port: open.port(),
        };
        match open.transport() {
            Transport::Tcp => self.dial_tcp(wanted).await,
            Transport::Udp => Err(DialError::Datagrams { wanted }),
        }
    }

    async fn dial_tcp(&self, wanted: Wanted) -> Result<C::Stream, DialError> {
        let limit = self.limit;
        let deadline = Instant::now() + limit;
        let busy = |wanted| DialError::Busy { wanted, limit };
        let turn = self.turn(&wanted);
        // One's own destination first: a queue there must not hold places meant for all.
        let Ok(Ok(_own)) = timeout_at(deadline, turn.acquire()).await else { return Err(busy(wanted)) };
        let Ok(Ok(_place)) = timeout_at(deadline, self.dials.acquire()).await else {
            return Err(busy(wanted));
        };
        let list = self.allow_list();
        let permitted =
            match timeout_at(deadline, list.check(&wanted.host, wanted.port, &self.resolver)).await {
                Err(_) => return Err(DialError::NoAddress { wanted, source: ResolveError::TimedOut }),
                Ok(Err(CheckError::Resolve { source, .. })) => {
                    return Err(DialError::NoAddress { wanted, source });
                }
                Ok(Err(source)) => return Err(DialError::NotAllowed { wanted, source }),
                Ok(Ok(permitted)) => permitted,
            };
        let tried = || permitted.addrs().to_vec();
        match timeout_at(deadline, race(permitted.addrs(), &self.connector)).await {
            Err(_) => Err(DialError::TimedOut { wanted, tried: tried(), limit }),
            Ok(Err(source)) if is_no_room(&source) => Err(DialError::NoRoom { wanted, source }),
            Ok(Err(source)) => Err(DialError::Connect { wanted, tried: tried(), source }),
            Ok(Ok((stream, _))) => Ok(stream),
        }
    }

    /// The queue of one destination; forgotten when nobody stands in it.
    fn turn(&self, wanted: &Wanted) -> Arc<Semaphore> {
        let mut queues = self.by_destination.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.len() >= DIALS_MAX {
            queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        queues
            .entry((wanted.host.clone(), wanted.port))
            .or_insert_with(|| Arc::new(Semaphore::new(DIALS_PER_DESTINATION_MAX)))
            .clone()
    }

    fn lock_list(&self) -> std::sync::MutexGuard<'_, ListFile> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.destination.is_empty() {
            write!(f, "{}:{}", self.host.escape_debug(), self.port)
        } else {
            write!(f, "destination {} at {}:{}", self.destination, self.host.escape_debug(), self.port)
        }
    }
}

// The allow-list's and the dialer's promises are one: what is dialled was allowed.
#[cfg(test)]
mod tests;
