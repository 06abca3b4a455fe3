//! The control thread over loopback, with reactors that only answer.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use fanfare::{
    config::Config,
    control::{
        self, Launch,
        fleet::{Fleet, Watch},
        guard::Guard,
        http,
        reload::{Hooks, Loaded},
        revocations::Kept,
    },
    metrics::{ReactorStats, Troubles},
    protocol::site::Hosts,
    reactor::{Order, audit::Audit},
};
use sd_notify::NotifyState;

/// Answers from the caller's thread; a silent one takes questions and keeps them.
#[derive(Default)]
struct FakeReactor {
    is_silent: AtomicBool,
    has_ended: AtomicBool,
    /// Stays after Drain until told to end.
    is_slow_to_drain: AtomicBool,
    is_draining: AtomicBool,
    /// Never says that it accepts no more.
    goes_on_accepting: AtomicBool,
    /// Its control queue has no room for the order to accept again.
    is_full: AtomicBool,
    /// Of the last configuration that it was given.
    subscriptions_max: AtomicUsize,
}

#[derive(Clone)]
struct FakeFleet(Arc<Vec<FakeReactor>>, Arc<Troubles>, Arc<Audit>);

impl FakeFleet {
    fn new(count: usize) -> Self {
        FakeFleet(
            Arc::new((0..count).map(|_| FakeReactor::default()).collect()),
            Arc::default(),
            Arc::default(),
        )
    }
}

impl Fleet for FakeFleet {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn ask(&self, index: usize, request: Order) -> bool {
        let reactor = &self.0[index];
        if self.has_ended(index) {
            return false;
        }
        match request {
            Order::Stats(sender) if reactor.is_silent.load(Ordering::SeqCst) => {
                // Held for ever, as the inbox of a reactor that hangs holds it.
                std::mem::forget(sender);
            }
            Order::Stats(sender) => {
                thread::spawn(move || {
                    let stats = ReactorStats { connections: 40 + index as u64, ..Default::default() };
                    let _ = sender.send(stats);
                });
            }
            Order::StopAccepting(_) if reactor.goes_on_accepting.load(Ordering::SeqCst) => {}
            Order::StopAccepting(sender) => sender.send(()).unwrap(),
            Order::Accept => {
                // Heard by the tests that start a process.
                sd_notify::notify(&[NotifyState::Status("accepts again")]).unwrap();
                return !reactor.is_full.load(Ordering::SeqCst);
            }
            Order::Revoke(_) | Order::Keys(_) => {}
            // It is never empty.
            Order::Drain { emptied: Some(sender), .. } => std::mem::forget(sender),
            Order::Reload(config, _) => {
                reactor.subscriptions_max.store(config.limits.subscriptions_max, Ordering::SeqCst);
            }
            Order::Drain { emptied: None, .. } => {
                reactor.is_draining.store(true, Ordering::SeqCst);
                if !reactor.is_slow_to_drain.load(Ordering::SeqCst) {
                    reactor.has_ended.store(true, Ordering::SeqCst);
                }
            }
        }
        true
    }

    fn has_ended(&self, index: usize) -> bool {
        self.0[index].has_ended.load(Ordering::SeqCst)
    }

    fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![File::open("/dev/null")?.into()])
    }

    fn check_reach(&self, _: &Config) -> Result<(), String> {
        Ok(())
    }

    fn leave_listeners(&self) {}

    fn close_listeners(&self) {}

    fn troubles(&self) -> &Troubles {
        &self.1
    }

    fn audit(&self) -> &Audit {
        &self.2
    }

    fn ban_count(&self) -> usize {
        3
    }
}

/// The defaults but for the subscriptions, and at every second reload something wrong.
fn hooks() -> Hooks {
    let mut count = 0;
    let load = move || {
        count += 1;
        let mut config = Config::default();
        config.limits.subscriptions_max = count;
        if count % 2 == 0 {
            Err(format!("fault {count}"))
        } else {
            Ok(Loaded { config, access: None, key_urls: Vec::new(), operators: None })
        }
    };
    Hooks { load: Box::new(load), set_log_level: Box::new(|_| {}), release_memory: || {} }
}

