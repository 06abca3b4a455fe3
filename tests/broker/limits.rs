//! Limits of connections and of what one may do: who goes beyond is told so, and nobody else notices.

use std::{fs, os::unix::process::CommandExt, path::PathBuf, time::Instant};

use serde_json::{Value, json};

use crate::common::{
    Broker, Log, PATIENCE,
    raw::{CONTINUATION, PING, PONG, Raw, TEXT, UPGRADE, fragment, frame, header},
    witness::Witness,
};

fn start_logged(reactors: usize, settings: &[&str]) -> (Broker, Log) {
    Broker::start_logged(reactors, settings, |command| {
        command.args(["--log", "warn"]);
    })
}

fn sum(broker: &Broker, name: &str, labels: &str) -> f64 {
    broker.metric(name, labels).iter().sum()
}

/// Connects until it is not refused.
fn let_in(broker: &Broker) -> Raw {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut raw = Raw::connect(broker.address);
        raw.send_while_taken(UPGRADE.as_bytes(), usize::MAX);
        let mut start = [0; 12];
        if raw.stream.peek(&mut start).is_ok() && &start == b"HTTP/1.1 101" {
            raw.expect_upgraded();
            return raw;
        }
        assert!(Instant::now() < deadline, "nobody gets in");
    }
}

fn closes(broker: &Broker, reason: &str) -> f64 {
    sum(broker, "fanfare_closes_total", &format!(r#",reason="{reason}""#))
}

/// The limit of descriptors leaves room for two connections: it is named at the start, to whoever is the third, and
/// in the log.
#[test]
fn too_few_descriptors_are_named_and_not_a_limit() {
    let (broker, log) = Broker::start_logged(1, &[], |command| {
        // SAFETY: only a system call, on a value of the closure.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit { rlim_cur: 133, rlim_max: 133 };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
                Ok(())
            });
        }
    });
    log.wait_for("file descriptors: 10000 connections need 10131, and these are enough for 2");
    let held = [Raw::open(broker.address), Raw::open(broker.address)];
    let mut third = Raw::connect(broker.address);
    third.send_while_taken(UPGRADE.as_bytes(), usize::MAX);
    let (status, text) = third.receive_answer();
    assert!(status == 503 && text.contains("as its file descriptors allow"), "{text}");
    log.wait_for("connections are refused with 503: file descriptors allow no more");
    held.into_iter().for_each(Raw::close);
    broker.stop();
}

/// Three times as many requests that never end as may be upgrading: honest clients get in all the same, and
/// there is one line in the log about all that made room.
#[test]
fn slow_headers_hold_no_more_than_their_bound() {
    const BOUND: usize = 20;
    let (broker, log) = start_logged(1, &["limits.upgrading_max=20", "timeouts.handshake_ms=600000"]);
    let witness = Witness::start(&broker);
    let mut slow: Vec<Raw> = (0..3 * BOUND)
        .map(|_| {
            let mut raw = Raw::connect(broker.address);
            raw.send_while_taken(&UPGRADE.as_bytes()[..60], usize::MAX);
            raw
        })
        .collect();
    for _ in 0..BOUND {
        Raw::open(broker.address).close();
    }
    assert!(sum(&broker, "fanfare_upgrading", "") <= BOUND as f64);
    let displaced = closes(&broker, "displaced") as usize;
    assert!((2 * BOUND..=3 * BOUND).contains(&displaced), "{displaced}");
    // The oldest went first.
    for raw in slow.drain(..2 * BOUND) {
        raw.expect_cut();
    }
    log.wait_for("limits.upgrading_max is reached");
    witness.finish();
    broker.stop();
    assert_eq!(log.count_to_end("limits.upgrading_max"), 0, "one line is enough");
}

