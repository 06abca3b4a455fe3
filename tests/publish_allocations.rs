//! Once warm, a publication allocates nothing between the receive that brings it and the sends that carry it
//! away: command, log, batch, views, positions, the publisher's ok.

#[path = "common/allocations.rs"]
mod allocations;

use std::{collections::VecDeque, sync::Arc};

use allocations::allocation_count;
use fanfare::{
    channel::Mesh,
    config::Config,
    protocol::{
        Encoding,
        command::PayloadKind,
        deflate::{self, Deflater},
        frame::{self, Opcode},
        publication::LastValue,
        topic::TopicName,
    },
    pubsub::{
        home::{Draft, Home, Homes},
        keeping::{KeepKeys, Keeping},
        log::Budget,
        subscription::ViewKey,
        view::Pin,
    },
    reactor::desk::{Desk, Shared},
};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One reactor without its ring, and what its turn would do with what the desk asks for.
struct Turns {
    desk: Desk,
    now_ns: u64,
    resumed: Vec<u32>,
    wakes: Vec<usize>,
    pins: Vec<(ViewKey, Pin)>,
    delivered_bytes: u64,
}

/// A text frame as a client sends it.
fn masked(text: &str) -> Vec<u8> {
    masked_frame(0x81, text.as_bytes())
}

/// A frame with this first byte as a client sends it.
fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; frame::SERVER_HEADER_BYTES_MAX];
    let header_len = frame::write_header(Opcode::Text, payload.len(), &mut header);
    (header[0], header[1]) = (first, header[1] | 0x80);
    let mut bytes = header[..header_len].to_vec();
    bytes.extend(KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The payload of a compressed message, by an implementation that is not ours.
fn compress(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() + 100);
    let mut compress = flate2::Compress::new(flate2::Compression::new(6), false);
    compress
        .compress_vec(message, &mut payload, flate2::FlushCompress::Sync)
        .expect("anything can be compressed");
    payload.truncate(payload.len() - 4);
    payload
}

impl Turns {
    /// The reactors of a broker, without their rings.
    fn of(count: usize) -> Vec<Turns> {
        let mut config = Config::default();
        config.deflate.enabled = true;
        let shared = Shared {
            is_loopback: true,
            access: None,
            revocations: Arc::default(),
            config: Arc::new(config),
            homes: Homes::new(count, 1),
            budget: Budget::new(1 << 30),
            epoch: 1,
            addresses: Arc::default(),
            veil: Default::default(),
            usages: Arc::default(),
            scopes: Default::default(),
            troubles: Arc::default(),
            audit: Arc::default(),
            buffered: Arc::default(),
        };
        let (_, ports) = Mesh::new(count, 0, 64);
        let of_port = |port| Turns {
            desk: Desk::new(port, shared.clone(), 100),
            now_ns: 1,
            resumed: Vec::new(),
            wakes: Vec::new(),
            pins: Vec::with_capacity(100),
            delivered_bytes: 0,
        };
        ports.into_iter().map(of_port).collect()
    }

    fn open(&mut self, asks: &[&str]) -> u32 {
        self.open_with(UPGRADE, asks)
    }

    fn open_with(&mut self, upgrade: &str, asks: &[&str]) -> u32 {
        let slot = self.desk.open(-1, None);
        self.receive(slot, &mut upgrade.as_bytes().to_vec());
        for ask in asks {
            self.receive(slot, &mut masked(ask));
        }
        slot
    }

    /// A connection's bytes come in a turn of their own, and nothing more while some of them wait.
    fn receive(&mut self, slot: u32, bytes: &mut [u8]) {
        self.desk.handle_bytes(slot, bytes);
        self.turn();
        while self.desk.can_resume() {
            self.turn();
        }
    }

    /// Everyone who is behind is sent all of it, and has it at once.
    fn turn(&mut self) {
        self.now_ns += 1_000_000;
        self.desk.begin_turn(self.now_ns, 0);
        self.desk.resume(&mut self.resumed);
        self.resumed.clear();
        self.desk.receive();
        self.desk.post(&mut self.wakes);
        while let Some(slot) = self.desk.queues.replying.pop_front() {
            let connection = &mut self.desk.connections[slot];
            connection.is_listed = false;
            let replies = std::mem::take(&mut connection.replies);
            self.desk.take_spare(replies);
        }
        let fanout = &mut self.desk.fanout;
        let mut steps = u32::MAX;
        fanout.start_due_sweeps(self.now_ns, 1 << 40);
        while let Some(view) = fanout.take_sweeping() {
            while let Some((_, member)) = fanout.next_visit(view, &mut steps) {
                while let Some(owed) = fanout.take(view, member, 256 << 10) {
                    self.delivered_bytes += u64::from(owed.len);
                    self.pins.push((view, owed.pin));
                }
            }
            fanout.put_back(view, self.now_ns, 0);
        }
        for (view, pin) in self.pins.drain(..) {
            fanout.unpin(view, pin);
        }
    }
}

