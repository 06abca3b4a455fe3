//! permessage-deflate (RFC 7692): whole messages, compressed without context takeover on either side.
//!
//! Because no message refers to another, one [`Inflater`] and one [`Deflater`] serve all connections of a
//! reactor, a connection owns nothing of either, and a publication is compressed once for everybody who
//! negotiated the extension.

mod deflater;
mod inflater;
#[cfg(any(test, fuzzing))]
pub(crate) mod naive;
mod negotiation;
#[cfg(test)]
pub(crate) mod twin;

pub use deflater::{Deflater, Settings};
pub use inflater::Inflater;
pub use negotiation::{Agreement, negotiate};

/// What ends every message, and is not sent: an empty stored block without its first byte (RFC 7692
/// section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty final block: behind the tail it ends the stream.
const FINAL_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];
/// A scratch that grew longer than this is given back when the turn is over.
const SCRATCH_BYTES_KEPT: usize = 64 << 10;

/// A message may have so many blocks whatever comes out of them.
pub const BLOCKS_FREE: u64 = 256;
/// And one more for so many bytes that came out before it: zlib at its memLevel of 6, and above, makes longer ones.
pub const BYTES_PER_BLOCK: u64 = 4_096;

/// How many blocks may have begun where `message_len` bytes of a message have come out.
///
/// A block has code tables, and to build them takes up to 5 µs, as long as to put out 2 KiB, whether or not anything
/// is said in it: 2 to 3 ms for a message of 1 MiB of as many as may be.
pub(crate) const fn blocks_max(message_len: usize) -> u64 {
    BLOCKS_FREE + message_len as u64 / BYTES_PER_BLOCK
}

/// How long a message may be that comes out of a compressed payload.
///
/// To inflate costs by what comes out, so without a bound of the ratio a client has the broker do a thousand
/// times the work that it does itself. What is short is never refused: there the ratio of honest messages varies.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// So many bytes in any case.
    pub bytes_max: usize,
    /// So many times the payload, if that is more than `ratio_bytes_min`.
    pub ratio_max: usize,
    /// Up to here no ratio is too much.
    pub ratio_bytes_min: usize,
}

impl Bounds {
    /// A bound of the length alone.
    pub const fn of_len(bytes_max: usize) -> Self {
        Self { bytes_max, ratio_max: usize::MAX, ratio_bytes_min: 0 }
    }

    /// The longest message that a payload of `payload_len` bytes, all fragments together, may become.
    pub fn message_len_max(&self, payload_len: usize) -> usize {
        self.bytes_max.min(self.ratio_bytes_min.max(payload_len.saturating_mul(self.ratio_max)))
    }
}

/// How long a message of `len` bytes may become when it is compressed: zlib's deflateBound without a
/// wrapper, which is more than stored blocks take.
pub const fn deflated_len_max(len: usize) -> usize {
    len.saturating_add(len.div_ceil(8)).saturating_add(len.div_ceil(64)).saturating_add(5)
}
