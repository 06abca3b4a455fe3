//! The past of what a filter matches: the real binary.

use serde_json::{Value, json};

use crate::common::{
    Broker,
    raw::{Raw, UPGRADE},
};

const KEEPING: &str = r#"topic=[{ match = "ticker/#", history_count = 1000 }]"#;

/// A client, and the epoch that it was told.
fn client(broker: &Broker) -> (Raw, String) {
    let mut raw = Raw::connect(broker.address);
    raw.send(UPGRADE.as_bytes());
    let epoch = raw.expect_upgraded();
    (raw, epoch)
}

/// Publishes, and waits until it has its place.
fn publish(raw: &mut Raw, topic: &str, data: &Value) {
    let command = json!({"op": "publish", "topic": topic, "data": data, "id": 1});
    assert_eq!(raw.ask(&command.to_string())["op"], "ok");
}

/// What the page shows of a filter's past, word for word.
#[test]
fn the_page_says_what_clients_get_of_the_past_of_a_filter() {
    let page = include_str!("../../docs/PROTOCOL.md");
    let section =
        page.split("\n### The past of what a filter matches\n").nth(1).expect("the page has the section");
    let section = section.split("\n###").next().expect("it ends");
    let broker = Broker::start(1, &[KEEPING]);
    let (mut publisher, epoch) = client(&broker);
    let as_told = |text: &str| text.replace("01473d6923fbdb87", &epoch);
    for (topic, data) in [("ticker/a", 10), ("ticker/a", 11), ("ticker/b", 20)] {
        publish(&mut publisher, topic, &json!(data));
    }
    let (mut raw, _) = client(&broker);
    let (mut asked_count, mut told_count) = (0, 0);
    for line in section.lines() {
        if let Some(command) = line.strip_prefix("    → ") {
            asked_count += 1;
            if asked_count == 2 {
                raw.close();
                publish(&mut publisher, "ticker/c", &json!(30));
                raw = client(&broker).0;
            }
            raw.send_text(&as_told(command));
        }
        if let Some(answer) = line.strip_prefix("    ← ") {
            told_count += 1;
            if told_count == 5 {
                publish(&mut publisher, "ticker/a", &json!(12));
            }
            let expected: Value = serde_json::from_str(&as_told(answer)).expect("JSON");
            assert_eq!(raw.receive(), expected);
        }
    }
    assert_eq!((asked_count, told_count), (2, 8));
    raw.close();
    publisher.close();
    broker.stop();
}

/// Of several reactors and both formats, with more topics than a page has.
#[test]
fn a_filter_over_many_topics_begins_with_the_newest_of_each() {
    const TOPICS: usize = 3_000;
    for (reactors, format) in [(1, "binary"), (2, "json")] {
        let kept = KEEPING.replace("history_count", &format!("history_format = \"{format}\", history_count"));
        let broker = Broker::start(reactors, &[&kept]);
        let (mut publisher, epoch) = client(&broker);
        for topic in 0..TOPICS {
            let command = json!({"op": "publish", "topic": format!("ticker/{topic}"), "data": topic});
            publisher.send_text(&command.to_string());
        }
        publish(&mut publisher, "elsewhere", &json!(0));
        for topic in (0..TOPICS).step_by(10) {
            publish(&mut publisher, &format!("ticker/{topic}"), &json!("newest"));
        }
        let (mut raw, _) = client(&broker);
        let ok = raw.ask(r##"{"op":"subscribe","topic":"ticker/#","id":1,"last":1}"##);
        assert_eq!(ok, json!({"op": "ok", "id": 1, "topic": "ticker/#"}));
        let mut seen = vec![false; TOPICS];
        let replayed = loop {
            let message = raw.receive();
            if message["op"] == "replayed" {
                break message;
            }
            let topic: usize = message["topic"].as_str().unwrap()["ticker/".len()..].parse().unwrap();
            let expected = if topic.is_multiple_of(10) { json!("newest") } else { json!(topic) };
            assert_eq!((&message["data"], std::mem::replace(&mut seen[topic], true)), (&expected, false));
        };
        assert_eq!((&replayed["count"], &replayed["recovered"]), (&json!(TOPICS), &json!(true)));
        raw.close();
        for topic in 0..5 {
            publish(&mut publisher, &format!("ticker/{topic}"), &json!("missed"));
        }
        let since = json!({"at": replayed["at"], "epochs": {epoch: {}}});
        let (mut raw, _) = client(&broker);
        raw.ask(&json!({"op": "subscribe", "topic": "ticker/#", "id": 1, "since": since}).to_string());
        let mut topics: Vec<String> =
            (0..5).map(|_| raw.receive()["topic"].as_str().unwrap().to_owned()).collect();
        topics.sort();
        assert_eq!(topics, (0..5).map(|topic| format!("ticker/{topic}")).collect::<Vec<_>>());
        let replayed = raw.receive();
        assert_eq!((&replayed["count"], &replayed["recovered"]), (&json!(5), &json!(true)));
        raw.close();
        publisher.close();
        broker.stop();
    }
}
