//! What the broker tells one connection: answers to its commands, and events.

use super::{
    Format,
    binary::{self, BodyHeader, Kind},
    command::{At, CommandError, RequestId},
    frame,
    json::{self, Decimal},
    record::Record,
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
        /// Of a subscribe to a topic, what more there is to tell.
        begin: Begin,
        /// How many subscribers had the publication to come, if that was asked.
        receivers: Option<u64>,
        /// The publication was there already, at `seq`, and was not published again.
        is_duplicate: bool,
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
    /// All is sent that was published before to the topics that a filter matches, or its loss is told.
    Replayed {
        /// The filter as it was subscribed to.
        filter: &'a str,
        /// How many publications that were.
        count: u64,
        /// Nothing is missing of what was asked for.
        recovered: bool,
        /// As of when.
        at: &'a At,
    },
    /// The subscriber will not get `from..=to`.
    Gap {
        /// The topic's name.
        topic: &'a str,
        /// First missing `seq`.
        from: u64,
        /// Last missing `seq`.
        to: u64,
        /// Why, as it stands on the wire: `slow_consumer`, or `retention` where a replay came upon what is not
        /// kept any more.
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

/// Where a subscription to a topic begins: nothing of it for every other command, and for a filter with wildcards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// Whose numbering the `seq` is of, which every subscribe to a topic is told; 16 hex digits on the wire.
    pub epoch: Option<u64>,
    /// Whether all comes that was published after the place that the subscribe named; if it named one.
    pub recovered: Option<bool>,
    /// How many publications up to the `seq` come yet; if the subscribe asked for some of the past.
    pub replayed: Option<u64>,
}

/// The answer to a history: a page of what is kept of a topic.
#[derive(Clone, Copy, Debug)]
pub struct History<'a, R> {
    /// The command's id.
    pub id: RequestId<'a>,
    /// The topic's name.
    pub topic: &'a str,
    /// Whose numbering it is; 16 hex digits on the wire.
    pub epoch: u64,
    /// The topic's newest `seq`.
    pub seq: u64,
    /// The lowest `seq` that can still be had; one more than `seq` where nothing is kept.
    pub from: u64,
    /// Whether there is more of it, further on from where the page was asked for.
    pub more: bool,
    /// The publications as [`Record`]s, in the order of their `seq`s, in whichever format they are kept.
    pub messages: R,
}

/// Appends `reply` to `out` as one whole unmasked WebSocket frame in `format`.
///
/// Both formats carry the same JSON object; binary puts a body header with the reply's kind before it.
pub fn write(format: Format, reply: &Reply<'_>, out: &mut Vec<u8>) {
    write_frame(format, out, |out| {
        if format == Format::Binary {
            push_header(kind_of(reply), binary::FLAG_JSON, out);
        }
        write_object(reply, out);
    });
}

/// Appends `history` to `out` as one whole unmasked WebSocket frame in `format`, with every message word for word as
/// its subscribers got it.
///
/// In binary the object has no `messages`: they follow it, each behind its length, as bodies of their own.
pub fn write_history<'r, R>(format: Format, history: History<'_, R>, out: &mut Vec<u8>)
where
    R: IntoIterator<Item = Record<'r>>,
{
    write_frame(format, out, |out| match format {
        Format::Json => {
            push_history_fields(&history, out);
            out.extend_from_slice(br#","messages":["#);
            for (index, record) in history.messages.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                push_message(format, &record, out);
            }
            out.extend_from_slice(b"]}");
        }
        Format::Binary => {
            // What follows the header is no JSON.
            push_header(Kind::History, 0, out);
            push_with_length(out, |out| {
                push_history_fields(&history, out);
                out.push(b'}');
            });
            for record in history.messages {
                push_with_length(out, |out| push_message(format, &record, out));
            }
        }
    });
}

/// Appends what `write_message` appends as a frame in `format`.
fn write_frame(format: Format, out: &mut Vec<u8>, write_message: impl FnOnce(&mut Vec<u8>)) {
    let frame_start = out.len();
    // Nearly every reply is shorter than 126 bytes: room for the short header, and a longer one is
    // made room for when the length is known.
    out.resize(frame_start + HEADER_LEN_SHORT, 0);
    write_message(out);

    let message_start = frame_start + HEADER_LEN_SHORT;
    let message_len = out.len() - message_start;
    let header_len = frame::header_len(message_len);
    if header_len > HEADER_LEN_SHORT {
        let message_end = out.len();
        out.resize(message_end + header_len - HEADER_LEN_SHORT, 0);
        out.copy_within(message_start..message_end, frame_start + header_len);
    }
    frame::write_header(format.opcode(), message_len, &mut out[frame_start..frame_start + header_len]);
}

