//! What becomes of subscribers that are too far behind.

use std::num::NonZeroU32;

use crate::protocol::topic;

/// How much a connection may be owed, of all topics together and of each.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The bound of what a connection is owed of all topics together, in bytes.
    pub owed_bytes_max: u64,
    /// Filters and the rules of their topics; the first that matches wins.
    pub rules: Vec<(String, Rule)>,
    /// For topics that no filter matches.
    pub default: Rule,
}

/// What becomes of a subscriber that is too far behind in a topic, and how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// It is moved forward instead of being disconnected.
    pub may_skip: bool,
    /// The bound of what it is owed of this topic, in bytes.
    pub owed_bytes_max: u64,
    /// How old the oldest publication that it is owed of this topic may be, in milliseconds.
    pub owed_ms_max: Option<NonZeroU32>,
}

// Every view has its own.
const _: () = assert!(size_of::<Rule>() == 16);

/// What of, a slow consumer has too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It is owed too many bytes.
    OwedBytes,
    /// It is owed something too old.
    OwedMs,
    /// It keeps the oldest of a log that is full.
    LogBytes,
    /// It takes nothing of what is being sent to it.
    WriteStallMs,
}

/// What to do with a connection that is owed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is within its bounds.
    Keep,
    /// It was beyond this one, was moved forward, and has gaps to be told.
    Skip(Bound),
    /// It is beyond this one, and its topics do not allow to skip: close it with 4000.
    Disconnect(Bound),
    /// What its send in flight keeps is beyond this one, and only the end of that lets go: reset it.
    Reset(Bound),
}

impl Policy {
    /// One by which nobody is closed: whoever is owed more than so many bytes is moved forward.
    pub fn skipping(owed_bytes_max: u64) -> Policy {
        let default = Rule { may_skip: true, owed_bytes_max, owed_ms_max: None };
        Policy { owed_bytes_max, rules: Vec::new(), default }
    }

    /// The rule of `topic`.
    pub fn rule_of(&self, topic: &str) -> Rule {
        let found = self.rules.iter().find(|(filter, _)| topic::matches(filter, topic));
        found.map_or(self.default, |(_, rule)| *rule)
    }

    /// The least age that any topic's subscribers are held to, in milliseconds.
    pub fn owed_ms_min(&self) -> Option<u32> {
        let rules = self.rules.iter().map(|(_, rule)| rule).chain([&self.default]);
        rules.filter_map(|rule| rule.owed_ms_max).min().map(NonZeroU32::get)
    }
}

impl Bound {
    /// Every bound.
    pub const ALL: [Bound; Bound::COUNT] =
        [Bound::OwedBytes, Bound::OwedMs, Bound::LogBytes, Bound::WriteStallMs];
    /// How many there are.
    pub const COUNT: usize = 4;

    /// Its place in [`Bound::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name, which is that of its key in the configuration without `_max`.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::OwedBytes => "owed_bytes",
            Bound::OwedMs => "owed_ms",
            Bound::LogBytes => "log_bytes",
            Bound::WriteStallMs => "write_stall_ms",
        }
    }

    /// What a connection is told that is closed for it, as the reason of its close frame.
    pub fn reason(self) -> &'static str {
        match self {
            Bound::OwedBytes => "too far behind: read faster, or subscribe to less",
            Bound::OwedMs => "what is owed to this connection is too old: read faster, or subscribe to less",
            Bound::LogBytes => "the broker's log is full, and this connection keeps the oldest of it",
            Bound::WriteStallMs => "nothing of what was sent was taken for timeouts.write_stall_ms",
        }
    }
}
