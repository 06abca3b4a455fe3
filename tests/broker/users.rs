//! Who publishes: what messages say of that, which topics want to know, whose a key is; and how much a user may have.

use serde_json::{Value, json};

use super::{
    auth::{BOTH, ROLES, Tokens, assert_forbidden, new_token, publish, subscribe},
    rights::{Issuer, config_file, start_with, wait_for_reload},
};
use crate::common::{
    Broker, broker_command,
    client::{Body, Client, EXT_FLAG, Language, Received},
};

const GUESTS: &str = "auth.anonymous_roles=[\"live\"]";

/// Who published a message, and its data.
fn told(message: &[u8], language: Language) -> (Option<String>, Value) {
    if language == Language::Json {
        let message: Value = serde_json::from_slice(message).expect("JSON");
        assert_eq!(message["op"], "message");
        return (message["user"].as_str().map(str::to_owned), message["data"].clone());
    }
    let body = Body::parse(message);
    assert_eq!((body.kind, body.flags & 1), (2, 1));
    let user = (body.flags & EXT_FLAG != 0).then(|| {
        let (head, user) = body.ext.split_at(3);
        assert_eq!(head, [3, 0, user.len() as u8], "a user, and nothing else");
        String::from_utf8(user.to_vec()).expect("UTF-8")
    });
    (user, serde_json::from_slice(&body.payload).expect("JSON"))
}

/// Publishes with a key, and gives the `seq` that is told, and whether it is of one before.
fn publish_once(client: &mut Client, topic: &str, key: &str) -> (u64, bool) {
    let answer = match client.language {
        Language::Json => {
            client.ask(json!({"op": "publish", "topic": topic, "data": 1, "id": 1, "key": key}))
        }
        Language::Binary => {
            let ext = [&[1, 0, key.len() as u8], key.as_bytes()].concat();
            let (topic, payload) = (topic.to_owned(), b"1".to_vec());
            client.send_body(&Body { kind: 1, flags: 1 | EXT_FLAG, seq: 1, ext, topic, payload });
            client.receive()
        }
    };
    (answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}")), answer["duplicate"] == true)
}

/// Live and from the past, in both languages, whatever it is kept in and wherever the topic's home is; and
/// whatever a publisher claims.
#[test]
fn whoever_gets_a_message_is_told_who_published_it() {
    let name = "b\"o\u{e4}\\b";
    let (token, entry) = new_token(name, &["live"]);
    let tokens = Tokens::new("users-stamps", &[&entry]);
    let roles = r##"roles={ live = { subscribe = ["#"], history = ["#"], publish = ["#"] } }"##;
    for format in ["json", "binary"] {
        let topics = format!(
            r#"topic=[{{ match = "room/#", stamp = ["user"], history_count = 100, history_format = "{format}" }},
                {{ match = "room/value/+", last_value = true, history_count = 0 }}]"#
        );
        let settings = [&tokens.setting(), roles, GUESTS, &topics];
        let broker = Broker::start(2, &settings);
        let mut named = BOTH.map(|language| Client::open_as(&broker, language, &token));
        let mut nameless = Client::open(&broker, Language::Binary);
        let mut readers = BOTH.map(|language| Client::open(&broker, language));
        for topic in ["room/1", "room/2", "room/3", "room/value/1", "room/value/2", "plain"] {
            let expected = |by: &str| (topic != "plain").then(|| by.to_owned());
            readers.iter_mut().for_each(|reader| assert_eq!(subscribe(reader, topic)["op"], "ok"));
            assert_eq!(publish(&mut nameless, topic, 1)["op"], "ok");
            // It is not its place to say so.
            let ext = [&[3, 0, 3][..], b"eve", &[4, 0, 0], &[9, 0, 0]].concat();
            let (topic_name, payload) = (topic.to_owned(), b"2".to_vec());
            nameless.send_body(&Body {
                kind: 1,
                flags: 1 | EXT_FLAG,
                seq: 2,
                ext,
                topic: topic_name,
                payload,
            });
            assert_eq!(nameless.receive()["op"], "ok");
            for (id, client) in (3..).zip(&mut named) {
                assert_eq!(publish(client, topic, id)["op"], "ok");
            }
            let all =
                [(None, json!(1)), (None, json!(2)), (expected(name), json!(3)), (expected(name), json!(4))];
            for reader in &mut readers {
                let got = [(); 4].map(|()| told(&reader.receive_bytes(), reader.language));
                assert_eq!(got, all, "{topic}");
            }
            let kept = match topic {
                "plain" => &[][..],
                _ if topic.contains("value") => &all[3..],
                _ => &all[..],
            };
            for language in BOTH {
                let mut client = Client::open(&broker, language);
                let ok = client.ask(json!({"op": "subscribe", "topic": topic, "id": 1, "last": 9}));
                assert_eq!(ok["replayed"], kept.len());
                for message in kept {
                    assert_eq!(&told(&client.receive_bytes(), language), message, "{topic}");
                }
                client.close();
            }
        }
        named.into_iter().chain(readers).chain([nameless]).for_each(Client::close);
        broker.stop();
    }
}

