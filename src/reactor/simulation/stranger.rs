//! What a peer sends that is no client: noise, frames that break rules, requests that never end.

use crate::uring::sim::Rng;

/// Some bytes that no rule allows, or that allow no answer yet. None of them is a command: whoever sends one
/// by chance would publish what nobody knows of.
pub(super) fn utterance(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.between(1, 4) {
        match rng.below(6) {
            0 => noise(rng.between(1, 300), rng, &mut bytes),
            1 => bytes.extend(b"GET /ws HTTP/1.1\r\nHost: x\r\n"),
            2 => bytes.extend(b"\r\n\r\n"),
            _ => frame(rng, &mut bytes),
        }
    }
    bytes
}

/// A frame with any first byte, any length, and a mask or none; its payload may be cut short.
fn frame(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let first = if rng.chance(1, 2) {
        rng.below(256) as u8
    } else {
        *rng.pick(&[0x81, 0x82, 0x01, 0x80, 0x88, 0x89])
    };
    let mask = if rng.chance(7, 8) { 0x80 } else { 0 };
    let len = *rng.pick(&[0, 1, 2, 60, 125, 126, 200, 70_000]);
    bytes.push(first);
    match rng.below(8) {
        0 => bytes.extend([mask | 127, 0xff, 0, 0, 0, 0, 0, 0, len as u8]),
        1 => bytes.extend([mask | 126, 0, (len as u8) & 0x7f]),
        _ if len < 126 => bytes.push(mask | len as u8),
        _ if len < 65_536 => {
            bytes.push(mask | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    // Masked with zeros, so that what arrives is the noise, of which no byte begins a command.
    bytes.extend([0; 4]);
    let cut = if rng.chance(1, 4) { rng.below(len + 1) } else { len };
    noise(cut, rng, bytes);
}

/// Bytes of 0x80 and above: neither JSON nor a kind of binary message.
fn noise(len: usize, rng: &mut Rng, bytes: &mut Vec<u8>) {
    bytes.extend((0..len).map(|_| 0x80 | rng.below(256) as u8));
}

/// A message of a client's, masked with zeros.
pub(super) fn text_frame(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("it is short");
    let [high, low] = len.to_be_bytes();
    let head = if len < 126 { vec![0x81, 0x80 | low] } else { vec![0x81, 0x80 | 126, high, low] };
    [&head[..], &[0; 4], text.as_bytes()].concat()
}
