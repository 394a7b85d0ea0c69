//! A whole gateway group in one process: nodes, a witness, and links that can be cut.
//!
//! Nothing in here sleeps in earnest: with memory storage and tokio's paused clock a failover takes a
//! millisecond. With disk storage the same world runs in real time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use group::{
    CallError, ClaimError, Group, GroupConfig, GroupStorage, Member, Peer, Reconciled, Status, Timings,
    Transport,
};
use proto::{
    AgentId, BootId, Epoch, Fingerprint, NodeId,
    control::{Roster, RosterEntry},
    hello::Seat,
};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout};

pub(crate) const WITNESS: u64 = 100;
/// Where central's member sits after it lost its records.
pub(crate) const NEXT_WITNESS: u64 = 101;
pub(crate) const GENERATION: u64 = 3;

/// How long any state is waited for before the test gives up. Speeding up takes two calm minutes.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct World {
    pub(crate) hub: Arc<Hub>,
    /// Whom central's roster names as its own.
    pub(crate) witness: u64,
    storages: BTreeMap<u64, GroupStorage>,
    groups: BTreeMap<u64, Group>,
    disk: Option<PathBuf>,
}

/// Carries calls between the nodes that live.
#[derive(Default)]
pub(crate) struct Hub {
    served: Mutex<BTreeMap<NodeId, Group>>,
    /// From whom to whom nothing arrives; the caller waits in vain.
    cut: Mutex<BTreeSet<(u64, u64)>>,
    /// What a message takes between two nodes, where that is more than a moment.
    delays: Mutex<BTreeMap<(u64, u64), Duration>>,
}

struct Link {
    hub: Arc<Hub>,
    from: NodeId,
}

#[async_trait]
impl Transport for Link {
    async fn call(
        &self,
        to: NodeId,
        peer: Option<&Peer>,
        body: Box<RawValue>,
        ttl: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        assert_eq!(peer.is_none(), to.0 >= WITNESS, "the witness alone has no peer entry");
        // What was sent arrives, also when the caller has stopped waiting.
        let (hub, from) = (self.hub.clone(), self.from);
        let delivered = tokio::spawn(async move { hub.deliver(from, to, &body, ttl).await });
        delivered.await.unwrap_or(Err(CallError::TimedOut))
    }
}

impl Hub {
    async fn deliver(
        &self,
        from: NodeId,
        to: NodeId,
        body: &RawValue,
        ttl: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        self.passes(from, to, ttl).await?;
        let group = self.served.lock().unwrap().get(&to).cloned();
        let group = group.ok_or_else(|| CallError::Unreachable(format!("node {to} is not there")))?;
        let answer = group.serve(from, body).await;
        drop(group); // or its disk would be in use for as long as the answer travels
        self.passes(to, from, ttl).await?;
        answer.map_err(|error| CallError::Unreachable(error.to_string()))
    }

    async fn passes(&self, from: NodeId, to: NodeId, ttl: Duration) -> Result<(), CallError> {
        let delay = self.delays.lock().unwrap().get(&(from.0, to.0)).copied().unwrap_or_default();
        sleep(Duration::from_micros(200) + delay).await;
        if self.cut.lock().unwrap().contains(&(from.0, to.0)) {
            sleep(ttl).await;
            return Err(CallError::TimedOut);
        }
        Ok(())
    }
}

impl World {
    /// Agents 1 to `agents` and the witness, settled as one group with a leader.
    pub(crate) async fn founded(agents: u64) -> Self {
        Self::settled_in(agents, None, Duration::ZERO).await
    }

    /// As `founded`, over links that were slow from the start.
    pub(crate) async fn founded_over(agents: u64, round_trip: Duration) -> Self {
        Self::settled_in(agents, None, round_trip).await
    }

    /// As `founded`, with everything on disk below `dir`.
    pub(crate) async fn founded_on_disk(agents: u64, dir: PathBuf) -> Self {
        Self::settled_in(agents, Some(dir), Duration::ZERO).await
    }

