//! The room as a whole: real sockets, a real store, and agents at the other end of real tunnels.

use std::{io, net::Ipv4Addr, sync::atomic::Ordering, time::Duration};

use proto::driver::{IncomingStream, ResetCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    stage::{Gate, echo, spec, store},
    *,
};
use crate::{destination::DestinationError, events::Event};

#[tokio::test]
async fn bytes_cross_from_a_client_to_the_site_and_back_and_each_half_ends_by_itself() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", echo);
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;

    let mut client = world.client("db").await;
    client.write_all(b"select 1").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"select 1");
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", |incoming| async move {
        let mut stream = incoming.accept();
        stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    world.add(json!({"name": "mail", "url": "smtp://mail.example"})).await;
    let mut client = world.client("mail").await;
    assert_eq!(read_all(&mut client).await.unwrap(), b"220 mail.example ESMTP\r\n");
}

#[tokio::test]
async fn a_connection_that_came_too_early_is_served_when_the_tunnel_comes() {
    let world = World::new(PATIENT).await;
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.client("db").await;
    client.write_all(b"early").await.unwrap();
    world.until_parked("db", 1).await;

    let _agent = world.gate.connect("agent-1", echo);
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"early");
    world.until_parked("db", 0).await;
}

#[tokio::test]
async fn a_connection_that_comes_while_the_tunnel_moves_goes_to_the_next_one() {
    let world = World::new(PATIENT).await;
    let old = world.gate.connect("agent-1", echo);
    old.tunnel.abort(ResetCode::TUNNEL_LOST, "test");
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.client("db").await;
    client.write_all(b"hello").await.unwrap();
    world.until_parked("db", 1).await;

    let _new = world.gate.connect("agent-2", echo);
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_connection_that_waited_too_long_is_reset_and_told_of() {
    let world = World::new(Duration::from_millis(50)).await;
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.client("db").await;
    assert_reset(read_all(&mut client).await);
    let event = world.until_event("connections_refused").await;
    assert!(
        event.text.contains("destination db") && event.text.contains("no tunnel came up"),
        "{}",
        event.text
    );
    assert_eq!(world.counters("db").refused.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_gives_its_place_back() {
    let world = World::new(PATIENT).await;
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let silent = world.client("db").await;
    let mut talking = world.client("db").await;
    talking.write_all(b"hello").await.unwrap();
    world.until_parked("db", 2).await;

    drop(silent);
    world.until_parked("db", 1).await;
    talking.set_zero_linger().unwrap();
    drop(talking);
    world.until_parked("db", 0).await;
}

#[tokio::test]
async fn a_client_that_has_asked_and_shut_its_half_still_waits_for_its_answer() {
    let world = World::new(PATIENT).await;
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.client("db").await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    world.until_parked("db", 1).await;
    let _agent = world.gate.connect("agent-1", echo);
    assert_eq!(read_all(&mut client).await.unwrap(), b"question");
}

#[tokio::test]
async fn when_the_destination_refuses_the_client_is_reset_and_the_reason_kept() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", |incoming: IncomingStream| async move {
        incoming.refuse(ResetCode::NOT_ALLOWED, "db.example:5432 is not on the allow-list");
    });
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.client("db").await;
    assert_reset(read_all(&mut client).await);
    let event = world.until_event("destination_unreachable").await;
    assert!(event.text.contains("not on the allow-list"), "{}", event.text);
}

#[tokio::test]
async fn a_lost_tunnel_resets_its_clients() {
    let world = World::new(PATIENT).await;
    let agent = world.gate.connect("agent-1", echo);
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.served_client("db").await;
    world.gate.close();
    agent.tunnel.abort(ResetCode::TUNNEL_LOST, "superseded");
    assert_reset(read_all(&mut client).await);
}

