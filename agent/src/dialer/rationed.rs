//! Connections to destinations as long as there is room for them: streams never take the descriptors that the
//! tunnel, the peers and the records of Raft live on.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use program::descriptors::{self, Budget, Taken};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::dial::{Connector, TcpConnector};

/// Opens connections within a [`Budget`]; each attempt takes a place, and the connection keeps it.
#[derive(Debug, Clone)]
pub struct Rationed(pub Budget);

/// A connection and its place, which is free once both are dropped.
#[derive(Debug)]
pub struct Placed {
    pub socket: TcpStream,
    pub place: Taken,
}

/// All places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the agent's file descriptors allow {0} streams, and all are taken: raise LimitNOFILE of its service (ulimit -n), \
     or find out who holds so many (posternctl streams list)"
)]
pub(super) struct NoRoom(usize);

impl Connector for Rationed {
    type Stream = Placed;

    async fn connect(&self, addr: SocketAddr) -> io::Result<Placed> {
        let place = self.0.take().ok_or_else(|| io::Error::other(NoRoom(self.0.streams())))?;
        Ok(Placed { socket: TcpConnector::default().connect(addr).await?, place })
    }
}

/// Was there no room, or did the system itself have no descriptor left?
pub(super) fn is_no_room(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NoRoom>()) || descriptors::ran_out(error)
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_keeps_its_place_until_it_is_dropped() {
        let destination = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = destination.local_addr().unwrap();
        let rationed = Rationed(Budget::new(1));

        let held = rationed.connect(at).await.unwrap();
        let refused = rationed.connect(at).await.unwrap_err();
        assert!(is_no_room(&refused), "{refused}");
        assert!(refused.to_string().contains("LimitNOFILE"), "{refused}");
        drop(held);
        assert!(rationed.connect(at).await.is_ok());
    }

    #[tokio::test]
    async fn a_connection_that_fails_gives_its_place_back() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let rationed = Rationed(Budget::new(1));

        for _ in 0..2 {
            let refused = rationed.connect(nobody).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            assert!(!is_no_room(&refused));
        }
    }
}
