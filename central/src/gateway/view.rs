//! What the gateway room shows to the rest of central: snapshots, and of what changes without an event, a count.
//!
//! Every word of state says since when; what an agent told carries when it was heard.

use std::{collections::BTreeMap, time::Duration};

use proto::{
    AgentId, BootId, Epoch, Name, NodeId,
    control::AgentReport,
    driver::Lanes,
    hello::{Seat, SystemInformation},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::guests::StreamView;

/// The one word for an Environment's Secure Gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GatewayState {
    /// Nothing is marked, or nothing marked has been restarted yet.
    Idle,
    /// A candidate has its `gateway.connect_timeout` to bring up a secure connection.
    Connecting,
    /// An admitted tunnel lives.
    Up,
    /// Every configured candidate was tried and failed, or none is configured.
    Down,
}

/// A snapshot of one Environment's Secure Gateway.
#[derive(Debug, Clone)]
pub struct GatewayView {
    pub state: GatewayState,
    pub since: OffsetDateTime,
    /// The Process Server whose tunnel is admitted and lives.
    pub active: Option<Name>,
    /// The highest epoch ever admitted.
    pub fence: Option<Epoch>,
    pub candidates: Vec<CandidateView>,
    /// Present while connecting: whom the proxy-processor waits for and until when.
    pub attempt: Option<AttemptView>,
    /// Whether the event `System_Secure_Gateway` is raised.
    pub event_raised: bool,
    pub last_switch: Option<SwitchView>,
    /// Agents with a live control websocket, by id.
    pub connected: BTreeMap<AgentId, ConnectedView>,
    pub raft: Option<RaftView>,
    /// How many more losses of a voter the group can bear; `None` without a group.
    pub can_lose: Option<usize>,
    pub streams: OpenStreams,
    /// Old actives that finish their streams after a planned switch.
    pub draining: Vec<DrainingView>,
}

/// The streams of the tunnel that was admitted when the snapshot was made, counted when somebody asks: they come and
/// go between two snapshots.
#[derive(Debug, Clone, Default)]
pub struct OpenStreams(Option<Lanes>);

impl OpenStreams {
    pub fn of(tunnel: Option<&Lanes>) -> Self {
        Self(tunnel.cloned())
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |tunnel| tunnel.stats().streams)
    }

    /// How many lanes carry them now; 0 without a tunnel.
    pub fn lanes(&self) -> usize {
        self.0.as_ref().map_or(0, Lanes::attached)
    }
}

/// An old active that finishes its streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DrainingView {
    #[schema(value_type = String)]
    pub process_server: Name,
    /// When what is left will be ended.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    pub streams: usize,
}

/// The same, with everyone who still holds it open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DrainView {
    #[schema(value_type = String)]
    pub process_server: Name,
    #[serde(skip)]
    #[schema(value_type = Object)]
    pub epoch: Epoch,
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// The first [`LISTED_MAX`](super::guests::LISTED_MAX) of them.
    pub streams: Vec<StreamView>,
}

impl GatewayView {
    /// Before anything is known.
    pub fn idle() -> Self {
        Self {
            state: GatewayState::Idle,
            since: OffsetDateTime::now_utc(),
            active: None,
            fence: None,
            candidates: Vec::new(),
            attempt: None,
            event_raised: false,
            last_switch: None,
            connected: BTreeMap::new(),
            raft: None,
            can_lose: None,
            streams: OpenStreams::default(),
            draining: Vec::new(),
        }
    }
}

/// One candidate as the proxy-processor sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CandidateView {
    #[schema(value_type = String)]
    pub name: Name,
    #[schema(value_type = String)]
    pub agent: AgentId,
    #[schema(value_type = Option<u64>)]
    pub node: Option<NodeId>,
    pub connected: bool,
    pub configured: bool,
    pub active: bool,
    pub restart_required: bool,
}

/// The attempt under way.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AttemptView {
    #[schema(value_type = String)]
    pub candidate: Name,
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
}

/// The last time the active changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SwitchView {
    #[schema(value_type = Option<String>)]
    pub from: Option<Name>,
    #[schema(value_type = String)]
    pub to: Name,
    pub reason: String,
    /// How long no admitted tunnel lived, milliseconds; 0 for a planned switch.
    pub gap_ms: u64,
}

/// An agent's control websocket.
#[derive(Debug, Clone)]
pub struct ConnectedView {
    pub boot: BootId,
    pub since: OffsetDateTime,
    pub last_heard: OffsetDateTime,
    pub software: String,
    pub system: SystemInformation,
    pub remote: std::net::SocketAddr,
    /// When the certificate that it connected with ends.
    pub certificate_until: OffsetDateTime,
    pub report: Option<AgentReport>,
}

/// The group's Raft as central's own member, the witness, sees it.
#[derive(Debug, Clone, Serialize)]
pub struct RaftView {
    pub generation: u64,
    pub witness: NodeId,
    pub leader: Option<NodeId>,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub term: u64,
    pub last_applied: u64,
    pub last_claim: Option<ClaimView>,
    /// The set that the witness runs with.
    pub timings: group::Timings,
    /// Of any member's path, as far as the witness knows.
    pub worst_round_trip: Option<Duration>,
    pub seats: Vec<SeatView>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ClaimView {
    pub epoch: Epoch,
    pub node: NodeId,
    pub boot: BootId,
}

/// Which Process Server sits where.
#[derive(Debug, Clone, Serialize)]
pub struct SeatView {
    pub name: Name,
    pub seat: Seat,
}
