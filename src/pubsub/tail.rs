//! The newest part of a topic's log in one encoding: a row of ranges, and where the records in them start.
//!
//! The row is one of *segments* (ranges of chunks), oldest first. A *position* is a place in it, always at a
//! record's start or at the head. One that is *counted* keeps its segment, as does a send of it that is in flight;
//! an older segment keeps those behind it. What has neither goes from the front as soon as [`Tail::release`] looks,
//! so memory is what the oldest of them pins, and a tail whose counted positions are all at the head is empty.

use std::collections::VecDeque;

use super::{
    log::{Appender, Range},
    message::Batch,
};
use crate::protocol::Encoding;

/// One record start is indexed in so many bytes of log: the longest walk to find one.
const INDEX_BYTES: u32 = if cfg!(test) { 64 } else { 16 << 10 };
/// How many segments and record starts an empty tail keeps room for.
const INDEX_KEPT: usize = 16;
/// The ordinal of a tail's first segment. They wrap, in tests soon.
const FRONT_FIRST: u32 = if cfg!(test) { u32::MAX - 2 } else { 0 };
/// And in so many milliseconds of it: how exactly a record's age is known.
pub(super) const INDEX_MS: u32 = 100;

/// The newest part of a topic's log in one encoding.
#[derive(Debug)]
pub(super) struct Tail {
    segments: VecDeque<Segment>,
    index: VecDeque<RecordStart>,
    /// The ordinal of the first segment, whether or not there is one.
    front: u32,
    encoding: Encoding,
    /// How many bytes were ever appended: the head.
    head_bytes: u64,
    /// The newest publication's `seq`.
    head_seq: u64,
    /// The `seq` of the log's last record: less than the head's where nobody was there to be owed, or
    /// where the home's numbering jumped.
    logged_seq: u64,
}

// Every topic that somebody receives has one.
const _: () = assert!(size_of::<Tail>() == 96);

/// A place in a topic's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which segment, counted from the tail's beginning (wrapping).
    segment: u32,
    /// Where in the segment's chunk.
    offset: u32,
}

impl Position {
    /// Where it is in its segment's chunk.
    pub(super) fn offset(self) -> u32 {
        self.offset
    }

    /// The place in the same segment that is at `offset` of its chunk.
    pub(super) fn at(self, offset: u32) -> Position {
        Position { offset, ..self }
    }
}

/// What pins a segment while a send of it is in flight: give it back with [`View::unpin`].
///
/// [`View::unpin`]: super::view::View::unpin
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    segment: u32,
}

/// Bytes to send, contiguous in memory, whole records.
#[derive(Clone, Copy, Debug)]
pub struct Owed {
    /// The first byte.
    pub bytes: *const u8,
    /// How many.
    pub len: u32,
    /// Keeps them where they are.
    pub pin: Pin,
}

#[derive(Debug)]
struct Segment {
    range: Range,
    /// The log's age clock when the newest of it was appended: see [`Budget::clock`].
    ///
    /// [`Budget::clock`]: super::log::Budget::clock
    clock: u64,
    /// How many bytes were appended before it.
    begin_bytes: u64,
    /// Counted positions that are in here.
    position_count: u32,
    /// Sends of it that are in flight.
    pin_count: u32,
}

/// Where a record starts, and which; it and those up to the next entry were appended at `appended_ms`, or
/// less than [`INDEX_MS`] later.
#[derive(Clone, Copy, Debug)]
struct RecordStart {
    segment: u32,
    offset: u32,
    seq: u64,
    /// In milliseconds, wrapping.
    appended_ms: u32,
}

// A stall of many topics keeps many of each. A record start has room for another 32 bits.
const _: () = assert!(size_of::<Segment>() == 40 && size_of::<RecordStart>() == 24);

impl Tail {
    /// An empty one.
    pub fn new(encoding: Encoding) -> Tail {
        Tail {
            segments: VecDeque::new(),
            index: VecDeque::new(),
            front: FRONT_FIRST,
            encoding,
            head_bytes: 0,
            head_seq: 0,
            logged_seq: 0,
        }
    }

