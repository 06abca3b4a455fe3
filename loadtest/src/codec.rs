//! The client's end of RFC 6455: masked frames out, unmasked frames in, over buffers that split them
//! anywhere. Written apart from the broker's codec, so that the two check each other.

/// Frame opcodes.
pub mod opcode {
    /// Text.
    pub const TEXT: u8 = 1;
    /// Binary.
    pub const BINARY: u8 = 2;
    /// Close.
    pub const CLOSE: u8 = 8;
    /// Ping.
    pub const PING: u8 = 9;
    /// Pong.
    pub const PONG: u8 = 10;
}

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// One whole frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub opcode: u8,
    /// Its payload.
    pub payload: &'a [u8],
    /// Its length on the wire, header included.
    pub wire_bytes: usize,
}

/// Appends one masked frame whose payload is `parts`, one after the other.
pub fn write_frame(opcode: u8, mask: u32, parts: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|it| it.len()).sum();
    out.push(FIN | opcode);
    match len {
        0..=125 => out.push(MASKED | len as u8),
        126..=0xffff => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask.to_ne_bytes());
    let start = out.len();
    parts.iter().for_each(|part| out.extend_from_slice(part));
    apply_mask(&mut out[start..], mask);
}

fn apply_mask(payload: &mut [u8], mask: u32) {
    let wide = (mask as u64) << 32 | mask as u64;
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes((&*chunk).try_into().expect("eight bytes")) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let bytes = mask.to_ne_bytes();
    chunks.into_remainder().iter_mut().enumerate().for_each(|(index, byte)| *byte ^= bytes[index % 4]);
}

/// Cuts a server's byte stream into frames.
#[derive(Debug, Default)]
pub struct Deframer {
    /// The beginning of a frame whose rest has not come.
    partial: Vec<u8>,
}

impl Deframer {
    /// Calls `on_frame` with every frame that `bytes` completes.
    ///
    /// # Errors
    /// What the server did wrong, or what `on_frame` says.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_frame: impl FnMut(Frame<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        while !self.partial.is_empty() && !bytes.is_empty() {
            let wanted = wanted_bytes(&self.partial)?;
            let taken = bytes.len().min(wanted - self.partial.len());
            self.partial.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let Some(frame) = first_frame(&self.partial)? {
                on_frame(frame)?;
                self.partial.clear();
            }
        }
        while let Some(frame) = first_frame(bytes)? {
            let wire_bytes = frame.wire_bytes;
            on_frame(frame)?;
            bytes = &bytes[wire_bytes..];
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

/// How many bytes the frame that begins with `bytes` has; if its header is not complete, how many more
/// to look at.
fn wanted_bytes(bytes: &[u8]) -> Result<usize, String> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(2) };
    if first & 0x70 != 0 || first & FIN == 0 {
        return Err(format!("a frame begins with {first:#04x}: fragments and extensions were not agreed on"));
    }
    if second & MASKED != 0 {
        return Err("a frame from the server is masked".to_owned());
    }
    let (header, len) = match (second, rest) {
        (126, &[a, b, ..]) => (4, u16::from_be_bytes([a, b]) as usize),
        (126, _) => return Ok(4),
        (127, &[a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize),
        (127, _) => return Ok(10),
        (len, _) => (2, len as usize),
    };
    Ok(header + len)
}

fn first_frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, String> {
    let wire_bytes = wanted_bytes(bytes)?;
    // A header that is not complete wants more than there is, so nothing is read beyond it here.
    if bytes.len() < wire_bytes || bytes.len() < 2 {
        return Ok(None);
    }
    let header = match bytes[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    if wire_bytes < header || (bytes[1] >= 126 && bytes.len() < header) {
        return Ok(None);
    }
    Ok(Some(Frame { opcode: bytes[0] & 0x0f, payload: &bytes[header..wire_bytes], wire_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![FIN | opcode];
        match payload.len() {
            len @ 0..=125 => frame.push(len as u8),
            len @ 126..=0xffff => {
                frame.push(126);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    /// Frames of every kind of header, cut at every place, come out whole and in order.
    #[test]
    fn frames_survive_any_cut() {
        let payloads = [vec![], vec![1; 125], vec![2; 126], vec![3; 300], vec![4; 70_000], vec![5; 1]];
        let stream: Vec<u8> = payloads.iter().flat_map(|it| server_frame(opcode::BINARY, it)).collect();
        let cuts = (0..700).chain(70_400..stream.len());
        for cut in cuts {
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                let collect = |it: Frame<'_>| {
                    seen.push((it.payload.to_vec(), it.wire_bytes));
                    Ok(())
                };
                deframer.feed(part, collect).unwrap();
            }
            assert!(seen.iter().map(|it| &it.0).eq(payloads.iter()), "cut at {cut}");
            assert_eq!(seen.iter().map(|it| it.1).sum::<usize>(), stream.len());
        }
    }

    #[test]
    fn frames_survive_single_bytes() {
        let stream: Vec<u8> =
            [vec![7; 130], vec![8; 3]].iter().flat_map(|it| server_frame(opcode::TEXT, it)).collect();
        let mut deframer = Deframer::default();
        let mut lens = Vec::new();
        for byte in stream.chunks(1) {
            let collect = |it: Frame<'_>| {
                lens.push(it.payload.len());
                Ok(())
            };
            deframer.feed(byte, collect).unwrap();
        }
        assert_eq!(lens, [130, 3]);
    }

    #[test]
    fn what_a_server_must_not_send_is_an_error() {
        for bytes in [[0x01, 0], [0xc1, 0], [0x81, 0x80]] {
            assert!(Deframer::default().feed(&bytes, |_| Ok(())).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn a_clients_frame_is_masked_and_its_parts_are_one_payload() {
        for len in [0, 5, 125, 126, 1000, 70_000] {
            let payload = vec![0x5a; len];
            let mut frame = Vec::new();
            write_frame(opcode::TEXT, 0x1234_5678, &[b"ab", &payload], &mut frame);
            let header = frame.len() - len - 2;
            assert_eq!((frame[0], frame[1] & MASKED), (FIN | opcode::TEXT, MASKED));
            let mask = &frame[header - 4..header];
            let unmasked: Vec<u8> =
                frame[header..].iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]).collect();
            assert_eq!(unmasked, [&b"ab"[..], &payload].concat());
        }
    }
}
