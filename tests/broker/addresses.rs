//! Where clients come from: who is not let in, whose word about it counts, and who is banned.
//!
//! All of 127.0.0.0/8 is this machine's, so that several addresses can be had; those of clients behind a proxy are whatever
//! it says.

use std::{fs, net::IpAddr, path::PathBuf, time::Instant};

use crate::{
    auth::{ROLES, Tokens, new_token},
    common::{
        Broker, PATIENCE,
        raw::{Raw, UPGRADE},
    },
};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const TRUSTED: &str = r#"proxy.trusted=["127.0.0.1"]"#;
const V2: &str = "proxy.protocol=v2";
const FORWARDED_FOR: &str = "proxy.header=x-forwarded-for";

/// A PROXY header of what `command`, family and addresses say, with `rest` behind these.
fn header(command: u8, family: u8, addresses: &[u8], rest: &[u8]) -> Vec<u8> {
    let len = (addresses.len() + rest.len()) as u16;
    [&SIGNATURE[..], &[0x20 | command, family], &len.to_be_bytes(), addresses, rest].concat()
}

/// That of a client at `address`.
fn proxied(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(address) => {
            header(1, 0x11, &[&address.octets()[..], &[10, 0, 0, 1, 0x30, 0x39, 1, 0xbb]].concat(), &[])
        }
        IpAddr::V6(address) => header(1, 0x21, &[&address.octets()[..], &[0; 20]].concat(), &[]),
    }
}

fn with_lines(lines: &[&str]) -> String {
    UPGRADE.replace("\r\n\r\n", &format!("\r\n{}\r\n\r\n", lines.join("\r\n")))
}

/// A connection that has sent `bytes`.
fn sent(broker: &Broker, bytes: &[u8]) -> Raw {
    let mut raw = Raw::connect(broker.address);
    raw.send_while_taken(bytes, usize::MAX);
    raw
}

/// What a client at `address` gets that a proxy passes on with PROXY headers.
fn passed_on(broker: &Broker, address: &str, request: &str) -> Raw {
    sent(broker, &[&proxied(address), request.as_bytes()].concat())
}

