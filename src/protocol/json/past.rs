//! What commands ask of a topic's past: places in its order, and how many publications.
//!
//! Of a long text a document has no more than where its values stand, so that these are read from the text itself. It
//! was found to be I-JSON before, so that nothing is looked for here but what else they may be.

use super::{
    Fault, ID_NUMBER_MAX, Members, Quoted,
    culprit::{KEY_BYTES_MAX, read_string},
    key::Key,
    long::skip_spaces,
};
use crate::protocol::command::{Anchor, ErrorCode, Since};

/// The longest object that names a place, as it is written.
const POSITION_BYTES_MAX: usize = 256;
/// The longest text that may be an epoch: bytes between the quotes, as written.
pub(super) const EPOCH_BYTES_MAX: usize = 64;
/// So long is what a broker has for its epoch.
const EPOCH_DIGITS: usize = 16;

/// The place in the topic's order that `key` names, if it is there.
pub(super) fn position(members: &Members<'_, '_>, key: Key) -> Result<Option<Since>, Fault> {
    let Some(raw) = members.get_set(key) else { return Ok(None) };
    let key = key.as_str();
    if raw.len() > POSITION_BYTES_MAX {
        let len = raw.len();
        return Err(bad_value(format!(
            "`{key}` is {len} bytes long; at most {POSITION_BYTES_MAX} are allowed"
        )));
    }
    read_position(raw).map(Some).ok_or_else(|| {
        bad_value(format!(
            "`{key}` is {}; an object of `epoch`, a string of at most {EPOCH_BYTES_MAX} bytes, and `seq`, an integer from 0 to {ID_NUMBER_MAX}, is allowed",
            Quoted(raw)
        ))
    })
}

/// Where a history stands.
pub(super) fn anchor(members: &Members<'_, '_>) -> Result<Option<Anchor>, Fault> {
    match (position(members, Key::Before)?, position(members, Key::After)?) {
        (Some(_), Some(_)) => {
            Err(bad_value("`before` and `after` are both there; one is allowed".to_owned()))
        }
        (before, after) => Ok(before.map(Anchor::Before).or(after.map(Anchor::After))),
    }
}

/// How many publications `key` asks for, if it is there.
pub(super) fn count(members: &Members<'_, '_>, key: Key, max: u32) -> Result<Option<u32>, Fault> {
    let Some(raw) = members.get_set(key) else { return Ok(None) };
    let key = key.as_str();
    if !raw.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad_value(format!("`{key}` is {}; an integer from 0 to {max} is allowed", Quoted(raw))));
    }
    match raw.parse() {
        Ok(count) if count <= max => Ok(Some(count)),
        _ => {
            let message = format!("`{key}` is {}; at most {max} is allowed", Quoted(raw));
            Err(Fault { code: ErrorCode::LimitReached, message })
        }
    }
}

pub(super) fn bad_value(message: String) -> Fault {
    Fault { code: ErrorCode::BadValue, message }
}

/// The place that `raw`, a good value of at most [`POSITION_BYTES_MAX`] bytes, names: if it is an object of `epoch` and
/// `seq` and of nothing else.
fn read_position(raw: &str) -> Option<Since> {
    let text = raw.as_bytes();
    let mut at = if text[0] == b'{' { 1 } else { return None };
    let (mut epoch, mut seq) = (None, None);
    loop {
        // Where there is none the object is empty.
        at = skip_spaces(text, at);
        let (written, key) = read_string(raw, at, KEY_BYTES_MAX)?;
        let colon = skip_spaces(text, at + written.len());
        at = skip_spaces(text, colon + 1);
        at += match &*key {
            "epoch" => {
                let (written, text) = read_string(raw, at, EPOCH_BYTES_MAX)?;
                if written.len() > EPOCH_BYTES_MAX + "\"\"".len() {
                    return None;
                }
                epoch = Some(read_epoch(&text));
                written.len()
            }
            "seq" => {
                let len = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                seq = Some(raw[at..at + len].parse().ok().filter(|seq| *seq <= ID_NUMBER_MAX)?);
                len
            }
            _ => return None,
        };
        at = skip_spaces(text, at);
        match text[at] {
            b',' => at += 1,
            b'}' => break,
            // Of a number more than its digits.
            _ => return None,
        }
    }
    Some(Since { epoch: epoch?, seq: seq? })
}

