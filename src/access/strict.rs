//! The JSON objects of tokens and keys, of which nobody can make anything else.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::protocol::json::Parser;

/// How deep such an object may be nested, itself included.
pub const DEPTH_MAX: usize = 8;

/// The members of an object that is I-JSON (RFC 7493): no key is twice in it, nor in whatever is inside.
pub struct Object<'a> {
    text: &'a str,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// The value of a member, as it is written.
#[derive(Clone, Copy)]
pub struct Value<'a>(&'a str);

impl<'a> Object<'a> {
    /// Reads what may be nothing but one object.
    pub fn read(text: &'a [u8]) -> Option<Object<'a>> {
        Parser::with_depth_max(DEPTH_MAX).check_data(text).ok()?;
        Value(str::from_utf8(text).ok()?).object()
    }

    /// All of it.
    pub fn value(&self) -> Value<'a> {
        Value(self.text)
    }

    /// The value of the member `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        self.members().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// All of them.
    pub fn members(&self) -> impl Iterator<Item = (&str, Value<'a>)> {
        self.members.iter().map(|(name, value)| (&**name, Value(value.get())))
    }
}

impl<'a> Value<'a> {
    /// As it is written.
    pub fn raw(self) -> &'a str {
        self.0
    }

    /// If it is a text, without its escapes.
    pub fn text(self) -> Option<Box<str>> {
        serde_json::from_str(self.0).ok()
    }

    /// If it is a number of not less than 0. One that is none of a 64-bit integer is rounded by `round`.
    pub fn number(self, round: fn(f64) -> f64) -> Option<u64> {
        if let Ok(integer) = self.0.parse() {
            return Some(integer);
        }
        // What is no number in JSON but is one to `f64` begins with neither.
        let is_number = self.0.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let number = self.0.parse().ok().filter(|_| is_number).map(round)?;
        (0.0..u64::MAX as f64).contains(&number).then_some(number as u64)
    }

    /// If it is an array, what is in it.
    pub fn array(self) -> Option<Vec<Value<'a>>> {
        let values: Vec<&'a RawValue> = serde_json::from_str(self.0).ok()?;
        Some(values.into_iter().map(|value| Value(value.get())).collect())
    }

    /// If it is an object, its members.
    pub fn object(self) -> Option<Object<'a>> {
        let Members(members) = serde_json::from_str(self.0).ok()?;
        Some(Object { text: self.0, members })
    }
}

/// As they are read.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// A key, of which a copy is made only if it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_they_are_written() {
        let text = br#" {"a":"\u0062","\u0063" : [ 1, {"d":null} ],"e":{"f":1.0}} "#;
        let object = Object::read(text).expect("it is an object");
        assert_eq!(object.get("a").and_then(Value::text).as_deref(), Some("b"));
        let array = object.get("c").and_then(Value::array).expect("an array");
        assert_eq!(array.iter().map(|value| value.raw()).collect::<Vec<_>>(), ["1", r#"{"d":null}"#]);
        assert!(object.get("e").and_then(Value::object).is_some_and(|inner| inner.get("f").is_some()));
        let [a, c, e] = ["a", "c", "e"].map(|name| object.get(name).unwrap());
        assert!(a.array().is_none() && c.text().is_none() && e.text().is_none() && a.object().is_none());
        assert!(object.get("d").is_none() && object.members().count() == 3);
    }

    #[test]
    fn what_two_may_read_otherwise_is_not_read() {
        for text in [
            "",
            "[]",
            "1",
            "null",
            r#"{"a":1"#,
            r#"{"a":1}{}"#,
            r#"{"a":1,}"#,
            r#"{'a':1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a":[{"b":[{"c":1,"c":1}]}]}"#,
            r#"{"a":1e400}"#,
            r#"{"a":01}"#,
            r#"{"a":NaN}"#,
            r#"{"a":"\ud800"}"#,
            "{\"a\":\"\u{fffe}\"}",
            "{\"a\":\"\n\"}",
            "\u{feff}{}",
            "{} // a",
        ] {
            assert!(Object::read(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Object::read(b"{\"a\":\"\xff\"}").is_none());
        let nested = |depth| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        assert!(Object::read(nested(DEPTH_MAX).as_bytes()).is_some());
        assert!(Object::read(nested(DEPTH_MAX + 1).as_bytes()).is_none());
    }

    #[test]
    fn numbers_are_rounded_as_it_is_asked() {
        for (text, down, up) in [
            ("0", Some(0), Some(0)),
            ("-0", Some(0), Some(0)),
            ("-0.5", None, Some(0)),
            ("1.5", Some(1), Some(2)),
            ("1e3", Some(1_000), Some(1_000)),
            ("18446744073709551615", Some(u64::MAX), Some(u64::MAX)),
            ("18446744073709551616", None, None),
            ("1e300", None, None),
            ("-1", None, None),
            ("\"1\"", None, None),
            ("true", None, None),
            ("null", None, None),
            ("[1]", None, None),
        ] {
            assert_eq!(Value(text).number(f64::floor), down, "{text}");
            assert_eq!(Value(text).number(f64::ceil), up, "{text}");
        }
    }
}
