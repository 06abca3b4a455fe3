//! `fanfare.bin.v1`: commands from binary messages, and the header of what the broker sends.
//!
//! A message is one *body*, big-endian:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 1 | `kind` | see below |
//! | 1 | `flags` | see below |
//! | 2 | `topic_len` | 0 in all kinds but `publish` and `message` |
//! | 8 | `seq` | `message`: its place in the topic's order; `publish`: the client's id, 0 for no reply; else 0 |
//! | 2 + n | `ext_len`, `ext` | only with flag 0x02: rows of a type (1 byte), a length (2 bytes) and so many bytes |
//! | `topic_len` | `topic` | UTF-8 |
//! | to the end | `payload` | |
//!
//! Kind 0 is a batch: two zero bytes, then for each body its length (4 bytes) and the body, to the end
//! of the message. There is no batch in a batch.
//!
//! | kind | name | sent by | payload |
//! |---|---|---|---|
//! | 0 | batch | client | bodies |
//! | 1 | publish | client | the publication's |
//! | 2 | message | broker | the publication's |
//! | 3 | hello | broker | JSON object |
//! | 4 | subscribe | client | JSON object |
//! | 5 | unsubscribe | client | JSON object |
//! | 6 | ok | broker | JSON object |
//! | 7 | error | broker | JSON object |
//! | 8 | gap | broker | JSON object |
//! | 9 | ping | client | JSON object |
//! | 10 | pong | broker | JSON object |
//! | 11 | replayed | broker | JSON object |
//! | 12 | history | client | JSON object |
//! | 12 | history | broker | the length (4 bytes) of a JSON object without `messages`, the object, then for each message its length (4 bytes) and its body |
//! | 17 | auth | client | JSON object |
//! | 18 | expiring | broker | JSON object |
//! | 19 | unsubscribed | broker | JSON object |
//! | 20 | epoch | broker | JSON object |
//!
//! A JSON object here is the one that `fanfare.json.v1` has for the same thing, `op` included.
//!
//! | flag | name | allowed in |
//! |---|---|---|
//! | 0x01 | the payload is JSON | `publish`, `message`; all kinds with a JSON object, which the broker sends with it and a client may |
//! | 0x02 | `ext` is there; a reader passes over rows of a type that it does not know ([`ext`]) | all but batch |
//! | 0x04 | the `ok` is to count the receivers | `publish` |
//! | 0x08 | it is to be kept as the topic's value | `publish` |

use std::{borrow::Cow, ops::Range};

pub mod ext;
#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

use super::{
    command::{self, Command, CommandError, ErrorCode, Many, PayloadKind, RequestId},
    json::{self, LongMessage, Parser, Quoted, Read, Verdict},
    rest::Rest,
    topic::{TOPIC_BYTES_MAX, TopicName},
};

/// The payload is JSON.
pub const FLAG_JSON: u8 = 0x01;
/// An extension stands before the topic.
pub const FLAG_EXT: u8 = 0x02;
/// The `ok` to this publish is to count the receivers.
pub const FLAG_RECEIVERS: u8 = 0x04;
/// This publish is to be kept as the topic's value.
pub const FLAG_RETAIN: u8 = 0x08;
/// The longest JSON object of a command: far above what any needs, and short enough to be read in one go.
pub const OBJECT_BYTES_MAX: usize = 64 << 10;
/// The length of a body's fixed fields.
pub const HEADER_LEN: usize = 12;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Several bodies.
    Batch = 0,
    /// A publication on its way to the broker.
    Publish = 1,
    /// A publication on its way to a subscriber.
    Message = 2,
    /// The first message of every connection.
    Hello = 3,
    /// A command.
    Subscribe = 4,
    /// A command.
    Unsubscribe = 5,
    /// A command was carried out.
    Ok = 6,
    /// A command was refused.
    Error = 7,
    /// Publications are missing.
    Gap = 8,
    /// A command.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
    /// All is sent that was published before to the topics that a filter matches.
    Replayed = 11,
    /// A command, and its answer.
    History = 12,
    /// A command.
    Auth = 17,
    /// The token ends soon.
    Expiring = 18,
    /// The broker took a subscription back.
    Unsubscribed = 19,
    /// A topic's numbering is another one from now on. Not sent by this version.
    Epoch = 20,
}

impl Kind {
    const ALL: [Kind; 17] = [
        Kind::Batch,
        Kind::Publish,
        Kind::Message,
        Kind::Hello,
        Kind::Subscribe,
        Kind::Unsubscribe,
        Kind::Ok,
        Kind::Error,
        Kind::Gap,
        Kind::Ping,
        Kind::Pong,
        Kind::Replayed,
        Kind::History,
        Kind::Auth,
        Kind::Expiring,
        Kind::Unsubscribed,
        Kind::Epoch,
    ];
    /// Each at its number.
    const BY_BYTE: [Option<Kind>; 21] = {
        let mut by_byte = [None; 21];
        let mut index = 0;
        while index < Self::ALL.len() {
            by_byte[Self::ALL[index] as usize] = Some(Self::ALL[index]);
            index += 1;
        }
        by_byte
    };

