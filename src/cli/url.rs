//! Where a server is, from a URL: for the clients here and for the load test.

use std::fmt;

use url::{Host, Position, Url};

/// The server of a URL of one scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name or an address, without brackets.
    pub host: String,
    /// The scheme's own if the URL has none.
    pub port: u16,
    /// As it goes into the Host header.
    pub authority: String,
    /// The path and the query.
    pub target: String,
}

impl Server {
    /// Reads `scheme://host:port/path`.
    ///
    /// # Errors
    /// Why it is none, and one that is.
    pub fn parse(url: &str, scheme: &str) -> Result<Server, String> {
        let refused = |why: &dyn fmt::Display| {
            Err(format!("{url} is not allowed: {why}; it must be as {scheme}://127.0.0.1:7600/ws"))
        };
        let parsed = match Url::parse(url) {
            Ok(parsed) => parsed,
            Err(error) => return refused(&error),
        };
        if parsed.scheme() != scheme {
            return refused(&format_args!("only {scheme}:// is spoken here"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return refused(&"credentials are not sent");
        }
        if parsed.fragment().is_some() {
            return refused(&"a fragment is nothing that a server gets");
        }
        let host = match parsed.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return refused(&"it has no host"),
        };
        let Some(port) = parsed.port_or_known_default().filter(|port| *port != 0) else {
            return refused(&"there is no port 0");
        };
        Ok(Server {
            host,
            port,
            authority: parsed[Position::BeforeHost..Position::AfterPort].to_owned(),
            target: parsed[Position::BeforePath..Position::AfterQuery].to_owned(),
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (url, host, port, authority, target) in [
            ("ws://127.0.0.1:7600/ws", "127.0.0.1", 7600, "127.0.0.1:7600", "/ws"),
            ("WS://Example.org", "example.org", 80, "example.org", "/"),
            ("ws://[::1]:1/a?b=c", "::1", 1, "[::1]:1", "/a?b=c"),
            ("ws://a:65535?b", "a", 65_535, "a:65535", "/?b"),
        ] {
            let expected =
                Server { host: host.into(), port, authority: authority.into(), target: target.into() };
            assert_eq!(Server::parse(url, "ws"), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_is_no_such_url_is_refused_with_the_reason() {
        for (url, why) in [
            ("ws://127.0.0.1:99999/ws", "invalid port number"),
            ("ws://127.0.0.1:-1/ws", "invalid port number"),
            ("ws://127.0.0.1:0/ws", "there is no port 0"),
            ("ws://127.0.0.256/ws", "invalid IPv4 address"),
            ("ws://[::1/ws", "invalid IPv6 address"),
            ("ws:///", "empty host"),
            ("127.0.0.1:7600", "relative URL without a base"),
            ("localhost:7600", "only ws:// is spoken here"),
            ("wss://a/", "only ws:// is spoken here"),
            ("ws://a:b@c/", "credentials are not sent"),
            ("ws://a/#b", "a fragment is nothing that a server gets"),
        ] {
            let expected = format!("{url} is not allowed: {why}; it must be as ws://127.0.0.1:7600/ws");
            assert_eq!(Server::parse(url, "ws"), Err(expected));
        }
    }
}
