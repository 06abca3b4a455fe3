//! The floor: the same fan-out by a loop that does nothing else.
//!
//! What it costs to hand the same bytes to the same number of sockets at the same pace, with nothing
//! to parse, order, look up or account for: the least that a broker on this kernel can take per
//! delivery. It is a process of its own, like a broker, and its CPU time is read the same way.
//!
//! The loop is the best that we know: one ring with DEFER_TASKRUN, one io_uring_enter per turn, at most
//! 256 sends per turn, one send per socket and visit with everything up to the head as it is then, and
//! frames written once into memory that the sends share.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Command, Stdio},
};

use fanfare::uring::{
    Io, Op, Token, Wait,
    listener::{listen, local_address},
    ring::{Ring, RingConfig},
};

use crate::{
    broker::BrokerProbe,
    cli::{Floor, FloorServer},
    client::{self, Lane, Pace, Subscriber, Times, Topic, Watcher},
    clock,
    codec::opcode,
    connect::open_socket,
    dialect::{Dialect, Reader},
    environment::Environment,
    output::{Live, print},
    payload::{Payload, Stamp},
    process,
    report::{GroupShape, Report},
    scenario::{ensure_descriptors, finish},
    schedule::Schedule,
};

const SENDS_PER_TURN: usize = 256;
const SEND_BYTES_MAX: usize = 256 * 1024;
/// Memory for frames, reused round and round: more than any socket is ever behind.
const LOG_BYTES: usize = 4 << 20;
/// Of a frame with more than 125 bytes of payload.
const HEADER_BYTES: usize = 4;
const TOPIC: &str = "load/1";
/// Sequence numbers have ten digits, so that all frames have the same length.
const SEQ_BASE: u64 = 1_000_000_000;

/// Measures and prints.
///
/// # Errors
/// One line for the operator.
pub fn run(floor: &Floor, parameters: Vec<(String, String)>) -> Result<bool, String> {
    floor.run.outputs.check()?;
    let mut live = Live::new(&title(floor), &[TOPIC.to_owned()], floor.run.warmup, floor.run.duration);
    finish(&measure(floor, parameters, &mut live)?, &floor.run.outputs)
}

/// Starts the loop as a process and runs the sinks here.
///
/// # Errors
/// One line for the operator.
pub fn measure(
    floor: &Floor,
    parameters: Vec<(String, String)>,
    watcher: &mut (dyn Watcher + Send),
) -> Result<Report, String> {
    let subscribers = floor.subscribers;
    ensure_descriptors(subscribers)?;
    let mut server = Server::start(floor)?;
    let sample = subscribers.min(floor.sample);
    let sinks = (0..subscribers)
        .map(|index| {
            let socket = open_socket(server.address, index)
                .and_then(|socket| socket.set_read_timeout(None).map(|()| socket))
                .map_err(|error| format!("{}: {error}", server.address))?;
            let is_sampled = index * sample / subscribers != (index + 1) * sample / subscribers;
            let topics = vec![(0, SEQ_BASE)];
            Ok(Subscriber { topics, socket, reader: Reader::default(), is_sampled, lane: Lane::Bulk })
        })
        .collect::<Result<Vec<_>, String>>()?;
    server.expect("ready")?;

    let times = Times::starting_soon(floor.run.warmup, floor.run.duration, floor.run.drain);
    server.tell(&format!("{} {}", times.start_ns, times.end_ns))?;
    let topic = Topic {
        name: TOPIC.to_owned(),
        group: 0,
        schedule: Schedule::of_one(floor.rate),
        payload: Payload::new(payload_bytes(floor.frame_bytes as usize)),
        is_conflated: false,
        publishers: 0,
    };
    let pid = server.child.id();
    let run = client::Run {
        topics: &[topic],
        group_count: 1,
        times,
        dialect: Dialect::Json,
        pace: Pace::Open,
        threads: &floor.run.threads(),
        probe: &BrokerProbe { pid: Some(pid), metrics: None },
    };
    let environment = Environment::read(Some(pid));
    let outcome = client::run(&run, sinks, Vec::new(), watcher)?;
    let shape = GroupShape { name: TOPIC.to_owned(), topics: 1, subscribers, sampled: sample };
    let resident_bytes = process::resident_bytes(pid);
    Ok(Report::new(&title(floor), environment, parameters, outcome, &[shape], resident_bytes))
}

