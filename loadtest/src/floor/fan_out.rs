//! The floor of a fan-out: one topic, everybody on it.

use std::{io::Write, net::TcpStream, os::fd::AsRawFd};

use fanfare::uring::{
    Io, Op, Token, Wait,
    ring::{Ring, RingConfig},
};

use super::{SEND_BYTES_MAX, SENDS_PER_TURN, SEQ_BASE};
use crate::{
    cli::FloorServer,
    client::Lane,
    clock,
    codec::opcode,
    payload::{Payload, Stamp},
    scenario::Plan,
    schedule::Schedule,
};

/// Memory for frames, reused round and round: more than any socket is ever behind.
const LOG_BYTES: usize = 4 << 20;
/// Of a frame with more than 125 bytes of payload.
const HEADER_BYTES: usize = 4;
const TOPIC: &str = "load/1";

/// Who receives what: nobody publishes, the loop itself makes up what is due.
pub fn plan(title: String, subscribers: usize, rate: u64, frame_bytes: u64, sample: usize) -> Plan {
    let mut plan = Plan::new(title);
    let group = plan.add_group(TOPIC);
    let size = payload_bytes(frame_bytes as usize) as u64;
    let topic = plan.add_topic(group, TOPIC.to_owned(), Schedule::of_one(rate), size);
    (0..subscribers).for_each(|_| plan.subscribe(vec![topic], Lane::Bulk));
    plan.sample(group, subscribers.min(sample));
    plan
}

/// The loop.
pub struct FanOut {
    /// Before `log`: what is in flight reads it.
    ring: Ring,
    log: Log,
    sockets: Vec<Sink>,
    /// The next socket to visit.
    cursor: usize,
    schedule: Schedule,
    merge: u64,
    start_ns: u64,
    total: u64,
}

struct Sink {
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

impl FanOut {
    /// Over `sockets`, from `start_ns` to `end_ns`.
    ///
    /// # Errors
    /// If there is no ring.
    pub fn new(
        options: &FloorServer,
        sockets: Vec<TcpStream>,
        start_ns: u64,
        end_ns: u64,
    ) -> Result<FanOut, String> {
        let config = RingConfig {
            entries: 512,
            buffer_count: 1,
            buffer_bytes: 64,
            sends_per_turn: SENDS_PER_TURN,
            pending_sends: sockets.len(),
            ..RingConfig::default()
        };
        let schedule = Schedule::of_one(options.rate);
        Ok(FanOut {
            ring: Ring::new(config).map_err(|error| error.to_string())?,
            log: Log::new(options.shape.frame_bytes as usize),
            sockets: sockets
                .into_iter()
                .map(|socket| Sink { socket, is_over: false, position: 0, in_flight_bytes: 0 })
                .collect(),
            cursor: 0,
            total: schedule.total(end_ns - start_ns),
            schedule,
            merge: options.shape.merge,
            start_ns,
        })
    }

    /// Runs until everything is sent to everybody.
    ///
    /// # Errors
    /// If the ring cannot be entered.
    pub fn run(&mut self) -> Result<(), String> {
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
            let is_done = |it: &Sink| it.in_flight_bytes == 0 && (it.is_over || it.position == self.total);
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
            let oldest = |it: &Sink| match it.in_flight_bytes as u64 {
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
    use crate::dialect::{Dialect, Message, Reader};

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
