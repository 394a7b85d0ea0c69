//! One node of a gateway group: started, asked, shut down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use proto::{BootId, Epoch, NodeId, hello::Seat};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    conductor::{self, Measured, Pacing},
    core::{self, Core},
    error::{ClaimError, GroupError, StartError},
    hint::{Following, Hint},
    members::{Member, Members, Peer, Site},
    network::{self, ServeError, Transport},
    standing::{Leadership, Publishers},
    state::{Applied, Claim},
    storage::GroupStorage,
    take_lead::Candidacy,
    timings::Timings,
    types::{Command, Metrics, Outcome, Raft},
};

/// How long a claim is tried for, where the group's paths do not ask for more.
const CLAIM_LIMIT: Duration = Duration::from_secs(2);

/// Pause between tries, where the group refuses for the moment.
pub(crate) const RETRY: Duration = Duration::from_millis(20);

/// What a node is.
#[derive(Debug, Clone, Copy)]
pub struct GroupConfig {
    pub seat: Seat,
    pub member: Member,
    /// The set for a group whose log does not name one yet: the same for all of its nodes.
    pub timings: Timings,
}

/// A node of a gateway group. Clones share it.
///
/// The node ends with [`Group::shutdown`], or when its storage fails: then
/// [`Leadership::running`] is false for good.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: GroupConfig,
    core: Core,
    applied: Applied,
    leadership: watch::Receiver<Leadership>,
    members: watch::Receiver<Members>,
    led_since: watch::Receiver<Option<Instant>>,
    /// When a leader was last heard.
    heard: watch::Sender<Instant>,
    preferred: watch::Sender<Option<NodeId>>,
    /// A closed-socket hint is being followed; one at a time is enough.
    hinted: Arc<AtomicBool>,
    measured: Measured,
    pacing: watch::Receiver<Pacing>,
    tasks: Mutex<JoinSet<()>>,
}

impl Group {
    /// Restores the node's records and starts its Raft.
    ///
    /// Needs a tokio runtime; blocks it for a few disk reads.
    ///
    /// # Errors
    /// [`StartError::Storage`] where the records are damaged or older than their guard.
    pub async fn start(
        config: GroupConfig,
        storage: GroupStorage,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        let opened = storage.open(config.seat)?;
        let applied = opened.records.applied.clone();
        let nothing = Leadership { leader: None, leads: false, running: true };
        let (leadership, leadership_watch) = watch::channel(nothing);
        let (members, members_watch) = watch::channel(Members::default());
        let (led_since, led_since_watch) = watch::channel(None);
        let to = Publishers { leadership, members, led_since };
        let heard = watch::Sender::new(Instant::now());
        let preferred = watch::Sender::new(None);
        let core =
            Core::start(config, transport, opened, to, heard.subscribe(), preferred.subscribe()).await?;
        let (pacing, pacing_watch) = watch::channel(Pacing { timings: core.timings(), slowest_path: None });
        let inner = Inner {
            config,
            core,
            applied,
            leadership: leadership_watch,
            members: members_watch,
            led_since: led_since_watch,
            heard,
            preferred,
            hinted: Arc::default(),
            measured: Measured::default(),
            pacing: pacing_watch,
            tasks: Mutex::default(),
        };
        let group = Self { inner: Arc::new(inner) };
        // Weak: the node ends with its last clone, and they with it.
        group.spawn(conductor::probe(Arc::downgrade(&group.inner)));
        group.spawn(conductor::keep_pace(Arc::downgrade(&group.inner), pacing));
        Ok(group)
    }

