//! Carries control messages over a websocket: JSON text out, JSON text in, silence is death.
//!
//! ```text
//!   mpsc::Receiver<Out> ──► one text message each ──► websocket ──► In ──► inbound(In)
//! ```
//!
//! Both ends use it; they differ only in what they say. Reading never waits for writing: a peer
//! that stops reading fills the bounded queue of its own link and nothing else.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use crate::{
    control::{MESSAGE_BYTES_MAX, RaftReply},
    driver::{WebSocket, WebSocketEnd},
    liveness::{Liveness, Verdict},
    websocket,
};

/// How many messages may wait for a link's socket. Control traffic is a few dozen messages a
/// second; a peer this far behind is as good as gone.
pub const OUTBOUND_MESSAGES_MAX: usize = 256;

/// How many calls may be unanswered on one link.
const CALLS_MAX: usize = 1024;

/// How long one write may take before the peer counts as dead.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Websocket limits of a control link: small buffers, because most agents idle on standby.
pub fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .max_write_buffer_size(2 * MESSAGE_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    #[error("closed by the other end{}", .reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    Closed { reason: Option<String> },
    #[error("nothing heard for {silent_for:?}")]
    Dead { silent_for: Duration },
    #[error("the other end did not take a message within {WRITE_LIMIT:?}")]
    Stuck,
    #[error("the other end sent what is no control message: {0}")]
    Malformed(String),
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// Every sender of outbound messages was dropped: our own side is done.
    #[error("closed by this end")]
    Stopped,
}

/// Drives one control websocket until it ends.
///
/// `inbound` is called for every message, in order, and must not block. A kind of message this
/// build does not know is passed over. Dropping the future drops the socket: not graceful, but
/// safe at any point.
pub async fn drive<S, Out, In>(
    socket: WebSocketStream<S>,
    outbound: &mut mpsc::Receiver<Out>,
    mut inbound: impl FnMut(In),
    ping_interval: Duration,
    dead_after: Duration,
) -> LinkEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    Out: Serialize,
    In: DeserializeOwned,
{
    let (mut sink, mut stream) = socket.split();
    let (pings, mut ping_due) = mpsc::channel::<()>(1);
    tokio::select! {
        end = receive(&mut stream, &mut inbound, &pings, ping_interval, dead_after) => end,
        end = send(&mut sink, outbound, &mut ping_due) => end,
    }
}

async fn receive<In: DeserializeOwned>(
    stream: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    inbound: &mut impl FnMut(In),
    pings: &mpsc::Sender<()>,
    ping_interval: Duration,
    dead_after: Duration,
) -> LinkEnd {
    let now = || tokio::time::Instant::now().into_std();
    let mut liveness = Liveness::new(ping_interval, dead_after, now());
    loop {
        let alarm = tokio::time::sleep_until(Instant::into(liveness.poll_timeout()));
        let message = tokio::select! {
            message = stream.next() => message,
            () = alarm => {
                match liveness.handle_timeout(now()) {
                    Verdict::Quiet => {}
                    // A full channel means a ping is already on its way.
                    Verdict::Ask => drop(pings.try_send(())),
                    Verdict::Dead { silent_for } => return LinkEnd::Dead { silent_for },
                }
                continue;
            }
        };
        liveness.heard(now());
        match message {
            Some(Ok(Message::Text(text))) => match parse(text.as_str()) {
                Ok(Some(message)) => inbound(message),
                Ok(None) => tracing::debug!("Passed over a control message of an unknown kind"),
                Err(error) => return LinkEnd::Malformed(error.to_string()),
            },
            Some(Ok(Message::Binary(_) | Message::Frame(_))) => {
                return LinkEnd::Malformed("a binary message".into());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(frame))) => {
                return LinkEnd::Closed { reason: frame.map(|f| f.reason.as_str().to_owned()) };
            }
            Some(Err(error)) => return ended_by(error),
            None => return LinkEnd::Closed { reason: None },
        }
    }
}

