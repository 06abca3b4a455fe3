//! The parser against a naive twin on serde_json, over generated and mutated texts.
//!
//! The twin reads member by member with `RawValue`, recurses, allocates, and compares each key with
//! each. It must agree on which texts and commands are refused, with which code, and on every field.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::RngSeed,
};
use serde_json::value::RawValue;

use super::*;

/// A command or an error, without what the twin does not say: the error's words.
#[derive(Debug, PartialEq)]
enum Outcome {
    Command(OwnedCommand),
    Error { op: Option<String>, id: Option<String>, topic: Option<String>, code: ErrorCode },
}

#[derive(Debug, PartialEq)]
struct OwnedCommand {
    op: String,
    id: Option<String>,
    topic: Option<String>,
    data: Option<String>,
    receivers: bool,
}

fn owned_id(id: RequestId<'_>) -> String {
    match id {
        RequestId::Number(number) => number.to_string(),
        RequestId::Text(raw) => raw.to_owned(),
    }
}

fn of_parser(parser: &mut Parser, text: &str) -> Vec<Outcome> {
    let own = |result: Result<Command<'_>, CommandError<'_>>| match result {
        Err(error) => Outcome::Error {
            op: error.op.map(str::to_owned),
            id: error.id.map(owned_id),
            topic: error.topic.map(Cow::into_owned),
            code: error.code,
        },
        Ok(command) => {
            let (op, id, topic, data, receivers) = match command {
                Command::Subscribe { id, filter } => ("subscribe", id, Some(filter), None, false),
                Command::Unsubscribe { id, filter } => ("unsubscribe", id, Some(filter), None, false),
                Command::Ping { id } => ("ping", id, None, None, false),
                Command::Publish { id, topic, payload, kind, receivers } => {
                    assert_eq!(kind, PayloadKind::Json);
                    ("publish", id, Some(topic), Some(payload), receivers)
                }
            };
            Outcome::Command(OwnedCommand {
                op: op.to_owned(),
                id: id.map(owned_id),
                topic: topic.map(Cow::into_owned),
                data: data.map(|data| String::from_utf8(data.to_vec()).expect("a span of the text")),
                receivers,
            })
        }
    };
    match parser.parse(text) {
        Ok(commands) => commands.map(own).collect(),
        Err(error) => vec![own(Err(error))],
    }
}

/// An object's members in order, duplicates included.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
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
        deserializer.deserialize_map(Visitor)
    }
}

fn has_noncharacter(string: &str) -> bool {
    string.chars().any(|c| {
        let code = c as u32;
        (0xfdd0..=0xfdef).contains(&code) || code % 0x10000 >= 0xfffe
    })
}

/// Whether `raw`, a JSON value, is I-JSON within `depth` levels.
fn is_i_json(raw: &str, depth: usize, keys_may_repeat: bool) -> bool {
    match raw.as_bytes()[0] {
        b'{' => {
            let Ok(Members(members)) = serde_json::from_str(raw) else { return false };
            let repeats =
                (1..members.len()).any(|i| members[..i].iter().any(|(key, _)| *key == members[i].0));
            depth > 0
                && (keys_may_repeat || !repeats)
                && members
                    .iter()
                    .all(|(key, value)| !has_noncharacter(key) && is_i_json(value.get(), depth - 1, false))
        }
        b'[' => {
            let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(raw) else { return false };
            depth > 0 && elements.iter().all(|value| is_i_json(value.get(), depth - 1, false))
        }
        b'"' => serde_json::from_str::<String>(raw).is_ok_and(|string| !has_noncharacter(&string)),
        b'-' | b'0'..=b'9' => {
            !raw.contains(['.', 'e', 'E']) || raw.parse::<f64>().expect("a JSON number").is_finite()
        }
        _ => true,
    }
}

