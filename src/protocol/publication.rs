//! A publication as its subscribers get it: one whole WebSocket frame per wire format.
//!
//! This runs once per publication and format, never per subscriber, and is bound by the copy of the
//! payload: lengths are computed first, so that every byte is written once, at its final place.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Format,
    binary::{self, BodyHeader, Kind, ext},
    command::PayloadKind,
    frame,
    json::{self, Decimal, Pointer},
};

/// A publication before it is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// The topic's name, at most 256 bytes.
    pub topic: &'a str,
    /// Its place in the topic's order.
    pub seq: u64,
    /// Who published it, at most 128 bytes; of a topic that is stamped with it, and of somebody with a name.
    pub user: Option<&'a str>,
    /// When it got its place, in milliseconds since the Unix epoch; of a topic that is stamped with it.
    pub time_ms: Option<u64>,
    /// The publisher's bytes.
    pub payload: &'a [u8],
    /// What `payload` is.
    pub kind: PayloadKind,
}

/// What the broker writes into the messages of a topic beside what was published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// See [`Publication::user`].
    pub user: bool,
    /// See [`Publication::time_ms`].
    pub time: bool,
}

/// Which publications are a topic's values without anybody saying so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LastValue {
    /// None.
    #[default]
    Nothing,
    /// The newest.
    Newest,
    /// Of all that have the same at this place of their payload the newest.
    PerKey(Arc<Pointer>),
}

/// The longest name of a publisher, in bytes.
pub const USER_BYTES_MAX: usize = 128;

pub(super) const JSON_TOPIC: &[u8] = br#"{"op":"message","topic":""#;
pub(super) const JSON_SEQ: &[u8] = br#"","seq":"#;
pub(super) const JSON_USER: &[u8] = br#","user":""#;
pub(super) const JSON_USER_END: &[u8] = br#"""#;
pub(super) const JSON_TIME: &[u8] = br#","time":"#;
pub(super) const JSON_DATA: &[u8] = br#","data":"#;
pub(super) const JSON_DATA_END: &[u8] = br#"}"#;
pub(super) const JSON_BASE64: &[u8] = br#","base64":""#;
pub(super) const JSON_BASE64_END: &[u8] = br#""}"#;

