//! Topic names and filters, their rules, and the naive matcher that the filter tree is checked against.

use std::{cmp::Ordering, fmt, ops::Deref};

use super::tenant;

#[cfg(any(test, fuzzing))]
pub(crate) mod naive;

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

/// The name of one topic: of the right shape, and without wildcards.
///
/// Whoever has one need not check it again. `S` is what holds its text: a `&str`, or a `Cow<str>` where it may have been
/// written with escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicName<S>(S);

/// What one can subscribe to: the name of a topic, or a pattern with wildcards. Like a [`TopicName`] it need not be
/// checked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<S> {
    text: S,
    has_wildcards: bool,
}

impl<S: Deref<Target = str>> TopicName<S> {
    /// Reads a name that a client may publish to. Those of the broker's own topics are names as well, but not for that:
    /// only [`Filter::as_topic`] gives one.
    ///
    /// # Errors
    /// The rule that it breaks.
    #[inline]
    pub fn parse(text: S) -> Result<Self, TopicRule> {
        if check_shape(&text)? {
            return Err(TopicRule::WildcardInName);
        }
        if is_reserved(&text) {
            return Err(TopicRule::Reserved);
        }
        Ok(TopicName(text))
    }

    /// A name that was parsed before, as one or as a filter, and whose text has been kept or sent elsewhere since.
    #[inline]
    pub fn checked(text: S) -> Self {
        debug_assert!(check_shape(tenant::outer(&text)) == Ok(false), "{:?} is no topic's name", &*text);
        TopicName(text)
    }

    /// The same name, without its text.
    #[inline]
    pub fn borrowed(&self) -> TopicName<&str> {
        TopicName(&self.0)
    }

    /// What holds its text.
    #[inline]
    pub fn text(&self) -> &S {
        &self.0
    }

    /// The same, for good.
    #[inline]
    pub fn into_text(self) -> S {
        self.0
    }
}

impl<'a> TopicName<&'a str> {
    /// [`TopicName::checked`] of the bytes of its text.
    #[inline]
    pub fn checked_bytes(bytes: &'a [u8]) -> Self {
        Self::checked(str::from_utf8(bytes).expect("a name that was parsed is UTF-8"))
    }

    /// Its text.
    #[inline]
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

impl<S: Deref<Target = str>> Deref for TopicName<S> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<S: Deref<Target = str>> Filter<S> {
    /// Reads a filter that a client may subscribe to.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: S) -> Result<Self, TopicRule> {
        let has_wildcards = check_shape(&text)?;
        if has_wildcards {
            check_wildcards(&text)?;
        }
        Ok(Filter { text, has_wildcards })
    }

    /// The same filter, without its text.
    pub fn borrowed(&self) -> Filter<&str> {
        Filter { text: &self.text, has_wildcards: self.has_wildcards }
    }

    /// What holds its text.
    pub fn text(&self) -> &S {
        &self.text
    }

    /// The one topic that it matches, or the filter itself if it has wildcards.
    pub fn into_topic(self) -> Result<TopicName<S>, Self> {
        if self.has_wildcards { Err(self) } else { Ok(TopicName(self.text)) }
    }

    /// The one topic that it matches, if it has no wildcards: maybe one of the broker's own.
    pub fn as_topic(&self) -> Option<TopicName<&str>> {
        (!self.has_wildcards).then(|| TopicName(&*self.text))
    }

    /// Whether it has the wildcard `+`.
    pub fn has_plus(&self) -> bool {
        self.has_wildcards && memchr::memchr(b'+', self.text.as_bytes()).is_some()
    }

    /// How many levels it has, wildcards included.
    pub fn level_count(&self) -> usize {
        level_count(&self.text)
    }
}

impl<'a> Filter<&'a str> {
    /// Its text.
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// The same filter as somebody else calls it, who adds no wildcards.
    pub fn with_text<S: Deref<Target = str>>(self, text: S) -> Filter<S> {
        Filter { text, has_wildcards: self.has_wildcards }
    }
}

impl<S: Deref<Target = str>> Deref for Filter<S> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// What to tell whoever subscribes to a name without wildcards that has those of another system, by which nobody
/// publishes.
pub fn hint(name: &str) -> Option<&'static str> {
    let separator = if name.contains('/') { '/' } else { '.' };
    let is_foreign = |level| matches!(level, "*" | "**" | ">");
    (!has_wildcards(name) && name.split(separator).any(is_foreign)).then_some(
        "this is the name of one topic: levels are split by /, + stands for one of them and # for all that follow",
    )
}

