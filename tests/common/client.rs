//! A client of the fastwebsockets library, for tests that wait for one thing after the other.

use std::future::Future;

use fastwebsockets::{Frame, OpCode, Payload, WebSocket, WebSocketError, handshake};
use http_body_util::Empty;
use hyper::{
    Request,
    body::Bytes,
    header::{CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    time::timeout,
};

use super::{Broker, PATIENCE};

/// A subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Json,
    Binary,
}

/// What came.
#[derive(Debug, PartialEq)]
pub enum Received {
    Message(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    End,
}

/// A connection that has had its hello.
pub struct Client {
    runtime: Runtime,
    socket: WebSocket<TokioIo<Upgraded>>,
    pub language: Language,
    pub hello: Value,
}

/// The flag of a body that has an `ext`.
pub const EXT_FLAG: u8 = 0x02;

/// A body of `fanfare.bin.v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    pub kind: u8,
    pub flags: u8,
    pub seq: u64,
    /// The rows of its `ext`; there if `flags` say so.
    pub ext: Vec<u8>,
    pub topic: String,
    pub payload: Vec<u8>,
}

impl Client {
    /// Connects with the subprotocol of `language`.
    pub fn open(broker: &Broker, language: Language) -> Client {
        let mut client = Client::upgrade(broker, language, "/ws", &[]);
        client.hello = client.receive();
        assert_eq!(client.hello["op"], "hello", "{}", client.hello);
        client
    }

    /// The same with a token.
    pub fn open_as(broker: &Broker, language: Language, token: &str) -> Client {
        let authorization = format!("Bearer {token}");
        let mut client = Client::upgrade(broker, language, "/ws", &[("authorization", &authorization)]);
        client.hello = client.receive();
        assert_eq!(client.hello["op"], "hello", "{}", client.hello);
        client
    }

