//! The whole program against a broker that does wrong on purpose: what it did is what must be told.
//!
//! The broker is a page of threads and locks that speaks just enough of `fanfare.json.v1`.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use clap::Parser;
use rustix::process::{Signal, getpid, kill_process};

use super::{
    Bound, Plan, Setting, ensure_descriptors, find_max, idle, measure_watched, run_connect, run_plan,
};
use crate::{
    cli::{Broker, Cli, Command, Run},
    client::{Lane, Loss, Pace, Row, Watcher},
    codec::opcode,
    dialect::Dialect,
    output::Outputs,
    report::{self, Report},
    schedule::Schedule,
    verify::Faults,
};

/// What the broker does with the tenth publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misdeed {
    None,
    /// Nobody gets it.
    LoseForAll,
    /// The first subscriber does not get it: a sink.
    LoseForSink,
    /// The third subscriber does not get it: it is sampled.
    LoseForSampled,
    /// Everybody gets it twice.
    Duplicate,
    /// Everybody gets it after the eleventh.
    Swap,
    /// A byte of it is another.
    Corrupt,
    /// It says that there will be a gap, and loses it.
    Gap,
    /// The sixth subscriber is disconnected.
    Disconnect,
    /// All connections end, and nobody listens any more.
    Die,
    /// Its process is killed.
    EndProcess,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Subscription>,
    publishers: Vec<TcpStream>,
    seqs: HashMap<String, u64>,
    held: Option<Vec<u8>>,
}

struct Subscription {
    /// Its connection's place among all, in the order in which they were opened.
    connection: usize,
    topic: String,
    socket: TcpStream,
}

fn start_broker(misdeed: Misdeed) -> Broker {
    let state = Arc::new(Mutex::new(State::default()));
    listen(move |connection, socket| serve(connection, socket, &state, misdeed))
}

/// Has each connection served by a thread.
fn listen(serve: impl Fn(usize, TcpStream) + Clone + Send + 'static) -> Broker {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    thread::spawn(move || accept(&listener, serve));
    Broker { url, token: None, token_file: None, protocol: Dialect::Json, pid: None, metrics: None }
}

fn accept(listener: &TcpListener, serve: impl Fn(usize, TcpStream) + Clone + Send + 'static) {
    for (connection, socket) in listener.incoming().flatten().enumerate() {
        let serve = serve.clone();
        thread::spawn(move || serve(connection, socket));
    }
}

/// Where [`be_a_broker_that_is_killed`] is to listen, if it is to be one.
pub const BROKER_PORT: &str = "FANFARE_LOADTEST_BROKER_PORT";

/// No test: what a test of `compare` starts as a broker's process, which is this program again.
#[test]
fn be_a_broker_that_is_killed() {
    let Ok(port) = std::env::var(BROKER_PORT) else { return };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
    let state = Arc::new(Mutex::new(State::default()));
    accept(&listener, move |connection, socket| serve(connection, socket, &state, Misdeed::EndProcess));
}

fn one_second() -> Run {
    Run { duration: 1, warmup: 0, drain: 1, cores: Vec::new(), threads: 0, outputs: Outputs::default() }
}

fn setting<'a>(broker: &'a Broker, run: &'a Run, pace: Pace) -> Setting<'a> {
    Setting { broker, run, pace, parameters: vec![("rate".to_owned(), "100".to_owned())] }
}

/// Six subscribers of which two are sampled, two publishers, 100 publications in a second.
fn small_plan(lane: Lane) -> Plan {
    let mut plan = Plan::new("test".to_owned());
    let group = plan.add_group("load/1");
    let topic = plan.add_topic(group, "load/1".to_owned(), Schedule::of_one(100), 64);
    (0..6).for_each(|_| plan.subscribe(vec![topic], lane));
    (0..2).for_each(|_| plan.publish(&[topic], lane));
    plan.sample(group, 2);
    plan
}

#[derive(Default)]
struct Rows(Vec<Row>);

impl Watcher for Rows {
    fn on_row(&mut self, row: &Row) {
        self.0.push(row.clone());
    }
}

fn run_against(misdeed: Misdeed) -> Report {
    let (broker, run) = (start_broker(misdeed), one_second());
    measure_watched(&setting(&broker, &run, Pace::Open), &small_plan(Lane::Bulk), &mut Rows::default())
        .unwrap()
}

