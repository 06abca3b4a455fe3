//! Rights that change: by a reload, by another token, by time; and signed tokens, which say what they are.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::{Value, json};

use super::auth::{BOTH, ROLES, Tokens, assert_forbidden, new_token, publish, subscribe};
use crate::common::{
    Broker,
    client::{Client, Language, Received},
};

/// A file that is rewritten.
pub fn config_file(name: &str, roles: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, format!("[roles]\n{roles}\n")).unwrap();
    path
}

pub fn start_with(config: &PathBuf, reactors: usize, settings: &[&str]) -> Broker {
    Broker::start_logged(reactors, settings, |command| _ = command.arg("--config").arg(config)).0
}

pub fn wait_for_reload(broker: &Broker, result: &str, count: u64) {
    broker.reload();
    broker.wait_for_metric(&format!("fanfare_reloads_total{{result=\"{result}\"}} {count}"));
}

/// What is granted still goes on, and nobody is closed.
#[test]
fn a_reload_takes_back_what_is_not_granted_any_more() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-reload", &[&entry]);
    for reactors in [1, 2] {
        let wide = r##"chat = { publish = ["#"], subscribe = ["#"] }"##;
        let config = config_file(&format!("auth-reload-{reactors}.toml"), wide);
        let broker = start_with(&config, reactors, &[&tokens.setting()]);
        for (round, language) in (0..).zip(BOTH) {
            let mut client = Client::open_as(&broker, language, &token);
            let mut publisher = Client::open_as(&broker, Language::Json, &token);
            let filters = ["room/1", "room/2", "room/#", "+/1", "other/1", "other/#"];
            for filter in filters {
                assert_eq!(subscribe(&mut client, filter)["op"], "ok");
            }
            config_file(
                &format!("auth-reload-{reactors}.toml"),
                r#"chat = { publish = ["room/1", "other/1"], subscribe = ["room/1", "other/+"] }"#,
            );
            wait_for_reload(&broker, "applied", 2 * round + 1);
            let mut taken_back: Vec<String> = (0..4)
                .map(|_| client.receive())
                .inspect(|event| {
                    assert_eq!(
                        (&event["op"], &event["reason"]),
                        (&json!("unsubscribed"), &json!("forbidden"))
                    )
                })
                .map(|event| event["topic"].as_str().unwrap().to_owned())
                .collect();
            taken_back.sort();
            assert_eq!(taken_back, ["+/1", "other/#", "room/#", "room/2"]);
            assert_forbidden(&publish(&mut publisher, "room/2", 1), "publish", "room/2");
            for (id, topic) in (2..).zip(["room/1", "other/1"]) {
                assert_eq!(publish(&mut publisher, topic, id)["op"], "ok");
                let received = match language {
                    Language::Json => client.receive()["topic"].as_str().unwrap().to_owned(),
                    Language::Binary => client.receive_body().topic,
                };
                assert_eq!(received, topic);
            }
            // They are gone, and may not come back.
            let refused = client.ask(json!({"op": "unsubscribe", "topic": "room/#", "id": 1}));
            assert_eq!(refused["code"], "not_subscribed");
            assert_forbidden(&subscribe(&mut client, "room/#"), "subscribe", "room/#");
            config_file(&format!("auth-reload-{reactors}.toml"), wide);
            wait_for_reload(&broker, "applied", 2 * round + 2);
            assert_eq!(subscribe(&mut client, "room/#")["op"], "ok");
            client.close();
            publisher.close();
        }
        // A reactor tells what it counts before it does what it was told.
        broker.wait_for_total("fanfare_reviews", "", |total| total == 0.0);
        broker.stop();
    }
}

#[test]
fn whose_token_is_gone_is_closed_and_others_stay() {
    let (token, entry) = new_token("bob", &["chat"]);
    let (other, other_entry) = new_token("eve", &["chat"]);
    let tokens = Tokens::new("auth-gone", &[&entry, &other_entry]);
    let broker = Broker::start(2, &[&tokens.setting(), ROLES]);
    let mut gone = [(); 4].map(|()| Client::open_as(&broker, Language::Json, &token));
    let mut kept = [(); 4].map(|()| Client::open_as(&broker, Language::Binary, &other));
    kept.iter_mut().for_each(|client| assert_eq!(subscribe(client, "room/1")["op"], "ok"));
    tokens.write(&[&other_entry]);
    wait_for_reload(&broker, "applied", 1);
    for client in &mut gone {
        assert_eq!(client.receive_any(), Received::Close(4001, "the token is not accepted any more".into()));
    }
    for client in &mut kept {
        assert_eq!(publish(client, "room/2", 3)["op"], "ok");
    }
    let mut client = Client::upgrade(&broker, Language::Json, &format!("/ws?access_token={token}"), &[]);
    assert_eq!(client.receive_any(), Received::Close(4001, "unauthorized".into()));
    // A file that is wrong changes nothing.
    tokens.write(&[&entry, "x"]);
    wait_for_reload(&broker, "refused", 1);
    assert_eq!(publish(&mut kept[0], "room/2", 3)["op"], "ok");
    broker.wait_for_total("fanfare_closes_total", ",reason=\"revoked\"", |total| total == 4.0);
    kept.into_iter().for_each(Client::close);
    broker.stop();
}