#[tokio::test]
async fn disabling_a_destination_resets_its_clients_and_closes_its_port() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", echo);
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let address = world.until_bound("db").await;
    let mut client = world.served_client("db").await;
    world.patch("db", json!({"enabled": false})).await;
    assert_reset(read_all(&mut client).await);
    world.until(|world| world.listeners.bound(&world.environment, &name("db")).is_none()).await;
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn removing_a_destination_resets_who_waits_there() {
    let world = World::new(PATIENT).await;
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.client("db").await;
    world.until_parked("db", 1).await;
    world.destinations.remove(&name("db")).await.unwrap();
    assert_reset(read_all(&mut client).await);
}

#[tokio::test]
async fn an_edit_that_touches_neither_place_nor_address_disturbs_nobody() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", echo);
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let address = world.until_bound("db").await;
    let mut client = world.served_client("db").await;
    world.patch("db", json!({"limits": {"streams": 1}})).await;
    // The new limit is in force: the next client is one too many.
    world.until_refused("db").await;
    assert_eq!(world.listeners.bound(&world.environment, &name("db")), Some(address));
    assert_echo(&mut client).await;
}

#[tokio::test]
async fn a_destination_moves_to_another_address_and_those_inside_stay() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", echo);
    world.add(json!({"name": "db", "url": "tcp://db.example:5432", "listen": "127.0.0.1:0"})).await;
    let before = world.until_bound("db").await;
    let mut client = world.served_client("db").await;
    let free = free_address().await;
    world.patch("db", json!({"listen": free.to_string()})).await;
    world.until(|world| world.listeners.bound(&world.environment, &name("db")) == Some(free)).await;
    assert_eq!(TcpStream::connect(before).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_echo(&mut client).await;
    assert_echo(&mut world.client("db").await).await;
}

#[tokio::test]
async fn who_waits_for_a_change_sees_the_listener_that_followed_it() {
    let world = World::new(PATIENT).await;
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    limited(world.listeners.settled(&world.environment, &name("db"))).await;
    world.listeners.bound(&world.environment, &name("db")).unwrap();
    let free = free_address().await;
    for patch in [json!({"listen": free.to_string()}), json!({"limits": {"streams": 7}})] {
        world.patch("db", patch).await;
        limited(world.listeners.settled(&world.environment, &name("db"))).await;
        assert_eq!(world.listeners.bound(&world.environment, &name("db")), Some(free));
    }
}

#[tokio::test]
async fn another_url_resets_those_who_were_led_to_the_old_place() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", |incoming| async move {
        let host = incoming.open().host().to_owned();
        let mut stream = incoming.accept();
        stream.write_all(host.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    world.add(json!({"name": "db", "url": "tcp://old.example:1"})).await;
    let mut client = world.client("db").await;
    let mut host = [0; 11];
    client.read_exact(&mut host).await.unwrap();
    assert_eq!(&host, b"old.example");
    world.patch("db", json!({"url": "tcp://new.example:1"})).await;
    assert_reset(read_all(&mut client).await);
    let mut client = world.client("db").await;
    client.read_exact(&mut host).await.unwrap();
    assert_eq!(&host, b"new.example");
}

#[tokio::test]
async fn an_address_in_use_is_told_and_taken_once_it_is_free() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", echo);
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    world.add(json!({"name": "db", "url": "tcp://db.example:5432", "listen": address.to_string()})).await;
    let event = world.until_event("listener_failed").await;
    for part in ["destination db", &address.to_string(), "choose another port"] {
        assert!(event.text.contains(part), "{part} is missing in {}", event.text);
    }
    assert!(matches!(
        world.listeners.listening(&world.environment, &name("db")),
        Listening::Failed(why) if why.contains("choose another port")
    ));
    drop(other);
    assert_eq!(world.until_bound("db").await, address);
    assert_echo(&mut world.client("db").await).await;
}

