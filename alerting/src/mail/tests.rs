//! Against a mail server that records, refuses, babbles, or lies in the middle.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{Alerts, Courier, IncidentId, outbox::Attempt, receiver::Authority};

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 03:00 UTC);

#[tokio::test]
async fn a_mail_arrives_readable_whatever_is_in_its_words() {
    let server = Server::start(Trait::default(), None).await;
    let mut given = server.endpoint("smtp", "?tls=none");
    given["down"] = json!({
        "subject": "Älarm\r\nBcc: everybody@example.com",
        "body": ".\r\nQUIT\r\n{{ event.summary }} ü"
    });
    let attempt = send(given, Kind::Down).await;
    assert!(
        matches!(&attempt.outcome, Outcome::Answered { status: 250, excerpt, .. } if excerpt == "queued as 7"),
        "{attempt:?}"
    );
    let said = server.said();
    assert_eq!(
        said[..4],
        [
            "EHLO example.com",
            "MAIL FROM:<postern@example.com>",
            "RCPT TO:<night@example.com>",
            "RCPT TO:<day@example.com>"
        ]
    );
    assert!(
        said.contains(&"Subject: =?utf-8?B?w4RsYXJtIEJjYzogZXZlcnlib2R5QGV4YW1wbGUuY29t?=".to_owned()),
        "{said:?}"
    );
    assert!(
        said.contains(&"To: night@example.com,".to_owned()) && said.contains(&" day@example.com".to_owned())
    );
    assert!(!said.iter().any(|line| line.starts_with("Bcc")), "{said:?}");
    let body: String = said
        .iter()
        .skip_while(|line| !line.is_empty())
        .take_while(|line| *line != ".")
        .map(String::as_str)
        .collect();
    let text = String::from_utf8(STANDARD.decode(body).unwrap()).unwrap();
    assert_eq!(text, ".\r\nQUIT\r\nThis is a test: nothing has happened ü");
}

#[tokio::test]
async fn an_up_answers_the_mail_of_its_down() {
    let server = Server::start(Trait::default(), None).await;
    let given = server.endpoint("smtp", "?tls=none");
    send(given.clone(), Kind::Down).await;
    send(given, Kind::Up).await;
    let said = server.said();
    let value = |name: &str| said.iter().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    assert_eq!(value("In-Reply-To: "), value("Message-ID: "));
}

#[tokio::test]
async fn over_starttls_the_password_is_said_only_behind_it() {
    let authority = Authority::new();
    let server =
        Server::start(Trait { auth: "AUTH PLAIN LOGIN", ..Trait::default() }, Some(&authority)).await;
    let mut given = server.endpoint("smtp", "");
    given["ca"] = json!(authority.ca);
    given["smtp_credentials"] = json!("user:canary");
    let attempt = send(given, Kind::Down).await;
    assert!(matches!(attempt.outcome, Outcome::Answered { status: 250, .. }), "{attempt:?}");
    let said = server.said();
    assert_eq!(said[..3], ["EHLO example.com", "STARTTLS", "EHLO example.com"]);
    assert_eq!(said[3], format!("AUTH PLAIN {}", STANDARD.encode("\0user\0canary")));
}

#[tokio::test]
async fn tls_from_the_first_byte_and_the_older_login_work_too() {
    let authority = Authority::new();
    let server =
        Server::start(Trait { auth: "AUTH LOGIN", implicit: true, ..Trait::default() }, Some(&authority))
            .await;
    let mut given = server.endpoint("smtps", "");
    given["ca"] = json!(authority.ca);
    given["smtp_credentials"] = json!("user:canary");
    let attempt = send(given, Kind::Down).await;
    assert!(matches!(attempt.outcome, Outcome::Answered { status: 250, .. }), "{attempt:?}");
    assert_eq!(
        server.said()[1..4],
        ["AUTH LOGIN".to_owned(), STANDARD.encode("user"), STANDARD.encode("canary")]
    );
}