/// Ten subscribers by name and two by filter, and a publisher whose topics fill chunks over and over: one so
/// busy that it has its own, one that shares.
#[test]
fn publishing_to_subscribers_allocates_nothing_once_warm() {
    let mut turns = Turns::of(1).remove(0);
    for _ in 0..10 {
        turns.open(&[r#"{"op":"subscribe","topic":"room/1","id":1}"#]);
    }
    for _ in 0..2 {
        turns.open(&[r##"{"op":"subscribe","topic":"room/#","id":1}"##]);
    }
    let publisher = turns.open(&[]);
    let data = "x".repeat(200);
    let busy = masked(&format!(r#"{{"op":"publish","topic":"room/1","data":"{data}","id":7}}"#)).repeat(20);
    let quiet = masked(r#"{"op":"publish","topic":"room/2","data":[1]}"#);
    let mut bytes = busy.clone();
    bytes.extend(&quiet);
    let template = bytes.clone();
    let mut round = |turns: &mut Turns| {
        bytes.copy_from_slice(&template);
        turns.receive(publisher, &mut bytes);
    };
    for _ in 0..500 {
        round(&mut turns);
    }
    let (before, delivered_bytes) = (allocation_count(), turns.delivered_bytes);
    for _ in 0..1_000 {
        round(&mut turns);
    }
    assert_eq!(allocation_count() - before, 0);
    assert!(before > 0, "the allocator counts");
    assert!(turns.delivered_bytes - delivered_bytes > 1_000 * 20 * 12 * 200, "everybody got everything");
}

/// Subscribers of both languages that take it compressed beside one that does not: messages that shrink much,
/// little, and are too short; from a publisher that compresses too.
#[test]
fn publishing_compressed_allocates_nothing_once_warm() {
    let mut turns = Turns::of(1).remove(0);
    let deflated = UPGRADE.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    let binary = deflated.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: fanfare.bin.v1\r\n\r\n");
    let subscribe = r#"{"op":"subscribe","topic":"room/1","id":1}"#;
    turns.open(&[subscribe]);
    for _ in 0..2 {
        turns.open_with(&deflated, &[subscribe]);
        let slot = turns.open_with(&binary, &[]);
        let body = [&[4; 1][..], &[0; 11], subscribe.as_bytes()].concat();
        turns.receive(slot, &mut masked_frame(0x82, &body));
    }
    let publisher = turns.open_with(&deflated, &[]);
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    let letters: String = std::iter::successors(Some(1), next)
        .map(|state| (97 + (state >> 61)) as u8 as char)
        .take(60_000)
        .collect();
    let publish = |data: &str| format!(r#"{{"op":"publish","topic":"room/1","data":"{data}","id":7}}"#);
    let texts = [publish(&"to and fro ".repeat(100)), publish(&letters[..600]), publish("short")];
    // Each in a turn of its own, and less than `share::HEAVY`: what a connection sends beyond its share is kept in
    // memory of its own until it is read.
    let plain = texts.iter().map(|text| masked(text));
    let compressed = texts.iter().map(|text| masked_frame(0xc1, &compress(text.as_bytes())));
    let template: Vec<Vec<u8>> = plain.chain(compressed).collect();
    let mut messages = template.clone();
    let mut round = |turns: &mut Turns| {
        for _ in 0..5 {
            for (bytes, template) in messages.iter_mut().zip(&template) {
                bytes.copy_from_slice(template);
                turns.receive(publisher, bytes);
            }
        }
    };
    // As many chunks of each encoding are filled in a turn as ever will be at once; by another, since this is heavy.
    let (long, heavy) = (masked(&publish(&letters)), turns.open(&[]));
    for _ in 0..50 {
        turns.receive(heavy, &mut long.clone());
    }
    for _ in 0..50 {
        round(&mut turns);
    }
    let before = allocation_count();
    for _ in 0..200 {
        round(&mut turns);
    }
    assert_eq!(allocation_count() - before, 0);
    let stats = turns.desk.snapshot();
    assert_eq!(stats.publications_total, 5 * 10 + 250 * 30);
    assert_eq!(stats.inflated_total, 250 * 15);
    // In both languages, but for the one of three that is too short.
    assert_eq!(stats.deflated_total, 2 * (5 * 10 + 250 * 30 * 2 / 3));
}

/// The topic's home is another reactor: the publication is copied once to get there, and its batch and the
/// publisher's ok come back.
#[test]
fn publishing_by_way_of_another_home_allocates_nothing_once_warm() {
    let mut reactors = Turns::of(2);
    let homes = Homes::new(2, 1);
    let topic = (0..)
        .map(|number| format!("room/{number}"))
        .find(|topic| homes.of(TopicName::checked(topic)) == 1)
        .unwrap();
    let subscribe = format!(r#"{{"op":"subscribe","topic":"{topic}","id":1}}"#);
    for index in 0..2 {
        reactors[index].open(&[&subscribe]);
        (0..4).for_each(|turn| reactors[(index + turn) % 2].turn());
    }
    let publisher = reactors[0].open(&[]);
    let data = "x".repeat(200);
    let template =
        masked(&format!(r#"{{"op":"publish","topic":"{topic}","data":"{data}","id":7,"receivers":true}}"#))
            .repeat(10);
    let mut bytes = template.clone();
    let mut round = |reactors: &mut Vec<Turns>| {
        bytes.copy_from_slice(&template);
        reactors[0].receive(publisher, &mut bytes);
        (0..4).for_each(|turn| reactors[(turn + 1) % 2].turn());
    };
    for _ in 0..500 {
        round(&mut reactors);
    }
    let (before, delivered_bytes) = (allocation_count(), reactors[1].delivered_bytes);
    for _ in 0..1_000 {
        round(&mut reactors);
    }
    assert_eq!(allocation_count() - before, 0);
    assert!(reactors[1].delivered_bytes - delivered_bytes > 1_000 * 10 * 200, "everybody got everything");
}

/// Topics that are there, and then received in one encoding after the other.
#[test]
fn a_topic_allocates_only_for_encodings_beyond_the_first_that_somebody_receives() {
    const TOPICS: usize = 100;
    let names: Vec<String> = (0..TOPICS).map(|number| format!("room/{number}")).collect();
    let mut home = Home::new(1, TOPICS, 0, Encoding::COUNT, Budget::new(1 << 30));
    let mut outboxes = vec![VecDeque::with_capacity(2 * TOPICS)];
    for name in &names {
        home.handle_subscribe(0, TopicName::checked(name.as_str()), Encoding::Json, 0, &mut outboxes);
        home.handle_unsubscribe(0, name, Encoding::Json, &mut outboxes);
    }
    let mut subscribe_all = |encoding| {
        outboxes[0].clear();
        let before = allocation_count();
        names.iter().for_each(|name| {
            home.handle_subscribe(0, TopicName::checked(name.as_str()), encoding, 0, &mut outboxes)
        });
        allocation_count() - before
    };
    assert_eq!(subscribe_all(Encoding::DeflatedBinary), 0);
    assert_eq!(subscribe_all(Encoding::DeflatedBinary), 0);
    assert_eq!(subscribe_all(Encoding::Json), TOPICS);
    assert_eq!(subscribe_all(Encoding::Binary), TOPICS);
}

/// Of some topics the newest publication is the value, of others what is retained: again and again another of the same length.
#[test]
fn replacing_values_allocates_nothing_once_warm() {
    let keys =
        |last_value| KeepKeys { last_value: Some(last_value), retain: Some(true), ..KeepKeys::default() };
    let mut home = Home::new(1, 100, 0, Encoding::COUNT, Budget::with_past(1 << 30, 1 << 20));
    home.set_keeping(Keeping::new(
        [("a/#", LastValue::Newest), ("b/#", LastValue::Nothing)]
            .map(|(filter, last)| (filter.into(), keys(last))),
    ));
    let mut deflater = Deflater::new(deflate::Settings { level: 1, bytes_min: 1_000, window_bits: 15 });
    let mut outboxes = vec![VecDeque::new()];
    let names: Vec<String> =
        (0..10).flat_map(|number| ["a", "b"].map(|it| format!("{it}/{number}"))).collect();
    let mut replace = |count: u32| {
        let before = allocation_count();
        for _ in 0..count {
            for name in &names {
                let (topic, kind) = (TopicName::checked(name.as_str()), PayloadKind::Json);
                let retained = home.handle_retain(
                    topic,
                    Draft::anonymous(b"[1,2,3]", kind),
                    0,
                    &mut deflater,
                    &mut outboxes,
                );
                assert!(retained.is_ok());
            }
        }
        assert_eq!(home.value_count(), names.len());
        allocation_count() - before
    };
    assert!(replace(100) > 0, "the allocator counts");
    assert_eq!(replace(1_000), 0);
}
