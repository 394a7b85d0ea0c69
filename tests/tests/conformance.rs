//! What others think of our websockets and our TLS: kosoku's cases of RFC 6455 in both roles, sslyze against Mozilla's
//! recommendations, testssl.sh's list of known weaknesses.
//!
//! `CONFORMANCE_LONG=1` adds kosoku's large messages (group 9) and everything that testssl knows.
#![expect(clippy::expect_used, reason = "panicking is how a test fails")]

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postern_tests::{Folder, Site, needs, port, wait_until};
use proto::websocket::{Decoder, Message, Outgoing, Role, WebSocketError};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const WITHIN: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(30);
/// Larger than any message of kosoku's; the programs' own bound is a test of `proto`.
const MESSAGE_MAX_BYTES: usize = 32 << 20;
/// The groups but large messages (9) and compression (12, 13), which is never agreed.
const CASES: usize = 247;
const CASES_OF_GROUP_9: usize = 54;

#[tokio::test]
async fn our_websocket_is_a_server_in_all_of_kosoku_s_cases() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut clients = JoinSet::new();
    let serving = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A case that breaks off is kosoku's to judge.
            clients.spawn(async move { echo(Line::accept(stream).await?).await });
        }
    };
    let folder = Folder::new("kosoku");
    let mut kosoku = kosoku("fuzzingclient", &folder, addr);
    kosoku.args(["-p", "2"]);
    let said = tokio::select! {
        said = said(&mut kosoku) => said,
        () = serving => unreachable!("it serves for ever"),
    };
    judge(&folder, &said);
}

#[tokio::test]
async fn our_websocket_is_a_client_in_all_of_kosoku_s_cases() {
    let folder = Folder::new("kosoku");
    let addr = port::free();
    let mut kosoku = kosoku("fuzzingserver", &folder, addr);
    let walk = async {
        let first =
            wait_until("kosoku listens", SOON, async || Line::dial(addr, "/getCaseCount").await.ok()).await;
        let count: usize = count(first).await.expect("how many cases there are");
        for case in 1..=count {
            let line = Line::dial(addr, &format!("/runCase?case={case}&agent=postern")).await.unwrap();
            // How it ends is kosoku's to judge.
            let _ = echo(line).await;
        }
        let last = Line::dial(addr, "/updateReports?agent=postern").await.unwrap();
        let _ = echo(last).await;
    };
    let (said, ()) = tokio::join!(said(&mut kosoku), walk);
    judge(&folder, &said);
}

#[tokio::test]
async fn sslyze_finds_what_mozilla_recommends() {
    let site = site().await;
    let sslyze = async |config: &str, addr: SocketAddr| {
        let mut command = Command::new(needs::python());
        command.args(["-m", "sslyze", &format!("--mozilla_config={config}"), &addr.to_string()]);
        command.arg("--certinfo_ca_file").arg(site.central().ca_cert());
        let (said, _) = said(&mut command).await;
        let (_, compliance) = said.split_once("COMPLIANCE AGAINST").expect("sslyze came to a verdict");
        let against: Vec<String> =
            compliance.lines().filter_map(|line| line.trim().strip_prefix("* ")).map(str::to_owned).collect();
        assert!(!against.is_empty() || compliance.contains("OK - Compliant"), "{said}");
        against
    };
    assert_eq!(sslyze("modern", site.central().tunnel()).await, [""; 0]);
    // Browsers: TLS 1.2 too.
    assert_eq!(sslyze("intermediate", site.central().admin()).await, [""; 0]);
    // Peers know each other by their keys and not by host names, so that one thing stays.
    let against = sslyze("modern", site.host("alpha").peers()).await;
    assert!(
        matches!(against.as_slice(), [one] if one.starts_with("certificate_path_validation")),
        "{against:?}"
    );
}

#[tokio::test]
async fn testssl_finds_nothing() {
    let site = site().await;
    let folder = Folder::new("testssl");
    let report = folder.join("tunnel.json");
    let mut testssl = Command::new(needs::command("testssl", "testssl.sh"));
    testssl.args(["--quiet", "--color", "0", "--warnings", "batch", "--severity", "LOW"]);
    testssl.arg("--jsonfile").arg(&report).arg("--add-ca").arg(site.central().ca_cert());
    if !long() {
        // Versions and what the server says of itself; ciphers and known weaknesses follow from TLS 1.3 alone.
        testssl.args(["-p", "-S"]);
    }
    // Not the peers' port: it wants a certificate of whoever asks, and testssl has none to show (before 3.2). sslyze looks there.
    testssl.arg(site.central().tunnel().to_string());
    let (said, _) = said(&mut testssl).await;
    let findings = json(&report);
    let findings = findings.as_array().unwrap_or_else(|| panic!("testssl made no list: {said}"));
    let matters = |finding: &&Value| !is_no_concern(finding["id"].as_str().unwrap_or_default());
    let left: Vec<_> = findings.iter().filter(matters).collect();
    assert!(left.is_empty(), "{left:#?}\n{said}");
    assert!(said.contains("TLS 1.3    offered (OK)"), "{said}");
}

/// What a certificate of a private authority cannot have, and what speaks of testssl's own OpenSSL.
fn is_no_concern(id: &str) -> bool {
    ["engine_problem", "cert_revocation", "DNS_CAArecord"].contains(&id)
}