    /// The kind with this number, if there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::BY_BYTE.get(usize::from(byte)).copied().flatten()
    }

    /// The name of the kind: the `op` of its JSON object.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Batch => "batch",
            Kind::Publish => "publish",
            Kind::Message => "message",
            Kind::Hello => "hello",
            Kind::Subscribe => "subscribe",
            Kind::Unsubscribe => "unsubscribe",
            Kind::Ok => "ok",
            Kind::Error => "error",
            Kind::Gap => "gap",
            Kind::Ping => "ping",
            Kind::Pong => "pong",
            Kind::Replayed => "replayed",
            Kind::History => "history",
            Kind::Auth => "auth",
            Kind::Expiring => "expiring",
            Kind::Unsubscribed => "unsubscribed",
            Kind::Epoch => "epoch",
        }
    }
}

/// The fixed fields of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHeader {
    /// What the body is.
    pub kind: Kind,
    /// Of the `FLAG_` constants.
    pub flags: u8,
    /// The topic's length in bytes.
    pub topic_len: u16,
    /// A place in the topic's order, or a client's id.
    pub seq: u64,
}

impl BodyHeader {
    /// The header as it stands on the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.kind as u8;
        bytes[1] = self.flags;
        bytes[2..4].copy_from_slice(&self.topic_len.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.seq.to_be_bytes());
        bytes
    }

    /// What [`BodyHeader::to_bytes`] gave; `None` if there is no such kind.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let [kind, flags, topic_high, topic_low, seq @ ..] = *bytes;
        Some(BodyHeader {
            kind: Kind::from_byte(kind)?,
            flags,
            topic_len: u16::from_be_bytes([topic_high, topic_low]),
            seq: u64::from_be_bytes(seq),
        })
    }
}

/// The commands of one message: one, or a batch.
pub type Commands<'a> = command::Commands<'a, Batch<'a>>;

/// The commands in `message`, each with its own result. An error means that there is none to run: the
/// message does not hold what its lengths say, or a lone body is bad.
pub fn parse<'a>(parser: &'a mut Parser, message: &'a [u8]) -> Result<Commands<'a>, CommandError<'a>> {
    parse_checked(parser, message, &[])
}

/// What [`parse`] says of a binary message that was checked before: without another look at its payloads.
///
/// Panics if the message is text, or not checked to its end.
pub fn parse_long<'a>(
    parser: &'a mut Parser,
    long: &'a mut LongMessage,
) -> Result<Commands<'a>, CommandError<'a>> {
    let (message, checked) = long.checked_binary();
    parse_checked(parser, message, checked)
}

/// Of a long payload that is said to be JSON, what checking it came to.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    /// How many bytes of the message are behind the payload, which tells one from the other.
    pub(super) bytes_behind: usize,
    pub(super) verdict: Verdict,
}

impl Checked {
    /// In a list in the order of the message.
    #[inline]
    fn find(list: &[Checked], bytes_behind: usize) -> Option<Verdict> {
        if list.is_empty() {
            return None;
        }
        let index = list.binary_search_by(|checked| bytes_behind.cmp(&checked.bytes_behind)).ok()?;
        Some(list[index].verdict)
    }
}

/// The payloads of `message` that are said to be JSON and have at least `bytes_min` bytes, as far as the
/// message can be read.
pub(super) fn json_payloads(message: &[u8], bytes_min: usize) -> Vec<Range<usize>> {
    let mut payloads = Vec::new();
    let mut note = |body, bytes_behind| {
        if let Ok(Body { kind, flags, payload, .. }) = Body::split(body)
            && kind == Kind::Publish as u8
            && flags & FLAG_JSON != 0
            && payload.len() >= bytes_min
        {
            let end = message.len() - bytes_behind;
            payloads.push(end - payload.len()..end);
        }
    };
    match message.strip_prefix(&BATCH_HEADER) {
        None => note(message, 0),
        Some(mut bodies) => {
            for _ in 0..json::COMMANDS_MAX {
                let Ok(body) = take_body(&mut bodies) else { break };
                note(body, bodies.len());
            }
        }
    }
    payloads
}

fn parse_checked<'a>(
    parser: &'a mut Parser,
    message: &'a [u8],
    checked: &'a [Checked],
) -> Result<Commands<'a>, CommandError<'a>> {
    if message.first() == Some(&(Kind::Batch as u8)) {
        return Batch::new(parser, message, checked).map(Commands::Many);
    }
    let command = Body::split(message).and_then(|body| read(parser, body, Checked::find(checked, 0)));
    match command {
        Err(error) if error.code == ErrorCode::BadMessage => Err(error),
        command => Ok(Commands::One(Some(command))),
    }
}

/// The commands of a batch whose lengths hold together.
pub struct Batch<'a> {
    parser: &'a mut Parser,
    checked: &'a [Checked],
    /// The bodies that are left, each with its length.
    rest: &'a [u8],
    left: usize,
}

/// What stands before a batch's bodies.
const BATCH_HEADER: [u8; 2] = [Kind::Batch as u8, 0];

