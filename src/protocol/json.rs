//! `fanfare.json.v1`: commands from text messages.
//!
//! A message is one command, an object, or an array of commands. The whole text must be I-JSON
//! (RFC 7493): one that is not executes nothing and is answered by one error, `bad_message`, and that
//! code means nothing else. Everything else that can be wrong is wrong with one command of it.
//!
//! Of several faults in one command the first of these is told: a duplicate key, the `op`, an unknown
//! key, the `id`, `since`, `last`, `resume`, `limit`, `before` and `after`, `receivers`, `retain`, `key`, `data`, the topic, an
//! option that is not offered for it. Of an `auth` the `token` is the last.

mod copied;
mod culprit;
mod document;
mod key;
mod long;
mod message;
#[cfg(any(test, fuzzing))]
pub(crate) mod naive;
mod once;
mod past;
#[cfg(any(test, fuzzing))]
pub(crate) mod pointer;
#[cfg(not(any(test, fuzzing)))]
mod pointer;
mod quick;
mod resume;
mod token;
mod write;

use std::borrow::Cow;

use culprit::Culprit;
use document::{Document, Place, Scratch, Shape, Size};
use key::{Key, Op};
use simd_json::{Node, StaticNode};

pub use document::Read;
pub(super) use document::{Quoted, find_noncharacter};
pub(super) use long::Verdict;
pub use message::LongMessage;
pub(super) use once::check_key;
pub use pointer::{POINTER_BYTES_MAX, Pointer};
pub(super) use write::{
    Decimal, decimal_len, escaped_len, take_decimal, unescaped_len, write_escaped, write_unescaped,
    written_len,
};

use super::{
    command::{
        self, Command, CommandError, ErrorCode, HISTORY_DEFAULT, HISTORY_MAX, LAST_MAX, Many, PayloadKind,
        RequestId, Start,
    },
    rest::Rest,
    topic::{Filter, TOPIC_BYTES_MAX, TopicName, TopicRule},
};

/// How deep `data` may be nested unless a parser is told otherwise. With the message around it that is one level
/// more, which is what the least patient of common parsers takes.
pub const DEPTH_MAX_DEFAULT: usize = 63;
/// The most commands in one array.
pub const COMMANDS_MAX: usize = 1024;
/// The largest number that may be an `id`: what every JSON reader holds exactly.
pub const ID_NUMBER_MAX: u64 = (1 << 53) - 1;
/// The longest text that may be an `id`: bytes between the quotes, as written.
pub const ID_TEXT_BYTES_MAX: usize = 64;

/// Reads commands, and keeps the memory that this takes from one message to the next.
///
/// It keeps up to some 80 bytes per byte of the longest message of at most 64 KiB, and 30 of any longer one, most
/// often a few, until [`Parser::trim`] gives that back; so share one per reactor.
pub struct Parser {
    scratch: Scratch,
}

/// The commands of one message: one, or an array.
pub type Commands<'a> = command::Commands<'a, Array<'a>>;

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser").finish_non_exhaustive()
    }
}

impl Parser {
    /// A parser that has allocated nothing yet, and takes `data` of [`DEPTH_MAX_DEFAULT`] levels.
    pub fn new() -> Self {
        Self::with_depth_max(DEPTH_MAX_DEFAULT)
    }

    /// A parser that takes `data` of so many levels.
    pub fn with_depth_max(depth_max: usize) -> Self {
        Self { scratch: Scratch::new(depth_max) }
    }

