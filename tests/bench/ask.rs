//! Small requests: a client that asks and waits for its answer, again and again.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::bulk::request;
use crate::figure::percentile;

/// One connection to a destination that gives back what it gets.
pub(crate) struct Asker {
    stream: TcpStream,
    question: Vec<u8>,
    answer: Vec<u8>,
}

impl Asker {
    /// Each question has so many bytes, each answer the same ones.
    pub(crate) async fn connect(addr: SocketAddr, bytes: usize) -> io::Result<Self> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&request(b'e', bytes as u64)).await?;
        let question = (0..bytes).map(|n| (n % 251) as u8).collect();
        Ok(Self { stream, question, answer: vec![0; bytes] })
    }

    /// How long the answer took.
    pub(crate) async fn ask(&mut self) -> io::Result<Duration> {
        let asked = Instant::now();
        self.question[0] = self.question[0].wrapping_add(1);
        self.stream.write_all(&self.question).await?;
        self.stream.read_exact(&mut self.answer).await?;
        let took = asked.elapsed();
        if self.answer != self.question {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer was altered"));
        }
        Ok(took)
    }
}

/// What many questions took.
pub(crate) struct Asked {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) per_second: f64,
}

impl Asked {
    pub(crate) fn of(took: &[Duration], within: Duration) -> Self {
        let mut sorted: Vec<f64> = took.iter().map(|took| took.as_secs_f64() * 1e6).collect();
        assert!(!sorted.is_empty(), "not a single question was answered within {within:?}");
        sorted.sort_by(f64::total_cmp);
        Self {
            p50_us: percentile(&sorted, 50),
            p99_us: percentile(&sorted, 99),
            per_second: sorted.len() as f64 / within.as_secs_f64(),
        }
    }
}

/// So many clients ask for so long, each one question after the other.
///
/// # Panics
/// When a connection breaks or an answer is not what was asked.
pub(crate) async fn ask(addr: SocketAddr, clients: usize, bytes: usize, long: Duration) -> Asked {
    let mut askers = Vec::new();
    for _ in 0..clients {
        let mut asker = Asker::connect(addr, bytes).await.expect("there is a way to the destination");
        asker.ask().await.expect("the destination answers");
        askers.push(asker);
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for mut asker in askers {
        running.spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < long {
                took.push(asker.ask().await.unwrap_or_else(|error| panic!("a question broke: {error}")));
            }
            took
        });
    }
    Asked::of(&running.join_all().await.concat(), began.elapsed())
}

/// So many clients connect, ask one question, and leave, for so long. What is timed is the whole.
///
/// # Panics
/// As [`ask`].
pub(crate) async fn visit(addr: SocketAddr, clients: usize, bytes: usize, long: Duration) -> Asked {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..clients {
        running.spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < long {
                let came = Instant::now();
                let visit = async { Asker::connect(addr, bytes).await?.ask().await };
                visit.await.unwrap_or_else(|error| panic!("a visit broke: {error}"));
                took.push(came.elapsed());
            }
            took
        });
    }
    Asked::of(&running.join_all().await.concat(), began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::Destination;

    #[tokio::test]
    async fn questions_are_answered_and_counted() {
        let destination = Destination::start().await;
        let asked = ask(destination.addr(), 2, 128, Duration::from_millis(50)).await;
        assert!(asked.p50_us > 0.0 && asked.p99_us >= asked.p50_us && asked.per_second > 0.0);
        assert!(visit(destination.addr(), 2, 128, Duration::from_millis(50)).await.per_second > 0.0);
    }
}
