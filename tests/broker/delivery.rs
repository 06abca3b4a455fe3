//! Who gets what, how often and in which order, across reactors.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::common::{
    Broker,
    client::{Client, Language},
    raw::{self, Raw},
};

/// So many connections that the kernel spreads them over both reactors, but for one time in 2^31.
const CONNECTIONS: usize = 32;

fn publish(topic: &str, data: impl Into<Value>) -> Value {
    json!({"op": "publish", "topic": topic, "data": data.into()})
}

/// Filters and topics of every kind; each subscriber has one filter and closes with a topic of its own,
/// which comes last because its publisher waited for every ok before.
#[test]
fn a_filter_gets_what_it_matches_and_nothing_else() {
    let broker = Broker::start(2, &[]);
    let topics = ["room", "room/1", "room/1/a", "room/", "/room", "/", "rooms", "ROOM", "räume/ü"];
    let cases: [(&str, &[&str]); 10] = [
        ("room", &["room"]),
        ("#", &topics),
        ("room/#", &["room", "room/1", "room/1/a", "room/"]),
        ("room/+", &["room/1", "room/"]),
        ("+", &["room", "rooms", "ROOM"]),
        ("+/+", &["room/1", "room/", "/room", "/", "räume/ü"]),
        ("+/1/+", &["room/1/a"]),
        ("/+", &["/room", "/"]),
        ("/#", &["/room", "/"]),
        ("räume/+", &["räume/ü"]),
    ];
    let mut subscribers: Vec<Client> = cases
        .iter()
        .enumerate()
        .map(|(index, (filter, _))| {
            let language = if index % 2 == 0 { Language::Json } else { Language::Binary };
            let mut client = Client::open(&broker, language);
            let ok = client.ask(json!({"op": "subscribe", "topic": filter, "id": 1}));
            let mut expected = json!({"op": "ok", "id": 1, "topic": filter});
            if *filter == "room" {
                expected["seq"] = 0.into();
                expected["epoch"] = ok["epoch"].clone();
            }
            assert_eq!(ok, expected, "a filter's ok has neither seq nor epoch");
            assert_eq!(client.ask(json!({"op": "subscribe", "topic": "end", "id": 2}))["op"], "ok");
            client
        })
        .collect();
    let mut publisher = Client::open(&broker, Language::Json);
    for topic in topics.iter().chain(&["end"]) {
        let ok = publisher.ask(json!({"op": "publish", "topic": topic, "data": topic, "id": 1}));
        assert_eq!(ok["seq"], 1, "{ok}");
    }
    for (subscriber, (filter, expected)) in subscribers.iter_mut().zip(cases) {
        let mut received = Vec::new();
        loop {
            let topic = match subscriber.language {
                Language::Json => subscriber.receive()["topic"].as_str().unwrap().to_owned(),
                Language::Binary => subscriber.receive_body().topic,
            };
            let is_end = topic == "end";
            received.push(topic);
            // Topics have no order among each other, and `#` matches the end as well.
            if is_end && received.len() > expected.len() {
                break;
            }
        }
        let mut expected: Vec<&str> = expected.iter().copied().chain(["end"]).collect();
        received.sort();
        expected.sort();
        assert_eq!(received, expected, "{filter}");
    }
    subscribers.into_iter().for_each(Client::close);
    publisher.close();
    broker.stop();
}

