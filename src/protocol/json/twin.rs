//! The parser against its naive twin, over generated and mutated texts.

use super::*;
use crate::protocol::{Format, command::outcome::Outcome, rest};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::RngSeed,
};

fn outcomes(parser: &mut Parser, text: &str) -> Vec<Outcome> {
    match parser.parse(text) {
        Ok(commands) => commands.map(|result| Outcome::from(&result)).collect(),
        Err(error) => vec![Outcome::from(&Err(error))],
    }
}

/// The same without what the twin does not say.
fn comparable(mut parser: Parser, text: &str) -> Vec<Outcome> {
    let outcomes = outcomes(&mut parser, text).into_iter();
    match naive::names_culprit(text) {
        true => outcomes.collect(),
        false => outcomes.map(Outcome::without_details).collect(),
    }
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
    // Twice what a double holds, and half of it.
    "2000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    "100000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
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
const BAD_TOPICS: &[&str] =
    &[r#""a/+""#, r##""\u0023""##, r##""room\/#""##, r#""a+""#, r##""#\/a""##, r#""$sys/x""#, r#""a\u0000""#];
const ATOMS: &[&str] = &["null", "true", "false", "nul", "truee"];
const SPACE: &[&str] = &["", "", "", " ", "\n", "\t ", "\r\n  "];
const OPS: &[&str] = &[
    r#""subscribe""#,
    r#""unsubscribe""#,
    r#""publish""#,
    r#""publish""#,
    r#""history""#,
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
    r#""key""#,
    r#""retain""#,
    r#""since""#,
    r#""last""#,
    r#""resume""#,
    r#""limit""#,
    r#""before""#,
    r#""after""#,
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
                r#""topic""# => {
                    prop_oneof![3 => mostly_first(STRINGS, 6), 1 => mostly_first(BAD_TOPICS, 7)].boxed()
                }
                r#""id""# => {
                    prop_oneof![mostly_first(NUMBERS, 2), mostly_first(STRINGS, 6), Just("null".to_owned())]
                        .boxed()
                }
                r#""receivers""# | r#""retain""# | r#""resume""# => Just("true".to_owned()).boxed(),
                r#""key""# => publication_key(),
                r#""since""# | r#""before""# | r#""after""# => position(),
                r#""last""# | r#""limit""# => count(),
                _ => value(),
            };
            (Just(key), prop_oneof![19 => right, 1 => value()], select(SPACE))
        })
        .prop_map(|(key, value, space)| format!("{space}{key}:{space}{value}"))
        .boxed()
}

/// Of those beyond the first four some are beyond a bound, and some are none.
const COUNTS: &[&str] = &[
    "0",
    "1",
    "1000",
    "null",
    "1001",
    "10000",
    "10001",
    "4294967296",
    "18446744073709551616",
    "-1",
    "1.0",
    "\"1\"",
];
const EPOCHS: &[&str] = &[
    r#""9f3ac0de12345678""#,
    r#""0000000000000000""#,
    r#""\u0039f3ac0de12345678""#,
    r#""9F3AC0DE12345678""#,
    r#""+f3ac0de12345678""#,
    r#""9f3ac0de1234567""#,
    r#""9f3ac0de123456789""#,
    r#""\ud83d\ude00""#,
    r#""""#,
    "\"6666666666666666666666666666666666666666666666666666666666666666\"",
    "\"66666666666666666666666666666666666666666666666666666666666666665\"",
    r#""\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066\u0066""#,
];

/// A publication's key, of about as many bytes as it may have at most, or a few.
fn publication_key() -> BoxedStrategy<String> {
    let long = (0usize..3).prop_map(|more| format!("\"{}\"", "k".repeat(63 + more)));
    prop_oneof![5 => mostly_first(STRINGS, 6), 2 => long, 1 => Just("null".to_owned())].boxed()
}

fn count() -> BoxedStrategy<String> {
    prop_oneof![3 => select(&COUNTS[..4]), 1 => select(&COUNTS[4..])].prop_map(str::to_owned).boxed()
}

