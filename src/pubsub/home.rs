//! The home of topics: gives each publication its place and writes its bytes, once per encoding.
//!
//! A home never sees a subscriber, only which reactors have some. What it wrote for a topic during a
//! turn stays one *open* range per encoding for as long as it is contiguous, and goes out as one batch
//! per interested reactor when the home is flushed, or before anything whose place among the batches
//! matters.

use std::{collections::HashMap, hash::BuildHasher, sync::Arc};

use foldhash::fast::RandomState;

use super::{
    filter::FilterTree,
    log::{Appender, Budget, ChunkPool, OWN_CHUNK_BYTES, Range, SHARED_CHUNK_BYTES},
    message::{Batch, Delivery, Outboxes, PendingId},
};
use crate::protocol::{Encoding, command::PayloadKind, deflate::Deflater, publication::Publication};

/// The most reactors that a broker has: interest is a bit each.
pub const REACTORS_MAX: usize = 64;
/// How many topics of a home may have a chunk of their own at a time, if a quarter of the budget is
/// enough for them.
const OWN_CHUNKS_MAX: usize = 256;
/// A topic that wrote so much lately gets a chunk of its own, so that its publications are contiguous.
const BUSY_BYTES: u32 = if cfg!(test) { 1 << 10 } else { 16 << 10 };
/// A topic whose recent bytes fell below this gives its chunk up.
const QUIET_BYTES: u32 = if cfg!(test) { 64 } else { 1 << 10 };
/// How many topics one eviction looks at for an idle one.
const EVICTION_PROBES: usize = 64;

/// The topics whose name hashes to one reactor.
#[derive(Debug)]
pub struct Home {
    topics: slab::Slab<HomeTopic>,
    by_name: HashMap<Arc<str>, usize, RandomState>,
    topics_max: usize,
    filters: FilterTree<Interested>,
    /// Counts changes of `filters`: a topic's cached matches are of one generation.
    filters_generation: u64,
    /// Topics with an open range.
    dirty: Vec<usize>,
    shared: [Option<Appender>; Encoding::COUNT],
    /// Topics with a chunk of their own.
    owners: Vec<usize>,
    owners_max: usize,
    pool: ChunkPool,
    /// Time in periods of [`Home::handle_period`], for fading what a topic wrote lately.
    period: u32,
    /// No topic that was evicted had a higher `seq`: where one that comes back goes on.
    evicted_seq_max: u64,
    eviction_hand: usize,
    publications_total: u64,
}

#[derive(Debug)]
struct HomeTopic {
    name: Arc<str>,
    seq: u64,
    /// Reactors that subscribed by name, a bit each, by encoding.
    exact: [u64; Encoding::COUNT],
    /// Reactors one of whose filters matches, by encoding; of `filters_generation`.
    matched: [u64; Encoding::COUNT],
    filters_generation: u64,
    open: [Option<Open>; Encoding::COUNT],
    own: [Option<Appender>; Encoding::COUNT],
    is_dirty: bool,
    is_owner: bool,
    recent_bytes: u32,
    recent_period: u32,
}

/// Publications that are written but not handed over.
#[derive(Debug)]
struct Open {
    seq: u64,
    count: u32,
    range: Range,
}

/// A reactor that wants the batches of a filter, in an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interested {
    reactor: u8,
    encoding: Encoding,
}

/// Which reactor is a topic's home.
#[derive(Clone, Debug)]
pub struct Homes {
    pub(super) count: usize,
    hasher: foldhash::fast::FixedState,
}

/// The home has as many topics as it may, none of them idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTopics;

impl Homes {
    /// `count` homes; `seed` must be the same on all reactors.
    pub fn new(count: usize, seed: u64) -> Homes {
        Homes { count, hasher: foldhash::fast::FixedState::with_seed(seed) }
    }

    /// The home of `topic`.
    pub fn of(&self, topic: &str) -> usize {
        let hash = self.hasher.hash_one(topic);
        (((hash >> 32) * self.count as u64) >> 32) as usize
    }

