//! What a mux promises, one sentence a test. The stage is at the end; [`super::model`] proves the whole at random.

use super::*;
use crate::frame::{Body, Frame};

#[test]
fn a_full_window_stops_the_sender_until_the_reader_catches_up() {
    let mut pair = Pair::with(|limits| limits.stream_window_bytes = 32 * 1024);
    let stream = pair.open("jdbc-orders");

    assert_eq!(pair.central.write(stream, &[7; 64 * 1024]), Ok(32 * 1024));
    pair.drive();
    assert_eq!(pair.central.write(stream, &[7]), Ok(0));
    assert_eq!(pair.read_all(Side::Agent, stream), 32 * 1024);
    pair.drive(); // the credit travels back
    assert_eq!(pair.central.write(stream, &[7; 64 * 1024]), Ok(32 * 1024));
}

#[test]
fn opening_costs_no_round_trip() {
    let mut pair = Pair::new();
    let stream = pair.central.open(to("smtp"), Bytes::from_static(b"EHLO")).unwrap();
    let frames = pair.transmit(Side::Central);
    assert!(
        matches!(&frames.last().unwrap().body, Body::Open { first, .. } if first == "EHLO"),
        "the first bytes travel with the OPEN"
    );
    pair.deliver(Side::Agent, frames);
    assert_eq!(pair.agent.read(stream, 100), Ok(ReadOutcome::Bytes(Bytes::from_static(b"EHLO"))));
}

#[test]
fn a_destination_that_never_answers_is_sent_no_more_than_the_opening_credit() {
    let mut pair = Pair::new();
    let stream = pair.central.open(to("tarpit"), Bytes::new()).unwrap();
    assert_eq!(pair.central.write(stream, &[0; 64 * 1024]), Ok(OPEN_CREDIT_BYTES as usize));
    pair.drive();
    assert_eq!(pair.central.write(stream, &[0; 64 * 1024]), Ok(0));
    pair.agent.accept(stream).unwrap();
    pair.drive();
    assert_eq!(pair.central.poll_event(), Some(MuxEvent::Opened(stream)));
    assert!(pair.central.write(stream, &[0; 64 * 1024]).unwrap() > 0);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut pair = Pair::new();
    let stream = pair.open("soap");
    pair.central.write(stream, b"request").unwrap();
    pair.central.finish(stream).unwrap();
    pair.drive();
    assert_eq!(pair.agent.read(stream, 100), Ok(ReadOutcome::Bytes(Bytes::from_static(b"request"))));
    assert_eq!(pair.agent.read(stream, 100), Ok(ReadOutcome::End));
    assert_eq!(pair.central.write(stream, b"more"), Err(StreamError::Finished));

    pair.agent.write(stream, b"answer").unwrap();
    pair.agent.finish(stream).unwrap();
    pair.drive();
    assert_eq!(pair.central.read(stream, 100), Ok(ReadOutcome::Bytes(Bytes::from_static(b"answer"))));
    assert_eq!(pair.central.read(stream, 100), Ok(ReadOutcome::End));

    pair.central.release(stream);
    pair.agent.release(stream);
    assert_eq!(pair.transmit(Side::Central), []);
    assert_eq!((pair.central.stream_count(), pair.agent.stream_count()), (0, 0));
}

#[test]
fn what_arrived_before_a_reset_can_be_read_and_then_comes_the_reset_never_an_end() {
    let mut pair = Pair::new();
    let stream = pair.open("smtp");
    pair.agent.write(stream, b"554 go away").unwrap();
    pair.drive();
    let reset = Reset::new(ResetCode::CONNECTION_RESET, "the relay hung up");
    pair.agent.reset(stream, reset.clone());
    pair.drive();

    assert_eq!(pair.central.read(stream, 100), Ok(ReadOutcome::Bytes(Bytes::from_static(b"554 go away"))));
    assert_eq!(pair.central.read(stream, 100), Err(StreamError::Reset(reset.clone())));
    assert_eq!(pair.central.write(stream, b"x"), Err(StreamError::Reset(reset)));
}

