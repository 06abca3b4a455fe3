//! SIGHUP changes what can change while connections stay.

use std::{fs, io::Read, path::PathBuf};

use serde_json::json;

use crate::common::{
    Broker, Log,
    raw::{Raw, UPGRADE},
    witness::Witness,
};

/// A configuration file that is rewritten.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let file = File(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }
}

fn start(reactors: usize, settings: &[&str], file: &File) -> (Broker, Log) {
    Broker::start_logged(reactors, settings, |command| {
        command.arg("--config").arg(&file.0);
    })
}

fn subscribe(raw: &mut Raw, topic: &str) -> serde_json::Value {
    raw.ask(&json!({"op": "subscribe", "topic": topic, "id": 1}).to_string())
}

/// A limit, a timeout and the log's level are lowered and hold for a connection that was there before; what
/// needs a restart is named and stays; then a broken file changes nothing.
#[test]
fn a_reload_changes_what_it_can_and_drops_nobody() {
    let file = File::new("reload.toml", "[limits]\nsubscriptions_max = 10\n");
    let (broker, log) = start(2, &["limits.header_bytes_max=2048"], &file);
    let witness = Witness::start(&broker);
    let mut raw = Raw::open(broker.address);
    for topic in ["a", "b"] {
        assert_eq!(subscribe(&mut raw, topic)["op"], "ok");
    }

    file.write(
        "[listen]\nbacklog = 77\n[limits]\nsubscriptions_max = 2\nheader_bytes_max = 4096\n\
         topics_max = 9\njson_depth_max = 1\n[timeouts]\nping_ms = 9000\n[log]\nlevel = \"warn\"\n",
    );
    broker.reload();
    let line = log.wait_for("needs a restart");
    assert!(line.contains("listen.backlog = 4096 → 77 needs a restart"), "{line}");
    let line = log.wait_for("needs a restart");
    assert!(line.contains("limits.topics_max = 262_144 → 9 needs a restart"), "{line}");
    // Reactors take it up one after the other, at once.
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 1"#);
    let refused = subscribe(&mut raw, "c");
    assert_eq!(
        (&refused["code"], &refused["message"]),
        (&json!("limit_reached"), &json!("a connection has at most 2 subscriptions"),)
    );
    let refused = raw.ask(r#"{"op":"publish","topic":"z","data":[[1]],"id":2}"#);
    assert_eq!((&refused["code"], &refused["id"]), (&json!("bad_message"), &json!(2)));
    let mut new = Raw::connect(broker.address);
    new.send(crate::common::raw::UPGRADE.as_bytes());
    new.receive_head();
    assert_eq!(new.receive()["ping_s"], 9);

    for (text, why) in [
        ("[limits]\nsubscriptions_max = 0\n", "reload.toml:2: limits.subscriptions_max = 0 is not allowed"),
        ("[limits]\nsubscriptions_min = 1\n", "there is no key limits.subscriptions_min"),
        ("[limits\n", "not valid TOML"),
    ] {
        file.write(text);
        broker.reload();
        let line = log.wait_for("not reloaded, the configuration is as it was: ");
        assert!(line.contains(why), "{line}");
    }
    fs::remove_file(&file.0).unwrap();
    broker.reload();
    log.wait_for("cannot read the configuration file");
    broker.wait_for_metric(r#"fanfare_reloads_total{result="refused"} 4"#);
    assert_eq!(subscribe(&mut raw, "c")["code"], "limit_reached");
    raw.close();
    new.close();
    witness.finish();
    broker.stop();
    assert_eq!(log.count_to_end("INFO"), 0, "the level was raised to warn");
}

/// What is compared, and what a drain goes by, is what runs and not what the broker began with.
#[test]
fn a_reload_goes_on_from_the_one_before() {
    let drain_ms = |ms: u32| format!("[timeouts]\ndrain_ms = {ms}\n");
    let file = File::new("again.toml", &drain_ms(2_000));
    let (broker, log) = start(1, &[], &file);
    for (ms, line) in [
        (3_000, "reloaded: timeouts.drain_ms = 2000 → 3000"),
        (3_000, "reloaded: nothing has changed"),
        (4_000, "reloaded: timeouts.drain_ms = 3000 → 4000"),
    ] {
        file.write(&drain_ms(ms));
        broker.reload();
        let said = log.wait_for("reloaded: ");
        assert!(said.ends_with(line), "{said}");
    }
    broker.terminate();
    log.wait_for("draining; a second signal exits at once timeout_ms=4000");
    broker.wait();
}

/// Views that are there judge by the new policy: a subscriber that takes nothing is disconnected at first,
/// and skips after the reload.
#[test]
fn a_reload_changes_the_policy_of_topics_that_are_there() {
    for (policy, line) in [
        ("[delivery]\nslow_consumer = \"skip\"\n", r#"delivery.slow_consumer = "disconnect" → "skip""#),
        (
            "[[topic]]\nmatch = \"+\"\nslow_consumer = \"skip\"\n",
            r#"topic = [] → [{ match = "+", slow_consumer = "skip" }]"#,
        ),
    ] {
        reload_to_skip(policy, line);
    }
}

/// With the file `policy`, which is told of as `line`.
fn reload_to_skip(policy: &str, line: &str) {
    let file = File::new("policy.toml", "");
    let settings =
        ["limits.message_bytes_max=65536", "delivery.owed_bytes_max=131072", "listen.sndbuf_bytes=65536"];
    let (broker, log) = start(1, &settings, &file);
    let mut slow = Raw::connect_small(broker.address, 32 << 10).upgraded();
    assert_eq!(subscribe(&mut slow, "t")["seq"], 0);
    file.write(policy);
    broker.reload();
    let said = log.wait_for("reloaded: ");
    assert!(said.ends_with(line), "{said}");
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 1"#);
    let mut publisher = Raw::open(broker.address);
    let command = json!({"op": "publish", "topic": "t", "data": "x".repeat(8 << 10), "id": 1}).to_string();
    for seq in 1..=512 {
        assert_eq!(publisher.ask(&command)["seq"], seq);
    }
    loop {
        let received = slow.receive();
        if received["op"] == "gap" {
            break;
        }
        assert_eq!(received["op"], "message", "{received}");
    }
    broker.stop();
}

/// By which names the broker is reached, and from which pages, before a reload and after it.
#[test]
fn names_and_pages_are_those_that_the_configuration_says() {
    let file = File::new("site.toml", "");
    let (broker, log) = start(1, &[], &file);
    let port = broker.address.port();
    let asked = [
        ("localhost", format!("http://localhost:{port}")),
        ("localhost", "http://app.localhost:3000".to_owned()),
        ("push.example.org", "https://push.example.org".to_owned()),
        ("push.example.org", "https://app.example.org".to_owned()),
        ("push.example.org", "https://evil.example".to_owned()),
        ("127.0.0.1", "null".to_owned()),
    ];
    let statuses = || {
        asked.each_ref().map(|(host, origin)| {
            let request = UPGRADE.replace(
                "Host: localhost",
                &format!(
                    "Host: {}\r\nOrigin: {origin}",
                    host.replace("localhost", &format!("localhost:{port}"))
                ),
            );
            let mut raw = Raw::connect(broker.address);
            raw.send_while_taken(request.as_bytes(), usize::MAX);
            let mut start = [0; 12];
            raw.stream.read_exact(&mut start).unwrap();
            str::from_utf8(&start[9..]).unwrap().parse::<u16>().unwrap()
        })
    };
    assert_eq!(statuses(), [101, 101, 421, 421, 421, 403]);
    log.wait_for("pages are refused with 403");
    file.write(
        "[listen]\nhosts = [\"push.example.org\", \"localhost\"]\norigins = [\"https://app.example.org\"]\n",
    );
    broker.reload();
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 1"#);
    assert_eq!(statuses(), [101, 101, 101, 101, 403, 421]);
    broker.wait_for_metric(r#"fanfare_closes_total{reactor="0",reason="host_refused"} 4"#);
    broker.wait_for_metric(r#"fanfare_closes_total{reactor="0",reason="origin_refused"} 2"#);
    broker.stop();
}
