//! The protocols' handshakes against servers of a few lines that check every byte they are told.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use super::*;
use crate::codec::opcode;

#[test]
fn an_address_is_taken_apart() {
    let target = Target::parse("ws://127.0.0.1:7600/ws").unwrap();
    assert_eq!((target.address, &*target.path), ("127.0.0.1:7600".parse().unwrap(), "/ws"));
    assert_eq!(Target::parse("ws://[::1]:1").unwrap().path, "/");
    assert_eq!(Target::parse("ws://127.0.0.1").unwrap().address.port(), 80);
    assert_eq!(Target::parse("WS://127.0.0.1:1").unwrap().address.port(), 1);
    assert!(Target::parse("http://x").is_err());
    assert!(Target::parse("ws://127.0.0.1:99999/ws").is_err());
}

/// A frame as a test writes it down: its opcode and payload.
type Said = (u8, Vec<u8>);

fn said(opcode: u8, payload: impl AsRef<[u8]>) -> Said {
    (opcode, payload.as_ref().to_vec())
}

fn server_frame((opcode, payload): &Said) -> Vec<u8> {
    [&[0x80 | opcode, payload.len() as u8][..], payload].concat()
}

/// A server for one client. It sends `first` right behind its 101; then, for each of `script`, it waits
/// for one frame and answers with the others. Gives the request and the frames that came.
fn serve(first: Vec<Said>, script: Vec<Vec<Said>>) -> (Target, thread::JoinHandle<(String, Vec<Said>)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = Target::parse(&format!("ws://{}/base", listener.local_addr().unwrap())).unwrap();
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(read_bytes(&mut socket, 1)[0]);
        }
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
        let mut answer = head.into_bytes();
        answer.extend(first.iter().flat_map(server_frame));
        socket.write_all(&answer).unwrap();
        let mut came = Vec::new();
        for answers in script {
            came.push(read_frame(&mut socket));
            let bytes: Vec<u8> = answers.iter().flat_map(server_frame).collect();
            socket.write_all(&bytes).unwrap();
        }
        (String::from_utf8(request).unwrap(), came)
    });
    (target, server)
}

fn read_bytes(socket: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

fn read_frame(socket: &mut TcpStream) -> Said {
    let header = read_bytes(socket, 2);
    let len = match header[1] & 0x7f {
        126 => u16::from_be_bytes(read_bytes(socket, 2).try_into().unwrap()) as usize,
        len => len as usize,
    };
    let mask = read_bytes(socket, 4);
    let payload = read_bytes(socket, len);
    (header[0] & 0x0f, payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]).collect())
}

#[test]
fn mqtt_connects_and_subscribes() {
    let connack = said(opcode::BINARY, [0x20, 2, 0, 0]);
    // A SUBACK whose last byte is in a frame of its own.
    let suback = vec![said(opcode::BINARY, [0x90, 3, 0, 1]), said(opcode::BINARY, [0])];
    let (target, server) = serve(Vec::new(), vec![vec![connack], suback]);
    connect(&target, Dialect::Mqtt, Role::Subscriber("a"), 0, 1).unwrap();
    let (request, came) = server.join().unwrap();
    assert!(request.starts_with("GET /base HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{request}");
    assert_eq!((came[0].0, came[0].1[0]), (opcode::BINARY, 0x10));
    assert_eq!(came[1], said(opcode::BINARY, [0x82, 6, 0, 1, 0, 1, b'a', 0]));
}

#[test]
fn an_mqtt_publisher_only_connects_and_a_refusal_is_told() {
    let (target, server) = serve(Vec::new(), vec![vec![said(opcode::BINARY, [0x20, 2, 0, 0])]]);
    connect(&target, Dialect::Mqtt, Role::Publisher("a"), 0, 1).unwrap();
    server.join().unwrap();
    let (target, server) = serve(Vec::new(), vec![vec![said(opcode::BINARY, [0x20, 2, 0, 5])]]);
    let error = connect(&target, Dialect::Mqtt, Role::Publisher("a"), 0, 1).unwrap_err();
    assert!(error.ends_with("connection 1: MQTT connection refused: code 5"), "{error}");
    server.join().unwrap();
}

#[test]
fn nats_is_greeted_with_its_info_and_subscribes() {
    let info = said(opcode::BINARY, "INFO {\"server_id\":\"x\"}\r\n");
    let pong = |text: &str| vec![said(opcode::BINARY, text)];
    let (target, server) = serve(vec![info], vec![pong("PING\r\nPONG\r\n"), pong("PONG\r\n")]);
    connect(&target, Dialect::Nats, Role::Subscriber("load/1"), 0, 1).unwrap();
    let (request, came) = server.join().unwrap();
    assert!(!request.contains("Sec-WebSocket-Protocol"), "{request}");
    let connect = String::from_utf8(came[0].1.clone()).unwrap();
    assert!(connect.starts_with("CONNECT {") && connect.ends_with("}\r\nPING\r\n"), "{connect}");
    assert_eq!(came[1], said(opcode::BINARY, "SUB load/1 1\r\nPING\r\n"));
}

#[test]
fn a_nats_error_is_told() {
    let error = said(opcode::BINARY, "-ERR 'Authorization Violation'\r\n");
    let (target, server) = serve(vec![], vec![vec![error]]);
    let error = connect(&target, Dialect::Nats, Role::Publisher("t"), 0, 1).unwrap_err();
    assert!(error.ends_with("'Authorization Violation'"), "{error}");
    server.join().unwrap();
}

#[test]
fn a_plain_subscription_is_in_force_when_the_pong_comes() {
    let (target, server) = serve(vec![], vec![vec![], vec![said(opcode::PONG, [])]]);
    connect(&target, Dialect::Plain, Role::Subscriber("t"), 0, 1).unwrap();
    let (_, came) = server.join().unwrap();
    assert_eq!(came, [said(opcode::TEXT, "sub t"), said(opcode::PING, [])]);
}

#[test]
fn nchan_subscribes_and_publishes_by_its_path() {
    let (target, server) = serve(vec![], vec![vec![said(opcode::PONG, [])]]);
    connect(&target, Dialect::Nchan, Role::Subscriber("load/1"), 0, 1).unwrap();
    let (request, came) = server.join().unwrap();
    assert!(request.starts_with("GET /base/sub/load/1 HTTP/1.1\r\n"), "{request}");
    assert_eq!(came, [said(opcode::PING, [])]);
    let (target, server) = serve(vec![], vec![]);
    connect(&target, Dialect::Nchan, Role::Publisher("load/1"), 0, 1).unwrap();
    assert!(server.join().unwrap().0.starts_with("GET /base/pub/load/1 HTTP/1.1\r\n"));
}

#[test]
fn the_wrong_protocol_is_one_line() {
    let (target, server) = serve(vec![], vec![vec![said(opcode::CLOSE, [0x03, 0xeb])]]);
    let error = connect(&target, Dialect::Plain, Role::Subscriber("t"), 0, 1).unwrap_err();
    assert!(error.ends_with("connection 1: closed by the broker: 1003 "), "{error}");
    server.join().unwrap();
}
