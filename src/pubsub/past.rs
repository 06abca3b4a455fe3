//! What a topic keeps of its past, in one format: a `Tail` of blocks that are the topic's own.
//!
//! A topic that keeps writes its records of that format into blocks of its own in the first place, and whoever is
//! subscribed gets spans of these: nothing is ever copied to be kept. A block is as large as what is kept already, within
//! bounds: so memory is a small multiple of what was asked for, and a busy topic's past is contiguous.
//!
//! Memory goes by whole blocks, so there is at least what was asked for; what is *told* is exact.

mod keyed_value;
mod value;

use std::collections::VecDeque;

use self::value::Retained;
pub(super) use self::{keyed_value::KeyedValues, value::Held};
use super::{
    keeping::Keep,
    log::{Appender, ChunkPool, OWN_CHUNK_BYTES, Range},
    message::PastFrom,
    tail::Tail,
};
use crate::{
    protocol::{Encoding, Format, publication::LastValue, record::Records, transcode},
    work::{UNIT, price},
};

/// The capacities of blocks, in bytes.
const BLOCK_BYTES: [usize; 6] = if cfg!(test) {
    [64, 128, 256, 1 << 10, 4 << 10, OWN_CHUNK_BYTES]
} else {
    [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, OWN_CHUNK_BYTES]
};
/// So many blocks that are needless go with a publication: more than it makes needless, but for a few sizes.
const NEEDLESS_PER_RECORD: usize = 4;
/// A page has about so many bytes; one record may be longer.
pub const PAGE_BYTES_MAX: u32 = if cfg!(test) { 1 << 10 } else { 256 << 10 };
/// A page has at most so many spans.
pub const PAGE_SPANS_MAX: usize = if cfg!(test) { 4 } else { 1_024 };
/// So many bytes of a block are transcoded together, and kept: a few times as many come of it at most.
const PIECE_BYTES: u32 = if cfg!(test) { 128 } else { 32 << 10 };
/// The price of transcoding a piece: of publications of a hundred bytes, a third of what those of a few bytes take.
const PIECE_PRICE: u64 = if cfg!(test) { UNIT / 4 } else { 50 * UNIT };
/// So many pieces that nobody had asked for before go into a page.
const PAGE_PIECES_MAX: usize = 2;

/// Where there is room for more than so many times the marks that there are, some of it goes.
const MARKS_SPARE: usize = 4;

/// The newest publications of a topic, and its value.
#[derive(Debug)]
pub(super) struct Past {
    keep: Keep,
    tail: Tail,
    /// In step with the tail's segments.
    blocks: VecDeque<Block>,
    /// The first publication of each tick in which there were any, as far as something of that is kept.
    marks: VecDeque<Mark>,
    /// What these take, in bytes, as it is counted with what is kept.
    marks_bytes: usize,
    /// In which tick the newest publication was written that is not kept any more, or may have been; 0 if none was.
    gone_tick: u64,
    /// When its oldest block is looked at for whether it is too old, in milliseconds; 0 is never.
    pub(super) due_ms: u64,
    /// Something of it is there in the other format as well.
    has_pieces: bool,
    /// When that was last asked for, in milliseconds (wrapping).
    pieces_used_ms: u32,
    /// The newest publication is a null, which is nobody's value.
    is_cleared: bool,
    retained: Option<Box<Retained>>,
    /// Where there is a value of each key.
    keyed: Option<Box<KeyedValues>>,
    /// What the value keeps, as the home has it.
    pub(super) noted: Held,
}

#[derive(Debug)]
struct Block {
    appender: Appender,
    first_seq: u64,
    /// What the clock of what is kept showed when it was begun.
    clock: u64,
    /// When the newest of it was written, in milliseconds (wrapping).
    newest_ms: u32,
    pieces: Vec<Piece>,
}

/// The records that begin in one stretch of [`PIECE_BYTES`] of a block, in the other format.
#[derive(Debug)]
struct Piece {
    stretch: u32,
    first_seq: u64,
    /// Of the publication behind it.
    next_seq: u64,
    /// Keeps it.
    appender: Appender,
    range: Range,
}

/// The first publication of a tick.
#[derive(Clone, Copy, Debug)]
struct Mark {
    tick: u64,
    seq: u64,
}

/// Of which publications a page is, and how much of them it may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The first one's `seq`: at least the lowest.
    pub first_seq: u64,
    /// Of the one behind the last.
    pub end_seq: u64,
    /// About so many bytes: one record may be longer.
    pub bytes_max: u32,
}