#[tokio::test]
async fn who_uses_the_gateway_is_listed_until_it_ends_and_then_where_its_time_went() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", echo);
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.served_client("db").await;
    let open = world.listeners.streams(&world.environment, None, 10);
    let [stream] = &open[..] else { panic!("one stream is open: {open:?}") };
    assert_eq!((stream.destination.as_str(), stream.via.as_str()), ("db", "agent-1"));
    assert_eq!(stream.client, client.local_addr().unwrap());
    assert_eq!((stream.bytes_to_site, stream.bytes_to_client, stream.draining), (4, 4, false));
    assert!(world.listeners.streams(&world.environment, Some(stream.id), 10).is_empty());

    client.shutdown().await.unwrap();
    read_all(&mut client).await.unwrap();
    world.until(|world| !world.listeners.closed_streams(&world.environment).is_empty()).await;
    let closed = world.listeners.closed_streams(&world.environment).remove(0);
    assert_eq!((closed.id, closed.outcome), (Some(stream.id), ledger::Outcome::Finished));
    assert_eq!((closed.bytes_to_site, closed.bytes_to_client), (4, 4));
    assert!(closed.dial_ms.is_some() && closed.first_byte_ms >= closed.dial_ms, "{closed:?}");
    assert!(world.listeners.streams(&world.environment, None, 10).is_empty());
}

