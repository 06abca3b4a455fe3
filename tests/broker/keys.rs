//! Publications with a key, which are published once.

use fastwebsockets::Frame;
use serde_json::{Value, json};

use crate::common::{
    Broker, broker_command,
    client::{Body, Client, EXT_FLAG, Language},
    raw::{Raw, UPGRADE},
};

const BOTH: [Language; 2] = [Language::Json, Language::Binary];

/// Publishes with a key in either language, and gives the answer.
fn publish(client: &mut Client, topic: &str, key: &str, id: u64, counts: bool) -> Value {
    match client.language {
        Language::Json => {
            let command = json!({"op": "publish", "topic": topic, "data": id, "id": id, "key": key, "receivers": counts});
            client.ask(command)
        }
        Language::Binary => {
            let flags = 0x01 | EXT_FLAG | if counts { 0x04 } else { 0 };
            // Behind one that nobody knows.
            let ext = [&[0xee, 0, 1, 7, 1][..], &(key.len() as u16).to_be_bytes(), key.as_bytes()].concat();
            let payload = id.to_string().into_bytes();
            client.send_body(&Body { kind: 1, flags, seq: id, ext, topic: topic.into(), payload });
            client.receive()
        }
    }
}

/// Whichever client repeats it, in whichever language, and wherever the topic's home is.
#[test]
fn what_is_published_again_with_its_key_is_told_where_it_is() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[]);
        let mut subscriber = Client::open(&broker, Language::Json);
        for (round, (from, again)) in
            BOTH.into_iter().flat_map(|from| BOTH.map(|again| (from, again))).enumerate()
        {
            let topic = format!("room/{round}");
            assert_eq!(subscriber.ask(json!({"op": "subscribe", "topic": topic, "id": 1}))["op"], "ok");
            let mut first = Client::open(&broker, from);
            let expected = json!({"op": "ok", "id": 1, "topic": topic, "seq": 1, "receivers": 1});
            assert_eq!(publish(&mut first, &topic, "o-17", 1, true), expected);
            assert_eq!(
                publish(&mut first, &topic, "o-18", 2, false),
                json!({"op": "ok", "id": 2, "topic": topic, "seq": 2})
            );
            first.close();
            let mut second = Client::open(&broker, again);
            for counts in [false, true] {
                let expected = json!({"op": "ok", "id": 3, "topic": topic, "seq": 1, "duplicate": true});
                assert_eq!(publish(&mut second, &topic, "o-17", 3, counts), expected);
            }
            assert_eq!(publish(&mut second, &topic, "o-19", 4, false)["seq"], 3);
            second.close();
            let data = [1, 2, 4].map(|_| subscriber.receive()["data"].clone());
            assert_eq!(data, [1, 2, 4].map(Value::from), "from {from:?}, again {again:?}");
        }
        assert_eq!(broker.total("fanfare_duplicates_total", ""), 8.0);
        assert_eq!(broker.total("fanfare_keys", ""), 12.0);
        assert!(broker.metric("fanfare_keys_window_seconds", "").iter().all(|window| *window == 120.0));
        subscriber.close();
        broker.stop();
    }
}

/// It costs nobody else anything, and the connection stays.
#[test]
fn a_key_that_may_not_be_is_refused() {
    let broker = Broker::start(2, &[]);
    for language in BOTH {
        let mut client = Client::open(&broker, language);
        for (key, len) in [("k".repeat(65), "65"), (String::new(), "0")] {
            let error = publish(&mut client, "t", &key, 7, false);
            assert_eq!((&error["code"], &error["id"]), (&json!("bad_value"), &json!(7)), "{error}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(&format!("{len} bytes")) && message.contains("1 to 64"), "{message}");
        }
        let good = publish(&mut client, &format!("t/{language:?}"), &"k".repeat(64), 8, false);
        assert_eq!((&good["seq"], &good["duplicate"]), (&json!(1), &Value::Null));
        client.close();
    }
    broker.stop();
}

/// A topic whose window is 0 remembers nothing and says so; without a key it is as any other.
#[test]
fn a_window_of_zero_refuses_keys() {
    let policies =
        r#"topic=[{ match = "fast/#", key_window_ms = 0 }, { match = "fast/but", key_window_ms = 60000 }]"#;
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[policies]);
        for language in BOTH {
            let mut client = Client::open(&broker, language);
            let error = publish(&mut client, "fast/1", "a", 1, false);
            assert_eq!(
                (&error["code"], &error["topic"]),
                (&json!("unsupported"), &json!("fast/1")),
                "{error}"
            );
            assert!(error["message"].as_str().unwrap().contains("key_window_ms"), "{error}");
            assert_eq!(publish(&mut client, "fast/but", "a", 2, false)["seq"], 1);
            client.close();
        }
        assert_eq!(broker.total("fanfare_keys", ""), 1.0);
        assert_eq!(broker.total("fanfare_publications_total", ""), 1.0);
        broker.stop();
    }
}

