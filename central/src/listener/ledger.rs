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
    Epoch, Name, TraceId,
    driver::{Lane, Meter, Reset, StreamId, Tunnel},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

pub use super::account::{ClosedStream, Outcome};
use super::{entrance::Refusal, traced::Traced};
use crate::{
    admin::data_plane::{Carriage, StreamTimes},
    destination::Destination,
    gateway::environment::ActiveTunnel,
};

/// How many streams are remembered that ended as they should.
pub const FINISHED_MAX: usize = 200;
/// How many are remembered that broke or never came to be. They have places of their own: a busy destination must
/// not make the one refusal forgotten that somebody asks for.
pub const TROUBLED_MAX: usize = 200;

/// Names a stream among all that this central has ever carried in its Environment: group, claim, number, and the lane
/// where it is not the tunnel's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    pub epoch: Epoch,
    /// Which of all the lanes this epoch's tunnel had: [`Lane::serial`].
    pub lane: u32,
    pub stream: StreamId,
}

/// One Environment's streams. Clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pages: Arc<Mutex<Pages>>,
    traced: Arc<Traced>,
}

#[derive(Debug, Default)]
struct Pages {
    open: BTreeMap<StreamKey, Open>,
    finished: VecDeque<Closed>,
    troubled: VecDeque<Closed>,
    opened: u64,
    refused: u64,
    ended: u64,
    times: StreamTimes,
    /// By the destinations' type; nothing of what is open but that it was opened.
    carried: BTreeMap<&'static str, Carriage>,
    /// The bytes that were last told of each: a stream that breaks off can take its count with it, and a sum that falls
    /// would look like a restart.
    told: BTreeMap<&'static str, (u64, u64)>,
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
    arrival: Arrival,
    via: Name,
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
    /// The same in the logs of central and of the agent.
    #[schema(value_type = String)]
    pub trace_id: TraceId,
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

/// A client whose stream has ended, or never came to be: the facts, of which [`account`](super::account) tells.
#[derive(Debug, Clone)]
pub(super) struct Closed {
    /// Counts what ended since central started.
    pub(super) number: u64,
    pub(super) arrival: Arrival,
    pub(super) ended_at: OffsetDateTime,
    /// From its arrival to its end.
    pub(super) lasted: Duration,
    /// How long it waited for a tunnel.
    pub(super) parked: Duration,
    /// What it got; nothing where it was refused.
    pub(super) carried: Option<Carried>,
    pub(super) ending: Ending,
}

/// What a stream that came to be has done.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    pub(super) key: StreamKey,
    pub(super) via: Name,
    /// From the opening until the destination had accepted; nothing if it never did.
    pub(super) dial: Option<Duration>,
    /// From the opening until the destination's first byte.
    pub(super) first_byte: Option<Duration>,
    pub(super) bytes_to_site: u64,
    pub(super) bytes_to_client: u64,
}

/// How it ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Ending {
    #[error("both ends had said all")]
    Finished,
    #[error("an administrator ended it")]
    Ended,
    #[error("central closed it")]
    Dropped,
    /// With the operating system's reason.
    #[error("the client's connection broke: {0}")]
    ClientBroke(String),
    /// The agent, the destination or the tunnel reset it.
    #[error("{0}")]
    Broke(Reset),
    /// The client got no stream.
    #[error("{0}")]
    Refused(Refusal),
}

/// A client that has not got its stream yet.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub trace_id: TraceId,
    pub destination: Name,
    pub client: SocketAddr,
    /// The destination's type.
    protocol: &'static str,
    pub(super) since: OffsetDateTime,
    began: Instant,
}

