//! The bulk traffic itself: a destination and its client, which count and check every byte.
//!
//! ```text
//!   client                               destination
//!   'd' length    ────────────────────►
//!                 ◄──────────────────── length bytes      the client compares their checksum
//!   'u' length bytes … ────────────────►
//!                 ◄──────────────────── their checksum    with that of what was to be sent
//!   'e' length    ────────────────────►
//!   length bytes  ────────────────────► ┐
//!                 ◄──────────────────── ┘ the same, again and again (see `ask`)
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// What both sides write at once and the most they read at once: large, so that neither is the
/// bottleneck; the same on every path, so that comparing paths is fair.
const PIECE_BYTES: usize = 128 * 1024;
/// A prime, so that no piece, frame or record repeats the one before it.
const PATTERN_BYTES: usize = 251 * 1021;
const DONE_WITHIN: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the destination to the client.
    Down,
    /// From the client to the destination.
    Up,
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }
}

/// Serves bulk transfers until dropped.
pub(crate) struct Destination {
    addr: SocketAddr,
    task: AbortHandle,
}

impl Destination {
    pub(crate) async fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port can be listened on");
        Self::at(listener)
    }

    /// Serves whoever comes to this listener.
    pub(crate) fn at(listener: TcpListener) -> Self {
        let addr = listener.local_addr().expect("a listener has an address");
        let task = tokio::spawn(serve(listener)).abort_handle();
        Self { addr, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Moves `bytes_per_stream` over each of `streams` new connections to `addr`, all at once, and
/// answers with the time from the first connect to the last checked byte.
///
/// # Panics
/// When a stream breaks, takes too long, or delivers other bytes than were sent.
pub(crate) async fn transfer(
    addr: SocketAddr,
    direction: Direction,
    streams: usize,
    bytes_per_stream: u64,
) -> Duration {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..streams {
        running.spawn(one_stream(addr, direction, bytes_per_stream));
    }
    let all = tokio::time::timeout(DONE_WITHIN, async {
        while let Some(stream) = running.join_next().await {
            let (received, sent) = stream
                .expect("a stream does not panic")
                .unwrap_or_else(|error| panic!("a {} stream of {streams} broke: {error}", direction.name()));
            assert_eq!(received, sent, "bytes arrived altered on a {} stream", direction.name());
        }
    });
    all.await.unwrap_or_else(|_| panic!("{streams} streams did not end within {DONE_WITHIN:?}"));
    began.elapsed()
}

/// Answers with the checksum of what arrived and of what was sent.
async fn one_stream(addr: SocketAddr, direction: Direction, bytes: u64) -> io::Result<(u32, u32)> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    match direction {
        Direction::Down => {
            stream.write_all(&request(b'd', bytes)).await?;
            let received = receive(&mut stream, bytes).await?;
            Ok((received, checksum(bytes)))
        }
        Direction::Up => {
            stream.write_all(&request(b'u', bytes)).await?;
            let sent = send(&mut stream, bytes).await?;
            Ok((stream.read_u32().await?, sent))
        }
    }
}

/// Receives for so long from each of `streams` connections at once, and answers with the bytes that came.
/// What they are is not looked at: [`transfer`] does that.
///
/// # Panics
/// When a stream breaks.
pub(crate) async fn pour(addr: SocketAddr, streams: usize, long: Duration) -> u64 {
    let until = tokio::time::Instant::now() + long;
    let mut running = JoinSet::new();
    for _ in 0..streams {
        running.spawn(async move {
            let mut stream = TcpStream::connect(addr).await?;
            stream.write_all(&request(b'd', u64::MAX)).await?;
            let mut piece = vec![0; PIECE_BYTES];
            let mut received = 0;
            while let Ok(count) = tokio::time::timeout_at(until, stream.read(&mut piece)).await {
                received += count? as u64;
            }
            io::Result::Ok(received)
        });
    }
    let mut all = 0;
    while let Some(stream) = running.join_next().await {
        all += stream
            .expect("a stream does not panic")
            .unwrap_or_else(|error| panic!("a bulk stream broke: {error}"));
    }
    all
}

pub(crate) fn request(verb: u8, bytes: u64) -> [u8; 9] {
    let mut request = [verb; 9];
    request[1..].copy_from_slice(&bytes.to_be_bytes());
    request
}

async fn serve(listener: TcpListener) {
    // Aborted with the destination; the set then aborts what is still running.
    let mut running = JoinSet::new();
    loop {
        // An accept fails for the connection's own reasons; the next one is another matter.
        let Ok((stream, _)) = listener.accept().await else { continue };
        while running.try_join_next().is_some() {}
        // A stream that breaks here breaks at the client too, which reports it.
        running.spawn(async move { drop(answer(stream).await) });
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let verb = stream.read_u8().await?;
    let bytes = stream.read_u64().await?;
    match verb {
        b'd' => {
            send(&mut stream, bytes).await?;
        }
        b'u' => {
            let received = receive(&mut stream, bytes).await?;
            stream.write_u32(received).await?;
        }
        b'e' => echo(&mut stream, bytes).await?,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    stream.shutdown().await
}

/// Gives back what comes, so many bytes at a time, until the client leaves.
async fn echo(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut piece = vec![0; usize::try_from(bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
    loop {
        match stream.read_exact(&mut piece).await {
            Ok(_) => stream.write_all(&piece).await?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Sends `bytes` of the pattern.
async fn send(stream: &mut TcpStream, bytes: u64) -> io::Result<u32> {
    let pattern = pattern();
    let mut left = bytes;
    let mut at = 0;
    let mut hasher = crc32fast::Hasher::new();
    while left > 0 {
        let count = PIECE_BYTES.min(pattern.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
        let piece = &pattern[at..at + count];
        stream.write_all(piece).await?;
        hasher.update(piece);
        at = (at + count) % pattern.len();
        left -= count as u64;
    }
    Ok(hasher.finalize())
}

/// Receives exactly `bytes` and answers with their checksum.
async fn receive(stream: &mut TcpStream, bytes: u64) -> io::Result<u32> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = bytes;
    let mut hasher = crc32fast::Hasher::new();
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = stream.read(&mut piece[..most]).await?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{left} of {bytes} bytes missing"),
            ));
        }
        hasher.update(&piece[..count]);
        left -= count as u64;
    }
    Ok(hasher.finalize())
}

/// The checksum of `bytes` of the pattern, from one hash of it: computing it byte for byte would
/// take time from the transfer that is measured.
fn checksum(bytes: u64) -> u32 {
    let pattern = pattern();
    let mut all = crc32fast::Hasher::new();
    let mut whole = crc32fast::Hasher::new();
    whole.update(&pattern);
    for _ in 0..bytes / pattern.len() as u64 {
        all.combine(&whole);
    }
    let rest = usize::try_from(bytes % pattern.len() as u64).unwrap_or(0);
    all.update(&pattern[..rest]);
    all.finalize()
}

/// Bytes that no compression and no accidental alignment can shorten.
fn pattern() -> Vec<u8> {
    // xorshift64: the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(PATTERN_BYTES + 8);
    while bytes.len() < PATTERN_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(PATTERN_BYTES);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_directions_arrive_as_they_were_sent() {
        let destination = Destination::start().await;

        transfer(destination.addr(), Direction::Down, 3, 1_000_003).await;
        transfer(destination.addr(), Direction::Up, 3, 1_000_003).await;
    }

    #[tokio::test]
    async fn altered_bytes_are_noticed() {
        let liar = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = liar.local_addr().unwrap();
        let transfer = tokio::spawn(transfer(addr, Direction::Down, 1, 1000));
        let (mut stream, _) = liar.accept().await.unwrap();
        stream.write_all(&[7; 1000]).await.unwrap();

        let panic = transfer.await.unwrap_err().into_panic();
        assert!(panic.downcast_ref::<String>().unwrap().contains("altered"));
    }

    #[tokio::test]
    async fn missing_bytes_are_noticed() {
        let miser = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = miser.local_addr().unwrap();
        let stream = tokio::spawn(one_stream(addr, Direction::Down, 1000));
        let (mut served, _) = miser.accept().await.unwrap();
        served.write_all(&[7; 999]).await.unwrap();
        served.shutdown().await.unwrap();

        assert_eq!(stream.await.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