/// A connection with five filters that match the same topic, one of which it takes back in between.
#[test]
fn filters_that_overlap_deliver_once() {
    let broker = Broker::start(2, &[]);
    let mut subscriber = Client::open(&broker, Language::Json);
    let mut publisher = Client::open(&broker, Language::Json);
    let filters = ["a/b", "a/+", "+/b", "a/#", "#"];
    for filter in filters {
        assert_eq!(subscriber.ask(json!({"op": "subscribe", "topic": filter, "id": 1}))["op"], "ok");
    }
    for (round, filter) in filters.into_iter().enumerate() {
        let seq = 2 * round as u64;
        publisher.send(publish("a/b", seq + 1));
        publisher.send(publish("a/b", seq + 2));
        for seq in [seq + 1, seq + 2] {
            let expected = json!({"op": "message", "topic": "a/b", "seq": seq, "data": seq});
            assert_eq!(subscriber.receive(), expected);
        }
        let ok = subscriber.ask(json!({"op": "unsubscribe", "topic": filter, "id": 2}));
        assert_eq!(ok, json!({"op": "ok", "id": 2, "topic": filter}));
    }
    publisher.ask(json!({"op": "publish", "topic": "a/b", "data": "nobody", "id": 3}));
    assert_eq!(subscriber.ask(json!({"op": "ping"})), json!({"op": "pong"}));
    subscriber.close();
    publisher.close();
    broker.stop();
}

/// Every connection is subscriber and publisher, of every topic: by name on some, by filter on others.
#[test]
fn every_reactor_delivers_what_any_reactor_took() {
    let broker = Broker::start(2, &[]);
    let mut clients: Vec<Client> = (0..CONNECTIONS)
        .map(|index| Client::open(&broker, if index % 2 == 0 { Language::Json } else { Language::Binary }))
        .collect();
    let upgrades = broker.metric("fanfare_upgrades_total", "");
    assert!(upgrades.len() == 2 && upgrades.iter().all(|count| *count > 0.0), "{upgrades:?}");

    let topics = ["t/0", "t/1", "t/2", "t/3", "t/4", "t/5", "t/6", "t/7"];
    for (index, client) in clients.iter_mut().enumerate() {
        let filters: &[&str] = if index % 3 == 0 { &["t/+"] } else { &topics };
        for filter in filters {
            assert_eq!(client.ask(json!({"op": "subscribe", "topic": filter, "id": 1}))["op"], "ok");
        }
    }
    // Each JSON connection publishes to each topic and asks who had it to come.
    let publishers: Vec<usize> = (0..CONNECTIONS).step_by(2).collect();
    for &index in &publishers {
        for topic in topics {
            let mut command = publish(topic, index);
            command["id"] = 2.into();
            command["receivers"] = true.into();
            clients[index].send(command);
        }
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let (mut heads, mut ok_count) = (HashMap::new(), 0);
        let is_publisher = publishers.contains(&index);
        for _ in 0..topics.len() * (publishers.len() + usize::from(is_publisher)) {
            let (topic, seq) = match client.language {
                Language::Json => {
                    let received = client.receive();
                    if received["op"] == "ok" {
                        assert_eq!(received["receivers"], CONNECTIONS, "{received}");
                        ok_count += 1;
                        continue;
                    }
                    (received["topic"].as_str().unwrap().to_owned(), received["seq"].as_u64().unwrap())
                }
                Language::Binary => {
                    let body = client.receive_body();
                    (body.topic, body.seq)
                }
            };
            let head = heads.entry(topic).or_insert(0);
            *head += 1;
            assert_eq!(seq, *head);
        }
        assert_eq!(heads.len(), topics.len());
        assert_eq!(ok_count, if is_publisher { topics.len() } else { 0 });
    }
    clients.into_iter().for_each(Client::close);
    broker.stop();
}

