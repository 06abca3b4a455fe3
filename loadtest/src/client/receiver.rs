//! A subscriber: sampled, or a sink whose bytes are only counted.

use std::{
    net::TcpStream,
    sync::{MutexGuard, atomic::Ordering::SeqCst},
};

use hdrhistogram::Histogram;

use super::{
    plan::{Pace, Subscriber, Times, Topic, Window},
    series::GroupSecond,
    shared::Shared,
};
use crate::{
    dialect::{Dialect, Message, Reader},
    track::Tracker,
    verify::Order,
};

/// A subscriber's connection and what it got.
pub struct Receiver {
    /// Its topics, ascending.
    pub topics: Vec<usize>,
    /// Its place among all subscribers of the run.
    pub index: usize,
    /// Its socket.
    pub socket: TcpStream,
    /// Bytes of publications, each counted once (a sink: all bytes).
    pub bytes: u64,
    /// The part of them that came while it was measured.
    pub measured_bytes: u64,
    /// It has not ended by itself.
    pub is_open: bool,
    /// Losses that the broker announced.
    pub gaps: u64,
    /// What only a sampled one has.
    pub sampled: Option<Box<Sampled>>,
}

/// What a sampled subscriber has besides.
pub struct Sampled {
    reader: Reader,
    /// By topic.
    pub tracked: Vec<Tracked>,
}

/// One topic of a sampled subscriber.
pub struct Tracked {
    /// What came of it.
    pub tracker: Tracker,
    /// Bytes of publications, each counted once, without what frames them where that varies.
    pub publication_bytes: u64,
    /// In a closed loop, the topic's publishers go by what this subscriber has.
    sets_the_pace: bool,
}

impl Receiver {
    /// That got nothing yet. `pacing`: by topic, the subscriber that sets the pace.
    pub fn new(
        index: usize,
        subscriber: Subscriber,
        pacing: &[Option<usize>],
        topics: &[Topic],
        dialect: Dialect,
    ) -> Receiver {
        let tracked = |(topic, seq): &(usize, u64)| Tracked {
            tracker: match dialect.has_seqs() {
                true => Tracker::by_seq(*seq),
                false => Tracker::by_stamp(topics[*topic].publishers),
            },
            publication_bytes: 0,
            sets_the_pace: pacing[*topic] == Some(index),
        };
        let sampled = subscriber.is_sampled.then(|| {
            let tracked = subscriber.topics.iter().map(tracked).collect();
            Box::new(Sampled { reader: subscriber.reader, tracked })
        });
        Receiver {
            topics: subscriber.topics.iter().map(|(topic, _)| *topic).collect(),
            index,
            socket: subscriber.socket,
            bytes: 0,
            measured_bytes: 0,
            is_open: true,
            gaps: 0,
            sampled,
        }
    }

    /// Counts what was received at `now_ns`.
    pub fn count(&mut self, bytes: u64, now_ns: u64, times: Times) {
        self.bytes += bytes;
        if times.is_measured(now_ns) {
            self.measured_bytes += bytes;
        }
    }

    /// Whether it has every publication, or is closed and never will.
    pub fn has_everything(&self, topics: &[Topic], shared: &Shared) -> bool {
        if !self.is_open {
            return true;
        }
        let is_conflated = topics[self.topics[0]].is_conflated;
        let Some(sampled) = &self.sampled else {
            // How much that would be, nobody knows.
            if is_conflated {
                return true;
            }
            let expected = |topic: &usize| match shared.topics[*topic].bytes.load(SeqCst) {
                0 if shared.topics[*topic].published.load(SeqCst) > 0 => None,
                bytes => Some(bytes),
            };
            return self.topics.iter().map(expected).sum::<Option<u64>>().is_some_and(|it| self.bytes >= it);
        };
        let mut has_everything = true;
        for (topic, tracked) in self.topics.iter().zip(&sampled.tracked) {
            let topic = &shared.topics[*topic];
            if is_conflated {
                has_everything &= tracked.tracker.has_newest(topic.published.load(SeqCst));
            } else if tracked.tracker.received() < topic.published.load(SeqCst) {
                has_everything = false;
            } else {
                topic.bytes.store(tracked.publication_bytes, SeqCst);
            }
        }
        has_everything
    }
}

