//! Who is let in, and what they may do.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{
    Broker, broker_command,
    client::{Body, Client, Language, Received},
    raw::{Raw, UPGRADE},
};

pub const BOTH: [Language; 2] = [Language::Json, Language::Binary];

pub const ROLES: &str = r##"roles={
    chat = { publish = ["room/+", "own/{user}/#"], subscribe = ["room/#", "own/{user}/#"], deny = ["room/staff"] },
    live = { subscribe = ["#"], history = ["old/#"], publish = ["#"] },
    guest = { subscribe = ["news/#"] } }"##;

/// A token and what the broker keeps of it, as `fanfare token new` makes them.
pub fn new_token(user: &str, roles: &[&str]) -> (String, String) {
    new_token_of(user, roles, "")
}

/// The same of a tenant, of none if that is `""`.
pub fn new_token_of(user: &str, roles: &[&str], tenant: &str) -> (String, String) {
    let mut command = broker_command();
    command.args(["token", "new", "--user", user]);
    if !tenant.is_empty() {
        command.args(["--tenant", tenant]);
    }
    roles.iter().for_each(|role| _ = command.args(["--role", role]));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    let token = line.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(token.starts_with("ff_"), "{line}");
    (token, String::from_utf8(output.stdout).unwrap())
}

/// A file of tokens.
pub struct Tokens(pub PathBuf);

impl Tokens {
    pub fn new(name: &str, entries: &[&str]) -> Tokens {
        let tokens = Tokens(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        tokens.write(entries);
        tokens
    }

    pub fn write(&self, entries: &[&str]) {
        // Else what is there already keeps its mode.
        let _ = fs::remove_file(&self.0);
        fs::write(&self.0, entries.concat()).unwrap();
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn setting(&self) -> String {
        format!("auth.tokens_file={}", self.0.display())
    }
}

pub fn publish(client: &mut Client, topic: &str, id: u64) -> Value {
    match client.language {
        Language::Json => client.ask(json!({"op": "publish", "topic": topic, "data": id, "id": id})),
        Language::Binary => {
            let payload = id.to_string().into_bytes();
            client.send_body(&Body {
                kind: 1,
                flags: 1,
                seq: id,
                topic: topic.into(),
                payload,
                ..Body::default()
            });
            client.receive()
        }
    }
}

pub fn subscribe(client: &mut Client, topic: &str) -> Value {
    client.ask(json!({"op": "subscribe", "topic": topic, "id": 1}))
}

#[track_caller]
pub fn assert_forbidden(answer: &Value, op: &str, topic: &str) {
    let told = (&answer["op"], &answer["for"], &answer["code"], &answer["topic"]);
    assert_eq!(told, (&json!("error"), &json!(op), &json!("forbidden"), &json!(topic)), "{answer}");
}

#[test]
fn whoever_has_a_token_may_do_what_its_roles_grant_and_nothing_else() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-roles", &[&entry]);
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[&tokens.setting(), ROLES]);
        for language in BOTH {
            let mut client = Client::open_as(&broker, language, &token);
            assert_eq!((&client.hello["user"], &client.hello["auth"]), (&json!("bob"), &Value::Null));
            for (topic, is_allowed) in [
                ("room/1", true),
                ("room", false),
                ("room/1/2", false),
                ("own/bob/x", true),
                ("own/eve/x", false),
                ("room/staff", false),
                ("other", false),
            ] {
                let answer = publish(&mut client, topic, 7);
                match is_allowed {
                    true => assert_eq!((&answer["op"], &answer["id"]), (&json!("ok"), &json!(7)), "{answer}"),
                    false => assert_forbidden(&answer, "publish", topic),
                }
            }
            for (filter, is_allowed) in [
                ("room/1", true),
                ("room/1/2", true),
                ("room/staff", false),
                ("room/+", false),
                ("room/+/x", true),
                ("own/bob/#", true),
                ("own/+/x", false),
                ("#", false),
                ("$sys/a", false),
            ] {
                let answer = subscribe(&mut client, filter);
                match is_allowed {
                    true => assert_eq!(answer["op"], "ok", "{answer}"),
                    false => assert_forbidden(&answer, "subscribe", filter),
                }
            }
            client.close();
        }
        assert_eq!(broker.total("fanfare_forbidden_total", ",action=\"publish\""), 10.0);
        assert_eq!(broker.total("fanfare_forbidden_total", ",action=\"subscribe\""), 10.0);
        broker.stop();
    }
}

