//! Records of one format, and the same publications in the other.

use serde_json::value::RawValue;

use crate::protocol::{
    Format,
    command::PayloadKind,
    transcode::naive::{Owned, check},
};

/// Of a publication: what it is, the lengths of its topic and of its payload, how long its message is to be, and its
/// `seq`. Topic and payload follow.
const HEADER_LEN: usize = 13;
/// It holds JSON: bytes that are none are the text of a string.
const JSON: u8 = 1;
/// It is grown with blanks until its message is as long as it says, and so many bytes more: beyond 65,536 as well.
const GROWN: u8 = 2;
const GROWN_BYTES_MORE: usize = 8;
/// The message in JSON is to be so long; else the binary one.
const GROWN_IN_JSON: u8 = 4;
/// It has a time, whose bytes are those of its `seq` the other way round.
const STAMPED: u8 = 8;
/// It has a user, whose name is its topic's.
const NAMED: u8 = 16;
/// A name has at most 256 bytes, and what replaces a byte that is not UTF-8 has three.
const TOPIC_BYTES_MAX: usize = 85;
/// Of all payloads together, so that an input is soon done with.
const BYTES_MAX: usize = 1 << 17;

/// Takes `bytes` as publications, one behind the other.
pub fn transcode(mut bytes: &[u8]) {
    let mut publications = Vec::new();
    let mut len = 0;
    while let Some(publication) = take(&mut bytes) {
        len += publication.payload.len();
        if len > BYTES_MAX {
            break;
        }
        publications.push(publication);
    }
    check(&publications);
}

fn take(bytes: &mut &[u8]) -> Option<Owned> {
    let ([what, topic_len, payload_len, len_high, len_low, seq @ ..], rest) =
        bytes.split_first_chunk::<HEADER_LEN>()?;
    let (topic, rest) = rest.split_at_checked(usize::from(*topic_len) % (TOPIC_BYTES_MAX + 1))?;
    let (payload, rest) = rest.split_at_checked(usize::from(*payload_len))?;
    *bytes = rest;
    let (payload, kind) = match what & JSON {
        0 => (payload.to_vec(), PayloadKind::Bytes),
        _ => (json(payload), PayloadKind::Json),
    };
    let topic = String::from_utf8_lossy(topic).into_owned();
    let time_ms = (what & STAMPED != 0).then(|| u64::from_le_bytes(*seq));
    let user = (what & NAMED != 0).then(|| topic.clone());
    let publication = Owned { topic, seq: u64::from_be_bytes(*seq), user, time_ms, payload, kind };
    if what & GROWN == 0 {
        return Some(publication);
    }
    let format = if what & GROWN_IN_JSON == 0 { Format::Binary } else { Format::Json };
    let message_len = usize::from(u16::from_be_bytes([*len_high, *len_low])) + GROWN_BYTES_MORE;
    Some(publication.grown(format, message_len))
}

fn json(payload: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<&RawValue>(payload) {
        Ok(_) => payload.to_vec(),
        Err(_) => serde_json::to_vec(&String::from_utf8_lossy(payload)).expect("a string"),
    }
}
