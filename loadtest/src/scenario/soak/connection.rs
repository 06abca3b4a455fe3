//! A visitor's connection: blocking, read until an instant, every delivery held against the one before.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    time::{Duration, Instant},
};

use super::Surroundings;
use crate::{
    connect::{self, Connected},
    dialect::{Dialect, Message, Role},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection, its subscription and what came of it.
pub struct Connection<'a> {
    surroundings: &'a Surroundings,
    connected: Connected,
    dialect: Dialect,
    subscription: String,
    bytes: Vec<u8>,
    /// What it received.
    pub seen: Seen,
}

/// What a connection received.
#[derive(Debug, Default)]
pub struct Seen {
    /// By topic: the `seq` of the next delivery; `None` until the first is there.
    next: Vec<Option<u64>>,
    /// The `seq`s of the `ok`s, in the order in which they came.
    pub oks: Vec<u64>,
    /// All of them.
    pub deliveries: u64,
    /// The same of the reconnecting publishers' topics.
    pub own_deliveries: u64,
    /// Losses that were announced.
    pub gaps: u64,
    /// It asked to be unsubscribed: the next `ok` is the answer.
    is_leaving: bool,
    /// It was answered.
    is_unsubscribed: bool,
}

/// How a connection came to its end, as far as it did.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It has not.
    Open,
    /// The broker ended it, with a reason or without.
    Closed(String),
    /// The broker did what it must not.
    Fault(String),
}

impl<'a> Connection<'a> {
    /// Opens one that is subscribed to nothing.
    ///
    /// # Errors
    /// One line.
    pub fn open(surroundings: &'a Surroundings, dialect: Dialect) -> Result<Connection<'a>, String> {
        let target = &surroundings.target;
        let mut opened = connect::connect(target, dialect, Role::Publisher(""), 0, 1)?;
        Ok(Connection {
            surroundings,
            connected: opened.pop().expect("one was asked for"),
            dialect,
            subscription: String::new(),
            bytes: vec![0; 64 * 1024],
            seen: Seen { next: vec![None; surroundings.topics.len()], ..Seen::default() },
        })
    }

    /// Keeps the kernel from reading ahead for a slow reader.
    pub fn receive_little(&self) {
        let _ = socket2::SockRef::from(&self.connected.socket).set_recv_buffer_size(4096);
    }

    /// Subscribes to a topic or a filter; the end, if that is what came of it.
    pub fn subscribe(&mut self, topic: &str) -> End {
        self.subscription = topic.to_owned();
        let mut command = Vec::new();
        self.dialect.write_subscribe(topic, &mut command);
        self.ask(&command)
    }

    /// Unsubscribes; what comes after the answer is a fault.
    pub fn unsubscribe(&mut self) -> End {
        let mut command = Vec::new();
        self.dialect.write_unsubscribe(&self.subscription, &mut command);
        self.seen.is_leaving = true;
        self.ask(&command)
    }

    /// Publishes all of `payloads` to `topic` with one write, and awaits each one's `ok`.
    pub fn publish(&mut self, topic: &str, payloads: &[Vec<u8>]) -> End {
        let mut commands = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            self.dialect.write_publish_with_id(topic, payload, index as u64 + 1, &mut commands);
        }
        let wanted = self.seen.oks.len() + payloads.len();
        self.write(&commands, wanted)
    }

    fn ask(&mut self, command: &[u8]) -> End {
        let wanted = self.seen.oks.len() + 1;
        self.write(command, wanted)
    }

    fn write(&mut self, bytes: &[u8], oks: usize) -> End {
        if let Err(error) = self.connected.socket.write_all(bytes) {
            return End::Closed(error.to_string());
        }
        let end = self.read_until(Instant::now() + PATIENCE, |seen| seen.oks.len() >= oks);
        match end {
            End::Open if self.seen.oks.len() < oks => {
                End::Fault(format!("{}: no answer within {} s", self.subscription, PATIENCE.as_secs()))
            }
            end => end,
        }
    }

    /// Says something unasked, for a broker that hangs up on those who are silent.
    pub fn keep_alive(&mut self) {
        let mut pong = Vec::new();
        self.dialect.write_keepalive(&mut pong);
        // A connection that has ended is seen when it is read.
        let _ = self.connected.socket.write_all(&pong);
    }

