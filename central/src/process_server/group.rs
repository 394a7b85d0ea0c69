//! The gateway group of an Environment: who founded it, who sits in it, under which node ids.
//!
//! ```text
//!            found (one compare-and-set)            seat / unseat / reseat
//!   no group ──────────────────────────► generation g ──────────────────► generation g
//!      ▲                                       │  └── found anew ──► generation g + 1
//!      └───────────── dissolve ────────────────┘
//! ```
//!
//! Invariant: the generation and the node ids only grow, also across a dissolution. An empty node under
//! an old id could form a quorum of its own; an old generation could pass the fence.

use proto::{AgentId, EnvironmentName, NodeId, hello::Seat};
use serde::{Deserialize, Serialize};

use crate::store::{Collection, Owner, SharedStore, StoreError};

const GROUPS: Collection<GroupRecord> = Collection::new("gateway_group");
/// An Environment has one gateway group.
const KEY: &str = "gateway";

/// For backups, which raise what was granted: see [`restored`].
pub(crate) const COLLECTION: &str = GROUPS.name();
/// More than anybody grants between a backup and the day it is restored.
pub(crate) const GRANTED_SINCE_MAX: u64 = 1_000_000;

/// The most seats in a group: Raft with more voters than this only gets slower.
pub const SEATS_MAX: usize = 16;

/// What central keeps of the group. The default is an Environment in which none was ever founded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The newest generation granted; 0 before the first founding.
    pub generation: u64,
    /// The node id given out last.
    pub last_node: u64,
    /// Grows with every change of the seats.
    pub roster_revision: u64,
    /// The group of that generation, unless it was dissolved.
    pub group: Option<Group>,
}

/// A group that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Central's own member.
    pub witness: NodeId,
    /// The node it sat on before its records were lost; nobody sits there again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness_before: Option<NodeId>,
    pub founder: AgentId,
    pub seats: Vec<Seated>,
}

/// One agent's place in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seated {
    pub agent: AgentId,
    pub node: NodeId,
}

impl GroupRecord {
    /// The seat this agent holds now.
    pub fn seat_of(&self, agent: AgentId) -> Option<Seat> {
        let seated = self.group.as_ref()?.seats.iter().find(|seated| seated.agent == agent)?;
        Some(Seat { group: self.generation, node: seated.node })
    }

    /// Who sits on this node now.
    pub fn agent_on(&self, node: NodeId) -> Option<AgentId> {
        let seated = self.group.as_ref()?.seats.iter().find(|seated| seated.node == node)?;
        Some(seated.agent)
    }

    /// Whether central's member sits on another node than when the group was founded.
    pub fn witness_was_renewed(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.witness_before.is_some())
    }

    /// The record with a group founded by `founder`.
    fn founded_by(&self, founder: AgentId) -> Self {
        let mut next = self.clone();
        let witness = next.new_node();
        let node = next.new_node();
        next.generation += 1;
        next.roster_revision += 1;
        let seats = vec![Seated { agent: founder, node }];
        next.group = Some(Group { witness, witness_before: None, founder, seats });
        next
    }

    fn new_node(&mut self) -> NodeId {
        self.last_node += 1;
        NodeId(self.last_node)
    }
}

/// A stored [`GroupRecord`] as a restored central may have it, and the number that nothing granted before reaches:
/// `floor`, or more. The group is dissolved, because generations and nodes may have been granted since that it does not
/// know of; candidates that come back found it anew.
pub(crate) fn restored(
    stored: serde_json::Value,
    floor: u64,
) -> Result<(serde_json::Value, u64), serde_json::Error> {
    let before: GroupRecord = serde_json::from_value(stored)?;
    let highest = before.generation.max(before.last_node).max(before.roster_revision);
    let floor = floor.max(highest.saturating_add(GRANTED_SINCE_MAX));
    let after = GroupRecord { generation: floor, last_node: floor, roster_revision: floor, group: None };
    Ok((serde_json::to_value(after)?, floor))
}

