//! Enrolment and renewal against a central over real TLS, and what a crash may leave on disk.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proto::hello::{ENROLL_PATH, EnrollRequest, Enrolled, RENEW_PATH, Refusal, RefusalCode, RenewRequest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    enroll::{EnrollError, Enrolment, enroll},
    test_ca::TestCa,
    *,
};
use program::explain;

#[tokio::test]
async fn a_token_becomes_an_identity_that_survives_and_is_renewed_under_the_same_key() {
    let central = Central::start(TestCa::new("acme"), Manner::Friendly).await;
    let host = Host::new();

    let enrolled = enroll(host.enrolment(&central, &central.ca.pem), &host.dir).await.unwrap();
    let loaded = Identity::load(&host.dir).unwrap();
    assert_eq!((loaded.agent, loaded.fingerprint), (enrolled.agent, enrolled.fingerprint));

    let renewed = renew::renew(&host.dir, &loaded).await.unwrap();
    assert_eq!((renewed.agent, renewed.fingerprint), (loaded.agent, loaded.fingerprint));
    assert_ne!(renewed.chain, loaded.chain);
    assert_eq!(Identity::load(&host.dir).unwrap().chain, renewed.chain);
}

#[tokio::test]
async fn with_a_proxy_set_enrolment_and_every_renewal_go_through_it() {
    let central = Central::start(TestCa::new("acme"), Manner::Friendly).await;
    let host = Host::new();
    let (proxy, carried) = carrying_proxy().await;

    let enrolment = Enrolment { proxy: Some(proxy.clone()), ..host.enrolment(&central, &central.ca.pem) };
    enroll(enrolment, &host.dir).await.unwrap();
    let loaded = Identity::load(&host.dir).unwrap().through(Some(proxy.clone()));
    let renewed = renew::renew(&host.dir, &loaded).await.unwrap();
    renew::renew(&host.dir, &renewed).await.unwrap();

    assert_eq!(carried.load(Ordering::Relaxed), 3);
    assert_eq!(renewed.proxy, Some(proxy));
}

#[tokio::test]
async fn an_impostor_gets_no_byte_of_the_token_and_both_cas_are_named() {
    let mut impostor = Central::start(TestCa::new("impostor"), Manner::Friendly).await;
    let host = Host::new();
    let ours = TestCa::new("acme");

    let error = enroll(host.enrolment(&impostor, &ours.pem), &host.dir).await.unwrap_err();

    let told = explain(&error);
    assert!(told.contains("test CA of impostor") && told.contains("test CA of acme"), "{told}");
    assert!(impostor.requests.try_recv().is_err());
    assert!(!Identity::exists(host.dir.path()));
}

#[tokio::test]
async fn a_ca_of_the_same_name_but_another_key_is_told_as_the_wrong_ca() {
    let impostor = Central::start(TestCa::new("acme"), Manner::Friendly).await;
    let host = Host::new();
    let error = enroll(host.enrolment(&impostor, &TestCa::new("acme").pem), &host.dir).await.unwrap_err();
    assert!(explain(&error).contains("is trusted here"), "{}", explain(&error));
}

#[tokio::test]
async fn central_s_refusal_is_passed_on_and_leaves_the_folder_as_it_was() {
    let central = Central::start(TestCa::new("acme"), Manner::Refusing("the token expired at 12:00")).await;
    let host = Host::new();
    let error = enroll(host.enrolment(&central, &central.ca.pem), &host.dir).await.unwrap_err();
    assert!(explain(&error).contains("the token expired at 12:00"), "{}", explain(&error));
    assert!(!Identity::exists(host.dir.path()));
}