fn closes(broker: &Broker, reason: &str) -> f64 {
    broker.total("fanfare_closes_total", &format!(r#",reason="{reason}""#))
}

fn wait_for_closes(broker: &Broker, reason: &str, count: f64) {
    broker.wait_for_total("fanfare_closes_total", &format!(r#",reason="{reason}""#), |it| it == count);
}

fn expect_status(raw: Raw, expected: u16) -> String {
    let (status, text) = raw.receive_answer();
    assert_eq!(status, expected, "{text}");
    text
}

#[test]
fn whoever_is_not_listed_is_closed_at_once() {
    for reactors in [1, 2] {
        let settings = [r#"access.allow=["127.0.0.0/30", "127.0.0.9"]"#, r#"access.deny=["127.0.0.2"]"#];
        let broker = Broker::start(reactors, &settings);
        let from = |host: u8| Raw::connect_from([127, 0, 0, host].into(), broker.address);
        for host in [1, 3, 9] {
            from(host).upgraded().close();
        }
        for host in [2, 4, 10] {
            let mut raw = from(host);
            raw.send_while_taken(UPGRADE.as_bytes(), usize::MAX);
            raw.expect_cut();
        }
        wait_for_closes(&broker, "denied", 3.0);
        assert_eq!(broker.total("fanfare_upgrades_total", ""), 3.0);
        broker.stop();
    }
}

/// Whoever is there stays; who comes from then on goes by the new lists.
#[test]
fn lists_change_under_way() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("addresses.toml");
    fs::write(&file, "[access]\ndeny = [\"127.0.0.2\"]\n").unwrap();
    let (broker, log) = Broker::start_logged(2, &[], |command| {
        command.arg("--config").arg(&file);
    });
    let from = |host: u8| Raw::connect_from([127, 0, 0, host].into(), broker.address);
    let mut held = from(3).upgraded();
    from(2).expect_cut();
    fs::write(&file, "[access]\ndeny = [\"127.0.0.3\"]\n").unwrap();
    broker.reload();
    log.wait_for(r#"access.deny = ["127.0.0.2"] → ["127.0.0.3"]"#);
    broker.wait_for_metric(r#"fanfare_reloads_total{result="applied"} 1"#);
    from(2).upgraded().close();
    for _ in 0..8 {
        from(3).expect_cut();
    }
    assert!(held.ask(r#"{"op":"ping"}"#)["op"] == "pong");
    broker.stop();
}

#[test]
fn a_trusted_proxy_says_whose_a_connection_is() {
    let settings = [
        TRUSTED,
        V2,
        "limits.connections_per_address_max=2",
        r#"access.deny=["203.0.113.66", "2001:db8:bad::/48"]"#,
    ];
    let broker = Broker::start(2, &settings);
    let open = |address: &str| {
        let mut raw = passed_on(&broker, address, UPGRADE);
        raw.expect_upgraded();
        raw
    };
    // Each has its own two, however many come by the one proxy.
    let held: Vec<Raw> = (0..10).map(|host| open(&format!("203.0.113.{}", host / 2))).collect();
    let of_network: Vec<Raw> = (1..=2).map(|host| open(&format!("2001:db8:0:1::{host}"))).collect();
    for address in ["203.0.113.0", "203.0.113.4", "2001:db8:0:1::3", "::ffff:203.0.113.1"] {
        let text = expect_status(passed_on(&broker, address, UPGRADE), 429);
        assert!(text.contains("limits.connections_per_address_max"), "{text}");
    }
    wait_for_closes(&broker, "address_limit", 4.0);
    for address in ["203.0.113.66", "2001:db8:bad::1"] {
        let text = expect_status(passed_on(&broker, address, UPGRADE), 403);
        assert!(text.contains("takes no connections from your address"), "{text}");
    }
    wait_for_closes(&broker, "denied", 2.0);
    // Who leaves makes room, for the same address.
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    while passed_on(&broker, "203.0.113.0", UPGRADE).receive_head().starts_with("HTTP/1.1 429") {
        assert!(Instant::now() < deadline, "nobody leaves");
    }
    // The proxy itself counts as any other address, where it speaks for itself.
    for raw in of_network {
        raw.close();
    }
    let health = [&header(0, 0, &[], &[])[..], b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
    expect_status(sent(&broker, &health), 200);
    broker.stop();
}

#[test]
fn a_proxy_header_may_come_in_pieces() {
    let broker = Broker::start(1, &[TRUSTED, V2]);
    let unix = header(1, 0x31, &[b'/'; 216], &[4, 0, 2, 0, 0]);
    for start in [
        proxied("203.0.113.7"),
        proxied("2001:db8::7"),
        header(0, 0, &[], &[]),
        header(1, 0, b"abc", &[]),
        unix,
    ] {
        for piece_len in [1, 7, start.len() - 1, start.len(), start.len() + 1] {
            let mut raw = Raw::connect(broker.address);
            let all = [&start, UPGRADE.as_bytes()].concat();
            raw.send_while_taken(&all, piece_len);
            raw.expect_upgraded();
            raw.close();
        }
    }
    broker.stop();
}

#[test]
fn a_trusted_proxy_without_a_good_header_is_not_served() {
    let broker = Broker::start(1, &[TRUSTED, V2]);
    let text = expect_status(sent(&broker, UPGRADE.as_bytes()), 400);
    assert!(text.contains("proxy.trusted") && text.contains("PROXY protocol, version 2"), "{text}");
    expect_status(sent(&broker, b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 443\r\n"), 400);
    let client = [203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 1, 0xbb];
    let long = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
    let broken = [
        header(1, 0x11, &client, &[3, 0, 4, 1, 2, 3, 4]),
        header(1, 0x11, &client, &[4, 0]),
        header(1, 0x12, &client, &[]),
        header(1, 0x21, &client, &[]),
        header(2, 0x11, &client, &[]),
        [&SIGNATURE[..], &[0x11, 0x11, 0, 0]].concat(),
        long,
    ];
    for start in &broken {
        let mut raw = sent(&broker, start);
        raw.send_while_taken(UPGRADE.as_bytes(), usize::MAX);
        raw.expect_cut();
    }
    wait_for_closes(&broker, "proxy_header", 2.0 + broken.len() as f64);
    assert_eq!(broker.total("fanfare_upgrades_total", ""), 0.0);
    broker.stop();
}

/// It is what it says without a header, and with one it is no request.
#[test]
fn the_header_of_a_stranger_is_not_looked_at() {
    let broker = Broker::start(1, &[TRUSTED, V2, r#"access.deny=["203.0.113.7"]"#]);
    let from_elsewhere = || Raw::connect_from([127, 0, 0, 2].into(), broker.address);
    from_elsewhere().upgraded().close();
    for address in ["203.0.113.7", "203.0.113.8"] {
        let mut raw = from_elsewhere();
        raw.send_while_taken(&[&proxied(address), UPGRADE.as_bytes()].concat(), usize::MAX);
        expect_status(raw, 400);
    }
    wait_for_closes(&broker, "http_malformed", 2.0);
    assert_eq!(closes(&broker, "denied"), 0.0);
    broker.stop();
}

/// Three times as many as may be upgrading send half a header and fall silent: others get in, and the deadline ends the rest.
#[test]
fn half_a_header_holds_nobody_up() {
    const BOUND: usize = 20;
    let settings = [TRUSTED, V2, "limits.upgrading_max=20", "timeouts.handshake_ms=3000"];
    let broker = Broker::start(1, &settings);
    let start = proxied("203.0.113.7");
    let silent: Vec<Raw> = (0..3 * BOUND).map(|half| sent(&broker, &start[..half % 20])).collect();
    for _ in 0..BOUND {
        let mut raw = passed_on(&broker, "203.0.113.8", UPGRADE);
        raw.expect_upgraded();
        raw.close();
    }
    assert!(broker.total("fanfare_upgrading", "") <= BOUND as f64);
    silent.into_iter().for_each(Raw::expect_cut);
    let deadline = Instant::now() + PATIENCE;
    while broker.closed_count() < 4.0 * BOUND as f64 {
        assert!(Instant::now() < deadline, "somebody is held");
    }
    let ended = closes(&broker, "displaced") + closes(&broker, "handshake_timeout");
    assert_eq!(ended, 3.0 * BOUND as f64);
    broker.stop();
}

#[test]
fn a_trusted_proxys_line_says_whose_a_request_is() {
    let settings = [
        r#"proxy.trusted=["127.0.0.1", "10.0.0.0/8"]"#,
        FORWARDED_FOR,
        r#"access.deny=["203.0.113.66"]"#,
        "limits.connections_per_address_max=1",
    ];
    let broker = Broker::start(2, &settings);
    let ask = |lines: &[&str]| sent(&broker, with_lines(lines).as_bytes());
    let mut held =
        ask(&["X-Forwarded-For: 203.0.113.66, 203.0.113.7, 10.0.0.3", "X-Forwarded-For: 10.0.0.2"]);
    held.expect_upgraded();
    for lines in [
        &["X-Forwarded-For: 203.0.113.7"][..],
        &["X-Forwarded-For: 198.51.100.1", "x-forwarded-for: 203.0.113.7:4711"],
        &["X-Forwarded-For: 203.0.113.8, [::ffff:203.0.113.7]"],
    ] {
        let text = expect_status(ask(lines), 429);
        assert!(text.contains("Retry-After: 5"), "{lines:?}: {text}");
    }
    for lines in
        [&["X-Forwarded-For: 203.0.113.66"][..], &["X-Forwarded-For: 203.0.113.7, 203.0.113.66, 10.0.0.1"]]
    {
        expect_status(ask(lines), 403);
    }
    // What cannot be read ends it: here the proxy before is the client, and where none is left the peer.
    let mut last_good = ask(&["X-Forwarded-For: 203.0.113.66, unknown, 10.0.0.9"]);
    last_good.expect_upgraded();
    let hundred: Vec<String> = (0..100).map(|host| format!("10.0.1.{host}")).collect();
    let mut of_proxies = ask(&[&format!("X-Forwarded-For: 203.0.113.66, {}", hundred.join(", "))]);
    of_proxies.expect_upgraded();
    let mut of_garbage = ask(&["X-Forwarded-For: 203.0.113.66, \u{1F600}"]);
    of_garbage.expect_upgraded();
    expect_status(ask(&[]), 429);
    broker.stop();
}

/// Whoever may write to the socket is trusted, or nobody.
#[test]
fn a_proxy_at_a_unix_socket_says_whose_a_connection_is() {
    let path = PathBuf::from("/tmp").join(format!("fanfare-addresses-{}.sock", std::process::id()));
    let settings = [r#"proxy.trusted=["unix"]"#, V2, "limits.connections_per_address_max=1"];
    let broker = Broker::start_at(&path, 1, &settings);
    let from = |bytes: &[u8]| {
        let mut raw = Raw::connect_unix(&path);
        raw.send_while_taken(&[bytes, UPGRADE.as_bytes()].concat(), usize::MAX);
        raw
    };
    let mut held = from(&proxied("203.0.113.7"));
    held.expect_upgraded();
    expect_status(from(&proxied("203.0.113.7")), 429);
    expect_status(from(&[]), 400);
    // The proxy itself has no address, which would be limited.
    let mut own = [from(&header(0, 0, &[], &[])), from(&header(0, 0, &[], &[]))];
    own.iter_mut().for_each(|raw| _ = raw.expect_upgraded());
    broker.stop();
}

#[test]
fn the_lines_of_a_stranger_are_not_looked_at() {
    let settings =
        [TRUSTED, FORWARDED_FOR, r#"access.deny=["203.0.113.66"]"#, "limits.connections_per_address_max=1"];
    let broker = Broker::start(1, &settings);
    let ask = |address: &str| {
        let mut raw = Raw::connect_from([127, 0, 0, 2].into(), broker.address);
        let lines =
            [&*format!("X-Forwarded-For: {address}"), "X-Forwarded-Proto: https", "Origin: http://localhost"];
        raw.send_while_taken(with_lines(&lines).as_bytes(), usize::MAX);
        raw
    };
    let mut held = ask("203.0.113.66");
    held.expect_upgraded();
    expect_status(ask("203.0.113.7"), 429);
    broker.stop();
}

/// The page could be written by whoever can change what comes over the network.
#[test]
fn behind_tls_a_page_without_is_none_of_the_brokers_own() {
    let broker = Broker::start(1, &[TRUSTED, r#"listen.hosts=["push.example.org"]"#]);
    let ask = |origin: &str, line: &str| {
        let request =
            with_lines(&[&format!("Origin: {origin}"), line]).replace("localhost", "push.example.org");
        sent(&broker, request.as_bytes())
    };
    for (origin, line) in [
        ("https://push.example.org", "X-Forwarded-Proto: https"),
        ("http://push.example.org", "X-Forwarded-Proto: http"),
        ("http://push.example.org", "X: y"),
    ] {
        ask(origin, line).expect_upgraded();
    }
    expect_status(ask("http://push.example.org", "X-Forwarded-Proto: https"), 403);
    broker.stop();
}

/// One client behind a proxy guesses tokens: it is kept out, and nobody else is, neither its proxy nor who else comes by that.
#[test]
fn whoever_guesses_tokens_is_banned_and_nobody_else() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("addresses-bans", &[&entry]);
    let settings = [
        &tokens.setting(),
        ROLES,
        TRUSTED,
        V2,
        "access.ban_failures=3",
        "access.ban_s=100",
        "auth.failure_delay_ms=0",
    ];
    let broker = Broker::start(2, &settings);
    let with = |token: &str| with_lines(&[&format!("Authorization: Bearer {token}")]);
    let mut held = passed_on(&broker, "2001:db8:0:1::1", &with(&token));
    held.expect_upgraded();
    // Three tokens, each from another address of its network; what is no request any page could send for it, and does not count.
    let not_http = || "\u{16}\u{3}\u{1}".to_owned();
    for (host, request) in [
        (2, with("ff_guess")),
        (3, not_http()),
        (4, with("ff_other")),
        (3, not_http()),
        (6, with("ff_third")),
    ] {
        let mut raw = passed_on(&broker, &format!("2001:db8:0:1::{host}"), &request);
        let head = raw.receive_head();
        match request.starts_with("GET") {
            true => assert_eq!(raw.receive_close().0, 4001, "{head}"),
            false => assert!(head.starts_with("HTTP/1.1 400"), "{head}"),
        }
    }
    for host in [5, 1] {
        let text = expect_status(passed_on(&broker, &format!("2001:db8:0:1::{host}"), &with(&token)), 429);
        assert!(text.contains("Retry-After: 9") || text.contains("Retry-After: 100"), "{text}");
    }
    broker.wait_for_metric("fanfare_bans 1");
    wait_for_closes(&broker, "banned", 2.0);
    held.send_text(r#"{"op":"ping"}"#);
    assert!(held.receive_text().contains("pong"), "whoever is there stays");
    for address in ["2001:db8:0:2::1", "203.0.113.7"] {
        let mut raw = passed_on(&broker, address, &with(&token));
        raw.expect_upgraded();
        raw.close();
    }
    // The proxy itself, and this machine, however often.
    for start in [header(0, 0, &[], &[]), proxied("127.0.0.9")] {
        for _ in 0..6 {
            let mut raw = sent(&broker, &[&start, with("ff_guess").as_bytes()].concat());
            raw.receive_head();
            assert_eq!(raw.receive_close().0, 4001);
        }
    }
    broker.wait_for_metric("fanfare_bans 1");
    broker.stop();
}

#[test]
fn an_address_upgrades_as_often_as_it_may() {
    let broker = Broker::start(2, &["limits.upgrades_per_s_per_address_max=1"]);
    let from = |host: u8| {
        let mut raw = Raw::connect_from([127, 0, 0, host].into(), broker.address);
        raw.send_while_taken(UPGRADE.as_bytes(), usize::MAX);
        raw
    };
    let mut first = from(2);
    first.expect_upgraded();
    // One that comes when the second is over is let in again.
    let heads = (0..1_000).map(|_| from(2).receive_head());
    let refused = heads.into_iter().find(|head| head.starts_with("HTTP/1.1 429"));
    assert!(refused.expect("one too many").contains("\r\nRetry-After: 1\r\n"));
    from(3).expect_upgraded();
    broker.wait_for_total("fanfare_closes_total", r#",reason="upgrade_rate""#, |count| count >= 1.0);
    broker.stop();
}

/// It has its hello, and an `auth` that is not accepted is a guess like any other.
#[test]
fn whoever_is_let_in_without_a_token_is_banned_for_guessing_too() {
    let (token, entry) = new_token("bob", &["chat"]);
    let tokens = Tokens::new("addresses-guest", &[&entry]);
    let roles = "auth.anonymous_roles=[\"guest\"]";
    let settings = [TRUSTED, V2, &tokens.setting(), ROLES, roles, "access.ban_failures=3"];
    let broker = Broker::start(2, &settings);
    let guest = |address: &str| {
        let mut raw = passed_on(&broker, address, UPGRADE);
        raw.expect_upgraded();
        raw
    };
    let auth = |token: &str| format!(r#"{{"op":"auth","token":"{token}","id":1}}"#);
    // Whoever has become somebody is known no more by where it comes from.
    let mut held = guest("203.0.113.7");
    assert_eq!(held.ask(&auth(&token))["op"], "ok");
    let mut late = guest("203.0.113.7");
    for _ in 0..3 {
        let mut raw = guest("203.0.113.7");
        assert_eq!(raw.ask(&auth("ff_guess"))["code"], "unauthorized");
        raw.close();
    }
    expect_status(passed_on(&broker, "203.0.113.7", UPGRADE), 429);
    // What was opened before has no guess left.
    late.send_text(&auth("ff_guess"));
    assert_eq!(late.receive_close().0, 4029);
    assert_eq!(held.ask(r#"{"op":"ping"}"#)["op"], "pong");
    guest("203.0.113.8").close();
    held.close();
    broker.stop();
}