fn title(floor: &Floor) -> String {
    let Floor { rate, subscribers, frame_bytes, merge, .. } = floor;
    format!("floor: {rate} frames/s × {subscribers} × {frame_bytes} B, merged by {merge}")
}

/// The loop's process.
struct Server {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    address: SocketAddr,
}

impl Server {
    fn start(floor: &Floor) -> Result<Server, String> {
        let failed = |error: std::io::Error| format!("cannot start the floor's server: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("floor-server");
        for (name, value) in [
            ("--subscribers", floor.subscribers as u64),
            ("--rate", floor.rate),
            ("--frame-bytes", floor.frame_bytes),
            ("--merge", floor.merge),
        ] {
            command.args([name, &value.to_string()]);
        }
        if let Some(core) = floor.server_core {
            command.args(["--server-core", &core.to_string()]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut server = Server {
            child,
            lines: BufReader::new(stdout).lines(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        server.address = server.next_line()?.parse().map_err(|error| format!("floor's server: {error}"))?;
        Ok(server)
    }

    fn expect(&mut self, line: &str) -> Result<(), String> {
        match self.next_line()? {
            said if said == line => Ok(()),
            said => Err(format!("the floor's server says {said}")),
        }
    }

    fn next_line(&mut self) -> Result<String, String> {
        match self.lines.next() {
            Some(Ok(line)) => Ok(line),
            _ => Err("the floor's server is gone".to_owned()),
        }
    }

    fn tell(&mut self, line: &str) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").map_err(|error| format!("the floor's server: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The loop's process itself: says where it listens, waits for its sockets, is told when to begin.
///
/// # Errors
/// One line for the operator.
pub fn serve(options: &FloorServer) -> Result<(), String> {
    options.server_core.map_or(Ok(()), process::pin_to_core)?;
    process::raise_descriptor_limit();
    let failed = |error: std::io::Error| format!("floor's server: {error}");
    let listener: OwnedFd = listen(SocketAddr::from(([127, 0, 0, 1], 0)), 4096, None).map_err(failed)?;
    print(local_address(&listener).map_err(failed)?);
    let listener = TcpListener::from(listener);
    let accept = |_| listener.accept().map(|(socket, _)| socket).map_err(failed);
    let sockets = (0..options.subscribers).map(accept).collect::<Result<Vec<_>, _>>()?;
    print("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(failed)?;
    let mut times = line.split_whitespace().filter_map(|it| it.parse().ok());
    let (Some(start_ns), Some(end_ns)) = (times.next(), times.next()) else {
        return Ok(());
    };
    let mut floor = FloorLoop::new(options, sockets, start_ns, end_ns)?;
    floor.run()?;
    // Stays to be looked at, its sockets open, until whoever started it has seen enough.
    line.clear();
    std::io::stdin().read_line(&mut line).map_err(failed)?;
    Ok(())
}

struct FloorLoop {
    /// Before `log`: what is in flight reads it.
    ring: Ring,
    log: Log,
    sockets: Vec<FloorSocket>,
    /// The next socket to visit.
    cursor: usize,
    schedule: Schedule,
    merge: u64,
    start_ns: u64,
    total: u64,
}

struct FloorSocket {
    socket: TcpStream,
    /// The peer has hung up: it is owed nothing more.
    is_over: bool,
    /// Frames handed to the kernel.
    position: u64,
    /// Bytes of the send in flight, or 0.
    in_flight_bytes: u32,
}

/// Frames of equal length in a circle, written once each.
struct Log {
    memory: Vec<u8>,
    frame_bytes: usize,
    capacity: u64,
    /// Frames written.
    head: u64,
    /// All sockets are at least here; looked up only when the circle seems full.
    oldest: u64,
    payload: Payload,
}

impl FloorLoop {
    fn new(
        options: &FloorServer,
        sockets: Vec<TcpStream>,
        start_ns: u64,
        end_ns: u64,
    ) -> Result<FloorLoop, String> {
        let config = RingConfig {
            entries: 512,
            buffer_count: 1,
            buffer_bytes: 64,
            sends_per_turn: SENDS_PER_TURN,
            pending_sends: sockets.len(),
        };
        let schedule = Schedule::of_one(options.rate);
        Ok(FloorLoop {
            ring: Ring::new(config).map_err(|error| error.to_string())?,
            log: Log::new(options.frame_bytes),
            sockets: sockets
                .into_iter()
                .map(|socket| FloorSocket { socket, is_over: false, position: 0, in_flight_bytes: 0 })
                .collect(),
            cursor: 0,
            total: schedule.total(end_ns - start_ns),
            schedule,
            merge: options.merge,
            start_ns,
        })
    }

    fn run(&mut self) -> Result<(), String> {
        let mut sent_to_all = false;
        while !sent_to_all {
            let now_ns = clock::now_ns();
            self.publish(now_ns);
            let (sends, swept) = self.visit();
            let wait = match swept {
                false => Wait::Poll,
                true => Wait::Sleep { timeout_ns: self.next_due_ns().saturating_sub(now_ns) },
            };
            self.ring.enter(wait).map_err(|error| format!("io_uring_enter: {error}"))?;
            while let Some(completion) = self.ring.reap() {
                let socket = &mut self.sockets[completion.token.slot() as usize];
                // Sends are whole unless the connection is over: a client that waited long enough hangs up.
                socket.is_over |= completion.result != socket.in_flight_bytes as i32;
                socket.in_flight_bytes = 0;
            }
            let is_done =
                |it: &FloorSocket| it.in_flight_bytes == 0 && (it.is_over || it.position == self.total);
            sent_to_all = sends == 0 && self.sockets.iter().all(is_done);
        }
        Ok(())
    }

    /// Writes the frames that are due.
    fn publish(&mut self, now_ns: u64) {
        let Some(elapsed_ns) = now_ns.checked_sub(self.start_ns) else { return };
        let due = self.schedule.due_count(elapsed_ns).min(self.total);
        let due = if due == self.total { due } else { due - due % self.merge };
        if due > self.log.oldest + self.log.capacity {
            let oldest = |it: &FloorSocket| match it.in_flight_bytes as u64 {
                0 => it.position,
                bytes => it.position - bytes / self.log.frame_bytes as u64,
            };
            let reading = self.sockets.iter().filter(|it| !it.is_over || it.in_flight_bytes > 0);
            self.log.oldest = reading.map(oldest).min().unwrap_or(due);
        }
        let room_until = self.log.oldest + self.log.capacity;
        while self.log.head < due.min(room_until) {
            let due_ns = self.start_ns + self.schedule.due_ns(self.log.head);
            self.log.append(due_ns);
        }
    }

    /// When there is something to write next; while the circle is full, soon.
    fn next_due_ns(&self) -> u64 {
        let wanted = (self.log.head + self.merge).min(self.total).saturating_sub(1);
        let in_a_second = clock::now_ns() + 1_000_000_000;
        if self.log.head == self.total {
            return in_a_second;
        }
        (self.start_ns + self.schedule.due_ns(wanted)).min(in_a_second)
    }

    /// Queues a turn's sends: how many, and whether nobody is left who could have one.
    fn visit(&mut self) -> (usize, bool) {
        let mut sends = 0;
        for _ in 0..self.sockets.len() {
            let index = self.cursor;
            let socket = &mut self.sockets[index];
            if !socket.is_over && socket.in_flight_bytes == 0 && socket.position < self.log.head {
                if sends == SENDS_PER_TURN {
                    return (sends, false);
                }
                let bytes = self.log.range(socket.position);
                socket.position += (bytes.len() / self.log.frame_bytes) as u64;
                socket.in_flight_bytes = bytes.len() as u32;
                let token = Token::new(Op::Send, index as u32, 0);
                // SAFETY: the log overwrites no frame of a send in flight, and outlives the ring.
                unsafe {
                    self.ring.send(socket.socket.as_raw_fd(), bytes.as_ptr(), bytes.len() as u32, token);
                }
                sends += 1;
            }
            self.cursor = if index + 1 == self.sockets.len() { 0 } else { index + 1 };
        }
        (sends, true)
    }
}

impl Log {
    fn new(frame_bytes: usize) -> Log {
        let capacity = LOG_BYTES / frame_bytes;
        Log {
            memory: vec![0; capacity * frame_bytes],
            frame_bytes,
            capacity: capacity as u64,
            head: 0,
            oldest: 0,
            payload: Payload::new(payload_bytes(frame_bytes)),
        }
    }

    fn append(&mut self, due_ns: u64) {
        let start = (self.head % self.capacity) as usize * self.frame_bytes;
        let mut frame = &mut self.memory[start..start + self.frame_bytes];
        let (text, filling) =
            self.payload.parts(Stamp { due_ns, topic: 0, publisher: 0, sequence: self.head });
        let [high, low] = ((self.frame_bytes - HEADER_BYTES) as u16).to_be_bytes();
        frame
            .write_all(&[0x80 | opcode::TEXT, 126, high, low])
            .and_then(|()| write!(frame, "{}{}{}", ENVELOPE.0, SEQ_BASE + 1 + self.head, ENVELOPE.1))
            .and_then(|()| frame.write_all(&text))
            .and_then(|()| frame.write_all(filling))
            .and_then(|()| frame.write_all(ENVELOPE.2.as_bytes()))
            .expect("a frame fits its place");
        self.head += 1;
    }

    /// What one send takes from `position` on: to the head, the end of the circle or the most bytes.
    fn range(&self, position: u64) -> &[u8] {
        let place = position % self.capacity;
        let most = (SEND_BYTES_MAX / self.frame_bytes) as u64;
        let count = (self.head - position).min(self.capacity - place).min(most);
        let start = place as usize * self.frame_bytes;
        &self.memory[start..start + count as usize * self.frame_bytes]
    }
}

/// A delivery as fanfare writes it, around the `seq` and the data.
const ENVELOPE: (&str, &str, &str) = (r#"{"op":"message","topic":"load/1","seq":"#, r#","data":""#, "\"}");

/// Bytes of data in a frame of `frame_bytes`.
fn payload_bytes(frame_bytes: usize) -> usize {
    let envelope = ENVELOPE.0.len() + 10 + ENVELOPE.1.len() + ENVELOPE.2.len();
    frame_bytes - HEADER_BYTES - envelope
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Message;

    #[test]
    fn the_floors_frames_are_deliveries() {
        for frame_bytes in [130, 190, 4000] {
            let mut log = Log::new(frame_bytes);
            log.append(5);
            log.append(6);
            let mut seen = Vec::new();
            let mut on_message = |message: Message<'_>| {
                let Message::Delivery { seq, data, .. } = message else { panic!("{message:?}") };
                seen.push((seq, log.payload.check(&data).unwrap().due_ns));
                Ok(())
            };
            Reader::default().feed(Dialect::Json, log.range(0), &mut on_message).unwrap();
            assert_eq!(seen, [(Some(SEQ_BASE + 1), 5), (Some(SEQ_BASE + 2), 6)], "{frame_bytes}");
        }
    }
}
