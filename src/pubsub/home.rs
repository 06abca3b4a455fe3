//! The home of topics: gives each publication its place and writes its bytes, once per encoding.
//!
//! A home never sees a subscriber, only which reactors have some, and which guests. What it wrote for a topic during a
//! turn stays one *open* range per lane for as long as it is contiguous, and goes out as one batch
//! per interested reactor when the home is flushed, or before anything whose place among the batches
//! matters.

mod dropping;
mod keyed_values;
mod tenants;
mod touring;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry},
    fmt,
    hash::BuildHasher,
    sync::Arc,
};

use foldhash::fast::RandomState;

use tenants::TenantTopics;

use super::{
    filter::FilterTree,
    keeping::Keeping,
    keyed::{Key, KeyWindows, Keyed},
    lanes::{Lane, Lanes},
    log::{Appender, Budget, ChunkPool, OWN_CHUNK_BYTES, SHARED_CHUNK_BYTES},
    message::{
        Delivery, Outboxes, Page, PageContent, PageFrom, PageRequest, PastAnswer, PastContent, PastFrom,
        PastRequest, PendingId, RegistrationId,
    },
    past::{KeyedValues, PAGE_BYTES_MAX, PageCost, Past, Spans, Window},
    table::Table,
};
use crate::{
    protocol::{
        Encoding, Format,
        command::PayloadKind,
        deflate::Deflater,
        publication::Publication,
        tenant,
        topic::{self, TopicName},
    },
    work::price,
};

/// The most guests of a broker: what takes part in publishing and subscribing without connections of a reactor.
pub const GUESTS_MAX: usize = 2;
/// The most reactors that a broker has: interest is a bit each, and guests have theirs behind those of the reactors.
pub const REACTORS_MAX: usize = 64 - GUESTS_MAX;
/// How many topics of a home may have a chunk of their own at a time, if an eighth of the budget is
/// enough for them.
const OWN_CHUNKS_MAX: usize = 256;
/// A topic that wrote so much lately gets a chunk of its own, so that its publications are contiguous.
const BUSY_BYTES: u32 = if cfg!(test) { 1 << 10 } else { 16 << 10 };
/// A topic whose recent bytes fell below this gives its chunk up.
const QUIET_BYTES: u32 = if cfg!(test) { 64 } else { 1 << 10 };
/// For so many topics there is room from the start.
const RESERVED_MAX: usize = if cfg!(test) { 4 } else { 1 << 20 };
/// How many topics one eviction looks at for an idle one, and one period for those that may go.
const EVICTION_PROBES: usize = 64;
/// After so many periods of [`Home::handle_period`] without a publication or somebody who leaves it, a topic may
/// go: about a minute.
const IDLE_PERIODS: u32 = if cfg!(test) { 8 } else { 240 };
/// How many blocks one eviction looks at, if no topic is idle.
const PASTS_PER_EVICTION: usize = 16;
/// How many publications that were known by a key are forgotten in a period.
const KEYS_PER_PERIOD: usize = if cfg!(test) { 16 } else { 256 };

/// So many changes of filters are remembered, for topics whose matches are not much older.
const CHANGES_MAX: usize = if cfg!(test) { 4 } else { 64 };

/// The topics whose name hashes to one reactor.
///
/// Its tables of topics keep the size that they once had, as memory for the next: what they hold is
/// bounded by `limits.topics_max`, and making them smaller would move all of it at once.
#[derive(Debug)]
pub struct Home {
    topics: slab::Slab<HomeTopic>,
    /// One more than the highest key that a topic ever had.
    topics_end: usize,
    by_name: Table<Arc<str>, usize>,
    topics_max: usize,
    /// How many topics somebody may answer for; 0 is no limit.
    names_max: usize,
    /// For how many topics each creator answers: those that are there, and at least one.
    names: HashMap<u32, u32, RandomState>,
    tenants: TenantTopics,
    /// The ports of reactors, a bit each.
    reactors: u64,
    filters: FilterTree<Interested>,
    /// Counts changes of `filters`: a topic's cached matches are of one generation.
    filters_generation: u64,
    /// The last of them, the newest last.
    changes: VecDeque<Change>,
    /// Topics with an open range.
    dirty: Vec<usize>,
    shared: [Option<Appender>; Encoding::COUNT],
    keeping: Keeping,
    /// The topics that keep something, each of their blocks by what the clock of what is kept showed when it was begun; but
    /// none that a value is in.
    blocks: BTreeMap<u64, usize>,
    /// Pasts that no topic has any more, of which the blocks go bit by bit: until then those may be in `blocks`.
    leaving: VecDeque<Past>,
    /// Values by key that no topic has any more, which go bit by bit likewise.
    leaving_values: VecDeque<Box<KeyedValues>>,
    /// When the oldest block of a topic may be needless, in milliseconds, and which topic: as its past knows.
    expiring: BTreeSet<(u64, usize)>,
    /// Topics of whose past something may be there in a second format.
    transcoded: VecDeque<usize>,
    /// Topics with a past, in the order of their names.
    pasts: BTreeMap<Arc<str>, usize>,
    /// Counts the moments that somebody may come back to: see [`touring`].
    tick: u64,
    /// How many publications there had been when it last rose.
    ticked_publications: u64,
    /// In no later tick was anything published to a topic that was evicted.
    evicted_tick_max: u64,
    /// Topics with a value.
    value_count: usize,
    transcoded_bytes_total: u64,
    /// The time of this turn, in milliseconds.
    now_ms: u64,
    /// The same in milliseconds since the Unix epoch, as the wall clock has it.
    wall_ms: u64,
    /// Topics with a chunk of their own.
    owners: Vec<usize>,
    owners_max: usize,
    pool: ChunkPool,
    /// Time in periods of [`Home::handle_period`], for fading what a topic wrote lately.
    period: u32,
    /// No topic that was evicted had a higher `seq`: where one that comes back goes on.
    evicted_seq_max: u64,
    eviction_hand: usize,
    /// Which topic is looked at next for whether it was idle for too long.
    idle_hand: usize,
    publications_total: u64,
    keyed: Keyed,
    key_windows: KeyWindows,
    duplicates_total: u64,
    /// What was done since it was last asked for, as a price.
    work: u64,
}

/// A topic, in two cache lines that are fetched together: a publication in one lane touches no others of its home's.
#[derive(Debug)]
#[repr(align(128))]
struct HomeTopic {
    name: Arc<str>,
    seq: u64,
    lanes: Lanes,
    /// Of which state of the filters the lanes' matches are.
    filters_generation: u64,
    recent: Recent,
    past: Option<Box<Past>>,
    /// Who answers for it; 0 is nobody.
    creator: u32,
    /// Of which generation of what is to be kept the past is.
    keeping_generation: u16,
    flags: Flags,
}

// What nobody receives costs a topic no more, however many encodings there are.
const _: () = assert!(size_of::<HomeTopic>() == 128);

/// What is so of a topic, a bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Flags(u8);

/// It is listed as one with an open range.
const DIRTY: u8 = 1;
/// It is listed as one that may have chunks of its own.
const OWNER: u8 = 2;
/// Its messages are stamped with their time; as up to date as its `keeping_generation`.
const STAMPED: u8 = 4;
/// Its messages say who published them.
const NAMED: u8 = 8;

/// What a topic wrote lately, beside its past: half of it is forgotten with each period.
#[derive(Debug)]
struct Recent {
    bytes: u32,
    /// The period in which it was made, last published to, last left by a reactor, or last had a chunk of its own.
    period: u32,
}

/// A reactor or a guest, by its port, that wants the batches of a filter, in an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interested {
    port: u8,
    encoding: Encoding,
}

/// A filter that came or went.
#[derive(Debug)]
struct Change {
    filter: Arc<str>,
    interested: Interested,
    is_added: bool,
}

/// Which reactor is a topic's home.
#[derive(Clone, Debug)]
pub struct Homes {
    pub(super) count: usize,
    hasher: foldhash::fast::FixedState,
}

/// Why a topic is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicRefusal {
    /// The home has as many topics as it may, and found none that is idle.
    TopicsMax,
    /// Whoever wants it answers for as many topics of the home as one may.
    NamesMax,
    /// Its tenant has as many topics of the home as it may.
    TenantMax,
    /// It is there, and there is no room to keep its value.
    ValuesMax,
}

/// Why nothing is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishRefusal {
    /// The topic does not take it.
    Topic(TopicRefusal),
    /// It was to be retained, and the topic has no value.
    NotRetained,
    /// A key was given, and none is remembered of the topic's publications.
    NoKeys,
}

impl fmt::Display for TopicRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TopicRefusal::TopicsMax => "this broker has as many topics as limits.topics_max allows",
            TopicRefusal::NamesMax => {
                "this connection has brought as many topics into being as limits.names_per_connection_max allows"
            }
            TopicRefusal::TenantMax => "the tenant of this connection has as many topics as its topics_max in [tenants] allows",
            TopicRefusal::ValuesMax => {
                "topics' values take as much of this broker as history.bytes_max allows: what takes no more than this topic's \
                 value before, and a null, is allowed"
            }
        })
    }
}

/// What is to be published, before it has a place.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The publisher's bytes.
    pub payload: &'a [u8],
    /// What `payload` is.
    pub kind: PayloadKind,
    /// Who publishes it, if somebody with a name does: topics that are stamped with that say so.
    pub user: Option<&'a str>,
}

/// Where a publication is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its place in the topic's order.
    pub seq: u64,
    /// It was there before: nothing was published now.
    pub is_duplicate: bool,
}

impl<'a> Draft<'a> {
    /// Of somebody without a name.
    pub fn anonymous(payload: &'a [u8], kind: PayloadKind) -> Draft<'a> {
        Draft { payload, kind, user: None }
    }

    /// Whether it is to clear a topic's value.
    fn is_null(&self) -> bool {
        self.kind.is_null(self.payload)
    }
}

impl From<TopicRefusal> for PublishRefusal {
    fn from(refusal: TopicRefusal) -> PublishRefusal {
        PublishRefusal::Topic(refusal)
    }
}

impl fmt::Display for PublishRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishRefusal::Topic(refusal) => refusal.fmt(f),
            PublishRefusal::NoKeys => f.write_str(
                "this broker remembers no `key` of this topic's publications, since its key_window_ms is 0: a publish without \
                 `key` is allowed",
            ),
            PublishRefusal::NotRetained => f.write_str(
                "this broker retains nothing of this topic: `retain` is allowed where a [[topic]] sets retain = \"clients\" or \
                 last_value = true",
            ),
        }
    }
}

