//! Subscribers that do not read: what they are owed is bounded, and they learn what they lost.

use serde_json::{Value, json};

use crate::common::{
    Broker,
    raw::{Raw, TEXT, frame},
    witness::Witness,
};

/// A little is owed at most, and the kernel holds little.
const SMALL: [&str; 3] =
    ["limits.message_bytes_max=65536", "delivery.owed_bytes_max=131072", "listen.sndbuf_bytes=65536"];
const BUFFER_BYTES: usize = 32 << 10;
/// Publications of 8 KiB: 4 MiB, far beyond all buffers.
const COUNT: u64 = 512;

fn settings<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SMALL.iter().chain(more).copied().collect()
}

/// A subscriber with small buffers that does not read after its oks.
fn stalled(broker: &Broker, topics: &[&str]) -> Raw {
    let mut raw = Raw::connect_small(broker.address, BUFFER_BYTES).upgraded();
    for topic in topics {
        assert_eq!(raw.ask(&json!({"op": "subscribe", "topic": topic, "id": 1}).to_string())["op"], "ok");
    }
    raw
}

/// Publishes `COUNT` times, waiting for each ok; a subscriber that reads gets each.
fn publish_all(broker: &Broker, topic: &str) {
    let (mut publisher, mut healthy) = (Raw::open(broker.address), Raw::open(broker.address));
    let ok = healthy.ask(&json!({"op": "subscribe", "topic": topic, "id": 1}).to_string());
    assert_eq!(ok["seq"], 0);
    let filling = "x".repeat(8 << 10);
    for seq in 1..=COUNT {
        let command = json!({"op": "publish", "topic": topic, "data": [seq, filling], "id": seq});
        assert_eq!(publisher.ask(&command.to_string())["seq"], seq);
        let message = healthy.receive();
        assert_eq!((&message["seq"], &message["data"][0]), (&json!(seq), &json!(seq)));
    }
    publisher.close();
    healthy.close();
}

/// Takes messages of `topic` and gaps in it until all of `COUNT` is accounted for; returns how many
/// publications were in gaps.
fn account_for_all(raw: &mut Raw, topic: &str) -> u64 {
    let (mut seq, mut missing_count) = (0, 0);
    while seq < COUNT {
        let received = raw.receive();
        assert_eq!(received["topic"], topic, "{received}");
        match received["op"].as_str().unwrap() {
            "message" => {
                seq += 1;
                assert_eq!((&received["seq"], &received["data"][0]), (&json!(seq), &json!(seq)));
            }
            "gap" => {
                let number = |key: &str| received[key].as_u64().unwrap();
                assert_eq!(number("from"), seq + 1, "a gap begins where the messages end");
                assert!(number("to") >= number("from"), "{received}");
                assert_eq!(received["reason"], "slow_consumer");
                missing_count += number("to") - seq;
                seq = number("to");
            }
            _ => panic!("{received}"),
        }
    }
    assert_eq!(seq, COUNT);
    missing_count
}

#[test]
fn a_subscriber_that_never_reads_is_closed_with_4000() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &settings(&["timeouts.close_ms=20000"]));
        let witness = Witness::start(&broker);
        let mut slow = stalled(&broker, &["t"]);
        publish_all(&broker, "t");
        let mut seq = 0;
        let (code, text) = loop {
            let (opcode, payload) = slow.receive_frame().expect("a close frame");
            if opcode != TEXT {
                let (code, text) = payload.split_at(2);
                break (
                    u16::from_be_bytes(code.try_into().unwrap()),
                    String::from_utf8_lossy(text).into_owned(),
                );
            }
            seq += 1;
            assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap()["seq"], seq);
        };
        assert_eq!(code, 4000, "{text}");
        assert!((1..COUNT).contains(&seq), "{seq}");
        slow.answer_close(4000);
        witness.finish();
        broker.stop();
    }
}

