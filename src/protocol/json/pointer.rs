//! JSON pointers (RFC 6901): which part of a payload is the key of a topic's value.
//!
//! A payload was checked when it came, so what is looked for is found without reading what stands around it: that is passed
//! over by its quotes and brackets, and nothing is allocated but for a name that was written with escapes. What is no JSON
//! after all points to nothing; it cannot make this do anything else.

use super::long::{skip_spaces, string, unescape};

/// The longest pointer, in bytes.
pub const POINTER_BYTES_MAX: usize = 128;

/// A pointer to some part of a JSON text, which is not the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    text: Box<str>,
    /// The names and indices, the outermost first; without escapes.
    tokens: Box<[Box<str>]>,
}

impl Pointer {
    /// The pointer that `text` is, if it is one of at most [`POINTER_BYTES_MAX`] bytes. One to the whole text, which would be
    /// empty, is none here.
    pub fn parse(text: &str) -> Option<Pointer> {
        let tokens = text.strip_prefix('/').filter(|_| text.len() <= POINTER_BYTES_MAX)?;
        let tokens: Option<Box<[Box<str>]>> = tokens.split('/').map(unescaped).collect();
        Some(Pointer { text: text.into(), tokens: tokens? })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The string, number or literal that it points to in `text`, as that was written; none where nothing is there, or an array
    /// or object. Of several members of one name, which no text has that was checked, it is the first.
    pub fn find<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let mut name = Vec::new();
        let mut at = skip_spaces(text, 0);
        for token in &self.tokens {
            at = match text.get(at)? {
                b'{' => member(text, at, token.as_bytes(), &mut name)?,
                b'[' => element(text, at, token)?,
                _ => return None,
            };
        }
        let is_nested = matches!(text.get(at)?, b'{' | b'[');
        let end = value_end(text, at).filter(|_| !is_nested)?;
        Some(&text[at..end])
    }
}

/// A token without its escapes, of which there are two.
fn unescaped(token: &str) -> Option<Box<str>> {
    let mut parts = token.split('~');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escaped, rest) = part.split_at_checked(1)?;
        out.push(match escaped {
            "0" => '~',
            "1" => '/',
            _ => return None,
        });
        out.push_str(rest);
    }
    Some(out.into())
}

/// Where the value of the member `name` begins, of the object at `open`; `unescaped` is memory for this.
fn member(text: &[u8], open: usize, name: &[u8], unescaped: &mut Vec<u8>) -> Option<usize> {
    /// An escape is so many bytes at most for each of what it stands for.
    const ESCAPE_BYTES_MAX: usize = 6;

    let mut at = skip_spaces(text, open + 1);
    while *text.get(at)? == b'"' {
        let key = string(text, at).ok()?;
        let raw = &text[at + 1..key.end - 1];
        let is_it = match key.has_escapes {
            false => raw == name,
            true if raw.len() > name.len() * ESCAPE_BYTES_MAX => false,
            true => {
                unescaped.clear();
                unescape(raw, unescaped);
                unescaped == name
            }
        };
        at = skip_spaces(text, key.end);
        if *text.get(at)? != b':' {
            return None;
        }
        at = skip_spaces(text, at + 1);
        if is_it {
            return Some(at);
        }
        at = next(text, at)?;
    }
    None
}

/// Where the element begins of which `token` is the index, of the array at `open`.
fn element(text: &[u8], open: usize, token: &str) -> Option<usize> {
    let is_index = token.bytes().all(|digit| digit.is_ascii_digit());
    let has_zeros = token.len() > 1 && token.starts_with('0');
    let index: usize = token.parse().ok().filter(|_| is_index && !has_zeros)?;
    (0..index).try_fold(skip_spaces(text, open + 1), |at, _| next(text, at))
}

/// Where what is behind the value at `at` begins, and the comma between them.
fn next(text: &[u8], at: usize) -> Option<usize> {
    let comma = skip_spaces(text, value_end(text, at)?);
    (*text.get(comma)? == b',').then(|| skip_spaces(text, comma + 1))
}

/// Where the value at `at` ends.
fn value_end(text: &[u8], at: usize) -> Option<usize> {
    match *text.get(at)? {
        b'"' => string(text, at).ok().map(|string| string.end),
        b'{' | b'[' => nested_end(text, at),
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            let len = text[at..].iter().position(is_end).unwrap_or(text.len() - at);
            (len > 0).then_some(at + len)
        }
    }
}

