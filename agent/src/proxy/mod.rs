//! The way out of a network that lets nothing out but through an HTTP proxy: CONNECT, and then a pipe to central.
//!
//! ```text
//!   agent ── CONNECT central:443 ──► proxy ── looks the name up, dials ──► central
//!         ◄── 200 ──                   │
//!         ◄════════════ TLS of agent and central, end to end ════════════►
//! ```
//!
//! Only central is reached this way; peers and destinations are inside the network. The proxy is told central's name
//! and port, and the password where there is one; it hears nothing else. Nothing is sent behind the question before a
//! 2xx, and nothing is read beyond the answer's header: what follows belongs to TLS.

mod answer;
mod credentials;
mod url;

use std::{fmt, io, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use self::answer::{Answer, HEADER_BYTES_MAX};
pub use self::{
    answer::Unreadable,
    credentials::{Credentials, CredentialsError},
    url::{ProxyUrl, ProxyUrlError},
};
use crate::dialer::{
    dial::{TcpConnector, race},
    resolve::addresses,
};

/// A proxy and who this agent is to it. Holds no secret: the file is read anew for every connection, so that a
/// corrected password needs no restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub url: ProxyUrl,
    /// One line, `user:password`, for Basic; see [`Credentials`].
    pub credentials_file: Option<PathBuf>,
}

/// Why a proxy opened no way to central.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the name of the proxy, {host}, cannot be resolved; check central.proxy and this host's DNS")]
    Resolve { host: String, source: io::Error },
    #[error(
        "the proxy {proxy} could not be reached (tried {tried:?}); check central.proxy and the firewall between"
    )]
    Connect { proxy: ProxyUrl, tried: Vec<SocketAddr>, source: io::Error },
    #[error(
        "the proxy {proxy} could not be reached within {limit:?}; check central.proxy and the firewall between"
    )]
    NotReached { proxy: ProxyUrl, limit: Duration },
    #[error("the credentials for the proxy {proxy} cannot be used")]
    Credentials { proxy: ProxyUrl, source: CredentialsError },
    #[error(
        "the proxy {proxy} did not open the way to {target} within {limit:?}; ask whoever runs it whether it is stuck, \
         and whether it may reach {target}"
    )]
    TimedOut { proxy: ProxyUrl, target: String, limit: Duration },
    #[error(
        "the proxy {proxy} wants credentials ({code}; it offers {offers}): put user:password into a file of mode 0600 and \
         name it in central.proxy_credentials_file"
    )]
    CredentialsMissing { proxy: ProxyUrl, code: u16, offers: String },
    #[error(
        "the proxy {proxy} does not accept the credentials in {file} ({code}; it offers {offers}): correct the file, which is \
         read anew each time, or ask whoever runs the proxy to let this user through"
    )]
    CredentialsRefused { proxy: ProxyUrl, file: PathBuf, code: u16, offers: String },
    #[error(
        "the proxy {proxy} wants credentials ({code}) and offers {offers}, but an agent speaks Basic alone: have the proxy \
         let this host through without, or run a helper on this host that logs in for it, such as cntlm, and name that \
         in central.proxy"
    )]
    NotBasic { proxy: ProxyUrl, code: u16, offers: String },
    #[error(
        "the proxy {proxy} refuses a way to {target}: {status}; have CONNECT to that name and port allowed there (many \
         proxies allow port 443 alone)"
    )]
    Refused { proxy: ProxyUrl, target: String, status: String },
    #[error(
        "the proxy {proxy} cannot reach central at {target}: {status}; check the address, and from the proxy's host its \
         DNS and firewall"
    )]
    NoWay { proxy: ProxyUrl, target: String, status: String },
    #[error(
        "what answers at {proxy} is no HTTP proxy ({problem}; it began with {began:?}); check central.proxy, host and port"
    )]
    NotHttp { proxy: ProxyUrl, problem: Unreadable, began: String },
    #[error("the proxy {proxy} closed the connection instead of answering CONNECT {target}")]
    Closed { proxy: ProxyUrl, target: String },
    #[error("the connection to the proxy {proxy} broke before it answered CONNECT {target}")]
    Broke { proxy: ProxyUrl, target: String, source: io::Error },
    #[error(
        "the proxy {proxy} opened a way to {target}, but no TLS was answered there within {limit:?}; check central's \
         address, and whether the proxy lets TLS through that it cannot read"
    )]
    Silent { proxy: ProxyUrl, target: String, limit: Duration },
}

impl Proxy {
    /// A pipe to `target`, `HOST:PORT`: whatever is written to it arrives there. `limit` is only for messages: how long
    /// there was until `deadline`.
    ///
    /// Cancel-safe: dropping it closes whatever was opened.
    ///
    /// # Errors
    /// Says what the proxy did instead, and what to do; never what stands in the credentials' file.
    pub async fn open(
        &self,
        target: &str,
        connector: &TcpConnector,
        deadline: Instant,
        limit: Duration,
    ) -> Result<TcpStream, ProxyError> {
        let proxy = || self.url.clone();
        // First, as a file that cannot be used needs no connection.
        let question = self.question(target)?;
        let mut socket = timeout_at(deadline, self.connect(connector))
            .await
            .map_err(|_| ProxyError::NotReached { proxy: proxy(), limit })??;
        timeout_at(deadline, self.ask(&mut socket, target, question.as_bytes()))
            .await
            .map_err(|_| ProxyError::TimedOut { proxy: proxy(), target: target.to_owned(), limit })??;
        Ok(socket)
    }