#[tokio::test]
async fn without_the_promised_tls_nothing_is_said() {
    let (ours, others) = (Authority::new(), Authority::new());
    let plain = Server::start(Trait::default(), None).await;
    let attempt = send(plain.endpoint("smtp", ""), Kind::Down).await;
    assert!(matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("STARTTLS")), "{attempt:?}");
    assert_eq!(plain.said(), ["EHLO example.com"]);

    let server = Server::start(Trait::default(), Some(&ours)).await;
    let mut given = server.endpoint("smtp", "");
    given["ca"] = json!(others.ca);
    let attempt = send(given, Kind::Down).await;
    assert!(
        matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("certificate")),
        "{attempt:?}"
    );
    assert_eq!(server.said(), ["EHLO example.com", "STARTTLS"]);
}

#[tokio::test]
async fn what_is_slipped_in_before_tls_ends_the_conversation() {
    let authority = Authority::new();
    let odd =
        Trait { starttls: "220 go\r\n250 a\r\n250 b\r\n250 c\r\n354 d\r\n250 e\r\n", ..Trait::default() };
    let server = Server::start(odd, Some(&authority)).await;
    let mut given = server.endpoint("smtp", "");
    given["ca"] = json!(authority.ca);
    let attempt = send(given, Kind::Down).await;
    assert!(matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("more came")), "{attempt:?}");
}

#[tokio::test]
async fn one_old_address_does_not_keep_the_mail_from_the_others() {
    let server = Server::start(Trait { refuses: "day@", ..Trait::default() }, None).await;
    let attempt = send(server.endpoint("smtp", "?tls=none"), Kind::Down).await;
    assert!(
        matches!(&attempt.outcome, Outcome::Answered { excerpt, .. } if excerpt.contains("day@example.com with 550")),
        "{attempt:?}"
    );
    let server = Server::start(Trait { refuses: "@example.com", ..Trait::default() }, None).await;
    let attempt = send(server.endpoint("smtp", "?tls=none"), Kind::Down).await;
    assert!(matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("550")), "{attempt:?}");
}

#[tokio::test]
async fn a_server_that_babbles_or_is_none_is_left() {
    for greeting in
        ["what\r\n".to_owned(), "220-more\r\n".repeat(9999), "x".repeat(99_999), "554 no\r\n".into()]
    {
        let server = Server::start(Trait { greeting: greeting.leak(), ..Trait::default() }, None).await;
        let attempt = send(server.endpoint("smtp", "?tls=none"), Kind::Down).await;
        assert!(matches!(attempt.outcome, Outcome::Failed { .. }), "{attempt:?}");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let server = Server::start(Trait { silent: true, ..Trait::default() }, None).await;
    let attempt = tokio::spawn(send(server.endpoint("smtp", "?tls=none"), Kind::Down));
    while server.said().is_empty() {
        tokio::task::yield_now().await;
    }
    // It was spoken to and says nothing: from here only time can pass.
    tokio::time::pause();
    let attempt = attempt.await.unwrap();
    assert!(matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("silent")), "{attempt:?}");
}

#[tokio::test]
async fn a_server_inside_is_not_called_unless_it_is_allowed() {
    let server = Server::start(Trait::default(), None).await;
    let given = server.endpoint("smtp", "?tls=none");
    let attempt = attempt(&Courier::new(AddressRules::new(|_| false)), given, Kind::Down).await;
    assert!(matches!(&attempt.outcome, Outcome::Failed { why } if why.contains("loopback")), "{attempt:?}");
    assert_eq!(server.said(), [""; 0]);
}

#[test]
fn a_long_subject_is_folded_at_letters() {
    let folded = encoded_words(&"ü".repeat(60));
    for word in folded.split("\r\n ") {
        assert!(word.len() <= 75, "{word}");
        let inner = word.strip_prefix("=?utf-8?B?").unwrap().strip_suffix("?=").unwrap();
        assert!(String::from_utf8(STANDARD.decode(inner).unwrap()).unwrap().chars().all(|c| c == 'ü'));
    }
    assert_eq!(encoded_words("plain"), "plain");
    assert_ne!(encoded_words("=?utf-8?Q?fake?="), "=?utf-8?Q?fake?=");
}

/// What makes a server special.
#[derive(Clone, Copy)]
struct Trait {
    greeting: &'static str,
    auth: &'static str,
    starttls: &'static str,
    /// Recipients with this in them.
    refuses: &'static str,
    implicit: bool,
    /// After its greeting.
    silent: bool,
}

