//! Commands in both languages, and what becomes of them: replies and publications.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::protocol::{
    Format,
    binary::{self, ext},
    command::{At, Command, CommandError, PayloadKind, RequestId, outcome::Outcome},
    json::{self, Parser},
    publication::Publication,
    reply::{self, Begin, History, Identity, Reply},
    rest,
};

/// Reads `bytes` as a text message, if they are one.
pub fn json_commands(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let expected = json::naive::outcomes(text);
    let told = |outcome: Outcome| match json::naive::names_culprit(text) {
        true => outcome,
        false => outcome.without_details(),
    };
    let mut parser = Parser::new();
    for attempt in ["new", "used", "for long texts"] {
        if attempt == "for long texts" {
            parser = Parser::for_long_texts();
        }
        let outcomes = match parser.parse(text) {
            Ok(commands) => commands.map(|result| told(look(result))).collect(),
            Err(error) => vec![told(look(Err(error)))],
        };
        assert_eq!(outcomes, expected, "with a parser that is {attempt}: {text:?}");
    }
    rest::naive::check_every_stop(Format::Json, bytes);
}

/// Reads `bytes` as a binary message.
pub fn binary_commands(bytes: &[u8]) {
    let expected = binary::naive::outcomes(bytes);
    let mut parser = Parser::new();
    for attempt in ["new", "used"] {
        let outcomes = match binary::parse(&mut parser, bytes) {
            Ok(commands) => commands.map(|result| look(result).without_details()).collect(),
            Err(error) => vec![look(Err(error)).without_details()],
        };
        assert_eq!(outcomes, expected, "with a parser that is {attempt}: {}", bytes.escape_ascii());
    }
    rest::naive::check_every_stop(Format::Binary, bytes);
}

/// Goes on with a command or an error as a reactor would, and says what it was.
fn look(result: Result<Command<'_>, CommandError<'_>>) -> Outcome {
    match &result {
        Err(error) => check_refusal(error),
        Ok(Command::Publish { id, topic, payload, kind, key, .. }) => {
            for time_ms in [None, Some(u64::MAX / 5)] {
                for user in [None, Some(topic.as_str())] {
                    let (seq, kind) = (u64::MAX / 3, *kind);
                    check_publication(&Publication { topic, seq, user, time_ms, payload, kind });
                }
            }
            check_reply(&Reply::Ok {
                id: *id,
                topic,
                seq: Some(1),
                begin: Begin::default(),
                receivers: None,
                is_duplicate: key.is_some(),
                hint: None,
            });
        }
        Ok(Command::Subscribe { id, filter, start }) => {
            let begin = Begin {
                epoch: start.since.and_then(|since| since.epoch),
                recovered: start.since.map(|since| since.seq > 0),
                replayed: start.last.map(u64::from),
            };
            check_reply(&Reply::Ok {
                id: *id,
                topic: filter,
                seq: None,
                begin,
                receivers: None,
                is_duplicate: false,
                hint: None,
            });
        }
        Ok(Command::SubscribeTour { filter, last, resume, .. }) => {
            let at = resume.as_ref().and_then(|resume| resume.at.clone());
            let at = at.unwrap_or_else(|| At { epoch: 1, ticks: [u64::MAX].into() });
            assert_eq!(At::parse(&at.to_string()).as_ref(), Some(&at));
            let count = last.unwrap_or(0).into();
            check_reply(&Reply::Replayed { filter, count, recovered: resume.is_some(), at: &at });
        }
        Ok(Command::Auth { id, token }) => {
            let identity = Identity { is_awaited: false, user: Some(token.0), expires_in_s: Some(u64::MAX) };
            check_reply(&Reply::Authenticated { id: *id, identity });
        }
        Ok(Command::Unsubscribe { id, filter }) => {
            let begin = Begin::default();
            check_reply(&Reply::Ok {
                id: *id,
                topic: filter,
                seq: None,
                begin,
                receivers: None,
                is_duplicate: false,
                hint: None,
            });
        }
        Ok(Command::History { id, topic, .. }) => check_history(*id, topic),
        Ok(Command::Ping { id }) => check_reply(&Reply::Pong { id: *id }),
    }
    Outcome::from(&result)
}

/// An error's words are one line, and repeat little of what the peer sent.
fn check_refusal(error: &CommandError<'_>) {
    assert!(!error.message.chars().any(char::is_control), "{:?}", error.message);
    assert!(error.message.len() < 400, "{:?}", error.message);
    check_reply(&Reply::Error(error));
}