    /// It is empty: what comes is behind publication `seq`.
    pub fn begin_behind(&mut self, seq: u64) {
        assert!(self.segments.is_empty(), "nothing is here yet");
        (self.head_seq, self.logged_seq) = (seq, seq);
    }

    /// The encoding.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The newest publication's `seq`.
    pub fn head_seq(&self) -> u64 {
        self.head_seq
    }

    /// How many bytes were ever appended.
    pub fn head_bytes(&self) -> u64 {
        self.head_bytes
    }

    /// How many bytes of log it keeps.
    pub fn kept_bytes(&self) -> u64 {
        self.segments.front().map_or(0, |first| self.head_bytes - first.begin_bytes)
    }

    /// How many segments it has.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// How many bytes of that are behind its oldest segment.
    pub fn bytes_behind_front(&self) -> u64 {
        self.segments.get(1).map_or(0, |second| self.head_bytes - second.begin_bytes)
    }

    /// The memory of its segments and record starts, in bytes: what the log's budget is charged with.
    pub fn index_bytes(&self) -> usize {
        self.segments.len() * size_of::<Segment>() + self.index.len() * size_of::<RecordStart>()
    }

    /// Whether it has no segments.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Moves the head behind what `batch` holds, which is appended at `now_ms` (wrapping), `clock` on the log's age
    /// clock. If the tail was empty, `position_count` positions are counted, all at the head.
    pub fn append(&mut self, batch: Batch, now_ms: u32, clock: u64, position_count: u32) {
        let Batch { seq, count, range, .. } = batch;
        self.head_seq = seq + u64::from(count) - 1;
        let is_next = seq == self.logged_seq + 1;
        self.logged_seq = self.head_seq;
        let was_empty = self.segments.is_empty();
        let (start, len) = (range.start(), range.len() as u32);
        let range = match self.segments.back_mut() {
            Some(last) => {
                let rest = last.range.join(range).err();
                if rest.is_none() {
                    last.clock = clock;
                }
                rest
            }
            None => Some(range),
        };
        if let Some(range) = range {
            // Positions at an empty log's head are the start of what comes first.
            let position_count = if was_empty { position_count } else { 0 };
            let begin_bytes = self.head_bytes;
            self.segments.push_back(Segment { range, clock, begin_bytes, position_count, pin_count: 0 });
        }
        self.note(start, len, seq, is_next, now_ms);
    }

    /// Moves the head behind the record of publication `seq`, the `len` bytes that `appender` wrote last, at `now_ms`
    /// (wrapping). Tells whether it begins a segment, as it does where the appender has another chunk.
    pub fn append_written(&mut self, appender: &Appender, len: usize, seq: u64, now_ms: u32) -> bool {
        let is_next = seq == self.logged_seq + 1;
        (self.head_seq, self.logged_seq) = (seq, seq);
        let is_joined = self.segments.back_mut().is_some_and(|last| appender.widen(&mut last.range, len));
        if !is_joined {
            let (range, begin_bytes) = (appender.newest(len), self.head_bytes);
            let segment = Segment { range, clock: 0, begin_bytes, position_count: 0, pin_count: 0 };
            let is_first = usize::from(self.segments.is_empty());
            self.segments.reserve_exact(is_first);
            self.index.reserve_exact(is_first);
            self.segments.push_back(segment);
        }
        let last = self.segments.back().expect("it is there or was just put there");
        let start = last.range.end() - len as u32;
        self.note(start, len as u32, seq, is_next, now_ms);
        !is_joined
    }

    /// The newest segment has `len` more bytes from `start` on, of records from `seq` on.
    #[inline]
    fn note(&mut self, start: u32, len: u32, seq: u64, is_next: bool, now_ms: u32) {
        self.head_bytes += u64::from(len);
        let segment = self.last();
        let is_far = self.index.back().is_none_or(|newest| {
            newest.segment != segment
                || start + len - newest.offset > INDEX_BYTES
                || now_ms.wrapping_sub(newest.appended_ms) >= INDEX_MS
        });
        if is_far || !is_next {
            self.index.push_back(RecordStart { segment, offset: start, seq, appended_ms: now_ms });
        }
    }

