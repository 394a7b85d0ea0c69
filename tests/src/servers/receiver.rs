//! A receiver of webhooks: remembers what it was sent and answers as it is told to.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::{Folder, needs, suite};

/// An alert is a few kilobytes.
const BODY_MAX: usize = 1 << 20;
/// No status: the request is heard, and that is all.
const NEVER: u16 = 0;
const VERIFIED_WITHIN: Duration = Duration::from_secs(30);

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
    /// By their names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    /// The body as it came: what was signed.
    pub text: String,
    /// When its last byte was heard.
    pub at: Instant,
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

    /// From now on no request is answered at all.
    pub fn hang(&self) {
        self.answer(NEVER);
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

    /// Does `standardwebhooks`, which others wrote, take it for signed with `secret`, and just now?
    pub async fn is_signed_with(&self, secret: &str) -> bool {
        let folder = Folder::new("webhook");
        let given = json!({"secret": secret, "headers": self.headers, "body": self.text});
        let file = folder.write_private("webhook.json", given.to_string());
        let mut command = tokio::process::Command::new(needs::python());
        command.arg(needs::suites().join("webhooks/verify.py")).arg(file);
        let steps = suite::steps("standardwebhooks", &mut command, VERIFIED_WITHIN).await;
        steps[0]["verified"].as_bool().unwrap_or_else(|| panic!("no verdict in {steps:?}"))
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
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; BODY_MAX.min(length)];
    stream.read_exact(&mut body).await?;
    let (at, status) = (Instant::now(), status.load(Ordering::Relaxed));
    let text = String::from_utf8_lossy(&body).into_owned();
    let body = serde_json::from_str(&text).unwrap_or_default();
    let id = headers.get("webhook-id").cloned().unwrap_or_default();
    let webhook = Webhook { id, headers, body, text, at, status };
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(webhook);
    if status == NEVER {
        std::future::pending::<()>().await;
    }
    let answer = format!("HTTP/1.1 {status} Noted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
