//! This agent's node of the gateway group: seated, served, brought to the roster, left.
//!
//! ```text
//!   seat grants ──► Cluster ──► group::Group ──► claims, leadership ──► app
//!   roster ───────►    │ reconciles while it leads
//!   peers ◄──── direct, mutual TLS ──── Transport ──── or relayed by central ────► peers, witness
//! ```
//!
//! Records that are damaged or older than their guard are moved aside and never used again: the
//! agent says it holds no seat, and central gives it another node.
//!
//! Invariant: nobody votes with records that central has not heard of at this start. A machine or a data directory
//! that was put back from an earlier day looks whole, guard and all, and may have forgotten a vote; central knows how far
//! the records had come, and gives another node instead of granting the seat again.

mod lead;
mod neighbours;
mod roster;
mod ways;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use durable::Durable;
use group::{Group, GroupConfig, GroupStorage, Kept, Member, Peer, StartError, Timings};
use proto::{
    Fingerprint, NodeId,
    control::{Roster, RosterEntry},
    hello::Seat,
};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{alerts::Stance, control::Control, identity::Identity, peer::PeerNet};
use program::explain;

pub use lead::{ask_for_lead, give_way, transfer};
pub use neighbours::AskPeers;

use lead::{GIVE_ME_THE_LEAD, HEARS_CENTRAL, answer_give_me_the_lead};
use neighbours::TELLS_OF_OUTAGE;
use roster::{is_approved, keep_to_roster, report_changes};
use ways::Ways;

/// A database that was just let go may be locked for a moment.
const REOPEN_LIMIT: Duration = Duration::from_secs(5);

/// What the group tells the rest of the agent.
#[derive(Debug, Clone, Copy)]
pub enum ClusterEvent {
    Seat(Option<Seat>),
    Leadership(group::Leadership),
    Claim(group::Claim),
    /// Something of the group's Raft changed that is only shown.
    Pacing,
    /// A member has forgotten what it acknowledged, which is only reported.
    Forgetful,
}

/// Why the cluster cannot go on. Each ends the process: a voter without its disk is none.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Open(#[from] durable::OpenError),
    #[error("the damaged Raft records in {path} could not be moved aside")]
    Quarantine { path: PathBuf, source: std::io::Error },
    #[error("the records of the seat that was left could not be removed")]
    Forget(#[source] group::StorageError),
    #[error("this agent's Raft could not be started")]
    Start(#[source] StartError),
}

/// This agent's part in the group. One per process.
pub struct Cluster {
    folder: PathBuf,
    identity: watch::Receiver<Arc<Identity>>,
    control: Control,
    peers: PeerNet,
    approved: Option<BTreeSet<Fingerprint>>,
    events: mpsc::Sender<ClusterEvent>,
    storage: Option<GroupStorage>,
    /// Records from before this start that central has said nothing of yet.
    kept: Option<Kept>,
    running: Option<Running>,
    shared: Arc<Shared>,
}

/// What calls from outside need, without waiting for the owner.
pub struct Shared {
    group: RwLock<Option<Group>>,
    /// The newest roster central sent.
    roster: watch::Sender<Option<Roster>>,
    /// How to recognise and reach peers: the roster's entries, or the membership's before any, and
    /// of these only the keys the site approves.
    entries: watch::Sender<Arc<Vec<RosterEntry>>>,
    /// Where this agent sits, or sat before this start.
    seat: watch::Sender<Option<Seat>>,
    /// Whether central is heard, on the control websocket or in the tunnel.
    hears_central: AtomicBool,
    /// Whether this agent tells people that central is out of reach.
    stance: watch::Sender<Stance>,
}

struct Running {
    seat: Seat,
    group: Group,
    /// Founding was done or attempted; central repeats its grant until it has heard of the group.
    founded: bool,
    tasks: JoinSet<()>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            group: RwLock::default(),
            roster: watch::Sender::default(),
            entries: watch::Sender::default(),
            seat: watch::Sender::default(),
            hears_central: AtomicBool::new(false),
            stance: watch::Sender::new(Stance::Silent),
        }
    }
}

impl Shared {
    /// Serves a call that came in from `from`, whose identity the caller has proved.
    ///
    /// # Errors
    /// Says in words why it was not served.
    pub async fn serve(
        &self,
        group: u64,
        from: NodeId,
        to: NodeId,
        body: &RawValue,
    ) -> Result<Box<RawValue>, String> {
        if body.get() == HEARS_CENTRAL {
            return self.answer_hears_central();
        }
        if body.get() == TELLS_OF_OUTAGE {
            return neighbours::answer(*self.stance.borrow());
        }
        let running = self.group.read().unwrap_or_else(PoisonError::into_inner).clone();
        match running {
            Some(running) if running.seat() == (Seat { group, node: to }) => {
                if body.get() == GIVE_ME_THE_LEAD {
                    let heard = self.hears_central.load(Ordering::Relaxed);
                    let given = answer_give_me_the_lead(&running, from, heard).await?;
                    return serde_json::value::to_raw_value(&given).map_err(|error| error.to_string());
                }
                running.serve(from, body).await.map_err(|error| explain(&error))
            }
            Some(_) | None => Err(format!("this agent does not sit on node {to} of group {group}")),
        }
    }

