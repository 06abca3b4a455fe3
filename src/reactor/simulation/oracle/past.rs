//! What the broker promises of a topic's past.

use super::{
    Asked, Oracle, Publication, Seen, Subscription, Tour,
    policy::{is_wild, matches, specificity},
};
use crate::{
    config::{Config, Retain},
    protocol::publication::LastValue,
    reactor::simulation::client::{Anchor, Begin, History, Replayed, Since, Start},
};

/// The records of a topic's past are told by when they were written, or so many milliseconds before that.
const GRAIN_MS: u64 = 100;
/// What a record has beside its topic and its payload, at most.
const RECORD_BYTES: usize = 120;

/// What one configuration has topics keep.
pub(super) struct Keeping {
    entries: Vec<(String, Keep)>,
}

/// What is kept: as much as is within each bound. Nothing if there is none, but a value.
#[derive(Clone, Copy, Default)]
pub(super) struct Keep {
    count: Option<u64>,
    bytes: Option<u64>,
    ms: Option<u64>,
    /// 0 is none, 1 the newest, 2 the newest of each key.
    last_value: Option<u64>,
    retain: Option<bool>,
}

impl Keeping {
    pub fn new(config: &Config) -> Keeping {
        let entries = config.topic.iter().map(|it| {
            let ms = it.history_ms.map(u64::from);
            let (last_value, retain) =
                (it.last_value.as_ref().map(kind_of), it.retain.map(|who| who == Retain::Clients));
            let keep = Keep { count: it.history_count, bytes: it.history_bytes, ms, last_value, retain };
            (it.filter.clone(), keep)
        });
        Keeping { entries: entries.collect() }
    }

    /// Each bound is what the most specific entry says that has it.
    pub(super) fn keep_of(&self, topic: &str) -> Option<Keep> {
        let best = |bound: fn(&Keep) -> Option<u64>| {
            let matching = self.entries.iter().filter(|(filter, _)| matches(filter, topic));
            let saying = matching.filter_map(|(filter, keep)| Some((specificity(filter), bound(keep)?)));
            saying.min().map(|(_, bound)| bound)
        };
        let keep = Keep {
            count: best(|it| it.count),
            bytes: best(|it| it.bytes),
            ms: best(|it| it.ms),
            last_value: best(|it| it.last_value),
            retain: best(|it| it.retain.map(u64::from)).map(|is_so| is_so > 0),
        };
        let is_bounded = keep.count.is_some() || keep.bytes.is_some() || keep.ms.is_some();
        let has_history = is_bounded && keep.count != Some(0);
        match keep.has_value() {
            true if !has_history => Some(Keep { count: Some(0), ..keep }),
            has_value => (has_history || has_value).then_some(keep),
        }
    }

    /// Whether some topic may have a value.
    pub(super) fn has_values(&self) -> bool {
        self.entries.iter().any(|(_, keep)| keep.has_value())
    }
}

/// What of a topic's publications are its values.
fn kind_of(last_value: &LastValue) -> u64 {
    match last_value {
        LastValue::Nothing => 0,
        LastValue::Newest => 1,
        LastValue::PerKey(_) => 2,
    }
}

impl Keep {
    /// Whether such a topic has a value.
    pub(super) fn has_value(&self) -> bool {
        self.last_value > Some(0) || self.retain == Some(true)
    }

    /// Whether that is the newest publication.
    pub(super) fn is_newest(&self) -> bool {
        self.last_value == Some(1)
    }

    /// Whether it is the newest of each key.
    pub(super) fn is_keyed(&self) -> bool {
        self.last_value == Some(2)
    }

    /// Whether nothing else is kept, of however many keys and however old.
    pub(super) fn is_keyed_alone(&self) -> bool {
        self.is_keyed() && self.count == Some(0)
    }

    /// Whether values end when they are old.
    pub(super) fn has_age(&self) -> bool {
        self.ms.is_some()
    }
}

impl Oracle {
    /// Whether clients are sent topics' pasts: they ask for them, whatever is kept, or there are values.
    pub(super) fn asks_past(&self) -> bool {
        if self.keeping.iter().any(Keeping::has_values) {
            return true;
        }
        let mut subscriptions = self.clients.iter().flat_map(|seen| &seen.subscriptions);
        subscriptions
            .any(|subscription| subscription.start != Start::default() || subscription.tour.is_some())
    }

    /// A client may be refused what it asks and not know: for want of room, or since a topic's past is being sent to it.
    pub(super) fn refuses(&self) -> bool {
        self.evicts || self.asks_past() || self.rights.is_some()
    }

    /// Every topic that was published to, and its newest known `seq`.
    pub fn newest(&self) -> impl Iterator<Item = (&str, u64)> {
        self.topics.iter().filter_map(|(topic, by_seq)| Some((topic.as_str(), *by_seq.last_key_value()?.0)))
    }