    /// A number for `key` that is spread evenly, the same for the same `salt`.
    pub fn spread(&self, key: u32, salt: u64) -> u64 {
        self.hasher.hash_one((key, salt)) >> 16
    }
}

impl Home {
    /// One of `home_count` homes, of at most `topics_max` topics, whose chunks count against `budget`;
    /// `encoding_count` is how many encodings its subscribers may have.
    pub fn new(home_count: usize, topics_max: usize, encoding_count: usize, budget: Arc<Budget>) -> Home {
        let own_chunks = budget.bytes_max() / 4 / home_count / (encoding_count * OWN_CHUNK_BYTES);
        Home {
            owners_max: own_chunks.clamp(1, OWN_CHUNKS_MAX),
            topics: slab::Slab::new(),
            by_name: HashMap::default(),
            topics_max,
            filters: FilterTree::new(),
            filters_generation: 0,
            dirty: Vec::new(),
            shared: Default::default(),
            owners: Vec::new(),
            pool: ChunkPool::new(budget),
            period: 0,
            evicted_seq_max: 0,
            eviction_hand: 0,
            publications_total: 0,
        }
    }

    /// How many topics live here.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Publications sequenced since the start.
    pub fn publications_total(&self) -> u64 {
        self.publications_total
    }

    /// The chunks of this home, in bytes.
    pub fn log_bytes(&self) -> usize {
        self.pool.allocated_bytes()
    }

