//! Tours: the pasts of all topics that a filter matches, in pages, for somebody who subscribes to it.
//!
//! A *tick* is a moment that somebody may come back to. It rises when somebody asks for what there is by now, if anything was
//! published since it last rose, and each past knows the first publication of every tick: so "what was written before
//! that" and "since that" are exact, for all topics at once, and cost a publication a comparison.
//!
//! No state of a tour stays here. A page goes on behind a name, so topics may come and go meanwhile: each is come by once
//! in a pass, in the order of their names.

use std::{ops::Bound, sync::Arc};

use super::{Home, gap_of};
use crate::{
    protocol::topic,
    pubsub::{
        log::Range,
        message::{Delivery, Outboxes, TourCursor, TourEntry, TourFrom, TourPage, TourRequest},
        past::{KeyedValues, PageCost, Past, Span, Spans, Window},
    },
    work::price,
};

/// So many names a page looks at.
const NAMES_MAX: usize = if cfg!(test) { 4 } else { 1_024 };
/// So many are taken out of the list of them at a time.
const NAMES_TOGETHER: usize = if cfg!(test) { 2 } else { 64 };
/// A page has about so many bytes, most of which are copied for it; one record may be longer.
pub(super) const TOUR_BYTES_MAX: u32 = if cfg!(test) { 1 << 10 } else { 64 << 10 };
/// A range of so many bytes is sent from where it is; shorter ones are copied together, which is less work than to send each.
const ALONE_BYTES: usize = if cfg!(test) { 256 } else { 4 << 10 };

/// What is missing of a topic is told in so many bytes, and its name.
const GAP_BYTES: usize = 64;
/// So many bytes are copied in the time that it takes to write one of a publication, with what else is done for that.
const COPIED_BYTES: u64 = 8;

/// What the client has of one topic, by what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Had {
    /// All up to this publication; if there never was that, nothing, and it wants the newest so many.
    Listed(u64, u32),
    /// All that was written before this tick.
    Before(u64),
    /// Nothing, and it wants the newest so many.
    Nothing(u32),
}

/// What of one topic belongs into a pass.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    first_seq: u64,
    gap: Option<(u64, u64)>,
    is_whole: bool,
}

impl Home {
    /// Hands a page of the pasts of topics over, after all batches of what was published so far. `home` is this one's number.
    pub fn handle_tour(&mut self, home: usize, port: usize, request: &TourRequest, outboxes: &mut Outboxes) {
        self.work += price::PAGE;
        self.flush(outboxes);
        let tick = request.until.unwrap_or_else(|| self.raise_tick());
        let since = match request.from {
            TourFrom::Nothing => None,
            TourFrom::Tick(tick) => Some(tick),
            TourFrom::Start(_, tick) => tick,
        };
        let mut page = TourPage {
            connection: request.connection,
            tour: request.tour,
            home,
            entries: Vec::new(),
            cursor: None,
            tick,
            listed_count: 0,
            // A topic that was evicted is come by no more, whatever it had.
            is_recovered: since.is_none_or(|tick| self.evicted_tick_max < tick),
        };
        if !matches!(request.from, TourFrom::Nothing) {
            page.cursor = self.fill(&mut page, request);
            self.copy_together(page.entries.iter_mut().filter_map(|entry| entry.range.as_mut()).collect());
        }
        outboxes[port].push_back(Delivery::Toured(Box::new(page)));
    }

    /// The tick is another from now on, if anything was published in it; tells which it is.
    pub(super) fn raise_tick(&mut self) -> u64 {
        if self.publications_total != self.ticked_publications {
            self.ticked_publications = self.publications_total;
            self.tick += 1;
        }
        self.tick
    }

