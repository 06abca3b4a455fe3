//! The whole scenario against a broker that keeps what is published, and does wrong on purpose.

use std::{
    collections::{BTreeSet, HashMap},
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::{
    cli::{Cli, Command},
    scenario::tests::{serve_commands, text_frame},
};

/// What the broker does with those who come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misdeed {
    None,
    /// It has kept nothing.
    Forget,
    /// The third publication does not come, to anybody.
    Lose,
    /// The third comes twice, to the second of them: nobody looks at it but for its bytes.
    Duplicate,
    /// The second of them is closed after half of it.
    Close,
}

#[derive(Default)]
struct Broker {
    /// By topic: what was published, by `seq` from 1, and who is subscribed.
    topics: HashMap<String, (Vec<String>, Vec<TcpStream>)>,
    /// Those who come back, by their place among all connections: in the order of the clients.
    returning: BTreeSet<usize>,
}

fn start(misdeed: Misdeed) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let broker = Arc::new(Mutex::new(Broker::default()));
    thread::spawn(move || {
        for (place, socket) in listener.incoming().flatten().enumerate() {
            let broker = Arc::clone(&broker);
            thread::spawn(move || {
                serve_commands(socket, |command, socket| {
                    broker.lock().unwrap().on_command(place, &command, socket, misdeed);
                });
            });
        }
    });
    url
}

impl Broker {
    fn on_command(&mut self, place: usize, command: &Value, mut socket: &TcpStream, misdeed: Misdeed) {
        let topic = command["topic"].as_str().unwrap();
        let (kept, subscribers) = self.topics.entry(topic.to_owned()).or_default();
        let id = &command["id"];
        let message = |seq: usize, data: &str| {
            text_frame(&format!(r#"{{"op":"message","topic":"{topic}","seq":{seq},"data":"{data}"}}"#))
        };
        if command["op"] == "publish" {
            kept.push(command["data"].as_str().unwrap().to_owned());
            let seq = kept.len();
            let frame = message(seq, &kept[seq - 1]);
            // Whoever is gone is not missed.
            subscribers.retain_mut(|it| it.write_all(&frame).is_ok());
            if !id.is_null() {
                let ok = format!(r#"{{"op":"ok","id":{id},"topic":"{topic}","seq":{seq}}}"#);
                socket.write_all(&text_frame(&ok)).unwrap();
            }
            return;
        }
        if topic == NOTHING {
            self.returning.insert(place);
        }
        let head = kept.len();
        let Some(since) = command["since"]["seq"].as_u64() else {
            let ok = format!(r#"{{"op":"ok","id":{id},"topic":"{topic}","seq":{head},"epoch":"9f"}}"#);
            socket.write_all(&text_frame(&ok)).unwrap();
            subscribers.push(socket.try_clone().unwrap());
            return;
        };
        assert_eq!(command["since"]["epoch"], "9f");
        let is_second = self.returning.iter().nth(1) == Some(&place);
        let missed: Vec<usize> = (since as usize + 1..=head).collect();
        let (is_recovered, replayed) = match misdeed {
            Misdeed::Forget => (false, 0),
            _ => (true, missed.len()),
        };
        let mut bytes = text_frame(&format!(
            r#"{{"op":"ok","id":{id},"topic":"{topic}","seq":{head},"epoch":"9f","recovered":{is_recovered},"replayed":{replayed}}}"#
        ));
        for (nth, seq) in missed.into_iter().enumerate().take(replayed) {
            let times = match (misdeed, nth) {
                (Misdeed::Lose, 2) => 0,
                (Misdeed::Duplicate, 2) if is_second => 2,
                _ => 1,
            };
            (0..times).for_each(|_| bytes.extend(message(seq, &kept[seq - 1])));
        }
        if misdeed == Misdeed::Close && is_second {
            bytes.truncate(bytes.len() / 2);
            let _ = socket.write_all(&bytes);
            let _ = socket.shutdown(std::net::Shutdown::Both);
            return;
        }
        socket.write_all(&bytes).unwrap();
    }
}

/// Four clients, of which the last is looked at, or each of them.
fn report_of(misdeed: Misdeed, flags: &[&str]) -> ResumeReport {
    let url = start(misdeed);
    let line = "fanfare-loadtest resume --clients 4 --missed 600 --size 64 --live 2 --rate 100 --sample 1 --warmup 0 \
                --duration 1 --drain 1 --url";
    let arguments = line.split_whitespace().chain([&*url]).chain(flags.iter().copied());
    let Command::Resume(options) = Cli::parse_from(arguments).command else { panic!() };
    measure_all(&options, Vec::new()).unwrap()
}

#[test]
fn everybody_gets_what_it_missed() {
    for flags in [&[][..], &["--verify", "all"]] {
        let report = report_of(Misdeed::None, flags);
        assert_eq!(report.failures, [""; 0], "{report}");
        assert!(report.passed && report.to_string().ends_with("PASS: everybody got exactly what it missed"));
        let storm = &report.storm;
        assert_eq!((storm.clients, storm.complete, storm.gaps), (4, 4, 0));
        assert_eq!(storm.sampled, if flags.is_empty() { 1 } else { 4 });
        assert!(storm.bytes > 4 * 600 * 64 && storm.elapsed_s > 0.0);
        assert!(report.with.topics[0].published > 0);
    }
}

#[test]
fn a_broker_that_keeps_nothing_is_told_how_to_be_started() {
    let report = report_of(Misdeed::Forget, &[]);
    assert!(
        report.failures[0].starts_with("recovered is not true: the broker must be started with a policy")
    );
    assert_eq!(report.storm.complete, 0);
    assert_eq!(report.storm.faults.lost, 4 * 600);
}

#[test]
fn what_the_broker_did_wrong_is_told() {
    let lose = report_of(Misdeed::Lose, &["--verify", "all"]);
    assert_eq!(lose.storm.faults, crate::verify::Faults { lost: 4, ..Default::default() });
    assert_eq!(lose.failures[..2], ["4 of 4 do not have everything", "4 lost"]);

    let duplicate = report_of(Misdeed::Duplicate, &[]);
    assert_eq!(duplicate.storm.faults, crate::verify::Faults { duplicated: 1, ..Default::default() });
    assert_eq!(duplicate.failures, ["1 duplicated"]);

    let close = report_of(Misdeed::Close, &[]);
    assert_eq!((close.storm.complete, close.storm.closed), (3, 1));
    assert_eq!(
        close.failures[..2],
        ["a client was closed: closed by the broker", "1 of 4 do not have everything"]
    );
    assert!(close.storm.faults.lost > 250, "{close}");
}
