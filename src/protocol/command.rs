//! What a client asks for, whichever language it asked in, and what can be wrong with it.

use std::{borrow::Cow, fmt};

pub use super::{json::Read, rest::Rest};
use super::{
    secret::SecretText,
    topic::{Filter, TopicName},
};

#[cfg(any(test, fuzzing))]
pub(crate) mod outcome;

/// A client's own label for a command, echoed byte for byte in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestId<'a> {
    /// An integer from 0 to 2^53 − 1.
    Number(u64),
    /// A JSON string as it was written, quotes included: at most 64 bytes between the quotes.
    Text(&'a str),
}

/// What a publication's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// A valid I-JSON value (RFC 7493), as the publisher wrote it.
    Json,
    /// Any bytes; JSON subscribers get them as base64.
    Bytes,
}

impl PayloadKind {
    /// Whether a payload of this kind is nothing, which clears a topic's value: `null`, or no bytes.
    pub fn is_null(self, payload: &[u8]) -> bool {
        match self {
            PayloadKind::Json => payload.trim_ascii() == b"null",
            PayloadKind::Bytes => payload.is_empty(),
        }
    }
}

/// The most publications that a subscribe may ask for by `last`.
pub const LAST_MAX: u32 = 10_000;
/// The most publications in the answer to a history.
pub const HISTORY_MAX: u32 = 1_000;
/// So many topics a subscribe to a filter may list.
pub const LISTED_MAX: usize = 4_096;
/// Under the numberings of so many starts of a broker.
pub const EPOCHS_MAX: usize = 16;
/// So many a history asks for that does not say.
pub const HISTORY_DEFAULT: u32 = 100;
/// The longest token, in bytes; the shortest has one.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// The longest key of a publication, in bytes; the shortest has one.
pub const KEY_BYTES_MAX: usize = 64;

/// A place in a topic's order that a client was told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// In whose numbering; none for a text that no start of a broker ever had for its epoch.
    pub epoch: Option<u64>,
    /// The last publication that the client has, or 0.
    pub seq: u64,
}

/// Where a subscription begins: with what is published from now on, unless it asks for some of the past before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// All that came after this, or nothing of it.
    pub since: Option<Since>,
    /// The newest so many, where `since` is not there or asks for what is gone: [`LAST_MAX`] at most.
    pub last: Option<u32>,
}

impl Start {
    /// Whether nothing of the past is asked for.
    pub fn is_plain(&self) -> bool {
        *self == Start::default()
    }
}

/// Topics, and up to which `seq` a client has all of each.
pub type Listed = Vec<(Box<str>, u64)>;

/// What a client has of the topics that a filter matches, and comes back for: with nothing of it, from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// It says what it has: of nothing else all comes.
    pub has_since: bool,
    /// As of when it has all of the topics that it does not list; none if it does not say, or in a text that no broker ever
    /// had for that.
    pub at: Option<At>,
    /// By the start of a broker that numbered them; none for one that there never was.
    pub epochs: Vec<(Option<u64>, Listed)>,
}

/// A moment of a broker, that a client may come back to: opaque to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Of which start of it.
    pub epoch: u64,
    /// Of each home, which tick.
    pub ticks: Box<[u64]>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.epoch)?;
        self.ticks.iter().try_for_each(|tick| write!(f, ".{tick:x}"))
    }
}

impl At {
    /// The moment that `text` names, as [`At`] writes it, if it does.
    pub fn parse(text: &str) -> Option<At> {
        let is_hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
            digits.contains(&part.len()) && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let number =
            |part: &str| u64::from_str_radix(part, 16).expect("at most 16 hexadecimal digits are 64 bits");
        let mut parts = text.split('.');
        let epoch = parts.next().filter(|part| is_hex(part, 16..=16)).map(number)?;
        let ticks: Option<Box<[u64]>> =
            parts.map(|part| is_hex(part, 1..=16).then(|| number(part))).collect();
        ticks.filter(|ticks| !ticks.is_empty()).map(|ticks| At { epoch, ticks })
    }
}

