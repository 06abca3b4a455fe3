//! Clients that break the rules, each with its documented end, beside a subscriber that must not notice.

use std::{io::ErrorKind, time::Duration};

use serde_json::json;

use super::delivery::write_telling_when_it_blocks;
use crate::common::{
    Broker, PATIENCE,
    raw::{self, BINARY, CLOSE, CONTINUATION, PING, PONG, Raw, TEXT, UPGRADE, UPGRADE_TO_BINARY},
    witness::Witness,
};

/// What is no frame of RFC 6455, or no frame for this connection: each is answered by its close code and a
/// sentence, whether it comes in one packet or byte by byte.
#[test]
fn frames_that_break_a_rule_are_answered_by_its_code() {
    let broker = Broker::start(2, &[]);
    let witness = Witness::start(&broker);
    let text = |bytes: &[u8]| raw::frame(TEXT, bytes);
    let with_first_byte = |first: u8| [&[first][..], &raw::frame(TEXT, b"{}")[1..]].concat();
    let unmasked = [&[0x81, 2][..], b"{}"].concat();
    let length = |code: u8, len: &[u8]| [&[0x81, 0x80 | code][..], len, &[0; 4], &[b'x'; 9]].concat();
    let json = [
        ("unmasked", 1002, unmasked),
        ("RSV1 without an extension", 1002, with_first_byte(0xc1)),
        ("RSV2", 1002, with_first_byte(0xa1)),
        ("opcode 3", 1002, with_first_byte(0x83)),
        ("opcode 11", 1002, with_first_byte(0x8b)),
        ("a length of 2^63", 1002, length(127, &(1_u64 << 63).to_be_bytes())),
        ("9 in a 16-bit length", 1002, length(126, &9_u16.to_be_bytes())),
        ("9 in a 64-bit length", 1002, length(127, &9_u64.to_be_bytes())),
        ("a ping of 64 KiB", 1002, raw::frame(PING, &[0; 64 << 10])),
        ("a pong of 126 bytes", 1002, raw::frame(PONG, &[0; 126])),
        ("a ping without FIN", 1002, raw::fragment(PING, false, b"")),
        ("a continuation of nothing", 1002, raw::fragment(CONTINUATION, true, b"x")),
        (
            "a message within a message",
            1002,
            [raw::fragment(TEXT, false, b"{"), raw::fragment(TEXT, true, b"}")].concat(),
        ),
        ("a binary message on a JSON connection", 1003, raw::frame(BINARY, &[0; 12])),
        ("a lone continuation byte", 1007, text(b"{\"op\":\"ping\",\"id\":\"\x80\"}")),
        ("a cut character at the end", 1007, text(b"{\"op\":\"\xc3")),
        ("an encoded surrogate", 1007, text(b"\xed\xa0\x80")),
        ("a close frame of one byte", 1002, raw::frame(CLOSE, b"\x03")),
        ("a close frame with code 1005", 1002, raw::frame(CLOSE, &1005_u16.to_be_bytes())),
        ("a close frame that is not UTF-8", 1007, raw::frame(CLOSE, b"\x03\xe8\xff")),
        ("2^63 - 1 bytes", 1009, raw::header(TEXT, true, (1 << 63) - 1)),
        ("a byte more than the limit", 1009, raw::header(TEXT, true, (1 << 20) + 1)),
    ];
    let binary = [
        ("a text message on a binary connection", 1003, text(b"{\"op\":\"ping\"}")),
        ("a byte more than the limit", 1009, raw::header(BINARY, true, (1 << 20) + 1)),
    ];
    let cases =
        json.iter().map(|case| (UPGRADE, case)).chain(binary.iter().map(|case| (UPGRADE_TO_BINARY, case)));
    for (upgrade, (what, code, bytes)) in cases {
        for piece_len in [usize::MAX, 1] {
            let mut raw = Raw::connect(broker.address);
            raw.send(upgrade.as_bytes());
            raw.receive_head();
            raw.receive_frame().expect("a hello");
            raw.send_while_taken(bytes, piece_len);
            // More of it must neither be answered nor change the answer.
            raw.send_while_taken(bytes, usize::MAX);
            let (answered, sentence) = raw.receive_close();
            assert_eq!(answered, *code, "{what}: {sentence}");
            assert!(!sentence.is_empty(), "{what}");
            raw.expect_end();
        }
    }
    witness.finish();
    broker.stop();
}

