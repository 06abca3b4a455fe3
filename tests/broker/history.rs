//! What topics keep of their past, as clients get it: `since`, `last` and `history`.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::common::{
    Broker,
    raw::{CLOSE, Raw, TEXT, UPGRADE, frame},
};

/// Of `room/…` the newest 120 are kept, of `short/…` five.
const KEEPING: &str =
    r#"topic=[{ match = "room/#", history_count = 120 }, { match = "short/#", history_count = 5 }]"#;

fn broker(reactors: usize) -> Broker {
    Broker::start(reactors, &[KEEPING])
}

/// A client, and the epoch that it was told.
fn client(broker: &Broker) -> (Raw, String) {
    let mut raw = Raw::connect(broker.address);
    raw.send(UPGRADE.as_bytes());
    let epoch = raw.expect_upgraded();
    (raw, epoch)
}

/// Publishes `data` of each, and waits until it has its place.
fn publish(broker: &Broker, topic: &str, data: impl IntoIterator<Item = Value>) {
    let (mut raw, _) = client(broker);
    for data in data {
        let command = json!({"op": "publish", "topic": topic, "data": data, "id": 1});
        assert_eq!(raw.ask(&command.to_string())["op"], "ok");
    }
    raw.close();
}

fn since(epoch: &str, seq: u64) -> Value {
    json!({"epoch": epoch, "seq": seq})
}

/// The messages that come next, by `seq`.
fn seqs(raw: &mut Raw, count: usize) -> Vec<u64> {
    (0..count).map(|_| raw.receive()["seq"].as_u64().expect("a message")).collect()
}

#[test]
fn a_client_that_was_away_gets_what_it_missed_and_goes_on_without_a_seam() {
    for reactors in [1, 2] {
        let broker = broker(reactors);
        publish(&broker, "room/1", (1..=20).map(|number| json!(number)));
        let (mut raw, epoch) = client(&broker);
        let command =
            json!({"op": "subscribe", "topic": "room/1", "id": 1, "since": since(&epoch, 15), "last": 50});
        let expected = json!({
            "op": "ok", "id": 1, "topic": "room/1", "seq": 20, "epoch": epoch, "recovered": true, "replayed": 5
        });
        assert_eq!(raw.ask(&command.to_string()), expected);
        publish(&broker, "room/1", [json!("live")]);
        assert_eq!(seqs(&mut raw, 6), [16, 17, 18, 19, 20, 21]);
        raw.close();
        broker.stop();
    }
}