#[test]
fn letting_go_of_an_unfinished_stream_resets_it() {
    let mut pair = Pair::new();
    let stream = pair.open("smtp");
    pair.central.write(stream, b"half a mail").unwrap();
    pair.central.release(stream);
    pair.drive();
    assert_eq!(pair.agent.broken(stream).unwrap().code, ResetCode::CANCELLED);
}

#[test]
fn an_abort_drops_what_nobody_has_read() {
    let mut pair = Pair::new();
    let stream = pair.open("jdbc-orders");
    pair.central.write(stream, b"stale").unwrap();
    pair.drive();
    let lost = Reset::new(ResetCode::TUNNEL_LOST, "another agent is active");
    pair.agent.abort(lost.clone());
    assert_eq!(pair.agent.read(stream, 100), Err(StreamError::Reset(lost.clone())));
    assert_eq!(pair.agent.open(to("x"), Bytes::new()), Err(OpenError::Over(lost)));
    assert_eq!(pair.agent.held_bytes(), 0);
}

#[test]
fn control_passes_bulk_data_and_streams_take_turns() {
    let mut pair = Pair::new();
    let (first, second) = (pair.open("a"), pair.open("b"));
    pair.central.write(first, &[1; 120 * 1024]).unwrap();
    pair.central.write(second, &[2; 120 * 1024]).unwrap();
    pair.central.ping(pair.now);
    let third = pair.central.open(to("c"), Bytes::new()).unwrap();
    pair.central.reset(third, Reset::new(ResetCode::CANCELLED, ""));
    let fourth = pair.central.open(to("d"), Bytes::new()).unwrap();

    let said: Vec<_> =
        pair.transmit(Side::Central).iter().map(|frame| (frame.body.name(), frame.stream)).collect();
    assert_eq!(
        said,
        [
            ("PING", StreamId::TUNNEL),
            ("OPEN", fourth), // the third was reset before anyone heard of it
            ("DATA", first),
            ("DATA", second),
            ("DATA", first),
            ("DATA", second),
        ]
    );
}

#[test]
fn readers_that_stand_still_hold_up_their_own_streams_only() {
    let mut pair = Pair::with(|limits| limits.tunnel_window_bytes = 2 * 1024 * 1024);
    let stalled: Vec<_> = (0..100).map(|_| pair.open("tarpit")).collect();
    for _ in 0..8 {
        for &stream in &stalled {
            pair.central.write(stream, &[0; 64 * 1024]).unwrap();
        }
        pair.drive();
    }
    let live = pair.open("jdbc-orders");
    let mut passed = 0;
    for _ in 0..200 {
        passed += pair.central.write(live, &[1; 64 * 1024]).unwrap();
        pair.drive();
        pair.read_all(Side::Agent, live);
        pair.drive();
    }
    assert!(passed >= 200 * 16 * 1024, "{passed}");
}

#[test]
fn a_stream_that_ends_gives_back_all_its_credit() {
    let mut pair = Pair::new();
    for round in 0..200 {
        let stream = pair.open("x");
        pair.central.write(stream, &[0; 100 * 1024]).unwrap();
        pair.drive();
        match round % 3 {
            0 => pair.agent.reset(stream, Reset::new(ResetCode::CANCELLED, "")),
            1 => pair.central.reset(stream, Reset::new(ResetCode::CANCELLED, "")),
            _ => {}
        }
        pair.central.release(stream);
        pair.agent.release(stream);
        pair.drive();
    }
    assert_eq!((pair.central.granted, pair.agent.granted), (0, 0));
    assert_eq!(pair.central.sending.sent, pair.agent.receiving.limit() - pair.agent.receiving.outstanding());
}

#[test]
fn acknowledgements_come_after_256_kib_or_25_ms() {
    let mut pair = Pair::with(|limits| limits.stream_window_bytes = 1024 * 1024);
    let stream = pair.open("x");
    pair.central.write(stream, &[0; 1024]).unwrap();
    let frames = pair.transmit(Side::Central);
    pair.deliver(Side::Agent, frames);
    assert_eq!(pair.transmit(Side::Agent), []);
    assert_eq!(pair.agent.poll_timeout(pair.now), Some(pair.now + Duration::from_millis(25)));
    pair.now += Duration::from_millis(25);
    pair.agent.handle_timeout(pair.now);
    assert_eq!(pair.transmit(Side::Agent)[0].body.name(), "ACK");

    for _ in 0..2 {
        assert_eq!(pair.transmit(Side::Agent), []);
        assert_eq!(pair.central.write(stream, &[0; 128 * 1024]), Ok(128 * 1024));
        let frames = pair.transmit(Side::Central);
        pair.deliver(Side::Agent, frames);
    }
    assert_eq!(pair.transmit(Side::Agent)[0].body.name(), "ACK");
}