/// It reads nothing, not even the close frame: the broker does not wait for it for ever.
#[test]
fn a_subscriber_that_takes_nothing_is_reset() {
    use std::os::fd::AsRawFd;
    let broker = Broker::start(1, &settings(&["timeouts.close_ms=100"]));
    let witness = Witness::start(&broker);
    let slow = stalled(&broker, &["t"]);
    publish_all(&broker, "t");
    // An error is always polled for: this waits for the reset, and for nothing else.
    let mut poll = libc::pollfd { fd: slow.stream.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 30_000) }, 1, "it is still connected");
    assert_ne!(poll.revents & (libc::POLLERR | libc::POLLHUP), 0);
    witness.finish();
    broker.stop();
}

#[test]
fn a_subscriber_that_may_skip_is_told_the_exact_gap() {
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &settings(&["delivery.slow_consumer=skip"]));
        let witness = Witness::start(&broker);
        let mut slow = stalled(&broker, &["t"]);
        publish_all(&broker, "t");
        let missing_count = account_for_all(&mut slow, "t");
        assert!((1..COUNT).contains(&missing_count), "{missing_count}");
        let skipped: f64 = broker.metric("fanfare_skipped_total", "").iter().sum();
        assert_eq!(skipped as u64, missing_count);

        // It is in step again.
        let next = json!({"op": "publish", "topic": "t", "data": [COUNT + 1, ""]});
        slow.send_text(&next.to_string());
        assert_eq!(slow.receive()["seq"], COUNT + 1);
        slow.close();
        witness.finish();
        broker.stop();
    }
}

