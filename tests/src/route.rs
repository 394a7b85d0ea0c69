//! Which way a suite's traffic takes: straight to the server, or through the gateway.
//!
//! The same suite runs both ways. Directly it shows that the suite itself is sound on this machine,
//! so that a failure through the gateway speaks of the gateway.

use std::net::SocketAddr;

use crate::Dev;

/// Where a client must connect to, and what has to stay alive meanwhile.
pub struct Route {
    addr: SocketAddr,
    _gateway: Option<Dev>,
}

impl Route {
    /// Straight to the server.
    pub fn direct(server: SocketAddr) -> Self {
        Self { addr: server, _gateway: None }
    }

    /// Through a gateway of two agents, with the server as its one destination of this `scheme`
    /// (`tcp`, `postgresql`, `smtp`, `http` …).
    pub async fn through_the_gateway(scheme: &str, server: SocketAddr) -> Self {
        let dev = Dev::start(&[("target", &format!("{scheme}://{server}"))]).await;
        Self { addr: dev.listen("target"), _gateway: Some(dev) }
    }

    /// The address for the client.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
