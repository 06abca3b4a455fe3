//! Listening sockets: several on the same port, the kernel spreads connections over them; or one in the file system.
//!
//! What is set here is set once, because an accepted socket inherits it: no system call per accept.

use std::{
    fs, io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::socket_file::{self, SocketFile, remove_left_behind};
use crate::config::ListenAddress;

/// A socket takes more to send only while fewer bytes than this wait unsent in it. A stalled peer then
/// makes the kernel hold 0.3 MB instead of 4; less (16 KiB) costs throughput.
const NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an address in use is waited for: the kernel closes the listeners of a broker that was killed when it has
/// taken its rings apart, some 100 ms after the process is gone.
const IN_USE_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at it.
const IN_USE_PAUSE: Duration = Duration::from_millis(10);

/// A socket that listens on `address`, with what every connection is to inherit. It blocks, because a
/// ring waits for a blocking socket and reports `EAGAIN` for another. `sndbuf_bytes` is a hard cap on
/// what the kernel buffers per connection.
///
/// Others may listen on the same address (SO_REUSEPORT): see [`listen_group`].
///
/// # Errors
/// What socket(2), setsockopt(2), bind(2) or listen(2) says.
pub fn listen(address: SocketAddr, backlog: u32, sndbuf_bytes: Option<usize>) -> io::Result<OwnedFd> {
    let socket = bind(address, sndbuf_bytes)?;
    start(&socket, backlog)?;
    Ok(socket)
}

/// As [`listen`], but it does not listen before [`start`]: the kernel gives it no connection until then.
///
/// # Errors
/// What socket(2), setsockopt(2) or bind(2) says.
pub fn bind(address: SocketAddr, sndbuf_bytes: Option<usize>) -> io::Result<OwnedFd> {
    let socket = new_socket(address)?;
    socket.set_reuse_port(true)?;
    set_inherited(SockRef::from(&socket), sndbuf_bytes)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Lets a bound socket listen, or gives one that listens another backlog.
///
/// # Errors
/// What listen(2) says.
pub fn start(socket: &OwnedFd, backlog: u32) -> io::Result<()> {
    SockRef::from(socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// A socket that listens at `path`, and its file. Whoever `mode` lets write to the file may connect. It has nothing for
/// its connections to inherit: what it is told the kernel does not pass on.
///
/// # Errors
/// `AddrInUse` if anyone listens there and goes on to, or what is there is no socket; else what socket(2), bind(2),
/// chmod(2) or listen(2) says.
pub fn listen_unix(path: &Path, mode: u32, backlog: u32) -> io::Result<(OwnedFd, SocketFile)> {
    wait_until_unused(|| socket_file::ensure_unused(path, IN_USE_LIMIT))?;
    remove_left_behind(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path)?;
    // Nobody can connect before it listens.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    let socket = socket.into();
    start(&socket, backlog)?;
    Ok((socket, file))
}

/// Gives a socket that listens already, in another process perhaps, what [`listen`] gives, or [`listen_unix`].
///
/// # Errors
/// `InvalidInput` if it is neither a TCP nor a Unix socket that listens; else what setsockopt(2) or listen(2) says.
pub fn adopt(socket: &OwnedFd, backlog: u32, sndbuf_bytes: Option<usize>) -> io::Result<()> {
    let it = SockRef::from(socket);
    let is_tcp = it.protocol()? == Some(Protocol::TCP);
    let is_unix = it.domain()? == Domain::UNIX && it.r#type()? == Type::STREAM;
    if !(is_tcp || is_unix) || !it.is_listener()? {
        let why = "it does not listen, or is neither TCP nor a stream of Unix";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    it.set_cloexec(true)?;
    it.set_nonblocking(false)?;
    if is_tcp {
        set_inherited(it, sndbuf_bytes)?;
    }
    start(socket, backlog)
}

/// Whether others may be bound to the same address (SO_REUSEPORT).
pub fn is_shared(socket: &OwnedFd) -> bool {
    SockRef::from(socket).reuse_port().unwrap_or(false)
}

/// `count` sockets that share `address`. Port 0 gives all of them the port that the first one gets.
///
/// # Errors
/// `AddrInUse` if anyone listens there and goes on to, another fanfare included; else what [`listen`] says.
pub fn listen_group(
    address: SocketAddr,
    count: usize,
    backlog: u32,
    sndbuf_bytes: Option<usize>,
) -> io::Result<Vec<OwnedFd>> {
    if address.port() != 0 {
        wait_until_unused(|| ensure_unused(address))?;
    }
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = listen(address, backlog, sndbuf_bytes)?;
        address = local_address(&listener)?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Binds with `bind`, again and again for a second while the address is in use.
///
/// # Errors
/// The last one of `bind`.
pub fn wait_until_unused<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + IN_USE_LIMIT;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(IN_USE_PAUSE);
            }
            result => return result,
        }
    }
}

/// The address that a TCP socket is bound to.
///
/// # Errors
/// What getsockname(2) says.
pub fn local_address(listener: &OwnedFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(listener).local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Where a socket listens, whatever it is.
///
/// # Errors
/// `InvalidInput` if it is a Unix socket without a path; else what getsockname(2) says.
pub fn listen_address(listener: &OwnedFd) -> io::Result<ListenAddress> {
    let address = SockRef::from(listener).local_addr()?;
    let tcp = address.as_socket().map(ListenAddress::Tcp);
    tcp.or_else(|| Some(ListenAddress::Unix(address.as_pathname()?.into()))).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "it has no path, and abstract names are not served")
    })
}

