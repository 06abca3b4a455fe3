//! Upgrades: so many per second in an open loop, or everybody at once after everybody was dropped.
//!
//! An upgrade counts from the instant it is due to the last byte of the broker's 101, the TCP handshake
//! included. What is closed is reset, so that this machine does not run out of ports.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
};

use fanfare::uring::{
    Completion, Io, Op, Token,
    ring::{Ring, RingConfig},
};
use hdrhistogram::Histogram;
use io_uring::{opcode, types};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{check, ensure_descriptors};
use crate::{
    broker::BrokerProbe,
    cli::Connect,
    client::{INTERRUPTED, Times, coarse_histogram, fine_histogram},
    clock,
    connect::{self, upgrade_request},
    dialect::Role,
    environment::Environment,
    output::print,
    process,
    report::{
        Latency, buckets,
        connect::{ConnectReport, Slice},
    },
    schedule::{Schedule, TICK_NS},
};

/// Connections per source address, below the ports that one has.
const PER_ADDRESS: usize = 20_000;
/// How much of a run is one point of its plots: of one at a steady rate, and of a storm.
const SLICE_NS: u64 = 1_000_000_000;
const STORM_SLICE_NS: u64 = 50_000_000;
/// The most that a broker's answer to an upgrade may have.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Runs it.
///
/// # Errors
/// One line for the operator.
pub fn run(options: &Connect, parameters: Vec<(String, String)>) -> Result<bool, String> {
    check(&options.broker, &options.run.outputs)?;
    process::pin_to_cores(&options.run.cores)?;
    let target = options.broker.target()?;
    let total = match options.storm {
        Some(count) => count as u64,
        None => Schedule::of_one(options.rate).total(options.run.duration * 1_000_000_000),
    };
    let open_most = options.storm.unwrap_or(options.open);
    ensure_descriptors(open_most + 1024)?;
    let role = Role::Publisher("connect");
    // One by hand first: a broker that is not there, or is no broker, is told in a line.
    let first = connect::connect(&target, options.broker.protocol, role, 0, options.storm.unwrap_or(1))?;
    for connected in first {
        let _ = socket2::SockRef::from(&connected.socket).set_linger(Some(std::time::Duration::ZERO));
    }
    let schedule = match options.storm {
        // All of them are due in the first tick.
        Some(count) => Schedule { rate: count as u64 * 1000, shared_by: 1, phase_ns: 0, tick_ns: TICK_NS },
        None => Schedule::of_one(options.rate),
    };
    let probe = options.broker.probe();
    let times = Times::starting_soon(0, options.run.duration, options.run.drain);
    clock::sleep_until(times.start_ns);
    let before = (clock::process_cpu_ns(), probe.sample(false));
    let request = upgrade_request(&target, options.broker.protocol, role).into_bytes();
    let slice_ns = if options.storm.is_some() { STORM_SLICE_NS } else { SLICE_NS };
    let series = Series::new(times.start_ns, slice_ns, probe.clone());
    let mut storm = Storm::new(target.address(), request, schedule, total, open_most, times, series)?;
    storm.run()?;
    let after = (clock::process_cpu_ns(), probe.sample(false));
    let report = storm.report(options, parameters, before, after);
    print(&report);
    options.run.outputs.write_json(&report)?;
    options.run.outputs.write_html(|| report.page())?;
    Ok(report.passed)
}

/// The upgrades of a run.
struct Storm {
    /// Before the slots, whose addresses and requests the kernel reads.
    ring: Ring,
    address: SocketAddr,
    socket_address: SockAddr,
    request: Vec<u8>,
    schedule: Schedule,
    times: Times,
    total: u64,
    open_most: usize,
    begun: u64,
    upgraded: u64,
    failed: u64,
    failed_reason: Option<String>,
    last_ns: u64,
    latency: Histogram<u64>,
    series: Series,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Upgraded and open, oldest first.
    open: VecDeque<usize>,
}

/// What each slice of the run brought.
struct Series {
    start_ns: u64,
    slice_ns: u64,
    probe: BrokerProbe,
    begun_ns: u64,
    broker_cpu_ns: Option<u64>,
    latency: Histogram<u64>,
    slices: Vec<Slice>,
}