impl Arrival {
    pub fn now(destination: &Destination, client: SocketAddr) -> Self {
        Self {
            trace_id: TraceId::random(),
            destination: destination.name.clone(),
            client,
            protocol: destination.kind.as_str(),
            since: OffsetDateTime::now_utc(),
            began: Instant::now(),
        }
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
    /// A ledger that also tells `traced` of whatever ends.
    pub(super) fn new(traced: Traced) -> Self {
        Self { traced: Arc::new(traced), ..Self::default() }
    }

    /// Notes a stream that was just opened for this client.
    pub fn open(&self, arrival: Arrival, active: &ActiveTunnel, lane: Lane, stream: StreamId) -> Line {
        let Lane { serial, tunnel } = lane;
        let key = StreamKey { epoch: active.epoch, lane: serial, stream };
        let end = CancellationToken::new();
        let began = Instant::now();
        let open = Open {
            parked: began.saturating_duration_since(arrival.began),
            arrival,
            via: active.name.clone(),
            began,
            meter: tunnel.meter(stream),
            tunnel,
            end: end.clone(),
        };
        let mut pages = self.lock();
        pages.opened += 1;
        pages.carried.entry(open.arrival.protocol).or_default().opened += 1;
        pages.open.insert(key, open);
        drop(pages);
        Line { ledger: self.clone(), key, end }
    }

    /// Notes a client that got no stream.
    pub fn refused(&self, arrival: Arrival, refusal: Refusal) {
        let waited = arrival.began.elapsed();
        let mut pages = self.lock();
        pages.refused += 1;
        pages.carried.entry(arrival.protocol).or_default().refused += 1;
        let told = pages.remember(&self.traced, |number| Closed {
            number,
            arrival,
            ended_at: OffsetDateTime::now_utc(),
            lasted: waited,
            parked: waited,
            carried: None,
            ending: Ending::Refused(refusal),
        });
        drop(pages);
        self.traced.tell(told.as_ref());
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
                    trace_id: open.arrival.trace_id,
                    destination: open.arrival.destination,
                    client: open.arrival.client,
                    via: open.via,
                    since: open.arrival.since,
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

    /// What is and was carried, by the type of the destinations.
    pub fn carried(&self) -> BTreeMap<&'static str, Carriage> {
        let (mut carried, open): (_, Vec<_>) = {
            let pages = self.lock();
            let open =
                pages.open.iter().map(|(key, open)| (open.arrival.protocol, open.tunnel.clone(), key.stream));
            (pages.carried.clone(), open.collect())
        };
        // Not under the lock: see `list`.
        for (protocol, tunnel, stream) in open {
            let one = carried.entry(protocol).or_default();
            let (received, sent) = tunnel.stream_bytes(stream).unwrap_or_default();
            one.open += 1;
            one.bytes_to_site += sent;
            one.bytes_to_cloud += received;
        }
        let mut pages = self.lock();
        for (protocol, one) in &mut carried {
            let (to_site, to_cloud) = pages.told.entry(protocol).or_default();
            *to_site = one.bytes_to_site.max(*to_site);
            *to_cloud = one.bytes_to_cloud.max(*to_cloud);
            (one.bytes_to_site, one.bytes_to_cloud) = (*to_site, *to_cloud);
        }
        carried
    }

    /// Where the time of those that ended went.
    pub fn times(&self) -> StreamTimes {
        self.lock().times.clone()
    }

    /// The last that ended, newest first.
    pub fn closed(&self) -> Vec<ClosedStream> {
        // Copied first, as above.
        let mut closed: Vec<Closed> = {
            let pages = self.lock();
            pages.finished.iter().chain(&pages.troubled).cloned().collect()
        };
        closed.sort_unstable_by_key(|one| std::cmp::Reverse(one.number));
        closed.into_iter().map(ClosedStream::of).collect()
    }

    /// Ends a stream: both its ends are reset. `false`: there is none.
    pub fn end(&self, key: StreamKey) -> bool {
        let pages = self.lock();
        let open = pages.open.get(&key);
        open.inspect(|open| open.end.cancel()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        // Whole after any panic: each change is one insert, remove or push.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// Gives back a copy where somebody wants to be told of it; not under the lock.
    fn remember(&mut self, traced: &Traced, closed: impl FnOnce(u64) -> Closed) -> Option<Closed> {
        self.ended += 1;
        let closed = closed(self.ended);
        self.times.parked.observe(closed.parked);
        if let Some(carried) = &closed.carried {
            let sum = self.carried.entry(closed.arrival.protocol).or_default();
            sum.bytes_to_site += carried.bytes_to_site;
            sum.bytes_to_cloud += carried.bytes_to_client;
            self.times.lasted.observe(closed.lasted);
            carried.dial.into_iter().for_each(|dial| self.times.dialled.observe(dial));
            carried.first_byte.into_iter().for_each(|first| self.times.first_byte.observe(first));
        }
        let (book, most) = match closed.ending {
            Ending::Finished | Ending::Ended => (&mut self.finished, FINISHED_MAX),
            Ending::Dropped | Ending::ClientBroke(_) | Ending::Broke(_) | Ending::Refused(_) => {
                (&mut self.troubled, TROUBLED_MAX)
            }
        };
        if book.len() >= most {
            book.pop_front();
        }
        let told = traced.wants(&closed).then(|| closed.clone());
        book.push_back(closed);
        told
    }
}

impl Line {
    pub fn key(&self) -> StreamKey {
        self.key
    }

    /// Waits until somebody wants the stream to end, and tells its bytes so far: to the site, to the client.
    /// Cancel-safe.
    pub async fn ended(&self) -> (u64, u64) {
        self.end.cancelled().await;
        let open = self.ledger.lock().open.get(&self.key).cloned();
        let bytes = open.and_then(|open| open.tunnel.stream_bytes(self.key.stream));
        bytes.map_or((0, 0), |(received, sent)| (sent, received))
    }

    /// The stream has ended, so, after this many bytes.
    pub fn close(self, ending: Ending, bytes_to_site: u64, bytes_to_client: u64) {
        self.sign_out(ending, bytes_to_site, bytes_to_client);
    }

    fn sign_out(&self, ending: Ending, bytes_to_site: u64, bytes_to_client: u64) {
        let mut pages = self.ledger.lock();
        let Some(open) = pages.open.remove(&self.key) else { return };
        let after = |at: Instant| at.saturating_duration_since(open.began);
        let told = pages.remember(&self.ledger.traced, |number| Closed {
            number,
            ended_at: OffsetDateTime::now_utc(),
            lasted: open.parked + open.began.elapsed(),
            parked: open.parked,
            carried: Some(Carried {
                key: self.key,
                via: open.via,
                dial: open.meter.opened().map(after),
                first_byte: open.meter.first_byte().map(after),
                bytes_to_site,
                bytes_to_client,
            }),
            arrival: open.arrival,
            ending,
        });
        drop(pages);
        self.ledger.traced.tell(told.as_ref());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.sign_out(Ending::Dropped, 0, 0);
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch.group, self.epoch.claim, self.stream.0)?;
        if self.lane > 0 { write!(f, ".{}", self.lane) } else { Ok(()) }
    }
}

/// Why a text is no [`StreamKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream's id is GROUP.CLAIM.NUMBER or GROUP.CLAIM.NUMBER.LANE, as in 2.17.33 and 2.17.33.1")]
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
        let lane = match parts.next() {
            // Written as nothing: an id has one spelling.
            Some(lane) => lane.parse().ok().filter(|lane| *lane > 0).ok_or(NoStreamKey)?,
            None => 0,
        };
        if parts.next().is_some() { Err(NoStreamKey) } else { Ok(Self { epoch, lane, stream }) }
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

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
