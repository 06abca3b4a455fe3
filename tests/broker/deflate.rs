//! permessage-deflate (RFC 7692): what is negotiated, who gets what compressed, and what becomes of clients
//! that compress badly. The other end is miniz_oxide, which shares no code with the broker's.

use std::time::Instant;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};

use crate::common::{
    Broker, PATIENCE,
    raw::{self, BINARY, CONTINUATION, PING, PONG, Raw, TEXT, UPGRADE, UPGRADE_TO_BINARY},
    witness::Witness,
};

const ENABLED: &str = "deflate.enabled=true";
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const RSV1: u8 = 0x40;
/// What ends a message's deflate data, and is not sent.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// So many connections that the kernel spreads them over both reactors, but for one time in 2^15.
const CONNECTIONS: usize = 16;

/// Upgrades with these lines more, and returns the extension that was answered.
fn upgrade(broker: &Broker, request: &str, lines: &str) -> (Raw, Option<String>) {
    let mut raw = Raw::connect(broker.address);
    raw.send(format!("{}{lines}\r\n", request.strip_suffix("\r\n").unwrap()).as_bytes());
    let head = raw.receive_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let name = "Sec-WebSocket-Extensions: ";
    let mut answers = head.lines().filter_map(|line| line.strip_prefix(name));
    let answer = answers.next().map(str::to_owned);
    assert_eq!(answers.next(), None, "{head}");
    (raw, answer)
}

/// A connection that negotiated `offer` and has had what the broker says first.
fn open(broker: &Broker, request: &str, offer: &str) -> Raw {
    let (mut raw, answer) = upgrade(broker, request, &format!("Sec-WebSocket-Extensions: {offer}\r\n"));
    assert!(answer.is_some_and(|answer| answer.starts_with(AGREED)), "{offer} is declined");
    if !request.contains("/echo") {
        raw.receive_frame().expect("a hello");
    }
    raw
}

fn echo() -> String {
    UPGRADE.replace("/ws", "/echo")
}

/// A message's payload when it is compressed.
fn deflated(message: &[u8], level: u32) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() + message.len() / 8 + 64);
    let mut compress = Compress::new(Compression::new(level), false);
    compress.compress_vec(message, &mut payload, FlushCompress::Sync).unwrap();
    assert_eq!(compress.total_in(), message.len() as u64);
    payload.truncate(payload.strip_suffix(&TAIL).expect("a flush").len());
    payload
}

/// The next message: whether it came compressed, its opcode, and what it says.
fn receive(raw: &mut Raw) -> (bool, u8, Vec<u8>) {
    let (first, payload) = raw.receive_extended_frame().expect("a message");
    assert_eq!(first & 0xb0, 0x80, "a message is one frame without RSV2 and RSV3");
    if first & RSV1 == 0 {
        return (false, first & 0x0f, payload);
    }
    let mut message = Vec::with_capacity(1 << 20);
    let bytes = [payload.as_slice(), &TAIL].concat();
    let mut decompress = Decompress::new(false);
    decompress.decompress_vec(&bytes, &mut message, FlushDecompress::Sync).expect("deflate data");
    assert_eq!(decompress.total_in(), bytes.len() as u64);
    assert!(payload.len() < message.len(), "what does not shrink is not compressed");
    (true, first & 0x0f, message)
}

/// The frame with RSV1 set.
fn compressed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[0] |= RSV1;
    frame
}

fn publish(topic: &str, data: &str) -> String {
    json!({"op": "publish", "topic": topic, "data": data, "id": 7}).to_string()
}

fn subscribe_to(topic: &str) -> String {
    json!({"op": "subscribe", "topic": topic, "id": 1}).to_string()
}