    /// The next names, of topics with a past, that may match `filter`: at most [`NAMES_TOGETHER`].
    fn names_from(&mut self, filter: &str, cursor: Option<&TourCursor>) -> Vec<(Arc<str>, usize)> {
        let prefix = literal_prefix(filter);
        // `a/#` matches `a` as well, which does not begin with `a/`, and goes first.
        let bare = prefix.strip_suffix('/').filter(|_| filter.len() == prefix.len() + 1);
        let bare = bare.filter(|bare| cursor.is_none_or(|it| it.seq.is_some() && *it.name == **bare));
        let bare = bare.and_then(|bare| self.pasts.get_key_value(bare));
        // What is no tenant's stands behind all that is.
        let prefix_start = if prefix.is_empty() { "\u{1}" } else { prefix };
        let start = match cursor.filter(|cursor| *cursor.name >= *prefix_start) {
            Some(TourCursor { name, seq: None }) => Bound::Excluded(&**name),
            Some(TourCursor { name, seq: Some(_) }) => Bound::Included(&**name),
            None => Bound::Included(prefix_start),
        };
        let named = self.pasts.range::<str, _>((start, Bound::Unbounded));
        let named = named.take_while(|(name, _)| name.starts_with(prefix));
        let found: Vec<_> = bare
            .into_iter()
            .chain(named)
            .take(NAMES_TOGETHER)
            .map(|(name, key)| (name.clone(), *key))
            .collect();
        let lookups = 1 + topic::level_count(filter) / price::MATCH_LEVELS;
        self.work += found.len() as u64 * (price::LOOK + lookups as u64 * price::MATCH);
        found
    }

    /// Fills the page with what belongs into the pass of the next topics. Where that is more than fits it tells where the rest
    /// begins.
    fn fill(&mut self, page: &mut TourPage, request: &TourRequest) -> Option<TourCursor> {
        let (mut cursor, mut bytes_left) = (request.cursor.clone(), TOUR_BYTES_MAX);
        for _ in 0..NAMES_MAX / NAMES_TOGETHER {
            let found = self.names_from(&request.filter, cursor.as_ref());
            let rest = self.fill_with(page, &found, cursor.as_ref(), request, &mut bytes_left);
            let (last, _) = found.last()?;
            if rest.is_some() {
                return rest;
            }
            if found.len() < NAMES_TOGETHER {
                return None;
            }
            cursor = Some(TourCursor { name: last.clone(), seq: None });
        }
        cursor
    }

