//! From a message to the frame that carries it compressed.

use std::fmt;

use zlib_rs::{Deflate, DeflateFlush, Status};

use super::{Agreement, SCRATCH_BYTES_KEPT, TAIL, deflated_len_max};
use crate::protocol::{
    Format,
    frame::{self, Opcode, SERVER_HEADER_BYTES_MAX},
    publication::Publication,
};

/// What a flush adds at most: the header of an empty stored block, over the end of a byte, and [`TAIL`].
const FLUSH_BYTES_MAX: usize = 2 + TAIL.len();

/// How messages are compressed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// zlib's level, 1 to 9.
    pub level: u8,
    /// Shorter messages stay as they are.
    pub bytes_min: usize,
    /// The window, in bits: 9 to 15.
    pub window_bits: u8,
}

/// Compresses messages one after another, each from a fresh state, into memory that they share.
///
/// Nothing is allocated before the first message.
#[derive(Debug)]
pub struct Deflater {
    settings: Settings,
    /// The plain frame of a publication.
    plain: Vec<u8>,
    compressor: Compressor,
}

#[derive(Default)]
struct Compressor {
    state: Option<Deflate>,
    /// A frame, its payload at the longest header's end.
    scratch: Vec<u8>,
    messages_total: u64,
    in_bytes_total: u64,
    out_bytes_total: u64,
}

impl Deflater {
    /// A deflater that has compressed nothing.
    pub fn new(settings: Settings) -> Deflater {
        Deflater { settings, plain: Vec::new(), compressor: Compressor::default() }
    }

    /// Whether a client with this agreement inflates whatever is compressed here.
    pub fn suits(&self, agreement: Agreement) -> bool {
        agreement.covers_window(self.settings.window_bits)
    }

    /// The whole frame of a publication, compressed. `None`: it stays as it is, because it is short or does not
    /// shrink.
    pub fn publication(&mut self, publication: &Publication<'_>, format: Format) -> Option<&[u8]> {
        let frame_len = publication.encoded_len(format);
        let message_len = publication.message_len(format);
        if message_len < self.settings.bytes_min {
            return None;
        }
        if self.plain.len() < frame_len {
            self.plain.resize(frame_len, 0);
        }
        let plain = &mut self.plain[..frame_len];
        publication.encode(format, plain);
        self.compressor.frame(format.opcode(), &plain[frame_len - message_len..], &self.settings)
    }

    /// Appends the whole frame of a message to `out`: compressed if it shrinks and the client can take it.
    pub fn write_message(&mut self, opcode: Opcode, message: &[u8], agreement: Agreement, out: &mut Vec<u8>) {
        let is_worth_it = message.len() >= self.settings.bytes_min
            && (self.suits(agreement) || agreement.covers(message.len()));
        let frame = if is_worth_it { self.compressor.frame(opcode, message, &self.settings) } else { None };
        match frame {
            Some(frame) => out.extend_from_slice(frame),
            None => frame::write_message(opcode, message, out),
        }
    }

    /// Gives back what long messages needed.
    pub fn trim(&mut self) {
        for scratch in [&mut self.plain, &mut self.compressor.scratch] {
            if scratch.len() > SCRATCH_BYTES_KEPT {
                *scratch = Vec::new();
            }
        }
    }

    /// Messages that shrank since the start.
    pub fn messages_total(&self) -> u64 {
        self.compressor.messages_total
    }

    /// Their length together before, in bytes, and that of those that did not shrink.
    pub fn in_bytes_total(&self) -> u64 {
        self.compressor.in_bytes_total
    }

    /// What became of those bytes.
    pub fn out_bytes_total(&self) -> u64 {
        self.compressor.out_bytes_total
    }
}

impl Compressor {
    /// The frame of `message` with RSV1 set (RFC 7692 section 7.2.1), unless it does not shrink.
    fn frame(&mut self, opcode: Opcode, message: &[u8], settings: &Settings) -> Option<&[u8]> {
        self.in_bytes_total += message.len() as u64;
        let Some(payload_len) = self.compress(message, settings) else {
            self.out_bytes_total += message.len() as u64;
            return None;
        };
        self.messages_total += 1;
        self.out_bytes_total += payload_len as u64;
        let start = SERVER_HEADER_BYTES_MAX - frame::header_len(payload_len);
        let frame = &mut self.scratch[start..SERVER_HEADER_BYTES_MAX + payload_len];
        frame::write_deflated_header(opcode, payload_len, frame);
        Some(frame)
    }