fn of_twin(text: &str) -> Vec<Outcome> {
    let bad_message = |op, id, topic| Outcome::Error { op, id, topic, code: ErrorCode::BadMessage };
    let nothing = || vec![bad_message(None, None, None)];
    let Ok(whole) = serde_json::from_str::<&RawValue>(text) else { return nothing() };
    let raws: Vec<&str> = match whole.get().as_bytes()[0] {
        b'{' => vec![whole.get()],
        b'[' => {
            let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(whole.get()) else { return nothing() };
            elements.iter().map(|raw| raw.get()).collect()
        }
        _ => return nothing(),
    };
    // What simd-json refuses says nothing about the command; what is found afterwards does. Only the
    // text as a whole is compared here, so the twin reports either as unknown.
    if !raws.iter().all(|raw| raw.starts_with('{') && is_i_json(raw, DEPTH, true)) {
        return nothing();
    }
    raws.into_iter().map(command_of_twin).collect()
}

/// A command's own object and the levels of its data.
const DEPTH: usize = 1 + 128;

fn command_of_twin(raw: &str) -> Outcome {
    let Members(members) = serde_json::from_str(raw).expect("checked");
    let get = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| value.get());
    let string = |name: &str| get(name).and_then(|raw| serde_json::from_str::<String>(raw).ok());
    let op = string("op").filter(|op| ["subscribe", "unsubscribe", "publish", "ping"].contains(&op.as_str()));
    let id = get("id").filter(|raw| match raw.strip_prefix('"') {
        Some(text) => text.len() <= 65,
        None => {
            raw.bytes().all(|byte| byte.is_ascii_digit())
                && raw.parse::<u64>().is_ok_and(|number| number < 1 << 53)
        }
    });
    let topic = string("topic").filter(|topic| topic.len() <= 256);
    let error =
        |code| Outcome::Error { op: op.clone(), id: id.map(str::to_owned), topic: topic.clone(), code };

    let known = ["op", "id", "topic", "data", "receivers", "since", "last"];
    if known.iter().any(|name| members.iter().filter(|(key, _)| key == name).count() > 1) {
        return error(ErrorCode::DuplicateKey);
    }
    let Some(op) = op.clone() else {
        return error(if string("op").is_some() { ErrorCode::UnknownOp } else { ErrorCode::BadValue });
    };
    let takes: &[&str] = match op.as_str() {
        "subscribe" => &["op", "topic", "id", "since", "last"],
        "unsubscribe" => &["op", "topic", "id"],
        "publish" => &["op", "topic", "id", "data", "receivers"],
        _ => &["op", "id"],
    };
    if members.iter().any(|(key, _)| !takes.contains(&key.as_str())) {
        return error(ErrorCode::UnknownKey);
    }
    if id.is_none() && get("id").is_some() {
        return error(ErrorCode::BadValue);
    }
    if get("since").is_some() || get("last").is_some() {
        return error(ErrorCode::Unsupported);
    }
    if !matches!(get("receivers"), None | Some("true" | "false")) {
        return error(ErrorCode::BadValue);
    }
    if op == "publish" && get("data").is_none() {
        return error(ErrorCode::BadValue);
    }
    if op != "ping" && topic.is_none() {
        return error(if string("topic").is_some() { ErrorCode::BadTopic } else { ErrorCode::BadValue });
    }
    Outcome::Command(OwnedCommand {
        id: id.map(str::to_owned),
        topic: topic.clone(),
        data: get("data").map(str::to_owned),
        receivers: get("receivers") == Some("true"),
        op,
    })
}