struct Slot {
    socket: Socket,
    due_ns: u64,
    head: Vec<u8>,
    state: State,
    /// Ops that the kernel holds: the slot is free when there are none.
    in_flight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Upgrading,
    Open,
    Closing,
}

impl Storm {
    fn new(
        address: SocketAddr,
        request: Vec<u8>,
        schedule: Schedule,
        total: u64,
        open_most: usize,
        times: Times,
        series: Series,
    ) -> Result<Storm, String> {
        let ring = Ring::new(RingConfig {
            entries: 4096,
            buffer_count: 1024,
            buffer_bytes: 2048,
            sends_per_turn: 1024,
            pending_sends: open_most + 1024,
            ..RingConfig::default()
        })
        .map_err(|error| error.to_string())?;
        Ok(Storm {
            ring,
            address,
            socket_address: address.into(),
            request,
            schedule,
            times,
            total,
            open_most,
            begun: 0,
            upgraded: 0,
            failed: 0,
            failed_reason: None,
            last_ns: times.start_ns,
            latency: fine_histogram(),
            series,
            slots: Vec::new(),
            free: Vec::new(),
            open: VecDeque::new(),
        })
    }

    fn run(&mut self) -> Result<(), String> {
        while self.upgraded + self.failed < self.total {
            let now_ns = clock::now_ns();
            let is_interrupted = INTERRUPTED.load(std::sync::atomic::Ordering::SeqCst);
            if now_ns >= self.times.deadline_ns || is_interrupted {
                self.fail(self.total - self.upgraded - self.failed, || {
                    if is_interrupted { "interrupted" } else { "not upgraded in time" }.to_owned()
                });
                break;
            }
            self.begin_due(now_ns);
            while self.open.len() > self.open_most {
                self.close_oldest();
            }
            let next_ns = self.times.start_ns + self.schedule.due_ns(self.begun);
            let patience_ns = if self.begun < self.total { next_ns.saturating_sub(now_ns) } else { TICK_NS };
            let entered = self.ring.enter_for(1, patience_ns.min(10 * TICK_NS));
            entered.map_err(|error| format!("io_uring_enter: {error}"))?;
            let now_ns = clock::now_ns();
            while let Some(completion) = self.ring.reap() {
                self.on_completion(completion, now_ns);
            }
            self.series.keep(now_ns);
        }
        self.series.end_slice(clock::now_ns());
        Ok(())
    }

    fn begin_due(&mut self, now_ns: u64) {
        let Some(elapsed_ns) = now_ns.checked_sub(self.times.start_ns) else { return };
        let due = self.schedule.due_count(elapsed_ns).min(self.total);
        // Descriptors are bounded: what is due beyond that waits, and its latency says so.
        let in_use = |it: &Storm| it.slots.len() - it.free.len();
        while self.begun < due && in_use(self) < self.open_most + 900 {
            let due_ns = self.times.start_ns + self.schedule.due_ns(self.begun);
            self.begun += 1;
            match self.open_socket() {
                Ok(socket) => self.begin(socket, due_ns),
                Err(error) => self.fail(1, || error.to_string()),
            }
        }
    }

    fn open_socket(&self) -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        // Closing resets: neither side keeps the port.
        socket.set_linger(Some(std::time::Duration::ZERO))?;
        let index = self.begun as usize;
        if self.address.ip().is_loopback()
            && matches!(self.address.ip(), IpAddr::V4(_))
            && self.total as usize > PER_ADDRESS
        {
            let source = Ipv4Addr::new(127, 0, 0, (1 + index % 8) as u8);
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        Ok(socket)
    }

