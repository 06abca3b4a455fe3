//! Tenants of one broker: each is as if it had the broker for itself.

use serde_json::{Value, json};

use super::{
    auth::{BOTH, Tokens, new_token_of, publish, subscribe},
    rights::{Issuer, config_file, start_with, wait_for_reload},
};
use crate::common::{
    Broker,
    client::{Body, Client, Language, Received},
};

const ROLES: &str = r##"roles={ all = { publish = ["#"], subscribe = ["#"] } }"##;
const TENANTS: &str = "tenants={ acme = {}, globex = {} }";
const TOPICS: &str = r#"topic=[{ match = "kept/#", history_count = 10 }, { match = "value/#", last_value = true }, { match = "keyed/#", last_value = "/k" }]"#;

/// A message as it would be JSON, without what is of this broker or this moment.
fn receive(client: &mut Client) -> Value {
    let epoch = client.hello["epoch"].as_str().expect("a hello has an epoch").to_owned();
    let value = match client.language {
        Language::Json => client.receive(),
        Language::Binary => {
            let Body { kind, flags, seq, ext, topic, payload } = Body::parse(&client.receive_bytes());
            // A history is bytes in which the epoch is a text.
            let text = || json!(String::from_utf8_lossy(&payload));
            let payload = serde_json::from_slice(&payload).unwrap_or_else(|_| text());
            json!({"kind": kind, "flags": flags, "seq": seq, "ext": ext, "topic": topic, "payload": payload})
        }
    };
    serde_json::from_str(&value.to_string().replace(&epoch, "EPOCH")).unwrap()
}

/// Somebody who publishes, and somebody who receives.
struct Party {
    publisher: Client,
    reader: Client,
    /// What the reader comes back by.
    at: Value,
    told: Vec<Value>,
}

impl Party {
    fn new(broker: &Broker, language: Language, token: Option<&str>) -> Party {
        let open = |language| match token {
            Some(token) => Client::open_as(broker, language, token),
            None => Client::open(broker, language),
        };
        Party { publisher: open(Language::Json), reader: open(language), at: Value::Null, told: Vec::new() }
    }

    /// Has the one or the other give a command, of which so many messages come to either.
    fn step(&mut self, Step { is_reader, command, published, read }: &Step) {
        let mut command = command.clone();
        if command["since"]["at"] == "AT" {
            command["since"]["at"] = self.at.clone();
            let epoch = self.reader.hello["epoch"].as_str().unwrap().to_owned();
            let listed = command["since"]["epochs"]["EPOCH"].take();
            command["since"]["epochs"] = json!({epoch: listed});
        }
        if *is_reader {
            self.reader.send(command)
        } else {
            self.publisher.send(command)
        }
        let first = self.told.len();
        for count in 0..published + read {
            let client = if count < *published { &mut self.publisher } else { &mut self.reader };
            let mut told = receive(client);
            for place in ["", "/payload"] {
                // Of other parties as well: when anything was published to any of them.
                if let Some(at) = told.pointer_mut(place).and_then(|it| it.get_mut("at")) {
                    self.at = json!(
                        at.take()
                            .as_str()
                            .unwrap()
                            .replace("EPOCH", self.publisher.hello["epoch"].as_str().unwrap())
                    );
                }
            }
            self.told.push(told);
        }
        // Of several topics they come as their homes are.
        self.told[first + published..].sort_by_key(Value::to_string);
    }

    fn end(mut self) -> Vec<Value> {
        for client in [&mut self.publisher, &mut self.reader] {
            assert_eq!(client.ask(json!({"op": "ping", "id": 9}))["op"], "pong", "nothing else comes");
        }
        self.publisher.close();
        self.reader.close();
        self.told
    }
}

struct Step {
    is_reader: bool,
    command: Value,
    published: usize,
    read: usize,
}

