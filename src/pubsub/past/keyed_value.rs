//! A topic's values by key: of all publications that have the same at one place of their payload the newest.
//!
//! Each is written once more, to be kept by itself, as what is retained is: what came before and behind it goes. They are in
//! trees, none of which ever moves all that it holds, so that a publication costs as much however many there are; and they are
//! dropped one by one, by whoever counts what that takes.
//!
//! A key is known by 64 bits of a keyed hash: the key of the hash is random and never shown, so nobody finds two that are alike.
//! Among 65,536 keys two are by chance in one of 2^33 topics.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    hash::{BuildHasher, RandomState},
    ops::Bound,
    sync::Arc,
};

use super::{PAGE_BYTES_MAX, PageCost, Past, Span, Spans, Window, piece_price, value::RETAINED_BYTES};
use crate::{
    protocol::{
        Format, command::PayloadKind, json::Pointer, publication::LastValue, record::Records, transcode,
    },
    pubsub::{
        log::{Appender, ChunkPool, Range},
        message::PastFrom,
    },
    work::price,
};

/// What is counted for each value beside its chunk: its places in the trees, which are half full at worst, and what a chunk is
/// known by.
const VALUE_BYTES: usize = 200;
/// So many values that are needless go with a publication: more than it makes needless.
const NEEDLESS_PER_RECORD: usize = 4;

/// The values of one topic.
#[derive(Debug)]
pub(in crate::pubsub) struct KeyedValues {
    pointer: Arc<Pointer>,
    hasher: RandomState,
    keys_max: usize,
    by_seq: BTreeMap<u64, Value>,
    /// Which one is each key's.
    by_key: BTreeMap<u64, u64>,
    /// Which of them were written in each tick.
    ticks: BTreeMap<u64, Tick>,
    chunk_bytes: usize,
}

#[derive(Debug)]
struct Value {
    key: u64,
    tick: u64,
    /// When it was written, in milliseconds (wrapping).
    written_ms: u32,
    /// Holds its record and nothing else.
    appender: Appender,
}

const _: () = assert!(size_of::<Value>() <= 40, "what is counted for one is enough");

/// The values that were written in one tick.
#[derive(Debug)]
struct Tick {
    /// The first one, which may be gone.
    first_seq: u64,
    /// How many are there.
    count: usize,
}

impl Value {
    fn range(&self) -> Range {
        self.appender.newest(self.appender.capacity() - self.appender.room())
    }

    fn is_too_old(&self, ms_max: Option<u32>, now_ms: u32) -> bool {
        ms_max.is_some_and(|ms_max| now_ms.wrapping_sub(self.written_ms) > ms_max)
    }
}

