//! Serves a router over TLS to strangers: the one accept loop of central.
//!
//! ```text
//!   accept ──► handshake (bounded, 10 s) ──► connection (bounded) ──► router
//!                                                 └ silent: 8 s before the first request, 30 s between two ──► closed
//! ```
//!
//! The accept loop awaits nothing but the socket. When too many handshakes are under way the
//! *oldest* makes room: a genuine client needs milliseconds for its own, a stalled one is old.

use std::{
    collections::VecDeque,
    future::pending,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, http::Extensions};
use bytes::Bytes;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first request's head may take, from the handshake.
const HEADER_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the next one's may take, from the end of the answer before it: the wait for it included. Longer than people and
/// programs pause between two requests that belong together, for one that is sent while we close is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a peer has to take our goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
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

impl Bounds {
    /// The same, and no more than a part of the file descriptors this process may have: where they are few, no door
    /// takes what the records and the other doors need.
    fn within(self, descriptors: usize) -> Self {
        Self {
            handshakes: self.handshakes.min(descriptors / 16).max(1),
            connections: self.connections.min(descriptors / 8).max(1),
        }
    }
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
    let bounds = bounds.within(program::descriptors::raise());
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
        let ended = converse(stream, self.router.clone(), known, &self.stopping).await;
        drop(permit);
        if let Err(error) = ended {
            debug!(%peer, %error, "A connection broke off");
        }
    }
}

/// Whose turn it is on a connection.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// The peer's, until then.
    Peers { until: Instant },
    /// Ours: a request is being answered, for as long as that takes.
    Ours,
}

/// Answers one request after the other, until the peer leaves, becomes something else than HTTP, or has been silent for
/// too long. However it ends by us, TLS says goodbye: without, a client takes it for an attack or a crash.
async fn converse<S>(
    stream: S,
    router: Router,
    known: Extensions,
    stopping: &CancellationToken,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let turn = watch::Sender::new(Turn::Peers { until: Instant::now() + HEADER_TIMEOUT });
    let mut seen = turn.subscribe();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().extend(known.clone());
        turn.send_replace(Turn::Ours);
        let answering = Answering(turn.clone());
        let answer = hyper::service::Service::call(&router, request);
        async move { answer.await.map(|answer| answer.map(|body| Body { body, _answering: answering })) }
    });
    let connection = http1().serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = pin!(connection);
    loop {
        let until = match *seen.borrow_and_update() {
            Turn::Peers { until } => Some(until),
            Turn::Ours => None,
        };
        let silent = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            ended = connection.as_mut() => return ended,
            // What tells it lives in the connection.
            _ = seen.changed() => {}
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                return connection.await;
            }
            () = silent => {
                connection.as_mut().graceful_shutdown();
                // A peer that has sent half a head, or does not read, is cut off after all.
                return timeout(CLOSE_TIMEOUT, connection).await.unwrap_or(Ok(()));
            }
        }
    }
}

/// A request that is being answered; dropped with the last of its answer.
struct Answering(watch::Sender<Turn>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_replace(Turn::Peers { until: Instant::now() + IDLE_TIMEOUT });
    }
}

/// An answer's body, which knows when it is over.
struct Body {
    body: axum::body::Body,
    _answering: Answering,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// How strangers' requests are read: within bounds of size. Those of time are [`converse`]'s: this library's own breaks
/// a connection off where it should be closed.
pub fn http1() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1.header_read_timeout(None).max_buf_size(HEADER_BYTES_MAX);
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
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    #[tokio::test(start_paused = true)]
    async fn who_pauses_too_long_between_requests_is_told_goodbye() {
        let mut client = client(Router::new().route("/", get(|| async { "hello" }))).await;
        assert!(ask(&mut client).await.ends_with("hello"));
        sleep(IDLE_TIMEOUT - SECOND).await;
        assert!(ask(&mut client).await.ends_with("hello"), "a pause within the limit costs nothing");
        let began = Instant::now();
        // Without TLS's own goodbye this is an error.
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        assert_eq!(began.elapsed(), IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_asks_is_told_goodbye_sooner() {
        let mut client = client(Router::new()).await;
        let began = Instant::now();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        assert_eq!(began.elapsed(), HEADER_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_is_cut_off() {
        let mut client = client(Router::new()).await;
        client.write_all(b"GET / HT").await.unwrap();
        let began = Instant::now();
        while client.read(&mut [0; 16]).await.is_ok_and(|read| read > 0) {}
        assert!(began.elapsed() <= HEADER_TIMEOUT + CLOSE_TIMEOUT, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_as_long_as_it_takes() {
        let slow = get(|| async {
            sleep(100 * IDLE_TIMEOUT).await;
            let rest = futures_util::stream::once(async {
                sleep(100 * IDLE_TIMEOUT).await;
                Ok::<_, std::convert::Infallible>("at last")
            });
            axum::body::Body::from_stream(rest)
        });
        let mut client = client(Router::new().route("/", slow)).await;
        let began = Instant::now();
        assert!(ask(&mut client).await.contains("at last"));
        assert_eq!(began.elapsed(), 200 * IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn when_central_stops_an_idle_connection_is_told_goodbye_at_once() {
        let stopping = CancellationToken::new();
        let router = Router::new().route("/", get(|| async { "hello" }));
        let mut client = client_until(router, stopping.clone()).await;
        ask(&mut client).await;
        let began = Instant::now();
        stopping.cancel();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    type Client = tokio_rustls::client::TlsStream<tokio::io::DuplexStream>;

    const SECOND: Duration = Duration::from_secs(1);

    async fn client(router: Router) -> Client {
        client_until(router, CancellationToken::new()).await
    }

    /// A client whose handshake with this router is done. All of it happens in memory: a paused clock does not run ahead.
    async fn client_until(router: Router, stopping: CancellationToken) -> Client {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let trusting = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let stream = TlsAcceptor::from(Arc::new(server)).accept(far).await.unwrap();
            converse(stream, router, Extensions::new(), &stopping).await
        });
        let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting));
        connector.connect("localhost".try_into().unwrap(), near).await.unwrap()
    }

    /// The answer to `GET /`, as far as it came before the peer paused.
    async fn ask(client: &mut Client) -> String {
        client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        while !(heard.ends_with(b"hello") || heard.ends_with(b"0\r\n\r\n")) {
            assert!(client.read_buf(&mut heard).await.unwrap() > 0, "it ended: {heard:?}");
        }
        String::from_utf8(heard).unwrap()
    }

    fn handshakes() -> Handshakes {
        Handshakes { pending: Mutex::default(), most: 8 }
    }
}
