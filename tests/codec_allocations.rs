//! Once warm, reading a publish and writing what comes of it allocates nothing, in either language, nor does transcoding.

#[path = "common/allocations.rs"]
mod allocations;

use std::hint::black_box;

use allocations::allocation_count;
use fanfare::protocol::{
    Format, binary,
    command::{Command, CommandError, PayloadKind},
    json::Parser,
    publication::Publication,
    record::Records,
    reply::{self, Begin, Reply},
    transcode::{transcode, transcoded_len},
};

/// Sequences, encodes and acknowledges what `commands` publish, as a reactor would.
fn carry_out<'a>(
    commands: impl Iterator<Item = Result<Command<'a>, CommandError<'a>>>,
    format: Format,
    frame: &mut [u8],
    replies: &mut Vec<u8>,
) {
    for command in commands {
        match command.expect("a good command") {
            Command::Publish { id, topic, payload, kind, .. } => {
                let publication =
                    Publication { topic: &topic, seq: 121, user: None, time_ms: None, payload, kind };
                let len = publication.encoded_len(format);
                publication.encode(format, &mut frame[..len]);
                let begin = Begin::default();
                let ok = Reply::Ok {
                    id,
                    topic: &topic,
                    seq: Some(121),
                    begin,
                    receivers: Some(3),
                    is_duplicate: false,
                    hint: None,
                };
                reply::write(format, &ok, replies);
            }
            Command::Ping { id } => reply::write(format, &Reply::Pong { id }, replies),
            other => panic!("{other:?}"),
        }
        black_box(&replies);
        replies.clear();
    }
}

#[test]
fn publishing_allocates_nothing_once_warm() {
    let texts = [
        r#"{"op":"publish","topic":"room\/42","data":{"a":[1,2.5,"\ud83d\ude00"],"b":{"c":null}},"id":7}"#,
        r#"{"op":"publish","topic":"t","data":{"1":1,"2":2,"3":3,"4":4,"5":5,"6":6,"7":7,"8":8,"9":9},"id":"x"}"#,
        r#"[{"op":"ping","id":1},{"op":"publish","topic":"t","data":123456789012345678901234567890}]"#,
    ];
    let mut body = vec![1, binary::FLAG_JSON, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, b't'];
    body.extend(br#"{"a":1,"b":"c"}"#);
    let mut batch = vec![0, 0];
    for _ in 0..3 {
        batch.extend((body.len() as u32).to_be_bytes());
        batch.extend(&body);
    }

    let mut parser = Parser::new();
    let mut frame = vec![0; 4096];
    let mut replies = Vec::with_capacity(4096);
    let mut round = || {
        for text in texts {
            carry_out(parser.parse(text).expect("I-JSON"), Format::Json, &mut frame, &mut replies);
        }
        for message in [&body, &batch] {
            let commands = binary::parse(&mut parser, message).expect("a body");
            carry_out(commands, Format::Binary, &mut frame, &mut replies);
        }
    };
    round();
    let before = allocation_count();
    assert!(before > 0, "the allocator counts");
    for _ in 0..100 {
        round();
    }
    assert_eq!(allocation_count() - before, 0);
}

#[test]
fn transcoding_allocates_nothing() {
    let publications = [
        Publication {
            topic: "room/42",
            seq: 121,
            user: None,
            time_ms: None,
            payload: b"[1]",
            kind: PayloadKind::Json,
        },
        Publication {
            topic: "\"\u{1}\"",
            seq: u64::MAX,
            user: Some("alice"),
            time_ms: Some(u64::MAX),
            payload: &[0xff; 1_000],
            kind: PayloadKind::Bytes,
        },
    ];
    for from in Format::ALL {
        let mut bytes = Vec::new();
        for publication in publications.iter().cycle().take(10) {
            let start = bytes.len();
            bytes.resize(start + publication.encoded_len(from), 0);
            publication.encode(from, &mut bytes[start..]);
        }
        let mut out = vec![0; 64 << 10];
        let before = allocation_count();
        assert!(before > 0, "the allocator counts");
        for to in Format::ALL {
            let records = Records::new(from, black_box(&bytes));
            transcode(records, to, &mut out[..transcoded_len(records, to)]);
            black_box(&out);
        }
        assert_eq!(allocation_count() - before, 0);
    }
}