    /// A parser for which every text is long.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn for_long_texts() -> Self {
        Self { scratch: Scratch::for_long_texts(DEPTH_MAX_DEFAULT, usize::MAX) }
    }

    /// A parser for which every text is too long to name the rule that it breaks.
    #[cfg(test)]
    pub(crate) fn for_longest_texts() -> Self {
        Self { scratch: Scratch::for_long_texts(DEPTH_MAX_DEFAULT, 0) }
    }

    /// The commands in `text`, each with its own result. An error means that there is none to run:
    /// the text is not I-JSON, or neither an object nor an array of at most [`COMMANDS_MAX`] objects.
    pub fn parse<'a>(&'a mut self, text: &'a str) -> Result<Commands<'a>, CommandError<'a>> {
        if self.scratch.is_short(text.len())
            && let Some((command, value_count)) = quick::read(text, self.scratch.data_depth_max())
        {
            self.scratch.note_read(Read { bytes: text.len(), values: value_count });
            return Ok(Commands::One(Some(Ok(command))));
        }
        self.parse_slowly(text)
    }

    /// The same by way of a document, whatever the commands are.
    fn parse_slowly<'a>(&'a mut self, text: &'a str) -> Result<Commands<'a>, CommandError<'a>> {
        let shape = shape_of(text);
        let checked = self.scratch.check_long(text.as_bytes(), shape);
        let checked = checked.map_err(|fault| fault.accuse(text))?;
        self.parse_checked(text, shape, checked)
    }

    /// What [`Parser::parse`] says of a text message that was checked before: without another look at what is
    /// inside of its values.
    ///
    /// Panics if the message is binary, or not checked to its end.
    pub fn parse_long<'a>(&'a mut self, long: &'a mut LongMessage) -> Result<Commands<'a>, CommandError<'a>> {
        let (text, verdict, culprit, checker) = long.checked_text();
        self.scratch.adopt(checker);
        let checked = self.scratch.judge(verdict, text.as_bytes(), culprit);
        let checked = checked.map_err(|fault| fault.accuse(text))?;
        self.parse_checked(text, shape_of(text), checked)
    }

    /// Parses a text, of which is known how many elements its array has if it was checked.
    #[inline]
    fn parse_checked<'a>(
        &'a mut self,
        text: &'a str,
        shape: Shape,
        checked: Option<usize>,
    ) -> Result<Commands<'a>, CommandError<'a>> {
        if let Shape::Commands = shape {
            // Before simd-json makes nodes of all that are too many.
            checked.map_or(Ok(()), check_count)?;
        }
        let document = self.scratch.parse(text.as_bytes(), shape, checked.is_some());
        let mut document = document.map_err(|fault| fault.accuse(text))?;
        if let (Shape::Commands, Node::Array { len, .. }) = (shape, document.node(Place::ROOT)) {
            return Array::new(document, text, len).map(Commands::Many);
        }
        let (command, _) = read::<true, _>(&mut document, text, Place::ROOT, keep_unescaped);
        match command {
            Err(error) if error.code == ErrorCode::BadMessage => Err(error),
            command => Ok(Commands::One(Some(command))),
        }
    }

    /// The one command in `text`, which must be an object. What it returns does not keep the parser
    /// borrowed, at the price of an allocation for a topic that is written with escapes.
    pub(super) fn parse_one<'a>(&mut self, text: &'a str) -> Result<Command<'a>, CommandError<'a>> {
        let checked = self.scratch.check_long(text.as_bytes(), Shape::Command);
        let is_checked = checked.map_err(|fault| fault.accuse(text))?.is_some();
        let document = self.scratch.parse(text.as_bytes(), Shape::Command, is_checked);
        let mut document = document.map_err(|fault| fault.accuse(text))?;
        read::<true, _>(&mut document, text, Place::ROOT, |unescaped: &str, raw| {
            if unescaped.len() == raw.len() { Cow::Borrowed(raw) } else { Cow::Owned(unescaped.to_owned()) }
        })
        .0
    }

    /// The one command in `text`, which was a command of an array that was checked as a whole: it is I-JSON, and
    /// only too deep if less is allowed than was then.
    pub(super) fn read_again<'a>(&'a mut self, text: &'a str) -> Result<Command<'a>, CommandError<'a>> {
        let checked = self.scratch.check_long(text.as_bytes(), Shape::Command);
        let is_checked = checked.map_err(|fault| fault.accuse(text))?.is_some();
        let document = self.scratch.parse(text.as_bytes(), Shape::Command, is_checked);
        let mut document = document.map_err(|fault| fault.accuse(text))?;
        read::<false, _>(&mut document, text, Place::ROOT, keep_unescaped).0
    }

    /// What was read since this was last asked.
    pub fn take_read(&mut self) -> Read {
        self.scratch.take_read()
    }

    /// How much memory is kept for the next message, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.scratch.kept_bytes()
    }

    /// Overwrites what it has of texts that it read; returns how many bytes that were.
    pub fn wipe(&mut self) -> usize {
        self.scratch.wipe()
    }

    /// Whether it has these bytes of a text that it read.
    #[cfg(test)]
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.scratch.holds(bytes)
    }

    /// Gives that back if it is more than `bytes_max`.
    pub fn trim(&mut self, bytes_max: usize) {
        self.scratch.trim(bytes_max);
    }

    /// Checks that `data` can be a publication's: one I-JSON value, no deeper than allowed. The
    /// error is the broken rule.
    pub fn check_data(&mut self, data: &[u8]) -> Result<(), String> {
        let checked = self.scratch.check_long(data, Shape::Data).map_err(|fault| fault.rule)?;
        self.name_broken_rule(data, checked)
    }

    /// The same for `data` that came to this verdict.
    pub(super) fn judge_data(&mut self, data: &[u8], verdict: Verdict) -> Result<(), String> {
        let checked = self.scratch.judge(verdict, data, Culprit::default()).map_err(|fault| fault.rule)?;
        self.name_broken_rule(data, checked)
    }

    fn name_broken_rule(&mut self, data: &[u8], checked: Option<usize>) -> Result<(), String> {
        if checked.is_some() {
            return Ok(());
        }
        let mut broken_rule = None;
        let document = self.scratch.parse(data, Shape::Data, false);
        document.map_err(|fault| fault.rule)?.check(Place::ROOT, &mut broken_rule);
        broken_rule.map_or(Ok(()), Err)
    }
}

