//! Measures a node's paths and keeps its timings to them: the hands of [`Pace`] and [`Paths`].

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use openraft::ServerState;
use proto::NodeId;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    group::{Group, Inner},
    members::Member,
    network,
    pace::{Pace, Sight, Standing, Step},
    paths::{PROBE_EVERY, PROBE_LIMIT, Paths},
    timings::Timings,
    types::Command,
};

/// How often the timings are looked at when nothing was applied.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the proposal of a set is waited for. One that comes later is applied all the same.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);

/// How a group's Raft runs, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The set in force on this node.
    pub timings: Timings,
    /// The worst round trip of any member's path, as far as this node knows.
    pub slowest_path: Option<Duration>,
}

impl Pacing {
    /// Whether people would call it another one: a path's figure is never twice the same.
    fn is_news(&self, known: &Self) -> bool {
        let close =
            |now: Duration, known: Duration| now.abs_diff(known) <= known / 4 + Duration::from_millis(1);
        let same_path = match (self.slowest_path, known.slowest_path) {
            (Some(now), Some(known)) => close(now, known),
            (now, known) => now == known,
        };
        self.timings != known.timings || !same_path
    }
}

/// What this node measures, shared by those who measure and those who ask. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Measured(Arc<Mutex<Paths>>);

impl Measured {
    /// A panic while locked leaves a whole picture: each change is one round trip more or less.
    pub(crate) fn paths(&self) -> MutexGuard<'_, Paths> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Probes every member, side by side, until the node is gone. Safe to drop anywhere.
pub(crate) async fn probe(node: Weak<Inner>) {
    let mut ticks = interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked: BTreeSet<NodeId> = BTreeSet::new();
    let mut probes = JoinSet::new();
    loop {
        ticks.tick().await;
        let Some(group) = Group::still(&node) else { return };
        while let Some(ended) = probes.try_join_next() {
            // One that panicked stays marked as asked, and its path unknown.
            if let Ok(to) = ended {
                asked.remove(&to);
            }
        }
        let members = group.members().borrow().clone();
        let others: BTreeSet<NodeId> = members
            .voters
            .union(&members.learners)
            .copied()
            .filter(|other| *other != group.seat().node)
            .collect();
        group.measured().paths().keep(&others);
        for to in others {
            if asked.insert(to) {
                // Without the node itself: its records must be free once it is shut down.
                let (transport, measured) = (group.transport().clone(), group.measured().clone());
                let peer = members.peers.get(&to).cloned();
                probes.spawn(async move {
                    let began = Instant::now();
                    let answer = network::ping(&*transport, to, peer.as_ref(), PROBE_LIMIT).await;
                    if let Some(reported) = answer {
                        measured.paths().handle_answer(to, began.elapsed(), reported, Instant::now());
                    }
                    to
                });
            }
        }
    }
}

/// Takes, proposes and publishes timings until the node is gone or has ended. Not to be dropped while the node
/// is to live: an exchange of its core could be cut off half-way.
pub(crate) async fn keep_pace(node: Weak<Inner>, to: watch::Sender<Pacing>) {
    let Some((mut applied, mut leadership, mut pace)) = Group::still(&node).map(|group| {
        let applied = group.core().records().applied.timings();
        (applied, group.leadership(), Pace::new(group.core().committed_timings()))
    }) else {
        return;
    };
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = applied.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
        }
        let Some(group) = Group::still(&node) else { return };
        if !leadership.borrow_and_update().running {
            return;
        }
        let sight = group.sight();
        let pacing = Pacing { timings: sight.in_force, slowest_path: sight.worst };
        to.send_if_modified(|known| {
            let news = pacing.is_news(known);
            if news {
                *known = pacing;
            }
            news
        });
        match pace.next_step(&sight, Instant::now()) {
            Step::Stay => {}
            Step::Take(timings) => {
                let stopgap = timings != sight.committed;
                tracing::info!(node = %group.seat().node, before = %sight.in_force, now = %timings, worst = ?sight.worst, stopgap, "Changing the Raft timings");
                if let Err(error) = group.core().exchange(timings).await {
                    tracing::error!(node = %group.seat().node, %error, "Raft could not be started with other timings; this node has ended");
                    return;
                }
            }
            Step::Propose(timings) => propose(&group, timings, sight.worst).await,
        }
    }
}

async fn propose(group: &Group, timings: Timings, worst: Option<Duration>) {
    let raft = group.core().raft();
    let write = raft.client_write(Command::Timings(timings));
    match timeout(PROPOSE_LIMIT, write).await {
        Ok(Ok(_)) => tracing::info!(%timings, ?worst, "The group goes over to other Raft timings"),
        // Tried again at the next look, if it is still wanted then.
        Ok(Err(error)) => tracing::debug!(%timings, %error, "Other Raft timings were not accepted"),
        Err(_) => tracing::debug!(%timings, "Other Raft timings were not confirmed in time"),
    }
}

impl Group {
    fn still(node: &Weak<Inner>) -> Option<Self> {
        node.upgrade().map(Self::of)
    }

    fn sight(&self) -> Sight {
        let now = Instant::now();
        let members = self.members().borrow().clone();
        let me = self.seat().node;
        let paths = self.measured().paths();
        Sight {
            in_force: self.timings(),
            committed: self.core().committed_timings(),
            standing: self.standing(),
            worst: paths.worst(now),
            all_known: paths.knows(members.voters.iter().filter(|node| **node != me), now),
        }
    }

    fn standing(&self) -> Standing {
        let leads = self.leadership().borrow().leads;
        let is_leader = self.metrics().state == ServerState::Leader;
        match (is_leader, leads) {
            // The witness gives the lead away at once; what is to be written, its heir writes.
            (true, true) if self.member() == Member::Witness => Standing::Following,
            (true, true) => Standing::Leading,
            (true, false) => Standing::LeadingAlone,
            (false, _) if self.heard_at().elapsed() > self.timings().watchdog() => Standing::Leaderless,
            (false, _) => Standing::Following,
        }
    }
}
