//! The Raft core of a node, and its exchange for one with other timings while the node stays.
//!
//! ```text
//!   hold back new writes and calls ──► end the old core ──► sync its log ──► start the next ──► let go
//! ```
//!
//! openraft reads its timings once. So a change of them is a new core over the same records, within
//! milliseconds: nobody who asked or watches notices, and the process of before is not left.
//!
//! A leader stays leader, in the same term and without an election. After a restart of the process
//! that would be wrong, because entries it had sent out may be missing from its disk, and it could
//! send others in their place. Here nothing is lost: the next core reads what the old one wrote.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use openraft::{Config, ServerState, SnapshotPolicy, async_runtime::watch::WatchReceiver};
use proto::NodeId;
use tokio::{
    sync::{self, RwLockReadGuard, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    error::StartError,
    group::GroupConfig,
    log::Log,
    members::Member,
    memory::Memory,
    network::{Network, Transport},
    standing::{self, Inherited, Leadership, Publishers},
    state::StateMachine,
    storage::{Opened, Records},
    timings::Timings,
    types::{Metrics, Raft},
    witness,
};

/// A snapshot for every so many entries: the log stays in the tens of kilobytes.
const SNAPSHOT_EVERY: u64 = 500;

/// Entries kept behind a snapshot, so that a briefly absent node needs no snapshot.
const KEPT_BEHIND_SNAPSHOT: u64 = 200;

/// Entries sent at once: with our small ones far below a control message.
const ENTRIES_PER_CALL: u64 = 100;

/// A node's core, whichever it is at the moment.
pub(crate) struct Core {
    config: GroupConfig,
    transport: Arc<dyn Transport>,
    memory: Memory,
    records: Records,
    to: Arc<Publishers>,
    /// When a leader was last heard; the witness' watchdog reads it.
    heard: watch::Receiver<Instant>,
    preferred: watch::Receiver<Option<NodeId>>,
    running: RwLock<Running>,
    /// Read by those whose entries are on their way, so that no core ends under them.
    writes: sync::RwLock<()>,
    /// The same for calls being served. Apart from the writes: those may take seconds, and an
    /// exchange that waits for them must not keep voters from being answered.
    calls: sync::RwLock<()>,
}

struct Running {
    raft: Raft,
    timings: Timings,
    /// They only watch and nudge this core; it stays whole wherever they are cut off.
    watching: JoinSet<()>,
    /// No other core follows.
    ended: bool,
}

/// The present core, not exchanged while this is held.
pub(crate) struct InUse<'a> {
    pub(crate) raft: Raft,
    _held: RwLockReadGuard<'a, ()>,
}

impl Core {
    /// Starts the first core over freshly opened records.
    pub(crate) async fn start(
        config: GroupConfig,
        transport: Arc<dyn Transport>,
        opened: Opened,
        to: Publishers,
        heard: watch::Receiver<Instant>,
        preferred: watch::Receiver<Option<NodeId>>,
    ) -> Result<Self, StartError> {
        let Opened { log, machine, records } = opened;
        let timings = log_says(&records).unwrap_or(config.timings);
        let memory = Memory::default();
        let network = Network { me: config.seat.node, transport: transport.clone(), memory: memory.clone() };
        let raft = new_raft(&config, timings, false, network, log, machine).await?;
        let running = Running { raft, timings, watching: JoinSet::new(), ended: false };
        let core = Self {
            config,
            transport,
            memory,
            records,
            to: Arc::new(to),
            heard,
            preferred,
            running: RwLock::new(running),
            writes: sync::RwLock::default(),
            calls: sync::RwLock::default(),
        };
        // The entries behind the snapshot were only read now, and may say otherwise.
        match log_says(&core.records).filter(|says| *says != timings) {
            Some(says) => core.exchange(says).await?,
            None => core.watch(timings, None),
        }
        Ok(core)
    }

    /// The present core, for looking at it and for what may fail when it is exchanged.
    pub(crate) fn raft(&self) -> Raft {
        self.running().raft.clone()
    }

    /// The set it runs with.
    pub(crate) fn timings(&self) -> Timings {
        self.running().timings
    }

    /// What the log asks for, or the set that groups start with.
    pub(crate) fn committed_timings(&self) -> Timings {
        log_says(&self.records).unwrap_or(self.config.timings)
    }

