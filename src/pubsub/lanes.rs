//! The lanes of a topic at its home: the encodings in which somebody receives it, with what is written in each and not
//! handed over.
//!
//! Nearly every topic that somebody receives has one lane. It lies in the topic, so a publication has what it needs
//! side by side; further ones are a list behind it. What nobody receives takes nothing, however many encodings there
//! are. Invariants, which [`Lanes::check`] asserts:
//!
//! - an encoding has one lane at most;
//! - a lane is there while a reactor wants it or it has a chunk of its own;
//! - what is open is for somebody.

use std::{iter, sync::Arc};

use super::{
    home::bits,
    log::{Appender, ChunkPool, Range},
    message::{Batch, Delivery, Outboxes},
};
use crate::protocol::Encoding;

/// The lanes of one topic, in no order.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    first: Option<Node>,
}

#[derive(Debug)]
struct Node {
    lane: Lane,
    next: Option<Box<Node>>,
}

/// An encoding of a topic that somebody receives.
#[derive(Debug)]
pub(super) struct Lane {
    /// Reactors that subscribed by name, a bit each.
    pub(super) exact: u64,
    /// Reactors one of whose filters matches; as up to date as the topic is with the filters.
    pub(super) matched: u64,
    /// What is written and not handed over.
    pub(super) open: Open,
    /// The chunk that it writes while the topic is busy, from its first record then on.
    pub(super) own: Option<Appender>,
}

// A cache line; so the topic that it lies in is two.
const _: () = assert!(size_of::<Lane>() == 64 && size_of::<Lanes>() == 72);

/// Records of adjacent publications in one encoding, side by side, that are written and not handed over.
#[derive(Debug)]
pub(super) struct Open {
    encoding: Encoding,
    count: u32,
    /// The first publication's.
    seq: u64,
    range: Option<Range>,
}

impl Lanes {
    /// Each lane.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        iter::successors(self.first.as_ref(), |node| node.next.as_deref()).map(|node| &node.lane)
    }

    /// Each lane, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        let mut at = self.first.as_mut();
        iter::from_fn(move || {
            let Node { lane, next } = at.take()?;
            at = next.as_deref_mut();
            Some(lane)
        })
    }

    /// The lane of `encoding`, which is there from now on. It is to be given a reactor that wants it.
    pub(super) fn get_or_insert(&mut self, encoding: Encoding) -> &mut Lane {
        if self.get_mut(encoding).is_none() {
            self.insert(Lane::new(encoding));
        }
        self.get_mut(encoding).expect("it was there or was just put there")
    }

    /// The lane of `encoding`, if it is there.
    pub(super) fn get_mut(&mut self, encoding: Encoding) -> Option<&mut Lane> {
        self.iter_mut().find(|lane| lane.encoding() == encoding)
    }

    /// Lets go of the lanes that no reactor wants any more and that have no chunk of their own.
    pub(super) fn prune(&mut self) {
        while self.first.as_ref().is_some_and(Node::is_over) {
            self.first = self.first.take().and_then(|node| node.next).map(|node| *node);
        }
        let mut at = self.first.as_mut();
        while let Some(node) = at {
            while node.next.as_deref().is_some_and(Node::is_over) {
                node.next = node.next.take().and_then(|node| node.next);
            }
            at = node.next.as_deref_mut();
        }
    }

    /// Lanes give up their own chunks, those that `is_over` is true of.
    pub(super) fn retire_own(&mut self, pool: &mut ChunkPool, is_over: impl Fn(&Lane) -> bool) {
        for lane in self.iter_mut().filter(|lane| is_over(lane)) {
            lane.own.take().into_iter().for_each(|own| pool.retire(own));
        }
        self.prune();
    }

    /// Asserts the invariants; for tests and simulations.
    pub(super) fn check(&self) {
        for (place, lane) in self.iter().enumerate() {
            let is_once = self.iter().take(place).all(|it| it.encoding() != lane.encoding());
            assert!(is_once, "an encoding has one lane");
            assert!(lane.interest() != 0 || lane.own.is_some(), "a lane is there for something");
            assert!(lane.interest() != 0 || lane.open.is_empty(), "what is open is for somebody");
        }
    }

    fn insert(&mut self, lane: Lane) {
        match &mut self.first {
            None => self.first = Some(Node { lane, next: None }),
            Some(first) => first.next = Some(Box::new(Node { lane, next: first.next.take() })),
        }
    }
}

impl Node {
    fn is_over(&self) -> bool {
        self.lane.interest() == 0 && self.lane.own.is_none()
    }
}

impl Lane {
    fn new(encoding: Encoding) -> Lane {
        Lane { exact: 0, matched: 0, open: Open { encoding, count: 0, seq: 0, range: None }, own: None }
    }

    /// Which encoding it is.
    pub(super) fn encoding(&self) -> Encoding {
        self.open.encoding
    }

    /// Reactors that want it, a bit each.
    pub(super) fn interest(&self) -> u64 {
        self.exact | self.matched
    }

    /// What is open goes to the reactors that want it.
    pub(super) fn hand_over(&mut self, topic: &Arc<str>, outboxes: &mut Outboxes) {
        let reactors = self.interest();
        self.open.hand_over(topic, reactors, outboxes);
    }
}

impl Open {
    /// Whether nothing is open.
    pub(super) fn is_empty(&self) -> bool {
        self.range.is_none()
    }

    /// Whether what `appender` writes next comes right behind what is open.
    pub(super) fn is_continued_by(&self, appender: &Appender) -> bool {
        self.range.as_ref().is_some_and(|range| appender.continues(range))
    }

    /// Adds the record of publication `seq`: `len` bytes, all of which `fill` must write. If anything is open,
    /// `appender` must continue it.
    pub(super) fn write(
        &mut self,
        appender: &mut Appender,
        seq: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        match &mut self.range {
            Some(range) => {
                appender.extend(range, len, fill);
                self.count += 1;
            }
            None => {
                self.range = Some(appender.append(len, fill));
                (self.seq, self.count) = (seq, 1);
            }
        }
    }

    /// It goes to `reactors`, a bit each.
    pub(super) fn hand_over(&mut self, topic: &Arc<str>, reactors: u64, outboxes: &mut Outboxes) {
        let Some(range) = self.range.take() else { return };
        let (encoding, seq, count) = (self.encoding, self.seq, self.count);
        let batch = |range| Delivery::Batch(Batch { topic: topic.clone(), encoding, seq, count, range });
        let mut reactors = bits(reactors);
        // Mostly the only one: it gets the reference that was the lane's.
        let first = reactors.next().expect("what is open is for somebody");
        reactors.for_each(|reactor| outboxes[reactor].push_back(batch(range.clone())));
        outboxes[first].push_back(batch(range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that there can be, of which any may be over.
    #[test]
    fn lanes_that_are_over_go_wherever_they_are() {
        for wanted in 0..1u64 << Encoding::COUNT {
            let mut lanes = Lanes::default();
            for encoding in Encoding::ALL {
                lanes.get_or_insert(encoding).exact = 1;
            }
            let is_wanted = |encoding: Encoding| wanted >> encoding.index() & 1 == 1;
            for lane in lanes.iter_mut().filter(|lane| !is_wanted(lane.encoding())) {
                lane.exact = 0;
            }
            lanes.prune();
            lanes.check();
            assert!(
                Encoding::ALL.iter().all(|&it| lanes.get_mut(it).is_some() == is_wanted(it)),
                "{wanted:b}"
            );
        }
    }
}
