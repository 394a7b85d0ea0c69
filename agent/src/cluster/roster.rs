//! Following: the app what the group learns, and the membership what central wants of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use group::{Group, Peer, Reconciled};
use program::explain;
use proto::{
    Fingerprint,
    control::{Roster, RosterEntry},
};
use tokio::sync::{mpsc, watch};

use super::{ClusterEvent, Shared, lead::transfer};

/// How often a leader compares the membership with the roster when nothing changed.
const RECONCILE_EVERY: Duration = Duration::from_secs(1);
/// How soon it tries again while a change is under way or a candidate catches up.
const RECONCILE_AGAIN: Duration = Duration::from_millis(50);

/// Tells the app what the group learns. Safe to drop anywhere.
pub(super) async fn report_changes(
    group: Group,
    events: mpsc::Sender<ClusterEvent>,
    shared: Arc<Shared>,
    approved: Option<BTreeSet<Fingerprint>>,
) {
    let (mut claims, mut leadership, mut members) = (group.claims(), group.leadership(), group.members());
    let (mut pacing, mut forgetful) = (group.pacing(), group.watch_forgetful());
    claims.mark_changed();
    leadership.mark_changed();
    members.mark_changed();
    loop {
        let event = tokio::select! {
            Ok(()) = claims.changed() => {
                let claim = *claims.borrow_and_update();
                claim.map(ClusterEvent::Claim)
            }
            Ok(()) = leadership.changed() => Some(ClusterEvent::Leadership(*leadership.borrow_and_update())),
            Ok(()) = pacing.changed() => Some(ClusterEvent::Pacing),
            Ok(()) = forgetful.changed() => Some(ClusterEvent::Forgetful),
            Ok(()) = members.changed() => {
                let members = members.borrow_and_update().clone();
                // Until central sends a roster, the membership says who the peers are.
                if shared.roster.borrow().is_none() {
                    let peers = members.peers.values().filter(|peer| is_approved(approved.as_ref(), &peer.fingerprint));
                    shared.entries.send_replace(Arc::new(peers.map(entry).collect()));
                }
                None
            }
            else => return,
        };
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return;
        }
    }
}

/// While this node leads, brings the membership to the roster. Safe to drop anywhere: each step
/// is one committed change or none.
pub(super) async fn keep_to_roster(
    group: Group,
    mut rosters: watch::Receiver<Option<Roster>>,
    approved: Option<BTreeSet<Fingerprint>>,
) {
    let mut leadership = group.leadership();
    let approved = move |key: &Fingerprint| is_approved(approved.as_ref(), key);
    loop {
        let roster = rosters.borrow_and_update().clone();
        let leads = leadership.borrow_and_update().leads;
        let mut pause = RECONCILE_EVERY;
        if let (Some(roster), true) = (roster.filter(|roster| roster.group == group.seat().group), leads) {
            match group.reconcile(&roster, &approved).await {
                Ok(Reconciled::Stepped) => pause = Duration::ZERO,
                Ok(Reconciled::Settled) => {}
                Ok(Reconciled::Waiting) => pause = RECONCILE_AGAIN,
                Ok(Reconciled::HandOver(to)) => transfer(group.clone(), to).await,
                Err(error) => {
                    tracing::debug!(error = explain(&error), "The membership was not changed");
                    pause = RECONCILE_AGAIN;
                }
            }
        }
        tokio::select! {
            changed = rosters.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The site's own word on a peer's key: without a list, central's marking is enough.
pub(super) fn is_approved(approved: Option<&BTreeSet<Fingerprint>>, key: &Fingerprint) -> bool {
    approved.is_none_or(|keys| keys.contains(key))
}

pub(super) fn entry(peer: &Peer) -> RosterEntry {
    RosterEntry {
        node: peer.node,
        agent: peer.agent,
        name: peer.name.clone(),
        fingerprint: peer.fingerprint,
        peer_addrs: peer.addrs.clone(),
    }
}
