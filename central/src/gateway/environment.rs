//! What the rooms of one Environment's gateway share: who is connected, which tunnel lives, and
//! the way to the keeper, who alone decides.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use proto::{
    EnvironmentName, Epoch, Name,
    control::{RaftCall, RaftReply},
    driver::Lanes,
    hello::{LinkSettings, Seat},
};
use tokio::sync::{mpsc, watch};

use super::{
    guests::Guests,
    keeper::Event,
    registry::{AgentLink, Registry},
    witness::Witness,
};

/// How many events may wait for the keeper.
pub const EVENTS_MAX: usize = 1024;

/// One Environment, as connections see it.
pub struct Environment {
    pub name: EnvironmentName,
    pub settings: LinkSettings,
    pub registry: Registry,
    /// The tunnel that takes new streams; `None` parks them.
    pub tunnel: watch::Sender<Option<ActiveTunnel>>,
    pub keeper: mpsc::Sender<Event>,
    witness: RwLock<Option<Arc<Witness>>>,
    connections: AtomicU64,
}

/// The admitted tunnel that takes new streams.
#[derive(Clone)]
pub struct ActiveTunnel {
    pub tunnel: Lanes,
    /// Whoever opens a stream signs here.
    pub guests: Guests,
    pub epoch: Epoch,
    pub name: Name,
}

impl Environment {
    /// The Environment and the keeper's end of its inbox.
    pub fn new(name: EnvironmentName, settings: LinkSettings) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (keeper, inbox) = mpsc::channel(EVENTS_MAX);
        let environment = Self {
            name,
            settings,
            registry: Registry::default(),
            tunnel: watch::Sender::new(None),
            keeper,
            witness: RwLock::new(None),
            connections: AtomicU64::new(0),
        };
        (Arc::new(environment), inbox)
    }

    /// A number no other connection of this run has.
    pub fn connection_id(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    pub fn witness(&self) -> Option<Arc<Witness>> {
        self.witness.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_witness(&self, witness: Option<Arc<Witness>>) -> Option<Arc<Witness>> {
        let mut held = self.witness.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, witness)
    }

    /// Carries an agent's Raft RPC to the witness or to another agent, and brings the answer.
    ///
    /// The sender is who its seat says it is: a call "from" a seat that is not the link's own is
    /// refused, so that no agent can speak for another.
    pub async fn relay(&self, link: &AgentLink, call: RaftCall) -> RaftReply {
        let id = call.id;
        let result = self.deliver(link, call).await;
        RaftReply { id, result }
    }

    async fn deliver(
        &self,
        link: &AgentLink,
        call: RaftCall,
    ) -> Result<Box<serde_json::value::RawValue>, String> {
        if !self.registry.sits(link.agent, Seat { group: call.group, node: call.from }) {
            return Err(format!("{} does not hold node {} of group {}", link.name, call.from, call.group));
        }
        if let Some(witness) = self.witness()
            && witness.seat == (Seat { group: call.group, node: call.to })
        {
            return witness.group.serve(call.from, &call.body).await.map_err(|error| error.to_string());
        }
        let to = call.to;
        match self.registry.route(Seat { group: call.group, node: to }) {
            Some(peer) => peer
                .call(call)
                .await
                .map_err(|error| error.unwrap_or_else(|| format!("{} did not answer in time", peer.name))),
            None => Err(format!("node {to} is not connected to central")),
        }
    }
}
