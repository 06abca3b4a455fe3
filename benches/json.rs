//! What reading a command costs: simd-json as the broker uses it, against serde_json with RawValue.
//!
//! `cargo bench --bench json`. Figures are per command; the sizes are those of the whole text. The two
//! do not check the same: serde_json skips over `data` (`RawValue`), and so passes lone surrogates,
//! numbers outside a double and duplicate keys in it; `parser` refuses all three, and noncharacters.
//! `parser of data alone` is what a binary publish with the JSON flag costs. `simd-json alone` is the
//! part of `parser` that is not ours.
//!
//! AMD EPYC with AVX-512, two shared cores, rustc 1.95, medians of quiet runs:
//!
//! | bytes | parser | serde_json with RawValue | simd-json alone | parser of data alone |
//! |---|---|---|---|---|
//! | 30 | 164 ns | 98 to 110 ns | 88 ns | |
//! | 128 | 263 ns | 195 ns | 139 ns | 175 ns |
//! | 300 | 587 ns | 344 ns | 402 ns | 529 to 549 ns |
//! | 1,000 | 1,798 ns | 1,009 to 1,032 ns | 1,335 ns | 1,751 ns |
//!
//! So serde_json that looks at nothing in `data` is 1.4 to 1.8 times as fast; from 300 bytes on
//! simd-json by itself is behind it already, since it converts every number and unescapes every string.
//! The last column is from before `check` returned its size in registers.

mod fixtures {
    #[path = "dense.rs"]
    pub mod dense;
    #[path = "json.rs"]
    mod json;
    pub use json::texts;
}

use std::{borrow::Cow, hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare::protocol::{Format, binary, command::PayloadKind, json::Parser, publication::Publication};
use fixtures::{dense, texts};
use serde_json::value::RawValue;

/// The same command as serde_json would read it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Twin<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    receivers: Option<bool>,
}

fn parse(criterion: &mut Criterion) {
    for text in texts() {
        let mut group = criterion.benchmark_group(format!("parse/{}", text.len()));
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut parser = Parser::new();
        group.bench_function("parser", |bencher| {
            bencher.iter(|| {
                let commands = parser.parse(black_box(&text)).expect("a command");
                for command in commands {
                    black_box(command.expect("a command"));
                }
            })
        });
        group.bench_function("serde_json with RawValue", |bencher| {
            bencher.iter(|| {
                let twin: Twin = serde_json::from_str(black_box(&text)).expect("a command");
                black_box((twin.op, twin.topic, twin.data, twin.id, twin.receivers));
            })
        });
        let mut padded = Vec::new();
        let mut buffers = simd_json::Buffers::new(0);
        let mut nodes = Vec::new();
        group.bench_function("simd-json alone", |bencher| {
            bencher.iter(|| {
                padded.clear();
                padded.extend_from_slice(black_box(&text).as_bytes());
                padded.extend_from_slice(&[b' '; simd_json::INPUT_PADDING]);
                let mut tape = simd_json::Tape(std::mem::take(&mut nodes)).reset();
                simd_json::fill_tape_padded(&mut padded, text.len(), &mut buffers, &mut tape).expect("JSON");
                black_box(&tape);
                nodes = tape.reset().0;
            })
        });
        let twin: Twin = serde_json::from_str(&text).expect("a command");
        if let Some(data) = twin.data {
            let mut message = vec![1, binary::FLAG_JSON, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b't'];
            message.extend(data.get().as_bytes());
            group.bench_function("parser of data alone", |bencher| {
                bencher.iter(|| {
                    let commands = binary::parse(&mut parser, black_box(&message)).expect("a command");
                    for command in commands {
                        black_box(command.expect("a command"));
                    }
                })
            });
        }
        group.finish();
    }
}

/// What costs the most per byte, as a stranger would send it, by which prices per byte and value are set.
fn dense_kinds(criterion: &mut Criterion) {
    for (kind, make) in dense::KINDS {
        let mut group = criterion.benchmark_group(format!("dense/{kind}"));
        for len in [1 << 10, 64 << 10, 1 << 20] {
            let text = make(len);
            group.throughput(Throughput::Bytes(text.len() as u64));
            let mut parser = Parser::new();
            group.bench_function(len.to_string(), |bencher| {
                bencher.iter(|| {
                    for command in parser.parse(black_box(&text)).into_iter().flatten() {
                        black_box(command.is_ok());
                    }
                })
            });
        }
        group.finish();
    }
}

fn encode(criterion: &mut Criterion) {
    let payload = vec![b'7'; 1000];
    for (len, kind) in [(64, PayloadKind::Json), (1000, PayloadKind::Json), (1000, PayloadKind::Bytes)] {
        let publication = Publication {
            topic: "room/42",
            seq: 123_456,
            user: None,
            time_ms: None,
            payload: &payload[..len],
            kind,
        };
        for format in Format::ALL {
            let mut out = vec![0; publication.encoded_len(format)];
            criterion.bench_function(&format!("encode/{format:?}/{kind:?}/{len}"), |bencher| {
                bencher.iter(|| {
                    let publication = black_box(&publication);
                    let len = publication.encoded_len(format);
                    publication.encode(format, black_box(&mut out[..len]));
                })
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50);
    targets = parse, dense_kinds, encode
}
criterion_main!(benches);
