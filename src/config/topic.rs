//! `[[topic]]`: what the operator sets for the topics that a filter matches.

use toml::{Spanned, de::DeValue};

use super::{
    Retain, SlowConsumer, TopicPolicy,
    keys::{
        HISTORY_BYTES, HISTORY_COUNT, HISTORY_MS, KEY_WINDOW_MS, Key, Kind, OWED_BYTES_MAX, OWED_MS_MAX,
        POLICIES_MAX, Refusal,
    },
    table::{self, TableKey, not_allowed},
};
use crate::protocol::Format;

/// Reads and writes an integer that need not be there.
macro_rules! integer {
    ($kind:ident, $field:ident, $range:expr, $unit:expr) => {
        Kind::$kind {
            range: $range,
            unit: $unit,
            get: |policy| policy.$field.map_or(0, |value| value as u64),
            set: |policy, value| {
                policy.$field = Some(value.try_into().expect("the key's range fits its field"));
            },
        }
    };
}

/// Every key, the filter first.
pub(super) static TOPIC_KEYS: &[TableKey<TopicPolicy>] = &[
    TableKey {
        key: Key {
            path: "topic.match",
            about: "Which topics: no two tables may have the same filter.",
            is_reloadable: true,
            kind: Kind::Filter(|policy| &mut policy.filter),
        },
        example: "\"ticker/#\"",
        is_set: |policy| !policy.filter.is_empty(),
    },
    TableKey {
        key: Key {
            path: "topic.slow_consumer",
            about: "In place of delivery.slow_consumer.",
            is_reloadable: true,
            kind: Kind::SlowConsumer(|policy| policy.slow_consumer.get_or_insert(SlowConsumer::Disconnect)),
        },
        example: "\"skip\"",
        is_set: |policy| policy.slow_consumer.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.owed_bytes_max",
            about: "How much a connection may be owed of each such topic; what it is owed of all of them stays within\n\
                    delivery.owed_bytes_max. Make it longer than their messages: one beyond it is missed by everybody whom\n\
                    it cannot be sent to at once.",
            is_reloadable: true,
            kind: integer!(Integer, owed_bytes_max, OWED_BYTES_MAX, "bytes"),
        },
        example: "65_536",
        is_set: |policy| policy.owed_bytes_max.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.owed_ms_max",
            about: "In place of delivery.owed_ms_max.",
            is_reloadable: true,
            kind: integer!(IntegerOrZero, owed_ms_max, OWED_MS_MAX, "milliseconds"),
        },
        example: "2000",
        is_set: |policy| policy.owed_ms_max.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.key_window_ms",
            about: "In place of publish.key_window_ms.",
            is_reloadable: true,
            kind: integer!(IntegerOrZero, key_window_ms, KEY_WINDOW_MS, "milliseconds"),
        },
        example: "600_000",
        is_set: |policy| policy.key_window_ms.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.history_count",
            about: "How many of its newest publications each such topic keeps at most. 0 keeps none, whatever is said of\n\
                    bytes and age, until a more specific table says another count.",
            is_reloadable: true,
            kind: integer!(IntegerOrZero, history_count, HISTORY_COUNT, "publications"),
        },
        example: "1000",
        is_set: |policy| policy.history_count.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.history_bytes",
            about: "How much each such topic keeps at most, its newest publications as they are sent.",
            is_reloadable: true,
            kind: integer!(Integer, history_bytes, HISTORY_BYTES, "bytes"),
        },
        example: "1_048_576",
        is_set: |policy| policy.history_bytes.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.history_ms",
            about: "How old what each such topic keeps may be.",
            is_reloadable: true,
            kind: integer!(Integer, history_ms, HISTORY_MS, "milliseconds"),
        },
        example: "600_000",
        is_set: |policy| policy.history_ms.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.history_format",
            about: "In which form it is kept: that of most of those who come back, who get it without a copy; for the others\n\
                    it is made anew. Without it that of a topic's first subscriber.",
            is_reloadable: true,
            kind: Kind::Format(|policy| policy.history_format.get_or_insert(Format::Json)),
        },
        example: "\"json\"",
        is_set: |policy| policy.history_format.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.stamp",
            about: "What the broker writes into each message beside what was published, for subscribers and in the past:\n\
                    \"user\", who published it, if that is somebody with a name, and \"time\", when it got its seq, in milliseconds\n\
                    since 1970. [] is nothing, where a wider table says more.",
            is_reloadable: true,
            kind: Kind::Stamps(|policy| policy.stamp.get_or_insert_default()),
        },
        example: "[\"user\", \"time\"]",
        is_set: |policy| policy.stamp.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.anonymous",
            about: "Whether whoever has no name may publish to these topics, if what it is granted allows it. false needs\n\
                    credentials with names: [auth] with tokens or issuers.",
            is_reloadable: true,
            kind: Kind::Bool(|policy| policy.anonymous.get_or_insert(true)),
        },
        example: "true",
        is_set: |policy| policy.anonymous.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.last_value",
            about: "Whether the newest publication of each such topic is its value: new subscribers are sent it first, and it\n\
                    stays whatever its age, until the next takes its place or a null clears it. With a JSON pointer such as\n\
                    \"/symbol\" it is the newest of each key, which is what stands at that place of the payload; these end\n\
                    with history_ms.",
            is_reloadable: true,
            kind: Kind::LastValue(|policy| policy.last_value.get_or_insert_default()),
        },
        example: "true",
        is_set: |policy| policy.last_value.is_some(),
    },
    TableKey {
        key: Key {
            path: "topic.retain",
            about: "Who may say which publication is a topic's value, in place of the newest: \"clients\", who publish with\n\
                    retain, or \"nobody\". Values are not evicted: beyond history.bytes_max no more are taken.",
            is_reloadable: true,
            kind: Kind::Retain(|policy| policy.retain.get_or_insert(Retain::Nobody)),
        },
        example: "\"clients\"",
        is_set: |policy| policy.retain.is_some(),
    },
];

/// The policies of an array of tables.
///
/// # Errors
/// The first thing wrong with one of them, a filter that two have, or that they are too many.
pub(super) fn policies(entries: &[Spanned<DeValue<'_>>]) -> Result<Vec<TopicPolicy>, Refusal> {
    if let Some(entry) = entries.get(POLICIES_MAX) {
        return Err(not_allowed("topic", entry, format!("at most {POLICIES_MAX} tables")));
    }
    let mut policies: Vec<TopicPolicy> = Vec::with_capacity(entries.len());
    for entry in entries {
        let policy = policy(entry)?;
        if policies.iter().any(|before| before.filter == policy.filter) {
            let filter = entry.get_ref().get("match").expect("a policy has a filter");
            let allowed = "a filter that no other [[topic]] has: put what both set into one".into();
            return Err(not_allowed("topic.match", filter, allowed));
        }
        policies.push(policy);
    }
    Ok(policies)
}

/// The policy as an inline table of what it sets.
pub(super) fn literal(policy: &mut TopicPolicy) -> String {
    table::literal(policy, TOPIC_KEYS)
}

fn policy(entry: &Spanned<DeValue<'_>>) -> Result<TopicPolicy, Refusal> {
    let allowed = "a table with match and what it sets, such as slow_consumer";
    let policy = table::read("topic", entry, TOPIC_KEYS, allowed)?;
    let mut is_set = TOPIC_KEYS.iter().map(|key| (key.is_set)(&policy));
    let (has_filter, sets_anything) = (is_set.next() == Some(true), is_set.any(|is_set| is_set));
    if has_filter && sets_anything { Ok(policy) } else { Err(not_allowed("topic", entry, allowed.into())) }
}
