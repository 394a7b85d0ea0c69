//! A conversation with a mail server: command, reply, command, reply. Every reply is bounded.

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One conversation, over TLS or not.
pub(super) struct Session<S> {
    stream: S,
    /// Read and not yet looked at.
    unread: Vec<u8>,
    /// What the server said it can do.
    abilities: Vec<String>,
}

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the connection to the mail server broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the mail server answered {what} with {code} {text}")]
    Refused { what: String, code: u16, text: String },
    #[error("the mail server's reply is no reply: {0}")]
    Odd(&'static str),
    #[error("the mail server offers none of the ways to log in that are known here: PLAIN, LOGIN")]
    NoLogin,
}

struct Reply {
    code: u16,
    lines: Vec<String>,
}

/// RFC 5321 allows 512 bytes a line; servers that list their abilities need some dozens.
const REPLY_MAX_BYTES: usize = 16 * 1024;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Waits for the server's greeting.
    pub(super) async fn begin(stream: S) -> Result<Self, SessionError> {
        let mut session = Self::resume(stream);
        session.reply().await?.expect("the connection", 220)?;
        Ok(session)
    }

    /// Goes on where STARTTLS stopped: no greeting comes.
    pub(super) fn resume(stream: S) -> Self {
        Self { stream, unread: Vec::new(), abilities: Vec::new() }
    }

    pub(super) async fn hello(&mut self, us: &str) -> Result<(), SessionError> {
        let reply = self.ask(&format!("EHLO {us}")).await?.expect("EHLO", 250)?;
        self.abilities = reply.lines.into_iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        Ok(())
    }

    pub(super) fn offers(&self, ability: &str) -> bool {
        self.abilities.iter().any(|line| line.split(' ').next() == Some(ability))
    }

    /// The bare connection, on which TLS begins now.
    pub(super) async fn start_tls(mut self) -> Result<S, SessionError> {
        self.ask("STARTTLS").await?.expect("STARTTLS", 220)?;
        // What somebody slipped in before the encryption would be taken for the server's word behind it.
        if self.unread.is_empty() {
            Ok(self.stream)
        } else {
            Err(SessionError::Odd("more came with the word to start TLS"))
        }
    }

    pub(super) async fn log_in(&mut self, user: &str, password: &str) -> Result<(), SessionError> {
        let ways =
            self.abilities.iter().find_map(|line| line.strip_prefix("AUTH ")).unwrap_or_default().to_owned();
        let mut ways = ways.split(' ');
        if ways.clone().any(|way| way == "PLAIN") {
            let both = STANDARD.encode(format!("\0{user}\0{password}"));
            self.ask(&format!("AUTH PLAIN {both}")).await?.expect("the login", 235)?;
        } else if ways.any(|way| way == "LOGIN") {
            self.ask("AUTH LOGIN").await?.expect("AUTH LOGIN", 334)?;
            self.ask(&STANDARD.encode(user)).await?.expect("the user's name", 334)?;
            self.ask(&STANDARD.encode(password)).await?.expect("the login", 235)?;
        } else {
            return Err(SessionError::NoLogin);
        }
        Ok(())
    }

    /// Hands `message` over; it has CRLF line ends and no line that begins with a dot. Some recipients may be refused
    /// as long as one is not: the others should not wait for somebody's old address. What the server said comes back.
    pub(super) async fn submit(
        &mut self,
        from: &str,
        to: &[String],
        message: &str,
    ) -> Result<String, SessionError> {
        self.ask(&format!("MAIL FROM:<{from}>")).await?.expect("the sender", 250)?;
        let mut refused = Vec::new();
        for recipient in to {
            let reply = self.ask(&format!("RCPT TO:<{recipient}>")).await?;
            if let Err(error) = reply.expect_class(&format!("the recipient {recipient}"), 2) {
                refused.push(error);
            }
        }
        if refused.len() == to.len() {
            return Err(refused.swap_remove(0));
        }
        self.ask("DATA").await?.expect("DATA", 354)?;
        let reply = self.ask(&format!("{message}.")).await?.expect("the mail", 250)?;
        // It has been taken; how the server says goodbye is its own affair.
        let _ = self.stream.write_all(b"QUIT\r\n").await;
        let refused = refused.iter().map(|error| format!("; but {error}"));
        Ok(reply.lines.join(" ") + &refused.collect::<String>())
    }

    async fn ask(&mut self, command: &str) -> Result<Reply, SessionError> {
        self.stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<Reply, SessionError> {
        let mut lines = Vec::new();
        let mut bytes_read = 0;
        loop {
            let line = self.line().await?;
            bytes_read += line.len();
            if bytes_read > REPLY_MAX_BYTES {
                return Err(SessionError::Odd("it does not end"));
            }
            let code = line.get(..3).and_then(|digits| digits.parse().ok());
            let code = code.filter(|code| (200..600).contains(code));
            let Some(code) = code else { return Err(SessionError::Odd("it begins with no code")) };
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    async fn line(&mut self) -> Result<String, SessionError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.unread.len() > REPLY_MAX_BYTES {
                return Err(SessionError::Odd("it does not end"));
            }
            let mut chunk = [0; 1024];
            match self.stream.read(&mut chunk).await? {
                0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                read => self.unread.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

impl Reply {
    fn expect(self, what: &str, code: u16) -> Result<Self, SessionError> {
        if self.code == code { Ok(self) } else { Err(self.refusal(what)) }
    }

    fn expect_class(self, what: &str, class: u16) -> Result<Self, SessionError> {
        if self.code / 100 == class { Ok(self) } else { Err(self.refusal(what)) }
    }

    fn refusal(self, what: &str) -> SessionError {
        let text = self.lines.join(" ").chars().take(300).collect();
        SessionError::Refused { what: what.to_owned(), code: self.code, text }
    }
}
