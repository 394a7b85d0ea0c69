//! Sends alerts as mail, the second channel: when the web is what has failed, a mail may still arrive.
//!
//! The protocol is spoken here, in a page (RFC 5321, 3207, 4954): what a mail library would do besides, its own
//! connecting and its replies without bound, is what must not happen. TLS is the rule; a relay on an address that the
//! operator allowed may do without (`?tls=none`).

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Url;
use rustls::pki_types::ServerName;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{
    address::{AddressError, AddressRules, read_url},
    alert::{Alert, Kind},
    alerts::is_user_and_password,
    config::EndpointDocument,
    endpoint::Endpoint,
    outbox::{DeliveryId, Outcome},
    request::Letter,
    secret::Secret,
    tls::{self, TlsError},
    webhook::Called,
};

mod session;
#[cfg(test)]
mod tests;

use session::{Session, SessionError};

/// Where mail goes, checked.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    pub(crate) server: Url,
    protection: Protection,
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    credentials: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    /// TLS from the first byte: `smtps://`.
    Implicit,
    /// The server must offer it, and nothing is said before: `smtp://`.
    StartTls,
    /// `smtp://…?tls=none`
    None,
}

/// Why a mail was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("{server} could not be reached: {why}")]
    Connect { server: SocketAddr, why: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("TLS with the mail server failed: {0}")]
    Handshake(std::io::Error),
    #[error(
        "the mail server offers no STARTTLS: use smtps://, or ?tls=none for a relay that the operator allowed"
    )]
    NoStartTls,
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the mail server was silent for too long")]
    Silent,
}

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// For the whole conversation: mail servers think longer than webhooks, and some are slow on purpose.
const TOTAL_LIMIT: Duration = Duration::from_secs(40);

const RECIPIENTS_MAX: usize = 16;

impl Mailbox {
    /// Reads an endpoint's mail settings; an error names the field.
    pub(crate) fn read(given: &EndpointDocument) -> Result<Self, (&'static str, String)> {
        let url = given.url.as_deref().unwrap_or_default();
        let server = read_url(url, &["smtp", "smtps"]).map_err(|error| ("url", error.to_string()))?;
        let protection = match (server.scheme(), server.query()) {
            ("smtps", None) => Protection::Implicit,
            ("smtp", None | Some("tls=required")) => Protection::StartTls,
            ("smtp", Some("tls=none")) => Protection::None,
            _ => return Err(("url", "behind the server may stand only ?tls=none, for smtp://".into())),
        };
        if !matches!(server.path(), "" | "/") {
            return Err(("url", "a mail server's address has no path".into()));
        }
        let Some(from) = given.from.clone().filter(|from| is_mail_address(from)) else {
            return Err(("from", "give the sender's address, as in postern@example.com".into()));
        };
        if given.to.is_empty() || given.to.len() > RECIPIENTS_MAX {
            return Err(("to", format!("give 1 to {RECIPIENTS_MAX} addresses")));
        }
        if let Some(odd) = given.to.iter().find(|to| !is_mail_address(to)) {
            let odd: String = odd.chars().take(80).collect();
            return Err(("to", format!("{odd:?} is no mail address, as night-shift@example.com is one")));
        }
        let credentials = given.smtp_credentials.clone();
        if let Some(secret) = &credentials {
            if !is_user_and_password(secret) {
                return Err(("smtp_credentials", "write user:password".into()));
            }
            if protection == Protection::None {
                return Err(("smtp_credentials", "a password is not sent without TLS".into()));
            }
        }
        if !given.secret.is_empty() || given.proxy.is_some() || given.proxy_credentials.is_some() {
            return Err(("url", "a mail is neither signed with secret nor sent through a proxy".into()));
        }
        Ok(Self { server, protection, from, to: given.to.clone(), credentials })
    }

    pub(crate) fn encrypts(&self) -> bool {
        self.protection != Protection::None
    }
}

/// A plain address: no names, comments or quotes, all of which have been used to smuggle lines.
fn is_mail_address(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let domain_fits = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    text.len() <= 254
        && text.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.is_empty()
                && local.chars().all(fits)
                && domain.chars().all(domain_fits)
        })
}

/// Sends `letter`. Dropped midway, nobody knows whether the server has taken it.
pub(crate) async fn send(
    endpoint: &Endpoint,
    mailbox: &Mailbox,
    letter: &Letter,
    heading: Heading<'_>,
    rules: &AddressRules,
) -> Result<Called, MailError> {
    let message = message(mailbox, letter, heading);
    let send = async {
        let addresses = rules.resolve(&mailbox.server, mailbox.encrypts()).await?;
        let (tcp, remote) = connect(&addresses).await?;
        let excerpt = converse(endpoint, mailbox, tcp, &message).await?;
        Ok(Called {
            remote: Some(remote),
            outcome: Outcome::Answered { status: 250, excerpt, retry_after_s: None },
        })
    };
    timeout(TOTAL_LIMIT, send).await.map_err(|_| MailError::Silent)?
}

