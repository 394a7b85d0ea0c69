//! The handles of streams: bytes in, bytes out, under the tunnel's lock.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use std::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Shared, Slot, State, wait};
use crate::mux::{Open, ReadOutcome, Reset, ResetCode, StreamError, StreamId};

/// Streams that the peer opens.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
}

impl Incoming {
    pub(super) fn new(shared: Arc<Shared>) -> Incoming {
        Incoming { shared }
    }

    /// The next one; `None` once the tunnel is over. Cancel-safe. Streams nobody fetches count against the
    /// tunnel's limit and are refused beyond it.
    pub async fn next(&mut self) -> Option<IncomingStream> {
        poll_fn(|cx| {
            self.shared.with(|state| {
                while let Some(id) = state.incoming.pop_front() {
                    if let Some(open) = state.mux.offered(id).cloned() {
                        let stream = TunnelStream::new(Arc::clone(&self.shared), id);
                        return Poll::Ready(Some(IncomingStream { stream, open }));
                    }
                    state.release(id); // its opener gave up meanwhile
                }
                if state.mux.over().is_some() {
                    return Poll::Ready(None);
                }
                wait(&mut state.incoming_waker, cx)
            })
        })
        .await
    }
}

/// A stream the peer opened and nobody has answered yet. Dropping it refuses it.
#[derive(Debug)]
pub struct IncomingStream {
    stream: TunnelStream,
    open: Open,
}

impl IncomingStream {
    /// Where it should lead.
    pub fn open(&self) -> &Open {
        &self.open
    }

    /// Its number in the tunnel.
    pub fn id(&self) -> StreamId {
        self.stream.id
    }

    /// Waits until its opener gives up, in case there is something to be stopped then. Cancel-safe.
    pub async fn broken(&self) -> Reset {
        self.stream.broken().await
    }

    /// The destination answered: bytes may flow.
    pub fn accept(self) -> TunnelStream {
        let id = self.stream.id;
        // If it broke meanwhile, the first read or write says so.
        let _ = self.stream.shared.with(|state| state.mux.accept(id));
        self.stream
    }

    /// There will be no stream.
    pub fn refuse(self, code: ResetCode, reason: &str) {
        self.stream.reset(code, reason);
    }
}

/// A byte pipe through the tunnel. Survives its websocket. Dropped before both directions were finished, it is
/// reset: the peer never mistakes half a stream for a whole one.
#[derive(Debug)]
pub struct TunnelStream {
    shared: Arc<Shared>,
    id: StreamId,
}

impl TunnelStream {
    pub(super) fn new(shared: Arc<Shared>, id: StreamId) -> TunnelStream {
        TunnelStream { shared, id }
    }

    /// Its number in the tunnel.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Waits until the peer has accepted the stream. Cancel-safe.
    ///
    /// # Errors
    /// The peer's refusal, or whatever else broke the stream.
    pub async fn opened(&self) -> Result<(), Reset> {
        poll_fn(|cx| {
            self.shared.with(|state| match state.mux.is_open(self.id) {
                Ok(true) => Poll::Ready(Ok(())),
                Ok(false) => state.wait_on(self.id, cx, |slot| &mut slot.opened),
                Err(error) => Poll::Ready(Err(reason_of(error))),
            })
        })
        .await
    }

    /// Waits until the stream breaks, for whatever reason. Cancel-safe; one waiter at a time.
    pub async fn broken(&self) -> Reset {
        poll_fn(|cx| self.poll_broken(cx)).await
    }

    fn poll_broken(&self, cx: &Context<'_>) -> Poll<Reset> {
        self.shared.with(|state| match state.mux.broken(self.id) {
            Some(reset) => Poll::Ready(reset.clone()),
            None => state.wait_on(self.id, cx, |slot| &mut slot.broken),
        })
    }

    /// Breaks the stream at once, both directions.
    pub fn reset(&self, code: ResetCode, reason: &str) {
        self.shared.with(|state| state.mux.reset(self.id, Reset::new(code, reason)));
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Up to `max` bytes, or `None` at the end. While the tunnel is silent nothing is read, and so nothing earns
    /// credit.
    fn poll_read_bytes(&self, cx: &Context<'_>, max: usize) -> Poll<Result<Option<Bytes>, StreamError>> {
        self.shared.with(|state| {
            if state.mux.over().is_none() && !state.may_write(&self.shared.config) {
                state.lease.miss();
                return state.wait_on(self.id, cx, |slot| &mut slot.read);
            }
            match state.mux.read(self.id, max) {
                Ok(ReadOutcome::Bytes(bytes)) => Poll::Ready(Ok(Some(bytes))),
                Ok(ReadOutcome::End) => Poll::Ready(Ok(None)),
                Ok(ReadOutcome::Nothing) => state.wait_on(self.id, cx, |slot| &mut slot.read),
                Err(error) => Poll::Ready(Err(error)),
            }
        })
    }

    /// Nothing more will be written (half-close).
    ///
    /// # Errors
    /// If the stream broke.
    pub fn finish(&self) -> Result<(), StreamError> {
        self.shared.with(|state| state.mux.finish(self.id))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.shared.with(|state| state.release(self.id));
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_read_bytes(cx, buf.remaining()).map(|read| {
            if let Some(bytes) = read.map_err(io_error)? {
                buf.put_slice(&bytes);
            }
            Ok(())
        })
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.shared.with(|state| match state.mux.write(self.id, buf) {
            Ok(0) => state.wait_on(self.id, cx, |slot| &mut slot.write),
            Ok(written) => Poll::Ready(Ok(written)),
            Err(error) => Poll::Ready(Err(io_error(error))),
        })
    }

    /// Nothing waits here that the lane does not send by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish().map_err(io_error))
    }
}

impl State {
    fn release(&mut self, id: StreamId) {
        self.mux.release(id);
        self.streams.remove(&id);
    }

    fn wait_on<T>(
        &mut self,
        id: StreamId,
        cx: &Context<'_>,
        which: impl FnOnce(&mut Slot) -> &mut Option<Waker>,
    ) -> Poll<T> {
        wait(which(self.streams.entry(id).or_default()), cx)
    }
}

/// The reset behind an I/O error of a [`TunnelStream`], if it was one.
pub fn reset_of(error: &io::Error) -> Option<&Reset> {
    error.get_ref()?.downcast_ref()
}

/// How a stream's error looks to those who know only I/O.
pub(super) fn io_error(error: StreamError) -> io::Error {
    match error {
        StreamError::Reset(reset) => io::Error::new(io::ErrorKind::ConnectionReset, reset),
        StreamError::Finished => io::Error::new(io::ErrorKind::BrokenPipe, error),
        StreamError::Unknown(_) => io::Error::new(io::ErrorKind::NotConnected, error),
    }
}

fn reason_of(error: StreamError) -> Reset {
    match error {
        StreamError::Reset(reset) => reset,
        StreamError::Finished | StreamError::Unknown(_) => {
            Reset::new(ResetCode::CANCELLED, &error.to_string())
        }
    }
}
