//! Where clients come from, each scene arranged on purpose: bans, and proxies that say whose a connection is.
//!
//! The oracle knows of no addresses, so that these clients are none of its.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::{
    access::Access,
    config::load::{Sources, load_text},
    metrics::Trouble,
    uring::sim::Peer,
};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const REQUEST: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Clients are asked for tokens, of which there is none.
fn asking() -> Option<Arc<Access>> {
    Some(Arc::new(Access::new(1, Vec::new())))
}

fn request(lines: &str) -> Vec<u8> {
    format!("{REQUEST}{lines}\r\n").into_bytes()
}

/// The header of a connection that [`PROXY`] passes on for `client`.
fn proxied(client: Ipv4Addr) -> Vec<u8> {
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&head[..], &client.octets(), &[10, 0, 0, 2, 0x30, 0x39, 1, 0xbb]].concat()
}

impl World {
    /// A client from `address` sends this first.
    fn come(&mut self, address: IpAddr, bytes: &[u8]) -> Peer {
        let peer = self.net.connect_from(address, 0);
        self.net.write(peer, bytes);
        self.settle();
        peer
    }

    fn told(&mut self, peer: Peer) -> String {
        let mut bytes = Vec::new();
        self.net.read(peer, usize::MAX, &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn closed_for(&self, reason: CloseReason) -> u64 {
        self.reactor(0).desk().stats.closes_total[reason.index()]
    }
}

/// Tokens that are none, and a frame that is none: whoever did that is closed at its accept, takes no slot, and holds nobody up,
/// however often it comes; until its time is over. What is no request does not count.
#[test]
fn whoever_is_banned_is_closed_at_its_accept_and_nobody_else_is() {
    const BAN_NS: u64 = 3_000 * SECOND;
    let configure = |config: &mut Config| {
        (config.access.ban_failures, config.access.ban_s) = (3, BAN_NS / 1_000_000_000);
        config.auth.failure_delay_ms = 0;
    };
    let mut world = World::new(Knobs { access: asking(), configure, ..Knobs::calm(1) });
    let [banned, neighbour]: [IpAddr; 2] = ["203.0.113.7", "203.0.113.8"].map(|text| text.parse().unwrap());
    let frame = [request(""), vec![0xff; 14]].concat();
    let (junk, guess) = (b"\x16\x03\x01".to_vec(), request("Authorization: Bearer x\r\n"));
    for bytes in [&junk, &guess, &junk, &guess, &junk, &frame] {
        let peer = world.come(banned, bytes);
        assert!(!world.told(peer).is_empty());
        world.net.close(peer);
        world.settle();
    }
    let slot_count = world.reactor(0).desk().connections.slot_count();
    for _ in 0..1_000 {
        let peer = world.come(banned, &request(""));
        assert_eq!(world.told(peer), "");
    }
    assert_eq!(world.closed_for(CloseReason::Banned), 1_000);
    assert_eq!(world.reactor(0).desk().connections.slot_count(), slot_count);
    let waiting = world.come(neighbour, &request(""));
    assert!(world.told(waiting).contains("101 Switching"));
    for _ in 0..5 {
        let local = world.come(Ipv4Addr::LOCALHOST.into(), &guess);
        assert!(world.told(local).contains("101 Switching"), "this machine is not banned");
    }
    world.pass(BAN_NS);
    let again = world.come(banned, &request(""));
    assert!(world.told(again).contains("101 Switching"));
}

/// Whoever has opened connections before the last strike has no more guesses by them: neither where they send their request after
/// it, nor where they have, and bring a token by `auth`.
#[test]
fn a_ban_holds_for_connections_that_are_there_and_not_let_in() {
    const STRIKES: u32 = 3;
    let configure = |config: &mut Config| {
        (config.access.ban_failures, config.access.ban_s) = (STRIKES, 3_000);
        config.auth.failure_delay_ms = 0;
    };
    let guesser: IpAddr = "203.0.113.7".parse().unwrap();
    let auth = stranger::text_frame(r#"{"op":"auth","token":"x"}"#);
    for (first, guess, answer) in [
        (Vec::new(), request("Authorization: Bearer x\r\n"), "429 Too Many Requests"),
        (request(""), auth, "your address has brought too many tokens"),
    ] {
        let mut world = World::new(Knobs { access: asking(), configure, ..Knobs::calm(1) });
        let peers: Vec<Peer> = (0..20).map(|_| world.come(guesser, &first)).collect();
        peers.iter().for_each(|peer| _ = world.told(*peer));
        for peer in &peers {
            world.net.write(*peer, &guess);
            world.settle();
        }
        let looked_at: u64 = world.reactor(0).desk().stats.credentials_refused_total.iter().sum();
        assert_eq!(looked_at, u64::from(STRIKES), "{answer}");
        let told = peers.iter().map(|peer| world.told(*peer));
        assert_eq!(told.filter(|told| told.contains(answer)).count(), 17, "{answer}");
        peers.iter().for_each(|peer| world.net.close(*peer));
        world.settle();
        assert_eq!(world.closed_for(CloseReason::Banned), 17, "{answer}");
        assert!(world.reactor(0).desk().door.is_empty());
    }
}

/// Each is answered late, but for those that are too many, who have left the door before the turn's end.
#[test]
fn the_audit_says_whose_address_failed_through_a_proxy() {
    let configure = |config: &mut Config| {
        let text = "[proxy]\ntrusted = [\"10.0.0.0/8\"]\nprotocol = \"v2\"\n";
        config.proxy = load_text("", text, &Sources::default()).expect("a configuration").proxy;
        config.auth.failure_delay_ms = 60_000;
    };
    let mut world = World::new(Knobs { access: asking(), configure, ..Knobs::calm(1) });
    let clients = [1, 2, 3, 4].map(|host| Ipv4Addr::new(203, 0, 113, host));
    for client in clients {
        world.come(PROXY, &[proxied(client), request("Authorization: Bearer x\r\n")].concat());
    }
    let audit = &world.shared.audit;
    let addresses: Vec<_> = std::iter::from_fn(|| audit.pop()).map(|event| event.address).collect();
    assert_eq!(addresses, clients.map(|client| Some(client.into())));
}

/// Nothing was asked of addresses before.
#[test]
fn a_reload_begins_to_ask_where_clients_come_from() {
    let mut world =
        World::new(Knobs { configure: |config| config.access.ban_failures = 0, ..Knobs::calm(1) });
    assert!(!world.reactor(0).desk().door.is_asking);
    world.knobs.access = asking();
    world.knobs.configure = |config| {
        let text = "[access]\ndeny = [\"203.0.113.66\"]\nban_failures = 2\n";
        config.access = load_text("", text, &Sources::default()).expect("a configuration").access;
    };
    world.reload();
    world.settle();
    world.come("203.0.113.66".parse().unwrap(), &request(""));
    assert_eq!(world.closed_for(CloseReason::Denied), 1);
    for _ in 0..3 {
        world.come("203.0.113.7".parse().unwrap(), &request("Authorization: Bearer x\r\n"));
    }
    assert_eq!(world.closed_for(CloseReason::Banned), 1);
}

/// There is nothing to guess.
#[test]
fn no_address_is_asked_for_bans_where_nobody_is_asked_who_it_is() {
    let mut world =
        World::new(Knobs { configure: |config| config.access.ban_failures = 2, ..Knobs::calm(1) });
    world.net.connect_from("203.0.113.7".parse().unwrap(), 0);
    world.settle();
    let door = &world.reactor(0).desk().door;
    assert!(!door.is_asking && door.is_empty());
}

#[test]
fn nothing_is_kept_of_where_those_come_from_who_are_let_in() {
    let configure = |config: &mut Config| config.limits.upgrades_per_s_per_address_max = 10;
    let mut world = World::new(Knobs { configure, ..Knobs::calm(1) });
    let address: IpAddr = "203.0.113.7".parse().unwrap();
    let stranger = world.net.connect_from(address, 0);
    world.settle();
    assert!(!world.reactor(0).desk().door.is_empty());
    world.net.write(stranger, &request(""));
    world.settle();
    assert!(world.told(stranger).contains("101 Switching"));
    assert!(world.reactor(0).desk().door.is_empty());
}

/// Its PROXY header names nobody, and its line does; that of a client whom the header names is the client's own.
#[test]
fn a_proxy_without_a_client_in_its_header_may_name_one_by_its_line() {
    let configure = |config: &mut Config| {
        let text = "[access]\ndeny = [\"203.0.113.66\"]\n[proxy]\ntrusted = [\"10.0.0.0/8\"]\n\
                    protocol = \"v2\"\nheader = \"x-forwarded-for\"\n";
        let loaded = load_text("", text, &Sources::default()).expect("a configuration");
        (config.access, config.proxy) = (loaded.access, loaded.proxy);
    };
    let mut world = World::new(Knobs { configure, ..Knobs::calm(1) });
    let of_itself = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let of_client = proxied(Ipv4Addr::new(203, 0, 113, 7));
    for (header, client, status) in [
        (&of_itself, "203.0.113.66", "403 Forbidden"),
        (&of_itself, "203.0.113.7", "101 Switching"),
        (&of_client, "203.0.113.66", "101 Switching"),
    ] {
        let line = format!("X-Forwarded-For: {client}\r\n");
        let peer = world.come(PROXY, &[header.clone(), request(&line)].concat());
        let told = world.told(peer);
        assert!(told.contains(status), "{client}: {told}");
    }
}

/// The operator is told of who is turned away at its accept.
#[test]
fn the_operator_is_told_of_who_is_denied() {
    let configure = |config: &mut Config| {
        let text = "[access]\ndeny = [\"203.0.113.66\"]\n";
        config.access = load_text("", text, &Sources::default()).expect("a configuration").access;
    };
    let mut world = World::new(Knobs { configure, ..Knobs::calm(1) });
    for host in [66, 67] {
        world.come(Ipv4Addr::new(203, 0, 113, host).into(), &request(""));
    }
    assert_eq!(world.closed_for(CloseReason::Denied), 1);
    assert_eq!(world.shared.troubles.count(Trouble::Denied), 1);
}

/// Directly they are closed at their accept, and by a proxy, which is on no list itself, they are answered. What a stranger says of
/// itself is no header.
#[test]
fn whoever_comes_from_where_nobody_may_is_not_let_in() {
    let configure = |config: &mut Config| {
        let listed = "[access]\nallow = [\"203.0.113.0/24\", \"2001:db8::/32\"]\ndeny = [\"203.0.113.66\"]\n\
                      [proxy]\ntrusted = [\"10.0.0.0/8\"]\nprotocol = \"v2\"\n";
        let loaded = load_text("", listed, &Sources::default()).expect("a configuration");
        (config.access, config.proxy) = (loaded.access, loaded.proxy);
    };
    let mut world = World::new(Knobs { configure, ..Knobs::calm(1) });
    for (address, is_let_in) in [
        ("203.0.113.7", true),
        ("203.0.113.66", false),
        ("198.51.100.7", false),
        ("2001:db8::7", true),
        ("2001:db9::7", false),
    ] {
        let address: IpAddr = address.parse().unwrap();
        let direct = world.come(address, &request(""));
        let told = world.told(direct);
        assert!(
            if is_let_in { told.contains("101 Switching") } else { told.is_empty() },
            "{address}: {told}"
        );
        if let IpAddr::V4(client) = address {
            let passed_on = world.come(PROXY, &[proxied(client), request("")].concat());
            let told = world.told(passed_on);
            let status = if is_let_in { "101 Switching" } else { "403 Forbidden" };
            assert!(told.contains(status), "{address} by a proxy: {told}");
        }
    }
    let of_itself = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let own = world.come(PROXY, &[&of_itself[..], &request("")].concat());
    assert!(world.told(own).contains("403 Forbidden"), "a proxy that speaks for itself is judged as itself");
    assert_eq!(world.closed_for(CloseReason::Denied), 3);
    let stranger: IpAddr = "203.0.113.9".parse().unwrap();
    let claiming = world.come(stranger, &[proxied(Ipv4Addr::new(203, 0, 113, 7)), request("")].concat());
    assert!(world.told(claiming).contains("400 Bad Request"));
}

/// One client of a proxy that writes a line into its requests guesses; another of the same proxy does not, and neither does the proxy.
#[test]
fn whoever_a_proxys_line_names_is_banned_and_nobody_else_is() {
    let configure = |config: &mut Config| {
        let listed = "[proxy]\ntrusted = [\"10.0.0.0/8\"]\nheader = \"x-forwarded-for\"\n";
        config.proxy = load_text("", listed, &Sources::default()).expect("a configuration").proxy;
        (config.access.ban_failures, config.auth.failure_delay_ms) = (3, 0);
    };
    let mut world = World::new(Knobs { access: asking(), configure, ..Knobs::calm(1) });
    let named = |client: &str, lines: &str| request(&format!("X-Forwarded-For: {client}\r\n{lines}"));
    let guess = "Authorization: Bearer x\r\n";
    for _ in 0..3 {
        world.come(PROXY, &named("198.51.100.1, 203.0.113.7, 10.0.0.9", guess));
    }
    for (client, status) in [
        ("203.0.113.7", "429 Too Many Requests"),
        ("198.51.100.1, 203.0.113.7", "429 Too Many Requests"),
        ("203.0.113.7, 198.51.100.1", "101 Switching"),
        ("203.0.113.8", "101 Switching"),
    ] {
        let peer = world.come(PROXY, &named(client, ""));
        let told = world.told(peer);
        assert!(told.contains(status), "{client}: {told}");
    }
    // Without the line, or with what is none, it is the proxy; and what is no request is nobody's.
    for _ in 0..2 {
        for bytes in [request(guess), named("?", guess), b"\x16\x03\x01".to_vec()] {
            let peer = world.come(PROXY, &bytes);
            assert!(!world.told(peer).is_empty());
        }
    }
    let own = world.come(PROXY, &request(""));
    assert!(world.told(own).contains("101 Switching"));
    assert_eq!(world.shared.addresses.ban_count(world.now_ns / MS), 1);
}

/// Under every accident of the network: headers and requests in pieces, of clients that each may have two connections.
#[test]
fn each_client_of_a_proxy_has_what_an_address_may_have() {
    let configure = |config: &mut Config| {
        let listed = "[proxy]\ntrusted = [\"10.0.0.0/8\"]\nprotocol = \"v2\"\n";
        let loaded = load_text("", listed, &Sources::default()).expect("a configuration");
        config.proxy = loaded.proxy;
        config.limits.connections_per_address_max = 2;
    };
    for seed in 0..20 {
        let mut net = SimConfig::calm(seed, 1);
        net.trouble = 6;
        let mut world = World::new(Knobs { net, configure, ..Knobs::calm(1) });
        let mut rng = Rng::new(seed);
        let mut unsent: Vec<(Peer, Ipv4Addr, Vec<u8>)> = (0..24)
            .map(|number| {
                let client = Ipv4Addr::new(203, 0, 113, number % 8);
                (world.net.connect_from(PROXY, 0), client, [proxied(client), request("")].concat())
            })
            .collect();
        let peers: Vec<(Peer, Ipv4Addr)> = unsent.iter().map(|(peer, client, _)| (*peer, *client)).collect();
        while !unsent.is_empty() {
            let at = rng.below(unsent.len());
            let (peer, _, bytes) = &mut unsent[at];
            let piece: Vec<u8> = bytes.drain(..rng.below(bytes.len()) + 1).collect();
            world.net.write(*peer, &piece);
            if bytes.is_empty() {
                unsent.swap_remove(at);
            }
            world.turns(0, rng.below(3));
        }
        world.settle();
        let mut upgraded = [0; 8];
        for (peer, client) in &peers {
            let told = world.told(*peer);
            assert!(told.contains("101 Switching") || told.contains("429 Too Many"), "seed {seed}: {told}");
            upgraded[usize::from(client.octets()[3])] += usize::from(told.contains("101 Switching"));
        }
        assert_eq!(upgraded, [2; 8], "seed {seed}");
        peers.iter().for_each(|(peer, _)| world.net.close(*peer));
        world.settle();
        assert!(world.shared.addresses.is_empty(), "seed {seed}: whoever has gone counts no more");
    }
}

/// They come and go in the middle of their header: nothing is left of them.
#[test]
fn half_a_header_is_forgotten_with_its_connection() {
    let configure = |config: &mut Config| {
        let listed = "[proxy]\ntrusted = [\"10.0.0.0/8\"]\nprotocol = \"v2\"\n";
        config.proxy = load_text("", listed, &Sources::default()).expect("a configuration").proxy;
    };
    let mut world = World::new(Knobs { configure, ..Knobs::calm(1) });
    let start = proxied(Ipv4Addr::new(203, 0, 113, 7));
    for len in 0..start.len() {
        let peer = world.come(PROXY, &start[..len]);
        if len % 2 == 0 {
            world.net.close(peer);
        }
    }
    world.settle();
    world.pass(world.shared.config.timeouts.handshake_ms * 1_000_000 + 1_000_000_000);
    world.settle();
    assert_eq!(world.closed_for(CloseReason::HandshakeTimeout), start.len() as u64 / 2);
    assert!(world.reactor(0).desk().door.is_empty());
}
