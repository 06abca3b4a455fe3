//! A broker is replaced by another while clients connect: by takeover, and under a service manager that keeps
//! the listeners. Nobody is refused, and whoever breaks down in the middle, somebody serves.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, IoSlice, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::{self, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use rustix::{
    cmsg_space,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::common::{
    Broker, PATIENCE, broker_command, get,
    raw::{CLOSE, PING, PONG, Raw, UPGRADE, frame},
};

/// What a broker here says that clients should come back after is below.
const DRAIN_MS: u64 = 7_000;
/// No test waits for it: every client that holds a takeover up is meant to, or answers.
const SETTINGS: [&str; 2] = ["timeouts.drain_ms=7000", "timeouts.takeover_ms=60000"];

/// The path of a control socket of the test's own, and the setting of that.
fn control_socket() -> (PathBuf, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("fanfare-test-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // Not in the target directory, whose path may be longer than a socket's may be.
    let path = std::env::temp_dir().join(name);
    let setting = format!("control.socket={}", path.display());
    (path, setting)
}

fn start(reactors: usize, control: &str) -> Broker {
    let settings: Vec<&str> = SETTINGS.into_iter().chain([control]).collect();
    Broker::start(reactors, &settings)
}

/// Takes the close of a restart and answers it.
fn come_back(mut raw: Raw) {
    let retry_after_ms = raw.receive_restart();
    assert!(retry_after_ms < DRAIN_MS, "{retry_after_ms}");
    // The broker may cut what it had not received yet.
    raw.send_while_taken(&frame(CLOSE, &1012_u16.to_be_bytes()), usize::MAX);
}

/// Clients without end: some connect, upgrade, ask and leave; subscribers stay, and come back when they are
/// told to, at once. Nobody may be refused, or reset without a reason.
struct Storm {
    is_over: Arc<AtomicBool>,
    connects: mpsc::Receiver<()>,
    visitors: Vec<JoinHandle<()>>,
    /// Each returns the epochs that it met.
    subscribers: Vec<JoinHandle<BTreeSet<String>>>,
}

impl Storm {
    const VISITORS: usize = 8;
    const SUBSCRIBERS: usize = 24;

    fn start(address: SocketAddr) -> Storm {
        let is_over = Arc::new(AtomicBool::new(false));
        let (sender, connects) = mpsc::channel();
        let visitor = |_| {
            let (sender, is_over) = (sender.clone(), Arc::clone(&is_over));
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    visit(address);
                    // A test that failed does not listen.
                    let _ = sender.send(());
                }
            })
        };
        let visitors = (0..Storm::VISITORS).map(visitor).collect();
        let subscribers = (0..Storm::SUBSCRIBERS).map(|_| thread::spawn(move || stay(address))).collect();
        Storm { is_over, connects, visitors, subscribers }
    }

    /// Waits for so many more visits.
    fn pass(&self, count: usize) {
        for _ in 0..count {
            self.connects.recv_timeout(PATIENCE).expect("clients connect");
        }
    }

    /// Ends it: every subscriber gets one more publication, and has met `broker_count` brokers at most, the
    /// first and the last one at least.
    fn end(self, broker: &Broker, broker_count: usize) {
        self.is_over.store(true, Ordering::Relaxed);
        for visitor in self.visitors {
            visitor.join().unwrap();
        }
        // Again and again, for those that are on their way back.
        let mut publisher = Raw::open(broker.address);
        while !self.subscribers.iter().all(JoinHandle::is_finished) {
            let ok = publisher.ask(&json!({"op": "publish", "topic": "end", "data": 1, "id": 1}).to_string());
            assert_eq!(ok["op"], "ok");
        }
        let mut all = BTreeSet::new();
        for subscriber in self.subscribers {
            let epochs = subscriber.join().unwrap();
            assert!((2..=broker_count).contains(&epochs.len()), "{epochs:?}");
            all.extend(epochs);
        }
        assert_eq!(all.len(), broker_count, "{all:?}");
    }
}

