//! Keys of issuers that are fetched, from a server of the tests'.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::auth::{BOTH, publish};
use crate::common::{
    Broker, PATIENCE,
    client::{Client, Language, Received},
};

const ROLES: &str = r##"roles={ all = { publish = ["#"], subscribe = ["#"] } }"##;

/// A key of an issuer, and its name.
struct Signer {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Signer {
        Signer { id, pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn jwk(&self) -> Value {
        let point = &self.pair.public_key().as_ref()[1..];
        let [x, y] = [&point[..32], &point[32..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.id, "use": "sig"})
    }

    fn token(&self, user: &str) -> String {
        let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = json!({"iss": "login", "sub": user, "exp": now_s + 600});
        let der = self.pair.to_pkcs8v1().unwrap();
        let header = jsonwebtoken::Header {
            kid: Some(self.id.into()),
            ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
        };
        jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_ec_der(der.as_ref())).unwrap()
    }
}

/// What is at an issuer's address.
struct Server {
    port: u16,
    keys: Arc<Mutex<Value>>,
    /// How often it was asked.
    count: Arc<AtomicUsize>,
    /// While held, nobody is answered.
    silence: Arc<Mutex<()>>,
}

impl Server {
    fn new(keys: &[&Signer]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            port: listener.local_addr().unwrap().port(),
            keys: Arc::default(),
            count: Arc::default(),
            silence: Arc::default(),
        };
        server.set(keys);
        let (keys, count) = (Arc::clone(&server.keys), Arc::clone(&server.count));
        let silence = Arc::clone(&server.silence);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4_096];
                if stream.read(&mut request).is_ok_and(|len| len > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                    drop(silence.lock().unwrap());
                    let body = keys.lock().unwrap().to_string();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(format!("{head}{body}").as_bytes());
                }
            }
        });
        server
    }

    fn set(&self, keys: &[&Signer]) {
        *self.keys.lock().unwrap() = json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()});
    }

    fn issuers(&self) -> String {
        format!(
            r#"issuers = [{{ iss = "login", algorithms = ["ES256"], roles = ["all"], jwks_url = "http://127.0.0.1:{}/keys" }}]"#,
            self.port
        )
    }

    fn setting(&self) -> String {
        format!("auth.{}", self.issuers().replacen(" = ", "=", 1))
    }
}

const TAKEN: &str = r#"fanfare_key_fetches_total{result="taken"}"#;

/// Whether a client with this token is let in, or else how it is closed.
fn bring(broker: &Broker, language: Language, token: &str) -> Result<Client, Received> {
    let authorization = format!("Bearer {token}");
    let mut client = Client::upgrade(broker, language, "/ws", &[("authorization", &authorization)]);
    match client.receive_any() {
        Received::Message(_) => Ok(client),
        closed => Err(closed),
    }
}

/// Brings it until it is told to come again no more.
fn bring_again(broker: &Broker, token: &str) -> Result<Client, Received> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bring(broker, Language::Json, token) {
            Err(closed) if closed == try_again() && Instant::now() < deadline => {}
            told => return told,
        }
    }
}

fn try_again() -> Received {
    Received::Close(1013, "try again".into())
}

#[test]
fn keys_are_fetched_and_fetched_again_for_a_token_that_names_another() {
    let (first, second) = (Signer::new("1"), Signer::new("2"));
    let server = Server::new(&[&first]);
    for reactors in [1, 2] {
        server.set(&[&first]);
        let settings = [&*server.setting(), ROLES, "auth.jwks_refetch_s_min=1", "auth.failure_delay_ms=0"];
        let broker = Broker::start(reactors, &settings);
        broker.wait_for_metric(&format!("{TAKEN} 1"));
        for language in BOTH {
            let mut client = bring(&broker, language, &first.token("bob")).expect("it is let in");
            assert_eq!(publish(&mut client, "a", 1)["op"], "ok");
            client.close();
        }
        let mut stays = bring(&broker, Language::Json, &first.token("eve")).expect("it is let in");
        // It is rotated, and the first that says so may have to come again.
        server.set(&[&second]);
        let deadline = Instant::now() + PATIENCE;
        let client = loop {
            match bring(&broker, Language::Json, &second.token("bob")) {
                Ok(client) => break client,
                Err(Received::Close(code, _)) => assert!([1013, 4001].contains(&code), "{code}"),
                Err(other) => panic!("{other:?}"),
            }
            assert!(Instant::now() < deadline);
        };
        client.close();
        broker.wait_for_metric(&format!("{TAKEN} 2"));
        // Who was let in by a key that is gone stays; who comes with it is told so when the set is known to be without.
        assert_eq!(publish(&mut stays, "a", 1)["op"], "ok");
        let refused = bring_again(&broker, &first.token("bob")).err();
        assert_eq!(refused, Some(Received::Close(4001, "unauthorized".into())));
        let metrics = broker.metrics();
        assert!(metrics.contains("\nfanfare_keys_age_seconds{issuer=\"login\"} "), "{metrics}");
        assert!(broker.total("fanfare_reviews", "") == 0.0);
        stays.close();
        broker.stop();
    }
}

