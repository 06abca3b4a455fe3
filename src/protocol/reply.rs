//! What the broker tells one connection: answers to its commands, and events.

use super::{
    Format,
    binary::{self, BodyHeader, Kind},
    command::{CommandError, RequestId},
    frame::{self, Opcode},
    json::{self, Decimal},
};

/// One reply or event.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<'a> {
    /// The first message of every connection.
    Hello {
        /// 64 random bits per process start; 16 hex digits on the wire.
        epoch: u64,
        /// Names the connection in logs; 16 hex digits on the wire.
        connection: u64,
        /// The longest message that the broker takes, in bytes.
        message_bytes_max: usize,
        /// How often the broker pings, in seconds.
        ping_s: u64,
    },
    /// A command was carried out.
    Ok {
        /// The command's id.
        id: Option<RequestId<'a>>,
        /// The topic or filter as the command named it.
        topic: &'a str,
        /// The topic's `seq`: of the publication, or where a subscription starts. None for a filter
        /// with wildcards and for an unsubscribe.
        seq: Option<u64>,
        /// How many subscribers had the publication to come, if that was asked.
        receivers: Option<u64>,
        /// For people: what is probably meant otherwise.
        hint: Option<&'static str>,
    },
    /// A command was refused.
    Error(&'a CommandError<'a>),
    /// Answers a ping command.
    Pong {
        /// The command's id.
        id: Option<RequestId<'a>>,
    },
    /// The subscriber will not get `from..=to`.
    Gap {
        /// The topic's name.
        topic: &'a str,
        /// First missing `seq`.
        from: u64,
        /// Last missing `seq`.
        to: u64,
        /// Why, as it stands on the wire: `slow_consumer`.
        reason: &'static str,
    },
    /// More topics under `filter` lost publications than can be listed: resynchronise.
    GapMany {
        /// The filter whose topics lost publications.
        filter: &'a str,
        /// Why.
        reason: &'static str,
    },
}

/// Appends `reply` to `out` as one whole unmasked WebSocket frame in `format`.
///
/// Both formats carry the same JSON object; binary puts a body header with the reply's kind before it.
pub fn write(format: Format, reply: &Reply<'_>, out: &mut Vec<u8>) {
    let frame_start = out.len();
    // Nearly every reply is shorter than 126 bytes: room for the short header, and a longer one is
    // made room for when the length is known.
    out.resize(frame_start + HEADER_LEN_SHORT, 0);
    let opcode = match format {
        Format::Json => Opcode::Text,
        Format::Binary => {
            let header = BodyHeader { kind: kind_of(reply), flags: binary::FLAG_JSON, topic_len: 0, seq: 0 };
            out.extend_from_slice(&header.to_bytes());
            Opcode::Binary
        }
    };
    write_object(reply, out);

    let message_start = frame_start + HEADER_LEN_SHORT;
    let message_len = out.len() - message_start;
    let header_len = frame::header_len(message_len);
    if header_len > HEADER_LEN_SHORT {
        let message_end = out.len();
        out.resize(message_end + header_len - HEADER_LEN_SHORT, 0);
        out.copy_within(message_start..message_end, frame_start + header_len);
    }
    frame::write_header(opcode, message_len, &mut out[frame_start..frame_start + header_len]);
}

const HEADER_LEN_SHORT: usize = 2;

fn kind_of(reply: &Reply<'_>) -> Kind {
    match reply {
        Reply::Hello { .. } => Kind::Hello,
        Reply::Ok { .. } => Kind::Ok,
        Reply::Error(_) => Kind::Error,
        Reply::Pong { .. } => Kind::Pong,
        Reply::Gap { .. } | Reply::GapMany { .. } => Kind::Gap,
    }
}

