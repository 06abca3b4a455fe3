//! Long texts: checked without a tape.
//!
//! simd-json makes a node of 24 bytes of every value, which for a dense text of 1 MiB takes milliseconds and
//! megabytes, though of what is inside `data` nobody wants more than that it is I-JSON. So a long text is
//! first gone over here, value by value, with nothing kept but the keys of the objects that are open. What
//! stands inside the members of commands is then left out of the text that simd-json reads.
//!
//! What is broken is only found here and not named: that is left to the way of short texts, which refuses the
//! same.

use super::{
    copied::Copied,
    document::{KeySet, Shape, is_noncharacter},
};

/// A value that is no longer is not worth leaving out.
const CUT_BYTES_MIN: usize = if cfg!(any(test, fuzzing)) { 2 } else { 64 };

/// Where a text without its inner values goes on behind one of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// In the text without.
    reduced: usize,
    /// In the text.
    whole: usize,
}

/// Where in the text what stands at `at` in the text without inner values is.
pub(super) fn whole_offset(cuts: &[Cut], at: usize) -> usize {
    match cuts.partition_point(|cut| cut.reduced <= at).checked_sub(1) {
        None => at,
        Some(last) => at - cuts[last].reduced + cuts[last].whole,
    }
}

/// The text is not I-JSON.
#[derive(Debug, PartialEq)]
pub(super) struct Broken;

/// What checking a whole text came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::protocol) enum Verdict {
    /// It is I-JSON; its array has so many elements, if it is one.
    Good { element_count: usize },
    /// It is not UTF-8 at this byte.
    NotUtf8 { at: usize },
    /// It is not I-JSON: something is wrong at this byte or soon after it.
    Broken { near: usize },
}

/// The memory that checking needs, and how far it has come.
#[derive(Default)]
pub(super) struct Checker {
    progress: Progress,
    /// What is open around the innermost.
    open: Vec<Open>,
    /// Of all open objects whose keys must differ, the innermost's last.
    keys: Vec<Key>,
    /// Keys that were written with escapes, without them.
    unescaped: Vec<u8>,
    /// The text without inner values; empty for one that is `data`.
    pub(super) reduced: Copied,
    pub(super) cuts: Vec<Cut>,
    set: KeySet,
    /// Values and keys that were gone over.
    pub(super) values: usize,
}

/// Where the check stands: a value begins, or the innermost of what is open ends.
#[derive(Clone, Copy, Default)]
struct Progress {
    shape: Shape,
    /// How deep the text may be nested.
    depth_max: usize,
    at: usize,
    /// Up to here the text is in `reduced`, or has a stand-in there.
    copied: usize,
    element_count: usize,
    /// The innermost of what is open; of the text itself, which nothing closes, at first.
    inner: Open,
    /// The value is that of the key `data`.
    is_data: bool,
    /// The innermost ends here.
    is_closing: bool,
    /// So many of its keys were found to differ.
    keys_looked_at: usize,
}

/// An array or object that has not ended.
#[derive(Clone, Copy, Default)]
struct Open {
    start: usize,
    is_object: bool,
    /// How many of the open keys are not its.
    keys_from: usize,
}

/// A key's bytes between the quotes.
#[derive(Clone, Copy)]
struct Key {
    start: u32,
    end: u32,
    is_unescaped: bool,
}

/// One value's or key's string.
pub(super) struct Text {
    /// Past the closing quote.
    pub(super) end: usize,
    pub(super) has_escapes: bool,
}

impl Checker {
    /// Overwrites what is here of texts that were checked; returns how many bytes that were.
    pub(super) fn wipe(&mut self) -> usize {
        self.reduced.wipe()
    }

    /// What looking for one key among others costs, in bytes gone over.
    const KEY_BYTES: usize = 8;

    pub(super) fn kept_bytes(&self) -> usize {
        self.keys.capacity() * size_of::<Key>()
            + self.unescaped.capacity()
            + self.reduced.capacity()
            + self.cuts.capacity() * size_of::<Cut>()
            + self.set.kept_bytes()
    }