/// Sends `request` as it is and returns the status and the whole answer.
fn exchange(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    // A refused request may be answered and reset while its rest is still on the way.
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    (status, answer)
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

/// Serves the admin pages of `fleet` on a thread of their own for the rest of the test.
fn serve(fleet: Option<FakeFleet>) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        tokio_uring::start(async move {
            let watch = Arc::new(Watch::new(false));
            if let Some(fleet) = fleet {
                watch.set_ready(Arc::new(fleet));
            }
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let guard = Guard::new(Hosts::of(&[], true), true, false, None);
            http::serve(listener, http::Places::new(), Arc::new(guard), watch).await;
        });
    });
    receiver.recv().unwrap()
}

/// Or a page could have a name of its own point here, and read what is answered.
#[test]
fn foreign_names_are_answered_health_alone() {
    let address = serve(None);
    let ask = |path: &str, host: &str| exchange(address, &format!("GET {path} HTTP/1.1\r\n{host}\r\n"));
    for host in ["Host: evil.example\r\n", "Host: localhost.evil.example:7601\r\n"] {
        for path in ["/", "/metrics", "/readyz", "/none"] {
            let (status, text) = ask(path, host);
            assert_eq!(status, 421, "{path}");
            assert!(text.contains("admin.hosts") && !text.contains("fanfare_"), "{text}");
        }
        assert_ne!(ask("/healthz", host).0, 421);
    }
    for host in ["Host: 127.0.0.1:7601\r\n", "Host: localhost\r\n", "Host: [::1]\r\n"] {
        assert_eq!(ask("/", host).0, 200, "{host}");
    }
}

#[test]
fn a_well_broker_says_so() {
    let address = serve(Some(FakeFleet::new(2)));
    assert_eq!(get(address, "/healthz").0, 200);
    assert_eq!(get(address, "/readyz").0, 200);
    let (status, index) = get(address, "/");
    assert!(status == 200 && index.contains("/metrics"), "{index}");

    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(text.contains("\nfanfare_connections{reactor=\"0\"} 40\n"), "{text}");
    assert!(text.contains("\nfanfare_connections{reactor=\"1\"} 41\n"), "{text}");
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
}

#[test]
fn a_broker_that_starts_is_alive_but_not_ready() {
    let address = serve(None);
    assert_eq!(get(address, "/healthz").0, 200);
    let (status, text) = get(address, "/readyz");
    assert!(status == 503 && text.ends_with("\r\n\r\nstarting\n"), "{text}");
    assert!(get(address, "/metrics").1.contains("\nfanfare_ready 0\n"));
}

#[test]
fn a_reactor_that_does_not_answer_is_named() {
    let fleet = FakeFleet::new(3);
    fleet.0[1].is_silent.store(true, Ordering::SeqCst);
    let address = serve(Some(fleet));
    let (status, text) = get(address, "/healthz");
    assert_eq!(status, 503);
    assert!(text.ends_with("\r\n\r\nreactor 1 has not answered for 1000 ms\n"), "{text}");
    let (_, text) = get(address, "/metrics");
    assert!(text.contains("fanfare_reactor_up{reactor=\"1\"} 0\n"), "{text}");
    assert!(text.contains("fanfare_connections{reactor=\"2\"} 42\n"), "{text}");
    assert!(!text.contains("fanfare_connections{reactor=\"1\"}"), "{text}");
}

