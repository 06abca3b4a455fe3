//! Topics' values, as clients get them: what whoever subscribes is sent first.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::common::{
    Broker,
    raw::{BINARY, Raw, UPGRADE, UPGRADE_TO_BINARY, frame},
};

/// Of `ticker/…` the newest is the value, of `board/…` what clients say; of `room/…` there is a past as well.
const VALUES: &str = r#"topic=[{ match = "ticker/#", last_value = true }, { match = "board/#", retain = "clients" },
    { match = "room/#", last_value = true, history_count = 50 }, { match = "hall/#", retain = "clients", history_count = 3 }]"#;

fn broker(reactors: usize) -> Broker {
    Broker::start(reactors, &[&VALUES.replace('\n', "")])
}

/// A client, and the epoch that it was told.
fn client(broker: &Broker) -> (Raw, String) {
    let mut raw = Raw::connect(broker.address);
    raw.send(UPGRADE.as_bytes());
    let epoch = raw.expect_upgraded();
    (raw, epoch)
}

/// Publishes, and tells what the answer is.
fn publish(broker: &Broker, topic: &str, data: Value, retain: bool) -> Value {
    let (mut raw, _) = client(broker);
    let mut command = json!({"op": "publish", "topic": topic, "data": data, "id": 1});
    if retain {
        command["retain"] = json!(true);
    }
    let answer = raw.ask(&command.to_string());
    raw.close();
    answer
}

