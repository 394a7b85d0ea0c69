//! Two muxes, random deeds and random cuts, against a model that is nothing but byte counts.
//!
//! Byte `n` of a direction is a function of `n`, the stream and the direction, so a byte lost, doubled or out of
//! order shows at once.

use std::collections::VecDeque;

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::frame::{Body, Frame};

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_is_lost_doubled_or_reordered_over_any_number_of_cuts(
        deeds in proptest::collection::vec(deed(), 1..250),
    ) {
        let mut world = World::new();
        for deed in deeds {
            world.act(&deed);
            world.check();
        }
        world.come_to_rest();
    }

    #[test]
    fn arbitrary_frames_neither_panic_nor_grow_memory(
        frames in proptest::collection::vec(frame(), 1..200),
        agent in any::<bool>(),
    ) {
        let limits = small_limits();
        let mut mux = Mux::new(if agent { Side::Agent } else { Side::Central }, limits);
        let mut now = Instant::now();
        let mut seq = 0;
        for mut frame in frames {
            // Mostly the right number, so that the other rules get their turn.
            if frame.body.is_numbered() && frame.seq % 16 != 0 {
                seq += 1;
                frame.seq = seq;
            }
            now += Duration::from_millis(3);
            let opened = frame.stream;
            if mux.handle_frame(frame, now).is_err() {
                break;
            }
            let _ = mux.accept(opened);
            let _ = mux.write(opened, &[0; 100]);
            let _ = mux.read(opened, 1000);
            mux.handle_timeout(now);
            while mux.poll_event().is_some() {}
            if seq % 3 == 0 {
                while mux.poll_transmit().is_some() {}
            }
            check(&mux);
        }
    }
}

#[derive(Clone, Debug)]
enum Deed {
    Open { side: usize, len: usize },
    Accept { stream: usize },
    Write { stream: usize, side: usize, len: usize },
    Finish { stream: usize, side: usize },
    Read { stream: usize, side: usize, max: usize },
    Reset { stream: usize, side: usize },
    Release { stream: usize, side: usize },
    Ping { side: usize },
    Transmit { side: usize, frames: usize },
    Arrive { side: usize, frames: usize },
    Wait { ms: u64 },
    UnderWay { side: usize, bytes: usize },
    Cut,
}

