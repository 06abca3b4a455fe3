//! Commands and their answers, in both languages, from a library's client.

use serde_json::{Value, json};

use crate::common::{
    Broker,
    client::{Body, Client, EXT_FLAG, Language, Received},
};

/// Commands that both languages write as the same object.
const BOTH: [Language; 2] = [Language::Json, Language::Binary];
const JSON_FLAG: u8 = 0x01;

/// A publish in either language; binary has numbers for ids.
fn publish(client: &mut Client, topic: &str, data: &Value, id: u64) {
    match client.language {
        Language::Json => client.send(json!({"op": "publish", "topic": topic, "data": data, "id": id})),
        Language::Binary => client.send_body(&Body {
            kind: 1,
            flags: JSON_FLAG,
            seq: id,
            topic: topic.into(),
            payload: data.to_string().into_bytes(),
            ..Body::default()
        }),
    }
}

/// The next message as (topic, seq, data), in either language.
fn receive_message(client: &mut Client) -> (String, u64, Value) {
    match client.language {
        Language::Json => {
            let message = client.receive();
            assert_eq!(message["op"], "message", "{message}");
            let (topic, seq) = (&message["topic"], &message["seq"]);
            (topic.as_str().unwrap().into(), seq.as_u64().unwrap(), message["data"].clone())
        }
        Language::Binary => {
            let Body { kind, flags, seq, topic, payload, .. } = client.receive_body();
            assert_eq!((kind, flags), (2, JSON_FLAG), "{}", String::from_utf8_lossy(&payload));
            (topic, seq, serde_json::from_slice(&payload).unwrap())
        }
    }
}

#[test]
fn hello_comes_first_and_says_what_the_broker_is() {
    let broker = Broker::start(2, &["timeouts.ping_ms=7000", "limits.message_bytes_max=4096"]);
    let mut seen = Vec::new();
    for language in BOTH {
        let client = Client::open(&broker, language);
        let mut hello = client.hello.clone();
        let hello = hello.as_object_mut().unwrap();
        let (epoch, conn) = (hello.remove("epoch").unwrap(), hello.remove("conn").unwrap());
        for hex in [&epoch, &conn] {
            let hex = hex.as_str().unwrap();
            assert!(hex.len() == 16 && u64::from_str_radix(hex, 16).is_ok(), "{hex}");
        }
        assert_eq!(
            Value::from(hello.clone()),
            json!({"op": "hello", "v": 1, "max_message": 4096, "ping_s": 7, "features": ["binary", "history", "retain", "keys", "auth"]})
        );
        seen.push((epoch, conn));
        client.close();
    }
    assert_eq!(seen[0].0, seen[1].0, "one epoch per start");
    assert_ne!(seen[0].1, seen[1].1, "a name per connection");
    broker.stop();
}

/// Whoever subscribes as to another broker is told that it is a name here; a publisher is not.
#[test]
fn a_subscribe_with_wildcards_of_others_is_answered_with_a_hint() {
    let broker = Broker::start(2, &[]);
    for language in BOTH {
        let mut client = Client::open(&broker, language);
        for topic in ["room/*", "room.>", "**"] {
            let ok = client.ask(json!({"op": "subscribe", "topic": topic, "id": 1}));
            assert!(ok["hint"].as_str().is_some_and(|hint| hint.contains("+ stands for")), "{ok}");
            assert_eq!((&ok["op"], &ok["seq"]), (&json!("ok"), &json!(0)));
            let ok = client.ask(json!({"op": "unsubscribe", "topic": topic, "id": 2}));
            assert_eq!(ok, json!({"op": "ok", "id": 2, "topic": topic}));
        }
        publish(&mut client, &format!("{language:?}.>"), &json!(1), 3);
        assert_eq!(client.receive()["hint"], Value::Null);
        assert_eq!(client.ask(json!({"op": "subscribe", "topic": "a.b", "id": 4}))["hint"], Value::Null);
        client.close();
    }
    broker.stop();
}

