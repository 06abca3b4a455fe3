//! What a delivery costs before the kernel has it: a publication at its home, its batch in the fan-out, and
//! one sweep over 10, 1,000 and 10,000 subscribers, each visited, taken from and given back.
//!
//! Run with `cargo bench --bench fanout`.

#[path = "fixtures/fanout.rs"]
mod fixtures;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fixtures::Reactor;

fn sweep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    for count in [10u32, 1_000, 10_000] {
        let mut reactor = Reactor::with_subscribers(count);
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::new("subscribers", count), |bencher| {
            bencher.iter(|| {
                reactor.publish();
                reactor.exchange();
                reactor.sweep()
            });
        });
    }
    group.finish();
}

/// How much merging saves: 64 publications per sweep of 1,000.
fn merged(criterion: &mut Criterion) {
    let mut reactor = Reactor::with_subscribers(1_000);
    let mut group = criterion.benchmark_group("merged");
    group.throughput(Throughput::Elements(64_000));
    group.bench_function("64 publications to 1,000 subscribers", |bencher| {
        bencher.iter(|| {
            (0..64).for_each(|_| reactor.publish());
            reactor.exchange();
            reactor.sweep()
        });
    });
    group.finish();
}

fn publish(criterion: &mut Criterion) {
    let mut reactor = Reactor::with_subscribers(1);
    criterion.bench_function("publish to one subscriber", |bencher| {
        bencher.iter(|| {
            reactor.publish();
            reactor.exchange();
            reactor.sweep()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = sweep, merged, publish
}
criterion_main!(benches);