/// The end of a topic's past that a history is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The newest of those below.
    Before(Since),
    /// The oldest of those above.
    After(Since),
}

/// One command, borrowed from the message that carried it.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// Receive what is published to the topics that `filter` matches, beginning at `start`.
    Subscribe {
        /// Echoed in the `ok`.
        id: Option<RequestId<'a>>,
        /// A topic name or a filter with wildcards.
        filter: Filter<Cow<'a, str>>,
        /// Plain in any case if the filter has wildcards.
        start: Start,
    },
    /// The same of a filter with wildcards, beginning with what was published before.
    SubscribeTour {
        /// Echoed in the `ok`.
        id: Option<RequestId<'a>>,
        /// A filter with wildcards.
        filter: Filter<Cow<'a, str>>,
        /// Of each topic the newest so many, where that is not said otherwise: [`LAST_MAX`] at most.
        last: Option<u32>,
        /// What the client has already, or that it wants to be able to come back.
        resume: Option<Box<Resume>>,
    },
    /// Stop receiving what exactly this filter matched.
    Unsubscribe {
        /// Echoed in the `ok`.
        id: Option<RequestId<'a>>,
        /// The filter of the subscription.
        filter: Filter<Cow<'a, str>>,
    },
    /// Send `payload` to every subscriber of `topic`.
    Publish {
        /// Echoed in the `ok`; without it there is none.
        id: Option<RequestId<'a>>,
        /// The topic's name.
        topic: TopicName<&'a str>,
        /// The raw bytes of `data`, untouched.
        payload: &'a [u8],
        /// What `payload` is.
        kind: PayloadKind,
        /// The `ok` is to count the subscribers that had it to come.
        receivers: bool,
        /// What the publisher knows it by, so that it is published once: 1 to [`KEY_BYTES_MAX`] bytes, those of a JSON
        /// string as they were written between its quotes.
        key: Option<&'a [u8]>,
        /// It is to be kept as the topic's value.
        retain: bool,
    },
    /// Tell some of what is kept of `topic`.
    History {
        /// Echoed in the answer.
        id: RequestId<'a>,
        /// The topic's name.
        topic: TopicName<Cow<'a, str>>,
        /// At most so many publications: 0 to [`HISTORY_MAX`].
        limit: u32,
        /// Which of them; the newest if it is not there.
        anchor: Option<Anchor>,
    },
    /// Answer with a pong that carries `id`.
    Ping {
        /// Echoed in the pong.
        id: Option<RequestId<'a>>,
    },
    /// Say who this is, or go on to be who it was.
    Auth {
        /// Echoed in the `ok`.
        id: Option<RequestId<'a>>,
        /// What proves it: as it is written between its quotes.
        token: SecretText<'a>,
    },
}

// Where a command stands, the error may stand that refuses it, which is larger: nothing that is moved about grows.
const _: () = assert!(size_of::<Command<'_>>() == 88);
const _: () = assert!(size_of::<Result<Command<'_>, CommandError<'_>>>() == size_of::<CommandError<'_>>());

/// Why a command was not carried out: the `code` of an `error` reply.
///
/// `docs/PROTOCOL.md` lists each with its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The text is not JSON, or not I-JSON; or a binary body does not hold what its header says.
    BadMessage,
    /// An `op` or a `kind` that this version does not have.
    UnknownOp,
    /// A key at the top level that the command does not take.
    UnknownKey,
    /// The same key twice at the top level.
    DuplicateKey,
    /// A key is missing or its value has the wrong type or range.
    BadValue,
    /// A topic or filter that breaks the rules of topics.
    BadTopic,
    /// The connection already receives what this filter matches, by the same filter.
    AlreadySubscribed,
    /// There is no subscription with this filter.
    NotSubscribed,
    /// A bound of the protocol or of the broker's configuration would be passed.
    LimitReached,
    /// The option is part of the protocol but this broker does not offer it.
    Unsupported,
    /// Another command of this connection, which it may not overlap, is still under way.
    Busy,
    /// The broker does not know who this is: a token is to come first, or was not accepted.
    Unauthorized,
    /// The broker knows who this is, and that it may not.
    Forbidden,
    /// It may, but not so often.
    RateLimited,
    /// The broker cannot do it now, and may be able to soon.
    Unavailable,
}

impl ErrorCode {
    /// The code as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadMessage => "bad_message",
            ErrorCode::UnknownOp => "unknown_op",
            ErrorCode::UnknownKey => "unknown_key",
            ErrorCode::DuplicateKey => "duplicate_key",
            ErrorCode::BadValue => "bad_value",
            ErrorCode::BadTopic => "bad_topic",
            ErrorCode::AlreadySubscribed => "already_subscribed",
            ErrorCode::NotSubscribed => "not_subscribed",
            ErrorCode::LimitReached => "limit_reached",
            ErrorCode::Unsupported => "unsupported",
            ErrorCode::Busy => "busy",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Unavailable => "unavailable",
        }
    }
}