#[test]
fn what_is_more_than_a_little_is_acknowledged_after_2_ms() {
    let mut pair = Pair::with(|limits| limits.stream_window_bytes = 1024 * 1024);
    let stream = pair.open("x");
    pair.acknowledge_all();
    pair.central.write(stream, &[0; 32 * 1024]).unwrap();
    let frames = pair.transmit(Side::Central);
    pair.deliver(Side::Agent, frames);
    assert_eq!(pair.transmit(Side::Agent), [], "a fast line brings more at once");
    assert_eq!(pair.agent.poll_timeout(pair.now), Some(pair.now + Duration::from_millis(2)));
    pair.now += Duration::from_millis(2);
    pair.agent.handle_timeout(pair.now);
    assert_eq!(pair.transmit(Side::Agent)[0].body.name(), "ACK");

    pair.central.write(stream, &[0; 1024]).unwrap();
    let frames = pair.transmit(Side::Central);
    pair.deliver(Side::Agent, frames);
    assert_eq!(
        pair.agent.poll_timeout(pair.now),
        Some(pair.now + Duration::from_millis(25)),
        "a little can wait"
    );
}

#[test]
fn what_may_be_under_way_is_held_to_until_it_is_acknowledged() {
    let mut pair = Pair::with(|limits| limits.stream_window_bytes = 1024 * 1024);
    let stream = pair.open("x");
    pair.acknowledge_all();
    pair.central.set_under_way_bytes(32 * 1024);
    pair.central.write(stream, &[0; 128 * 1024]).unwrap();
    let frames = pair.transmit(Side::Central);
    assert!(pair.central.is_far_ahead());
    let sent: usize = frames.iter().map(|frame| frame.body.stream_bytes()).sum();
    assert!(sent < 128 * 1024, "{sent}");
    pair.deliver(Side::Agent, frames);
    pair.acknowledge_all();
    pair.acknowledge_all();
    assert_eq!(pair.read_all(Side::Agent, stream), 128 * 1024, "and then goes on");
}

#[test]
fn a_peer_that_grants_and_never_acknowledges_is_sent_no_more_than_we_may_keep() {
    let mut mux = Mux::new(Side::Central, Limits { unacknowledged_bytes: 256 * 1024, ..Limits::default() });
    let stream = mux.open(to("x"), Bytes::new()).unwrap();
    let mut seq = 0;
    let mut say = |mux: &mut Mux, stream, body| {
        seq += 1;
        mux.handle_frame(Frame { seq, stream, body }, Instant::now()).unwrap();
    };
    while mux.poll_transmit().is_some() {}
    say(&mut mux, stream, Body::Opened { limit: u64::MAX });
    say(&mut mux, StreamId::TUNNEL, Body::Window { limit: u64::MAX });
    for _ in 0..100 {
        mux.write(stream, &[0; 64 * 1024]).unwrap();
        while mux.poll_transmit().is_some() {}
    }
    assert!(mux.held_bytes() <= 512 * 1024, "{}", mux.held_bytes());
}

#[test]
fn one_byte_at_a_time_costs_the_receiver_about_a_byte() {
    let mut pair = Pair::new();
    let stream = pair.open("x");
    for _ in 0..1000 {
        pair.acknowledge_all();
        assert_eq!(pair.central.write(stream, &[1]), Ok(1));
        pair.drive();
    }
    assert_eq!(pair.read_all(Side::Agent, stream), 1000);
}

// ---- small pieces ----

#[test]
fn who_says_much_in_small_pieces_gathers_them_until_some_have_arrived() {
    let mut pair = Pair::new();
    let stream = dribble(&mut pair);
    assert_eq!(pair.central.poll_event(), None);
    pair.acknowledge_all();
    assert_eq!(pair.central.poll_event(), Some(MuxEvent::Writable(stream)));
    assert_eq!(pair.central.write(stream, &[1; 500]), Ok(500), "what was gathered goes at once");
}

