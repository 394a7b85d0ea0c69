//! Two agents over real TLS on loopback.

use std::net::Ipv4Addr;

use super::*;
use crate::identity::test_ca::TestCa;

#[tokio::test]
async fn a_call_reaches_the_peer_and_its_answer_comes_back() {
    let pair = Pair::of(&TestCa::new("acme")).await;

    let answer = pair.alice.call(r#"{"n":1}"#).await.unwrap();

    assert_eq!(answer.get(), r#"{"from":1,"group":7,"to":2,"body":{"n":1}}"#);
}

#[tokio::test]
async fn a_hundred_calls_at_once_each_get_their_own_answer() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    let calls = (0..100).map(|n| {
        let alice = pair.alice.clone();
        async move { (n, alice.call(&n.to_string()).await.unwrap()) }
    });
    for (n, answer) in futures_util::future::join_all(calls).await {
        assert!(answer.get().ends_with(&format!(r#""body":{n}}}"#)), "{n} got {answer}");
    }
}

#[tokio::test]
async fn a_connection_may_be_asked_for_before_the_first_call() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    assert!(!pair.alice.net.is_connected(&pair.alice.peer));

    pair.alice.net.connect(&pair.alice.peer);

    until(async || pair.alice.net.is_connected(&pair.alice.peer)).await;
    pair.alice.call("1").await.unwrap();
}

#[tokio::test]
async fn a_peer_with_an_unexpected_key_is_not_called() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    let mut impostor = pair.alice.clone();
    impostor.peer.fingerprint = Fingerprint::from_bytes([7; 32]);

    let error = impostor.call("1").await.unwrap_err().to_string();

    assert!(error.contains("not expected here"), "{error}");
}

#[tokio::test]
async fn a_caller_whose_key_is_not_in_the_roster_is_not_answered() {
    let ca = TestCa::new("acme");
    let pair = Pair::of(&ca).await;
    let stranger = Agent::start(&ca, 1).await;

    let error = stranger.knows(&pair.bob).call("1").await.unwrap_err();

    assert!(matches!(error, PeerCallError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn an_agent_of_another_ca_is_refused_although_it_claims_the_same_names() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    let forged = Agent::start(&TestCa::new("acme"), 1).await;

    let error = forged.knows(&pair.bob).call("1").await.unwrap_err();

    assert!(matches!(&error, PeerCallError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_servers_certificate_of_the_right_ca_is_no_peers() {
    let ca = TestCa::new("acme");
    let pair = Pair::of(&ca).await;
    for role in [ca.server("localhost"), ca.with_uris(&["postern://acme/central/main"])] {
        let mut socket = tokio::net::TcpStream::connect(pair.bob.net.local_addr()).await.unwrap();
        let agent = ca.identity(AgentId::random());
        let mut config = verify::client_config(&agent, Arc::new(|_, _| true)).unwrap();
        config = {
            let mut with_role = rustls::ClientConfig::builder_with_provider(crate::identity::tls::provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(crate::identity::tls::roots(&agent.ca).unwrap())
                .with_client_auth_cert(role.chain.clone(), role.key_der())
                .unwrap();
            with_role.alpn_protocols = config.alpn_protocols.clone();
            with_role
        };
        // The server's own certificate has no host name, so this client refuses it too; what
        // matters here is that the server never lets the role in.
        let name = rustls::pki_types::ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let ended = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, &mut socket).await;
        assert!(ended.is_err());
    }
}

#[tokio::test]
async fn a_peer_that_dies_is_noticed_on_both_ends_of_calling() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    pair.alice.call("1").await.unwrap();
    pair.bob.knows(&pair.alice_agent).call("1").await.unwrap();
    let mut hints = pair.alice.net.closed();

    pair.bob.net.stop().await;

    // One for the connection Alice made, one for the connection she accepted.
    for _ in 0..2 {
        assert_eq!(hints.recv().await.unwrap(), pair.bob.entry().agent);
    }
}

#[tokio::test]
async fn a_peer_that_comes_back_is_reached_again() {
    let ca = TestCa::new("acme");
    let pair = Pair::of(&ca).await;
    pair.alice.call("1").await.unwrap();
    let mut hints = pair.alice.net.closed();
    let bind = pair.bob.net.local_addr();
    pair.bob.net.stop().await;
    hints.recv().await.unwrap();

    let again = Agent::start_at(bind, pair.bob.identity.clone(), 2).await;
    again.expect(&[&pair.alice_agent]);

    until(async || pair.alice.call("2").await.is_ok()).await;
}

#[tokio::test]
async fn a_peer_dropped_from_the_roster_loses_its_connection() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    pair.alice.call("1").await.unwrap();
    let mut hints = pair.alice.net.closed();

    pair.bob.expect(&[]);

    assert_eq!(hints.recv().await.unwrap(), pair.bob.entry().agent);
    assert!(pair.alice.call("2").await.is_err());
}

#[tokio::test]
async fn a_peer_may_not_speak_for_anothers_node() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    let mut alice = pair.alice.clone();
    alice.node = NodeId(9);

    let error = alice.call("1").await.unwrap_err();

    assert!(
        matches!(&error, PeerCallError::Refused { problem, .. } if problem.contains("node 9")),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_peer_costs_the_caller_its_patience_and_no_more() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    let error = pair.alice.call_within(r#""sleep""#, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, PeerCallError::TimedOut { .. } | PeerCallError::Refused { .. }), "{error}");
    pair.alice.call("1").await.unwrap();
}

#[tokio::test]
async fn a_flood_of_silent_sockets_leaves_a_connected_peer_its_place() {
    let pair = Pair::of(&TestCa::new("acme")).await;
    pair.alice.call("1").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(tokio::net::TcpStream::connect(pair.bob.net.local_addr()).await.unwrap());
    }
    pair.alice.call("2").await.unwrap();
}

#[test]
fn an_agent_that_listens_everywhere_tells_no_loopback_address() {
    let everywhere = own_addresses("0.0.0.0:7431".parse().unwrap());
    assert!(everywhere.iter().all(|addr| addr.ends_with(":7431") && !addr.starts_with("127.")));
    assert_eq!(own_addresses("10.1.2.3:7".parse().unwrap()), ["10.1.2.3:7"]);
}

/// Alice (node 1) knows Bob (node 2) and may call him.
struct Pair {
    alice: Caller,
    alice_agent: Agent,
    bob: Agent,
}

impl Pair {
    async fn of(ca: &TestCa) -> Self {
        let alice = Agent::start(ca, 1).await;
        let bob = Agent::start(ca, 2).await;
        alice.expect(&[&bob]);
        bob.expect(&[&alice]);
        Self { alice: alice.knows(&bob), alice_agent: alice, bob }
    }
}

struct Agent {
    net: PeerNet,
    node: NodeId,
    identity: Arc<Identity>,
    roster: watch::Sender<Arc<Vec<RosterEntry>>>,
    // A renewal would come through here.
    _identities: watch::Sender<Arc<Identity>>,
}

impl Agent {
    async fn start(ca: &TestCa, node: u64) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), ca.identity(AgentId::random()), node).await
    }

    async fn start_at(bind: SocketAddr, identity: Arc<Identity>, node: u64) -> Self {
        let (identities, identity_watch) = watch::channel(identity.clone());
        let (roster, roster_watch) = watch::channel(Arc::default());
        let peers = Peers { listen: bind, advertise: Vec::new(), approved: None };
        let net = PeerNet::listen(&peers, identity_watch, roster_watch, Arc::new(Echo)).await.unwrap();
        Self { net, node: NodeId(node), identity, roster, _identities: identities }
    }

    fn entry(&self) -> RosterEntry {
        RosterEntry {
            node: self.node,
            agent: self.identity.agent,
            name: "peer".parse().unwrap(),
            fingerprint: self.identity.fingerprint,
            peer_addrs: self.net.advertised(),
        }
    }

    fn expect(&self, peers: &[&Agent]) {
        self.roster.send_replace(Arc::new(peers.iter().map(|peer| peer.entry()).collect()));
    }

    fn knows(&self, peer: &Agent) -> Caller {
        Caller { net: self.net.clone(), node: self.node, peer: peer.entry() }
    }
}

#[derive(Clone)]
struct Caller {
    net: PeerNet,
    node: NodeId,
    peer: RosterEntry,
}

impl Caller {
    async fn call(&self, body: &str) -> Result<Box<RawValue>, PeerCallError> {
        self.call_within(body, Duration::from_secs(10)).await
    }

    async fn call_within(&self, body: &str, ttl: Duration) -> Result<Box<RawValue>, PeerCallError> {
        let body = RawValue::from_string(body.to_owned()).unwrap();
        self.net.call(&self.peer, 7, self.node, &body, ttl).await
    }
}

/// Answers with what it was asked; `"sleep"` it never answers.
struct Echo;

#[async_trait]
impl PeerHandler for Echo {
    async fn handle(
        &self,
        _: AgentId,
        group: u64,
        from: NodeId,
        to: NodeId,
        body: Box<RawValue>,
    ) -> Result<Box<RawValue>, String> {
        if body.get() == r#""sleep""# {
            std::future::pending::<()>().await;
        }
        let answer = format!(r#"{{"from":{from},"group":{group},"to":{to},"body":{body}}}"#);
        RawValue::from_string(answer).map_err(|e| e.to_string())
    }
}

/// Waits for a state, with a limit.
async fn until(mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the state was not reached");
}
