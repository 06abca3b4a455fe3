//! What clients may do changes while they do something, each scene arranged on purpose.
//!
//! The oracle knows of no rights, so that these clients are none of its: what they say and see is written out here.

use super::*;
use crate::{
    access::{
        Access,
        grants::{GrantTexts, Grants, ROLES_MAX, Role},
        static_token,
    },
    protocol::tenant::Tenant,
    uring::sim::Peer,
    work::{UNIT, price},
};

/// Everybody may publish, and subscribe to these.
fn access(version: u64, subscribe: &[&str]) -> Option<Arc<Access>> {
    access_of(version, subscribe, None)
}

/// The same of a tenant.
fn access_of(version: u64, subscribe: &[&str], tenant: Option<&str>) -> Option<Arc<Access>> {
    let subscribe = subscribe.iter().map(|filter| (*filter).to_owned()).collect();
    let texts = GrantTexts { publish: vec!["#".into()], subscribe, ..GrantTexts::default() };
    let grants = Grants::parse(&texts).expect("they are filters");
    let mut access = Access::new(version, vec![Role { name: "all".into(), grants }]);
    let token = static_token::digest(&static_token::from_random(&[7; 32])).expect("it is one");
    access.set_tenants(["acme", "globex"].map(|name| Tenant::new(name).expect("a name")));
    let globex = access.tenant("globex").cloned();
    access.admit_static_token("bob", ["all".into()].into(), globex, token);
    match tenant {
        None => access.admit_anonymous(["all".into()].into()),
        Some(tenant) => access.admit_anonymous_of(["all".into()].into(), tenant),
    }
    Some(Arc::new(access))
}

impl World {
    /// From now on clients may do what `access` says.
    fn allow(&mut self, access: Option<Arc<Access>>) {
        self.knobs.access = access;
        self.reload();
    }