/// `Ok(None)`: well-formed, but of a kind newer than this build.
fn parse<In: DeserializeOwned>(text: &str) -> Result<Option<In>, serde_json::Error> {
    match serde_json::from_str(text) {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.is_data() && error.to_string().starts_with("unknown variant") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn send<Out: Serialize>(
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    outbound: &mut mpsc::Receiver<Out>,
    ping_due: &mut mpsc::Receiver<()>,
) -> LinkEnd {
    loop {
        let message = tokio::select! {
            message = outbound.recv() => match message {
                Some(message) => match serde_json::to_string(&message) {
                    Ok(text) => Message::text(text),
                    Err(error) => return LinkEnd::Io(io::Error::other(error)),
                },
                None => {
                    // Best effort: the peer learns that we left on purpose, or sees the socket close.
                    let _ = tokio::time::timeout(Duration::from_secs(1), sink.close()).await;
                    return LinkEnd::Stopped;
                }
            },
            Some(()) = ping_due.recv() => Message::Ping(Vec::new().into()),
        };
        match tokio::time::timeout(WRITE_LIMIT, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ended_by(error),
            Err(_elapsed) => return LinkEnd::Stuck,
        }
    }
}

fn ended_by(error: tungstenite::Error) -> LinkEnd {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            LinkEnd::Closed { reason: None }
        }
        tungstenite::Error::Io(error) => LinkEnd::Io(error),
        tungstenite::Error::Protocol(error) => LinkEnd::Malformed(error.to_string()),
        error @ tungstenite::Error::Capacity(_) => LinkEnd::Malformed(error.to_string()),
        error => LinkEnd::Io(io::Error::other(error)),
    }
}

/// A websocket on which hellos are exchanged: the library's for control, our own for tunnels.
pub trait Texts: Send {
    /// Sends one text message.
    fn send_text(&mut self, text: String) -> impl Future<Output = Result<(), LinkEnd>> + Send;

