//! Receivers of alerts for tests: real sockets, real TLS, and every way to behave badly.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

/// An HTTP server that does the same to everyone.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: mpsc::UnboundedReceiver<Heard>,
}

/// A request, as it came.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone)]
pub(crate) enum Manner {
    /// These bytes, and the end.
    Answers(String),
    /// These bytes, and then more and more of the same letter.
    NeverEnds(String),
    /// These bytes, and then silence.
    FallsSilent(String),
    /// Closes without a word.
    HangsUp,
    /// Repeats what it was sent.
    Echoes,
    /// A proxy: says yes to CONNECT, and connects to this address whatever was asked for.
    Tunnels(SocketAddr),
}

impl Manner {
    pub(crate) fn status(status: u16) -> Self {
        Self::answer(status, "", "thank you")
    }

    /// `headers` end with a line end each.
    pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Answers(format!("HTTP/1.1 {status} So\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
    }
}

impl Receiver {
    pub(crate) async fn plain(manner: Manner) -> Self {
        Self::start(manner, None).await
    }

    pub(crate) async fn with_tls(manner: Manner, tls: ServerConfig) -> Self {
        Self::start(manner, Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    async fn start(manner: Manner, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (tell, requests) = mpsc::unbounded_channel();
        let counter = connections.clone();
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (manner, tls, tell) = (manner.clone(), tls.clone(), tell.clone());
                tokio::spawn(async move {
                    match tls {
                        None => behave(tcp, manner, tell).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                behave(stream, manner, tell).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, connections, requests }
    }

    pub(crate) async fn heard(&mut self) -> Heard {
        tokio::time::timeout(Duration::from_secs(10), self.requests.recv()).await.unwrap().unwrap()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

async fn behave<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    manner: Manner,
    tell: mpsc::UnboundedSender<Heard>,
) {
    let Some(heard) = read_request(&mut stream).await else { return };
    let echo = format!("{}\n{}", heard.head, String::from_utf8_lossy(&heard.body));
    let _ = tell.send(heard);
    match manner {
        Manner::Answers(bytes) => drop(stream.write_all(bytes.as_bytes()).await),
        Manner::FallsSilent(bytes) => {
            let _ = stream.write_all(bytes.as_bytes()).await;
            std::future::pending::<()>().await;
        }
        Manner::NeverEnds(bytes) => {
            let _ = stream.write_all(bytes.as_bytes()).await;
            while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
        }
        Manner::HangsUp => {}
        Manner::Echoes => {
            if let Manner::Answers(bytes) = Manner::answer(200, "", &echo) {
                let _ = stream.write_all(bytes.as_bytes()).await;
            }
        }
        Manner::Tunnels(to) => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let mut there = tokio::net::TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        }
    }
    let _ = stream.shutdown().await;
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Heard> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut heard = Heard { head, body: bytes[head_end + 4..].to_vec() };
    let length: usize = heard.header("content-length").map_or(0, |length| length.parse().unwrap());
    while heard.body.len() < length {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        heard.body.extend_from_slice(&chunk[..read]);
    }
    Some(heard)
}

/// A little authority with one server and one client.
pub(crate) struct Authority {
    pub(crate) ca: String,
    pub(crate) client_certificate: String,
    pub(crate) client_key: String,
    server_certificate: String,
    server_key: String,
}

impl Authority {
    /// Its server is known by 127.0.0.1 and by `receiver.test`.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = |names: &[&str], usage| {
            let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let mut params = CertificateParams::new(names).unwrap();
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (server_certificate, server_key) =
            leaf(&["127.0.0.1", "receiver.test"], ExtendedKeyUsagePurpose::ServerAuth);
        let (client_certificate, client_key) = leaf(&["postern"], ExtendedKeyUsagePurpose::ClientAuth);
        Self { ca: issuer.pem(), client_certificate, client_key, server_certificate, server_key }
    }

    pub(crate) fn server(&self) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        builder.with_single_cert(self.chain(), self.key()).unwrap()
    }

    /// One that talks to its clients only.
    pub(crate) fn server_for_clients(&self) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_client_cert_verifier(verifier.build().unwrap());
        builder.with_single_cert(self.chain(), self.key()).unwrap()
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.server_certificate.as_bytes()).unwrap()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.server_key.as_bytes()).unwrap()
    }
}
