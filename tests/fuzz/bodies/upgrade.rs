//! The HTTP in front of both websockets: what central reads of a request, what an agent reads of the answer.

use std::{
    str,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent::{central::OpenError, identity::central::CentralUrl};
use axum::{Router, extract::Request, routing::get};
use central::{door, gateway::websocket};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use proto::{
    hello::{CONTROL_PATH, CONTROL_SUBPROTOCOL, HELLO_BYTES_MAX, TUNNEL_PATH, TUNNEL_SUBPROTOCOL},
    link::{self, LinkEnd},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::block_on;

/// More than either end may keep of what is not yet understood.
const PIPE_BYTES: usize = 1024 * 1024;

/// What a stranger says to central's door: answered in HTTP or not at all; and a websocket is made only of a request
/// that has no body, comes from no browser and asks for one. The first byte says in which pieces it comes.
pub(crate) fn upgrade_request(data: &[u8]) {
    let [how, request @ ..] = data else { return };
    let upgraded = Arc::new(AtomicUsize::new(0));
    let seen = upgraded.clone();
    let tunnel = move |request: Request| {
        let seen = seen.clone();
        async move {
            websocket::upgrade(request, TUNNEL_SUBPROTOCOL, async move |connection| {
                seen.fetch_add(1, Ordering::Relaxed);
                drop(connection);
            })
        }
    };
    let router = Router::new().route(TUNNEL_PATH, get(tunnel));
    let answer = block_on(async {
        let (mut near, far) = duplex(PIPE_BYTES);
        let service = TowerToHyperService::new(router);
        let serving = tokio::spawn(async move {
            // What breaks off is no concern of central's.
            let _ = door::http1().serve_connection(TokioIo::new(far), service).with_upgrades().await;
        });
        say(&mut near, request, usize::from(*how) * 8 + 1).await;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.expect("a pipe");
        serving.await.expect("it serves without panic");
        answer
    });

    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    let promised = answer.starts_with(b"HTTP/1.1 101 ");
    assert!(upgraded.load(Ordering::Relaxed) <= 1, "one connection was taken up twice");
    if promised {
        let head = head_of(request);
        let has = |name: &str| head.iter().any(|(known, _)| known == name);
        assert!(!has("content-length") && !has("transfer-encoding"), "an upgrade with a body");
        assert!(!has("origin"), "an upgrade for a browser");
        for (name, wanted) in [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", TUNNEL_SUBPROTOCOL),
            ("sec-websocket-key", ""),
        ] {
            let says = |(known, value): &(String, String)| known == name && value.contains(wanted);
            assert!(head.iter().any(says), "an upgrade without {name}: {wanted}");
        }
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("the answer's head ends");
        assert_eq!(end + 4, answer.len(), "HTTP behind an upgrade");
    }
}

/// The lines of a request's head, as naively as they can be read; names and values in lower case.
fn head_of(request: &[u8]) -> Vec<(String, String)> {
    let lines = request.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).to_lowercase());
    lines
        .map(|line| line.trim_end_matches('\r').to_owned())
        // Blank lines may stand before a request.
        .skip_while(String::is_empty)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}

/// What whoever sits at central's address answers to an agent that asks for a websocket, and says in it: it is central
/// only if it knows the key, and then its messages are read within their bound. `$` stands for the answer to the key.
pub(crate) fn upgrade_answer(data: &[u8]) {
    let central: CentralUrl = "https://central.example".parse().expect("an address");
    let (knew, opened) = block_on(async {
        let (near, mut far) = duplex(PIPE_BYTES);
        let asking =
            async {
                let config = link::websocket_config();
                let mut socket =
                    match agent::central::upgrade(near, &central, CONTROL_PATH, CONTROL_SUBPROTOCOL, config)
                        .await
                    {
                        Ok(socket) => socket,
                        Err(error) => return Err(error),
                    };
                // The first word, and whatever it is, no more: the hello's meaning is another target's.
                let heard: Result<serde_json::Value, LinkEnd> =
                    link::hear(&mut socket, Duration::from_secs(1)).await;
                let said = heard.map_or_else(|end| end.to_string(), |word| word.to_string());
                assert!(said.len() <= 4 * HELLO_BYTES_MAX, "{} bytes were made of it", said.len());
                Ok(())
            };
        let answering = async {
            let key = key_of(&mut far).await;
            let accept = derive_accept_key(key.as_bytes());
            let mut answer = Vec::new();
            let mut knew = false;
            for byte in data {
                match byte {
                    b'$' => {
                        knew = true;
                        answer.extend_from_slice(accept.as_bytes());
                    }
                    other => answer.push(*other),
                }
            }
            say(&mut far, &answer, answer.len().max(1)).await;
            // Kept until the agent has had its say.
            (far, knew)
        };
        let (opened, (_far, knew)) = tokio::join!(asking, answering);
        (knew, opened)
    });
    match opened {
        Ok(()) => assert!(knew, "taken for central without its answer to the key"),
        Err(OpenError::Refused { text, .. }) => assert!(text.len() <= 3 * 512),
        Err(OpenError::Connect(error)) => panic!("{error}"),
        Err(OpenError::TimedOut { .. } | OpenError::Upgrade { .. }) => {}
    }
}

/// Reads a request's head and finds its key.
async fn key_of(from: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await.expect("a whole request"));
    }
    let head = str::from_utf8(&head).expect("text");
    let value = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    value.expect("a key").to_owned()
}

/// Says it in pieces, and then no more.
async fn say(to: &mut DuplexStream, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        // The other end may have gone.
        if to.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = to.shutdown().await;
}