/// Appends the JSON object that is `reply`.
fn write_object(reply: &Reply<'_>, out: &mut Vec<u8>) {
    match reply {
        Reply::Hello { epoch, connection, message_bytes_max, ping_s } => {
            out.extend_from_slice(br#"{"op":"hello","v":1,"epoch":""#);
            push_hex(*epoch, out);
            out.extend_from_slice(br#"","conn":""#);
            push_hex(*connection, out);
            out.extend_from_slice(br#"","max_message":"#);
            push_number(*message_bytes_max as u64, out);
            out.extend_from_slice(br#","ping_s":"#);
            push_number(*ping_s, out);
            out.extend_from_slice(br#","features":["binary"]"#);
        }
        Reply::Ok { id, topic, seq, receivers, hint } => {
            out.extend_from_slice(br#"{"op":"ok""#);
            push_id(id, out);
            push_text_field(br#","topic":"#, topic, out);
            if let Some(seq) = seq {
                push_number_field(br#","seq":"#, *seq, out);
            }
            if let Some(receivers) = receivers {
                push_number_field(br#","receivers":"#, *receivers, out);
            }
            if let Some(hint) = hint {
                push_text_field(br#","hint":"#, hint, out);
            }
        }
        Reply::Error(error) => {
            out.extend_from_slice(br#"{"op":"error""#);
            if let Some(op) = error.op {
                push_text_field(br#","for":"#, op, out);
            }
            if let Some(topic) = &error.topic {
                push_text_field(br#","topic":"#, topic, out);
            }
            push_id(&error.id, out);
            push_text_field(br#","code":"#, error.code.as_str(), out);
            push_text_field(br#","message":"#, &error.message, out);
        }
        Reply::Pong { id } => {
            out.extend_from_slice(br#"{"op":"pong""#);
            push_id(id, out);
        }
        Reply::Gap { topic, from, to, reason } => {
            out.extend_from_slice(br#"{"op":"gap""#);
            push_text_field(br#","topic":"#, topic, out);
            push_number_field(br#","from":"#, *from, out);
            push_number_field(br#","to":"#, *to, out);
            push_text_field(br#","reason":"#, reason, out);
        }
        Reply::GapMany { filter, reason } => {
            out.extend_from_slice(br#"{"op":"gap""#);
            push_text_field(br#","filter":"#, filter, out);
            push_text_field(br#","reason":"#, reason, out);
        }
    }
    out.push(b'}');
}

fn push_id(id: &Option<RequestId<'_>>, out: &mut Vec<u8>) {
    match id {
        None => {}
        Some(RequestId::Number(number)) => push_number_field(br#","id":"#, *number, out),
        Some(RequestId::Text(raw)) => {
            out.extend_from_slice(br#","id":"#);
            // As the client wrote it, quotes and escapes included: valid JSON already.
            out.extend_from_slice(raw.as_bytes());
        }
    }
}

fn push_number_field(key: &[u8], number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    push_number(number, out);
}

fn push_text_field(key: &[u8], text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    out.push(b'"');
    let start = out.len();
    out.resize(start + json::escaped_len(text), 0);
    json::write_escaped(text, &mut out[start..]);
    out.push(b'"');
}

fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(Decimal::new(number).as_bytes());
}

/// Appends 16 hex digits.
fn push_hex(number: u64, out: &mut Vec<u8>) {
    out.extend((0..16).rev().map(|digit| b"0123456789abcdef"[(number >> (4 * digit) & 0xf) as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{command::ErrorCode, publication::tests::unframe};

    fn with_every_reply(mut look: impl FnMut(&Reply<'_>, &str)) {
        let id = Some(RequestId::Number(7));
        look(
            &Reply::Hello {
                epoch: 0x9f3a_c0de_1234_5678,
                connection: 0x2a,
                message_bytes_max: 1_048_576,
                ping_s: 25,
            },
            r#"{"op":"hello","v":1,"epoch":"9f3ac0de12345678","conn":"000000000000002a","max_message":1048576,"ping_s":25,"features":["binary"]}"#,
        );
        look(
            &Reply::Ok { id, topic: "room/42", seq: Some(121), receivers: None, hint: None },
            r#"{"op":"ok","id":7,"topic":"room/42","seq":121}"#,
        );
        look(
            &Reply::Ok { id, topic: "room/42", seq: Some(121), receivers: Some(3), hint: None },
            r#"{"op":"ok","id":7,"topic":"room/42","seq":121,"receivers":3}"#,
        );
        look(
            &Reply::Ok { id, topic: "*", seq: Some(0), receivers: None, hint: Some("no") },
            r#"{"op":"ok","id":7,"topic":"*","seq":0,"hint":"no"}"#,
        );
        look(
            &Reply::Ok { id: None, topic: "a\"/#", seq: None, receivers: None, hint: None },
            r#"{"op":"ok","topic":"a\"/#"}"#,
        );
        look(
            &Reply::Error(&CommandError {
                op: Some("publish"),
                id,
                topic: Some("room/42".into()),
                code: ErrorCode::BadTopic,
                message: "no `\\`\nhere".into(),
            }),
            r#"{"op":"error","for":"publish","topic":"room/42","id":7,"code":"bad_topic","message":"no `\\`\nhere"}"#,
        );
        look(
            &Reply::Error(&CommandError::bad_message("x".to_owned())),
            r#"{"op":"error","code":"bad_message","message":"x"}"#,
        );
        look(&Reply::Pong { id: Some(RequestId::Text(r#""\u0061""#)) }, r#"{"op":"pong","id":"\u0061"}"#);
        look(&Reply::Pong { id: None }, r#"{"op":"pong"}"#);
        look(
            &Reply::Gap { topic: "room/42", from: 122, to: 140, reason: "slow_consumer" },
            r#"{"op":"gap","topic":"room/42","from":122,"to":140,"reason":"slow_consumer"}"#,
        );
        look(
            &Reply::GapMany { filter: "room/#", reason: "slow_consumer" },
            r#"{"op":"gap","filter":"room/#","reason":"slow_consumer"}"#,
        );
    }

    #[test]
    fn json_looks_like_the_protocol_page() {
        with_every_reply(|reply, expected| {
            let mut out = b"before".to_vec();
            write(Format::Json, reply, &mut out);
            let (opcode, message) = unframe(out.strip_prefix(b"before").expect("appended"));
            assert_eq!((opcode, std::str::from_utf8(message)), (1, Ok(expected)));
            serde_json::from_slice::<serde_json::Value>(message).expect("JSON");
        });
    }

    #[test]
    fn binary_carries_the_json_object_under_its_kind() {
        with_every_reply(|reply, expected| {
            let mut out = Vec::new();
            write(Format::Binary, reply, &mut out);
            let (opcode, message) = unframe(&out);
            assert_eq!(opcode, 2);
            let (header, object) = message.split_at(binary::HEADER_LEN);
            assert_eq!(std::str::from_utf8(object), Ok(expected));
            let kind = Kind::from_byte(header[0]).expect("a kind");
            assert!(expected.starts_with(&format!(r#"{{"op":"{}""#, kind.as_str())), "{kind:?}: {expected}");
            assert_eq!(header[1..], [binary::FLAG_JSON, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        });
    }

    #[test]
    fn every_length_gets_the_shortest_header() {
        let empty = r#"{"op":"ok","topic":""}"#.len();
        for message_len in [100, 124, 125, 126, 127, 128, 200] {
            let topic = "x".repeat(message_len - empty);
            let mut out = Vec::new();
            write(
                Format::Json,
                &Reply::Ok { id: None, topic: &topic, seq: None, receivers: None, hint: None },
                &mut out,
            );
            assert_eq!(unframe(&out).1.len(), message_len);
        }
        let mut out = Vec::new();
        let error = CommandError::bad_message("\u{1}".repeat(20_000));
        write(Format::Json, &Reply::Error(&error), &mut out);
        assert!(unframe(&out).1.len() > 0xffff);
    }
}
