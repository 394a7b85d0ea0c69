//! Keeps one Environment's listeners as its destinations say, for as long as central runs.
//!
//! ```text
//!   store changes ─► list ─► compare with the entrances there are:
//!        gone, disabled, or another URL ─► shut: reset whoever is inside
//!        another listen address ─────────► move: those inside stay
//!        anything else ──────────────────► the next client is judged by it
//! ```
//!
//! Doors are shut and moved away before new ones open, so that two destinations can swap their addresses.

use std::{collections::BTreeMap, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use proto::Name;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    ListenState,
    entrance::{Entrance, House},
    tcp,
};
use crate::{
    destination::{Destination, Destinations, Direction, Transport},
    events::{Events, NewEvent, Severity},
    store::SharedStore,
};

/// How long to wait after the store failed to list. The entrances stay as they are meanwhile.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How often an address that could not be taken is tried again.
const BIND_PAUSE_FIRST: Duration = Duration::from_millis(500);
const BIND_PAUSE_MAX: Duration = Duration::from_secs(15);

/// One Environment's listeners, as the follower keeps them.
pub(super) struct Follower {
    pub(super) store: SharedStore,
    pub(super) destinations: Destinations,
    pub(super) events: Events,
    pub(super) house: House,
    /// Where a destination listens that does not say where.
    pub(super) anywhere: SocketAddr,
    pub(super) published: watch::Sender<Published>,
}

/// What the rest of central may know of an Environment's entrances.
pub(super) type Published = BTreeMap<Name, PublishedEntrance>;

#[derive(Clone)]
pub(super) struct PublishedEntrance {
    pub(super) state: ListenState,
    pub(super) entrance: Arc<Entrance>,
}

/// An entrance and the task that keeps its listener.
struct Kept {
    entrance: Arc<Entrance>,
    listen: SocketAddr,
    moved: CancellationToken,
    /// The listening socket is gone.
    left: CancellationToken,
    task: AbortHandle,
}

impl Follower {
    /// Follows until `cancel`, then closes every entrance and waits until all are out.
    ///
    /// Dropping the future resets every client.
    pub(super) async fn run(self, mut said: mpsc::Receiver<NewEvent>, cancel: CancellationToken) {
        // Beside the loop, not in it: what is being written must not be dropped because the store changed.
        let mut writing = pin!(write_down(&self.events, &mut said));
        let mut changes = self.store.changes();
        let mut kept = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            changes.borrow_and_update();
            let listed = self.destinations.list().await;
            let failed = listed.is_err();
            match listed {
                Ok(list) => self.apply(list, &mut kept, &mut tasks).await,
                Err(error) => warn!(%error, "Destinations cannot be read: listeners stay as they are"),
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = changes.changed(), if !failed => if changed.is_err() { break },
                () = sleep(STORE_PAUSE), if failed => {}
                () = a_task_failed(&mut tasks) => {}
                () = &mut writing => {}
            }
        }
        for Kept { entrance, .. } in kept.values() {
            entrance.closing.cancel();
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn apply(&self, list: Vec<Destination>, kept: &mut BTreeMap<Name, Kept>, tasks: &mut JoinSet<()>) {
        let wanted: BTreeMap<_, _> = list.into_iter().filter(listens).map(|d| (d.name.clone(), d)).collect();
        for left in self.close_what_is_not(&wanted, kept) {
            left.cancelled().await;
        }
        kept.retain(|_, there| !there.entrance.shut.is_cancelled());
        self.published.send_if_modified(|published| {
            let before = published.len();
            published.retain(|name, _| kept.contains_key(name));
            published.len() != before
        });
        for (name, destination) in wanted {
            let listen = destination.listen.unwrap_or(self.anywhere);
            let entrance = match kept.get(&name) {
                Some(there) if !there.moved.is_cancelled() => {
                    there.entrance.change(destination);
                    continue;
                }
                Some(there) => Arc::clone(&there.entrance),
                None => Entrance::new(self.house.clone(), destination.clone()),
            };
            let opened = self.open(name.clone(), Arc::clone(&entrance), listen, tasks);
            // Behind the opening: nobody may see the new record beside the old address.
            entrance.change(destination);
            kept.insert(name, opened);
        }
        // Whoever waits for a change to be followed looks at the records.
        self.published.send_modify(|_| {});
    }

    /// Shuts and moves what is not as wanted any more; returns what to wait for.
    fn close_what_is_not(
        &self,
        wanted: &BTreeMap<Name, Destination>,
        kept: &BTreeMap<Name, Kept>,
    ) -> Vec<CancellationToken> {
        let mut leaving = Vec::new();
        for (name, there) in kept {
            let same_place = wanted.get(name).filter(|wanted| wanted.url == there.entrance.destination().url);
            match same_place {
                // A task that failed left its entrance as it was.
                Some(_) if there.task.is_finished() => there.moved.cancel(),
                Some(wanted) if wanted.listen.unwrap_or(self.anywhere) == there.listen => continue,
                Some(_) => there.moved.cancel(),
                None => {
                    info!(destination = %name, "Closed a destination's listener");
                    there.entrance.shut.cancel();
                }
            }
            leaving.push(there.left.clone());
        }
        leaving
    }

    fn open(&self, name: Name, entrance: Arc<Entrance>, listen: SocketAddr, tasks: &mut JoinSet<()>) -> Kept {
        let moved = CancellationToken::new();
        let left = CancellationToken::new();
        let publish = Publish { published: self.published.clone(), name, entrance: Arc::clone(&entrance) };
        publish.state(ListenState::Opening);
        let task = tasks.spawn(keep(publish, listen, moved.clone(), left.clone()));
        Kept { entrance, listen, moved, left, task }
    }
}

/// Keeps what the entrances say. Ends when the last entrance is gone.
async fn write_down(events: &Events, said: &mut mpsc::Receiver<NewEvent>) {
    while let Some(event) = said.recv().await {
        if let Err(error) = events.append(event, time::OffsetDateTime::now_utc()).await {
            warn!(%error, "An event could not be kept");
        }
    }
}

/// Waits until a listener's task fails, which none should.
async fn a_task_failed(tasks: &mut JoinSet<()>) {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                return error!(%error, "A listener's task failed: this is a bug; it is started again");
            }
            None => std::future::pending().await,
        }
    }
}