fn visit(address: SocketAddr) {
    let mut raw = Raw::connect(address).upgraded();
    raw.send_while_taken(&frame(PING, b""), usize::MAX);
    match raw.receive_frame().expect("an answer").0 {
        PONG => {
            raw.send_while_taken(&frame(CLOSE, &1000_u16.to_be_bytes()), usize::MAX);
            let (code, _) = raw.receive_close();
            assert!(matches!(code, 1000 | 1012), "{code}");
        }
        opcode => assert_eq!(opcode, CLOSE),
    }
}

/// Subscribes, again after every restart, until a publication comes.
fn stay(address: SocketAddr) -> BTreeSet<String> {
    let mut epochs = BTreeSet::new();
    loop {
        let mut raw = Raw::connect(address);
        raw.send(UPGRADE.as_bytes());
        epochs.insert(raw.expect_upgraded());
        raw.send_while_taken(
            &frame(0x1, json!({"op": "subscribe", "topic": "end", "id": 1}).to_string().as_bytes()),
            usize::MAX,
        );
        loop {
            match raw.peek_opcode() {
                CLOSE => break come_back(raw),
                _ => {
                    let message = raw.receive();
                    if message["op"] == "message" {
                        return epochs;
                    }
                    assert_eq!(message["op"], "ok");
                }
            }
        }
    }
}

/// Two reactors, then three, then one: more listeners are bound beside those that were handed over, and all of
/// them are accepted from when there is one reactor.
#[test]
fn a_takeover_under_a_storm_refuses_nobody() {
    let (path, control) = control_socket();
    let first = start(2, &control);
    let (address, admin) = (first.address, first.admin);
    let storm = Storm::start(address);
    let is_over = Arc::new(AtomicBool::new(false));
    let health = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                let text = get(admin, "/healthz");
                assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
            }
        }
    });
    storm.pass(1_000);
    let second = first.succeed(3).wait_until_ready();
    first.wait();
    storm.pass(1_000);
    assert_eq!((second.address, second.admin), (address, admin));
    let third = second.succeed(1).wait_until_ready();
    second.wait();
    storm.pass(1_000);
    is_over.store(true, Ordering::Relaxed);
    health.join().unwrap();
    storm.end(&third, 3);
    third.stop();
    assert!(!path.exists(), "the last one takes its control socket along");
}

/// This test is the service manager: it binds two listeners and the admin's, and passes them to one broker
/// after the other.
#[test]
fn a_restart_with_listeners_of_a_service_manager_refuses_nobody() {
    let (listeners, address) = bind_shared(2);
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin_address = admin.local_addr().unwrap();
    let passed: Vec<OwnedFd> = listeners.into_iter().chain([admin.into()]).collect();
    let start = || {
        let command = activated(&passed, "clients:clients:admin");
        Broker::start_activated(command, address, admin_address, 2, &SETTINGS)
    };
    let mut broker = start();
    assert_eq!((broker.address, broker.admin), (address, admin_address));
    let storm = Storm::start(address);
    for _ in 0..2 {
        storm.pass(1_000);
        broker.stop();
        broker = start();
    }
    storm.pass(1_000);
    let accepts = broker.metric("fanfare_accepts_total", "");
    assert!(accepts.iter().all(|count| *count > 0.0), "each reactor has a listener: {accepts:?}");
    storm.end(&broker, 3);
    broker.stop();
}

/// One descriptor for two reactors: who has just accepted lets the other one.
#[test]
fn reactors_share_a_listener_of_a_service_manager() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let passed = [listener.into()];
    let command = activated(&passed, "fanfare.socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let broker = Broker::start_activated(command, address, any, 2, &[]);
    assert_eq!(broker.address, address);
    let clients: Vec<Raw> = (0..100).map(|_| Raw::open(address)).collect();
    let accepts = broker.metric("fanfare_accepts_total", "");
    assert!(accepts.iter().all(|count| *count > 20.0), "{accepts:?}");
    clients.into_iter().for_each(Raw::close);
    broker.stop();
}

/// Listeners that share a port.
fn bind_shared(count: usize) -> (Vec<OwnedFd>, SocketAddr) {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut listeners = Vec::new();
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(4_096).unwrap();
        address = socket.local_addr().unwrap().as_socket().unwrap();
        listeners.push(socket.into());
    }
    (listeners, address)
}

