//! What makes the witness lead where nobody else can, and stop leading at once.
//!
//! ```text
//!            no leader heard for 2.5 x election_max: elect
//!  Following ─────────────────────────────────────────────► Leading
//!      ▲         a live candidate has every entry: offer       │
//!      └───────────────────────────────────────────────────────┘
//! ```
//!
//! A witness that never led could deadlock its group: an entry is committed by A and W while B
//! lags, A dies, and W must refuse B its vote because W's own log is newer.

use openraft::ServerState;
use proto::NodeId;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    plan::View,
    reconcile::view_of,
    state::Claim,
    timings::Timings,
    types::{Metrics, Raft},
};

/// The witness' own task. Dropping it leaves a witness that only votes.
pub(crate) struct Watchdog {
    pub(crate) raft: Raft,
    pub(crate) timings: Timings,
    pub(crate) heard: watch::Receiver<Instant>,
    pub(crate) preferred: watch::Receiver<Option<NodeId>>,
    pub(crate) claims: watch::Receiver<Option<Claim>>,
}

/// An offer of the lead that has not been taken yet.
struct Offer {
    to: NodeId,
    at: Instant,
}

impl Watchdog {
    pub(crate) async fn run(self) {
        // Half a heartbeat: handing back is the one wait that a failover through the witness adds.
        let mut ticks = interval(self.timings.heartbeat / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leading_since = None;
        let mut elected_at = Instant::now();
        let mut offer: Option<Offer> = None;
        loop {
            ticks.tick().await;
            let now = self.metrics();
            if now.running_state.is_err() {
                return;
            }
            if now.state == ServerState::Leader {
                let since = *leading_since.get_or_insert_with(|| {
                    tracing::info!(
                        node = now.id,
                        "The witness leads; looking for a candidate to hand over to"
                    );
                    Instant::now()
                });
                let asked = offer.as_ref().filter(|offer| offer.at.elapsed() < self.timings.election_max);
                if asked.is_none()
                    && let Some(to) = self.heir(&now, since, offer.as_ref().map(|offer| offer.to))
                {
                    tracing::info!(%to, "The witness hands the lead over");
                    offer = Some(Offer { to, at: Instant::now() });
                    let _ = self.raft.trigger().transfer_leader(to.0).await;
                }
                continue;
            }
            leading_since = None;
            offer = None;
            let heard = (*self.heard.borrow()).max(elected_at);
            let votes = now.membership_config.voter_ids().any(|voter| voter == now.id);
            if votes && heard.elapsed() >= self.timings.watchdog() {
                elected_at = Instant::now();
                let _ = self.raft.trigger().elect(true).await;
            }
        }
    }

    /// A live candidate that has every entry of ours: the preferred one, the active one, any.
    fn heir(&self, metrics: &Metrics, leading_since: Instant, passed_over: Option<NodeId>) -> Option<NodeId> {
        let view = view_of(metrics, Some(leading_since));
        let preferred = *self.preferred.borrow();
        let able = |node: NodeId| self.able(&view, node) && Some(node) != passed_over;
        if let Some(preferred) = preferred.filter(|node| Some(*node) != passed_over) {
            if able(preferred) {
                return Some(preferred);
            }
            // Central ordered this one: give it a moment to catch up before anybody will do.
            if leading_since.elapsed() < self.timings.election_max {
                return None;
            }
        }
        let active = self.claims.borrow().map(|claim| claim.node);
        let anybody = view.nodes.keys().copied();
        let other = active.into_iter().chain(anybody).find(|node| able(*node));
        // Nobody but the one that did not take it: offer it again.
        other.or_else(|| passed_over.filter(|node| self.able(&view, *node)))
    }

    fn able(&self, view: &View, node: NodeId) -> bool {
        let agent = view.nodes.get(&node).is_some_and(|site| site.peer().is_some());
        let ready = view.contacts.get(&node).is_some_and(|contact| {
            contact.answered && contact.silent_for <= self.timings.election_max && contact.lag == 0
        });
        agent && view.voters.contains(&node) && ready
    }

    fn metrics(&self) -> Metrics {
        use openraft::async_runtime::watch::WatchReceiver;
        self.raft.metrics().borrow_watched().clone()
    }
}