/// A command as a binary connection sends it: its kind, and the object.
fn binary_command(kind: u8, command: &str) -> Vec<u8> {
    let header = [kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    raw::frame(BINARY, &[&header, command.as_bytes()].concat())
}

/// Bytes that do not shrink.
fn noise(len: usize) -> Vec<u8> {
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    std::iter::successors(Some(1), next).map(|state| (state >> 56) as u8).take(len).collect()
}

fn message(topic: &str, seq: u64, data: &str) -> Vec<u8> {
    format!(r#"{{"op":"message","topic":"{topic}","seq":{seq},"data":"{data}"}}"#).into_bytes()
}

/// Asks for a counter until all reactors together have counted so much.
fn wait_for_total(broker: &Broker, name: &str, labels: &str, expected: f64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let total: f64 = broker.metric(name, labels).iter().sum();
        if total == expected {
            return;
        }
        assert!(total < expected && Instant::now() < deadline, "{name} is {total} and not {expected}");
    }
}

#[test]
fn an_offer_is_answered_by_what_was_agreed_on_or_passed_over() {
    let with_window = |bits: u8| Some(format!("{AGREED}; server_max_window_bits={bits}"));
    let line = |offers: &str| format!("Sec-WebSocket-Extensions: {offers}\r\n");
    let all = Some(AGREED.to_owned());
    let cases = [
        (String::new(), None),
        (line("permessage-deflate"), all.clone()),
        // What browsers, node's ws and Python's websockets offer.
        (line("permessage-deflate; client_max_window_bits"), all.clone()),
        (line("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"), with_window(12)),
        (line("permessage-deflate; server_max_window_bits=\"8\""), with_window(8)),
        (line("permessage-deflate;server_no_context_takeover;client_no_context_takeover"), all.clone()),
        (line("x-webkit-deflate-frame, permessage-deflate"), all.clone()),
        (line("x-webkit-deflate-frame"), None),
        (line("permessage-deflate; server_max_window_bits=16"), None),
        (line("permessage-deflate; server_max_window_bits=08"), None),
        (line("permessage-deflate; server_max_window_bits"), None),
        (line("permessage-deflate; client_max_window_bits=7"), None),
        (line("permessage-deflate; something=else"), None),
        (line("permessage-deflate; client_no_context_takeover; client_no_context_takeover"), None),
        (
            line(
                "permessage-deflate; server_max_window_bits=7, permessage-deflate; server_max_window_bits=10",
            ),
            with_window(10),
        ),
        // A list may be spread over lines.
        (
            line("permessage-deflate; x") + &line("permessage-deflate; server_max_window_bits=11"),
            with_window(11),
        ),
    ];
    let broker = Broker::start(2, &[ENABLED]);
    let narrow = Broker::start(1, &[ENABLED, "deflate.window_bits=12"]);
    let disabled = Broker::start(1, &[]);
    for (lines, expected) in cases {
        let (_, answer) = upgrade(&broker, UPGRADE, &lines);
        assert_eq!(answer, expected, "{lines}");
        let (_, answer) = upgrade(&narrow, UPGRADE, &lines);
        let asked = expected.as_ref().and_then(|answer| answer.split_once("bits=")?.1.parse().ok());
        assert_eq!(answer, expected.and_then(|_| with_window(asked.unwrap_or(15).min(12))), "{lines}");
        assert_eq!(upgrade(&disabled, UPGRADE, &lines).1, None, "{lines}");
    }
    for broker in [broker, narrow, disabled] {
        broker.stop();
    }
}

/// Subscribers of both languages, with and without the extension, by name and by filter, on all reactors. A
/// publication comes to all with the same seq, and is compressed once for each language.
#[test]
fn a_publication_comes_compressed_to_those_who_negotiated_it_and_plain_to_the_others() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[ENABLED]);
        let topics = ["room/1", "room/2", "room/3", "room/4"];
        let mut subscribers = Vec::new();
        for index in 0..CONNECTIONS {
            let (is_binary, is_deflated) = (index % 4 >= 2, index % 2 == 1);
            let request = if is_binary { UPGRADE_TO_BINARY } else { UPGRADE };
            let mut raw = match is_deflated {
                true => open(&broker, request, OFFER),
                false => {
                    let (mut raw, answer) = upgrade(&broker, request, "");
                    assert_eq!(answer, None);
                    raw.receive_frame().expect("a hello");
                    raw
                }
            };
            let filters = if index < CONNECTIONS / 2 { &topics[..] } else { &["room/+"] };
            for filter in filters {
                match is_binary {
                    true => raw.send(&binary_command(4, &subscribe_to(filter))),
                    false => raw.send_text(&subscribe_to(filter)),
                }
                // Short as it is, it comes as it is.
                raw.receive_frame().expect("an ok");
            }
            subscribers.push((raw, is_binary, is_deflated));
        }
        let mut publisher = Raw::open(broker.address);
        let data = "all work and no play ".repeat(40);
        for seq in 1..=3_u64 {
            for topic in topics {
                let ok = publisher.ask(&publish(topic, &data));
                assert_eq!(ok, json!({"op": "ok", "id": 7, "topic": topic, "seq": seq}));
            }
        }
        for (mut raw, is_binary, is_deflated) in subscribers {
            // There is no order between topics.
            let mut seqs = [0; 4];
            for _ in 0..3 * topics.len() {
                let (was_deflated, opcode, message_bytes) = receive(&mut raw);
                assert_eq!((was_deflated, opcode), (is_deflated, if is_binary { BINARY } else { TEXT }));
                let index = (0..topics.len())
                    .find(|index| message_bytes.windows(6).any(|window| window == topics[*index].as_bytes()))
                    .expect("a topic");
                seqs[index] += 1;
                let expected = match is_binary {
                    false => message(topics[index], seqs[index], &data),
                    true => {
                        let head = [&[0x02, 0x01, 0, 6][..], &seqs[index].to_be_bytes()].concat();
                        [&head[..], topics[index].as_bytes(), b"\"", data.as_bytes(), b"\""].concat()
                    }
                };
                assert!(message_bytes == expected, "{}", message_bytes.escape_ascii());
            }
            assert_eq!(seqs, [3; 4]);
            raw.close();
        }
        wait_for_total(&broker, "fanfare_deflated_total", "", 2.0 * 3.0 * topics.len() as f64);
        let sum = |name| broker.metric(name, "").iter().sum::<f64>();
        let (before, after) = (sum("fanfare_deflate_in_bytes_total"), sum("fanfare_deflate_out_bytes_total"));
        assert!(before > 2.0 * 12.0 * data.len() as f64 && after < before / 5.0, "{before} became {after}");
        publisher.close();
        broker.stop();
    }
}