    /// The lines of `agent.toml` that name it.
    pub fn in_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut lines = format!("[central]\nproxy = {}\n", quoted(&self.url.to_string()));
        if let Some(file) = &self.credentials_file {
            lines += &format!("proxy_credentials_file = {}\n", quoted(&file.to_string_lossy()));
        }
        lines
    }

    async fn connect(&self, connector: &TcpConnector) -> Result<TcpStream, ProxyError> {
        let url = &self.url;
        let tried = addresses(url.host(), url.port())
            .await
            .map_err(|source| ProxyError::Resolve { host: url.host().to_owned(), source })?;
        match race(&tried, connector).await {
            Ok((socket, _)) => Ok(socket),
            Err(source) => Err(ProxyError::Connect { proxy: url.clone(), tried, source }),
        }
    }

    /// The question with its password: for the proxy, and not to be shown.
    fn question(&self, target: &str) -> Result<String, ProxyError> {
        let authorization = match &self.credentials_file {
            None => String::new(),
            Some(path) => {
                let credentials = Credentials::read(path)
                    .map_err(|source| ProxyError::Credentials { proxy: self.url.clone(), source })?;
                format!("Proxy-Authorization: {}\r\n", credentials.basic())
            }
        };
        Ok(format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: postern-agent\r\n{authorization}\r\n"
        ))
    }

    async fn ask(&self, socket: &mut TcpStream, target: &str, question: &[u8]) -> Result<(), ProxyError> {
        let broke = |source| ProxyError::Broke { proxy: self.url.clone(), target: target.to_owned(), source };
        // Some refuse, and close, before they have read all: then what they said counts.
        let asked = socket.write_all(question).await;
        match hear(socket).await {
            Ok(answer) => self.judge(answer, target),
            Err(Unheard::Closed) => {
                Err(ProxyError::Closed { proxy: self.url.clone(), target: target.to_owned() })
            }
            Err(Unheard::Broke(error)) => Err(broke(asked.err().unwrap_or(error))),
            Err(Unheard::Unreadable { problem, began }) => {
                Err(ProxyError::NotHttp { proxy: self.url.clone(), problem, began })
            }
        }
    }

    fn judge(&self, answer: Answer, target: &str) -> Result<(), ProxyError> {
        let (proxy, target) = (self.url.clone(), target.to_owned());
        Err(match answer.code {
            200..=299 => return Ok(()),
            // To a wrong password tinyproxy says 401; nobody but the proxy has been asked yet.
            code @ (401 | 407) => {
                let offers = match answer.offers.as_slice() {
                    [] => "no way to log in".to_owned(),
                    schemes => schemes.join(", "),
                };
                let basic = answer.offers.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
                match &self.credentials_file {
                    // One that names nothing is asked with Basic all the same, and may have refused just that.
                    _ if !basic && !answer.offers.is_empty() => ProxyError::NotBasic { proxy, code, offers },
                    None => ProxyError::CredentialsMissing { proxy, code, offers },
                    Some(file) => ProxyError::CredentialsRefused { proxy, file: file.clone(), code, offers },
                }
            }
            // 500 is tinyproxy's word for it.
            500 | 502..=504 => ProxyError::NoWay { proxy, target, status: answer.status },
            _ => ProxyError::Refused { proxy, target, status: answer.status },
        })
    }
}

/// Why there is no answer.
enum Unheard {
    Closed,
    Broke(io::Error),
    Unreadable { problem: Unreadable, began: String },
}

/// Reads an answer's header, and not a byte more. Interim answers (1xx) are passed over.
async fn hear(socket: &mut TcpStream) -> Result<Answer, Unheard> {
    let mut heard = Vec::new();
    loop {
        // Only looked at, since what comes behind the header is for another reader.
        let mut ahead = [0; 2048];
        let room = ahead.len().min(HEADER_BYTES_MAX - heard.len());
        let count = socket.peek(&mut ahead[..room]).await.map_err(Unheard::Broke)?;
        if count == 0 {
            return Err(Unheard::Closed);
        }
        let before = heard.len();
        heard.extend_from_slice(&ahead[..count]);
        let read = answer::read(&heard);
        let ours = match &read {
            Ok(Some((_, end))) => end - before,
            Ok(None) | Err(_) => count,
        };
        socket.read_exact(&mut ahead[..ours]).await.map_err(Unheard::Broke)?;
        match read {
            Ok(Some((answer, _))) => return Ok(answer),
            Ok(None) if heard.len() < HEADER_BYTES_MAX => {}
            Ok(None) => return Err(unreadable(Unreadable::TooLong, &heard)),
            Err(problem) => return Err(unreadable(problem, &heard)),
        }
    }
}

fn unreadable(problem: Unreadable, heard: &[u8]) -> Unheard {
    Unheard::Unreadable { problem, began: answer::shown(heard, 32) }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.url, f)
    }
}

#[cfg(test)]
mod tests;
