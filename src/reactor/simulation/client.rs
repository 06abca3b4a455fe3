//! A client of the simulated world: what it says as bytes, and what the broker's bytes say.
//!
//! Written from RFC 6455, RFC 7692 and the wire's tables, and sharing no code with the broker.

use std::collections::{BTreeMap, VecDeque};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    protocol::{Format, deflate::twin},
    uring::sim::{Peer, Rng},
};

/// Set on a message that is compressed.
const RSV1: u8 = 0x40;
/// Longer than any message of the broker.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// One client.
pub(super) struct Client {
    pub peer: Peer,
    pub format: Format,
    /// permessage-deflate was negotiated.
    is_deflate_agreed: bool,
    pub state: State,
    pub pace: Pace,
    /// Everything that the broker said, in order.
    pub seen: Vec<Event>,
    /// The newest `seq`s that it had of topics before it connected.
    pub remembered: BTreeMap<String, u64>,
    /// Written by the client, and not yet on its way.
    pub out: VecDeque<u8>,
    /// Read, and not yet understood.
    input: Vec<u8>,
    next_id: u64,
}

/// Where in its life a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The response to its request has not come whole.
    Upgrading,
    /// Commands and messages flow.
    Open,
    /// It sent a close frame, or answered the broker's.
    Closing,
    /// It got an answer that is no upgrade, and waits for the end.
    Refused,
    /// Its connection is over.
    Over,
}

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Everything that is there.
    Eager,
    /// A little, now and then.
    Slow,
    /// Nothing.
    Stuck,
}

/// What the broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Hello {
        /// A token is to come first.
        is_awaited: bool,
        user: Option<String>,
        ends_in_s: Option<u64>,
    },
    Refused,
    /// The `ok` to an `auth`.
    Authenticated {
        id: u64,
        user: Option<String>,
        ends_in_s: Option<u64>,
    },
    /// The token ends soon.
    Expiring {
        in_s: u64,
    },
    /// A subscription was taken back.
    Unsubscribed {
        filter: String,
        reason: String,
    },
    Ok {
        id: u64,
        topic: String,
        seq: Option<u64>,
        receivers: Option<u64>,
        is_duplicate: bool,
        begin: Begin,
    },
    Error {
        id: Option<u64>,
        code: String,
    },
    Pong {
        id: u64,
    },
    Message {
        topic: String,
        told: Told,
    },
    /// Of a slow consumer.
    Gap {
        topic: String,
        from: u64,
        to: u64,
    },
    /// Of what was not kept until its turn in a replay came.
    Lapsed {
        topic: String,
        from: u64,
        to: u64,
    },
    History(History),
    /// Of a filter's topics all has come that was published before.
    Replayed(Replayed),
    Resync {
        filter: String,
    },
    Close {
        code: Option<u16>,
        text: String,
    },
    Ping(Vec<u8>),
}

/// What an `ok` to a subscribe says of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Begin {
    pub epoch: Option<String>,
    pub recovered: Option<bool>,
    pub replayed: Option<u64>,
}

/// Of the past of a filter's topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    pub filter: String,
    pub count: u64,
    pub is_recovered: bool,
    pub at: String,
}

/// A page of a topic's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    pub id: u64,
    pub topic: String,
    pub epoch: String,
    pub seq: u64,
    pub from: u64,
    pub has_more: bool,
    pub messages: Vec<Told>,
}

/// A publication, by itself or in such a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub seq: u64,
    pub user: Option<String>,
    pub time_ms: Option<u64>,
    pub payload: Vec<u8>,
    pub is_json: bool,
}

/// A place in a topic's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Since {
    pub epoch: String,
    pub seq: u64,
}

/// Where a subscription to a topic is to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    pub since: Option<Since>,
    pub last: Option<u32>,
}

/// Which page of a topic's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Newest,
    Before(Since),
    After(Since),
}

/// What a client asks.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Subscribe {
        filter: String,
        start: Start,
    },
    /// A subscribe to a filter, with these further members of the object.
    Tour {
        filter: String,
        members: String,
    },
    History {
        topic: String,
        limit: Option<u32>,
        anchor: Anchor,
    },
    Unsubscribe {
        filter: String,
    },
    Publish {
        topic: String,
        payload: Vec<u8>,
        is_json: bool,
        receivers: bool,
        key: Option<String>,
        retain: bool,
    },
    Ping,
    Auth {
        token: String,
    },
}

