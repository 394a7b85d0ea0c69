//! The conversation on the control websocket, after the hello.
//!
//! One JSON text message each, at most [`MESSAGE_BYTES_MAX`]. A kind this build does not know is
//! counted and passed over, so that a newer other end may say more.
//!
//! Signs of life are the websocket's own pings (see `link`).
//!
//! Central *reports* (which tunnel lives, which order stands) and *grants* (a seat, a roster);
//! it never says who is active: that is the newest committed claim, admitted by the fence.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{AgentId, BootId, Epoch, Fingerprint, Name, NodeId, hello::Seat, trace};

/// The largest control message, in bytes. A Raft snapshot of a group fits many times over.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentMessage {
    /// A Raft RPC for the witness or, relayed, for another agent.
    RaftCall(RaftCall),
    RaftReply(RaftReply),
    /// "Does a tunnel live?" Central pings it at once and answers with [`CentralMessage::Gateway`].
    AskGateway {
        id: u64,
    },
    /// What this agent is at present; sent on every change.
    Report(AgentReport),
    /// The answer to [`CentralMessage::Probe`]: this boot is alive.
    Present {
        id: u64,
    },
    /// The seat was left: its Raft state is gone.
    SeatLeft {
        seat: Seat,
    },
    /// What a [`CentralMessage::ProbeDestination`] came to.
    DestinationProbed(trace::Answer),
    /// This process was asked to end: let another candidate take over what it carries. Central
    /// answers with [`CentralMessage::Relief`], and says so again if the successor changes.
    Leaving {},
}

/// What central says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CentralMessage {
    RaftCall(RaftCall),
    RaftReply(RaftReply),
    /// Take this seat. Sent after the hello and whenever it changes.
    Seat(SeatGrant),
    /// Who belongs to the group; the leader brings the membership to it.
    Roster(Roster),
    Gateway(GatewayReport),
    /// The socket of this node's agent was closed: a hint to elect without waiting.
    PeerGone {
        node: NodeId,
    },
    /// You were ordered to take over and nobody gave you the lead: take it, if a quorum follows.
    TakeLead {
        seat: Seat,
    },
    /// Another boot of this agent wants its place: answer at once if you live.
    Probe {
        id: u64,
    },
    /// Try this destination, as for a stream, and tell every step. Only to an agent whose hello names
    /// [`trace::FEATURE_PROBE`].
    ProbeDestination(trace::Ask),
    /// Restart this process, as an administrator asked.
    Restart {
        id: u64,
    },
    /// Who was ordered to take over from one that is [leaving](AgentMessage::Leaving); nobody, if
    /// nobody can: then there is nothing to wait for.
    Relief {
        successor: Option<NodeId>,
    },
    /// Under this key central tells people of the next outage; an agent that tells them that central is
    /// out of reach does so under the same, so that both are one incident.
    IncidentKey {
        key: String,
    },
    /// Central ends as planned and means to be back: come back soon.
    Stopping {},
}

/// One Raft RPC under way. The body is `group`'s own encoding; nobody on the way reads it.
#[derive(Debug, Serialize, Deserialize)]
pub struct RaftCall {
    /// Pairs the reply with the call; chosen by the sender of this message.
    pub id: u64,
    pub group: u64,
    pub from: NodeId,
    pub to: NodeId,
    /// How long the caller waits, milliseconds.
    pub ttl_ms: u64,
    pub body: Box<RawValue>,
}

/// The answer to the [`RaftCall`] with the same id on the same websocket.
#[derive(Debug, Serialize, Deserialize)]
pub struct RaftReply {
    pub id: u64,
    /// `Err` when the call could not be delivered; says why.
    pub result: Result<Box<RawValue>, String>,
}

/// What central grants an agent in the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeatGrant {
    /// Not a candidate, or marked but not restarted while no group exists.
    None { restart_required: bool },
    /// Found the group: this agent won the compare-and-set for this generation.
    Found { seat: Seat },
    /// Sit here and wait for the leader to be reached by it.
    Join { seat: Seat },
    /// The seat is no longer this agent's: stop, close the tunnel, forget the state.
    Leave { seat: Seat },
}

/// The group as central wants it. Only the leader acts on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    pub group: u64,
    /// Grows with every change of the seats; for people, since a link carries rosters in order.
    pub revision: u64,
    pub witness: NodeId,
    pub candidates: Vec<RosterEntry>,
}