/// Whether central listens for it.
fn listens(destination: &Destination) -> bool {
    destination.enabled
        && destination.direction == Direction::ToSite
        && destination.url.scheme().transport() == Transport::Tcp
}

/// Shows one entrance's state.
struct Publish {
    published: watch::Sender<Published>,
    name: Name,
    entrance: Arc<Entrance>,
}

impl Publish {
    fn state(&self, state: ListenState) {
        let shown = PublishedEntrance { state, entrance: Arc::clone(&self.entrance) };
        self.published.send_modify(|published| {
            published.insert(self.name.clone(), shown);
        });
    }
}

/// Binds, until it works, and serves.
async fn keep(publish: Publish, listen: SocketAddr, moved: CancellationToken, left: CancellationToken) {
    // Also when this panics or is dropped: somebody may wait for the address.
    let left = left.drop_guard();
    let entrance = Arc::clone(&publish.entrance);
    let bound = tokio::select! {
        biased;
        () = entrance.shut.cancelled() => return,
        () = entrance.closing.cancelled() => return,
        () = moved.cancelled() => return,
        bound = bind(&publish, listen) => bound,
    };
    let Some((listener, address)) = bound else { return };
    info!(destination = %publish.name, %address, "Opened a destination's listener");
    publish.state(ListenState::At(address));
    tcp::serve(entrance, listener, moved, left).await;
}

async fn bind(publish: &Publish, listen: SocketAddr) -> Option<(tokio::net::TcpListener, SocketAddr)> {
    let mut pause = BIND_PAUSE_FIRST;
    let mut told = None;
    loop {
        match tcp::bind(listen).and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((address, listener)) => return Some((listener, address)),
            Err(error) => {
                let reason = why_not(listen, &error);
                if told.as_ref() != Some(&reason) {
                    warn!(destination = %publish.name, %listen, %error, "A listener could not be opened");
                    let text = format!("destination {} cannot listen on {listen}: {reason}", publish.name);
                    publish.entrance.say("listener_failed", Severity::Error, text);
                    publish.state(ListenState::Failed(reason.clone()));
                    told = Some(reason);
                } else {
                    debug!(destination = %publish.name, %listen, %error, "A listener still cannot be opened");
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(BIND_PAUSE_MAX);
    }
}

/// The operating system's reason, and what to do.
fn why_not(listen: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another destination or program listens on port {} already: choose another port, or stop that one",
            listen.port()
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this host: choose one that is, or 0.0.0.0 for all", listen.ip())
        }
        io::ErrorKind::PermissionDenied => "central may not open this port: choose one above 1023".to_owned(),
        _ => "central tries again".to_owned(),
    };
    format!("{error}; {advice}")
}