/// Publications side by side in memory.
#[derive(Clone, Debug)]
pub struct Span {
    /// The first one's `seq`; the others' are adjacent.
    pub seq: u64,
    /// Whole records.
    pub range: Range,
}

/// What a page took.
#[derive(Debug, Default)]
pub(super) struct PageCost {
    /// In work.
    pub price: u64,
    /// Bytes that came of transcoding.
    pub transcoded_bytes: u64,
}

/// Spans of adjacent publications, in order; or of values by key, in the order of their `seq`s, which jump.
#[derive(Debug, Default)]
pub struct Spans {
    /// The first begins with the publication that was asked for.
    pub spans: Vec<Span>,
    /// Which publication comes next.
    pub next_seq: u64,
}

impl Past {
    /// Of a topic whose newest publication is `seq`, of which nothing is kept: it was written in `gone_tick` or before.
    pub fn new(keep: Keep, format: Format, seq: u64, gone_tick: u64) -> Past {
        let mut tail = Tail::new(Encoding::new(format, false));
        tail.begin_behind(seq);
        Past {
            keep,
            tail,
            blocks: VecDeque::new(),
            marks: VecDeque::new(),
            marks_bytes: 0,
            gone_tick,
            due_ms: 0,
            has_pieces: false,
            pieces_used_ms: 0,
            is_cleared: false,
            retained: None,
            keyed: None,
            noted: Held::default(),
        }
    }

    /// In which encoding it is kept.
    pub fn encoding(&self) -> Encoding {
        self.tail.encoding()
    }

    /// How much is kept from now on, and values of how many keys at most. What comes of it is nobody's: the caller drops that one
    /// by one.
    pub fn set_keep(
        &mut self,
        keep: Keep,
        keys_max: usize,
        pool: &mut ChunkPool,
    ) -> Option<Box<KeyedValues>> {
        self.keep = keep;
        if !self.may_retain() {
            self.let_go_of_retained(pool);
        }
        self.follow_keyed(keys_max)
    }

    /// Whether publications are kept as they come.
    pub fn has_records(&self) -> bool {
        self.keep.has_history() || self.keep.is_newest_value()
    }

    /// Whether it is kept for what came of the topic lately, beside its values.
    pub fn keeps_history(&self) -> bool {
        self.keep.has_history()
    }

    /// Whether all that came behind publication `since` is here.
    pub fn is_recovered(&self, since: u64, now_ms: u32) -> bool {
        since <= self.tail.head_seq() && since + 1 >= self.lowest(now_ms)
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && !self.has_value()
    }

    /// The topic's newest publication is `seq`, was written in `tick`, and is not kept.
    pub fn follow(&mut self, seq: u64, tick: u64) {
        self.tail.begin_behind(seq);
        self.gone_tick = tick;
    }

    /// Where the next record, of `len` bytes, is to be written; then [`Past::note`] must be told. If a block has to be begun
    /// for it `on_begin` gets its reading of the clock of what is kept.
    pub fn appender(
        &mut self,
        len: usize,
        pool: &mut ChunkPool,
        on_begin: impl FnOnce(u64),
    ) -> &mut Appender {
        if self.blocks.back().is_none_or(|last| last.appender.room() < len) {
            let kept_bytes = self.tail.kept_bytes() as usize;
            let fitting = BLOCK_BYTES.into_iter().rfind(|bytes| *bytes <= kept_bytes);
            let bytes = match fitting {
                // What stays as long as the value does.
                Some(bytes) if !(self.keep.is_newest_value() && pool.budget().has_many_values()) => bytes,
                _ => BLOCK_BYTES[0],
            }
            .max(len);
            let (appender, clock) = pool.acquire_kept(bytes);
            on_begin(clock);
            let first_seq = self.tail.head_seq() + 1;
            // Most topics that keep something keep very little.
            self.blocks.reserve_exact(usize::from(self.blocks.is_empty()));
            self.blocks.push_back(Block { appender, first_seq, clock, newest_ms: 0, pieces: Vec::new() });
        }
        &mut self.blocks.back_mut().expect("it was there or was just put there").appender
    }