/// Every way to receive something, and to be told of a topic.
fn script() -> Vec<Step> {
    let publish = |topic: &str, data: Value, more: Value, read: usize| {
        let mut command = json!({"op": "publish", "topic": topic, "data": data, "id": 1});
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Step { is_reader: false, command, published: 1, read }
    };
    let read = |op: &str, topic: &str, more: Value, read: usize| {
        let mut command = json!({"op": op, "topic": topic, "id": 2});
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Step { is_reader: true, command, published: 0, read }
    };
    let none = || json!({});
    let many = (1..=12).map(|count| json!({"op": "publish", "topic": "kept/9", "data": count}));
    let mut many: Vec<Value> = many.collect();
    many[11]["id"] = json!(3);
    vec![
        publish("kept/1", json!("a"), none(), 0),
        publish("kept/2", json!("b"), none(), 0),
        publish("kept/1", json!("c"), none(), 0),
        read("subscribe", "kept/1", json!({"last": 2}), 3),
        publish("kept/1", json!("d"), none(), 1),
        read("subscribe", "kept/#", none(), 1),
        publish("kept/1", json!("e"), none(), 1),
        publish("kept/3", json!("f"), none(), 1),
        read("unsubscribe", "kept/#", none(), 1),
        read("unsubscribe", "kept/1", none(), 1),
        publish("kept/1", json!("unheard"), none(), 0),
        read("subscribe", "#", none(), 1),
        publish("a", json!("by a wildcard"), none(), 1),
        publish("$a", none(), none(), 0),
        read("unsubscribe", "#", none(), 1),
        publish("value/1", json!("value"), none(), 0),
        read("subscribe", "value/1", none(), 2),
        publish("keyed/1", json!({"k": "a", "n": 1}), none(), 0),
        publish("keyed/1", json!({"k": "b", "n": 2}), none(), 0),
        publish("keyed/1", json!({"k": "a", "n": 3}), none(), 0),
        read("subscribe", "keyed/1", none(), 3),
        read("history", "kept/1", json!({"limit": 10}), 1),
        read("history", "a", json!({"limit": 10}), 1),
        read("subscribe", "kept/+", json!({"last": 1}), 5),
        read("unsubscribe", "kept/+", none(), 1),
        publish("kept/2", json!("while away"), none(), 0),
        read("subscribe", "kept/+", json!({"since": {"at": "AT", "epochs": {"EPOCH": {}}}}), 3),
        publish("kept/1", json!("counted"), json!({"receivers": true}), 1),
        publish("kept/1", json!("once"), json!({"key": "k"}), 1),
        publish("kept/1", json!("once"), json!({"key": "k"}), 0),
        publish("a", none(), json!({"retain": true}), 0),
        read("unsubscribe", "kept/+", none(), 1),
        Step { is_reader: false, command: Value::from(many), published: 1, read: 0 },
        read("subscribe", "kept/9/#", json!({"since": {"at": "AT", "epochs": {"EPOCH": {"kept/9": 1}}}}), 13),
        read("subscribe", "kept/9", json!({"last": 1}), 1),
        read("subscribe", "\0globex/kept/1", none(), 1),
        read("subscribe", "\0globex/#", none(), 1),
        read("unsubscribe", "\0globex/kept/1", none(), 1),
        read("unsubscribe", "\0globex/#", none(), 1),
        read("unsubscribe", "\0", none(), 1),
        read("history", "\0acme/kept/1", json!({"limit": 10}), 1),
        publish("\0acme/kept/1", none(), none(), 0),
        read("subscribe", "a.>", none(), 1),
    ]
}

