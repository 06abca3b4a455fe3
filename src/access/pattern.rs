//! The filters of grants: MQTT's, where a whole level may stand for something of the client.

use std::fmt;

use crate::protocol::topic::{self, Filter, TOPIC_LEVELS_MAX};

#[cfg(test)]
mod naive;

/// The longest value of a client's that stands for a level, in bytes.
pub const BINDING_BYTES_MAX: usize = 128;

/// The longest name of a role or a claim, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

/// One filter of a grant or a deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    levels: Box<[Level]>,
    /// It ends with `#`: whatever is below, and the level itself.
    is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    /// `+`
    Any,
    /// `{user}`
    User,
    /// `{claim.NAME}`: that name.
    Claim(Box<str>),
}

/// What stands in templates' places; nothing where a client has no such thing, or one that may be no level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    user: Option<Box<str>>,
    /// By name: few.
    claims: Box<[(Box<str>, Box<str>)]>,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternRule {
    /// It breaks a rule of filters.
    Filter(topic::TopicRule),
    /// Braces are neither `{user}` nor `{claim.NAME}` as a whole level.
    Template,
}

/// A level of what is asked for: as it is written, or one that no pattern names, in the place of a `+` and of what `#` matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked<'a> {
    Text(&'a str),
    Unnamed,
}

impl Bindings {
    /// Of a client with this name and these claims. What is empty, longer than [`BINDING_BYTES_MAX`], or holds `/`, `+`, `#` or
    /// U+0000 stands for no level: else a client who chooses its name would choose its grants (CVE-2017-7650).
    pub fn new<'a>(user: Option<&str>, claims: impl IntoIterator<Item = (&'a str, &'a str)>) -> Bindings {
        let claims = claims.into_iter().map(|(name, value)| (name.into(), value.into()));
        Bindings { user: user.map(Into::into), claims: claims.collect() }
    }

    /// The client's name, whether or not it may stand for a level.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// What stands for `level` at `depth`: nothing that would make a topic one of the broker's own.
    fn at(&self, level: &Level, depth: usize) -> Option<&str> {
        let value = match level {
            Level::User => self.user.as_deref(),
            Level::Claim(name) => {
                self.claims.iter().find(|(bound, _)| bound == name).map(|(_, value)| &**value)
            }
            Level::Literal(_) | Level::Any => unreachable!("only templates stand for something"),
        };
        value.filter(|value| is_level(value) && (depth > 0 || !value.starts_with('$')))
    }
}

