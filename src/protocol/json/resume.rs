//! What a subscribe to a filter with wildcards says of what the client has already.
//!
//! The text was found to be I-JSON before, as for [`super::past`].

use simd_json::{Node, StaticNode};

use super::{
    Fault, ID_NUMBER_MAX, Members, Quoted, Value,
    culprit::{KEY_BYTES_MAX, read_string},
    key::Key,
    long::skip_spaces,
    past::{EPOCH_BYTES_MAX, bad_value, read_epoch},
};
use crate::protocol::{
    command::{At, EPOCHS_MAX, ErrorCode, LISTED_MAX, Listed, Resume},
    topic::TOPIC_BYTES_MAX,
};

/// The longest text that may be an `at`: bytes between the quotes, as written. Of 62 homes it has 1,070 at most.
const AT_BYTES_MAX: usize = 1_200;

/// So many bytes one listed topic takes at most as it is written, escapes and spaces between included; those few whose names are all
/// escapes may be fewer.
const LISTED_BYTES_MAX: usize = 512;

/// What `since` and `resume` say, in a command whose topic has wildcards if `has_wildcards` says so.
pub(super) fn resume(members: &Members<'_, '_>, has_wildcards: bool) -> Result<Option<Box<Resume>>, Fault> {
    let wants = match members.get(Key::Resume) {
        None => false,
        Some(value) if value.is_null() => false,
        Some(Value { node: Node::Static(StaticNode::Bool(wants)), .. }) => *wants,
        Some(value) => {
            return Err(bad_value(format!("`resume` is {}; true or false is allowed", Quoted(value.raw))));
        }
    };
    if !has_wildcards {
        return match wants {
            true => Err(bad_value(
                "`resume` is true for the name of a topic; it is allowed for a filter with wildcards: a topic's `ok` says `epoch` and \
                 `seq` in any case"
                    .to_owned(),
            )),
            false => Ok(None),
        };
    }
    let Some(raw) = members.get_set(Key::Since) else { return Ok(wants.then(Box::default)) };
    if raw.len() > LISTED_MAX * LISTED_BYTES_MAX {
        return Err(too_many());
    }
    let resume = read_resume(raw).map_err(|unread| match unread {
        Unread::TooMany => too_many(),
        Unread::Bad => bad_value(format!(
            "`since` is {}; for a filter with wildcards an object of `at`, a string of at most {AT_BYTES_MAX} bytes, and `epochs`, an \
             object of objects of topics' names and integers from 0 to {ID_NUMBER_MAX}, or of one of both, is allowed",
            Quoted(raw)
        )),
    })?;
    Ok(Some(Box::new(resume)))
}

/// Why a value is no place to come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unread {
    /// It lists more than may be: how the rest of it reads is not looked at.
    TooMany,
    Bad,
}

fn too_many() -> Fault {
    let message = format!(
        "`since` lists more than may be; at most {LISTED_MAX} topics, under at most {EPOCHS_MAX} epochs, are allowed: others are known by `at`"
    );
    Fault { code: ErrorCode::LimitReached, message }
}

/// What `raw`, a good value, says: if it is an object of `at` and `epochs`, or one of them, and of nothing else.
fn read_resume(raw: &str) -> Result<Resume, Unread> {
    let mut resume = Resume { has_since: true, ..Resume::default() };
    let (mut is_empty, mut listed_left, mut is_too_many) = (true, LISTED_MAX, false);
    let end = read_object(raw, 0, KEY_BYTES_MAX, |key, at| {
        is_empty = false;
        match key {
            "at" => {
                let (written, text) = read_string(raw, at, AT_BYTES_MAX)?;
                resume.at = At::parse(&text);
                (written.len() <= AT_BYTES_MAX + "\"\"".len()).then_some(at + written.len())
            }
            "epochs" => read_object(raw, at, EPOCH_BYTES_MAX, |epoch, at| {
                let mut listed = Listed::new();
                let end = read_object(raw, at, TOPIC_BYTES_MAX, |topic, at| {
                    is_too_many |= listed_left == 0;
                    listed_left = listed_left.checked_sub(1)?;
                    let (seq, end) = read_seq(raw, at)?;
                    listed.push((topic.into(), seq));
                    Some(end)
                })?;
                is_too_many |= resume.epochs.len() == EPOCHS_MAX;
                resume.epochs.push((read_epoch(epoch), listed));
                (!is_too_many).then_some(end)
            }),
            _ => None,
        }
    });
    match end {
        _ if is_too_many => Err(Unread::TooMany),
        Some(_) if !is_empty => Ok(resume),
        _ => Err(Unread::Bad),
    }
}