#[test]
fn keys_beyond_the_bound_make_room() {
    let broker = Broker::start(1, &["limits.keys_max=3"]);
    let mut client = Client::open(&broker, Language::Json);
    let mut seq_of = |key: &str| publish(&mut client, "t", key, 1, false)["seq"].as_u64().unwrap();
    assert_eq!(["a", "b", "c", "d"].map(&mut seq_of), [1, 2, 3, 4]);
    assert_eq!(["b", "c", "d", "a", "b"].map(&mut seq_of), [2, 3, 4, 5, 6]);
    assert_eq!(broker.total("fanfare_keys", ""), 3.0);
    assert!(broker.metric("fanfare_keys_window_seconds", "")[0] < 120.0);
    client.close();
    broker.stop();
}

/// A publish without an id is answered only where it is wrong.
#[test]
fn a_duplicate_without_an_id_is_silent() {
    let broker = Broker::start(2, &[]);
    let mut raw = Raw::open(broker.address);
    for _ in 0..3 {
        raw.send_text(r#"{"op":"publish","topic":"t","data":1,"key":"a"}"#);
    }
    assert_eq!(raw.ask(r#"{"op":"publish","topic":"t","data":2,"id":1}"#)["seq"], 2);
    raw.close();
    broker.stop();
}

/// The example of the page, as it is written there.
#[test]
fn the_page_says_what_a_repeat_is_told() {
    let page = include_str!("../../docs/PROTOCOL.md");
    let section = page.split("\n### Publishing once\n").nth(1).expect("the page has the section");
    let section = section.split("\n###").next().expect("it ends");
    let lines: Vec<(&str, &str)> =
        section.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(' ')).collect();
    let [("→", first), ("←", ok), ("→", again), ("←", duplicate)] = lines[..] else {
        panic!("{lines:?}")
    };
    let told = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");

    let broker = Broker::start(2, &[]);
    let mut raw = Raw::connect(broker.address);
    raw.send(UPGRADE.as_bytes());
    raw.expect_upgraded();
    for _ in 1..told(ok)["seq"].as_u64().expect("a seq") {
        raw.ask(r#"{"op":"publish","topic":"room/42","data":"before","id":1}"#);
    }
    for (asked, answer) in [(first, ok), (again, duplicate)] {
        assert_eq!(raw.ask(asked), told(answer));
    }
    raw.close();
    broker.stop();
}

/// The same in binary, byte for byte.
#[test]
fn the_page_says_what_a_repeat_is_told_in_binary() {
    let page = include_str!("../../docs/PROTOCOL.md");
    let example = page.split("\nThe same publish with the key").nth(1).expect("the page has the example");
    let lines: Vec<&str> = example.split("\n\n").nth(1).expect("it ends").lines().collect();
    let (answer, message) = lines.split_last().expect("it has lines");
    let bytes = |line: &&str| {
        let words = line.split_whitespace();
        let bytes = words.map_while(|word| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2));
        bytes.collect::<Vec<u8>>()
    };
    let message: Vec<u8> = message.iter().flat_map(bytes).collect();
    let object = answer.find('{').map(|start| &answer[start..]).expect("an object");

    let broker = Broker::start(2, &[]);
    let mut client = Client::open(&broker, Language::Binary);
    let told = [(); 2].map(|()| {
        client.send_frame(Frame::binary(message.clone().into()));
        client.receive_body().to_bytes()
    });
    assert_eq!(told[1], [bytes(answer), object.as_bytes().to_vec()].concat());
    assert!(!String::from_utf8_lossy(&told[0]).contains("duplicate"));
    client.close();
    broker.stop();
}

#[test]
fn pub_publishes_with_a_key_once() {
    let broker = Broker::start(2, &[]);
    let url = format!("ws://{}/ws", broker.address);
    let run = |args: &[&str]| {
        let output =
            broker_command().args(["pub", "t", "--url", &url, "--verbose"]).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["1", "--key", "a\"b"]), "1\n");
    assert_eq!(run(&["1", "--key", "a\"b"]), "1 duplicate\n");
    assert_eq!(run(&["1", "--key", "c"]), "2\n");
    broker.stop();
}