impl<'a> Batch<'a> {
    fn new(
        parser: &'a mut Parser,
        message: &'a [u8],
        checked: &'a [Checked],
    ) -> Result<Self, CommandError<'a>> {
        let Some(bodies) = message.strip_prefix(&BATCH_HEADER) else {
            return Err(match message.get(1) {
                None => truncated("a batch's flags", 1, 0),
                Some(flags) => CommandError::new(
                    ErrorCode::BadValue,
                    format!("a batch has the flags {flags:#04x}; 0x00 is allowed"),
                ),
            });
        };
        // All of it before the first command is run: a batch that does not hold together executes nothing.
        let mut rest = bodies;
        let mut count = 0;
        while !rest.is_empty() {
            let body = take_body(&mut rest)?;
            if body.first() == Some(&(Kind::Batch as u8)) {
                return Err(CommandError::bad_message(format!(
                    "body {count} of the batch is a batch; every other kind is allowed"
                )));
            }
            Body::split(body)?;
            count += 1;
        }
        if count > json::COMMANDS_MAX {
            return Err(CommandError::new(
                ErrorCode::LimitReached,
                format!("the batch has {count} commands; at most {} are allowed", json::COMMANDS_MAX),
            ));
        }
        Ok(Self { parser, checked, rest: bodies, left: count })
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<Command<'a>, CommandError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(read_next(self.parser, &mut self.rest, self.checked))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<'a> Many<'a> for Batch<'a> {
    fn into_rest(self) -> Option<Box<Rest>> {
        Rest::of_binary(self.rest, self.checked, self.left)
    }

    fn take_read(&mut self) -> Read {
        self.parser.take_read()
    }
}

/// Reads the first of `bodies`, each behind its length, and takes it off them.
pub(super) fn read_next<'a>(
    parser: &mut Parser,
    bodies: &mut &'a [u8],
    checked: &[Checked],
) -> Result<Command<'a>, CommandError<'a>> {
    let body = take_body(bodies).and_then(Body::split)?;
    read(parser, body, Checked::find(checked, bodies.len()))
}

/// A body whose lengths hold together.
struct Body<'a> {
    kind: u8,
    flags: u8,
    seq: u64,
    ext: &'a [u8],
    topic: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Body<'a> {
    fn split(body: &'a [u8]) -> Result<Self, CommandError<'a>> {
        let mut rest = body;
        let [kind, flags] = take_array(&mut rest, "a body's kind and flags")?;
        let topic_len = u16::from_be_bytes(take_array(&mut rest, "topic_len")?);
        let seq = u64::from_be_bytes(take_array(&mut rest, "seq")?);
        let mut ext: &[u8] = &[];
        if flags & FLAG_EXT != 0 {
            let ext_len = u16::from_be_bytes(take_array(&mut rest, "ext_len")?);
            ext = take(&mut rest, usize::from(ext_len), "ext")?;
        }
        let topic = take(&mut rest, usize::from(topic_len), "topic")?;
        let body = Self { kind, flags, seq, ext, topic, payload: rest };
        if !ext.is_empty() {
            body.rows().check().map_err(CommandError::bad_message)?;
        }
        Ok(body)
    }

    /// What stands in its `ext`.
    fn rows(&self) -> ext::Rows<'a> {
        ext::Rows::new(self.ext)
    }
}

/// Reads the command in `body`, of whose payload maybe more is known.
fn read<'a>(
    parser: &mut Parser,
    body: Body<'a>,
    verdict: Option<Verdict>,
) -> Result<Command<'a>, CommandError<'a>> {
    match Kind::from_byte(body.kind) {
        Some(Kind::Publish) => read_publish(parser, body, verdict),
        Some(kind @ (Kind::Subscribe | Kind::Unsubscribe | Kind::Ping | Kind::History | Kind::Auth)) => {
            read_object(parser, body, kind)
        }
        kind => Err(CommandError::new(
            ErrorCode::UnknownOp,
            format!(
                "a client does not send the kind {}{}; 0 (batch), 1 (publish), 4 (subscribe), 5 (unsubscribe), 9 (ping), 12 (history) and 17 (auth) are allowed",
                body.kind,
                kind.map_or(String::new(), |kind| format!(" ({})", kind.as_str()))
            ),
        )),
    }
}

fn read_publish<'a>(
    parser: &mut Parser,
    body: Body<'a>,
    verdict: Option<Verdict>,
) -> Result<Command<'a>, CommandError<'a>> {
    let id = match body.seq {
        0 => None,
        number => Some(RequestId::Number(number)),
    };
    let topic = read_topic(body.topic);
    let refuse = |code, message: String| CommandError {
        op: Some(Kind::Publish.as_str()),
        id: id.filter(|_| body.seq <= json::ID_NUMBER_MAX),
        topic: topic.as_ref().ok().copied().map(Cow::Borrowed),
        code,
        message: message.into(),
        retry_after_ms: None,
    };

    check_flags(&body, FLAG_JSON | FLAG_EXT | FLAG_RECEIVERS | FLAG_RETAIN)
        .map_err(|message| refuse(ErrorCode::BadValue, message))?;
    if body.seq > json::ID_NUMBER_MAX {
        let message = format!("the id is {}; at most {} is allowed", body.seq, json::ID_NUMBER_MAX);
        return Err(refuse(ErrorCode::BadValue, message));
    }
    let mut key = None;
    if !body.ext.is_empty() {
        key = body.rows().find(|(kind, _)| *kind == ext::KEY).map(|(_, key)| key);
        key.map_or(Ok(()), json::check_key).map_err(|rule| refuse(ErrorCode::BadValue, rule))?;
    }
    let topic = topic.as_ref().map_err(|rule| refuse(ErrorCode::BadTopic, rule.clone()))?;
    let kind = if body.flags & FLAG_JSON == 0 {
        PayloadKind::Bytes
    } else {
        match verdict {
            None => parser.check_data(body.payload),
            Some(verdict) => parser.judge_data(body.payload, verdict),
        }
        .map_err(|rule| refuse(ErrorCode::BadMessage, rule))?;
        PayloadKind::Json
    };
    let name = TopicName::parse(*topic);
    Ok(Command::Publish {
        id,
        topic: name.map_err(|rule| refuse(ErrorCode::BadTopic, rule.to_string()))?,
        payload: body.payload,
        kind,
        receivers: body.flags & FLAG_RECEIVERS != 0,
        key,
        retain: body.flags & FLAG_RETAIN != 0,
    })
}