    /// Tells peers, when they ask, whether this agent hears central.
    pub fn set_hears_central(&self, heard: bool) {
        self.hears_central.store(heard, Ordering::Relaxed);
    }

    /// The answer to a peer's [`HEARS_CENTRAL`].
    fn answer_hears_central(&self) -> Result<Box<RawValue>, String> {
        let heard = self.hears_central.load(Ordering::Relaxed);
        serde_json::value::to_raw_value(&heard).map_err(|error| error.to_string())
    }

    /// The peers by which direct connections are recognised.
    pub fn entries(&self) -> watch::Receiver<Arc<Vec<RosterEntry>>> {
        self.entries.subscribe()
    }

    pub fn group(&self) -> Option<Group> {
        self.group.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn node_of(&self, entry: impl Fn(&RosterEntry) -> bool) -> Option<RosterEntry> {
        self.entries.borrow().iter().find(|e| entry(e)).cloned()
    }
}

impl Cluster {
    /// Finds the seat whose records lie in `data_dir`, if they are whole. It is taken when central grants it.
    pub async fn open(
        data_dir: &Path,
        identity: watch::Receiver<Arc<Identity>>,
        control: Control,
        peers: PeerNet,
        shared: Arc<Shared>,
        approved: Option<BTreeSet<Fingerprint>>,
        events: mpsc::Sender<ClusterEvent>,
    ) -> Result<Self, ClusterError> {
        let mut cluster = Self {
            folder: data_dir.join("raft"),
            identity,
            control,
            peers,
            approved,
            events,
            storage: None,
            kept: None,
            running: None,
            shared,
        };
        let storage = cluster.open_storage()?;
        match storage.kept() {
            Ok(None) => {}
            Ok(Some(kept)) => {
                cluster.kept = Some(kept);
                cluster.shared.seat.send_replace(Some(kept.seat));
                match storage.peers(kept.seat) {
                    Ok(peers) => cluster.know(&peers),
                    // They are read again when the seat is taken, and that judges them.
                    Err(error) => {
                        tracing::warn!(
                            error = explain(&error),
                            "The peers in the Raft records could not be read"
                        );
                    }
                }
            }
            Err(error) if error.needs_new_seat() => cluster.quarantine(&explain(&error)).await?,
            Err(error) => return Err(ClusterError::Start(error.into())),
        }
        Ok(cluster)
    }

    /// The seat whose Raft runs here.
    pub fn seat(&self) -> Option<Seat> {
        self.running.as_ref().map(|running| running.seat)
    }

    /// The seat whose records this agent holds, intact as far as it can tell, and how far they have come. Its Raft runs
    /// once central has granted it.
    pub fn kept(&self) -> Option<Kept> {
        let running = self.running.as_ref();
        running.map(|running| Kept { seat: running.seat, written: running.group.written() }).or(self.kept)
    }

    /// Where the records lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn group(&self) -> Option<&Group> {
        self.running.as_ref().map(|running| &running.group)
    }

    /// Central granted this seat; `found` when it is to found the group on it.
    pub async fn take(&mut self, seat: Seat, found: bool) -> Result<(), ClusterError> {
        if self.seat() != Some(seat) {
            if self.kept().is_some_and(|kept| kept.seat != seat) {
                self.leave().await?;
            }
            self.kept = None;
            self.start(seat).await?;
        }
        if found
            && let Some(running) = &mut self.running
            && !std::mem::replace(&mut running.founded, true)
        {
            let identity = self.identity.borrow().clone();
            let me = self.shared.node_of(|entry| entry.node == seat.node).map(|entry| Peer::from(&entry));
            let me = me.unwrap_or_else(|| Peer {
                node: seat.node,
                agent: identity.agent,
                name: identity.name.clone(),
                fingerprint: identity.fingerprint,
                addrs: Vec::new(),
            });
            match running.group.found(me).await {
                Ok(()) => tracing::info!(group = seat.group, node = %seat.node, "Founded the gateway group"),
                Err(error) => {
                    tracing::error!(error = explain(&error), "The gateway group could not be founded")
                }
            }
        }
        Ok(())
    }

    /// Stops this node for good and forgets its records.
    pub async fn leave(&mut self) -> Result<(), ClusterError> {
        let Some(Kept { seat, .. }) = self.kept() else { return Ok(()) };
        self.kept = None;
        self.shared.seat.send_replace(None);
        if let Some(running) = self.running.take() {
            self.stop(running).await;
        }
        if let Some(storage) = &self.storage {
            storage.forget(seat).await.map_err(ClusterError::Forget)?;
        }
        let _ = self.events.send(ClusterEvent::Seat(None)).await;
        tracing::info!(group = seat.group, node = %seat.node, "Left the gateway group");
        Ok(())
    }

    /// Stops this node; its records stay for the next start.
    pub async fn close(mut self) {
        if let Some(running) = self.running.take() {
            self.stop(running).await;
        }
    }

