//! What homes and the reactors of subscribers tell each other.
//!
//! Requests go from a reactor to a home in one FIFO; deliveries come back in another. What a home
//! answers about a topic stands in its FIFO between the batches before and after it, which is what
//! lets a subscriber start at a `seq` without a lock, a gap or a duplicate.

use std::sync::Arc;

use super::{
    home::{Draft, Placed, PublishRefusal, TopicRefusal},
    keyed::{Key, Scope},
    log::Range,
    past::Spans,
    subscription::ConnectionId,
};
use crate::protocol::{
    Encoding, Format,
    command::{KEY_BYTES_MAX, PayloadKind},
    publication::USER_BYTES_MAX,
    tenant::INNER_BYTES_MAX,
    topic::TopicName,
};

/// Names a question that waits for its answer, in the asker's own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingId(pub u32);

/// Names a filter's registration with all homes, among those of the reactor that asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegistrationId(pub u32);

/// Names a replay, among those of the reactor that asks for its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayId {
    /// Its place, which may be another's later.
    pub place: u32,
    /// Which one there.
    pub serial: u32,
}

/// From a reactor or a guest to the home of a topic, in order.
#[derive(Debug)]
pub enum Request {
    /// Give a publication its place.
    Publish(PublishRequest),
    /// Send the batches of `topic` in `encoding` from now on; answered with [`Delivery::Subscribed`].
    Subscribe {
        /// The topic's name.
        topic: Arc<str>,
        /// The encoding of the batches.
        encoding: Encoding,
        /// Who answers for the topic if it is new: see [`Home::handle_publish`](super::home::Home::handle_publish).
        creator: u32,
    },
    /// Send them no more, unless a filter still matches.
    Unsubscribe {
        /// The topic's name.
        topic: Arc<str>,
        /// The encoding of the batches.
        encoding: Encoding,
    },
    /// Answered with [`Delivery::Marked`], behind the batches of what was published before.
    Mark {
        /// The topic's name.
        topic: Arc<str>,
        /// The encoding of the batches.
        encoding: Encoding,
        /// Whose mark it is.
        connection: ConnectionId,
        /// Comes back in the answer.
        pending: PendingId,
    },
    /// Hand over a page of a topic's past; answered with [`Delivery::Page`].
    Page(Box<PageRequest>),
    /// Hand over publications of a topic's past to somebody who need not be subscribed; answered with [`Delivery::Past`].
    Past(Box<PastRequest>),
    /// Hand over some of the pasts of the topics that a filter matches; answered with [`Delivery::Toured`].
    Tour(Box<TourRequest>),
    /// Send the batches of every topic that `filter` matches; answered with [`Delivery::FilterAdded`].
    AddFilter {
        /// A filter with wildcards.
        filter: Arc<str>,
        /// The encoding of the batches.
        encoding: Encoding,
        /// Which registration this is: comes back in the answer.
        registration: RegistrationId,
    },
    /// Undo [`Request::AddFilter`].
    RemoveFilter {
        /// A filter with wildcards.
        filter: Arc<str>,
        /// The encoding of the batches.
        encoding: Encoding,
    },
}

// Queues between reactors hold a thousand of each, and backlogs more.
const _: () = assert!(size_of::<Request>() <= 40 && size_of::<Delivery>() <= 56);

/// A publication on its way to its home.
#[derive(Debug)]
pub struct PublishRequest {
    /// What [`Carried::parts`] are, one behind the other.
    pub bytes: Range,
    /// Which of `bytes` are what, and what else is asked.
    pub shape: Shape,
    /// The publisher.
    pub connection: ConnectionId,
    /// Who waits for the `ok`, if anybody.
    pub pending: Option<PendingPublish>,
    /// Who answers for the topic if it is new: see [`Home::handle_publish`](super::home::Home::handle_publish).
    pub creator: u32,
}

/// Who waits for the `ok` to a publication.
#[derive(Clone, Copy, Debug)]
pub struct PendingPublish {
    /// Comes back in the answer.
    pub id: PendingId,
    /// The `ok` is to count subscribers.
    pub receivers: bool,
}

/// What goes to a home with a publication.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    /// The topic's name.
    pub topic: TopicName<&'a str>,
    /// What is published.
    pub draft: Draft<'a>,
    /// What it is known by, if it may be repeated.
    pub key: Option<Key<'a>>,
    /// It is to be kept as the topic's value.
    pub retain: bool,
}

