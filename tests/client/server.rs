//! A scripted server, and the clients that are run against it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha1::{Digest, Sha1};

pub const HELLO: &str =
    r#"{"op":"hello","v":1,"epoch":"1","conn":"2","max_message":1024,"ping_s":25,"features":[],"new":1}"#;

/// A server whose connections are played by `script`, one after the other, each with its number from 0.
pub struct Server {
    pub url: String,
    pub script: JoinHandle<()>,
}

impl Server {
    pub fn start(connection_count: usize, script: impl Fn(usize, Socket) + Send + 'static) -> Self {
        Server::accept(connection_count, move |number, stream| script(number, Socket::upgrade(stream)))
    }

    /// The same before the upgrade.
    pub fn accept(connection_count: usize, script: impl Fn(usize, TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let script = thread::spawn(move || {
            for number in 0..connection_count {
                script(number, listener.accept().unwrap().0);
            }
        });
        Server { url, script }
    }
}

/// A server that speaks no WebSocket: it reads the request, says `answer` and waits for the client to go.
pub fn no_broker(answer: impl Into<Vec<u8>>) -> Server {
    let answer = answer.into();
    Server::accept(1, move |_, stream| say(stream, &answer))
}

/// Reads the request, says `answer` and waits for the client to go.
pub fn say(mut stream: TcpStream, answer: &[u8]) {
    let mut request = [0; 4096];
    assert!(stream.read(&mut request).unwrap() > 0);
    stream.write_all(answer).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

/// The server's end of a connection.
pub struct Socket(pub BufReader<TcpStream>);

impl Socket {
    /// Answers the upgrade and says hello.
    pub fn upgrade(stream: TcpStream) -> Self {
        Socket::upgrade_to(stream, "Sec-WebSocket-Protocol: fanfare.json.v1\r\n", HELLO)
    }

    /// The same with another header and another first message.
    pub fn upgrade_to(stream: TcpStream, protocol: &str, hello: &str) -> Self {
        let mut socket = Socket(BufReader::new(stream));
        let mut key = String::new();
        let mut has_protocol = false;
        loop {
            let mut line = String::new();
            socket.0.read_line(&mut line).unwrap();
            let line = line.trim();
            match line.split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("sec-websocket-key") => key = value.into(),
                Some((name, "fanfare.json.v1")) => {
                    has_protocol = name.eq_ignore_ascii_case("sec-websocket-protocol")
                }
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        assert!(has_protocol);
        let accept = STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")));
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
        );
        // The hello in the same segment, as the broker sends it.
        let mut bytes = head.into_bytes();
        bytes.extend(frame(0x1, hello.as_bytes()));
        socket.0.get_mut().write_all(&bytes).unwrap();
        socket
    }

    pub fn send(&mut self, text: &str) {
        self.send_frame(0x1, text.as_bytes());
    }

    pub fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.0.get_mut().write_all(&frame(opcode, payload)).unwrap();
    }

    pub fn send_close(&mut self, code: u16, reason: &str) {
        self.send_frame(0x8, &[&code.to_be_bytes(), reason.as_bytes()].concat());
    }

    /// The next frame, unmasked.
    pub fn receive_frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        assert!(head[0] & 0x80 != 0 && head[1] & 0x80 != 0, "clients mask, and this one does not fragment");
        let len = match head[1] & 0x7f {
            126 => {
                let mut len = [0; 2];
                self.0.read_exact(&mut len).unwrap();
                usize::from(u16::from_be_bytes(len))
            }
            len => usize::from(len),
        };
        let mut key = [0; 4];
        self.0.read_exact(&mut key).unwrap();
        let mut payload = vec![0; len];
        self.0.read_exact(&mut payload).unwrap();
        for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
        (head[0] & 0x0f, payload)
    }

    pub fn receive(&mut self) -> Value {
        let (opcode, payload) = self.receive_frame();
        assert_eq!(opcode, 0x1);
        serde_json::from_slice(&payload).unwrap()
    }

    /// Takes the client's close frame and answers it; nothing comes behind it.
    pub fn receive_close(&mut self) {
        let (opcode, payload) = self.receive_frame();
        assert_eq!((opcode, &payload[..]), (0x8, &1000_u16.to_be_bytes()[..]));
        self.send_frame(0x8, &payload);
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// One frame as a server sends it.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(len) if len < 126 => bytes.push(len),
        _ => {
            bytes.push(126);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// The binary without the caller's server.
pub fn fanfare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(args).env_remove("FANFARE_URL").stdin(Stdio::null());
    command
}

/// Runs a client to its end against `server` and returns its exit code, stdout and stderr.
pub fn run(server: Server, args: &[&str], input: Option<&str>) -> (i32, String, String) {
    run_with(server, args, input.map(str::as_bytes))
}

/// The same with an input that need not be text.
pub fn run_with(server: Server, args: &[&str], input: Option<&[u8]>) -> (i32, String, String) {
    let mut command = fanfare(args);
    command.args(["--url", &server.url]).stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child: Child = command.spawn().unwrap();
    if let Some(input) = input {
        // A client that ends early does not read all of it.
        let _ = child.stdin.take().unwrap().write_all(input);
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    server.script.join().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}