/// The number at `at`, and where it ends.
fn read_seq(raw: &str, at: usize) -> Option<(u64, usize)> {
    let len = raw.as_bytes()[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let seq = raw[at..at + len].parse().ok().filter(|seq| *seq <= ID_NUMBER_MAX)?;
    Some((seq, at + len))
}

/// Reads the object at `at`, whose keys have `key_bytes_max` bytes at most without their escapes: `member` gets each and where its value begins,
/// and tells where that ends. Tells where the object ends.
fn read_object(
    raw: &str,
    at: usize,
    key_bytes_max: usize,
    mut member: impl FnMut(&str, usize) -> Option<usize>,
) -> Option<usize> {
    let text = raw.as_bytes();
    let mut at = if text.get(at) == Some(&b'{') { skip_spaces(text, at + 1) } else { return None };
    if text[at] == b'}' {
        return Some(at + 1);
    }
    loop {
        let (written, key) =
            read_string(raw, at, key_bytes_max).filter(|(_, key)| key.len() <= key_bytes_max)?;
        let colon = skip_spaces(text, at + written.len());
        at = skip_spaces(text, member(&key, skip_spaces(text, colon + 1))?);
        match text[at] {
            b',' => at = skip_spaces(text, at + 1),
            b'}' => return Some(at + 1),
            // Of a number more than its digits.
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_refused, with_command},
        *,
    };
    use crate::protocol::command::{Command, Start};

    /// What a subscribe to a filter with these members asks for.
    #[track_caller]
    fn asked(members: &str) -> (Start, Option<Resume>) {
        let mut told = None;
        let text = format!(r#"{{"op":"subscribe","topic":"a/#"{members}}}"#);
        with_command(&text, |command| {
            told = Some(match command {
                Command::Subscribe { start, .. } => (start, None),
                Command::SubscribeTour { last, resume, .. } => {
                    (Start { since: None, last }, resume.map(|resume| *resume))
                }
                _ => panic!("{command:?}"),
            });
        });
        told.expect("it is a command")
    }

    #[test]
    fn a_subscribe_to_a_filter_says_what_the_client_has() {
        assert_eq!(asked(""), (Start::default(), None));
        assert_eq!(asked(r#","resume":false,"since":null"#), (Start::default(), None));
        assert_eq!(asked(r#","last":3"#), (Start { since: None, last: Some(3) }, None));
        assert_eq!(asked(r#","resume":true"#).1, Some(Resume::default()));
        let at = At { epoch: 0x9f3a_c0de_1234_5678, ticks: [0x1f, 0x20].into() };
        let whole = Resume { has_since: true, at: Some(at.clone()), epochs: vec![] };
        assert_eq!(asked(&format!(r#","since":{{"at":"{at}"}}"#)).1, Some(whole.clone()));
        let listed: Listed = vec![("a/x".into(), 103), ("a/\"".into(), 0)];
        let epochs = vec![(Some(at.epoch), listed), (None, vec![])];
        let text = r#", "since" : { "epochs" : { "9f3ac0de12345678" : { "a/x" : 103 , "a/\"" : 0 } , "x" : { } } , "at" : "9f3ac0de12345678.1f.20" } "#;
        assert_eq!(asked(text).1, Some(Resume { epochs, ..whole }));
        assert_eq!(
            asked(r#","since":{"at":"elsewhere"}"#).1,
            Some(Resume { has_since: true, ..Resume::default() })
        );
    }

    #[test]
    fn a_moment_reads_as_it_is_written() {
        for ticks in [vec![0], vec![u64::MAX, 1], vec![7; 62]] {
            let at = At { epoch: ticks[0], ticks: ticks.into() };
            assert_eq!(At::parse(&at.to_string()), Some(at.clone()));
            assert!(at.to_string().len() <= AT_BYTES_MAX);
        }
        for text in [
            "",
            "9f3ac0de12345678",
            "9f3ac0de12345678.",
            "9f3ac0de1234567.1",
            "9f3ac0de12345678.+1",
            "9F3ac0de12345678.1",
            "9f3ac0de12345678.1..2",
            "9f3ac0de12345678.00000000000000001",
        ] {
            assert_eq!(At::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_to_come_back_to_is_refused() {
        let refused = |members: &str| {
            let text = format!(r#"{{"op":"subscribe","topic":"a/#"{members}}}"#);
            assert_refused(&text, ErrorCode::BadValue, &["allowed"]);
        };
        for since in [
            r#"{}"#,
            r#"[]"#,
            r#"7"#,
            r#""9f3ac0de12345678.1""#,
            r#"{"at":7}"#,
            r#"{"at":"1","x":1}"#,
            r#"{"epochs":[]}"#,
            r#"{"epochs":{"a":7}}"#,
            r#"{"epochs":{"a":{"t":"1"}}}"#,
            r#"{"epochs":{"a":{"t":-1}}}"#,
            r#"{"epochs":{"a":{"t":1.5}}}"#,
            r#"{"epochs":{"a":{"t":9007199254740992}}}"#,
            r#"{"epoch":"9f3ac0de12345678","seq":1}"#,
        ] {
            refused(&format!(r#","since":{since}"#));
        }
        refused(&format!(r#","since":{{"at":"{}"}}"#, "1".repeat(AT_BYTES_MAX + 1)));
        let listed = |count: usize| {
            let listed: Vec<String> = (0..count).map(|index| format!(r#""t{index}":{index}"#)).collect();
            format!(r#","since":{{"epochs":{{"a":{{{}}}}}}}"#, listed.join(","))
        };
        assert_eq!(asked(&listed(LISTED_MAX)).1.map(|resume| resume.epochs[0].1.len()), Some(LISTED_MAX));
        let text = format!(r#"{{"op":"subscribe","topic":"a/#"{}}}"#, listed(LISTED_MAX + 1));
        assert_refused(&text, ErrorCode::LimitReached, &["4096", "allowed"]);
        let under = |count: usize| {
            let epochs: Vec<String> = (0..count).map(|index| format!(r#""{index}":{{}}"#)).collect();
            format!(r#","since":{{"epochs":{{{}}}}}"#, epochs.join(","))
        };
        assert_eq!(asked(&under(EPOCHS_MAX)).1.map(|resume| resume.epochs.len()), Some(EPOCHS_MAX));
        let text = format!(r#"{{"op":"subscribe","topic":"a/#"{}}}"#, under(EPOCHS_MAX + 1));
        assert_refused(&text, ErrorCode::LimitReached, &["16", "allowed"]);
        refused(r#","resume":1"#);
        assert_refused(
            r#"{"op":"subscribe","topic":"t","resume":true}"#,
            ErrorCode::BadValue,
            &["`resume`", "wildcards"],
        );
    }
}
