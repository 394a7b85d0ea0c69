//! The limits to compare with: relays of two hops, each a process as central and the agent are, a
//! connection per stream, without mux, fence, resume or allow-list. One speaks plain TCP between
//! its hops, one TLS 1.3 as Postern does (rustls, ring): what that costs, every secure gateway of two
//! processes costs. A third pair is no limit but Postern's own tunnel with nothing around it ([`bare`]).
//!
//! A hop is the bench's own program, started again with the hidden command `relay-hop`.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use clap::ValueEnum;
use postern_tests::{Folder, needs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::bare;

/// Larger pieces gain nothing on loopback.
const PIECE_BYTES: usize = 64 * 1024;

/// What is spoken between the two hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    Tcp,
    Tls,
    Tunnel,
}

/// Where the two hops are, if not both on this host.
pub(crate) struct Apart {
    /// The outer hop's address; it is on this process's host.
    pub(crate) outer: IpAddr,
    /// The inner hop's address, and its host's network namespace.
    pub(crate) inner: IpAddr,
    pub(crate) namespace: String,
}

/// Two relay processes in a row in front of a target. Dropped, both end.
pub(crate) struct TwoHops {
    addr: SocketAddr,
    hops: [Hop; 2],
    _certificate: Option<Folder>,
}

impl TwoHops {
    pub(crate) fn to(target: SocketAddr, between: Between) -> Self {
        Self::apart(target, between, None)
    }

    /// The same with the hops on two hosts.
    pub(crate) fn apart(target: SocketAddr, between: Between, apart: Option<&Apart>) -> Self {
        let certificate = (between != Between::Tcp).then(|| {
            let folder = Folder::new("relay");
            let made =
                rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate is made");
            let pem = made.cert.pem() + &made.signing_key.serialize_pem();
            std::fs::write(folder.join(PEM), pem).expect("a folder of our own can be written to");
            folder
        });
        let pem = certificate.as_ref().map(|folder| folder.join(PEM));
        let hops = if between == Between::Tunnel {
            // Dialled out, as an agent does: the outer end has to be there first.
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let outer = Start { listen: apart.map(|apart| apart.outer), ..Start::default() };
            let mut first = Hop::start(any, Some(Speaks::Central), pem.as_deref(), outer);
            let namespace = apart.map(|apart| apart.namespace.as_str());
            let inner = Start { tunnel: Some(first.next_addr()), namespace, ..Start::default() };
            let second = Hop::start(target, Some(Speaks::Agent), pem.as_deref(), inner);
            [first, second]
        } else {
            let speaks = |speaks| pem.is_some().then_some(speaks);
            let inner = apart.map(|apart| Start {
                listen: Some(apart.inner),
                namespace: Some(&apart.namespace),
                ..Start::default()
            });
            let inner = inner.unwrap_or_default();
            let second = Hop::start(target, speaks(Speaks::TlsFrom), pem.as_deref(), inner);
            [Hop::start(second.addr, speaks(Speaks::TlsTo), pem.as_deref(), Start::default()), second]
        };
        Self { addr: hops[0].addr, hops, _certificate: certificate }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pids(&self) -> [u32; 2] {
        [0, 1].map(|hop| self.hops[hop].process.id())
    }
}

const PEM: &str = "relay.pem";

/// What a hop speaks beside plain TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speaks {
    /// TLS with whoever connects.
    TlsFrom,
    /// TLS with its target.
    TlsTo,
    /// Central's end of a tunnel; its target is not used.
    Central,
    /// The agent's end, which dials central's.
    Agent,
}

/// How a hop is started: options of the hidden command.
#[derive(Debug, clap::Args)]
pub(crate) struct HopArgs {
    target: SocketAddr,
    #[arg(long, requires = "pem")]
    speaks: Option<Speaks>,
    /// Certificate and key
    #[arg(long)]
    pem: Option<PathBuf>,
    /// Where central's end is
    #[arg(long)]
    tunnel: Option<SocketAddr>,
    /// Where the other hop comes
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
}

/// What is special about a hop.
#[derive(Default)]
struct Start<'a> {
    tunnel: Option<SocketAddr>,
    listen: Option<IpAddr>,
    /// Of the host it is on.
    namespace: Option<&'a str>,
}

struct Hop {
    addr: SocketAddr,
    stdout: BufReader<ChildStdout>,
    process: Child,
}

impl Hop {
    fn start(target: SocketAddr, speaks: Option<Speaks>, pem: Option<&Path>, start: Start<'_>) -> Self {
        let us = std::env::current_exe().expect("a process knows its executable");
        // A session of its own, as the gateway's programs have: where the kernel groups processes by session, each gets
        // its group's share. Both commands become the program, so the process id stays.
        let mut command = Command::new(needs::command("setsid", "util-linux"));
        if let Some(namespace) = start.namespace {
            command.args(["ip", "netns", "exec", namespace]);
        }
        command.arg(us);
        command.args(["relay-hop", &target.to_string()]);
        if let Some(speaks) = speaks.and_then(|speaks| speaks.to_possible_value()) {
            command.args(["--speaks", speaks.get_name()]);
        }
        if let Some(pem) = pem {
            command.arg("--pem").arg(pem);
        }
        if let Some(tunnel) = start.tunnel {
            command.args(["--tunnel", &tunnel.to_string()]);
        }
        if let Some(listen) = start.listen {
            command.args(["--listen", &listen.to_string()]);
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("a relay hop could not be started: {error}"));
        let stdout = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        let mut hop = Self { addr: target, stdout, process };
        hop.addr = hop.next_addr();
        hop
    }

