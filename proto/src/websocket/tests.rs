//! The cases of RFC 6455, one sentence a test. A library's own end is the other side in the driver's tests.

use bytes::BytesMut;

use super::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MAX: usize = 200_000;

#[test]
fn the_examples_of_the_rfc_are_understood() {
    assert_eq!(client(b"\x81\x05Hello"), Ok(vec![Message::Text("Hello".into())]));
    let masked = [&[0x81, 0x85][..], &KEY, &[0x7f, 0x9f, 0x4d, 0x51, 0x58]].concat();
    assert_eq!(server(&masked), Ok(vec![Message::Text("Hello".into())]));
    assert_eq!(client(b"\x01\x03Hel\x80\x02lo"), Ok(vec![Message::Text("Hello".into())]));
    assert_eq!(client(b"\x89\x05Hello"), Ok(vec![Message::Ping(Bytes::from_static(b"Hello"))]));
}

#[test]
fn what_one_end_says_the_other_understands_whatever_its_length() {
    for role in [Role::Client, Role::Server] {
        for len in [1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let payload: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let mut out = Outgoing::new(role);
            out.message().extend_from_slice(&payload);
            out.seal(KEY);
            let expected_header = match len {
                ..126 => 2,
                126..65_536 => 4,
                _ => 10,
            } + if role == Role::Client { 4 } else { 0 };
            assert_eq!(out.chunk().len(), expected_header + len);
            let bytes = out.chunk().to_vec();
            let heard = if role == Role::Client { server(&bytes) } else { client(&bytes) };
            assert_eq!(heard, Ok(vec![Message::Binary(payload.into())]), "{role:?} {len}");
        }
    }
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let mut out = Outgoing::new(Role::Client);
    out.text("hello", KEY);
    out.pong(b"", KEY);
    out.close(Some((4001, "superseded")), KEY);
    let mut decoder = Decoder::new(Role::Server, MAX);
    let mut input = BytesMut::new();
    let mut heard = Vec::new();
    for byte in out.chunk() {
        input.extend_from_slice(&[*byte]);
        heard.extend(decoder.decode(&mut input).unwrap());
    }
    let close = Close { code: Some(4001), reason: "superseded".into() };
    assert_eq!(heard, [Message::Text("hello".into()), Message::Pong, Message::Close(close)]);
}

#[test]
fn control_frames_may_stand_between_the_parts_of_a_message() {
    let heard = client(b"\x02\x01a\x89\x01p\x00\x01b\x8a\x00\x80\x01c");
    let ping = Message::Ping(Bytes::from_static(b"p"));
    assert_eq!(heard, Ok(vec![ping, Message::Pong, Message::Binary(Bytes::from_static(b"abc"))]));
}

#[test]
fn nothing_is_taken_after_a_close() {
    let close = Message::Close(Close { code: None, reason: String::new() });
    assert_eq!(client(b"\x88\x00\x89\x00"), Ok(vec![close]));
}

#[test]
fn every_rule_that_is_broken_has_its_name() {
    assert_eq!(client(b"\xc2\x00"), Err(WebSocketError::ReservedBits));
    assert_eq!(client(b"\x83\x00"), Err(WebSocketError::Opcode(3)));
    assert_eq!(client(b"\x8b\x00"), Err(WebSocketError::Opcode(0xb)));
    assert_eq!(client(b"\x82\x80abcd"), Err(WebSocketError::Masked));
    assert_eq!(server(b"\x82\x00"), Err(WebSocketError::NotMasked));
    assert_eq!(client(b"\x82\x7e\x00\x7d"), Err(WebSocketError::LongLength));
    assert_eq!(client(b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff"), Err(WebSocketError::LongLength));
    assert_eq!(
        client(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff"),
        Err(WebSocketError::TooLong { max: MAX })
    );
    assert_eq!(client(b"\x09\x00"), Err(WebSocketError::BadControl));
    assert_eq!(client(b"\x89\x7e\x00\x7e"), Err(WebSocketError::BadControl));
    assert_eq!(client(b"\x02\x00\x82\x00"), Err(WebSocketError::Interrupted));
    assert_eq!(client(b"\x80\x00"), Err(WebSocketError::NothingToContinue));
    assert_eq!(client(b"\x81\x01\xff"), Err(WebSocketError::NotUtf8));
    assert_eq!(client(b"\x88\x01\x03"), Err(WebSocketError::BadClose));
    for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let code = u16::to_be_bytes(code);
        assert_eq!(client(&[0x88, 2, code[0], code[1]]), Err(WebSocketError::BadClose));
    }
    assert_eq!(client(b"\x88\x03\x03\xe8\xff"), Err(WebSocketError::NotUtf8));
}

#[test]
fn the_bound_counts_all_parts_together_and_is_kept_before_they_arrive() {
    let mut decoder = Decoder::new(Role::Client, 10);
    let mut input = BytesMut::from(&b"\x02\x06abcdef\x80\x05"[..]);
    assert_eq!(decoder.decode(&mut input), Err(WebSocketError::TooLong { max: 10 }));
}

#[test]
fn a_reason_is_cut_where_a_letter_ends() {
    let mut out = Outgoing::new(Role::Server);
    out.close(Some((1000, &"ä".repeat(100))), KEY);
    let Ok(heard) = client(out.chunk()) else { panic!() };
    let close = Close { code: Some(1000), reason: "ä".repeat(61) };
    assert_eq!(heard, [Message::Close(close)]);
}

#[test]
fn a_message_of_nothing_is_not_sent() {
    let mut out = Outgoing::new(Role::Client);
    out.message();
    out.seal(KEY);
    assert!(out.chunk().is_empty());
}

fn client(bytes: &[u8]) -> Result<Vec<Message>, WebSocketError> {
    heard(Role::Client, bytes)
}

fn server(bytes: &[u8]) -> Result<Vec<Message>, WebSocketError> {
    heard(Role::Server, bytes)
}

fn heard(role: Role, bytes: &[u8]) -> Result<Vec<Message>, WebSocketError> {
    let mut decoder = Decoder::new(role, MAX);
    let mut input = BytesMut::from(bytes);
    std::iter::from_fn(|| decoder.decode(&mut input).transpose()).collect()
}
