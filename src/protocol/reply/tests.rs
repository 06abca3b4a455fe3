use super::*;
use crate::protocol::{
    command::{ErrorCode, PayloadKind},
    publication::{Publication, tests::unframe},
    record::Records,
};

fn with_every_reply(mut look: impl FnMut(&Reply<'_>, &str)) {
    let id = Some(RequestId::Number(7));
    look(
        &Reply::Hello {
            epoch: 0x9f3a_c0de_1234_5678,
            connection: 0x2a,
            message_bytes_max: 1_048_576,
            ping_s: 25,
            identity: Identity::default(),
        },
        r#"{"op":"hello","v":1,"epoch":"9f3ac0de12345678","conn":"000000000000002a","max_message":1048576,"ping_s":25,"features":["binary","history","retain","keys","auth"]}"#,
    );
    let awaited = Identity { is_awaited: true, ..Identity::default() };
    look(
        &Reply::Hello { epoch: 1, connection: 2, message_bytes_max: 3, ping_s: 4, identity: awaited },
        r#"{"op":"hello","v":1,"epoch":"0000000000000001","conn":"0000000000000002","max_message":3,"ping_s":4,"features":["binary","history","retain","keys","auth"],"auth":"required"}"#,
    );
    let bob = Identity { is_awaited: false, user: Some("b\"b"), expires_in_s: Some(3_600) };
    look(
        &Reply::Authenticated { id, identity: bob },
        r#"{"op":"ok","id":7,"user":"b\"b","expires_in_s":3600}"#,
    );
    look(&Reply::Expiring { in_s: 60 }, r#"{"op":"expiring","in_s":60}"#);
    look(
        &Reply::Unsubscribed { filter: "room/#", reason: "forbidden" },
        r#"{"op":"unsubscribed","topic":"room/#","reason":"forbidden"}"#,
    );
    look(
        &Reply::Ok {
            id,
            topic: "room/42",
            seq: Some(121),
            begin: Begin::default(),
            receivers: None,
            is_duplicate: false,
            hint: None,
        },
        r#"{"op":"ok","id":7,"topic":"room/42","seq":121}"#,
    );
    look(
        &Reply::Ok {
            id,
            topic: "room/42",
            seq: Some(121),
            begin: Begin::default(),
            receivers: Some(3),
            is_duplicate: false,
            hint: None,
        },
        r#"{"op":"ok","id":7,"topic":"room/42","seq":121,"receivers":3}"#,
    );
    look(
        &Reply::Ok {
            id,
            topic: "room/42",
            seq: Some(121),
            begin: Begin::default(),
            receivers: None,
            is_duplicate: true,
            hint: None,
        },
        r#"{"op":"ok","id":7,"topic":"room/42","seq":121,"duplicate":true}"#,
    );
    let begin = Begin { epoch: Some(0x9f3a_c0de_1234_5678), recovered: None, replayed: None };
    look(
        &Reply::Ok {
            id,
            topic: "*",
            seq: Some(0),
            begin,
            receivers: None,
            is_duplicate: false,
            hint: Some("no"),
        },
        r#"{"op":"ok","id":7,"topic":"*","seq":0,"epoch":"9f3ac0de12345678","hint":"no"}"#,
    );
    let begin = Begin { recovered: Some(true), replayed: Some(17), ..begin };
    look(
        &Reply::Ok {
            id,
            topic: "room/42",
            seq: Some(120),
            begin,
            receivers: Some(1),
            is_duplicate: false,
            hint: Some("no"),
        },
        r#"{"op":"ok","id":7,"topic":"room/42","seq":120,"epoch":"9f3ac0de12345678","recovered":true,"replayed":17,"receivers":1,"hint":"no"}"#,
    );
    let begin = Begin { recovered: Some(false), replayed: Some(0), epoch: Some(1) };
    look(
        &Reply::Ok {
            id,
            topic: "room/42",
            seq: Some(190),
            begin,
            receivers: None,
            is_duplicate: false,
            hint: None,
        },
        r#"{"op":"ok","id":7,"topic":"room/42","seq":190,"epoch":"0000000000000001","recovered":false,"replayed":0}"#,
    );
    look(
        &Reply::Ok {
            id: None,
            topic: "a\"/#",
            seq: None,
            begin: Begin::default(),
            receivers: None,
            is_duplicate: false,
            hint: None,
        },
        r#"{"op":"ok","topic":"a\"/#"}"#,
    );
    look(
        &Reply::Error(&CommandError {
            op: Some("publish"),
            id,
            topic: Some("room/42".into()),
            code: ErrorCode::BadTopic,
            message: "no `\\`\nhere".into(),
            retry_after_ms: None,
        }),
        r#"{"op":"error","for":"publish","topic":"room/42","id":7,"code":"bad_topic","message":"no `\\`\nhere"}"#,
    );
    look(
        &Reply::Error(&CommandError::bad_message("x".to_owned())),
        r#"{"op":"error","code":"bad_message","message":"x"}"#,
    );
    look(
        &Reply::Error(&CommandError {
            op: Some("history"),
            topic: Some("room/42".into()),
            id,
            ..CommandError::new(ErrorCode::Busy, "one at a time".to_owned())
        }),
        r#"{"op":"error","for":"history","topic":"room/42","id":7,"code":"busy","message":"one at a time"}"#,
    );
    look(
        &Reply::Error(&CommandError {
            id,
            retry_after_ms: Some(20),
            ..CommandError::new(ErrorCode::RateLimited, "later".to_owned())
        }),
        r#"{"op":"error","id":7,"code":"rate_limited","message":"later","retry_after_ms":20}"#,
    );
    look(&Reply::Pong { id: Some(RequestId::Text(r#""\u0061""#)) }, r#"{"op":"pong","id":"\u0061"}"#);
    look(&Reply::Pong { id: None }, r#"{"op":"pong"}"#);
    look(
        &Reply::Gap { topic: "room/42", from: 122, to: 140, reason: "slow_consumer" },
        r#"{"op":"gap","topic":"room/42","from":122,"to":140,"reason":"slow_consumer"}"#,
    );
    look(
        &Reply::Gap { topic: "room/42", from: 122, to: 122, reason: "retention" },
        r#"{"op":"gap","topic":"room/42","from":122,"to":122,"reason":"retention"}"#,
    );
    look(
        &Reply::GapMany { filter: "room/#", reason: "slow_consumer" },
        r#"{"op":"gap","filter":"room/#","reason":"slow_consumer"}"#,
    );
}

#[test]
fn json_looks_like_the_protocol_page() {
    with_every_reply(|reply, expected| {
        let mut out = b"before".to_vec();
        write(Format::Json, reply, &mut out);
        let (opcode, message) = unframe(out.strip_prefix(b"before").expect("appended"));
        assert_eq!((opcode, std::str::from_utf8(message)), (1, Ok(expected)));
        serde_json::from_slice::<serde_json::Value>(message).expect("JSON");
    });
}

#[test]
fn binary_carries_the_json_object_under_its_kind() {
    with_every_reply(|reply, expected| {
        let mut out = Vec::new();
        write(Format::Binary, reply, &mut out);
        let (opcode, message) = unframe(&out);
        assert_eq!(opcode, 2);
        let (header, object) = message.split_at(binary::HEADER_LEN);
        assert_eq!(std::str::from_utf8(object), Ok(expected));
        let kind = Kind::from_byte(header[0]).expect("a kind");
        assert!(expected.starts_with(&format!(r#"{{"op":"{}""#, kind.as_str())), "{kind:?}: {expected}");
        assert_eq!(header[1..], [binary::FLAG_JSON, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    });
}

#[test]
fn every_length_gets_the_shortest_header() {
    let empty = r#"{"op":"ok","topic":""}"#.len();
    for message_len in [100, 124, 125, 126, 127, 128, 200] {
        let topic = "x".repeat(message_len - empty);
        let mut out = Vec::new();
        write(
            Format::Json,
            &Reply::Ok {
                id: None,
                topic: &topic,
                seq: None,
                begin: Begin::default(),
                receivers: None,
                is_duplicate: false,
                hint: None,
            },
            &mut out,
        );
        assert_eq!(unframe(&out).1.len(), message_len);
    }
    let mut out = Vec::new();
    let error = CommandError::bad_message("\u{1}".repeat(20_000));
    write(Format::Json, &Reply::Error(&error), &mut out);
    assert!(unframe(&out).1.len() > 0xffff);
}

/// A topic that is written with an escape, JSON and bytes, of which one is stamped.
const PUBLICATIONS: [Publication<'_>; 2] = [
    Publication {
        topic: "a\"",
        seq: 20,
        user: None,
        time_ms: None,
        payload: br#"{"text":"hi"}"#,
        kind: PayloadKind::Json,
    },
    Publication {
        topic: "a\"",
        seq: 21,
        user: Some("b\""),
        time_ms: Some(1_764_083_000_123),
        payload: b"hi\xff\0",
        kind: PayloadKind::Bytes,
    },
];

/// The message of a history of `publications`, which are kept in `kept`.
fn history_of(format: Format, kept: Format, publications: &[Publication<'_>]) -> Vec<u8> {
    let mut records = Vec::new();
    for publication in publications {
        let start = records.len();
        records.resize(start + publication.encoded_len(kept), 0);
        publication.encode(kept, &mut records[start..]);
    }
    let mut out = b"before".to_vec();
    let history = History {
        id: RequestId::Text(r#""a-7""#),
        topic: "a\"",
        epoch: 0x9f3a_c0de_1234_5678,
        seq: 140,
        from: 20,
        more: true,
        messages: Records::new(kept, &records),
    };
    write_history(format, history, &mut out);
    let (opcode, message) = unframe(out.strip_prefix(b"before").expect("appended"));
    assert_eq!(opcode, if format == Format::Json { 1 } else { 2 });
    message.to_vec()
}

#[test]
fn a_history_in_json_has_its_messages_as_subscribers_got_them() {
    for kept in Format::ALL {
        let message = history_of(Format::Json, kept, &PUBLICATIONS);
        assert_eq!(
            str::from_utf8(&message),
            Ok(concat!(
                r#"{"op":"history","id":"a-7","topic":"a\"","epoch":"9f3ac0de12345678","seq":140,"from":20,"more":true,"messages":["#,
                r#"{"op":"message","topic":"a\"","seq":20,"data":{"text":"hi"}},"#,
                r#"{"op":"message","topic":"a\"","seq":21,"user":"b\"","time":1764083000123,"base64":"aGn/AA=="}]}"#
            ))
        );
    }
}

#[test]
fn a_history_in_binary_has_its_messages_as_bodies_behind_its_object() {
    let object = br#"{"op":"history","id":"a-7","topic":"a\"","epoch":"9f3ac0de12345678","seq":140,"from":20,"more":true}"#;
    for kept in Format::ALL {
        let message = history_of(Format::Binary, kept, &PUBLICATIONS);
        let expected = [
            b"\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x64",
            &object[..],
            b"\0\0\0\x1b\x02\x01\0\x02\0\0\0\0\0\0\0\x14a\"{\"text\":\"hi\"}",
            b"\0\0\0\x24\x02\x02\0\x02\0\0\0\0\0\0\0\x15",
            b"\0\x10\x03\0\x02b\"\x04\0\x08\0\0\x01\x9a\xbb\x8a\x63\x3ba\"hi\xff\0",
        ];
        assert_eq!(message.escape_ascii().to_string(), expected.concat().escape_ascii().to_string());
    }
}

#[test]
fn a_history_may_be_empty_or_long() {
    let empty =
        r#"{"op":"history","id":7,"topic":"t","epoch":"0000000000000000","seq":0,"from":1,"more":false"#;
    let history = History {
        id: RequestId::Number(7),
        topic: "t",
        epoch: 0,
        seq: 0,
        from: 1,
        more: false,
        messages: [],
    };
    let mut out = Vec::new();
    write_history(Format::Json, history, &mut out);
    assert_eq!(unframe(&out).1, format!(r#"{empty},"messages":[]}}"#).as_bytes());
    out.clear();
    write_history(Format::Binary, history, &mut out);
    assert_eq!(unframe(&out).1[binary::HEADER_LEN + 4..], *format!("{empty}}}").as_bytes());

    let payload = vec![b'1'; 300];
    let long = Publication { payload: &payload, kind: PayloadKind::Json, ..PUBLICATIONS[0] };
    for format in Format::ALL {
        let message = history_of(format, Format::Json, &[long; 1_000]);
        assert!((310_000..400_000).contains(&message.len()), "{}", message.len());
    }
}
