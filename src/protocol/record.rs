//! Publications read back from their records: a log, a past and a page are nothing else.
//!
//! A record is a frame that [`Publication::encode`](super::publication::Publication::encode) wrote, so its layout is
//! certain. It is taken apart by what stands between its fields; nothing looks into a payload, which may hold the same
//! texts. What does not fit is a bug of ours and panics.

use std::borrow::Cow;

use super::{
    Format,
    binary::{self, BodyHeader, Kind, ext},
    command::PayloadKind,
    frame, json,
    publication::{
        JSON_BASE64, JSON_BASE64_END, JSON_DATA, JSON_DATA_END, JSON_SEQ, JSON_TIME, JSON_TOPIC, JSON_USER,
        JSON_USER_END,
    },
};

/// A publication in one plain format, borrowed from a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is written in.
    pub format: Format,
    /// All of it, header included.
    pub frame: &'a [u8],
    /// The topic's name as it is written: in JSON with its escapes.
    pub topic: &'a [u8],
    /// Its place in the topic's order.
    pub seq: u64,
    /// Who published it, if it says so, as it is written: in JSON with its escapes.
    pub user: Option<&'a [u8]>,
    /// When it got its place, in milliseconds since the Unix epoch, if it says so.
    pub time_ms: Option<u64>,
    /// The publisher's bytes as they are written: in JSON those of [`PayloadKind::Bytes`] are base64.
    pub payload: &'a [u8],
    /// What the publisher's bytes are.
    pub kind: PayloadKind,
}

impl<'a> Record<'a> {
    /// The topic's name.
    pub fn topic_name(&self) -> Cow<'a, str> {
        let written = std::str::from_utf8(self.topic).expect("a record's topic is text");
        match self.format {
            Format::Json if written.contains('\\') => {
                let mut name = vec![0; json::unescaped_len(self.topic)];
                json::write_unescaped(self.topic, &mut name);
                Cow::Owned(String::from_utf8(name).expect("a record's topic is text"))
            }
            _ => Cow::Borrowed(written),
        }
    }

    fn read(format: Format, frame: &'a [u8], message: &'a [u8]) -> Self {
        assert_eq!(frame[0], frame::first_byte(format.opcode()), "a record in {format:?} begins otherwise");
        match format {
            Format::Json => Self::read_json(frame, message),
            Format::Binary => Self::read_binary(frame, message),
        }
    }

    fn read_json(frame: &'a [u8], message: &'a [u8]) -> Self {
        let rest = after(JSON_TOPIC, message);
        let (topic, rest) = rest.split_at(json::written_len(rest));
        let (seq, rest) = json::take_decimal(after(JSON_SEQ, rest));
        let (user, rest) = match rest.strip_prefix(JSON_USER) {
            Some(rest) => {
                let (user, rest) = rest.split_at(json::written_len(rest));
                (Some(user), after(JSON_USER_END, rest))
            }
            None => (None, rest),
        };
        let (time_ms, rest) = match rest.strip_prefix(JSON_TIME) {
            Some(rest) => {
                let (time_ms, rest) = json::take_decimal(rest);
                (Some(time_ms), rest)
            }
            None => (None, rest),
        };
        let (payload, kind) = match rest.strip_prefix(JSON_DATA) {
            Some(rest) => (before(JSON_DATA_END, rest), PayloadKind::Json),
            None => (before(JSON_BASE64_END, after(JSON_BASE64, rest)), PayloadKind::Bytes),
        };
        Record { format: Format::Json, frame, topic, seq, user, time_ms, payload, kind }
    }

    fn read_binary(frame: &'a [u8], message: &'a [u8]) -> Self {
        let (header, rest) = message.split_first_chunk().expect("a body has its fixed fields");
        let header = BodyHeader::from_bytes(header).filter(|header| header.kind == Kind::Message);
        let BodyHeader { flags, topic_len, seq, .. } = header.expect("a record's kind is message");
        let kind = match flags & !binary::FLAG_EXT {
            0 => PayloadKind::Bytes,
            binary::FLAG_JSON => PayloadKind::Json,
            _ => panic!("a record has the flags {flags:#04x}; 0x00 to 0x03 are written"),
        };
        let (user, time_ms, rest) = match flags & binary::FLAG_EXT {
            0 => (None, None, rest),
            _ => ext::take_stamps(rest),
        };
        let (topic, payload) = rest.split_at_checked(usize::from(topic_len)).expect("a body has its topic");
        Record { format: Format::Binary, frame, topic, seq, user, time_ms, payload, kind }
    }
}

/// What follows `text` in a record in JSON.
fn after<'a>(text: &[u8], rest: &'a [u8]) -> &'a [u8] {
    rest.strip_prefix(text)
        .unwrap_or_else(|| panic!("{} is missing, with {} bytes to go", text.escape_ascii(), rest.len()))
}

/// What stands before `text` at the end of a record in JSON.
fn before<'a>(text: &[u8], rest: &'a [u8]) -> &'a [u8] {
    rest.strip_suffix(text).unwrap_or_else(|| panic!("a record in JSON ends without {}", text.escape_ascii()))
}

