//! How many instructions the hot pieces take, by valgrind: the same on a noisy machine as on a quiet one.
//!
//! `benches/measure counts` runs this and compares with what `benches/record/` has. Where instruction sets matter, a
//! name says which one is counted. Text and binary messages below 64 bytes use none of the wide ones.

#![allow(missing_docs, reason = "what the macros write has none")]

#[path = "fixtures/fanout.rs"]
mod fanout;
#[path = "fixtures/frame.rs"]
mod frame;
#[path = "fixtures/json.rs"]
mod json;
#[path = "fixtures/past.rs"]
mod past;

use std::hint::black_box;

use fanfare::protocol::{
    Format, binary,
    command::PayloadKind,
    json::Parser,
    mask::{Implementation, Kind},
    publication::Publication,
    session::Session,
};
use gungraun::prelude::*;

/// An implementation and what it is to unmask, one byte off, as a payload behind a header lies.
fn masked(kind: Kind, len: usize) -> (Implementation, Vec<u8>) {
    let implementation = Implementation::new(kind);
    (implementation.expect("benches/measure looks whether it is there"), vec![0x5A; len + 1])
}

#[library_benchmark]
#[bench::scalar_48(masked(Kind::Scalar, 48))]
#[bench::scalar_190(masked(Kind::Scalar, 190))]
#[bench::scalar_16384(masked(Kind::Scalar, 16_384))]
#[bench::sse2_190(masked(Kind::Sse2, 190))]
#[bench::sse2_16384(masked(Kind::Sse2, 16_384))]
#[bench::avx2_190(masked(Kind::Avx2, 190))]
#[bench::avx2_16384(masked(Kind::Avx2, 16_384))]
fn unmask((implementation, mut buffer): (Implementation, Vec<u8>)) -> Vec<u8> {
    black_box(implementation).unmask(black_box(&mut buffer[1..]), black_box(frame::KEY), 0);
    buffer
}

/// A session that has seen such frames before, and as many of them as one receive brings.
fn received(subprotocol: &str, first: u8, len: usize) -> (Session, Vec<u8>) {
    let mut session = frame::open(subprotocol);
    let bytes = frame::receive_of(first, len, frame::FRAME_COUNT);
    assert_eq!(frame::take(&mut session, &mut bytes.clone()), frame::FRAME_COUNT);
    (session, bytes)
}

#[library_benchmark]
#[bench::text_48(received("fanfare.json.v1", 0x81, 48))]
#[bench::binary_48(received("fanfare.bin.v1", 0x82, 48))]
#[bench::avx2_text_190(received("fanfare.json.v1", 0x81, 190))]
#[bench::avx2_binary_190(received("fanfare.bin.v1", 0x82, 190))]
fn take_64_frames((mut session, mut bytes): (Session, Vec<u8>)) -> (Session, Vec<u8>) {
    black_box(frame::take(black_box(&mut session), black_box(&mut bytes)));
    (session, bytes)
}

/// One of the texts by its length, and a parser that has read it before.
fn command(len: usize) -> (Parser, String) {
    let text = json::texts().into_iter().find(|it| it.len() == len).expect("there is one");
    let mut parser = Parser::new();
    read_all(&mut parser, &text);
    (parser, text)
}

fn read_all(parser: &mut Parser, text: &str) {
    for command in parser.parse(text).expect("a command") {
        black_box(command.expect("a command"));
    }
}

#[library_benchmark]
#[bench::avx2_30(command(30))]
#[bench::avx2_128(command(128))]
#[bench::avx2_300(command(300))]
#[bench::avx2_1000(command(1000))]
fn parse_json((mut parser, text): (Parser, String)) -> (Parser, String) {
    read_all(&mut parser, black_box(&text));
    (parser, text)
}

/// A binary publish of so many bytes that are no JSON: nothing to validate.
fn binary_publish(len: usize) -> (Parser, Vec<u8>) {
    let mut message = vec![1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, b't'];
    message.resize(message.len() + len, b'x');
    (Parser::new(), message)
}

#[library_benchmark]
#[bench::bytes_128(binary_publish(128))]
fn parse_binary((mut parser, message): (Parser, Vec<u8>)) -> (Parser, Vec<u8>) {
    for command in binary::parse(&mut parser, black_box(&message)).expect("a command") {
        black_box(command.expect("a command"));
    }
    (parser, message)
}

fn room_for(format: Format) -> (Format, Vec<u8>) {
    (format, vec![0; 1024])
}

#[library_benchmark]
#[bench::json_128(room_for(Format::Json))]
#[bench::binary_128(room_for(Format::Binary))]
fn encode((format, mut out): (Format, Vec<u8>)) -> Vec<u8> {
    let publication = Publication {
        topic: "room/42",
        seq: 123_456,
        user: None,
        time_ms: None,
        payload: &[b'7'; 128],
        kind: PayloadKind::Json,
    };
    let publication = black_box(&publication);
    let len = publication.encoded_len(format);
    publication.encode(format, black_box(&mut out[..len]));
    out
}

/// A reactor whose subscribers have had something before.
fn subscribed(count: u32) -> fanout::Reactor {
    let mut reactor = fanout::Reactor::with_subscribers(count);
    for _ in 0..8 {
        publish_and_sweep(&mut reactor, 1);
    }
    reactor
}

fn publish_and_sweep(reactor: &mut fanout::Reactor, publication_count: u32) -> u64 {
    (0..publication_count).for_each(|_| reactor.publish());
    reactor.exchange();
    reactor.sweep()
}

#[library_benchmark]
#[bench::one_publication_to_1(subscribed(1), 1)]
#[bench::one_publication_to_1000(subscribed(1_000), 1)]
#[bench::sixty_four_publications_to_1000(subscribed(1_000), 64)]
fn fan_out(mut reactor: fanout::Reactor, publication_count: u32) -> fanout::Reactor {
    black_box(publish_and_sweep(black_box(&mut reactor), publication_count));
    reactor
}

/// A home to which as much was published before.
fn kept(payload_len: usize) -> (past::Keeper, Vec<u8>) {
    let mut keeper = past::Keeper::new();
    let payload = vec![b'7'; payload_len];
    (0..8).for_each(|_| keeper.publish("room/42", &payload));
    (keeper, payload)
}

#[library_benchmark]
#[bench::kept_128(kept(128))]
fn publish((mut keeper, payload): (past::Keeper, Vec<u8>)) -> past::Keeper {
    black_box(&mut keeper).publish("room/42", black_box(&payload));
    keeper
}

/// More topics than a page has names, of which one was asked for before.
fn toured() -> past::Keeper {
    let mut keeper = past::Keeper::with_topics(2_000);
    assert_eq!(keeper.walk(), 1_024);
    keeper
}

#[library_benchmark]
#[bench::page_of_1024(toured())]
fn walk(mut keeper: past::Keeper) -> past::Keeper {
    black_box(black_box(&mut keeper).walk());
    keeper
}

library_benchmark_group!(
    name = pieces,
    benchmarks = [unmask, take_64_frames, parse_json, parse_binary, encode, fan_out, publish, walk]
);
main!(library_benchmark_groups = pieces);
