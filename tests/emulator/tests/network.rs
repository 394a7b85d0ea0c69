//! Real packets between real hosts. Needs root; where it is missing, the test says so and fails.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use emulator::{Network, path::Impairment};

const MS: Duration = Duration::from_millis(1);
const SHORT: Duration = Duration::from_millis(500);

#[test]
fn what_is_delayed_takes_at_least_as_long_and_arrives_whole() {
    let network = network();
    let slow = Impairment { delay: 40 * MS, jitter: 5 * MS, ..Impairment::default() };
    network.impair_both("cloud", "alpha", &slow).unwrap();
    let mut stream = echo_from("alpha", "cloud", &network);
    let started = Instant::now();
    assert!(answers(&mut stream));
    assert!(started.elapsed() >= 70 * MS, "{:?}", started.elapsed());
}

#[test]
fn what_is_lost_damaged_and_doubled_still_arrives_by_tcp() {
    let network = network();
    let bad = Impairment {
        loss: 0.02,
        duplicates: 0.02,
        corruption: 0.02,
        delay: MS,
        jitter: MS,
        ..Impairment::default()
    };
    network.impair_both("cloud", "alpha", &bad).unwrap();
    let mut stream = echo_from("alpha", "cloud", &network);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    for _ in 0..50 {
        assert!(answers(&mut stream));
    }
}

#[test]
fn a_cut_may_be_one_way_and_heals() {
    let network = network();
    let mut stream = echo_from("alpha", "cloud", &network);
    assert!(answers(&mut stream));
    let cut = Impairment { cut: true, ..Impairment::default() };
    network.impair("cloud", "alpha", cut).unwrap();
    assert!(!answers(&mut stream), "the request arrives, the answer does not");
    network.impair("cloud", "alpha", Impairment::default()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping", "TCP sends it again");
}

#[test]
fn a_forgotten_flow_hears_nothing_and_a_new_one_passes() {
    let network = network();
    let mut old = echo_from("alpha", "cloud", &network);
    assert!(answers(&mut old));
    network.forget_flows("cloud", "alpha").unwrap();
    assert!(!answers(&mut old));
    let mut new = echo_from("alpha", "cloud", &network);
    assert!(answers(&mut new));
}

fn network() -> Network {
    Network::new(&["cloud", "alpha"], 1).expect("network namespaces, which need root and iproute2")
}

/// A connection from one host to an echo server on the other.
fn echo_from(client: &str, server: &str, network: &Network) -> TcpStream {
    let address = on(network, server, || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4];
            while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
        });
        port
    });
    let address = SocketAddr::from((network.address(server).unwrap(), address));
    let stream = on(network, client, || TcpStream::connect(address).unwrap());
    stream.set_read_timeout(Some(SHORT)).unwrap();
    stream
}

/// Does this on a thread of that host; the sockets it makes stay there.
fn on<T: Send>(network: &Network, host: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            network.enter(host).unwrap();
            work()
        });
        there.join().unwrap()
    })
}

/// Whether one exchange comes back before the stream's timeout.
fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    match stream.read_exact(&mut answer) {
        Ok(()) => &answer == b"ping",
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            false
        }
    }
}