#[tokio::test]
async fn a_stream_that_an_administrator_ends_is_reset() {
    let world = World::new(PATIENT).await;
    let _agent = world.gate.connect("agent-1", echo);
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.served_client("db").await;
    let id = world.listeners.streams(&world.environment, None, 10)[0].id;
    assert!(world.listeners.end_stream(&world.environment, id));
    assert_eq!(read_all(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    world.until(|world| !world.listeners.closed_streams(&world.environment).is_empty()).await;
    let closed = world.listeners.closed_streams(&world.environment).remove(0);
    assert_eq!((closed.reason.as_str(), closed.bytes_to_site), ("an administrator ended it", 4));
    assert!(!world.listeners.end_stream(&world.environment, id));
}

#[tokio::test]
async fn a_client_that_got_no_stream_is_remembered_with_the_reason() {
    let world = World::new(Duration::from_millis(50)).await;
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut client = world.client("db").await;
    assert!(read_all(&mut client).await.is_err());
    world.until(|world| !world.listeners.closed_streams(&world.environment).is_empty()).await;
    let closed = world.listeners.closed_streams(&world.environment).remove(0);
    assert_eq!((closed.outcome, closed.id), (ledger::Outcome::Refused, None));
    assert!(closed.reason.contains("no tunnel came up") && closed.parked_ms >= 50, "{closed:?}");
    assert_eq!(world.listeners.traffic(&world.environment).refused, 1);
}

#[tokio::test]
async fn a_test_opens_a_real_stream_and_says_through_whom() {
    let world = World::new(PATIENT).await;
    let db = stage::destination("db", "ssh://db.example:22");
    let failed = world.listeners.try_out(&world.environment, &db).await;
    assert_eq!(failed.unwrap_err(), OpenFailure::NoTunnel);
    let _agent = world.gate.connect("agent-1", |incoming| async move {
        let mut stream = incoming.accept();
        stream.write_all(b"SSH-2.0-here\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let tried = world.listeners.try_out(&world.environment, &db).await.unwrap();
    assert_eq!((tried.via.as_str(), tried.words[1].detail.as_str()), ("agent-1", "\"SSH-2.0-here\""));
}

#[tokio::test]
async fn when_central_stops_those_who_wait_are_reset_at_once_and_those_inside_within_the_grace() {
    let world = World::new(PATIENT).await;
    world.add(json!({"name": "db", "url": "tcp://db.example:5432"})).await;
    let mut waiting = world.client("db").await;
    world.until_parked("db", 1).await;
    let _agent = world.gate.connect("agent-1", echo);
    assert_echo(&mut waiting).await;
    world.gate.close();
    let mut parked = world.client("db").await;
    world.until_parked("db", 1).await;
    world.stop.cancel();
    assert_reset(read_all(&mut parked).await);
    assert_reset(read_all(&mut waiting).await);
    limited(world.running).await.unwrap();
}

// ---- the stage ----

/// Longer than any test.
pub(super) const PATIENT: Duration = Duration::from_secs(600);
/// No state is waited for longer than this; a loaded machine needs some.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct World {
    pub(super) environment: EnvironmentName,
    pub(super) gate: Gate,
    destinations: Destinations,
    events: Events,
    pub(super) listeners: Arc<Listeners>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new(park_timeout: Duration) -> Self {
        Self::with_door(park_timeout, None).await
    }

    /// The same, with a front door.
    pub(super) async fn with_door(park_timeout: Duration, door: Option<TcpListener>) -> Self {
        let environment = name("default");
        let gate = Gate::default();
        let store = store();
        let tunnels = [(environment.clone(), gate.tunnel.subscribe())];
        let doors = door.map(|listener| Door { environment: environment.clone(), listener });
        let settings = Settings { park_timeout, bind: Ipv4Addr::LOCALHOST.into() };
        let listeners =
            Listeners::new(&store, tunnels, settings, &Traces::default()).behind(doors.into_iter().collect());
        let listeners = Arc::new(listeners);
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (listeners, stop) = (Arc::clone(&listeners), stop.clone());
            async move { listeners.run(stop).await }
        });
        Self {
            destinations: Destinations::new(store.clone(), &environment),
            events: Events::new(store, &environment),
            environment,
            gate,
            listeners,
            stop,
            running,
        }
    }

    pub(super) async fn add(&self, value: Value) {
        self.destinations.create(spec(value)).await.unwrap();
    }

    async fn patch(&self, destination: &str, patch: Value) {
        let change = |before: &Destination| {
            let mut value = serde_json::to_value(before).unwrap();
            value.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
            Ok::<_, DestinationError>(spec(value))
        };
        self.destinations.change(&name(destination), change).await.unwrap();
    }

    async fn client(&self, destination: &str) -> TcpStream {
        TcpStream::connect(self.until_bound(destination).await).await.unwrap()
    }

    /// One that has its stream, as an answer proves.
    async fn served_client(&self, destination: &str) -> TcpStream {
        let mut client = self.client(destination).await;
        assert_echo(&mut client).await;
        client
    }

    pub(super) async fn until_bound(&self, destination: &str) -> SocketAddr {
        let destination = name(destination);
        self.until(|world| world.listeners.bound(&world.environment, &destination).is_some()).await;
        self.listeners.bound(&self.environment, &destination).unwrap()
    }

    async fn until_parked(&self, destination: &str, clients: usize) {
        self.until_bound(destination).await;
        let counters = self.counters(destination);
        self.until(|_| counters.parked.load(Ordering::Relaxed) == clients).await;
    }

    /// Comes back until one is refused.
    async fn until_refused(&self, destination: &str) {
        let refused = async { while is_served(&mut self.client(destination).await).await {} };
        limited(refused).await;
    }

    async fn until_event(&self, code: &str) -> Event {
        limited(async {
            loop {
                let events = self.events.newest(100).await.unwrap();
                if let Some(event) = events.into_iter().find(|event| event.code == code) {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        limited(async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    fn counters(&self, destination: &str) -> Arc<Counters> {
        self.listeners.counters(&self.environment)[&name(destination)].clone()
    }
}

async fn limited<F: Future>(waiting: F) -> F::Output {
    timeout(LIMIT, waiting).await.expect("the state was not reached in time")
}

async fn read_all(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    limited(client.read_to_end(&mut bytes)).await.map(|_| bytes)
}

async fn assert_echo(client: &mut TcpStream) {
    assert!(is_served(client).await);
}

/// Whether the client is served.
async fn is_served(client: &mut TcpStream) -> bool {
    let mut bytes = [0; 4];
    client.write_all(b"ping").await.is_ok()
        && limited(client.read_exact(&mut bytes)).await.is_ok()
        && bytes == *b"ping"
}

fn assert_reset(read: io::Result<Vec<u8>>) {
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}
