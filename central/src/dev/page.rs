//! The built-in destination: one web page, served by this process on loopback. An agent fetches it like any other.

use std::{io, net::SocketAddr};

use axum::{Router, response::Html, routing::get};
use tokio::net::TcpListener;

/// The destination's name.
pub(super) const NAME: &str = "web-page";

/// What is on it.
const TEXT: &str = "<!doctype html><title>Postern</title><h1>It works</h1>\
    <p>This page came through the Secure Gateway: from a listener of central, through an agent's tunnel, to a web \
    server on the agent's side.</p>\n";

/// The page, bound but not served yet.
pub(super) struct Page {
    listener: TcpListener,
}

impl Page {
    pub(super) async fn bind() -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(("127.0.0.1", 0)).await? })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for ever. Dropping it ends the page, and nothing else.
    pub(super) async fn serve(self) -> io::Result<()> {
        axum::serve(self.listener, Router::new().route("/", get(async || Html(TEXT)))).await
    }
}

/// Whether `body` is the page.
pub(super) fn is_it(body: &str) -> bool {
    body == TEXT
}