/// Where the array or object at `at` ends: a count is enough, however deep it is.
fn nested_end(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match *text.get(at)? {
            b'"' => {
                at = string(text, at).ok()?.end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The definition: the whole text is read.
#[cfg(any(test, fuzzing))]
pub(crate) mod naive {
    use serde_json::Value;

    /// What the pointer `text` points to in `json`, unless that is an array or object, or nothing.
    pub(crate) fn find(text: &str, json: &[u8]) -> Option<Value> {
        let json: Value = serde_json::from_slice(json).ok()?;
        json.pointer(text).filter(|value| !value.is_array() && !value.is_object()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        sample::select,
        test_runner::{Config, RngSeed},
    };
    use serde_json::{Map, Value, json};

    use super::*;

    const NAMES: [&str; 8] = ["", "a", "a/b", "~", "~1", "0", "\"\\\n", "ä\u{1f600}"];

    fn found(pointer: &str, text: &str) -> Option<String> {
        let pointer = Pointer::parse(pointer).expect("a pointer");
        pointer.find(text.as_bytes()).map(|found| String::from_utf8(found.to_vec()).unwrap())
    }

    #[test]
    fn what_is_a_pointer_and_what_is_none() {
        let longest = format!("/{}", "x".repeat(POINTER_BYTES_MAX - 1));
        for text in ["/", "/a", "//", "/a/0/-", "/~0~1", "/ä", &longest] {
            assert_eq!(Pointer::parse(text).as_ref().map(Pointer::as_str), Some(text));
        }
        let longer = format!("{longest}x");
        for text in ["", "a", "a/b", "/~", "/~2", "/a~/b", "#/a", &longer] {
            assert_eq!(Pointer::parse(text), None, "{text}");
        }
    }

    /// The examples of RFC 6901, section 5, and those of them that point to no scalar.
    #[test]
    fn it_points_to_what_the_rfc_says() {
        let text = r#"{ "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8 }"#;
        for (pointer, value) in [
            ("/foo/0", "\"bar\""),
            ("/foo/1", "\"baz\""),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert_eq!(found(pointer, text).as_deref(), Some(value), "{pointer}");
        }
        for pointer in ["/foo", "/foo/2", "/foo/-", "/foo/00", "/foo/+1", "/foo/", "/foo/0/0", "/bar"] {
            assert_eq!(found(pointer, text), None, "{pointer}");
        }
    }

    /// One number or string that is written in two ways is two keys: nobody has to know all of the ways.
    #[test]
    fn what_it_points_to_is_told_as_it_was_written() {
        for written in ["1", "1.0", "10e-1", "-0", "true", "false", "null", r#""a""#, r#""\u0061""#, r#""""#]
        {
            let text = format!(" {{ \"x\" : {{}} , \"\\u006b\" :\n{written} }} ");
            assert_eq!(found("/k", &text).as_deref(), Some(written), "{text}");
        }
        assert_eq!(found("/k", r#"{"k":1,"k":2}"#).as_deref(), Some("1"), "the first of its name");
    }

    #[test]
    fn what_is_no_json_points_to_nothing() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "{\"k\"",
            "{\"k\":",
            "{\"k\":}",
            "{k:1}",
            "{\"k\" 1}",
            "[}",
            "\"k\"",
            "1",
            "{\"j\":[[,\"k\":1}",
        ] {
            assert_eq!(found("/k", text), None, "{text}");
            assert_eq!(found("/0", text), None, "{text}");
        }
    }

    /// It goes through as much of a deep text as there is, and through nothing by calling itself.
    #[test]
    fn a_text_may_be_as_deep_as_it_likes() {
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let text = format!("{{\"deep\":{},\"k\":2}}", deep(1_000_000));
        assert_eq!(found("/k", &text).as_deref(), Some("2"));
        let pointer = "/0".repeat(POINTER_BYTES_MAX / 2);
        assert_eq!(found(&pointer, &deep(POINTER_BYTES_MAX / 2)).as_deref(), Some("1"));
        assert_eq!(found(&pointer, &deep(POINTER_BYTES_MAX / 2 + 1)), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(|number: f64| json!(number)),
            "[\\]\\[{}\",:\\\\a ä]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((select(&NAMES[..]), inner), 0..5).prop_map(|members| {
                    let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
                    members.collect::<Map<_, _>>().into()
                }),
            ]
        })
    }

    fn pointer() -> impl Strategy<Value = String> {
        let name = select(&NAMES[..]).prop_map(|name| name.replace('~', "~0").replace('/', "~1"));
        let index = select(vec!["0", "1", "2", "01", "-", "+1"]).prop_map(str::to_owned);
        prop::collection::vec(prop_oneof![3 => name, 1 => index], 1..4)
            .prop_map(|tokens| tokens.iter().map(|token| format!("/{token}")).collect())
    }

    proptest! {
        #![proptest_config(Config { rng_seed: RngSeed::Fixed(69), cases: 3_000, failure_persistence: None, ..Config::default() })]

        #[test]
        fn it_finds_what_whoever_reads_all_of_it_finds(value in value(), pointer in pointer(), is_wide: bool) {
            let text = if is_wide { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let found = Pointer::parse(&pointer).expect("a pointer").find(text.as_bytes());
            let read = found.map(|found| serde_json::from_slice::<Value>(found).expect("a value"));
            prop_assert_eq!(read, naive::find(&pointer, text.as_bytes()));
        }
    }
}