    /// Asks for an upgrade at a path, with more header lines, and waits for no `hello`.
    pub fn upgrade(broker: &Broker, language: Language, path: &str, lines: &[(&str, &str)]) -> Client {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let subprotocol = match language {
            Language::Json => "fanfare.json.v1",
            Language::Binary => "fanfare.bin.v1",
        };
        let (socket, chosen) = runtime.block_on(in_time(async {
            let stream = TcpStream::connect(broker.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let request = Request::get(path)
                .header(HOST, broker.address.to_string())
                .header(UPGRADE, "websocket")
                .header(CONNECTION, "Upgrade")
                .header(SEC_WEBSOCKET_KEY, handshake::generate_key())
                .header(SEC_WEBSOCKET_VERSION, "13")
                .header(SEC_WEBSOCKET_PROTOCOL, subprotocol);
            let request = lines.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let (socket, response) = handshake::client(&Executor, request, stream).await.unwrap();
            (socket, response.headers().get(SEC_WEBSOCKET_PROTOCOL).cloned())
        }));
        assert_eq!(chosen.as_ref().map(|chosen| chosen.to_str().unwrap()), Some(subprotocol));
        Client { runtime, socket, language, hello: Value::Null }
    }

    /// Sends a command: in JSON the text itself, in binary under the kind of its `op`.
    pub fn send(&mut self, command: Value) {
        match self.language {
            Language::Json => self.send_frame(Frame::text(command.to_string().into_bytes().into())),
            Language::Binary => {
                let kind = match command["op"].as_str() {
                    Some("subscribe") => 4,
                    Some("unsubscribe") => 5,
                    Some("ping") => 9,
                    Some("history") => 12,
                    Some("auth") => 17,
                    op => panic!("{op:?} is no object in binary"),
                };
                let payload = command.to_string().into_bytes();
                self.send_body(&Body { kind, payload, ..Body::default() });
            }
        }
    }

    /// Sends a body.
    pub fn send_body(&mut self, body: &Body) {
        self.send_frame(Frame::binary(body.to_bytes().into()));
    }

    /// Sends several in one message.
    pub fn send_batch(&mut self, bodies: &[Body]) {
        let mut bytes = vec![0, 0];
        for body in bodies {
            let body = body.to_bytes();
            bytes.extend((body.len() as u32).to_be_bytes());
            bytes.extend(body);
        }
        self.send_frame(Frame::binary(bytes.into()));
    }

    /// Sends any frame.
    pub fn send_frame(&mut self, frame: Frame<'static>) {
        self.runtime.block_on(in_time(self.socket.write_frame(frame))).unwrap();
    }

    /// Sends a WebSocket ping.
    pub fn send_ping(&mut self, payload: &[u8]) {
        self.send_frame(Frame::new(true, OpCode::Ping, None, Payload::Owned(payload.to_vec())));
    }

    /// The next message as the JSON object that it is, in binary that of its payload.
    pub fn receive(&mut self) -> Value {
        let bytes = self.receive_bytes();
        let object = match self.language {
            Language::Json => bytes,
            Language::Binary => Body::parse(&bytes).payload,
        };
        serde_json::from_slice(&object).unwrap()
    }

    /// The next message of a binary connection.
    pub fn receive_body(&mut self) -> Body {
        Body::parse(&self.receive_bytes())
    }

    /// Sends a command and takes the one message that comes of it.
    pub fn ask(&mut self, command: Value) -> Value {
        self.send(command);
        self.receive()
    }

    /// The next message as it is.
    pub fn receive_bytes(&mut self) -> Vec<u8> {
        match self.receive_any() {
            Received::Message(bytes) => bytes,
            other => panic!("{other:?} is no message"),
        }
    }

    /// Whatever comes next. A ping or a close of the broker is answered by the library.
    pub fn receive_any(&mut self) -> Received {
        let expected = match self.language {
            Language::Json => OpCode::Text,
            Language::Binary => OpCode::Binary,
        };
        self.runtime.block_on(in_time(async {
            loop {
                let frame = match self.socket.read_frame().await {
                    Ok(frame) => frame,
                    Err(WebSocketError::UnexpectedEOF | WebSocketError::ConnectionClosed) => {
                        return Received::End;
                    }
                    Err(error) => panic!("{error}"),
                };
                assert!(frame.fin, "the broker does not fragment");
                match frame.opcode {
                    OpCode::Ping => {}
                    OpCode::Pong => return Received::Pong(frame.payload.to_vec()),
                    OpCode::Close => {
                        let [high, low, text @ ..] = &*frame.payload else {
                            return Received::Close(1005, String::new());
                        };
                        let code = u16::from_be_bytes([*high, *low]);
                        return Received::Close(code, String::from_utf8(text.to_vec()).unwrap());
                    }
                    opcode => {
                        assert_eq!(opcode, expected);
                        return Received::Message(frame.payload.to_vec());
                    }
                }
            }
        }))
    }

    /// Closes in good order.
    pub fn close(mut self) {
        self.send_frame(Frame::close(1000, b""));
        loop {
            match self.receive_any() {
                Received::Close(code, _) => return assert_eq!(code, 1000),
                Received::End => panic!("no close frame came"),
                Received::Message(_) | Received::Pong(_) => {}
            }
        }
    }
}

impl Body {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.flags];
        bytes.extend((self.topic.len() as u16).to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        if self.flags & EXT_FLAG != 0 {
            bytes.extend((self.ext.len() as u16).to_be_bytes());
            bytes.extend(&self.ext);
        }
        bytes.extend(self.topic.as_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Body {
        let topic_len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let ext_len = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let (ext, rest) = match bytes[1] & EXT_FLAG {
            0 => (&[][..], &bytes[12..]),
            _ => bytes[14..].split_at(ext_len(&bytes[12..])),
        };
        let (topic, payload) = rest.split_at(topic_len);
        Body {
            kind: bytes[0],
            flags: bytes[1],
            seq: u64::from_be_bytes(bytes[4..12].try_into().unwrap()),
            ext: ext.to_vec(),
            topic: str::from_utf8(topic).unwrap().into(),
            payload: payload.to_vec(),
        }
    }
}

/// Runs hyper's part of the connection on the client's only thread.
struct Executor;

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("nothing came")
}