    /// Drops the oldest segment, of which no position is counted.
    pub fn pop_front(&mut self) {
        let segment = self.segments.pop_front().expect("there is one");
        assert_eq!((segment.position_count, segment.pin_count), (0, 0), "nobody needs it");
        self.front = self.front.wrapping_add(1);
        while self.index.front().is_some_and(|start| self.is_before_front(start.segment)) {
            self.index.pop_front();
        }
    }

    /// The record of publication `seq`, which is here; the head if it is the one to come.
    pub fn position_of(&self, seq: u64) -> Position {
        if seq == self.logged_seq + 1 {
            return self.head();
        }
        let after = self.index.partition_point(|start| start.seq <= seq);
        let start = self.index[after.checked_sub(1).expect("it is here")];
        let range = &self.segments[self.place(start.segment)].range;
        let mut offset = start.offset;
        for _ in start.seq..seq {
            offset += self.record_len(range, offset);
        }
        Position { segment: start.segment, offset }
    }

    /// The first record from a counted position on whose publication is `seq` or later, the head if there is none; none if it is the
    /// one at that position.
    pub fn position_before(&self, position: Position, seq: u64) -> Option<Position> {
        let from = self.placed(position);
        if from == self.head() || self.seq_at(from) >= seq {
            return None;
        }
        Some(if seq > self.logged_seq { self.head() } else { self.position_of(seq) })
    }

    /// Which publication's record is at `position`; the one to come at the head.
    pub fn seq_of(&self, position: Position) -> u64 {
        if position == self.head() { self.logged_seq + 1 } else { self.seq_at(position) }
    }

    /// Of the segment that `position`, which is not the head, is in: the records that begin in the same stretch of `bytes` of its
    /// chunk.
    pub fn stretch(&self, position: Position, bytes: u32) -> Range {
        let Position { segment, offset } = self.normalized(position);
        let range = &self.segments[self.place(segment)].range;
        let begin = (offset / bytes * bytes).max(range.start());
        let mut start = self.newest_start(Position { segment, offset: begin }).offset;
        while start < begin {
            start += self.record_len(range, start);
        }
        let mut end = offset;
        while end < range.end() && end / bytes == offset / bytes {
            end += self.record_len(range, end);
        }
        range.part(start, end - start)
    }

    /// The records from `position` on that lie side by side: at most `bytes_max` of whole ones, but at least one; and the
    /// position behind them. None at the head.
    pub fn span(&self, position: Position, bytes_max: u32) -> Option<(Range, Position)> {
        if self.segments.is_empty() {
            return None;
        }
        let from = self.normalized(position);
        if from == self.head() {
            return None;
        }
        let range = &self.segments[self.place(from.segment)].range;
        let available = range.end() - from.offset;
        let len = if available <= bytes_max { available } else { self.whole_records(from, bytes_max) };
        let behind = Position { segment: from.segment, offset: from.offset + len };
        Some((range.part(from.offset, len), self.normalized(behind)))
    }

    /// What follows is after `seq`; what is here stays.
    pub fn set_head_seq(&mut self, seq: u64) {
        self.head_seq = seq;
    }

    /// Counts one more position at the head.
    pub fn count_head(&mut self) -> Position {
        if let Some(last) = self.segments.back_mut() {
            last.position_count += 1;
        }
        self.head()
    }

    /// The position is not counted any more.
    pub fn uncount(&mut self, position: Position) {
        let counted = self.counted_segment(position);
        if let Some(segment) = self.segment_mut(counted) {
            segment.position_count -= 1;
        }
    }

    /// Whether a counted position is the head.
    #[inline]
    pub fn is_head(&self, position: Position) -> bool {
        // A segment holds a record at least: no place but the head's own is the head, however it is normalized.
        self.segments.is_empty() || position == self.head()
    }

