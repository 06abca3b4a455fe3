//! A reactor's view of one topic's log in one encoding: what is still owed, and to whom.
//!
//! The log is a row of *segments* (ranges of chunks), oldest first. A *position* is a place in it,
//! always at a record's start or at the head. Invariants, which [`View::check`] asserts:
//!
//! - a member's position is at the head, or inside a segment that is still here;
//! - a segment stays while a position is inside it, or a send of it is in flight, or an older segment
//!   stays; so memory is what the furthest-behind member pins;
//! - when every member is at the head and nothing is in flight, there are no segments at all: an idle
//!   topic pins no chunk.

use std::{collections::VecDeque, sync::Arc};

use super::{
    log::Range,
    message::{Batch, PendingId},
    policy::{Bound, Rule},
    subscription::ConnectionId,
    walk::Walk,
};
use crate::protocol::{Encoding, topic::TopicName};

/// One record start is indexed in so many bytes of log: the longest walk to find one.
const INDEX_BYTES: u32 = if cfg!(test) { 64 } else { 16 << 10 };
/// How many segments and record starts an idle view keeps room for.
const INDEX_KEPT: usize = 16;
/// The ordinal of a view's first segment. They wrap, in tests soon.
const FRONT_FIRST: u32 = if cfg!(test) { u32::MAX - 2 } else { 0 };
/// And in so many milliseconds of it: how exactly a record's age is known.
pub(super) const INDEX_MS: u32 = 100;

/// One topic in one encoding, as this reactor's connections receive it.
#[derive(Debug)]
pub struct View {
    /// The topic.
    pub name: Arc<str>,
    /// The encoding.
    pub encoding: Encoding,
    /// What the home knows of our exact subscriptions.
    pub registration: Registration,
    /// Connections whose exact subscription waits for the home's answer, in order.
    pub waiting: Vec<Waiting>,
    /// Of which state of the filters the wildcard members are; 0: all of them are to be looked for anew.
    pub filters_generation: u64,
    /// Nothing moved for long and only filters hold members, who are being let go of.
    pub is_dropping: bool,
    /// What becomes of a member that is too far behind, and what that is.
    pub rule: Rule,
    /// The cursor's state; kept by the fan-out.
    pub sweep: Sweep,
    segments: VecDeque<Segment>,
    /// The ordinal of the first segment, whether or not there is one.
    front: u32,
    index: VecDeque<RecordStart>,
    /// How many bytes were ever appended: the head.
    head_bytes: u64,
    /// The newest publication's `seq`.
    head_seq: u64,
    /// The `seq` of the log's last record: less than the head's where nobody was there to be owed, or
    /// where the home's numbering jumped.
    logged_seq: u64,
    members: Vec<Member>,
    /// Members that have an exact subscription.
    exact_count: u32,
    /// Members whose position is the head.
    at_head_count: u32,
}

/// Whether the home sends this topic's batches because of exact subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It was not asked, or was told to stop.
    None,
    /// It was asked and has not answered.
    Pending,
    /// It does, from `seq` on.
    Active,
}

/// A question that is answered when the topic's `seq` is known.
#[derive(Debug)]
pub struct Waiting {
    /// Who asks.
    pub connection: ConnectionId,
    /// The question to answer with `ok`.
    pub pending: Option<PendingId>,
}

/// Where a topic's cursor is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    /// Which members it has visited.
    pub(super) walk: Walk,
    /// When it began, in nanoseconds.
    pub started_ns: u64,
    /// Where the head was then, and when the sweep before it began, in bytes that were ever appended.
    pub started_bytes: [u64; 2],
    /// The head has moved since it began: another sweep is due after it.
    pub is_outrun: bool,
    /// The view is on the fan-out's list of those that sweep or wait for their next sweep.
    pub is_listed: bool,
}

/// A place in a view's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which segment, counted from the view's beginning (wrapping).
    segment: u32,
    /// Where in the segment's chunk.
    offset: u32,
}

/// What pins a segment while a send of it is in flight: give it back with [`View::unpin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    segment: u32,
}

/// Where a view has a member. It is another's as soon as somebody leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberSlot(u32);

impl MemberSlot {
    /// No member's.
    pub(super) const NONE: MemberSlot = MemberSlot(u32::MAX);

