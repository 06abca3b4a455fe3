//! Who publishes: what messages say of that, which topics want to know, and whose a key is.

use serde_json::{Value, json};

use super::{
    auth::{BOTH, ROLES, Tokens, assert_forbidden, new_token, publish, subscribe},
    rights::Issuer,
};
use crate::common::{
    Broker, broker_command,
    client::{Body, Client, EXT_FLAG, Language},
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
