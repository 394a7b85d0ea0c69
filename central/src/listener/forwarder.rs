//! The forwarding front door of one Environment: SOCKS5 and HTTP CONNECT on one port, the `IPForwarderURL`.
//!
//! ```text
//!   accept ─► who is wanted? (dialect) ─► a destination that leads there ─► its entrance ─► stream ─► granted ─► relay
//! ```
//!
//! For clients that can be told a proxy, but not another address for each destination. It is a second way to the
//! entrances and opens nothing of its own: what is asked for must be an enabled destination, by its HOST:PORT or by its
//! name, and access list, limits, parking and the site's allow-list are that destination's. Nobody signs in here, so
//! like every listener it is as open as its address and the access lists say.

mod dialect;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use proto::EnvironmentName;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::dialect::{Answer, Dialect, Wanted};
use super::{
    entrance::{Entrance, Refusal},
    follow::Published,
    ledger::{Arrival, Ending},
    park::NotOpened,
    tcp,
};

/// How long a client may take to say where it wants to go.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// Clients that may be about to say it, or hear that nothing leads there. Each holds a descriptor that no destination counts.
const ASKING_MAX: usize = 256;
/// How long to wait when the operating system gives no more sockets.
const OUT_OF_SOCKETS_PAUSE: Duration = Duration::from_millis(100);
/// How long those inside may take to end when central stops: as long as at a destination's own listener.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// One Environment's front door, bound.
pub struct Door {
    pub environment: EnvironmentName,
    pub listener: TcpListener,
}

/// Serves until `cancel`, then waits a moment for those inside. Dropping the future resets every client.
pub(super) async fn serve(
    listener: TcpListener,
    published: watch::Receiver<Published>,
    cancel: CancellationToken,
) {
    // Where descriptors are few, those that only ask take few of them.
    let asking = ASKING_MAX.min(program::descriptors::raise() / 16).max(1);
    let asking = Arc::new(Semaphore::new(asking));
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(ended) = clients.join_next() => { tell_panic(ended); continue }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, client)) => match asking.clone().try_acquire_owned() {
                Ok(place) => {
                    let published = published.clone();
                    clients.spawn(async move {
                        tcp::prepare(&socket);
                        let asked = take_in(socket, client);
                        let Some((socket, dialect, wanted)) = asked.await else { return };
                        forward(socket, dialect, &wanted, client, &published, place).await;
                    });
                }
                Err(_) => {
                    debug!(%client, "Reset a client of the front door: too many are asking");
                    tcp::reset(socket);
                }
            },
            Err(error) => {
                warn!(%error, "A connection to the front door could not be accepted");
                sleep(OUT_OF_SOCKETS_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all_out = async {
        while let Some(ended) = clients.join_next().await {
            tell_panic(ended);
        }
    };
    // Whoever is still there is reset with its task.
    let _ = timeout(STOP_GRACE, all_out).await;
}

fn tell_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "The task of a client of the front door failed: this is a bug");
    }
}

/// Hears what a client wants. What is no such wish is answered as far as its dialect can, and done with.
async fn take_in(mut socket: TcpStream, client: SocketAddr) -> Option<(TcpStream, Dialect, Wanted)> {
    match timeout(ASK_WITHIN, dialect::ask(&mut socket)).await {
        Ok(Ok((dialect, wanted))) => Some((socket, dialect, wanted)),
        Ok(Err(odd)) => {
            debug!(%client, %odd, "A client of the front door was not understood");
            dialect::end(socket).await;
            None
        }
        Err(_) => {
            debug!(%client, "A client of the front door did not say where it wants to go");
            tcp::reset(socket);
            None
        }
    }
}

