//! What the parser takes and refuses, by example, and then against a twin built on serde_json.

use super::*;

fn name(text: &str) -> TopicName<&str> {
    TopicName::parse(text).expect("a name")
}

fn filter(text: &str) -> Filter<Cow<'_, str>> {
    Filter::parse(text.into()).expect("a filter")
}

/// The results of `text`, with one error for a text that executes nothing.
pub(super) fn results<'a>(
    parser: &'a mut Parser,
    text: &'a str,
) -> Vec<Result<Command<'a>, CommandError<'a>>> {
    match parser.parse(text) {
        Ok(commands) => commands.collect(),
        Err(error) => vec![Err(error)],
    }
}

pub(super) fn with_command<R>(text: &str, look: impl FnOnce(Command<'_>) -> R) -> R {
    let mut parser = Parser::new();
    let mut results = results(&mut parser, text);
    assert_eq!(results.len(), 1, "{text}");
    look(results.remove(0).unwrap_or_else(|error| panic!("{text}: {error:?}")))
}

fn with_error<R>(text: &str, look: impl FnOnce(CommandError<'_>) -> R) -> R {
    let mut parser = Parser::new();
    let mut results = results(&mut parser, text);
    assert_eq!(results.len(), 1, "{text}");
    look(results.remove(0).expect_err(text))
}

#[track_caller]
pub(super) fn assert_refused(text: &str, code: ErrorCode, parts_of_message: &[&str]) {
    with_error(text, |error| {
        assert_eq!(error.code, code, "{text}: {}", error.message);
        for part in parts_of_message {
            assert!(error.message.contains(part), "{text}: {:?} is missing in {}", part, error.message);
        }
    });
}

/// A publish of `data`.
fn publish(data: &str) -> String {
    format!(r#"{{"op":"publish","topic":"t","data":{data},"id":7}}"#)
}

#[track_caller]
fn assert_data_passes(data: &str) {
    with_command(&publish(data), |command| {
        let Command::Publish { payload, .. } = command else { panic!("{command:?}") };
        assert_eq!(std::str::from_utf8(payload), Ok(data));
    });
}

#[track_caller]
fn assert_data_is_refused(data: &str, parts_of_message: &[&str]) {
    assert_refused(&publish(data), ErrorCode::BadMessage, parts_of_message);
}

#[test]
fn each_op_is_read() {
    let id = Some(RequestId::Number(1));
    let (topic, filter) = (name("room/42"), filter("room/42"));
    let cases = [
        (
            r#"{"op":"subscribe","topic":"room/42","id":1}"#,
            Command::Subscribe { id, filter: filter.clone(), start: Start::default() },
        ),
        (
            r#"{"op":"unsubscribe","topic":"room/42","id":1}"#,
            Command::Unsubscribe { id, filter: filter.clone() },
        ),
        (
            r#"{"op":"subscribe","topic":"room/42"}"#,
            Command::Subscribe { id: None, filter, start: Start::default() },
        ),
        (
            r#"{"op":"publish","topic":"room/42","data":{"text":"hi"},"id":1}"#,
            Command::Publish {
                id,
                topic,
                payload: br#"{"text":"hi"}"#,
                kind: PayloadKind::Json,
                receivers: false,
                key: None,
                retain: false,
            },
        ),
        (
            " {\t\"receivers\" :true ,\r\n\"retain\":true,\"data\": [ 1 , {} ]  , \"topic\":\"room/42\",\"op\":\"publish\" } ",
            Command::Publish {
                id: None,
                topic,
                payload: b"[ 1 , {} ]",
                kind: PayloadKind::Json,
                receivers: true,
                key: None,
                retain: true,
            },
        ),
        (r#"{"op":"ping","id":1}"#, Command::Ping { id }),
        (r#"{"op":"ping"}"#, Command::Ping { id: None }),
    ];
    for (text, expected) in cases {
        with_command(text, |command| assert_eq!(command, expected, "{text}"));
    }
}

#[test]
fn keys_and_topics_are_compared_unescaped() {
    with_command(r#"{"o\u0070":"p\u0069ng"}"#, |command| assert_eq!(command, Command::Ping { id: None }));
    with_command(r#"{"op":"subscribe","topic":"room\/\u00e4\ud83d\ude00"}"#, |command| {
        assert_eq!(
            command,
            Command::Subscribe { id: None, filter: filter("room/ä😀"), start: Start::default() }
        );
    });
    assert_refused(r#"{"op":"ping","\u006fp":"ping"}"#, ErrorCode::DuplicateKey, &["`op`"]);
}

#[test]
fn ids_are_echoed_as_written_and_bounded() {
    for id in ["0", "1", "9007199254740991"] {
        with_command(&format!(r#"{{"op":"ping","id":{id}}}"#), |command| {
            assert_eq!(command, Command::Ping { id: Some(RequestId::Number(id.parse().expect("a number"))) });
        });
    }
    let longest = format!("\"{}\"", "x".repeat(ID_TEXT_BYTES_MAX));
    for id in [r#""""#, r#""a\u0062\n\"c""#, &longest] {
        with_command(&format!(r#"{{"id": {id} ,"op":"ping"}}"#), |command| {
            assert_eq!(command, Command::Ping { id: Some(RequestId::Text(id)) });
        });
    }
    with_command(r#"{"op":"ping","id":null}"#, |command| assert_eq!(command, Command::Ping { id: None }));
    let too_long = format!("\"{}\"", "x".repeat(ID_TEXT_BYTES_MAX + 1));
    let escaped_too_long = format!("\"{}\"", "\\u0061".repeat(11));
    let long_integer = "1".repeat(300);
    for id in [
        "-0",
        "-1",
        "1.0",
        "1e3",
        "9007199254740992",
        "18446744073709551616",
        "true",
        "[]",
        "{}",
        &too_long,
        &escaped_too_long,
        &long_integer,
    ] {
        let text = format!(r#"{{"op":"ping","id":{id}}}"#);
        assert_refused(
            &text,
            ErrorCode::BadValue,
            &["`id`", "9007199254740991", "64 bytes", &id[..id.len().min(2)]],
        );
        with_error(&text, |error| assert_eq!((error.op, error.id), (Some("ping"), None)));
    }
}

#[test]
fn each_fault_has_its_code_and_names_rule_value_and_what_is_allowed() {
    use ErrorCode::*;
    let cases: &[(&str, ErrorCode, &[&str])] = &[
        ("", BadMessage, &["empty"]),
        (" \n", BadMessage, &["empty"]),
        ("7", BadMessage, &["a number", "object"]),
        ("\"x\"", BadMessage, &["a string", "object"]),
        ("null", BadMessage, &["null"]),
        ("[7]", BadMessage, &["a number", "object"]),
        ("[[]]", BadMessage, &["an array", "object"]),
        (r#"{"op":"ping"} x"#, BadMessage, &["byte 14", "`x`"]),
        (r#"{"op":"ping""#, BadMessage, &["closed"]),
        (r#"{"op":"ping"#, BadMessage, &["does not end"]),
        (r#"{"op" "ping"}"#, BadMessage, &["colon", "byte 6"]),
        (r#"{"op":"ping",}"#, BadMessage, &["key", "byte 13"]),
        ("{\"op\":\"pi\nng\"}", BadMessage, &["control character U+000A", "byte 9"]),
        (r#"{"op":"pi\xng"}"#, BadMessage, &["escape"]),
        (r#"{"op":"pi\u00g0"}"#, BadMessage, &["hex"]),
        (r#"{}"#, BadValue, &["`op` is missing", "`publish`"]),
        (r#"{"op":7}"#, BadValue, &["`7`", "no string"]),
        (r#"{"op":"shout"}"#, UnknownOp, &["`shout`", "`subscribe`"]),
        (r#"{"op":"ping","op":"ping"}"#, DuplicateKey, &["`op`", "once"]),
        (r#"{"op":"ping","color":1}"#, UnknownKey, &["`color`", "ping", "op, id"]),
        (r#"{"op":"ping","topic":"t"}"#, UnknownKey, &["`topic`"]),
        (r#"{"op":"subscribe","topic":"t","data":1}"#, UnknownKey, &["`data`", "op, topic, id, since, last"]),
        (r#"{"op":"subscribe"}"#, BadValue, &["`topic` is missing", "string"]),
        (r#"{"op":"subscribe","topic":["t"]}"#, BadValue, &[r#"`["t"]`"#, "string"]),
        (r#"{"op":"publish","topic":"t"}"#, BadValue, &["`data` is missing", "any JSON value"]),
        (r#"{"op":"publish","topic":"t","data":1,"receivers":1}"#, BadValue, &["`1`", "true or false"]),
        (r#"{"op":"publish","topic":"t","data":1,"retain":null}"#, BadValue, &["`retain`", "true or false"]),
        (
            r#"{"op":"subscribe","topic":"a/+","since":{"epoch":"9f3a","seq":1}}"#,
            BadValue,
            &["`since`", "filter with wildcards", "`epochs`"],
        ),
        (r#"{"op":"subscribe","topic":"a#","last":1}"#, BadTopic, &["#"]),
        (r#"{"op":"history","topic":"t"}"#, BadValue, &["`id` is missing", "history"]),
        (r#"{"op":"history","topic":"t","id":null}"#, BadValue, &["`id` is missing"]),
        (r#"{"op":"history","id":1}"#, BadValue, &["`topic` is missing"]),
        (r#"{"op":"history","topic":"a/+","id":1}"#, BadTopic, &["`a/+`", "one topic", "+ and #"]),
        (
            r#"{"op":"history","topic":"t","last":1}"#,
            UnknownKey,
            &["`last`", "op, topic, id, limit, before, after"],
        ),
        (r#"{"op":"subscribe","topic":"t","limit":1}"#, UnknownKey, &["`limit`"]),
        (r#"{"op":"subscribe","topic":""}"#, BadTopic, &["1 to 256 bytes", "has 0"]),
        (r#"{"op":"unsubscribe","topic":"a\u0000b"}"#, BadTopic, &["U+0000"]),
        (r#"{"op":"subscribe","topic":"a\/#\/b"}"#, BadTopic, &["#", "whole last level"]),
        (r#"{"op":"publish","topic":"a/+","data":1}"#, BadTopic, &["publish", "+ and #"]),
        (r#"{"op":"publish","topic":"$sys/x","data":1}"#, BadTopic, &["$", "own"]),
        // The topic is looked at last.
        (r#"{"op":"publish","topic":"a/+","data":1,"receivers":1}"#, BadValue, &["`1`", "true or false"]),
        (r#"{"op":"publish","topic":"a/+"}"#, BadValue, &["`data` is missing"]),
    ];
    for (text, code, parts) in cases {
        assert_refused(text, *code, parts);
    }
}

#[test]
fn an_error_tells_what_could_be_read_of_its_command() {
    with_error(r#"{"op":"publish","topic":"room/42","id":"a\"b","receivers":3,"data":1}"#, |error| {
        assert_eq!(error.op, Some("publish"));
        assert_eq!(error.topic.as_deref(), Some("room/42"));
        assert_eq!(error.id, Some(RequestId::Text(r#""a\"b""#)));
    });
    with_error(r#"{"op":"shout","topic":"room/42","id":4}"#, |error| {
        assert_eq!((error.op, error.id), (None, Some(RequestId::Number(4))));
        assert_eq!(error.topic.as_deref(), Some("room/42"));
    });
    with_error(&publish(r#"{"a":1,"a":2}"#), |error| {
        assert_eq!((error.op, error.id), (Some("publish"), Some(RequestId::Number(7))));
        assert_eq!(error.topic.as_deref(), Some("t"));
    });
}

/// What the error about a text that is not I-JSON says of its command, whichever way the text takes.
fn culprit_of(text: &str) -> (Option<String>, Option<String>, Option<String>) {
    let mut long = LongMessage::text(text, DEPTH_MAX_DEFAULT);
    while !long.go_on(3) {}
    let told = [
        format!("{:?}", Parser::new().parse(text).err()),
        format!("{:?}", Parser::new().parse_long(&mut long).err()),
    ];
    assert_eq!(told[0], told[1], "{text}");
    let of = |error: CommandError<'_>| {
        assert_eq!(error.code, ErrorCode::BadMessage, "{text}");
        let id = error.id.map(|id| match id {
            RequestId::Number(number) => number.to_string(),
            RequestId::Text(raw) => raw.to_owned(),
        });
        (error.op.map(str::to_owned), id, error.topic.map(Cow::into_owned))
    };
    let told = of(Parser::new().parse(text).err().expect(text));
    assert_eq!(of(Parser::for_longest_texts().parse(text).err().expect(text)), told, "{text}");
    assert_eq!(of(Parser::for_longest_texts().parse_long(&mut long).err().expect(text)), told, "{text}");
    told
}

#[test]
fn what_is_not_i_json_is_answered_by_its_id() {
    let owned = |text: &str| Some(text.to_owned());
    let long = format!("[{}1e400]", "0,".repeat(50_000));
    for data in [
        "1e400",
        r#""\ud800""#,
        r#""\uffff""#,
        r#"{"a":1,"a":2}"#,
        r#"{"\ud800":{"id":8}}"#,
        r#""\x \"id\":8""#,
        &"[".repeat(1_000),
        &format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)),
        "nul",
        "",
        &long,
    ] {
        let is_open = data.starts_with("[[") && !data.ends_with(']');
        let id = if is_open { None } else { owned("7") };
        assert_eq!(culprit_of(&publish(data)), (owned("publish"), id, owned("t")), "{data}");
        let first = format!(r#"{{"id":7,"\u006fp":"p\u0069ng","topic":"\u0061/\ud83d\ude00","x":{data}}}"#);
        assert_eq!(culprit_of(&first), (owned("ping"), owned("7"), owned("a/😀")), "{data}");
    }
    for (text, id) in [
        (r#"{"id":"a\"b","x":1e400}"#, owned(r#""a\"b""#)),
        (r#"{"id":"\ud800","x":1}"#, None),
        ("{\"id\":\"\u{ffff}\",\"x\":1}", None),
        (r#"{"id":-7,"x":1e400}"#, None),
        (r#"{"id":07}"#, None),
        (r#"{"id":7.5,"x":1e400}"#, None),
        (r#"{"id":9007199254740992,"x":1e400}"#, None),
        (r#"{"id":[],"id":7,"x":1e400}"#, None),
        (r#"{"id":7"#, None),
        (r#"{"id":7 ,"x":"#, owned("7")),
        (r#"{"id":7,"x":"abc"#, owned("7")),
        (r#"{"id":7} x"#, owned("7")),
        (r#"{"x" "y","id":7}"#, owned("7")),
        (r#"{"x":{"id":8},"y":1e400}"#, None),
        (r#"x{"id":7}"#, None),
        (r#"7"#, None),
    ] {
        assert_eq!(culprit_of(text).1, id, "{text}");
    }
}

#[test]
fn of_an_array_the_command_at_fault_is_told() {
    let good = r#"{"op":"ping","id":1}"#;
    for (array, id) in [
        (format!(r#"[{good},{{"id":2,"x":1e400}},{{"id":3,"x":1e400}}]"#), Some("2")),
        (format!(r#"[{good}, {{"x\ud800":1,"id":2}}]"#), Some("2")),
        (format!(r#"[{good},{{"id":2,"x":[1}},{good}]"#), Some("2")),
        (format!(r#"[{good} {{"id":2}}]"#), Some("2")),
        (format!(r#"[{good} x {{"id":2}}]"#), None),
        (format!(r#"[{good},,{{"id":2}}]"#), None),
        (format!("[{good},]"), None),
        (format!("[{good}"), None),
        (format!("[{good},[1e400],{good}]"), None),
        (format!(r#"[{good},"\ud800",{good}]"#), None),
        (format!("[{good}]{good}"), None),
    ] {
        assert_eq!(culprit_of(&array).1.as_deref(), id, "{array}");
    }
}

#[test]
fn an_error_does_not_repeat_what_is_not_i_json() {
    for (topic, id) in [("t", r#""\uffff""#), ("\u{1ffff}", "7"), (r"\ud83f\udfff", r#""\ufdd0""#)] {
        with_error(&format!(r#"{{"op":"subscribe","topic":"{topic}","id":{id}}}"#), |error| {
            assert_eq!((error.code, error.op), (ErrorCode::BadMessage, Some("subscribe")));
            assert_eq!(error.topic.as_deref(), (topic == "t").then_some("t"));
            assert_eq!(error.id, (id == "7").then_some(RequestId::Number(7)));
        });
    }
}

#[test]
fn a_topic_may_have_256_bytes_unescaped() {
    let longest = "ä".repeat(128);
    with_command(&format!(r#"{{"op":"subscribe","topic":"{longest}"}}"#), |command| {
        assert_eq!(
            command,
            Command::Subscribe { id: None, filter: filter(&longest), start: Start::default() }
        );
    });
    let escaped = "\\u00e4".repeat(128);
    with_command(&format!(r#"{{"op":"subscribe","topic":"{escaped}"}}"#), |command| {
        assert_eq!(
            command,
            Command::Subscribe { id: None, filter: filter(&longest), start: Start::default() }
        );
    });
    let text = format!(r#"{{"op":"subscribe","topic":"{longest}x","id":1}}"#);
    assert_refused(&text, ErrorCode::BadTopic, &["257 bytes", "at most 256"]);
    with_error(&text, |error| assert_eq!((error.topic, error.id), (None, Some(RequestId::Number(1)))));
}

#[test]
fn messages_hold_at_most_64_escaped_bytes_of_the_peer() {
    let op = "\\u0007\\\"<😀".repeat(40);
    with_error(&format!(r#"{{"op":"{op}"}}"#), |error| {
        let message = error.message.into_owned();
        let start = message.find('`').expect("an opening backtick") + 1;
        let value = &message[start..start + message[start..].find('`').expect("a closing backtick")];
        assert!(value.len() <= 64, "{value}");
        assert!(value.starts_with("\\u{7}\""), "{value}");
        assert!(!message.contains('\u{7}'), "{message:?}");
    });
}

#[test]
fn an_array_runs_in_order_each_command_with_its_own_result() {
    let mut parser = Parser::new();
    let text = r#"[ {"op":"ping","id":1}, {"op":"shout","id":2} ,{},
        {"op":"publish","topic":"t","data":[{"a":[],"b":{}},"x"],"id":3},{"op":"ping","id":4}]"#;
    let commands = parser.parse(text).expect("I-JSON");
    assert_eq!(commands.size_hint(), (5, Some(5)));
    let results: Vec<_> = commands.collect();
    assert_eq!(results[0], Ok(Command::Ping { id: Some(RequestId::Number(1)) }));
    assert!(matches!(
        &results[1],
        Err(CommandError { code: ErrorCode::UnknownOp, id: Some(RequestId::Number(2)), .. })
    ));
    assert!(matches!(&results[2], Err(CommandError { code: ErrorCode::BadValue, .. })));
    assert!(matches!(&results[3], Ok(Command::Publish { payload: br#"[{"a":[],"b":{}},"x"]"#, .. })));
    assert_eq!(results[4], Ok(Command::Ping { id: Some(RequestId::Number(4)) }));
    drop(results);
    assert_eq!(parser.parse("[]").expect("an array").count(), 0);
}

#[test]
fn an_array_that_is_not_i_json_executes_nothing() {
    for bad in
        [r#"{"op":"publish","topic":"t","data":{"a":1,"a":1},"id":9}"#, "7", r#"{"x":"\uffff"}"#, "nul"]
    {
        let text = format!(r#"[{{"op":"ping","id":1}},{bad}]"#);
        let mut parser = Parser::new();
        let error = parser.parse(&text).err().expect(&text);
        assert_eq!(error.code, ErrorCode::BadMessage);
        if bad.contains("publish") {
            assert_eq!((error.op, error.id), (Some("publish"), Some(RequestId::Number(9))));
        }
    }
}

#[test]
fn an_array_has_at_most_1024_commands() {
    let array = |count: usize| format!("[{}]", vec![r#"{"op":"ping"}"#; count].join(","));
    let mut parser = Parser::new();
    assert_eq!(parser.parse(&array(COMMANDS_MAX)).expect("as many as allowed").count(), COMMANDS_MAX);
    assert_refused(&array(COMMANDS_MAX + 1), ErrorCode::LimitReached, &["1025", "1024"]);
}

#[test]
fn an_array_that_is_dropped_halfway_leaves_the_parser_usable() {
    let mut parser = Parser::new();
    let text = r#"[{"op":"ping"},{"op":"ping"}]"#;
    assert!(parser.parse(text).expect("an array").next().is_some());
    assert_eq!(parser.parse(text).expect("an array").count(), 2);
}

#[test]
fn integers_pass_untouched_as_far_as_a_double_goes() {
    for length in [17, 18, 19, 20, 21, 40, 308, 309] {
        let digits = "1".repeat(length);
        assert_data_passes(&digits);
        assert_data_passes(&format!("-{digits}"));
        assert_data_passes(&format!(r#"{{"a\n":[{digits} ,-{digits}],"b":"{digits}\\"}}"#));
    }
    for edge in
        ["18446744073709551615", "18446744073709551616", "-9223372036854775808", "-9223372036854775809"]
    {
        assert_data_passes(edge);
    }
}

#[test]
fn numbers_outside_a_double_are_refused_by_name() {
    let long_fraction = format!("{}.5", "9".repeat(400));
    let [too_long, far_too_long] = [310, 5_000].map(|length| "1".repeat(length));
    let too_large = format!("-18{}", "0".repeat(307));
    for number in [
        "1e400",
        "-1e400",
        "1.7976931348623159e308",
        "1E99999999999999999999",
        &long_fraction,
        &too_long,
        &far_too_long,
        &too_large,
    ] {
        assert_data_is_refused(number, &["outside a double", "byte 35", &number[..5], "1.797"]);
    }
    for number in ["1.7976931348623157e308", "5e-324", "1e-400", "0e99999999999", "-0", "-0.0", "0.1e+2"] {
        assert_data_passes(number);
    }
}

#[test]
fn malformed_numbers_are_refused() {
    let leading_zero = format!("0{}", "1".repeat(400));
    for number in
        ["01", "-", "+1", "1.", ".5", "1e", "1e+", "0x1", "-01", "1_0", "NaN", "Infinity", &leading_zero]
    {
        assert_data_is_refused(number, &["not JSON"]);
    }
    // A long integer beside a bad number does not hide it.
    assert_data_is_refused(&format!("[{},01]", "1".repeat(300)), &["not JSON"]);
}

#[test]
fn lone_surrogates_are_refused_by_name() {
    for (string, escape) in [
        (r#""\ud800""#, r"`\ud800`"),
        (r#""\udfff""#, r"`\udfff`"),
        (r#""\ud83dx""#, r"`\ud83d`"),
        (r#""\ud83d\n""#, r"`\ud83d`"),
        (r#""\ud83d\ud83d""#, r"`\ud83d`"),
        (r#""\\\uDC00\ud83d""#, r"`\uDC00`"),
        (r#"{"\ud800":1}"#, r"`\ud800`"),
    ] {
        assert_data_is_refused(string, &["lone surrogate", escape, "pairs"]);
    }
    for string in [r#""\ud83d\ude00""#, r#""\\ud800""#, r#""😀""#, r#""\u0000\u001f""#] {
        assert_data_passes(string);
    }
}

#[test]
fn noncharacters_are_refused_by_name() {
    for string in [
        "\"\u{fdd0}\"",
        "\"x\u{fdef}\"",
        "\"\u{ffff}\"",
        "\"\u{1fffe}\"",
        "[\"\u{10ffff}\"]",
        r#""\uFFFE""#,
        r#""\ud83f\udfff""#,
        "{\"\u{fffe}\":1}",
        r#"[{"a":[{"\ufdd5":1}]}]"#,
    ] {
        assert_data_is_refused(string, &["noncharacter U+"]);
    }
    for string in ["\"\u{fdcf}\u{fdf0}\u{fffd}\u{1fffd}\u{10fffd}\u{20000}\"", r#""\ufffd""#] {
        assert_data_passes(string);
    }
    assert_refused("{\"op\":\"ping\",\"\u{fffe}\":1}", ErrorCode::BadMessage, &["noncharacter U+FFFE"]);
}

#[test]
fn duplicate_keys_in_data_are_refused_at_any_depth_and_number() {
    for data in [
        r#"{"a":1,"a":2}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"[{"x":{"a":{"b":1},"c":[],"a":0}}]"#,
        r#"{"":1,"":2}"#,
    ] {
        assert_data_is_refused(data, &["twice"]);
    }
    for count in [2, 7, 8, 9, 10, 100, 3000] {
        let members: Vec<_> = (0..count).map(|i| format!(r#""k{i}":{{"k":{i}}}"#)).collect();
        let distinct = members.join(",");
        assert_data_passes(&format!("{{{distinct}}}"));
        assert_data_is_refused(&format!(r#"{{{distinct},"\u006b{}":1}}"#, count - 1), &["twice", "`k"]);
        assert_data_is_refused(&format!(r#"{{"k0":1,{distinct}}}"#), &["`k0`"]);
    }
}

#[test]
fn a_hundred_thousand_keys_are_checked_in_linear_time() {
    // Quadratic would be 5 billion comparisons: minutes, where this takes a fraction of a second.
    let members: Vec<_> = (0..100_000).map(|i| format!(r#""{i:06}":0"#)).collect();
    assert_data_passes(&format!("{{{}}}", members.join(",")));
}

#[test]
fn data_may_be_63_levels_deep_wherever_it_is() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_data_passes(&nested(63));
    assert_data_is_refused(&nested(64), &["63", "nested", "limits.json_depth_max"]);
    let in_array = |levels| format!("[{}]", publish(&nested(levels)));
    with_command(&in_array(63), |command| assert!(matches!(command, Command::Publish { .. })));
    assert_refused(&in_array(64), ErrorCode::BadMessage, &["63", "nested"]);
    let mut parser = Parser::new();
    assert_eq!(parser.check_data(nested(63).as_bytes()), Ok(()));
    assert!(parser.check_data(nested(64).as_bytes()).is_err());
}

#[test]
fn a_parser_may_be_told_another_depth() {
    let nested = |levels: usize| publish(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
    for depth_max in [1, 2, 64, 1_024] {
        let mut parser = Parser::with_depth_max(depth_max);
        for (levels, is_taken) in [(depth_max, true), (depth_max + 1, false)] {
            let text = nested(levels);
            assert_eq!(parser.parse(&text).is_ok(), is_taken, "{levels} of {depth_max}");
            let padded = format!("{text}{}", " ".repeat(70_000));
            assert_eq!(parser.parse(&padded).is_ok(), is_taken, "{levels} of {depth_max}");
            let mut long = LongMessage::text(&text, depth_max);
            while !long.go_on(7) {}
            assert_eq!(parser.parse_long(&mut long).is_ok(), is_taken, "{levels} of {depth_max}");
            parser.trim(0);
        }
    }
    // Checked when more was allowed.
    let array = format!("[{},{}]", publish("1"), nested(9));
    let mut rest = Parser::new().parse(&array).expect("I-JSON").into_rest().expect("two commands");
    let mut parser = Parser::with_depth_max(8);
    assert!(rest.next(&mut parser).expect("the first").is_ok());
    assert_eq!(
        rest.next(&mut parser).expect("the second").expect_err("too deep").id,
        Some(RequestId::Number(7))
    );
}

#[test]
fn text_nested_ten_thousand_deep_is_refused_by_name() {
    for text in ["[".repeat(10_000), r#"{"a":"#.repeat(10_000), publish(&"[".repeat(10_000))] {
        assert_refused(&text, ErrorCode::BadMessage, &["nested deeper"]);
    }
}

#[test]
fn what_is_left_is_read_at_most_once_more() {
    let command = publish("[0,0,{}]");
    let text = format!("[ {} ]", [command.as_str(); 60].join(" ,\n"));
    let mut parser = Parser::new();
    let mut commands = parser.parse(&text).expect("commands");
    // The array's own, and per command: the object, four keys and values, two zeros and an object.
    assert_eq!(commands.take_read(), Read { bytes: text.len(), values: 1 + 60 * 12 });
    assert_eq!(commands.by_ref().take(20).count(), 20);
    let mut rest = commands.into_rest().expect("forty are left");
    assert_eq!(parser.take_read(), Read::default());
    assert_eq!((rest.left(), rest.len_bytes()), (40, size_of::<Rest>() + 40 * (command.len() + 4)));
    for left in (0..40).rev() {
        assert!(rest.next(&mut parser).is_some_and(|result| result.is_ok()));
        assert_eq!((rest.left(), parser.take_read()), (left, Read { bytes: command.len(), values: 12 }));
    }
    assert!(rest.next(&mut parser).is_none());
    assert!(parser.parse("[]").expect("no command").into_rest().is_none());
}

#[test]
fn what_was_read_counts_each_time_that_it_was_gone_over() {
    let long_integer = "1".repeat(300);
    let mut parser = Parser::new();
    for (text, passes, values) in [
        (r#"{"op":"ping"}"#.to_owned(), 1, 3),
        (publish(&long_integer), 1, 4 + 5),
        (r#"{"op":"ping"#.to_owned(), 3, 0),
        (publish("[0,1e999]"), 3, 4 + 2),
        (format!("[{}]", publish("[0,1e999]")), 4, 4 + 2),
    ] {
        parser.parse(&text).map(|commands| commands.count()).unwrap_or_default();
        let Read { bytes, values: read } = parser.take_read();
        assert_eq!(bytes, text.len() * passes, "{text}");
        assert!(read >= values, "{text}: {read}");
    }
}

#[test]
fn memory_is_kept_until_it_is_given_back() {
    let mut parser = Parser::new();
    let long = |end| publish(&format!("[{}{end}]", "0,".repeat(1 << 16)));
    let read = |parser: &mut Parser, text: String| {
        assert_eq!(parser.parse(&text).is_ok(), !text.contains("x"));
        (text.len(), parser.kept_bytes())
    };
    let (len, kept) = read(&mut parser, long("0"));
    assert!(kept < len, "nothing of a long text but what is outside of `data`: {kept}");
    let (_, kept_after) = read(&mut parser, long("x"));
    assert_eq!(kept_after, kept, "nor of one that is broken");
    // A shorter one goes the way of short texts, to be named.
    let (len, kept) = read(&mut parser, publish(&format!("[{}x]", "0,".repeat(30_000))));
    assert!((len * 12..len * 80).contains(&kept), "{kept}");
    parser.trim(kept);
    assert_eq!(parser.kept_bytes(), kept);
    parser.trim(kept - 1);
    assert_eq!(parser.kept_bytes(), 0);
    assert!(parser.take_read().bytes > 3 * len, "what was read is not forgotten");
}

#[test]
fn of_texts_over_64_kib_that_are_broken_only_the_place_is_told() {
    let text = |bytes: usize| {
        let without = publish("[,0]").len();
        publish(&format!("[{},0]", " ".repeat(bytes - without)))
    };
    assert_refused(&text(65_536), ErrorCode::BadMessage, &["byte 65525", "a JSON value is due"]);
    let parts = ["not I-JSON (RFC 7493)", "of 65537", "at most 65536 bytes"];
    assert_refused(&text(65_537), ErrorCode::BadMessage, &parts);
    let mut parser = Parser::new();
    assert!(parser.parse(&text(1 << 20)).is_err());
    let bytes = parser.take_read().bytes;
    assert_eq!(bytes, 2 << 20, "it was gone over once, and once more to find out whose fault it is");
    let not_utf8 = [b"\"", "x".repeat(70_000).as_bytes(), b"\xff\""].concat();
    assert_eq!(parser.check_data(&not_utf8), Err("not UTF-8 at byte 70001".to_owned()));
}

/// The page is for people who write clients: what it shows them must be what we read and they can read.
#[test]
fn the_examples_of_the_protocol_page_are_what_they_are_shown_as() {
    let page = include_str!("../../../docs/PROTOCOL.md");
    let (mut command_count, mut answer_count, mut refused_count) = (0, 0, 0);
    for line in page.lines() {
        if let Some(command) = line.strip_prefix("    → ").filter(|text| text.starts_with(['{', '['])) {
            assert!(results(&mut Parser::new(), command).iter().all(Result::is_ok), "{command}");
            command_count += 1;
        }
        if let Some(answer) = line.strip_prefix("    ← ").filter(|text| text.starts_with('{')) {
            assert!(naive::is_i_json(answer, 64), "{answer}");
            answer_count += 1;
        }
        // Of the table of error codes.
        if let [_, code, _, example, _] = line.split('|').map(str::trim).collect::<Vec<_>>()[..]
            && let Some(example) = example.strip_prefix("`{").and_then(|text| text.strip_suffix('`'))
        {
            let example = format!("{{{example}");
            with_error(&example, |error| assert_eq!(format!("`{}`", error.code.as_str()), code, "{example}"));
            refused_count += 1;
        }
    }
    assert!(command_count >= 7 && answer_count >= 14 && refused_count == 6, "the page is read");
}
