//! The ways to one destination that are compared: through the gateway, through the two limits, through peers.

use std::net::SocketAddr;
use std::time::Duration;

use postern_tests::{Dev, Hosts, wait_until};

use crate::bulk::{Destination, Direction, transfer};
use crate::peer::{Kind, Peer};
use crate::relay::{Between, TwoHops};

/// Before the first round, over each way: caches, windows and allocators settle.
const WARM_UP_BYTES: u64 = 64 << 20;

/// What is measured beside Postern.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Beside {
    /// The programs are left out; the tunnel alone is ours then.
    pub(crate) bare: bool,
    /// Every encrypted peer that is installed.
    pub(crate) peers: bool,
    /// A second gateway, whose tunnel has so many lanes.
    pub(crate) lanes: Option<u8>,
}

/// One gateway, the tunnel alone, both relays and the peers, in front of the same destination. Dropped, all of it ends.
pub(crate) struct Stage {
    /// Ours first: the gateway, if it is there; then the TLS relay, the plain one, the tunnel alone, the gateway with lanes, peers.
    pub(crate) ways: Vec<Way>,
    _relays: Vec<TwoHops>,
    _peers: Vec<Peer>,
    _dev: Option<Dev>,
    _lanes: Option<Hosts>,
    _destination: Destination,
}

/// A way to the destination and the processes that make it.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    pub(crate) pids: Vec<u32>,
    /// It is a peer, one of those that Postern means to be ahead of.
    pub(crate) peer: bool,
}

impl Stage {
    pub(crate) async fn set(Beside { bare, peers: with_peers, lanes }: Beside) -> Self {
        let destination = Destination::start().await;
        let target = destination.addr();
        let mut relays = Vec::new();
        let mut ways = Vec::new();
        for (name, between) in
            [("TLS relay", Between::Tls), ("plain relay", Between::Tcp), ("tunnel alone", Between::Tunnel)]
        {
            let relay = TwoHops::to(target, between);
            ways.push(Way { name, addr: relay.addr(), pids: relay.pids().to_vec(), peer: false });
            relays.push(relay);
        }
        let mut dev = None;
        if bare {
            ways.rotate_right(1);
        } else {
            let gateway = Dev::start(&[("bulk", &format!("tcp://{target}"))]).await;
            gateway.until_all_configured().await;
            let active = gateway.api().gateway().await.active;
            let active = active.expect("a gateway whose candidates are configured has one");
            // The standby's CPU is left out: it carries nothing.
            let pids = vec![gateway.central_pid(), gateway.agent(&active).pid];
            ways.insert(0, Way { name: "gateway", addr: gateway.listen("bulk"), pids, peer: false });
            dev = Some(gateway);
        }
        let mut many_lanes = None;
        if let Some(lanes) = lanes {
            let (gateway, way) = of_lanes(lanes, target).await;
            ways.push(way);
            many_lanes = Some(gateway);
        }
        let mut peers = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| with_peers && kind.is_installed()) {
            let peer = Peer::to(target, kind).await;
            ways.push(Way { name: kind.name(), addr: peer.addr(), pids: peer.pids(), peer: true });
            peers.push(peer);
        }
        for way in &ways {
            transfer(way.addr, Direction::Down, 1, WARM_UP_BYTES).await;
            transfer(way.addr, Direction::Up, 1, WARM_UP_BYTES).await;
        }
        Self {
            ways,
            _relays: relays,
            _peers: peers,
            _dev: dev,
            _lanes: many_lanes,
            _destination: destination,
        }
    }

    /// In each round, ours as a ratio of the best peer's; empty without peers. `samples` are by way, then round.
    pub(crate) fn to_best_peer<T>(&self, samples: &[Vec<T>], of: impl Fn(&T) -> f64, best: Best) -> Vec<f64> {
        let peers: Vec<_> =
            self.ways.iter().zip(samples).filter(|(way, _)| way.peer).map(|(_, s)| s).collect();
        let rounds = samples[0].iter().enumerate();
        let ratios = rounds.filter_map(|(round, ours)| {
            let theirs = peers.iter().map(|samples| of(&samples[round]));
            let best = match best {
                Best::Least => theirs.min_by(f64::total_cmp),
                Best::Most => theirs.max_by(f64::total_cmp),
            };
            Some(of(ours) / best?)
        });
        ratios.collect()
    }
}

/// A gateway whose tunnel has so many lanes, all of them up.
async fn of_lanes(lanes: u8, target: SocketAddr) -> (Hosts, Way) {
    let gateway = Hosts::up(&["alpha"], &format!("lanes = {lanes}\n")).await;
    wait_until("every lane is up", Duration::from_secs(60), async || {
        let up = &gateway.api().get("/gateway").await["lanes"];
        (up.as_u64() == Some(lanes.into())).then_some(())
    })
    .await;
    let addr = gateway.destination("bulk", target).await;
    let pids = vec![gateway.central_pid(), gateway.pid("alpha")];
    (gateway, Way { name: "gateway with lanes", addr, pids, peer: false })
}

/// Which of several figures is the best one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Best {
    Least,
    Most,
}
