//! Whoever comes to the agents' door and does not speak as an agent of today does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use agent::data_dir::DataDir;
use agent::identity::Identity;
use postern_tests::servers::Mirror;
use postern_tests::{Central, Host, Site};
use proto::BootId;
use proto::hello::{
    AgentHello, CONTROL_PATH, CONTROL_SUBPROTOCOL, ControlAdmission, LANE_PATH, LANE_SUBPROTOCOL, Refusal,
    RefusalCode, SystemInformation, TUNNEL_PATH, TUNNEL_SUBPROTOCOL, Versions,
};
use proto::link::{self, LinkEnd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const LOOK_WITHIN: Duration = Duration::from_secs(5);
const STALLED: usize = 5_000;
/// The promise is 1 s, which is printed; a busy machine must not fail the test.
const GENUINE_WITHIN: Duration = Duration::from_secs(10);
/// A record of a ClientHello that never comes.
const HALF_A_RECORD: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01];

#[tokio::test]
async fn an_agent_of_a_newer_version_is_told_to_upgrade_central_first() {
    let central = Central::start().await;
    let host = Host::enrolled("alpha", &[], &central, central.tunnel()).await;
    let newer = AgentHello {
        versions: Versions { min: 99, max: 99 },
        software: "9.9.9".into(),
        boot: BootId::random(),
        seat: None,
        written: None,
        peer_addrs: Vec::new(),
        unix_ms: now_ms(),
        system: SystemInformation::default(),
        features: Vec::new(),
    };

    let mut socket = connect(&identity_of(&host), CONTROL_PATH, CONTROL_SUBPROTOCOL).await;
    let refusal = refusal(link::greet(&mut socket, &newer, ANSWER_WITHIN).await);
    assert_eq!(refusal.code, RefusalCode::Version);
    assert!(refusal.message.contains("agent 9.9.9 speaks wire versions 99 to 99"), "{refusal}");
    assert!(refusal.message.contains("upgrade central first"), "{refusal}");

    let agent = host.start();
    central.until_connected("alpha", ANSWER_WITHIN).await;
    drop(agent);
}

#[tokio::test]
async fn nonsense_at_the_agents_door_ends_itself_and_nobody_else() {
    let mirror = Mirror::start().await;
    let site = Site::start(&["alpha"], mirror.addr()).await;
    let (mut stream, _) = mirror.look_into(site.listen(), LOOK_WITHIN).await.expect("the gateway is up");
    let connections = site.link("alpha").connections();
    let central = site.central();

    // No TLS at all, and something that begins like it.
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], &[0x16, 0x03, 0x01, 0xff, 0xff, 0x00]] {
        let mut socket = TcpStream::connect(central.tunnel()).await.unwrap();
        // Central may have closed before all of it is written.
        let _ = socket.write_all(nonsense).await;
        let _ = socket.shutdown().await;
        let ended = timeout(ANSWER_WITHIN, socket.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "central kept a connection that never spoke TLS");
    }
    // An enrolled agent that has lost its mind.
    let other = Host::enrolled("beta", &[], central, central.tunnel()).await;
    let identity = identity_of(&other);
    let doors = [
        (CONTROL_PATH, CONTROL_SUBPROTOCOL),
        (TUNNEL_PATH, TUNNEL_SUBPROTOCOL),
        (LANE_PATH, LANE_SUBPROTOCOL),
    ];
    for (path, subprotocol) in doors {
        let mut socket = connect(&identity, path, subprotocol).await;
        // All admissions refuse in the same words.
        let refusal = refusal(link::greet(&mut socket, &"moo", ANSWER_WITHIN).await);
        assert_eq!(refusal.code, RefusalCode::Malformed, "{refusal}");
    }

    stream.write_all(b"!").await.expect("the stream lives");
    assert_eq!(stream.read_u8().await.expect("the stream lives"), b'!');
    assert!(connections.iter().all(|one| one.is_open()), "alpha lost a connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_agent_connects_past_five_thousand_who_never_finish_their_handshake() {
    let central = Central::start().await;
    let host = Host::enrolled("alpha", &[], &central, central.tunnel()).await;
    let identity = identity_of(&host);
    // Only now: central keeps the limit that it was given.
    allow_sockets(STALLED + 500);

    let (half_way, half) = tokio::sync::oneshot::channel();
    let crowd = tokio::spawn(stall(central.tunnel(), half_way));
    half.await.expect("half of them have come");
    let during = genuine(&identity).await;
    let crowd = crowd.await.expect("all of them have come");
    let after = genuine(&identity).await;
    drop(identity);
    let started = Instant::now();
    let _agent = host.start();
    central.until_connected("alpha", GENUINE_WITHIN).await;
    println!(
        "{} stalled; connected within {during:?} while they came, {after:?} afterwards; \
         an agent was there {:?} after its start",
        crowd.len(),
        started.elapsed()
    );
    assert!(during < GENUINE_WITHIN && after < GENUINE_WITHIN, "{during:?} {after:?}");
}

/// Comes with [`STALLED`] connections that say a little and then nothing.
async fn stall(to: SocketAddr, half_way: tokio::sync::oneshot::Sender<()>) -> Vec<TcpStream> {
    let mut half_way = Some(half_way);
    let mut crowd = Vec::with_capacity(STALLED);
    for number in 0..STALLED {
        if number == STALLED / 2
            && let Some(half_way) = half_way.take()
        {
            half_way.send(()).expect("the test waits for this");
        }
        let mut one = TcpStream::connect(to).await.expect("central's port accepts");
        // Central may have given this one up already.
        let _ = one.write_all(HALF_A_RECORD).await;
        crowd.push(one);
    }
    crowd
}

/// How long an enrolled agent needs for TLS and the websocket.
async fn genuine(identity: &Identity) -> Duration {
    let started = Instant::now();
    drop(connect(identity, CONTROL_PATH, CONTROL_SUBPROTOCOL).await);
    started.elapsed()
}

async fn connect(
    identity: &Identity,
    path: &'static str,
    subprotocol: &'static str,
) -> agent::central::Socket {
    agent::central::open(identity, path, subprotocol, link::websocket_config())
        .await
        .unwrap_or_else(|error| panic!("an enrolled agent could not connect to {path}: {error:?}"))
        .socket
}

/// What an agent is that is enrolled and not running.
fn identity_of(host: &Host) -> Identity {
    let data_dir = DataDir::open(&host.data_dir()).expect("the agent does not run");
    Identity::load(&data_dir).expect("the agent is enrolled")
}

fn refusal(answer: Result<ControlAdmission, LinkEnd>) -> Refusal {
    match answer {
        Ok(ControlAdmission::Refused(refusal)) => refusal,
        other => panic!("central should have refused: {other:?}"),
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.expect("it is later than 1970").as_millis()).expect("it is long before the end")
}

/// Some systems give a process 1,024 descriptors unless it asks for more.
fn allow_sockets(count: usize) {
    let limits = getrlimit(Resource::Nofile);
    let wanted = count as u64;
    if limits.current.is_some_and(|current| current < wanted) {
        let more = Rlimit { current: Some(wanted), maximum: limits.maximum };
        setrlimit(Resource::Nofile, more).expect("the hard limit lets 5,500 sockets be open");
    }
}
