//! What the fuzz targets do with their bytes. Also run over the committed corpus by an ordinary test
//! (`proto/tests/corpus.rs`), so each is compiled into several programs that use only a part.
#![allow(dead_code, reason = "each program uses a part")]
#![allow(clippy::expect_used, reason = "a panic is how a fuzz target says that something is wrong")]

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proto::frame::Frame;
use proto::mux::{
    Limits, Mux, MuxEvent, Open, ReadOutcome, Reset, ResetCode, Side, StreamError, StreamId, Transport,
};
use proto::websocket::{Decoder, HEADER_MAX_BYTES, Message, Outgoing, Role, WebSocketError};

/// Bytes from a hostile peer: what can be read must be written the same, and a mux must survive it.
pub(crate) fn frame(data: &[u8]) {
    let mut message = Bytes::copy_from_slice(data);
    let mut muxes = [Side::Central, Side::Agent].map(|side| Some(Mux::new(side, limits())));
    let mut now = Instant::now();
    loop {
        let before = message.clone();
        let Ok(frame) = Frame::decode(&mut message) else { return };
        let mut again = BytesMut::new();
        frame.encode(&mut again);
        assert_eq!(again, before[..before.len() - message.len()]);

        now += Duration::from_millis(1);
        for slot in &mut muxes {
            let Some(mux) = slot else { continue };
            let stream = frame.stream;
            if mux.handle_frame(frame.clone(), now).is_err() {
                *slot = None;
                continue;
            }
            let _ = mux.accept(stream);
            let _ = mux.write(stream, b"answer");
            let _ = mux.read(stream, 100);
            while mux.poll_transmit().is_some() {}
            assert!(mux.held_bytes() <= HELD_MAX_BYTES);
        }
    }
}

/// Deeds of two correct ends and of the line between them: nothing may be lost, doubled or out of order. One byte
/// says what is done, the next ones to what.
pub(crate) fn mux(data: &[u8]) {
    World::new().act_all(data);
}

/// Two correct ends, and a word about the bytes that were received which may be a lie: the first eight bytes. What is
/// refused alters nothing, so the truth is still taken afterwards and nothing is lost.
pub(crate) fn resume(data: &[u8]) {
    let Some((claimed, deeds)) = data.split_first_chunk::<8>() else { return };
    let claimed = u64::from_le_bytes(*claimed);
    let (before, after) = deeds.split_at(deeds.len() / 2);
    let mut world = World::new();
    world.act_all(before);
    world.wires = Default::default();
    world.muxes.iter_mut().for_each(Mux::detach);
    let received = [0, 1].map(|side: usize| world.muxes[side].received_through());
    for side in [0, 1] {
        let truth = received[1 - side];
        // A claim that could be true is taken: whoever lies about what he has loses only his own bytes.
        if claimed != truth && world.muxes[side].reattach(claimed).is_ok() {
            return;
        }
        world.muxes[side].reattach(truth).expect("the truth is taken, also after a lie");
    }
    world.act_all(after);
}

/// What strangers say before and beside a tunnel: what is understood reads the same when it is said again.
pub(crate) fn hello(data: &[u8]) {
    use proto::control::{AgentMessage, CentralMessage};
    use proto::hello::{
        AgentHello, ControlAdmission, EnrollRequest, Enrolled, LaneHello, RenewRequest, ReturnRequest,
        TunnelAdmission, TunnelHello,
    };
    again::<AgentHello>(data);
    again::<ControlAdmission>(data);
    again::<TunnelHello>(data);
    again::<LaneHello>(data);
    again::<TunnelAdmission>(data);
    again::<AgentMessage>(data);
    again::<CentralMessage>(data);
    again::<EnrollRequest>(data);
    again::<RenewRequest>(data);
    again::<ReturnRequest>(data);
    again::<Enrolled>(data);
}