/// The topic as JSON subscribers and replies can carry it, or the broken rule. The rules of names come last, as those of
/// all topics do.
fn read_topic(bytes: &[u8]) -> Result<&str, String> {
    let topic = simdutf8::compat::from_utf8(bytes)
        .map_err(|error| format!("the topic is not UTF-8 at its byte {}", error.valid_up_to()))?;
    if topic.len() > TOPIC_BYTES_MAX {
        return Err(format!(
            "the topic {} is {} bytes long; at most {TOPIC_BYTES_MAX} are allowed",
            Quoted(topic),
            topic.len()
        ));
    }
    match json::find_noncharacter(topic) {
        None => Ok(topic),
        Some(c) => Err(format!(
            "the topic {} holds the noncharacter U+{:04X}; every other character is allowed",
            Quoted(topic),
            c as u32
        )),
    }
}

/// Reads a command whose payload is the JSON object of the same name.
fn read_object<'a>(parser: &mut Parser, body: Body<'a>, kind: Kind) -> Result<Command<'a>, CommandError<'a>> {
    let refuse = |code, message| CommandError { op: Some(kind.as_str()), ..CommandError::new(code, message) };

    check_flags(&body, FLAG_JSON | FLAG_EXT).map_err(|message| refuse(ErrorCode::BadValue, message))?;
    if !body.topic.is_empty() || body.seq != 0 {
        let message = format!(
            "a {} has topic_len {} and seq {}; both are 0, since its JSON object has the topic and the id",
            kind.as_str(),
            body.topic.len(),
            body.seq
        );
        return Err(refuse(ErrorCode::BadValue, message));
    }
    if body.payload.len() > OBJECT_BYTES_MAX {
        let message = format!(
            "the object of a {} has {} bytes; at most {OBJECT_BYTES_MAX} are allowed",
            kind.as_str(),
            body.payload.len()
        );
        return Err(refuse(ErrorCode::LimitReached, message));
    }
    let text = simdutf8::compat::from_utf8(body.payload).map_err(|error| {
        refuse(ErrorCode::BadMessage, format!("the payload is not UTF-8 at its byte {}", error.valid_up_to()))
    })?;
    let command = parser.parse_one(text);
    let copied;
    let (op, id, topic) = match &command {
        Ok(Command::Subscribe { id, filter, .. } | Command::SubscribeTour { id, filter, .. }) => {
            (Kind::Subscribe.as_str(), *id, Some(filter.text()))
        }
        Ok(Command::Unsubscribe { id, filter }) => (Kind::Unsubscribe.as_str(), *id, Some(filter.text())),
        Ok(Command::Publish { id, topic, .. }) => {
            copied = Cow::Borrowed(topic.as_str());
            (Kind::Publish.as_str(), *id, Some(&copied))
        }
        Ok(Command::History { id, topic, .. }) => (Kind::History.as_str(), Some(*id), Some(topic.text())),
        Ok(Command::Ping { id }) => (Kind::Ping.as_str(), *id, None),
        Ok(Command::Auth { id, .. }) => (Kind::Auth.as_str(), *id, None),
        // Of several faults the topic is the last that is told, and what is not offered for it.
        Err(CommandError {
            op: Some(op),
            id,
            topic,
            code: ErrorCode::BadTopic | ErrorCode::Unsupported,
            ..
        }) => (*op, *id, topic.as_ref()),
        Err(_) => return command,
    };
    if op == kind.as_str() {
        return command;
    }
    let message =
        format!("`op` is `{op}` in a body of kind {} ({0}); the same name is allowed", kind.as_str());
    Err(CommandError { id, topic: topic.cloned(), ..refuse(ErrorCode::BadValue, message) })
}

/// The error says which flags are too many.
fn check_flags(body: &Body<'_>, allowed: u8) -> Result<(), String> {
    match body.flags & !allowed {
        0 => Ok(()),
        unknown => {
            Err(format!("the flags {unknown:#04x} are unknown in this kind; {allowed:#04x} are allowed"))
        }
    }
}

/// Takes a batch's next body, by its length.
fn take_body<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], CommandError<'a>> {
    let len = u32::from_be_bytes(take_array(rest, "a body's length")?);
    take(rest, len as usize, "a batch's body")
}

fn take_array<'a, const LEN: usize>(
    rest: &mut &'a [u8],
    what: &'static str,
) -> Result<[u8; LEN], CommandError<'a>> {
    take(rest, LEN, what).map(|bytes| bytes.try_into().expect("as many bytes were taken"))
}

fn take<'a>(rest: &mut &'a [u8], len: usize, what: &'static str) -> Result<&'a [u8], CommandError<'a>> {
    let (bytes, after) = rest.split_at_checked(len).ok_or_else(|| truncated(what, len, rest.len()))?;
    *rest = after;
    Ok(bytes)
}

