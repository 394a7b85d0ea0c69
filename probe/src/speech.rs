//! What each type of destination says first, or answers to a word that asks for nothing.
//!
//! Everything read is bounded, and only what a person can use is repeated.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Pipe, Target};

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: usize = 1024;
/// The most lines of one answer.
const LINES_MAX: usize = 64;
/// How much of what it said is repeated, in characters.
const QUOTED_MAX: usize = 120;

/// PostgreSQL's SSLRequest: its length and a code that no version has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// LDAP: search the root entry for the names of nothing; allowed before any bind.
const LDAP_ROOT: [u8; 44] = [
    0x30, 0x2a, 0x02, 0x01, 0x01, 0x63, 0x25, 0x04, 0x00, 0x0a, 0x01, 0x00, 0x0a, 0x01, 0x00, 0x02, 0x01,
    0x01, 0x02, 0x01, 0x05, 0x01, 0x01, 0x00, 0x87, 0x0b, b'o', b'b', b'j', b'e', b'c', b't', b'C', b'l',
    b'a', b's', b's', 0x30, 0x05, 0x04, 0x03, b'1', b'.', b'1',
];
/// TDS: a prelogin message that says version 0 and "no encryption needed".
const TDS_PRELOGIN: [u8; 26] = [
    0x12, 0x01, 0x00, 0x1a, 0x00, 0x00, 0x00, 0x00, // head: prelogin, the last packet, 26 bytes
    0x00, 0x00, 0x0b, 0x00, 0x06, // the version is at 11 and has 6 bytes
    0x01, 0x00, 0x11, 0x00, 0x01, // the encryption is at 17 and has one
    0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];
/// What Oracle's own `tnsping` asks.
const TNS_PING: &[u8] = b"(CONNECT_DATA=(COMMAND=ping))";

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Plain,
    /// With the first byte.
    Tls,
    /// After a plain word, if the destination offers it.
    OnRequest,
}

/// How one type is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speech {
    pub(crate) start: Start,
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// Whatever it is, it is not known who speaks first.
    Unknown,
    Http,
    Smtp,
    Imap,
    Postgresql,
    Mysql,
    Ldap,
    Ssh,
    Tds,
    Tns,
}

/// A destination that speaks plainly first, and what it said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) greeting: String,
    pub(crate) tls: bool,
}

impl Speech {
    /// How this type is spoken; `None` if nothing is known of it.
    pub(crate) fn of(kind: &str) -> Option<Self> {
        use Protocol::*;
        use Start::*;
        let (start, protocol) = match kind {
            "tls" => (Tls, Unknown),
            "http" => (Plain, Http),
            "https" => (Tls, Http),
            "postgresql" => (OnRequest, Postgresql),
            "mysql" => (Plain, Mysql),
            "sqlserver" => (Plain, Tds),
            "oracle" => (Plain, Tns),
            "smtp" | "submission" => (OnRequest, Smtp),
            "smtps" => (Tls, Smtp),
            "imap" => (Plain, Imap),
            "imaps" => (Tls, Imap),
            "ldap" => (Plain, Ldap),
            "ldaps" => (Tls, Ldap),
            "ssh" | "sftp" => (Plain, Ssh),
            _ => return None,
        };
        Some(Self { start, protocol })
    }

    /// The first words; `None` where there are none to be expected.
    ///
    /// # Errors
    /// What it said instead.
    pub(crate) async fn greet(
        self,
        pipe: &mut impl Pipe,
        target: Target<'_>,
    ) -> Result<Option<String>, String> {
        match self.protocol {
            Protocol::Unknown => return Ok(None),
            Protocol::Http => http(pipe, target).await,
            Protocol::Smtp => smtp(pipe).await.map(|offered| offered.greeting),
            Protocol::Imap => line_that(pipe, "IMAP", |line| line.starts_with("* OK")).await,
            Protocol::Ssh => ssh(pipe).await,
            Protocol::Postgresql => postgresql(pipe).await.map(|offered| offered.greeting),
            Protocol::Mysql => mysql(pipe).await,
            Protocol::Ldap => ldap(pipe).await,
            Protocol::Tds => tds(pipe).await,
            Protocol::Tns => tns(pipe).await,
        }
        .map(Some)
    }

