//! Opening one TCP connection when a name has several addresses ("happy eyeballs", RFC 8305, without
//! its sorting rules): the next address is tried when one fails or keeps silent for a moment.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// How long an address may stay silent before the next is tried beside it; RFC 8305's figure.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Opens connections; a trait so that a test can record what would have been dialled.
pub trait Connector: Clone + Send + Sync + 'static {
    type Stream: Send + 'static;

    fn connect(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The real one.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnector {
    /// What both ends may put into one segment at most, in bytes; nothing: what the hosts find out by themselves. Where
    /// the operating system takes no such wish there is none.
    pub largest_segment: Option<u32>,
}

impl Connector for TcpConnector {
    type Stream = TcpStream;

    async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = match self.largest_segment {
            None => TcpStream::connect(addr).await?,
            Some(bytes) => with_segments(addr, bytes)?.connect(addr).await?,
        };
        if let Err(error) = proto::driver::prepare_stream_socket(&socket) {
            tracing::debug!(%error, "A socket does not take its options");
        }
        // A destination that vanished is noticed in minutes although nobody sends; firewalls
        // that forget idle connections are kept awake.
        let keepalive =
            TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20));
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        Ok(socket)
    }
}

/// Connects to the first of these addresses that answers, and says which. The caller bounds the time.
///
/// # Errors
/// The first attempt's error: later addresses are often of a family this host cannot even route.
///
/// Cancel-safe: dropping it ends every attempt.
pub async fn race<C: Connector>(addrs: &[SocketAddr], connector: &C) -> io::Result<(C::Stream, SocketAddr)> {
    // What most names have; a task of its own would be two more wake-ups for every connection.
    if let [addr] = addrs {
        return connector.connect(*addr).await.map(|stream| (stream, *addr));
    }
    let mut waiting = interleaved(addrs).into_iter();
    let mut attempts = JoinSet::new();
    let mut first_error = None;
    loop {
        let next = waiting.next();
        let more_to_try = waiting.len() > 0;
        if let Some(addr) = next {
            let connector = connector.clone();
            attempts.spawn(async move { connector.connect(addr).await.map(|stream| (stream, addr)) });
        }
        tokio::select! {
            biased;
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(connected))) => return Ok(connected),
                Some(Ok(Err(error))) => {
                    first_error.get_or_insert(error);
                }
                Some(Err(panic)) => return Err(io::Error::other(panic)),
                None => {
                    return Err(first_error
                        .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address to connect to")));
                }
            },
            () = sleep(NEXT_ADDRESS_AFTER), if more_to_try => {}
        }
    }
}

/// A socket whose SYN asks for small segments. One that does not take the wish is as good as there is.
fn with_segments(addr: SocketAddr, bytes: u32) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    #[cfg(unix)]
    if let Err(error) = SockRef::from(&socket).set_tcp_mss(bytes) {
        tracing::debug!(%error, "A socket takes no wish for small segments");
    }
    #[cfg(not(unix))]
    let _ = bytes;
    Ok(socket)
}

/// Unacknowledged data ends the connection after `limit` instead of after the kernel's fifteen minutes.
/// Linux only; elsewhere the protocols' own pings notice a dead link.
pub fn fail_fast(socket: &TcpStream, limit: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    SockRef::from(socket).set_tcp_user_timeout(Some(limit))?;
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, limit);
    Ok(())
}

/// IPv6 and IPv4 by turns, each in the order given, so that one broken family costs one step.
fn interleaved(addrs: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addrs.iter().copied().partition(|addr| addr.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut mixed = Vec::with_capacity(addrs.len());
    for addr in first {
        mixed.push(addr);
        mixed.extend(second.next());
    }
    mixed.extend(second);
    mixed
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, future::pending, sync::Arc};

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_two_families_are_tried_by_turns() {
        let addrs = ["10.0.0.1:1", "10.0.0.2:1", "[2001:db8::1]:1"].map(addr);
        assert_eq!(interleaved(&addrs), ["10.0.0.1:1", "[2001:db8::1]:1", "10.0.0.2:1"].map(addr));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_second_and_a_refusing_one_nothing() {
        let net = Scripted::new([
            ("10.0.0.1:1", Does::Silence),
            ("10.0.0.2:1", Does::Refuse),
            ("10.0.0.3:1", Does::Accept),
        ]);
        let start = Instant::now();

        let (_, reached) = race(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"].map(addr), &net).await.unwrap();

        assert_eq!(reached, addr("10.0.0.3:1"));
        assert_eq!(start.elapsed(), NEXT_ADDRESS_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_silent_address_is_waited_for() {
        let net = Scripted::new([("10.0.0.1:1", Does::AcceptAfter(Duration::from_secs(9)))]);
        let (_, reached) = race(&[addr("10.0.0.1:1")], &net).await.unwrap();
        assert_eq!(reached, addr("10.0.0.1:1"));
    }

    #[tokio::test]
    async fn when_all_refuse_the_refusal_is_told() {
        let net = Scripted::new([("10.0.0.1:1", Does::Refuse), ("10.0.0.2:1", Does::Refuse)]);
        let error = race(&["10.0.0.1:1", "10.0.0.2:1"].map(addr), &net).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(race(&[], &net).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[derive(Clone, Copy)]
    enum Does {
        Accept,
        AcceptAfter(Duration),
        Refuse,
        Silence,
    }

    #[derive(Clone)]
    struct Scripted(Arc<HashMap<SocketAddr, Does>>);

    impl Scripted {
        fn new<const N: usize>(script: [(&str, Does); N]) -> Self {
            Self(Arc::new(script.into_iter().map(|(at, does)| (addr(at), does)).collect()))
        }
    }

    impl Connector for Scripted {
        type Stream = ();

        async fn connect(&self, addr: SocketAddr) -> io::Result<()> {
            match self.0[&addr] {
                Does::Accept => Ok(()),
                Does::AcceptAfter(wait) => {
                    sleep(wait).await;
                    Ok(())
                }
                Does::Refuse => Err(io::ErrorKind::ConnectionRefused.into()),
                Does::Silence => pending().await,
            }
        }
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
}