    /// How many bytes follow a counted position.
    pub fn bytes_from(&self, position: Position) -> u64 {
        let position = self.placed(position);
        let Some(segment) = self.segments.get(self.place(position.segment)) else { return 0 };
        self.head_bytes - segment.begin_bytes - u64::from(position.offset - segment.range.start())
    }

    /// When the record at a counted position was appended, or up to `INDEX_MS` before that, in milliseconds
    /// (wrapping); none at the head.
    pub fn appended_ms(&self, position: Position) -> Option<u32> {
        (!self.is_head(position)).then(|| self.newest_start(self.placed(position)).appended_ms)
    }

    /// Whether a counted position is before `other`.
    pub fn is_before(&self, position: Position, other: Position) -> bool {
        self.order(self.placed(position)) < self.order(other)
    }

    /// The later of two positions that [`Tail::position_within`] and its like gave.
    pub fn later(&self, one: Position, other: Position) -> Position {
        if self.order(one) > self.order(other) { one } else { other }
    }

    /// Takes the bytes that follow a counted position, which moves behind them: at most `bytes_max` of whole records,
    /// but at least one record; none at the head. They are pinned until [`Tail::unpin`]. Tells whether the position is
    /// at the head now.
    #[inline]
    pub fn take(&mut self, position: &mut Position, bytes_max: u32) -> Option<(Owed, bool)> {
        let (from, head) = (self.placed(*position), self.head());
        if from == head {
            return None;
        }
        let counted = self.counted_segment(*position);
        let segment = &self.segments[self.place(from.segment)];
        let available = segment.range.end() - from.offset;
        let len = if available <= bytes_max { available } else { self.whole_records(from, bytes_max) };
        if counted != from.segment {
            self.segment_mut(counted).expect("a position is counted in a segment").position_count -= 1;
        }
        let segment = self.segment_mut(from.segment).expect("a position behind the head is in a segment");
        segment.position_count += u32::from(counted != from.segment);
        segment.pin_count += 1;
        let at = (from.offset - segment.range.start()) as usize;
        let bytes = segment.range.bytes()[at..at + len as usize].as_ptr();
        *position = Position { segment: from.segment, offset: from.offset + len };
        Some((Owed { bytes, len, pin: Pin { segment: from.segment } }, *position == head))
    }

    /// A send of what [`Tail::take`] gave is over, if another of the segment is in flight or a position is in it:
    /// else does nothing; tells which.
    #[inline]
    pub fn unpin_kept(&mut self, pin: Pin) -> bool {
        let segment = self.segment_mut(pin.segment).expect("a pinned segment stays");
        let is_kept = segment.pin_count > 1 || segment.position_count > 0;
        segment.pin_count -= u32::from(is_kept);
        is_kept
    }

    /// A send of what [`Tail::take`] gave is over.
    pub fn unpin(&mut self, pin: Pin) {
        let segment = self.segment_mut(pin.segment).expect("a pinned segment stays");
        segment.pin_count -= 1;
    }

    /// Moves a counted position forward to `to` and tells the first and the last `seq` of what was between; none if
    /// it is there or beyond.
    pub fn skip(&mut self, position: &mut Position, to: Position) -> Option<(u64, u64)> {
        let from = self.placed(*position);
        if self.order(from) >= self.order(to) {
            return None;
        }
        let first = self.seq_at(from);
        let last = if to == self.head() { self.logged_seq } else { self.seq_at(to) - 1 };
        let counted = self.counted_segment(*position);
        self.segment_mut(counted).expect("a position is counted in a segment").position_count -= 1;
        self.segment_mut(to.segment).expect("what is not at the head has a log before it").position_count +=
            1;
        *position = to;
        Some((first, last))
    }

