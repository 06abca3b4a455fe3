//! Where clients connect: at an address of the network, or at a socket in the file system.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// The longest path that the kernel takes for a socket (`sun_path`, without the zero at its end).
pub(super) const PATH_BYTES_MAX: usize = 107;
/// What a socket's path is told from an address by.
const UNIX: &str = "unix:";

/// `listen.address`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
            ListenAddress::Unix(_) => true,
        }
    }
}

/// It is neither; what it may be is said where it is read.
#[derive(Debug, PartialEq, Eq)]
pub struct NoAddress;

impl FromStr for ListenAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<ListenAddress, NoAddress> {
        match text.strip_prefix(UNIX) {
            Some(path) if is_socket_path(path, PATH_BYTES_MAX) => Ok(ListenAddress::Unix(path.into())),
            Some(_) => Err(NoAddress),
            None => text.parse().map(ListenAddress::Tcp).map_err(|_| NoAddress),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(f, "{address}"),
            ListenAddress::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Whether `path` is the absolute one of a socket. An abstract name (`@…`) is none: whoever knows it may connect, and
/// nothing keeps another program from taking it.
pub(super) fn is_socket_path(path: &str, bytes_max: usize) -> bool {
    path.starts_with('/') && !path.ends_with('/') && path.len() <= bytes_max && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_a_socket_are_told_apart_and_written_as_they_are_read() {
        for text in ["127.0.0.1:7600", "[::]:80"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!((&address, &*address.to_string()), (&ListenAddress::Tcp(text.parse().unwrap()), text));
        }
        let longest = format!("/{}", "x".repeat(PATH_BYTES_MAX - 1));
        for path in ["/run/fanfare/ws.sock", "/a b", &longest] {
            let address: ListenAddress = format!("unix:{path}").parse().unwrap();
            assert_eq!(address, ListenAddress::Unix(path.into()));
            assert_eq!(address.to_string(), format!("unix:{path}"));
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        let too_long = format!("unix:/{}", "x".repeat(PATH_BYTES_MAX));
        for text in [
            "",
            "127.0.0.1",
            "localhost:7600",
            "/run/ws.sock",
            "unix:",
            "unix:ws.sock",
            "unix:@fanfare",
            "unix:/run/",
            "unix:/",
            "unix:/a\0b",
            "unix:\0fanfare",
            "UNIX:/run/ws.sock",
            &too_long,
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(NoAddress), "{text}");
        }
    }
}
