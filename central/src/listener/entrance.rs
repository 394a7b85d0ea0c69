//! One destination's entrance: what its listener and its connections share, whatever they speak.
//!
//! An entrance stays while its destination is enabled and leads to the same place. Edits that do not touch that are
//! seen by the next client; the clients inside notice nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use program::descriptors::{Budget, Taken};
use proto::driver::{Reset, ResetCode};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    ledger::{Arrival, Ledger},
    park::{Lot, NotOpened, Opener},
};
use crate::{
    destination::Destination,
    events::{NewEvent, Severity},
};

/// How often an entrance raises an event about clients it could not serve. What happens in between is counted into
/// the next one.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What all entrances of an Environment share.
#[derive(Clone)]
pub struct House {
    pub opener: Opener,
    pub lot: Lot,
    pub budget: Budget,
    pub ledger: Ledger,
    pub park_timeout: Duration,
    /// Events on their way to the store. What does not fit is dropped: the log has it.
    pub events: mpsc::Sender<NewEvent>,
}

/// One destination's entrance.
pub struct Entrance {
    pub house: House,
    destination: RwLock<Arc<Destination>>,
    pub counters: Arc<Counters>,
    /// Nobody may come in any more, and nobody may wait: central stops.
    pub closing: CancellationToken,
    /// Whoever is inside is reset.
    pub shut: CancellationToken,
    told: Mutex<Told>,
}

/// What came through an entrance since central started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Clients that connected.
    pub accepted: AtomicU64,
    /// Clients that were reset without a stream.
    pub refused: AtomicU64,
    /// Clients waiting for a tunnel now.
    pub parked: AtomicUsize,
    /// Clients with a stream now.
    pub open: AtomicUsize,
    /// Clients that were let in and are still there, wherever.
    inside: AtomicUsize,
}

/// Why a client was sent away, or left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the destination's access list does not name the client's address")]
    NotPermitted,
    #[error("the destination has {0} clients already, which is its limit (limits.streams)")]
    TooMany(u32),
    #[error(
        "central holds {0} clients already, all that its file descriptors allow: raise LimitNOFILE of its service"
    )]
    NoRoom(usize),
    #[error("{0} clients wait for a tunnel already")]
    LotFull(usize),
    #[error("the client left while it waited for a tunnel")]
    Left,
    #[error("central closed the destination")]
    Closed,
    #[error(transparent)]
    NotOpened(#[from] NotOpened),
}

/// When somebody was last told about trouble at this entrance, and what has happened since.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    untold: u64,
}

impl Entrance {
    pub fn new(house: House, destination: Destination) -> Arc<Self> {
        Arc::new(Self {
            house,
            destination: RwLock::new(Arc::new(destination)),
            counters: Arc::default(),
            closing: CancellationToken::new(),
            shut: CancellationToken::new(),
            told: Mutex::default(),
        })
    }

    pub fn destination(&self) -> Arc<Destination> {
        self.destination.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next client is judged by `destination`.
    pub fn change(&self, destination: Destination) {
        *self.destination.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(destination);
    }

    /// Lets a client in, if there is room and it may.
    ///
    /// # Errors
    /// [`Refusal`]: reset it.
    pub fn enter(&self, client: SocketAddr) -> Result<Inside, Refusal> {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let destination = self.destination();
        if !destination.acl.permits(client.ip()) {
            return Err(Refusal::NotPermitted);
        }
        let taken = self.house.budget.take().ok_or(Refusal::NoRoom(self.house.budget.streams()))?;
        let limit = destination.limits.streams;
        let others = self.counters.inside.fetch_add(1, Ordering::Relaxed);
        // Made before the check, so that refusing gives back what was taken.
        let inside = Inside { counters: Arc::clone(&self.counters), at: Whereabouts::Hall, _taken: taken };
        if others >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(Refusal::TooMany(limit));
        }
        Ok(inside)
    }

