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
        read_greeting(&mut socket, rest)?;
        let is_compressed = head.contains(EXTENSION);
        Ok(Client { socket, reader: Reader::default(), is_compressed })
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

/// Reads the first message.
fn read_greeting(socket: &mut TcpStream, mut bytes: Vec<u8>) -> Result<(), String> {
    let mut deframer = Deframer::default();
    loop {
        let mut is_greeted = false;
        deframer.feed(&bytes, |frame| {
            if frame.opcode == opcode::CLOSE {
                return Err(connect::describe_close(frame.payload));
            }
            is_greeted = true;
            Ok(())
        })?;
        if is_greeted {
            return Ok(());
        }
        bytes.resize(4096, 0);
        let len = read_some(socket, &mut bytes)?;
        bytes.truncate(len);
    }
}

fn read_some(socket: &mut TcpStream, bytes: &mut [u8]) -> Result<usize, String> {
    match socket.read(bytes) {
        Ok(0) => Err("closed by the broker".to_owned()),
        Ok(len) => Ok(len),
        Err(error) => Err(format!("no answer: {error}")),
    }
}
