//! Listeners: where applications in the cloud connect to reach a destination at the customer's site.
//!
//! ```text
//!   follow    one task per Environment: the store's destinations decide which entrances there are
//!   entrance  what one destination's listener and clients share: who may come in, counters, events
//!   tcp       plain TCP behind an entrance: accept ─► park ─► open ─► relay
//!   forwarder the front door: SOCKS5 and CONNECT, a second way to the same entrances
//!   ledger    who uses the gateway now, and who did lately
//!   account   hop by hop, what became of one that ended: which rule, and where its time went
//!   traced    the same as spans, for those who collect them
//!   park      waiting for a tunnel, and opening a stream in it; also what `POST …/test` uses
//! ```
//!
//! What TLS, HTTP or UDP listeners add is another `tcp`: the rest is the same for them.

pub mod account;
pub mod entrance;
mod follow;
pub mod forwarder;
pub mod ledger;
pub mod park;
#[cfg(test)]
mod stage;
pub mod tcp;
#[cfg(test)]
mod tests;
mod traced;

use std::{
    collections::BTreeMap,
    future::pending,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use probe::Target;
use program::descriptors::Budget;
use proto::{EnvironmentName, Name, driver::ResetCode, trace::Hop};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use traces::Traces;
use tracing::error;

pub use self::{
    entrance::Counters,
    park::{NotOpened, Opener, Through},
};
use self::{
    entrance::House,
    follow::{Follower, Published},
    forwarder::Door,
    ledger::{ClosedStream, Ledger, OpenStream, StreamKey},
    park::{Lot, PARKED_MAX},
    traced::Traced,
};
use crate::{
    admin::data_plane::{Carriage, Listening, OpenFailure, TrafficView, TriedOut},
    destination::{Destination, Destinations},
    events::{Events, NewEvent},
    gateway::environment::ActiveTunnel,
    store::SharedStore,
};

/// Events of one Environment's entrances on their way to the store.
const EVENTS_MAX: usize = 64;
/// How long a tested destination has for TLS and for its greeting, each.
const WORDS_LIMIT: Duration = Duration::from_secs(4);

/// What one destination's listener does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenState {
    /// It is about to be opened.
    Opening,
    /// Clients may connect here.
    At(SocketAddr),
    /// It cannot be opened, and is tried again; one sentence says why and what to do.
    Failed(String),
}

/// How listeners behave.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a new connection waits for a tunnel before it is refused.
    pub park_timeout: Duration,
    /// Where a destination listens that names no address of its own; the port is any free one.
    pub bind: IpAddr,
}

/// All listeners of this central.
pub struct Listeners {
    environments: BTreeMap<EnvironmentName, Environment>,
    /// Until [`Listeners::run`] takes them.
    followers: Mutex<Vec<(Follower, mpsc::Receiver<NewEvent>)>>,
    /// The same.
    doors: Mutex<Vec<Door>>,
}

struct Environment {
    destinations: Destinations,
    opener: Opener,
    ledger: Ledger,
    published: watch::Receiver<Published>,
}

impl Listeners {
    /// Listeners for these Environments, each with the tunnel that takes its new streams. Nothing is bound yet.
    pub fn new(
        store: &SharedStore,
        tunnels: impl IntoIterator<Item = (EnvironmentName, watch::Receiver<Option<ActiveTunnel>>)>,
        settings: Settings,
        traces: &Traces,
    ) -> Self {
        let budget = Budget::of_this_process();
        let mut environments = BTreeMap::new();
        let mut followers = Vec::new();
        for (name, tunnel) in tunnels {
            let destinations = Destinations::new(store.clone(), &name);
            let (sender, said) = mpsc::channel(EVENTS_MAX);
            let opener = Opener::new(tunnel);
            let ledger = Ledger::new(Traced::new(traces.clone(), &name));
            let house = House {
                opener: opener.clone(),
                lot: Lot::new(PARKED_MAX),
                budget: budget.clone(),
                ledger: ledger.clone(),
                park_timeout: settings.park_timeout,
                events: sender,
            };
            let published = watch::Sender::new(Published::new());
            let environment = Environment {
                destinations: destinations.clone(),
                opener,
                ledger,
                published: published.subscribe(),
            };
            let events = Events::new(store.clone(), &name);
            let anywhere = SocketAddr::new(settings.bind, 0);
            let store = store.clone();
            followers.push((Follower { store, destinations, events, house, anywhere, published }, said));
            environments.insert(name, environment);
        }
        Self { environments, followers: Mutex::new(followers), doors: Mutex::default() }
    }

