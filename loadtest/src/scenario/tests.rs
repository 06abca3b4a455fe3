//! The whole program against a broker that does wrong on purpose: what it did is what must be told.
//!
//! The broker is a page of threads and locks that speaks just enough of `fanfare.json.v1`.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::{Load, TICK_NS, prepare_and_run};
use crate::{
    cli::{Broker, Run},
    client::Topic,
    codec::opcode,
    dialect::Dialect,
    payload::Payload,
    report::Report,
    schedule::Schedule,
    verify::Faults,
};

/// What the broker does with the tenth publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misdeed {
    None,
    /// Nobody gets it.
    LoseForAll,
    /// The last subscriber does not get it: a sink.
    LoseForSink,
    /// Everybody gets it twice.
    Duplicate,
    /// Everybody gets it after the eleventh.
    Swap,
    /// A byte of it is another.
    Corrupt,
    /// The first subscriber is disconnected.
    Disconnect,
}

#[derive(Default)]
struct State {
    subscribers: Vec<TcpStream>,
    seq: u64,
    held: Option<Vec<u8>>,
}

/// Six subscribers of which two are sampled, 100 publications in a second.
fn run_against(misdeed: Misdeed) -> Report {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let state = Arc::new(Mutex::new(State::default()));
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let state = state.clone();
            thread::spawn(move || serve(socket, &state, misdeed));
        }
    });
    let load = Load {
        topic: Topic {
            name: "load/1".to_owned(),
            schedule: Schedule { rate: 100, tick_ns: TICK_NS },
            payload: Payload::new(64),
            publishers: 2,
        },
        subscribers: 6,
        sample: 2,
    };
    let broker = Broker { url, protocol: Dialect::Json, pid: None };
    let run = Run { duration: 1, warmup: 0, drain: 1, cores: Vec::new(), json: None };
    prepare_and_run("test", &broker, &run, vec![load]).unwrap()
}