/// A fragment of 100 bytes with a byte that no UTF-8 has, of which only the first half is sent.
#[test]
fn text_that_is_not_utf8_is_refused_before_its_frame_is_whole() {
    let broker = Broker::start(1, &[]);
    for first in [vec![], raw::fragment(TEXT, false, b"{\"op\":")] {
        let mut raw = Raw::open(broker.address);
        let opcode = if first.is_empty() { TEXT } else { CONTINUATION };
        let mut half = [b' '; 100];
        half[40] = 0xff;
        let frame = raw::fragment(opcode, false, &half);
        raw.send(&[&first[..], &frame[..56]].concat());
        assert_eq!(raw.receive_close().0, 1007);
        raw.expect_end();
    }
    broker.stop();
}

/// Fragments that never end: with bytes in them up to the limit of a message, without up to the limit of
/// fragments. And a publication that is a byte too long.
#[test]
fn a_message_without_an_end_ends_at_its_limit() {
    let broker = Broker::start(2, &[]);
    let witness = Witness::start(&broker);
    let publish = br#"{"op":"publish","topic":"t","data":""#;

    let mut raw = Raw::open(broker.address);
    raw.send(&raw::fragment(TEXT, false, publish));
    let fragment = raw::fragment(CONTINUATION, false, &[b'x'; 64 << 10]);
    for _ in 0..40 {
        raw.send_while_taken(&fragment, usize::MAX);
    }
    assert_eq!(raw.receive_close().0, 1009);
    raw.expect_end();

    let mut raw = Raw::open(broker.address);
    raw.send(&raw::fragment(TEXT, false, publish));
    let fragments = raw::fragment(CONTINUATION, false, b"").repeat(1 << 10);
    for _ in 0..(1 << 10) + 1 {
        raw.send_while_taken(&fragments, usize::MAX);
    }
    assert_eq!(raw.receive_close().0, 1008);
    raw.expect_end();

    // The limit itself is allowed, in one frame and in many.
    let limit = 1 << 20;
    let mut raw = Raw::open(broker.address);
    let end = br#"","id":1}"#;
    let whole = [&publish[..], &vec![b'x'; limit - publish.len() - end.len()], end].concat();
    assert_eq!(whole.len(), limit);
    raw.send(&raw::frame(TEXT, &whole));
    assert_eq!(raw.receive()["seq"], 1);
    let chunks: Vec<&[u8]> = whole.chunks(1_000).collect();
    for (index, chunk) in chunks.iter().enumerate() {
        let opcode = if index == 0 { TEXT } else { CONTINUATION };
        raw.send(&raw::fragment(opcode, index + 1 == chunks.len(), chunk));
    }
    assert_eq!(raw.receive()["seq"], 2);
    raw.send_while_taken(&raw::frame(TEXT, &[&whole[..], b" "].concat()), usize::MAX);
    assert_eq!(raw.receive_close().0, 1009);
    raw.expect_end();
    witness.finish();
    broker.stop();
}