#[test]
fn nobody_gathers_for_longer_than_a_moment_however_long_the_line() {
    let mut pair = Pair::new();
    let stream = dribble(&mut pair);
    let until = pair.central.poll_timeout(pair.now).unwrap();
    assert_eq!(until, pair.now + Duration::from_millis(1));
    pair.central.handle_timeout(pair.now);
    assert_eq!(pair.central.poll_event(), None);
    pair.central.handle_timeout(until);
    assert_eq!(pair.central.poll_event(), Some(MuxEvent::Writable(stream)));
    assert_eq!(pair.central.write(stream, &[1; 500]), Ok(500));
    pair.transmit(Side::Central);
    assert_eq!(pair.central.write(stream, &[1]), Ok(0), "and then again");
    pair.now = until;
    assert_eq!(pair.central.poll_timeout(pair.now), Some(until + Duration::from_millis(1)));
}

#[test]
fn a_question_and_its_answer_never_wait() {
    let mut pair = Pair::new();
    let stream = pair.open("redis");
    for _ in 0..100 {
        for side in [Side::Central, Side::Agent] {
            assert_eq!(pair.of(side).write(stream, b"ping or pong"), Ok(12));
            let mut message = pair.transmit(side);
            message.extend(pair.of(side).poll_ack_along());
            let other = if side == Side::Central { Side::Agent } else { Side::Central };
            pair.deliver(other, message);
            assert_eq!(pair.read_all(other, stream), 12);
        }
    }
    assert!(pair.central.outbox.kept_frames() <= 1 && pair.agent.outbox.kept_frames() <= 1);
}

#[test]
fn large_pieces_are_held_up_by_credit_alone() {
    let mut pair = Pair::new();
    let stream = pair.open("backup");
    for _ in 0..100 {
        assert_eq!(pair.central.write(stream, &[1; 1024]), Ok(1024));
        pair.transmit(Side::Central);
    }
}

#[test]
fn an_acknowledgement_goes_along_only_with_news() {
    let mut pair = Pair::new();
    pair.open("x");
    pair.acknowledge_all();
    assert_eq!(pair.agent.poll_ack_along(), None);
}

/// A stream whose writer was just told to gather.
fn dribble(pair: &mut Pair) -> StreamId {
    let stream = pair.open("x");
    pair.acknowledge_all();
    for _ in 0..8 {
        assert_eq!(pair.central.write(stream, &[1]), Ok(1));
        pair.drive();
    }
    assert_eq!(pair.central.write(stream, &[1]), Ok(0));
    stream
}

#[test]
fn a_stream_that_was_never_accepted_is_reset_when_it_is_let_go() {
    let mut pair = Pair::new();
    let stream = pair.central.open(to("x"), Bytes::new()).unwrap();
    pair.central.finish(stream).unwrap();
    pair.drive();
    pair.agent.finish(stream).unwrap();
    assert_eq!(pair.agent.read(stream, 1), Ok(ReadOutcome::End));
    pair.agent.release(stream);
    assert_eq!(pair.agent.stream_count(), 0);
    pair.drive();
    assert!(pair.central.broken(stream).is_some(), "nobody waits for an answer");
}

// ---- cuts ----

#[test]
fn after_a_cut_exactly_what_is_missing_is_sent_again() {
    let mut pair = Pair::new();
    let stream = pair.open("jdbc-orders");
    pair.central.write(stream, b"arrives ").unwrap();
    let arrives = pair.transmit(Side::Central);
    pair.deliver(Side::Agent, arrives);
    pair.central.write(stream, b"is lost ").unwrap();
    let lost = pair.transmit(Side::Central);
    pair.cut();
    pair.central.write(stream, b"comes later").unwrap();
    pair.reattach().unwrap();

    let again = pair.transmit(Side::Central);
    assert_eq!(again[..lost.len()], lost[..]);
    pair.deliver(Side::Agent, again);
    let got = pair.agent.read(stream, 100);
    assert_eq!(got, Ok(ReadOutcome::Bytes(Bytes::from_static(b"arrives is lost comes later"))));
}

