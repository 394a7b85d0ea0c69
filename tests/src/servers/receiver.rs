//! A receiver of webhooks: remembers what it was sent and answers as it is told to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// An alert is a few kilobytes.
const BODY_MAX: usize = 1 << 20;

/// Speaks as much of HTTP as a sender of webhooks needs.
pub struct Receiver {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<Webhook>>>,
    status: Arc<AtomicU16>,
    task: AbortHandle,
}

/// One request that was heard to its end.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// `webhook-id`: the same for every attempt of one delivery.
    pub id: String,
    pub body: Value,
    /// What it was answered.
    pub status: u16,
}

impl Receiver {
    /// Starts listening; every request is answered with 204.
    pub async fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port can be listened on");
        let addr = listener.local_addr().expect("a listener has an address");
        let (heard, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU16::new(204)));
        let task = tokio::spawn(receive(listener, heard.clone(), status.clone())).abort_handle();
        Self { addr, heard, status, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/alerts", self.addr)
    }

    /// From now on every request is answered with this status.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Webhook> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Webhook {
    /// `secure_gateway.down` and the like.
    pub fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }

    /// By which a down and its up belong together.
    pub fn incident(&self) -> &str {
        self.body["data"]["incident"]["id"].as_str().unwrap_or_default()
    }
}

async fn receive(listener: TcpListener, heard: Arc<Mutex<Vec<Webhook>>>, status: Arc<AtomicU16>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (heard, status) = (heard.clone(), status.clone());
        tokio::spawn(async move {
            // A sender that breaks off was heard by nobody.
            let _ = tokio::time::timeout(Duration::from_secs(10), one(stream, &heard, &status)).await;
        });
    }
}

async fn one(stream: TcpStream, heard: &Mutex<Vec<Webhook>>, status: &AtomicU16) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "webhook-id" => value.trim().clone_into(&mut id),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length.min(BODY_MAX)];
    stream.read_exact(&mut body).await?;
    let status = status.load(Ordering::Relaxed);
    let body = serde_json::from_slice(&body).unwrap_or_default();
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(Webhook { id, body, status });
    let answer = format!("HTTP/1.1 {status} Noted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