/// Whether a message is one command or an array of them.
fn shape_of(text: &str) -> Shape {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    match text.as_bytes().iter().find(|byte| !is_space(byte)) {
        Some(b'[') => Shape::Commands,
        _ => Shape::Command,
    }
}

/// The commands of an array that is I-JSON.
pub struct Array<'a> {
    document: Document<'a>,
    text: &'a str,
    /// Of the next command, while any are left.
    next: Place,
    left: usize,
}

impl<'a> Array<'a> {
    fn new(mut document: Document<'a>, text: &'a str, len: usize) -> Result<Self, CommandError<'a>> {
        check_count(len)?;
        // Before the first command is run, since a text that is not I-JSON executes nothing.
        let mut next = Place::ROOT.inside();
        for _ in 0..len {
            let place = next;
            let mut broken_rule = None;
            let size = document.check_inside(place, &mut broken_rule);
            if broken_rule.is_some() || !matches!(document.node(place), Node::Object { .. }) {
                // Read for nothing but the error, which says which command it was.
                read::<true, _>(&mut document, text, place, keep_unescaped).0?;
                unreachable!("reading a command finds what checking it found");
            }
            next = place.next(size);
        }
        Ok(Self { document, text, next: Place::ROOT.inside(), left: len })
    }
}

fn check_count<'a>(len: usize) -> Result<(), CommandError<'a>> {
    if len <= COMMANDS_MAX {
        return Ok(());
    }
    Err(CommandError::new(
        ErrorCode::LimitReached,
        format!("the array has {len} commands; at most {COMMANDS_MAX} are allowed"),
    ))
}

impl<'a> Iterator for Array<'a> {
    type Item = Result<Command<'a>, CommandError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (command, size) = read::<false, _>(&mut self.document, self.text, self.next, keep_unescaped);
        self.next = self.next.next(size);
        Some(command)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<'a> Many<'a> for Array<'a> {
    fn into_rest(self) -> Option<Box<Rest>> {
        let Self { document, text, mut next, left } = self;
        Rest::of_json((0..left).map(|_| {
            let place = next;
            let size = document.size(place);
            next = place.next(size);
            document.raw(text, place, size)
        }))
    }

    fn take_read(&mut self) -> Read {
        self.document.take_read()
    }
}

/// A topic as it stands unescaped in the parser's scratch: nothing to allocate.
fn keep_unescaped<'a>(unescaped: &'a str, _raw: &'a str) -> Cow<'a, str> {
    Cow::Borrowed(unescaped)
}

/// One member's value.
#[derive(Clone, Copy)]
struct Value<'s, 'a> {
    node: Node<'s>,
    /// As it is written.
    raw: &'a str,
}

impl Value<'_, '_> {
    fn is_null(&self) -> bool {
        matches!(self.node, Node::Static(StaticNode::Null))
    }
}

/// The members of a command before anything about them is judged.
struct Members<'s, 'a> {
    /// Which there are, a bit each.
    keys: u16,
    values: [Option<Value<'s, 'a>>; Key::COUNT],
    duplicate: Option<Key>,
    unknown: Option<&'s str>,
    /// Why the text is not I-JSON after all.
    broken_rule: Option<String>,
}

impl<'s, 'a> Members<'s, 'a> {
    fn get(&self, key: Key) -> Option<&Value<'s, 'a>> {
        self.values[key as usize].as_ref()
    }