/// The length that counts is that of the message, not of its data.
#[test]
fn what_is_shorter_than_bytes_min_or_does_not_shrink_comes_plain() {
    let broker = Broker::start(1, &[ENABLED, "deflate.bytes_min=300"]);
    let mut subscriber = open(&broker, UPGRADE_TO_BINARY, OFFER);
    let mut publisher = open(&broker, UPGRADE_TO_BINARY, OFFER);
    subscriber.send(&binary_command(4, &subscribe_to("t")));
    subscriber.receive_frame().expect("an ok");
    let around = 12 + "t".len();
    let cases = [
        (vec![0; 299 - around], false, false),
        (vec![0; 300 - around], true, true),
        (noise(1_000), true, false),
    ];
    let mut tried = 0;
    for (seq, (payload, is_tried, is_deflated)) in (1_u64..).zip(cases) {
        publisher.send(&raw::frame(
            BINARY,
            &[&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], &b"t"[..], &payload].concat(),
        ));
        let expected = [&[2, 0, 0, 1], &seq.to_be_bytes()[..], b"t", &payload].concat();
        assert_eq!(receive(&mut subscriber), (is_deflated, BINARY, expected));
        tried += if is_tried { around + payload.len() } else { 0 };
    }
    wait_for_total(&broker, "fanfare_deflate_in_bytes_total", "", tried as f64);
    wait_for_total(&broker, "fanfare_deflated_total", "", 1.0);
    subscriber.close();
    publisher.close();
    broker.stop();
}