#[test]
fn what_is_no_page_is_refused() {
    let address = serve(Some(FakeFleet::new(1)));
    assert_eq!(get(address, "/nothing").0, 404);
    let (status, text) =
        exchange(address, "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status, 405);
    assert!(text.contains("allow: GET,HEAD\r\n"), "{text}");
    assert_eq!(exchange(address, "nonsense\r\n\r\n").0, 400);
    let long = "x".repeat(64 * 1024);
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {long}\r\n\r\n");
    // The answer may be lost to the reset; what matters is that it is not served and not held.
    assert!(matches!(exchange(address, &request).0, 431 | 0));
    assert_eq!(get(address, "/readyz").0, 200);
}

/// More than are served at once, and each of them ends by itself only after seconds.
#[test]
fn half_sent_requests_keep_no_health_check_waiting() {
    let address = serve(Some(FakeFleet::new(1)));
    let half_sent = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        stream
    };
    let mut slow: Vec<TcpStream> = (0..40).map(|_| half_sent()).collect();
    assert_eq!(get(address, "/healthz").0, 200);
    // Not because they were over: only the nine oldest made room. Each of the others has a deadline.
    for (number, stream) in slow.iter_mut().enumerate() {
        stream.set_nonblocking(true).unwrap();
        let is_served = stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert_eq!(is_served, number >= 9, "{number}");
        stream.set_nonblocking(false).unwrap();
    }
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(get(address, "/readyz").0, 200);
}

#[test]
fn a_scraper_gets_the_format_that_it_asks_for() {
    let address = serve(Some(FakeFleet::new(1)));
    let accept = "Accept: text/plain; version=0.0.4";
    let (status, text) =
        exchange(address, &format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n\r\n"));
    assert_eq!(status, 200);
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{text}");
    assert!(
        text.contains("\n# TYPE fanfare_accepts_total counter\nfanfare_accepts_total{reactor=\"0\"} 0\n"),
        "{text}"
    );
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
}

/// Not a test: the process that the tests below start, with one reactor and its weaknesses from the environment.
#[test]
#[ignore = "run by other tests"]
fn a_broker_process() {
    let mut config = Config::default();
    config.admin.address = None;
    config.control.socket = std::env::var_os("CONTROL").map(PathBuf::from);
    // No test waits for it.
    config.timeouts.takeover_ms = 600_000;
    let fleet = FakeFleet::new(1);
    let reactor = &fleet.0[0];
    for (weakness, name) in [
        (&reactor.is_slow_to_drain, "SLOW"),
        (&reactor.goes_on_accepting, "ACCEPTING"),
        (&reactor.is_full, "FULL"),
    ] {
        weakness.store(std::env::var_os(name).is_some(), Ordering::SeqCst);
    }
    let start = |_| {
        if std::env::var_os("STARTING").is_some() {
            // Handled by this thread, before it goes on.
            // SAFETY: raise takes no pointer.
            unsafe { libc::raise(libc::SIGHUP) };
            sd_notify::notify(&[NotifyState::Status("starting")]).unwrap();
            let _ = io::stdin().read(&mut [0]);
        }
        Ok((fleet, Kept::default()))
    };
    let result = control::run(Arc::new(config), Launch::default(), hooks(), start, |_, _| {});
    if std::env::var_os("LINGERING").is_some() {
        sd_notify::notify(&[NotifyState::Status("over")]).unwrap();
        let _ = io::stdin().read(&mut [0]);
    }
    std::process::exit(i32::from(result.is_err()));
}

/// The broker in a process of its own, and the socket on which it tells its service manager.
struct Process {
    child: Child,
    notified: UnixDatagram,
    control: PathBuf,
}

impl Process {
    fn start(name: &str, weaknesses: &[&str]) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let control = path.with_extension("control");
        let _ = std::fs::remove_file(&path);
        let notified = UnixDatagram::bind(&path).unwrap();
        notified.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_broker_process", "--ignored", "--nocapture"]);
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "200000");
        command.env("CONTROL", &control).envs(weaknesses.iter().map(|name| (name, "1")));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        Process { child, notified, control }
    }

    /// A successor that has said that it is ready.
    fn successor(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        stream.write_all(b"takeover 1\n").unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "listeners 1 admin 0\n");
        stream.write_all(b"ready\n").unwrap();
        stream
    }

    /// Waits until the service manager is told `state`, past other states; returns all that it was told
    /// with it.
    fn wait_for(&self, state: &str) -> String {
        let mut bytes = [0; 256];
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "the service manager is not told {state}");
            let len = self.notified.recv(&mut bytes).unwrap();
            let told = str::from_utf8(&bytes[..len]).unwrap();
            if told.lines().any(|line| line == state) {
                return told.into();
            }
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill takes no pointer.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only after a test that failed: one that passed has waited for it.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn the_service_manager_is_told_of_every_step() {
    let broker = Process::start("steps", &[]);
    broker.wait_for("READY=1");
    broker.wait_for("WATCHDOG=1");
    broker.wait_for("WATCHDOG=1");
    broker.signal(libc::SIGTERM);
    broker.wait_for("STOPPING=1");
    assert_eq!(broker.exit_code(), Some(0));
}