fn serve(mut socket: TcpStream, state: &Mutex<State>, misdeed: Misdeed) {
    let mut input = Vec::new();
    let mut is_upgraded = false;
    let mut part = [0; 4096];
    while let Ok(len @ 1..) = socket.read(&mut part) {
        input.extend_from_slice(&part[..len]);
        if !is_upgraded && input.ends_with(b"\r\n\r\n") {
            input.clear();
            is_upgraded = true;
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            let mut answer = head.as_bytes().to_vec();
            answer.extend(text_frame(r#"{"op":"hello","v":1}"#));
            socket.write_all(&answer).unwrap();
        }
        while let Some(text) = is_upgraded.then(|| take_frame(&mut input)).flatten() {
            let command: serde_json::Value = serde_json::from_str(&text).unwrap();
            let mut state = state.lock().unwrap();
            if command["op"] == "subscribe" {
                let ok = format!(r#"{{"op":"ok","id":1,"topic":"load/1","seq":{}}}"#, state.seq);
                socket.write_all(&text_frame(&ok)).unwrap();
                state.subscribers.push(socket.try_clone().unwrap());
            } else {
                publish(&mut state, command["data"].as_str().unwrap(), misdeed);
            }
        }
    }
}

fn publish(state: &mut State, data: &str, misdeed: Misdeed) {
    state.seq += 1;
    let seq = state.seq;
    let message = format!(r#"{{"op":"message","topic":"load/1","seq":{seq},"data":"{data}"}}"#);
    let frame = text_frame(&message);
    let last = state.subscribers.len() - 1;
    for (index, mut subscriber) in state.subscribers.iter().enumerate() {
        let bytes = match misdeed {
            Misdeed::LoseForAll if seq == 10 => vec![],
            Misdeed::LoseForSink if seq == 10 && index == 0 => vec![],
            Misdeed::Duplicate if seq == 10 => [&frame[..], &frame].concat(),
            Misdeed::Swap if seq == 10 => vec![],
            Misdeed::Swap if seq == 11 => [&frame[..], state.held.as_ref().unwrap()].concat(),
            Misdeed::Corrupt if seq == 10 => text_frame(&message.replace("abcd", "abCd")),
            Misdeed::Disconnect if seq == 10 && index == last => {
                subscriber.shutdown(std::net::Shutdown::Both).unwrap();
                vec![]
            }
            _ => frame.clone(),
        };
        let _ = subscriber.write_all(&bytes);
    }
    state.held = Some(frame);
}

fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode::TEXT];
    match text.len() {
        len @ 0..=125 => frame.push(len as u8),
        len => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}

/// Takes one masked frame off the front, if it is all there; anything but text reads as nothing.
fn take_frame(input: &mut Vec<u8>) -> Option<String> {
    let &[first, second, ..] = &input[..] else { return None };
    let (header, len) = match second & 0x7f {
        126 => (8, u16::from_be_bytes([*input.get(2)?, *input.get(3)?]) as usize),
        len => (6, len as usize),
    };
    if input.len() < header + len {
        return None;
    }
    let mask: [u8; 4] = input[header - 4..header].try_into().unwrap();
    let frame: Vec<u8> = input.drain(..header + len).collect();
    if first & 0x0f != opcode::TEXT {
        return None;
    }
    let unmasked = frame[header..].iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]).collect();
    String::from_utf8(unmasked).ok()
}

fn faults(misdeed: Misdeed) -> Faults {
    let report = run_against(misdeed);
    assert_eq!(report.topics[0].published, 100, "{misdeed:?}");
    assert_eq!(report.is_clean(), misdeed == Misdeed::None, "{misdeed:?}: {report}");
    report.topics[0].faults
}

#[test]
fn a_right_broker_is_found_right() {
    let report = run_against(Misdeed::None);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.topics[0].published, report.topics[0].subscribers), (100, 6));
    assert!((report.deliveries_per_s - 600.0).abs() < 30.0, "{report}");
    assert!(report.topics[0].latency_ms.max > 0.0);
}

#[test]
fn a_lost_publication_is_counted_for_everyone() {
    assert_eq!(faults(Misdeed::LoseForAll), Faults { lost: 6, ..Faults::default() });
}

#[test]
fn a_delivery_that_one_sink_lost_is_found_by_its_bytes() {
    assert_eq!(faults(Misdeed::LoseForSink), Faults { lost: 1, ..Faults::default() });
}

#[test]
fn a_duplicate_is_found() {
    assert_eq!(faults(Misdeed::Duplicate), Faults { duplicated: 6, ..Faults::default() });
}

#[test]
fn a_swap_is_found() {
    assert_eq!(faults(Misdeed::Swap), Faults { reordered: 2, ..Faults::default() });
}

#[test]
fn another_byte_is_found() {
    assert_eq!(faults(Misdeed::Corrupt), Faults { corrupted: 2, ..Faults::default() });
}

#[test]
fn a_disconnected_subscriber_lost_the_rest() {
    let report = run_against(Misdeed::Disconnect);
    assert_eq!((report.broken_connections, report.topics[0].faults.lost), (1, 91));
}

#[test]
fn a_broker_that_is_not_there_is_one_line() {
    let broker = Broker { url: "ws://127.0.0.1:1/ws".to_owned(), protocol: Dialect::Json, pid: None };
    let run = Run { duration: 1, warmup: 0, drain: 1, cores: Vec::new(), json: None };
    let load = Load {
        topic: Topic {
            name: "t".to_owned(),
            schedule: Schedule { rate: 1, tick_ns: TICK_NS },
            payload: Payload::new(32),
            publishers: 1,
        },
        subscribers: 1,
        sample: 1,
    };
    let error = prepare_and_run("test", &broker, &run, vec![load]).err().unwrap();
    assert!(error.starts_with("127.0.0.1:1: connection 1: ") && error.lines().count() == 1, "{error}");
}