    /// What members have acknowledged to this node.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// For writing an entry. Waits while the core is being exchanged.
    pub(crate) async fn for_write(&self) -> InUse<'_> {
        let held = self.writes.read().await;
        InUse { raft: self.raft(), _held: held }
    }

    /// For serving a call. Waits while the core is being exchanged.
    pub(crate) async fn for_call(&self) -> InUse<'_> {
        let held = self.calls.read().await;
        InUse { raft: self.raft(), _held: held }
    }

    /// Exchanges the core for one with `timings`. Not cancel-safe: dropped half-way, the node has
    /// ended, as it has on an error.
    pub(crate) async fn exchange(&self, timings: Timings) -> Result<(), StartError> {
        let _no_writes = self.writes.write().await;
        let _no_calls = self.calls.write().await;
        let (old, mut watching) = {
            let mut running = self.running_mut();
            if running.ended {
                return Ok(());
            }
            // Until there is another.
            running.ended = true;
            (running.raft.clone(), std::mem::take(&mut running.watching))
        };
        watching.shutdown().await;
        let before = old.metrics().borrow_watched().clone();
        let led = before.state == ServerState::Leader;
        // A core that panicked has ended as well.
        let _ = old.shutdown().await;
        match self.next(timings, led).await {
            Ok(raft) => {
                {
                    let mut running = self.running_mut();
                    (running.raft, running.timings, running.ended) = (raft, timings, false);
                }
                self.watch(timings, Inherited::from(&before));
                Ok(())
            }
            Err(error) => {
                self.to
                    .leadership
                    .send_modify(|known| *known = Leadership { leads: false, running: false, ..*known });
                Err(error)
            }
        }
    }

    /// Ends the core for good.
    pub(crate) async fn shutdown(&self) {
        // Lets an exchange come to its end first.
        let _no_calls = self.calls.write().await;
        let (raft, mut watching) = {
            let mut running = self.running_mut();
            running.ended = true;
            (running.raft.clone(), std::mem::take(&mut running.watching))
        };
        if raft.shutdown().await.is_err() {
            tracing::error!(node = %self.config.seat.node, "Raft panicked while it was shut down");
        }
        watching.shutdown().await;
    }

    async fn next(&self, timings: Timings, led: bool) -> Result<Raft, StartError> {
        let unreadable = |error: io::Error| StartError::Raft(error.to_string());
        let (log, machine) = self.records.reopen().await.map_err(unreadable)?;
        let (transport, memory) = (self.transport.clone(), self.memory.clone());
        let network = Network { me: self.config.seat.node, transport, memory };
        new_raft(&self.config, timings, led, network, log, machine).await
    }

    /// Publishes what the core comes to, and lets the witness act.
    fn watch(&self, timings: Timings, inherited: Option<Inherited>) {
        let failed = self.records.db.as_ref().map(|db| db.failed());
        let mut running = self.running_mut();
        let raft = running.raft.clone();
        let to = self.to.clone();
        running.watching.spawn(standing::follow(raft.metrics(), failed, timings.election_max, to, inherited));
        if self.config.member == Member::Witness {
            let watchdog = witness::Watchdog {
                raft,
                timings,
                heard: self.heard.clone(),
                preferred: self.preferred.clone(),
                claims: self.records.applied.newest(),
            };
            running.watching.spawn(watchdog.run());
        }
    }

    // Each change below is one assignment: a panic in between leaves a whole core.
    fn running(&self) -> std::sync::RwLockReadGuard<'_, Running> {
        self.running.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn running_mut(&self) -> std::sync::RwLockWriteGuard<'_, Running> {
        self.running.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_says(records: &Records) -> Option<Timings> {
    *records.applied.timings().borrow()
}

/// `led`: the core before led, and this one goes on where it stopped.
async fn new_raft(
    config: &GroupConfig,
    timings: Timings,
    led: bool,
    network: Network,
    log: Log,
    machine: StateMachine,
) -> Result<Raft, StartError> {
    let node = config.seat.node;
    let raft_config = raft_config(config, timings, led)?;
    let failed = |fatal: String| StartError::Raft(fatal);
    let raft = Raft::new(node.0, Arc::new(raft_config), network, log, machine)
        .await
        .map_err(|fatal| failed(fatal.to_string()))?;
    // Raft publishes its restored state before it answers: from here on metrics are true.
    raft.with_raft_state(|_| ()).await.map_err(|fatal| failed(fatal.to_string()))?;
    Ok(raft)
}

fn raft_config(config: &GroupConfig, timings: Timings, led: bool) -> Result<Config, StartError> {
    let Timings { heartbeat, election_min, election_max } = timings;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let raft = Config {
        cluster_name: format!("gateway group {}", config.seat.group),
        heartbeat_interval: millis(heartbeat),
        election_timeout_min: millis(election_min),
        election_timeout_max: millis(election_max),
        // Relayed links need far more than the default of 200 ms.
        install_snapshot_timeout: millis(heartbeat * 20),
        max_payload_entries: ENTRIES_PER_CALL,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEPT_BEHIND_SNAPSHOT,
        // Must exceed the snapshot distance, or a snapshot would not end the lag.
        replication_lag_threshold: SNAPSHOT_EVERY * 4,
        // The witness' watchdog elects it, later than any candidate would.
        enable_elect: config.member == Member::Agent,
        // Off by default; without it an isolated node deposes a healthy leader when it returns.
        enable_pre_vote: Some(true),
        // On by default; a restarted process would lead again without an election. See the module.
        enable_leader_restore: Some(led),
        ..Config::default()
    };
    raft.validate().map_err(|error| StartError::Timings(error.to_string()))
}

/// A copy: a watch guard held across an await would stop Raft itself.
pub(crate) fn metrics(raft: &Raft) -> Metrics {
    raft.metrics().borrow_watched().clone()
}
