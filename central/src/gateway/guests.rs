//! Who is in a tunnel: its streams, each with the client and the destination at its two ends.
//!
//! The mux knows streams by number; this register knows whose they are, so that people can be told
//! who still holds an old active open.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use utoipa::ToSchema;

use proto::{
    Name,
    driver::{StreamId, Tunnel},
};
use serde::Serialize;
use time::OffsetDateTime;

/// How many streams are listed at most. A tunnel may hold far more than a person reads.
pub const LISTED_MAX: usize = 1000;

/// The streams of one tunnel that have a client. Clones are the same register.
#[derive(Debug, Clone, Default)]
pub struct Guests(Arc<Mutex<Register>>);

#[derive(Debug, Default)]
struct Register {
    /// By the order in which they came.
    guests: BTreeMap<u64, Guest>,
    came: u64,
}

#[derive(Debug)]
struct Guest {
    /// The lane it is on, and its number there.
    lane: Tunnel,
    stream: StreamId,
    destination: Name,
    client: SocketAddr,
    since: OffsetDateTime,
}

/// One stream, until it is dropped.
#[derive(Debug)]
pub struct Entry {
    guests: Guests,
    number: u64,
}

/// One stream as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamView {
    #[schema(value_type = String)]
    pub destination: Name,
    #[schema(value_type = String)]
    pub client: SocketAddr,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Payload bytes so far, both ways.
    pub bytes: u64,
}

impl Guests {
    /// Notes whose stream this is.
    pub fn enter(&self, lane: &Tunnel, stream: StreamId, destination: Name, client: SocketAddr) -> Entry {
        let guest =
            Guest { lane: lane.clone(), stream, destination, client, since: OffsetDateTime::now_utc() };
        let mut register = self.lock();
        register.came += 1;
        let number = register.came;
        register.guests.insert(number, guest);
        Entry { guests: self.clone(), number }
    }

    /// The streams, oldest first, the first [`LISTED_MAX`] of them.
    pub fn list(&self) -> Vec<StreamView> {
        let view = |guest: &Guest| {
            let Guest { lane, stream, destination, client, since } = guest;
            let (received, sent) = lane.stream_bytes(*stream)?;
            Some(StreamView {
                destination: destination.clone(),
                client: *client,
                since: *since,
                bytes: received + sent,
            })
        };
        self.lock().guests.values().filter_map(view).take(LISTED_MAX).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        // Whole after any panic: each change is one insert or remove.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.guests.lock().guests.remove(&self.number);
    }
}