    /// Gives a publication its `seq` and writes it in every encoding that somebody receives.
    ///
    /// # Errors
    /// [`TooManyTopics`]: nothing was published.
    pub fn handle_publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        kind: PayloadKind,
        deflater: &mut Deflater,
        outboxes: &mut Outboxes,
    ) -> Result<u64, TooManyTopics> {
        let key = self.find_or_create(topic)?;
        self.match_filters(key);
        let topic = &mut self.topics[key];
        topic.seq += 1;
        self.publications_total += 1;
        let name = topic.name.clone();
        let publication = Publication { topic: &name, seq: topic.seq, payload, kind };
        for encoding in Encoding::ALL {
            if self.topics[key].interest(encoding) != 0 {
                self.write(key, encoding, &publication, deflater, outboxes);
            }
        }
        Ok(self.topics[key].seq)
    }

    /// Asks every reactor that has subscribers of `topic` how many, and tells how many were asked.
    /// Everything published so far goes out first, so that they count for exactly that.
    pub fn handle_count(
        &mut self,
        topic: &str,
        asker: u32,
        pending: PendingId,
        outboxes: &mut Outboxes,
    ) -> u32 {
        let Some(&key) = self.by_name.get(topic) else { return 0 };
        self.flush_topic(key, outboxes);
        self.match_filters(key);
        let topic = &self.topics[key];
        let reactors =
            Encoding::ALL.iter().fold(0, |reactors, &encoding| reactors | topic.interest(encoding));
        for reactor in bits(reactors) {
            outboxes[reactor].push_back(Delivery::Count { topic: topic.name.clone(), asker, pending });
        }
        reactors.count_ones()
    }

    /// Registers `reactor` for `topic` and answers with the topic's `seq`, after all batches up to it;
    /// or without one when there are too many topics.
    pub fn handle_subscribe(
        &mut self,
        reactor: usize,
        topic: &str,
        encoding: Encoding,
        outboxes: &mut Outboxes,
    ) {
        let answer = match self.find_or_create(topic) {
            Ok(key) => {
                self.flush_topic(key, outboxes);
                let topic = &mut self.topics[key];
                topic.exact[encoding.index()] |= 1 << reactor;
                Delivery::Subscribed { topic: topic.name.clone(), encoding, seq: Some(topic.seq) }
            }
            Err(TooManyTopics) => Delivery::Subscribed { topic: topic.into(), encoding, seq: None },
        };
        outboxes[reactor].push_back(answer);
    }

    /// Undoes [`Home::handle_subscribe`].
    pub fn handle_unsubscribe(
        &mut self,
        reactor: usize,
        topic: &str,
        encoding: Encoding,
        outboxes: &mut Outboxes,
    ) {
        let Some(&key) = self.by_name.get(topic) else { return };
        self.flush_topic(key, outboxes);
        self.topics[key].exact[encoding.index()] &= !(1 << reactor);
    }

    /// Registers `reactor` for every topic that `filter` matches, now or later.
    pub fn handle_add_filter(
        &mut self,
        reactor: usize,
        filter: &str,
        encoding: Encoding,
        registration: PendingId,
        outboxes: &mut Outboxes,
    ) {
        self.flush(outboxes);
        self.filters.insert(filter, Interested { reactor: reactor as u8, encoding });
        self.filters_generation += 1;
        outboxes[reactor].push_back(Delivery::FilterAdded { registration });
    }

    /// Undoes [`Home::handle_add_filter`].
    pub fn handle_remove_filter(
        &mut self,
        reactor: usize,
        filter: &str,
        encoding: Encoding,
        outboxes: &mut Outboxes,
    ) {
        self.flush(outboxes);
        self.filters.remove(filter, Interested { reactor: reactor as u8, encoding });
        self.filters_generation += 1;
    }

    /// Hands over what was published since the last flush: once per turn.
    pub fn flush(&mut self, outboxes: &mut Outboxes) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.topics[key].is_dirty = false;
            for encoding in Encoding::ALL {
                self.hand_over(key, encoding, outboxes);
            }
        }
        self.dirty = dirty;
    }

    /// Lets topics that went quiet give up their chunks. Called a few times per second.
    pub fn handle_period(&mut self) {
        self.period = self.period.wrapping_add(1);
        let mut owners = std::mem::take(&mut self.owners);
        owners.retain(|&key| {
            let topic = &mut self.topics[key];
            topic.fade(self.period);
            if topic.recent_bytes >= QUIET_BYTES || topic.is_dirty {
                return true;
            }
            topic.is_owner = false;
            topic.own.iter_mut().filter_map(Option::take).for_each(|own| self.pool.retire(own));
            false
        });
        self.owners = owners;
        self.pool.trim();
    }

    /// Asserts the invariants; for tests and simulations.
    pub fn check(&self) {
        for (key, topic) in &self.topics {
            assert_eq!(self.by_name.get(&topic.name), Some(&key));
            assert_eq!(topic.is_dirty, self.dirty.contains(&key), "a topic is listed as dirty if it is");
            assert_eq!(topic.is_owner, self.owners.contains(&key), "a topic is listed as an owner if it is");
            assert!(topic.is_dirty || topic.open.iter().all(Option::is_none), "what is open is handed over");
            assert!(topic.is_owner || topic.own.iter().all(Option::is_none), "only owners have own chunks");
        }
        assert_eq!(self.topics.len(), self.by_name.len());
        assert!(self.topics.len() <= self.topics_max);
    }

    /// How many reactors' interests by name there are, and whether there are filters; for tests.
    pub fn interest_count(&self) -> usize {
        let exact =
            |topic: &HomeTopic| topic.exact.iter().map(|set| set.count_ones() as usize).sum::<usize>();
        let exact: usize = self.topics.iter().map(|(_, topic)| exact(topic)).sum();
        exact + usize::from(!self.filters.is_empty())
    }

    /// Returns chunks that nothing refers to any more to the allocator.
    pub fn release_free_chunks(&mut self) {
        self.pool.release_free();
    }

    fn find_or_create(&mut self, name: &str) -> Result<usize, TooManyTopics> {
        if let Some(&key) = self.by_name.get(name) {
            return Ok(key);
        }
        if self.topics.len() >= self.topics_max {
            self.evict_one()?;
        }
        let name: Arc<str> = name.into();
        let key = self.topics.insert(HomeTopic {
            name: name.clone(),
            seq: self.evicted_seq_max,
            exact: [0; Encoding::COUNT],
            matched: [0; Encoding::COUNT],
            // No generation yet: the first publication looks for filters.
            filters_generation: u64::MAX,
            open: Default::default(),
            own: Default::default(),
            is_dirty: false,
            is_owner: false,
            recent_bytes: 0,
            recent_period: self.period,
        });
        self.by_name.insert(name, key);
        Ok(key)
    }

    fn evict_one(&mut self) -> Result<(), TooManyTopics> {
        for _ in 0..EVICTION_PROBES.min(self.topics.capacity()) {
            let key = self.eviction_hand % self.topics.capacity();
            self.eviction_hand = key + 1;
            if !self.topics.contains(key) {
                continue;
            }
            // A topic that only a filter keeps can go: whoever matches it has a position at its head.
            let topic = &self.topics[key];
            if topic.is_dirty || topic.is_owner || topic.exact.iter().any(|&reactors| reactors != 0) {
                continue;
            }
            let topic = self.topics.remove(key);
            self.by_name.remove(&topic.name);
            self.evicted_seq_max = self.evicted_seq_max.max(topic.seq);
            return Ok(());
        }
        Err(TooManyTopics)
    }

    fn match_filters(&mut self, key: usize) {
        let topic = &mut self.topics[key];
        if topic.filters_generation == self.filters_generation {
            return;
        }
        topic.filters_generation = self.filters_generation;
        topic.matched = [0; Encoding::COUNT];
        self.filters.for_each_match(&topic.name, |interested| {
            topic.matched[interested.encoding.index()] |= 1 << interested.reactor;
        });
    }

    fn write(
        &mut self,
        key: usize,
        encoding: Encoding,
        publication: &Publication<'_>,
        deflater: &mut Deflater,
        outboxes: &mut Outboxes,
    ) {
        let format = encoding.format();
        let deflated = match encoding.is_deflated() {
            true => deflater.publication(publication, format),
            false => None,
        };
        let len = deflated.map_or_else(|| publication.encoded_len(format), <[u8]>::len);
        let fill = |room: &mut [u8]| match deflated {
            Some(frame) => room.copy_from_slice(frame),
            None => publication.encode(format, room),
        };
        self.warm(key, len);
        let index = encoding.index();
        let topic = &mut self.topics[key];
        let appender = if topic.is_owner { &mut topic.own[index] } else { &mut self.shared[index] };
        if let (Some(open), Some(appender)) = (&mut topic.open[index], &mut *appender)
            && appender.room() >= len
            && appender.continues(&open.range)
        {
            appender.extend(&mut open.range, len, fill);
            open.count += 1;
            return;
        }
        let capacity = if topic.is_owner { OWN_CHUNK_BYTES } else { SHARED_CHUNK_BYTES };
        if appender.as_ref().is_none_or(|appender| appender.room() < len) {
            let full = appender.replace(self.pool.acquire(capacity, len));
            full.into_iter().for_each(|full| self.pool.retire(full));
        }
        let appender = appender.as_mut().expect("an appender with room was just put there");
        let range = appender.append(len, fill);
        let open = Open { seq: publication.seq, count: 1, range };
        let written = topic.open[index].replace(open);
        if !topic.is_dirty {
            topic.is_dirty = true;
            self.dirty.push(key);
        }
        if let Some(written) = written {
            self.send(key, encoding, written, outboxes);
        }
    }

    /// Counts `len` bytes to what the topic wrote lately, and gives it a chunk of its own when that is
    /// enough.
    fn warm(&mut self, key: usize, len: usize) {
        let topic = &mut self.topics[key];
        topic.fade(self.period);
        topic.recent_bytes = topic.recent_bytes.saturating_add(len as u32);
        if !topic.is_owner && topic.recent_bytes >= BUSY_BYTES && self.owners.len() < self.owners_max {
            topic.is_owner = true;
            self.owners.push(key);
        }
    }

    fn flush_topic(&mut self, key: usize, outboxes: &mut Outboxes) {
        // The topic stays in `dirty`: handing over nothing is cheap.
        for encoding in Encoding::ALL {
            self.hand_over(key, encoding, outboxes);
        }
    }

    fn hand_over(&mut self, key: usize, encoding: Encoding, outboxes: &mut Outboxes) {
        if let Some(open) = self.topics[key].open[encoding.index()].take() {
            self.send(key, encoding, open, outboxes);
        }
    }

    fn send(&mut self, key: usize, encoding: Encoding, open: Open, outboxes: &mut Outboxes) {
        let topic = &self.topics[key];
        for reactor in bits(topic.interest(encoding)) {
            outboxes[reactor].push_back(Delivery::Batch(Batch {
                topic: topic.name.clone(),
                encoding,
                seq: open.seq,
                count: open.count,
                range: open.range.clone(),
            }));
        }
    }
}