/// Both a reload that is taken and one that is not are over some time.
#[test]
fn the_service_manager_is_told_of_reloads() {
    let broker = Process::start("reloads", &[]);
    broker.wait_for("READY=1");
    for _ in 0..2 {
        broker.signal(libc::SIGHUP);
        let reloading = broker.wait_for("RELOADING=1");
        let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(at.is_some_and(|at| at.parse::<u64>().is_ok_and(|at| at > 0)), "{reloading}");
        broker.wait_for("READY=1");
    }
    broker.signal(libc::SIGTERM);
    assert_eq!(broker.exit_code(), Some(0));
}

/// What is read while the reactors start would not be what they start with, and is read again when they have.
#[test]
fn a_reload_while_the_broker_starts_comes_after() {
    let mut broker = Process::start("reload-starting", &["STARTING"]);
    broker.wait_for("STATUS=starting");
    drop(broker.child.stdin.take());
    broker.wait_for("READY=1");
    broker.wait_for("RELOADING=1");
    broker.wait_for("READY=1");
    broker.signal(libc::SIGTERM);
    assert_eq!(broker.exit_code(), Some(0));
}

/// A start may take its time: a successor's waits for its predecessor.
#[test]
fn a_signal_ends_a_broker_that_starts() {
    let mut broker = Process::start("stop-starting", &["STARTING"]);
    broker.wait_for("STATUS=starting");
    // Held, so that it goes on starting.
    let _stdin = broker.child.stdin.take();
    broker.signal(libc::SIGTERM);
    assert_eq!(broker.exit_code(), Some(0));
}

#[test]
fn a_second_signal_exits_at_once() {
    for (name, signal, code) in
        [("term", libc::SIGTERM, 143), ("int", libc::SIGINT, 130), ("quit", libc::SIGQUIT, 131)]
    {
        let broker = Process::start(name, &["SLOW"]);
        broker.wait_for("READY=1");
        broker.signal(libc::SIGTERM);
        broker.wait_for("STOPPING=1");
        let begin = Instant::now();
        broker.signal(signal);
        assert_eq!(broker.exit_code(), Some(code));
        assert!(begin.elapsed() < Duration::from_secs(5), "the drain takes 12 s");
    }
}

/// A reactor closes its connections for a long time.
#[test]
fn the_service_manager_hears_of_a_broker_that_hands_over() {
    let broker = Process::start("handing-over", &[]);
    broker.wait_for("READY=1");
    let successor = broker.successor();
    // The first ones may be from before.
    (0..10).for_each(|_| drop(broker.wait_for("WATCHDOG=1")));
    drop(successor);
    broker.signal(libc::SIGTERM);
    broker.wait_for("STOPPING=1");
    assert_eq!(broker.exit_code(), Some(0));
}

