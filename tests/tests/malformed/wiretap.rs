//! Between an agent and central with the private keys of both: ends TLS and the websocket on each
//! side, passes every message on, and says a word of its own when told.
//!
//! Nobody without those keys can stand here. The test can, and so a real agent and a real central
//! get to hear what neither would say.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agent::central::Socket;
use agent::identity::{Identity, tls};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use postern_tests::{Central, Host};
use proto::hello::{CONTROL_PATH, CONTROL_SUBPROTOCOL, TUNNEL_PATH, TUNNEL_SUBPROTOCOL};
use proto::{driver, link};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Who is to hear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ear {
    Agents,
    Centrals,
}

/// Listens on a loopback port as central, and dials central as the agent. Dropped, it ends both.
pub(super) struct Wiretap {
    addr: SocketAddr,
    tunnels: Arc<Tunnels>,
    task: AbortHandle,
}

#[derive(Default)]
struct Tunnels {
    count: AtomicUsize,
    newest: Mutex<Option<Whispers>>,
}

struct Whispers {
    to_agent: mpsc::Sender<Message>,
    to_central: mpsc::Sender<Message>,
}

impl Wiretap {
    /// Takes its place between this host, which is enrolled, and central.
    pub(super) async fn between(host: &Host, central: &Central) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port can be listened on");
        let addr = listener.local_addr().expect("a listener has an address");
        let mut identity = Identity::read(&host.data_dir()).expect("the host is enrolled");
        identity.central = format!("https://{}", central.tunnel()).parse().expect("this is an address");
        let acceptor = TlsAcceptor::from(Arc::new(as_central(central.data_dir().join("ca/server.pem"))));
        let tunnels = Arc::new(Tunnels::default());
        let task = tokio::spawn(listen(listener, acceptor, Arc::new(identity), Arc::clone(&tunnels)));
        Self { addr, tunnels, task: task.abort_handle() }
    }

    /// Where the agent must dial.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many tunnel websockets have crossed so far.
    pub(super) fn tunnels(&self) -> usize {
        self.tunnels.count.load(Ordering::Relaxed)
    }

    /// Says `message` in the newest tunnel, between two messages of the one who should have spoken.
    pub(super) async fn whisper(&self, ear: Ear, message: Message) {
        let to = {
            let newest = self.tunnels.newest.lock().unwrap_or_else(PoisonError::into_inner);
            let whispers = newest.as_ref().expect("there is a tunnel");
            match ear {
                Ear::Agents => whispers.to_agent.clone(),
                Ear::Centrals => whispers.to_central.clone(),
            }
        };
        to.send(message).await.expect("the newest tunnel lives");
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn as_central(server_pem: PathBuf) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(&server_pem)
        .expect("central has a certificate")
        .collect::<Result<Vec<_>, _>>()
        .expect("it is PEM");
    let key = PrivateKeyDer::from_pem_file(&server_pem).expect("its key lies beside it");
    ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("key and certificate belong together")
}

async fn listen(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    identity: Arc<Identity>,
    tunnels: Arc<Tunnels>,
) {
    let mut running = JoinSet::new();
    loop {
        // An accept fails for the connection's own reasons; the next one is another matter.
        let Ok((from_agent, _)) = listener.accept().await else { continue };
        while running.try_join_next().is_some() {}
        let (acceptor, identity, tunnels) = (acceptor.clone(), Arc::clone(&identity), Arc::clone(&tunnels));
        // It ends with either side; both try again, or their test has seen enough.
        running.spawn(async move { pass(from_agent, acceptor, &identity, &tunnels).await });
    }
}

async fn pass(
    from_agent: TcpStream,
    acceptor: TlsAcceptor,
    identity: &Identity,
    tunnels: &Tunnels,
) -> Option<()> {
    from_agent.set_nodelay(true).ok()?;
    let from_agent = acceptor.accept(from_agent).await.ok()?;
    let mut is_tunnel = false;
    #[expect(clippy::result_large_err, reason = "the library's callback has this type")]
    let answer = |request: &Request, mut response: Response| {
        is_tunnel = request.uri().path() == TUNNEL_PATH;
        let subprotocol = if is_tunnel { TUNNEL_SUBPROTOCOL } else { CONTROL_SUBPROTOCOL };
        let headers = response.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        Ok(response)
    };
    // Whatever either end may take, this passes on.
    let agents = accept_hdr_async_with_config(from_agent, answer, None).await.ok()?;
    let (path, subprotocol, config) = if is_tunnel {
        (TUNNEL_PATH, TUNNEL_SUBPROTOCOL, driver::websocket_config())
    } else {
        (CONTROL_PATH, CONTROL_SUBPROTOCOL, link::websocket_config())
    };
    let config = config.max_write_buffer_size(usize::MAX);
    let centrals: Socket = agent::central::open(identity, path, subprotocol, config).await.ok()?.socket;

    let (to_agent, mut agent_hears) = mpsc::channel(1);
    let (to_central, mut central_hears) = mpsc::channel(1);
    if is_tunnel {
        let mut newest = tunnels.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = Some(Whispers { to_agent, to_central });
        tunnels.count.fetch_add(1, Ordering::Relaxed);
    }
    let ((agent_sink, agent_stream), (central_sink, central_stream)) = (agents.split(), centrals.split());
    tokio::select! {
        () = carry(agent_stream, central_sink, &mut central_hears) => {}
        () = carry(central_stream, agent_sink, &mut agent_hears) => {}
    }
    Some(())
}

/// Passes messages on, and whispers between them. Ends with the first close, which is passed on too.
async fn carry(
    mut from: impl Stream<Item = Result<Message, Error>> + Unpin,
    mut to: impl Sink<Message, Error = Error> + Unpin,
    whispers: &mut mpsc::Receiver<Message>,
) {
    loop {
        let message = tokio::select! {
            message = from.next() => message,
            Some(message) = whispers.recv() => Some(Ok(message)),
        };
        let Some(Ok(message)) = message else { return };
        let over = message.is_close();
        // Pings and pongs of the websocket itself are answered by the library on each side.
        if message.is_ping() || message.is_pong() {
            continue;
        }
        if to.send(message).await.is_err() || over {
            return;
        }
    }
}