#[test]
fn a_broker_starts_and_serves_while_a_server_of_keys_says_nothing() {
    let signer = Signer::new("1");
    let server = Server::new(&[&signer]);
    let silence = server.silence.lock().unwrap();
    let (broker, log) = Broker::start_logged(1, &[&server.setting(), ROLES, "log.level=info"], |_| {});
    for language in BOTH {
        // By the request, by a command, and again.
        assert_eq!(bring(&broker, language, &signer.token("bob")).err(), Some(try_again()));
        let mut client = Client::open(&broker, language);
        client.send(json!({"op": "auth", "token": signer.token("bob"), "id": 1}));
        assert_eq!(client.receive_any(), try_again());
    }
    broker.wait_for_total("fanfare_closes_total", ",reason=\"keys_unavailable\"", |total| total == 4.0);
    broker.wait_for_total("fanfare_credentials_refused_total", ",reason=\"no_keys\"", |total| total == 4.0);
    let ready = broker.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("without keys of login\n"), "{ready}");
    assert!(broker.get("/healthz").ends_with("\r\n\r\nok\n"));
    drop(silence);
    bring_again(&broker, &signer.token("bob")).expect("it is let in").close();
    assert!(broker.get("/readyz").ends_with("\r\n\r\nready\n"));
    let line = log.wait_for("keys taken");
    assert!(line.contains("fanfare::audit") && line.contains("issuer=login"), "{line}");
    broker.stop();
}

#[test]
fn a_server_that_is_not_there_is_told_and_tried_again() {
    let signer = Signer::new("1");
    // Nobody else can have the port, and nobody listens there yet.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let setting = format!(
        r#"auth.issuers=[{{ iss = "login", algorithms = ["ES256"], jwks_url = "http://127.0.0.1:{port}/keys" }}]"#
    );
    let (broker, log) = Broker::start_logged(1, &[&setting, "log.level=warn"], |_| {});
    let line = log.wait_for("keys were not fetched");
    let told = format!("its tokens are not accepted until they are: http://127.0.0.1:{port}/keys: ");
    assert!(line.contains(&told) && line.contains("is not reached"), "{line}");
    assert_eq!(bring(&broker, Language::Json, &signer.token("bob")).err(), Some(try_again()));
    // Nobody's fault but the issuer's is anybody else's.
    let foreign = signer.token("bob").replace('.', "x.");
    assert!(matches!(bring(&broker, Language::Json, &foreign), Err(Received::Close(4001, _))));
    let (sender, answered) = mpsc::channel();
    socket.listen(8).unwrap();
    let listener = TcpListener::from(socket);
    let body = json!({"keys": [signer.jwk()]}).to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4_096]);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        sender.send(()).unwrap();
    });
    answered.recv_timeout(PATIENCE).expect("it is tried again");
    bring_again(&broker, &signer.token("bob")).expect("it is let in").close();
    broker.stop();
}

#[test]
fn a_reload_takes_another_address_and_keeps_the_keys_of_one_that_stays() {
    let (first, second) = (Signer::new("1"), Signer::new("2"));
    let (server, other) = (Server::new(&[&first]), Server::new(&[&second]));
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("key-sets.toml");
    let write = |server: &Server, more: &str| {
        fs::write(
            &config,
            format!("[auth]\n{}\n{more}\n[roles]\nall = {{ publish = [\"#\"] }}\n", server.issuers()),
        )
        .unwrap();
    };
    write(&server, "");
    let (broker, _log) = Broker::start_logged(2, &[], |command| {
        command.arg("--config").arg(&config);
    });
    broker.wait_for_metric(&format!("{TAKEN} 1"));
    let mut client = bring(&broker, Language::Json, &first.token("bob")).expect("it is let in");
    // Nobody needs the server for that.
    let silence = server.silence.lock().unwrap();
    write(&server, "leeway_s = 20");
    broker.reload();
    broker.wait_for_metric("fanfare_reloads_total{result=\"applied\"} 1");
    bring(&broker, Language::Json, &first.token("bob")).expect("it is let in").close();
    write(&other, "leeway_s = 20");
    broker.reload();
    broker.wait_for_metric("fanfare_reloads_total{result=\"applied\"} 2");
    bring_again(&broker, &second.token("eve")).expect("it is let in").close();
    // It is of the same issuer, which vouched for it.
    assert_eq!(publish(&mut client, "a", 1)["op"], "ok");
    assert_eq!(server.count.load(Ordering::SeqCst), 1);
    drop(silence);
    client.close();
    broker.stop();
}

/// One that is let in already, and brings a token of a key that is not there yet.
#[test]
fn a_renewal_by_a_key_that_is_not_there_leaves_everything_as_it_is() {
    let (first, second) = (Signer::new("1"), Signer::new("2"));
    let server = Server::new(&[&first]);
    let broker = Broker::start(1, &[&server.setting(), ROLES, "auth.jwks_refetch_s_min=1"]);
    broker.wait_for_metric(&format!("{TAKEN} 1"));
    for language in BOTH {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut client = bring(&broker, language, &first.token("bob")).expect("it is let in");
            let answer = client.ask(json!({"op": "auth", "token": second.token("bob"), "id": 1}));
            assert_eq!((&answer["op"], &answer["for"]), (&json!("error"), &json!("auth")), "{answer}");
            assert_eq!(publish(&mut client, "a", 1)["op"], "ok");
            client.close();
            if answer["code"] == "unavailable" {
                break;
            }
            // The set is fresh.
            assert_eq!(answer["code"], "unauthorized", "{answer}");
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }
    broker.stop();
}

/// The bound is the broker's, whatever is asked of it meanwhile.
#[test]
fn strangers_who_name_keys_that_they_made_up_cause_no_more_than_the_fetch_of_the_start() {
    let (first, made_up) = (Signer::new("1"), Signer::new("made-up"));
    let server = Server::new(&[&first]);
    let settings = [&*server.setting(), ROLES, "auth.jwks_refetch_s_min=3600", "auth.failure_delay_ms=0"];
    let broker = Broker::start(2, &settings);
    broker.wait_for_metric(&format!("{TAKEN} 1"));
    for _ in 0..50 {
        let refused = bring(&broker, Language::Json, &made_up.token("bob")).err();
        assert_eq!(refused, Some(Received::Close(4001, "unauthorized".into())));
    }
    broker.stop();
    assert_eq!(server.count.load(Ordering::SeqCst), 1);
}