/// One connection holds a topic that may skip and one that may not. Only the first has moved.
#[test]
fn a_topic_may_have_a_policy_of_its_own() {
    let policy = r#"topic=[{ match = "ticker/#", slow_consumer = "skip" }]"#;
    let broker = Broker::start(1, &settings(&[policy]));
    let mut slow = stalled(&broker, &["ticker/+", "chat"]);
    publish_all(&broker, "ticker/a");
    assert!(account_for_all(&mut slow, "ticker/a") > 0);
    slow.send_text(r#"{"op":"publish","topic":"chat","data":1}"#);
    assert_eq!(slow.receive(), json!({"op": "message", "topic": "chat", "seq": 1, "data": 1}));
    slow.close();
    broker.stop();
}

/// A connection is behind on both: the topic that may skip is moved forward, again and again, and as soon as
/// the other is too much by itself, the connection is closed.
#[test]
fn a_connection_behind_on_topics_of_both_policies_is_closed_for_the_one_that_must_not_skip() {
    let policy = r#"topic=[{ match = "ticker/#", slow_consumer = "skip" }]"#;
    let broker = Broker::start(1, &settings(&[policy, "timeouts.close_ms=20000"]));
    let mut slow = stalled(&broker, &["ticker/a", "chat"]);
    publish_all(&broker, "ticker/a");
    let verdicts = |verdict: &str| -> f64 {
        let labels = format!(r#",bound="owed_bytes",verdict="{verdict}""#);
        broker.metric("fanfare_slow_consumers_total", &labels).iter().sum()
    };
    assert!(verdicts("skip") > 1.0);
    assert_eq!(verdicts("disconnect"), 0.0);
    publish_all(&broker, "chat");
    assert_eq!(verdicts("disconnect"), 1.0);
    let mut topics = std::collections::BTreeSet::new();
    let code = loop {
        let (opcode, payload) = slow.receive_frame().expect("a close frame");
        if opcode != TEXT {
            break u16::from_be_bytes(payload[..2].try_into().unwrap());
        }
        let received: Value = serde_json::from_slice(&payload).unwrap();
        topics.insert(format!(
            "{} {}",
            received["op"].as_str().unwrap(),
            received["topic"].as_str().unwrap()
        ));
    };
    assert_eq!(code, 4000);
    assert!(!topics.contains("gap chat"), "{topics:?}");
    slow.answer_close(4000);
    broker.stop();
}

/// It has read a part of a frame, and stays there until it was moved forward. That frame is whole in the end,
/// and what is missed begins with one that follows.
#[test]
fn a_frame_that_is_half_sent_is_neither_cut_nor_sent_again() {
    use std::io::Read;
    const LEN: usize = 60_000;
    let broker = Broker::start(1, &settings(&["delivery.slow_consumer=skip"]));
    let mut slow = stalled(&broker, &["t"]);
    let mut publisher = Raw::open(broker.address);
    let skipped = || broker.metric("fanfare_skipped_total", "").iter().sum::<f64>() as u64;
    let mut count = 0;
    let publish = |publisher: &mut Raw, count: &mut u64| {
        *count += 1;
        let data = format!("{count:08}").repeat(LEN / 8);
        let command = json!({"op": "publish", "topic": "t", "data": data, "id": 1});
        assert_eq!(publisher.ask(&command.to_string())["seq"], *count);
    };
    publish(&mut publisher, &mut count);
    let mut piece = vec![0; LEN / 3];
    slow.stream.read_exact(&mut piece).unwrap();
    slow.put_back(&piece);
    while skipped() == 0 {
        publish(&mut publisher, &mut count);
        assert!(count < 100, "it is not moved forward");
    }
    let mut next = 1;
    let mut missing_count = 0;
    while next <= count {
        let received = slow.receive();
        match received["op"].as_str().unwrap() {
            "message" => {
                assert_eq!(received["seq"], next);
                assert_eq!(received["data"].as_str().unwrap(), format!("{next:08}").repeat(LEN / 8));
                next += 1;
            }
            "gap" => {
                assert_eq!(received["from"], next);
                missing_count += received["to"].as_u64().unwrap() + 1 - next;
                next = received["to"].as_u64().unwrap() + 1;
            }
            _ => panic!("{received}"),
        }
    }
    assert_eq!(missing_count, skipped());
    slow.close();
    publisher.close();
    broker.stop();
}

/// One connection is behind on 5,000 topics that may skip, each with one publication of 2 KiB.
#[test]
fn a_connection_is_moved_forward_in_thousands_of_topics_at_once() {
    const TOPICS: u64 = 5_000;
    let settings = [
        "limits.subscriptions_max=6000",
        "delivery.slow_consumer=skip",
        "listen.sndbuf_bytes=65536",
        "delivery.owed_bytes_max=8388608",
    ];
    let broker = Broker::start(1, &settings);
    let witness = Witness::start(&broker);
    let mut slow = Raw::connect_small(broker.address, BUFFER_BYTES).upgraded();
    for topic in 0..TOPICS {
        let ok = slow.ask(&json!({"op": "subscribe", "topic": format!("t/{topic}"), "id": 1}).to_string());
        assert_eq!(ok["op"], "ok");
    }
    let mut publisher = Raw::open(broker.address);
    let filling = "x".repeat(2 << 10);
    for topic in 0..TOPICS {
        let command = json!({"op": "publish", "topic": format!("t/{topic}"), "data": filling, "id": 1});
        assert_eq!(publisher.ask(&command.to_string())["seq"], 1);
    }
    let skipped: f64 = broker.metric("fanfare_skipped_total", "").iter().sum();
    assert!(skipped > 1_000.0, "{skipped}");
    let (mut messages, mut gaps, mut is_told_to_resynchronise) = (0, 0, false);
    while messages + skipped as u64 != TOPICS {
        let received = slow.receive();
        match (received["op"].as_str().unwrap(), received.get("filter")) {
            ("message", _) => messages += 1,
            ("gap", None) => gaps += 1,
            ("gap", Some(filter)) => {
                assert_eq!(filter, "#");
                is_told_to_resynchronise = true;
            }
            _ => panic!("{received}"),
        }
    }
    assert_eq!((gaps, is_told_to_resynchronise), (64, true));
    slow.close();
    publisher.close();
    witness.finish();
    broker.stop();
}

/// Nothing is published after a subscriber has stalled, and it is owed little: it is closed, or moved forward,
/// for what it is owed too long. That takes a second, which is what is tested.
#[test]
fn what_is_owed_for_too_long_has_its_consequence_by_itself() {
    for policy in ["disconnect", "skip"] {
        let policy_setting = format!("delivery.slow_consumer={policy}");
        let settings = [
            "listen.sndbuf_bytes=65536",
            "delivery.owed_bytes_max=1073741824",
            "delivery.owed_ms_max=1000",
            "timeouts.close_ms=20000",
            &policy_setting,
        ];
        let broker = Broker::start(1, &settings);
        let slow = stalled(&broker, &["t"]);
        publish_all(&broker, "t");
        let labels = format!(r#",bound="owed_ms",verdict="{policy}""#);
        let deadline = std::time::Instant::now() + crate::common::PATIENCE;
        while broker.metric("fanfare_slow_consumers_total", &labels)[0] == 0.0 {
            assert!(std::time::Instant::now() < deadline, "{policy}");
        }
        if policy == "skip" {
            let mut slow = slow;
            assert!(account_for_all(&mut slow, "t") > 0);
            slow.close();
        }
        broker.stop();
    }
}

/// Connections that take nothing, whose bound of what they are owed is far above the log's budget: they keep
/// its oldest half, and must let go of it. 16 MiB is the least budget; 48 MiB are published.
#[test]
fn the_log_stays_within_its_budget_whoever_keeps_it() {
    const MESSAGE_BYTES: usize = 256 << 10;
    for (policy, close) in [("disconnect", true), ("skip", false)] {
        let settings = [
            "limits.log_bytes_max=16777216",
            "delivery.owed_bytes_max=1073741824",
            "listen.sndbuf_bytes=65536",
            "timeouts.close_ms=100",
            &format!("delivery.slow_consumer={policy}"),
        ];
        let broker = Broker::start(1, &settings);
        let witness = Witness::start(&broker);
        let mut slow = stalled(&broker, &["t"]);
        let mut publisher = Raw::open(broker.address);
        let command = json!({"op": "publish", "topic": "t", "data": "x".repeat(MESSAGE_BYTES), "id": 1});
        let publication = frame(TEXT, command.to_string().as_bytes());
        for seq in 1..=192u64 {
            publisher.send(&publication);
            assert_eq!(publisher.receive()["seq"], seq);
            let log_bytes: f64 = broker.metric("fanfare_log_bytes", "").iter().sum();
            assert!(log_bytes < (20 << 20) as f64, "{log_bytes} bytes of log after {seq} publications");
        }
        let closed: f64 = broker.metric("fanfare_closes_total", r#",reason="slow_consumer""#).iter().sum();
        if close {
            assert_eq!(closed, 1.0);
        } else if closed == 0.0 {
            // Only the send in flight kept it: with luck that was young, and a gap tells the rest.
            slow.receive();
        }
        publisher.close();
        witness.finish();
        broker.stop();
    }
}

/// It takes a few KiB at a time, always less than what is in flight, for many times the deadline.
#[test]
fn a_subscriber_that_reads_slowly_but_steadily_stays() {
    use std::io::Read;
    let settings = [
        "timeouts.ping_ms=1000",
        "timeouts.pong_ms=1000",
        "timeouts.write_stall_ms=1000",
        "timeouts.close_ms=100",
        "listen.sndbuf_bytes=65536",
    ];
    let broker = Broker::start(1, &settings);
    let mut slow = stalled(&broker, &["t"]);
    let mut publisher = Raw::open(broker.address);
    let command = json!({"op": "publish", "topic": "t", "data": "x".repeat(1_000_000), "id": 1});
    assert_eq!(publisher.ask(&command.to_string())["op"], "ok");
    publisher.close();
    // Each read takes what lets the kernel send a little more; the pace is the clock's, which is what is
    // tested: 80 reads of 50 ms are twice both deadlines together.
    let mut piece = [0; 8 << 10];
    let began = std::time::Instant::now();
    for turn in 1..=80 {
        assert!(slow.stream.read(&mut piece).unwrap() > 0);
        std::thread::sleep(
            (began + turn * std::time::Duration::from_millis(50)).duration_since(std::time::Instant::now()),
        );
    }
    assert_eq!(broker.metric("fanfare_closes_total", r#",reason="idle_timeout""#).iter().sum::<f64>(), 0.0);
    broker.stop();
}