/// Each way to read it: `since`, `last`, a history, a value that comes by itself, and a filter that resumes.
#[test]
fn the_past_is_a_right_of_its_own() {
    let (token, entry) = new_token("bob", &["live"]);
    let tokens = Tokens::new("auth-past", &[&entry]);
    let topics = r##"topic=[{ match = "#", last_value = true, history_count = 9 }]"##;
    let broker = Broker::start(2, &[&tokens.setting(), ROLES, topics]);
    for language in BOTH {
        let mut client = Client::open_as(&broker, language, &token);
        let epoch = client.hello["epoch"].clone();
        for topic in ["old/1", "new/1"] {
            assert_eq!(publish(&mut client, topic, 1)["op"], "ok");
        }
        let since = json!({"epoch": epoch, "seq": 0});
        for command in [
            json!({"op": "subscribe", "topic": "new/1", "since": since, "id": 1}),
            json!({"op": "subscribe", "topic": "new/1", "last": 1, "id": 1}),
            json!({"op": "subscribe", "topic": "new/#", "last": 1, "id": 1}),
            json!({"op": "subscribe", "topic": "#", "last": 1, "id": 1}),
            json!({"op": "subscribe", "topic": "new/#", "since": {"epochs": {}}, "id": 1}),
            json!({"op": "history", "topic": "new/1", "id": 1}),
            json!({"op": "history", "topic": "new/1", "limit": 0, "id": 1}),
        ] {
            let answer = client.ask(command.clone());
            assert_forbidden(&answer, command["op"].as_str().unwrap(), command["topic"].as_str().unwrap());
        }
        // Nothing comes before what is published from now on.
        assert_eq!(subscribe(&mut client, "new/1")["op"], "ok");
        assert_eq!(client.ask(json!({"op": "subscribe", "topic": "new/2", "last": 0, "id": 1}))["op"], "ok");
        let resumed = client.ask(json!({"op": "subscribe", "topic": "new/+/x", "resume": true, "id": 1}));
        assert_eq!(resumed["op"], "ok", "{resumed}");
        assert_eq!(client.receive()["op"], "replayed");
        client.send(json!({"op": "history", "topic": "old/1", "limit": 0, "id": 1}));
        let history = String::from_utf8(client.receive_bytes()).unwrap();
        assert!(history.contains(r#""op":"history""#), "{history}");
        client.close();

        // Whoever may is sent the value first.
        let mut client = Client::open_as(&broker, language, &token);
        assert_eq!(subscribe(&mut client, "old/1")["op"], "ok");
        let message = match language {
            Language::Json => client.receive()["topic"].as_str().unwrap().to_owned(),
            Language::Binary => client.receive_body().topic,
        };
        assert_eq!(message, "old/1");
        client.close();
    }
    broker.stop();
}

#[test]
fn whoever_comes_without_a_token_sends_one_first() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-first", &[&entry]);
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &[&tokens.setting(), ROLES]);
        for language in BOTH {
            let mut client = Client::open(&broker, language);
            assert_eq!(client.hello["auth"], "required");
            assert_eq!(client.ask(json!({"op": "ping", "id": 3})), json!({"op": "pong", "id": 3}));
            let refused = subscribe(&mut client, "room/1");
            assert_eq!((&refused["code"], &refused["id"]), (&json!("unauthorized"), &json!(1)), "{refused}");
            assert_eq!(publish(&mut client, "room/1", 7)["code"], "unauthorized");
            let answer = client.ask(json!({"op": "auth", "token": token, "id": 5}));
            assert_eq!(answer, json!({"op": "ok", "id": 5, "user": "bob"}));
            assert_eq!(subscribe(&mut client, "room/1")["op"], "ok");
            client.close();
        }
        broker.stop();
    }
}