#[derive(Deserialize)]
struct Object<'a> {
    op: &'a str,
    id: Option<u64>,
    topic: Option<String>,
    filter: Option<String>,
    seq: Option<u64>,
    time: Option<u64>,
    receivers: Option<u64>,
    duplicate: Option<bool>,
    code: Option<String>,
    from: Option<u64>,
    to: Option<u64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    base64: Option<String>,
    epoch: Option<String>,
    recovered: Option<bool>,
    replayed: Option<u64>,
    reason: Option<&'a str>,
    more: Option<bool>,
    count: Option<u64>,
    at: Option<String>,
    auth: Option<&'a str>,
    user: Option<String>,
    expires_in_s: Option<u64>,
    in_s: Option<u64>,
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
}

impl Client {
    /// A client that has written its upgrade request, with `offer` as an extension, and a token.
    pub fn new(peer: Peer, format: Format, offer: Option<&str>, token: Option<&str>) -> Client {
        let subprotocol = match format {
            Format::Json => "fanfare.json.v1",
            Format::Binary => "fanfare.bin.v1",
        };
        let offer = offer.map(|offer| format!("Sec-WebSocket-Extensions: {offer}\r\n")).unwrap_or_default();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             {offer}{token}Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
        );
        Client {
            peer,
            format,
            is_deflate_agreed: false,
            state: State::Upgrading,
            pace: Pace::Eager,
            seen: Vec::new(),
            remembered: BTreeMap::new(),
            out: request.into_bytes().into(),
            input: Vec::new(),
            next_id: 1,
        }
    }

    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Writes one message with these commands, each with its id, in `fragments` frames; tells how long the message
    /// is before it is compressed, in bytes.
    pub fn ask(&mut self, asks: &[(Ask, Option<u64>)], fragments: usize, rng: &mut Rng) -> usize {
        let mut message = match self.format {
            Format::Json => {
                let commands: Vec<String> = asks.iter().map(|(ask, id)| json(ask, *id)).collect();
                if commands.len() == 1 { commands[0].clone() } else { format!("[{}]", commands.join(",")) }
                    .into_bytes()
            }
            Format::Binary if asks.len() == 1 => binary(&asks[0].0, asks[0].1),
            Format::Binary => {
                let mut batch = vec![0, 0];
                for (ask, id) in asks {
                    let body = binary(ask, *id);
                    batch.extend((body.len() as u32).to_be_bytes());
                    batch.extend(body);
                }
                batch
            }
        };
        let message_bytes = message.len();
        let mut first = if self.format == Format::Json { 1 } else { 2 };
        if self.is_deflate_agreed && rng.chance(1, 2) {
            first |= RSV1;
            message = twin::deflated(&message, rng.below(10) as u32);
        }
        let mut rest = &message[..];
        for fragment in 0..fragments {
            let is_last = fragment + 1 == fragments;
            let len = if is_last { rest.len() } else { rng.below(rest.len() + 1) };
            let (part, more) = rest.split_at(len);
            rest = more;
            self.frame(if fragment == 0 { first } else { 0 }, is_last, part, rng);
            if !is_last && rng.chance(1, 4) {
                self.frame(10, true, b"unasked", rng);
            }
        }
        message_bytes
    }

    /// Writes a close frame.
    pub fn close(&mut self, rng: &mut Rng) {
        self.frame(8, true, &1000u16.to_be_bytes(), rng);
        self.state = State::Closing;
    }

    /// Writes a frame whose first byte has `first` beside FIN.
    pub fn frame(&mut self, first: u8, is_final: bool, payload: &[u8], rng: &mut Rng) {
        let key = (rng.next_u64() as u32).to_be_bytes();
        self.out.push_back(first | if is_final { 0x80 } else { 0 });
        match payload.len() {
            len @ 0..126 => self.out.push_back(0x80 | len as u8),
            len @ 126..65_536 => {
                self.out.push_back(0x80 | 126);
                self.out.extend((len as u16).to_be_bytes());
            }
            len => {
                self.out.push_back(0x80 | 127);
                self.out.extend((len as u64).to_be_bytes());
            }
        }
        self.out.extend(key);
        self.out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }

    /// What more bytes of the broker say.
    pub fn understand(&mut self, bytes: &[u8]) -> Vec<Event> {
        if self.state == State::Refused {
            return Vec::new();
        }
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        let mut events = Vec::new();
        if self.state == State::Upgrading {
            let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
                self.input = input;
                return events;
            };
            let head = std::str::from_utf8(&rest[..end]).expect("a response is text");
            if head.starts_with("HTTP/1.1 503 ") {
                self.state = State::Refused;
                return vec![Event::Refused];
            }
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            self.state = State::Open;
            self.is_deflate_agreed = head.contains("Sec-WebSocket-Extensions: permessage-deflate;");
            rest = &rest[end + 4..];
        }
        while let Some((first, payload, len)) = unframe(rest) {
            if first & RSV1 == 0 {
                events.push(self.event(first & 0x0f, payload));
            } else {
                assert!(self.is_deflate_agreed, "nobody agreed on compression");
                let message = twin::inflated(payload, MESSAGE_BYTES_MAX).expect("deflate data");
                assert!(payload.len() < message.len(), "what does not shrink comes as it is");
                events.push(self.event(first & 0x0f, &message));
            }
            rest = &rest[len..];
        }
        self.input = rest.to_vec();
        events
    }

    fn event(&self, opcode: u8, payload: &[u8]) -> Event {
        match (opcode, self.format) {
            (8, _) => Event::Close {
                code: payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]])),
                text: String::from_utf8(payload.get(2..).unwrap_or_default().to_vec()).expect("text"),
            },
            (9, _) => Event::Ping(payload.to_vec()),
            (1, Format::Json) => read_object(payload),
            (2, Format::Binary) => {
                let (kind, flags) = (payload[0], payload[1]);
                let topic_len = usize::from(u16::from_be_bytes([payload[2], payload[3]]));
                let seq = u64::from_be_bytes(payload[4..12].try_into().expect("eight bytes"));
                let (user, time_ms, rest) = match flags & 2 {
                    0 => (None, None, &payload[12..]),
                    _ => split_stamps(&payload[12..]),
                };
                let (topic, body) = rest.split_at(topic_len);
                match kind {
                    2 => Event::Message {
                        topic: String::from_utf8(topic.to_vec()).expect("a topic is UTF-8"),
                        told: Told { seq, user, time_ms, payload: body.to_vec(), is_json: flags & 1 == 1 },
                    },
                    12 => {
                        assert_eq!((flags, topic_len, seq), (0, 0, 0), "of kind {kind}");
                        let (object, mut rest) = split_counted(body);
                        let mut messages = Vec::new();
                        while !rest.is_empty() {
                            let (message, more) = split_counted(rest);
                            messages.push(self.event(opcode, message));
                            rest = more;
                        }
                        history_of(read(object), messages)
                    }
                    _ => {
                        assert_eq!((flags, topic_len, seq), (1, 0, 0), "of kind {kind}");
                        read_object(body)
                    }
                }
            }
            _ => panic!("a frame of opcode {opcode} on a connection that speaks {:?}", self.format),
        }
    }
}

