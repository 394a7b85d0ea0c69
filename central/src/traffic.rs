//! The rooms that carry traffic, as the administration asks them: listeners, tunnels, agents.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use proto::{
    AgentId, EnvironmentName, Name,
    trace::{Ask, Step},
};

use crate::{
    admin::data_plane::{Carriage, DataPlane, Listening, OpenFailure, TrafficView, TriedOut},
    destination::Destination,
    gateway::{environment::Environment, probing::NotAsked},
    listener::{
        Listeners,
        ledger::{ClosedStream, OpenStream, StreamKey},
    },
    trace::TEST_TIMEOUT,
};

/// A handle on them. Cheap to clone.
#[derive(Clone)]
pub struct Traffic {
    pub listeners: Arc<Listeners>,
    pub environments: Arc<BTreeMap<EnvironmentName, Arc<Environment>>>,
}

#[async_trait]
impl DataPlane for Traffic {
    async fn try_out(
        &self,
        environment: &EnvironmentName,
        destination: &Destination,
    ) -> Result<TriedOut, OpenFailure> {
        self.listeners.try_out(environment, destination).await
    }

    async fn ask(
        &self,
        environment: &EnvironmentName,
        agent: AgentId,
        ask: Ask,
    ) -> Result<Vec<Step>, NotAsked> {
        let link = self.environments.get(environment).and_then(|there| there.registry.link(agent));
        link.ok_or(NotAsked::NotConnected)?.probe(ask, TEST_TIMEOUT).await
    }

    async fn settled(&self, environment: &EnvironmentName, destination: &Name) {
        self.listeners.settled(environment, destination).await;
    }

    fn streams(
        &self,
        environment: &EnvironmentName,
        after: Option<StreamKey>,
        limit: usize,
    ) -> Vec<OpenStream> {
        self.listeners.streams(environment, after, limit)
    }

    fn closed_streams(&self, environment: &EnvironmentName) -> Vec<ClosedStream> {
        self.listeners.closed_streams(environment)
    }

    fn end_stream(&self, environment: &EnvironmentName, stream: StreamKey) -> bool {
        self.listeners.end_stream(environment, stream)
    }

    fn traffic(&self, environment: &EnvironmentName) -> TrafficView {
        self.listeners.traffic(environment)
    }

    fn carried(&self, environment: &EnvironmentName) -> BTreeMap<&'static str, Carriage> {
        self.listeners.carried(environment)
    }

    fn listening(&self, environment: &EnvironmentName, destination: &Name) -> Listening {
        self.listeners.listening(environment, destination)
    }
}