/// One candidate's seat, and how its peers recognise and reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    pub node: NodeId,
    pub agent: AgentId,
    pub name: Name,
    pub fingerprint: Fingerprint,
    pub peer_addrs: Vec<String>,
}

/// What central knows of the Environment's tunnel; sent on every change and as an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GatewayReport {
    /// The `id` of the [`AgentMessage::AskGateway`] this answers.
    pub answers: Option<u64>,
    pub tunnel: Option<LiveTunnel>,
    pub order: Option<Order>,
    /// The highest epoch ever admitted.
    pub fence: Option<Epoch>,
}

/// The admitted tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LiveTunnel {
    pub node: NodeId,
    pub epoch: Epoch,
    pub boot: BootId,
}

/// "This candidate is to take over." Stands until a tunnel of it, or of whoever came first, is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Order {
    /// Tells one order from the next while this central runs.
    pub id: u64,
    pub node: NodeId,
    /// A planned switch: claim although a tunnel lives; the old active drains.
    pub planned: bool,
}

/// What an agent is at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    pub role: RoleName,
    /// The seat whose Raft runs in this agent.
    pub seat: Option<Seat>,
    /// How often the state of that Raft has changed on this agent's disk. `None` from agents that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// Members that no longer have what they acknowledged to this agent while it led. An older agent does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgetful: Vec<NodeId>,
    /// Who this agent takes for the leader of its group. May be gone.
    pub leader: Option<NodeId>,
    /// Whether it leads with a quorum behind it. `None` from agents that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leads: Option<bool>,
    /// Why the last attempt to bring up a tunnel failed, in one sentence.
    pub last_error: Option<String>,
}

/// The role machine's states, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    Unseated,
    Standby,
    Claiming,
    Active,
    Draining,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_control_messages_are_pinned() {
        let body = |text: &str| RawValue::from_string(text.into()).unwrap();
        let epoch = Epoch { group: 1, claim: 5 };
        let from_central = [
            CentralMessage::RaftCall(RaftCall {
                id: 7,
                group: 1,
                from: NodeId(1),
                to: NodeId(2),
                ttl_ms: 100,
                body: body(r#"{"vote":[1,2]}"#),
            }),
            CentralMessage::RaftReply(RaftReply { id: 7, result: Err("node 2 is not connected".into()) }),
            CentralMessage::Seat(SeatGrant::Join { seat: Seat { group: 1, node: NodeId(4) } }),
            CentralMessage::Gateway(GatewayReport {
                answers: Some(3),
                tunnel: Some(LiveTunnel { node: NodeId(1), epoch, boot: BootId::from_bytes([0; 16]) }),
                order: Some(Order { id: 1, node: NodeId(2), planned: true }),
                fence: Some(epoch),
            }),
            CentralMessage::PeerGone { node: NodeId(9) },
            CentralMessage::TakeLead { seat: Seat { group: 1, node: NodeId(4) } },
            CentralMessage::Relief { successor: Some(NodeId(4)) },
            CentralMessage::Stopping {},
            CentralMessage::ProbeDestination(trace::Ask {
                id: 8,
                destination: "db".into(),
                host: "db.example".into(),
                port: 5432,
                kind: "postgresql".into(),
                path: String::new(),
                limit_ms: 15_000,
            }),
            CentralMessage::IncidentKey { key: "postern-acme-7".into() },
        ];
        let lines: Vec<_> = from_central.iter().map(|m| serde_json::to_string(m).unwrap()).collect();
        let golden = include_str!("../testdata/central_messages.jsonl");
        assert_eq!(lines.join("\n"), golden.trim_end());
        for line in golden.lines() {
            let message: CentralMessage = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&message).unwrap(), line);
        }
        assert_eq!(serde_json::to_string(&AgentMessage::Leaving {}).unwrap(), r#"{"leaving":{}}"#);
        let steps = vec![trace::Step::pass(trace::Hop::Dns, Some(3), "10.0.4.7")];
        let probed = AgentMessage::DestinationProbed(trace::Answer { id: 8, result: Ok(steps) });
        assert_eq!(
            serde_json::to_string(&probed).unwrap(),
            r#"{"destination_probed":{"id":8,"result":{"Ok":[{"hop":"dns","verdict":"pass","ms":3,"detail":"10.0.4.7","action":null}]}}}"#
        );
    }
}
