//! The accept loop, over real sockets and TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use central::admin;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::stage::Stage;

/// A limit on waiting for what must happen; not a measure.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_client_is_served_while_hundreds_never_finish_their_handshake() {
    let server = Server::start(Stage::new().router()).await;
    let mut stalled = Vec::new();
    for _ in 0..600 {
        stalled.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(
        server.ask("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.contains("200 OK")
    );
}

#[tokio::test]
async fn a_head_larger_than_its_bound_is_refused() {
    let server = Server::start(Stage::new().router()).await;
    let padding = "x".repeat(64 * 1024);
    let answer = server.ask(&format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Pad: {padding}\r\n\r\n")).await;
    // Whether the refusal arrives depends on how much of the head was still on its way.
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn stopping_ends_the_idle_connections_too() {
    let server = Server::start(Stage::new().router()).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    server.cancel.cancel();
    timeout(SOON, server.task).await.unwrap().unwrap().unwrap();
    let mut rest = Vec::new();
    // Whether the end is a clean close or not, it comes.
    let _ = timeout(SOON, idle.read_to_end(&mut rest)).await.unwrap();
}

/// An admin address with a CA of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    cancel: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
    client: TlsConnector,
}

impl Server {
    pub(crate) async fn start(router: Router) -> Self {
        let (ca_pem, ca, tls) = certificates();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(admin::serve(listener, Arc::new(tls), router, cancel.clone()));
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { address, ca_pem, cancel, task, client: TlsConnector::from(Arc::new(client)) }
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        timeout(SOON, self.client.connect(name, socket)).await.unwrap().unwrap()
    }

    /// Sends this and reads until the end.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        // The server may have heard enough before all is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// A CA, and a server certificate for localhost by it.
fn certificates() -> (String, CertificateDer<'static>, ServerConfig) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (ca_certificate.pem(), ca_certificate.der().clone(), tls)
}
