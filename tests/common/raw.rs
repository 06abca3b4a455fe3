//! A client on a bare socket, which sends whatever it is told to.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
};

use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;

/// An upgrade as RFC 6455 section 1.3 has it, with its key.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The same, for `fanfare.bin.v1`.
pub const UPGRADE_TO_BINARY: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Protocol: fanfare.bin.v1\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The answer to that key, from the same section.
const ACCEPT: &str = "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
/// Every frame here has this one.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// A whole masked frame.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    fragment(opcode, true, payload)
}

/// A masked frame with or without FIN.
pub fn fragment(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(opcode, is_final, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The header of a masked frame of this length, without its payload.
pub fn header(opcode: u8, is_final: bool, payload_len: u64) -> Vec<u8> {
    let mut bytes = vec![if is_final { 0x80 } else { 0 } | opcode];
    match payload_len {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// A connection.
pub struct Raw {
    pub stream: TcpStream,
    /// Received and not taken, from `taken` on.
    received: Vec<u8>,
    taken: usize,
}

impl Raw {
    /// Connects, and says nothing.
    pub fn connect(address: SocketAddr) -> Raw {
        Raw::new(TcpStream::connect(address).unwrap())
    }

    /// Connects with kernel buffers of so many bytes, so that little is on the way when it stalls.
    pub fn connect_small(address: SocketAddr, buffer_bytes: usize) -> Raw {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(buffer_bytes).unwrap();
        socket.set_send_buffer_size(buffer_bytes).unwrap();
        socket.connect(&address.into()).unwrap();
        Raw::new(socket.into())
    }

    /// Connects from an address of this machine.
    pub fn connect_from(from: IpAddr, address: SocketAddr) -> Raw {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Raw::new(socket.into())
    }

    /// Connects to a Unix socket, which this library's type for TCP reads and writes as well.
    pub fn connect_unix(path: &Path) -> Raw {
        Raw::over(OwnedFd::from(UnixStream::connect(path).unwrap()).into())
    }

    fn new(stream: TcpStream) -> Raw {
        stream.set_nodelay(true).unwrap();
        Raw::over(stream)
    }

    fn over(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Raw { stream, received: Vec::new(), taken: 0 }
    }

    /// A connection that speaks JSON and has had its hello.
    pub fn open(address: SocketAddr) -> Raw {
        Raw::connect(address).upgraded()
    }

    /// Upgrades to JSON and takes the hello.
    pub fn upgraded(mut self) -> Raw {
        self.send(UPGRADE.as_bytes());
        self.expect_upgraded();
        self
    }

    /// Takes the 101 and the hello, and returns its epoch.
    pub fn expect_upgraded(&mut self) -> String {
        let head = self.receive_head();
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "{head}");
        let (_, hello) = self.receive_frame().expect("a hello");
        let hello = String::from_utf8(hello).unwrap();
        let (_, rest) =
            hello.split_once(r#"{"op":"hello","v":1,"epoch":""#).unwrap_or_else(|| panic!("{hello}"));
        rest.split('"').next().unwrap().into()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends bytes in pieces of `piece_len`, until the broker takes no more.
    pub fn send_while_taken(&mut self, bytes: &[u8], piece_len: usize) {
        for piece in bytes.chunks(piece_len) {
            match self.stream.write_all(piece) {
                Ok(()) => {}
                Err(error) if is_hang_up(error.kind()) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) {
        self.send(&frame(TEXT, text.as_bytes()));
    }

    /// Bytes that were read from the stream itself are taken as received, before all that follow.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next frame, or none where the stream ends.
    pub fn receive_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, payload) = self.receive_extended_frame()?;
        assert_eq!(first & 0xf0, 0x80, "the broker neither fragments nor extends what did not ask for it");
        Some((first & 0x0f, payload))
    }

    /// The next frame, of a connection with an extension, or none where the stream ends: its first byte and
    /// its payload as they are.
    pub fn receive_extended_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let rest = &self.received[self.taken..];
            if let Some((first, payload)) = unframe(rest) {
                let payload = payload.to_vec();
                self.taken += frame_len(rest).expect("a whole frame");
                return Some((first, payload));
            }
            if !self.receive_more() {
                assert!(self.received[self.taken..].is_empty(), "the stream ends within a frame");
                return None;
            }
        }
    }

    /// What the next frame is, which is not taken.
    pub fn peek_opcode(&mut self) -> u8 {
        loop {
            if let Some((first, _)) = unframe(&self.received[self.taken..]) {
                return first & 0x0f;
            }
            assert!(self.receive_more(), "the stream ends without a close frame");
        }
    }

    /// The next text message.
    pub fn receive_text(&mut self) -> String {
        let (opcode, payload) = self.receive_frame().expect("a message");
        assert_eq!(opcode, TEXT, "{}", String::from_utf8_lossy(&payload));
        String::from_utf8(payload).unwrap()
    }

    /// The next text message.
    pub fn receive(&mut self) -> Value {
        serde_json::from_str(&self.receive_text()).unwrap()
    }

    /// Sends a command and takes the one message that comes of it.
    pub fn ask(&mut self, command: &str) -> Value {
        self.send_text(command);
        self.receive()
    }

    /// The next frame, which is a close frame: its code and its text.
    pub fn receive_close(&mut self) -> (u16, String) {
        let (opcode, payload) = self.receive_frame().expect("a close frame");
        assert_eq!(opcode, CLOSE, "{}", String::from_utf8_lossy(&payload));
        let (code, text) = payload.split_at(2);
        (u16::from_be_bytes(code.try_into().unwrap()), String::from_utf8(text.to_vec()).unwrap())
    }

    /// The next frame, which is the close of a restart: after how many milliseconds to come back.
    pub fn receive_restart(&mut self) -> u64 {
        let (code, text) = self.receive_close();
        assert_eq!(code, 1012);
        let retry_after_ms = text.strip_prefix("retry_after_ms=").unwrap_or_else(|| panic!("{text}"));
        retry_after_ms.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    /// Nothing more comes but the end of the stream, after which our end is closed too.
    pub fn expect_end(mut self) {
        assert_eq!(self.receive_frame(), None);
    }

    /// Nothing more comes: the stream ends, or is reset at once after its end.
    pub fn expect_cut(mut self) {
        match self.stream.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?} came"),
        }
    }

    /// Answers a close frame of this code, after which the stream ends.
    pub fn answer_close(mut self, code: u16) {
        self.send_while_taken(&frame(CLOSE, &code.to_be_bytes()), usize::MAX);
        self.expect_end();
    }

    /// Closes in good order.
    pub fn close(mut self) {
        self.send(&frame(CLOSE, &1000_u16.to_be_bytes()));
        assert_eq!(self.receive_close().0, 1000);
        self.expect_end();
    }

    /// Closes in good order, past whatever is still to come.
    pub fn close_whatever_comes(mut self) {
        self.send(&frame(CLOSE, &1000_u16.to_be_bytes()));
        while self.peek_opcode() != CLOSE {
            self.receive_frame();
        }
        assert_eq!(self.receive_close().0, 1000);
        self.expect_end();
    }

    /// Everything up to the end of the stream as an HTTP answer: its status, and the whole of it.
    pub fn receive_answer(mut self) -> (u16, String) {
        while self.receive_more() {}
        let text = String::from_utf8(self.received).unwrap();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        (status.unwrap_or_else(|| panic!("{text:?}")), text)
    }

    /// A reset instead of an orderly end of the stream.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Ends our direction.
    pub fn shutdown_write(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The head of an HTTP answer.
    pub fn receive_head(&mut self) -> String {
        loop {
            let rest = &self.received[self.taken..];
            if let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(rest[..end + 4].to_vec()).unwrap();
                self.taken += end + 4;
                return head;
            }
            assert!(self.receive_more(), "the stream ends within a head");
        }
    }

    /// Reads what there is; false at the end of the stream.
    fn receive_more(&mut self) -> bool {
        self.received.drain(..std::mem::take(&mut self.taken));
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(len) => {
                self.received.extend_from_slice(&bytes[..len]);
                len > 0
            }
            Err(error) => panic!("nothing came: {error}"),
        }
    }
}

/// The first frame in `bytes` if it is whole: its first byte and its payload.
fn unframe(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let frame = bytes.get(..frame_len(bytes)?)?;
    Some((frame[0], &frame[header_len(frame)..]))
}

/// How long the frame that begins here is, if its header is there.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let short = *bytes.get(1)?;
    assert_eq!(short & 0x80, 0, "the broker does not mask");
    let payload_len = match short {
        126 => u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())),
        127 => u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()),
        short => u64::from(short),
    };
    Some(header_len(bytes) + payload_len as usize)
}

fn header_len(bytes: &[u8]) -> usize {
    match bytes[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

fn is_hang_up(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