impl<'a> Carried<'a> {
    /// The bytes of it that are copied for its home, in order: topic, publisher, scope, key, payload.
    pub fn parts(&'a self) -> [&'a [u8]; 5] {
        let user = self.draft.user.unwrap_or_default();
        let (scope, key) = self.key.as_ref().map_or((None, &[][..]), |key| (key.scope.as_ref(), key.bytes));
        let scope = scope.map_or(&[][..], |Scope(scope)| scope);
        [self.topic.as_str().as_bytes(), user.as_bytes(), scope, key, self.draft.payload]
    }
}

/// How long the parts of a publication are that goes to its home, and what else is asked: in as many bytes as a request has
/// room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape(u32);

impl Shape {
    const TOPIC_BITS: u32 = 9;
    const KEY_AT: u32 = Shape::TOPIC_BITS;
    const KEY_BITS: u32 = 7;
    const USER_AT: u32 = Shape::KEY_AT + Shape::KEY_BITS;
    const USER_BITS: u32 = 8;
    const SCOPED: u32 = 1 << (Shape::USER_AT + Shape::USER_BITS);
    const RETAIN: u32 = Shape::SCOPED << 1;
    const JSON: u32 = Shape::SCOPED << 2;

    /// That of `carried`.
    pub fn of(carried: &Carried<'_>) -> Shape {
        let len = |part: &[u8], at: u32, bits: u32| {
            assert!(part.len() < 1 << bits, "a name or a key was read that is longer than any may be");
            (part.len() as u32) << at
        };
        let [topic, user, scope, key, _] = carried.parts();
        let flag = |is_so, flag| if is_so { flag } else { 0 };
        Shape(
            len(topic, 0, Shape::TOPIC_BITS)
                | len(key, Shape::KEY_AT, Shape::KEY_BITS)
                | len(user, Shape::USER_AT, Shape::USER_BITS)
                | flag(!scope.is_empty(), Shape::SCOPED)
                | flag(carried.retain, Shape::RETAIN)
                | flag(carried.draft.kind == PayloadKind::Json, Shape::JSON),
        )
    }

    /// How many bytes the topic's name has.
    pub fn topic_len(self) -> u16 {
        self.len(0, Shape::TOPIC_BITS) as u16
    }

    fn len(self, at: u32, bits: u32) -> usize {
        (self.0 >> at & ((1 << bits) - 1)) as usize
    }

    fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

const _: () = assert!(INNER_BYTES_MAX < 1 << Shape::TOPIC_BITS && KEY_BYTES_MAX < 1 << Shape::KEY_BITS);
const _: () = assert!(USER_BYTES_MAX < 1 << Shape::USER_BITS);

impl PublishRequest {
    /// What was carried.
    pub fn carried(&self) -> Carried<'_> {
        let shape = self.shape;
        let (topic, rest) = self.bytes.bytes().split_at(usize::from(shape.topic_len()));
        let (user, rest) = rest.split_at(shape.len(Shape::USER_AT, Shape::USER_BITS));
        let (scope, rest) = match shape.has(Shape::SCOPED) {
            true => rest
                .split_first_chunk()
                .map(|(scope, rest)| (Some(Scope(*scope)), rest))
                .expect("it is there"),
            false => (None, rest),
        };
        let (key, payload) = rest.split_at(shape.len(Shape::KEY_AT, Shape::KEY_BITS));
        let user = (!user.is_empty()).then(|| str::from_utf8(user).expect("a user's name is text"));
        let kind = if shape.has(Shape::JSON) { PayloadKind::Json } else { PayloadKind::Bytes };
        Carried {
            topic: TopicName::checked_bytes(topic),
            draft: Draft { payload, kind, user },
            key: (!key.is_empty()).then_some(Key { scope, bytes: key }),
            retain: shape.has(Shape::RETAIN),
        }
    }
}

/// A page of a topic's past, for somebody who subscribes to it.
#[derive(Debug)]
pub struct PageRequest {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The encoding of the batches that come behind the last page; the pages are in its format, uncompressed.
    pub encoding: Encoding,
    /// Which publications.
    pub from: PageFrom,
    /// Who subscribes.
    pub connection: ConnectionId,
    /// Comes back in the answer.
    pub replay: ReplayId,
    /// Who answers for the topic if it is new: see [`Home::handle_publish`](super::home::Home::handle_publish).
    pub creator: u32,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFrom {
    /// It is the first: what came after `since`, a `seq` of this start, if nothing of that is missing; else the newest `last`,
    /// and where nothing of that is kept, the topic's value.
    Start {
        /// None if that is not asked for, or cannot be had.
        since: Option<u64>,
        /// At most so many; 0 is none, nor a value. The value alone, or that of each key, where it is not said.
        last: Option<u32>,
    },
    /// It is the first: the topic's value, or that of each key, for which nobody asked.
    Value,
    /// It goes on from this `seq`.
    Next(u64),
    /// The same of one that began with values by key.
    NextValue {
        /// From here on.
        seq: u64,
        /// These values are of publications up to this one, the newest when it began.
        until: u64,
    },
}

impl PageFrom {
    /// Whether it is the first page.
    pub fn is_first(&self) -> bool {
        !matches!(self, PageFrom::Next(_) | PageFrom::NextValue { .. })
    }

