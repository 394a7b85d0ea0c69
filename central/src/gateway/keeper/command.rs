//! What administrators ask of a gateway.

use std::{collections::BTreeSet, time::Instant};

use proto::{Name, NodeId, control::CentralMessage};

use super::Keeper;
use crate::gateway::{Command, CommandError};

impl Keeper {
    pub(super) async fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Reload { reply } => {
                let result =
                    self.read_servers().await.map_err(|error| CommandError::Store(error.to_string()));
                self.read_alerts(now).await;
                // Who was marked or unmarked learns whether it has to restart.
                for link in self.environment.registry.links() {
                    self.grant(&link);
                }
                let _ = reply.send(result);
            }
            Command::Restart { name, reply } => {
                let link = self.server(&name).and_then(|s| self.environment.registry.link(s.agent));
                let result = match (self.server(&name), link) {
                    (None, _) => Err(CommandError::Unknown(name)),
                    (Some(_), None) => Err(CommandError::NotConnected(name)),
                    (Some(_), Some(link)) => {
                        link.tell(CentralMessage::Restart { id: self.environment.connection_id() });
                        Ok(())
                    }
                };
                let _ = reply.send(result);
            }
            Command::Unreachable { destination, summary, reply } => {
                self.note("destination_unreachable", summary.clone());
                let details = [("destination", destination.to_string())];
                self.tell_of(alerting::Kind::DestinationUnreachable, summary, &details);
                let _ = reply.send(Ok(()));
            }
            Command::Recover { recovery, reply } => self.begin_recovery(recovery, reply, now),
            Command::TellDegraded { summary, reply } => {
                self.tell_of(alerting::Kind::ToleranceLost, summary, &[]);
                let _ = reply.send(Ok(()));
            }
            Command::Drains { reply } => drop(reply.send(Ok(self.drains()))),
            Command::EndDrain { reply } => {
                let _ = reply.send(self.order_end_of_drain().await);
            }
            Command::Switch { to, reply } => {
                let _ = reply.send(self.switch(to, now));
            }
        }
    }

    fn switch(&mut self, to: Option<Name>, now: Instant) -> Result<(), CommandError> {
        if let Some((draining, _)) = &self.draining {
            return Err(CommandError::Draining(draining.name.clone()));
        }
        let configured = self.configured();
        let active = self.session.as_ref().filter(|s| s.live().is_some()).map(|s| s.node);
        let node = match to {
            Some(name) => {
                let server = self.server(&name).ok_or_else(|| CommandError::Unknown(name.clone()))?;
                let seat = self.record.seat_of(server.agent);
                let node = seat.map(|seat| seat.node).filter(|node| configured.contains(node));
                let node = node.ok_or_else(|| CommandError::NotConfigured(name.clone()))?;
                if active == Some(node) {
                    return Err(CommandError::AlreadyActive(name));
                }
                node
            }
            None => self.another_than(active, &configured).ok_or(CommandError::NoOther)?,
        };
        self.processor.handle_switch(node, now);
        Ok(())
    }

    /// The next configured candidate after the active, in the order of nodes.
    pub(super) fn another_than(
        &self,
        active: Option<NodeId>,
        configured: &BTreeSet<NodeId>,
    ) -> Option<NodeId> {
        let later = configured.iter().find(|node| Some(**node) > active);
        later.or_else(|| configured.iter().find(|node| Some(**node) != active)).copied()
    }
}
