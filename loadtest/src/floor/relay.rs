//! The floor of rooms: publishers send what a broker would get, and each publication goes to the members of its
//! publisher's room.
//!
//! It knows beforehand how long everything is and where in it the data lies, so nothing is parsed: per publication it
//! receives, unmasks the data into a frame of which all but the `seq` is written already, and sends that frame's memory
//! to each member. Pairs are rooms of one, a fan-in is one room with many publishers.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use fanfare::{
    protocol::mask,
    uring::{
        Io, Op, Token, Wait,
        ring::{Ring, RingConfig},
    },
};

use super::{SEND_BYTES_MAX, SENDS_PER_TURN, SEQ_BASE};
use crate::{
    cli::FloorShape,
    codec::{self, opcode},
    dialect::Dialect,
    scenario::{Plan, topics},
};

/// Memory for a room's frames, used from the start again whenever everybody has everything.
const ROOM_BYTES: usize = 32 << 10;
/// How often the end of the input is looked for.
const LOOK_NS: u64 = 100_000_000;
/// A masked frame without payload, which a client sends as a sign of life.
const KEEPALIVE_BYTES: usize = 6;

/// How many of everything.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rooms.
    pub rooms: usize,
    /// Members of each.
    pub members: usize,
    /// Publishers, dealt out to the rooms.
    pub publishers: usize,
    /// Bytes of a publication's data.
    pub size: usize,
}

impl Shape {
    /// As the flags say it.
    ///
    /// # Errors
    /// That a publisher would have several rooms.
    pub fn of(shape: &FloorShape) -> Result<Shape, String> {
        let rooms = shape.rooms.expect("without rooms it is a fan-out");
        let publishers = shape.publishers.unwrap_or(rooms);
        if publishers < rooms {
            return Err(format!(
                "--publishers {publishers} is less than --rooms {rooms}: the floor's publishers have one room each"
            ));
        }
        Ok(Shape { rooms, members: shape.members, publishers, size: shape.size as usize })
    }
}

/// Who receives and publishes what.
///
/// # Errors
/// None that is not the shape's.
pub fn plan(shape: &Shape, rate: u64, sample: usize) -> Result<Plan, String> {
    let Shape { rooms, members, publishers, size } = *shape;
    let mut plan = Plan::new(format!(
        "floor: {rooms} rooms of {members}, {publishers} publishers, {rate} pub/s × {size} B"
    ));
    let group = topics::add_rooms(&mut plan, (rooms, members, publishers), rate, size as u64);
    plan.sample(group, sample.min(rooms * members));
    Ok(plan)
}

/// The loop.
pub struct Relay {
    /// Before `rooms`: what is in flight reads their memory.
    ring: Ring,
    rooms: Vec<Room>,
    /// Room after room.
    members: Vec<Member>,
    members_per_room: usize,
    publishers: Vec<Publisher>,
    /// Rooms with members to send to.
    owing: VecDeque<usize>,
    /// Publishers whose receive ended.
    unarmed: Vec<usize>,
}

struct Room {
    memory: Vec<u8>,
    layout: Layout,
    /// Frames written.
    head: u64,
    /// The frame in the first place.
    start: u64,
    /// Members that do not have everything yet.
    busy: usize,
    is_owing: bool,
    /// Publishers whose publications wait for room.
    blocked: Vec<usize>,
}

/// How a room's frames look.
struct Layout {
    /// A publication as it comes.
    publish_bytes: usize,
    /// Where its mask is, and where its data.
    mask_offset: usize,
    data_offset: usize,
    /// A delivery as it goes out, and where in it the `seq` and the data are.
    frame_bytes: usize,
    seq_offset: usize,
    sent_data_offset: usize,
    size: usize,
}

struct Member {
    socket: TcpStream,
    is_over: bool,
    /// Frames handed to the kernel.
    position: u64,
    /// Bytes of the send in flight, or 0.
    in_flight_bytes: u32,
}

struct Publisher {
    socket: TcpStream,
    room: usize,
    /// What came and was not taken.
    partial: Vec<u8>,
}

impl Relay {
    /// Over these sockets, in the plan's order.
    ///
    /// # Errors
    /// If there is no ring.
    pub fn new(shape: Shape, members: Vec<TcpStream>, publishers: Vec<TcpStream>) -> Result<Relay, String> {
        let config = RingConfig {
            entries: 4_096,
            buffer_count: 1_024,
            buffer_bytes: 4_096,
            sends_per_turn: SENDS_PER_TURN,
            pending_sends: members.len(),
            ..RingConfig::default()
        };
        let member = |socket| Member { socket, is_over: false, position: 0, in_flight_bytes: 0 };
        let publisher =
            |(index, socket)| Publisher { socket, room: index % shape.rooms, partial: Vec::new() };
        Ok(Relay {
            ring: Ring::new(config).map_err(|error| error.to_string())?,
            rooms: (0..shape.rooms).map(|room| Room::new(&topics::room_name(room), shape.size)).collect(),
            members: members.into_iter().map(member).collect(),
            members_per_room: shape.members,
            unarmed: (0..publishers.len()).collect(),
            publishers: publishers.into_iter().enumerate().map(publisher).collect(),
            owing: VecDeque::new(),
        })
    }