    /// The same of the topics that were found, the first of which `cursor` may be in the middle of.
    fn fill_with(
        &mut self,
        page: &mut TourPage,
        found: &[(Arc<str>, usize)],
        cursor: Option<&TourCursor>,
        request: &TourRequest,
        bytes_left: &mut u32,
    ) -> Option<TourCursor> {
        let TourRequest { filter, encoding, from, .. } = request;
        let now_ms = self.now_ms as u32;
        for (name, key) in found.iter().filter(|(name, _)| topic::matches(filter, name)) {
            let topic = &mut self.topics[*key];
            let past = topic.past.as_mut().expect("who is listed has a past");
            let had = Had::of(from, name);
            // Nearly all, mostly: what else there is to know of them is not looked at.
            if had.is_all_of(past) {
                continue;
            }
            let end_seq = past.first_since(page.tick);
            let resumed = cursor.filter(|cursor| cursor.name == *name).and_then(|cursor| cursor.seq);
            let lowest = past.lowest(now_ms);
            let Part { first_seq, gap, is_whole } = match resumed {
                Some(seq) => Part::behind(seq, lowest, end_seq),
                None => Part::of(past, had, lowest, end_seq),
            };
            let is_counted = resumed.is_some() || request.counted.has(name);
            page.listed_count += usize::from(matches!(had, Had::Listed(..)) && !is_counted);
            if past.keyed_alone().is_some() {
                let rest = self.fill_with_keyed(page, name, *key, (resumed, had), request, bytes_left);
                if rest.is_some() || *bytes_left == 0 || page.entries.len() >= request.entries_max {
                    return Some(TourCursor { name: name.clone(), seq: rest });
                }
                continue;
            }
            if let Some((seq, tick)) = past.retained_alone() {
                if tick < page.tick && !had.has_retained(seq, tick) {
                    let mut cost = PageCost::default();
                    let spans = past.page_of_retained(encoding.format(), &mut self.pool, &mut cost);
                    let range = spans.spans.into_iter().next().map(|span| span.range);
                    let (topic, next_seq) = (name.clone(), seq + 1);
                    *bytes_left = bytes_left.saturating_sub(range.as_ref().map_or(0, Range::len) as u32);
                    page.entries.push(TourEntry {
                        topic,
                        gap: None,
                        seq,
                        next_seq,
                        range,
                        is_retained: true,
                    });
                    self.work += cost.price;
                    self.transcoded_bytes_total += cost.transcoded_bytes;
                }
                if *bytes_left == 0 || page.entries.len() >= request.entries_max {
                    return Some(TourCursor { name: name.clone(), seq: None });
                }
                continue;
            }
            page.is_recovered &= is_whole;
            if first_seq >= end_seq && gap.is_none() {
                continue;
            }
            let (had_pieces, mut cost) = (past.has_pieces(), PageCost::default());
            let window = Window { first_seq, end_seq, bytes_max: *bytes_left };
            let spans = match first_seq < end_seq {
                true => past.page(window, encoding.format(), now_ms, &mut self.pool, &mut cost),
                false => Spans { spans: Vec::new(), next_seq: end_seq },
            };
            if past.has_pieces() && !had_pieces {
                self.transcoded.push_back(*key);
            }
            let next_seqs = spans.spans.iter().skip(1).map(|span| span.seq).chain([spans.next_seq]);
            let entry = |seq, next_seq, range| TourEntry {
                topic: name.clone(),
                gap: None,
                seq,
                next_seq,
                range,
                is_retained: false,
            };
            let first_entry = page.entries.len();
            if spans.spans.is_empty() {
                page.entries.push(entry(spans.next_seq, spans.next_seq, None));
            }
            // Of a piece that is made more is transcoded than is sent, and each topic may need one.
            let sent_bytes: usize = spans.spans.iter().map(|span| span.range.len()).sum();
            *bytes_left = bytes_left.saturating_sub(cost.transcoded_bytes.max(sent_bytes as u64) as u32);
            for (span, next_seq) in spans.spans.iter().zip(next_seqs) {
                page.entries.push(entry(span.seq, next_seq, Some(span.range.clone())));
            }
            if gap.is_some() {
                *bytes_left = bytes_left.saturating_sub((GAP_BYTES + name.len()) as u32);
            }
            page.entries[first_entry].gap = gap;
            let next_seq = spans.next_seq;
            self.work += cost.price;
            self.transcoded_bytes_total += cost.transcoded_bytes;
            self.make_up_for(cost.transcoded_bytes as usize);
            if next_seq < end_seq || *bytes_left == 0 || page.entries.len() >= request.entries_max {
                let seq = (next_seq < end_seq).then_some(next_seq);
                return Some(TourCursor { name: name.clone(), seq });
            }
        }
        None
    }

    /// The same of the values by key of a topic that keeps nothing else: each is an entry. Tells where the rest of them begins.
    fn fill_with_keyed(
        &mut self,
        page: &mut TourPage,
        name: &Arc<str>,
        key: usize,
        (resumed, had): (Option<u64>, Had),
        request: &TourRequest,
        bytes_left: &mut u32,
    ) -> Option<u64> {
        self.drop_old_keyed(key);
        let topic = &self.topics[key];
        let past = topic.past.as_ref().expect("who is listed has a past");
        let keyed = past.keyed_alone().expect("it has such values alone");
        let end_seq = keyed.first_since(page.tick).unwrap_or(topic.seq + 1);
        let first_seq = resumed.unwrap_or_else(|| {
            let (first_seq, passed) = first_keyed(keyed, had, end_seq);
            self.work += passed as u64 * price::VISIT;
            first_seq
        });
        let window = Window { first_seq, end_seq, bytes_max: *bytes_left };
        let count_max = request.entries_max - page.entries.len();
        let formats = (past.encoding().format(), request.encoding.format());
        let mut cost = PageCost::default();
        let part = keyed.part(window, count_max, formats, &mut self.pool, &mut cost);
        for Span { seq, range } in part.spans {
            *bytes_left = bytes_left.saturating_sub(range.len() as u32);
            page.entries.push(TourEntry {
                topic: name.clone(),
                gap: None,
                seq,
                next_seq: seq + 1,
                range: Some(range),
                is_retained: true,
            });
        }
        self.work += cost.price;
        self.transcoded_bytes_total += cost.transcoded_bytes;
        (part.next_seq < end_seq).then_some(part.next_seq)
    }

