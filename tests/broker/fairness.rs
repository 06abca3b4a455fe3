//! Whatever a client does costs only itself: what takes long goes on over turns, in order, and others do not
//! notice. Nothing here looks at a clock: what is held is order, counts, answers and who is closed.

use std::{
    collections::HashMap,
    fs,
    io::{ErrorKind, Read, Write},
    path::PathBuf,
    thread,
};

use serde_json::{Value, json};

use crate::common::{
    Broker,
    raw::{PING, Raw, TEXT, frame},
    witness::Witness,
};

/// The most that a message may hold.
const COMMANDS_MAX: u64 = 1_024;

fn subscribe(raw: &mut Raw, topic: &str) -> Value {
    raw.ask(&json!({"op": "subscribe", "topic": topic, "id": 1}).to_string())
}

fn subscribe_all(raw: &mut Raw, filters: &[String]) {
    let commands: Vec<Value> =
        filters.iter().map(|filter| json!({"op": "subscribe", "topic": filter, "id": 1})).collect();
    raw.send_text(&Value::from(commands).to_string());
    for _ in filters {
        let ok = raw.receive();
        assert_eq!(ok["op"], "ok", "{ok}");
    }
}

/// Publishes once to each topic and waits until all are taken.
fn publish_to_all(raw: &mut Raw, topics: &[String]) {
    for topics in topics.chunks(COMMANDS_MAX as usize) {
        let commands: Vec<Value> =
            topics.iter().map(|topic| json!({"op": "publish", "topic": topic, "data": 1, "id": 1})).collect();
        raw.send_text(&Value::from(commands).to_string());
        for _ in topics {
            let ok = raw.receive();
            assert_eq!(ok["op"], "ok", "{ok}");
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Topics of which each is matched by one wide filter, and the first 1,023 by one of their own as well.
const TOPICS: usize = 4_000;
const KEPT: usize = 1_023;
const WIDE: &str = "t/#";

fn topics() -> Vec<String> {
    (0..TOPICS).map(|index| format!("t/{index}/x")).collect()
}

/// 1,024 filters, the wide one in their middle.
fn filters() -> Vec<String> {
    let mut filters: Vec<String> = (0..KEPT).map(|index| format!("t/{index}/+")).collect();
    filters.insert(KEPT / 2, WIDE.into());
    filters
}

/// What came of each topic, each without a gap.
#[derive(Default)]
struct Seqs(HashMap<String, u64>);

impl Seqs {
    fn take(&mut self, message: &Value) -> usize {
        assert_eq!(message["op"], "message", "{message}");
        let topic = message["topic"].as_str().unwrap();
        let seq = self.0.entry(topic.into()).or_default();
        *seq += 1;
        assert_eq!(number(&message["seq"]), *seq, "{message}");
        topic.split('/').nth(1).unwrap().parse().unwrap()
    }
}

/// Others publish to all topics meanwhile. What is behind the unsubscribe in its message runs when it is over.
#[test]
fn an_unsubscribe_over_thousands_of_topics_ends_what_only_it_matched_and_nothing_else() {
    const ROUNDS: u64 = 4;
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[]);
        let mut subscriber = Raw::open(broker.address);
        subscribe_all(&mut subscriber, &filters());
        let mut publisher = Raw::open(broker.address);
        publish_to_all(&mut publisher, &topics());
        let mut seqs = Seqs::default();
        for _ in 0..TOPICS {
            seqs.take(&subscriber.receive());
        }

        let publishing = thread::spawn(move || {
            for _ in 1..ROUNDS {
                publish_to_all(&mut publisher, &topics());
            }
            publisher
        });
        for _ in 0..TOPICS / 8 {
            seqs.take(&subscriber.receive());
        }
        let commands = json!([
            {"op": "unsubscribe", "topic": WIDE, "id": "gone"},
            {"op": "unsubscribe", "topic": WIDE, "id": "again"},
            {"op": "ping", "id": "pinged"},
            {"op": "subscribe", "topic": "t/late/y", "id": "subscribed"},
            {"op": "publish", "topic": "t/late/y", "data": 7, "id": "published"},
        ]);
        subscriber.send_text(&commands.to_string());
        let mut answers = Vec::new();
        let mut late_count = 0;
        let is_complete = |seqs: &Seqs| {
            (0..KEPT).all(|index| seqs.0.get(&format!("t/{index}/x")).is_some_and(|seq| *seq == ROUNDS))
        };
        while answers.len() < 5 || late_count < 1 || !is_complete(&seqs) {
            let received = subscriber.receive();
            if received["op"] != "message" {
                let code = received["code"].as_str().unwrap_or_default();
                let (op, id) = (received["op"].as_str().unwrap(), received["id"].as_str().unwrap());
                answers.push(format!("{op} {id}{code}"));
            } else if received["topic"] == "t/late/y" {
                assert!(answers.iter().any(|it| it == "ok subscribed"), "{received} is not subscribed to");
                assert_eq!((number(&received["seq"]), number(&received["data"])), (1, 7));
                late_count += 1;
            } else {
                let index = seqs.take(&received);
                assert!(answers.is_empty() || index < KEPT, "{received} came after the ok");
            }
        }
        // A home answers a subscribe as it answers other reactors: a publish may be answered before.
        answers[3..].sort();
        let expected =
            ["ok gone", "error againnot_subscribed", "pong pinged", "ok published", "ok subscribed"];
        assert_eq!(answers, expected);

        // Of what it left nothing comes, of what it kept the next.
        let mut publisher = publishing.join().unwrap();
        publish_to_all(&mut publisher, &topics());
        for _ in 0..KEPT {
            assert!(seqs.take(&subscriber.receive()) < KEPT);
        }
        assert_eq!(subscriber.ask(r#"{"op":"ping","id":1}"#)["op"], "pong");
        subscriber.close();
        publisher.close();
        broker.wait_for_total("fanfare_subscriptions", "", |total| total == 0.0);
        broker.stop();
    }
}

/// It goes away right behind its unsubscribe, in every way, with and without more that it is owed.
#[test]
fn a_disconnect_in_the_middle_of_an_unsubscribe_leaves_nothing() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[]);
        let mut healthy = Raw::open(broker.address);
        assert_eq!(subscribe(&mut healthy, WIDE)["op"], "ok");
        let mut publisher = Raw::open(broker.address);
        for round in 0..3 {
            let mut leaving = Raw::open(broker.address);
            subscribe_all(&mut leaving, &filters());
            publish_to_all(&mut publisher, &topics());
            for _ in 0..TOPICS {
                assert_eq!(number(&healthy.receive()["seq"]), round + 1);
            }
            if round > 0 {
                for _ in 0..TOPICS {
                    leaving.receive();
                }
            }
            leaving.send_text(&json!({"op": "unsubscribe", "topic": WIDE, "id": 1}).to_string());
            match round {
                1 => leaving.close_whatever_comes(),
                _ => leaving.reset(),
            }
            broker.wait_for_total("fanfare_subscriptions", "", |total| total == 1.0);
            broker.wait_for_total("fanfare_behind", "", |total| total == 0.0);
            broker.wait_for_total("fanfare_connections", "", |total| total == 2.0);
        }
        healthy.close();
        publisher.close();
        broker.stop();
    }
}