    async fn settled_in(agents: u64, disk: Option<PathBuf>, round_trip: Duration) -> Self {
        let mut world = Self {
            hub: Arc::default(),
            witness: WITNESS,
            storages: BTreeMap::new(),
            groups: BTreeMap::new(),
            disk,
        };
        world.slow_down(round_trip);
        for node in (1..=agents).chain([WITNESS]) {
            world.start(node).await;
        }
        world.group(1).found(peer(1)).await.unwrap();
        world.settle(&(1..=agents).collect::<Vec<_>>()).await;
        world
    }

    pub(crate) async fn start(&mut self, node: u64) {
        let storage = match (&self.disk, self.storages.get(&node)) {
            (None, Some(kept)) => kept.clone(),
            (None, None) => GroupStorage::memory(),
            (Some(dir), _) => {
                let db = durable::Durable::open(dir.join(format!("node-{node}"))).unwrap();
                GroupStorage::own(db, dir.join(format!("guard-{node}")))
            }
        };
        if self.disk.is_none() {
            self.storages.insert(node, storage.clone());
        }
        let config = GroupConfig {
            seat: Seat { group: GENERATION, node: NodeId(node) },
            member: if node >= WITNESS { Member::Witness } else { Member::Agent },
            timings: Timings::default(),
        };
        let link = Link { hub: self.hub.clone(), from: NodeId(node) };
        let group = Group::start(config, storage, Arc::new(link)).await.unwrap();
        self.hub.served.lock().unwrap().insert(NodeId(node), group.clone());
        self.groups.insert(node, group);
    }

    /// The process is gone; its sockets are closed.
    pub(crate) async fn kill(&mut self, node: u64) {
        self.hub.served.lock().unwrap().remove(&NodeId(node));
        self.groups.remove(&node).unwrap().shutdown().await;
        self.hub.cut.lock().unwrap().retain(|(from, to)| *from != node && *to != node);
    }

    /// As seen by the others when its process dies; stopping the node itself may take longer.
    pub(crate) fn close_sockets(&self, node: u64) {
        self.hub.served.lock().unwrap().remove(&NodeId(node));
        self.isolate(node);
    }

    /// Nothing arrives any more, in either direction; nobody is told.
    pub(crate) fn isolate(&self, node: u64) {
        let mut cut = self.hub.cut.lock().unwrap();
        for other in (1..10).chain([WITNESS, NEXT_WITNESS]) {
            cut.extend([(node, other), (other, node)]);
        }
    }

    pub(crate) fn cut(&self, a: u64, b: u64) {
        self.hub.cut.lock().unwrap().extend([(a, b), (b, a)]);
    }

    /// From now on a call and its answer take this long, between any two nodes.
    pub(crate) fn slow_down(&self, round_trip: Duration) {
        let nodes = || (1..10).chain([WITNESS]);
        for (a, b) in nodes().flat_map(|a| nodes().map(move |b| (a, b))) {
            self.slow_down_between(a, b, round_trip);
        }
    }

    pub(crate) fn slow_down_between(&self, a: u64, b: u64, round_trip: Duration) {
        self.hub.delays.lock().unwrap().extend([((a, b), round_trip / 2), ((b, a), round_trip / 2)]);
    }

    /// Until every node that lives runs with the set for this round trip, as its log says.
    pub(crate) async fn until_paced_for(&self, round_trip: Duration) {
        let timings = Timings::for_round_trip(round_trip);
        let paced = |status: Status| status.timings == timings && !status.stopgap;
        let all = || self.groups.values().all(|group| paced(group.status()));
        self.until(&format!("all run with {timings}"), all).await;
    }

    pub(crate) fn heal(&self) {
        self.hub.cut.lock().unwrap().clear();
        for group in self.groups.values() {
            for node in self.groups.keys() {
                group.peer_back(NodeId(*node));
            }
        }
    }

    pub(crate) fn group(&self, node: u64) -> &Group {
        &self.groups[&node]
    }