const NUMBERS: &[&str] = &[
    "0",
    "7",
    "-0",
    "-1",
    "1.0",
    "1e3",
    "1E-7",
    "0.1",
    "9007199254740991",
    "9007199254740992",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "123456789012345678901234567890",
    "1e308",
    "1e309",
    "-1e400",
    "1.7976931348623158e308",
    "0e9999999999",
    "01",
    "1.",
    "-",
    "1e",
];
const STRINGS: &[&str] = &[
    r#""""#,
    r#""a""#,
    r#""room/42""#,
    r#""room\/42""#,
    r#""\u0061""#,
    r#""\ud83d\ude00""#,
    r#""\ud83d""#,
    r#""\ude00x""#,
    "\"ä€😀\"",
    r#""\\\"\n\t""#,
    "\"\u{fffe}\"",
    r#""\uffff""#,
    "\"\u{fffd}\"",
    r#""\u00zz""#,
    r#""\x""#,
    "\"\u{7f}\"",
];
const ATOMS: &[&str] = &["null", "true", "false", "nul", "truee"];
const SPACE: &[&str] = &["", "", "", " ", "\n", "\t ", "\r\n  "];
const OPS: &[&str] = &[
    r#""subscribe""#,
    r#""unsubscribe""#,
    r#""publish""#,
    r#""publish""#,
    r#""ping""#,
    r#""p\u0069ng""#,
    r#""shout""#,
    "7",
];
const KEYS: &[&str] = &[
    r#""id""#,
    r#""id""#,
    r#""topic""#,
    r#""topic""#,
    r#""data""#,
    r#""data""#,
    r#""receivers""#,
    r#""since""#,
    r#""last""#,
    r#""x""#,
    r#""t\u006fpic""#,
    r#""op""#,
    "\"\u{ffff}\"",
];

/// The first few of a list mostly: those are right, and one wrong value refuses the whole text.
fn mostly_first(list: &'static [&'static str], right: usize) -> BoxedStrategy<String> {
    prop_oneof![100 => select(&list[..right]), 1 => select(list)].prop_map(str::to_owned).boxed()
}

fn scalar() -> BoxedStrategy<String> {
    prop_oneof![mostly_first(NUMBERS, 14), mostly_first(STRINGS, 6), mostly_first(ATOMS, 3)].boxed()
}

fn bracketed(open: char, items: Vec<String>, close: char, space: &str) -> String {
    format!("{open}{space}{}{space}{close}", items.join(&format!("{space},")))
}

fn value() -> BoxedStrategy<String> {
    scalar()
        .prop_recursive(4, 40, 12, |inner| {
            let key = prop_oneof!["\"[a-z]{3}\"", "\"[ab]\"", Just("\"\\u0061\"".to_owned())];
            prop_oneof![
                (vec(inner.clone(), 0..6), select(SPACE))
                    .prop_map(|(items, space)| bracketed('[', items, ']', space)),
                (vec((key, inner), 0..12), select(SPACE)).prop_map(|(members, space)| {
                    let members =
                        members.into_iter().map(|(key, value)| format!("{key}{space}:{value}")).collect();
                    bracketed('{', members, '}', space)
                }),
            ]
        })
        .boxed()
}

fn member() -> BoxedStrategy<String> {
    select(KEYS)
        .prop_flat_map(|key| {
            let right = match key {
                r#""topic""# => mostly_first(STRINGS, 6),
                r#""id""# => prop_oneof![mostly_first(NUMBERS, 2), mostly_first(STRINGS, 6)].boxed(),
                r#""receivers""# => Just("true".to_owned()).boxed(),
                _ => value(),
            };
            (Just(key), prop_oneof![19 => right, 1 => value()], select(SPACE))
        })
        .prop_map(|(key, value, space)| format!("{space}{key}:{space}{value}"))
        .boxed()
}

