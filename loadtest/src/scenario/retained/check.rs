//! What of many topics must come to one who subscribes to them all, and how far that is.

use crate::{
    dialect::Message,
    payload::{Payload, Stamp},
    report::retained::Replay,
    verify::Faults,
};

/// What stands before the number of a topic.
const PREFIX: &str = "retained/topic/";

/// The newest publication of each topic.
#[derive(Debug)]
pub struct Topics {
    newest: Vec<Newest>,
    payload: Payload,
}

#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    seq: u64,
    /// How many were published before it, by us.
    version: u64,
}

impl Topics {
    /// So many, to which nothing is published yet.
    pub fn new(count: usize, payload: Payload) -> Topics {
        Topics { newest: vec![Newest { seq: 0, version: 0 }; count], payload }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.newest.len()
    }

    /// What is in all of them.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The name of one.
    pub fn name(index: usize) -> String {
        format!("{PREFIX}{index}")
    }

    /// The next publication to one.
    pub fn next_stamp(&self, index: usize) -> Stamp {
        stamp(index, self.newest[index].version + 1)
    }

    /// The next publication to one got this `seq`.
    pub fn on_published(&mut self, index: usize, seq: u64) {
        let newest = &mut self.newest[index];
        *newest = Newest { seq, version: newest.version + 1 };
    }

    /// Whether nothing but the first publication to each was ever published there.
    pub fn are_new(&self) -> bool {
        self.newest.iter().all(|it| it.seq == 1)
    }

    /// Which one has this name.
    fn index_of(&self, name: &[u8]) -> Option<usize> {
        let digits = str::from_utf8(name.strip_prefix(PREFIX.as_bytes())?).ok()?;
        let is_plain = digits == "0" || !digits.starts_with(['0', '+']);
        digits.parse().ok().filter(|index| is_plain && *index < self.newest.len())
    }

    /// Whether this is the newest publication of one.
    fn is_newest(&self, index: usize, seq: Option<u64>, data: &[u8]) -> bool {
        let Newest { seq: newest, version } = self.newest[index];
        seq == Some(newest) && self.payload.check(data) == Some(stamp(index, version))
    }
}

fn stamp(index: usize, version: u64) -> Stamp {
    Stamp { due_ns: version, topic: 1, publisher: 0, sequence: index as u64 }
}

/// What is waited for of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// Its newest publication.
    Newest,
    /// Nothing: it has come, or was there before.
    Nothing,
}

/// Follows one subscription to all of them.
pub struct Check<'a> {
    topics: &'a Topics,
    awaited: Vec<Awaited>,
    /// How many come.
    count: u64,
    /// Whether the past of what it has is asked for, so that it can be told that nothing is missing.
    must_recover: bool,
    is_answered: bool,
    is_over: bool,
    come: u64,
    faults: Faults,
    gaps: u64,
    at: String,
    trouble: Option<String>,
}