/// A place in a topic's order, mostly one that may be.
fn position() -> BoxedStrategy<String> {
    let member = prop_oneof![
        5 => mostly_first(EPOCHS, 10).prop_map(|epoch| ("epoch", epoch)),
        5 => mostly_first(NUMBERS, 2).prop_map(|seq| ("seq", seq)),
        1 => scalar().prop_map(|value| ("x", value)),
    ];
    let epoch = prop_oneof![9 => mostly_first(EPOCHS, 10), 1 => value()];
    let seq = prop_oneof![9 => mostly_first(NUMBERS, 2), 1 => value()];
    let keys = prop_oneof![9 => Just(["epoch", "seq"]), 1 => Just(["\\u0065poch", "s\\u0065q"]), 1 => Just(["epoch", "epochs"])];
    let pair = (epoch, seq, keys, any::<bool>());
    let members = prop_oneof![
        8 => pair.prop_map(|(epoch, seq, keys, is_reversed)| {
            let mut members = vec![(keys[0], epoch), (keys[1], seq)];
            if is_reversed {
                members.reverse();
            }
            members
        }),
        1 => vec(member, 0..4),
    ];
    let spaces = prop_oneof![9 => select(SPACE), 1 => Just(" ".repeat(70).leak() as &str)];
    let object = (members, spaces).prop_map(|(members, space)| {
        let members = members.into_iter();
        let members = members.map(|(key, value)| format!("\"{key}\"{space}:{space}{value}")).collect();
        bracketed('{', members, '}', space)
    });
    prop_oneof![9 => object, 1 => Just("null".to_owned())].boxed()
}

