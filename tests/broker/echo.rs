//! `/echo`, on which a conformance suite judges the broker: `tests/autobahn/run`.

use crate::common::{
    Broker,
    raw::{self, Raw, UPGRADE},
};

fn upgrade_to_echo() -> String {
    UPGRADE.replace("/ws", "/echo")
}

/// An echo that has answered the upgrade, and says nothing of its own.
fn open(broker: &Broker) -> Raw {
    let mut raw = Raw::connect(broker.address);
    raw.send(upgrade_to_echo().as_bytes());
    let head = raw.receive_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    raw
}

#[test]
fn there_is_no_echo_unless_it_is_switched_on() {
    let broker = Broker::start(1, &[]);
    let mut raw = Raw::connect(broker.address);
    raw.send_while_taken(upgrade_to_echo().as_bytes(), usize::MAX);
    let (status, text) = raw.receive_answer();
    assert_eq!(status, 404, "{text}");
    broker.stop();
}

#[test]
fn an_echo_sends_each_message_back_as_one_frame() {
    let broker = Broker::start(1, &["listen.echo=true"]);
    let mut raw = open(&broker);
    raw.send_text("text");
    assert_eq!(raw.receive_frame(), Some((raw::TEXT, b"text".to_vec())));
    raw.send(&raw::frame(raw::BINARY, b"\xff\x00"));
    assert_eq!(raw.receive_frame(), Some((raw::BINARY, b"\xff\x00".to_vec())));

    raw.send(&raw::fragment(raw::TEXT, false, b"in \xc3"));
    raw.send(&raw::frame(raw::PING, b"between"));
    raw.send(&raw::fragment(raw::CONTINUATION, false, b""));
    raw.send(&raw::fragment(raw::CONTINUATION, true, b"\xa9"));
    assert_eq!(raw.receive_frame(), Some((raw::PONG, b"between".to_vec())));
    assert_eq!(raw.receive_frame(), Some((raw::TEXT, "in é".into())));

    // What would be a command elsewhere is none here.
    raw.send_text(r#"{"op":"ping"}"#);
    assert_eq!(raw.receive_text(), r#"{"op":"ping"}"#);
    raw.send(&raw::frame(raw::CLOSE, b"\x0f\xa0bye"));
    assert_eq!(raw.receive_frame(), Some((raw::CLOSE, b"\x0f\xa0".to_vec())));
    raw.expect_end();
    broker.stop();
}

/// The first message is in flight while the second is taken; both are longer than what may wait.
#[test]
fn an_echo_of_a_long_message_comes_whole_and_in_order() {
    const LEN: usize = 16 << 20;
    let sixteen_mib =
        ["listen.echo=true", "limits.message_bytes_max=16777216", "delivery.owed_bytes_max=33554432"];
    let broker = Broker::start(1, &sixteen_mib);
    let mut raw = open(&broker);
    let messages: Vec<Vec<u8>> =
        (0..3_u8).map(|round| (0..LEN).map(|index| (index % 251) as u8 ^ round).collect()).collect();
    let mut sender = raw.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for message in &messages {
                std::io::Write::write_all(&mut sender, &raw::frame(raw::BINARY, message)).unwrap();
            }
        });
        for message in &messages {
            let (opcode, payload) = raw.receive_frame().unwrap();
            assert_eq!(opcode, raw::BINARY);
            assert!(payload == *message, "{} bytes came back changed", payload.len());
        }
    });
    raw.close();
    broker.stop();
}

/// The switch changes nothing for those who did not ask for an echo.
#[test]
fn beside_an_echo_other_connections_keep_their_rules() {
    let broker = Broker::start(1, &["listen.echo=true"]);
    let mut raw = Raw::open(broker.address);
    raw.send(&raw::frame(raw::BINARY, b"x"));
    assert_eq!(raw.receive_close().0, 1003);
    broker.stop();
}