    /// Runs until whoever started it has seen enough.
    ///
    /// # Errors
    /// If the ring cannot be entered.
    pub fn run_until_input_ends(&mut self) -> Result<(), String> {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        thread::spawn(move || {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            told.store(true, Relaxed);
        });
        while !is_over.load(Relaxed) {
            for index in self.unarmed.drain(..) {
                let token = Token::new(Op::Receive, index as u32, 0);
                self.ring.receive_multishot(self.publishers[index].socket.as_raw_fd(), token);
            }
            let wait = match self.visit() {
                false => Wait::Poll,
                true => Wait::Sleep { timeout_ns: LOOK_NS },
            };
            self.ring.enter(wait).map_err(|error| format!("io_uring_enter: {error}"))?;
            while let Some(completion) = self.ring.reap() {
                let index = completion.token.slot() as usize;
                if completion.token.op() == Op::Send {
                    self.on_sent(index, completion.result);
                    continue;
                }
                if let Some(lease) = completion.lease {
                    let publisher = &mut self.publishers[index];
                    let room = &mut self.rooms[publisher.room];
                    let members = members_of(&self.members, publisher.room, self.members_per_room);
                    publisher.feed(index, self.ring.leased(&lease), room, members);
                    list(&mut self.owing, publisher.room, room);
                    self.ring.recycle(lease);
                }
                if !completion.more && (completion.result > 0 || completion.result == -libc::ENOBUFS) {
                    self.unarmed.push(index);
                }
            }
        }
        Ok(())
    }

    /// Queues a turn's sends; whether nobody is left who could have one.
    fn visit(&mut self) -> bool {
        let mut sends = 0;
        while let Some(&index) = self.owing.front() {
            let room = &mut self.rooms[index];
            let first = index * self.members_per_room;
            for slot in first..first + self.members_per_room {
                let member = &mut self.members[slot];
                if member.is_over || member.in_flight_bytes > 0 || member.position == room.head {
                    continue;
                }
                if sends == SENDS_PER_TURN {
                    return false;
                }
                let bytes = room.range(member.position);
                member.position += (bytes.len() / room.layout.frame_bytes) as u64;
                member.in_flight_bytes = bytes.len() as u32;
                let token = Token::new(Op::Send, slot as u32, 0);
                // SAFETY: a room overwrites no frame of a send in flight, and outlives the ring.
                unsafe {
                    self.ring.send(member.socket.as_raw_fd(), bytes.as_ptr(), bytes.len() as u32, token);
                }
                sends += 1;
            }
            room.is_owing = false;
            self.owing.pop_front();
        }
        true
    }

    fn on_sent(&mut self, slot: usize, result: i32) {
        let index = slot / self.members_per_room;
        let room = &mut self.rooms[index];
        let member = &mut self.members[slot];
        // Sends are whole unless the connection is over: a client that waited long enough hangs up.
        member.is_over |= result != member.in_flight_bytes as i32;
        member.in_flight_bytes = 0;
        if member.is_over || member.position == room.head {
            room.busy -= 1;
        }
        for publisher in std::mem::take(&mut room.blocked) {
            let members = members_of(&self.members, index, self.members_per_room);
            self.publishers[publisher].feed(publisher, &[], room, members);
        }
        if room.busy > 0 {
            list(&mut self.owing, index, room);
        }
    }
}

fn members_of(members: &[Member], room: usize, per_room: usize) -> &[Member] {
    &members[room * per_room..(room + 1) * per_room]
}

/// Somebody in the room may be owed something.
fn list(owing: &mut VecDeque<usize>, index: usize, room: &mut Room) {
    if !room.is_owing && room.busy > 0 {
        room.is_owing = true;
        owing.push_back(index);
    }
}

impl Publisher {
    /// Takes whole publications of what came, as far as there is room for them.
    fn feed(&mut self, index: usize, bytes: &[u8], room: &mut Room, members: &[Member]) {
        if self.partial.is_empty() {
            let taken = room.take(bytes, members);
            self.partial.extend_from_slice(&bytes[taken..]);
        } else {
            self.partial.extend_from_slice(bytes);
            let taken = room.take(&self.partial, members);
            self.partial.drain(..taken);
        }
        if self.partial.len() >= room.layout.publish_bytes && !room.blocked.contains(&index) {
            room.blocked.push(index);
        }
    }
}

