//! The rows of docs/ARCHITECTURE.md's memory sum that clients can fill: each is filled, and the broker's resident
//! memory held to the bound. Sockets are the kernel's and not in it. What is said once per reactor, as scratch of the
//! parser, is brought into being before anything is measured.
//!
//! Bounds have slack for what the allocator keeps, and for vectors that grow by doubling.

use std::{
    io::{ErrorKind, Write},
    time::Instant,
};

use serde_json::{Value, json};

use crate::common::{
    Broker, PATIENCE,
    raw::{Raw, TEXT, frame},
};

/// The most commands of one message.
const COMMANDS_MAX: usize = 1_024;

/// How much more memory the broker has than `before`, per each of `count`, which is told on the standard output.
fn growth_each(broker: &Broker, before: usize, what: &str, count: usize) -> usize {
    let growth = broker.resident_bytes().saturating_sub(before);
    println!("{what}: {growth} bytes for {count}, {} each", growth / count);
    growth / count
}

/// Each sends one message sixteen times, as far as it is taken, until the broker carries out nothing more of them.
fn flood_until_calm(broker: &Broker, held: &[Raw], message: &[u8]) {
    const PINGS: usize = 20;
    let messages = message.repeat(16);
    let mut places = vec![0; held.len()];
    let mut other = Raw::open(broker.address);
    let (mut before, mut asked_count) = (broker.total("fanfare_commands_total", ""), 0.0);
    loop {
        for (raw, place) in held.iter().zip(&mut places) {
            *place += send_while_room(raw, &messages[*place..]);
        }
        for _ in 0..PINGS {
            assert_eq!(other.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
        }
        // An answer may be a little older than the question.
        asked_count += PINGS as f64;
        let until = before + asked_count;
        let commands =
            broker.wait_for_total("fanfare_commands_total", "", |total| total >= until) - asked_count;
        if commands == before {
            return other.close();
        }
        before = commands;
    }
}

fn subscribe(raw: &mut Raw, topic: &str) {
    let ok = raw.ask(&json!({"op": "subscribe", "topic": topic, "id": 1}).to_string());
    assert_eq!(ok["op"], "ok", "{ok}");
}

/// Sends until nothing more is taken, at most so many bytes; tells how many.
fn send_while_room(raw: &Raw, bytes: &[u8]) -> usize {
    raw.stream.set_nonblocking(true).unwrap();
    let mut sent_count = 0;
    while sent_count < bytes.len() {
        match (&raw.stream).write(&bytes[sent_count..]) {
            Ok(len) => sent_count += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    raw.stream.set_nonblocking(false).unwrap();
    sent_count
}

/// All commands of one message, without ids; what is answered is an error.
fn publish_once_each(raw: &mut Raw, topics: impl Iterator<Item = String>) {
    let commands: Vec<Value> =
        topics.map(|topic| json!({"op": "publish", "topic": topic, "data": 1})).collect();
    for commands in commands.chunks(COMMANDS_MAX) {
        raw.send_text(&Value::from(commands).to_string());
    }
    assert_eq!(raw.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
}

/// As many filters as a connection may have, of eight levels, none of which is another's. The key says some 85
/// bytes per level at the connection's reactor and at each home.
#[test]
fn levels_of_filters_take_what_the_key_says_and_give_it_back() {
    const CONNECTIONS: usize = 4;
    const LEVELS: usize = CONNECTIONS * 1_024 * 8;
    const LEVEL_BYTES: usize = 85;
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[]);
        let fill = |count: usize| -> Vec<Raw> {
            (0..count)
                .map(|connection| {
                    let mut raw = Raw::open(broker.address);
                    let filters = (0..1_024).map(|index| format!("{connection}x{index}/a/b/c/d/e/f/+"));
                    let commands: Vec<Value> =
                        filters.map(|filter| json!({"op": "subscribe", "topic": filter, "id": 1})).collect();
                    raw.send_text(&Value::from(commands).to_string());
                    for _ in 0..1_024 {
                        let ok = raw.receive();
                        assert_eq!(ok["op"], "ok", "{ok}");
                    }
                    raw
                })
                .collect()
        };
        let empty = |held: Vec<Raw>| {
            held.into_iter().for_each(Raw::close);
            broker.wait_for_total("fanfare_subscriptions", "", |total| total == 0.0);
        };
        empty(fill(1));
        let before = broker.resident_bytes();
        let held = fill(CONNECTIONS);
        let what = format!("levels with {reactors} reactors");
        let level = growth_each(&broker, before, &what, LEVELS);
        assert!(level <= (1 + reactors) * LEVEL_BYTES * 3 / 2, "{level} bytes per level");
        empty(held);
        let again = fill(CONNECTIONS);
        let level_again = growth_each(&broker, before, "the same again", LEVELS);
        // What was free went back to the kernel meanwhile, or did not.
        assert!(level_again <= level * 2, "{level_again} bytes per level, {level} the first time");
        empty(again);
        broker.stop();
    }
}

/// Whoever reads nothing has 64 KiB of answers that wait and as much in flight, each in a vector that may be twice as
/// long; what is left of its message; and hardly anything of what it sends while it is paused.
#[test]
fn answers_that_nobody_reads_and_what_comes_meanwhile_are_bounded() {
    const CONNECTIONS: usize = 12;
    const REPLIES_BYTES: usize = 64 << 10;
    const UNREAD_BYTES: usize = 32 << 10;
    let broker = Broker::start(1, &["listen.sndbuf_bytes=65536"]);
    let commands: Vec<Value> =
        (0..COMMANDS_MAX).map(|_| json!({"op": "subscribe", "topic": "a/#/b", "id": 1})).collect();
    let message = frame(TEXT, Value::from(commands).to_string().as_bytes());
    let mut warm = Raw::open(broker.address);
    warm.send(&message);
    for _ in 0..COMMANDS_MAX {
        assert_eq!(warm.receive()["op"], "error");
    }
    warm.close();

    let before = broker.resident_bytes();
    let held: Vec<Raw> =
        (0..CONNECTIONS).map(|_| Raw::connect_small(broker.address, 32 << 10).upgraded()).collect();
    flood_until_calm(&broker, &held, &message);
    broker.wait_for_total("fanfare_paused", "", |total| total == CONNECTIONS as f64);
    let each = growth_each(&broker, before, "paused connections that read nothing", CONNECTIONS);
    // By half more: what the allocator keeps of vectors that grew.
    let bound = (4 * REPLIES_BYTES + 2 * message.len() + UNREAD_BYTES) * 3 / 2;
    assert!((REPLIES_BYTES..=bound).contains(&each), "{each} bytes per connection, of {bound}");
    assert_eq!(broker.closed_count(), 1.0, "of the one that was there before");
    drop(held);
    broker.stop();
}

/// Half of a message of a megabyte has come of each, in pieces: as much is held, in a vector of twice that at most.
#[test]
fn messages_under_way_take_what_has_come_of_them() {
    const CONNECTIONS: usize = 32;
    const COME_BYTES: usize = 500_000;
    let broker = Broker::start(1, &[]);
    let (before, received) = (broker.resident_bytes(), broker.total("fanfare_received_bytes_total", ""));
    let mut held: Vec<Raw> = (0..CONNECTIONS).map(|_| Raw::open(broker.address)).collect();
    let message = frame(TEXT, &vec![b'x'; 2 * COME_BYTES]);
    for piece in message[..COME_BYTES].chunks(COME_BYTES / 10) {
        held.iter_mut().for_each(|raw| raw.send(piece));
    }
    let come_bytes = (CONNECTIONS * COME_BYTES) as f64;
    broker.wait_for_total("fanfare_received_bytes_total", "", |total| total - received >= come_bytes);
    let each = growth_each(&broker, before, "messages under way", CONNECTIONS);
    assert!((COME_BYTES / 2..=2 * COME_BYTES + (128 << 10)).contains(&each), "{each} bytes each");
    drop(held);
    broker.stop();
}

/// One takes nothing of 1,000 topics, to which the least there is is published by turns: a segment and a start of a
/// frame for each. They count for the log as the bytes themselves, and all together stay within its budget.
#[test]
fn small_publications_that_nobody_takes_stay_within_the_budget_of_the_log() {
    const TOPICS: usize = 1_000;
    const ROUNDS: usize = 120;
    const LOG_BYTES: usize = 16 << 20;
    let settings = [
        "limits.log_bytes_max=16777216",
        "delivery.owed_bytes_max=1073741824",
        "delivery.slow_consumer=skip",
        "listen.sndbuf_bytes=65536",
    ];
    let broker = Broker::start(1, &settings);
    let mut publisher = Raw::open(broker.address);
    let topics = || (0..TOPICS).map(|index| format!("s/{index}"));
    publish_once_each(&mut publisher, topics());
    let mut stalled = Raw::connect_small(broker.address, 32 << 10).upgraded();
    subscribe(&mut stalled, "s/#");
    // The kernels are full before anything is measured. When log must go that its send in flight keeps, it is closed,
    // and another takes its place.
    let filling = json!({"op": "publish", "topic": "s/0", "data": "x".repeat(500_000), "id": 1}).to_string();
    assert_eq!(publisher.ask(&filling)["op"], "ok");
    let before = broker.resident_bytes();
    let (mut most, mut closed) = (0, 0.0);
    for round in 1..=ROUNDS {
        publish_once_each(&mut publisher, topics());
        if broker.closed_count() > closed {
            closed += 1.0;
            stalled = Raw::connect_small(broker.address, 32 << 10).upgraded();
            subscribe(&mut stalled, "s/#");
        }
        let growth = broker.resident_bytes().saturating_sub(before);
        most = most.max(growth);
        if [10, 50, 100].contains(&round) {
            growth_each(&broker, before, "small publications", round * TOPICS);
        }
        if round % 20 == 0 {
            let log_bytes = broker.total("fanfare_log_bytes", "") as usize;
            assert!(log_bytes <= LOG_BYTES + (1 << 20), "{log_bytes} bytes of log");
        }
    }
    println!("at most: {most} bytes");
    assert!(most <= LOG_BYTES + (6 << 20), "{most} bytes for a log of {LOG_BYTES}");
    drop(stalled);
    publisher.close();
    broker.stop();
}

/// Subscribers to everything are members of each topic that is published to: 20 bytes for the subscription, 16 for
/// the member and some 14 for the table that finds it, in vectors that grow by doubling, beside what the topic and its
/// view take.
#[test]
fn pairs_of_wide_filters_and_topics_take_what_a_membership_does() {
    const TOPICS: usize = 2_500;
    const SUBSCRIBERS: usize = 32;
    const PAIR_BYTES: usize = 20 + 16 + 14;
    let broker = Broker::start(1, &[]);
    let mut publisher = Raw::open(broker.address);
    let drain = |held: &mut Vec<Raw>| {
        for raw in held {
            for _ in 0..TOPICS {
                assert_eq!(raw.receive()["op"], "message");
            }
        }
    };
    let publish_all = |publisher: &mut Raw, held: &mut Vec<Raw>| {
        publish_once_each(publisher, (0..TOPICS).map(|index| format!("{index}")));
        drain(held);
    };
    let before = broker.resident_bytes();
    let mut held = vec![Raw::open(broker.address)];
    subscribe(&mut held[0], "#");
    publish_all(&mut publisher, &mut held);
    growth_each(&broker, before, "topics with a view and one member", TOPICS);
    let before = broker.resident_bytes();
    for _ in 1..SUBSCRIBERS {
        let mut raw = Raw::open(broker.address);
        subscribe(&mut raw, "#");
        held.push(raw);
    }
    publish_all(&mut publisher, &mut held);
    let pair = growth_each(&broker, before, "pairs", TOPICS * (SUBSCRIBERS - 1));
    // What was free before may have gone back to the kernel meanwhile, and is counted then.
    assert!(pair <= 5 * PAIR_BYTES / 2, "{pair} bytes per pair");
    // What they leave serves those who come.
    for _ in 0..2 {
        held.drain(..).for_each(Raw::close);
        broker.wait_for_total("fanfare_subscriptions", "", |total| total == 0.0);
        for _ in 0..SUBSCRIBERS {
            let mut raw = Raw::open(broker.address);
            subscribe(&mut raw, "#");
            held.push(raw);
        }
        publish_all(&mut publisher, &mut held);
    }
    let again = growth_each(&broker, before, "pairs, twice more", TOPICS * (SUBSCRIBERS - 1));
    assert!(again <= 5 * PAIR_BYTES / 2, "{again} bytes per pair");
    drop(held);
    publisher.close();
    broker.stop();
}

/// So many gaps a connection may have that are not told yet: 64 of 32 bytes, and then one for all.
#[test]
fn gaps_that_are_not_told_take_no_more_for_more_topics() {
    const CONNECTIONS: usize = 50;
    const TOPICS: usize = 500;
    let settings = [
        "delivery.slow_consumer=skip",
        "delivery.owed_bytes_max=131072",
        "limits.message_bytes_max=65536",
        "listen.sndbuf_bytes=65536",
    ];
    let broker = Broker::start(1, &settings);
    let mut publisher = Raw::open(broker.address);
    let topics = || (0..TOPICS).map(|index| format!("g/{index}"));
    publish_once_each(&mut publisher, topics());
    let held: Vec<Raw> = (0..CONNECTIONS)
        .map(|_| {
            let mut raw = Raw::connect_small(broker.address, 32 << 10).upgraded();
            subscribe(&mut raw, "g/#");
            raw
        })
        .collect();
    let filling = json!({"op": "publish", "topic": "g/0", "data": "x".repeat(60_000), "id": 1}).to_string();
    for _ in 0..10 {
        assert_eq!(publisher.ask(&filling)["op"], "ok");
    }
    publish_once_each(&mut publisher, topics());
    let mut publish_all = |rounds: usize| {
        let data = "y".repeat(400);
        for topic in (0..rounds).flat_map(|_| topics()) {
            publisher.send_text(&json!({"op": "publish", "topic": topic, "data": data}).to_string());
        }
        assert_eq!(publisher.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
    };
    publish_all(5);
    let before = broker.resident_bytes();
    publish_all(10);
    assert!(broker.total("fanfare_skipped_total", "") > (64 * CONNECTIONS) as f64);
    let each = growth_each(&broker, before, "connections with gaps", CONNECTIONS);
    assert!(each <= 48 << 10, "{each} bytes per connection");
    drop(held);
    publisher.close();
    broker.stop();
}

/// Messages that do not end take memory, and with their connections it goes back to the kernel, though no reactor has
/// anything to do any more: all but the page of 4 MiB that the allocator keeps per thread for each size up to 512 KiB
/// that was ever in use, which are as many for any peak.
#[test]
fn a_passed_peak_goes_back_to_the_kernel() {
    const COUNT: usize = 256;
    const LEN: usize = 1_000_000;
    let broker = Broker::start(1, &["limits.buffered_bytes_max=1073741824"]);
    Raw::open(broker.address).close();
    let before = broker.resident_bytes();
    let message = frame(TEXT, &vec![b'x'; LEN]);
    let held: Vec<Raw> = (0..COUNT).map(|_| Raw::open(broker.address)).collect();
    for raw in &held {
        (&raw.stream).write_all(&message[..message.len() - 1]).unwrap();
    }
    broker.wait_for_total("fanfare_buffered_bytes", "", |bytes| bytes > (COUNT * LEN / 10 * 9) as f64);
    assert!(
        broker.resident_bytes() > before + COUNT * LEN / 2,
        "room that is not written to is not resident"
    );
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    while broker.resident_bytes() > before + COUNT * LEN / 4 {
        assert!(Instant::now() < deadline, "{before} bytes have become {}", broker.resident_bytes());
        // Whatever happens on the admin port is no work of a reactor's.
        broker.get("/readyz");
    }
    broker.stop();
}
