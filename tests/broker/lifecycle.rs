//! How the broker starts and ends.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Instant,
};

use serde_json::json;

use crate::common::{
    Broker, PATIENCE, broker_command,
    raw::{CLOSE, Raw},
};

/// Asserts that the last frame is the close of a restart within the default `drain_ms`, and answers it.
fn expect_restart(mut raw: Raw) {
    let retry_after_ms = raw.receive_restart();
    assert!(retry_after_ms < 10_000, "{retry_after_ms}");
    raw.answer_close(1012);
}

/// A subscriber has read nothing of 2 MiB when the broker is asked to stop: it gets all of it, then the
/// close. Beside it an idle connection, and one that upgrades only then.
#[test]
fn a_drain_sends_what_is_owed_and_then_closes_with_1012() {
    const COUNT: u64 = 256;
    for reactors in [1, 2] {
        let broker = Broker::start(reactors, &["listen.sndbuf_bytes=65536"]);
        let mut subscriber = Raw::connect_small(broker.address, 32 << 10).upgraded();
        assert_eq!(subscriber.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["seq"], 0);
        let idle = Raw::open(broker.address);
        let upgrading = Raw::connect(broker.address);
        let mut publisher = Raw::open(broker.address);
        let filling = "x".repeat(8 << 10);
        for seq in 1..=COUNT {
            let command = json!({"op": "publish", "topic": "t", "data": filling, "id": seq});
            assert_eq!(publisher.ask(&command.to_string())["seq"], seq);
        }
        broker.terminate();
        expect_restart(idle);
        expect_restart(publisher);
        expect_restart(upgrading.upgraded());
        for seq in 1..=COUNT {
            assert_eq!(subscriber.receive()["seq"], seq);
        }
        expect_restart(subscriber);
        broker.wait();
    }
}

