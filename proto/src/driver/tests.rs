use std::io;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Message, protocol};

use super::*;
use crate::frame::{Body, Frame};

#[tokio::test(start_paused = true)]
async fn bytes_cross_in_both_directions_and_each_half_ends_by_itself() {
    let mut pair = Pair::connected().await;
    let mut near = pair.central.open(to("jdbc-orders"), Bytes::from_static(b"hello")).unwrap();
    let mut far = pair.accept().await;
    near.opened().await.unwrap();

    near.write_all(b", world").await.unwrap();
    near.shutdown().await.unwrap();
    let mut request = String::new();
    far.read_to_string(&mut request).await.unwrap();
    assert_eq!(request, "hello, world");

    far.write_all(b"bye").await.unwrap();
    far.shutdown().await.unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "bye");

    drop((near, far));
    assert_eq!(pair.central.stats().streams, 0);
    assert_eq!(pair.agent.stats().streams, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dead_after_exactly_that_long() {
    let mut pair = Pair::new();
    let (pipe, _held_open_and_never_read) = duplex(64 * 1024);
    let lane = run(pair.central.clone(), pipe, Role::Server);
    let started = tokio::time::Instant::now();
    assert!(matches!(lane.await, LaneEnd::Dead { .. }));
    let took = started.elapsed();
    assert!(took > DEAD_AFTER && took < DEAD_AFTER + Duration::from_millis(10), "{took:?}");
    pair.lanes = None;
}

#[tokio::test(start_paused = true)]
async fn idle_ends_keep_each_other_alive() {
    let mut pair = Pair::connected().await;
    tokio::time::sleep(DEAD_AFTER * 20).await;
    assert!(pair.central.stats().attached && pair.agent.stats().attached);
    assert!(pair.central.stats().silent_for.unwrap() <= Duration::from_secs(5));
    pair.exchange().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stands_still_holds_up_its_own_stream_only() {
    let mut pair = Pair::connected().await;
    let mut stalled = pair.central.open(to("tarpit"), Bytes::new()).unwrap();
    let _unread = pair.accept().await;
    let filled = tokio::time::timeout(Duration::from_secs(60), stalled.write_all(&[0; 8 << 20])).await;
    assert!(filled.is_err(), "8 MiB found room though nobody reads");
    for _ in 0..20 {
        pair.exchange().await;
    }
}

#[tokio::test(start_paused = true)]
async fn streams_go_on_over_a_second_websocket_and_miss_nothing() {
    let mut pair = Pair::connected().await;
    let mut near = pair.central.open(to("jdbc-orders"), Bytes::new()).unwrap();
    let mut far = pair.accept().await;
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        near
    });

    let mut got = vec![0; 700_000];
    far.read_exact(&mut got).await.unwrap();
    for _ in 0..3 {
        pair.cut().await;
        pair.resume().await;
        let mut more = vec![0; 500_000];
        far.read_exact(&mut more).await.unwrap();
        got.extend_from_slice(&more);
    }
    far.read_to_end(&mut got).await.unwrap();
    assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_waits_through_an_outage_and_a_new_one_may_be_opened_in_it() {
    let mut pair = Pair::connected().await;
    pair.exchange().await;
    pair.cut().await;
    assert!(!pair.central.stats().attached);
    let mut near = pair.central.open(to("smtp"), Bytes::from_static(b"EHLO")).unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    pair.resume().await;
    let mut far = pair.accept().await;
    let mut got = [0; 4];
    far.read_exact(&mut got).await.unwrap();
    near.write_all(b"x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lie_about_what_was_received_is_refused() {
    let pair = Pair::new();
    assert!(matches!(pair.central.reattach(1), Err(ResumeError::NeverSent { claimed: 1, sent: 0 })));
}

#[tokio::test(start_paused = true)]
async fn a_websocket_that_nobody_prepared_is_not_driven() {
    let mut pair = Pair::connected().await;
    pair.exchange().await;
    let (second, _other) = duplex(1024);
    assert!(matches!(run(pair.central.clone(), second, Role::Server).await, LaneEnd::Unprepared));
    pair.exchange().await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_arrives_as_connection_reset_with_its_code_and_reason() {
    let mut pair = Pair::connected().await;
    let mut near = pair.central.open(to("jdbc-orders"), Bytes::new()).unwrap();
    let far = pair.agent_incoming.next().await.unwrap();
    assert_eq!(far.open().destination(), "jdbc-orders");
    far.refuse(ResetCode::NOT_ALLOWED, "10.0.0.7:1521 is not on the allow-list");

    let refusal = near.opened().await.unwrap_err();
    assert_eq!(refusal.code, ResetCode::NOT_ALLOWED);
    let error = near.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(reset_of(&error).unwrap().reason(), "10.0.0.7:1521 is not on the allow-list");
    let error = near.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_half_way_never_looks_finished() {
    let mut pair = Pair::connected().await;
    let mut near = pair.central.open(to("smtp"), Bytes::from_static(b"half a mail")).unwrap();
    let mut far = pair.accept().await;
    near.write_all(b", and a bit").await.unwrap();
    tokio::task::yield_now().await;
    drop(near);
    let mut got = Vec::new();
    assert_eq!(far.read_to_end(&mut got).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn an_abort_resets_every_stream_at_both_ends_and_ends_both_lanes() {
    let mut pair = Pair::connected().await;
    let mut near = pair.central.open(to("smtp"), Bytes::from_static(b"stale")).unwrap();
    let mut far = pair.accept().await;
    pair.agent.abort(ResetCode::TUNNEL_LOST, "another agent is active");

    assert_eq!(far.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let (central, agent) = pair.ended().await;
    assert!(matches!(agent, LaneEnd::Stopped), "{agent:?}");
    let LaneEnd::Closed { code: CLOSE_OVER, reason } = central else { panic!("{central:?}") };
    assert!(reason.contains("another agent is active"), "{reason}");
    // Central decides what that means for its streams; giving the tunnel up breaks them.
    drop(pair.central);
    assert_eq!(near.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(pair.agent_incoming.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_tells_the_peer_why() {
    let mut pair = Pair::connected().await;
    pair.exchange().await;
    pair.central.close(4001, "superseded by epoch 7.12");
    let (central, agent) = pair.ended().await;
    assert!(matches!(central, LaneEnd::Stopped), "{central:?}");
    let LaneEnd::Closed { code: 4001, reason } = agent else { panic!("{agent:?}") };
    assert_eq!(reason, "superseded by epoch 7.12");
}

#[tokio::test(start_paused = true)]
async fn a_text_message_ends_the_tunnel() {
    let pair = Pair::new();
    let (a, b) = duplex(64 * 1024);
    let lane = tokio::spawn(run(pair.central.clone(), a, Role::Server));
    let mut peer = stranger(b, protocol::Role::Client).await;
    peer.send(Message::text("hello")).await.unwrap();
    while let Some(Ok(_)) = peer.next().await {}
    assert!(matches!(lane.await.unwrap(), LaneEnd::Protocol(ProtocolError::Text)));
    assert!(pair.central.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_message_beyond_the_limit_or_full_of_nonsense_ends_the_tunnel() {
    for message in [vec![0; 200 * 1024], vec![0xff; 40]] {
        let pair = Pair::new();
        let (a, b) = duplex(64 * 1024);
        let lane = tokio::spawn(run(pair.central.clone(), a, Role::Server));
        let mut peer = stranger(b, protocol::Role::Client).await;
        let _ = peer.send(Message::binary(message)).await; // the end may come while it is being sent
        while let Some(Ok(_)) = peer.next().await {}
        let end = lane.await.unwrap();
        assert!(matches!(end, LaneEnd::Protocol(_)), "{end:?}");
    }
}

#[tokio::test] // a paused clock stands still while bulk data keeps the runtime busy
async fn a_ping_is_answered_while_bulk_data_fills_the_line() {
    let mut pair = Pair::connected().await;
    let mut near = pair.central.open(to("bulk"), Bytes::new()).unwrap();
    let mut far = pair.accept().await;
    let bulk = tokio::spawn(async move {
        loop {
            near.write_all(&[0; 64 * 1024]).await.unwrap();
        }
    });
    let sink = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            far.read_exact(&mut buffer).await.unwrap();
        }
    });
    for _ in 0..20 {
        assert!(pair.central.ping(Duration::from_secs(1)).await.is_some());
        assert!(pair.agent.ping(Duration::from_secs(1)).await.is_some());
    }
    assert!(pair.central.stats().bytes_out > 1 << 20, "there was no load");
    bulk.abort();
    sink.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_streams_on_several_threads_all_arrive_and_nobody_sleeps_through_a_wake_up() {
    let mut pair = Pair::connected().await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..64u8 {
        let mut near = pair.central.open(to("echo"), Bytes::new()).unwrap();
        let far = pair.accept().await;
        tasks.spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        tasks.spawn(async move {
            for size in [1, 100, 70_000, 3, 300_000] {
                let sent = vec![i; size];
                let mut got = vec![0; size];
                let (mut read, mut write) = tokio::io::split(&mut near);
                let (wrote, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut got));
                wrote.unwrap();
                read.unwrap();
                assert!(got == sent, "stream {i}, {size} bytes");
            }
            near.shutdown().await.unwrap();
            assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        });
    }
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap()
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("somebody waits for ever");
    assert_eq!(pair.central.stats().streams, 0);
}

#[tokio::test(start_paused = true)]
async fn a_ping_without_a_websocket_is_not_answered() {
    let pair = Pair::new();
    assert_eq!(pair.central.ping(Duration::from_secs(1)).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_librarys_websocket_is_understood_in_parts_and_its_pings_and_close_are_answered() {
    let pair = Pair::new();
    let (a, b) = duplex(64 * 1024);
    let lane = tokio::spawn(run(pair.central.clone(), a, Role::Server));
    let mut peer = stranger(b, protocol::Role::Client).await;
    peer.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    let mut ping = BytesMut::new();
    Frame { seq: 0, stream: StreamId::TUNNEL, body: Body::Ping { nonce: 7 } }.encode(&mut ping);
    let rest = ping.split_off(5);
    let part = |bytes: BytesMut, opcode, last| {
        Message::Frame(protocol::frame::Frame::message(bytes.freeze(), OpCode::Data(opcode), last))
    };
    peer.send(part(ping, Data::Binary, false)).await.unwrap();
    peer.send(part(rest, Data::Continue, true)).await.unwrap();

    let mut heard = Vec::new();
    while heard.len() < 2 {
        match peer.next().await.unwrap().unwrap() {
            Message::Pong(payload) => heard.push(payload),
            Message::Binary(message) if message == pong(7) => heard.push(message),
            Message::Binary(_) => {} // its own ping
            other => panic!("{other:?}"),
        }
    }
    peer.close(None).await.unwrap();
    while let Some(Ok(_)) = peer.next().await {}
    drop(peer);
    let end = lane.await.unwrap();
    assert!(matches!(end, LaneEnd::Closed { code: 1005, .. }), "{end:?}");
}

// ---- silence ----

#[tokio::test(start_paused = true)]
async fn an_agent_that_slept_reads_nothing_until_central_has_answered_again() {
    let clock = Arc::new(Sleeper::default());
    let mut pair = Pair::with(|config| config.clock = clock.clone());
    pair.connect().await;
    let mut near = pair.central.open(to("jdbc-orders"), Bytes::new()).unwrap();
    let mut far = pair.accept().await;
    near.write_all(b"before").await.unwrap();
    let mut got = [0; 6];
    far.read_exact(&mut got).await.unwrap();
    assert!(pair.agent.may_write());

    // The bytes are in the agent's mux when the machine goes to sleep.
    near.write_all(b"stale").await.unwrap();
    pair.agent.ping(Duration::from_secs(1)).await.unwrap();
    clock.sleep(DEAD_AFTER + Duration::from_secs(1));

    assert!(!pair.agent.may_write());
    let mut got = [0; 5];
    let read = tokio::time::timeout(Duration::from_secs(1), far.read_exact(&mut got)).await;
    assert!(read.is_err(), "read {got:?} after a sleep");
    let (_, agent) = pair.ended().await;
    assert!(matches!(agent, LaneEnd::Dead { .. }), "{agent:?}");

    pair.resume().await; // central takes it back: nobody else became active meanwhile
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"stale");
}

#[tokio::test(start_paused = true)]
async fn what_waited_in_the_socket_during_a_pause_does_not_count_as_a_sign_of_life() {
    let clock = Arc::new(Sleeper::default());
    let pair = Pair::with(|config| config.clock = clock.clone());
    let (a, b) = duplex(64 * 1024);
    let lane = tokio::spawn(run(pair.agent.clone(), a, Role::Client));
    let mut central = stranger(b, protocol::Role::Server).await;
    central.next().await.unwrap().unwrap(); // the agent's first ping: its lane runs
    central.send(Message::binary(pong(1))).await.unwrap();
    clock.sleep(DEAD_AFTER + Duration::from_secs(1));
    let end = lane.await.unwrap();
    assert!(matches!(end, LaneEnd::Dead { .. }), "{end:?}");
    assert!(!pair.agent.may_write());
}

// ---- relays ----

#[tokio::test]
async fn a_relay_carries_both_directions_and_each_end_by_itself() {
    let mut pair = Pair::connected().await;
    let (mut client, relayed, near) = pair.relayed().await;
    let mut far = near;
    client.write_all(&vec![5; 1 << 20]).await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 1 << 20);
    far.write_all(b"answer after the request has ended").await.unwrap();
    far.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer after the request has ended");
    let end = relayed.await.unwrap();
    assert!(matches!(end.ended, RelayEnded::Finished), "{end:?}");
    assert_eq!((end.sent_bytes, end.received_bytes), (1 << 20, 34));
}

#[tokio::test]
async fn a_broken_stream_resets_the_socket_and_never_ends_it() {
    let mut pair = Pair::connected().await;
    let (mut client, relayed, far) = pair.relayed().await;
    client.write_all(b"x").await.unwrap();
    far.reset(ResetCode::CONNECTION_RESET, "the database died");
    let error = client.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let end = relayed.await.unwrap();
    assert!(
        matches!(&end.ended, RelayEnded::Stream(reset) if reset.reason() == "the database died"),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_socket_that_is_reset_resets_the_stream() {
    let mut pair = Pair::connected().await;
    let (client, relayed, mut far) = pair.relayed().await;
    client.set_zero_linger().unwrap();
    drop(client);
    let error = far.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(reset_of(&error).unwrap().code, ResetCode::CONNECTION_RESET);
    assert!(matches!(relayed.await.unwrap().ended, RelayEnded::Socket(_)));
}

#[tokio::test]
async fn a_socket_that_is_reset_while_nobody_takes_its_bytes_resets_the_stream_too() {
    let mut pair = Pair::of(|central| central.ping_interval = Duration::from_millis(100), |_| {});
    pair.connect().await;
    let (mut client, relayed, mut far) = pair.relayed().await;
    // All that fits: the far end reads nothing.
    while tokio::time::timeout(Duration::from_millis(300), client.write_all(&[7; 64 * 1024])).await.is_ok() {}
    client.set_zero_linger().unwrap();
    drop(client);
    let end =
        tokio::time::timeout(Duration::from_secs(10), relayed).await.expect("nobody waits for ever").unwrap();
    assert!(matches!(end.ended, RelayEnded::Socket(_)), "{end:?}");
    let error = far.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(reset_of(&error).unwrap().code, ResetCode::CONNECTION_RESET);
}

#[tokio::test]
async fn a_relay_that_is_cancelled_resets_both() {
    let mut pair = Pair::connected().await;
    let (mut client, relayed, mut far) = pair.relayed().await;
    relayed.abort();
    assert!(client.read(&mut [0; 10]).await.is_err());
    assert!(far.read(&mut [0; 10]).await.is_err());
}

#[tokio::test]
async fn a_stream_that_breaks_after_half_an_end_resets_the_socket_too() {
    let mut pair = Pair::connected().await;
    let (mut client, relayed, mut far) = pair.relayed().await;
    far.write_all(b"an announcement").await.unwrap();
    far.shutdown().await.unwrap();
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.unwrap();
    far.reset(ResetCode::CONNECTION_RESET, "the database died");
    let end =
        tokio::time::timeout(Duration::from_secs(10), relayed).await.expect("nobody waits for ever").unwrap();
    assert!(matches!(end.ended, RelayEnded::Stream(_)), "{end:?}");
    assert!(client.write_all(&[0; 1 << 20]).await.is_err());
}

/// Where the program to be killed finds a client.
const RELAY_TO: &str = "POSTERN_TEST_RELAY_TO";

/// It has no time for a last word: what its kernel does with its sockets must have been settled before.
#[tokio::test]
async fn a_program_that_is_killed_leaves_a_reset_and_no_proper_end() {
    if let Ok(client) = std::env::var(RELAY_TO) {
        return relay_until_killed(&client).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let module = module_path!().split_once("::").unwrap().1;
    let mut program = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::a_program_that_is_killed_leaves_a_reset_and_no_proper_end")])
        .env(RELAY_TO, listener.local_addr().unwrap().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (mut client, _) = listener.accept().await.unwrap();
    let mut said = [0; 5];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");

    program.kill().unwrap();
    program.wait().unwrap();

    let error = client.read(&mut [0; 10]).await.expect_err("a proper end was made of a death");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

async fn relay_until_killed(client: &str) {
    let socket = TcpStream::connect(client).await.unwrap();
    let mut pair = Pair::connected().await;
    let near = pair.central.open(to("relayed"), Bytes::new()).unwrap();
    let mut far = pair.accept().await;
    let _relayed = tokio::spawn(relay(socket, near));
    far.write_all(b"hello").await.unwrap();
    std::future::pending().await
}

// ---- the stage ----

const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Two ends of a tunnel, each lane on a task, over a pipe in memory.
struct Pair {
    central: Tunnel,
    agent: Tunnel,
    agent_incoming: Incoming,
    lanes: Option<(JoinHandle<LaneEnd>, JoinHandle<LaneEnd>)>,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(|_| {})
    }

    /// The change is made to the agent's end.
    fn with(change: impl FnOnce(&mut TunnelConfig)) -> Pair {
        Pair::of(|_| {}, change)
    }

    /// With changes to central's end and to the agent's.
    fn of(
        change_central: impl FnOnce(&mut TunnelConfig),
        change_agent: impl FnOnce(&mut TunnelConfig),
    ) -> Pair {
        let clock: Arc<dyn BootClock> = Arc::new(TokioClock::start());
        let config = |side| TunnelConfig { clock: clock.clone(), ..TunnelConfig::new(side) };
        let (mut central, mut agent) = (config(Side::Central), config(Side::Agent));
        change_central(&mut central);
        change_agent(&mut agent);
        let (central, _) = Tunnel::new(central);
        let (agent, agent_incoming) = Tunnel::new(agent);
        Pair { central, agent, agent_incoming, lanes: None }
    }

    async fn connected() -> Pair {
        let mut pair = Pair::new();
        pair.connect().await;
        pair
    }

    async fn connect(&mut self) {
        let (a, b) = duplex(64 * 1024);
        let near = tokio::spawn(run(self.central.clone(), a, Role::Server));
        let far = tokio::spawn(run(self.agent.clone(), b, Role::Client));
        self.lanes = Some((near, far));
    }

    /// Both websockets vanish with whatever is on its way.
    async fn cut(&mut self) {
        let (near, far) = self.lanes.take().unwrap();
        near.abort();
        far.abort();
        let _ = tokio::join!(near, far);
    }

    async fn resume(&mut self) {
        self.central.detach();
        self.agent.detach();
        let (central, agent) = (self.central.received_through(), self.agent.received_through());
        self.central.reattach(agent).unwrap();
        self.agent.reattach(central).unwrap();
        self.connect().await;
    }

    /// How both lanes ended: central's, the agent's.
    async fn ended(&mut self) -> (LaneEnd, LaneEnd) {
        let (near, far) = self.lanes.take().unwrap();
        (near.await.unwrap(), far.await.unwrap())
    }

    async fn accept(&mut self) -> TunnelStream {
        self.agent_incoming.next().await.unwrap().accept()
    }

    /// A stream that works.
    async fn exchange(&mut self) {
        let mut near = self.central.open(to("echo"), Bytes::from_static(b"ping")).unwrap();
        let mut far = self.accept().await;
        let mut got = [0; 4];
        far.read_exact(&mut got).await.unwrap();
        far.write_all(&got).await.unwrap();
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
    }

    /// A client's socket, the relay that joins it to a stream, and the far end of that stream.
    async fn relayed(&mut self) -> (TcpStream, JoinHandle<RelayEnd>, TunnelStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let near = self.central.open(to("relayed"), Bytes::new()).unwrap();
        let far = self.accept().await;
        (client, tokio::spawn(relay(socket, near)), far)
    }
}

/// Tokio's clock, and sleep that only this clock notices.
#[derive(Debug)]
struct Sleeper {
    clock: TokioClock,
    slept: Mutex<Duration>,
}

impl Default for Sleeper {
    fn default() -> Sleeper {
        Sleeper { clock: TokioClock::start(), slept: Mutex::default() }
    }
}

impl Sleeper {
    fn sleep(&self, time: Duration) {
        *self.slept.lock().unwrap() += time;
    }
}

impl BootClock for Sleeper {
    fn now(&self) -> Duration {
        self.clock.now() + *self.slept.lock().unwrap()
    }
}

async fn run(tunnel: Tunnel, pipe: DuplexStream, role: Role) -> LaneEnd {
    tunnel.run(WebSocket::new(pipe, role)).await
}

/// A peer that is not ours: the library's own end.
async fn stranger(pipe: DuplexStream, role: protocol::Role) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(pipe, role, None).await
}

fn pong(nonce: u64) -> Bytes {
    let mut message = BytesMut::new();
    Frame { seq: 0, stream: StreamId::TUNNEL, body: Body::Pong { nonce } }.encode(&mut message);
    message.freeze()
}

fn to(destination: &str) -> Open {
    Open::new(Transport::Tcp, destination, "10.0.0.7", 1521, [0; 16]).unwrap()
}