impl KeyedValues {
    /// None yet, by what `pointer` points to, and of `keys_max` keys at most.
    fn new(pointer: Arc<Pointer>, keys_max: usize) -> KeyedValues {
        KeyedValues {
            pointer,
            hasher: RandomState::new(),
            keys_max,
            by_seq: BTreeMap::new(),
            by_key: BTreeMap::new(),
            ticks: BTreeMap::new(),
            chunk_bytes: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_seq.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    /// What they take, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.chunk_bytes + self.len() * VALUE_BYTES
    }

    /// How many bytes more they would take with a record of `len` bytes as the value of `key`.
    pub fn more_bytes(&self, key: u64, len: usize) -> usize {
        let oldest = || self.by_seq.values().next().filter(|_| self.len() >= self.keys_max);
        let replaced = self.by_key.get(&key).map(|seq| &self.by_seq[seq]).or_else(oldest);
        let gone_bytes = replaced.map_or(0, |value| value.appender.capacity() + VALUE_BYTES);
        (len.next_multiple_of(RETAINED_BYTES) + VALUE_BYTES).saturating_sub(gone_bytes)
    }

    /// The first publication that was written in `tick` or later and may be a value.
    pub fn first_since(&self, tick: u64) -> Option<u64> {
        self.ticks.range(tick..).next().map(|(_, tick)| tick.first_seq)
    }

    /// The first of the newest `count` that are before `end_seq`; and how many were passed by for that.
    pub fn first_of(&self, count: usize, end_seq: u64) -> (u64, usize) {
        let Some((&lowest, _)) = self.by_seq.first_key_value().filter(|_| count > 0) else {
            return (end_seq, 0);
        };
        if count >= self.len() {
            return (lowest, 0);
        }
        let first = self.by_seq.range(..end_seq).rev().nth(count - 1);
        (first.map_or(lowest, |(&seq, _)| seq), count)
    }

    /// The values of `window` in `format`, `count_max` at most, each with a span of its own: made anew where they are kept in
    /// another, and where they lie where they are not. `cost` gets what that took.
    pub fn part(
        &self,
        window: Window,
        count_max: usize,
        (kept_in, format): (Format, Format),
        pool: &mut ChunkPool,
        cost: &mut PageCost,
    ) -> Spans {
        let Window { first_seq, end_seq, mut bytes_max } = window;
        let mut part = Spans { spans: Vec::new(), next_seq: end_seq };
        let mut transcoded_bytes = 0;
        for (&seq, value) in self.by_seq.range(first_seq.min(end_seq)..end_seq) {
            let range = value.range();
            let len = match format == kept_in {
                true => range.len(),
                false => transcode::transcoded_len(Records::new(kept_in, range.bytes()), format),
            };
            let is_full = bytes_max == 0 || part.spans.len() == count_max || len > bytes_max as usize;
            if is_full && !part.spans.is_empty() {
                part.next_seq = seq;
                break;
            }
            bytes_max = bytes_max.saturating_sub(len as u32);
            transcoded_bytes += len;
            part.spans.push(Span { seq, range });
        }
        // Each lies by itself, mostly in no cache.
        cost.price += part.spans.len() as u64 * (price::SPAN + 2 * price::LOOK);
        if format == kept_in || transcoded_bytes == 0 {
            return part;
        }
        let mut appender = pool.acquire(transcoded_bytes, transcoded_bytes);
        for range in part.spans.iter_mut().map(|span| &mut span.range) {
            let records = || Records::new(kept_in, range.bytes());
            let len = transcode::transcoded_len(records(), format);
            let made = appender.append(len, |room| transcode::transcode(records(), format, room));
            *range = made;
        }
        pool.retire(appender);
        cost.price += piece_price(transcoded_bytes);
        cost.transcoded_bytes += transcoded_bytes as u64;
        part
    }

    /// The oldest one goes; tells whether there was one.
    pub fn drop_oldest(&mut self, pool: &mut ChunkPool) -> bool {
        let Some((&seq, value)) = self.by_seq.first_key_value() else { return false };
        self.by_key.remove(&value.key);
        self.drop_value(seq, pool);
        true
    }

    /// Asserts the invariants, with `seq` as the topic's; for tests and simulations.
    pub fn check(&self, seq: u64) {
        assert_eq!(self.by_seq.len(), self.by_key.len(), "each key has one value");
        let mut counts = BTreeMap::new();
        for (at, value) in &self.by_seq {
            assert_eq!(self.by_key[&value.key], *at, "each value is its key's");
            assert!(*at <= seq && self.ticks[&value.tick].first_seq <= *at);
            *counts.entry(value.tick).or_insert(0) += 1;
        }
        let chunk_bytes: usize = self.by_seq.values().map(|value| value.appender.capacity()).sum();
        assert_eq!(chunk_bytes, self.chunk_bytes, "what they take is known");
        assert_eq!(counts, self.ticks.iter().map(|(&tick, it)| (tick, it.count)).collect());
    }

    fn insert(&mut self, key: u64, seq: u64, value: Value, pool: &mut ChunkPool) {
        self.chunk_bytes += value.appender.capacity();
        self.ticks.entry(value.tick).or_insert(Tick { first_seq: seq, count: 0 }).count += 1;
        self.by_seq.insert(seq, value);
        if let Some(before) = self.by_key.insert(key, seq) {
            self.drop_value(before, pool);
        }
    }

    /// The value `seq` goes, whose key is another's or nobody's by now.
    fn drop_value(&mut self, seq: u64, pool: &mut ChunkPool) {
        let Value { tick, appender, .. } = self.by_seq.remove(&seq).expect("who is known by it is there");
        self.chunk_bytes -= appender.capacity();
        pool.let_go(appender);
        let Entry::Occupied(mut of_tick) = self.ticks.entry(tick) else {
            unreachable!("a value is counted with its tick");
        };
        of_tick.get_mut().count -= 1;
        if of_tick.get().count == 0 {
            of_tick.remove();
        }
    }

    fn is_oldest_needless(&self, ms_max: Option<u32>, now_ms: u32) -> bool {
        let oldest = self.by_seq.values().next();
        oldest.is_some_and(|oldest| self.len() > self.keys_max || oldest.is_too_old(ms_max, now_ms))
    }

    fn expires_in_ms(&self, ms_max: Option<u32>, now_ms: u32) -> Option<u32> {
        if self.is_oldest_needless(ms_max, now_ms) {
            return Some(0);
        }
        let oldest = self.by_seq.values().next()?;
        Some(ms_max?.saturating_sub(now_ms.wrapping_sub(oldest.written_ms)))
    }
}

impl Past {
    /// The values by key, if the topic has such.
    pub fn keyed(&self) -> Option<&KeyedValues> {
        self.keyed.as_deref()
    }

    /// The same of a topic that keeps nothing else.
    pub fn keyed_alone(&self) -> Option<&KeyedValues> {
        self.keyed().filter(|_| !self.keep.has_history())
    }

