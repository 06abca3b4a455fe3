//! The sockets that clients connect to, and which reactor accepts from which.

use std::{io, os::fd::OwnedFd};

use tracing::warn;

use super::accept::Source;
use crate::{
    config::{self, Config, ListenAddress},
    uring::{
        listener,
        socket_file::{SocketFile, ensure_replaceable},
    },
};

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
    addresses: Vec<ListenAddress>,
    /// Whose the file of a Unix socket is.
    ownership: Ownership,
}

/// What becomes of a Unix socket's file.
#[derive(Debug)]
enum Ownership {
    /// Nothing: there is none, or whoever passed the socket sees to it.
    None,
    /// It is removed with the listeners.
    Own(SocketFile),
    /// It is this process's as soon as it accepts: until then the broker that it is to succeed may go on.
    Due,
}

impl Listeners {
    /// Binds one per reactor to `listen.address` (SO_REUSEPORT), or one for all of them in the file system.
    ///
    /// # Errors
    /// A sentence that names the key, the value and what is allowed: the address in use, say.
    pub fn bind(config: &Config, reactor_count: usize) -> Result<Listeners, String> {
        let listen = &config.listen;
        let name = &listen.address;
        let failed = |advice: &'static str| {
            move |error: io::Error| match error.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "listen.address = \"{name}\" cannot be listened on: another process does; \
                     choose another with --listen, or take its place with --takeover"
                ),
                _ => format!("listen.address = \"{name}\" cannot be listened on: {error}; {advice}"),
            }
        };
        let (sockets, ownership) = match name {
            ListenAddress::Tcp(address) => {
                let sockets =
                    listener::listen_group(*address, reactor_count, listen.backlog, sndbuf_bytes(config));
                let advice = "choose an address of this machine and a port that this user may use";
                (sockets.map_err(failed(advice))?, Ownership::None)
            }
            ListenAddress::Unix(path) => {
                ensure_replaceable(path).map_err(|why| format!("listen.address = \"{name}\" {why}"))?;
                let bound = listener::listen_unix(path, listen.mode, listen.backlog);
                let advice = "choose a path in a directory that this user may write";
                let (socket, file) = bound.map_err(failed(advice))?;
                (vec![socket], Ownership::Own(file))
            }
        };
        let addresses = addresses_of(&sockets)?;
        Ok(Listeners { sockets, reserved: Vec::new(), addresses, ownership })
    }

    /// Takes over sockets that listen already, each with a queue that may hold connections, and gives them
    /// the options that a connection is to inherit. What is bound elsewhere than at `listen.address` is said.
    ///
    /// # Errors
    /// A sentence that says which of them is no socket that listens.
    pub fn inherit(config: &Config, sockets: Vec<OwnedFd>) -> Result<Listeners, String> {
        if sockets.is_empty() {
            return Err("no listener was inherited: at least one is needed for clients".into());
        }
        for (index, socket) in sockets.iter().enumerate() {
            listener::adopt(socket, config.listen.backlog, sndbuf_bytes(config)).map_err(|error| {
                format!("the inherited listener {index} is no TCP or Unix socket that listens: {error}")
            })?;
        }
        let addresses = addresses_of(&sockets)?;
        let configured = &config.listen.address;
        let is_configured = |address: &ListenAddress| match (address, configured) {
            (ListenAddress::Tcp(address), ListenAddress::Tcp(configured)) if configured.port() == 0 => {
                address.ip() == configured.ip()
            }
            _ => address == configured,
        };
        if let Some(inherited) = addresses.iter().find(|address| !is_configured(address)) {
            warn!(%inherited, %configured, "an inherited listener is not at listen.address; it is served");
        }
        Ok(Listeners { sockets, reserved: Vec::new(), addresses, ownership: Ownership::None })
    }

    /// Has the sockets of a broker that ends, for so many reactors: binds more where an address has fewer sockets
    /// than that and they can be shared (SO_REUSEPORT). They listen from [`Listeners::open`] on, and the file
    /// of a Unix socket at `listen.address` is this process's from then on. Not for sockets that somebody else keeps:
    /// the queues of those bound here end with this process.
    ///
    /// # Errors
    /// A sentence that says why one cannot be bound.
    pub fn succeed(&mut self, config: &Config, reactor_count: usize) -> Result<(), String> {
        self.ownership = Ownership::Due;
        for group in groups(&self.addresses) {
            let ListenAddress::Tcp(address) = self.addresses[group[0]] else { continue };
            if !group.iter().all(|index| listener::is_shared(&self.sockets[*index])) {
                continue;
            }
            for _ in group.len()..reactor_count {
                let socket = listener::bind(address, sndbuf_bytes(config))
                    .map_err(|error| format!("{address} cannot be shared by one more listener: {error}"))?;
                self.reserved.push(socket);
                self.addresses.push(ListenAddress::Tcp(address));
            }
        }
        Ok(())
    }

    /// Whether a browser reaches them on this machine and nowhere else: whoever reaches a Unix socket is no browser, and goes
    /// by whichever name it likes.
    pub fn are_loopback(&self) -> bool {
        let mut of_network =
            self.addresses.iter().filter(|address| !matches!(address, ListenAddress::Unix(_))).peekable();
        of_network.peek().is_some() && of_network.all(ListenAddress::is_local)
    }

    /// Whoever reaches a broker may do whatever clients can.
    ///
    /// # Errors
    /// A sentence about one that others than this machine reach, if nobody is asked who they are and `listen.insecure` does
    /// not say that they may.
    pub fn check_reach(&self, config: &Config) -> Result<(), String> {
        let reached = self.addresses.iter().find(|address| !address.is_local());
        match reached.filter(|_| !config.listen.insecure && !config.auth.is_on()) {
            Some(address) => Err(config::reachable(address)),
            None => Ok(()),
        }
    }

    /// Lets the reserved ones listen: from now on this process accepts.
    ///
    /// # Errors
    /// A sentence that says why one cannot.
    pub fn open(&mut self, config: &Config) -> Result<(), String> {
        for socket in self.reserved.drain(..) {
            listener::start(&socket, config.listen.backlog)
                .map_err(|error| format!("one more listener cannot be opened: {error}"))?;
            self.sockets.push(socket);
        }
        if let (Ownership::Due, ListenAddress::Unix(path)) = (&self.ownership, &config.listen.address)
            && self.addresses.contains(&config.listen.address)
            && let Ok(file) = SocketFile::of(path)
        {
            self.ownership = Ownership::Own(file);
        }
        Ok(())
    }

    /// Leaves the file of a Unix socket to a successor, which has the socket.
    pub fn leave(&mut self) {
        if let Ownership::Own(file) = std::mem::replace(&mut self.ownership, Ownership::None) {
            file.leave();
        }
    }

    /// Where clients connect: the first socket's address.
    pub fn address(&self) -> &ListenAddress {
        &self.addresses[0]
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
fn shares(addresses: &[ListenAddress], reactor_count: usize) -> Vec<Vec<usize>> {
    let mut shares = vec![Vec::new(); reactor_count];
    for group in groups(addresses) {
        for place in 0..group.len().max(reactor_count) {
            shares[place % reactor_count].push(group[place % group.len()]);
        }
    }
    shares
}

/// The indices of equal addresses, in the order of their first.
fn groups(addresses: &[ListenAddress]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        match groups.iter_mut().find(|group| addresses[group[0]] == *address) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

fn addresses_of(sockets: &[OwnedFd]) -> Result<Vec<ListenAddress>, String> {
    let addresses = sockets.iter().map(listener::listen_address).collect::<io::Result<_>>();
    addresses.map_err(|error| format!("a listener's address cannot be read: {error}"))
}

fn sndbuf_bytes(config: &Config) -> Option<usize> {
    (config.listen.sndbuf_bytes > 0).then_some(config.listen.sndbuf_bytes as usize)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpListener, TcpStream},
        os::{
            fd::AsRawFd,
            unix::net::{UnixListener, UnixStream},
        },
        path::PathBuf,
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
            let address = |port: &u16| ListenAddress::Tcp(([127, 0, 0, 1], *port).into());
            let addresses: Vec<ListenAddress> = ports.iter().map(address).collect();
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
        new.succeed(&config(), 4).unwrap();
        assert_eq!((new.sockets.len(), new.reserved.len()), (2, 2));
        assert!(new.share(4).unwrap().iter().all(|share| share.len() == 1 && !share[0].is_shared));
        let address: SocketAddr = old.address().to_string().parse().unwrap();
        let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
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
        listeners.succeed(&config(), 2).unwrap();
        assert!(listeners.reserved.is_empty());
        assert!(listeners.share(2).unwrap().iter().all(|share| share.len() == 1 && share[0].is_shared));
    }

    fn unix_config(name: &str) -> (Config, PathBuf) {
        let path = std::env::temp_dir().join(format!("fanfare-{}-{name}", std::process::id()));
        let mut config = Config::default();
        config.listen.address = ListenAddress::Unix(path.clone());
        (config, path)
    }

    #[test]
    fn a_unix_socket_is_shared_by_all_reactors_and_removed_with_the_listeners() {
        let (config, path) = unix_config("shared");
        let listeners = Listeners::bind(&config, 3).unwrap();
        assert_eq!((listeners.sockets.len(), listeners.address()), (1, &config.listen.address));
        assert!(listeners.share(3).unwrap().iter().all(|share| share.len() == 1 && share[0].is_shared));
        drop(listeners);
        assert!(!path.exists());
    }

    /// A successor that ends before it accepts leaves the file to the broker that goes on; later it is the successor's,
    /// which does not remove what somebody put into its place.
    #[test]
    fn the_file_of_a_unix_socket_is_the_broker_s_that_accepts() {
        let (config, path) = unix_config("handed-over");
        let mut old = Listeners::bind(&config, 1).unwrap();
        let inherit = || {
            let mut new = Listeners::inherit(&config, old.duplicates().unwrap()).unwrap();
            new.succeed(&config, 2).unwrap();
            new
        };
        drop(inherit());
        UnixStream::connect(&path).unwrap();
        let mut new = inherit();
        assert!(new.share(2).unwrap().iter().all(|share| share.len() == 1 && share[0].is_shared));
        new.open(&config).unwrap();
        old.leave();
        drop(old);
        UnixStream::connect(&path).unwrap();
        drop(new);
        assert!(!path.exists());

        let old = Listeners::bind(&config, 1).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(old);
        UnixStream::connect(&path).unwrap();
        std::fs::remove_file(path).unwrap();
    }

    /// As of a service manager: it made the file, and keeps it.
    #[test]
    fn the_file_of_a_unix_socket_that_was_passed_is_left() {
        let (config, path) = unix_config("passed");
        let socket = UnixListener::bind(&path).unwrap();
        let mut listeners = Listeners::inherit(&config, vec![socket.into()]).unwrap();
        listeners.open(&config).unwrap();
        drop(listeners);
        assert!(path.exists());
        std::fs::remove_file(path).unwrap();
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
                error.starts_with("the inherited listener 1 is no TCP or Unix socket that listens"),
                "{number}: {error}"
            );
        }
        assert!(Listeners::inherit(&config(), vec![]).is_err());
    }
}
