//! The real broker in a process of its own, and clients to hold against it.
//!
//! [`client`] is a library's client, which behaves; [`raw`] writes whatever bytes it is told to. Neither
//! shares code with the broker. Nothing here sleeps to wait for something: it reads until that is there.

pub mod client;
pub mod raw;
pub mod witness;

use std::{
    fmt::Display,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

const ANY_PORT: &str = "127.0.0.1:0";

/// A broker that accepts.
pub struct Broker {
    process: Child,
    /// As `--listen` takes it.
    listen: String,
    /// Where clients connect; nowhere if that is a Unix socket.
    pub address: SocketAddr,
    /// Where health and metrics are.
    pub admin: SocketAddr,
    settings: Vec<String>,
    /// Held, so that the broker can write to it.
    _stdout: BufReader<ChildStdout>,
}

impl Broker {
    /// Starts one with `reactors` reactors and `settings` as `--set` takes them, and waits for the line that
    /// says that it is ready.
    pub fn start(reactors: usize, settings: &[&str]) -> Broker {
        let mut command = serve_command(broker_command(), reactors, settings);
        command.args(["--log", "warn", "--listen", ANY_PORT, "--admin", ANY_PORT]);
        Starting::spawn(command, settings).wait_until_ready()
    }

    /// The same, with its listener at a Unix socket.
    pub fn start_at(path: &Path, reactors: usize, settings: &[&str]) -> Broker {
        let mut command = serve_command(broker_command(), reactors, settings);
        command.args(["--log", "warn", "--admin", ANY_PORT, "--listen", &format!("unix:{}", path.display())]);
        Starting::spawn(command, settings).wait_until_ready()
    }

    /// Lets it have so many descriptors from now on; what it has beyond that it keeps.
    pub fn limit_descriptors(&self, count: u64) {
        let pid = self.process.id() as libc::pid_t;
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: prlimit writes the old limit to where it is told, and reads the new one.
        let result = unsafe {
            libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit);
            limit.rlim_cur = count;
            libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut())
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Takes all cores but one of this process's from it, pinned threads too; false if this process has no more.
    pub fn keep_on_one_core(&self) -> bool {
        // SAFETY: a zeroed set is an empty one, which the call fills; the cores are below its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), 0);
            if libc::CPU_COUNT(&set) < 2 {
                return false;
            }
            let first = (0..libc::CPU_SETSIZE as usize).find(|core| libc::CPU_ISSET(*core, &set)).unwrap();
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(first, &mut one);
            for task in fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap() {
                let id: i32 = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
                assert_eq!(libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &raw const one), 0);
            }
        }
        true
    }

    /// Starts one whose log is read, after `change` has had its way with what it is started by.
    pub fn start_logged(
        reactors: usize,
        settings: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> (Broker, Log) {
        let mut command = serve_command(broker_command(), reactors, settings);
        command.args(["--listen", ANY_PORT, "--admin", ANY_PORT]).stderr(Stdio::piped());
        change(&mut command);
        let mut broker = Starting::spawn(command, settings).wait_until_ready();
        let stderr = BufReader::new(broker.process.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        (broker, Log { lines })
    }

    /// Starts one whose log, of everything from `info` on, goes to `stderr`.
    pub fn start_with_stderr(reactors: usize, settings: &[&str], stderr: impl Into<Stdio>) -> Broker {
        Broker::start_by(reactors, settings, |command| _ = command.stderr(stderr))
    }

    /// Starts one after `change` has had its way with what it is started by.
    pub fn start_by(reactors: usize, settings: &[&str], change: impl FnOnce(&mut Command)) -> Broker {
        let mut command = serve_command(broker_command(), reactors, settings);
        command.args(["--listen", ANY_PORT, "--admin", ANY_PORT]);
        change(&mut command);
        Starting::spawn(command, settings).wait_until_ready()
    }

    /// Starts one with listeners at `address` and `admin` that `command` is to hand down.
    pub fn start_activated(
        command: Command,
        address: impl Display,
        admin: SocketAddr,
        reactors: usize,
        settings: &[&str],
    ) -> Broker {
        let mut command = serve_command(command, reactors, settings);
        command.args(["--log", "warn"]);
        command.args(["--listen", &address.to_string(), "--admin", &admin.to_string()]);
        Starting::spawn(command, settings).wait_until_ready()
    }

    /// Starts one that takes this one's place, with `reactors` reactors and its settings.
    pub fn succeed(&self, reactors: usize) -> Starting {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let mut command = serve_command(broker_command(), reactors, &settings);
        command.args(["--takeover", "--log", "warn"]);
        command.args(["--listen", &self.listen, "--admin", &self.admin.to_string()]);
        Starting::spawn(command, &settings)
    }

    /// Ends it at once, as a crash does.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Asks it to read its configuration again.
    pub fn reload(&self) {
        self.signal(libc::SIGHUP);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes no pointer, and the process is ours and has not been waited for.
        assert_eq!(unsafe { libc::kill(self.process.id() as i32, signal) }, 0);
    }

    /// Waits until it has ended, and holds it to exit code 0.
    pub fn wait(mut self) {
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }

    /// Stops it in good order.
    pub fn stop(self) {
        self.terminate();
        self.wait();
    }

    /// The answer to a GET of `path` on the admin listener.
    pub fn get(&self, path: &str) -> String {
        get(self.admin, path)
    }

    /// What `/metrics` says.
    pub fn metrics(&self) -> String {
        self.get("/metrics")
    }

    /// Asks for `/metrics` until `line` is in it.
    pub fn wait_for_metric(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.metrics();
            if text.lines().any(|found| found == line) {
                return;
            }
            assert!(Instant::now() < deadline, "no {line} in {text}");
        }
    }

    /// A counter or gauge of `/metrics` as each reactor has it; `labels` as behind the reactor's own.
    pub fn metric(&self, name: &str, labels: &str) -> Vec<f64> {
        let text = self.metrics();
        let mut values = Vec::new();
        loop {
            let sample = format!("\n{name}{{reactor=\"{}\"{labels}}} ", values.len());
            let Some((_, rest)) = text.split_once(&sample) else { break };
            values.push(rest.lines().next().unwrap().parse().unwrap());
        }
        assert!(!values.is_empty(), "no {name} in {text}");
        values
    }

    /// The same, of all reactors together.
    pub fn total(&self, name: &str, labels: &str) -> f64 {
        self.metric(name, labels).iter().sum()
    }

    /// Asks for `/metrics` until a counter or gauge is what it is expected to be, of all reactors together.
    pub fn wait_for_total(&self, name: &str, labels: &str, is_expected: impl Fn(f64) -> bool) -> f64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let total = self.total(name, labels);
            if is_expected(total) {
                return total;
            }
            assert!(Instant::now() < deadline, "{name}{labels} stays {total}");
        }
    }

    /// How many connections it has closed or lost, for whatever reason.
    pub fn closed_count(&self) -> f64 {
        let text = self.metrics();
        let samples = text.lines().filter(|line| line.starts_with("fanfare_closes_total{"));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// The resident memory of its process.
    pub fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }
}

