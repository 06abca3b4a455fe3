//! What one who comes back must get: the `ok` that says so, and then each publication once and in order.

use super::stamp;
use crate::{
    dialect::{Message, Position},
    payload::Payload,
    verify::{Faults, Verifier},
};

/// Follows one of them.
#[derive(Debug)]
pub struct Check {
    since: Position,
    missed: u64,
    verifier: Verifier,
    corrupted: u64,
    /// It was answered that all of it comes, or why it will not.
    answer: Option<Result<(), String>>,
    /// Publications that it was told not to get.
    pub gaps: u64,
    /// What the broker did that it must not, the first of it.
    pub trouble: Option<String>,
}

impl Check {
    /// Of one that missed so many publications after `since`.
    pub fn new(since: Position, missed: u64) -> Check {
        let verifier = Verifier::new(since.seq);
        Check { since, missed, verifier, corrupted: 0, answer: None, gaps: 0, trouble: None }
    }

    /// Takes what came.
    pub fn take(&mut self, message: Message<'_>, payload: &Payload) {
        match message {
            Message::Delivery { seq, data, .. } => {
                let seq = seq.unwrap_or(0);
                if self.answer.is_none() {
                    self.note(format!("{seq} came before the subscription was answered"));
                }
                let place = seq.checked_sub(self.since.seq + 1);
                let is_right = place.is_some_and(|it| payload.check(&data) == Some(stamp(it)));
                self.corrupted += !is_right as u64;
                self.verifier.on_number(seq);
            }
            Message::Ok { seq, start } => {
                let (recovered, replayed) = start.map_or((None, None), |it| (it.recovered, it.replayed));
                let end = self.since.seq + self.missed;
                let answer = match (recovered, replayed) {
                    (Some(true), Some(count)) if count == self.missed && seq == end => Ok(()),
                    (Some(true), count) => Err(format!(
                        "recovered:true, but it replays {} up to seq {seq}: it must be {} up to {end}",
                        count.map_or("nothing".to_owned(), |it| it.to_string()),
                        self.missed
                    )),
                    _ => Err(NOT_KEPT.to_owned()),
                };
                if let Err(why) = &answer {
                    self.note(why.clone());
                }
                if self.answer.replace(answer).is_some() {
                    self.note("its subscription was answered twice".to_owned());
                }
            }
            Message::Gap { range, .. } => {
                self.gaps += range.map_or(1, |(from, to)| (to + 1).saturating_sub(from));
            }
            Message::Error(error) => {
                let why = format!("{error}; {NOT_KEPT}");
                self.note(why.clone());
                self.answer = Some(Err(why));
            }
            Message::Replayed { .. } | Message::Other => {}
        }
    }

    /// Whether it has all that it missed, and was told so.
    pub fn is_complete(&self) -> bool {
        matches!(self.answer, Some(Ok(()))) && self.verifier.received() >= self.missed
    }

    /// Whether there is nothing to wait for any more.
    pub fn is_over(&self) -> bool {
        self.is_complete() || matches!(self.answer, Some(Err(_)))
    }

    /// What went wrong.
    pub fn faults(&self) -> Faults {
        let faults = self.verifier.faults(self.missed);
        Faults { corrupted: faults.corrupted + self.corrupted, ..faults }
    }

    fn note(&mut self, trouble: String) {
        self.trouble.get_or_insert(trouble);
    }
}

/// What is said where the past is not had.
pub const NOT_KEPT: &str = "recovered is not true: the broker must be started with a policy that keeps what was \
                            missed, as in --set 'topic=[{ match = \"resume/#\", history_count = 1000000 }]', and with \
                            room for it in history.bytes_max";