/// The broker compresses publications in one window for all. An echo goes to one client and is held against
/// its window: what is no longer than that refers back no further.
#[test]
fn a_client_with_a_window_smaller_than_the_brokers_gets_compressed_only_what_fits_into_it() {
    let data = "x".repeat(3_000);
    for (ours, theirs, are_publications_deflated) in [(15, 9, false), (12, 11, false), (12, 12, true)] {
        let window = format!("deflate.window_bits={ours}");
        let broker = Broker::start(1, &[ENABLED, &window, "listen.echo=true"]);
        let offer = format!("permessage-deflate; server_max_window_bits={theirs}");
        let mut raw = open(&broker, UPGRADE, &offer);
        raw.send_text(&subscribe_to("t"));
        raw.receive_frame().expect("an ok");
        raw.send_text(&publish("t", &data));
        let mut came = [receive(&mut raw), receive(&mut raw)];
        came.sort_by_key(|(_, _, message)| message.len());
        let [(is_ok_deflated, ..), (is_deflated, _, got)] = came;
        assert!(!is_ok_deflated && got == message("t", 1, &data));
        assert_eq!(is_deflated, are_publications_deflated, "{ours}, {theirs}");
        raw.close();

        let mut raw = open(&broker, &echo(), &offer);
        for len in [1 << theirs, (1 << theirs) + 1] {
            let text = "y".repeat(len);
            raw.send_text(&text);
            let (is_deflated, _, got) = receive(&mut raw);
            assert_eq!(got, text.as_bytes());
            assert_eq!(is_deflated, are_publications_deflated || len <= 1 << theirs, "{ours}, {theirs}");
        }
        raw.close();
        broker.stop();
    }
}

/// At every level, in one frame and in many, with a ping between them; and plain, which is always allowed.
#[test]
fn a_command_may_come_compressed() {
    let broker = Broker::start(2, &[ENABLED]);
    let mut subscriber = Raw::open(broker.address);
    assert_eq!(subscriber.ask(&subscribe_to("t"))["op"], "ok");
    let mut publisher = open(&broker, UPGRADE, OFFER);
    let data = "wörk and no play ".repeat(20);
    let mut seq = 0;
    let mut expect = |publisher: &mut Raw, subscriber: &mut Raw| {
        seq += 1;
        assert_eq!(publisher.receive(), json!({"op": "ok", "id": 7, "topic": "t", "seq": seq}));
        let came = subscriber.receive();
        assert_eq!(came, json!({"op": "message", "topic": "t", "seq": seq, "data": data}));
    };
    for level in [0, 1, 6, 9] {
        let payload = deflated(publish("t", &data).as_bytes(), level);
        publisher.send(&compressed(raw::frame(TEXT, &payload)));
        expect(&mut publisher, &mut subscriber);

        publisher.send(&compressed(raw::fragment(TEXT, false, &payload[..1])));
        publisher.send(&raw::fragment(CONTINUATION, false, b""));
        publisher.send(&raw::frame(PING, b"between"));
        assert_eq!(publisher.receive_frame(), Some((PONG, b"between".to_vec())));
        for piece in payload[1..].chunks(7) {
            publisher.send(&raw::fragment(CONTINUATION, false, piece));
        }
        publisher.send(&raw::fragment(CONTINUATION, true, b""));
        expect(&mut publisher, &mut subscriber);
    }
    publisher.send_text(&publish("t", &data));
    expect(&mut publisher, &mut subscriber);
    wait_for_total(&broker, "fanfare_inflated_total", "", 8.0);
    wait_for_total(&broker, "fanfare_inflated_bytes_total", "", 8.0 * publish("t", &data).len() as f64);
    publisher.close();
    subscriber.close();
    broker.stop();
}

#[test]
fn a_binary_publish_may_come_compressed() {
    let broker = Broker::start(1, &[ENABLED]);
    let mut subscriber = Raw::open(broker.address);
    assert_eq!(subscriber.ask(&subscribe_to("t"))["op"], "ok");
    let mut publisher = open(&broker, UPGRADE_TO_BINARY, OFFER);
    let body = [&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], b"t", &[0xff; 3]].concat();
    publisher.send(&compressed(raw::frame(BINARY, &deflated(&body, 6))));
    let came = subscriber.receive();
    assert_eq!(came, json!({"op": "message", "topic": "t", "seq": 1, "base64": "////"}));
    publisher.close();
    subscriber.close();
    broker.stop();
}