/// The naive twin of tenants is a broker for each.
#[test]
fn each_is_told_what_it_would_be_if_it_were_alone() {
    let [acme, globex] = ["acme", "globex"].map(|tenant| new_token_of("bob", &["all"], tenant));
    let (nobody_s, entry) = new_token_of("bob", &["all"], "");
    let tokens = Tokens::new("tenants", &[&acme.1, &globex.1, &entry]);
    for (reactors, language) in [(1, BOTH[0]), (2, BOTH[0]), (2, BOTH[1])] {
        let lone = Broker::start(1, &[TOPICS]);
        let shared = Broker::start(reactors, &[&tokens.setting(), ROLES, TENANTS, TOPICS]);
        let mut alone = Party::new(&lone, language, None);
        let of_shared =
            [&acme.0, &globex.0, &nobody_s].map(|token| Party::new(&shared, language, Some(token)));
        let mut parties = of_shared;
        for step in script() {
            alone.step(&step);
            parties.iter_mut().for_each(|party| party.step(&step));
        }
        let expected = alone.end();
        assert!(expected.iter().any(|it| it.to_string().contains("retention")), "a gap is told");
        for (party, of) in parties.into_iter().zip(["acme", "globex", "nobody"]) {
            let told = party.end();
            for (told, expected) in told.iter().zip(&expected) {
                assert_eq!(told, expected, "{of} on {reactors} reactors");
            }
            assert_eq!(told.len(), expected.len());
        }
        // Each topic is there once for each of them.
        assert_eq!(shared.total("fanfare_topics", ""), 3.0 * lone.total("fanfare_topics", ""));
        lone.stop();
        shared.stop();
    }
}

/// Of all of its users together, over all reactors; others have theirs.
#[test]
fn a_tenant_has_and_publishes_as_much_as_it_may() {
    let [bob, eve] = ["bob", "eve"].map(|user| new_token_of(user, &["all"], "acme"));
    let other = new_token_of("bob", &["all"], "globex");
    let tokens = Tokens::new("tenants-quota", &[&bob.1, &eve.1, &other.1]);
    let roles = "all = { publish = [\"#\"], subscribe = [\"#\"] }\n[tenants]\nglobex = {}\n";
    let limited = format!("{roles}acme = {{ connections_max = 2, bytes_per_s_max = 1_024 }}\n");
    for reactors in [1, 2] {
        let name = format!("tenants-quota-{reactors}.toml");
        let config = config_file(&name, &limited);
        let broker = start_with(&config, reactors, &[&tokens.setting()]);
        let mut held = [&bob, &eve].map(|(token, _)| Client::open_as(&broker, Language::Json, token));
        for (token, _) in [&bob, &eve] {
            let mut late =
                Client::upgrade(&broker, Language::Binary, &format!("/ws?access_token={token}"), &[]);
            let Received::Close(4029, text) = late.receive_any() else { panic!("it is one too many") };
            assert_eq!(text, "this tenant has as many connections as its connections_max allows");
        }
        let mut others = [(); 3].map(|()| Client::open_as(&broker, Language::Binary, &other.0));
        let long = json!({"op": "publish", "topic": "t", "data": "x".repeat(500_000), "id": 1});
        assert_eq!(held[0].ask(long)["op"], "ok");
        for client in &mut held {
            let refused = publish(client, "t", 2);
            assert_eq!(
                (&refused["code"], &refused["for"]),
                (&json!("rate_limited"), &json!("publish")),
                "{refused}"
            );
            assert!(refused["retry_after_ms"].as_u64().expect("when") > 300_000);
        }
        for client in &mut others {
            assert_eq!(publish(client, "t", 2)["op"], "ok");
        }
        broker.wait_for_total("fanfare_closes_total", ",reason=\"tenant_limit\"", |total| total == 2.0);
        // Without the limits all goes on.
        config_file(&name, &format!("{roles}acme = {{}}\n"));
        wait_for_reload(&broker, "applied", 1);
        let mut more = [(); 3].map(|()| Client::open_as(&broker, Language::Json, &bob.0));
        more.iter_mut().chain(&mut held).for_each(|client| assert_eq!(publish(client, "t", 3)["op"], "ok"));
        held.into_iter().chain(more).chain(others).for_each(Client::close);
        broker.stop();
    }
}