impl Homes {
    /// `count` homes; `seed` must be the same on all reactors.
    pub fn new(count: usize, seed: u64) -> Homes {
        Homes { count, hasher: foldhash::fast::FixedState::with_seed(seed) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The home of `topic`.
    pub fn of(&self, topic: TopicName<&str>) -> usize {
        let hash = self.hasher.hash_one(topic.as_str());
        (((hash >> 32) * self.count as u64) >> 32) as usize
    }

    /// A number for `key` that is spread evenly, the same for the same `salt`.
    pub fn spread(&self, key: u32, salt: u64) -> u64 {
        self.hasher.hash_one((key, salt)) >> 16
    }
}

impl Home {
    /// One of `home_count` homes, of at most `topics_max` topics and `names_max` of each creator (0: no limit),
    /// whose chunks count against `budget`; `encoding_count` is how many encodings its subscribers may have.
    pub fn new(
        home_count: usize,
        topics_max: usize,
        names_max: usize,
        encoding_count: usize,
        budget: Arc<Budget>,
    ) -> Home {
        let own_chunks = budget.bytes_max() / 8 / home_count / (encoding_count * OWN_CHUNK_BYTES);
        Home {
            owners_max: own_chunks.min(OWN_CHUNKS_MAX),
            // As address space: a table that grows would move all of it.
            topics: slab::Slab::with_capacity(topics_max.min(RESERVED_MAX)),
            topics_end: 0,
            by_name: Table::default(),
            topics_max,
            names_max,
            names: HashMap::default(),
            tenants: TenantTopics::default(),
            reactors: u64::MAX >> (64 - home_count),
            filters: FilterTree::new(),
            filters_generation: 0,
            changes: VecDeque::with_capacity(CHANGES_MAX),
            dirty: Vec::new(),
            shared: Default::default(),
            keeping: Keeping::new([]),
            blocks: BTreeMap::new(),
            leaving: VecDeque::new(),
            leaving_values: VecDeque::new(),
            expiring: BTreeSet::new(),
            transcoded: VecDeque::new(),
            pasts: BTreeMap::new(),
            tick: 1,
            ticked_publications: 0,
            evicted_tick_max: 0,
            value_count: 0,
            transcoded_bytes_total: 0,
            now_ms: 0,
            wall_ms: 0,
            owners: Vec::new(),
            pool: ChunkPool::new(budget),
            period: 0,
            evicted_seq_max: 0,
            eviction_hand: 0,
            idle_hand: 0,
            publications_total: 0,
            keyed: Keyed::new(usize::MAX),
            key_windows: KeyWindows::new(0, []),
            duplicates_total: 0,
            work: 0,
        }
    }

    /// From now on a creator may answer for so many topics; 0 is no limit. Those that are there stay.
    pub fn set_names_max(&mut self, names_max: usize) {
        self.names_max = names_max;
    }

    /// From now on each of these tenants, by the first level of their topics' names inside, may have so many topics; 0 and those that
    /// are not there have no limit. Topics that are there stay.
    pub fn set_tenants(&mut self, topics_max: impl IntoIterator<Item = (Box<str>, u32)>) {
        self.tenants.set_limits(topics_max);
    }

    /// From now on topics keep and stamp what `keeping` says: each from when it is next published to, or its past is next asked for.
    pub fn set_keeping(&mut self, keeping: Keeping) {
        self.keeping = keeping.after(&self.keeping);
        // What was evicted, or not kept, may be to be kept now, and would have been lost.
        self.evicted_tick_max = self.raise_tick() - 1;
    }

    /// What topics keep.
    pub fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// From now on publications are remembered by their keys for as long as `windows` says, and `count_max` of them at most.
    /// Those that are remembered stay as long as was said before, unless they are too many.
    pub fn set_key_windows(&mut self, windows: KeyWindows, count_max: usize) {
        self.key_windows = windows;
        self.keyed.set_count_max(count_max);
    }

    /// A turn begins at `now_ms`, when the wall clock shows `wall_ms` since the Unix epoch.
    pub fn begin_turn(&mut self, now_ms: u64, wall_ms: u64) {
        self.now_ms = now_ms;
        self.wall_ms = wall_ms;
    }

    /// The price of what filters, new topics and compressing have cost since the last call. What a publication costs
    /// whatever strangers have set up is not in it.
    pub fn take_work(&mut self) -> u64 {
        std::mem::take(&mut self.work)
    }

    /// How many topics live here.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Publications sequenced since the start.
    pub fn publications_total(&self) -> u64 {
        self.publications_total
    }

    /// Publications that were there already, by their keys, and were not published again, since the start.
    pub fn duplicates_total(&self) -> u64 {
        self.duplicates_total
    }

    /// How many publications are remembered by their keys.
    pub fn key_count(&self) -> usize {
        self.keyed.len()
    }

    /// For how long a publication is remembered by its key, in milliseconds: as is said of topics of which nothing else is
    /// said, or less where those that are remembered have to make room.
    pub fn key_window_ms(&self) -> u64 {
        self.keyed.room_ms(self.now_ms).unwrap_or(u64::from(self.key_windows.default_ms()))
    }

    /// The chunks of this home, in bytes.
    pub fn log_bytes(&self) -> usize {
        self.pool.allocated_bytes()
    }

    /// What its topics keep of their past, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.pool.kept_bytes()
    }

    /// Bytes that came of transcoding what is kept, since the start.
    pub fn transcoded_bytes_total(&self) -> u64 {
        self.transcoded_bytes_total
    }

    /// How many topics keep one.
    pub fn past_count(&self) -> usize {
        self.pasts.len()
    }

    /// Gives a publication its `seq` and writes it in every encoding that somebody receives.
    ///
    /// If the topic is new, `creator` answers for it until it goes: a number that the caller chose for whoever
    /// publishes, or 0 for nobody. Where all filters had to be looked at the publication is handed over at once: those
    /// whom it goes to have to look at theirs as well, and it is known then for whom that is done.
    ///
    /// # Errors
    /// [`TopicRefusal`]: nothing was published.
    pub fn handle_publish(
        &mut self,
        topic: TopicName<&str>,
        draft: Draft<'_>,
        creator: u32,
        deflater: &mut Deflater,
        outboxes: &mut Outboxes,
    ) -> Result<u64, TopicRefusal> {
        let key = match self.by_name.get(topic.as_str()) {
            Some(key) => key,
            None => {
                self.admit_new(&topic, draft, false)?;
                self.create(&topic, creator)?
            }
        };
        let is_matched_anew = self.match_filters(key);
        self.follow_keeping(key);
        let value_key = match self.topics[key].past.is_some() {
            true => self.admit_value(key, draft)?,
            false => None,
        };
        let topic = &mut self.topics[key];
        topic.recent.fade(self.period);
        topic.seq += 1;
        self.publications_total += 1;
        self.write(key, draft, deflater, outboxes);
        if let Some(value_key) = value_key {
            self.keep_keyed(key, value_key, draft);
        }
        if is_matched_anew {
            self.flush_topic(key, outboxes);
        }
        Ok(self.topics[key].seq)
    }

    /// Publishes as [`Home::handle_publish`] does, unless a publication of this topic is remembered by the same `key`: then
    /// nothing is done, and that is the one that is told.
    ///
    /// # Errors
    /// [`PublishRefusal`]: nothing was published, and nothing is remembered.
    #[expect(clippy::too_many_arguments, reason = "a publication, and what it takes to publish it")]
    pub fn handle_publish_once(
        &mut self,
        topic: TopicName<&str>,
        key: Key<'_>,
        retain: bool,
        draft: Draft<'_>,
        creator: u32,
        deflater: &mut Deflater,
        outboxes: &mut Outboxes,
    ) -> Result<Placed, PublishRefusal> {
        let (window_ms, visited) = self.key_windows.window_of(&topic);
        self.work += price::KEY + u64::from(visited) * price::NODE;
        let window_ms = window_ms.ok_or(PublishRefusal::NoKeys)?;
        let fingerprint = self.keyed.fingerprint(&topic, key);
        if let Some(seq) = self.keyed.seq_of(fingerprint, self.now_ms) {
            self.duplicates_total += 1;
            return Ok(Placed { seq, is_duplicate: true });
        }
        let seq = match retain {
            false => self.handle_publish(topic, draft, creator, deflater, outboxes)?,
            true => self.handle_retain(topic, draft, creator, deflater, outboxes)?,
        };
        self.keyed.remember(fingerprint, seq, window_ms, self.now_ms);
        Ok(Placed { seq, is_duplicate: false })
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
        let Some(key) = self.by_name.get(topic) else { return 0 };
        self.flush_topic(key, outboxes);
        self.match_filters(key);
        let topic = &self.topics[key];
        let ports = topic.lanes.iter().fold(0, |ports, lane| ports | lane.interest());
        // Who looks on as a guest is nobody's receiver.
        let reactors = ports & self.reactors;
        for reactor in bits(reactors) {
            outboxes[reactor].push_back(Delivery::Count { topic: topic.name.clone(), asker, pending });
        }
        reactors.count_ones()
    }

    /// Registers who is at `port` for `topic` and answers with the topic's `seq`, after all batches up to it; or with
    /// why there is no such topic. `creator` as in [`Home::handle_publish`].
    pub fn handle_subscribe(
        &mut self,
        port: usize,
        topic: TopicName<&str>,
        encoding: Encoding,
        creator: u32,
        outboxes: &mut Outboxes,
    ) {
        let answer = match self.find_or_create(&topic, creator) {
            Ok(key) => {
                self.flush_topic(key, outboxes);
                let topic = &mut self.topics[key];
                topic.lanes.get_or_insert(encoding).exact |= 1 << port;
                Delivery::Subscribed { topic: topic.name.clone(), encoding, seq: Ok(topic.seq) }
            }
            Err(refusal) => {
                Delivery::Subscribed { topic: topic.as_str().into(), encoding, seq: Err(refusal) }
            }
        };
        outboxes[port].push_back(answer);
    }

    /// Hands a page of the topic's past over, after all batches of what was published so far, and registers who is at `port`,
    /// as [`Home::handle_subscribe`] does: with the first page, so that the topic stays until the last is there.
    pub fn handle_page(&mut self, port: usize, request: PageRequest, outboxes: &mut Outboxes) {
        self.work += price::PAGE;
        let PageRequest { topic, encoding, from, connection, replay, creator } = request;
        let found = self.find_or_create(&topic, creator);
        let content = found.map(|key| {
            self.flush_topic(key, outboxes);
            let content = self.page(key, from, encoding.format());
            self.topics[key].lanes.get_or_insert(encoding).exact |= 1 << port;
            content
        });
        outboxes[port].push_back(Delivery::Page(Box::new(Page {
            topic,
            encoding,
            connection,
            replay,
            content,
        })));
    }

    fn page(&mut self, key: usize, from: PageFrom, format: Format) -> PageContent {
        self.follow_keeping(key);
        if let Some(content) = self.page_of_keyed(key, from, format) {
            return content;
        }
        let topic = &mut self.topics[key];
        let (head, now_ms) = (topic.seq, self.now_ms as u32);
        let Some(past) = &mut topic.past else {
            // Nothing that was before the head can be had; what was asked for before it is missed.
            let gap = from.due_from().and_then(|seq| gap_of(seq, head + 1));
            return PageContent::empty(from, gap, head);
        };
        let lowest = past.lowest(now_ms);
        let mut is_recovered = false;
        // The newest so many; where that is not said it is the value, if that is the newest.
        let newest = |last: Option<u32>| {
            let count = last.map_or(u64::from(past.is_newest_value()), u64::from);
            (lowest.max((head + 1).saturating_sub(count)), None)
        };
        let (first, gap) = match from {
            PageFrom::Start { since: Some(since), .. } if since <= head && since + 1 >= lowest => {
                is_recovered = true;
                (since + 1, None)
            }
            PageFrom::Start { last, .. } => newest(last),
            PageFrom::Value => newest(None),
            PageFrom::Next(_) | PageFrom::NextValue { .. } => {
                let seq = from.due_from().expect("it goes on from somewhere");
                (seq.max(lowest), gap_of(seq, lowest))
            }
        };
        let (had_pieces, mut cost) = (past.has_pieces(), PageCost::default());
        let is_value = first > head && !is_recovered && from.takes_value() && past.has_retained();
        let window = Window { first_seq: first, end_seq: head + 1, bytes_max: PAGE_BYTES_MAX };
        let (spans, count) = match is_value {
            true => (past.page_of_retained(format, &mut self.pool, &mut cost), 1),
            false => (past.page(window, format, now_ms, &mut self.pool, &mut cost), head + 1 - first),
        };
        if past.has_pieces() && !had_pieces {
            self.transcoded.push_back(key);
        }
        self.work += cost.price;
        self.transcoded_bytes_total += cost.transcoded_bytes;
        self.make_up_for(cost.transcoded_bytes as usize);
        let is_last = is_value || spans.next_seq > head;
        let first_seq = spans.spans.first().map_or(spans.next_seq, |span| span.seq);
        let (page_count, next) = (spans.next_seq - first_seq, from.next(spans.next_seq));
        PageContent { spans, page_count, next, count, gap, head, is_recovered, is_last }
    }

    /// Hands publications of the topic's past over to whoever wants them for an answer.
    pub fn handle_past(&mut self, port: usize, request: &PastRequest, outboxes: &mut Outboxes) {
        self.work += price::PAGE;
        let PastRequest { ref topic, from, limit, pending } = *request;
        let content = match self.by_name.get(&**topic) {
            Some(key) => {
                self.follow_keeping(key);
                self.excerpt(key, from, limit)
            }
            None => self.empty_excerpt(topic),
        };
        outboxes[port].push_back(Delivery::Past(Box::new(PastAnswer { pending, content })));
    }

    fn excerpt(&mut self, key: usize, from: PastFrom, limit: u32) -> Option<PastContent> {
        self.drop_old_keyed(key);
        let topic = &self.topics[key];
        let past = topic.past.as_ref()?;
        let (spans, lowest, has_more) = past.excerpt(from, limit, self.now_ms as u32);
        self.work += spans.spans.len() as u64 * price::SPAN;
        Some(PastContent { spans, format: past.encoding().format(), head: topic.seq, lowest, has_more })
    }

    /// Of a topic that is not there, which would keep something: where it would begin, so that it is a place to come back to.
    fn empty_excerpt(&mut self, topic: &str) -> Option<PastContent> {
        let (keys, visited) = self.keeping.keys_of(topic);
        self.work += u64::from(visited) * price::NODE;
        let head = self.evicted_seq_max;
        let spans = Spans { spans: Vec::new(), next_seq: head + 1 };
        keys.keep().map(|_| PastContent {
            spans,
            format: Format::Json,
            head,
            lowest: head + 1,
            has_more: false,
        })
    }

    /// Undoes [`Home::handle_subscribe`].
    pub fn handle_unsubscribe(
        &mut self,
        port: usize,
        topic: &str,
        encoding: Encoding,
        outboxes: &mut Outboxes,
    ) {
        let Some(key) = self.by_name.get(topic) else { return };
        self.flush_topic(key, outboxes);
        let topic = &mut self.topics[key];
        topic.recent.fade(self.period);
        if let Some(lane) = topic.lanes.get_mut(encoding) {
            lane.exact &= !(1 << port);
            topic.lanes.prune();
        }
    }

    /// What was published to the topic before is in `outboxes` when this is done.
    pub fn handle_mark(&mut self, topic: &str, outboxes: &mut Outboxes) {
        if let Some(key) = self.by_name.get(topic) {
            self.flush_topic(key, outboxes);
        }
    }

    /// Registers who is at `port` for every topic that `filter` matches, now or later.
    pub fn handle_add_filter(
        &mut self,
        port: usize,
        filter: &Arc<str>,
        encoding: Encoding,
        registration: RegistrationId,
        outboxes: &mut Outboxes,
    ) {
        self.flush(outboxes);
        let interested = Interested { port: port as u8, encoding };
        if self.filters.insert(filter, interested) {
            self.note_change(Change { filter: filter.clone(), interested, is_added: true });
        }
        outboxes[port].push_back(Delivery::FilterAdded { registration });
    }

    /// Undoes [`Home::handle_add_filter`].
    pub fn handle_remove_filter(
        &mut self,
        port: usize,
        filter: &Arc<str>,
        encoding: Encoding,
        outboxes: &mut Outboxes,
    ) {
        self.flush(outboxes);
        let interested = Interested { port: port as u8, encoding };
        if self.filters.remove(filter, interested) {
            self.note_change(Change { filter: filter.clone(), interested, is_added: false });
        }
    }

    /// Hands over what was published since the last flush: once per turn.
    pub fn flush(&mut self, outboxes: &mut Outboxes) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.topics[key].flags.set(DIRTY, false);
            self.flush_topic(key, outboxes);
        }
        self.dirty = dirty;
    }

    /// Lets topics that went quiet give up their chunks, busy ones those that they write for nobody any more, and a
    /// few of those that were idle for long go. Called a few times per second.
    pub fn handle_period(&mut self) {
        self.period = self.period.wrapping_add(1);
        let mut owners = std::mem::take(&mut self.owners);
        owners.retain(|&key| {
            let topic = &mut self.topics[key];
            topic.recent.fade(self.period);
            let is_owner = topic.recent.bytes >= QUIET_BYTES || topic.flags.has(DIRTY);
            topic.flags.set(OWNER, is_owner);
            topic.lanes.retire_own(&mut self.pool, |lane| !is_owner || lane.interest() == 0);
            is_owner
        });
        self.owners = owners;
        self.drop_old();
        self.drop_idle();
        self.work += self.keyed.forget(KEYS_PER_PERIOD, self.now_ms) as u64 * price::FORGOTTEN_KEY;
        self.pool.trim();
    }

    /// Writes no chunk on that is begun: while the log is full, whoever keeps the old content of one can be made to let
    /// go of it only when nothing more is appended to it.
    pub fn seal(&mut self) {
        self.shared.iter_mut().filter_map(Option::take).for_each(|shared| self.pool.retire(shared));
        for &key in &self.owners {
            self.topics[key].lanes.retire_own(&mut self.pool, |_| true);
        }
    }

    /// Asserts the invariants; for tests and simulations.
    pub fn check(&self) {
        for (key, topic) in &self.topics {
            assert_eq!(self.by_name.get(&*topic.name), Some(key));
            let (is_dirty, is_owner) = (topic.flags.has(DIRTY), topic.flags.has(OWNER));
            assert_eq!(is_dirty, self.dirty.contains(&key), "a topic is listed as dirty if it is");
            assert_eq!(is_owner, self.owners.contains(&key), "a topic is listed as an owner if it is");
            topic.lanes.check();
            let is_handed_over = topic.lanes.iter().all(|lane| lane.open.is_empty());
            assert!(is_dirty || is_handed_over, "what is open is handed over");
            let is_matched = topic.filters_generation == self.filters_generation;
            assert!(
                is_matched || is_handed_over,
                "what is open goes to those who wanted it when it was written"
            );
            assert!(is_owner || topic.lanes.iter().all(|lane| lane.own.is_none()), "only owners have chunks");
        }
        let mut blocks = BTreeMap::new();
        let (mut value_count, mut value_bytes) = (0, 0);
        for (key, topic) in &self.topics {
            if let Some(past) = &topic.past {
                past.check(topic.seq);
                let may_go = past.clocks().filter(|clock| past.noted.block != Some(*clock));
                blocks.extend(may_go.map(|clock| (clock, key)));
                value_count += usize::from(past.has_value());
                value_bytes += past.noted.bytes;
            }
        }
        let mut listed = self.blocks.clone();
        self.leaving.iter().flat_map(Past::clocks).for_each(|clock| _ = listed.remove(&clock));
        assert_eq!(listed, blocks, "blocks are listed as long as they are there and may go");
        assert_eq!((self.value_count, self.pool.value_bytes()), (value_count, value_bytes));
        let due = |(key, topic): (usize, &HomeTopic)| Some((topic.past.as_ref()?.due_ms, key));
        let expiring = self.topics.iter().filter_map(due).filter(|(due_ms, _)| *due_ms > 0);
        assert_eq!(self.expiring, expiring.collect(), "who is to be looked at is known once");
        let pasts = self.topics.iter().filter(|(_, topic)| topic.past.is_some());
        assert_eq!(self.pasts, pasts.map(|(key, topic)| (topic.name.clone(), key)).collect());
        assert_eq!(self.topics.len(), self.by_name.len());
        assert!(self.topics.len() <= self.topics_max);
        let mut names = HashMap::default();
        for (_, topic) in self.topics.iter().filter(|(_, topic)| topic.creator != 0) {
            *names.entry(topic.creator).or_default() += 1;
        }
        self.keyed.check();
        self.tenants.check(self.topics.iter().map(|(key, topic)| (&*topic.name, key)));
        assert_eq!(self.names, names, "who answers for topics has as many as are counted");
    }

    /// How many reactors' interests by name there are, and whether there are filters; for tests.
    pub fn interest_count(&self) -> usize {
        let lanes = self.topics.iter().flat_map(|(_, topic)| topic.lanes.iter());
        let exact_count: usize = lanes.map(|lane| lane.exact.count_ones() as usize).sum();
        exact_count + usize::from(!self.filters.is_empty())
    }

    /// Returns chunks that nothing refers to any more to the allocator, a few of them at a time.
    pub fn release_free_chunks(&mut self) {
        self.pool.release_free();
    }

    fn find_or_create(&mut self, name: &str, creator: u32) -> Result<usize, TopicRefusal> {
        match self.by_name.get(name) {
            Some(key) => Ok(key),
            None => self.create(name, creator),
        }
    }

    fn create(&mut self, name: &str, creator: u32) -> Result<usize, TopicRefusal> {
        let name_count = self.names.get(&creator).map_or(0, |&count| count as usize);
        if self.names_max > 0 && name_count >= self.names_max {
            return Err(TopicRefusal::NamesMax);
        }
        if !self.tenants.has_room(name) {
            self.evict_of_tenant(name)?;
        }
        if self.topics.len() >= self.topics_max {
            self.evict_one()?;
        }
        self.work += price::TOPIC;
        let name: Arc<str> = name.into();
        let key = self.topics.insert(HomeTopic {
            name: name.clone(),
            seq: self.evicted_seq_max,
            lanes: Lanes::default(),
            past: None,
            // None yet: nothing was published to it.
            keeping_generation: 0,
            // No generation yet: the first publication looks for filters.
            filters_generation: u64::MAX,
            recent: Recent { bytes: 0, period: self.period },
            creator,
            flags: Flags::default(),
        });
        self.topics_end = self.topics_end.max(key + 1);
        self.by_name.insert(name.clone(), key);
        self.tenants.note_made(&name, key);
        if creator != 0 {
            *self.names.entry(creator).or_default() += 1;
        }
        Ok(key)
    }

    /// Drops the next topic that is idle, to make room for another.
    fn evict_one(&mut self) -> Result<(), TopicRefusal> {
        let mut keeping = None;
        for _ in 0..EVICTION_PROBES.min(self.topics_end) {
            let key = self.eviction_hand % self.topics_end;
            self.eviction_hand = key + 1;
            self.work += price::LOOK;
            let Some(topic) = self.topics.get(key) else { continue };
            if topic.is_idle() {
                self.drop_topic(key);
                return Ok(());
            }
            if topic.is_unused() && !topic.has_value() {
                keeping.get_or_insert(key);
            }
        }
        // What a topic keeps gives way to another topic, the oldest first; whoever comes back for it is told. Where the oldest
        // are of topics that are in use it is whichever the hand came by.
        self.work += PASTS_PER_EVICTION as u64 * price::LOOK;
        let mut oldest = self.blocks.iter().take(PASTS_PER_EVICTION);
        let may_go = |topic: &HomeTopic| topic.is_unused() && !topic.has_value();
        // A block that is leaving was of a topic that is gone, in whose place another may be.
        let is_its = |topic: &HomeTopic, clock| topic.past.as_ref().is_some_and(|past| past.has_block(clock));
        let oldest = oldest.find(|&(&clock, &key)| {
            self.topics.get(key).is_some_and(|topic| may_go(topic) && is_its(topic, clock))
        });
        let key = oldest.map(|(_, &key)| key).or(keeping).ok_or(TopicRefusal::TopicsMax)?;
        self.drop_topic(key);
        Ok(())
    }

    /// Drops those of the next few topics that are idle and were so for long. What they keep goes by what is said of it now,
    /// also where nobody publishes to them any more.
    fn drop_idle(&mut self) {
        for _ in 0..EVICTION_PROBES.min(self.topics_end) {
            let key = self.idle_hand % self.topics_end;
            self.idle_hand = key + 1;
            self.work += price::LOOK;
            if self.topics.get(key).is_some_and(|topic| topic.past.is_some()) && !self.is_letting_go() {
                self.follow_keeping(key);
            }
            // As long as there is room nobody's numbering is cut off for having been quiet.
            let is_crowded = self.topics.len() > self.topics_max / 4 * 3;
            let is_over = |topic: &HomeTopic| {
                is_crowded && topic.is_idle() && self.period.wrapping_sub(topic.recent.period) >= IDLE_PERIODS
            };
            if self.topics.get(key).is_some_and(is_over) {
                self.drop_topic(key);
            }
        }
    }

    fn drop_topic(&mut self, key: usize) {
        if let Some(past) = &self.topics[key].past {
            self.evicted_tick_max = self.evicted_tick_max.max(past.newest_tick());
        }
        self.drop_past(key);
        let topic = self.topics.remove(key);
        self.by_name.remove(&*topic.name);
        self.tenants.note_gone(&topic.name, key);
        self.evicted_seq_max = self.evicted_seq_max.max(topic.seq);
        if let Entry::Occupied(mut names) = self.names.entry(topic.creator) {
            *names.get_mut() -= 1;
            if *names.get() == 0 {
                names.remove();
            }
        }
    }

    fn note_change(&mut self, change: Change) {
        self.work += topic::level_count(&change.filter) as u64 * price::NODE;
        self.filters_generation += 1;
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Brings the topic's matches up to the filters that there are; tells whether all of them had to be looked at.
    #[inline]
    fn match_filters(&mut self, key: usize) -> bool {
        if self.topics[key].filters_generation == self.filters_generation || self.mend_matched(key) {
            return false;
        }
        self.match_anew(key);
        true
    }

    /// Brings them up to date by the changes that were made since; false if that is not enough to know.
    fn mend_matched(&mut self, key: usize) -> bool {
        let topic = &mut self.topics[key];
        // A topic that is new was never behind: this is more than are remembered.
        let missed = self.filters_generation.wrapping_sub(topic.filters_generation);
        if missed > self.changes.len() as u64 {
            return false;
        }
        for change in self.changes.iter().skip(self.changes.len() - missed as usize) {
            self.work += price::CHANGE;
            if !topic::matches(&change.filter, &topic.name) {
                continue;
            }
            if !change.is_added {
                // Another filter of the same reactor may match as well.
                return false;
            }
            change.interested.note(&mut topic.lanes);
        }
        topic.filters_generation = self.filters_generation;
        true
    }

    fn match_anew(&mut self, key: usize) {
        let topic = &mut self.topics[key];
        topic.filters_generation = self.filters_generation;
        topic.lanes.iter_mut().for_each(|lane| lane.matched = 0);
        let lanes = &mut topic.lanes;
        let visited = self.filters.for_each_match(&topic.name, |interested| interested.note(lanes));
        topic.lanes.prune();
        self.work += u64::from(visited) * price::NODE;
    }

    /// Has the topic keep and stamp what is said of it now.
    #[inline]
    fn follow_keeping(&mut self, key: usize) {
        if self.topics[key].keeping_generation != self.keeping.generation() {
            self.keep_anew(key);
        }
    }

    fn keep_anew(&mut self, key: usize) {
        let topic = &mut self.topics[key];
        // What was published to it before, to whichever of that name, is gone.
        let gone_tick = if topic.keeping_generation == 0 { self.evicted_tick_max } else { self.tick };
        topic.keeping_generation = self.keeping.generation();
        topic.flags.set(STAMPED, false);
        topic.flags.set(NAMED, false);
        if !self.keeping.sets_any() && topic.past.is_none() {
            return;
        }
        let (keys, visited) = self.keeping.keys_of(&topic.name);
        self.work += u64::from(visited) * price::NODE;
        let stamps = keys.stamps();
        topic.flags.set(STAMPED, stamps.time);
        topic.flags.set(NAMED, stamps.user);
        match (keys.keep(), &mut topic.past) {
            (Some(keep), Some(past)) => {
                let gone = past.set_keep(keep, self.keeping.value_keys_max(), &mut self.pool);
                let has_records = past.has_records();
                self.leave(gone);
                if !has_records {
                    self.drop_records(key);
                }
                self.note_value(key);
                self.expect_expiry_anew(key);
            }
            (Some(keep), None) => {
                let format = keep.format.unwrap_or_else(|| topic.wanted_format());
                let mut past = Box::new(Past::new(keep, format, topic.seq, gone_tick));
                past.follow_keyed(self.keeping.value_keys_max());
                topic.past = Some(past);
                self.pasts.insert(topic.name.clone(), key);
            }
            (None, Some(_)) => self.drop_past(key),
            (None, None) => {}
        }
    }

    /// Writes the topic's newest publication where its past is, which whoever receives that encoding shares.
    fn write_kept(&mut self, key: usize, draft: Draft<'_>, outboxes: &mut Outboxes) {
        let topic = &mut self.topics[key];
        let past = topic.past.as_mut().expect("it keeps one");
        let encoding = past.encoding();
        let publication = place(&topic.name, topic.flags, topic.seq, draft, self.wall_ms);
        let len = publication.encoded_len(encoding.format());
        let fill = |room: &mut [u8]| publication.encode(encoding.format(), room);
        let is_null = draft.is_null();
        let is_value = past.keeps_newest() && !is_null;
        let blocks = &mut self.blocks;
        let mut begins = false;
        let on_begin = |clock| {
            if !is_value {
                blocks.insert(clock, key);
            }
            begins = true;
        };
        let appender = past.appender(len, &mut self.pool, on_begin);
        let block_bytes = appender.capacity();
        match topic.lanes.get_mut(encoding).filter(|lane| lane.interest() != 0) {
            Some(lane) => {
                if !lane.open.is_continued_by(appender) {
                    let reactors = lane.interest();
                    lane.open.hand_over(&topic.name, reactors, outboxes);
                    if !topic.flags.has(DIRTY) {
                        topic.flags.set(DIRTY, true);
                        self.dirty.push(key);
                    }
                }
                lane.open.write(appender, publication.seq, len, fill);
            }
            None => appender.write(len, fill),
        }
        let (seq, written) = (publication.seq, (self.now_ms as u32, self.tick));
        past.set_cleared(is_null);
        let has_more = past.note(len, seq, written, &mut self.pool, |clock| _ = blocks.remove(&clock));
        if past.keeps_newest() {
            self.note_value(key);
        }
        if has_more {
            self.expect_expiry_anew(key);
        }
        if begins {
            self.expect_expiry(key);
            self.make_up_for(block_bytes);
        }
    }

    /// Writes the topic's newest publication in each encoding that somebody receives.
    fn write(&mut self, key: usize, draft: Draft<'_>, deflater: &mut Deflater, outboxes: &mut Outboxes) {
        let topic = &mut self.topics[key];
        let kept = match &mut topic.past {
            Some(past) if past.has_records() => Some(past.encoding()),
            Some(past) => {
                past.follow(topic.seq, self.tick);
                None
            }
            None => None,
        };
        if kept.is_some() {
            self.write_kept(key, draft, outboxes);
        }
        let topic = &mut self.topics[key];
        let publication = place(&topic.name, topic.flags, topic.seq, draft, self.wall_ms);
        let is_to_write = |lane: &&mut Lane| lane.interest() != 0 && Some(lane.encoding()) != kept;
        for lane in topic.lanes.iter_mut().filter(is_to_write) {
            let (encoding, reactors) = (lane.encoding(), lane.interest());
            let format = encoding.format();
            let deflated = match encoding.is_deflated() {
                true => {
                    self.work += publication.payload.len() as u64 * price::DEFLATED_BYTE;
                    deflater.publication(&publication, format)
                }
                false => None,
            };
            let len = deflated.map_or_else(|| publication.encoded_len(format), <[u8]>::len);
            let fill = |room: &mut [u8]| match deflated {
                Some(record) => room.copy_from_slice(record),
                None => publication.encode(format, room),
            };
            topic.recent.add(len, self.period);
            if !topic.flags.has(OWNER)
                && topic.recent.bytes >= BUSY_BYTES
                && self.owners.len() < self.owners_max
            {
                topic.flags.set(OWNER, true);
                self.owners.push(key);
            }
            let (appender, chunk_bytes) = match topic.flags.has(OWNER) {
                true => (&mut lane.own, OWN_CHUNK_BYTES),
                false => (&mut self.shared[encoding.index()], SHARED_CHUNK_BYTES),
            };
            let appender = self.pool.make_room(appender, len, chunk_bytes);
            if !lane.open.is_continued_by(appender) {
                lane.open.hand_over(&topic.name, reactors, outboxes);
                if !topic.flags.has(DIRTY) {
                    topic.flags.set(DIRTY, true);
                    self.dirty.push(key);
                }
            }
            lane.open.write(appender, publication.seq, len, fill);
        }
    }

    /// What is open of the topic goes out. It stays in `dirty`: handing over nothing is cheap.
    fn flush_topic(&mut self, key: usize, outboxes: &mut Outboxes) {
        let topic = &mut self.topics[key];
        topic.lanes.iter_mut().for_each(|lane| lane.hand_over(&topic.name, outboxes));
    }
}