    /// The newest `seq` of each topic that the client got or missed.
    pub fn remembered(&self, client: usize) -> impl Iterator<Item = (&str, u64)> {
        let topics = self.clients[client].topics.iter();
        topics.map(|(topic, delivered)| (topic.as_str(), delivered.last))
    }

    /// Whether the client receives the topic, by a filter, for certain once the broker has taken all that it sent.
    pub(super) fn is_received(&self, client: usize, topic: &str) -> bool {
        let seen = &self.clients[client];
        let has_started = |place: &usize| seen.subscriptions[*place].ok_step.is_some();
        let mut filters = seen.held.iter().filter(|(filter, _)| is_wild(filter) && matches(filter, topic));
        filters.any(|(_, place)| has_started(place))
    }

    /// A subscription has started: where its `ok` says.
    pub(super) fn on_started(
        &mut self,
        client: usize,
        place: usize,
        topic: &str,
        seq: Option<u64>,
        begin: &Begin,
    ) {
        let subscription = &mut self.clients[client].subscriptions[place];
        if let Some(tour) = &mut subscription.tour {
            assert_eq!(
                (*tour, &*subscription.filter, seq, begin),
                (Tour::Asked, topic, None, &Begin::default())
            );
            *tour = Tour::Begun;
            return;
        }
        assert!(!subscription.is_received, "client {client} receives {topic}, and is sent its past");
        let start = subscription.start.clone();
        self.check_is_sent_value(client, topic, &start, begin);
        let from = self.check_begin(topic, &start, seq, begin);
        self.clients[client].on_started(place, topic, seq, from, self.step);
        self.await_value(client, place, topic, seq, begin);
    }

    /// Whether a subscribe that the client did not know to be in vain may be answered with `code`.
    pub(super) fn may_refuse(&self, client: usize, place: usize, code: &str) -> bool {
        let subscriptions = &self.clients[client].subscriptions;
        let Subscription { filter, .. } = &subscriptions[place];
        let is_replayed = |it: &Subscription| {
            (it.start != Start::default() || self.may_have_value(&it.filter)) && matches(filter, &it.filter)
        };
        match code {
            "limit_reached" => self.evicts,
            "already_subscribed" => self.refuses(),
            "busy" if subscriptions[..=place].iter().any(|it| it.tour.is_some()) => true,
            "busy" => is_wild(filter) && subscriptions[..place].iter().any(is_replayed),
            _ => false,
        }
    }

    /// The client subscribes to a filter, beginning with the past.
    pub fn on_tour(&mut self, client: usize, filter: &str, id: u64) {
        let seen = &mut self.clients[client];
        assert!(!seen.held.contains_key(filter), "worlds do not ask twice for that");
        let place = seen.hold(filter, Start::default(), Some(id));
        seen.subscriptions[place].tour = Some(Tour::Asked);
        seen.asked.insert(id, Asked::Subscribe(place));
    }

    /// The client asks for a page of the topic's past.
    pub fn on_ask_history(&mut self, client: usize, topic: &str, limit: u32, anchor: Anchor, id: u64) {
        let asked = &mut self.clients[client].asked;
        let is_second = asked.values().any(|asked| matches!(asked, Asked::History { .. }));
        asked.insert(id, Asked::History { topic: topic.to_owned(), limit, anchor, is_second });
    }

    /// Whether publication `seq` of the topic may not be kept any more, or may never have been.
    fn may_be_gone(&self, topic: &str, seq: u64) -> bool {
        let is_beyond = |keep| self.is_beyond(topic, seq, keep);
        self.may_not_keep(topic) || self.keeping.iter().filter_map(|it| it.keep_of(topic)).any(is_beyond)
    }

    /// Whether the topic may keep nothing, however little it may be.
    fn may_not_keep(&self, topic: &str) -> bool {
        self.evicts || self.is_past_short || self.keeping.iter().any(|it| it.keep_of(topic).is_none())
    }

    /// Whether `seq` may be out of one of the bounds.
    fn is_beyond(&self, topic: &str, seq: u64, keep: Keep) -> bool {
        // It and all behind it; where one's place is not known it may be there.
        let newer = || {
            let of_topic = self.publications.iter().filter(|it| it.topic == topic && !it.is_refused);
            of_topic.filter(|it| it.seq.is_none_or(|at| at >= seq))
        };
        let sent_ms = || {
            let number = self.topics.get(topic).and_then(|by_seq| by_seq.get(&seq));
            number.map_or(0, |&number| self.publications[number].sent_ms)
        };
        keep.count.is_some_and(|count| newer().count() as u64 > count)
            || keep.bytes.is_some_and(|bytes| newer().map(Publication::record_bytes_max).sum::<u64>() > bytes)
            || keep.ms.is_some_and(|ms| self.now_ms - sent_ms() + GRAIN_MS >= ms)
    }