    /// Checks the whole `text`, whose `data` may be `data_depth_max` levels deep.
    pub(super) fn check(&mut self, text: &[u8], shape: Shape, data_depth_max: usize) -> Verdict {
        if let Err(error) = simdutf8::compat::from_utf8(text) {
            return Verdict::NotUtf8 { at: error.valid_up_to() };
        }
        self.begin(shape, data_depth_max);
        self.go_on(text, usize::MAX).expect("a text ends")
    }

    /// Begins to check another text.
    pub(super) fn begin(&mut self, shape: Shape, data_depth_max: usize) {
        self.open.clear();
        self.keys.clear();
        self.unescaped.clear();
        self.reduced.clear();
        self.cuts.clear();
        self.values = 0;
        self.progress = Progress { shape, depth_max: shape.depth_max(data_depth_max), ..Progress::default() };
    }

    /// Up to where the text was gone over.
    pub(super) fn at(&self) -> usize {
        self.progress.at
    }

    /// Goes on to check that `text`, which is UTF-8 and always the same, is I-JSON, except that a command's own
    /// keys may repeat, and leaves what is inside of it out of `reduced`. Stops at the end of the value, or
    /// amid the keys of an object that ends, where some `bytes_max` bytes were gone over: `None` if that is
    /// before the end.
    pub(super) fn go_on(&mut self, text: &[u8], bytes_max: usize) -> Option<Verdict> {
        match self.walk(text, bytes_max) {
            Ok(None) => None,
            Ok(Some(element_count)) => Some(Verdict::Good { element_count }),
            Err(Broken) => Some(Verdict::Broken { near: self.progress.at }),
        }
    }

