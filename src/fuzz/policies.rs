//! What the operator sets for topics: which tables are taken, and what a topic comes to by them.

use std::{num::NonZeroU32, sync::Arc};

use crate::{
    config::{
        Config, Retain, SlowConsumer, TopicPolicy,
        load::{ConfigError, Setting, Sources, load, load_text},
        reload::Reload,
    },
    protocol::{
        Format,
        json::Pointer,
        publication::{LastValue, Stamps},
        topic::{Filter, TopicName, TopicRule},
    },
    pubsub::{
        keeping::{self, KeepKeys, Keeping},
        policy::{self, Policy, Rule, RuleKeys},
    },
};

const DEFAULT: Rule = Rule { may_skip: false, owed_bytes_max: 1 << 23, owed_ms_max: NonZeroU32::new(30_000) };

/// Takes `bytes` as a configuration file, and its lines as tables and topics: after `+` and a byte that says what a
/// table sets the rest of the line is its filter, and every other line is the name of a topic.
pub fn policies(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some(config) = check_loading(text) {
        check_telling(&config);
    }
    let mut tables = Vec::new();
    for line in text.lines() {
        let mut rest = line.chars();
        match (rest.next(), rest.next()) {
            (Some('+'), Some(what)) => tables.push(table(what as u32, rest.as_str())),
            _ if matches!(TopicName::parse(line), Ok(_) | Err(TopicRule::Reserved)) => {
                check_rule(&tables, line);
                check_keep(&tables, line);
            }
            _ => {}
        }
    }
    check_taken(&tables);
}

fn table(what: u32, filter: &str) -> TopicPolicy {
    let two_bits = |place: u32| (what >> (2 * place)) % 4;
    TopicPolicy {
        filter: filter.into(),
        slow_consumer: [None, Some(SlowConsumer::Skip), Some(SlowConsumer::Disconnect), None]
            [two_bits(0) as usize],
        owed_bytes_max: two_bits(1).checked_sub(1).map(|more| 65_536 + more as usize),
        owed_ms_max: [None, Some(0), Some(100), Some(101)][two_bits(2) as usize],
        key_window_ms: [None, Some(0), Some(100), Some(101)][two_bits(7) as usize],
        history_count: [None, Some(0), Some(1), Some(2)][two_bits(3) as usize],
        history_bytes: two_bits(4).checked_sub(1).map(|more| 1_024 + u64::from(more)),
        history_ms: two_bits(5).checked_sub(1).map(|more| 1_000 + more),
        history_format: [None, Some(Format::Json), Some(Format::Binary), None][two_bits(6) as usize],
        stamp: [None, Some(true), Some(false)][what as usize % 3]
            .map(|time| Stamps { time, user: what as usize % 7 < 3 }),
        anonymous: [None, None, Some(true)][what as usize % 11 % 3],
        last_value: [None, Some(LastValue::Nothing), Some(LastValue::Newest), per_key("/~1")]
            [two_bits(7) as usize]
            .clone(),
        retain: [None, Some(Retain::Nobody), Some(Retain::Clients), None][two_bits(8) as usize],
    }
}

fn per_key(pointer: &str) -> Option<LastValue> {
    Some(LastValue::PerKey(Arc::new(Pointer::parse(pointer)?)))
}

/// What `text` comes to as a file; if it is refused, with one line.
fn check_loading(text: &str) -> Option<Config> {
    match load_text("file", text, &Sources::default()) {
        Ok(config) => Some(config),
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(char::is_control), "{line:?}");
            None
        }
    }
}

/// What a reload would tell of the tables is what one can set.
fn check_telling(config: &Config) {
    let told =
        Reload::new(&Config::default(), config).changed.into_iter().find(|change| change.key == "topic");
    assert_eq!(told.is_some(), !config.topic.is_empty());
    if let Some(told) = told {
        let setting = Setting { flag: "--set", path: "topic".into(), value: told.to };
        let again = load(&Sources { flags: vec![setting], ..Sources::default() });
        assert_eq!(again.map(|again| again.topic), Ok(config.topic.clone()));
    }
}