#[test]
fn a_resuming_peer_cannot_claim_what_was_not_sent_nor_take_back_what_it_acknowledged() {
    let mut pair = Pair::new();
    pair.open("x");
    pair.acknowledge_all();
    let sent = pair.central.outbox.sent();
    assert_eq!(pair.central.reattach(sent), Err(ResumeError::StillAttached));
    pair.cut();
    let never_sent = ResumeError::NeverSent { claimed: sent + 1, sent };
    assert_eq!(pair.central.reattach(sent + 1), Err(never_sent));
    let went_back = ResumeError::WentBack { claimed: sent - 1, acked: sent };
    assert_eq!(pair.central.reattach(sent - 1), Err(went_back));
    assert_eq!(pair.central.reattach(sent), Ok(()));
}

#[test]
fn the_same_frame_twice_ends_the_tunnel() {
    let mut pair = Pair::new();
    let stream = pair.open("x");
    pair.central.write(stream, b"x").unwrap();
    let frame = pair.transmit(Side::Central).remove(0);
    let seq = frame.seq;
    pair.deliver(Side::Agent, vec![frame.clone()]);
    let refused = pair.agent.handle_frame(frame, pair.now);
    assert_eq!(refused, Err(MuxError::OutOfOrder { expected: seq + 1, got: seq }));
}

// ---- peers that break the rules ----

#[test]
fn what_no_correct_peer_sends_ends_the_tunnel() {
    let odd = StreamId(1);
    let even = StreamId(2);
    let open = |limit| Body::Open { open: Arc::new(to("x")), limit, first: Bytes::new() };
    let data = |len| Body::Data { bytes: vec![0; len].into(), fin: false };
    let fin = Body::Data { bytes: Bytes::new(), fin: true };

    assert_eq!(agent_hears([(even, open(1))]), MuxError::WrongParity { stream: even });
    assert_eq!(
        agent_hears([(StreamId(3), open(1)), (odd, open(1))]),
        MuxError::StreamWentBack { stream: odd, last: StreamId(3) }
    );
    assert_eq!(agent_hears([(odd, data(1))]), MuxError::NeverOpened { stream: odd, what: "DATA" });
    assert_eq!(
        agent_hears([(even, Body::Opened { limit: 1 })]),
        MuxError::NeverOpened { stream: even, what: "OPENED" }
    );
    assert_eq!(
        agent_hears([(odd, open(1)), (odd, Body::Opened { limit: 1 })]),
        MuxError::NotWaiting { stream: odd }
    );
    assert_eq!(
        agent_hears([(odd, open(1)), (odd, data(16 * 1024)), (odd, data(1))]),
        MuxError::BeyondStreamCredit { stream: odd, limit: 16 * 1024, reached: 16 * 1024 + 1 }
    );
    assert_eq!(
        agent_hears([(odd, open(9)), (odd, Body::Window { limit: 8 })]),
        MuxError::LimitShrank { stream: odd, from: 9, to: 8 }
    );
    assert_eq!(
        agent_hears([(StreamId::TUNNEL, Body::Window { limit: 8 })]),
        MuxError::LimitShrank { stream: StreamId::TUNNEL, from: TUNNEL_CREDIT_BYTES, to: 8 }
    );
    assert_eq!(
        agent_hears([(odd, open(1)), (odd, fin.clone()), (odd, fin)]),
        MuxError::AfterFin { stream: odd }
    );
    assert_eq!(
        agent_hears([(StreamId::TUNNEL, Body::Ack { through: 1 })]),
        MuxError::AckNeverSent { through: 1, sent: 0 }
    );
    assert_eq!(
        agent_hears([(StreamId::TUNNEL, Body::Pong { nonce: 1 })]),
        MuxError::UnknownPong { nonce: 1 }
    );
}

#[test]
fn the_tunnels_own_credit_binds_even_streams_that_are_gone() {
    let mut agent = Mux::new(Side::Agent, Limits { tunnel_window_bytes: 1024 * 1024, ..Limits::default() });
    let mut seq = 0;
    let refused = (0..).find_map(|i| {
        seq += 1;
        let id = StreamId(i * 2 + 1);
        let first = vec![0; 16 * 1024].into();
        let body = Body::Open { open: Arc::new(to("x")), limit: 1, first };
        agent.handle_frame(Frame { seq, stream: id, body }, Instant::now()).err()
    });
    let limit = 1024 * 1024;
    assert_eq!(refused, Some(MuxError::BeyondTunnelCredit { limit, reached: limit + 16 * 1024 }));
}