/// With SO_REUSEPORT, bind(2) lets a second fanfare of the same user take half of the first one's
/// connections without a word. A bind without it fails if anyone listens.
fn ensure_unused(address: SocketAddr) -> io::Result<()> {
    new_socket(address)?.bind(&address.into())
}

/// What a listener passes on to the connections that it accepts.
fn set_inherited(listener: SockRef<'_>, sndbuf_bytes: Option<usize>) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    listener.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    if let Some(bytes) = sndbuf_bytes {
        // The kernel doubles what it is told, for its own bookkeeping.
        listener.set_send_buffer_size(bytes / 2)?;
    }
    Ok(())
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the previous run that wait out their end do not hold the port.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::{UnixListener, UnixStream},
    };

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    const ANY_PORT: &str = "127.0.0.1:0";

    /// It comes free after three looks; another error is no reason to wait, and neither is a port that stays in use.
    #[test]
    fn an_address_in_use_is_waited_for() {
        let mut looks = 0;
        let free = wait_until_unused(|| {
            looks += 1;
            if looks < 3 { Err(io::ErrorKind::AddrInUse.into()) } else { Ok(looks) }
        });
        assert_eq!(free.unwrap(), 3);

        let mut looks = 0;
        let refused = wait_until_unused(|| {
            looks += 1;
            Err::<(), _>(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!((refused.unwrap_err().kind(), looks), (io::ErrorKind::PermissionDenied, 1));

        let taken = TcpListener::bind(ANY_PORT).unwrap();
        let error = listen_group(taken.local_addr().unwrap(), 1, 16, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_group_shares_the_port_that_the_first_one_got() {
        let group = listen_group(ANY_PORT.parse().unwrap(), 3, 16, None).unwrap();
        let addresses: Vec<_> = group.iter().map(|it| local_address(it).unwrap()).collect();
        assert_ne!(addresses[0].port(), 0);
        assert!(addresses.iter().all(|it| *it == addresses[0]));
        TcpStream::connect(addresses[0]).unwrap();
    }

    #[test]
    fn a_port_in_use_is_told_even_if_it_is_shared() {
        let group = listen_group(ANY_PORT.parse().unwrap(), 2, 16, None).unwrap();
        let address = local_address(&group[0]).unwrap();
        let refused = listen_group(address, 2, 16, None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(group);
        listen_group(address, 2, 16, None).unwrap();
    }

    #[test]
    fn a_port_with_connections_of_the_previous_run_is_free() {
        let group = listen_group(ANY_PORT.parse().unwrap(), 1, 16, None).unwrap();
        let address = local_address(&group[0]).unwrap();
        let listener = TcpListener::from(group.into_iter().next().unwrap());
        let _client = TcpStream::connect(address).unwrap();
        // The server's end closes first, so the port is left to a connection in FIN_WAIT.
        drop(listener.accept().unwrap());
        drop(listener);
        listen_group(address, 1, 16, None).unwrap();
    }

    #[test]
    fn an_accepted_socket_inherits_what_the_listener_was_told() {
        expect_inherited(listen(ANY_PORT.parse().unwrap(), 16, Some(256 * 1024)).unwrap());
    }

    #[test]
    fn an_adopted_listener_passes_on_the_same() {
        let listener = TcpListener::bind(ANY_PORT).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = OwnedFd::from(listener);
        SockRef::from(&listener).set_cloexec(false).unwrap();
        adopt(&listener, 16, Some(256 * 1024)).unwrap();
        assert!(fcntl_getfd(&listener).unwrap().contains(FdFlags::CLOEXEC));
        expect_inherited(listener);
    }

    /// Its mode whatever the umask is, and its file gone with it; meanwhile nobody else may have it.
    #[test]
    fn a_socket_in_the_file_system_is_taken_where_one_was_left_behind() {
        let path = std::env::temp_dir().join(format!("fanfare-{}-listener", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = listen_unix(&path, 0o606, 16).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o606);
        assert_eq!(listen_address(&listener).unwrap(), ListenAddress::Unix(path.clone()));
        assert_eq!(listen_unix(&path, 0o606, 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        adopt(&listener, 1, Some(256 * 1024)).unwrap();
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
            socket.connect(&SockAddr::unix(&path).unwrap()).map_err(|error| error.kind())
        };
        assert!((0..4).any(|_| connect() == Err(io::ErrorKind::WouldBlock)), "the backlog is the new one");
        drop(file);
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        assert_eq!(listen_unix(&path, 0o606, 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(path).unwrap();
    }

    /// It ends while somebody waits in its queue, as one does whose broker was killed.
    #[test]
    fn a_socket_in_the_file_system_is_taken_when_its_owner_has_ended() {
        let path = std::env::temp_dir().join(format!("fanfare-{}-ending", std::process::id()));
        let ending = UnixListener::bind(&path).unwrap();
        let taking = thread::spawn({
            let path = path.clone();
            move || listen_unix(&path, 0o600, 16)
        });
        drop(ending.accept().unwrap());
        drop(ending);
        let (_listener, _file) = taking.join().unwrap().unwrap();
        UnixStream::connect(&path).unwrap();
    }

    /// Sockets that would listen where nobody asked for it, and one whose connections are no streams.
    #[test]
    fn what_is_no_listener_of_streams_is_not_adopted() {
        let any = ANY_PORT.parse().unwrap();
        // Abstract, so that there is no file.
        let address = |name| SockAddr::unix(format!("\0fanfare-{}-{name}", std::process::id())).unwrap();
        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        packets.bind(&address("packets")).unwrap();
        packets.listen(16).unwrap();
        for (socket, what) in [
            (new_socket(any).unwrap().into(), "unbound"),
            (bind(any, None).unwrap(), "bound"),
            (packets.into(), "packets"),
        ] {
            assert_eq!(adopt(&socket, 16, None).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{what}");
            assert!(!SockRef::from(&socket).is_listener().unwrap() || what == "packets");
        }
        let unnamed = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        unnamed.bind(&address("stream")).unwrap();
        let error = listen_address(&unnamed.into()).unwrap_err();
        assert_eq!(error.to_string(), "it has no path, and abstract names are not served");
    }

    fn expect_inherited(listener: OwnedFd) {
        let address = local_address(&listener).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        assert!(!SockRef::from(&listener).nonblocking().unwrap());
        let (accepted, _) = TcpListener::from(listener).accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT_BYTES);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert_eq!(accepted.send_buffer_size().unwrap(), 256 * 1024);
        assert!(!accepted.nonblocking().unwrap());
    }
}