    /// Puts the payload of `message` to its place in `scratch`, and returns its length; `None` if it is not
    /// shorter than the message.
    fn compress(&mut self, message: &[u8], settings: &Settings) -> Option<usize> {
        // Room for the worst case: zlib-rs cannot be reset in the middle of a message, parts of which would
        // come out in front of the next.
        let end = SERVER_HEADER_BYTES_MAX + deflated_len_max(message.len()) + FLUSH_BYTES_MAX;
        if self.scratch.len() < end {
            self.scratch.resize(end, 0);
        }
        let state = match &mut self.state {
            Some(state) => {
                state.reset();
                state
            }
            none => none.insert(Deflate::new(settings.level.into(), false, settings.window_bits)),
        };
        let room = &mut self.scratch[SERVER_HEADER_BYTES_MAX..end];
        let status = state.compress(message, room, DeflateFlush::SyncFlush);
        let len = state.total_out() as usize;
        assert!(
            status == Ok(Status::Ok) && len < room.len() && room[..len].ends_with(&TAIL),
            "{} bytes become {len} of {} and are not flushed: {status:?}",
            message.len(),
            room.len()
        );
        let payload_len = len - TAIL.len();
        (payload_len < message.len()).then_some(payload_len)
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Compressor({} messages)", self.messages_total)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;
    use crate::protocol::{
        command::PayloadKind,
        deflate::{Bounds, Inflater, negotiate, twin},
    };

    const SETTINGS: Settings = Settings { level: 6, bytes_min: 100, window_bits: 15 };

    fn agreement(window_bits: u8) -> Agreement {
        let offer = format!("permessage-deflate; server_max_window_bits={window_bits}");
        negotiate([offer.as_bytes()], 15).expect("a valid offer").0
    }

    fn write(deflater: &mut Deflater, message: &[u8], agreement: Agreement) -> (Vec<u8>, bool) {
        let mut out = b"before".to_vec();
        deflater.write_message(Opcode::Binary, message, agreement, &mut out);
        twin::plain_frame(out.strip_prefix(b"before").expect("appended"))
    }

    fn plain(message: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        frame::write_message(Opcode::Binary, message, &mut frame);
        frame
    }

    #[test]
    fn what_is_short_or_does_not_shrink_stays_as_it_is() {
        let mut deflater = Deflater::new(SETTINGS);
        let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let noise: Vec<u8> =
            std::iter::successors(Some(1), next).map(|state| (state >> 56) as u8).take(1_000).collect();
        for (message, is_deflated) in
            [(&[7; 99][..], false), (&[7; 100], true), (&[], false), (&noise, false), (&[7; 100_000], true)]
        {
            assert_eq!(write(&mut deflater, message, agreement(15)), (plain(message), is_deflated));
        }
        assert_eq!(deflater.messages_total(), 2);
        assert_eq!(deflater.in_bytes_total(), 100 + 1_000 + 100_000);
        assert!((1_000..1_000 + 1_000).contains(&deflater.out_bytes_total()));
        deflater.trim();
        assert_eq!(deflater.compressor.scratch.capacity(), 0);
    }

    #[test]
    fn a_client_with_a_smaller_window_gets_what_fits_into_it() {
        let mut deflater = Deflater::new(Settings { window_bits: 12, ..SETTINGS });
        assert!(deflater.suits(agreement(15)) && deflater.suits(agreement(12)));
        assert!(!deflater.suits(agreement(11)));
        for (window_bits, len, is_deflated) in
            [(8, 256, true), (8, 257, false), (9, 512, true), (9, 513, false), (12, 100_000, true)]
        {
            let message = vec![7; len];
            let expected = (plain(&message), is_deflated);
            assert_eq!(
                write(&mut deflater, &message, agreement(window_bits)),
                expected,
                "{window_bits}, {len}"
            );
        }
    }

    #[test]
    fn nothing_is_allocated_before_something_is_compressed() {
        let mut deflater = Deflater::new(SETTINGS);
        let mut out = Vec::new();
        deflater.write_message(Opcode::Text, b"short", agreement(15), &mut out);
        assert!(deflater.compressor.state.is_none());
        assert_eq!(deflater.plain.capacity() + deflater.compressor.scratch.capacity(), 0);
    }

    #[test]
    fn noise_that_does_not_shrink_leaves_nothing_behind_for_the_next_message() {
        let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let mut noise = std::iter::successors(Some(1), next).map(|state| (state >> 56) as u8);
        for level in 1..10 {
            let mut deflater = Deflater::new(Settings { level, bytes_min: 0, window_bits: 15 });
            for len in [1, 10, 100, 1_000, 10_000, 60_000, 70_000, 200_000, 60_000, 65_536] {
                let message: Vec<u8> = noise.by_ref().take(len).collect();
                assert_eq!(write(&mut deflater, &message, agreement(15)), (plain(&message), false), "{len}");
                let text = b"what shrinks ".repeat(50);
                assert_eq!(
                    write(&mut deflater, &text, agreement(15)),
                    (plain(&text), true),
                    "{level}, {len}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 100,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(7692),
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_level_and_window_is_undone_by_an_independent_inflater_and_by_ours(
            texts in prop::collection::vec(("[a-e ]{0,600}", 1_usize..40), 1..5),
            level in 1_u8..10,
            window_bits in 9_u8..16,
        ) {
            let mut deflater = Deflater::new(Settings { level, bytes_min: 0, window_bits });
            let mut inflater = Inflater::default();
            for (text, count) in texts {
                let text = serde_json::to_string(&text.repeat(count)).expect("a string");
                for format in Format::ALL {
                    let publication =
                        Publication { topic: "room/1", seq: 7, user: None, time_ms: None, payload: text.as_bytes(), kind: PayloadKind::Json };
                    let mut plain = vec![0; publication.encoded_len(format)];
                    publication.encode(format, &mut plain);
                    let Some(frame) = deflater.publication(&publication, format) else { continue };
                    prop_assert!(frame.len() < plain.len());
                    prop_assert_eq!(frame::server_frame_len(frame), Some(frame.len()));
                    prop_assert_eq!(twin::plain_frame(frame), (plain.clone(), true));
                    let payload_len = frame.len() - usize::from(frame[1] == 126) * 2 - 2;
                    if frame[1] != 127 {
                        let payload = &frame[frame.len() - payload_len..];
                        let message = inflater.inflate(payload, &Bounds::of_len(publication.message_len(format)));
                        prop_assert_eq!(message, Ok(&plain[plain.len() - publication.message_len(format)..]));
                    }
                }
            }
        }
    }
}
