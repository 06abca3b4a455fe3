//! Deadlines of open connections.

use std::{io::Write, os::fd::AsRawFd};

use serde_json::json;

use crate::common::{
    Broker,
    raw::{CLOSE, CONTINUATION, PING, PONG, Raw, TEXT, fragment, frame},
    witness::Witness,
};

fn closes(broker: &Broker, reason: &str) -> f64 {
    broker.metric("fanfare_closes_total", &format!(r#",reason="{reason}""#)).iter().sum()
}

/// One answers every ping and says nothing else: that is no message. One only sends, one only receives: they
/// stay.
#[test]
fn a_connection_without_messages_is_closed_with_4008() {
    let settings = ["timeouts.idle_ms=1500", "timeouts.ping_ms=100", "timeouts.pong_ms=60000"];
    let broker = Broker::start(2, &settings);
    let (mut idle, mut sender, mut receiver) =
        (Raw::open(broker.address), Raw::open(broker.address), Raw::open(broker.address));
    assert_eq!(receiver.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["op"], "ok");
    let mut seq = 0;
    let code = loop {
        sender.send_text(r#"{"op":"publish","topic":"t","data":1}"#);
        seq += 1;
        assert_eq!(
            next_message(&mut receiver),
            json!({"op": "message", "topic": "t", "seq": seq, "data": 1})
        );
        match idle.receive_frame().expect("a close frame") {
            (PING, _) => idle.send(&frame(PONG, b"")),
            (_, payload) => {
                assert_eq!(&payload[2..], b"no message came or went for timeouts.idle_ms");
                break u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    };
    assert_eq!(code, 4008);
    idle.answer_close(4008);
    assert_eq!(closes(&broker, "idle_timeout"), 1.0);
    drop((sender, receiver));
    broker.stop();
}

/// A message comes in small parts: that is not idle, but it has a deadline of its own.
#[test]
fn a_message_that_is_begun_is_to_be_ended() {
    let settings = [
        "timeouts.idle_ms=1000",
        "timeouts.message_ms=3000",
        "timeouts.ping_ms=100",
        "timeouts.pong_ms=60000",
    ];
    let broker = Broker::start(1, &settings);
    let mut raw = Raw::open(broker.address);
    raw.send(&fragment(TEXT, false, b" "));
    while raw.peek_opcode() == PING {
        raw.receive_frame();
        raw.send(&fragment(CONTINUATION, false, b" "));
    }
    let text = "a message was begun and not ended for timeouts.message_ms";
    assert_eq!(raw.receive_close(), (4008, text.into()));
    broker.stop();
}

/// Its kernel, or a proxy before it, takes what is sent to it, and it says nothing: it is asked, and closed.
#[test]
fn who_is_sent_messages_and_gives_no_sign_of_life_is_closed_with_4008() {
    const PUBLISH: &str = r#"{"op":"publish","topic":"t","data":1}"#;
    let broker = Broker::start(1, &["timeouts.ping_ms=100", "timeouts.pong_ms=300"]);
    // One by one, or so many ahead that a send is always in flight, and goes on.
    for ahead in [0, 500] {
        let (mut silent, mut publisher) = (Raw::open(broker.address), Raw::open(broker.address));
        assert_eq!(silent.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["op"], "ok");
        (0..ahead).for_each(|_| publisher.send_text(PUBLISH));
        let mut message_count = 0;
        while silent.peek_opcode() != CLOSE {
            publisher.send_text(PUBLISH);
            match silent.receive_frame().expect("a message") {
                (TEXT, _) => message_count += 1,
                (opcode, _) => assert_eq!(opcode, PING),
            }
        }
        assert!(message_count > 2);
        assert_eq!(silent.receive_close(), (4008, "nothing came for too long".into()));
    }
    broker.stop();
}

/// The next message, past pings, which are answered.
fn next_message(raw: &mut Raw) -> serde_json::Value {
    loop {
        match raw.receive_frame().expect("a message") {
            (PING, _) => raw.send(&frame(PONG, b"")),
            (_, payload) => return serde_json::from_slice(&payload).unwrap(),
        }
    }
}

/// It takes nothing of a long send and is lively otherwise: its pongs do not save it.
#[test]
fn a_peer_that_sends_and_takes_nothing_is_reset() {
    let settings = [
        "timeouts.write_stall_ms=300",
        "timeouts.close_ms=100",
        "timeouts.ping_ms=600000",
        "listen.sndbuf_bytes=65536",
    ];
    let broker = Broker::start(1, &settings);
    let witness = Witness::start(&broker);
    let mut stalled = Raw::connect_small(broker.address, 32 << 10).upgraded();
    assert_eq!(stalled.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["op"], "ok");
    let mut publisher = Raw::open(broker.address);
    let command = json!({"op": "publish", "topic": "t", "data": "x".repeat(1_000_000), "id": 1});
    assert_eq!(publisher.ask(&command.to_string())["op"], "ok");
    publisher.close();
    // An error is always polled for.
    let mut poll = libc::pollfd { fd: stalled.stream.as_raw_fd(), events: 0, revents: 0 };
    loop {
        // The pace of its liveliness; what ends the loop is the reset.
        // SAFETY: one pollfd, which outlives the call.
        match unsafe { libc::poll(&raw mut poll, 1, 10) } {
            0 if stalled.stream.write_all(&frame(PONG, b"")).is_ok() => {}
            0 | 1 => break,
            result => panic!("poll gives {result}"),
        }
    }
    witness.finish();
    assert_eq!(closes(&broker, "slow_consumer"), 1.0);
    let counted =
        broker.metric("fanfare_slow_consumers_total", r#",bound="write_stall_ms",verdict="disconnect""#);
    assert_eq!(counted.iter().sum::<f64>(), 1.0);
    broker.stop();
}