    fn walk(&mut self, text: &[u8], bytes_max: usize) -> Result<Option<usize>, Broken> {
        let Progress {
            shape,
            depth_max,
            mut at,
            mut copied,
            mut element_count,
            mut inner,
            mut is_data,
            mut is_closing,
            mut keys_looked_at,
        } = self.progress;
        // Members of a command stand so deep, and what else is in their place or in that of a command.
        let member_depth = shape.member_depth();
        let mut pause_at = at.saturating_add(bytes_max.max(1));
        loop {
            // Even if no one pauses here, this is what tells near which byte something is wrong.
            self.progress.at = at;
            if at >= pause_at {
                self.progress = Progress {
                    shape,
                    depth_max,
                    at,
                    copied,
                    element_count,
                    inner,
                    is_data,
                    is_closing,
                    keys_looked_at,
                };
                return Ok(None);
            }
            let start;
            let mut is_container = false;
            if is_closing {
                let key_count = self.keys.len() - inner.keys_from;
                if key_count > 1 && inner.is_object {
                    let from = keys_looked_at;
                    let count_max = ((pause_at - at) / Self::KEY_BYTES).max(1);
                    if self.has_duplicate(text, inner.keys_from, &mut keys_looked_at, count_max) {
                        return Err(Broken);
                    }
                    pause_at = pause_at.saturating_sub((keys_looked_at - from) * Self::KEY_BYTES);
                    if keys_looked_at < key_count {
                        continue;
                    }
                    keys_looked_at = 0;
                }
                self.keys.truncate(inner.keys_from);
                at += 1;
                (start, is_container) = (inner.start, true);
                inner = self.open.pop().expect("what ends was open");
                is_closing = false;
            } else {
                at = skip_spaces(text, at);
                start = at;
                self.values += 1;
                match *text.get(at).ok_or(Broken)? {
                    b'"' => at = string(text, at)?.end,
                    b'-' | b'0'..=b'9' => at = number(text, at)?,
                    b't' => at = literal(text, at, b"true")?,
                    b'f' => at = literal(text, at, b"false")?,
                    b'n' => at = literal(text, at, b"null")?,
                    bracket @ (b'{' | b'[') => {
                        if self.open.len() == depth_max {
                            return Err(Broken);
                        }
                        at = skip_spaces(text, at + 1);
                        let is_object = bracket == b'{';
                        if text.get(at) == Some(if is_object { &b'}' } else { &b']' }) {
                            at += 1;
                            is_container = true;
                        } else {
                            self.open.push(inner);
                            inner = Open { start, is_object, keys_from: self.keys.len() };
                            if is_object {
                                (at, is_data) = self.key(text, at, member_depth)?;
                            }
                            continue;
                        }
                    }
                    _ => return Err(Broken),
                }
            }
            // A value has ended.
            let depth = self.open.len();
            if at - start > CUT_BYTES_MIN && depth <= member_depth {
                let is_member = depth == member_depth && inner.is_object;
                // An array in the place of a command.
                let is_misplaced = depth + 1 == member_depth && text[start] == b'[';
                if is_misplaced || is_member && (is_container || is_data) {
                    self.reduced.extend_from_slice(&text[copied..start]);
                    let stand_in: &[u8] = match text[start] {
                        b'[' => b"[]",
                        b'{' => b"{}",
                        _ => b"0",
                    };
                    self.reduced.extend_from_slice(stand_in);
                    self.cuts.push(Cut { reduced: self.reduced.len(), whole: at });
                    copied = at;
                }
            }
            at = skip_spaces(text, at);
            // What is wrong from here on is not that value's fault.
            self.progress.at = at;
            if depth <= 1 {
                if depth == 0 {
                    if member_depth > 0 {
                        self.reduced.extend_from_slice(&text[copied..]);
                    }
                    return if at == text.len() { Ok(Some(element_count)) } else { Err(Broken) };
                }
                element_count += 1;
            }
            match *text.get(at).ok_or(Broken)? {
                b',' => {
                    at += 1;
                    if inner.is_object {
                        (at, is_data) = self.key(text, skip_spaces(text, at), member_depth)?;
                    }
                }
                b'}' if inner.is_object => is_closing = true,
                b']' if !inner.is_object => is_closing = true,
                _ => return Err(Broken),
            }
        }
    }

    /// Takes a key and its colon; says where its value begins, and whether it is `data`.
    fn key(&mut self, text: &[u8], at: usize, member_depth: usize) -> Result<(usize, bool), Broken> {
        if text.get(at) != Some(&b'"') {
            return Err(Broken);
        }
        self.values += 1;
        let Text { end, has_escapes } = string(text, at)?;
        let raw = &text[at + 1..end - 1];
        // Those of a command itself are its own fault and not the text's.
        if self.open.len() != member_depth {
            let (start, end) = match has_escapes {
                false => (at + 1, end - 1),
                true => {
                    let start = self.unescaped.len();
                    unescape(raw, &mut self.unescaped);
                    (start, self.unescaped.len())
                }
            };
            self.keys.push(Key { start: start as u32, end: end as u32, is_unescaped: has_escapes });
        }
        let colon = skip_spaces(text, end);
        if text.get(colon) != Some(&b':') {
            return Err(Broken);
        }
        Ok((colon + 1, raw == b"data"))
    }

    /// Whether a key of the innermost object is there twice, as far as `count_max` keys more tell.
    fn has_duplicate(
        &mut self,
        text: &[u8],
        keys_from: usize,
        looked_at: &mut usize,
        count_max: usize,
    ) -> bool {
        let Self { keys, unescaped, set, .. } = self;
        let keys = &keys[keys_from..];
        set.has_duplicate(keys.len(), looked_at, count_max, |index| {
            let Key { start, end, is_unescaped } = keys[index];
            let bytes = if is_unescaped { &**unescaped } else { text };
            &bytes[start as usize..end as usize]
        })
    }
}

