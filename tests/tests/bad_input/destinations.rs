//! Destinations that cannot be reached: the administrator reads why, the client gets an RST.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use postern_tests::servers::Mirror;
use postern_tests::{Attempt, Site, port};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// The agents' `dial.timeout` is 3 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const LOOK_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_destination_that_cannot_be_reached_says_why_and_resets_its_clients() {
    let mirror = Mirror::start().await;
    let refusing = port::free();
    let silent = Silent::start().await;
    let forbidden = Mirror::start().await;
    let allowed =
        [("127.0.0.1", refusing.port()), ("127.0.0.1", silent.addr.port()), ("no-such-host.invalid", 5432)];
    let site = Site::start_allowing(&["alpha"], mirror.addr(), &allowed).await;

    let cases = [
        ("refusing", refusing.to_string(), "refused"),
        ("silent", silent.addr.to_string(), "did not answer within 3 s"),
        ("nameless", "no-such-host.invalid:5432".to_owned(), "no-such-host.invalid"),
        ("forbidden", forbidden.addr().to_string(), "is not in this agent's allow-list"),
    ];
    for (name, target, reason) in cases {
        let listener = port::free();
        site.add_destination(name, &format!("tcp://{target}"), listener).await;

        let test = site.central().posternctl(&["destinations", "test", name]);
        Attempt::at(test).await.failed(1, &[name, "seen from alpha", reason]);

        let mut client = TcpStream::connect(listener).await.expect("the destination's listener is open");
        let end = timeout(ANSWER_WITHIN, client.read(&mut [0])).await;
        let end = end.unwrap_or_else(|_| panic!("the client of {name} was left hanging"));
        assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset), "{name}");
    }

    assert_eq!(forbidden.visits(), 0, "the agent dialled what its site does not allow");
    assert!(mirror.look_into(site.listen(), LOOK_WITHIN).await.is_some(), "the good destination suffered");
}

/// A port that accepts no connection and refuses none: its queue is full and nobody empties it.
struct Silent {
    addr: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Silent {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(connected) = timeout(Duration::from_millis(500), TcpStream::connect(addr)).await {
            queued.push(connected.unwrap());
            assert!(queued.len() < 64, "the kernel queues without end");
        }
        Self { addr, _listener: listener, _queued: queued }
    }
}