/// Whoever came when nobody was asked is nobody, and has what nobody may.
#[test]
fn a_broker_may_begin_to_ask_and_end_it() {
    let config = config_file("auth-begins.toml", "");
    fs::write(&config, "").unwrap();
    let broker = start_with(&config, 2, &[]);
    let mut client = Client::open(&broker, Language::Json);
    for filter in ["room/1", "news/1"] {
        assert_eq!(subscribe(&mut client, filter)["op"], "ok");
    }
    fs::write(
        &config,
        "[auth]\nanonymous_roles = [\"guest\"]\n[roles]\nguest = { subscribe = [\"news/#\"] }\n",
    )
    .unwrap();
    wait_for_reload(&broker, "applied", 1);
    assert_eq!(client.receive(), json!({"op": "unsubscribed", "topic": "room/1", "reason": "forbidden"}));
    assert_forbidden(&publish(&mut client, "news/1", 1), "publish", "news/1");
    fs::write(&config, "").unwrap();
    wait_for_reload(&broker, "applied", 2);
    assert_eq!(publish(&mut client, "anything", 1)["op"], "ok");
    let tokens = Tokens::new("auth-begins", &[]);
    fs::write(&config, format!("[auth]\ntokens_file = \"{}\"\n", tokens.0.display())).unwrap();
    wait_for_reload(&broker, "applied", 3);
    assert_eq!(client.receive_any(), Received::Close(4001, "the token is not accepted any more".into()));
    broker.stop();
}

/// An issuer whose secret the tests know.
pub struct Issuer {
    file: PathBuf,
    secret: [u8; 40],
}

impl Issuer {
    pub fn new(name: &str) -> Issuer {
        let issuer = Issuer {
            file: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name),
            secret: *b"0123456789012345678901234567890123456789",
        };
        let _ = fs::remove_file(&issuer.file);
        fs::write(&issuer.file, issuer.secret).unwrap();
        fs::set_permissions(&issuer.file, fs::Permissions::from_mode(0o600)).unwrap();
        issuer
    }

    pub fn setting(&self) -> String {
        let file = self.file.display();
        format!(
            "auth.issuers=[{{ iss = \"login\", audience = [\"fanfare\"], algorithms = [\"HS256\"], key_file = \"{file}\", roles = [\"chat\"] }}]"
        )
    }

    /// A token of `user` that ends in so many seconds, with more claims.
    pub fn token(&self, user: &str, ends_in_s: i64, more: Value) -> String {
        let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let mut claims = json!({"iss": "login", "aud": "fanfare", "sub": user, "exp": now_s + ends_in_s});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let key = jsonwebtoken::EncodingKey::from_secret(&self.secret);
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    }
}

