//! The limit to compare with: a plain TCP relay of two hops, each a process as central and the agent
//! are, without TLS, mux, fence or allow-list. What it costs, every gateway of two processes costs.
//!
//! A hop is the bench's own program, started again with the hidden command `relay-hop`.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Larger pieces gain nothing on loopback.
const PIECE_BYTES: usize = 64 * 1024;

/// Two relay processes in a row in front of a target. Dropped, both end.
pub(crate) struct TwoHops {
    addr: SocketAddr,
    hops: [Hop; 2],
}

impl TwoHops {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let second = Hop::start(target);
        let first = Hop::start(second.addr);
        Self { addr: first.addr, hops: [first, second] }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pids(&self) -> [u32; 2] {
        [0, 1].map(|hop| self.hops[hop].process.id())
    }
}

struct Hop {
    addr: SocketAddr,
    process: Child,
}

impl Hop {
    fn start(target: SocketAddr) -> Self {
        let us = std::env::current_exe().expect("a process knows its executable");
        let mut process = Command::new(us)
            .args(["relay-hop", &target.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("a relay hop could not be started: {error}"));
        let mut line = String::new();
        let stdout = process.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        let addr = line.trim().parse();
        Self { addr: addr.unwrap_or_else(|_| panic!("a relay hop announced no address: {line:?}")), process }
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        // It fails only where the hop has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The whole life of a hop's process: prints where it listens, carries every connection to `target`,
/// and ends when its stdin does, which the kernel sees to should the bench be killed.
pub(crate) async fn run_hop(target: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let (gone, bench_gone) = oneshot::channel::<()>();
    // A thread, because reading stdin blocks; it goes with the process.
    std::thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        drop(gone);
    });
    tokio::select! {
        _ = bench_gone => Ok(()),
        error = accept(listener, target) => Err(error),
    }
}

async fn accept(listener: TcpListener, target: SocketAddr) -> io::Error {
    // A relayed connection ends with its own two sockets, or with the process.
    let mut running = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return error,
        };
        while running.try_join_next().is_some() {}
        // A connection that breaks is reported by the bench's client, whose connection breaks with it.
        running.spawn(async move { drop(carry(stream, target).await) });
    }
}

async fn carry(from: TcpStream, target: SocketAddr) -> io::Result<()> {
    let to = TcpStream::connect(target).await?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    let (from_read, from_write) = from.into_split();
    let (to_read, to_write) = to.into_split();
    // A task a direction, so that both cores can be used, as they can in the gateway.
    let up = tokio::spawn(pump(from_read, to_write));
    pump(to_read, from_write).await?;
    up.await?
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::{Destination, Direction, transfer};

    #[tokio::test]
    async fn a_hop_carries_both_directions_to_their_end() {
        let destination = Destination::start().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let hop = tokio::spawn(accept(listener, destination.addr()));

        transfer(addr, Direction::Down, 2, 1_000_003).await;
        transfer(addr, Direction::Up, 2, 1_000_003).await;
        hop.abort();
    }
}