    /// Central sent the group as it wants it.
    pub fn set_roster(&self, mut roster: Roster) {
        let known = self.shared.entries.borrow().clone();
        for entry in roster.candidates.iter_mut().filter(|entry| entry.peer_addrs.is_empty()) {
            // Central has not heard from it since its own start; we may know more.
            if let Some(before) = known.iter().find(|before| before.fingerprint == entry.fingerprint) {
                entry.peer_addrs.clone_from(&before.peer_addrs);
            }
        }
        let approved = |entry: &&RosterEntry| is_approved(self.approved.as_ref(), &entry.fingerprint);
        let entries = roster.candidates.iter().filter(approved).cloned().collect();
        self.shared.entries.send_replace(Arc::new(entries));
        self.shared.roster.send_replace(Some(roster));
    }

    /// The socket of this node's agent was closed. If it led, nobody need wait for timeouts.
    pub fn peer_gone(&self, node: NodeId) {
        if let Some(running) = &self.running
            && running.group.leadership().borrow().leader == Some(node)
        {
            running.group.leader_gone();
        }
    }

    /// Peers by what the records say, until central sends a roster.
    fn know(&self, peers: &[Peer]) {
        let peers = peers.iter().filter(|peer| is_approved(self.approved.as_ref(), &peer.fingerprint));
        self.shared.entries.send_replace(Arc::new(peers.map(roster::entry).collect()));
    }

    async fn start(&mut self, seat: Seat) -> Result<(), ClusterError> {
        let transport = Arc::new(Ways {
            seat,
            control: self.control.clone(),
            peers: self.peers.clone(),
            shared: Arc::downgrade(&self.shared),
        });
        let storage = match &self.storage {
            Some(storage) => storage.clone(),
            None => self.open_storage()?,
        };
        let config = GroupConfig { seat, member: Member::Agent, timings: Timings::default() };
        let group = match Group::start(config, storage, transport).await {
            Ok(group) => group,
            Err(StartError::Storage(error)) if error.needs_new_seat() => {
                return self.quarantine(&explain(&error)).await;
            }
            Err(error) => return Err(ClusterError::Start(error)),
        };
        *self.shared.group.write().unwrap_or_else(PoisonError::into_inner) = Some(group.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(report_changes(
            group.clone(),
            self.events.clone(),
            self.shared.clone(),
            self.approved.clone(),
        ));
        tasks.spawn(keep_to_roster(group.clone(), self.shared.roster.subscribe(), self.approved.clone()));
        self.shared.seat.send_replace(Some(seat));
        tracing::info!(group = seat.group, node = %seat.node, "Took a seat in the gateway group");
        self.running = Some(Running { seat, group, founded: false, tasks });
        let _ = self.events.send(ClusterEvent::Seat(Some(seat))).await;
        Ok(())
    }

    async fn stop(&self, mut running: Running) {
        *self.shared.group.write().unwrap_or_else(PoisonError::into_inner) = None;
        running.tasks.shutdown().await;
        running.group.shutdown().await;
    }

    fn open_storage(&mut self) -> Result<GroupStorage, ClusterError> {
        let db = match Durable::open(self.folder.join("db")) {
            Ok(db) => db,
            Err(durable::OpenError::Damaged { .. }) => {
                self.move_aside("its database is damaged")?;
                Durable::open(self.folder.join("db"))?
            }
            Err(error) => return Err(error.into()),
        };
        // Beside the database, so that moving the database aside keeps it.
        let storage = GroupStorage::own(db, self.folder.join("guard"));
        self.storage = Some(storage.clone());
        Ok(storage)
    }

    /// The records cannot be trusted: never vote with them again. Central hears that this agent
    /// holds no seat and grants another.
    async fn quarantine(&mut self, why: &str) -> Result<(), ClusterError> {
        self.storage = None;
        self.kept = None;
        self.shared.seat.send_replace(None);
        self.running = None;
        let deadline = tokio::time::Instant::now() + REOPEN_LIMIT;
        self.move_aside(why)?;
        loop {
            match self.open_storage() {
                Ok(storage) => {
                    // The guard stays: it refuses every seat that was held before. One that cannot
                    // be read guards nothing.
                    if storage.kept().is_err() {
                        self.move_guard_aside()?;
                    }
                    break;
                }
                Err(_) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error),
            }
        }
        let _ = self.events.send(ClusterEvent::Seat(None)).await;
        Ok(())
    }

    fn move_aside(&self, why: &str) -> Result<(), ClusterError> {
        let path = self.folder.join("db");
        let kept = durable::quarantine(&path).map_err(|source| ClusterError::Quarantine { path, source })?;
        tracing::error!(why, kept = %kept.display(), "The Raft records cannot be trusted and were moved aside; this agent joins under a new node");
        Ok(())
    }

    fn move_guard_aside(&self) -> Result<(), ClusterError> {
        let path = self.folder.join("guard");
        std::fs::rename(&path, self.folder.join("guard.damaged"))
            .map_err(|source| ClusterError::Quarantine { path, source })
    }
}
