//! The client side of a WebSocket connection: what `sub` and `pub` share.

use std::{borrow::Cow, cell::Cell, fmt, io, path::PathBuf, rc::Rc, time::Duration};

use super::{Failure, url::Server};
use crate::{config::ListenAddress, protocol::secret::Secret};
use fastwebsockets::{
    FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocket, WebSocketError, WebSocketWrite, handshake,
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    upgrade::{self, Upgraded},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split},
    net::{TcpStream, UnixStream},
    sync::Mutex,
    time::timeout,
};

/// How long a message may take to go out: then the broker takes nothing any more.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a refusal's body is read, which is to be one line.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// Beyond two of the broker's ping intervals: then the connection is taken for dead.
const SILENCE_MARGIN: Duration = Duration::from_secs(10);
/// How long a close that we began may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the broker of a `--url` is.
#[derive(Debug)]
pub(super) enum Place {
    /// At an address of the network.
    Tcp(Server),
    /// At a socket of this host.
    Unix(PathBuf),
}

impl Place {
    /// Reads `ws://host:port/path` or `unix:/path/of/the/socket`.
    pub fn parse(url: &str) -> Result<Place, Failure> {
        match url.parse() {
            Ok(ListenAddress::Unix(path)) => Ok(Place::Unix(path)),
            _ if url.starts_with("unix:") => Err(Failure::Usage(format!(
                "--url {url} is not allowed: a socket has an absolute path; it must be as unix:/run/fanfare/ws.sock"
            ))),
            _ => match Server::parse(url, "ws") {
                Ok(server) => Ok(Place::Tcp(server)),
                Err(why) => Err(Failure::Usage(format!("--url {why}"))),
            },
        }
    }

    /// As it goes into the Host header, and what is asked for there.
    fn request(&self) -> (&str, &str) {
        match self {
            Place::Tcp(server) => (&server.authority, &server.target),
            Place::Unix(_) => ("localhost", "/ws"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(server) => write!(f, "{server}"),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there is no connection, or none any more.
#[derive(Debug)]
pub(super) enum Ended {
    /// The broker closed it.
    Closed { code: u16, reason: String },
    /// The broker, or something before it, refused the upgrade with this line.
    Refused { status: u16, line: String },
    /// It broke, went silent or never came to be.
    Broken(String),
    /// The broker wants a token, and there was none.
    TokenWanted,
    /// The other end is no fanfare.
    NotFanfare(String),
}

impl Ended {
    /// Whether to come back, and after what the broker asked for at least.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Ended::Closed { code: 1002 | 1003 | 1007..=1009 | 4001 | 4003, .. } => None,
            Ended::Closed { reason, .. } => {
                let ms = reason.strip_prefix("retry_after_ms=").and_then(|ms| ms.parse().ok());
                Some(Duration::from_millis(ms.unwrap_or(0)))
            }
            Ended::Refused { status, .. } => matches!(status, 408 | 429 | 500..).then_some(Duration::ZERO),
            Ended::Broken(_) => Some(Duration::ZERO),
            Ended::TokenWanted | Ended::NotFanfare(_) => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Closed { code, reason } if reason.is_empty() => write!(f, "closed with {code}"),
            Ended::Closed { code, reason } => write!(f, "closed with {code} ({reason})"),
            Ended::Refused { status, line } if line.is_empty() => {
                write!(f, "the upgrade was refused with HTTP {status}")
            }
            Ended::Refused { status, line } => {
                write!(f, "the upgrade was refused with HTTP {status}: {line}")
            }
            Ended::TokenWanted => {
                f.write_str("the broker wants a token: --token-file names a file that holds one")
            }
            Ended::Broken(reason) => f.write_str(reason),
            Ended::NotFanfare(reason) => write!(f, "the server does not speak fanfare.json.v1: {reason}"),
        }
    }
}

/// Any message of the broker. Fields that this client does not use are not named here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    #[serde(borrow)]
    pub topic: Cow<'a, str>,
    pub seq: Option<u64>,
    #[serde(borrow)]
    pub user: Option<Cow<'a, str>>,
    pub time: Option<u64>,
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// In place of `data` when the publication is not JSON.
    #[serde(borrow)]
    pub base64: Option<&'a RawValue>,
    pub from: Option<u64>,
    pub to: Option<u64>,
    pub reason: String,
    #[serde(rename = "for")]
    pub refused_op: String,
    pub code: String,
    pub hint: String,
    pub message: String,
    /// Of a `hello`, a subscribe's `ok` and a `history`: in whose numbering `seq` is.
    #[serde(borrow)]
    pub epoch: Cow<'a, str>,
    pub recovered: Option<bool>,
    /// Of a `replayed`: the moment to come back to.
    #[serde(borrow)]
    pub at: Cow<'a, str>,
    pub replayed: Option<u64>,
    /// Of a publish's `ok`.
    pub duplicate: bool,
    pub more: bool,
    #[serde(borrow)]
    pub messages: Vec<Message<'a>>,
    pub max_message: Option<u64>,
    pub ping_s: Option<u64>,
    /// Of a `hello`: `required` if a token is to come.
    pub auth: String,
}

impl Message<'_> {
    /// Reads one.
    pub fn parse(text: &[u8]) -> Result<Message<'_>, Ended> {
        serde_json::from_slice(text).map_err(|error| Ended::NotFanfare(error.to_string()))
    }

    /// What an `error` says, in one line.
    pub fn error_line(&self) -> String {
        let what = if self.refused_op.is_empty() { "a command" } else { &self.refused_op };
        format!("{what} was refused: {} ({})", self.message, self.code)
    }
}

