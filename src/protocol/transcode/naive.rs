//! The twin of transcoding: to read each frame by RFC 6455 and by the tables of the two languages, with serde_json, and
//! to encode anew what it says.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;

use super::{transcode, transcoded_len};
use crate::protocol::{
    Format,
    command::{PayloadKind, RequestId},
    publication::Publication,
    record::Records,
    reply::{self, History},
};

/// A [`Publication`] of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) topic: String,
    pub(crate) seq: u64,
    pub(crate) user: Option<String>,
    pub(crate) time_ms: Option<u64>,
    pub(crate) payload: Vec<u8>,
    pub(crate) kind: PayloadKind,
}

impl Owned {
    pub(crate) fn borrowed(&self) -> Publication<'_> {
        Publication {
            topic: &self.topic,
            seq: self.seq,
            user: self.user.as_deref(),
            time_ms: self.time_ms,
            payload: &self.payload,
            kind: self.kind,
        }
    }

    /// With as many blanks behind its payload as make its message in `format` so long, or as near as base64 comes.
    pub(crate) fn grown(mut self, format: Format, message_len: usize) -> Owned {
        let missing = message_len.saturating_sub(self.borrowed().message_len(format));
        let missing = match (format, self.kind) {
            (Format::Json, PayloadKind::Bytes) => missing / 4 * 3,
            _ => missing,
        };
        self.payload.resize(self.payload.len() + missing, b' ');
        self
    }
}

/// Checks that records of `publications` are read and transcoded, from each format to each and back, as the twin does
/// it.
pub(crate) fn check(publications: &[Owned]) {
    for from in Format::ALL {
        let bytes = encode(publications, from);
        let read = read(from, &bytes);
        assert_eq!(read, publications, "in {from:?}");
        check_records(from, &bytes, &read);
        for to in Format::ALL {
            let transcoded = transcoded(from, &bytes, to);
            // Without the bytes, which may be many.
            assert!(transcoded == encode(&read, to), "from {from:?} to {to:?}: {publications:?}");
            check_history(from, &bytes, &read, to);
            let back = self::transcoded(to, &transcoded, from);
            assert!(back == bytes, "from {from:?} to {to:?} and back: {publications:?}");
        }
    }
}

fn check_records(format: Format, bytes: &[u8], publications: &[Owned]) {
    let records: Vec<_> = Records::new(format, bytes).collect();
    assert_eq!(records.len(), publications.len());
    assert_eq!(records.iter().map(|record| record.frame).collect::<Vec<_>>().concat(), bytes);
    for (record, publication) in records.iter().zip(publications) {
        let (topic, payload) = match (format, record.kind) {
            (Format::Binary, _) => (record.topic.to_vec(), record.payload.to_vec()),
            (Format::Json, PayloadKind::Json) => (unquoted(record.topic), record.payload.to_vec()),
            (Format::Json, PayloadKind::Bytes) => (unquoted(record.topic), decoded(record.payload)),
        };
        let user = record.user.map(|user| match format {
            Format::Binary => user.to_vec(),
            Format::Json => unquoted(user),
        });
        let [topic, user] =
            [Some(topic), user].map(|name| name.map(|it| String::from_utf8(it).expect("UTF-8")));
        let (topic, time_ms) = (topic.expect("it has one"), record.time_ms);
        let read = Owned { topic, seq: record.seq, user, time_ms, payload, kind: record.kind };
        assert_eq!(&read, publication);
        assert_eq!(record.format, format);
    }
}