    /// Where the page behind it begins, which ends before `seq`, or the same page again that would have begun there.
    pub fn next(self, seq: u64) -> PageFrom {
        match self {
            PageFrom::NextValue { until, .. } => PageFrom::NextValue { seq, until },
            _ => PageFrom::Next(seq),
        }
    }

    /// From which publication on each is to come, if it goes on.
    pub fn due_from(self) -> Option<u64> {
        match self {
            PageFrom::Start { .. } | PageFrom::Value => None,
            PageFrom::Next(seq) => Some(seq),
            // Of those up to there nobody knows which are values.
            PageFrom::NextValue { seq, until } => Some(seq.max(until + 1)),
        }
    }

    /// Whether it is the topic's value where nothing else can be had.
    pub fn takes_value(&self) -> bool {
        matches!(self, PageFrom::Value | PageFrom::Start { last: None | Some(1..), .. })
    }
}

/// Publications of a topic's past, for an answer.
#[derive(Debug)]
pub struct PastRequest {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Which publications.
    pub from: PastFrom,
    /// At most so many.
    pub limit: u32,
    /// Comes back in the answer.
    pub pending: PendingId,
}

/// Which publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PastFrom {
    /// The newest.
    Newest,
    /// Those right before this `seq`.
    Before(u64),
    /// Those right behind it.
    After(u64),
}

/// A page of the pasts of all topics of a home that a filter matches, for somebody who subscribes to that.
#[derive(Clone, Debug)]
pub struct TourRequest {
    /// The filter.
    pub filter: Arc<str>,
    /// In whose format the publications are, uncompressed.
    pub encoding: Encoding,
    /// Which publications of each topic.
    pub from: TourFrom,
    /// Those that were written before this tick. None asks for what there is by now: the answer says of which tick that is.
    pub until: Option<u64>,
    /// Where the page before ended.
    pub cursor: Option<TourCursor>,
    /// Of which of these topics it was told already whether the client lists them.
    pub counted: Counted,
    /// So many entries are enough for a page: the asker has to look each up.
    pub entries_max: usize,
    /// Who subscribes.
    pub connection: ConnectionId,
    /// Comes back in the answer.
    pub tour: ReplayId,
}

/// Which publications of each topic a tour begins with.
#[derive(Clone, Debug)]
pub enum TourFrom {
    /// What came after what the client says that it has.
    Start(Arc<TourStart>, Option<u64>),
    /// What was written from this tick on.
    Tick(u64),
    /// None: the tick alone is asked for.
    Nothing,
}

/// What a client says that it has of the topics that a filter matches.
#[derive(Debug, Default)]
pub struct TourStart {
    /// Of these topics all up to a `seq`; sorted by name.
    pub listed: Vec<(Box<str>, u64)>,
    /// Of others it wants the newest so many, where it does not say as of when it has all.
    pub last: u32,
}

/// What an allocation takes beside what is asked for, about.
const ALLOCATION_BYTES: usize = 16;

impl TourStart {
    /// Up to which publication of the topic `name` the client has all, if it says so.
    pub fn seq_of(&self, name: &str) -> Option<u64> {
        let place = self.listed.binary_search_by(|(listed, _)| (**listed).cmp(name)).ok()?;
        Some(self.listed[place].1)
    }

    /// What the names that the client listed take, in bytes.
    pub fn memory(&self) -> usize {
        let names = self.listed.iter().map(|(name, _)| name.len() + ALLOCATION_BYTES);
        self.listed.capacity() * size_of::<(Box<str>, u64)>() + names.sum::<usize>()
    }
}

/// Where a page of a tour ended.
#[derive(Clone, Debug)]
pub struct TourCursor {
    /// The last topic.
    pub name: Arc<str>,
    /// From which publication on the rest of it is still to come, if not all of it was in the page.
    pub seq: Option<u64>,
}