impl Publication<'_> {
    /// The length of the frame that [`Publication::encode`] writes, in bytes.
    pub fn encoded_len(&self, format: Format) -> usize {
        let message_len = self.message_len(format);
        frame::header_len(message_len) + message_len
    }

    /// Writes the frame, header included, into `out`, which is exactly [`Publication::encoded_len`] long.
    ///
    /// # Panics
    /// If it is not.
    pub fn encode(&self, format: Format, out: &mut [u8]) {
        // Not computed anew: whatever is written last has to fill what is left.
        let message_len = frame::message_len(out.len());
        let header_len = frame::write_header(format.opcode(), message_len, out);
        match format {
            Format::Json => self.write_json(&mut out[header_len..]),
            Format::Binary => self.write_binary(&mut out[header_len..]),
        }
    }

    /// The length of the WebSocket message, in bytes: the frame without its header.
    pub fn message_len(&self, format: Format) -> usize {
        match format {
            Format::Json => {
                let data_len = match self.kind {
                    PayloadKind::Json => JSON_DATA.len() + self.payload.len() + JSON_DATA_END.len(),
                    PayloadKind::Bytes => {
                        JSON_BASE64.len() + base64_len(self.payload.len()) + JSON_BASE64_END.len()
                    }
                };
                JSON_TOPIC.len()
                    + json::escaped_len(self.topic)
                    + JSON_SEQ.len()
                    + json::decimal_len(self.seq)
                    + self
                        .user
                        .map_or(0, |user| JSON_USER.len() + json::escaped_len(user) + JSON_USER_END.len())
                    + self.time_ms.map_or(0, |time_ms| JSON_TIME.len() + json::decimal_len(time_ms))
                    + data_len
            }
            Format::Binary => {
                let ext_len = if self.is_stamped() { self.ext_len() } else { 0 };
                binary::HEADER_LEN + ext_len + self.topic.len() + self.payload.len()
            }
        }
    }

    fn write_json(&self, out: &mut [u8]) {
        let out = put(out, JSON_TOPIC);
        let topic_len = json::write_escaped(self.topic, out);
        let out = put(&mut out[topic_len..], JSON_SEQ);
        let mut out = put(out, Decimal::new(self.seq).as_bytes());
        if let Some(user) = self.user {
            out = put(out, JSON_USER);
            let user_len = json::write_escaped(user, out);
            out = put(&mut out[user_len..], JSON_USER_END);
        }
        if let Some(time_ms) = self.time_ms {
            out = put(out, JSON_TIME);
            out = put(out, Decimal::new(time_ms).as_bytes());
        }
        match self.kind {
            PayloadKind::Json => {
                let out = put(out, JSON_DATA);
                let out = put(out, self.payload);
                out.copy_from_slice(JSON_DATA_END);
            }
            PayloadKind::Bytes => {
                let out = put(out, JSON_BASE64);
                let (encoded, out) = out.split_at_mut(base64_len(self.payload.len()));
                let written = STANDARD.encode_slice(self.payload, encoded);
                assert_eq!(written, Ok(encoded.len()), "base64 is as long as computed");
                out.copy_from_slice(JSON_BASE64_END);
            }
        }
    }

    /// Whether there is anything of the broker's own in it, as there is in few.
    #[inline]
    fn is_stamped(&self) -> bool {
        self.time_ms.is_some() || self.user.is_some()
    }

    #[cold]
    fn ext_len(&self) -> usize {
        ext::stamps_len(self.user.map(str::len), self.time_ms)
    }

    fn write_binary(&self, out: &mut [u8]) {
        if self.is_stamped() {
            return self.write_stamped_binary(out);
        }
        let out = put_header(self.topic.len(), self.seq, flags_of(self.kind), out);
        let out = put(out, self.topic.as_bytes());
        out.copy_from_slice(self.payload);
    }

    #[cold]
    fn write_stamped_binary(&self, out: &mut [u8]) {
        let stamps = WrittenStamps { user_len: self.user.map(str::len), time_ms: self.time_ms };
        let write_user = |out: &mut [u8]| out.copy_from_slice(self.user.unwrap_or_default().as_bytes());
        let out = put_binary_head(self.topic.len(), self.seq, stamps, write_user, self.kind, out);
        let out = put(out, self.topic.as_bytes());
        out.copy_from_slice(self.payload);
    }
}

/// What the broker writes of its own into a publication's body.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenStamps {
    /// How many bytes the publisher's name has.
    pub user_len: Option<usize>,
    /// See [`Publication::time_ms`].
    pub time_ms: Option<u64>,
}

/// Writes what stands before the topic in a publication's body to the front of `out` and returns the rest. `write_user`
/// writes the publisher's name, if there is one, to where it belongs.
pub(super) fn put_binary_head(
    topic_len: usize,
    seq: u64,
    stamps: WrittenStamps,
    write_user: impl FnOnce(&mut [u8]),
    kind: PayloadKind,
    out: &mut [u8],
) -> &mut [u8] {
    let WrittenStamps { user_len, time_ms } = stamps;
    match user_len.is_some() || time_ms.is_some() {
        true => {
            let out = put_header(topic_len, seq, flags_of(kind) | binary::FLAG_EXT, out);
            ext::put_stamps(user_len, write_user, time_ms, out)
        }
        false => put_header(topic_len, seq, flags_of(kind), out),
    }
}

fn flags_of(kind: PayloadKind) -> u8 {
    match kind {
        PayloadKind::Json => binary::FLAG_JSON,
        PayloadKind::Bytes => 0,
    }
}

#[inline]
fn put_header(topic_len: usize, seq: u64, flags: u8, out: &mut [u8]) -> &mut [u8] {
    let topic_len =
        u16::try_from(topic_len).expect("a topic's name has at most 256 bytes when it is published");
    let header = BodyHeader { kind: Kind::Message, flags, topic_len, seq };
    put(out, &header.to_bytes())
}

/// Copies `bytes` to the front of `out` and returns the rest.
pub(super) fn put<'out>(out: &'out mut [u8], bytes: &[u8]) -> &'out mut [u8] {
    let (front, rest) = out.split_at_mut(bytes.len());
    front.copy_from_slice(bytes);
    rest
}