impl Pattern {
    /// Reads a filter, of which whole levels may be `{user}` or `{claim.NAME}`, where a name is 1 to
    /// [`LABEL_BYTES_MAX`] letters, digits, `_`, `-` and `.`.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Pattern, PatternRule> {
        Filter::parse(text).map_err(PatternRule::Filter)?;
        let (levels, is_open) = match text.strip_suffix('#') {
            Some(before) => (before.strip_suffix('/'), true),
            None => (Some(text), false),
        };
        let level = |level: &str| match level {
            "+" => Ok(Level::Any),
            level if level.contains(['{', '}']) => {
                let inner = level.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
                inner.and_then(template).ok_or(PatternRule::Template)
            }
            level => Ok(Level::Literal(level.into())),
        };
        let levels = levels.map(|levels| levels.split('/').map(level).collect());
        Ok(Pattern { levels: levels.transpose()?.unwrap_or_default(), is_open })
    }

    /// The claims that it names.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter_map(|level| match level {
            Level::Claim(name) => Some(&**name),
            _ => None,
        })
    }

    /// Whether it matches this topic.
    pub fn matches(&self, topic: &str, bindings: &Bindings) -> bool {
        // Most of a list begin otherwise, which is seen without a look at where levels end.
        if let Some(Level::Literal(first)) = self.levels.first()
            && !topic.starts_with(&**first)
        {
            return false;
        }
        self.matches_levels(topic.split('/').map(Asked::Text), bindings)
    }

    /// Whether there is a topic that both match. Wrong in one corner, to the safe side: `/#` and `+` have but the empty name in
    /// common, which no topic has.
    pub fn overlaps(&self, filter: &str, bindings: &Bindings) -> bool {
        let (levels, is_open) = split(filter);
        let mut asked = levels;
        for (depth, level) in self.levels.iter().enumerate() {
            let Some(other) = asked.next() else { return is_open && self.begins_as_topic(depth, bindings) };
            let is_possible = match (level, other) {
                (Level::Any, "+") => true,
                (Level::Any, text) => depth > 0 || !text.starts_with('$'),
                (Level::Literal(text), "+") => depth > 0 || !text.starts_with('$'),
                (Level::Literal(text), other) => **text == *other,
                (template, "+") => bindings.at(template, depth).is_some(),
                (template, other) => bindings.at(template, depth) == Some(other),
            };
            if !is_possible {
                return false;
            }
        }
        match asked.next() {
            // Whatever is below this one.
            Some(first) => self.is_open && (!self.levels.is_empty() || !first.starts_with('$')),
            None => true,
        }
    }

    /// Whether what `#` matches from level `depth` on may be what stands there: what is first must not begin with `$`, and what
    /// is bound must be there.
    fn begins_as_topic(&self, depth: usize, bindings: &Bindings) -> bool {
        let mut rest = self.levels[depth..].iter().enumerate().map(|(at, level)| (depth + at, level));
        rest.all(|(depth, level)| match level {
            Level::Literal(text) => depth > 0 || !text.starts_with('$'),
            Level::Any => true,
            template => bindings.at(template, depth).is_some(),
        })
    }

    fn matches_levels<'a>(&self, mut asked: impl Iterator<Item = Asked<'a>>, bindings: &Bindings) -> bool {
        for (depth, level) in self.levels.iter().enumerate() {
            let Some(other) = asked.next() else { return false };
            let is_matched = match (level, other) {
                (Level::Any, Asked::Text(text)) => depth > 0 || !text.starts_with('$'),
                (Level::Any, Asked::Unnamed) => true,
                (Level::Literal(text), Asked::Text(other)) => **text == *other,
                (Level::Literal(_) | Level::User | Level::Claim(_), Asked::Unnamed) => false,
                (template, Asked::Text(other)) => bindings.at(template, depth) == Some(other),
            };
            if !is_matched {
                return false;
            }
        }
        match (asked.next(), self.is_open) {
            (None, _) => true,
            (Some(_), false) => false,
            (Some(Asked::Text(first)), true) => !self.levels.is_empty() || !first.starts_with('$'),
            (Some(Asked::Unnamed), true) => true,
        }
    }
}

impl fmt::Display for Pattern {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, level) in self.levels.iter().enumerate() {
            f.write_str(if depth > 0 { "/" } else { "" })?;
            match level {
                Level::Literal(text) => f.write_str(text)?,
                Level::Any => f.write_str("+")?,
                Level::User => f.write_str("{user}")?,
                Level::Claim(name) => write!(f, "{{claim.{name}}}")?,
            }
        }
        match (self.is_open, self.levels.is_empty()) {
            (true, true) => f.write_str("#"),
            (true, false) => f.write_str("/#"),
            (false, _) => Ok(()),
        }
    }
}

/// Whether a client's own text may stand for a level.
fn is_level(value: &str) -> bool {
    (1..=BINDING_BYTES_MAX).contains(&value.len()) && !value.contains(['/', '+', '#', '\0'])
}

/// What stands between braces.
fn template(inner: &str) -> Option<Level> {
    match inner {
        "user" => Some(Level::User),
        inner => {
            let name = inner.strip_prefix("claim.").filter(|name| is_label(name));
            name.map(|name| Level::Claim(name.into()))
        }
    }
}

/// What a role or a claim may be called, as [`is_label`] has it: completes "it must be …".
pub const LABEL_ALLOWED: &str = "1 to 64 letters, digits, _, - and .";
// The sentence says it.
const _: () = assert!(LABEL_BYTES_MAX == 64);