impl HomeTopic {
    fn interest(&self, encoding: Encoding) -> u64 {
        self.exact[encoding.index()] | self.matched[encoding.index()]
    }

    /// Halves what was written lately for each period that has passed.
    fn fade(&mut self, period: u32) {
        let passed = period.wrapping_sub(self.recent_period);
        self.recent_bytes = self.recent_bytes.checked_shr(passed).unwrap_or(0);
        self.recent_period = period;
    }
}

/// The places of the bits that are set, lowest first.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(lowest)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;
    use crate::{
        protocol::{
            deflate::{Settings, twin},
            frame,
        },
        pubsub::topic,
    };

    const REACTORS: usize = 3;
    const SETTINGS: Settings = Settings { level: 1, bytes_min: 100, window_bits: 15 };
    const TOPICS: [&str; 4] = ["a", "a/x", "a/y", "b"];
    const FILTERS: [&str; 4] = ["a/#", "+", "#", "a/+"];

    #[derive(Clone, Debug)]
    enum Step {
        Publish(usize, usize),
        Subscribe(usize, usize, Encoding),
        Unsubscribe(usize, usize, Encoding),
        AddFilter(usize, usize, Encoding),
        RemoveFilter(usize, usize, Encoding),
        Count(usize),
        Flush,
        Period,
    }

    fn step() -> impl Strategy<Value = Step> {
        let encoding = || prop::sample::select(Encoding::ALL.as_slice());
        let len = prop_oneof![8 => 0usize..60, 1 => 1_000usize..30_000];
        prop_oneof![
            12 => (0..TOPICS.len(), len).prop_map(|(topic, len)| Step::Publish(topic, len)),
            2 => (0..REACTORS, 0..TOPICS.len(), encoding()).prop_map(|(r, t, f)| Step::Subscribe(r, t, f)),
            1 => (0..REACTORS, 0..TOPICS.len(), encoding()).prop_map(|(r, t, f)| Step::Unsubscribe(r, t, f)),
            1 => (0..REACTORS, 0..FILTERS.len(), encoding()).prop_map(|(r, t, f)| Step::AddFilter(r, t, f)),
            1 => (0..REACTORS, 0..FILTERS.len(), encoding()).prop_map(|(r, t, f)| Step::RemoveFilter(r, t, f)),
            1 => (0..TOPICS.len()).prop_map(Step::Count),
            3 => Just(Step::Flush),
            1 => Just(Step::Period),
        ]
    }

    /// What one reactor is to hear, in order.
    #[derive(Clone, Debug, PartialEq)]
    enum Heard {
        /// With the plain frame, and whether it came compressed.
        Frame(&'static str, Encoding, u64, Vec<u8>, bool),
        Subscribed(&'static str, Encoding, u64),
        FilterAdded(PendingId),
        Count(&'static str),
    }

    /// The naive twin: who wants what, and each publication told at once to whoever wants it.
    #[derive(Default)]
    struct Twin {
        seqs: BTreeMap<&'static str, u64>,
        exact: BTreeSet<(usize, &'static str, usize)>,
        filters: BTreeSet<(usize, &'static str, usize)>,
        heard: Vec<Vec<Heard>>,
    }

    impl Twin {
        fn wants(&self, reactor: usize, name: &'static str, encoding: Encoding) -> bool {
            let index = encoding.index();
            self.exact.contains(&(reactor, name, index))
                || FILTERS.iter().any(|filter| {
                    self.filters.contains(&(reactor, filter, index)) && topic::matches(filter, name)
                })
        }

        fn publish(&mut self, name: &'static str, payload: &[u8]) -> u64 {
            let seq = self.seqs.entry(name).or_default();
            *seq += 1;
            let publication = Publication { topic: name, seq: *seq, payload, kind: PayloadKind::Bytes };
            let seq = *seq;
            for encoding in Encoding::ALL {
                let mut frame = vec![0; publication.encoded_len(encoding.format())];
                publication.encode(encoding.format(), &mut frame);
                // What is published here shrinks whenever it is tried.
                let message_len = publication.message_len(encoding.format());
                let is_deflated = encoding.is_deflated() && message_len >= SETTINGS.bytes_min;
                for reactor in 0..REACTORS {
                    if self.wants(reactor, name, encoding) {
                        self.heard[reactor].push(Heard::Frame(
                            name,
                            encoding,
                            seq,
                            frame.clone(),
                            is_deflated,
                        ));
                    }
                }
            }
            seq
        }
    }

    fn known(name: &str) -> &'static str {
        TOPICS.into_iter().find(|topic| *topic == name).expect("one of ours")
    }

    /// What the deliveries tell, frame by frame.
    fn hear(deliveries: &VecDeque<Delivery>) -> Vec<Heard> {
        let mut heard = Vec::new();
        for delivery in deliveries {
            match delivery {
                Delivery::Batch(batch) => {
                    let mut rest = batch.range.bytes();
                    for seq in batch.seq..batch.seq + u64::from(batch.count) {
                        let (frame, more) = rest.split_at(frame::server_frame_len(rest).expect("a frame"));
                        let (plain, is_deflated) = twin::plain_frame(frame);
                        heard.push(Heard::Frame(
                            known(&batch.topic),
                            batch.encoding,
                            seq,
                            plain,
                            is_deflated,
                        ));
                        rest = more;
                    }
                    assert!(rest.is_empty(), "a batch holds as many frames as it says");
                }
                Delivery::Subscribed { topic, encoding, seq } => {
                    heard.push(Heard::Subscribed(known(topic), *encoding, seq.expect("there is room")));
                }
                Delivery::FilterAdded { registration } => heard.push(Heard::FilterAdded(*registration)),
                Delivery::Count { topic, .. } => heard.push(Heard::Count(known(topic))),
                other => panic!("{other:?}"),
            }
        }
        heard
    }

    /// Of one topic and encoding, and with every answer that is about it: the order that is promised. Across
    /// topics there is none.
    fn of(heard: &[Heard], name: &str, of_encoding: Encoding) -> Vec<Heard> {
        let is_of = |it: &&Heard| match it {
            Heard::Frame(topic, encoding, ..) | Heard::Subscribed(topic, encoding, _) => {
                *topic == name && *encoding == of_encoding
            }
            Heard::FilterAdded(_) => true,
            Heard::Count(topic) => *topic == name,
        };
        heard.iter().filter(is_of).cloned().collect()
    }

    proptest! {
        #![proptest_config(Config {
            cases: 150,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(13),
            ..Config::default()
        })]

        #[test]
        fn a_home_tells_each_reactor_what_it_wants_in_order(steps in prop::collection::vec(step(), 1..120)) {
            let mut home = Home::new(1, 100, Encoding::COUNT, Budget::new(1 << 30));
            let mut deflater = Deflater::new(SETTINGS);
            let mut outboxes: Outboxes = (0..REACTORS).map(|_| VecDeque::new()).collect();
            let mut twin = Twin { heard: vec![Vec::new(); REACTORS], ..Twin::default() };
            for (number, step) in steps.into_iter().enumerate() {
                let out = &mut outboxes;
                match step {
                    Step::Publish(topic, len) => {
                        let payload = vec![number as u8; len];
                        let kind = PayloadKind::Bytes;
                        let seq = home.handle_publish(TOPICS[topic], &payload, kind, &mut deflater, out);
                        prop_assert_eq!(seq, Ok(twin.publish(TOPICS[topic], &payload)));
                    }
                    Step::Subscribe(reactor, topic, encoding) => {
                        let name = TOPICS[topic];
                        home.handle_subscribe(reactor, name, encoding, out);
                        twin.exact.insert((reactor, name, encoding.index()));
                        let seq = *twin.seqs.entry(name).or_default();
                        twin.heard[reactor].push(Heard::Subscribed(name, encoding, seq));
                    }
                    Step::Unsubscribe(reactor, topic, encoding) => {
                        home.handle_unsubscribe(reactor, TOPICS[topic], encoding, out);
                        twin.exact.remove(&(reactor, TOPICS[topic], encoding.index()));
                    }
                    Step::AddFilter(reactor, filter, encoding) => {
                        home.handle_add_filter(reactor, FILTERS[filter], encoding, number as u32, out);
                        twin.filters.insert((reactor, FILTERS[filter], encoding.index()));
                        twin.heard[reactor].push(Heard::FilterAdded(number as u32));
                    }
                    Step::RemoveFilter(reactor, filter, encoding) => {
                        home.handle_remove_filter(reactor, FILTERS[filter], encoding, out);
                        twin.filters.remove(&(reactor, FILTERS[filter], encoding.index()));
                    }
                    Step::Count(topic) => {
                        let name = TOPICS[topic];
                        let asked = home.handle_count(name, 0, 0, out);
                        let mut wanting = 0;
                        for reactor in 0..REACTORS {
                            let wants = Encoding::ALL.into_iter().any(|encoding| twin.wants(reactor, name, encoding));
                            if wants && twin.seqs.contains_key(name) {
                                twin.heard[reactor].push(Heard::Count(name));
                                wanting += 1;
                            }
                        }
                        prop_assert_eq!(asked, wanting);
                    }
                    Step::Flush => home.flush(out),
                    Step::Period => home.handle_period(),
                }
                home.check();
            }
            home.flush(&mut outboxes);
            for (reactor, outbox) in outboxes.iter().enumerate() {
                let heard = hear(outbox);
                prop_assert_eq!(heard.len(), twin.heard[reactor].len());
                for name in TOPICS {
                    for encoding in Encoding::ALL {
                        prop_assert_eq!(of(&heard, name, encoding), of(&twin.heard[reactor], name, encoding));
                    }
                }
            }
        }

        /// A home of three topics, eleven names, and now and then somebody who holds one by name.
        #[test]
        fn no_seq_is_used_twice_however_often_topics_are_evicted(
            steps in prop::collection::vec((0usize..11, 0u8..10), 1..200),
        ) {
            let mut home = Home::new(1, 3, Encoding::COUNT, Budget::new(1 << 30));
            let mut deflater = Deflater::new(SETTINGS);
            let mut outboxes: Outboxes = vec![VecDeque::new()];
            let mut newest: BTreeMap<String, u64> = BTreeMap::new();
            for (name, action) in steps {
                let name = format!("t/{name}");
                match action {
                    0 => home.handle_subscribe(0, &name, Encoding::Json, &mut outboxes),
                    1 => home.handle_unsubscribe(0, &name, Encoding::Json, &mut outboxes),
                    _ => {
                        let kind = PayloadKind::Json;
                        let seq = home.handle_publish(&name, b"1", kind, &mut deflater, &mut outboxes);
                        let Ok(seq) = seq else { continue };
                        let before = newest.insert(name, seq);
                        prop_assert!(before.is_none_or(|before| before < seq));
                    }
                }
                home.flush(&mut outboxes);
                home.check();
            }
        }
    }
}
