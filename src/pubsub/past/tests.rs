//! A past beside its twin, which remembers every publication.

use std::{collections::BTreeSet, num::NonZeroU32};

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, RngSeed},
};

use super::*;
use crate::{
    protocol::{command::PayloadKind, publication::Publication},
    pubsub::{log::Budget, tail::INDEX_MS},
};

const TOPIC: &str = "a/\"b\"";
const FIRST_SEQ: u64 = 40;
const GONE_TICK: u64 = 3;

/// A publication as the twin remembers it.
#[derive(Clone, Debug)]
struct Told {
    payload: Vec<u8>,
    is_null: bool,
    len: usize,
    ms: u32,
    tick: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// Of so many bytes, so many milliseconds later.
    Publish(usize, u32),
    PublishNull,
    DropOldest,
    /// From so many behind the lowest on, to so many before the head.
    Page(u64, u64, Format),
    Tick,
    Excerpt(PastFrom, u32),
    DropPieces,
    Keep(Keep),
}

fn keep() -> impl Strategy<Value = Keep> {
    let count_max = prop_oneof![Just(u64::MAX), 1u64..30];
    let bytes_max = prop_oneof![Just(u64::MAX), 1u64..5_000];
    let ms_max = prop_oneof![Just(None), (500u32..5_000).prop_map(NonZeroU32::new)];
    let value = (any::<bool>(), prop::bool::weighted(0.3));
    (count_max, bytes_max, ms_max, value).prop_map(
        |(count_max, bytes_max, ms_max, (last_value, has_value_alone))| Keep {
            count_max: if last_value && has_value_alone { 0 } else { count_max },
            bytes_max,
            ms_max,
            format: None,
            last_value: if last_value { LastValue::Newest } else { LastValue::Nothing },
            retain: false,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let seq = FIRST_SEQ..FIRST_SEQ + 80;
    let from = prop_oneof![
        Just(PastFrom::Newest),
        seq.clone().prop_map(PastFrom::Before),
        seq.prop_map(PastFrom::After),
    ];
    prop_oneof![
        8 => (prop_oneof![1usize..60, 1usize..1_500], 0u32..300).prop_map(|(len, ms)| Step::Publish(len, ms)),
        1 => Just(Step::PublishNull),
        1 => Just(Step::DropOldest),
        4 => (0u64..40, prop_oneof![Just(0u64), 0u64..40], select(&Format::ALL[..]))
            .prop_map(|(behind, before, format)| Step::Page(behind, before, format)),
        2 => Just(Step::Tick),
        2 => (from, 0u32..20).prop_map(|(from, limit)| Step::Excerpt(from, limit)),
        1 => Just(Step::DropPieces),
        1 => keep().prop_map(Step::Keep),
    ]
}

/// A past, and beside it every publication that there ever was.
struct Twin {
    past: Past,
    keep: Keep,
    pool: ChunkPool,
    told: Vec<Told>,
    /// Nothing before it is there, whatever was to be kept.
    gone: u64,
    blocks: BTreeSet<u64>,
    now_ms: u32,
    tick: u64,
}

impl Twin {
    fn new(keep: Keep, format: Format) -> Twin {
        Twin {
            past: Past::new(keep.clone(), format, FIRST_SEQ, GONE_TICK),
            keep,
            pool: ChunkPool::new(Budget::with_past(1 << 20, 1 << 20)),
            told: Vec::new(),
            gone: FIRST_SEQ + 1,
            blocks: BTreeSet::new(),
            // Soon it wraps.
            now_ms: u32::MAX - 1_000,
            tick: 5,
        }
    }

    fn head(&self) -> u64 {
        FIRST_SEQ + self.told.len() as u64
    }

    fn told(&self, seq: u64) -> &Told {
        &self.told[(seq - FIRST_SEQ - 1) as usize]
    }

    fn take(&mut self, step: &Step) {
        match step.clone() {
            Step::Publish(len, later_ms) => self.publish(len, later_ms),
            Step::PublishNull => self.publish_as(b"null".into(), true),
            // Nobody asks for that of the one that its value is in.
            Step::DropOldest if self.past.blocks.len() == 1 && self.past.is_newest_value() => {}
            Step::DropOldest => {
                let lowest = self.past.lowest(self.now_ms);
                let block_count = self.past.blocks.len();
                if let Some(clock) = self.past.drop_oldest(&mut self.pool) {
                    assert!(self.blocks.remove(&clock));
                    let first = self.past.blocks.front().map(|block| block.first_seq);
                    self.gone = first.unwrap_or(self.head() + 1).max(self.gone);
                    assert!(block_count > 0 && self.past.lowest(self.now_ms) >= lowest);
                }
            }
            Step::Page(behind, before, format) => self.page(behind, before, format),
            Step::Tick => self.tick += 2,
            Step::Excerpt(from, limit) => self.excerpt(from, limit),
            Step::DropPieces => {
                let mut left = 1_000;
                assert!(self.past.drop_pieces(self.now_ms, 0, &mut left, &mut self.pool));
            }
            Step::Keep(keep) => {
                // What went stays gone, however much is to be kept from now on.
                self.gone = self.past.blocks.front().map_or(self.head() + 1, |block| block.first_seq);
                let gone = self.past.set_keep(keep.clone(), usize::MAX, &mut self.pool);
                assert!(gone.is_none());
                self.keep = keep;
            }
        }
        self.past.noted = self.past.held();
        assert_eq!(self.past.has_value(), self.has_value());
        self.check_lowest();
        self.check_ticks();
        self.past.check(self.head());
        assert!(self.past.clocks().eq(self.blocks.iter().copied()));
    }

    fn publish(&mut self, len: usize, later_ms: u32) {
        self.now_ms = self.now_ms.wrapping_add(later_ms);
        self.publish_as(format!("\"{:0len$}\"", self.head() + 1).into_bytes(), false);
    }

    fn publish_as(&mut self, payload: Vec<u8>, is_null: bool) {
        let seq = self.head() + 1;
        let publication = Publication {
            topic: TOPIC,
            seq,
            user: None,
            time_ms: None,
            payload: &payload,
            kind: PayloadKind::Json,
        };
        let format = self.past.encoding().format();
        let len = publication.encoded_len(format);
        let appender = self.past.appender(len, &mut self.pool, |clock| assert!(self.blocks.insert(clock)));
        appender.write(len, |room| publication.encode(format, room));
        self.past.set_cleared(is_null);
        self.told.push(Told { payload, is_null, len, ms: self.now_ms, tick: self.tick });
        let (blocks, written) = (&mut self.blocks, (self.now_ms, self.tick));
        self.past.note(len, seq, written, &mut self.pool, |clock| assert!(blocks.remove(&clock)));
    }

    /// The newest, unless it is a null or was gone when that was to be kept.
    fn has_value(&self) -> bool {
        let newest = self.told.last().filter(|_| self.keep.is_newest_value() && self.gone <= self.head());
        newest.is_some_and(|newest| !newest.is_null)
    }

    /// What is told to be there is what was asked to be kept, but for what went: a record's age is known a little late.
    /// The value is there in any case.
    fn check_lowest(&self) {
        let (head, lowest) = (self.head(), self.past.lowest(self.now_ms));
        let mut bytes = 0;
        let is_within = |seq: &u64| {
            bytes += self.told(*seq).len as u64;
            head - seq < self.keep.count_max && bytes <= self.keep.bytes_max
        };
        let within = (self.gone..=head).rev().take_while(is_within).last().unwrap_or(head + 1);
        let is_too_old = |seq: u64, slack_ms: u32| {
            let age_ms = self.now_ms.wrapping_sub(self.told(seq).ms);
            self.keep.ms_max.is_some_and(|ms_max| age_ms + slack_ms > ms_max.get())
        };
        let youngest = |slack_ms| (within..=head).find(|seq| !is_too_old(*seq, slack_ms)).unwrap_or(head + 1);
        let or_value = |seq: u64| if self.has_value() { seq.min(head) } else { seq };
        assert!(lowest >= or_value(youngest(0)), "{lowest} is kept, which is from {within} on");
        assert!(lowest <= or_value(youngest(2 * INDEX_MS)), "{lowest} is the lowest, and not {within}");
    }

    /// What was written since a tick is found by that, and whether all of it is there.
    fn check_ticks(&self) {
        let kept = self.past.blocks.front().map_or(self.head() + 1, |block| block.first_seq);
        for tick in 1..=self.tick + 1 {
            let since = |seq: &u64| self.told(*seq).tick >= tick;
            let first = (kept..=self.head()).find(since).unwrap_or(self.head() + 1);
            assert_eq!(self.past.first_since(tick), first, "since {tick}");
            let is_whole = tick > GONE_TICK && !(FIRST_SEQ + 1..kept).any(|seq| since(&seq));
            assert_eq!(self.past.is_whole_since(tick), is_whole, "since {tick}");
        }
        let newest = self.told.last().map_or(GONE_TICK, |told| told.tick);
        assert_eq!(self.past.newest_tick(), newest);
    }

    /// The publications are those from `first` on; tells which is next.
    fn check_spans(&self, spans: &Spans, format: Format, first: u64) -> u64 {
        let mut next = first;
        for span in &spans.spans {
            assert_eq!(span.seq, next, "spans are adjacent");
            for record in Records::new(format, span.range.bytes()) {
                assert_eq!((record.seq, record.payload), (next, &self.told(next).payload[..]));
                next += 1;
            }
        }
        assert_eq!(spans.next_seq, next);
        next
    }

    fn page(&mut self, behind: u64, before: u64, format: Format) {
        let first = (self.past.lowest(self.now_ms) + behind).min(self.head() + 1);
        let end = (self.head() + 1 - before.min(self.head())).max(first);
        let mut cost = PageCost::default();
        let window = Window { first_seq: first, end_seq: end, bytes_max: PAGE_BYTES_MAX };
        let page = self.past.page(window, format, self.now_ms, &mut self.pool, &mut cost);
        let next = self.check_spans(&page, format, first);
        assert!(next > first || first == end, "a page has something if there is something");
        assert!(next <= end);
        assert!(page.spans.len() <= PAGE_SPANS_MAX);
        let bytes: usize = page.spans.iter().map(|span| span.range.len()).sum();
        let longest = page.spans.iter().map(|span| span.range.len()).max().unwrap_or(0);
        assert!(bytes <= PAGE_BYTES_MAX as usize + longest, "{bytes}");
        assert!(cost.price >= page.spans.len() as u64 * price::SPAN);
        assert!(cost.transcoded_bytes == 0 || format != self.past.encoding().format());
    }

    fn excerpt(&mut self, from: PastFrom, limit: u32) {
        let (spans, lowest, has_more) = self.past.excerpt(from, limit, self.now_ms);
        assert_eq!(lowest, self.past.lowest(self.now_ms));
        let there: Vec<u64> = (lowest..=self.head()).collect();
        let (asked, is_forward): (Vec<u64>, bool) = match from {
            PastFrom::Newest => (there, false),
            PastFrom::Before(seq) => (there.into_iter().filter(|it| *it < seq).collect(), false),
            PastFrom::After(seq) => (there.into_iter().filter(|it| *it > seq).collect(), true),
        };
        let first = spans.spans.first().map_or(spans.next_seq, |span| span.seq);
        let next = self.check_spans(&spans, self.past.encoding().format(), first);
        let got: Vec<u64> = (first..next).collect();
        let is_part = if is_forward { asked.starts_with(&got) } else { asked.ends_with(&got) };
        assert!(is_part && got.len() <= limit as usize, "{got:?} of {asked:?}");
        assert_eq!(has_more, limit > 0 && got.len() < asked.len(), "{got:?} of {asked:?}");
        let is_full = got.len() == (limit as usize).min(asked.len());
        let bytes: usize = got.iter().map(|seq| self.told(*seq).len).sum();
        assert!(is_full || bytes + 1_700 > PAGE_BYTES_MAX as usize, "{got:?} of {asked:?}");
        assert!(!got.is_empty() || limit == 0 || asked.is_empty(), "something comes if there is something");
    }
}

/// Longer than half of what the clock counts to before it wraps.
#[test]
fn what_is_kept_for_thirty_days_is_there() {
    const DAY_MS: u32 = 86_400_000;
    let ms_max = NonZeroU32::new(30 * DAY_MS);
    let (last_value, retain) = (LastValue::Nothing, false);
    let (count_max, bytes_max) = (u64::MAX, u64::MAX);
    let keep = Keep { count_max, bytes_max, ms_max, format: None, last_value, retain };
    let mut twin = Twin::new(keep, Format::Json);
    twin.publish(10, 0);
    for _ in 0..29 {
        twin.publish(10, DAY_MS);
        assert_eq!(twin.past.lowest(twin.now_ms), FIRST_SEQ + 1);
    }
    twin.publish(10, 2 * DAY_MS);
    assert_eq!(twin.past.lowest(twin.now_ms), FIRST_SEQ + 2);
}

proptest! {
    #![proptest_config(Config { rng_seed: RngSeed::Fixed(11), cases: 300, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_past_is_what_its_twin_remembers(
        keep in keep(),
        format in select(&Format::ALL[..]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut twin = Twin::new(keep, format);
        steps.iter().for_each(|step| twin.take(step));
        // Nothing is kept that nobody knows of.
        while twin.past.drop_oldest(&mut twin.pool).is_some() {}
        prop_assert_eq!(twin.pool.kept_bytes(), 0);
    }
}