/// The epoch that is written like this, if one is: a `+` or a capital letter is none.
pub(super) fn read_epoch(text: &str) -> Option<u64> {
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_epoch = text.len() == EPOCH_DIGITS && text.bytes().all(is_digit);
    is_epoch.then(|| u64::from_str_radix(text, 16).expect("16 hexadecimal digits are 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_refused, results, with_command},
        *,
    };
    use crate::protocol::{
        command::{Command, HISTORY_MAX, LAST_MAX, RequestId, Start},
        json::Parser,
        topic::TopicName,
    };

    /// A place in the order of a topic that this broker, or another, numbered.
    fn since(epoch: u64, seq: u64) -> Since {
        Since { epoch: Some(epoch), seq }
    }

    #[test]
    fn a_subscribe_says_where_it_begins() {
        let epoch = 0x9f3a_c0de_1234_5678;
        let place = r#"{"epoch":"9f3ac0de12345678","seq":103}"#;
        for (members, expected) in [
            ("", Start::default()),
            (r#","since":null,"last":null"#, Start::default()),
            (&format!(r#","since":{place}"#), Start { since: Some(since(epoch, 103)), last: None }),
            (
                r#", "last" : 50 , "since" : { "s\u0065q" : 0 , "epoch" : "\u0039f3ac0de12345678" } "#,
                Start { since: Some(since(epoch, 0)), last: Some(50) },
            ),
            (r#","last":0"#, Start { since: None, last: Some(0) }),
            (r#","last":10000"#, Start { since: None, last: Some(LAST_MAX) }),
        ] {
            let text = format!(r#"{{"op":"subscribe","topic":"t"{members}}}"#);
            with_command(&text, |command| {
                let Command::Subscribe { start, .. } = command else { panic!("{command:?}") };
                assert_eq!(start, expected, "{text}");
                assert_eq!(start.is_plain(), !members.contains(|c: char| c.is_ascii_digit()), "{text}");
            });
        }
    }

    #[test]
    fn a_history_says_how_much_of_what() {
        let epoch = 0x9f3a_c0de_1234_5678;
        let place = r#"{"epoch":"9f3ac0de12345678","seq":121}"#;
        for (members, limit, anchor) in [
            ("", 100, None),
            (r#","limit":null,"before":null,"after":null"#, 100, None),
            (r#","limit":0"#, 0, None),
            (r#","limit":1000"#, HISTORY_MAX, None),
            (&format!(r#","before":{place}"#), 100, Some(Anchor::Before(since(epoch, 121)))),
            (&format!(r#","after":{place},"before":null"#), 100, Some(Anchor::After(since(epoch, 121)))),
        ] {
            let text = format!(r#"{{"op":"history","topic":"$sys/a","id":"x"{members}}}"#);
            let topic = TopicName::checked("$sys/a".into());
            let expected = Command::History { id: RequestId::Text(r#""x""#), topic, limit, anchor };
            with_command(&text, |command| assert_eq!(command, expected, "{text}"));
        }
        let both = format!(r#"{{"op":"history","topic":"t","id":1,"before":{place},"after":{place}}}"#);
        assert_refused(&both, ErrorCode::BadValue, &["`before`", "`after`", "one is allowed"]);
    }

    /// Whichever key names it, and whichever way the text takes.
    #[track_caller]
    fn place_of(place: &str) -> Option<Since> {
        let mut told = Vec::new();
        for (op, key) in [("subscribe", "since"), ("history", "before"), ("history", "after")] {
            let text = format!(r#"{{"op":"{op}","topic":"t","id":1,"{key}":{place}}}"#);
            for mut parser in [Parser::new(), Parser::for_long_texts()] {
                told.push(match results(&mut parser, &text).remove(0) {
                    Ok(Command::Subscribe { start: Start { since, .. }, .. }) => since,
                    Ok(Command::History { anchor: Some(Anchor::Before(at) | Anchor::After(at)), .. }) => {
                        Some(at)
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => {
                        assert_eq!(error.code, ErrorCode::BadValue, "{text}");
                        assert!(error.message.contains(&format!("`{key}`")), "{}", error.message);
                        assert!(error.message.contains("allowed"), "{}", error.message);
                        None
                    }
                });
            }
        }
        assert!(told.iter().all(|place| *place == told[0]), "{place}: {told:?}");
        told[0]
    }

    #[test]
    fn a_place_is_an_object_of_epoch_and_seq_and_of_nothing_else() {
        let of = |epoch: &str, seq: &str| format!(r#"{{"epoch":{epoch},"seq":{seq}}}"#);
        let good = r#""9f3ac0de12345678""#;
        assert_eq!(
            place_of(&of(good, "9007199254740991")),
            Some(since(0x9f3a_c0de_1234_5678, (1 << 53) - 1))
        );
        assert_eq!(place_of(&of(r#""0000000000000000""#, "0")), Some(since(0, 0)));
        assert_eq!(place_of(&of(r#""ffffffffffffffff""#, "0")), Some(since(u64::MAX, 0)));
        for place in [
            r#"[]"#,
            r#"7"#,
            r#""9f3ac0de12345678.103""#,
            r#"{}"#,
            r#"{ }"#,
            r#"{"epoch":"9f3ac0de12345678"}"#,
            r#"{"seq":1}"#,
            r#"{"epoch":"9f3ac0de12345678","seq":1,"at":"1"}"#,
            r#"{"epoch":"9f3ac0de12345678","seq":1,"a key of more bytes than any of ours, escaped":1}"#,
            &of("7", "1"),
            &of("null", "1"),
            &of("{}", "1"),
            &of(good, "null"),
            &of(good, "\"1\""),
            &of(good, "-1"),
            &of(good, "1.0"),
            &of(good, "1e3"),
            &of(good, "9007199254740992"),
            &of(good, "18446744073709551616"),
            &of(good, "[1]"),
        ] {
            assert_eq!(place_of(place), None, "{place}");
        }
        // The text as a whole is no I-JSON.
        let twice = r#"{"op":"subscribe","topic":"t","since":{"epoch":"a","seq":1,"seq":1}}"#;
        assert_refused(twice, ErrorCode::BadMessage, &["`seq`", "twice"]);
    }

    #[test]
    fn an_epoch_that_nobody_ever_had_is_known_as_that() {
        let at = |epoch: &str| place_of(&format!(r#"{{"epoch":"{epoch}","seq":1}}"#));
        for epoch in [
            "",
            "9f3a",
            "9f3ac0de1234567",
            "9f3ac0de123456789",
            "9F3AC0DE12345678",
            "+f3ac0de12345678",
            "9f3ac0de1234567g",
            "😀😀😀😀",
            &"x".repeat(64),
            &"\\n".repeat(32),
        ] {
            assert_eq!(at(epoch), Some(Since { epoch: None, seq: 1 }), "{epoch}");
        }
        assert_eq!(at(&"x".repeat(65)), None);
        assert_eq!(at(&"\\u0066".repeat(16)), None, "so many bytes as written");
    }

    #[test]
    fn a_place_is_written_in_at_most_256_bytes() {
        let of = |len: usize| {
            let place = r#"{"epoch":"9f3ac0de12345678","seq":1}"#;
            format!("{}{}}}", &place[..place.len() - 1], " ".repeat(len - place.len()))
        };
        assert_eq!(place_of(&of(256)), Some(since(0x9f3a_c0de_1234_5678, 1)));
        assert_eq!(place_of(&of(257)), None);
        let long = format!(r#"{{"op":"subscribe","topic":"t","since":{}}}"#, of(257));
        assert_refused(&long, ErrorCode::BadValue, &["`since`", "257 bytes", "at most 256"]);
    }

    #[test]
    fn counts_are_bounded_and_the_bound_is_told() {
        for (op, key, max) in [("subscribe", "last", 10_000), ("history", "limit", 1_000)] {
            let text = |count: &str| format!(r#"{{"op":"{op}","topic":"t","id":1,"{key}":{count}}}"#);
            for count in ["-1", "-0", "1.0", "1e3", "\"1\"", "true", "[]", "{}"] {
                let allowed = format!("from 0 to {max}");
                assert_refused(&text(count), ErrorCode::BadValue, &[key, &allowed]);
            }
            let (above, ones) = ((max + 1).to_string(), "1".repeat(300));
            for count in [&above, "4294967296", "18446744073709551616", &ones] {
                let allowed = format!("at most {max} is allowed");
                assert_refused(
                    &text(count),
                    ErrorCode::LimitReached,
                    &[key, &count[..5.min(count.len())], &allowed],
                );
            }
        }
    }
}