impl<'a> Check<'a> {
    /// Of one who gets the newest of all.
    pub fn of_all(topics: &'a Topics) -> Check<'a> {
        let awaited = vec![Awaited::Newest; topics.count()];
        Check::new(topics, awaited, topics.count() as u64, false)
    }

    /// Of one who comes back, and gets the newest of these alone.
    pub fn of_changed(topics: &'a Topics, changed: &[usize]) -> Check<'a> {
        let mut awaited = vec![Awaited::Nothing; topics.count()];
        changed.iter().for_each(|index| awaited[*index] = Awaited::Newest);
        Check::new(topics, awaited, changed.len() as u64, true)
    }

    fn new(topics: &'a Topics, awaited: Vec<Awaited>, count: u64, must_recover: bool) -> Check<'a> {
        Check {
            topics,
            awaited,
            count,
            must_recover,
            is_answered: false,
            is_over: false,
            come: 0,
            faults: Faults::default(),
            gaps: 0,
            at: String::new(),
            trouble: None,
        }
    }

    /// Takes what came.
    pub fn take(&mut self, message: Message<'_>) {
        match message {
            Message::Ok { .. } => {
                if std::mem::replace(&mut self.is_answered, true) {
                    self.note("its subscription was answered twice".to_owned());
                }
            }
            Message::Delivery { topic, seq, data, .. } => self.on_delivery(&topic, seq, &data),
            Message::Gap { range, .. } => {
                self.gaps += range.map_or(1, |(from, to)| (to + 1).saturating_sub(from));
            }
            Message::Replayed { count, recovered, at } => {
                if std::mem::replace(&mut self.is_over, true) {
                    self.note("replayed came twice".to_owned());
                }
                if count != self.come {
                    self.note(format!("replayed says {count}, and {} came before it", self.come));
                }
                if self.must_recover && !recovered {
                    self.note(NOT_KEPT.to_owned());
                }
                self.at = at.into_owned();
            }
            Message::Error(error) => {
                self.note(format!("the subscription was refused: {error}"));
                self.is_over = true;
            }
            Message::Other => {}
        }
    }

    fn on_delivery(&mut self, topic: &[u8], seq: Option<u64>, data: &[u8]) {
        self.come += 1;
        if !self.is_answered || self.is_over {
            let when = if self.is_over { "after replayed" } else { "before the subscription was answered" };
            self.note(format!("{} came {when}", String::from_utf8_lossy(topic)));
        }
        let Some(index) = self.topics.index_of(topic) else {
            self.note(format!("somebody else publishes to {}", String::from_utf8_lossy(topic)));
            self.faults.corrupted += 1;
            return;
        };
        let awaited = std::mem::replace(&mut self.awaited[index], Awaited::Nothing);
        if awaited == Awaited::Nothing {
            self.faults.duplicated += 1;
        } else if !self.topics.is_newest(index, seq, data) {
            self.faults.corrupted += 1;
        }
    }

    /// Whether there is nothing to wait for any more.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The moment to come back to, if it was told.
    pub fn at(&self) -> Option<&str> {
        Some(&*self.at).filter(|at| !at.is_empty())
    }

    /// What came of it in so long.
    pub fn replay(&self, elapsed_ns: u64) -> Replay {
        let lost = self.awaited.iter().filter(|it| **it == Awaited::Newest).count() as u64;
        Replay {
            is_complete: self.is_over && lost == 0,
            ms: elapsed_ns as f64 / 1e6,
            expected: self.count,
            come: self.come,
            faults: Faults { lost, ..self.faults },
            gaps: self.gaps,
            trouble: self.trouble.clone(),
        }
    }

    fn note(&mut self, trouble: String) {
        self.trouble.get_or_insert(trouble);
    }
}

/// What is said where the past is not had.
const NOT_KEPT: &str = "recovered is not true: the broker must be started with a policy that keeps the newest of each \
                        topic, as in --set 'topic=[{ match = \"retained/topic/#\", history_count = 1 }]', and with room \
                        for it in history.bytes_max and limits.topics_max";

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    /// Three topics with a publication each, of which the second has another.
    fn topics() -> Topics {
        let mut topics = Topics::new(3, Payload::new(40));
        (0..3).for_each(|index| topics.on_published(index, 1));
        topics.on_published(1, 2);
        topics
    }

    fn ok() -> Message<'static> {
        Message::Ok { seq: 0, start: None }
    }

    fn delivery(index: usize, seq: u64, version: u64) -> Message<'static> {
        let payload = Payload::new(40);
        let (text, filling) = payload.parts(stamp(index, version));
        Message::Delivery {
            topic: Cow::Owned(Topics::name(index).into()),
            seq: Some(seq),
            data: Cow::Owned([&text[..], filling].concat()),
            wire_bytes: 0,
        }
    }