fn deed() -> impl Strategy<Value = Deed> {
    let side = 0..2usize;
    let stream = 0..6usize;
    let len = prop_oneof![0..300usize, 0..40_000usize];
    prop_oneof![
        2 => (side.clone(), 0..2000usize).prop_map(|(side, len)| Deed::Open { side, len }),
        2 => stream.clone().prop_map(|stream| Deed::Accept { stream }),
        6 => (stream.clone(), side.clone(), len.clone())
            .prop_map(|(stream, side, len)| Deed::Write { stream, side, len }),
        1 => (stream.clone(), side.clone()).prop_map(|(stream, side)| Deed::Finish { stream, side }),
        6 => (stream.clone(), side.clone(), len).prop_map(|(stream, side, max)| Deed::Read { stream, side, max }),
        1 => (stream.clone(), side.clone()).prop_map(|(stream, side)| Deed::Reset { stream, side }),
        1 => (stream, side.clone()).prop_map(|(stream, side)| Deed::Release { stream, side }),
        1 => side.clone().prop_map(|side| Deed::Ping { side }),
        5 => (side.clone(), 1..6usize).prop_map(|(side, frames)| Deed::Transmit { side, frames }),
        5 => (side.clone(), 1..6usize).prop_map(|(side, frames)| Deed::Arrive { side, frames }),
        1 => (side, 0..120_000usize).prop_map(|(side, bytes)| Deed::UnderWay { side, bytes }),
        2 => (1..40u64).prop_map(|ms| Deed::Wait { ms }),
        2 => Just(Deed::Cut),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let number = prop_oneof![0..40_000u64, any::<u64>()];
    let bytes = (0..3000usize).prop_map(|len| Bytes::from(vec![0; len]));
    let reset = any::<u16>().prop_map(|code| Reset::new(ResetCode(code), "because"));
    let body = prop_oneof![
        3 => (number.clone(), bytes.clone()).prop_map(|(limit, first)| Body::Open { open: to(), limit, first }),
        1 => number.clone().prop_map(|limit| Body::Opened { limit }),
        4 => (bytes, any::<bool>()).prop_map(|(bytes, fin)| Body::Data { bytes, fin }),
        2 => number.clone().prop_map(|limit| Body::Window { limit }),
        1 => reset.clone().prop_map(Body::Reset),
        1 => reset.prop_map(Body::GoAway),
        1 => number.clone().prop_map(|nonce| Body::Ping { nonce }),
        1 => number.clone().prop_map(|nonce| Body::Pong { nonce }),
        1 => number.prop_map(|through| Body::Ack { through }),
    ];
    (any::<u64>(), 0..12u32, body).prop_map(|(seq, stream, body)| Frame {
        seq,
        stream: StreamId(stream),
        body,
    })
}

/// Small enough that every bound is met all the time.
fn small_limits() -> Limits {
    Limits {
        stream_window_bytes: 20 * 1024,
        stream_window_max_bytes: 64 * 1024,
        tunnel_window_bytes: 1024 * 1024,
        send_buffer_bytes: 24 * 1024,
        unsent_bytes: 48 * 1024,
        unacknowledged_bytes: 100 * 1024,
        unacknowledged_frames: 24,
        streams: 8,
        opens_per_second: 100,
        frame_bytes: 5000,
    }
}

/// What must be true of a mux at any time.
fn check(mux: &Mux) {
    let limits = &mux.limits;
    let granted: u64 = mux.streams.values().map(|stream| stream.inn.flow.outstanding()).sum();
    assert_eq!(mux.granted, granted, "what is granted is counted right");
    let unsent: usize = mux.streams.values().map(|stream| stream.out.unsent.len()).sum();
    assert_eq!(mux.unsent, unsent, "what is unsent is counted right");
    let unread: u64 = mux.streams.values().map(|stream| stream.inn.unread.len() as u64).sum();
    assert!(unread <= limits.tunnel_window_bytes);
    assert!(
        unsent <= limits.unsent_bytes + 2000 * limits.streams,
        "first bytes of new streams may come on top"
    );
    assert!(mux.outbox.kept_frames() <= limits.unacknowledged_frames);
    assert!(mux.outbox.kept_bytes() <= limits.unacknowledged_bytes + 20 * 1024);
    let far_ahead = mux.outbox.kept_bytes() >= mux.under_way_bytes;
    assert_eq!(mux.is_far_ahead(), far_ahead, "whoever is held back waits for an acknowledgement");
    assert!(mux.schedule.resets.len() <= limits.streams * 2);
    assert!(mux.events.len() <= 5 * limits.streams + 64, "{} events", mux.events.len());
}

fn to() -> Arc<Open> {
    Arc::new(Open::new(Transport::Tcp, "x", "", 1, [0; 16]).unwrap())
}

struct World {
    muxes: [Mux; 2],
    /// What each side has sent and the other not yet got.
    wires: [VecDeque<Bytes>; 2],
    streams: Vec<Model>,
    now: Instant,
}

/// A stream, as simple as it can be told.
struct Model {
    id: StreamId,
    opener: usize,
    ends: [End; 2],
    /// The end that did not open it took it.
    accepted: bool,
    /// Somebody broke it, or may have.
    broken: bool,
}

#[derive(Default)]
struct End {
    /// There is somebody here to write and read.
    held: bool,
    written: usize,
    finished: bool,
    read: usize,
    saw_end: bool,
}

impl World {
    fn new() -> World {
        World {
            muxes: [Mux::new(Side::Central, small_limits()), Mux::new(Side::Agent, small_limits())],
            wires: Default::default(),
            streams: Vec::new(),
            now: Instant::now(),
        }
    }

    fn act(&mut self, deed: &Deed) {
        match *deed {
            Deed::Open { side, len } => self.open(side, len),
            Deed::Accept { stream } => {
                if let Some(model) = self.streams.get(stream)
                    && model.ends[1 - model.opener].held
                {
                    let accepted = self.muxes[1 - model.opener].accept(model.id).is_ok();
                    self.streams[stream].accepted |= accepted;
                }
            }
            Deed::Write { stream, side, len } => self.write(stream, side, len),
            Deed::Finish { stream, side } => {
                if let Some(model) = self.held(stream, side)
                    && !model.ends[side].finished
                {
                    model.ends[side].finished = true;
                    let (id, broken) = (model.id, model.broken);
                    let finished = self.muxes[side].finish(id);
                    assert!(finished.is_ok() || broken, "{finished:?}");
                }
            }
            Deed::Read { stream, side, max } => {
                self.read(stream, side, max);
            }
            Deed::Reset { stream, side } => {
                if let Some(model) = self.held(stream, side) {
                    model.broken = true;
                    let id = model.id;
                    self.muxes[side].reset(id, Reset::new(ResetCode::CANCELLED, "deed"));
                }
            }
            Deed::Release { stream, side } => {
                if let Some(model) = self.held(stream, side) {
                    model.ends[side].held = false;
                    let whole = model.ends[side].finished && model.ends[side].saw_end;
                    model.broken |= !whole || (side != model.opener && !model.accepted);
                    let id = model.id;
                    self.muxes[side].release(id);
                }
            }
            Deed::Ping { side } => {
                self.muxes[side].ping(self.now);
            }
            Deed::Transmit { side, frames } => {
                self.transmit(side, frames);
            }
            Deed::Arrive { side, frames } => {
                self.arrive(side, frames);
            }
            Deed::Wait { ms } => self.wait(Duration::from_millis(ms)),
            Deed::UnderWay { side, bytes } => self.muxes[side].set_under_way_bytes(bytes),
            Deed::Cut => self.cut(),
        }
    }

    fn open(&mut self, side: usize, len: usize) {
        if self.streams.len() >= 6 {
            return;
        }
        let mux = &mut self.muxes[side];
        // The number is known only afterwards, and the bytes depend on it.
        let number = mux.last_ours.map_or(if side == 0 { 1 } else { 2 }, |last| last.0 + 2);
        let first = pattern(StreamId(number), side, 0, len);
        let id = mux.open((*to()).clone(), first.into()).unwrap();
        assert_eq!(id, StreamId(number));
        let mut ends: [End; 2] = Default::default();
        ends[side] = End { held: true, written: len, ..End::default() };
        self.streams.push(Model { id, opener: side, ends, accepted: false, broken: false });
    }

    fn write(&mut self, stream: usize, side: usize, len: usize) {
        let Some(model) = self.held(stream, side) else { return };
        let (id, start, broken, finished) =
            (model.id, model.ends[side].written, model.broken, model.ends[side].finished);
        let bytes = pattern(id, side, start, len);
        let result = if len.is_multiple_of(2) {
            self.muxes[side].write(id, &bytes)
        } else {
            self.muxes[side].write_bytes(id, &mut bytes.into())
        };
        match result {
            Ok(written) => self.streams[stream].ends[side].written += written,
            Err(StreamError::Finished) => assert!(finished),
            Err(error) => assert!(broken, "{error}"),
        }
    }

    /// Reads and compares; true if something moved.
    fn read(&mut self, stream: usize, side: usize, max: usize) -> bool {
        let Some(model) = self.held(stream, side) else { return false };
        let (id, start, broken) = (model.id, model.ends[side].read, model.broken);
        let outcome = self.muxes[side].read(id, max.max(1));
        let model = &mut self.streams[stream];
        match outcome {
            Ok(ReadOutcome::Bytes(bytes)) => {
                assert_eq!(bytes, pattern(id, 1 - side, start, bytes.len()), "stream {id} at {start}");
                model.ends[side].read += bytes.len();
                assert!(model.ends[side].read <= model.ends[1 - side].written, "bytes from nowhere");
                true
            }
            Ok(ReadOutcome::Nothing) => false,
            Ok(ReadOutcome::End) => {
                assert!(model.ends[1 - side].finished, "an end nobody meant");
                assert_eq!(model.ends[side].read, model.ends[1 - side].written, "an end before the end");
                let news = !model.ends[side].saw_end;
                model.ends[side].saw_end = true;
                news
            }
            // Both ends opened at once, neither knowing of the other's: the excess is refused.
            Err(StreamError::Reset(reset)) if reset.code == ResetCode::TOO_MANY_STREAMS => {
                model.broken = true;
                false
            }
            Err(error) => {
                assert!(broken, "{error}");
                false
            }
        }
    }

    fn transmit(&mut self, side: usize, frames: usize) -> bool {
        let mut some = false;
        for _ in 0..frames {
            let Some(frame) = self.muxes[side].poll_transmit() else { break };
            let mut bytes = BytesMut::new();
            frame.encode(&mut bytes);
            self.wires[side].push_back(bytes.freeze());
            some = true;
        }
        some
    }

    fn arrive(&mut self, side: usize, frames: usize) -> bool {
        let mut some = false;
        for _ in 0..frames {
            let Some(mut bytes) = self.wires[1 - side].pop_front() else { break };
            let frame = Frame::decode(&mut bytes).unwrap();
            self.muxes[side].handle_frame(frame, self.now).unwrap();
            some = true;
        }
        while let Some(event) = self.muxes[side].poll_event() {
            if let MuxEvent::Incoming(id) = event
                && let Some(model) = self.streams.iter_mut().find(|model| model.id == id)
            {
                model.ends[side].held = true;
            }
        }
        some
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for mux in &mut self.muxes {
            mux.handle_timeout(self.now);
        }
    }

    /// Whatever is on its way is lost.
    fn cut(&mut self) {
        self.wires = Default::default();
        for mux in &mut self.muxes {
            mux.detach();
        }
        let received = [self.muxes[0].received_through(), self.muxes[1].received_through()];
        self.muxes[0].reattach(received[1]).unwrap();
        self.muxes[1].reattach(received[0]).unwrap();
    }

    fn held(&mut self, stream: usize, side: usize) -> Option<&mut Model> {
        self.streams.get_mut(stream).filter(|model| model.ends[side].held)
    }

    fn check(&self) {
        self.muxes.iter().for_each(check);
    }

    /// Everybody accepts, reads and delivers until nothing moves: then nothing may be missing.
    fn come_to_rest(&mut self) {
        self.cut();
        loop {
            let mut moved = false;
            for side in 0..2 {
                moved |= self.transmit(side, usize::MAX);
                moved |= self.arrive(1 - side, usize::MAX);
                for stream in 0..self.streams.len() {
                    self.act(&Deed::Accept { stream });
                    while self.read(stream, side, 7000) {
                        moved = true;
                    }
                }
            }
            self.check();
            if !moved {
                let before = [self.muxes[0].has_output(), self.muxes[1].has_output()];
                self.wait(Duration::from_millis(30)); // acknowledgements fall due
                if before == [false, false] && !self.muxes.iter().any(Mux::has_output) {
                    break;
                }
            }
        }
        for model in self.streams.iter().filter(|model| !model.broken) {
            for (side, end) in model.ends.iter().enumerate() {
                let sender = &model.ends[1 - side];
                assert_eq!(end.read, sender.written, "stream {} lost bytes", model.id);
                assert_eq!(end.saw_end, sender.finished, "stream {} lost its end", model.id);
            }
        }
        self.check_credit();
    }

    /// At rest both ends agree, to the byte, on what was sent and what may be.
    fn check_credit(&self) {
        for (near, far) in [(0, 1), (1, 0)] {
            let (near, far) = (&self.muxes[near], &self.muxes[far]);
            assert_eq!(near.outbox.kept_frames(), 0, "all acknowledged");
            assert_eq!(near.sending.limit, far.receiving.limit());
            assert_eq!(near.sending.sent, far.receiving.limit() - far.receiving.outstanding());
            for (id, stream) in near.streams.iter().filter(|(_, stream)| stream.broken.is_none()) {
                if let Some(other) = far.streams.get(id).filter(|other| !other.inn.finished) {
                    assert_eq!(stream.out.flow.limit, other.inn.flow.limit(), "stream {id}");
                    if other.inn.unread.is_empty() {
                        let left = stream.out.flow.available();
                        assert!(left >= OPEN_CREDIT_BYTES / 4 * 3, "stream {id} has only {left} left");
                    }
                }
            }
        }
    }
}

fn pattern(id: StreamId, side: usize, start: usize, len: usize) -> Vec<u8> {
    (start..start + len)
        .map(|n| ((n % 251) as u8) ^ (id.0 as u8).wrapping_mul(37) ^ (side as u8 * 0x80))
        .collect()
}