impl Room {
    /// A room of this name, for data of `size` bytes, with its memory written as far as that is known.
    fn new(name: &str, size: usize) -> Room {
        let layout = Layout::of(name, size);
        let frame = layout.template(name);
        let capacity = (ROOM_BYTES / frame.len()).max(1);
        Room {
            memory: frame.repeat(capacity),
            layout,
            head: 0,
            start: 0,
            busy: 0,
            is_owing: false,
            blocked: Vec::new(),
        }
    }

    /// Appends the whole publications among `bytes` while there is room; how many bytes that were.
    fn take(&mut self, bytes: &[u8], members: &[Member]) -> usize {
        let mut taken = 0;
        while let Some(&first) = bytes.get(taken) {
            let len = match first & 0x0f {
                opcode::TEXT => self.layout.publish_bytes,
                _ => KEEPALIVE_BYTES,
            };
            let Some(frame) = bytes.get(taken..taken + len) else { break };
            if first & 0x0f == opcode::TEXT && !self.append(frame, members) {
                break;
            }
            taken += len;
        }
        taken
    }

    /// Whether there was room.
    fn append(&mut self, publish: &[u8], members: &[Member]) -> bool {
        let capacity = (self.memory.len() / self.layout.frame_bytes) as u64;
        if self.busy == 0 {
            self.start = self.head;
        } else if self.head - self.start >= capacity && self.head >= self.oldest(members) + capacity {
            return false;
        }
        let Layout { mask_offset, data_offset, frame_bytes, seq_offset, sent_data_offset, size, .. } =
            self.layout;
        let place = ((self.head - self.start) % capacity) as usize * frame_bytes;
        let frame = &mut self.memory[place..place + frame_bytes];
        self.head += 1;
        write!(&mut frame[seq_offset..], "{}", SEQ_BASE + self.head).expect("ten digits fit their place");
        let key = publish[mask_offset..mask_offset + 4].try_into().expect("four bytes");
        let data = &mut frame[sent_data_offset..sent_data_offset + size];
        data.copy_from_slice(&publish[data_offset..data_offset + size]);
        mask::unmask(data, key, data_offset - mask_offset - 4);
        self.busy = members.iter().filter(|it| !it.is_over).count();
        true
    }

    /// The first frame that somebody may still read.
    fn oldest(&self, members: &[Member]) -> u64 {
        let reading = members.iter().filter(|it| !it.is_over || it.in_flight_bytes > 0);
        let oldest = |it: &Member| it.position - it.in_flight_bytes as u64 / self.layout.frame_bytes as u64;
        reading.map(oldest).min().unwrap_or(self.head)
    }

    /// What one send takes from `position` on: to the head, the end of the memory or the most bytes.
    fn range(&self, position: u64) -> &[u8] {
        let frame_bytes = self.layout.frame_bytes;
        let capacity = (self.memory.len() / frame_bytes) as u64;
        let place = (position - self.start) % capacity;
        let most = (SEND_BYTES_MAX / frame_bytes) as u64;
        let count = (self.head - position).min(capacity - place).min(most);
        let start = place as usize * frame_bytes;
        &self.memory[start..start + count as usize * frame_bytes]
    }
}

impl Layout {
    fn of(name: &str, size: usize) -> Layout {
        let (before, after) = Dialect::Json.publish_envelope(name, size);
        let mut publish = Vec::new();
        codec::write_frame(opcode::TEXT, 0, &[&before, &vec![b'x'; size], &after], &mut publish);
        let header_bytes = publish.len() - before.len() - size - after.len();
        let envelope = envelope(name);
        let payload_bytes = envelope.0.len() + 10 + envelope.1.len() + size + envelope.2.len();
        let sent_header_bytes = frame_header(payload_bytes).len();
        let seq_offset = sent_header_bytes + envelope.0.len();
        Layout {
            publish_bytes: publish.len(),
            mask_offset: header_bytes - 4,
            data_offset: header_bytes + before.len(),
            frame_bytes: sent_header_bytes + payload_bytes,
            seq_offset,
            sent_data_offset: seq_offset + 10 + envelope.1.len(),
            size,
        }
    }

    /// A frame without its `seq` and its data.
    fn template(&self, name: &str) -> Vec<u8> {
        let envelope = envelope(name);
        let payload_bytes = self.frame_bytes - self.seq_offset + envelope.0.len();
        let mut frame = frame_header(payload_bytes);
        frame.extend_from_slice(envelope.0.as_bytes());
        frame.extend_from_slice(&[b'0'; 10]);
        frame.extend_from_slice(envelope.1.as_bytes());
        frame.resize(frame.len() + self.size, b'x');
        frame.extend_from_slice(envelope.2.as_bytes());
        frame
    }
}