    /// The next address that it announces.
    fn next_addr(&mut self) -> SocketAddr {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a pipe can be read");
        line.trim().parse().unwrap_or_else(|_| panic!("a relay hop announced no address: {line:?}"))
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        // It fails only where the hop has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a hop does with its connections.
#[derive(Clone)]
enum Carry {
    Plain,
    From(TlsAcceptor),
    To(TlsConnector),
}

pub(crate) fn acceptor(pem: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(pem).expect("the bench wrote a certificate");
    let key = PrivateKeyDer::from_pem_file(pem).expect("and its key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they belong together");
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) fn connector(pem: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(pem).expect("the bench wrote a certificate");
    roots.add(certificate).expect("a certificate that we made is one");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("this is a name")
}

/// The whole life of a hop's process: prints where it listens, carries every connection to its target,
/// and ends when its stdin does, which the kernel sees to should the bench be killed.
pub(crate) async fn run_hop(args: HopArgs) -> io::Result<()> {
    let (gone, bench_gone) = oneshot::channel::<()>();
    // A thread, because reading stdin blocks; it goes with the process.
    std::thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        drop(gone);
    });
    tokio::select! {
        _ = bench_gone => Ok(()),
        ended = hop(args) => ended,
    }
}

async fn hop(HopArgs { target, speaks, pem, tunnel, listen }: HopArgs) -> io::Result<()> {
    let pem = pem.unwrap_or_default();
    let carry = match speaks {
        Some(Speaks::Central) => return bare::central(acceptor(&pem), listen).await,
        Some(Speaks::Agent) => {
            return bare::agent(connector(&pem), tunnel.unwrap_or(target), target).await;
        }
        Some(Speaks::TlsFrom) => Carry::From(acceptor(&pem)),
        Some(Speaks::TlsTo) => Carry::To(connector(&pem)),
        None => Carry::Plain,
    };
    let listener = TcpListener::bind((listen, 0)).await?;
    println!("{}", listener.local_addr()?);
    Err(accept(listener, target, carry).await)
}

async fn accept(listener: TcpListener, target: SocketAddr, carry: Carry) -> io::Error {
    // A relayed connection ends with its own two sockets, or with the process.
    let mut running = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return error,
        };
        while running.try_join_next().is_some() {}
        let carry = carry.clone();
        // A connection that breaks is reported by the bench's client, whose connection breaks with it.
        running.spawn(async move { drop(one(stream, target, carry).await) });
    }
}

async fn one(from: TcpStream, target: SocketAddr, carry: Carry) -> io::Result<()> {
    from.set_nodelay(true)?;
    match carry {
        Carry::Plain => {
            let to = TcpStream::connect(target).await?;
            to.set_nodelay(true)?;
            let (from_read, from_write) = from.into_split();
            let (to_read, to_write) = to.into_split();
            // A task a direction, so that both cores can be used, as they can in the gateway.
            let up = tokio::spawn(pump(from_read, to_write));
            pump(to_read, from_write).await?;
            up.await?
        }
        Carry::From(acceptor) => {
            let from = acceptor.accept(from).await?;
            let to = TcpStream::connect(target).await?;
            to.set_nodelay(true)?;
            both_ways(from, to).await
        }
        Carry::To(connector) => {
            let to = TcpStream::connect(target).await?;
            to.set_nodelay(true)?;
            both_ways(from, connector.connect(name(), to).await?).await
        }
    }
}

/// One task for both directions: the two halves of a TLS connection share its state.
async fn both_ways(from: impl AsyncRead + AsyncWrite, to: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (from_read, from_write) = tokio::io::split(from);
    let (to_read, to_write) = tokio::io::split(to);
    tokio::try_join!(pump(from_read, to_write), pump(to_read, from_write)).map(|_| ())
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..count]).await?;
        // TLS keeps what the socket did not take.
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::{Destination, Direction, transfer};

    #[tokio::test]
    async fn a_hop_carries_both_directions_to_their_end() {
        let destination = Destination::start().await;
        let (addr, hop) = hop(destination.addr(), Carry::Plain).await;

        transfer(addr, Direction::Down, 2, 1_000_003).await;
        transfer(addr, Direction::Up, 2, 1_000_003).await;
        hop.abort();
    }

    #[tokio::test]
    async fn two_hops_with_tls_between_them_do_so_too() {
        let folder = Folder::new("relay");
        let pem = folder.join(PEM);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&pem, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
        let destination = Destination::start().await;
        let (inner, second) = hop(destination.addr(), Carry::From(acceptor(&pem))).await;
        let (outer, first) = hop(inner, Carry::To(connector(&pem))).await;

        transfer(outer, Direction::Down, 2, 1_000_003).await;
        transfer(outer, Direction::Up, 2, 1_000_003).await;
        first.abort();
        second.abort();
    }

    async fn hop(target: SocketAddr, carry: Carry) -> (SocketAddr, tokio::task::JoinHandle<io::Error>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        (addr, tokio::spawn(accept(listener, target, carry)))
    }
}
