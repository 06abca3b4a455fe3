//! One I-JSON text (RFC 7493), parsed and checked: simd-json's tape beside the untouched text.
//!
//! simd-json checks the grammar, UTF-8, escapes, lone surrogates, numbers outside a double and depth.
//! What it lets pass and I-JSON does not is looked for here: the same key twice in an object, and
//! noncharacters in strings.
//!
//! The tape has unescaped values but no raw spans. simd-json's list of *structurals* has those: the
//! offset of every `{ } [ ] : ,`, of every string's opening quote and of every other scalar's first
//! byte, in order. A value's tape nodes say how many structurals it takes, so walking both in step
//! gives each value's place in the text.

use std::{fmt::Write as _, hash::BuildHasher as _};

use simd_json::{Buffers, ErrorType, INPUT_PADDING, Node, Tape, fill_tape_padded};

use super::{
    copied::Copied,
    culprit::{Culprit, Search},
    long::{Checker, Cut, Verdict, whole_offset},
};
use crate::protocol::command::CommandError;

/// Where a text's `data` is, which says how deep the text as a whole may be nested.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Shape {
    /// The text is `data`.
    #[default]
    Data,
    /// The text is a command.
    Command,
    /// The text is an array of commands.
    Commands,
}

impl Shape {
    /// How deep the text may be nested where `data` may be `data_depth_max` levels deep.
    pub(super) fn depth_max(self, data_depth_max: usize) -> usize {
        data_depth_max + self.member_depth()
    }

    /// So deep in the text the members of commands stand.
    pub(super) fn member_depth(self) -> usize {
        self as usize
    }
}

/// A text is not I-JSON.
#[derive(Debug)]
pub(super) struct NotIJson {
    /// Why.
    pub(super) rule: String,
    culprit: Culprit,
}

impl NotIJson {
    /// The error about `text`.
    pub(super) fn accuse(self, text: &str) -> CommandError<'_> {
        self.culprit.accuse(text, self.rule)
    }
}

/// How much was read, which says what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Of text, each time that one went over it: what is refused is read several times.
    pub bytes: usize,
    /// Values and keys.
    pub values: usize,
}

/// The memory that parsing needs, kept from one text to the next so that nothing is allocated once it
/// is warm.
///
/// Of a text that simd-json reads that is, at worst for one of nothing but brackets and commas, some 80 bytes per
/// byte: a tape node per structural, and its offset per [`Shape`], both with room to grow. Such are texts up to
/// [`Scratch::NAMED_BYTES_MAX`], which makes some 5 MB. Of a longer text it reads only what is outside of the
/// commands' own values, at worst the many short members of a command that has too many: some 30 bytes per byte.
pub(super) struct Scratch {
    /// How deep `data` may be nested.
    data_depth_max: usize,
    /// The text with padding; simd-json unescapes strings in it.
    padded: Copied,
    /// Empty between texts.
    nodes: Vec<Node<'static>>,
    /// By [`Shape`], because simd-json fixes the depth with the buffers.
    buffers: [Buffers; 3],
    /// The longest text for which each of the buffers was needed, and the most structurals, among long ones:
    /// simd-json does not tell its capacities.
    longest: [Longest; 3],
    aside: Aside,
    /// From here on a text is long.
    long_bytes_min: usize,
    /// Up to here the rule that a text breaks is named.
    named_bytes_max: usize,
    checker: Checker,
}

/// What a document needs besides its lists, behind one reference: documents are moved about.
#[derive(Default)]
struct Aside {
    keys: KeySet,
    /// What was left out of the text.
    cuts: Vec<Cut>,
    /// What was read since that was last asked for.
    read: Read,
}

#[derive(Clone, Copy, Default)]
struct Longest {
    bytes: usize,
    structurals: usize,
}

impl Longest {
    #[cold]
    fn note(&mut self, bytes: usize, structurals: usize) {
        *self = Self { bytes: self.bytes.max(bytes), structurals: self.structurals.max(structurals) };
    }
}

impl Scratch {
    /// Longer texts are worth a way of their own. What shorter ones need, less than half a megabyte, is not
    /// worth keeping book of.
    pub(super) const SHORT_BYTES_MAX: usize = 4 << 10;
    /// To name the rule that a text breaks is to read it twice more, with a node for each of its values.
    const NAMED_BYTES_MAX: usize = 64 << 10;