#[tokio::test]
async fn an_enrolled_agent_is_replaced_only_when_asked() {
    let mut central = Central::start(TestCa::new("acme"), Manner::Friendly).await;
    let host = Host::new();
    let first = enroll(host.enrolment(&central, &central.ca.pem), &host.dir).await.unwrap();
    central.requests.recv().await.unwrap();

    let again = enroll(host.enrolment(&central, &central.ca.pem), &host.dir).await;
    assert!(matches!(again, Err(EnrollError::AlreadyEnrolled { .. })));
    assert!(central.requests.try_recv().is_err(), "a token was spent for nothing");

    let replace = Enrolment { replace: true, ..host.enrolment(&central, &central.ca.pem) };
    let second = enroll(replace, &host.dir).await.unwrap();
    assert_ne!(first.fingerprint, second.fingerprint);
    assert_eq!(Identity::load(&host.dir).unwrap().agent, second.agent);
}

#[tokio::test]
async fn a_certificate_for_another_key_is_not_kept() {
    let central = Central::start(TestCa::new("acme"), Manner::SigningAnotherKey).await;
    let host = Host::new();
    let error = enroll(host.enrolment(&central, &central.ca.pem), &host.dir).await.unwrap_err();
    assert!(explain(&error).contains("another key"), "{}", explain(&error));
    assert!(!Identity::exists(host.dir.path()));
}

#[tokio::test]
async fn a_ca_that_the_known_one_vouches_for_is_taken_over() {
    let central = Central::start(TestCa::new("acme"), Manner::Rotated).await;
    let host = Host::new();
    let enrolled = enroll(host.enrolment(&central, &central.ca.pem), &host.dir).await.unwrap();
    assert_eq!(enrolled.chain.len(), 2, "the bridge is shown to those who were away");
    assert_ne!(enrolled.ca, certificates(&central.ca.pem, "test CA").unwrap());
    assert_eq!(Identity::load(&host.dir).unwrap().ca, enrolled.ca);

    let known = central.known();
    known.persist(&host.dir).unwrap();
    let renewed = renew::renew(&host.dir, &known).await.unwrap();
    assert_ne!(renewed.ca, known.ca);
}