/// Messages that are no commands; after each error the same connection works.
#[test]
fn hostile_json_is_refused_and_the_connection_lives() {
    let broker = Broker::start(2, &[]);
    let witness = Witness::start(&broker);
    let mut raw = Raw::open(broker.address);
    let nested = |depth: usize| {
        format!(r#"{{"op":"publish","topic":"t","id":1,"data":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    let cases = [
        ("bad_message", String::new()),
        ("bad_message", "{".repeat(10_000)),
        ("bad_message", "[".repeat(100_000)),
        ("bad_message", nested(10_000)),
        ("bad_message", nested(64)),
        ("bad_message", r#"{"op":"publish","topic":"t","data":1e400}"#.into()),
        ("bad_message", r#"{"op":"publish","topic":"t","data":"\ud800"}"#.into()),
        ("bad_message", r#"{"op":"ping"} x"#.into()),
        ("bad_message", r#"{"op":"ping",}"#.into()),
        ("bad_message", "{\"op\":\"ping\",\"id\":\"\u{0}\"}".into()),
        ("duplicate_key", r#"{"op":"publish","topic":"a","topic":"b","data":1}"#.into()),
        ("duplicate_key", r#"{"op":"ping","\u006fp":"ping"}"#.into()),
        ("bad_topic", format!(r#"{{"op":"publish","topic":"{}","data":1}}"#, "x".repeat(257))),
        ("bad_topic", r#"{"op":"subscribe","topic":"a/#/b"}"#.into()),
        ("limit_reached", format!("[{}0]", "0,".repeat(100_000))),
    ];
    for (code, text) in cases {
        let error = raw.ask(&text);
        let start: String = text.chars().take(80).collect();
        assert_eq!((&error["op"], &error["code"]), (&json!("error"), &json!(code)), "{start} → {error}");
        assert!(error.to_string().len() < 1_000, "an error does not repeat what it is about");
        assert_eq!(raw.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
    }
    assert_eq!(raw.ask(&nested(63))["op"], "ok", "what is allowed passes");
    raw.close();
    witness.finish();
    broker.stop();
}

/// Half an upgrade and then silence, nothing at all, and an upgrade that trickles: all of them hold a
/// connection only until the handshake timeout.
#[test]
fn an_upgrade_that_never_ends_is_cut() {
    let broker = Broker::start(2, &["timeouts.handshake_ms=300"]);
    let witness = Witness::start(&broker);
    let mut half = Raw::connect(broker.address);
    half.send(&UPGRADE.as_bytes()[..60]);
    let silent = Raw::connect(broker.address);
    let trickling = Raw::connect(broker.address);
    trickling.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut rest = UPGRADE.bytes();
    loop {
        // 20 ms between bytes would make more than three seconds.
        let byte = rest.next().expect("the whole upgrade was not waited for");
        let written = std::io::Write::write(&mut &trickling.stream, &[byte]);
        match std::io::Read::read(&mut &trickling.stream, &mut [0]) {
            Ok(0) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock && written.is_ok() => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            other => panic!("{written:?} {other:?}"),
        }
    }
    half.expect_end();
    silent.expect_end();
    witness.finish();
    broker.stop();
}

/// Header lines without end, a first line without end, and one line too many.
#[test]
fn an_upgrade_that_is_too_long_is_answered_with_431() {
    let broker = Broker::start(1, &[]);
    let witness = Witness::start(&broker);
    let lines: String = (0..10_000).map(|number| format!("X-{number}: y\r\n")).collect();
    let requests = [
        format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"),
        format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)),
        format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a:b\r\n".repeat(64)),
    ];
    for request in requests {
        let mut raw = Raw::connect(broker.address);
        raw.send_while_taken(request.as_bytes(), usize::MAX);
        let (status, text) = raw.receive_answer();
        assert_eq!(status, 431, "{text}");
    }
    witness.finish();
    broker.stop();
}

/// A peer that answers no ping is closed; one that answers stays, though it says nothing else.
#[test]
fn a_silent_peer_is_pinged_and_then_closed() {
    let broker = Broker::start(1, &["timeouts.ping_ms=100", "timeouts.pong_ms=300"]);
    let mut silent = Raw::open(broker.address);
    let mut alive = Raw::open(broker.address);
    for _ in 0..3 {
        assert_eq!(alive.receive_frame(), Some((PING, vec![])));
        alive.send(&raw::frame(PONG, b""));
    }
    assert_eq!(silent.receive_frame(), Some((PING, vec![])));
    assert_eq!(silent.receive_close().0, 4008);
    silent.answer_close(4008);
    // The timeout of an answer is longer than that of a ping: more pings may be on the way.
    alive.send_text(r#"{"op":"ping","id":1}"#);
    loop {
        match alive.receive_frame().expect("alive") {
            (PING, _) => alive.send(&raw::frame(PONG, b"")),
            (opcode, payload) => {
                assert_eq!((opcode, &payload[..]), (TEXT, &br#"{"op":"pong","id":1}"#[..]));
                break;
            }
        }
    }
    drop(alive);
    broker.stop();
}

/// A close frame that the peer does not answer: the broker ends the connection by itself.
#[test]
fn a_peer_that_does_not_answer_a_close_is_cut() {
    let broker = Broker::start(1, &["timeouts.close_ms=100", "timeouts.ping_ms=100", "timeouts.pong_ms=100"]);
    let mut raw = Raw::open(broker.address);
    assert_eq!(raw.receive_frame(), Some((PING, vec![])));
    assert_eq!(raw.receive_close().0, 4008);
    raw.expect_cut();
    broker.stop();
}

/// Pings without end from a peer that reads no pong: it is read no more once a little waits for it.
#[test]
fn a_flood_of_pings_is_held_back() {
    const COUNT: usize = 100_000;
    let broker = Broker::start(1, &[]);
    let witness = Witness::start(&broker);
    let mut flood = Raw::connect_small(broker.address, 64 << 10).upgraded();
    let writer = flood.stream.try_clone().unwrap();
    let (blocked, has_blocked) = std::sync::mpsc::channel();
    let writing = std::thread::spawn(move || {
        let payload = |number: usize| format!("{number:0120}");
        let pings: Vec<u8> =
            (0..COUNT).flat_map(|number| raw::frame(PING, payload(number).as_bytes())).collect();
        write_telling_when_it_blocks(writer, &pings, &blocked);
    });
    has_blocked.recv().expect("the flood is held back");
    for number in 0..COUNT {
        assert_eq!(flood.receive_frame(), Some((PONG, format!("{number:0120}").into_bytes())));
    }
    writing.join().unwrap();
    flood.close();
    witness.finish();
    broker.stop();
}

/// 5,000 connections that are all open at once and then all reset, some in the middle of an upgrade and
/// some subscribed: afterwards the broker has none of them and works.
#[test]
fn five_thousand_connections_may_be_reset_at_once() {
    const COUNT: usize = 5_000;
    raise_descriptor_limit();
    let broker = Broker::start(2, &[]);
    let witness = Witness::start(&broker);
    let connections: Vec<Raw> = (0..COUNT)
        .map(|index| {
            let mut raw = Raw::connect(broker.address);
            match index % 3 {
                0 => {}
                1 => raw.send(&UPGRADE.as_bytes()[..40]),
                _ => {
                    let subscribe = raw::frame(TEXT, br##"{"op":"subscribe","topic":"#","id":1}"##);
                    raw.send(&[UPGRADE.as_bytes(), &subscribe].concat());
                }
            }
            raw
        })
        .collect();
    for raw in connections {
        raw.reset();
    }
    // Accepts and resets are still being worked off: the last connection comes after all of them.
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let mut raw = Raw::open(broker.address);
        assert_eq!(raw.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
        raw.close();
        let connections: f64 = broker.metric("fanfare_connections", "").iter().sum();
        // The witness has two, and the one just closed may not be gone yet.
        if connections <= 3.0 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{connections} connections are left");
    }
    assert!(broker.metric("fanfare_accepts_total", "").iter().sum::<f64>() as usize >= COUNT);
    witness.finish();
    broker.stop();
}

/// Raises the soft limit of open files to the hard one.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes to the struct that it is given, setrlimit only reads it.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}
