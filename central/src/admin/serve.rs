//! The door for administrators: the router of this room on central's accept loop.

use std::{io, sync::Arc};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::door::{self, Bounds};

/// Browsers and scripts of a few hundred administrators.
const BOUNDS: Bounds = Bounds { handshakes: 256, connections: 1024 };

/// Serves until `cancel`; see [`door::serve`].
///
/// # Errors
/// When the listener has no address, as after the operating system took it away.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    cancel: CancellationToken,
) -> io::Result<()> {
    door::serve(listener, tls, router, BOUNDS, Arc::new(|_, _, _| ()), cancel).await
}