fn again<T: serde::Serialize + serde::de::DeserializeOwned>(data: &[u8]) {
    let Ok(heard) = serde_json::from_slice::<T>(data) else { return };
    let said = serde_json::to_string(&heard).expect("what was read can be written");
    let heard_again: T = serde_json::from_str(&said).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&heard_again).expect("and written"), said);
}

/// Bytes from a hostile peer as a websocket: whether they come at once or in pieces, the same is heard; what is heard
/// is within its bound; and what one end says, the other understands. The first byte says how they come.
pub(crate) fn websocket(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    let role = if how & 1 == 0 { Role::Client } else { Role::Server };
    let piece = usize::from(how >> 1) + 1;
    let (mut at_once, mut in_pieces) = (Vec::new(), Vec::new());
    let ends = [
        hear(&mut Decoder::new(role, MESSAGE_MAX_BYTES), data.chunks(data.len().max(1)), &mut at_once),
        hear(&mut Decoder::new(role, MESSAGE_MAX_BYTES), data.chunks(piece), &mut in_pieces),
    ];
    assert_eq!(at_once, in_pieces);
    assert_eq!(ends[0], ends[1]);
    for message in &at_once {
        if let Message::Binary(bytes) = message {
            assert!(bytes.len() <= MESSAGE_MAX_BYTES);
        }
    }

    let other = if role == Role::Client { Role::Server } else { Role::Client };
    let mut out = Outgoing::new(other);
    out.message().extend_from_slice(&data[..data.len().min(MESSAGE_MAX_BYTES)]);
    out.seal([*how, 1, 2, 3]);
    let mut heard = Vec::new();
    let end = hear(&mut Decoder::new(role, MESSAGE_MAX_BYTES), [out.chunk()].into_iter(), &mut heard);
    assert_eq!(end, Ok(()));
    let said = Bytes::copy_from_slice(&data[..data.len().min(MESSAGE_MAX_BYTES)]);
    assert_eq!(heard, if said.is_empty() { vec![] } else { vec![Message::Binary(said)] });
}

const MESSAGE_MAX_BYTES: usize = 1000;

fn hear<'a>(
    decoder: &mut Decoder,
    pieces: impl Iterator<Item = &'a [u8]>,
    heard: &mut Vec<Message>,
) -> Result<(), WebSocketError> {
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        while let Some(message) = decoder.decode(&mut input)? {
            heard.push(message);
        }
        assert!(decoder.needed() <= MESSAGE_MAX_BYTES + HEADER_MAX_BYTES);
    }
    Ok(())
}

struct World {
    muxes: [Mux; 2],
    wires: [VecDeque<Frame>; 2],
    streams: Vec<StreamId>,
    /// Bytes written and read at each end of each stream, and whether it may have been broken.
    written: HashMap<(StreamId, usize), usize>,
    read: HashMap<(StreamId, usize), usize>,
    finished: HashMap<(StreamId, usize), bool>,
    broken: HashMap<StreamId, bool>,
    now: Instant,
}

impl World {
    fn new() -> World {
        World {
            muxes: [Side::Central, Side::Agent].map(|side| Mux::new(side, limits())),
            wires: Default::default(),
            streams: Vec::new(),
            written: HashMap::new(),
            read: HashMap::new(),
            finished: HashMap::new(),
            broken: HashMap::new(),
            now: Instant::now(),
        }
    }

    fn act_all(&mut self, data: &[u8]) {
        let mut deeds = data.iter().copied();
        while let Some(deed) = deeds.next() {
            let on = deeds.next().unwrap_or(0);
            let amount = usize::from(deeds.next().unwrap_or(0));
            self.act(deed, usize::from(on & 1), usize::from(on >> 1), amount * amount);
        }
    }

