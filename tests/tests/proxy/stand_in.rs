//! A proxy that does what it is told: carry, for so long, say something else, or say nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

#[derive(Debug, Clone, Copy)]
pub(super) enum Manner {
    /// Carries.
    Carries,
    /// Carries, and closes each connection after this time, as some proxies do with everybody.
    CarriesFor(Duration),
    /// Says this line, and closes.
    Says(&'static str),
    /// Takes the question and never answers.
    Hangs,
}

/// Listens on a loopback port; what it is asked for is on this machine.
pub(super) struct StandIn {
    addr: SocketAddr,
    manner: watch::Sender<Manner>,
    carried: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl StandIn {
    pub(super) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (manner, carried) = (watch::Sender::new(manner), Arc::<AtomicUsize>::default());
        let (wanted, count) = (manner.subscribe(), Arc::clone(&carried));
        let task = tokio::spawn(async move {
            // Aborted with the proxy; the set then aborts the connections.
            let mut running = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                while running.try_join_next().is_some() {}
                let (mut wanted, count) = (wanted.clone(), Arc::clone(&count));
                let now = *wanted.borrow_and_update();
                running.spawn(async move {
                    tokio::select! {
                        () = serve(from, now, &count) => {}
                        // Whatever was open ends with the manner in which it began.
                        _ = wanted.changed() => {}
                    }
                });
            }
        });
        Self { addr, manner, carried, task: task.abort_handle() }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on; what is open is closed.
    pub(super) fn set(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// How many connections it has carried since it started.
    pub(super) fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut from: TcpStream, manner: Manner, carried: &AtomicUsize) {
    let Some(target) = asked_for(&mut from).await else { return };
    let life = match manner {
        Manner::Carries => Duration::MAX,
        Manner::CarriesFor(life) => life,
        Manner::Says(line) => {
            // Whoever has gone hears nothing.
            let _ = from.write_all(format!("{line}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
            return;
        }
        Manner::Hangs => return std::future::pending().await,
    };
    let Ok(mut to) = TcpStream::connect(target).await else { return };
    if from.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
        carried.fetch_add(1, Ordering::Relaxed);
        let _ = tokio::time::timeout(life, copy_bidirectional(&mut from, &mut to)).await;
    }
}

/// The port in `CONNECT HOST:PORT`.
async fn asked_for(from: &mut TcpStream) -> Option<SocketAddr> {
    let mut question = Vec::new();
    while !question.ends_with(b"\r\n\r\n") {
        if from.read_buf(&mut question).await.ok()? == 0 {
            return None;
        }
    }
    let question = String::from_utf8(question).ok()?;
    let target = question.strip_prefix("CONNECT ")?.split(' ').next()?;
    let (_, port) = target.rsplit_once(':')?;
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?)))
}