    /// Puts front doors before the entrances of their Environments; [`Listeners::run`] opens them.
    #[must_use]
    pub fn behind(self, doors: Vec<Door>) -> Self {
        Self { doors: Mutex::new(doors), ..self }
    }

    /// Keeps the listeners until `cancel`, then closes them and lets those inside end, within a limit. A second
    /// call finds nothing to do.
    ///
    /// Dropping the future resets every client; nothing else is lost.
    pub async fn run(&self, cancel: CancellationToken) {
        let followers = std::mem::take(&mut *self.followers.lock().unwrap_or_else(PoisonError::into_inner));
        let mut tasks = JoinSet::new();
        for (follower, said) in followers {
            tasks.spawn(follower.run(said, cancel.clone()));
        }
        for Door { environment, listener } in
            std::mem::take(&mut *self.doors.lock().unwrap_or_else(PoisonError::into_inner))
        {
            if let Some(there) = self.environments.get(&environment) {
                tasks.spawn(forwarder::serve(listener, there.published.clone(), cancel.clone()));
            }
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                // Returning says to our parent that a room that should never end has ended.
                return error!(%error, "The listeners of an Environment failed: this is a bug");
            }
        }
    }

    /// What each destination's listener does now. Destinations that are disabled are not there.
    pub fn states(&self, environment: &EnvironmentName) -> BTreeMap<Name, ListenState> {
        let Some(environment) = self.environments.get(environment) else { return BTreeMap::new() };
        let published = environment.published.borrow();
        published.iter().map(|(name, entrance)| (name.clone(), entrance.state.clone())).collect()
    }

    /// Where clients of a destination connect.
    pub fn bound(&self, environment: &EnvironmentName, destination: &Name) -> Option<SocketAddr> {
        match self.listening(environment, destination) {
            Listening::At(address) => Some(address),
            Listening::Closed | Listening::Failed(_) => None,
        }
    }

    /// Whether any destination's clients connect at an address of which `is` says yes.
    pub fn any_bound(&self, is: impl Fn(SocketAddr) -> bool) -> bool {
        let at = |state: &ListenState| matches!(state, ListenState::At(address) if is(*address));
        self.environments.values().any(|one| one.published.borrow().values().any(|shown| at(&shown.state)))
    }

    /// What came through each entrance since it was opened.
    pub fn counters(&self, environment: &EnvironmentName) -> BTreeMap<Name, Arc<Counters>> {
        let Some(environment) = self.environments.get(environment) else { return BTreeMap::new() };
        let published = environment.published.borrow();
        published.iter().map(|(name, shown)| (name.clone(), Arc::clone(&shown.entrance.counters))).collect()
    }

    /// Up to `limit` open streams behind `after`.
    pub fn streams(
        &self,
        environment: &EnvironmentName,
        after: Option<StreamKey>,
        limit: usize,
    ) -> Vec<OpenStream> {
        let Some(environment) = self.environments.get(environment) else { return Vec::new() };
        let current = environment.opener.active().map(|active| active.epoch);
        environment.ledger.list(current, after, limit)
    }

    /// The last streams that ended, newest first.
    pub fn closed_streams(&self, environment: &EnvironmentName) -> Vec<ClosedStream> {
        self.environments.get(environment).map(|environment| environment.ledger.closed()).unwrap_or_default()
    }

    /// Ends a stream, both its ends reset. `false`: there is none.
    pub fn end_stream(&self, environment: &EnvironmentName, stream: StreamKey) -> bool {
        self.environments.get(environment).is_some_and(|environment| environment.ledger.end(stream))
    }

    /// What is carried, in numbers.
    pub fn traffic(&self, environment: &EnvironmentName) -> TrafficView {
        let Some(environment) = self.environments.get(environment) else { return TrafficView::default() };
        let counts = environment.ledger.counts();
        let active = environment.opener.active();
        let lanes = active.as_ref().map_or(0, |active| active.tunnel.attached());
        let stats = active.map(|active| active.tunnel.stats());
        let entrances = environment.published.borrow();
        let parked =
            entrances.values().map(|shown| shown.entrance.counters.parked.load(Ordering::Relaxed)).sum();
        TrafficView {
            open: counts.open,
            parked,
            opened: counts.opened,
            refused: counts.refused,
            bytes_to_site: stats.as_ref().map_or(0, |stats| stats.bytes_out),
            bytes_to_cloud: stats.as_ref().map_or(0, |stats| stats.bytes_in),
            round_trip: stats.and_then(|stats| stats.round_trip),
            lanes,
            times: environment.ledger.times(),
        }
    }

    /// What is and was carried, by the type of the destinations.
    pub fn carried(&self, environment: &EnvironmentName) -> BTreeMap<&'static str, Carriage> {
        self.environments.get(environment).map(|there| there.ledger.carried()).unwrap_or_default()
    }

    /// What opens streams for everybody but the listeners themselves.
    pub fn opener(&self, environment: &EnvironmentName) -> Option<&Opener> {
        self.environments.get(environment).map(|environment| &environment.opener)
    }
}