/// The broker's command behind a shell, which is to become the broker, so that its id is the broker's.
fn shelled(script: &str) -> Command {
    let broker = broker_command();
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(broker.get_program());
    for (name, value) in broker.get_envs() {
        assert!(value.is_none());
        command.env_remove(name);
    }
    command
}

/// The broker's command, with these descriptors as systemd passes them: from 3 on, and LISTEN_PID its own.
pub fn activated(descriptors: &[OwnedFd], names: &str) -> Command {
    let mut command = shelled(r#"LISTEN_PID=$$ exec "$@""#);
    command.env("LISTEN_FDS", descriptors.len().to_string()).env("LISTEN_FDNAMES", names);
    let descriptors: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: between fork and exec it calls nothing but fcntl and dup2, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // First out of the way of each other's places.
            for (index, descriptor) in descriptors.iter().enumerate() {
                let place = 500 + index as i32;
                libc::dup2(*descriptor, place);
                libc::fcntl(place, libc::F_SETFD, libc::FD_CLOEXEC);
            }
            for index in 0..descriptors.len() as i32 {
                libc::dup2(500 + index, 3 + index);
            }
            Ok(())
        })
    };
    command
}

/// A successor that says whatever it is told to; the descriptors that it gets are dropped.
struct FakeSuccessor(BufReader<UnixStream>);

impl FakeSuccessor {
    fn connect(path: &PathBuf) -> FakeSuccessor {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        FakeSuccessor(BufReader::new(stream))
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line, or an empty one at the end.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    /// One that has got the listeners.
    fn with_listeners(path: &PathBuf) -> FakeSuccessor {
        let mut successor = FakeSuccessor::connect(path);
        successor.say("takeover 1");
        assert_eq!(successor.hear(), "listeners 2 admin 1");
        successor
    }
}

/// A broker that does nothing but hand over.
struct FakePredecessor {
    address: SocketAddr,
    listeners: Vec<OwnedFd>,
    control: UnixListener,
}

impl FakePredecessor {
    fn start(path: &PathBuf) -> FakePredecessor {
        let (listeners, address) = bind_shared(1);
        FakePredecessor { address, listeners, control: UnixListener::bind(path).unwrap() }
    }

    /// Hands its listener to whoever comes and returns what it says then.
    fn meet(&self) -> (BufReader<UnixStream>, String) {
        let (stream, _) = self.control.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "takeover 1\n");
        let listeners = [self.listeners[0].as_fd()];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&listeners)));
        let offer = IoSlice::new(b"listeners 1 admin 0\n");
        sendmsg(stream.get_ref(), &[offer], &mut ancillary, SendFlags::empty()).unwrap();
        line.clear();
        stream.read_line(&mut line).unwrap();
        (stream, line)
    }
}

fn subscribe(raw: &mut Raw) {
    assert_eq!(raw.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["op"], "ok");
}