/// What whole records of the JSON wire say.
pub(super) fn events(records: &[u8]) -> Vec<Event> {
    let mut rest = records;
    let mut events = Vec::new();
    while let Some((first, payload, len)) = unframe(rest) {
        assert_eq!(first, 0x81, "records are texts");
        events.push(read_object(payload));
        rest = &rest[len..];
    }
    assert!(rest.is_empty(), "records are whole");
    events
}

/// The first byte, the payload and the length of the first frame in `bytes`, if it is whole.
fn unframe(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0xb0, 0x80, "the broker sends whole frames without other reserved bits");
    assert_eq!(second & 0x80, 0, "the broker masks nothing");
    let (header_len, len) = match second {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().expect("two bytes")))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().expect("eight bytes")) as usize),
        len => (2, usize::from(len)),
    };
    let payload = bytes.get(header_len..header_len + len)?;
    Some((first, payload, header_len + len))
}

/// What a length of four bytes at the beginning counts, and the rest.
fn split_counted(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) = bytes.split_at(4);
    rest.split_at(u32::from_be_bytes(len.try_into().expect("four bytes")) as usize)
}

fn read(text: &[u8]) -> Object<'_> {
    serde_json::from_slice(text)
        .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(text)))
}

/// A page of the past, whose messages are of its topic.
fn history_of(object: Object<'_>, messages: Vec<Event>) -> Event {
    assert_eq!(object.op, "history");
    let topic = object.topic.expect("a topic");
    let told = |event| match event {
        Event::Message { topic: of, told } if of == topic => told,
        event => panic!("{event:?} in a page of {topic}"),
    };
    let messages = messages.into_iter().map(told).collect();
    Event::History(History {
        id: object.id.expect("a history has an id"),
        topic,
        epoch: object.epoch.expect("an epoch"),
        seq: object.seq.expect("a seq"),
        from: object.from.expect("a lowest seq"),
        has_more: object.more.expect("more or not"),
        messages,
    })
}