/// What so many bytes, of those that one gets who gets everything, say about one whose deliveries nobody looked at.
pub fn faults_of_bytes(bytes: u64, expected: u64, missed: u64) -> Faults {
    let publications = |bytes: u64| (bytes * missed).div_ceil(expected.max(1));
    Faults {
        lost: publications(expected.saturating_sub(bytes)),
        duplicated: publications(bytes.saturating_sub(expected)),
        ..Faults::default()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::dialect::Start;

    fn check() -> Check {
        Check::new(Position { epoch: "9f".to_owned(), seq: 10 }, 3)
    }

    fn ok(seq: u64, recovered: Option<bool>, replayed: Option<u64>) -> Message<'static> {
        Message::Ok { seq, start: Some(Start { epoch: "9f".into(), recovered, replayed }) }
    }

    fn delivery(payload: &Payload, seq: u64, place: u64) -> Message<'static> {
        let (text, filling) = payload.parts(stamp(place));
        Message::Delivery {
            topic: Cow::Borrowed(&[]),
            seq: Some(seq),
            data: Cow::Owned([&text[..], filling].concat()),
            wire_bytes: 0,
        }
    }

    /// After a good answer, deliveries by their `seq`s.
    fn after(seqs: &[u64]) -> Check {
        let (mut check, payload) = (check(), Payload::new(40));
        check.take(ok(13, Some(true), Some(3)), &payload);
        seqs.iter().for_each(|seq| check.take(delivery(&payload, *seq, seq - 11), &payload));
        check
    }

    #[test]
    fn all_that_was_missed_once_and_in_order_is_complete() {
        let whole = after(&[11, 12, 13]);
        assert!(whole.is_complete() && whole.is_over() && whole.faults().is_clean());
        assert_eq!((whole.gaps, &whole.trouble), (0, &None));
        let part = after(&[11, 12]);
        assert!(!part.is_complete() && !part.is_over());
        assert_eq!(part.faults().lost, 1);
    }

    #[test]
    fn what_is_lost_duplicated_reordered_or_another_is_told_apart() {
        assert_eq!(after(&[11, 13]).faults(), Faults { lost: 1, ..Faults::default() });
        assert_eq!(after(&[11, 12, 12, 13]).faults(), Faults { duplicated: 1, ..Faults::default() });
        assert_eq!(after(&[12, 11, 13]).faults(), Faults { reordered: 1, ..Faults::default() });
        let (mut check, payload) = (after(&[11, 12]), Payload::new(40));
        check.take(delivery(&payload, 13, 1), &payload);
        assert_eq!(check.faults(), Faults { corrupted: 1, ..Faults::default() });
        let mut check = after(&[11]);
        check.take(Message::Gap { topic: "t".into(), range: Some((12, 13)) }, &payload);
        assert_eq!((check.gaps, check.faults().lost), (2, 2));
    }

    #[test]
    fn an_answer_must_say_that_all_of_it_comes() {
        let payload = Payload::new(40);
        for (message, trouble) in [
            (ok(13, Some(false), Some(0)), "recovered is not true: the broker must be started"),
            (ok(13, None, None), "recovered is not true"),
            (Message::Ok { seq: 13, start: None }, "recovered is not true"),
            (
                ok(13, Some(true), Some(2)),
                "recovered:true, but it replays 2 up to seq 13: it must be 3 up to 13",
            ),
            (ok(14, Some(true), Some(3)), "recovered:true, but it replays 3 up to seq 14"),
            (ok(13, Some(true), None), "recovered:true, but it replays nothing"),
            (Message::Error("unsupported: no".to_owned()), "unsupported: no; recovered is not true"),
        ] {
            let mut check = check();
            check.take(message, &payload);
            assert!(check.is_over() && !check.is_complete(), "{trouble}");
            let told = check.trouble.as_deref().unwrap();
            assert!(told.starts_with(trouble), "{told}");
            assert_eq!(check.faults().lost, 3);
        }
    }

    #[test]
    fn nothing_comes_before_the_answer_and_there_is_one() {
        let (mut check, payload) = (check(), Payload::new(40));
        check.take(delivery(&payload, 11, 0), &payload);
        assert_eq!(check.trouble.as_deref(), Some("11 came before the subscription was answered"));
        let mut check = after(&[11]);
        check.take(ok(13, Some(true), Some(3)), &payload);
        assert_eq!(check.trouble.as_deref(), Some("its subscription was answered twice"));
    }

    #[test]
    fn bytes_tell_how_many_publications_they_are() {
        let faults = |bytes| faults_of_bytes(bytes, 300, 3);
        assert!(faults(300).is_clean());
        assert_eq!(faults(299).lost, 1);
        assert_eq!(faults(100).lost, 2);
        assert_eq!(faults(0).lost, 3);
        assert_eq!(faults(301).duplicated, 1);
        assert_eq!(faults(500).duplicated, 2);
    }
}