    /// The same of a key that is not there if it is null.
    /// Whether the topic is a filter with wildcards, in a command that asks for some of the past of what it matches.
    fn has_wildcards(&self, topic: &Option<Cow<'_, str>>) -> bool {
        let asks = self.get_set(Key::Since).is_some() || self.get_set(Key::Resume).is_some();
        asks && topic.as_ref().is_some_and(|topic| topic.contains(['+', '#']))
    }

    fn get_set(&self, key: Key) -> Option<&'a str> {
        self.get(key).filter(|value| !value.is_null()).map(|value| value.raw)
    }
}

/// Reads the command at `place`, and how much it takes.
///
/// `CHECK` looks for what I-JSON forbids beyond the grammar, which an array has had done for all its
/// commands. `keep` makes a topic last as long as the command, from its unescaped and its raw form.
#[inline]
fn read<'s, 'a, const CHECK: bool, K>(
    document: &mut Document<'s>,
    text: &'a str,
    place: Place,
    keep: K,
) -> (Result<Command<'a>, CommandError<'a>>, Size)
where
    K: Fn(&'s str, &'a str) -> Cow<'a, str>,
{
    let Node::Object { len, .. } = document.node(place) else {
        let message = format!(
            "{} is no command; a JSON object, or an array of at most {COMMANDS_MAX} objects, is allowed",
            describe(&document.node(place))
        );
        return (Err(CommandError::bad_message(message)), document.size(place));
    };
    let mut members =
        Members { keys: 0, values: [None; Key::COUNT], duplicate: None, unknown: None, broken_rule: None };
    let size = read_members::<CHECK>(document, text, place, len, &mut members);
    (judge(&members, keep), size)
}

/// Sorts the members of the object at `place` into `members`, and says how much the object takes.
fn read_members<'s, 'a, const CHECK: bool>(
    document: &mut Document<'s>,
    text: &'a str,
    place: Place,
    len: usize,
    members: &mut Members<'s, 'a>,
) -> Size {
    let mut next = place.inside();
    for _ in 0..len {
        let Node::String(name) = document.node(next) else {
            unreachable!("simd-json puts a string before each value")
        };
        let value_place = next.value();
        let size = if CHECK {
            document.check_string(name, &mut members.broken_rule);
            document.check(value_place, &mut members.broken_rule)
        } else {
            document.size(value_place)
        };
        match Key::from_str(name) {
            None => _ = members.unknown.get_or_insert(name),
            Some(key) => {
                let slot = &mut members.values[key as usize];
                if slot.is_some() {
                    members.duplicate.get_or_insert(key);
                } else {
                    let raw = document.raw(text, value_place, size);
                    *slot = Some(Value { node: document.node(value_place), raw });
                    members.keys |= key.bit();
                }
            }
        }
        next = value_place.next(size);
    }
    // After the last member `next` is past the closing bracket, where a comma would have been; an
    // empty object has no member to have put it there.
    let structurals = if len == 0 { 2 } else { next.structural - place.structural };
    Size { nodes: next.node - place.node, structurals }
}

/// Makes a command of its members, or says what is wrong with them.
#[inline]
fn judge<'s, 'a>(
    members: &Members<'s, 'a>,
    keep: impl Fn(&'s str, &'a str) -> Cow<'a, str>,
) -> Result<Command<'a>, CommandError<'a>> {
    let op = match members.get(Key::Op) {
        Some(Value { node: Node::String(name), .. }) => Op::from_str(name),
        _ => None,
    };
    let id = match members.get(Key::Id) {
        // Libraries write a field that is not set as null.
        None => Ok(None),
        Some(value) if value.is_null() => Ok(None),
        Some(value) => read_id(value).map(Some),
    };
    let topic = match members.get(Key::Topic) {
        Some(Value { node: Node::String(topic), raw }) if topic.len() <= TOPIC_BYTES_MAX => {
            let without_quotes = &raw[1..raw.len() - 1];
            Some(keep(topic, without_quotes))
        }
        _ => None,
    };
    let id_or_none = id.as_ref().copied().unwrap_or_default();
    make_command(members, op, id, &topic).map_err(|Fault { code, message }| {
        // An error must be I-JSON even if what it is about is not.
        let can_be_told = |key| match members.get(key) {
            Some(Value { node: Node::String(text), .. }) => find_noncharacter(text).is_none(),
            _ => true,
        };
        CommandError {
            op: op.map(Op::as_str),
            id: id_or_none.filter(|_| can_be_told(Key::Id)),
            topic: topic.filter(|_| can_be_told(Key::Topic)),
            code,
            message: message.into(),
            retry_after_ms: None,
        }
    })
}

