//! A long message of its own, checked slice by slice before its commands are read.

use std::ops::Range;

use zeroize::Zeroize;

#[cfg(any(test, fuzzing))]
use super::DEPTH_MAX_DEFAULT;
use super::{
    culprit::{Culprit, Search},
    document::{Read, Scratch, Shape},
    long::{Checker, Verdict},
    shape_of,
};
#[cfg(any(test, fuzzing))]
use crate::protocol::Format;
use crate::protocol::binary::{self, Checked};

/// A message that would take too long to be read in one go.
///
/// Almost all of what reading it costs is to check that it, or what it publishes, is I-JSON. That is done here,
/// for about as many bytes at a time as one asks for; a parser may read other messages in between. Then
/// `Parser::parse_long` or `binary::parse_long`, whichever its language, gives its commands.
pub struct LongMessage {
    message: Message,
    depth_max: usize,
    /// What is still to be checked, the first last.
    unchecked: Vec<Range<usize>>,
    /// The first of that has been begun.
    is_begun: bool,
    checked: Vec<Checked>,
    /// The text is checked and is not I-JSON, which some command of it is to blame for.
    search: Option<Search>,
    culprit: Culprit,
    checker: Checker,
    read: Read,
}

enum Message {
    Text(Box<str>),
    Binary(Box<[u8]>),
}

impl LongMessage {
    /// A copy of a text message, whose `data` may be `depth_max` levels deep.
    pub fn text(text: &str, depth_max: usize) -> Self {
        let whole = Range { start: 0, end: text.len() };
        Self::new(Message::Text(text.into()), Vec::from_iter([whole]), depth_max)
    }

    /// A copy of a binary message, whose JSON may be `depth_max` levels deep. Of that the long payloads that are said to be JSON are checked; the rest is
    /// read as fast as it is checked.
    pub fn binary(message: &[u8], depth_max: usize) -> Self {
        Self::binary_with_payloads(message, Scratch::SHORT_BYTES_MAX + 1, depth_max)
    }

    /// A copy of a message in either language, of which everything is checked that could be long.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn as_if_long(format: Format, message: &[u8]) -> Self {
        match format {
            Format::Json => Self::text(str::from_utf8(message).expect("text"), DEPTH_MAX_DEFAULT),
            Format::Binary => Self::binary_with_payloads(message, 0, DEPTH_MAX_DEFAULT),
        }
    }

    fn binary_with_payloads(message: &[u8], bytes_min: usize, depth_max: usize) -> Self {
        let mut payloads = binary::json_payloads(message, bytes_min);
        payloads.reverse();
        Self::new(Message::Binary(message.into()), payloads, depth_max)
    }

    fn new(message: Message, unchecked: Vec<Range<usize>>, depth_max: usize) -> Self {
        Self {
            message,
            depth_max,
            unchecked,
            is_begun: false,
            checked: Vec::new(),
            search: None,
            culprit: Culprit::default(),
            checker: Checker::default(),
            read: Read::default(),
        }
    }

    /// Goes on for about `bytes_max` bytes, up to the end of a value or string; returns whether nothing is left to check.
    /// That a payload is UTF-8 is found out of all of it at once.
    pub fn go_on(&mut self, bytes_max: usize) -> bool {
        let Some(range) = self.unchecked.last() else { return true };
        let (message, shape) = match &self.message {
            Message::Text(text) => (text.as_bytes(), shape_of(text)),
            Message::Binary(message) => (&message[..], Shape::Data),
        };
        let text = &message[range.clone()];
        if let Some(search) = &mut self.search {
            let at = search.at();
            let found = search.go_on(text, bytes_max);
            self.read.bytes += search.at() - at;
            if let Some(culprit) = found {
                self.culprit = culprit;
                self.unchecked.pop();
            }
            return self.unchecked.is_empty();
        }
        let verdict = if self.is_begun {
            let (at, values) = (self.checker.at(), self.checker.values);
            let verdict = self.checker.go_on(text, bytes_max);
            self.read.bytes += self.checker.at() - at;
            self.read.values += self.checker.values - values;
            verdict
        } else {
            self.checker.begin(shape, self.depth_max);
            self.is_begun = true;
            match &self.message {
                Message::Text(_) => return self.go_on(bytes_max),
                Message::Binary(_) => {
                    let error = simdutf8::compat::from_utf8(text).err();
                    error.map(|error| Verdict::NotUtf8 { at: error.valid_up_to() })
                }
            }
        };
        if let Some(verdict) = verdict {
            self.checked.push(Checked { bytes_behind: message.len() - range.end, verdict });
            if let (Message::Text(_), Verdict::Broken { near }) = (&self.message, verdict) {
                self.search = Some(Search::new(shape, near));
                return false;
            }
            self.unchecked.pop();
            self.is_begun = false;
        }
        self.unchecked.is_empty()
    }

    /// Overwrites the message, of which nothing is read any more; returns how many bytes that were.
    pub fn wipe(&mut self) -> usize {
        let message_len = match &mut self.message {
            Message::Text(text) => {
                text.zeroize();
                text.len()
            }
            Message::Binary(message) => {
                message.zeroize();
                message.len()
            }
        };
        message_len + self.checker.wipe()
    }

    /// What was read since this was last asked.
    pub fn take_read(&mut self) -> Read {
        std::mem::take(&mut self.read)
    }

    /// How much memory it takes until it is dropped, in bytes.
    pub fn len_bytes(&self) -> usize {
        let message_len = match &self.message {
            Message::Text(text) => text.len(),
            Message::Binary(message) => message.len(),
        };
        size_of::<Self>()
            + message_len
            + self.unchecked.capacity() * size_of::<Range<usize>>()
            + self.checked.capacity() * size_of::<Checked>()
            + self.checker.kept_bytes()
    }

    /// The text, what checking it came to, whose fault that is, and who checked it.
    pub(super) fn checked_text(&mut self) -> (&str, Verdict, Culprit, &mut Checker) {
        assert!(self.unchecked.is_empty(), "the message is checked to its end");
        let Message::Text(text) = &self.message else { panic!("a binary message is no text") };
        let verdict = self.checked.first().expect("a text is checked as a whole").verdict;
        (text, verdict, self.culprit, &mut self.checker)
    }

    /// The message, and what checking its payloads came to.
    pub(in crate::protocol) fn checked_binary(&self) -> (&[u8], &[Checked]) {
        let Message::Binary(message) = &self.message else { panic!("a text message is not binary") };
        assert!(self.unchecked.is_empty(), "the message is checked to its end");
        (message, &self.checked)
    }
}

impl std::fmt::Debug for LongMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LongMessage").field("len_bytes", &self.len_bytes()).finish_non_exhaustive()
    }
}
