//! Central's own member of the group, the witness: started, started again, and renewed.
//!
//! ```text
//!   start ──► runs ──► the group names it
//!     │ its records are damaged, or older than their guard
//!     └──► its node is retired for ever ──► a new node, recorded first ──► the roster asks the leader
//!                                            to take it in, with the old one's vote in one change
//! ```
//!
//! A witness that forgot a vote could give it twice, and one that forgot an entry could elect a
//! leader without it: neither may vote again. The newcomer starts empty and learns everything from
//! the leader, so central's fence and the group's claims stay as they are.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use group::{GroupStorage, StartError, StorageError};
use program::explain;
use proto::hello::Seat;

use super::Keeper;
use crate::gateway::witness::Witness;

/// How soon a witness that could not run is started again.
const RETRY: Duration = Duration::from_secs(10);
/// How long the group has to take in a new witness before people are told what it waits for. After
/// a restart of central the agents need a moment to come back.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// A witness on a new node, until the membership names it.
pub(super) struct Joining {
    since: Instant,
    told: bool,
}

impl Joining {
    pub(super) fn tell_at(&self) -> Option<Instant> {
        (!self.told).then_some(self.since + JOIN_LIMIT)
    }
}

impl Keeper {
    /// Starts central's own member of the recorded group, in place of any older one.
    pub(super) async fn start_witness(&mut self) {
        if let Some(old) = self.environment.set_witness(None) {
            old.group.clone().shutdown().await;
        }
        (self.witness_at, self.joining) = (None, None);
        let storage = GroupStorage::shared(
            self.rooms.disk.clone(),
            self.environment.name.as_str(),
            self.settings.guards.join(format!("{}.guard", self.environment.name)),
        );
        let mut started = self.try_to_start(&storage).await;
        if let Err(StartError::Storage(error)) = &started
            && error.needs_new_seat()
            && self.renew_witness(&storage, error).await
        {
            started = self.try_to_start(&storage).await;
        }
        if let Err(error) = started {
            tracing::error!(environment = %self.environment.name, error = explain(&error), "The witness could not start; the active cannot change until it can");
            self.witness_at = Some(Instant::now() + RETRY);
        }
    }

    async fn try_to_start(&mut self, storage: &GroupStorage) -> Result<(), StartError> {
        let Some(group) = &self.record.group else { return Ok(()) };
        let seat = Seat { group: self.record.generation, node: group.witness };
        let timings = self.settings.timings;
        let witness = Witness::start(&self.environment, seat, storage.clone(), timings).await?;
        // Raft's own word: what is published may be a moment behind.
        let heard = witness.group.is_initialized().await.unwrap_or(true);
        if self.record.witness_was_renewed() && !heard {
            self.joining = Some(Joining { since: Instant::now(), told: false });
        }
        drop(self.environment.set_witness(Some(Arc::new(witness))));
        Ok(())
    }

    /// Retires the node whose records are lost and sits on a new one. `false` when that could not be
    /// recorded: then the old one stays away, too.
    async fn renew_witness(&mut self, storage: &GroupStorage, lost: &StorageError) -> bool {
        let Some(group) = &self.record.group else { return false };
        let seat = Seat { group: self.record.generation, node: group.witness };
        let renewed = async {
            let above = storage.give_up().map_err(|error| explain(&error))?;
            self.rooms.groups.renew_witness(seat, above).await.map_err(|error| explain(&error))
        };
        match renewed.await {
            Ok(record) => self.record = record,
            Err(error) => {
                tracing::error!(environment = %self.environment.name, error, "A new node for the witness could not be recorded");
                return false;
            }
        }
        let now = self.record.group.as_ref().map_or(seat.node, |group| group.witness);
        self.note(
            "witness_renewed",
            format!(
                "Central's own records of gateway group {} cannot be trusted ({}): its node {} never votes again and node {now} joins in its place. \
                 Until the group has taken it in, the loss of a candidate may leave the active unable to change",
                seat.group,
                explain(lost),
                seat.node,
            ),
        );
        self.tell_roster();
        true
    }

    /// The witness learned something, or has stopped.
    pub(super) fn witness_changed(&mut self, witness: &Witness) {
        if self.joining.is_some() && names(witness) {
            self.joining = None;
            let text = format!("Node {}, central's own, belongs to the gateway group", witness.seat.node);
            self.note("witness_joined", text);
        }
        if !witness.group.leadership().borrow().running {
            self.environment.set_witness(None);
            self.witness_at = Some(Instant::now() + RETRY);
            self.note("witness_stopped", "Central's own member of the gateway group has stopped; the active cannot change until it runs again".into());
        }
    }

    pub(super) async fn look_after_witness(&mut self, now: Instant) {
        if self.witness_at.is_some_and(|at| at <= now) {
            self.start_witness().await;
        }
        if let Some(joining) = &mut self.joining
            && joining.tell_at().is_some_and(|at| at <= now)
        {
            joining.told = true;
            self.note("witness_waits", self.what_the_witness_waits_for());
        }
    }

    fn what_the_witness_waits_for(&self) -> String {
        let seats = self.record.group.iter().flat_map(|group| &group.seats);
        let (here, away): (Vec<_>, Vec<_>) =
            seats.partition(|seated| self.environment.registry.link(seated.agent).is_some());
        let names = |seats: Vec<_>| {
            let names: Vec<String> = seats
                .into_iter()
                .filter_map(|seated: &crate::process_server::group::Seated| self.name_of(seated.node))
                .map(|name| name.to_string())
                .collect();
            if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
        };
        format!(
            "Central's new member has not been taken into the gateway group: that needs a majority of its voting candidates, without the one central lost. \
             Connected: {}; away: {}. What flows goes on, but the active cannot change. Start the candidates that are away; \
             if one is lost for good, unmark all candidates, mark them again and restart one: that founds the group anew",
            names(here),
            names(away)
        )
    }
}

/// Whether the membership, as far as this witness has heard, has a place for it.
fn names(witness: &Witness) -> bool {
    let members = witness.group.members();
    let members = members.borrow();
    members.voters.contains(&witness.seat.node) || members.learners.contains(&witness.seat.node)
}
