//! Central's questions whether a destination can be reached from here, one at a time.
//!
//! A second question while one is under way is refused, not queued: whoever asks has a deadline.

use std::sync::Arc;

use proto::{
    control::AgentMessage,
    trace::{Answer, Ask},
};
use tokio::task::JoinSet;

use crate::{control::Control, dialer::Dialer};

/// The one who answers. Dropping it ends what is under way.
pub struct Probing {
    dialer: Arc<Dialer>,
    control: Control,
    under_way: JoinSet<()>,
}

impl Probing {
    pub fn new(dialer: Arc<Dialer>, control: Control) -> Self {
        Self { dialer, control, under_way: JoinSet::new() }
    }

    /// Begins to try; the answer goes to central by itself.
    pub fn begin(&mut self, ask: Ask) {
        while self.under_way.try_join_next().is_some() {}
        let control = self.control.clone();
        if !self.under_way.is_empty() {
            let result = Err("this agent is trying another destination at the moment".to_owned());
            control.tell(AgentMessage::DestinationProbed(Answer { id: ask.id, result }));
            return;
        }
        let dialer = self.dialer.clone();
        self.under_way.spawn(async move {
            let steps = dialer.probe(&ask).await;
            // Without a link nobody waits for it any more.
            control.tell(AgentMessage::DestinationProbed(Answer { id: ask.id, result: Ok(steps) }));
        });
    }
}