    pub(super) fn new(data_depth_max: usize) -> Self {
        Self {
            data_depth_max,
            padded: Copied::default(),
            nodes: Vec::new(),
            buffers: [Shape::Data, Shape::Command, Shape::Commands]
                .map(|shape| Buffers::with_max_depth(0, shape.depth_max(data_depth_max))),
            longest: [Longest::default(); 3],
            aside: Aside::default(),
            long_bytes_min: Self::SHORT_BYTES_MAX + 1,
            named_bytes_max: Self::NAMED_BYTES_MAX,
            checker: Checker::default(),
        }
    }

    pub(super) fn take_read(&mut self) -> Read {
        std::mem::take(&mut self.aside.read)
    }

    /// So much was read without this.
    pub(super) fn note_read(&mut self, read: Read) {
        self.aside.read.bytes += read.bytes;
        self.aside.read.values += read.values;
    }

    /// How deep `data` may be nested.
    pub(super) fn data_depth_max(&self) -> usize {
        self.data_depth_max
    }

    /// Whether a text of so many bytes is read as a whole.
    pub(super) fn is_short(&self, text_bytes: usize) -> bool {
        text_bytes < self.long_bytes_min
    }

    /// How much memory is kept for the next text, in bytes: an upper bound, within what vectors grow by.
    pub(super) fn kept_bytes(&self) -> usize {
        let buffers = self.longest.iter().map(|it| it.bytes + 2 * it.structurals * size_of::<u32>());
        self.padded.capacity()
            + self.nodes.capacity() * size_of::<Node<'_>>()
            + buffers.sum::<usize>()
            + self.aside.keys.kept_bytes()
            + self.aside.cuts.capacity() * size_of::<Cut>()
            + self.checker.kept_bytes()
    }

    /// Overwrites what is here of texts that were read; returns how many bytes that were.
    pub(super) fn wipe(&mut self) -> usize {
        self.padded.wipe() + self.checker.wipe()
    }

