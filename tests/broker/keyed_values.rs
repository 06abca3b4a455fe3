//! Topics' values by key, as clients get them: the newest of each.

use serde_json::{Value, json};

use crate::common::{
    Broker,
    raw::{BINARY, Raw, UPGRADE, UPGRADE_TO_BINARY, frame},
};

const KEYED: &str = r#"topic=[{ match = "quotes/#", last_value = "/symbol", retain = "clients" }, { match = "log/#", last_value = "/symbol", history_count = 3 }]"#;

/// A client of a broker of so many reactors, and the epoch that it was told.
fn client(broker: &Broker) -> (Raw, String) {
    let mut raw = Raw::connect(broker.address);
    raw.send(UPGRADE.as_bytes());
    let epoch = raw.expect_upgraded();
    (raw, epoch)
}

fn publish(raw: &mut Raw, topic: &str, data: &Value, retain: bool) -> Value {
    raw.ask(&json!({"op": "publish", "topic": topic, "data": data, "id": 1, "retain": retain}).to_string())
}

fn quote(symbol: impl Into<Value>, price: u64) -> Value {
    json!({"symbol": symbol.into(), "price": price})
}

/// The `seq`s that a new subscriber is sent before anything live.
fn subscribe(broker: &Broker, topic: &str, more: Value) -> Vec<u64> {
    let (mut raw, _) = client(broker);
    let mut command = json!({"op": "subscribe", "topic": topic, "id": 1});
    command.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let ok = raw.ask(&command.to_string());
    let count = ok["replayed"].as_u64().expect("so many come");
    let seqs = (0..count).map(|_| raw.receive()["seq"].as_u64().expect("a message")).collect();
    assert_eq!(raw.ask(r#"{"op":"ping","id":2}"#), json!({"op": "pong", "id": 2}), "nothing else came");
    raw.close();
    seqs
}

#[test]
fn a_new_subscriber_is_sent_the_newest_of_each_key() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[KEYED]);
        let (mut raw, _) = client(&broker);
        for (number, symbol) in ["A", "B", "A", "C", "B"].into_iter().enumerate() {
            let seq = number as u64 + 1;
            assert_eq!(publish(&mut raw, "quotes/1", &quote(symbol, seq), false)["seq"], seq);
            publish(&mut raw, "log/1", &quote(symbol, seq), false);
        }
        for data in [json!(1), json!({"symbol": {}}), json!(null)] {
            publish(&mut raw, "quotes/1", &data, false);
        }
        assert_eq!(subscribe(&broker, "quotes/1", json!({})), [3, 4, 5]);
        assert_eq!(subscribe(&broker, "quotes/1", json!({"last": 2})), [4, 5]);
        assert_eq!(subscribe(&broker, "quotes/1", json!({"last": 0})), [0_u64; 0]);
        assert_eq!(subscribe(&broker, "log/1", json!({})), [3, 4, 5]);
        assert_eq!(subscribe(&broker, "log/1", json!({"last": 5})), [3, 4, 5], "of its history");
        let page = raw.ask(r#"{"op":"history","topic":"quotes/1","id":7,"limit":2}"#);
        let seqs: Vec<&Value> = page["messages"].as_array().unwrap().iter().map(|it| &it["seq"]).collect();
        assert_eq!(
            (&page["from"], &page["more"], seqs),
            (&json!(3), &json!(true), vec![&json!(4), &json!(5)])
        );
        broker.wait_for_total("fanfare_values", "", |total| total == 2.0);
        publish(&mut raw, "quotes/1", &json!(null), true);
        assert_eq!(subscribe(&broker, "quotes/1", json!({})), [0_u64; 0]);
        broker.wait_for_total("fanfare_values", "", |total| total == 1.0);
        raw.close();
        broker.stop();
    }
}