#[test]
fn acknowledgements_never_go_back() {
    let mut pair = Pair::new();
    let stream = pair.open("x");
    pair.acknowledge_all();
    pair.central.write(stream, b"x").unwrap();
    pair.drive();
    let acked = pair.central.outbox.acked();
    let back = Frame { seq: 0, stream: StreamId::TUNNEL, body: Body::Ack { through: acked - 1 } };
    let refused = pair.central.handle_frame(back, pair.now);
    assert_eq!(refused, Err(MuxError::AckWentBack { through: acked - 1, acked }));
}

#[test]
fn too_many_streams_are_reset_and_a_flood_of_them_ends_the_tunnel() {
    let mut agent = Mux::new(Side::Agent, Limits { streams: 3, ..Limits::default() });
    let now = Instant::now();
    let mut hear = |i: u32| {
        let body = Body::Open { open: Arc::new(to("x")), limit: 1, first: Bytes::new() };
        agent.handle_frame(Frame { seq: u64::from(i), stream: StreamId(i * 2 - 1), body }, now)
    };
    let outcome: Vec<bool> = (1..=10).map(|i| hear(i).is_ok()).collect();
    assert_eq!(outcome, [true, true, true, true, true, true, true, true, true, false]);
    assert_eq!(agent.stream_count(), 3);
}

#[test]
fn a_tunnel_holds_fifty_thousand_streams_and_a_busy_one_among_them_has_room() {
    let mut pair = Pair::new();
    for _ in 0..5 {
        for _ in 0..10_000 {
            pair.central.open(to("jdbc-orders"), Bytes::from_static(b"hello")).unwrap();
        }
        pair.drive();
        while let Some(event) = pair.agent.poll_event() {
            let MuxEvent::Incoming(id) = event else { continue };
            pair.agent.accept(id).unwrap();
            assert_eq!(pair.read_all(Side::Agent, id), 5);
        }
        pair.drive();
        pair.acknowledge_all();
        pair.now += Duration::from_secs(1); // so many streams are not opened in one
    }
    assert_eq!((pair.central.stream_count(), pair.agent.stream_count()), (50_000, 50_000));
    assert_eq!((pair.central.held_bytes(), pair.agent.held_bytes()), (0, 0), "an idle stream holds no bytes");

    let busy = StreamId(1);
    for _ in 0..100 {
        assert_eq!(pair.agent.write(busy, &[7; 16 * 1024]), Ok(16 * 1024));
        pair.drive();
        assert_eq!(pair.read_all(Side::Central, busy), 16 * 1024);
        pair.drive();
    }
}

#[test]
fn floods_of_frames_that_change_nothing_end_the_tunnel() {
    for body in
        [Body::Ping { nonce: 1 }, Body::Ack { through: 0 }, Body::Window { limit: TUNNEL_CREDIT_BYTES }]
    {
        let mut agent = Mux::new(Side::Agent, Limits::default());
        let now = Instant::now();
        let numbered = body.is_numbered();
        let ended = (1..=2000).find_map(|i| {
            let seq = if numbered { i } else { 0 };
            agent.handle_frame(Frame { seq, stream: StreamId::TUNNEL, body: body.clone() }, now).err()
        });
        assert!(matches!(ended, Some(MuxError::Flood { .. })), "{} {ended:?}", body.name());
    }
}

#[test]
fn ten_pings_owe_one_pong_and_our_own_keep_their_distance() {
    let mut pair = Pair::new();
    let first = pair.central.ping(pair.now);
    assert_eq!(pair.central.ping(pair.now), first, "one that has not gone out serves for all");
    pair.drive();
    let answered = MuxEvent::Pong { nonce: first, round_trip: Duration::ZERO };
    assert_eq!(pair.central.poll_event(), Some(answered));

    let second = pair.central.ping(pair.now);
    assert_eq!(pair.transmit(Side::Central), [], "too soon");
    let at = pair.central.poll_timeout(pair.now).unwrap();
    pair.central.handle_timeout(at);
    let frames = pair.transmit(Side::Central);
    assert_eq!(frames[0].body, Body::Ping { nonce: second });
}