/// A broker of which nothing is known yet.
pub struct Starting {
    process: Child,
    settings: Vec<String>,
}

impl Starting {
    fn spawn(mut command: Command, settings: &[&str]) -> Starting {
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        Starting { process, settings: settings.iter().map(|it| it.to_string()).collect() }
    }

    /// Waits until it accepts.
    pub fn wait_until_ready(mut self) -> Broker {
        let mut stdout = BufReader::new(self.process.stdout.take().unwrap());
        // The banner is one write that ends with an empty line behind the two lines to try.
        let mut banner = String::new();
        while !banner.ends_with("\n\n") || !banner.contains(" pub ") {
            let len = stdout.read_line(&mut banner).unwrap();
            assert!(len > 0, "the broker ended before it was ready: {banner}");
        }
        let after = |label: &str| {
            let rest = banner.split_once(label).unwrap_or_else(|| panic!("no {label} in {banner}")).1;
            rest.lines().next().unwrap()
        };
        let clients = after("clients   ");
        let listen =
            clients.strip_prefix("ws://").map_or(clients, |rest| rest.split('/').next().unwrap()).to_owned();
        let address = match listen.starts_with("unix:") {
            true => SocketAddr::from(([0; 4], 0)),
            false => listen.parse().unwrap_or_else(|_| panic!("{listen}")),
        };
        let admin = after("admin     http://").split('/').next().unwrap();
        let admin = admin.parse().unwrap_or_else(|_| panic!("{admin}"));
        let Starting { process, settings } = self;
        Broker { process, listen, address, admin, settings, _stdout: stdout }
    }
}

/// The answer to a GET, its head included.
pub fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Only after a test that failed: one that passed has waited for it.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The lines that a broker logs.
pub struct Log {
    lines: mpsc::Receiver<String>,
}

impl Log {
    /// The next line that holds `text`, past others.
    pub fn wait_for(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line has {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// How many lines that hold `text` come until the broker has ended.
    pub fn count_to_end(self, text: &str) -> usize {
        self.rest().filter(|line| line.contains(text)).count()
    }

    /// The lines that come until the broker has ended.
    pub fn rest(self) -> impl Iterator<Item = String> {
        self.lines.into_iter()
    }
}

/// What it is to serve with, behind `command`.
fn serve_command(mut command: Command, reactors: usize, settings: &[&str]) -> Command {
    command.arg("serve");
    command.args(["--reactors", &reactors.to_string()]);
    // Several brokers run at once, and all would be pinned to the first core.
    command.args(["--set", "reactor.pin=false"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

/// The binary with none of the caller's FANFARE_ variables.
pub fn broker_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"FANFARE_") {
            command.env_remove(name);
        }
    }
    command
}