impl Listeners {
    /// Opens a stream to the destination through the active tunnel, says its first words, closes it. The caller
    /// sets the deadline by dropping the future.
    ///
    /// # Errors
    /// Why no stream came to be.
    pub async fn try_out(
        &self,
        environment: &EnvironmentName,
        destination: &Destination,
    ) -> Result<TriedOut, OpenFailure> {
        let began = Instant::now();
        let environment = self.environments.get(environment).ok_or(OpenFailure::NoTunnel)?;
        match environment.opener.open(destination, Duration::ZERO).await {
            Ok(Through { stream, via }) => {
                let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let url = &destination.url;
                let target = Target {
                    kind: destination.kind.as_str(),
                    host: url.host(),
                    port: url.port(),
                    path: url.path(),
                };
                let words = probe::first_words(stream, target, WORDS_LIMIT).await;
                Ok(TriedOut { via, ms, words })
            }
            Err(NotOpened::NoTunnel(_)) => Err(OpenFailure::NoTunnel),
            Err(NotOpened::Full { via, reason }) => {
                Err(OpenFailure::Refused { via, at: Hop::Tunnel, reason })
            }
            Err(NotOpened::Refused { via, reset }) => Err(match reset.code {
                ResetCode::TUNNEL_LOST | ResetCode::GOING_AWAY => OpenFailure::TunnelLost { via },
                ResetCode::NOT_ALLOWED => {
                    OpenFailure::Refused { via, at: Hop::AllowList, reason: reset.reason().to_owned() }
                }
                _ => OpenFailure::Refused { via, at: Hop::Connect, reason: reset.reason().to_owned() },
            }),
        }
    }

    /// Waits until the listener of an enabled destination is open or has failed; for ever if it never is one of
    /// them. Cancel-safe.
    pub async fn settled(&self, environment: &EnvironmentName, destination: &Name) {
        let Some(environment) = self.environments.get(environment) else { return pending().await };
        let Ok(Some(record)) = environment.destinations.find(destination).await else {
            return pending().await;
        };
        let followed = |published: &Published| {
            published.get(destination).is_some_and(|shown| {
                shown.state != ListenState::Opening && *shown.entrance.destination() == record
            })
        };
        if environment.published.clone().wait_for(followed).await.is_err() {
            pending().await
        }
    }

    /// What the destination's listener does at this moment.
    pub fn listening(&self, environment: &EnvironmentName, destination: &Name) -> Listening {
        let environment = self.environments.get(environment);
        let state = environment.and_then(|environment| {
            environment.published.borrow().get(destination).map(|shown| shown.state.clone())
        });
        match state {
            None | Some(ListenState::Opening) => Listening::Closed,
            Some(ListenState::At(address)) => Listening::At(address),
            Some(ListenState::Failed(reason)) => Listening::Failed(reason),
        }
    }
}