/// Which topics of a pass pages have had that the asker let go of, and asks for anew.
#[derive(Clone, Debug, Default)]
pub enum Counted {
    /// None.
    #[default]
    None,
    /// Those up to this name.
    UpTo(Arc<str>),
    /// All.
    All,
}

impl Counted {
    /// Whether the topic `name` is one of them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Counted::None => false,
            Counted::UpTo(last) => *name <= **last,
            Counted::All => true,
        }
    }
}

/// From a home to a reactor or a guest, in order.
#[derive(Debug)]
pub enum Delivery {
    /// A topic's head moved.
    Batch(Batch),
    /// What follows are the batches after `seq`.
    Subscribed {
        /// The topic's name.
        topic: Arc<str>,
        /// The encoding of the batches.
        encoding: Encoding,
        /// The topic's newest publication, or why there is no such topic.
        seq: Result<u64, TopicRefusal>,
    },
    /// A mark comes back.
    Marked {
        /// The topic's name.
        topic: Arc<str>,
        /// The encoding of the batches.
        encoding: Encoding,
        /// As in the request.
        connection: ConnectionId,
        /// As in the request.
        pending: PendingId,
    },
    /// A page, at the place among the batches where the topic is as it says.
    Page(Box<Page>),
    /// Publications of a topic's past, for an answer.
    Past(Box<PastAnswer>),
    /// Some of the pasts of the topics that a filter matches, at the place among the batches where the home is as it says.
    Toured(Box<TourPage>),
    /// This home has the filter.
    FilterAdded {
        /// As in the request.
        registration: RegistrationId,
    },
    /// A publication that somebody waits for has its place.
    Published {
        /// As in the request.
        pending: PendingId,
        /// Its place, or that of the one which it repeats.
        placed: Placed,
        /// From how many reactors a [`Delivery::Counted`] will come.
        counts: u32,
    },
    /// A publication was refused.
    Refused(PublishRequest, PublishRefusal),
    /// Tell the reactor `asker` how many connections here have `topic`'s newest publication to come.
    Count {
        /// The topic's name.
        topic: Arc<str>,
        /// The publisher's reactor.
        asker: u32,
        /// Its question.
        pending: PendingId,
    },
    /// To a guest alone: batches of this home that it did not take in time are gone.
    Overrun,
    /// One reactor's part of the count.
    Counted {
        /// The question.
        pending: PendingId,
        /// How many subscribers.
        receivers: u64,
    },
}

/// A page of a topic's past.
#[derive(Debug)]
pub struct Page {
    /// The topic's name.
    pub topic: Arc<str>,
    /// As in the request.
    pub encoding: Encoding,
    /// As in the request.
    pub connection: ConnectionId,
    /// As in the request.
    pub replay: ReplayId,
    /// What is in it; or why there is no such topic.
    pub content: Result<PageContent, TopicRefusal>,
}

/// What a page has, and what it says of the topic.
#[derive(Debug)]
pub struct PageContent {
    /// Publications in the format of the request's encoding, adjacent but for values by key.
    pub spans: Spans,
    /// So many are in it.
    pub page_count: u64,
    /// Where the page behind it begins.
    pub next: PageFrom,
    /// If this is the first page: so many come in all, up to the head; but for values by key in place of which a newer one
    /// comes meanwhile.
    pub count: u64,
    /// What should have come before these, and is not kept any more.
    pub gap: Option<(u64, u64)>,
    /// The newest publication's `seq`.
    pub head: u64,
    /// Nothing is missing of what came after `since`.
    pub is_recovered: bool,
    /// No page comes behind it. What is behind the head comes in batches from the first page on, as if the reactor had
    /// subscribed.
    pub is_last: bool,
}

impl PageContent {
    /// The answer to a request for what is `from` somewhere on, of a topic of which nothing can be had up to its `head`.
    pub fn empty(from: PageFrom, gap: Option<(u64, u64)>, head: u64) -> PageContent {
        let spans = Spans { spans: Vec::new(), next_seq: head + 1 };
        let next = from.next(head + 1);
        PageContent { spans, page_count: 0, next, count: 0, gap, head, is_recovered: false, is_last: true }
    }
}