impl Interested {
    fn note(self, lanes: &mut Lanes) {
        lanes.get_or_insert(self.encoding).matched |= 1 << self.port;
    }
}

impl HomeTopic {
    /// Whether it can go. One that only a filter keeps can: whoever matches it has a position at its head.
    fn is_idle(&self) -> bool {
        self.is_unused() && self.past.as_ref().is_none_or(|past| past.is_empty())
    }

    /// What becomes of `draft` in this topic at `seq`, when the wall clock shows `wall_ms`.
    fn publication<'a>(&'a self, seq: u64, draft: Draft<'a>, wall_ms: u64) -> Publication<'a> {
        place(&self.name, self.flags, seq, draft, wall_ms)
    }

    fn has_value(&self) -> bool {
        self.past.as_ref().is_some_and(|past| past.has_value())
    }

    /// Whether it could go but for what it keeps.
    fn is_unused(&self) -> bool {
        !self.flags.has(DIRTY) && !self.flags.has(OWNER) && self.lanes.iter().all(|lane| lane.exact == 0)
    }

    /// The format that somebody receives it in; JSON if nobody does.
    fn wanted_format(&self) -> Format {
        let wanted = self.lanes.iter().find(|lane| lane.interest() != 0);
        wanted.map_or(Format::Json, |lane| lane.encoding().format())
    }
}

