//! A client that says numbered lines through the gateway and checks that each comes back as it was said.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);
/// Many packets, each as large as it may be.
const BULK_BYTES: usize = 256 * 1024;

/// One stream through the gateway, to an echo.
pub(crate) struct Talk {
    stream: TcpStream,
    said: u64,
    pub(crate) bytes: u64,
}

impl Talk {
    /// Connects and hears one line come back within `limit`; `None` if not.
    pub(crate) async fn begin(listen: SocketAddr, limit: Duration) -> Option<Self> {
        let begin = async {
            let stream = TcpStream::connect(listen).await.ok()?;
            let mut talk = Self { stream, said: 0, bytes: 0 };
            talk.say(64).await.ok()?;
            Some(talk)
        };
        timeout(limit, begin).await.ok()?
    }

    /// Says `length` bytes that nobody said before, and hears them.
    pub(crate) async fn say(&mut self, length: usize) -> std::io::Result<()> {
        let line = line(self.said, length);
        self.said += 1;
        let mut heard = vec![0; length];
        self.stream.write_all(&line).await?;
        self.stream.read_exact(&mut heard).await?;
        assert!(heard == line, "what came back is not what was said");
        self.bytes += length as u64;
        Ok(())
    }

    /// It lives and loses nothing.
    pub(crate) async fn says_on(&mut self) {
        self.says_on_within(LIMIT).await;
    }

    pub(crate) async fn says_on_within(&mut self, limit: Duration) {
        match timeout(limit, self.say(4096)).await {
            Ok(said) => said.unwrap_or_else(|error| panic!("the stream should live: {error}")),
            Err(_) => panic!("nothing came back within {limit:?}"),
        }
    }

    /// The same with much at once.
    pub(crate) async fn says_much_within(&mut self, limit: Duration) {
        match timeout(limit, self.say(BULK_BYTES)).await {
            Ok(said) => said.unwrap_or_else(|error| panic!("the stream should live: {error}")),
            Err(_) => panic!("not all came back within {limit:?}"),
        }
    }

    /// Sends a little that nobody answers any more.
    pub(crate) async fn push_late(&mut self) {
        let _ = self.stream.write_all(&line(self.said, 512)).await;
    }

    /// It ends with a reset, never with a clean end.
    pub(crate) async fn until_broken(&mut self, limit: Duration) {
        let ended = timeout(limit, async {
            let mut rest = vec![0; 64 * 1024];
            loop {
                match self.stream.read(&mut rest).await {
                    Ok(0) => panic!("a broken stream ended as if it were whole"),
                    Ok(_) => {}
                    Err(error) => return error.kind(),
                }
            }
        });
        let kind =
            ended.await.unwrap_or_else(|_| panic!("the client did not learn of the loss within {limit:?}"));
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    }
}

/// Bytes of which each place in each line has its own.
fn line(number: u64, length: usize) -> Vec<u8> {
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..length as u64)
        .map(|at| (seed.wrapping_add(at.wrapping_mul(0x2545_f491_4f6c_dd1d)) >> 56) as u8)
        .collect()
}