#[test]
fn after_a_goaway_old_streams_live_and_new_ones_are_refused() {
    let mut pair = Pair::new();
    let old = pair.open("x");
    let leaving = Reset::new(ResetCode::GOING_AWAY, "update");
    pair.agent.go_away(leaving.clone());
    let crossing = pair.central.open(to("y"), Bytes::new()).unwrap();
    pair.drive();
    assert_eq!(pair.central.broken(crossing).unwrap().code, ResetCode::GOING_AWAY);
    assert_eq!(pair.central.open(to("z"), Bytes::new()), Err(OpenError::GoingAway(leaving)));
    pair.central.write(old, b"still here").unwrap();
    pair.drive();
    assert_eq!(pair.read_all(Side::Agent, old), 10);
}

// ---- the stage ----

/// Central and agent with nothing between them but this function's patience.
struct Pair {
    central: Mux,
    agent: Mux,
    now: Instant,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Limits)) -> Pair {
        let mut limits = Limits::default();
        change(&mut limits);
        let mut pair = Pair {
            central: Mux::new(Side::Central, limits),
            agent: Mux::new(Side::Agent, limits),
            now: Instant::now(),
        };
        pair.drive(); // each tells the other the tunnel's limit
        pair
    }

    fn of(&mut self, side: Side) -> &mut Mux {
        match side {
            Side::Central => &mut self.central,
            Side::Agent => &mut self.agent,
        }
    }

    /// A stream that central opened and the agent accepted, with no events left.
    fn open(&mut self, destination: &str) -> StreamId {
        let id = self.central.open(to(destination), Bytes::new()).unwrap();
        self.drive();
        self.agent.accept(id).unwrap();
        self.drive();
        while self.central.poll_event().is_some() || self.agent.poll_event().is_some() {}
        id
    }

    fn transmit(&mut self, side: Side) -> Vec<Frame> {
        std::iter::from_fn(|| self.of(side).poll_transmit()).collect()
    }

    fn deliver(&mut self, to: Side, frames: Vec<Frame>) {
        let now = self.now;
        for frame in frames {
            self.of(to).handle_frame(frame, now).unwrap();
        }
    }

    /// Until both have nothing more to say.
    fn drive(&mut self) {
        loop {
            let (near, far) = (self.transmit(Side::Central), self.transmit(Side::Agent));
            if near.is_empty() && far.is_empty() {
                return;
            }
            self.deliver(Side::Agent, near);
            self.deliver(Side::Central, far);
        }
    }

    fn acknowledge_all(&mut self) {
        self.now += Duration::from_secs(1);
        self.central.handle_timeout(self.now);
        self.agent.handle_timeout(self.now);
        self.drive();
    }

    fn read_all(&mut self, side: Side, id: StreamId) -> usize {
        let mut len = 0;
        while let Ok(ReadOutcome::Bytes(bytes)) = self.of(side).read(id, usize::MAX) {
            len += bytes.len();
        }
        len
    }

    fn cut(&mut self) {
        self.central.detach();
        self.agent.detach();
    }

    fn reattach(&mut self) -> Result<(), ResumeError> {
        let (central, agent) = (self.central.received_through(), self.agent.received_through());
        self.central.reattach(agent)?;
        self.agent.reattach(central)
    }
}

/// What an agent makes of these frames from central; the last one must be too much.
fn agent_hears<const N: usize>(frames: [(StreamId, Body); N]) -> MuxError {
    let mut agent = Mux::new(Side::Agent, Limits::default());
    let mut seq = 0;
    let mut verdicts = frames.into_iter().map(|(stream, body)| {
        let numbered = body.is_numbered();
        seq += u64::from(numbered);
        agent.handle_frame(Frame { seq: if numbered { seq } else { 0 }, stream, body }, Instant::now())
    });
    for _ in 1..N {
        assert_eq!(verdicts.next(), Some(Ok(())));
    }
    verdicts.next().unwrap().unwrap_err()
}

fn to(destination: &str) -> Open {
    Open::new(Transport::Tcp, destination, "10.0.0.7", 1521, [0; 16]).unwrap()
}