fn command() -> BoxedStrategy<String> {
    let minimal = prop_oneof![
        4 => Just(vec![]),
        2 => Just(vec![r#""topic":"t""#.to_owned()]),
        3 => value().prop_map(|data| vec![r#""topic":"t""#.to_owned(), format!("\"data\":{data}")]),
    ];
    (
        prop_oneof![20 => mostly_first(OPS, 6), 1 => mostly_first(OPS, 8)],
        minimal,
        vec(member(), 0..2),
        any::<Index>(),
        select(SPACE),
    )
        .prop_map(|(op, mut members, more, index, space)| {
            members.extend(more);
            let at = index.index(members.len() + 1);
            members.insert(at, format!("\"op\":{op}"));
            bracketed('{', members, '}', space)
        })
        .boxed()
}

fn text() -> BoxedStrategy<String> {
    let texts = prop_oneof![
        6 => command(),
        3 => (vec(command(), 0..5), select(SPACE)).prop_map(|(commands, space)| bracketed('[', commands, ']', space)),
        1 => value(),
    ];
    (texts, select(SPACE), select(SPACE))
        .prop_map(|(text, before, after)| format!("{before}{text}{after}"))
        .boxed()
}

/// Replaces, inserts or removes characters.
fn mutate(text: &str, edits: &[(Index, u8, char)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (index, kind, c) in edits {
        let at = index.index(chars.len() + 1);
        match kind % 3 {
            0 => chars.insert(at, *c),
            1 if at < chars.len() => chars[at] = *c,
            _ if at < chars.len() => _ = chars.remove(at),
            _ => {}
        }
    }
    chars.into_iter().collect()
}

fn edit() -> impl Strategy<Value = (Index, u8, char)> {
    let interesting: Vec<char> =
        "{}[]:,\"\\ \n\u{0}\u{b}\u{c}\u{1f}\u{7f}\u{a0}\u{feff}\u{ffff}u0-+.eEd8tfnä😀".chars().collect();
    (any::<Index>(), any::<u8>(), select(interesting))
}

/// A text that is refused as a whole may name its command or not: the parser does where it can.
fn without_details(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let strip = |outcome| match outcome {
        Outcome::Error { code: ErrorCode::BadMessage, .. } => {
            Outcome::Error { op: None, id: None, topic: None, code: ErrorCode::BadMessage }
        }
        other => other,
    };
    outcomes.into_iter().map(strip).collect()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x66616e66617265),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn the_parser_agrees_with_its_twin(text in text()) {
        let mut parser = Parser::new();
        prop_assert_eq!(without_details(of_parser(&mut parser, &text)), of_twin(&text));
    }

    #[test]
    fn the_parser_agrees_with_its_twin_about_broken_texts(text in text(), edits in vec(edit(), 1..4)) {
        let text = mutate(&text, &edits);
        let mut parser = Parser::new();
        prop_assert_eq!(without_details(of_parser(&mut parser, &text)), of_twin(&text));
    }

    #[test]
    fn what_a_parser_read_before_does_not_matter(texts in vec(text(), 1..8)) {
        let mut used = Parser::new();
        for text in texts {
            prop_assert_eq!(of_parser(&mut used, &text), of_parser(&mut Parser::new(), &text));
        }
    }

    #[test]
    fn padding_of_any_length_does_not_matter(text in text(), spaces in 0usize..140) {
        let padded = format!("{}{text}", " ".repeat(spaces));
        prop_assert_eq!(of_parser(&mut Parser::new(), &padded), of_parser(&mut Parser::new(), &text));
    }
}

#[test]
fn the_generated_texts_are_not_all_refused() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::new(config(1));
    let mut counts = std::collections::HashMap::new();
    for _ in 0..2_000 {
        let text = text().new_tree(&mut runner).expect("a text").current();
        for outcome in of_parser(&mut Parser::new(), &text) {
            let name = match outcome {
                Outcome::Command(command) => command.op,
                Outcome::Error { code, .. } => code.as_str().to_owned(),
            };
            *counts.entry(name).or_insert(0) += 1;
        }
    }
    for name in [
        "subscribe",
        "unsubscribe",
        "publish",
        "ping",
        "bad_message",
        "bad_value",
        "unknown_key",
        "unknown_op",
        "duplicate_key",
        "unsupported",
    ] {
        assert!(counts.get(name).is_some_and(|&count| count >= 5), "{name}: {counts:?}");
    }
}