impl Flags {
    fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    fn set(&mut self, flag: u8, is_so: bool) {
        self.0 = self.0 & !flag | if is_so { flag } else { 0 };
    }
}

impl Recent {
    /// Adds so many bytes.
    fn add(&mut self, len: usize, period: u32) {
        self.fade(period);
        self.bytes = self.bytes.saturating_add(len as u32);
    }

    /// Halves it for each period that has passed.
    fn fade(&mut self, period: u32) {
        let passed = period.wrapping_sub(self.period);
        self.bytes = self.bytes.checked_shr(passed).unwrap_or(0);
        self.period = period;
    }
}

/// What becomes of `draft` at `seq` of the topic of this name and these flags, when the wall clock shows `wall_ms`.
fn place<'a>(name: &'a str, flags: Flags, seq: u64, draft: Draft<'a>, wall_ms: u64) -> Publication<'a> {
    let Draft { payload, kind, user } = draft;
    let user = user.filter(|_| flags.has(NAMED));
    let time_ms = flags.has(STAMPED).then_some(wall_ms);
    Publication { topic: tenant::outer(name), seq, user, time_ms, payload, kind }
}

/// What is missing of the publications from `seq` on if there are none before `lowest`.
fn gap_of(seq: u64, lowest: u64) -> Option<(u64, u64)> {
    (seq < lowest).then(|| (seq, lowest - 1))
}

