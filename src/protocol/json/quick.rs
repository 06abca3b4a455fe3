//! Publications as most clients write them, read in one pass.
//!
//! simd-json makes a tape of a text, which is then walked: some 4,000 instructions for a command of 128 bytes. Most
//! publications are an object of plain members, of which a reader of one pass can be sure with half of them. What it
//! is not sure of, an escape, an exponent, a character that might not be one, a key that it does not know, and
//! everything that is wrong, it leaves to the others: it takes a text or says nothing, and never refuses one.

use super::{ID_TEXT_BYTES_MAX, check_key};
use crate::protocol::{
    command::{Command, PayloadKind, RequestId},
    topic::TopicName,
};

/// Deeper values are left to the others, and objects with more keys: each key is held against those before it.
const DEPTH_MAX: usize = 8;
const KEYS_MAX: usize = 16;
/// Numbers of so many digits are within a double, whatever they are.
const DIGITS_MAX: usize = 15;

/// The publication in `text`, if it is a plain one whose `data` is `data_depth_max` levels deep at most, and how many
/// values it has, keys included.
pub(super) fn read(text: &str, data_depth_max: usize) -> Option<(Command<'_>, usize)> {
    let mut reader = Reader { text, at: 0, value_count: 1 };
    let (mut is_publish, mut topic, mut data, mut id, mut publication_key) = (false, None, None, None, None);
    reader.open(b'{')?;
    loop {
        let key = reader.string()?;
        reader.colon()?;
        match key {
            "op" if !is_publish => {
                is_publish = reader.string()? == "publish";
                if !is_publish {
                    return None;
                }
            }
            "topic" if topic.is_none() => topic = Some(reader.string()?),
            "data" if data.is_none() => {
                let start = reader.at;
                reader.value(DEPTH_MAX.min(data_depth_max))?;
                data = Some(&text[start..reader.at]);
            }
            "id" if id.is_none() => id = Some(reader.id()?),
            "key" if publication_key.is_none() => {
                publication_key = Some(reader.string()?.as_bytes()).filter(|key| check_key(key).is_ok());
                publication_key?;
            }
            _ => return None,
        }
        if reader.is_last(b'}')? {
            break;
        }
    }
    reader.skip_space();
    let topic = topic.filter(|_| is_publish && reader.at == text.len())?;
    let command = Command::Publish {
        id,
        topic: TopicName::parse(topic).ok()?,
        payload: data?.as_bytes(),
        kind: PayloadKind::Json,
        receivers: false,
        key: publication_key,
        retain: false,
    };
    Some((command, reader.value_count))
}

