//! Those at both ends: clients in the cloud, a destination at the site.
//!
//! ```text
//!   webhook: who is told of an outage, and of its end
//!   client: ticket ─► central ─► agent ─► echo: "served by way of 10.77.1.2", and every byte back
//! ```
//!
//! What a client writes is a row of notes; each says whose it is, which in the row, and when it was written. So
//! either end sees at once when one is missing, twice, out of order, or from another time.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    dice::Dice,
    kernel,
    oracle::Oracle,
    programs::{CENTRAL, ECHO_AT_CENTRAL, ECHO_AT_SITE, HOSTS, ON_CALL_PORT},
};

/// A note: stream, number, time, check.
pub(crate) const NOTE_BYTES: usize = 32;
/// What the destination says first: its visitor's address, padded.
const GREETING_BYTES: usize = 16;
/// How long a prober waits for its one answer.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The judge, shared by all who see something.
pub(crate) type Judge = Arc<Mutex<Oracle>>;

pub(crate) fn judge(judge: &Judge) -> MutexGuard<'_, Oracle> {
    judge.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u64 {
    kernel::now().unwrap_or(0)
}

/// One note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) stream: u64,
    pub(crate) number: u64,
    pub(crate) written_at: u64,
}

impl Note {
    fn check(&self) -> u64 {
        (self.stream ^ self.number.rotate_left(17) ^ self.written_at.rotate_left(41))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn bytes(&self) -> [u8; NOTE_BYTES] {
        let mut bytes = [0; NOTE_BYTES];
        for (place, number) in [self.stream, self.number, self.written_at, self.check()].iter().enumerate() {
            bytes[place * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// `None`: these are not the bytes of a note.
    fn read(bytes: &[u8]) -> Option<Self> {
        let number =
            |place: usize| Some(u64::from_le_bytes(bytes.get(place * 8..place * 8 + 8)?.try_into().ok()?));
        let note = Self { stream: number(0)?, number: number(1)?, written_at: number(2)? };
        (number(3)? == note.check()).then_some(note)
    }
}

/// Reads notes from bytes as they come.
#[derive(Default)]
struct Notes {
    rest: Vec<u8>,
}

impl Notes {
    /// The whole notes so far; `Err` when they are none.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Note>, ()> {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() / NOTE_BYTES * NOTE_BYTES;
        let notes = self.rest[..whole].chunks(NOTE_BYTES).map(|bytes| Note::read(bytes).ok_or(())).collect();
        self.rest.drain(..whole);
        notes
    }
}

/// The destination: greets, gives every byte back, ends when its visitor has ended.
pub(crate) async fn echo(oracle: Judge) {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ECHO_AT_SITE));
    #[expect(clippy::expect_used, reason = "nobody else is on this host")]
    let listener = TcpListener::bind(address).await.expect("the destination's port");
    loop {
        if let Ok((socket, from)) = listener.accept().await {
            tokio::spawn(serve(socket, from, oracle.clone()));
        }
    }
}

async fn serve(mut socket: TcpStream, from: SocketAddr, oracle: Judge) {
    let mut greeting = [b' '; GREETING_BYTES];
    let text = from.ip().to_string();
    greeting[..text.len()].copy_from_slice(text.as_bytes());
    if socket.write_all(&greeting).await.is_err() {
        return;
    }
    let (mut notes, mut bytes, mut expected) = (Notes::default(), vec![0; 16 * 1024], 0);
    let mut stream = None;
    loop {
        let len = match socket.read(&mut bytes).await {
            Ok(0) => break,
            Ok(len) => len,
            Err(_) => return,
        };
        match notes.take(&bytes[..len]) {
            Ok(arrived) => {
                for note in arrived {
                    judge(&oracle).at_destination(&note, expected, from.ip(), now());
                    expected = note.number + 1;
                    stream = Some(note.stream);
                }
            }
            Err(()) => judge(&oracle).wrong("bytes at the destination are not what any client wrote".into()),
        }
        if socket.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
    if let Some(stream) = stream {
        judge(&oracle).ended_at_destination(stream, from.ip());
    }
    let _ = socket.shutdown().await;
}

/// A client of a stream; when it goes, the stream may end.
struct Client {
    stream: u64,
    oracle: Judge,
}

impl Drop for Client {
    fn drop(&mut self) {
        judge(&self.oracle).left(self.stream);
    }
}

fn central_listens() -> SocketAddrV4 {
    SocketAddrV4::new(HOSTS[CENTRAL].1, ECHO_AT_CENTRAL)
}

/// Asks again and again whether a new connection is answered.
pub(crate) async fn prober(oracle: Judge, every: Duration) {
    let mut number = 0;
    loop {
        let began = now();
        number += 1;
        let oracle = oracle.clone();
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(PROBE_LIMIT, probe(number, oracle.clone())).await {
                judge(&oracle).answered(began, now());
            }
        });
        sleep(every).await;
    }
}

