//! The header that a proxy sends before anything else, to say whose connection it passes on: version 2 of the PROXY protocol
//! (HAProxy's `proxy-protocol.txt`, section 2.2).
//!
//! Whoever may send it must (section 4): it is never guessed from what comes whether there is one. Version 1, which is text, is
//! not read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

/// What every header begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to the length of what follows, that included.
const HEAD_BYTES: usize = 16;
/// How much may follow: addresses take 216 bytes at most, and the rest is what proxies add of certificates and names.
const REST_BYTES_MAX: usize = 1_024;
/// The longest header, in bytes.
pub const HEADER_BYTES_MAX: usize = HEAD_BYTES + REST_BYTES_MAX;

const TYPE_CRC32C: u8 = 0x03;
const TYPE_SSL: u8 = 0x20;
/// The client came over TLS: a bit of the first byte of [`TYPE_SSL`].
const CLIENT_SSL: u8 = 0x01;

/// What a header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proxied {
    /// Who connected to the proxy; none if it speaks for itself (`LOCAL`), or does not know.
    pub client: Option<IpAddr>,
    /// The client came to it over TLS, as far as it says so.
    pub is_tls: bool,
}

/// A rule that a header broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenHeader {
    /// It does not begin as one does.
    Signature,
    /// Another version than 2.
    Version,
    /// Neither `LOCAL` nor `PROXY`.
    Command,
    /// A family and transport that there is not, or no stream.
    Family,
    /// More than 1,024 bytes follow its head.
    Length,
    /// It ends within its addresses.
    Addresses,
    /// It ends within one of its TLVs, or one has another length than its type.
    Tlv,
    /// Its CRC32C is another one than it says, or it says two.
    Checksum,
}

impl BrokenHeader {
    /// The rule in a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            BrokenHeader::Signature => {
                "it comes from an address in proxy.trusted, and must begin with a header of the PROXY protocol, version 2"
            }
            BrokenHeader::Version => "the version of a PROXY header must be 2",
            BrokenHeader::Command => "the command of a PROXY header must be LOCAL or PROXY",
            BrokenHeader::Family => {
                "the family of a PROXY header must be that of TCP or a Unix socket, or UNSPEC"
            }
            BrokenHeader::Length => {
                "what follows the head of a PROXY header must not be longer than 1024 bytes"
            }
            BrokenHeader::Addresses => "a PROXY header must be as long as the addresses of its family",
            BrokenHeader::Tlv => "the TLVs of a PROXY header must be whole",
            BrokenHeader::Checksum => "the CRC32C of a PROXY header must be its own",
        }
    }
}

/// Reads a header at the beginning of `bytes`: how long it is, and what it says. `None` while it is not whole and nothing is wrong.
///
/// # Errors
/// The rule that it breaks, as soon as that can be told.
pub fn read(bytes: &[u8]) -> Result<Option<(usize, Proxied)>, BrokenHeader> {
    let begun = bytes.len().min(SIGNATURE.len());
    if bytes[..begun] != SIGNATURE[..begun] {
        return Err(BrokenHeader::Signature);
    }
    let Some(&[command, family, high, low]) = bytes.get(SIGNATURE.len()..HEAD_BYTES) else {
        return Ok(None);
    };
    if command >> 4 != 2 {
        return Err(BrokenHeader::Version);
    }
    let is_local = match command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(BrokenHeader::Command),
    };
    let rest_len = usize::from(u16::from_be_bytes([high, low]));
    if rest_len > REST_BYTES_MAX {
        return Err(BrokenHeader::Length);
    }
    let len = HEAD_BYTES + rest_len;
    // What a proxy says of itself is passed over, its family included.
    let addresses_len = match family {
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Err(BrokenHeader::Family),
    };
    if rest_len < addresses_len {
        return Err(BrokenHeader::Addresses);
    }
    let Some(header) = bytes.get(..len) else { return Ok(None) };
    if addresses_len == 0 {
        return Ok(Some((len, Proxied::default())));
    }
    let (addresses, tlvs) = header[HEAD_BYTES..].split_at(addresses_len);
    let client = match family {
        0x11 => Some(Ipv4Addr::from(*addresses.first_chunk::<4>().expect("they are 12 bytes")).into()),
        0x21 => Some(
            IpAddr::from(Ipv6Addr::from(*addresses.first_chunk().expect("they are 36 bytes"))).to_canonical(),
        ),
        // Whoever came to the proxy over a Unix socket has no address.
        _ => None,
    };
    let is_tls = check_tlvs(header, tlvs)?;
    Ok(Some((len, Proxied { client, is_tls })))
}