/// One connection subscribes and another publishes, in each pair of languages.
#[test]
fn a_subscriber_gets_what_is_published_after_its_ok() {
    let broker = Broker::start(2, &[]);
    for (round, (from, to)) in
        [(0, (BOTH[0], BOTH[0])), (1, (BOTH[0], BOTH[1])), (2, (BOTH[1], BOTH[0])), (3, (BOTH[1], BOTH[1]))]
    {
        let topic = format!("room/{round}");
        let (mut publisher, mut subscriber) = (Client::open(&broker, from), Client::open(&broker, to));
        let data = json!({"text": "grüß dich", "n": [1, -2.5e3, null, true]});

        publish(&mut publisher, &topic, &json!("before"), 1);
        assert_eq!(publisher.receive(), json!({"op": "ok", "id": 1, "topic": topic, "seq": 1}));
        let ok = subscriber.ask(json!({"op": "subscribe", "topic": topic, "id": "a-1"}));
        let epoch = &subscriber.hello["epoch"];
        assert_eq!(ok, json!({"op": "ok", "id": "a-1", "topic": topic, "seq": 1, "epoch": epoch}));
        for seq in 2..=4 {
            publish(&mut publisher, &topic, &data, seq);
            assert_eq!(publisher.receive(), json!({"op": "ok", "id": seq, "topic": topic, "seq": seq}));
            assert_eq!(receive_message(&mut subscriber), (topic.clone(), seq, data.clone()));
        }

        let ok = subscriber.ask(json!({"op": "unsubscribe", "topic": topic, "id": 9}));
        assert_eq!(ok, json!({"op": "ok", "id": 9, "topic": topic}));
        publish(&mut publisher, &topic, &data, 5);
        assert_eq!(publisher.receive()["seq"], 5);
        assert_eq!(subscriber.ask(json!({"op": "ping", "id": 10})), json!({"op": "pong", "id": 10}));

        let ok = subscriber.ask(json!({"op": "subscribe", "topic": topic, "id": 11}));
        assert_eq!(ok["seq"], 5, "what was published in between is not replayed");
        publisher.close();
        subscriber.close();
    }
    broker.stop();
}

