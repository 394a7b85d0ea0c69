//! Plain TCP: accept, wait for a tunnel, open, relay. Whatever goes wrong, the client sees a reset, never a
//! clean end: half an answer must not look like a whole one.
//!
//! ```text
//!   bind (again and again) ─► accept ─► entrance: may it come in? ─► parked? ─► stream ─► relay
//! ```

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use proto::{
    driver::{RelayEnded, TunnelStream, relay},
    mux::OPEN_CREDIT_BYTES,
};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, warn};

use super::{
    entrance::{Entrance, Inside, Refusal},
    ledger::{Arrival, Ending, Line},
    park::{NotOpened, Opening},
};
use crate::gateway::{environment::ActiveTunnel, guests::Entry};

/// Clients that wait to be accepted; a burst of a whole connection pool fits.
const BACKLOG: u32 = 1024;
/// How long to wait when the operating system gives no more sockets: there is no event to wait for.
const OUT_OF_SOCKETS_PAUSE: Duration = Duration::from_millis(100);
/// A client whose host vanished is noticed after about two minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// How long those inside may take to end when central stops.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Opens the listening socket.
///
/// # Errors
/// The operating system's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // On Windows the same option would let another program take the port away.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until `moved` or the entrance closes, drops the listener and with it `left`, then waits for those inside.
///
/// Dropping the future resets every client; nothing else is lost.
pub async fn serve(
    entrance: Arc<Entrance>,
    listener: TcpListener,
    moved: CancellationToken,
    left: DropGuard,
) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = entrance.shut.cancelled() => break,
            () = entrance.closing.cancelled() => break,
            () = moved.cancelled() => break,
            // Reaped here so that a long uptime does not collect the ended ones.
            Some(ended) = clients.join_next() => { tell_panic(&entrance, ended); continue }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, client)) => {
                let arrival = Arrival::now(&entrance.destination(), client);
                match entrance.enter(client) {
                    Ok(inside) => {
                        clients.spawn(Arc::clone(&entrance).client(socket, arrival, inside));
                    }
                    Err(refusal) => {
                        entrance.refused(arrival, refusal);
                        reset(socket);
                    }
                }
            }
            Err(error) => {
                warn!(destination = %entrance.destination().name, %error, "A connection could not be accepted");
                sleep(OUT_OF_SOCKETS_PAUSE).await;
            }
        }
    }
    drop(listener);
    drop(left);
    let all_out = async {
        while let Some(ended) = clients.join_next().await {
            tell_panic(&entrance, ended);
        }
    };
    let too_long = async {
        entrance.closing.cancelled().await;
        sleep(STOP_GRACE).await;
    };
    tokio::select! {
        () = all_out => {}
        () = too_long => {
            let still = entrance.counters.open.load(Ordering::Relaxed);
            warn!(destination = %entrance.destination().name, still, "Reset the clients that did not end in time");
        }
    }
}

fn tell_panic(entrance: &Entrance, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(destination = %entrance.destination().name, %error, "A connection's task failed: this is a bug");
    }
}

/// A client's stream, and where it has signed until they are dropped.
pub(super) struct Opened {
    pub(super) stream: TunnelStream,
    /// Bytes that went with the opening.
    first: usize,
    _entry: Entry,
    pub(super) line: Line,
}

impl Entrance {
    /// One client, from its first moment to its last.
    async fn client(self: Arc<Self>, socket: TcpStream, arrival: Arrival, mut inside: Inside) {
        prepare(&socket);
        let opened = tokio::select! {
            biased;
            () = self.shut.cancelled() => Err(Refusal::Closed),
            // Boxed: what waiting needs would otherwise stay with the client for as long as it is relayed.
            opened = Box::pin(self.open(&socket, &arrival, &mut inside)) => opened,
        };
        match opened {
            Ok(opened) => self.carry(socket, opened, &arrival, inside).await,
            Err(refusal) => {
                self.refused(arrival, refusal);
                reset(socket);
            }
        }
    }