    /// How many publications of the topic are told at most, where that was the same all the time.
    fn count_max(&self, topic: &str) -> Option<u64> {
        let mut counts = self.keeping.iter().map(|keeping| keeping.keep_of(topic)?.count);
        let first = counts.next()??;
        counts.all(|count| count == Some(first)).then_some(first)
    }

    /// The `ok` to a subscribe, which tells `seq`, says that of the past. Behind which `seq` it begins, if it says so.
    fn check_begin(&mut self, topic: &str, start: &Start, seq: Option<u64>, begin: &Begin) -> Option<u64> {
        let Begin { epoch, recovered, replayed } = begin;
        assert_eq!(epoch.is_some(), seq.is_some(), "the ok to a topic has an epoch, to a filter none");
        assert_eq!(recovered.is_some(), start.since.is_some(), "{topic} is recovered or not where asked");
        let is_plain = *start == Start::default();
        let is_told = replayed.is_some();
        assert!(is_told || is_plain, "so many of {topic} are replayed where asked");
        assert!(!is_told || !is_plain || self.may_have_value(topic), "{topic} is replayed, and nobody asked");
        let (seq, epoch) = (seq?, epoch.as_deref()?);
        self.check_epoch(epoch);
        let replayed = (*replayed)?;
        assert!(replayed <= seq, "{replayed} of {topic} are replayed, up to {seq}");
        if *recovered == Some(true) {
            let since = start.since.as_ref().expect("recovered is told where it is asked");
            assert_eq!(epoch, since.epoch, "{topic} is recovered from another epoch");
            assert_eq!(
                Some(replayed),
                seq.checked_sub(since.seq),
                "{topic} is recovered since {since:?} to {seq}"
            );
            return Some(since.seq);
        }
        if let Some(Since { epoch: of, seq: since }) = &start.since {
            let is_in_vain = of != epoch
                || *since > seq
                || match *since == seq {
                    true => self.may_not_keep(topic),
                    false => self.may_be_gone(topic, since + 1),
                };
            assert!(is_in_vain, "{topic} {since} is not recovered to {seq}, and nothing was lost");
        }
        let may_be_value = start.last != Some(0) && self.may_have_value(topic);
        if may_be_value && self.may_be_keyed(topic) {
            assert!(
                start.last.is_none_or(|last| replayed <= last.into()),
                "{replayed} of {topic} are replayed"
            );
            return Some(seq);
        }
        let last = u64::from(start.last.unwrap_or(0)).max(u64::from(may_be_value));
        assert!(replayed <= last, "{replayed} of {topic} are replayed, {last} were asked");
        if may_be_value && replayed <= 1 {
            self.check_value_count(topic, seq, replayed);
            return Some(if self.may_retain(topic) { seq } else { seq - replayed });
        }
        let is_all = replayed == last.min(seq) || self.may_be_gone(topic, seq - replayed);
        assert!(is_all, "{replayed} of {topic} up to {seq} are replayed, and more is kept");
        let count_max = self.count_max(topic).unwrap_or(u64::MAX);
        assert!(replayed <= count_max, "{replayed} of {topic} are replayed, which keeps {count_max}");
        Some(seq - replayed)
    }

    /// There is one epoch.
    fn check_epoch(&mut self, epoch: &str) {
        assert_eq!(self.epoch.get_or_insert_with(|| epoch.to_owned()), epoch);
    }

    /// The client is told that it will not get what was not kept until its turn came.
    pub(super) fn on_lapsed(&mut self, client: usize, topic: &str, from: u64, to: u64) {
        let it = format!("client {client} is told that {from}..{to} of {topic} are not kept");
        assert!(from <= to, "{it}");
        let seen = &self.clients[client];
        let is_tour = |it: &Subscription| it.tour.is_some() && it.allows(topic);
        let is_toured = seen.subscriptions.iter().any(is_tour);
        // Where it is not known what is missing it is said to be all, and may be said again.
        let had = seen.topics.get(topic).map_or(0, |delivered| delivered.last);
        if is_toured && to <= had {
            return;
        }
        let from = if is_toured { from.max(had + 1) } else { from };
        let is_replayed =
            |it: &Subscription| is_tour(it) || (it.filter == topic && it.from.is_some() && it.allows(topic));
        assert!(seen.subscriptions.iter().any(is_replayed), "{it}, and is replayed nothing");
        let may_be_missed = self.may_be_gone(topic, to) || self.may_retain(topic) || self.may_be_keyed(topic);
        assert!(may_be_missed, "{it}, and they are");
        if !self.miss_keyed(client, topic, to) {
            self.note_gap(client, topic, from, to);
        }
    }