/// A history has the messages of its records, in JSON between commas, in binary behind their lengths.
fn check_history(from: Format, bytes: &[u8], publications: &[Owned], to: Format) {
    let mut frame = Vec::new();
    let (id, messages) = (RequestId::Number(7), Records::new(from, bytes));
    let history = History { id, topic: "t", epoch: 0, seq: 140, from: 1, more: false, messages };
    reply::write_history(to, history, &mut frame);

    let object =
        r#"{"op":"history","id":7,"topic":"t","epoch":"0000000000000000","seq":140,"from":1,"more":false"#;
    let alone = publications.iter().map(|publication| encode(std::slice::from_ref(publication), to));
    let messages: Vec<_> = alone.map(|frame| message(&frame).0.to_vec()).collect();
    let expected = match to {
        Format::Json => {
            [format!(r#"{object},"messages":["#).as_bytes(), &messages.join(&b','), b"]}"].concat()
        }
        Format::Binary => {
            let object = format!("{object}}}").into_bytes();
            let mut body = vec![12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            for part in [object].iter().chain(&messages) {
                body.extend((part.len() as u32).to_be_bytes());
                body.extend(part);
            }
            body
        }
    };
    assert!(
        message(&frame) == (&expected, &[]),
        "a history in {to:?} of records in {from:?}: {publications:?}"
    );
}

fn transcoded(from: Format, bytes: &[u8], to: Format) -> Vec<u8> {
    let records = Records::new(from, bytes);
    // Not zeros, so that a byte that is not written shows.
    let mut out = vec![0xee; transcoded_len(records, to)];
    transcode(records, to, &mut out);
    out
}

fn encode(publications: &[Owned], format: Format) -> Vec<u8> {
    let mut bytes = Vec::new();
    for publication in publications.iter().map(Owned::borrowed) {
        let mut frame = vec![0xee; publication.encoded_len(format)];
        publication.encode(format, &mut frame);
        bytes.extend(frame);
    }
    bytes
}

fn read(format: Format, mut bytes: &[u8]) -> Vec<Owned> {
    let mut publications = Vec::new();
    while !bytes.is_empty() {
        let (message, rest) = message(bytes);
        publications.push(match format {
            Format::Json => read_json(message),
            Format::Binary => read_binary(message),
        });
        bytes = rest;
    }
    publications
}

/// The message in the first frame of `bytes`, and what follows it.
fn message(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (header_len, len) = match bytes[1] {
        126 => (4, number(&bytes[2..4])),
        127 => (10, number(&bytes[2..10])),
        short => (2, u64::from(short)),
    };
    bytes[header_len..].split_at(len as usize)
}

fn read_binary(body: &[u8]) -> Owned {
    let (kind, has_ext) = match body[..2] {
        [2, flags @ 0..=3] => ([PayloadKind::Bytes, PayloadKind::Json][usize::from(flags) % 2], flags >= 2),
        ref other => panic!("kind and flags {other:?}"),
    };
    let (mut user, mut time_ms, mut rest) = (None, None, &body[12..]);
    if has_ext {
        let mut rows = &rest[2..2 + number(&rest[..2]) as usize];
        rest = &rest[2 + rows.len()..];
        assert!(!rows.is_empty(), "an ext has a row");
        while !rows.is_empty() {
            let row = &rows[3..3 + number(&rows[1..3]) as usize];
            match rows[0] {
                3 if user.is_none() && time_ms.is_none() => {
                    user = Some(String::from_utf8(row.to_vec()).expect("UTF-8"));
                }
                4 if time_ms.is_none() && row.len() == 8 => time_ms = Some(number(row)),
                other => panic!("a row of type {other} and {} bytes", row.len()),
            }
            rows = &rows[3 + row.len()..];
        }
    }
    let (topic, payload) = rest.split_at(number(&body[2..4]) as usize);
    let topic = String::from_utf8(topic.to_vec()).expect("UTF-8");
    Owned { topic, seq: number(&body[4..12]), user, time_ms, payload: payload.to_vec(), kind }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number * 256 + u64::from(*byte))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    op: &'a str,
    topic: String,
    seq: u64,
    user: Option<String>,
    time: Option<u64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    base64: Option<&'a str>,
}

fn read_json(message: &[u8]) -> Owned {
    let text = str::from_utf8(message).expect("JSON is text");
    let Message { op, topic, seq, user, time, data, base64 } = serde_json::from_str(text).expect("a message");
    assert_eq!(op, "message");
    let (payload, kind) = match (data, base64) {
        (Some(data), None) => (with_blanks(data.get(), text), PayloadKind::Json),
        (None, Some(base64)) => (decoded(base64.as_bytes()), PayloadKind::Bytes),
        both => panic!("{both:?}"),
    };
    Owned { topic, seq, user, time_ms: time, payload, kind }
}

/// The value `data` with the blanks around it, which serde_json leaves out: from the colon to the brace at the end of
/// `text`.
fn with_blanks(data: &str, text: &str) -> Vec<u8> {
    let before = &text[..data.as_ptr().addr() - text.as_ptr().addr()];
    let colon = before.rfind(':').expect("a colon");
    text[colon + 1..text.len() - 1].into()
}

fn decoded(base64: &[u8]) -> Vec<u8> {
    STANDARD.decode(base64).expect("base64")
}

fn unquoted(inside: &[u8]) -> Vec<u8> {
    let quoted = [b"\"", inside, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).expect("a string").into_bytes()
}
