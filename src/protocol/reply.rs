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
        /// Whom it takes the client for; nothing of it where it asks nobody.
        identity: Identity<'a>,
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
    /// The client is who its token says.
    Authenticated {
        /// The command's id.
        id: Option<RequestId<'a>>,
        /// Who, and for how long.
        identity: Identity<'a>,
    },
    /// The token by which the client is who it is ends soon.
    Expiring {
        /// In so many seconds.
        in_s: u64,
    },
    /// The broker took a subscription back: nothing of it comes any more.
    Unsubscribed {
        /// The topic or filter as it was subscribed to.
        filter: &'a str,
        /// Why, as it stands on the wire: `forbidden`.
        reason: &'static str,
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

/// Whom a client is taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'a> {
    /// It is to bring a token before anything else.
    pub is_awaited: bool,
    /// The name that its token gives.
    pub user: Option<&'a str>,
    /// How long its token goes on, in seconds, if that has an end.
    pub expires_in_s: Option<u64>,
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
        Reply::Ok { .. } | Reply::Authenticated { .. } => Kind::Ok,
        Reply::Expiring { .. } => Kind::Expiring,
        Reply::Unsubscribed { .. } => Kind::Unsubscribed,
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
        Reply::Hello { epoch, connection, message_bytes_max, ping_s, identity } => {
            out.extend_from_slice(br#"{"op":"hello","v":1"#);
            push_epoch(*epoch, out);
            out.extend_from_slice(br#","conn":""#);
            push_hex(*connection, out);
            out.extend_from_slice(br#"","max_message":"#);
            push_number(*message_bytes_max as u64, out);
            out.extend_from_slice(br#","ping_s":"#);
            push_number(*ping_s, out);
            out.extend_from_slice(br#","features":["binary","history","retain","keys","auth"]"#);
            push_identity(identity, out);
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
        Reply::Authenticated { id, identity } => {
            out.extend_from_slice(br#"{"op":"ok""#);
            push_id(id, out);
            push_identity(identity, out);
        }
        Reply::Expiring { in_s } => {
            out.extend_from_slice(br#"{"op":"expiring""#);
            push_number_field(br#","in_s":"#, *in_s, out);
        }
        Reply::Unsubscribed { filter, reason } => {
            out.extend_from_slice(br#"{"op":"unsubscribed""#);
            push_text_field(br#","topic":"#, filter, out);
            push_text_field(br#","reason":"#, reason, out);
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
            if let Some(retry_after_ms) = error.retry_after_ms {
                push_number_field(br#","retry_after_ms":"#, retry_after_ms, out);
            }
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

fn push_identity(identity: &Identity<'_>, out: &mut Vec<u8>) {
    if identity.is_awaited {
        out.extend_from_slice(br#","auth":"required""#);
    }
    if let Some(user) = identity.user {
        push_text_field(br#","user":"#, user, out);
    }
    if let Some(expires_in_s) = identity.expires_in_s {
        push_number_field(br#","expires_in_s":"#, expires_in_s, out);
    }
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
mod tests;
