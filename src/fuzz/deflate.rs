//! permessage-deflate: what clients offer, what they send, and what is sent to them.

use crate::protocol::{
    deflate::{Agreement, Bounds, Deflater, Inflater, Settings, naive, negotiate},
    frame::{self, Opcode},
};

/// Longer messages would take the twin too long.
const MESSAGE_BYTES_MAX: usize = 10_000;

/// Reads `bytes` behind the first, which says as what: compressed messages, a message to compress, or the
/// value of `Sec-WebSocket-Extensions`.
pub fn deflate(bytes: &[u8]) {
    match bytes {
        [kind, rest @ ..] if kind % 4 < 2 => inflate(usize::from(kind >> 2), rest),
        [kind, level, window_bits, repeated, message @ ..] if kind % 4 == 2 => {
            let settings = Settings { level: 1 + level % 9, bytes_min: 0, window_bits: 9 + window_bits % 7 };
            let message = message.repeat(usize::from(*repeated) + 1);
            round_trip(settings, 8 + kind / 4 % 8, &message[..message.len().min(MESSAGE_BYTES_MAX)]);
        }
        [_, offers @ ..] => offer(offers),
        [] => {}
    }
}

/// Inflates payloads, each behind its length, one after another: each becomes what the twin, which starts
/// afresh, makes of it.
fn inflate(size: usize, bytes: &[u8]) {
    let bytes_max = [0, 1, 10, 100, 300, 1_000, 3_000, MESSAGE_BYTES_MAX][size % 8];
    let (ratio_max, ratio_bytes_min) =
        [(1_032, 0), (100, 0), (100, 500), (10, 0), (10, 50), (3, 0), (2, 5), (1, 0)][size / 8 % 8];
    let bounds = Bounds { bytes_max, ratio_max, ratio_bytes_min };
    let mut inflater = Inflater::default();
    let mut rest = bytes;
    while let [high, low, bytes @ ..] = rest {
        let (payload, behind) =
            bytes.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len()));
        rest = behind;
        let (expected, block_count) = naive::inflate_and_count(payload, &bounds, 15);
        let blocks_before = inflater.blocks_total();
        let message = inflater.inflate(payload, &bounds).map(<[u8]>::to_vec);
        assert_eq!(message, expected, "{payload:x?}");
        assert_eq!(inflater.blocks_total() - blocks_before, block_count, "{payload:x?}");
        if let Ok(message) = message {
            assert!(message.len() <= bounds.message_len_max(payload.len()));
        }
        inflater.trim();
    }
}

/// Compresses `message` for a client with a window of `client_bits`, twice by the same deflater.
fn round_trip(settings: Settings, client_bits: u8, message: &[u8]) {
    let agreement = agreement(client_bits);
    let mut deflater = Deflater::new(settings);
    let mut inflater = Inflater::default();
    for _ in 0..2 {
        let mut frame = Vec::new();
        deflater.write_message(Opcode::Binary, message, agreement, &mut frame);
        if frame[0] & 0x40 == 0 {
            let mut plain = Vec::new();
            frame::write_message(Opcode::Binary, message, &mut plain);
            assert_eq!(frame, plain);
            continue;
        }
        assert!(deflater.suits(agreement) || agreement.covers(message.len()));
        assert_eq!(frame::server_frame_len(&frame), Some(frame.len()));
        let header_len = if frame[1] == 126 { 4 } else { 2 };
        let payload = &frame[header_len..];
        assert!(payload.len() < message.len());
        let bounds = Bounds::of_len(message.len());
        assert_eq!(inflater.inflate(payload, &bounds), Ok(message));
        // It refers no further back than the client keeps.
        assert_eq!(naive::inflate(payload, &bounds, client_bits).as_deref(), Ok(message));
        deflater.trim();
    }
}

fn agreement(window_bits: u8) -> Agreement {
    let offer = format!("permessage-deflate; server_max_window_bits={window_bits}");
    negotiate([offer.as_bytes()], 15).expect("a valid offer").0
}

/// Negotiates over the items of `bytes`.
fn offer(bytes: &[u8]) {
    let items: Vec<&[u8]> = bytes.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let negotiated = negotiate(items.iter().copied(), 12);
    // The first that is taken by itself is the one that counts.
    let first = items.iter().find_map(|item| negotiate([*item], 12).map(|negotiated| (item, negotiated)));
    assert_eq!(negotiated, first.clone().map(|(_, negotiated)| negotiated));
    let Some((item, (agreement, answer))) = first else { return };
    assert!(!answer.contains(['\r', '\n', ',', '"']) && answer.is_ascii(), "{answer:?}");
    // An answer is an offer of what it agrees to.
    assert_eq!(negotiate([answer.as_bytes()], 12), Some((agreement, answer.clone())));
    assert_eq!(negotiate([answer.as_bytes()], 15), Some((agreement, answer)));
    // No parameter is unknown, and none may be there twice.
    let once = ["server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits"];
    let mut offer = item.to_ascii_lowercase();
    for name in once {
        if !offer.windows(name.len()).any(|window| window == name.as_bytes()) {
            offer.extend_from_slice(format!("; {name}").as_bytes());
            assert_eq!(negotiate([offer.as_slice()], 12).map(|(agreed, _)| agreed), Some(agreement));
        }
        assert_eq!(negotiate([[&offer, "; ".as_bytes(), name.as_bytes()].concat().as_slice()], 12), None);
    }
    assert_eq!(negotiate([[&offer, "; x".as_bytes()].concat().as_slice()], 12), None);
}