/// The limit of a message holds for what it says. Noise does not shrink, so that the longest message allowed
/// takes a little more than that when it comes compressed.
#[test]
fn a_compressed_message_may_be_as_long_as_a_plain_one_and_no_longer() {
    let settings = [ENABLED, "deflate.ratio_max=1032", "limits.message_bytes_max=70000", "listen.echo=true"];
    let broker = Broker::start(1, &settings);
    let noise: Vec<u8> =
        (0..70_001_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (message, level) in [(noise, 0), (vec![0; 70_001], 9)] {
        let mut raw = open(&broker, &echo(), OFFER);
        let payload = deflated(&message[..70_000], level);
        assert_eq!(payload.len() > 70_000, level == 0);
        raw.send(&compressed(raw::frame(BINARY, &payload)));
        let (_, opcode, got) = receive(&mut raw);
        assert!(opcode == BINARY && got == message[..70_000]);
        raw.send_while_taken(&compressed(raw::frame(BINARY, &deflated(&message, level))), usize::MAX);
        assert_eq!(raw.receive_close().0, 1009);
        raw.expect_end();
    }
    broker.stop();
}

/// 10 MB of zeros are 10 kB compressed. They come whole and in frames of 100 bytes, from several at once.
#[test]
fn a_bomb_ends_its_sender_and_nobody_else() {
    const BOMBS: usize = 8;
    let bomb = deflated(&vec![0; 10_000_000], 9);
    assert!(bomb.len() < 12_000);
    let mut fragmented = compressed(raw::fragment(TEXT, false, &bomb[..100]));
    for piece in bomb[100..].chunks(100) {
        fragmented.extend(raw::fragment(CONTINUATION, false, piece));
    }
    fragmented.extend(raw::fragment(CONTINUATION, true, b""));
    let whole = compressed(raw::frame(TEXT, &bomb));
    let too_much =
        "a message over 64 KiB must not be longer than deflate.ratio_max times its compressed length";
    let too_long = "a message must not be longer than limits.message_bytes_max";
    for (reactors, ratio_max, rule) in [(1, 100, too_much), (2, 100, too_much), (1, 1_032, too_long)] {
        let broker = Broker::start(reactors, &[ENABLED, &format!("deflate.ratio_max={ratio_max}")]);
        let witness = Witness::start(&broker);
        for bytes in [&fragmented, &whole] {
            let mut senders: Vec<Raw> = (0..BOMBS).map(|_| open(&broker, UPGRADE, OFFER)).collect();
            senders.iter_mut().for_each(|raw| raw.send(bytes));
            for mut raw in senders {
                assert_eq!(raw.receive_close(), (1009, rule.into()));
                raw.expect_end();
            }
        }
        let reason = r#",reason="message_too_big""#;
        wait_for_total(&broker, "fanfare_closes_total", reason, 2.0 * BOMBS as f64);
        wait_for_total(&broker, "fanfare_inflated_total", "", 0.0);
        witness.finish();
        broker.stop();
    }
}

/// Each with its code, whether it comes in one packet or byte by byte.
#[test]
fn compressed_messages_that_break_a_rule_are_answered_by_its_code() {
    let long = publish("t", "all work and no play");
    let payload = deflated(long.as_bytes(), 6);
    let text = |payload: &[u8]| compressed(raw::frame(TEXT, payload));
    let started = || raw::fragment(TEXT, false, b"{");
    let agreed = [
        ("no deflate data", 1007, text(b"Hello")),
        ("a message that is cut", 1007, text(&payload[..payload.len() / 2])),
        ("a stored block that is cut", 1007, text(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48])),
        ("a reference to the message before", 1007, text(&[0xf2, 0x00, 0x11, 0x00, 0x00])),
        ("text that is not UTF-8", 1007, text(&deflated(b"{\"op\":\"\xff\"}", 6))),
        ("a cut character at the end", 1007, text(&deflated(b"{\"op\":\"\xc3", 0))),
        (
            "RSV1 on a continuation",
            1002,
            [started(), compressed(raw::fragment(CONTINUATION, true, b"}"))].concat(),
        ),
        (
            "RSV1 on a continuation of what is compressed",
            1002,
            [
                compressed(raw::fragment(TEXT, false, &payload[..5])),
                compressed(raw::fragment(CONTINUATION, true, &payload[5..])),
            ]
            .concat(),
        ),
        ("257 streams of nothing", 1009, text(&[0x03, 0x00].repeat(257))),
        ("RSV1 on a ping", 1002, compressed(raw::frame(PING, b""))),
        ("RSV1 on a pong", 1002, compressed(raw::frame(PONG, b""))),
        ("RSV1 on a close frame", 1002, compressed(raw::frame(raw::CLOSE, b"\x03\xe8"))),
        ("RSV2", 1002, [&[0xa1][..], &raw::frame(TEXT, b"{}")[1..]].concat()),
        ("RSV1 and RSV3", 1002, [&[0xd1][..], &raw::frame(TEXT, &payload)[1..]].concat()),
        ("a binary message on a JSON connection", 1003, compressed(raw::frame(BINARY, &payload))),
    ];
    let not_agreed = [
        ("RSV1", 1002, text(&payload)),
        (
            "RSV1 on a continuation",
            1002,
            [started(), compressed(raw::fragment(CONTINUATION, true, b"}"))].concat(),
        ),
        ("RSV1 on a ping", 1002, compressed(raw::frame(PING, b""))),
    ];
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[ENABLED]);
        let witness = Witness::start(&broker);
        let cases = agreed.iter().map(|case| (true, case)).chain(not_agreed.iter().map(|case| (false, case)));
        for (is_agreed, (what, code, bytes)) in cases {
            for piece_len in [usize::MAX, 1] {
                let mut raw = match is_agreed {
                    true => open(&broker, UPGRADE, OFFER),
                    false => Raw::open(broker.address),
                };
                raw.send_while_taken(bytes, piece_len);
                // More of it must neither be answered nor change the answer.
                raw.send_while_taken(bytes, usize::MAX);
                let (answered, sentence) = raw.receive_close();
                assert_eq!(answered, *code, "{what}: {sentence}");
                assert!(!sentence.is_empty(), "{what}");
                raw.expect_end();
            }
        }
        wait_for_total(&broker, "fanfare_closes_total", r#",reason="invalid_deflate""#, 8.0);
        witness.finish();
        broker.stop();
    }
}

