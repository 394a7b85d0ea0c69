//! Who uses the gateway: the open streams of one Environment, and the last that ended. Metadata only.
//!
//! A stream signs in when it is opened and out when it ends; in between it costs nothing here. Bytes and times
//! are the tunnel's own, asked for when somebody looks.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use proto::{
    Epoch, Name,
    driver::{Meter, StreamId, Tunnel},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::gateway::environment::ActiveTunnel;

/// How many ended streams are remembered.
pub const CLOSED_MAX: usize = 200;
/// The longest reason that is remembered, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// Names a stream among all that this central has ever carried in its Environment: group, claim, number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    pub epoch: Epoch,
    pub stream: StreamId,
}

/// One Environment's streams. Clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    open: BTreeMap<StreamKey, Open>,
    closed: VecDeque<ClosedStream>,
    opened: u64,
    refused: u64,
}

/// How many there were since central started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub open: usize,
    pub opened: u64,
    pub refused: u64,
}

#[derive(Debug, Clone)]
struct Open {
    destination: Name,
    client: SocketAddr,
    via: Name,
    since: OffsetDateTime,
    began: Instant,
    parked: Duration,
    tunnel: Tunnel,
    meter: Meter,
    end: CancellationToken,
}

/// A stream that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OpenStream {
    #[schema(value_type = String)]
    pub id: StreamKey,
    #[schema(value_type = String)]
    pub destination: Name,
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The Process Server whose tunnel carries it.
    #[schema(value_type = String)]
    pub via: Name,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    pub age_ms: u64,
    pub bytes_to_site: u64,
    pub bytes_to_client: u64,
    /// Since the site was last heard on it.
    pub idle_ms: u64,
    /// Its active was replaced, and it may finish.
    pub draining: bool,
}

/// A stream that has ended, or never came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClosedStream {
    #[schema(value_type = Option<String>)]
    pub id: Option<StreamKey>,
    #[schema(value_type = String)]
    pub destination: Name,
    #[schema(value_type = String)]
    pub client: SocketAddr,
    #[schema(value_type = Option<String>)]
    pub via: Option<Name>,
    /// When the client came.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
    pub duration_ms: u64,
    pub bytes_to_site: u64,
    pub bytes_to_client: u64,
    pub outcome: Outcome,
    pub reason: String,
    /// How long it waited for a tunnel.
    pub parked_ms: u64,
    /// From the opening until the destination had accepted; nothing if it never did.
    pub dial_ms: Option<u64>,
    /// From the opening until the destination's first byte.
    pub first_byte_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = StreamOutcome)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Both ends had said all.
    Finished,
    /// It was reset.
    Broken,
    /// The client got no stream.
    Refused,
}

/// A client that has not got its stream yet.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub destination: Name,
    pub client: SocketAddr,
    since: OffsetDateTime,
    began: Instant,
}

impl Arrival {
    pub fn now(destination: Name, client: SocketAddr) -> Self {
        Self { destination, client, since: OffsetDateTime::now_utc(), began: Instant::now() }
    }
}

/// One open stream's line. Dropped without [`Line::close`] it counts as broken.
#[derive(Debug)]
pub struct Line {
    ledger: Ledger,
    key: StreamKey,
    end: CancellationToken,
}

impl Ledger {
    /// Notes a stream that was just opened for this client.
    pub fn open(&self, arrival: Arrival, active: &ActiveTunnel, stream: StreamId) -> Line {
        let key = StreamKey { epoch: active.epoch, stream };
        let end = CancellationToken::new();
        let began = Instant::now();
        let open = Open {
            destination: arrival.destination,
            client: arrival.client,
            via: active.name.clone(),
            since: arrival.since,
            began,
            parked: began.saturating_duration_since(arrival.began),
            meter: active.tunnel.meter(stream),
            tunnel: active.tunnel.clone(),
            end: end.clone(),
        };
        let mut pages = self.lock();
        pages.opened += 1;
        pages.open.insert(key, open);
        drop(pages);
        Line { ledger: self.clone(), key, end }
    }

    /// Notes a client that got no stream.
    pub fn refused(&self, arrival: Arrival, reason: &str) {
        let waited = ms(arrival.began.elapsed());
        let mut pages = self.lock();
        pages.refused += 1;
        pages.remember(ClosedStream {
            id: None,
            destination: arrival.destination,
            client: arrival.client,
            via: None,
            since: arrival.since,
            ended_at: OffsetDateTime::now_utc(),
            duration_ms: waited,
            bytes_to_site: 0,
            bytes_to_client: 0,
            outcome: Outcome::Refused,
            reason: bounded(reason),
            parked_ms: waited,
            dial_ms: None,
            first_byte_ms: None,
        });
    }

