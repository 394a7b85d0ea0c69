use proptest::prelude::*;

use bytes::{BufMut, BytesMut};

use super::*;

#[test]
fn every_frame_has_the_bytes_that_were_promised() {
    let promised = golden(include_str!("../../testdata/frames.txt"));
    let examples = examples();
    assert_eq!(
        promised.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        examples.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );
    for ((name, bytes), (_, frame)) in promised.into_iter().zip(examples) {
        let mut encoded = BytesMut::new();
        frame.encode(&mut encoded);
        assert_eq!(encoded, bytes, "{name} is written differently");
        assert_eq!(frame.encoded_len(), bytes.len(), "{name}");

        let mut message = Bytes::from(bytes);
        assert_eq!(Frame::decode(&mut message), Ok(frame), "{name} is read differently");
        assert!(message.is_empty(), "{name} leaves bytes behind");
    }
}

#[test]
fn what_is_no_frame_is_refused() {
    for (name, bytes) in golden(include_str!("../../testdata/not_frames.txt")) {
        let refused = Frame::decode(&mut Bytes::from(bytes));
        assert!(refused.is_err(), "{name} was read as {refused:?}");
    }
}

#[test]
fn a_payload_may_have_63_kib_and_not_a_byte_more() {
    let mut message = BytesMut::new();
    data(vec![7; PAYLOAD_MAX_BYTES]).encode(&mut message);
    assert!(Frame::decode(&mut message.clone().freeze()).is_ok());

    message[2..4].copy_from_slice(&(PAYLOAD_MAX_BYTES as u16 + 1).to_be_bytes());
    message.put_u8(7);
    let refused = Frame::decode(&mut message.freeze());
    assert_eq!(refused, Err(FrameError::TooLong { kind: "DATA", len: PAYLOAD_MAX_BYTES + 1 }));
}

#[test]
fn frames_in_one_message_are_taken_one_by_one() {
    let mut message = BytesMut::new();
    for (_, frame) in examples() {
        frame.encode(&mut message);
    }
    let mut message = message.freeze();
    for (name, frame) in examples() {
        assert_eq!(Frame::decode(&mut message), Ok(frame), "{name}");
    }
    assert!(message.is_empty());
}

#[test]
fn a_reason_is_shortened_between_characters_and_can_break_no_log_line() {
    let reset = Reset::new(ResetCode::INTERNAL, &format!("one\r\ntwo{}", "ü".repeat(400)));
    assert!(reset.reason().starts_with("one  two"));
    assert_eq!(reset.reason().len(), REASON_MAX_BYTES);
}

#[test]
fn a_name_is_bounded_and_printable() {
    let open = |name: &str| Open::new(Transport::Tcp, name, "host", 1, [0; 16]);
    assert!(open(&"a".repeat(255)).is_ok());
    assert!(matches!(open(&"a".repeat(256)), Err(BadText::TooLong { len: 256, .. })));
    for bad in ["a b", "a\nb", "a\0b", "a\u{2028}b"] {
        assert!(matches!(open(bad), Err(BadText::Unprintable { at: 1, .. })), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused_and_what_was_read_is_written_the_same(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0u8..20,
        len in 0u8..100,
    ) {
        let mut likely = bytes.clone();
        if likely.len() >= 4 {
            likely[..4].copy_from_slice(&[kind, 0, 0, len]);
        }
        for candidate in [bytes, likely] {
            let mut message = Bytes::from(candidate.clone());
            if let Ok(frame) = Frame::decode(&mut message) {
                let mut again = BytesMut::new();
                frame.encode(&mut again);
                prop_assert_eq!(&again[..], &candidate[..candidate.len() - message.len()]);
            }
        }
    }
}

// ---- helpers ----

fn examples() -> Vec<(&'static str, Frame)> {
    let trace: [u8; 16] = std::array::from_fn(|i| i as u8);
    let open =
        |transport, name, host, port, trace| Arc::new(Open::new(transport, name, host, port, trace).unwrap());
    let frame = |seq, stream, body| Frame { seq, stream: StreamId(stream), body };
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    vec![
        ("open", {
            let open = open(Transport::Tcp, "jdbc-orders", "10.0.4.7", 1521, trace);
            frame(1, 1, Body::Open { open, limit: 256 * 1024, first: bytes("first") })
        }),
        ("open_of_a_host_without_a_name", {
            let open = open(Transport::Tcp, "", "sap.example", 443, [0; 16]);
            frame(2, 2, Body::Open { open, limit: 16 * 1024, first: Bytes::new() })
        }),
        ("open_udp", {
            let open = open(Transport::Udp, "dns", "", 53, [0; 16]);
            frame(3, 3, Body::Open { open, limit: 64 * 1024, first: Bytes::new() })
        }),
        ("opened", frame(1, 1, Body::Opened { limit: 128 * 1024 })),
        ("data", frame(4, 1, Body::Data { bytes: bytes("hello"), fin: false })),
        ("data_with_fin", frame(5, 1, Body::Data { bytes: bytes("bye"), fin: true })),
        ("fin_alone", frame(6, 1, Body::Data { bytes: Bytes::new(), fin: true })),
        ("window_of_a_stream", frame(0x0102_0304_0506_0708, u32::MAX - 2, Body::Window { limit: 1 << 40 })),
        ("window_of_the_tunnel", frame(7, 0, Body::Window { limit: 64 * 1024 * 1024 })),
        ("reset", {
            let reset = Reset::new(ResetCode::UNREACHABLE, "host unreachable: 10.0.4.7");
            frame(8, 1, Body::Reset(reset))
        }),
        ("reset_with_an_unknown_code", frame(9, 1, Body::Reset(Reset::new(ResetCode(0xbeef), "")))),
        ("goaway", frame(10, 0, Body::GoAway(Reset::new(ResetCode::GOING_AWAY, "über und aus")))),
        ("ping", frame(0, 0, Body::Ping { nonce: 42 })),
        ("pong", frame(0, 0, Body::Pong { nonce: 42 })),
        ("ack", frame(0, 0, Body::Ack { through: u64::MAX })),
    ]
}

fn data(bytes: Vec<u8>) -> Frame {
    Frame { seq: 1, stream: StreamId(1), body: Body::Data { bytes: bytes.into(), fin: false } }
}

/// Lines of a name and hexadecimal bytes.
fn golden(text: &'static str) -> Vec<(&'static str, Vec<u8>)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, hex) = line.split_once(' ').unwrap();
            let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
            (name, hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect())
        })
        .collect()
}
