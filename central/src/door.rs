//! Serves a router over TLS to strangers: the one accept loop of central.
//!
//! ```text
//!   accept ──► handshake (bounded, 10 s) ──► connection (bounded) ──► router
//! ```
//!
//! The accept loop awaits nothing but the socket. When too many handshakes are under way the
//! *oldest* makes room: a genuine client needs milliseconds for its own, a stalled one is old.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, http::Extensions};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take, the wait for a next request on the same connection
/// included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(8);
/// The largest head of a request.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// How long requests under way may take to end when central stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long to wait when the operating system gives no more sockets: there is no event to wait for.
const OUT_OF_SOCKETS_PAUSE: Duration = Duration::from_millis(100);

/// How many strangers may stand at one door.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Handshakes under way. Beyond it the oldest is given up.
    pub handshakes: usize,
    /// Connections past their handshake. Beyond it new ones are closed.
    pub connections: usize,
}

/// Puts into each request of a connection who opened it.
pub type Introduce = Arc<dyn Fn(&rustls::ServerConnection, SocketAddr, &mut Extensions) + Send + Sync>;

/// Serves until `cancel`, then lets requests under way end, within [`STOP_GRACE`].
///
/// Dropping the future closes every connection at once; nothing but those requests is lost.
///
/// # Errors
/// When the listener has no address, as after the operating system took it away.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    bounds: Bounds,
    introduce: Introduce,
    cancel: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let door = Door {
        acceptor: TlsAcceptor::from(tls),
        router,
        handshakes: Handshakes { pending: Mutex::default(), most: bounds.handshakes },
        connections: Arc::new(Semaphore::new(bounds.connections)),
        introduce,
        stopping: cancel.clone(),
    };
    let door = Arc::new(door);
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
            // Reaped here so that a long uptime does not collect the ended ones.
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((socket, peer)) => {
                tasks.spawn(Arc::clone(&door).connection(socket, peer));
            }
            Err(error) => {
                debug!(%error, "A connection could not be accepted");
                sleep(OUT_OF_SOCKETS_PAUSE).await;
            }
        }
    }
    drop(listener);
    let ended = timeout(STOP_GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        info!(%address, still = tasks.len(), "Closed connections that did not end in time");
    }
    Ok(())
}

/// What every connection needs.
struct Door {
    acceptor: TlsAcceptor,
    router: Router,
    handshakes: Handshakes,
    connections: Arc<Semaphore>,
    introduce: Introduce,
    stopping: CancellationToken,
}

impl Door {
    async fn connection(self: Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        let making_room = self.handshakes.begin();
        let handshake = timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(socket));
        let stream = tokio::select! {
            () = self.stopping.cancelled() => return,
            () = making_room.cancelled() => return debug!(%peer, "Gave up a handshake to make room"),
            done = handshake => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return debug!(%peer, %error, "A handshake failed"),
                Err(_) => return debug!(%peer, "A handshake took too long"),
            },
        };
        drop(making_room);
        let permit: OwnedSemaphorePermit = match Arc::clone(&self.connections).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => return warn!(%peer, "Closed a connection: there are too many"),
        };
        // It may become a tunnel; a socket that refuses is about to fail anyway.
        let _ = proto::driver::prepare_tunnel_socket(stream.get_ref().0);
        let mut known = Extensions::new();
        known.insert(ConnectInfo(peer));
        (self.introduce)(stream.get_ref().1, peer, &mut known);
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().extend(known.clone());
            hyper::service::Service::call(&router, request)
        });
        let connection = http1().serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        drop(permit);
        if let Err(error) = ended {
            debug!(%peer, %error, "A connection broke off");
        }
    }
}

/// How strangers' requests are read: within bounds of size and time.
pub fn http1() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
    http1
}

/// The handshakes under way, oldest first.
struct Handshakes {
    pending: Mutex<VecDeque<CancellationToken>>,
    most: usize,
}

impl Handshakes {
    /// Begins one; it has to give up when the returned guard is cancelled.
    fn begin(&self) -> HandshakeGuard {
        let token = CancellationToken::new();
        // No code panics while holding the lock, and a token more or less would do no harm.
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that ended are marked by their own guard; they go as soon as they are the oldest.
        while pending.front().is_some_and(CancellationToken::is_cancelled) {
            pending.pop_front();
        }
        if pending.len() >= self.most {
            pending.retain(|token| !token.is_cancelled());
        }
        if pending.len() >= self.most
            && let Some(oldest) = pending.pop_front()
        {
            oldest.cancel();
        }
        pending.push_back(token.clone());
        HandshakeGuard(token)
    }
}

/// A handshake's place. Dropping it gives the place back.
struct HandshakeGuard(CancellationToken);

impl HandshakeGuard {
    async fn cancelled(&self) {
        self.0.cancelled().await;
    }
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_handshake_makes_room_for_the_newest() {
        let handshakes = handshakes();
        let pending: Vec<_> = (0..8).map(|_| handshakes.begin()).collect();
        assert!(pending.iter().all(|guard| !guard.0.is_cancelled()));
        let newest = handshakes.begin();
        assert!(pending[0].0.is_cancelled());
        assert!(!pending[1].0.is_cancelled() && !newest.0.is_cancelled());
    }

    #[test]
    fn a_finished_handshake_gives_its_place_back() {
        let handshakes = handshakes();
        let mut pending: Vec<_> = (0..8).map(|_| handshakes.begin()).collect();
        pending.remove(7);
        let _newest = handshakes.begin();
        assert!(pending.iter().all(|guard| !guard.0.is_cancelled()));
    }

    fn handshakes() -> Handshakes {
        Handshakes { pending: Mutex::default(), most: 8 }
    }
}