/// One client from its wish to its end.
async fn forward(
    mut socket: TcpStream,
    dialect: Dialect,
    wanted: &Wanted,
    client: SocketAddr,
    published: &watch::Receiver<Published>,
    asking: OwnedSemaphorePermit,
) {
    let Some(entrance) = entrance_to(&published.borrow(), wanted, client) else {
        debug!(%client, %wanted, "No enabled destination leads there");
        let why = format!("no enabled destination of this gateway leads to {wanted}");
        dialect.answer(&mut socket, Answer::NotPermitted, &why).await;
        return dialect::end(socket).await;
    };
    let arrival = Arrival::now(&entrance.destination(), client);
    let mut inside = match entrance.enter(client) {
        Ok(inside) => inside,
        Err(refusal) => return refuse(&entrance, socket, dialect, arrival, refusal).await,
    };
    // From here on the destination counts it; until then, while it hears a no, too, the door does.
    drop(asking);
    let opened = tokio::select! {
        biased;
        () = entrance.shut.cancelled() => Err(Refusal::Closed),
        opened = Box::pin(entrance.open(&socket, &arrival, &mut inside)) => opened,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(refusal) => return refuse(&entrance, socket, dialect, arrival, refusal).await,
    };
    // A proxy's yes means that the destination answered, so its answer is waited for; how long is the agent's business.
    let answered = tokio::select! {
        biased;
        () = entrance.shut.cancelled() => return,
        answered = opened.stream.opened() => answered,
    };
    match answered {
        Ok(()) => {
            if dialect.answer(&mut socket, Answer::Granted, "").await {
                entrance.carry(socket, opened, &arrival, inside).await;
            }
        }
        Err(reset) => {
            entrance.broke(&reset);
            dialect.answer(&mut socket, Answer::of_reset(&reset), reset.reason()).await;
            opened.line.close(Ending::Broke(reset), 0, 0);
            dialect::end(socket).await;
        }
    }
}

async fn refuse(
    entrance: &Entrance,
    mut socket: TcpStream,
    dialect: Dialect,
    arrival: Arrival,
    refusal: Refusal,
) {
    let answer = match &refusal {
        Refusal::NotPermitted => Answer::NotPermitted,
        Refusal::NotOpened(NotOpened::NoTunnel(_)) => Answer::NoTunnel,
        _ => Answer::Failed,
    };
    dialect.answer(&mut socket, answer, &refusal.to_string()).await;
    entrance.refused(arrival, refusal);
    dialect::end(socket).await;
}