/// Four publishers write to the same three topics at once without waiting for anything; eight subscribers
/// on both reactors must see one order per topic, which has every publisher's in it.
#[test]
fn all_subscribers_see_one_order_per_topic() {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 500;
    let broker = Broker::start(2, &[]);
    let topics = ["x", "y", "z/z"];
    let subscribers: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = Client::open(&broker, Language::Json);
            for topic in topics {
                assert_eq!(client.ask(json!({"op": "subscribe", "topic": topic, "id": 1}))["seq"], 0);
            }
            client
        })
        .collect();
    let address = broker.address;
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            thread::spawn(move || {
                let mut client = Raw::open(address);
                for number in 0..EACH {
                    for topic in topics {
                        client.send_text(&publish(topic, json!([publisher, number])).to_string());
                    }
                }
                client.close();
            })
        })
        .collect();
    let mut orders = Vec::new();
    for mut client in subscribers {
        let mut order: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
        for _ in 0..PUBLISHERS * EACH * topics.len() as u64 {
            let message = client.receive();
            let seen = order.entry(message["topic"].as_str().unwrap().into()).or_default();
            seen.push((message["data"][0].as_u64().unwrap(), message["data"][1].as_u64().unwrap()));
            assert_eq!(message["seq"], seen.len());
        }
        orders.push(order);
        client.close();
    }
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    for topic in topics {
        let order = &orders[0][topic];
        for publisher in 0..PUBLISHERS {
            let own = order.iter().filter(|(from, _)| *from == publisher).map(|(_, number)| *number);
            assert!(own.eq(0..EACH), "{publisher} on {topic}");
        }
        assert!(orders.iter().all(|other| other[topic] == *order), "{topic}");
    }
    broker.stop();
}

/// Publishes to `topic` as long as the test wants it, a batch at a time.
struct Stream {
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Stream {
    fn start(broker: &Broker, topic: &'static str) -> Stream {
        let is_over = Arc::new(AtomicBool::new(false));
        let (address, is_over_too) = (broker.address, is_over.clone());
        let thread = thread::spawn(move || {
            let mut publisher = Raw::open(address);
            let silent = publish(topic, "");
            let mut last = silent.clone();
            last["id"] = 1.into();
            let batch = json!([silent, silent, silent, silent, last]).to_string();
            while !is_over_too.load(Ordering::SeqCst) {
                assert_eq!(publisher.ask(&batch)["op"], "ok");
            }
            publisher.close();
        });
        Stream { is_over, thread }
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// Takes messages, each the next of its topic, until something else comes, which is returned.
fn follow(subscriber: &mut Raw, seq: &mut u64) -> Value {
    loop {
        let received = subscriber.receive();
        if received["op"] != "message" {
            return received;
        }
        *seq += 1;
        assert_eq!(received["seq"], *seq);
    }
}

/// Connections on both reactors come to a topic and leave it while it is published to.
#[test]
fn a_subscription_begins_after_its_ok_and_ends_with_the_other() {
    let broker = Broker::start(2, &[]);
    let stream = Stream::start(&broker, "t");
    let address = broker.address;
    let subscribers: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut subscriber = Raw::open(address);
                for _ in 0..50 {
                    let ok = subscriber.ask(r#"{"op":"subscribe","topic":"t","id":1}"#);
                    let mut seq = ok["seq"].as_u64().unwrap_or_else(|| panic!("{ok}"));
                    for _ in 0..20 {
                        seq += 1;
                        assert_eq!(subscriber.receive()["seq"], seq);
                    }
                    subscriber.send_text(r#"{"op":"unsubscribe","topic":"t","id":2}"#);
                    assert_eq!(follow(&mut subscriber, &mut seq)["id"], 2);
                    assert_eq!(subscriber.ask(r#"{"op":"ping","id":3}"#)["op"], "pong");
                }
                subscriber.close();
            })
        })
        .collect();
    subscribers.into_iter().for_each(|subscriber| subscriber.join().unwrap());
    stream.stop();
    broker.stop();
}

/// Connections on both reactors hold the topic by its name, by one filter or by another in turn, and take
/// the next before they give back the last: the stream goes on as if nothing had happened.
#[test]
fn changing_filters_neither_loses_nor_repeats() {
    let broker = Broker::start(2, &[]);
    let stream = Stream::start(&broker, "t/x");
    let address = broker.address;
    let subscribers: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut subscriber = Raw::open(address);
                let ok = subscriber.ask(r#"{"op":"subscribe","topic":"t/x","id":1}"#);
                let mut seq = ok["seq"].as_u64().unwrap();
                let mut held = "t/x";
                for next in ["t/#", "t/x", "+/x", "t/#", "#"].into_iter().cycle().take(100) {
                    for (op, topic) in [("subscribe", next), ("unsubscribe", held)] {
                        subscriber.send_text(&json!({"op": op, "topic": topic, "id": op}).to_string());
                        let ok = follow(&mut subscriber, &mut seq);
                        assert_eq!((&ok["op"], &ok["id"]), (&json!("ok"), &json!(op)), "{ok}");
                    }
                    held = next;
                    for _ in 0..10 {
                        seq += 1;
                        assert_eq!(subscriber.receive()["seq"], seq, "{held}");
                    }
                }
            })
        })
        .collect();
    subscribers.into_iter().for_each(|subscriber| subscriber.join().unwrap());
    stream.stop();
    broker.stop();
}