    /// The key of which a publication with this payload is the value, and how many bytes were looked through for it: 0 of a
    /// topic without such.
    pub fn key_of(&self, payload: &[u8], kind: PayloadKind) -> (Option<u64>, usize) {
        match (self.keyed(), kind) {
            (Some(keyed), PayloadKind::Json) => {
                let key = keyed.pointer.find(payload).map(|key| keyed.hasher.hash_one(key));
                (key, payload.len())
            }
            _ => (None, 0),
        }
    }

    /// Publication `seq`, whose record of `len` bytes `fill` writes at `written_ms` (wrapping) and in `tick`, is the value of `key`.
    pub fn keep_keyed(
        &mut self,
        key: u64,
        (seq, tick, written_ms): (u64, u64, u32),
        len: usize,
        pool: &mut ChunkPool,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let keyed = self.keyed.as_mut().expect("who has a key has such values");
        let (mut appender, _) = pool.acquire_kept(len.next_multiple_of(RETAINED_BYTES));
        appender.write(len, fill);
        keyed.insert(key, seq, Value { key, tick, written_ms, appender }, pool);
        self.drop_needless_keyed(written_ms, NEEDLESS_PER_RECORD, pool);
    }

    /// Of the values by key those go that are too old or too many, at most `count_max`; tells how many did.
    pub fn drop_needless_keyed(&mut self, now_ms: u32, count_max: usize, pool: &mut ChunkPool) -> usize {
        let ms_max = self.keep.ms_max.map(|ms_max| ms_max.get());
        let Some(keyed) = &mut self.keyed else { return 0 };
        let mut count = 0;
        while count < count_max && keyed.is_oldest_needless(ms_max, now_ms) {
            keyed.drop_oldest(pool);
            count += 1;
        }
        count
    }

    /// In how many milliseconds from `now_ms` (wrapping) on the oldest of them may be needless; none if it never is.
    pub(super) fn keyed_expires_in_ms(&self, now_ms: u32) -> Option<u32> {
        self.keyed()?.expires_in_ms(self.keep.ms_max.map(|ms_max| ms_max.get()), now_ms)
    }

    /// What it has of values by key is what is said by now. Those that were there and are no values any more are nobody's: the
    /// caller drops them one by one.
    pub fn follow_keyed(&mut self, keys_max: usize) -> Option<Box<KeyedValues>> {
        let gone = match (&self.keep.last_value, &mut self.keyed) {
            (LastValue::PerKey(pointer), Some(keyed)) if **pointer == *keyed.pointer => {
                keyed.keys_max = keys_max;
                None
            }
            (LastValue::PerKey(pointer), keyed) => {
                keyed.replace(Box::new(KeyedValues::new(pointer.clone(), keys_max)))
            }
            (_, keyed) => keyed.take(),
        };
        gone.filter(|gone| !gone.is_empty())
    }

    /// No key has a value any more: those that were there are nobody's, as with [`Past::follow_keyed`].
    pub fn part_with_keyed(&mut self) -> Option<Box<KeyedValues>> {
        let keyed = self.keyed.as_mut().filter(|keyed| !keyed.is_empty())?;
        let fresh = Box::new(KeyedValues::new(keyed.pointer.clone(), keyed.keys_max));
        Some(std::mem::replace(keyed, fresh))
    }

    /// As [`Past::excerpt`], of a topic that keeps nothing but values by key.
    pub(super) fn excerpt_of_keyed(
        &self,
        keyed: &KeyedValues,
        from: PastFrom,
        limit: u32,
    ) -> (Spans, u64, bool) {
        let end = self.tail.head_seq() + 1;
        let lowest = keyed.by_seq.first_key_value().map_or(end, |(&seq, _)| seq);
        let (range, is_forward) = match from {
            PastFrom::After(seq) => ((Bound::Excluded(seq), Bound::Unbounded), true),
            PastFrom::Before(seq) => ((Bound::Unbounded, Bound::Excluded(seq)), false),
            PastFrom::Newest => ((Bound::Unbounded, Bound::Unbounded), false),
        };
        let mut values = keyed.by_seq.range::<u64, _>(range);
        let mut next = || if is_forward { values.next() } else { values.next_back() };
        let mut spans = Spans { spans: Vec::new(), next_seq: end };
        let (mut bytes_left, mut has_more) = (PAGE_BYTES_MAX as usize, false);
        while limit > 0
            && let Some((&seq, value)) = next()
        {
            let range = value.range();
            has_more = spans.spans.len() == limit as usize || bytes_left == 0;
            has_more |= range.len() > bytes_left && !spans.spans.is_empty();
            if has_more {
                break;
            }
            bytes_left = bytes_left.saturating_sub(range.len());
            spans.spans.push(Span { seq, range });
        }
        if !is_forward {
            spans.spans.reverse();
        }
        (spans, lowest, has_more)
    }
}
