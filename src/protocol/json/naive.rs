//! The parser's naive twin on serde_json.
//!
//! It reads member by member with `RawValue`, recurses, allocates, and compares each key with each. It
//! must agree on which texts and commands are refused, with which code, and on every field.

use serde_json::value::RawValue;

use crate::protocol::{
    command::{
        Anchor, At, ErrorCode, PayloadKind, Resume, Since, Start,
        outcome::{Outcome, OwnedCommand},
    },
    topic,
};

/// An object's members in order, duplicates included.
struct Members<'t, K>(Vec<(K, &'t RawValue)>);

impl<'de, K: serde::Deserialize<'de>> serde::Deserialize<'de> for Members<'de, K> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<K>(std::marker::PhantomData<K>);
        impl<'de, K: serde::Deserialize<'de>> serde::de::Visitor<'de> for Visitor<K> {
            type Value = Members<'de, K>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

/// A key that may hold lone surrogates: none of those that count.
struct AnyKey(Option<String>);

impl<'de> serde::Deserialize<'de> for AnyKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = AnyKey;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<AnyKey, E> {
                Ok(AnyKey(String::from_utf8(bytes.to_vec()).ok()))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

pub(crate) fn has_noncharacter(string: &str) -> bool {
    string.chars().any(|c| {
        let code = c as u32;
        (0xfdd0..=0xfdef).contains(&code) || code % 0x10000 >= 0xfffe
    })
}

/// Whether `raw`, a JSON value, is I-JSON within `depth` levels.
fn is_i_json_value(raw: &str, depth: usize, keys_may_repeat: bool) -> bool {
    match raw.as_bytes()[0] {
        b'{' => {
            let Ok(Members::<String>(members)) = serde_json::from_str(raw) else { return false };
            let repeats =
                (1..members.len()).any(|i| members[..i].iter().any(|(key, _)| *key == members[i].0));
            depth > 0
                && (keys_may_repeat || !repeats)
                && members.iter().all(|(key, value)| {
                    !has_noncharacter(key) && is_i_json_value(value.get(), depth - 1, false)
                })
        }
        b'[' => {
            let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(raw) else { return false };
            depth > 0 && elements.iter().all(|value| is_i_json_value(value.get(), depth - 1, false))
        }
        b'"' => serde_json::from_str::<String>(raw).is_ok_and(|string| !has_noncharacter(&string)),
        b'-' | b'0'..=b'9' => raw.parse::<f64>().expect("a JSON number").is_finite(),
        _ => true,
    }
}

/// What `text` leads to.
pub(crate) fn outcomes(text: &str) -> Vec<Outcome> {
    let nothing = |code| vec![Outcome::error(code)];
    let Ok(whole) = serde_json::from_str::<&RawValue>(text) else { return nothing(ErrorCode::BadMessage) };
    let raws: Vec<&str> = match whole.get().as_bytes()[0] {
        b'{' => vec![whole.get()],
        b'[' => match serde_json::from_str::<Vec<&RawValue>>(whole.get()) {
            Ok(elements) => elements.iter().map(|raw| raw.get()).collect(),
            Err(_) => return nothing(ErrorCode::BadMessage),
        },
        _ => return nothing(ErrorCode::BadMessage),
    };
    // Here keys may repeat: those of the command itself are its own fault and not the text's.
    let is_good = |raw: &str| raw.starts_with('{') && is_i_json_value(raw, DEPTH, true);
    if let Some(bad) = raws.iter().find(|raw| !is_good(raw)) {
        return vec![if bad.starts_with('{') { blamed(bad) } else { Outcome::error(ErrorCode::BadMessage) }];
    }
    if raws.len() > 1024 {
        return nothing(ErrorCode::LimitReached);
    }
    raws.into_iter().map(command).collect()
}

/// What the one command in `text` leads to, which must not be an array.
pub(crate) fn lone_outcome(text: &str) -> Outcome {
    match text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        true => outcomes(text).remove(0),
        false => Outcome::error(ErrorCode::BadMessage),
    }
}

/// Whether `text` is one I-JSON value within `depth` levels.
pub(crate) fn is_i_json(text: &str, depth: usize) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| is_i_json_value(raw.get(), depth, false))
}

