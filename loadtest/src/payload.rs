//! What a publication carries: when it was due, whose it is and which, and a filling that is checked.

/// The least payload: the stamp alone.
const STAMP_BYTES: usize = 32;

/// What makes every publication its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When it was due, by [`crate::clock::now_ns`].
    pub due_ns: u64,
    /// Which topic of the run.
    pub topic: u16,
    /// Which of its publishers.
    pub publisher: u16,
    /// Its place among that publisher's on that topic, from 0; 32 bits.
    pub sequence: u64,
}

/// Payloads of one size: letters and digits only, so that they fit a JSON string as they are.
#[derive(Clone, Debug)]
pub struct Payload {
    filling: Vec<u8>,
}

impl Payload {
    /// Payloads of `size` bytes, at least 32.
    pub fn new(size: usize) -> Payload {
        let filling_bytes = size.saturating_sub(STAMP_BYTES);
        Payload { filling: (0..filling_bytes).map(|index| b'a' + (index % 26) as u8).collect() }
    }

    /// How many bytes one has.
    pub fn size(&self) -> usize {
        STAMP_BYTES + self.filling.len()
    }

    /// The stamp as it stands in the payload, and the filling after it.
    pub fn parts(&self, stamp: Stamp) -> ([u8; STAMP_BYTES], &[u8]) {
        let mut text = [0; STAMP_BYTES];
        write_hex(stamp.due_ns, &mut text[..16]);
        let place = (stamp.topic as u64) << 48 | (stamp.publisher as u64) << 32 | stamp.sequence;
        write_hex(place, &mut text[16..]);
        (text, &self.filling)
    }

    /// The stamp of a payload; `None` if it is not one that [`Payload::parts`] gave, byte for byte.
    pub fn check(&self, data: &[u8]) -> Option<Stamp> {
        let (text, filling) = data.split_at_checked(STAMP_BYTES)?;
        if filling != self.filling {
            return None;
        }
        let place = read_hex(&text[16..])?;
        Some(Stamp {
            due_ns: read_hex(&text[..16])?,
            topic: (place >> 48) as u16,
            publisher: (place >> 32) as u16,
            sequence: place & 0xffff_ffff,
        })
    }
}

fn write_hex(value: u64, out: &mut [u8]) {
    for (index, digit) in out.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (60 - 4 * index) & 0xf) as usize];
    }
}

fn read_hex(text: &[u8]) -> Option<u64> {
    let mut value = 0;
    for &digit in text {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | nibble as u64;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_gives_its_stamp_back_and_any_changed_byte_is_seen() {
        let payload = Payload::new(128);
        let stamp = Stamp { due_ns: u64::MAX - 5, topic: 3, publisher: 0xfffe, sequence: 0xffff_fff0 };
        let (text, filling) = payload.parts(stamp);
        let data = [&text[..], filling].concat();
        assert_eq!((data.len(), payload.check(&data)), (128, Some(stamp)));
        for index in 0..data.len() {
            let mut changed = data.clone();
            changed[index] ^= 0x80;
            assert_eq!(payload.check(&changed), None, "{index}");
        }
        assert_eq!(payload.check(&data[..127]), None);
        assert_eq!(Payload::new(1).size(), STAMP_BYTES);
    }
}
