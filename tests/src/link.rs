//! A TCP link that breaks on command: cut, closed, frozen, refusing, or cut after so many bytes.
//!
//! A test stands a link in front of a server and tells apart what crosses it by the bytes each
//! connection has carried: the connection that took the bulk is the tunnel, the quiet ones are
//! control websockets.
//!
//! A cut is an RST to both sides, as when a firewall loses patience; a close is a FIN to both, as when
//! a proxy's time is up; a frozen connection stays open and carries nothing, or nothing one way, as
//! when a cable is pulled or a router forgets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Bytes a pump holds at most; small, so that a link adds no buffer worth speaking of.
const PIECE_BYTES: usize = 16 * 1024;

/// Listens on a loopback port and carries every connection to one target. Dropped, it cuts all.
pub struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Link {
    /// A link to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port can be listened on");
        let addr = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            policy: Mutex::default(),
        });
        let task = tokio::spawn(carry(listener, Arc::clone(&shared))).abort_handle();
        Self { addr, shared, task }
    }

    /// Where to connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on new connections lead to another target.
    pub fn lead_to(&self, target: SocketAddr) {
        *lock(&self.shared.target) = target;
    }

    /// The connections that are open now, oldest first.
    pub fn connections(&self) -> Vec<Connection> {
        let mut all = lock(&self.shared.connections);
        all.retain(Connection::is_open);
        all.clone()
    }

    /// How many connections were accepted since the link stands, refused ones not counted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// From now on new connections are reset at once (or carried again).
    pub fn refuse_new(&self, refuse: bool) {
        lock(&self.shared.policy).refuse = refuse;
    }

    /// Each connection accepted from now on is cut once it has carried exactly `bytes`, both
    /// directions counted together; `None` ends that.
    pub fn cut_new_after(&self, bytes: Option<u64>) {
        lock(&self.shared.policy).bytes = bytes;
    }

    /// Cuts every open connection.
    pub fn cut_all(&self) {
        for connection in self.connections() {
            connection.cut();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection across a link. Clones speak of the same connection.
#[derive(Clone)]
pub struct Connection(Arc<State>);

impl Connection {
    /// Bytes carried from the side that dialled.
    pub fn up_bytes(&self) -> u64 {
        self.0.up.load(Ordering::Relaxed)
    }

    /// Bytes carried to the side that dialled.
    pub fn down_bytes(&self) -> u64 {
        self.0.down.load(Ordering::Relaxed)
    }

    /// Bytes carried in both directions.
    pub fn bytes(&self) -> u64 {
        self.up_bytes() + self.down_bytes()
    }

    /// Resets the connection towards both sides.
    pub fn cut(&self) {
        self.set(Mode::Cut);
    }

    /// Closes the connection towards both sides, properly as far as TCP is concerned.
    pub fn close(&self) {
        self.set(Mode::Closed);
    }

    /// Cuts the connection once it has carried exactly `bytes` more, both directions counted together.
    pub fn cut_after(&self, bytes: u64) {
        *lock(&self.0.budget) = Some(bytes);
    }

    /// Carries nothing any more, and tells nobody.
    pub fn freeze(&self) {
        self.set(Mode::Frozen { up: true, down: true });
    }

    /// Carries nothing from the side that dialled any more, but still everything to it.
    pub fn freeze_up(&self) {
        self.set(Mode::Frozen { up: true, down: false });
    }

    /// Carries nothing to the side that dialled any more, but still everything from it.
    pub fn freeze_down(&self) {
        self.set(Mode::Frozen { up: false, down: true });
    }

    /// Carries again, what was held back first.
    pub fn thaw(&self) {
        self.set(Mode::Carry);
    }

    /// Do both speak of the same connection?
    pub fn is(&self, other: &Connection) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Is it still there?
    pub fn is_open(&self) -> bool {
        !self.0.mode.borrow().is_over()
    }

    fn set(&self, mode: Mode) {
        // A connection that is over stays over.
        self.0.mode.send_if_modified(|now| {
            let changes = !now.is_over() && *now != mode;
            if changes {
                *now = mode;
            }
            changes
        });
    }
}

struct Shared {
    target: Mutex<SocketAddr>,
    connections: Mutex<Vec<Connection>>,
    accepted: AtomicUsize,
    policy: Mutex<Policy>,
}

/// What happens to connections yet to come.
#[derive(Clone, Copy, Default)]
struct Policy {
    refuse: bool,
    bytes: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Carry,
    Frozen { up: bool, down: bool },
    Closed,
    Cut,
}

impl Mode {
    fn is_over(self) -> bool {
        matches!(self, Mode::Closed | Mode::Cut)
    }

    fn carries(self, way: Way) -> bool {
        match (self, way) {
            (Mode::Frozen { up, .. }, Way::Up) => !up,
            (Mode::Frozen { down, .. }, Way::Down) => !down,
            (Mode::Carry | Mode::Closed | Mode::Cut, _) => true,
        }
    }
}

/// From the side that dialled, or to it.
#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

struct State {
    up: AtomicU64,
    down: AtomicU64,
    /// How many bytes it may still carry, where there is a limit.
    budget: Mutex<Option<u64>>,
    mode: watch::Sender<Mode>,
}

impl State {
    /// How many of `bytes` may be carried, the last ones the connection carries included.
    fn admit(&self, bytes: usize) -> usize {
        let mut budget = lock(&self.budget);
        let Some(left) = budget.as_mut() else { return bytes };
        let admitted = bytes.min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= admitted as u64;
        admitted
    }

    fn is_spent(&self) -> bool {
        *lock(&self.budget) == Some(0)
    }

    fn carried(&self, way: Way) -> &AtomicU64 {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }
}

async fn carry(listener: TcpListener, shared: Arc<Shared>) {
    // Aborted with the link; the set then aborts the connections.
    let mut running = JoinSet::new();
    loop {
        // An accept fails for the connection's own reasons; the next one is another matter.
        let Ok((from, _)) = listener.accept().await else { continue };
        while running.try_join_next().is_some() {}
        let policy = *lock(&shared.policy);
        if policy.refuse {
            reset(from);
            continue;
        }
        let connection = Connection(Arc::new(State {
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            budget: Mutex::new(policy.bytes),
            mode: watch::Sender::new(Mode::Carry),
        }));
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        lock(&shared.connections).push(connection.clone());
        let target = *lock(&shared.target);
        running.spawn(async move {
            match TcpStream::connect(target).await {
                Ok(to) => join(from, to, &connection).await,
                Err(_) => reset(from),
            }
            connection.cut();
        });
    }
}

/// Carries both directions until both have ended or the connection is cut.
async fn join(mut from: TcpStream, mut to: TcpStream, connection: &Connection) {
    let state = &connection.0;
    let proper = {
        let (from_read, from_write) = from.split();
        let (to_read, to_write) = to.split();
        let mut mode = state.mode.subscribe();
        let both = async {
            tokio::try_join!(
                pump(from_read, to_write, state, Way::Up),
                pump(to_read, from_write, state, Way::Down),
            )
            .is_ok()
        };
        tokio::select! {
            proper = both => proper,
            over = mode.wait_for(|mode| mode.is_over()) => over.is_ok_and(|mode| *mode == Mode::Closed),
        }
    };
    if !proper {
        reset(from);
        reset(to);
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, state: &State, way: Way) -> io::Result<()> {
    let mut mode = state.mode.subscribe();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut piece).await?;
        // What was read before the freeze is held back too.
        if mode.wait_for(|mode| mode.carries(way)).await.is_err() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if count == 0 {
            return to.shutdown().await;
        }
        let admitted = state.admit(count);
        to.write_all(&piece[..admitted]).await?;
        state.carried(way).fetch_add(admitted as u64, Ordering::Relaxed);
        if state.is_spent() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

/// Closes with an RST in place of a FIN.
fn reset(stream: TcpStream) {
    // It fails only where the peer was quicker, and then there is nobody left to reset.
    let _ = stream.set_zero_linger();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait_until;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn bytes_cross_both_ways_and_are_counted() {
        let (link, mut client, mut server) = linked().await;

        client.write_all(b"hello").await.unwrap();
        assert_eq!(read_exactly(&mut server, 5).await, b"hello");
        server.write_all(b"ok").await.unwrap();
        assert_eq!(read_exactly(&mut client, 2).await, b"ok");

        let connection = only(&link);
        wait_until("both directions are counted", SOON, async || (connection.bytes() == 7).then_some(()))
            .await;
        assert_eq!((connection.up_bytes(), connection.down_bytes()), (5, 2));
    }

    #[tokio::test]
    async fn half_a_close_leaves_the_other_half_open() {
        let (link, mut client, mut server) = linked().await;

        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        server.write_all(b"still here").await.unwrap();
        assert_eq!(read_exactly(&mut client, 10).await, b"still here");
        assert_eq!(link.connections().len(), 1);
    }

    #[tokio::test]
    async fn a_cut_resets_both_sides() {
        let (link, mut client, mut server) = linked().await;

        only(&link).cut();

        assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(link.connections().is_empty());
    }

    #[tokio::test]
    async fn a_frozen_connection_loses_nothing_and_says_nothing() {
        let (link, mut client, mut server) = linked().await;
        client.write_all(b"before").await.unwrap();
        assert_eq!(read_exactly(&mut server, 6).await, b"before");

        let connection = only(&link);
        connection.freeze();
        client.write_all(b"during").await.unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(200), server.read(&mut [0])).await;
        assert!(silence.is_err(), "a frozen link delivered {silence:?}");

        connection.thaw();
        assert_eq!(read_exactly(&mut server, 6).await, b"during");
    }

    #[tokio::test]
    async fn a_connection_frozen_one_way_carries_the_other() {
        let (link, mut client, mut server) = linked().await;

        only(&link).freeze_up();
        client.write_all(b"up").await.unwrap();
        server.write_all(b"down").await.unwrap();
        assert_eq!(read_exactly(&mut client, 4).await, b"down");
        let silence = tokio::time::timeout(Duration::from_millis(200), server.read(&mut [0])).await;
        assert!(silence.is_err(), "a way that is frozen delivered {silence:?}");

        only(&link).thaw();
        assert_eq!(read_exactly(&mut server, 2).await, b"up");
    }

    #[tokio::test]
    async fn a_close_is_a_proper_end_for_both_sides() {
        let (link, mut client, mut server) = linked().await;

        only(&link).close();

        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        assert!(link.connections().is_empty());
    }

    #[tokio::test]
    async fn a_connection_is_cut_after_so_many_more_bytes() {
        let (link, mut client, mut server) = linked().await;
        client.write_all(b"before").await.unwrap();
        assert_eq!(read_exactly(&mut server, 6).await, b"before");

        let connection = only(&link);
        connection.cut_after(3);
        client.write_all(b"after").await.unwrap();
        assert!(client.read(&mut [0]).await.is_err());
        assert_eq!(connection.up_bytes(), 9);
    }

    #[tokio::test]
    async fn a_budget_is_carried_to_the_byte_before_the_cut() {
        let (addr, accept) = listening().await;
        let link = Link::to(addr).await;
        link.cut_new_after(Some(7));
        let mut client = TcpStream::connect(link.addr()).await.unwrap();
        let (mut server, _) = accept.accept().await.unwrap();

        client.write_all(b"0123456789").await.unwrap();
        // The reset that follows may discard what the server has not read yet, so the link is asked.
        let _ = server.read(&mut [0; 16]).await;
        assert!(client.read(&mut [0]).await.is_err());
        let connections = lock(&link.shared.connections).clone();
        assert_eq!(connections[0].up_bytes(), 7);
        assert!(!connections[0].is_open());
    }

    #[tokio::test]
    async fn refusing_leaves_open_connections_alone() {
        let (link, mut client, mut server) = linked().await;

        link.refuse_new(true);
        let mut refused = TcpStream::connect(link.addr()).await.unwrap();
        assert!(refused.read(&mut [0]).await.is_err());
        client.write_all(b"on").await.unwrap();
        assert_eq!(read_exactly(&mut server, 2).await, b"on");
        assert_eq!(link.accepted(), 1);
    }

    async fn linked() -> (Link, TcpStream, TcpStream) {
        let (addr, accept) = listening().await;
        let link = Link::to(addr).await;
        let client = TcpStream::connect(link.addr()).await.unwrap();
        let (server, _) = accept.accept().await.unwrap();
        (link, client, server)
    }

    async fn listening() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    fn only(link: &Link) -> Connection {
        let mut connections = link.connections();
        assert_eq!(connections.len(), 1);
        connections.remove(0)
    }

    async fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }
}