    pub(crate) fn status(&self, node: u64) -> Status {
        self.group(node).status()
    }

    /// Whoever leads, proved by a quorum.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leading = self.groups.iter().filter(|(_, group)| group.leadership().borrow().leads);
        let leading: Vec<u64> = leading.map(|(node, _)| *node).collect();
        assert!(leading.len() <= 1, "two nodes lead, each with a quorum: {leading:?}");
        leading.first().copied()
    }

    pub(crate) async fn until_led_by(&self, node: u64) {
        self.until(&format!("node {node} leads"), || self.leader() == Some(node)).await;
    }

    pub(crate) async fn until_led_by_agent(&self) -> u64 {
        self.until("an agent leads", || self.leader().is_some_and(|leader| leader < WITNESS)).await;
        self.leader().unwrap()
    }

    pub(crate) async fn until(&self, what: &str, is: impl Fn() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !is() {
                sleep(Duration::from_millis(5)).await;
            }
        });
        if waited.await.is_err() {
            let states: Vec<Status> = self.groups.values().map(Group::status).collect();
            panic!("waited in vain until {what}: {states:#?}");
        }
    }

    /// Reconciles with `candidates` until nothing is left to do, handing over where asked to.
    pub(crate) async fn settle(&self, candidates: &[u64]) {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < give_up_at, "the roster {candidates:?} never settled");
            let leader = self.until_led_by_agent().await;
            match self.reconcile(leader, candidates).await {
                Ok(Reconciled::Settled) => return,
                Ok(Reconciled::Stepped) => {}
                Ok(Reconciled::HandOver(heir)) => {
                    self.group(leader).transfer(heir, Duration::from_secs(2)).await.unwrap();
                }
                Ok(Reconciled::Waiting) | Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(crate) async fn reconcile(
        &self,
        leader: u64,
        candidates: &[u64],
    ) -> Result<Reconciled, group::ReconcileError> {
        let roster = Roster { witness: NodeId(self.witness), ..roster(candidates) };
        self.group(leader).reconcile(&roster, &|_| true).await
    }

    /// Claims at `node` as soon as the group lets it.
    pub(crate) async fn claim(&self, node: u64) -> Epoch {
        let claimed = timeout(PATIENCE, async {
            loop {
                match self.group(node).claim(boot(node)).await {
                    Ok(epoch) => return epoch,
                    Err(ClaimError::NotLeader { .. }) => sleep(Duration::from_millis(5)).await,
                    Err(error) => panic!("node {node}: {error}"),
                }
            }
        });
        claimed.await.unwrap_or_else(|_| panic!("node {node} never got its claim"))
    }

    /// Claims at whichever of `nodes` leads first.
    pub(crate) async fn claim_of_any(&self, nodes: &[u64]) -> Epoch {
        self.until("one of them leads", || self.leader().is_some_and(|leader| nodes.contains(&leader))).await;
        self.claim(self.leader().unwrap()).await
    }

    pub(crate) fn voters(&self, node: u64) -> Vec<u64> {
        self.group(node).members().borrow().voters.iter().map(|node| node.0).collect()
    }
}

pub(crate) fn boot(node: u64) -> BootId {
    BootId::from_bytes([node as u8; 16])
}

pub(crate) fn peer(node: u64) -> Peer {
    Peer::from(&entry(node))
}

pub(crate) fn roster(candidates: &[u64]) -> Roster {
    Roster {
        group: GENERATION,
        revision: 1,
        witness: NodeId(WITNESS),
        candidates: candidates.iter().map(|node| entry(*node)).collect(),
    }
}

fn entry(node: u64) -> RosterEntry {
    RosterEntry {
        node: NodeId(node),
        agent: AgentId::from_bytes([node as u8; 16]),
        name: format!("agent-{node}").parse().unwrap(),
        fingerprint: Fingerprint::from_bytes([node as u8; 32]),
        peer_addrs: vec![format!("host-{node}:7000")],
    }
}
