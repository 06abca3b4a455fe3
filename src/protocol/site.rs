//! By which names the broker may be reached, and from which pages.
//!
//! A browser lets every page open a WebSocket to anywhere, with the cookies of whoever it opens it to: who must not be
//! reached from foreign pages has to look at `Origin` (RFC 6455 section 10.2). That this is the host which the request names
//! says nothing where a page's own name can be made to point here (DNS rebinding), as it can at a broker that only this
//! machine reaches: there the `Host` has to be one of this machine's own.

use std::net::Ipv4Addr;

/// What a request's `Host` and `Origin` may be.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// By which names it is reached.
    pub hosts: Hosts,
    /// Pages of which others may open connections, beside its own.
    pub origins: Vec<OriginPattern>,
    /// Browsers reach it on this machine alone: pages of this machine may open connections.
    pub is_loopback: bool,
}

/// The names that a request's `Host` may have, at whichever port.
#[derive(Clone, Debug, Default)]
pub enum Hosts {
    /// Every one.
    #[default]
    Any,
    /// Those of this machine to itself: `localhost` and what is below it, 127.0.0.0/8 and `[::1]`.
    Local,
    /// These.
    Listed(Vec<HostPattern>),
}

/// One name or address, or `*.` and a name: all that have one label more than that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// In lower case; of a wildcard what follows its first label, with the dot before it.
    text: Box<str>,
    is_wildcard: bool,
}

/// Which origins (RFC 6454 section 6.2) may open connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// All.
    Any,
    /// `null`: pages that have none, as those from files and in sandboxes.
    Null,
    /// Those of a scheme, a host and a port.
    Of {
        /// In lower case.
        scheme: Box<str>,
        /// Which hosts.
        host: HostPattern,
        /// The scheme's own where none is written.
        port: Option<u16>,
    },
}

/// An origin that is not `null`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl Site {
    /// Reached by every name, and open to no pages but its own.
    pub const OPEN: Site = Site { hosts: Hosts::Any, origins: Vec::new(), is_loopback: false };

    /// Whether a request may have this `Host`.
    pub fn admits_host(&self, host: &[u8]) -> bool {
        self.hosts.admit(host)
    }

    /// Whether a request with this `Host` may have this `Origin`: none, as of what is no browser; its own, which is one of `https`
    /// where it is known that the client came over TLS (`is_tls`); or one that may.
    pub fn admits_origin(&self, origin: Option<&[u8]>, host: &[u8], is_tls: bool) -> bool {
        let Some(origin) = origin else { return true };
        let is_listed = |pattern| self.origins.contains(&pattern);
        is_listed(OriginPattern::Any)
            || (origin == b"null" && is_listed(OriginPattern::Null))
            || self.knows_origin(origin, host, is_tls)
    }

    /// Whether it is known whose page that is: it has the `Host`'s own origin, or one that may by its name. Of a page that says
    /// `null`, as a frame in a sandbox does on any page, or that may as all may, it is not.
    pub fn knows_origin(&self, origin: &[u8], host: &[u8], is_tls: bool) -> bool {
        let Some(origin) = str::from_utf8(origin).ok().and_then(Origin::parse) else { return false };
        let host = str::from_utf8(host).ok();
        host.is_some_and(|host| origin.is_of(host, is_tls))
            || (self.is_loopback && origin.is_http() && is_local(origin.host))
            || self.origins.iter().any(|pattern| pattern.matches(&origin))
    }
}

impl Hosts {
    /// Those of a list of patterns; where that is empty, what goes for a listener that only this machine reaches, or for others.
    ///
    /// # Panics
    /// If one is no [`HostPattern`].
    pub fn of(listed: &[String], is_loopback: bool) -> Hosts {
        let pattern = |text: &String| HostPattern::parse(text).expect("what is listed was checked");
        match listed {
            [] if is_loopback => Hosts::Local,
            [] => Hosts::Any,
            listed => Hosts::Listed(listed.iter().map(pattern).collect()),
        }
    }

    /// Whether a request may have this `Host`.
    pub fn admit(&self, host: &[u8]) -> bool {
        let name = || str::from_utf8(host).ok().and_then(split_port).map(|(name, _)| name);
        match self {
            Hosts::Any => true,
            Hosts::Local => name().is_some_and(is_local),
            Hosts::Listed(patterns) => {
                name().is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)))
            }
        }
    }
}

