//! The port speaks HTTP to whoever asks for anything but a WebSocket.

use serde_json::json;

use crate::common::{
    Broker,
    raw::{self, Raw, UPGRADE},
};

/// Requests with the status that each is answered with, and a word of the answer.
#[test]
fn plain_requests_get_plain_answers() {
    let broker = Broker::start(1, &[]);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let with = |from: &str, to: &str| {
        assert!(UPGRADE.contains(from));
        UPGRADE.replace(from, to)
    };
    let cases = [
        (200, "\r\n\r\nok\n", get("/healthz")),
        (200, "Content-Length: 3\r\n", "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".into()),
        (426, "Upgrade: websocket\r\n", get("/ws")),
        (426, "Sec-WebSocket-Version: 13\r\n", get("/")),
        (426, "it must be 13", with("Version: 13", "Version: 8")),
        (404, "/healthz are served", get("/metrics")),
        (404, "", with("/ws", "/wss")),
        (405, "Allow: GET, HEAD\r\n", get("/ws").replace("GET", "POST")),
        (405, "", get("/healthz").replace("GET", "DELETE")),
        (400, "Host", "GET /ws HTTP/1.1\r\n\r\n".into()),
        (400, "CRLF", "GET /ws HTTP/1.1\nHost: localhost\n\n".into()),
        (400, "16 bytes in base64", with("dGhlIHNhbXBsZSBub25jZQ==", "dGhl")),
        (400, "Upgrade", with("Connection: Upgrade\r\n", "Connection: keep-alive\r\n")),
        (400, "fanfare.json.v1", with("\r\n\r\n", "\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")),
        (400, "HTTP method", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".into()),
        (400, "a b", get("/ws").replace("Host: localhost", "Host: a b")),
        (426, "Upgrade: websocket", format!("\r\n{}", get("/ws").replace("1.1", "1.2"))),
        (421, "listen.hosts", with("Host: localhost", "Host: evil.example:7600")),
        (421, "listen.hosts", get("/ws").replace("localhost", "127.0.0.1.evil.example")),
        (200, "ok", get("/healthz").replace("localhost", "evil.example")),
        (403, "listen.origins", with("\r\n\r\n", "\r\nOrigin: https://evil.example\r\n\r\n")),
        (403, "listen.origins", with("\r\n\r\n", "\r\nOrigin: null\r\n\r\n")),
        (
            400,
            "second Origin",
            with("\r\n\r\n", "\r\nOrigin: http://localhost\r\nOrigin: http://localhost\r\n\r\n"),
        ),
        (505, "HTTP/1.1", get("/ws").replace("1.1", "3.0")),
    ];
    for (status, word, request) in cases {
        for piece_len in [usize::MAX, 1] {
            let mut raw = Raw::connect(broker.address);
            raw.send_while_taken(request.as_bytes(), piece_len);
            let (answered, text) = raw.receive_answer();
            assert_eq!(answered, status, "{request} → {text}");
            assert!(text.contains(word), "{request} → {text}");
            assert!(text.contains("\r\nConnection: close"), "{text}");
        }
    }
    broker.stop();
}

/// Without a subprotocol a client speaks JSON; of several it gets the first that the broker knows.
#[test]
fn the_subprotocol_picks_the_language() {
    let broker = Broker::start(1, &[]);
    for (offer, chosen) in [
        (None, None),
        (Some("fanfare.json.v1"), Some("fanfare.json.v1")),
        (Some("mqtt, fanfare.bin.v1, fanfare.json.v1"), Some("fanfare.bin.v1")),
    ] {
        let offer = offer.map_or(String::new(), |offer| format!("\r\nSec-WebSocket-Protocol: {offer}"));
        let mut raw = Raw::connect(broker.address);
        raw.send(UPGRADE.replace("\r\n\r\n", &format!("{offer}\r\n\r\n")).as_bytes());
        let head = raw.receive_head();
        let answered = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
        assert_eq!(answered, chosen, "{head}");
        let (opcode, _) = raw.receive_frame().unwrap();
        assert_eq!(opcode, if chosen == Some("fanfare.bin.v1") { raw::BINARY } else { raw::TEXT });
        raw.close();
    }
    broker.stop();
}

/// The upgrade and three frames behind it in one packet, and the same a byte at a time.
#[test]
fn frames_may_follow_the_upgrade_at_once() {
    let broker = Broker::start(2, &[]);
    for (round, piece_len) in [usize::MAX, 1].into_iter().enumerate() {
        let topic = format!("t/{round}");
        let mut bytes = UPGRADE.as_bytes().to_vec();
        for command in [
            json!({"op": "subscribe", "topic": topic, "id": 1}),
            json!({"op": "publish", "topic": topic, "data": "é"}),
        ] {
            bytes.extend(raw::frame(raw::TEXT, command.to_string().as_bytes()));
        }
        // A message in two fragments, the cut within a character, and a ping between them.
        let text = json!({"op": "ping", "id": "ö"}).to_string().into_bytes();
        let cut = text.iter().position(|byte| *byte == 0xc3).unwrap() + 1;
        bytes.extend(raw::fragment(raw::TEXT, false, &text[..cut]));
        bytes.extend(raw::frame(raw::PING, b"between"));
        bytes.extend(raw::fragment(raw::CONTINUATION, true, &text[cut..]));
        let mut raw = Raw::connect(broker.address);
        raw.send_while_taken(&bytes, piece_len);
        let epoch = raw.expect_upgraded();

        // The home of the topic may answer later than the connection's own reactor.
        let mut received: Vec<String> = (0..4)
            .map(|_| match raw.receive_frame().unwrap() {
                (raw::TEXT, payload) => String::from_utf8(payload).unwrap(),
                (raw::PONG, payload) => String::from_utf8(payload).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        received.sort();
        let message = format!(r#"{{"op":"message","topic":"{topic}","seq":1,"data":"é"}}"#);
        let ok = format!(r#"{{"op":"ok","id":1,"topic":"{topic}","seq":0,"epoch":"{epoch}"}}"#);
        let pong = r#"{"op":"pong","id":"ö"}"#.to_owned();
        assert_eq!(received, ["between".to_owned(), message, ok, pong]);
        raw.close();
    }
    broker.stop();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let broker = Broker::start(1, &["limits.connections_max=2"]);
    let held = [Raw::open(broker.address), Raw::open(broker.address)];
    let mut third = Raw::connect(broker.address);
    third.send_while_taken(UPGRADE.as_bytes(), usize::MAX);
    let (status, text) = third.receive_answer();
    assert!(status == 503 && text.contains("limits.connections_max"), "{text}");
    for mut raw in held {
        assert_eq!(raw.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
        raw.close();
    }
    broker.stop();
}
