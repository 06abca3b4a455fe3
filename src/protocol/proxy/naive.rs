//! What a header says, read a second time with the plainest means: from whole bytes alone, bit by bit where it is checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Proxied;

/// As [`read`](super::read): without the rule, and with no end before all is there.
pub(crate) fn read(bytes: &[u8]) -> Option<(usize, Proxied)> {
    let rest = bytes.strip_prefix(b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a")?;
    let [command @ (0x20 | 0x21), family, high, low, rest @ ..] = rest else { return None };
    let len = usize::from(*high) * 256 + usize::from(*low);
    if len > 1_024 || rest.len() < len {
        return None;
    }
    let rest = &rest[..len];
    let whole = 16 + len;
    if *command == 0x20 || *family == 0 {
        return Some((whole, Proxied { client: None, is_tls: false }));
    }
    let (client, tlvs) = match (family, rest) {
        (0x11, [a, b, c, d, _, _, _, _, _, _, _, _, tlvs @ ..]) => {
            (Some(IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d))), tlvs)
        }
        (0x21, rest) if len >= 36 => {
            let mut bits = 0;
            for byte in &rest[..16] {
                bits = bits * 256 + u128::from(*byte);
            }
            let client = match bits >> 32 {
                0xffff => IpAddr::V4(Ipv4Addr::from(bits as u32)),
                _ => IpAddr::V6(Ipv6Addr::from(bits)),
            };
            (Some(client), &rest[36..])
        }
        (0x31, rest) if len >= 216 => (None, &rest[216..]),
        _ => return None,
    };
    let mut values = Vec::new();
    let mut at = 0;
    while at < tlvs.len() {
        let [kind, high, low] = *tlvs.get(at..at + 3)? else { return None };
        let value_len = usize::from(high) * 256 + usize::from(low);
        values.push((kind, tlvs.get(at + 3..at + 3 + value_len)?, whole - tlvs.len() + at + 3));
        at += 3 + value_len;
    }
    let checksums: Vec<_> = values.iter().filter(|(kind, ..)| *kind == 3).collect();
    match checksums[..] {
        [] => {}
        [(_, said, at)] if said.len() == 4 => {
            let mut zeroed = bytes[..whole].to_vec();
            zeroed[*at..at + 4].fill(0);
            if crc32c_of(&zeroed).to_be_bytes() != *said {
                return None;
            }
        }
        _ => return None,
    }
    let mut is_tls = false;
    for (_, value, _) in values.iter().filter(|(kind, ..)| *kind == 0x20) {
        is_tls |= value.first()? % 2 == 1;
    }
    Some((whole, Proxied { client, is_tls }))
}

/// The checksum of a header whose last four bytes are to hold it.
#[cfg(test)]
pub(super) fn crc32c(header: &[u8]) -> u32 {
    let mut zeroed = header.to_vec();
    let at = zeroed.len() - 4;
    zeroed[at..].fill(0);
    crc32c_of(&zeroed)
}

/// Division by the polynomial, bit by bit.
pub(super) fn crc32c_of(bytes: &[u8]) -> u32 {
    let mut crc = 0xffff_ffff;
    for byte in bytes {
        for bit in 0..8 {
            let is_one = (crc ^ u32::from(byte >> bit)) & 1 == 1;
            crc >>= 1;
            if is_one {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    !crc
}