/// A refused command: everything that the `error` reply says.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandError<'a> {
    /// The `op` that was refused, where it could be read.
    pub op: Option<&'static str>,
    /// The command's id, where it could be read.
    pub id: Option<RequestId<'a>>,
    /// The topic or filter, where it could be read and is at most 256 bytes long.
    pub topic: Option<Cow<'a, str>>,
    /// Which rule.
    pub code: ErrorCode,
    /// The broken rule, the value and what is allowed, in one sentence. Never holds bytes of the
    /// peer unescaped or more than 64 of them.
    pub message: Cow<'static, str>,
    /// After how many milliseconds the same is allowed, if that is all that is wrong.
    pub retry_after_ms: Option<u64>,
}

impl CommandError<'_> {
    /// An error about a message of which nothing more is known than what is wrong with it.
    pub(super) fn new(code: ErrorCode, message: String) -> Self {
        Self { op: None, id: None, topic: None, code, message: message.into(), retry_after_ms: None }
    }

    pub(super) fn bad_message(message: String) -> Self {
        Self::new(ErrorCode::BadMessage, message)
    }
}

/// The commands of one message, in order, each with its own result.
///
/// An error belongs to one command; those before and after it are run. Whoever stops between two of them
/// takes the others along with [`Commands::into_rest`].
pub enum Commands<'a, M> {
    /// One command; none once it was taken.
    One(Option<Result<Command<'a>, CommandError<'a>>>),
    /// Those of an array or a batch, which the language reads one by one.
    Many(M),
}

/// The commands of an array or a batch.
pub trait Many<'a>: Iterator<Item = Result<Command<'a>, CommandError<'a>>> {
    /// Those that were not taken, as bytes of their own; `None` if all were.
    fn into_rest(self) -> Option<Box<Rest>>;

    /// What was read since the parser, or this, was last asked.
    fn take_read(&mut self) -> Read;
}

impl<'a, M: Many<'a>> Commands<'a, M> {
    /// Those that were not taken, to be gone on with when the message and the parser are needed for
    /// something else; `None` if all were.
    ///
    /// Panics if a lone command was not taken: nothing has been done yet, so nothing need be put off.
    pub fn into_rest(self) -> Option<Box<Rest>> {
        match self {
            Commands::One(command) => {
                assert!(command.is_none(), "a lone command is put off before it is read, or not at all");
                None
            }
            Commands::Many(commands) => commands.into_rest(),
        }
    }

    /// What was read since the parser, or this, was last asked. Of a lone command, which nobody can stop
    /// in, the parser itself tells.
    pub fn take_read(&mut self) -> Read {
        match self {
            Commands::One(_) => Read::default(),
            Commands::Many(commands) => commands.take_read(),
        }
    }
}

impl<'a, M: Many<'a>> Iterator for Commands<'a, M> {
    type Item = Result<Command<'a>, CommandError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Commands::One(command) => command.take(),
            Commands::Many(commands) => commands.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Commands::One(command) => command.iter().size_hint(),
            Commands::Many(commands) => commands.size_hint(),
        }
    }
}