/// How long to wait for the broker, each time.
#[derive(Debug, clap::Args)]
pub(super) struct Patience {
    /// How long the broker may take to answer, in seconds.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Patience {
    pub fn time_max(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

type Stream = TokioIo<Upgraded>;

/// A connection after its `hello`. What is received and what is sent are separate, because a publisher
/// must take replies while it waits for room to send.
pub(super) struct Connection {
    reader: FragmentCollectorRead<ReadHalf<Stream>>,
    sender: Sender,
    silence_max: Duration,
    /// The longest message that the broker takes.
    pub message_bytes_max: usize,
    /// The broker's start, in whose numbering `seq`s are.
    pub epoch: String,
}

/// The sending end; clones send on the same connection.
#[derive(Clone)]
pub(super) struct Sender {
    writer: Rc<Mutex<WebSocketWrite<WriteHalf<Stream>>>>,
    /// A close frame is the last frame that may be sent.
    has_closed: Rc<Cell<bool>>,
}

impl Connection {
    /// Connects, upgrades, with the token if there is one, and waits for the `hello`, all within `time_max`.
    pub async fn open(place: &Place, token: Option<Secret>, time_max: Duration) -> Result<Connection, Ended> {
        timeout(time_max, Self::open_unhurried(place, token)).await.unwrap_or_else(|_| {
            Err(Ended::Broken(format!("{place} has not answered for {} s", time_max.as_secs())))
        })
    }

    async fn open_unhurried(place: &Place, token: Option<Secret>) -> Result<Connection, Ended> {
        let broken = |error: io::Error| Ended::Broken(format!("cannot connect to {place}: {error}"));
        match place {
            Place::Tcp(server) => {
                let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(broken)?;
                stream.set_nodelay(true).map_err(broken)?;
                Self::upgrade(place, token, stream).await
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(broken)?;
                Self::upgrade(place, token, stream).await
            }
        }
    }

    async fn upgrade(
        place: &Place,
        token: Option<Secret>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Connection, Ended> {
        let (authority, target) = place.request();
        let request = Request::get(target)
            .header(HOST, authority)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header(SEC_WEBSOCKET_KEY, handshake::generate_key())
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_PROTOCOL, "fanfare.json.v1");
        let request = match token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {}", token.get())),
            None => request,
        };
        let request = request.body(Empty::<Bytes>::new()).expect("a parsed URL makes a valid request");
        let no_http = |error: hyper::Error| match error.is_parse() {
            true => Ended::NotFanfare(format!("no answer in HTTP ({error})")),
            false => Ended::Broken(format!("cannot connect to {place}: {error}")),
        };
        let (mut requests, http) = http1::handshake(TokioIo::new(stream)).await.map_err(no_http)?;
        // What ends it ends the request as well, which tells why.
        tokio::spawn(async { _ = http.with_upgrades().await });
        let response = requests.send_request(request).await.map_err(no_http)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response).await);
        }
        if response.headers().get(SEC_WEBSOCKET_PROTOCOL).is_none_or(|chosen| chosen != "fanfare.json.v1") {
            return Err(Ended::NotFanfare("it did not choose the subprotocol".into()));
        }

        let upgraded = upgrade::on(response).await.map_err(no_http)?;
        let socket = WebSocket::after_handshake(TokioIo::new(upgraded), Role::Client);
        let (mut reader, writer) = socket.split(split);
        // Pings and closes come to `receive`, where they count as signs of life.
        reader.set_auto_pong(false);
        reader.set_auto_close(false);
        let mut connection = Connection {
            reader: FragmentCollectorRead::new(reader),
            sender: Sender { writer: Rc::new(Mutex::new(writer)), has_closed: Rc::default() },
            // Until the `hello` says better, whoever opens it is the one to lose patience.
            silence_max: Duration::MAX,
            message_bytes_max: usize::MAX,
            epoch: String::new(),
        };
        let hello = connection.receive().await?;
        let hello = Message::parse(&hello)?;
        if hello.auth == "required" {
            return Err(Ended::TokenWanted);
        }
        if hello.op != "hello" {
            return Err(Ended::NotFanfare("its first message is no hello".into()));
        }
        let ping = Duration::from_secs(hello.ping_s.unwrap_or(30));
        connection.message_bytes_max =
            hello.max_message.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        connection.silence_max = ping * 2 + SILENCE_MARGIN;
        connection.epoch = hello.epoch.into_owned();
        Ok(connection)
    }

    /// An end to send on.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// The next text message. A future that is dropped may lose a part of it: drop the connection too.
    pub async fn receive(&mut self) -> Result<Payload<'static>, Ended> {
        loop {
            // Never called: replies are automatic no more.
            let mut reply = |_| async { Ok::<(), io::Error>(()) };
            let frame = match timeout(self.silence_max, self.reader.read_frame(&mut reply)).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(WebSocketError::UnexpectedEOF)) => return Err(lost("the broker went away")),
                Ok(Err(error)) => return Err(lost(error)),
                Err(_) => {
                    let silence = self.silence_max.as_secs();
                    return Err(lost(format!("no sign of life for {silence} s")));
                }
            };
            match frame.opcode {
                OpCode::Text => return Ok(frame.payload),
                OpCode::Ping => self.sender.send(Frame::pong(frame.payload)).await?,
                OpCode::Close => {
                    let (code, reason) = match &*frame.payload {
                        [high, low, reason @ ..] => {
                            (u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason).into_owned())
                        }
                        // 1005 stands for a close frame without a code.
                        _ => (1005, String::new()),
                    };
                    let _ = timeout(CLOSE_TIMEOUT, self.sender.send(Frame::close_raw(frame.payload))).await;
                    return Err(Ended::Closed { code, reason });
                }
                OpCode::Binary => return Err(Ended::NotFanfare("it sent a binary message".into())),
                OpCode::Pong | OpCode::Continuation => {}
            }
        }
    }

    /// Closes in good order, as far as the broker plays along.
    pub async fn close(mut self) {
        let closing = async {
            self.sender.send(Frame::close(1000, b"")).await?;
            while self.receive().await.is_ok() {}
            Ok::<(), Ended>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

impl Sender {
    /// Sends a text message.
    pub async fn send_text(&self, text: String) -> Result<(), Ended> {
        self.send(Frame::text(text.into_bytes().into())).await
    }

    async fn send(&self, frame: Frame<'_>) -> Result<(), Ended> {
        let mut writer = self.writer.lock().await;
        if self.has_closed.get() {
            return Ok(());
        }
        self.has_closed.set(frame.opcode == OpCode::Close);
        match timeout(SEND_TIMEOUT, writer.write_frame(frame)).await {
            Ok(sent) => sent.map_err(lost),
            Err(_) => Err(lost(format!("a message is not taken within {} s", SEND_TIMEOUT.as_secs()))),
        }
    }
}

fn lost(reason: impl fmt::Display) -> Ended {
    Ended::Broken(format!("the connection was lost: {reason}"))
}

/// What a response that is no upgrade says, if it says it in a line of plain text.
async fn refused(response: Response<Incoming>) -> Ended {
    let status = response.status().as_u16();
    let content_type = response.headers().get(CONTENT_TYPE);
    let is_plain = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
    let body = match is_plain {
        true => Limited::new(response, REFUSAL_BYTES_MAX).collect().await.ok(),
        false => None,
    };
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let line = text.lines().next().unwrap_or_default();
    Ended::Refused { status, line: line.chars().filter(|c| !c.is_control()).collect() }
}