/// What is wrong with a command, without what the error says about the command.
struct Fault {
    code: ErrorCode,
    message: String,
}

/// Refuses the command at hand.
macro_rules! refuse {
    ($code:ident, $($message:tt)*) => {
        return Err(Fault { code: ErrorCode::$code, message: format!($($message)*) })
    };
}

/// Makes the command if nothing is wrong with it; a `topic` that may be one but for its rules is looked at last.
#[inline]
fn make_command<'a>(
    members: &Members<'_, 'a>,
    op: Option<Op>,
    id: Result<Option<RequestId<'a>>, BadId>,
    topic: &Option<Cow<'a, str>>,
) -> Result<Command<'a>, Fault> {
    if let Some(rule) = &members.broken_rule {
        refuse!(BadMessage, "{rule}");
    }
    if let Some(key) = members.duplicate {
        refuse!(
            DuplicateKey,
            "the key {} is twice in one command; a key is allowed once",
            Quoted(key.as_str())
        );
    }
    let Some(op) = op else { return Err(bad_op(members)) };
    let misplaced = members.keys & !op.bits();
    let misplaced = || Key::ALL.into_iter().find(|key| misplaced & key.bit() != 0);
    if let Some(name) = members.unknown.or_else(|| misplaced().map(Key::as_str)) {
        let allowed: Vec<_> = op.keys().iter().map(|key| key.as_str()).collect();
        refuse!(
            UnknownKey,
            "a {} has no key {}; {} are allowed",
            op.as_str(),
            Quoted(name),
            allowed.join(", ")
        );
    }
    let Ok(id) = id else {
        refuse!(
            BadValue,
            "`id` is {}; an integer from 0 to {ID_NUMBER_MAX} or a string of at most {ID_TEXT_BYTES_MAX} bytes is allowed",
            Quoted(members.get(Key::Id).map_or("", |value| value.raw))
        );
    };
    if let (Op::History, None) = (op, id) {
        refuse!(BadValue, "`id` is missing, by which the answer to a history is known; any id is allowed");
    }
    let Options { start, resume, limit, anchor, receivers, retain, key } = match members.keys & Key::OPTIONS {
        0 => Options::default(),
        _ => read_options(members, topic)?,
    };
    match op {
        Op::Subscribe => {
            let filter = parse_topic(members, topic, Filter::parse)?;
            Ok(match filter.as_topic() {
                None if resume.is_some() || !start.is_plain() => {
                    Command::SubscribeTour { id, filter, last: start.last, resume }
                }
                _ => Command::Subscribe { id, filter, start },
            })
        }
        Op::Unsubscribe => {
            Ok(Command::Unsubscribe { id, filter: parse_topic(members, topic, Filter::parse)? })
        }
        Op::Publish => {
            let Some(data) = members.get(Key::Data) else {
                refuse!(BadValue, "`data` is missing; any JSON value is allowed");
            };
            // A topic that cannot be borrowed is that of a binary body's object, and none of these is a publish.
            let Cow::Borrowed(name) = parse_topic(members, topic, TopicName::parse)?.into_text() else {
                refuse!(Unsupported, "a publish is no object here; a body of its own kind is allowed");
            };
            Ok(Command::Publish {
                id,
                topic: TopicName::checked(name),
                payload: data.raw.as_bytes(),
                kind: PayloadKind::Json,
                receivers,
                key,
                retain,
            })
        }
        Op::History => {
            let topic = match parse_topic(members, topic, Filter::parse)?.into_topic() {
                Ok(topic) => topic,
                Err(filter) => refuse!(
                    BadTopic,
                    "a history is of one topic, {} is a filter; a name without the wildcards + and # is allowed",
                    Quoted(&filter)
                ),
            };
            let id = id.expect("a history without an id was refused");
            Ok(Command::History { id, topic, limit: limit.unwrap_or(HISTORY_DEFAULT), anchor })
        }
        Op::Ping => Ok(Command::Ping { id }),
        Op::Auth => Ok(Command::Auth { id, token: token::read_token(members)? }),
    }
}

