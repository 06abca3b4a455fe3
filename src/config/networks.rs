//! Lists of addresses and networks.

use std::sync::Arc;

use crate::protocol::ranges::AddressRanges;

/// A list may have so many entries.
pub const NETWORKS_MAX: usize = 65_536;
/// What stands for the peers of a Unix socket, where those may be listed.
pub const UNIX: &str = "unix";

/// Addresses, as they are listed and as they are looked for. Copies share both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    listed: Arc<[String]>,
    ranges: Arc<AddressRanges>,
    has_unix: bool,
}

impl Networks {
    /// Those of all `texts`, `unix` among them if `takes_unix`; none if one is no address and no network, or they are too many.
    pub(super) fn parse(texts: Vec<String>, takes_unix: bool) -> Option<Networks> {
        let is_unix = |text: &&str| *text == UNIX;
        let has_unix = texts.iter().any(|text| text == UNIX);
        if texts.len() > NETWORKS_MAX || (has_unix && !takes_unix) {
            return None;
        }
        let networks = texts.iter().map(String::as_str).filter(|text| !is_unix(text));
        let ranges = AddressRanges::parse(networks)?;
        Some(Networks { ranges: Arc::new(ranges), has_unix, listed: texts.into() })
    }

    /// As they are listed.
    pub(super) fn listed(&self) -> &[String] {
        &self.listed
    }

    /// The addresses.
    pub fn ranges(&self) -> &Arc<AddressRanges> {
        &self.ranges
    }

    /// Whether the peers of a Unix socket are listed.
    pub fn has_unix(&self) -> bool {
        self.has_unix
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_its_bound_and_unix_where_that_is_a_peer() {
        let parse = |texts: &[&str], takes_unix| {
            Networks::parse(texts.iter().map(|text| (*text).to_owned()).collect(), takes_unix)
        };
        let both = parse(&["10.0.0.0/8", "unix"], true).unwrap();
        assert!(both.has_unix() && both.ranges().contains("10.1.2.3".parse().unwrap()) && !both.is_empty());
        assert_eq!((parse(&["unix"], false), parse(&["Unix"], true)), (None, None));
        assert!(parse(&["unix"], true).is_some_and(|it| it.ranges().is_empty() && !it.is_empty()));
        let many = |count: usize| Networks::parse(vec!["10.0.0.1".into(); count], false);
        assert!(many(NETWORKS_MAX).is_some() && many(NETWORKS_MAX + 1).is_none());
    }
}
