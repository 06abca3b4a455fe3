//! What strangers can make a home do beyond its publications: the prices by which that is charged
//! (`pubsub::home`) are these figures, rounded up.
//!
//! Run with `cargo bench --bench home`.

use std::{collections::VecDeque, hint::black_box, sync::Arc};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::{
    protocol::{
        Encoding,
        command::PayloadKind,
        deflate::{Deflater, Settings},
        topic::{self, TopicName},
    },
    pubsub::{
        filter::FilterTree,
        home::{Draft, Home},
        log::Budget,
        message::Outboxes,
    },
};

/// Filters that share no levels, spread over so much memory that no cache holds it.
const FILTERS: u32 = 16_384;
const LEVELS: u64 = 8;

fn filter(number: u32) -> String {
    (0..LEVELS).map(|level| format!("{number}-{level}")).collect::<Vec<_>>().join("/")
}

/// Each visit meets another path: what a node costs where nothing of it is cached.
fn nodes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter_tree");
    group.throughput(Throughput::Elements(LEVELS + 1));
    for count in [16, FILTERS] {
        let names: Vec<String> = (0..count).map(filter).collect();
        let mut tree = FilterTree::new();
        for (name, key) in names.iter().zip(0u32..) {
            tree.insert(name, key);
        }
        let mut next = (0..count as usize).cycle().map(|number| number * 7_919 % count as usize);
        group.bench_function(BenchmarkId::new("match among", count), |bencher| {
            bencher.iter(|| {
                let mut sum = 0;
                let name = &names[next.next().expect("a cycle")];
                tree.for_each_match(black_box(name), |key| sum += key) + sum
            });
        });
        group.bench_function(BenchmarkId::new("add and take away among", count), |bencher| {
            bencher.iter(|| {
                let name = &names[next.next().expect("a cycle")];
                tree.insert(black_box(name), u32::MAX) && tree.remove(black_box(name), u32::MAX)
            });
        });
    }
    group.finish();
}

/// What limits.plus_levels_max leaves of the worst that strangers can make a name meet: all filters of ten levels that
/// are `a` or `+`, and one without `+` to the depth of a topic.
fn worst_name(criterion: &mut Criterion) {
    const PLUS_LEVELS: usize = 10;
    let mut tree = FilterTree::new();
    for bits in 1..1u32 << PLUS_LEVELS {
        let levels = (0..PLUS_LEVELS).map(|level| if bits >> level & 1 == 1 { "+" } else { "a" });
        tree.insert(&levels.collect::<Vec<_>>().join("/"), bits);
    }
    tree.insert(&format!("{}#", "a/".repeat(31)), 0);
    let name = "a/".repeat(31) + "a";
    let mut group = criterion.benchmark_group("worst_name");
    group.throughput(Throughput::Elements(tree.node_count() as u64));
    group.bench_function("every node", |bencher| {
        bencher.iter(|| {
            let mut sum = 0;
            tree.for_each_match(black_box(&name), |key| sum += key) + sum
        });
    });
    group.finish();
}

fn change(criterion: &mut Criterion) {
    let names: Vec<String> = (0..FILTERS).map(filter).collect();
    let mut group = criterion.benchmark_group("change");
    for (what, filter) in
        [("differs at once", "x/+".to_owned()), ("matches to its end", "+/".repeat(7) + "#")]
    {
        let mut name = names.iter().cycle();
        group.bench_function(what, |bencher| {
            bencher.iter(|| topic::matches(black_box(&filter), name.next().expect("a cycle")));
        });
    }
    group.finish();
}

/// A topic is made by its first publication, which nobody receives, in a home of so many: with a full one,
/// another is looked for that may go.
fn creation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("creation");
    for (what, topics_max) in [("with room", 1 << 24), ("instead of an idle one", 10_000)] {
        let mut home = Home::new(1, topics_max, 0, Encoding::COUNT, Budget::new(1 << 30));
        let mut deflater = Deflater::new(Settings { level: 1, bytes_min: 512, window_bits: 15 });
        let mut outboxes: Outboxes = vec![VecDeque::new()];
        let mut number = 0;
        group.bench_function(what, |bencher| {
            let name = || {
                number += 1;
                Arc::<str>::from(format!("room/{number}"))
            };
            let publish = |name: Arc<str>| {
                let name = TopicName::checked(&*name);
                home.handle_publish(
                    name,
                    Draft::anonymous(b"1", PayloadKind::Json),
                    1,
                    &mut deflater,
                    &mut outboxes,
                )
            };
            bencher.iter_batched(name, publish, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = nodes, worst_name, change, creation
}
criterion_main!(benches);
