//! The stage for this room's tests: a gateway whose agent is the other end of a pipe in memory. The mux, the
//! websockets and the listeners' sockets are real.

use std::{future::Future, sync::Arc, time::Duration};

use program::descriptors::Budget;
use proto::{
    Epoch, Name,
    driver::{IncomingStream, Lanes, Role, Side, Tunnel, TunnelConfig, WebSocket},
};
use tokio::{
    io::duplex,
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    entrance::House,
    ledger::Ledger,
    park::{Lot, Opener},
};
use crate::{
    destination::{Destination, Spec},
    events::NewEvent,
    gateway::{environment::ActiveTunnel, guests::Guests},
};

/// What the gateway's room would show: the tunnel that takes new streams.
pub(super) struct Gate {
    pub(super) tunnel: watch::Sender<Option<ActiveTunnel>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { tunnel: watch::Sender::new(None) }
    }
}

/// An agent with its tunnel. Dropped, it is gone.
pub(super) struct Agent {
    /// Central's end.
    pub(super) tunnel: Tunnel,
    _tasks: JoinSet<()>,
}

impl Gate {
    pub(super) fn opener(&self) -> Opener {
        Opener::new(self.tunnel.subscribe())
    }

    pub(super) fn house(&self) -> (House, mpsc::Receiver<NewEvent>) {
        let (events, said) = mpsc::channel(64);
        let house = House {
            opener: self.opener(),
            lot: Lot::new(8),
            budget: Budget::new(64),
            ledger: Ledger::default(),
            park_timeout: Duration::from_secs(30),
            events,
        };
        (house, said)
    }

    /// An agent comes up as the active; `serve` plays the destination for each of its streams.
    pub(super) fn connect<S, F>(&self, name: &str, serve: S) -> Agent
    where
        S: Fn(IncomingStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (central, _) = Tunnel::new(TunnelConfig::new(Side::Central));
        let (agent, mut incoming) = Tunnel::new(TunnelConfig::new(Side::Agent));
        let (near, far) = duplex(64 * 1024);
        let mut tasks = JoinSet::new();
        let lane = central.clone();
        tasks.spawn(async move {
            lane.run(WebSocket::new(near, Role::Server)).await;
        });
        tasks.spawn(async move {
            agent.run(WebSocket::new(far, Role::Client)).await;
        });
        tasks.spawn(async move {
            let mut streams = JoinSet::new();
            while let Some(stream) = incoming.next().await {
                streams.spawn(serve(stream));
            }
        });
        let epoch = Epoch { group: 1, claim: 1 };
        let name: Name = name.parse().unwrap();
        self.tunnel.send_replace(Some(ActiveTunnel {
            tunnel: Lanes::new(central.clone()),
            guests: Guests::default(),
            epoch,
            name,
        }));
        Agent { tunnel: central, _tasks: tasks }
    }

    /// The tunnel is lost, or takes no new streams.
    pub(super) fn close(&self) {
        self.tunnel.send_replace(None);
    }
}

pub(super) fn destination(name: &str, url: &str) -> Destination {
    spec(serde_json::json!({ "name": name, "url": url })).check().unwrap()
}

pub(super) fn spec(value: serde_json::Value) -> Spec {
    serde_json::from_value(value).unwrap()
}

/// Answers each stream with what it reads, each half ending by itself.
pub(super) async fn echo(incoming: IncomingStream) {
    let (mut read, mut write) = tokio::io::split(incoming.accept());
    let copied = tokio::io::copy(&mut read, &mut write).await;
    if copied.is_ok() {
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
    }
}

/// Shared by rooms whose tests want one.
pub(super) fn store() -> crate::store::SharedStore {
    Arc::new(crate::store::memory::MemoryStore::default())
}
