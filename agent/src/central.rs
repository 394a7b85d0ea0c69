//! Opens websockets to central: fresh DNS, every address, the pinned CA, then the upgrade.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        http::{HeaderValue, header},
        protocol::WebSocketConfig,
    },
};

use crate::identity::{
    Identity,
    central::{CentralUrl, ConnectError, connect_central},
    segments::Line,
};

/// How long central has to answer the upgrade once TLS stands.
const UPGRADE_LIMIT: Duration = Duration::from_secs(10);

/// A websocket to central, before any hello.
pub struct Opened {
    pub socket: Socket,
    /// What it was opened with; to be told if it stands still.
    pub line: Line,
}

/// As the library has it.
pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Why there is no websocket.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(
        "central did not answer the upgrade of {path} within {UPGRADE_LIMIT:?}: something between may not let websockets pass"
    )]
    TimedOut { path: &'static str },
    /// An HTTP answer other than 101, in words.
    #[error("central refused the upgrade of {path} with status {status}: {text}")]
    Refused { path: &'static str, status: u16, text: String },
    #[error("the upgrade of {path} failed")]
    Upgrade { path: &'static str, source: Box<tungstenite::Error> },
}

/// Opens one. Cancel-safe: dropping it closes whatever was opened.
pub async fn open(
    identity: &Identity,
    path: &'static str,
    subprotocol: &'static str,
    config: WebSocketConfig,
) -> Result<Opened, OpenError> {
    let line = identity.segments.line();
    let stream = connect_central(&identity.central, identity, &line).await?;
    match upgrade(stream, &identity.central, path, subprotocol, config).await {
        Ok(socket) => Ok(Opened { socket, line }),
        Err(error) => {
            if matches!(error, OpenError::TimedOut { .. }) {
                line.stood_still();
            }
            Err(error)
        }
    }
}

/// Asks whoever is at the other end of `stream` for a websocket. Cancel-safe as [`open`].
///
/// # Errors
/// [`OpenError::Connect`] never.
pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    central: &CentralUrl,
    path: &'static str,
    subprotocol: &'static str,
    config: WebSocketConfig,
) -> Result<WebSocketStream<S>, OpenError> {
    let failed = |error| OpenError::Upgrade { path, source: Box::new(error) };
    let url = format!("wss://{}{path}", central.authority());
    let mut request = url.into_client_request().map_err(failed)?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    let upgrade = client_async_with_config(request, stream, Some(config));
    match tokio::time::timeout(UPGRADE_LIMIT, upgrade).await {
        Err(_elapsed) => Err(OpenError::TimedOut { path }),
        Ok(Ok((socket, _response))) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(response))) => Err(OpenError::Refused {
            path,
            status: response.status().as_u16(),
            text: response
                .body()
                .as_deref()
                .map(|body| String::from_utf8_lossy(&body[..body.len().min(512)]).trim().to_owned())
                .unwrap_or_default(),
        }),
        Ok(Err(error)) => Err(failed(error)),
    }
}