/// Where it is told that something is missing it gets none of it, and the newest if it asks for them.
#[test]
fn whoever_cannot_get_all_is_told_and_gets_the_newest_that_it_asks_for() {
    let broker = broker(2);
    for topic in ["room/1", "short/1", "none"] {
        publish(&broker, topic, (1..=20).map(|number| json!(number)));
    }
    let other = "0123456789abcdef";
    let (_, epoch) = client(&broker);
    let known = epoch.as_str();
    for (topic, since, last, expected) in [
        ("short/1", Some((known, 15)), None, (json!(true), json!(5))),
        ("short/1", Some((known, 14)), None, (json!(false), json!(0))),
        ("short/1", Some((known, 14)), Some(3), (json!(false), json!(3))),
        ("short/1", Some((known, 20)), Some(3), (json!(true), json!(0))),
        ("short/1", Some((known, 21)), Some(3), (json!(false), json!(3))),
        ("short/1", Some((other, 20)), None, (json!(false), json!(0))),
        ("short/1", Some(("never", 20)), Some(1), (json!(false), json!(1))),
        ("short/1", None, Some(10_000), (Value::Null, json!(5))),
        ("short/1", None, Some(0), (Value::Null, json!(0))),
        ("short/1", None, None, (Value::Null, Value::Null)),
        ("none", Some((known, 19)), Some(3), (json!(false), json!(0))),
        ("none", Some((known, 20)), None, (json!(false), json!(0))),
        ("room/new", Some((known, 0)), None, (json!(true), json!(0))),
        ("room/new/2", None, Some(7), (Value::Null, json!(0))),
    ] {
        let (mut raw, _) = client(&broker);
        let mut command = json!({"op": "subscribe", "topic": topic, "id": 1});
        if let Some((epoch, seq)) = since {
            command["since"] = self::since(epoch, seq);
        }
        if let Some(last) = last {
            command["last"] = json!(last);
        }
        let ok = raw.ask(&command.to_string());
        assert_eq!((&ok["recovered"], &ok["replayed"]), (&expected.0, &expected.1), "{command}: {ok}");
        let (seq, count) = (ok["seq"].as_u64().expect("a seq"), expected.1.as_u64().unwrap_or(0));
        assert_eq!(seqs(&mut raw, count as usize), (seq - count + 1..=seq).collect::<Vec<_>>(), "{command}");
        // Nothing else came.
        assert_eq!(raw.ask(r#"{"op":"ping","id":2}"#), json!({"op": "pong", "id": 2}));
        raw.close();
    }
    assert_eq!(broker.total("fanfare_resumes_total", r#",result="recovered""#), 3.0);
    assert_eq!(broker.total("fanfare_resumes_total", r#",result="lost""#), 7.0);
    broker.stop();
}

/// Far more than a page, in chunks, while others publish and subscribe live: every one once, in order.
#[test]
fn a_long_replay_and_what_is_published_meanwhile_come_in_order() {
    for (reactors, format) in [(1, "json"), (2, "json"), (2, "binary")] {
        let setting = format!(
            r#"topic=[{{ match = "room/#", history_bytes = 16777216, history_format = "{format}" }}]"#
        );
        let broker = Broker::start(reactors, &[&setting]);
        let filling = "x".repeat(1_000);
        publish(&broker, "room/1", (1..=3_000).map(|number| json!([number, filling])));
        let (mut raw, epoch) = client(&broker);
        let command = json!({"op": "subscribe", "topic": "room/1", "id": 1, "since": since(&epoch, 10)});
        let ok = raw.ask(&command.to_string());
        assert_eq!(
            (&ok["recovered"], &ok["replayed"], &ok["seq"]),
            (&json!(true), &json!(2_990), &json!(3_000))
        );
        publish(&broker, "room/1", (3_001..=3_100).map(|number| json!([number, filling])));
        for seq in 11..=3_100 {
            let message = raw.receive();
            assert_eq!((&message["seq"], &message["data"][0]), (&json!(seq), &json!(seq)));
        }
        assert_eq!(broker.total("fanfare_transcoded_bytes_total", "") > 0.0, format == "binary");
        assert_eq!(broker.total("fanfare_replays", ""), 0.0);
        raw.close();
        broker.stop();
    }
}

#[test]
fn what_a_connection_receives_already_has_no_past_for_it() {
    let broker = broker(2);
    publish(&broker, "room/1", [json!(1)]);
    let (mut raw, epoch) = client(&broker);
    let ask = |raw: &mut Raw, topic: &str, with_past: bool| {
        let mut command = json!({"op": "subscribe", "topic": topic, "id": 1});
        if with_past {
            command["since"] = since(&epoch, 1);
        }
        let answer = raw.ask(&command.to_string());
        answer["code"].as_str().unwrap_or("ok").to_owned()
    };
    assert_eq!(ask(&mut raw, "room/1", true), "ok");
    assert_eq!(ask(&mut raw, "room/1", true), "already_subscribed");
    assert_eq!(ask(&mut raw, "room/1", false), "already_subscribed");
    assert_eq!(ask(&mut raw, "room/2/#", false), "ok");
    assert_eq!(ask(&mut raw, "room/2/x", true), "already_subscribed", "a filter brings it already");
    assert_eq!(ask(&mut raw, "room/2/x", false), "ok");
    assert_eq!(ask(&mut raw, "room/#", true), "bad_value", "a filter has a form of its own");
    raw.close();
    broker.stop();
}

#[test]
fn a_history_pages_through_what_is_kept() {
    let broker = broker(2);
    publish(&broker, "short/1", (1..=20).map(|number| json!(number)));
    publish(&broker, "none", [json!(1)]);
    let (mut raw, epoch) = client(&broker);
    let mut ask = |topic: &str, more: Value| {
        let mut command = json!({"op": "history", "topic": topic, "id": 7});
        for (key, value) in more.as_object().expect("keys") {
            command[key] = value.clone();
        }
        raw.ask(&command.to_string())
    };
    for (more, seqs, has_more) in [
        (json!({}), &[16, 17, 18, 19, 20][..], false),
        (json!({"limit": 2}), &[19, 20], true),
        (json!({"limit": 2, "before": since(&epoch, 18)}), &[16, 17], false),
        (json!({"limit": 1, "before": since(&epoch, 18)}), &[17], true),
        (json!({"before": since(&epoch, 16)}), &[], false),
        (json!({"limit": 2, "after": since(&epoch, 0)}), &[16, 17], true),
        (json!({"limit": 2, "after": since(&epoch, 18)}), &[19, 20], false),
        (json!({"after": since(&epoch, 20)}), &[], false),
        (json!({"after": since(&epoch, 900)}), &[], false),
        (json!({"limit": 0}), &[], false),
        (json!({"after": since("0123456789abcdef", 16)}), &[], false),
    ] {
        let answer = ask("short/1", more.clone());
        let got: Vec<_> = answer["messages"].as_array().expect("messages").clone();
        let expected =
            seqs.iter().map(|seq| json!({"op": "message", "topic": "short/1", "seq": seq, "data": seq}));
        assert_eq!(got, expected.collect::<Vec<_>>(), "{more}");
        let (seq, from, epoch_told) = (&answer["seq"], &answer["from"], &answer["epoch"]);
        assert_eq!((seq, from, epoch_told), (&json!(20), &json!(16), &json!(epoch)), "{more}");
        assert_eq!(answer["more"], has_more, "{more}");
    }
    assert_eq!(ask("none", json!({}))["code"], "unsupported");
    let never = ask("room/never", json!({}));
    assert_eq!((&never["seq"], &never["from"], &never["messages"]), (&json!(0), &json!(1), &json!([])));
    raw.close();
    broker.stop();
}

/// The examples of the page, as they are written there but for the epoch.
#[test]
fn the_page_says_what_clients_get_of_a_past() {
    let page = include_str!("../../docs/PROTOCOL.md");
    let examples = |heading: &str| {
        let section = page.split(heading).nth(1).expect("the page has the section");
        let section = section.split("\n###").next().expect("it ends");
        let lines = section.lines().filter_map(|line| line.trim().split_once(' '));
        lines
            .filter(|(arrow, _)| ["→", "←"].contains(arrow))
            .map(|(_, text)| text.to_owned())
            .collect::<Vec<_>>()
    };
    let broker = broker(1);
    let (mut raw, epoch) = client(&broker);
    let as_told = |text: &str| text.replace("01473d6923fbdb87", &epoch);
    let told = |text: &str| serde_json::from_str::<Value>(&as_told(text)).expect("JSON");

    let past = examples("\n### The past of a topic\n");
    let [subscribe, ok, messages @ .., live] = &past[..] else { panic!("{past:?}") };
    let missed: Vec<Value> = messages.iter().map(|text| told(text)["data"].clone()).collect();
    let first_count = told(ok)["seq"].as_u64().expect("a seq") as usize - missed.len();
    publish(&broker, "room/42", std::iter::repeat_n(json!("before"), first_count).chain(missed));
    assert_eq!(raw.ask(&as_told(subscribe)), told(ok));
    messages.iter().for_each(|text| assert_eq!(raw.receive(), told(text)));
    publish(&broker, "room/42", [told(live)["data"].clone()]);
    assert_eq!(raw.receive(), told(live));
    raw.close();
    broker.stop();

    let broker = self::broker(1);
    let (mut raw, epoch) = client(&broker);
    let as_told = |text: &str| text.replace("01473d6923fbdb87", &epoch);
    let history = examples("\n### History\n");
    let [ask, answer] = &history[..] else { panic!("{history:?}") };
    let answer: Value = serde_json::from_str(&as_told(answer)).expect("JSON");
    let message = &answer["messages"][0];
    let count = answer["seq"].as_u64().expect("a seq");
    publish(
        &broker,
        "room/42",
        (1..=count).map(|seq| match message["seq"] == seq {
            true => message["data"].clone(),
            false => json!(seq),
        }),
    );
    assert_eq!(raw.ask(&as_told(ask)), answer);
    raw.close();
    broker.stop();
}

/// What is kept by a reloaded policy is what it says: a topic that keeps nothing any more lets go, and one that does begins.
#[test]
fn a_reload_changes_what_topics_keep() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("keeping.toml");
    fs::write(&path, "[[topic]]\nmatch = \"a\"\nhistory_count = 10\n").unwrap();
    let (broker, _) = Broker::start_logged(1, &[], |command| {
        command.arg("--config").arg(&path);
    });
    let replayed = |topic: &str| {
        let (mut raw, _) = client(&broker);
        let ok = raw.ask(&json!({"op": "subscribe", "topic": topic, "id": 1, "last": 100}).to_string());
        raw.close_whatever_comes();
        ok["replayed"].as_u64().expect("a count")
    };
    for topic in ["a", "b"] {
        publish(&broker, topic, [json!(1), json!(2)]);
    }
    assert_eq!((replayed("a"), replayed("b")), (2, 0));
    fs::write(&path, "[[topic]]\nmatch = \"b\"\nhistory_count = 10\n").unwrap();
    broker.reload();
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 1"#);
    for topic in ["a", "b"] {
        publish(&broker, topic, [json!(3)]);
    }
    assert_eq!((replayed("a"), replayed("b")), (0, 1));
    assert_eq!(broker.total("fanfare_keeping", ""), 1.0);
    broker.stop();
}

/// In the same packet in which it asks, so that whatever is answered comes too late.
#[test]
fn whoever_asks_for_a_past_and_leaves_costs_nobody() {
    for reactors in [1, 2] {
        let broker = broker(reactors);
        for number in 0..8 {
            let (mut raw, _) = client(&broker);
            let command = json!({"op": "subscribe", "topic": format!("room/{number}"), "id": 1, "last": 1});
            let goodbye = 1000u16.to_be_bytes();
            raw.send(&[frame(TEXT, command.to_string().as_bytes()), frame(CLOSE, &goodbye)].concat());
            while raw.receive_frame().is_some() {}
        }
        let (mut raw, _) = client(&broker);
        assert_eq!(raw.ask(r#"{"op":"ping","id":2}"#), json!({"op": "pong", "id": 2}));
        raw.close();
        broker.wait_for_total("fanfare_subscriptions", "", |total| total == 0.0);
        broker.stop();
    }
}

#[test]
fn a_subscribe_that_is_taken_back_at_once_is_answered() {
    for reactors in [1, 2] {
        let broker = broker(reactors);
        publish(&broker, "room/1", (1..=20).map(|number| json!(number)));
        let (mut raw, _) = client(&broker);
        raw.send_text(
            r#"[{"op":"subscribe","topic":"room/1","id":1,"last":5},{"op":"unsubscribe","topic":"room/1","id":2}]"#,
        );
        assert_eq!(raw.receive()["id"], 1);
        assert_eq!(raw.receive(), json!({"op": "ok", "id": 2, "topic": "room/1"}));
        assert_eq!(raw.ask(r#"{"op":"ping","id":3}"#), json!({"op": "pong", "id": 3}));
        raw.close();
        broker.stop();
    }
}

/// It reads nothing, so that its page counts like any other answer.
#[test]
fn a_history_that_is_not_read_counts_as_under_way() {
    let broker = Broker::start(2, &[r#"topic=[{ match = "room/#", history_count = 10 }]"#]);
    let filling = "x".repeat(100_000);
    publish(&broker, "room/1", [json!(filling), json!(filling)]);
    let mut raw = Raw::connect_small(broker.address, 4_096).upgraded();
    raw.send_text(r#"{"op":"history","topic":"room/1","id":7}"#);
    broker.wait_for_total("fanfare_buffered_bytes", "", |total| total >= 200_000.0);
    broker.stop();
}

/// It reads slowly, and is owed the rest: after the restart nobody has that any more.
#[test]
fn a_drain_sends_the_rest_of_a_past_before_it_closes() {
    const COUNT: u64 = 400;
    for reactors in [1, 2] {
        let broker = Broker::start(
            reactors,
            &[
                r#"topic=[{ match = "room/#", history_count = 1000 }]"#,
                "listen.sndbuf_bytes=65536",
                "timeouts.drain_ms=60000",
            ],
        );
        let filling = "x".repeat(8 << 10);
        publish(&broker, "room/1", (0..COUNT).map(|_| json!(filling)));
        let mut raw = Raw::connect_small(broker.address, 32 << 10);
        raw.send(UPGRADE.as_bytes());
        let epoch = raw.expect_upgraded();
        let command = json!({"op": "subscribe", "topic": "room/1", "id": 1, "since": since(&epoch, 0)});
        assert_eq!(raw.ask(&command.to_string())["replayed"], COUNT);
        broker.terminate();
        assert_eq!(seqs(&mut raw, COUNT as usize), (1..=COUNT).collect::<Vec<_>>());
        raw.receive_restart();
        raw.answer_close(1012);
        broker.wait();
    }
}
