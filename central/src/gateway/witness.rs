//! Central's own member of a gateway group: votes and stores, never claims.
//!
//! Its RPCs to the agents travel over their control websockets; theirs arrive through
//! [`Environment::relay`].

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use group::{CallError, Group, GroupConfig, GroupStorage, Member, Peer, Timings, Transport};
use proto::{NodeId, control::RaftCall, hello::Seat};
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::{environment::Environment, keeper::Event};

/// The witness of one group while it runs.
pub struct Witness {
    pub seat: Seat,
    pub group: Group,
    /// Ends with the witness.
    _watching: JoinSet<()>,
}

impl Witness {
    /// Starts central's member of this group, as it was left or new.
    pub async fn start(
        environment: &Arc<Environment>,
        seat: Seat,
        storage: GroupStorage,
        timings: Timings,
    ) -> Result<Self, group::StartError> {
        let transport = Arc::new(OverControl { environment: Arc::downgrade(environment), seat });
        let config = GroupConfig { seat, member: Member::Witness, timings };
        let group = Group::start(config, storage, transport).await?;
        let mut watching = JoinSet::new();
        watching.spawn(report_changes(group.clone(), environment.clone()));
        Ok(Self { seat, group, _watching: watching })
    }
}

/// Wakes the keeper when the group's claims, members, leader or timings change. Safe to drop anywhere.
async fn report_changes(group: Group, environment: Arc<Environment>) {
    let (mut claims, mut members, mut leadership) = (group.claims(), group.members(), group.leadership());
    let mut pacing = group.pacing();
    loop {
        // The group's last word, that it has stopped, still counts when nobody is left to say more.
        tokio::select! {
            Ok(()) = claims.changed() => {}
            Ok(()) = members.changed() => {}
            Ok(()) = leadership.changed() => {}
            Ok(()) = pacing.changed() => {}
            else => return,
        }
        if environment.keeper.send(Event::GroupChanged).await.is_err() {
            return;
        }
    }
}

/// The witness' way to the agents.
struct OverControl {
    /// It holds the witness, which holds this.
    environment: Weak<Environment>,
    seat: Seat,
}

#[async_trait]
impl Transport for OverControl {
    async fn call(
        &self,
        to: NodeId,
        _peer: Option<&Peer>,
        body: Box<RawValue>,
        ttl: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        let group = self.seat.group;
        let link = self
            .environment
            .upgrade()
            .and_then(|environment| environment.registry.route(Seat { group, node: to }))
            .ok_or_else(|| CallError::Unreachable(format!("node {to} is not connected")))?;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let call = RaftCall { id: 0, group, from: self.seat.node, to, ttl_ms, body };
        link.call(call).await.map_err(|error| error.map_or(CallError::TimedOut, CallError::Unreachable))
    }
}
