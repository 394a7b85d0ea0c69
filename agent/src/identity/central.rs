//! The way to central: its address, and one TLS connection to it, through a proxy where one is set.
//!
//! Every attempt resolves the name anew and tries every address: a failed-over load balancer must
//! not need an agent's restart. Behind a proxy that is the proxy's to do, and its own name that is resolved here.

use std::{fmt, io, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Identity, segments::Line, tls::in_words};
use crate::{
    dialer::{
        address::host_and_port,
        dial::{TcpConnector, fail_fast, race},
        resolve::addresses,
    },
    proxy::{Proxy, ProxyError},
};

/// Resolving, connecting, what a proxy has to say, and the TLS handshake, all addresses together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Data that central does not acknowledge for this long ends a connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Where central listens for agents: `https://HOST[:PORT]`, port 443 unless given.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CentralUrl {
    host: String,
    port: u16,
}

/// Why a text is no address of central.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not central's address: {problem}; it reads https://HOST or https://HOST:PORT")]
pub struct CentralUrlError {
    text: String,
    problem: &'static str,
}

impl CentralUrl {
    /// The host as it appears in central's certificate, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST:PORT`, for an HTTP Host header and a websocket's address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for CentralUrl {
    type Err = CentralUrlError;

    fn from_str(text: &str) -> Result<Self, CentralUrlError> {
        // An address may come with a pasted password, which stands before the '@'.
        let shown = match text.contains('@') {
            true => "…@…".to_owned(),
            false => text.chars().take(100).collect::<String>(),
        };
        let wrong = |problem| CentralUrlError { text: shown.clone(), problem };
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest,
            Some(_) => return Err(wrong("agents speak only https")),
            None => return Err(wrong("it must begin with https://")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = host_and_port(authority).map_err(wrong)?;
        let port = port.unwrap_or(443);
        if ServerName::try_from(host).is_err() {
            return Err(wrong("the host is neither a name nor an IP address"));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl TryFrom<String> for CentralUrl {
    type Error = CentralUrlError;

    fn try_from(text: String) -> Result<Self, CentralUrlError> {
        text.parse()
    }
}

impl From<CentralUrl> for String {
    fn from(url: CentralUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for CentralUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl fmt::Debug for CentralUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why there is no connection to central.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the name of central, {host}, cannot be resolved; check the address and this host's DNS")]
    Resolve { host: String, source: io::Error },
    #[error("central at {url} did not answer within {limit:?}; check the address and the firewall between")]
    TimedOut { url: CentralUrl, limit: Duration },
    #[error("central at {url} could not be reached (tried {tried:?})")]
    Connect { url: CentralUrl, tried: Vec<SocketAddr>, source: io::Error },
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("no secure connection with central at {url}")]
    Tls { url: CentralUrl, source: io::Error },
}

/// Opens a TLS connection to central as this agent.
///
/// Cancel-safe: dropping it closes whatever was opened.
pub async fn connect_central(
    url: &CentralUrl,
    identity: &Identity,
    line: &Line,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    connect(url, identity.proxy.as_ref(), identity.tls.clone(), line).await
}

pub(crate) async fn connect(
    url: &CentralUrl,
    proxy: Option<&Proxy>,
    tls: Arc<ClientConfig>,
    line: &Line,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    reach(url, proxy, line).await?.secure(tls, line).await
}

/// A pipe to central, before anything was said in it. What is left of the time counts on.
pub(crate) struct Reached<'a> {
    url: &'a CentralUrl,
    proxy: Option<&'a Proxy>,
    socket: TcpStream,
    deadline: Instant,
}

/// Opens the pipe: straight, or through the proxy.
pub(crate) async fn reach<'a>(
    url: &'a CentralUrl,
    proxy: Option<&'a Proxy>,
    line: &Line,
) -> Result<Reached<'a>, ConnectError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let connector = TcpConnector { largest_segment: line.largest() };
    let (socket, tried) = match proxy {
        Some(proxy) => {
            let socket = proxy.open(&url.authority(), &connector, deadline, CONNECT_TIMEOUT).await?;
            (socket, Vec::new())
        }
        None => {
            let addrs = resolve(url).await?;
            match timeout_at(deadline, race(&addrs, &connector)).await {
                Err(_) => return Err(ConnectError::TimedOut { url: url.clone(), limit: CONNECT_TIMEOUT }),
                Ok(Err(source)) => {
                    return Err(ConnectError::Connect { url: url.clone(), tried: addrs, source });
                }
                Ok(Ok((socket, _))) => (socket, addrs),
            }
        }
    };
    fail_fast(&socket, UNACKNOWLEDGED_MAX).map_err(|source| ConnectError::Connect {
        url: url.clone(),
        tried,
        source,
    })?;
    if let Err(error) = proto::driver::prepare_tunnel_socket(&socket) {
        tracing::debug!(%error, "The socket to central does not take its options");
    }
    Ok(Reached { url, proxy, socket, deadline })
}

impl Reached<'_> {
    /// TLS with central in it, whoever carries the bytes.
    pub(crate) async fn secure(
        self,
        tls: Arc<ClientConfig>,
        line: &Line,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let Self { url, proxy, socket, deadline } = self;
        // Checked when the URL was parsed; a failure here would still be an error, not a panic.
        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|e| ConnectError::Tls { url: url.clone(), source: io::Error::other(e) })?;
        match timeout_at(deadline, TlsConnector::from(tls).connect(name, socket)).await {
            Err(_) => {
                line.stood_still();
                Err(match proxy {
                    None => ConnectError::TimedOut { url: url.clone(), limit: CONNECT_TIMEOUT },
                    Some(proxy) => ConnectError::Proxy(ProxyError::Silent {
                        proxy: proxy.url.clone(),
                        target: url.authority(),
                        limit: CONNECT_TIMEOUT,
                    }),
                })
            }
            Ok(Err(source)) => Err(ConnectError::Tls { url: url.clone(), source: in_words(source) }),
            Ok(Ok(stream)) => Ok(stream),
        }
    }
}

/// Every address central's name has at this moment.
pub(crate) async fn resolve(url: &CentralUrl) -> Result<Vec<SocketAddr>, ConnectError> {
    addresses(url.host(), url.port())
        .await
        .map_err(|source| ConnectError::Resolve { host: url.host().to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_central_has_a_host_and_a_port() {
        let parse = |text: &str| text.parse::<CentralUrl>().map(|url| url.authority());
        assert_eq!(parse("https://Central.example").unwrap(), "central.example:443");
        assert_eq!(parse("https://central.example:8443/").unwrap(), "central.example:8443");
        assert_eq!(parse("https://[2001:db8::1]:8443").unwrap(), "[2001:db8::1]:8443");
        assert_eq!(parse("https://127.0.0.1:1").unwrap(), "127.0.0.1:1");
    }

    #[test]
    fn anything_else_is_refused_with_the_right_spelling() {
        for text in [
            "central.example",
            "http://central.example",
            "https://",
            "https://central.example/path",
            "https://central.example?x",
            "https://user:pass@central.example",
            "https://central.example:0",
            "https://central.example:65536",
            "https://central.example:+1",
            "https://central.example:",
            "https://[::1",
            "https://[::1]x",
            "https://cen tral",
        ] {
            let error = text.parse::<CentralUrl>().unwrap_err().to_string();
            assert!(error.contains("https://HOST:PORT"), "{error}");
            assert!(!error.contains("user:pass"), "{error}");
        }
    }
}