async fn connect(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), MailError> {
    let mut failed = None;
    for &server in addresses {
        match timeout(CONNECT_LIMIT, TcpStream::connect(server)).await {
            Ok(Ok(tcp)) => return Ok((tcp, server)),
            Ok(Err(error)) => failed = Some(MailError::Connect { server, why: error.to_string() }),
            Err(_) => failed = Some(MailError::Connect { server, why: "no answer in time".into() }),
        }
    }
    Err(failed.unwrap_or(MailError::Silent))
}

async fn converse(
    endpoint: &Endpoint,
    mailbox: &Mailbox,
    tcp: TcpStream,
    message: &str,
) -> Result<String, MailError> {
    let us = mailbox.from.split('@').next_back().unwrap_or("localhost");
    match mailbox.protection {
        Protection::None => {
            let mut session = Session::begin(tcp).await?;
            session.hello(us).await?;
            submit(session, mailbox, message).await
        }
        Protection::Implicit => {
            let mut session = Session::begin(encrypt(endpoint, mailbox, tcp).await?).await?;
            session.hello(us).await?;
            submit(session, mailbox, message).await
        }
        Protection::StartTls => {
            let mut session = Session::begin(tcp).await?;
            session.hello(us).await?;
            if !session.offers("STARTTLS") {
                return Err(MailError::NoStartTls);
            }
            let tcp = session.start_tls().await?;
            let mut session = Session::resume(encrypt(endpoint, mailbox, tcp).await?);
            session.hello(us).await?;
            submit(session, mailbox, message).await
        }
    }
}

async fn encrypt(
    endpoint: &Endpoint,
    mailbox: &Mailbox,
    tcp: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, MailError> {
    let host = mailbox.server.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name =
        ServerName::try_from(host).map_err(|error| MailError::Handshake(std::io::Error::other(error)))?;
    let config = tls::client(&endpoint.document)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.map_err(MailError::Handshake)
}

async fn submit<S: AsyncRead + AsyncWrite + Unpin>(
    mut session: Session<S>,
    mailbox: &Mailbox,
    message: &str,
) -> Result<String, MailError> {
    if let Some((user, password)) =
        mailbox.credentials.as_ref().and_then(|secret| secret.reveal().split_once(':'))
    {
        session.log_in(user, password).await?;
    }
    Ok(session.submit(&mailbox.from, &mailbox.to, message).await?)
}

/// What a mail's header says beside its words.
pub(crate) struct Heading<'a> {
    pub(crate) id: &'a DeliveryId,
    pub(crate) alert: &'a Alert,
    pub(crate) endpoint: &'a str,
    pub(crate) at: OffsetDateTime,
}

/// The mail as it goes over the wire. Nothing in it can end a header line or the message: words are in base64.
fn message(mailbox: &Mailbox, letter: &Letter, heading: Heading<'_>) -> String {
    let domain = mailbox.from.split('@').next_back().unwrap_or("localhost");
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{name}: {value}\r\n");
    };
    line("From", &mailbox.from);
    line("To", &mailbox.to.join(",\r\n "));
    line("Subject", &encoded_words(&letter.subject));
    line("Date", &heading.at.format(&Rfc2822).unwrap_or_default());
    line("Message-ID", &format!("<{}@{domain}>", heading.id));
    if heading.alert.kind == Kind::Up {
        // Mail programs show an outage as one conversation.
        let down = DeliveryId::of(&heading.alert.incident.id, Kind::Down, heading.endpoint);
        line("In-Reply-To", &format!("<{down}@{domain}>"));
        line("References", &format!("<{down}@{domain}>"));
    }
    line("Auto-Submitted", "auto-generated");
    line("MIME-Version", "1.0");
    line("Content-Type", "text/plain; charset=utf-8");
    line("Content-Transfer-Encoding", "base64");
    text.push_str("\r\n");
    let encoded = STANDARD.encode(&letter.text);
    // Base64 is ASCII: every byte is a character.
    for row in encoded.as_bytes().chunks(76) {
        text.push_str(&String::from_utf8_lossy(row));
        text.push_str("\r\n");
    }
    text
}

/// RFC 2047: pieces of at most 75 characters, each whole in itself.
fn encoded_words(subject: &str) -> String {
    if subject.len() <= 60
        && subject.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        && !subject.contains("=?")
    {
        return subject.to_owned();
    }
    let mut words = Vec::new();
    let mut rest = subject;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.floor_char_boundary(45));
        words.push(format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
        rest = after;
    }
    words.join("\r\n ")
}