impl HostPattern {
    /// Reads `name`, `*.name`, or an address: an IPv6 one in brackets; without a port.
    pub fn parse(text: &str) -> Option<HostPattern> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_wildcard = name.len() < text.len();
        let is_address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
        let (host, port) = split_port(name)?;
        if port.is_some() || host.len() < name.len() || host.contains('*') || (is_wildcard && is_address) {
            return None;
        }
        let text = if is_wildcard { &text[1..] } else { text };
        Some(HostPattern { text: text.to_ascii_lowercase().into(), is_wildcard })
    }

    fn matches(&self, host: &str) -> bool {
        let compared = match self.is_wildcard {
            true => host.find('.').filter(|at| *at > 0).map(|at| &host[at..]),
            false => Some(host),
        };
        compared.is_some_and(|host| host.eq_ignore_ascii_case(&self.text))
    }
}

impl OriginPattern {
    /// Reads `*`, `null`, or scheme, host and port as a browser writes them, where the host may begin with `*.`.
    pub fn parse(text: &str) -> Option<OriginPattern> {
        match text {
            "*" => return Some(OriginPattern::Any),
            "null" => return Some(OriginPattern::Null),
            _ => {}
        }
        let Origin { scheme, host, port } = Origin::parse(text)?;
        let scheme = scheme.to_ascii_lowercase().into();
        Some(OriginPattern::Of { scheme, host: HostPattern::parse(host)?, port })
    }

    /// Whether it lists that one by its name.
    fn matches(&self, origin: &Origin<'_>) -> bool {
        match self {
            OriginPattern::Any | OriginPattern::Null => false,
            OriginPattern::Of { scheme, host, port } => {
                origin.scheme.eq_ignore_ascii_case(scheme)
                    && origin.port == *port
                    && host.matches(origin.host)
            }
        }
    }
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Origin<'a>> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = split_port(authority).filter(|_| is_scheme)?;
        Some(Origin { scheme, host, port: port.or(default_port(scheme)) })
    }

    fn is_http(&self) -> bool {
        default_port(self.scheme).is_some()
    }

    /// Whether it is that of what the `Host` names. Behind a proxy that ends TLS a page's origin is `https`, whatever comes here; and
    /// where that proxy says so nothing else is, or whoever can change what comes over the network could write a page of `http`.
    fn is_of(&self, host: &str, is_tls: bool) -> bool {
        self.is_http()
            && (!is_tls || self.scheme.eq_ignore_ascii_case("https"))
            && split_port(host).is_some_and(|(name, port)| {
                name.eq_ignore_ascii_case(self.host) && port.or(default_port(self.scheme)) == self.port
            })
    }
}