    fn begin(&mut self, socket: Socket, due_ns: u64) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let (address, len) = (self.socket_address.as_ptr(), self.socket_address.len());
        let connect = opcode::Connect::new(types::Fd(socket.as_raw_fd()), address.cast(), len)
            .build()
            .user_data(Token::new(Op::Connect, index as u32, 0).user_data());
        let slot = Slot { socket, due_ns, head: Vec::new(), state: State::Upgrading, in_flight: 1 };
        self.slots[index] = Some(slot);
        // SAFETY: the address is a field of what owns the ring and is dropped after it.
        unsafe { self.ring.push(connect) };
    }

    fn on_completion(&mut self, completion: Completion, now_ns: u64) {
        let index = completion.token.slot() as usize;
        match completion.token.op() {
            Op::Connect => {
                self.slot(index).in_flight -= 1;
                if completion.result < 0 {
                    self.end(index, describe(completion.result));
                } else {
                    self.ask(index);
                }
            }
            Op::Send => {
                self.slot(index).in_flight -= 1;
                if completion.result < 0 {
                    self.end(index, describe(completion.result));
                }
            }
            Op::Receive => self.on_received(index, completion, now_ns),
            _ => return,
        }
        if self.slot(index).in_flight == 0 && self.slot(index).state == State::Closing {
            self.slots[index] = None;
            self.free.push(index);
        }
    }

    /// Sends the request and reads what comes.
    fn ask(&mut self, index: usize) {
        let slot = self.slots[index].as_mut().expect("an op is in flight");
        slot.in_flight += 2;
        let socket = slot.socket.as_raw_fd();
        self.ring.receive_multishot(socket, Token::new(Op::Receive, index as u32, 0));
        let token = Token::new(Op::Send, index as u32, 0);
        // SAFETY: the request never changes and is dropped after the ring.
        unsafe { self.ring.send(socket, self.request.as_ptr(), self.request.len() as u32, token) };
    }

    fn on_received(&mut self, index: usize, completion: Completion, now_ns: u64) {
        let slot = self.slots[index].as_mut().expect("an op is in flight");
        if let Some(lease) = completion.lease {
            if slot.state == State::Upgrading {
                slot.head.extend_from_slice(self.ring.leased(&lease));
            }
            self.ring.recycle(lease);
        }
        if slot.state == State::Upgrading {
            match read_head(&slot.head) {
                Head::Partial => {}
                Head::Upgraded => {
                    slot.state = State::Open;
                    slot.head = Vec::new();
                    let latency_ns = now_ns.saturating_sub(slot.due_ns);
                    self.latency.saturating_record(latency_ns);
                    self.series.latency.saturating_record(latency_ns);
                    self.upgraded += 1;
                    self.last_ns = now_ns;
                    self.open.push_back(index);
                }
                Head::Refused(line) => self.end(index, format!("not an upgrade: {line}")),
            }
        }
        if !completion.more {
            let slot = self.slot(index);
            slot.in_flight -= 1;
            let is_passing = [-libc::ENOBUFS, -libc::EINTR, -libc::EAGAIN].contains(&completion.result);
            if slot.state != State::Closing && (completion.result > 0 || is_passing) {
                slot.in_flight += 1;
                let socket = slot.socket.as_raw_fd();
                self.ring.receive_multishot(socket, Token::new(Op::Receive, index as u32, 0));
            } else {
                self.end(index, describe(completion.result));
            }
        }
    }

    fn slot(&mut self, index: usize) -> &mut Slot {
        self.slots[index].as_mut().expect("an op is in flight")
    }

    fn close_oldest(&mut self) {
        let Some(index) = self.open.pop_front() else { return };
        if let Some(slot) = &mut self.slots[index]
            && slot.state == State::Open
        {
            slot.state = State::Closing;
            // The receive ends, and with its last completion the socket is closed.
            let _ = slot.socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Its end came by itself: a failure, unless we wanted it.
    fn end(&mut self, index: usize, reason: String) {
        let slot = self.slots[index].as_mut().expect("it is in use");
        match std::mem::replace(&mut slot.state, State::Closing) {
            State::Closing => return,
            State::Upgrading => self.fail(1, || reason),
            // Upgraded, and counted so; the broker closed it afterwards, as it may.
            State::Open => self.open.retain(|it| *it != index),
        }
        let slot = self.slots[index].as_mut().expect("it is in use");
        let _ = slot.socket.shutdown(std::net::Shutdown::Both);
    }

    fn fail(&mut self, count: u64, reason: impl FnOnce() -> String) {
        self.failed += count;
        if self.failed_reason.is_none() {
            self.failed_reason = Some(reason());
        }
    }

    fn report(
        &self,
        options: &Connect,
        parameters: Vec<(String, String)>,
        before: (u64, Option<crate::broker::BrokerSample>),
        after: (u64, Option<crate::broker::BrokerSample>),
    ) -> ConnectReport {
        let elapsed_s = self.last_ns.saturating_sub(self.times.start_ns).max(1) as f64 / 1e9;
        let cpu_ns = before.1.zip(after.1).map(|(before, after)| after.cpu_ns.saturating_sub(before.cpu_ns));
        ConnectReport {
            scenario: match options.storm {
                Some(count) => format!("connect: {count} at once"),
                None => format!("connect: {} per second", options.rate),
            },
            passed: self.failed == 0,
            environment: Environment::read(options.broker.pid),
            parameters,
            upgrades: self.upgraded,
            failed: self.failed,
            failed_reason: self.failed_reason.clone(),
            elapsed_s,
            upgrades_per_s: self.upgraded as f64 / elapsed_s,
            latency_ms: Latency::of_histogram(&self.latency),
            histogram: buckets(&self.latency),
            broker_cpu_us_per_upgrade: cpu_ns.map(|it| it as f64 / 1e3 / self.upgraded.max(1) as f64),
            client_cpu_share: (after.0 - before.0) as f64 / 1e9 / elapsed_s,
            series: self.series.slices.clone(),
        }
    }
}

impl Series {
    fn new(start_ns: u64, slice_ns: u64, probe: BrokerProbe) -> Series {
        let mut series = Series {
            start_ns,
            slice_ns,
            probe,
            begun_ns: start_ns,
            broker_cpu_ns: None,
            latency: coarse_histogram(),
            slices: Vec::new(),
        };
        series.broker_cpu_ns = series.look();
        series
    }

    fn look(&self) -> Option<u64> {
        self.probe.pid.and_then(process::cpu_ns)
    }

    /// Ends the slice when it is over.
    fn keep(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.begun_ns) >= self.slice_ns {
            self.end_slice(now_ns);
        }
    }

    fn end_slice(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.begun_ns).max(1) as f64;
        let broker_cpu_ns = self.look();
        let ms = |quantile| {
            let value = self.latency.value_at_quantile(quantile) as f64 / 1e6;
            (!self.latency.is_empty()).then_some(value)
        };
        self.slices.push(Slice {
            at_s: (self.begun_ns as f64 + elapsed_ns / 2.0 - self.start_ns as f64) / 1e9,
            upgrades_per_s: self.latency.len() as f64 * 1e9 / elapsed_ns,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            max_ms: ms(1.0),
            broker_cpu_share: self
                .broker_cpu_ns
                .zip(broker_cpu_ns)
                .map(|(before, after)| after.saturating_sub(before) as f64 / elapsed_ns),
        });
        self.latency.reset();
        (self.begun_ns, self.broker_cpu_ns) = (now_ns, broker_cpu_ns);
    }
}