/// Everything that reading one sampled receive touches.
pub struct Reading<'a> {
    /// The run's topics.
    pub topics: &'a [Topic],
    /// What the threads share.
    pub shared: &'a Shared,
    /// The protocol.
    pub dialect: Dialect,
    /// By the timetable or by a window.
    pub pace: Pace,
    /// The run's times.
    pub times: Times,
    /// See [`super::Run::window`].
    pub window: Option<&'a Window>,
    /// Of the receiver's group, of what was due while it was measured, or in the window.
    pub latency: &'a mut Histogram<u64>,
    /// The current second of the receiver's group.
    pub second: &'a mut GroupSecond,
    /// When this was received.
    pub now_ns: u64,
}

impl Reading<'_> {
    /// Reads what was received.
    ///
    /// # Errors
    /// That the broker closed or did what it must not.
    pub fn read(&mut self, receiver: &mut Receiver, bytes: &[u8]) -> Result<(), String> {
        let Receiver { topics, sampled, gaps, .. } = receiver;
        let Sampled { reader, tracked } = &mut **sampled.as_mut().expect("it is sampled");
        let mut orders = Orders { shared: self.shared, held: None };
        let mut new_bytes = 0;
        let payload = &self.topics[topics[0]].payload;
        let mut on_message = |message: Message<'_>| match message {
            Message::Delivery { seq, data, wire_bytes, .. } => {
                let mut stamp = payload.check(&data);
                // Which topic a foreign payload is of, nobody knows: it counts with the first.
                let mut place = 0;
                if let Some(known) = stamp {
                    match topics.binary_search(&(known.topic as usize)) {
                        Ok(found) => place = found,
                        Err(_) => stamp = None,
                    }
                }
                if let Some(stamp) = stamp {
                    let latency_ns = self.now_ns.saturating_sub(stamp.due_ns);
                    self.second.latency.saturating_record(latency_ns);
                    let is_measured = match self.window {
                        Some(window) => window.contains(stamp.due_ns),
                        None => self.times.is_measured(stamp.due_ns),
                    };
                    if is_measured {
                        self.latency.saturating_record(latency_ns);
                    }
                }
                let Tracked { tracker, publication_bytes, sets_the_pace } = &mut tracked[place];
                if tracker.on_delivery(seq, stamp, orders.of(topics[place])) {
                    new_bytes += wire_bytes as u64;
                    *publication_bytes += wire_bytes as u64;
                    self.second.sampled_count += 1;
                    if let Some(stamp) = stamp
                        && *sets_the_pace
                        && matches!(self.pace, Pace::Closed { .. })
                        && let Some(arrived) =
                            self.shared.topics[topics[place]].arrived.get(stamp.publisher as usize)
                    {
                        arrived.fetch_add(1, SeqCst);
                    }
                }
                Ok(())
            }
            Message::Gap { .. } => {
                *gaps += 1;
                Ok(())
            }
            Message::Error(error) => Err(error),
            Message::Ok { .. } | Message::Replayed { .. } | Message::Other => Ok(()),
        };
        let read = reader.feed(self.dialect, bytes, &mut on_message);
        drop(orders);
        // Where frames are cut as it pleases the broker, what they take is part of a delivery's bytes.
        let wire_bytes = if self.dialect.is_stream() { bytes.len() as u64 } else { new_bytes };
        self.second.bytes += wire_bytes;
        self.second.sampled_bytes += wire_bytes;
        receiver.count(wire_bytes, self.now_ns, self.times);
        read
    }
}

/// The topics' orders, of which one is held at a time: what comes together is mostly of one topic.
struct Orders<'a> {
    shared: &'a Shared,
    held: Option<(usize, MutexGuard<'a, Order>)>,
}

impl Orders<'_> {
    fn of(&mut self, topic: usize) -> &mut Order {
        if self.held.as_ref().is_none_or(|(held, _)| *held != topic) {
            // Let go of one before taking the other: two threads could want each other's.
            self.held = None;
            let order = self.shared.topics[topic].order.lock().expect("no worker panics with the order");
            self.held = Some((topic, order));
        }
        &mut self.held.as_mut().expect("it is held now").1
    }
}