/// Whether an operator may call a role so, or a claim.
pub fn is_label(name: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Whether every topic that `filter` matches is matched by one of `patterns`; and how many times a pattern was held against
/// something.
///
/// It is enough to ask for one topic of each depth: one whose levels in place of `+` and `#` no pattern names. It is matched by
/// the filter, so one of the patterns has to match it, and that one has wildcards there, so it matches every topic of that depth.
/// Below the last level that any pattern names one depth stands for all that are deeper. Only the bound of a topic's
/// length is left out: a filter may be refused for topics that would be too long.
pub fn covers<'a>(
    patterns: impl Iterator<Item = &'a Pattern> + Clone,
    filter: &str,
    bindings: &Bindings,
) -> (bool, u32) {
    let (depth, held_count) = find_uncovered(patterns, filter, bindings);
    (depth.is_none(), held_count)
}

/// A topic that `filter` matches and none of `patterns`, with `…` for levels that may be anything else, if there is one.
pub fn uncovered<'a>(
    patterns: impl Iterator<Item = &'a Pattern> + Clone,
    filter: &str,
    bindings: &Bindings,
) -> Option<String> {
    let depth = find_uncovered(patterns, filter, bindings).0?;
    let levels = split(filter).0.map(|level| if level == "+" { "…" } else { level });
    let levels: Vec<&str> = levels.chain(std::iter::repeat("…")).take(depth).collect();
    Some(levels.join("/"))
}

/// How many levels a topic has that is matched by the filter and by no pattern, if there is one; and how many times a pattern was
/// held against something.
fn find_uncovered<'a>(
    patterns: impl Iterator<Item = &'a Pattern> + Clone,
    filter: &str,
    bindings: &Bindings,
) -> (Option<usize>, u32) {
    let (levels, is_open) = split(filter);
    let level_count = levels.clone().count();
    let longest = patterns.clone().map(|pattern| pattern.levels.len()).max().unwrap_or(0);
    let depths = match is_open {
        true => level_count.max(1)..=(level_count.max(longest) + 1).min(TOPIC_LEVELS_MAX),
        false => level_count..=level_count,
    };
    let mut held_count = 0;
    for depth in depths {
        let levels =
            levels.clone().map(|level| if level == "+" { Asked::Unnamed } else { Asked::Text(level) });
        let asked = levels.chain(std::iter::repeat(Asked::Unnamed)).take(depth);
        if asked.clone().eq([Asked::Text("")]) {
            // No topic has that name.
            continue;
        }
        let is_matched = patterns.clone().any(|pattern| {
            held_count += 1;
            pattern.matches_levels(asked.clone(), bindings)
        });
        if !is_matched {
            return (Some(depth), held_count);
        }
    }
    (None, held_count)
}