/// Whether the host is one by which a machine calls itself.
fn is_local(host: &str) -> bool {
    const LOCALHOST: &[u8] = b"localhost";
    let bytes = host.as_bytes();
    let (before, last) = bytes.split_at(bytes.len().saturating_sub(LOCALHOST.len()));
    let is_name = last.eq_ignore_ascii_case(LOCALHOST) && (before.is_empty() || before.ends_with(b"."));
    is_name || host == "[::1]" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn default_port(scheme: &str) -> Option<u16> {
    let schemes = [("http", 80), ("https", 443)];
    schemes.into_iter().find(|(known, _)| scheme.eq_ignore_ascii_case(known)).map(|(_, port)| port)
}

/// A host, an IPv6 address in its brackets, and the port behind it if there is one (RFC 3986 section 3.2). No name has
/// anything but letters, digits, `-`, `.`, `_` and the `*` of a pattern: what a browser would write otherwise it does not send.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let name_len = match text.starts_with('[') {
        true => text.find(']')? + 1,
        false => text.find(':').unwrap_or(text.len()),
    };
    let (name, rest) = text.split_at(name_len);
    let is_name = match name.strip_prefix('[') {
        Some(address) => address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.]".contains(&byte)),
        None => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte))
        }
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    is_name.then_some((name, port))
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        sample::select,
        test_runner::{Config, RngSeed},
    };
    use url::Url;

    use super::*;

    fn site(hosts: &[&str], origins: &[&str], is_loopback: bool) -> Site {
        let host = |text: &&str| HostPattern::parse(text).unwrap_or_else(|| panic!("{text} is a pattern"));
        let origin = |text: &&str| OriginPattern::parse(text).unwrap_or_else(|| panic!("{text} is one"));
        let hosts = match hosts {
            [] if is_loopback => Hosts::Local,
            [] => Hosts::Any,
            hosts => Hosts::Listed(hosts.iter().map(host).collect()),
        };
        Site { hosts, origins: origins.iter().map(origin).collect(), is_loopback }
    }

    #[test]
    fn a_broker_of_this_machine_goes_by_the_names_of_this_machine_alone() {
        let local = site(&[], &[], true);
        for host in [
            "localhost",
            "LocalHost:7600",
            "app.localhost",
            "a.b.localhost:1",
            "127.0.0.1:7600",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(local.admits_host(host.as_bytes()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7600",
            "localhost.evil.example",
            "evillocalhost",
            "localhost.",
            "127.0.0.1.evil.example",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "0.0.0.0",
            "128.0.0.1",
            "[::2]",
            "[::ffff:127.0.0.1]",
            "::1",
            "",
            ":7600",
            "localhost:http",
            "localhost:99999",
            "localhost:80:80",
            "user@localhost",
            "[::1",
            "[::1]x",
        ] {
            assert!(!local.admits_host(host.as_bytes()), "{host}");
        }
        assert!(!local.admits_host(b"localhost\xff"));
        let any = site(&[], &[], false);
        assert!(any.admits_host(b"evil.example") && any.admits_host(b"192.0.2.7:7600"));
    }

    #[test]
    fn listed_hosts_are_the_only_ones() {
        let listed = site(&["Push.Example.org", "*.cdn.example", "192.0.2.7", "[2001:db8::1]"], &[], true);
        for host in
            ["push.example.ORG", "push.example.org:8443", "a.cdn.example:1", "192.0.2.7", "[2001:DB8::1]:2"]
        {
            assert!(listed.admits_host(host.as_bytes()), "{host}");
        }
        for host in [
            "localhost",
            "127.0.0.1",
            "example.org",
            "x.push.example.org",
            "cdn.example",
            ".cdn.example",
            "a.b.cdn.example",
            "acdn.example",
            "push.example.org.evil.example",
        ] {
            assert!(!listed.admits_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_foreign_page_opens_nothing() {
        let site = site(&[], &["https://app.example.org", "https://*.shop.example:8443"], false);
        let own = "push.example.org:7600";
        let admits =
            |origin: &str, host: &str| site.admits_origin(Some(origin.as_bytes()), host.as_bytes(), false);
        assert!(site.admits_origin(None, own.as_bytes(), false), "what is no browser says none");
        for (origin, host) in [
            ("http://push.example.org:7600", own),
            ("HTTP://Push.Example.org:7600", own),
            ("https://push.example.org", "push.example.org"),
            ("http://push.example.org", "push.example.org:80"),
            ("https://push.example.org", "push.example.org:443"),
            ("http://[::1]:7600", "[::1]:7600"),
            ("https://app.example.org", own),
            ("https://app.example.org:443", own),
            ("https://a.shop.example:8443", own),
        ] {
            assert!(admits(origin, host), "{origin} at {host}");
        }
        for (origin, host) in [
            ("https://evil.example", own),
            ("http://push.example.org", own),
            ("http://push.example.org:7601", own),
            ("https://push.example.org", "push.example.org:80"),
            ("http://push.example.org.evil.example:7600", own),
            ("http://evilpush.example.org:7600", own),
            ("http://push.example.org:7600@evil.example", own),
            ("http://evil.example/push.example.org:7600", own),
            ("http://push.example.org:7600/", own),
            ("http://localhost:7600", own),
            ("http://app.example.org", own),
            ("https://app.example.org:8443", own),
            ("https://x.app.example.org", own),
            ("https://shop.example:8443", own),
            ("https://a.b.shop.example:8443", own),
            ("https://a.shop.example", own),
            ("null", own),
            ("null", "null"),
            ("", own),
            ("push.example.org:7600", own),
            ("ws://push.example.org:7600", own),
            ("file://", own),
            ("chrome-extension://push.example.org:7600", own),
        ] {
            assert!(!admits(origin, host), "{origin} at {host}");
        }
        assert!(!site.admits_origin(Some(b"http://push.example.org:7600\xff"), own.as_bytes(), false));
    }

    #[test]
    fn whoever_came_over_tls_is_on_no_page_without() {
        let site = site(&[], &["http://app.example.org"], false);
        let knows = |origin: &str, is_tls| {
            let is_known = site.knows_origin(origin.as_bytes(), b"push.example.org", is_tls);
            assert_eq!(site.admits_origin(Some(origin.as_bytes()), b"push.example.org", is_tls), is_known);
            is_known
        };
        assert!(knows("http://push.example.org", false) && !knows("http://push.example.org", true));
        assert!(!knows("HTTP://push.example.org:80", true) && !knows("http://push.example.org:443", true));
        for origin in ["https://push.example.org", "HTTPS://push.example.org:443", "http://app.example.org"] {
            assert!(knows(origin, false) && knows(origin, true), "{origin}");
        }
    }

    #[test]
    fn pages_of_this_machine_may_open_what_only_this_machine_reaches() {
        let (local, other) = (site(&[], &[], true), site(&[], &[], false));
        for (origin, is_ours) in [
            ("http://localhost:3000", true),
            ("https://127.0.0.1", true),
            ("http://app.localhost", true),
            ("http://[::1]:5173", true),
            ("http://localhost.evil.example:3000", false),
            ("capacitor://localhost", false),
            ("https://evil.example", false),
        ] {
            assert_eq!(
                local.admits_origin(Some(origin.as_bytes()), b"127.0.0.1:7600", false),
                is_ours,
                "{origin}"
            );
            assert!(!other.admits_origin(Some(origin.as_bytes()), b"192.0.2.7:7600", false), "{origin}");
        }
    }

    #[test]
    fn what_is_listed_is_exactly_that() {
        let null = site(&[], &["null", "capacitor://localhost"], false);
        assert!(
            null.admits_origin(Some(b"null"), b"x", false)
                && null.admits_origin(Some(b"capacitor://localhost"), b"x", false)
        );
        assert!(!null.admits_origin(Some(b"https://evil.example"), b"x", false));
        let any = site(&[], &["*"], false);
        assert!(
            any.admits_origin(Some(b"https://evil.example"), b"x", false)
                && any.admits_origin(Some(b"null"), b"x", false)
        );
        for text in [
            "",
            "example.org",
            "https://",
            "https://a/",
            "https://*",
            "https://a.*.b",
            "https://a:x",
            "https:// a",
            "**",
        ] {
            assert_eq!(OriginPattern::parse(text), None, "{text}");
        }
        for text in
            ["", "*", "*.", "a:80", "a:", "a.*.b", "http://a", "::1", "*.127.0.0.1", "*.[::1]", "a b", "a/b"]
        {
            assert_eq!(HostPattern::parse(text), None, "{text}");
        }
    }

    /// Whoever's page it is can have a frame in a sandbox say `null`.
    #[test]
    fn of_what_may_be_anybodys_page_it_is_not_known_whose() {
        let site = site(&[], &["null", "*", "https://*.a.example"], false);
        for (origin, is_known) in [
            ("http://push.example", true),
            ("https://b.a.example", true),
            ("https://evil.example", false),
            ("http://localhost", false),
            ("null", false),
            ("", false),
        ] {
            assert!(site.admits_origin(Some(origin.as_bytes()), b"push.example", false), "{origin}");
            assert_eq!(site.knows_origin(origin.as_bytes(), b"push.example", false), is_known, "{origin}");
        }
    }

    fn authority() -> impl Strategy<Value = String> {
        let host = select(vec!["a.example", "A.Example", "b.a.example", "127.0.0.1", "[::1]", "localhost"]);
        let port = select(vec!["", ":80", ":443", ":7600"]);
        (host, port).prop_map(|(host, port)| format!("{host}{port}"))
    }

    proptest! {
        #![proptest_config(Config { rng_seed: RngSeed::Fixed(12), cases: 2_000, failure_persistence: None, ..Config::default() })]

        /// The twin reads both as a browser does.
        #[test]
        fn an_origin_is_its_hosts_own_as_a_browser_sees_it(
            scheme in select(vec!["http", "https"]),
            origin in authority(),
            host in authority(),
        ) {
            let of = |authority: &str| Url::parse(&format!("{scheme}://{authority}")).unwrap().origin();
            let is_own = of(&origin) == of(&host);
            let origin = format!("{scheme}://{origin}");
            prop_assert_eq!(Site::default().admits_origin(Some(origin.as_bytes()), host.as_bytes(), false), is_own);
        }

        /// Nobody's bytes do harm.
        #[test]
        fn whatever_comes_is_judged(origin in prop::collection::vec(any::<u8>(), 0..40), host in "\\PC{0,30}") {
            let site = site(&["*.a.example"], &["https://*.a.example"], true);
            site.admits_host(host.as_bytes());
            prop_assert!(!site.admits_origin(Some(&origin), host.as_bytes(), false) || origin.is_ascii());
        }
    }
}