/// The answer to a [`TourRequest`].
#[derive(Debug)]
pub struct TourPage {
    /// As in the request.
    pub connection: ConnectionId,
    /// As in the request.
    pub tour: ReplayId,
    /// Whose topics these are.
    pub home: usize,
    /// In the order of their names; of one topic there may be several, one after the other.
    pub entries: Vec<TourEntry>,
    /// Where the next page begins; none if this is the last.
    pub cursor: Option<TourCursor>,
    /// The page has what was written before this tick, as far as it goes.
    pub tick: u64,
    /// So many of the topics that the client listed were come by, beside those that were counted.
    pub listed_count: usize,
    /// Nothing is missing of what was asked for of those topics.
    pub is_recovered: bool,
}

/// Publications of one topic, adjacent.
#[derive(Debug)]
pub struct TourEntry {
    /// The topic's name.
    pub topic: Arc<str>,
    /// What should have come before these, and is not kept any more.
    pub gap: Option<(u64, u64)>,
    /// The first one's `seq`.
    pub seq: u64,
    /// Of the publication behind them.
    pub next_seq: u64,
    /// Whole records; none if there is only a gap to tell.
    pub range: Option<Range>,
    /// It is a value, by itself, of a topic that keeps nothing else.
    pub is_retained: bool,
}

/// The answer to a [`PastRequest`].
#[derive(Debug)]
pub struct PastAnswer {
    /// As in the request.
    pub pending: PendingId,
    /// None of a topic that keeps nothing.
    pub content: Option<PastContent>,
}

/// Publications of a topic's past, for an answer.
#[derive(Debug)]
pub struct PastContent {
    /// Uncompressed, adjacent but for values by key, the oldest first.
    pub spans: Spans,
    /// What they are in.
    pub format: Format,
    /// The newest publication's `seq`.
    pub head: u64,
    /// The lowest `seq` that can be had; one more than the newest where none can.
    pub lowest: u64,
    /// There are more, in the direction that was asked for.
    pub has_more: bool,
}

/// Publications of one topic in one encoding, adjacent in order and in memory.
#[derive(Debug)]
pub struct Batch {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The encoding of the records.
    pub encoding: Encoding,
    /// The first publication's `seq`.
    pub seq: u64,
    /// How many publications: their `seq`s are adjacent.
    pub count: u32,
    /// Whole records.
    pub range: Range,
}

/// What a home has to say, by port, until it is handed over at the end of the turn.
pub type Outboxes = Vec<std::collections::VecDeque<Delivery>>;

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;
    use crate::{
        protocol::tenant::TENANT_BYTES_MAX,
        pubsub::log::{Budget, ChunkPool, SHARED_CHUNK_BYTES},
    };

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(23),
            ..ProptestConfig::default()
        })]

        /// Of every length that may be.
        #[test]
        fn what_is_carried_comes_out_as_it_went_in(
            topic_len in prop_oneof![1usize..9, Just(INNER_BYTES_MAX)],
            user_len in prop_oneof![Just(0usize), 1usize..9, Just(USER_BYTES_MAX)],
            key_len in prop_oneof![Just(0usize), 1usize..9, Just(KEY_BYTES_MAX)],
            scope: Option<[u8; 16]>,
            payload in prop::collection::vec(any::<u8>(), 0..40),
            retain: bool,
            is_json: bool,
        ) {
            let prefix = format!("\0{}/", "t".repeat(TENANT_BYTES_MAX));
            let topic = match topic_len.checked_sub(prefix.len()) {
                Some(outer_len) => prefix + &"t".repeat(outer_len),
                None => "t".repeat(topic_len),
            };
            let (user, key) = ("u".repeat(user_len), vec![7; key_len]);
            let kind = if is_json { PayloadKind::Json } else { PayloadKind::Bytes };
            let user = (user_len > 0).then_some(user.as_str());
            let key = (key_len > 0).then_some(Key { scope: scope.map(Scope), bytes: &key });
            let topic = TopicName::checked(topic.as_str());
            let carried = Carried { topic, draft: Draft { payload: &payload, kind, user }, key, retain };
            let bytes = carried.parts().concat();
            let mut pool = ChunkPool::new(Budget::new(1 << 24));
            let range = pool.acquire(SHARED_CHUNK_BYTES, bytes.len()).append(bytes.len(), |room| room.copy_from_slice(&bytes));
            let connection = ConnectionId { slot: 0, generation: 0 };
            let shape = Shape::of(&carried);
            let request = PublishRequest { bytes: range, shape, connection, pending: None, creator: 0 };
            let out = request.carried();
            prop_assert_eq!(out.parts(), carried.parts());
            prop_assert_eq!((out.draft.user, out.draft.kind, out.key, out.retain), (user, kind, key, retain));
            prop_assert_eq!(usize::from(shape.topic_len()), topic_len);
        }
    }
}
