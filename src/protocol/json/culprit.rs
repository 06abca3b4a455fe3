//! Whose fault it is that a text is not I-JSON: the `op`, `id` and `topic` of the command at fault, as far as they
//! can be read.
//!
//! Whoever waits for an answer waits for its `id`, and a client may well be told of numbers and surrogates by the
//! broker alone. So a text that no parser takes is gone over once more: brackets are counted and strings skipped,
//! whatever else stands between them. Keys are what stands before a colon, and of each the first counts.

use std::{borrow::Cow, ops::Range};

use super::{
    ID_NUMBER_MAX, ID_TEXT_BYTES_MAX,
    document::Shape,
    key::{Key, Op},
    long::{skip_spaces, string, unescape},
};
use crate::protocol::{
    command::{CommandError, RequestId},
    topic::TOPIC_BYTES_MAX,
};

/// Where the values of the command at fault begin in its text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Culprit {
    op: Option<usize>,
    id: Option<usize>,
    topic: Option<usize>,
}

impl Culprit {
    /// The error about `text`, which says what could be read.
    pub(super) fn accuse<'a>(&self, text: &'a str, rule: String) -> CommandError<'a> {
        let op = self.op.and_then(|at| read_string(text, at, KEY_BYTES_MAX));
        let op = op.and_then(|(_, name)| Op::from_str(&name)).map(Op::as_str);
        let topic = self.topic.and_then(|at| read_string(text, at, TOPIC_BYTES_MAX));
        CommandError {
            op,
            id: self.id.and_then(|at| read_id(text, at)),
            topic: topic.map(|(_, topic)| topic).filter(|topic| topic.len() <= TOPIC_BYTES_MAX),
            ..CommandError::bad_message(rule)
        }
    }
}

/// The longest string that is looked at to find out whether it is a key or an op, in bytes without escapes.
pub(super) const KEY_BYTES_MAX: usize = 16;
/// The longest escape of one byte.
const ESCAPE_BYTES: usize = "\\u0061".len();

/// The string at `at`, if it is one of at most `bytes_max` bytes without its escapes, or little longer: as it is
/// written, and without.
pub(super) fn read_string(text: &str, at: usize, bytes_max: usize) -> Option<(&str, Cow<'_, str>)> {
    let end = text.len().min(at + bytes_max * ESCAPE_BYTES + "\"\"".len());
    let bytes = text.as_bytes().get(at..end)?;
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let read = string(bytes, 0).ok()?;
    let raw = &text[at..at + read.end];
    let inside = &raw[1..raw.len() - 1];
    if !read.has_escapes {
        return Some((raw, Cow::Borrowed(inside)));
    }
    let mut unescaped = Vec::with_capacity(inside.len());
    unescape(inside.as_bytes(), &mut unescaped);
    let unescaped = String::from_utf8(unescaped).expect("a good string without its escapes is UTF-8");
    Some((raw, Cow::Owned(unescaped)))
}

/// The id at `at`, if it may be one and ends where it seems to.
fn read_id(text: &str, at: usize) -> Option<RequestId<'_>> {
    if let Some((raw, _)) = read_string(text, at, ID_TEXT_BYTES_MAX) {
        return (raw.len() <= ID_TEXT_BYTES_MAX + "\"\"".len()).then_some(RequestId::Text(raw));
    }
    const DIGITS_MAX: usize = ID_NUMBER_MAX.ilog10() as usize + 1;
    let rest = text.as_bytes().get(at..)?;
    let digit_count = rest.iter().take(DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    let digits = &rest[..digit_count];
    let is_whole = matches!(rest.get(digits.len())?, b' ' | b'\t' | b'\n' | b'\r' | b',' | b'}');
    let number = str::from_utf8(digits).ok()?.parse().ok()?;
    let has_leading_zero = digits.len() > 1 && digits[0] == b'0';
    (is_whole && !has_leading_zero && number <= ID_NUMBER_MAX).then_some(RequestId::Number(number))
}

/// The way through a text to the command at fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    shape: Shape,
    /// Here something is wrong, or soon after; 0 in a text that is one command, whose fault it is anyway.
    near: usize,
    at: usize,
    /// So many brackets are open.
    depth: usize,
    culprit: Culprit,
}

impl Search {
    pub(super) fn new(shape: Shape, near: usize) -> Self {
        let near = if let Shape::Command = shape { 0 } else { near };
        Self { shape, near, at: 0, depth: 0, culprit: Culprit::default() }
    }

    /// All of it at once.
    pub(super) fn finish(mut self, text: &[u8]) -> Culprit {
        self.go_on(text, usize::MAX).expect("a text ends")
    }

    /// Up to where the text was gone over.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Goes on for about `bytes_max` bytes of `text`, which is always the same, up to the end of a string; `None`
    /// if the command at fault is still to be found.
    pub(super) fn go_on(&mut self, text: &[u8], bytes_max: usize) -> Option<Culprit> {
        let member_depth = match self.shape.member_depth() {
            // What the text is inside of is no command's.
            0 => return Some(Culprit::default()),
            depth => depth,
        };
        let pause_at = self.at.saturating_add(bytes_max.max(1));
        while let Some(&byte) = text.get(self.at) {
            if self.at >= pause_at {
                return None;
            }
            let is_outside = self.depth < member_depth;
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b'[' if self.depth + 1 == member_depth => break,
                b'{' | b'[' => {
                    self.at += 1;
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.at += 1;
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth + 1 == member_depth {
                        if self.at > self.near {
                            return Some(self.culprit);
                        }
                        self.culprit = Culprit::default();
                    }
                }
                // What stands there in place of a command, or between two, is no command's fault.
                _ if is_outside && (byte != b',' || self.at >= self.near) => break,
                b'"' => {
                    let Some(end) = end_of_string(text, self.at) else { break };
                    self.at = match self.depth == member_depth {
                        true => self.note_key(text, self.at..end),
                        false => end,
                    };
                }
                _ => self.at += 1,
            }
        }
        let is_inside = self.depth >= member_depth && self.at >= self.near;
        Some(if is_inside { self.culprit } else { Culprit::default() })
    }

    /// Notes where the value behind the string at `span` begins, if that is a key that counts; says where to go on.
    fn note_key(&mut self, text: &[u8], span: Range<usize>) -> usize {
        let colon = skip_spaces(text, span.end);
        if text.get(colon) != Some(&b':') {
            return span.end;
        }
        let value = skip_spaces(text, colon + 1);
        let bytes = &text[span.start..span.end.min(span.start + KEY_BYTES_MAX * ESCAPE_BYTES)];
        let key = str::from_utf8(bytes).ok().and_then(|text| read_string(text, 0, KEY_BYTES_MAX));
        let place = match key.and_then(|(_, key)| Key::from_str(&key)) {
            Some(Key::Op) => Some(&mut self.culprit.op),
            Some(Key::Id) => Some(&mut self.culprit.id),
            Some(Key::Topic) => Some(&mut self.culprit.topic),
            _ => None,
        };
        if let Some(place) = place {
            place.get_or_insert(value);
        }
        // A string is passed over, since a colon behind it makes no key of it.
        match text.get(value) {
            Some(b'"') => end_of_string(text, value).unwrap_or(text.len()),
            _ => value,
        }
    }
}

/// Past the quote that ends the string at `at`, whatever it holds.
fn end_of_string(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        match text[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}