/// The levels of a filter before a final `#`, and whether it has one.
fn split(filter: &str) -> (impl Iterator<Item = &str> + Clone, bool) {
    let (before, is_open) = match filter.strip_suffix('#') {
        Some(before) => (before.strip_suffix('/'), true),
        None => (Some(filter), false),
    };
    (before.into_iter().flat_map(|levels| levels.split('/')), is_open)
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        sample::select,
        test_runner::{Config, RngSeed},
    };

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap_or_else(|rule| panic!("{text}: {rule:?}"))
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| pattern(text)).collect()
    }

    /// Of somebody without anything.
    fn is_covered(grants: &[&str], filter: &str) -> bool {
        covers(patterns(grants).iter(), filter, &Bindings::default()).0
    }

    #[test]
    fn a_filter_is_covered_if_all_that_it_matches_is() {
        for (grants, filter, is_ours) in [
            (&["room/+"][..], "room/#", false),
            (&["room/+"], "room/+", true),
            (&["room/+"], "room/", true),
            (&["room/+"], "room", false),
            (&["room/+"], "room/a/b", false),
            (&["room/#"], "room", true),
            (&["room/#"], "room/#", true),
            (&["room/#"], "room/+/x", true),
            (&["room/#"], "rooms", false),
            (&["room/#"], "Room/1", false),
            (&["room/#"], "+/1", false),
            (&["room/#"], "#", false),
            (&["a", "a/+", "a/+/#"], "a/#", true),
            (&["a", "a/+/#"], "a/#", true),
            (&["a/+/#"], "a/#", false),
            (&["+/+"], "+/#", false),
            (&["+/+"], "/", true),
            (&["+/+"], "/+", true),
            (&["+/+"], "$s/x", false),
            (&["#"], "$sys/#", false),
            (&["#"], "$sys", false),
            (&["#"], "#", true),
            (&["$sys/#"], "$sys/+", true),
            (&["$sys/#"], "#", false),
            (&["$sys/#"], "+/x", false),
            (&["a/b"], "a//b", false),
            (&["a/b"], "a/b/", false),
            (&["a/b"], "a/./b", false),
            (&["a/b"], "a/../a/b", false),
            (&["a/b"], "а/b", false),
            (&["a/b"], "a/b\u{200b}", false),
            (&["é"], "e\u{301}", false),
            (&[], "a", false),
        ] {
            assert_eq!(is_covered(grants, filter), is_ours, "{grants:?} for {filter}");
        }
        let deepest = vec!["a"; TOPIC_LEVELS_MAX - 1].join("/") + "/#";
        assert!(is_covered(&["a/#"], &deepest) && !is_covered(&["a/b/#"], &deepest));
    }

    #[test]
    fn what_a_client_chooses_grants_no_more_than_its_own_level() {
        for (template, value, asked, is_ours) in [
            ("inbox/{user}/#", Some("bob"), "inbox/bob/1", true),
            ("inbox/{user}/#", Some("bob"), "inbox/bob/#", true),
            ("inbox/{user}/#", Some("bob"), "inbox/eve/1", false),
            ("inbox/{user}/#", Some("bob"), "inbox/+/1", false),
            ("inbox/{user}/#", Some("+"), "inbox/+/1", false),
            ("inbox/{user}/#", Some("+"), "inbox/eve/1", false),
            ("inbox/{user}/#", Some("#"), "inbox/#", false),
            ("inbox/{user}/#", Some("a/b"), "inbox/a/b", false),
            ("inbox/{user}/#", Some(""), "inbox//1", false),
            ("inbox/{user}/#", Some("a\0"), "inbox/a\0/1", false),
            ("inbox/{user}/#", None, "inbox/bob/1", false),
            ("{user}/#", Some("$sys"), "$sys/x", false),
            ("{user}/#", Some("bob"), "bob", true),
            ("x/{user}", Some("$sys"), "x/$sys", true),
        ] {
            let bindings = Bindings::new(value, []);
            let patterns = [pattern(template)];
            assert_eq!(
                covers(patterns.iter(), asked, &bindings).0,
                is_ours,
                "{template} of {value:?}: {asked}"
            );
            if !asked.contains(['+', '#']) {
                assert_eq!(
                    patterns[0].matches(asked, &bindings),
                    is_ours,
                    "{template} of {value:?}: {asked}"
                );
            }
        }
        let long = "a".repeat(BINDING_BYTES_MAX + 1);
        let matches =
            |value: &str| pattern("x/{user}").matches(&format!("x/{value}"), &Bindings::new(Some(value), []));
        assert!(!matches(&long) && matches(&long[1..]));
    }

    #[test]
    fn a_claim_stands_for_its_level_by_its_name() {
        let bindings = Bindings::new(None, [("org", "acme"), ("team", "+"), ("site", "$x")]);
        for (template, topic, is_ours) in [
            ("a/{claim.org}", "a/acme", true),
            ("a/{claim.org}", "a/evil", false),
            ("a/{claim.team}", "a/+", false),
            ("a/{claim.none}", "a/acme", false),
            ("a/{user}", "a/acme", false),
            ("{claim.site}/a", "$x/a", false),
            ("a/{claim.site}", "a/$x", true),
        ] {
            assert_eq!(pattern(template).matches(topic, &bindings), is_ours, "{template}: {topic}");
        }
        assert_eq!(pattern("{claim.a}/x/{user}/{claim.b.c}").claims().collect::<Vec<_>>(), ["a", "b.c"]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let parse = Pattern::parse;
        for text in [
            "{user",
            "user}",
            "x{user}",
            "{user}x",
            "{}",
            "{claim.}",
            "{claim.a b}",
            "{claim}",
            "{org}",
            "{{user}}",
            "a/{user}b/#",
        ] {
            assert_eq!(parse(text), Err(PatternRule::Template), "{text}");
        }
        let named = |len: usize| parse(&format!("{{claim.{}}}", "n".repeat(len)));
        assert!(named(LABEL_BYTES_MAX).is_ok() && named(LABEL_BYTES_MAX + 1).is_err());
        assert_eq!(parse("a/#/b"), Err(PatternRule::Filter(topic::TopicRule::HashNotLast)));
        assert_eq!(parse(""), Err(PatternRule::Filter(topic::TopicRule::Length(0))));
    }

    /// Of at most three levels before a `#`, so that topics of four stand for all that are deeper.
    fn filter() -> impl Strategy<Value = String> {
        let level = select(vec!["a", "b", "", "+", "+", "$s"]);
        (prop::collection::vec(level, 0..=3), any::<bool>()).prop_map(|(mut levels, is_open)| {
            if is_open || levels.is_empty() {
                levels.push("#");
            }
            let filter = levels.join("/");
            if filter.is_empty() { "a".into() } else { filter }
        })
    }

    proptest! {
        #![proptest_config(Config { rng_seed: RngSeed::Fixed(3), cases: 4_000, failure_persistence: None, ..Config::default() })]

        #[test]
        fn covering_is_what_counting_all_topics_says(grants in prop::collection::vec(filter(), 0..5), asked in filter()) {
            let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
            prop_assert_eq!(is_covered(&grants, &asked), naive::covers(&grants, &asked), "{:?} {}", grants, asked);
        }

        #[test]
        fn overlapping_is_what_counting_all_topics_says(deny in filter(), asked in filter()) {
            let overlaps = pattern(&deny).overlaps(&asked, &Bindings::default());
            let shares_the_empty = topic::matches(&deny, "") && topic::matches(&asked, "");
            let expected = naive::overlaps(&deny, &asked);
            prop_assert!(overlaps == expected || (overlaps && shares_the_empty), "{} {}", deny, asked);
        }

        /// And what is not covered is named by a topic that nothing grants.
        #[test]
        fn an_uncovered_topic_is_the_filters_and_no_grants(grants in prop::collection::vec(filter(), 0..5), asked in filter()) {
            let parsed: Vec<Pattern> = grants.iter().map(|grant| pattern(grant)).collect();
            let bindings = Bindings::default();
            let topic = uncovered(parsed.iter(), &asked, &bindings);
            prop_assert_eq!(topic.is_none(), covers(parsed.iter(), &asked, &bindings).0);
            if let Some(topic) = topic {
                prop_assert!(topic::matches(&asked, &topic), "{} {}", asked, topic);
                prop_assert!(!parsed.iter().any(|grant| grant.matches(&topic, &bindings)), "{:?} {}", grants, topic);
            }
            prop_assert!(grants.iter().zip(&parsed).all(|(text, grant)| grant.to_string() == *text));
        }

        #[test]
        fn a_topic_is_matched_as_the_filter_is(grant in filter(), topic in filter()) {
            let topic = topic.replace('+', "z").replace('#', "b");
            prop_assert_eq!(pattern(&grant).matches(&topic, &Bindings::default()), topic::matches(&grant, &topic));
        }
    }
}