/// A reply is one frame, and its object I-JSON that any reader takes.
fn check_reply(reply: &Reply<'_>) {
    for format in Format::ALL {
        let mut frame = Vec::new();
        reply::write(format, reply, &mut frame);
        let message = message_of(&frame, format);
        let object = match format {
            Format::Json => message,
            Format::Binary => &message[binary::HEADER_LEN..],
        };
        let text = str::from_utf8(object).expect("a reply is text");
        assert!(json::naive::is_i_json(text, 2), "{text:?}");
    }
}

/// The object of a history is I-JSON that any reader takes.
fn check_history(id: RequestId<'_>, topic: &str) {
    for format in Format::ALL {
        let mut frame = Vec::new();
        let (epoch, seq, from, more, messages) = (0, 0, 1, false, []);
        reply::write_history(format, History { id, topic, epoch, seq, from, more, messages }, &mut frame);
        let message = message_of(&frame, format);
        let object = match format {
            Format::Json => message,
            Format::Binary => &message[binary::HEADER_LEN + 4..],
        };
        let text = str::from_utf8(object).expect("a history is text");
        assert!(json::naive::is_i_json(text, 2), "{text:?}");
    }
}

/// Every format carries the publication as it was, in I-JSON or behind its header.
fn check_publication(publication: &Publication<'_>) {
    let Publication { topic, seq, user, time_ms, payload, kind } = *publication;
    let frame_in = |format| {
        let mut frame = vec![0xee; publication.encoded_len(format)];
        publication.encode(format, &mut frame);
        frame
    };
    let frame = frame_in(Format::Json);
    let text = str::from_utf8(message_of(&frame, Format::Json)).expect("JSON is text");
    assert!(json::naive::is_i_json(text, 1 + 63), "{text:?}");
    let message: Message<'_> = serde_json::from_str(text).expect("it was just read");
    assert_eq!((message.op, &*message.topic, message.seq, message.time), ("message", topic, seq, time_ms));
    assert_eq!(message.user.as_deref(), user);
    match kind {
        PayloadKind::Json => {
            let data = message.data.expect("`data`").get();
            assert_eq!(Some(data), str::from_utf8(payload).ok().map(trim));
            assert_eq!(message.base64, None);
        }
        PayloadKind::Bytes => {
            assert!(message.data.is_none());
            let decoded = message.base64.and_then(|base64| STANDARD.decode(base64).ok());
            assert_eq!(decoded.as_deref(), Some(payload));
        }
    }

    let frame = frame_in(Format::Binary);
    let body = message_of(&frame, Format::Binary);
    let of_kind = if kind == PayloadKind::Json { binary::FLAG_JSON } else { 0 };
    let user = user.map(|user| {
        let [high, low] = (user.len() as u16).to_be_bytes();
        [&[ext::USER, high, low][..], user.as_bytes()].concat()
    });
    let time = time_ms.map(|time_ms| [&[ext::TIME, 0, 8][..], &time_ms.to_be_bytes()].concat());
    let rows = [user.unwrap_or_default(), time.unwrap_or_default()].concat();
    let of_ext = if rows.is_empty() { 0 } else { binary::FLAG_EXT };
    let ext = (!rows.is_empty()).then(|| [&(rows.len() as u16).to_be_bytes()[..], &rows].concat());
    assert_eq!(body[..2], [binary::Kind::Message as u8, of_kind | of_ext]);
    assert_eq!(usize::from(u16::from_be_bytes([body[2], body[3]])), topic.len());
    assert_eq!(body[4..binary::HEADER_LEN], seq.to_be_bytes());
    assert_eq!(body[binary::HEADER_LEN..], [&ext.unwrap_or_default(), topic.as_bytes(), payload].concat());
}

/// What a JSON subscriber gets.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    op: &'a str,
    topic: String,
    seq: u64,
    user: Option<String>,
    time: Option<u64>,
    #[serde(borrow)]
    data: Option<&'a serde_json::value::RawValue>,
    base64: Option<String>,
}

/// `data` without the blanks that JSON allows around a value.
fn trim(data: &str) -> &str {
    data.trim_matches([' ', '\t', '\n', '\r'])
}

/// The message in the one whole frame of a server that `frame` is.
fn message_of(frame: &[u8], format: Format) -> &[u8] {
    let opcode = match format {
        Format::Json => 1,
        Format::Binary => 2,
    };
    assert_eq!(frame[0], 0x80 | opcode);
    let (header_len, len) = match frame[1] {
        126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
        127 => (10, u64::from_be_bytes(*frame[2..].first_chunk().expect("8 bytes")) as usize),
        short => (2, usize::from(short)),
    };
    let expected_header_len = [2, 4, 10][usize::from(len > 125) + usize::from(len > 65_535)];
    assert_eq!((header_len, header_len + len), (expected_header_len, frame.len()));
    &frame[header_len..]
}