/// A number, a string and an escape, each echoed as it was written; without an id there is no answer.
#[test]
fn ids_are_echoed_and_without_one_there_is_no_ok() {
    let broker = Broker::start(1, &[]);
    let mut raw = crate::common::raw::Raw::open(broker.address);
    for id in ["0", "9007199254740991", r#""x""#, r#""\u00e4\n""#] {
        raw.send_text(&format!(r#"{{"id":{id},"op":"ping"}}"#));
        assert_eq!(raw.receive_text(), format!(r#"{{"op":"pong","id":{id}}}"#));
    }
    for command in ["subscribe", "unsubscribe"] {
        raw.send_text(&format!(r#"{{"op":"{command}","topic":"t"}}"#));
    }
    raw.send_text(r#"{"op":"publish","topic":"t","data":1}"#);
    raw.send_text(r#"{"op":"ping"}"#);
    assert_eq!(raw.receive_text(), r#"{"op":"pong"}"#);
    raw.close();
    broker.stop();
}

/// Everything that `docs/PROTOCOL.md` answers with an `error`; the connection lives on after each.
#[test]
fn a_command_that_is_wrong_is_refused_by_its_code() {
    let broker = Broker::start(2, &["limits.subscriptions_max=3"]);
    let mut client = Client::open(&broker, Language::Json);
    let long = "x".repeat(257);
    let many_levels = ["x"; 33].join("/");
    let cases = [
        ("bad_value", json!({"op": "subscribe", "id": 1})),
        ("bad_value", json!({"op": "subscribe", "topic": 5, "id": 1})),
        ("bad_value", json!({"op": "publish", "topic": "t", "id": 1})),
        ("bad_value", json!({"op": "ping", "id": -1})),
        ("bad_value", json!({"op": "ping", "id": "x".repeat(65)})),
        ("bad_value", json!({"topic": "t"})),
        ("unknown_op", json!({"op": "subscribed", "topic": "t"})),
        ("unknown_key", json!({"op": "ping", "topics": 1})),
        ("bad_topic", json!({"op": "subscribe", "topic": ""})),
        ("bad_topic", json!({"op": "subscribe", "topic": long})),
        ("bad_topic", json!({"op": "subscribe", "topic": many_levels})),
        ("bad_topic", json!({"op": "subscribe", "topic": "a/#/b"})),
        ("bad_topic", json!({"op": "subscribe", "topic": "a/b#"})),
        ("bad_topic", json!({"op": "subscribe", "topic": "a/b+/c"})),
        ("bad_topic", json!({"op": "unsubscribe", "topic": "a\u{0}b"})),
        ("bad_topic", json!({"op": "publish", "topic": "a/+", "data": 1})),
        ("bad_topic", json!({"op": "publish", "topic": "#", "data": 1})),
        ("bad_topic", json!({"op": "publish", "topic": "$sys/x", "data": 1})),
        ("bad_topic", json!({"op": "publish", "topic": long, "data": 1})),
        ("unsupported", json!({"op": "history", "topic": "a", "id": 1})),
        ("bad_value", json!({"op": "history", "topic": "a"})),
        ("limit_reached", json!({"op": "history", "topic": "a", "id": 1, "limit": 1_001})),
        ("not_subscribed", json!({"op": "unsubscribe", "topic": "a"})),
        ("not_subscribed", json!({"op": "unsubscribe", "topic": "a/#"})),
        ("bad_message", json!("subscribe")),
        ("bad_message", json!(5)),
    ];
    for (code, command) in cases {
        let error = client.ask(command.clone());
        assert_eq!((&error["op"], &error["code"]), (&json!("error"), &json!(code)), "{command} → {error}");
        let for_op = command.get("op").filter(|op| **op != "subscribed").cloned().unwrap_or(Value::Null);
        assert_eq!(error["for"], for_op, "{command} → {error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    }
    for topic in ["a", "b", "c/#"] {
        assert_eq!(client.ask(json!({"op": "subscribe", "topic": topic, "id": 1}))["op"], "ok");
        let again = client.ask(json!({"op": "subscribe", "topic": topic, "id": "again"}));
        let expected = ["error", "subscribe", topic, "again"];
        let got = ["op", "for", "topic", "id"].map(|key| again[key].as_str().unwrap());
        assert_eq!(got, expected);
        let code = if topic == "c/#" { "limit_reached" } else { "already_subscribed" };
        assert_eq!(again["code"], code, "the limit is looked at first");
    }
    assert_eq!(client.ask(json!({"op": "subscribe", "topic": "d", "id": 1}))["code"], "limit_reached");
    assert_eq!(client.ask(json!({"op": "unsubscribe", "topic": "a", "id": 1}))["op"], "ok");
    assert_eq!(client.ask(json!({"op": "subscribe", "topic": "d", "id": 1}))["op"], "ok");
    client.close();
    broker.stop();
}

/// In an array commands run in order, each with its own answer; text that does not parse runs nothing.
#[test]
fn an_array_of_commands_runs_in_order() {
    let broker = Broker::start(1, &[]);
    let mut client = Client::open(&broker, Language::Json);
    client.send(json!([
        {"op": "subscribe", "topic": "t", "id": 1},
        {"op": "publish", "topic": "t", "data": "one", "id": 2},
        {"op": "publish", "topic": "t#", "data": "none", "id": 3},
        {"op": "nonsense", "id": 4},
        {"op": "publish", "topic": "t", "data": "two"},
        {"op": "ping", "id": 6},
    ]));
    let mut replies = Vec::new();
    let mut messages = Vec::new();
    while replies.len() < 5 || messages.len() < 2 {
        let received = client.receive();
        match received["op"].as_str().unwrap() {
            "message" => messages.push(received["data"].clone()),
            _ => replies.push((received["id"].as_u64().unwrap(), received["op"].clone())),
        }
    }
    // A home's answer comes when it comes; what is known at once does not wait for it.
    replies.sort_by_key(|(id, _)| *id);
    let ops = ["ok", "ok", "error", "error", "pong"];
    let expected: Vec<_> = [1, 2, 3, 4, 6].into_iter().zip(ops.map(Value::from)).collect();
    assert_eq!(replies, expected);
    assert_eq!(messages, ["one", "two"]);

    client.send_frame(fastwebsockets::Frame::text(
        (*br#"[{"op":"publish","topic":"t","data":"three"},{"op":"#).to_vec().into(),
    ));
    let error = client.receive();
    assert_eq!((&error["code"], error.get("for")), (&json!("bad_message"), None));
    assert_eq!(client.ask(json!([{"op": "ping", "id": 7}]))["op"], "pong");
    client.close();
    broker.stop();
}

/// A batch in one binary message, with a publication that is no JSON in it.
#[test]
fn a_binary_batch_runs_in_order_and_bytes_stay_bytes() {
    let broker = Broker::start(2, &[]);
    let mut binary = Client::open(&broker, Language::Binary);
    let mut json = Client::open(&broker, Language::Json);
    json.ask(json!({"op": "subscribe", "topic": "files/+", "id": 1}));
    let bytes = Body {
        kind: 1,
        topic: "files/a".into(),
        payload: vec![0, 159, 146, 150, 255],
        seq: 21,
        ..Body::default()
    };
    let text = Body { flags: JSON_FLAG, payload: b" {\"a\" :1}".to_vec(), seq: 0, ..bytes.clone() };
    let subscribe = br#"{"op":"subscribe","topic":"files/a","id":20}"#;
    binary.send_batch(&[
        Body { kind: 4, payload: subscribe.to_vec(), ..Body::default() },
        bytes.clone(),
        text.clone(),
        Body { kind: 1, seq: 22, topic: "files/#".into(), ..Body::default() },
    ]);
    let mut replies = Vec::new();
    let mut messages = Vec::new();
    while replies.len() < 3 || messages.len() < 2 {
        let body = binary.receive_body();
        if body.kind == 2 { messages.push(body) } else { replies.push(body) }
    }
    // The answers of a home come when they come: only what one home says is in order.
    replies.sort_by_key(|reply| reply.payload.clone());
    let objects: Vec<Value> =
        replies.iter().map(|reply| serde_json::from_slice(&reply.payload).unwrap()).collect();
    assert_eq!(replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(), [7, 6, 6]);
    assert_eq!((&objects[0]["code"], &objects[0]["id"]), (&json!("bad_topic"), &json!(22)));
    assert_eq!((&objects[1]["id"], &objects[1]["seq"]), (&json!(20), &json!(0)));
    assert_eq!((&objects[2]["id"], &objects[2]["seq"]), (&json!(21), &json!(1)));
    assert_eq!(messages, [Body { kind: 2, seq: 1, ..bytes }, Body { kind: 2, seq: 2, ..text }]);

    assert_eq!(json.receive(), json!({"op": "message", "topic": "files/a", "seq": 1, "base64": "AJ+Slv8="}));
    assert_eq!(json.receive()["data"], json!({"a": 1}));
    binary.close();
    json.close();
    broker.stop();
}

/// A batch whose lengths do not hold together runs nothing of it.
#[test]
fn a_binary_message_that_is_cut_is_refused_whole() {
    let broker = Broker::start(1, &[]);
    let mut client = Client::open(&broker, Language::Binary);
    let publish = Body { kind: 1, seq: 1, topic: "t".into(), payload: b"x".to_vec(), ..Body::default() };
    let publish = publish.to_bytes();
    let mut batch = vec![0, 0];
    batch.extend((publish.len() as u32).to_be_bytes());
    batch.extend(&publish);
    let mut longer = batch.clone();
    longer.extend((publish.len() as u32 + 1).to_be_bytes());
    longer.extend(&publish);
    let mut nested = vec![0, 0];
    nested.extend((batch.len() as u32).to_be_bytes());
    nested.extend(&batch);
    let no_json = Body {
        kind: 1,
        flags: JSON_FLAG,
        seq: 1,
        topic: "t".into(),
        payload: b"{".to_vec(),
        ..Body::default()
    };
    for message in [vec![], vec![0], publish[..11].to_vec(), longer, nested, no_json.to_bytes()] {
        client.send_frame(fastwebsockets::Frame::binary(message.clone().into()));
        let error = client.receive();
        assert_eq!(error["code"], "bad_message", "{message:?} → {error}");
    }
    for (kind, code) in [(2, "unknown_op"), (3, "unknown_op"), (99, "unknown_op")] {
        client.send_body(&Body { kind, ..Body::default() });
        assert_eq!(client.receive()["code"], code);
    }
    client.send_frame(fastwebsockets::Frame::binary(publish.into()));
    assert_eq!(client.receive()["seq"], 1, "none of the above was published");
    client.close();
    broker.stop();
}

/// Nothing of a batch with such a row is run.
#[test]
fn a_row_of_ext_that_does_not_fit_is_refused() {
    let broker = Broker::start(1, &[]);
    let mut client = Client::open(&broker, Language::Binary);
    let row = [99, 0, 2, b'a', b'b'];
    let good = Body { kind: 1, flags: EXT_FLAG, seq: 7, topic: "t".into(), ..Body::default() };
    let cut = Body { ext: [&row[..], &[99, 0, 3, 1]].concat(), ..good.clone() };
    let no_row = Body { kind: 9, ext: vec![4, 0], flags: EXT_FLAG, ..Body::default() };
    for bodies in [&[cut.clone()][..], &[no_row], &[good.clone(), cut]] {
        match bodies {
            [body] => client.send_body(body),
            _ => client.send_batch(bodies),
        }
        let error = client.receive();
        assert_eq!((&error["op"], &error["code"]), (&json!("error"), &json!("bad_message")));
        let message = error["message"].as_str().expect("words");
        assert!(message.contains("of ext: 3 bytes are due"), "{message}");
    }
    client.send_body(&Body { ext: row.to_vec(), ..good });
    assert_eq!(client.receive()["seq"], 1, "none of the above was published");
    client.close();
    broker.stop();
}

#[test]
fn a_websocket_ping_is_answered_with_its_payload() {
    let broker = Broker::start(1, &[]);
    for language in BOTH {
        let mut client = Client::open(&broker, language);
        for payload in [&b""[..], b"x", &[0xff; 125]] {
            client.send_ping(payload);
            assert_eq!(client.receive_any(), Received::Pong(payload.to_vec()));
        }
        client.close();
    }
    broker.stop();
}

/// Each close code that a peer may send, and a close frame without one.
#[test]
fn a_close_is_echoed_and_then_the_stream_ends() {
    let broker = Broker::start(1, &[]);
    for code in [1000, 1001, 3000, 4999] {
        let mut client = Client::open(&broker, Language::Json);
        client.send_frame(fastwebsockets::Frame::close(code, b"so long"));
        assert_eq!(client.receive_any(), Received::Close(code, String::new()));
        assert_eq!(client.receive_any(), Received::End);
    }
    let mut raw = crate::common::raw::Raw::open(broker.address);
    raw.send(&crate::common::raw::frame(crate::common::raw::CLOSE, b""));
    assert_eq!(raw.receive_frame(), Some((crate::common::raw::CLOSE, vec![])));
    raw.expect_end();
    broker.stop();
}

/// Two homes of one topic each, so that some refusals come from this reactor's home and some from the other.
#[test]
fn a_refusal_is_told_without_an_id_whichever_home_refuses() {
    let broker = Broker::start(2, &["limits.topics_max=1"]);
    let mut client = Client::open(&broker, Language::Json);
    for topic in 0..16 {
        let subscribe = json!({"op": "subscribe", "topic": format!("t/{topic}")});
        client.send(subscribe);
    }
    // A home that has its topic refuses the others: by now each has one, and no topic is idle.
    let refused: Vec<_> = (0..14).map(|_| client.receive()).collect();
    for error in &refused {
        assert_eq!(
            (&error["op"], &error["for"], &error["code"]),
            (&json!("error"), &json!("subscribe"), &json!("limit_reached"))
        );
        client.send(json!({"op": "publish", "topic": error["topic"], "data": 1}));
        let error = client.receive();
        assert_eq!(
            (&error["for"], &error["code"], error.get("id")),
            (&json!("publish"), &json!("limit_reached"), None)
        );
    }
    client.close();
    broker.stop();
}

/// The home answers the subscribe after the unsubscribe was sent; the answers keep the commands' order.
#[test]
fn an_unsubscribe_is_answered_after_the_subscribe_that_it_undoes() {
    let broker = Broker::start(4, &[]);
    let mut client = Client::open(&broker, Language::Json);
    for round in 0..32 {
        let topic = format!("t/{round}");
        client.send(json!([
            {"op": "subscribe", "topic": topic, "id": "in"},
            {"op": "unsubscribe", "topic": topic, "id": "out"},
        ]));
        assert_eq!((&client.receive()["id"], &client.receive()["id"]), (&json!("in"), &json!("out")));
    }
    client.close();
    broker.stop();
}