    fn replayed(count: u64, recovered: bool) -> Message<'static> {
        Message::Replayed { count, recovered, at: "9f.1".into() }
    }

    fn replay(mut check: Check<'_>, messages: Vec<Message<'_>>) -> Replay {
        messages.into_iter().for_each(|it| check.take(it));
        check.replay(2_500_000)
    }

    #[test]
    fn the_newest_of_each_once_is_complete_in_any_order() {
        let topics = topics();
        assert!(!topics.are_new());
        let messages =
            vec![ok(), delivery(2, 1, 1), delivery(0, 1, 1), delivery(1, 2, 2), replayed(3, false)];
        let all = replay(Check::of_all(&topics), messages);
        assert!(all.is_good(), "{all:?}");
        assert_eq!((all.ms, all.expected, all.come), (2.5, 3, 3));
        let messages = vec![ok(), delivery(1, 2, 2), replayed(1, true)];
        assert!(replay(Check::of_changed(&topics, &[1]), messages).is_good());
    }

    #[test]
    fn what_is_lost_twice_there_or_another_is_told_apart() {
        let topics = topics();
        let faults = |messages: Vec<Message<'static>>| {
            let count = messages.len() as u64;
            let all = [ok()].into_iter().chain(messages).chain([replayed(count, true)]);
            let replay = replay(Check::of_all(&topics), all.collect());
            assert_eq!(replay.trouble, None);
            replay.faults
        };
        let (zero, one, two) = (|| delivery(0, 1, 1), || delivery(1, 2, 2), || delivery(2, 1, 1));
        assert_eq!(faults(vec![zero(), one()]), Faults { lost: 1, ..Faults::default() });
        assert_eq!(faults(vec![zero(), one(), two(), one()]), Faults { duplicated: 1, ..Faults::default() });
        for another in [delivery(1, 1, 1), delivery(1, 2, 1), delivery(1, 3, 2)] {
            assert_eq!(faults(vec![zero(), another, two()]), Faults { corrupted: 1, ..Faults::default() });
        }
    }

    #[test]
    fn who_comes_back_gets_nothing_that_it_has() {
        let topics = topics();
        let messages = vec![ok(), delivery(1, 2, 2), delivery(2, 1, 1), replayed(2, true)];
        let more = replay(Check::of_changed(&topics, &[1]), messages);
        assert_eq!(more.faults, Faults { duplicated: 1, ..Faults::default() });
        let messages = vec![ok(), delivery(1, 2, 2), replayed(1, false)];
        let trouble = replay(Check::of_changed(&topics, &[1]), messages).trouble.unwrap();
        assert!(trouble.starts_with("recovered is not true: the broker must be started"), "{trouble}");
    }

    #[test]
    fn what_the_broker_must_not_do_is_told() {
        let topics = topics();
        let foreign = |name: &'static str| Message::Delivery {
            topic: Cow::Borrowed(name.as_bytes()),
            seq: Some(1),
            data: Cow::Borrowed(b"x"),
            wire_bytes: 0,
        };
        for (messages, trouble) in [
            (vec![delivery(0, 1, 1)], "retained/topic/0 came before the subscription was answered"),
            (vec![ok(), replayed(0, true), delivery(0, 1, 1)], "retained/topic/0 came after replayed"),
            (vec![ok(), ok()], "its subscription was answered twice"),
            (vec![ok(), delivery(0, 1, 1), replayed(2, true)], "replayed says 2, and 1 came before it"),
            (vec![ok(), replayed(0, true), replayed(0, true)], "replayed came twice"),
            (vec![Message::Error("busy: no".to_owned())], "the subscription was refused: busy: no"),
            (vec![ok(), foreign("retained/topic/3")], "somebody else publishes to retained/topic/3"),
            (vec![ok(), foreign("retained/topic/01")], "somebody else publishes to retained/topic/01"),
            (vec![ok(), foreign("retained/topic/+1")], "somebody else publishes to retained/topic/+1"),
            (vec![ok(), foreign("retained/topic/")], "somebody else publishes to retained/topic/"),
        ] {
            assert_eq!(replay(Check::of_all(&topics), messages).trouble.as_deref(), Some(trouble));
        }
        let gap = Message::Gap { topic: "retained/topic/0".into(), range: Some((1, 3)) };
        assert_eq!(replay(Check::of_all(&topics), vec![ok(), gap]).gaps, 3);
    }
}
