//! What the other candidates say of central, asked and answered.

use std::{sync::Arc, time::Duration};

use proto::{NodeId, control::RosterEntry, hello::Seat};
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::{Shared, lead::HEARS_CENTRAL};
use crate::{
    alerts::{AskNeighbours, Neighbour, Stance},
    peer::PeerNet,
};

/// What an agent asks its peers before it tells people that central is out of reach. The answer is `"told"`,
/// `"ready"` or `"silent"`; an agent that does not know the question refuses it, which counts as silent.
pub(super) const TELLS_OF_OUTAGE: &str = r#""tells_of_outage""#;
/// How long a peer has to answer each question.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// Asks over the direct connections inside the network: what goes through central is no help here.
pub struct AskPeers {
    pub peers: PeerNet,
    pub shared: Arc<Shared>,
}

#[async_trait::async_trait]
impl AskNeighbours for AskPeers {
    async fn ask(&self) -> Option<Vec<Neighbour>> {
        // Also before central has granted the seat again: it may be away for long.
        let me = (*self.shared.seat.borrow())?;
        let mut asking = JoinSet::new();
        for entry in self.shared.entries().borrow().iter().filter(|entry| entry.node != me.node) {
            asking.spawn(ask(self.peers.clone(), me, entry.clone()));
        }
        Some(asking.join_all().await)
    }

    fn set_stance(&self, stance: Stance) {
        self.shared.stance.send_replace(stance);
    }
}

async fn ask(peers: PeerNet, me: Seat, entry: RosterEntry) -> Neighbour {
    let question = async |text: &str| {
        let body = RawValue::from_string(text.to_owned()).ok()?;
        peers.call(&entry, me.group, me.node, &body, ASK_LIMIT).await.ok()
    };
    let hears = question(HEARS_CENTRAL).await;
    let stance = match &hears {
        Some(_) => question(TELLS_OF_OUTAGE).await,
        None => None,
    };
    Neighbour {
        name: entry.name.to_string(),
        hears_central: hears.map(|answer| answer.get() == "true"),
        tells: stance.is_some_and(|answer| tells_first(answer.get(), entry.node, me.node)),
    }
}

/// Whether a peer with this stance tells, and this node need not.
fn tells_first(stance: &str, peer: NodeId, me: NodeId) -> bool {
    match stance {
        r#""told""# => true,
        r#""ready""# => peer < me,
        _ => false,
    }
}

/// The answer to [`TELLS_OF_OUTAGE`].
pub(super) fn answer(stance: Stance) -> Result<Box<RawValue>, String> {
    let word = match stance {
        Stance::Told => "told",
        Stance::Ready => "ready",
        Stance::Silent => "silent",
    };
    serde_json::value::to_raw_value(word).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_that_are_ready_the_smaller_node_tells_and_whoever_has_told_goes_on() {
        let says = |stance| answer(stance).unwrap();
        let (one, two) = (NodeId(1), NodeId(2));
        assert!(tells_first(says(Stance::Ready).get(), one, two));
        assert!(!tells_first(says(Stance::Ready).get(), two, one));
        assert!(tells_first(says(Stance::Told).get(), two, one));
        assert!(!tells_first(says(Stance::Silent).get(), one, two));
    }
}