/// The tables are taken exactly if each has a filter of its own and sets something, and they are not too many.
fn check_taken(tables: &[TopicPolicy]) {
    let mut text = String::new();
    for it in tables {
        let TopicPolicy { filter, slow_consumer, owed_bytes_max, owed_ms_max, key_window_ms, .. } = it;
        let TopicPolicy {
            history_count, history_bytes, history_ms, history_format, stamp, anonymous, ..
        } = it;
        let TopicPolicy { last_value, retain, .. } = it;
        text += &format!("[[topic]]\nmatch = {}\n", toml::Value::from(filter.as_str()));
        text += &slow_consumer.map_or("".into(), |it| format!("slow_consumer = \"{}\"\n", it.as_str()));
        text += &owed_bytes_max.map_or("".into(), |bytes| format!("owed_bytes_max = {bytes}\n"));
        text += &owed_ms_max.map_or("".into(), |ms| format!("owed_ms_max = {ms}\n"));
        text += &key_window_ms.map_or("".into(), |ms| format!("key_window_ms = {ms}\n"));
        text += &history_count.map_or("".into(), |count| format!("history_count = {count}\n"));
        text += &history_bytes.map_or("".into(), |bytes| format!("history_bytes = {bytes}\n"));
        text += &history_ms.map_or("".into(), |ms| format!("history_ms = {ms}\n"));
        text += match history_format {
            None => "",
            Some(Format::Json) => "history_format = \"json\"\n",
            Some(Format::Binary) => "history_format = \"binary\"\n",
        };
        text += match stamp {
            None => "",
            Some(Stamps { time: true, user: false }) => "stamp = [\"time\"]\n",
            Some(Stamps { time: false, user: true }) => "stamp = [\"user\"]\n",
            Some(Stamps { time: true, user: true }) => "stamp = [\"time\", \"user\"]\n",
            Some(Stamps { time: false, user: false }) => "stamp = []\n",
        };
        text += &anonymous.map_or("".into(), |it| format!("anonymous = {it}\n"));
        text += match last_value {
            None => "",
            Some(LastValue::Nothing) => "last_value = false\n",
            Some(LastValue::Newest) => "last_value = true\n",
            Some(LastValue::PerKey(_)) => "last_value = \"/~1\"\n",
        };
        text += &retain.map_or("".into(), |it| format!("retain = \"{}\"\n", it.as_str()));
    }
    let is_table = |it: &TopicPolicy| {
        let only_filter = TopicPolicy { filter: it.filter.clone(), ..TopicPolicy::default() };
        *it != only_filter && Filter::parse(it.filter.as_str()).is_ok()
    };
    let mut filters: Vec<&str> = tables.iter().map(|it| it.filter.as_str()).collect();
    filters.sort_unstable();
    filters.dedup();
    let is_right = tables.iter().all(is_table) && filters.len() == tables.len() && tables.len() <= 256;
    let loaded = load_text("", &text, &Sources::default()).map(|config| config.topic);
    match is_right {
        true => assert_eq!(loaded.as_deref().map_err(ConfigError::to_string), Ok(tables)),
        false => assert!(loaded.is_err(), "{tables:?}"),
    }
}

/// The rule that is found for `topic` is what looking at all tables finds.
fn check_rule(tables: &[TopicPolicy], topic: &str) {
    let entries = entries(tables, |it| RuleKeys {
        may_skip: it.slow_consumer.map(|it| it == SlowConsumer::Skip),
        owed_bytes_max: it.owed_bytes_max.map(|bytes| bytes as u64),
        owed_ms_max: it.owed_ms_max,
    });
    let policy = Policy::new(1 << 23, DEFAULT, entries.clone());
    assert_eq!(
        policy.rule_of(topic).0,
        policy::naive::rule_of(&entries, DEFAULT, topic),
        "{topic:?} among {entries:?}"
    );
}

/// And so is what `topic` keeps and stamps; it is nothing where nobody need look.
fn check_keep(tables: &[TopicPolicy], topic: &str) {
    let entries = entries(tables, |it| KeepKeys {
        count: it.history_count,
        bytes: it.history_bytes,
        ms: it.history_ms.and_then(NonZeroU32::new),
        format: it.history_format,
        stamps: it.stamp,
        anonymous: it.anonymous,
        last_value: it.last_value.clone(),
        retain: it.retain.map(|who| who == Retain::Clients),
    });
    let keeping = Keeping::new(entries.clone());
    let keys = keeping.keys_of(topic).0;
    let (keep, stamps) = (keys.keep(), keys.stamps());
    assert_eq!(keep, keeping::naive::keep_of(&entries, topic), "{topic:?} among {entries:?}");
    assert_eq!(stamps, keeping::naive::stamps_of(&entries, topic), "{topic:?} among {entries:?}");
    let is_nothing = keep.is_none() && stamps == Stamps::default();
    assert!(is_nothing || keeping.sets_any(), "{topic:?} among {entries:?}");
    let has_value = keep.is_some_and(|keep| keep.has_values());
    assert!(!has_value || keeping.keeps_values(), "{topic:?} among {entries:?}");
}

/// The tables with a filter of their own, as entries.
fn entries<K>(tables: &[TopicPolicy], keys: impl Fn(&TopicPolicy) -> K) -> Vec<(String, K)> {
    let mut entries: Vec<(String, K)> = Vec::new();
    for it in tables.iter().filter(|it| Filter::parse(it.filter.as_str()).is_ok()) {
        if entries.iter().all(|(filter, _)| *filter != it.filter) {
            entries.push((it.filter.clone(), keys(it)));
        }
    }
    entries
}
