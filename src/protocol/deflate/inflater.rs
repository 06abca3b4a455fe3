//! From the payload of a compressed message to the message.

use std::fmt;

use zeroize::Zeroize;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::{Bounds, FINAL_BLOCK, SCRATCH_BYTES_KEPT, TAIL, blocks_max};
use crate::protocol::close::BrokenRule;

/// The largest window: a client is never asked for a smaller one.
const WINDOW_BITS: u8 = 15;

/// Inflates messages one after another, each from a fresh state, into memory that they share.
///
/// Nothing is allocated before the first message, and moving it moves a pointer.
#[derive(Default)]
pub struct Inflater {
    inner: Option<Box<Inner>>,
}

struct Inner {
    state: Inflate,
    /// Its length is what may be written without growing it.
    scratch: Vec<u8>,
    /// How much of `scratch` is the message.
    message_len: usize,
    /// How many of its blocks have begun.
    block_count: u64,
    messages_total: u64,
    bytes_total: u64,
    bytes_out_total: u64,
    blocks_total: u64,
}

/// Where a run through some input ended.
enum End {
    /// All input is taken, and there is more to come.
    Input,
    /// A final block ended after so many bytes of the input.
    Stream(usize),
}

impl Inflater {
    /// Inflates the message whose payload, all fragments together, is `payload`.
    ///
    /// # Errors
    /// [`BrokenRule::MessageTooBig`] or [`BrokenRule::InflatesTooMuch`] as soon as more comes out of it than
    /// `bounds` allow; [`BrokenRule::TooManyBlocks`] at the first block too many;
    /// [`BrokenRule::CorruptDeflate`] if it is not what RFC 7692 section 7.2.2 undoes.
    pub fn inflate(&mut self, payload: &[u8], bounds: &Bounds) -> Result<&[u8], BrokenRule> {
        let bytes_max = bounds.message_len_max(payload.len());
        let inner = self.inner.get_or_insert_with(Inner::new);
        let inflated = inner.inflate(payload, bytes_max);
        inner.bytes_out_total += inner.message_len as u64;
        inner.blocks_total += inner.block_count;
        match inflated {
            Err(BrokenRule::MessageTooBig) if bytes_max < bounds.bytes_max => {
                Err(BrokenRule::InflatesTooMuch)
            }
            Err(rule) => Err(rule),
            Ok(()) => Ok(self.message()),
        }
    }

    /// The message that was inflated last.
    pub fn message(&self) -> &[u8] {
        self.inner.as_ref().map_or(&[], |inner| &inner.scratch[..inner.message_len])
    }

    /// Overwrites the message that was inflated last, which is over; returns how many bytes that were. What the library has of it
    /// is not ours to overwrite.
    pub fn wipe(&mut self) -> usize {
        let Some(inner) = &mut self.inner else { return 0 };
        let len = std::mem::take(&mut inner.message_len);
        inner.scratch[..len].zeroize();
        len
    }

    /// Gives back what a long message needed.
    pub fn trim(&mut self) {
        if let Some(inner) = &mut self.inner
            && inner.scratch.len() > SCRATCH_BYTES_KEPT
        {
            (inner.scratch, inner.message_len) = (Vec::new(), 0);
        }
    }

    /// Messages inflated since the start.
    pub fn messages_total(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.messages_total)
    }

    /// Their length together, in bytes.
    pub fn bytes_total(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.bytes_total)
    }

    /// All bytes that came out since the start, those of messages that were refused as well: what inflating
    /// costs.
    pub fn bytes_out_total(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.bytes_out_total)
    }

    /// All blocks that began since the start, likewise. The empty one that ends a message, and is mostly not
    /// sent, is one where it has a byte of its own.
    pub fn blocks_total(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.blocks_total)
    }
}

impl Inner {
    fn new() -> Box<Inner> {
        let state = Inflate::new(false, WINDOW_BITS);
        Box::new(Inner {
            state,
            scratch: Vec::new(),
            message_len: 0,
            block_count: 0,
            messages_total: 0,
            bytes_total: 0,
            bytes_out_total: 0,
            blocks_total: 0,
        })
    }

    fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<(), BrokenRule> {
        (self.message_len, self.block_count) = (0, 0);
        let mut rest = payload;
        // Each round is a stream of its own: a sender may end one with BFINAL within a message and begin
        // the next (section 7.2.3.4). What ends with a final block, or is nothing at all, needs no tail.
        while !rest.is_empty() {
            self.state.reset(false);
            if let End::Stream(taken) = self.run(rest, InflateFlush::Block, bytes_max)? {
                rest = &rest[taken..];
                continue;
            }
            // What was cut within a block takes them for something else, data or codes.
            let len = self.message_len;
            let is_tail = match self.run(&TAIL, InflateFlush::SyncFlush, bytes_max)? {
                End::Input => true,
                // The payload's last block was a final one.
                End::Stream(0) => break,
                End::Stream(_) => false,
            };
            let is_end = is_tail
                && matches!(self.run(&FINAL_BLOCK, InflateFlush::SyncFlush, bytes_max)?,
                    End::Stream(taken) if taken == FINAL_BLOCK.len());
            if !is_end || self.message_len != len {
                return Err(BrokenRule::CorruptDeflate);
            }
            break;
        }
        self.messages_total += 1;
        self.bytes_total += self.message_len as u64;
        Ok(())
    }

    /// Takes `input`, and appends what comes out to the message. Blocks are counted if it is to stop behind each.
    ///
    /// So it stops behind each block, for want of input, or for want of room. Where there is none left it does not
    /// say which: but within a block it then takes no more, and at the begin of one it does. A block counts that
    /// has a byte of the input of its own; the bits that are left of another byte are too few for a whole one.
    fn run(&mut self, input: &[u8], flush: InflateFlush, bytes_max: usize) -> Result<End, BrokenRule> {
        let counts_blocks = flush == InflateFlush::Block;
        let mut taken = 0;
        let mut is_within_block = false;
        loop {
            // The scratch may be as long as a message before this one that was allowed more.
            let end = self.scratch.len().min(bytes_max.saturating_add(1));
            let (in_before, out_before) = (self.state.total_in(), self.state.total_out());
            let room = &mut self.scratch[self.message_len..end];
            let status = self.state.decompress(&input[taken..], room, flush);
            let read = (self.state.total_in() - in_before) as usize;
            let written = (self.state.total_out() - out_before) as usize;
            let is_begin = !is_within_block && taken < input.len() && (read > 0 || status.is_err());
            if counts_blocks && is_begin {
                self.block_count += 1;
                if self.block_count > blocks_max(self.message_len) {
                    self.message_len += written;
                    return Err(BrokenRule::TooManyBlocks);
                }
            }
            taken += read;
            self.message_len += written;
            if self.message_len > bytes_max {
                return Err(BrokenRule::MessageTooBig);
            }
            is_within_block = false;
            match status {
                Ok(Status::StreamEnd) => return Ok(End::Stream(taken)),
                // With room left it has written all that it can.
                Ok(_) if taken == input.len() && self.message_len < end => return Ok(End::Input),
                Ok(_) if read > 0 || written > 0 => {}
                Ok(_) if self.message_len == end => {
                    // One byte more than allowed, so that a message that is too long shows.
                    let doubled = self.scratch.len().saturating_mul(2).max(SCRATCH_BYTES_KEPT);
                    self.scratch.resize(doubled.min(bytes_max.saturating_add(1)), 0);
                    is_within_block = true;
                }
                _ => return Err(BrokenRule::CorruptDeflate),
            }
        }
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Inflater({} messages)", self.messages_total())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index, test_runner::RngSeed};
    use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

    use super::*;
    use crate::protocol::deflate::{naive, twin};

    /// A block of nothing whose code tables are full: 286 codes of 8 and 9 bits, 30 of 4 and 5.
    const DYNAMIC: [u8; 31] = [
        0xec, 0x9d, 0x03, 0x60, 0x18, 0x30, 0x0c, 0x00, 0x66, 0xdb, 0xb6, 0x6d, 0xdb, 0xb6, 0x6d, 0xdb, 0xb6,
        0x6d, 0xdb, 0xb6, 0x6d, 0xdb, 0xc6, 0x6d, 0xdb, 0xb6, 0xcd, 0xa4, 0xb6, 0x8d, 0x47,
    ];
    const STORED: [u8; 5] = [0x00, 0x00, 0x00, 0xff, 0xff];
    const STORED_BYTES_MAX: usize = 65_535;
    /// A stream of one block of nothing, with the fixed codes.
    const FINAL: [u8; 2] = [0x03, 0x00];
    /// So many blocks of nothing, of which the last is a final one.
    type Empty = fn(usize) -> Vec<u8>;
    const EMPTY: [(&str, Empty); 4] = [
        ("dynamic", |count| [&DYNAMIC.repeat(count - 1)[..], &FINAL].concat()),
        ("stored", |count| [&STORED.repeat(count - 1)[..], &FINAL].concat()),
        ("fixed", fixed),
        ("final", |count| FINAL.repeat(count)),
    ];

    /// Each has ten bits, of which the second is set, and of the last the first too.
    fn fixed(count: usize) -> Vec<u8> {
        let mut payload = vec![0; (10 * count).div_ceil(8)];
        let starts = (0..count).map(|block| 10 * block);
        for bit in starts.map(|start| start + 1).chain([10 * (count - 1)]) {
            payload[bit / 8] |= 1 << (bit % 8);
        }
        payload
    }

    /// Stored blocks of so many bytes together.
    fn stored(len: usize) -> Vec<u8> {
        let lens = (0..len).step_by(STORED_BYTES_MAX).map(|start| STORED_BYTES_MAX.min(len - start));
        let block = |len: usize| {
            let len_bytes = (len as u16).to_le_bytes();
            [&[0][..], &len_bytes, &len_bytes.map(|byte| !byte), &vec![b'x'; len]].concat()
        };
        lens.flat_map(block).collect()
    }

    /// What zlib makes of `message`, flushed behind every `flushed_bytes` of it.
    fn deflated(message: &[u8], level: i32, mem_level: i32, flushed_bytes: usize) -> Vec<u8> {
        let config = DeflateConfig { level, mem_level, window_bits: -15, ..DeflateConfig::default() };
        let mut deflate = Deflate::new_with_config(config);
        let mut payload = vec![0; 2 * message.len() + 1_000];
        for part in message.chunks(flushed_bytes) {
            let from = deflate.total_out() as usize;
            deflate.compress(part, &mut payload[from..], DeflateFlush::SyncFlush).expect("there is room");
        }
        assert_eq!(deflate.total_in(), message.len() as u64);
        payload.truncate(deflate.total_out() as usize - TAIL.len());
        payload
    }

    /// Letters without any order: they shrink, and nothing in them comes again.
    fn letters(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let letter = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 24) as u8 % 26
        };
        (0..len).map(letter).collect()
    }

    fn inflate(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, BrokenRule> {
        Inflater::default().inflate(payload, &Bounds::of_len(bytes_max)).map(<[u8]>::to_vec)
    }

    #[test]
    fn the_examples_of_rfc_7692_are_inflated() {
        let hello: [(&[u8], &[u8]); 6] = [
            // Section 7.2.3.1, and its second message, which refers to the first only with context takeover.
            (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
            // Section 7.2.3.3: a stored block.
            (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], b"Hello"),
            // Section 7.2.3.4: a block with BFINAL set.
            (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello"),
            // Section 7.2.3.5: two blocks.
            (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
            // Section 7.2.3.6: an empty message.
            (&[0x00], b""),
            (&[0x02, 0x00], b""),
        ];
        for (payload, message) in hello {
            assert_eq!(inflate(payload, 5), Ok(message.to_vec()), "{payload:x?}");
        }
        // It refers back to the message before, of which there is nothing left.
        assert_eq!(inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 100), Err(BrokenRule::CorruptDeflate));
    }

    #[test]
    fn blocks_after_a_final_one_go_on_with_the_message() {
        let hello = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let twice = [hello.as_slice(), &hello, &[0x00]].concat();
        assert_eq!(inflate(&twice, 10), Ok(b"HelloHello".to_vec()));
        assert_eq!(inflate(&twice, 9), Err(BrokenRule::MessageTooBig));
        // Some senders forget the byte behind it, and some send nothing at all for nothing.
        assert_eq!(inflate(&hello, 10), Ok(b"Hello".to_vec()));
        assert_eq!(inflate(&[], 10), Ok(Vec::new()));
    }

    #[test]
    fn a_message_that_is_cut_or_no_deflate_data_is_corrupt() {
        let text: Vec<u8> = (0..2_000u32).flat_map(|number| number.to_string().into_bytes()).collect();
        for level in [1, 6, 9] {
            let payload = twin::deflated(&text, level);
            for len in (1..payload.len() - 1).step_by(7) {
                assert_eq!(inflate(&payload[..len], 1 << 20), Err(BrokenRule::CorruptDeflate), "{len}");
            }
        }
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48];
        for payload in [&stored[..], &stored[..3], b"\xff\xff", b"\x06", b"\x00\x00", b"Hello"] {
            assert_eq!(inflate(payload, 1 << 20), Err(BrokenRule::CorruptDeflate), "{payload:x?}");
        }
    }

    #[test]
    fn a_bomb_is_given_up_at_the_first_byte_too_many_and_leaves_the_inflater_as_it_was() {
        const BYTES_MAX: usize = 100_000;
        let mut inflater = Inflater::default();
        for len in [BYTES_MAX - 1, BYTES_MAX, BYTES_MAX + 1, 10 << 20] {
            let payload = twin::deflated(&vec![0; len], 9);
            let result = inflater.inflate(&payload, &Bounds::of_len(BYTES_MAX)).map(<[u8]>::len);
            assert_eq!(result, if len > BYTES_MAX { Err(BrokenRule::MessageTooBig) } else { Ok(len) });
            assert!(inflater.inner.as_ref().unwrap().scratch.len() <= BYTES_MAX + 1);
        }
        inflater.trim();
        assert_eq!(inflater.inner.as_ref().unwrap().scratch.capacity(), 0);
        assert_eq!(
            inflater.inflate(&twin::deflated(b"after", 9), &Bounds::of_len(5)),
            Ok(b"after".as_slice())
        );
        inflater.trim();
        assert!(!inflater.inner.as_ref().unwrap().scratch.is_empty(), "a short message's memory is kept");
        assert_eq!((inflater.messages_total(), inflater.bytes_total()), (3, 2 * BYTES_MAX as u64 + 4));
        assert_eq!(inflater.bytes_out_total(), inflater.bytes_total() + 2 * (BYTES_MAX as u64 + 1));
    }

    #[test]
    fn what_inflates_too_much_is_given_up_as_soon_as_that_shows_unless_it_is_short() {
        let mut inflater = Inflater::default();
        for (len, ratio_max, expected) in [
            (65_536, 10, Ok(65_536)),
            (65_537, 10, Err(BrokenRule::InflatesTooMuch)),
            (1 << 20, 1_032, Ok(1 << 20)),
            (1 << 20, 500, Err(BrokenRule::InflatesTooMuch)),
            ((1 << 20) + 1, 500, Err(BrokenRule::InflatesTooMuch)),
            ((1 << 20) + 1, 1_032, Err(BrokenRule::MessageTooBig)),
        ] {
            let payload = twin::deflated(&vec![0; len], 9);
            let bounds = Bounds { bytes_max: 1 << 20, ratio_max, ratio_bytes_min: 65_536 };
            let out_before = inflater.bytes_out_total();
            assert_eq!(inflater.inflate(&payload, &bounds).map(<[u8]>::len), expected, "{len}, {ratio_max}");
            let out = (inflater.bytes_out_total() - out_before) as usize;
            assert_eq!(out, len.min(bounds.message_len_max(payload.len()) + 1));
        }
    }

    /// Behind output that allows no more of them, some and many; that of 64 KiB fills the first scratch.
    #[test]
    fn the_first_block_too_many_is_the_last_that_is_looked_at() {
        let bounds = Bounds::of_len(1 << 20);
        for len in [0, 4_095, 4_096, 65_536, 200_000] {
            let before = stored(len);
            let max = blocks_max(len);
            let count = max as usize - len.div_ceil(STORED_BYTES_MAX);
            for (kind, blocks) in EMPTY {
                let mut inflater = Inflater::default();
                let payload = [before.clone(), blocks(count)].concat();
                assert_eq!(inflater.inflate(&payload, &bounds).map(<[u8]>::len), Ok(len), "{kind}");
                assert_eq!(inflater.blocks_total(), max, "{kind}");
                let too_many = [before.clone(), blocks(count + 1)].concat();
                for payload in [&too_many, &[too_many.clone(), blocks(30_000)].concat()] {
                    let mut inflater = Inflater::default();
                    assert_eq!(inflater.inflate(payload, &bounds), Err(BrokenRule::TooManyBlocks), "{kind}");
                    assert_eq!(inflater.blocks_total(), max + 1, "{kind}");
                    assert_eq!(inflater.bytes_out_total(), len as u64, "{kind}");
                    let taken = inflater.inner.as_ref().unwrap().state.total_in() as usize;
                    assert!(taken <= too_many.len(), "{kind}: {taken} bytes");
                    assert_eq!(inflater.inflate(&FINAL, &bounds), Ok(&[][..]), "{kind}");
                }
            }
        }
    }

    #[test]
    fn a_block_too_many_is_that_even_if_it_is_none() {
        // A fixed block ends within a byte, and three bits of the same byte say a kind that there is not.
        let no_kind = [0x02, 0x18, 0x00];
        for (count, rule) in [(254, BrokenRule::CorruptDeflate), (255, BrokenRule::TooManyBlocks)] {
            let payload = [&STORED.repeat(count)[..], &no_kind].concat();
            let mut inflater = Inflater::default();
            let bounds = Bounds::of_len(10);
            assert_eq!(inflater.inflate(&payload, &bounds), Err(rule));
            let block_count = count as u64 + 2;
            assert_eq!(inflater.blocks_total(), block_count);
            let expected = (Err(rule), block_count);
            assert_eq!(naive::inflate_and_count(&payload, &bounds, WINDOW_BITS), expected);
        }
    }

    #[test]
    fn what_zlib_makes_of_a_long_message_is_not_too_many_blocks() {
        const MIB: usize = 1 << 20;
        let whole = (0..=9).map(|level| (level, 8, MIB, MIB));
        // The shorter its blocks, the shorter the message: docs/PROTOCOL.md has these bounds.
        let short = [
            (1, 32 << 10),
            (2, 66 << 10),
            (3, 140 << 10),
            (4, 330 << 10),
            (5, 1_000 << 10),
            (6, MIB),
            (9, MIB),
        ];
        let short = short.into_iter().map(|(mem_level, len)| (6, mem_level, len, len));
        let flushed = [(6, 8, MIB, 8 << 10), (6, 8, 140 << 10, 1 << 10), (6, 8, 15 << 10, 125)];
        for (level, mem_level, len, flushed_bytes) in whole.chain(short).chain(flushed) {
            let message = letters(len);
            let payload = deflated(&message, level, mem_level, flushed_bytes);
            let result = inflate(&payload, MIB);
            assert!(result == Ok(message), "level {level}, memLevel {mem_level}, {len} by {flushed_bytes}");
        }
        for (mem_level, len) in [(1, 48 << 10), (2, 128 << 10), (3, 256 << 10), (4, MIB)] {
            let payload = deflated(&letters(len), 6, mem_level, len);
            assert_eq!(inflate(&payload, MIB).err(), Some(BrokenRule::TooManyBlocks), "memLevel {mem_level}");
        }
    }

    /// Text that repeats itself a little, noise, and both.
    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let words =
            prop::collection::vec("[a-d]{1,6}", 0..400).prop_map(|words| words.join(" ").into_bytes());
        let noise = prop::collection::vec(any::<u8>(), 0..3_000);
        let long = (words.clone(), 1_usize..200).prop_map(|(words, count)| words.repeat(count));
        prop_oneof![words, noise, long]
    }

    /// Blocks of nothing, and stored ones: among these such as fill a scratch that has just grown.
    fn any_blocks() -> impl Strategy<Value = Vec<u8>> {
        let lens = prop::sample::select(vec![1, 500, 4_096, 5_000, 32_768, 65_536]);
        prop_oneof![
            2 => (1_usize..150).prop_map(|count| DYNAMIC.repeat(count)),
            2 => (1_usize..200).prop_map(|count| STORED.repeat(count)),
            2 => (2_usize..200).prop_map(fixed),
            2 => (1_usize..150).prop_map(|count| FINAL.repeat(count)),
            3 => lens.prop_map(stored),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 100,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(7692),
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_an_independent_deflater_wrote_is_inflated_one_message_after_another(
            messages in prop::collection::vec((any_message(), 0_u32..10), 1..6),
        ) {
            let mut inflater = Inflater::default();
            for (message, level) in messages {
                let payload = twin::deflated(&message, level);
                prop_assert!(payload.len() <= super::super::deflated_len_max(message.len()));
                let exact = Bounds::of_len(message.len());
                prop_assert_eq!(inflater.inflate(&payload, &exact), Ok(message.as_slice()));
                if let Some(less) = message.len().checked_sub(1) {
                    let result = inflater.inflate(&payload, &Bounds::of_len(less));
                    prop_assert_eq!(result, Err(BrokenRule::MessageTooBig));
                }
            }
        }

        #[test]
        fn a_message_is_refused_for_what_the_naive_twin_refuses_it_for(
            message in any_message(),
            level in 1_u32..10,
            (bytes_max, ratio_max, ratio_bytes_min) in (0_usize..40_000, 1_usize..200, 0_usize..20_000),
        ) {
            let payload = twin::deflated(&message, level);
            let bounds = Bounds { bytes_max, ratio_max, ratio_bytes_min };
            let result = Inflater::default().inflate(&payload, &bounds).map(<[u8]>::to_vec);
            prop_assert_eq!(&result, &naive::inflate(&payload, &bounds, WINDOW_BITS));
            let is_too_much = message.len() > ratio_max * payload.len() && message.len() > ratio_bytes_min;
            prop_assert_eq!(result.is_err(), is_too_much || message.len() > bytes_max);
        }

        #[test]
        fn blocks_are_counted_as_the_naive_twin_counts_them_and_refused_where_it_refuses_them(
            parts in prop::collection::vec(any_blocks(), 1..8),
            is_ended in any::<bool>(),
            bytes_max in prop_oneof![0_usize..20_000, Just(1 << 20)],
        ) {
            let end = if is_ended { &FINAL[..] } else { &[0x00] };
            let payload = [&parts.concat()[..], end].concat();
            let bounds = Bounds::of_len(bytes_max);
            let mut inflater = Inflater::default();
            for _ in 0..2 {
                let before = inflater.blocks_total();
                let result = inflater.inflate(&payload, &bounds).map(<[u8]>::to_vec);
                let (expected, block_count) = naive::inflate_and_count(&payload, &bounds, WINDOW_BITS);
                prop_assert!(result == expected, "{:?}, {:?}", result.err(), expected.err());
                prop_assert_eq!(inflater.blocks_total() - before, block_count);
            }
        }

        #[test]
        fn a_payload_with_a_byte_changed_is_what_the_naive_twin_makes_of_it(
            message in any_message(),
            level in 1_u32..10,
            at in any::<Index>(),
            byte in any::<u8>(),
        ) {
            let mut payload = twin::deflated(&message, level);
            let at = at.index(payload.len());
            payload[at] = byte;
            let bytes_max = 2 * message.len() + 1_000;
            let message = inflate(&payload, bytes_max);
            let bounds = Bounds::of_len(bytes_max);
            prop_assert_eq!(&message, &naive::inflate(&payload, &bounds, WINDOW_BITS));
            if let (Ok(ours), Some(theirs)) = (message, twin::inflated(&payload, bytes_max)) {
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
