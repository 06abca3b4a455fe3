//! A session's frames, from a receive's bytes to events; and the headers that the server writes.
//!
//! Before it measures, it proves that whole frames within one receive allocate nothing.

#[path = "../tests/common/allocations.rs"]
mod allocations;
#[path = "fixtures/frame.rs"]
mod fixtures;

use std::{hint::black_box, time::Duration};

use allocations::allocation_count;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::protocol::frame::{self, Opcode};
use fixtures::{FRAME_COUNT, open, receive_of, take};

fn prove_that_whole_frames_allocate_nothing() {
    for (subprotocol, first) in [("fanfare.json.v1", 0x81), ("fanfare.bin.v1", 0x82)] {
        for len in [0, 48, 128, 16_384] {
            let mut session = open(subprotocol);
            let mut bytes = receive_of(first, len, FRAME_COUNT);
            // The first poll resolves what is chosen once.
            assert_eq!(take(&mut session, &mut bytes.clone()), FRAME_COUNT);
            let before = allocation_count();
            assert_eq!(take(&mut session, &mut bytes), FRAME_COUNT);
            assert_eq!(allocation_count() - before, 0, "{subprotocol}, {len} bytes");
        }
    }
}

fn poll(criterion: &mut Criterion) {
    prove_that_whole_frames_allocate_nothing();
    for (name, subprotocol, first) in
        [("poll_text", "fanfare.json.v1", 0x81), ("poll_binary", "fanfare.bin.v1", 0x82)]
    {
        let mut group = criterion.benchmark_group(name);
        for len in [48, 128, 190, 1_000, 16_384] {
            let mut session = open(subprotocol);
            let bytes = receive_of(first, len, FRAME_COUNT);
            group.throughput(Throughput::Elements(FRAME_COUNT as u64));
            group.bench_function(BenchmarkId::new("whole", len), |bencher| {
                bencher.iter_batched_ref(
                    || bytes.clone(),
                    |bytes| take(&mut session, bytes),
                    BatchSize::LargeInput,
                )
            });
        }
        // One message of 16 KiB that arrives in four receives.
        let mut session = open(subprotocol);
        let bytes = receive_of(first, 16_384, 1);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("in_four_receives", 16_384), |bencher| {
            bencher.iter_batched_ref(
                || bytes.clone(),
                |bytes| {
                    let receives = bytes.chunks_mut(4_100);
                    receives.map(|receive| take(&mut session, receive)).sum::<usize>()
                },
                BatchSize::LargeInput,
            )
        });
        group.finish();
    }
}

fn upgrade(criterion: &mut Criterion) {
    criterion.bench_function("upgrade", |bencher| bencher.iter(|| open(black_box("fanfare.json.v1"))));
}

fn write_header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write_header");
    for len in [100_usize, 1_000, 100_000] {
        let mut out = [0; frame::SERVER_HEADER_BYTES_MAX];
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| frame::write_header(Opcode::Text, black_box(len), black_box(&mut out)))
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .sample_size(30);
    targets = poll, upgrade, write_header
}
criterion_main!(benches);
