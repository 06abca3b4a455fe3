//! A connection of this scenario: opened one at a time, with what its greeting tells.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::{
    codec::{Deframer, opcode},
    connect::{self, Target},
    dialect::{Dialect, Message, Reader, Role},
};

/// What asks for compression, and what says that it was agreed to.
const EXTENSION: &str = "permessage-deflate";

/// An upgraded connection that was greeted.
#[derive(Debug)]
pub struct Client {
    /// Blocking, with a limit on how long a read may take.
    pub socket: TcpStream,
    /// Nothing was cut off in it yet.
    pub reader: Reader,
    /// The number of the reactor that it is on, as its name begins with it; 0 if it has no such name.
    pub reactor: u8,
    /// Whether the broker takes compressed messages from it.
    pub is_compressed: bool,
}

impl Client {
    /// Opens one; `index` numbers them for spreading source addresses.
    ///
    /// # Errors
    /// One line that names the broker.
    pub fn open(target: &Target, index: usize, asks_for_compression: bool) -> Result<Client, String> {
        Client::try_open(target, index, asks_for_compression)
            .map_err(|error| format!("{}: connection {}: {error}", target.address(), index + 1))
    }

    fn try_open(target: &Target, index: usize, asks_for_compression: bool) -> Result<Client, String> {
        let mut request = connect::upgrade_request(target, Dialect::Json, Role::Publisher(""));
        if asks_for_compression {
            request.truncate(request.len() - "\r\n".len());
            request += &format!("Sec-WebSocket-Extensions: {EXTENSION}\r\n\r\n");
        }
        let mut socket = connect::open_socket(target.address(), index).map_err(|error| error.to_string())?;
        socket.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let (head, rest) = connect::read_upgrade(&mut socket)?;
        let reactor = read_greeting(&mut socket, rest)?;
        let is_compressed = head.contains(EXTENSION);
        Ok(Client { socket, reader: Reader::default(), reactor, is_compressed })
    }

    /// Subscribes; the `seq` that the subscription starts after.
    ///
    /// # Errors
    /// One line.
    pub fn subscribe(&mut self, topic: &str) -> Result<u64, String> {
        let mut command = Vec::new();
        Dialect::Json.write_subscribe(topic, &mut command);
        self.socket.write_all(&command).map_err(|error| format!("subscribe {topic}: {error}"))?;
        let mut started = None;
        self.read_until(|message| {
            if let Message::Ok { seq, .. } = message {
                started = Some(seq);
            }
            started.is_some()
        })
        .map_err(|error| format!("subscribe {topic}: {error}"))?;
        Ok(started.expect("it was read until it was there"))
    }

    /// Reads until `is_enough` says so of a message.
    ///
    /// # Errors
    /// One line: what the broker refused, or that it closed or is silent.
    pub fn read_until(&mut self, mut is_enough: impl FnMut(Message<'_>) -> bool) -> Result<(), String> {
        let mut bytes = vec![0; 64 * 1024];
        let mut is_over = false;
        while !is_over {
            let len = read_some(&mut self.socket, &mut bytes)?;
            let mut on_message = |message: Message<'_>| match message {
                Message::Error(error) => Err(error),
                message => {
                    is_over |= is_enough(message);
                    Ok(())
                }
            };
            self.reader.feed(Dialect::Json, &bytes[..len], &mut on_message)?;
        }
        Ok(())
    }

    /// Keeps the kernel from reading ahead for one who does not read.
    pub fn receive_little(&self) {
        let _ = socket2::SockRef::from(&self.socket).set_recv_buffer_size(4096);
    }
}

/// Reads the first message, and which reactor it names.
fn read_greeting(socket: &mut TcpStream, mut bytes: Vec<u8>) -> Result<u8, String> {
    let mut deframer = Deframer::default();
    loop {
        let mut reactor = None;
        deframer.feed(&bytes, |frame| {
            if frame.opcode == opcode::CLOSE {
                return Err(connect::describe_close(frame.payload));
            }
            reactor = Some(reactor_of(frame.payload));
            Ok(())
        })?;
        if let Some(reactor) = reactor {
            return Ok(reactor);
        }
        bytes.resize(4096, 0);
        let len = read_some(socket, &mut bytes)?;
        bytes.truncate(len);
    }
}

fn reactor_of(hello: &[u8]) -> u8 {
    let hello: serde_json::Value = serde_json::from_slice(hello).unwrap_or_default();
    let name = hello["conn"].as_str().and_then(|it| it.get(..2));
    name.and_then(|it| u8::from_str_radix(it, 16).ok()).unwrap_or(0)
}

fn read_some(socket: &mut TcpStream, bytes: &mut [u8]) -> Result<usize, String> {
    match socket.read(bytes) {
        Ok(0) => Err("closed by the broker".to_owned()),
        Ok(len) => Ok(len),
        Err(error) => Err(format!("no answer: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_names_its_reactor() {
        assert_eq!(reactor_of(br#"{"op":"hello","conn":"0a00000000000001"}"#), 10);
        assert_eq!(reactor_of(br#"{"op":"hello"}"#), 0);
        assert_eq!(reactor_of(b"welcome"), 0);
    }
}
