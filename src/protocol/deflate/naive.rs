//! The twin of [`Inflater`](super::Inflater): RFC 1951 a bit at a time.

use super::{Bounds, FINAL_BLOCK, TAIL, blocks_max};
use crate::protocol::close::BrokenRule;

/// The lengths of the code lengths' codes come in this order (RFC 1951 section 3.2.7).
const CODE_LENGTHS_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const CODE_BITS_MAX: u8 = 15;
const BLOCK_END: u16 = 256;

/// The message of a compressed `payload`, whose sender kept to a window of `window_bits`.
pub(crate) fn inflate(payload: &[u8], bounds: &Bounds, window_bits: u8) -> Result<Vec<u8>, BrokenRule> {
    inflate_and_count(payload, bounds, window_bits).0
}

/// And how many of its blocks have begun when it ends or is given up.
pub(crate) fn inflate_and_count(
    payload: &[u8],
    bounds: &Bounds,
    window_bits: u8,
) -> (Result<Vec<u8>, BrokenRule>, u64) {
    let mut block_count = 0;
    (run(payload, bounds, window_bits, &mut block_count), block_count)
}

fn run(
    payload: &[u8],
    bounds: &Bounds,
    window_bits: u8,
    block_count: &mut u64,
) -> Result<Vec<u8>, BrokenRule> {
    let mut message = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let bytes = [rest, &TAIL, &FINAL_BLOCK].concat();
        let mut stream = Stream {
            bytes: &bytes,
            at: 0,
            bits_of_payload: rest.len() * 8,
            start: message.len(),
            window_bytes: 1 << window_bits,
            payload_len: payload.len(),
            bounds,
            message: &mut message,
            block_count,
            is_message_cut: false,
        };
        stream.run()?;
        let taken = stream.at.div_ceil(8);
        if taken <= rest.len() {
            rest = &rest[taken..];
        } else if taken < bytes.len() || stream.is_message_cut {
            return Err(BrokenRule::CorruptDeflate);
        } else {
            break;
        }
    }
    Ok(message)
}

/// One deflate stream, and what is behind it.
struct Stream<'a> {
    bytes: &'a [u8],
    /// The next bit.
    at: usize,
    /// Those of `bytes` that the sender sent.
    bits_of_payload: usize,
    /// Where the stream's output begins.
    start: usize,
    window_bytes: usize,
    payload_len: usize,
    bounds: &'a Bounds,
    message: &'a mut Vec<u8>,
    /// Of all streams together.
    block_count: &'a mut u64,
    /// Something came out only thanks to bits behind the payload.
    is_message_cut: bool,
}

/// The codes of an alphabet, of each length the first, first bit highest, and the symbols of it and those that
/// follow it.
struct Codes([(u32, Vec<u16>); CODE_BITS_MAX as usize + 1]);