/// Checks the TLVs at the end of `header`; tells whether they say that the client came over TLS.
fn check_tlvs(header: &[u8], tlvs: &[u8]) -> Result<bool, BrokenHeader> {
    let (mut is_tls, mut has_checksum) = (false, false);
    let mut left = tlvs;
    while !left.is_empty() {
        let &[kind, high, low, ref rest @ ..] = left else { return Err(BrokenHeader::Tlv) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest.split_at_checked(len).ok_or(BrokenHeader::Tlv)?;
        match kind {
            TYPE_CRC32C => {
                let said = u32::from_be_bytes(value.try_into().map_err(|_| BrokenHeader::Tlv)?);
                let at = header.len() - rest.len() - value.len();
                let parts = [&header[..at], &[0; 4], &header[at + 4..]];
                if std::mem::replace(&mut has_checksum, true) || crc32c(parts) != said {
                    return Err(BrokenHeader::Checksum);
                }
            }
            TYPE_SSL => is_tls |= value.first().ok_or(BrokenHeader::Tlv)? & CLIENT_SSL != 0,
            _ => {}
        }
        left = rest;
    }
    Ok(is_tls)
}

/// The checksum of RFC 4960 appendix B, over what the parts are together.
fn crc32c<const COUNT: usize>(parts: [&[u8]; COUNT]) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(u32::MAX, |crc, byte| crc >> 8 ^ CRC32C[usize::from(crc as u8 ^ byte)])
}

