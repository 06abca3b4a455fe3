//! What a request says of its client, by whom it comes.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use crate::protocol::{
    close::CloseReason,
    forwarded::{ADDRESSES_MAX, Via},
    ranges::AddressRanges,
    upgrade::{self, Answer, Scan, Terms, naive::Request},
};

/// Answers the request in `bytes` as it comes from a stranger, and from proxies that are trusted.
pub fn request_facts(bytes: &[u8]) {
    let Scan::Complete(len) = upgrade::scan(bytes, 0) else { return };
    let request = &bytes[..len];
    let trusted = AddressRanges::parse(["10.0.0.0/8", "fd00::/8"]).expect("both are networks");
    let terms = Terms { forwarded_for: Some(Arc::new(trusted)), ..Terms::default() };
    let of_stranger = upgrade::answer(request, &terms, Via::Stranger);
    assert_eq!(of_stranger, upgrade::answer(request, &Terms::default(), Via::Stranger));
    for (is_tls, names_clients) in [(false, false), (false, true), (true, false), (true, true)] {
        let via = Via::Proxy { is_tls, names_clients };
        check(request, via, upgrade::answer(request, &terms, via), &of_stranger);
    }
}

/// A trusted proxy's word changes whose a request is, and refuses pages without TLS; nothing else.
fn check(request: &[u8], via: Via, answer: Answer, of_stranger: &Answer) {
    let Via::Proxy { is_tls, names_clients } = via else { unreachable!("it comes by a proxy") };
    let Answer::Upgraded { client: None, .. } = of_stranger else {
        assert!(!matches!(of_stranger, Answer::Upgraded { .. }), "a stranger's word counts");
        return assert_eq!(answer, *of_stranger);
    };
    let facts = Facts::read(&Request::read(request).expect("it was understood"));
    let is_refused = facts.is_page_without_tls && (is_tls || facts.is_https);
    let client = match answer {
        Answer::Answered { reason, .. } => {
            assert!(reason == CloseReason::OriginRefused && is_refused, "{}", request.escape_ascii());
            return;
        }
        Answer::Upgraded { client, .. } => client,
    };
    assert!(!is_refused, "{}", request.escape_ascii());
    assert_eq!(client, facts.client.filter(|_| names_clients), "{}", request.escape_ascii());
}

/// The same, said with the plainest means.
struct Facts {
    client: Option<IpAddr>,
    is_https: bool,
    is_page_without_tls: bool,
}

impl Facts {
    fn read(request: &Request<'_>) -> Facts {
        let items = |name| {
            let values = request.values(name).join(&b","[..]);
            let items = values.split(|byte| *byte == b',').map(|item| item.trim_ascii().to_vec());
            items.filter(|item| !item.is_empty()).collect::<Vec<_>>()
        };
        let mut client = None;
        for item in items("x-forwarded-for").iter().rev().take(ADDRESSES_MAX) {
            let Some(address) = address(&String::from_utf8_lossy(item)) else { break };
            client = Some(address);
            let is_trusted = match address {
                IpAddr::V4(address) => address.octets()[0] == 10,
                IpAddr::V6(address) => address.octets()[0] == 0xfd,
            };
            if !is_trusted {
                break;
            }
        }
        let is_https = items("x-forwarded-proto").last().is_some_and(|it| it.eq_ignore_ascii_case(b"https"));
        let origins = request.values("origin");
        let is_page_without_tls =
            origins.first().is_some_and(|origin| origin.to_ascii_lowercase().starts_with(b"http://"));
        Facts { client, is_https, is_page_without_tls }
    }
}

/// `1.2.3.4`, `1.2.3.4:5`, `1::2`, `[1::2]` or `[1::2]:5`.
fn address(text: &str) -> Option<IpAddr> {
    let is_port = |port: &str| {
        let digits = port.trim_start_matches('0');
        !port.is_empty()
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && digits.len() <= 5
            && digits.parse::<u32>().unwrap_or(0) <= 65_535
    };
    let colons = text.matches(':').count();
    let address = if text.starts_with('[') {
        let end = text.find(']')?;
        let behind = &text[end + 1..];
        let is_good = behind.is_empty() || (behind.starts_with(':') && is_port(&behind[1..]));
        IpAddr::V6(text[1..end].parse::<Ipv6Addr>().ok().filter(|_| is_good)?)
    } else if colons == 1 {
        let (host, port) = text.split_once(':')?;
        IpAddr::V4(host.parse().ok().filter(|_| is_port(port))?)
    } else {
        text.parse().ok()?
    };
    Some(match address {
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(address.into(), IpAddr::V4),
        address => address,
    })
}