/// Whether `filter` matches `topic`, level by level. Both are already checked, and may be tenants'.
pub fn matches(filter: &str, topic: &str) -> bool {
    let ((of, filter), (its, topic)) = (tenant::split(filter), tenant::split(topic));
    if of != its {
        return false;
    }
    if is_reserved(topic) && (filter.starts_with('+') || filter.starts_with('#')) {
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

/// Whether some topic is matched by both of these, each a filter or a name, which are already checked and may be tenants'.
pub fn overlap(one: &str, other: &str) -> bool {
    let ((of, one), (its, other)) = (tenant::split(one), tenant::split(other));
    if of != its {
        return false;
    }
    let begins_wide = |text: &str| text.starts_with(['+', '#']);
    if (is_reserved(one) && begins_wide(other)) || (is_reserved(other) && begins_wide(one)) {
        return false;
    }
    let (mut levels, mut other_levels) = (one.split('/'), other.split('/'));
    loop {
        match (levels.next(), other_levels.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(level), Some(other_level)) if level == other_level => {}
            _ => return false,
        }
    }
}

/// Whether every topic that `other` matches is matched by `one`: both filters, which are already checked.
pub fn covers(one: &str, other: &str) -> bool {
    if is_reserved(other) && one.starts_with(['+', '#']) {
        return false;
    }
    // Every topic has a level.
    let one = if one == "+/#" { "#" } else { one };
    let (mut levels, mut other_levels) = (one.split('/'), other.split('/'));
    loop {
        match (levels.next(), other_levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (_, Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(other_level)) if level == other_level => {}
            _ => return false,
        }
    }
}

/// The order of filters by how specific they are, the more specific one first: level by level from the left a literal
/// level, or none, before `+` before `#`. Of two that match the same topic one is always the more specific.
pub fn by_specificity(one: &str, other: &str) -> Ordering {
    let rank = |level: Option<&str>| match level {
        Some("#") => 2,
        Some("+") => 1,
        _ => 0,
    };
    let (mut levels, mut other_levels) = (one.split('/'), other.split('/'));
    loop {
        let (level, other_level) = (levels.next(), other_levels.next());
        let order = rank(level).cmp(&rank(other_level));
        if order.is_ne() || (level.is_none() && other_level.is_none()) {
            return order;
        }
    }
}

/// How many levels a name or filter has for clients.
pub fn level_count(text: &str) -> usize {
    1 + memchr::memchr_iter(b'/', tenant::outer(text).as_bytes()).count()
}

/// Whether a name is one of the broker's own, which no wildcard at the first level matches.
#[inline]
pub fn is_reserved(name: &str) -> bool {
    name.starts_with('$')
}

#[inline]
fn has_wildcards(text: &str) -> bool {
    memchr::memchr2(b'+', b'#', text.as_bytes()).is_some()
}

fn check_wildcards(filter: &str) -> Result<(), TopicRule> {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicRule::HashNotLast);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicRule::PartialPlus);
        }
    }
    Ok(())
}

