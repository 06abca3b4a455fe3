//! Topic names, filters, and which filters a name matches.

use crate::{
    protocol::topic::{self, Filter, TopicName, TopicRule, naive},
    pubsub::filter::FilterTree,
};

/// What texts begin with inside: those of nobody, and of two tenants.
const TENANTS: [&str; 3] = ["", "\0t/", "\0u/"];

/// Runs the lines of `bytes` on a filter tree: `+` adds, `-` takes away, and everything else looks for the
/// matches of a name. The next byte is the value and whose it is, the rest of the line the filter or name.
pub fn filter(bytes: &[u8]) {
    let mut tree = FilterTree::new();
    let mut held: Vec<(String, u8)> = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let [op, value, text @ ..] = line else { continue };
        let (Ok(text), tenant, value) =
            (str::from_utf8(text), TENANTS[usize::from(value / 4 % 3)], value % 4)
        else {
            continue;
        };
        let (is_filter, is_name) =
            (check_rules(text), matches!(TopicName::parse(text), Ok(_) | Err(TopicRule::Reserved)));
        let text = &*format!("{tenant}{text}");
        let entry = (text.to_owned(), value);
        let place = held.iter().position(|other| *other == entry);
        match op {
            b'+' if is_filter => {
                assert_eq!(tree.insert(text, value), place.is_none(), "{text:?}");
                if place.is_none() {
                    held.push(entry);
                }
            }
            b'-' if is_filter => {
                assert_eq!(tree.remove(text, value), place.is_some(), "{text:?}");
                place.map(|place| held.remove(place));
            }
            _ if is_name => check_matches(&tree, &held, text),
            _ => {}
        }
        assert_eq!(tree.is_empty(), held.is_empty());
    }
}

/// Holds what parsing `text` says against the rules as one reads them, and tells whether it is a filter.
fn check_rules(text: &str) -> bool {
    let (filter, is_filter) = (Filter::parse(text).ok(), naive::is_filter(text));
    assert_eq!(filter.is_some(), is_filter, "{text:?}");
    if let Some(filter) = filter {
        assert_eq!(filter.as_topic().is_none(), text.contains(['+', '#']), "{text:?}");
        assert_eq!(filter.has_plus(), text.contains('+'), "{text:?}");
        assert_eq!(filter.level_count(), text.split('/').count(), "{text:?}");
    }
    assert_eq!(TopicName::parse(text).is_ok(), naive::is_name(text), "{text:?}");
    is_filter
}

/// The tree finds what matching filter by filter finds, and that is what the levels say.
fn check_matches(tree: &FilterTree<u8>, held: &[(String, u8)], name: &str) {
    let tenant_of = |text: &str| TENANTS.iter().rposition(|tenant| text.starts_with(tenant));
    let levels = levels_of(name);
    let mut expected = Vec::new();
    for (filter, value) in held {
        let filter_levels = levels_of(filter);
        let is_hidden = levels[0].starts_with('$') && ["+", "#"].contains(&filter_levels[0]);
        let is_same = tenant_of(filter) == tenant_of(name);
        let is_match = is_same && !is_hidden && levels_match(&filter_levels, &levels);
        assert_eq!(topic::matches(filter, name), is_match, "{filter:?} and {name:?}");
        if is_match {
            expected.push(*value);
        }
    }
    let mut found = Vec::new();
    tree.for_each_match(name, |value| found.push(value));
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "{name:?} among {held:?}");
}

/// The levels that clients know.
fn levels_of(text: &str) -> Vec<&str> {
    text.split('/').skip(usize::from(text.starts_with('\0'))).collect()
}

fn levels_match(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) | ([], []) => true,
        ([first, filter @ ..], [level, name @ ..]) => {
            (*first == "+" || first == level) && levels_match(filter, name)
        }
        _ => false,
    }
}
