//! What the broker writes into the messages of topics whose policy says so.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::auth::{Tokens, new_token};
use crate::common::{
    Broker,
    client::{Body, Client, EXT_FLAG, Language},
};

const MESSAGE: u8 = 2;
const JSON_FLAG: u8 = 0x01;
/// Of which a client of this host and a turn that had begun may differ.
const TOLERANCE_MS: u64 = 5_000;

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// An `ext` of one row.
fn row(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], &(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// What a client that speaks `format` got of a topic: `seq`, time and data of each message.
type Got = Vec<(u64, Option<u64>, Value)>;

fn got(message: &[u8], language: Language) -> (u64, Option<u64>, Value) {
    if language == Language::Json {
        let message: Value = serde_json::from_slice(message).expect("JSON");
        assert_eq!(message["op"], "message");
        let seq = message["seq"].as_u64().expect("a seq");
        return (
            seq,
            message.get("time").map(|time| time.as_u64().expect("a time")),
            message["data"].clone(),
        );
    }
    let body = Body::parse(message);
    assert_eq!((body.kind, body.flags & JSON_FLAG), (MESSAGE, JSON_FLAG));
    let time = (body.flags & EXT_FLAG != 0).then(|| {
        let (head, time) = body.ext.split_at(3);
        assert_eq!(head, [4, 0, 8], "a time, and nothing else");
        u64::from_be_bytes(time.try_into().expect("eight bytes"))
    });
    (body.seq, time, serde_json::from_slice(&body.payload).expect("JSON"))
}

fn receive(client: &mut Client, count: usize) -> Got {
    (0..count).map(|_| got(&client.receive_bytes(), client.language)).collect()
}

/// All that is kept of the topic, as a new client gets it by subscribing, and as a page.
fn past(broker: &Broker, language: Language, topic: &str, count: usize) -> [Got; 2] {
    let mut client = Client::open(broker, language);
    let ok = client.ask(json!({"op": "subscribe", "topic": topic, "id": 1, "last": 100}));
    assert_eq!(ok["replayed"], count);
    let replayed = receive(&mut client, count);
    client.send(json!({"op": "history", "topic": topic, "id": 2}));
    let answer = client.receive_bytes();
    let page = match language {
        Language::Json => {
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            let messages = answer["messages"].as_array().expect("messages");
            messages.iter().map(|message| got(message.to_string().as_bytes(), language)).collect()
        }
        Language::Binary => {
            let mut rest = &Body::parse(&answer).payload[..];
            let mut parts = Vec::new();
            while !rest.is_empty() {
                let (len, more) = rest.split_at(4);
                let (part, more) = more.split_at(u32::from_be_bytes(len.try_into().unwrap()) as usize);
                parts.push(part);
                rest = more;
            }
            parts[1..].iter().map(|part| got(part, language)).collect()
        }
    };
    client.close();
    [replayed, page]
}

/// In whichever format it is kept, and at whichever reactor its home is: whoever gets it, live or from the past, is told
/// the same.
#[test]
fn whoever_gets_a_message_of_a_stamped_topic_is_told_the_same_time() {
    for format in ["json", "binary"] {
        let setting = format!(
            r#"topic=[{{ match = "room/#", stamp = ["time"], history_count = 100, history_format = "{format}" }}]"#
        );
        let broker = Broker::start(2, &[&setting]);
        let mut json = Client::open(&broker, Language::Json);
        let mut binary = Client::open(&broker, Language::Binary);
        for topic in ["room/1", "room/2", "room/3"] {
            for client in [&mut json, &mut binary] {
                assert_eq!(client.ask(json!({"op": "subscribe", "topic": topic, "id": 1}))["op"], "ok");
            }
            let mut all = Got::new();
            for number in 1..=3 {
                let before_ms = wall_ms();
                json.send(json!({"op": "publish", "topic": topic, "data": [number]}));
                let live = receive(&mut json, 1);
                assert_eq!(receive(&mut binary, 1), live);
                let (seq, time, data) = live[0].clone();
                assert_eq!((seq, &data), (number, &json!([number])));
                let possible_ms = before_ms - TOLERANCE_MS..=wall_ms() + TOLERANCE_MS;
                assert!(time.is_some_and(|time| possible_ms.contains(&time)), "{time:?} of {possible_ms:?}");
                all.extend(live);
            }
            for language in [Language::Json, Language::Binary] {
                assert_eq!(past(&broker, language, topic, 3), [all.clone(), all.clone()], "{language:?}");
            }
        }
        json.close();
        binary.close();
        broker.stop();
    }
}

/// Not even one that is in a narrower table, or of a publisher that claims a time.
#[test]
fn a_message_without_stamps_is_what_it_was() {
    let setting = r#"topic=[{ match = "room/#", stamp = ["time"] }, { match = "room/quiet", stamp = [] }]"#;
    let broker = Broker::start(1, &[setting]);
    let mut json = Client::open(&broker, Language::Json);
    let mut binary = Client::open(&broker, Language::Binary);
    for topic in ["plain", "room/quiet"] {
        for client in [&mut json, &mut binary] {
            assert_eq!(client.ask(json!({"op": "subscribe", "topic": topic, "id": 1}))["op"], "ok");
        }
        let claimed = [row(4, &[0; 8]), row(99, b"whatever")].concat();
        let publish = Body {
            kind: 1,
            flags: JSON_FLAG | EXT_FLAG,
            ext: claimed,
            topic: topic.into(),
            payload: b" 1".to_vec(),
            ..Body::default()
        };
        binary.send_body(&publish);
        let expected = format!(r#"{{"op":"message","topic":"{topic}","seq":1,"data": 1}}"#);
        assert_eq!(String::from_utf8(json.receive_bytes()), Ok(expected));
        let expected = Body { kind: MESSAGE, flags: JSON_FLAG, ext: Vec::new(), seq: 1, ..publish };
        assert_eq!(binary.receive_bytes(), expected.to_bytes());
    }
    json.close();
    binary.close();
    broker.stop();
}

/// With the next publication, whoever is subscribed; what is kept stays as it is.
#[test]
fn a_reload_begins_and_ends_stamping() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stamps.toml");
    let keeping = "[[topic]]\nmatch = \"#\"\nhistory_count = 10\n";
    fs::write(&path, keeping).unwrap();
    let (broker, _) = Broker::start_logged(2, &[], |command| {
        command.arg("--config").arg(&path);
    });
    let mut client = Client::open(&broker, Language::Json);
    assert_eq!(client.ask(json!({"op": "subscribe", "topic": "a/b", "id": 1}))["op"], "ok");
    let mut all = Got::new();
    let stamped = "[[topic]]\nmatch = \"a/#\"\nstamp = [\"time\"]\n";
    let narrower = "[[topic]]\nmatch = \"a/+\"\nstamp = []\n";
    for (count, more) in
        [String::new(), stamped.into(), format!("{stamped}{narrower}"), stamped.into()].iter().enumerate()
    {
        if count > 0 {
            fs::write(&path, format!("{keeping}{more}")).unwrap();
            broker.reload();
            broker.wait_for_metric(&format!(r#"fanfare_reloads_total{{result="applied"}} {count}"#));
        }
        client.send(json!({"op": "publish", "topic": "a/b", "data": count}));
        all.extend(receive(&mut client, 1));
    }
    let is_stamped: Vec<bool> = all.iter().map(|(_, time, _)| time.is_some()).collect();
    assert_eq!(is_stamped, [false, true, false, true]);
    for language in [Language::Json, Language::Binary] {
        assert_eq!(past(&broker, language, "a/b", 4), [all.clone(), all.clone()], "{language:?}");
    }
    client.close();
    broker.stop();
}

/// The examples of the page, as they are written there but for the time.
#[test]
fn the_page_says_what_a_stamped_message_is() {
    let page = include_str!("../../docs/PROTOCOL.md");
    let section =
        |from: &str, to: &str| page.split(from).nth(1).expect("a section").split(to).next().unwrap();
    let stamps = section("\n### Stamps\n", "\n###");
    let example =
        |arrow| stamps.lines().find_map(|line| line.trim().strip_prefix(arrow)).expect("an example");
    let (publish, message) = (example("→ "), example("← "));

    let (token, entry) = new_token("alice", &["all"]);
    let tokens = Tokens::new("stamps-page", &[&entry]);
    let roles = r##"roles={ all = { publish = ["#"], subscribe = ["#"] } }"##;
    let topics = r##"topic=[{ match = "#", stamp = ["user", "time"] }]"##;
    let broker = Broker::start(1, &[&tokens.setting(), roles, topics]);
    let mut client = Client::open_as(&broker, Language::Json, &token);
    let publish: Value = serde_json::from_str(publish).expect("JSON");
    let told: Value = serde_json::from_str(message).expect("JSON");
    let topic = publish["topic"].as_str().expect("a topic").to_owned();
    let seq = told["seq"].as_u64().expect("a seq");
    for _ in 1..seq {
        let before = json!({"op": "publish", "topic": topic, "data": 0, "id": 1});
        assert_eq!(client.ask(before)["op"], "ok");
    }
    client.ask(json!({"op": "subscribe", "topic": topic, "id": 1}));
    client.send(publish);
    let came = String::from_utf8(client.receive_bytes()).expect("text");
    let time: Value = serde_json::from_str(&came).expect("JSON");
    assert_eq!(came, message.replace(&told["time"].to_string(), &time["time"].to_string()));
    client.close();

    let example = section(
        "is stamped with the user and the time 1764083000123; rows are in the order of their types:\n\n",
        "\n\n",
    );
    let is_hex = |word: &&str| word.len() == 2 && u8::from_str_radix(word, 16).is_ok();
    let bytes = example.lines().flat_map(|line| line.split_whitespace().take_while(is_hex));
    let mut expected: Vec<u8> = bytes.map(|word| u8::from_str_radix(word, 16).unwrap()).collect();
    let written = 1_764_083_000_123_u64.to_be_bytes();
    let place = expected.windows(8).position(|bytes| bytes == written).expect("the time");
    let mut client = Client::open_as(&broker, Language::Binary, &token);
    client.ask(json!({"op": "subscribe", "topic": "bin/1", "id": 1}));
    let topic = "bin/1".to_owned();
    let payload = b"1".to_vec();
    client.send_body(&Body { kind: 1, flags: JSON_FLAG, topic, payload, ..Body::default() });
    let came = client.receive_bytes();
    expected[place..place + 8].copy_from_slice(&came[place..place + 8]);
    assert_eq!(came, expected);
    client.close();
    broker.stop();
}