fn serve(connection: usize, socket: TcpStream, state: &Mutex<State>, misdeed: Misdeed) {
    let mut is_known = false;
    serve_commands(socket, |command, mut socket| {
        let topic = command["topic"].as_str().unwrap().to_owned();
        let mut state = state.lock().unwrap();
        if command["op"] == "subscribe" {
            let seq = state.seqs.get(&topic).copied().unwrap_or(0);
            let ok = format!(r#"{{"op":"ok","id":1,"topic":"{topic}","seq":{seq}}}"#);
            socket.write_all(&text_frame(&ok)).unwrap();
            let socket = socket.try_clone().unwrap();
            state.subscribers.push(Subscription { connection, topic, socket });
        } else {
            if !std::mem::replace(&mut is_known, true) {
                state.publishers.push(socket.try_clone().unwrap());
            }
            publish(&mut state, &topic, command["data"].as_str().unwrap(), misdeed);
        }
    });
}

/// A broker's side of a connection: upgrades and greets it, and hands on what it asks, until its end.
pub fn serve_commands(mut socket: TcpStream, mut on_command: impl FnMut(serde_json::Value, &TcpStream)) {
    let mut input = Vec::new();
    let mut is_upgraded = false;
    let mut part = [0; 4096];
    while let Ok(len @ 1..) = socket.read(&mut part) {
        input.extend_from_slice(&part[..len]);
        if !is_upgraded && input.ends_with(b"\r\n\r\n") {
            input.clear();
            is_upgraded = true;
            socket.write_all(&[UPGRADE, &text_frame(r#"{"op":"hello","v":1}"#)].concat()).unwrap();
        }
        while let Some(text) = is_upgraded.then(|| take_frame(&mut input)).flatten() {
            on_command(serde_json::from_str(&text).unwrap(), &socket);
        }
    }
}

/// What a broker answers to an upgrade.
const UPGRADE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn publish(state: &mut State, topic: &str, data: &str, misdeed: Misdeed) {
    let seq = state.seqs.entry(topic.to_owned()).or_default();
    *seq += 1;
    let seq = *seq;
    let message = format!(r#"{{"op":"message","topic":"{topic}","seq":{seq},"data":"{data}"}}"#);
    let gap = r#"{"op":"gap","topic":"load/1","from":10,"to":10,"reason":"slow_consumer"}"#;
    let frame = text_frame(&message);
    if misdeed == Misdeed::EndProcess && seq == 10 {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    if misdeed == Misdeed::Die && seq == 10 {
        let subscribers = state.subscribers.iter().map(|it| &it.socket);
        for socket in subscribers.chain(&state.publishers) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        return;
    }
    for Subscription { connection, socket, .. } in state.subscribers.iter().filter(|it| it.topic == topic) {
        let (index, mut subscriber) = (*connection, socket);
        let bytes = match misdeed {
            Misdeed::LoseForAll if seq == 10 => vec![],
            Misdeed::LoseForSink if seq == 10 && index == 0 => vec![],
            Misdeed::LoseForSampled if seq == 10 && index == 2 => vec![],
            Misdeed::Duplicate if seq == 10 => [&frame[..], &frame].concat(),
            Misdeed::Swap if seq == 10 => vec![],
            Misdeed::Swap if seq == 11 => [&frame[..], state.held.as_ref().unwrap()].concat(),
            Misdeed::Corrupt if seq == 10 => text_frame(&message.replace("abcd", "abCd")),
            Misdeed::Gap if seq == 10 && index == 2 => text_frame(gap),
            Misdeed::Disconnect if seq == 10 && index == 5 => {
                subscriber.shutdown(Shutdown::Both).unwrap();
                vec![]
            }
            _ => frame.clone(),
        };
        let _ = subscriber.write_all(&bytes);
    }
    state.held = Some(frame);
}

/// A broker's frame.
pub fn text_frame(text: &str) -> Vec<u8> {
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
    assert!(report.is_clean() && report.passed, "{report}");
    let topic = &report.topics[0];
    assert_eq!((topic.published, topic.subscribers, topic.sampled), (100, 6, 2));
    assert!(topic.latency_ms.max > 0.0);
    assert_eq!(topic.histogram.iter().map(|it| it.1).sum::<u64>(), 200);
    // Every second's deliveries together are all that there were, wherever the seconds are cut.
    let deliveries: f64 = report.series.iter().map(|it| it.deliveries).sum();
    assert!((deliveries - 600.0).abs() < 1.0, "{deliveries}");
    assert!(report.losses.is_empty());
}

#[test]
fn a_topic_on_a_thread_of_its_own_is_verified_all_the_same() {
    let (broker, run) = (start_broker(Misdeed::LoseForSampled), one_second());
    let setting = setting(&broker, &run, Pace::Open);
    let report = measure_watched(&setting, &small_plan(Lane::Quick), &mut Rows::default()).unwrap();
    assert_eq!(report.topics[0].faults, Faults { lost: 1, ..Faults::default() });
    assert_eq!(report.client_threads.len(), 2);
}

#[test]
fn several_threads_find_the_same() {
    let (broker, run) = (start_broker(Misdeed::Swap), Run { threads: 3, ..one_second() });
    let setting = setting(&broker, &run, Pace::Open);
    let report = measure_watched(&setting, &small_plan(Lane::Bulk), &mut Rows::default()).unwrap();
    assert_eq!(report.topics[0].faults, Faults { reordered: 2, ..Faults::default() }, "{report}");
}

#[test]
fn several_topics_on_one_connection_are_told_apart() {
    let (broker, run) = (start_broker(Misdeed::None), one_second());
    let mut plan = Plan::new("test".to_owned());
    let group = plan.add_group("tick");
    for index in 0..3 {
        plan.add_topic(group, format!("tick/{index}"), Schedule::of_many(90, index, 3), 64);
    }
    for index in 0..6 {
        plan.subscribe(vec![index % 3, (index + 1) % 3], Lane::Bulk);
    }
    plan.publish(&[0, 2], Lane::Bulk);
    plan.publish(&[1], Lane::Bulk);
    plan.sample(group, 3);
    let setting = setting(&broker, &run, Pace::Open);
    let report = measure_watched(&setting, &plan, &mut Rows::default()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.topics[0].published, report.topics[0].topics), (90, 3));
    let deliveries: f64 = report.series.iter().map(|it| it.deliveries).sum();
    assert!((deliveries - 360.0).abs() < 1.0, "{deliveries}");
}

#[test]
fn a_closed_loop_publishes_no_more_than_its_window_ahead() {
    let (broker, run) = (start_broker(Misdeed::None), one_second());
    let setting = setting(&broker, &run, Pace::Closed { window: 4 });
    let report = measure_watched(&setting, &small_plan(Lane::Bulk), &mut Rows::default()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(report.topics[0].published > 8, "{report}");
}

/// The window never opens again: nothing more is published than two publishers' windows and what came
/// before.
#[test]
fn a_closed_loop_waits_for_what_is_lost() {
    let (broker, run) = (start_broker(Misdeed::LoseForAll), one_second());
    let setting = setting(&broker, &run, Pace::Closed { window: 1 });
    let mut plan = Plan::new("test".to_owned());
    let group = plan.add_group("load/1");
    let topic = plan.add_topic(group, "load/1".to_owned(), Schedule::of_one(1), 64);
    plan.subscribe(vec![topic], Lane::Bulk);
    plan.publish(&[topic], Lane::Bulk);
    plan.sample(group, 1);
    let report = measure_watched(&setting, &plan, &mut Rows::default()).unwrap();
    assert_eq!((report.topics[0].published, report.lost()), (10, 1), "{report}");
}

#[test]
fn a_lost_publication_is_counted_for_everyone() {
    assert_eq!(faults(Misdeed::LoseForAll), Faults { lost: 6, ..Faults::default() });
}

#[test]
fn a_delivery_that_one_sink_lost_is_found_by_its_bytes() {
    let report = run_against(Misdeed::LoseForSink);
    let expected = Loss {
        subscriber: 0,
        topic: "load/1".to_owned(),
        is_sampled: false,
        faults: Faults { lost: 1, ..Faults::default() },
        gaps: 0,
        first_missing: None,
    };
    assert_eq!(report.losses, [expected]);
    let row = "| load/1 |          0 |   bytes |    1 |    0 |      0 |       0 |    0 |             – |";
    assert!(report.to_string().contains(row), "{report}");
}

#[test]
fn a_delivery_that_a_sampled_subscriber_lost_is_named() {
    let report = run_against(Misdeed::LoseForSampled);
    assert_eq!(report.losses.len(), 1, "{report}");
    let loss = &report.losses[0];
    assert_eq!((loss.subscriber, loss.is_sampled, loss.first_missing), (2, true, Some(10)));
}

/// What was lost on the way was not the newest, and is no loss; another order is.
#[test]
fn conflated_a_loss_on_the_way_is_none() {
    let run_conflated = |misdeed| {
        let (broker, run) = (start_broker(misdeed), one_second());
        let mut plan = small_plan(Lane::Bulk);
        plan.conflate();
        measure_watched(&setting(&broker, &run, Pace::Open), &plan, &mut Rows::default()).unwrap()
    };
    for misdeed in [Misdeed::None, Misdeed::LoseForAll, Misdeed::LoseForSampled, Misdeed::Gap] {
        let report = run_conflated(misdeed);
        assert!(
            report.passed && report.to_string().ends_with("the newest came, and the order rose"),
            "{report}"
        );
    }
    let report = run_conflated(Misdeed::Swap);
    assert_eq!(report.topics[0].faults, Faults { reordered: 2, ..Faults::default() });
}

#[test]
fn an_announced_gap_is_a_loss_and_an_announcement() {
    let report = run_against(Misdeed::Gap);
    assert_eq!((report.topics[0].faults.lost, report.topics[0].gaps, report.losses[0].gaps), (1, 1, 1));
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
    assert_eq!(report.ended_early_s, None);
}

#[test]
fn a_broker_that_dies_leaves_what_came_until_then() {
    let report = run_against(Misdeed::Die);
    assert!(!report.is_clean() && report.ended_early_s.is_some(), "{report}");
    assert_eq!(report.broken_connections, 8);
    let deliveries: f64 = report.series.iter().map(|it| it.deliveries).sum();
    assert!((deliveries - 54.0).abs() < 1.0, "{deliveries}");
    let text = report.to_string();
    assert!(text.contains("ENDED EARLY") && text.contains("8 connections ended: ") && text.ends_with("FAIL"));
    assert!(report::page(&report).contains("Ended early"));
}

/// What anyone opens a report for is in it, and nothing has to be fetched.
#[test]
fn a_page_needs_nothing_but_itself() {
    let report = run_against(Misdeed::LoseForSampled);
    let page = report::page(&report);
    for part in ["Failed", "Throughput", "Latency histogram", "<svg", "p99.9", "load/1", "<dt>rate</dt>"] {
        assert!(page.contains(part), "{part}");
    }
    for part in ["http:", "https:", "<script", "<link", "url(", "NaN"] {
        assert!(!page.contains(part), "{part}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["passed"], false);
    assert_eq!(json["losses"][0]["subscriber"], 2);
    assert!(json["series"][0]["deliveries"].is_number() && json["environment"]["kernel"].is_string());
}

/// With one try there is no knee, only what held.
#[test]
fn a_search_tries_no_more_than_it_may() {
    let (broker, run) = (start_broker(Misdeed::None), one_second());
    let setting = setting(&broker, &run, Pace::Open);
    let bound = |p99_ms| Bound { p99_ms, tries: 1 };
    assert_eq!(find_max(&setting, bound(1e6), 100, |_| Ok(small_plan(Lane::Bulk))), Ok(true));
    let broker = start_broker(Misdeed::LoseForAll);
    let setting = Setting { broker: &broker, ..setting };
    assert_eq!(find_max(&setting, bound(1e6), 100, |_| Ok(small_plan(Lane::Bulk))), Ok(false));
}

/// A scenario that is no plan, run with its page written: whether it passed, the page, the JSON.
fn run_and_read(name: &str, arguments: &[&str]) -> (bool, String, serde_json::Value) {
    let directory = std::env::temp_dir().join(format!("fanfare-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (html, json) = (directory.join("page.html"), directory.join("result.json"));
    let files = ["--html", html.to_str().unwrap(), "--json", json.to_str().unwrap()];
    let line = [&["fanfare-loadtest"], arguments, &files].concat();
    let passed = match Cli::parse_from(line).command {
        Command::Connect(it) => run_connect(&it, Vec::new()).unwrap(),
        Command::Idle(it) => idle::run(&it, Vec::new()).unwrap(),
        other => panic!("{other:?}"),
    };
    let result = (std::fs::read_to_string(html).unwrap(), std::fs::read(json).unwrap());
    std::fs::remove_dir_all(directory).unwrap();
    (passed, result.0, serde_json::from_slice(&result.1).unwrap())
}

#[test]
fn upgrades_have_a_page() {
    let broker = start_broker(Misdeed::None);
    let arguments = ["connect", "--url", &broker.url, "--rate", "200", "--duration", "1"];
    let (passed, page, json) = run_and_read("connect", &arguments);
    assert!(passed && json["upgrades"] == 200 && json["series"][0]["p99_ms"].is_number(), "{json}");
    for part in ["Passed: everybody was upgraded", "upgrades/s", "Latency histogram", "<svg"] {
        assert!(page.contains(part), "{part}");
    }
}

/// The broker's process is this one: all that is asked of it is memory and CPU time.
#[test]
fn idle_connections_have_a_page() {
    let (broker, pid) = (start_broker(Misdeed::None), std::process::id().to_string());
    let arguments =
        ["idle", "--url", &broker.url, "--pid", &pid, "--connections", "20", "--hold", "1", "--topics", "3"];
    let (passed, page, json) = run_and_read("idle", &arguments);
    assert!(passed && json["connections"] == 20 && json["closed"] == 0 && json["held_s"] == 1, "{json}");
    assert!(json["series"].as_array().unwrap().last().unwrap()["connections"] == 20, "{json}");
    for part in ["Passed: everybody was subscribed and stayed", "MiB resident", "<svg"] {
        assert!(page.contains(part), "{part}");
    }
}

/// What there was until then is kept: how many were open, and why there are no more.
#[test]
fn a_broker_that_takes_no_more_leaves_what_was_open() {
    let state = Arc::new(Mutex::new(State::default()));
    let broker = listen(move |connection, socket| {
        if connection < 12 {
            serve(connection, socket, &state, Misdeed::None);
        }
    });
    let pid = std::process::id().to_string();
    let arguments = ["idle", "--url", &broker.url, "--pid", &pid, "--connections", "20"];
    let (passed, page, json) = run_and_read("idle-partial", &arguments);
    let reason = json["failed_reason"].as_str().unwrap();
    assert!(!passed && json["connections"] == 12 && reason.contains("connection 13: "), "{json}");
    assert!(page.contains("connection 13: ") && page.contains("Failed"));
}

fn error_of(broker: &Broker, run: &Run) -> String {
    let error = run_plan(&setting(broker, run, Pace::Open), &small_plan(Lane::Bulk)).unwrap_err();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn a_broker_that_is_not_there_is_one_line() {
    let broker = Broker {
        url: "ws://127.0.0.1:1/ws".to_owned(),
        token: None,
        token_file: None,
        protocol: Dialect::Json,
        pid: None,
        metrics: None,
    };
    let error = error_of(&broker, &one_second());
    assert!(error.starts_with("127.0.0.1:1: connection 1: "), "{error}");
}

#[test]
fn a_server_that_is_no_websocket_is_one_line() {
    let broker = listen(|_, mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let error = error_of(&broker, &one_second());
    assert!(error.ends_with("connection 1: not an upgrade: HTTP/1.1 200 OK"), "{error}");
}

#[test]
fn a_websocket_that_speaks_another_protocol_is_one_line() {
    let broker = listen(|_, mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.write_all(&[UPGRADE, &text_frame("welcome to our chat")].concat());
        let _ = socket.read(&mut [0; 4096]);
    });
    let error = error_of(&broker, &one_second());
    assert!(error.contains("not a message") && error.contains("welcome to our chat"), "{error}");
    let plain = Broker { protocol: Dialect::Plain, ..broker };
    let error = error_of(&plain, &one_second());
    assert!(error.ends_with("not a server for this protocol: it says welcome to our chat"), "{error}");
}

#[test]
fn more_connections_than_descriptors_are_refused_before_any_is_opened() {
    let error = ensure_descriptors(100_000_000).unwrap_err();
    assert!(error.starts_with("100000000 connections need 100000064 descriptors, the limit is "), "{error}");
    assert_eq!(ensure_descriptors(10), Ok(()));
}

/// Before anyone is connected: there is nobody there.
#[test]
fn a_file_that_cannot_be_written_is_told_before_the_run() {
    let broker = Broker {
        url: "ws://127.0.0.1:1/ws".to_owned(),
        token: None,
        token_file: None,
        protocol: Dialect::Json,
        pid: None,
        metrics: None,
    };
    let outputs = Outputs { json: None, html: Some("/nowhere/report.html".into()) };
    let error = error_of(&broker, &Run { outputs, ..one_second() });
    assert!(error.starts_with("cannot write /nowhere/report.html: "), "{error}");
}
