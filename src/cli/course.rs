//! How far a subscription has come, and what it asks for when it begins or comes back.

use super::{client::Message, moment::Moment, position::Position, printer::shown};
use crate::protocol::topic;

/// Where in its past a subscription begins, and from its `ok` on how far it has come.
pub(super) struct Course {
    filter: String,
    had: Had,
    /// How many of the newest are asked for where that is not had.
    last: Option<u32>,
    /// The past is asked for, so it goes on from there when it comes back.
    is_about_the_past: bool,
    /// Its `ok` has come on this connection: whatever comes is behind what was had.
    is_under_way: bool,
}

/// What is had of it: all that is printed.
enum Had {
    /// Of a topic, if it was told.
    Topic(Option<Position>),
    /// Of all topics that a filter matches.
    Filter(Moment),
}

/// Whether it matches several topics.
fn is_wild(filter: &str) -> bool {
    filter.split('/').any(|level| matches!(level, "+" | "#"))
}

impl Course {
    /// Of a topic or filter that begins after what `since` says, or with the newest `last`.
    ///
    /// # Errors
    /// If `since` is no place of it.
    pub fn new(filter: &str, since: Option<&str>, last: Option<u32>) -> Result<Course, String> {
        let had = match is_wild(filter) {
            true => Had::Filter(since.map_or(Ok(Moment::default()), str::parse)?),
            false => Had::Topic(since.map(str::parse).transpose()?),
        };
        let is_about_the_past = since.is_some() || last.is_some();
        Ok(Course { filter: filter.to_owned(), had, last, is_about_the_past, is_under_way: false })
    }

    /// Whether it goes on where it was when it comes back.
    pub fn is_resumed(&self) -> bool {
        match &self.had {
            Had::Topic(since) => since.is_some(),
            Had::Filter(moment) => moment.to_json().is_some(),
        }
    }

    /// The command that subscribes on a new connection.
    pub fn command(&mut self, index: usize) -> String {
        self.is_under_way = false;
        let topic = serde_json::to_string(&self.filter).expect("a string is JSON");
        let since = match &self.had {
            Had::Topic(since) => since.map(Position::to_json),
            Had::Filter(moment) => moment.to_json(),
        };
        let since = since.map_or("".into(), |since| format!(r#","since":{since}"#));
        let last = self.last.map_or("".into(), |last| format!(r#","last":{last}"#));
        format!(r#"{{"op":"subscribe","topic":{topic},"id":{index}{since}{last}}}"#)
    }

    /// Takes from its `ok` where it begins, if the past is asked for; what is to be told of that.
    pub fn begin(&mut self, ok: &Message<'_>) -> Option<String> {
        self.is_under_way = true;
        let Had::Topic(since) = &mut self.had else { return None };
        let replayed = ok.replayed.unwrap_or(0);
        let head = ok.seq.and_then(|seq| Position::told(&ok.epoch, seq));
        let head = head.filter(|_| self.is_about_the_past)?;
        let position = Position { seq: head.seq.saturating_sub(replayed), ..head };
        let asked = since.replace(position);
        self.last = None;
        let asked = asked.filter(|_| ok.recovered == Some(false))?;
        let topic = shown(&self.filter);
        Some(match replayed {
            0 => format!("{topic}: what came after {asked} is not kept, and is lost"),
            _ => format!("{topic}: not all that came after {asked} is kept; the newest {replayed} follow"),
        })
    }

    /// All has come that was published before to the topics of a filter; what is to be told of that.
    pub fn finish_past(&mut self, replayed: &Message<'_>) -> Option<String> {
        let Had::Filter(moment) = &mut self.had else { return None };
        if self.filter != replayed.topic {
            return None;
        }
        let asked = std::mem::replace(moment, Moment::told(&replayed.at));
        self.last = None;
        // Whoever asked for the newest alone was told by gaps of what is missing.
        let at = asked.at().filter(|_| replayed.recovered == Some(false))?;
        Some(format!("{}: not all that came after {at} is kept", shown(&self.filter)))
    }

    /// Goes on to this `seq` of a topic, in the numbering of the broker's `epoch`.
    pub fn advance(&mut self, epoch: &str, topic: &str, seq: u64) {
        match &mut self.had {
            Had::Topic(Some(since)) if self.is_under_way && self.filter == topic => {
                // What was retained comes alone, in place of the newest.
                since.seq = if seq <= since.seq { since.seq + 1 } else { seq };
            }
            Had::Filter(moment) if self.is_about_the_past && topic::matches(&self.filter, topic) => {
                moment.advance(epoch, topic, seq);
            }
            _ => {}
        }
    }

    /// What to begin with another time so that nothing is missing and nothing comes twice, if that is known, and what is to
    /// be told of it.
    pub fn next(&self) -> Option<String> {
        match &self.had {
            Had::Topic(since) => since.map(|since| format!("next: --since {since}")),
            Had::Filter(moment) if moment.at().is_none() => None,
            Had::Filter(moment) if moment.is_rough() => Some(format!(
                "{}: more topics went on than can be listed: some of it comes again\nnext: --since {moment}",
                shown(&self.filter)
            )),
            Had::Filter(moment) => Some(format!("next: --since {moment}")),
        }
    }
}