/// Its name is whoever it is by then.
#[test]
fn a_guest_that_says_who_it_is_is_named_from_then_on() {
    let (token, entry) = new_token("bob", &["live"]);
    let tokens = Tokens::new("users-auth", &[&entry]);
    let topics = r##"topic=[{ match = "room/#", stamp = ["user"], anonymous = false }, { match = "room/open", anonymous = true }]"##;
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[&tokens.setting(), ROLES, GUESTS, topics]);
        for language in BOTH {
            let mut client = Client::open(&broker, language);
            for topic in ["room/1", "room/2", "room/3/4", "room"] {
                assert_forbidden(&publish(&mut client, topic, 1), "publish", topic);
            }
            for topic in ["room/open", "plain"] {
                assert_eq!(publish(&mut client, topic, 1)["op"], "ok");
            }
            assert_eq!(client.ask(json!({"op": "auth", "token": token, "id": 2}))["user"], "bob");
            let mut reader = Client::open(&broker, Language::Json);
            for topic in ["room/1", "room/2", "room/3/4", "room", "room/open"] {
                subscribe(&mut reader, topic);
                assert_eq!(publish(&mut client, topic, 1)["op"], "ok");
                assert_eq!(told(&reader.receive_bytes(), Language::Json).0.as_deref(), Some("bob"));
            }
            client.close();
            reader.close();
        }
        assert_eq!(broker.total("fanfare_forbidden_total", ",action=\"publish\""), 8.0);
        broker.stop();
    }
}

/// It is told in one line, before anything listens.
#[test]
fn topics_that_want_names_where_nobody_has_one_are_refused() {
    for settings in [&[][..], &["auth.anonymous_roles=[\"all\"]", "roles={ all = {} }"]] {
        let topics = r##"topic=[{ match = "a/#", anonymous = false }]"##;
        let mut command = broker_command();
        command.args(["serve", "--set", topics]);
        settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
        let output = command.output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains("topic.anonymous = false, of match = \"a/#\", is not allowed"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

/// Over a reconnect and in either language, while whoever else has the same key publishes with it.
#[test]
fn a_key_is_its_users_own() {
    let issuer = Issuer::new("users-keys");
    let (bob, bob_entry) = new_token("bob", &["live"]);
    let (again, again_entry) = new_token("bob", &["live"]);
    let (eve, eve_entry) = new_token("eve", &["live"]);
    let tokens = Tokens::new("users-keys-static", &[&bob_entry, &again_entry, &eve_entry]);
    let grants = json!({"fanfare": {"roles": ["live"]}});
    // The same names, as somebody else knows them.
    let (signed, renewed) = (issuer.token("bob", 600, grants.clone()), issuer.token("bob", 700, grants));
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[&tokens.setting(), &issuer.setting(), ROLES, GUESTS]);
        for topic in ["t/1", "t/2", "t/3"] {
            let mut seq = 0;
            for (first, second) in [(&bob, &again), (&eve, &eve), (&signed, &renewed)] {
                seq += 1;
                for (token, is_repeat) in [(first, false), (second, true)] {
                    for (language, is_second) in [(Language::Json, false), (Language::Binary, true)] {
                        let mut client = Client::open_as(&broker, language, token);
                        assert_eq!(publish_once(&mut client, topic, "o-17"), (seq, is_repeat || is_second));
                        client.close();
                    }
                }
            }
            seq += 1;
            // All who have no name are one.
            for is_repeat in [false, true] {
                let mut client = Client::open(&broker, Language::Json);
                assert_eq!(publish_once(&mut client, topic, "o-17"), (seq, is_repeat));
                client.close();
            }
        }
        broker.stop();
    }
}

fn assert_one_too_many(client: &mut Client, count: usize) {
    let text = format!("a user has at most {count} connections (limits.connections_per_user_max)");
    assert_eq!(client.receive_any(), Received::Close(4029, text));
}

/// Whichever reactors they are at, and in whichever language; by its token in the request or a first `auth`. Who leaves makes room.
#[test]
fn a_user_has_as_many_connections_as_it_may() {
    let issuer = Issuer::new("users-connections");
    let (bob, bob_entry) = new_token("bob", &["live"]);
    let (again, again_entry) = new_token("bob", &["live"]);
    let (eve, eve_entry) = new_token("eve", &["live"]);
    let tokens = Tokens::new("users-connections-static", &[&bob_entry, &again_entry, &eve_entry]);
    let signed = issuer.token("bob", 600, json!({}));
    for reactors in [1, 2] {
        let settings =
            [&tokens.setting(), &issuer.setting(), ROLES, GUESTS, "limits.connections_per_user_max=3"];
        let broker = Broker::start(reactors, &settings);
        let mut held = vec![Client::open_as(&broker, Language::Json, &bob)];
        held.push(Client::open_as(&broker, Language::Binary, &again));
        let mut guest = Client::open(&broker, Language::Json);
        assert_eq!(guest.ask(json!({"op": "auth", "token": bob, "id": 1}))["user"], "bob");
        // As itself once more it is none more.
        held[0].send(json!({"op": "auth", "token": again, "id": 2}));
        assert_eq!(held[0].receive()["op"], "ok");
        for language in BOTH {
            let mut late = Client::upgrade(&broker, language, &format!("/ws?access_token={again}"), &[]);
            assert_one_too_many(&mut late, 3);
            let mut late = Client::open(&broker, language);
            late.send(json!({"op": "auth", "token": bob, "id": 1}));
            assert_one_too_many(&mut late, 3);
        }
        // Others have theirs, whatever they are called; and who has no name is nobody's.
        for token in [&eve, &signed] {
            Client::open_as(&broker, Language::Json, token).close();
        }
        (0..5).for_each(|_| Client::open(&broker, Language::Json).close());
        broker.wait_for_total("fanfare_closes_total", ",reason=\"user_limit\"", |total| total == 4.0);
        guest.close();
        broker.wait_for_total("fanfare_connections", "", |total| total == 2.0);
        held.push(Client::open_as(&broker, Language::Json, &bob));
        held.into_iter().for_each(Client::close);
        broker.stop();
    }
}

/// In either language, over all connections of a user, and also for whoever comes back. What is refused is not published.
#[test]
fn a_user_publishes_as_much_as_it_may() {
    let (bob, bob_entry) = new_token("bob", &["live"]);
    let (eve, eve_entry) = new_token("eve", &["live"]);
    let tokens = Tokens::new("users-rates", &[&bob_entry, &eve_entry]);
    let settings = [&tokens.setting(), ROLES, GUESTS, "limits.bytes_per_s_per_user_max=1024"];
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &settings);
        let mut first = Client::open_as(&broker, Language::Json, &bob);
        let long = json!({"op": "publish", "topic": "t/1", "data": "x".repeat(500_000), "id": 1});
        assert_eq!(first.ask(long)["seq"], 1);
        let is_refused = |answer: Value, topic: &str| {
            let told = (&answer["op"], &answer["code"], &answer["topic"]);
            assert_eq!(told, (&json!("error"), &json!("rate_limited"), &json!(topic)), "{answer}");
            // A second's worth is allowed before all is made up for.
            let retry_after_ms = answer["retry_after_ms"].as_u64().expect("when");
            assert!((300_000..=500_000).contains(&retry_after_ms), "{answer}");
        };
        let mut others = BOTH.map(|language| Client::open_as(&broker, language, &bob));
        for client in &mut others {
            ["t/1", "t/2", "t/3"].iter().for_each(|topic| is_refused(publish(client, topic, 7), topic));
        }
        let [json_client, binary_client] = others;
        [first, json_client, binary_client].into_iter().for_each(Client::close);
        broker.wait_for_total("fanfare_connections", "", |total| total == 0.0);
        let mut back = Client::open_as(&broker, Language::Binary, &bob);
        is_refused(publish(&mut back, "t/1", 7), "t/1");
        let mut eve = Client::open_as(&broker, Language::Json, &eve);
        let mut guest = Client::open(&broker, Language::Json);
        assert_eq!(publish(&mut eve, "t/1", 1)["seq"], 2);
        assert_eq!(publish(&mut guest, "t/1", 1)["seq"], 3);
        broker.wait_for_total("fanfare_rate_limited_total", "", |total| total == 7.0);
        [back, eve, guest].into_iter().for_each(Client::close);
        broker.stop();
    }
}