    /// Up to `limit` open streams behind `after`, oldest epoch first. `current` is the epoch that takes new streams.
    pub fn list(&self, current: Option<Epoch>, after: Option<StreamKey>, limit: usize) -> Vec<OpenStream> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        // Copied first: a look must not hold up who opens or ends a stream.
        let page: Vec<_> = self
            .lock()
            .open
            .range((from, Unbounded))
            .take(limit)
            .map(|(key, open)| (*key, open.clone()))
            .collect();
        page.into_iter()
            .map(|(id, open)| {
                let (received, sent) = open.tunnel.stream_bytes(id.stream).unwrap_or_default();
                OpenStream {
                    id,
                    destination: open.destination,
                    client: open.client,
                    via: open.via,
                    since: open.since,
                    age_ms: ms(open.began.elapsed() + open.parked),
                    bytes_to_site: sent,
                    bytes_to_client: received,
                    idle_ms: ms(open.meter.heard().unwrap_or(open.began).elapsed()),
                    draining: current != Some(id.epoch),
                }
            })
            .collect()
    }

    pub fn counts(&self) -> Counts {
        let pages = self.lock();
        Counts { open: pages.open.len(), opened: pages.opened, refused: pages.refused }
    }

    /// The last that ended, newest first.
    pub fn closed(&self) -> Vec<ClosedStream> {
        self.lock().closed.iter().rev().cloned().collect()
    }

    /// Ends a stream: both its ends are reset. `false`: there is none.
    pub fn end(&self, key: StreamKey) -> bool {
        let pages = self.lock();
        let open = pages.open.get(&key);
        open.inspect(|open| open.end.cancel()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        // Whole after any panic: each change is one insert, remove or push.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn remember(&mut self, closed: ClosedStream) {
        if self.closed.len() >= CLOSED_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back(closed);
    }
}

impl Line {
    /// Waits until somebody wants the stream to end, and tells its bytes so far: to the site, to the client.
    /// Cancel-safe.
    pub async fn ended(&self) -> (u64, u64) {
        self.end.cancelled().await;
        let open = self.ledger.lock().open.get(&self.key).cloned();
        let bytes = open.and_then(|open| open.tunnel.stream_bytes(self.key.stream));
        bytes.map_or((0, 0), |(received, sent)| (sent, received))
    }

    /// The stream has ended, so, after this many bytes.
    pub fn close(self, outcome: Outcome, reason: &str, bytes_to_site: u64, bytes_to_client: u64) {
        self.sign_out(outcome, reason, bytes_to_site, bytes_to_client);
    }

    fn sign_out(&self, outcome: Outcome, reason: &str, bytes_to_site: u64, bytes_to_client: u64) {
        let mut pages = self.ledger.lock();
        let Some(open) = pages.open.remove(&self.key) else { return };
        let after = |at: Instant| ms(at.saturating_duration_since(open.began));
        pages.remember(ClosedStream {
            id: Some(self.key),
            destination: open.destination,
            client: open.client,
            via: Some(open.via),
            since: open.since,
            ended_at: OffsetDateTime::now_utc(),
            duration_ms: ms(open.began.elapsed()),
            bytes_to_site,
            bytes_to_client,
            outcome,
            reason: bounded(reason),
            parked_ms: ms(open.parked),
            dial_ms: open.meter.opened().map(after),
            first_byte_ms: open.meter.first_byte().map(after),
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.sign_out(Outcome::Broken, "central closed it", 0, 0);
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch.group, self.epoch.claim, self.stream.0)
    }
}

/// Why a text is no [`StreamKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream's id is GROUP.CLAIM.NUMBER, as in 2.17.33")]
pub struct NoStreamKey;

impl FromStr for StreamKey {
    type Err = NoStreamKey;

    fn from_str(text: &str) -> Result<Self, NoStreamKey> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(NoStreamKey);
        let (group, claim, stream) = (next()?, next()?, next()?);
        let number = |text: &str| text.parse::<u64>().map_err(|_| NoStreamKey);
        let epoch = Epoch { group: number(group)?, claim: number(claim)? };
        let stream = StreamId(stream.parse().map_err(|_| NoStreamKey)?);
        if parts.next().is_some() { Err(NoStreamKey) } else { Ok(Self { epoch, stream }) }
    }
}

impl Serialize for StreamKey {
    fn serialize<S: serde::Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        writer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StreamKey {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        String::deserialize(reader)?.parse().map_err(serde::de::Error::custom)
    }
}

fn bounded(reason: &str) -> String {
    reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