/// What a new subscriber is told, and then sent before anything else.
fn subscribe(broker: &Broker, topic: &str, more: Value) -> (Value, Vec<Value>) {
    let (mut raw, _) = client(broker);
    let mut command = json!({"op": "subscribe", "topic": topic, "id": 1});
    command.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let ok = raw.ask(&command.to_string());
    let count = ok["replayed"].as_u64().unwrap_or(0);
    let told = (0..count).map(|_| raw.receive()).collect();
    assert_eq!(raw.ask(r#"{"op":"ping","id":2}"#), json!({"op": "pong", "id": 2}), "nothing else came");
    raw.close();
    (ok, told)
}

#[test]
fn a_new_subscriber_is_sent_the_newest_without_asking_and_then_what_comes() {
    for reactors in [1, 2] {
        let broker = broker(reactors);
        let (mut raw, epoch) = client(&broker);
        let expected =
            json!({"op": "ok", "id": 1, "topic": "ticker/a", "seq": 0, "epoch": epoch, "replayed": 0});
        assert_eq!(raw.ask(r#"{"op":"subscribe","topic":"ticker/a","id":1}"#), expected);
        for number in 1..=30 {
            assert_eq!(publish(&broker, "ticker/a", json!(number), false)["seq"], number);
            assert_eq!(raw.receive()["seq"], number);
        }
        raw.close();
        let (mut raw, _) = client(&broker);
        let ok = raw.ask(r#"{"op":"subscribe","topic":"ticker/a","id":1}"#);
        assert_eq!((&ok["seq"], &ok["replayed"]), (&json!(30), &json!(1)));
        let value = json!({"op": "message", "topic": "ticker/a", "seq": 30, "data": 30});
        assert_eq!(raw.receive(), value);
        publish(&broker, "ticker/a", json!(31), false);
        assert_eq!(raw.receive()["seq"], 31);
        raw.close();
        let (ok, told) = subscribe(&broker, "ticker/a", json!({"last": 0}));
        assert_eq!((&ok["replayed"], told), (&json!(0), vec![]), "it declines");
        let (ok, told) = subscribe(&broker, "none", json!({}));
        assert_eq!((&ok["replayed"], told), (&Value::Null, vec![]), "a topic without a value tells of none");
        broker.wait_for_total("fanfare_values", "", |total| total == 1.0);
        broker.stop();
    }
}

#[test]
fn what_is_retained_stays_the_value_until_another_is_or_a_null_clears_it() {
    for reactors in [1, 2] {
        let broker = broker(reactors);
        for topic in ["board/1", "hall/1"] {
            for (number, retain) in [(1, false), (2, true), (3, false), (4, false), (5, false), (6, false)] {
                assert_eq!(publish(&broker, topic, json!({"n": number}), retain)["seq"], number);
            }
            let (ok, told) = subscribe(&broker, topic, json!({}));
            assert_eq!((&ok["seq"], &ok["replayed"]), (&json!(6), &json!(1)));
            assert_eq!(told, [json!({"op": "message", "topic": topic, "seq": 2, "data": {"n": 2}})]);
        }
        let (ok, told) = subscribe(&broker, "hall/1", json!({"last": 2}));
        assert_eq!((&ok["replayed"], &told[0]["seq"]), (&json!(2), &json!(5)), "of what is kept the newest");
        let (ok, told) = subscribe(&broker, "board/1", json!({"last": 2}));
        assert_eq!((&ok["replayed"], &told[0]["seq"]), (&json!(1), &json!(2)), "nothing else is kept");
        let since = json!({"epoch": "0123456789abcdef", "seq": 4});
        let (ok, told) = subscribe(&broker, "board/1", json!({"since": since}));
        assert_eq!((&ok["recovered"], &told[0]["seq"]), (&json!(false), &json!(2)));
        let (mut raw, _) = client(&broker);
        let page = raw.ask(r#"{"op":"history","topic":"board/1","id":7}"#);
        assert_eq!(
            (&page["seq"], &page["from"], &page["messages"][0]["seq"]),
            (&json!(6), &json!(2), &json!(2))
        );
        raw.close();

        let (mut live, _) = client(&broker);
        live.ask(r#"{"op":"subscribe","topic":"board/1","id":1,"last":0}"#);
        assert_eq!(publish(&broker, "board/1", Value::Null, true)["seq"], 7);
        assert_eq!(live.receive(), json!({"op": "message", "topic": "board/1", "seq": 7, "data": null}));
        live.close();
        let (ok, told) = subscribe(&broker, "board/1", json!({}));
        assert_eq!((&ok["seq"], &ok["replayed"], told), (&json!(7), &json!(0), vec![]));
        broker.stop();
    }
}

/// A binary client's flag, and its null, which has no bytes; and the value in the other format.
#[test]
fn a_value_comes_in_either_format_and_is_cleared_by_either_null() {
    for reactors in [1, 2] {
        let broker = broker(reactors);
        let mut raw = Raw::connect(broker.address);
        raw.send(UPGRADE_TO_BINARY.as_bytes());
        raw.expect_upgraded();
        let publish_bytes = |raw: &mut Raw, payload: &[u8]| {
            let header = [&[1, 0x08, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1][..], b"board/1", payload].concat();
            raw.send(&frame(BINARY, &header));
            let (_, answer) = raw.receive_frame().expect("an answer");
            assert_eq!(answer[0], 6, "{}", String::from_utf8_lossy(&answer));
        };
        publish_bytes(&mut raw, b"\xff\x00");
        let (_, told) = subscribe(&broker, "board/1", json!({}));
        assert_eq!(told, [json!({"op": "message", "topic": "board/1", "seq": 1, "base64": "/wA="})]);
        assert_eq!(publish(&broker, "board/1", json!(2), true)["seq"], 2);
        assert_eq!(publish(&broker, "board/1", json!(3), false)["seq"], 3);
        let command = br#"{"op":"subscribe","topic":"board/1"}"#;
        raw.send(&frame(BINARY, &[&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], command].concat()));
        let (_, message) = raw.receive_frame().expect("the value");
        assert_eq!(message, [&[2, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2][..], b"board/1", b"2"].concat());
        publish_bytes(&mut raw, b"");
        raw.close_whatever_comes();
        let (ok, _) = subscribe(&broker, "board/1", json!({}));
        assert_eq!((&ok["seq"], &ok["replayed"]), (&json!(4), &json!(0)));
        broker.stop();
    }
}

#[test]
fn what_no_policy_allows_is_not_retained_and_the_error_says_what_would() {
    for reactors in [1, 2] {
        let broker = broker(reactors);
        for topic in ["none", "nothing/1", "a"] {
            let error = publish(&broker, topic, json!(1), true);
            assert_eq!((&error["code"], &error["for"]), (&json!("unsupported"), &json!("publish")));
            let message = error["message"].as_str().expect("a message");
            assert!(
                message.contains("retain = \"clients\"") && message.contains("last_value = true"),
                "{message}"
            );
            assert_eq!(publish(&broker, topic, json!(1), false)["seq"], 1, "nothing was published");
        }
        assert_eq!(publish(&broker, "ticker/1", json!(1), true)["seq"], 1, "its newest is its value anyway");
        broker.stop();
    }
}

/// It gets no value of what its filter brings already, and asks for none; by name alone it does, with others in one array.
#[test]
fn whoever_receives_a_topic_by_a_filter_is_sent_no_value() {
    let broker = broker(2);
    for topic in ["ticker/1", "ticker/2", "room/1"] {
        publish(&broker, topic, json!("value"), false);
    }
    let (mut raw, _) = client(&broker);
    assert_eq!(raw.ask(r#"{"op":"subscribe","topic":"ticker/#","id":1}"#)["op"], "ok");
    let ok = raw.ask(r#"{"op":"subscribe","topic":"ticker/1","id":2}"#);
    assert_eq!((&ok["seq"], &ok["replayed"]), (&json!(1), &Value::Null), "{ok}");
    assert_eq!(
        raw.ask(r#"{"op":"subscribe","topic":"ticker/2","id":3,"last":1}"#)["code"],
        "already_subscribed"
    );
    let ok = raw.ask(r#"{"op":"subscribe","topic":"room/1","id":4}"#);
    assert_eq!((&ok["replayed"], &raw.receive()["data"]), (&json!(1), &json!("value")));
    publish(&broker, "ticker/1", json!(2), false);
    assert_eq!(raw.receive()["seq"], 2, "once");
    assert_eq!(raw.ask(r#"{"op":"ping","id":5}"#), json!({"op": "pong", "id": 5}));
    raw.close();
    broker.stop();
}

#[test]
fn where_values_fill_what_may_be_kept_another_is_refused() {
    let broker =
        Broker::start(2, &["history.bytes_max=1048576", r#"topic=[{ match = "v/#", last_value = true }]"#]);
    let long = json!("x".repeat(100_000));
    let mut taken = 0;
    let error = loop {
        let answer = publish(&broker, &format!("v/{taken}"), long.clone(), false);
        if answer["op"] != "ok" {
            break answer;
        }
        taken += 1;
        assert!(taken < 20, "it is too much");
    };
    assert_eq!(error["code"], "limit_reached");
    assert!(
        error["message"].as_str().is_some_and(|message| message.contains("history.bytes_max")),
        "{error}"
    );
    assert_eq!(publish(&broker, "v/0", long.clone(), false)["seq"], 2, "one that takes no more is taken");
    assert_eq!(publish(&broker, "v/0", Value::Null, false)["seq"], 3);
    assert_eq!(publish(&broker, &format!("v/{taken}"), long, false)["seq"], 1, "there is room again");
    let (_, told) = subscribe(&broker, "v/1", json!({}));
    assert_eq!(told[0]["seq"], 1, "nothing was lost");
    broker.stop();
}

/// The examples of the page, as they are written there but for the epoch.
#[test]
fn the_page_says_what_clients_get_of_a_value() {
    let page = include_str!("../../docs/PROTOCOL.md");
    let section = page.split("\n### Values\n").nth(1).expect("the page has the section");
    let section = section.split("\n###").next().expect("it ends");
    let lines = section.lines().filter_map(|line| line.trim().split_once(' '));
    let broker = Broker::start(1, &[r#"topic=[{ match = "room/#", retain = "clients" }]"#]);
    let (mut raw, epoch) = client(&broker);
    (0..119).for_each(|_| assert_eq!(publish(&broker, "room/42", json!(0), false)["op"], "ok"));
    let mut count = 0;
    for (arrow, text) in lines {
        let text = text.replace("01473d6923fbdb87", &epoch);
        match arrow {
            "→" => raw.send_text(&text),
            "←" => assert_eq!(raw.receive(), serde_json::from_str::<Value>(&text).expect("JSON")),
            _ => continue,
        }
        count += 1;
    }
    assert!(count > 4, "there are examples");
    raw.close();
    broker.stop();
}

#[test]
fn a_reload_gives_values_and_takes_them() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("values.toml");
    fs::write(&path, "[[topic]]\nmatch = \"a\"\nlast_value = true\n").unwrap();
    let (broker, _) = Broker::start_logged(2, &[], |command| {
        command.arg("--config").arg(&path);
    });
    for topic in ["a", "b"] {
        publish(&broker, topic, json!(1), false);
    }
    let replayed = |topic: &str| subscribe(&broker, topic, json!({})).0["replayed"].clone();
    assert_eq!((replayed("a"), replayed("b")), (json!(1), Value::Null));
    fs::write(&path, "[[topic]]\nmatch = \"b\"\nretain = \"clients\"\n").unwrap();
    broker.reload();
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 1"#);
    assert_eq!((replayed("a"), replayed("b")), (Value::Null, json!(0)));
    assert_eq!(publish(&broker, "b", json!(2), true)["seq"], 2);
    assert_eq!(replayed("b"), json!(1));
    broker.stop();
}