/// A delivery as fanfare writes it, around the `seq` and the data.
fn envelope(name: &str) -> (String, &'static str, &'static str) {
    (format!(r#"{{"op":"message","topic":"{name}","seq":"#), r#","data":""#, "\"}")
}

/// Of a text frame from a server (RFC 6455, section 5.2).
fn frame_header(payload_bytes: usize) -> Vec<u8> {
    let first = 0x80 | opcode::TEXT;
    match payload_bytes {
        0..=125 => vec![first, payload_bytes as u8],
        126..=0xffff => [&[first, 126][..], &(payload_bytes as u16).to_be_bytes()].concat(),
        _ => [&[first, 127][..], &(payload_bytes as u64).to_be_bytes()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dialect::{Message, Reader},
        payload::{Payload, Stamp},
    };

    const ROOM: &str = "room/12";

    /// The publications numbered `from` on, as a publisher sends them, and a sign of life before each.
    fn published(payload: &Payload, from: u64, count: u64) -> Vec<u8> {
        let (before, after) = Dialect::Json.publish_envelope(ROOM, payload.size());
        let mut bytes = Vec::new();
        for sequence in from..from + count {
            Dialect::Json.write_keepalive(&mut bytes);
            let (text, filling) = payload.parts(Stamp { due_ns: 5, topic: 0, publisher: 0, sequence });
            Dialect::Json.frame(&[&before, &text, filling, &after], &mut bytes);
        }
        bytes
    }

    /// What a member reads of `bytes`: the `seq`s and the publications' numbers.
    fn read(payload: &Payload, bytes: &[u8]) -> Vec<(u64, u64)> {
        let mut seen = Vec::new();
        let mut on_message = |message: Message<'_>| {
            let Message::Delivery { seq, data, .. } = message else { panic!("{message:?}") };
            seen.push((seq.unwrap() - SEQ_BASE, payload.check(&data).unwrap().sequence));
            Ok(())
        };
        Reader::default().feed(Dialect::Json, bytes, &mut on_message).unwrap();
        seen
    }

    fn connected() -> TcpStream {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    fn member() -> Member {
        Member { socket: connected(), is_over: false, position: 0, in_flight_bytes: 0 }
    }

    #[test]
    fn what_is_published_is_delivered_however_it_is_cut() {
        for size in [32, 128, 4_000] {
            let payload = Payload::new(size);
            let bytes = published(&payload, 0, 3);
            for cut in (0..bytes.len()).step_by(7) {
                let (mut room, members) = (Room::new(ROOM, size), [member()]);
                let mut publisher = Publisher { socket: connected(), room: 0, partial: Vec::new() };
                publisher.feed(0, &bytes[..cut], &mut room, &members);
                publisher.feed(0, &bytes[cut..], &mut room, &members);
                assert_eq!(read(&payload, room.range(0)), [(1, 0), (2, 1), (3, 2)], "{size} cut at {cut}");
                assert!(publisher.partial.is_empty());
            }
        }
    }

    /// Nothing that somebody still reads is overwritten: what does not fit waits until its send is over.
    #[test]
    fn a_publication_waits_for_room() {
        let payload = Payload::new(4_000);
        let (mut room, mut members) = (Room::new(ROOM, 4_000), [member(), member()]);
        let capacity = (room.memory.len() / room.layout.frame_bytes) as u64;
        let mut publisher = Publisher { socket: connected(), room: 0, partial: Vec::new() };
        publisher.feed(7, &published(&payload, 0, capacity + 2), &mut room, &members);
        assert_eq!((room.head, room.busy, &room.blocked[..]), (capacity, 2, &[7][..]));
        // One has three, one a send of two in flight: there is room for none, then for one.
        members[0].position = 3;
        members[1].position = 2;
        members[1].in_flight_bytes = 2 * room.layout.frame_bytes as u32;
        publisher.feed(7, &[], &mut room, &members);
        assert_eq!(room.head, capacity);
        members[1].in_flight_bytes = room.layout.frame_bytes as u32;
        publisher.feed(7, &[], &mut room, &members);
        assert_eq!(room.head, capacity + 1);
        let rest = [room.range(3), room.range(capacity)].concat();
        let expected: Vec<_> = (3..=capacity).map(|it| (it + 1, it)).collect();
        assert_eq!(read(&payload, &rest), expected);
        // Everybody has everything: from the start of the memory again.
        room.busy = 0;
        members.iter_mut().for_each(|it| (it.position, it.in_flight_bytes) = (room.head, 0));
        publisher.feed(7, &[], &mut room, &members);
        assert_eq!((room.head, room.start, publisher.partial.len()), (capacity + 2, capacity + 1, 0));
        assert_eq!(read(&payload, room.range(capacity + 1)), [(capacity + 2, capacity + 1)]);
    }
}
