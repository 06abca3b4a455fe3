//! A publisher: turns what is due into bytes to send.

use std::{cmp::Reverse, collections::BinaryHeap, net::TcpStream, sync::atomic::Ordering::SeqCst};

use super::{
    plan::{Pace, Publisher, Times, Topic},
    shared::Shared,
};
use crate::{
    dialect::{Dialect, Reader},
    payload::Stamp,
};

/// The most that a publisher hands to one send.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// A publisher's connection and what it has to publish.
pub struct Sender {
    /// Its socket.
    pub socket: TcpStream,
    /// What comes back.
    pub reader: Reader,
    /// The kernel holds a send of `batch`.
    pub is_sending: bool,
    /// It has not ended by itself.
    pub is_open: bool,
    /// What is sent or about to be.
    pub batch: Vec<u8>,
    /// It has sent everything, or will not.
    pub is_done: bool,
    feeds: Vec<Feed>,
    /// In an open loop, when each feed's next publication is due, from the start.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// The feeds of the publications in `batch`.
    batched: Vec<usize>,
}

/// One topic of a publisher.
struct Feed {
    topic: usize,
    /// Its place among the topic's publishers.
    index: usize,
    envelope: (Vec<u8>, Vec<u8>),
    /// Publications handed out, this publisher's.
    sequence: u64,
    total: u64,
}

impl Feed {
    fn new(topic_index: usize, index: usize, topics: &[Topic], times: Times, dialect: Dialect) -> Feed {
        let topic = &topics[topic_index];
        let of_topic = topic.schedule.total(times.end_ns - times.start_ns);
        let publishers = topic.publishers as u64;
        Feed {
            topic: topic_index,
            index,
            envelope: dialect.publish_envelope(&topic.name, topic.payload.size()),
            sequence: 0,
            // The topic's publications go round its publishers.
            total: (of_topic + publishers - 1).saturating_sub(index as u64) / publishers,
        }
    }

    /// When its next publication is due, from the start; `None`: it was the last.
    fn next_due_ns(&self, topic: &Topic) -> Option<u64> {
        let index = self.sequence * topic.publishers as u64 + self.index as u64;
        (self.sequence < self.total).then(|| topic.schedule.due_ns(index))
    }
}

impl Sender {
    /// With everything before it.
    pub fn new(publisher: Publisher, topics: &[Topic], times: Times, dialect: Dialect) -> Sender {
        let feeds: Vec<Feed> = publisher
            .feeds
            .iter()
            .map(|(topic, index)| Feed::new(*topic, *index, topics, times, dialect))
            .collect();
        let due = feeds.iter().enumerate().filter_map(|(place, feed)| {
            feed.next_due_ns(&topics[feed.topic]).map(|due_ns| Reverse((due_ns, place)))
        });
        Sender {
            socket: publisher.socket,
            reader: publisher.reader,
            is_sending: false,
            is_open: true,
            batch: Vec::with_capacity(SEND_BYTES_MAX),
            is_done: false,
            due: due.collect(),
            feeds,
            batched: Vec::new(),
        }
    }

    /// When there is something to send next, from the start; `None`: never, or who knows.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    /// Whether everything was handed out.
    pub fn is_finished(&self, pace: Pace, times: Times, now_ns: u64) -> bool {
        match pace {
            Pace::Open => self.due.is_empty(),
            Pace::Closed { .. } => now_ns >= times.end_ns,
        }
    }

    /// Fills the batch with what is due, or in a closed loop with what the window has room for.
    pub fn fill_batch(&mut self, plan: &Filling<'_>, now_ns: u64) {
        match plan.pace {
            Pace::Open => self.fill_with_due(plan, now_ns),
            Pace::Closed { window } => self.fill_window(plan, now_ns, window),
        }
    }

    fn fill_with_due(&mut self, plan: &Filling<'_>, now_ns: u64) {
        while let Some(Reverse((from_start_ns, place))) = self.due.peek().copied() {
            let due_ns = plan.times.start_ns + from_start_ns;
            if due_ns > now_ns || !self.has_room(plan, place) {
                break;
            }
            self.append(plan, place, due_ns);
            self.due.pop();
            let feed = &self.feeds[place];
            if let Some(next_ns) = feed.next_due_ns(&plan.topics[feed.topic]) {
                self.due.push(Reverse((next_ns, place)));
            }
        }
    }

    fn fill_window(&mut self, plan: &Filling<'_>, now_ns: u64, window: u64) {
        if !(plan.times.start_ns..plan.times.end_ns).contains(&now_ns) {
            return;
        }
        for place in 0..self.feeds.len() {
            let feed = &self.feeds[place];
            let arrived = plan.shared.topics[feed.topic].arrived[feed.index].load(SeqCst);
            for _ in feed.sequence..arrived + window {
                if !self.has_room(plan, place) {
                    return;
                }
                self.append(plan, place, now_ns);
            }
        }
    }

    fn has_room(&self, plan: &Filling<'_>, place: usize) -> bool {
        let publication_bytes = plan.topics[self.feeds[place].topic].payload.size() + 1024;
        self.batch.is_empty() || self.batch.len() + publication_bytes <= SEND_BYTES_MAX
    }

    fn append(&mut self, plan: &Filling<'_>, place: usize, due_ns: u64) {
        let feed = &mut self.feeds[place];
        let stamp =
            Stamp { due_ns, topic: feed.topic as u16, publisher: feed.index as u16, sequence: feed.sequence };
        let (text, filling) = plan.topics[feed.topic].payload.parts(stamp);
        let parts = [&feed.envelope.0[..], &text, filling, &feed.envelope.1];
        plan.dialect.frame(&parts, &mut self.batch);
        feed.sequence += 1;
        self.batched.push(place);
    }

    /// The batch was sent: its publications count.
    pub fn on_sent(&mut self, shared: &Shared) {
        for place in self.batched.drain(..) {
            shared.topics[self.feeds[place].topic].published.fetch_add(1, SeqCst);
        }
        self.batch.clear();
        self.is_sending = false;
    }
}

/// What filling a batch looks at.
pub struct Filling<'a> {
    /// The run's topics.
    pub topics: &'a [Topic],
    /// Its times.
    pub times: Times,
    /// Its protocol.
    pub dialect: Dialect,
    /// By the timetable or by a window.
    pub pace: Pace,
    /// What arrived.
    pub shared: &'a Shared,
}