/// A reactor does not stop accepting in time: what it holds ends with the process, and so the successor must not
/// hear of the broker's end before.
#[test]
fn a_successor_hears_of_the_end_of_the_process_and_not_of_the_broker() {
    let mut broker = Process::start("over", &["ACCEPTING", "LINGERING"]);
    broker.wait_for("READY=1");
    let mut successor = broker.successor();
    broker.wait_for("STATUS=over");
    successor.set_nonblocking(true).unwrap();
    let heard = successor.read(&mut [0; 64]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::WouldBlock));
    drop(broker.child.stdin.take());
    assert_eq!(broker.exit_code(), Some(0));
    assert_eq!(successor.read(&mut [0; 64]).unwrap(), 0);
}

#[test]
fn a_broker_that_cannot_empty_itself_serves_again_when_its_successor_is_gone() {
    let broker = Process::start("alone", &["ACCEPTING"]);
    broker.wait_for("READY=1");
    drop(broker.successor());
    broker.wait_for("STATUS=accepts again");
    // One that is about to end would not care.
    broker.signal(libc::SIGTERM);
    broker.wait_for("STOPPING=1");
    assert_eq!(broker.exit_code(), Some(0));
}

#[test]
fn a_reactor_that_takes_no_order_to_accept_again_keeps_no_signal_waiting() {
    let broker = Process::start("full", &["FULL"]);
    broker.wait_for("READY=1");
    drop(broker.successor());
    broker.wait_for("STATUS=accepts again");
    broker.signal(libc::SIGTERM);
    broker.wait_for("STOPPING=1");
    assert_eq!(broker.exit_code(), Some(0));
}

/// The whole life under `control::run`. One test, because signals are the process's.
#[test]
fn a_life_from_start_to_drain() {
    let config = || {
        let mut config = Config::default();
        config.admin.address = Some("127.0.0.1:0".parse().unwrap());
        Arc::new(config)
    };

    // A start that fails is the error.
    let start = |_| Err::<(FakeFleet, _), _>("no ring".into());
    let result = control::run(config(), Launch::default(), hooks(), start, |_, _| {});
    assert_eq!(result, Err("no ring".into()));

    // A reactor that ends by itself is an error.
    let fleet = FakeFleet::new(2);
    let ending = fleet.clone();
    let result = control::run(
        config(),
        Launch::default(),
        hooks(),
        |_| Ok((fleet, Kept::default())),
        move |_, _| ending.0[1].has_ended.store(true, Ordering::SeqCst),
    );
    assert_eq!(result, Err("reactor 1 ended unexpectedly; its last words are above".into()));

    // SIGTERM drains: not ready, every reactor asked, over when all have ended.
    let fleet = FakeFleet::new(2);
    fleet.0[0].is_slow_to_drain.store(true, Ordering::SeqCst);
    let started = fleet.clone();
    let (sender, receiver) = mpsc::channel();
    let broker = thread::spawn(move || {
        control::run(
            config(),
            Launch::default(),
            hooks(),
            |_| Ok((started, Kept::default())),
            move |_, admin| sender.send(admin.unwrap()).unwrap(),
        )
    });
    let address = receiver.recv().unwrap();
    assert_eq!(get(address, "/readyz").0, 200);
    // SAFETY: kill takes no pointer.
    unsafe { libc::kill(libc::getpid(), libc::SIGHUP) };
    while fleet.0[1].subscriptions_max.load(Ordering::SeqCst) != 1 {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(get(address, "/readyz").0, 200, "a reload stops nothing");
    // SAFETY: kill takes no pointer.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
    while !fleet.0[0].is_draining.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    let (status, text) = get(address, "/readyz");
    assert!(status == 503 && text.ends_with("\r\n\r\ndraining\n"), "{text}");
    assert_eq!(get(address, "/healthz").0, 200, "a reactor that ended because it was asked to is well");
    assert!(!broker.is_finished());
    fleet.0[0].has_ended.store(true, Ordering::SeqCst);
    assert_eq!(broker.join().unwrap(), Ok(()));
}