/// What each byte does to a checksum.
static CRC32C: [u32; 256] = {
    /// Castagnoli's polynomial, its lowest power first.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ POLYNOMIAL };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with these TLVs behind what stands between its head and them.
    fn header(command: u8, family: u8, addresses: &[u8], tlvs: &[u8]) -> Vec<u8> {
        let len = (addresses.len() + tlvs.len()) as u16;
        [&SIGNATURE[..], &[0x20 | command, family], &len.to_be_bytes(), addresses, tlvs].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    fn v4() -> Vec<u8> {
        header(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb], &[])
    }

    fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
        header(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb], tlvs)
    }

    /// With the right CRC32C, by the twin, behind some other TLV.
    fn with_checksum() -> Vec<u8> {
        let mut bytes = with_tlvs(&[tlv(0x04, b"noise"), tlv(TYPE_CRC32C, &[0; 4])].concat());
        let crc = naive::crc32c(&bytes);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn client(text: &str) -> Proxied {
        Proxied { client: Some(text.parse().unwrap()), is_tls: false }
    }

    #[test]
    fn a_header_says_who_the_client_is() {
        let v6: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let mapped: Ipv6Addr = "::ffff:203.0.113.7".parse().unwrap();
        let rest = [0; 20];
        let tls = |flags: u8| with_tlvs(&tlv(TYPE_SSL, &[flags, 0, 0, 0, 0]));
        for (bytes, said) in [
            (v4(), client("203.0.113.7")),
            (header(1, 0x21, &[&v6.octets()[..], &rest].concat(), &[]), client("2001:db8::7")),
            (header(1, 0x21, &[&mapped.octets()[..], &rest].concat(), &[]), client("203.0.113.7")),
            (header(1, 0x31, &[b'/'; 216], &[]), Proxied::default()),
            (header(1, 0, &[], &[]), Proxied::default()),
            (header(1, 0, b"whatever", &[]), Proxied::default()),
            (header(0, 0, &[], &[]), Proxied::default()),
            (header(0, 0x99, b"whatever", &[]), Proxied::default()),
            (with_checksum(), client("203.0.113.7")),
            (with_tlvs(&[tlv(0x02, b"app.example.org"), tlv(0xe0, &[])].concat()), client("203.0.113.7")),
            (tls(1), Proxied { is_tls: true, ..client("203.0.113.7") }),
            (tls(6), client("203.0.113.7")),
        ] {
            for behind in [&b""[..], b"GET / HTTP/1.1\r\n"] {
                let sent = [&bytes[..], behind].concat();
                assert_eq!(read(&sent), Ok(Some((bytes.len(), said))), "{}", sent.escape_ascii());
                assert_eq!(naive::read(&sent), Some((bytes.len(), said)));
            }
            for len in 0..bytes.len() {
                assert_eq!(read(&bytes[..len]), Ok(None), "{len} bytes of {}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn a_broken_header_is_refused_as_soon_as_it_shows() {
        let change = |at: usize, byte: u8| {
            let mut bytes = v4();
            bytes[at] = byte;
            bytes
        };
        let long = |len: u16| [&SIGNATURE[..], &[0x21, 0x11], &len.to_be_bytes()].concat();
        let mut wrong_crc = with_checksum();
        *wrong_crc.last_mut().unwrap() ^= 1;
        let mut changed = with_checksum();
        changed[HEAD_BYTES] ^= 1;
        let twice = with_tlvs(&[tlv(TYPE_CRC32C, &[0; 4]), tlv(TYPE_CRC32C, &[0; 4])].concat());
        for (bytes, rule) in [
            (b"G".to_vec(), BrokenHeader::Signature),
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 443\r\n".to_vec(), BrokenHeader::Signature),
            (b"\r\n\r\nG".to_vec(), BrokenHeader::Signature),
            (change(12, 0x11), BrokenHeader::Version),
            (change(12, 0x31), BrokenHeader::Version),
            (change(12, 0x22), BrokenHeader::Command),
            (change(13, 0x12), BrokenHeader::Family),
            (change(13, 0x10), BrokenHeader::Family),
            (change(13, 0x41), BrokenHeader::Family),
            (change(13, 0x01), BrokenHeader::Family),
            (long(1_025), BrokenHeader::Length),
            (long(u16::MAX), BrokenHeader::Length),
            (long(11), BrokenHeader::Addresses),
            (change(13, 0x21), BrokenHeader::Addresses),
            (with_tlvs(&[4]), BrokenHeader::Tlv),
            (with_tlvs(&[4, 0]), BrokenHeader::Tlv),
            (with_tlvs(&[4, 0, 1]), BrokenHeader::Tlv),
            (with_tlvs(&[4, 0xff, 0xff, 0]), BrokenHeader::Tlv),
            (with_tlvs(&tlv(TYPE_SSL, &[])), BrokenHeader::Tlv),
            (with_tlvs(&tlv(TYPE_CRC32C, &[0; 3])), BrokenHeader::Tlv),
            (with_tlvs(&tlv(TYPE_CRC32C, &[0; 5])), BrokenHeader::Tlv),
            (wrong_crc, BrokenHeader::Checksum),
            (changed, BrokenHeader::Checksum),
            (twice, BrokenHeader::Checksum),
        ] {
            assert_eq!(read(&bytes), Err(rule), "{}", bytes.escape_ascii());
        }
        assert_eq!(read(&long(1_024)), Ok(None));
    }

    /// The example that RFC 3720 appendix B.4 has.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c([&[0; 16], &[0; 16]]), 0x8a91_36aa);
        assert_eq!(crc32c([b"1234", b"56789"]), 0xe306_9283);
        assert_eq!(naive::crc32c_of(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_rules_of_a_header_can_be_told() {
        let tested = [BrokenHeader::Signature, BrokenHeader::Tlv];
        assert!(tested.iter().all(|rule| rule.sentence().is_ascii() && rule.sentence().len() < 200));
    }
}
