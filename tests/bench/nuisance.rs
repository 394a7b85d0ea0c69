//! Clients that are a nuisance, in a process of their own at the lowest priority: as if they ran on somebody else's
//! machine, they take no processor that well-behaved clients, a destination or a gateway could use.
//!
//! The process is the bench's own program, started again with the hidden command `nuisance`; it ends with its stdin.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use clap::ValueEnum;
use postern_tests::needs;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub(crate) const DRIBBLERS: usize = 8;
pub(crate) const CHURNERS: usize = 2;

/// What they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Send single bytes, each a write of its own.
    Dribble,
    /// Open connections and reset them at once.
    Churn,
}

#[derive(clap::Args)]
pub(crate) struct NuisanceArgs {
    kind: Kind,
    /// Where a bulk destination can be reached
    at: SocketAddr,
}

/// Their process. Dropped, it ends.
pub(crate) struct Clients(Child);

impl Clients {
    pub(crate) fn start(kind: Kind, at: SocketAddr) -> Self {
        let kind = kind.to_possible_value().expect("no kind is hidden");
        // A session of its own: where the kernel groups processes by session, niceness counts within one only.
        let child = Command::new(needs::command("setsid", "util-linux"))
            .args(["nice", "-n", "19"])
            .arg(std::env::current_exe().expect("a process knows its executable"))
            .args(["nuisance", kind.get_name(), &at.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("setsid, nice and the bench's own program can be started");
        Self(child)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It fails only where the process has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process itself.
pub(crate) async fn run(args: NuisanceArgs) {
    // Absent where the kernel does not group by session; then being nice is enough.
    let _ = std::fs::write("/proc/self/autogroup", "19");
    let mut clients: JoinSet<()> = match args.kind {
        Kind::Dribble => (0..DRIBBLERS).map(|_| dribble(args.at)).collect(),
        Kind::Churn => (0..CHURNERS).map(|_| churn(args.at)).collect(),
    };
    std::thread::spawn(|| {
        // Nothing is ever said there: it returns when whoever started this is gone.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    while clients.join_next().await.is_some() {}
}

async fn dribble(addr: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(addr).await else { return };
    let begun = stream.write_all(&crate::bulk::request(b'u', u64::MAX)).await;
    if stream.set_nodelay(true).is_err() || begun.is_err() {
        return;
    }
    while stream.write_all(&[1]).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

async fn churn(addr: SocketAddr) {
    while let Ok(stream) = TcpStream::connect(addr).await {
        if stream.set_zero_linger().is_err() {
            break;
        }
    }
}
