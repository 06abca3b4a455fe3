//! A publication as its subscribers get it: one whole WebSocket frame per wire format.

use super::{Format, command::PayloadKind};

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

impl Publication<'_> {
    /// The length of the frame that [`Publication::encode`] writes, in bytes.
    pub fn encoded_len(&self, format: Format) -> usize {
        let _ = format;
        todo!()
    }

    /// Writes the frame, header included, into `out`, which is exactly [`Publication::encoded_len`] long.
    pub fn encode(&self, format: Format, out: &mut [u8]) {
        let _ = (format, out);
        todo!()
    }
}