    /// The first record that at most `bytes` follow, itself included; the head if the newest record alone is more.
    pub fn position_within(&self, bytes: u64) -> Position {
        let begin_bytes = self.head_bytes.saturating_sub(bytes);
        let place = self
            .segments
            .partition_point(|segment| segment.begin_bytes + segment.range.len() as u64 <= begin_bytes);
        let Some(Segment { range, begin_bytes: segment_bytes, .. }) = self.segments.get(place) else {
            return self.head();
        };
        let segment = self.front.wrapping_add(place as u32);
        let limit = range.start() + begin_bytes.saturating_sub(*segment_bytes) as u32;
        let mut offset = self.newest_start(Position { segment, offset: limit }).offset;
        while offset < limit {
            offset += self.record_len(range, offset);
        }
        self.normalized(Position { segment, offset })
    }

    /// The first record that is known to be at most `ms_max` old at `now_ms` (wrapping); else the head. Of the 49 days until the
    /// clock wraps, no half is taken for what is to come.
    pub fn position_within_ms(&self, ms_max: u32, now_ms: u32) -> Position {
        let is_older = |start: &RecordStart| now_ms.wrapping_sub(start.appended_ms) > ms_max;
        match self.index.get(self.index.partition_point(is_older)) {
            Some(start) => Position { segment: start.segment, offset: start.offset },
            None => self.head(),
        }
    }

    /// The first record that lies, as all before it do not, in a segment that is not stale: one whose chunk is
    /// still being written, or whose newest content was appended at `clock` or later; else the head. None where
    /// that is already the oldest.
    pub fn position_fresh(&self, clock: u64) -> Option<Position> {
        if !self.segments.front().is_some_and(|segment| segment.is_stale(clock)) {
            return None;
        }
        Some(match self.segments.iter().position(|segment| !segment.is_stale(clock)) {
            Some(place) => Position {
                segment: self.front.wrapping_add(place as u32),
                offset: self.segments[place].range.start(),
            },
            None => self.head(),
        })
    }

    /// Whether `pin` keeps a segment that is stale: see [`Tail::position_fresh`].
    pub fn pins_stale(&self, pin: Pin, clock: u64) -> bool {
        self.segments.get(self.place(pin.segment)).expect("a pinned segment stays").is_stale(clock)
    }