    /// Whether what is here has these bytes in it.
    #[cfg(test)]
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        self.padded
            .windows(bytes.len())
            .chain(self.checker.reduced.windows(bytes.len()))
            .any(|it| it == bytes)
    }

    /// Gives back everything if that is more than `bytes_max`.
    pub(super) fn trim(&mut self, bytes_max: usize) {
        if self.kept_bytes() > bytes_max {
            let read = self.take_read();
            let Self { data_depth_max, long_bytes_min, named_bytes_max, .. } = *self;
            *self = Self { long_bytes_min, named_bytes_max, ..Self::new(data_depth_max) };
            self.aside.read = read;
        }
    }

    /// A scratch for which every text is long, and worth naming its broken rule up to `named_bytes_max`.
    #[cfg(any(test, fuzzing))]
    pub(super) fn for_long_texts(data_depth_max: usize, named_bytes_max: usize) -> Self {
        Self { long_bytes_min: 0, named_bytes_max, ..Self::new(data_depth_max) }
    }

    /// Checks a long `text` as a whole, so that [`Scratch::parse`] has only what is outside of `data` to read.
    /// Returns how many elements its array has, if it is one; `None` if it is short, or broken in a way that
    /// is to be named. The error says that it is broken.
    #[inline]
    pub(super) fn check_long(&mut self, text: &[u8], shape: Shape) -> Result<Option<usize>, NotIJson> {
        if self.is_short(text.len()) {
            return Ok(None);
        }
        self.check(text, shape)
    }

    #[cold]
    fn check(&mut self, text: &[u8], shape: Shape) -> Result<Option<usize>, NotIJson> {
        let verdict = self.checker.check(text, shape, self.data_depth_max);
        self.aside.read.bytes += text.len();
        self.aside.read.values += self.checker.values;
        let culprit = match verdict {
            Verdict::Broken { near } if text.len() > self.named_bytes_max => {
                self.aside.read.bytes += text.len();
                Search::new(shape, near).finish(text)
            }
            // There is none, or it is found by the way of short texts.
            _ => Culprit::default(),
        };
        self.judge(verdict, text, culprit)
    }

    /// What [`Scratch::check_long`] would return for a `text` that came to this verdict, by the fault of `culprit`.
    pub(super) fn judge(
        &self,
        verdict: Verdict,
        text: &[u8],
        culprit: Culprit,
    ) -> Result<Option<usize>, NotIJson> {
        let judged = verdict.judge(text.len(), self.named_bytes_max);
        judged.map_err(|rule| NotIJson { rule, culprit })
    }

    /// Takes what `checker` left of a text, so that it is as if this scratch had checked it.
    pub(super) fn adopt(&mut self, checker: &mut Checker) {
        std::mem::swap(&mut self.checker.reduced, &mut checker.reduced);
        std::mem::swap(&mut self.checker.cuts, &mut checker.cuts);
    }

    /// Parses `text`, which need not be UTF-8 and is already checked if `is_checked`.
    ///
    /// Values are still to be checked with [`Document::check`].
    pub(super) fn parse<'s>(
        &'s mut self,
        text: &[u8],
        shape: Shape,
        is_checked: bool,
    ) -> Result<Document<'s>, NotIJson> {
        let Self { data_depth_max, padded, nodes: slot, buffers, longest, aside, checker, .. } = self;
        aside.cuts.clear();
        let text = if is_checked {
            std::mem::swap(&mut aside.cuts, &mut checker.cuts);
            &checker.reduced
        } else {
            text
        };
        let read = &mut aside.read;
        let buffers = &mut buffers[shape as usize];
        let mut tape = Tape(std::mem::take(slot)).reset();

        pad(text, padded);
        let result = fill_tape_padded(padded, text.len(), buffers, &mut tape);
        read.bytes += text.len();
        read.values += tape.0.len();
        if text.len() > Self::SHORT_BYTES_MAX {
            longest[shape as usize].note(text.len(), buffers.structural_indexes().len());
        }
        if let Err(error) = result {
            *slot = tape.reset().0;
            read.bytes += text.len();
            let rule = broken_rule(text, &error, shape, *data_depth_max, buffers.structural_indexes());
            read.bytes += shape.member_depth() * text.len();
            let near = match shape {
                Shape::Data | Shape::Command => 0,
                Shape::Commands => match Checker::default().check(text, shape, *data_depth_max) {
                    Verdict::Broken { near } => near,
                    _ => text.len(),
                },
            };
            return Err(NotIJson { rule, culprit: Search::new(shape, near).finish(text) });
        }
        let may_hold_noncharacters =
            text.iter().fold(false, |found, &byte| found | (byte >= 0xef) | (byte == b'\\'));
        Ok(Document {
            nodes: tape.0,
            slot,
            structurals: buffers.structural_indexes(),
            may_hold_noncharacters,
            aside,
        })
    }
}

/// A parsed text.
pub(super) struct Document<'s> {
    nodes: Vec<Node<'s>>,
    /// Where `nodes` goes back to.
    slot: &'s mut Vec<Node<'static>>,
    structurals: &'s [u32],
    /// Neither escapes nor bytes that noncharacters begin with: no string needs a look.
    may_hold_noncharacters: bool,
    aside: &'s mut Aside,
}

impl Drop for Document<'_> {
    fn drop(&mut self) {
        *self.slot = Tape(std::mem::take(&mut self.nodes)).reset().0;
    }
}

/// A value's place in both lists.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) node: usize,
    pub(super) structural: usize,
}

impl Place {
    /// The text's one value.
    pub(super) const ROOT: Place = Place { node: 0, structural: 0 };

    /// From a value to the first element or key inside it: past the bracket.
    pub(super) const fn inside(self) -> Place {
        Place { node: self.node + 1, structural: self.structural + 1 }
    }

    /// From a key to its value: past the key and the colon.
    pub(super) const fn value(self) -> Place {
        Place { node: self.node + 1, structural: self.structural + 2 }
    }

    /// The element or key after this value, if there is one: past the value and the comma.
    pub(super) const fn next(self, size: Size) -> Place {
        Place { node: self.node + size.nodes, structural: self.structural + size.structurals + 1 }
    }
}