/// A publisher's name, a time, and what is behind the `ext` that they are in.
fn split_stamps(body: &[u8]) -> (Option<String>, Option<u64>, &[u8]) {
    let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let (mut rows, rest) = body[2..].split_at(len);
    let (mut user, mut time_ms) = (None, None);
    assert!(!rows.is_empty(), "an ext has a row");
    while let [kind, high, low, behind @ ..] = rows {
        let (row, more) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        match kind {
            3 => user = Some(String::from_utf8(row.to_vec()).expect("a name is UTF-8")),
            4 => time_ms = Some(u64::from_be_bytes(row.try_into().expect("eight bytes"))),
            other => panic!("a row of type {other}"),
        }
        rows = more;
    }
    assert!(rows.is_empty(), "rows are whole");
    (user, time_ms, rest)
}

fn read_object(text: &[u8]) -> Event {
    let object = read(text);
    let topic = || object.topic.clone().expect("a topic");
    match object.op {
        "hello" => Event::Hello {
            is_awaited: object.auth.is_some_and(|auth| {
                assert_eq!(auth, "required");
                true
            }),
            user: object.user,
            ends_in_s: object.expires_in_s,
        },
        "ok" if object.topic.is_none() => Event::Authenticated {
            id: object.id.expect("an ok has an id"),
            user: object.user,
            ends_in_s: object.expires_in_s,
        },
        "expiring" => Event::Expiring { in_s: object.in_s.expect("so many seconds") },
        "unsubscribed" => {
            Event::Unsubscribed { filter: topic(), reason: object.reason.expect("a reason").to_owned() }
        }
        "ok" => Event::Ok {
            id: object.id.expect("an ok has an id"),
            topic: topic(),
            seq: object.seq,
            receivers: object.receivers,
            is_duplicate: object.duplicate.is_some_and(|is_duplicate| {
                assert!(is_duplicate, "it is said only where it is so");
                true
            }),
            begin: Begin { epoch: object.epoch, recovered: object.recovered, replayed: object.replayed },
        },
        "error" => Event::Error { id: object.id, code: object.code.expect("an error has a code") },
        "pong" => Event::Pong { id: object.id.expect("a pong has the ping's id") },
        "message" => {
            let payload = match (object.data, &object.base64) {
                (Some(data), None) => data.get().as_bytes().to_vec(),
                (None, Some(encoded)) => STANDARD.decode(encoded).expect("base64"),
                _ => panic!("a message has data or base64"),
            };
            let is_json = object.data.is_some();
            let (seq, time_ms) = (object.seq.expect("a seq"), object.time);
            let told = Told { seq, user: object.user, time_ms, payload, is_json };
            Event::Message { topic: topic(), told }
        }
        "gap" => match object.filter {
            Some(filter) => Event::Resync { filter },
            None => {
                let (topic, from) = (topic(), object.from.expect("a gap begins"));
                let to = object.to.expect("a gap ends");
                match object.reason {
                    Some("slow_consumer") => Event::Gap { topic, from, to },
                    Some("retention") => Event::Lapsed { topic, from, to },
                    reason => panic!("a gap of {topic} for {reason:?}"),
                }
            }
        },
        "replayed" => Event::Replayed(Replayed {
            filter: topic(),
            count: object.count.expect("a count"),
            is_recovered: object.recovered.expect("recovered or not"),
            at: object.at.expect("a moment"),
        }),
        "history" => {
            let messages = object.messages.as_ref().expect("messages");
            let messages = messages.iter().map(|message| read_object(message.get().as_bytes())).collect();
            history_of(object, messages)
        }
        op => panic!("the broker says {op}"),
    }
}