const HEADER_LEN_SHORT: usize = 2;

fn kind_of(reply: &Reply<'_>) -> Kind {
    match reply {
        Reply::Hello { .. } => Kind::Hello,
        Reply::Ok { .. } => Kind::Ok,
        Reply::Error(_) => Kind::Error,
        Reply::Pong { .. } => Kind::Pong,
        Reply::Replayed { .. } => Kind::Replayed,
        Reply::Gap { .. } | Reply::GapMany { .. } => Kind::Gap,
    }
}

fn push_header(kind: Kind, flags: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&BodyHeader { kind, flags, topic_len: 0, seq: 0 }.to_bytes());
}

/// Appends what `write` appends behind its length.
fn push_with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    const LENGTH_BYTES: usize = 4;
    let start = out.len() + LENGTH_BYTES;
    out.resize(start, 0);
    write(out);
    let len = u32::try_from(out.len() - start).expect("a page is far from 4 GiB");
    out[start - LENGTH_BYTES..start].copy_from_slice(&len.to_be_bytes());
}

/// Appends the message of `record`, which is a frame, in `format`.
fn push_message(format: Format, record: &Record<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + record.transcoded_len(format), 0);
    record.transcode(format, &mut out[start..]);
    let message = frame::server_payload(&out[start..]).expect("a record is a whole frame");
    out.drain(start..start + message.start);
}