    /// A client of reactor `index` that is let in.
    fn enter(&mut self, index: usize) -> Peer {
        let peer = self.net.connect(index);
        let request = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        self.net.write(peer, request);
        self.settle();
        assert!(self.heard(peer).contains(r#""op":"hello""#));
        peer
    }

    /// The client sends a message.
    fn send(&mut self, peer: Peer, text: &str) {
        self.net.write(peer, &stranger::text_frame(text));
    }

    /// What came to the client since it was asked last.
    fn heard(&mut self, peer: Peer) -> String {
        let mut bytes = Vec::new();
        self.net.read(peer, usize::MAX, &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What comes to the client until nothing does any more.
    fn hear_all(&mut self, peer: Peer) -> String {
        let mut all = String::new();
        loop {
            self.settle();
            match self.heard(peer) {
                heard if heard.is_empty() => return all,
                heard => all += &heard,
            }
        }
    }
}

/// The configuration before would have it that everybody is looked at.
#[test]
fn nobody_is_closed_who_was_to_be_looked_at_when_nobody_is_asked_any_more() {
    let mut world = World::new(Knobs::calm(1));
    world.allow(access(1, &["room/#"]));
    world.settle();
    let clients: Vec<Peer> = (0..4).map(|_| world.enter(0)).collect();
    for client in &clients {
        world.send(*client, r#"{"op":"subscribe","topic":"room/#"}"#);
    }
    world.settle();
    world.allow(access(2, &["room/#"]));
    world.allow(None);
    for client in clients {
        world.send(client, r#"{"op":"ping","id":1}"#);
        let heard = world.hear_all(client);
        assert!(heard.contains("pong"), "{heard}");
    }
}

/// It leaves a topic of which it is owed much, and subscribes to it again, which begins when it has left.
#[test]
fn a_subscription_that_waits_for_the_end_of_another_is_taken_back_as_well() {
    [None, Some("acme")].into_iter().for_each(take_back_what_waits);
}

fn take_back_what_waits(tenant: Option<&str>) {
    let mut world = World::new(Knobs::calm(1));
    world.allow(access_of(1, &["room/#"], tenant));
    world.settle();
    let (reader, publisher) = (world.enter(0), world.enter(0));
    world.send(reader, r#"{"op":"subscribe","topic":"room/1","id":1}"#);
    world.settle();
    world.heard(reader);
    world.net.set_window(reader, 10);
    for _ in 0..20 {
        let data = "x".repeat(200);
        world.send(publisher, &format!(r#"{{"op":"publish","topic":"room/1","data":"{data}"}}"#));
        world.settle();
    }
    world.send(reader, r#"{"op":"unsubscribe","topic":"room/1","id":2}"#);
    world.send(reader, r#"{"op":"subscribe","topic":"room/1","id":3}"#);
    world.settle();
    world.allow(access_of(2, &["news/#"], tenant));
    world.settle();
    world.net.set_window(reader, 1 << 20);
    let heard = world.hear_all(reader);
    assert!(heard.contains(r#"{"op":"ok","id":3,"topic":"room/1""#), "{heard}");
    assert!(heard.contains(r#"{"op":"unsubscribed","topic":"room/1","reason":"forbidden"}"#), "{heard}");
    world.send(publisher, r#"{"op":"publish","topic":"room/1","data":"late"}"#);
    assert_eq!(world.hear_all(reader), "");
}

/// Nothing that is still granted is taken back, and what is taken back is called as clients call it.
#[test]
fn a_tenant_s_subscriptions_are_looked_at_by_the_names_that_its_clients_know() {
    let mut world = World::new(Knobs::calm(2));
    world.allow(access_of(1, &["room/#"], Some("acme")));
    world.settle();
    let (reader, publisher) = (world.enter(0), world.enter(1));
    for filter in ["room/1", "room/2", "room/+/x", "room/1/#"] {
        world.send(reader, &format!(r#"{{"op":"subscribe","topic":"{filter}"}}"#));
    }
    world.settle();
    world.allow(access_of(2, &["room/1/#"], Some("acme")));
    let heard = world.hear_all(reader);
    for filter in ["room/2", "room/+/x"] {
        let told = format!(r#"{{"op":"unsubscribed","topic":"{filter}","reason":"forbidden"}}"#);
        assert!(heard.contains(&told), "{heard}");
    }
    assert_eq!(heard.matches("unsubscribed").count(), 2, "{heard}");
    for topic in ["room/1", "room/2", "room/1/x"] {
        world.send(publisher, &format!(r#"{{"op":"publish","topic":"{topic}","data":1}}"#));
    }
    let heard = world.hear_all(reader);
    assert_eq!(heard.matches(r#""op":"message""#).count(), 2, "{heard}");
    assert!(!heard.contains("room/2"), "{heard}");
}

#[test]
fn a_token_of_a_tenant_is_taken_before_the_first_subscription_alone() {
    let mut world = World::new(Knobs::calm(1));
    world.allow(access(1, &["room/#"]));
    world.settle();
    let token = static_token::from_random(&[7; 32]);
    let auth = format!(r#"{{"op":"auth","token":"{token}","id":5}}"#);
    let [early, late, publisher] = [(); 3].map(|()| world.enter(0));
    world.send(early, &auth);
    assert!(world.hear_all(early).contains(r#""op":"ok","id":5"#));
    for reader in [early, late] {
        world.send(reader, r#"{"op":"subscribe","topic":"room/1","id":1}"#);
        assert!(world.hear_all(reader).contains(r#""op":"ok","id":1"#));
    }
    world.send(late, &auth);
    let heard = world.hear_all(late);
    assert!(heard.contains(r#""for":"auth","id":5,"code":"forbidden""#), "{heard}");
    world.send(publisher, r#"{"op":"publish","topic":"room/1","data":1}"#);
    assert!(world.hear_all(late).contains(r#""data":1"#));
    assert_eq!(world.hear_all(early), "", "it is of globex, and the publisher of none");
}

/// What it is subscribed to is not what it would mean by the same names, and whoever is let in without a token later is not of it.
#[test]
fn nobody_keeps_a_tenants_topics_who_is_of_none() {
    let mut world = World::new(Knobs::calm(1));
    world.allow(access(1, &["room/#"]));
    world.settle();
    let token = static_token::from_random(&[7; 32]);
    let auth = format!(r#"{{"op":"auth","token":"{token}","id":5}}"#);
    let readers = [(); 5].map(|()| world.enter(0));
    let plain = world.enter(0);
    for reader in readers {
        world.send(reader, &auth);
        world.send(reader, r#"{"op":"subscribe","topic":"room/1","id":1}"#);
        assert!(world.hear_all(reader).contains(r#""op":"ok","id":1"#));
    }
    world.allow(None);
    world.settle();
    for reader in readers {
        let heard = world.hear_all(reader);
        assert!(heard.contains("the token is not accepted any more"), "{heard}");
    }
    world.send(plain, r#"{"op":"ping","id":2}"#);
    assert!(world.hear_all(plain).contains("pong"));
}

/// Two wait for the homes, so that the filter is there when the first of them has let go of it.
#[test]
fn a_subscribe_is_answered_before_what_it_began_is_taken_back() {
    let mut world = World::new(Knobs::calm(2));
    world.allow(access(1, &["room/#"]));
    world.settle();
    let readers = [world.enter(0), world.enter(0)];
    for reader in readers {
        world.send(reader, r#"{"op":"subscribe","topic":"room/#","id":7}"#);
    }
    world.turns(0, 2);
    assert!(readers.iter().all(|reader| world.heard(*reader).is_empty()), "they wait");
    world.allow(access(2, &[]));
    world.turns(0, 6);
    for reader in readers {
        let heard = world.hear_all(reader);
        let place = |text: &str| heard.find(text).unwrap_or_else(|| panic!("no {text} in {heard}"));
        assert!(place(r#""op":"ok","id":7"#) < place(r#""op":"unsubscribed""#), "{heard}");
    }
}

/// They bring what has to be looked at before.
#[test]
fn whoever_is_let_in_does_not_wait_behind_strangers() {
    let token = static_token::from_random(&[7; 32]);
    let mut asks = Access::new(1, Vec::new());
    asks.admit_static_token("bob", [].into(), None, static_token::digest(&token).expect("it is one"));
    let mut world = World::new(Knobs::calm(1));
    world.allow(Some(Arc::new(asks)));
    world.settle();
    let (member, strangers) = (world.enter(0), [(); 20].map(|()| world.enter(0)));
    let auth = |token: &str| format!(r#"{{"op":"auth","token":"{token}","id":5}}"#);
    world.send(member, &auth(&token));
    assert!(world.hear_all(member).contains(r#""op":"ok""#));
    strangers.iter().for_each(|stranger| world.send(*stranger, &auth("ff_x")));
    world.send(member, &auth(&token));
    let mut turn_count = 0;
    while world.heard(member).is_empty() {
        turn_count += 1;
        world.turns(0, 1);
    }
    assert!(turn_count < 6, "it waits for {turn_count} turns");
}

/// Each has many roles, which are looked for by their names.
#[test]
fn looking_at_connections_again_is_work() {
    let role = |index| Role { name: format!("r{index}").into(), grants: Grants::default() };
    let with_roles = |version| {
        let mut access = Access::new(version, (0..ROLES_MAX).map(role).collect());
        access.admit_anonymous((0..ROLES_MAX).map(|index| format!("r{index}").into()).collect());
        Some(Arc::new(access))
    };
    let mut world = World::new(Knobs::calm(1));
    world.allow(with_roles(1));
    world.settle();
    (0..6).for_each(|_| _ = world.enter(0));
    world.allow(with_roles(2));
    world.turns(0, 1);
    let count = world.reactor(0).desk().review.pending(6);
    assert!(count > 3, "{count} are left");
}

/// Whole or in pieces, alone or among others, in a message that is long, and in one that comes while another is looked at.
#[test]
fn no_buffer_has_a_token_that_was_read() {
    const CANARY: &[u8] = b"ff_canary";
    let auth = r#"{"op":"auth","token":"ff_canary","id":1}"#;
    let long = format!(r#"{{"op":"publish","topic":"x","data":"{}"}}"#, "x".repeat(5_000));
    let bad = r#"{"op":"auth","token":"ff_canary","what":1}"#;
    let messages = [
        auth.to_owned(),
        format!(r#"[{{"op":"ping","id":1}},{auth},{{"op":"ping","id":2}}]"#),
        format!("[{long},{auth}]"),
        format!("[{auth},{long}]"),
        format!("[{auth},{auth},{auth}]"),
        bad.to_owned(),
    ];
    for message in messages {
        for cut in [0, 1, 2] {
            let mut world = World::new(Knobs::calm(1));
            world.allow(access(1, &["room/#"]));
            world.settle();
            world.enter(0);
            // So that its length needs two bytes.
            let message = format!("{message:<130}");
            let [high, low] = (message.len() as u16).to_be_bytes();
            let frame = [&[0x81, 0x80 | 126, high, low, 0, 0, 0, 0], message.as_bytes()].concat();
            let begins = frame.windows(CANARY.len()).position(|bytes| bytes == CANARY).expect("it is in it");
            let at = [0, begins + 4, frame.len() - 1][cut];
            let mut receives = [frame[..at].to_vec(), frame[at..].to_vec(), frame.clone()];
            for bytes in &mut receives {
                world.reactors[0].as_mut().expect("it runs").desk_mut().handle_bytes(0, bytes);
            }
            world.pass(2 * SECOND);
            for (number, bytes) in receives.iter().enumerate() {
                let holds = bytes.windows(4).any(|part| part == b"cana" || part == b"nary");
                assert!(!holds, "{} bytes cut at {at}: receive {number}", message.len());
            }
            let desk = world.reactor(0).desk();
            let parser = desk.parser.as_ref().expect("one has been used");
            assert!(!parser.holds(CANARY), "{} bytes cut at {at}: parser", message.len());
            let connection = &desk.connections[0];
            assert!(!connection.session.holds(CANARY), "{} bytes cut at {at}: session", message.len());
            assert!(connection.unread.is_none(), "{} bytes cut at {at}: all is taken", message.len());
        }
    }
}

/// Arrays of some that are refused, and taken one at a time, each time after a long message of somebody else; and the same where
/// nobody is asked, whose tokens are nothing to hide.
#[test]
fn overwriting_tokens_costs_what_they_are_long() {
    let work_of = |asks: bool, command: &str, count: usize| {
        let mut world = World::new(Knobs::calm(1));
        if asks {
            world.allow(access(1, &["room/#"]));
        }
        world.settle();
        let (client, other) = (world.enter(0), world.enter(0));
        let blank = format!(r#"[{}{{"op":"ping","id":1}}]"#, " ".repeat(4_000));
        world.send(other, &blank);
        assert!(world.hear_all(other).contains("pong"));
        let before = world.reactor(0).desk().stats.turn_work_total;
        world.send(client, &format!("[{}]", vec![command; count].join(",")));
        let heard = world.hear_all(client);
        assert_eq!(heard.matches(r#""op":"error""#).count(), count, "{heard}");
        world.reactor(0).desk().stats.turn_work_total - before
    };
    let token = format!(r#"{{"op":"auth","token":"{}"}}"#, "x".repeat(200));
    let none = format!(r#"{{"op":"none","token":"{}"}}"#, "x".repeat(200));
    let [few, many, plain] = [(&token, 20), (&token, 40), (&none, 40)].map(|it| work_of(true, it.0, it.1));
    assert!(many <= 2 * few, "{many} units for twice as many as {few} were for");
    // Where they came, where they waited, and in the parser.
    let bytes = 40 * token.len() as u64;
    assert!(
        many - plain >= 3 * bytes * price::WIPED_BYTE / UNIT,
        "{many} units, and {plain} for other commands"
    );
    let (hidden, plain) = (work_of(false, &token, 40), work_of(false, &none, 40));
    assert!(hidden <= plain, "{hidden} units where nobody is asked, and {plain} for other commands");
}

/// Keys of another configuration come with it, before or after: taken for themselves they would bring back its rights.
#[test]
fn other_keys_change_nobodys_rights_and_those_of_another_configuration_are_none() {
    let mut world = World::new(Knobs::calm(1));
    world.allow(access(1, &["room/#"]));
    world.settle();
    let client = world.enter(0);
    world.allow(access(2, &["news/#"]));
    world.settle();
    let keys = |version, filter| Order::Keys(access(version, &[filter]).expect("somebody is asked"));
    for (order, may_room) in
        [(keys(1, "room/#"), false), (keys(3, "room/#"), false), (keys(2, "room/#"), true)]
    {
        world.order(0, order);
        world.turns(0, 1);
        assert_eq!(world.reactor(0).desk().review.pending(1), 0);
        world.send(client, r#"{"op":"subscribe","topic":"room/1"}"#);
        let heard = world.hear_all(client);
        assert_eq!(heard.contains(r#""code":"forbidden""#), !may_room, "{heard}");
    }
    // Where nobody is asked there are none.
    world.allow(None);
    world.settle();
    world.order(0, keys(2, "none"));
    world.settle();
    world.send(client, r#"{"op":"publish","topic":"x","data":1,"id":1}"#);
    assert!(world.hear_all(client).contains(r#""op":"ok","id":1"#));
}