/// A good one mostly.
fn topic_member() -> BoxedStrategy<String> {
    let topic = prop_oneof![9 => Just(r#""t""#), 1 => select(BAD_TOPICS)];
    topic.prop_map(|topic| format!("\"topic\":{topic}")).boxed()
}

fn command() -> BoxedStrategy<String> {
    let minimal = prop_oneof![
        4 => Just(vec![]),
        2 => topic_member().prop_map(|topic| vec![topic]),
        3 => (topic_member(), value()).prop_map(|(topic, data)| vec![topic, format!("\"data\":{data}")]),
    ];
    (
        prop_oneof![20 => mostly_first(OPS, 7), 1 => select(&OPS[7..]).prop_map(str::to_owned)],
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

/// What a client has of the topics of a filter, or nearly.
fn tour() -> BoxedStrategy<String> {
    let seq = prop_oneof![9 => select(&["0", "9007199254740991"][..]), 1 => select(&["-1", "1.0", "9007199254740992", "\"1\""][..])];
    let listed = |(topics, space): (Vec<(usize, &str)>, &str)| {
        let topics = topics
            .into_iter()
            .enumerate()
            .map(|(index, (len, seq))| format!("\"{}\\u0061{index}\"{space}:{space}{seq}", "t".repeat(len)));
        bracketed('{', topics.collect(), '}', space)
    };
    let len = prop_oneof![9 => Just(1usize), 1 => 250usize..260];
    let listed = (vec((len, seq), 0..3), select(SPACE)).prop_map(listed);
    let epoch = select(
        &[
            "9f3ac0de12345678",
            "\\u0039f3ac0de12345678",
            "9F",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0",
        ][..],
    );
    let epochs = vec((epoch, listed), 0..2).prop_map(|epochs| {
        let epochs = epochs.into_iter().map(|(epoch, listed)| format!("\"{epoch}\":{listed}"));
        format!("\"epochs\":{}", bracketed('{', epochs.collect(), '}', ""))
    });
    let at = select(
        &[
            r#""9f3ac0de12345678.1.2""#,
            r#""""#,
            r#""9f3ac0de12345678\u002e1""#,
            "7",
            r#""9f3ac0de12345678.x""#,
        ][..],
    );
    let at = at.prop_map(|at| format!("\"at\":{at}"));
    let members = prop_oneof![
        at.clone().prop_map(|at| vec![at]),
        epochs.clone().prop_map(|epochs| vec![epochs]),
        (at, epochs).prop_map(|(at, epochs)| vec![epochs, at]),
        select(&["", "\"x\":1"][..])
            .prop_map(|other| Vec::from_iter((!other.is_empty()).then(|| other.to_owned()))),
    ];
    (members, select(SPACE)).prop_map(|(members, space)| bracketed('{', members, '}', space)).boxed()
}

/// A command that asks for some of a topic's past.
fn asking() -> BoxedStrategy<String> {
    let of_subscribe = prop_oneof![
        position().prop_map(|place| format!("\"since\":{place}")),
        tour().prop_map(|tour| format!("\"since\":{tour}")),
        select(&["true", "false", "null", "1"][..]).prop_map(|wants| format!("\"resume\":{wants}")),
        count().prop_map(|count| format!("\"last\":{count}")),
    ];
    let of_history = prop_oneof![
        (select(&["before", "after"][..]), position()).prop_map(|(key, place)| format!("\"{key}\":{place}")),
        count().prop_map(|count| format!("\"limit\":{count}")),
    ];
    let members = prop_oneof![
        vec(of_subscribe, 1..3).prop_map(|members| ("subscribe", members)),
        vec(of_history, 0..3).prop_map(|members| ("history", members)),
    ];
    (
        members,
        prop_oneof![8 => topic_member(), 4 => Just(r##""topic":"a/#""##.to_owned()), 1 => member()],
        select(SPACE),
    )
        .prop_map(|((op, mut members), topic, space)| {
            members.extend([topic, format!("\"op\":\"{op}\""), "\"id\":7".to_owned()]);
            bracketed('{', members, '}', space)
        })
        .boxed()
}

fn text() -> BoxedStrategy<String> {
    let texts = prop_oneof![
        6 => command(),
        3 => asking(),
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
        prop_assert_eq!(comparable(Parser::new(), &text), naive::outcomes(&text));
    }

    #[test]
    fn the_parser_agrees_with_its_twin_about_broken_texts(text in text(), edits in vec(edit(), 1..4)) {
        let text = mutate(&text, &edits);
        prop_assert_eq!(comparable(Parser::new(), &text), naive::outcomes(&text));
    }

    #[test]
    fn what_a_parser_read_before_does_not_matter(texts in vec(text(), 1..8)) {
        let mut used = Parser::new();
        for text in texts {
            prop_assert_eq!(outcomes(&mut used, &text), outcomes(&mut Parser::new(), &text));
        }
    }

    #[test]
    fn a_long_text_says_word_for_word_what_a_short_one_says(text in text(), edits in vec(edit(), 0..3)) {
        let text = mutate(&text, &edits);
        let told = |mut parser: Parser| match parser.parse(&text) {
            Ok(commands) => commands.map(|result| format!("{result:?}")).collect(),
            Err(error) => vec![format!("{error:?}")],
        };
        prop_assert_eq!(told(Parser::for_long_texts()), told(Parser::new()));
        // The other two ways of a text into the parser.
        let one = |mut parser: Parser| format!("{:?}", parser.parse_one(&text));
        prop_assert_eq!(one(Parser::for_long_texts()), one(Parser::new()));
        let checked = |mut parser: Parser| parser.check_data(text.as_bytes());
        prop_assert_eq!(checked(Parser::for_long_texts()), checked(Parser::new()));
    }

    #[test]
    fn the_longest_texts_are_refused_as_others_are(text in text(), edits in vec(edit(), 0..3)) {
        let text = mutate(&text, &edits);
        prop_assert_eq!(comparable(Parser::for_longest_texts(), &text), naive::outcomes(&text));
    }

    #[test]
    fn slices_of_any_size_say_word_for_word_what_one_go_says(
        text in text(),
        edits in vec(edit(), 0..3),
        bytes_max in 0_usize..40,
    ) {
        let text = mutate(&text, &edits);
        let told = |commands: Result<Commands<'_>, CommandError<'_>>| match commands {
            Ok(commands) => commands.map(|result| format!("{result:?}")).collect(),
            Err(error) => vec![format!("{error:?}")],
        };
        for new_parser in [Parser::new, Parser::for_longest_texts] {
            let (mut parser, mut twin) = (new_parser(), new_parser());
            let mut long = LongMessage::text(&text, DEPTH_MAX_DEFAULT);
            while !long.go_on(bytes_max) {
                // What is read in between has nothing to do with it.
                prop_assert_eq!(outcomes(&mut parser, "[7,{}]").len(), 1);
            }
            prop_assert_eq!(told(parser.parse_long(&mut long)), told(twin.parse(&text)));
        }
    }

    #[test]
    fn what_is_left_of_a_long_text_is_what_is_left_of_a_short_one(text in text()) {
        rest::naive::check_every_stop(Format::Json, format!("{}{text}", " ".repeat(5_000)).as_bytes());
    }

    #[test]
    fn where_one_stops_does_not_matter(text in text()) {
        rest::naive::check_every_stop(Format::Json, text.as_bytes());
    }

    #[test]
    fn padding_of_any_length_does_not_matter(text in text(), before in "[ \t\n\r]{0,140}", after in "[ \t\n\r]{0,140}") {
        let padded = format!("{before}{text}{after}");
        prop_assert_eq!(outcomes(&mut Parser::new(), &padded), outcomes(&mut Parser::new(), &text));
    }
}

#[test]
fn the_generated_texts_are_not_all_refused() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::new(config(1));
    let mut counts = std::collections::HashMap::new();
    for _ in 0..2_000 {
        let text = text().new_tree(&mut runner).expect("a text").current();
        for outcome in outcomes(&mut Parser::new(), &text) {
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
        "history",
        "ping",
        "bad_message",
        "bad_value",
        "bad_topic",
        "unknown_key",
        "unknown_op",
        "duplicate_key",
        "limit_reached",
    ] {
        assert!(counts.get(name).is_some_and(|&count| count >= 5), "{name}: {counts:?}");
    }
}