    /// The record of publication `seq`, of `len` bytes, was written where [`Past::appender`] said, at `now_ms` (wrapping) and in
    /// `tick`. What is kept for longer than it need be goes: `on_end` gets the clock of each block that does. Tells whether there may
    /// be more of it than goes at once.
    pub fn note(
        &mut self,
        len: usize,
        seq: u64,
        (now_ms, tick): (u32, u64),
        pool: &mut ChunkPool,
        on_end: impl FnMut(u64),
    ) -> bool {
        self.marks.reserve_exact(usize::from(self.marks.is_empty()));
        if self.marks.back().is_none_or(|newest| newest.tick != tick) {
            self.marks.push_back(Mark { tick, seq });
            self.count_marks(pool);
        }
        let block = self.blocks.back_mut().expect("it was written into one");
        let begins = self.tail.append_written(&block.appender, len, seq, now_ms);
        assert_eq!(begins, block.first_seq == seq, "blocks are in step with segments");
        block.newest_ms = now_ms;
        self.drop_needless(now_ms, NEEDLESS_PER_RECORD, pool, on_end) == NEEDLESS_PER_RECORD
    }

    /// The lowest `seq` that is kept and may be: one more than the newest where nothing is.
    pub fn lowest(&self, now_ms: u32) -> u64 {
        let Some(first) = self.blocks.front() else { return self.tail.head_seq() + 1 };
        let Keep { count_max, bytes_max, ms_max, .. } = self.keep;
        let by_count = (self.tail.head_seq() + 1).saturating_sub(count_max);
        let by_bytes = match self.tail.kept_bytes() > bytes_max {
            true => self.tail.seq_of(self.tail.position_within(bytes_max)),
            false => 0,
        };
        let by_age =
            ms_max.map_or(0, |ms_max| self.tail.seq_of(self.tail.position_within_ms(ms_max.get(), now_ms)));
        let lowest = first.first_seq.max(by_count).max(by_bytes).max(by_age);
        if self.is_newest_value() { lowest.min(self.tail.head_seq()) } else { lowest }
    }

    /// In how many milliseconds from `now_ms` (wrapping) on the oldest block, or the oldest value by key, may be needless without
    /// anything being published; none if it never is.
    pub fn expires_in_ms(&self, now_ms: u32) -> Option<u32> {
        let of_all = [self.block_expires_in_ms(now_ms), self.keyed_expires_in_ms(now_ms)];
        of_all.into_iter().flatten().min()
    }

    fn block_expires_in_ms(&self, now_ms: u32) -> Option<u32> {
        if self.is_oldest_needless(now_ms) {
            return Some(0);
        }
        let (ms_max, oldest) = (self.keep.ms_max?.get(), self.blocks.front()?);
        if self.blocks.len() == 1 && self.is_newest_value() {
            return None;
        }
        Some(ms_max.saturating_sub(now_ms.wrapping_sub(oldest.newest_ms)))
    }

    /// The oldest block goes; tells when that was begun.
    pub fn drop_oldest(&mut self, pool: &mut ChunkPool) -> Option<u64> {
        let Block { appender, clock, pieces, .. } = self.blocks.pop_front()?;
        self.tail.pop_front();
        self.drop_marks();
        self.count_marks(pool);
        pieces.into_iter().for_each(|piece| pool.let_go(piece.appender));
        pool.let_go(appender);
        Some(clock)
    }

    /// Blocks go that are not needed for what is to be kept, at most `count_max`; tells how many did. If as many as may, there may
    /// be more.
    pub fn drop_needless(
        &mut self,
        now_ms: u32,
        count_max: usize,
        pool: &mut ChunkPool,
        mut on_end: impl FnMut(u64),
    ) -> usize {
        let mut count = 0;
        while count < count_max && self.is_oldest_needless(now_ms) {
            on_end(self.drop_oldest(pool).expect("it is there"));
            count += 1;
        }
        count
    }

    /// All blocks, as a past that is nobody's: the caller drops them one by one. Here nothing is kept any more but what is
    /// retained, and values by key.
    pub fn part_with_blocks(&mut self) -> Past {
        let (head_seq, newest_tick) = (self.tail.head_seq(), self.newest_tick());
        let fresh = Past::new(self.keep.clone(), self.encoding().format(), head_seq, newest_tick);
        let mut gone = std::mem::replace(self, fresh);
        (self.retained, self.keyed) = (gone.retained.take(), gone.keyed.take());
        (self.noted, self.due_ms, self.is_cleared) = (gone.noted, gone.due_ms, gone.is_cleared);
        gone
    }