    /// The same for a [`Start::OnRequest`], up to where TLS would begin.
    ///
    /// # Errors
    /// What it said instead.
    pub(crate) async fn ask_for_tls(self, pipe: &mut impl Pipe) -> Result<Offered, String> {
        match self.protocol {
            Protocol::Postgresql => postgresql(pipe).await,
            _ => {
                let offered = smtp(pipe).await?;
                if offered.tls {
                    say(pipe, b"STARTTLS\r\n").await?;
                    reply(pipe, "220").await?;
                }
                Ok(offered)
            }
        }
    }
}

async fn http(pipe: &mut impl Pipe, target: Target<'_>) -> Result<String, String> {
    let path = if target.path.is_empty() { "/" } else { target.path };
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.to_owned() };
    let port = target.port;
    let request = format!(
        "HEAD {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: postern-probe\r\nConnection: close\r\n\r\n"
    );
    say(pipe, request.as_bytes()).await?;
    let line = line(pipe).await?;
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse::<u16>().ok())
        .ok_or_else(|| format!("it answered {}, which is no HTTP", quoted(&line)))?;
    match status {
        // Something in front of the service says that the service is not there.
        502..=504 => Err(format!("it answered {}: what is behind it does not work", quoted(&line))),
        _ => Ok(format!("answered {}", quoted(&line))),
    }
}

async fn smtp(pipe: &mut impl Pipe) -> Result<Offered, String> {
    let banner = reply(pipe, "220").await?;
    say(pipe, b"EHLO postern.invalid\r\n").await?;
    let abilities = reply(pipe, "250").await?;
    let tls = abilities
        .iter()
        .any(|line| line.get(4..).is_some_and(|word| word.trim().eq_ignore_ascii_case("STARTTLS")));
    let banner = banner.first().map(String::as_str).unwrap_or_default();
    let starttls = if tls { "offers STARTTLS" } else { "offers no STARTTLS" };
    Ok(Offered { greeting: format!("{}, {starttls}", quoted(banner)), tls })
}

/// An SMTP answer of one or more lines, all with this code.
async fn reply(pipe: &mut impl Pipe, code: &str) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    while lines.len() < LINES_MAX {
        let line = line(pipe).await?;
        if !line.starts_with(code) {
            return Err(format!("it said {} instead of {code}", quoted(&line)));
        }
        let last = line.as_bytes().get(3) != Some(&b'-');
        lines.push(line);
        if last {
            return Ok(lines);
        }
    }
    Err(format!("its answer has more than {LINES_MAX} lines"))
}

async fn ssh(pipe: &mut impl Pipe) -> Result<String, String> {
    // Other lines may stand before the version.
    for _ in 0..LINES_MAX {
        let line = line(pipe).await?;
        if line.starts_with("SSH-") {
            return Ok(quoted(&line));
        }
    }
    Err("it did not name its SSH version".to_owned())
}

async fn line_that(pipe: &mut impl Pipe, what: &str, is_it: impl Fn(&str) -> bool) -> Result<String, String> {
    let line = line(pipe).await?;
    if is_it(&line) {
        Ok(quoted(&line))
    } else {
        Err(format!("it said {}, which is no {what}", quoted(&line)))
    }
}

async fn postgresql(pipe: &mut impl Pipe) -> Result<Offered, String> {
    say(pipe, &SSL_REQUEST).await?;
    let greeting = |tls: &str| format!("PostgreSQL, {tls} TLS");
    match exactly::<1>(pipe).await? {
        [b'S'] => Ok(Offered { greeting: greeting("offers"), tls: true }),
        [b'N'] => Ok(Offered { greeting: greeting("without"), tls: false }),
        [other] => Err(format!("it answered byte {other:#04x} to PostgreSQL's SSLRequest")),
    }
}