/// What commands may say and most do not.
#[derive(Default)]
struct Options<'a> {
    start: Start,
    resume: Option<Box<command::Resume>>,
    limit: Option<u32>,
    anchor: Option<command::Anchor>,
    receivers: bool,
    retain: bool,
    key: Option<&'a [u8]>,
}

#[inline(never)]
fn read_options<'a>(members: &Members<'_, 'a>, topic: &Option<Cow<'a, str>>) -> Result<Options<'a>, Fault> {
    let is_tour = members.has_wildcards(topic);
    Ok(Options {
        start: Start {
            since: if is_tour { None } else { past::position(members, Key::Since)? },
            last: past::count(members, Key::Last, LAST_MAX)?,
        },
        resume: resume::resume(members, is_tour)?,
        limit: past::count(members, Key::Limit, HISTORY_MAX)?,
        anchor: past::anchor(members)?,
        receivers: read_bool(members, Key::Receivers)?,
        retain: read_bool(members, Key::Retain)?,
        key: once::read_key(members)?,
    })
}

/// Why `op` names no command.
fn bad_op(members: &Members<'_, '_>) -> Fault {
    const ALLOWED: &str = "`subscribe`, `unsubscribe`, `publish`, `history`, `ping` and `auth` are allowed";
    let (code, message) = match members.get(Key::Op) {
        None => (ErrorCode::BadValue, format!("`op` is missing; {ALLOWED}")),
        Some(Value { node: Node::String(name), .. }) => {
            (ErrorCode::UnknownOp, format!("the op {} is unknown; {ALLOWED}", Quoted(name)))
        }
        Some(value) => (ErrorCode::BadValue, format!("`op` is {}, no string; {ALLOWED}", Quoted(value.raw))),
    };
    Fault { code, message }
}

/// What `parse` makes of the topic if it could be read, or why that is nothing.
#[inline]
fn parse_topic<'a, T>(
    members: &Members<'_, 'a>,
    topic: &Option<Cow<'a, str>>,
    parse: impl Fn(Cow<'a, str>) -> Result<T, TopicRule>,
) -> Result<T, Fault> {
    match (topic, members.get(Key::Topic)) {
        // A copy, since an error says it too.
        (Some(topic), _) => parse(topic.clone())
            .map_err(|rule| Fault { code: ErrorCode::BadTopic, message: rule.to_string() }),
        (None, None) => refuse!(BadValue, "`topic` is missing; a string is allowed"),
        (None, Some(Value { node: Node::String(long), .. })) => refuse!(
            BadTopic,
            "the topic {} is {} bytes long; at most {TOPIC_BYTES_MAX} are allowed",
            Quoted(long),
            long.len()
        ),
        (None, Some(value)) => refuse!(BadValue, "`topic` is {}; a string is allowed", Quoted(value.raw)),
    }
}

/// Whether `key` says so; it does not where it is not there.
fn read_bool(members: &Members<'_, '_>, key: Key) -> Result<bool, Fault> {
    match members.get(key) {
        None => Ok(false),
        Some(Value { node: Node::Static(StaticNode::Bool(is_so)), .. }) => Ok(*is_so),
        Some(value) => {
            refuse!(BadValue, "`{}` is {}; true or false is allowed", key.as_str(), Quoted(value.raw))
        }
    }
}

/// The id in `value`, or an error where it may not be one.
fn read_id<'a>(value: &Value<'_, 'a>) -> Result<RequestId<'a>, BadId> {
    match value.node {
        // simd-json makes an unsigned integer only of plain digits: not of `-0`, `1.0` or `1e3`.
        Node::Static(StaticNode::U64(number)) if number <= ID_NUMBER_MAX => Ok(RequestId::Number(number)),
        Node::String(_) if value.raw.len() <= ID_TEXT_BYTES_MAX + "\"\"".len() => {
            Ok(RequestId::Text(value.raw))
        }
        _ => Err(BadId),
    }
}

/// The value of `id` may not be one.
#[derive(Clone, Copy)]
struct BadId;

/// What kind of value `node` is, for a message.
fn describe(node: &Node<'_>) -> &'static str {
    match node {
        Node::String(_) => "a string",
        Node::Object { .. } => "an object",
        Node::Array { .. } => "an array",
        Node::Static(StaticNode::Null) => "null",
        Node::Static(StaticNode::Bool(_)) => "a boolean",
        Node::Static(_) => "a number",
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
