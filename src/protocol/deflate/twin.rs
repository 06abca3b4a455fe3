//! permessage-deflate by an implementation that shares no code with ours, for tests.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The payload of `message`, as a client sends it.
pub(crate) fn deflated(message: &[u8], level: u32) -> Vec<u8> {
    let mut payload = Vec::with_capacity(super::deflated_len_max(message.len()) + 16);
    let mut compress = Compress::new(Compression::new(level), false);
    compress.compress_vec(message, &mut payload, FlushCompress::Sync).expect("anything can be compressed");
    assert_eq!(compress.total_in(), message.len() as u64);
    payload.truncate(payload.strip_suffix(&super::TAIL).expect("a flush ends with its tail").len());
    payload
}

/// The message whose payload this is, if it is one of at most `bytes_max` bytes.
pub(crate) fn inflated(payload: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let bytes = [payload, &super::TAIL].concat();
    let mut message = Vec::with_capacity(bytes_max + 1);
    let mut decompress = Decompress::new(false);
    let status = decompress.decompress_vec(&bytes, &mut message, FlushDecompress::Sync).ok()?;
    let is_taken = decompress.total_in() == bytes.len() as u64;
    (is_taken && status != Status::StreamEnd && message.len() <= bytes_max).then_some(message)
}

/// The frame that this frame of the server is without compression, and whether it was compressed.
pub(crate) fn plain_frame(frame: &[u8]) -> (Vec<u8>, bool) {
    if frame[0] & 0x40 == 0 {
        return (frame.to_vec(), false);
    }
    let header_len = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let message = inflated(&frame[header_len..], 1 << 20).expect("deflate data");
    let mut plain = vec![frame[0] & !0x40];
    match message.len() {
        len @ 0..126 => plain.push(len as u8),
        len @ 126..65536 => {
            plain.push(126);
            plain.extend((len as u16).to_be_bytes());
        }
        len => {
            plain.push(127);
            plain.extend((len as u64).to_be_bytes());
        }
    }
    plain.extend(message);
    (plain, true)
}