/// The records of a range, or of a part of one: whole ones in one plain format.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    format: Format,
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Those in `bytes`.
    pub fn new(format: Format, bytes: &'a [u8]) -> Self {
        Records { format, rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    /// # Panics
    /// If the bytes that are left do not begin with a record in the format.
    fn next(&mut self) -> Option<Record<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let whole = frame::server_payload(self.rest)
            .and_then(|payload| Some((payload.start, self.rest.split_at_checked(payload.end)?)));
        let (header_len, (frame, rest)) = whole.expect("a log has whole records");
        self.rest = rest;
        Some(Record::read(self.format, frame, &frame[header_len..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::publication::Publication;

    fn encoded(format: Format, publications: &[Publication<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for publication in publications {
            let start = bytes.len();
            bytes.resize(start + publication.encoded_len(format), 0xee);
            publication.encode(format, &mut bytes[start..]);
        }
        bytes
    }

    const PUBLICATION: Publication<'_> = Publication {
        topic: "a\"\n",
        seq: 7,
        user: None,
        time_ms: None,
        payload: b"[1]",
        kind: PayloadKind::Json,
    };

    #[test]
    fn a_record_has_its_fields_as_they_are_written() {
        let publications = [
            PUBLICATION,
            Publication {
                seq: u64::MAX,
                user: Some("b\""),
                time_ms: Some(5),
                payload: b"[1]",
                kind: PayloadKind::Bytes,
                ..PUBLICATION
            },
        ];
        let bytes = encoded(Format::Json, &publications);
        let (first, second) = bytes.split_at(publications[0].encoded_len(Format::Json));
        let in_json = Record {
            format: Format::Json,
            frame: first,
            topic: br#"a\"\n"#,
            seq: 7,
            user: None,
            time_ms: None,
            payload: b"[1]",
            kind: PayloadKind::Json,
        };
        let of_bytes = Record {
            frame: second,
            seq: u64::MAX,
            user: Some(b"b\""),
            time_ms: Some(5),
            kind: PayloadKind::Bytes,
            ..in_json
        };
        let bytes_in_json = Record { payload: b"WzFd", user: Some(br#"b\""#), ..of_bytes };
        assert_eq!(Records::new(Format::Json, &bytes).collect::<Vec<_>>(), [in_json, bytes_in_json]);

        let bytes = encoded(Format::Binary, &publications);
        let (first, second) = bytes.split_at(publications[0].encoded_len(Format::Binary));
        let in_binary = Record { format: Format::Binary, frame: first, topic: b"a\"\n", ..in_json };
        let bytes_in_binary = Record { format: Format::Binary, frame: second, topic: b"a\"\n", ..of_bytes };
        assert_eq!(Records::new(Format::Binary, &bytes).collect::<Vec<_>>(), [in_binary, bytes_in_binary]);
    }

    #[test]
    fn a_range_without_records_has_none() {
        for format in Format::ALL {
            assert_eq!(Records::new(format, b"").next(), None);
        }
    }

    /// Each with the message of the panic.
    #[test]
    fn what_publications_are_not_written_as_is_our_bug() {
        let json = encoded(Format::Json, &[PUBLICATION]);
        let binary = encoded(Format::Binary, &[PUBLICATION]);
        let stamped = encoded(Format::Binary, &[Publication { time_ms: Some(5), ..PUBLICATION }]);
        let changed = |bytes: &[u8], at: usize, byte: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            (Format::Binary, json.clone(), "a record in Binary begins otherwise"),
            (Format::Json, binary.clone(), "a record in Json begins otherwise"),
            // Compressed.
            (Format::Json, changed(&json, 0, 0xc1), "a record in Json begins otherwise"),
            (Format::Json, json[..1].to_vec(), "a log has whole records"),
            (Format::Json, json[..json.len() - 1].to_vec(), "a log has whole records"),
            (Format::Json, changed(&json, 4, b'x'), r#"{\"op\":\"message\",\"topic\":\" is missing"#),
            (Format::Json, changed(&json, 37, b'x'), r#",\"seq\": is missing"#),
            (Format::Json, changed(&json, json.len() - 1, b'x'), "a record in JSON ends without }"),
            (
                Format::Json,
                frame_of(Format::Json, br#"{"op":"message","topic":"t","seq":1,"user":"u"}"#),
                "base64",
            ),
            (Format::Json, frame_of(Format::Json, br#"{"op":"message","topic":"t"#), "has its quote"),
            (
                Format::Json,
                frame_of(
                    Format::Json,
                    br#"{"op":"message","topic":"t","seq":1,"time":2,"user":"u","data":3}"#,
                ),
                "base64",
            ),
            (Format::Binary, changed(&binary, 2, 1), "a record's kind is message"),
            (Format::Binary, changed(&binary, 2, 0xff), "a record's kind is message"),
            (Format::Binary, changed(&binary, 3, binary::FLAG_RECEIVERS), "a record has the flags 0x04"),
            (Format::Binary, changed(&binary, 3, binary::FLAG_EXT), "a publication's ext is"),
            (Format::Binary, changed(&stamped, 16, ext::KEY), "a publication's ext is"),
            (
                Format::Json,
                frame_of(Format::Json, br#"{"op":"message","topic":"t","seq":1,"time":2,"time":3}"#),
                "base64",
            ),
            (Format::Binary, changed(&binary, 5, 9), "a body has its topic"),
            (Format::Binary, frame_of(Format::Binary, &[2; 11]), "a body has its fixed fields"),
        ];
        for (format, bytes, expected) in cases {
            let read = || Records::new(format, &bytes).count();
            let panic = std::panic::catch_unwind(read).expect_err(expected);
            let message = panic.downcast_ref::<String>().cloned();
            let message =
                message.or(panic.downcast_ref::<&str>().map(|text| text.to_string())).expect("words");
            assert!(message.contains(expected), "{message} instead of {expected}");
        }
    }

    fn frame_of(format: Format, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write_message(format.opcode(), message, &mut out);
        out
    }
}