/// A text, and how far it has been read: always to a character's boundary.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    value_count: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// A bracket, with space around it.
    fn open(&mut self, bracket: u8) -> Option<()> {
        self.skip_space();
        self.take(bracket)?;
        self.skip_space();
        Some(())
    }

    fn colon(&mut self) -> Option<()> {
        self.skip_space();
        self.take(b':')?;
        self.skip_space();
        Some(())
    }

    /// Whether what follows a value is the end of what it stands in, and not another one.
    fn is_last(&mut self, bracket: u8) -> Option<bool> {
        self.skip_space();
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b',' => self.skip_space(),
            _ => return (byte == bracket).then_some(true),
        }
        Some(false)
    }

    /// A string of plain characters; what is between the quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let rest = &self.text[self.at..];
        let text = &rest[..plain_len(rest.as_bytes())?];
        self.at += text.len() + 1;
        self.value_count += 1;
        Some(text)
    }

    fn id(&mut self) -> Option<RequestId<'a>> {
        let start = self.at;
        if self.peek()? == b'"' {
            let text = self.string()?;
            return (text.len() <= ID_TEXT_BYTES_MAX).then(|| RequestId::Text(&self.text[start..self.at]));
        }
        self.number()?;
        // Of plain digits, so few of which are always less than the largest number that may be an id.
        self.text[start..self.at].parse().ok().map(RequestId::Number)
    }

    /// Any value, with at most so many levels of arrays and objects.
    fn value(&mut self, depth_left: usize) -> Option<()> {
        match self.peek()? {
            b'"' => return self.string().map(drop),
            b'{' => self.object(depth_left.checked_sub(1)?)?,
            b'[' => self.array(depth_left.checked_sub(1)?)?,
            b't' => self.word("true")?,
            b'f' => self.word("false")?,
            b'n' => self.word("null")?,
            _ => return self.number(),
        }
        self.value_count += 1;
        Some(())
    }

    fn object(&mut self, depth_left: usize) -> Option<()> {
        self.open(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        // Where each is: a text is short, so that it fits.
        let (mut keys, mut count) = ([(0u16, 0u16); KEYS_MAX], 0);
        loop {
            let start = self.at + 1;
            let key = self.string()?;
            let is_key = |&(start, len): &(u16, u16)| {
                usize::from(len) == key.len()
                    && self.text.as_bytes()[usize::from(start)..].starts_with(key.as_bytes())
            };
            if keys[..count].iter().any(is_key) {
                return None;
            }
            *keys.get_mut(count)? = (start.try_into().ok()?, key.len().try_into().ok()?);
            count += 1;
            self.colon()?;
            self.value(depth_left)?;
            if self.is_last(b'}')? {
                return Some(());
            }
        }
    }

    fn array(&mut self, depth_left: usize) -> Option<()> {
        self.open(b'[')?;
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth_left)?;
            if self.is_last(b']')? {
                return Some(());
            }
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    /// A number without exponent. What follows it is looked at by whoever asked: another digit or an exponent is
    /// nothing that may follow.
    fn number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        let start = self.at;
        self.digits()?;
        if self.text.as_bytes()[start] == b'0' && self.at > start + 1 {
            return None;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        self.value_count += 1;
        (self.at - start <= DIGITS_MAX).then_some(())
    }

    /// At least one.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

/// How many plain bytes there are before a quote; `None` if something else comes first, or nothing: a backslash, a
/// control character, or a byte that a noncharacter or a character beyond the first plane begins with.
fn plain_len(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let mut at = 0;
    loop {
        // The lowest of the bits that are set is right: a borrow goes only into the bytes behind one that is found.
        if let Some(chunk) = bytes.get(at..at + 8) {
            let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
            let zero_where = |word: u64| word.wrapping_sub(ONES) & !word;
            let found = zero_where(word ^ (ONES * u64::from(b'"')))
                | zero_where(word ^ (ONES * u64::from(b'\\')))
                | (word.wrapping_sub(ONES * 0x20) & !word)
                | word;
            let found = found & HIGHS;
            if found == 0 {
                at += 8;
                continue;
            }
            at += found.trailing_zeros() as usize / 8;
        }
        match *bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' | 0..0x20 | 0xef.. => return None,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        test_runner::{Config, RngSeed},
    };

    use super::*;
    use crate::protocol::json::{DEPTH_MAX_DEFAULT, Parser};

    /// What the others say of a text that they take.
    fn slow(text: &str) -> Option<(String, usize)> {
        let mut parser = Parser::new();
        let command = parser.parse_slowly(text).ok()?.next()?.ok()?;
        let command = format!("{command:?}");
        Some((command, parser.take_read().values))
    }

    fn quick(text: &str) -> Option<(String, usize)> {
        read(text, DEPTH_MAX_DEFAULT).map(|(command, values)| (format!("{command:?}"), values))
    }

    #[test]
    fn usual_publications_are_taken() {
        for text in [
            r#"{"op":"publish","topic":"room/42","data":"hello"}"#,
            r#"{"op": "publish", "topic": "room/42", "data": {"text": "hi", "n": [1, -2.5, 0, true, null]}, "id": 7}"#,
            r#" { "data" : {} , "id" : "a-7" , "topic" : "größe/ß" , "op" : "publish" } "#,
            r#"{"op":"publish","topic":"t","data":1,"key":"o-17","id":9}"#,
            r#"{"op":"publish","topic":"t","data":[[[[[[[[]]]]]]]]}"#,
            r#"{"op":"publish","topic":"t","data":false,"id":999999999999999}"#,
            r#"{"op":"publish","topic":"t","data":{"a":{"a":1},"b":999999999999999}}"#,
        ] {
            assert!(quick(text).is_some(), "{text}");
            assert_eq!(quick(text), slow(text), "{text}");
        }
    }

    /// Each for a reason of its own.
    #[test]
    fn what_is_unusual_or_wrong_is_left_to_others() {
        for text in [
            "",
            "[]",
            r#"{"op":"ping"}"#,
            r#"{"op":"subscribe","topic":"t","since":{"epoch":"9f3ac0de12345678","seq":1}}"#,
            r#"{"op":"history","topic":"t","id":1}"#,
            r#"{"op":"publish","topic":"t","data":1,"last":1}"#,
            r#"{"op":"publish","topic":"t"}"#,
            r#"{"op":"publish","data":1}"#,
            r#"{"topic":"t","data":1}"#,
            r#"{"op":"publish","op":"publish","topic":"t","data":1}"#,
            r#"{"op":"publish","topic":"t","topic":"t","data":1}"#,
            r#"{"op":"publish","topic":"t","data":1,"data":1}"#,
            r#"{"op":"publish","topic":"t","data":1,"id":1,"id":1}"#,
            r#"{"op":"publish","topic":"t","data":1,"receivers":true}"#,
            r#"{"op":"publish","topic":"t","data":1,"key":""}"#,
            r#"{"op":"publish","topic":"t","data":1,"key":null}"#,
            r#"{"op":"publish","topic":"t","data":1,"key":"\n"}"#,
            r#"{"op":"publish","topic":"t","data":1,"key":"a","key":"a"}"#,
            r#"{"op":"publish","topic":"t","data":1,"retain":true}"#,
            r#"{"op":"publish","topic":"t","data":1} x"#,
            r#"{"op":"publish","topic":"t","data":1,}"#,
            r#"{"op":"publish","topic":"t","data":1]"#,
            r#"{"op":"publish","topic":"t","data":"\n"}"#,
            "{\"op\":\"publish\",\"topic\":\"t\",\"data\":\"\n\"}",
            "{\"op\":\"publish\",\"topic\":\"t\",\"data\":\"\u{ffff}\"}",
            r#"{"op":"publish","topic":"t","data":"open}"#,
            r#"{"op":"publish","topic":"t","data":{"a":1,"a":1}}"#,
            r#"{"op":"publish","topic":"t","data":[[[[[[[[[]]]]]]]]]}"#,
            r#"{"op":"publish","topic":"t","data":{"":{"":{"":{"":{"":{"":{"":{"":{}}}}}}}}}}"#,
            r#"{"op":"publish","topic":"t","data":01}"#,
            r#"{"op":"publish","topic":"t","data":1.}"#,
            r#"{"op":"publish","topic":"t","data":-}"#,
            r#"{"op":"publish","topic":"t","data":1e5}"#,
            r#"{"op":"publish","topic":"t","data":1234567890123456}"#,
            r#"{"op":"publish","topic":"t","data":tru}"#,
            r#"{"op":"publish","topic":"t","data":1,"id":-1}"#,
            r#"{"op":"publish","topic":"t","data":1,"id":1.5}"#,
            r#"{"op":"publish","topic":"t","data":1,"id":9007199254740991}"#,
        ] {
            assert_eq!(quick(text), None, "{text}");
        }
        let long =
            |id: &str, topic: &str| format!(r#"{{"op":"publish","topic":"{topic}","data":1,"id":"{id}"}}"#);
        assert!(quick(&long(&"i".repeat(64), &"t".repeat(256))).is_some());
        assert_eq!(quick(&long(&"i".repeat(65), "t")), None);
        assert_eq!(quick(&long("i", &"t".repeat(257))), None);
        let with_key =
            |len| format!(r#"{{"op":"publish","topic":"t","data":1,"key":"{}"}}"#, "k".repeat(len));
        assert!(quick(&with_key(64)).is_some());
        assert_eq!(quick(&with_key(65)), None);
        let keys = |count| (0..count).map(|key| format!(r#""{key}":0"#)).collect::<Vec<_>>().join(",");
        let keyed = |count| format!(r#"{{"op":"publish","topic":"t","data":{{{}}}}}"#, keys(count));
        assert!(quick(&keyed(16)).is_some());
        assert_eq!(quick(&keyed(17)), None);
        let shallow = r#"{"op":"publish","topic":"t","data":[[1]]}"#;
        assert!(read(shallow, 2).is_some() && read(shallow, 1).is_none());
        let shallow = r#"{"op":"publish","topic":"t","data":{"a":{"a":1}}}"#;
        assert!(read(shallow, 2).is_some() && read(shallow, 1).is_none());
    }

    /// At every place of a word, before and behind other finds.
    #[test]
    fn a_string_ends_where_one_looks_byte_by_byte() {
        let naive = |bytes: &[u8]| {
            let at =
                bytes.iter().position(|&byte| byte < 0x20 || matches!(byte, b'"' | b'\\') || byte >= 0xef)?;
            (bytes[at] == b'"').then_some(at)
        };
        let specials = [b'"', b'\\', 0, 0x1f, 0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0xee, 0xef, 0xff];
        for len in 0..20 {
            for (place, other) in (0..len).flat_map(|place| (0..len).map(move |other| (place, other))) {
                for (&one, &two) in specials.iter().flat_map(|one| specials.iter().map(move |two| (one, two)))
                {
                    let mut bytes = vec![b'a'; len];
                    (bytes[other], bytes[place]) = (two, one);
                    assert_eq!(plain_len(&bytes), naive(&bytes), "{bytes:x?}");
                }
            }
        }
    }

    /// A text near to a publication: parts of some, in any order.
    fn text() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\n",
            "\"",
            "\\",
            "\"op\":\"publish\"",
            "\"op\"",
            "\"publish\"",
            "\"topic\":\"a/b\"",
            "\"topic\"",
            "\"data\":",
            "\"id\":",
            "\"id\":3",
            "\"receivers\":false",
            "\"key\":\"k\"",
            "\"key\":",
            "\"retain\":false",
            "\"x\"",
            "\"a\":1",
            "\"a\":{}",
            "1",
            "-0",
            "0.5",
            "12",
            "1e3",
            "true",
            "false",
            "null",
            "\"é\"",
            "\"\u{10348}\"",
            "\"\u{fffe}\"",
            "\u{1}",
        ]);
        prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(Config {
            cases: 20_000,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(23),
            ..Config::default()
        })]

        #[test]
        fn what_is_taken_is_what_others_would_take(members in prop::collection::vec(text(), 0..4), whole in text()) {
            let framed = format!(r#"{{"op":"publish",{}}}"#, members.join(","));
            let near = format!(r#"{{"op":"publish","topic":"t","data":{whole}}}"#);
            for text in [whole, framed, near] {
                if let Some(taken) = quick(&text) {
                    prop_assert_eq!(Some(taken), slow(&text), "{}", text);
                }
            }
        }
    }
}
