//! Frame headers in both directions, masks and growing texts.

use crate::protocol::{
    frame::{
        self, Context, HeaderDecoder, Opcode,
        naive::{self, Stop},
    },
    mask, utf8,
};

/// Reads `bytes`, whose first two say in what context, as a frame of a client; what lies behind its
/// header is a payload.
pub fn frame(bytes: &[u8]) {
    let [kind, left, bytes @ ..] = bytes else { return };
    let context = Context {
        message_opcode: [None, Some(Opcode::Text), Some(Opcode::Binary)][usize::from(kind % 3)],
        is_inside_message: kind & 0x80 != 0,
        deflated_bytes_max: [None, Some(130)][usize::from(kind & 0x40 != 0)],
        message_bytes_left: [0, 125, 126, 65_535, 65_536, 1 << 20, usize::MAX][usize::from(left % 7)],
        frame_bytes_max: if left & 0x80 == 0 { usize::MAX } else { 1_000 },
    };
    let mut rest = bytes;
    let expected = naive::header(&mut rest, &context);
    let header_len = bytes.len() - rest.len();
    for split in 0..=bytes.len().min(frame::CLIENT_HEADER_BYTES_MAX + 1) {
        let mut decoder = HeaderDecoder::default();
        let first = decoder.take(&bytes[..split], &context);
        let result = match first {
            Ok((taken, None)) => {
                assert_eq!(taken, split, "without a header all of the input is taken");
                decoder.take(&bytes[split..], &context).map(|(more, header)| (taken + more, header))
            }
            first => first,
        };
        match &expected {
            Ok(header) => assert_eq!(result, Ok((header_len, Some(*header))), "split at {split}"),
            Err(Stop::Broken(rule)) => assert_eq!(result, Err(*rule), "split at {split}"),
            Err(Stop::BytesEnd) => assert_eq!(result, Ok((bytes.len(), None)), "split at {split}"),
        }
    }
    if let Ok(header) = expected {
        check_payload(rest, header.key, header.payload_len);
        check_server_header(header.opcode, header.payload_len);
    }
}

/// Unmasks `payload` whole, in two pieces, and onto something, and reads it as a text that grows.
fn check_payload(payload: &[u8], key: [u8; 4], split: usize) {
    let expected: Vec<u8> = payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
    let split = split % (payload.len() + 1);
    let mut unmasked = payload.to_vec();
    let (first, second) = unmasked.split_at_mut(split);
    mask::unmask(first, key, 0);
    mask::unmask(second, key, split);
    assert_eq!(unmasked, expected);
    let mut appended = b"before".to_vec();
    mask::append_unmasked(&payload[..split], key, 0, &mut appended);
    mask::append_unmasked(&payload[split..], key, split, &mut appended);
    assert_eq!(appended[6..], expected);
    for implementation in mask::Implementation::available() {
        let mut unmasked = payload.to_vec();
        implementation.unmask(&mut unmasked, key, 0);
        assert_eq!(unmasked, expected, "{implementation:?}");
    }

    let mut progress = utf8::Progress::default();
    let is_possible = |text: &[u8]| !str::from_utf8(text).is_err_and(|error| error.error_len().is_some());
    let first = progress.extend(&expected[..split], 0);
    assert_eq!(first.is_ok(), is_possible(&expected[..split]));
    if first.is_ok() {
        let second = progress.extend(&expected, split);
        assert_eq!(second.is_ok(), is_possible(&expected));
        let is_text = second.is_ok() && progress.is_complete();
        assert_eq!(is_text, str::from_utf8(&expected).is_ok());
        assert_eq!(is_text, utf8::validate(&expected).is_ok());
    }
}

/// A server's header for a payload of `len` bytes tells that length, and its end where it is.
fn check_server_header(opcode: Opcode, len: usize) {
    // What the kernel could send at most; beyond it the frame's length would not fit in a `usize`.
    let len = len & (isize::MAX as usize >> 1);
    let mut header = [0; frame::SERVER_HEADER_BYTES_MAX];
    let header_len = frame::write_header(opcode, len, &mut header);
    assert_eq!(frame::server_frame_len(&header[..header_len]), Some(header_len + len));
    assert_eq!(frame::server_frame_len(&header[..header_len - 1]), None);
}