/// How a founding ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Founding {
    /// The new generation is this agent's.
    Won(GroupRecord),
    /// Another agent was first, or the group changed: here is how it stands.
    Lost(GroupRecord),
}

/// Why a seat was not granted.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error("there is no gateway group: restart a candidate to found one")]
    NoGroup,
    #[error("the gateway group has {SEATS_MAX} seats and all are taken: unmark a candidate first")]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The group of one Environment. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    store: SharedStore,
    owner: Owner,
}

impl Groups {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into() }
    }

    pub async fn record(&self) -> Result<GroupRecord, StoreError> {
        let record = GROUPS.get(&*self.store, &self.owner, KEY).await?;
        Ok(record.map(|record| record.value).unwrap_or_default())
    }

    /// Grants the generation after `seen_generation` to exactly one of all agents that ask: the
    /// compare-and-set by which a group is founded. With a group still there this founds it anew, which
    /// is right only when its state is lost.
    pub async fn found(&self, founder: AgentId, seen_generation: u64) -> Result<Founding, StoreError> {
        // Whatever `update` last saw decides; a conflict makes it look again.
        let mut won = false;
        let record = self
            .change(|before| {
                won = before.generation == seen_generation;
                Ok::<_, StoreError>(won.then(|| before.founded_by(founder)))
            })
            .await?;
        Ok(if won { Founding::Won(record) } else { Founding::Lost(record) })
    }

    /// This agent's seat; a new node unless it sits already.
    pub async fn seat(&self, agent: AgentId) -> Result<(Seat, GroupRecord), GroupError> {
        self.seat_anew(agent, |_| true).await
    }

    /// A new node for an agent that no longer holds the state of `lost`: wiped, restored or quarantined.
    /// Asking twice for the same loss gives the same seat.
    pub async fn reseat(&self, agent: AgentId, lost: Seat) -> Result<(Seat, GroupRecord), GroupError> {
        self.seat_anew(agent, |held| held != lost).await
    }

    /// A new node for central's own member, which no longer holds the state of `lost`; above every node
    /// up to `above` that is known to have been used. Asking twice for the same loss changes nothing.
    pub async fn renew_witness(&self, lost: Seat, above: Option<NodeId>) -> Result<GroupRecord, StoreError> {
        self.change(|before| {
            let mut next = before.clone();
            let held = next.group.as_ref().map(|group| Seat { group: next.generation, node: group.witness });
            if held != Some(lost) {
                return Ok::<_, StoreError>(None);
            }
            next.last_node = next.last_node.max(above.map_or(0, |node| node.0));
            let node = next.new_node();
            if let Some(group) = &mut next.group {
                group.witness_before = Some(std::mem::replace(&mut group.witness, node));
            }
            next.roster_revision += 1;
            Ok(Some(next))
        })
        .await
    }

    /// Takes the seat away. Returns the record afterwards.
    pub async fn unseat(&self, agent: AgentId) -> Result<GroupRecord, StoreError> {
        self.change(|before| {
            let mut next = before.clone();
            let Some(group) = next.group.as_mut() else { return Ok::<_, StoreError>(None) };
            group.seats.retain(|seated| seated.agent != agent);
            if next == *before {
                return Ok(None);
            }
            next.roster_revision += 1;
            Ok(Some(next))
        })
        .await
    }

    /// Ends the group of this generation; nothing happens when it has ended already.
    pub async fn dissolve(&self, generation: u64) -> Result<GroupRecord, StoreError> {
        self.change(|before| {
            let mut next = before.clone();
            if before.generation != generation || next.group.take().is_none() {
                return Ok::<_, StoreError>(None);
            }
            next.roster_revision += 1;
            Ok(Some(next))
        })
        .await
    }

    async fn seat_anew(
        &self,
        agent: AgentId,
        keep: impl Fn(Seat) -> bool,
    ) -> Result<(Seat, GroupRecord), GroupError> {
        let record = self
            .change(|before| {
                if before.seat_of(agent).is_some_and(&keep) {
                    return Ok(None);
                }
                let mut next = before.clone();
                let node = next.new_node();
                let group = next.group.as_mut().ok_or(GroupError::NoGroup)?;
                group.seats.retain(|seated| seated.agent != agent);
                if group.seats.len() >= SEATS_MAX {
                    return Err(GroupError::Full);
                }
                group.seats.push(Seated { agent, node });
                next.roster_revision += 1;
                Ok(Some(next))
            })
            .await?;
        let seat = record.seat_of(agent).ok_or(GroupError::NoGroup)?;
        Ok((seat, record))
    }

    async fn change<E: From<StoreError>>(
        &self,
        mut change: impl FnMut(&GroupRecord) -> Result<Option<GroupRecord>, E>,
    ) -> Result<GroupRecord, E> {
        let never_founded = GroupRecord::default();
        let record = GROUPS
            .update(&*self.store, &self.owner, KEY, |before| change(before.unwrap_or(&never_founded)))
            .await?;
        Ok(record.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_that_found_at_once_exactly_one_wins() {
        let groups = groups();
        let founders = (0..32).map(|n| {
            let groups = groups.clone();
            tokio::spawn(async move { groups.found(agent(n), 0).await.unwrap() })
        });
        let mut won = Vec::new();
        for founder in founders.collect::<Vec<_>>() {
            if let Founding::Won(record) = founder.await.unwrap() {
                won.push(record);
            }
        }
        assert_eq!(won.len(), 1);
        assert_eq!(groups.record().await.unwrap(), won[0]);
        assert_eq!(won[0].generation, 1);
    }

    #[tokio::test]
    async fn what_a_restored_record_grants_is_above_everything_it_may_not_know_of() {
        let Founding::Won(backed_up) = groups().found(agent(1), 0).await.unwrap() else {
            panic!("lost alone")
        };
        let (value, floor) = restored(serde_json::to_value(backed_up).unwrap(), 1_800_000_000_000).unwrap();
        let record: GroupRecord = serde_json::from_value(value).unwrap();
        assert_eq!((floor, record.generation, &record.group), (1_800_000_000_000, floor, &None));
        let anew = record.founded_by(agent(2));
        let seat = anew.seat_of(agent(2)).unwrap();
        assert!(anew.generation > floor && seat.node > NodeId(floor) && anew.roster_revision > floor);

        // A clock that was set back, and a backup of a central that was restored itself.
        let (_, again) = restored(serde_json::to_value(&anew).unwrap(), 5).unwrap();
        assert!(again > anew.generation && again > anew.last_node);
    }

    #[tokio::test]
    async fn witness_and_founder_sit_from_the_start() {
        let Founding::Won(record) = groups().found(agent(1), 0).await.unwrap() else { panic!("lost alone") };
        assert_eq!(record.group.as_ref().unwrap().witness, NodeId(1));
        assert_eq!(record.seat_of(agent(1)), Some(Seat { group: 1, node: NodeId(2) }));
    }

    #[tokio::test]
    async fn generation_and_node_ids_go_on_growing_after_a_dissolution() {
        let groups = groups();
        groups.found(agent(1), 0).await.unwrap();
        let dissolved = groups.dissolve(1).await.unwrap();
        assert_eq!((dissolved.generation, &dissolved.group), (1, &None));
        let Founding::Won(record) = groups.found(agent(1), 1).await.unwrap() else { panic!("lost alone") };
        assert_eq!(record.seat_of(agent(1)), Some(Seat { group: 2, node: NodeId(4) }));
    }

    #[tokio::test]
    async fn an_order_to_dissolve_an_older_group_does_not_hurt_the_new_one() {
        let groups = groups();
        groups.found(agent(1), 0).await.unwrap();
        groups.found(agent(2), 1).await.unwrap();
        assert!(groups.dissolve(1).await.unwrap().group.is_some());
    }

    #[tokio::test]
    async fn a_seat_is_kept_when_asked_for_again() {
        let groups = groups();
        groups.found(agent(1), 0).await.unwrap();
        let (first, _) = groups.seat(agent(2)).await.unwrap();
        assert_eq!(groups.seat(agent(2)).await.unwrap().0, first);
    }

    #[tokio::test]
    async fn a_wiped_agent_gets_a_node_id_nobody_ever_had() {
        let groups = groups();
        groups.found(agent(1), 0).await.unwrap();
        let (lost, _) = groups.seat(agent(2)).await.unwrap();
        let (anew, record) = groups.reseat(agent(2), lost).await.unwrap();
        assert!(anew.node > lost.node);
        assert_eq!(record.agent_on(lost.node), None);
        assert_eq!(groups.reseat(agent(2), lost).await.unwrap().0, anew);
    }

    #[tokio::test]
    async fn a_witness_that_lost_its_records_gets_a_node_id_nobody_ever_had() {
        let groups = groups();
        groups.found(agent(1), 0).await.unwrap();
        let before = groups.seat(agent(2)).await.unwrap().1;
        let lost = Seat { group: 1, node: NodeId(1) };
        let after = groups.renew_witness(lost, None).await.unwrap();
        let group = after.group.as_ref().unwrap();
        assert_eq!((group.witness, group.witness_before), (NodeId(4), Some(NodeId(1))));
        assert!(after.roster_revision > before.roster_revision && after.witness_was_renewed());
        assert_eq!(group.seats, before.group.unwrap().seats);
        assert_eq!(groups.renew_witness(lost, None).await.unwrap(), after, "the same loss");

        // Its guard may know of a later node than a store that was put back.
        let lost = Seat { group: 1, node: NodeId(4) };
        let again = groups.renew_witness(lost, Some(NodeId(9))).await.unwrap();
        assert_eq!(again.group.unwrap().witness, NodeId(10));
        let (next, _) = groups.seat(agent(3)).await.unwrap();
        assert_eq!(next.node, NodeId(11));
    }

    #[tokio::test]
    async fn the_witness_of_an_older_group_is_not_renewed() {
        let groups = groups();
        groups.found(agent(1), 0).await.unwrap();
        let anew = groups.found(agent(2), 1).await.unwrap();
        let record = groups.renew_witness(Seat { group: 1, node: NodeId(1) }, None).await.unwrap();
        assert_eq!(anew, Founding::Won(record));
    }

    #[tokio::test]
    async fn every_change_of_the_seats_raises_the_roster_revision() {
        let groups = groups();
        groups.found(agent(1), 0).await.unwrap();
        let seated = groups.seat(agent(2)).await.unwrap().1.roster_revision;
        let unseated = groups.unseat(agent(2)).await.unwrap().roster_revision;
        assert!(unseated > seated);
        assert_eq!(groups.unseat(agent(2)).await.unwrap().roster_revision, unseated);
    }

    #[tokio::test]
    async fn without_a_group_there_is_no_seat() {
        assert!(matches!(groups().seat(agent(1)).await, Err(GroupError::NoGroup)));
    }

    #[tokio::test]
    async fn a_full_group_says_what_to_do() {
        let groups = groups();
        groups.found(agent(0), 0).await.unwrap();
        for n in 1..16 {
            groups.seat(agent(n)).await.unwrap();
        }
        let error = groups.seat(agent(99)).await.unwrap_err();
        assert!(error.to_string().contains("unmark a candidate"));
    }

    fn groups() -> Groups {
        let environment = "default".parse().unwrap();
        Groups::new(Arc::new(MemoryStore::default()), &environment)
    }

    fn agent(n: u8) -> AgentId {
        AgentId::from_bytes([n; 16])
    }
}