/// Several pages of them, while others publish; each key comes, nothing twice, and then what is live.
#[test]
fn keys_that_are_published_to_meanwhile_come_with_what_they_are_by_then() {
    const KEYS: u64 = 5_000;
    let broker = Broker::start(2, &[KEYED]);
    let (mut publisher, _) = client(&broker);
    let publish_all = |publisher: &mut Raw, keys: std::ops::Range<u64>| {
        for first in keys.clone().step_by(500) {
            let quotes = (first..(first + 500).min(keys.end)).map(|key| quote(key, 0));
            let commands = quotes.map(|data| json!({"op": "publish", "topic": "quotes/1", "data": data}));
            let mut commands: Vec<Value> = commands.collect();
            // Answered by the topic's home, which may be on the other reactor: a pong would not wait for it.
            commands.last_mut().expect("some keys")["id"] = json!(2);
            assert_eq!(publisher.ask(&Value::from(commands).to_string())["op"], "ok");
        }
    };
    publish_all(&mut publisher, 0..KEYS);
    let (mut raw, _) = client(&broker);
    raw.send_text(r#"{"op":"subscribe","topic":"quotes/1","id":1}"#);
    publish_all(&mut publisher, 2_000..KEYS);
    publish_all(&mut publisher, 0..1_000);
    publish(&mut publisher, "quotes/1", &quote("the end", 0), false);
    let ok = raw.receive();
    let (head, replayed) = (ok["seq"].as_u64().unwrap(), ok["replayed"].as_u64().unwrap());
    assert!(head >= KEYS && replayed == KEYS, "{ok}");
    let (mut newest, mut last, mut before) = (vec![0; KEYS as usize], 0, 0);
    loop {
        let message = raw.receive();
        let seq = message["seq"].as_u64().expect("a message, and no gap");
        assert!(seq > last, "{seq} after {last}");
        (last, before) = (seq, before + u64::from(seq <= head));
        match message["data"]["symbol"].as_u64() {
            Some(key) => newest[key as usize] = seq,
            None => break,
        }
    }
    assert!(before <= replayed);
    let expected: Vec<u64> = (0..KEYS)
        .map(|key| match key {
            0..1_000 => 2 * KEYS - 2_000 + key + 1,
            1_000..2_000 => key + 1,
            _ => KEYS + key - 2_000 + 1,
        })
        .collect();
    assert!(newest == expected, "each key's newest came");
    for raw in [raw, publisher] {
        raw.close();
    }
    broker.stop();
}

/// A binary publish that is said to be JSON has a key, one that is not has none.
#[test]
fn values_by_key_are_of_either_format_and_come_in_either() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[KEYED]);
        let mut raw = Raw::connect(broker.address);
        raw.send(UPGRADE_TO_BINARY.as_bytes());
        raw.expect_upgraded();
        for (flags, payload) in
            [(0x01, &br#"{"symbol":"A"}"#[..]), (0, br#"{"symbol":"B"}"#), (0x01, br#"{"symbol":7}"#)]
        {
            let command = [&[1, flags, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1][..], b"quotes/1", payload].concat();
            raw.send(&frame(BINARY, &command));
            let (_, answer) = raw.receive_frame().expect("an answer");
            assert_eq!(answer[0], 6, "{}", String::from_utf8_lossy(&answer));
        }
        assert_eq!(subscribe(&broker, "quotes/1", json!({})), [1, 3]);
        let command = br#"{"op":"subscribe","topic":"quotes/1"}"#;
        raw.send(&frame(BINARY, &[&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], command].concat()));
        for (seq, payload) in [(1, &br#"{"symbol":"A"}"#[..]), (3, br#"{"symbol":7}"#)] {
            let (_, message) = raw.receive_frame().expect("a value");
            assert_eq!(message, [&[2, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, seq][..], b"quotes/1", payload].concat());
        }
        raw.close_whatever_comes();
        broker.stop();
    }
}

/// Of a topic that keeps nothing else the newest of each key, by a filter that asks for what was; with a history that.
#[test]
fn a_filter_brings_the_newest_values_where_it_asks_for_them() {
    let broker = Broker::start(2, &[KEYED]);
    let (mut raw, _) = client(&broker);
    for symbol in ["A", "B", "A", "C", "B", "D"] {
        publish(&mut raw, "quotes/1", &quote(symbol, 0), false);
        publish(&mut raw, "log/1", &quote(symbol, 0), false);
    }
    for (filter, last, expected) in
        [("quotes/#", 2, vec![5, 6]), ("quotes/#", 9, vec![3, 4, 5, 6]), ("log/#", 9, vec![4, 5, 6])]
    {
        let ok = raw.ask(&json!({"op": "subscribe", "topic": filter, "last": last, "id": 3}).to_string());
        assert_eq!(ok["op"], "ok");
        let mut seqs = Vec::new();
        let replayed = loop {
            let message = raw.receive();
            if message["op"] == "replayed" {
                break message;
            }
            seqs.push(message["seq"].as_u64().expect("a message"));
        };
        assert_eq!((replayed["count"].as_u64(), &seqs), (Some(expected.len() as u64), &expected), "{filter}");
        raw.ask(&json!({"op": "unsubscribe", "topic": filter, "id": 4}).to_string());
    }
    raw.close();
    broker.stop();
}

/// The examples of the page, as they are written there but for the epoch.
#[test]
fn the_page_says_what_clients_get_of_values_by_key() {
    let page = include_str!("../../docs/PROTOCOL.md");
    let section = page.split("\n#### Values by key\n").nth(1).expect("the page has the section");
    let section = section.split("\n###").next().expect("it ends");
    let lines = section.lines().filter_map(|line| line.trim().split_once(' '));
    let broker = Broker::start(1, &[r#"topic=[{ match = "quotes", last_value = "/symbol" }]"#]);
    let (mut raw, epoch) = client(&broker);
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
