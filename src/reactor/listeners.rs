//! The sockets that clients connect to, and which reactor accepts from which.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use tracing::warn;

use super::accept::Source;
use crate::{config::Config, uring::listener};

/// Listening sockets, bound here or inherited.
///
/// Closing one resets the connections in its accept queue, so every inherited one is accepted from, however
/// many reactors there are.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<OwnedFd>,
    /// Bound beside inherited ones and not listening yet, so that no connection is given to them.
    reserved: Vec<OwnedFd>,
    /// Where each of `sockets` and then of `reserved` is bound.
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    /// Binds one per reactor to `listen.address` (SO_REUSEPORT).
    ///
    /// # Errors
    /// A sentence that names the key, the value and what is allowed: the address in use, say.
    pub fn bind(config: &Config, reactor_count: usize) -> Result<Listeners, String> {
        let listen = &config.listen;
        let sockets =
            listener::listen_group(listen.address, reactor_count, listen.backlog, sndbuf_bytes(config));
        let sockets = sockets.map_err(|error| {
            let address = listen.address;
            match error.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "listen.address = \"{address}\" cannot be listened on: another process does; \
                     choose another with --listen, or take its place with --takeover"
                ),
                _ => format!(
                    "listen.address = \"{address}\" cannot be listened on: {error}; \
                     choose an address of this machine and a port that this user may use"
                ),
            }
        })?;
        let addresses = addresses_of(&sockets)?;
        Ok(Listeners { sockets, reserved: Vec::new(), addresses })
    }

    /// Takes over sockets that listen already, each with a queue that may hold connections, and gives them
    /// the options that a connection is to inherit. What is bound elsewhere than at `listen.address` is said.
    ///
    /// # Errors
    /// A sentence that says which of them is no listening TCP socket.
    pub fn inherit(config: &Config, sockets: Vec<OwnedFd>) -> Result<Listeners, String> {
        if sockets.is_empty() {
            return Err("no listener was inherited: at least one is needed for clients".into());
        }
        for (index, socket) in sockets.iter().enumerate() {
            listener::adopt(socket, config.listen.backlog, sndbuf_bytes(config)).map_err(|error| {
                format!("the inherited listener {index} is no listening TCP socket: {error}")
            })?;
        }
        let addresses = addresses_of(&sockets)?;
        let configured = config.listen.address;
        let is_configured = |address: &SocketAddr| {
            *address == configured || (configured.port() == 0 && address.ip() == configured.ip())
        };
        if let Some(inherited) = addresses.iter().find(|address| !is_configured(address)) {
            warn!(%inherited, %configured, "an inherited listener is not at listen.address; it is served");
        }
        Ok(Listeners { sockets, reserved: Vec::new(), addresses })
    }

    /// Binds more where an address has fewer sockets than there are reactors and they can be shared
    /// (SO_REUSEPORT). They listen from [`Listeners::open`] on. Not for sockets that somebody else keeps:
    /// the queues of those bound here end with this process.
    ///
    /// # Errors
    /// A sentence that says why one cannot be bound.
    pub fn reserve(&mut self, config: &Config, reactor_count: usize) -> Result<(), String> {
        for group in groups(&self.addresses) {
            let address = self.addresses[group[0]];
            if !group.iter().all(|index| listener::is_shared(&self.sockets[*index])) {
                continue;
            }
            for _ in group.len()..reactor_count {
                let socket = listener::bind(address, sndbuf_bytes(config))
                    .map_err(|error| format!("{address} cannot be shared by one more listener: {error}"))?;
                self.reserved.push(socket);
                self.addresses.push(address);
            }
        }
        Ok(())
    }

    /// Lets the reserved ones listen.
    ///
    /// # Errors
    /// A sentence that says why one cannot.
    pub fn open(&mut self, config: &Config) -> Result<(), String> {
        for socket in self.reserved.drain(..) {
            listener::start(&socket, config.listen.backlog)
                .map_err(|error| format!("one more listener cannot be opened: {error}"))?;
            self.sockets.push(socket);
        }
        Ok(())
    }

    /// Where clients connect: the first socket's address.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// What each reactor accepts from: duplicates, reserved ones included.
    ///
    /// # Errors
    /// A sentence about a want of descriptors.
    pub fn share(&self, reactor_count: usize) -> Result<Vec<Vec<Source<OwnedFd>>>, String> {
        let shares = shares(&self.addresses, reactor_count);
        let source = |index: &usize| {
            let socket = self.sockets.iter().chain(&self.reserved).nth(*index).expect("one per address");
            let socket = socket.try_clone();
            let socket = socket.map_err(|error| format!("a listener cannot be duplicated: {error}"))?;
            let is_shared = shares.iter().filter(|share| share.contains(index)).count() > 1;
            Ok(Source { socket, is_shared })
        };
        shares.iter().map(|share| share.iter().map(source).collect()).collect()
    }

    /// Duplicates for another process.
    ///
    /// # Errors
    /// What fcntl(2) says: a want of descriptors.
    pub fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets.iter().map(OwnedFd::try_clone).collect()
    }
}

