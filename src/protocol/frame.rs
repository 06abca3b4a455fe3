//! RFC 6455 section 5: the headers of clients' frames in, whole frames of the server out.

use std::ops::Range;

use super::close::BrokenRule;

#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

/// The longest header of a client's frame: two bytes, a 64-bit length and the mask.
pub const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// The longest header of a server's frame: two bytes and a 64-bit length.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;
/// The longest payload of a control frame (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

const FIN: u8 = 0x80;
/// Set on the first frame of a message that permessage-deflate compressed (RFC 7692 section 6).
const RSV1: u8 = 0x40;
/// RSV2 and RSV3, to which no extension here gives a meaning.
const RESERVED: u8 = 0x30;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// In the 7 bits of the length: the next 2 bytes hold it.
const LENGTH_IN_2: u8 = 126;
/// In the 7 bits of the length: the next 8 bytes hold it.
const LENGTH_IN_8: u8 = 127;

/// What a frame is (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The last frame that its sender sends.
    Close = 0x8,
    /// To be answered with a pong.
    Ping = 0x9,
    /// An answer to a ping, or a sign of life.
    Pong = 0xA,
}

impl Opcode {
    /// The opcode with these 4 bits, unless they are reserved.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Opcode::Continuation),
            0x1 => Some(Opcode::Text),
            0x2 => Some(Opcode::Binary),
            0x8 => Some(Opcode::Close),
            0x9 => Some(Opcode::Ping),
            0xA => Some(Opcode::Pong),
            _ => None,
        }
    }

    /// Whether frames of this kind are control frames (RFC 6455 section 5.5).
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// The header of a client's frame that broke no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// FIN: the frame ends its message.
    pub is_final: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// RSV1: the frame begins a message that is compressed.
    pub is_deflated: bool,
    /// How many payload bytes follow.
    pub payload_len: usize,
    /// The mask of the payload.
    pub key: [u8; 4],
}

/// What the frames before this one allow it to be.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The one kind of message that the connection takes: [`Opcode::Text`] or [`Opcode::Binary`]; `None`
    /// is both.
    pub message_opcode: Option<Opcode>,
    /// A fragmented message has begun and not ended.
    pub is_inside_message: bool,
    /// How many bytes the message, begun or not, may still take.
    pub message_bytes_left: usize,
    /// How many bytes a message that begins compressed may take; `None`: permessage-deflate was not
    /// negotiated.
    pub deflated_bytes_max: Option<usize>,
    /// The longest payload of a data frame.
    pub frame_bytes_max: usize,
}

/// Reads headers that receives may split at any byte.
///
/// Every rule is checked at the first byte that can break it, so that the outcome does not depend on
/// how the bytes were split.
#[derive(Debug, Default)]
pub struct HeaderDecoder {
    /// The bytes of a header whose end has not come.
    kept: [u8; CLIENT_HEADER_BYTES_MAX],
    kept_len: u8,
}

impl HeaderDecoder {
    /// Takes the rest of a header from the front of `input`: how many bytes, and the header if that
    /// completes it. Without a header all of `input` was taken.
    #[inline]
    pub fn take(&mut self, input: &[u8], context: &Context) -> Result<(usize, Option<Header>), BrokenRule> {
        if self.kept_len > 0 {
            return self.take_rest(input, context);
        }
        match read_header(input, context)? {
            Some((header, header_len)) => Ok((header_len, Some(header))),
            None => {
                self.kept[..input.len()].copy_from_slice(input);
                self.kept_len = input.len() as u8;
                Ok((input.len(), None))
            }
        }
    }

    #[cold]
    fn take_rest(&mut self, input: &[u8], context: &Context) -> Result<(usize, Option<Header>), BrokenRule> {
        let old_len = usize::from(self.kept_len);
        let new_len = CLIENT_HEADER_BYTES_MAX.min(old_len + input.len());
        self.kept[old_len..new_len].copy_from_slice(&input[..new_len - old_len]);
        match read_header(&self.kept[..new_len], context)? {
            Some((header, header_len)) => {
                self.kept_len = 0;
                Ok((header_len - old_len, Some(header)))
            }
            None => {
                self.kept_len = new_len as u8;
                Ok((new_len - old_len, None))
            }
        }
    }
}

