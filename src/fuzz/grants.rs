//! What grants allow, against going through topics one by one.

use std::collections::BTreeSet;

use crate::{
    access::{
        grants::{Action, GrantTexts, Grants, Reason, Rights, RoleSet},
        pattern::{BINDING_BYTES_MAX, Bindings, Pattern, is_label},
    },
    protocol::topic::{self, Filter, TopicName},
};

/// Beyond these there are too many topics to go through.
const LEVELS_MAX: usize = 3;
const LITERALS_MAX: usize = 4;
const GRANTS_MAX: usize = 12;

/// Reads the lines of `bytes`: `p`, `s`, `h`, `r` and `d` add what follows to a list, `u` says who somebody is, `o` what its claim `o`
/// is, and everything else asks what may be done with what follows.
pub fn grants(bytes: &[u8]) {
    let (mut texts, mut user, mut claim) = (GrantTexts::default(), None, None);
    let mut count = 0;
    for line in bytes.split(|&byte| byte == b'\n') {
        let [op, text @ ..] = line else { continue };
        let Ok(text) = str::from_utf8(text) else { continue };
        let is_pattern = Pattern::parse(text).is_ok();
        assert_eq!(is_pattern, is_pattern_naively(text), "{text:?}");
        let list = match op {
            b'p' => &mut texts.publish,
            b's' => &mut texts.subscribe,
            b'h' => texts.history.get_or_insert_default(),
            b'r' => &mut texts.presence,
            b'd' => &mut texts.deny,
            b'u' => {
                user = Some(text);
                continue;
            }
            b'o' => {
                claim = Some(text);
                continue;
            }
            _ => {
                if Filter::parse(text).is_ok() {
                    check(&texts, user, claim, text);
                }
                continue;
            }
        };
        if is_pattern && count < GRANTS_MAX {
            list.push(text.to_owned());
            count += 1;
        }
    }
}

/// Whether a grant may be written so: a filter, in which braces are `{user}` or `{claim.NAME}` as a whole level.
fn is_pattern_naively(text: &str) -> bool {
    let is_template = |level: &str| {
        let claim = level.strip_prefix("{claim.").and_then(|rest| rest.strip_suffix('}'));
        level == "{user}" || claim.is_some_and(is_label)
    };
    Filter::parse(text).is_ok()
        && text.split('/').all(|level| !level.contains(['{', '}']) || is_template(level))
}

/// What a grant is for somebody; none if what stands in a template's place may be no level.
fn bound(grant: &str, user: Option<&str>, claim: Option<&str>) -> Option<String> {
    let mut levels = Vec::new();
    for (depth, level) in grant.split('/').enumerate() {
        let value = match level {
            "{user}" => user?,
            "{claim.o}" => claim?,
            _ if level.starts_with('{') => return None,
            literal => {
                levels.push(literal);
                continue;
            }
        };
        let is_level =
            (1..=BINDING_BYTES_MAX).contains(&value.len()) && !value.contains(['/', '+', '#', '\0']);
        if !is_level || (depth == 0 && value.starts_with('$')) {
            return None;
        }
        levels.push(value);
    }
    Some(levels.join("/"))
}

/// Holds what may be done with `asked` against all topics of the levels that there are.
fn check(texts: &GrantTexts, user: Option<&str>, claim: Option<&str>, asked: &str) {
    let parsed = Grants::parse(texts).expect("each was parsed");
    let bindings = Bindings::new(user, claim.map(|claim| ("o", claim)));
    let rights = Rights { roles: &[], has: RoleSet::default(), claimed: Some(&parsed), bindings: &bindings };
    let of =
        |list: &[String]| list.iter().filter_map(|grant| bound(grant, user, claim)).collect::<Vec<String>>();
    let denies = of(&texts.deny);
    if TopicName::parse(asked).is_ok() {
        let matches = |list: &[String]| list.iter().any(|grant| topic::matches(grant, asked));
        let expected = matches(&of(&texts.publish)) && !matches(&denies);
        assert_eq!(rights.may_publish(asked).is_allowed, expected, "publish {asked:?} by {texts:?}");
    }
    for (action, list) in [
        (Action::Subscribe, &texts.subscribe),
        (Action::History, texts.history.as_ref().unwrap_or(&texts.subscribe)),
        (Action::Presence, &texts.presence),
    ] {
        let (grants, is_allowed) = (of(list), rights.may(action, asked).is_allowed);
        // Whatever there is, a topic that is told as the reason is one.
        match rights.explain(action, asked) {
            Reason::NotGranted(topic) => {
                assert!(!is_allowed && topic::matches(asked, &topic), "{topic:?} of {asked:?}");
                assert!(!grants.iter().any(|grant| topic::matches(grant, &topic)), "{topic:?} by {grants:?}");
            }
            Reason::Granted(_) => assert!(is_allowed, "{asked:?} by {texts:?}"),
            Reason::Denied(_) => assert!(!is_allowed, "{asked:?} by {texts:?}"),
        }
        let Some(topics) = topics(grants.iter().chain(&denies).map(String::as_str).chain([asked])) else {
            continue;
        };
        let asked_for = || topics.iter().filter(|topic| topic::matches(asked, topic));
        let is_granted = asked_for().all(|topic| grants.iter().any(|grant| topic::matches(grant, topic)));
        let is_denied = |topic: &str| denies.iter().any(|deny| topic::matches(deny, topic));
        let expected = is_granted && !asked_for().any(|topic| is_denied(topic));
        // `/#` and `+` have nothing but the empty name in common, which no topic has.
        let shares_the_empty = topic::matches(asked, "") && is_denied("");
        assert!(
            is_allowed == expected || (expected && shares_the_empty),
            "{action:?} {asked:?} by {texts:?} for {user:?}"
        );
    }
}

/// All topics of the levels that these filters name, and of some that none does; none if that is too many.
fn topics<'a>(filters: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
    // Levels that nobody writes here: others would be of the literals.
    let mut levels = BTreeSet::from(["\u{1}z", "$\u{1}z"]);
    for filter in filters {
        let count = filter.split('/').filter(|level| *level != "#").count();
        levels.extend(filter.split('/').filter(|level| !matches!(*level, "+" | "#")));
        if count > LEVELS_MAX || levels.len() > LITERALS_MAX + 2 {
            return None;
        }
    }
    let mut all: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
    let mut last = all.clone();
    for _ in 0..LEVELS_MAX {
        last =
            last.iter().flat_map(|head| levels.iter().map(move |level| format!("{head}/{level}"))).collect();
        all.extend_from_slice(&last);
    }
    all.retain(|topic| !topic.is_empty());
    Some(all)
}