    /// Reads until `until`, or until `is_enough`.
    pub fn read_until(&mut self, until: Instant, is_enough: impl Fn(&Seen) -> bool) -> End {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if is_enough(&self.seen) || left.is_zero() {
                return End::Open;
            }
            // Zero would mean for ever.
            let left = left.max(Duration::from_millis(1));
            let socket = &mut self.connected.socket;
            let read = socket.set_read_timeout(Some(left)).and_then(|()| socket.read(&mut self.bytes));
            let len = match read {
                Ok(0) => return End::Closed("closed without a reason".to_owned()),
                Ok(len) => len,
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                    continue;
                }
                Err(error) => return End::Closed(error.to_string()),
            };
            let (surroundings, subscription) = (self.surroundings, &*self.subscription);
            let (seen, dialect) = (&mut self.seen, self.dialect);
            let mut fault = None;
            let mut on_message = |message: Message<'_>| {
                seen.take(message, subscription, surroundings).inspect_err(|it| fault = Some(it.clone()))
            };
            if let Err(error) = self.connected.reader.feed(dialect, &self.bytes[..len], &mut on_message) {
                return fault.map_or(End::Closed(error), End::Fault);
            }
        }
    }

    /// Leaves with a close frame, and waits for the broker's: what is on its way may come before.
    pub fn close(mut self) -> End {
        let mut frame = Vec::new();
        crate::codec::write_frame(crate::codec::opcode::CLOSE, 1, &[&1000u16.to_be_bytes()], &mut frame);
        if let Err(error) = self.connected.socket.write_all(&frame) {
            return End::Closed(error.to_string());
        }
        match self.read_until(Instant::now() + PATIENCE, |_| false) {
            End::Closed(_) => End::Open,
            End::Open => End::Fault("no answer to a close".to_owned()),
            fault => fault,
        }
    }

    /// Leaves without a word.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.connected.socket).set_linger(Some(Duration::ZERO));
        let _ = self.connected.socket.shutdown(Shutdown::Write);
    }
}

impl Seen {
    fn take(
        &mut self,
        message: Message<'_>,
        subscription: &str,
        around: &Surroundings,
    ) -> Result<(), String> {
        match message {
            Message::Ok { seq, .. } => {
                // By name, it says where the subscription begins. A filter begins with what comes first behind it.
                if self.oks.is_empty()
                    && let Some(topic) = around.topics.iter().position(|it| it == subscription)
                {
                    self.next[topic] = Some(seq + 1);
                }
                self.oks.push(seq);
                self.is_unsubscribed = self.is_leaving;
                Ok(())
            }
            Message::Delivery { seq, data, .. } => {
                let stamp = around.payload.check(&data).filter(|it| (it.topic as usize) < self.next.len());
                let Some(stamp) = stamp else {
                    return Err(format!("{subscription}: other bytes than were published"));
                };
                let (topic, seq) = (stamp.topic as usize, seq.unwrap_or(0));
                let name = &around.topics[topic];
                if self.is_unsubscribed {
                    return Err(format!("{name} {seq} came after the unsubscribe was answered"));
                }
                if self.oks.is_empty() {
                    return Err(format!(
                        "{subscription}: {name} {seq} came before the subscribe was answered"
                    ));
                }
                if let Some(next) = self.next[topic].filter(|it| *it != seq) {
                    return Err(format!("{subscription}: {name} {seq} came instead of {next}"));
                }
                self.next[topic] = Some(seq + 1);
                self.deliveries += 1;
                self.own_deliveries += (topic >= around.first_own) as u64;
                Ok(())
            }
            Message::Gap { topic, range } => {
                self.gaps += 1;
                self.pass_over(&topic, range, around)
            }
            Message::Error(error) => Err(format!("{subscription}: {error}")),
            Message::Replayed { .. } | Message::Other => Ok(()),
        }
    }

    /// What a gap names is not missed; without a range anything may be missing.
    fn pass_over(
        &mut self,
        topic: &str,
        range: Option<(u64, u64)>,
        around: &Surroundings,
    ) -> Result<(), String> {
        let place = around.topics.iter().position(|it| it == topic);
        let (Some(place), Some((from, to))) = (place, range) else {
            self.next.fill(None);
            return Ok(());
        };
        if let Some(next) = self.next[place].filter(|it| *it != from) {
            return Err(format!("a gap of {topic} from {from} came instead of {next}"));
        }
        self.next[place] = Some(to + 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, sync::atomic::AtomicBool};

    use super::*;
    use crate::{connect::Target, payload::Payload, payload::Stamp, scenario::soak::visitors::Publishers};

    fn surroundings() -> Surroundings {
        Surroundings {
            target: Target::parse("ws://127.0.0.1:1/").unwrap(),
            payload: Payload::new(40),
            topics: ["soak/out", "room/0", "soak/own/0"].map(str::to_owned).to_vec(),
            first_own: 2,
            publishers: Publishers::default(),
            is_over: AtomicBool::new(false),
            drain: Duration::ZERO,
        }
    }

    fn delivery(around: &Surroundings, topic: u16, seq: u64) -> Message<'static> {
        let stamp = Stamp { due_ns: 1, topic, publisher: 0, sequence: 0 };
        let (text, filling) = around.payload.parts(stamp);
        Message::Delivery {
            topic: Cow::Borrowed(&[]),
            seq: Some(seq),
            data: Cow::Owned([&text[..], filling].concat()),
            wire_bytes: 0,
        }
    }