impl Verdict {
    /// What becomes of a text of `text_len` bytes: its count of elements if it is good, `None` if the broken rule
    /// is still to be looked for, which is worth it up to `named_bytes_max`, or words that do without.
    pub(super) fn judge(self, text_len: usize, named_bytes_max: usize) -> Result<Option<usize>, String> {
        match self {
            Verdict::Good { element_count } => Ok(Some(element_count)),
            _ if text_len <= named_bytes_max => Ok(None),
            Verdict::NotUtf8 { at } => Err(format!("not UTF-8 at byte {at}")),
            Verdict::Broken { near } => Err(format!(
                "not I-JSON (RFC 7493) near byte {near} of {text_len}; the rule is named for texts of at most {named_bytes_max} bytes"
            )),
        }
    }
}

#[inline(always)]
pub(super) fn skip_spaces(text: &[u8], mut at: usize) -> usize {
    /// So many in a row are likely to be followed by more.
    const RUN: usize = 16;

    let begin = at;
    while text.get(at).is_some_and(is_space) {
        at += 1;
        if at - begin == RUN {
            return skip_many_spaces(text, at);
        }
    }
    at
}

#[inline(never)]
fn skip_many_spaces(text: &[u8], mut at: usize) -> usize {
    // A fold without an exit is what the compiler turns into vector code.
    while let Some(chunk) = text.get(at..at + 32)
        && chunk.iter().fold(true, |all, byte| all & is_space(byte))
    {
        at += chunk.len();
    }
    at + text[at..].iter().take_while(|byte| is_space(byte)).count()
}

/// RFC 8259, section 2.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[inline]
fn literal(text: &[u8], at: usize, word: &[u8]) -> Result<usize, Broken> {
    if text[at..].starts_with(word) { Ok(at + word.len()) } else { Err(Broken) }
}

/// The string that begins with the quote at `at`.
#[inline]
pub(super) fn string(text: &[u8], at: usize) -> Result<Text, Broken> {
    /// So many plain bytes in a row are likely to be followed by more.
    const RUN: usize = 16;
    /// A quote, an escape, a control character, or what a noncharacter begins with.
    fn is_special(byte: u8) -> bool {
        byte == b'"' || byte == b'\\' || !(0x20..0xef).contains(&byte)
    }

    let mut has_escapes = false;
    let mut at = at + 1;
    let mut run = 0;
    loop {
        match *text.get(at).ok_or(Broken)? {
            b'"' => return Ok(Text { end: at + 1, has_escapes }),
            b'\\' => {
                at = escape(text, at)?.1;
                has_escapes = true;
                run = 0;
            }
            0..0x20 => return Err(Broken),
            0xef.. => {
                let Some(c) = text.get(at..(at + 4).min(text.len())).and_then(first_char) else {
                    return Err(Broken);
                };
                if is_noncharacter(c) {
                    return Err(Broken);
                }
                at += char::from_u32(c).map_or(1, char::len_utf8);
                run = 0;
            }
            _ => {
                at += 1;
                run += 1;
                if run == RUN {
                    run = 0;
                    // A fold without an exit is what the compiler turns into vector code.
                    while let Some(chunk) = text.get(at..at + 32)
                        && !chunk.iter().fold(false, |found, &byte| found | is_special(byte))
                    {
                        at += chunk.len();
                    }
                }
            }
        }
    }
}

/// The character of three or four bytes that valid UTF-8 begins with.
fn first_char(bytes: &[u8]) -> Option<u32> {
    let low = |byte: u8| u32::from(byte & 0x3f);
    match *bytes {
        [first @ 0xf0..=0xf7, a, b, c] => {
            Some(u32::from(first & 7) << 18 | low(a) << 12 | low(b) << 6 | low(c))
        }
        [first, a, b, ..] => Some(u32::from(first & 0xf) << 12 | low(a) << 6 | low(b)),
        _ => None,
    }
}

