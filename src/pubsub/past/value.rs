//! A topic's value: the publication that whoever subscribes is sent first, whatever its age.
//!
//! Where that is the newest one it lies where that is kept anyway, and nothing is copied: the newest block stays as long as
//! the value is in it. One that publishers say is *retained*: its record is written once more, to be kept by itself,
//! since the blocks about it go.

use super::{PageCost, Past, Spans, piece_price};
use crate::{
    protocol::{Format, publication::LastValue, record::Records, transcode},
    pubsub::{
        log::{Appender, ChunkPool, Range},
        message::PastFrom,
    },
    work::price,
};

/// Records that are retained are in chunks of a multiple of so many bytes, so that one of them serves for another.
pub(super) const RETAINED_BYTES: usize = 128;

/// The record of a publication that is retained.
#[derive(Debug)]
pub(super) struct Retained {
    seq: u64,
    /// In which it was written.
    tick: u64,
    /// Keeps it.
    appender: Appender,
    range: Range,
}

/// What a value keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::pubsub) struct Held {
    /// So many bytes: 0 if there is none.
    pub bytes: usize,
    /// The block that it is in, by the clock of what is kept, if it is not retained.
    pub block: Option<u64>,
}

impl Past {
    /// Whether the newest publication is the value, unless that is a null.
    pub fn keeps_newest(&self) -> bool {
        self.keep.is_newest_value()
    }

    /// Whether publishers say which publication is the value.
    pub fn may_retain(&self) -> bool {
        self.keep.retain && self.keep.last_value == LastValue::Nothing
    }

    /// Whether what publishers want to be retained is.
    pub fn takes_retained(&self) -> bool {
        self.keep.has_values()
    }

    /// Whether the newest publication is here and the value.
    pub fn is_newest_value(&self) -> bool {
        self.keep.is_newest_value() && !self.is_cleared && !self.blocks.is_empty()
    }

    /// Whether there is a value.
    pub fn has_value(&self) -> bool {
        self.is_newest_value() || self.retained.is_some() || self.has_keyed()
    }

    /// What the value keeps now, or all of them.
    pub fn held(&self) -> Held {
        if let Some(keyed) = self.keyed().filter(|keyed| !keyed.is_empty()) {
            return Held { bytes: keyed.held_bytes(), block: None };
        }
        if let Some(retained) = &self.retained {
            return Held { bytes: retained.appender.capacity(), block: None };
        }
        match self.blocks.back().filter(|_| self.is_newest_value()) {
            Some(newest) => Held { bytes: newest.appender.capacity(), block: Some(newest.clock) },
            None => Held::default(),
        }
    }

    /// Whether the block is here that was begun when the clock of what is kept showed this.
    pub fn has_block(&self, clock: u64) -> bool {
        self.blocks.front().is_some_and(|oldest| oldest.clock <= clock)
    }

    /// How many bytes more the value would keep if it were a record of `len` bytes.
    pub fn more_bytes(&self, len: usize) -> usize {
        let has_room = || self.blocks.back().is_some_and(|newest| newest.appender.room() >= len);
        let bytes = match self.keep.is_newest_value() {
            true if self.noted.bytes > 0 && has_room() => 0,
            true => super::BLOCK_BYTES[0].max(len),
            false => len.next_multiple_of(RETAINED_BYTES),
        };
        bytes.saturating_sub(self.noted.bytes)
    }

    /// The next publication is a null, or is not.
    pub fn set_cleared(&mut self, is_cleared: bool) {
        self.is_cleared = is_cleared;
    }

    /// Publication `seq`, whose record `fill` writes, is the value, in place of another.
    pub fn retain(
        &mut self,
        (seq, tick): (u64, u64),
        len: usize,
        pool: &mut ChunkPool,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let (mut appender, _) = pool.acquire_kept(len.next_multiple_of(RETAINED_BYTES));
        let range = appender.append(len, fill);
        let retained = Retained { seq, tick, appender, range };
        match &mut self.retained {
            Some(before) => pool.let_go(std::mem::replace(&mut **before, retained).appender),
            None => self.retained = Some(Box::new(retained)),
        }
    }

    /// Nothing is retained any more.
    pub fn let_go_of_retained(&mut self, pool: &mut ChunkPool) {
        if let Some(retained) = self.retained.take() {
            pool.let_go(retained.appender);
        }
    }

    /// Whether a retained null says that no key has a value any more.
    pub fn may_clear_keyed(&self) -> bool {
        self.keep.retain && self.keyed.is_some()
    }

    /// Whether there are values by key.
    pub fn has_keyed(&self) -> bool {
        self.keyed().is_some_and(|keyed| !keyed.is_empty())
    }

    /// Whether something is retained.
    pub fn has_retained(&self) -> bool {
        self.retained.is_some()
    }

    /// Which publication is retained, and the tick in which it was written, of a topic that keeps nothing else.
    pub fn retained_alone(&self) -> Option<(u64, u64)> {
        let retained = self.retained.as_ref().filter(|_| !self.keep.has_history())?;
        Some((retained.seq, retained.tick))
    }

    /// What is retained, in `format`; `cost` gets what that took. It is made anew for each who wants another than it is kept in:
    /// it is one record.
    pub fn page_of_retained(&self, format: Format, pool: &mut ChunkPool, cost: &mut PageCost) -> Spans {
        let Retained { seq, ref range, .. } = **self.retained.as_ref().expect("something is retained");
        let mut spans = Spans { spans: Vec::new(), next_seq: seq };
        cost.price += price::SPAN;
        let kept_in = self.encoding().format();
        if format == kept_in {
            spans.push(range.clone(), seq + 1);
            return spans;
        }
        let records = || Records::new(kept_in, range.bytes());
        let len = transcode::transcoded_len(records(), format);
        let mut appender = pool.acquire(len, len);
        spans.push(appender.append(len, |room| transcode::transcode(records(), format, room)), seq + 1);
        pool.retire(appender);
        cost.price += piece_price(len);
        cost.transcoded_bytes += len as u64;
        spans
    }

    /// As [`Past::excerpt`], of a topic that keeps nothing but what is retained.
    pub(super) fn excerpt_of_retained(&self, from: PastFrom, limit: u32) -> (Spans, u64, bool) {
        let end = self.tail.head_seq() + 1;
        let Some(retained) = &self.retained else {
            return (Spans { spans: Vec::new(), next_seq: end }, end, false);
        };
        let seq = retained.seq;
        let mut spans = Spans { spans: Vec::new(), next_seq: seq };
        let is_asked = match from {
            PastFrom::Newest => true,
            PastFrom::Before(before) => seq < before,
            PastFrom::After(after) => seq > after,
        };
        if is_asked && limit > 0 {
            spans.push(retained.range.clone(), seq + 1);
        }
        (spans, seq, false)
    }
}