    /// All has come that was published before, to topics of a filter, or the client was told that it will not.
    pub(super) fn on_replayed(&mut self, client: usize, replayed: &Replayed) {
        let step = self.step;
        let mut tours = self.clients[client].subscriptions.iter_mut();
        let tour = tours.find(|it| it.filter == replayed.filter && it.tour == Some(Tour::Begun));
        let tour =
            tour.unwrap_or_else(|| panic!("client {client}: {replayed:?} of nothing that it asked for"));
        (tour.tour, tour.ok_step) = (Some(Tour::Over), Some(step));
        self.check_epoch(&replayed.at[..16]);
    }

    /// A page has come.
    pub(super) fn on_history(&mut self, client: usize, page: &History) {
        let History { id, topic, epoch, seq, from, has_more, messages } = page;
        let (seq, from) = (*seq, *from);
        let asked = self.clients[client].asked.remove(id);
        let Some(Asked::History { topic: of, limit, anchor, .. }) = asked else {
            panic!("client {client}: {page:?} for {asked:?}");
        };
        assert_eq!(of, *topic);
        self.check_epoch(epoch);
        for message in messages {
            self.recognise(topic, message);
        }
        let is_foreign = match &anchor {
            Anchor::Newest => false,
            Anchor::Before(since) | Anchor::After(since) => since.epoch != *epoch,
        };
        if is_foreign {
            return assert!(messages.is_empty() && !has_more, "another numbering names nothing: {page:?}");
        }
        if self.may_be_keyed(topic) {
            // Either of its history, or of its values.
            assert!(messages.len() <= limit as usize, "at most {limit}: {page:?}");
            assert!(messages.windows(2).all(|pair| pair[0].seq < pair[1].seq), "{page:?}");
            return assert!(messages.iter().all(|it| (from..=seq).contains(&it.seq)), "{page:?}");
        }
        if self.may_retain(topic) && messages.len() <= 1 && !has_more {
            // What is retained, of a topic that keeps nothing else, is not next to anything.
            return;
        }
        let newest = self.clients[client].topics.get(topic).map_or(0, |delivered| delivered.last);
        assert!(seq >= newest, "client {client} has {topic} {newest}, and is told of {seq}");
        assert!(from <= seq + 1, "{page:?}");
        assert!(from == 1 || self.may_be_gone(topic, from - 1), "more is kept than is told: {page:?}");
        let count_max = self.count_max(topic).unwrap_or(u64::MAX).max(u64::from(self.may_have_value(topic)));
        assert!(seq + 1 - from <= count_max, "{topic} keeps {count_max}: {page:?}");
        let (lowest, highest, is_forward) = match anchor {
            Anchor::Newest => (from, seq, false),
            Anchor::Before(since) => (from, seq.min(since.seq.saturating_sub(1)), false),
            Anchor::After(since) => (from.max(since.seq + 1), seq, true),
        };
        assert!(messages.len() <= limit as usize, "at most {limit}: {page:?}");
        assert!(messages.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq), "a hole: {page:?}");
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
            assert!(limit == 0 || lowest > highest, "nothing of {lowest}..{highest}: {page:?}");
            return assert!(!has_more, "{page:?}");
        };
        assert!(first.seq >= lowest && last.seq <= highest, "{lowest}..{highest}: {page:?}");
        let (is_next, is_more) = match is_forward {
            true => (first.seq == lowest, last.seq < seq),
            false => (last.seq == highest, first.seq > from),
        };
        assert!(is_next, "what is next to where it begins, of {lowest}..{highest}: {page:?}");
        assert_eq!(*has_more, is_more, "{page:?}");
    }

    /// A page was refused.
    pub(super) fn on_history_refused(&self, asked: &Asked, code: &str) {
        let Asked::History { topic, is_second, .. } = asked else { panic!("{asked:?} is {code}") };
        let is_right = match code {
            "busy" => *is_second,
            "unsupported" => self.may_not_keep(topic),
            _ => false,
        };
        assert!(is_right, "{asked:?} is {code}");
    }
}

impl Seen {
    /// Whether an unsubscribe from `filter` that was asked after the command `id` is not answered yet.
    pub(super) fn leaves_behind(&self, filter: &str, id: u64) -> bool {
        self.asked.range(id..).any(|(_, asked)| match asked {
            Asked::Unsubscribe(place) => self.subscriptions[*place].filter == filter,
            Asked::UnsubscribeNothing(of) => of == filter,
            _ => false,
        })
    }
}

impl Publication {
    /// How long its record is at most, as it is kept.
    pub(super) fn record_bytes_max(&self) -> u64 {
        (RECORD_BYTES + self.topic.len() + self.payload.len().div_ceil(3) * 4) as u64
    }
}
