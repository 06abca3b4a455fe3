//! Opening connections: TCP, upgrade, subscribe; blocking, a batch at a time, before anything is timed.

#[cfg(test)]
mod tests;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use fanfare::cli::url::Server;

use crate::dialect::{Dialect, Message, Reader, Role};

/// Connections that are opened at once: a broker's backlog is not what is tested.
const BATCH: usize = 100;
/// Connections per source address, below the ports that one has.
const PER_ADDRESS: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(10);
/// RFC 6455's own example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The first address of a server.
///
/// # Errors
/// If its name is none.
pub fn resolve(server: &Server) -> std::io::Result<SocketAddr> {
    (server.host.as_str(), server.port)
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// Where the broker listens.
#[derive(Clone, Debug)]
pub struct Target {
    address: SocketAddr,
    host: String,
    path: String,
    /// To be brought along.
    token: Option<String>,
}

impl Target {
    /// From `ws://host:port/path`.
    ///
    /// # Errors
    /// A sentence for whoever typed it.
    pub fn parse(url: &str) -> Result<Target, String> {
        let server = Server::parse(url, "ws")?;
        let address = resolve(&server).map_err(|error| format!("{url}: {error}"))?;
        Ok(Target { address, host: server.authority, path: server.target, token: None })
    }

    /// The same, where a token is brought along.
    pub fn with_token(self, token: Option<String>) -> Target {
        Target { token, ..self }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether anybody listens there.
    pub fn is_listening(&self) -> bool {
        TcpStream::connect_timeout(&self.address, PATIENCE).is_ok()
    }
}

/// An upgraded connection, and what came after what was waited for.
#[derive(Debug)]
pub struct Connected {
    /// The socket, blocking.
    pub socket: TcpStream,
    /// What was cut in two is in here.
    pub reader: Reader,
    /// Where its subscription starts, if it has one.
    pub seq: u64,
    /// In whose numbering, where the broker tells.
    pub epoch: Option<String>,
}

/// Opens `count` connections for `role`; a subscriber's subscription is in force. `first` numbers them
/// over several calls, for spreading source addresses.
///
/// # Errors
/// One line that names the broker.
pub fn connect(
    target: &Target,
    dialect: Dialect,
    role: Role<'_>,
    first: usize,
    count: usize,
) -> Result<Vec<Connected>, String> {
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        let begun = connections.len();
        let batch = BATCH.min(count - begun);
        connect_batch(target, dialect, role, first + begun, batch, &mut connections)
            .map_err(|error| format!("{}: connection {}: {error}", target.address, first + begun + 1))?;
    }
    Ok(connections)
}

/// Each step is asked of all before the answer of any is awaited, so that the broker is kept busy.
fn connect_batch(
    target: &Target,
    dialect: Dialect,
    role: Role<'_>,
    first: usize,
    count: usize,
    into: &mut Vec<Connected>,
) -> Result<(), String> {
    let request = upgrade_request(target, dialect, role);
    let mut sockets = Vec::with_capacity(count);
    for index in first..first + count {
        let mut socket = open_socket(target.address, index).map_err(|error| error.to_string())?;
        socket.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        sockets.push(socket);
    }
    let mut upgraded = Vec::with_capacity(count);
    let mut is_greeted = false;
    for (index, mut socket) in sockets.into_iter().enumerate() {
        let (_, rest) = read_upgrade(&mut socket)?;
        let mut connected = Connected { socket, reader: Reader::default(), seq: 0, epoch: None };
        let mut greeting = Vec::new();
        is_greeted = dialect.write_greeting(first + index, &mut greeting);
        connected.socket.write_all(&greeting).map_err(|error| error.to_string())?;
        connected.feed(dialect, &rest)?;
        upgraded.push(connected);
    }
    if is_greeted {
        upgraded.iter_mut().try_for_each(|it| it.await_ok(dialect, "greeting"))?;
    }
    if let Role::Subscriber(topic) = role {
        let mut subscribe = Vec::new();
        dialect.write_subscribe(topic, &mut subscribe);
        for connected in &mut upgraded {
            connected.socket.write_all(&subscribe).map_err(|error| error.to_string())?;
        }
        for connected in &mut upgraded {
            connected.await_ok(dialect, "subscription")?;
        }
    }
    for connected in upgraded {
        connected.socket.set_read_timeout(None).map_err(|error| error.to_string())?;
        into.push(connected);
    }
    Ok(())
}

/// The request that asks for an upgrade.
pub fn upgrade_request(target: &Target, dialect: Dialect, role: Role<'_>) -> String {
    let subprotocol =
        dialect.subprotocol().map(|it| format!("Sec-WebSocket-Protocol: {it}\r\n")).unwrap_or_default();
    let authorization =
        target.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{subprotocol}{authorization}\r\n",
        dialect.path(&target.path, role),
        target.host,
    )
}

