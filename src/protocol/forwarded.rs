//! What a trusted proxy says of whom it passes a request on for: `X-Forwarded-For` and `X-Forwarded-Proto`, which everybody writes
//! and nobody has put into a standard.

use std::net::{IpAddr, Ipv6Addr, SocketAddrV4};

use super::ranges::AddressRanges;

/// How a request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// From a peer whose word about others counts for nothing: whatever it says of them is not looked at.
    #[default]
    Stranger,
    /// From a proxy that is trusted.
    Proxy {
        /// It said before the request that its client came over TLS.
        is_tls: bool,
        /// Its `X-Forwarded-For` counts, and not its `X-Forwarded-Proto` alone.
        names_clients: bool,
    },
}

/// So many addresses are looked at; a chain of proxies is shorter.
pub const ADDRESSES_MAX: usize = 32;

/// The client of a trusted proxy, by what its `X-Forwarded-For` lists together: each proxy writes behind what it was told itself the
/// address that this came from, so that it is walked from its end past proxies that are trusted, and the first that is not is
/// the client. Where that cannot be read, or nothing is left, or [`ADDRESSES_MAX`] are passed by, it is the last that could be:
/// a proxy. `None` if none could.
///
/// What stands before the client in the list says itself, and is not looked at.
pub fn client<'a>(
    items: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &AddressRanges,
) -> Option<IpAddr> {
    let mut passed_by = None;
    for item in items.rev().take(ADDRESSES_MAX) {
        let Some(address) = address(item) else { break };
        if !trusted.contains(address) {
            return Some(address);
        }
        passed_by = Some(address);
    }
    passed_by
}

/// Whether the last of what `X-Forwarded-Proto` lists together, which is what the trusted proxy wrote, is `https`.
pub fn is_https<'a>(items: impl DoubleEndedIterator<Item = &'a [u8]>) -> bool {
    items.last().is_some_and(|item| item.eq_ignore_ascii_case(b"https"))
}

/// An address, as some proxies with the port behind it, and an IPv6 one in brackets.
fn address(item: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(item).ok()?;
    let address: IpAddr = match text.strip_prefix('[') {
        Some(text) => {
            let (address, behind) = text.split_once(']')?;
            let port = behind.strip_prefix(':');
            let is_port =
                |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
            if !port.map_or(behind.is_empty(), is_port) {
                return None;
            }
            address.parse::<Ipv6Addr>().ok()?.into()
        }
        None => {
            let with_port = || text.parse::<SocketAddrV4>().ok().map(|address| (*address.ip()).into());
            text.parse().ok().or_else(with_port)?
        }
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(items: &[&str]) -> Option<String> {
        let trusted = AddressRanges::parse(["10.0.0.0/8", "2001:db8::/32"]).unwrap();
        client(items.iter().map(|item| item.as_bytes()), &trusted).map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_the_last_one_that_is_not_trusted() {
        for (items, expected) in [
            (&["203.0.113.7"][..], Some("203.0.113.7")),
            (&["203.0.113.7", "10.0.0.2", "10.0.0.1"], Some("203.0.113.7")),
            (&["198.51.100.1", "203.0.113.7", "10.0.0.2"], Some("203.0.113.7")),
            (&["10.0.0.3", "203.0.113.7"], Some("203.0.113.7")),
            (&["203.0.113.7:4711", "[2001:db8::1]:80"], Some("203.0.113.7")),
            (&["2001:db9::1"], Some("2001:db9::1")),
            (&["[2001:db9::1]"], Some("2001:db9::1")),
            (&["::ffff:203.0.113.7"], Some("203.0.113.7")),
            (&["::ffff:10.0.0.1"], Some("10.0.0.1")),
            (&["10.0.0.3", "10.0.0.2"], Some("10.0.0.3")),
            (&["203.0.113.7", "unknown", "10.0.0.2"], Some("10.0.0.2")),
            (&["203.0.113.7", "unknown"], None),
            (&[], None),
        ] {
            assert_eq!(client_of(items).as_deref(), expected, "{items:?}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        for garbage in [
            "",
            "_hidden",
            "10.0.0",
            "10.0.0.1:",
            "10.0.0.1:x",
            "10.0.0.1:99999",
            "[10.0.0.1]",
            "[fe80::1%1]:80",
            "[fd00::1]80",
            "[fd00::1]:+80",
            "[fd00::1]:",
            "fe80::1%1",
            "2001:db8::1]",
            "10.0.0.01",
            "\u{e9}",
            "10.0.0.1 10.0.0.2",
            "for=10.0.0.1",
        ] {
            assert_eq!(client_of(&["203.0.113.7", garbage]), None, "{garbage}");
            assert_eq!(
                client_of(&["203.0.113.7", garbage, "10.0.0.9"]).as_deref(),
                Some("10.0.0.9"),
                "{garbage}"
            );
        }
        let trusted = AddressRanges::default();
        assert_eq!(client([&b"\xff"[..]].into_iter(), &trusted), None);
    }

    #[test]
    fn a_chain_of_trusted_proxies_is_not_followed_for_ever() {
        let proxies: Vec<String> = (0..100).map(|host| format!("10.0.0.{host}")).collect();
        let mut items: Vec<&str> = proxies.iter().map(String::as_str).collect();
        items[99 - ADDRESSES_MAX] = "203.0.113.7";
        assert_eq!(client_of(&items).as_deref(), Some(&*format!("10.0.0.{}", 100 - ADDRESSES_MAX)));
        items[100 - ADDRESSES_MAX] = "203.0.113.7";
        assert_eq!(client_of(&items).as_deref(), Some("203.0.113.7"));
    }

    #[test]
    fn tls_is_what_the_last_proxy_says() {
        let is_https = |items: &[&str]| is_https(items.iter().map(|item| item.as_bytes()));
        assert!(is_https(&["https"]) && is_https(&["HTTPS"]) && is_https(&["http", "https"]));
        assert!(
            !is_https(&[]) && !is_https(&["http"]) && !is_https(&["https", "http"]) && !is_https(&["https "])
        );
    }
}