/// Checks what holds for names and filters alike; whether there are wildcards.
///
/// In one pass over the bytes: names are short, and a search for each byte costs more to begin than to do.
#[inline]
fn check_shape(text: &str) -> Result<bool, TopicRule> {
    if text.is_empty() || text.len() > TOPIC_BYTES_MAX {
        return Err(TopicRule::Length(text.len()));
    }
    let (mut has_nul, mut has_wildcards, mut slashes) = (false, false, 0);
    for &byte in text.as_bytes() {
        has_nul |= byte == 0;
        has_wildcards |= (byte == b'+') | (byte == b'#');
        slashes += usize::from(byte == b'/');
    }
    if has_nul {
        return Err(TopicRule::Nul);
    }
    if slashes >= TOPIC_LEVELS_MAX {
        return Err(TopicRule::Levels(slashes + 1));
    }
    Ok(has_wildcards)
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
        let check = |text: &str| TopicName::parse(text).map(|name| assert_eq!(&*name, text));
        assert_eq!(check(""), Err(TopicRule::Length(0)));
        assert_eq!(check(&"a".repeat(257)), Err(TopicRule::Length(257)));
        assert_eq!(check(&"a".repeat(256)), Ok(()));
        assert_eq!(check(&"/".repeat(31)), Ok(()));
        assert_eq!(check(&"/".repeat(32)), Err(TopicRule::Levels(33)));
        assert_eq!(check("a\0b"), Err(TopicRule::Nul));
        assert_eq!(check("a/+"), Err(TopicRule::WildcardInName));
        assert_eq!(check("a#"), Err(TopicRule::WildcardInName));
        assert_eq!(check("$sys/x"), Err(TopicRule::Reserved));
    }

    #[test]
    fn a_filter_is_refused_for_each_rule_it_breaks() {
        let check = |text: &str| Filter::parse(text).map(|filter| assert_eq!(&*filter, text));
        assert_eq!(check(""), Err(TopicRule::Length(0)));
        assert_eq!(check(&format!("{}/#", "a".repeat(255))), Err(TopicRule::Length(257)));
        assert_eq!(check(&format!("{}/#", "a".repeat(254))), Ok(()));
        assert_eq!(check(&"/".repeat(31)), Ok(()));
        assert_eq!(check(&format!("{}#", "+/".repeat(32))), Err(TopicRule::Levels(33)));
        assert_eq!(check("+/a\0b"), Err(TopicRule::Nul));
        for filter in ["a/#/b", "#/a", "a#", "a/b#", "##"] {
            assert_eq!(check(filter), Err(TopicRule::HashNotLast), "{filter}");
        }
        for filter in ["a+", "+a/b", "++"] {
            assert_eq!(check(filter), Err(TopicRule::PartialPlus), "{filter}");
        }
    }

    #[test]
    fn a_filter_knows_its_wildcards_and_levels() {
        for (filter, has_plus, levels) in [
            ("#", false, 1),
            ("+", true, 1),
            ("a/+/b", true, 3),
            ("a/#", false, 2),
            ("+/+", true, 2),
            ("$sys/#", false, 2),
        ] {
            let parsed = Filter::parse(filter).expect("a filter");
            assert_eq!((parsed.has_plus(), parsed.level_count()), (has_plus, levels), "{filter}");
            assert_eq!(parsed.as_topic(), None, "{filter}");
            assert_eq!(parsed.borrowed(), parsed, "{filter}");
        }
        // What cannot be published to can be subscribed to.
        for name in ["a/b", "$sys/x", "/"] {
            let parsed = Filter::parse(name).expect("a filter");
            assert!(!parsed.has_plus(), "{name}");
            assert_eq!(parsed.as_topic(), Some(TopicName::checked(name)));
        }
    }

    #[test]
    #[should_panic(expected = "\"a/+\" is no topic's name")]
    #[cfg(debug_assertions)]
    fn what_was_never_parsed_does_not_pass_for_a_name() {
        TopicName::checked("a/+");
    }

    #[test]
    fn filters_are_in_order_of_how_specific_they_are() {
        let filters = ["a/b", "a/b/+", "a/b/#", "a/+", "a/+/+", "a/+/#", "a/#", "+/b", "+/+", "+/#", "#"];
        for (place, one) in filters.iter().enumerate() {
            for (other_place, other) in filters.iter().enumerate() {
                assert_eq!(by_specificity(one, other), place.cmp(&other_place), "{one} {other}");
            }
        }
        // Neither matches what the other does.
        assert_eq!(by_specificity("a/b", "c"), Ordering::Equal);
    }

    /// Held against all topics that can tell them apart.
    #[test]
    fn filters_overlap_or_cover_each_other_by_the_topics_that_they_match() {
        let of = |levels: &[&str], len_max: usize| {
            let mut all: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
            let mut last = all.clone();
            for _ in 1..len_max {
                last = last
                    .iter()
                    .flat_map(|head| levels.iter().map(move |level| format!("{head}/{level}")))
                    .collect();
                all.extend_from_slice(&last);
            }
            all
        };
        let topics = of(&["a", "b", "$a", ""], 4);
        let topics: Vec<&String> = topics.iter().filter(|topic| naive::is_filter(topic)).collect();
        let filters: Vec<String> =
            of(&["a", "$a", "+", "#"], 3).into_iter().filter(|text| naive::is_filter(text)).collect();
        for one in &filters {
            for other in &filters {
                let both = topics.iter().any(|topic| matches(one, topic) && matches(other, topic));
                assert_eq!(overlap(one, other), both, "{one} {other}");
                let all = topics.iter().all(|topic| matches(one, topic) || !matches(other, topic));
                assert_eq!(covers(one, other), all, "{one} {other}");
            }
        }
    }

    /// Whoever is of no tenant and whoever is of another has nothing in common, and within one it is as without.
    #[test]
    fn filters_and_names_of_tenants_meet_within_one_alone() {
        let texts = ["a", "a/b", "$a", "$a/b", "+", "+/b", "#", "a/#", "$a/#", "/"];
        for (one, other) in texts.iter().flat_map(|one| texts.map(|other| (*one, other))) {
            let (of_t, other_of_t) = (format!("\0t/{one}"), format!("\0t/{other}"));
            assert_eq!(overlap(&of_t, &other_of_t), overlap(one, other), "{one} {other}");
            if naive::is_name(other) || other.starts_with('$') {
                assert_eq!(matches(&of_t, &other_of_t), matches(one, other), "{one} {other}");
            }
            for elsewhere in [format!("\0u/{other}"), other.into(), "\0t".into(), "\0".into()] {
                assert!(!matches(&of_t, &elsewhere) && !matches(&elsewhere, &of_t), "{of_t:?} {elsewhere:?}");
                assert!(!overlap(&of_t, &elsewhere) && !overlap(&elsewhere, &of_t), "{of_t:?} {elsewhere:?}");
            }
            assert_eq!(level_count(&of_t), level_count(one));
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
