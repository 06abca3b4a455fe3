//! The whole scenario against a broker that keeps the newest of each topic, and does wrong on purpose.

use std::{
    collections::BTreeMap,
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
    verify::Faults,
};

/// What the broker does with those who subscribe to the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misdeed {
    None,
    /// The fourth topic does not come.
    Lose,
    /// The fourth topic comes twice.
    Duplicate,
    /// The fourth topic comes with what was published to it before the newest, to whoever comes back.
    Stale,
    /// Whoever comes back gets everything.
    Everything,
    /// It says that it does not recover what was missed.
    Forget,
    /// Whoever comes back is closed without a word.
    Close,
    /// It never says `replayed`.
    Silence,
}

#[derive(Default)]
struct Broker {
    topics: BTreeMap<String, Topic>,
    moment: u64,
}

#[derive(Default)]
struct Topic {
    /// What was published, and at which moment.
    kept: Vec<(String, u64)>,
    subscribers: Vec<TcpStream>,
}

fn start(misdeed: Misdeed) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let broker = Arc::new(Mutex::new(Broker::default()));
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let broker = Arc::clone(&broker);
            thread::spawn(move || {
                serve_commands(socket, |command, socket| {
                    broker.lock().unwrap().on_command(&command, socket, misdeed);
                });
            });
        }
    });
    url
}

