//! Sets of IP addresses, as an operator lists them: who may connect, who may not, and whose word about others counts.
//!
//! An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) is the IPv4 address, and no part of any IPv6 network.

use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses: the ranges of each family, which neither overlap nor touch, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRanges {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

/// The first and the last address of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    V4(u32, u32),
    V6(u128, u128),
}

impl AddressRanges {
    /// Those of all `texts`: addresses, and networks in CIDR notation (RFC 4632 section 3.1) without a bit behind their prefix.
    /// `None` if one is neither.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<AddressRanges> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for text in texts {
            match Range::parse(text)? {
                Range::V4(first, last) => v4.push((first, last)),
                Range::V6(first, last) => v6.push((first, last)),
            }
        }
        let v4 = merged(v4, |last| last.checked_add(1));
        Some(AddressRanges { v4, v6: merged(v6, |last| last.checked_add(1)) })
    }

    /// Whether `text` is an address or a network.
    pub fn is_network(text: &str) -> bool {
        Range::parse(text).is_some()
    }

    /// Whether there are no addresses in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => is_within(&self.v4, address.to_bits()),
            IpAddr::V6(address) => is_within(&self.v6, address.to_bits()),
        }
    }
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().ok()?,
        };
        if network.addr() != network.network() {
            return None;
        }
        Some(match network {
            IpNet::V4(network) => Range::V4(network.network().to_bits(), network.broadcast().to_bits()),
            IpNet::V6(network) => match (network.addr().to_ipv4_mapped(), network.prefix_len()) {
                (Some(first), 96..) => {
                    let host_bits = 128 - u32::from(network.prefix_len());
                    let last = first.to_bits() | u32::MAX.checked_shr(32 - host_bits).unwrap_or(0);
                    Range::V4(first.to_bits(), last)
                }
                _ => Range::V6(network.network().to_bits(), network.broadcast().to_bits()),
            },
        })
    }
}

/// Ranges in their order, of which none begins within or right behind another. `next` is the number behind one.
fn merged<T: Copy + Ord>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if next(before.1).is_none_or(|next| first <= next) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

fn is_within<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    behind > 0 && address <= ranges[behind - 1].1
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    fn ranges(texts: &[&str]) -> AddressRanges {
        AddressRanges::parse(texts.iter().copied()).unwrap_or_else(|| panic!("{texts:?} are networks"))
    }

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        let it = ranges(&["192.0.2.0/25", "10.0.0.1", "2001:db8::/32", "::1", "203.0.113.7/32"]);
        for address in [
            "192.0.2.0",
            "192.0.2.127",
            "10.0.0.1",
            "203.0.113.7",
            "2001:db8:ffff::1",
            "::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(it.contains(address.parse().unwrap()), "{address}");
        }
        for address in [
            "192.0.1.255",
            "192.0.2.128",
            "10.0.0.2",
            "2001:db9::",
            "::2",
            "0.0.0.1",
            "::ffff:10.0.0.2",
            "::a00:1",
        ] {
            assert!(!it.contains(address.parse().unwrap()), "{address}");
        }
        assert!(!it.is_empty() && ranges(&[]).is_empty() && !ranges(&[]).contains("::1".parse().unwrap()));
    }

    #[test]
    fn an_ipv4_address_written_as_an_ipv6_one_is_the_ipv4_one() {
        let all = ranges(&["::/0"]);
        assert!(all.contains("::1".parse().unwrap()) && !all.contains("::ffff:192.0.2.1".parse().unwrap()));
        for text in ["::ffff:10.0.0.0/104", "10.0.0.0/8"] {
            let it = ranges(&[text]);
            assert!(it.contains("10.255.255.255".parse().unwrap()), "{text}");
            assert!(it.contains("::ffff:10.0.0.0".parse().unwrap()), "{text}");
            assert!(!it.contains("11.0.0.0".parse().unwrap()), "{text}");
        }
        assert!(ranges(&["::ffff:0:0/96"]).contains(Ipv4Addr::BROADCAST.into()));
        assert!(ranges(&["0.0.0.0/0"]).contains("::ffff:9.9.9.9".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_none() {
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "10.0.0.0/08 ",
            " 10.0.0.1",
            "10.0.0",
            "010.0.0.1",
            "10.0.0.0/255.0.0.0",
            "2001:db8::1/32",
            "::/129",
            "[::1]",
            "fe80::1%eth0",
            "example.org",
            "unix",
            "*",
            "10.0.0.1:80",
            "10.0.0.0-10.0.0.9",
        ] {
            assert!(!AddressRanges::is_network(text), "{text}");
            assert_eq!(AddressRanges::parse(["10.0.0.1", text]), None, "{text}");
        }
    }

    /// A network of each family, near others so that they meet, and by its first address and length.
    fn network() -> impl Strategy<Value = (IpAddr, u8)> {
        let v4 = (0u32..1 << 12, 18u8..=32).prop_map(|(bits, len)| {
            let host_bits = 32 - len;
            let first = (0xc0a8_0000 | bits << 4) >> host_bits << host_bits;
            (IpAddr::V4(Ipv4Addr::from_bits(first)), len)
        });
        let v6 = (0u128..1 << 12, 114u8..=128).prop_map(|(bits, len)| {
            let first = (0x2001_0db8 << 96 | bits << 4) >> (128 - len) << (128 - len);
            (IpAddr::V6(Ipv6Addr::from_bits(first)), len)
        });
        prop_oneof![v4, v6]
    }

    /// The naive twin: each network is asked whether its prefix is the address's.
    fn naive(networks: &[(IpAddr, u8)], address: IpAddr) -> bool {
        networks.iter().any(|(first, len)| match (first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                (0..u32::from(*len)).all(|bit| (first.to_bits() ^ address.to_bits()) << bit >> 31 == 0)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                (0..u32::from(*len)).all(|bit| (first.to_bits() ^ address.to_bits()) << bit >> 127 == 0)
            }
            _ => false,
        })
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() })]

        #[test]
        fn what_is_in_some_network_is_in_the_ranges(
            networks in prop::collection::vec(network(), 0..24),
            asked in prop::collection::vec((0usize..24, any::<u8>(), -2i64..3), 1..64),
        ) {
            let texts: Vec<String> = networks.iter().map(|(first, len)| format!("{first}/{len}")).collect();
            let ranges = ranges(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert!(ranges.v4.windows(2).all(|two| two[0].1 + 1 < two[1].0));
            prop_assert!(ranges.v6.windows(2).all(|two| two[0].1 + 1 < two[1].0));
            for (index, within, beside) in asked {
                // Near the beginning and the end of one, or somewhere within.
                let Some((first, len)) = networks.get(index % networks.len().max(1)) else { continue };
                let address: IpAddr = match first {
                    IpAddr::V4(first) => {
                        let at = u32::from(within) & (1u32 << (32 - len)).wrapping_sub(1);
                        Ipv4Addr::from_bits(first.to_bits().wrapping_add(at).wrapping_add_signed(beside as i32)).into()
                    }
                    IpAddr::V6(first) => {
                        let at = u128::from(within) & (1u128.checked_shl(128 - u32::from(*len)).unwrap_or(0)).wrapping_sub(1);
                        let bits = first.to_bits().wrapping_add(at).wrapping_add_signed(i128::from(beside));
                        Ipv6Addr::from_bits(bits).into()
                    }
                };
                prop_assert_eq!(ranges.contains(address), naive(&networks, address), "{} in {:?}", address, networks);
            }
        }
    }
}