/// In one message: what stands behind an `auth` is carried out as whom it says.
#[test]
fn what_follows_an_auth_waits_for_it() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-array", &[&entry]);
    let broker = Broker::start(1, &[&tokens.setting(), ROLES]);
    let mut raw = Raw::open(broker.address);
    let subscribe = |topic: &str, id: u64| json!({"op": "subscribe", "topic": topic, "id": id});
    let auth = json!({"op": "auth", "token": token, "id": 2});
    raw.send_text(&json!([subscribe("room/1", 1), auth, subscribe("room/1", 3)]).to_string());
    raw.send_text(&subscribe("other", 4).to_string());
    let mut answers = [(); 4].map(|()| raw.receive());
    // A subscribe is answered when its home has.
    answers[2..].sort_by_key(|answer| answer["id"].as_u64());
    let told = answers.each_ref().map(|answer| (answer["id"].as_u64().unwrap(), answer["code"].as_str()));
    assert_eq!(
        told,
        [(1, Some("unauthorized")), (2, None), (3, None), (4, Some("forbidden"))],
        "{answers:?}"
    );
    raw.close();
    broker.stop();
}

#[test]
fn a_token_may_come_in_the_query_or_in_a_cookie_of_an_allowed_page() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-places", &[&entry]);
    let settings =
        [&tokens.setting(), ROLES, "auth.cookie=__Host-fanfare", "listen.origins=[\"https://a.example\"]"];
    let broker = Broker::start(1, &settings);
    let cookie = format!("a=b; __Host-fanfare={token}");
    let bearer = format!("Bearer {token}");
    let origin = ("origin", "https://a.example");
    for (path, lines, is_let_in) in [
        (format!("/ws?x=1&access_token={token}"), &[][..], true),
        ("/ws".to_owned(), &[("cookie", &*cookie), origin], true),
        // Who asks for it is not known: it waits for a token as if there were none.
        ("/ws".to_owned(), &[("cookie", &*cookie)], false),
        // A good one behind a bad one is no second chance.
        (format!("/ws?access_token={token}"), &[("authorization", "Bearer x")], false),
        ("/ws?access_token=x".to_owned(), &[("cookie", &*cookie), origin], false),
        ("/ws?access_token=x".to_owned(), &[("authorization", &*bearer)], true),
        (format!("/ws?access_token={token}"), &[("authorization", "Basic x")], true),
    ] {
        let mut client = Client::upgrade(&broker, Language::Json, &path, lines);
        match client.receive_any() {
            Received::Message(bytes) => {
                let hello: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(hello["user"] == "bob", is_let_in, "{path} {lines:?}: {hello}");
                client.close();
            }
            other => assert_eq!((other, is_let_in), (Received::Close(4001, "unauthorized".into()), false)),
        }
    }
    for request in [
        UPGRADE.replace("\r\n\r\n", "\r\nAuthorization: Bearer a\r\nAuthorization: Bearer a\r\n\r\n"),
        UPGRADE.replace("/ws", "/ws?access_token=a&access_token=b"),
    ] {
        let mut raw = Raw::connect(broker.address);
        raw.send(request.as_bytes());
        let head = raw.receive_head();
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    }
    broker.stop();
}