/// An address has its connections, over all reactors; another one is not concerned, and who leaves makes room.
#[test]
fn an_address_has_no_more_connections_than_it_may() {
    let (broker, log) = start_logged(2, &["limits.connections_per_address_max=3"]);
    let other = "127.0.0.2".parse().unwrap();
    let mut held: Vec<Raw> = (0..3).map(|_| Raw::open(broker.address)).collect();
    for _ in 0..200 {
        let mut fourth = Raw::connect(broker.address);
        fourth.send_while_taken(UPGRADE.as_bytes(), usize::MAX);
        let (status, text) = fourth.receive_answer();
        assert_eq!(status, 429, "{text}");
        assert!(text.contains("\r\nRetry-After: ") && text.contains("limits.connections_per_address_max"));
    }
    let neighbours: Vec<Raw> = (0..3).map(|_| Raw::connect_from(other, broker.address).upgraded()).collect();
    assert_eq!(closes(&broker, "address_limit"), 200.0);
    held.pop().unwrap().close();
    // Its end is seen a little before its place is free.
    let mut again = let_in(&broker);
    assert_eq!(again.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
    log.wait_for("limits.connections_per_address_max");
    drop((held, neighbours, again));
    broker.stop();
    assert_eq!(log.count_to_end("limits.connections_per_address_max"), 0, "one line is enough");
}

/// Two hundred refused connections that are left open hold no more than a few places.
#[test]
fn refused_connections_that_stay_are_bounded() {
    let broker = Broker::start(1, &["limits.connections_per_address_max=1", "timeouts.close_ms=600000"]);
    let held = Raw::open(broker.address);
    let refused: Vec<Raw> = (0..200).map(|_| Raw::connect(broker.address)).collect();
    // The last connection comes after them: it is accepted when they were.
    let other = "127.0.0.2".parse().unwrap();
    let last = Raw::connect_from(other, broker.address).upgraded();
    let connections = sum(&broker, "fanfare_connections", "");
    assert!(connections <= 66.0, "{connections} are held");
    drop((held, refused, last));
    broker.stop();
}

/// The burst is answered, what is beyond it closes the connection; the commands of an array count one by one.
#[test]
fn commands_beyond_the_rate_are_answered_by_4029() {
    let (broker, log) = start_logged(2, &["limits.commands_per_s_max=1", "limits.commands_burst_max=100"]);
    let mut single = Raw::open(broker.address);
    for _ in 0..200 {
        single.send_while_taken(&frame(TEXT, br#"{"op":"ping"}"#), usize::MAX);
    }
    let mut array = Raw::open(broker.address);
    let pings = vec![r#"{"op":"ping"}"#; 200].join(",");
    array.send_text(&format!("[{pings}]"));
    for mut raw in [single, array] {
        // A second or more may pass meanwhile, and allow as many.
        let mut answered_count = 0;
        let (code, text) = loop {
            let (opcode, payload) = raw.receive_frame().expect("a close frame");
            if opcode != TEXT {
                let (code, text) = payload.split_at(2);
                break (u16::from_be_bytes([code[0], code[1]]), String::from_utf8(text.to_vec()).unwrap());
            }
            answered_count += 1;
        };
        assert_eq!(
            (code, &text[..]),
            (4029, "a connection gives at most 1 commands/s (limits.commands_per_s_max)")
        );
        assert!((100..200).contains(&answered_count), "{answered_count}");
        raw.answer_close(4029);
    }
    // Who keeps within it stays.
    let mut calm = Raw::open(broker.address);
    assert_eq!(calm.ask(r#"{"op":"ping"}"#), json!({"op": "pong"}));
    calm.close();
    assert_eq!(closes(&broker, "rate_limited"), 2.0);
    log.wait_for("limits.commands_per_s_max");
    broker.stop();
}

/// What is no command has the same rate for itself, so that whoever gives as many commands as it may can say that it
/// lives.
#[test]
fn pings_and_messages_without_commands_have_a_rate_of_their_own() {
    let broker = Broker::start(1, &["limits.commands_per_s_max=1", "limits.commands_burst_max=100"]);
    let mut raw = Raw::open(broker.address);
    (0..100).for_each(|_| raw.send_text(r#"{"op":"ping"}"#));
    raw.send(&frame(PING, b"lives"));
    (0..100).for_each(|_| assert_eq!(raw.receive_text(), r#"{"op":"pong"}"#));
    assert_eq!(raw.receive_frame().expect("a pong"), (PONG, b"lives".to_vec()));
    raw.close();
    for bytes in [frame(PING, b""), frame(PONG, b""), frame(TEXT, b"[]")] {
        let mut raw = Raw::open(broker.address);
        for _ in 0..200 {
            raw.send_while_taken(&bytes, usize::MAX);
        }
        while raw.peek_opcode() == PONG {
            raw.receive_frame();
        }
        let (code, text) = raw.receive_close();
        let rule =
            "a connection sends at most 1 pings or messages without commands/s (limits.commands_per_s_max)";
        assert_eq!((code, &text[..]), (4029, rule));
    }
    broker.stop();
}

/// Connections that come faster than they may be accepted wait in the accept queue, and nobody is refused.
#[test]
fn accepts_beyond_their_rate_wait() {
    let (broker, log) = start_logged(1, &["limits.accepts_per_s_max=20"]);
    let waiting: Vec<Raw> = (0..12).map(|_| Raw::connect(broker.address)).collect();
    log.wait_for("accepting waits: limits.accepts_per_s_max is reached");
    for mut raw in waiting {
        raw.send(UPGRADE.as_bytes());
        raw.expect_upgraded();
    }
    assert_eq!(closes(&broker, "try_again_later"), 0.0);
    broker.stop();
}

/// Ten levels pass and eleven do not, `#` counts, and without `+` there may be 32. A reload changes that for who is
/// there; what it has stays.
#[test]
fn a_filter_with_a_plus_has_no_more_levels_than_it_may() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plus.toml");
    let write = |text: &str| fs::write(&file, text).unwrap();
    write("");
    let (broker, _log) = Broker::start_logged(2, &[], |command| {
        command.arg("--config").arg(&file);
    });
    let mut raw = Raw::open(broker.address);
    let mut subscribe =
        |topic: &str| raw.ask(&json!({"op": "subscribe", "topic": topic, "id": 1}).to_string());
    let plus = |count: usize, last: &str| "+/".repeat(count - 1) + last;
    let refused = |answer: Value, levels: usize, levels_max: usize| {
        let message = format!(
            "a filter with + has at most {levels_max} levels, this one has {levels} (limits.plus_levels_max)"
        );
        assert_eq!((&answer["code"], &answer["message"]), (&json!("limit_reached"), &json!(message)));
    };
    for filter in [plus(10, "x"), plus(10, "#"), "a/".repeat(31) + "#", "a/".repeat(31) + "x"] {
        assert_eq!(subscribe(&filter)["op"], "ok", "{filter}");
    }
    for filter in [plus(11, "x"), plus(11, "#"), "a/".repeat(10) + "+"] {
        refused(subscribe(&filter), 11, 10);
    }

    write("[limits]\nplus_levels_max = 3\n");
    broker.reload();
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 1"#);
    refused(subscribe("a/b/+/#"), 4, 3);
    assert_eq!(subscribe("a/+/#")["op"], "ok");
    let mut publisher = Raw::open(broker.address);
    let topic = "b/".repeat(9) + "x";
    let publish = json!({"op": "publish", "topic": topic, "data": 1, "id": 1}).to_string();
    assert_eq!(publisher.ask(&publish)["op"], "ok");

    write("[limits]\nplus_levels_max = 32\n");
    broker.reload();
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 2"#);
    // What it had before the first reload matched in between.
    let mut received = vec![subscribe(&plus(32, "x"))];
    while received.len() < 2 {
        received.push(raw.receive());
    }
    let of =
        |op: &str| received.iter().find(|it| it["op"] == op).unwrap_or_else(|| panic!("{op}: {received:?}"));
    assert_eq!((&of("message")["topic"], &of("ok")["topic"]), (&json!(topic), &json!(plus(32, "x"))));
    raw.close();
    publisher.close();
    broker.stop();
}

/// A frame may be shorter than a message: whole in pieces is taken, in one piece it is not.
#[test]
fn a_frame_may_be_bounded_below_a_message() {
    let broker = Broker::start(1, &["limits.frame_bytes_max=1000"]);
    let publish = json!({"op": "publish", "topic": "t", "data": "x".repeat(5_000), "id": 1}).to_string();
    let mut raw = Raw::open(broker.address);
    let pieces: Vec<&[u8]> = publish.as_bytes().chunks(1_000).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = if index == 0 { TEXT } else { CONTINUATION };
        raw.send(&fragment(opcode, index + 1 == pieces.len(), piece));
    }
    assert_eq!(raw.receive()["op"], "ok");
    raw.send(&header(TEXT, true, 1_001));
    let (code, text) = raw.receive_close();
    assert_eq!((code, &text[..]), (1009, "a frame must not be longer than limits.frame_bytes_max"));
    raw.answer_close(1009);
    broker.stop();
}

/// The operator takes descriptors away while the broker runs: accepting stops, says so, does not spin, and goes
/// on by itself.
#[test]
fn running_out_of_descriptors_pauses_accepting() {
    // An accept keeps the limit that it was armed under; with a rate each is armed anew.
    let (broker, log) = start_logged(1, &["limits.accepts_per_s_max=1000000"]);
    let held: Vec<Raw> = (0..20).map(|_| Raw::open(broker.address)).collect();
    broker.limit_descriptors(40);
    let waiting: Vec<Raw> = (0..40).map(|_| Raw::connect(broker.address)).collect();
    log.wait_for("accepting stops for want of file descriptors");
    drop(held);
    broker.limit_descriptors(1_000);
    for mut raw in waiting {
        raw.send(UPGRADE.as_bytes());
        raw.expect_upgraded();
    }
    // The admin listener had none either, so only now.
    let stops = sum(&broker, "fanfare_no_descriptors_total", "");
    assert!((1.0..300.0).contains(&stops), "{stops}");
    broker.stop();
    assert_eq!(log.count_to_end("want of file descriptors"), 0, "one line is enough");
}