/// The length of `len` bytes in base64 with padding.
fn base64_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, prelude::*, test_runner::RngSeed};
    use serde_json::value::RawValue;

    use super::*;

    /// Takes the one whole unmasked frame that `bytes` is apart.
    pub(in crate::protocol) fn unframe(bytes: &[u8]) -> (u8, &[u8]) {
        let (len, payload) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), &bytes[4..]),
            127 => (u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")) as usize, &bytes[10..]),
            short => (usize::from(short), &bytes[2..]),
        };
        assert_eq!(bytes[0] & 0xf0, 0x80, "FIN and no reserved bit");
        assert_eq!(payload.len(), len);
        assert_eq!(bytes.len(), frame::header_len(len) + len, "the shortest header");
        (bytes[0] & 0x0f, payload)
    }

    const PUBLICATION: Publication<'_> = Publication {
        topic: "room/42",
        seq: 121,
        user: None,
        time_ms: None,
        payload: br#"{"text":"hi"}"#,
        kind: PayloadKind::Json,
    };

    fn encoded(publication: &Publication<'_>, format: Format) -> Vec<u8> {
        // Not zeros, so that a byte that is not written shows.
        let mut out = vec![0xee; publication.encoded_len(format)];
        publication.encode(format, &mut out);
        out
    }

    #[test]
    fn json_looks_like_the_protocol_page() {
        let frame = encoded(&PUBLICATION, Format::Json);
        let text = r#"{"op":"message","topic":"room/42","seq":121,"data":{"text":"hi"}}"#;
        assert_eq!(unframe(&frame), (1, text.as_bytes()));
        let stamped = Publication { time_ms: Some(1_764_083_000_123), ..PUBLICATION };
        let frame = encoded(&stamped, Format::Json);
        let text =
            r#"{"op":"message","topic":"room/42","seq":121,"time":1764083000123,"data":{"text":"hi"}}"#;
        assert_eq!(unframe(&frame), (1, text.as_bytes()));

        let stamped = Publication { user: Some("a\"\n\u{e4}"), ..stamped };
        let frame = encoded(&stamped, Format::Json);
        let text = r#"{"op":"message","topic":"room/42","seq":121,"user":"a\"\nä","time":1764083000123,"data":{"text":"hi"}}"#;
        assert_eq!(unframe(&frame), (1, text.as_bytes()));
        let frame = encoded(&Publication { time_ms: None, user: Some("alice"), ..stamped }, Format::Json);
        let text = r#"{"op":"message","topic":"room/42","seq":121,"user":"alice","data":{"text":"hi"}}"#;
        assert_eq!(unframe(&frame), (1, text.as_bytes()));

        let publication = Publication { payload: b"hi\xff\x00", kind: PayloadKind::Bytes, ..PUBLICATION };
        let frame = encoded(&publication, Format::Json);
        let text = r#"{"op":"message","topic":"room/42","seq":121,"base64":"aGn/AA=="}"#;
        assert_eq!(unframe(&frame), (1, text.as_bytes()));
    }

    #[test]
    fn binary_looks_like_the_protocol_page() {
        let publication = Publication { topic: "ab", seq: 0x0102, payload: b"[1]", ..PUBLICATION };
        let frame = encoded(&publication, Format::Binary);
        assert_eq!(unframe(&frame), (2, b"\x02\x01\x00\x02\0\0\0\0\0\0\x01\x02ab[1]".as_slice()));
        let frame = encoded(&Publication { kind: PayloadKind::Bytes, ..publication }, Format::Binary);
        assert_eq!(unframe(&frame), (2, b"\x02\x00\x00\x02\0\0\0\0\0\0\x01\x02ab[1]".as_slice()));
        let frame = encoded(&Publication { time_ms: Some(0x0304), ..publication }, Format::Binary);
        let body = b"\x02\x03\x00\x02\0\0\0\0\0\0\x01\x02\0\x0b\x04\0\x08\0\0\0\0\0\0\x03\x04ab[1]";
        assert_eq!(unframe(&frame), (2, body.as_slice()));
        let named = Publication { user: Some("\"\u{e4}"), ..publication };
        let frame = encoded(&named, Format::Binary);
        let body = b"\x02\x03\x00\x02\0\0\0\0\0\0\x01\x02\0\x06\x03\0\x03\"\xc3\xa4ab[1]";
        assert_eq!(unframe(&frame), (2, body.as_slice()));
        let frame = encoded(&Publication { time_ms: Some(0x0304), ..named }, Format::Binary);
        let body =
            b"\x02\x03\x00\x02\0\0\0\0\0\0\x01\x02\0\x11\x03\0\x03\"\xc3\xa4\x04\0\x08\0\0\0\0\0\0\x03\x04ab[1]";
        assert_eq!(unframe(&frame), (2, body.as_slice()));
    }

    #[test]
    #[should_panic(expected = "does not match destination slice length")]
    fn a_buffer_of_another_length_is_our_bug() {
        PUBLICATION.encode(Format::Json, &mut [0; 100]);
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
        base64: Option<String>,
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 1_000,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(0x66616e66617265),
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_json_frame_parses_back(
            topic in "(\\PC|[a-z/]|[\u{1}-\u{7f}]){1,40}",
            seq in prop_oneof![any::<u64>(), 0u64..1000],
            user in prop::option::of("(\\PC|[\u{1}-\u{7f}]){1,30}"),
            time_ms: Option<u64>,
            text in "\\PC{0,200}",
            pad in prop_oneof![Just(0usize), 0usize..200, 65_000usize..66_000],
        ) {
            let payload = format!("{}{}", serde_json::to_string(&text).expect("a string"), " ".repeat(pad));
            let (payload, kind) = (payload.as_bytes(), PayloadKind::Json);
            let publication = Publication { topic: &topic, seq, user: user.as_deref(), time_ms, payload, kind };
            let frame = encoded(&publication, Format::Json);
            let (opcode, message) = unframe(&frame);
            prop_assert_eq!(opcode, 1);
            let message: Message = serde_json::from_slice(message).expect("JSON");
            prop_assert_eq!((message.op, &message.topic, message.seq), ("message", &topic, seq));
            prop_assert_eq!(message.data.map(|data| data.get()), Some(str::from_utf8(payload).expect("text").trim_end()));
            prop_assert_eq!((message.user, message.time), (user, time_ms));
            prop_assert_eq!(message.base64, None);
        }

        #[test]
        fn every_frame_of_bytes_parses_back(
            topic in "[a-z\"\\\\/\n]{1,20}",
            seq: u64,
            user in prop::option::of("[a-z\"\\\\\u{e4}]{1,30}"),
            time_ms: Option<u64>,
            payload in vec(any::<u8>(), 0..400),
        ) {
            let kind = PayloadKind::Bytes;
            let publication = Publication { topic: &topic, seq, user: user.as_deref(), time_ms, payload: &payload, kind };
            let frame = encoded(&publication, Format::Json);
            let message: Message = serde_json::from_slice(unframe(&frame).1).expect("JSON");
            prop_assert_eq!((message.topic, message.seq, message.time), (topic.clone(), seq, time_ms));
            prop_assert_eq!(&message.user, &user);
            prop_assert!(message.data.is_none());
            prop_assert_eq!(STANDARD.decode(message.base64.expect("base64")).expect("base64"), payload.clone());

            let frame = encoded(&publication, Format::Binary);
            let (opcode, body) = unframe(&frame);
            prop_assert_eq!(opcode, 2);
            let (header, rest) = body.split_at(binary::HEADER_LEN);
            let user = user.map(|user| [&[3, 0, user.len() as u8][..], user.as_bytes()].concat());
            let time = time_ms.map(|time_ms| [&b"\x04\0\x08"[..], &time_ms.to_be_bytes()].concat());
            let rows = [user.unwrap_or_default(), time.unwrap_or_default()].concat();
            let ext = if rows.is_empty() { rows } else { [&[0, rows.len() as u8][..], &rows].concat() };
            prop_assert_eq!(&header[..2], &[2, if ext.is_empty() { 0 } else { 2 }]);
            prop_assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), topic.len());
            prop_assert_eq!(u64::from_be_bytes(header[4..].try_into().expect("eight bytes")), seq);
            prop_assert_eq!(rest, [&ext, topic.as_bytes(), &payload].concat());
        }
    }
}