    /// Puts what is short side by side.
    pub(super) fn copy_together(&mut self, mut ranges: Vec<&mut Range>) {
        ranges.retain(|range| range.len() < ALONE_BYTES);
        let len: usize = ranges.iter().map(|range| range.len()).sum();
        if len == 0 {
            return;
        }
        self.work += len as u64 * price::PUBLISHED_BYTE / COPIED_BYTES;
        let mut appender = self.pool.acquire(len, len);
        for range in ranges {
            *range = appender.append(range.len(), |room| room.copy_from_slice(range.bytes()));
        }
        self.pool.retire(appender);
    }
}

impl Had {
    /// What the client has of the topic `name` that asks for what `from` says.
    fn of(from: &TourFrom, name: &str) -> Had {
        match from {
            TourFrom::Tick(tick) => Had::Before(*tick),
            TourFrom::Start(start, tick) => match (start.seq_of(name), tick) {
                (Some(seq), _) => Had::Listed(seq, start.last),
                (None, Some(tick)) => Had::Before(*tick),
                (None, None) => Had::Nothing(start.last),
            },
            TourFrom::Nothing => unreachable!("who asks for nothing of any topic is shown none"),
        }
    }

    /// Whether that is all that there is of a topic by the tick alone in which it was last written to.
    fn is_all_of(self, past: &Past) -> bool {
        let Had::Before(since) = self else { return false };
        past.newest_tick() < since && past.retained_alone().is_none()
    }

    /// Whether it has the publication `seq`, which was written in `tick` and is retained, or does not want it.
    fn has_retained(self, seq: u64, tick: u64) -> bool {
        match self {
            Had::Listed(listed, _) => seq <= listed,
            Had::Before(since) => tick < since,
            Had::Nothing(last) => last == 0,
        }
    }
}

impl Part {
    /// What the client does not have of `past`, of what is kept from `lowest` on and ends before `end_seq`.
    fn of(past: &Past, had: Had, lowest: u64, end_seq: u64) -> Part {
        let seq = match had {
            Had::Nothing(last) => return Part::newest(last, lowest, end_seq),
            Had::Listed(listed, _) => listed.saturating_add(1),
            Had::Before(tick) if past.is_whole_since(tick) => past.first_since(tick).min(end_seq),
            // Where it is not known what is missing it is said to be all: so the first publication is the first that is missing.
            Had::Before(_) => 1.min(end_seq),
        };
        match had {
            // A client that says that it has what was never published has it from elsewhere.
            Had::Listed(_, last) if seq > end_seq => {
                Part { is_whole: false, ..Part::newest(last, lowest, end_seq) }
            }
            _ => Part::behind(seq, lowest, end_seq),
        }
    }

    /// All from `seq` on, of what is kept from `lowest` on and ends before `end_seq`.
    fn behind(seq: u64, lowest: u64, end_seq: u64) -> Part {
        let first_seq = seq.max(lowest).min(end_seq.max(seq));
        Part { first_seq, gap: gap_of(seq, first_seq), is_whole: first_seq == seq }
    }

    /// The newest `last` that there are.
    fn newest(last: u32, lowest: u64, end_seq: u64) -> Part {
        let first_seq = lowest.max(end_seq.saturating_sub(last.into())).min(end_seq);
        Part { first_seq, gap: None, is_whole: true }
    }
}

/// The first of the values by key that the client does not have, of those before `end_seq`; and how many were passed by to find
/// it.
fn first_keyed(keyed: &KeyedValues, had: Had, end_seq: u64) -> (u64, usize) {
    match had {
        // A client that says that it has what was never published has it from elsewhere.
        Had::Listed(seq, last) if seq >= end_seq => keyed.first_of(last as usize, end_seq),
        Had::Listed(seq, _) => (seq + 1, 0),
        Had::Before(tick) => (keyed.first_since(tick).unwrap_or(end_seq), 0),
        Had::Nothing(last) => keyed.first_of(last as usize, end_seq),
    }
}

/// What every topic begins with that `filter` matches, but for the topic that `a/#` matches beside those below it.
fn literal_prefix(filter: &str) -> &str {
    let wildcard = filter.find(['+', '#']).expect("a filter with wildcards has one");
    &filter[..wildcard]
}