/// Whether the twin says of `text` whose fault it is that it is not I-JSON: it does if it is JSON at least.
pub(crate) fn names_culprit(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// What is told of the command that makes its text no I-JSON.
fn blamed(raw: &str) -> Outcome {
    let Members::<AnyKey>(members) = serde_json::from_str(raw).expect("JSON");
    let get = |name: &str| {
        members.iter().find(|(key, _)| key.0.as_deref() == Some(name)).map(|(_, value)| value.get())
    };
    let string = |name: &str| {
        let string = get(name).and_then(|raw| serde_json::from_str::<String>(raw).ok());
        string.filter(|string| !has_noncharacter(string))
    };
    let is_text = string("id").is_some();
    Outcome::Error {
        op: string("op").filter(|op| is_op(op)),
        id: get("id").filter(|raw| is_id(raw) && (is_text || !raw.starts_with('"'))).map(str::to_owned),
        topic: string("topic").filter(|topic| topic.len() <= 256),
        code: ErrorCode::BadMessage,
    }
}

fn is_op(name: &str) -> bool {
    ["subscribe", "unsubscribe", "publish", "history", "ping", "auth"].contains(&name)
}

fn is_id(raw: &str) -> bool {
    match raw.strip_prefix('"') {
        Some(text) => text.len() <= 65,
        None => {
            raw.bytes().all(|byte| byte.is_ascii_digit())
                && raw.parse::<u64>().is_ok_and(|number| number < 1 << 53)
        }
    }
}

/// A command's own object and the levels of its data.
const DEPTH: usize = 1 + 63;

fn command(raw: &str) -> Outcome {
    let Members::<String>(members) = serde_json::from_str(raw).expect("checked");
    let get = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| value.get());
    let string = |name: &str| get(name).and_then(|raw| serde_json::from_str::<String>(raw).ok());
    let op = string("op").filter(|op| is_op(op));
    let id = get("id").filter(|raw| is_id(raw));
    let topic = string("topic").filter(|topic| topic.len() <= 256);
    let error =
        |code| Outcome::Error { op: op.clone(), id: id.map(str::to_owned), topic: topic.clone(), code };

    let known = [
        "op",
        "id",
        "topic",
        "data",
        "receivers",
        "retain",
        "key",
        "since",
        "last",
        "resume",
        "limit",
        "before",
        "after",
        "token",
    ];
    if known.iter().any(|name| members.iter().filter(|(key, _)| key == name).count() > 1) {
        return error(ErrorCode::DuplicateKey);
    }
    let Some(op) = op.clone() else {
        return error(if string("op").is_some() { ErrorCode::UnknownOp } else { ErrorCode::BadValue });
    };
    let takes: &[&str] = match op.as_str() {
        "subscribe" => &["op", "topic", "id", "since", "last", "resume"],
        "unsubscribe" => &["op", "topic", "id"],
        "publish" => &["op", "topic", "id", "data", "receivers", "retain", "key"],
        "history" => &["op", "topic", "id", "limit", "before", "after"],
        "auth" => &["op", "token", "id"],
        _ => &["op", "id"],
    };
    if members.iter().any(|(key, _)| !takes.contains(&key.as_str())) {
        return error(ErrorCode::UnknownKey);
    }
    if id.is_none() && get("id").is_some_and(|raw| raw != "null") {
        return error(ErrorCode::BadValue);
    }
    if op == "history" && id.is_none() {
        return error(ErrorCode::BadValue);
    }
    let set = |name: &str| get(name).filter(|raw| *raw != "null");
    let (mut since, mut before, mut after) = (None, None, None);
    for (name, place) in [("since", &mut since), ("before", &mut before), ("after", &mut after)] {
        *place = set(name).map(position);
    }
    let is_tour = topic.as_deref().is_some_and(|topic| topic.contains(['+', '#']))
        && (since.is_some() || set("resume").is_some());
    let told_since = set("since").filter(|_| is_tour);
    let resume = match (set("resume"), told_since.map(tour)) {
        (None | Some("true" | "false"), Some(tour)) => tour.map(Some),
        (None | Some("false"), None) => Ok(None),
        (Some("true"), None) if is_tour => Ok(Some(Resume::default())),
        _ => Err(ErrorCode::BadValue),
    };
    if is_tour {
        since = None;
    }
    let [last, limit] =
        [("last", 10_000), ("limit", 1_000)].map(|(name, max)| set(name).map(|raw| count(raw, max)));
    let code_of = |count: &Option<Result<u32, ErrorCode>>| count.and_then(Result::err);
    // In this order.
    let faults = [
        (since == Some(None)).then_some(ErrorCode::BadValue),
        code_of(&last),
        resume.as_ref().err().copied(),
        code_of(&limit),
        (before == Some(None) || after == Some(None)).then_some(ErrorCode::BadValue),
        (before.is_some() && after.is_some()).then_some(ErrorCode::BadValue),
    ];
    if let Some(code) = faults.into_iter().flatten().next() {
        return error(code);
    }
    let start = Start { since: since.flatten(), last: last.and_then(Result::ok) };
    let limit = limit.map_or(100, |limit| limit.expect("a good one"));
    let anchor = before.flatten().map(Anchor::Before).or(after.flatten().map(Anchor::After));
    for name in ["receivers", "retain"] {
        if !matches!(get(name), None | Some("true" | "false")) {
            return error(ErrorCode::BadValue);
        }
    }
    let key = set("key").map(|raw| raw.strip_prefix('"').and_then(|text| text.strip_suffix('"')));
    if key.is_some_and(|text| text.is_none_or(|text| text.is_empty() || text.len() > 64)) {
        return error(ErrorCode::BadValue);
    }
    if op == "publish" && get("data").is_none() {
        return error(ErrorCode::BadValue);
    }
    let token = get("token").and_then(|raw| raw.strip_prefix('"')?.strip_suffix('"'));
    if op == "auth" && !token.is_some_and(|token| (1..=8_192).contains(&token.len())) {
        return error(ErrorCode::BadValue);
    }
    let has_topic = !matches!(op.as_str(), "ping" | "auth");
    if has_topic && topic.is_none() {
        return error(if string("topic").is_some() { ErrorCode::BadTopic } else { ErrorCode::BadValue });
    }
    let is_allowed = match op.as_str() {
        "publish" => topic::naive::is_name,
        "history" => |topic: &str| topic::naive::is_filter(topic) && !topic.contains(['+', '#']),
        _ => topic::naive::is_filter,
    };
    if has_topic && !topic.as_deref().is_some_and(is_allowed) {
        return error(ErrorCode::BadTopic);
    }
    Outcome::Command(OwnedCommand {
        id: id.map(str::to_owned),
        topic: topic.clone(),
        data: get("data").map(|raw| (PayloadKind::Json, raw.as_bytes().to_vec())),
        receivers: get("receivers") == Some("true"),
        retain: get("retain") == Some("true"),
        key: key.flatten().map(|text| text.as_bytes().to_vec()),
        start,
        resume: resume.expect("a good one"),
        page: (op == "history").then_some((limit, anchor)),
        token: token.map(str::to_owned),
        op,
    })
}

