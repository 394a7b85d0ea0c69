//! The ways to one destination that are compared: through the gateway, and through the two limits.

use std::net::SocketAddr;

use postern_tests::Dev;

use crate::bulk::{Destination, Direction, transfer};
use crate::relay::{Between, TwoHops};

/// Before the first round, over each way: caches, windows and allocators settle.
const WARM_UP_BYTES: u64 = 64 << 20;

/// One gateway, the tunnel alone and both relays, in front of the same destination. Dropped, all of it ends.
pub(crate) struct Stage {
    /// Ours first: the gateway, if it is there; then the TLS relay, the plain one, the tunnel alone.
    pub(crate) ways: Vec<Way>,
    _relays: Vec<TwoHops>,
    _dev: Option<Dev>,
    _destination: Destination,
}

/// A way to the destination and the two processes that make it.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    pub(crate) pids: [u32; 2],
}

impl Stage {
    /// `bare`: without the programs; the tunnel alone is ours then.
    pub(crate) async fn set(bare: bool) -> Self {
        let destination = Destination::start().await;
        let target = destination.addr();
        let mut relays = Vec::new();
        let mut ways = Vec::new();
        for (name, between) in
            [("TLS relay", Between::Tls), ("plain relay", Between::Tcp), ("tunnel alone", Between::Tunnel)]
        {
            let relay = TwoHops::to(target, between);
            ways.push(Way { name, addr: relay.addr(), pids: relay.pids() });
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
            let pids = [gateway.central_pid(), gateway.agent(&active).pid];
            ways.insert(0, Way { name: "gateway", addr: gateway.listen("bulk"), pids });
            dev = Some(gateway);
        }
        for way in &ways {
            transfer(way.addr, Direction::Down, 1, WARM_UP_BYTES).await;
            transfer(way.addr, Direction::Up, 1, WARM_UP_BYTES).await;
        }
        Self { ways, _relays: relays, _dev: dev, _destination: destination }
    }
}