    fn gap(topic: &str, range: Option<(u64, u64)>) -> Message<'static> {
        Message::Gap { topic: topic.to_owned().into(), range }
    }

    /// What a subscriber of `subscription` makes of some messages: the first fault.
    fn fault(subscription: &str, messages: Vec<Message<'static>>) -> Option<String> {
        let around = surroundings();
        let mut seen = Seen { next: vec![None; 3], ..Seen::default() };
        messages.into_iter().find_map(|it| seen.take(it, subscription, &around).err())
    }

    #[test]
    fn by_name_everything_after_the_ok_must_come_once_and_in_order() {
        let around = surroundings();
        let seqs = |seqs: &[u64]| {
            let ok = Message::Ok { seq: 7, start: None };
            let deliveries = seqs.iter().map(|it| delivery(&around, 0, *it));
            fault("soak/out", std::iter::once(ok).chain(deliveries).collect())
        };
        assert_eq!(seqs(&[8, 9, 10]), None);
        for (wrong, seq, next) in [(&[9][..], 9, 8), (&[8, 10], 10, 9), (&[8, 8], 8, 9), (&[7], 7, 8)] {
            assert_eq!(seqs(wrong).unwrap(), format!("soak/out: soak/out {seq} came instead of {next}"));
        }
    }

    #[test]
    fn by_filter_each_topic_goes_on_from_where_it_began() {
        let around = surroundings();
        let all = |parts: &[(u16, u64)]| {
            let deliveries = parts.iter().map(|(topic, seq)| delivery(&around, *topic, *seq));
            fault("#", std::iter::once(Message::Ok { seq: 0, start: None }).chain(deliveries).collect())
        };
        assert_eq!(all(&[(0, 5), (1, 90), (0, 6), (2, 1), (1, 91)]), None);
        assert!(all(&[(0, 5), (1, 90), (0, 7)]).unwrap().ends_with("soak/out 7 came instead of 6"));
    }

    #[test]
    fn nothing_comes_before_a_subscribe_was_answered() {
        let around = surroundings();
        for subscription in ["#", "soak/out"] {
            let text = fault(subscription, vec![delivery(&around, 0, 5)]).unwrap();
            assert_eq!(text, format!("{subscription}: soak/out 5 came before the subscribe was answered"));
        }
    }

    #[test]
    fn a_gap_excuses_what_it_names_and_nothing_else() {
        let around = surroundings();
        let after_gap = |range, seq| {
            let messages =
                vec![Message::Ok { seq: 7, start: None }, gap("soak/out", range), delivery(&around, 0, seq)];
            fault("soak/out", messages)
        };
        assert_eq!(after_gap(Some((8, 11)), 12), None);
        assert_eq!(after_gap(None, 99), None);
        assert!(after_gap(Some((8, 11)), 13).unwrap().ends_with("13 came instead of 12"));
        assert!(after_gap(Some((9, 11)), 12).unwrap().ends_with("from 9 came instead of 8"));
    }

    #[test]
    fn nothing_comes_after_an_unsubscribe_was_answered_and_nothing_foreign_at_all() {
        let around = surroundings();
        let mut seen = Seen { next: vec![None; 3], ..Seen::default() };
        seen.take(Message::Ok { seq: 0, start: None }, "soak/out", &around).unwrap();
        seen.is_leaving = true;
        seen.take(delivery(&around, 0, 1), "soak/out", &around).unwrap();
        seen.take(Message::Ok { seq: 0, start: None }, "soak/out", &around).unwrap();
        let error = seen.take(delivery(&around, 0, 2), "soak/out", &around).unwrap_err();
        assert_eq!(error, "soak/out 2 came after the unsubscribe was answered");
        let foreign = Message::Delivery {
            topic: Cow::Borrowed(&[]),
            seq: Some(1),
            data: Cow::Borrowed(b"hello"),
            wire_bytes: 0,
        };
        assert_eq!(fault("soak/out", vec![foreign]).unwrap(), "soak/out: other bytes than were published");
    }
}
