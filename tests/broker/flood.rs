//! Every reactor floods every other through queues that are far too small: publishers wait, nothing is lost
//! and nobody waits for ever.

use std::{collections::HashMap, io::Write, thread};

use serde_json::{Value, json};

use crate::common::{
    Broker,
    raw::{Raw, TEXT, frame},
    witness::Witness,
};

const REACTORS: usize = 4;
/// Between two reactors there is room for 16 requests and 16 deliveries.
const QUEUES: &str = "reactor.queue_entries=64";
/// Spread over all homes.
const TOPICS: u64 = 16;
const PUBLISHERS: u64 = 12;
const SUBSCRIBERS: usize = 8;
/// By each publisher.
const COUNT: u64 = 1_500;

fn topic(number: u64) -> String {
    format!("flood/{}", number % TOPICS)
}

/// All publications at once, and the oks meanwhile: each comes.
fn flood(broker_address: std::net::SocketAddr, publisher: u64) {
    let mut raw = Raw::open(broker_address);
    let mut commands = Vec::new();
    for id in 0..COUNT {
        let command =
            json!({"op": "publish", "topic": topic(publisher + id), "data": [publisher, id], "id": id});
        commands.extend(frame(TEXT, command.to_string().as_bytes()));
    }
    let mut writer = raw.stream.try_clone().unwrap();
    let writing = thread::spawn(move || writer.write_all(&commands).unwrap());
    let mut is_answered = vec![false; COUNT as usize];
    for _ in 0..COUNT {
        let ok = raw.receive();
        assert_eq!(ok["op"], "ok", "{ok}");
        assert!(!std::mem::replace(&mut is_answered[ok["id"].as_u64().unwrap() as usize], true));
    }
    writing.join().unwrap();
    raw.close();
}

/// Everything that anybody publishes comes once, in each topic's order and in each publisher's.
fn take_all(mut raw: Raw) {
    let mut seqs: HashMap<String, u64> = HashMap::new();
    let mut newest: HashMap<(String, u64), u64> = HashMap::new();
    for _ in 0..PUBLISHERS * COUNT {
        let message = raw.receive();
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{message}"));
        let topic = message["topic"].as_str().unwrap().to_owned();
        let seq = seqs.entry(topic.clone()).or_default();
        *seq += 1;
        assert_eq!(number(&message["seq"]), *seq);
        let (publisher, id) = (number(&message["data"][0]), number(&message["data"][1]));
        let before = newest.insert((topic, publisher), id);
        assert!(before.is_none_or(|before| before < id), "{before:?}, then {message}");
    }
    raw.close();
}

#[test]
fn publishers_that_flood_every_home_wait_and_lose_nothing() {
    let broker = Broker::start(REACTORS, &[QUEUES]);
    let witness = Witness::start(&broker);
    let subscribers: Vec<Raw> = (0..SUBSCRIBERS)
        .map(|index| {
            let mut raw = Raw::open(broker.address);
            let filters: Vec<String> = match index % 2 {
                0 => vec!["flood/#".into()],
                _ => (0..TOPICS).map(topic).collect(),
            };
            for filter in filters {
                assert_eq!(
                    raw.ask(&json!({"op": "subscribe", "topic": filter, "id": 1}).to_string())["op"],
                    "ok"
                );
            }
            raw
        })
        .collect();
    let taking: Vec<_> = subscribers.into_iter().map(|raw| thread::spawn(move || take_all(raw))).collect();
    let address = broker.address;
    let flooding: Vec<_> =
        (0..PUBLISHERS).map(|publisher| thread::spawn(move || flood(address, publisher))).collect();
    flooding.into_iter().for_each(|it| it.join().unwrap());
    taking.into_iter().for_each(|it| it.join().unwrap());
    let pauses: f64 = broker.metric("fanfare_pauses_total", "").iter().sum();
    assert!(pauses > 0.0, "nobody had to wait: the queues were not full");
    assert_eq!(broker.metric("fanfare_paused", "").iter().sum::<f64>(), 0.0);
    witness.finish();
    broker.stop();
}