/// Which sockets each reactor accepts from: of every address at least one, and each socket has a reactor.
fn shares(addresses: &[SocketAddr], reactor_count: usize) -> Vec<Vec<usize>> {
    let mut shares = vec![Vec::new(); reactor_count];
    for group in groups(addresses) {
        for place in 0..group.len().max(reactor_count) {
            shares[place % reactor_count].push(group[place % group.len()]);
        }
    }
    shares
}

/// The indices of equal addresses, in the order of their first.
fn groups(addresses: &[SocketAddr]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        match groups.iter_mut().find(|group| addresses[group[0]] == *address) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

fn addresses_of(sockets: &[OwnedFd]) -> Result<Vec<SocketAddr>, String> {
    let addresses = sockets.iter().map(listener::local_address).collect::<io::Result<_>>();
    addresses.map_err(|error| format!("a listener's address cannot be read: {error}"))
}

fn sndbuf_bytes(config: &Config) -> Option<usize> {
    (config.listen.sndbuf_bytes > 0).then_some(config.listen.sndbuf_bytes as usize)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd,
    };

    use proptest::prelude::*;

    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        config.listen.address = "127.0.0.1:0".parse().unwrap();
        config
    }

    proptest! {
        /// Ports stand for addresses.
        #[test]
        fn every_socket_has_a_reactor_and_every_reactor_every_address(
            ports in prop::collection::vec(1u16..4, 1..70),
            reactor_count in 1usize..=64,
        ) {
            let addresses: Vec<SocketAddr> = ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect();
            let shares = shares(&addresses, reactor_count);
            prop_assert_eq!(shares.len(), reactor_count);
            for index in 0..addresses.len() {
                prop_assert!(shares.iter().any(|share| share.contains(&index)));
            }
            for share in &shares {
                for address in &addresses {
                    prop_assert!(share.iter().any(|index| addresses[*index] == *address));
                }
                let distinct: std::collections::BTreeSet<_> = share.iter().collect();
                prop_assert_eq!(distinct.len(), share.len(), "nothing is accepted from twice");
            }
        }
    }

    /// Two sockets for four reactors: two more are bound, and until they are opened everybody who connects
    /// is in the queues of the first two.
    #[test]
    fn what_is_bound_beside_inherited_listeners_gets_no_connection_before_it_is_opened() {
        const CLIENTS: usize = 64;
        let old = Listeners::bind(&config(), 2).unwrap();
        let mut new = Listeners::inherit(&config(), old.duplicates().unwrap()).unwrap();
        new.reserve(&config(), 4).unwrap();
        assert_eq!((new.sockets.len(), new.reserved.len()), (2, 2));
        assert!(new.share(4).unwrap().iter().all(|share| share.len() == 1 && !share[0].is_shared));
        let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(old.address()).unwrap()).collect();
        let mut accepted = 0;
        for socket in &new.sockets {
            let listener = TcpListener::from(socket.try_clone().unwrap());
            listener.set_nonblocking(true).unwrap();
            accepted += std::iter::from_fn(|| listener.accept().ok()).count();
        }
        assert_eq!(accepted, clients.len());
        new.open(&config()).unwrap();
        assert_eq!((new.sockets.len(), new.reserved.len()), (4, 0));
    }

    #[test]
    fn nothing_is_bound_beside_a_listener_that_is_not_shared() {
        let only = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut listeners = Listeners::inherit(&config(), vec![only.into()]).unwrap();
        listeners.reserve(&config(), 2).unwrap();
        assert!(listeners.reserved.is_empty());
        assert!(listeners.share(2).unwrap().iter().all(|share| share.len() == 1 && share[0].is_shared));
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let connected = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(connected.local_addr().unwrap()).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(file.as_raw_fd() > 0);
        for (number, wrong) in [client.into(), OwnedFd::from(file)].into_iter().enumerate() {
            let listeners = vec![connected.try_clone().unwrap().into(), wrong];
            let error = Listeners::inherit(&config(), listeners).unwrap_err();
            assert!(
                error.starts_with("the inherited listener 1 is no listening TCP socket"),
                "{number}: {error}"
            );
        }
        assert!(Listeners::inherit(&config(), vec![]).is_err());
    }
}