async fn mysql(pipe: &mut impl Pipe) -> Result<String, String> {
    let [a, b, c, _, version] = exactly::<5>(pipe).await?;
    let len = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    if !(2..=LINE_BYTES_MAX).contains(&len) {
        return Err("its first packet is none of MySQL's".to_owned());
    }
    let mut rest = vec![0; len - 1];
    read(pipe, &mut rest).await?;
    match version {
        0xff => Err(format!(
            "it refuses this host: {}",
            quoted(&String::from_utf8_lossy(rest.get(2..).unwrap_or(&[])))
        )),
        10 => {
            let name = rest.split(|byte| *byte == 0).next().unwrap_or(&[]);
            Ok(format!("MySQL {}", quoted(&String::from_utf8_lossy(name))))
        }
        other => Err(format!("it speaks protocol {other}, MySQL speaks 10")),
    }
}

async fn ldap(pipe: &mut impl Pipe) -> Result<String, String> {
    say(pipe, &LDAP_ROOT).await?;
    match exactly::<1>(pipe).await? {
        [0x30] => Ok("LDAP answered a search of its root".to_owned()),
        [other] => Err(format!("it answered byte {other:#04x} to an LDAP search")),
    }
}

async fn tds(pipe: &mut impl Pipe) -> Result<String, String> {
    say(pipe, &TDS_PRELOGIN).await?;
    match exactly::<1>(pipe).await? {
        [0x04] => Ok("SQL Server answered the prelogin".to_owned()),
        [other] => Err(format!("it answered byte {other:#04x} to SQL Server's prelogin")),
    }
}

async fn tns(pipe: &mut impl Pipe) -> Result<String, String> {
    // A connect packet: an 8-byte head, 50 bytes that describe the caller, the question.
    let len = 58 + TNS_PING.len();
    let mut packet = vec![0; 58];
    packet[0..2].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    packet[4] = 1; // connect
    packet[8..10].copy_from_slice(&314_u16.to_be_bytes()); // version, and the oldest that will do
    packet[10..12].copy_from_slice(&300_u16.to_be_bytes());
    packet[14..16].copy_from_slice(&8192_u16.to_be_bytes()); // session and transport data units
    packet[16..18].copy_from_slice(&32767_u16.to_be_bytes());
    packet[22..24].copy_from_slice(&1_u16.to_be_bytes()); // a one in our byte order
    packet[24..26].copy_from_slice(&u16::try_from(TNS_PING.len()).unwrap_or(u16::MAX).to_be_bytes());
    packet[26..28].copy_from_slice(&58_u16.to_be_bytes()); // where the question begins
    packet.extend_from_slice(TNS_PING);
    say(pipe, &packet).await?;
    let head = exactly::<8>(pipe).await?;
    match head[4] {
        // Accept, refuse, redirect, resend: a listener, whatever it thinks of the question.
        2 | 4 | 5 | 11 => Ok("Oracle's listener answered a ping".to_owned()),
        other => Err(format!("it answered packet type {other} to Oracle's ping")),
    }
}

async fn say(pipe: &mut impl Pipe, bytes: &[u8]) -> Result<(), String> {
    let said = async {
        pipe.write_all(bytes).await?;
        pipe.flush().await
    };
    said.await.map_err(|error| format!("the connection broke: {error}"))
}

async fn exactly<const N: usize>(pipe: &mut impl Pipe) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    read(pipe, &mut bytes).await?;
    Ok(bytes)
}

async fn read(pipe: &mut impl Pipe, bytes: &mut [u8]) -> Result<(), String> {
    match pipe.read_exact(bytes).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err("it closed the connection before it had said enough".to_owned())
        }
        Err(error) => Err(format!("the connection broke: {error}")),
    }
}

/// One line without its end. Byte by byte, so that nothing behind it is taken from a handshake to come.
async fn line(pipe: &mut impl Pipe) -> Result<String, String> {
    let mut bytes = Vec::new();
    while bytes.len() < LINE_BYTES_MAX {
        let [byte] = exactly::<1>(pipe).await?;
        if byte == b'\n' {
            while bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        bytes.push(byte);
    }
    Err(format!(
        "its first line has more than {LINE_BYTES_MAX} bytes: {}",
        quoted(&String::from_utf8_lossy(&bytes))
    ))
}

fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(QUOTED_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", shown.trim())
}