    fn act(&mut self, deed: u8, side: usize, which: usize, amount: usize) {
        let stream = self.streams.get(which % self.streams.len().max(1)).copied().unwrap_or(StreamId(1));
        let reset = Reset::new(ResetCode::CANCELLED, "deed");
        let mux = &mut self.muxes[side];
        match deed % 12 {
            0 if self.streams.len() < 7 => {
                let open = Open::new(Transport::Tcp, "x", "", 1, [0; 16]).expect("a plain name");
                if let Ok(id) = mux.open(open, Bytes::new()) {
                    self.streams.push(id);
                }
            }
            1 => {
                let _ = mux.accept(stream);
            }
            2 | 3 => {
                let start = self.written.entry((stream, side)).or_default();
                if let Ok(len) = mux.write(stream, &pattern(stream, side, *start, amount)) {
                    *start += len;
                }
            }
            4 if mux.finish(stream).is_ok() => {
                self.finished.insert((stream, side), true);
            }
            5 | 6 => self.read(side, stream, amount + 1),
            7 if amount.is_multiple_of(5) => {
                self.broken.insert(stream, true);
                mux.reset(stream, reset);
            }
            7 if amount % 5 == 1 => {
                self.broken.insert(stream, true);
                mux.release(stream);
            }
            8 => {
                mux.ping(self.now);
            }
            9 => {
                for _ in 0..=amount {
                    let Some(frame) = mux.poll_transmit() else { break };
                    self.wires[side].push_back(frame);
                }
            }
            10 => {
                for _ in 0..=amount {
                    let Some(frame) = self.wires[1 - side].pop_front() else { break };
                    self.muxes[side].handle_frame(frame, self.now).expect("both ends are correct");
                }
                while let Some(event) = self.muxes[side].poll_event() {
                    if let MuxEvent::Incoming(id) = event {
                        assert!(self.streams.contains(&id));
                    }
                }
            }
            11 if amount < 1000 => {
                self.now += Duration::from_micros(amount as u64 * 50);
                self.muxes.iter_mut().for_each(|mux| mux.handle_timeout(self.now));
            }
            11 => self.cut(),
            _ => {}
        }
        for mux in &self.muxes {
            assert!(mux.held_bytes() <= HELD_MAX_BYTES, "{}", mux.held_bytes());
        }
    }

    fn read(&mut self, side: usize, stream: StreamId, max: usize) {
        let start = self.read.entry((stream, side)).or_default();
        let written = self.written.get(&(stream, 1 - side)).copied().unwrap_or_default();
        match self.muxes[side].read(stream, max) {
            Ok(ReadOutcome::Bytes(bytes)) => {
                assert_eq!(bytes, pattern(stream, 1 - side, *start, bytes.len()));
                *start += bytes.len();
                assert!(*start <= written, "bytes from nowhere");
            }
            Ok(ReadOutcome::End) => {
                assert!(self.finished.contains_key(&(stream, 1 - side)), "an end nobody meant");
                assert_eq!(*start, written, "an end before the end");
            }
            Ok(ReadOutcome::Nothing) | Err(StreamError::Unknown(_)) => {}
            Err(error) => assert!(self.broken.contains_key(&stream), "{error}"),
        }
    }

    fn cut(&mut self) {
        self.wires = Default::default();
        self.muxes.iter_mut().for_each(Mux::detach);
        let received = [0, 1].map(|side: usize| self.muxes[side].received_through());
        self.muxes[0].reattach(received[1]).expect("the peer tells the truth");
        self.muxes[1].reattach(received[0]).expect("the peer tells the truth");
    }
}

const HELD_MAX_BYTES: usize = 3 * 1024 * 1024;

fn limits() -> Limits {
    Limits {
        stream_window_bytes: 20 * 1024,
        stream_window_max_bytes: 64 * 1024,
        tunnel_window_bytes: 1024 * 1024,
        unsent_bytes: 256 * 1024,
        unacknowledged_bytes: 256 * 1024,
        unacknowledged_frames: 64,
        streams: 8,
        frame_bytes: 5000,
        ..Limits::default()
    }
}

fn pattern(id: StreamId, side: usize, start: usize, len: usize) -> Vec<u8> {
    (start..start + len)
        .map(|n| ((n % 251) as u8) ^ (id.0 as u8).wrapping_mul(37) ^ (side as u8 * 0x80))
        .collect()
}