async fn probe(number: u64, oracle: Judge) -> io::Result<()> {
    let client = Client { stream: u64::MAX - number, oracle };
    let mut socket = TcpStream::connect(central_listens()).await?;
    let note = Note { stream: client.stream, number: 0, written_at: now() };
    socket.write_all(&note.bytes()).await?;
    let mut answer = [0; GREETING_BYTES + NOTE_BYTES];
    socket.read_exact(&mut answer).await?;
    match answer[GREETING_BYTES..] == note.bytes() {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// How a stream ended.
enum StreamEnd {
    Broken,
    Finished,
}

/// Keeps one stream at a time open, for as long as it lasts, and looks at every byte of it.
pub(crate) async fn talker(oracle: Judge, who: u64, mut dice: Dice) {
    let mut stream = who << 32;
    loop {
        stream += 1;
        match talk(&oracle, stream, &mut dice).await {
            Ok(StreamEnd::Finished) => judge(&oracle).streams_finished += 1,
            Ok(StreamEnd::Broken) | Err(_) => judge(&oracle).streams_broken += 1,
        }
        sleep(dice.between(Duration::from_millis(20), Duration::from_millis(400))).await;
    }
}

async fn talk(oracle: &Judge, stream: u64, dice: &mut Dice) -> io::Result<StreamEnd> {
    let _client = Client { stream, oracle: oracle.clone() };
    let mut socket = TcpStream::connect(central_listens()).await?;
    // Some speak first, some wait for the greeting.
    let mut written = 0;
    if dice.chance(0.5) {
        write_notes(&mut socket, stream, &mut written, 1).await?;
    }
    let mut greeting = [0; GREETING_BYTES];
    socket.read_exact(&mut greeting).await?;
    let via: Option<Ipv4Addr> = std::str::from_utf8(&greeting).ok().and_then(|text| text.trim().parse().ok());
    let Some(via) = via else {
        judge(oracle).wrong(format!("stream {stream:#x} was greeted with {greeting:?}"));
        return Ok(StreamEnd::Broken);
    };
    let epoch = judge(oracle).stream_began(stream, via, now());
    let (mut from, mut to) = socket.into_split();
    // How much it says in all; most go on for as long as the history does.
    let in_all = if dice.chance(0.3) { 1 + dice.below(60) } else { u64::MAX };
    let mut own = dice.split();
    let said = Arc::new(Mutex::new((written, false)));
    let (saying, leaves) = (said.clone(), oracle.clone());
    let writer = async move {
        while written < in_all {
            let many = if own.chance(0.06) { 1 + own.below(2_000) } else { 1 + own.below(8) };
            let many = many.min(in_all - written);
            write_notes_half(&mut to, stream, &mut written, many, &saying).await?;
            sleep(own.between(Duration::from_millis(10), Duration::from_millis(700))).await;
        }
        judge(&leaves).left(stream);
        to.shutdown().await?;
        saying.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        std::future::pending::<io::Result<()>>().await
    };
    let reader = async {
        let (mut notes, mut bytes, mut expected) = (Notes::default(), vec![0; 16 * 1024], 0);
        loop {
            let len = from.read(&mut bytes).await?;
            let (written, finished) = *said.lock().unwrap_or_else(PoisonError::into_inner);
            if len == 0 {
                // A clean end is a promise: everything was said, and everything has come back.
                let whole = finished && expected == written && notes.rest.is_empty();
                if !whole {
                    judge(oracle).wrong(format!(
                        "stream {stream:#x} by way of {via} ended as if it were whole: {expected} of {written} notes came \
                         back, and its client {}",
                        if finished { "had ended" } else { "had not ended" }
                    ));
                }
                return Ok(StreamEnd::Finished);
            }
            let Ok(arrived) = notes.take(&bytes[..len]) else {
                judge(oracle)
                    .wrong(format!("stream {stream:#x} by way of {via} brought bytes that nobody wrote"));
                return Ok(StreamEnd::Broken);
            };
            for note in arrived {
                judge(oracle).came_back(stream, epoch, via, &note, expected, now());
                expected = note.number + 1;
            }
        }
    };
    tokio::select! {
        end = reader => end,
        broken = writer => broken.map(|()| StreamEnd::Broken),
    }
}

async fn write_notes(socket: &mut TcpStream, stream: u64, written: &mut u64, many: u64) -> io::Result<()> {
    for _ in 0..many {
        let note = Note { stream, number: *written, written_at: now() };
        socket.write_all(&note.bytes()).await?;
        *written += 1;
    }
    Ok(())
}

async fn write_notes_half(
    socket: &mut tokio::net::tcp::OwnedWriteHalf,
    stream: u64,
    written: &mut u64,
    many: u64,
    said: &Mutex<(u64, bool)>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    for _ in 0..many {
        bytes.extend(Note { stream, number: *written, written_at: now() }.bytes());
        *written += 1;
    }
    said.lock().unwrap_or_else(PoisonError::into_inner).0 = *written;
    socket.write_all(&bytes).await
}

/// Whoever is told of outages: takes every alert.
pub(crate) async fn on_call(oracle: Judge) {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ON_CALL_PORT));
    #[expect(clippy::expect_used, reason = "nobody else is on this host")]
    let listener = TcpListener::bind(address).await.expect("the receiver's port");
    loop {
        if let Ok((socket, _)) = listener.accept().await {
            let oracle = oracle.clone();
            tokio::spawn(async move {
                // A sender that breaks off was heard by nobody.
                let _ = timeout(Duration::from_secs(10), one_alert(socket, &oracle)).await;
            });
        }
    }
}

async fn one_alert(socket: TcpStream, oracle: &Judge) -> io::Result<()> {
    let mut socket = BufReader::new(socket);
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("webhook-id") => {
                value.trim().clone_into(&mut id)
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap_or(0);
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length.min(64 * 1024)];
    socket.read_exact(&mut body).await?;
    let body: serde_json::Value = serde_json::from_slice(&body)?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    judge(oracle).told(&id, &text(&body["type"]), &text(&body["data"]["incident"]["id"]));
    socket.write_all(b"HTTP/1.1 204 Noted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
    socket.shutdown().await
}

/// A file that only this user may read, as the programs ask for.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, bytes)
}