#[test]
fn a_signed_token_says_who_somebody_is_and_what_they_may_do() {
    let issuer = Issuer::new("auth-jwt");
    let broker = Broker::start(2, &[&issuer.setting(), ROLES]);
    let grants =
        json!({"fanfare": {"publish": ["out/{user}"], "subscribe": ["in/#"], "deny": ["room/secret"]}});
    let token = issuer.token("bob", 600, grants);
    for language in BOTH {
        let mut client = Client::open_as(&broker, language, &token);
        assert_eq!(client.hello["user"], "bob");
        let left_s = client.hello["expires_in_s"].as_u64().unwrap();
        assert!((590..=610).contains(&left_s), "{left_s}");
        // Its issuer's role, and its own.
        for (topic, is_allowed) in
            [("room/1", true), ("out/bob", true), ("out/eve", false), ("room/secret", false)]
        {
            let answer = publish(&mut client, topic, 7);
            match is_allowed {
                true => assert_eq!(answer["op"], "ok", "{answer}"),
                false => assert_forbidden(&answer, "publish", topic),
            }
        }
        assert_eq!(subscribe(&mut client, "in/#")["op"], "ok");
        assert_forbidden(&subscribe(&mut client, "room/secret"), "subscribe", "room/secret");
        client.close();
    }
    let live = issuer.token("eve", 600, json!({"fanfare": {"roles": ["live", "nobody"]}}));
    let mut client = Client::open_as(&broker, Language::Json, &live);
    assert_eq!(publish(&mut client, "anything", 1)["op"], "ok");
    client.close();
    for (bad, reason) in [
        (issuer.token("bob", -600, json!({})), "expired"),
        (issuer.token("bob", 600, json!({"aud": "other"})), "wrong_audience"),
        (issuer.token("bob", 600, json!({"iss": "other"})), "unknown_issuer"),
        (issuer.token("bob", 600, json!({"fanfare": {"publish": ["a/#/b"]}})), "bad_grants"),
        (issuer.token("bob", 100_000, json!({})), "lifetime"),
        (format!("{token}A"), "bad_signature"),
    ] {
        let before = broker.total("fanfare_credentials_refused_total", &format!(",reason=\"{reason}\""));
        let mut client = Client::upgrade(&broker, Language::Json, &format!("/ws?access_token={bad}"), &[]);
        assert_eq!(client.receive_any(), Received::Close(4001, "unauthorized".into()), "{reason}");
        let after = broker.total("fanfare_credentials_refused_total", &format!(",reason=\"{reason}\""));
        assert_eq!(after - before, 1.0, "{reason}");
    }
    broker.stop();
}

#[test]
fn a_token_ends_after_that_was_told_unless_another_takes_its_place() {
    let issuer = Issuer::new("auth-expiry");
    let broker = Broker::start(1, &[&issuer.setting(), ROLES, "auth.leeway_s=0"]);
    for language in BOTH {
        let token = issuer.token("bob", 3, json!({}));
        let mut clients = [(); 2].map(|()| Client::open_as(&broker, language, &token));
        for client in &mut clients {
            let event = client.receive();
            assert_eq!((&event["op"], &event["in_s"]), (&json!("expiring"), &json!(1)), "{event}");
        }
        let [mut ending, mut renewed] = clients;
        let refused =
            renewed.ask(json!({"op": "auth", "token": issuer.token("eve", 600, json!({})), "id": 1}));
        assert_eq!((&refused["code"], &refused["for"]), (&json!("forbidden"), &json!("auth")), "{refused}");
        assert_eq!(ending.receive_any(), Received::Close(4001, "token expired".into()));
        // One that is not accepted keeps nothing alive.
        assert_eq!(renewed.receive_any(), Received::Close(4001, "token expired".into()));

        let mut client = Client::open_as(
            &broker,
            language,
            &issuer.token("bob", 3, json!({"fanfare": {"subscribe": ["x/#"]}})),
        );
        assert_eq!(subscribe(&mut client, "x/1")["op"], "ok");
        assert_eq!(subscribe(&mut client, "room/1")["op"], "ok");
        assert_eq!(client.receive()["op"], "expiring");
        let answer = client.ask(json!({"op": "auth", "token": issuer.token("bob", 600, json!({})), "id": 9}));
        assert_eq!(
            (&answer["op"], &answer["user"], &answer["id"]),
            (&json!("ok"), &json!("bob"), &json!(9)),
            "{answer}"
        );
        // It says less than the one before.
        assert_eq!(client.receive(), json!({"op": "unsubscribed", "topic": "x/1", "reason": "forbidden"}));
        assert_eq!(publish(&mut client, "room/2", 5)["op"], "ok");
        client.close();
    }
    broker.wait_for_total("fanfare_closes_total", ",reason=\"token_expired\"", |total| total == 4.0);
    broker.stop();
}

#[test]
fn whose_issuer_is_gone_is_closed() {
    let issuer = Issuer::new("auth-issuer-gone");
    let config = config_file("auth-issuer-gone.toml", r#"chat = { publish = ["room/1"] }"#);
    let with = format!("[auth]\nissuers = {}\n", issuer.setting().split_once('=').unwrap().1);
    let roles = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{with}{roles}")).unwrap();
    let broker = start_with(&config, 2, &["auth.anonymous_roles=[\"chat\"]"]);
    let mut client = Client::open_as(&broker, Language::Json, &issuer.token("bob", 600, json!({})));
    let mut guest = Client::open(&broker, Language::Json);
    assert_eq!(publish(&mut client, "room/1", 1)["op"], "ok");
    fs::write(&config, roles).unwrap();
    wait_for_reload(&broker, "applied", 1);
    assert_eq!(client.receive_any(), Received::Close(4001, "the token is not accepted any more".into()));
    assert_eq!(publish(&mut guest, "room/1", 1)["op"], "ok");
    guest.close();
    broker.stop();
}