    /// Whether publications are kept as they came.
    pub fn has_blocks(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Lets go of what is there in the other format and was not asked for in `unused_ms`, of at most so many pieces as `left`
    /// says, which is told what is left of that. Tells whether none is there any more.
    pub fn drop_pieces(
        &mut self,
        now_ms: u32,
        unused_ms: u32,
        left: &mut usize,
        pool: &mut ChunkPool,
    ) -> bool {
        if self.has_pieces && now_ms.wrapping_sub(self.pieces_used_ms) >= unused_ms {
            for block in &mut self.blocks {
                if *left == 0 {
                    break;
                }
                let count = block.pieces.len().min(*left);
                *left -= count;
                block.pieces.drain(..count).for_each(|piece| pool.let_go(piece.appender));
            }
            self.has_pieces = *left == 0;
        }
        !self.has_pieces
    }

    /// The first publication that was written in `tick` or later, of those that are kept; one more than the newest where none
    /// was.
    pub fn first_since(&self, tick: u64) -> u64 {
        let place = self.marks.partition_point(|mark| mark.tick < tick);
        let first_seq = self.blocks.front().map_or(0, |oldest| oldest.first_seq);
        self.marks.get(place).map_or(self.tail.head_seq() + 1, |mark| mark.seq.max(first_seq))
    }

    /// Whether all is still in memory that was written in `tick` or later.
    pub fn is_whole_since(&self, tick: u64) -> bool {
        self.gone_tick < tick
    }

    /// In which tick the newest publication was written, kept or not; 0 if none was.
    pub fn newest_tick(&self) -> u64 {
        self.marks.back().map_or(self.gone_tick, |mark| mark.tick)
    }

    /// What is not kept any more needs no marks, but that of the newest of it.
    fn drop_marks(&mut self) {
        let first_seq = self.blocks.front().map_or(self.tail.head_seq() + 1, |oldest| oldest.first_seq);
        while let Some(&mark) = self.marks.front().filter(|mark| mark.seq < first_seq) {
            self.gone_tick = mark.tick;
            // Of the oldest that is kept the tick may be the same.
            if self.marks.get(1).is_none_or(|next| next.seq > first_seq) && !self.blocks.is_empty() {
                break;
            }
            self.marks.pop_front();
        }
        // Without blocks there are none, and nothing is counted any more.
        if self.marks.is_empty() {
            self.marks = VecDeque::new();
        } else if self.marks.capacity() / MARKS_SPARE > self.marks.len() {
            self.marks.shrink_to(2 * self.marks.len());
        }
    }

    fn count_marks(&mut self, pool: &mut ChunkPool) {
        let bytes = self.marks.capacity() * size_of::<Mark>();
        let before = std::mem::replace(&mut self.marks_bytes, bytes);
        if bytes != before {
            pool.note_marks(bytes, before);
        }
    }

    /// Whether something of it is there in the other format.
    pub fn has_pieces(&self) -> bool {
        self.has_pieces
    }

    /// The publications of `window` in `format`: less where they have to be transcoded for it; `cost` gets what that took.
    pub fn page(
        &mut self,
        window: Window,
        format: Format,
        now_ms: u32,
        pool: &mut ChunkPool,
        cost: &mut PageCost,
    ) -> Spans {
        let Window { first_seq, end_seq, bytes_max } = window;
        let mut page = Spans { spans: Vec::new(), next_seq: first_seq };
        let mut bytes_left = bytes_max;
        if format == self.encoding().format() {
            let mut position = self.tail.position_of(first_seq);
            let end = self.tail.position_of(end_seq);
            while bytes_left > 0
                && page.next_seq < end_seq
                && page.spans.len() < PAGE_SPANS_MAX
                && let Some((range, behind)) = self.tail.span(position, bytes_left)
            {
                // It is at least one record, which may be longer than what is left.
                if range.len() > bytes_left as usize && !page.spans.is_empty() {
                    break;
                }
                let next_seq = self.tail.seq_of(behind);
                if next_seq > end_seq {
                    let len = (self.tail.bytes_from(position) - self.tail.bytes_from(end)) as u32;
                    page.push(range.part(range.start(), len), end_seq);
                    break;
                }
                bytes_left = bytes_left.saturating_sub(range.len() as u32);
                position = behind;
                page.push(range, next_seq);
            }
            cost.price += page.spans.len() as u64 * price::SPAN;
            return page;
        }
        self.pieces_used_ms = now_ms;
        let mut made_left = PAGE_PIECES_MAX;
        while bytes_left > 0 && page.spans.len() < PAGE_SPANS_MAX && made_left > 0 && page.next_seq < end_seq
        {
            let (mut range, mut next_seq, made_bytes) = self.transcoded(page.next_seq, format, pool);
            cost.price += price::SPAN;
            if made_bytes > 0 {
                cost.price += piece_price(made_bytes);
                cost.transcoded_bytes += made_bytes as u64;
                made_left -= 1;
            }
            if next_seq > end_seq {
                let len = first_records(&range, Encoding::new(format, false), end_seq - page.next_seq);
                (range, next_seq) = (range.part(range.start(), len), end_seq);
            }
            bytes_left = bytes_left.saturating_sub(range.len() as u32);
            page.push(range, next_seq);
        }
        page
    }

    /// At most `limit` publications, and about [`PAGE_BYTES_MAX`] of them, as they are kept: the oldest first; the lowest `seq`
    /// that can be had; and whether there are more in the direction of `from`.
    pub fn excerpt(&self, from: PastFrom, limit: u32, now_ms: u32) -> (Spans, u64, bool) {
        if !self.has_records() {
            if let Some(keyed) = self.keyed() {
                return self.excerpt_of_keyed(keyed, from, limit);
            }
            return self.excerpt_of_retained(from, limit);
        }
        let (lowest, end) = (self.lowest(now_ms), self.tail.head_seq() + 1);
        let (first, behind, is_forward) = match from {
            PastFrom::After(seq) => {
                let first = seq.saturating_add(1).clamp(lowest, end);
                (first, first.saturating_add(limit.into()).min(end), true)
            }
            PastFrom::Before(seq) => (lowest, seq.clamp(lowest, end), false),
            PastFrom::Newest => (lowest, end, false),
        };
        // Backward those next to where it begins: the earlier ones are left for the next time.
        let first = if is_forward { first } else { first.max(behind.saturating_sub(limit.into())) };
        let until = self.tail.position_of(behind);
        let bytes = self.tail.bytes_from(self.tail.position_of(first)) - self.tail.bytes_from(until);
        let first = match is_forward || bytes <= u64::from(PAGE_BYTES_MAX) {
            true => first,
            // One in any case.
            false => {
                let nearest =
                    self.tail.position_within(self.tail.bytes_from(until) + u64::from(PAGE_BYTES_MAX));
                self.tail.seq_of(nearest).min(behind - 1)
            }
        };
        let mut spans = Spans { spans: Vec::new(), next_seq: first };
        let mut bytes_left = PAGE_BYTES_MAX;
        let mut position = self.tail.position_of(first);
        while spans.next_seq < behind && bytes_left > 0 {
            let (range, next) =
                self.tail.span(position, bytes_left).expect("what is before the head is here");
            let next_seq = self.tail.seq_of(next);
            if range.len() > bytes_left as usize && !spans.spans.is_empty() {
                break;
            }
            if next_seq > behind {
                let len = (self.tail.bytes_from(position) - self.tail.bytes_from(until)) as u32;
                spans.push(range.part(range.start(), len), behind);
                break;
            }
            bytes_left = bytes_left.saturating_sub(range.len() as u32);
            position = next;
            spans.push(range, next_seq);
        }
        let has_more = limit > 0 && if is_forward { spans.next_seq < end } else { first > lowest };
        (spans, lowest, has_more)
    }

    /// Asserts the invariants, with `seq` as the topic's; for tests and simulations.
    pub fn check(&self, seq: u64) {
        assert_eq!(self.tail.head_seq(), seq, "every publication is kept for a while");
        assert_eq!(self.tail.segment_count(), self.blocks.len(), "blocks are in step with segments");
        assert!(self.blocks.iter().is_sorted_by_key(|block| block.clock));
        assert!(self.has_records() || self.blocks.is_empty());
        assert_eq!(self.marks.is_empty(), self.blocks.is_empty(), "marks go with what they are of");
        assert_eq!(self.marks_bytes, self.marks.capacity() * size_of::<Mark>(), "marks are counted");
        assert!(self.may_retain() || self.retained.is_none());
        assert!(matches!(self.keep.last_value, LastValue::PerKey(_)) == self.keyed.is_some());
        self.keyed.iter().for_each(|keyed| keyed.check(seq));
        assert_eq!(self.noted, self.held(), "the home knows what the value keeps");
    }

    /// When its blocks were begun, by the clock of what is kept.
    pub fn clocks(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().map(|block| block.clock)
    }

    /// The record of publication `seq` and those behind it in the same piece, in the format that they are not kept in; the
    /// `seq` behind them; and how many bytes had to be transcoded now, of those before it in that piece too.
    fn transcoded(&mut self, seq: u64, format: Format, pool: &mut ChunkPool) -> (Range, u64, usize) {
        let position = self.tail.position_of(seq);
        let place = self.blocks.partition_point(|block| block.first_seq <= seq) - 1;
        let is_last = place + 1 == self.blocks.len();
        let stretch = position.offset() / PIECE_BYTES;
        let encoding = Encoding::new(format, false);
        let block = &self.blocks[place];
        if let Some(piece) = block.pieces.iter().find(|piece| piece.stretch == stretch) {
            let passed = first_records(&piece.range, encoding, seq - piece.first_seq);
            let offset = piece.range.start() + passed;
            let range = piece.range.part(offset, piece.range.end() - offset);
            return (range, piece.next_seq, 0);
        }
        // From the first record that begins in the stretch, so that others find it; but not of the newest one, which grows.
        let stretch_range = self.tail.stretch(position, PIECE_BYTES);
        let is_whole = !is_last || stretch_range.end() >= (stretch + 1) * PIECE_BYTES;
        let (source, first_seq) = match is_whole {
            true => {
                let first = position.at(stretch_range.start());
                (stretch_range, self.tail.seq_of(first))
            }
            false => (stretch_range.part(position.offset(), stretch_range.end() - position.offset()), seq),
        };
        let records = || Records::new(self.encoding().format(), source.bytes());
        let len = transcode::transcoded_len(records(), format);
        let next_seq = first_seq + records().count() as u64;
        let fill = |room: &mut [u8]| transcode::transcode(records(), format, room);
        if !is_whole {
            let mut appender = pool.acquire(len, len);
            let range = appender.append(len, fill);
            pool.retire(appender);
            return (range, next_seq, len);
        }
        let (mut appender, _) = pool.acquire_kept(len);
        let range = appender.append(len, fill);
        self.blocks[place].pieces.push(Piece { stretch, first_seq, next_seq, appender, range });
        self.has_pieces = true;
        let (range, next_seq, _) = self.transcoded(seq, format, pool);
        (range, next_seq, len)
    }

    fn is_oldest_needless(&self, now_ms: u32) -> bool {
        let Some(oldest) = self.blocks.front() else { return false };
        let Keep { count_max, bytes_max, ms_max, .. } = self.keep;
        let is_too_old = ms_max.is_some_and(|ms_max| now_ms.wrapping_sub(oldest.newest_ms) > ms_max.get());
        let Some(second) = self.blocks.get(1) else {
            return (is_too_old || count_max == 0) && !self.is_newest_value();
        };
        if is_too_old {
            return true;
        }
        self.tail.head_seq() + 1 - second.first_seq >= count_max
            || self.tail.bytes_behind_front() >= bytes_max
    }
}

/// How many bytes the first `count` records of `range` have.
fn first_records(range: &Range, encoding: Encoding, count: u64) -> u32 {
    let bytes = range.bytes();
    (0..count).fold(0, |len, _| len + encoding.record_len(&bytes[len as usize..]))
}

/// The price of transcoding what came out so long: of a piece, or of the newest few records.
fn piece_price(len: usize) -> u64 {
    price::SPAN + PIECE_PRICE * len.min(PIECE_BYTES as usize) as u64 / u64::from(PIECE_BYTES)
}

impl Spans {
    /// Spans that are side by side in memory are one.
    pub(super) fn join(&mut self) {
        let mut joined: Vec<Span> = Vec::new();
        for Span { seq, range } in self.spans.drain(..) {
            let rest = match joined.last_mut() {
                Some(last) => last.range.join(range).err(),
                None => Some(range),
            };
            joined.extend(rest.map(|range| Span { seq, range }));
        }
        self.spans = joined;
    }

    fn push(&mut self, range: Range, next_seq: u64) {
        self.spans.push(Span { seq: self.next_seq, range });
        self.next_seq = next_seq;
    }
}

#[cfg(test)]
mod tests;