/// The places of the bits that are set, lowest first.
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(lowest)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet, VecDeque},
        num::NonZeroU32,
    };

    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;
    use crate::{
        protocol::{
            deflate::{Settings, twin},
            publication::Stamps,
            topic,
        },
        pubsub::{
            keeping::KeepKeys,
            message::{Counted, ReplayId, TourFrom, TourRequest, TourStart},
            subscription::ConnectionId,
        },
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
        /// As many of them as a topic may be idle.
        IdlePeriods,
        Seal,
        /// A reload says what topics below `a` are stamped with, of which one keeps something as well.
        Stamp(Stamps),
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
            1 => Just(Step::IdlePeriods),
            1 => Just(Step::Seal),
            1 => any::<(bool, bool)>().prop_map(|(user, time)| Step::Stamp(Stamps { user, time })),
        ]
    }

    /// What one reactor is to hear, in order.
    #[derive(Clone, Debug, PartialEq)]
    enum Heard {
        /// With the plain bytes, and whether it came compressed.
        Record(&'static str, Encoding, u64, Vec<u8>, bool),
        Subscribed(&'static str, Encoding, Result<u64, TopicRefusal>),
        FilterAdded(RegistrationId),
        Count(&'static str),
    }

    /// The naive twin: who wants what, and each publication told at once to whoever wants it.
    #[derive(Default)]
    struct Twin {
        /// Of the topics that are there.
        seqs: BTreeMap<&'static str, u64>,
        evicted_seq_max: u64,
        /// What topics below `a` are stamped with, and the time.
        stamps: Stamps,
        wall_ms: u64,
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

        /// The reactors that want it by name, and those by filter, a bit each.
        fn wanting(&self, name: &str, encoding: Encoding) -> (u64, u64) {
            let bits = |set: &BTreeSet<(usize, &str, usize)>, is_of: fn(&str, &str) -> bool| {
                let of = set.iter().filter(|it| it.2 == encoding.index() && is_of(it.1, name));
                of.fold(0, |bits, it| bits | 1 << it.0)
            };
            (bits(&self.exact, |it, name| it == name), bits(&self.filters, topic::matches))
        }

        /// Which topics go is the home's to choose, of those that nobody has by name.
        fn forget_evicted(&mut self, home: &Home) {
            let Twin { seqs, evicted_seq_max, exact, .. } = self;
            seqs.retain(|name, seq| {
                let is_there = home.by_name.get(*name).is_some();
                assert!(is_there || exact.iter().all(|it| it.1 != *name), "somebody has {name}");
                *evicted_seq_max = if is_there { *evicted_seq_max } else { (*evicted_seq_max).max(*seq) };
                is_there
            });
        }

        /// A topic that is up to date with the filters has the lanes that reactors want, and at most those besides
        /// in which it has a chunk; one that is not has had their matches once.
        fn check_lanes(&self, home: &Home) {
            for (_, topic) in &home.topics {
                let is_matched = topic.filters_generation == home.filters_generation;
                for encoding in Encoding::ALL {
                    let lane = topic.lanes.iter().find(|lane| lane.encoding() == encoding);
                    let (exact, matched) = self.wanting(&topic.name, encoding);
                    assert_eq!(lane.map_or(0, |lane| lane.exact), exact, "{}", topic.name);
                    assert!(!is_matched || lane.map_or(0, |lane| lane.matched) == matched, "{}", topic.name);
                }
            }
        }

        fn publish(&mut self, name: &'static str, payload: &[u8], user: Option<&str>) -> u64 {
            let seq = self.seqs.entry(name).or_insert(self.evicted_seq_max);
            *seq += 1;
            let Stamps { user: of_user, time: of_time } = self.stamps;
            let is_stamped = topic::matches("a/+", name);
            let user = user.filter(|_| is_stamped && of_user);
            let time_ms = (is_stamped && of_time).then_some(self.wall_ms);
            let kind = PayloadKind::Bytes;
            let publication = Publication { topic: name, seq: *seq, user, time_ms, payload, kind };
            let seq = *seq;
            for encoding in Encoding::ALL {
                let mut record = vec![0; publication.encoded_len(encoding.format())];
                publication.encode(encoding.format(), &mut record);
                // What is published here shrinks whenever it is tried.
                let message_len = publication.message_len(encoding.format());
                let is_deflated = encoding.is_deflated() && message_len >= SETTINGS.bytes_min;
                for reactor in 0..REACTORS {
                    if self.wants(reactor, name, encoding) {
                        self.heard[reactor].push(Heard::Record(
                            name,
                            encoding,
                            seq,
                            record.clone(),
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

    /// What the deliveries tell, record by record.
    fn hear(deliveries: &VecDeque<Delivery>) -> Vec<Heard> {
        let mut heard = Vec::new();
        for delivery in deliveries {
            match delivery {
                Delivery::Batch(batch) => {
                    let mut rest = batch.range.bytes();
                    for seq in batch.seq..batch.seq + u64::from(batch.count) {
                        let (record, more) = rest.split_at(batch.encoding.record_len(rest) as usize);
                        let (plain, is_deflated) = twin::plain_frame(record);
                        heard.push(Heard::Record(
                            known(&batch.topic),
                            batch.encoding,
                            seq,
                            plain,
                            is_deflated,
                        ));
                        rest = more;
                    }
                    assert!(rest.is_empty(), "a batch holds as many records as it says");
                }
                Delivery::Subscribed { topic, encoding, seq } => {
                    heard.push(Heard::Subscribed(known(topic), *encoding, *seq));
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
            Heard::Record(topic, encoding, ..) | Heard::Subscribed(topic, encoding, _) => {
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

        /// In a home of so many topics that nobody has to go, or that somebody has, if not all have them by name.
        #[test]
        fn a_home_tells_each_reactor_what_it_wants_in_order(
            topics_max in prop::sample::select(vec![3, 100]),
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut home = Home::new(REACTORS, topics_max, 0, Encoding::COUNT, Budget::new(1 << 30));
            let mut deflater = Deflater::new(SETTINGS);
            let mut outboxes: Outboxes = (0..REACTORS).map(|_| VecDeque::new()).collect();
            let mut twin = Twin { heard: vec![Vec::new(); REACTORS], ..Twin::default() };
            for (number, step) in steps.into_iter().enumerate() {
                let out = &mut outboxes;
                twin.wall_ms = 1_764_000_000_000 + number as u64;
                home.begin_turn(0, twin.wall_ms);
                match step {
                    Step::Stamp(stamps) => {
                        twin.stamps = stamps;
                        let stamps = KeepKeys { stamps: Some(stamps), ..KeepKeys::default() };
                        let keeps = KeepKeys { count: Some(3), ..KeepKeys::default() };
                        let entries = [("a/+", stamps), ("a/y", keeps)];
                        home.set_keeping(Keeping::new(entries.map(|(filter, keys)| (filter.to_owned(), keys))));
                    }
                    Step::Publish(topic, len) => {
                        let payload = vec![number as u8; len];
                        let kind = PayloadKind::Bytes;
                        let is_there = twin.seqs.contains_key(TOPICS[topic]);
                        let user = [None, Some("ann\"")][number % 2];
                        let (name, draft) = (TopicName::checked(TOPICS[topic]), Draft { payload: &payload, kind, user });
                        let seq = home.handle_publish(name, draft, 0, &mut deflater, out);
                        twin.forget_evicted(&home);
                        match seq {
                            Ok(seq) => prop_assert_eq!(seq, twin.publish(TOPICS[topic], &payload, user)),
                            Err(refusal) => {
                                prop_assert_eq!(refusal, TopicRefusal::TopicsMax);
                                prop_assert!(!is_there && twin.seqs.len() == topics_max);
                            }
                        }
                    }
                    Step::Subscribe(reactor, topic, encoding) => {
                        let name = TOPICS[topic];
                        home.handle_subscribe(reactor, TopicName::checked(name), encoding, 0, out);
                        twin.forget_evicted(&home);
                        let seq = match home.by_name.get(name) {
                            Some(_) => {
                                twin.exact.insert((reactor, name, encoding.index()));
                                Ok(*twin.seqs.entry(name).or_insert(twin.evicted_seq_max))
                            }
                            None => {
                                prop_assert_eq!(twin.seqs.len(), topics_max);
                                Err(TopicRefusal::TopicsMax)
                            }
                        };
                        twin.heard[reactor].push(Heard::Subscribed(name, encoding, seq));
                    }
                    Step::Unsubscribe(reactor, topic, encoding) => {
                        home.handle_unsubscribe(reactor, TOPICS[topic], encoding, out);
                        twin.exact.remove(&(reactor, TOPICS[topic], encoding.index()));
                    }
                    Step::AddFilter(reactor, filter, encoding) => {
                        let registration = RegistrationId(number as u32);
                        home.handle_add_filter(reactor, &FILTERS[filter].into(), encoding, registration, out);
                        twin.filters.insert((reactor, FILTERS[filter], encoding.index()));
                        twin.heard[reactor].push(Heard::FilterAdded(registration));
                    }
                    Step::RemoveFilter(reactor, filter, encoding) => {
                        home.handle_remove_filter(reactor, &FILTERS[filter].into(), encoding, out);
                        twin.filters.remove(&(reactor, FILTERS[filter], encoding.index()));
                    }
                    Step::Count(topic) => {
                        let name = TOPICS[topic];
                        let asked = home.handle_count(name, 0, PendingId(0), out);
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
                    Step::IdlePeriods => (0..IDLE_PERIODS).for_each(|_| home.handle_period()),
                    Step::Seal => home.seal(),
                }
                twin.forget_evicted(&home);
                home.check();
                twin.check_lanes(&home);
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
            steps in prop::collection::vec((0usize..11, 0u8..12), 1..200),
        ) {
            let mut home = Home::new(REACTORS, 3, 0, Encoding::COUNT, Budget::new(1 << 30));
            let mut deflater = Deflater::new(SETTINGS);
            let mut outboxes: Outboxes = vec![VecDeque::new()];
            let mut newest: BTreeMap<String, u64> = BTreeMap::new();
            for (name, action) in steps {
                let name = format!("t/{name}");
                let topic = TopicName::checked(&*name);
                match action {
                    0 => home.handle_subscribe(0, topic, Encoding::Json, 0, &mut outboxes),
                    1 => home.handle_unsubscribe(0, &name, Encoding::Json, &mut outboxes),
                    2..4 => (0..IDLE_PERIODS / 2).for_each(|_| home.handle_period()),
                    _ => {
                        let kind = PayloadKind::Json;
                        let seq = home.handle_publish(topic, Draft::anonymous(b"1", kind), 0, &mut deflater, &mut outboxes);
                        let Ok(seq) = seq else { continue };
                        let before = newest.insert(name, seq);
                        prop_assert!(before.is_none_or(|before| before < seq));
                    }
                }
                home.flush(&mut outboxes);
                home.check();
            }
        }

        /// Filters come and go, few or many between two publications of a topic.
        #[test]
        fn what_a_topic_matches_is_what_its_filters_say(
            steps in prop::collection::vec((0u8..3, 0..REACTORS, 0..MATCHED.len(), any::<bool>()), 1..200),
        ) {
            let mut world = World::new(0, 100);
            let mut naive: BTreeSet<(usize, &str, usize)> = BTreeSet::new();
            for (action, reactor, index, is_binary) in steps {
                let encoding = if is_binary { Encoding::Binary } else { Encoding::Json };
                let filter = MATCHED[index];
                match action {
                    0 => {
                        world.add_filter(reactor, filter, encoding);
                        naive.insert((reactor, filter, encoding.index()));
                    }
                    1 => {
                        world.remove_filter(reactor, filter, encoding);
                        naive.remove(&(reactor, filter, encoding.index()));
                    }
                    _ => {
                        let name = TOPICS[index % TOPICS.len()];
                        world.publish(name, 0).unwrap();
                        let mut matched: BTreeMap<usize, u64> = BTreeMap::new();
                        for (reactor, _, encoding) in naive.iter().filter(|it| topic::matches(it.1, name)) {
                            *matched.entry(*encoding).or_default() |= 1 << reactor;
                        }
                        let key = world.home.by_name.get(name).expect("it is there");
                        let lanes = world.home.topics[key].lanes.iter();
                        let found = lanes.map(|lane| (lane.encoding().index(), lane.matched)).collect();
                        prop_assert_eq!(matched, found, "{}", name);
                    }
                }
                world.home.check();
            }
        }

        /// Three creators and nobody in a home of 8 topics, in which one may answer for 3.
        #[test]
        fn nobody_answers_for_more_topics_than_one_may(
            steps in prop::collection::vec((0u8..4, 0u32..4, 0usize..12), 1..200),
        ) {
            let mut world = World::new(3, 8);
            for (action, creator, name) in steps {
                let name = format!("t/{name}");
                let is_new = world.home.by_name.get(&*name).is_none();
                let name_count = world.name_count(creator);
                let is_allowed = !is_new || creator == 0 || name_count < 3;
                let refusal = match action {
                    0 => {
                        for _ in 0..IDLE_PERIODS / 2 {
                            world.home.handle_period();
                        }
                        continue;
                    }
                    1 => {
                        world.home.handle_unsubscribe(0, &name, Encoding::Json, &mut world.outboxes);
                        continue;
                    }
                    2 => world.subscribe(&name, creator).err(),
                    _ => world.publish(&name, creator).err(),
                };
                prop_assert_eq!(refusal == Some(TopicRefusal::NamesMax), !is_allowed);
                if refusal.is_none() {
                    let key = world.home.by_name.get(&*name).expect("it is there");
                    prop_assert!(!is_new || world.home.topics[key].creator == creator);
                }
                world.home.check();
                prop_assert!((1..4).all(|creator| world.name_count(creator) <= 3));
            }
        }
    }

    const MATCHED: [&str; 8] = ["a/#", "+", "#", "a/+", "+/x", "b/#", "c/#", "$s/+"];

    /// A home and what it says.
    struct World {
        home: Home,
        deflater: Deflater,
        outboxes: Outboxes,
    }

    impl World {
        fn new(names_max: usize, topics_max: usize) -> World {
            World {
                home: Home::new(REACTORS, topics_max, names_max, Encoding::COUNT, Budget::new(1 << 30)),
                deflater: Deflater::new(SETTINGS),
                outboxes: (0..REACTORS).map(|_| VecDeque::new()).collect(),
            }
        }

        fn publish(&mut self, name: &str, creator: u32) -> Result<u64, TopicRefusal> {
            let World { home, deflater, outboxes } = self;
            let (name, kind) = (TopicName::checked(name), PayloadKind::Json);
            let published =
                home.handle_publish(name, Draft::anonymous(b"1", kind), creator, deflater, outboxes);
            home.flush(outboxes);
            published
        }

        /// The `seq` that is told, and whether it is a duplicate's.
        fn publish_once(&mut self, name: &str, key: &[u8]) -> Result<(u64, bool), PublishRefusal> {
            let World { home, deflater, outboxes } = self;
            let (name, kind) = (TopicName::checked(name), PayloadKind::Json);
            let key = Key { scope: None, bytes: key };
            let placed = home.handle_publish_once(
                name,
                key,
                false,
                Draft::anonymous(b"1", kind),
                0,
                deflater,
                outboxes,
            );
            home.flush(outboxes);
            placed.map(|Placed { seq, is_duplicate }| (seq, is_duplicate))
        }

        fn subscribe(&mut self, name: &str, creator: u32) -> Result<u64, TopicRefusal> {
            let name = TopicName::checked(name);
            self.home.handle_subscribe(0, name, Encoding::Json, creator, &mut self.outboxes);
            let Some(Delivery::Subscribed { seq, .. }) = self.outboxes[0].pop_back() else {
                panic!("a subscribe is answered at once")
            };
            seq
        }

        fn add_filter(&mut self, reactor: usize, filter: &str, encoding: Encoding) {
            let registration = RegistrationId(0);
            self.home.handle_add_filter(reactor, &filter.into(), encoding, registration, &mut self.outboxes);
        }

        fn remove_filter(&mut self, reactor: usize, filter: &str, encoding: Encoding) {
            self.home.handle_remove_filter(reactor, &filter.into(), encoding, &mut self.outboxes);
        }

        fn name_count(&self, creator: u32) -> usize {
            self.home.names.get(&creator).map_or(0, |&count| count as usize)
        }

        fn pass(&mut self, periods: u32) {
            (0..periods).for_each(|_| self.home.handle_period());
        }
    }

    #[test]
    fn what_is_compressed_costs_more_for_each_byte_of_it() {
        const BYTES: u64 = 500;
        let work = |encoding| {
            let World { mut home, mut deflater, mut outboxes } = World::new(0, 100);
            home.handle_add_filter(0, &"#".into(), encoding, RegistrationId(0), &mut outboxes);
            home.take_work();
            let payload = [b'1'; BYTES as usize];
            let kind = PayloadKind::Json;
            let topic = TopicName::checked("t");
            home.handle_publish(topic, Draft::anonymous(&payload, kind), 0, &mut deflater, &mut outboxes)
                .expect("there is room");
            home.take_work()
        };
        let more = work(Encoding::DeflatedJson) - work(Encoding::Json);
        assert!(more >= BYTES * price::DEFLATED_BYTE, "{more} more");
    }

    /// A thousand filters that all match what is published, and one that comes and goes.
    #[test]
    fn a_filter_that_comes_costs_a_topic_one_comparison_and_not_the_whole_tree() {
        let mut world = World::new(0, 100);
        for number in 0..1_000 {
            world.add_filter(0, &format!("+/{number}/#"), Encoding::Json);
        }
        world.add_filter(0, "+/x/#", Encoding::Json);
        world.publish("a/x", 0).unwrap();
        world.home.take_work();
        world.publish("a/x", 0).unwrap();
        assert_eq!(world.home.take_work(), 0, "nothing has changed");
        world.add_filter(1, "+/+/y", Encoding::Json);
        assert_eq!(world.home.take_work(), 3 * price::NODE);
        world.publish("a/x", 0).unwrap();
        assert_eq!(world.home.take_work(), price::CHANGE);
        world.remove_filter(1, "+/+/y", Encoding::Json);
        world.add_filter(1, "a/+", Encoding::Json);
        world.home.take_work();
        world.publish("a/x", 0).unwrap();
        assert_eq!(world.home.take_work(), 2 * price::CHANGE);
        // It matched: only the tree knows whether another does. It has the root, `+`, `+/x` and `a` on the way.
        world.remove_filter(1, "a/+", Encoding::Json);
        world.add_filter(1, "a/y", Encoding::Json);
        world.home.take_work();
        world.publish("a/x", 0).unwrap();
        assert_eq!(world.home.take_work(), price::CHANGE + 4 * price::NODE);
    }

    /// Adding a filter that a reactor has changes nothing, nor does taking away one that it has not.
    #[test]
    fn what_changes_nothing_costs_topics_nothing() {
        let mut world = World::new(0, 100);
        world.add_filter(0, "#", Encoding::Json);
        world.publish("a", 0).unwrap();
        world.add_filter(0, "#", Encoding::Json);
        world.remove_filter(1, "#", Encoding::Json);
        world.home.take_work();
        world.publish("a", 0).unwrap();
        assert_eq!(world.home.take_work(), 0);
    }

    /// A chunk shared by topics and one of a topic's own; what is published then is in others.
    #[test]
    fn a_home_that_seals_writes_no_chunk_on() {
        let mut world = World::new(0, 100);
        let batch_of = |world: &mut World| match world.outboxes[0].pop_back() {
            Some(Delivery::Batch(batch)) => batch,
            other => panic!("{other:?} is no batch"),
        };
        world.subscribe("cold", 0).unwrap();
        world.subscribe("busy", 0).unwrap();
        let has_own = |topic: &HomeTopic| topic.lanes.iter().any(|lane| lane.own.is_some());
        while !world.home.topics.iter().any(|(_, topic)| has_own(topic)) {
            world.publish("busy", 0).unwrap();
        }
        world.publish("busy", 0).unwrap();
        let busy = batch_of(&mut world).range;
        world.publish("cold", 0).unwrap();
        let cold = batch_of(&mut world).range;
        assert!(!busy.is_sealed() && !cold.is_sealed());
        world.home.seal();
        assert!(busy.is_sealed() && cold.is_sealed());
        for name in ["busy", "cold"] {
            world.publish(name, 0).unwrap();
            assert!(!batch_of(&mut world).range.is_sealed());
        }
        world.home.check();
    }

    /// The encodings of a topic's lanes, and whether each has a chunk of its own.
    fn lanes_of(world: &World, name: &str) -> Vec<(Encoding, bool)> {
        let key = world.home.by_name.get(name).expect("it is there");
        let lanes = world.home.topics[key].lanes.iter();
        lanes.map(|lane| (lane.encoding(), lane.own.is_some())).collect()
    }

    /// By name or by filter; one that only a filter wanted stays until the topic hears of that.
    #[test]
    fn a_lane_is_there_as_long_as_a_reactor_wants_it() {
        let mut world = World::new(0, 100);
        world.publish("a", 0).unwrap();
        assert_eq!(lanes_of(&world, "a"), []);
        for reactor in 0..2 {
            world.home.handle_subscribe(
                reactor,
                TopicName::checked("a"),
                Encoding::Json,
                0,
                &mut world.outboxes,
            );
        }
        world.add_filter(2, "+", Encoding::Json);
        world.add_filter(2, "#", Encoding::DeflatedBinary);
        assert_eq!(lanes_of(&world, "a"), [(Encoding::Json, false)]);
        world.publish("a", 0).unwrap();
        assert_eq!(lanes_of(&world, "a"), [(Encoding::Json, false), (Encoding::DeflatedBinary, false)]);
        for reactor in 0..2 {
            world.home.handle_unsubscribe(reactor, "a", Encoding::Json, &mut world.outboxes);
        }
        world.remove_filter(2, "+", Encoding::Json);
        assert_eq!(lanes_of(&world, "a").len(), 2);
        world.publish("a", 0).unwrap();
        assert_eq!(lanes_of(&world, "a"), [(Encoding::DeflatedBinary, false)]);
        world.remove_filter(2, "#", Encoding::DeflatedBinary);
        world.publish("a", 0).unwrap();
        assert_eq!(lanes_of(&world, "a"), []);
        world.home.check();
    }

    /// It goes with that in the next period though the topic is still busy, and at once where the log is full.
    #[test]
    fn a_lane_that_nobody_wants_any_more_keeps_its_chunk_for_a_period() {
        let mut world = World::new(0, 100);
        let encodings = [Encoding::Json, Encoding::Binary];
        let everybody = |world: &mut World| {
            for encoding in encodings {
                world.home.handle_subscribe(0, TopicName::checked("busy"), encoding, 0, &mut world.outboxes);
            }
            while lanes_of(world, "busy") != encodings.map(|encoding| (encoding, true)) {
                world.publish("busy", 0).unwrap();
            }
        };
        everybody(&mut world);
        let leave = |world: &mut World| {
            world.home.handle_unsubscribe(0, "busy", Encoding::Binary, &mut world.outboxes);
            assert_eq!(lanes_of(world, "busy").len(), 2);
            world.publish("busy", 0).unwrap();
            assert_eq!(lanes_of(world, "busy").len(), 2);
        };
        leave(&mut world);
        world.pass(1);
        assert_eq!(lanes_of(&world, "busy"), [(Encoding::Json, true)]);
        everybody(&mut world);
        leave(&mut world);
        world.home.seal();
        assert_eq!(lanes_of(&world, "busy"), [(Encoding::Json, false)]);
        world.home.check();
    }

    /// One after the other in two cache lines each, which the processor fetches together; with one lane or none.
    #[test]
    fn a_topic_with_one_lane_takes_two_cache_lines() {
        let mut world = World::new(0, 100);
        for name in ["a", "b", "c"] {
            world.subscribe(name, 0).unwrap();
        }
        let places: Vec<usize> =
            world.home.topics.iter().map(|(_, topic)| (&raw const *topic).addr()).collect();
        assert_eq!((places[1] - places[0], places[2] - places[1], places[0] % 128), (128, 128, 0));
    }

    /// Its next publication goes on with its numbering, however long it was quiet.
    #[test]
    fn an_idle_topic_stays_while_there_is_room() {
        let mut world = World::new(0, 8);
        for name in ["a", "b", "c"] {
            assert_eq!(world.publish(name, 0), Ok(1));
        }
        world.pass(100 * IDLE_PERIODS);
        assert_eq!((world.publish("a", 0), world.home.topic_count()), (Ok(2), 3));
    }

    /// Those of others, and of nobody, are not counted, and never go for it.
    #[test]
    fn a_tenant_that_has_as_many_topics_as_it_may_makes_room_among_its_own() {
        let mut world = World::new(0, 100);
        world.home.set_tenants([("\0t".into(), 4), ("\0u".into(), 0)]);
        let publish = |world: &mut World, name: &str| world.publish(name, 0);
        for name in ["a", "\0u/a", "\0v/a", "\0t/a", "\0t/b"] {
            assert_eq!(publish(&mut world, name), Ok(1), "{name:?}");
        }
        for name in ["\0t/c", "\0t/d"] {
            assert_eq!(world.subscribe(name, 0), Ok(0), "{name:?}");
        }
        // Two are in use; the others make room for each other.
        for number in 0..200 {
            assert!(publish(&mut world, &format!("\0t/{number}")).is_ok());
            world.home.check();
            assert_eq!(world.home.topic_count(), 7);
        }
        for name in ["a", "\0u/a", "\0v/a", "\0t/c", "\0t/d"] {
            assert!(world.home.by_name.get(name).is_some(), "{name:?}");
        }
        for name in ["\0t/198", "\0t/199"] {
            assert!(world.subscribe(name, 0).is_ok());
        }
        assert_eq!(publish(&mut world, "\0t/e"), Err(TopicRefusal::TenantMax), "all are in use");
        assert_eq!(world.subscribe("\0t/e", 0), Err(TopicRefusal::TenantMax));
        assert!(publish(&mut world, "\0t/c").is_ok(), "it is there");
        world.home.set_tenants([]);
        assert!(publish(&mut world, "\0t/f").is_ok());
        world.home.check();
    }

    /// What a topic keeps gives way as well, as it does for others where the broker is full.
    #[test]
    fn what_a_tenants_topics_keep_gives_way_to_its_others() {
        let mut world = keeping_world(1_000, 1 << 20, KeepKeys { count: Some(5), ..KeepKeys::default() });
        world.home.set_tenants([("\0t".into(), 3)]);
        for number in 0..20 {
            assert!(world.publish(&format!("\0t/{number}"), 0).is_ok(), "{number}");
        }
        assert_eq!(world.home.topic_count(), 3);
        world.home.check();
    }

    /// A topic whose only publication was long ago goes where it is crowded; one that somebody has by name stays,
    /// as does one that is published to.
    #[test]
    fn an_idle_topic_goes_by_itself_and_comes_back_above_its_seq() {
        let mut world = World::new(0, 3);
        for name in ["idle", "held", "busy"] {
            assert_eq!(world.publish(name, 0), Ok(1));
        }
        assert_eq!(world.publish("idle", 0), Ok(2));
        assert_eq!(world.subscribe("held", 0), Ok(1));
        world.pass(IDLE_PERIODS / 2);
        assert_eq!(world.publish("busy", 0), Ok(2));
        world.pass(IDLE_PERIODS / 2 - 1);
        assert_eq!(world.home.topic_count(), 3);
        world.pass(1);
        assert!(world.home.by_name.get("idle").is_none() && world.home.topic_count() == 2);
        world.home.handle_unsubscribe(0, "held", Encoding::Json, &mut world.outboxes);
        world.pass(IDLE_PERIODS - 1);
        assert!(world.home.by_name.get("held").is_some(), "it was left just now");
        world.pass(1);
        assert_eq!(world.home.topic_count(), 0);
        world.home.check();
        assert_eq!(world.publish("idle", 0), Ok(3));
    }

    #[test]
    fn a_full_home_and_a_creator_of_many_are_refused_apart() {
        let mut world = World::new(2, 4);
        for name in ["a", "b"] {
            assert_eq!(world.subscribe(name, 7), Ok(0));
        }
        assert_eq!(world.subscribe("c", 7), Err(TopicRefusal::NamesMax));
        assert_eq!(world.publish("c", 7), Err(TopicRefusal::NamesMax));
        assert_eq!(world.publish("a", 7), Ok(1), "one that is there is not new");
        for (name, creator) in [("c", 8), ("d", 0)] {
            assert_eq!(world.subscribe(name, creator), Ok(0));
        }
        assert_eq!(world.publish("e", 8), Err(TopicRefusal::TopicsMax));
        world.home.set_names_max(0);
        assert_eq!(world.publish("e", 7), Err(TopicRefusal::TopicsMax));
        world.home.handle_unsubscribe(0, "b", Encoding::Json, &mut world.outboxes);
        assert_eq!(world.publish("e", 7), Ok(1), "b made room, and 7 may have as many as it likes");
        assert_eq!(world.name_count(7), 2);
        world.home.check();
    }

    /// What everything that is published to keeps, and a world with room for `past_bytes_max` of that.
    fn keeping_world(topics_max: usize, past_bytes_max: usize, keys: KeepKeys) -> World {
        let mut world = World::new(0, topics_max);
        let budget = Budget::with_past(1 << 30, past_bytes_max);
        world.home = Home::new(REACTORS, topics_max, 0, Encoding::COUNT, budget);
        world.home.set_keeping(Keeping::new([("#".to_owned(), keys)]));
        world
    }

    /// Of each topic little is asked for, for which much has to be transcoded.
    #[test]
    fn a_page_of_a_tour_transcodes_about_as_much_as_it_may_have() {
        let keys = KeepKeys { count: Some(1_000), format: Some(Format::Binary), ..KeepKeys::default() };
        let mut world = keeping_world(1_000, 1 << 20, keys);
        for number in 0..64 * 40 {
            world.publish(&format!("a/{:02}", number % 64), 0).unwrap();
        }
        let mut request = tour_of(6);
        let mut most = 0;
        loop {
            let before = world.home.transcoded_bytes_total;
            world.home.handle_tour(0, 0, &request, &mut world.outboxes);
            most = most.max(world.home.transcoded_bytes_total - before);
            let Some(Delivery::Toured(page)) = world.outboxes[0].pop_back() else { panic!("a page comes") };
            (request.until, request.cursor) = (Some(page.tick), page.cursor);
            if request.cursor.is_none() {
                break;
            }
        }
        assert!((1..=2_048).contains(&most), "{most} bytes");
    }

    /// Whose names stand before all others.
    #[test]
    fn a_tour_does_not_pass_by_topics_of_tenants() {
        let work_of = |tenant_count: usize| {
            let keys = KeepKeys { count: Some(1), ..KeepKeys::default() };
            let mut world = keeping_world(1_000, 1 << 20, keys);
            for number in 0..tenant_count {
                world.publish(&format!("\0t/{number}"), 0).unwrap();
            }
            world.publish("a", 0).unwrap();
            world.home.take_work();
            let request = TourRequest { filter: "#".into(), ..tour_of(5) };
            world.home.handle_tour(0, 0, &request, &mut world.outboxes);
            let Some(Delivery::Toured(page)) = world.outboxes[0].pop_back() else { panic!("a page comes") };
            assert!(page.entries.len() == 1 && page.cursor.is_none());
            world.home.take_work()
        };
        assert_eq!(work_of(0), work_of(200));
    }

    /// What is missing of each topic is told as well, and is of the page's bytes.
    #[test]
    fn a_page_of_a_tour_has_as_many_gaps_as_fit() {
        let mut world = keeping_world(100, 1 << 20, KeepKeys { count: Some(1), ..KeepKeys::default() });
        let name = "n".repeat(240);
        for number in 0..3 * 20 {
            world.publish(&format!("a/{:02}{name}", number % 20), 0).unwrap();
        }
        let mut request = TourRequest { from: TourFrom::Tick(1), ..tour_of(0) };
        let (mut topics, mut most) = (0, 0);
        loop {
            world.home.handle_tour(0, 0, &request, &mut world.outboxes);
            let Some(Delivery::Toured(page)) = world.outboxes[0].pop_back() else { panic!("a page comes") };
            assert!(page.entries.iter().all(|entry| entry.gap == Some((1, 2)) && entry.seq == 3));
            (topics, most) = (topics + page.entries.len(), most.max(page.entries.len()));
            (request.until, request.cursor) = (Some(page.tick), page.cursor);
            if request.cursor.is_none() {
                break;
            }
        }
        assert_eq!((topics, most), (20, 2), "each is 300 bytes of a record and as many of a gap");
    }

    /// What is retained while a pass goes on is in the next one.
    #[test]
    fn a_pass_has_what_was_retained_before_it_began() {
        let keys = KeepKeys { retain: Some(true), ..KeepKeys::default() };
        let mut world = keeping_world(100, 1 << 20, keys);
        let retain = |world: &mut World, name: &str| {
            let World { home, deflater, outboxes } = world;
            let (name, kind) = (TopicName::checked(name), PayloadKind::Json);
            home.handle_retain(name, Draft::anonymous(b"1", kind), 0, deflater, outboxes)
                .expect("there is room");
            home.flush(outboxes);
        };
        let names = |world: &mut World, request: &TourRequest| {
            world.home.handle_tour(0, 0, request, &mut world.outboxes);
            let Some(Delivery::Toured(page)) = world.outboxes[0].pop_back() else { panic!("a page comes") };
            let names: Vec<String> = page.entries.iter().map(|entry| entry.topic.to_string()).collect();
            (names, page.tick)
        };
        retain(&mut world, "a/1");
        let (first, tick) = names(&mut world, &tour_of(1));
        assert_eq!(first, ["a/1"]);
        retain(&mut world, "a/2");
        let request = TourRequest { until: Some(tick), ..tour_of(1) };
        assert_eq!(names(&mut world, &request).0, ["a/1"]);
        let request = TourRequest { from: TourFrom::Tick(tick), ..tour_of(1) };
        assert_eq!(names(&mut world, &request).0, ["a/2"]);
    }

    /// The first page of a tour that begins with the newest `last` of each topic.
    fn tour_of(last: u32) -> TourRequest {
        TourRequest {
            filter: "a/#".into(),
            encoding: Encoding::Json,
            from: TourFrom::Start(Arc::new(TourStart { listed: Vec::new(), last }), None),
            until: None,
            cursor: None,
            counted: Counted::None,
            entries_max: usize::MAX,
            connection: ConnectionId { slot: 0, generation: 0 },
            tour: ReplayId { place: 0, serial: 0 },
        }
    }

    /// Whoever has many filters holds each topic against all of them.
    #[test]
    fn a_page_of_a_tour_has_no_more_topics_than_the_asker_looks_up() {
        let mut world = keeping_world(100, 1 << 20, KeepKeys { count: Some(9), ..KeepKeys::default() });
        for number in 0..20 {
            world.publish(&format!("a/{number:02}"), 0).unwrap();
        }
        for entries_max in [1, 3] {
            let mut request = TourRequest { entries_max, ..tour_of(1) };
            let mut names = Vec::new();
            loop {
                world.home.handle_tour(0, 0, &request, &mut world.outboxes);
                let Some(Delivery::Toured(page)) = world.outboxes[0].pop_back() else {
                    panic!("a page comes")
                };
                assert!(page.entries.len() <= entries_max);
                names.extend(page.entries.iter().map(|entry| entry.topic.to_string()));
                (request.until, request.cursor) = (Some(page.tick), page.cursor);
                if request.cursor.is_none() {
                    break;
                }
            }
            assert_eq!(names, (0..20).map(|number| format!("a/{number:02}")).collect::<Vec<_>>());
        }
    }

    fn ask_page(world: &mut World, topic: &str, encoding: Encoding, from: PageFrom) -> PageContent {
        let connection = ConnectionId { slot: 0, generation: 0 };
        let replay = ReplayId { place: 0, serial: 0 };
        let request = PageRequest { topic: topic.into(), encoding, from, connection, replay, creator: 0 };
        world.home.handle_page(0, request, &mut world.outboxes);
        let Some(Delivery::Page(page)) = world.outboxes[0].pop_back() else {
            panic!("a page is answered at once")
        };
        page.content.expect("there is room")
    }

    /// However often topics that keep something for long give way to others.
    #[test]
    fn topics_that_went_are_not_waited_for_until_they_are_too_old() {
        let keys = KeepKeys { ms: NonZeroU32::new(100_000_000), ..KeepKeys::default() };
        let mut world = keeping_world(4, 1 << 20, keys);
        for number in 0..100 {
            assert!(world.publish(&number.to_string(), 0).is_ok());
        }
        assert_eq!(world.home.expiring.len(), 4);
        world.home.check();
    }

    /// Several times what the log may have is too old at one moment.
    #[test]
    fn what_topics_kept_does_not_fill_the_log_when_it_goes() {
        const LOG_BYTES: usize = 64 << 10;
        let keys = KeepKeys { ms: NonZeroU32::new(1_000), ..KeepKeys::default() };
        let mut world = World::new(0, 1_000);
        let budget = Budget::with_past(LOG_BYTES, 1 << 20);
        world.home = Home::new(REACTORS, 1_000, 0, Encoding::COUNT, budget.clone());
        world.home.set_keeping(Keeping::new([("#".to_owned(), keys)]));
        for number in 0..8_000 {
            world.publish(&(number % 100).to_string(), 0).unwrap();
        }
        assert!(world.home.kept_bytes() > 4 * LOG_BYTES);
        for turn in 0..1_000 {
            world.home.begin_turn(2_000 + turn, 0);
            world.pass(1);
            assert!(!budget.is_full(), "publishers would wait for what is not log: {}", budget.bytes());
            world.home.release_free_chunks();
        }
        assert_eq!(world.home.kept_bytes(), 0);
    }

    /// The topic `a` keeps about a megabyte, and all of it is on its way to somebody.
    fn world_on_its_way(budget: Arc<Budget>) -> (World, Vec<PageContent>) {
        let keys = KeepKeys { count: Some(1_000_000), ..KeepKeys::default() };
        let mut world = World::new(0, 1_000);
        world.home = Home::new(REACTORS, 1_000, 0, Encoding::COUNT, budget);
        world.home.set_keeping(Keeping::new([("a".to_owned(), keys)]));
        let mut pages = Vec::new();
        let mut from = PageFrom::Start { since: Some(0), last: Some(0) };
        for _ in 0..20_000 {
            world.publish("a", 0).unwrap();
            let page = ask_page(&mut world, "a", Encoding::Json, from);
            from = PageFrom::Next(page.spans.next_seq);
            pages.push(page);
            // Who had all that there was is sent the next publication as well.
            world.outboxes[0].clear();
        }
        (world, pages)
    }

    /// It is to keep one publication.
    #[test]
    fn what_is_needless_waits_for_whoever_refers_to_it() {
        const LOG_BYTES: usize = 264 << 10;
        let budget = Budget::with_past(LOG_BYTES, 4 << 20);
        let (mut world, _pages) = world_on_its_way(budget.clone());
        let kept_bytes = world.home.kept_bytes();
        assert!(kept_bytes > 3 * LOG_BYTES);
        let keys = KeepKeys { count: Some(1), ..KeepKeys::default() };
        world.home.set_keeping(Keeping::new([("a".to_owned(), keys)]));
        let key = world.home.by_name.get("a").unwrap();
        world.home.follow_keeping(key);
        for turn in 1..50 {
            world.home.begin_turn(10 * turn, 0);
            world.pass(1);
            world.home.release_free_chunks();
            assert!(!budget.is_full(), "publishers would wait for what is not log: {}", budget.bytes());
        }
        assert!(budget.is_short() && world.home.kept_bytes() < kept_bytes, "as much goes as may be log");
    }

    /// Another home keeps more than there is room for.
    #[test]
    fn what_is_too_much_waits_for_whoever_refers_to_it() {
        let budget = Budget::with_past(256 << 10, 1 << 20);
        let (mut world, _pages) = world_on_its_way(budget.clone());
        let mut other = World::new(0, 1_000);
        other.home = Home::new(REACTORS, 1_000, 0, Encoding::COUNT, budget.clone());
        let keys = KeepKeys { count: Some(1_000_000), ..KeepKeys::default() };
        other.home.set_keeping(Keeping::new([("b".to_owned(), keys)]));
        for _ in 0..20_000 {
            other.publish("b", 0).unwrap();
            let kept_bytes_max = (1 << 20) / 4 * 5 + OWN_CHUNK_BYTES;
            assert!(budget.kept_bytes() <= kept_bytes_max, "a home does not wait for another for good");
        }
        assert!(budget.kept_bytes() > 1 << 20 && !budget.is_short());
        for _ in 0..50 {
            world.pass(1);
            world.home.release_free_chunks();
            assert!(!budget.is_full(), "publishers would wait for what is not log: {}", budget.bytes());
        }
    }

    /// It is several times what the log may have, and it is to keep nothing.
    #[test]
    fn what_a_topic_kept_goes_bit_by_bit_and_waits_for_whoever_refers_to_it() {
        const LOG_BYTES: usize = 128 << 10;
        let budget = Budget::with_past(LOG_BYTES, 4 << 20);
        let (mut world, mut pages) = world_on_its_way(budget.clone());
        let kept_bytes = world.home.kept_bytes();
        assert!(kept_bytes > 4 * LOG_BYTES);
        world.home.set_keeping(Keeping::new([]));
        let key = world.home.by_name.get("a").unwrap();
        world.home.follow_keeping(key);
        assert!(world.home.topics[key].past.is_none());
        assert!(kept_bytes - world.home.kept_bytes() <= dropping::BLOCKS_TOGETHER * OWN_CHUNK_BYTES);
        let before = budget.clock();
        while !pages.is_empty() {
            for _ in 0..20 {
                world.pass(1);
                world.home.release_free_chunks();
                assert!(!budget.is_full(), "publishers would wait for what is not log: {}", budget.bytes());
            }
            world.home.check();
            if world.home.kept_bytes() == 0 {
                break;
            }
            assert!(budget.is_short(), "as much goes as may be log");
            let (stale, before) = (budget.stale_before(), pages.len());
            pages.retain(|page| !page.spans.spans.iter().any(|span| span.range.is_stale(stale)));
            assert!(pages.len() < before, "whoever refers to what is old can be made to let go of it");
        }
        assert_eq!(world.home.kept_bytes(), 0);
        assert!(
            budget.clock() - before > 2 * LOG_BYTES as u64,
            "what others refer to gets older by what goes"
        );
    }

    /// A topic that is said to keep less does so without a publication, a few blocks at a time.
    #[test]
    fn a_topic_that_is_to_keep_less_does_so_by_itself() {
        let say =
            |count| Keeping::new([("a".to_owned(), KeepKeys { count: Some(count), ..KeepKeys::default() })]);
        let mut world = World::new(0, 1_000);
        world.home = Home::new(REACTORS, 1_000, 0, Encoding::COUNT, Budget::with_past(1 << 30, 4 << 20));
        world.home.set_keeping(say(10_000));
        (0..10_000).for_each(|_| _ = world.publish("a", 0).unwrap());
        let before = world.home.kept_bytes();
        world.home.set_keeping(say(10));
        world.publish("a", 0).unwrap();
        assert!(world.home.kept_bytes() > before / 2, "not all in one go");
        for round in 0.. {
            assert!(round < 1_000, "{} bytes are still kept", world.home.kept_bytes());
            let kept_bytes = world.home.kept_bytes();
            world.home.begin_turn(10 + round, 0);
            world.pass(1);
            world.home.check();
            if world.home.kept_bytes() == kept_bytes {
                break;
            }
        }
        assert!(world.home.kept_bytes() <= 2 * OWN_CHUNK_BYTES, "{}", world.home.kept_bytes());
    }

    /// Nobody publishes to them any more, or asks for what they keep.
    #[test]
    fn topics_that_nobody_uses_follow_what_is_said_of_their_past() {
        let keys = KeepKeys { ms: NonZeroU32::new(100_000_000), ..KeepKeys::default() };
        let mut world = keeping_world(1_000, 1 << 20, keys.clone());
        for number in 0..100 {
            world.publish(&number.to_string(), 0).unwrap();
        }
        let say = |world: &mut World, keys| {
            world.home.set_keeping(Keeping::new([("#".to_owned(), keys)]));
            world.pass(100_u32.div_ceil(EVICTION_PROBES as u32));
            world.home.check();
        };
        say(&mut world, KeepKeys { ms: NonZeroU32::new(1_000), ..keys });
        assert_eq!(world.home.past_count(), 100);
        world.home.begin_turn(1_001, 0);
        world.pass(100_u32.div_ceil(dropping::PASTS_PER_PERIOD as u32));
        assert_eq!(world.home.kept_bytes(), 0, "what is too old is known anew");
        world.home.begin_turn(1_002, 0);
        for number in 0..100 {
            world.publish(&number.to_string(), 0).unwrap();
        }
        assert!(world.home.kept_bytes() > 0);
        say(&mut world, KeepKeys::default());
        assert_eq!((world.home.past_count(), world.home.kept_bytes()), (0, 0));
    }

    /// More topics than one eviction looks at keep something that is older, and are in use.
    #[test]
    fn what_is_kept_for_nobody_gives_way_however_old_that_of_topics_in_use_is() {
        const HELD: usize = PASTS_PER_EVICTION + 1;
        let keys = KeepKeys { count: Some(10), ..KeepKeys::default() };
        let mut world = keeping_world(HELD + 5, 1 << 20, keys);
        for number in 0..HELD {
            let name = format!("held/{number}");
            assert!(world.publish(&name, 0).is_ok() && world.subscribe(&name, 0).is_ok());
        }
        for number in 0..100 {
            assert!(world.publish(&number.to_string(), 0).is_ok(), "{number} has room");
        }
        world.home.check();
    }

    /// Its past is more than a page, and nobody else has it.
    #[test]
    fn a_topic_stays_while_its_past_is_being_sent() {
        let keys = KeepKeys { count: Some(1_000), ..KeepKeys::default() };
        let mut world = keeping_world(4, 1 << 20, keys);
        for _ in 0..100 {
            world.publish("a", 0).unwrap();
        }
        let from = PageFrom::Start { since: Some(0), last: Some(0) };
        let first = ask_page(&mut world, "a", Encoding::Json, from);
        assert!(!first.is_last);
        for number in 0..100 {
            world.publish(&number.to_string(), 0).unwrap();
        }
        let next = PageFrom::Next(first.spans.next_seq);
        let second = ask_page(&mut world, "a", Encoding::Json, next);
        assert_eq!((second.gap, second.head), (None, 100));
    }

    /// What is there is nearly as much as may be, and somebody asks for it in the other format.
    #[test]
    fn what_was_transcoded_goes_before_what_is_kept() {
        const BYTES_MAX: usize = 32 << 10;
        let keys = KeepKeys { count: Some(u64::MAX), format: Some(Format::Binary), ..KeepKeys::default() };
        let mut world = keeping_world(100, BYTES_MAX, keys);
        for number in (0..10).cycle() {
            world.publish(&number.to_string(), 0).unwrap();
            if world.home.kept_bytes() > BYTES_MAX / 10 * 9 {
                break;
            }
        }
        let lowest = |world: &World| -> Vec<u64> {
            let pasts = world.home.topics.iter().filter_map(|(_, topic)| topic.past.as_ref());
            pasts.map(|past| past.lowest(0)).collect()
        };
        let before = lowest(&world);
        for number in 0..10 {
            let mut from = PageFrom::Start { since: Some(0), last: Some(0) };
            loop {
                let page = ask_page(&mut world, &number.to_string(), Encoding::Json, from);
                assert!(world.home.kept_bytes() <= BYTES_MAX / 4 * 5, "{}", world.home.kept_bytes());
                from = PageFrom::Next(page.spans.next_seq);
                if page.is_last {
                    break;
                }
            }
        }
        world.pass(1);
        assert!(world.home.kept_bytes() <= BYTES_MAX && world.home.transcoded_bytes_total() > 0);
        assert_eq!(lowest(&world), before, "nothing of it is lost");
        world.home.check();
    }

    /// Nothing is remembered of what was refused; and what was published is, whatever becomes of its topic.
    #[test]
    fn a_key_is_remembered_for_what_was_published_and_outlives_its_topic() {
        let mut world = World::new(0, 2);
        assert_eq!(world.publish_once("a", b"k"), Err(PublishRefusal::NoKeys), "no window was set");
        assert_eq!(world.home.topic_count(), 0);
        world.home.set_key_windows(KeyWindows::new(100, []), 10);
        for name in ["a", "b"] {
            world.subscribe(name, 0).unwrap();
        }
        let refused = Err(PublishRefusal::Topic(TopicRefusal::TopicsMax));
        assert_eq!(world.publish_once("c", b"k"), refused);
        assert_eq!((world.home.key_count(), world.home.key_window_ms()), (0, 100));
        world.home.handle_unsubscribe(0, "b", Encoding::Json, &mut world.outboxes);
        assert_eq!(world.publish_once("c", b"k"), Ok((1, false)), "b has gone for it");
        assert_eq!(world.publish_once("c", b"k"), Ok((1, true)));
        world.home.begin_turn(99, 0);
        assert_eq!(world.publish("d", 0), Ok(2), "c has gone for it");
        assert_eq!(world.publish_once("c", b"k"), Ok((1, true)), "a duplicate needs no topic");
        assert!(world.home.by_name.get("c").is_none());
        world.home.begin_turn(100, 0);
        assert_eq!(world.publish_once("c", b"k"), Ok((3, false)));
        assert_eq!((world.home.duplicates_total(), world.home.publications_total()), (2, 3));
        world.home.check();
    }
}