/// A connected socket; on loopback from 127.0.0.1, .2, … so that ports do not run out.
pub fn open_socket(address: SocketAddr, index: usize) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let IpAddr::V4(ip) = address.ip()
        && ip.is_loopback()
        && index >= PER_ADDRESS
    {
        let source = Ipv4Addr::new(127, 0, 0, (1 + index / PER_ADDRESS) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Reads the response's head, and what came after it.
///
/// # Errors
/// One line: it is no upgrade, or there is no answer.
pub fn read_upgrade(socket: &mut TcpStream) -> Result<(String, Vec<u8>), String> {
    let mut response = Vec::new();
    loop {
        let mut part = [0; 4096];
        match socket.read(&mut part) {
            Ok(0) => return Err("closed before the upgrade was answered".to_owned()),
            Ok(len) => response.extend_from_slice(&part[..len]),
            Err(error) => return Err(format!("no answer to the upgrade: {error}")),
        }
        if let Some(end) = response.windows(4).position(|it| it == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&response[..end]).into_owned();
            if !head.starts_with("HTTP/1.1 101") || !head.contains(ACCEPT) {
                return Err(format!("not an upgrade: {}", head.lines().next().unwrap_or("")));
            }
            return Ok((head, response.split_off(end + 4)));
        }
    }
}

impl Connected {
    /// Reads until what was asked for is confirmed, and keeps where it starts. Nothing else is on its way.
    fn await_ok(&mut self, dialect: Dialect, what: &str) -> Result<(), String> {
        let mut bytes = [0; 4096];
        loop {
            let len = match self.socket.read(&mut bytes) {
                Ok(0) => return Err(format!("closed before the {what} was answered")),
                Ok(len) => len,
                Err(error) => return Err(format!("no answer to the {what}: {error}")),
            };
            if self.feed(dialect, &bytes[..len])? {
                return Ok(());
            }
        }
    }

    /// Whether a confirmation was in it.
    fn feed(&mut self, dialect: Dialect, bytes: &[u8]) -> Result<bool, String> {
        let mut is_confirmed = false;
        let mut on_message = |message: Message<'_>| match message {
            Message::Ok { seq, start } => {
                is_confirmed = true;
                (self.seq, self.epoch) = (seq, start.map(|it| it.epoch.into_owned()));
                Ok(())
            }
            Message::Error(error) => Err(error),
            // Nothing is published yet, and such a server has nothing else to say.
            Message::Delivery { data, .. } if dialect == Dialect::Plain => {
                Err(format!("not a server for this protocol: it says {}", String::from_utf8_lossy(&data)))
            }
            _ => Ok(()),
        };
        self.reader.feed(dialect, bytes, &mut on_message)?;
        Ok(is_confirmed)
    }
}

/// A close frame's payload in words.
pub fn describe_close(payload: &[u8]) -> String {
    match payload {
        [a, b, reason @ ..] => {
            format!(
                "closed by the broker: {} {}",
                u16::from_be_bytes([*a, *b]),
                String::from_utf8_lossy(reason)
            )
        }
        _ => "closed by the broker".to_owned(),
    }
}
