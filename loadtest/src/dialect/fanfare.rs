//! fanfare's two subprotocols.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{Beginning, Message, Position, Start};

/// Binary kinds, from `docs/PROTOCOL.md`. Those of the broker that are read carry the JSON object of the same name, but
/// for a message.
mod kind {
    pub const BATCH: u8 = 0;
    pub const PUBLISH: u8 = 1;
    pub const MESSAGE: u8 = 2;
    pub const SUBSCRIBE: u8 = 4;
    pub const UNSUBSCRIBE: u8 = 5;
    pub const OK: u8 = 6;
    pub const ERROR: u8 = 7;
    pub const GAP: u8 = 8;
    pub const REPLAYED: u8 = 11;
}
/// Binary header: kind, flags, topic length, seq.
const HEADER_BYTES: usize = 12;
const FLAG_JSON: u8 = 0x01;
const FLAG_EXTENSION: u8 = 0x02;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(borrow, default)]
    topic: Option<Cow<'a, str>>,
    #[serde(default)]
    from: Option<u64>,
    #[serde(default)]
    to: Option<u64>,
    #[serde(borrow, default)]
    data: Option<Cow<'a, str>>,
    /// What was published as bytes.
    #[serde(borrow, default)]
    base64: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    epoch: Option<Cow<'a, str>>,
    #[serde(default)]
    recovered: Option<bool>,
    #[serde(default)]
    replayed: Option<u64>,
    #[serde(default)]
    count: u64,
    #[serde(borrow, default)]
    at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
}

