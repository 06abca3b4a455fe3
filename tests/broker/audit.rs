//! What clients did, in the log: who, from where and why, and never what they brought.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    auth::{BOTH, ROLES, Tokens, assert_forbidden, new_token, publish, subscribe},
    revocations::{Operators, revoke},
    rights::Issuer,
};
use crate::common::{
    Broker, Log,
    client::{Client, Language, Received},
    raw::{Raw, UPGRADE},
};

/// A token of this header and these claims, which nobody signed.
fn unsigned(header: &str, claims: &str) -> String {
    // As long as one of HS256.
    let [header, claims, signature] =
        [header, claims, "canary-signature-of-32-bytes----"].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{claims}.{signature}")
}

/// Brings it with a request, and is told that it was not accepted.
fn refused(broker: &Broker, token: &str) {
    let authorization = format!("Bearer {token}");
    let mut client = Client::upgrade(broker, Language::Json, "/ws", &[("authorization", &authorization)]);
    assert_eq!(client.receive_any(), Received::Close(4001, "unauthorized".into()));
}

fn audited(log: &Log, text: &str, parts: &[&str]) {
    let line = log.wait_for(text);
    for part in ["INFO fanfare::audit"].iter().chain(parts) {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

#[test]
fn who_was_not_let_in_is_told_with_what_the_token_says_of_whose_it_is() {
    let issuer = Issuer::new("audit-issuer");
    let settings = [&issuer.setting(), ROLES, "auth.failure_delay_ms=0", "log.level=info"];
    let (broker, log) = Broker::start_logged(1, &settings, |_| {});
    let from = "address=127.0.0.1";
    refused(&broker, "canary");
    audited(&log, "auth failed", &[from, "reason=\"malformed\""]);
    refused(&broker, &unsigned(r#"{"alg":"HS256","kid":"k1"}"#, r#"{"iss":"login","sub":"canary-user"}"#));
    audited(&log, "auth failed", &[from, "reason=\"wrong_audience\"", "issuer=\"login\"", "kid=\"k1\""]);
    // What could be another line, or colours, and what is too long.
    let header = json!({"alg": "HS256", "kid": format!("a\nb\u{1b}[31m{}", "c".repeat(200))}).to_string();
    refused(&broker, &unsigned(&header, r#"{"iss":"evil","canary-claim":1}"#));
    audited(&log, "auth failed", &["reason=\"unknown_issuer\"", "kid=\"a\\nb\\u{1b}[31mccc", "c…\""]);
    // Of an issuer that there is not nothing is told, of its claims neither.
    broker.terminate();
    for line in log.rest() {
        assert!(!line.contains("evil") && !line.contains("canary"), "{line}");
    }
}

#[test]
fn a_connection_that_asks_for_what_it_may_not_is_told_of_once() {
    let (token, entry) = new_token("b\"ob", &["chat"]);
    let tokens = Tokens::new("audit-forbidden", &[&entry]);
    let (broker, log) = Broker::start_logged(1, &[&tokens.setting(), ROLES], |_| {});
    for language in BOTH {
        let mut client = Client::open_as(&broker, language, &token);
        assert_forbidden(&publish(&mut client, "other/1", 1), "publish", "other/1");
        for topic in ["other/2", "other/3"] {
            assert_forbidden(&subscribe(&mut client, topic), "subscribe", topic);
        }
        client.close();
        let parts = ["address=127.0.0.1", "reason=\"publish\"", r#"user="b\"ob""#, "filter=\"other/1\""];
        audited(&log, "forbidden", &parts);
    }
    broker.terminate();
    assert_eq!(log.count_to_end("fanfare::audit"), 0);
}

#[test]
fn whoever_is_closed_for_a_revocation_is_told() {
    let (token, entry) = new_token("bob", &["chat"]);
    let (tokens, operators) = (Tokens::new("audit-revoked", &[&entry]), Operators::new("audit-revoked-ops"));
    let settings = [&tokens.setting(), ROLES, &operators.setting()];
    let (broker, log) = Broker::start_logged(2, &settings, |_| {});
    let mut client = Client::open_as(&broker, Language::Json, &token);
    revoke(&broker, &operators, json!({"user": "bob"}));
    assert_eq!(client.receive_any(), Received::Close(4003, "this user is blocked".into()));
    audited(&log, "closed, blocked", &["address=127.0.0.1", "user=\"bob\""]);
    tokens.write(&[]);
    broker.reload();
    audited(&log, "rights read again", &["roles=3", "issuers=0", "asked=true"]);
    broker.stop();
}

/// However many bring what is none, and however fast.
#[test]
fn a_flood_of_bad_tokens_has_few_lines_and_each_is_counted() {
    const COUNT: usize = 2_000;
    let tokens = Tokens::new("audit-flood", &[]);
    let settings = [&tokens.setting(), "auth.failure_delay_ms=0", "auth.deadline_ms=60000"];
    let (broker, log) = Broker::start_logged(2, &settings, |_| {});
    let request = UPGRADE.replace("/ws", "/ws?access_token=canary");
    for _ in 0..COUNT / 50 {
        let clients: Vec<Raw> = (0..50)
            .map(|_| {
                let mut raw = Raw::connect(broker.address);
                raw.send(request.as_bytes());
                raw
            })
            .collect();
        for mut raw in clients {
            raw.receive_head();
            assert_eq!(raw.receive_frame().unwrap().0, 8);
        }
    }
    broker.wait_for_total("fanfare_credentials_refused_total", ",reason=\"malformed\"", |it| {
        it == COUNT as f64
    });
    // The sum of the last second is said when the next one has begun.
    let (mut lines, mut told) = (0, 0);
    while told < COUNT {
        let line = log.wait_for("auth failed");
        lines += 1;
        told += match line.contains("not told one by one") {
            true => line.rsplit("count=").next().unwrap().trim().parse().unwrap(),
            false => 1,
        };
    }
    assert_eq!(told, COUNT);
    assert!(lines < COUNT / 4, "{lines} lines");
    let metrics = broker.metrics();
    assert!(metrics.contains("\nfanfare_audit_dropped_total{event=\"auth_failed\"} "), "{metrics}");
    broker.stop();
}
