//! How a client of the front door says where it wants to go, and what it hears: SOCKS5 (RFC 1928) or HTTP CONNECT
//! (RFC 9110). Bounded, and never a byte more is read than belongs to the wish: the next one is the destination's.

use std::{fmt, io, net::Ipv6Addr, time::Duration};

use proto::driver::{Reset, ResetCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The longest head of a CONNECT, bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// How long an answer may take to leave, and what a client still sends to be thrown away.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Socks5,
    Connect,
}

/// Where it wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// What it hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Granted,
    NotPermitted,
    NoTunnel,
    Unreachable,
    Failed,
}

/// Why a client was not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum Odd {
    #[error("it speaks neither SOCKS5 nor HTTP CONNECT")]
    Stranger,
    #[error("it wants something else than a connection")]
    OtherCommand,
    #[error("it does not come without signing in")]
    NoMethod,
    #[error("where it wants to go cannot be read")]
    Unreadable,
    #[error("it left")]
    Left(#[from] io::Error),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Hears the wish. Where it is none, the client was told so, as far as its dialect has words.
pub(super) async fn ask(socket: &mut TcpStream) -> Result<(Dialect, Wanted), Odd> {
    match socket.read_u8().await? {
        5 => Ok((Dialect::Socks5, socks5(socket).await?)),
        first @ b'A'..=b'Z' => Ok((Dialect::Connect, connect(socket, first).await?)),
        _ => Err(Odd::Stranger),
    }
}

/// Behind the version: methods, choice, request.
async fn socks5(socket: &mut TcpStream) -> Result<Wanted, Odd> {
    let mut methods = vec![0; usize::from(socket.read_u8().await?)];
    socket.read_exact(&mut methods).await?;
    // Nobody signs in here; a client that insists on it is none for this door.
    if !methods.contains(&0) {
        socket.write_all(&[5, 0xff]).await?;
        return Err(Odd::NoMethod);
    }
    socket.write_all(&[5, 0]).await?;
    let mut head = [0; 4];
    socket.read_exact(&mut head).await?;
    let [5, command, _, kind] = head else { return Err(Odd::Unreadable) };
    let host = match kind {
        1 => {
            let mut address = [0; 4];
            socket.read_exact(&mut address).await?;
            Some(std::net::Ipv4Addr::from(address).to_string())
        }
        3 => {
            let mut name = vec![0; usize::from(socket.read_u8().await?)];
            socket.read_exact(&mut name).await?;
            String::from_utf8(name).ok()
        }
        4 => {
            let mut address = [0; 16];
            socket.read_exact(&mut address).await?;
            Some(Ipv6Addr::from(address).to_string())
        }
        _ => {
            socket.write_all(&socks5_answer(8)).await?;
            return Err(Odd::Unreadable);
        }
    };
    let port = socket.read_u16().await?;
    if command != 1 {
        socket.write_all(&socks5_answer(7)).await?;
        return Err(Odd::OtherCommand);
    }
    match host.filter(|host| is_host(host)) {
        Some(host) => Ok(Wanted { host, port }),
        None => {
            socket.write_all(&socks5_answer(1)).await?;
            Err(Odd::Unreadable)
        }
    }
}

/// The whole head, of which only its first line counts.
async fn connect(socket: &mut TcpStream, first: u8) -> Result<Wanted, Odd> {
    let mut head = vec![first];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            say(socket, 431, "the request's head is too long").await;
            return Err(Odd::Unreadable);
        }
        // Byte by byte: what follows the head is not ours to read.
        head.push(socket.read_u8().await?);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if method != Some("CONNECT") || !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        say(socket, 405, "this door takes CONNECT HOST:PORT, and SOCKS5").await;
        return Err(Odd::OtherCommand);
    }
    match target.and_then(authority) {
        Some(wanted) => Ok(wanted),
        None => {
            say(socket, 400, "CONNECT needs HOST:PORT").await;
            Err(Odd::Unreadable)
        }
    }
}

/// `HOST:PORT`, with brackets around an IPv6 address.
fn authority(text: &str) -> Option<Wanted> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        // Written as central writes it.
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string(),
        None => host.to_owned(),
    };
    is_host(&host).then_some(Wanted { host, port: port.parse().ok()? })
}

/// Nothing that would not fit into a log's line.
fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Answer {
    /// The agent's no, in the words of proxies.
    pub(super) fn of_reset(reset: &Reset) -> Self {
        match reset.code {
            ResetCode::NOT_ALLOWED | ResetCode::UNKNOWN_DESTINATION => Self::NotPermitted,
            ResetCode::UNREACHABLE | ResetCode::TIMED_OUT => Self::Unreachable,
            ResetCode::TUNNEL_LOST | ResetCode::GOING_AWAY => Self::NoTunnel,
            _ => Self::Failed,
        }
    }

    fn socks5(self) -> u8 {
        match self {
            Self::Granted => 0,
            Self::Failed => 1,
            Self::NotPermitted => 2,
            Self::NoTunnel => 3,
            Self::Unreachable => 4,
        }
    }

    fn status(self) -> u16 {
        match self {
            Self::Granted => 200,
            Self::NotPermitted => 403,
            Self::NoTunnel => 503,
            Self::Unreachable => 504,
            Self::Failed => 502,
        }
    }
}

impl Dialect {
    /// Answers; SOCKS has no words for `why`. `false`: the client is gone.
    pub(super) async fn answer(self, socket: &mut TcpStream, answer: Answer, why: &str) -> bool {
        match self {
            Self::Socks5 => {
                let said = socks5_answer(answer.socks5());
                matches!(timeout(ANSWER_WITHIN, socket.write_all(&said)).await, Ok(Ok(())))
            }
            Self::Connect => say(socket, answer.status(), why).await,
        }
    }
}

/// An answer without an address: which one central dials from is no client's business.
fn socks5_answer(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// An HTTP answer, a refusal with its reason as text. `false`: the client is gone.
async fn say(socket: &mut TcpStream, status: u16, why: &str) -> bool {
    let phrase = match status {
        200 => "Connection established",
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Gateway Timeout",
    };
    let text = if status == 200 {
        format!("HTTP/1.1 200 {phrase}\r\n\r\n")
    } else {
        let allow = if status == 405 { "Allow: CONNECT\r\n" } else { "" };
        let body = format!("{why}\n");
        format!(
            "HTTP/1.1 {status} {phrase}\r\n{allow}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        )
    };
    matches!(timeout(ANSWER_WITHIN, socket.write_all(text.as_bytes())).await, Ok(Ok(())))
}

/// Ends a refused client so that it can still read why: a reset would take the answer with it.
pub(super) async fn end(mut socket: TcpStream) {
    // Fails only on a socket that is gone already.
    let _ = socket2::SockRef::from(&socket).set_linger(None);
    let _ = socket.shutdown().await;
    let mut rest = [0; 1024];
    let read_out = async { while matches!(socket.read(&mut rest).await, Ok(1..)) {} };
    let _ = timeout(ANSWER_WITHIN, read_out).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_a_port() {
        let read = |text| authority(text).map(|wanted| (wanted.host, wanted.port));
        assert_eq!(read("db.example:5432"), Some(("db.example".to_owned(), 5432)));
        assert_eq!(read("[FE80::0:1]:80"), Some(("fe80::1".to_owned(), 80)));
        for odd in ["db.example", "db:x", ":80", "[::1:80", "a b:80", "db:65536", "d\u{f6}:80"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