/// Of a reader that takes too little, of one tenant: the gap is told by the name that it knows.
#[test]
fn a_gap_names_a_topic_as_its_clients_do() {
    let acme = new_token_of("bob", &["all"], "acme");
    let tokens = Tokens::new("tenants-gap", &[&acme.1]);
    let settings = [
        &*tokens.setting(),
        ROLES,
        TENANTS,
        "delivery.slow_consumer=skip",
        "delivery.owed_bytes_max=131072",
        "limits.message_bytes_max=65536",
        "listen.sndbuf_bytes=65536",
    ];
    let broker = Broker::start(2, &settings);
    let mut publisher = Client::open_as(&broker, Language::Json, &acme.0);
    let mut reader = Client::open_as(&broker, Language::Json, &acme.0);
    assert_eq!(subscribe(&mut reader, "t/#")["op"], "ok");
    let data = "x".repeat(60_000);
    let mut count = 0;
    while broker.total("fanfare_skipped_total", "") == 0.0 {
        count += 1;
        let command = json!({"op": "publish", "topic": "t/1", "data": data, "id": count});
        assert_eq!(publisher.ask(command)["op"], "ok");
    }
    let gap = loop {
        let message = reader.receive();
        if message["op"] == "gap" {
            break message;
        }
        assert_eq!(message["topic"], "t/1");
    };
    assert_eq!((&gap["topic"], &gap["reason"]), (&json!("t/1"), &json!("slow_consumer")), "{gap}");
    drop((publisher, reader));
    broker.stop();
}

#[test]
fn a_signed_token_says_of_which_tenant_it_is_where_its_issuer_may() {
    let issuer = Issuer::new("tenants-jwt");
    for (more, claim, expected) in [
        (", tenants = true", json!({"tenant": "acme"}), Ok(Some("acme"))),
        (", tenants = true", json!({"tenant": "initech"}), Err("unknown_tenant")),
        (", tenants = true", json!({"tenant": "\u{0}acme"}), Err("bad_grants")),
        (", tenants = true", json!({}), Err("bad_grants")),
        (", tenant = \"acme\"", json!({}), Ok(Some("acme"))),
        (", tenant = \"acme\"", json!({"tenant": "globex"}), Err("bad_grants")),
        ("", json!({"tenant": "acme"}), Err("bad_grants")),
        ("", json!({}), Ok(None)),
    ] {
        let acme = new_token_of("eve", &["all"], "acme");
        let tokens = Tokens::new("tenants-jwt-static", &[&acme.1]);
        let roles = r##"roles={ all = { publish = ["#"], subscribe = ["#"] }, chat = { publish = ["#"] } }"##;
        let setting = issuer.setting().replace(" }]", &format!("{more} }}]"));
        let broker = Broker::start(2, &[&tokens.setting(), &setting, roles, TENANTS]);
        let mut reader = Client::open_as(&broker, Language::Binary, &acme.0);
        assert_eq!(subscribe(&mut reader, "#")["op"], "ok");
        let token = issuer.token("bob", 600, json!({"fanfare": claim}));
        let path = format!("/ws?access_token={token}");
        let mut client = Client::upgrade(&broker, Language::Json, &path, &[]);
        match expected {
            Ok(tenant) => {
                assert_eq!(client.receive()["user"], "bob");
                assert_eq!(publish(&mut client, "t", 7)["op"], "ok");
                let mut other = Client::open_as(&broker, Language::Json, &acme.0);
                assert_eq!(publish(&mut other, "t", 8)["op"], "ok");
                if tenant.is_some() {
                    assert_eq!(reader.receive_body().payload, b"7");
                }
                assert_eq!(reader.receive_body().payload, b"8");
                [client, other].into_iter().for_each(Client::close);
            }
            Err(reason) => {
                assert_eq!(client.receive_any(), Received::Close(4001, "unauthorized".into()), "{reason}");
                drop(client);
                let labels = format!(",reason=\"{reason}\"");
                assert_eq!(broker.total("fanfare_credentials_refused_total", &labels), 1.0, "{reason}");
            }
        }
        reader.close();
        broker.stop();
    }
}

