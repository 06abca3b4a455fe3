//! Against a server of ours, on a thread of its own, which answers whatever it is told to.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};

use socket2::{Domain, Socket, Type};

use super::*;
use crate::access::forge::pem;

/// What is not to happen takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that handles each connection by `serve`, and its port.
fn server(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap())));
    port
}

fn read_request(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len == 1) {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

/// A server that answers each request by `answer`.
fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> u16 {
    server(move |mut stream| {
        let answer = answer(&read_request(&mut stream));
        // Whoever has read enough goes away.
        let _ = stream.write_all(&answer);
    })
}

fn issuer(url: &str) -> Issuer {
    Issuer { iss: "login".into(), jwks_url: url.into(), ..Issuer::default() }
}

fn key_url(url: &str, authorities: Option<&str>) -> Arc<KeyUrl> {
    let ca_file = authorities.map(|_| "/ca".into());
    let issuer = Issuer { jwks_ca_file: ca_file, ..issuer(url) };
    let read = |_: &Path| Ok(authorities.unwrap_or_default().as_bytes().to_vec());
    Arc::new(KeyUrl::of(&issuer, vec![Algorithm::Es256], read).unwrap().expect("it is allowed"))
}

fn fetch_within(from: &Arc<KeyUrl>, limit: Duration) -> Result<Fetched, FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fetch(from, limit))
}

fn fetch_from(port: u16) -> Result<Fetched, FetchError> {
    fetch_within(&key_url(&format!("http://127.0.0.1:{port}/keys?v=1"), None), PATIENCE)
}

#[test]
fn a_body_is_fetched_and_how_long_it_may_be_kept() {
    for (headers, life_s) in [
        ("", None),
        ("Cache-Control: max-age=120\r\n", Some(120)),
        ("Cache-Control: public, Max-Age=\"7\", must-revalidate\r\n", Some(7)),
        ("Cache-Control: no-cache\r\nCache-Control: max-age=0\r\n", Some(0)),
        ("Cache-Control: max-age=-1\r\n", None),
        ("Cache-Control: max-age=99999999999999999999999\r\n", None),
        ("Cache-Control: s-maxage=5, maxage=6\r\n", None),
    ] {
        let port = answering(move |request| {
            assert!(request.starts_with("GET /keys?v=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.to_ascii_lowercase().contains("\r\nhost: 127.0.0.1:"), "{request}");
            format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 2\r\n\r\n{{}}").into()
        });
        let fetched = fetch_from(port).unwrap();
        assert_eq!(
            (&*fetched.body, fetched.life),
            (&b"{}"[..], life_s.map(Duration::from_secs)),
            "{headers}"
        );
    }
    // Until the end of the connection, and in pieces.
    for answer in
        ["Connection: close\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"]
    {
        let port = answering(move |_| format!("HTTP/1.1 200 OK\r\n{answer}").into());
        assert_eq!(&*fetch_from(port).unwrap().body, b"abc");
    }
}

#[test]
fn what_is_no_answer_is_none_and_says_why() {
    let huge = move |head: &'static str| {
        move |_: &str| {
            let mut answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n").into_bytes();
            answer.resize(answer.len() + KEYS_BYTES_MAX + 1, b' ');
            answer
        }
    };
    for (port, why) in [
        (answering(huge("Connection: close\r\n")), "more than 262144 bytes"),
        (answering(huge("Content-Length: 262145\r\n")), "more than 262144 bytes"),
        (answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".into()), "the answer was cut off"),
        (
            answering(|_| b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into()),
            "the answer is 404 Not Found",
        ),
        (answering(|_| b"HTTP/1.1 204 No Content\r\n\r\n".into()), "the answer is 204 No Content"),
        (
            answering(|_| {
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\"\xe2\x80\xae\r\nContent-Length: 0\r\n\r\n".into()
            }),
            "the answer is 302 Found to \"http://127.0.0.1:1/\\\"\\u{202e}\"",
        ),
        (answering(|_| b"SSH-2.0-OpenSSH_9.2\r\n".into()), "no answer over HTTP"),
        (answering(|_| Vec::new()), "no answer over HTTP"),
        (
            answering(|_| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).into()),
            "no answer over HTTP",
        ),
    ] {
        let error = fetch_from(port).expect_err(why).to_string();
        assert!(error.starts_with(why), "{error}");
    }
    // A port that is taken, and at which nobody listens.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let error = fetch_from(port).unwrap_err().to_string();
    assert!(error.starts_with(&format!("127.0.0.1:{port} is not reached: ")), "{error}");
}

#[test]
fn one_that_says_nothing_or_little_is_given_up() {
    let silent = server(|mut stream| _ = stream.read_to_end(&mut Vec::new()));
    let slow = server(|mut stream| {
        read_request(&mut stream);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
        // A byte as often as it is taken, until nobody takes it.
        let _ = stream.write_all(head);
        while stream.write_all(b" ").is_ok() && stream.peek(&mut [0]).is_err() {}
        let _ = stream.read_to_end(&mut Vec::new());
    });
    for port in [silent, slow] {
        let from = key_url(&format!("http://127.0.0.1:{port}/"), None);
        let error = fetch_within(&from, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, FetchError::TooSlow), "{error}");
    }
}