/// 100,000 publications with a reply each are written without reading one: replies fill what may wait for
/// the publisher, the broker stops reading, and the writes block. Then the publisher reads.
#[test]
fn a_publisher_that_does_not_read_is_held_back_and_loses_nothing() {
    const COUNT: u64 = 100_000;
    for reactors in [1, 2] {
        // The subscriber may be slower than the broker: it is not what this is about.
        let broker = Broker::start(reactors, &["delivery.owed_bytes_max=268435456"]);
        let mut publisher = Raw::connect_small(broker.address, 64 << 10).upgraded();
        let address = broker.address;
        let mut subscriber = Raw::open(address);
        assert_eq!(subscriber.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["seq"], 0);
        let subscriber = thread::spawn(move || {
            for seq in 1..=COUNT {
                let message = subscriber.receive_text();
                let head = format!(r#"{{"op":"message","topic":"t","seq":{seq},"data":[{seq},"#);
                assert!(message.starts_with(&head), "{message} instead of {head}");
            }
            subscriber.close();
        });

        let filling = "x".repeat(100);
        let command =
            move |seq| format!(r#"{{"op":"publish","topic":"t","data":[{seq},"{filling}"],"id":{seq}}}"#);
        let writer = publisher.stream.try_clone().unwrap();
        let (blocked, has_blocked) = std::sync::mpsc::channel();
        let writing = thread::spawn(move || {
            let bytes: Vec<u8> =
                (1..=COUNT).flat_map(|seq| raw::frame(raw::TEXT, command(seq).as_bytes())).collect();
            write_telling_when_it_blocks(writer, &bytes, &blocked);
        });
        has_blocked.recv().expect("the writer is held back before it has written everything");
        for seq in 1..=COUNT {
            let expected = format!(r#"{{"op":"ok","id":{seq},"topic":"t","seq":{seq}}}"#);
            assert_eq!(publisher.receive_text(), expected);
        }
        writing.join().unwrap();
        subscriber.join().unwrap();
        publisher.close();
        broker.stop();
    }
}

/// Writes all of `bytes`; sends to `blocked` when the socket has taken nothing for a while.
pub fn write_telling_when_it_blocks(
    mut stream: std::net::TcpStream,
    mut bytes: &[u8],
    blocked: &std::sync::mpsc::Sender<()>,
) {
    use std::io::{ErrorKind, Write};
    // The clone shares its socket's options with the reader, which has a timeout of its own.
    stream.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = blocked.send(());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A publisher that asks for no replies sends everything, then a close frame, and ends its direction at
/// once. What came before the close counts.
#[test]
fn what_was_sent_before_a_close_is_published() {
    const COUNT: u64 = 20_000;
    let broker = Broker::start(2, &["delivery.owed_bytes_max=268435456"]);
    let topics = ["a", "b", "c", "d"];
    let mut subscriber = Raw::open(broker.address);
    for topic in topics {
        subscriber.send_text(&json!({"op": "subscribe", "topic": topic, "id": 1}).to_string());
        assert_eq!(subscriber.receive()["seq"], 0);
    }
    let address = broker.address;
    let publisher = thread::spawn(move || {
        let mut publisher = Raw::open(address);
        let mut bytes: Vec<u8> = (1..=COUNT)
            .flat_map(|number| {
                topics.into_iter().flat_map(move |topic| {
                    raw::frame(raw::TEXT, publish(topic, number).to_string().as_bytes())
                })
            })
            .collect();
        bytes.extend(raw::frame(raw::CLOSE, &1000_u16.to_be_bytes()));
        publisher.send(&bytes);
        publisher.shutdown_write();
        assert_eq!(publisher.receive_close().0, 1000);
        publisher.expect_end();
    });
    let mut heads: HashMap<String, u64> = HashMap::new();
    for _ in 0..COUNT * topics.len() as u64 {
        let message = subscriber.receive();
        let head = heads.entry(message["topic"].as_str().unwrap().into()).or_default();
        *head += 1;
        assert_eq!((&message["seq"], &message["data"]), (&json!(*head), &json!(*head)));
    }
    publisher.join().unwrap();
    subscriber.close();
    broker.stop();
}

/// More topics than the broker keeps, twice over, beside one that somebody subscribed to by name and which
/// therefore stays. A filter's subscriber gets everything.
#[test]
fn a_topic_that_was_forgotten_never_uses_a_seq_twice() {
    const TOPICS: u64 = 200;
    let broker = Broker::start(2, &["limits.topics_max=8"]);
    let mut client = Raw::open(broker.address);
    let mut all = Raw::open(broker.address);
    assert_eq!(all.ask(r##"{"op":"subscribe","topic":"#","id":1}"##)["op"], "ok");
    assert_eq!(client.ask(r#"{"op":"subscribe","topic":"kept","id":1}"#)["seq"], 0);
    let mut heads: HashMap<String, u64> = HashMap::new();
    for round in 0..3 {
        for number in 0..TOPICS {
            let topic = format!("t/{number}");
            let command = json!({"op": "publish", "topic": topic, "data": round, "id": number});
            let seq = client.ask(&command.to_string())["seq"].as_u64().expect("an ok");
            assert!(heads.insert(topic.clone(), seq).is_none_or(|head| seq > head), "{topic} {seq}");
            let message = all.receive();
            assert_eq!((&message["topic"], &message["seq"]), (&json!(topic), &json!(seq)));
        }
        client.send_text(r#"{"op":"publish","topic":"kept","data":0}"#);
        assert_eq!(client.receive()["seq"], round + 1, "it was not forgotten");
        assert_eq!(all.receive()["topic"], "kept");
    }
    let topics: f64 = broker.metric("fanfare_topics", "").iter().sum();
    assert!(topics <= 16.0, "{topics}");
    client.close();
    all.close();
    broker.stop();
}

/// Publications before and behind a close frame, and behind a frame that breaks a rule, in one packet.
#[test]
fn nothing_behind_the_last_frame_counts() {
    let broker = Broker::start(1, &[]);
    let mut subscriber = Raw::open(broker.address);
    assert_eq!(subscriber.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["seq"], 0);
    let publication = raw::frame(raw::TEXT, publish("t", "x").to_string().as_bytes());
    for (round, (last, code)) in
        [(raw::frame(raw::CLOSE, &1000_u16.to_be_bytes()), 1000), (raw::frame(raw::BINARY, b""), 1003)]
            .into_iter()
            .enumerate()
    {
        let mut publisher = Raw::open(broker.address);
        publisher.send(&[&publication[..], &last, &publication, &publication].concat());
        assert_eq!(publisher.receive_close().0, code);
        publisher.expect_end();
        assert_eq!(subscriber.receive()["seq"], round as u64 + 1);
    }
    assert_eq!(subscriber.ask(r#"{"op":"ping"}"#)["op"], "pong", "and nothing more was published");
    subscriber.close();
    broker.stop();
}
