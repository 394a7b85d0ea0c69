//! Keeps the chronicle of losses and moves: what the keeper decides anyway, put together for people.

use time::OffsetDateTime;

use super::Keeper;
use crate::failovers::AttemptOutcome;
use crate::gateway::proxy_processor::GaveUp;

impl Keeper {
    /// A loss or a move begins, unless one is under way.
    pub(super) fn chronicle_begins(&mut self, reason: &str, planned: bool) {
        let from =
            self.session.as_ref().map(|session| session.name.clone()).or_else(|| self.last_active.clone());
        self.chronicle.began(from, reason, planned, OffsetDateTime::now_utc());
    }

    /// A candidate was given up.
    pub(super) fn chronicle_gave_up(&mut self, node: proto::NodeId, reason: GaveUp) {
        let Some(name) = self.name_of(node) else { return };
        let outcome = match reason {
            GaveUp::TimeIsUp => AttemptOutcome::TimeIsUp,
            GaveUp::NotConfigured => AttemptOutcome::NotConnected,
        };
        self.chronicle.gave_up(&name, outcome, OffsetDateTime::now_utc());
    }

    /// Whom the proxy-processor waits for now.
    pub(super) fn chronicle_waits(&mut self) {
        let waits_for = self.processor.attempt().and_then(|(node, _)| self.name_of(node));
        self.chronicle.waits_for(waits_for.as_ref(), OffsetDateTime::now_utc());
    }

    /// Writes what changed. What the store does not take is written with the next event.
    pub(super) async fn write_chronicle(&mut self) {
        for changed in self.chronicle.changed() {
            if let Err(error) = self.rooms.failovers.put(&changed).await {
                tracing::warn!(environment = %self.environment.name, id = changed.id, %error, "A failover's history could not be written");
                self.chronicle.not_written();
            }
        }
    }
}
