//! What becomes of subscribers that are too far behind.

use super::topic;

/// Which topics may skip, and how much a connection may be owed.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The bound of what a connection is owed, in bytes.
    pub owed_bytes_max: u64,
    /// Filters and whether their topics skip; the first that matches wins.
    pub skip_rules: Vec<(String, bool)>,
    /// For topics that no rule matches.
    pub skip_by_default: bool,
}

/// What to do with a connection that is owed too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is within its bound, or was moved forward and has gaps to be told.
    Keep,
    /// Its topics do not allow to skip: close it with 4000.
    Disconnect,
}

impl Policy {
    /// Whether `topic`'s subscribers are moved forward instead of being disconnected.
    pub fn may_skip(&self, topic: &str) -> bool {
        let rule = self.skip_rules.iter().find(|(filter, _)| topic::matches(filter, topic));
        rule.map_or(self.skip_by_default, |(_, skips)| *skips)
    }
}
