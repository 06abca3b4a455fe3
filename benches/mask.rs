//! Unmasking: every implementation that this machine has, and the dispatch, in place and fused with a copy.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::protocol::mask::{self, Implementation};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LENGTHS: [usize; 7] = [16, 48, 128, 190, 1_000, 16_384, 1_048_576];

fn in_place(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for len in LENGTHS {
        // One byte off, as a payload behind a header lies.
        let mut buffer = vec![0x5A; len + 1];
        let bytes = &mut buffer[1..];
        group.throughput(Throughput::Bytes(len as u64));
        for implementation in Implementation::available() {
            let id = BenchmarkId::new(implementation.kind().as_str(), len);
            group.bench_function(id, |bencher| {
                bencher.iter(|| implementation.unmask(black_box(bytes), black_box(KEY), 0))
            });
        }
        group.bench_function(BenchmarkId::new("dispatch", len), |bencher| {
            bencher.iter(|| mask::unmask(black_box(bytes), black_box(KEY), 0))
        });
    }
    group.finish();
}

fn copying(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_unmasked");
    for len in LENGTHS {
        let mut buffer = vec![0x5A; len + 1];
        let mut out = Vec::with_capacity(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("dispatch", len), |bencher| {
            bencher.iter(|| {
                out.clear();
                mask::append_unmasked(black_box(&buffer[1..]), black_box(KEY), 0, &mut out);
                black_box(out.as_ptr());
            })
        });
        // What the fused copy saves.
        group.bench_function(BenchmarkId::new("unmask_then_copy", len), |bencher| {
            bencher.iter(|| {
                out.clear();
                mask::unmask(black_box(&mut buffer[1..]), black_box(KEY), 0);
                out.extend_from_slice(&buffer[1..]);
                black_box(out.as_ptr());
            })
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_millis(700))
        .sample_size(30);
    targets = in_place, copying
}
criterion_main!(benches);