    /// Joins a client to its stream until both have ended.
    pub(super) async fn carry(
        &self,
        socket: TcpStream,
        opened: Opened,
        arrival: &Arrival,
        mut inside: Inside,
    ) {
        let Opened { stream, first, _entry, line } = opened;
        inside.open();
        let Arrival { trace_id, destination, client, .. } = arrival;
        debug!(%trace_id, %destination, %client, stream = %line.key(), "Opened a stream");
        let end = tokio::select! {
            biased;
            // The relay resets both ends when it is dropped.
            () = self.shut.cancelled() => return,
            (to_site, to_client) = line.ended() => return line.close(Ending::Ended, to_site, to_client),
            end = relay(socket, stream) => end,
        };
        let (to_site, to_client) = (end.sent_bytes + first as u64, end.received_bytes);
        let ending = match end.ended {
            RelayEnded::Finished => Ending::Finished,
            RelayEnded::Socket(error) => Ending::ClientBroke(error.to_string()),
            RelayEnded::Stream(reset) => {
                self.broke(&reset);
                Ending::Broke(reset)
            }
        };
        debug!(%trace_id, %destination, %client, to_site, to_client, %ending, "A connection ended");
        line.close(ending, to_site, to_client);
    }

    /// Finds a tunnel within the Environment's `park_timeout`, opens a stream in it and signs for the client.
    pub(super) async fn open(
        &self,
        socket: &TcpStream,
        arrival: &Arrival,
        inside: &mut Inside,
    ) -> Result<Opened, Refusal> {
        let limit = self.house.park_timeout;
        let until = Instant::now() + limit;
        let mut opening = self.house.opener.begin();
        let mut first = Bytes::new();
        loop {
            let active = match opening.ready() {
                Some(active) => active,
                None => self.park(socket, inside, &mut opening, until, !first.is_empty()).await?,
            };
            if first.is_empty() {
                first = first_bytes(socket)?;
            }
            // The destination as it is now, which may be another than when the client came.
            let destination = self.destination();
            let opened = opening.try_open(&active, &destination, arrival.trace_id, first.clone())?;
            if let Some((lane, stream)) = opened {
                let name = destination.name.clone();
                let entry = active.guests.enter(&lane.tunnel, stream.id(), name, arrival.client);
                let line = self.house.ledger.open(arrival.clone(), &active, lane, stream.id());
                return Ok(Opened { stream, first: first.len(), _entry: entry, line });
            }
        }
    }

    /// Waits for a tunnel that was not tried yet.
    async fn park(
        &self,
        socket: &TcpStream,
        inside: &mut Inside,
        opening: &mut Opening,
        until: Instant,
        has_spoken: bool,
    ) -> Result<ActiveTunnel, Refusal> {
        let _place = self.house.lot.enter().ok_or(Refusal::LotFull(self.house.lot.places()))?;
        inside.parked();
        tokio::select! {
            () = self.closing.cancelled() => Err(Refusal::Closed),
            () = left(socket, has_spoken) => Err(Refusal::Left),
            active = timeout_at(until, opening.tunnel()) => {
                active.map_err(|_| NotOpened::NoTunnel(self.house.park_timeout).into())
            }
        }
    }
}

/// What the client has said so far, up to what may go with the opening. Never waits: in many protocols (SMTP) the
/// server speaks first.
fn first_bytes(socket: &TcpStream) -> Result<Bytes, Refusal> {
    let credit = usize::try_from(OPEN_CREDIT_BYTES).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(credit);
    match socket.try_read_buf(&mut bytes) {
        Ok(0) => Err(Refusal::Left),
        Ok(_) => Ok(bytes.freeze()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
        Err(_) => Err(Refusal::Left),
    }
}

/// Returns when the client has left, without taking a byte from it: a reset, or an end before it said anything. An
/// end behind some bytes is a client that waits for its answer.
async fn left(socket: &TcpStream, has_spoken: bool) {
    if !has_spoken && matches!(socket.peek(&mut [0]).await, Ok(0) | Err(_)) {
        return;
    }
    // What was said lies in front of everything that a read could find out. A failed wait is a dead socket, too.
    let _ = socket.ready(Interest::ERROR).await;
}

/// Little waits in it, small writes leave at once, dead peers are found out, and should central be killed its clients are
/// reset: a connection that waited for a tunnel has not come to its end. A socket that refuses works all the same.
pub(super) fn prepare(socket: &TcpStream) {
    let reset = socket.set_zero_linger();
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let kept = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive);
    if let Err(error) = proto::driver::prepare_stream_socket(socket).and(kept).and(reset) {
        debug!(%error, "A client's socket does not take its options");
    }
}

/// Ends a connection with RST.
pub(super) fn reset(socket: TcpStream) {
    // Fails only on a socket that is gone already.
    let _ = socket.set_zero_linger();
    drop(socket);
}