async fn site() -> Site {
    let nobody = port::free();
    Site::start(&["alpha"], nobody).await
}

fn long() -> bool {
    std::env::var_os("CONFORMANCE_LONG").is_some()
}

fn kosoku(mode: &str, folder: &Folder, addr: SocketAddr) -> Command {
    let mut command = Command::new(needs::python().with_file_name("kosoku"));
    command.args(["-m", mode, "-x", "12.*", "-x", "13.*", "-o"]).arg(folder.join("report"));
    if !long() {
        command.args(["-x", "9.*"]);
    }
    command.arg(addr.to_string());
    command
}

/// Every case was played, and none was failed.
fn judge(folder: &Folder, (said, success): &(String, bool)) {
    let index = json(&folder.join("report/index.json"));
    let cases: Vec<_> =
        index.as_object().expect("a report").values().filter_map(Value::as_object).flatten().collect();
    let wanted = if long() { CASES + CASES_OF_GROUP_9 } else { CASES };
    let failed: Vec<_> = cases
        .iter()
        .filter(|(_, case)| !matches!(case["behavior"].as_str(), Some("OK" | "NON-STRICT" | "INFORMATIONAL")))
        .collect();
    println!("{} of {} cases", cases.len() - failed.len(), cases.len());
    assert!(failed.is_empty() && *success, "{failed:#?}\n{said}");
    assert_eq!(cases.len(), wanted);
}

/// What a program printed, on both, and whether it was content.
async fn said(command: &mut Command) -> (String, bool) {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(WITHIN, running).await.expect("it comes to an end").expect("it can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout) + &text(&output.stderr), output.status.success())
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}: {text}", path.display()))
}

/// Says back whatever is said, until a close, or a breach of the protocol.
async fn echo(mut line: Line) -> io::Result<()> {
    loop {
        match line.next().await? {
            Ok(Some(Message::Text(text))) => line.out.text(&text, rand::random()),
            Ok(Some(Message::Binary(bytes))) if bytes.is_empty() => line.empty().await?,
            Ok(Some(Message::Binary(bytes))) => {
                line.out.message().extend_from_slice(&bytes);
                line.out.seal(rand::random());
            }
            Ok(Some(Message::Ping(payload))) => line.out.pong(&payload, rand::random()),
            Ok(Some(Message::Pong)) => {}
            Ok(Some(Message::Close(close))) => {
                return line.hang_up(close.code.map(|code| (code, close.reason.as_str()))).await;
            }
            Ok(None) => return Ok(()),
            Err(breach) => return line.hang_up(Some((breach.close_code(), ""))).await,
        }
        line.flush().await?;
    }
}

/// The one message that [`Line`] says after its path was dialled: a number.
async fn count(mut line: Line) -> Option<usize> {
    match line.next().await.ok()?.ok()?? {
        Message::Text(text) => text.parse().ok(),
        _ => None,
    }
}

/// A websocket of ours on a socket, its opening handshake done as plainly as can be.
struct Line {
    stream: TcpStream,
    role: Role,
    decoder: Decoder,
    input: BytesMut,
    out: Outgoing,
}

impl Line {
    async fn accept(mut stream: TcpStream) -> io::Result<Self> {
        let head = head(&mut stream).await?;
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
        });
        let accept = derive_accept_key(key.ok_or(io::ErrorKind::InvalidData)?.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        Ok(Self::over(stream, Role::Server))
    }

    async fn dial(addr: SocketAddr, path: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(addr).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let answer = head(&mut stream).await?;
        if answer.starts_with("HTTP/1.1 101 ") {
            Ok(Self::over(stream, Role::Client))
        } else {
            Err(io::Error::other(answer))
        }
    }

    fn over(stream: TcpStream, role: Role) -> Self {
        let decoder = Decoder::new(role, MESSAGE_MAX_BYTES);
        Self { stream, role, decoder, input: BytesMut::new(), out: Outgoing::new(role) }
    }

    /// The next message; `None` where the line ends.
    async fn next(&mut self) -> io::Result<Result<Option<Message>, WebSocketError>> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(None) => {}
                Ok(message) => return Ok(Ok(message)),
                Err(breach) => return Ok(Err(breach)),
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(Ok(None));
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.out.chunk().is_empty() {
            let written = self.stream.write(self.out.chunk()).await?;
            self.out.written(written);
        }
        Ok(())
    }

    /// A binary message of nothing. The programs never say that, so [`Outgoing`] does not.
    async fn empty(&mut self) -> io::Result<()> {
        let frame = match self.role {
            Role::Server => Bytes::from_static(&[0x82, 0x00]),
            Role::Client => Bytes::from_static(&[0x82, 0x80, 1, 2, 3, 4]),
        };
        self.stream.write_all(&frame).await
    }

    async fn hang_up(mut self, why: Option<(u16, &str)>) -> io::Result<()> {
        self.out.close(why, rand::random());
        self.flush().await?;
        self.stream.shutdown().await?;
        // What is unread when a socket closes would destroy what was just said.
        while self.stream.read_buf(&mut self.input).await? > 0 {
            self.input.clear();
        }
        Ok(())
    }
}

/// The head of a request or an answer, and not a byte of what follows.
async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(io::Error::other)
}
