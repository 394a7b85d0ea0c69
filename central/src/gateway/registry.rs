//! Who is connected: every agent's control link, by agent and by the seat it holds.
//!
//! Raft traffic takes the short way through here, past the keeper: a decision being written to
//! disk must not delay a heartbeat.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proto::{
    AgentId, BootId, Fingerprint, Name, NodeId,
    control::{AgentReport, CentralMessage, RaftCall, RaftReply},
    hello::{AgentHello, Seat},
    link::Calls,
};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::probing::Probing;
use crate::enrolment::{AgentIdentity, Validity};

/// The longest a relayed call may take, whatever its sender asks for: a Raft snapshot over a slow line.
const CALL_MS_MAX: u64 = 60_000;
/// The longest reason a report may give, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// One agent's control websocket, admitted.
#[derive(Debug)]
pub struct AgentLink {
    /// Tells this websocket from the agent's next one.
    pub id: u64,
    pub agent: AgentId,
    pub name: Name,
    pub fingerprint: Fingerprint,
    /// Of the certificate this websocket was opened with; a renewed one opens another.
    pub certificate: Validity,
    pub boot: BootId,
    pub hello: AgentHello,
    pub remote: SocketAddr,
    pub since: OffsetDateTime,
    /// Cancelled to close the websocket.
    pub closed: CancellationToken,
    /// `None` once the last word was said.
    outbound: Mutex<Option<mpsc::Sender<CentralMessage>>>,
    calls: Calls,
    started: Instant,
    heard_ms: AtomicU64,
    present: Notify,
    report: Mutex<Option<AgentReport>>,
    pub(super) probing: Probing,
}

impl AgentLink {
    pub fn new(
        id: u64,
        identity: AgentIdentity,
        hello: AgentHello,
        remote: SocketAddr,
        outbound: mpsc::Sender<CentralMessage>,
    ) -> Self {
        let AgentIdentity { agent, name, fingerprint, validity, .. } = identity;
        Self {
            id,
            agent,
            name,
            fingerprint,
            certificate: validity,
            boot: hello.boot,
            hello,
            remote,
            since: OffsetDateTime::now_utc(),
            closed: CancellationToken::new(),
            outbound: Mutex::new(Some(outbound)),
            calls: Calls::default(),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            present: Notify::new(),
            report: Mutex::default(),
            probing: Probing::default(),
        }
    }

    /// Queues a message. A link whose queue is full is as good as dead and is closed: dropping one
    /// message in silence would leave the agent with a false picture for as long as it lives.
    pub fn tell(&self, message: CentralMessage) {
        let outbound = self.outbound.lock().unwrap_or_else(PoisonError::into_inner);
        if outbound.as_ref().is_some_and(|outbound| outbound.try_send(message).is_err()) {
            self.closed.cancel();
        }
    }

    /// Queues a last message; the websocket closes once it is sent. What is told later is dropped.
    pub fn finish(&self, last: CentralMessage) {
        self.tell(last);
        drop(self.outbound.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Carries one Raft RPC to this agent.
    ///
    /// # Errors
    /// `None` when no answer came within the call's time.
    pub async fn call(&self, mut call: RaftCall) -> Result<Box<RawValue>, Option<String>> {
        call.ttl_ms = call.ttl_ms.min(CALL_MS_MAX);
        let limit = Duration::from_millis(call.ttl_ms);
        let pending = self
            .calls
            .begin()
            .ok_or_else(|| Some(format!("too many calls to {} are unanswered", self.name)))?;
        call.id = pending.id;
        self.tell(CentralMessage::RaftCall(call));
        pending.wait(limit).await
    }

    /// The agent answered a call.
    pub fn answered(&self, reply: RaftReply) {
        self.calls.answer(reply);
    }

    /// The websocket is gone: whoever waits for an answer learns it at once.
    pub fn fail_calls(&self) {
        self.calls.fail_all();
    }

    /// Something arrived.
    pub fn heard(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether the agent at the other end answers within `limit`.
    pub async fn is_present(&self, limit: Duration) -> bool {
        let answered = self.present.notified();
        self.tell(CentralMessage::Probe { id: 0 });
        tokio::select! {
            answer = tokio::time::timeout(limit, answered) => answer.is_ok(),
            () = self.closed.cancelled() => false,
        }
    }

    /// The agent answered a probe.
    pub fn is_here(&self) {
        self.present.notify_waiters();
    }

    /// How long this websocket has been there.
    pub fn connected_for(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn last_heard(&self) -> OffsetDateTime {
        let ms = self.heard_ms.load(Ordering::Relaxed);
        self.since + time::Duration::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX))
    }

    pub fn set_report(&self, mut report: AgentReport) {
        if let Some(error) = &mut report.last_error {
            let end = (0..=REASON_BYTES_MAX.min(error.len())).rev().find(|end| error.is_char_boundary(*end));
            error.truncate(end.unwrap_or(0));
        }
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    pub fn report(&self) -> Option<AgentReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All links of one Environment.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    links: HashMap<AgentId, Arc<AgentLink>>,
    group: u64,
    seats: HashMap<NodeId, AgentId>,
}

impl Registry {
    /// Puts a link in the agent's place; returns the one that was there.
    pub fn insert(&self, link: Arc<AgentLink>) -> Option<Arc<AgentLink>> {
        self.lock().links.insert(link.agent, link)
    }

    /// Takes a link out, unless a newer one has taken its place.
    pub fn remove(&self, link: &AgentLink) -> bool {
        let mut inner = self.lock();
        let is_it = inner.links.get(&link.agent).is_some_and(|held| held.id == link.id);
        if is_it {
            inner.links.remove(&link.agent);
        }
        is_it
    }

    pub fn link(&self, agent: AgentId) -> Option<Arc<AgentLink>> {
        self.lock().links.get(&agent).cloned()
    }

    pub fn links(&self) -> Vec<Arc<AgentLink>> {
        self.lock().links.values().cloned().collect()
    }

    /// Who sits where, as the store has it. Messages go by this and never by what a message claims.
    pub fn set_seats(&self, group: u64, seats: impl IntoIterator<Item = (NodeId, AgentId)>) {
        let mut inner = self.lock();
        inner.group = group;
        inner.seats = seats.into_iter().collect();
    }

    /// Whether this agent holds this seat.
    pub fn sits(&self, agent: AgentId, seat: Seat) -> bool {
        let inner = self.lock();
        inner.group == seat.group && inner.seats.get(&seat.node) == Some(&agent)
    }

    /// The link of whoever sits on this node of this group.
    pub fn route(&self, seat: Seat) -> Option<Arc<AgentLink>> {
        let inner = self.lock();
        let agent = (inner.group == seat.group).then(|| inner.seats.get(&seat.node)).flatten()?;
        inner.links.get(agent).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Consistent after any panic: each change is one insert, remove or assignment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
