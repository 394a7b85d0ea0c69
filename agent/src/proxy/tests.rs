//! Proxies that say what they should, and what they should not, over real sockets.

use std::net::Ipv4Addr;

use tokio::{net::TcpListener, task::JoinHandle};

use super::*;
use program::explain;

const TARGET: &str = "central.example:443";
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_2xx_opens_a_pipe_and_no_byte_behind_the_header_is_lost() {
    let proxy = Scripted::saying(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst words"]).await;

    let mut pipe = proxy.open(None).await.unwrap();
    pipe.write_all(b"hello").await.unwrap();
    pipe.shutdown().await.unwrap();

    let mut words = String::new();
    pipe.read_to_string(&mut words).await.unwrap();
    assert_eq!(words, "first words");
    let heard = proxy.heard().await;
    assert_eq!(
        heard,
        "CONNECT central.example:443 HTTP/1.1\r\nHost: central.example:443\r\nUser-Agent: postern-agent\r\n\r\nhello"
    );
}

#[tokio::test]
async fn an_answer_may_come_in_pieces() {
    let whole = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n!";
    let pieces: Vec<_> = whole.split_inclusive(['\r', ' ', 'n']).collect();
    let proxy = Scripted::saying(&pieces).await;

    let mut pipe = proxy.open(None).await.unwrap();

    let mut behind = [0];
    pipe.read_exact(&mut behind).await.unwrap();
    assert_eq!(&behind, b"!");
}

#[tokio::test]
async fn what_stands_in_the_file_is_shown_to_the_proxy_and_to_nobody_else() {
    let (_folder, file) = credentials("Aladdin:open sesame\n");
    let proxy = Scripted::saying(&["HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n"]).await;

    let error = proxy.open(Some(file.clone())).await.unwrap_err();

    let told = explain(&error);
    assert!(told.contains("does not accept the credentials in") && told.contains("407"), "{told}");
    for shown in [told, format!("{error:?}"), format!("{:?}", proxy.at(Some(file)))] {
        assert!(!shown.contains("sesame") && !shown.contains("QWxhZGRpbj"), "{shown}");
    }
    let heard = proxy.heard().await;
    assert!(heard.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{heard}");
}

#[tokio::test]
async fn each_refusal_is_told_with_what_to_do() {
    let many = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000));
    let cases: &[(&str, &[&str])] = &[
        ("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", &["central.proxy_credentials_file"]),
        (
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
            &["offers Negotiate, NTLM", "Basic alone", "cntlm"],
        ),
        (
            "HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n\r\n",
            &["(401; it offers Basic)", "central.proxy_credentials_file"],
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n<html>", &["403 Forbidden", TARGET, "port 443"]),
        ("HTTP/1.1 405 Method\x1b[2J\r\n\r\n", &["is no HTTP proxy"]),
        ("HTTP/1.1 302 Found\r\nLocation: http://login\r\n\r\n", &["302 Found"]),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", &["cannot reach central", "502 Bad Gateway"]),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", &["cannot reach central", "504"]),
        ("SSH-2.0-OpenSSH_9.2\r\n", &["no HTTP proxy", "\"SSH-2.0-OpenSSH_9.2..\""]),
        ("", &["closed the connection instead of answering"]),
        ("HTTP/1.1 200 O", &["closed the connection instead of answering"]),
        (&many, &["longer than 16 KiB"]),
    ];
    for (said, words) in cases {
        let proxy = Scripted::saying(&[said]).await;
        let told = explain(&proxy.open(None).await.unwrap_err());
        assert!(told.contains(&proxy.url.to_string()), "{told}");
        for word in *words {
            assert!(told.contains(word), "{word:?} is missing in {told:?}");
        }
        assert!(!told.contains(char::is_control), "{told:?}");
    }
}

#[tokio::test]
async fn one_that_says_nothing_or_never_ends_is_left_at_the_deadline() {
    for said in ["", "HTTP/1.1 200 OK\r\nX: "] {
        let proxy = Scripted::hanging_after(said).await;
        let deadline = Instant::now() + Duration::from_millis(200);
        let open = proxy.at(None);
        let error = open
            .open(TARGET, &TcpConnector::default(), deadline, Duration::from_millis(200))
            .await
            .unwrap_err();
        assert!(matches!(error, ProxyError::TimedOut { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_told_with_the_addresses_tried() {
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let proxy = Proxy { url: format!("http://{gone}").parse().unwrap(), credentials_file: None };
    let told = explain(&open(&proxy).await.unwrap_err());
    assert!(told.contains(&format!("tried [{gone}]")) && told.contains("central.proxy"), "{told}");
}

#[tokio::test]
async fn the_file_is_read_anew_for_each_connection() {
    let (_folder, file) = credentials("u:first");
    let first = Scripted::saying(&["HTTP/1.1 200 OK\r\n\r\n"]).await;
    drop(first.open(Some(file.clone())).await.unwrap());
    assert!(first.heard().await.contains("Basic dTpmaXJzdA=="));

    std::fs::remove_file(&file).unwrap();
    let second = Scripted::saying(&["HTTP/1.1 200 OK\r\n\r\n"]).await;
    let told = explain(&second.open(Some(file)).await.unwrap_err());
    assert!(told.contains("credentials for the proxy") && told.contains("cannot be read"), "{told}");
}

#[test]
fn its_lines_of_the_configuration_say_the_same() {
    let (folder, file) = credentials("u:p");
    let url: ProxyUrl = "http://proxy.corp:3128".parse().unwrap();
    for proxy in [
        Proxy { url: url.clone(), credentials_file: None },
        Proxy { url: url.clone(), credentials_file: Some(file.clone()) },
    ] {
        let place = std::path::Path::new("agent.toml");
        let config = crate::config::Config::parse(&proxy.in_toml(), place, folder.path()).unwrap();
        assert_eq!(config.proxy, Some(proxy));
    }
}

async fn open(proxy: &Proxy) -> Result<TcpStream, ProxyError> {
    proxy.open(TARGET, &TcpConnector::default(), Instant::now() + LIMIT, LIMIT).await
}

/// A proxy for one connection: it waits for the question, says its lines, then its end, and keeps what it heard.
struct Scripted {
    url: ProxyUrl,
    heard: JoinHandle<String>,
}

impl Scripted {
    async fn saying(pieces: &[&str]) -> Self {
        Self::start(pieces, true).await
    }

    async fn hanging_after(said: &str) -> Self {
        Self::start(&[said], false).await
    }

    async fn start(pieces: &[&str], ends: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let pieces: Vec<_> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        let heard = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                let count = socket.read_buf(&mut heard).await.unwrap();
                assert_ne!(count, 0, "the question has an end");
            }
            for piece in pieces {
                // Whoever has heard enough goes away.
                let _ = socket.write_all(piece.as_bytes()).await;
                tokio::task::yield_now().await;
            }
            if ends {
                let _ = socket.shutdown().await;
            }
            let _ = socket.read_to_end(&mut heard).await;
            String::from_utf8(heard).unwrap()
        });
        Self { url, heard }
    }

    fn at(&self, credentials_file: Option<PathBuf>) -> Proxy {
        Proxy { url: self.url.clone(), credentials_file }
    }

    async fn open(&self, credentials_file: Option<PathBuf>) -> Result<TcpStream, ProxyError> {
        open(&self.at(credentials_file)).await
    }

    async fn heard(self) -> String {
        self.heard.await.unwrap()
    }
}

fn credentials(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.credentials");
    crate::data_dir::replace_file(&file, text.as_bytes()).unwrap();
    (folder, file)
}