enum Head {
    Partial,
    Upgraded,
    Refused(String),
}

fn read_head(bytes: &[u8]) -> Head {
    let has_end = bytes.windows(4).any(|it| it == b"\r\n\r\n");
    if !has_end && bytes.len() < HEAD_BYTES_MAX {
        return Head::Partial;
    }
    match bytes.starts_with(b"HTTP/1.1 101") && has_end {
        true => Head::Upgraded,
        false => Head::Refused(String::from_utf8_lossy(bytes).lines().next().unwrap_or("").to_owned()),
    }
}

fn describe(result: i32) -> String {
    match result {
        0.. => "closed by the broker".to_owned(),
        errno => std::io::Error::from_raw_os_error(-errno).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_upgrade_when_it_is_whole() {
        assert!(matches!(read_head(b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n"), Head::Partial));
        assert!(matches!(read_head(b"HTTP/1.1 101 X\r\n\r\nrest"), Head::Upgraded));
        let Head::Refused(line) = read_head(b"HTTP/1.1 503 Busy\r\nA: b\r\n\r\n") else { panic!() };
        assert_eq!(line, "HTTP/1.1 503 Busy");
        assert!(matches!(read_head(&[b'x'; HEAD_BYTES_MAX]), Head::Refused(_)));
    }
}