/// Sweeps are a second apart, so that the second publication still waits for its turn at SIGTERM.
#[test]
fn a_drain_sends_what_waits_for_its_sweep() {
    let broker = Broker::start(1, &["reactor.max_delay_us=1000000"]);
    let mut raw = Raw::open(broker.address);
    assert_eq!(raw.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["seq"], 0);
    raw.send_text(r#"{"op":"publish","topic":"t","data":1}"#);
    assert_eq!(raw.receive()["seq"], 1);
    assert_eq!(raw.ask(r#"{"op":"publish","topic":"t","data":2,"id":2}"#)["op"], "ok");
    broker.terminate();
    assert_eq!(raw.receive(), json!({"op": "message", "topic": "t", "seq": 2, "data": 2}));
    expect_restart(raw);
    broker.wait();
}

/// One peer does not read what it is owed, one does not answer a close, one does not upgrade: the drain has an
/// end.
#[test]
fn a_drain_does_not_wait_for_ever() {
    let broker = Broker::start(2, &["timeouts.drain_ms=500", "listen.sndbuf_bytes=65536"]);
    let mut slow = Raw::connect_small(broker.address, 32 << 10).upgraded();
    assert_eq!(slow.ask(r#"{"op":"subscribe","topic":"t","id":1}"#)["op"], "ok");
    let mut silent = Raw::open(broker.address);
    let upgrading = Raw::connect(broker.address);
    let mut publisher = Raw::open(broker.address);
    let filling = "x".repeat(8 << 10);
    for seq in 1..=256 {
        let command = json!({"op": "publish", "topic": "t", "data": filling, "id": seq});
        assert_eq!(publisher.ask(&command.to_string())["seq"], seq);
    }
    broker.terminate();
    expect_restart(publisher);
    assert_eq!(silent.receive_frame().expect("a close frame").0, CLOSE);
    upgrading.expect_cut();
    broker.wait();
    drop((slow, silent));
}

/// Nobody will accept, so nobody is left waiting in the queue: clients go elsewhere.
#[test]
fn a_drain_refuses_who_connects() {
    let broker = Broker::start(2, &[]);
    let mut open = Raw::open(broker.address);
    broker.terminate();
    let (code, _) = open.receive_close();
    assert_eq!(code, 1012);
    // The other reactor's listener may still be open, for as long as a turn takes.
    let began = Instant::now();
    while TcpStream::connect(broker.address).is_ok() {
        assert!(began.elapsed() < PATIENCE, "connections are taken during a drain");
    }
    assert!(broker.get("/readyz").ends_with("\r\n\r\ndraining\n"));
    open.answer_close(1012);
    broker.wait();
}

/// The port is another program's, and then another fanfare's, whose SO_REUSEPORT would share it.
#[test]
fn a_port_in_use_is_an_error_of_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = Broker::start(1, &[]);
    for address in [taken.local_addr().unwrap(), broker.address] {
        let listen = address.to_string();
        let output = broker_command().args(["--listen", &listen, "--admin", "127.0.0.1:0"]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!(
                "fanfare: listen.address = \"{listen}\" cannot be listened on: another process does; \
                 choose another with --listen, or take its place with --takeover\n"
            )
        );
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
    }
    broker.stop();
}

/// A pipe that takes nothing before it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    let set_nonblocking = |writer: &PipeWriter, mut is_nonblocking: libc::c_int| {
        // SAFETY: ioctl reads the number that it is given.
        unsafe { libc::ioctl(writer.as_raw_fd(), libc::FIONBIO, &raw mut is_nonblocking) };
    };
    set_nonblocking(&writer, 1);
    let error = loop {
        if let Err(error) = writer.write(b"\n") {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    set_nonblocking(&writer, 0);
    (reader, writer)
}

/// As a terminal that was stopped, or a log shipper that hangs. What does not fit is counted, and said when somebody
/// reads again.
#[test]
fn a_stderr_that_takes_nothing_stops_nothing() {
    const DROPPED: &str = "\nfanfare_log_lines_dropped_total ";
    let count_of = |line: &str| {
        let count = line.contains("log lines were dropped").then(|| line.split_once("count=").unwrap().1);
        count.map(|count| count.parse::<u64>().unwrap())
    };
    let (reader, writer) = full_pipe();
    let broker = Broker::start_with_stderr(1, &[], writer);
    let deadline = Instant::now() + PATIENCE;
    while broker.metrics().contains(&format!("{DROPPED}0\n")) {
        assert!(Instant::now() < deadline, "{}", broker.metrics());
        broker.reload();
    }
    assert!(broker.metrics().contains(DROPPED));
    assert!(broker.get("/healthz").ends_with("\r\n\r\nok\n"));
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    let told = lines.find_map(|line| count_of(&line)).unwrap();
    assert!(broker.metrics().contains(&format!("{DROPPED}{told}\n")), "{told} of {}", broker.metrics());
    broker.stop();
    // Once, and nothing else was lost.
    assert_eq!(lines.find_map(|line| count_of(&line)), None);
}

#[test]
fn a_stderr_that_takes_nothing_does_not_keep_a_broker_alive() {
    let (_reader, writer) = full_pipe();
    let broker = Broker::start_with_stderr(1, &[], writer);
    // It logs that it drains.
    broker.stop();
}

/// The kernel closes the listeners of the first one some time after its process is gone.
#[test]
fn a_broker_starts_where_one_was_just_killed() {
    let broker = Broker::start(2, &[]);
    let (address, admin) = (broker.address, broker.admin);
    let _client = Raw::open(address);
    broker.kill();
    Broker::start_activated(broker_command(), address, admin, 2, &[]).stop();
}

/// As when a cpuset shrinks: it says so, and goes on.
#[test]
fn cores_that_are_taken_away_are_told_and_reactors_go_on() {
    let (broker, log) = Broker::start_logged(2, &[], |command| {
        command.args(["--log", "warn"]);
    });
    if broker.keep_on_one_core() {
        log.wait_for("the process may run on core ");
    } else {
        println!("skipped: there is one core");
    }
    for _ in 0..4 {
        assert_eq!(Raw::open(broker.address).ask(r#"{"op":"ping"}"#)["op"], "pong");
    }
    broker.stop();
}

#[test]
fn signals_that_mean_nothing_are_told_and_sigquit_drains() {
    let (broker, log) = Broker::start_logged(1, &[], |command| {
        command.env("FANFARE_VERSION", "7");
    });
    log.wait_for("the variable FANFARE_VERSION is no key and is passed over");
    for (signal, name) in [(libc::SIGUSR1, "SIGUSR1"), (libc::SIGUSR2, "SIGUSR2")] {
        broker.signal(signal);
        log.wait_for(&format!("{name} means nothing here and is ignored"));
    }
    let raw = Raw::open(broker.address);
    broker.signal(libc::SIGQUIT);
    expect_restart(raw);
    broker.wait();
}