impl Stream<'_> {
    fn run(&mut self) -> Result<(), BrokenRule> {
        loop {
            // What has no byte of its own is no whole block.
            if self.at.next_multiple_of(8) < self.bits_of_payload {
                *self.block_count += 1;
                if *self.block_count > blocks_max(self.message.len()) {
                    return Err(BrokenRule::TooManyBlocks);
                }
            }
            let is_final = self.bits(1)? == 1;
            match self.bits(2)? {
                0 => self.stored()?,
                1 => {
                    let lengths = [[8; 144].as_slice(), &[9; 112], &[7; 24], &[8; 8]].concat();
                    self.codes(&Codes::new(&lengths)?, &Codes::new(&[5; 32])?)?;
                }
                2 => {
                    let (literals, distances) = self.dynamic()?;
                    self.codes(&literals, &distances)?;
                }
                _ => return Err(BrokenRule::CorruptDeflate),
            }
            if is_final {
                return Ok(());
            }
        }
    }

    fn stored(&mut self) -> Result<(), BrokenRule> {
        self.at = self.at.next_multiple_of(8);
        let (len, complement) = (self.bits(16)?, self.bits(16)?);
        require(len ^ complement == 0xffff)?;
        (0..len).try_for_each(|_| {
            let byte = self.bits(8)? as u8;
            self.put(byte)
        })
    }

    /// The code tables of a block (section 3.2.7).
    fn dynamic(&mut self) -> Result<(Codes, Codes), BrokenRule> {
        let literal_count = 257 + self.bits(5)? as usize;
        let distance_count = 1 + self.bits(5)? as usize;
        let length_count = 4 + self.bits(4)? as usize;
        require(literal_count <= 286 && distance_count <= 30)?;
        let mut lengths = [0; 19];
        for place in &CODE_LENGTHS_ORDER[..length_count] {
            lengths[*place] = self.bits(3)? as u8;
        }
        let codes = Codes::new(&lengths)?;
        require(codes.is_complete())?;
        let mut lengths: Vec<u8> = Vec::new();
        while lengths.len() < literal_count + distance_count {
            let (length, count) = match self.symbol(&codes)? {
                16 => (*lengths.last().ok_or(BrokenRule::CorruptDeflate)?, 3 + self.bits(2)?),
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                length => (length as u8, 1),
            };
            lengths.extend((0..count).map(|_| length));
        }
        require(lengths.len() == literal_count + distance_count)?;
        let (literals, distances) = lengths.split_at(literal_count);
        require(literals[usize::from(BLOCK_END)] > 0)?;
        let tables = (Codes::new(literals)?, Codes::new(distances)?);
        // A single code of one bit may be all that there is, and no code of a distance at all.
        require(tables.0.is_complete() || literals.iter().all(|length| *length <= 1))?;
        require(tables.1.is_complete() || distances.iter().all(|length| *length <= 1))?;
        Ok(tables)
    }

    /// A block's literals, and copies of what came before (section 3.2.5).
    fn codes(&mut self, literals: &Codes, distances: &Codes) -> Result<(), BrokenRule> {
        loop {
            match self.symbol(literals)? {
                BLOCK_END => return Ok(()),
                literal @ 0..BLOCK_END => self.put(literal as u8)?,
                symbol => {
                    require(symbol <= 285)?;
                    let len = match u32::from(symbol) - 257 {
                        code @ 0..8 => 3 + code,
                        28 => 258,
                        code => 3 + self.grown(code, 4)?,
                    };
                    let symbol = self.symbol(distances)?;
                    require(symbol <= 29)?;
                    let distance = match u32::from(symbol) {
                        code @ 0..4 => 1 + code,
                        code => 1 + self.grown(code, 2)?,
                    } as usize;
                    require(distance <= self.window_bytes.min(self.message.len() - self.start))?;
                    (0..len).try_for_each(|_| self.put(self.message[self.message.len() - distance]))?;
                }
            }
        }
    }

    /// What `code` stands for where every `step` codes there is one more extra bit.
    fn grown(&mut self, code: u32, step: u32) -> Result<u32, BrokenRule> {
        let extra = code / step - 1;
        Ok(((step + code % step) << extra) + self.bits(extra)?)
    }

    fn symbol(&mut self, codes: &Codes) -> Result<u16, BrokenRule> {
        let mut code = 0;
        for length in 1..=CODE_BITS_MAX {
            code = code << 1 | self.bits(1)?;
            let (first, symbols) = &codes.0[usize::from(length)];
            if let Some(symbol) = code.checked_sub(*first).and_then(|place| symbols.get(place as usize)) {
                return Ok(*symbol);
            }
        }
        Err(BrokenRule::CorruptDeflate)
    }

    /// The next `count` bits, the first lowest.
    fn bits(&mut self, count: u32) -> Result<u32, BrokenRule> {
        let mut bits = 0;
        for place in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(BrokenRule::CorruptDeflate)?;
            bits |= u32::from(byte >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Ok(bits)
    }

    fn put(&mut self, byte: u8) -> Result<(), BrokenRule> {
        let len = self.message.len() + 1;
        let &Bounds { bytes_max, ratio_max, ratio_bytes_min } = self.bounds;
        if len > bytes_max {
            return Err(BrokenRule::MessageTooBig);
        }
        if len > ratio_bytes_min && len.div_ceil(ratio_max) > self.payload_len {
            return Err(BrokenRule::InflatesTooMuch);
        }
        self.is_message_cut |= self.at > self.bits_of_payload;
        self.message.push(byte);
        Ok(())
    }
}

impl Codes {
    /// Codes of these lengths, by the rules of section 3.2.2; a symbol of length 0 has none.
    fn new(lengths: &[u8]) -> Result<Codes, BrokenRule> {
        let mut codes = Codes(Default::default());
        let mut next = 0;
        for length in 1..=CODE_BITS_MAX {
            next <<= 1;
            let symbols = (0..lengths.len()).filter(|symbol| lengths[*symbol] == length);
            let symbols: Vec<u16> = symbols.map(|symbol| symbol as u16).collect();
            let end = next + symbols.len() as u32;
            require(end <= 1 << length)?;
            codes.0[usize::from(length)] = (next, symbols);
            next = end;
        }
        Ok(codes)
    }

    /// Whether any bits at all are a code.
    fn is_complete(&self) -> bool {
        let (first, symbols) = &self.0[usize::from(CODE_BITS_MAX)];
        first + symbols.len() as u32 == 1 << CODE_BITS_MAX
    }
}

fn require(holds: bool) -> Result<(), BrokenRule> {
    if holds { Ok(()) } else { Err(BrokenRule::CorruptDeflate) }
}