/// How much of both lists a value takes.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) nodes: usize,
    pub(super) structurals: usize,
}

impl Size {
    const SCALAR: Size = Size { nodes: 1, structurals: 1 };
}

impl<'s> Document<'s> {
    pub(super) fn node(&self, place: Place) -> Node<'s> {
        self.nodes[place.node]
    }

    pub(super) fn take_read(&mut self) -> Read {
        std::mem::take(&mut self.aside.read)
    }

    /// How much the value at `place` takes.
    pub(super) fn size(&self, place: Place) -> Size {
        let nodes = node_count(&self.nodes[place.node]);
        let empty_count_of_all = self.structurals.len() - structural_count(self.nodes.len(), 0);
        let empty_count = match empty_count_of_all {
            0 => 0,
            _ => self.nodes[place.node..place.node + nodes].iter().filter(|node| is_empty(node)).count(),
        };
        Size { nodes, structurals: structural_count(nodes, empty_count) }
    }

    /// The same, and checks that no object in the value has a key twice and no string a noncharacter:
    /// the first rule broken goes into `broken_rule`. Not a result beside the size, which must come
    /// back in registers: through memory it stalled every member's read by a failed store forward.
    #[inline]
    pub(super) fn check(&mut self, place: Place, broken_rule: &mut Option<String>) -> Size {
        match self.nodes[place.node] {
            Node::String(string) => {
                self.check_string(string, broken_rule);
                Size::SCALAR
            }
            Node::Static(_) => Size::SCALAR,
            Node::Object { .. } | Node::Array { .. } => self.check_nodes(place, place.node, broken_rule),
        }
    }

    /// The same for everything inside the value but not for the keys of the value itself.
    pub(super) fn check_inside(&mut self, place: Place, broken_rule: &mut Option<String>) -> Size {
        self.check_nodes(place, place.node + 1, broken_rule)
    }

    /// Checks one string: a key of a value that [`Document::check`] was not asked about.
    #[inline]
    pub(super) fn check_string(&self, string: &str, broken_rule: &mut Option<String>) {
        if self.may_hold_noncharacters {
            refuse_noncharacters(string, broken_rule);
        }
    }

    /// The span of the value of `size` at `place`, without whitespace around it. It must not be the
    /// root: the span ends at the structural after it.
    #[inline]
    pub(super) fn raw<'a>(&self, text: &'a str, place: Place, size: Size) -> &'a str {
        let start = self.structurals[place.structural] as usize;
        let after = self.structurals[place.structural + size.structurals] as usize;
        let (start, after) = match self.aside.cuts.as_slice() {
            [] => (start, after),
            cuts => (whole_offset(cuts, start), whole_offset(cuts, after)),
        };
        let mut end = after;
        while matches!(text.as_bytes()[end - 1], b' ' | b'\t' | b'\n' | b'\r') {
            end -= 1;
        }
        &text[start..end]
    }

    /// Measures the value at `place`, and checks those of its nodes that begin with `checked_from`.
    fn check_nodes(&mut self, place: Place, checked_from: usize, broken_rule: &mut Option<String>) -> Size {
        let end = place.node + node_count(&self.nodes[place.node]);
        let mut empty_count = 0;
        for index in place.node..end {
            match self.nodes[index] {
                Node::Object { len: 0, .. } | Node::Array { len: 0, .. } => empty_count += 1,
                Node::Object { len, .. } if len >= 2 && index >= checked_from => {
                    if let Some(key) = self.aside.keys.find_duplicate(&self.nodes, index, len) {
                        broken_rule.get_or_insert_with(|| {
                            let key = Quoted(key);
                            format!("not I-JSON: the key {key} is twice in one object; a key is allowed once")
                        });
                    }
                }
                Node::String(string) if self.may_hold_noncharacters => {
                    refuse_noncharacters(string, broken_rule);
                }
                _ => {}
            }
        }
        let nodes = end - place.node;
        Size { nodes, structurals: structural_count(nodes, empty_count) }
    }
}