/// For whoever is connected, as well; and without them everything is as before.
#[test]
fn a_reload_sets_and_lifts_limits_of_users() {
    let (bob, entry) = new_token("bob", &["live"]);
    let tokens = Tokens::new("users-reload", &[&entry]);
    let config = config_file("users-reload.toml", "");
    let write = |limits: &str| {
        let all =
            format!("limits = {{ {limits} }}\nroles.live = {{ publish = [\"#\"], subscribe = [\"#\"] }}\n");
        std::fs::write(&config, all).unwrap();
    };
    write("");
    let broker = start_with(&config, 2, &[&tokens.setting()]);
    let mut clients = BOTH.map(|language| Client::open_as(&broker, language, &bob));
    // In one message, so that no time passes in between.
    let three: Vec<Value> =
        (1..4).map(|id| json!({"op": "publish", "topic": "t", "data": 1, "id": id})).collect();
    let ask_three = |clients: &mut [Client; 2]| {
        clients[0].send(json!(three));
        (0..3).filter(|_| clients[0].receive()["op"] == "ok").count()
    };
    assert_eq!(ask_three(&mut clients), 3);
    write("publishes_per_s_per_user_max = 1, connections_per_user_max = 1");
    wait_for_reload(&broker, "applied", 1);
    assert_eq!(ask_three(&mut clients), 1);
    let mut late = Client::upgrade(&broker, Language::Json, &format!("/ws?access_token={bob}"), &[]);
    assert_one_too_many(&mut late, 1);
    write("");
    wait_for_reload(&broker, "applied", 2);
    assert_eq!(ask_three(&mut clients), 3);
    Client::open_as(&broker, Language::Json, &bob).close();
    clients.into_iter().for_each(Client::close);
    broker.stop();
}