#[cold]
fn truncated<'a>(what: &str, due: usize, left: usize) -> CommandError<'a> {
    CommandError::bad_message(format!("{what}: {due} bytes are due, {left} are left of the message or body"))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select, test_runner::RngSeed};

    use super::*;
    use crate::protocol::{
        Format,
        command::{Anchor, Since, Start, outcome::Outcome},
        rest,
        topic::Filter,
    };

    fn name(text: &str) -> TopicName<&str> {
        TopicName::parse(text).expect("a name")
    }

    fn filter(text: &str) -> Filter<Cow<'_, str>> {
        Filter::parse(text.into()).expect("a filter")
    }

    fn body(kind: u8, flags: u8, seq: u64, ext: &[u8], topic: &str, payload: &[u8]) -> Vec<u8> {
        let mut body = vec![kind, flags];
        body.extend((topic.len() as u16).to_be_bytes());
        body.extend(seq.to_be_bytes());
        if flags & FLAG_EXT != 0 {
            body.extend((ext.len() as u16).to_be_bytes());
            body.extend(ext);
        }
        body.extend(topic.as_bytes());
        body.extend(payload);
        body
    }

    fn batch(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut message = vec![0, 0];
        for body in bodies {
            message.extend((body.len() as u32).to_be_bytes());
            message.extend(body);
        }
        message
    }

    fn object(kind: u8, text: &str) -> Vec<u8> {
        body(kind, 0, 0, b"", "", text.as_bytes())
    }

    /// The results of `message`, with one error for a message that executes nothing.
    fn results<'a>(parser: &'a mut Parser, message: &'a [u8]) -> Vec<Result<Command<'a>, CommandError<'a>>> {
        match parse(parser, message) {
            Ok(commands) => commands.collect(),
            Err(error) => vec![Err(error)],
        }
    }

    #[track_caller]
    fn assert_parses(message: &[u8], expected: &Command<'_>) {
        assert_eq!(results(&mut Parser::new(), message), [Ok(expected.clone())]);
    }

    #[track_caller]
    fn assert_refused(message: &[u8], code: ErrorCode, parts_of_message: &[&str]) {
        let mut parser = Parser::new();
        let results = results(&mut parser, message);
        let [Err(error)] = &results[..] else { panic!("{results:?}") };
        assert_eq!(error.code, code, "{}", error.message);
        for part in parts_of_message {
            assert!(error.message.contains(part), "{part:?} is missing in {}", error.message);
        }
    }

    #[test]
    fn each_kind_of_a_client_is_read() {
        let publish = Command::Publish {
            id: Some(RequestId::Number(7)),
            topic: name("room/42"),
            payload: b"\xff\x00",
            kind: PayloadKind::Bytes,
            receivers: false,
            key: None,
            retain: false,
        };
        assert_parses(&body(1, 0, 7, b"", "room/42", b"\xff\x00"), &publish);
        assert_parses(&body(1, FLAG_EXT, 7, b"", "room/42", b"\xff\x00"), &publish);
        assert_parses(&body(1, FLAG_EXT, 7, b"?\0\x07unknown", "room/42", b"\xff\x00"), &publish);
        // A time is the broker's to say, and nobody's to claim.
        assert_parses(&body(1, FLAG_EXT, 7, b"\x04\0\0?\0\0", "room/42", b"\xff\x00"), &publish);
        let Command::Publish { id, topic, payload, kind, receivers, .. } = publish else { unreachable!() };
        let keyed =
            Command::Publish { id, topic, payload, kind, receivers, retain: false, key: Some(b"o-17") };
        let rows = b"\x09\0\x03abc\x01\0\x04o-17\x01\0\x01b";
        assert_parses(&body(1, FLAG_EXT, 7, rows, "room/42", b"\xff\x00"), &keyed);
        let json = Command::Publish {
            id: None,
            topic: name("t"),
            payload: b" [1]",
            kind: PayloadKind::Json,
            receivers: true,
            key: None,
            retain: true,
        };
        assert_parses(&body(1, FLAG_JSON | FLAG_RECEIVERS | FLAG_RETAIN, 0, b"", "t", b" [1]"), &json);

        let id = Some(RequestId::Text(r#""x""#));
        let filter = filter("room/#");
        assert_parses(
            &object(4, r#"{"op":"subscribe","topic":"room/#","id":"x"}"#),
            &Command::Subscribe { id, filter: filter.clone(), start: Start::default() },
        );
        assert_parses(
            &object(4, r#"{"op":"subscribe","topic":"room\/#","id":"x"}"#),
            &Command::Subscribe { id, filter: filter.clone(), start: Start::default() },
        );
        assert_parses(
            &object(5, r#"{"op":"unsubscribe","topic":"room/#","id":"x"}"#),
            &Command::Unsubscribe { id, filter },
        );
        let history = Command::History {
            id: RequestId::Number(7),
            topic: TopicName::parse("room/42".into()).expect("a name"),
            limit: 5,
            anchor: Some(Anchor::After(Since { epoch: Some(0x1f), seq: 3 })),
        };
        assert_parses(
            &object(
                12,
                r#"{"op":"history","topic":"room/42","id":7,"limit":5,"after":{"epoch":"000000000000001f","seq":3}}"#,
            ),
            &history,
        );
        assert_parses(&object(9, r#"{"op":"ping","id":"x"}"#), &Command::Ping { id });
        assert_parses(
            &body(9, FLAG_JSON | FLAG_EXT, 0, b"e\0\0", "", br#"{"op":"ping"}"#),
            &Command::Ping { id: None },
        );
    }

    #[test]
    fn a_batch_runs_in_order_each_body_with_its_own_result() {
        let message = batch(&[
            object(9, r#"{"op":"ping","id":1}"#),
            object(9, r#"{"op":"ping","id":}"#),
            body(1, 0, 0, b"", "a", b"x"),
            object(4, r#"{"op":"subscribe","topic":"a\/b"}"#),
            object(4, r#"{"op":"subscribe","topic":"a\/c"}"#),
        ]);
        let mut parser = Parser::new();
        let commands = parse(&mut parser, &message).expect("the batch holds together");
        assert_eq!(commands.size_hint(), (5, Some(5)));
        let results: Vec<_> = commands.collect();
        assert_eq!(results[0], Ok(Command::Ping { id: Some(RequestId::Number(1)) }));
        assert!(matches!(&results[1], Err(CommandError { code: ErrorCode::BadMessage, .. })));
        assert!(matches!(&results[2], Ok(Command::Publish { payload: b"x", .. })));
        assert_eq!(
            results[3],
            Ok(Command::Subscribe { id: None, filter: filter("a/b"), start: Start::default() })
        );
        assert_eq!(
            results[4],
            Ok(Command::Subscribe { id: None, filter: filter("a/c"), start: Start::default() })
        );
        drop(results);
        assert_eq!(parse(&mut parser, &[0, 0]).expect("an empty batch").count(), 0);
    }

    #[test]
    fn a_batch_that_does_not_hold_together_executes_nothing() {
        let good = object(9, r#"{"op":"ping"}"#);
        let mut truncated = batch(&[good.clone(), good.clone()]);
        truncated.pop();
        assert_refused(&truncated, ErrorCode::BadMessage, &["batch's body", "25 bytes", "24 are left"]);
        assert_refused(
            &batch(&[good.clone(), vec![1, 0, 0]]),
            ErrorCode::BadMessage,
            &["topic_len", "2 bytes"],
        );
        assert_refused(&batch(&[good.clone(), vec![]]), ErrorCode::BadMessage, &["kind and flags"]);
        let with_ext = body(1, FLAG_EXT, 0, b"\x01\0\x01", "t", b"");
        assert_refused(
            &batch(&[good.clone(), with_ext]),
            ErrorCode::BadMessage,
            &["row 0 of ext", "1 bytes"],
        );
        assert_refused(&batch(&[good.clone(), batch(&[])]), ErrorCode::BadMessage, &["body 1", "is a batch"]);
        let mut with_length = batch(std::slice::from_ref(&good));
        with_length.extend([0, 0, 0]);
        assert_refused(&with_length, ErrorCode::BadMessage, &["body's length", "4 bytes", "3 are left"]);
        assert_refused(&[0], ErrorCode::BadMessage, &["flags"]);
        assert_refused(&[0, 1], ErrorCode::BadValue, &["0x01", "0x00"]);
        assert_refused(&batch(&vec![good; 1025]), ErrorCode::LimitReached, &["1025", "1024"]);
    }

    #[test]
    fn each_fault_has_its_code_and_names_rule_value_and_what_is_allowed() {
        use ErrorCode::*;
        assert_refused(&[], BadMessage, &["kind and flags", "2 bytes", "0 are left"]);
        assert_refused(&[1, 0, 0, 0, 0], BadMessage, &["seq", "8 bytes", "1 are left"]);
        assert_refused(
            &body(1, 0, 0, b"", "topic", b"")[..15],
            BadMessage,
            &["topic", "5 bytes", "3 are left"],
        );
        assert_refused(
            &body(1, FLAG_EXT, 0, b"ext", "", b"")[..15],
            BadMessage,
            &["ext", "3 bytes", "1 are left"],
        );
        assert_refused(
            &body(1, FLAG_EXT, 0, b"?\0\x02ab?\x01\0c", "t", b""),
            BadMessage,
            &["row 1 of ext", "256 bytes", "1 are left"],
        );
        assert_refused(
            &body(9, FLAG_EXT, 0, b"e", "", b"{}"),
            BadMessage,
            &["row 0 of ext", "3 bytes", "1 are left"],
        );
        assert_refused(&body(1, 0x30, 0, b"", "t", b""), BadValue, &["0x30", "0x0f"]);
        assert_refused(
            &body(1, 0, 1 << 53, b"", "t", b""),
            BadValue,
            &["9007199254740992", "9007199254740991"],
        );
        let key = |len: u8| [&[ext::KEY, 0, len][..], &vec![b'k'; usize::from(len)]].concat();
        assert_refused(
            &body(1, FLAG_EXT, 0, &key(65), "t", b""),
            BadValue,
            &["`key`", "65 bytes", "1 to 64"],
        );
        assert_refused(&body(1, FLAG_EXT, 0, &key(0), "t", b""), BadValue, &["`key`", "0 bytes", "1 to 64"]);
        assert_refused(&body(1, 0, 0, b"", &"t".repeat(257), b""), BadTopic, &["257", "256"]);
        assert_refused(&body(1, FLAG_JSON, 0, b"", "t", b"{"), BadMessage, &["not JSON"]);
        assert_refused(&body(1, FLAG_JSON, 0, b"", "t", b""), BadMessage, &["empty"]);
        assert_refused(&body(1, FLAG_JSON, 0, b"", "t", b"\"\xff\""), BadMessage, &["UTF-8", "byte 1"]);
        assert_refused(&body(1, FLAG_JSON, 0, b"", "t", br#"{"a":1,"a":1}"#), BadMessage, &["twice"]);
        assert_refused(&body(2, 0, 0, b"", "t", b"x"), UnknownOp, &["2 (message)", "1 (publish)"]);
        assert_refused(&body(13, 0, 0, b"", "t", b"x"), UnknownOp, &["13", "12 (history)"]);
        assert_refused(&body(20, 0, 0, b"", "", b"{}"), UnknownOp, &["20 (epoch)", "1 (publish)"]);
        assert_refused(&body(9, 0x04, 0, b"", "", b"{}"), BadValue, &["0x04", "0x03"]);
        assert_refused(&body(9, 0, 1, b"", "", br#"{"op":"ping"}"#), BadValue, &["seq 1", "0"]);
        assert_refused(&body(9, 0, 0, b"", "t", br#"{"op":"ping"}"#), BadValue, &["topic_len 1", "0"]);
        assert_refused(&object(9, r#"{"op":"ping"}{}"#), BadMessage, &["end"]);
        assert_refused(&object(9, r#"[{"op":"ping"}]"#), BadMessage, &["an array"]);
        assert_refused(&object(4, r#"{"op":"ping"}"#), BadValue, &["`ping`", "subscribe"]);
        assert_refused(&body(9, 0, 0, b"", "", b"\"\xff"), BadMessage, &["UTF-8", "byte 1"]);
        let mut not_utf8 = body(1, 0, 0, b"", "ab", b"");
        not_utf8[13] = 0xff;
        assert_refused(&not_utf8, BadTopic, &["UTF-8", "byte 1"]);
        // JSON subscribers, and the error itself, could not carry it in I-JSON.
        assert_refused(&body(1, 0, 0, b"", "a\u{fffe}", b""), BadTopic, &["`a\\u{fffe}`", "U+FFFE"]);
        assert_refused(&body(1, 0, 0, b"", "", b""), BadTopic, &["1 to 256 bytes", "has 0"]);
        assert_refused(&body(1, 0, 0, b"", "a/+", b""), BadTopic, &["publish", "+ and #"]);
        assert_refused(&object(4, r#"{"op":"subscribe","topic":"a+"}"#), BadTopic, &["+", "whole level"]);
        // The rules of topics come last.
        assert_refused(&body(1, FLAG_JSON, 0, b"", "a/+", b"{"), BadMessage, &["not JSON"]);
        let mismatched = r#"{"op":"publish","topic":"a/+","data":1}"#;
        assert_refused(&object(4, mismatched), BadValue, &["`publish`", "subscribe"]);
        let not_offered = r#"{"op":"subscribe","topic":"a/+","last":1}"#;
        assert_refused(&object(12, not_offered), BadValue, &["`subscribe`", "history"]);
        let too_long = mismatched.replace("a/+", &"t".repeat(257));
        assert_refused(&object(4, &too_long), BadValue, &["`publish`", "subscribe"]);
    }

    #[test]
    fn an_error_tells_what_could_be_read_of_its_command() {
        let mut parser = Parser::new();
        let message = body(1, FLAG_JSON, 7, b"", "room/42", b"nope");
        let error = parse(&mut parser, &message).err().expect("not JSON");
        assert_eq!((error.op, error.id), (Some("publish"), Some(RequestId::Number(7))));
        assert_eq!(error.topic.as_deref(), Some("room/42"));
    }

    #[test]
    fn a_command_of_another_kind_is_refused_by_its_id_and_topic() {
        for (kind, text) in [
            (12, r#"{"op":"subscribe","topic":"room/42","id":7}"#),
            (12, r#"{"op":"unsubscribe","topic":"room/42","id":7}"#),
            (12, r#"{"op":"publish","topic":"room/42","id":7,"data":1}"#),
            (4, r#"{"op":"history","topic":"room/42","id":7}"#),
        ] {
            let message = object(kind, text);
            let mut parser = Parser::new();
            let results = results(&mut parser, &message);
            let [Err(error)] = &results[..] else { panic!("{results:?}") };
            assert_eq!(error.code, ErrorCode::BadValue, "{text}");
            assert_eq!(error.op, Kind::from_byte(kind).map(Kind::as_str), "{text}");
            assert_eq!(error.id, Some(RequestId::Number(7)), "{text}");
            assert_eq!(error.topic.as_deref(), Some("room/42"), "{text}");
        }
    }

    #[test]
    fn a_payload_that_is_json_may_be_63_levels_deep() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let message = |levels| body(1, FLAG_JSON, 0, b"", "t", nested(levels).as_bytes());
        assert!(parse(&mut Parser::new(), &message(63)).is_ok());
        assert_refused(&message(64), ErrorCode::BadMessage, &["63"]);
        assert_refused(&message(10_000), ErrorCode::BadMessage, &["63"]);
    }

    #[test]
    fn kinds_are_numbered_as_documented() {
        let numbers: Vec<u8> = Kind::ALL.iter().map(|kind| *kind as u8).collect();
        assert_eq!(numbers, (0..=12).chain(17..=20).collect::<Vec<_>>());
        for byte in 0..=u8::MAX {
            assert_eq!(Kind::from_byte(byte), Kind::ALL.into_iter().find(|kind| *kind as u8 == byte));
        }
    }

    /// An `ext` whose rows fit.
    fn rows() -> impl Strategy<Value = Vec<u8>> {
        vec((any::<u8>(), vec(any::<u8>(), 0..9)), 0..4).prop_map(|rows| {
            rows.iter()
                .flat_map(|(kind, bytes)| [&[*kind, 0, bytes.len() as u8], &bytes[..]].concat())
                .collect()
        })
    }

    fn any_body() -> impl Strategy<Value = Vec<u8>> {
        let payload = prop_oneof![
            vec(any::<u8>(), 0..40),
            select(
                &[
                    r#"{"op":"ping","id":1}"#,
                    r#"{"op":"subscribe","topic":"a\/b","id":"x"}"#,
                    r#"{"op":"unsubscribe","topic":"a"}"#,
                    r#"{"op":"history","topic":"a","id":1,"before":{"epoch":"000000000000001f","seq":3}}"#,
                    r#"{"a":[1,2,{"b":"\ud83d\ude00"}]}"#,
                ][..]
            )
            .prop_map(|text| text.as_bytes().to_vec()),
        ];
        (
            0u8..22,
            0u8..8,
            prop_oneof![Just(0u64), any::<u64>()],
            prop_oneof![vec(any::<u8>(), 0..9), rows()],
            "[a-z/]{0,9}",
            payload,
        )
            .prop_map(|(kind, flags, seq, ext, topic, payload)| {
                body(kind, flags, seq, &ext, &topic, &payload)
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 1_000,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(0x66616e66617265),
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_publish_comes_out_as_it_went_in(
            id in 0..=json::ID_NUMBER_MAX,
            unknown in rows(),
            key in prop::option::of(vec(any::<u8>(), 1..=command::KEY_BYTES_MAX)),
            topic in "\\PC{1,60}".prop_filter("a name", |topic| TopicName::parse(topic.as_str()).is_ok()),
            payload in vec(any::<u8>(), 0..300),
            flags in select(&[0, FLAG_EXT, FLAG_RECEIVERS, FLAG_RETAIN, FLAG_EXT | FLAG_RECEIVERS | FLAG_RETAIN][..]),
        ) {
            let row = |kind: u8, bytes: &[u8]| [&[kind, 0, bytes.len() as u8][..], bytes].concat();
            let row_of_key = key.as_ref().map_or(Vec::new(), |key| row(ext::KEY, key));
            let unknown: Vec<u8> = ext::Rows::new(&unknown)
                .filter(|(kind, _)| *kind != ext::KEY)
                .flat_map(|(kind, bytes)| row(kind, bytes))
                .collect();
            let ext = [unknown, row_of_key, row(0xff, b"")].concat();
            let message = body(1, flags, id, &ext, &topic, &payload);
            let expected = Command::Publish {
                id: (id != 0).then_some(RequestId::Number(id)),
                topic: name(&topic),
                payload: &payload,
                kind: PayloadKind::Bytes,
                receivers: flags & FLAG_RECEIVERS != 0,
                key: key.as_deref().filter(|_| flags & FLAG_EXT != 0),
                retain: flags & FLAG_RETAIN != 0,
            };
            let mut parser = Parser::new();
            prop_assert_eq!(results(&mut parser, &message), [Ok(expected)]);
        }

        #[test]
        fn a_message_leads_to_what_its_twin_says(
            bodies in vec(any_body(), 0..4),
            as_batch: bool,
            change in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut message = if as_batch { batch(&bodies) } else { bodies.concat() };
            if let Some((at, byte)) = change
                && !message.is_empty()
            {
                let at = at.index(message.len());
                message[at] = byte;
            }
            let mut parser = Parser::new();
            let outcomes = results(&mut parser, &message);
            let outcomes: Vec<_> = outcomes.iter().map(|it| Outcome::from(it).without_details()).collect();
            prop_assert_eq!(outcomes, naive::outcomes(&message));
        }

        #[test]
        fn where_one_stops_does_not_matter(bodies in vec(any_body(), 0..6)) {
            rest::naive::check_every_stop(Format::Binary, &batch(&bodies));
        }

        #[test]
        fn truncated_and_changed_messages_never_panic(
            bodies in vec(any_body(), 0..4),
            as_batch: bool,
            change in (any::<prop::sample::Index>(), any::<u8>()),
        ) {
            let mut message = if as_batch { batch(&bodies) } else { bodies.concat() };
            let mut parser = Parser::new();
            for changed in [false, true] {
                if changed && !message.is_empty() {
                    let at = change.0.index(message.len());
                    message[at] = change.1;
                }
                for len in 0..=message.len() {
                    for result in results(&mut parser, &message[..len]) {
                        if let Err(error) = result {
                            prop_assert!(!error.message.chars().any(char::is_control));
                        }
                    }
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(message in vec(any::<u8>(), 0..100)) {
            results(&mut Parser::new(), &message);
        }
    }
}