/// The character that the escape at `at` stands for, and where it ends.
#[inline]
fn escape(text: &[u8], at: usize) -> Result<(u32, usize), Broken> {
    let c = match text.get(at + 1).ok_or(Broken)? {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 8,
        b'f' => 12,
        &c @ (b'"' | b'\\' | b'/') => c,
        b'u' => return unicode_escape(text, at),
        _ => return Err(Broken),
    };
    Ok((u32::from(c), at + 2))
}

fn unicode_escape(text: &[u8], at: usize) -> Result<(u32, usize), Broken> {
    let hex = |at: usize| match text.get(at..at + 6) {
        Some([b'\\', b'u', digits @ ..]) => {
            digits.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))
        }
        _ => None,
    };
    let (c, end) = match hex(at).ok_or(Broken)? {
        high @ 0xd800..0xdc00 => match hex(at + 6) {
            Some(low @ 0xdc00..0xe000) => (0x10000 + ((high - 0xd800) << 10 | (low - 0xdc00)), at + 12),
            _ => return Err(Broken),
        },
        0xdc00..0xe000 => return Err(Broken),
        c => (c, at + 6),
    };
    if is_noncharacter(c) { Err(Broken) } else { Ok((c, end)) }
}

/// Appends what `raw`, a good string without its quotes, stands for.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < raw.len() {
        match raw[at] {
            b'\\' => {
                let (c, end) = escape(raw, at).expect("the string was checked");
                let c = char::from_u32(c).expect("surrogates come in pairs");
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                at = end;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

/// Where the number at `start` ends, which must be within a double.
#[inline]
fn number(text: &[u8], start: usize) -> Result<usize, Broken> {
    let digits = |mut at: usize| {
        while text.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let integer = start + usize::from(text[start] == b'-');
    let point = digits(integer);
    if point == integer || (text[integer] == b'0' && point > integer + 1) {
        return Err(Broken);
    }
    let mut at = point;
    if text.get(at) == Some(&b'.') {
        at = digits(point + 1);
        if at == point + 1 {
            return Err(Broken);
        }
    }
    let significand = integer..at;
    let mut exponent = 0;
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = text.get(at + 1);
        let first = at + 1 + usize::from(matches!(sign, Some(b'+' | b'-')));
        at = digits(first);
        if at == first {
            return Err(Broken);
        }
        // Far beyond any that makes a difference.
        exponent = text[first..at]
            .iter()
            .fold(0_i64, |exponent, digit| (exponent * 10 + i64::from(digit - b'0')).min(1 << 40));
        if sign == Some(&b'-') {
            exponent = -exponent;
        }
    }
    // Shorter than that, and with so small an exponent, it is far from the end of doubles.
    let is_short = exponent < 100 && point - integer < 200;
    if is_short || is_finite(&text[significand], exponent) { Ok(at) } else { Err(Broken) }
}

/// Whether `significand` × 10^`exponent` rounds to a double that is finite.
fn is_finite(significand: &[u8], exponent: i64) -> bool {
    /// The least number that does not: 2^1024 − 2^970, halfway between the largest double and the next.
    const HALFWAY: &str = "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017\
        977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273\
        854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704\
        342711559699508093042880177904174497792";
    let point = significand.iter().position(|byte| *byte == b'.').unwrap_or(significand.len());
    let Some(first) = significand.iter().position(|byte| matches!(byte, b'1'..=b'9')) else { return true };
    let digits_before_point = point as i64 - first as i64 + i64::from(first > point);
    match (digits_before_point + exponent).cmp(&(HALFWAY.len() as i64)) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
        std::cmp::Ordering::Equal => {
            significand[first..].iter().filter(|byte| **byte != b'.').lt(HALFWAY.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;
    use crate::protocol::json::DEPTH_MAX_DEFAULT;

    fn check(text: &str, shape: Shape) -> Result<usize, Broken> {
        match Checker::default().check(text.as_bytes(), shape, DEPTH_MAX_DEFAULT) {
            Verdict::Good { element_count } => Ok(element_count),
            _ => Err(Broken),
        }
    }

    fn nested(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn each_shape_has_its_depth() {
        for (shape, more) in [(Shape::Data, 0), (Shape::Command, 1), (Shape::Commands, 2)] {
            assert!(check(&nested(DEPTH_MAX_DEFAULT + more), shape).is_ok());
            assert_eq!(check(&nested(DEPTH_MAX_DEFAULT + more + 1), shape), Err(Broken));
        }
    }

    #[test]
    fn elements_of_the_outer_array_are_counted() {
        for (text, count) in [("[]", 0), ("[7]", 1), ("[[1,2],{\"a\":1,\"b\":2} , [ ]]", 3)] {
            assert_eq!(check(text, Shape::Commands), Ok(count), "{text}");
        }
    }

    #[test]
    fn what_is_inside_of_commands_is_left_out() {
        let (long, key) = (format!("[{}0]", "0,".repeat(40)), "\"op\" : 1");
        let mut checker = Checker::default();
        for (text, shape, expected) in [
            (format!(" {{{key}, \"data\": {long} }}"), Shape::Command, format!(" {{{key}, \"data\": [] }}")),
            (format!("[{{\"data\":\"{long}\"}}, {long}]"), Shape::Commands, "[{\"data\":0}, []]".to_owned()),
            (format!("{{\"op\":\"{long}\"}}"), Shape::Command, format!("{{\"op\":\"{long}\"}}")),
        ] {
            assert!(matches!(checker.check(text.as_bytes(), shape, DEPTH_MAX_DEFAULT), Verdict::Good { .. }));
            assert_eq!(str::from_utf8(&checker.reduced), Ok(expected.as_str()));
            for cut in &checker.cuts {
                assert_eq!(checker.reduced.get(cut.reduced), text.as_bytes().get(cut.whole));
                assert_eq!(whole_offset(&checker.cuts, cut.reduced), cut.whole);
            }
        }
    }

    /// Steps and not time: whatever keys a stranger chooses, each is compared with few others.
    #[test]
    fn duplicate_keys_are_looked_for_in_steps_proportional_to_the_keys() {
        for key_count in [2, 8, 9, 100, 10_000] {
            for object_count in [1, 3] {
                let keys: Vec<String> = (0..key_count).map(|key| format!("\"{key:05}\":0")).collect();
                let objects = vec![format!("{{{}}}", keys.join(",")); object_count];
                let text = format!("[{}]", objects.join(","));
                let mut checker = Checker::default();
                let verdict = checker.check(text.as_bytes(), Shape::Data, DEPTH_MAX_DEFAULT);
                assert!(matches!(verdict, Verdict::Good { .. }));
                let steps = checker.set.steps;
                assert!(steps <= 8 * key_count * object_count, "{steps} for {key_count}");
                let twice = text.replacen("\"00001\"", "\"0000\\u0030\"", 1);
                assert_eq!(check(&twice, Shape::Data), Err(Broken));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 3_000,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(8259),
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_number_is_within_a_double(
            digits in prop_oneof!["[0-9]{1,30}", "0{0,5}1797693134862315[78][0-9]{0,12}", "179769313486231580793[67][0-9]{0,300}"],
            point in 0_usize..40,
            exponent in prop_oneof![-340_i64..-280, 270_i64..320, any::<i32>().prop_map(i64::from)],
        ) {
            let (before, after) = digits.split_at(point.min(digits.len()));
            let before = before.trim_start_matches('0');
            let before = if before.is_empty() { "0" } else { before };
            let number = match after {
                "" if exponent % 2 == 0 => format!("{before}{}", "0".repeat(exponent.clamp(0, 400) as usize)),
                "" => format!("-{before}e{exponent}"),
                after => format!("{before}.{after}E{exponent:+}"),
            };
            let is_finite = number.parse::<f64>().expect("a number").is_finite();
            prop_assert_eq!(check(&number, Shape::Data).is_ok(), is_finite, "{}", number);
        }
    }
}