/// Reads the header at the front of `bytes` and its own length. `None`: nothing is wrong so far, and
/// the end of the header is missing.
#[inline(always)]
fn read_header(bytes: &[u8], context: &Context) -> Result<Option<(Header, usize)>, BrokenRule> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let is_final = first & FIN != 0;
    let opcode = read_first(first, context)?;
    let is_deflated = first & RSV1 != 0;

    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if second & MASKED == 0 {
        return Err(BrokenRule::Unmasked);
    }
    let short = second & LENGTH;
    if opcode.is_control() && usize::from(short) > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(BrokenRule::ControlTooLong);
    }

    let (payload_len, key_at) = match short {
        LENGTH_IN_2 => {
            let Some(length) = bytes.get(2..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            let length = u16::from_be_bytes(*length);
            if length < u16::from(LENGTH_IN_2) {
                return Err(BrokenRule::LengthNotMinimal);
            }
            (u64::from(length), 4)
        }
        LENGTH_IN_8 => {
            let Some(length) = bytes.get(2..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            let length = u64::from_be_bytes(*length);
            if length >> 63 != 0 {
                return Err(BrokenRule::LengthTopBit);
            }
            if length <= u64::from(u16::MAX) {
                return Err(BrokenRule::LengthNotMinimal);
            }
            (length, 10)
        }
        short => (u64::from(short), 2),
    };
    if payload_len > context.message_bytes_left.min(context.frame_bytes_max) as u64 && !opcode.is_control() {
        check_len(payload_len, is_deflated, context)?;
    }

    let Some(&key) = bytes.get(key_at..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    // Lossless: at most 125, or at most the `usize` that it was just compared with.
    let payload_len = payload_len as usize;
    Ok(Some((Header { is_final, opcode, is_deflated, payload_len, key }, key_at + key.len())))
}

/// Checks the length of a data frame that is beyond what most may be.
#[cold]
fn check_len(payload_len: u64, is_deflated: bool, context: &Context) -> Result<(), BrokenRule> {
    if payload_len > context.frame_bytes_max as u64 {
        return Err(BrokenRule::FrameTooBig);
    }
    let bytes_left = match context.deflated_bytes_max {
        Some(bytes_max) if is_deflated => bytes_max,
        _ => context.message_bytes_left,
    };
    if payload_len > bytes_left as u64 {
        return Err(BrokenRule::MessageTooBig);
    }
    Ok(())
}

/// Checks all that a header's first byte can break.
#[inline(always)]
fn read_first(first: u8, context: &Context) -> Result<Opcode, BrokenRule> {
    if first & (RESERVED | RSV1) != 0 {
        check_reserved(first, context)?;
    }
    let opcode = Opcode::from_bits(first & OPCODE).ok_or(BrokenRule::UnknownOpcode)?;
    match opcode {
        Opcode::Close | Opcode::Ping | Opcode::Pong if first & FIN == 0 => Err(BrokenRule::FragmentedControl),
        Opcode::Close | Opcode::Ping | Opcode::Pong => Ok(opcode),
        Opcode::Continuation if context.is_inside_message => Ok(opcode),
        Opcode::Continuation => Err(BrokenRule::ContinuationOutsideMessage),
        Opcode::Text | Opcode::Binary if context.is_inside_message => Err(BrokenRule::MessageInsideMessage),
        Opcode::Text | Opcode::Binary if context.message_opcode.is_none_or(|only| opcode == only) => {
            Ok(opcode)
        }
        Opcode::Text => Err(BrokenRule::TextOnBinary),
        Opcode::Binary => Err(BrokenRule::BinaryOnText),
    }
}

/// Checks the bits of which only RSV1 may be set, and only where a message begins that is compressed.
#[cold]
fn check_reserved(first: u8, context: &Context) -> Result<(), BrokenRule> {
    if first & RESERVED != 0 || context.deflated_bytes_max.is_none() {
        return Err(BrokenRule::ReservedBits);
    }
    match Opcode::from_bits(first & OPCODE) {
        None => Err(BrokenRule::UnknownOpcode),
        Some(Opcode::Text | Opcode::Binary) => Ok(()),
        Some(_) => Err(BrokenRule::DeflatedBitMisplaced),
    }
}

/// The length of a server's header before `payload_len` bytes.
pub const fn header_len(payload_len: usize) -> usize {
    if payload_len < LENGTH_IN_2 as usize {
        2
    } else if payload_len <= u16::MAX as usize {
        4
    } else {
        SERVER_HEADER_BYTES_MAX
    }
}

/// The first byte of a server's message that is not compressed: FIN and the opcode.
pub(super) const fn first_byte(opcode: Opcode) -> u8 {
    FIN | opcode as u8
}

/// Writes a server's header, FIN set and unmasked, to the front of `out`, and returns its length.
///
/// Panics if `out` is shorter than [`header_len`].
#[inline]
pub fn write_header(opcode: Opcode, payload_len: usize, out: &mut [u8]) -> usize {
    let header_len = header_len(payload_len);
    let out = &mut out[..header_len];
    out[0] = first_byte(opcode);
    match header_len {
        2 => out[1] = payload_len as u8,
        4 => {
            out[1] = LENGTH_IN_2;
            out[2..].copy_from_slice(&(payload_len as u16).to_be_bytes());
        }
        _ => {
            out[1] = LENGTH_IN_8;
            out[2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
    header_len
}

/// Writes the header of a message that permessage-deflate compressed, as [`write_header`] does.
pub fn write_deflated_header(opcode: Opcode, payload_len: usize, out: &mut [u8]) -> usize {
    let header_len = write_header(opcode, payload_len, out);
    out[0] |= RSV1;
    header_len
}

/// How long the message is whose frame, header included, has `frame_len` bytes: what [`header_len`] is told, from its sum.
pub fn message_len(frame_len: usize) -> usize {
    let header_len = match frame_len {
        0..=127 => 2,
        128..=65_539 => 4,
        _ => 10,
    };
    frame_len.saturating_sub(header_len)
}

/// The length, header included, of the frame at the front of `bytes`, which this server wrote.
///
/// `None`: the header is not there to its end. The payload need not be.
#[inline]
pub fn server_frame_len(bytes: &[u8]) -> Option<usize> {
    Some(server_payload(bytes)?.end)
}

/// Where in `bytes` the payload of the frame at their front lies, which this server wrote: up to the frame's end.
///
/// `None`: the header is not there to its end. The payload need not be.
#[inline]
pub fn server_payload(bytes: &[u8]) -> Option<Range<usize>> {
    let (start, len) = match *bytes.get(1)? {
        LENGTH_IN_2 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        LENGTH_IN_8 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        short => (2, usize::from(short)),
    };
    Some(start..start + len)
}

/// Appends a whole message of the server, one frame.
pub fn write_message(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let mut header = [0; SERVER_HEADER_BYTES_MAX];
    let header_len = write_header(opcode, payload.len(), &mut header);
    out.reserve(header_len + payload.len());
    out.extend_from_slice(&header[..header_len]);
    out.extend_from_slice(payload);
}

/// Appends a whole control frame of the server.
///
/// Panics if `opcode` is not a control frame's or `payload` is longer than 125 bytes.
pub fn write_control(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    assert!(opcode.is_control(), "{opcode:?} is not the opcode of a control frame");
    assert!(payload.len() <= CONTROL_PAYLOAD_BYTES_MAX, "a control frame of {} bytes", payload.len());
    out.extend_from_slice(&[FIN | opcode as u8, payload.len() as u8]);
    out.extend_from_slice(payload);
}

/// Appends a whole close frame; `reason` is cut to the whole characters that fit.
pub fn write_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let code = code.to_be_bytes();
    let mut reason_len = reason.len().min(CONTROL_PAYLOAD_BYTES_MAX - code.len());
    while !reason.is_char_boundary(reason_len) {
        reason_len -= 1;
    }
    out.extend_from_slice(&[FIN | Opcode::Close as u8, (code.len() + reason_len) as u8]);
    out.extend_from_slice(&code);
    out.extend_from_slice(&reason.as_bytes()[..reason_len]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastwebsockets::{Frame, OpCode, Payload};

    const CONTEXT: Context = Context {
        message_opcode: Some(Opcode::Text),
        is_inside_message: false,
        message_bytes_left: usize::MAX,
        deflated_bytes_max: None,
        frame_bytes_max: usize::MAX,
    };
    /// Both sides of every change of encoding.
    const LENGTHS: [usize; 9] = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 1 << 24];

    #[test]
    fn the_length_of_a_frame_tells_that_of_its_message() {
        for len in LENGTHS.into_iter().chain(0..70_000) {
            assert_eq!(message_len(header_len(len) + len), len);
        }
    }

    #[test]
    fn a_server_header_is_what_an_independent_encoder_writes() {
        let zeros = vec![0; 1 << 24];
        for len in LENGTHS {
            for (ours, theirs) in [(Opcode::Text, OpCode::Text), (Opcode::Binary, OpCode::Binary)] {
                let (mut written, mut expected) = ([0xEE; 16], [0xEE; 16]);
                let written_len = write_header(ours, len, &mut written);
                let expected_len =
                    Frame::new(true, theirs, None, Payload::Borrowed(&zeros[..len])).fmt_head(&mut expected);
                assert_eq!((written_len, written), (expected_len, expected), "{len}");
                assert_eq!(written_len, header_len(len));
            }
        }
    }

    #[test]
    fn a_server_frame_tells_its_length_once_its_header_is_there() {
        for len in LENGTHS {
            let mut header = [0; SERVER_HEADER_BYTES_MAX];
            let header_len = write_header(Opcode::Binary, len, &mut header);
            for cut in 0..header_len {
                assert_eq!(server_frame_len(&header[..cut]), None, "{len}, {cut} bytes");
                assert_eq!(server_payload(&header[..cut]), None, "{len}, {cut} bytes");
            }
            assert_eq!(server_frame_len(&header[..header_len]), Some(header_len + len));
            assert_eq!(server_payload(&header[..header_len]), Some(header_len..header_len + len));
        }
    }

    #[test]
    fn a_client_header_of_an_independent_encoder_is_read_back_at_any_split() {
        let zeros = vec![0; 1 << 24];
        for len in LENGTHS {
            let mut bytes = [0; 16];
            let key = [1, 2, 3, 4];
            let bytes_len = Frame::new(false, OpCode::Text, Some(key), Payload::Borrowed(&zeros[..len]))
                .fmt_head(&mut bytes);
            let expected =
                Header { is_final: false, opcode: Opcode::Text, is_deflated: false, payload_len: len, key };
            for split in 0..bytes_len {
                let mut decoder = HeaderDecoder::default();
                assert_eq!(decoder.take(&bytes[..split], &CONTEXT), Ok((split, None)));
                let rest = &bytes[split..];
                let taken = decoder.take(rest, &CONTEXT);
                assert_eq!(taken, Ok((bytes_len - split, Some(expected))), "{len}, {split}");
            }
        }
    }

    #[test]
    fn every_first_byte_is_judged_as_section_5_2_and_rfc_7692_section_6_say() {
        for first in 0..=u8::MAX {
            for (is_inside_message, deflated_bytes_max) in
                [(false, None), (true, None), (false, Some(1)), (true, Some(1))]
            {
                let context = Context { is_inside_message, deflated_bytes_max, ..CONTEXT };
                let allowed = match first {
                    0x00 | 0x80 => is_inside_message,
                    0x01 | 0x81 => !is_inside_message,
                    0x41 | 0xC1 => !is_inside_message && deflated_bytes_max.is_some(),
                    0x88..=0x8A => true,
                    _ => false,
                };
                let result = HeaderDecoder::default().take(&[first], &context);
                assert_eq!(result.is_ok(), allowed, "{first:#x}, {context:?}: {result:?}");
            }
        }
    }

    #[test]
    fn a_compressed_message_may_be_as_long_as_its_own_bound_says() {
        let context = Context { message_bytes_left: 10, deflated_bytes_max: Some(20), ..CONTEXT };
        for (first, len, allowed) in
            [(0x81, 10, true), (0x81, 11, false), (0xC1, 20, true), (0xC1, 21, false)]
        {
            let result = HeaderDecoder::default().take(&[first, 0x80 | len], &context);
            assert_eq!(result.is_ok(), allowed, "{first:#x}, {len}");
        }
    }

    #[test]
    fn the_header_of_a_compressed_message_differs_in_rsv1_alone() {
        for len in LENGTHS {
            let (mut plain, mut deflated) = ([0; SERVER_HEADER_BYTES_MAX], [0; SERVER_HEADER_BYTES_MAX]);
            let header_len = write_header(Opcode::Binary, len, &mut plain);
            assert_eq!(write_deflated_header(Opcode::Binary, len, &mut deflated), header_len);
            assert_eq!((plain[0] | 0x40, &plain[1..]), (deflated[0], &deflated[1..]));
        }
    }

    #[test]
    fn a_close_reason_is_cut_to_whole_characters() {
        let close = |reason: &str| {
            let mut out = vec![0xAA];
            write_close(1012, reason, &mut out);
            assert_eq!(server_frame_len(&out[1..]), Some(out.len() - 1));
            assert_eq!(out[..2], [0xAA, 0x88]);
            assert_eq!(out[3..5], 1012_u16.to_be_bytes());
            String::from_utf8(out[5..].to_vec()).expect("whole characters")
        };
        assert_eq!(close(""), "");
        assert_eq!(close("retry_after_ms=5"), "retry_after_ms=5");
        assert_eq!(close(&"a".repeat(123)), "a".repeat(123));
        assert_eq!(close(&"a".repeat(124)), "a".repeat(123));
        assert_eq!(close(&"ü".repeat(62)), "ü".repeat(61));
        assert_eq!(close(&format!("{}😀", "a".repeat(120))), "a".repeat(120));
    }

    #[test]
    fn a_control_frame_is_its_header_and_its_payload() {
        let mut out = Vec::new();
        write_control(Opcode::Pong, b"abc", &mut out);
        write_control(Opcode::Close, b"", &mut out);
        assert_eq!(out, b"\x8A\x03abc\x88\x00");
    }
}
