//! Each type meets a server that speaks it, one that speaks something else, and one that says nothing.

use std::sync::Arc;

use proto::trace::Verdict::{self, Fail, Pass, Skip};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn whoever_speaks_first_is_heard() {
    for (kind, said, heard) in [
        ("ssh", "SSH-2.0-OpenSSH_9.2\r\n", "\"SSH-2.0-OpenSSH_9.2\""),
        ("imap", "* OK ready\r\n", "\"* OK ready\""),
        ("mysql", "\u{a}\0\0\0\u{a}8.0.33\0ab", "MySQL \"8.0.33\""),
    ] {
        let steps = first_words(says(said), target(kind), LIMIT).await;
        assert_eq!((verdicts(&steps), steps[1].detail.as_str()), ([Skip, Pass], heard), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_to_be_asked_is_asked() {
    let answers: [(&str, &[u8]); 5] = [
        ("http", b"HTTP/1.1 405 Method Not Allowed\r\n\r\n"),
        ("postgresql", b"N"),
        ("ldap", &[0x30, 0x0c]),
        ("sqlserver", &[0x04, 0x01]),
        ("oracle", &[0, 8, 0, 0, 4, 0, 0, 0]),
    ];
    for (kind, answer) in answers {
        let steps = first_words(answers_with(answer), target(kind), LIMIT).await;
        assert_eq!(verdicts(&steps), [Skip, Pass], "{kind}: {steps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_protocol_on_the_port_is_told_in_its_own_words() {
    let steps = first_words(says("220 mail ready\r\n"), target("ssh"), LIMIT).await;
    // It goes on listening for a version until the other end closes.
    assert_eq!(verdicts(&steps), [Skip, Fail]);
    let steps = first_words(answers_with(b"SSH-2.0-x\r\n"), target("http"), LIMIT).await;
    assert_eq!(steps[1].detail, "it answered \"SSH-2.0-x\", which is no HTTP");
    assert!(steps[1].action.as_ref().unwrap().contains("port 1234"));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_its_service_is_a_failure() {
    let steps =
        first_words(answers_with(b"HTTP/1.1 503 Service Unavailable\r\n"), target("http"), LIMIT).await;
    assert_eq!(verdicts(&steps), [Skip, Fail]);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_after_the_limit() {
    for kind in ["smtp", "http", "postgresql", "ssh"] {
        let (near, _far) = duplex(4096);
        let began = Instant::now();
        let steps = first_words(near, target(kind), LIMIT).await;
        assert_eq!((verdicts(&steps), began.elapsed()), ([Skip, Fail], LIMIT), "{kind}");
        assert!(steps[1].detail.contains("said nothing within 5 s"), "{steps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn endless_talk_is_bounded() {
    for kind in ["smtp", "ssh", "imap"] {
        let steps = first_words(says(&"220-x".repeat(10_000)), target(kind), LIMIT).await;
        assert_eq!(verdicts(&steps)[1], Fail, "{kind}");
        assert!(steps[1].detail.len() < 512);
    }
}

#[tokio::test(start_paused = true)]
async fn of_what_has_no_first_words_nothing_is_claimed() {
    for kind in ["tcp", "db2", "saprfc", "whatever"] {
        let (near, _far) = duplex(64);
        assert_eq!(verdicts(&first_words(near, target(kind), LIMIT).await), [Skip, Skip], "{kind}");
    }
}

#[tokio::test]
async fn a_certificate_is_told_with_issuer_and_end() {
    let steps = first_words(speaks_tls(2099), target("tls"), LIMIT).await;
    assert_eq!(verdicts(&steps), [Pass, Skip], "{steps:?}");
    let detail = &steps[0].detail;
    assert!(detail.contains("TLS 1.3") && detail.contains("issued by itself"), "{detail}");
    assert!(detail.contains("valid until 2099-01-01"), "{detail}");
}

#[tokio::test]
async fn an_expired_certificate_is_a_failure_and_the_greeting_is_heard_all_the_same() {
    let steps = first_words(speaks_tls(2001), target("https"), LIMIT).await;
    assert_eq!(verdicts(&steps), [Fail, Pass], "{steps:?}");
    assert!(steps[0].detail.contains("EXPIRED on 2001-01-01"), "{steps:?}");
}

#[tokio::test(start_paused = true)]
async fn what_speaks_no_tls_is_told_so() {
    let steps = first_words(answers_with(b"HTTP/1.1 400 Bad Request\r\n\r\n"), target("https"), LIMIT).await;
    assert_eq!(verdicts(&steps), [Fail, Skip]);
    assert_eq!(steps[0].detail, "what it answered is no TLS");
}

#[tokio::test]
async fn a_mail_server_is_asked_for_starttls() {
    let (near, mut far) = duplex(64 * 1024);
    tokio::spawn(async move {
        far.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        let mut read = [0; 512];
        let _ehlo = far.read(&mut read).await.unwrap();
        far.write_all(b"250-mail.example\r\n250-STARTTLS\r\n250 HELP\r\n").await.unwrap();
        let len = far.read(&mut read).await.unwrap();
        assert_eq!(&read[..len], b"STARTTLS\r\n");
        far.write_all(b"220 go ahead\r\n").await.unwrap();
        let _tls = acceptor(2099).accept(far).await;
    });
    let steps = first_words(near, target("smtp"), LIMIT).await;
    assert_eq!(verdicts(&steps), [Pass, Pass], "{steps:?}");
    assert_eq!(steps[1].detail, "\"220 mail.example ESMTP\", offers STARTTLS");
}

fn verdicts(steps: &[Step; 2]) -> [Verdict; 2] {
    assert_eq!((steps[0].hop, steps[1].hop), (Hop::Tls, Hop::Greeting));
    [steps[0].verdict, steps[1].verdict]
}

fn target(kind: &str) -> Target<'_> {
    Target { kind, host: "db.example", port: 1234, path: "" }
}

/// Says it and hangs up.
fn says(text: &str) -> DuplexStream {
    let (near, mut far) = duplex(1 << 20);
    let text = text.to_owned();
    tokio::spawn(async move { far.write_all(text.as_bytes()).await });
    near
}

/// Says it once it was asked anything, and hangs up.
fn answers_with(answer: &[u8]) -> DuplexStream {
    let (near, mut far) = duplex(4096);
    let answer = answer.to_owned();
    tokio::spawn(async move {
        let mut asked = [0; 4096];
        let _ = far.read(&mut asked).await;
        far.write_all(&answer).await
    });
    near
}

/// A server with a certificate until the first of January of this year, which answers one request.
fn speaks_tls(until: i32) -> DuplexStream {
    let (near, far) = duplex(64 * 1024);
    tokio::spawn(async move {
        let Ok(mut stream) = acceptor(until).accept(far).await else { return };
        let mut asked = [0; 4096];
        let _ = stream.read(&mut asked).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let _ = stream.shutdown().await;
    });
    near
}

fn acceptor(until: i32) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
