//! The rules of topic names and filters, and the naive matcher that the filter tree is checked against.

use std::fmt;

/// The longest topic name or filter, in bytes.
pub const TOPIC_BYTES_MAX: usize = 256;
/// The most levels that a topic name or filter has.
pub const TOPIC_LEVELS_MAX: usize = 32;

/// The broken rule of a topic name or filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicRule {
    /// It is empty or too long.
    Length(usize),
    /// It has too many levels.
    Levels(usize),
    /// It holds U+0000.
    Nul,
    /// A name to publish to holds `+` or `#`.
    WildcardInName,
    /// `+` shares its level with other characters.
    PartialPlus,
    /// `#` is not alone in the last level.
    HashNotLast,
    /// A client publishes to a name that begins with `$`.
    Reserved,
}

impl fmt::Display for TopicRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicRule::Length(bytes) => {
                write!(f, "a topic has 1 to {TOPIC_BYTES_MAX} bytes, this one has {bytes}")
            }
            TopicRule::Levels(levels) => {
                write!(f, "a topic has at most {TOPIC_LEVELS_MAX} levels, this one has {levels}")
            }
            TopicRule::Nul => write!(f, "a topic must not hold U+0000"),
            TopicRule::WildcardInName => {
                write!(f, "a topic to publish to must not hold the wildcards + and #")
            }
            TopicRule::PartialPlus => write!(f, "the wildcard + must be a whole level"),
            TopicRule::HashNotLast => write!(f, "the wildcard # must be the whole last level"),
            TopicRule::Reserved => write!(f, "topics that begin with $ are the broker's own"),
        }
    }
}

/// Checks a topic that a client publishes to.
///
/// # Errors
/// The rule that it breaks.
pub fn check_name(name: &str) -> Result<(), TopicRule> {
    check_shape(name)?;
    if memchr::memchr2(b'+', b'#', name.as_bytes()).is_some() {
        return Err(TopicRule::WildcardInName);
    }
    if name.starts_with('$') {
        return Err(TopicRule::Reserved);
    }
    Ok(())
}

/// Checks a filter that a client subscribes to, and tells whether it has wildcards.
///
/// # Errors
/// The rule that it breaks.
pub fn check_filter(filter: &str) -> Result<bool, TopicRule> {
    check_shape(filter)?;
    if memchr::memchr2(b'+', b'#', filter.as_bytes()).is_none() {
        return Ok(false);
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicRule::HashNotLast);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicRule::PartialPlus);
        }
    }
    Ok(true)
}

/// What to tell whoever subscribes to a name without wildcards that has those of another system, by which nobody
/// publishes.
pub fn hint(name: &str) -> Option<&'static str> {
    let separator = if name.contains('/') { '/' } else { '.' };
    let is_foreign = |level| matches!(level, "*" | "**" | ">");
    let has_ours = memchr::memchr2(b'+', b'#', name.as_bytes()).is_some();
    (!has_ours && name.split(separator).any(is_foreign)).then_some(
        "this is the name of one topic: levels are split by /, + stands for one of them and # for all that follow",
    )
}

/// Whether `filter` matches `topic`, level by level. Both are already checked.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let mut filter_levels = filter.split('/');
    let mut topic_levels = topic.split('/');
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(expected), Some(level)) if expected == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// How many levels a name or filter has.
pub fn level_count(text: &str) -> usize {
    1 + memchr::memchr_iter(b'/', text.as_bytes()).count()
}

fn check_shape(text: &str) -> Result<(), TopicRule> {
    if text.is_empty() || text.len() > TOPIC_BYTES_MAX {
        return Err(TopicRule::Length(text.len()));
    }
    if memchr::memchr(0, text.as_bytes()).is_some() {
        return Err(TopicRule::Nul);
    }
    let levels = level_count(text);
    if levels > TOPIC_LEVELS_MAX {
        return Err(TopicRule::Levels(levels));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_of_other_systems_get_a_hint() {
        for name in ["room/*", "*", ">", "**", "room.>", "room.*.a", "a/**/b", "a.b/*"] {
            assert!(hint(name).is_some(), "{name}");
        }
        for name in ["room", "room/a*", "a.b", "a->b", "a/b.*", "room/+", "*/#", "a/>b"] {
            assert_eq!(hint(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_is_refused_for_each_rule_it_breaks() {
        assert_eq!(check_name(""), Err(TopicRule::Length(0)));
        assert_eq!(check_name(&"a".repeat(257)), Err(TopicRule::Length(257)));
        assert_eq!(check_name(&"a".repeat(256)), Ok(()));
        assert_eq!(check_name(&"/".repeat(31)), Ok(()));
        assert_eq!(check_name(&"/".repeat(32)), Err(TopicRule::Levels(33)));
        assert_eq!(check_name("a\0b"), Err(TopicRule::Nul));
        assert_eq!(check_name("a/+"), Err(TopicRule::WildcardInName));
        assert_eq!(check_name("a#"), Err(TopicRule::WildcardInName));
        assert_eq!(check_name("$sys/x"), Err(TopicRule::Reserved));
    }

    #[test]
    fn a_filter_takes_wildcards_only_as_whole_levels_and_the_hash_only_last() {
        assert_eq!(check_filter("a/b"), Ok(false));
        for filter in ["#", "+", "a/+/b", "a/#", "+/+", "/#", "$sys/#"] {
            assert_eq!(check_filter(filter), Ok(true), "{filter}");
        }
        for filter in ["a/#/b", "#/a", "a#", "a/b#", "##"] {
            assert_eq!(check_filter(filter), Err(TopicRule::HashNotLast), "{filter}");
        }
        for filter in ["a+", "+a/b", "++"] {
            assert_eq!(check_filter(filter), Err(TopicRule::PartialPlus), "{filter}");
        }
    }

    #[test]
    fn matching_follows_mqtt() {
        for (filter, topic) in [
            ("room/#", "room"),
            ("room/#", "room/1/2"),
            ("room/#", "room/"),
            ("+", "a"),
            ("+/+", "/"),
            ("/+", "/a"),
            ("#", "a/b/c"),
            ("a/+/c", "a//c"),
            ("$sys/#", "$sys/x"),
            ("a/+/#", "a/b"),
        ] {
            assert!(matches(filter, topic), "{filter} should match {topic}");
        }
        for (filter, topic) in [
            ("room/#", "rooms"),
            ("+", "a/b"),
            ("+", "/a"),
            ("#", "$sys/x"),
            ("+/x", "$sys/x"),
            ("a/+", "a"),
            ("a", "a/b"),
            ("a/b", "a"),
            ("a/+/#", "a"),
        ] {
            assert!(!matches(filter, topic), "{filter} should not match {topic}");
        }
    }
}