/// The entrance of an enabled destination that leads to where the client wants to go, if there is one; of several the
/// first that lets this client in.
fn entrance_to(published: &Published, wanted: &Wanted, client: SocketAddr) -> Option<Arc<Entrance>> {
    let leads_there = |entrance: &&Arc<Entrance>| {
        let destination = entrance.destination();
        let url = &destination.url;
        let host = wanted.host.trim_end_matches('.');
        let by_host = host.eq_ignore_ascii_case(url.host());
        (by_host || host == destination.name.as_str()) && wanted.port == url.port()
    };
    let mut found = published.values().map(|shown| &shown.entrance).filter(leads_there).peekable();
    let first = found.peek().map(|entrance| Arc::clone(entrance));
    found.find(|entrance| entrance.destination().acl.permits(client.ip())).cloned().or(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::listener::{
        stage::echo,
        tests::{PATIENT, World},
    };

    #[tokio::test]
    async fn socks_leads_to_a_destination_by_its_address_and_by_its_name() {
        let (world, door) = served(json!({"name": "orders", "url": "tcp://db.example:5432"})).await;
        let _agent = world.gate.connect("agent-1", echo);
        for host in ["db.example", "DB.example.", "orders"] {
            let mut client = socks(door, host, 5432).await;
            assert_eq!(client.1, 0, "{host}");
            client.0.write_all(b"hello").await.unwrap();
            client.0.shutdown().await.unwrap();
            let mut heard = Vec::new();
            client.0.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"hello", "{host}");
        }
        assert_eq!(world.listeners.closed_streams(&world.environment).len(), 3);
    }

    #[tokio::test]
    async fn connect_leads_there_too_and_what_comes_at_once_is_not_lost() {
        let (world, door) = served(json!({"name": "orders", "url": "tcp://db.example:5432"})).await;
        let _agent = world.gate.connect("agent-1", echo);
        let mut client = TcpStream::connect(door).await.unwrap();
        client
            .write_all(b"CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\nhello")
            .await
            .unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
        assert!(heard.ends_with("\r\n\r\nhello"), "{heard}");
    }

    #[tokio::test]
    async fn what_is_no_destination_is_refused_in_the_clients_own_words() {
        let (world, door) = served(json!({"name": "orders", "url": "tcp://db.example:5432"})).await;
        let _agent = world.gate.connect("agent-1", echo);
        // The port of another, another host, and central itself.
        for (host, port) in [("db.example", 5433), ("other.example", 5432), ("127.0.0.1", door.port())] {
            assert_eq!(socks(door, host, port).await.1, 2, "{host}:{port}");
        }
        let said = plain(door, b"CONNECT other.example:5432 HTTP/1.1\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 403 ") && said.contains("no enabled destination"), "{said}");
        let said = plain(door, b"GET http://db.example/ HTTP/1.1\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 405 "), "{said}");
    }

    #[tokio::test]
    async fn the_destinations_access_list_and_limit_hold_here_too() {
        let (world, door) = served(json!({
            "name": "orders", "url": "tcp://db.example:5432", "acl": {"clients": ["10.0.0.0/8"]},
        }))
        .await;
        let _agent = world.gate.connect("agent-1", echo);
        assert_eq!(socks(door, "db.example", 5432).await.1, 2);
        let closed = world.listeners.closed_streams(&world.environment);
        assert_eq!(closed[0].rule.as_deref(), Some("acl.clients of orders"));
    }

    #[tokio::test]
    async fn without_a_tunnel_the_client_hears_so_after_the_time_to_park() {
        let (_world, door) =
            served_with(Duration::from_millis(50), json!({"name": "orders", "url": "tcp://db.example:5432"}))
                .await;
        assert_eq!(socks(door, "db.example", 5432).await.1, 3);
        let said = plain(door, b"CONNECT db.example:5432 HTTP/1.1\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("no tunnel came up"), "{said}");
    }

    #[tokio::test]
    async fn what_the_site_refuses_is_no_yes() {
        let (world, door) = served(json!({"name": "orders", "url": "tcp://db.example:5432"})).await;
        let _agent = world.gate.connect("agent-1", |incoming| async move {
            incoming
                .refuse(proto::driver::ResetCode::NOT_ALLOWED, "db.example:5432 is not on the allow-list");
        });
        assert_eq!(socks(door, "db.example", 5432).await.1, 2);
        let said = plain(door, b"CONNECT db.example:5432 HTTP/1.1\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 403 ") && said.contains("allow-list"), "{said}");
    }

    async fn served(destination: serde_json::Value) -> (World, SocketAddr) {
        served_with(PATIENT, destination).await
    }

    async fn served_with(park: Duration, destination: serde_json::Value) -> (World, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = listener.local_addr().unwrap();
        let world = World::with_door(park, Some(listener)).await;
        world.add(destination).await;
        world.until_bound("orders").await;
        (world, door)
    }

    /// The connection, and the code of the answer.
    async fn socks(door: SocketAddr, host: &str, port: u16) -> (TcpStream, u8) {
        let mut client = TcpStream::connect(door).await.unwrap();
        client.write_all(&[5, 2, 0, 2]).await.unwrap();
        let mut chosen = [0; 2];
        client.read_exact(&mut chosen).await.unwrap();
        assert_eq!(chosen, [5, 0]);
        let mut request = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
        request.extend(host.as_bytes());
        request.extend(port.to_be_bytes());
        client.write_all(&request).await.unwrap();
        let mut answer = [0; 10];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!((answer[0], answer[3]), (5, 1));
        (client, answer[1])
    }

    /// All that is answered to `said`.
    async fn plain(door: SocketAddr, said: &[u8]) -> String {
        let mut client = TcpStream::connect(door).await.unwrap();
        client.write_all(said).await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        heard
    }
}
