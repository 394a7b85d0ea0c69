//! Joins a TCP socket and a stream: bytes both ways, half-close as half-close, a break as a break.
//!
//! A direction that ends properly shuts down the other side's sending half and lets the opposite direction go on.
//! Anything else resets both: the peer of a broken stream must never take what it got for the whole (rule R).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::stream::TunnelStream;
use crate::frame::PAYLOAD_MAX_BYTES;
use crate::mux::{Reset, ResetCode, StreamError};

/// How a relay went.
#[derive(Debug)]
pub struct RelayEnd {
    /// Bytes from the socket into the stream.
    pub sent_bytes: u64,
    /// Bytes from the stream into the socket.
    pub received_bytes: u64,
    pub ended: RelayEnded,
}

/// Who ended it.
#[derive(Debug)]
pub enum RelayEnded {
    /// Both directions came to their proper end.
    Finished,
    /// The socket broke; the stream was reset.
    Socket(io::Error),
    /// The stream broke; the socket was reset.
    Stream(Reset),
}

/// What one turn may move before others get theirs.
const TURN_BYTES: usize = 256 * 1024;

/// Relays until both directions have ended or one broke. Dropping it breaks both.
///
/// On the agent nothing is written to the socket while the tunnel is silent; see [`TunnelStream::may_write`].
pub fn relay(tcp: TcpStream, stream: TunnelStream) -> impl Future<Output = RelayEnd> + Send {
    // Made before the first poll: a relay that is dropped unpolled must look broken, too.
    let socket = Socket { tcp, finished: false };
    both_ways(socket, stream)
}

async fn both_ways(mut socket: Socket, stream: TunnelStream) -> RelayEnd {
    let (mut sent_bytes, mut received_bytes) = (0, 0);
    let result = {
        let (read, write) = socket.tcp.split();
        let handed_over = AtomicBool::new(false);
        let up = upload(read, &stream, &handed_over, &mut sent_bytes);
        let down = async {
            download(write, &stream, &mut received_bytes).await?;
            handed_over.store(true, Ordering::Relaxed);
            // The upload may have waited for this, and looks again.
            tokio::task::yield_now().await;
            Ok(())
        };
        tokio::try_join!(up, down)
    };
    let ended = match result {
        Ok(((), ())) => {
            socket.finished = true;
            RelayEnded::Finished
        }
        Err(Break::Socket(error)) => {
            stream.reset(ResetCode::CONNECTION_RESET, &error.to_string());
            RelayEnded::Socket(error)
        }
        Err(Break::Stream(reset)) => RelayEnded::Stream(reset),
    };
    RelayEnd { sent_bytes, received_bytes, ended }
}

/// A socket that is reset when dropped, unless it came to its proper end: a cancelled relay looks broken, too.
struct Socket {
    tcp: TcpStream,
    finished: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.finished {
            // Fails only on a socket that is gone already.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

enum Break {
    Socket(io::Error),
    Stream(Reset),
}

impl From<io::Error> for Break {
    fn from(error: io::Error) -> Break {
        Break::Socket(error)
    }
}

impl From<StreamError> for Break {
    fn from(error: StreamError) -> Break {
        match error {
            StreamError::Reset(reset) => Break::Stream(reset),
            // Only this relay uses the stream, and it neither writes after finishing nor lets go.
            StreamError::Finished | StreamError::Unknown(_) => {
                Break::Stream(Reset::new(ResetCode::INTERNAL, &error.to_string()))
            }
        }
    }
}

/// Socket to stream.
async fn upload(
    mut read: ReadHalf<'_>,
    stream: &TunnelStream,
    handed_over: &AtomicBool,
    sent_bytes: &mut u64,
) -> Result<(), Break> {
    let mut turn = Turn::default();
    loop {
        let read = poll_fn(|cx| {
            let room = ready!(poll_room(cx, stream, handed_over))?;
            poll_read(cx, &mut read, room.min(PAYLOAD_MAX_BYTES)).map_err(Break::Socket)
        })
        .await?;
        if read.is_empty() {
            return Ok(stream.finish()?);
        }
        let len = read.len();
        let mut bytes = read.freeze();
        // There was room a moment ago, but all streams share one bound.
        while !bytes.is_empty() {
            poll_fn(|cx| poll_room(cx, stream, handed_over)).await?;
            stream.try_write_bytes(&mut bytes)?;
        }
        *sent_bytes += len as u64;
        turn.moved(len).await;
    }
}

/// Room in the stream. When it breaks, the other direction still hands over what had arrived and then ends both;
/// where that has come to its end already, nobody else would.
fn poll_room(
    cx: &mut Context<'_>,
    stream: &TunnelStream,
    handed_over: &AtomicBool,
) -> Poll<Result<usize, Break>> {
    if let Poll::Ready(reset) = stream.poll_broken(cx) {
        return match handed_over.load(Ordering::Relaxed) {
            true => Poll::Ready(Err(Break::Stream(reset))),
            false => Poll::Pending,
        };
    }
    match stream.poll_writable(cx) {
        Poll::Ready(Ok(room)) => Poll::Ready(Ok(room)),
        // Broken a moment ago, which wakes this again.
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
    }
}

/// A buffer only while there is something to read: an idle connection owns none. Empty at the end.
fn poll_read(cx: &mut Context<'_>, read: &mut ReadHalf<'_>, max: usize) -> Poll<io::Result<BytesMut>> {
    if read.as_ref().poll_read_ready(cx)?.is_pending() {
        return Poll::Pending;
    }
    let mut buffer = BytesMut::with_capacity(max);
    let mut limited = (&mut buffer).limit(max);
    let result = std::pin::pin!(read.read_buf(&mut limited)).poll(cx);
    result.map_ok(|_| buffer)
}

/// Stream to socket.
async fn download(
    mut write: WriteHalf<'_>,
    stream: &TunnelStream,
    received_bytes: &mut u64,
) -> Result<(), Break> {
    let mut turn = Turn::default();
    while let Some(mut bytes) = poll_fn(|cx| stream.poll_read_bytes(cx, PAYLOAD_MAX_BYTES)).await? {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| {
                // Before every single write: the process may have been stopped since the last one.
                if let Err(reset) = ready!(stream.poll_may_write(cx)) {
                    return Poll::Ready(Err(Break::Stream(reset)));
                }
                match Pin::new(&mut write).poll_write(cx, &bytes) {
                    Poll::Ready(written) => Poll::Ready(written.map_err(Break::Socket)),
                    // Broken, and the socket takes nothing: there is nobody to hand the rest to.
                    Poll::Pending => stream.poll_broken(cx).map(|reset| Err(Break::Stream(reset))),
                }
            })
            .await?;
            if written == 0 {
                return Err(Break::Socket(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(written);
            *received_bytes += written as u64;
            turn.moved(written).await;
        }
    }
    Ok(write.shutdown().await?)
}

/// Yields after a turn's worth of bytes.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    async fn moved(&mut self, bytes: usize) {
        self.0 += bytes;
        if self.0 >= TURN_BYTES {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}