/// A certificate of an authority in PEM, and what a server of these names is to say by it.
fn authority(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let authority = rcgen::Issuer::new(params, key);
    let server_key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let server = CertificateParams::new(names).unwrap().signed_by(&server_key, &authority).unwrap();
    let key = PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    (pem("CERTIFICATE", certificate.der()), Arc::new(config))
}

fn answering_over_tls(config: Arc<ServerConfig>) -> u16 {
    server(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        let request = read_request(&mut stream);
        if !request.is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            let _ = stream.flush();
        }
    })
}

#[test]
fn a_server_proves_by_an_authority_of_the_operators_that_it_is_whom_it_is_taken_for() {
    let (ours, config) = authority(&["127.0.0.1", "localhost"]);
    let (others, _) = authority(&["127.0.0.1"]);
    let port = answering_over_tls(config);
    let here = format!("https://127.0.0.1:{port}/");
    let (_, misnamed) = authority(&["127.0.0.2"]);
    let misnamed = format!("https://127.0.0.1:{}/", answering_over_tls(misnamed));
    let no_tls = server(|mut stream| _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
    let no_tls = format!("https://127.0.0.1:{no_tls}/");
    for (url, authorities, is_taken) in [
        (&here, Some(&*ours), true),
        (&format!("https://localhost:{port}/"), Some(&*ours), true),
        (&here, Some(&*others), false),
        // Not of those whom this machine trusts, if it does any.
        (&here, None, false),
        (&here, Some(&*format!("{others}{ours}")), true),
        (&misnamed, Some(&*ours), false),
        (&no_tls, Some(&*ours), false),
    ] {
        match fetch_within(&key_url(url, authorities), PATIENCE) {
            Ok(fetched) => assert_eq!((&*fetched.body, is_taken), (&b"{}"[..], true)),
            Err(FetchError::Tls(_)) => assert!(!is_taken, "{url}"),
            Err(error) => {
                assert!(authorities.is_none() && matches!(error, FetchError::NoAuthorities), "{error}")
            }
        }
    }
}

#[test]
fn a_file_of_authorities_holds_one() {
    let (ours, _) = authority(&["localhost"]);
    for (text, why) in [
        ("", Some("holds no certificate of an authority")),
        ("x", Some("holds no certificate of an authority")),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", Some("holds no certificate")),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", Some("is not PEM")),
        (&*ours, None),
    ] {
        let issuer = Issuer { jwks_ca_file: Some("/ca".into()), ..issuer("https://a/") };
        let read = KeyUrl::of(&issuer, Vec::new(), |_| Ok(text.into()));
        let error = read.err();
        assert_eq!(error.is_some(), why.is_some(), "{text}: {error:?}");
        if let (Some(error), Some(why)) = (error, why) {
            assert!(error.starts_with(&format!("auth.issuers.jwks_ca_file = \"/ca\" {why}")), "{error}");
        }
    }
}

#[test]
fn an_address_is_told_without_its_query() {
    assert_eq!(key_url("https://a.example/keys?secret=1", None).to_string(), "https://a.example/keys");
}

#[test]
fn one_look_up_is_under_way_at_a_time() {
    let from = key_url("http://127.0.0.1:1/", None);
    from.is_looking.store(true, Ordering::Relaxed);
    assert!(matches!(fetch_within(&from, PATIENCE), Err(FetchError::StillLooking)));
    from.is_looking.store(false, Ordering::Relaxed);
    assert!(matches!(fetch_within(&from, PATIENCE), Err(FetchError::Connect(..))));
    // It is over, whatever came of it.
    assert!(matches!(fetch_within(&from, PATIENCE), Err(FetchError::Connect(..))));
}