#[tokio::test]
async fn trust_is_not_swapped_for_a_ca_that_nobody_known_vouches_for() {
    for manner in [Manner::SwappingAll, Manner::SwappingTrust] {
        let central = Central::start(TestCa::new("acme"), manner).await;
        let host = Host::new();
        let enrolled = enroll(host.enrolment(&central, &central.ca.pem), &host.dir).await.unwrap_err();
        assert!(explain(&enrolled).contains("vouches for"), "{}", explain(&enrolled));

        let known = central.known();
        known.persist(&host.dir).unwrap();
        let renewed = renew::renew(&host.dir, &known).await.unwrap_err();
        assert!(explain(&renewed).contains("vouches for"), "{}", explain(&renewed));
        assert_eq!(Identity::load(&host.dir).unwrap().ca, known.ca);
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let central = Central::start(TestCa::new("acme"), Manner::Endless).await;
    let host = Host::new();
    let error = enroll(host.enrolment(&central, &central.ca.pem), &host.dir).await.unwrap_err();
    assert!(explain(&error).contains("larger than"), "{}", explain(&error));
}

#[tokio::test]
async fn a_central_that_is_not_there_is_told_with_its_address() {
    let host = Host::new();
    let ca = TestCa::new("acme");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let mut enrolment = host.enrolment_at(&format!("https://{free}"), &ca.pem);
    enrolment.name = Some("gw".parse().unwrap());
    let error = enroll(enrolment, &host.dir).await.unwrap_err();
    assert!(explain(&error).contains(&free.to_string()), "{}", explain(&error));
}

#[test]
fn an_identity_survives_a_restart() {
    let Host { dir, .. } = &Host::new();
    let identity = TestCa::new("acme").identity(AgentId::random());
    identity.persist(dir).unwrap();

    let loaded = Identity::load(dir).unwrap();

    assert_eq!((loaded.agent, loaded.fingerprint), (identity.agent, identity.fingerprint));
    assert_eq!(loaded.name, identity.name);
}

#[test]
fn an_empty_folder_is_told_how_to_enrol() {
    let Host { dir, .. } = &Host::new();
    let error = Identity::load(dir).unwrap_err();
    assert!(matches!(error, IdentityError::NotEnrolled { .. }));
    assert!(error.to_string().contains("postern-agent enroll"), "{error}");
}

#[test]
fn a_key_of_another_agent_is_noticed() {
    let Host { dir, .. } = &Host::new();
    let ca = TestCa::new("acme");
    ca.identity(AgentId::random()).persist(dir).unwrap();
    let stranger = ca.agent(AgentId::random());
    fs::write(dir.join("identity/key.pem"), stranger.key.serialize_pem()).unwrap();

    let error = Identity::load(dir).unwrap_err();

    assert!(matches!(error, IdentityError::Inconsistent(Inconsistent::OtherKey)), "{error:?}");
}

#[test]
fn files_of_two_agents_are_noticed_even_where_key_and_certificate_match() {
    let Host { dir, .. } = &Host::new();
    let ca = TestCa::new("acme");
    ca.identity(AgentId::random()).persist(dir).unwrap();
    let stranger = ca.agent(AgentId::random());
    fs::write(dir.join("identity/key.pem"), stranger.key.serialize_pem()).unwrap();
    fs::write(dir.join("identity/cert.pem"), &stranger.pem).unwrap();

    assert!(matches!(Identity::load(dir), Err(IdentityError::Damaged { .. })));
}

#[test]
fn every_cut_of_a_file_is_an_error_and_never_a_panic() {
    let Host { dir, .. } = &Host::new();
    TestCa::new("acme").identity(AgentId::random()).persist(dir).unwrap();
    for name in ["identity.json", "key.pem", "cert.pem", "ca.pem"] {
        let path = dir.join("identity").join(name);
        let whole = fs::read(&path).unwrap();
        // Without its last line break a PEM file or JSON text is still whole.
        for length in (0..whole.trim_ascii_end().len()).step_by(7) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(Identity::load(dir).is_err(), "{name} cut at {length}");
        }
        fs::write(&path, &whole).unwrap();
    }
    Identity::load(dir).unwrap();
}

#[cfg(unix)]
#[test]
fn the_key_is_for_this_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let Host { dir, .. } = &Host::new();
    TestCa::new("acme").identity(AgentId::random()).persist(dir).unwrap();
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("identity"), 0o700);
    for file in ["key.pem", "cert.pem", "ca.pem", "identity.json"] {
        assert_eq!(mode(&format!("identity/{file}")), 0o600, "{file}");
    }
}

#[test]
fn the_key_is_not_printed() {
    let identity = TestCa::new("acme").identity(AgentId::random());
    let key = identity.key.serialize_pem();
    let secret = key.lines().nth(1).unwrap();
    assert!(!format!("{identity:?}").contains(secret));
}

/// How a central behaves.
#[derive(Clone, Copy)]
enum Manner {
    Friendly,
    Refusing(&'static str),
    SigningAnotherKey,
    /// Another CA certifies, and the known one vouches for it.
    Rotated,
    /// Another CA certifies, and nobody vouches for it.
    SwappingAll,
    /// The known CA certifies, but another is to be trusted.
    SwappingTrust,
    Endless,
}

/// Central's enrolment door, over TLS of the given CA.
struct Central {
    ca: Arc<TestCa>,
    agent: AgentId,
    url: String,
    /// Paths of the requests that came with a body.
    requests: mpsc::UnboundedReceiver<String>,
    _serving: JoinSet<()>,
}

impl Central {
    /// An agent that it certified before.
    fn known(&self) -> Identity {
        let issued = self.ca.agent(self.agent);
        let (key, url) = (issued.key.serialize_pem(), self.url.parse().unwrap());
        Identity::assemble("gw".parse().unwrap(), url, &key, &issued.pem, &self.ca.pem).unwrap()
    }

