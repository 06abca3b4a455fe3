//! A publication as its subscribers get it: one whole WebSocket frame per wire format.
//!
//! This runs once per publication and format, never per subscriber, and is bound by the copy of the
//! payload: lengths are computed first, so that every byte is written once, at its final place.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Format,
    binary::{self, BodyHeader, Kind},
    command::PayloadKind,
    frame::{self, Opcode},
    json::{self, Decimal},
};

/// A publication before it is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// The topic's name, at most 256 bytes.
    pub topic: &'a str,
    /// Its place in the topic's order.
    pub seq: u64,
    /// The publisher's bytes.
    pub payload: &'a [u8],
    /// What `payload` is.
    pub kind: PayloadKind,
}

const JSON_TOPIC: &[u8] = br#"{"op":"message","topic":""#;
const JSON_SEQ: &[u8] = br#"","seq":"#;
const JSON_DATA: &[u8] = br#","data":"#;
const JSON_DATA_END: &[u8] = br#"}"#;
const JSON_BASE64: &[u8] = br#","base64":""#;
const JSON_BASE64_END: &[u8] = br#""}"#;

impl Publication<'_> {
    /// The length of the frame that [`Publication::encode`] writes, in bytes.
    pub fn encoded_len(&self, format: Format) -> usize {
        let message_len = self.message_len(format);
        frame::header_len(message_len) + message_len
    }

    /// Writes the frame, header included, into `out`, which is exactly [`Publication::encoded_len`] long.
    pub fn encode(&self, format: Format, out: &mut [u8]) {
        let message_len = self.message_len(format);
        assert_eq!(
            out.len(),
            frame::header_len(message_len) + message_len,
            "a publication's buffer is exactly as long as its frame"
        );
        match format {
            Format::Json => {
                let header_len = frame::write_header(Opcode::Text, message_len, out);
                self.write_json(&mut out[header_len..]);
            }
            Format::Binary => {
                let header_len = frame::write_header(Opcode::Binary, message_len, out);
                self.write_binary(&mut out[header_len..]);
            }
        }
    }

    /// The length of the WebSocket message: the frame without its header.
    fn message_len(&self, format: Format) -> usize {
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
                    + data_len
            }
            Format::Binary => binary::HEADER_LEN + self.topic.len() + self.payload.len(),
        }
    }

    fn write_json(&self, out: &mut [u8]) {
        let out = put(out, JSON_TOPIC);
        let topic_len = json::write_escaped(self.topic, out);
        let out = put(&mut out[topic_len..], JSON_SEQ);
        let out = put(out, Decimal::new(self.seq).as_bytes());
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

    fn write_binary(&self, out: &mut [u8]) {
        let flags = match self.kind {
            PayloadKind::Json => binary::FLAG_JSON,
            PayloadKind::Bytes => 0,
        };
        let topic_len = u16::try_from(self.topic.len())
            .expect("a topic's name has at most 256 bytes when it is published");
        let header = BodyHeader { kind: Kind::Message, flags, topic_len, seq: self.seq };
        let out = put(out, &header.to_bytes());
        let out = put(out, self.topic.as_bytes());
        out.copy_from_slice(self.payload);
    }
}

/// Copies `bytes` to the front of `out` and returns the rest.
fn put<'out>(out: &'out mut [u8], bytes: &[u8]) -> &'out mut [u8] {
    let (front, rest) = out.split_at_mut(bytes.len());
    front.copy_from_slice(bytes);
    rest
}

/// The length of `len` bytes in base64 with padding.
fn base64_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}