    /// Counts and remembers a client that went away without a stream, and tells of it now and then.
    pub fn refused(&self, arrival: Arrival, refusal: Refusal) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        let Arrival { trace_id, client, .. } = &arrival;
        debug!(%trace_id, destination = %arrival.destination, %client, reason = %refusal, "Reset a client");
        // A client that leaves, or one that may not come in, is its own business: the log is enough.
        if !matches!(refusal, Refusal::Left | Refusal::Closed | Refusal::NotPermitted) {
            self.tell("connections_refused", &refusal.to_string());
        }
        self.house.ledger.refused(arrival, refusal);
    }

    /// A stream broke. If the destination could not be reached in the first place, tells of it now and then.
    pub fn broke(&self, reset: &Reset) {
        if matches!(
            reset.code,
            ResetCode::NOT_ALLOWED
                | ResetCode::UNKNOWN_DESTINATION
                | ResetCode::UNREACHABLE
                | ResetCode::TIMED_OUT
                | ResetCode::TOO_MANY_STREAMS
        ) {
            self.tell("destination_unreachable", reset.reason());
        }
    }

    /// Raises an event, at most one per [`TELL_EVERY`].
    fn tell(&self, code: &'static str, why: &str) {
        let count = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.untold += 1;
            if told.at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
                return;
            }
            told.at = Some(Instant::now());
            std::mem::take(&mut told.untold)
        };
        let name = &self.destination().name;
        let connections = if count == 1 { "a connection".into() } else { format!("{count} connections") };
        let text = format!("{connections} to destination {name} failed, the last because {why}");
        self.say(code, Severity::Warning, text);
    }

    /// Raises an event.
    pub fn say(&self, code: &'static str, severity: Severity, text: String) {
        let event = NewEvent { code, severity, text, sender: "listener".into() };
        if let Err(error) = self.house.events.try_send(event) {
            debug!(%error, "An event was dropped");
        }
    }
}

/// One client that was let in. It is counted where it is until this is dropped.
#[derive(Debug)]
pub struct Inside {
    counters: Arc<Counters>,
    at: Whereabouts,
    _taken: Taken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// Just let in.
    Hall,
    /// Waiting for a tunnel.
    Parked,
    /// It has its stream.
    Open,
}

impl Inside {
    pub fn parked(&mut self) {
        self.move_to(Whereabouts::Parked);
    }

    pub fn open(&mut self) {
        self.move_to(Whereabouts::Open);
    }

    fn move_to(&mut self, to: Whereabouts) {
        let counters = &self.counters;
        let gauge = |at| match at {
            Whereabouts::Hall => None,
            Whereabouts::Parked => Some(&counters.parked),
            Whereabouts::Open => Some(&counters.open),
        };
        if let Some(gauge) = gauge(to) {
            gauge.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(gauge) = gauge(self.at) {
            gauge.fetch_sub(1, Ordering::Relaxed);
        }
        self.at = to;
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.move_to(Whereabouts::Hall);
        self.counters.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::stage::{Gate, destination};

    #[tokio::test(start_paused = true)]
    async fn who_is_not_on_the_access_list_stays_outside() {
        let (entrance, _events) =
            entrance("tcp://db:1", |d| d.acl.clients = vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(entrance.enter(client("203.0.113.1:1")).unwrap_err(), Refusal::NotPermitted);
        entrance.enter(client("10.0.0.1:1")).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_holds_no_more_clients_than_its_limit() {
        let (entrance, _events) = entrance("tcp://db:1", |d| d.limits.streams = 1);
        let first = entrance.enter(client("10.0.0.1:1")).unwrap();
        assert_eq!(entrance.enter(client("10.0.0.1:2")).unwrap_err(), Refusal::TooMany(1));
        drop(first);
        entrance.enter(client("10.0.0.1:3")).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_access_list_counts_for_the_next_client() {
        let (entrance, _events) = entrance("tcp://db:1", |_| {});
        let _inside = entrance.enter(client("203.0.113.1:1")).unwrap();
        let mut changed = (*entrance.destination()).clone();
        changed.acl.clients = vec!["10.0.0.0/8".parse().unwrap()];
        entrance.change(changed);
        assert_eq!(entrance.enter(client("203.0.113.1:2")).unwrap_err(), Refusal::NotPermitted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_refusals_are_told_in_two_events() {
        let (entrance, mut events) = entrance("tcp://db:1", |_| {});
        let arrival = || Arrival::now(&destination("db", "tcp://db:1"), client("10.0.0.1:1"));
        for _ in 0..1000 {
            entrance.refused(arrival(), Refusal::LotFull(7));
        }
        assert!(events.try_recv().unwrap().text.starts_with("a connection to destination db failed"));
        assert!(events.try_recv().is_err());
        tokio::time::advance(TELL_EVERY).await;
        entrance.refused(arrival(), Refusal::LotFull(7));
        assert!(events.try_recv().unwrap().text.starts_with("1000 connections to destination db failed"));
    }

    fn entrance(
        url: &str,
        change: impl FnOnce(&mut Destination),
    ) -> (Arc<Entrance>, mpsc::Receiver<NewEvent>) {
        let mut destination = destination("db", url);
        change(&mut destination);
        let (house, events) = Gate::default().house();
        (Entrance::new(house, destination), events)
    }

    fn client(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }
}