    async fn start(ca: TestCa, manner: Manner) -> Self {
        let ca = Arc::new(ca);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let certificate = ca.server("localhost");
        let tls = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificate.chain.clone(), certificate.key_der())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (told, requests) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        let issuing = ca.clone();
        let agent = AgentId::random();
        serving.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(socket).await else { continue };
                let service = service_fn(|request: Request<Incoming>| {
                    let (ca, told) = (issuing.clone(), told.clone());
                    async move { Ok::<_, hyper::Error>(respond(request, &ca, agent, manner, &told).await) }
                });
                // A client that hangs up early is part of some tests.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Self { ca, agent, url, requests, _serving: serving }
    }
}

async fn respond(
    request: Request<Incoming>,
    ca: &TestCa,
    agent: AgentId,
    manner: Manner,
    told: &mpsc::UnboundedSender<String>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    told.send(path.clone()).unwrap();
    let csr_pem = match path.as_str() {
        ENROLL_PATH => serde_json::from_slice::<EnrollRequest>(&body).unwrap().csr_pem,
        RENEW_PATH => serde_json::from_slice::<RenewRequest>(&body).unwrap().csr_pem,
        other => panic!("nobody asks for {other}"),
    };
    let next = TestCa::new(ca.environment.as_str());
    let (certificate_pem, ca_pem) = match manner {
        Manner::Friendly => (ca.sign_request(&csr_pem, agent), &ca.pem),
        Manner::SigningAnotherKey => (ca.agent(agent).pem, &ca.pem),
        Manner::Rotated => (next.sign_request(&csr_pem, agent) + &ca.bridge_to(&next), &next.pem),
        Manner::SwappingAll => (next.sign_request(&csr_pem, agent), &next.pem),
        Manner::SwappingTrust => (ca.sign_request(&csr_pem, agent), &next.pem),
        Manner::Endless => return Response::new(Full::new(vec![b' '; 1024 * 1024].into())),
        Manner::Refusing(message) => {
            let refusal = Refusal { code: RefusalCode::Other, message: message.to_owned() };
            let mut response = Response::new(Full::new(serde_json::to_vec(&refusal).unwrap().into()));
            *response.status_mut() = hyper::StatusCode::FORBIDDEN;
            return response;
        }
    };
    let enrolled = Enrolled {
        certificate_pem,
        ca_pem: ca_pem.clone(),
        environment: ca.environment.clone(),
        name: "gw".parse().unwrap(),
        agent,
    };
    Response::new(Full::new(serde_json::to_vec(&enrolled).unwrap().into()))
}

/// A proxy that carries whatever it is asked to, and counts.
async fn carrying_proxy() -> (Proxy, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let carried = Arc::<AtomicUsize>::default();
    let count = carried.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut question = Vec::new();
                while !question.ends_with(b"\r\n\r\n") {
                    assert_ne!(from.read_buf(&mut question).await.unwrap(), 0);
                }
                let question = String::from_utf8(question).unwrap();
                let target = question.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
                let mut to = TcpStream::connect(target).await.unwrap();
                from.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                // Either side may go as it likes.
                let _ = copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (Proxy { url, credentials_file: None }, carried)
}

/// A host that is about to be enrolled.
struct Host {
    folder: tempfile::TempDir,
    dir: DataDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().join("agent")).unwrap();
        Self { folder, dir }
    }

    fn enrolment(&self, central: &Central, ca_pem: &str) -> Enrolment {
        self.enrolment_at(&central.url, ca_pem)
    }

    fn enrolment_at(&self, url: &str, ca_pem: &str) -> Enrolment {
        let ca_file = self.folder.path().join("ca.pem");
        fs::write(&ca_file, ca_pem).unwrap();
        Enrolment {
            central: url.parse().unwrap(),
            proxy: None,
            token: "pst_test".to_owned().into(),
            ca_file,
            name: Some("gw".parse().unwrap()),
            replace: false,
        }
    }
}
