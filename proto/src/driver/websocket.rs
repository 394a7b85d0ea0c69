//! A websocket over a byte stream, past its opening handshake: [`crate::websocket`] with a socket.
//!
//! What is read stays in one buffer until the mux or a joined socket has taken it; what is written is built in one
//! buffer, header and mask in place.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::lane::MESSAGE_MAX_BYTES;
use crate::websocket::{Decoder, Message, Outgoing, WebSocketError};

pub use crate::websocket::Role;

/// Room for one TLS record: rustls hands out no more at once.
const READ_BYTES: usize = 16 * 1024;

/// A tunnel's websocket, before its hello or after.
#[derive(Debug)]
pub struct WebSocket<S> {
    io: S,
    input: BytesMut,
    decoder: Decoder,
    out: Outgoing,
    /// The last ping that was not answered yet; it stands for those before it.
    owed: Option<Bytes>,
}

/// Why a websocket carries no more messages.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketEnd {
    /// The line.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer.
    #[error(transparent)]
    Peer(#[from] WebSocketError),
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The opening handshake is done, and nothing behind it was read. Messages have at most about 80 KiB.
    pub fn new(io: S, role: Role) -> WebSocket<S> {
        WebSocket {
            io,
            input: BytesMut::new(),
            decoder: Decoder::new(role, MESSAGE_MAX_BYTES),
            out: Outgoing::new(role),
            owed: None,
        }
    }

    /// The next message. A line that ends without a close is an error.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, WebSocketEnd>> {
        loop {
            if let Some(message) = self.decoder.decode(&mut self.input)? {
                return Poll::Ready(Ok(message));
            }
            let wanted = self.decoder.needed().saturating_sub(self.input.len()).max(READ_BYTES);
            self.input.reserve(wanted);
            if ready!(pin!(self.io.read_buf(&mut self.input)).poll(cx))? == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
        }
    }

    /// What goes out next.
    pub(super) fn out(&mut self) -> &mut Outgoing {
        &mut self.out
    }

    /// Writes all that waits, and sees it through to the socket.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.out.chunk().is_empty() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.out.chunk()))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.out.written(written);
            }
            match self.owed.take() {
                Some(payload) => self.out.pong(&payload, rand::random()),
                None => return Pin::new(&mut self.io).poll_flush(cx),
            }
        }
    }

    /// Gives back the memory that a quiet line does not need.
    pub(super) fn rest(&mut self) {
        self.out.rest();
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Sends one text message. Not cancel-safe: a message that was begun must be ended.
    ///
    /// # Errors
    /// The line's.
    pub async fn send_text(&mut self, text: &str) -> io::Result<()> {
        self.out.text(text, rand::random());
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// The next message that is no ping and no pong; pings are answered. Cancel-safe.
    ///
    /// # Errors
    /// See [`WebSocketEnd`].
    pub async fn next(&mut self) -> Result<Message, WebSocketEnd> {
        poll_fn(|cx| {
            loop {
                match ready!(self.poll_message(cx))? {
                    Message::Ping(payload) => {
                        self.pong(payload);
                        // Whatever is not through now goes with what is said next.
                        let _ = self.poll_send(cx)?;
                    }
                    Message::Pong => {}
                    message => return Poll::Ready(Ok(message)),
                }
            }
        })
        .await
    }

    /// Notes a ping; [`WebSocket::poll_send`] answers it.
    pub(super) fn pong(&mut self, payload: Bytes) {
        self.owed = Some(payload);
    }

    /// Sends a close frame (or the answer to one) and waits until the peer has hung up: dropping a socket with unread
    /// bytes in it would destroy the frame on its way.
    ///
    /// # Errors
    /// The line's; the peer may then not know why.
    pub async fn close(mut self, close: Option<(u16, &str)>) -> io::Result<()> {
        // What was begun must be ended before a close can be said.
        self.out.close(close, rand::random());
        self.owed = None;
        poll_fn(|cx| self.poll_send(cx)).await?;
        loop {
            // Whatever else comes is of no interest any more.
            self.input.clear();
            self.input.reserve(READ_BYTES);
            if self.io.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
        }
    }
}