#[test]
fn whoever_is_nobody_becomes_of_a_tenant_before_the_first_subscription() {
    let acme = new_token_of("bob", &["all"], "acme");
    let globex = new_token_of("bob", &["all"], "globex");
    let tokens = Tokens::new("tenants-auth", &[&acme.1, &globex.1]);
    let broker = Broker::start(2, &[&tokens.setting(), ROLES, TENANTS, "auth.anonymous_roles=[\"all\"]"]);
    let auth = |token: &str| json!({"op": "auth", "token": token, "id": 5});
    for language in BOTH {
        let mut client = Client::open(&broker, language);
        assert_eq!(subscribe(&mut client, "t")["op"], "ok");
        let refused = client.ask(auth(&acme.0));
        assert_eq!((&refused["code"], &refused["for"]), (&json!("forbidden"), &json!("auth")), "{refused}");
        client.close();
        let mut client = Client::open(&broker, language);
        assert_eq!(client.ask(auth(&acme.0))["user"], "bob");
        assert_eq!(subscribe(&mut client, "t")["op"], "ok");
        let mut stranger = Client::open(&broker, Language::Json);
        assert_eq!(publish(&mut stranger, "t", 1)["op"], "ok");
        let mut same = Client::open_as(&broker, Language::Json, &acme.0);
        assert_eq!(publish(&mut same, "t", 2)["op"], "ok");
        match language {
            Language::Json => assert_eq!(client.receive()["data"], 2),
            Language::Binary => assert_eq!(client.receive_body().payload, b"2"),
        }
        // And stays it.
        let mut other = Client::open_as(&broker, language, &globex.0);
        let refused = other.ask(auth(&acme.0));
        assert_eq!((&refused["code"], &refused["for"]), (&json!("forbidden"), &json!("auth")), "{refused}");
        [client, stranger, same, other].into_iter().for_each(Client::close);
    }
    broker.stop();
}

/// What it was subscribed to by the same names would be other topics.
#[test]
fn whose_tenant_becomes_another_is_closed() {
    let (token, entry) = new_token_of("bob", &["all"], "acme");
    let (other, other_entry) = new_token_of("bob", &["all"], "globex");
    let tokens = Tokens::new("tenants-reload", &[&entry, &other_entry]);
    let roles = "all = { publish = [\"#\"], subscribe = [\"#\"] }\n[tenants]\nacme = {}\nglobex = {}\n";
    let config = config_file("tenants-reload.toml", roles);
    let broker = start_with(&config, 2, &[&tokens.setting()]);
    let mut client = Client::open_as(&broker, Language::Json, &token);
    let mut kept = Client::open_as(&broker, Language::Json, &other);
    assert_eq!(subscribe(&mut kept, "#")["op"], "ok");
    tokens.write(&[&entry.replace("acme", "globex"), &other_entry]);
    wait_for_reload(&broker, "applied", 1);
    assert_eq!(client.receive_any(), Received::Close(4001, "the token is not accepted any more".into()));
    let mut client = Client::open_as(&broker, Language::Json, &token);
    assert_eq!(publish(&mut client, "t", 3)["op"], "ok");
    assert_eq!(kept.receive()["data"], 3);
    // A tenant that there is not any more lets nobody in.
    config_file("tenants-reload.toml", "all = {}\n[tenants]\nacme = {}\n");
    wait_for_reload(&broker, "refused", 1);
    tokens.write(&[&entry]);
    wait_for_reload(&broker, "applied", 2);
    for mut client in [client, kept] {
        assert_eq!(client.receive_any(), Received::Close(4001, "the token is not accepted any more".into()));
    }
    broker.stop();
}