    /// The next message, which must be text. Pings are answered and passed over.
    fn next_text(&mut self) -> impl Future<Output = Result<String, LinkEnd>> + Send;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Texts for WebSocketStream<S> {
    async fn send_text(&mut self, text: String) -> Result<(), LinkEnd> {
        self.send(Message::text(text)).await.map_err(ended_by)
    }

    async fn next_text(&mut self) -> Result<String, LinkEnd> {
        loop {
            return match self.next().await {
                None => Err(LinkEnd::Closed { reason: None }),
                Some(Err(error)) => Err(ended_by(error)),
                Some(Ok(Message::Text(text))) => Ok(text.as_str().to_owned()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(frame))) => {
                    Err(LinkEnd::Closed { reason: frame.map(|f| f.reason.as_str().to_owned()) })
                }
                Some(Ok(_)) => Err(LinkEnd::Malformed("expected a hello".into())),
            };
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Texts for WebSocket<S> {
    async fn send_text(&mut self, text: String) -> Result<(), LinkEnd> {
        WebSocket::send_text(self, &text).await.map_err(LinkEnd::Io)
    }

    async fn next_text(&mut self) -> Result<String, LinkEnd> {
        match self.next().await {
            Ok(websocket::Message::Text(text)) => Ok(text),
            Ok(websocket::Message::Close(close)) => Err(LinkEnd::Closed { reason: Some(close.reason) }),
            Ok(_) => Err(LinkEnd::Malformed("expected a hello".into())),
            Err(WebSocketEnd::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(LinkEnd::Closed { reason: None })
            }
            Err(WebSocketEnd::Io(error)) => Err(LinkEnd::Io(error)),
            Err(WebSocketEnd::Peer(error)) => Err(LinkEnd::Malformed(error.to_string())),
        }
    }
}

/// Sends one hello as text and reads the other end's, within `limit`.
///
/// # Errors
/// Says in words what came instead; the socket is of no use afterwards.
pub async fn greet<Out, In>(socket: &mut impl Texts, hello: &Out, limit: Duration) -> Result<In, LinkEnd>
where
    Out: Serialize + Sync,
    In: DeserializeOwned,
{
    say(socket, hello).await?;
    hear(socket, limit).await
}

/// Sends one hello.
pub async fn say<Out>(socket: &mut impl Texts, hello: &Out) -> Result<(), LinkEnd>
where
    Out: Serialize + Sync,
{
    let text = serde_json::to_string(hello).map_err(|error| LinkEnd::Io(io::Error::other(error)))?;
    tokio::time::timeout(WRITE_LIMIT, socket.send_text(text)).await.unwrap_or(Err(LinkEnd::Stuck))
}

/// Reads one hello, within `limit`.
pub async fn hear<In>(socket: &mut impl Texts, limit: Duration) -> Result<In, LinkEnd>
where
    In: DeserializeOwned,
{
    match tokio::time::timeout(limit, socket.next_text()).await {
        Err(_elapsed) => Err(LinkEnd::Dead { silent_for: limit }),
        Ok(Err(end)) => Err(end),
        Ok(Ok(text)) if text.len() <= crate::hello::HELLO_BYTES_MAX => {
            serde_json::from_str(&text).map_err(|error| LinkEnd::Malformed(error.to_string()))
        }
        Ok(Ok(_)) => Err(LinkEnd::Malformed("expected a hello".into())),
    }
}

/// Pairs [`RaftReply`]s with the calls they answer, on one link.
#[derive(Debug, Default)]
pub struct Calls {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    calls: HashMap<u64, oneshot::Sender<Result<Box<RawValue>, String>>>,
}

/// A call under way. Dropping it forgets the call; a late answer is then passed over.
#[derive(Debug)]
pub struct Pending<'a> {
    calls: &'a Calls,
    pub id: u64,
    answer: oneshot::Receiver<Result<Box<RawValue>, String>>,
}

impl Calls {
    /// Registers a call; `None` while too many are unanswered.
    pub fn begin(&self) -> Option<Pending<'_>> {
        let (tx, answer) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.calls.len() >= CALLS_MAX {
            return None;
        }
        waiting.next += 1;
        let id = waiting.next;
        waiting.calls.insert(id, tx);
        Some(Pending { calls: self, id, answer })
    }

    /// Hands an answer to whoever waits for it.
    pub fn answer(&self, reply: RaftReply) {
        if let Some(waiting) = self.lock().calls.remove(&reply.id) {
            // The caller may have given up meanwhile; then nobody minds.
            let _ = waiting.send(reply.result);
        }
    }

    /// The link ended: every caller learns it at once.
    pub fn fail_all(&self) {
        self.lock().calls.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The map is consistent after any panic: each change is one insert or remove.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending<'_> {
    /// Waits for the answer, at most `limit`. `Err(None)` is a time-out.
    pub async fn wait(mut self, limit: Duration) -> Result<Box<RawValue>, Option<String>> {
        match tokio::time::timeout(limit, &mut self.answer).await {
            Ok(Ok(result)) => result.map_err(Some),
            Ok(Err(_dropped)) => Err(Some("the control link ended".into())),
            Err(_elapsed) => Err(None),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.calls.lock().calls.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::{
        NodeId,
        control::{AgentMessage, CentralMessage},
    };

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_message_arrives_and_an_unknown_kind_is_passed_over() {
        let (agent, mut central) = pair().await;
        let (tx, mut rx) = mpsc::channel::<AgentMessage>(4);
        let (heard_tx, mut heard) = mpsc::unbounded_channel();
        let link = tokio::spawn(async move {
            drive(agent, &mut rx, |m: CentralMessage| heard_tx.send(m).unwrap(), 5 * S, 15 * S).await
        });
        tx.send(AgentMessage::AskGateway { id: 4 }).await.unwrap();
        let said = central.next().await.unwrap().unwrap();
        assert_eq!(said.to_text().unwrap(), r#"{"ask_gateway":{"id":4}}"#);
        central.send(Message::text(r#"{"moon_phase":{"full":true}}"#)).await.unwrap();
        central.send(Message::text(r#"{"peer_gone":{"node":7}}"#)).await.unwrap();
        assert!(matches!(heard.recv().await, Some(CentralMessage::PeerGone { node: NodeId(7) })));
        drop(tx);
        assert!(matches!(link.await.unwrap(), LinkEnd::Stopped));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_asked_and_then_given_up() {
        let (agent, _central_never_reads) = pair().await;
        let (_tx, mut rx) = mpsc::channel::<AgentMessage>(4);
        let end = drive(agent, &mut rx, |_: CentralMessage| (), 5 * S, 15 * S).await;
        assert!(matches!(end, LinkEnd::Dead { silent_for } if silent_for == 15 * S), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nonsense_ends_the_link() {
        let (agent, mut central) = pair().await;
        let (_tx, mut rx) = mpsc::channel::<AgentMessage>(4);
        central.send(Message::text(r#"{"peer_gone":{"node":"seven"}}"#)).await.unwrap();
        let end = drive(agent, &mut rx, |_: CentralMessage| (), 5 * S, 15 * S).await;
        assert!(matches!(end, LinkEnd::Malformed(_)), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_gets_its_answer_or_a_time_out() {
        let calls = Calls::default();
        let first = calls.begin().unwrap();
        let second = calls.begin().unwrap();
        calls.answer(RaftReply { id: second.id, result: Err("no route".into()) });
        assert_eq!(second.wait(S).await.unwrap_err().as_deref(), Some("no route"));
        assert!(first.wait(S).await.unwrap_err().is_none());
        assert!(calls.lock().calls.is_empty());
    }

    async fn pair() -> (WebSocketStream<tokio::io::DuplexStream>, WebSocketStream<tokio::io::DuplexStream>) {
        let (a, b) = tokio::io::duplex(64 * 1024);
        (
            WebSocketStream::from_raw_socket(a, Role::Client, Some(websocket_config())).await,
            WebSocketStream::from_raw_socket(b, Role::Server, Some(websocket_config())).await,
        )
    }
}