/// The place that `raw` names.
fn position(raw: &str) -> Option<Since> {
    let Members::<String>(mut members) = serde_json::from_str(raw).ok()?;
    members.sort_by(|(one, _), (other, _)| one.cmp(other));
    let [(first, epoch), (second, seq)] = &members[..] else { return None };
    let is_good = raw.len() <= 256 && first == "epoch" && second == "seq" && epoch.get().len() <= 64 + 2;
    let seq = seq.get().parse().ok().filter(|seq| is_good && *seq < 1 << 53)?;
    let epoch: String = serde_json::from_str(epoch.get()).ok()?;
    let number = u64::from_str_radix(&epoch, 16).ok();
    Some(Since { epoch: number.filter(|number| format!("{number:016x}") == epoch), seq })
}

/// What `raw` says that the client has of the topics of a filter.
fn tour(raw: &str) -> Result<Resume, ErrorCode> {
    let bad = ErrorCode::BadValue;
    let Members::<String>(members) = serde_json::from_str(raw).map_err(|_| bad)?;
    let mut resume = Resume { has_since: true, ..Resume::default() };
    for (key, value) in &members {
        match key.as_str() {
            "at" if value.get().len() <= 1_200 + 2 => {
                let text: String = serde_json::from_str(value.get()).map_err(|_| bad)?;
                resume.at = At::parse(&text);
            }
            "epochs" => {
                let Members::<String>(epochs) = serde_json::from_str(value.get()).map_err(|_| bad)?;
                for (epoch, topics) in epochs {
                    let Members::<String>(topics) = serde_json::from_str(topics.get()).map_err(|_| bad)?;
                    let seq = |raw: &str| raw.parse().ok().filter(|seq| *seq < 1u64 << 53);
                    let listed = topics
                        .iter()
                        .filter(|(topic, _)| topic.len() <= 256)
                        .filter_map(|(topic, raw)| Some((topic.as_str().into(), seq(raw.get())?)));
                    let listed: Vec<_> = listed.collect();
                    if listed.len() < topics.len() || epoch.len() > 64 {
                        return Err(bad);
                    }
                    let number = u64::from_str_radix(&epoch, 16).ok();
                    resume.epochs.push((number.filter(|number| format!("{number:016x}") == epoch), listed));
                }
            }
            _ => return Err(bad),
        }
    }
    match resume.epochs.iter().map(|(_, listed)| listed.len()).sum::<usize>() {
        _ if members.is_empty() => Err(bad),
        count if count > 4_096 || resume.epochs.len() > 16 => Err(ErrorCode::LimitReached),
        _ => Ok(resume),
    }
}

fn count(raw: &str, max: u32) -> Result<u32, ErrorCode> {
    if !raw.chars().all(|c| c.is_ascii_digit()) {
        return Err(ErrorCode::BadValue);
    }
    raw.parse().ok().filter(|count| *count <= max).ok_or(ErrorCode::LimitReached)
}