/// The broker accepts, on every reactor, and `subscriber` gets what is published.
fn expect_service(broker: &Broker, subscriber: &mut Raw) {
    for _ in 0..16 {
        let mut publisher = Raw::open(broker.address);
        assert_eq!(publisher.ask(r#"{"op":"publish","topic":"t","data":1,"id":1}"#)["op"], "ok");
        assert_eq!(subscriber.receive()["op"], "message");
        publisher.close();
    }
    assert!(broker.get("/readyz").ends_with("\r\n\r\nready\n"));
}

#[test]
fn a_successor_that_dies_before_it_is_ready_disturbs_nobody() {
    let (path, control) = control_socket();
    let broker = start(2, &control);
    let mut subscriber = Raw::open(broker.address);
    subscribe(&mut subscriber);
    drop(FakeSuccessor::connect(&path));
    expect_service(&broker, &mut subscriber);
    drop(FakeSuccessor::with_listeners(&path));
    expect_service(&broker, &mut subscriber);
    let mut wrong = FakeSuccessor::connect(&path);
    wrong.say("takeover 2");
    assert_eq!(wrong.hear(), r"refused `takeover 1` is due, not `takeover 2\n`");
    assert_eq!(wrong.hear(), "");
    let mut wrong = FakeSuccessor::with_listeners(&path);
    wrong.say("reddy");
    assert_eq!(wrong.hear(), r"refused `ready` is due, not `reddy\n`");
    expect_service(&broker, &mut subscriber);
    subscriber.close();
    broker.stop();
}

/// It says that it is ready and is gone: the broker may have closed its connections by then or not, it serves
/// again in any case.
#[test]
fn a_successor_that_dies_when_it_is_ready_leaves_a_broker_that_serves() {
    let (path, control) = control_socket();
    let broker = start(2, &control);
    for _ in 0..8 {
        let mut successor = FakeSuccessor::with_listeners(&path);
        successor.say("ready");
        drop(successor);
    }
    // The last of them is over when the next one is served.
    drop(FakeSuccessor::with_listeners(&path));
    let mut subscriber = Raw::open(broker.address);
    subscribe(&mut subscriber);
    expect_service(&broker, &mut subscriber);
    subscriber.close();
    broker.stop();
}

/// A client that has its close and does not answer it holds the takeover up; meanwhile another client waits in the
/// queue. When the successor dies it is served, whatever the first one does.
#[test]
fn a_successor_that_dies_while_connections_close_leaves_a_broker_that_serves() {
    let (path, control) = control_socket();
    let broker = start(2, &control);
    let mut first = Raw::connect(broker.address);
    first.send(UPGRADE.as_bytes());
    let epoch = first.expect_upgraded();
    let mut successor = FakeSuccessor::with_listeners(&path);
    successor.say("ready");
    assert!(first.receive_restart() < DRAIN_MS);
    let mut waiting = Raw::connect(broker.address);
    waiting.send(UPGRADE.as_bytes());
    drop(successor);
    assert_eq!(waiting.expect_upgraded(), epoch);
    subscribe(&mut waiting);
    expect_service(&broker, &mut waiting);
    first.answer_close(1012);
    waiting.close();
    // And the next one succeeds.
    let next = broker.succeed(1).wait_until_ready();
    broker.wait();
    next.stop();
}

/// The same, but the broker dies: its successor accepts, and a second one that waited for its turn gets nothing.
#[test]
fn a_broker_that_dies_while_connections_close_leaves_a_successor_that_serves() {
    let (path, control) = control_socket();
    let broker = start(2, &control);
    let mut first = Raw::connect(broker.address);
    first.send(UPGRADE.as_bytes());
    let epoch = first.expect_upgraded();
    let successor = broker.succeed(2);
    assert!(first.receive_restart() < DRAIN_MS);
    let mut second = FakeSuccessor::connect(&path);
    second.say("takeover 1");
    let mut waiting = Raw::connect(broker.address);
    waiting.send(UPGRADE.as_bytes());
    // The admin listener is the successor's by now, and says what that does.
    let admin = broker.admin;
    let health = get(admin, "/healthz");
    assert!(health.starts_with("HTTP/1.1 200 ") && health.contains("\r\n\r\nok, waiting for "), "{health}");
    let readiness = get(admin, "/readyz");
    assert!(
        readiness.starts_with("HTTP/1.1 503 ") && readiness.contains("\r\n\r\nwaiting for "),
        "{readiness}"
    );
    broker.kill();
    let mut line = String::new();
    // It may be reset, since the broker has not read what it said.
    assert_eq!(second.0.read_line(&mut line).unwrap_or(0), 0, "{line}");
    let successor = successor.wait_until_ready();
    assert_ne!(waiting.expect_upgraded(), epoch);
    subscribe(&mut waiting);
    expect_service(&successor, &mut waiting);
    waiting.close();
    successor.stop();
}

/// The new configuration's admin listener is another's: the old broker must not close its connections for that.
#[test]
fn a_successor_that_cannot_serve_never_says_that_it_is_ready() {
    let (path, control) = control_socket();
    let predecessor = FakePredecessor::start(&path);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap().to_string();
    let mut command = broker_command();
    command.args(["serve", "--takeover", "--reactors", "1", "--admin", &admin, "--set", &control]);
    let successor = command.stderr(Stdio::piped()).spawn().unwrap();
    let (_, said) = predecessor.meet();
    assert_eq!(said, "");
    let Output { status, stderr, .. } = successor.wait_with_output().unwrap();
    let line = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(1) && line.contains("the address is in use by another process"), "{line}");
    fs::remove_file(path).unwrap();
}

/// When the old broker is gone, nothing but the new one can serve: it does so without a control socket too.
#[test]
fn a_successor_whose_control_socket_cannot_be_put_in_place_serves() {
    let (path, control) = control_socket();
    let predecessor = FakePredecessor::start(&path);
    let old = thread::spawn({
        let (path, address) = (path.clone(), predecessor.address);
        move || {
            let (mut stream, said) = predecessor.meet();
            assert_eq!(said, "ready\n");
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            stream.get_mut().write_all(b"done\n").unwrap();
            address
        }
    });
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let broker = Broker::start_activated(shelled(r#"exec "$@" --takeover"#), any, any, 1, &[&control]);
    assert_eq!(broker.address, old.join().unwrap());
    let mut client = Raw::open(broker.address);
    subscribe(&mut client);
    expect_service(&broker, &mut client);
    client.close();
    broker.stop();
    fs::remove_dir(path).unwrap();
}

#[test]
fn a_takeover_without_a_broker_is_an_error_of_one_line() {
    let (path, control) = control_socket();
    let at = path.display();
    let run = |arguments: &[&str]| {
        let Output { status, stderr, .. } = broker_command().args(arguments).output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let advice = "start the first one without --takeover";
    assert_eq!(
        run(&["serve", "--takeover", "--set", &control]),
        (
            Some(1),
            format!(
                "fanfare: there is no broker to take over from at control.socket = \"{at}\": \
                 No such file or directory (os error 2); {advice}\n"
            )
        )
    );
    // A file that a broker left behind when it was killed.
    start(1, &control).kill();
    assert!(path.exists());
    let (code, line) = run(&["serve", "--takeover", "--set", &control]);
    assert!(code == Some(1) && line.contains("Connection refused") && line.contains(advice), "{line}");
    // It does not keep the next one from its place; that one keeps others.
    let broker = start(1, &control);
    assert_eq!(
        run(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--set", &control]),
        (
            Some(1),
            format!(
                "fanfare: control.socket = \"{at}\" is another broker's; \
                 choose another, or take its place with --takeover\n"
            )
        )
    );
    broker.stop();
    let (code, line) = run(&["serve", "--takeover"]);
    assert!(code == Some(2) && line.contains("--takeover needs control.socket"), "{line}");
    let _ = fs::remove_file(path);
}

/// What a service manager passes counts as what is bound here.
#[test]
fn an_inherited_listener_that_others_reach_is_refused_without_a_word_that_it_is_meant() {
    let bind = || std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let listener = bind();
    let address = listener.local_addr().unwrap();
    let output = activated(&[listener.into()], "clients")
        .args(["serve", "--admin", "", "--reactors", "1"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(text.contains(&format!("listen.address = \"{address}\" is reachable by others")), "{text}");
}

/// Where the new configuration would have it listen waits for a restart; that it asks nobody would not.
#[test]
fn a_broker_that_others_reach_does_not_end_to_ask_who_they_are() {
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("restart-reach.toml");
    let asks = "[auth]\nanonymous_roles = [\"guest\"]\n[roles]\nguest = { subscribe = [\"news/#\"] }\n";
    fs::write(&config, asks).unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let passed = [listener.into()];
    let mut command = activated(&passed, "clients");
    command.env("FANFARE_CONFIG", &config);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let broker = Broker::start_activated(command, any, any, 1, &[]);
    fs::write(&config, "").unwrap();
    broker.reload();
    broker.wait_for_metric("fanfare_reloads_total{result=\"refused\"} 1");
    let mut raw = Raw::open(address);
    let answer = raw.ask(&json!({"op": "publish", "topic": "a", "data": 1, "id": 1}).to_string());
    assert_eq!(answer["code"], "forbidden", "{answer}");
    // What it goes on with is as it was.
    fs::write(&config, asks).unwrap();
    broker.reload();
    broker.wait_for_metric("fanfare_reloads_total{result=\"applied\"} 1");
    raw.close();
    broker.stop();
}