    /// Founds the group with `me` as its only voter. Does nothing where this node is a member already.
    pub async fn found(&self, me: Peer) -> Result<(), GroupError> {
        let id = self.seat().node.0;
        let first = BTreeMap::from([(id, Site::Agent(me))]);
        match self.inner.core.for_write().await.raft.initialize(first).await {
            Ok(()) => Ok(()),
            Err(RaftError::Fatal(fatal)) => Err(GroupError::Stopped(fatal.to_string())),
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => Err(GroupError::NotMember),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                let member = self.metrics().membership_config.get_node(&id).is_some();
                if member { Ok(()) } else { Err(GroupError::NotMember) }
            }
        }
    }

    /// Whether this node has ever been founded or reached by a leader.
    pub async fn is_initialized(&self) -> Result<bool, GroupError> {
        let in_use = self.inner.core.for_write().await;
        in_use.raft.is_initialized().await.map_err(|fatal| GroupError::Stopped(fatal.to_string()))
    }

    /// Answers a call that the transport brought from `from`, whose identity it has proved.
    ///
    /// Dropping the future may leave the call served and unanswered, as a lost answer would.
    pub async fn serve(&self, from: NodeId, body: &RawValue) -> Result<Box<RawValue>, ServeError> {
        let worst = self.measured().paths().worst_own(Instant::now());
        let in_use = self.inner.core.for_call().await;
        network::serve(&in_use.raft, from, body, &self.inner.heard, worst).await
    }

    /// Who leads, and whether this node does, proved by a quorum.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// How often this node's vote or log have changed on its disk; see [`Kept::written`](crate::Kept::written).
    pub fn written(&self) -> u64 {
        self.inner.core.records().written()
    }

    /// Members that no longer have what they acknowledged to this node while it led: they were put back to an earlier
    /// day, and must not sit there any longer. None is taken out again.
    pub fn forgetful(&self) -> Vec<NodeId> {
        self.watch_forgetful().borrow().iter().copied().collect()
    }

    /// Tells when another is added.
    pub fn watch_forgetful(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.inner.core.memory().forgetful()
    }

    /// The newest claim that this node has applied.
    pub fn claims(&self) -> watch::Receiver<Option<Claim>> {
        self.inner.applied.newest()
    }

    /// With which timings this node runs, and because of which path. Says nothing of small changes.
    pub fn pacing(&self) -> watch::Receiver<Pacing> {
        self.inner.pacing.clone()
    }

    /// The membership in force.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.inner.members.clone()
    }

    /// Claims for this node in `boot`: afterwards it is the group's active, as far as central's
    /// fence admits it.
    ///
    /// Takes 2 s at most, or the longest election timeout where that is longer. When the future is dropped, or the claim is [`ClaimError::Unconfirmed`],
    /// it may still be committed; [`Group::claims`] shows it then.
    pub async fn claim(&self, boot: BootId) -> Result<Epoch, ClaimError> {
        if self.inner.config.member == Member::Witness {
            return Err(ClaimError::Witness);
        }
        let seat = self.seat();
        let command = Command::Claim { node: seat.node.0, boot };
        let limit = CLAIM_LIMIT.max(self.timings().election_max);
        let deadline = Instant::now() + limit;
        let unconfirmed = |_| ClaimError::Unconfirmed(limit);
        let in_use = timeout_at(deadline, self.inner.core.for_write()).await.map_err(unconfirmed)?;
        loop {
            let write = timeout_at(deadline, in_use.raft.client_write(command.clone())).await;
            match write.map_err(unconfirmed)? {
                Ok(written) => {
                    return match written.data {
                        Outcome::Claimed => Ok(Epoch { group: seat.group, claim: written.log_id.index() }),
                        Outcome::Refused | Outcome::Nothing | Outcome::Taken => Err(ClaimError::Refused),
                    };
                }
                Err(RaftError::Fatal(fatal)) => {
                    return Err(GroupError::Stopped(fatal.to_string()).into());
                }
                // Nothing was written. Just elected, a leader refuses without naming anybody,
                // because its predecessor's lease may still run.
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    let leader = forward.leader_id.map(NodeId);
                    let mine = leader.is_none_or(|leader| leader == seat.node);
                    let leading = self.metrics().state == openraft::ServerState::Leader;
                    if !mine || !leading || Instant::now() + RETRY >= deadline {
                        return Err(ClaimError::NotLeader { leader });
                    }
                }
                // Written by us, then thrown away by a new leader, or perhaps kept by it.
                Err(RaftError::APIError(_)) => return Err(ClaimError::Unconfirmed(limit)),
            }
            sleep(RETRY).await;
        }
    }

    /// Waits up to `limit` until this node has applied the entry at `index`.
    pub async fn has_applied(&self, index: u64, limit: Duration) -> bool {
        let mut applied = self.inner.applied.index();
        let reached = timeout(limit, applied.wait_for(|applied| *applied >= index)).await;
        matches!(reached, Ok(Ok(_)))
    }

    /// The applied claim with this log index, if it is one of the newest 64.
    pub fn claim_at(&self, index: u64) -> Option<Claim> {
        self.inner.applied.claim_at(index)
    }

    /// "The leader's socket was closed": do not wait for the election timeout.
    ///
    /// Tell every node that knows, the witness too: one that was told and has not heard the leader
    /// for some heartbeats gives up its lease, and once a quorum has, a candidate is elected.
    /// Returns at once; tried for twice the longest election timeout. Harmless while the leader
    /// lives: its heartbeats keep the leases, and nobody grants a pre-vote.
    pub fn leader_gone(&self) {
        if self.inner.hinted.swap(true, Ordering::AcqRel) {
            return;
        }
        let hint = Hint {
            raft: self.raft(),
            member: self.inner.config.member,
            timings: self.timings(),
            heard: self.inner.heard.subscribe(),
            following: Following(self.inner.hinted.clone()),
        };
        self.spawn(hint.follow());
    }

    /// Takes the lead also from a leader that lives, if a quorum would follow: central's order was
    /// not carried out in its time.
    ///
    /// Returns at once; [`Group::leadership`] shows what came of it. A node that lags, or cannot
    /// reach a quorum, disturbs nobody.
    pub fn take_lead(&self) {
        let candidacy = Candidacy {
            raft: self.raft(),
            me: self.seat().node,
            transport: self.transport().clone(),
            answer_limit: self.timings().election_min,
        };
        self.spawn(candidacy.stand());
    }

    /// `node` can be reached again: call it now and not after the back-off.
    pub fn peer_back(&self, node: NodeId) {
        let raft = self.raft();
        self.spawn(async move {
            let _ = raft.trigger().reset_backoff([node.0]).await;
        });
    }

    /// Whom the witness hands the lead to first, when it leads.
    pub fn prefer(&self, node: Option<NodeId>) {
        self.inner.preferred.send_replace(node);
    }

    /// Ends the node. Its storage can be opened again once all clones are gone.
    pub async fn shutdown(self) {
        self.inner.core.shutdown().await;
        let mut tasks = std::mem::take(&mut *self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }

    /// Raft's inner state, for people.
    pub fn status(&self) -> Status {
        let now = self.metrics();
        let timings = self.timings();
        Status {
            timings,
            stopgap: timings != self.core().committed_timings(),
            worst_round_trip: self.measured().paths().worst(Instant::now()),
            seat: self.seat(),
            state: format!("{:?}", now.state).to_lowercase(),
            term: now.current_term,
            leader: now.current_leader.map(NodeId),
            voters: now.membership_config.voter_ids().map(NodeId).collect(),
            learners: now.membership_config.membership().learner_ids().map(NodeId).collect(),
            last_log: now.last_log_index,
            committed: now.local_committed.map(|id| id.index()),
            applied: now.last_applied.map(|id| id.index()),
            snapshot: now.snapshot.map(|id| id.index()),
            purged: now.purged.map(|id| id.index()),
            stopped: now.running_state.err().map(|fatal| fatal.to_string()),
        }
    }

    /// The seat this node sits on.
    pub fn seat(&self) -> Seat {
        self.inner.config.seat
    }

    pub(crate) fn of(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.inner.core
    }

    pub(crate) fn measured(&self) -> &Measured {
        &self.inner.measured
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        self.inner.core.transport()
    }

    /// The present core; it may be exchanged for another one at any time.
    pub(crate) fn raft(&self) -> Raft {
        self.inner.core.raft()
    }

    pub(crate) fn timings(&self) -> Timings {
        self.inner.core.timings()
    }

    pub(crate) fn member(&self) -> Member {
        self.inner.config.member
    }

    pub(crate) fn heard_at(&self) -> Instant {
        *self.inner.heard.borrow()
    }

    pub(crate) fn led_since(&self) -> Option<Instant> {
        *self.inner.led_since.borrow()
    }

    /// A copy: a watch guard held across an await would stop Raft itself.
    pub(crate) fn metrics(&self) -> Metrics {
        core::metrics(&self.raft())
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Raft's inner state, for people and diagnostics; nothing decides by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub seat: Seat,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub state: String,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub last_log: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub purged: Option<u64>,
    /// The set in force on this node.
    pub timings: Timings,
    /// It is not the log's set: taken because no leader could prove itself with that one, or about
    /// to be exchanged for it.
    pub stopgap: bool,
    /// Of any member's path, as far as this node knows: what the group's timings are chosen by.
    pub worst_round_trip: Option<Duration>,
    /// Why Raft has ended, if it has.
    pub stopped: Option<String>,
}