/// A client that sends as much as is taken, up to a bound at a time, and may read what comes.
struct Flooder {
    raw: Raw,
    bytes: Vec<u8>,
    sent_count: usize,
    reads: bool,
}

impl Flooder {
    /// Repeats `bytes`, whole frames.
    fn open(broker: &Broker, bytes: Vec<u8>, reads: bool) -> Flooder {
        let raw = Raw::open(broker.address);
        raw.stream.set_nonblocking(true).unwrap();
        Flooder { raw, bytes, sent_count: 0, reads }
    }

    /// Sends up to so many bytes, and takes what is there.
    fn flood(&mut self, len: usize) {
        let until = self.sent_count + len;
        while self.sent_count < until {
            let at = self.sent_count % self.bytes.len();
            let piece_len = (until - self.sent_count).min(self.bytes.len() - at);
            match self.raw.stream.write(&self.bytes[at..at + piece_len]) {
                Ok(len) => self.sent_count += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let mut bytes = vec![0; 64 << 10];
        while self.reads {
            match self.raw.stream.read(&mut bytes) {
                Ok(0) => panic!("a flooder is closed"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A message of as many commands as there may be, each refused with the longest answer.
fn errors() -> Vec<u8> {
    let topic = format!("{}/#/x", "\u{1}".repeat(140));
    let commands: Vec<Value> =
        (0..COMMANDS_MAX).map(|id| json!({"op": "subscribe", "topic": topic, "id": id})).collect();
    frame(TEXT, Value::from(commands).to_string().as_bytes())
}

/// Each round sends a piece of every flood, then publications that must arrive while that is worked off.
#[test]
fn whatever_floods_all_that_was_accepted_is_delivered_once_and_in_order() {
    const ROUNDS: u64 = 40;
    const BURST: u64 = 10;
    const PIECE_BYTES: usize = 32 << 10;
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[]);
        let mut subscribers: Vec<Raw> = (0..6)
            .map(|index| {
                let mut raw = Raw::open(broker.address);
                assert_eq!(
                    subscribe(&mut raw, if index % 2 == 0 { "healthy" } else { "healthy/#" })["op"],
                    "ok"
                );
                raw
            })
            .collect();
        let topics: Vec<&str> =
            (0..6).map(|index| if index % 2 == 0 { "healthy" } else { "healthy/a" }).collect();
        let mut publisher = Raw::open(broker.address);
        let publish =
            json!({"op": "publish", "topic": "flood", "data": "x".repeat(100), "id": 1}).to_string();
        let (pings, publishes) = (frame(PING, &[7; 125]), frame(TEXT, publish.as_bytes()));
        let mut flooders: Vec<Flooder> = [true, true, false]
            .into_iter()
            .flat_map(|reads| [(pings.clone(), reads), (publishes.clone(), reads), (errors(), reads)])
            .map(|(bytes, reads)| Flooder::open(&broker, bytes, reads))
            .collect();
        let mut seq = 0;
        for _ in 0..ROUNDS {
            flooders.iter_mut().for_each(|flooder| flooder.flood(PIECE_BYTES));
            for number in seq + 1..=seq + BURST {
                for topic in ["healthy", "healthy/a"] {
                    let command = json!({"op": "publish", "topic": topic, "data": number, "id": number});
                    publisher.send_text(&command.to_string());
                }
            }
            for (raw, topic) in subscribers.iter_mut().zip(&topics) {
                let mut numbers = seq + 1..=seq + BURST;
                // The wide filter matches both topics or one; each is in order by itself.
                while !numbers.is_empty() {
                    let message = raw.receive();
                    if message["topic"] == **topic {
                        let expected = numbers.next().unwrap();
                        assert_eq!((number(&message["seq"]), number(&message["data"])), (expected, expected));
                    }
                }
            }
            let mut seqs: HashMap<String, u64> = HashMap::new();
            for _ in 0..2 * BURST {
                let ok = publisher.receive();
                assert_eq!(ok["op"], "ok", "{ok}");
                let before = seqs.entry(ok["topic"].as_str().unwrap().into()).or_insert(seq);
                *before += 1;
                assert_eq!((number(&ok["seq"]), number(&ok["id"])), (*before, *before));
            }
            seq += BURST;
        }
        for flooder in &flooders {
            assert!(flooder.sent_count > PIECE_BYTES, "{} bytes are no flood", flooder.sent_count);
        }
        assert_eq!(broker.closed_count(), 0.0);
        drop(flooders);
        for raw in subscribers {
            raw.close_whatever_comes();
        }
        publisher.close();
        broker.stop();
    }
}

/// Publications to the topic of another connection that publishes meanwhile: what is answered tells in which
/// order all were carried out. It is tried until the other got in between, which a single turn would not let it.
#[test]
fn a_long_message_is_carried_out_in_order_and_lets_others_in_between() {
    let broker = Broker::start(1, &[]);
    let (mut long, mut other) = (Raw::open(broker.address), Raw::open(broker.address));
    let mut seq = 0;
    for attempt in 0.. {
        let commands: Vec<Value> = (0..COMMANDS_MAX)
            .map(|id| match id % 4 {
                0 => json!({"op": "ping", "id": id}),
                1 => json!({"op": "unsubscribe", "topic": "nothing", "id": id}),
                _ => json!({"op": "publish", "topic": "t", "data": 1, "id": id}),
            })
            .collect();
        long.send_text(&Value::from(commands).to_string());
        let others = number(&other.ask(r#"{"op":"publish","topic":"t","data":1,"id":"other"}"#)["seq"]);
        let mut seqs = Vec::new();
        for id in 0..COMMANDS_MAX {
            let answer = long.receive();
            let expected = ["pong", "error", "ok", "ok"][id as usize % 4];
            assert_eq!((answer["op"].as_str().unwrap(), number(&answer["id"])), (expected, id));
            match expected {
                "error" => assert_eq!(answer["code"], "not_subscribed"),
                "ok" => seqs.push(number(&answer["seq"])),
                _ => {}
            }
        }
        let count = COMMANDS_MAX / 2 + 1;
        let expected: Vec<u64> = (seq + 1..=seq + count).filter(|number| *number != others).collect();
        assert_eq!(seqs, expected);
        if (seq + 2..seq + count).contains(&others) {
            break;
        }
        seq += count;
        assert!(attempt < 50, "a long message lets nobody in between");
    }
    long.close();
    other.close();
    broker.stop();
}

/// Four long messages whose answers are 4 MB: no more of them is carried out than fits into the kernel's buffers
/// and the bound of what waits.
#[test]
fn answers_that_are_not_read_stop_what_asks_for_more() {
    const MESSAGES: u64 = 4;
    let broker = Broker::start(1, &["listen.sndbuf_bytes=65536"]);
    let mut stalled = Raw::connect_small(broker.address, 32 << 10).upgraded();
    let mut other = Raw::open(broker.address);
    let (mut sender, message) = (stalled.stream.try_clone().unwrap(), errors());
    let sending = thread::spawn(move || (0..MESSAGES).for_each(|_| sender.write_all(&message).unwrap()));
    broker.wait_for_total("fanfare_paused", "", |total| total == 1.0);
    let (mut before, mut asked_count) = (0.0, 0.0);
    // The kernels may still pass on a little: it stays put when it did so for 100 commands of another.
    loop {
        let start = broker.total("fanfare_commands_total", "") - asked_count;
        for _ in 0..100 {
            assert_eq!(other.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
            asked_count += 1.0;
        }
        // What is told may be a little old: it is to have the other's commands in it.
        let is_recent = |total| total - asked_count >= start;
        let end = broker.wait_for_total("fanfare_commands_total", "", is_recent) - asked_count;
        assert!(start >= before && end < (MESSAGES * COMMANDS_MAX) as f64);
        before = end;
        if start == end {
            break;
        }
    }
    assert!(before < COMMANDS_MAX as f64, "{before} commands were carried out");
    for index in 0..MESSAGES * COMMANDS_MAX {
        let answer = stalled.receive();
        assert_eq!((answer["op"].as_str(), number(&answer["id"])), (Some("error"), index % COMMANDS_MAX));
    }
    sending.join().unwrap();
    broker.wait_for_total("fanfare_paused", "", |total| total == 0.0);
    assert_eq!(stalled.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
    stalled.close();
    other.close();
    broker.stop();
}

/// What is there goes on when a limit is reached, and when it is lowered below that.
#[test]
fn filters_levels_and_names_have_limits_that_a_reload_changes() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fairness.toml");
    let write = |filters: u64, levels: u64, names: u64| {
        let text = format!(
            "[limits]\nfilters_max = {filters}\nfilter_levels_max = {levels}\nplus_levels_max = 32\n\
             names_per_connection_max = {names}\n"
        );
        fs::write(&file, text).unwrap();
    };
    write(3, 32, 2);
    let (broker, _log) = Broker::start_logged(1, &[], |command| {
        command.arg("--config").arg(&file);
    });
    let refused = |answer: Value, key: &str| {
        assert_eq!(answer["code"], "limit_reached", "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(key), "{answer}");
    };
    let publish = |raw: &mut Raw, topic: &str| {
        raw.ask(&json!({"op": "publish", "topic": topic, "data": 1, "id": 1}).to_string())
    };
    let deep = format!("deep/{}#", "+/".repeat(28));

    let (mut raw, mut publisher) = (Raw::open(broker.address), Raw::open(broker.address));
    assert_eq!(subscribe(&mut raw, &deep)["op"], "ok", "30 levels");
    refused(subscribe(&mut raw, "a/b/#"), "limits.filter_levels_max");
    assert_eq!(subscribe(&mut raw, "a/#")["op"], "ok", "32 levels");
    refused(subscribe(&mut raw, "#"), "limits.filter_levels_max");
    let ok = raw.ask(&json!({"op": "unsubscribe", "topic": deep, "id": 1}).to_string());
    assert_eq!(ok["op"], "ok", "{ok}");
    for filter in ["b/#", "c/#"] {
        assert_eq!(subscribe(&mut raw, filter)["op"], "ok");
    }
    refused(subscribe(&mut raw, "d/#"), "limits.filters_max");
    assert_eq!(subscribe(&mut raw, "a/#")["code"], "limit_reached", "whichever rule is first, it is refused");

    for topic in ["a/1", "a/2"] {
        assert_eq!(publish(&mut publisher, topic)["seq"], 1);
        assert_eq!(raw.receive()["topic"], topic);
    }
    refused(publish(&mut publisher, "a/3"), "limits.names_per_connection_max");
    refused(subscribe(&mut publisher, "a/3"), "limits.names_per_connection_max");
    assert_eq!(publish(&mut publisher, "a/1")["seq"], 2);
    assert_eq!(raw.receive()["seq"], 2);

    write(4, 64, 3);
    broker.reload();
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 1"#);
    assert_eq!(subscribe(&mut raw, "d/#")["op"], "ok");
    refused(subscribe(&mut raw, "e/#"), "limits.filters_max");
    assert_eq!(publish(&mut publisher, "a/3")["seq"], 1);
    assert_eq!(raw.receive()["topic"], "a/3");
    refused(publish(&mut publisher, "a/4"), "limits.names_per_connection_max");

    write(1, 32, 1);
    broker.reload();
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 2"#);
    refused(subscribe(&mut raw, "e/#"), "limits.filters_max");
    refused(publish(&mut publisher, "a/4"), "limits.names_per_connection_max");
    for topic in ["a/1", "a/2", "a/3"] {
        assert_eq!(publish(&mut publisher, topic)["op"], "ok", "what is there stays");
        assert_eq!(raw.receive()["topic"], topic);
    }
    raw.close();
    publisher.close();
    broker.stop();
}

/// Who takes nothing of a topic that is written to without end is closed, or moved forward; those who take a
/// topic with little as it comes are not.
#[test]
fn a_log_that_is_full_costs_only_those_who_fill_it() {
    const HOT_BYTES: usize = 128 << 10;
    const HOT: u64 = 192;
    const STALLED: usize = 3;
    for (reactors, policy) in [(1, "disconnect"), (2, "skip")] {
        let settings = [
            "limits.log_bytes_max=16777216",
            "delivery.owed_bytes_max=1073741824",
            "listen.sndbuf_bytes=65536",
            "timeouts.close_ms=100",
            &format!("delivery.slow_consumer={policy}"),
        ];
        let broker = Broker::start(reactors, &settings);
        let witness = Witness::start(&broker);
        let stalled: Vec<Raw> = (0..STALLED)
            .map(|index| {
                let mut raw = Raw::connect_small(broker.address, 32 << 10).upgraded();
                let topic = if index == 0 { "hot/#" } else { "hot/a" };
                assert_eq!(subscribe(&mut raw, topic)["op"], "ok");
                raw
            })
            .collect();
        let mut healthy: Vec<Raw> = (0..4).map(|_| Raw::open(broker.address)).collect();
        for raw in &mut healthy {
            assert_eq!(subscribe(raw, "cold/#")["op"], "ok");
        }
        let mut publisher = Raw::open(broker.address);
        let hot =
            json!({"op": "publish", "topic": "hot/a", "data": "x".repeat(HOT_BYTES), "id": 1}).to_string();
        for seq in 1..=HOT {
            assert_eq!(publisher.ask(&hot)["seq"], seq);
            if seq % 4 > 0 {
                continue;
            }
            let cold = json!({"op": "publish", "topic": "cold/a", "data": seq, "id": 1}).to_string();
            assert_eq!(publisher.ask(&cold)["seq"], seq / 4);
            for raw in &mut healthy {
                let message = raw.receive();
                assert_eq!((number(&message["seq"]), number(&message["data"])), (seq / 4, seq));
            }
        }
        if policy == "disconnect" {
            let labels = r#",reason="slow_consumer""#;
            broker.wait_for_total("fanfare_closes_total", labels, |total| total == STALLED as f64);
        }
        let closed = broker.closed_count();
        assert!(closed <= STALLED as f64, "{closed} are closed");
        for raw in healthy {
            raw.close();
        }
        publisher.close();
        witness.finish();
        drop(stalled);
        broker.stop();
    }
}

/// The prices of a send and of what it sends, in units: what is counted must be at least that.
#[test]
fn turns_are_counted_with_how_long_they_took_and_what_they_did() {
    const SEND: f64 = 2.3;
    const SENT_KIB: f64 = 0.12;
    let broker = Broker::start(1, &[]);
    let mut subscribers: Vec<Raw> = (0..32).map(|_| Raw::open(broker.address)).collect();
    for raw in &mut subscribers {
        assert_eq!(subscribe(raw, "t")["op"], "ok");
    }
    let mut publisher = Raw::open(broker.address);
    let names =
        ["fanfare_turn_work_total", "fanfare_turns_total", "fanfare_sends_total", "fanfare_sent_bytes_total"];
    let read = || names.map(|name| broker.total(name, ""));
    let before = read();
    for seq in 1..=100 {
        let command = json!({"op": "publish", "topic": "t", "data": "x".repeat(10_000), "id": 1});
        assert_eq!(publisher.ask(&command.to_string())["seq"], seq);
        for raw in &mut subscribers {
            assert_eq!(number(&raw.receive()["seq"]), seq);
        }
    }
    // What is read may be a little older than the question.
    broker.wait_for_total("fanfare_deliveries_total", "", |total| total == 3_200.0);
    let sent_bytes = before[3] + 32e6;
    broker.wait_for_total("fanfare_sent_bytes_total", "", |total| total >= sent_bytes);
    let [work, turns, sends, sent_bytes]: [f64; 4] =
        std::array::from_fn(|index| read()[index] - before[index]);
    assert!(sends >= 3_200.0 && sent_bytes >= 32e6, "{sends} sends, {sent_bytes} bytes");
    // Each turn's is rounded down.
    let price = sends * SEND + sent_bytes / 1_024.0 * SENT_KIB - turns;
    assert!(work >= price, "{work} units of work, and {price} for sends alone");
    assert!(work < 4.0 * price, "{work} units of work are far more than what was done");

    let text = broker.metrics();
    let sample = |name: &str| -> f64 {
        let rest = text.split_once(&format!("\n{name} ")).unwrap_or_else(|| panic!("no {name} in {text}")).1;
        rest.lines().next().unwrap().parse().unwrap()
    };
    assert!(text.contains("\n# TYPE fanfare_turn_seconds histogram\n"));
    let count = sample(r#"fanfare_turn_seconds_count{reactor="0"}"#);
    let turns = sample(r#"fanfare_turns_total{reactor="0"}"#);
    assert!((count - turns).abs() <= 2.0, "{count} durations of {turns} turns");
    assert!(sample(r#"fanfare_turn_seconds_sum{reactor="0"}"#) > 0.0);
    let buckets: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with("fanfare_turn_seconds_bucket{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(buckets.len() > 10 && buckets.is_sorted(), "{buckets:?}");
    assert_eq!(buckets.last(), Some(&count));
    for raw in subscribers {
        raw.close();
    }
    publisher.close();
    broker.stop();
}