/// Any page can have a frame in a sandbox, which says `null`; and with `*` every page may, but not as its visitor.
#[test]
fn a_cookie_counts_for_no_page_that_may_be_anybodys() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-anybodys", &[&entry]);
    let cookie = ("cookie", &*format!("t={token}"));
    for (origins, origin, is_bobs) in [
        (r#"listen.origins=["null"]"#, "null", false),
        (r#"listen.origins=["*"]"#, "null", false),
        (r#"listen.origins=["*"]"#, "https://evil.example", false),
        (r#"listen.origins=["*", "https://a.example"]"#, "https://a.example", true),
        (r#"listen.origins=["*"]"#, "http://localhost:1", true),
    ] {
        let broker = Broker::start(1, &[&tokens.setting(), ROLES, "auth.cookie=t", origins]);
        let mut client = Client::upgrade(&broker, Language::Json, "/ws", &[cookie, ("origin", origin)]);
        let hello = client.receive();
        assert_eq!(
            (hello["user"] == "bob", hello["auth"] == "required"),
            (is_bobs, !is_bobs),
            "{origin}: {hello}"
        );
        client.close();
        broker.stop();
    }
}

/// Whatever is wrong with it is the same to see: an upgrade, no hello, and 4001 without a reason.
#[test]
fn every_bad_token_has_the_same_answer() {
    let (token, entry) = new_token("bob", &[]);
    let tokens = Tokens::new("auth-bad", &[&entry]);
    let broker = Broker::start(1, &[&tokens.setting(), "auth.failure_delay_ms=100"]);
    let (unknown, _) = new_token("bob", &[]);
    let slip = format!("{}x", &token[..token.len() - 1]);
    let bad = ["", "x", "ff_", &unknown, &slip, &"y".repeat(7_000), "ey.J.x"];
    for bad in bad {
        let mut client =
            Client::upgrade(&broker, Language::Json, "/ws", &[("authorization", &format!("Bearer {bad}"))]);
        assert_eq!(client.receive_any(), Received::Close(4001, "unauthorized".into()), "{bad}");
        // By command too, but that the broker has said who it is before.
        if !bad.is_empty() {
            let mut client = Client::open(&broker, Language::Json);
            client.send(json!({"op": "auth", "token": bad, "id": 1}));
            client.send(json!({"op": "ping"}));
            assert_eq!(client.receive_any(), Received::Close(4001, "unauthorized".into()), "{bad}");
        }
    }
    assert_eq!(broker.total("fanfare_credentials_refused_total", ",reason=\"unknown_token\""), 6.0);
    assert_eq!(broker.total("fanfare_credentials_refused_total", ",reason=\"malformed\""), 7.0);
    broker.wait_for_total("fanfare_closes_total", ",reason=\"unauthorized\"", |count| count == 13.0);
    broker.stop();
}

#[test]
fn whoever_says_nothing_is_closed_in_time() {
    let tokens = Tokens::new("auth-silent", &[]);
    let broker = Broker::start(1, &[&tokens.setting(), "auth.deadline_ms=200"]);
    for language in BOTH {
        let mut client = Client::open(&broker, language);
        // Pings are no token.
        client.send(json!({"op": "ping", "id": 1}));
        assert_eq!(client.receive()["op"], "pong");
        assert_eq!(client.receive_any(), Received::Close(4001, "no token came in time".into()));
    }
    broker.wait_for_total("fanfare_closes_total", ",reason=\"auth_timeout\"", |count| count == 2.0);
    broker.stop();
}

#[test]
fn anonymous_clients_have_roles_of_their_own_and_may_become_somebody() {
    let (token, entry) = new_token("bob", &["chat"]);
    let (other, other_entry) = new_token("eve", &["chat"]);
    let tokens = Tokens::new("auth-anonymous", &[&entry, &other_entry]);
    let broker = Broker::start(2, &[&tokens.setting(), ROLES, "auth.anonymous_roles=[\"guest\"]"]);
    for language in BOTH {
        let mut client = Client::open(&broker, language);
        assert_eq!((&client.hello["auth"], &client.hello["user"]), (&Value::Null, &Value::Null));
        assert_eq!(subscribe(&mut client, "news/1")["op"], "ok");
        assert_forbidden(&subscribe(&mut client, "room/1"), "subscribe", "room/1");
        assert_forbidden(&publish(&mut client, "news/1", 1), "publish", "news/1");
        // One that is not accepted changes nothing.
        let refused = client.ask(json!({"op": "auth", "token": "x", "id": 1}));
        assert_eq!(
            (&refused["code"], &refused["for"]),
            (&json!("unauthorized"), &json!("auth")),
            "{refused}"
        );
        let again = client.ask(json!({"op": "auth", "token": token, "id": 2}));
        assert_eq!(again["code"], "rate_limited", "{again}");
        client.close();

        let mut client = Client::open(&broker, language);
        assert_eq!(client.ask(json!({"op": "auth", "token": token, "id": 2}))["user"], "bob");
        assert_eq!(subscribe(&mut client, "room/1")["op"], "ok");
        let again = client.ask(json!({"op": "auth", "token": other, "id": 3}));
        assert_eq!(again["code"], "rate_limited", "{again}");
        client.close();
    }
    broker.stop();
}

#[test]
fn a_broker_that_asks_nobody_says_so() {
    let broker = Broker::start(1, &[]);
    for language in BOTH {
        let mut client =
            Client::upgrade(&broker, language, "/ws?access_token=x", &[("authorization", "Bearer x")]);
        assert_eq!(client.receive()["op"], "hello");
        let refused = client.ask(json!({"op": "auth", "token": "x", "id": 1}));
        assert_eq!((&refused["code"], &refused["for"]), (&json!("unsupported"), &json!("auth")), "{refused}");
        assert_eq!(publish(&mut client, "anything", 1)["op"], "ok");
        client.close();
    }
    broker.stop();
}

/// What an echo repeats is nobody's but its client's, and strangers have no business there.
#[test]
fn echo_is_behind_the_same_gate() {
    let (token, entry) = new_token("bob", &[]);
    let tokens = Tokens::new("auth-echo", &[&entry]);
    let broker = Broker::start(1, &[&tokens.setting(), "listen.echo=true", "auth.failure_delay_ms=0"]);
    let mut raw = Raw::connect(broker.address);
    raw.send(UPGRADE.replace("/ws", &format!("/echo?access_token={token}")).as_bytes());
    assert!(raw.receive_head().starts_with("HTTP/1.1 101 "));
    raw.send_text("hallo");
    assert_eq!(raw.receive_frame().unwrap().1, b"hallo");
    raw.close();
    for query in ["", "?access_token=x"] {
        let mut raw = Raw::connect(broker.address);
        raw.send(UPGRADE.replace("/ws", &format!("/echo{query}")).as_bytes());
        assert!(raw.receive_head().starts_with("HTTP/1.1 101 "));
        raw.send_text("hallo");
        let (opcode, payload) = raw.receive_frame().unwrap();
        assert_eq!((opcode, &payload[2..]), (8, &b"unauthorized"[..]));
    }
    broker.stop();
}

/// Nothing that the broker writes holds any of a token.
#[test]
fn a_token_is_written_nowhere() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-canary", &[&entry]);
    let settings = [&tokens.setting(), ROLES, "log.level=trace", "auth.cookie=t", "auth.failure_delay_ms=0"];
    let (broker, log) = Broker::start_logged(1, &settings, |_| {});
    let canary = format!("{}{}", &token[..20], "canary");
    let mut said = Vec::new();
    for lines in [
        &[("authorization", &*format!("Bearer {canary}"))][..],
        &[("cookie", &*format!("t={canary}")), ("origin", "http://localhost:1")],
        &[("origin", "https://evil.example"), ("authorization", &*format!("Bearer {canary}"))],
    ] {
        let mut raw = Raw::connect(broker.address);
        let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = UPGRADE.replace("\r\n\r\n", &format!("\r\n{lines}\r\n"));
        raw.send(request.replace("/ws", &format!("/ws?access_token={canary}")).as_bytes());
        said.push(raw.receive_head());
    }
    for text in [
        format!(r#"{{"op":"auth","token":"{canary}","id":1}}"#),
        format!(r#"{{"op":"auth","token":["{canary}"],"id":1}}"#),
        format!(r#"{{"op":"auth","tokn":"{canary}","id":1}}"#),
        format!(r#"{{"op":"auth","token":"{canary}\u0000","id":1}}"#),
    ] {
        let mut client = Client::open(&broker, Language::Json);
        client.send(serde_json::from_str(&text).unwrap());
        said.push(format!("{:?}", client.receive_any()));
    }
    // Signed ones as well: nothing of their claims and signatures.
    let parts = [r#"{"alg":"ES256","kid":"k"}"#, &canary, &canary].map(|part| URL_SAFE_NO_PAD.encode(part));
    for token in [parts.join("."), format!("{}.{}.{}", parts[0], canary, canary)] {
        let bearer = format!("Bearer {token}");
        let mut client = Client::upgrade(&broker, Language::Json, "/ws", &[("authorization", &bearer)]);
        said.push(format!("{:?}", client.receive_any()));
    }
    let output = broker_command()
        .args(["sub", "room/1", "--token", &canary, "--url", &format!("ws://{}/ws", broker.address)])
        .output()
        .unwrap();
    assert!(!output.status.success());
    said.push(format!("{output:?}"));
    said.push(broker.metrics());
    broker.terminate();
    for said in &said {
        assert!(!said.contains(&canary[..12]), "{said}");
    }
    let encoded = &parts[1][..12];
    let has_canary = |line: &String| line.contains(&canary[..12]) || line.contains(encoded);
    let lines: Vec<String> = log.rest().collect();
    assert_eq!(lines.iter().find(|line| has_canary(line)), None);
    assert!(lines.iter().any(|line| line.contains("auth failed")), "it was looked for in what is told");
}

#[test]
fn what_is_wrong_with_roles_and_tokens_ends_the_start_with_one_line() {
    let (_, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-wrong", &[&entry]);
    let fail = |settings: &[&str]| {
        let mut command = broker_command();
        command.args(["--listen", "127.0.0.1:0", "--admin", ""]);
        settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let setting = tokens.setting();
    for (settings, why) in [
        (&[setting.as_str()][..], "roles names \"chat\"; the name of a table in [roles] is allowed"),
        (&["auth.tokens_file=/nowhere"], "auth.tokens_file = \"/nowhere\" cannot be read"),
        (&["auth.anonymous_roles=[\"x\"]"], "auth.anonymous_roles = \"x\" is not allowed"),
        (&["roles={ a = {} }"], "roles.a is not allowed without auth.tokens_file"),
    ] {
        let line = fail(settings);
        assert!(line.contains(why) && line.lines().count() == 1, "{line}");
    }
    fs::set_permissions(&tokens.0, fs::Permissions::from_mode(0o644)).unwrap();
    let line = fail(&[&setting, ROLES]);
    assert!(line.contains("has mode 644: others may read or change it"), "{line}");
}

/// The digest of what stderr shows, so that whoever has the file has no token.
#[test]
fn a_new_token_is_kept_as_its_digest() {
    let (token, entry) = new_token("b\"ob", &["chat", "live"]);
    let digest: String = Sha256::digest(&token).iter().map(|byte| format!("{byte:02x}")).collect();
    let entry: toml::Table = entry.parse().unwrap();
    let expected = format!("sha256 = '{digest}'\nuser = 'b\"ob'\nroles = ['chat', 'live']\n");
    assert_eq!(entry["token"].as_array().unwrap(), &[expected.parse::<toml::Table>().unwrap().into()]);
    assert_ne!(new_token("bob", &[]).0, new_token("bob", &[]).0);
}

/// The same verdicts as the broker's, with what makes them.
#[test]
fn the_operator_is_told_why_something_is_allowed_or_not() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("auth-why", &[&entry]);
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("auth-why.toml");
    let roles =
        r#"chat = { publish = ["room/+"], subscribe = ["room/#", "own/{user}/#"], deny = ["room/staff"] }"#;
    fs::write(&config, format!("auth.tokens_file = \"{}\"\n[roles]\n{roles}\n", tokens.0.display())).unwrap();
    let file = tokens.0.with_extension("token");
    fs::write(&file, &token).unwrap();
    let ask = |who: &[&str], what: [&str; 2]| {
        let mut command = broker_command();
        command.args(["config", "permissions", "--config"]).arg(&config).args(who).args(what);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let by_token = ["--token-file", file.to_str().unwrap()];
    for (who, what, code, line) in [
        (&by_token[..], ["publish", "room/1"], 0, "allowed by room/+ of the role chat\n"),
        (&by_token, ["publish", "room/1/2"], 1, "fanfare: not allowed: nothing grants room/1/2\n"),
        (
            &by_token,
            ["publish", "room/staff"],
            1,
            "fanfare: not allowed: denied by room/staff of the role chat\n",
        ),
        (&by_token, ["subscribe", "own/+/x"], 1, "fanfare: not allowed: nothing grants own/…/x\n"),
        (&by_token, ["subscribe", "own/bob/#"], 0, "allowed by own/{user}/# of the role chat\n"),
        (
            &["--user", "eve", "--role", "chat"],
            ["history", "own/eve/1"],
            0,
            "allowed by own/{user}/# of the role chat\n",
        ),
        (&["--user", "eve"], ["history", "own/eve/1"], 1, "fanfare: not allowed: nothing grants own/eve/1\n"),
        (&["--token", "x"], ["publish", "room/1"], 1, "fanfare: the token is not accepted: malformed\n"),
        (&[], ["publish", "room/1"], 1, "fanfare: not allowed: nobody is let in without a token\n"),
        (
            &[],
            ["publish", "room/+"],
            2,
            "fanfare: a topic to publish to must not hold the wildcards + and #\n",
        ),
    ] {
        assert_eq!(ask(who, what), (Some(code), line.to_owned()), "{who:?} {what:?}");
    }
}