    /// That of the member with this number, from 0 on.
    pub(super) fn new(number: u32) -> MemberSlot {
        MemberSlot(number)
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A connection as a receiver of this view.
#[derive(Debug)]
pub struct Member {
    /// The connection's slot.
    pub connection: u32,
    /// Where the connection's own list has this membership.
    pub subscription: u32,
    position: Position,
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

/// A member has another place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) connection: u32,
    pub(super) subscription: u32,
    pub(super) slot: MemberSlot,
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
    /// Members whose position is in here.
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

impl View {
    /// A view without members or log.
    pub fn new(name: Arc<str>, encoding: Encoding, rule: Rule) -> View {
        View {
            name,
            encoding,
            registration: Registration::None,
            waiting: Vec::new(),
            filters_generation: 0,
            is_dropping: false,
            rule,
            sweep: Sweep::default(),
            segments: VecDeque::new(),
            front: FRONT_FIRST,
            index: VecDeque::new(),
            head_bytes: 0,
            head_seq: 0,
            logged_seq: 0,
            members: Vec::new(),
            exact_count: 0,
            at_head_count: 0,
        }
    }

    /// The topic's name.
    pub fn topic(&self) -> TopicName<&str> {
        TopicName::checked(&*self.name)
    }

    /// How many connections receive it.
    pub fn member_count(&self) -> u32 {
        self.members.len() as u32
    }

    /// How many of them have an exact subscription.
    pub fn exact_count(&self) -> u32 {
        self.exact_count
    }

    /// How many of them are behind.
    pub fn behind_count(&self) -> u32 {
        self.member_count() - self.at_head_count
    }

    /// The newest publication's `seq`.
    pub fn head_seq(&self) -> u64 {
        self.head_seq
    }

    /// How many bytes were ever appended.
    pub fn head_bytes(&self) -> u64 {
        self.head_bytes
    }

    /// How many of those the member in `slot` was sent, or does not get.
    pub fn sent_bytes(&self, slot: MemberSlot) -> u64 {
        self.head_bytes - self.owed_bytes(slot)
    }

    /// The member in `slot`.
    pub fn member(&self, slot: MemberSlot) -> &Member {
        &self.members[slot.index()]
    }

    /// Every member, with its slot.
    pub fn members(&self) -> impl Iterator<Item = (MemberSlot, &Member)> {
        (0u32..).map(MemberSlot).zip(&self.members)
    }

    /// How many bytes of log it keeps for those who are behind, up to one segment more than the furthest
    /// behind is owed.
    pub fn kept_bytes(&self) -> u64 {
        self.segments.front().map_or(0, |first| self.head_bytes - first.begin_bytes)
    }

    /// The memory of its segments and record starts, in bytes: what the log's budget is charged with.
    pub fn index_bytes(&self) -> usize {
        self.segments.len() * size_of::<Segment>() + self.index.len() * size_of::<RecordStart>()
    }

    /// Whether its log is empty: nobody is behind, and no send of it is in flight.
    pub fn is_log_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether nothing is left that needs the view: it can be dropped and made anew.
    pub fn is_unused(&self) -> bool {
        self.member_count() == 0
            && self.waiting.is_empty()
            && self.registration == Registration::None
            && self.segments.is_empty()
    }

    /// Moves the head: what `batch` holds is now owed to every member, since `now_ms` (wrapping), which is
    /// `clock` on the log's age clock.
    pub fn append(&mut self, batch: Batch, now_ms: u32, clock: u64) {
        let Batch { seq, count, range, .. } = batch;
        self.head_seq = seq + u64::from(count) - 1;
        if self.member_count() == 0 {
            return;
        }
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
            let position_count = if was_empty { self.member_count() } else { 0 };
            let begin_bytes = self.head_bytes;
            self.segments.push_back(Segment { range, clock, begin_bytes, position_count, pin_count: 0 });
        }
        self.head_bytes += u64::from(len);
        self.at_head_count = 0;
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

    /// The next member that the cursor visits; none when the sweep is over.
    #[inline]
    pub fn next_visit(&mut self) -> Option<MemberSlot> {
        self.sweep.walk.step().map(MemberSlot)
    }

    /// Whether the cursor is still to visit the member in `slot`.
    pub fn will_visit(&self, slot: MemberSlot) -> bool {
        self.sweep.walk.is_ahead(slot.0)
    }

    /// The cursor is to visit everybody: a sweep begins.
    pub fn start_sweep(&mut self, now_ns: u64) {
        let sweep = &mut self.sweep;
        sweep.walk = Walk::new(self.members.len());
        sweep.started_ns = now_ns;
        sweep.started_bytes = [self.head_bytes, sweep.started_bytes[0]];
        sweep.is_outrun = false;
    }

    /// How many bytes at most a member can be owed more than when it was visited in the sweep before this
    /// one.
    pub fn grown_bytes(&self) -> u64 {
        self.head_bytes - self.sweep.started_bytes[1]
    }

    /// What follows is after `seq`; what was owed so far stays owed.
    pub fn set_head_seq(&mut self, seq: u64) {
        self.head_seq = seq;
    }

    /// Adds a member at the head: it gets what is appended from now on.
    pub fn join(&mut self, connection: u32, subscription: u32, is_exact: bool) -> MemberSlot {
        let position = self.head();
        if let Some(last) = self.segments.back_mut() {
            last.position_count += 1;
        }
        self.at_head_count += 1;
        self.exact_count += u32::from(is_exact);
        self.members.push(Member { connection, subscription, position });
        MemberSlot(self.members.len() as u32 - 1)
    }

    /// A member gains or loses its exact subscription; it stays.
    pub fn set_exact(&mut self, is_exact: bool) {
        self.exact_count = self
            .exact_count
            .checked_add_signed(if is_exact { 1 } else { -1 })
            .expect("a member loses the exact subscription that it has");
    }

    /// Removes the member in `slot`, and tells who has another place for it.
    pub(super) fn leave(&mut self, slot: MemberSlot, was_exact: bool) -> impl Iterator<Item = Moved> + use<> {
        if !self.is_behind(slot) {
            self.at_head_count -= 1;
        }
        let counted = self.counted_segment(slot);
        if let Some(segment) = self.segment_mut(counted) {
            segment.position_count -= 1;
        }
        self.exact_count -= u32::from(was_exact);
        let moves = self.sweep.walk.close(slot.0, self.members.len()).map(|(from, to)| {
            if from == to {
                return None;
            }
            self.members.swap(from as usize, to as usize);
            let Member { connection, subscription, .. } = self.members[to as usize];
            Some(Moved { connection, subscription, slot: MemberSlot(to) })
        });
        self.members.pop();
        if self.members.is_empty() {
            self.members = Vec::new();
        }
        self.release();
        moves.into_iter().flatten()
    }

    /// The connection's list has this membership elsewhere now.
    pub fn set_subscription(&mut self, slot: MemberSlot, subscription: u32) {
        self.members[slot.index()].subscription = subscription;
    }

    /// Whether the member in `slot` is owed anything.
    #[inline]
    pub fn is_behind(&self, slot: MemberSlot) -> bool {
        // A segment holds a record at least: no place but the head's own is the head, however it is normalized.
        !self.segments.is_empty() && self.members[slot.index()].position != self.head()
    }

    /// How many bytes the member in `slot` is owed.
    pub fn owed_bytes(&self, slot: MemberSlot) -> u64 {
        let position = self.position(slot);
        let Some(segment) = self.segments.get(self.place(position.segment)) else { return 0 };
        self.head_bytes - segment.begin_bytes - u64::from(position.offset - segment.range.start())
    }

    /// When the oldest publication that the member in `slot` is owed was appended, or up to `INDEX_MS`
    /// before that, in milliseconds (wrapping).
    pub fn owed_since_ms(&self, slot: MemberSlot) -> Option<u32> {
        self.is_behind(slot).then(|| self.newest_start(self.position(slot)).appended_ms)
    }

    /// Which bound of its topic's rule the member in `slot` is beyond at `now_ms` (wrapping).
    pub fn exceeded(&self, slot: MemberSlot, now_ms: u32) -> Option<Bound> {
        if self.owed_bytes(slot) > self.rule.owed_bytes_max {
            return Some(Bound::OwedBytes);
        }
        let (ms_max, since_ms) = (self.rule.owed_ms_max?, self.owed_since_ms(slot)?);
        (now_ms.wrapping_sub(since_ms) > ms_max + INDEX_MS).then_some(Bound::OwedMs)
    }

    /// Where a member that is beyond a bound of its topic's rule goes on: with half of what each allows.
    pub fn position_within_rule(&self, now_ms: u32) -> Position {
        let by_bytes = self.position_within(self.rule.owed_bytes_max / 2);
        match self.rule.owed_ms_max.map(|ms_max| self.position_since(now_ms.wrapping_sub(ms_max / 2))) {
            Some(by_age) if self.order(by_age) > self.order(by_bytes) => by_age,
            _ => by_bytes,
        }
    }

    /// Takes the next bytes that the member in `slot` is owed: at most `bytes_max` of whole records, but
    /// at least one record. They count as sent, and are pinned until [`View::unpin`].
    pub fn take(&mut self, slot: MemberSlot, bytes_max: u32) -> Option<Owed> {
        let (from, head) = (self.position(slot), self.head());
        if from == head {
            return None;
        }
        let counted = self.counted_segment(slot);
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
        let to = Position { segment: from.segment, offset: from.offset + len };
        self.members[slot.index()].position = to;
        self.at_head_count += u32::from(to == head);
        Some(Owed { bytes, len, pin: Pin { segment: from.segment } })
    }

    /// [`View::unpin`] if that lets go of nothing: somebody is behind, and another send of the segment is in flight or
    /// a position is in it. Else does nothing; tells which.
    #[inline]
    pub fn unpin_kept(&mut self, pin: Pin) -> bool {
        let is_anybody_behind = self.behind_count() > 0;
        let segment = self.segment_mut(pin.segment).expect("a pinned segment stays");
        let is_kept = is_anybody_behind && (segment.pin_count > 1 || segment.position_count > 0);
        segment.pin_count -= u32::from(is_kept);
        is_kept
    }

    /// A send of what [`View::take`] gave is over.
    pub fn unpin(&mut self, pin: Pin) {
        let segment = self.segment_mut(pin.segment).expect("a pinned segment stays");
        segment.pin_count -= 1;
        self.release();
    }

    /// Moves the member in `slot` forward to `to` and tells which `seq`s it will not get; none if it is
    /// there or beyond.
    pub fn skip(&mut self, slot: MemberSlot, to: Position) -> Option<(u64, u64)> {
        let from = self.position(slot);
        if self.order(from) >= self.order(to) {
            return None;
        }
        let is_head = to == self.head();
        let first = self.seq_at(from);
        let last = if is_head { self.logged_seq } else { self.seq_at(to) - 1 };
        let counted = self.counted_segment(slot);
        self.segment_mut(counted).expect("a position is counted in a segment").position_count -= 1;
        self.segment_mut(to.segment).expect("who is behind has a log before it").position_count += 1;
        self.members[slot.index()].position = to;
        self.at_head_count += u32::from(is_head);
        self.release();
        Some((first, last))
    }

    /// The first record from which on at most `bytes` are owed; the head if the newest record alone is more.
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

    /// The first record that is known to be appended at `since_ms` (wrapping) or later; else the head.
    pub fn position_since(&self, since_ms: u32) -> Position {
        let is_before = |start: &RecordStart| (start.appended_ms.wrapping_sub(since_ms) as i32) < 0;
        match self.index.get(self.index.partition_point(is_before)) {
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

    /// Whether the position of the member in `slot` is before `position`.
    pub fn is_before(&self, slot: MemberSlot, position: Position) -> bool {
        self.order(self.position(slot)) < self.order(position)
    }

    /// Whether `pin` keeps a segment that is stale: see [`View::position_fresh`].
    pub fn pins_stale(&self, pin: Pin, clock: u64) -> bool {
        self.segments.get(self.place(pin.segment)).expect("a pinned segment stays").is_stale(clock)
    }

    /// Asserts the invariants; for tests and simulations.
    pub fn check(&self) {
        let head = self.head();
        let mut at_head = 0;
        let mut counts = vec![0u32; self.segments.len()];
        for (slot, _) in self.members() {
            let position = self.position(slot);
            at_head += u32::from(position == head);
            assert_eq!(self.is_behind(slot), position != head, "the head is one place");
            match self.segments.get(self.place(position.segment)) {
                Some(segment) => {
                    assert!((segment.range.start()..=segment.range.end()).contains(&position.offset));
                    counts[self.place(self.counted_segment(slot))] += 1;
                }
                None => assert_eq!(position, head, "a position is at the head or in a segment"),
            }
        }
        assert_eq!(at_head, self.at_head_count);
        for (segment, count) in self.segments.iter().zip(counts) {
            assert_eq!(segment.position_count, count);
        }
        if self.segments.iter().all(|segment| segment.pin_count == 0) && self.behind_count() == 0 {
            assert!(self.segments.is_empty(), "an idle view pins no chunk");
        }
    }

    /// The ordinal of the last segment. Of an empty log: of the segment that will come first.
    fn last(&self) -> u32 {
        self.front.wrapping_add(self.segments.len().saturating_sub(1) as u32)
    }

    fn head(&self) -> Position {
        match self.segments.back() {
            Some(last) => Position { segment: self.last(), offset: last.range.end() },
            None => Position { segment: self.front.wrapping_sub(1), offset: 0 },
        }
    }

    /// Where the member is. A position from before the first segment is at its start.
    fn position(&self, slot: MemberSlot) -> Position {
        if self.segments.is_empty() {
            return self.head();
        }
        let mut position = self.members[slot.index()].position;
        if self.is_before_front(position.segment) {
            position = Position { segment: self.front, offset: self.segments[0].range.start() };
        }
        self.normalized(position)
    }

    /// The same place in the log: at a segment's end, with another segment behind it, that one's start.
    fn normalized(&self, mut position: Position) -> Position {
        while position.segment != self.last()
            && position.offset == self.segments[self.place(position.segment)].range.end()
        {
            let segment = position.segment.wrapping_add(1);
            position = Position { segment, offset: self.segments[self.place(segment)].range.start() };
        }
        position
    }

    /// In which segment's count the member is: where its position was when it last moved.
    fn counted_segment(&self, slot: MemberSlot) -> u32 {
        let segment = self.members[slot.index()].position.segment;
        if self.is_before_front(segment) { self.front } else { segment }
    }

    fn is_before_front(&self, segment: u32) -> bool {
        (segment.wrapping_sub(self.front) as i32) < 0
    }

    fn place(&self, segment: u32) -> usize {
        segment.wrapping_sub(self.front) as usize
    }

    /// What positions from the front on are compared by.
    fn order(&self, position: Position) -> (usize, u32) {
        (self.place(position.segment), position.offset)
    }

    fn segment_mut(&mut self, segment: u32) -> Option<&mut Segment> {
        let place = self.place(segment);
        self.segments.get_mut(place)
    }

    /// Drops the oldest segments that nobody needs; all of them when nobody is behind.
    fn release(&mut self) {
        let is_idle = self.behind_count() == 0;
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

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        sample::Index,
        test_runner::{Config, RngSeed},
    };

    use super::*;
    use crate::{
        protocol::frame,
        pubsub::log::{Appender, Budget, ChunkPool},
    };

    #[derive(Clone, Debug)]
    enum Step {
        /// Payload lengths; into which of two chunks; how many `seq`s are jumped before.
        Append(Vec<usize>, usize, u64),
        /// The home said where its numbering is.
        SetHead(u64),
        Join(bool),
        Leave(Index),
        Take(Index, u32),
        Unpin(Index),
        /// Forward until at most so many bytes are owed.
        SkipBytes(Index, u64),
        /// Forward to what was appended so many milliseconds ago, or later.
        SkipMs(Index, u32),
        Pass(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let lens = prop::collection::vec(0usize..40, 1..5);
        let jump = prop_oneof![9 => Just(0u64), 1 => 1u64..5];
        prop_oneof![
            6 => (lens, 0usize..2, jump).prop_map(|(lens, chunk, jump)| Step::Append(lens, chunk, jump)),
            1 => (0u64..5).prop_map(Step::SetHead),
            2 => any::<bool>().prop_map(Step::Join),
            2 => any::<Index>().prop_map(Step::Leave),
            6 => (any::<Index>(), 0u32..200).prop_map(|(member, bytes_max)| Step::Take(member, bytes_max)),
            5 => any::<Index>().prop_map(Step::Unpin),
            1 => (any::<Index>(), 0u64..300).prop_map(|(member, bytes)| Step::SkipBytes(member, bytes)),
            1 => (any::<Index>(), 0u32..1_000).prop_map(|(member, ms)| Step::SkipMs(member, ms)),
            2 => (1u32..300).prop_map(Step::Pass),
        ]
    }

    const RULE: Rule = Rule { may_skip: true, owed_bytes_max: 200, owed_ms_max: Some(500) };

    /// The naive twin: every record that was ever appended, and how many of them each member has had.
    #[derive(Default)]
    struct Twin {
        records: Vec<TwinRecord>,
        members: Vec<TwinMember>,
        pins: Vec<(Pin, *const u8, Vec<u8>)>,
    }

    #[derive(Clone)]
    struct TwinRecord {
        seq: u64,
        bytes: Vec<u8>,
        appended_ms: u32,
    }

    struct TwinMember {
        slot: MemberSlot,
        connection: u32,
        is_exact: bool,
        had: usize,
    }

    impl Twin {
        fn owed(&self, member: &TwinMember) -> &[TwinRecord] {
            &self.records[member.had..]
        }

        /// The member misses the oldest `count` records that it is owed: the gap.
        fn skip(&mut self, place: usize, count: usize) -> Option<(u64, u64)> {
            let owed = self.owed(&self.members[place]);
            let first = owed[..count].first()?.seq;
            let last = owed.get(count).map_or(owed[count - 1].seq, |next| next.seq - 1);
            self.members[place].had += count;
            Some((first, last))
        }
    }

    fn record_of(seq: u64, payload_len: usize) -> Vec<u8> {
        let payload = vec![seq as u8; payload_len];
        let mut record = vec![0; frame::header_len(payload_len)];
        frame::write_header(frame::Opcode::Text, payload_len, &mut record);
        record.extend(payload);
        record
    }

    /// Appends to one of two small chunks in turn, so that ranges join, do not join, and come back to a
    /// chunk that an older range ends in.
    fn write(pool: &mut ChunkPool, chunk: &mut Option<Appender>, bytes: &[u8]) -> Range {
        if chunk.as_ref().is_none_or(|chunk| chunk.room() < bytes.len()) {
            chunk.replace(pool.acquire(400, 0)).into_iter().for_each(|full| pool.retire(full));
        }
        let chunk = chunk.as_mut().expect("it was just put there");
        chunk.append(bytes.len(), |room| room.copy_from_slice(bytes))
    }

    proptest! {
        #![proptest_config(Config {
            cases: 250,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(11),
            ..Config::default()
        })]

        #[test]
        fn a_view_owes_what_a_list_of_records_would(steps in prop::collection::vec(step(), 1..80)) {
            let mut pool = ChunkPool::new(Budget::new(1 << 20));
            let mut chunks = [None, None];
            let mut view = View::new("t".into(), Encoding::Json, RULE);
            // Shortly before it wraps.
            let mut now_ms = u32::MAX - 1_000;
            let mut twin = Twin::default();
            let mut next_connection = 0;
            for step in steps {
                match step {
                    Step::Append(lens, chunk, jump) => {
                        let first = view.head_seq() + 1 + jump;
                        let record = |(seq, &len)| {
                            TwinRecord { seq, bytes: record_of(seq, len), appended_ms: now_ms }
                        };
                        let records: Vec<_> = (first..).zip(&lens).map(record).collect();
                        let bytes: Vec<u8> = records.iter().flat_map(|record| record.bytes.clone()).collect();
                        let range = write(&mut pool, &mut chunks[chunk], &bytes);
                        let count = lens.len() as u32;
                        let batch = Batch { topic: "t".into(), encoding: Encoding::Json, seq: first, count, range };
                        view.append(batch, now_ms, 0);
                        prop_assert_eq!(view.head_seq(), first + lens.len() as u64 - 1);
                        if !twin.members.is_empty() {
                            twin.records.extend(records);
                        }
                    }
                    Step::SetHead(jump) => view.set_head_seq(view.head_seq() + jump),
                    Step::Join(is_exact) => {
                        let connection = next_connection;
                        next_connection += 1;
                        let slot = view.join(connection, connection + 100, is_exact);
                        let had = twin.records.len();
                        twin.members.push(TwinMember { slot, connection, is_exact, had });
                    }
                    Step::Leave(member) if !twin.members.is_empty() => {
                        let member = twin.members.remove(member.index(twin.members.len()));
                        for moved in view.leave(member.slot, member.is_exact) {
                            assert_eq!(moved.subscription, moved.connection + 100);
                            let twin = twin.members.iter_mut().find(|it| it.connection == moved.connection);
                            twin.expect("whoever moves has not left").slot = moved.slot;
                        }
                    }
                    Step::Take(member, bytes_max) if !twin.members.is_empty() => {
                        let place = member.index(twin.members.len());
                        let owed = twin.owed(&twin.members[place]).to_vec();
                        let taken = view.take(twin.members[place].slot, bytes_max);
                        prop_assert_eq!(taken.is_some(), !owed.is_empty());
                        let Some(taken) = taken else { continue };
                        // SAFETY: the pin keeps the bytes there, and no range is written twice.
                        let bytes = unsafe { std::slice::from_raw_parts(taken.bytes, taken.len as usize) };
                        let mut count = 0;
                        let mut expected = Vec::new();
                        while expected.len() < bytes.len() {
                            expected.extend_from_slice(&owed[count].bytes);
                            count += 1;
                        }
                        prop_assert_eq!(bytes, expected.as_slice());
                        prop_assert!(count == 1 || taken.len <= bytes_max);
                        twin.members[place].had += count;
                        twin.pins.push((taken.pin, taken.bytes, expected));
                    }
                    Step::Unpin(pin) if !twin.pins.is_empty() => {
                        let (pin, start, expected) = twin.pins.remove(pin.index(twin.pins.len()));
                        // SAFETY: as above.
                        let bytes = unsafe { std::slice::from_raw_parts(start, expected.len()) };
                        prop_assert_eq!(bytes, expected.as_slice());
                        view.unpin(pin);
                    }
                    Step::SkipBytes(member, bytes) if !twin.members.is_empty() => {
                        let place = member.index(twin.members.len());
                        let owed = twin.owed(&twin.members[place]);
                        let kept = |from: usize| owed[from..].iter().map(|it| it.bytes.len()).sum::<usize>();
                        let count = (0..).find(|from| kept(*from) as u64 <= bytes).unwrap();
                        let expected = twin.skip(place, count);
                        let position = view.position_within(bytes);
                        prop_assert_eq!(view.skip(twin.members[place].slot, position), expected);
                    }
                    Step::SkipMs(member, ms) if !twin.members.is_empty() => {
                        let since_ms = now_ms.wrapping_sub(ms);
                        let place = member.index(twin.members.len());
                        let slot = twin.members[place].slot;
                        let owed = twin.owed(&twin.members[place]).to_vec();
                        let gap = view.skip(slot, view.position_since(since_ms));
                        let kept_bytes = view.owed_bytes(slot) as usize;
                        let kept = |from: usize| owed[from..].iter().map(|it| it.bytes.len()).sum::<usize>();
                        let count = (0..=owed.len()).find(|from| kept(*from) == kept_bytes).expect("whole records");
                        prop_assert_eq!(gap, twin.skip(place, count));
                        let age = |it: &TwinRecord| now_ms.wrapping_sub(it.appended_ms);
                        prop_assert!(owed[count..].iter().all(|kept| age(kept) <= ms));
                        prop_assert!(owed[..count].iter().all(|missed| age(missed) + INDEX_MS > ms));
                    }
                    Step::Pass(ms) => now_ms = now_ms.wrapping_add(ms),
                    _ => {}
                }
                view.check();
                prop_assert_eq!(view.member_count() as usize, twin.members.len());
                prop_assert_eq!(
                    view.exact_count() as usize,
                    twin.members.iter().filter(|member| member.is_exact).count()
                );
                for member in &twin.members {
                    prop_assert_eq!(view.member(member.slot).connection, member.connection);
                    let oldest = twin.owed(member).first();
                    let early_ms = oldest.zip(view.owed_since_ms(member.slot));
                    let early_ms = early_ms.map(|(oldest, since)| oldest.appended_ms.wrapping_sub(since));
                    prop_assert!(early_ms.is_none_or(|early_ms| early_ms < INDEX_MS));
                    prop_assert_eq!(view.owed_since_ms(member.slot).is_some(), oldest.is_some());
                    let owed: usize = twin.owed(member).iter().map(|record| record.bytes.len()).sum();
                    prop_assert_eq!(view.owed_bytes(member.slot), owed as u64);
                    prop_assert_eq!(view.is_behind(member.slot), owed > 0);
                }
            }
        }
    }
}