/// A subscribe command.
pub fn json_subscribe(topic: &str) -> Vec<u8> {
    format!(r#"{{"op":"subscribe","topic":"{topic}","id":1}}"#).into()
}

/// A subscribe command in its binary coat.
pub fn binary_subscribe(topic: &str) -> Vec<u8> {
    [&header(kind::SUBSCRIBE, 0)[..], &json_subscribe(topic)].concat()
}

/// A subscribe command that begins with some of the past.
pub fn json_subscribe_from(topic: &str, beginning: Beginning<'_>) -> Vec<u8> {
    let beginning = match beginning {
        Beginning::After(Position { epoch, seq }) => {
            format!(r#""since":{{"epoch":"{epoch}","seq":{seq}}}"#)
        }
        Beginning::Newest(count) => format!(r#""last":{count}"#),
        Beginning::At(at) => format!(r#""since":{{"at":"{at}"}}"#),
    };
    format!(r#"{{"op":"subscribe","topic":"{topic}","id":1,{beginning}}}"#).into()
}

/// The same in its binary coat.
pub fn binary_subscribe_from(topic: &str, beginning: Beginning<'_>) -> Vec<u8> {
    [&header(kind::SUBSCRIBE, 0)[..], &json_subscribe_from(topic, beginning)].concat()
}

/// An unsubscribe command.
pub fn json_unsubscribe(topic: &str) -> Vec<u8> {
    format!(r#"{{"op":"unsubscribe","topic":"{topic}","id":2}}"#).into()
}

/// An unsubscribe command in its binary coat.
pub fn binary_unsubscribe(topic: &str) -> Vec<u8> {
    [&header(kind::UNSUBSCRIBE, 0)[..], &json_unsubscribe(topic)].concat()
}

/// What stands before and after the data of a publish command.
pub fn json_publish(topic: &str) -> (Vec<u8>, Vec<u8>) {
    (format!(r#"{{"op":"publish","topic":"{topic}","data":""#).into(), b"\"}".to_vec())
}

/// What stands before the data of a binary publish command.
pub fn binary_publish(topic: &str) -> Vec<u8> {
    [&header(kind::PUBLISH, topic.len() as u16)[..], topic.as_bytes()].concat()
}

/// The same with an id to be answered, other than 0.
pub fn binary_publish_with_id(topic: &str, id: u64) -> Vec<u8> {
    let mut publish = binary_publish(topic);
    publish[4..HEADER_BYTES].copy_from_slice(&id.to_be_bytes());
    publish
}

fn header(kind: u8, topic_len: u16) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = kind;
    header[2..4].copy_from_slice(&topic_len.to_be_bytes());
    header
}

/// The message in a text frame's payload, or the JSON object in a binary one.
///
/// # Errors
/// What the broker did wrong.
pub fn read_json(payload: &[u8], wire_bytes: usize) -> Result<Message<'_>, String> {
    if let Some(delivery) = read_json_delivery(payload, wire_bytes) {
        return Ok(delivery);
    }
    let envelope: Envelope<'_> = serde_json::from_slice(payload)
        .map_err(|error| format!("not a message: {error}: {}", String::from_utf8_lossy(payload)))?;
    Ok(match &*envelope.op {
        "message" => Message::Delivery {
            topic: envelope.topic.map_or(Cow::Borrowed(&[]), bytes_of),
            seq: Some(envelope.seq),
            wire_bytes,
            data: match (envelope.data, envelope.base64) {
                (Some(data), _) => bytes_of(data),
                (None, Some(base64)) => Cow::Owned(
                    STANDARD.decode(&*base64).map_err(|error| format!("not base64: {error}: {base64}"))?,
                ),
                (None, None) => Cow::Borrowed(&[]),
            },
        },
        "ok" => Message::Ok {
            seq: envelope.seq,
            start: envelope.epoch.map(|epoch| Start {
                epoch,
                recovered: envelope.recovered,
                replayed: envelope.replayed,
            }),
        },
        "gap" => {
            Message::Gap { topic: envelope.topic.unwrap_or_default(), range: envelope.from.zip(envelope.to) }
        }
        "replayed" => Message::Replayed {
            count: envelope.count,
            recovered: envelope.recovered.unwrap_or(false),
            at: envelope.at.unwrap_or_default(),
        },
        "error" => Message::Error(format!(
            "{}: {}",
            envelope.code.as_deref().unwrap_or("error"),
            envelope.message.as_deref().unwrap_or("")
        )),
        _ => Message::Other,
    })
}

fn bytes_of(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// The layout that the broker writes, without a JSON parser: a sampled subscriber must not cost more
/// than what it samples. `None`: any other layout, for the parser.
fn read_json_delivery(payload: &[u8], wire_bytes: usize) -> Option<Message<'_>> {
    let rest = payload.strip_prefix(br#"{"op":"message","topic":""#)?;
    let topic_len = rest.iter().position(|it| *it == b'"')?;
    let (topic, rest) = rest.split_at(topic_len);
    // A name that is written in another way than it is has to be read.
    if topic.contains(&b'\\') {
        return None;
    }
    let mut rest = rest.strip_prefix(br#"","seq":"#)?;
    let mut seq = 0u64;
    while let Some((digit @ b'0'..=b'9', after)) = rest.split_first() {
        seq = seq.checked_mul(10)?.checked_add((digit - b'0') as u64)?;
        rest = after;
    }
    if let Some(stamped) = rest.strip_prefix(br#","time":"#) {
        rest = &stamped[stamped.iter().position(|it| !it.is_ascii_digit())?..];
    }
    let data = rest.strip_prefix(br#","data":""#)?.strip_suffix(b"\"}")?;
    // Ours hold letters and digits only; anything else is foreign, and `Payload::check` says so.
    Some(Message::Delivery {
        topic: Cow::Borrowed(topic),
        seq: Some(seq),
        data: Cow::Borrowed(data),
        wire_bytes,
    })
}

/// Calls `on_message` with each message in a binary frame's payload; there may be several in a batch.
///
/// # Errors
/// What the broker did wrong, or what `on_message` says.
pub fn read_binary(
    body: &[u8],
    wire_bytes: usize,
    on_message: &mut impl FnMut(Message<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let cut_off = || "a binary message ends too early".to_owned();
    if let [kind::BATCH, _, rest @ ..] = body {
        let mut rest = rest;
        // The frame's own bytes count with its first message.
        let mut frame_bytes = wire_bytes - rest.len();
        while !rest.is_empty() {
            let (len, after) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
            let (body, after) =
                after.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(cut_off)?;
            read_binary(body, frame_bytes + 4 + body.len(), on_message)?;
            frame_bytes = 0;
            rest = after;
        }
        return Ok(());
    }
    let (header, rest) = body.split_first_chunk::<HEADER_BYTES>().ok_or_else(cut_off)?;
    let mut rest = rest;
    if header[1] & FLAG_EXTENSION != 0 {
        let (len, after) = rest.split_first_chunk::<2>().ok_or_else(cut_off)?;
        rest = after.get(u16::from_be_bytes(*len) as usize..).ok_or_else(cut_off)?;
    }
    let topic_len = u16::from_be_bytes([header[2], header[3]]) as usize;
    let (topic, data) = rest.split_at_checked(topic_len).ok_or_else(cut_off)?;
    if header[0] == kind::MESSAGE {
        // What was published as a JSON string has its quotes.
        let data = match header[1] & FLAG_JSON {
            0 => data,
            _ => data.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(data),
        };
        let seq = u64::from_be_bytes(header[4..].try_into().expect("eight bytes"));
        return on_message(Message::Delivery {
            topic: Cow::Borrowed(topic),
            seq: Some(seq),
            data: Cow::Borrowed(data),
            wire_bytes,
        });
    }
    match header[0] {
        kind::OK | kind::ERROR | kind::GAP | kind::REPLAYED => on_message(read_json(data, wire_bytes)?),
        // Of others nothing is needed, and of those that are unknown nothing is known.
        _ => on_message(Message::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_reads_the_same_in_any_layout() {
        let topic = Cow::Borrowed(&b"load/1"[..]);
        let expected =
            Message::Delivery { topic, seq: Some(121), data: Cow::Borrowed(b"abc"), wire_bytes: 77 };
        for text in [
            r#"{"op":"message","topic":"load/1","seq":121,"data":"abc"}"#,
            r#"{"data":"abc","seq":121,"op":"message","topic":"load/1","user":"x"}"#,
            r#"{"op": "message","topic":"load/1","seq":121,"data":"\u0061bc"}"#,
            r#"{"op":"message","topic":"load/1","seq":121,"base64":"YWJj"}"#,
            r#"{"op":"message","topic":"load\/1","seq":121,"data":"abc"}"#,
            r#"{"op":"message","topic":"load/1","seq":121,"time":1764083000123,"data":"abc"}"#,
            r#"{"op":"message","topic":"load/1","seq":121,"time":1764083000123,"base64":"YWJj"}"#,
            r#"{"op":"message","topic":"load/1","seq":121,"user":"a\"","time":1764083000123,"data":"abc"}"#,
        ] {
            assert_eq!(read_json(text.as_bytes(), 77).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn replies_are_told_apart() {
        for (text, expected) in [
            (r#"{"op":"ok","id":1,"topic":"t","seq":7}"#, Message::Ok { seq: 7, start: None }),
            (
                r#"{"op":"ok","id":1,"topic":"t","seq":7,"epoch":"9f","recovered":true,"replayed":3}"#,
                Message::Ok {
                    seq: 7,
                    start: Some(Start { epoch: "9f".into(), recovered: Some(true), replayed: Some(3) }),
                },
            ),
            (
                r#"{"op":"ok","id":1,"topic":"t","seq":7,"epoch":"9f"}"#,
                Message::Ok {
                    seq: 7,
                    start: Some(Start { epoch: "9f".into(), recovered: None, replayed: None }),
                },
            ),
            (r#"{"op":"ok","id":1,"topic":"t/#"}"#, Message::Ok { seq: 0, start: None }),
            (
                r#"{"op":"gap","topic":"t","from":1,"to":2,"reason":"slow_consumer"}"#,
                Message::Gap { topic: "t".into(), range: Some((1, 2)) },
            ),
            (
                r##"{"op":"gap","topic":"t/#","reason":"slow_consumer"}"##,
                Message::Gap { topic: "t/#".into(), range: None },
            ),
            (
                r##"{"op":"replayed","topic":"t/#","count":2,"recovered":true,"at":"9f.2"}"##,
                Message::Replayed { count: 2, recovered: true, at: "9f.2".into() },
            ),
            (r#"{"op":"error","code":"bad_topic","message":"no"}"#, Message::Error("bad_topic: no".into())),
            (r#"{"op":"hello","v":1,"features":["binary"]}"#, Message::Other),
            (r#"{"op":"epoch","topic":"t","epoch":"00000000000000ff","seq":7}"#, Message::Other),
        ] {
            assert_eq!(read_json(text.as_bytes(), 77).unwrap(), expected, "{text}");
        }
        assert!(read_json(b"{", 3).is_err());
    }

    #[test]
    fn a_binary_batch_is_read_body_by_body() {
        let mut delivery = header(kind::MESSAGE, 2);
        delivery[HEADER_BYTES - 1] = 9;
        let delivery = [&delivery[..], b"t1data"].concat();
        let mut extended = delivery.clone();
        extended[1] = FLAG_EXTENSION;
        // Its time, and a row of a type that is not known.
        extended.splice(12..12, [0, 15, 4, 0, 8, 0, 0, 1, 2, 3, 4, 5, 6, 99, 0, 1, 7]);
        let ok = [&header(kind::OK, 0)[..], br#"{"op":"ok","seq":5}"#].concat();
        let epoch = [&header(20, 0)[..], br#"{"op":"epoch","topic":"t1","epoch":"ff","seq":9}"#].concat();
        let unknown = [&header(77, 0)[..], b"no JSON"].concat();
        let mut batch = vec![kind::BATCH, 0];
        let replayed =
            [&header(kind::REPLAYED, 0)[..], br#"{"op":"replayed","count":5,"at":"9f.1"}"#].concat();
        for body in [&delivery, &extended, &ok, &epoch, &unknown, &replayed] {
            batch.extend((body.len() as u32).to_be_bytes());
            batch.extend(body);
        }
        let mut seen = Vec::new();
        let mut collect = |it: Message<'_>| {
            seen.push(format!("{it:?}"));
            Ok(())
        };
        read_binary(&batch, batch.len() + 2, &mut collect).unwrap();
        let delivered = |wire_bytes| {
            let topic = Cow::Borrowed(&b"t1"[..]);
            let data = Cow::Borrowed(&b"data"[..]);
            format!("{:?}", Message::Delivery { topic, seq: Some(9), data, wire_bytes })
        };
        let wire_bytes = [4 + 4 + delivery.len(), 4 + extended.len()].map(delivered);
        let ok = "Ok { seq: 5, start: None }";
        let replayed = r#"Replayed { count: 5, recovered: false, at: "9f.1" }"#;
        assert_eq!(seen, [&wire_bytes[0], &wire_bytes[1], ok, "Other", "Other", replayed]);
        let mut json = [&delivery[..delivery.len() - 4], b"\"data\""].concat();
        json[1] = FLAG_JSON;
        let mut of_json = None;
        let mut keep = |it: Message<'_>| {
            of_json = Some(format!("{it:?}"));
            Ok(())
        };
        read_binary(&json, json.len(), &mut keep).unwrap();
        assert_eq!(of_json.unwrap(), delivered(json.len()));
        for len in 0..delivery.len() - 4 {
            assert!(read_binary(&delivery[..len], len, &mut |_| Ok(())).is_err(), "{len}");
        }
    }
}
