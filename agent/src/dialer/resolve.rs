//! Names to addresses, once per stream or connection to central, within a time.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// A name server that is silent for this long will not help a client that waits.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Look-ups under way at once. Each holds a thread that cannot be interrupted; without a bound a
/// dead name server would eat the whole thread pool.
const LOOKUPS_MAX: usize = 64;

/// Asks for all addresses of a name; a trait so that tests can play a lying name server.
pub trait Resolver: Send + Sync {
    fn resolve(&self, name: &str) -> impl Future<Output = Result<Vec<IpAddr>, ResolveError>> + Send;
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("the name server did not answer within {RESOLVE_TIMEOUT:?}")]
    TimedOut,
    #[error("it has no address")]
    NoAddress,
    #[error("the look-up failed")]
    Failed(#[source] io::Error),
}

/// The operating system's resolver: hosts file, search domains and all, as on any other program.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let name = name.to_owned();
        let lookups = self.lookups.clone();
        let lookup = async {
            // Closed only with the resolver itself.
            let permit = lookups.acquire_owned().await.map_err(|_| ResolveError::TimedOut)?;
            spawn_blocking(move || {
                // Until the thread returns, not only until the caller lost patience.
                let _permit = permit;
                (name.as_str(), 0).to_socket_addrs().map(|all| all.map(|addr| addr.ip()).collect())
            })
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(ResolveError::Failed)
        };
        timeout(RESOLVE_TIMEOUT, lookup).await.map_err(|_| ResolveError::TimedOut)?
    }
}

/// Every address that `host` has at this moment, at least one: for central, and for a proxy on the way to it.
pub(crate) async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await {
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name server did not answer")),
        Ok(Err(source)) => Err(source),
        Ok(Ok(addrs)) => match addrs.collect::<Vec<_>>() {
            none if none.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "it has no address")),
            addrs => Ok(addrs),
        },
    }
}