/// Commands, publications and replies of all lengths, which shrink much, little and not at all.
#[test]
fn many_messages_through_one_compressor_do_not_get_into_each_other() {
    let broker = Broker::start(2, &[ENABLED, "deflate.level=9", "deflate.bytes_min=0"]);
    let mut subscriber = open(&broker, UPGRADE, OFFER);
    subscriber.send_text(&subscribe_to("t"));
    assert!(receive(&mut subscriber).2.starts_with(br#"{"op":"ok","id":1,"topic":"t","seq":0,"#));
    let mut publisher = open(&broker, UPGRADE, OFFER);
    let data: Vec<Value> = (0..200_usize)
        .map(|number| match number % 4 {
            0 => json!(number),
            1 => json!("abc ".repeat(number * 37)),
            2 => json!([number, "x".repeat(number * number), {"a": null}]),
            _ => json!((0..number as u32).map(|digit| digit.wrapping_mul(2_654_435_761)).collect::<Vec<_>>()),
        })
        .collect();
    for (seq, data) in (1..).zip(&data) {
        let publish = json!({"op": "publish", "topic": "t", "data": data, "id": 7}).to_string();
        publisher.send(&compressed(raw::frame(TEXT, &deflated(publish.as_bytes(), seq % 10))));
        let (_, _, ok) = receive(&mut publisher);
        assert_eq!(serde_json::from_slice::<Value>(&ok).unwrap()["seq"], seq);
        let (_, _, message) = receive(&mut subscriber);
        let expected = json!({"op": "message", "topic": "t", "seq": seq, "data": data});
        assert_eq!(serde_json::from_slice::<Value>(&message).unwrap(), expected);
    }
    wait_for_total(&broker, "fanfare_inflated_total", "", data.len() as f64);
    publisher.close();
    subscriber.close();
    broker.stop();
}