    /// Drops the oldest segments that nothing keeps; all of them if `is_idle`: every counted position is at the head.
    pub fn release(&mut self, is_idle: bool) {
        while let Some(first) = self.segments.front() {
            let is_needed =
                first.pin_count > 0 || (first.position_count > 0 && !(is_idle && self.segments.len() == 1));
            if is_needed || (self.segments.len() == 1 && !is_idle) {
                break;
            }
            self.segments.pop_front();
            self.front = self.front.wrapping_add(1);
        }
        while self.index.front().is_some_and(|start| self.is_before_front(start.segment)) {
            self.index.pop_front();
        }
        // What a long stall needed goes back; what every publication needs stays.
        if self.segments.is_empty() && self.segments.capacity() + self.index.capacity() > INDEX_KEPT {
            (self.segments, self.index) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// Asserts that the `counted` positions, and no others, are counted where they are; for tests and simulations.
    pub fn check(&self, counted: impl Iterator<Item = Position>) {
        let mut counts = vec![0u32; self.segments.len()];
        let (mut is_idle, head) = (true, self.head());
        for position in counted {
            let placed = self.placed(position);
            assert_eq!(self.is_head(position), placed == head, "the head is one place");
            is_idle &= placed == head;
            match self.segments.get(self.place(placed.segment)) {
                Some(segment) => {
                    assert!((segment.range.start()..=segment.range.end()).contains(&placed.offset));
                    counts[self.place(self.counted_segment(position))] += 1;
                }
                None => assert_eq!(placed, head, "a position is at the head or in a segment"),
            }
        }
        for (segment, count) in self.segments.iter().zip(counts) {
            assert_eq!(segment.position_count, count);
        }
        if self.segments.iter().all(|segment| segment.pin_count == 0) && is_idle {
            assert!(self.segments.is_empty(), "an idle tail pins no chunk");
        }
    }

    /// The ordinal of the last segment. Of an empty log: of the segment that will come first.
    #[inline]
    fn last(&self) -> u32 {
        self.front.wrapping_add(self.segments.len().saturating_sub(1) as u32)
    }

    #[inline]
    fn head(&self) -> Position {
        match self.segments.back() {
            Some(last) => Position { segment: self.last(), offset: last.range.end() },
            None => Position { segment: self.front.wrapping_sub(1), offset: 0 },
        }
    }

    /// Where a counted position is. One from before the first segment is at its start.
    #[inline]
    fn placed(&self, mut position: Position) -> Position {
        if self.segments.is_empty() {
            return self.head();
        }
        if self.is_before_front(position.segment) {
            position = Position { segment: self.front, offset: self.segments[0].range.start() };
        }
        self.normalized(position)
    }

    /// The same place in the log: at a segment's end, with another segment behind it, that one's start.
    #[inline]
    fn normalized(&self, mut position: Position) -> Position {
        while position.segment != self.last()
            && position.offset == self.segments[self.place(position.segment)].range.end()
        {
            let segment = position.segment.wrapping_add(1);
            position = Position { segment, offset: self.segments[self.place(segment)].range.start() };
        }
        position
    }

    /// In which segment's count the position is: where it was when it last moved.
    #[inline]
    fn counted_segment(&self, Position { segment, .. }: Position) -> u32 {
        if self.is_before_front(segment) { self.front } else { segment }
    }

    #[inline]
    fn is_before_front(&self, segment: u32) -> bool {
        (segment.wrapping_sub(self.front) as i32) < 0
    }

    #[inline]
    fn place(&self, segment: u32) -> usize {
        segment.wrapping_sub(self.front) as usize
    }

    /// What positions from the front on are compared by.
    #[inline]
    fn order(&self, position: Position) -> (usize, u32) {
        (self.place(position.segment), position.offset)
    }

    #[inline]
    fn segment_mut(&mut self, segment: u32) -> Option<&mut Segment> {
        let place = self.place(segment);
        self.segments.get_mut(place)
    }

    /// The longest run of whole records from `from` within `bytes_max`; the first record whatever its
    /// length.
    fn whole_records(&self, from: Position, bytes_max: u32) -> u32 {
        let range = &self.segments[self.place(from.segment)].range;
        let limit = from.offset + bytes_max;
        let near = self.newest_start(Position { segment: from.segment, offset: limit });
        let mut end = near.offset.max(from.offset);
        loop {
            let next = end + self.record_len(range, end);
            if next > limit && end > from.offset {
                return end - from.offset;
            }
            if next > limit {
                return next - from.offset;
            }
            end = next;
        }
    }

    /// How long the record is that starts at `offset`.
    fn record_len(&self, range: &Range, offset: u32) -> u32 {
        self.encoding.record_len(&range.bytes()[(offset - range.start()) as usize..])
    }

    /// The `seq` of the record that starts at `position`, which is not the head.
    fn seq_at(&self, position: Position) -> u64 {
        let start = self.newest_start(position);
        let range = &self.segments[self.place(position.segment)].range;
        let (mut offset, mut seq) = (start.offset, start.seq);
        while offset < position.offset {
            offset += self.record_len(range, offset);
            seq += 1;
        }
        seq
    }

    /// The newest indexed record start in `position`'s segment that is not after `position`.
    fn newest_start(&self, position: Position) -> RecordStart {
        let limit = self.order(position);
        let is_before = |start: &RecordStart| (self.place(start.segment), start.offset) <= limit;
        let after = self.index.partition_point(is_before);
        let start = after.checked_sub(1).map(|place| self.index[place]);
        let start = start.expect("the first record of a log is indexed");
        assert_eq!(start.segment, position.segment, "the first record of a segment is indexed");
        start
    }
}

impl Segment {
    /// Whether it keeps memory that is needed when the log is short: nothing more is written to its chunk,
    /// and what it holds was appended before `clock`.
    fn is_stale(&self, clock: u64) -> bool {
        self.clock < clock && self.range.is_sealed()
    }
}
