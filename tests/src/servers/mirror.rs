//! A destination that sends everything back and remembers who came: for scenarios that ask which
//! agent carried a connection, and where its bytes ended.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::port;

/// Greets every connection with its number, then echoes it.
pub struct Mirror {
    addr: SocketAddr,
    visits: Arc<Mutex<Vec<Visit>>>,
    task: AbortHandle,
}

/// One connection that reached the mirror.
#[derive(Clone)]
pub struct Visit {
    /// The dialling side's address.
    pub peer: SocketAddr,
    /// The mirror's own.
    addr: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Visit {
    /// Which of `pids` dialled? `None` when none of them holds the connection (any more).
    pub fn dialled_by(&self, pids: &[u32]) -> Option<u32> {
        port::owner(self.peer, self.addr, pids)
    }

    /// Bytes that arrived on it so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Mirror {
    /// Starts listening.
    pub async fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port can be listened on");
        let addr = listener.local_addr().expect("a listener has an address");
        let visits = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(receive(listener, addr, Arc::clone(&visits))).abort_handle();
        Self { addr, visits, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections have reached it.
    pub fn visits(&self) -> usize {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Connects to the mirror through `addr` and gets a byte echoed; within `limit`, or `None`.
    /// Answers with the open connection and the mirror's own view of it.
    pub async fn look_into(&self, addr: SocketAddr, limit: Duration) -> Option<(TcpStream, Visit)> {
        let look = async {
            let mut stream = TcpStream::connect(addr).await.ok()?;
            stream.write_all(b"?").await.ok()?;
            let mut answer = [0; 9];
            stream.read_exact(&mut answer).await.ok()?;
            let (number, echo) = answer.split_at(8);
            assert_eq!(echo, b"?", "the mirror's answer arrived altered");
            let number = u64::from_be_bytes(number.try_into().ok()?);
            let visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
            Some((stream, visits.get(usize::try_from(number).ok()?)?.clone()))
        };
        timeout(limit, look).await.ok()?
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(listener: TcpListener, addr: SocketAddr, visits: Arc<Mutex<Vec<Visit>>>) {
    let mut running = JoinSet::new();
    loop {
        // An accept fails for the connection's own reasons; the next one is another matter.
        let Ok((stream, peer)) = listener.accept().await else { continue };
        while running.try_join_next().is_some() {}
        let bytes = Arc::new(AtomicU64::new(0));
        let number = {
            let mut visits = visits.lock().unwrap_or_else(PoisonError::into_inner);
            visits.push(Visit { peer, addr, bytes: Arc::clone(&bytes) });
            visits.len() as u64 - 1
        };
        // It ends with its connection, however that ends.
        running.spawn(async move { drop(echo(stream, number, &bytes).await) });
    }
}

async fn echo(mut stream: TcpStream, number: u64, bytes: &AtomicU64) -> io::Result<()> {
    stream.write_all(&number.to_be_bytes()).await?;
    let mut piece = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        bytes.fetch_add(count as u64, Ordering::Relaxed);
        stream.write_all(&piece[..count]).await?;
    }
}