/// Appends the object of `history` without `messages` and its end.
fn push_history_fields<R>(history: &History<'_, R>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"op":"history""#);
    push_id(&Some(history.id), out);
    push_text_field(br#","topic":"#, history.topic, out);
    push_epoch(history.epoch, out);
    push_number_field(br#","seq":"#, history.seq, out);
    push_number_field(br#","from":"#, history.from, out);
    push_bool_field(br#","more":"#, history.more, out);
}

/// Appends the JSON object that is `reply`.
fn write_object(reply: &Reply<'_>, out: &mut Vec<u8>) {
    match reply {
        Reply::Hello { epoch, connection, message_bytes_max, ping_s } => {
            out.extend_from_slice(br#"{"op":"hello","v":1"#);
            push_epoch(*epoch, out);
            out.extend_from_slice(br#","conn":""#);
            push_hex(*connection, out);
            out.extend_from_slice(br#"","max_message":"#);
            push_number(*message_bytes_max as u64, out);
            out.extend_from_slice(br#","ping_s":"#);
            push_number(*ping_s, out);
            out.extend_from_slice(br#","features":["binary","history","retain","keys"]"#);
        }
        Reply::Ok { id, topic, seq, begin, receivers, is_duplicate, hint } => {
            out.extend_from_slice(br#"{"op":"ok""#);
            push_id(id, out);
            push_text_field(br#","topic":"#, topic, out);
            if let Some(seq) = seq {
                push_number_field(br#","seq":"#, *seq, out);
            }
            push_begin(begin, out);
            if let Some(receivers) = receivers {
                push_number_field(br#","receivers":"#, *receivers, out);
            }
            if *is_duplicate {
                push_bool_field(br#","duplicate":"#, true, out);
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
        Reply::Replayed { filter, count, recovered, at } => {
            out.extend_from_slice(br#"{"op":"replayed""#);
            push_text_field(br#","topic":"#, filter, out);
            push_number_field(br#","count":"#, *count, out);
            push_bool_field(br#","recovered":"#, *recovered, out);
            push_text_field(br#","at":"#, &at.to_string(), out);
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

fn push_begin(begin: &Begin, out: &mut Vec<u8>) {
    if let Some(epoch) = begin.epoch {
        push_epoch(epoch, out);
    }
    if let Some(recovered) = begin.recovered {
        push_bool_field(br#","recovered":"#, recovered, out);
    }
    if let Some(replayed) = begin.replayed {
        push_number_field(br#","replayed":"#, replayed, out);
    }
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

fn push_bool_field(key: &[u8], value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn push_epoch(epoch: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(br#","epoch":""#);
    push_hex(epoch, out);
    out.push(b'"');
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
    use crate::protocol::{
        command::{ErrorCode, PayloadKind},
        publication::{Publication, tests::unframe},
        record::Records,
    };

    fn with_every_reply(mut look: impl FnMut(&Reply<'_>, &str)) {
        let id = Some(RequestId::Number(7));
        look(
            &Reply::Hello {
                epoch: 0x9f3a_c0de_1234_5678,
                connection: 0x2a,
                message_bytes_max: 1_048_576,
                ping_s: 25,
            },
            r#"{"op":"hello","v":1,"epoch":"9f3ac0de12345678","conn":"000000000000002a","max_message":1048576,"ping_s":25,"features":["binary","history","retain","keys"]}"#,
        );
        look(
            &Reply::Ok {
                id,
                topic: "room/42",
                seq: Some(121),
                begin: Begin::default(),
                receivers: None,
                is_duplicate: false,
                hint: None,
            },
            r#"{"op":"ok","id":7,"topic":"room/42","seq":121}"#,
        );
        look(
            &Reply::Ok {
                id,
                topic: "room/42",
                seq: Some(121),
                begin: Begin::default(),
                receivers: Some(3),
                is_duplicate: false,
                hint: None,
            },
            r#"{"op":"ok","id":7,"topic":"room/42","seq":121,"receivers":3}"#,
        );
        look(
            &Reply::Ok {
                id,
                topic: "room/42",
                seq: Some(121),
                begin: Begin::default(),
                receivers: None,
                is_duplicate: true,
                hint: None,
            },
            r#"{"op":"ok","id":7,"topic":"room/42","seq":121,"duplicate":true}"#,
        );
        let begin = Begin { epoch: Some(0x9f3a_c0de_1234_5678), recovered: None, replayed: None };
        look(
            &Reply::Ok {
                id,
                topic: "*",
                seq: Some(0),
                begin,
                receivers: None,
                is_duplicate: false,
                hint: Some("no"),
            },
            r#"{"op":"ok","id":7,"topic":"*","seq":0,"epoch":"9f3ac0de12345678","hint":"no"}"#,
        );
        let begin = Begin { recovered: Some(true), replayed: Some(17), ..begin };
        look(
            &Reply::Ok {
                id,
                topic: "room/42",
                seq: Some(120),
                begin,
                receivers: Some(1),
                is_duplicate: false,
                hint: Some("no"),
            },
            r#"{"op":"ok","id":7,"topic":"room/42","seq":120,"epoch":"9f3ac0de12345678","recovered":true,"replayed":17,"receivers":1,"hint":"no"}"#,
        );
        let begin = Begin { recovered: Some(false), replayed: Some(0), epoch: Some(1) };
        look(
            &Reply::Ok {
                id,
                topic: "room/42",
                seq: Some(190),
                begin,
                receivers: None,
                is_duplicate: false,
                hint: None,
            },
            r#"{"op":"ok","id":7,"topic":"room/42","seq":190,"epoch":"0000000000000001","recovered":false,"replayed":0}"#,
        );
        look(
            &Reply::Ok {
                id: None,
                topic: "a\"/#",
                seq: None,
                begin: Begin::default(),
                receivers: None,
                is_duplicate: false,
                hint: None,
            },
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
        look(
            &Reply::Error(&CommandError {
                op: Some("history"),
                topic: Some("room/42".into()),
                id,
                ..CommandError::new(ErrorCode::Busy, "one at a time".to_owned())
            }),
            r#"{"op":"error","for":"history","topic":"room/42","id":7,"code":"busy","message":"one at a time"}"#,
        );
        look(&Reply::Pong { id: Some(RequestId::Text(r#""\u0061""#)) }, r#"{"op":"pong","id":"\u0061"}"#);
        look(&Reply::Pong { id: None }, r#"{"op":"pong"}"#);
        look(
            &Reply::Gap { topic: "room/42", from: 122, to: 140, reason: "slow_consumer" },
            r#"{"op":"gap","topic":"room/42","from":122,"to":140,"reason":"slow_consumer"}"#,
        );
        look(
            &Reply::Gap { topic: "room/42", from: 122, to: 122, reason: "retention" },
            r#"{"op":"gap","topic":"room/42","from":122,"to":122,"reason":"retention"}"#,
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
                &Reply::Ok {
                    id: None,
                    topic: &topic,
                    seq: None,
                    begin: Begin::default(),
                    receivers: None,
                    is_duplicate: false,
                    hint: None,
                },
                &mut out,
            );
            assert_eq!(unframe(&out).1.len(), message_len);
        }
        let mut out = Vec::new();
        let error = CommandError::bad_message("\u{1}".repeat(20_000));
        write(Format::Json, &Reply::Error(&error), &mut out);
        assert!(unframe(&out).1.len() > 0xffff);
    }

    /// A topic that is written with an escape, JSON and bytes, of which one is stamped.
    const PUBLICATIONS: [Publication<'_>; 2] = [
        Publication {
            topic: "a\"",
            seq: 20,
            time_ms: None,
            payload: br#"{"text":"hi"}"#,
            kind: PayloadKind::Json,
        },
        Publication {
            topic: "a\"",
            seq: 21,
            time_ms: Some(1_764_083_000_123),
            payload: b"hi\xff\0",
            kind: PayloadKind::Bytes,
        },
    ];

    /// The message of a history of `publications`, which are kept in `kept`.
    fn history_of(format: Format, kept: Format, publications: &[Publication<'_>]) -> Vec<u8> {
        let mut records = Vec::new();
        for publication in publications {
            let start = records.len();
            records.resize(start + publication.encoded_len(kept), 0);
            publication.encode(kept, &mut records[start..]);
        }
        let mut out = b"before".to_vec();
        let history = History {
            id: RequestId::Text(r#""a-7""#),
            topic: "a\"",
            epoch: 0x9f3a_c0de_1234_5678,
            seq: 140,
            from: 20,
            more: true,
            messages: Records::new(kept, &records),
        };
        write_history(format, history, &mut out);
        let (opcode, message) = unframe(out.strip_prefix(b"before").expect("appended"));
        assert_eq!(opcode, if format == Format::Json { 1 } else { 2 });
        message.to_vec()
    }

    #[test]
    fn a_history_in_json_has_its_messages_as_subscribers_got_them() {
        for kept in Format::ALL {
            let message = history_of(Format::Json, kept, &PUBLICATIONS);
            assert_eq!(
                str::from_utf8(&message),
                Ok(concat!(
                    r#"{"op":"history","id":"a-7","topic":"a\"","epoch":"9f3ac0de12345678","seq":140,"from":20,"more":true,"messages":["#,
                    r#"{"op":"message","topic":"a\"","seq":20,"data":{"text":"hi"}},"#,
                    r#"{"op":"message","topic":"a\"","seq":21,"time":1764083000123,"base64":"aGn/AA=="}]}"#
                ))
            );
        }
    }

    #[test]
    fn a_history_in_binary_has_its_messages_as_bodies_behind_its_object() {
        let object = br#"{"op":"history","id":"a-7","topic":"a\"","epoch":"9f3ac0de12345678","seq":140,"from":20,"more":true}"#;
        for kept in Format::ALL {
            let message = history_of(Format::Binary, kept, &PUBLICATIONS);
            let expected = [
                b"\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x64",
                &object[..],
                b"\0\0\0\x1b\x02\x01\0\x02\0\0\0\0\0\0\0\x14a\"{\"text\":\"hi\"}",
                b"\0\0\0\x1f\x02\x02\0\x02\0\0\0\0\0\0\0\x15",
                b"\0\x0b\x04\0\x08\0\0\x01\x9a\xbb\x8a\x63\x3ba\"hi\xff\0",
            ];
            assert_eq!(message.escape_ascii().to_string(), expected.concat().escape_ascii().to_string());
        }
    }

    #[test]
    fn a_history_may_be_empty_or_long() {
        let empty =
            r#"{"op":"history","id":7,"topic":"t","epoch":"0000000000000000","seq":0,"from":1,"more":false"#;
        let history = History {
            id: RequestId::Number(7),
            topic: "t",
            epoch: 0,
            seq: 0,
            from: 1,
            more: false,
            messages: [],
        };
        let mut out = Vec::new();
        write_history(Format::Json, history, &mut out);
        assert_eq!(unframe(&out).1, format!(r#"{empty},"messages":[]}}"#).as_bytes());
        out.clear();
        write_history(Format::Binary, history, &mut out);
        assert_eq!(unframe(&out).1[binary::HEADER_LEN + 4..], *format!("{empty}}}").as_bytes());

        let payload = vec![b'1'; 300];
        let long = Publication { payload: &payload, kind: PayloadKind::Json, ..PUBLICATIONS[0] };
        for format in Format::ALL {
            let message = history_of(format, Format::Json, &[long; 1_000]);
            assert!((310_000..400_000).contains(&message.len()), "{}", message.len());
        }
    }
}