/// Finds duplicate keys without comparing each with each, since a stranger chooses how many there are.
#[derive(Default)]
pub(super) struct KeySet {
    /// Open addressing, a power of two: indexes of key nodes, 0 for free (the root is never a key).
    table: Vec<u32>,
    /// Seeded at random, so that nobody can choose keys that collide.
    hasher: foldhash::fast::RandomState,
    /// How often keys were compared or slots looked at.
    #[cfg(test)]
    pub(super) steps: usize,
}

impl KeySet {
    /// Up to here comparing each with each is cheaper than hashing: mostly lengths differ.
    const PAIRWISE_MAX: usize = 8;

    pub(super) fn kept_bytes(&self) -> usize {
        self.table.capacity() * size_of::<u32>()
    }

    /// Whether two of `len` keys, each given by its place, are the same, after `looked_at` of them were looked
    /// at: looks at some `count_max` more. Between two calls for the same keys there must be none for others.
    pub(super) fn has_duplicate<'k>(
        &mut self,
        len: usize,
        looked_at: &mut usize,
        count_max: usize,
        key: impl Fn(usize) -> &'k [u8],
    ) -> bool {
        if len <= Self::PAIRWISE_MAX {
            *looked_at = len;
            self.count_steps(len * (len - 1) / 2);
            return (1..len).any(|index| (0..index).any(|other| is_same(key(other), key(index))));
        }
        let slots = (len * 2).next_power_of_two();
        if *looked_at == 0 {
            self.table.clear();
            self.table.resize(slots, 0);
        }
        let from = *looked_at;
        *looked_at = len.min(from.saturating_add(count_max));
        for index in from..*looked_at {
            let mut slot = self.hasher.hash_one(key(index)) as usize & (slots - 1);
            self.count_steps(1);
            while let Some(other) = (self.table[slot] as usize).checked_sub(1) {
                self.count_steps(1);
                if key(other) == key(index) {
                    return true;
                }
                slot = (slot + 1) & (slots - 1);
            }
            self.table[slot] = index as u32 + 1;
        }
        false
    }

    #[inline(always)]
    fn count_steps(&mut self, _count: usize) {
        #[cfg(test)]
        {
            self.steps += _count;
        }
    }

    /// A key that the object of `len` keys at `nodes[object]` has twice.
    fn find_duplicate<'s>(&mut self, nodes: &[Node<'s>], object: usize, len: usize) -> Option<&'s str> {
        if len <= Self::PAIRWISE_MAX {
            let mut seen = [""; Self::PAIRWISE_MAX];
            for (count, (_, key)) in keys(nodes, object, len).enumerate() {
                if seen[..count].iter().any(|other| is_same(other.as_bytes(), key.as_bytes())) {
                    return Some(key);
                }
                seen[count] = key;
            }
            return None;
        }
        let slots = (len * 2).next_power_of_two();
        self.table.clear();
        self.table.resize(slots, 0);
        for (index, key) in keys(nodes, object, len) {
            let mut slot = self.hasher.hash_one(key) as usize & (slots - 1);
            while self.table[slot] != 0 {
                if matches!(nodes[self.table[slot] as usize], Node::String(other) if other == key) {
                    return Some(key);
                }
                slot = (slot + 1) & (slots - 1);
            }
            self.table[slot] = index as u32;
        }
        None
    }
}

/// `==`, but without a call for keys of one length that begin differently.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.first() == b.first() && a == b
}

/// The keys of the object of `len` keys at `nodes[object]`, each with its node's index.
fn keys<'n, 's>(
    nodes: &'n [Node<'s>],
    object: usize,
    len: usize,
) -> impl Iterator<Item = (usize, &'s str)> + 'n {
    let mut next = object + 1;
    (0..len).map(move |_| {
        let Node::String(key) = nodes[next] else {
            unreachable!("simd-json puts a string before each value")
        };
        let index = next;
        next += 1;
        next += node_count(&nodes[next]);
        (index, key)
    })
}

/// How many nodes the value that begins with `node` takes.
fn node_count(node: &Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => 1 + count,
        Node::String(_) | Node::Static(_) => 1,
    }
}

fn is_empty(node: &Node<'_>) -> bool {
    matches!(node, Node::Object { len: 0, .. } | Node::Array { len: 0, .. })
}