impl Default for Trait {
    fn default() -> Self {
        let (greeting, auth, starttls, refuses) = ("220 mail.test ready\r\n", "HELP", "220 go\r\n", "nobody");
        Self { greeting, auth, starttls, refuses, implicit: false, silent: false }
    }
}

struct Server {
    port: u16,
    said: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(special: Trait, tls: Option<&Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Arc::new(Mutex::new(Vec::new()));
        let tls = tls.map(|authority| TlsAcceptor::from(Arc::new(authority.server())));
        let lines = said.clone();
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (lines, tls) = (lines.clone(), tls.clone());
                tokio::spawn(async move {
                    match (tls, special.implicit) {
                        (Some(tls), true) => {
                            let Ok(stream) = tls.accept(tcp).await else { return };
                            serve(BufStream::new(stream), special, &lines, true, true).await;
                        }
                        (tls, _) => {
                            let bare = serve(BufStream::new(tcp), special, &lines, true, tls.is_none()).await;
                            if let (Some(bare), Some(tls)) = (bare, tls)
                                && let Ok(stream) = tls.accept(bare.into_inner()).await
                            {
                                serve(BufStream::new(stream), special, &lines, false, true).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, said }
    }

    fn endpoint(&self, scheme: &str, query: &str) -> Value {
        json!({
            "name": "a", "url": format!("{scheme}://127.0.0.1:{}{query}", self.port),
            "from": "postern@example.com", "to": ["night@example.com", "day@example.com"]
        })
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

/// Speaks until the end, or until TLS is to begin: then the bare connection comes back.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufStream<S>,
    special: Trait,
    said: &Mutex<Vec<String>>,
    greets: bool,
    secure: bool,
) -> Option<BufStream<S>> {
    if greets {
        stream.write_all(special.greeting.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
    let mut in_mail = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end_matches("\r\n").to_owned();
        said.lock().unwrap().push(line.clone());
        let reply = match line.split([' ', ':']).next().unwrap_or_default() {
            _ if special.silent => std::future::pending().await,
            _ if in_mail => {
                in_mail = line != ".";
                if in_mail { continue } else { "250 queued as 7".to_owned() }
            }
            "EHLO" if secure => format!("250-mail.test\r\n250-SIZE 1000000\r\n250 {}", special.auth),
            "EHLO" => "250-mail.test\r\n250-SIZE 1000000\r\n250 STARTTLS".to_owned(),
            "STARTTLS" => {
                stream.write_all(special.starttls.as_bytes()).await.ok()?;
                stream.flush().await.ok()?;
                return Some(stream);
            }
            "AUTH" if line.starts_with("AUTH PLAIN ") => "235 welcome".to_owned(),
            "RCPT" if line.contains(special.refuses) => "550 nobody here".to_owned(),
            "MAIL" | "RCPT" => "250 fine".to_owned(),
            "DATA" => {
                in_mail = true;
                "354 go on".to_owned()
            }
            "QUIT" => return None,
            // The two halves of AUTH LOGIN.
            "AUTH" => "334 VXNlcm5hbWU6".to_owned(),
            half if half == STANDARD.encode("user") => "334 UGFzc3dvcmQ6".to_owned(),
            half if half == STANDARD.encode("canary") => "235 welcome".to_owned(),
            _ => "500 what".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
}

async fn send(given: Value, kind: Kind) -> Attempt {
    let loopback = AddressRules::new(|address| address == IpAddr::from([127, 0, 0, 1]));
    attempt(&Courier::new(loopback), given, kind).await
}

async fn attempt(courier: &Courier, given: Value, kind: Kind) -> Attempt {
    let document = serde_json::from_value(json!({"endpoints": [given]})).unwrap();
    let alerts = Alerts::check(document, &Alerts::default(), &AddressRules::new(|_| true)).unwrap();
    let alert = Alert::sample(kind, IncidentId::new("test"), "acme", NOW);
    let id = DeliveryId::of(&alert.incident.id, kind, "a");
    courier.attempt(&alerts.endpoints()[0], &id, &alert, NOW).await
}