fn place(Since { epoch, seq }: &Since) -> String {
    format!(r#"{{"epoch":"{epoch}","seq":{seq}}}"#)
}

fn json(ask: &Ask, id: Option<u64>) -> String {
    let id = id.map(|id| format!(r#","id":{id}"#)).unwrap_or_default();
    match ask {
        Ask::Subscribe { filter, start } => {
            let since = start.since.as_ref().map(|since| format!(r#","since":{}"#, place(since)));
            let last = start.last.map(|last| format!(r#","last":{last}"#));
            let start = since.into_iter().chain(last).collect::<String>();
            format!(r#"{{"op":"subscribe","topic":"{filter}"{id}{start}}}"#)
        }
        Ask::Tour { filter, members } => format!(r#"{{"op":"subscribe","topic":"{filter}"{id},{members}}}"#),
        Ask::History { topic, limit, anchor } => {
            let limit = limit.map(|limit| format!(r#","limit":{limit}"#)).unwrap_or_default();
            let anchor = match anchor {
                Anchor::Newest => String::new(),
                Anchor::Before(since) => format!(r#","before":{}"#, place(since)),
                Anchor::After(since) => format!(r#","after":{}"#, place(since)),
            };
            format!(r#"{{"op":"history","topic":"{topic}"{id}{limit}{anchor}}}"#)
        }
        Ask::Unsubscribe { filter } => format!(r#"{{"op":"unsubscribe","topic":"{filter}"{id}}}"#),
        Ask::Ping => format!(r#"{{"op":"ping"{id}}}"#),
        Ask::Auth { token } => format!(r#"{{"op":"auth","token":"{token}"{id}}}"#),
        Ask::Publish { topic, payload, receivers, retain, key, .. } => {
            let data = std::str::from_utf8(payload).expect("JSON is UTF-8");
            let receivers = if *receivers { r#","receivers":true"# } else { "" };
            let retain = if *retain { r#","retain":true"# } else { "" };
            let key = key.as_ref().map(|key| format!(r#","key":"{key}""#)).unwrap_or_default();
            format!(r#"{{"op":"publish","topic":"{topic}","data":{data}{id}{receivers}{retain}{key}}}"#)
        }
    }
}

fn binary(ask: &Ask, id: Option<u64>) -> Vec<u8> {
    let head = |kind: u8, flags: u8, topic_len: usize, seq: u64| {
        let mut body = vec![kind, flags];
        body.extend((topic_len as u16).to_be_bytes());
        body.extend(seq.to_be_bytes());
        body
    };
    let kind = match ask {
        Ask::Publish { topic, payload, is_json, receivers, retain, key } => {
            let key_flag = if key.is_some() { 2 } else { 0 };
            let flags =
                u8::from(*is_json) | key_flag | if *receivers { 4 } else { 0 } | if *retain { 8 } else { 0 };
            let mut body = head(1, flags, topic.len(), id.unwrap_or(0));
            if let Some(key) = key {
                body.extend((key.len() as u16 + 3).to_be_bytes());
                body.push(1);
                body.extend((key.len() as u16).to_be_bytes());
                body.extend(key.as_bytes());
            }
            body.extend(topic.as_bytes());
            body.extend(payload);
            return body;
        }
        Ask::Subscribe { .. } | Ask::Tour { .. } => 4,
        Ask::Unsubscribe { .. } => 5,
        Ask::Ping => 9,
        Ask::Auth { .. } => 17,
        Ask::History { .. } => 12,
    };
    let mut body = head(kind, 1, 0, 0);
    body.extend(json(ask, id).into_bytes());
    body
}