impl Broker {
    fn on_command(&mut self, command: &Value, mut socket: &TcpStream, misdeed: Misdeed) {
        let topic = command["topic"].as_str().unwrap();
        let id = &command["id"];
        if topic == FILTER {
            return self.on_filter(command, socket, misdeed);
        }
        let Topic { kept, subscribers } = self.topics.entry(topic.to_owned()).or_default();
        if command["op"] == "publish" {
            kept.push((command["data"].as_str().unwrap().to_owned(), self.moment));
            let frame = message(topic, kept.len(), &kept[kept.len() - 1].0);
            // Whoever is gone is not missed.
            subscribers.retain_mut(|it| it.write_all(&frame).is_ok());
        } else {
            subscribers.push(socket.try_clone().unwrap());
        }
        if !id.is_null() {
            let ok =
                format!(r#"{{"op":"ok","id":{id},"topic":"{topic}","seq":{},"epoch":"9f"}}"#, kept.len());
            socket.write_all(&text_frame(&ok)).unwrap();
        }
    }

    fn on_filter(&mut self, command: &Value, mut socket: &TcpStream, misdeed: Misdeed) {
        let since = command["since"]["at"].as_str().map(|at| at.parse::<u64>().unwrap());
        assert!(since.is_some() || command["last"] == 1, "{command}");
        if since.is_some() && misdeed == Misdeed::Close {
            return socket.shutdown(std::net::Shutdown::Both).unwrap();
        }
        self.moment += 1;
        let mut bytes = text_frame(r##"{"op":"ok","id":1,"topic":"retained/topic/#"}"##);
        let mut count = 0;
        let matching = self.topics.iter().filter(|(name, _)| name.starts_with("retained/topic/"));
        for (name, Topic { kept, .. }) in matching {
            let (newest, moment) = &kept[kept.len() - 1];
            if since.is_some_and(|since| *moment < since) && misdeed != Misdeed::Everything {
                continue;
            }
            let is_fourth = name == "retained/topic/3";
            let times = match misdeed {
                Misdeed::Lose if is_fourth => 0,
                Misdeed::Duplicate if is_fourth => 2,
                _ => 1,
            };
            let (seq, data) = match misdeed {
                Misdeed::Stale if is_fourth && kept.len() > 1 => (1, &kept[0].0),
                _ => (kept.len(), newest),
            };
            (0..times).for_each(|_| bytes.extend(message(name, seq, data)));
            count += times;
        }
        let (is_recovered, at) = (misdeed != Misdeed::Forget, self.moment);
        if misdeed != Misdeed::Silence {
            bytes.extend(text_frame(&format!(
                r##"{{"op":"replayed","topic":"retained/topic/#","count":{count},"recovered":{is_recovered},"at":"{at}"}}"##
            )));
        }
        // Whoever is gone is not missed.
        let _ = socket.write_all(&bytes);
    }
}

fn message(topic: &str, seq: usize, data: &str) -> Vec<u8> {
    text_frame(&format!(r#"{{"op":"message","topic":"{topic}","seq":{seq},"data":"{data}"}}"#))
}

/// Twelve topics, of which four change in each round: the first, the fourth, … and then those behind them.
fn report_of(misdeed: Misdeed, rounds: &str) -> RetainedReport {
    let url = start(misdeed);
    let line = "fanfare-loadtest retained --topics 12 --changed 4 --size 64 --live 2 --rate 100 --warmup 0 \
                --duration 1 --drain 3 --url";
    let arguments = line.split_whitespace().chain([&*url, "--rounds", rounds]);
    let Command::Retained(options) = Cli::parse_from(arguments).command else { panic!() };
    measure_all(&options, Vec::new()).unwrap()
}

#[test]
fn everybody_gets_exactly_what_they_must() {
    let report = report_of(Misdeed::None, "2");
    assert_eq!(report.failures, [""; 0], "{report}");
    assert!(report.passed && report.to_string().ends_with("PASS: everybody got exactly what they must"));
    assert_eq!(report.rounds.len(), 2);
    for round in &report.rounds {
        assert!(round.tours.len() > 1 && round.tours.iter().all(|it| it.is_good() && it.come == 12));
        let back = round.back.as_ref().unwrap();
        assert!(back.is_good() && back.come == 4 && back.ms > 0.0);
        assert!(round.with.topics[0].published > 0 && round.turns.is_none());
    }
    assert!(report.memory.are_new && report.topic_bytes.is_none(), "{:?}", report.memory);
    assert!(report.page().contains("everybody got exactly what they must"));
}

/// What the first tour and whoever came back got wrong, and what is told of it.
fn told(misdeed: Misdeed) -> (Faults, Faults, Vec<String>) {
    let RetainedReport { passed, rounds, failures, .. } = report_of(misdeed, "1");
    assert!(!passed);
    let faults = |replay: Option<&Replay>| replay.map_or_else(Faults::default, |it| it.faults);
    (faults(rounds[0].tours.first()), faults(rounds[0].back.as_ref()), failures)
}

#[test]
fn what_is_lost_or_comes_twice_is_told() {
    let none = Faults::default();
    let (tour, back, failures) = told(Misdeed::Lose);
    assert_eq!((tour, back), (Faults { lost: 1, ..none }, Faults { lost: 1, ..none }));
    assert!(failures[0].ends_with(" tours do not have everything"), "{failures:?}");
    assert!(failures[1].starts_with("tours: ") && failures[1].ends_with(" lost"), "{failures:?}");
    let (tour, back, _) = told(Misdeed::Duplicate);
    assert_eq!((tour, back), (Faults { duplicated: 1, ..none }, Faults { duplicated: 1, ..none }));
}

#[test]
fn who_comes_back_to_what_it_must_not_get_is_told() {
    let none = Faults::default();
    let (tour, back, failures) = told(Misdeed::Stale);
    assert_eq!((tour, back), (none, Faults { corrupted: 1, ..none }));
    assert_eq!(failures, ["returns: 1 corrupted"]);
    let (tour, back, failures) = told(Misdeed::Everything);
    assert_eq!((tour, back), (none, Faults { duplicated: 8, ..none }));
    assert_eq!(failures, ["returns: 8 duplicated"]);
    let (.., failures) = told(Misdeed::Forget);
    assert!(
        failures[0].starts_with("returns: recovered is not true: the broker must be started"),
        "{failures:?}"
    );
}

#[test]
fn a_subscription_that_comes_to_no_end_is_told() {
    let (_, back, failures) = told(Misdeed::Close);
    assert_eq!(back.lost, 4);
    assert_eq!(failures[0], "returns: it was closed by the broker");
    let (.., failures) = told(Misdeed::Silence);
    assert_eq!(failures[0], "tours: replayed did not come in time");
    assert!(failures.contains(&"not in every round somebody came back".to_owned()), "{failures:?}");
}

#[test]
fn others_change_in_every_round_and_none_twice_in_one() {
    assert_eq!(changed(12, 4, 0), [0, 3, 6, 9]);
    assert_eq!(changed(12, 4, 2), [2, 5, 8, 11]);
    for (topics, count) in [(1, 1), (7, 3), (100, 99), (1_000, 1_000)] {
        for round in [0, 1, 999] {
            let mut all = changed(topics, count, round);
            all.sort_unstable();
            all.dedup();
            assert!(all.len() == count && all.iter().all(|it| *it < topics), "{topics} {count} {round}");
        }
    }
}

#[test]
fn what_cannot_be_asked_for_is_told_before_anything_is_done() {
    for (flags, error) in [
        (&["--topics", "10", "--changed", "11"][..], "--changed 11 is more than --topics 10"),
        (
            &["--protocol", "mqtt"],
            "retained speaks fanfare's two languages: fanfare-json and fanfare-bin only",
        ),
    ] {
        let line = [&["fanfare-loadtest", "retained"], flags].concat();
        let Command::Retained(options) = Cli::parse_from(line).command else { panic!() };
        assert_eq!(measure_all(&options, Vec::new()).unwrap_err(), error);
    }
}