/// How many structurals a value of so many nodes takes.
///
/// Each node has one, its first. An array or object of n elements or members has a closing bracket and
/// n − 1 commas: one for each element or member, which is a node, or a key and a node with a colon between
/// them. So every node but the value's own has another one, and an empty one its bracket besides.
fn structural_count(nodes: usize, empty_count: usize) -> usize {
    2 * nodes - 1 + empty_count
}

fn refuse_noncharacters(string: &str, broken_rule: &mut Option<String>) {
    if let Some(c) = find_noncharacter(string) {
        broken_rule.get_or_insert_with(|| {
            format!(
                "not I-JSON: the noncharacter U+{:04X} in a string; every other character is allowed",
                c as u32
            )
        });
    }
}

/// The first noncharacter (RFC 7493 section 2.1): U+FDD0 to U+FDEF and the last two of every plane.
pub(crate) fn find_noncharacter(string: &str) -> Option<char> {
    string.chars().find(|&c| is_noncharacter(c as u32))
}

pub(super) fn is_noncharacter(c: u32) -> bool {
    matches!(c, 0xfdd0..=0xfdef) || c & 0xfffe == 0xfffe
}

/// Copies `text` into `padded` with what simd-json reads past its end.
fn pad(text: &[u8], padded: &mut Copied) {
    padded.clear();
    padded.reserve(text.len() + INPUT_PADDING);
    padded.extend_from_slice(text);
    padded.extend_from_slice(&[b' '; INPUT_PADDING]);
}

fn has_leading_zero(number: &[u8]) -> bool {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    matches!(digits, [b'0', b'0'..=b'9', ..])
}

/// What the slow path needs of a text that may be broken.
enum Token {
    /// Everything that can be part of a number, in one run of at least as many bytes as one that is too large
    /// for a double.
    Number(std::ops::Range<usize>),
    /// A `\uXXXX` in a string, by the offset of its backslash, with its value; after a high
    /// surrogate's low one it goes on behind both.
    LoneSurrogate(usize),
    /// A control character in a string.
    Control(usize),
}

/// Goes through `text` as far as it makes sense, without recursion.
fn tokens(text: &[u8]) -> impl Iterator<Item = Token> {
    let mut at = 0;
    let mut in_string = false;
    let is_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    std::iter::from_fn(move || {
        while let Some(&byte) = text.get(at) {
            let start = at;
            at += 1;
            match byte {
                b'"' => in_string = !in_string,
                b'\\' if in_string => match hex_escape(text, start) {
                    None => at += 1,
                    Some(0xd800..=0xdbff) => {
                        at += 5;
                        match hex_escape(text, at) {
                            Some(0xdc00..=0xdfff) => at += 6,
                            _ => return Some(Token::LoneSurrogate(start)),
                        }
                    }
                    Some(0xdc00..=0xdfff) => {
                        at += 5;
                        return Some(Token::LoneSurrogate(start));
                    }
                    Some(_) => at += 5,
                },
                0..=0x1f if in_string => return Some(Token::Control(start)),
                b'-' | b'0'..=b'9' if !in_string => {
                    at = start + text[start..].iter().take_while(|byte| is_number(byte)).count();
                    if at - start >= "1e309".len() {
                        return Some(Token::Number(start..at));
                    }
                }
                _ => {}
            }
        }
        None
    })
}

/// The value of the `\uXXXX` at `at`, if there is one.
fn hex_escape(text: &[u8], at: usize) -> Option<u32> {
    let [b'\\', b'u', digits @ ..] = text.get(at..at + 6)? else { return None };
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | (digit as char).to_digit(16)?))
}

