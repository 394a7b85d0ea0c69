//! Recovery: a group whose quorum is gone for good is founded anew on one agent that survived.
//!
//! ```text
//!   order ──► nobody leads, and for long enough ──► exactly the absent are confirmed as lost
//!         ──► the agent answers on its own websocket ──► the same once more ──► a higher generation
//! ```
//!
//! What makes it safe is the fence and not the confirmation: the founding is the one compare-and-set that
//! grants a generation, and every claim of an older one is below it. Should the members that were called
//! lost live on somewhere and elect among themselves, no tunnel of theirs is admitted any more; when they
//! reach central again they are told to forget their seats, and join under new nodes.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{AgentId, Name};
use tokio::sync::oneshot;

use super::{Event, Keeper};
use crate::gateway::{CommandError, Recovery, registry::AgentLink, seating::Step};

/// Added to `agent.give_way_after`: a leader that hears no central has handed over by then to one that
/// does, and every election is over.
const QUIET_AFTER_GIVING_WAY: Duration = Duration::from_secs(10);
/// How long the agent has to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

pub(super) type Reply = oneshot::Sender<Result<u64, CommandError>>;

/// An order on its way: the agent was asked whether it is there.
pub struct Asked {
    recovery: Recovery,
    link: Arc<AgentLink>,
    answered: bool,
    reply: Reply,
}

impl Keeper {
    /// Looks whether the order may be carried out, and asks its agent.
    pub(super) fn begin_recovery(&self, recovery: Recovery, reply: Reply, now: Instant) {
        let link = match self.may_recover(&recovery, now) {
            Ok(link) => link,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let keeper = self.environment.keeper.clone();
        // Ends within a second; an order that is dropped with central leaves nothing behind.
        tokio::spawn(async move {
            let answered = link.is_present(ANSWER_LIMIT).await;
            let _ = keeper.send(Event::Recovering(Asked { recovery, link, answered, reply })).await;
        });
    }

    /// The agent answered, or did not: carries the order out if everything is as it was.
    pub(super) async fn recover(&mut self, asked: Asked, now: Instant) {
        let Asked { recovery, link, answered, reply } = asked;
        let result = match self.may_recover(&recovery, now) {
            Err(error) => Err(error),
            Ok(_) if !answered => Err(CommandError::NoAnswer(recovery.on)),
            Ok(present) if present.id != link.id => Err(CommandError::Changed),
            Ok(link) => self.found_anew(&recovery, link.agent, now).await,
        };
        let _ = reply.send(result);
    }

    async fn found_anew(
        &mut self,
        recovery: &Recovery,
        agent: AgentId,
        now: Instant,
    ) -> Result<u64, CommandError> {
        let before = self.record.generation;
        self.take(Step::Found { agent }, now)
            .await
            .map_err(|error| CommandError::Store(error.to_string()))?;
        let founder = self.record.group.as_ref().map(|group| group.founder);
        if self.record.generation != before + 1 || founder != Some(agent) {
            return Err(CommandError::Changed);
        }
        let lost: Vec<&str> = recovery.lost.iter().map(Name::as_str).collect();
        let lost = if lost.is_empty() { "nobody".to_owned() } else { lost.join(", ") };
        let (on, generation) = (&recovery.on, self.record.generation);
        self.note(
            "group_recovered",
            format!(
                "Gateway group {before} had lost its quorum and was founded anew on {on} as group {generation}; \
                 given up as lost: {lost}. Who comes back joins again under a new node"
            ),
        );
        Ok(generation)
    }

    /// The link of the agent to recover on, if nothing speaks against it.
    fn may_recover(&self, recovery: &Recovery, now: Instant) -> Result<Arc<AgentLink>, CommandError> {
        let group = self.record.group.as_ref().ok_or(CommandError::NoGroup)?;
        let on = &recovery.on;
        let server = self.server(on).ok_or_else(|| CommandError::Unknown(on.clone()))?;
        if !server.candidate {
            return Err(CommandError::NotMarked(on.clone()));
        }
        let link = self.environment.registry.link(server.agent);
        let link = link.ok_or_else(|| CommandError::NotConnected(on.clone()))?;
        if let Some(leader) = self.leader() {
            return Err(CommandError::QuorumLives(leader));
        }
        // Also since the agent came back: until then a lead of its own could not be heard.
        let quiet = self.environment.settings.give_way_after() + QUIET_AFTER_GIVING_WAY;
        let silent_for = self.leaderless_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        let silent_for = silent_for.min(link.connected_for());
        if silent_for < quiet {
            return Err(CommandError::TooEarly(quiet - silent_for));
        }
        let connected = |agent: AgentId| self.environment.registry.link(agent).is_some();
        let away = group.seats.iter().filter(|seated| !connected(seated.agent));
        let away =
            away.filter_map(|seated| self.servers.get(&seated.agent)).map(|server| server.name.clone());
        let away: BTreeSet<Name> = away.collect();
        if let Some(name) = recovery.lost.difference(&away).next() {
            return Err(match self.server(name) {
                Some(_) => CommandError::NotLost(name.clone()),
                None => CommandError::Unknown(name.clone()),
            });
        }
        let unconfirmed: Vec<Name> = away.difference(&recovery.lost).cloned().collect();
        if !unconfirmed.is_empty() {
            return Err(CommandError::Unconfirmed(unconfirmed));
        }
        match self.session.as_ref().filter(|session| session.live().is_some()) {
            Some(session) if !recovery.lose_connection => Err(CommandError::WouldCut {
                active: session.name.clone(),
                streams: session.tunnel.stats().streams,
            }),
            Some(_) | None => Ok(link),
        }
    }

    /// Notes since when nobody leads.
    pub(super) fn watch_leadership(&mut self, now: Instant) {
        self.leaderless_since = match self.leader() {
            Some(_) => None,
            None => Some(self.leaderless_since.unwrap_or(now)),
        };
    }

    /// Who leads the group with a quorum behind it, by his own word or by the witness'.
    fn leader(&self) -> Option<String> {
        let witness = self.environment.witness();
        if witness.is_some_and(|witness| witness.group.leadership().borrow().leads) {
            return Some("central's witness".to_owned());
        }
        let links = self.environment.registry.links();
        let leads = links.iter().find(|link| {
            let Some(report) = link.report() else { return false };
            let seat = self.record.seat_of(link.agent).filter(|seat| report.seat == Some(*seat));
            // One that does not tell counts as leading with the quorum it may have.
            seat.is_some_and(|seat| report.leads.unwrap_or(report.leader == Some(seat.node)))
        });
        leads.map(|link| link.name.to_string())
    }
}
