//! The key of a publication, by which it is published once.

use simd_json::Node;

use super::{Fault, Members, Quoted, key::Key};
use crate::protocol::command::{ErrorCode, KEY_BYTES_MAX};

/// The key of the publication, if it has one.
pub(super) fn read_key<'a>(members: &Members<'_, 'a>) -> Result<Option<&'a [u8]>, Fault> {
    let Some(value) = members.get(Key::Once).filter(|value| !value.is_null()) else { return Ok(None) };
    let bad_value = |message| Fault { code: ErrorCode::BadValue, message };
    let Node::String(_) = value.node else {
        let value = Quoted(value.raw);
        let message = format!("`key` is {value}; a string of 1 to {KEY_BYTES_MAX} bytes is allowed");
        return Err(bad_value(message));
    };
    let key = &value.raw.as_bytes()[1..value.raw.len() - 1];
    check_key(key).map_err(bad_value)?;
    Ok(Some(key))
}

/// Whether a publication may have the key; else the broken rule.
pub(in super::super) fn check_key(key: &[u8]) -> Result<(), String> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(format!("`key` is {len} bytes long; 1 to {KEY_BYTES_MAX} are allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_refused, results},
        *,
    };
    use crate::protocol::{command::Command, json::Parser};

    /// Whichever way the text takes.
    #[test]
    fn a_key_is_what_is_written_between_its_quotes() {
        let longest = "k".repeat(KEY_BYTES_MAX);
        for (member, expected) in [
            ("", None),
            (r#","key":null"#, None),
            (r#","key":"o-17""#, Some("o-17")),
            (r#","key":"o\u002d17""#, Some(r"o\u002d17")),
            (r#", "key" : "ä\"" "#, Some(r#"ä\""#)),
            (&format!(r#","key":"{longest}""#), Some(&longest)),
        ] {
            let text = format!(r#"{{"op":"publish","topic":"t","data":1{member}}}"#);
            for mut parser in [Parser::new(), Parser::for_long_texts()] {
                let results = results(&mut parser, &text);
                let [Ok(Command::Publish { key, .. })] = &results[..] else { panic!("{results:?}") };
                assert_eq!(*key, expected.map(str::as_bytes), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        use ErrorCode::{BadTopic, BadValue, DuplicateKey, UnknownKey};
        let publish = |key: &str| format!(r#"{{"op":"publish","topic":"a/+","data":1,"key":{key}}}"#);
        let quoted = |len| format!("\"{}\"", "k".repeat(len));
        assert_refused(&publish("7"), BadValue, &["`key`", "`7`", "1 to 64 bytes"]);
        assert_refused(&publish(&quoted(0)), BadValue, &["`key`", "0 bytes", "1 to 64"]);
        assert_refused(&publish(&quoted(KEY_BYTES_MAX + 1)), BadValue, &["`key`", "65 bytes", "1 to 64"]);
        assert_refused(&publish(&quoted(KEY_BYTES_MAX)), BadTopic, &["+ and #"]);
        assert_refused(r#"{"op":"publish","topic":"t","key":[]}"#, BadValue, &["`key`", "`[]`"]);
        assert_refused(&publish(r#""a","key":"a""#), DuplicateKey, &["`key`"]);
        assert_refused(r#"{"op":"ping","key":"a"}"#, UnknownKey, &["ping", "`key`"]);
    }
}