/// Names the rule that `text` breaks, for a text that simd-json refused.
///
/// simd-json's own words are few and its offsets inside strings are not the text's, so the rules that
/// a client is likely to break are looked for here, at leisure.
#[cold]
fn broken_rule(
    text: &[u8],
    error: &simd_json::Error,
    shape: Shape,
    data_depth_max: usize,
    structurals: &[u32],
) -> String {
    if let Err(error) = std::str::from_utf8(text) {
        return format!("not UTF-8 at byte {}", error.valid_up_to());
    }
    if text.trim_ascii().is_empty() {
        return "not JSON: the text is empty".to_owned();
    }
    if *error.error() == ErrorType::DepthLimitExceeded {
        return format!(
            "nested deeper than allowed at byte {}: data may have {data_depth_max} levels (limits.json_depth_max), \
             this text {}",
            error.index(),
            shape.depth_max(data_depth_max)
        );
    }
    for token in tokens(text) {
        match token {
            Token::Number(span) => {
                let number = std::str::from_utf8(&text[span.clone()]).unwrap_or_default();
                if !has_leading_zero(number.as_bytes()) && number.parse::<f64>().is_ok_and(f64::is_infinite) {
                    return format!(
                        "not I-JSON: the number {} at byte {} is outside a double; up to 1.7976931348623157e308 is allowed",
                        Quoted(number),
                        span.start
                    );
                }
            }
            Token::LoneSurrogate(at) => {
                let escape = std::str::from_utf8(&text[at..at + 6]).unwrap_or_default();
                return format!(
                    "not I-JSON: the lone surrogate {} at byte {at}; only pairs are allowed",
                    Quoted(escape)
                );
            }
            Token::Control(at) => {
                return format!(
                    "not JSON: the control character U+{:04X} in a string at byte {at} must be escaped",
                    text[at]
                );
            }
        }
    }
    let expected = match error.error() {
        // Stage 1 only says that something is amiss; of what it looks for, this is left.
        ErrorType::Syntax if error.character().is_none() => {
            return "not JSON: a string does not end".to_owned();
        }
        ErrorType::Syntax => return "not JSON: the text ends before every bracket is closed".to_owned(),
        // Without offsets: those inside strings are not the text's.
        ErrorType::InvalidEscape => return "not JSON: an escape that JSON does not have".to_owned(),
        ErrorType::InvalidUnicodeCodepoint => return "not JSON: \\u without four hex digits".to_owned(),
        ErrorType::ExpectedObjectColon => "a colon after a key",
        ErrorType::ExpectedObjectKey => "a key after a comma",
        ErrorType::ExpectedObjectContent => "a key, a comma or } in an object",
        ErrorType::ExpectedArrayContent => "a comma or ] in an array",
        ErrorType::ExpectedTrue | ErrorType::ExpectedFalse | ErrorType::ExpectedNull => "true, false or null",
        ErrorType::InvalidNumber => "a JSON number",
        _ => "a JSON value",
    };
    let (expected, at) = match after_the_end(text, error.index(), structurals) {
        Some(at) => ("the end of the text", at),
        None => (expected, error.index()),
    };
    let found = text.get(at..).unwrap_or_default().utf8_chunks().next().map_or("", |chunk| chunk.valid());
    match found.chars().next() {
        None => format!("not JSON: the text ends where {expected} is due"),
        Some(c) => {
            format!("not JSON: {} at byte {at} where {expected} is due", Quoted(c.encode_utf8(&mut [0; 4])))
        }
    }
}

/// Where something stands after a whole value that ends at `index`: of that simd-json says only where
/// the value ends.
fn after_the_end(text: &[u8], index: usize, structurals: &[u32]) -> Option<usize> {
    let mut depth = 0;
    let mut structurals = structurals.iter().map(|&at| at as usize);
    for at in structurals.by_ref().take_while(|&at| at <= index) {
        match text.get(at)? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        if at == index {
            break;
        }
    }
    if depth == 0 && matches!(text.get(index)?, b'}' | b']') { structurals.next() } else { None }
}

/// A peer's text inside a message, in quotes and cut before 64 bytes: what cannot be printed is escaped, all else as
/// the peer wrote it.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LEN_MAX: usize = 64;
        f.write_char('`')?;
        let mut len = 0;
        for c in self.0.chars() {
            // The value is in backticks, and the reply escapes quotes and backslashes itself.
            let plain = matches!(c, '"' | '\'' | '\\');
            let escaped_len = if plain { 1 } else { c.escape_debug().map(char::len_utf8).sum() };
            len += escaped_len;
            if len > LEN_MAX {
                return f.write_str("`…");
            }
            if plain { f.write_char(c)? } else { write!(f, "{}", c.escape_debug())? }
        }
        f.write_char('`')
    }
}
